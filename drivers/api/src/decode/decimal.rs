//! Multiplying by a power of ten that the device itself names (SunSpec's scale factors), and undoing it.
//!
//! Pure. The product is the decimal that a person would write: 2301 with -1 is 230.1, and not
//! 230.10000000000002, because it is read as the decimal `2301e-1` and not computed in binary.

use crate::Value;

/// Largest exponent that is believed, either way: the range of SunSpec's `sunssf`.
pub const MAX_EXPONENT: i16 = 10;

/// `raw` × 10^`exponent`. `None` for text, and for an exponent beyond [`MAX_EXPONENT`].
#[must_use]
pub fn scaled(raw: &Value, exponent: i16) -> Option<Value> {
    shifted(raw, believed(exponent)?)
}

/// The raw value of which [`scaled`] makes `value`: the nearest decimal, not yet fitted to a type.
#[must_use]
pub fn descaled(value: &Value, exponent: i16) -> Option<Value> {
    shifted(value, -believed(exponent)?)
}

fn believed(exponent: i16) -> Option<i16> {
    (-MAX_EXPONENT..=MAX_EXPONENT).contains(&exponent).then_some(exponent)
}

fn shifted(value: &Value, exponent: i16) -> Option<Value> {
    let decimal = match value {
        Value::Int(i) => format!("{i}e{exponent}"),
        Value::UInt(u) => format!("{u}e{exponent}"),
        // The shortest decimal that names it; never in exponent notation.
        Value::Float(f) => format!("{f}e{exponent}"),
        Value::Bool(_) | Value::Text(_) => return None,
    };
    decimal.parse().ok().filter(|f: &f64| f.is_finite()).map(Value::Float)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_person_would_write_comes_out() {
        for (raw, exponent, value) in [
            (Value::Int(2301), -1, 230.1),
            (Value::Int(-7), -3, -0.007),
            (Value::Int(12), 3, 12_000.0),
            (Value::Int(5), 0, 5.0),
            (Value::UInt(u64::MAX), 0, 18_446_744_073_709_551_615.0),
            (Value::Float(0.3), -2, 0.003),
        ] {
            assert_eq!(scaled(&raw, exponent), Some(Value::Float(value)), "{raw} e {exponent}");
        }
    }

    #[test]
    fn text_truths_and_wild_exponents_are_not_scaled() {
        assert_eq!(scaled(&Value::Text("1".into()), 1), None);
        assert_eq!(scaled(&Value::Bool(true), 1), None);
        for exponent in [11, -11, i16::MIN, i16::MAX] {
            assert_eq!((scaled(&Value::Int(1), exponent), descaled(&Value::Int(1), exponent)), (None, None));
        }
    }

    proptest! {
        #[test]
        fn undoing_it_gives_the_raw_value_again(raw in -100_000_000i64..100_000_000, exponent in -10i16..=10) {
            let value = scaled(&Value::Int(raw), exponent).expect("a number");
            let again = descaled(&value, exponent).and_then(|v| v.as_f64()).expect("a number");
            prop_assert!((again - raw as f64).abs() <= 1e-6, "{} from {}", again, raw);
        }
    }
}
