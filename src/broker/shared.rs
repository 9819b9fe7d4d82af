//! Shared subscriptions (MQTT 5.0 §4.8.2): one member of a group gets each message. Pure.
//!
//! In the trie a group is one subscriber with a key of its own; which member gets a message is
//! decided here, in turn. Members that are away or full are asked last. What was queued for a member whose
//! session ends is not given to another.

use std::collections::HashMap;
use std::sync::Arc;

use super::state::Options;
use super::trie::Key;
use crate::topic;

/// Splits `$share/NAME/FILTER`. `None`: it is not well-formed.
#[must_use]
pub fn parse(filter: &str) -> Option<(&str, &str)> {
    let (name, filter) = filter.strip_prefix("$share/")?.split_once('/')?;
    (!name.is_empty() && !name.contains(['+', '#']) && topic::is_filter(filter, usize::MAX))
        .then_some((name, filter))
}

/// All groups.
#[derive(Debug, Default)]
pub struct Groups {
    keys: HashMap<Arc<str>, Key>,
    groups: HashMap<Key, Group>,
}

#[derive(Debug)]
struct Group {
    name: Arc<str>,
    members: Vec<(Key, Options)>,
    next: usize,
}

impl Groups {
    /// Adds a member, or changes its options. `whole` is the filter with its `$share/` part. Gives back the
    /// key of a group that is new, and must enter the trie.
    pub fn join(&mut self, whole: &Arc<str>, member: Key, options: Options, fresh: Key) -> Option<Key> {
        if let Some(key) = self.keys.get(whole) {
            if let Some(group) = self.groups.get_mut(key) {
                group.members.retain(|(m, _)| *m != member);
                group.members.push((member, options));
            }
            return None;
        }
        self.keys.insert(whole.clone(), fresh);
        let group = Group { name: whole.clone(), members: vec![(member, options)], next: 0 };
        self.groups.insert(fresh, group);
        Some(fresh)
    }

    /// Removes a member: whether it was one, and the key of a group that is now empty, and must leave the
    /// trie.
    pub fn leave(&mut self, whole: &str, member: Key) -> (bool, Option<Key>) {
        let Some(&key) = self.keys.get(whole) else { return (false, None) };
        let Some(group) = self.groups.get_mut(&key) else { return (false, None) };
        let before = group.members.len();
        group.members.retain(|(m, _)| *m != member);
        let was = group.members.len() < before;
        if !group.members.is_empty() {
            return (was, None);
        }
        let name = group.name.clone();
        self.groups.remove(&key);
        self.keys.remove(&name);
        (was, Some(key))
    }

    /// Members of all groups.
    #[must_use]
    pub fn members(&self) -> usize {
        self.groups.values().map(|group| group.members.len()).sum()
    }

    /// Whether this key is a group's, and if so its members, the one whose turn it is first.
    pub fn turn(&mut self, key: Key) -> Option<Vec<(Key, Options)>> {
        let group = self.groups.get_mut(&key)?;
        let start = group.next % group.members.len().max(1);
        group.next = start + 1;
        let (before, from) = group.members.split_at(start);
        Some([from, before].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Options = Options { qos: 1, no_local: false, as_published: false, id: None };

    #[test]
    fn names_and_filters_are_checked() {
        assert_eq!(parse("$share/g/a/+/#"), Some(("g", "a/+/#")));
        assert_eq!(parse("$share/g//a"), Some(("g", "/a")));
        for bad in ["$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g/a#"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn members_take_turns_and_the_last_one_closes_the_group() {
        let mut groups = Groups::default();
        let name: Arc<str> = "$share/g/a".into();
        assert_eq!(groups.join(&name, 1, PLAIN, 100), Some(100));
        assert_eq!(groups.join(&name, 2, PLAIN, 101), None);
        let first = |groups: &mut Groups| groups.turn(100).unwrap()[0].0;
        assert_eq!([first(&mut groups), first(&mut groups), first(&mut groups)], [1, 2, 1]);
        assert_eq!(groups.turn(7), None);
        assert_eq!(groups.leave(&name, 1), (true, None));
        assert_eq!(groups.leave(&name, 1), (false, None));
        assert_eq!(groups.leave(&name, 2), (true, Some(100)));
        assert_eq!(groups.turn(100), None);
    }
}
