//! The last value of each topic: kept, found by filter, handed out in portions. Pure.
//!
//! A new value of a known topic, which is nearly every message of a gateway, is one look into a hash map; the
//! order of the topics is kept beside it and changes only when a topic comes or goes.
//!
//! A subscription gets all of them, whatever their number: the session asks for the next portion when
//! it has sent the last, so neither the hub nor the session ever holds more than one portion.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use tokio::time::Instant;

use super::message::Publish;
use crate::topic;

/// Messages in one portion.
const PORTION: usize = 128;
/// A table with so many times more room than it needs is made smaller.
const SPARE: usize = 16;
/// Bytes after which a portion ends: what a client asked for and does not read keeps values alive that were replaced since.
const PORTION_BYTES: usize = 64 * 1024;
/// Topics looked at for one portion, so that one question never holds up the hub for long.
const SCAN: usize = 4096;

/// The retained messages.
#[derive(Debug)]
pub struct Retained {
    kept: HashMap<Arc<str>, Kept>,
    /// The topics of `kept`, in order.
    order: BTreeSet<Arc<str>>,
    bytes: usize,
    max: usize,
    max_bytes: usize,
    /// Topics of stored messages that are not kept any more.
    gone: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Kept {
    message: Arc<Publish>,
    /// The hub's count of messages when it came.
    number: u64,
    /// It outlives the process.
    stored: bool,
}

/// Where a walk over the retained messages stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// What is wanted.
    pub filter: Arc<str>,
    /// Only messages up to this number: later ones came as live messages of the subscription.
    pub until: u64,
    after: Option<Arc<str>>,
}

impl Cursor {
    /// A walk from the start.
    #[must_use]
    pub fn new(filter: Arc<str>, until: u64) -> Self {
        Self { filter, until, after: None }
    }

    /// A walk that goes on behind this topic, after a restart: up to whatever is retained by then.
    #[must_use]
    pub fn from(filter: Arc<str>, after: Option<Arc<str>>) -> Self {
        Self { filter, until: u64::MAX, after }
    }

    /// The topic it has come to.
    #[must_use]
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }
}

/// One portion, and where to go on.
#[derive(Debug)]
pub struct Portion {
    /// Retained messages in topic order.
    pub messages: Vec<Arc<Publish>>,
    /// The place of the first in a session that is kept, the others follow; 0: they are not kept.
    pub first: u64,
    /// The group in which they are kept.
    pub after: u64,
    /// `None`: that was all.
    pub next: Option<Cursor>,
}

impl Retained {
    /// An empty store with limits of number and bytes (topics and payloads).
    #[must_use]
    pub fn new(max: usize, max_bytes: usize) -> Self {
        Self { kept: HashMap::new(), order: BTreeSet::new(), bytes: 0, max, max_bytes, gone: Vec::new() }
    }

    /// Number of messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Bytes of topics and payloads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps `message` as its topic's last value; an empty payload clears it. `false`: a limit forbids
    /// it, and the topic now has no retained message (an old value would be a wrong one). What this process publishes is
    /// bounded by its configuration and always kept: clients that fill the store cannot hide a device's value. `stored`: it is
    /// to outlive the process; what did before and is replaced or cleared by one that does not is found in
    /// [`Retained::take_gone`].
    pub fn set(&mut self, message: &Arc<Publish>, number: u64, stored: bool) -> bool {
        let size = message.size();
        let own = message.from == 0 && message.origin.is_none();
        if !message.payload.is_empty()
            && let Some(kept) = self.kept.get_mut(&*message.topic)
        {
            let others = self.bytes - kept.message.size();
            if own || others + size <= self.max_bytes {
                self.bytes = others + size;
                if kept.stored && !stored {
                    self.gone.push(message.topic.clone());
                }
                *kept = Kept { message: message.clone(), number, stored };
                return true;
            }
        }
        self.clear(&message.topic);
        if message.payload.is_empty() {
            return true;
        }
        if !own && (self.kept.len() >= self.max || self.bytes + size > self.max_bytes) {
            return false;
        }
        self.bytes += size;
        self.order.insert(message.topic.clone());
        self.kept.insert(message.topic.clone(), Kept { message: message.clone(), number, stored });
        true
    }

    fn clear(&mut self, topic: &str) {
        if let Some(old) = self.kept.remove(topic) {
            self.bytes -= old.message.size();
            self.order.remove(topic);
            if old.stored {
                self.gone.push(old.message.topic.clone());
            }
            if self.kept.capacity() > SPARE * (self.kept.len() + SPARE) {
                // A flood that is over must not keep its table.
                self.kept.shrink_to(2 * self.kept.len());
            }
        }
    }

