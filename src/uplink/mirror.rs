//! The part of the local tree that is shown upstream: status, meta, events and results. Pure.
//!
//! Memory stays bounded however long the link is down: of a retained topic only the newest message is
//! kept, of events and results the newest [`bounds::UPLINK_EVENTS`]. What had to go is counted. After
//! every (re)connect all retained messages are sent again, for the broker may have forgotten them.
//!
//! Loss records and corrections are not taken from here: they come from the log, which keeps them until they are
//! acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::inflight::{Cargo, Outgoing};
use super::share::Class;
use crate::bounds;
use crate::message::Message;
use crate::pipeline::topics::Topics;

/// What is to be shown upstream.
#[derive(Debug)]
pub struct Mirror {
    local: Topics,
    upstream: Topics,
    kept: BTreeMap<Arc<str>, Kept>,
    dirty: BTreeSet<Arc<str>>,
    events: VecDeque<(Arc<str>, Bytes)>,
    version: u64,
    dropped: u64,
}

#[derive(Debug)]
struct Kept {
    payload: Bytes,
    version: u64,
}

impl Mirror {
    /// An empty mirror from one tree to the other.
    #[must_use]
    pub fn new(local: Topics, upstream: Topics) -> Self {
        Self {
            local,
            upstream,
            kept: BTreeMap::new(),
            dirty: BTreeSet::new(),
            events: VecDeque::new(),
            version: 0,
            dropped: 0,
        }
    }

    /// A local message. What does not belong upstream is left out.
    pub fn take(&mut self, message: Message) {
        let Some(rest) = self.local.within(&message.topic) else { return };
        let shown = match rest.split_once('/').map_or(rest, |(first, _)| first) {
            "meta" | "status" | "result" => true,
            "event" => rest != "event/loss" && rest != "event/correction",
            _ => false,
        };
        if !shown {
            return;
        }
        let topic: Arc<str> = format!("{}/{rest}", self.upstream.root()).into();
        if message.retain {
            self.keep(topic, message.payload);
        } else {
            self.event(topic, message.payload);
        }
    }

    /// What follows the root of the local tree in a topic of it.
    #[must_use]
    pub fn within<'t>(&self, topic: &'t str) -> Option<&'t str> {
        self.local.within(topic)
    }

    fn keep(&mut self, topic: Arc<str>, payload: Bytes) {
        if self.kept.len() >= bounds::UPLINK_RETAINED && !self.kept.contains_key(&topic) {
            self.dropped += 1;
            return;
        }
        self.version += 1;
        self.kept.insert(topic.clone(), Kept { payload, version: self.version });
        self.dirty.insert(topic);
    }

    /// An event or a result: sent once, oldest first; with a full queue the oldest goes.
    pub fn event(&mut self, topic: Arc<str>, payload: Bytes) {
        if self.events.len() >= bounds::UPLINK_EVENTS {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back((topic, payload));
    }

    /// A new connection: everything retained is to be sent again.
    pub fn connected(&mut self) {
        self.dirty.extend(self.kept.keys().cloned());
    }

    /// Back after a farewell that was heard: only the gateway's own status is another one now, and what
    /// changed meanwhile.
    pub fn awake(&mut self) {
        let status: Arc<str> = self.upstream.status().into();
        if self.kept.contains_key(&status) {
            self.dirty.insert(status);
        }
    }

    /// Something waits to be sent.
    #[must_use]
    pub fn wants(&self) -> bool {
        !self.dirty.is_empty() || !self.events.is_empty()
    }

    /// The next message: the gateway's own status first, then events and results, then the rest.
    pub fn next_message(&mut self) -> Option<Outgoing> {
        let status: Arc<str> = self.upstream.status().into();
        if self.dirty.remove(&status) {
            return self.retained(status);
        }
        if let Some((topic, payload)) = self.events.pop_front() {
            return Some(Outgoing {
                cargo: Cargo::Event,
                class: Class::Control,
                topic,
                payload,
                retain: false,
                forwarded: None,
            });
        }
        let topic = self.dirty.pop_first()?;
        self.retained(topic)
    }

    fn retained(&self, topic: Arc<str>) -> Option<Outgoing> {
        let kept = self.kept.get(&topic)?;
        let (cargo, payload) = (Cargo::Retained(kept.version), kept.payload.clone());
        Some(Outgoing { cargo, class: Class::Control, topic, payload, retain: true, forwarded: None })
    }

    /// A retained message was acknowledged. One that erased its topic need not be kept.
    pub fn acked(&mut self, topic: &Arc<str>, version: u64) {
        if self.kept.get(topic).is_some_and(|k| k.version == version && k.payload.is_empty()) {
            self.kept.remove(topic);
        }
    }

    /// An event was not acknowledged before the connection ended: it goes first next time.
    pub fn put_back(&mut self, topic: Arc<str>, payload: Bytes) {
        if self.events.len() < bounds::UPLINK_EVENTS {
            self.events.push_front((topic, payload));
        } else {
            self.dropped += 1;
        }
    }

    /// Messages that found no room since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> Mirror {
        Mirror::new(Topics::local("g"), Topics::upstream("up/{gateway}", "g"))
    }

    fn topics(mirror: &mut Mirror) -> Vec<String> {
        std::iter::from_fn(|| mirror.next_message()).map(|m| m.topic.to_string()).collect()
    }

    #[test]
    fn status_goes_first_then_events_then_the_rest() {
        let mut m = mirror();
        for (topic, retain) in [
            ("gw/g/meta/d/p", true),
            ("gw/g/event/alarm", false),
            ("gw/g/status", true),
            ("gw/g/status/store", true),
        ] {
            m.take(Message::new(topic, "{}", retain));
        }
        assert_eq!(topics(&mut m), ["up/g/status", "up/g/event/alarm", "up/g/meta/d/p", "up/g/status/store"]);
        m.connected();
        assert_eq!(topics(&mut m), ["up/g/status", "up/g/meta/d/p", "up/g/status/store"]);
    }

    #[test]
    fn readings_commands_loss_records_and_other_trees_stay_at_home() {
        let mut m = mirror();
        for topic in [
            "gw/g/data/d/p",
            "gw/g/command/d/p",
            "gw/g/event/loss",
            "gw/g/event/correction",
            "gw/other/status",
            "zigbee/x",
        ] {
            m.take(Message::new(topic, "{}", false));
        }
        assert!(!m.wants());
    }

    #[test]
    fn of_a_retained_topic_only_the_newest_is_kept() {
        let mut m = mirror();
        for i in 0..1000 {
            m.take(Message::new("gw/g/status", i.to_string(), true));
        }
        let last = m.next_message().expect("one message");
        assert_eq!((last.payload.as_ref(), m.wants()), (b"999".as_slice(), false));
    }

    #[test]
    fn a_long_outage_costs_the_oldest_events_and_says_how_many() {
        let mut m = mirror();
        for i in 0..bounds::UPLINK_EVENTS + 10 {
            m.take(Message::new("gw/g/event/alarm", i.to_string(), false));
        }
        assert_eq!(m.dropped(), 10);
        assert_eq!(m.next_message().map(|e| e.payload), Some(Bytes::from("10")));
    }

    #[test]
    fn an_erased_topic_is_forgotten_once_the_broker_knows() {
        let mut m = mirror();
        m.take(Message::new("gw/g/meta/d/p", "{}", true));
        m.take(Message::new("gw/g/meta/d/p", "", true));
        let erased = m.next_message().expect("one message");
        let Cargo::Retained(version) = erased.cargo else { panic!("retained") };
        m.acked(&erased.topic, version);
        m.connected();
        assert!(!m.wants());
    }
}
