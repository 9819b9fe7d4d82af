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

    fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }

    /// All that was tallied passed.
    pub fn tallied(&self, tally: &Tally) {
        for (counters, counts) in [(self.of(Way::In), tally.0[0]), (self.of(Way::Out), tally.0[1])] {
            for (counter, count) in counters.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
                Self::add(counter, count);
            }
        }
    }

    /// In the order of [`Tally`].
    fn of(&self, way: Way) -> [&AtomicU64; 4] {
        match way {
            Way::In => [&self.bytes_in, &self.packets_in, &self.publishes_in, &self.publish_bytes_in],
            Way::Out => [&self.bytes_out, &self.packets_out, &self.publishes_out, &self.publish_bytes_out],
        }
    }
}

/// What a connection moved in one turn: counted for all with one word, for every thread that counts there waits for the one before.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally([[usize; 4]; 2]);

impl Tally {
    fn of(&mut self, way: Way) -> &mut [usize; 4] {
        &mut self.0[usize::from(way == Way::Out)]
    }

    /// So many bytes passed.
    pub fn bytes(&mut self, way: Way, count: usize) {
        self.of(way)[0] += count;
    }

    /// A packet passed.
    pub fn packet(&mut self, way: Way) {
        self.of(way)[1] += 1;
    }

    /// It was a PUBLISH with so many bytes of payload.
    pub fn publish(&mut self, way: Way, payload: usize) {
        let [_, _, count, bytes] = self.of(way);
        *count += 1;
        *bytes += payload;
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
