//! The subscription trie: filters in, subscribers of a topic out. Pure.
//!
//! Depth is bounded by the filter levels that [`super::limits::Limits`] allows, so the recursion is too. Most levels of most filters
//! have one level below them: that one is compared, and only where there are several is there a table.

use std::collections::{BTreeMap, HashMap};

/// Who subscribes: a client or an in-process subscriber.
pub type Key = u64;

/// Filters and who subscribed to them, with one `V` (options) for each pair.
#[derive(Debug)]
pub struct Trie<V> {
    root: Node<V>,
    len: usize,
}

#[derive(Debug)]
struct Node<V> {
    children: Children<V>,
    plus: Option<Box<Node<V>>>,
    here: BTreeMap<Key, V>,
    hash: BTreeMap<Key, V>,
}

/// The levels below one, by name.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "few nodes have a table, and all would have room for one")]
enum Children<V> {
    /// [`FEW`] at the most.
    Few(Vec<(Box<str>, Box<Node<V>>)>),
    Many(Box<HashMap<Box<str>, Box<Node<V>>, foldhash::quality::RandomState>>),
}

/// So many names are sooner compared than hashed.
const FEW: usize = 4;

impl<V> Children<V> {
    fn get(&self, level: &str) -> Option<&Node<V>> {
        match self {
            Self::Few(list) => list.iter().find(|(name, _)| **name == *level).map(|(_, node)| &**node),
            Self::Many(table) => table.get(level).map(|node| &**node),
        }
    }

    fn get_mut(&mut self, level: &str) -> Option<&mut Node<V>> {
        match self {
            Self::Few(list) => {
                list.iter_mut().find(|(name, _)| **name == *level).map(|(_, node)| &mut **node)
            }
            Self::Many(table) => table.get_mut(level).map(|node| &mut **node),
        }
    }

    /// The level of this name, made if there is none.
    fn made(&mut self, level: &str) -> &mut Node<V> {
        if let Self::Few(list) = self
            && list.len() == FEW
            && list.iter().all(|(name, _)| **name != *level)
        {
            *self = Self::Many(Box::new(std::mem::take(list).into_iter().collect()));
        }
        match self {
            Self::Few(list) => {
                let at = list.iter().position(|(name, _)| **name == *level).unwrap_or_else(|| {
                    // Most stay the only one.
                    list.reserve_exact(1);
                    list.push((level.into(), Box::default()));
                    list.len() - 1
                });
                &mut list[at].1
            }
            Self::Many(table) => table.entry(level.into()).or_default(),
        }
    }

    fn remove(&mut self, level: &str) {
        match self {
            Self::Few(list) => {
                list.retain(|(name, _)| **name != *level);
                list.shrink_to_fit();
            }
            Self::Many(table) => {
                table.remove(level);
                // Not at the very border: there a subscription that comes and goes would pay each time.
                if table.len() <= FEW / 2 {
                    *self = Self::Few(table.drain().collect());
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Few(list) if list.is_empty())
    }
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { children: Children::Few(Vec::new()), plus: None, here: BTreeMap::new(), hash: BTreeMap::new() }
    }
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0 }
    }
}

impl<V> Trie<V> {
    /// Number of subscriptions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Subscribes `key` to `filter` (well-formed); gives back what it replaces.
    pub fn insert(&mut self, filter: &str, key: Key, options: V) -> Option<V> {
        let mut node = &mut self.root;
        let mut levels = filter.split('/');
        let slot = loop {
            match levels.next() {
                None => break &mut node.here,
                Some("#") => break &mut node.hash,
                Some("+") => node = node.plus.get_or_insert_default(),
                Some(level) => node = node.children.made(level),
            }
        };
        let old = slot.insert(key, options);
        self.len += usize::from(old.is_none());
        old
    }

    /// Ends the subscription; branches that nobody uses any more are freed.
    pub fn remove(&mut self, filter: &str, key: Key) -> Option<V> {
        let old = self.root.remove(&mut filter.split('/'), key);
        self.len -= usize::from(old.is_some());
        old
    }

