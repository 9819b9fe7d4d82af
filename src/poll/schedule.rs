//! When each block is due: earliest deadline first. Pure: it never asks the clock.
//!
//! - Each block stands on a grid of its own, one period wide, at a phase chosen so that the peak of what is due
//!   at once is low ([`super::phase`]). The first read does not wait for the grid: it comes within a second.
//! - A poll that is late skips to the latest turn instead of drifting or catching up in a burst; each
//!   skipped turn is an overrun. Whatever happens, turns stay on the grid.
//! - Who did not answer the last time is asked in its turn when that makes no living block miss its own. Else within the
//!   budget of silence ([`super::budget`]), and after it has waited for a while. Who is gone, within the budget only.
//! - A block that was refused is asked again after ten minutes: the device may only have been booting.

use std::cmp::Reverse;
use std::time::Duration;

use driver_api::Block;
use tokio::time::Instant;

use super::budget::{Budget, Purpose};
use super::health::{Health, Standing};
use super::phase::phases;

/// The deadlines of one bus.
#[derive(Debug)]
pub struct Schedule {
    entries: Vec<Entry>,
    /// Where all grids begin.
    start: Instant,
}

#[derive(Debug, Clone)]
struct Entry {
    device: usize,
    every: Duration,
    cost: Duration,
    due: Instant,
    /// One turn of the grid.
    grid: Instant,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Read this block now.
    Read(usize),
    /// Nothing before this instant.
    Wait(Instant),
    /// Nothing is ever due.
    Idle,
}

/// How long a refused block is left alone.
pub const REFUSED: Duration = Duration::from_secs(600);

/// Whatever the period, a person need not wait longer for the first value.
const FIRST: Duration = Duration::from_secs(1);

/// So long after it could be afforded, a doubtful request goes out even if living blocks come late by it.
const CONFIRM_WAITS: Duration = Duration::from_secs(1);
const PROBE_WAITS: Duration = Duration::from_secs(10);

/// A period no poll uses: only listened to.
const NEVER: Duration = Duration::MAX;

impl Schedule {
    /// All blocks due within a second, and then each on its grid.
    #[must_use]
    pub fn new(blocks: &[Block], now: Instant) -> Self {
        let entry = |(block, phase): (&Block, Duration)| {
            let early = if block.every > FIRST {
                FIRST.mul_f64(phase.as_secs_f64() / block.every.as_secs_f64())
            } else {
                phase
            };
            let Block { device, every, cost, .. } = *block;
            Entry { device, every, cost, due: now + early, grid: now + phase }
        };
        Self { entries: blocks.iter().zip(phases(blocks)).map(entry).collect(), start: now }
    }

