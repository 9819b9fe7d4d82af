//! Registers as everything they could be: every type in every word order, and which of them are plausible. Pure.

use std::fmt::Write as _;

use driver_api::Value;
use driver_api::decode::{Kind, WordOrder, decode};
use serde::Serialize;

/// One way to read some registers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decoding {
    /// The first register, counted from the first that was read.
    pub offset: usize,
    /// The type's word in the configuration.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The word order's word in the configuration.
    pub word_order: &'static str,
    /// The value; text for what JSON cannot hold exactly.
    pub value: String,
    /// Whether it looks like something that was measured or set.
    pub plausible: bool,
}

const ORDERS: [(&str, WordOrder); 4] = [
    ("ABCD", WordOrder::Abcd),
    ("CDAB", WordOrder::Cdab),
    ("BADC", WordOrder::Badc),
    ("DCBA", WordOrder::Dcba),
];

/// One register: unsigned and signed.
const ONE: &[(&str, Kind)] = &[("u16", Kind::U16), ("i16", Kind::I16)];
/// Two.
const TWO: &[(&str, Kind)] = &[("u32", Kind::U32), ("i32", Kind::I32), ("f32", Kind::F32)];
/// Four.
const FOUR: &[(&str, Kind)] = &[("u64", Kind::U64), ("i64", Kind::I64), ("f64", Kind::F64)];

/// Whole numbers above this are counters of nothing on a field bus (in 32 bits, in 64 bits).
const LARGE: (i128, i128) = (1_000_000_000, 1_000_000_000_000);
/// Smallest and largest magnitude of a float that is believed.
const FLOATS: (f64, f64) = (1e-4, 1e9);

/// Every decoding of these registers.
#[must_use]
pub fn decodings(words: &[u16]) -> Vec<Decoding> {
    let mut all = Vec::new();
    for offset in 0..words.len() {
        for (kinds, registers) in [(ONE, 1), (TWO, 2), (FOUR, 4)] {
            let Some(part) = words.get(offset..offset + registers) else { continue };
            // A byte order of one register is a matter of its two bytes alone.
            let orders = if registers == 1 { &[ORDERS[0], ORDERS[2]][..] } else { &ORDERS[..] };
            for &(word_order, order) in orders {
                for &(kind, as_kind) in kinds {
                    let Ok(value) = decode(as_kind, order, part) else { continue };
                    let plausible = plausible(registers, order, as_kind, &value);
                    all.push(Decoding { offset, kind, word_order, value: value.to_string(), plausible });
                }
            }
        }
    }
    for (word_order, order) in [ORDERS[0], ORDERS[2]] {
        if let Some(value) = text(words, order) {
            all.push(Decoding { offset: 0, kind: "string", word_order, value, plausible: true });
        }
    }
    all
}

fn plausible(registers: usize, order: WordOrder, kind: Kind, value: &Value) -> bool {
    let whole = |n: i128| match registers {
        // Swapped bytes of one register are rare enough not to be shown beside the straight ones.
        1 => order == WordOrder::Abcd && (kind == Kind::U16 || n < 0),
        2 => n.abs() <= LARGE.0 && (matches!(kind, Kind::U32) || n < 0),
        _ => n.abs() <= LARGE.1 && (matches!(kind, Kind::U64) || n < 0),
    };
    match value {
        Value::Float(x) => *x == 0.0 || (FLOATS.0..=FLOATS.1).contains(&x.abs()),
        other => other.to_string().parse().is_ok_and(whole),
    }
}

/// The registers as text, if all of it is printable and there is some.
fn text(words: &[u16], order: WordOrder) -> Option<String> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| order.swap(*word).to_be_bytes()).collect();
    let end = bytes.iter().rposition(|byte| !matches!(byte, 0 | b' ')).map_or(0, |at| at + 1);
    let shown = bytes.get(..end)?;
    let printable = shown.iter().all(|byte| (0x20..0x7F).contains(byte));
    (printable && shown.len() >= 2).then(|| String::from_utf8_lossy(shown).into_owned())
}

/// A register as packed decimals, `0x1234` as 1234; `None` if a digit is none.
#[must_use]
pub fn bcd(word: u16) -> Option<u16> {
    (0..4).rev().try_fold(0, |sum, digit| {
        let nibble = word >> (digit * 4) & 0xF;
        (nibble <= 9).then_some(sum * 10 + nibble)
    })
}

