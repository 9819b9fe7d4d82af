//! Between raw values and what people see: value = raw × scale + offset, or the word that stands for the
//! number; and back. Pure.

use driver_api::Value;
use driver_api::decode::{Kind, WordOrder, encode, seconds_between};

use super::rule::Rule;
use crate::config::values::{Values, whole_range};

/// The whole numbers up to here are all floats, and no other number is read as one of them.
const EXACT: u128 = (1 << 53) - 1;

/// How far the clock of a device may have gone on between a write and its read-back.
const TICKED_ON_S: std::ops::RangeInclusive<i64> = 0..=5;

impl Rule {
    /// The value people see. Text is never scaled; without scale and offset the type is kept.
    #[must_use]
    pub fn scaled(&self, raw: Value) -> Value {
        if let Some(values) = &self.values {
            return match (values.word(&raw), &raw) {
                (Some(word), _) => Value::Text(word.into()),
                (None, Value::Bool(b)) => Value::Text(u8::from(*b).to_string().into()),
                (None, _) => Value::Text(raw.to_string().into()),
            };
        }
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
        if let Some(values) = &self.values {
            return listed(values, base, asked);
        }
        if base == "string" || base == "time" {
            return self.text(asked);
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

    /// Text that the point can hold, or why not.
    fn text(&self, asked: &serde_json::Value) -> Result<Value, String> {
        let time = self.kind.starts_with("time");
        let example = match self.kind.as_str() {
            "time:unix" => "\"2026-11-28T10:00:00Z\"",
            _ => "\"2026-11-28T10:00:00\", without a zone",
        };
        let Some(text) = asked.as_str() else {
            return Err(if time {
                format!("this point takes a time such as {example}")
            } else {
                "this point takes text".to_owned()
            });
        };
        let value = Value::Text(text.into());
        match self.kind.parse::<Kind>().map(|kind| encode(kind, WordOrder::Abcd, &value)) {
            Ok(Err(_)) if time => {
                Err(format!("`{text}` is no time that this point can hold; write {example}"))
            }
            Ok(Err(unfit)) => Err(unfit.to_string()),
            // The words of other drivers' types are theirs to check.
            Ok(Ok(_)) | Err(_) => Ok(value),
        }
    }

    /// Whether what was read back is what was written. A clock may have gone on meanwhile.
    #[must_use]
    pub fn confirms(&self, written: &Value, read: &Value) -> bool {
        match (written, read) {
            (Value::Text(before), Value::Text(after)) if self.kind.starts_with("time") => {
                seconds_between(before, after).is_some_and(|s| TICKED_ON_S.contains(&s))
            }
            // The blanks behind a text are not there when it is read.
            (Value::Text(before), Value::Text(after)) if self.kind.starts_with("string") => {
                as_read(before) == as_read(after)
            }
            _ => same(written, read),
        }
    }
}

/// The raw value of a word or a number that is listed.
fn listed(values: &Values, base: &str, asked: &serde_json::Value) -> Result<Value, String> {
    let number = match asked {
        serde_json::Value::String(word) => values.number(word),
        serde_json::Value::Number(n) => n.as_i64().filter(|n| values.lists(*n)),
        // On a command line `true` may be the word as well as the truth.
        serde_json::Value::Bool(b) => values.number(&b.to_string()).or_else(|| {
            let number = (base == "bool").then_some(i64::from(*b));
            number.filter(|n| values.lists(*n))
        }),
        _ => None,
    };
    let Some(number) = number else {
        return Err(format!("{asked} is none of the values of this point: {values}"));
    };
    match base {
        "bool" => Ok(Value::Bool(number != 0)),
        // Every type holds what is listed for it: the configuration was checked.
        _ => Ok(Value::Int(number)),
    }
}

/// A whole number that fits the type, or why not.
fn whole(base: &str, raw: f64, exact: bool, asked: &serde_json::Value) -> Result<Value, String> {
    if exact && raw.fract() != 0.0 {
        return Err(format!("{asked} is not a whole number, and this point is {base}"));
    }
    let (low, high) = whole_range(base).unwrap_or((i64::MIN.into(), i64::MAX.into()));
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
    // What JSON gives as a float is the one nearest to what was written: from 2^53 on that may be any number around.
    if exact && asked.is_f64() && number.unsigned_abs() > EXACT {
        return Err(format!(
            "{asked} is not exact beyond {EXACT}: write it as a whole number, without a point or exponent"
        ));
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

/// What is left of a text when registers that hold it are read: see [`driver_api::decode::decode`].
fn as_read(text: &str) -> &str {
    text.split('\0').next().unwrap_or_default().trim_end()
}

fn same(written: &Value, read: &Value) -> bool {
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
        let asked = |text: &str| rule("i64").to_raw(&serde_json::from_str(text).expect("JSON"));
        assert_eq!(asked("-9223372036854775808"), Ok(Value::Int(i64::MIN)));
        for far in ["9223372036854775808", "-1e19", "1e19"] {
            assert!(asked(far).is_err_and(|e| e.contains("not fit i64")), "{far}");
        }
    }

    #[test]
    fn a_whole_number_that_comes_as_a_float_is_taken_only_where_no_other_is_read_as_it() {
        let asked = |kind: &str, text: &str| rule(kind).to_raw(&serde_json::from_str(text).expect("JSON"));
        for (text, number) in [("21.0", 21), ("-1e3", -1000), ("9007199254740991.0", 9_007_199_254_740_991)] {
            assert_eq!(asked("i64", text), Ok(Value::Int(number)), "{text}");
        }
        // 2^53 + 1 is read as 2^53.
        for text in ["9007199254740993.0", "9.007199254740993e15", "-9007199254740993.0", "1e18"] {
            assert!(asked("i64", text).is_err_and(|e| e.contains("not exact")), "{text}");
        }
        assert!(asked("i64", "-9223372036854775809").is_err_and(|e| e.contains("not exact")));
        assert!(asked("u64", "18446744073709551615.0").is_err_and(|e| e.contains("not fit u64")));
        assert_eq!(asked("u64", "9007199254740993"), Ok(Value::Int(9_007_199_254_740_993)));
        // Where the point is scaled, people see floats, and where it is a float it takes one.
        let scaled = Rule { scale: Some(10.0), ..rule("u64") };
        assert_eq!(scaled.to_raw(&json!(1e18)), Ok(Value::Int(100_000_000_000_000_000)));
        assert_eq!(asked("f64", "9007199254740994.0"), Ok(Value::Float(9_007_199_254_740_994.0)));
    }

    #[test]
    fn a_text_is_read_back_without_the_blanks_behind_it() {
        let text = |text: &str| Value::Text(text.into());
        let reads = |wrote: &str, read: &str| rule("string:4").confirms(&text(wrote), &text(read));
        assert!(reads("ab ", "ab") && reads("ab \0", "ab") && reads("", "") && reads("  ", ""));
        assert!(!reads("ab ", "a") && !reads(" ab", "ab") && !reads("ab", "abc"));
    }

    #[test]
    fn a_float_is_taken_to_its_last_bit() {
        let asked: serde_json::Value = serde_json::from_str("1e-60").expect("JSON");
        assert_eq!(rule("f64").to_raw(&asked), Ok(Value::Float(1e-60)));
    }

    fn switch(kind: &str) -> Rule {
        #[derive(serde::Deserialize)]
        struct Point {
            values: Values,
        }
        let point: Point = toml::from_str("values = { 0 = 'off', 1 = 'on', 5 = 'auto' }").expect("good");
        Rule { values: Some(Arc::new(point.values)), ..rule(kind) }
    }

    #[test]
    fn a_listed_number_is_its_word_and_another_is_itself() {
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(switch("u16").scaled(Value::Int(5)), text("auto"));
        assert_eq!(switch("u16").scaled(Value::Int(7)), text("7"));
        assert_eq!(switch("bool").scaled(Value::Bool(true)), text("on"));
    }

    #[test]
    fn a_command_names_the_word_or_the_number_and_anything_else_is_told_the_list() {
        assert_eq!(switch("u16").to_raw(&json!("auto")), Ok(Value::Int(5)));
        assert_eq!(switch("i32").to_raw(&json!(5)), Ok(Value::Int(5)));
        assert_eq!(switch("bool").to_raw(&json!("off")), Ok(Value::Bool(false)));
        assert_eq!(switch("bool").to_raw(&json!(true)), Ok(Value::Bool(true)));
        for wrong in [json!("of"), json!(7), json!(1.5), json!(true), json!(null)] {
            let why = switch("u16").to_raw(&wrong).expect_err("not listed");
            assert!(why.contains("0 = off, 1 = on, 5 = auto"), "{wrong}: {why}");
        }
    }

    #[test]
    fn a_time_is_checked_before_it_is_sent_and_its_clock_may_go_on_before_it_is_read_back() {
        let clock = rule("time:iec870");
        let asked = "2026-11-28T10:00:00";
        assert_eq!(clock.to_raw(&json!(asked)), Ok(Value::Text(asked.into())));
        for wrong in [json!("2026-02-30T10:00:00"), json!("2026-11-28T10:00:00Z"), json!(5), json!("now")] {
            assert!(clock.to_raw(&wrong).is_err_and(|e| e.contains("2026-11-28T10:00:00")), "{wrong}");
        }
        assert!(rule("string:2").to_raw(&json!("abc")).is_err_and(|e| e.contains("string:2")));
        assert_eq!(rule("string").to_raw(&json!("abc")), Ok(Value::Text("abc".into())));
        let reads = |text: &str| clock.confirms(&Value::Text(asked.into()), &Value::Text(text.into()));
        assert!(reads(asked) && reads("2026-11-28T10:00:01.25"));
        assert!(!reads("2026-11-28T09:59:59") && !reads("2026-11-28T11:00:00") && !reads("?"));
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
        fn every_float_of_a_command_is_written_as_it_is(bits in any::<u64>()) {
            let x = f64::from_bits(bits);
            prop_assume!(x.is_finite());
            let command = format!("{{\"id\":\"a\",\"value\":{x:e}}}");
            let command: serde_json::Value = serde_json::from_str(&command).expect("JSON");
            let Ok(Value::Float(raw)) = rule("f64").to_raw(&command["value"]) else {
                return Err(TestCaseError::fail(command.to_string()));
            };
            prop_assert_eq!(raw.to_bits(), x.to_bits());
            // And so it stands in the answer.
            let shown = serde_json::Number::from_f64(raw).expect("finite").to_string();
            prop_assert_eq!(shown.parse::<f64>().expect("a number").to_bits(), x.to_bits());
        }

        #[test]
        fn tidying_never_moves_a_number_by_more_than_its_dust(x in proptest::num::f64::NORMAL) {
            prop_assert!(((tidy(x) - x) / x).abs() < 1e-15);
        }
    }
}
