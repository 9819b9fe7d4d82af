//! So many things a second, and so many at once: a token bucket that is one instant. Pure.
//!
//! Instead of tokens it keeps the moment at which it will be full again; each thing moves that moment on by its
//! share of a second. An untouched bucket costs nothing and needs no timer.

use tokio::time::{Duration, Instant};

/// What a bucket allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Things a second; 0: as many as come.
    pub per_s: u32,
    /// Things at once, after a rest. At least 1.
    pub burst: u32,
}

impl Rate {
    fn each(self) -> Option<Duration> {
        Duration::from_secs(1).checked_div(self.per_s)
    }
}

/// A token bucket. A new one is full.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one, if one is there.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        if self.wait(rate, now).is_some() {
            return false;
        }
        self.owe(rate, now);
        true
    }

    /// Takes one, whether it is there or not: it has happened.
    pub fn owe(&mut self, rate: Rate, now: Instant) {
        if let Some(each) = rate.each() {
            self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + each);
        }
    }

    /// How long until one is there; `None`: one is.
    #[must_use]
    pub fn wait(&self, rate: Rate, now: Instant) -> Option<Duration> {
        let each = rate.each()?;
        let missing = self.full_at?.saturating_duration_since(now);
        let over = missing.saturating_sub(each * (rate.burst.max(1) - 1));
        (!over.is_zero()).then_some(over)
    }

    /// Whether it is as good as new.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_then_a_burst_again_after_a_rest() {
        let (rate, start) = (Rate { per_s: 10, burst: 5 }, Instant::now());
        let ms = |n| start + Duration::from_millis(n);
        let mut bucket = Bucket::default();
        assert_eq!((0..9).filter(|_| bucket.take(rate, start)).count(), 5);
        assert_eq!(bucket.wait(rate, start), Some(Duration::from_millis(100)));
        assert!(!bucket.take(rate, ms(99)) && bucket.take(rate, ms(100)) && !bucket.take(rate, ms(100)));
        assert_eq!(
            (200..1200).filter(|t| bucket.take(rate, ms(*t))).count(),
            10,
            "ten a second, not one more"
        );
        assert!(!bucket.is_full(ms(1200)) && bucket.is_full(ms(1800)));
        assert_eq!(
            (0..9).filter(|_| bucket.take(rate, ms(60_000))).count(),
            5,
            "a long rest saves up no more"
        );
    }

    #[test]
    fn what_has_happened_is_owed_and_waited_for() {
        let (rate, now) = (Rate { per_s: 100, burst: 1 }, Instant::now());
        let mut bucket = Bucket::default();
        (0..50).for_each(|_| bucket.owe(rate, now));
        assert_eq!(bucket.wait(rate, now), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_rate_of_0_is_none() {
        let (rate, now) = (Rate { per_s: 0, burst: 0 }, Instant::now());
        let mut bucket = Bucket::default();
        assert!((0..100_000).all(|_| bucket.take(rate, now)));
        assert_eq!((bucket.wait(rate, now), bucket.is_full(now)), (None, true));
    }
}
