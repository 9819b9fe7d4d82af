//! `connect = "always"` or `connect = "every 15m for 2m"`: when an uplink is connected. Pure.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use driver_api::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error};
use serde::{Serialize, Serializer};

/// When an uplink is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connect {
    /// As long as the link allows.
    #[default]
    Always,
    /// In windows.
    Windows {
        /// From one window's beginning to the next one's.
        every: Span,
        /// How long a window lasts at most.
        span: Span,
    },
}

const EXAMPLE: &str = "\"every 15m for 2m\"";
/// What a login over a slow mobile link may take, and then something is to be sent.
const SHORTEST_SPAN: Span = Span::s(10);
const SHORTEST_EVERY: Span = Span::s(60);
const LONGEST_EVERY: Span = Span::s(7 * 86_400);

impl FromStr for Connect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (every, span) = match words.as_slice() {
            ["always"] => return Ok(Self::Always),
            ["every", every, "for", span] => (every.parse::<Span>()?, span.parse::<Span>()?),
            _ => return Err(format!("`{text}` is neither `always` nor windows, such as {EXAMPLE}")),
        };
        let wrong = |why: String| Err(format!("{why}, such as {EXAMPLE}"));
        if every < SHORTEST_EVERY || every > LONGEST_EVERY {
            return wrong(format!(
                "windows come every {SHORTEST_EVERY} to every {LONGEST_EVERY}, not every {every}"
            ));
        }
        if span < SHORTEST_SPAN {
            return wrong(format!(
                "a window of {span} is too short to log in; it lasts at least {SHORTEST_SPAN}"
            ));
        }
        if span >= every {
            return wrong(format!(
                "a window of {span} every {every} has no end; write `always`, or a shorter one"
            ));
        }
        Ok(Self::Windows { every, span })
    }
}

impl fmt::Display for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Windows { every, span } => write!(f, "every {every} for {span}"),
        }
    }
}

impl<'de> Deserialize<'de> for Connect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Connect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Connect {
    fn schema_name() -> Cow<'static, str> {
        "Connect".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": r"^always$|^every [0-9.]+(ms|s|m|h|d) for [0-9.]+(ms|s|m|h|d)$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_writes() {
        for text in ["always", "every 15m for 2m", "every 1d for 90s"] {
            assert_eq!(text.parse::<Connect>().map(|c| c.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(
            " every  15m for 2m".parse(),
            Ok(Connect::Windows { every: Span::s(900), span: Span::s(120) })
        );
    }

    #[test]
    fn windows_that_make_no_sense_say_why() {
        for (text, why) in [
            ("sometimes", "neither `always` nor windows"),
            ("every 15m", "neither `always` nor windows"),
            ("every 15 for 2m", "number with a unit"),
            ("every 30s for 10s", "every 1m to every 7d, not every 30s"),
            ("every 30d for 1h", "not every 30d"),
            ("every 15m for 5s", "too short to log in"),
            ("every 15m for 15m", "has no end"),
        ] {
            let error = text.parse::<Connect>().expect_err(text);
            assert!(error.contains(why) && error.contains(", such as "), "{text}: {error}");
        }
    }
}
