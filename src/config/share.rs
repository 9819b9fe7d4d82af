//! `share = "127.0.0.1:5020"`, or `share = { bind = "…", framing = "auto", writes = ["1/holding:100..110"], cache = "500ms" }`.
//!
//! Who may do what on a shared bus is decided by this table alone: Modbus knows no login.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use driver_api::{Place, Problem, Span};
use driver_modbus::config::{Area, register};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::raw::Raw;

/// A TCP server onto a bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Where clients connect; port 0 takes any free one.
    pub bind: SocketAddr,
    /// What clients speak.
    pub framing: Framing,
    /// What they may write.
    pub writes: Vec<Writable>,
    /// For how long a read is answered from the last answer to the same read.
    pub cache: Option<Span>,
}

/// What clients of a share speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// Whatever the first frame of a connection is.
    #[default]
    Auto,
    /// Modbus TCP.
    Tcp,
    /// RTU frames over TCP.
    Rtu,
}

/// Coils or holding registers of one unit that clients may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writable {
    /// The unit id.
    pub unit: u8,
    /// Coils or holding registers.
    pub area: Area,
    /// The first of them.
    pub first: u16,
    /// The last of them.
    pub last: u16,
}

/// The table form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(deserialize_with = "bind")]
    bind: SocketAddr,
    #[serde(default)]
    framing: Framing,
    #[serde(default)]
    writes: Vec<Writable>,
    #[serde(default)]
    cache: Option<Span>,
}

fn address<E: Error>(text: &str) -> Result<SocketAddr, E> {
    let wrong =
        || E::custom(format!("`{text}` is no address and port to listen on, such as \"127.0.0.1:5020\""));
    text.parse().map_err(|_| wrong())
}

fn bind<'de, D: Deserializer<'de>>(d: D) -> Result<SocketAddr, D::Error> {
    address(&String::deserialize(d)?)
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Share;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address such as \"127.0.0.1:5020\", or a table with `bind`")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Share, E> {
        Ok(Share { bind: address(text)?, framing: Framing::Auto, writes: Vec::new(), cache: None })
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Share, A::Error> {
        let Keys { bind, framing, writes, cache } = Keys::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Share { bind, framing, writes, cache })
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Reader)
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "object"],
            "additionalProperties": false,
            "required": ["bind"],
            "properties": {
                "bind": { "type": "string", "description": "Address and port. On loopback only programs of this machine reach it." },
                "framing": {
                    "enum": ["auto", "tcp", "rtu"], "default": "auto",
                    "description": "`tcp`: Modbus TCP. `rtu`: RTU frames over TCP. `auto`: by the first frame of each connection."
                },
                "writes": {
                    "type": "array", "items": { "type": "string" },
                    "description": "What may be written, both ends included: `[\"1/holding:100..110\", \"2/coil:0\"]`. The rest: exception 01."
                },
                "cache": { "type": "string", "description": "So long is the same read answered from the last answer. Default: always ask the device." }
            }
        })
    }
}

impl Writable {
    /// Understands `"1/holding:100..110"`.
    ///
    /// # Errors
    /// What is wrong with it, and the cure.
    pub fn parse(text: &str) -> Result<Self, (String, String)> {
        let wrong = |why: &str| (format!("`{text}` {why}"), "for example \"1/holding:100..110\"".to_owned());
        let within = |(why, cure): (String, String)| (format!("`{text}`: {why}"), cure);
        let (unit, registers) = text.split_once('/').ok_or_else(|| wrong("names no unit and register"))?;
        let unit = unit.trim().parse().map_err(|_| wrong("does not begin with a unit id"))?;
        let (first, last) = match registers.split_once("..") {
            Some((first, last)) => (first, Some(last.strip_prefix('=').unwrap_or(last))),
            None => (registers, None),
        };
        let (area, first) = register(first.trim()).map_err(within)?;
        let last = match last {
            Some(last) => register(&format!("{area}:{}", last.trim())).map_err(within)?.1,
            None => first,
        };
        if !area.writable() {
            let cure = "name coil: or holding:".to_owned();
            return Err((format!("`{text}`: {area} registers cannot be written"), cure));
        }
        if first > last {
            return Err(wrong("ends before it begins"));
        }
        Ok(Self { unit, area, first, last })
    }

    /// Whether all of these registers are within it.
    #[must_use]
    pub fn covers(&self, unit: u8, area: Area, first: u16, last: u16) -> bool {
        (self.unit, self.area) == (unit, area) && self.first <= first && last <= self.last
    }
}

