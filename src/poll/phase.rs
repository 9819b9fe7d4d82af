//! At which moment of its period each block is read, so that they do not all want the bus at once. Pure.
//!
//! Time is laid out as a ring of slots, one **frame** for each shortest period, as many frames as it takes
//! until the periods that are whole multiples of it meet again. Blocks are placed in the order of their
//! periods, each where it overlaps least with what is there already, at all of its turns round the ring.
//! A block takes the time of its exchange *and its share of the idle time*: so a bus that is half
//! busy has a pause after each exchange, where a repeat or a write finds room.
//!
//! Periods that fit no ring (700 ms beside 1 s) drift past all others anyway; those of one such period are
//! spread evenly over it.

use std::time::Duration;

use driver_api::Block;

/// Slots of the whole ring. At 1 s and 10 s one is about 5 ms, a quarter of an exchange at 19200 baud.
const SLOTS: usize = 2048;
/// Most frames of the ring; longer periods share a place, weighted by how seldom they come.
const MOST_FRAMES: usize = 64;

/// For each block the offset of its turns from the beginning of its period.
#[must_use]
pub fn phases(blocks: &[Block]) -> Vec<Duration> {
    let mut phases = vec![Duration::ZERO; blocks.len()];
    let polled = |b: &&Block| b.every != Duration::MAX && !b.every.is_zero();
    let Some(frame) = blocks.iter().filter(polled).map(|b| b.every).min() else { return phases };
    let load: f64 = blocks.iter().filter(polled).map(|b| b.cost.as_secs_f64() / b.every.as_secs_f64()).sum();
    let mut ring = Ring::new(blocks.iter().filter(polled).filter_map(|b| frames(b.every, frame)));
    let mut order: Vec<usize> = (0..blocks.len()).filter(|b| polled(&&blocks[*b])).collect();
    order.sort_by_key(|b| (blocks[*b].every, std::cmp::Reverse(blocks[*b].cost)));
    for (rank, &index) in order.iter().enumerate() {
        let block = &blocks[index];
        phases[index] = match frames(block.every, frame) {
            Some(frames) => {
                let share = block.cost.as_secs_f64() / load.max(f64::MIN_POSITIVE) / frame.as_secs_f64();
                frame.mul_f64(ring.place(frames, share, rank))
            }
            None => {
                let same: Vec<&usize> = order.iter().filter(|b| blocks[**b].every == block.every).collect();
                let rank = same.iter().position(|b| **b == index).unwrap_or(0);
                block.every.mul_f64(part(rank, same.len()))
            }
        };
    }
    phases
}

/// How many frames a period has, if it is a whole number.
fn frames(every: Duration, frame: Duration) -> Option<usize> {
    let (every, frame) = (every.as_nanos(), frame.as_nanos().max(1));
    (every % frame == 0).then(|| usize::try_from(every / frame).ok()).flatten()
}

#[expect(clippy::cast_precision_loss, reason = "numbers of slots and blocks")]
fn part(of: usize, whole: usize) -> f64 {
    of as f64 / whole.max(1) as f64
}

struct Ring {
    frames: usize,
    /// Slots of one frame.
    slots: usize,
    /// What is already wanted of each slot.
    taken: Vec<f64>,
}

impl Ring {
    fn new(periods: impl Iterator<Item = usize>) -> Self {
        let meet = |ring: usize, frames: usize| {
            let together = ring / gcd(ring, frames) * frames;
            if together <= MOST_FRAMES { together } else { ring }
        };
        let frames = periods.fold(1, meet);
        let slots = SLOTS / frames;
        Self { frames, slots, taken: vec![0.0; slots * frames] }
    }

