//! What is to be written: the net effect of everything that happened since the last group. Pure.
//!
//! What came and went within a group is never written: a connected client that acknowledges quickly costs nothing but what
//! its publishers wait for. Since it is a net effect, a group that failed takes in the next one and is tried again, whether it
//! took place or not.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::codec::Row;
use crate::broker::message::Publish;
use crate::broker::queue::{Addressed, Walk};
use crate::broker::state::Options;
use crate::broker::trie::Key;
use crate::message::Standing;

/// What waits for a session.
#[derive(Debug, Clone)]
pub enum What {
    /// A message, and the number of its body.
    Message(Addressed, u64),
    /// A walk over the retained messages.
    Walk(Walk),
}

/// What becomes of an entry.
#[derive(Debug)]
pub enum Entry {
    /// It is new, or is another one now.
    Put {
        /// What it is.
        what: What,
        /// The receiver has it already.
        released: bool,
        /// No earlier group can have written it.
        fresh: bool,
    },
    /// The receiver has it.
    Released,
    /// It is over.
    Remove,
}

/// What becomes of a session.
#[derive(Debug, Default)]
pub struct Part {
    /// First of all, all that was of it goes.
    pub dropped: bool,
    /// No earlier group has anything of it.
    fresh: bool,
    /// It is this.
    pub row: Option<Box<Row>>,
    /// Its subscriptions that changed.
    pub filters: HashMap<Arc<str>, Option<Options>>,
    /// Its entries that changed.
    pub entries: BTreeMap<u64, Entry>,
    /// Its packet ids that changed.
    pub ids: HashMap<u16, Standing>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Pending {
    /// By session.
    pub parts: HashMap<Key, Part>,
    /// Retained messages by topic; `None`: it goes.
    pub retained: HashMap<Arc<str>, Option<Arc<Publish>>>,
    /// A sign of life is wanted, if nothing else.
    pub mark: bool,
    bytes: usize,
}

/// What an entry or a retained message stands for beside its message.
const OVERHEAD: usize = 128;

fn size(entry: &Entry) -> usize {
    match entry {
        Entry::Put { what: What::Message(a, _), .. } => OVERHEAD + a.message.size(),
        _ => OVERHEAD,
    }
}

impl Part {
    fn is_void(&self) -> bool {
        !self.dropped
            && self.row.is_none()
            && self.filters.is_empty()
            && self.entries.is_empty()
            && self.ids.is_empty()
    }
}

impl Pending {
    /// Nothing is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.retained.is_empty() && !self.mark
    }

    /// Bytes it holds, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether something is added by it, and not only taken away.
    #[must_use]
    pub fn grows(&self) -> bool {
        let puts = |part: &Part| {
            part.filters.values().any(Option::is_some)
                || part.ids.values().any(|standing| *standing != Standing::Free)
                || part.entries.values().any(|entry| matches!(entry, Entry::Put { .. }))
        };
        self.parts.values().any(puts) || self.retained.values().any(Option::is_some)
    }

    /// A session is this now.
    pub fn row(&mut self, key: Key, row: Row) {
        self.parts.entry(key).or_default().row = Some(Box::new(row));
    }

    /// The will of a client of which nothing was kept before. If the client goes within the group, it was never written.
    pub fn will(&mut self, key: Key, row: Row) {
        let fresh = !self.parts.contains_key(&key);
        let part = self.parts.entry(key).or_default();
        part.fresh = fresh;
        part.row = Some(Box::new(row));
    }

    /// A session is over.
    pub fn drop_session(&mut self, key: Key) {
        if self.parts.get(&key).is_some_and(|part| part.fresh) {
            self.parts.remove(&key);
            return;
        }
        if let Some(part) = self.parts.insert(key, Part { dropped: true, ..Part::default() }) {
            self.bytes -= part.entries.values().map(size).sum::<usize>();
        }
    }

