//! `deadband = 0.5` or `deadband = "2%"`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::model::Deadband;

struct Reader;

impl Visitor<'_> for Reader {
    type Value = Deadband;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or a share such as \"2%\"")
    }
    fn visit_f64<E: Error>(self, x: f64) -> Result<Deadband, E> {
        if x.is_finite() && x >= 0.0 {
            Ok(Deadband::Absolute(x))
        } else {
            Err(E::custom("a deadband is zero or more"))
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a deadband beyond 2^53 is no deadband")]
    fn visit_i64<E: Error>(self, x: i64) -> Result<Deadband, E> {
        self.visit_f64(x as f64)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Deadband, E> {
        let share = text.trim().strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
        match share {
            Some(x) if x.is_finite() && x >= 0.0 => Ok(Deadband::Relative(x / 100.0)),
            _ => Err(E::custom(format!("`{text}` is neither a number nor a share such as \"2%\""))),
        }
    }
}

impl<'de> Deserialize<'de> for Deadband {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Reader)
    }
}

impl Serialize for Deadband {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absolute(x) => s.serialize_f64(*x),
            Self::Relative(x) => s.collect_str(&format_args!("{}%", x * 100.0)),
        }
    }
}

impl JsonSchema for Deadband {
    fn schema_name() -> Cow<'static, str> {
        "Deadband".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "number", "minimum": 0 },
            { "type": "string", "pattern": "^[0-9.]+ *%$" }
        ] })
    }
}
