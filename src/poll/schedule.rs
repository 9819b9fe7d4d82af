//! When each block is due: earliest deadline first. Pure: it never asks the clock.
//!
//! - Equal periods start spread over the period, so that they do not bunch.
//! - A poll that is late skips to the latest period instead of drifting or catching up in a burst;
//!   each skipped period is an overrun.
//! - A block that does not answer waits for its retry, and all such blocks for the bus's budget.
//! - A block that was refused is asked again after ten minutes: the device may only have been booting.

use std::time::Duration;

use driver_api::Block;
use tokio::time::Instant;

use super::health::{DeadBudget, Health};

/// The deadlines of one bus.
#[derive(Debug)]
pub struct Schedule {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    device: usize,
    every: Duration,
    due: Instant,
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

/// A period no poll uses: only listened to.
const NEVER: Duration = Duration::MAX;

impl Schedule {
    /// All blocks due within their first period, spread by their order.
    #[must_use]
    pub fn new(blocks: &[Block], now: Instant) -> Self {
        let entries = blocks
            .iter()
            .enumerate()
            .map(|(index, block)| {
                let same: Vec<usize> =
                    (0..blocks.len()).filter(|&other| blocks[other].every == block.every).collect();
                let rank = same.iter().position(|&other| other == index).unwrap_or(0);
                let share = f64::from(u32::try_from(rank).unwrap_or(0))
                    / f64::from(u32::try_from(same.len().max(1)).unwrap_or(1));
                // A long period must not make a person wait for the first value.
                let spread = block.every.min(Duration::from_secs(1)).mul_f64(share);
                Entry { device: block.device, every: block.every, due: now + spread }
            })
            .collect();
        Self { entries }
    }

    /// The block to read at `now`, or when to look again. `health` (one per block) and `budget` say
    /// when those that do not answer may be asked.
    #[must_use]
    pub fn next(&self, now: Instant, health: &[Health], budget: &DeadBudget) -> Next {
        let health = |block: usize| health.get(block).copied().unwrap_or(Health::Online);
        let asked = || self.entries.iter().enumerate().filter(|(_, e)| e.every != NEVER);
        // Where nobody is alive, nobody is disturbed by asking.
        let somebody_lives = asked().any(|(block, _)| !health(block).is_offline());
        let best = asked()
            .map(|(block, e)| match health(block) {
                // Of those that do not answer, the one that waited longest is the next probe.
                Health::Offline { retry_at, .. } => {
                    let affordable = if somebody_lives { budget.not_before() } else { now };
                    (e.due.max(retry_at).max(affordable).max(now), e.due, block)
                }
                // Among what is due, the one whose deadline is nearest.
                Health::Online | Health::Suspect { .. } => (e.due.max(now), e.due + e.every, block),
            })
            .min();
        match best {
            None => Next::Idle,
            Some((at, _, block)) if at <= now => Next::Read(block),
            Some((at, ..)) => Next::Wait(at),
        }
    }

    /// The block was read; its next turn is one period after its last, or after the last one that
    /// has already passed. Returns how many periods were skipped.
    pub fn done(&mut self, block: usize, now: Instant) -> u64 {
        let Some(entry) = self.entries.get_mut(block).filter(|e| e.every != NEVER) else {
            return 0;
        };
        entry.due += entry.every;
        if entry.due >= now {
            return 0;
        }
        let behind = (now - entry.due).as_nanos();
        let missed = behind / entry.every.as_nanos().max(1);
        entry.due += entry.every.saturating_mul(u32::try_from(missed).unwrap_or(u32::MAX));
        u64::try_from(missed).unwrap_or(u64::MAX)
    }

    /// Everything of a device is due at once: it came back, or it is to be seen whether it is gone.
    pub fn hasten(&mut self, device: usize, now: Instant) {
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
            entry.due = entry.due.clamp(now, now + Duration::from_secs(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        let health = vec![Health::Online; 8];
        let budget = DeadBudget::new(start);
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
        assert_eq!((reads, overruns), (vec![600, 60, 240], 0));
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
        let mut schedule = Schedule::new(&[block(0, 100)], now);
        schedule.refuse(0, now);
        let (health, budget) = ([Health::Online], DeadBudget::new(now));
        assert_eq!(schedule.next(now, &health, &budget), Next::Wait(now + REFUSED));
        schedule.reopen(now);
        assert_eq!(schedule.next(now + Duration::from_secs(1), &health, &budget), Next::Read(0));
    }

    #[test]
    fn after_an_opening_even_slow_points_are_read_within_a_second() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&[block(0, 3_600_000)], now);
        schedule.done(0, now);
        let later = now + Duration::from_secs(300);
        schedule.reopen(later);
        let soon = later + Duration::from_secs(1);
        assert_eq!(schedule.next(soon, &[Health::Online], &DeadBudget::new(now)), Next::Read(0));
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
    }
}
