//! One JSON Schema (draft 2020-12) of the whole configuration, made from the types and all drivers.
//!
//! Editors complete and check with it; `reference.toml` is printed from it.

use driver_api::Driver;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::model::{Broker, BusCommon, DeviceCommon, Gateway, PointCommon, Store, Uplink};
use super::profile::ProfileHead;

/// Deepest chain of references that is followed; a schema that refers to itself is cut there.
const MAX_DEPTH: usize = 16;

/// The schema of `fieldgate.toml` and of the files in `conf.d`.
#[must_use]
pub fn whole(drivers: &[&dyn Driver]) -> Value {
    let bus: Vec<Value> = drivers.iter().map(|d| bus(*d)).collect();
    let device: Vec<Value> = drivers.iter().map(|d| device(*d)).collect();
    let mut gateway = of::<Gateway>();
    // The default is the host name of whoever makes the schema.
    if let Some(id) = gateway.pointer_mut("/properties/id").and_then(Value::as_object_mut) {
        id.remove("default");
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fieldgate",
        "description": "The configuration of fieldgate: fieldgate.toml and conf.d/*.toml.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "gateway": gateway,
            "broker": of::<Broker>(),
            "store": of::<Store>(),
            "uplink": list("Cloud brokers.", of::<Uplink>()),
            "bus": list("Physical lines and endpoints.", json!({ "oneOf": bus })),
            "device": list("Addressable things on the buses.", json!({ "anyOf": device })),
        }
    })
}

/// The schema of a device profile.
#[must_use]
pub fn profile(drivers: &[&dyn Driver]) -> Value {
    let points: Vec<Value> = drivers.iter().map(|d| point(*d)).collect();
    let devices: Vec<Value> = drivers.iter().map(|d| cleaned(d.schemas().device)).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fieldgate device profile",
        "type": "object",
        "additionalProperties": false,
        "required": ["profile"],
        "properties": {
            "profile": of::<ProfileHead>(),
            "device": { "description": "Defaults of the device's keys.", "anyOf": devices },
            "point": list("Points, as in the configuration.", json!({ "anyOf": points })),
        }
    })
}

/// `[[bus]]` with one driver.
pub(super) fn bus(driver: &dyn Driver) -> Value {
    let mut schema = merged(of::<BusCommon>(), cleaned(driver.schemas().bus), driver.name());
    if let Some(word) = schema.pointer_mut("/properties/driver").and_then(Value::as_object_mut) {
        word.insert("const".into(), driver.name().into());
    }
    schema
}

/// `[[device]]` on a bus with one driver.
pub(super) fn device(driver: &dyn Driver) -> Value {
    let mut schema = merged(of::<DeviceCommon>(), cleaned(driver.schemas().device), driver.name());
    if let Some(keys) = schema.pointer_mut("/properties").and_then(Value::as_object_mut) {
        keys.insert("point".into(), list("Its points.", point(driver)));
    }
    schema
}

/// `[[device.point]]` on a bus with one driver.
pub(super) fn point(driver: &dyn Driver) -> Value {
    merged(of::<PointCommon>(), cleaned(driver.schemas().point), driver.name())
}

/// The keys of `[[bus]]` with every driver.
pub(super) fn bus_common() -> Value {
    of::<BusCommon>()
}

/// The keys of `[[device]]` with every driver.
pub(super) fn device_common() -> Value {
    of::<DeviceCommon>()
}

/// The keys of `[[device.point]]` with every driver.
pub(super) fn point_common() -> Value {
    of::<PointCommon>()
}

fn list(description: &str, items: Value) -> Value {
    json!({ "type": "array", "description": description, "items": items })
}

fn of<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true).into_generator();
    cleaned(generator.into_root_schema_for::<T>())
}

