//! Which epoch and boot a number belongs to. Pure.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::ranges::RangeSet;
use crate::message::Epoch;

/// The beginning of one epoch on the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Its first number.
    pub first: u64,
    /// Start counter and random part.
    pub epoch: [u32; 2],
    /// Number of its boot.
    pub boot: u32,
    /// What the gateway was called; `None`: nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// The epochs, ascending by first number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epochs(pub Vec<Start>);

/// More starts than this with unsent readings between them: the oldest are told as the one after them.
const MOST: usize = 4096;

impl Epochs {
    /// A new epoch begins. One that took no number is forgotten, and so are those that end below `needed`; but the one before
    /// it stays, for it says what the gateway was called. Where that was not written down (versions before schema 6), it is taken to be
    /// what it is called now.
    pub fn begin(&mut self, start: Start, needed: u64) {
        self.0.retain(|s| s.first < start.first);
        for earlier in self.0.iter_mut().filter(|s| s.gateway.is_none()) {
            earlier.gateway.clone_from(&start.gateway);
        }
        self.0.push(start);
        let most = self.0.len().saturating_sub(MOST);
        let keep = self.0.iter().rposition(|s| s.first <= needed).unwrap_or(0);
        self.0.drain(..keep.min(self.0.len().saturating_sub(2)).max(most));
    }

    /// What the gateway was called when this number was taken.
    #[must_use]
    pub fn gateway(&self, seq: u64) -> Option<String> {
        let start = self.0.iter().rev().find(|s| s.first <= seq).or(self.0.first());
        start.and_then(|s| s.gateway.clone())
    }

    /// What the gateway was called before the newest epoch, if that was something else.
    #[must_use]
    pub fn renamed_from(&self) -> Option<String> {
        let [.., before, newest] = &self.0[..] else { return None };
        before.gateway.clone().filter(|_| newest.gateway.is_some() && before.gateway != newest.gateway)
    }

    /// What else than now the gateway was called when these numbers were taken, each once, oldest first.
    #[must_use]
    pub fn earlier_names(&self, among: &RangeSet) -> Vec<String> {
        let now = self.0.last().and_then(|s| s.gateway.clone());
        let ends = self.0.iter().skip(1).map(|s| s.first).chain([u64::MAX]);
        let mut names: Vec<String> = Vec::new();
        for (start, end) in self.0.iter().zip(ends) {
            let Some(name) = start.gateway.as_ref().filter(|name| Some(*name) != now.as_ref()) else {
                continue;
            };
            if !names.contains(name) && !among.overlap(start.first..end).is_empty() {
                names.push(name.clone());
            }
        }
        names
    }

    /// The epoch of a number; the oldest known for what lies before it.
    #[must_use]
    pub fn of(&self, seq: u64) -> Epoch {
        let start = self.0.iter().rev().find(|s| s.first <= seq).or(self.0.first());
        start.map_or(Epoch { start: 0, random: 0 }, |s| Epoch { start: s.epoch[0], random: s.epoch[1] })
    }

    /// The epoch of a number, if it was written down when that began. (A guess has no boot.)
    #[must_use]
    pub fn proven(&self, seq: u64) -> Option<Epoch> {
        let start = self.0.iter().rev().find(|s| s.first <= seq).filter(|s| s.boot != 0)?;
        Some(Epoch { start: start.epoch[0], random: start.epoch[1] })
    }

    /// The parts of a range that lie in one epoch each.
    #[must_use]
    pub fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, Epoch)> {
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let next = self.0.iter().map(|s| s.first).find(|&f| f > at).unwrap_or(u64::MAX);
            let end = next.min(range.end);
            parts.push((at..end, self.of(at)));
            at = end;
        }
        parts
    }

    /// First number of the first epoch after `seq` that belongs to another boot than `boot`.
    #[must_use]
    pub fn next_boot(&self, seq: u64, boot: u32) -> Option<u64> {
        self.0.iter().find(|s| s.first > seq && s.boot != boot).map(|s| s.first)
    }

    /// First number and boot of each epoch after `seq` that began in another boot than the one before it.
    #[must_use]
    pub fn changes_of_boot(&self, seq: u64) -> Vec<(u64, u32)> {
        let pairs = self.0.iter().zip(self.0.iter().skip(1));
        let changes = pairs.filter(|(before, s)| s.first > seq && before.boot != s.boot);
        changes.map(|(_, s)| (s.first, s.boot)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_told_epoch_by_epoch() {
        let mut epochs = Epochs::default();
        for (first, n) in [(1, 1), (10, 2), (10, 3), (20, 4)] {
            epochs.begin(Start { first, epoch: [n, 0], boot: n, gateway: None }, 1);
        }
        let starts = |parts: Vec<(Range<u64>, Epoch)>| {
            parts.into_iter().map(|(r, e)| (r.start, r.end, e.start)).collect::<Vec<_>>()
        };
        assert_eq!(starts(epochs.split(5..25)), [(5, 10, 1), (10, 20, 3), (20, 25, 4)]);
        assert_eq!(epochs.next_boot(5, 1), Some(10));
        epochs.begin(Start { first: 30, epoch: [5, 0], boot: 5, gateway: None }, 15);
        assert_eq!(epochs.0.len(), 3, "what ends below 15 is forgotten");
        assert_eq!(epochs.of(12).start, 3);
    }

    #[test]
    fn each_number_keeps_the_name_that_the_gateway_had() {
        let mut epochs = Epochs::default();
        let mut begin = |first, name: Option<&str>, needed| {
            let start = Start { first, epoch: [1, 0], boot: 1, gateway: name.map(Into::into) };
            epochs.begin(start, needed);
            epochs.clone()
        };
        assert_eq!(begin(1, None, 1).gateway(5), None, "an earlier version");
        let taken_over = begin(10, Some("a"), 1);
        assert_eq!((taken_over.gateway(5).as_deref(), taken_over.renamed_from()), (Some("a"), None));
        let renamed = begin(20, Some("b"), 1);
        assert_eq!([5, 15, 25].map(|n| renamed.gateway(n).expect("said").to_string()), ["a", "a", "b"]);
        assert_eq!(renamed.renamed_from().as_deref(), Some("a"));
        let set = |range: Range<u64>| {
            let mut set = RangeSet::default();
            set.insert(range);
            set
        };
        assert_eq!(renamed.earlier_names(&set(3..30)), ["a"]);
        assert!(renamed.earlier_names(&set(20..30)).is_empty(), "nothing is left of it");
        // Nothing was taken as b, and everything of a was delivered.
        let again = begin(20, Some("c"), 20);
        assert_eq!((again.renamed_from().as_deref(), again.0.len()), (Some("a"), 2));
        assert_eq!(begin(30, Some("c"), 30).renamed_from(), None, "said once");
    }
}
