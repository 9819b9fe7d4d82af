//! Waiting for a moment, exactly.
//!
//! A timer of the kernel (`timerfd`) wakes the task shortly before the moment; the rest is spent looking at
//! the clock. It is never early. How long before is learned from how late the timer was: a processor that
//! sleeps takes 20 to 200 µs until a thread runs again, depending on how deeply.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// The least and the most that the timer goes off before the moment. At 150 exchanges a second on a fast line
/// the most costs 3 % of a core, and nothing while nobody waits.
const EARLY: (Duration, Duration) = (Duration::from_micros(40), Duration::from_micros(200));

/// A timer of one task.
#[derive(Debug)]
pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
    /// How long before the moment it goes off.
    early: Duration,
}

impl Alarm {
    /// A timer that is not set.
    ///
    /// # Errors
    /// No more descriptors, or no tokio runtime with I/O.
    pub fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe because a type may lie about its descriptor; an owned one cannot"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { timer, early: EARLY.0 })
    }

    /// Returns at `at`, or at once if that has passed. Cancel safe. Means real time: under a paused clock
    /// it does not return.
    ///
    /// # Errors
    /// The kernel's timer failed, which it does not for a descriptor that is open.
    pub async fn until(&mut self, at: Instant) -> io::Result<()> {
        loop {
            let left = at.saturating_duration_since(Instant::now());
            let Some(sleep) = left.checked_sub(self.early).filter(|sleep| !sleep.is_zero()) else {
                while Instant::now() < at {
                    std::hint::spin_loop();
                }
                return Ok(());
            };
            let value = Timespec {
                tv_sec: i64::try_from(sleep.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: sleep.subsec_nanos().into(),
            };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
            timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            let mut ready = self.timer.readable().await?;
            let mut count = [0; 8];
            if let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?)) {
                read?;
                let wanted = at.checked_sub(self.early).unwrap_or(at);
                self.early = learned(self.early, Instant::now().saturating_duration_since(wanted));
            }
        }
    }
}

/// How early the timer is to be after it was so late: as late as it was, at once, and less only slowly.
fn learned(early: Duration, late: Duration) -> Duration {
    let next = if late > early { (early + late) / 2 } else { early - (early - late) / 16 };
    next.clamp(EARLY.0, EARLY.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_moment_is_never_missed_to_the_early_side() {
        let mut alarm = Alarm::new().expect("a timer");
        for us in [0, 10, 59, 61, 300, 2500] {
            let at = Instant::now() + Duration::from_micros(us);
            alarm.until(at).await.expect("waits");
            assert!(Instant::now() >= at, "{us} µs");
        }
    }

    #[test]
    fn it_becomes_as_early_as_the_timer_is_late_and_never_more_than_is_allowed() {
        let us = Duration::from_micros;
        let mut early = EARLY.0;
        for _ in 0..6 {
            early = learned(early, us(120));
        }
        assert!(early > us(115) && early <= us(120), "{early:?}");
        assert_eq!(learned(early, us(5000)), EARLY.1, "a thread that was not scheduled says nothing");
        for _ in 0..200 {
            early = learned(early, us(10));
        }
        assert_eq!(early, EARLY.0);
    }

    #[tokio::test]
    async fn a_wait_that_was_dropped_does_not_shorten_the_next() {
        let mut alarm = Alarm::new().expect("a timer");
        tokio::select! {
            biased;
            _ = alarm.until(Instant::now() + Duration::from_millis(2)) => unreachable!("it is 2 ms away"),
            () = std::future::ready(()) => {}
        }
        let at = Instant::now() + Duration::from_millis(30);
        alarm.until(at).await.expect("waits");
        assert!(Instant::now() >= at);
    }
}
