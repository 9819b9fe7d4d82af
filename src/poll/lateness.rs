//! How late polls begin: the worst and nearly the worst of the last minute or two. Pure and small.
//!
//! Lateness is counted in classes that grow by a quarter, so that a figure of any size is right within
//! that and the memory is one array. Two windows of a minute overlap: the figures are of the running one
//! and the one before.

use std::time::Duration;

use tokio::time::Instant;

/// Classes of lateness: the first is up to 1 ms, the last takes everything beyond 8 minutes.
const CLASSES: usize = 64;
const GROWTH: f64 = 1.25;
const WINDOW: Duration = Duration::from_secs(60);

/// Of the last one to two minutes.
#[derive(Debug)]
pub struct Lateness {
    running: Window,
    before: Window,
    since: Instant,
}

#[derive(Debug, Clone)]
struct Window {
    classes: [u32; CLASSES],
    worst: Duration,
}

const EMPTY: Window = Window { classes: [0; CLASSES], worst: Duration::ZERO };

impl Lateness {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { running: EMPTY, before: EMPTY, since: now }
    }

    /// A poll began at `now`, so long after it was due.
    pub fn note(&mut self, late: Duration, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed >= WINDOW {
            let running = std::mem::replace(&mut self.running, EMPTY);
            self.before = if passed >= WINDOW * 2 { EMPTY } else { running };
            self.since = now;
        }
        self.running.worst = self.running.worst.max(late);
        let class = (late.as_secs_f64() * 1e3).max(1.0).ln() / GROWTH.ln();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 63")]
        let class = (class.ceil() as usize).min(CLASSES - 1);
        self.running.classes[class] = self.running.classes[class].saturating_add(1);
    }

    /// The longest.
    #[must_use]
    pub fn worst(&self) -> Duration {
        self.running.worst.max(self.before.worst)
    }

    /// What 99 of 100 polls did not exceed (within a quarter).
    #[must_use]
    pub fn p99(&self) -> Duration {
        let both = || {
            self.running.classes.iter().zip(&self.before.classes).map(|(a, b)| u64::from(*a) + u64::from(*b))
        };
        let mut beyond = both().sum::<u64>() / 100;
        for (class, count) in both().enumerate().rev() {
            if count > beyond {
                let bound = GROWTH.powi(i32::try_from(class).unwrap_or(0)) / 1e3;
                return Duration::from_secs_f64(bound).min(self.worst());
            }
            beyond -= count;
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_of_a_thousand_is_the_worst_but_not_the_99th() {
        let now = Instant::now();
        let mut lateness = Lateness::new(now);
        (0..999).for_each(|n| lateness.note(MS * (n % 20), now));
        lateness.note(MS * 700, now);
        assert_eq!(lateness.worst(), MS * 700);
        assert!(lateness.p99() >= MS * 19 && lateness.p99() <= MS * 24, "{:?}", lateness.p99());
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let now = Instant::now();
        let mut lateness = Lateness::new(now);
        assert_eq!((lateness.worst(), lateness.p99()), (Duration::ZERO, Duration::ZERO));
        lateness.note(MS * 700, now);
        lateness.note(MS, now + WINDOW);
        assert_eq!(lateness.worst(), MS * 700);
        lateness.note(MS, now + WINDOW * 2);
        assert_eq!(lateness.worst(), MS);
        assert_eq!(lateness.p99(), MS);
    }
}
