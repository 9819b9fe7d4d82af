//! The types, byte orders and bit fields that a point can have, and the words for them.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::table::nearest;

/// Most bytes of a `string:N`: what 125 registers, one full request, hold.
pub const MAX_TEXT: u16 = 250;

/// What the registers of a point mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One bit; in a register, false is 0 and everything else true.
    Bool,
    /// Unsigned, 16 bits.
    U16,
    /// Two's complement, 16 bits.
    I16,
    /// Unsigned, 32 bits.
    U32,
    /// Two's complement, 32 bits.
    I32,
    /// Unsigned, 64 bits.
    U64,
    /// Two's complement, 64 bits.
    I64,
    /// IEEE 754, 32 bits.
    F32,
    /// IEEE 754, 64 bits.
    F64,
    /// So many bytes of text (1 to [`MAX_TEXT`]), two in a register.
    Text(u16),
    /// Packed BCD, four digits.
    Bcd16,
    /// Packed BCD, eight digits.
    Bcd32,
    /// Packed BCD, sixteen digits.
    Bcd64,
    /// A date with the time of day, given as text.
    Time(TimeForm),
}

/// How a device says what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimeForm {
    /// Seconds since 1970 in UTC, as a `u32`.
    Unix,
    /// Four registers in the layout of IEC 870-5-4 (CP56Time2a), which Schneider calls TI081 and DATETIME.
    Iec870,
    /// Six registers: year (or year less 2000), month, day, hour, minute, second.
    Ymdhms,
    /// The same, but the year is always less 2000: what is written says which of the two the device wants.
    Yymdhms,
    /// Three registers of packed BCD: `YYMM`, `DDhh`, `mmss`.
    Bcd,
}

/// The words of [`Kind`] but `string:N`.
pub(super) const WORDS: &[(&str, Kind)] = &[
    ("bool", Kind::Bool),
    ("u16", Kind::U16),
    ("i16", Kind::I16),
    ("u32", Kind::U32),
    ("i32", Kind::I32),
    ("u64", Kind::U64),
    ("i64", Kind::I64),
    ("f32", Kind::F32),
    ("f64", Kind::F64),
    ("bcd16", Kind::Bcd16),
    ("bcd32", Kind::Bcd32),
    ("bcd64", Kind::Bcd64),
    ("time:unix", Kind::Time(TimeForm::Unix)),
    ("time:iec870", Kind::Time(TimeForm::Iec870)),
    ("time:ymdhms", Kind::Time(TimeForm::Ymdhms)),
    ("time:yymdhms", Kind::Time(TimeForm::Yymdhms)),
    ("time:bcd", Kind::Time(TimeForm::Bcd)),
];

impl Kind {
    /// How many registers it takes, 1 to 125.
    #[must_use]
    pub const fn registers(self) -> u16 {
        match self {
            Self::Bool | Self::U16 | Self::I16 | Self::Bcd16 => 1,
            Self::U32 | Self::I32 | Self::F32 | Self::Bcd32 | Self::Time(TimeForm::Unix) => 2,
            Self::Time(TimeForm::Bcd) => 3,
            Self::U64 | Self::I64 | Self::F64 | Self::Bcd64 | Self::Time(TimeForm::Iec870) => 4,
            Self::Time(TimeForm::Ymdhms | TimeForm::Yymdhms) => 6,
            Self::Text(bytes) => bytes.div_ceil(2),
        }
    }

    /// Whether its values are text: strings and times.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Text(_) | Self::Time(_))
    }

    /// Whether its values are numbers with a point.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(bytes) => write!(f, "string:{bytes}"),
            other => f.write_str(WORDS.iter().find(|(_, k)| k == other).map_or("?", |(w, _)| w)),
        }
    }
}

