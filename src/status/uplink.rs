//! One uplink in a snapshot, and whether it is well.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use serde_json::Value as Json;

use crate::forward::Forwards;
use crate::message::{BootMs, WallMs};
use crate::store::{Drain, InspectedUplink, Ledger};
use crate::uplink::{State, UplinkCounters};

/// One uplink.
#[derive(Debug, Clone, Default, Serialize)]
pub struct UplinkStatus {
    /// The connection's state.
    pub state: &'static str,
    /// Since when, RFC 3339.
    pub since: Option<String>,
    /// The last failure in words; `""` for none.
    pub last_error: String,
    /// What its readings wait for, in words; `""` for nothing but the link.
    pub waits: String,
    /// Readings taken for it.
    pub taken: u64,
    /// Readings waiting.
    pub queued_readings: u64,
    /// Their size on disk, about.
    pub queued_bytes: u64,
    /// Time of the oldest waiting reading, RFC 3339.
    pub oldest_ts: Option<String>,
    /// Readings acknowledged.
    pub delivered: u64,
    /// Readings declared lost.
    pub declared_lost: u64,
    /// Readings sent again because a connection ended before their acknowledgement.
    pub repeats: u64,
    /// With `qos = 2`: readings since the start for which exactly once could not be promised (the disk was out of order, or
    /// the broker forgot the session); each arrives at least once.
    pub not_exactly_once: u64,
    /// Bytes given to the socket, TLS and WebSocket included.
    pub bytes_sent: u64,
    /// Bytes taken from it.
    pub bytes_received: u64,
    /// With windows (`connect`): when the next one opens, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_window: Option<String>,
    /// Messages of other devices that were acknowledged; they are among `delivered`.
    pub forwarded: u64,
    /// Messages of other devices that were too old by their publisher's word when their turn came; they are declared lost.
    pub forward_expired: u64,
    /// Messages of other devices whose place in the cloud would have been in a tree that is spoken for (the gateway's own,
    /// Sparkplug's), or is no topic: they are not forwarded.
    pub forward_dropped: u64,
    /// Messages of the cloud that routes brought to the local broker.
    pub brought: u64,
    /// Those that were dropped, because it did not keep up or they were too large.
    pub brought_dropped: u64,
    /// With windows: how many in a row passed without a login.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows_missed: Option<u64>,
    /// Readings acknowledged per second.
    pub rate: f64,
    /// Seconds until the queue is empty at this rate; absent while it does not shrink.
    pub eta_s: Option<f64>,
}

/// An uplink, to be looked at.
#[derive(Clone)]
pub struct UplinkSource {
    /// Its name.
    pub name: String,
    /// Its connection's counters.
    pub counters: Arc<UplinkCounters>,
    /// What it makes of the messages of other devices.
    pub forwards: Arc<Forwards>,
    /// Its position in the log.
    pub drain: Arc<dyn Drain>,
}

impl UplinkStatus {
    /// Of this uplink, whose readings are delivered and taken at these rates per second.
    pub(super) fn of(
        uplink: &UplinkSource,
        ledger: &Ledger,
        wall_of: impl Fn(BootMs) -> WallMs,
        (rate, taken): (f64, f64),
    ) -> Self {
        let shrinking = rate - taken;
        #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
        let eta = (ledger.queued as f64 / shrinking.max(0.001)).round();
        let (state, since) = uplink.counters.state();
        let next_window = uplink.counters.next_window();
        Self {
            state: state.word(),
            since: (since.0 > 0).then(|| wall_of(since).to_string()),
            last_error: uplink.counters.last_error().map(|(_, words)| words).unwrap_or_default(),
            waits: uplink.counters.clock_wait_s().map(clock_wait).unwrap_or_default(),
            taken: ledger.taken,
            queued_readings: ledger.queued,
            queued_bytes: ledger.queued_bytes,
            oldest_ts: ledger.oldest.map(|ts| ts.to_string()),
            delivered: ledger.delivered,
            declared_lost: ledger.lost,
            repeats: uplink.counters.repeats.load(Relaxed),
            not_exactly_once: uplink.counters.not_exactly_once.load(Relaxed),
            bytes_sent: uplink.counters.bytes_sent.load(Relaxed),
            bytes_received: uplink.counters.bytes_received.load(Relaxed),
            next_window: next_window.map(|at| at.to_string()),
            forwarded: uplink.counters.forwarded.load(Relaxed),
            forward_expired: uplink.counters.forward_expired.load(Relaxed),
            forward_dropped: uplink.counters.forward_dropped.load(Relaxed),
            brought: uplink.counters.routed.load(Relaxed),
            brought_dropped: uplink.counters.routed_dropped.load(Relaxed)
                + uplink.counters.strangers.load(Relaxed)
                + uplink.counters.oversize.load(Relaxed),
            windows_missed: next_window.map(|_| uplink.counters.windows_missed.load(Relaxed)),
            rate,
            eta_s: (ledger.queued > 0 && shrinking > 0.0).then_some(eta),
        }
    }

