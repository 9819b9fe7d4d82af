//! The block reads that take the least bus time per second, for spans with periods of their own.
//!
//! Pure. A block is read as often as the most urgent of its spans, so its **load** is the time of one
//! read over that period. A slow span inside a fast block costs nothing; one beside it may be cheaper
//! read along (a **rider**) than asked for. The plan minimises the sum of the loads.
//!
//! How: spans are walked in address order. The walk remembers, for each period, how far the blocks
//! begun so far reach (a span is served if a block of its period or a faster one, begun at or before it,
//! reaches its end). Only a span that is not served begins a block, and every end worth a block is tried.
//! Some best plan has that form: take any best plan, give each span to the first block that serves it,
//! and each block begins with a span that no earlier one serves, and ends with one it must serve.
//!
//! What keeps it small: of two walks at the same place the one that costs more and reaches no further is
//! dropped, also if a single block would bring the other as far. What is left is exact; beyond
//! [`WIDTH`] walks at one place the dearest are dropped. The tests say how far from the best that can be.

use std::time::Duration;

use crate::plan::{Limits, Run, Span, run_of};

/// What one point wants read, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Where it is.
    pub span: Span,
    /// Its period, more than zero.
    pub every: Duration,
}

/// Periods told apart. A device with more kinds of them has the slowest read as often as the eighth.
const LEVELS: usize = 8;

/// Walks kept at one place. 500 points with three periods never had more than some hundred.
const WIDTH: usize = 48;

/// Load in parts of 10^12. Integers, so that equal loads are equal.
type Load = u64;
const WHOLE: u128 = 1_000_000_000_000;

/// Decides between equal loads: fewer blocks. It exceeds what rounding can add up to.
const TIE: Load = 2;

/// The load of a read of this time every `every`.
fn load(time: Duration, every: Duration) -> Load {
    let parts = time.as_nanos() * WHOLE / every.as_nanos().max(1);
    Load::try_from(parts).unwrap_or(Load::MAX / 4).min(Load::MAX / 4)
}

/// The cheapest block reads for `wants`, in address order. Every want is in exactly one of them, and in
/// none that is read more rarely than it wants; none is longer than the limit, except for a single
/// span that is longer itself, and none reads more than `max_gap` in a row that nobody wants.
#[must_use]
pub fn plan(wants: &[Want], limits: Limits, cost: impl Fn(u16) -> Duration) -> Vec<Run> {
    plan_keeping(WIDTH, wants, limits, cost)
}

/// The same with another number of walks kept at one place.
fn plan_keeping(width: usize, wants: &[Want], limits: Limits, cost: impl Fn(u16) -> Duration) -> Vec<Run> {
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_by_key(|i| (wants[*i].span.start, wants[*i].span.len));
    let mut runs = Vec::new();
    let mut rest = order.as_slice();
    // Across a gap that nothing may read, nothing is decided together.
    while !rest.is_empty() {
        let mut end = 0;
        let apart = |i: &usize, end: &mut u32| {
            let span = wants[*i].span;
            let gap = u32::from(span.start).saturating_sub(*end);
            let first = *end == 0;
            *end = span.end().max(*end);
            !first && gap > u32::from(limits.max_gap).min(u32::from(limits.max_len))
        };
        let count = rest.iter().position(|i| apart(i, &mut end)).unwrap_or(rest.len());
        let (island, others) = rest.split_at(count);
        runs.extend(Island::new(wants, island, limits.max_len).plan(width, &cost));
        rest = others;
    }
    runs
}

/// Spans that blocks may join, in address order.
struct Island<'w> {
    wants: &'w [Want],
    order: &'w [usize],
    max_len: u16,
    /// The periods, fastest first.
    periods: Vec<Duration>,
    /// For each span of `order` the index of its period.
    level: Vec<usize>,
    /// For each level the ends of its spans, sorted.
    ends: Vec<Vec<u32>>,
    /// For each level, and each place in `order`, the nearest end of its spans from there on.
    nearest: Vec<Vec<u32>>,
}

/// How far blocks begun so far reach, for spans of each level; 0 for not far enough to matter.
type Reach = [u32; LEVELS];

