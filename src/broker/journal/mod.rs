//! Sessions and retained messages outlive the process: what has to be kept is gathered here, written by a thread of its own
//! in groups, and whoever must not speak before it is kept can wait for its group.
//!
//! # What it promises
//! - Nobody waits for the disk but those who asked to: the hub and the connections note what changed, and get the number of
//!   the group in which it will be. What is said to a client in that knowledge is said when the group is durable
//!   ([`Durable::has`]): PUBACK and PUBREC for a message that is kept for somebody, SUBACK, a PUBLISH with QoS 2, its
//!   PUBREL, and PUBCOMP.
//! - What one event changes is in one group, so it is there as a whole or not at all.
//! - A group for which somebody waits is written at once, or [`GATHER`] after the one before; one sync for all that came
//!   meanwhile. One for which nobody waits (messages of this process, wills, good-byes, what clients acknowledged), at the latest after
//!   [`Persistence::within`] and never later than [`LAZY`].
//! - A disk that is out of order (or does not answer for [`PATIENCE`]) lets everybody go on: nothing is kept meanwhile, that is
//!   said and counted, and what there is to keep is written when the disk is back.
//! - What waits for the disk is bounded: it is a net effect, so it is never more than the queues and the retained messages, which
//!   have limits; and above [`bounds::BROKER_JOURNAL`] whoever has an unanswered message is not read further.

pub mod codec;
mod pending;
#[cfg(test)]
mod tests;
pub mod times;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};
use tokio::time::{Duration, Instant};

use super::stats::{Counters, Keeping};
use crate::bounds;
use crate::clock::Clock;
use crate::message::{Docket, Kept, Shelf, ShelfError};
pub use pending::{Pending, What};

/// A group for which somebody waits begins as long after the one before as that took, within these bounds: the disk has half of
/// its time for others, a slow one gets larger groups, and a fast one at most 500 syncs a second. (With 20 messages under way one
/// publisher gets three times as far with 2 ms as with 10, for the same bytes written.)
const GATHER: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];
/// A group for which nobody waits is written so long after its first change at most; sooner if [`Persistence::within`] is shorter.
const LAZY: Duration = Duration::from_secs(1);
/// A disk that takes longer for a group than this is out of order.
const PATIENCE: Duration = Duration::from_secs(4);
/// Between two tries on a disk that is out of order, at first and at most.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// While nothing is to be written, it is seen after the file so often.
const LOOK: Duration = Duration::from_secs(2);
/// How long a start waits for what was kept.
const START: Duration = Duration::from_secs(4);
/// While somebody is connected whose session is kept, a sign of life is written so often.
pub const ALIVE: Duration = Duration::from_secs(600);

/// Where sessions and retained messages are kept.
pub struct Persistence {
    /// The place.
    pub shelf: Box<dyn Shelf>,
    /// The clock that says how long the process was away.
    pub clock: Arc<dyn Clock>,
    /// What nobody waits for is written so long after it happened, or [`LAZY`] after it if that is sooner: the interval in which the log
    /// commits readings, so that a power cut takes no more of the one than of the other.
    pub within: Duration,
    /// The last docket that the log has of the process before; see `handing`.
    pub logged: Option<Docket>,
}

impl std::fmt::Debug for Persistence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Persistence").finish_non_exhaustive()
    }
}

/// How far the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    through: u64,
    /// The disk is out of order: nobody is to wait for it.
    pub degraded: bool,
}

impl Durable {
    /// Whether nobody has to wait for this group; 0 is none.
    #[must_use]
    pub fn has(&self, group: u64) -> bool {
        self.degraded || group <= self.through
    }

    /// Whether nobody has to wait, although it is not there.
    #[must_use]
    pub fn is_excused(&self, group: u64) -> bool {
        self.degraded && group > self.through
    }
}

/// The number of what was there at the start: durable.
pub const BEFORE: u64 = 1;

#[derive(Debug)]
struct Shared {
    buffer: Mutex<Buffer>,
    wake: Condvar,
    durable: watch::Sender<Durable>,
    /// Bytes of what waits, for those who may not take the lock for it.
    bytes: AtomicUsize,
    counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
    /// The shelf is empty although we are not: everything must be noted again.
    refill: AtomicBool,
    /// How long a group waits for which nobody does, in milliseconds.
    lazy_ms: AtomicU64,
}

#[derive(Debug)]
struct Buffer {
    pending: Pending,
    /// The number of the group that `pending` will be.
    group: u64,
    /// Somebody waits for it.
    urgent: bool,
    /// When its first change came.
    since: Option<Instant>,
    /// When the group before it went to the disk, if it is not back.
    writing: Option<Instant>,
    ending: Option<Ending>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Write what there is, and end.
    Close,
    /// End as if killed.
    Abort,
}

/// A handle. When the last one is gone without [`Journal::close`], it ends as if it had been killed.
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    life: Arc<Life>,
}

