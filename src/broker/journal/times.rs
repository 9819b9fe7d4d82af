//! How long ago something was that was written down before a restart. Pure.
//!
//! Within one boot the boot clock says it exactly, whatever was done to the wall clock. Over a boot only wall clocks can say it;
//! where they say nonsense (the clock went back, or is not set yet), nothing is taken to have passed: what was agreed with a
//! client is kept too long rather than too short.

use crate::clock::Clock;
use crate::message::{BootMs, WallMs};

/// A moment, as it can be told over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// Tells boots apart.
    pub boot: u64,
    /// Time since that boot.
    pub at: BootMs,
    /// Wall time, right or wrong.
    pub wall: WallMs,
}

impl Moment {
    /// This one.
    #[must_use]
    pub fn now(clock: &dyn Clock) -> Self {
        use std::hash::{DefaultHasher, Hash, Hasher};
        // With fixed keys: the same in every process. (Another standard library may hash otherwise: then it is another boot.)
        let mut hasher = DefaultHasher::new();
        clock.boot_id().hash(&mut hasher);
        let (at, wall) = clock.both();
        Self { boot: hasher.finish(), at, wall }
    }

    /// Milliseconds from `self` to `now`; never negative.
    #[must_use]
    pub fn until(&self, now: &Self) -> u64 {
        if self.boot == now.boot {
            return now.at.0.saturating_sub(self.at.0);
        }
        u64::try_from(now.wall.0.saturating_sub(self.wall.0)).unwrap_or(0)
    }

    /// So many milliseconds earlier.
    #[must_use]
    pub fn earlier(&self, ms: u64) -> Self {
        let wall = WallMs(self.wall.0.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX)));
        Self { boot: self.boot, at: BootMs(self.at.0.saturating_sub(ms)), wall }
    }

    /// So many milliseconds later, but not later than `latest`.
    #[must_use]
    pub fn later(&self, ms: u64, latest: &Self) -> Self {
        if self.until(latest) <= ms {
            return *latest;
        }
        let wall = WallMs(self.wall.0.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)));
        Self { boot: self.boot, at: BootMs(self.at.0.saturating_add(ms)), wall }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(boot: u64, at: u64, wall: i64) -> Moment {
        Moment { boot, at: BootMs(at), wall: WallMs(wall) }
    }

    #[test]
    fn within_a_boot_the_wall_clock_counts_for_nothing() {
        let then = moment(1, 1000, 5_000_000);
        assert_eq!(then.until(&moment(1, 4000, 0)), 3000);
        assert_eq!(then.until(&moment(1, 4000, i64::MAX)), 3000);
        assert_eq!(then.until(&moment(1, 0, 5_000_000)), 0);
    }

    #[test]
    fn over_a_boot_it_is_all_there_is_and_nonsense_is_nothing() {
        let then = moment(1, 1000, 5_000_000);
        assert_eq!(then.until(&moment(2, 10, 5_060_000)), 60_000);
        for wall in [0, i64::MIN, 4_999_999] {
            assert_eq!(then.until(&moment(2, 10, wall)), 0, "{wall}");
        }
        assert_eq!(moment(1, 0, i64::MIN).until(&moment(2, 0, i64::MAX)), i64::MAX.cast_unsigned());
    }

    #[test]
    fn a_mark_is_at_most_so_old_and_never_in_the_future() {
        let mark = moment(1, 1000, 5_000_000);
        let (soon, late) = (moment(2, 10, 5_060_000), moment(2, 10, 9_000_000));
        assert_eq!(mark.later(600_000, &soon), soon);
        assert_eq!(mark.later(600_000, &late).until(&late), 3_400_000);
    }
}
