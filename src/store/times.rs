//! Where a moment of a boot lies on the true time line. Pure.
//!
//! A boot has anchors: "from this boot time on, wall = boot + offset". Both kernel clocks run at the same
//! (disciplined) rate, so an anchor changes only when the wall clock is *stepped*. What was taken before
//! the first believed anchor is placed by it; later steps count only from their own moment on. So the
//! time of a reading, once it was believed, never changes again.
//!
//! Before that there is a guess: what the wall clock says, right or wrong. Which numbers were shown with which guess
//! on the local broker is remembered, so that it can be put right; upstream see `release`.

use serde::{Deserialize, Serialize};

use crate::message::{BootMs, Id, WallMs};

/// A smaller difference is the noise of reading two clocks one after the other, in ms.
const NOISE_MS: u64 = 20;
/// More steps than this in one boot are a broken time server; the oldest in between are forgotten.
const ANCHORS: usize = 64;
/// A clock that nobody vouches for and that is set more often than this in one boot is not followed any more.
const GUESSES: usize = 24;

/// One believed relation of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Valid from this boot time on, ms.
    pub from: u64,
    /// wall − boot, ms.
    pub offset: i64,
}

/// From which number on readings were shown with a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The first number.
    pub first: u64,
    /// Its epoch: start counter and random part. (A new epoch is a new entry.)
    pub epoch: [u32; 2],
    /// wall − boot, ms.
    pub offset: i64,
}

/// What is known of one boot's clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Number in the log.
    pub n: u32,
    /// The kernel's id of the boot.
    pub id: String,
    /// wall − boot while nothing vouched for the wall clock, ms.
    pub guess: i64,
    /// The guesses so far, ascending by number; the last is `guess`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shown: Vec<Shown>,
    /// Believed anchors, ascending by `from`. Empty: the clock was never set in this boot.
    pub anchors: Vec<Anchor>,
    /// Somebody outside of the box vouched for the clock, once at least.
    #[serde(default)]
    pub witnessed: bool,
}

/// What a look at the clocks changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Another guess.
    Guess,
    /// The clock is set, for the first time in this boot.
    First,
    /// The clock was stepped.
    Step,
}

impl Shown {
    fn new(next: Id, offset: i64) -> Self {
        Self { first: next.seq, epoch: [next.epoch.start, next.epoch.random], offset }
    }
}

impl Boot {
    /// A boot of which nothing is known but a first look at both clocks; `next`: the first number taken in it.
    #[must_use]
    pub fn new(n: u32, id: &str, (boot, wall): (BootMs, WallMs), next: Id) -> Self {
        let guess = offset(boot, wall);
        let (shown, anchors) = Default::default();
        let mut new = Self { n, id: id.to_owned(), guess, shown, anchors, witnessed: false };
        new.begin(next);
        new
    }

    /// A new epoch begins in this boot.
    pub fn begin(&mut self, next: Id) {
        if self.is_set() {
            return;
        }
        self.shown.retain(|s| s.first < next.seq);
        if self.shown.len() >= GUESSES {
            self.shown.remove(0);
        }
        self.shown.push(Shown::new(next, self.guess));
    }

    /// Looks at both clocks; `next`: the identity of the next reading.
    pub fn observe(&mut self, (boot, wall): (BootMs, WallMs), synced: bool, next: Id) -> Option<Change> {
        let now = offset(boot, wall);
        let known = if synced { self.anchors.last().map(|a| a.offset) } else { Some(self.guess) };
        if !synced && !self.anchors.is_empty() {
            return None; // set once, the boot clock itself keeps the time
        }
        if known.is_some_and(|k| k.abs_diff(now) <= NOISE_MS) {
            return None;
        }
        if !synced {
            return self.guess_anew(now, next).then_some(Change::Guess);
        }
        let first = self.anchors.is_empty();
        let from = if first { 0 } else { boot.0 };
        if self.anchors.len() >= ANCHORS {
            self.anchors.remove(1);
        }
        self.anchors.push(Anchor { from, offset: now });
        Some(if first { Change::First } else { Change::Step })
    }

    fn guess_anew(&mut self, now: i64, next: Id) -> bool {
        let full = self.shown.len() >= GUESSES;
        match self.shown.last_mut() {
            // Nothing was shown with the one before.
            Some(last) if last.first >= next.seq => last.offset = now,
            _ if full => return false,
            _ => self.shown.push(Shown::new(next, now)),
        }
        self.guess = now;
        true
    }

