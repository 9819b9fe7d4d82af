//! What an uplink tells about itself. Written by its task, read by whoever reports status.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::message::{BootMs, WallMs};

/// Where an uplink stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not started yet.
    Starting,
    /// An attempt to connect is under way.
    Connecting,
    /// Connected and logged in.
    Connected,
    /// Waiting before the next attempt.
    Waiting,
    /// Ended.
    Stopped,
    /// On a metered link: not connected until the next window opens.
    Sleeping,
}

impl State {
    /// The word in status payloads.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
            Self::Sleeping => "sleeping",
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Connecting,
            2 => Self::Connected,
            3 => Self::Waiting,
            4 => Self::Stopped,
            5 => Self::Sleeping,
            _ => Self::Starting,
        }
    }
}

/// Counters of one uplink since the start of the process. All may be read at any time.
#[derive(Debug, Default)]
pub struct UplinkCounters {
    state: AtomicU8,
    since: AtomicU64,
    /// Successful logins.
    pub connects: AtomicU64,
    /// Messages that were acknowledged, of every kind.
    pub acknowledged: AtomicU64,
    /// Readings that were acknowledged.
    pub delivered: AtomicU64,
    /// Messages of other devices that were acknowledged.
    pub forwarded: AtomicU64,
    /// Messages of other devices that were too old by their publisher's word when their turn came.
    pub forward_expired: AtomicU64,
    /// Messages of other devices that a route takes to a place that is spoken for, or that MQTT does not allow: they stayed here.
    pub forward_dropped: AtomicU64,
    /// Readings that were sent again after a connection ended before their acknowledgement.
    pub repeats: AtomicU64,
    /// With QoS 2: readings for which exactly once cannot be promised, because the disk was out of order, or because the
    /// broker forgot the session in which they were open (or we had to give it up).
    pub not_exactly_once: AtomicU64,
    /// Readings given up because the broker refused them for good.
    pub rejected: AtomicU64,
    /// Acknowledgements of packets that were not in flight.
    pub stray_acks: AtomicU64,
    /// Status, meta and event messages that found no room.
    pub mirror_dropped: AtomicU64,
    /// Commands refused because too many were waiting.
    pub commands_busy: AtomicU64,
    /// Messages of the cloud that routes brought to the local broker.
    pub routed: AtomicU64,
    /// Those for which it had no room.
    pub routed_dropped: AtomicU64,
    /// Messages of the cloud that no route takes, or only to a place where none may go.
    pub strangers: AtomicU64,
    /// Messages of the cloud that were too large.
    pub oversize: AtomicU64,
    /// Bytes given to the socket: TLS and WebSocket counted, TCP and below not.
    pub bytes_sent: AtomicU64,
    /// Bytes taken from the socket: TLS and WebSocket counted, TCP and below not.
    pub bytes_received: AtomicU64,
    /// With windows: when the next one opens, as milliseconds since 1970; 0 without.
    next_window: AtomicI64,
    /// Windows in a row that passed without a login.
    pub windows_missed: AtomicU64,
    /// Messages in flight now.
    pub in_flight: AtomicU64,
    /// How long readings wait for the clock at most, from now, in seconds and one; 0: none do.
    clock_wait: AtomicU64,
    /// Readings acknowledged per second, in thousandths, smoothed over some 10 s.
    rate_milli: AtomicU64,
    last_error: Mutex<Option<(WallMs, String)>>,
}

impl UplinkCounters {
    /// Where the uplink stands, and since when (0: the start).
    #[must_use]
    pub fn state(&self) -> (State, BootMs) {
        (State::from_code(self.state.load(Relaxed)), BootMs(self.since.load(Relaxed)))
    }

    /// The last failure in words, and when it was. Stays after a recovery.
    #[must_use]
    pub fn last_error(&self) -> Option<(WallMs, String)> {
        self.last_error.lock().map_or(None, |held| held.clone())
    }

    /// Readings acknowledged per second, smoothed over some 10 s.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate of 2^53 per millisecond will not be reached")]
    pub fn rate(&self) -> f64 {
        self.rate_milli.load(Relaxed) as f64 / 1000.0
    }

    /// How long readings wait for the clock to be set, at most from now on; `None`: none do.
    #[must_use]
    pub fn clock_wait_s(&self) -> Option<u64> {
        self.clock_wait.load(Relaxed).checked_sub(1)
    }

    pub(super) fn set_clock_wait(&self, left: Option<Duration>) {
        self.clock_wait.store(left.map_or(0, |left| left.as_secs() + 1), Relaxed);
    }

    /// When the next window opens; `None`: the uplink has none, it is connected as long as the link allows.
    #[must_use]
    pub fn next_window(&self) -> Option<WallMs> {
        Some(WallMs(self.next_window.load(Relaxed))).filter(|at| at.0 > 0)
    }

    pub(super) fn set_next_window(&self, at: WallMs) {
        self.next_window.store(at.0, Relaxed);
    }

    pub(super) fn set_state(&self, state: State, now: BootMs) {
        if self.state.swap(state as u8, Relaxed) != state as u8 {
            self.since.store(now.0, Relaxed);
        }
    }

    pub(super) fn set_error(&self, now: WallMs, text: String) {
        if let Ok(mut held) = self.last_error.lock() {
            *held = Some((now, text));
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is small and not negative"
    )]
    pub(super) fn set_rate(&self, per_second: f64) {
        self.rate_milli.store((per_second.max(0.0) * 1000.0) as u64, Relaxed);
    }

    pub(super) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_keeps_the_time_of_its_beginning() {
        let counters = UplinkCounters::default();
        assert_eq!(counters.state().0, State::Starting);
        for (state, now, since) in [
            (State::Connecting, 10, 10),
            (State::Connecting, 20, 10),
            (State::Connected, 30, 30),
            (State::Waiting, 40, 40),
            (State::Stopped, 50, 50),
            (State::Sleeping, 60, 60),
        ] {
            counters.set_state(state, BootMs(now));
            assert_eq!(counters.state(), (state, BootMs(since)));
        }
        counters.set_error(WallMs(5), "refused".into());
        assert_eq!(counters.last_error(), Some((WallMs(5), "refused".into())));
        assert_eq!(counters.clock_wait_s(), None);
        counters.set_clock_wait(Some(Duration::from_millis(90)));
        assert_eq!(counters.clock_wait_s(), Some(0));
        counters.set_rate(12.5);
        assert!((counters.rate() - 12.5).abs() < 1e-9);
    }
}