    /// Calls `found` for every subscription that matches `topic`.
    pub fn matching<'a>(&'a self, topic: &str, found: &mut impl FnMut(Key, &'a V)) {
        let wildcards = !topic.starts_with('$');
        self.root.matching(Some(topic), wildcards, found);
    }
}

impl<V> Node<V> {
    fn is_unused(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.here.is_empty() && self.hash.is_empty()
    }

    fn remove<'a>(&mut self, levels: &mut impl Iterator<Item = &'a str>, key: Key) -> Option<V> {
        match levels.next() {
            None => self.here.remove(&key),
            Some("#") => self.hash.remove(&key),
            Some("+") => {
                let child = self.plus.as_mut()?;
                let old = child.remove(levels, key);
                if child.is_unused() {
                    self.plus = None;
                }
                old
            }
            Some(level) => {
                let child = self.children.get_mut(level)?;
                let old = child.remove(levels, key);
                if child.is_unused() {
                    self.children.remove(level);
                }
                old
            }
        }
    }

    fn matching<'a>(&'a self, rest: Option<&str>, wildcards: bool, found: &mut impl FnMut(Key, &'a V)) {
        if wildcards {
            self.hash.iter().for_each(|(key, v)| found(*key, v));
        }
        let Some(rest) = rest else {
            self.here.iter().for_each(|(key, v)| found(*key, v));
            return;
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        if let Some(child) = self.children.get(level) {
            child.matching(rest, true, found);
        }
        if wildcards && let Some(child) = &self.plus {
            child.matching(rest, true, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn levels(words: &'static [&'static str], max: usize) -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(words), 1..max).prop_map(|v| v.join("/"))
    }

    proptest! {
        #[test]
        fn finds_exactly_the_filters_that_match(
            filters in prop::collection::vec(levels(&["a", "b", "", "+", "#", "$s"], 5), 0..40),
            topic in levels(&["a", "b", "", "$s"], 5),
            removed in prop::collection::vec(0usize..40, 0..20),
        ) {
            let filters: Vec<_> = filters.into_iter().filter(|f| topic::is_filter(f, 32)).collect();
            prop_assume!(topic::is_name(&topic, 32));
            let mut trie = Trie::default();
            let mut model = BTreeSet::new();
            for (n, f) in filters.iter().enumerate() {
                trie.insert(f, n as Key, ());
                model.insert(n);
            }
            for n in removed.into_iter().filter(|n| *n < filters.len()) {
                prop_assert_eq!(trie.remove(&filters[n], n as Key).is_some(), model.remove(&n));
            }
            prop_assert_eq!(trie.len(), model.len());
            let mut found = Vec::new();
            trie.matching(&topic, &mut |key, ()| found.push(usize::try_from(key).unwrap()));
            found.sort_unstable();
            let expected: Vec<_> =
                model.iter().copied().filter(|n| topic::matches(&filters[*n], &topic)).collect();
            prop_assert_eq!(found, expected);
            for n in model {
                trie.remove(&filters[n], n as Key);
            }
            prop_assert!(trie.len() == 0 && trie.root.is_unused());
        }
    }

    #[test]
    fn many_names_below_one_level_are_found_and_forgotten() {
        let mut trie = Trie::default();
        let filters: Vec<_> = (0..100u64).map(|n| (format!("a/{n}/b"), n)).collect();
        for (filter, n) in &filters {
            trie.insert(filter, *n, ());
        }
        for (gone, (filter, n)) in filters.iter().enumerate() {
            for (still, (topic, key)) in filters.iter().enumerate() {
                let mut found = Vec::new();
                trie.matching(topic, &mut |key, ()| found.push(key));
                assert_eq!(found == [*key], still >= gone, "{topic} without {gone}");
            }
            assert!(trie.remove(filter, *n).is_some());
        }
        assert!(trie.len() == 0 && trie.root.is_unused());
    }

    #[test]
    fn a_second_subscription_of_the_same_client_replaces_the_first() {
        let mut trie = Trie::default();
        assert_eq!(trie.insert("a/+", 1, 'x'), None);
        assert_eq!(trie.insert("a/+", 1, 'y'), Some('x'));
        assert_eq!(trie.len(), 1);
    }
}