/// The common keys of a table and its driver's in one.
fn merged(mut common: Value, driver: Value, title: &str) -> Value {
    let (Some(into), Value::Object(mut own)) = (common.as_object_mut(), driver) else { return common };
    if let (Some(keys), Some(Value::Object(more))) =
        (into.get_mut("properties").and_then(Value::as_object_mut), own.remove("properties"))
    {
        keys.extend(more);
    }
    if let Some(Value::Array(more)) = own.remove("required") {
        match into.get_mut("required").and_then(Value::as_array_mut) {
            Some(required) => required.extend(more),
            None => {
                into.insert("required".into(), more.into());
            }
        }
    }
    into.insert("title".into(), title.into());
    common
}

/// References resolved, and what TOML cannot say (`null`) taken out.
fn cleaned(schema: schemars::Schema) -> Value {
    let mut value = schema.to_value();
    let definitions = value.as_object_mut().and_then(|o| o.remove("$defs")).unwrap_or_default();
    clean(&mut value, &definitions, 0);
    if let Some(object) = value.as_object_mut() {
        object.remove("$schema");
        object.remove("title");
    }
    value
}

fn clean(value: &mut Value, definitions: &Value, depth: usize) {
    match value {
        Value::Object(object) => {
            resolve(object, definitions, depth);
            object.retain(|_, inner| !inner.is_null());
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|t| t != "null");
                if let [one] = types.as_slice() {
                    let one = one.clone();
                    object.insert("type".into(), one);
                }
            }
            if let Some(Value::Array(words)) = object.get_mut("enum") {
                words.retain(|w| !w.is_null());
            }
            if let Some(Value::Array(cases)) = object.get_mut("anyOf") {
                cases.retain(|case| case.get("type").is_none_or(|t| t != "null"));
                if cases.len() == 1
                    && let Some(Value::Object(only)) = cases.pop()
                {
                    object.remove("anyOf");
                    for (key, inner) in only {
                        object.entry(key).or_insert(inner);
                    }
                    resolve(object, definitions, depth);
                }
            }
            for inner in object.values_mut() {
                clean(inner, definitions, depth + 1);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| clean(item, definitions, depth + 1)),
        _ => {}
    }
}

/// Puts what `$ref` names in its place; the keys beside it (a field's own description) go first.
fn resolve(object: &mut Map<String, Value>, definitions: &Value, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    let Some(Value::String(reference)) = object.remove("$ref") else { return };
    let target = reference.strip_prefix("#/$defs/").and_then(|name| definitions.get(name));
    if let Some(Value::Object(target)) = target {
        for (key, inner) in target {
            object.entry(key.clone()).or_insert_with(|| inner.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::buses::{BUS_KEYS, DEVICE_KEYS, POINT_KEYS};

    fn keys(schema: &Value) -> Vec<&str> {
        schema["properties"].as_object().expect("properties").keys().map(String::as_str).collect()
    }

    #[test]
    fn the_lists_of_common_keys_are_those_of_the_types() {
        assert_eq!(keys(&of::<BusCommon>()), BUS_KEYS);
        let device = of::<DeviceCommon>();
        assert_eq!([keys(&device), vec!["point"]].concat(), DEVICE_KEYS, "and the points");
        assert_eq!(keys(&of::<PointCommon>()), POINT_KEYS);
    }

    #[test]
    fn the_schema_stands_alone_and_knows_every_drivers_keys() {
        let schema = whole(crate::config::testing::DRIVERS);
        let text = schema.to_string();
        assert!(!text.contains("$ref") && !text.contains("\"null\"") && !text.contains(":null"));
        let bus = &schema["properties"]["bus"]["items"]["oneOf"][0];
        assert_eq!(bus["properties"]["driver"]["const"], "modbus-rtu");
        assert!(bus["properties"]["baud"].is_object());
        assert_eq!(bus["additionalProperties"], false);
        assert_eq!(bus["required"], json!(["name", "driver", "port"]));
        let point = &schema["properties"]["device"]["items"]["anyOf"][0]["properties"]["point"]["items"];
        assert!(point["properties"]["register"].is_object() && point["properties"]["deadband"].is_object());
    }
}
