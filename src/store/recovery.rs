//! What the last life left, and what follows from it. Pure.
//!
//! Three witnesses: the database (durable at its last commit), the head file (exact within one boot), the
//! mark file (durable, up to a minute old). From them: the next epoch, the next number, and what is lost.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::head::Head;
use super::identity::Mark;
use super::ranges::RangeSet;
use crate::message::{Docket, LossReason};

/// The state of the line as the database holds it, rewritten with every commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Counts the commits over all lives: tells whether a commit of unknown outcome took place.
    pub commit: u64,
    /// Epoch: start counter, random part.
    pub epoch: [u32; 2],
    /// One past the highest durable number.
    pub next: u64,
    /// The numbers for which there are blocks.
    pub present: RangeSet,
    /// No more than this many readings were ever between taking and commit.
    pub bound: u64,
    /// The life ended in order, with everything committed.
    pub clean: bool,
    /// The head file was being written: after a kill it is exact.
    pub head_file: bool,
    /// Handle of the next loss record.
    pub next_loss: u64,
    /// The word of the directory it belongs to (see `identity`); 0: unknown.
    #[serde(default)]
    pub home: u64,
    /// Whose numbers go on here: words of directories that this one was restored from or took the place of, each with how far
    /// everything of it is here (one past a number). The newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lives: Vec<(u64, u64)>,
    /// Of the messages that came under a docket, that of the last one: it is here, and so are all before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docket: Option<Docket>,
}

/// The witnesses.
#[derive(Debug, Clone)]
pub struct Found<'a> {
    /// The database's word, if there was a readable one.
    pub line: Option<&'a Line>,
    /// A database was there and had to be set aside.
    pub damaged: bool,
    /// The head file's word.
    pub head: Option<&'a Head>,
    /// The mark file's word.
    pub mark: Option<&'a Mark>,
    /// One past the highest number that an account of the database has settled. Above the line only on a disk that
    /// mixes pages of two commits: then the line is the older one.
    pub settled: u64,
    /// The boot we are in.
    pub boot_id: &'a str,
}

/// Numbers that are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Which.
    pub range: Range<u64>,
    /// Why.
    pub reason: LossReason,
    /// At most these; exactly which is not known.
    pub bound: bool,
    /// Epoch of the numbers, if known.
    pub epoch: Option<[u32; 2]>,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Start counter of the new epoch: above every one that any witness knows.
    pub start: u32,
    /// First number of the new epoch: above every one that was given out.
    pub next: u64,
    /// One past the highest number that is known to have been durable once.
    pub known: u64,
    /// What is lost, ascending, not overlapping.
    pub gaps: Vec<Gap>,
    /// The database is older than the mark, or gone: the mark's accounts are the better ones.
    pub rolled_back: bool,
}

/// Which files belong here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Belongs {
    /// The database does.
    pub database: bool,
    /// The mark does.
    pub mark: bool,
    /// The word of the directory from now on, if one is known.
    pub home: Option<u64>,
}

/// Three files name the directory: the lock, the database, the mark. One that was swapped for another gateway's is
/// outvoted by the other two; where there is no majority, the database is believed. (Its readings would go out under
/// this gateway's name, and a foreign mark would settle what was never sent.)
#[must_use]
pub fn belongs(lock: Option<u64>, database: u64, mark: u64) -> Belongs {
    let known = |word: u64| (word != 0).then_some(word);
    let (db, mark) = (known(database), known(mark));
    let foreign = db.is_some() && lock.is_some() && lock != db && mark.is_none_or(|m| Some(m) == lock);
    let home = db.filter(|_| !foreign).or(lock).or(mark);
    Belongs { database: !foreign, mark: mark.is_none_or(|m| Some(m) == home), home }
}

