//! What a scale says: telegrams such as `ST,GS,+  12.34kg`, how noise gets into them, and where the
//! bytes happen to be cut. Pure.

use super::ledger::Fate;
use crate::signals::{mix, unit};

/// How the number is filled up to its width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `ST,GS,+  12.34kg`
    Spaces,
    /// `ST,GS,+0012.34kg`
    Zeros,
}

/// The largest weight that fits the seven places, in hundredths of a kilogram.
pub(crate) const HEAVIEST: i64 = 999_999;

/// The telegram for a weight in hundredths of a kilogram, without its line end. Beyond what the
/// display can show, the scale says overload (`OL`) as real ones do.
pub(crate) fn telegram(hundredths: i64, style: Style) -> String {
    let sign = if hundredths < 0 { '-' } else { '+' };
    let size = hundredths.unsigned_abs();
    if size > HEAVIEST.unsigned_abs() {
        return "OL,GS,+-------kg".to_owned();
    }
    let number = format!("{}.{:02}", size / 100, size % 100);
    match style {
        Style::Spaces => format!("ST,GS,{sign}{number:>7}kg"),
        Style::Zeros => format!("ST,GS,{sign}{number:0>7}kg"),
    }
}

/// The bytes of a telegram on the wire, line end included, and what became of it. A share `noise` of
/// the telegrams has a few bytes of noise before it; a share `spoil` has a byte inside destroyed.
/// No noise byte is a printable character or a line end, so a spoiled telegram never looks like
/// another weight.
pub(crate) fn on_the_wire(text: &str, key: u64, noise: f64, spoil: f64) -> (Vec<u8>, Fate) {
    let dice = |n: u64| mix(key ^ mix(n));
    let mut bytes = Vec::with_capacity(text.len() + 8);
    if unit(dice(1)) < noise {
        bytes.extend((0..1 + dice(2) % 5).map(|n| noise_byte(dice(10 + n))));
    }
    let start = bytes.len();
    bytes.extend(text.bytes());
    let mut fate = Fate::Good;
    if unit(dice(3)) < spoil && !text.is_empty() {
        let hit = start + (dice(4) % text.len() as u64) as usize;
        bytes[hit] = noise_byte(dice(5));
        fate = Fate::Spoiled;
    }
    bytes.extend(b"\r\n");
    (bytes, fate)
}

/// A byte that is neither ASCII text nor a line end.
fn noise_byte(bits: u64) -> u8 {
    0x80 | (bits & 0x7f) as u8
}

/// Where the bytes are cut: the ends of pieces of one to seven bytes.
pub(crate) fn pieces(length: usize, key: u64) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut end = 0;
    while end < length {
        end = (end + 1 + (mix(key ^ mix(end as u64)) % 7) as usize).min(length);
        ends.push(end);
    }
    ends
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn telegrams_are_as_wide_as_the_makers_say() {
        assert_eq!(telegram(1234, Style::Spaces), "ST,GS,+  12.34kg");
        assert_eq!(telegram(-5, Style::Spaces), "ST,GS,-   0.05kg");
        assert_eq!(telegram(1234, Style::Zeros), "ST,GS,+0012.34kg");
        assert_eq!(telegram(HEAVIEST, Style::Spaces), "ST,GS,+9999.99kg");
        assert_eq!(telegram(HEAVIEST + 1, Style::Spaces), "OL,GS,+-------kg");
        assert_eq!(telegram(i64::MIN, Style::Spaces), "OL,GS,+-------kg");
    }

    proptest! {
        #[test]
        fn pieces_are_odd_but_whole(length in 0_usize..100, key: u64) {
            let ends = pieces(length, key);
            prop_assert_eq!(ends.last().copied().unwrap_or(0), length);
            prop_assert!(ends.windows(2).all(|w| w[0] < w[1] && w[1] - w[0] <= 7));
        }

        #[test]
        fn noise_never_changes_the_text_and_spoil_always_shows(key: u64, weight in -1000_i64..100_000) {
            let text = telegram(weight, Style::Spaces);
            let (noisy, fate) = on_the_wire(&text, key, 1.0, 0.0);
            prop_assert_eq!(fate, Fate::Good);
            let plain: Vec<u8> = noisy.iter().copied().filter(u8::is_ascii).collect();
            prop_assert_eq!(plain, format!("{text}\r\n").into_bytes());
            prop_assert!(noisy.len() > text.len() + 2);
            let (spoiled, fate) = on_the_wire(&text, key, 0.0, 1.0);
            prop_assert_eq!(fate, Fate::Spoiled);
            prop_assert_eq!(spoiled.iter().filter(|b| !b.is_ascii()).count(), 1);
        }
    }
}
