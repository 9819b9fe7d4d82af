//! One uplink's account over the line of numbers. Pure.
//!
//! From `first` on, every number is *settled* (delivered or declared lost) or not yet. Settled numbers
//! are counted when they become settled, once: `delivered + lost == settled.len()` always.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::ranges::{RangeSet, count};
use super::release::Released;
use crate::bounds;
use crate::message::{LossReason, LossRecord};

/// More that was promised and not told is not promised again if its records are damaged: the oldest is forgotten.
fn bound_untold(untold: &mut RangeSet) {
    while untold.spans() > 2 * bounds::STORE_LOSSES {
        let Some(oldest) = untold.iter().next() else { break };
        untold.remove(oldest);
    }
}

/// What one uplink has behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its first number. What is older was never owed to it.
    pub first: u64,
    /// Delivered or declared lost.
    pub settled: RangeSet,
    /// How many were acknowledged by the upstream broker.
    pub delivered: u64,
    /// How many were declared lost.
    pub lost: u64,
    /// What of the lost is declared in a loss record that was not acknowledged yet. If the record is damaged, or gone
    /// with a database that was rolled back, it is declared again from here.
    #[serde(default, skip_serializing_if = "RangeSet::is_empty")]
    pub untold: RangeSet,
    /// The same for what is missing of thinned blocks. These ranges hold readings that were delivered as well.
    #[serde(default, skip_serializing_if = "RangeSet::is_empty")]
    pub untold_thinned: RangeSet,
    /// What it was sent before the clock was set.
    #[serde(default, skip_serializing_if = "Released::is_empty")]
    pub released: Released,
    /// Since when (wall, ms) it is not in the configuration; such an account holds no blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<i64>,
}

impl Account {
    /// An account that begins at `first`.
    #[must_use]
    pub fn new(first: u64) -> Self {
        Self {
            first,
            settled: RangeSet::default(),
            delivered: 0,
            lost: 0,
            untold: RangeSet::default(),
            untold_thinned: RangeSet::default(),
            released: Released::default(),
            parked: None,
        }
    }

