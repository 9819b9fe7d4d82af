//! Thinning the backlog where there is no room, before whole blocks are dropped: see `thin` for what goes, `holes` for the
//! ledger.
//!
//! Promises:
//! - The oldest first, a bounded number of readings in each commit, so that ingest never waits long for it.
//! - The block that is left and the removal of those it stands for are in one transaction.
//! - It pays: a stretch that would not become smaller by a quarter stays as it is, and is not tried again in this life.
//! - What every uplink has passed is dropped before anything that is owed is thinned.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::block::{self, Block};
use super::log::Row;
use super::quota::{self, Limits, Usage};
use super::ranges::RangeSet;
use super::state::Tick;
use super::thin::{Fast, Sieve, Stretch};
use super::trouble::Trouble;
use super::writer::Writer;
use crate::bounds;

/// Blocks that are looked at for one commit: with `STORE_THIN` readings at most, a new block for all of them.
const ROWS: usize = 128;
/// Bytes of blocks that are worth the writing of a new one.
const LEAST: u64 = 8 << 10;
/// How often what was passed over is looked at again. (Tests do not wait.)
const AGAIN: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 60 });
/// What a row takes besides its block, bytes.
const ROW: u64 = 64;

/// How far thinning has come in this life.
#[derive(Debug, Default)]
pub(super) struct Thinner {
    /// Everything below was looked at.
    at: u64,
    /// The first that was passed over because somebody had a part of it, and when to go back there.
    again: Option<u64>,
    again_at: Option<Tick>,
    /// The block that was made last: it grows.
    last: Option<Range<u64>>,
    sieve: Sieve,
    /// The setting, ms.
    every: u64,
    /// What the next commit brings.
    pub(super) pending: Option<Pending>,
    /// What the table of thinned blocks says otherwise than the blocks: by first number for how many one stands, and how many
    /// of these are missing; `None`: none.
    pub(super) amend: BTreeMap<u64, Option<[u64; 2]>>,
}

/// A block that takes the place of others.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) row: Row,
    pub(super) data: Vec<u8>,
    /// Numbers that are missing in it.
    pub(super) gone: u64,
    /// Of them, those that were there before.
    fresh: u64,
}

impl Thinner {
    /// What lies before `to` stays as it is for now.
    fn pass(&mut self, first: u64, to: u64) {
        self.again.get_or_insert(first);
        (self.at, self.last) = (to, None);
    }
}

impl super::Store {
    /// Names the points that may be thinned, with their interval, at the start and whenever the configuration changed.
    pub fn may_thin(&self, points: impl IntoIterator<Item = (String, String, Duration)>) {
        self.inner.shared.state().thinned.fast = Arc::new(Fast::of(points));
    }
}