/// One way to serve all spans before some place.
#[derive(Clone, Copy)]
struct Walk {
    load: Load,
    reach: Reach,
    /// The block begun last, and so all of them.
    last: Option<usize>,
}

/// The load of a block by its length and level.
struct Loads(Vec<[Load; LEVELS]>);

impl Loads {
    fn of(&self, len: u32, level: usize) -> Load {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.0.get(len).map_or(Load::MAX / 4, |loads| loads[level])
    }
}

/// A block of a walk and the one before it.
#[derive(Clone, Copy)]
struct Begun {
    before: Option<usize>,
    from: usize,
    end: u32,
    level: usize,
}

impl<'w> Island<'w> {
    fn new(wants: &'w [Want], order: &'w [usize], max_len: u16) -> Self {
        let mut periods: Vec<Duration> = order.iter().map(|i| wants[*i].every).collect();
        periods.sort_unstable();
        periods.dedup();
        periods.truncate(LEVELS);
        let level: Vec<usize> = order
            .iter()
            .map(|i| periods.partition_point(|p| *p <= wants[*i].every).saturating_sub(1))
            .collect();
        let mut ends = vec![Vec::new(); periods.len()];
        let mut nearest = vec![vec![u32::MAX; order.len() + 1]; periods.len()];
        for at in (0..order.len()).rev() {
            let end = wants[order[at]].span.end();
            ends[level[at]].push(end);
            for (of, nearest) in nearest.iter_mut().enumerate() {
                nearest[at] = if of == level[at] { nearest[at + 1].min(end) } else { nearest[at + 1] };
            }
        }
        ends.iter_mut().for_each(|ends: &mut Vec<u32>| ends.sort_unstable());
        Self { wants, order, max_len, periods, level, ends, nearest }
    }

    /// The load of every read that a block may be.
    fn loads(&self, cost: &impl Fn(u16) -> Duration) -> Loads {
        let spans = || (0..self.order.len()).map(|at| self.span(at));
        let longest = spans().map(|span| span.len).max().unwrap_or(0);
        let extent = spans().map(Span::end).max().unwrap_or(0)
            - spans().map(|s| u32::from(s.start)).min().unwrap_or(0);
        let most = u32::from(self.max_len).min(extent).max(u32::from(longest));
        let of = |len: u32| {
            let time = cost(u16::try_from(len).unwrap_or(u16::MAX));
            std::array::from_fn(|level| self.periods.get(level).map_or(0, |every| load(time, *every) + TIE))
        };
        Loads((0..=most).map(of).collect())
    }

    fn span(&self, at: usize) -> Span {
        self.wants[self.order[at]].span
    }

    fn plan(&self, width: usize, cost: &impl Fn(u16) -> Duration) -> Vec<Run> {
        let count = self.order.len();
        let loads = self.loads(cost);
        let mut begun: Vec<Begun> = Vec::new();
        let mut walks: Vec<Vec<Walk>> = vec![Vec::new(); count + 1];
        walks[0].push(Walk { load: 0, reach: [0; LEVELS], last: None });
        for from in 0..count {
            let here = self.worth_keeping(from, std::mem::take(&mut walks[from]), width, &loads);
            for walk in here {
                for level in 0..=self.level[from] {
                    self.begin(from, level, &walk, &loads, |to, next, end| {
                        walks[to].push(Walk { last: Some(begun.len()), ..next });
                        begun.push(Begun { before: walk.last, from, end, level });
                    });
                }
            }
        }
        let best = walks[count].iter().min_by_key(|walk| walk.load);
        let mut blocks = Vec::new();
        let mut last = best.and_then(|walk| walk.last);
        while let Some(block) = last.and_then(|index| begun.get(index)) {
            blocks.push(*block);
            last = block.before;
        }
        blocks.reverse();
        self.serve(&blocks)
    }