    /// A subscription is this now, or is over.
    pub fn filter(&mut self, key: Key, filter: Arc<str>, options: Option<Options>) {
        self.parts.entry(key).or_default().filters.insert(filter, options);
    }

    /// Something waits for a session.
    pub fn put(&mut self, key: Key, seq: u64, what: What) {
        self.set(key, seq, Entry::Put { what, released: false, fresh: true });
    }

    /// What has long been waiting for a session is noted again, for the shelf has begun anew. What was noted of it since
    /// then is newer.
    pub fn again(&mut self, key: Key, seq: u64, what: What, released: bool) {
        let was = self.parts.get(&key).and_then(|part| part.entries.get(&seq));
        let released = match was {
            None => released,
            Some(Entry::Released) => true,
            Some(Entry::Put { .. } | Entry::Remove) => return,
        };
        self.set(key, seq, Entry::Put { what, released, fresh: false });
    }

    /// A walk has come further.
    pub fn moved(&mut self, key: Key, walk: Walk) {
        let was = self.parts.get(&key).and_then(|part| part.entries.get(&walk.seq));
        let fresh = matches!(was, Some(Entry::Put { fresh: true, .. }));
        self.set(key, walk.seq, Entry::Put { what: What::Walk(walk), released: false, fresh });
    }

    /// The receiver has what is at this place.
    pub fn released(&mut self, key: Key, seq: u64) {
        let entries = &mut self.parts.entry(key).or_default().entries;
        match entries.get_mut(&seq) {
            Some(Entry::Put { released, .. }) => *released = true,
            Some(Entry::Released | Entry::Remove) => {}
            None => self.set(key, seq, Entry::Released),
        }
    }

    /// What is at this place is over.
    pub fn remove(&mut self, key: Key, seq: u64) {
        let entries = &mut self.parts.entry(key).or_default().entries;
        if let Some(was @ Entry::Put { fresh: true, .. }) = entries.get(&seq) {
            self.bytes -= size(was);
            entries.remove(&seq);
            if self.parts.get(&key).is_some_and(Part::is_void) {
                self.parts.remove(&key);
            }
            return;
        }
        self.set(key, seq, Entry::Remove);
    }

    /// A packet id stands so now.
    pub fn id(&mut self, key: Key, id: u16, standing: Standing) {
        self.parts.entry(key).or_default().ids.insert(id, standing);
    }

    /// A topic has this retained message now, or none.
    pub fn retain(&mut self, topic: Arc<str>, message: Option<Arc<Publish>>) {
        let size = |m: &Option<Arc<Publish>>| OVERHEAD + m.as_ref().map_or(0, |m| m.size());
        self.bytes += size(&message);
        if let Some(was) = self.retained.insert(topic, message) {
            self.bytes -= size(&was);
        }
    }

    fn set(&mut self, key: Key, seq: u64, entry: Entry) {
        self.bytes += size(&entry);
        if let Some(was) = self.parts.entry(key).or_default().entries.insert(seq, entry) {
            self.bytes -= size(&was);
        }
    }

