//! The ledger where numbers are missing inside stored blocks, because they were thinned.
//!
//! A thinned block stands for all the numbers it ever had: they stay *present*, and for an uplink *open*, until it settles
//! them. **A reading that stayed carries the missing numbers before it** (the last one those behind it, too): when it
//! is acknowledged or refused they become lost and are declared (`thinned`), in the same commit. So they are declared once,
//! whatever happens before: until then nothing was promised, and if the block is dropped first, all its numbers
//! are declared with the reason for that.
//!
//! Promises:
//! - The ledger knows of them from the commit on that thinned them: what is open and missing counts as lost, not as
//!   queued. How many these are is not remembered but counted, from what the database says of its blocks.
//! - What an uplink has in hands, or open at its broker, is not thinned, and of a block that was thinned only what was handed
//!   out as such is settled: an acknowledgement that fits neither is ignored, and what it was for goes out again.
//! - A few blocks are remembered as they were handed out. What is settled of others waits for the next commit, which looks
//!   at the blocks again (see `later`), and is not handed out meanwhile.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use super::account::Account;
use super::block::{self, Block};
use super::later::Later;
use super::log::{Log, signed, unsigned};
use super::loss::{self, Draft, Facts};
use super::ranges::{RangeSet, count};
use super::state::{State, Tick};
use super::thin::Fast;
use super::trouble::Trouble;
use crate::bounds;
use crate::message::{BootMs, Entry, Epoch, LossReason};

/// What is known of thinned blocks.
#[derive(Debug, Default)]
pub struct Thinned {
    /// The numbers for which they stand.
    pub ranges: RangeSet,
    /// How many of them have no reading any more.
    pub gone: u64,
    /// For each uplink, how many of these it has not settled.
    holes: BTreeMap<String, u64>,
    /// What was handed to each uplink of thinned blocks, by first number.
    shapes: BTreeMap<String, BTreeMap<u64, Arc<Shape>>>,
    /// What was handed to each uplink, of any block, and is not settled.
    out: BTreeMap<String, RangeSet>,
    /// What is to be settled when its blocks were looked at.
    pub(super) later: BTreeMap<String, Vec<Later>>,
    /// The numbers above must be counted again.
    pub stale: bool,
    /// The points that may be thinned.
    pub fast: Arc<Fast>,
}

/// Which numbers of a thinned block have readings, and when those were taken.
#[derive(Debug)]
pub(super) struct Shape {
    range: Range<u64>,
    kept: Vec<u64>,
    times: Vec<BootMs>,
    /// The earliest and the latest of all, of what is missing too.
    ends: [BootMs; 2],
    points: std::collections::BTreeSet<String>,
    epoch: Epoch,
    boot: u32,
}

impl Shape {
    fn of(block: &Block) -> Option<Self> {
        let sparse = block.sparse.as_ref()?;
        Some(Self {
            range: block.range(),
            kept: sparse.kept.clone(),
            times: block.entries.iter().map(Entry::at).collect(),
            ends: sparse.times.map(BootMs),
            points: sparse.points.iter().map(|point| point.path()).collect(),
            epoch: block.head.epoch,
            boot: block.head.boot,
        })
    }

    /// Places of the readings with numbers in `range`.
    fn places(&self, range: &Range<u64>) -> Range<usize> {
        let place = |n: u64| self.kept.partition_point(|kept| *kept < n);
        place(range.start)..place(range.end)
    }

    /// The numbers that the readings at these places carry, themselves among them. What lies before them is settled as
    /// far as `settled` says, which is asked backwards.
    fn carried(&self, places: &Range<usize>, settled: impl Fn(u64) -> bool) -> Range<u64> {
        let mut first = places.start;
        while first > 0 && settled(self.kept[first - 1]) {
            first -= 1;
        }
        let from = if first == 0 { self.range.start } else { self.kept[first - 1] + 1 };
        let to = if places.end == self.kept.len() { self.range.end } else { self.kept[places.end - 1] + 1 };
        from..to
    }
}