    /// Topics whose stored message went since this was last asked.
    pub fn take_gone(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.gone)
    }

    /// All messages that are to outlive the process.
    pub fn stored(&self) -> impl Iterator<Item = &Arc<Publish>> {
        self.kept.values().filter(|kept| kept.stored).map(|kept| &kept.message)
    }

    /// The next portion of a walk.
    pub fn portion(&mut self, cursor: Cursor, now: Instant) -> Portion {
        let prefix = topic::literal_prefix(&cursor.filter);
        let exact = prefix.len() == cursor.filter.len();
        // `a/#` matches `a` too, which sorts before `a/`.
        let start = prefix.strip_suffix('/').filter(|_| !exact).unwrap_or(prefix);
        let from = match &cursor.after {
            Some(after) => Bound::Excluded(after.as_ref()),
            None => Bound::Included(start),
        };
        let (mut messages, mut bytes) = (Vec::new(), 0);
        let mut dead = Vec::new();
        let mut last = None;
        for (scanned, topic) in self.order.range::<str, _>((from, Bound::Unbounded)).enumerate() {
            if !topic.starts_with(start) || (exact && topic.as_ref() != prefix) {
                last = None;
                break;
            }
            if messages.len() == PORTION || bytes >= PORTION_BYTES || scanned == SCAN {
                break;
            }
            last = Some(topic.clone());
            let Some(kept) = self.kept.get(topic) else { continue };
            if kept.number > cursor.until || !topic::matches(&cursor.filter, topic) {
                continue;
            }
            if kept.message.is_expired(now) {
                dead.push(topic.clone());
            } else {
                bytes += kept.message.size();
                messages.push(kept.message.clone());
            }
        }
        dead.iter().for_each(|topic| self.clear(topic));
        // When the range simply ended, one empty portion follows: cheaper than looking ahead.
        let next = last.map(|after| Cursor { after: Some(after), ..cursor });
        Portion { messages, first: 0, after: 0, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Of a client.
    fn message(topic: &str, payload: &'static [u8]) -> Arc<Publish> {
        Arc::new(Publish { from: 7, ..Publish::plain(topic, payload, 1, true) })
    }

    fn walk(store: &mut Retained, filter: &str, until: u64) -> Vec<String> {
        let mut cursor = Some(Cursor::new(filter.into(), until));
        let mut found = Vec::new();
        while let Some(at) = cursor {
            let portion = store.portion(at, Instant::now());
            assert!(portion.messages.len() <= PORTION);
            found.extend(portion.messages.iter().map(|m| m.topic.to_string()));
            cursor = portion.next;
        }
        found
    }

    #[test]
    fn all_of_a_hundred_thousand_are_found_in_portions() {
        let mut store = Retained::new(200_000, usize::MAX);
        for n in 0..100_000 {
            assert!(store.set(&message(&format!("gw/x/data/d{}/p{n:05}", n % 7), b"1"), n, false));
        }
        assert_eq!(walk(&mut store, "#", u64::MAX).len(), 100_000);
        assert_eq!(walk(&mut store, "gw/+/data/d3/#", u64::MAX).len(), 100_000_usize.div_ceil(7));
        assert_eq!(walk(&mut store, "gw/x/data/d3/p00003", u64::MAX), ["gw/x/data/d3/p00003"]);
        assert_eq!(walk(&mut store, "#", 9).len(), 10, "later ones come live");
    }

    #[test]
    fn limits_forbid_new_ones_and_an_old_value_does_not_stay() {
        let mut store = Retained::new(2, 12);
        assert!(store.set(&message("a", b"12345"), 1, false) && store.set(&message("b", b"1"), 2, false));
        assert!(!store.set(&message("c", b"1"), 3, false), "number");
        assert!(!store.set(&message("b", b"1234567"), 4, false), "bytes");
        assert_eq!((walk(&mut store, "#", 9), store.bytes()), (vec!["a".to_owned()], 6));
        let own = |topic: &str| Arc::new(Publish::plain(topic, "a longer value", 1, true));
        let kept = store.set(&own("a"), 5, false) && store.set(&own("ours"), 6, false);
        assert!(kept, "ours are kept all the same");
        assert!(!store.set(&message("d", b"1"), 7, false));
        assert!(store.set(&message("a", b""), 8, false) && store.set(&message("ours", b""), 9, false));
        assert_eq!((store.len(), store.bytes()), (0, 0));
    }

    #[test]
    fn what_was_stored_is_known_to_be_gone_however_it_went() {
        let mut store = Retained::new(3, 12);
        for (n, topic) in ["a", "b", "c"].into_iter().enumerate() {
            assert!(store.set(&message(topic, b"1"), n as u64, true));
        }
        assert!(
            store.set(&message("a", b"2"), 4, true) && store.take_gone().is_empty(),
            "replaced by its like"
        );
        assert!(store.set(&message("a", b"3"), 5, false) && store.set(&message("b", b""), 6, true));
        assert!(!store.set(&message("c", b"much too long"), 7, true));
        assert_eq!(store.take_gone(), ["a".into(), "b".into(), "c".into()] as [Arc<str>; 3]);
        assert_eq!(store.stored().count(), 0);
    }

    proptest! {
        #[test]
        fn a_walk_finds_exactly_what_matches(
            topics in prop::collection::btree_set("[ab/]{1,5}", 0..60),
            filter in "[ab/+#]{1,5}",
        ) {
            prop_assume!(topic::is_filter(&filter, 32));
            let mut store = Retained::new(100, 10_000);
            for t in &topics {
                store.set(&message(t, b"1"), 0, false);
            }
            let expected: Vec<_> = topics.into_iter().filter(|t| topic::matches(&filter, t)).collect();
            prop_assert_eq!(walk(&mut store, &filter, 0), expected);
        }
    }
}
