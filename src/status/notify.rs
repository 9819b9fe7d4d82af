//! The word to systemd: ready, reloading, stopping, and a watchdog fed only by real progress.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells the service manager that the gateway works. Without one, nothing happens.
pub fn ready(what: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(what)]);
}

/// Tells it that a reload begins; [`ready`] ends it.
pub fn reloading() {
    let state = NotifyState::monotonic_usec_now();
    let states: Vec<NotifyState<'_>> = std::iter::once(NotifyState::Reloading).chain(state.ok()).collect();
    let _ = sd_notify::notify(&states);
}

/// Tells it that the end has begun, and how long it may take.
pub fn stopping(grace: Duration) {
    let extend = u32::try_from(grace.as_micros()).unwrap_or(u32::MAX);
    let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(extend)]);
}

/// Says that everything that must move has moved.
pub fn alive() {
    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
}

/// How often [`alive`] must be called: half of what the unit allows; `None` without a watchdog.
#[must_use]
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|allowed| allowed / 2)
}
