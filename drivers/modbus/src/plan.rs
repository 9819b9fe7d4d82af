//! Which registers to read together: the cheapest set of block reads, by the bus's own clock.
//!
//! Pure. A request costs the same however short it is, so reading registers nobody asked for can be
//! cheaper than asking twice: up to 10 at 9600 and 19200 baud, 12 at 38400, 24 at 115200. The plan
//! is exact: a dynamic program over the wanted spans in address order finds the least total time.
//! (Some best plan always cuts that order into runs: take the blocks of any best plan, none inside
//! another, and give each span to the last block that begins at or before it.)

use std::time::Duration;

/// A run of registers or bits that one point wants. `len` is at least 1, and it ends at 65535 or before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Protocol address of the first.
    pub start: u16,
    /// How many.
    pub len: u16,
}

impl Span {
    /// One behind the last, up to 65536.
    #[must_use]
    pub fn end(self) -> u32 {
        u32::from(self.start) + u32::from(self.len)
    }
}

/// What one device allows in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Registers or bits per request.
    pub max_len: u16,
    /// Most unwanted ones in a row that may be read.
    pub max_gap: u16,
}

/// What time things take on one bus.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// One character on the wire.
    pub char_time: Duration,
    /// The silence that ends a frame.
    pub silence: Duration,
    /// How long the device takes to begin its answer.
    pub turnaround: Duration,
    /// What an exchange takes besides (a network's round trip).
    pub round_trip: Duration,
}

/// Bits of one character in the specification: start, eight data, parity, stop.
const SPEC_BITS: u64 = 11;

/// At and below this baud the silence is 3.5 characters, above it 1.75 ms (Serial Line V1.02, 2.5.1.1).
const FIXED_SILENCE_ABOVE: u32 = 19_200;
const FIXED_SILENCE: Duration = Duration::from_micros(1750);

impl Pace {
    /// A serial line; `bits` are those of one character with start, parity and stop.
    #[must_use]
    pub fn serial(baud: u32, bits: u8) -> Self {
        // In even nanoseconds, so that 3.5 characters are a whole number of them and equal times are equal.
        let chars = |bits: u64| Duration::from_nanos(bits * 500_000_000 / u64::from(baud.max(1)) * 2);
        let silence = if baud > FIXED_SILENCE_ABOVE { FIXED_SILENCE } else { chars(SPEC_BITS) * 7 / 2 };
        Self {
            char_time: chars(bits.into()),
            silence,
            turnaround: Duration::ZERO,
            round_trip: Duration::ZERO,
        }
    }

    /// A network: the round trip counts, the bytes hardly. 2 ms are a switch and a PLC's cycle; 10 µs
    /// a byte are what small devices take to fetch a register.
    #[must_use]
    pub fn network() -> Self {
        Self {
            char_time: Duration::from_micros(5),
            silence: Duration::ZERO,
            turnaround: Duration::ZERO,
            round_trip: Duration::from_millis(2),
        }
    }

    /// Time of an exchange with so many characters in its request and its answer:
    /// `T = characters + silence + max(silence, turnaround) + round trip`.
    #[must_use]
    pub fn exchange(&self, chars: u32) -> Duration {
        self.char_time * chars + self.silence + self.silence.max(self.turnaround) + self.round_trip
    }

    /// Time of one block read. Request 8 characters, answer 5 and the data.
    #[must_use]
    pub fn read(&self, len: u16, bits: bool) -> Duration {
        self.exchange(13 + data_len(len, bits))
    }
}

/// Bytes that `len` bits or registers take in an answer.
#[must_use]
pub fn data_len(len: u16, bits: bool) -> u32 {
    if bits { u32::from(len).div_ceil(8) } else { u32::from(len) * 2 }
}

/// One block read: what it reads, and which of the wanted spans it serves (indices).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// All that is read.
    pub span: Span,
    /// Indices of the spans inside, in address order.
    pub wanted: Vec<usize>,
}

