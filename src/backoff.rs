//! How long to wait before the next attempt: doubling, bounded, with jitter. Pure.

use std::time::Duration;

/// A growing wait. Reset it on success.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// Waits of `min`, `2 min`, `4 min` … up to `max`, each shortened by up to half.
    ///
    /// # Errors
    /// A sentence, if the two do not fit together.
    pub fn new(min: Duration, max: Duration) -> Result<Self, &'static str> {
        if min.is_zero() {
            return Err("the shortest wait must not be zero");
        }
        if min > max {
            return Err("the shortest wait is longer than the longest");
        }
        Ok(Self { min, max, attempt: 0 })
    }

    /// The next wait. `unit` is a random number in `0.0..1.0`, so that a thousand gateways do not
    /// come back in the same instant after a broker's restart.
    #[must_use]
    pub fn next(&mut self, unit: f64) -> Duration {
        let full = self.min.saturating_mul(1 << self.attempt.min(20)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        full.mul_f64(1.0 - unit.clamp(0.0, 1.0) / 2.0).max(self.min.mul_f64(0.5))
    }

    /// The longest wait, for when hurrying is known to be of no use. `unit` as for [`Backoff::next`].
    #[must_use]
    pub fn longest(&mut self, unit: f64) -> Duration {
        self.attempt = u32::MAX;
        self.next(unit)
    }

    /// Starts again from the shortest wait.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_starts_again() {
        let mut b = Backoff::new(Duration::from_secs(1), Duration::from_secs(60)).expect("fits");
        let waits: Vec<u64> = (0..8).map(|_| b.next(0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(b.next(1.0), Duration::from_secs(30));
        b.reset();
        assert_eq!(b.next(0.0), Duration::from_secs(1));
        assert_eq!(b.longest(0.0), Duration::from_secs(60));
        assert_eq!(b.next(0.0), Duration::from_secs(60), "and no shorter one follows");
        assert!(Backoff::new(Duration::ZERO, Duration::from_secs(1)).is_err());
    }
}
