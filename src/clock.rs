//! The clock seam: boot time, wall time, and whether the wall time is to be believed.
//!
//! Everything is *ordered* by boot time, which nobody can set. Wall time is only derived, so a step
//! of the wall clock never drops, reorders or delays a reading.

use std::path::Path;
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
    /// Whether somebody outside this box vouches for it. What only a battery or the configuration vouches for may be years off,
    /// and nobody would know.
    fn witnessed(&self) -> bool {
        self.synced()
    }
    /// Tells one boot from another (`/proc/sys/kernel/random/boot_id`).
    fn boot_id(&self) -> &str;

    /// Both clocks at one moment, as nearly as they can be read one after the other: a reading between which
    /// this thread was put to sleep is taken again.
    fn both(&self) -> (BootMs, WallMs) {
        let mut best: Option<(u64, BootMs, WallMs)> = None;
        for _ in 0..LOOKS {
            let (before, wall) = (self.boot(), self.wall());
            let apart = self.boot().0.saturating_sub(before.0);
            if best.is_none_or(|(least, ..)| apart < least) {
                best = Some((apart, before, wall));
            }
            if apart <= APART_MS {
                break;
            }
        }
        best.map_or_else(|| (self.boot(), self.wall()), |(_, boot, wall)| (boot, wall))
    }

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

/// Looks at both clocks before the best of them has to do.
const LOOKS: usize = 5;
/// Clocks read so near to each other were read at one moment: ms, less than what is taken for a step.
const APART_MS: u64 = 2;

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    boot_id: String,
    trusted: bool,
    /// A battery-kept clock held the wall time itself when this process began.
    kept: bool,
}

impl SystemClock {
    /// Reads the boot id, and once the hardware clock. `trusted`: the configuration says that the wall
    /// clock is always right.
    #[must_use]
    pub fn new(trusted: bool) -> Self {
        Self::with_rtc(trusted, Path::new(RTC))
    }

    /// As [`SystemClock::new`], with the hardware clock's seconds since 1970 (UTC) in the file `rtc`.
    #[must_use]
    fn with_rtc(trusted: bool, rtc: &Path) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned());
        let mut clock = Self { boot_id, trusted, kept: false };
        let told = std::fs::read_to_string(rtc).unwrap_or_default();
        clock.kept = rtc_holds(&told, clock.wall());
        clock
    }
}

/// The kernel's first hardware clock (`Documentation/ABI/testing/sysfs-class-rtc`: `since_epoch`).
const RTC: &str = "/sys/class/rtc/rtc0/since_epoch";

/// A hardware clock counts whole seconds, and reading one over I2C takes its time.
const RTC_APART_MS: u64 = 5000;

/// Whether a hardware clock that says `told` has itself kept the wall time `wall`. Pure.
///
/// That there is one proves nothing: a Pi 5 always has one, but its battery is optional. Without it the
/// hardware clock counts from 1970 after a power cut, while the wall clock is set from the date of a file
/// (systemd-timesyncd, fake-hwclock), which is plausible and wrong: the two differ, and neither is believed.
/// (A Pi 5 that was only rebooted kept its power, and so the time; there both agree, rightly.)
///
/// What cannot be told from here: somebody wrote a wrong wall time into the hardware clock (`hwclock -w`).
/// One that runs in local time is not believed; NTP settles it.
fn rtc_holds(told: &str, wall: WallMs) -> bool {
    let Some(rtc) = told.trim().parse::<i64>().ok().and_then(|s| s.checked_mul(1000)) else { return false };
    rtc >= OLDEST_PLAUSIBLE.0 && wall >= OLDEST_PLAUSIBLE && rtc.abs_diff(wall.0) <= RTC_APART_MS
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

    /// Asked of the C library, so that a test may stand between (`tests/clock.rs`).
    fn wall(&self) -> WallMs {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        let now = std::time::SystemTime::now();
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        WallMs(now.duration_since(std::time::UNIX_EPOCH).map_or_else(|e| -ms(e.duration()), ms))
    }

    /// The kernel's own word, systemd-timesyncd's mark, or a battery-kept clock that held the time when this process
    /// began.
    fn synced(&self) -> bool {
        let plausible = self.wall() >= OLDEST_PLAUSIBLE;
        plausible && (self.trusted || self.kept || self.witnessed())
    }

    fn witnessed(&self) -> bool {
        let wall = self.wall();
        wall >= OLDEST_PLAUSIBLE && (kernel_says_synced() || timesyncd_says_synced(wall))
    }

    fn boot_id(&self) -> &str {
        &self.boot_id
    }
}