    /// Whether the clock was set in this boot.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.anchors.is_empty()
    }

    /// Ages of other boots' readings, and theirs of this one's, are told by whichever of these makes them younger: a
    /// clock that was believed and then stepped was wrong before, and nobody knows whether it was in the other boot.
    #[must_use]
    pub fn extremes(&self) -> Option<(i64, i64)> {
        let offsets = || self.anchors.iter().map(|a| a.offset);
        offsets().min().zip(offsets().max())
    }

    /// What must be added to a time that was made with `guess` before the clock was set, ms.
    #[must_use]
    pub fn shift(&self, guess: i64) -> Option<i64> {
        self.anchors.first().map(|a| a.offset.saturating_sub(guess))
    }

    /// Wall time of a moment of this boot, and whether it is to be believed.
    #[must_use]
    pub fn place(&self, at: BootMs) -> (WallMs, bool) {
        let valid = self.anchors.iter().rev().find(|a| a.from <= at.0).or(self.anchors.first());
        let offset = valid.map_or(self.guess, |a| a.offset);
        (at.on(offset), valid.is_some())
    }

    /// The offset that holds now, and whether it is believed.
    #[must_use]
    pub fn now(&self) -> (i64, bool) {
        self.anchors.last().map_or((self.guess, false), |a| (a.offset, true))
    }
}

fn offset(boot: BootMs, wall: WallMs) -> i64 {
    wall.0.saturating_sub(boot.0.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Id {
        Id { epoch: crate::message::Epoch { start: 1, random: 2 }, seq }
    }

    fn look(boot: u64, wall: i64) -> (BootMs, WallMs) {
        (BootMs(boot), WallMs(wall))
    }

    #[test]
    fn what_was_taken_before_the_clock_was_set_is_placed_afterwards() {
        let mut boot = Boot::new(1, "a", look(1000, 1000), at(1));
        assert_eq!(boot.place(BootMs(5000)), (WallMs(5000), false));
        assert_eq!(boot.observe(look(6000, 6010), false, at(5)), None, "noise");
        assert_eq!(boot.observe(look(60_000, 1_800_000_060_000), true, at(9)), Some(Change::First));
        assert_eq!(boot.place(BootMs(5000)), (WallMs(1_800_000_005_000), true));
        assert_eq!(boot.shift(0), Some(1_800_000_000_000));
    }

    #[test]
    fn a_later_step_moves_nothing_that_lies_before_it() {
        let mut boot = Boot::new(1, "a", look(0, 1_000_000), at(1));
        assert_eq!(boot.observe(look(10, 1_000_010), true, at(1)), Some(Change::First));
        assert_eq!(boot.observe(look(5000, 3_005_000), true, at(1)), Some(Change::Step));
        assert_eq!(boot.place(BootMs(4999)), (WallMs(1_004_999), true));
        assert_eq!(boot.place(BootMs(5000)), (WallMs(3_005_000), true));
        assert_eq!(boot.observe(look(6000, 0), false, at(1)), None, "nobody vouches for this step");
        assert_eq!(boot.observe(look(7000, 1_007_000), true, at(1)), Some(Change::Step), "back again");
        assert_eq!(boot.place(BootMs(8000)), (WallMs(1_008_000), true));
        assert_eq!(boot.shift(1_000_000), Some(0), "by the first one, whatever came later");
    }

    #[test]
    fn each_guess_is_remembered_with_the_first_number_that_was_shown_with_it() {
        let mut boot = Boot::new(1, "a", look(0, 0), at(10));
        assert_eq!(
            boot.observe(look(5, 1005), false, at(10)),
            Some(Change::Guess),
            "nothing was shown with 0"
        );
        assert_eq!(boot.observe(look(6, 5006), false, at(12)), Some(Change::Guess));
        assert_eq!(boot.shown, [Shown::new(at(10), 1000), Shown::new(at(12), 5000)]);
        boot.begin(at(15));
        boot.begin(at(15));
        assert_eq!(boot.shown[2..], [Shown::new(at(15), 5000)]);
        for n in 0..1000u64 {
            boot.observe(look(n, (n * 100_000).cast_signed()), false, at(20 + n));
        }
        assert_eq!(boot.shown.len(), GUESSES);
        assert_eq!(boot.shown.last().map(|s| s.offset), Some(boot.guess), "and is not followed any more");
    }

    #[test]
    fn a_raving_time_server_does_not_grow_the_list() {
        let mut boot = Boot::new(1, "a", look(0, 0), at(1));
        for n in 0..1000u64 {
            boot.observe(look(n * 10, (n * 100_000).cast_signed()), true, at(1));
        }
        assert!(boot.anchors.len() <= ANCHORS && boot.anchors.is_sorted_by_key(|a| a.from));
    }
}
