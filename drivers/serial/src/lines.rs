//! Protocol `lines`: one telegram a line, understood by a regular expression with named captures.
//!
//! The pattern is searched in each line, so noise before a telegram does no harm; anchor it (`^…$`)
//! where a line can hold more than the telegram. There is no checksum in such a line: a changed
//! digit is a wrong value that nothing can tell, so take in as much fixed text as the device prints.

use driver_api::table::nearest;
use driver_api::{DeviceSpec, Problem, Reason, Value};
use regex::Regex;
use schemars::{JsonSchema, Schema, schema_for};
use serde::Deserialize;

use crate::assemble::{MAX_TERMINATOR, Terminator};
use crate::number::Kind;
use crate::protocol::{Decode, Field, Protocol, Speech};

/// The protocol `lines`.
#[derive(Debug, Clone, Copy)]
pub struct Lines;

/// Keys of `[[device]]` with `protocol = "lines"`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeviceKeys {
    /// Regular expression that is searched in each line. Every named capture `(?P<weight>…)` is a
    /// point of that name. A line that does not match is skipped.
    pattern: String,
    /// What makes the device speak, sent once per `interval` (`"P\r\n"`; `"\u0005"` is ENQ). Without
    /// it the device is only listened to.
    #[serde(default)]
    request: Option<String>,
    /// What ends a line. By default CR, LF, or both.
    #[serde(default)]
    terminator: Option<String>,
}

/// Keys of `[[device.point]]` with `protocol = "lines"`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "point of a serial device")]
struct PointKeys {
    /// The named capture it is read from. By default the one of the point's own name.
    #[serde(default)]
    capture: Option<String>,
    /// What the capture is read as.
    #[serde(default, rename = "type")]
    kind: Kind,
}

impl Protocol for Lines {
    fn name(&self) -> &'static str {
        "lines"
    }

    fn device_schema(&self) -> Schema {
        schema_for!(DeviceKeys)
    }

    fn point_schema(&self) -> Schema {
        schema_for!(PointKeys)
    }

    fn compile(&self, device: &DeviceSpec<'_>, problems: &mut Vec<Problem>) -> Option<Speech> {
        let before = problems.len();
        let keys = device.table.parse::<DeviceKeys>(problems);
        let mut points = Vec::new();
        for (n, point) in device.points.iter().enumerate() {
            if point.writable {
                problems.push(
                    Problem::new(point.table.place(), format!("`{}` cannot be written", point.name))
                        .hint("lines are only listened to; remove `writable = true`"),
                );
            }
            points.extend(point.table.parse::<PointKeys>(problems).map(|keys| (n, keys)));
        }
        let keys = keys?;
        let request = keys.request.map(String::into_bytes);
        if request.as_ref().is_some_and(Vec::is_empty) {
            problems.push(
                Problem::new(device.table.place_of("request"), "`request` is empty")
                    .hint("leave it out to listen only"),
            );
        }
        let terminator = keys.terminator.map(String::into_bytes);
        if let Some(bytes) = &terminator
            && !(1..=MAX_TERMINATOR).contains(&bytes.len())
        {
            problems.push(
                Problem::new(device.table.place_of("terminator"), "`terminator` has the wrong length")
                    .hint(format!("1 to {MAX_TERMINATOR} bytes; left out it is CR, LF or both")),
            );
        }
        let pattern = compile_pattern(&keys.pattern)
            .map_err(|why| problems.push(Problem::new(device.table.place_of("pattern"), why)))
            .ok()?;
        let captures: Vec<&str> = pattern.capture_names().flatten().collect();
        if captures.is_empty() {
            problems.push(
                Problem::new(device.table.place_of("pattern"), "`pattern` names no capture")
                    .hint("name what is measured: (?P<weight>[-+]?[0-9.]+)"),
            );
            return None;
        }
        let chosen = choose(device, &points, &captures, problems);
        if problems.len() > before {
            return None;
        }
        let (fields, groups) = chosen.into_iter().map(|c| (c.field, c.group)).unzip();
        Some(Speech {
            request,
            terminator: terminator.map_or(Terminator::CrLf, Terminator::Bytes),
            fields,
            decoder: Box::new(Decoder { pattern, groups }),
        })
    }
}

/// The expression, or what is wrong with it in one line and the expression's own words.
fn compile_pattern(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default();
        format!("`pattern`: {}", last.strip_prefix("error: ").unwrap_or(last))
    })
}

/// A point and the capture it is read from.
struct Chosen {
    field: Field,
    group: (String, Kind),
}

/// Entries first, each with its capture; then every capture that no entry took or shadows.
fn choose(
    device: &DeviceSpec<'_>,
    points: &[(usize, PointKeys)],
    captures: &[&str],
    problems: &mut Vec<Problem>,
) -> Vec<Chosen> {
    let mut chosen: Vec<Chosen> = Vec::new();
    let mut choose = |name: &str, spec: Option<usize>, capture: &str, kind: Kind| {
        chosen.push(Chosen {
            field: Field {
                name: name.to_owned(),
                spec,
                unit: None,
                kind: kind.word().to_owned(),
                source: format!("capture {capture}"),
            },
            group: (capture.to_owned(), kind),
        });
    };
    let mut taken: Vec<&str> = Vec::new();
    for (spec, keys) in points {
        let point = &device.points[*spec];
        let wanted = keys.capture.as_deref().unwrap_or(&point.name);
        taken.extend([wanted, &point.name]);
        if captures.contains(&wanted) {
            choose(&point.name, Some(*spec), wanted, keys.kind);
            continue;
        }
        let problem = Problem::new(
            point.table.place_of("capture"),
            format!("`pattern` of `{}` has no capture `{wanted}`", device.name),
        );
        problems.push(match nearest(wanted, captures) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem.hint(format!("it has {}", captures.join(", "))),
        });
    }
    for capture in captures.iter().filter(|c| !taken.contains(c)) {
        choose(capture, None, capture, Kind::default());
    }
    chosen
}

/// The pattern, and which capture each field is read from, as what.
struct Decoder {
    pattern: Regex,
    groups: Vec<(String, Kind)>,
}

impl Decode for Decoder {
    fn decode(&self, line: &str, out: &mut Vec<(usize, Result<Value, Reason>)>) -> bool {
        let Some(found) = self.pattern.captures(line) else { return false };
        for (n, (group, kind)) in self.groups.iter().enumerate() {
            // A capture in an alternative that was not taken says nothing.
            if let Some(text) = found.name(group) {
                out.push((n, kind.read(text.as_str())));
            }
        }
        true
    }
}