/// Whether `STA_UNSYNC` is clear (adjtimex(2)). The kernel begins with it set, sets it when anybody sets the clock, and again when
/// the last word of a time server is so old that it could be off by 16 s (`kernel/time/ntp.c`: 500 ppm, so 9 hours).
/// Who clears it, and only after the clock was stepped:
/// - systemd-timesyncd with each answer, except where the hardware clock runs in local time (`timesyncd-manager.c`);
/// - chronyd once it has chosen a source, but only with `rtcsync` in its configuration (`sys_timex.c`), as Debian
///   ships it. Without that it is never cleared: then `clock = "trusted"` is what is left;
/// - ntpd and ntpsec with the kernel's discipline (their default), linuxptp's phc2sys. gpsd sets no clock itself, it feeds
///   one of these.
///
/// A difference below a second they do not step but slew, and say that the clock is set meanwhile: the wall clock may be
/// that much off, and so are the times of these minutes. (Boot time is slewed with it, so there is no later step.)
fn kernel_says_synced() -> bool {
    // SAFETY: `timex` is plain data for which all zeroes is valid; modes = 0 only reads; the pointer
    // is to a live local for the whole call.
    let (state, timex) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex)
    };
    state >= 0 && state != libc::TIME_ERROR && timex.status & libc::STA_UNSYNC == 0
}

/// systemd-timesyncd's mark (systemd-timesyncd.service(8)): touched with each answer of a server, and never removed.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";
/// An older mark says nothing of the clock as it is now: it may have been set by hand since. The longest wait between
/// two answers is 34 min by default (`PollIntervalMaxSec=` in timesyncd.conf(5)).
const MARK_FRESH_MS: i64 = 2 * 3600 * 1000;

/// What the kernel cannot say where the hardware clock runs in local time.
fn timesyncd_says_synced(wall: WallMs) -> bool {
    let touched = std::fs::metadata(SYNCHRONIZED).and_then(|m| m.modified()).ok();
    let since_1970 = touched.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
    since_1970.is_some_and(|t| is_fresh(i64::try_from(t.as_millis()).unwrap_or(0), wall))
}

/// Whether a mark touched at `touched` speaks of a clock that now says `wall`. Pure.
fn is_fresh(touched: i64, wall: WallMs) -> bool {
    (-1000..=MARK_FRESH_MS).contains(&wall.0.saturating_sub(touched))
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

    #[test]
    fn a_mark_of_the_time_service_speaks_only_of_the_clock_that_it_was_touched_by() {
        let wall = WallMs(1_795_000_000_000);
        for (ago, fresh) in [(0, true), (2_048_000, true), (MARK_FRESH_MS + 1, false), (-86_400_000, false)] {
            assert_eq!(is_fresh(wall.0 - ago, wall), fresh, "{ago}");
        }
    }

    /// A thread that is put to sleep between its looks at the clocks.
    #[derive(Debug)]
    struct Drowsy(std::sync::atomic::AtomicU64);

    impl Clock for Drowsy {
        fn boot(&self) -> BootMs {
            BootMs(self.0.load(std::sync::atomic::Ordering::SeqCst))
        }
        fn wall(&self) -> WallMs {
            // The first look is interrupted for 300 ms, the second for 40, the third is not.
            let now = self.0.load(std::sync::atomic::Ordering::SeqCst);
            let slept = if now < 300 {
                300
            } else if now < 340 {
                40
            } else {
                0
            };
            let now = self.0.fetch_add(slept, std::sync::atomic::Ordering::SeqCst) + slept;
            WallMs(5000 + now.cast_signed())
        }
        fn synced(&self) -> bool {
            true
        }
        fn boot_id(&self) -> &'static str {
            "b"
        }
    }

    #[test]
    fn an_interrupted_look_at_both_clocks_is_taken_again() {
        let clock = Drowsy(std::sync::atomic::AtomicU64::new(0));
        let (boot, wall) = clock.both();
        assert_eq!((boot, wall), (BootMs(340), WallMs(5340)));
    }

    #[test]
    fn a_hardware_clock_is_believed_only_if_it_holds_the_time_itself() {
        let dir = tempfile::tempdir().expect("a directory");
        let rtc = dir.path().join("since_epoch");
        let kept = || SystemClock::with_rtc(false, &rtc).kept;
        assert!(!kept(), "there is none");
        let now = SystemClock::new(true).wall().0 / 1000;
        for (told, believed) in [
            (format!("{now}\n"), true),
            // No battery: it counts from 1970, and the wall clock came from a file.
            ("137\n".to_owned(), false),
            (format!("{}\n", now - 86_400), false),
            (format!("{}\n", now + 3600), false),
            (String::new(), false),
            (i64::MAX.to_string(), false),
        ] {
            std::fs::write(&rtc, &told).expect("writes");
            assert_eq!(kept(), believed, "{told:?}");
        }
        // Both began in 1970: they agree, and both are wrong.
        assert!(!rtc_holds("137", WallMs(137_000)));
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
