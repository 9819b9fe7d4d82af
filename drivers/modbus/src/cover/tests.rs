//! What the plan owes: every want is served in time, no block breaks a limit, and no other plan is cheaper.

use proptest::prelude::*;

use super::*;
use crate::plan::Pace;

const FREE: Limits = Limits { max_len: 125, max_gap: u16::MAX };
const BAUDS: [u32; 4] = [9600, 19_200, 38_400, 115_200];

fn registers(baud: u32) -> impl Fn(u16) -> Duration {
    move |len| Pace::serial(baud, 11).read(len, false)
}

fn want(start: u16, len: u16, ms: u64) -> Want {
    Want { span: Span { start, len }, every: Duration::from_millis(ms) }
}

fn every(wants: &[Want], run: &Run) -> Duration {
    run.wanted.iter().map(|i| wants[*i].every).min().expect("no run is empty")
}

/// Bus time per second, as the planner's own sum but in floating point.
fn total(wants: &[Want], runs: &[Run], cost: &impl Fn(u16) -> Duration) -> f64 {
    runs.iter().map(|r| cost(r.span.len).as_secs_f64() / every(wants, r).as_secs_f64()).sum()
}

/// The longest stretch of a span that no point wants.
fn unwanted(wants: &[Want], read: Span) -> u32 {
    let wanted = |at: u32| wants.iter().any(|w| u32::from(w.span.start) <= at && at < w.span.end());
    let (mut longest, mut now) = (0, 0);
    for at in u32::from(read.start)..read.end() {
        now = if wanted(at) { 0 } else { now + 1 };
        longest = longest.max(now);
    }
    longest
}

/// The least load over all ways to put wants into blocks, in any order.
fn brute_force(all: &[Want], left: &[Want], limits: Limits, cost: &impl Fn(u16) -> Duration) -> f64 {
    let Some((first, rest)) = left.split_first() else { return 0.0 };
    let mut least = f64::INFINITY;
    for choice in 0u32..1 << rest.len() {
        let (mut with, mut without) = (vec![*first], Vec::new());
        for (i, want) in rest.iter().enumerate() {
            if choice >> i & 1 == 1 { with.push(*want) } else { without.push(*want) }
        }
        let run = run_of(|i| with[i].span, (0..with.len()).collect());
        if with.len() == 1
            || run.span.len <= limits.max_len && unwanted(all, run.span) <= limits.max_gap.into()
        {
            let here = cost(run.span.len).as_secs_f64() / every(&with, &run).as_secs_f64();
            least = least.min(here + brute_force(all, &without, limits, cost));
        }
    }
    least
}

#[test]
fn gaps_are_read_through_as_long_as_that_is_cheaper() {
    for (baud, worthwhile) in [(9600, 10), (19_200, 10), (38_400, 12), (115_200, 24)] {
        for gap in 0..40 {
            let wanted = [want(0, 2, 1000), want(2 + gap, 2, 1000)];
            let blocks = plan(&wanted, FREE, registers(baud)).len();
            assert_eq!(blocks == 1, gap <= worthwhile, "{baud} baud, gap {gap}");
        }
    }
}

#[test]
fn a_network_reads_through_wide_gaps() {
    let wanted = [want(0, 1, 1000), want(120, 1, 1000), want(130, 1, 1000)];
    let runs = plan(&wanted, FREE, |len| Pace::network().read(len, false));
    assert_eq!(runs.len(), 2, "{runs:?}");
}

#[test]
fn a_slow_point_inside_a_fast_block_is_free() {
    let wanted = [want(0, 2, 500), want(2, 2, 60_000), want(4, 2, 500)];
    let runs = plan(&wanted, FREE, registers(19_200));
    assert_eq!(runs, [Run { span: Span { start: 0, len: 6 }, wanted: vec![0, 1, 2] }]);
}

#[test]
fn a_slow_point_rides_along_only_where_that_is_cheaper() {
    // Two registers more in every fast read are 4 of 25 characters; a read of its own is all 17 of them.
    let beside = |ms| plan(&[want(0, 2, 1000), want(2, 2, ms)], FREE, registers(19_200)).len();
    assert_eq!((beside(1000), beside(2000), beside(5000), beside(60_000)), (1, 1, 1, 2));
}

#[test]
fn fast_points_at_both_ends_leave_the_slow_ones_between_them_to_a_read_of_their_own() {
    let mut wanted = vec![want(0, 2, 100), want(100, 2, 100)];
    wanted.extend((0..49).map(|i| want(2 + i * 2, 2, 60_000)));
    let runs = plan(&wanted, FREE, registers(19_200));
    let lens: Vec<u16> = runs.iter().map(|r| r.span.len).collect();
    assert_eq!(lens, [2, 98, 2]);
}