impl Thinned {
    /// Numbers that this uplink has not settled, and for which there are no readings any more.
    #[must_use]
    pub fn holes_of(&self, uplink: &str) -> u64 {
        self.holes.get(uplink).copied().unwrap_or(0)
    }

    pub(super) fn filled(&mut self, uplink: &str, n: u64) {
        if let Some(holes) = self.holes.get_mut(uplink) {
            *holes = holes.saturating_sub(n);
        }
    }

    /// These are settled, or nobody knows any more what they are.
    fn forget_out(&mut self, uplink: &str, range: Range<u64>) {
        if let Some(out) = self.out.get_mut(uplink) {
            out.remove(range);
        }
    }

    /// What of `range` was handed out of thinned blocks, or is `at_the_broker`, and is in no block that is remembered.
    pub(super) fn due(
        &self,
        uplink: &str,
        range: &Range<u64>,
        at_the_broker: impl Iterator<Item = Range<u64>>,
    ) -> Vec<Range<u64>> {
        if self.ranges.overlap(range.clone()).is_empty() {
            return Vec::new();
        }
        let mut out: RangeSet = at_the_broker.collect();
        for part in self.out.get(uplink).into_iter().flat_map(RangeSet::iter) {
            out.insert(part);
        }
        for shape in self.shapes.get(uplink).into_iter().flat_map(BTreeMap::values) {
            out.remove(shape.range.clone());
        }
        let due = self.ranges.overlap(range.clone()).into_iter().flat_map(|part| out.overlap(part));
        due.collect()
    }

    /// What a thinned block is like, for an uplink that settles something of it.
    pub(super) fn shape_of(&mut self, uplink: &str, block: &Block) -> Option<Arc<Shape>> {
        let shapes = self.shapes.entry(uplink.to_owned()).or_default();
        let first = block.range().start;
        if let Some(shape) = shapes.get(&first).filter(|shape| shape.range == block.range()) {
            return Some(Arc::clone(shape));
        }
        let shape = Arc::new(Shape::of(block)?);
        remember(shapes, &shape);
        Some(shape)
    }

    /// Whether an uplink has some of it in hands.
    fn is_out(&self, range: &Range<u64>) -> bool {
        self.out.values().any(|out| !out.overlap(range.clone()).is_empty())
    }

    /// The database is not the one that it was: what was handed out means nothing any more.
    pub fn forget(&mut self) {
        self.shapes.clear();
        self.out.clear();
        self.later.clear();
        self.stale = true;
    }
}

impl State {
    /// Whether all of a block may be thinned: somebody is owed it, nobody a part of it, and nobody has it in hands. Without
    /// uplinks the log is history, and thinned as that.
    #[must_use]
    pub fn may_thin(&self, range: &Range<u64>) -> bool {
        let n = range.end - range.start;
        let open: Vec<u64> = self.accounts.values().map(|a| count(&a.open(range.clone()))).collect();
        let owed = self.accounts.is_empty() || open.contains(&n);
        let here = self.present.missing(range.clone()).is_empty() && !self.is_at_a_broker(range);
        here && owed && open.iter().all(|open| *open == 0 || *open == n) && !self.thinned.is_out(range)
    }

    fn is_at_a_broker(&self, range: &Range<u64>) -> bool {
        let open = self.accounts.values().flat_map(|account| &account.session.open);
        open.into_iter().any(|open| open.range.start < range.end && range.start < open.range.end)
    }

    /// A stretch was thinned by so many, and that is durable.
    pub fn thin(&mut self, range: Range<u64>, fresh: u64) {
        for (name, account) in &self.accounts {
            let open = count(&account.open(range.clone()));
            if open == range.end - range.start {
                *self.thinned.holes.entry(name.clone()).or_default() += fresh;
            } else if open > 0 {
                self.thinned.stale = true;
            }
        }
        self.thinned.gone += fresh;
        self.thinned.ranges.insert(range);
        self.figures.thinned += fresh;
    }

