//! The store's thread: commits in groups, answers questions, and comes back after a fault.
//!
//! It owns the only connection. Everybody else asks through one bounded channel or through the shared
//! state. After an error of the database the connection is closed; at most 4 s later it is opened again,
//! compared with what is known in RAM, and the group that was in hand is committed then, once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, oneshot, watch};

use super::account::Account;
use super::ageing::Leap;
use super::ballast::Ballast;
use super::drain::{Chunk, DrainError};
use super::head::{Head, HeadFile, Homes};
use super::identity::{self, Mark};
use super::last::Latest;
use super::log::{Log, Row};
use super::ranges::RangeSet;
use super::recovery::Line;
use super::start::{self, Disk};
use super::state::{Phase, State, Tick};
use super::tail::Tail;
use super::thinning::Thinner;
use super::times::Boot;
use super::trouble::Trouble;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::message::{BootMs, CorrectionRecord, Entry, LossRecord, WallMs};

/// What both sides hold.
#[derive(Debug)]
pub struct Shared {
    /// The data directory.
    pub dir: PathBuf,
    /// A directory of this service in RAM, if there is one.
    pub run: Option<PathBuf>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    state: Mutex<State>,
    head: Mutex<Option<HeadFile>>,
    /// One past the highest number that may be read: durable, or lent.
    pub readable: watch::Sender<u64>,
    /// Loss records as they are written down.
    pub events: broadcast::Sender<LossRecord>,
    /// What was shown on the local broker before the clock was set, once that is known.
    pub corrections: broadcast::Sender<CorrectionRecord>,
    /// A wake-up is on its way.
    pub waking: AtomicBool,
}

impl Shared {
    /// Puts the parts together.
    pub fn new(
        dir: PathBuf,
        run: Option<PathBuf>,
        clock: Arc<dyn Clock>,
        state: State,
        events: usize,
    ) -> Self {
        Self {
            dir,
            run,
            clock,
            state: Mutex::new(state),
            head: Mutex::new(None),
            readable: watch::Sender::new(1),
            events: broadcast::Sender::new(events),
            corrections: broadcast::Sender::new(events),
            waking: AtomicBool::new(false),
        }
    }

    /// The state. Held for arithmetic only.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The head file. Locked before the state, so that its writes are in order.
    pub fn head(&self) -> MutexGuard<'_, Option<HeadFile>> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the head into the page cache; a failure is counted, and the writer tries to mend it.
    pub fn write_head(&self, file: &mut Option<HeadFile>, head: &Head) {
        if let Some(open) = file
            && let Err(error) = open.write(head)
        {
            tracing::warn!(%error, "the head file cannot be written; after a kill the loss is a bound");
            *file = None;
            self.state().figures.head_failures += 1;
        }
    }

    /// The head as it is now.
    pub fn head_now(&self, state: &State) -> Head {
        let boot_id = self.clock.boot_id().to_owned();
        Head { epoch: state.epoch, next: state.next, stored: state.proven, lent: state.readable, boot_id }
    }

    /// So far may be read.
    pub fn tell(&self, readable: u64) {
        self.readable.send_if_modified(|n| readable > std::mem::replace(n, readable.max(*n)));
    }
}

/// A question to the thread.
#[derive(Debug)]
pub enum Job {
    /// Look at the ring.
    Wake,
    /// Records of a range, as this uplink is to be told them, or as they are known now.
    Read(Option<String>, Range<u64>, usize, oneshot::Sender<Result<Chunk, DrainError>>),
    /// Undelivered corrections of an uplink.
    Corrections(String, usize, oneshot::Sender<Result<Vec<(u64, CorrectionRecord)>, DrainError>>),
    /// Numbers of a stretch of time.
    Stretch(Range<WallMs>, oneshot::Sender<Result<Vec<Range<u64>>, DrainError>>),
    /// Undelivered loss records of an uplink.
    Losses(String, usize, oneshot::Sender<Result<Vec<(u64, LossRecord)>, DrainError>>),
    /// Commit what is there; answered when it is durable, dropped when that fails.
    Flush(oneshot::Sender<()>),
    /// Commit the small state, answered as above; readings wait for their group, unless that is due.
    Settle(oneshot::Sender<()>),
    /// Begin a copy of the database, or a piece of it.
    Copy(super::backup::Ask),
    /// Last commit, clean mark, end.
    Close(oneshot::Sender<Result<(), String>>),
    /// Write the mark now: for tests.
    #[cfg(test)]
    Mark(oneshot::Sender<()>),
    /// End as if killed: for tests.
    #[cfg(test)]
    Abort,
}

