//! What was sent and is not acknowledged yet. Pure.
//!
//! Bounded by messages, and by bytes: by those that the link carries ([`Pace`]) and by a limit of our own. Acknowledgements may come in any order, twice, or for packets
//! nobody sent: only the first one for a packet in flight counts. What is still here when the
//! connection ends is handed back whole; nothing is ever forgotten silently.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::extra::Extra;
use super::pace::{Lesson, Mark, Pace};
use super::share::Class;

/// What an acknowledgement settles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cargo {
    /// Readings with these numbers, all of them.
    Readings(Range<u64>),
    /// The loss record with this handle.
    Loss(u64),
    /// The correction with this handle.
    Correction(u64),
    /// The retained message of this topic, in this version.
    Retained(u64),
    /// An event, a command's result.
    Event,
    /// The farewell.
    Farewell,
}

/// One message as it goes out, kept until it is acknowledged so that a refusal can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// What it settles.
    pub cargo: Cargo,
    /// Whose share of the window it uses.
    pub class: Class,
    /// Full topic upstream.
    pub topic: Arc<str>,
    /// Payload.
    pub payload: Bytes,
    /// Kept by the broker as the topic's last value.
    pub retain: bool,
    /// What a message of another device has beside that; it is none of the format's.
    pub forwarded: Option<Box<Extra>>,
}

impl Outgoing {
    /// Bytes of the packet, near enough.
    fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// The messages in flight on one connection.
#[derive(Debug)]
pub struct Inflight {
    window: usize,
    max_bytes: usize,
    flights: BTreeMap<u32, (Outgoing, Mark)>,
    used: [usize; 3],
    bytes: usize,
    waiting_since: Option<Instant>,
    pace: Pace,
}

impl Inflight {
    /// Room for `window` messages (at least 1) of together about `max_bytes`; `pace`: what is known of the link.
    #[must_use]
    pub fn new(window: usize, max_bytes: usize, pace: Pace) -> Self {
        Self {
            window: window.max(1),
            max_bytes,
            flights: BTreeMap::new(),
            used: [0; 3],
            bytes: 0,
            waiting_since: None,
            pace,
        }
    }

    /// Most messages at once.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    /// Messages in flight, by class.
    #[must_use]
    pub fn used(&self) -> [usize; 3] {
        self.used
    }

    /// Messages in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// Nothing is in flight.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// The bytes still allow one more message. One message of any size always fits into an empty window.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let few = self.bytes < self.max_bytes && self.pace.has_room();
        self.flights.len() < self.window && (self.flights.is_empty() || few)
    }

    /// Bytes of payload that one message of readings should have at most, for what comes behind it.
    #[must_use]
    pub fn portion(&self) -> usize {
        self.pace.portion()
    }

    /// What the next connection should begin with.
    #[must_use]
    pub fn lesson(&self) -> Lesson {
        self.pace.lesson()
    }

    /// Since when an acknowledgement is awaited in vain: the last one, or the first message after a lull.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// What is in flight has not left us whole: the wait for acknowledgements begins anew.
    pub fn still_leaving(&mut self, now: Instant) {
        if let Some(since) = &mut self.waiting_since {
            *since = now;
        }
    }

    /// A message went out under this packet id, or under a number above all packet ids where it has none.
    pub fn sent(&mut self, id: impl Into<u32>, message: Outgoing, now: Instant) {
        self.used[message.class as usize] += 1;
        self.bytes += message.size();
        self.waiting_since.get_or_insert(now);
        let mark = self.pace.sent(message.size(), now);
        let before = self.flights.insert(id.into(), (message, mark));
        debug_assert!(before.is_none(), "packet ids in flight are distinct");
    }

    /// An acknowledgement came. `None`: nothing is in flight under this id.
    pub fn acked(&mut self, id: impl Into<u32>, now: Instant) -> Option<Outgoing> {
        let (message, mark) = self.flights.remove(&id.into())?;
        self.used[message.class as usize] -= 1;
        self.bytes -= message.size();
        self.pace.acked(mark, now);
        self.waiting_since = (!self.flights.is_empty()).then_some(now);
        Some(message)
    }

    /// The message under this id.
    #[must_use]
    pub fn get(&self, id: impl Into<u32>) -> Option<&Outgoing> {
        self.flights.get(&id.into()).map(|(message, _)| message)
    }

    /// Whether this message's cargo is on its way.
    pub fn holds(&self, cargo: &Cargo) -> bool {
        self.flights.values().any(|(m, _)| m.cargo == *cargo)
    }

    /// The connection is gone: everything that was not acknowledged.
    #[must_use]
    pub fn into_unsettled(self) -> Vec<Outgoing> {
        self.flights.into_values().map(|(message, _)| message).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pace() -> Pace {
        Pace::new(Lesson::default(), std::time::Duration::from_millis(1), Instant::now())
    }

    fn message(seq: u64, len: usize) -> Outgoing {
        Outgoing {
            cargo: Cargo::Readings(seq..seq + 1),
            class: Class::Live,
            topic: "t".into(),
            payload: Bytes::from(vec![0; len]),
            retain: false,
            forwarded: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_message_of_any_size_fits_into_an_empty_window() {
        let mut flights = Inflight::new(10, 100, pace());
        assert!(flights.has_room());
        flights.sent(1u16, message(1, 500), Instant::now());
        assert!(!flights.has_room());
        assert!(flights.acked(1u16, Instant::now()).is_some());
        assert!(flights.has_room() && flights.waiting_since().is_none());
    }

    proptest! {
        #[test]
        fn every_message_is_settled_once_or_handed_back(
            count in 1u16..60,
            acks in prop::collection::vec(0u16..80, 0..120),
        ) {
            let rt = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
            let _in = rt.enter();
            let now = Instant::now();
            let mut flights = Inflight::new(usize::from(count), usize::MAX, pace());
            for id in 1..=count {
                prop_assert!(flights.has_room());
                flights.sent(id, message(u64::from(id), 10), now);
            }
            prop_assert!(!flights.has_room());
            let mut seen = Vec::new();
            for id in acks {
                if let Some(Outgoing { cargo: Cargo::Readings(range), .. }) = flights.acked(id, now) {
                    seen.push(range.start);
                }
            }
            prop_assert_eq!(flights.used()[0], flights.len());
            prop_assert_eq!(flights.waiting_since().is_some(), !flights.is_empty());
            seen.extend(flights.into_unsettled().into_iter().map(|m| match m.cargo {
                Cargo::Readings(range) => range.start,
                Cargo::Loss(_) | Cargo::Correction(_) | Cargo::Retained(_) | Cargo::Event | Cargo::Farewell => 0,
            }));
            seen.sort_unstable();
            prop_assert_eq!(seen, (1..=u64::from(count)).collect::<Vec<_>>());
        }
    }
}