impl Writer {
    /// Thins a little, if there is no room. Returns the bytes that this will bring.
    pub(super) fn thin(&mut self, usage: Usage, limits: &Limits) -> Result<u64, Trouble> {
        let Some(every) = limits.thin.filter(|_| quota::is_pressed(usage, limits)) else { return Ok(0) };
        let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        if self.thinner.every != every {
            let amend = std::mem::take(&mut self.thinner.amend);
            self.thinner = Thinner { every, amend, ..Thinner::default() };
        }
        let (fast, first) = {
            let state = self.shared.state();
            (state.thinned.fast.clone(), state.present.first())
        };
        let (Some(first), Some(log)) = (first.filter(|_| !fast.is_empty()), &self.log) else { return Ok(0) };
        let oldest = log.rows(first..first + 1, 1)?.pop().map_or(first..first + 1, |row| row.range());
        // What may grow yet is let be.
        let tail = self.tail.as_ref().map(super::tail::Tail::first);
        let (candidates, end) = {
            let state = self.shared.state();
            let owed = state.accounts.values().any(|a| !a.open(oldest.clone()).is_empty());
            if !owed && !state.accounts.is_empty() {
                // Nobody is owed the oldest: it goes before anything that somebody is.
                return Ok(0);
            }
            let end = tail.unwrap_or(state.stored);
            let from = self.thinner.at.max(first);
            let there: RangeSet = state.present.overlap(from..end.max(from)).into_iter().collect();
            (there.minus(&state.thinned.ranges), end)
        };
        let mut readings = 0;
        let mut rows = 0;
        for part in candidates {
            self.thinner.at = self.thinner.at.max(part.start);
            while self.thinner.at < part.end {
                if rows >= ROWS || readings >= bounds::STORE_THIN {
                    return Ok(0);
                }
                let group = self.group(&part, part.end == end, &mut rows)?;
                let Some((first, passed)) = group.ends() else { continue };
                let bytes: u64 = group.rows.iter().map(|row| row.bytes + ROW).sum();
                if group.more && bytes < LEAST {
                    // Soon there is more.
                    break;
                }
                if bytes < LEAST {
                    // Its neighbours are in somebody's hands, or no neighbours.
                    self.thinner.pass(first, passed);
                    continue;
                }
                let Some(Sifted { stretch, old, again }) = self.sift(&group, every, &fast, &mut readings)?
                else {
                    self.thinner.at = group.rows.first().map_or(passed, |row| row.range().end);
                    continue;
                };
                self.thinner.at = stretch.range().end;
                if stretch.fresh == 0 {
                    self.thinner.last = None;
                    continue;
                }
                let data = stretch.encode()?;
                let new = data.len() as u64 + ROW;
                // What was thinned before is written again for nothing.
                if new + (old - again) / 4 > old {
                    self.thinner.last = None;
                    continue;
                }
                let range = stretch.range();
                let row = Row {
                    first: range.start,
                    count: range.end - range.start,
                    boot: stretch.boot(),
                    times: stretch.times,
                    bytes: data.len() as u64,
                };
                self.thinner.last = Some(range);
                let (gone, fresh) = (stretch.gone(), stretch.fresh);
                self.thinner.pending = Some(Pending { row, data, gone, fresh });
                return Ok(old.saturating_sub(new));
            }
        }
        let now = Tick::now();
        if self.thinner.again.is_some() && self.thinner.again_at.is_none_or(|at| at <= now) {
            self.thinner.at = self.thinner.again.take().unwrap_or(0);
            self.thinner.last = None;
            self.thinner.again_at = Some(now + AGAIN);
        }
        Ok(0)
    }

    /// The next blocks that follow one another and may be thinned; those that may not are passed over.
    fn group(&mut self, part: &Range<u64>, newest: bool, looked: &mut usize) -> Result<Group, Trouble> {
        let Some(log) = &self.log else { return Err(Trouble::Disk("no database".into())) };
        let rows = log.rows(self.thinner.at..part.end, ROWS)?;
        if rows.is_empty() {
            // What is missing is noticed where it is read.
            self.thinner.at = part.end;
        }
        let mut group = Group { rows: Vec::new(), more: newest && rows.len() < ROWS };
        for row in rows {
            *looked += 1;
            let follows =
                group.rows.last().is_none_or(|last| last.range().end == row.first && last.boot == row.boot);
            let whole = row.first >= part.start && row.range().end <= part.end;
            if !follows || !whole || !self.shared.state().may_thin(&row.range()) {
                if !group.rows.is_empty() {
                    group.more = false;
                    break;
                }
                self.thinner.pass(row.first, row.range().end.max(self.thinner.at + 1));
                continue;
            }
            group.rows.push(row);
        }
        Ok(group)
    }

