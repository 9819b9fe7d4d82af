//! What the broker allows: every limit that protects it from a client, in one place.

use std::time::Duration;

use crate::bounds;

/// The limits of one broker. The default is what the daemon uses; tests make them smaller.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, those before CONNECT included.
    pub connections: usize,
    /// Sessions kept for clients that are away; beyond it the one longest away is forgotten.
    pub sessions_away: usize,
    /// Subscriptions of one client.
    pub subscriptions: usize,
    /// Levels of a topic name or filter.
    pub levels: usize,
    /// Largest MQTT packet accepted, in bytes; announced to MQTT 5 clients.
    pub packet: usize,
    /// Messages queued for one session; QoS 0 is given up at three quarters.
    pub queue: usize,
    /// Bytes queued for one session.
    pub queue_bytes: usize,
    /// Bytes queued for all sessions together.
    pub queue_bytes_total: usize,
    /// QoS 1 and 2 messages on their way to one client, at most (or its Receive Maximum).
    pub in_flight_out: u16,
    /// QoS 1 and 2 messages one client may have unfinished with us: our Receive Maximum.
    pub in_flight_in: u16,
    /// Topic aliases one MQTT 5 client may use.
    pub topic_aliases: u16,
    /// Retained messages.
    pub retained: usize,
    /// Bytes of topics and payloads of retained messages.
    pub retained_bytes: usize,
    /// From accept to a complete CONNECT, TLS and WebSocket handshakes included.
    pub connect_deadline: Duration,
    /// How long a message may be inside the routing engine before the native one takes over.
    pub engine_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            sessions_away: 1024,
            subscriptions: 4096,
            levels: 64,
            packet: 1 << 20,
            queue: bounds::BROKER_QUEUE,
            queue_bytes: 8 << 20,
            queue_bytes_total: 64 << 20,
            in_flight_out: 128,
            in_flight_in: bounds::BROKER_IN_FLIGHT,
            topic_aliases: 32,
            retained: 250_000,
            retained_bytes: 64 << 20,
            connect_deadline: Duration::from_secs(5),
            engine_stall: Duration::from_secs(3),
        }
    }
}