    /// `self` was tried and failed; nobody knows whether it took place. Then came `newer`.
    pub fn absorb(&mut self, newer: Self) {
        for part in self.parts.values_mut() {
            part.fresh = false;
            for entry in part.entries.values_mut() {
                if let Entry::Put { fresh, .. } = entry {
                    *fresh = false;
                }
            }
        }
        for (key, part) in newer.parts {
            if part.dropped {
                self.drop_session(key);
            }
            if let Some(row) = part.row {
                self.row(key, *row);
            }
            for (filter, options) in part.filters {
                self.filter(key, filter, options);
            }
            for (seq, entry) in part.entries {
                match entry {
                    Entry::Released => self.released(key, seq),
                    Entry::Remove => self.remove(key, seq),
                    Entry::Put { what, released, fresh } => {
                        let known = self.parts.get(&key).is_some_and(|part| part.entries.contains_key(&seq));
                        self.set(key, seq, Entry::Put { what, released, fresh: fresh && !known });
                    }
                }
            }
            for (id, standing) in part.ids {
                self.id(key, id, standing);
            }
        }
        for (topic, message) in newer.retained {
            self.retain(topic, message);
        }
        self.mark |= newer.mark;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(qos: u8) -> What {
        let message = Arc::new(Publish::plain("t", "x", qos, false));
        What::Message(Addressed::new(message, qos, false, None), 1)
    }

    #[test]
    fn what_comes_and_goes_between_two_groups_is_never_written() {
        let mut pending = Pending::default();
        pending.put(1, 5, message(1));
        assert!(pending.grows() && pending.bytes() > 0);
        pending.remove(1, 5);
        assert!(pending.is_empty());
        assert_eq!(pending.bytes(), 0);
        pending.remove(1, 4);
        assert!(matches!(pending.parts[&1].entries[&4], Entry::Remove), "an earlier group had it");
    }

    #[test]
    fn a_group_that_failed_may_have_taken_place() {
        let mut failed = Pending::default();
        failed.put(1, 5, message(2));
        failed.id(2, 9, Standing::Taken);
        let mut newer = Pending::default();
        newer.remove(1, 5);
        newer.id(2, 9, Standing::Free);
        failed.absorb(newer);
        assert!(matches!(failed.parts[&1].entries[&5], Entry::Remove), "so it is taken away for certain");
        assert_eq!(failed.parts[&2].ids[&9], Standing::Free);
    }

    /// What a group does to a shelf, in small: entries by session and place, each whether it is released.
    type Shelf = BTreeMap<(Key, u64), bool>;

    fn apply(shelf: &mut Shelf, pending: &Pending) {
        for (key, part) in &pending.parts {
            if part.dropped {
                shelf.retain(|(k, _), _| k != key);
            }
            for (seq, entry) in &part.entries {
                match entry {
                    Entry::Put { released, .. } => drop(shelf.insert((*key, *seq), *released)),
                    Entry::Released => drop(shelf.entry((*key, *seq)).and_modify(|r| *r = true)),
                    Entry::Remove => drop(shelf.remove(&(*key, *seq))),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn groups_do_what_the_steps_would_whichever_of_them_fail(
            steps in prop::collection::vec((0u8..6, 1u64..3), 1..80),
            ends in prop::collection::vec((0usize..80, 0u8..3), 0..8),
        ) {
            let mut next = [0u64; 3];
            let (mut pending, mut shelf, mut model) = (Pending::default(), Shelf::new(), Shelf::new());
            for (n, (kind, key)) in steps.into_iter().enumerate() {
                let at = usize::try_from(key).unwrap();
                let first = model.keys().find(|(k, _)| *k == key).map(|(_, seq)| *seq);
                match (kind, first) {
                    (0 | 1, _) => {
                        next[at] += 1;
                        pending.put(key, next[at], message(2));
                        model.insert((key, next[at]), false);
                    }
                    (2, Some(seq)) => {
                        pending.released(key, seq);
                        model.insert((key, seq), true);
                    }
                    (3 | 4, Some(seq)) => {
                        pending.remove(key, seq);
                        model.remove(&(key, seq));
                    }
                    (5, _) => {
                        pending.drop_session(key);
                        model.retain(|(k, _), _| *k != key);
                    }
                    _ => {}
                }
                for (_, how) in ends.iter().filter(|(at, _)| *at == n) {
                    let group = std::mem::take(&mut pending);
                    // 0: it is written. 1: it fails. 2: it fails, but took place.
                    if *how != 1 {
                        apply(&mut shelf, &group);
                    }
                    if *how > 0 {
                        pending = group;
                        pending.absorb(Pending::default());
                    } else {
                        prop_assert_eq!(&shelf, &model);
                    }
                }
            }
            apply(&mut shelf, &pending);
            prop_assert_eq!(shelf, model);
            pending.drop_session(1);
            pending.drop_session(2);
            prop_assert_eq!(pending.bytes(), 0);
        }
    }
}
