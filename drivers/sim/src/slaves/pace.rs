//! The pace of a serial line. A pseudo-terminal has no speed, so a simulated device must take its
//! time: the times are computed here (pure), and [`driver_tty::Alarm`] waits for them.

use std::time::Duration;

use tokio::time::Instant;

use crate::bounds;

/// A serial line with 11 bits to a character: start, eight data, parity or second stop, stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    baud: u32,
}

impl Line {
    /// A line of this many bits a second; `None` for zero.
    #[must_use]
    pub fn new(baud: u32) -> Option<Self> {
        (baud > 0).then_some(Self { baud })
    }

    /// The time that so many characters take.
    #[must_use]
    pub fn chars(self, count: usize) -> Duration {
        Duration::from_nanos((count as u64).saturating_mul(11_000_000_000) / u64::from(self.baud))
    }

    /// The silence between two frames of Modbus RTU: 3.5 characters, but 1.75 ms above 19200 baud
    /// (Modbus over Serial Line V1.02, 2.5.1.1).
    #[must_use]
    pub fn gap(self) -> Duration {
        if self.baud > 19_200 { Duration::from_micros(1750) } else { self.chars(7) / 2 }
    }

    /// How `length` bytes leave: up to which byte, how long after the first bit began. Every burst
    /// leaves when its last character would have ended, so none is early and the last is exact.
    pub(crate) fn bursts(self, length: usize) -> impl Iterator<Item = (usize, Duration)> {
        let burst = (bounds::BURST.as_nanos() / self.chars(1).as_nanos().max(1)).max(1) as usize;
        (0..length.div_ceil(burst)).map(move |n| {
            let end = ((n + 1) * burst).min(length);
            (end, self.chars(end))
        })
    }
}

/// The moment so long after `at`; beyond what a clock can show, some thirty years after.
pub(crate) fn later(at: Instant, by: Duration) -> Instant {
    const THIRTY_YEARS: Duration = Duration::from_secs(30 * 365 * 86_400);
    at + by.min(THIRTY_YEARS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_standards_own_figures() {
        let line = |baud| Line::new(baud).expect("not zero");
        assert_eq!(line(9600).chars(1), Duration::from_nanos(1_145_833));
        assert_eq!(line(19_200).gap(), Duration::from_nanos(2_005_208));
        assert_eq!(line(38_400).gap(), Duration::from_micros(1750));
        assert_eq!(Line::new(0), None);
    }

    proptest! {
        #[test]
        fn bursts_carry_every_byte_once_and_never_early(baud in 50_u32..5_000_000, length in 0_usize..300) {
            let line = Line { baud };
            let mut done = 0;
            for (end, at) in line.bursts(length) {
                prop_assert!(end > done && end <= length);
                prop_assert_eq!(at, line.chars(end));
                done = end;
            }
            prop_assert_eq!(done, length);
        }
    }
}
