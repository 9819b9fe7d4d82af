//! Values, their quality, and what a driver hands up: a [`Sample`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

/// One value as the source gave it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A coil, a discrete input, a bit.
    Bool(bool),
    /// Signed and small unsigned integers.
    Int(i64),
    /// Unsigned 64-bit values beyond `i64`.
    UInt(u64),
    /// A finite number. Drivers never put NaN or an infinity here.
    Float(f64),
    /// Text.
    Text(Arc<str>),
}

impl Value {
    /// The value as a number; `None` for text.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a measurement beyond 2^53 is rounded, as in JSON")]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Bool(b) => Some(f64::from(u8::from(*b))),
            Self::Int(i) => Some(*i as f64),
            Self::UInt(u) => Some(*u as f64),
            Self::Float(f) => Some(*f),
            Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => b.fmt(f),
            Self::Int(i) => i.fmt(f),
            Self::UInt(u) => u.fmt(f),
            Self::Float(x) => x.fmt(f),
            Self::Text(t) => t.fmt(f),
        }
    }
}

/// How far a value can be trusted, in OPC UA's three severities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quality {
    /// Read from the device just now.
    Good,
    /// Plausible but unproven.
    Uncertain(Reason),
    /// No usable value.
    Bad(Reason),
}

impl Quality {
    /// The word in payloads: `good`, `uncertain` or `bad`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Uncertain(_) => "uncertain",
            Self::Bad(_) => "bad",
        }
    }

    /// Why, unless good.
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Good => None,
            Self::Uncertain(r) | Self::Bad(r) => Some(r),
        }
    }
}

/// Why a value is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The device did not answer in time.
    Timeout,
    /// The answer was corrupt.
    Crc,
    /// The answer was of the wrong shape, or another device's.
    Protocol,
    /// The device refused, with this Modbus exception code.
    Exception(u8),
    /// Outside the configured `min` and `max`, or a number that `values` does not list.
    OutOfRange,
    /// The last known value, from before a restart or a failure.
    Stale,
    /// Taken before the clock was set; the time is not to be trusted.
    ClockUnsynced,
    /// The sensor says of itself that this is no measurement (NaN, open circuit, power-on value).
    SensorFault,
    /// The whole bus is out of order.
    BusDown,
    /// The telegram did not match the pattern, or the field was no number.
    Parse,
}

impl Reason {
    /// The word in payloads (`timeout`, `exception_02`, …).
    #[must_use]
    pub fn word(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Timeout => "timeout",
            Self::Crc => "crc",
            Self::Protocol => "protocol",
            Self::Exception(code) => return Cow::Owned(format!("exception_{code:02x}")),
            Self::OutOfRange => "out_of_range",
            Self::Stale => "stale",
            Self::ClockUnsynced => "clock_unsynced",
            Self::SensorFault => "sensor_fault",
            Self::BusDown => "bus_down",
            Self::Parse => "parse",
        })
    }

    /// A stable number for storage: never reused, never renumbered.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Timeout => 1,
            Self::Crc => 2,
            Self::Protocol => 3,
            Self::OutOfRange => 4,
            Self::Stale => 5,
            Self::ClockUnsynced => 6,
            Self::SensorFault => 7,
            Self::BusDown => 8,
            Self::Parse => 9,
            Self::Exception(code) => 0x100 | u16::from(code),
        }
    }

    /// The reason with this stored number; `None` for a number of a later version.
    #[must_use]
    pub fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::Timeout,
            2 => Self::Crc,
            3 => Self::Protocol,
            4 => Self::OutOfRange,
            5 => Self::Stale,
            6 => Self::ClockUnsynced,
            7 => Self::SensorFault,
            8 => Self::BusDown,
            9 => Self::Parse,
            0x100..=0x1ff => Self::Exception((code & 0xff) as u8),
            _ => return None,
        })
    }
}

/// One point's value at one instant, as the driver hands it up.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Index into [`crate::Plan::points`].
    pub point: usize,
    /// The raw value, before scale and offset, or why there is none.
    pub value: Result<Value, Reason>,
    /// When the source was sampled.
    pub at: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_storage() {
        for code in 0..=0x2ff {
            if let Some(reason) = Reason::from_code(code) {
                assert_eq!(reason.code(), code);
            }
        }
        assert_eq!(Reason::from_code(Reason::Exception(2).code()), Some(Reason::Exception(2)));
        assert_eq!(Reason::Exception(2).word(), "exception_02");
    }
}
