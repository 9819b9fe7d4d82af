//! The newest block while it is small: the next commit packs what it brings together with it. Pure.
//!
//! A plant with ten points commits a handful of readings at a time. Alone each handful would take a row with a
//! header and a dictionary of its own; together they take one to four bytes a reading, and the log of a month has
//! thousands of rows instead of millions. The row is replaced within the transaction that adds the new readings, so
//! at every instant the one or the other is durable, and what was stored stays so.

use super::block::{self, Head};
use crate::bounds;
use crate::message::Entry;

/// Longest time from a block's first reading to its last, ms: limits drop whole blocks.
const SPAN: u64 = 3_600_000;

/// A committed block that may still grow.
#[derive(Debug)]
pub struct Tail {
    head: Head,
    entries: Vec<Entry>,
}

impl Tail {
    /// The last block of a commit, if it may grow: there are `left` bytes in its page.
    #[must_use]
    pub fn of(head: Head, entries: &[Entry], left: usize) -> Option<Self> {
        let small = entries.len() < bounds::STORE_MERGE && left > 0;
        small.then(|| Self { head, entries: entries.to_vec() })
    }

    /// The numbers in it.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.head.first..self.head.first + self.entries.len() as u64
    }

    /// All entries of the block that it becomes with `more`, which follow it under `head`, if that may
    /// fit `room` bytes once it is packed; `None` if it stays as it is: they are of another life, do not follow it, come
    /// too late, or are too many.
    #[must_use]
    pub fn with(&self, head: &Head, more: &[Entry], room: usize) -> Option<Vec<Entry>> {
        let follows =
            (head.first, head.epoch, head.boot) == (self.range().end, self.head.epoch, self.head.boot);
        let count = self.entries.len() + more.len();
        // Text is not packed much: no need to try.
        let text: usize = more.iter().map(block::weight).sum();
        let at = |entry: Option<&Entry>| entry.map_or(0, |e| e.at().0);
        let long = at(more.last()).saturating_sub(at(self.entries.first())) > SPAN;
        if !follows || long || count > bounds::STORE_MERGE || text > room {
            return None;
        }
        Some(self.entries.iter().chain(more).cloned().collect())
    }

    /// Its first number.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.head.first
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use driver_api::Value;

    use super::*;
    use crate::message::{BootMs, Epoch, PointKey, Reading};

    fn key() -> Arc<PointKey> {
        Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: String::new() })
    }

    fn readings(n: usize) -> Vec<Entry> {
        let key = key();
        let one = |i: usize| Reading::good(Arc::clone(&key), BootMs(i as u64), Value::UInt(i as u64));
        (0..n).map(|i| one(i).into()).collect()
    }

    fn head(first: u64) -> Head {
        Head { first, epoch: Epoch { start: 1, random: 2 }, boot: 3, offset: 0, synced: true }
    }

    #[test]
    fn it_grows_by_what_follows_until_it_is_full() {
        let tail = Tail::of(head(100), &readings(10), 200).expect("small");
        assert_eq!((tail.first(), tail.range()), (100, 100..110));
        assert_eq!(tail.with(&head(110), &readings(5), 3900).expect("follows").len(), 15);
        assert!(tail.with(&head(111), &readings(5), 3900).is_none(), "a hole");
        assert!(tail.with(&Head { boot: 4, ..head(110) }, &readings(5), 3900).is_none(), "another boot");
        let epoch = Epoch { start: 2, random: 2 };
        assert!(tail.with(&Head { epoch, ..head(110) }, &readings(5), 3900).is_none(), "another epoch");
        assert!(tail.with(&head(110), &readings(bounds::STORE_MERGE), 3900).is_none(), "too many");
        let key = key();
        let late = Reading::good(Arc::clone(&key), BootMs(SPAN + 1), Value::Bool(true));
        assert!(tail.with(&head(110), &[late.into()], 3900).is_none(), "an hour after the first");
        let text = Reading::good(key, BootMs(1), Value::Text("x".repeat(4000).into()));
        assert!(tail.with(&head(110), &[text.into()], 3900).is_none(), "text is not packed much");
    }

    #[test]
    fn what_is_large_stays_as_it_is() {
        assert!(Tail::of(head(1), &readings(bounds::STORE_MERGE), 100).is_none());
        assert!(Tail::of(head(1), &readings(10), 0).is_none());
    }
}
