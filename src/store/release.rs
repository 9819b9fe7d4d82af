//! What went to one uplink before the clock of its boot was set: with which guess, and that this was put right. Pure.
//!
//! Promises:
//! - What was once handed to an uplink with a guessed time has that time and `clock_unsynced` for ever: after the clock
//!   is set, after a restart, after a kill. So a repeat is the same message again.
//! - For that the decision is durable before anything goes out by it. While it stands **open** it covers whatever of
//!   the boot is handed out, so it costs one commit and not one for each read. It is closed when the guess changes or
//!   the clock is set, with exactly the numbers that were handed out; a life that ended with an open one may have
//!   handed out everything that was stored, so the next one closes it with all of that.
//! - Each closed span has one guess, and so one correction; it is there until it was acknowledged.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::epochs::Epochs;
use super::ranges::RangeSet;
use super::times::Boot;
use crate::bounds;
use crate::message::{CorrectionRecord, Epoch, WallMs};

/// What an uplink was, or may have been, sent with guessed times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<Open>,
    /// Ascending and disjoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    spans: Vec<Span>,
}

/// Everything that is handed out of this boot goes with this guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    boot: u32,
    /// wall − boot, ms.
    offset: i64,
}

/// Numbers of one epoch that have one guess.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Span {
    /// First number, and one past the last.
    range: [u64; 2],
    epoch: [u32; 2],
    boot: u32,
    /// wall − boot, ms.
    offset: i64,
    /// How far that was off, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<Made>,
    /// The uplink's broker acknowledged the correction.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    told: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    boot_id: String,
    shift: i64,
    /// When, wall, ms.
    ts: i64,
}

