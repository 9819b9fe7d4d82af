//! Short numbers for topics that go out again and again (MQTT 5 topic aliases, §3.3.2.3.4). Pure.
//!
//! A topic gets a number when it is sent for the second time, so that what is told once per connection
//! (meta, most of status) takes none. Whoever has one keeps it until the connection ends: polls go round
//! and round, and giving a number away each time the round is longer than the list would save nothing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::bounds;

/// How to write a topic in the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// As it is.
    Whole,
    /// As it is, and from now on this number stands for it.
    Introduce(u16),
    /// The number alone.
    Number(u16),
}

/// The numbers of one connection.
#[derive(Debug, Default)]
pub struct Aliases {
    max: u16,
    given: HashMap<Arc<str>, u16>,
    seen: HashSet<Arc<str>>,
}

impl Aliases {
    /// The broker takes up to `max` numbers; 0: none.
    #[must_use]
    pub fn new(max: u16) -> Self {
        let max = max.min(u16::try_from(bounds::UPLINK_ALIASES).unwrap_or(u16::MAX));
        Self { max, given: HashMap::new(), seen: HashSet::new() }
    }

    /// How to write this topic now.
    #[must_use]
    pub fn name(&self, topic: &Arc<str>) -> Name {
        if let Some(number) = self.given.get(topic) {
            return Name::Number(*number);
        }
        match u16::try_from(self.given.len() + 1) {
            Ok(next) if next <= self.max && self.seen.contains(topic) => Name::Introduce(next),
            _ => Name::Whole,
        }
    }

    /// It is on its way, written like that.
    pub fn sent(&mut self, topic: &Arc<str>, name: Name) {
        match name {
            Name::Introduce(number) => {
                self.seen.remove(topic);
                self.given.insert(topic.clone(), number);
            }
            Name::Whole if self.given.len() < usize::from(self.max) => {
                if self.seen.len() >= bounds::UPLINK_ALIASES {
                    self.seen.clear();
                }
                self.seen.insert(topic.clone());
            }
            Name::Whole | Name::Number(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_comes_with_the_second_message_and_stays() {
        let mut aliases = Aliases::new(1);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut send = |topic| {
            let name = aliases.name(topic);
            aliases.sent(topic, name);
            name
        };
        assert_eq!([send(&a), send(&a), send(&a)], [Name::Whole, Name::Introduce(1), Name::Number(1)]);
        assert_eq!([send(&b), send(&b)], [Name::Whole, Name::Whole], "there is only one");
        assert_eq!(Aliases::new(0).name(&a), Name::Whole);
    }

    proptest! {
        #[test]
        fn what_a_broker_understands_is_what_was_meant(
            max in 0u16..600,
            topics in prop::collection::vec(0u16..400, 0..2000),
        ) {
            let mut aliases = Aliases::new(max);
            let mut broker: HashMap<u16, Arc<str>> = HashMap::new();
            for topic in topics {
                let topic: Arc<str> = topic.to_string().into();
                let name = aliases.name(&topic);
                match name {
                    Name::Whole => {}
                    Name::Introduce(number) => {
                        prop_assert!((1..=max).contains(&number));
                        broker.insert(number, topic.clone());
                    }
                    Name::Number(number) => prop_assert_eq!(broker.get(&number), Some(&topic)),
                }
                aliases.sent(&topic, name);
                prop_assert!(aliases.given.len() + aliases.seen.len() <= 2 * bounds::UPLINK_ALIASES);
            }
        }
    }
}
