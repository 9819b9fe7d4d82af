//! A device that loses answers now and then is no dead one.

use super::*;

/// A device that loses answers by chance.
pub(super) struct Loser {
    device: usize,
    /// So many in a hundred.
    hundredth: u32,
    by: fastrand::Rng,
}

impl Loser {
    pub(super) fn loses(&mut self, device: usize) -> bool {
        device == self.device && self.by.u32(..100) < self.hundredth
    }
}

/// How often a device was read in two minutes that loses so many answers in a hundred, beside these neighbours (the second
/// device is dead if `dead`), of its polls every 200 ms; and the longest stretch between two reads.
async fn reads_of_a_loser(hundredth: u32, neighbours: &[u64], dead: bool) -> (usize, Duration) {
    let mut blocks = vec![(0, 200)];
    blocks.extend(neighbours.iter().enumerate().map(|(i, &ms)| (i + 1, ms)));
    let mut bench = bench_of(&blocks);
    {
        let mut line = bench.line.lock().expect("test");
        line.loses = Some(Loser { device: 0, hundredth, by: fastrand::Rng::with_seed(7) });
        if dead {
            line.dead.push(1);
        }
    }
    bench.reads_in(Duration::from_secs(120)).await;
    let line = bench.line.lock().expect("test");
    let times: Vec<Instant> =
        line.reads.iter().filter(|(_, device)| *device == 0).map(|(at, _)| *at).collect();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(Duration::MAX);
    (times.len(), longest)
}

#[tokio::test(start_paused = true)]
async fn one_answer_in_ten_that_is_lost_costs_its_own_time_and_no_more() {
    // 600 turns; each timeout of 500 ms takes two more of its own.
    for (neighbours, dead) in [(&[][..], false), (&[10_000], false), (&[200], true)] {
        let (reads, longest) = reads_of_a_loser(10, neighbours, dead).await;
        assert!(reads > 450, "{neighbours:?}: {reads}");
        assert!(longest < Duration::from_secs(3), "{neighbours:?}: {longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_neighbour_waits_for_the_line_a_loser_takes_no_more_of_it_than_before() {
    let (reads, _) = reads_of_a_loser(50, &[200, 200], false).await;
    // About 3 % of the time, for confirmations of 500 ms, and one exchange after each answer.
    assert!((5..100).contains(&reads), "{reads}");
}
