//! Prints `reference.toml`: every section and key with its explanation, default and an example.
//!
//! The text is made from the JSON Schema, so from the doc comments on the types. It is itself a valid
//! configuration: every key stands behind a `#`.

use std::fmt::Write as _;

use driver_api::Driver;
use serde_json::Value;

use super::schema;

const HEAD: &str = "\
# fieldgate: every section and every key.
#
# Made by `fieldgate schema --reference`; do not edit. What you need, copy to fieldgate.toml or to a
# file in conf.d/. Lines that start with `# ` explain; lines that start with `#` and a key show its
# default, or an example where there is none. This file itself is a valid configuration.
#
# Files: fieldgate.toml first, then conf.d/*.toml in name order. In [gateway], [broker] and [store] a
# later file's keys go over those of an earlier one, key by key; [[uplink]], [[bus]], [[device]] and
# [[broker.listener]] are appended. Relative paths start from the directory of the file they stand in.
# Durations: \"500ms\" \"1s\" \"5m\" \"2h\" \"30d\". Sizes: \"64KiB\" \"16MiB\" \"1GiB\" (or kB, MB, GB).
# `fieldgate check` finds all mistakes at once, and shows what will be polled.
";

/// Examples of drivers' keys that bring none themselves: table, key, TOML.
const EXAMPLES: &[(&str, &str, &str)] = &[
    ("bus", "port", "\"/dev/serial/by-id/usb-FTDI_FT232R-if00-port0\""),
    ("bus", "address", "\"10.0.0.7:502\""),
    ("bus", "path", "\"/dev/i2c-1\""),
    ("device", "address", "1"),
    ("device", "chip", "\"bme280\""),
    ("device", "protocol", "\"lines\""),
    ("device", "pattern", "'(?P<weight>[-+]?[0-9.]+)kg'"),
    ("device", "request", "\"P\\r\\n\""),
    ("point", "register", "\"input:0\""),
    ("point", "type", "\"f32\""),
    ("point", "field", "\"weight\""),
];

/// The text of `reference.toml`.
#[must_use]
pub fn text(drivers: &[&dyn Driver]) -> String {
    let whole = schema::whole(drivers);
    let mut out = HEAD.to_owned();
    for name in ["gateway", "broker", "store"] {
        section(&mut out, &format!("[{name}]"), name, &whole["properties"][name], false);
        for (key, inner) in properties(&whole["properties"][name]) {
            if is_table_list(inner) {
                let title = format!("[[{name}.{key}]]");
                section(&mut out, &title, name, &with_doc(&inner["items"], inner), true);
            }
        }
    }
    section(&mut out, "[[uplink]]", "uplink", &whole["properties"]["uplink"]["items"], true);
    for driver in drivers {
        let name = driver.name();
        let _infallible =
            writeln!(out, "\n# ---- Driver {name} {}", "-".repeat(80_usize.saturating_sub(name.len())));
        let bus = schema::bus(*driver);
        let device = schema::device(*driver);
        section(&mut out, "[[bus]]", "bus", &bus, true);
        section(&mut out, "[[device]]", "device", &device, true);
        section(&mut out, "[[device.point]]", "point", &schema::point(*driver), true);
    }
    out
}

fn section(out: &mut String, title: &str, table: &str, schema: &Value, commented: bool) {
    out.push('\n');
    explain(out, schema, "# ");
    let _infallible = writeln!(out, "{}{title}", if commented { "#" } else { "" });
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, inner) in properties(schema) {
        if is_table_list(inner) {
            continue;
        }
        explain(out, inner, "# ");
        choices(out, inner);
        for (nested, deeper) in properties(inner) {
            let doc = deeper["description"].as_str().unwrap_or_default().replace('\n', " ");
            let _infallible = writeln!(out, "#   {nested}: {doc}");
        }
        if required.contains(&key.as_str()) {
            out.push_str("# Required.\n");
        }
        let _infallible = writeln!(out, "#{key} = {}", example(table, key, inner));
    }
}

/// The description, as comment lines.
fn explain(out: &mut String, schema: &Value, prefix: &str) {
    for line in schema["description"].as_str().unwrap_or_default().lines() {
        let _infallible = writeln!(out, "{}", format!("{prefix}{line}").trim_end());
    }
}

/// What the words of a choice mean.
fn choices(out: &mut String, schema: &Value) {
    for case in schema["oneOf"].as_array().into_iter().flatten() {
        if let (Some(word), Some(doc)) = (case.get("const"), case["description"].as_str()) {
            let _infallible = writeln!(out, "#   {word}: {}", doc.replace('\n', " "));
        }
    }
    let words: Vec<String> =
        schema["enum"].as_array().into_iter().flatten().map(ToString::to_string).collect();
    if words.len() > 1 {
        let _infallible = writeln!(out, "# One of {}.", words.join(", "));
    }
}

/// The value to show: the default, an example of the type's own, one of ours, or one made from the type.
fn example(table: &str, key: &str, schema: &Value) -> String {
    let ours = EXAMPLES.iter().find(|(t, k, _)| *t == table && *k == key).map(|(_, _, toml)| *toml);
    if let Some(word) = schema.get("const") {
        return toml(word);
    }
    if let Some(default) = schema.get("default") {
        return toml(default);
    }
    if let Some(first) = schema["examples"].get(0) {
        return toml(first);
    }
    if let Some(ours) = ours {
        return ours.to_owned();
    }
    if let Some(first) = schema["enum"].get(0).or_else(|| schema["oneOf"][0].get("const")) {
        return toml(first);
    }
    match (schema["x-kind"].as_str(), schema["type"].as_str()) {
        (Some("duration"), _) => "\"1s\"".into(),
        (Some("size"), _) => "\"1MiB\"".into(),
        (_, Some("boolean")) => "false".into(),
        (_, Some("integer")) => "1".into(),
        (_, Some("number")) => "1.0".into(),
        (_, Some("array")) => "[]".into(),
        (_, Some("object")) => {
            let inner: Vec<String> =
                properties(schema).map(|(k, v)| format!("{k} = {}", example(key, k, v))).collect();
            format!("{{ {} }}", inner.join(", "))
        }
        _ if key == "name" => format!("\"{table}1\""),
        _ if table == "device" && key == "bus" => "\"bus1\"".into(),
        _ => "\"…\"".into(),
    }
}

/// A JSON value as TOML writes it.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", "))
        }
        Value::Object(entries) => {
            let inner: Vec<String> = entries
                .iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| format!("{k} = {}", toml(v)))
                .collect();
            format!("{{ {} }}", inner.join(", "))
        }
        other => other.to_string(),
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

fn is_table_list(schema: &Value) -> bool {
    schema["type"] == "array" && schema["items"]["properties"].is_object()
}

/// A list's items, explained by the list where it says more.
fn with_doc(items: &Value, list: &Value) -> Value {
    let mut items = items.clone();
    if let (Some(object), Some(more)) = (items.as_object_mut(), list["description"].as_str()) {
        let own = object.get("description").and_then(Value::as_str).unwrap_or_default();
        let both = format!("{own}\n{more}").trim().to_owned();
        object.insert("description".into(), both.into());
    }
    items
}
