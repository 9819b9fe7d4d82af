//! Lending: what the uplinks may read before it is durable, because the disk is out of order. Pure.
//!
//! While the disk works an uplink gets only what is stored. When it does not, live readings must not wait for it: what
//! is in RAM is *lent*, up to [`State::readable`], and what the upstream broker acknowledges of it is delivered.
//!
//! # What it promises
//! - The ledger is exact at every instant: a number in RAM that is acknowledged is delivered and no longer queued, and
//!   if the ring overflows it is not declared lost. It becomes durable with the others when the disk is back.
//! - The database never knows an account that is ahead of its line: of what is settled, a commit writes down what lies
//!   below its own end ([`Account::below`]). (An account ahead of the line means a disk that mixes two commits.)
//! - No identity is given to two readings. Numbers within a life only go up, so it is enough that the next life is of
//!   another epoch. Its start counter is above that of every epoch that the database, the mark or the head knows, and
//!   the database or the mark knows this one as soon as one commit was through. If none was (the disk was full from
//!   the start), the head file knows it, which outlives a kill; after a power cut the next life may come to the same
//!   counter, and differs by the random part, as a restored backup does. Before there is an epoch, in a store that has
//!   found no disk since its start, nothing is lent: those readings get their place on the line, and their identity,
//!   when the disk is there.
//! - What is lent has its true time: before the clock of its boot is set nothing is, because with which guess a reading
//!   goes out must be durable first (see `placing`). Anchors do not move what lies before them, so a repeat is the same.
//! - After a kill in that state the numbers up to `readable`, which the head file holds, are declared as a bound: at
//!   most these are lost, since some of them may have arrived. What was taken later is exact.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::drain::Chunk;
use super::ranges::RangeSet;
use super::state::{self, Phase, State, Tick};
use super::wishes::Whose;
use crate::bounds;
use crate::message::{Entry, Id};

/// So long may a commit take before what waits for it is lent: a card that hangs says nothing for a long time.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The group that the writer took last. It stays when it is durable, for a disk that breaks then.
#[derive(Debug, Clone, Default)]
pub struct Held {
    first: u64,
    entries: Arc<Vec<Entry>>,
}

impl Held {
    /// A group that begins at `first`.
    #[must_use]
    pub fn new(first: u64, entries: Arc<Vec<Entry>>) -> Self {
        Self { first, entries }
    }

    fn range(&self) -> Range<u64> {
        self.first..self.first + self.entries.len() as u64
    }

    /// The entries with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.range().zip(self.entries.iter())
    }
}

