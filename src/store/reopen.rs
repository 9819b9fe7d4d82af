//! Coming back after a fault: the database is opened again and compared with what is known in RAM, since nobody knows
//! what of the last commit took place.
//!
//! Promises: what is in hand is committed once, whether the commit that failed took place or not; what is gone is
//! declared; what is damaged is set aside.

use std::time::Duration;

use super::identity;
use super::log::Log;
use super::loss::Facts;
use super::ranges::RangeSet;
use super::recovery::Line;
use super::schema::Trouble;
use super::start;
use super::state::{Phase, Tick};
use super::writer::Writer;
use crate::message::LossReason;

impl Writer {
    /// Tries it; a fault of the trying is noted as one.
    pub(super) fn come_back(&mut self) {
        let done = if self.lock.is_none() {
            self.begin().map_err(|refused| Trouble::Disk(refused.to_string()))
        } else {
            self.reopen()
        };
        match done {
            Ok(()) if self.log.is_some() => {
                tracing::info!("the store writes again");
                self.backoff.reset();
                let mut state = self.shared.state();
                state.phase = Phase::Ok;
            }
            Ok(()) => {}
            Err(trouble) => self.fault(&trouble),
        }
    }

    /// Opens the database again and compares it with what is known in RAM.
    fn reopen(&mut self) -> Result<(), Trouble> {
        std::fs::create_dir_all(&self.shared.dir)?;
        if self.damaged {
            let name = identity::set_aside(&self.shared.dir, identity::DATABASE)?;
            tracing::error!(name, "the damaged database is set aside");
            self.damaged = false;
        }
        let (log, _) = start::open_or_set_aside(&self.shared.dir)?;
        let line: Option<Line> = log.state("line")?;
        let same = line.as_ref().filter(|l| l.epoch == self.line.epoch);
        let set_aside = identity::all_set_aside(&self.shared.dir);
        self.shared.state().figures.set_aside = set_aside;
        let applied = same.is_some_and(|l| Some(l.commit) == self.attempted);
        if applied {
            self.log = Some(log);
            self.committed(line.expect("it is the same as ours"), Duration::ZERO);
        } else if same.is_some_and(|l| l.commit == self.line.commit) {
            self.log = Some(log);
        } else {
            self.differs(&log, line.as_ref())?;
            self.log = Some(log);
        }
        self.attempted = None;
        self.mark_due = Tick::now();
        self.commit(false)
    }

    /// The database is another one than we wrote: what is missing is declared, the rest of what we know
    /// is written again.
    fn differs(&mut self, log: &Log, line: Option<&Line>) -> Result<(), Trouble> {
        let there: RangeSet = match line {
            Some(line) => line.present.clone(),
            None => log.scan()?.into_iter().collect(),
        };
        let reason = if line.is_some() { LossReason::Rollback } else { LossReason::Corrupt };
        let mut state = self.shared.state();
        for part in state.present.minus(&there) {
            state.present.remove(part.clone());
            state.lose(part, reason, false, &Facts::default());
        }
        for part in there.minus(&state.present) {
            self.doomed.insert(part);
        }
        state.commands.all_unsaved();
        self.saved.clear();
        self.saved_boots.clear();
        self.epochs_saved = false;
        self.latest_due = Tick::now();
        self.line.commit = self.line.commit.max(line.map_or(0, |l| l.commit)) + 1;
        self.line.next_loss = self.line.next_loss.max(line.map_or(0, |l| l.next_loss));
        Ok(())
    }
}