    /// A block goes as a whole: its missing numbers are from now on lost like the others.
    pub(super) fn unthin(&mut self, range: &Range<u64>, block: Option<&Block>) {
        if self.thinned.ranges.overlap(range.clone()).is_empty() {
            return;
        }
        self.thinned.ranges.remove(range.clone());
        let Some(block) = block else {
            self.thinned.stale = true;
            return;
        };
        self.thinned.gone = self.thinned.gone.saturating_sub(block.gone());
        for (name, account) in &self.accounts {
            let holes = holes_in(account, range, block.gone(), Some(block)).unwrap_or(0);
            self.thinned.filled(name, holes);
        }
        for shapes in self.thinned.shapes.values_mut() {
            shapes.remove(&range.start);
        }
    }

    /// A block, or a part of it, is handed to an uplink.
    pub(super) fn note_handed(&mut self, uplink: &str, block: &Block, numbers: &Range<u64>) {
        let Some(account) = self.accounts.get(uplink) else { return };
        let out = self.thinned.out.entry(uplink.to_owned()).or_default();
        out.remove(0..account.passed());
        for part in account.open(numbers.clone()) {
            out.insert(part);
        }
        while out.spans() > bounds::STORE_ISLANDS {
            let Some(oldest) = out.iter().next() else { break };
            out.remove(oldest);
        }
        let Some(shape) = Shape::of(block) else { return };
        let shape = Arc::new(shape);
        let shapes = self.thinned.shapes.entry(uplink.to_owned()).or_default();
        shapes.retain(|_, shape| !account.open(shape.range.clone()).is_empty());
        remember(shapes, &shape);
        // Nobody is left to carry them: that takes an account that is not of one piece with the database.
        let open = account.open(shape.range.clone());
        if !open.is_empty() && open.iter().all(|part| shape.places(part).is_empty()) {
            self.lose_missing(uplink, &shape, shape.range.clone(), &(0..shape.kept.len()));
        }
    }

    /// Settles what an uplink was handed: delivered, or refused for `reason`.
    pub fn settle(&mut self, uplink: &str, range: Range<u64>, reason: Option<LossReason>) {
        self.put_off(uplink, &range, reason);
        self.thinned.forget_out(uplink, range.clone());
        for part in self.thinned.ranges.overlap(range.clone()) {
            let shapes = self.thinned.shapes.get(uplink).into_iter().flat_map(|shapes| shapes.values());
            let touched = shapes.filter(|s| s.range.start < part.end && part.start < s.range.end);
            for shape in touched.cloned().collect::<Vec<_>>() {
                self.settle_thinned(uplink, &shape, &part, reason);
            }
        }
        for part in self.thinned.ranges.missing(range) {
            match reason {
                None => self.deliver_whole(uplink, part),
                Some(reason) => self.lose_for(uplink, part, reason, false, |_| Facts::default(), true),
            }
        }
    }

    /// The same of a thinned block.
    pub(super) fn settle_thinned(
        &mut self,
        uplink: &str,
        shape: &Shape,
        range: &Range<u64>,
        reason: Option<LossReason>,
    ) {
        let places = shape.places(range);
        if places.is_empty() {
            return;
        }
        for run in runs(&shape.kept[places.clone()]) {
            match (reason, self.accounts.get_mut(uplink)) {
                (None, Some(account)) => drop(account.deliver(run, u64::MAX)),
                (Some(reason), _) => self.lose_for(uplink, run, reason, false, |_| Facts::default(), true),
                (None, None) => {}
            }
        }
        let Some(account) = self.accounts.get(uplink) else { return };
        let passed = account.passed();
        let carried = shape.carried(&places, |n| n >= passed && account.settled.contains(n));
        self.lose_missing(uplink, shape, carried, &places);
    }

