//! Durations and sizes as the configuration writes them: `"500ms"`, `"64KiB"`.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

/// A length of time, written as a number with a unit: `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// A span of milliseconds.
    #[must_use]
    pub const fn ms(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }
    /// A span of seconds.
    #[must_use]
    pub const fn s(s: u64) -> Self {
        Self(Duration::from_secs(s))
    }
}

/// A number of bytes, written as a number with a unit: `B`, `KiB`, `MiB`, `GiB`, or `kB`, `MB`, `GB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// A size of mebibytes.
    #[must_use]
    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }
}

const TIME_UNITS: &[(&str, f64)] = &[("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3600e3), ("d", 86_400e3)];
const SIZE_UNITS: &[(&str, f64)] = &[
    ("B", 1.0),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
];

/// Splits `"1.5s"` into its number and the factor of its unit.
fn scaled(text: &str, units: &[(&str, f64)], example: &str) -> Result<f64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim());
    let wrong = || {
        let known: Vec<&str> = units.iter().map(|(u, _)| *u).collect();
        format!("`{text}` is not a number with a unit ({}), such as {example}", known.join(", "))
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    if unit.is_empty() && number == 0.0 {
        return Ok(0.0);
    }
    let factor = units.iter().find(|(u, _)| *u == unit).map(|(_, f)| *f).ok_or_else(wrong)?;
    let product = number * factor;
    if product.is_finite() && product < 1e18 { Ok(product) } else { Err(format!("`{text}` is too large")) }
}

impl std::str::FromStr for Span {
    type Err = String;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= ms < 1e18 was checked")]
    fn from_str(text: &str) -> Result<Self, String> {
        // Microseconds, so that "0.5ms" is not zero.
        Ok(Self(Duration::from_micros((scaled(text, TIME_UNITS, "\"500ms\"")?.min(1e15) * 1e3) as u64)))
    }
}

impl std::str::FromStr for ByteSize {
    type Err = String;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 <= bytes < 1e18 was checked"
    )]
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(scaled(text, SIZE_UNITS, "\"64KiB\"")? as u64))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.as_micros();
        for (unit, size) in
            [("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000)]
        {
            if us >= size && us.is_multiple_of(size) {
                return write!(f, "{}{unit}", us / size);
            }
        }
        if us == 0 { f.write_str("0s") } else { write!(f, "{}.{:03}ms", us / 1000, us % 1000) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{}{unit}", self.0 / size);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// Debug, serde and JSON Schema of a unit type that is written as a string.
macro_rules! written_as_text {
    ($type:ident, $name:literal, $description:literal, $pattern:literal) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "x-kind": $description })
            }
        }
    };
}
written_as_text!(Span, "Duration", "duration", r"^[0-9.]+(ms|s|m|h|d)$|^0$");
written_as_text!(ByteSize, "Size", "size", r"^[0-9.]+(B|KiB|MiB|GiB|kB|MB|GB)$|^0$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, ms) in
            [("500ms", 500), ("1s", 1000), ("1.5s", 1500), ("2m", 120_000), ("30d", 2_592_000_000)]
        {
            assert_eq!(text.parse::<Span>(), Ok(Span::ms(ms)), "{text}");
        }
        assert_eq!("1GiB".parse::<ByteSize>(), Ok(ByteSize(1 << 30)));
        assert_eq!("0".parse::<ByteSize>(), Ok(ByteSize(0)));
        for wrong in ["", "5", "5 weeks", "-1s", "1e99d", "ms", "1..5s", "9999999999999999999d"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["500ms", "1s", "90s", "30d", "1h"] {
            assert_eq!(text.parse::<Span>().map(|s| s.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(ByteSize(64 << 10).to_string(), "64KiB");
    }
}
