//! What one simulated point gives at one moment, in its configured type. Pure.

use std::sync::Arc;
use std::time::Duration;

use driver_api::Value;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::signals::{Signal, steps};

/// The type of a simulated point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A floating-point number.
    F64,
    /// A whole number; the signal is rounded.
    I64,
    /// True while the signal is above the middle of its range.
    Bool,
    /// Text; a number is written out.
    String,
}

impl Kind {
    /// The word in the configuration.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::I64 => "i64",
            Self::Bool => "bool",
            Self::String => "string",
        }
    }

    /// What is kept when `value` is written to a point of this type; `None` if it does not fit.
    #[must_use]
    pub fn fit(self, value: &Value) -> Option<Value> {
        match (self, value) {
            (Self::F64, value) => value.as_f64().filter(|x| x.is_finite()).map(Value::Float),
            (Self::I64, Value::Int(i)) => Some(Value::Int(*i)),
            (Self::I64, Value::UInt(u)) => i64::try_from(*u).ok().map(Value::Int),
            (Self::I64, value) => whole(value.as_f64()?).map(Value::Int),
            (Self::Bool, Value::Bool(b)) => Some(Value::Bool(*b)),
            (Self::Bool, value) => match value.as_f64()? {
                0.0 => Some(Value::Bool(false)),
                1.0 => Some(Value::Bool(true)),
                _ => None,
            },
            (Self::String, Value::Text(text)) => Some(Value::Text(text.clone())),
            (Self::String, _) => None,
        }
    }
}

/// The number as `i64`, if it is whole and in range.
fn whole(x: f64) -> Option<i64> {
    // 2^63 is the first float beyond i64.
    ((-9.223_372_036_854_776e18..9.223_372_036_854_776e18).contains(&x) && x.fract() == 0.0)
        .then_some(x as i64)
}

/// Where a point's values come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Generator {
    /// A signal, turned into the point's type.
    Number(Signal, Kind),
    /// Text in which `{n}` stands for the number of periods that have passed.
    Text {
        /// The text.
        template: Arc<str>,
        /// Time between two numbers.
        period: Duration,
    },
    /// One value for ever.
    Fixed(Value),
}

impl Generator {
    /// The value of the point with this key, so long after the bus was first opened.
    #[must_use]
    pub fn value(&self, key: u64, at: Duration) -> Value {
        match self {
            Self::Number(signal, kind) => {
                let x = signal.number(key, at);
                match kind {
                    Kind::F64 => Value::Float(x),
                    // `as` saturates, and no signal is NaN.
                    Kind::I64 => Value::Int(x.round() as i64),
                    Kind::Bool => Value::Bool(x > signal.middle()),
                    Kind::String => Value::Text(x.to_string().into()),
                }
            }
            Self::Text { template, period } => {
                Value::Text(template.replace("{n}", &steps(at, *period).to_string()).into())
            }
            Self::Fixed(value) => value.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::Wave;

    #[test]
    fn a_signal_takes_the_type_of_its_point() {
        let wave = Wave { low: 0.0, high: 10.0, period: Duration::from_secs(10) };
        let at = |kind, ms| Generator::Number(Signal::Ramp(wave), kind).value(0, Duration::from_millis(ms));
        assert_eq!(at(Kind::F64, 2600), Value::Float(2.6));
        assert_eq!(at(Kind::I64, 2600), Value::Int(3));
        assert_eq!(at(Kind::Bool, 2600), Value::Bool(false));
        assert_eq!(at(Kind::Bool, 7600), Value::Bool(true));
        assert_eq!(at(Kind::String, 2500), Value::Text("2.5".into()));
    }

    #[test]
    fn a_text_counts_its_periods() {
        let text = Generator::Text { template: "batch {n}".into(), period: Duration::from_secs(5) };
        assert_eq!(text.value(0, Duration::from_secs(11)), Value::Text("batch 2".into()));
    }

    #[test]
    fn a_written_value_fits_or_is_refused() {
        for (kind, written, kept) in [
            (Kind::F64, Value::Int(2), Some(Value::Float(2.0))),
            (Kind::F64, Value::Text("2".into()), None),
            (Kind::I64, Value::Float(2.0), Some(Value::Int(2))),
            (Kind::I64, Value::Float(2.5), None),
            (Kind::I64, Value::Float(9.3e18), None),
            (Kind::I64, Value::UInt(u64::MAX), None),
            (Kind::Bool, Value::Int(1), Some(Value::Bool(true))),
            (Kind::Bool, Value::Int(2), None),
            (Kind::String, Value::Text("a".into()), Some(Value::Text("a".into()))),
            (Kind::String, Value::Int(1), None),
        ] {
            assert_eq!(kind.fit(&written), kept, "{kind:?} {written:?}");
        }
    }
}
