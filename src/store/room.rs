//! Making room: what every uplink has passed goes, when it is no history any more; then, if the user wants it, the oldest
//! blocks are thinned (`thinning`); then they go, when the limits say so, and each uplink that had not settled them is told exactly what it misses.

use std::ops::Range;

use super::block::Block;
use super::identity;
use super::log::Row;
use super::loss::Facts;
use super::quota::{self, Limits};
use super::ranges::RangeSet;
use super::state::State;
use super::trouble::Trouble;
use super::writer::Writer;
use crate::message::{BootMs, Entry, LossReason, WallMs};

/// Rows that are looked at for one commit's housekeeping. More is done in the next commit.
const ROWS: usize = 256;
/// How often what every uplink has passed is looked through for what may go. Removing a block writes about as many
/// pages as adding one, and removing ten at once writes hardly more than removing one. ms of boot time, so that a
/// benchmark can hold the clock. (Tests do not wait.)
const SWEEP_EVERY: u64 = if cfg!(test) { 0 } else { 10_000 };

impl Writer {
    /// What every uplink has passed and is no history goes; then the oldest blocks, if limits say so.
    pub(super) fn make_room(&mut self) -> Result<(), Trouble> {
        let now = self.shared.clock.boot();
        let limits = self.limits();
        let free = self.free_for_readings(&limits);
        self.ballast.note(free, &limits);
        let (passed, mut usage) = {
            let state = self.shared.state();
            let usage = quota::Usage {
                file: state.figures.bytes,
                // What is doomed already counts, or each try of a commit that fails would drop more.
                reusable: state.figures.bytes.saturating_sub(state.figures.used) + self.doomed_bytes,
                free,
            };
            let purged = state.present.first().is_some_and(|first| first < state.forget_below);
            let due = self.sweep || purged || now >= self.sweep_due;
            let passed = if due { passed_by_all(&state) } else { Vec::new() };
            (passed, usage)
        };
        if now >= self.sweep_due {
            self.sweep_due = BootMs(now.0.saturating_add(SWEEP_EVERY));
        }
        let Some(log) = &self.log else { return Err(Trouble::Disk("no database".into())) };
        let mut whole = Vec::new();
        self.sweep = false;
        for part in passed {
            let rows = log.rows(part.clone(), ROWS)?;
            let kept = rows.iter().position(|row| self.is_kept(row, &limits));
            self.sweep |= rows.len() == ROWS && kept.is_none();
            let gone = rows.iter().take(kept.unwrap_or(rows.len())).map(Row::range);
            whole.extend(gone.filter(|r| r.start >= part.start && r.end <= part.end));
        }
        self.forget_passed(whole)?;
        usage.reusable += self.thin(usage, &limits)?;
        let mut excess = quota::excess(usage, &limits);
        for _ in 0..ROWS {
            let oldest = self.shared.state().present.first();
            let (Some(oldest), Some(log)) = (oldest, &self.log) else { break };
            let row = match log.rows(oldest..u64::MAX, 1)?.pop() {
                Some(row) if row.first <= oldest => row,
                other => {
                    // Its row is gone: continuity is checked here for the oldest, elsewhere when it is read.
                    let run = self.shared.state().present.run_from(oldest);
                    self.corrupt(oldest..other.map_or(run, |row| row.first.min(run)));
                    continue;
                }
            };
            let thinned = self.thinner.pending.as_ref().map(|pending| pending.row.range());
            if thinned.is_some_and(|range| range.contains(&row.first)) {
                // It is another block after this commit.
                break;
            }
            let reason = if excess > 0 {
                excess = excess.saturating_sub(row.bytes + 64);
                self.doomed_bytes += row.bytes + 64;
                LossReason::QueueFull
            } else if self.too_old(&row, &limits)? {
                LossReason::Expired
            } else {
                break;
            };
            self.drop_block(&row, reason)?;
        }
        Ok(())
    }

