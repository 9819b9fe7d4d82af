//! Waiting for a moment, exactly.
//!
//! A timer of the kernel (`timerfd`) wakes the task shortly before the moment; the rest, at most
//! [`SPIN`], is spent looking at the clock. It is never early.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// How long before the moment the timer goes off: what a sleeping thread needs to be running again. At
/// 150 exchanges a second on a fast line it costs 0.9 % of a core at worst.
const SPIN: Duration = Duration::from_micros(60);

/// A timer of one task.
#[derive(Debug)]
pub struct Alarm(AsyncFd<OwnedFd>);

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
        Ok(Self(AsyncFd::new(timer)?))
    }

    /// Returns at `at`, or at once if that has passed. Cancel safe. Means real time: under a paused clock
    /// it does not return.
    ///
    /// # Errors
    /// The kernel's timer failed, which it does not for a descriptor that is open.
    pub async fn until(&mut self, at: Instant) -> io::Result<()> {
        loop {
            let left = at.saturating_duration_since(Instant::now());
            let Some(sleep) = left.checked_sub(SPIN).filter(|sleep| !sleep.is_zero()) else {
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
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            let mut ready = self.0.readable().await?;
            let mut count = [0; 8];
            if let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?)) {
                read?;
            }
        }
    }
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