/// The cheapest block reads for `wanted`, in address order. Every wanted span is in exactly one of
/// them; none is longer than the limit, except for a single span that is longer itself.
#[must_use]
pub fn plan(wanted: &[Span], limits: Limits, cost: impl Fn(u16) -> Duration) -> Vec<Run> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|i| (wanted[*i].start, wanted[*i].len));
    // best[j]: least time for the first j spans, and where the last of their blocks begins.
    let mut best: Vec<(Duration, usize)> = vec![(Duration::ZERO, 0)];
    // Blocks that begin at `from` grow until a limit stops them; all best[..=from] are final by then.
    let mut reach: Vec<Option<(Duration, usize)>> = vec![None; wanted.len() + 1];
    for from in 0..order.len() {
        let (so_far, _) = best[from];
        let first = wanted[order[from]];
        let mut end = first.end();
        for (to, index) in order.iter().enumerate().skip(from) {
            let next = wanted[*index];
            let gap = u32::from(next.start).saturating_sub(end);
            end = end.max(next.end());
            let len = u16::try_from(end - u32::from(first.start)).unwrap_or(u16::MAX);
            if to > from && (len > limits.max_len || gap > u32::from(limits.max_gap)) {
                break;
            }
            let total = so_far.saturating_add(cost(len));
            // `<=` would cut later; `<` prefers the earliest start, so the fewest blocks.
            if reach[to + 1].is_none_or(|(old, _)| total < old) {
                reach[to + 1] = Some((total, from));
            }
        }
        // A block of the one span `from` always reaches `from + 1`.
        best.push(reach[from + 1].unwrap_or((so_far, from)));
    }
    let mut runs = Vec::new();
    let mut upto = order.len();
    while upto > 0 {
        let from = best[upto].1;
        runs.push(run_of(wanted, order[from..upto].to_vec()));
        upto = from;
    }
    runs.reverse();
    runs
}

/// The smallest run over these spans.
fn run_of(wanted: &[Span], indices: Vec<usize>) -> Run {
    let start = indices.iter().map(|i| wanted[*i].start).min().unwrap_or_default();
    let end = indices.iter().map(|i| wanted[*i].end()).max().unwrap_or_default();
    let len = u16::try_from(end.saturating_sub(u32::from(start))).unwrap_or(u16::MAX);
    Run { span: Span { start, len }, wanted: indices }
}

