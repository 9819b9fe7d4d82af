//! The durable log: readings go in once, and stay until every uplink's broker acknowledged them.
//!
//! # What it promises
//! - [`Store::take`] numbers readings and returns at once, whatever the disk does (as long as there is a
//!   directory in RAM for the `head` file, as the unit file has it). At most `commit_interval` later they are **stored**: in a
//!   committed and synced transaction.
//! - A stored reading is lost by nothing but the limits the user set, and then each uplink that had not
//!   acknowledged it gets a loss record with the exact range, points and times. If the user wants it, the backlog is thinned
//!   before it is dropped: what stays is as it was taken, and what goes is declared with its exact count (`holes`).
//! - The numbers are a line from 1 over all epochs. For one uplink every number below the head is, at every instant, exactly one of
//!   delivered, queued, declared lost.
//! - Messages of other devices are records of the same line. One that an uplink does not forward is in none of its
//!   figures: neither taken, nor delivered, queued or lost (`post`, `account`). One that it does not want any more is declared (`wishes`).
//! - No number is given out twice, and each start is a new epoch, so a restored backup or a cloned card cannot repeat an identity.
//! - After `kill -9` what was taken and not yet stored is declared exactly; after a power cut with a bound: the
//!   most that was ever between taking and commit.
//! - An uplink gets the same content for the same number each time. What it was given before the clock was set, with a guessed
//!   time and `clock_unsynced`, stays so, and a *correction* says later how far the guess was off; it is kept until it is
//!   acknowledged. All else has its true time from the start. No step of the clock drops, reorders or delays anything.
//! - A database that is damaged, older than it should be, another gateway's, or gone is noticed, set aside, and what is missing
//!   declared. Only the directory itself can make the store live in RAM, and it goes on trying.
//! - While the disk is full, broken, read-only or gone, readings go on in a bounded ring, and the uplinks get them from
//!   there (`lend`), so live delivery does not wait for a disk. The store is back at most 5 s after the disk is.
//!
//! # What it does not
//! - A power cut in the middle of a burst larger than every one before it may take more than the bound says (the
//!   burst is committed early, so this is a matter of one commit).
//! - A disk that says that it synced and did not may lose what was stored. What the mark knew of it is declared; what was
//!   stored after the last mark (at most a minute) and exceeds the bound is not, because nothing outside knows of it.
//!   Its numbers may then be given out again, in another epoch.
//! - If the disk breaks *and then* the power goes, what was taken in between exceeds the declared bound. The same goes for
//!   a kill, if there is no directory in RAM for the `head` file and that cannot be written either.
//! - What an uplink acknowledged while the disk was out of order is remembered in RAM only: after a kill in that state it
//!   is among what is declared, as a bound.
//! - While the disk is out of order the backlog waits for it, and so does what is live behind a stored reading that was
//!   not read yet and is not of the last group. Nothing is lent before the clock of the boot is set, nor by a store that
//!   has found no disk since its start.
//! - A number that is acknowledged in the very moment in which a limit drops it may be declared lost although
//!   it arrived; never the other way round.
//! - What was thinned out counts as lost at once, but its record follows with the readings around it. After a roll-back
//!   it may be there again, and arrive.
//! - Readings of an earlier boot whose clock was never set cannot be placed any more: they go out as `clock_unsynced`, with the
//!   last guess of their boot, and are never corrected.
//! - A wall clock that was believed and then stepped was wrong before; what was placed by it stays where it is.
//! - A clock that is stepped more than 64 times in one boot while it is believed makes the store forget the oldest
//!   of these steps; a repeat from back then may have another time.
//! - What the local broker was shown before the clock was set is corrected there once, for whoever listens then.
//! - Numbers of messages are declared to every uplink where nobody can say whose they were: see `post`.
//! - Without any uplink the log is local history: the limits drop silently, nobody was owed anything. With
//!   uplinks, what all of them have passed stays as history for a while (`history`).
//!
//! # Uplinks that come and go
//! A new uplink begins with what another is still owed; where there was none, with the oldest reading of the last
//! stretch without holes. One that leaves the configuration holds no blocks any more; its position is kept for 30 days,
//! and if it comes back what it missed is declared (`purged`). Until then what is gone counts as lost in its account.
//!
//! # The parts
//! Pure: `ranges`, `account`, `times`, `release`, `epochs`, `loss`, `quota`, `recovery`, `since`, `commands`, `last`, `block`, `mail`, `exchange`, `tail`,
//! `thin`, `lend` and `post`. `schema`, `log` and `wal` are the SQL and `trouble` its errors, `identity` and `head` the files beside it, `ballast` what is kept for a
//! full disk, `state` what is shared, `placing` who is told which time, `start` and `newest` begin a life, `sound` and `salvage` see to a damaged database, `writer` is the
//! thread, `commit`, `mark`, `room`, `thinning`, `reader` and `reopen` are what it does, `holes` is the ledger of what was thinned, `backup` copies the database and
//! `restore` makes a copy ready, `port` is what an uplink holds, `history` what a person asks for.

