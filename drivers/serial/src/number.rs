//! Words of a line as values: what counts as a number, a truth, a text.

use driver_api::{Reason, Value};
use schemars::JsonSchema;
use serde::Deserialize;

/// What a capture is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A number with a decimal point (`-12.5`, `+ 3`, `1.2e3`).
    #[default]
    F64,
    /// A whole number.
    I64,
    /// `1` or `0`, `true` or `false`, `on` or `off`, `yes` or `no`, in any case.
    Bool,
    /// The text as it stands, without blanks around it.
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

    /// Reads `text`. Scales print `+   12.5`, so blanks behind the sign are allowed.
    ///
    /// # Errors
    /// [`Reason::Parse`] if it is no such value; [`Reason::SensorFault`] if it is the word NaN or
    /// infinity, which a device only prints on purpose.
    pub fn read(self, text: &str) -> Result<Value, Reason> {
        let text = text.trim();
        match self {
            Self::F64 => {
                let value: f64 = number(text)?.parse().map_err(|_| Reason::Parse)?;
                if value.is_finite() {
                    Ok(Value::Float(value))
                } else if text.contains(|c: char| c.is_ascii_digit()) {
                    Err(Reason::Parse)
                } else {
                    Err(Reason::SensorFault)
                }
            }
            Self::I64 => number(text)?.parse().map(Value::Int).map_err(|_| Reason::Parse),
            Self::Bool => match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "on" | "yes" => Ok(Value::Bool(true)),
                "0" | "false" | "off" | "no" => Ok(Value::Bool(false)),
                _ => Err(Reason::Parse),
            },
            Self::String => Ok(Value::Text(text.into())),
        }
    }
}

/// A number's text with its sign, if any, directly before it.
fn number(text: &str) -> Result<String, Reason> {
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'+') => ("", &text[1..]),
        Some(b'-') => ("-", &text[1..]),
        _ => ("", text),
    };
    let digits = digits.trim_start();
    // Two signs are no number; Rust's parser would take the second one.
    if digits.starts_with(['+', '-']) { Err(Reason::Parse) } else { Ok(format!("{sign}{digits}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_as_devices_print_them() {
        for (text, value) in [
            ("12.34", 12.34),
            (" +12.34 ", 12.34),
            ("-  0.5", -0.5),
            ("+00012", 12.0),
            ("1e3", 1000.0),
            (".5", 0.5),
        ] {
            assert_eq!(Kind::F64.read(text), Ok(Value::Float(value)), "{text}");
        }
        for text in ["", "+", "+-5", "--5", "1.2.3", "12,5", "0x10", "1e999", "12 34", "kg"] {
            assert_eq!(Kind::F64.read(text), Err(Reason::Parse), "{text}");
        }
        for text in ["NaN", "-inf", "infinity"] {
            assert_eq!(Kind::F64.read(text), Err(Reason::SensorFault), "{text}");
        }
    }

    #[test]
    fn the_other_kinds() {
        assert_eq!(Kind::I64.read(" +007"), Ok(Value::Int(7)));
        assert_eq!(Kind::I64.read("1.5"), Err(Reason::Parse));
        assert_eq!(Kind::I64.read("9223372036854775808"), Err(Reason::Parse));
        assert_eq!(Kind::Bool.read("ON"), Ok(Value::Bool(true)));
        assert_eq!(Kind::Bool.read("2"), Err(Reason::Parse));
        assert_eq!(Kind::String.read(" ok "), Ok(Value::Text("ok".into())));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_value_is_not_finite(text in ".{0,40}") {
            for kind in [Kind::F64, Kind::I64, Kind::Bool, Kind::String] {
                if let Ok(Value::Float(x)) = kind.read(&text) {
                    prop_assert!(x.is_finite());
                }
            }
        }
    }
}