/// What to try when a device refuses a whole run: first the stretches between its gaps, then span by
/// span (equal spans stay together). `None` if there is only one span left.
#[must_use]
pub fn split(wanted: &[Span], run: &Run) -> Option<Vec<Run>> {
    let mut at_gaps: Vec<Vec<usize>> = Vec::new();
    let mut by_span: Vec<Vec<usize>> = Vec::new();
    let (mut end, mut last) = (0, None);
    for &i in &run.wanted {
        let span = wanted[i];
        match at_gaps.last_mut() {
            Some(stretch) if u32::from(span.start) <= end => stretch.push(i),
            _ => at_gaps.push(vec![i]),
        }
        match by_span.last_mut() {
            Some(same) if last == Some(span) => same.push(i),
            _ => by_span.push(vec![i]),
        }
        end = end.max(span.end());
        last = Some(span);
    }
    let parts = if at_gaps.len() > 1 { at_gaps } else { by_span };
    (parts.len() > 1).then(|| parts.into_iter().map(|p| run_of(wanted, p)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FREE: Limits = Limits { max_len: 125, max_gap: u16::MAX };

    fn registers(baud: u32) -> impl Fn(u16) -> Duration {
        move |len| Pace::serial(baud, 11).read(len, false)
    }

    #[test]
    fn gaps_are_read_through_as_long_as_that_is_cheaper() {
        for (baud, worthwhile) in [(9600, 10), (19_200, 10), (38_400, 12), (115_200, 24)] {
            for gap in 0..40 {
                let wanted = [Span { start: 0, len: 2 }, Span { start: 2 + gap, len: 2 }];
                let blocks = plan(&wanted, FREE, registers(baud)).len();
                assert_eq!(blocks == 1, gap <= worthwhile, "{baud} baud, gap {gap}");
            }
        }
    }

    #[test]
    fn time_of_a_read_as_computed_by_hand() {
        // 19200 8E1: 13 + 60 characters of 0.573 ms, and twice 2.005 ms of silence.
        let time = Pace::serial(19_200, 11).read(30, false);
        assert!((time.as_secs_f64() - 0.045_833).abs() < 1e-6, "{time:?}");
        assert_eq!(Pace::serial(115_200, 11).silence, Duration::from_micros(1750));
    }

    #[test]
    fn a_network_reads_through_wide_gaps() {
        let wanted = [Span { start: 0, len: 1 }, Span { start: 120, len: 1 }, Span { start: 130, len: 1 }];
        let runs = plan(&wanted, FREE, |len| Pace::network().read(len, false));
        let lens: Vec<u16> = runs.iter().map(|r| r.span.len).collect();
        assert_eq!(lens.len(), 2, "{runs:?}");
    }

    #[test]
    fn a_refused_run_is_split_at_its_gaps_and_then_by_span() {
        let wanted = [(0, 2), (2, 2), (2, 2), (8, 1)].map(|(start, len)| Span { start, len });
        let whole = plan(&wanted, FREE, registers(9600));
        assert_eq!(whole.len(), 1);
        let at_gaps = split(&wanted, &whole[0]).expect("there is a gap");
        assert_eq!(
            at_gaps.iter().map(|r| r.span).collect::<Vec<_>>(),
            [Span { start: 0, len: 4 }, wanted[3]]
        );
        let by_span = split(&wanted, &at_gaps[0]).expect("two spans");
        assert_eq!(by_span.iter().map(|r| r.wanted.clone()).collect::<Vec<_>>(), [vec![0], vec![1, 2]]);
        assert_eq!(split(&wanted, &by_span[1]), None);
        assert_eq!(split(&wanted, &at_gaps[1]), None);
    }

    fn total(runs: &[Run], cost: &impl Fn(u16) -> Duration) -> Duration {
        runs.iter().map(|r| cost(r.span.len)).sum()
    }

    /// The least time over all ways to put spans into blocks, in any order.
    fn brute_force(wanted: &[Span], max_len: u16, cost: &impl Fn(u16) -> Duration) -> Duration {
        let Some((first, _)) = wanted.split_first() else { return Duration::ZERO };
        let rest = wanted.len() - 1;
        let mut least = Duration::MAX;
        for choice in 0u32..1 << rest {
            let mut with = vec![*first];
            let mut without = Vec::new();
            for (i, span) in wanted[1..].iter().enumerate() {
                if choice >> i & 1 == 1 { with.push(*span) } else { without.push(*span) }
            }
            let run = run_of(&with, (0..with.len()).collect());
            if run.span.len <= max_len {
                least = least.min(cost(run.span.len) + brute_force(&without, max_len, cost));
            }
        }
        least
    }

    fn spans(count: usize, within: u16) -> impl Strategy<Value = Vec<Span>> {
        prop::collection::vec((0..within, 1u16..=4).prop_map(|(start, len)| Span { start, len }), 0..count)
    }

    proptest! {
        #[test]
        fn every_span_is_read_once_and_no_block_is_too_long(
            wanted in spans(60, 2000), max_len in 4u16..=125, max_gap in 0u16..40,
        ) {
            let limits = Limits { max_len, max_gap };
            let cost = registers(19_200);
            let runs = plan(&wanted, limits, &cost);
            let mut read = vec![0; wanted.len()];
            for run in &runs {
                prop_assert!(run.span.len <= max_len);
                for i in &run.wanted {
                    read[*i] += 1;
                    prop_assert!(run.span.start <= wanted[*i].start && wanted[*i].end() <= run.span.end());
                }
                let mut end = u32::from(run.span.start);
                for i in &run.wanted {
                    prop_assert!(u32::from(wanted[*i].start) <= end + u32::from(max_gap));
                    end = end.max(wanted[*i].end());
                }
            }
            prop_assert!(read.iter().all(|n| *n == 1));
            let naive: Duration = wanted.iter().map(|s| cost(s.len)).sum();
            prop_assert!(total(&runs, &cost) <= naive);
        }

        #[test]
        fn no_other_plan_is_faster(wanted in spans(8, 60), max_len in 4u16..=40, slow: bool) {
            let cost = registers(if slow { 9600 } else { 115_200 });
            let runs = plan(&wanted, Limits { max_len, max_gap: u16::MAX }, &cost);
            prop_assert_eq!(total(&runs, &cost), brute_force(&wanted, max_len, &cost));
        }

        #[test]
        fn splitting_loses_no_span(wanted in spans(30, 100)) {
            for run in plan(&wanted, FREE, registers(9600)) {
                let Some(parts) = split(&wanted, &run) else { continue };
                let mut all: Vec<usize> = parts.iter().flat_map(|p| p.wanted.clone()).collect();
                all.sort_unstable();
                let mut before = run.wanted.clone();
                before.sort_unstable();
                prop_assert_eq!(all, before);
                prop_assert!(parts.len() > 1);
            }
        }
    }
}