mod account;
mod ageing;
mod backup;
mod ballast;
mod block;
#[cfg(test)]
mod block_tests;
mod commands;
mod commit;
mod drain;
mod epochs;
mod exchange;
mod head;
mod history;
mod holes;
mod identity;
mod inspect;
mod last;
mod later;
mod lend;
mod log;
mod loss;
mod mail;
mod mark;
mod names;
mod newest;
mod placing;
mod port;
mod post;
mod quota;
mod ranges;
mod reader;
mod recovery;
mod release;
mod reopen;
mod restore;
mod room;
mod salvage;
mod schema;
mod sessions;
mod since;
mod sound;
mod start;
mod state;
mod status;
mod tail;
#[cfg(test)]
mod tests;
mod thin;
mod thinning;
mod times;
mod trouble;
mod wal;
mod wishes;
mod writer;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, broadcast, oneshot, watch};

pub use backup::{Copied, Copy};
pub use commands::Begun;
pub use drain::{Chunk, Drain, DrainError, Ledger};
pub use exchange::{Exchange, Session, Step};
pub use identity::{seal, unseal};
pub use inspect::{AtRest, InspectedUplink, Inspection};
pub use post::Posted;
pub use restore::{Ending, Held, READY, Ready, Restorable};
pub use sessions::Sessions;
pub use start::PARKED_MS;
pub use status::StoreStatus;
pub use trouble::StoreError;
pub use wishes::Wishes;

use crate::bounds;
use crate::clock::Clock;
use crate::config::model;
use crate::message::{BootMs, CorrectionRecord, Epoch, Id, LossRecord, Moment, Reading, Record, WallMs};
use state::State;
use writer::{Job, Shared, Writer};

/// What a start found.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// Why the store lives in RAM for now, if it does.
    pub ram_only: Option<String>,
    /// Databases that were set aside, all that are still there.
    pub set_aside: Vec<String>,
    /// What this start declared lost.
    pub losses: Vec<LossRecord>,
    /// What the gateway was called until now, if that was something else.
    pub renamed_from: Option<String>,
}

/// The handle. Clones are the same store. When the last one is gone without [`Store::close`], it ends as if it
/// had been killed.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    jobs: SyncSender<Job>,
    permits: Semaphore,
    thread: Mutex<Option<JoinHandle<()>>>,
    ended: watch::Receiver<()>,
    at_start: Vec<Record>,
}

/// Identities that were given to readings: the first, and how many follow one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Of the first reading.
    pub first: Id,
    /// How many.
    pub count: u64,
}

impl Taken {
    /// The identities in the order of the readings.
    pub fn ids(self) -> impl Iterator<Item = Id> {
        (self.first.seq..self.first.seq + self.count).map(move |seq| Id { seq, ..self.first })
    }
}

