//! How far a box can have come since its database was copied. Pure.

use crate::bounds;

/// How fast numbers were given out in the newest boot of which there are blocks: two of its moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    boot: u32,
    first: Option<(u64, u64)>,
    last: (u64, u64),
}

impl Pace {
    /// A block of this boot that begins with this number, between these times.
    pub fn note(&mut self, boot: u32, seq: u64, times: [u64; 2]) {
        if self.boot != boot || self.first.is_none() {
            *self = Self { boot, first: Some((seq, times[0])), last: (seq, times[0]) };
        }
        self.last = (seq, times[0]);
    }

    /// Numbers and the ms they took.
    fn measured(&self) -> Option<(u64, u64)> {
        let (seq, at) = self.first?;
        let (n, ms) = (self.last.0.checked_sub(seq)?, self.last.1.checked_sub(at)?);
        (n > 0 && ms >= MEASURED_MS).then_some((n, ms))
    }
}

/// A shorter stretch says nothing of how fast numbers are given out.
const MEASURED_MS: u64 = 10_000;

/// The most a box can be thought to have taken in `elapsed` ms: twice as fast as it was seen to go, and the bound of a
/// power cut above that. Where it was not seen, a bound each second: it is what two commits have at most between them.
#[must_use]
pub fn most_since(pace: &Pace, bound: u64, elapsed: u64) -> u64 {
    let bound = bound.max(bounds::STORE_POWER_CUT);
    let (n, ms) = pace.measured().map_or((bound, 1000), |(n, ms)| (n.saturating_mul(2), ms));
    let most = u128::from(n) * u128::from(elapsed) / u128::from(ms.max(1));
    u64::try_from(most).unwrap_or(u64::MAX).saturating_add(bound).min(FARTHEST)
}

/// Numbers stay in what JSON readers count exactly, whatever the clocks say: 2^50 readings are a thousand
/// readings a second for 35,000 years.
const FARTHEST: u64 = 1 << 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_far_as_it_can_have_come_is_twice_as_fast_as_it_went() {
        let mut pace = Pace::default();
        assert_eq!(most_since(&pace, 256, 10_000), 2560 + 256, "nothing was seen");
        for n in 0..=60 {
            pace.note(3, 1000 + n * 10, [5000 + n * 1000, 5999 + n * 1000]);
        }
        assert_eq!(pace.measured(), Some((600, 60_000)));
        assert_eq!(most_since(&pace, 256, 3_600_000), 2 * 36_000 + 256);
        pace.note(4, 9000, [1, 2]);
        assert_eq!(pace.measured(), None, "another boot has another clock");
        assert_eq!(most_since(&pace, u64::MAX, u64::MAX), FARTHEST);
    }
}