impl FromStr for Kind {
    type Err = String;
    /// From the word in the configuration.
    ///
    /// # Errors
    /// What is wrong with the word, with the nearest right one where there is one.
    fn from_str(word: &str) -> Result<Self, String> {
        if let Some((_, kind)) = WORDS.iter().find(|(w, _)| *w == word) {
            return Ok(*kind);
        }
        if let Some(length) = word.strip_prefix("string:") {
            return match length.parse() {
                Ok(bytes @ 1..=MAX_TEXT) => Ok(Self::Text(bytes)),
                _ => Err(format!("a string has 1 to {MAX_TEXT} bytes, as in string:16")),
            };
        }
        if word == "string" {
            return Err("say how many bytes, as in string:16".to_owned());
        }
        if word == "time" {
            return Err(
                "say in which form: time:unix, time:iec870, time:ymdhms, time:yymdhms or time:bcd".to_owned()
            );
        }
        // Words of other programs for the same things.
        let other = match word.to_ascii_lowercase().as_str() {
            "float" | "float32" | "real" => Some("f32"),
            "double" | "float64" => Some("f64"),
            "uint16" | "word" => Some("u16"),
            "int16" | "int" => Some("i16"),
            "uint32" | "dword" => Some("u32"),
            "int32" => Some("i32"),
            "uint64" => Some("u64"),
            "int64" => Some("i64"),
            "boolean" | "bit" => Some("bool"),
            "bcd" => Some("bcd16"),
            "unixtime" | "timestamp" | "time:unix32" => Some("time:unix"),
            "datetime" | "ti081" | "time:ti081" | "time:cp56time2a" => Some("time:iec870"),
            _ => None,
        };
        let known: Vec<&str> = WORDS.iter().map(|(w, _)| *w).collect();
        match other.or_else(|| nearest(word, &known)) {
            Some(near) => Err(format!("did you mean `{near}`?")),
            None => Err(format!("it is one of {}, string:N", known.join(", "))),
        }
    }
}

/// In which order the bytes of a value stand in its registers; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize, JsonSchema)]
pub enum WordOrder {
    /// Big-endian, the order of the specification.
    #[default]
    #[serde(rename = "ABCD")]
    Abcd,
    /// The low register first.
    #[serde(rename = "CDAB")]
    Cdab,
    /// The low byte first in each register.
    #[serde(rename = "BADC")]
    Badc,
    /// Little-endian.
    #[serde(rename = "DCBA")]
    Dcba,
}

impl WordOrder {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Abcd, Self::Cdab, Self::Badc, Self::Dcba];

    pub(super) fn low_register_first(self) -> bool {
        matches!(self, Self::Cdab | Self::Dcba)
    }

    fn low_byte_first(self) -> bool {
        matches!(self, Self::Badc | Self::Dcba)
    }

    /// Puts the bytes of one register into, or out of, the order of the wire.
    #[must_use]
    pub fn swap(self, register: u16) -> u16 {
        if self.low_byte_first() { register.swap_bytes() } else { register }
    }
}

/// The bits `first` to `last` of a register, both included, 0 the least significant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bits {
    pub(super) first: u8,
    pub(super) last: u8,
}

impl Bits {
    /// Bits `first` to `last`; `None` unless `first <= last <= 15`.
    #[must_use]
    pub const fn new(first: u8, last: u8) -> Option<Self> {
        if first <= last && last <= 15 { Some(Self { first, last }) } else { None }
    }

    /// The lowest bit.
    #[must_use]
    pub const fn first(self) -> u8 {
        self.first
    }

    /// The highest bit.
    #[must_use]
    pub const fn last(self) -> u8 {
        self.last
    }

    /// The highest value that fits, 1 to 65535.
    #[must_use]
    pub const fn max(self) -> u16 {
        u16::MAX >> (15 - (self.last - self.first))
    }

    /// Ones where these bits stand in a register (before any byte swap).
    #[must_use]
    pub const fn mask(self) -> u16 {
        self.max() << self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_words_are_read_and_slips_are_corrected() {
        for (word, kind) in WORDS {
            assert_eq!((word.parse(), kind.to_string()), (Ok(*kind), (*word).to_owned()));
        }
        assert_eq!("string:8".parse(), Ok(Kind::Text(8)));
        assert_eq!("float".parse::<Kind>(), Err("did you mean `f32`?".to_owned()));
        assert_eq!("TI081".parse::<Kind>(), Err("did you mean `time:iec870`?".to_owned()));
        for wrong in ["string:0", "string:251", "string:", "string", "time", "time:", "u8", ""] {
            assert!(wrong.parse::<Kind>().is_err(), "{wrong}");
        }
    }
}
