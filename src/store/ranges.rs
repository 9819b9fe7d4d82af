//! A set of numbers kept as ranges. Pure. The ledger is arithmetic on these.
//!
//! Promises: the ranges are ascending, disjoint, not touching and not empty; `len` is exact.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of `u64`, stored as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// start → end (exclusive)
    spans: BTreeMap<u64, u64>,
    total: u64,
}

impl RangeSet {
    /// How many numbers are in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether no number is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Of how many ranges it consists.
    #[must_use]
    pub fn spans(&self) -> usize {
        self.spans.len()
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> {
        self.spans.iter().map(|(&start, &end)| start..end)
    }

    /// The lowest number.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        self.spans.first_key_value().map(|(&start, _)| start)
    }

    /// One past the highest number.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.spans.last_key_value().map(|(_, &end)| end)
    }

    /// Whether `n` is in it.
    #[must_use]
    pub fn contains(&self, n: u64) -> bool {
        self.spans.range(..=n).next_back().is_some_and(|(_, &end)| n < end)
    }

    /// The end of the range that holds `from`; `from` itself if none does.
    #[must_use]
    pub fn run_from(&self, from: u64) -> u64 {
        self.spans.range(..=from).next_back().map_or(from, |(_, &end)| end.max(from))
    }

    /// The whole range that holds `n`.
    #[must_use]
    pub fn span_of(&self, n: u64) -> Option<Range<u64>> {
        let (&start, &end) = self.spans.range(..=n).next_back()?;
        (n < end).then_some(start..end)
    }

    /// Adds a range; returns how many numbers were new.
    pub fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let before = self.total;
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&s, &e)) = self.spans.range(..start).next_back()
            && e >= start
        {
            start = s;
        }
        while let Some((&s, &e)) = self.spans.range(start..=end).next() {
            self.spans.remove(&s);
            self.total -= e - s;
            end = end.max(e);
        }
        self.spans.insert(start, end);
        self.total += end - start;
        self.total - before
    }

    /// Takes a range out; returns how many numbers were in it.
    pub fn remove(&mut self, range: Range<u64>) -> u64 {
        let before = self.total;
        for part in self.overlap(range) {
            let (s, e) = self
                .spans
                .range(..=part.start)
                .next_back()
                .map(|(&s, &e)| (s, e))
                .expect("overlap() found the range that holds this part");
            self.spans.remove(&s);
            if s < part.start {
                self.spans.insert(s, part.start);
            }
            if part.end < e {
                self.spans.insert(part.end, e);
            }
            self.total -= part.end - part.start;
        }
        before - self.total
    }

    /// The parts of `within` that are in the set, ascending.
    #[must_use]
    pub fn overlap(&self, within: Range<u64>) -> Vec<Range<u64>> {
        if within.is_empty() {
            return Vec::new();
        }
        let before = self.spans.range(..within.start).next_back();
        before
            .into_iter()
            .chain(self.spans.range(within.start..within.end))
            .map(|(&s, &e)| s.max(within.start)..e.min(within.end))
            .filter(|r| !r.is_empty())
            .collect()
    }

    /// The parts of `within` that are not in the set, ascending.
    #[must_use]
    pub fn missing(&self, within: Range<u64>) -> Vec<Range<u64>> {
        let mut at = within.start;
        let mut gaps = Vec::new();
        for part in self.overlap(within.clone()) {
            if at < part.start {
                gaps.push(at..part.start);
            }
            at = part.end;
        }
        if at < within.end {
            gaps.push(at..within.end);
        }
        gaps
    }

    /// What is in this set and not in `other`, ascending.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Vec<Range<u64>> {
        self.iter().flat_map(|r| other.missing(r)).collect()
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::default();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

impl Serialize for RangeSet {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.iter().map(|r| [r.start, r.end]))
    }
}

impl<'de> Deserialize<'de> for RangeSet {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Ok(Vec::<[u64; 2]>::deserialize(d)?.into_iter().map(|[start, end]| start..end).collect())
    }
}

/// How many numbers are in these ranges.
#[must_use]
pub fn count(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|r| r.end.saturating_sub(r.start)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(
            steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..12), 1..60),
            window in (0u64..60, 0u64..30),
        ) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (add, start, len) in steps {
                let range = start..start + len;
                let changed = if add {
                    range.clone().filter(|n| model.insert(*n)).count()
                } else {
                    range.clone().filter(|n| model.remove(n)).count()
                };
                let said = if add { set.insert(range) } else { set.remove(range) };
                prop_assert_eq!(said, changed as u64);
                prop_assert_eq!(set.len(), model.len() as u64);
                let spans: Vec<_> = set.iter().collect();
                prop_assert!(spans.windows(2).all(|w| w[0].end < w[1].start), "{:?}", spans);
                prop_assert!(spans.iter().all(|r| !r.is_empty()));
            }
            let within = window.0..window.0 + window.1;
            let flat = |ranges: Vec<Range<u64>>| ranges.into_iter().flatten().collect::<Vec<u64>>();
            prop_assert_eq!(
                flat(set.overlap(within.clone())),
                within.clone().filter(|n| model.contains(n)).collect::<Vec<_>>()
            );
            prop_assert_eq!(
                flat(set.missing(within.clone())),
                within.filter(|n| !model.contains(n)).collect::<Vec<_>>()
            );
            for n in 0..80 {
                prop_assert_eq!(set.contains(n), model.contains(&n));
                let run = (n..).find(|m| !model.contains(m)).expect("the set is finite");
                prop_assert_eq!(set.run_from(n), run);
            }
            let text = serde_json::to_string(&set).expect("ranges are JSON");
            prop_assert_eq!(serde_json::from_str::<RangeSet>(&text).expect("reads back"), set);
        }
    }
}
