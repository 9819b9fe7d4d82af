//! One uplink's account over the line of numbers. Pure.
//!
//! From `first` on, every number is *settled* (delivered, declared lost, or passed over) or not yet. Settled numbers
//! are counted when they become settled, once: `delivered + lost + passed_over == settled.len()` always.
//!
//! Messages that no forward of the uplink takes are not its affair: their numbers are *passed over*, and the ledger
//! counts them nowhere. Known as such they are set *aside* at once, and settled when what is beside them is: so they make
//! no islands among readings that are not acknowledged yet. What is aside is in RAM only and bounded; what is forgotten
//! counts as owed until whoever reads the log for the uplink finds it again.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::exchange::Session;
use super::loss;
use super::ranges::{RangeSet, count};
use super::release::Released;
use super::wishes::Wished;
use crate::bounds;
use crate::clock::Clock;
use crate::message::{LossReason, LossRecord};

/// More that was promised and not told is not promised again if its records are damaged: the oldest is forgotten.
fn bound_untold(untold: &mut RangeSet) {
    while untold.spans() > 2 * bounds::STORE_LOSSES {
        let Some(oldest) = untold.iter().next() else { break };
        untold.remove(oldest);
    }
}

/// Since when an uplink that leaves now has left. While the clock is not set nobody knows: then it counts from the first start
/// with one that is.
#[must_use]
pub fn parked_at(clock: &dyn Clock) -> i64 {
    if clock.synced() { clock.wall().0 } else { i64::MAX }
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
    /// How many were not its affair.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub passed_over: u64,
    /// Not its affair, and not settled yet.
    #[serde(skip)]
    pub aside: RangeSet,
    /// What of the lost is declared in a loss record that was not acknowledged yet. If the record is damaged, or gone
    /// with a database that was rolled back, it is declared again from here.
    #[serde(default, skip_serializing_if = "RangeSet::is_empty")]
    pub untold: RangeSet,
    /// The same for what is missing of thinned blocks. These ranges hold readings that were delivered as well.
    #[serde(default, skip_serializing_if = "RangeSet::is_empty")]
    pub untold_thinned: RangeSet,
    /// What it wanted of messages; `None`: nobody said yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wished: Option<Wished>,
    /// Messages that it did not want any more, lost before their turn: islands that must not be forgotten, for they are
    /// declared.
    #[serde(default, skip_serializing_if = "RangeSet::is_empty")]
    pub given_up: RangeSet,
    /// What it was sent before the clock was set.
    #[serde(default, skip_serializing_if = "Released::is_empty")]
    pub released: Released,
    /// What it has open at its broker, with QoS 2.
    #[serde(default, skip_serializing_if = "Session::is_none")]
    pub session: Session,
    /// Since when (wall, ms) it is not in the configuration; such an account holds no blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<i64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
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
            passed_over: 0,
            aside: RangeSet::default(),
            untold: RangeSet::default(),
            untold_thinned: RangeSet::default(),
            wished: None,
            given_up: RangeSet::default(),
            released: Released::default(),
            session: Session::default(),
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
        let range = range.start.max(self.first)..range.end.min(end);
        self.pass_over(range.clone());
        let news = self.settled.insert(range.clone());
        self.delivered += news;
        self.pass_beside(range);
        news
    }

    /// These numbers, which can be read, are not its affair. Returns whether that is news.
    pub fn set_aside(&mut self, range: Range<u64>) -> bool {
        let news = self.open(range.clone());
        for part in &news {
            self.aside.insert(part.clone());
        }
        self.pass_beside(range);
        while self.aside.spans() > bounds::STORE_ASIDE {
            // Not of the low ones, which whoever reads the backlog has just found, nor of the newest, which are live.
            let Some(middle) = self.aside.iter().nth(self.aside.spans() / 2) else { break };
            self.aside.remove(middle);
        }
        !news.is_empty()
    }

    /// Settles what of `range` is aside.
    pub fn pass_over(&mut self, range: Range<u64>) {
        if self.aside.is_empty() {
            return;
        }
        for part in self.aside.overlap(range) {
            self.aside.remove(part.clone());
            self.passed_over += self.settled.insert(part);
        }
    }

    /// Settles what is aside and touches what is settled, where `range` has just become the one or the other.
    fn pass_beside(&mut self, range: Range<u64>) {
        if self.aside.is_empty() || range.is_empty() {
            return;
        }
        let before = |n: u64| n.checked_sub(1);
        if let Some(part) = self.aside.span_of(range.start)
            && (before(part.start).is_some_and(|n| self.settled.contains(n))
                || self.settled.contains(part.end))
        {
            self.pass_over(part);
        }
        if let Some(span) = self.settled.span_of(range.start) {
            for n in [before(span.start), Some(span.end)].into_iter().flatten() {
                self.aside.span_of(n).into_iter().for_each(|part| self.pass_over(part));
            }
        }
        let frontier = self.passed();
        self.aside.span_of(frontier).into_iter().for_each(|part| self.pass_over(part));
    }

    /// Everything below its position is settled: how that came about is not needed any more. `boot`: the present one.
    pub fn forget_passed(&mut self, boot: u32) {
        let passed = self.passed();
        self.released.forget(passed, boot);
        self.given_up.remove(0..passed);
        self.wished.iter_mut().for_each(|wished| wished.forget(passed));
    }

    /// Declares lost what is not settled yet, and returns exactly those ranges.
    #[must_use = "what is lost must be declared"]
    pub fn lose(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        self.pass_over(range.clone());
        let news = self.settled.missing(range.start.max(self.first)..range.end);
        for part in &news {
            self.lost += self.settled.insert(part.clone());
            self.untold.insert(part.clone());
        }
        bound_untold(&mut self.untold);
        news
    }

    /// The account without its session, for where that is not what the broker remembers.
    #[must_use]
    pub fn without_session(mut self) -> Self {
        self.session = Session::default();
        self
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
        for range in loss::numbers(record) {
            untold.remove(range);
        }
    }

    /// What was declared, not acknowledged, and is not in these records: whole ranges, and ranges of which a part was
    /// thinned.
    #[must_use = "what is lost must be declared"]
    pub fn unrecorded(&self, records: &[(u64, LossRecord)]) -> [Vec<Range<u64>>; 2] {
        let recorded = |thinned: bool| {
            let of_kind = records.iter().filter(move |(_, r)| (r.reason == LossReason::Thinned) == thinned);
            of_kind.flat_map(|(_, r)| loss::numbers(r)).collect()
        };
        [self.untold.minus(&recorded(false)), self.untold_thinned.minus(&recorded(true))]
    }

    /// What of `among` it is still owed.
    #[must_use]
    pub fn open(&self, among: Range<u64>) -> Vec<Range<u64>> {
        let missing = self.settled.missing(among.start.max(self.first)..among.end);
        if self.aside.is_empty() {
            return missing;
        }
        missing.into_iter().flat_map(|part| self.aside.missing(part)).collect()
    }

    /// How many numbers up to `next` were its affair.
    #[must_use]
    pub fn taken(&self, next: u64) -> u64 {
        next.saturating_sub(self.first).saturating_sub(self.passed_over + self.aside.len())
    }

    /// The account as of the numbers below `end`. Beyond it, where nothing is durable, there are deliveries only: what
    /// is lost of the readings in RAM is the oldest, and lies below.
    #[must_use]
    pub fn below(&self, end: u64) -> Self {
        let mut below = Self { aside: RangeSet::default(), ..self.clone() };
        let beyond = below.settled.remove(end..u64::MAX);
        below.delivered = below.delivered.saturating_sub(beyond);
        below
    }

    /// Keeps the number of islands bounded: forgets the smallest that is still stored, so it is sent
    /// (or refused) again. Never a loss; the sum of the ledger stays exact.
    pub fn bound_islands(&mut self, present: &RangeSet) {
        while self.settled.spans() > bounds::STORE_ISLANDS + self.given_up.spans() {
            let passed = self.passed();
            let smallest = self
                .settled
                .iter()
                .filter(|r| r.start > passed && count(&present.overlap(r.clone())) == r.end - r.start)
                .filter(|r| self.given_up.overlap(r.clone()).is_empty())
                .min_by_key(|r| r.end - r.start);
            let Some(island) = smallest else { return };
            self.untold.remove(island.clone());
            let n = self.settled.remove(island);
            // Which of them were what is not known any more; only the sum has to fit.
            let mut rest = n;
            for counter in [&mut self.delivered, &mut self.passed_over, &mut self.lost] {
                let part = rest.min(*counter);
                *counter -= part;
                rest -= part;
            }
        }
    }

    /// Whether the counters fit the set; a damaged account that does not is not used.
    #[must_use]
    pub fn balances(&self) -> bool {
        let counted = self.delivered.checked_add(self.lost).and_then(|n| n.checked_add(self.passed_over));
        counted == Some(self.settled.len()) && self.settled.first().is_none_or(|n| n >= self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_is_settled_once_and_counted_once(
            steps in prop::collection::vec((0u8..4, 0u64..900, 1u64..9), 1..700),
        ) {
            let mut account = Account::new(10);
            let mut present = RangeSet::default();
            present.insert(0..2000);
            let mut foreign = RangeSet::default();
            for (step, start, len) in steps {
                match step {
                    0 | 1 => drop(account.deliver(start..start + len, 2000)),
                    2 => drop(account.lose(start..start + len)),
                    _ => {
                        for part in account.open(start..start + len) {
                            foreign.insert(part);
                        }
                        account.set_aside(start..start + len);
                    }
                }
                account.bound_islands(&present);
                prop_assert!(account.balances());
                let owed: u64 = account.open(0..1000).iter().map(|r| r.end - r.start).sum();
                prop_assert_eq!(account.taken(1000), account.delivered + account.lost + owed);
                prop_assert!(account.aside.minus(&foreign).is_empty());
                prop_assert!(account.aside.iter().all(|part| account.settled.overlap(part).is_empty()));
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
    fn what_is_not_its_affair_is_counted_nowhere_and_makes_no_islands() {
        let mut account = Account::new(1);
        assert!(account.set_aside(3..5) && !account.set_aside(3..5));
        account.set_aside(7..8);
        assert_eq!((account.settled.spans(), account.taken(10)), (0, 6));
        assert_eq!(account.open(1..10), [1..3, 5..7, 8..10]);
        account.deliver(1..3, 10);
        assert_eq!((account.passed(), account.passed_over, account.delivered), (5, 2, 2));
        account.deliver(8..10, 10);
        assert_eq!((account.passed_over, account.settled.spans()), (3, 2), "7 lies beside 8");
        assert_eq!(account.lose(1..10).first(), Some(&(5..7)));
        assert_eq!((account.passed(), account.delivered, account.lost, account.taken(10)), (10, 4, 2, 6));
        assert!(account.balances());
        let mut account = Account::new(1);
        account.set_aside(1..3);
        assert_eq!((account.passed(), account.taken(5)), (3, 2), "from the first on at once");
        account.set_aside(4..5);
        assert_eq!(account.open(1..6), [3..4, 5..6]);
    }

    #[test]
    fn of_too_much_aside_the_middle_is_forgotten_until_it_is_found_again() {
        let mut account = Account::new(1);
        let most = bounds::STORE_ASIDE as u64;
        for n in 1..=most + 10 {
            account.set_aside(n * 2..n * 2 + 1);
        }
        assert_eq!((account.aside.spans(), account.settled.spans()), (bounds::STORE_ASIDE, 0));
        assert!(account.aside.contains(2) && account.aside.contains((most + 10) * 2));
        let end = (most + 10) * 2 + 1;
        let owed = account.open(1..end);
        assert_eq!(account.taken(end), owed.iter().map(|r| r.end - r.start).sum::<u64>());
        for n in 1..=most + 10 {
            account.deliver(n * 2 - 1..n * 2, end);
            account.set_aside(n * 2..n * 2 + 1);
        }
        assert_eq!((account.passed(), account.delivered, account.passed_over), (end, most + 10, most + 10));
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
            numbers: Vec::new(),
            ts: String::new(),
        };
        assert_eq!(account.unrecorded(&[(1, record.clone())]), [vec![], vec![]]);
        drop(account.lose(6..8));
        account.heard(&LossRecord { seq: [1, 9], ..record });
        assert_eq!(promised(&account), ["[6..8]", "[]"], "that is another reason's");
    }

    #[test]
    fn of_a_scattered_record_only_its_own_numbers_are_heard() {
        let mut account = Account::new(1);
        drop(account.lose(1..7));
        let record = |numbers: &[[u64; 2]]| LossRecord {
            uplink: "u".into(),
            reason: LossReason::Rejected,
            epoch: String::new(),
            seq: [1, 6],
            count: 3,
            bound: false,
            from: None,
            to: None,
            points: None,
            numbers: numbers.to_vec(),
            ts: String::new(),
        };
        let [odd, even] = [record(&[[1, 1], [3, 3], [5, 5]]), record(&[[2, 2], [4, 4], [6, 6]])];
        assert_eq!(account.unrecorded(&[(1, odd.clone()), (2, even.clone())]), [vec![], vec![]]);
        assert_eq!(account.unrecorded(&[(1, odd.clone())])[0], [2..3, 4..5, 6..7], "the other one is gone");
        account.heard(&odd);
        assert_eq!(account.unrecorded(&[])[0], [2..3, 4..5, 6..7]);
        account.heard(&even);
        assert!(account.untold.is_empty());
    }

    #[test]
    fn an_acknowledgement_of_the_future_is_ignored() {
        let mut account = Account::new(1);
        assert_eq!(account.deliver(1..1000, 5), 4);
    }
}