impl State {
    /// Lends what is in RAM, if the disk does not take it. Returns one past what may be read, if that is news.
    pub fn lend(&mut self, now: Tick) -> Option<u64> {
        let stuck = self.busy_since.is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE);
        let out = stuck || matches!(self.phase, Phase::Fault(_));
        if !out || !self.is_set() || self.epoch.start == 0 || self.readable >= self.next {
            return None;
        }
        self.readable = self.next;
        Some(self.readable)
    }

    /// What an uplink is owed and may read.
    #[must_use]
    pub fn owed(&self, uplink: &str) -> Vec<Range<u64>> {
        let Some(account) = self.accounts.get(uplink) else { return Vec::new() };
        let mut there = self.present.clone();
        for range in [self.hand.clone(), self.ring_range()] {
            there.insert(range.start..range.end.min(self.readable));
        }
        for range in self.put_off_for(uplink) {
            there.remove(range);
        }
        there.iter().flat_map(|range| account.open(range)).collect()
    }

    /// The records of `range` for an uplink, if they begin in RAM and may be read; `None`: the disk is to be asked.
    #[must_use]
    pub fn lent(&self, uplink: &str, range: &Range<u64>, most: usize) -> Option<Chunk> {
        if !self.is_set() {
            return None;
        }
        let lending = self.readable > self.stored || matches!(self.phase, Phase::Fault(_));
        // From here on everything is in RAM, or gone.
        let held = Some(self.held.range()).filter(|held| lending && !held.is_empty());
        let from = held.map_or(self.stored, |held| held.start.min(self.stored));
        let at = range.start.max(from);
        if !self.present.overlap(range.start..at.min(range.end)).is_empty() {
            return None;
        }
        if lending && range.end <= from {
            // All of it is gone.
            return Some(Chunk::empty(range.end));
        }
        if at >= range.end.min(self.readable) {
            return None;
        }
        let most = most.clamp(1, bounds::STORE_READ);
        let end = range.end.min(self.readable);
        let there = |seq: &u64| self.hand.contains(seq) || self.present.contains(*seq);
        let held = self.held.numbered().filter(|(seq, _)| there(seq));
        let ring = self.ring_range();
        // Not one by one through a long ring to its end.
        let skip = at.saturating_sub(ring.start).min(ring.end - ring.start);
        let waiting = (ring.start + skip..ring.end)
            .zip(self.ring.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX)));
        let mut chunk = Chunk::empty(end);
        for (seq, entry) in held.chain(waiting).filter(|(seq, _)| (at..end).contains(seq)) {
            if chunk.is_full(most) {
                chunk.next = seq;
                break;
            }
            if entry.message().is_none_or(|message| self.whose(uplink, seq, message) == Whose::Owed) {
                let time = state::time_of(&self.boots, entry.at(), self.boot, (0, false));
                state::put(&mut chunk, Id { epoch: self.epoch, seq }, entry, time);
            }
        }
        Some(chunk)
    }

    /// Everything that can be read again: on disk, and in RAM.
    #[must_use]
    pub fn everywhere(&self) -> RangeSet {
        let mut there = self.present.clone();
        there.insert(self.hand.clone());
        there.insert(self.ring_range());
        there
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "owed() is a list of ranges, often of one")]
mod tests {
    use super::super::account::Account;
    use super::super::quota::Limits;
    use super::super::times::Boot;
    use super::*;
    use crate::message::{BootMs, Epoch, PointKey, Reading, WallMs};
    use driver_api::Value;

