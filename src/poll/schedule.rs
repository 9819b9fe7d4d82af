//! When each block is due: earliest deadline first. Pure: it never asks the clock.
//!
//! - Equal periods start spread over the period, so that they do not bunch.
//! - A poll that is late skips to the latest period instead of drifting or catching up in a burst;
//!   each skipped period is an overrun.
//! - Blocks of an offline device wait for the device's retry; one of them is the probe.

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
    /// Left out until the bus is opened again: the device refused it.
    refused: bool,
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
                Entry { device: block.device, every: block.every, due: now + spread, refused: false }
            })
            .collect();
        Self { entries }
    }

    /// The block to read at `now`, or when to look again. `health` and `budget` say when dead
    /// devices may be asked.
    #[must_use]
    pub fn next(&self, now: Instant, health: &[Health], budget: &DeadBudget) -> Next {
        // Where nobody is alive, nobody is disturbed by asking.
        let somebody_lives = self
            .entries
            .iter()
            .any(|e| e.every != NEVER && health.get(e.device).is_some_and(|h| !h.is_offline()));
        let best = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, e)| !e.refused && e.every != NEVER)
            .map(|(block, e)| {
                let due = match health.get(e.device) {
                    Some(Health::Offline { retry_at, .. }) if somebody_lives => {
                        e.due.max(*retry_at).max(budget.not_before())
                    }
                    Some(Health::Offline { retry_at, .. }) => e.due.max(*retry_at),
                    _ => e.due,
                };
                // Among what is due, the one whose deadline is nearest.
                (due, due + e.every, block)
            })
            .min_by_key(
                |&(due, deadline, block)| {
                    if due <= now { (now, deadline, block) } else { (due, deadline, block) }
                },
            );
        match best {
            None => Next::Idle,
            Some((due, _, block)) if due <= now => Next::Read(block),
            Some((due, _, _)) => Next::Wait(due),
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

    /// A device came back: everything of it is due at once.
    pub fn revive(&mut self, device: usize, now: Instant) {
        for entry in self.entries.iter_mut().filter(|e| e.device == device && e.every != NEVER) {
            entry.due = entry.due.min(now);
            // What was due long ago starts a new rhythm from now.
            entry.due = entry.due.max(now);
        }
    }

    /// The device refuses this block: left out until [`Self::reopen`].
    pub fn refuse(&mut self, block: usize) {
        if let Some(entry) = self.entries.get_mut(block) {
            entry.refused = true;
        }
    }

    /// The bus was opened (again): refused blocks get a new chance, everything starts now.
    pub fn reopen(&mut self, now: Instant) {
        for entry in &mut self.entries {
            entry.refused = false;
            if entry.due < now {
                entry.due = now;
            }
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
    fn a_refused_block_waits_for_the_next_opening() {
        let now = Instant::now();
        let mut schedule = Schedule::new(&[block(0, 100)], now);
        schedule.refuse(0);
        let health = [Health::Online];
        assert_eq!(schedule.next(now, &health, &DeadBudget::new(now)), Next::Idle);
        schedule.reopen(now);
        assert_eq!(schedule.next(now, &health, &DeadBudget::new(now)), Next::Read(0));
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
