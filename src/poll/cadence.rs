//! Which samples are a point's own, and which only came along. Pure: it never asks the clock.
//!
//! A block is read as often as its most urgent point wants. The others, its riders, are still reported
//! at their own interval:
//! - A rider has a grid of due instants, one interval apart; it never moves, so nothing drifts.
//! - A sample passes when it is due, or would be within half a period of its block: the nearest read to
//!   each due instant counts. After a late one, a due instant less than half an interval away is left out.
//! - A point that wants its block's own period always passes, and so does what somebody asked for.

use std::time::Duration;

use driver_api::{Plan, Sample};
use tokio::time::Instant;

/// The riders of one bus and when each is due.
#[derive(Debug)]
pub struct Cadence {
    points: Vec<Option<Rider>>,
}

#[derive(Debug, Clone)]
struct Rider {
    every: Duration,
    /// How far before its due instant a sample may be.
    early: Duration,
    /// `None` until the first sample.
    due: Option<Instant>,
    /// The next sample passes whenever it comes.
    hasty: bool,
}

impl Cadence {
    /// For the points of this plan; each one's first sample passes.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let mut points = vec![None; plan.points.len()];
        for block in plan.blocks.iter().filter(|block| block.every != Duration::MAX) {
            for &point in &block.points {
                let every = plan.points.get(point).map_or(Duration::ZERO, |info| info.every);
                if let (Some(slot), true) = (points.get_mut(point), every > block.every) {
                    *slot = Some(Rider { every, early: block.every / 2, due: None, hasty: false });
                }
            }
        }
        Self { points }
    }

    /// The blocks are new, the points the same: who was due when stays.
    pub fn replan(&mut self, plan: &Plan) {
        let before = std::mem::replace(self, Self::new(plan)).points;
        for (now, before) in self.points.iter_mut().zip(before) {
            if let (Some(now), Some(before)) = (now, before) {
                (now.due, now.hasty) = (before.due, before.hasty);
            }
        }
    }

    /// The next sample of these points passes: their device came back, or is known to be gone.
    pub fn hasten<'p>(&mut self, points: impl IntoIterator<Item = &'p usize>) {
        for point in points {
            if let Some(Some(rider)) = self.points.get_mut(*point) {
                rider.hasty = true;
            }
        }
    }

    /// The next sample of every point passes.
    pub fn hasten_all(&mut self) {
        self.points.iter_mut().flatten().for_each(|rider| rider.hasty = true);
    }

    /// Takes out the samples of riders that are not due.
    pub fn filter(&mut self, samples: &mut Vec<Sample>) {
        samples.retain(|sample| match self.points.get_mut(sample.point) {
            Some(Some(rider)) => rider.passes(sample.at),
            Some(None) | None => true,
        });
    }
}

impl Rider {
    fn passes(&mut self, at: Instant) -> bool {
        let due = *self.due.get_or_insert(at);
        let in_time = at + self.early >= due;
        if in_time {
            // The first instant of the grid that is half an interval away, or as good as.
            let passed =
                (at + (self.every / 2).saturating_sub(self.early)).saturating_duration_since(due).as_nanos()
                    / self.every.as_nanos().max(1);
            let steps = u32::try_from(passed + 1).unwrap_or(u32::MAX);
            self.due = Some(due + self.every.saturating_mul(steps));
        }
        std::mem::take(&mut self.hasty) || in_time
    }
}

#[cfg(test)]
mod tests {
    use driver_api::{Block, PointInfo, Value};
    use proptest::prelude::*;

    use super::*;

    /// Two points in one block: the first at the block's own period, the second a rider.
    fn cadence(block_ms: u64, rider_ms: u64) -> Cadence {
        let point = |ms| PointInfo {
            device: 0,
            name: "p".into(),
            spec: None,
            unit: None,
            kind: "u16".into(),
            source: String::new(),
            registers: None,
            writable: false,
            every: Duration::from_millis(ms),
        };
        let block = Block {
            device: 0,
            points: vec![0, 1],
            every: Duration::from_millis(block_ms),
            cost: Duration::ZERO,
            what: String::new(),
        };
        Cadence::new(&Plan {
            points: vec![point(block_ms), point(rider_ms)],
            blocks: vec![block],
            ..Plan::default()
        })
    }

    /// The rider's samples that pass, of reads at these ms.
    fn passing(cadence: &mut Cadence, start: Instant, reads: &[u64]) -> Vec<u64> {
        let passes = |ms: &u64| {
            let at = start + Duration::from_millis(*ms);
            let mut samples = vec![
                Sample { point: 0, value: Ok(Value::Int(1)), at },
                Sample { point: 1, value: Ok(Value::Int(2)), at },
            ];
            cadence.filter(&mut samples);
            assert_eq!(
                samples.first().map(|s| s.point),
                Some(0),
                "the point of the block's own period always passes"
            );
            samples.len() == 2
        };
        reads.iter().copied().filter(passes).collect()
    }

    #[test]
    fn a_rider_is_reported_at_its_own_interval() {
        let reads: Vec<u64> = (0..31).map(|n| n * 1000).collect();
        assert_eq!(passing(&mut cadence(1000, 10_000), Instant::now(), &reads), [0, 10_000, 20_000, 30_000]);
    }

    #[test]
    fn reads_that_come_late_do_not_make_it_drift() {
        let reads: Vec<u64> = (0..31).map(|n| n * 1000 + [0, 400, 300, 450][n as usize % 4]).collect();
        assert_eq!(passing(&mut cadence(1000, 10_000), Instant::now(), &reads), [0, 10_300, 20_000, 30_300]);
    }

    #[test]
    fn after_a_long_silence_one_sample_passes_and_the_next_keeps_its_distance() {
        let reads: Vec<u64> = [0, 19_000].into_iter().chain((20..41).map(|n| n * 1000)).collect();
        assert_eq!(passing(&mut cadence(1000, 10_000), Instant::now(), &reads), [0, 19_000, 30_000, 40_000]);
    }

    #[test]
    fn a_hastened_rider_passes_once_and_keeps_its_grid() {
        let (mut cadence, start) = (cadence(1000, 10_000), Instant::now());
        assert_eq!(passing(&mut cadence, start, &[0, 1000]), [0]);
        cadence.hasten(&[0, 1]);
        assert_eq!(passing(&mut cadence, start, &[3000, 4000, 9000, 10_000]), [3000, 10_000]);
    }

    proptest! {
        /// Whatever the jitter of the reads, as many pass as intervals go by, and never two close together.
        #[test]
        fn as_many_pass_as_intervals_go_by(
            block_ms in 20u64..2000, times in 11u64..200, jitter in prop::collection::vec(0u64..49, 400),
        ) {
            let rider_ms = block_ms * times / 10;
            let reads: Vec<u64> = (0..400u64)
                .map(|n| n * block_ms + block_ms * jitter[usize::try_from(n).expect("small")] / 100)
                .collect();
            let passed = passing(&mut cadence(block_ms, rider_ms), Instant::now(), &reads);
            let wanted = 399 * block_ms / rider_ms + 1;
            prop_assert!(u64::try_from(passed.len()).expect("small").abs_diff(wanted) <= 1, "{} of {wanted}", passed.len());
            prop_assert!(passed.windows(2).all(|w| w[1] - w[0] + block_ms + 1 >= rider_ms / 2));
        }
    }
}
