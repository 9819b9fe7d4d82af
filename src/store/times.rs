//! Where a moment of a boot lies on the true time line. Pure.
//!
//! A boot has anchors: "from this boot time on, wall = boot + offset". Both kernel clocks run at the same
//! (disciplined) rate, so an anchor changes only when the wall clock is *stepped*. What was taken before
//! the first believed anchor is placed by it; later steps count only from their own moment on. So the
//! time of a reading, once it was believed, never changes again.

use serde::{Deserialize, Serialize};

use crate::message::{BootMs, WallMs};

/// A smaller difference is the noise of reading two clocks one after the other, in ms.
const NOISE_MS: u64 = 20;
/// More steps than this in one boot are a broken time server; the oldest in between are forgotten.
const ANCHORS: usize = 64;

/// One believed relation of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Valid from this boot time on, ms.
    pub from: u64,
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
    /// Believed anchors, ascending by `from`. Empty: the clock was never set in this boot.
    pub anchors: Vec<Anchor>,
}

impl Boot {
    /// A boot of which nothing is known but a first look at both clocks.
    #[must_use]
    pub fn new(n: u32, id: &str, boot: BootMs, wall: WallMs) -> Self {
        Self { n, id: id.to_owned(), guess: offset(boot, wall), anchors: Vec::new() }
    }

    /// Looks at both clocks; returns whether something worth storing changed.
    pub fn observe(&mut self, boot: BootMs, wall: WallMs, synced: bool) -> bool {
        let now = offset(boot, wall);
        let known = if synced { self.anchors.last().map(|a| a.offset) } else { Some(self.guess) };
        if !synced && !self.anchors.is_empty() {
            return false; // set once, the boot clock itself keeps the time
        }
        if known.is_some_and(|k| k.abs_diff(now) <= NOISE_MS) {
            return false;
        }
        if synced {
            let from = if self.anchors.is_empty() { 0 } else { boot.0 };
            if self.anchors.len() >= ANCHORS {
                self.anchors.remove(1);
            }
            self.anchors.push(Anchor { from, offset: now });
        } else {
            self.guess = now;
        }
        true
    }

    /// Wall time of a moment of this boot, and whether it is to be believed.
    #[must_use]
    pub fn place(&self, at: BootMs) -> (WallMs, bool) {
        let valid = self.anchors.iter().rev().find(|a| a.from <= at.0).or(self.anchors.first());
        let offset = valid.map_or(self.guess, |a| a.offset);
        (WallMs(at.0.cast_signed().saturating_add(offset)), valid.is_some())
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

    #[test]
    fn what_was_taken_before_the_clock_was_set_is_placed_afterwards() {
        let mut boot = Boot::new(1, "a", BootMs(1000), WallMs(1000));
        assert_eq!(boot.place(BootMs(5000)), (WallMs(5000), false));
        assert!(!boot.observe(BootMs(6000), WallMs(6010), false), "noise");
        assert!(boot.observe(BootMs(60_000), WallMs(1_800_000_060_000), true));
        assert_eq!(boot.place(BootMs(5000)), (WallMs(1_800_000_005_000), true));
    }

    #[test]
    fn a_later_step_moves_nothing_that_lies_before_it() {
        let mut boot = Boot::new(1, "a", BootMs(0), WallMs(1_000_000));
        assert!(boot.observe(BootMs(10), WallMs(1_000_010), true));
        assert!(boot.observe(BootMs(5000), WallMs(3_005_000), true));
        assert_eq!(boot.place(BootMs(4999)), (WallMs(1_004_999), true));
        assert_eq!(boot.place(BootMs(5000)), (WallMs(3_005_000), true));
        assert!(!boot.observe(BootMs(6000), WallMs(0), false), "nobody vouches for this step");
        assert!(boot.observe(BootMs(7000), WallMs(1_007_000), true), "back again");
        assert_eq!(boot.place(BootMs(8000)), (WallMs(1_008_000), true));
    }

    #[test]
    fn a_raving_time_server_does_not_grow_the_list() {
        let mut boot = Boot::new(1, "a", BootMs(0), WallMs(0));
        for n in 0..1000u64 {
            boot.observe(BootMs(n * 10), WallMs((n * 100_000).cast_signed()), true);
        }
        assert!(boot.anchors.len() <= ANCHORS && boot.anchors.is_sorted_by_key(|a| a.from));
    }
}
