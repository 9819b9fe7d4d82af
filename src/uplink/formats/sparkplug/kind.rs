//! Which data type of Sparkplug a point has. Pure.
//!
//! As many bytes as its values need: 32 bits until a value does not fit them, and 64 from then on, with a new birth. The
//! type never gets narrower again, so a point changes it once at most while its readings stay of one sort.
//!
//! **A `Float` says its shortest decimal.** 230.1 goes as the single that is nearest to it if 230.1 is the shortest decimal
//! that names this single; read back like that, it is the same number. So nothing is lost to whoever prints it or
//! parses it; who widens the bits gets dust in the eighth digit, as from every single.

use driver_api::Value;

use super::proto::{Kind, MetricValue};

/// The type for a value of a point that has had this one until now.
#[must_use]
pub fn for_value(known: Option<Kind>, value: &Value) -> Kind {
    let (narrow, wide) = match value {
        Value::Bool(_) => (Kind::Boolean, Kind::Boolean),
        Value::Int(_) => (Kind::Int32, Kind::Int64),
        Value::UInt(_) => (Kind::UInt32, Kind::UInt64),
        Value::Float(_) => (Kind::Float, Kind::Double),
        Value::Text(_) => (Kind::Text, Kind::Text),
    };
    if known == Some(wide) || valued(narrow, value).is_none() { wide } else { narrow }
}

/// The type of a point that has no value yet, by its raw type. Its first reading may correct it.
#[must_use]
pub fn for_word(word: &str) -> Kind {
    match word {
        "bool" => Kind::Boolean,
        "u16" | "u32" => Kind::UInt32,
        "i16" | "i32" => Kind::Int32,
        "u64" => Kind::UInt64,
        "i64" => Kind::Int64,
        "f32" => Kind::Float,
        _ if word.starts_with("string") => Kind::Text,
        _ => Kind::Double,
    }
}

/// A value in this type; `None`: it does not fit.
#[must_use]
pub fn valued(kind: Kind, value: &Value) -> Option<MetricValue> {
    Some(match (kind, value) {
        (Kind::Boolean, Value::Bool(b)) => MetricValue::Boolean(*b),
        (Kind::Int32, Value::Int(i)) => MetricValue::Int(i32::try_from(*i).ok()?.cast_unsigned()),
        (Kind::Int64, Value::Int(i)) => MetricValue::Long(i.cast_unsigned()),
        (Kind::UInt32, Value::UInt(u)) => MetricValue::Int(u32::try_from(*u).ok()?),
        (Kind::UInt64, Value::UInt(u)) => MetricValue::Long(*u),
        (Kind::Float, Value::Float(x)) => MetricValue::Float(single(*x)?),
        (Kind::Double, Value::Float(x)) if x.is_finite() => MetricValue::Double(*x),
        (Kind::Text, Value::Text(t)) => MetricValue::Text(t.to_string()),
        _ => return None,
    })
}

/// The number that a single says: its shortest decimal.
#[must_use]
pub fn wide(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

/// The single whose shortest decimal is this number.
fn single(x: f64) -> Option<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "what it takes away is looked at below")]
    let narrow = x as f32;
    // Most whole numbers need no printing: below 2^24 each is a single.
    let whole = x.fract() == 0.0 && x.abs() < 16_777_216.0;
    let same = whole || wide(narrow).to_bits() == x.to_bits();
    (narrow.is_finite() && same).then_some(narrow)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_point_is_as_narrow_as_its_values_and_never_gets_narrower_again() {
        let kinds = |values: &[Value]| values.iter().fold(None, |known, value| Some(for_value(known, value)));
        assert_eq!(kinds(&[Value::Float(230.1)]), Some(Kind::Float));
        assert_eq!(kinds(&[Value::Float(230.1), Value::Float(1234567.89)]), Some(Kind::Double));
        assert_eq!(kinds(&[Value::Float(1234567.89), Value::Float(230.1)]), Some(Kind::Double));
        assert_eq!(kinds(&[Value::Int(-7)]), Some(Kind::Int32));
        assert_eq!(kinds(&[Value::Int(1 << 40), Value::Int(1)]), Some(Kind::Int64));
        assert_eq!(kinds(&[Value::UInt(u64::from(u32::MAX) + 1)]), Some(Kind::UInt64));
        assert_eq!(kinds(&[Value::UInt(1 << 40), Value::Text("off".into())]), Some(Kind::Text));
    }

    #[test]
    fn a_number_beyond_a_single_is_none() {
        for x in [1e300, -1e300, 1e-300, f64::NAN, f64::INFINITY, 0.1 + 0.2, 16_777_217.0] {
            assert_eq!(valued(Kind::Float, &Value::Float(x)), None, "{x}");
        }
        assert_eq!(valued(Kind::Double, &Value::Float(f64::NAN)), None);
        assert_eq!(valued(Kind::Float, &Value::Float(-0.0)), Some(MetricValue::Float(-0.0)));
    }

    proptest! {
        #[test]
        fn six_digits_always_fit_a_float_and_are_read_back(digits in -999_999i32..1_000_000, shift in 0i32..5) {
            let x: f64 = format!("{digits}e-{shift}").parse().expect("a number");
            let Some(MetricValue::Float(narrow)) = valued(Kind::Float, &Value::Float(x)) else {
                return Err(TestCaseError::fail(format!("{x}")));
            };
            prop_assert_eq!(wide(narrow), x);
        }

        #[test]
        fn what_is_taken_as_a_float_is_read_back(x in any::<f64>()) {
            if let Some(MetricValue::Float(narrow)) = valued(Kind::Float, &Value::Float(x)) {
                prop_assert_eq!(wide(narrow), x);
            }
        }
    }
}