/// A group that is packed and not yet known to be durable.
#[derive(Debug)]
pub(super) struct Hand {
    pub range: Range<u64>,
    pub entries: Arc<Vec<Entry>>,
    /// Empty: to be packed (again).
    pub blocks: Vec<(Row, Vec<u8>)>,
    /// The last of the blocks, if it may grow.
    pub tail: Option<Tail>,
}

/// The thread's own state.
#[derive(Debug)]
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    jobs: Receiver<Job>,
    pub(super) log: Option<Log>,
    pub(super) lock: Option<File>,
    /// The file system it is on.
    pub(super) device: Option<u64>,
    /// Where the head file may be, as long as the lock is held.
    pub(super) homes: Option<Homes>,
    pub(super) line: Line,
    /// Commit number of a commit of unknown outcome.
    pub(super) attempted: Option<u64>,
    pub(super) hand: Option<Hand>,
    /// The newest block of the database, if it may grow.
    pub(super) tail: Option<Tail>,
    /// Losses that are declared and not yet known to be durable.
    pub(super) records: Vec<LossRecord>,
    /// Blocks that must go with the next commit.
    pub(super) doomed: RangeSet,
    /// What the database holds of the small state.
    pub(super) saved: BTreeMap<String, Account>,
    pub(super) saved_boots: BTreeMap<u32, Boot>,
    pub(super) epochs_saved: bool,
    /// Loss records an uplink has in hand: not merged into any more.
    pub(super) handed: HashMap<String, BTreeSet<u64>>,
    pub(super) latest: Latest,
    pub(super) latest_due: Tick,
    pub(super) cache: super::reader::Cache,
    /// More passed blocks wait to be removed.
    pub(super) sweep: bool,
    /// When history is looked through next for what has become too old.
    pub(super) sweep_due: BootMs,
    pub(super) leap: Option<Leap>,
    pub(super) thinner: Thinner,
    pub(super) damaged: bool,
    pub(super) unread: super::salvage::Unread,
    /// The commit at hand leaves the readings where they are.
    pub(super) sparing: bool,
    /// Bytes of blocks that go with the next commit because there is no room for them.
    pub(super) doomed_bytes: u64,
    pub(super) ballast: Ballast,
    pub(super) backoff: Backoff,
    retry_at: Tick,
    pub(super) mark_due: Tick,
    pub(super) marked: Option<Mark>,
}

/// How often the latest values are written.
pub(super) const LATEST_EVERY: Duration = Duration::from_secs(600);
/// First wait after a fault; tests make thousands of faults.
const FIRST_RETRY: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });
/// Longest wait: with the time of the trying itself the store is back within 5 s.
const LAST_RETRY: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 4000 });
/// Longest sleep of the thread.
const IDLE: Duration = Duration::from_secs(60);
/// The same while the clock is not set: uplinks may wait for it.
const UNSET: Duration = Duration::from_secs(1);

impl Writer {
    /// A writer without a disk; [`Writer::begin`] or a retry finds it.
    pub fn new(shared: Arc<Shared>, jobs: Receiver<Job>) -> Self {
        let now = Tick::now();
        let ballast = Ballast::new(&shared.dir);
        let line = Line { next: 1, next_loss: 1, ..Line::default() };
        Self {
            shared,
            jobs,
            log: None,
            lock: None,
            device: None,
            homes: None,
            line,
            attempted: None,
            hand: None,
            tail: None,
            records: Vec::new(),
            doomed: RangeSet::default(),
            saved: BTreeMap::new(),
            saved_boots: BTreeMap::new(),
            epochs_saved: false,
            handed: HashMap::new(),
            latest: Latest::default(),
            latest_due: now + LATEST_EVERY,
            cache: super::reader::Cache::default(),
            sweep: false,
            sweep_due: BootMs::default(),
            leap: None,
            thinner: Thinner::default(),
            damaged: false,
            unread: super::salvage::Unread::default(),
            sparing: false,
            doomed_bytes: 0,
            ballast,
            backoff: Backoff::new(FIRST_RETRY, LAST_RETRY).expect("100 ms is shorter than 4 s"),
            retry_at: now,
            mark_due: now,
            marked: None,
        }
    }