    /// The blocks are new: `before(block)` lists those that its points were in. Nothing is due later than it was.
    pub fn replan(&mut self, blocks: &[Block], before: impl Fn(usize) -> Vec<usize>) {
        let old = std::mem::replace(self, Self::new(blocks, self.start));
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let dues = before(index).into_iter().filter_map(|b| old.entries.get(b)).map(|e| e.due);
            entry.due = dues.min().unwrap_or(entry.due);
        }
    }

    /// The block to read at `now`, or when to look again. `health` and `budget` say how those may be asked
    /// that did not answer.
    #[must_use]
    pub fn next(&self, now: Instant, health: &Health, budget: &Budget) -> Next {
        // Where nobody is alive, nobody is disturbed by asking.
        let somebody_lives = health.somebody_lives();
        let affordable = |purpose| if somebody_lives { budget.ready(purpose) } else { now };
        let best = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.every != NEVER)
            .filter_map(|(block, entry)| {
                let (ready, hold, waits) = match health.standing(block) {
                    Standing::Resting => return None,
                    Standing::Living => {
                        return Some((entry.due.max(now), Reverse(true), entry.due + entry.every, block));
                    }
                    // One lost answer in ten is no reason to ask less where nobody waits for the line.
                    Standing::Suspect { hold }
                        if entry.due > now
                            || (budget.tabs_have_room(hold, now)
                                && self.has_room(Some(block), now, hold, health)) =>
                    {
                        (entry.due, hold, CONFIRM_WAITS)
                    }
                    Standing::Suspect { hold } => {
                        (entry.due.max(affordable(Purpose::Confirm)), hold, CONFIRM_WAITS)
                    }
                    // The probe of a device stands for blocks with all sorts of periods: its own does not matter.
                    Standing::Offline { retry_at, probe: true, hold } => {
                        (retry_at.max(affordable(Purpose::Probe)), hold, PROBE_WAITS)
                    }
                    Standing::Offline { retry_at, probe: false, hold } => {
                        (entry.due.max(retry_at).max(affordable(Purpose::Probe)), hold, PROBE_WAITS)
                    }
                };
                let give_up = ready + waits;
                // While it waits for room the living have the line; it is looked at again after each of them.
                let patient = now < give_up;
                let at = if ready <= now && patient && !self.has_room(Some(block), now, hold, health) {
                    give_up
                } else {
                    ready
                };
                Some((at.max(now), Reverse(!patient), give_up, block))
            })
            .min();
        match best {
            None => Next::Idle,
            Some((at, _, _, block)) if at <= now => Next::Read(block),
            Some((at, ..)) => Next::Wait(at),
        }
    }

    /// Living blocks besides `first` that are due, the most urgent first: what may be read together with it.
    #[must_use]
    pub fn also_due(&self, first: usize, now: Instant, health: &Health, most: usize) -> Vec<usize> {
        let living = |block: usize| health.standing(block) == Standing::Living;
        if !living(first) {
            return Vec::new();
        }
        let mut due: Vec<(Instant, usize)> = self
            .entries
            .iter()
            .enumerate()
            .filter(|(block, e)| *block != first && e.every != NEVER && e.due <= now && living(*block))
            .map(|(block, e)| (e.due + e.every, block))
            .collect();
        due.sort_unstable();
        due.into_iter().map(|(_, block)| block).take(most).collect()
    }

    /// Whether the bus can be held for so long, for `block`, and every other living one still be read before its next turn.
    #[must_use]
    pub fn has_room(&self, block: Option<usize>, now: Instant, hold: Duration, health: &Health) -> bool {
        let free = now + hold;
        let mut waiting: Vec<(Instant, Duration)> = self
            .entries
            .iter()
            .enumerate()
            .filter(|(other, e)| {
                let waits = e.every != NEVER && e.due <= free && Some(*other) != block;
                waits && health.standing(*other) == Standing::Living
            })
            .map(|(_, e)| (e.due + e.every, e.cost))
            .collect();
        waiting.sort_unstable();
        let mut done = free;
        waiting.into_iter().all(|(deadline, cost)| {
            done += cost;
            done <= deadline
        })
    }

    /// How long a block has been due.
    #[must_use]
    pub fn lateness(&self, block: usize, now: Instant) -> Duration {
        self.entries.get(block).map_or(Duration::ZERO, |entry| now.saturating_duration_since(entry.due))
    }

    /// The block was read; its next turn is the one after that, or the last one that has already
    /// passed. Returns how many turns were skipped.
    pub fn done(&mut self, block: usize, now: Instant) -> u64 {
        let Some(entry) = self.entries.get_mut(block).filter(|e| e.every != NEVER) else {
            return 0;
        };
        // From a due instant that was not on the grid (the first, or a hastened one): not twice in a row.
        entry.due = entry.turn_from(entry.due + entry.every / 2);
        if entry.due >= now {
            return 0;
        }
        let missed = (now - entry.due).as_nanos() / entry.every.as_nanos().max(1);
        entry.due += entry.every.saturating_mul(u32::try_from(missed).unwrap_or(u32::MAX));
        u64::try_from(missed).unwrap_or(u64::MAX)
    }

    /// A block is due at once: it is to be seen whether its device is gone.
    pub fn hasten(&mut self, block: usize, now: Instant) {
        if let Some(entry) = self.entries.get_mut(block).filter(|e| e.every != NEVER) {
            entry.due = now;
        }
    }

    /// Everything of a device is due at once: it came back.
    pub fn hasten_device(&mut self, device: usize, now: Instant) {
        for entry in self.entries.iter_mut().filter(|e| e.device == device && e.every != NEVER) {
            entry.due = now;
        }
    }

    /// The device refuses this block: asked again after [`REFUSED`].
    pub fn refuse(&mut self, block: usize, now: Instant) {
        if let Some(entry) = self.entries.get_mut(block) {
            entry.due = now + REFUSED;
        }
    }

    /// The bus was opened (again): everything is due within a second, spread as far as it was.
    pub fn reopen(&mut self, now: Instant) {
        for entry in self.entries.iter_mut().filter(|e| e.every != NEVER) {
            entry.due = entry.due.clamp(now, now + FIRST);
        }
    }
}

