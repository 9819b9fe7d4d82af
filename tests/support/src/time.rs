//! Waiting for conditions, with an end.

use std::time::Duration;
#[expect(
    clippy::disallowed_types,
    reason = "these tests live in real time, as the processes they watch do"
)]
use std::time::{Instant, SystemTime};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// So many seconds.
#[must_use]
pub const fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Wall clock, seconds since 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the outside view of time, to compare the gateway's with")]
pub fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Lets so much time pass: the length of an outage is part of a scenario, never a way to wait.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Waits until `look` gives something.
///
/// # Panics
/// If it does not within the time.
#[expect(clippy::disallowed_types, reason = "real time")]
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {within:?} in vain for: {what}");
        std::thread::sleep(LOOK);
    }
}

/// Waits until `is` holds.
///
/// # Panics
/// If it does not within the time.
pub fn wait_until(what: &str, within: Duration, mut is: impl FnMut() -> bool) {
    wait_for(what, within, || is().then_some(()));
}