    /// Takes the directory, adopts what is there, and makes the new epoch durable.
    ///
    /// # Errors
    /// Why the directory cannot be used now; the state in RAM is as before.
    pub fn begin(&mut self) -> Result<(), start::Refused> {
        let mut disk: Disk = start::look(&self.shared.dir, self.shared.run.as_deref(), &*self.shared.clock)?;
        // Before anything is said of it elsewhere: what is read may be in the page cache only.
        let settled = disk.log.settle();
        let random = getrandom::u32().unwrap_or_else(|_| fastrand::u32(..));
        let set_aside = identity::all_set_aside(&self.shared.dir);
        {
            let mut file = self.shared.head();
            let mut state = self.shared.state();
            disk.adopt_into(&mut state, random, &*self.shared.clock);
            state.figures.set_aside = set_aside;
            state.phase = Phase::Ok;
            match settled {
                Ok(()) => state.post.found = disk.line.as_ref().and_then(|line| line.docket),
                Err(_) => state.proven = disk.marked(),
            }
            self.line.epoch = [state.epoch.start, state.epoch.random];
            let head = self.shared.head_now(&state);
            drop(state);
            // Numbers may be given out from here on.
            *file = disk.homes.create(&head).ok();
        }
        if let Some(line) = &disk.line {
            (self.line.commit, self.line.docket) = (line.commit, line.docket);
            self.line.lives.clone_from(&line.lives);
        } else if let Some(mark) = &disk.mark {
            self.line.lives = mark.lives.clone();
        }
        self.line.next_loss = disk.next_loss;
        self.line.home = disk.home;
        self.latest = disk.latest;
        self.log = Some(disk.log);
        self.lock = Some(disk.lock);
        self.device = identity::device(&self.shared.dir);
        self.homes = Some(disk.homes);
        self.look_at_ballast();
        match settled.and_then(|()| self.commit(false)) {
            // Not before: a mark of an epoch that the database does not know says that it was rolled back.
            Ok(()) => self.write_mark(false),
            Err(trouble) => self.fault(&trouble),
        }
        Ok(())
    }

    /// The latest value of each point, as of now.
    #[must_use]
    pub fn latest(&self) -> Vec<crate::message::Record> {
        self.latest.iter().cloned().collect()
    }