    /// What is not settled of these numbers is missing: lost and declared.
    fn lose_missing(&mut self, uplink: &str, shape: &Shape, range: Range<u64>, places: &Range<usize>) {
        let Some(account) = self.accounts.get_mut(uplink) else { return };
        // Further back is what was declared with others.
        let open = account.open(range.clone()).first().map_or(u64::MAX, |open| open.start);
        let from = shape.kept.get(places.start).map_or(open, |kept| open.min(*kept)).min(range.end);
        let range = from..range.end;
        let lost = account.lose_missing(range.clone());
        self.thinned.filled(uplink, lost);
        let time = |place: Option<usize>| place.and_then(|place| shape.times.get(place)).copied();
        let from = time(places.start.checked_sub(1)).unwrap_or(shape.ends[0]);
        let last = places.end.checked_sub(1).filter(|_| places.end < shape.kept.len());
        let to = time(last).unwrap_or(shape.ends[1]);
        let place = |at| self.place(shape.boot, at).map(|(ts, _)| ts);
        let times = place(from).zip(place(to));
        self.dirty_since.get_or_insert_with(Tick::now);
        // An acknowledgement of one reading after the other must not name a thousand points each time.
        let goes_on = |d: &&mut Draft| {
            (d.reason, d.bound, d.epoch, d.range.end)
                == (LossReason::Thinned, false, shape.epoch, range.start)
                && d.range.end > shape.range.start
        };
        if let Some(draft) = self.drafts.iter_mut().rev().find(|d| d.uplink == uplink).filter(goes_on) {
            draft.range.end = range.end;
            draft.count += lost;
            let widened = draft.facts.times.zip(times).map(|(a, b)| (a.0.min(b.0), a.1.max(b.1)));
            draft.facts.times = widened;
            return;
        }
        let facts = Facts { points: Some(shape.points.clone()), times };
        // Where nothing is missing it only joins what lies before and behind, so that it is one record.
        let draft = Draft {
            uplink: uplink.to_owned(),
            reason: LossReason::Thinned,
            bound: false,
            epoch: shape.epoch,
            range,
            numbers: RangeSet::default(),
            count: lost,
            facts,
            look_up: false,
        };
        loss::push(&mut self.drafts, draft, |_| false);
    }

    /// Counts again what the accounts have not settled of thinned blocks. Without blocks for all that are settled in
    /// part it stays stale.
    fn recount(&mut self, rows: &Rows) {
        let there: Vec<_> = rows.there(&self.present).collect();
        self.thinned.ranges = there.iter().map(|(range, _)| range.clone()).collect();
        self.thinned.gone = there.iter().map(|(_, gone)| gone).sum();
        self.thinned.stale = false;
        self.thinned.holes.clear();
        for (name, account) in &self.accounts {
            match rows.holes(&self.present, account) {
                Some(holes) => drop(self.thinned.holes.insert(name.clone(), holes)),
                None => self.thinned.stale = true,
            }
        }
    }
}

fn remember(shapes: &mut BTreeMap<u64, Arc<Shape>>, shape: &Arc<Shape>) {
    // The first are settled first.
    while shapes.len() >= bounds::STORE_SHAPES && !shapes.contains_key(&shape.range.start) {
        shapes.pop_last();
    }
    shapes.insert(shape.range.start, Arc::clone(shape));
}

/// Runs of numbers that follow one by one.
fn runs(kept: &[u64]) -> impl Iterator<Item = Range<u64>> {
    kept.chunk_by(|a, b| a + 1 == *b).filter_map(|run| Some(*run.first()?..*run.last()? + 1))
}

/// How many numbers of a thinned block are open for an account and missing; `None`: only the block could say it.
fn holes_in(account: &Account, range: &Range<u64>, gone: u64, block: Option<&Block>) -> Option<u64> {
    let open = account.open(range.clone());
    match count(&open) {
        0 => Some(0),
        n if n == range.end - range.start => Some(gone),
        n => Some(
            n - open
                .into_iter()
                .map(|part| block.map(|b| b.within(part).count() as u64))
                .sum::<Option<u64>>()?,
        ),
    }
}

/// What the database says of its thinned blocks.
#[derive(Debug, Default)]
pub struct Rows {
    rows: Vec<(Range<u64>, u64)>,
    /// Those that an account has settled in part; `None` if damaged.
    blocks: BTreeMap<u64, Option<Block>>,
}

