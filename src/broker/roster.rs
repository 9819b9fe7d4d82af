//! Who is there: a row for every session, and the way to end one.

use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;
use tokio::time::Instant;

use super::state::{Client, Control, Presence, State};
use super::wire::{Version, reason};

/// A client and its session. Times are in whole seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientRow {
    /// Client id; for a subscriber of this process its name.
    pub client: String,
    /// Proven user name.
    pub user: Option<String>,
    /// `connected`, `away` or `inside` (this process).
    pub state: &'static str,
    /// Where it is connected from.
    pub address: Option<String>,
    /// `tcp`, `tls`, `websocket` or `websocket, tls`.
    pub transport: Option<&'static str>,
    /// `3.1.1` or `5`.
    pub protocol: Option<&'static str>,
    /// How long it has been connected, or away.
    pub for_s: Option<u64>,
    /// Its keep-alive; 0: none.
    pub keep_alive_s: Option<u16>,
    /// How long its session outlives a connection; `null`: for ever.
    pub session_expiry_s: Option<u32>,
    /// Filters it is subscribed to.
    pub subscriptions: usize,
    /// Messages waiting for it, and their bytes.
    pub queued: usize,
    /// The same.
    pub queued_bytes: usize,
    /// Messages it did not get because its queue was full.
    pub dropped: u64,
    /// PUBLISH packets from it on this connection.
    pub messages_in: u64,
    /// PUBLISH packets to it on this connection.
    pub messages_out: u64,
    /// Bytes of MQTT from it on this connection.
    pub bytes_in: u64,
    /// Bytes of MQTT to it on this connection.
    pub bytes_out: u64,
}

/// What became of a client that was to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kicked {
    /// Its connection ends (v5: reason 0x98); its session and will go by what it agreed.
    Disconnected,
    /// It was away; its session is forgotten.
    Forgotten,
    /// There is no such client, or it is this process.
    Unknown,
}

impl State {
    /// Every session, by client id.
    pub(super) fn roster(&self, now: Instant) -> Vec<ClientRow> {
        let mut rows: Vec<_> = self.clients.values().map(|client| row(client, now)).collect();
        rows.sort_unstable_by(|a, b| a.client.cmp(&b.client));
        rows
    }

    /// Ends the connection of a client, or forgets its session if it is away.
    pub(super) fn kick(&mut self, client_id: &str) -> Kicked {
        let Some(&key) = self.ids.get(client_id) else { return Kicked::Unknown };
        match self.clients.get(&key).map(|client| &client.presence) {
            Some(Presence::Online { control, .. }) => {
                // Full cannot be: the connection counts what it is owed. Closed: it is ending already.
                let _ = control.try_send(Control::Stop(reason::ADMINISTRATIVE_ACTION));
                Kicked::Disconnected
            }
            Some(Presence::Away { .. }) => {
                self.end(key);
                Kicked::Forgotten
            }
            Some(Presence::Local) | None => Kicked::Unknown,
        }
    }
}

fn row(client: &Client, now: Instant) -> ClientRow {
    let for_s = |since: Instant| Some(now.saturating_duration_since(since).as_secs());
    let (state, about, for_s) = match &client.presence {
        Presence::Online { about, .. } => ("connected", Some(about), for_s(about.since)),
        Presence::Away { left, .. } => ("away", None, for_s(*left)),
        Presence::Local => ("inside", None, None),
    };
    let count = |of: fn(&super::traffic::Traffic) -> &std::sync::atomic::AtomicU64| {
        about.map_or(0, |about| of(&about.traffic).load(Relaxed))
    };
    let (queued, queued_bytes) = client.queue.depth();
    ClientRow {
        client: client.id.to_string(),
        user: client.user.as_deref().map(str::to_owned),
        state,
        address: about.map(|about| about.peer.to_string()),
        transport: about.map(|about| about.door.transport()),
        protocol: about.map(|about| match about.version {
            Version::V3 => "3.1",
            Version::V4 => "3.1.1",
            Version::V5 => "5",
        }),
        for_s,
        keep_alive_s: about.map(|about| about.keep_alive),
        session_expiry_s: (client.expiry != u32::MAX).then_some(client.expiry),
        subscriptions: client.filters.len(),
        queued,
        queued_bytes,
        dropped: client.queue.dropped(),
        messages_in: count(|t| &t.publishes_in),
        messages_out: count(|t| &t.publishes_out),
        bytes_in: count(|t| &t.bytes_in),
        bytes_out: count(|t| &t.bytes_out),
    }
}