    /// Where, in frames from the beginning, a block fits that comes every `frames` and takes this share of a
    /// frame. It is taken.
    fn place(&mut self, frames: usize, share: f64, rank: usize) -> f64 {
        // What comes round more seldom than the ring stands in one place of it, at a part of the weight.
        let turn = gcd(frames, self.frames);
        let weight = part(turn, frames);
        let all = self.taken.len();
        let stride = self.slots * turn;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "at most the ring"
        )]
        let width = ((share * self.slots as f64).round() as usize).clamp(1, stride);
        let mut sums = Vec::with_capacity(2 * all + 1);
        sums.push(0.0);
        for slot in 0..2 * all {
            sums.push(sums[slot] + self.taken[slot % all]);
        }
        let overlap = |at: usize| -> f64 {
            (at..at + all).step_by(stride).map(|s| s % all).map(|s| sums[s + width] - sums[s]).sum()
        };
        let mut best = (f64::INFINITY, 0);
        for at in 0..stride {
            let here = overlap(at);
            // Less by more than what sums of floating point are off.
            if here < best.0 - 1e-9 {
                best = (here, at);
            }
        }
        for turn in (best.1..best.1 + all).step_by(stride) {
            (turn..turn + width).for_each(|slot| self.taken[slot % all] += weight);
        }
        // Blocks that share a place take turns there.
        let skip = (frames / turn).max(1);
        part(best.1, self.slots) + part(turn * (rank % skip), 1)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(ms: u64, cost_ms: u64) -> Block {
        Block {
            device: 0,
            points: Vec::new(),
            every: Duration::from_millis(ms),
            cost: Duration::from_millis(cost_ms),
            what: String::new(),
        }
    }

    /// The most work, in ms, that is due and not done at any moment of a minute, each block read in turn.
    fn peak(blocks: &[Block], phases: &[Duration]) -> f64 {
        let mut due: Vec<(Duration, Duration)> = Vec::new();
        for (block, phase) in blocks.iter().zip(phases) {
            let mut at = *phase;
            while at < Duration::from_secs(120) {
                due.push((at, block.cost));
                at += block.every;
            }
        }
        due.sort_unstable();
        let (mut until, mut peak) = (Duration::ZERO, Duration::ZERO);
        for (at, cost) in due {
            until = until.max(at) + cost;
            // From the second minute on every block has had its first turn.
            if at >= Duration::from_secs(60) {
                peak = peak.max(until - at);
            }
        }
        peak.as_secs_f64() * 1e3
    }

    /// What a schedule does that starts everything at once, and one that spreads equal periods over a second.
    fn naive(blocks: &[Block]) -> [Vec<Duration>; 2] {
        let spread = |index: usize| {
            let same: Vec<usize> =
                (0..blocks.len()).filter(|b| blocks[*b].every == blocks[index].every).collect();
            let rank = same.iter().position(|b| *b == index).expect("itself");
            blocks[index].every.min(Duration::from_secs(1)).mul_f64(part(rank, same.len()))
        };
        [vec![Duration::ZERO; blocks.len()], (0..blocks.len()).map(spread).collect()]
    }

    #[test]
    fn the_peak_backlog_is_a_fraction_of_that_of_a_naive_start() {
        // Period and cost in ms, and how many of them.
        type Mix = Vec<(u64, u64, usize)>;
        let mixes: [(&str, Mix); 5] = [
            ("32 at 1 s", vec![(1000, 23, 32)]),
            ("1, 2 and 10 s", vec![(1000, 30, 12), (2000, 40, 8), (10_000, 45, 40)]),
            ("0.1, 1 and 60 s", vec![(100, 6, 6), (1000, 20, 10), (60_000, 30, 60)]),
            ("0.5, 1, 5 s, 1 h", vec![(500, 20, 8), (1000, 25, 10), (5000, 40, 20), (3_600_000, 60, 50)]),
            ("0.7 and 1 s", vec![(700, 20, 10), (1000, 25, 12)]),
        ];
        println!("{:18} {:>6} {:>14} {:>14} {:>8}", "blocks", "load", "all at once", "rank spread", "ours");
        for (name, mix) in mixes {
            let blocks: Vec<Block> =
                mix.iter().flat_map(|&(ms, cost, count)| vec![block(ms, cost); count]).collect();
            let load: f64 = mix.iter().map(|&(ms, cost, count)| cost as f64 * count as f64 / ms as f64).sum();
            let [at_once, spread] = naive(&blocks).map(|phases| peak(&blocks, &phases));
            let ours = peak(&blocks, &phases(&blocks));
            println!("{name:18} {load:>6.2} {at_once:>11.0} ms {spread:>11.0} ms {ours:>5.0} ms");
            assert!(
                ours <= at_once / 3.0 && ours <= spread + 1.0,
                "{name}: {ours} of {at_once} and {spread}"
            );
        }
    }

    #[test]
    fn equal_periods_are_spread_evenly() {
        for count in [3, 7, 20, 32] {
            let mut phases = phases(&vec![block(1000, 10); count]);
            phases.sort_unstable();
            let even = Duration::from_secs(1).mul_f64(part(1, count));
            let off = |w: &[Duration]| (w[1] - w[0]).abs_diff(even);
            assert!(phases.windows(2).all(|w| off(w) <= Duration::from_millis(2)), "{phases:?}");
        }
    }

    #[test]
    fn every_phase_is_within_its_period_and_what_only_speaks_has_none() {
        let mut blocks: Vec<Block> =
            [10, 70, 100, 333, 1000, 1001, 10_000, 86_400_000].map(|ms| block(ms, 3)).to_vec();
        blocks.push(Block { every: Duration::MAX, ..block(1, 0) });
        let phases = phases(&blocks);
        assert!(phases.iter().zip(&blocks).all(|(phase, b)| *phase < b.every), "{phases:?}");
        assert!(super::phases(&[]).is_empty());
    }
}
