//! The subscription trie: filters in, subscribers of a topic out. Pure.
//!
//! Depth is bounded by the filter levels that [`super::limits::Limits`] allows, so the recursion is too.

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
    /// Boxed: a table of one entry has room for four.
    children: HashMap<Box<str>, Box<Node<V>>>,
    plus: Option<Box<Node<V>>>,
    here: BTreeMap<Key, V>,
    hash: BTreeMap<Key, V>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { children: HashMap::new(), plus: None, here: BTreeMap::new(), hash: BTreeMap::new() }
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
                Some(level) => node = node.children.entry(level.into()).or_default(),
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
    fn a_second_subscription_of_the_same_client_replaces_the_first() {
        let mut trie = Trie::default();
        assert_eq!(trie.insert("a/+", 1, 'x'), None);
        assert_eq!(trie.insert("a/+", 1, 'y'), Some('x'));
        assert_eq!(trie.len(), 1);
    }
}