impl Entry {
    /// The first turn of the grid at or after this instant.
    fn turn_from(&self, at: Instant) -> Instant {
        let every = self.every.as_nanos().max(1);
        let steps = |nanos: u128| u32::try_from(nanos).unwrap_or(u32::MAX);
        if at >= self.grid {
            self.grid + self.every.saturating_mul(steps((at - self.grid).as_nanos().div_ceil(every)))
        } else {
            self.grid - self.every.saturating_mul(steps((self.grid - at).as_nanos() / every))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::poll::health::Outcome;

    fn block(device: usize, ms: u64) -> Block {
        Block {
            device,
            points: vec![0],
            every: Duration::from_millis(ms),
            cost: Duration::ZERO,
            what: "read".into(),
        }
    }

    /// Runs the schedule over simulated time; each read takes `cost`. Returns reads per block and overruns.
    fn simulate(blocks: &[Block], cost: Duration, length: Duration) -> (Vec<u32>, u64) {
        let start = Instant::now();
        let mut schedule = Schedule::new(blocks, start);
        let (health, budget) = (Health::new(blocks, 8), Budget::new(start));
        let (mut now, mut reads, mut overruns) = (start, vec![0; blocks.len()], 0);
        while now < start + length {
            match schedule.next(now, &health, &budget) {
                Next::Read(block) => {
                    reads[block] += 1;
                    now += cost;
                    overruns += schedule.done(block, now);
                }
                Next::Wait(until) => now = until,
                Next::Idle => break,
            }
        }
        (reads, overruns)
    }

    #[test]
    fn every_block_keeps_its_own_period() {
        let blocks = [block(0, 100), block(1, 1000), block(2, 250)];
        let (reads, overruns) = simulate(&blocks, Duration::from_millis(10), Duration::from_secs(60));
        assert_eq!(overruns, 0);
        assert!(reads.iter().zip([600u32, 60, 240]).all(|(n, due)| n.abs_diff(due) <= 1), "{reads:?}");
    }

    #[test]
    fn an_overloaded_bus_skips_and_counts_and_starves_nobody() {
        let blocks = [block(0, 100), block(1, 100), block(2, 100)];
        let (reads, overruns) = simulate(&blocks, Duration::from_millis(50), Duration::from_secs(60));
        let (least, most) = (reads.iter().min().copied(), reads.iter().max().copied());
        assert!(least >= Some(390) && most <= Some(410), "{reads:?}");
        assert!(overruns >= 550, "{overruns}");
    }

    #[test]
    fn a_refused_block_waits_ten_minutes_or_for_the_next_opening() {
        let now = Instant::now();
        let blocks = [block(0, 100)];
        let mut schedule = Schedule::new(&blocks, now);
        schedule.refuse(0, now);
        let (health, budget) = (Health::new(&blocks, 1), Budget::new(now));
        assert_eq!(schedule.next(now, &health, &budget), Next::Wait(now + REFUSED));
        schedule.reopen(now);
        assert_eq!(schedule.next(now + Duration::from_secs(1), &health, &budget), Next::Read(0));
    }

    #[test]
    fn after_an_opening_even_slow_points_are_read_within_a_second() {
        let now = Instant::now();
        let blocks = [block(0, 3_600_000)];
        let mut schedule = Schedule::new(&blocks, now);
        schedule.done(0, now);
        let later = now + Duration::from_secs(300);
        schedule.reopen(later);
        let soon = later + Duration::from_secs(1);
        assert_eq!(schedule.next(soon, &Health::new(&blocks, 1), &Budget::new(now)), Next::Read(0));
    }

    #[test]
    fn a_doubtful_request_waits_until_it_makes_nobody_miss_a_turn_but_not_for_ever() {
        let start = Instant::now();
        // The first device is read every 100 ms; the second missed once, and that held the bus for 500 ms.
        let blocks = [block(0, 100), block(1, 1000)];
        let mut schedule = Schedule::new(&blocks, start);
        let mut health = Health::new(&blocks, 2);
        health.after(1, Some(1), Outcome::Answered, start);
        health.after(1, Some(1), Outcome::Silent { cost: Duration::from_millis(500) }, start);
        schedule.hasten(1, start);
        let budget = Budget::new(start);
        let (mut now, mut asked) = (start, None);
        while now < start + Duration::from_secs(3) && asked.is_none() {
            match schedule.next(now, &health, &budget) {
                Next::Read(1) => asked = Some(now - start),
                Next::Read(block) => {
                    now += Duration::from_millis(10);
                    schedule.done(block, now);
                }
                Next::Wait(until) => now = until,
                Next::Idle => break,
            }
        }
        let asked = asked.expect("it is asked");
        assert!(asked >= CONFIRM_WAITS && asked < CONFIRM_WAITS + Duration::from_millis(50), "{asked:?}");
    }

    #[test]
    fn who_missed_is_asked_in_its_turn_where_nobody_waits_for_the_line() {
        let start = Instant::now();
        // The neighbour is asked once a minute, and the budget is overdrawn.
        let blocks = [block(0, 60_000), block(1, 200)];
        let mut schedule = Schedule::new(&blocks, start);
        let (mut health, mut budget) = (Health::new(&blocks, 2), Budget::new(start));
        let cost = Duration::from_millis(500);
        let now = start + cost;
        for device in [0, 1] {
            health.after(device, Some(device), Outcome::Answered, now);
            schedule.done(device, now);
        }
        health.after(1, Some(1), Outcome::Silent { cost }, now);
        (0..3).for_each(|_| budget.spend(cost, true, now));
        assert!(budget.ready(Purpose::Confirm) > now + Duration::from_secs(10));
        assert_eq!(schedule.next(now, &health, &budget), Next::Read(1));
    }

    #[test]
    fn one_lost_answer_of_a_device_with_a_long_timeout_silences_it_for_no_more_than_two_seconds() {
        let start = Instant::now();
        // The neighbour is read every second, so there is never room for two.
        let blocks = [block(0, 1000), block(1, 500)];
        let mut schedule = Schedule::new(&blocks, start);
        let (mut health, mut budget) = (Health::new(&blocks, 2), Budget::new(start));
        let cost = Duration::from_secs(2);
        let missed = start + cost;
        for (device, outcome) in
            [(0, Outcome::Answered), (1, Outcome::Answered), (1, Outcome::Silent { cost })]
        {
            health.after(device, Some(device), outcome, missed);
            schedule.done(device, missed);
        }
        budget.spend(cost, false, missed);
        let mut now = missed;
        while now < missed + Duration::from_secs(60) {
            match schedule.next(now, &health, &budget) {
                Next::Read(1) => break,
                Next::Read(other) => {
                    now += Duration::from_millis(10);
                    schedule.done(other, now);
                }
                Next::Wait(until) => now = until,
                Next::Idle => panic!("there is something to read"),
            }
        }
        let waited = now - missed;
        // It may be asked after a second, and waits for room for another.
        assert!(waited >= Duration::from_secs(1) && waited <= Duration::from_secs(2), "{waited:?}");
    }

    #[test]
    fn a_new_plan_makes_nothing_due_later() {
        let start = Instant::now();
        let mut schedule = Schedule::new(&[block(0, 1000), block(0, 60_000)], start);
        let now = start + Duration::from_secs(5);
        schedule.done(0, now);
        schedule.done(1, now);
        let dues: Vec<Instant> = schedule.entries.iter().map(|e| e.due).collect();
        schedule.replan(&[block(0, 1000)], |_| vec![0, 1]);
        assert_eq!(schedule.entries[0].due, dues[0].min(dues[1]));
    }

    proptest! {
        #[test]
        fn as_long_as_the_load_fits_no_period_is_skipped(
            periods in prop::collection::vec(50u64..2000, 1..12),
        ) {
            let blocks: Vec<Block> = periods.iter().enumerate().map(|(i, &p)| block(i % 8, p)).collect();
            let load: f64 = periods.iter().map(|&p| 1.0 / p as f64).sum();
            // Non-preemptive: the longest single exchange must also fit beside the shortest period.
            let cost = Duration::from_secs_f64((0.4 / load / 1000.0).min(0.02));
            let length = Duration::from_secs(30);
            let (reads, overruns) = simulate(&blocks, cost, length);
            prop_assert_eq!(overruns, 0);
            for (count, period) in reads.iter().zip(&periods) {
                let due = 30_000 / u32::try_from(*period).expect("small");
                prop_assert!(count.abs_diff(due) <= 2, "{} of {}", count, due);
            }
        }

        /// However long each read takes: after the first, every turn is one of the grid, each one is either read or
        /// counted as skipped, and none is read before it is due or after the next but one has come.
        #[test]
        fn overruns_skip_to_the_latest_turn_and_never_drift(
            period in 20u64..3000, costs in prop::collection::vec(1u64..10_000, 1..60),
        ) {
            let start = Instant::now();
            let every = Duration::from_millis(period);
            let mut schedule = Schedule::new(&[block(0, period)], start);
            let (mut now, mut turns) = (schedule.entries[0].due, 0);
            let mut first = None;
            for cost in costs {
                let due = schedule.entries[0].due;
                if first.is_some() {
                    let offset = (due - schedule.entries[0].grid).as_nanos() % every.as_nanos();
                    prop_assert_eq!(offset, 0);
                    prop_assert_eq!((due - first.unwrap_or(due)).as_nanos() / every.as_nanos(), turns);
                    prop_assert!(now.max(due) < due + every);
                }
                now = now.max(due) + Duration::from_millis(cost);
                let missed = schedule.done(0, now);
                if first.is_some() {
                    turns += 1 + u128::from(missed);
                } else {
                    first = Some(schedule.entries[0].due);
                }
            }
        }
    }
}
