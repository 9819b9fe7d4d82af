//! Between raw values and the numbers people see: value = raw × scale + offset, and back. Pure.

use driver_api::Value;

use super::rule::Rule;

impl Rule {
    /// The value people see. Text is never scaled; without scale and offset the type is kept.
    #[must_use]
    pub fn scaled(&self, raw: Value) -> Value {
        if self.scale.is_none() && self.offset.is_none() {
            return raw;
        }
        match raw.as_f64() {
            Some(number) => {
                Value::Float(tidy(number * self.scale.unwrap_or(1.0) + self.offset.unwrap_or(0.0)))
            }
            None => raw,
        }
    }

    /// The raw value for what a command asks, or why it cannot be.
    ///
    /// # Errors
    /// A sentence for the command's result: wrong type, outside `min`/`max`, does not fit the register.
    pub fn to_raw(&self, asked: &serde_json::Value) -> Result<Value, String> {
        if !self.writable {
            return Err(format!("`{}` is not writable", self.key.path()));
        }
        let base = self.kind.split(':').next().unwrap_or_default();
        if base == "string" {
            return match asked.as_str() {
                Some(text) => Ok(Value::Text(text.into())),
                None => Err("this point takes text".to_owned()),
            };
        }
        if base == "bool" && self.scale.is_none() && self.offset.is_none() {
            return match asked {
                serde_json::Value::Bool(b) => Ok(Value::Bool(*b)),
                serde_json::Value::Number(n) if n.as_u64().is_some_and(|n| n <= 1) => {
                    Ok(Value::Bool(n.as_u64() == Some(1)))
                }
                _ => Err("this point takes true or false".to_owned()),
            };
        }
        let Some(number) = asked.as_f64().filter(|n| n.is_finite()) else {
            return Err("this point takes a number".to_owned());
        };
        if self.min.is_some_and(|min| number < min) || self.max.is_some_and(|max| number > max) {
            let bound = |b: Option<f64>| b.map_or_else(|| "…".to_owned(), |b| b.to_string());
            return Err(format!("{number} is outside {} to {}", bound(self.min), bound(self.max)));
        }
        let exact = self.scale.is_none() && self.offset.is_none();
        let raw = (number - self.offset.unwrap_or(0.0)) / self.scale.unwrap_or(1.0);
        if !raw.is_finite() {
            return Err(format!("{number} has no raw value with scale {}", self.scale.unwrap_or(1.0)));
        }
        match base {
            "f32" => {
                if raw.abs() <= f64::from(f32::MAX) {
                    Ok(Value::Float(raw))
                } else {
                    Err(format!("{number} does not fit an f32"))
                }
            }
            "f64" => Ok(Value::Float(raw)),
            "bool" => Ok(Value::Bool(raw.round() != 0.0)),
            _ => whole(base, raw, exact, asked),
        }
    }
}

/// A whole number that fits the type, or why not.
fn whole(base: &str, raw: f64, exact: bool, asked: &serde_json::Value) -> Result<Value, String> {
    if exact && raw.fract() != 0.0 {
        return Err(format!("{asked} is not a whole number, and this point is {base}"));
    }
    let (low, high): (i128, i128) = match base {
        "u16" => (0, u16::MAX.into()),
        "i16" => (i16::MIN.into(), i16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "i32" => (i32::MIN.into(), i32::MAX.into()),
        "u64" => (0, u64::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    };
    // Unscaled integers beyond 2^53 come exactly from the JSON, not by way of a float.
    let number: i128 = match (exact, asked.as_i64(), asked.as_u64()) {
        (true, Some(i), _) => i.into(),
        (true, _, Some(u)) => u.into(),
        #[expect(clippy::cast_possible_truncation, reason = "saturating is right: the range check follows")]
        _ => raw.round() as i128,
    };
    if number < low || number > high {
        return Err(format!("{asked} does not fit {base}: the raw value would be {number}"));
    }
    Ok(match i64::try_from(number) {
        Ok(i) => Value::Int(i),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "i64::MAX < number <= u64::MAX"
        )]
        Err(_) => Value::UInt(number as u64),
    })
}

/// Takes the dust off a decimal scaling: 2301 × 0.1 is 230.1, not 230.10000000000002.
fn tidy(x: f64) -> f64 {
    if !x.is_finite() || x == 0.0 {
        return x;
    }
    let rounded: f64 = format!("{x:.12e}").parse().unwrap_or(x);
    if rounded == x || ((rounded - x) / x).abs() < 4.0 * f64::EPSILON { rounded } else { x }
}

/// Whether what was read back is what was written.
#[must_use]
pub fn same(written: &Value, read: &Value) -> bool {
    match (written, read) {
        (Value::Text(a), Value::Text(b)) => a.trim_end_matches('\0') == b.trim_end_matches('\0'),
        (Value::Float(_), _) | (_, Value::Float(_)) => match (written.as_f64(), read.as_f64()) {
            // An f32 register keeps 24 bits of what was asked.
            (Some(a), Some(b)) => (a - b).abs() <= a.abs().max(b.abs()) * f64::from(f32::EPSILON),
            _ => false,
        },
        _ => written.as_f64() == read.as_f64() && integer(written) == integer(read),
    }
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Bool(b) => Some(i128::from(*b)),
        Value::Int(i) => Some((*i).into()),
        Value::UInt(u) => Some((*u).into()),
        Value::Float(_) | Value::Text(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::message::PointKey;

    fn rule(kind: &str) -> Rule {
        let key = PointKey { device: "d".into(), point: "p".into(), unit: String::new() };
        Rule { writable: true, ..Rule::plain(Arc::new(key), kind) }
    }

    #[test]
    fn decimal_scales_leave_no_dust() {
        let tenth = Rule { scale: Some(0.1), ..rule("u16") };
        assert_eq!(tenth.scaled(Value::Int(2301)), Value::Float(230.1));
        assert_eq!(rule("u16").scaled(Value::Int(2301)), Value::Int(2301));
    }

    #[test]
    fn a_command_that_does_not_fit_says_why() {
        assert!(rule("u16").to_raw(&json!(70000)).is_err_and(|e| e.contains("u16")));
        assert!(rule("u16").to_raw(&json!(1.5)).is_err_and(|e| e.contains("whole")));
        assert!(rule("bool").to_raw(&json!("on")).is_err());
        assert!(rule("f32").to_raw(&json!(1e300)).is_err());
        assert!(Rule { writable: false, ..rule("u16") }.to_raw(&json!(1)).is_err());
        let limited = Rule { min: Some(5.0), max: Some(30.0), ..rule("i16") };
        assert!(limited.to_raw(&json!(31)).is_err_and(|e| e.contains("outside 5 to 30")));
        assert_eq!(rule("u64").to_raw(&json!(u64::MAX)), Ok(Value::UInt(u64::MAX)));
        assert_eq!(rule("bool").to_raw(&json!(1)), Ok(Value::Bool(true)));
    }

    proptest! {
        #[test]
        fn what_is_asked_comes_back_from_the_register(raw in -30000i64..30000, tenths in 1u32..1000) {
            let rule = Rule { scale: Some(f64::from(tenths) / 10.0), offset: Some(-40.0), ..rule("i16") };
            let shown = rule.scaled(Value::Int(raw));
            let asked = json!(shown.as_f64());
            prop_assert_eq!(rule.to_raw(&asked), Ok(Value::Int(raw)));
        }

        #[test]
        fn tidying_never_moves_a_number_by_more_than_its_dust(x in proptest::num::f64::NORMAL) {
            prop_assert!(((tidy(x) - x) / x).abs() < 1e-15);
        }
    }
}
