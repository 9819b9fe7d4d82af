//! Prints `reference.toml`: every section and key with its explanation, default and an example.
//!
//! The text is made from the JSON Schema, so from the doc comments on the types. It is itself a valid
//! configuration: every key stands behind a `#`.

use std::fmt::Write as _;

use driver_api::Driver;
use serde_json::Value;

use super::buses::{BUS_KEYS, DEVICE_KEYS, POINT_KEYS};
use super::schema;

const HEAD: &str = "\
# fieldgate: every section and every key.
#
# Made by `fieldgate schema --reference`; do not edit. What you need, copy to fieldgate.toml or to a
# file in conf.d/. Lines that start with `# ` explain. Lines that start with `#` and a key show its
# default; where there is none, or it depends on something, the line ends in `# for example`. This
# file itself is a valid configuration.
#
# Files: fieldgate.toml first, then conf.d/*.toml in name order. In [gateway], [broker] and [store] a
# later file's keys go over those of an earlier one, key by key; [[uplink]], [[bus]], [[device]] and
# [[broker.listener]] are appended. Relative paths start from the directory of the file they stand in.
# Durations: \"500ms\" \"1s\" \"5m\" \"2h\" \"30d\". Sizes: \"64KiB\" \"16MiB\" \"1GiB\" (or kB, MB, GB).
# `fieldgate check` finds all mistakes at once, and shows what will be polled.
";

/// Examples of drivers' keys that bring none themselves: table, key, TOML. The first that fits counts;
/// `i2c device` is only that driver's.
const EXAMPLES: &[(&str, &str, &str)] = &[
    ("i2c device", "address", "0x76"),
    ("i2c point", "name", "\"temperature\""),
    ("point", "name", "\"point1\""),
    ("bus", "port", "\"/dev/serial/by-id/usb-FTDI_FT232R-if00-port0\""),
    ("bus", "address", "\"10.0.0.7:502\""),
    ("bus", "path", "\"/dev/i2c-1\""),
    ("device", "address", "1"),
    ("device", "max_gap", "10"),
    ("device", "pattern", "'(?P<weight>[-+]?[0-9.]+)kg'"),
    ("device", "request", "\"P\\r\\n\""),
    ("device", "terminator", "\"\\r\\n\""),
    ("point", "register", "\"input:0\""),
    ("point", "type", "\"f32\""),
    ("point", "bit", "3"),
    ("point", "bits", "[4, 7]"),
    ("point", "invalid", "0x8000"),
    ("point", "scale_register", "\"input:5\""),
    ("device", "sunspec_base", "40000"),
    ("device", "setup", "[{ register = \"holding:10\", type = \"u16\", value = 1 }]"),
    ("point", "capture", "\"weight\""),
    ("point", "low", "0.0"),
    ("point", "high", "100.0"),
    ("point", "period", "\"10s\""),
    ("point", "value", "\"batch {n}\""),
];

/// The text of `reference.toml`.
#[must_use]
pub fn text(drivers: &[&dyn Driver]) -> String {
    let whole = schema::whole(drivers);
    let mut out = HEAD.to_owned();
    for name in ["gateway", "broker", "store"] {
        let schema = &whole["properties"][name];
        section(&mut out, &format!("[{name}]"), schema);
        keys(&mut out, name, schema, &[]);
        for (key, inner) in properties(schema).filter(|(_, inner)| is_table_list(inner)) {
            section(&mut out, &format!("#[[{name}.{key}]]"), &with_doc(&inner["items"], inner));
            keys(&mut out, name, &inner["items"], &[]);
        }
    }
    let uplink = &whole["properties"]["uplink"]["items"];
    section(&mut out, "#[[uplink]]", uplink);
    keys(&mut out, "uplink", uplink, &[]);
    for (key, inner) in properties(uplink).filter(|(_, inner)| is_table_list(inner)) {
        section(&mut out, &format!("#[[uplink.{key}]]"), &with_doc(&inner["items"], inner));
        keys(&mut out, "uplink", &inner["items"], &[]);
    }
    field(&mut out, drivers);
    out
}

