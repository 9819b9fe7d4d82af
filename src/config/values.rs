//! `values = { 0 = "off", 1 = "on" }`: what the numbers of a point mean, in words.
//!
//! A word stands for one number only, so that a command can name it. Numbers are the raw ones.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use driver_api::Value;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// Raw numbers and their words, in the order of the numbers; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Values(BTreeMap<i64, String>);

impl Values {
    /// The word for a raw value; `None` for what is not listed, and for what is no whole number.
    #[must_use]
    pub fn word(&self, raw: &Value) -> Option<&str> {
        self.0.get(&whole(raw)?).map(String::as_str)
    }

    /// The number that a word stands for.
    #[must_use]
    pub fn number(&self, word: &str) -> Option<i64> {
        self.0.iter().find(|(_, listed)| *listed == word).map(|(number, _)| *number)
    }

    /// Whether a number is listed.
    #[must_use]
    pub fn lists(&self, number: i64) -> bool {
        self.0.contains_key(&number)
    }

    /// The numbers, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = i64> {
        self.0.keys().copied()
    }
}

/// The list as a person reads it: `0 = off, 1 = on`.
impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (number, word)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{number} = {word}")?;
        }
        Ok(())
    }
}

/// A raw value as the whole number that it is.
#[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53 was checked")]
fn whole(raw: &Value) -> Option<i64> {
    match raw {
        Value::Bool(b) => Some(i64::from(*b)),
        Value::Int(i) => Some(*i),
        Value::UInt(u) => i64::try_from(*u).ok(),
        Value::Float(f) => (f.fract() == 0.0 && f.abs() < 9e15).then_some(*f as i64),
        Value::Text(_) => None,
    }
}

/// The least and the most of an integer type, by its word; `None` for every other type.
#[must_use]
pub fn whole_range(kind: &str) -> Option<(i128, i128)> {
    Some(match kind {
        "bool" => (0, 1),
        "u16" => (0, u16::MAX.into()),
        "i16" => (i16::MIN.into(), i16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "i32" => (i32::MIN.into(), i32::MAX.into()),
        "u64" => (0, u64::MAX.into()),
        "i64" => (i64::MIN.into(), i64::MAX.into()),
        "bcd16" => (0, 9_999),
        "bcd32" => (0, 99_999_999),
        "bcd64" => (0, 9_999_999_999_999_999),
        _ => return None,
    })
}

struct Reader;

/// How it looks; the loader makes a hint of it.
const EXAMPLE: &str = ", such as { 0 = \"off\", 1 = \"on\" }";

impl<'de> Visitor<'de> for Reader {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table such as { 0 = \"off\", 1 = \"on\" }")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
        let mut listed = BTreeMap::new();
        while let Some((key, word)) = map.next_entry::<Cow<'de, str>, String>()? {
            let number = number(&key)
                .ok_or_else(|| A::Error::custom(format!("`{key}` is no whole number{EXAMPLE}")))?;
            if word.is_empty() {
                return Err(A::Error::custom(format!("the word for {number} is empty{EXAMPLE}")));
            }
            if let Some((other, _)) = listed.iter().find(|(_, known)| **known == word) {
                return Err(A::Error::custom(format!(
                    "`{word}` stands for {other} and for {number}{EXAMPLE}"
                )));
            }
            if listed.insert(number, word).is_some() {
                return Err(A::Error::custom(format!("{number} stands here twice{EXAMPLE}")));
            }
        }
        if listed.is_empty() {
            return Err(A::Error::custom(format!("no value is listed{EXAMPLE}")));
        }
        Ok(Values(listed))
    }
}

/// `3`, `-1` or `0x10`.
fn number(key: &str) -> Option<i64> {
    match key.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok().filter(|n| *n >= 0),
        None => key.parse().ok(),
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader)
    }
}

impl JsonSchema for Values {
    fn schema_name() -> Cow<'static, str> {
        "Values".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^(-?[0-9]+|0x[0-9A-Fa-f]+)$" },
            "additionalProperties": { "type": "string", "minLength": 1 },
            "minProperties": 1,
            "examples": [{ "0": "off", "1": "on" }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Values, String> {
        #[derive(Deserialize)]
        struct Point {
            values: Values,
        }
        toml::from_str::<Point>(text).map(|p| p.values).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn numbers_have_words_and_words_numbers() {
        let values = read("values = { 0 = 'off', 1 = 'on', -1 = 'fault', 0x10 = 'service' }").expect("good");
        assert_eq!(values.to_string(), "-1 = fault, 0 = off, 1 = on, 16 = service");
        assert_eq!((values.word(&Value::Int(16)), values.number("fault")), (Some("service"), Some(-1)));
        assert_eq!(
            (values.word(&Value::Bool(true)), values.word(&Value::Float(1.0))),
            (Some("on"), Some("on"))
        );
        assert_eq!((values.word(&Value::Int(7)), values.word(&Value::Float(0.5))), (None, None));
        assert_eq!(values.word(&Value::UInt(u64::MAX)), None);
        let json = serde_json::to_string(&values).expect("JSON");
        assert_eq!(json, r#"{"-1":"fault","0":"off","1":"on","16":"service"}"#);
    }

    #[test]
    fn what_is_not_one_word_for_one_number_is_refused() {
        for (text, why) in [
            ("values = { on = 'x' }", "`on` is no whole number"),
            ("values = { 1.5 = 'x' }", "invalid type"),
            ("values = { 0 = 'a', 1 = 'a' }", "`a` stands for 0 and for 1"),
            ("values = { 1 = 'a', 0x1 = 'b' }", "1 stands here twice"),
            ("values = { 0 = '' }", "empty"),
            ("values = {}", "no value is listed"),
            ("values = ['off', 'on']", "a table such as"),
            ("values = { 0 = 1 }", "invalid type"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