    fn readings(range: Range<u64>) -> Vec<Reading> {
        let point = Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: String::new() });
        let one = |n: u64| Reading::good(Arc::clone(&point), BootMs(n), Value::Int(n.cast_signed()));
        range.map(one).collect()
    }

    fn state(start: u32) -> State {
        let limits = Limits {
            max_size: 64 << 20,
            max_age: Duration::from_secs(3600),
            min_free: 0,
            history: Duration::ZERO,
            commit_interval: Duration::from_millis(500),
            thin: None,
        };
        let first = Id { epoch: Epoch { start, random: 7 }, seq: 1 };
        let boot = Boot::new(1, "boot", (BootMs(0), WallMs(0)), first);
        let mut state = State::new(Epoch { start, random: 7 }, limits, &["cloud".into()], boot);
        let clock = super::super::tests::TestClock::new("boot");
        state.observe(super::super::placing::Look::at(&*clock));
        state
    }

    /// 1..11 durable, 11..16 in the hand, 16..21 in the ring.
    fn broken() -> State {
        let mut state = state(3);
        state.take(readings(1..11), Tick::now());
        state.grab();
        state.present.insert(state.hand.clone());
        (state.hand, state.stored, state.readable) = (11..11, 11, 11);
        state.take(readings(11..16), Tick::now());
        state.grab();
        state.take(readings(16..21), Tick::now());
        state
    }

    fn read(state: &State, range: Range<u64>, most: usize) -> Option<(Vec<u64>, u64)> {
        let chunk = state.lent("cloud", &range, most)?;
        for record in &chunk.records {
            assert_eq!(record.value, Some(Value::Int(record.id.seq.cast_signed())));
        }
        Some((chunk.records.iter().map(|r| r.id.seq).collect(), chunk.next))
    }

    #[test]
    fn nothing_is_lent_while_the_disk_works_or_before_there_is_an_epoch() {
        let mut state = broken();
        assert_eq!(state.lend(Tick::now()), None);
        assert_eq!((state.owed("cloud"), read(&state, 11..21, 100)), (vec![1..11], None));
        let boot = Boot::new(1, "boot", (BootMs(0), WallMs(0)), Id { epoch: state.epoch, seq: 1 });
        let mut unset = broken();
        unset.boots = [(1, boot)].into();
        unset.phase = Phase::Fault("EIO".into());
        assert_eq!((unset.lend(Tick::now()), read(&unset, 11..21, 100)), (None, None), "no clock");
        let mut early = super::tests::state(0);
        early.take(readings(1..5), Tick::now());
        early.phase = Phase::Fault("no disk".into());
        assert_eq!((early.lend(Tick::now()), early.owed("cloud")), (None, vec![]));
    }

    #[test]
    fn what_the_disk_does_not_take_is_lent_in_order_and_in_pieces() {
        let mut state = broken();
        state.phase = Phase::Fault("EIO".into());
        assert_eq!(state.lend(Tick::now()), Some(21));
        assert_eq!(state.lend(Tick::now()), None, "no news");
        assert_eq!(state.owed("cloud"), [1..21]);
        assert_eq!(read(&state, 11..21, 100), Some(((11..21).collect(), 21)));
        assert_eq!(read(&state, 13..50, 4), Some((vec![13, 14, 15, 16], 17)));
        assert_eq!(read(&state, 17..19, 4), Some((vec![17, 18], 19)));
        assert_eq!(read(&state, 21..22, 4), None, "not taken yet");
        assert_eq!(read(&state, 1..21, 4), None, "that is on disk");
        state.present.remove(1..11);
        assert_eq!(read(&state, 1..21, 2), Some((vec![11, 12], 13)), "what is gone is skipped");
        assert_eq!(read(&state, 3..7, 2), Some((vec![], 7)), "and no reason to wait for the disk");
    }

    #[test]
    fn the_group_that_was_stored_last_is_still_in_ram_for_a_disk_that_breaks_then() {
        let mut state = broken();
        state.present.insert(11..16);
        (state.hand, state.stored, state.readable) = (16..16, 16, 16);
        assert_eq!(read(&state, 12..16, 9), None, "the disk works");
        state.phase = Phase::Fault("EIO".into());
        state.lend(Tick::now());
        state.present.remove(13..14);
        assert_eq!(read(&state, 12..21, 4), Some((vec![12, 14, 15, 16], 17)), "13 was declared");
    }

    #[test]
    fn a_commit_that_hangs_is_as_good_as_none() {
        let mut state = broken();
        let now = Tick::now();
        state.busy_since = Some(now);
        assert_eq!(state.lend(now + PATIENCE / 2), None);
        assert_eq!(state.lend(now + PATIENCE), Some(21));
        assert_eq!(read(&state, 14..21, 3), Some((vec![14, 15, 16], 17)));
    }

    #[test]
    fn what_arrives_from_ram_is_delivered_once_and_not_lost_when_the_ring_overflows() {
        let mut state = broken();
        state.deliver("cloud", 11..21);
        assert_eq!(state.ledger("cloud").delivered, 0, "it was not lent");
        state.phase = Phase::Fault("EIO".into());
        state.lend(Tick::now());
        state.deliver("cloud", 11..19);
        state.deliver("cloud", 11..19);
        let ledger = state.ledger("cloud");
        assert_eq!((ledger.taken, ledger.delivered, ledger.queued, ledger.lost), (20, 8, 12, 0));
        assert_eq!(state.owed("cloud"), [1..11, 19..21]);
        state.take(readings(21..21 + bounds::STORE_RING as u64), Tick::now());
        let ledger = state.ledger("cloud");
        assert_eq!((ledger.delivered, ledger.lost), (8, 2), "19 and 20 fell out");
        assert_eq!(state.figures.dropped, 2, "the others had arrived");
    }

    #[test]
    fn a_commit_writes_down_of_an_account_what_lies_below_its_end() {
        let mut account = Account::new(1);
        account.deliver(1..8, 100);
        drop(account.lose(8..10));
        account.deliver(10..20, 100);
        let below = account.below(12);
        assert_eq!((below.delivered, below.lost, below.passed()), (9, 2, 12));
        assert!(below.balances());
        assert_eq!(account.below(50), account);
    }
}