/// Buses, devices and points: the keys of all drivers once, then those of each.
fn field(out: &mut String, drivers: &[&dyn Driver]) {
    let names: Vec<&str> = drivers.iter().map(|d| d.name()).collect();
    rule(out, "Buses, devices and points with every driver");
    let _infallible =
        writeln!(out, "#\n# A bus is one line or endpoint, a device an addressable thing on it, a point one");
    let _infallible = writeln!(out, "# quantity of the device. The drivers are {}.", names.join(", "));
    for (title, table, schema) in [
        ("#[[bus]]", "bus", schema::bus_common()),
        ("#[[device]]", "device", schema::device_common()),
        ("#[[device.point]]", "point", schema::point_common()),
    ] {
        section(out, title, &schema);
        keys(out, table, &schema, &[]);
    }
    let mut told: Vec<(&str, [Value; 2])> = Vec::new();
    for driver in drivers {
        let name = driver.name();
        rule(out, &format!("Driver {name}: its own keys"));
        let _infallible = writeln!(out, "\n#[[bus]]\n#name = \"{name}-1\"\n#driver = \"{name}\"");
        keys(out, &format!("{name} bus"), &schema::bus(*driver), BUS_KEYS);
        let deeper = [schema::device(*driver), schema::point(*driver)];
        if let Some((same, _)) = told.iter().find(|(_, other)| is_same(other, &deeper)) {
            let _infallible = writeln!(out, "\n# Devices and points have the same keys as with {same}.");
            continue;
        }
        let _infallible = writeln!(out, "\n#[[device]]\n#name = \"{name}-device\"\n#bus = \"{name}-1\"");
        keys(out, &format!("{name} device"), &deeper[0], DEVICE_KEYS);
        let point = format!("{name} point");
        let _infallible =
            writeln!(out, "\n#[[device.point]]\n#name = {}", ours(&point, "name").unwrap_or("\"p\""));
        keys(out, &point, &deeper[1], POINT_KEYS);
        told.push((name, deeper));
    }
}

fn is_same(one: &[Value; 2], other: &[Value; 2]) -> bool {
    one.iter().zip(other).all(|(a, b)| {
        properties(a).filter(|(k, _)| *k != "point").eq(properties(b).filter(|(k, _)| *k != "point"))
    })
}

fn rule(out: &mut String, title: &str) {
    let _infallible = writeln!(out, "\n# ---- {title} {}", "-".repeat(90_usize.saturating_sub(title.len())));
}

fn section(out: &mut String, title: &str, schema: &Value) {
    out.push('\n');
    explain(out, schema, "# ");
    let _infallible = writeln!(out, "{title}");
}

/// All keys of a table but those in `but`.
fn keys(out: &mut String, table: &str, schema: &Value, but: &[&str]) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, inner) in properties(schema) {
        // Lists of tables have sections of their own, but for those that are written in one line.
        if is_table_list(inner) && ours(table, key).is_none() || but.contains(&key.as_str()) {
            continue;
        }
        explain(out, inner, "# ");
        choices(out, inner);
        let within = if is_table_list(inner) { &inner["items"] } else { inner };
        for (nested, deeper) in properties(within) {
            let doc = deeper["description"].as_str().unwrap_or_default().replace('\n', " ");
            let _infallible = writeln!(out, "#   {nested}: {doc}");
        }
        let is_required = required.contains(&key.as_str());
        if is_required {
            out.push_str("# Required.\n");
        }
        let shows_default = inner.get("default").is_some() && !is_table_list(inner);
        let note = if is_required || shows_default { "" } else { "  # for example" };
        let _infallible = writeln!(out, "#{key} = {}{note}", example(table, key, inner));
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
    if let (true, Some(ours)) = (is_table_list(schema), ours(table, key)) {
        return ours.to_owned();
    }
    if let Some(word) = schema.get("const") {
        return toml(word);
    }
    if let Some(default) = schema.get("default") {
        return toml(default);
    }
    if let Some(first) = schema["examples"].get(0) {
        return toml(first);
    }
    if let Some(first) = schema["enum"].get(0).or_else(|| schema["oneOf"][0].get("const")) {
        return toml(first);
    }
    if let Some(ours) = ours(table, key) {
        return ours.to_owned();
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
        _ => "\"…\"".into(),
    }
}

fn ours(table: &str, key: &str) -> Option<&'static str> {
    let fits = |t: &str| table == t || table.strip_suffix(t).is_some_and(|driver| driver.ends_with(' '));
    EXAMPLES.iter().find(|(t, k, _)| fits(t) && *k == key).map(|(_, _, toml)| *toml)
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
