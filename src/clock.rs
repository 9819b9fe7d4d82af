//! The clock seam: boot time, wall time, and whether the wall time is to be believed.
//!
//! Everything is *ordered* by boot time, which nobody can set. Wall time is only derived, so a step
//! of the wall clock never drops, reorders or delays a reading.

use std::time::Duration;

use tokio::time::Instant;

use crate::message::{BootMs, WallMs};

/// Time as the gateway sees it. One implementation reads the system, tests bring their own.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Time since boot.
    fn boot(&self) -> BootMs;
    /// Wall time now, right or wrong.
    fn wall(&self) -> WallMs;
    /// Whether wall time can be believed: disciplined by NTP, PTP or GPS, or kept by a battery.
    fn synced(&self) -> bool;
    /// Tells one boot from another (`/proc/sys/kernel/random/boot_id`).
    fn boot_id(&self) -> &str;

    /// Boot time of an instant of this process (past or future).
    fn boot_of(&self, at: Instant) -> BootMs {
        let (now, boot) = (Instant::now(), self.boot());
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        match now.checked_duration_since(at) {
            Some(ago) => BootMs(boot.0.saturating_sub(ms(ago))),
            None => BootMs(boot.0.saturating_add(ms(at.duration_since(now)))),
        }
    }

    /// Wall time of a moment of this boot, by the present relation of both clocks.
    fn wall_of(&self, at: BootMs) -> WallMs {
        WallMs(self.wall().0 + (at.0.cast_signed() - self.boot().0.cast_signed()))
    }
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    boot_id: String,
    trusted: bool,
}

impl SystemClock {
    /// Reads the boot id. `trusted`: the configuration says that the wall clock is always right.
    #[must_use]
    pub fn new(trusted: bool) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned());
        Self { boot_id, trusted }
    }
}

/// A wall time before this was never true for this program: 2026-01-01.
const OLDEST_PLAUSIBLE: WallMs = WallMs(1_767_225_600_000);

impl Clock for SystemClock {
    fn boot(&self) -> BootMs {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        BootMs(
            u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000,
        )
    }

    fn wall(&self) -> WallMs {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        WallMs(t.tv_sec * 1000 + t.tv_nsec / 1_000_000)
    }

    /// The kernel's own word (`STA_UNSYNC` clear), systemd-timesyncd's mark, or a battery-kept clock.
    fn synced(&self) -> bool {
        self.wall() >= OLDEST_PLAUSIBLE
            && (self.trusted
                || kernel_says_synced()
                || std::path::Path::new("/run/systemd/timesync/synchronized").exists()
                || std::path::Path::new("/sys/class/rtc/rtc0").exists())
    }

    fn boot_id(&self) -> &str {
        &self.boot_id
    }
}

fn kernel_says_synced() -> bool {
    // SAFETY: `timex` is plain data for which all zeroes is valid; modes = 0 only reads; the pointer
    // is to a live local for the whole call.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    state >= 0 && state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_tells_plausible_times() {
        let clock = SystemClock::new(true);
        assert!(clock.boot().0 > 0 && clock.wall() > OLDEST_PLAUSIBLE && clock.synced());
        assert!(!clock.boot_id().is_empty());
        let _ = kernel_says_synced();
    }

    #[tokio::test]
    async fn an_instant_keeps_its_place_on_the_wall() {
        let clock = SystemClock::new(true);
        let at = Instant::now();
        tokio::time::sleep(Duration::from_millis(30)).await;
        let late = clock.wall().0 - clock.wall_of(clock.boot_of(at)).0;
        assert!((25..1000).contains(&late), "{late} ms");
    }
}
