//! What the broker counts. Written by everyone, read by status and tests.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::traffic::Traffic;

/// Why something a client wanted was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Over the number of connections.
    Connections,
    /// Over the number of connections of one address.
    Address,
    /// Connections of one address in too quick succession.
    Rate,
    /// TLS or WebSocket handshake failed or took too long, or no CONNECT came in time.
    Handshake,
    /// Bytes that are not MQTT, or break its rules.
    Protocol,
    /// An unknown user, a wrong password, or no user where one is needed.
    Login,
    /// Too many logins wait for their passwords to be checked.
    Busy,
    /// Publishing or subscribing without the right to.
    Access,
    /// Over a limit of subscriptions, levels, topic aliases, wills or unfinished messages.
    Limit,
    /// A packet larger than is taken.
    Packet,
    /// A message that is to be retained, over the limit of those.
    Retained,
    /// A large packet that came too slowly, or a client that reads nothing of what it is sent.
    Slow,
}

/// Every [`Refusal`] and its name, in the order of the counters.
const REFUSALS: [(Refusal, &str); 12] = [
    (Refusal::Connections, "connections"),
    (Refusal::Address, "address"),
    (Refusal::Rate, "rate"),
    (Refusal::Handshake, "handshake"),
    (Refusal::Protocol, "protocol"),
    (Refusal::Login, "login"),
    (Refusal::Busy, "busy"),
    (Refusal::Access, "access"),
    (Refusal::Limit, "limit"),
    (Refusal::Packet, "packet"),
    (Refusal::Retained, "retained"),
    (Refusal::Slow, "slow"),
];

/// How it is with sessions and retained messages over a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keeping {
    /// Not asked for.
    #[default]
    Off,
    /// They are kept.
    Ok,
    /// They live in memory for now: the disk is out of order.
    Memory,
}

/// The live counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub clients: AtomicU64,
    pub connections: AtomicU64,
    /// CONNECTs that were let in.
    pub logins: AtomicU64,
    pub subscriptions: AtomicU64,
    pub shared_subscriptions: AtomicU64,
    /// Sessions whose time was over.
    pub sessions_ended: AtomicU64,
    /// Of all connections together.
    pub traffic: Traffic,
    pub sessions_away: AtomicU64,
    pub retained: AtomicU64,
    pub retained_bytes: AtomicU64,
    pub messages_in: AtomicU64,
    pub messages_out: AtomicU64,
    pub dropped: AtomicU64,
    pub skipped: AtomicU64,
    pub expired: AtomicU64,
    pub panics: AtomicU64,
    pub engine_native: AtomicU64,
    pub engine_switches: AtomicU64,
    pub engine_gaps: AtomicU64,
    pub forward_taken: AtomicU64,
    pub forward_skipped: AtomicU64,
    pub forward_oversize: AtomicU64,
    pub keeping_commits: AtomicU64,
    pub keeping_failures: AtomicU64,
    pub keeping_bytes: AtomicU64,
    /// Answers that did not wait for the disk, for it was out of order.
    pub unkept: AtomicU64,
    pub keeping_damaged: AtomicU64,
    keeping: Mutex<(Keeping, String)>,
    /// Times a client was not read for a while because it published too fast.
    pub throttled: AtomicU64,
    refused: [AtomicU64; REFUSALS.len()],
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }

    pub fn set(counter: &AtomicU64, n: usize) {
        counter.store(n as u64, Relaxed);
    }

    pub fn refuse(&self, why: Refusal) {
        if let Some(at) = REFUSALS.iter().position(|(r, _)| *r == why) {
            self.refused[at].fetch_add(1, Relaxed);
        }
    }

    /// How it is with what is kept, and if it is not well, why.
    pub fn keeping(&self, how: Keeping, why: String) {
        *self.keeping.lock().unwrap_or_else(PoisonError::into_inner) = (how, why);
    }

    pub fn snapshot(&self) -> BrokerStats {
        let (keeping, persistence_error) =
            self.keeping.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let get = |c: &AtomicU64| c.load(Relaxed);
        BrokerStats {
            clients: get(&self.clients),
            connections: get(&self.connections),
            logins: get(&self.logins),
            shared_subscriptions: get(&self.shared_subscriptions),
            sessions_ended: get(&self.sessions_ended),
            bytes_in: get(&self.traffic.bytes_in),
            bytes_out: get(&self.traffic.bytes_out),
            packets_in: get(&self.traffic.packets_in),
            packets_out: get(&self.traffic.packets_out),
            publishes_in: get(&self.traffic.publishes_in),
            publishes_out: get(&self.traffic.publishes_out),
            publish_bytes_in: get(&self.traffic.publish_bytes_in),
            publish_bytes_out: get(&self.traffic.publish_bytes_out),
            subscriptions: get(&self.subscriptions),
            sessions_away: get(&self.sessions_away),
            retained: get(&self.retained),
            retained_bytes: get(&self.retained_bytes),
            messages_in: get(&self.messages_in),
            messages_out: get(&self.messages_out),
            dropped: get(&self.dropped),
            skipped: get(&self.skipped),
            expired: get(&self.expired),
            panics: get(&self.panics),
            refused: REFUSALS.iter().zip(&self.refused).map(|((_, name), n)| (*name, get(n))).collect(),
            engine: if get(&self.engine_native) == 0 { "rumqttd" } else { "native" },
            engine_switches: get(&self.engine_switches),
            engine_gaps: get(&self.engine_gaps),
            forward_taken: get(&self.forward_taken),
            forward_skipped: get(&self.forward_skipped),
            forward_oversize: get(&self.forward_oversize),
            persistence: match keeping {
                Keeping::Off => "off",
                Keeping::Ok => "ok",
                Keeping::Memory => "memory",
            },
            persistence_error,
            persistence_commits: get(&self.keeping_commits),
            persistence_failures: get(&self.keeping_failures),
            persistence_bytes: get(&self.keeping_bytes),
            persistence_unkept: get(&self.unkept),
            persistence_damaged: get(&self.keeping_damaged),
            throttled: get(&self.throttled),
        }
    }
}

