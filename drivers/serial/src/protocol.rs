//! What a line protocol is, and the one list of them.

use driver_api::table::nearest;
use driver_api::{DeviceSpec, Place, Problem, Reason, Schemas, Value};
use schemars::{JsonSchema, Schema, schema_for};

use crate::assemble::Terminator;
use crate::{lines, port};

/// Every protocol of this driver, in the order the manual lists them.
pub static PROTOCOLS: &[&dyn Protocol] = &[&lines::Lines];

/// One way of saying measurements in text. Stateless: one `static` per protocol.
pub trait Protocol: Sync {
    /// The word that selects it in `protocol = "…"`.
    fn name(&self) -> &'static str;

    /// Its own keys of `[[device]]` (without `protocol`).
    fn device_schema(&self) -> Schema;

    /// Its own keys of `[[device.point]]`.
    fn point_schema(&self) -> Schema;

    /// Understands a device's tables, from which `protocol` was taken out. `None` exactly when
    /// something was pushed onto `problems`.
    fn compile(&self, device: &DeviceSpec<'_>, problems: &mut Vec<Problem>) -> Option<Speech>;
}

/// A compiled device: what to ask, how its lines end, and what they mean.
pub struct Speech {
    /// What makes it speak; `None` if it speaks by itself.
    pub request: Option<Vec<u8>>,
    /// What ends a line.
    pub terminator: Terminator,
    /// Its points.
    pub fields: Vec<Field>,
    /// Turns a line into values of them.
    pub decoder: Box<dyn Decode>,
}

/// One point of a compiled device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The point's name.
    pub name: String,
    /// Index into [`DeviceSpec::points`], if it stands there.
    pub spec: Option<usize>,
    /// The unit, where the protocol knows it.
    pub unit: Option<String>,
    /// The type word.
    pub kind: String,
    /// Where in the line it comes from, as a person writes it.
    pub source: String,
}

/// Turns lines into values. Pure.
pub trait Decode: Send {
    /// Appends (index into [`Speech::fields`], value) for what the line says. `false` if the line is
    /// not one of this device's measurements at all; then nothing was appended.
    fn decode(&self, line: &str, out: &mut Vec<(usize, Result<Value, Reason>)>) -> bool;
}

/// Keys of `[[device]]` that every protocol has.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, title = "device on a serial bus")]
#[expect(dead_code, reason = "`compile` reads the key by hand, to know which protocol reads the rest")]
struct DeviceKeys {
    /// What the device speaks.
    protocol: String,
}

/// The driver's schemas: the common keys and those of all protocols.
pub(crate) fn schemas() -> Schemas {
    let mut device = schema_for!(DeviceKeys);
    let mut point = Schema::default();
    for protocol in PROTOCOLS {
        merge(&mut device, &protocol.device_schema());
        merge(&mut point, &protocol.point_schema());
    }
    let names: Vec<&str> = PROTOCOLS.iter().map(|p| p.name()).collect();
    if let Some(key) = device.get_mut("properties").and_then(|p| p.get_mut("protocol")) {
        key["enum"] = names.into();
    }
    Schemas { bus: schema_for!(port::Settings), device, point }
}

/// Adds another schema's keys. What it requires is not required where another protocol is chosen, so
/// that stays with [`Protocol::compile`].
fn merge(into: &mut Schema, from: &Schema) {
    let into = into.ensure_object();
    for (key, value) in from.as_object().into_iter().flatten() {
        match (into.get_mut(key).and_then(|v| v.as_object_mut()), value.as_object()) {
            (Some(old), Some(new)) => old.extend(new.clone()),
            _ if key == "required" => {}
            _ => {
                into.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
}

/// Understands one device by its `protocol`.
pub(crate) fn compile(device: &DeviceSpec<'_>, problems: &mut Vec<Problem>) -> Option<Speech> {
    let mut device = device.clone();
    let header = device.table.place();
    let Some(word) = device.table.remove("protocol") else {
        problems.push(match device.table.keys().find(|k| nearest(k, &["protocol"]).is_some()) {
            Some(slip) => Problem::new(device.table.place_of(slip), format!("unknown key `{slip}`"))
                .hint("did you mean `protocol`?"),
            None => Problem::new(header, "`protocol` is missing").hint(choice()),
        });
        return None;
    };
    let place = Place { source: header.source, range: word.span() };
    let Some(name) = word.get_ref().as_str() else {
        problems.push(Problem::new(place, "`protocol` is not a word").hint(choice()));
        return None;
    };
    let Some(protocol) = PROTOCOLS.iter().find(|p| p.name() == name) else {
        let names: Vec<&str> = PROTOCOLS.iter().map(|p| p.name()).collect();
        problems.push(Problem::new(place, format!("no protocol is called `{name}`")).hint(
            match nearest(name, &names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => choice(),
            },
        ));
        return None;
    };
    protocol.compile(&device, problems)
}

fn choice() -> String {
    let names: Vec<String> = PROTOCOLS.iter().map(|p| format!("\"{}\"", p.name())).collect();
    format!("this build has {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_names_the_protocols_and_documents_every_key() {
        let schemas = schemas();
        for (schema, keys) in [
            (&schemas.bus, &["port", "baud", "parity", "stop_bits", "data_bits"][..]),
            (&schemas.device, &["protocol", "pattern", "request", "terminator"]),
            (&schemas.point, &["capture", "type"]),
        ] {
            let properties = schema.get("properties").and_then(|p| p.as_object()).expect("properties");
            assert_eq!(properties.keys().collect::<Vec<_>>(), keys);
            for (key, value) in properties {
                assert!(value.get("description").is_some(), "{key}: {value}");
            }
            assert_eq!(schema.get("additionalProperties").and_then(|a| a.as_bool()), Some(false));
        }
        let device = schemas.device.get("properties").expect("properties");
        assert_eq!(device["protocol"]["enum"][0], "lines");
    }
}
