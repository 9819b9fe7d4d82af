//! Which epoch and boot a number belongs to. Pure.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::message::Epoch;

/// The beginning of one epoch on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Its first number.
    pub first: u64,
    /// Start counter and random part.
    pub epoch: [u32; 2],
    /// Number of its boot.
    pub boot: u32,
}

/// The epochs, ascending by first number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epochs(pub Vec<Start>);

/// More starts than this with unsent readings between them: the oldest are told as the one after them.
const MOST: usize = 4096;

impl Epochs {
    /// A new epoch begins. One that took no number is forgotten, and so are those that end below `needed`.
    pub fn begin(&mut self, start: Start, needed: u64) {
        self.0.retain(|s| s.first < start.first);
        self.0.push(start);
        let keep = self.0.iter().rposition(|s| s.first <= needed).unwrap_or(0);
        self.0.drain(..keep.max(self.0.len().saturating_sub(MOST)));
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_told_epoch_by_epoch() {
        let mut epochs = Epochs::default();
        for (first, n) in [(1, 1), (10, 2), (10, 3), (20, 4)] {
            epochs.begin(Start { first, epoch: [n, 0], boot: n }, 1);
        }
        let starts = |parts: Vec<(Range<u64>, Epoch)>| {
            parts.into_iter().map(|(r, e)| (r.start, r.end, e.start)).collect::<Vec<_>>()
        };
        assert_eq!(starts(epochs.split(5..25)), [(5, 10, 1), (10, 20, 3), (20, 25, 4)]);
        assert_eq!(epochs.next_boot(5, 1), Some(10));
        epochs.begin(Start { first: 30, epoch: [5, 0], boot: 5 }, 15);
        assert_eq!(epochs.0.len(), 3, "what ends below 15 is forgotten");
        assert_eq!(epochs.of(12).start, 3);
    }
}