    /// What stays of a group, with the block before it where that may grow. `None`: its first block is damaged, or has messages.
    fn sift(
        &mut self,
        group: &Group,
        every: u64,
        fast: &Fast,
        readings: &mut usize,
    ) -> Result<Option<Sifted>, Trouble> {
        let mut stretch: Option<Stretch> = None;
        let (mut old, mut again) = (0, 0);
        let before = self.thinner.last.clone().filter(|last| {
            let follows = group.rows.first().is_some_and(|row| row.first == last.end);
            let joined = last.start..group.rows.first().map_or(last.end, |row| row.range().end);
            follows && self.shared.state().may_thin(&joined)
        });
        if let (Some(before), Some(log)) = (before, &self.log)
            && let Some(row) = log.rows(before.clone(), 1)?.pop().filter(|row| row.range() == before)
            && let Some(block) = self.packed(&row)?
            && block.entries.len() <= bounds::STORE_BLOCK / 2
        {
            again = row.bytes + ROW;
            old = again;
            // It is sifted already, and by what came after it: all of it stays.
            let begun = Stretch::begin(&block, row.times, &mut Sieve::default(), every, &Fast::default());
            stretch = Some(begun);
        }
        for row in &group.rows {
            let Some(block) = self.packed(row)? else { break };
            let (sieve, times) = (&mut self.thinner.sieve, row.times);
            match &mut stretch {
                None => stretch = Some(Stretch::begin(&block, times, sieve, every, fast)),
                Some(stretch) if stretch.takes(&block, times) => {
                    stretch.add(&block, times, sieve, every, fast)
                }
                Some(_) if old == again => {
                    // The one before is full, or too long ago.
                    (old, again) = (0, 0);
                    stretch = Some(Stretch::begin(&block, times, sieve, every, fast));
                }
                Some(_) => break,
            }
            old += row.bytes + ROW;
            *readings += block.entries.len();
            if *readings >= bounds::STORE_THIN {
                break;
            }
        }
        Ok(stretch.filter(|_| old > again).map(|stretch| Sifted { stretch, old, again }))
    }

    /// The block of a row; `None` if it is damaged, which is declared when it is read, or has messages of other devices.
    fn packed(&self, row: &Row) -> Result<Option<Block>, Trouble> {
        let Some(log) = &self.log else { return Err(Trouble::Disk("no database".into())) };
        let found = log.block_before(row.first)?.filter(|(first, _)| *first == row.first);
        let block = found.and_then(|(_, data)| block::decode(&data).ok());
        let epoch = self.shared.state().epochs.proven(row.first);
        let ours = |b: &Block| b.range() == row.range() && epoch.is_none_or(|epoch| epoch == b.head.epoch);
        Ok(block.filter(|b| ours(b) && b.entries.iter().all(|entry| entry.message().is_none())))
    }

    /// A disk that mixes pages of two commits may leave a block and its entry in the table of different times: the block is
    /// believed.
    pub(super) fn compare(&mut self, block: &Block) {
        let (range, sparse) = (block.range(), block.sparse.is_some());
        let mut state = self.shared.state();
        let known = state.thinned.ranges.overlap(range.clone());
        let agrees = if sparse { known.first() == Some(&range) } else { known.is_empty() };
        if agrees {
            return;
        }
        state.thinned.ranges.remove(range.clone());
        if sparse {
            state.thinned.ranges.insert(range.clone());
        }
        state.dirty_since.get_or_insert_with(Tick::now);
        let entry = sparse.then(|| [range.end - range.start, block.gone()]);
        self.thinner.amend.insert(range.start, entry);
    }

    /// The commit with the thinned block is durable.
    pub(super) fn thinned(&mut self) {
        if !std::mem::take(&mut self.thinner.amend).is_empty() {
            let mut state = self.shared.state();
            state.thinned.stale = true;
            state.dirty_since.get_or_insert_with(Tick::now);
        }
        if let Some(Pending { row, fresh, .. }) = self.thinner.pending.take() {
            self.cache.clear();
            let mut state = self.shared.state();
            if state.figures.thinned == 0 {
                tracing::warn!("there is no room for the whole backlog: it is thinned, the oldest first");
            }
            state.thin(row.range(), fresh);
        }
    }

    /// It is not known whether that commit took place.
    pub(super) fn thinning_failed(&mut self) {
        if self.thinner.pending.is_some() || !self.thinner.amend.is_empty() {
            self.shared.state().thinned.stale = true;
        }
        self.thinner = Thinner::default();
    }
}

/// Neighbouring blocks that may be thinned.
#[derive(Debug, Default)]
struct Group {
    rows: Vec<Row>,
    /// It ends where nothing is stored yet: soon it will be larger.
    more: bool,
}

impl Group {
    /// Its first number, and one past its last.
    fn ends(&self) -> Option<(u64, u64)> {
        Some((self.rows.first()?.first, self.rows.last()?.range().end))
    }
}

/// What stays of neighbouring blocks.
#[derive(Debug)]
struct Sifted {
    stretch: Stretch,
    /// Bytes of the blocks as they are.
    old: u64,
    /// Of them, those of the block before, which was thinned already.
    again: u64,
}