    /// Runs until it is closed or nobody can ask any more (which is like being killed).
    pub fn run(mut self) {
        loop {
            let job = self.jobs.recv_timeout(self.patience());
            match job {
                Ok(Job::Close(reply)) => {
                    let _ = reply.send(self.close().map_err(|t| t.to_string()));
                    return;
                }
                Ok(Job::Wake) => {
                    self.shared.waking.store(false, Ordering::Release);
                    self.settle_in_time();
                }
                Ok(Job::Read(uplink, range, most, reply)) => {
                    let _ = reply.send(self.answer(|w| w.read(uplink.as_deref(), range, most)));
                }
                Ok(Job::Corrections(uplink, most, reply)) => {
                    let _ = reply.send(self.answer(|w| w.corrections(&uplink, most)));
                }
                Ok(Job::Stretch(time, reply)) => {
                    let _ = reply.send(self.answer(|w| w.stretch(&time)));
                }
                Ok(Job::Losses(uplink, most, reply)) => {
                    let _ = reply.send(self.answer(|w| w.losses(&uplink, most)));
                }
                Ok(Job::Copy(ask)) => self.copy(ask),
                Ok(Job::Flush(reply)) => self.flush(reply),
                Ok(Job::Settle(reply)) => {
                    // Readings that came sooner would be sent sooner, which takes a step more, and so on: the
                    // commits would follow each other as fast as the disk can.
                    self.sparing = !self.shared.state().ring_is_due(Tick::now());
                    self.flush(reply);
                    self.sparing = false;
                }
                #[cfg(test)]
                Ok(Job::Mark(reply)) => {
                    self.write_mark(false);
                    let _ = reply.send(());
                }
                #[cfg(test)]
                Ok(Job::Abort) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.tend();
        }
    }

    pub(super) fn answer<T>(
        &mut self,
        ask: impl FnOnce(&mut Self) -> Result<T, Trouble>,
    ) -> Result<T, DrainError> {
        if self.log.is_none() {
            return Err(DrainError("the disk is out of order".into()));
        }
        ask(self).map_err(|trouble| {
            self.fault(&trouble);
            DrainError(trouble.to_string())
        })
    }

    fn flush(&mut self, reply: oneshot::Sender<()>) {
        if self.log.is_none() {
            return;
        }
        if let Err(trouble) = self.commit(false) {
            self.fault(&trouble);
        }
        // Where room was made the commit is through all the same.
        if self.log.is_some() {
            let _ = reply.send(());
        }
    }

    /// How long nothing is due.
    fn patience(&self) -> Duration {
        let now = Tick::now();
        if self.log.is_none() {
            return self.retry_at.saturating_duration_since(now);
        }
        let idle = if self.shared.state().is_set() { IDLE } else { UNSET };
        let due = self.group_due().into_iter().chain([self.mark_due, now + idle]).min();
        due.map_or(IDLE, |due| due.saturating_duration_since(now))
    }

    /// When the next commit is due.
    fn group_due(&self) -> Option<Tick> {
        let state = self.shared.state();
        let since = state.ring_since.into_iter().chain(state.dirty_since).min()?;
        let full = state.ring.len() >= crate::bounds::STORE_GROUP
            || state.bound > state.bound_saved
            || state.post.is_urgent();
        Some(if full || self.hand.is_some() { since } else { since + state.limits.commit_interval })
    }

    fn tend(&mut self) {
        let now = Tick::now();
        // Commits look at the clock as well, but uplinks may wait for it, and without a disk there are none.
        if self.log.is_none() || !self.shared.state().is_set() {
            self.observe_clock();
        }
        if self.log.is_none() {
            if now >= self.retry_at {
                self.come_back();
            }
            return;
        }
        let due = self.hand.is_some() || self.group_due().is_some_and(|due| due <= now);
        if due && let Err(trouble) = self.commit(false) {
            self.fault(&trouble);
            return;
        }
        self.tend_ballast(now);
        let short = self.marked.as_ref().is_some_and(|m| self.shared.state().next > m.reserved);
        if short || now >= self.mark_due {
            self.write_mark(false);
        }
    }

    /// The connection is not used again.
    pub(super) fn fault(&mut self, trouble: &Trouble) {
        self.note_damage(trouble);
        self.log = None;
        self.cache.clear();
        self.thinning_failed();
        // What the database holds is not known any more: the hand is packed by itself.
        self.tail = None;
        if let Some(hand) = &mut self.hand {
            hand.blocks.clear();
        }
        if self.relieve(trouble) {
            return self.come_back();
        }
        let wait = self.backoff.next(fastrand::f64());
        self.retry_at = Tick::now() + wait;
        let mut file = self.shared.head();
        let mut state = self.shared.state();
        let why = trouble.to_string();
        match &state.phase {
            Phase::Fault(said) if *said != why => tracing::warn!(%trouble, "the store still cannot write"),
            Phase::Fault(_) => {}
            Phase::Ok | Phase::Closed => {
                tracing::error!(%trouble, "the store cannot write; readings are kept in RAM");
            }
        }
        state.phase = Phase::Fault(why);
        state.busy_since = None;
        let lent = state.lend(Tick::now());
        let head = self.shared.head_now(&state);
        drop(state);
        if let Some(readable) = lent {
            self.shared.write_head(&mut file, &head);
            self.shared.tell(readable);
        }
    }

    /// Everything durable, the line marked clean, the WAL written back.
    fn close(&mut self) -> Result<(), Trouble> {
        if self.log.is_none() {
            self.come_back();
        }
        if self.log.is_none() {
            return Err(Trouble::Disk("the disk is out of order; what is in RAM is lost".into()));
        }
        self.latest_due = Tick::now();
        loop {
            self.commit(false)?;
            let state = self.shared.state();
            if state.ring.is_empty() && !state.post.is_waiting() {
                break;
            }
        }
        self.commit(true)?;
        self.write_mark(true);
        if let Some(log) = self.log.take() {
            log.close()?;
        }
        self.shared.state().phase = Phase::Closed;
        Ok(())
    }
}
