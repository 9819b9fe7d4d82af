//! How many bytes may go out now: a token bucket for `max_rate`. Pure.
//!
//! It holds a quarter of a second's bytes, so a link that was quiet sends at most that much at once. What
//! TLS and WebSocket add is known only after it went out; it is taken off then, and the level may fall
//! below zero: the next bytes wait for it, and over time the rate is kept exactly.

use std::time::Duration;

use tokio::time::Instant;

use crate::bounds;

/// The bucket of one uplink; it outlives its connections.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Bytes per second; 0: no limit.
    rate: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full one. `per_second` 0: no limit.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate of 2^53 bytes per second will not be reached")]
    pub fn new(per_second: u64, now: Instant) -> Self {
        let rate = per_second as f64;
        Self { rate, level: rate / 4.0, at: now }
    }

    /// Bytes that fit in a full bucket; `None` without a limit.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a quarter of a rate")]
    pub fn depth(&self) -> Option<usize> {
        (self.rate > 0.0).then_some((self.rate / 4.0) as usize)
    }

    /// Most bytes in flight: with a limit no more than go out in four seconds, so that an acknowledgement
    /// that is missing is missed in time.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.depth().map_or(bounds::UPLINK_WINDOW_BYTES, |d| (16 * d).min(bounds::UPLINK_WINDOW_BYTES))
    }

    /// Bytes beyond which no new message is encoded: with a limit only what can go in a moment, so that a
    /// live reading never waits for a buffer full of backlog.
    #[must_use]
    pub fn encoded(&self) -> usize {
        self.depth().unwrap_or(usize::MAX).min(bounds::UPLINK_OUT_BYTES)
    }

    /// How many of `waiting` bytes may go now. Never a few bytes at a time: half a bucket, or all that waits.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= level <= depth here")]
    pub fn allowance(&self, waiting: usize, now: Instant) -> usize {
        if self.rate <= 0.0 {
            return waiting;
        }
        let level = self.level_at(now);
        if level >= self.worthwhile(waiting) { waiting.min(level as usize) } else { 0 }
    }

    /// When some of `waiting` bytes may go; `None` if that is not for the bucket to say.
    #[must_use]
    pub fn ready_at(&self, waiting: usize, now: Instant) -> Option<Instant> {
        if self.rate <= 0.0 || waiting == 0 {
            return None;
        }
        let missing = self.worthwhile(waiting) - self.level_at(now);
        // A millisecond more, so that rounding never wakes us just before there is enough.
        Some(
            now + Duration::from_secs_f64((missing / self.rate).clamp(0.0, 3600.0))
                + Duration::from_millis(1),
        )
    }

    /// So many bytes went out.
    #[expect(clippy::cast_precision_loss, reason = "bytes of one turn")]
    pub fn spent(&mut self, bytes: u64, now: Instant) {
        if self.rate > 0.0 {
            self.level = self.level_at(now) - bytes as f64;
            self.at = now;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "bytes of one turn")]
    fn worthwhile(&self, waiting: usize) -> f64 {
        (self.rate / 8.0).min(waiting as f64).max(1.0)
    }

    fn level_at(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + passed * self.rate).min(self.rate / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_everything_goes_at_once() {
        let now = Instant::now();
        let mut bucket = Bucket::new(0, now);
        bucket.spent(1 << 40, now);
        assert_eq!(
            (bucket.allowance(1 << 20, now), bucket.ready_at(9, now), bucket.depth()),
            (1 << 20, None, None)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_were_added_on_the_way_are_waited_for() {
        let now = Instant::now();
        let mut bucket = Bucket::new(4000, now);
        assert_eq!((bucket.depth(), bucket.allowance(5000, now)), (Some(1000), 1000));
        bucket.spent(1400, now);
        assert_eq!(bucket.allowance(5000, now), 0);
        // 400 below zero, and half a bucket: 900 bytes at 4 a millisecond.
        let ready = bucket.ready_at(5000, now).expect("a limit");
        assert_eq!(ready, now + Duration::from_millis(226));
        assert!(bucket.allowance(5000, ready) >= 500);
        assert_eq!(bucket.allowance(5000, now + Duration::from_secs(3600)), 1000, "it does not overflow");
        assert_eq!(
            bucket.allowance(3, now + Duration::from_millis(101)),
            3,
            "a few bytes go if they are all"
        );
    }

    proptest! {
        #[test]
        fn over_time_the_rate_is_kept_and_nothing_waits_for_ever(
            rate in 256u64..1_000_000,
            sizes in prop::collection::vec((1usize..20_000, 0u64..100), 1..50),
        ) {
            let rt = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
            let _in = rt.enter();
            let start = Instant::now();
            let mut bucket = Bucket::new(rate, start);
            let (mut now, mut total, mut last) = (start, 0u64, 0u64);
            for (size, more) in sizes {
                let mut waiting = size;
                while waiting > 0 {
                    let n = bucket.allowance(waiting, now);
                    if n == 0 {
                        let ready = bucket.ready_at(waiting, now).expect("a limit");
                        prop_assert!(ready > now && bucket.allowance(waiting, ready) > 0);
                        now = ready;
                        continue;
                    }
                    waiting -= n;
                    last = n as u64 + more;
                    bucket.spent(last, now);
                    total += last;
                }
            }
            let passed = now.duration_since(start).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let allowed = rate as f64 * (passed + 0.25) + last as f64;
            prop_assert!(total as f64 <= allowed + 1.0, "{total} bytes in {passed} s");
        }
    }
}