    /// All blocks of this level that may begin at `from`, one for each end that is worth it.
    fn begin(
        &self,
        from: usize,
        level: usize,
        walk: &Walk,
        loads: &Loads,
        mut found: impl FnMut(usize, Walk, u32),
    ) {
        let start = u32::from(self.span(from).start);
        let unserved = |at: usize| self.span(at).end() > walk.reach[self.level[at]];
        // A block of this level serves something of this level, or it should be of a slower one.
        let mut needed = self.level[from] == level;
        let mut next = from + 1;
        let mut end = self.span(from).end();
        // Ends that cost the same (bits of one byte): only the furthest is worth trying.
        let mut pending: Option<(Load, u32)> = None;
        let mut emit = |(cost, end): (Load, u32), next: &mut usize| {
            let mut reach = walk.reach;
            for reach in &mut reach[level..self.periods.len()] {
                *reach = end.max(*reach);
            }
            while *next < self.order.len() && self.span(*next).end() <= reach[self.level[*next]] {
                *next += 1;
            }
            let load = walk.load.saturating_add(cost);
            found(*next, Walk { load, reach: self.normal(*next, reach), last: None }, end);
        };
        if needed {
            pending = Some((loads.of(end - start, level), end));
        }
        let mut candidates: Vec<(u32, bool)> = (from + 1..self.order.len())
            .take_while(|at| u32::from(self.span(*at).start) < start + u32::from(self.max_len))
            .filter(|at| self.level[*at] >= level && unserved(*at))
            .map(|at| (self.span(at).end(), self.level[at] == level))
            .filter(|(to, _)| *to - start <= u32::from(self.max_len))
            .collect();
        candidates.sort_unstable();
        for (to, own) in candidates {
            needed |= own;
            end = end.max(to);
            if !needed {
                continue;
            }
            let cost = loads.of(end - start, level);
            if let Some(before) = pending.take_if(|(before, _)| *before != cost) {
                emit(before, &mut next);
            }
            pending = Some((cost, end));
        }
        if let Some(last) = pending {
            emit(last, &mut next);
        }
    }

    /// The same reach in the form that all reaches have that serve the same spans from `next` on.
    fn normal(&self, next: usize, mut reach: Reach) -> Reach {
        for (level, ends) in self.ends.iter().enumerate() {
            let within = ends.partition_point(|end| *end <= reach[level]);
            let last = within.checked_sub(1).map_or(0, |last| ends[last]);
            reach[level] = if last < self.nearest[level][next] { 0 } else { last };
        }
        reach
    }

    /// The walks at one place without those that another one beats for certain.
    fn worth_keeping(&self, at: usize, mut walks: Vec<Walk>, width: usize, loads: &Loads) -> Vec<Walk> {
        walks.sort_unstable_by_key(|walk| (walk.load, std::cmp::Reverse(walk.reach)));
        let start = u32::from(self.span(at).start);
        let mut kept: Vec<Walk> = Vec::new();
        for walk in walks {
            let beaten = kept.iter().any(|other| {
                // One more block at the fastest level where `walk` is ahead brings `other` as far.
                let ahead = || (0..self.periods.len()).filter(|l| walk.reach[*l] > other.reach[*l]);
                let Some(level) = ahead().next() else { return true };
                let end = ahead().map(|l| walk.reach[l]).max().unwrap_or(0);
                let len = end.saturating_sub(start);
                len <= u32::from(self.max_len) && other.load.saturating_add(loads.of(len, level)) <= walk.load
            });
            if !beaten {
                kept.push(walk);
                if kept.len() == width {
                    break;
                }
            }
        }
        kept
    }

    /// Gives each span to the first block that serves it.
    fn serve(&self, blocks: &[Begun]) -> Vec<Run> {
        let mut members: Vec<Vec<usize>> = vec![Vec::new(); blocks.len()];
        let mut first = 0;
        for at in 0..self.order.len() {
            // Blocks begin in order, so what ends before this span begins is over for good.
            while blocks.get(first).is_some_and(|b| b.end <= u32::from(self.span(at).start)) {
                first += 1;
            }
            let serves =
                |b: &Begun| b.from <= at && b.level <= self.level[at] && self.span(at).end() <= b.end;
            if let Some(block) = (first..blocks.len()).find(|b| serves(&blocks[*b])) {
                members[block].push(self.order[at]);
            }
        }
        let members = members.into_iter().filter(|m| !m.is_empty());
        members.map(|wanted| run_of(|i| self.wants[i].span, wanted)).collect()
    }
}

#[cfg(test)]
mod tests;
