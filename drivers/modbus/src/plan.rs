//! What block reads are made of: spans, limits, and what time things take by the bus's own clock.
//!
//! Pure. A request costs the same however short it is, so reading registers nobody asked for can be
//! cheaper than asking twice: up to 10 at 9600 and 19200 baud, 12 at 38400, 24 at 115200. Which
//! registers to read together is decided in [`crate::cover`].

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

    /// The same bus as seen by a device whose answers were measured to begin so long after its requests.
    #[must_use]
    pub fn measured(self, answer_begins: Duration) -> Self {
        // On a network the round trip is in it; on a line the first character, which counts by itself.
        let turnaround = answer_begins.saturating_sub(self.char_time);
        Self { turnaround, round_trip: Duration::ZERO, ..self }
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

/// The smallest run over these spans.
pub(crate) fn run_of(span: impl Fn(usize) -> Span, indices: Vec<usize>) -> Run {
    let start = indices.iter().map(|i| span(*i).start).min().unwrap_or_default();
    let end = indices.iter().map(|i| span(*i).end()).max().unwrap_or_default();
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
    (parts.len() > 1).then(|| parts.into_iter().map(|p| run_of(|i| wanted[i], p)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_of_a_read_as_computed_by_hand() {
        // 19200 8E1: 13 + 60 characters of 0.573 ms, and twice 2.005 ms of silence.
        let time = Pace::serial(19_200, 11).read(30, false);
        assert!((time.as_secs_f64() - 0.045_833).abs() < 1e-6, "{time:?}");
        assert_eq!(Pace::serial(115_200, 11).silence, Duration::from_micros(1750));
    }

    #[test]
    fn a_refused_run_is_split_at_its_gaps_and_then_by_span() {
        let wanted = [(0, 2), (2, 2), (2, 2), (8, 1)].map(|(start, len)| Span { start, len });
        let whole = run_of(|i| wanted[i], vec![0, 1, 2, 3]);
        let at_gaps = split(&wanted, &whole).expect("there is a gap");
        assert_eq!(
            at_gaps.iter().map(|r| r.span).collect::<Vec<_>>(),
            [Span { start: 0, len: 4 }, wanted[3]]
        );
        let by_span = split(&wanted, &at_gaps[0]).expect("two spans");
        assert_eq!(by_span.iter().map(|r| r.wanted.clone()).collect::<Vec<_>>(), [vec![0], vec![1, 2]]);
        assert_eq!(split(&wanted, &by_span[1]), None);
        assert_eq!(split(&wanted, &at_gaps[1]), None);
    }

    proptest! {
        #[test]
        fn splitting_loses_no_span(spans in prop::collection::vec((0u16..100, 1u16..=4), 1..30)) {
            let mut wanted: Vec<Span> = spans.into_iter().map(|(start, len)| Span { start, len }).collect();
            wanted.sort_unstable();
            let run = run_of(|i| wanted[i], (0..wanted.len()).collect());
            if let Some(parts) = split(&wanted, &run) {
                let mut all: Vec<usize> = parts.iter().flat_map(|p| p.wanted.clone()).collect();
                all.sort_unstable();
                prop_assert_eq!(all, run.wanted);
                prop_assert!(parts.len() > 1);
            }
        }
    }
}