    /// Free disk. Below `min_free` databases that were set aside go, the oldest first: readings must not have to go for them.
    fn free_for_readings(&self, limits: &Limits) -> Option<u64> {
        let dir = &self.shared.dir;
        let mut free = free_disk(dir);
        while free.is_some_and(|free| free < limits.min_free)
            && let Some(gone) = identity::give_up_set_aside(dir)
        {
            tracing::warn!("there is less room than `min_free`, so {gone}, which was set aside, is removed");
            self.shared.state().figures.set_aside = identity::all_set_aside(dir);
            free = free_disk(dir);
        }
        free
    }

    /// These blocks are wanted by nobody any more.
    fn forget_passed(&mut self, whole: Vec<Range<u64>>) -> Result<(), Trouble> {
        for range in whole {
            let missing = match &self.log {
                Some(log) if !self.shared.state().thinned.ranges.is_empty() => log.missing_in(&range)?,
                _ => 0,
            };
            let mut state = self.shared.state();
            // What is gone cannot be found to be somebody else's after a start.
            state.accounts.values_mut().for_each(|account| account.pass_over(range.clone()));
            state.present.remove(range.clone());
            state.thinned.ranges.remove(range.clone());
            state.thinned.gone = state.thinned.gone.saturating_sub(missing);
            self.doomed.insert(range);
        }
        Ok(())
    }

    /// Whether a block that every uplink has passed stays as history.
    fn is_kept(&self, row: &Row, limits: &Limits) -> bool {
        let now = self.shared.clock.boot();
        let state = self.shared.state();
        let age = state.age(row.boot, BootMs(row.times[1]), now);
        row.range().end > state.forget_below && quota::is_history(age, limits)
    }

    /// Drops a whole block; each uplink that had not settled all of it is told exactly what it misses.
    fn drop_block(&mut self, row: &Row, reason: LossReason) -> Result<(), Trouble> {
        let block = self.block_at(row.first)?;
        let mut state = self.shared.state();
        state.unthin(&row.range(), block.as_deref());
        let before: u64 = state.accounts.values().map(|a| a.lost).sum();
        let names: Vec<String> = state.accounts.keys().cloned().collect();
        let readings: Vec<_> = block.iter().flat_map(|b| described(&state, b)).collect();
        for uplink in names {
            if let Some(block) = &block {
                // What it would never have been sent is no loss.
                state.sort(&uplink, block.head.boot, block.numbered());
            }
            let facts = |part: &Range<u64>| match &block {
                Some(_) => {
                    let among = readings.iter().filter(|(seq, ..)| part.contains(seq));
                    Facts::of(among.map(|(_, point, ts)| (point.clone(), *ts)))
                }
                None => Facts::default(),
            };
            state.lose_for(&uplink, row.range(), reason, false, facts, false);
        }
        let after: u64 = state.accounts.values().map(|a| a.lost).sum();
        if after > before || state.accounts.is_empty() {
            state.figures.dropped += row.count;
        }
        state.present.remove(row.range());
        drop(state);
        self.doomed.insert(row.range());
        Ok(())
    }
}

fn described(state: &State, block: &Block) -> Vec<(u64, String, WallMs)> {
    let place = |e: &Entry| state.place(block.head.boot, e.at()).unwrap_or_default().0;
    block.numbered().map(|(seq, e)| (seq, e.name(), place(e))).collect()
}

/// Present numbers that every uplink has settled. If there is no uplink the log is history, up to its limits: then
/// only what was purged.
fn passed_by_all(state: &State) -> Vec<Range<u64>> {
    if state.accounts.is_empty() {
        return state.present.overlap(0..state.forget_below);
    }
    let mut wanted = RangeSet::default();
    for account in state.accounts.values() {
        for range in state.present.iter() {
            for part in account.open(range) {
                wanted.insert(part);
            }
        }
    }
    state.present.minus(&wanted)
}

pub(super) fn free_disk(dir: &std::path::Path) -> Option<u64> {
    let v = rustix::fs::statvfs(dir).ok()?;
    Some(v.f_bavail.saturating_mul(v.f_frsize))
}