/// The plausible ones as tables for a person. `first` is the address of the first register, `area` its table.
#[must_use]
pub fn tables(area: &str, first: u16, words: &[u16]) -> String {
    let all = decodings(words);
    let at = |offset: usize| u32::from(first) + u32::try_from(offset).unwrap_or(0);
    let find = |offset, kind, order| {
        all.iter().find(|d| (d.offset, d.kind, d.word_order) == (offset, kind, order) && d.plausible)
    };
    let cell = |offset, kind, order| find(offset, kind, order).map_or("", |d| d.value.as_str());
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "  {:<16} {:<5} {:>6} {:>7} {:>5}  {:<19}",
        "register", "hex", "u16", "i16", "bcd", "bits 15..0"
    );
    for (offset, word) in words.iter().enumerate() {
        let digits = bcd(*word).filter(|_| *word > 9).map_or(String::new(), |n| n.to_string());
        let bits = format!("{word:016b}");
        let bits: Vec<&str> = (0..4).filter_map(|n| bits.get(n * 4..n * 4 + 4)).collect();
        let row = format!(
            "  {:<16} {word:04X}  {:>6} {:>7} {digits:>5}  {:<19}",
            format!("{area}:{}", at(offset)),
            cell(offset, "u16", "ABCD"),
            cell(offset, "i16", "ABCD"),
            bits.join(" "),
        );
        let _ = writeln!(out, "{}", row.trim_end());
    }
    for (kinds, registers) in [(TWO, 2), (FOUR, 4)] {
        let mut rows = String::new();
        for offset in 0..words.len().saturating_sub(registers - 1) {
            for (word_order, _) in ORDERS {
                let cells: Vec<&str> = kinds.iter().map(|(kind, _)| cell(offset, kind, word_order)).collect();
                if cells.iter().all(|cell| cell.is_empty()) {
                    continue;
                }
                let from = format!("{area}:{}..{}", at(offset), at(offset + registers - 1));
                let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>16}")).collect();
                let _ = writeln!(
                    rows,
                    "{}",
                    format!("  {from:<22} {word_order}  {}", cells.join(" ")).trim_end()
                );
            }
        }
        if !rows.is_empty() {
            let heads: Vec<String> = kinds.iter().map(|(kind, _)| format!("{kind:>16}")).collect();
            let _ = writeln!(out, "  {:<22} order {}", "registers", heads.join(" "));
            out.push_str(&rows);
        }
    }
    for text in all.iter().filter(|d| d.kind == "string") {
        let _ = writeln!(out, "  string {} {:?}", text.word_order, text.value);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(words: &[u16], kind: &str, order: &str) -> Option<(String, bool)> {
        let all = decodings(words);
        all.iter()
            .find(|d| (d.offset, d.kind, d.word_order) == (0, kind, order))
            .map(|d| (d.value.clone(), d.plausible))
    }

    #[test]
    fn the_right_order_of_a_float_is_plausible_and_the_wrong_ones_are_not() {
        // 230.1 V as ABCD.
        let words = [0x4366, 0x199A];
        let (value, plausible) = seen(&words, "f32", "ABCD").expect("a float");
        assert!(value.starts_with("230.1") && plausible, "{value}");
        for order in ["CDAB", "BADC", "DCBA"] {
            assert!(seen(&words, "f32", order).is_none_or(|(_, plausible)| !plausible), "{order}");
        }
        let text = tables("input", 6, &words);
        assert!(text.contains("input:6..7") && text.contains("230.1"), "{text}");
        assert_eq!(text.matches("ABCD").count(), 1, "one order is left:\n{text}");
    }

    #[test]
    fn small_numbers_signs_digits_bits_and_text() {
        assert_eq!(seen(&[215], "u16", "ABCD"), Some(("215".into(), true)));
        assert_eq!(seen(&[215], "i16", "ABCD"), Some(("215".into(), false)), "the same number once");
        assert_eq!(seen(&[0xFFD8], "i16", "ABCD"), Some(("-40".into(), true)));
        assert_eq!(seen(&[0, 70_00], "u32", "ABCD"), Some(("7000".into(), true)));
        assert_eq!(seen(&[7000, 0], "u32", "CDAB"), Some(("7000".into(), true)));
        assert_eq!(seen(&[0, 0, 0, 1234], "u64", "ABCD"), Some(("1234".into(), true)));
        assert_eq!((bcd(0x1234), bcd(0x12A4), bcd(0)), (Some(1234), None, Some(0)));
        assert_eq!(seen(&[0x5344, 0x4D36, 0x3300], "string", "ABCD"), Some(("SDM63".into(), true)));
        assert_eq!(seen(&[0x4453, 0x364D], "string", "BADC"), Some(("SDM6".into(), true)));
        assert!(tables("holding", 0, &[0b101]).contains("0000 0000 0000 0101"));
    }

    proptest! {
        #[test]
        fn no_registers_panic(words in prop::collection::vec(any::<u16>(), 0..12), first: u16) {
            let text = tables("holding", first, &words);
            prop_assert!(text.lines().count() > words.len());
            prop_assert!(decodings(&words).iter().all(|d| !d.value.is_empty()));
        }
    }
}
