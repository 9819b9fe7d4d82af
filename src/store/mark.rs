//! Writing the mark: what is remembered beside the database of what the database held.
//!
//! Promises: it says only what is durable in the database at that moment; nothing that a commit has yet to bring.

use std::time::Duration;

use super::identity::{self, Mark};
use super::state::Tick;
use super::writer::Writer;

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
        let mark = {
            let state = self.shared.state();
            Mark {
                epoch: [state.epoch.start, state.epoch.random],
                stored: self.line.next,
                // Twice what two commits a second take at most until the next mark.
                reserved: state.next + 256 * state.bound + 4096,
                clean,
                exact: false,
                bound: state.bound.next_power_of_two(),
                home: self.line.home,
                lives: self.line.lives.clone(),
                // As the database holds them: what is declared there has its record.
                accounts: self.saved.clone(),
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
}
