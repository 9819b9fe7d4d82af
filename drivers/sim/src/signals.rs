//! Test signals, pure: the same seed, point and time give the same value, on every machine.
//!
//! A signal of two levels never leaves `low..=high` and is never NaN or infinite, whatever finite
//! numbers it was given. Time is counted in whole nanoseconds, so waves are exactly periodic even
//! after years.

use std::time::Duration;

/// A number that changes with time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Signal {
    /// A sine between the two levels; its phase differs from point to point.
    Sine(Wave),
    /// Rises from low to high and falls back at once; its phase differs from point to point.
    Ramp(Wave),
    /// Low for half a period, high for the other half; its phase differs from point to point.
    Square(Wave),
    /// A new evenly distributed number between the levels at every period.
    Random(Wave),
    /// Counts up by one at every period.
    Counter {
        /// The first number.
        start: f64,
        /// Time between two numbers.
        period: Duration,
    },
    /// Always the same.
    Constant(f64),
}

/// Two levels and a period. A period of zero counts as one nanosecond.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wave {
    /// The lower level; finite.
    pub low: f64,
    /// The upper level; finite, not below `low`.
    pub high: f64,
    /// Time of one repetition.
    pub period: Duration,
}

impl Signal {
    /// The value of the point with this [`key`], so long after the signal's beginning.
    #[must_use]
    pub fn number(&self, key: u64, at: Duration) -> f64 {
        match self {
            Self::Sine(w) => w.between(0.5 - 0.5 * (w.phase(key, at) * std::f64::consts::TAU).cos()),
            Self::Ramp(w) => w.between(w.phase(key, at)),
            Self::Square(w) => w.between(if w.phase(key, at) < 0.5 { 0.0 } else { 1.0 }),
            Self::Random(w) => w.between(unit(mix(key ^ mix(steps(at, w.period))))),
            Self::Counter { start, period } => start + steps(at, *period) as f64,
            Self::Constant(value) => *value,
        }
    }

    /// The level that divides true from false where a boolean is asked for.
    #[must_use]
    pub fn middle(&self) -> f64 {
        match self {
            Self::Sine(w) | Self::Ramp(w) | Self::Square(w) | Self::Random(w) => w.between(0.5),
            Self::Counter { .. } | Self::Constant(_) => 0.5,
        }
    }
}

impl Wave {
    /// Where in its repetition the wave is, 0.0 to below 1.0.
    fn phase(&self, key: u64, at: Duration) -> f64 {
        let period = self.period.as_nanos().max(1);
        let offset = u128::from(key) % period;
        (((at.as_nanos() % period) + offset) % period) as f64 / period as f64
    }

    /// The level at this share of the way from low to high. The weighted sum cannot overflow where
    /// `high - low` would.
    fn between(&self, share: f64) -> f64 {
        let level = self.low * (1.0 - share) + self.high * share;
        level.max(self.low).min(self.high)
    }
}

/// Whole periods that have passed.
#[must_use]
pub fn steps(at: Duration, period: Duration) -> u64 {
    u64::try_from(at.as_nanos() / period.as_nanos().max(1)).unwrap_or(u64::MAX)
}

/// The number that stands for a point of a seed: FNV-1a over the name, well mixed.
#[must_use]
pub fn key(seed: u64, name: &str) -> u64 {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    mix(hash ^ mix(seed))
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit moves every output bit.
#[must_use]
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number in `0.0..1.0` from 53 of the bits.
#[must_use]
pub fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waves() -> impl Strategy<Value = (fn(Wave) -> Signal, Wave)> {
        let shape = prop_oneof![
            Just(Signal::Sine as fn(Wave) -> Signal),
            Just(Signal::Ramp as fn(Wave) -> Signal),
            Just(Signal::Square as fn(Wave) -> Signal),
            Just(Signal::Random as fn(Wave) -> Signal),
        ];
        let finite = any::<f64>().prop_map(|x| if x.is_finite() { x } else { f64::MAX });
        (shape, finite.clone(), finite, 0_u64..u64::MAX).prop_map(|(shape, a, b, ns)| {
            (shape, Wave { low: a.min(b), high: a.max(b), period: Duration::from_nanos(ns) })
        })
    }

    proptest! {
        #[test]
        fn no_wave_leaves_its_levels((shape, wave) in waves(), key: u64, at: u64) {
            let x = shape(wave).number(key, Duration::from_nanos(at));
            prop_assert!(x >= wave.low && x <= wave.high, "{x}");
        }

        #[test]
        fn the_middle_is_between_the_levels((shape, wave) in waves()) {
            let x = shape(wave).middle();
            prop_assert!(x >= wave.low && x <= wave.high);
        }

        #[test]
        fn waves_repeat_exactly(key: u64, at in 0_u64..1 << 60, period in 1_u64..1 << 40, n in 0_u32..1000) {
            let wave = Wave { low: -3.0, high: 7.5, period: Duration::from_nanos(period) };
            for shape in [Signal::Sine, Signal::Ramp, Signal::Square] {
                let (now, later) = (Duration::from_nanos(at), Duration::from_nanos(at) + wave.period * n);
                prop_assert_eq!(shape(wave).number(key, now), shape(wave).number(key, later));
            }
        }

        #[test]
        fn a_counter_never_goes_back(a in 0_u64..1 << 50, b in 0_u64..1 << 50, period in 1_u64..1 << 40) {
            let s = Signal::Counter { start: 0.0, period: Duration::from_nanos(period) };
            let (first, second) = (a.min(b), a.max(b));
            let at = |ns| s.number(1, Duration::from_nanos(ns));
            prop_assert!(at(first) <= at(second));
        }

        #[test]
        fn a_share_is_a_share(bits: u64) {
            prop_assert!((0.0..1.0).contains(&unit(bits)));
        }
    }

    #[test]
    fn a_ramp_rises_and_a_square_has_two_levels() {
        let wave = Wave { low: 0.0, high: 10.0, period: Duration::from_secs(10) };
        let at = |signal: Signal, s| signal.number(0, Duration::from_secs(s));
        assert_eq!(at(Signal::Ramp(wave), 3), 3.0);
        assert_eq!(at(Signal::Ramp(wave), 13), 3.0);
        assert_eq!((at(Signal::Square(wave), 4), at(Signal::Square(wave), 5)), (0.0, 10.0));
        assert_eq!((at(Signal::Sine(wave), 0), at(Signal::Sine(wave), 5)), (0.0, 10.0));
    }

    #[test]
    fn names_and_seeds_make_different_points() {
        assert_ne!(key(1, "a"), key(1, "b"));
        assert_ne!(key(1, "a"), key(2, "a"));
        assert_eq!(key(1, "a"), key(1, "a"));
    }

    #[test]
    fn random_values_use_their_whole_range() {
        let wave = Wave { low: 0.0, high: 1.0, period: Duration::from_secs(1) };
        let values: Vec<f64> =
            (0..1000).map(|s| Signal::Random(wave).number(key(1, "x"), Duration::from_secs(s))).collect();
        let mean = values.iter().sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
        assert!(values.iter().any(|v| *v < 0.05) && values.iter().any(|v| *v > 0.95));
    }
}