#[test]
fn a_single_span_longer_than_the_limit_is_still_read() {
    let limits = Limits { max_len: 4, max_gap: 0 };
    let runs = plan(&[want(65_526, 10, 1000), want(0, 1, 1000)], limits, registers(9600));
    assert_eq!(runs.iter().map(|r| r.span.len).collect::<Vec<_>>(), [1, 10]);
}

/// Spans of up to `count` points with up to three periods out of the common ones.
fn wants(count: usize, within: u16) -> impl Strategy<Value = Vec<Want>> {
    let periods = prop::collection::vec(
        prop::sample::select(vec![100u64, 250, 500, 1000, 2000, 5000, 10_000, 60_000]),
        1..=3,
    );
    let spans = prop::collection::vec((0..within, 1u16..=4, 0usize..3), 0..=count);
    (periods, spans).prop_map(|(periods, spans)| {
        spans.into_iter().map(|(start, len, p)| want(start, len, periods[p % periods.len()])).collect()
    })
}

fn gap() -> impl Strategy<Value = u16> {
    prop_oneof![Just(u16::MAX), 0u16..40]
}

proptest! {
    #[test]
    fn every_want_is_served_once_in_time_and_within_the_limits(
        wanted in wants(60, 2000), max_len in 4u16..=125, max_gap in gap(), baud in prop::sample::select(&BAUDS),
    ) {
        let cost = registers(baud);
        let runs = plan(&wanted, Limits { max_len, max_gap }, &cost);
        let mut read = vec![0; wanted.len()];
        for run in &runs {
            prop_assert!(run.span.len <= max_len);
            prop_assert!(unwanted(&wanted, run.span) <= u32::from(max_gap));
            for i in &run.wanted {
                read[*i] += 1;
                prop_assert!(run.span.start <= wanted[*i].span.start && wanted[*i].span.end() <= run.span.end());
            }
        }
        prop_assert!(read.iter().all(|n| *n == 1), "{read:?}");
    }

    #[test]
    fn no_other_plan_takes_less_bus_time_per_second(
        wanted in wants(8, 60), max_len in 4u16..=60, max_gap in gap(), baud in prop::sample::select(&BAUDS),
    ) {
        let (cost, limits) = (registers(baud), Limits { max_len, max_gap });
        let (ours, best) = (total(&wanted, &plan(&wanted, limits, &cost), &cost), brute_force(&wanted, &wanted, limits, &cost));
        prop_assert!((ours - best).abs() <= best * 1e-9, "{ours} instead of {best}");
    }

    #[test]
    fn no_other_plan_of_bits_takes_less_bus_time_per_second(wanted in wants(7, 400), max_len in 8u16..=200) {
        let cost = |len| Pace::serial(9600, 11).read(len, true);
        let limits = Limits { max_len, max_gap: u16::MAX };
        let (ours, best) = (total(&wanted, &plan(&wanted, limits, cost), &cost), brute_force(&wanted, &wanted, limits, &cost));
        prop_assert!((ours - best).abs() <= best * 1e-9, "{ours} instead of {best}");
    }
}

/// Maps as meters have them: stretches of values of one to four registers with holes between them, and
/// periods of a few kinds in no order.
fn map(seed: u64, points: usize, periods: &[u64]) -> Vec<Want> {
    let mut state = seed;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut at = 0;
    let one = |_| {
        at += [0, 0, 0, 0, 1, 2, 6, 30][usize::try_from(next(8)).expect("small")];
        let len = [1, 2, 2, 4][usize::try_from(next(4)).expect("small")];
        let every = periods[usize::try_from(next(periods.len() as u64)).expect("small")];
        let want = want(at, len, every);
        at += len;
        want
    };
    (0..points).map(one).collect()
}

#[test]
#[ignore = "figures; run with --release --ignored --nocapture"]
fn figures_of_the_planner() {
    println!(
        "{:>6} {:>8} {:>6} {:>9} {:>9} {:>8}",
        "points", "periods", "baud", "median", "slowest", "worse by"
    );
    for periods in
        [&[1000][..], &[500, 10_000], &[500, 1000, 10_000], &[250, 500, 1000, 2000, 5000, 10_000, 60_000]]
    {
        for (points, baud) in [(50, 19_200), (500, 9600), (500, 115_200)] {
            let (mut times, mut worst) = (Vec::new(), 0.0f64);
            for seed in 0..10 {
                let wants = map(seed, points, periods);
                let cost = registers(baud);
                let began = tokio::time::Instant::now();
                let ours = plan(&wants, FREE, &cost);
                times.push(began.elapsed());
                let wide = plan_keeping(WIDTH * 40, &wants, FREE, &cost);
                worst = worst.max(total(&wants, &ours, &cost) / total(&wants, &wide, &cost) - 1.0);
            }
            times.sort_unstable();
            let (median, slowest) = (times[5], times[9]);
            println!(
                "{points:>6} {:>8} {baud:>6} {median:>9.1?} {slowest:>9.1?} {:>6.2} %",
                periods.len(),
                worst * 100.0
            );
        }
    }
}
