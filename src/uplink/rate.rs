//! Readings acknowledged per second, smoothed. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// How often the rate is told.
pub(super) const RATE_TICK: Duration = Duration::from_secs(1);

/// The rate of one connection.
pub(super) struct Rate {
    per_second: f64,
    counted: u64,
    since: Instant,
}

impl Rate {
    /// From now on; `counted` is what was delivered before.
    pub(super) fn new(counted: u64, now: Instant) -> Self {
        Self { per_second: 0.0, counted, since: now }
    }

    /// The rate, once a tick.
    #[expect(clippy::cast_precision_loss, reason = "a count within one second is far below 2^53")]
    pub(super) fn tick(&mut self, delivered: u64, now: Instant) -> Option<f64> {
        let elapsed = now.duration_since(self.since);
        if elapsed < RATE_TICK {
            return None;
        }
        let rate = delivered.saturating_sub(self.counted) as f64 / elapsed.as_secs_f64();
        // About the last ten seconds: each second weighs a fifth of what is known.
        self.per_second += (rate - self.per_second) * 0.2;
        (self.counted, self.since) = (delivered, now);
        Some(self.per_second)
    }
}