/// A snapshot of the broker's counters. Counts are since start, unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerStats {
    /// Clients connected now (after CONNACK).
    pub clients: u64,
    /// Connections open now, those before CONNACK included.
    pub connections: u64,
    /// Logins that were accepted.
    pub logins: u64,
    /// Subscriptions with `$share` now.
    pub shared_subscriptions: u64,
    /// Sessions of clients that were away longer than they had agreed.
    pub sessions_ended: u64,
    /// Bytes of MQTT from clients.
    pub bytes_in: u64,
    /// Bytes of MQTT to clients.
    pub bytes_out: u64,
    /// MQTT packets from clients.
    pub packets_in: u64,
    /// MQTT packets to clients.
    pub packets_out: u64,
    /// PUBLISH packets among them.
    pub publishes_in: u64,
    /// The same to clients.
    pub publishes_out: u64,
    /// Bytes of their payloads.
    pub publish_bytes_in: u64,
    /// The same to clients.
    pub publish_bytes_out: u64,
    /// Subscriptions now, in-process ones included.
    pub subscriptions: u64,
    /// Sessions kept now for clients that are away.
    pub sessions_away: u64,
    /// Retained messages now.
    pub retained: u64,
    /// Bytes of their topics and payloads now.
    pub retained_bytes: u64,
    /// Messages published to the broker.
    pub messages_in: u64,
    /// Messages queued for subscribers.
    pub messages_out: u64,
    /// Messages not delivered to one subscriber because its queue was full or it takes no such size.
    pub dropped: u64,
    /// Messages of this process that found the hand-over queue full.
    pub skipped: u64,
    /// Messages whose expiry passed before they could be delivered.
    pub expired: u64,
    /// Connections ended by a fault of ours.
    pub panics: u64,
    /// Refusals by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// The routing engine in use: `rumqttd` or `native`.
    pub engine: &'static str,
    /// How often the native engine had to take over.
    pub engine_switches: u64,
    /// Messages that the engine lost (delivered all the same, from our window).
    pub engine_gaps: u64,
    /// Messages of other devices handed to the log.
    pub forward_taken: u64,
    /// Messages with QoS 0 that were not, because too many waited for the disk.
    pub forward_skipped: u64,
    /// Messages that were not, because they are too large.
    pub forward_oversize: u64,
    /// Whether sessions and retained messages outlive the process: `ok`, `memory` while the disk is out of order, `off`.
    pub persistence: &'static str,
    /// Why it is `memory`.
    pub persistence_error: String,
    /// Groups of changes that were written and synced.
    pub persistence_commits: u64,
    /// Tries that failed, and times the disk did not answer.
    pub persistence_failures: u64,
    /// Bytes on disk now.
    pub persistence_bytes: u64,
    /// Answers to clients that did not wait for the disk, because it was out of order.
    pub persistence_unkept: u64,
    /// What was left out at the start, because it was damaged.
    pub persistence_damaged: u64,
    /// Times a client was not read for a while because it published too fast.
    pub throttled: u64,
}

impl BrokerStats {
    /// Refusals for this reason.
    #[must_use]
    pub fn refused_for(&self, why: Refusal) -> u64 {
        REFUSALS.iter().position(|(r, _)| *r == why).map_or(0, |at| self.refused[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_reason() {
        let counters = Counters::default();
        counters.refuse(Refusal::Login);
        counters.refuse(Refusal::Login);
        let stats = counters.snapshot();
        assert_eq!((stats.refused_for(Refusal::Login), stats.refused_for(Refusal::Access)), (2, 0));
    }
}