impl Rows {
    /// Reads them, with the blocks that these accounts have settled in part.
    ///
    /// # Errors
    /// Those of the database.
    pub fn of<'a>(log: &Log, accounts: impl IntoIterator<Item = &'a Account>) -> Result<Self, Trouble> {
        let mut rows = Self { rows: log.thinned()?, blocks: BTreeMap::new() };
        for account in accounts {
            for (range, gone) in &rows.rows {
                if holes_in(account, range, *gone, None).is_none() && !rows.blocks.contains_key(&range.start)
                {
                    let found = log.block_before(range.start)?.filter(|(first, _)| *first == range.start);
                    let block = found.and_then(|(_, data)| block::decode(&data).ok());
                    rows.blocks.insert(range.start, block);
                }
            }
        }
        Ok(rows)
    }

    fn there(&self, present: &RangeSet) -> impl Iterator<Item = (Range<u64>, u64)> {
        self.rows.iter().filter(|(range, _)| present.contains(range.start)).cloned()
    }

    /// How many numbers are open for an account and missing; `None`: the account has settled more than it had. A block that
    /// is damaged has none: it will be declared whole.
    #[must_use]
    pub fn holes(&self, present: &RangeSet, account: &Account) -> Option<u64> {
        let of = |(range, gone): (Range<u64>, u64)| match self.blocks.get(&range.start) {
            Some(None) => Some(0),
            known => holes_in(account, &range, gone, known.and_then(Option::as_ref)),
        };
        self.there(present).map(of).sum()
    }

    /// How many numbers are missing.
    #[must_use]
    pub fn gone(&self, present: &RangeSet) -> u64 {
        self.there(present).map(|(_, gone)| gone).sum()
    }
}

impl super::writer::Writer {
    /// Counts again what became unsure, if something did.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) fn recount(&mut self) -> Result<(), Trouble> {
        let accounts: Vec<Account> = {
            let state = self.shared.state();
            if !state.thinned.stale {
                return Ok(());
            }
            state.accounts.values().cloned().collect()
        };
        let Some(log) = &self.log else { return Err(Trouble::Disk("no database".into())) };
        let rows = Rows::of(log, &accounts)?;
        self.shared.state().recount(&rows);
        Ok(())
    }
}

impl super::start::Disk {
    /// The same at a start, when nobody else knows the state.
    pub(super) fn count_missing(&self, state: &mut State) {
        match Rows::of(&self.log, state.accounts.values()) {
            Ok(rows) => state.recount(&rows),
            Err(_) => state.thinned.stale = true,
        }
    }
}

impl Log {
    /// The thinned blocks: for which numbers they stand, and how many of these are missing.
    ///
    /// # Errors
    /// Those of the database.
    pub fn thinned(&self) -> Result<Vec<(Range<u64>, u64)>, Trouble> {
        let known = "SELECT 1 FROM sqlite_schema WHERE name='thin'";
        if self.conn.query_row(known, [], |_| Ok(())).optional()?.is_none() {
            // Of an earlier version, and only read.
            return Ok(Vec::new());
        }
        let mut statement = self.conn.prepare_cached("SELECT first,count,gone FROM thin ORDER BY first")?;
        let rows = statement.query_map([], |r| {
            let (first, n) = (unsigned(r.get(0)?), unsigned(r.get(1)?));
            Ok((first..first.saturating_add(n), unsigned(r.get(2)?)))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many numbers are missing in the blocks that begin in `range`.
    ///
    /// # Errors
    /// Those of the database.
    pub fn missing_in(&self, range: &Range<u64>) -> Result<u64, Trouble> {
        let sum = "SELECT coalesce(sum(gone),0) FROM thin WHERE first>=?1 AND first<?2";
        let mut statement = self.conn.prepare_cached(sum)?;
        Ok(statement
            .query_row(params![signed(range.start), signed(range.end)], |r| r.get(0))
            .map(unsigned)?)
    }
}
