//! A message that may be one at which the broker closes the connection, and what is remembered of it. Pure.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::uplink::inflight::Outgoing;
use crate::uplink::share::Class;

/// What a connection has carried, by its acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Carried {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

impl Carried {
    pub(super) fn is_more_than(self, other: Self) -> bool {
        self.messages > other.messages && self.bytes > other.bytes && self.time > other.time
    }
}

#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) range: Range<u64>,
    /// Under which the connection was closed, and under which it goes now.
    pub(super) closed_on: Arc<str>,
    pub(super) topic: Arc<str>,
    pub(super) class: Class,
    /// Its topic is that of a point or of another device, not of all readings of a lane.
    pub(super) apart: bool,
    pub(super) forwarded: bool,
    pub(super) bytes: usize,
    /// As it would go out on this connection.
    pub(super) message: Option<Outgoing>,
    pub(super) strikes: u8,
    /// Tries at which the connection was closed.
    pub(super) closes: u32,
    /// What the connection had carried that the last try closed.
    pub(super) beyond: Carried,
    /// Others of its kind were taken since.
    pub(super) others: bool,
    pub(super) due: Instant,
    pub(super) wait: Duration,
    /// How long a connection should have stood before the next try, by the length of the last one.
    pub(super) calm: Duration,
}

impl Suspect {
    /// What comes behind it on its topic waits for it: with batches, where that is everything, only for the first try.
    pub(super) fn holds(&self, topic: &Arc<str>, range: &Range<u64>) -> bool {
        self.range.start < range.start
            && (self.topic == *topic || self.closed_on == *topic)
            && (self.apart || self.closes == 0)
    }
}

/// A topic at which the broker has closed connections, and of which it has taken nothing since.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Repeater {
    /// Messages in a row that were given up.
    pub(super) lost: u8,
    /// What the connection had carried that the last try closed.
    pub(super) beyond: Carried,
    /// How long the next one waits.
    pub(super) wait: Duration,
}

/// A try that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try {
    pub(super) start: u64,
    pub(super) at: Instant,
    /// Whether the connection has shown enough for it to count.
    pub(super) fit: bool,
}

impl Suspect {
    pub(super) fn new(
        message: &Outgoing,
        range: Range<u64>,
        apart: bool,
        wait: Duration,
        due: Instant,
    ) -> Self {
        Self {
            range,
            closed_on: message.topic.clone(),
            topic: message.topic.clone(),
            class: message.class,
            apart,
            forwarded: message.forwarded.is_some(),
            bytes: message.payload.len() + message.topic.len(),
            message: None,
            strikes: 0,
            closes: 0,
            beyond: Carried::default(),
            others: false,
            due,
            wait,
            calm: Duration::ZERO,
        }
    }
}
