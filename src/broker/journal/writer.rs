//! The thread: takes a group, writes it, says so; and what it does when it cannot.

use std::collections::HashSet;

use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use super::codec::{self, Now};
use super::pending::{Entry, Part, What};
use super::times::Moment;
use super::{AGAIN, Durable, Ending, GATHER, LAZY, LOOK, PATIENCE, Pending, Shared};
use crate::broker::stats::{Counters, Keeping};
use crate::broker::trie::Key;
use crate::message::{Change, Kept, Shelf, ShelfError};

/// What there is to do.
enum Next {
    /// To write this, under this number.
    Group(Pending, u64),
    /// Nothing, for [`LOOK`].
    Idle,
    /// Nothing any more.
    End,
}

/// How the shelf stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// It is what we wrote.
    Ours,
    /// It is not: a new one is begun. `all`: what waits is all there is, for nothing was taken from the old one.
    New { all: bool },
    /// It is a later version's, or was not read in time: it is not touched.
    Forbidden,
}

/// Runs until it is told to end, or nobody holds the journal any more.
pub(super) fn run(
    shared: &Shared,
    mut shelf: Box<dyn Shelf>,
    loaded: oneshot::Sender<Result<Kept, ShelfError>>,
) {
    let found = first(&mut *shelf, &loaded);
    let mut stand = match &found {
        Ok(_) => Stand::Ours,
        Err(ShelfError::Newer(_)) => Stand::Forbidden,
        Err(ShelfError::Damaged(_) | ShelfError::Disk(_)) => Stand::New { all: true },
    };
    if let Err(error) = &found {
        shared.fail(&error.to_string());
    }
    if loaded.send(found).is_err() && stand == Stand::Ours {
        // The start did not wait: nobody has what lies there. It is left for the next one.
        stand = Stand::Forbidden;
    }
    let (mut wait, mut written, mut pause) = (Duration::ZERO, Instant::now(), GATHER[0]);
    loop {
        let (group, number) = match shared.next((written, pause), wait) {
            Next::Group(group, number) => (group, number),
            Next::Idle => {
                if stand == Stand::Ours
                    && let Err(error) = shelf.look()
                {
                    shared.fail(&error.to_string());
                    (wait, written) = (AGAIN[0], Instant::now());
                }
                continue;
            }
            Next::End => return,
        };
        if stand == Stand::Forbidden {
            // It is not to be kept, and must not grow.
            shared.forget();
            continue;
        }
        if group.is_empty() && stand == Stand::Ours && wait.is_zero() {
            // It all came and went.
            shared.pass(number);
            continue;
        }
        let began = Instant::now();
        let done = write(shared, &mut *shelf, &group, &mut stand);
        written = Instant::now();
        pause = (written - began).clamp(GATHER[0], GATHER[1]);
        match done {
            Ok(()) => {
                shared.succeed(number, shelf.bytes());
                wait = Duration::ZERO;
            }
            Err(error) => {
                if matches!(error, ShelfError::Damaged(_)) {
                    stand = Stand::New { all: stand == Stand::New { all: true } };
                } else if matches!(error, ShelfError::Newer(_)) {
                    stand = Stand::Forbidden;
                }
                wait = (wait * 2).clamp(AGAIN[0], AGAIN[1]);
                shared.fail(&error.to_string());
                if shared.give_back(group) {
                    return tracing::error!(%error, "sessions and retained messages of the last moments are not kept");
                }
            }
        }
    }
}

/// What lies on the shelf. A disk that is out of order gets some time: what is not read now is not taken in later.
fn first(
    shelf: &mut dyn Shelf,
    wanted: &oneshot::Sender<Result<Kept, ShelfError>>,
) -> Result<Kept, ShelfError> {
    let began = Instant::now();
    loop {
        match shelf.load() {
            Err(ShelfError::Disk(_)) if began.elapsed() < PATIENCE - AGAIN[0] && !wanted.is_closed() => {
                std::thread::sleep(AGAIN[0] / 4);
            }
            found => return found,
        }
    }
}

