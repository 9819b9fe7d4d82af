//! Values as the configuration gives them: a number, a truth or a text; one pattern or a list of them.

use std::borrow::Cow;
use std::fmt;

use driver_api::Value;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

/// A number, a truth or a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Given(pub Value);

struct GivenReader;

impl Visitor<'_> for GivenReader {
    type Value = Given;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, true, false or a text")
    }
    fn visit_bool<E: Error>(self, truth: bool) -> Result<Given, E> {
        Ok(Given(Value::Bool(truth)))
    }
    fn visit_i64<E: Error>(self, number: i64) -> Result<Given, E> {
        Ok(Given(Value::Int(number)))
    }
    fn visit_f64<E: Error>(self, number: f64) -> Result<Given, E> {
        if number.is_finite() {
            Ok(Given(Value::Float(number)))
        } else {
            Err(E::custom("it is no finite number"))
        }
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Given, E> {
        Ok(Given(Value::Text(text.into())))
    }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GivenReader)
    }
}

impl JsonSchema for Given {
    fn schema_name() -> Cow<'static, str> {
        "Given".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["number", "boolean", "string"], "examples": [1] })
    }
}

/// One number or a list of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbers(pub Vec<Number>);

/// A number, kept as it was written: a pattern of 64 bits does not fit into a float.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Without a point.
    Whole(i64),
    /// With a point.
    Point(f64),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(number) => number.fmt(f),
            Self::Point(number) => number.fmt(f),
        }
    }
}

struct NumbersReader;

impl<'de> Visitor<'de> for NumbersReader {
    type Value = Numbers;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number or a list of numbers, such as 0x8000")
    }
    fn visit_i64<E: Error>(self, number: i64) -> Result<Numbers, E> {
        Ok(Numbers(vec![Number::Whole(number)]))
    }
    fn visit_f64<E: Error>(self, number: f64) -> Result<Numbers, E> {
        Ok(Numbers(vec![Number::Point(number)]))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Numbers, A::Error> {
        let mut numbers = Vec::new();
        while let Some(Given(value)) = list.next_element()? {
            numbers.push(match value {
                Value::Int(number) => Number::Whole(number),
                Value::Float(number) => Number::Point(number),
                other => return Err(A::Error::custom(format!("`{other}` is no number"))),
            });
        }
        Ok(Numbers(numbers))
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumbersReader)
    }
}

impl JsonSchema for Numbers {
    fn schema_name() -> Cow<'static, str> {
        "Numbers".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "number" }, { "type": "array", "items": { "type": "number" } }]
        })
    }
}