impl fmt::Display for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.unit, self.area, self.first)?;
        if self.last > self.first { write!(f, "..{}", self.last) } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for Writable {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(d)?)
            .map_err(|(why, cure)| D::Error::custom(format!("{why}; {cure}")))
    }
}

impl Serialize for Writable {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Puts a mistake in `writes` at the entry that has it, and every one of them: serde knows the place of the list
/// alone, and stops at the first.
pub(super) fn entries(raw: &Raw<'_>, problems: &mut Vec<Problem>) {
    let list = raw.table.get("share").and_then(|share| share.get_ref().as_table()?.get("writes"));
    let Some((list, items)) = list.and_then(|list| Some((list.span(), list.get_ref().as_array()?))) else {
        return;
    };
    let place = |range| Place { source: raw.source, range };
    let Some(told) = problems.iter().position(|p| p.place == place(list.clone())) else { return };
    let one = |item: &toml::Spanned<toml::de::DeValue<'_>>| match item.get_ref().as_str().map(Writable::parse)
    {
        Some(Ok(_)) => None,
        Some(Err((why, cure))) => {
            Some(Problem::new(place(item.span()), format!("`writes`: {why}")).hint(cure))
        }
        None => {
            let problem = Problem::new(place(item.span()), "`writes`: this is no text");
            Some(problem.hint("for example \"1/holding:100..110\""))
        }
    };
    let each: Vec<Problem> = items.iter().filter_map(one).collect();
    if !each.is_empty() {
        problems.splice(told..=told, each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_written_is_read_in_every_notation_and_slips_are_told() {
        let range = Writable { unit: 1, area: Area::Holding, first: 100, last: 110 };
        for text in ["1/holding:100..110", " 1 / holding:100 .. 110 ", "1/holding:0x64..=0x6E"] {
            assert_eq!(Writable::parse(text), Ok(range), "{text}");
        }
        assert_eq!(range.to_string(), "1/holding:100..110");
        assert_eq!(Writable::parse("2/coil:0").map(|w| w.to_string()), Ok("2/coil:0".to_owned()));
        for (text, why) in [
            ("holding:1", "names no unit"),
            ("x/holding:1", "unit id"),
            ("300/holding:1", "unit id"),
            ("1/input:1", "cannot be written"),
            ("1/holding:9..3", "ends before"),
            ("1/holdin:9", "did you mean"),
            ("1/holding:9..", "is not a register's address"),
            ("1/holding:9..70000", "beyond 65535 | protocol addresses"),
        ] {
            let (message, cure) = Writable::parse(text).expect_err(text);
            let told = format!("{message} | {cure}");
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn a_range_covers_what_is_whole_within_it() {
        let range = Writable { unit: 1, area: Area::Holding, first: 100, last: 110 };
        assert!(range.covers(1, Area::Holding, 100, 110) && range.covers(1, Area::Holding, 105, 105));
        for (unit, area, first, last) in [
            (2, Area::Holding, 100, 100),
            (1, Area::Coil, 100, 100),
            (1, Area::Holding, 99, 100),
            (1, Area::Holding, 110, 111),
        ] {
            assert!(!range.covers(unit, area, first, last), "{unit} {area} {first} {last}");
        }
    }

    #[test]
    fn it_is_an_address_or_a_table() {
        #[derive(Debug, Deserialize)]
        struct Bus {
            share: Share,
        }
        let read = |text: &str| toml::from_str::<Bus>(text).map(|bus| bus.share);
        let plain = read("share = '127.0.0.1:5020'").expect("an address");
        assert_eq!((plain.bind.port(), plain.framing, plain.writes.len()), (5020, Framing::Auto, 0));
        let full =
            read("share = { bind = '[::1]:5020', framing = 'rtu', writes = ['1/coil:0'], cache = '500ms' }")
                .expect("a table");
        assert_eq!((full.framing, full.writes.len(), full.cache), (Framing::Rtu, 1, Some(Span::ms(500))));
        for (text, why) in [
            ("share = '5020'", "no address and port"),
            ("share = 5020", "expected an address"),
            ("share = { framing = 'tcp' }", "missing field `bind`"),
            ("share = { bind = 'localhost' }", "no address and port"),
            ("share = { bind = '127.0.0.1:1', wirtes = [] }", "unknown field `wirtes`"),
        ] {
            let told = read(text).expect_err(text).to_string();
            assert!(told.contains(why), "{text}: {told}");
        }
    }
}
