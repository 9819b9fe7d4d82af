//! What a scan asks, and how long that takes. Pure.

use std::fmt;
use std::time::Duration;

/// Speeds that devices leave the factory with, most usual first.
pub const BAUDS: &[u32] = &[9600, 19_200, 38_400, 115_200];

/// Settings of a serial line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bits per second.
    pub baud: u32,
    /// Parity of each character.
    pub parity: Parity,
    /// Stop bits of each character.
    pub stop_bits: u8,
}

/// Parity of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Parity {
    /// No parity bit.
    None,
    /// Even.
    Even,
    /// Odd.
    Odd,
}

impl Parity {
    /// The word in the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Even => "even",
            Self::Odd => "odd",
        }
    }
}

/// `19200 8E1`.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        write!(f, "{} 8{parity}{}", self.baud, self.stop_bits)
    }
}

/// Every combination, speeds first: most devices differ in that.
#[must_use]
pub fn combinations(bauds: &[u32], parities: &[Parity], stop_bits: &[u8]) -> Vec<Settings> {
    let mut all = Vec::new();
    for &baud in bauds {
        for &parity in parities {
            all.extend(stop_bits.iter().map(|&stop_bits| Settings { baud, parity, stop_bits }));
        }
    }
    all
}

/// The numbers of `"1-20,32,40-47"`, each once, in order.
///
/// # Errors
/// What is wrong with the text.
pub fn numbers(text: &str) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            text.trim().parse::<u8>().map_err(|_| format!("`{part}` is no unit id or range, such as 1-247"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("`{part}` ends before it begins"));
        }
        all.extend(first..=last);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// How long it takes to ask one unit that is not there.
#[must_use]
pub fn cost(settings: Option<Settings>, wait: Duration, requests: usize) -> Duration {
    // A request of 8 characters of 11 bits, and 20 ms in which the line must prove to be quiet after a silence.
    let line = settings.map_or(Duration::ZERO, |s| {
        Duration::from_secs_f64(8.0 * 11.0 / f64::from(s.baud.max(1))) + Duration::from_millis(20)
    });
    (wait + line) * u32::try_from(requests).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_ranges() {
        assert_eq!(numbers("3, 1-2,2"), Ok(vec![1, 2, 3]));
        assert_eq!(numbers("1-247").map(|all| all.len()), Ok(247));
        for wrong in ["", "x", "5-1", "1-300", "-3"] {
            assert!(numbers(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_estimate_of_a_full_scan_is_of_the_right_size() {
        let all = combinations(BAUDS, &[Parity::None, Parity::Even], &[1]);
        assert_eq!((all.len(), all[1].to_string().as_str()), (8, "9600 8E1"));
        let whole: Duration = all.iter().map(|s| cost(Some(*s), Duration::from_millis(200), 1) * 247).sum();
        assert!((430..450).contains(&whole.as_secs()), "{whole:?}");
    }
}