#[derive(Debug)]
struct Life {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.shared.lock().ending.get_or_insert(Ending::Abort);
        self.shared.wake.notify_one();
    }
}

fn lazy_ms(within: Duration) -> u64 {
    u64::try_from(within.min(LAZY).as_millis()).unwrap_or(u64::MAX)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal {
    /// Starts the thread and waits for what was kept: at most [`START`], for a gateway starts with any disk.
    ///
    /// # Errors
    /// In words, why there is nothing. The journal is there all the same; it tries to begin anew if that is not forbidden.
    pub(super) async fn start(
        persistence: Persistence,
        counters: Arc<Counters>,
    ) -> (Self, Result<Kept, String>) {
        let Persistence { shelf, clock, within, logged: _ } = persistence;
        let buffer = Buffer {
            pending: Pending::default(),
            group: BEFORE + 1,
            urgent: false,
            since: None,
            writing: None,
            ending: None,
        };
        let (durable, _) = watch::channel(Durable { through: BEFORE, degraded: false });
        let shared = Arc::new(Shared {
            buffer: Mutex::new(buffer),
            wake: Condvar::new(),
            durable,
            bytes: AtomicUsize::new(0),
            counters,
            clock,
            refill: AtomicBool::new(false),
            lazy_ms: AtomicU64::new(lazy_ms(within)),
        });
        let (loaded, kept) = oneshot::channel();
        let of = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("sessions".into())
            .spawn(move || writer::run(&of, shelf, loaded))
            .inspect_err(|error| shared.fail(&error.to_string()));
        let kept = match tokio::time::timeout(START, kept).await {
            Ok(Ok(kept)) => kept.map_err(|e: ShelfError| e.to_string()),
            Ok(Err(_)) => Err("its thread does not run".to_owned()),
            Err(_) => {
                shared.fail("the disk does not answer");
                Err("the disk does not answer".to_owned())
            }
        };
        if kept.is_ok() {
            shared.counters.keeping(Keeping::Ok, String::new());
        }
        let life = Arc::new(Life { shared: Arc::clone(&shared), thread: Mutex::new(thread.ok()) });
        (Self { shared, life }, kept)
    }

    /// Notes what changed, all in one group, and returns its number. `urgent`: somebody will wait for it.
    pub fn note<T>(&self, urgent: bool, change: impl FnOnce(&mut Pending) -> T) -> (u64, T) {
        let mut buffer = self.shared.lock();
        let done = change(&mut buffer.pending);
        self.shared.bytes.store(buffer.pending.bytes(), Relaxed);
        let first = buffer.since.is_none();
        if first {
            buffer.since = Some(Instant::now());
        }
        if first || (urgent && !buffer.urgent) {
            buffer.urgent |= urgent;
            self.shared.wake.notify_one();
        }
        (buffer.group, done)
    }

    /// The group after which everything that was noted until now is durable. Somebody will wait for it.
    #[must_use]
    pub fn fence(&self) -> u64 {
        let mut buffer = self.shared.lock();
        if buffer.pending.is_empty() {
            return buffer.group - 1;
        }
        buffer.urgent = true;
        self.shared.wake.notify_one();
        buffer.group
    }

    /// How far the disk is, as it changes.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.subscribe()
    }

    /// So much waits for the disk that whoever waits for it, too, may not add to it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.bytes.load(Relaxed) > bounds::BROKER_JOURNAL
    }

    /// From now on what nobody waits for is written within this time.
    pub fn within(&self, within: Duration) {
        self.shared.lazy_ms.store(lazy_ms(within), Relaxed);
    }

    /// The clock of what is written.
    #[must_use]
    pub fn now(&self) -> codec::Now {
        codec::Now { moment: times::Moment::now(&*self.shared.clock), instant: Instant::now() }
    }

    /// Notices a disk that does not answer by `now`. To be called every second or so.
    pub fn look(&self, now: Instant) {
        let buffer = self.shared.lock();
        let stuck = buffer.writing.is_some_and(|since| now.saturating_duration_since(since) > PATIENCE);
        let degraded = self.shared.durable.borrow().degraded;
        if stuck && !degraded {
            self.shared.fail("the disk does not answer");
        }
        // Whoever waits for a thread that is gone would wait for ever.
        let thread = self.life.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if !degraded && buffer.ending.is_none() && thread.as_ref().is_some_and(JoinHandle::is_finished) {
            self.shared.fail("its thread has ended");
        }
    }

    /// Whether everything has to be noted again, for a new shelf was begun. Says it once.
    #[must_use]
    pub fn wants_all(&self) -> bool {
        self.shared.refill.swap(false, Relaxed)
    }

    /// Writes what there is and ends the thread. Blocks; at most as long as the disk does.
    pub fn close(&self) {
        self.shared.lock().ending.get_or_insert(Ending::Close);
        self.shared.wake.notify_one();
        let thread = self.life.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that keeps sessions failed");
        }
    }
}