    /// While no daemon runs: what the data directory knows of it, and the other keys with `null`.
    #[must_use]
    pub fn at_rest(found: &InspectedUplink) -> Json {
        let ledger = Ledger {
            taken: found.taken,
            delivered: found.delivered,
            queued: found.queued,
            lost: found.lost,
            queued_bytes: found.queued_bytes,
            oldest: None,
        };
        Self::of_account(&ledger, found.oldest_ts.clone())
    }

    /// The same of an uplink that does not run, by its account.
    pub(super) fn of_account(ledger: &Ledger, oldest_ts: Option<String>) -> Json {
        const KNOWN: [&str; 7] =
            ["state", "taken", "queued_readings", "queued_bytes", "oldest_ts", "delivered", "declared_lost"];
        let status = Self {
            state: State::Stopped.word(),
            taken: ledger.taken,
            queued_readings: ledger.queued,
            queued_bytes: ledger.queued_bytes,
            oldest_ts,
            delivered: ledger.delivered,
            declared_lost: ledger.lost,
            ..Self::default()
        };
        let mut json = serde_json::to_value(status).unwrap_or_default();
        for (key, value) in json.as_object_mut().into_iter().flatten() {
            if !KNOWN.contains(&key.as_str()) {
                *value = Json::Null;
            }
        }
        json
    }

    /// Whether it does what it should: connected, or not yet tried, or between two windows that it gets into.
    #[must_use]
    pub fn is_well(&self) -> bool {
        match self.state {
            "connecting" | "waiting" | "sleeping" if self.windows_missed.is_some() => {
                self.windows_missed == Some(0)
            }
            // The very first try to connect belongs to the start.
            "connecting" => self.last_error.is_empty(),
            state => state == "connected" || state == "starting",
        }
    }
}

fn clock_wait(left: u64) -> String {
    format!("what was taken since the boot waits for the clock to be set, {left} s more at most")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &'static str, last_error: &str, windows_missed: Option<u64>) -> UplinkStatus {
        UplinkStatus {
            state,
            since: None,
            last_error: last_error.to_owned(),
            waits: String::new(),
            taken: 0,
            queued_readings: 0,
            queued_bytes: 0,
            oldest_ts: None,
            delivered: 0,
            declared_lost: 0,
            repeats: 0,
            not_exactly_once: 0,
            bytes_sent: 0,
            bytes_received: 0,
            next_window: None,
            forwarded: 0,
            forward_expired: 0,
            forward_dropped: 0,
            brought: 0,
            brought_dropped: 0,
            windows_missed,
            rate: 0.0,
            eta_s: None,
        }
    }

    #[test]
    fn an_uplink_may_sleep_as_long_as_it_gets_into_its_windows() {
        for (state, error, missed, well) in [
            ("connected", "", None, true),
            ("connecting", "", None, true),
            ("connecting", "refused", None, false),
            ("waiting", "refused", None, false),
            ("sleeping", "refused", Some(0), true),
            ("connecting", "refused", Some(0), true),
            ("sleeping", "refused", Some(1), false),
            ("connected", "refused", Some(0), true),
            ("stopped", "", Some(0), false),
        ] {
            assert_eq!(status(state, error, missed).is_well(), well, "{state} {error} {missed:?}");
        }
    }
}
