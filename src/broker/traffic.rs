//! What a connection moves, counted for it and for the broker as a whole: for the table of clients and for `$SYS`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use super::listener::Door;
use super::wire::Version;

/// Counts since the beginning, of one connection or of all. A packet is an MQTT packet of any kind.
#[derive(Debug, Default)]
pub struct Traffic {
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
    pub packets_in: AtomicU64,
    pub packets_out: AtomicU64,
    pub publishes_in: AtomicU64,
    pub publishes_out: AtomicU64,
    pub publish_bytes_in: AtomicU64,
    pub publish_bytes_out: AtomicU64,
}

/// One way of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client.
    In,
    /// To it.
    Out,
}

impl Traffic {
    /// So many bytes passed.
    pub fn bytes(&self, way: Way, count: usize) {
        Self::add(if way == Way::In { &self.bytes_in } else { &self.bytes_out }, count);
    }

    /// A packet passed.
    pub fn packet(&self, way: Way) {
        Self::add(if way == Way::In { &self.packets_in } else { &self.packets_out }, 1);
    }

    /// It was a PUBLISH with so many bytes of payload.
    pub fn publish(&self, way: Way, payload: usize) {
        let (count, bytes) = match way {
            Way::In => (&self.publishes_in, &self.publish_bytes_in),
            Way::Out => (&self.publishes_out, &self.publish_bytes_out),
        };
        Self::add(count, 1);
        Self::add(bytes, payload);
    }

    fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }
}

/// A connection as its CONNECT made it.
#[derive(Debug)]
pub(super) struct About {
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The listener it came in by.
    pub door: Arc<Door>,
    /// Protocol.
    pub version: Version,
    /// Seconds; 0: none.
    pub keep_alive: u16,
    /// Its certificate says its name, and no password file.
    pub by_certificate: bool,
    /// When it was let in.
    pub since: Instant,
    /// What it moved.
    pub traffic: Traffic,
    /// What its last message took of the hub's time, in µs, if that was much for no use ([`super::limits::OVERLAP`]). The connection
    /// takes it away.
    pub costly_us: AtomicU64,
}

impl About {
    /// Whether its listener takes clients without a name, whatever users there are.
    #[must_use]
    pub fn welcome(&self) -> bool {
        self.door.config.allow_anonymous == Some(true)
    }
}
