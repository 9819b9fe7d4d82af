//! Coming back after a fault: the database is opened again and compared with what is known in RAM, since nobody knows
//! what of the last commit took place.
//!
//! Promises: what is in hand is committed once, whether the commit that failed took place or not; what is gone is
//! declared; what is damaged is set aside. A directory that was removed is made again, with its lock, its word and its
//! head file. But one whose file system is not mounted is waited for: what lies there is not gone.

use std::time::Duration;

use super::head::Homes;
use super::identity;
use super::log::Log;
use super::loss::Facts;
use super::ranges::RangeSet;
use super::recovery::Line;
use super::salvage;
use super::sound;
use super::state::{Phase, Tick};
use super::trouble::Trouble;
use super::writer::Writer;
use crate::message::LossReason;

impl Writer {
    /// Tries it; a fault of the trying is noted as one.
    pub(super) fn come_back(&mut self) {
        self.observe_clock();
        self.shared.state().busy_since = Some(Tick::now());
        let done = if self.homes.is_none() { self.begin().map_err(Trouble::from) } else { self.reopen() };
        match done {
            Ok(()) if self.log.is_some() => {
                tracing::info!("the store writes again");
                self.backoff.reset();
                let mut state = self.shared.state();
                state.phase = Phase::Ok;
            }
            Ok(()) => self.shared.state().busy_since = None,
            Err(trouble) => self.fault(&trouble),
        }
    }

    /// Opens the database again and compares it with what is known in RAM.
    fn reopen(&mut self) -> Result<(), Trouble> {
        self.hold()?;
        let replaced = if self.damaged {
            drop(sound::replace(&self.shared.dir, salvage::RUNNING)?);
            true
        } else {
            self.unread.is_bad() && sound::replace_if_saved(&self.shared.dir, salvage::RUNNING).is_ok()
        };
        self.damaged = false;
        if self.unread.is_bad() {
            self.unread = salvage::Unread::default();
        }
        let (mut log, bad) = sound::open(&self.shared.dir)?;
        let replaced = replaced || bad.is_some_and(|name| !name.starts_with(identity::WAL));
        log.settle()?;
        let mut line: Option<Line> = log.state("line")?;
        if line.as_ref().is_some_and(|l| l.home != 0 && l.home != self.line.home) {
            drop(log);
            let name = identity::set_aside(&self.shared.dir, identity::DATABASE)?;
            tracing::error!(name, "a database of another data directory is set aside");
            (log, line) = (Log::open(&identity::database(&self.shared.dir))?, None);
        }
        let same = line.as_ref().filter(|l| l.epoch == self.line.epoch);
        let set_aside = identity::all_set_aside(&self.shared.dir);
        self.shared.state().figures.set_aside = set_aside;
        let applied = same.is_some_and(|l| Some(l.commit) == self.attempted);
        let ours = same.is_some_and(|l| l.commit == self.line.commit);
        if let Some(line) = line.clone().filter(|_| applied) {
            self.committed(line, Duration::ZERO);
        }
        if replaced || !(applied || ours) {
            self.differs(&log, line.as_ref(), replaced)?;
        }
        self.log = Some(log);
        self.attempted = None;
        self.mark_due = Tick::now();
        self.commit(false)
    }

    /// Sees to it that the directory is there, is ours and is locked.
    fn hold(&mut self) -> Result<(), Trouble> {
        let dir = &self.shared.dir;
        let elsewhere =
            self.device.is_some_and(|device| identity::device(dir).is_some_and(|now| now != device));
        if elsewhere && identity::word_in(dir) != Some(self.line.home) {
            // It can be checked and mounted again only when nobody has a file of it open.
            self.lock = None;
            *self.shared.head() = None;
            return Err(Trouble::Disk(format!(
                "the file system of `{}` is gone; mount it again (or restart, to begin a new queue where it is not)",
                dir.display()
            )));
        }
        std::fs::create_dir_all(dir)?;
        if self.lock.as_ref().is_some_and(|lock| identity::is_lock_of(lock, dir)) {
            return Ok(());
        }
        let lock = identity::lock(dir)?;
        if identity::home(&lock).is_none() {
            identity::set_home(&lock, self.line.home)?;
        }
        let homes = Homes::new(dir, &lock, self.shared.run.as_deref());
        {
            let mut file = self.shared.head();
            let head = self.shared.head_now(&self.shared.state());
            *file = homes.create(&head).ok();
        }
        self.device = identity::device(dir);
        (self.lock, self.homes, self.marked) = (Some(lock), Some(homes), None);
        Ok(())
    }

    /// The database is another one than we wrote: what is missing is declared, the rest of what we know
    /// is written again.
    fn differs(&mut self, log: &Log, line: Option<&Line>, damaged: bool) -> Result<(), Trouble> {
        let there: RangeSet = match line {
            Some(line) => line.present.clone(),
            None => log.scan()?.into_iter().collect(),
        };
        let older = line.is_some() && !damaged;
        let reason = if older { LossReason::Rollback } else { LossReason::Corrupt };
        let mut state = self.shared.state();
        state.thinned.forget();
        for part in state.present.minus(&there) {
            state.present.remove(part.clone());
            state.lose(part, reason, false, &Facts::default());
        }
        for part in there.minus(&state.present) {
            self.doomed.insert(part);
        }
        let names: Vec<String> = state.accounts.keys().cloned().collect();
        for name in names {
            let mut records = log.losses(&name, usize::MAX >> 1)?;
            // Those that no commit has brought yet are still in hand.
            records.extend(self.records.iter().filter(|r| r.uplink == name).map(|r| (0, r.clone())));
            state.declare_again(&name, &records, reason);
        }
        state.commands.all_unsaved();
        self.saved.clear();
        self.saved_boots.clear();
        self.epochs_saved = false;
        self.latest_due = Tick::now();
        self.line.commit = self.line.commit.max(line.map_or(0, |l| l.commit)) + 1;
        self.line.next_loss = self.line.next_loss.max(log.next_loss()?);
        Ok(())
    }
}
