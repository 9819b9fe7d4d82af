//! Loss records while they are made: exact, and merged so that they do not flood. Pure.
//!
//! What an uplink gives up lies scattered: of a topic that is refused it is one number here and one there, with what was
//! delivered in between. It is one record as far as nothing in between is owed any more: so all of its numbers that
//! have not arrived when it is heard are lost, by this record or by another one.

use std::collections::BTreeSet;
use std::ops::Range;

use super::ranges::RangeSet;
use crate::bounds;
use crate::message::{Epoch, LossReason, LossRecord, WallMs};

/// Numbers of one uplink and one epoch that will not arrive, not yet written down.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// For which uplink.
    pub uplink: String,
    /// Why.
    pub reason: LossReason,
    /// At most these.
    pub bound: bool,
    /// Epoch of the numbers.
    pub epoch: Epoch,
    /// Which numbers; of what was thinned, those among which they are.
    pub range: Range<u64>,
    /// Where there are holes in it: the numbers themselves. Empty: it has none.
    pub numbers: RangeSet,
    /// How many of them. None: it only joins what lies before and behind it.
    pub count: u64,
    /// What is known of the readings behind them.
    pub facts: Facts,
    /// The readings are still stored: the writer looks them up before it writes this down.
    pub look_up: bool,
}

impl Draft {
    /// All numbers of a range, for this uplink and of this epoch; why, and whether that is a bound.
    #[must_use]
    pub fn of(
        (uplink, epoch): (&str, Epoch),
        range: Range<u64>,
        (reason, bound): (LossReason, bool),
        facts: Facts,
        look_up: bool,
    ) -> Self {
        let (uplink, count, numbers) = (uplink.to_owned(), range.end - range.start, RangeSet::default());
        Self { uplink, reason, bound, epoch, range, numbers, count, facts, look_up }
    }

    /// The numbers, as ranges.
    #[must_use]
    pub fn numbers(&self) -> Vec<Range<u64>> {
        if self.numbers.is_empty() { vec![self.range.clone()] } else { self.numbers.iter().collect() }
    }

    /// Adds what lies behind it.
    fn extend(&mut self, other: Self) {
        if self.range.end < other.range.start || !other.numbers.is_empty() || !self.numbers.is_empty() {
            self.numbers = self.numbers().into_iter().chain(other.numbers()).collect();
        }
        self.range.end = other.range.end;
        self.count += other.count;
        self.facts.join(other.facts);
    }
}

/// What is known of lost readings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// `device/point` of each; `None` if unknown.
    pub points: Option<BTreeSet<String>>,
    /// Time of the first and of the last.
    pub times: Option<(WallMs, WallMs)>,
}

impl Facts {
    /// Collects from readings that are at hand.
    pub fn of(readings: impl IntoIterator<Item = (String, WallMs)>) -> Self {
        let (mut points, mut times) = (BTreeSet::new(), None);
        for (point, ts) in readings {
            points.insert(point);
            times = Some(times.map_or((ts, ts), |(a, b): (WallMs, WallMs)| (a.min(ts), b.max(ts))));
        }
        Self { points: Some(points), times }
    }

    /// Adds what is known of others.
    pub fn join(&mut self, other: Self) {
        self.points = match (self.points.take(), other.points) {
            (Some(mut a), Some(b)) => {
                a.extend(b);
                Some(a)
            }
            _ => None,
        };
        self.times = match (self.times, other.times) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            _ => None,
        };
    }
}

/// Adds a draft, to the last one of its kind if it goes on where that ended, or if an uplink gave up both and what lies in
/// between is `settled`.
pub fn push(drafts: &mut Vec<Draft>, draft: Draft, settled: impl FnOnce(Range<u64>) -> bool) {
    let goes_on = |d: &Draft| {
        let (end, start) = (d.range.end, draft.range.start);
        let room = d.numbers.spans() < bounds::STORE_LOSS_SPANS;
        let apart = end < start && d.look_up && d.reason == LossReason::Rejected;
        end == start || (apart && room && settled(end..start))
    };
    let before = drafts.iter_mut().rev().find(|d| d.uplink == draft.uplink);
    match before {
        Some(d)
            if (d.reason, d.bound, d.epoch, d.look_up)
                == (draft.reason, draft.bound, draft.epoch, draft.look_up)
                && goes_on(d) =>
        {
            d.extend(draft);
        }
        _ => drafts.push(draft),
    }
}

