//! What the broker allows: every limit that protects it from a client, in one place.
//!
//! What a user may set is in `[broker]` of the configuration ([`Limits::of`]); the rest is what a gateway of this size can bear.
//! What happens at each limit stands beside it; every refusal is counted by its reason
//! ([`super::Refusal`]).

use std::time::Duration;

use super::doorman::Rules;
use super::tokens::Rate;
use crate::bounds;
use crate::config::model;

/// The limits of one broker. The default is what the daemon uses; tests make them smaller.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, those before CONNECT included. Full: closed without a word.
    pub connections: usize,
    /// Of these, from one address. Full: the same.
    pub per_address: usize,
    /// New connections of one address a second; as many at once as it may have open. Faster: the same.
    pub connect_rate: u32,
    /// Messages a second from one client, a second's worth at once; 0: as many as come. Faster: the client is not read
    /// until it is within its rate, so that it waits; nothing is dropped.
    pub publish_rate: u32,
    /// Sessions kept for clients that are away; beyond it the one longest away is forgotten.
    pub sessions_away: usize,
    /// Subscriptions of one client. Over: refused in the SUBACK.
    pub subscriptions: usize,
    /// Memory for the subscriptions of one client, as [`filter_cost`] reckons it. Over: the same.
    pub filter_bytes: usize,
    /// The same for all clients together.
    pub filter_bytes_total: usize,
    /// Levels of a topic name or filter. Over: refused, as a topic that is none.
    pub levels: usize,
    /// Largest MQTT packet accepted, in bytes; announced to MQTT 5 clients. Over: the connection ends.
    pub packet: usize,
    /// Bytes of large packets of all clients that are not complete. Over: who has been sending the longest is disconnected.
    pub partial_bytes: usize,
    /// How long a packet of more than 4 KiB may take to arrive. Over: the connection ends.
    pub packet_deadline: Duration,
    /// How long a client may take nothing of what is to be written to it. Over: the connection ends.
    pub write_deadline: Duration,
    /// Messages queued for one session; QoS 0 is given up at three quarters.
    pub queue: usize,
    /// Bytes queued and in flight for one session.
    pub queue_bytes: usize,
    /// Bytes queued, in flight and being written, for all sessions together. One session gets a quarter of what is free of it,
    /// and 16 KiB always, so that those who do not read cost those who do nothing.
    pub queue_bytes_total: usize,
    /// QoS 1 and 2 messages on their way to one client, at most (or its Receive Maximum).
    pub in_flight_out: u16,
    /// QoS 1 and 2 messages one client may have unfinished with us: our Receive Maximum.
    pub in_flight_in: u16,
    /// QoS 2 messages that an MQTT 3.1.1 client, which knows no Receive Maximum, may leave unreleased. Over: the connection ends.
    pub unreleased: usize,
    /// Topic aliases one MQTT 5 client may use.
    pub topic_aliases: u16,
    /// Bytes of the topics behind them. Over: the connection ends.
    pub alias_bytes: usize,
    /// Bytes of all wills and client ids of more than 4 KiB. Over: the connection is refused as if there were no place.
    pub will_bytes: usize,
    /// Retained messages. Full: a message on a new topic is delivered and not kept.
    pub retained: usize,
    /// Bytes of topics and payloads of retained messages. Full: the same.
    pub retained_bytes: usize,
    /// From accept to a complete CONNECT, TLS and WebSocket handshakes included.
    pub connect_deadline: Duration,
    /// How long a message may be inside the routing engine before the native one takes over.
    pub engine_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(&model::Broker::default())
    }
}

impl Limits {
    /// What the configuration says, and what it does not.
    #[must_use]
    pub fn of(config: &model::Broker) -> Self {
        Self {
            connections: config.max_connections as usize,
            per_address: config.max_connections_per_address as usize,
            connect_rate: config.max_connect_rate,
            publish_rate: config.max_publish_rate,
            sessions_away: 1024,
            subscriptions: 4096,
            filter_bytes: 8 << 20,
            filter_bytes_total: 64 << 20,
            levels: 64,
            packet: usize::try_from(config.max_packet_size.0).unwrap_or(usize::MAX),
            partial_bytes: 16 << 20,
            packet_deadline: Duration::from_secs(30),
            write_deadline: Duration::from_secs(60),
            queue: bounds::BROKER_QUEUE,
            queue_bytes: 8 << 20,
            queue_bytes_total: 64 << 20,
            in_flight_out: 128,
            in_flight_in: bounds::BROKER_IN_FLIGHT,
            unreleased: 2048,
            topic_aliases: 32,
            alias_bytes: 16 << 10,
            will_bytes: 8 << 20,
            retained: 100_000,
            retained_bytes: 64 << 20,
            connect_deadline: Duration::from_secs(5),
            engine_stall: Duration::from_secs(3),
        }
    }

    /// What the doorman goes by.
    pub(super) fn rules(&self) -> Rules {
        // A fleet behind one router that comes back at once is let in at once.
        let burst = u32::try_from(self.per_address).unwrap_or(u32::MAX);
        let arrivals = Rate { per_s: self.connect_rate, burst };
        Rules { connections: self.connections, per_address: self.per_address, arrivals }
    }
}

/// So many subscriptions of clients may match a message beside one of each client. A topic of twelve levels can match 4096 filters of one client: all of
/// it is looked at to find that one copy is to be sent. Over: nothing is refused, for nobody did wrong, but who publishes such messages is not read for as long
/// as they take, so that others have at least half of the hub.
pub const OVERLAP: usize = 64;

/// What a subscription takes in memory, in bytes, if no other shares a level with it: each level is a node of the trie
/// with a small table, and the filter is kept twice.
#[must_use]
pub fn filter_cost(filter: &str) -> usize {
    400 + 2 * filter.len() + 280 * (1 + filter.bytes().filter(|b| *b == b'/').count())
}