fn write(
    shared: &Shared,
    shelf: &mut dyn Shelf,
    group: &Pending,
    stand: &mut Stand,
) -> Result<(), ShelfError> {
    if let Stand::New { all } = *stand {
        if let Some(name) = shelf.renew()? {
            tracing::error!(name, "what was kept of sessions is set aside, and begun anew");
        }
        *stand = Stand::Ours;
        if !all {
            shared.refill.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    shelf.look()?;
    shelf.reopen()?;
    let now = Now { moment: Moment::now(&*shared.clock), instant: Instant::now() };
    shelf.begin(group.grows())?;
    let mut bodies = HashSet::new();
    for (key, part) in &group.parts {
        write_part(shelf, *key, part, &now, &mut bodies)?;
    }
    for (topic, message) in &group.retained {
        let data = message.as_ref().map(|m| codec::body(m, &now));
        shelf.put(Change::Retained(topic, data.as_deref()))?;
    }
    shelf.put(Change::Mark(&codec::mark(&now.moment)))?;
    shelf.commit()
}

fn write_part(
    shelf: &mut dyn Shelf,
    key: Key,
    part: &Part,
    now: &Now,
    bodies: &mut HashSet<u64>,
) -> Result<(), ShelfError> {
    if part.dropped {
        shelf.put(Change::Drop(key))?;
    }
    if let Some(row) = &part.row {
        shelf.put(Change::Session(key, &codec::row(row, now)))?;
    }
    for (filter, options) in &part.filters {
        let data = options.as_ref().map(codec::options);
        shelf.put(Change::Filter(key, filter, data.as_deref()))?;
    }
    for (id, standing) in &part.ids {
        shelf.put(Change::Id(key, *id, *standing))?;
    }
    for (seq, entry) in &part.entries {
        let (session, seq) = (key, *seq);
        match entry {
            Entry::Remove => shelf.put(Change::Remove(session, seq))?,
            Entry::Released => shelf.put(Change::Released(session, seq))?,
            Entry::Put { what: What::Walk(walk), .. } => {
                shelf.put(Change::Entry { session, seq, body: 0, data: &codec::walk(walk) })?;
            }
            Entry::Put { what: What::Message(a, number), released, .. } => {
                let body = if *released { 0 } else { *number };
                if body > 0 && bodies.insert(body) {
                    shelf.put(Change::Body(body, &codec::body(&a.message, now)))?;
                }
                shelf.put(Change::Entry { session, seq, body, data: &codec::addressed(a) })?;
                if *released {
                    shelf.put(Change::Released(session, seq))?;
                }
            }
        }
    }
    Ok(())
}

impl Shared {
    /// The next group and its number, when its time has come. If `wait` is not nothing the disk is out of order: then after
    /// that time, whether there is something to write or not.
    fn next(&self, (written, pause): (Instant, Duration), wait: Duration) -> Next {
        let mut buffer = self.lock();
        let idle = Instant::now() + LOOK;
        loop {
            let now = Instant::now();
            let lazy = Duration::from_millis(self.lazy_ms.load(std::sync::atomic::Ordering::Relaxed));
            let due = match buffer.since {
                _ if !wait.is_zero() => Some(written + wait),
                None => None,
                Some(since) if buffer.urgent => Some((written + pause).min(since + LAZY)),
                Some(since) => Some((since + lazy).max(written + pause)),
            };
            match buffer.ending {
                Some(Ending::Abort) => return Next::End,
                Some(Ending::Close) if buffer.pending.is_empty() => return Next::End,
                Some(Ending::Close) => break,
                None if due.is_some_and(|due| due <= now) => break,
                None if idle <= now => return Next::Idle,
                None => {}
            }
            let sleep = due.map_or(idle, |due| due.min(idle)).saturating_duration_since(now);
            let woken = self.wake.wait_timeout(buffer, sleep);
            buffer = woken.map_or_else(|poisoned| poisoned.into_inner().0, |(buffer, _)| buffer);
        }
        let group = std::mem::take(&mut buffer.pending);
        let number = buffer.group;
        buffer.group += 1;
        (buffer.urgent, buffer.since, buffer.writing) = (false, None, Some(Instant::now()));
        self.bytes.store(0, std::sync::atomic::Ordering::Relaxed);
        Next::Group(group, number)
    }

    fn succeed(&self, number: u64, bytes: u64) {
        // Held to the end: who finds that the disk does not answer does so before or after.
        let mut buffer = self.lock();
        buffer.writing = None;
        Counters::add(&self.counters.keeping_commits, 1);
        self.counters.keeping_bytes.store(bytes, std::sync::atomic::Ordering::Relaxed);
        if self.durable.borrow().degraded {
            tracing::info!("sessions and retained messages are kept again");
            self.counters.keeping(Keeping::Ok, String::new());
        }
        self.durable.send_replace(Durable { through: number, degraded: false });
    }

    /// There was nothing to write.
    fn pass(&self, number: u64) {
        self.lock().writing = None;
        self.durable.send_modify(|durable| durable.through = number);
    }

    /// From now on nobody waits for the disk.
    pub(super) fn fail(&self, why: &str) {
        if !self.durable.borrow().degraded {
            tracing::error!(why, "sessions and retained messages live in memory for now");
        }
        Counters::add(&self.counters.keeping_failures, 1);
        self.counters.keeping(Keeping::Memory, why.to_owned());
        self.durable.send_modify(|durable| durable.degraded = true);
    }

    /// A group that failed is tried again, with what came since. `true`: not any more, this is the end.
    fn give_back(&self, mut group: Pending) -> bool {
        let mut buffer = self.lock();
        buffer.writing = None;
        group.absorb(std::mem::take(&mut buffer.pending));
        buffer.pending = group;
        buffer.since.get_or_insert_with(Instant::now);
        self.bytes.store(buffer.pending.bytes(), std::sync::atomic::Ordering::Relaxed);
        buffer.ending.is_some()
    }

    fn forget(&self) {
        let mut buffer = self.lock();
        buffer.writing = None;
        buffer.pending = Pending::default();
    }
}
