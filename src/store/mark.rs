//! Writing the mark: what is remembered beside the database of what the database held.
//!
//! Promises: an account in the mark counts as settled only what was acknowledged, or what its uplink was told is lost.
//! So if the database is rolled back, and undelivered loss records with it, their numbers are declared again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::account::Account;
use super::identity::{self, Mark};
use super::log::Trouble;
use super::state::Tick;
use super::writer::Writer;
use crate::bounds;

/// How often the mark is written when something changed.
const MARK_EVERY: Duration = Duration::from_secs(60);

impl Writer {
    pub(super) fn write_mark(&mut self, clean: bool) {
        self.mark_due = Tick::now() + MARK_EVERY;
        if self.lock.is_none() {
            return;
        }
        let mut file = self.shared.head();
        if let (None, Some(homes)) = (&*file, &self.homes) {
            let head = self.shared.head_now(&self.shared.state());
            *file = homes.create(&head).ok();
        }
        drop(file);
        let accounts = match self.told() {
            Ok(accounts) => accounts,
            Err(trouble) => return self.fault(&trouble),
        };
        let mark = {
            let state = self.shared.state();
            Mark {
                epoch: [state.epoch.start, state.epoch.random],
                stored: self.line.next,
                // Twice what two commits a second take at most until the next mark.
                reserved: state.next + 256 * state.bound + 4096,
                clean,
                bound: state.bound.next_power_of_two(),
                accounts,
            }
        };
        let idle = self.marked.as_ref().is_some_and(|m| {
            (m.epoch, m.stored, m.clean, m.bound, &m.accounts)
                == (mark.epoch, mark.stored, mark.clean, mark.bound, &mark.accounts)
        });
        if idle && self.marked.as_ref().is_some_and(|m| self.shared.state().next <= m.reserved) {
            return;
        }
        match identity::write_mark(&self.shared.dir, &mark) {
            Ok(()) => self.marked = Some(mark),
            Err(error) => tracing::warn!(%error, "the mark cannot be written"),
        }
    }

    /// The accounts as the database holds them, without what is only declared in there.
    fn told(&self) -> Result<BTreeMap<String, Account>, Trouble> {
        let mut accounts = self.saved.clone();
        let Some(log) = &self.log else { return Ok(accounts) };
        for (name, account) in &mut accounts {
            for (_, record) in log.losses(name, bounds::STORE_LOSSES * 2)? {
                let range = record.seq[0]..record.seq[1].saturating_add(1);
                // One that was merged in a crowd has holes, and nobody knows where.
                if range.end - range.start == record.count {
                    account.unlose(range);
                }
            }
        }
        Ok(accounts)
    }
}