/// The service's own directory in RAM, if the service manager gave one.
#[must_use]
pub fn run_directory() -> Option<PathBuf> {
    // systemd.exec(5): several directories are separated by colons. The first is as good as any.
    let given = std::env::var("RUNTIME_DIRECTORY").unwrap_or_default();
    given.split(':').next().filter(|path| path.starts_with('/')).map(PathBuf::from)
}

impl Store {
    /// Opens the log in `config.path`, for these uplinks. Blocks for the time of a few reads and one commit.
    ///
    /// # Errors
    /// The directory is another process's, or the database a later version's. A directory that cannot be
    /// created or written is no error: the store begins in RAM, says so, and tries again.
    pub fn open(
        config: &model::Store,
        uplinks: &[String],
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Recovery), StoreError> {
        Self::open_with(config, ("", uplinks), Wishes::new(), clock)
    }

    /// As [`Store::open`], for the gateway of this id, where uplinks want messages of other devices, too.
    ///
    /// # Errors
    /// The same.
    pub fn open_with(
        config: &model::Store,
        (gateway, uplinks): (&str, &[String]),
        wishes: Wishes,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Recovery), StoreError> {
        Self::open_beside(config, (gateway, uplinks, wishes), clock, run_directory())
    }

    /// As [`Store::open_with`], with a directory in RAM for the head file, or none.
    fn open_beside(
        config: &model::Store,
        (gateway, uplinks, wishes): (&str, &[String], Wishes),
        clock: Arc<dyn Clock>,
        run: Option<PathBuf>,
    ) -> Result<(Self, Recovery), StoreError> {
        let path = || config.path.display().to_string();
        let epoch = Epoch { start: 0, random: getrandom::u32().unwrap_or_else(|_| fastrand::u32(..)) };
        let boot = times::Boot::new(1, clock.boot_id(), clock.both(), Id { epoch, seq: 1 });
        let mut state = State::new(epoch, config.into(), uplinks, boot);
        state.wish(wishes);
        state.gateway = (!gateway.is_empty()).then(|| gateway.into());
        let shared = Arc::new(Shared::new(config.path.clone(), run, clock, state, bounds::STORE_EVENTS));
        let mut events = shared.events.subscribe();
        // Permits for questions, one place for a wake-up.
        let (jobs, questions) = mpsc::sync_channel(bounds::STORE_INBOX);
        let mut writer = Writer::new(Arc::clone(&shared), questions);
        let mut recovery = Recovery::default();
        match writer.begin() {
            Ok(()) => {}
            Err(start::Refused::InUse) => return Err(StoreError::InUse(path())),
            Err(start::Refused::Newer(schema)) => return Err(StoreError::Newer { path: path(), schema }),
            Err(refused) => {
                let why = refused.to_string();
                writer.fault(&refused.into());
                recovery.ram_only = writer.log.is_none().then_some(why);
            }
        }
        recovery.set_aside.clone_from(&shared.state().figures.set_aside);
        recovery.renamed_from = shared.state().epochs.renamed_from();
        loop {
            match events.try_recv() {
                Ok(record) => recovery.losses.push(record),
                // More than there is room for: the newest are still there.
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(_) => break,
            }
        }
        let at_start = writer.latest();
        let (alive, ended) = watch::channel(());
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                writer.run();
                drop(alive);
            })
            .map_err(|e| StoreError::Thread(e.to_string()))?;
        let permits = Semaphore::new(bounds::STORE_JOBS);
        let thread = Mutex::new(Some(thread));
        let inner = Inner { shared, jobs, permits, thread, ended, at_start };
        Ok((Self { inner: Arc::new(inner) }, recovery))
    }

    /// Numbers the readings, in order, and hands them to the writer. Never waits for the disk, if the service
    /// manager gives a directory in RAM (`$RUNTIME_DIRECTORY`); without one its 128 bytes for the page cache may
    /// wait for a sync of a card that hangs.
    ///
    /// The identities are those of the present epoch. (While the store has no disk since its start, they are
    /// those of an epoch 0; the readings get their place on the line, and a new identity, when it comes.)
    pub fn take(&self, readings: Vec<Reading>) -> Taken {
        self.take_and(readings, |_| ()).0
    }

    /// As [`Store::take`]; returns also where the moments of the readings lie on the true time line, each with
    /// whether that is believed. What is not can be put right later by [`Store::corrections`].
    pub fn take_placed(&self, readings: Vec<Reading>) -> (Taken, Vec<(WallMs, bool)>) {
        let times: Vec<BootMs> = readings.iter().map(|reading| reading.at).collect();
        let place = |state: &State| {
            // The state is made with its own boot, so it knows it.
            times.into_iter().map(|at| state.place(state.boot, at).unwrap_or_default()).collect()
        };
        self.take_and(readings, place)
    }

    fn take_and<T>(&self, readings: Vec<Reading>, look: impl FnOnce(&State) -> T) -> (Taken, T) {
        let shared = &self.inner.shared;
        let count = readings.len() as u64;
        let mut file = shared.head();
        let now = state::Tick::now();
        let (first, wake, lent, head, seen) = {
            let mut state = shared.state();
            let seen = look(&state);
            let (first, wake) = state.take(readings, now);
            let lent = state.lend(now);
            (first, wake, lent, shared.head_now(&state), seen)
        };
        if count > 0 {
            shared.write_head(&mut file, &head);
        }
        drop(file);
        if let Some(readable) = lent {
            shared.tell(readable);
        }
        if wake {
            self.inner.wake();
        }
        (Taken { first, count }, seen)
    }

    /// An uplink's end of the log; `None` if the uplink is not in the configuration.
    #[must_use]
    pub fn drain(&self, uplink: &str) -> Option<Arc<dyn Drain>> {
        let known = self.inner.shared.state().accounts.contains_key(uplink);
        known.then(|| {
            let port = port::Port { inner: Arc::clone(&self.inner), uplink: uplink.to_owned() };
            Arc::new(port) as Arc<dyn Drain>
        })
    }

    /// The epoch of what is taken now.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.inner.shared.state().epoch
    }

    /// How the store is.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        StoreStatus::of(&self.inner.shared.state(), self.inner.ended.has_changed().is_err())
    }

    /// Loss records from now on, as they are written down. A slow listener misses the oldest; the
    /// uplinks get all of them from the log.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<LossRecord> {
        self.inner.shared.events.subscribe()
    }

    /// Corrections of what was shown on the local broker before the clock was set, once that is known.
    #[must_use]
    pub fn corrections(&self) -> broadcast::Receiver<CorrectionRecord> {
        self.inner.shared.corrections.subscribe()
    }

    /// The latest stored value of each point as this start found it, in no order, one for each device and point:
    /// of those that [`Store::keep_last_values`] named last, of all that ever were if it was never called.
    /// After a crash those of seldom reported points may be up to ten minutes behind.
    #[must_use]
    pub fn last_values(&self) -> Vec<Record> {
        let known = self.inner.shared.state().known.clone();
        let wanted = |r: &&Record| known.as_ref().is_none_or(|known| last::is_known(known, r));
        self.inner.at_start.iter().filter(wanted).cloned().collect()
    }

    /// Names the points of the configuration (device, point), at the start and whenever it changed. The latest
    /// values of all others are forgotten: at once for [`Store::last_values`], on disk when they are next written.
    pub fn keep_last_values(&self, known: &HashSet<(String, String)>) {
        self.inner.shared.state().known = Some(Arc::new(known.clone()));
    }

    /// Where a moment of this boot is on the wall, by what readings of it are placed by: a clock that is wrong now, after it
    /// was right before, does not count.
    #[must_use]
    pub fn wall_of(&self, at: BootMs) -> WallMs {
        self.moment(at).ts
    }

    /// As [`Self::wall_of`], and whether the clock has been set in this boot at all.
    #[must_use]
    pub fn moment(&self, at: BootMs) -> Moment {
        let state = self.inner.shared.state();
        let unknown = || (self.inner.shared.clock.wall_of(at), false);
        let (ts, set) = state.place(state.boot, at).unwrap_or_else(unknown);
        Moment { ts, set }
    }

    /// What is known of a command by its key (its id and point, put together by whoever asks): `None` never seen, `Some(None)` begun, `Some(Some(json))` done.
    #[must_use]
    pub fn command_seen(&self, id: &str) -> Option<Option<String>> {
        self.inner.shared.state().commands.seen(id)
    }

    /// Notes that a command is about to be executed, and waits until that is durable (or the disk turns out to
    /// be out of order: a broken disk stops no command). Ids longer than
    /// [`bounds::STORE_COMMAND_TEXT`] must be refused before.
    pub async fn command_begin(&self, id: &str) -> Begun {
        let begun = {
            let mut state = self.inner.shared.state();
            state.dirty_since.get_or_insert_with(state::Tick::now);
            state.commands.begin(id)
        };
        if begun == Begun::Fresh {
            let (reply, answer) = oneshot::channel();
            // Failing means that the disk is out of order: the id is known in RAM at least.
            let _ = self.inner.ask(Job::Flush(reply), answer).await;
        }
        begun
    }

    /// Notes a command's result; durable with the next commit.
    pub fn command_done(&self, id: &str, result_json: &str) {
        {
            let mut state = self.inner.shared.state();
            state.commands.done(id, result_json);
            state.dirty_since.get_or_insert_with(state::Tick::now);
        }
        self.inner.wake();
    }

    /// Takes over changed limits, uplinks, and what these want of messages. The directory stays what it is until a restart.
    pub fn reconfigure(&self, config: &model::Store, uplinks: &[String], wishes: Wishes) {
        let now = account::parked_at(&*self.inner.shared.clock);
        {
            let mut state = self.inner.shared.state();
            state.limits = config.into();
            state.set_uplinks(uplinks, now);
            state.wish(wishes);
        }
        self.inner.wake();
    }

    /// Waits until everything that was taken before is durable.
    ///
    /// # Errors
    /// The disk is out of order.
    pub async fn flush(&self) -> Result<(), DrainError> {
        loop {
            let (reply, answer) = oneshot::channel();
            self.inner.ask(Job::Flush(reply), answer).await?;
            let state = self.inner.shared.state();
            if state.ring.is_empty() && state.hand.is_empty() && !state.post.is_waiting() {
                return Ok(());
            }
        }
    }

    /// Makes everything durable, marks the end as clean, and ends the thread. What is taken afterwards is lost.
    ///
    /// # Errors
    /// The disk is out of order: the next start declares what is missing.
    pub async fn close(self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let done = self.inner.ask(Job::Close(reply), answer).await;
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                return Err(StoreError::Close("its thread failed".into()));
            }
        }
        match done {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(StoreError::Close(why)),
            Err(gone) => Err(StoreError::Close(gone.to_string())),
        }
    }

    /// Returns when the store's thread has ended, in order or not. In a running daemon that is a fault.
    pub async fn ended(&self) {
        let mut ended = self.inner.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Writes the mark, which otherwise may be a minute old.
    #[cfg(test)]
    async fn mark(&self) {
        let (reply, answer) = oneshot::channel();
        self.inner.ask(Job::Mark(reply), answer).await.expect("the thread is there");
    }

    /// Ends at once as if killed, and waits for the thread.
    #[cfg(test)]
    fn crash(self) {
        let _ = self.inner.jobs.send(Job::Abort);
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            thread.join().expect("the thread ends");
        }
    }
}