impl Released {
    /// Nothing was ever sent with a guess, or all of it is over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.spans.is_empty()
    }

    /// The guess with which this number was decided to go.
    #[must_use]
    pub fn offset_of(&self, seq: u64) -> Option<i64> {
        let after = self.spans.partition_point(|s| s.range[0] <= seq);
        let span = self.spans.get(after.checked_sub(1)?)?;
        (seq < span.range[1]).then_some(span.offset)
    }

    /// The guess with which what is handed out of this boot goes, if that is decided.
    #[must_use]
    pub fn opened(&self, boot: u32) -> Option<i64> {
        self.open.filter(|open| open.boot == boot).map(|open| open.offset)
    }

    /// Decides that what is handed out of this boot from now on goes with this guess, unless it is decided already.
    pub fn open(&mut self, boot: u32, offset: i64) {
        self.open.get_or_insert(Open { boot, offset });
    }

    /// The boot of which what is handed out goes with a guess.
    #[must_use]
    pub fn open_boot(&self) -> Option<u32> {
        self.open.map(|open| open.boot)
    }

    /// The first number from `from` on for which nothing is decided.
    #[must_use]
    pub fn undecided(&self, from: u64) -> u64 {
        let goes_on = |at: u64, s: &Span| if s.range[0] <= at { at.max(s.range[1]) } else { at };
        self.spans.iter().fold(from, goes_on)
    }

    /// The parts of `range` for which nothing is decided.
    #[must_use]
    pub fn free(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let near = |s: &&Span| s.range[0] < range.end && s.range[1] > range.start;
        let taken: RangeSet = self.spans.iter().filter(near).map(|s| s.range[0]..s.range[1]).collect();
        taken.missing(range)
    }

    /// Ends the open decision: it was for these numbers.
    pub fn close(&mut self, numbers: &RangeSet, epochs: &Epochs) {
        let Some(Open { boot, offset }) = self.open.take() else { return };
        let free: Vec<_> = numbers.iter().flat_map(|range| self.free(range)).collect();
        for (range, epoch) in free.into_iter().flat_map(|range| epochs.split(range)) {
            let (range, epoch) = ([range.start, range.end], [epoch.start, epoch.random]);
            self.spans.push(Span { range, epoch, boot, offset, made: None, told: false });
        }
        self.spans.sort_by_key(|s| s.range[0]);
        while self.spans.len() > bounds::STORE_RELEASED {
            let over = self.spans.iter().position(|s| s.told || (s.boot != boot && s.made.is_none()));
            self.spans.remove(over.unwrap_or(0));
        }
    }

    /// The clock of this boot is set: how far its guesses were off is known now.
    pub fn correct(&mut self, boot: &Boot, now: WallMs) {
        for span in self.spans.iter_mut().filter(|s| s.boot == boot.n && s.made.is_none()) {
            let made = |shift| Made { boot_id: boot.id.clone(), shift, ts: now.0 };
            span.made = boot.shift(span.offset).map(made);
        }
    }

    /// Corrections that were not acknowledged, oldest first, by their first number.
    #[must_use]
    pub fn corrections(&self, uplink: &str, most: usize) -> Vec<(u64, CorrectionRecord)> {
        let record = |span: &Span| {
            let made = span.made.as_ref().filter(|_| !span.told)?;
            let epoch = Epoch { start: span.epoch[0], random: span.epoch[1] };
            let record = CorrectionRecord {
                uplink: Some(uplink.to_owned()),
                epoch: epoch.to_string(),
                seq: [span.range[0], span.range[1].saturating_sub(1)],
                boot_id: made.boot_id.clone(),
                shift_ms: made.shift,
                ts: WallMs(made.ts).to_string(),
            };
            Some((span.range[0], record))
        };
        self.spans.iter().filter_map(record).take(most).collect()
    }

    /// The correction of the span that begins with this number was acknowledged.
    pub fn tell(&mut self, first: u64) {
        self.spans.iter_mut().filter(|s| s.range[0] == first).for_each(|s| s.told = true);
    }

    /// Forgets what nobody can ask for any more: what lies below `passed`, so that it is never sent again, and is
    /// corrected or cannot be.
    pub fn forget(&mut self, passed: u64, boot: u32) {
        self.spans.retain(|s| {
            let to_be_corrected = !s.told && (s.made.is_some() || s.boot == boot);
            s.range[1] > passed || to_be_corrected
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::BootMs;
    use crate::store::epochs::Start;
    use proptest::prelude::*;

    fn epochs() -> Epochs {
        let start = |first, n| Start { first, epoch: [n, 7], boot: 1, gateway: None };
        Epochs(vec![start(1, 1), start(50, 2)])
    }

    fn boot(n: u32) -> Boot {
        let next = crate::message::Id { epoch: Epoch { start: 1, random: 7 }, seq: 1 };
        let mut boot = Boot::new(n, "b", (BootMs(0), WallMs(0)), next);
        boot.observe((BootMs(10), WallMs(5010)), true, next);
        boot
    }

    fn set(range: Range<u64>) -> RangeSet {
        std::iter::once(range).collect()
    }

    #[test]
    fn a_span_keeps_its_guess_and_each_epoch_is_corrected_by_itself() {
        let mut released = Released::default();
        released.open(1, 0);
        released.open(1, 99);
        assert_eq!((released.opened(1), released.opened(2)), (Some(0), None), "decided is decided");
        released.close(&set(40..60), &epochs());
        released.open(1, 2000);
        released.close(&set(30..70), &epochs());
        let offsets: Vec<_> = [29, 30, 39, 40, 59, 60, 70].map(|n| released.offset_of(n)).into();
        assert_eq!(offsets, [None, Some(2000), Some(2000), Some(0), Some(0), Some(2000), None]);
        assert_eq!((released.undecided(30), released.undecided(5)), (70, 5));
        assert!(released.corrections("u", 9).is_empty(), "not known yet");
        released.correct(&boot(2), WallMs(0));
        assert!(released.corrections("u", 9).is_empty(), "another boot");
        released.correct(&boot(1), WallMs(5020));
        let told = |(first, r): (u64, CorrectionRecord)| (first, r.seq[1], r.epoch, r.shift_ms);
        let all: Vec<_> = released.corrections("u", 9).into_iter().map(told).collect();
        let epoch = |n: u32| format!("{n:08x}-00000007");
        assert_eq!(
            all,
            [
                (30, 39, epoch(1), 3000),
                (40, 49, epoch(1), 5000),
                (50, 59, epoch(2), 5000),
                (60, 69, epoch(2), 3000)
            ]
        );
        for first in [30, 40, 50] {
            released.tell(first);
        }
        released.forget(45, 1);
        assert_eq!(
            (released.offset_of(35), released.offset_of(45)),
            (None, Some(0)),
            "45 may be asked for again"
        );
        released.forget(100, 3);
        assert_eq!(released.corrections("u", 9).len(), 1, "until it is acknowledged");
        released.tell(60);
        released.forget(100, 3);
        assert!(released.is_empty());
    }

    #[test]
    fn what_can_never_be_corrected_is_forgotten_when_it_has_passed() {
        let mut released = Released::default();
        released.open(1, 0);
        released.close(&set(1..10), &epochs());
        released.forget(5, 2);
        assert_eq!(released.offset_of(3), Some(0));
        released.forget(10, 1);
        assert_eq!(released.offset_of(3), Some(0), "its boot goes on: the clock may still be set");
        released.forget(10, 2);
        assert!(released.is_empty());
    }

    #[test]
    fn starts_without_a_clock_do_not_grow_the_list_and_take_no_correction_with_them() {
        let mut released = Released::default();
        released.open(1, 0);
        released.close(&set(1..2), &epochs());
        released.correct(&boot(1), WallMs(0));
        for n in 2..3000u32 {
            released.open(n, 0);
            released.close(&set(u64::from(n) * 2..u64::from(n) * 2 + 1), &epochs());
        }
        assert_eq!(released.spans.len(), bounds::STORE_RELEASED);
        assert_eq!(released.corrections("u", 9).len(), 1, "it is still owed");
        assert_eq!((released.offset_of(4), released.offset_of(5998)), (None, Some(0)), "the oldest go");
    }

    proptest! {
        #[test]
        fn what_is_decided_never_changes(
            steps in prop::collection::vec((1u64..300, 1u64..40, -5i64..5), 1..40),
        ) {
            let mut released = Released::default();
            let mut known = std::collections::BTreeMap::new();
            for (start, len, offset) in steps {
                released.open(1, offset);
                released.close(&set(start..start + len), &epochs());
                for n in start..start + len {
                    known.entry(n).or_insert(offset);
                }
                prop_assert!(released.spans.windows(2).all(|w| w[0].range[1] <= w[1].range[0]));
                for n in 0..350 {
                    prop_assert_eq!(released.offset_of(n), known.get(&n).copied());
                }
            }
            released.correct(&boot(1), WallMs(1));
            let mut corrected = std::collections::BTreeMap::new();
            for (_, record) in released.corrections("u", usize::MAX) {
                for n in record.seq[0]..=record.seq[1] {
                    prop_assert!(corrected.insert(n, 5000 - record.shift_ms).is_none());
                }
            }
            prop_assert_eq!(corrected, known);
        }
    }
}
