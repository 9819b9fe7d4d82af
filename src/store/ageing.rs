//! Whether readings are over age, and on whose word.
//!
//! Promises:
//! - within a boot only boot time counts, so no step of the wall clock makes anything old;
//! - over boots a clock counts that somebody outside of the box vouched for, or that leapt from one boot to the next by no more
//!   than `max_age`. By a longer leap everything that waits would be over age at once, on the word of a battery: that is
//!   believed when somebody vouches for it, or when this boot alone has lasted that long.

use std::ops::Range;

use super::log::Row;
use super::quota::{self, Limits};
use super::trouble::Trouble;
use super::writer::Writer;
use crate::message::{BootMs, WallMs};

/// What was found the last time, so that it is not looked for at every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leap {
    /// Since this boot.
    since: u32,
    /// By these offsets of the present one.
    present: (i64, i64),
    /// There was one.
    found: bool,
}

impl Writer {
    pub(super) fn too_old(&mut self, row: &Row, limits: &Limits) -> Result<bool, Trouble> {
        let now = self.shared.clock.boot();
        let (mut age, next_boot, present) = {
            let state = self.shared.state();
            let age = state.age(row.boot, BootMs(row.times[1]), now);
            (age, state.epochs.next_boot(row.first, row.boot), state.boot)
        };
        if let (None, Some(next), Some(log)) = (age, next_boot, &self.log)
            && let Some(later) = log.rows(next..u64::MAX, 1)?.first()
        {
            // From a boot whose clock was never set: it is older than what came after it.
            age = self.shared.state().age(later.boot, BootMs(later.times[1]), now);
        }
        if !quota::expired(age, limits) {
            return Ok(false);
        }
        let alone = Some(now.0.cast_signed());
        Ok(row.boot == present || !self.leapt(row, limits)? || quota::expired(alone, limits))
    }

    /// Whether a clock that nobody vouches for leapt over more than `max_age` between two boots since this block.
    fn leapt(&mut self, row: &Row, limits: &Limits) -> Result<bool, Trouble> {
        let (boots, changes, present) = {
            let state = self.shared.state();
            let Some(present) = state.boots.get(&state.boot).filter(|boot| !boot.witnessed) else {
                return Ok(false);
            };
            let Some(present) = present.extremes() else { return Ok(false) };
            if let Some(leap) = self.leap
                && (leap.since, leap.present) == (row.boot, present)
            {
                return Ok(leap.found);
            }
            (state.boots.clone(), state.epochs.changes_of_boot(row.first), present)
        };
        let wall = |boot: u32, at: u64| Some(BootMs(at).on(boots.get(&boot)?.extremes()?.1));
        let mut last = wall(row.boot, row.times[1]);
        let mut most = 0;
        for (first, boot) in changes {
            let Some(log) = &self.log else { break };
            let before: Range<u64> = first.saturating_sub(1)..first;
            if let Some(before) = log.rows(before, 1)?.pop().filter(|before| before.first >= row.first) {
                last = wall(before.boot, before.times[1]).max(last);
            }
            if let (Some(WallMs(last)), Some(boot)) = (last, boots.get(&boot).filter(|boot| !boot.witnessed))
                && let Some((earliest, _)) = boot.extremes()
            {
                most = most.max(BootMs(0).on(earliest).0.saturating_sub(last));
            }
        }
        let found = quota::expired(Some(most), limits);
        self.leap = Some(Leap { since: row.boot, present, found });
        if found {
            tracing::warn!(
                "this box was off for {} hours by the word of its own clock alone, longer than `max_age`: what waits is not \
                 taken to be over age until a time server, or this boot's own age, says so",
                most / 3_600_000
            );
        }
        Ok(found)
    }
}