    /// Everything below this is settled.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.settled.run_from(self.first)
    }

    /// Marks as delivered; returns how many were news. Numbers outside `first..end` are ignored.
    pub fn deliver(&mut self, range: Range<u64>, end: u64) -> u64 {
        let news = self.settled.insert(range.start.max(self.first)..range.end.min(end));
        self.delivered += news;
        news
    }

    /// Declares lost what is not settled yet, and returns exactly those ranges.
    #[must_use = "what is lost must be declared"]
    pub fn lose(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let news = self.settled.missing(range.start.max(self.first)..range.end);
        for part in &news {
            self.lost += self.settled.insert(part.clone());
            self.untold.insert(part.clone());
        }
        bound_untold(&mut self.untold);
        news
    }

    /// Of these numbers those that are not settled are missing in a thinned block: lost. Returns how many.
    #[must_use = "what is lost must be declared"]
    pub fn lose_missing(&mut self, range: Range<u64>) -> u64 {
        let lost = self.settled.insert(range.start.max(self.first)..range.end);
        self.lost += lost;
        if lost > 0 {
            self.untold_thinned.insert(range);
            bound_untold(&mut self.untold_thinned);
        }
        lost
    }

    /// A loss record was acknowledged.
    pub fn heard(&mut self, record: &LossRecord) {
        let untold = match record.reason {
            LossReason::Thinned => &mut self.untold_thinned,
            _ => &mut self.untold,
        };
        untold.remove(record.seq[0]..record.seq[1].saturating_add(1));
    }

    /// What was declared, not acknowledged, and is not in these records: whole ranges, and ranges of which a part was
    /// thinned.
    #[must_use = "what is lost must be declared"]
    pub fn unrecorded(&self, records: &[(u64, LossRecord)]) -> [Vec<Range<u64>>; 2] {
        let recorded = |thinned: bool| {
            let of_kind = records.iter().filter(move |(_, r)| (r.reason == LossReason::Thinned) == thinned);
            of_kind.map(|(_, r)| r.seq[0]..r.seq[1].saturating_add(1)).collect()
        };
        [self.untold.minus(&recorded(false)), self.untold_thinned.minus(&recorded(true))]
    }

    /// What of `among` is not settled.
    #[must_use]
    pub fn open(&self, among: Range<u64>) -> Vec<Range<u64>> {
        self.settled.missing(among.start.max(self.first)..among.end)
    }

    /// The account as of the numbers below `end`. Beyond it, where nothing is durable, there are deliveries only: what
    /// is lost of the readings in RAM is the oldest, and lies below.
    #[must_use]
    pub fn below(&self, end: u64) -> Self {
        let mut below = self.clone();
        let beyond = below.settled.remove(end..u64::MAX);
        below.delivered = below.delivered.saturating_sub(beyond);
        below
    }

    /// Keeps the number of islands bounded: forgets the smallest that is still stored, so it is sent
    /// (or refused) again. Never a loss; the sum of the ledger stays exact.
    pub fn bound_islands(&mut self, present: &RangeSet) {
        while self.settled.spans() > bounds::STORE_ISLANDS {
            let passed = self.passed();
            let smallest = self
                .settled
                .iter()
                .filter(|r| r.start > passed && count(&present.overlap(r.clone())) == r.end - r.start)
                .min_by_key(|r| r.end - r.start);
            let Some(island) = smallest else { return };
            self.untold.remove(island.clone());
            let n = self.settled.remove(island);
            let from_delivered = n.min(self.delivered);
            self.delivered -= from_delivered;
            self.lost -= n - from_delivered;
        }
    }

    /// Whether the counters fit the set; a damaged account that does not is not used.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.delivered.checked_add(self.lost) == Some(self.settled.len())
            && self.settled.first().is_none_or(|n| n >= self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_is_settled_once_and_counted_once(
            steps in prop::collection::vec((any::<bool>(), 0u64..900, 1u64..9), 1..700),
        ) {
            let mut account = Account::new(10);
            let mut present = RangeSet::default();
            present.insert(0..2000);
            for (deliver, start, len) in steps {
                if deliver {
                    account.deliver(start..start + len, 2000);
                } else {
                    let _ = account.lose(start..start + len);
                }
                account.bound_islands(&present);
                prop_assert!(account.balances());
                prop_assert!(account.settled.spans() <= bounds::STORE_ISLANDS);
                prop_assert!(account.passed() >= 10);
            }
        }
    }

    #[test]
    fn what_is_lost_is_named_exactly() {
        let mut account = Account::new(1);
        account.deliver(1..4, 100);
        account.deliver(6..8, 100);
        assert_eq!(account.lose(2..10), [4..6, 8..10]);
        assert_eq!((account.delivered, account.lost, account.passed()), (5, 4, 10));
        assert!(account.lose(2..10).is_empty());
    }

    #[test]
    fn what_is_missing_among_what_was_delivered_is_lost_once_and_promised_by_its_range() {
        let mut account = Account::new(1);
        account.deliver(5..6, 100);
        assert_eq!((account.lose_missing(1..6), account.lose_missing(1..6)), (4, 0));
        assert_eq!((account.delivered, account.lost, account.passed()), (1, 4, 6));
        assert!(account.balances());
        let promised = |account: &Account| account.unrecorded(&[]).map(|parts| format!("{parts:?}"));
        assert_eq!(promised(&account), ["[]", "[1..6]"]);
        let record = LossRecord {
            uplink: "u".into(),
            reason: LossReason::Thinned,
            epoch: String::new(),
            seq: [1, 5],
            count: 4,
            bound: false,
            from: None,
            to: None,
            points: None,
            ts: String::new(),
        };
        assert_eq!(account.unrecorded(&[(1, record.clone())]), [vec![], vec![]]);
        drop(account.lose(6..8));
        account.heard(&LossRecord { seq: [1, 9], ..record });
        assert_eq!(promised(&account), ["[6..8]", "[]"], "that is another reason's");
    }

    #[test]
    fn an_acknowledgement_of_the_future_is_ignored() {
        let mut account = Account::new(1);
        assert_eq!(account.deliver(1..1000, 5), 4);
    }
}
