//! What is settled of thinned blocks that nobody remembers: the next commit looks at them again.
//!
//! A shape is remembered for what was handed out last ([`bounds::STORE_SHAPES`]), and none is after a restart, when a
//! broker ends an exchange of the life before. What is settled of other blocks is put off, for the lock is no place to
//! read a disk.
//!
//! Promises:
//! - It is settled in the next commit, with the ledger and the declarations that a remembered block would have had.
//! - Until then it counts as queued and is not handed out again, also not to the next connection.
//! - Only what was handed out in this life, or is open at a broker, is put off; all else is ignored, as what goes out again.

use std::ops::Range;

use super::state::{State, Tick};
use super::trouble::Trouble;
use super::writer::Writer;
use crate::bounds;
use crate::message::LossReason;

/// Stretches that are settled before it is looked what was added.
const TURN: usize = 256;

/// What is to be settled for one uplink: numbers, and why they are lost if they are.
pub(super) type Later = (Range<u64>, Option<LossReason>);

impl State {
    /// Puts off what of this range is thinned and not remembered.
    pub(super) fn put_off(&mut self, uplink: &str, range: &Range<u64>, reason: Option<LossReason>) {
        let Some(account) = self.accounts.get(uplink) else { return };
        let at_the_broker = account.session.open.iter().map(|open| open.range.clone());
        let due = self.thinned.due(uplink, range, at_the_broker);
        let due: Vec<_> = due.into_iter().flat_map(|part| account.open(part)).collect();
        if due.is_empty() {
            return;
        }
        self.dirty_since.get_or_insert_with(Tick::now);
        let later = self.thinned.later.entry(uplink.to_owned()).or_default();
        for range in due {
            let full = later.len() >= bounds::STORE_LATER;
            match later.last_mut().filter(|(last, why)| (last.end, *why) == (range.start, reason)) {
                Some((last, _)) => last.end = range.end,
                None if full => tracing::debug!(uplink, ?range, "too much is put off; it goes out again"),
                None => later.push((range, reason)),
            }
        }
    }

    /// What is put off for an uplink.
    pub(super) fn put_off_for(&self, uplink: &str) -> impl Iterator<Item = Range<u64>> {
        self.thinned.later.get(uplink).into_iter().flatten().map(|(range, _)| range.clone())
    }
}

impl Writer {
    /// Settles what was put off, if that is much.
    pub(super) fn settle_in_time(&mut self) {
        let is_much = |later: &Vec<Later>| later.len() >= bounds::STORE_LATER / 4;
        if self.shared.state().thinned.later.values().any(is_much) {
            // A disk that is out of order is found so by the next commit.
            let _ = self.answer(Self::settle_later);
        }
    }

    /// Settles what was put off.
    ///
    /// # Errors
    /// The database cannot be read. What is not settled yet stays put off.
    pub(super) fn settle_later(&mut self) -> Result<(), Trouble> {
        // Only this thread takes out. Others add, or widen the last.
        loop {
            let next = {
                let state = self.shared.state();
                let first = state.thinned.later.first_key_value();
                first.map(|(name, later)| (name.clone(), later[..later.len().min(TURN)].to_vec()))
            };
            let Some((uplink, turn)) = next else { return Ok(()) };
            for (range, reason) in &turn {
                self.settle_now(&uplink, range, *reason)?;
            }
            let mut state = self.shared.state();
            let Some(later) = state.thinned.later.get_mut(&uplink) else { continue };
            // What was widened meanwhile is settled in part.
            let done = turn.len().min(later.len());
            let wider = turn.last().zip(later.get_mut(done.saturating_sub(1)));
            let wider = wider.is_some_and(|((range, _), (now, _))| {
                now.start = range.end;
                now.start < now.end
            });
            later.drain(..done - usize::from(wider));
            if later.is_empty() {
                state.thinned.later.remove(&uplink);
            }
        }
    }

    fn settle_now(
        &mut self,
        uplink: &str,
        range: &Range<u64>,
        reason: Option<LossReason>,
    ) -> Result<(), Trouble> {
        let mut at = range.start;
        while at < range.end {
            // What is damaged is declared where it is read.
            let Some(block) = self.block_at(at)? else { break };
            let part = at..block.range().end.min(range.end);
            at = part.end;
            let mut state = self.shared.state();
            match state.thinned.shape_of(uplink, &block) {
                Some(shape) => state.settle_thinned(uplink, &shape, &part, reason),
                None => state.thinned.stale = true,
            }
        }
        Ok(())
    }
}