/// The record of a draft.
#[must_use]
pub fn record(draft: Draft, now: WallMs) -> LossRecord {
    let points = draft.facts.points.filter(|p| p.len() <= bounds::STORE_LOSS_POINTS);
    LossRecord {
        uplink: draft.uplink,
        reason: draft.reason,
        epoch: draft.epoch.to_string(),
        seq: [draft.range.start, draft.range.end.saturating_sub(1)],
        count: draft.count,
        bound: draft.bound,
        from: draft.facts.times.map(|t| t.0.to_string()),
        to: draft.facts.times.map(|t| t.1.to_string()),
        points: points.map(|p| p.into_iter().collect()),
        numbers: draft.numbers.iter().map(|range| [range.start, range.end - 1]).collect(),
        ts: now.to_string(),
    }
}

/// The numbers of a record, as ranges; of what was thinned, those among which they are.
#[must_use]
pub fn numbers(record: &LossRecord) -> Vec<Range<u64>> {
    let range = |[first, last]: [u64; 2]| first..last.saturating_add(1);
    if record.numbers.is_empty() {
        return vec![range(record.seq)];
    }
    record.numbers.iter().copied().map(range).collect()
}

/// Adds `new` to `old` if it goes on where `old` ends. `crowded`: there are too many records, so that
/// the range may get holes and the epoch is that of the first; the count stays exact.
pub fn merge(old: &mut LossRecord, new: &LossRecord, crowded: bool) -> bool {
    let kind = old.uplink == new.uplink && old.reason == new.reason && old.bound == new.bound;
    let goes_on = old.epoch == new.epoch && old.seq[1].checked_add(1) == Some(new.seq[0]);
    let scattered = !old.numbers.is_empty() || !new.numbers.is_empty();
    let room = !scattered || old.numbers.len() + new.numbers.len() < bounds::STORE_LOSS_SPANS;
    if !kind || !((goes_on && room) || crowded) {
        return false;
    }
    if scattered && goes_on && room {
        let both: RangeSet = [&*old, new].into_iter().flat_map(numbers).collect();
        old.numbers = both.iter().map(|range| [range.start, range.end - 1]).collect();
    } else {
        old.numbers.clear();
    }
    old.seq = [old.seq[0].min(new.seq[0]), old.seq[1].max(new.seq[1])];
    old.count += new.count;
    // RFC 3339 in UTC with milliseconds sorts as text.
    old.from = old.from.take().zip(new.from.clone()).map(|(a, b)| a.min(b));
    old.to = old.to.take().zip(new.to.clone()).map(|(a, b)| a.max(b));
    old.points = old
        .points
        .take()
        .zip(new.points.as_ref())
        .map(|(a, b)| a.into_iter().chain(b.iter().cloned()).collect::<BTreeSet<_>>())
        .filter(|p| p.len() <= bounds::STORE_LOSS_POINTS)
        .map(|p| p.into_iter().collect());
    old.ts.clone_from(&new.ts);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(range: Range<u64>, reason: LossReason, point: &str) -> Draft {
        Draft {
            uplink: "cloud".into(),
            reason,
            bound: false,
            epoch: Epoch { start: 1, random: 2 },
            facts: Facts::of([(point.to_owned(), WallMs(range.start.cast_signed()))]),
            count: range.end - range.start,
            range,
            numbers: RangeSet::default(),
            look_up: false,
        }
    }

    #[test]
    fn consecutive_drops_are_one_record() {
        let mut drafts = Vec::new();
        push(&mut drafts, draft(1..5, LossReason::QueueFull, "a/b"), |_| false);
        push(&mut drafts, draft(5..9, LossReason::QueueFull, "a/c"), |_| false);
        push(&mut drafts, draft(9..10, LossReason::Expired, "a/c"), |_| false);
        push(&mut drafts, draft(12..13, LossReason::Expired, "a/c"), |_| false);
        assert_eq!(drafts.len(), 3);
        let record = record(drafts.remove(0), WallMs(0));
        assert_eq!((record.seq, record.count), ([1, 8], 8));
        assert_eq!(record.points, Some(vec!["a/b".to_owned(), "a/c".to_owned()]));
        assert_eq!(record.to.as_deref(), Some("1970-01-01T00:00:00.005Z"));
    }

    #[test]
    fn what_was_thinned_is_one_record_over_what_stayed_in_between() {
        let thinned = |range: Range<u64>, count| Draft { count, ..draft(range, LossReason::Thinned, "a/b") };
        let mut drafts = Vec::new();
        for (range, count) in [(10..20, 9), (20..25, 0), (25..90, 60)] {
            push(&mut drafts, thinned(range, count), |_| false);
        }
        push(&mut drafts, thinned(100..120, 19), |_| false);
        let records: Vec<_> = drafts.into_iter().map(|d| record(d, WallMs(0))).collect();
        assert_eq!(
            records.iter().map(|r| (r.seq, r.count)).collect::<Vec<_>>(),
            [([10, 89], 69), ([100, 119], 19)]
        );
    }

    #[test]
    fn what_an_uplink_gave_up_is_one_record_as_far_as_all_in_between_is_settled() {
        let given_up = |n: u64| Draft { look_up: true, ..draft(n..n + 1, LossReason::Rejected, "a/b") };
        let mut drafts = Vec::new();
        push(&mut drafts, given_up(1), |_| true);
        for (n, settled) in [(2, true), (5, true), (9, false), (10, true)] {
            push(&mut drafts, given_up(n), |gap| {
                assert_eq!(gap.end, n, "it is asked of what lies in between");
                settled
            });
        }
        push(&mut drafts, given_up(7), |_| true);
        push(&mut drafts, draft(20..21, LossReason::Rejected, "a/b"), |_| true);
        for n in [30, 32] {
            push(&mut drafts, Draft { reason: LossReason::Purged, ..given_up(n) }, |_| true);
        }
        let records: Vec<_> = drafts.into_iter().map(|d| record(d, WallMs(0))).collect();
        assert_eq!(
            records.iter().map(|r| (r.seq, r.count, numbers(r))).collect::<Vec<_>>(),
            [
                ([1, 5], 3, vec![1..3, 5..6]),
                ([9, 10], 2, one(9..11)),
                ([7, 7], 1, one(7..8)),
                ([20, 20], 1, one(20..21)),
                ([30, 30], 1, one(30..31)),
                ([32, 32], 1, one(32..33))
            ]
        );
        let mut drafts = Vec::new();
        (0..600).for_each(|n| push(&mut drafts, given_up(2 * n), |_| true));
        let counts: Vec<u64> = drafts.iter().map(|d| d.count).collect();
        assert_eq!(counts, [256, 256, 88], "a record has an end");
    }

    fn one(range: Range<u64>) -> Vec<Range<u64>> {
        vec![range]
    }

    #[test]
    fn scattered_records_that_touch_are_merged_with_their_numbers() {
        let of = |numbers: &[[u64; 2]]| LossRecord {
            seq: [numbers[0][0], numbers[numbers.len() - 1][1]],
            count: numbers.iter().map(|[a, b]| b - a + 1).sum(),
            numbers: if numbers.len() > 1 { numbers.to_vec() } else { vec![] },
            ..record(draft(1..2, LossReason::Rejected, "a/b"), WallMs(0))
        };
        let mut old = of(&[[1, 2], [5, 5]]);
        assert!(!merge(&mut old, &of(&[[7, 8]]), false));
        assert!(merge(&mut old, &of(&[[6, 8]]), false) && merge(&mut old, &of(&[[9, 9], [20, 20]]), false));
        assert_eq!((old.seq, old.count, old.numbers.clone()), ([1, 20], 8, vec![[1, 2], [5, 9], [20, 20]]));
        assert!(merge(&mut old, &of(&[[30, 30]]), true));
        assert_eq!((old.seq, old.count, numbers(&old)), ([1, 30], 9, one(1..31)), "in a crowd all of it");
    }

    #[test]
    fn a_crowd_is_merged_with_an_exact_count() {
        let mut old = record(draft(1..5, LossReason::QueueFull, "a/b"), WallMs(0));
        let new = record(draft(10..12, LossReason::QueueFull, "a/c"), WallMs(1));
        assert!(!merge(&mut old, &new, false));
        assert!(merge(&mut old, &new, true));
        assert_eq!((old.seq, old.count), ([1, 11], 6));
        let other = record(draft(12..13, LossReason::Expired, "a/c"), WallMs(1));
        assert!(!merge(&mut old, &other, true), "a reason is never blurred");
    }
}