/// Judges the witnesses.
#[must_use]
pub fn judge(found: &Found<'_>) -> Verdict {
    let db_epoch = found.line.map_or([0, 0], |l| l.epoch);
    let db_next = found.line.map_or(1, |l| l.next);
    let outside: Vec<[u32; 2]> = found
        .head
        .map(|h| [h.epoch.start, h.epoch.random])
        .into_iter()
        .chain(found.mark.map(|m| m.epoch))
        .collect();
    let newest = outside.iter().copied().chain([db_epoch]).max().unwrap_or_default();
    // One past the highest number that is known to have been durable once.
    let known = db_next
        .max(found.settled)
        .max(found.head.map_or(0, |h| h.stored))
        .max(found.mark.map_or(0, |m| m.stored));
    // The head file of an epoch is written before the database knows the epoch, the mark after.
    let rolled_back = known > db_next || found.mark.is_some_and(|m| m.epoch[0] > db_epoch[0]);
    let same_boot = found.head.filter(|h| h.boot_id == found.boot_id);
    let kept = found.line.is_none_or(|l| l.head_file);

    let (next, reason) = match same_boot {
        // Exact: the page cache outlived the process.
        Some(head) if kept && head.epoch.start == newest[0] => {
            (known.max(head.next), LossReason::UncleanStart)
        }
        _ if found.mark.is_some_and(|m| m.clean && m.epoch == newest && m.stored == known) => {
            (known, LossReason::PowerCut)
        }
        _ if !rolled_back && found.line.is_some_and(|l| l.clean) => (known, LossReason::PowerCut),
        _ => {
            let bound = found.line.map_or(0, |l| l.bound).max(found.mark.map_or(0, |m| m.bound));
            let next = known.saturating_add(bound).max(found.head.map_or(0, |h| h.next));
            let reserved = found.mark.filter(|_| rolled_back).map_or(0, |m| m.reserved);
            (next.max(reserved), LossReason::PowerCut)
        }
    };
    // Killed before the database knew the epoch: what its start declared with a bound is among it.
    let begun = !rolled_back && same_boot.is_some_and(|h| h.epoch.start > db_epoch[0]);
    let bound = begun || reason == LossReason::PowerCut;
    // What was lent may have arrived: of that the number is a bound.
    let lent = same_boot.filter(|_| !bound).map_or(known, |h| h.lent.clamp(known, next));
    let older = if found.damaged { LossReason::Corrupt } else { LossReason::Rollback };
    let epoch = (newest[0] > 0).then_some(newest);
    let exactly = found.mark.is_some_and(|m| m.exact && m.clean && m.epoch == newest && m.stored == known);
    let gaps = [(db_next..known, older, !exactly), (known..lent, reason, true), (lent..next, reason, bound)]
        .into_iter()
        .filter(|(range, ..)| !range.is_empty())
        .map(|(range, reason, bound)| Gap { range, reason, bound, epoch })
        .collect();
    Verdict { start: newest[0].saturating_add(1), next, known, gaps, rolled_back }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Epoch;
    use std::collections::BTreeMap;

    fn line(start: u32, next: u64, clean: bool) -> Line {
        let mut present = RangeSet::default();
        present.insert(1..next);
        Line {
            commit: 1,
            epoch: [start, 7],
            next,
            present,
            bound: 50,
            clean,
            head_file: true,
            next_loss: 1,
            home: 7,
            lives: Vec::new(),
            docket: None,
        }
    }
    fn head(start: u32, next: u64, stored: u64, boot: &str) -> Head {
        Head { epoch: Epoch { start, random: 7 }, next, stored, lent: stored, boot_id: boot.into() }
    }
    fn mark(start: u32, stored: u64) -> Mark {
        Mark {
            epoch: [start, 7],
            stored,
            reserved: stored + 1000,
            clean: false,
            exact: false,
            bound: 50,
            home: 7,
            lives: Vec::new(),
            accounts: BTreeMap::new(),
        }
    }
    fn judged(line: Option<&Line>, head: Option<&Head>, mark: Option<&Mark>) -> Verdict {
        judge(&Found { line, damaged: false, head, mark, settled: 0, boot_id: "now" })
    }
    fn gap(range: Range<u64>, reason: LossReason, bound: bool) -> Gap {
        Gap { range, reason, bound, epoch: None }
    }
    fn gaps(v: &Verdict) -> Vec<Gap> {
        v.gaps.iter().cloned().map(|g| Gap { epoch: None, ..g }).collect()
    }

    #[test]
    fn a_file_of_another_gateway_is_outvoted() {
        let said = |lock, db, mark| {
            let b = belongs(lock, db, mark);
            (b.database, b.mark, b.home)
        };
        assert_eq!(said(None, 0, 0), (true, true, None));
        assert_eq!(said(Some(7), 0, 0), (true, true, Some(7)), "files of an earlier version");
        assert_eq!(said(Some(7), 7, 7), (true, true, Some(7)));
        assert_eq!(said(Some(7), 8, 7), (false, true, Some(7)));
        assert_eq!(said(Some(7), 8, 0), (false, true, Some(7)));
        assert_eq!(said(Some(7), 7, 8), (true, false, Some(7)));
        assert_eq!(said(Some(9), 7, 7), (true, true, Some(7)), "a backup in a new directory");
        assert_eq!(said(None, 7, 8), (true, false, Some(7)));
        assert_eq!(said(Some(9), 7, 8), (true, false, Some(7)));
    }

    #[test]
    fn an_empty_directory_begins_at_one() {
        let v = judged(None, None, None);
        assert_eq!((v.start, v.next, v.gaps, v.rolled_back), (1, 1, vec![], false));
    }

    #[test]
    fn a_clean_end_loses_nothing_even_over_a_reboot() {
        for boot in ["now", "before"] {
            let v = judged(Some(&line(3, 100, true)), Some(&head(3, 100, 100, boot)), Some(&mark(3, 100)));
            assert_eq!((v.start, v.next, v.gaps, v.rolled_back), (4, 100, vec![], false));
        }
    }

    #[test]
    fn after_a_kill_the_count_is_exact() {
        let v = judged(Some(&line(3, 100, false)), Some(&head(3, 117, 100, "now")), Some(&mark(3, 60)));
        assert_eq!((v.next, gaps(&v)), (117, vec![gap(100..117, LossReason::UncleanStart, false)]));
    }

    #[test]
    fn of_what_was_lent_when_it_was_killed_the_count_is_a_bound() {
        let lent = |lent| Head { lent, ..head(3, 117, 100, "now") };
        let v = judged(Some(&line(3, 100, false)), Some(&lent(110)), Some(&mark(3, 60)));
        let (first, rest) = ((100..110, true), (110..117, false));
        assert_eq!(gaps(&v), [first, rest].map(|(r, bound)| gap(r, LossReason::UncleanStart, bound)));
        for (said, bound) in [(0, false), (100, false), (117, true), (500, true)] {
            let v = judged(Some(&line(3, 100, false)), Some(&lent(said)), None);
            assert_eq!(gaps(&v), [gap(100..117, LossReason::UncleanStart, bound)], "{said}");
        }
        // Stored meanwhile, and the head does not know it yet.
        let v = judged(Some(&line(3, 114, false)), Some(&lent(110)), None);
        assert_eq!(gaps(&v), [gap(114..117, LossReason::UncleanStart, false)]);
    }

    #[test]
    fn a_start_that_is_killed_before_its_first_commit_leaves_the_loss_what_it_was() {
        // The start wrote its head: epoch 4, its first number, and what the database held.
        let v = judged(Some(&line(3, 100, false)), Some(&head(4, 117, 100, "now")), Some(&mark(3, 60)));
        assert_eq!((v.start, v.next, v.rolled_back), (5, 117, false));
        // A bound: what the life before it left may have been one.
        assert_eq!(gaps(&v), [gap(100..117, LossReason::UncleanStart, true)]);
    }

    #[test]
    fn a_commit_that_the_head_file_does_not_know_yet_is_no_loss() {
        let v = judged(Some(&line(3, 117, false)), Some(&head(3, 117, 100, "now")), None);
        assert_eq!((v.next, v.gaps), (117, vec![]));
    }

    #[test]
    fn after_a_power_cut_a_bound_is_declared_and_skipped() {
        let v = judged(Some(&line(3, 100, false)), Some(&head(3, 103, 90, "before")), Some(&mark(3, 60)));
        assert_eq!((v.next, gaps(&v)), (150, vec![gap(100..150, LossReason::PowerCut, true)]));
        let v = judged(Some(&line(3, 100, false)), None, None);
        assert_eq!((v.next, gaps(&v)), (150, vec![gap(100..150, LossReason::PowerCut, true)]));
    }

    #[test]
    fn killed_before_the_database_knew_the_new_epoch_loses_nothing() {
        for clean in [true, false] {
            let v = judged(Some(&line(3, 100, clean)), Some(&head(4, 100, 100, "now")), Some(&mark(3, 90)));
            assert_eq!((v.start, v.next, v.gaps, v.rolled_back), (5, 100, vec![], false));
        }
    }

    #[test]
    fn a_head_file_that_could_not_be_written_is_not_believed() {
        let line = Line { head_file: false, ..line(3, 100, false) };
        let v = judged(Some(&line), Some(&head(3, 100, 100, "now")), None);
        assert_eq!((v.next, gaps(&v)), (150, vec![gap(100..150, LossReason::PowerCut, true)]));
    }

    #[test]
    fn a_restored_backup_is_noticed_and_its_numbers_are_not_used_again() {
        let v = judged(Some(&line(2, 40, true)), Some(&head(5, 130, 120, "now")), Some(&mark(5, 110)));
        assert_eq!((v.start, v.next, v.rolled_back), (6, 130, true));
        let expected =
            vec![gap(40..120, LossReason::Rollback, true), gap(120..130, LossReason::UncleanStart, false)];
        assert_eq!(gaps(&v), expected);
    }

    #[test]
    fn what_a_restore_knows_to_be_all_that_came_since_is_no_bound() {
        let exact = Mark { clean: true, exact: true, ..mark(5, 110) };
        let v = judged(Some(&line(3, 90, false)), None, Some(&exact));
        assert_eq!((v.next, gaps(&v)), (110, vec![gap(90..110, LossReason::Rollback, false)]));
        // Somebody lived on from there.
        let v = judged(Some(&line(3, 90, false)), Some(&head(6, 120, 115, "now")), Some(&exact));
        assert_eq!(gaps(&v)[0], gap(90..115, LossReason::Rollback, true));
    }

    #[test]
    fn a_lost_wal_is_a_roll_back_within_the_epoch() {
        let v = judged(Some(&line(5, 90, false)), Some(&head(5, 130, 120, "now")), Some(&mark(5, 80)));
        assert_eq!(v.gaps[0].range, 90..120);
        assert_eq!(v.gaps[0].reason, LossReason::Rollback);
    }

    #[test]
    fn with_the_database_and_the_head_gone_numbering_goes_on_above_the_reserve() {
        let v = judged(None, None, Some(&mark(5, 110)));
        assert_eq!((v.start, v.next, v.rolled_back), (6, 1110, true));
        let clean = Mark { clean: true, ..mark(5, 110) };
        assert_eq!(judged(None, None, Some(&clean)).next, 110, "nothing was given out after a clean end");
    }
}
