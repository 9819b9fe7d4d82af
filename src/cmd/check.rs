//! `fieldgate check`: every mistake of the configuration, or what it would poll and at which cost.
//!
//! Opens no port and no socket, so it is honest on a laptop too. Looks into every file that the configuration names.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use driver_api::{Block, Plan, Problem, Span};
use serde_json::{Value, json};

use super::exit::Exit;
use super::files::{self, Who};
use crate::config::{self, CompiledBus, Loaded, Report};

/// Check the configuration, and show what would be polled.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The configuration file; `conf.d/*.toml` beside it is read too.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Checks, and prints points, requests, load and warnings.
///
/// # Errors
/// [`Exit::Config`] with all mistakes, if there are any.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    match files::load(&args.config, Who::Person) {
        Ok(loaded) if args.json => writeln!(out, "{:#}", as_json(&loaded))?,
        Ok(loaded) => as_text(&loaded, out)?,
        Err(report) if args.json => {
            writeln!(
                out,
                "{:#}",
                json!({ "ok": false, "problems": list(&report, &report.problems), "warnings": list(&report, &report.warnings) })
            )?;
            return Err(Exit::Config(format!("the configuration has mistakes: {}", report.problems.len())));
        }
        Err(report) => return Err(Exit::from(&report)),
    }
    Ok(())
}

fn as_text(loaded: &Loaded, out: &mut dyn Write) -> std::io::Result<()> {
    let files: Vec<String> = loaded.files.iter().map(|f| f.display().to_string()).collect();
    writeln!(out, "gateway {} from {}", loaded.gateway.id, files.join(", "))?;
    for listener in &loaded.broker.listener {
        let tls = if listener.tls.is_some() { " with TLS" } else { "" };
        writeln!(out, "broker on {} ({}{tls})", listener.bind, word(&listener.transport))?;
    }
    for uplink in &loaded.uplinks {
        let (format, order) = (word(&uplink.format), word(&uplink.order));
        writeln!(out, "uplink {}: {} ({format}, {order})", uplink.name, uplink.url)?;
    }
    for bus in &loaded.buses {
        bus_as_text(bus, out)?;
    }
    if loaded.buses.is_empty() {
        writeln!(out, "\nno devices: nothing is polled")?;
    }
    if !loaded.warnings.warnings.is_empty() {
        write!(out, "\n{}", loaded.warnings.render(false))?;
    }
    let points: usize = loaded.buses.iter().map(|b| b.points.len()).sum();
    let devices: usize = loaded.buses.iter().map(|b| b.devices.len()).sum();
    let totals = [
        counted(loaded.buses.len(), "bus", "es"),
        counted(devices, "device", "s"),
        counted(points, "point", "s"),
    ];
    writeln!(out, "\nok: {}; config_hash {}", totals.join(", "), loaded.hash)
}

fn bus_as_text(bus: &CompiledBus, out: &mut dyn Write) -> std::io::Result<()> {
    let plan = bus.bus.plan();
    let load = plan.predicted_load() * 100.0;
    let requests = counted(plan.blocks.len() + plan.chores.len(), "request", "s");
    writeln!(out, "\nbus {} ({}): {requests}, predicted load {load:.1} %", bus.name, bus.driver)?;
    if let Some(share) = &bus.share {
        let writes: Vec<String> = share.writes.iter().map(ToString::to_string).collect();
        let may = if writes.is_empty() {
            "read only".to_owned()
        } else {
            format!("may write {}", writes.join(", "))
        };
        writeln!(out, "  shared on {} (framing {}; {may})", share.bind, word(&share.framing))?;
    }
    for (index, device) in plan.devices.iter().enumerate() {
        writeln!(out, "  device {} (address {})", device.name, device.address)?;
        let rows: Vec<[String; 6]> = plan
            .points
            .iter()
            .enumerate()
            .zip(&bus.points)
            .filter(|((_, point), _)| point.device == index)
            .map(|((number, point), settings)| {
                let read = plan.block_of(number).is_some();
                [
                    point.name.clone(),
                    point.source.clone(),
                    point.kind.clone(),
                    settings.unit.clone().unwrap_or_else(|| "-".to_owned()),
                    if read { format!("every {}", Span(settings.interval)) } else { "never read".to_owned() },
                    if settings.writable { "writable".to_owned() } else { String::new() },
                ]
            })
            .collect();
        table(&rows, "    ", out)?;
    }
    let row = |device: usize, every: String, cost: Duration, load: f64, for_: String, what: &str| {
        let device = plan.devices.get(device).map(|d| d.name.clone()).unwrap_or_default();
        let (cost, load) = (format!("{:.1} ms", cost.as_secs_f64() * 1e3), format!("{:.1} %", load * 100.0));
        [device, every, cost, load, for_, what.to_owned()]
    };
    let blocks = plan.blocks.iter().map(|block| {
        let points = format!("{}{}", counted(block.points.len(), "point", "s"), riders(plan, block));
        row(block.device, every(block.every), block.cost, block.load(), points, &block.what)
    });
    let chores = plan.chores.iter().map(|chore| {
        row(chore.device, every(chore.every), chore.cost, chore.load(), chore.purpose.clone(), &chore.what)
    });
    let rows: Vec<[String; 6]> = blocks.chain(chores).collect();
    if !rows.is_empty() {
        writeln!(out, "  requests")?;
    }
    table(&rows, "    ", out)
}

/// The points that ride along with a faster request, by the intervals at which they are reported.
fn riders(plan: &Plan, block: &Block) -> String {
    let mut counts: BTreeMap<Duration, usize> = BTreeMap::new();
    for rider in plan.riders(block) {
        *counts.entry(rider.every).or_default() += 1;
    }
    let groups = counts.into_iter().map(|(every, count)| format!(", {count} of them every {}", Span(every)));
    groups.collect()
}

/// Columns under each other.
fn table<const N: usize>(rows: &[[String; N]], indent: &str, out: &mut dyn Write) -> std::io::Result<()> {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{indent}{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

fn every(interval: Duration) -> String {
    if interval == Duration::MAX { "when it speaks".to_owned() } else { format!("every {}", Span(interval)) }
}

fn counted(n: usize, what: &str, plural: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { plural })
}

/// The word that a choice has in the configuration.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn as_json(loaded: &Loaded) -> Value {
    json!({
        "ok": true,
        "gateway": loaded.gateway.id,
        "config_hash": loaded.hash,
        "files": loaded.files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>(),
        "uplinks": loaded.uplinks.iter().map(|u| json!({ "name": u.name, "url": u.url })).collect::<Vec<_>>(),
        "buses": loaded.buses.iter().map(bus_as_json).collect::<Vec<_>>(),
        "warnings": list(&loaded.warnings, &loaded.warnings.warnings),
    })
}

fn bus_as_json(bus: &CompiledBus) -> Value {
    let plan = bus.bus.plan();
    let name = |device: usize| plan.devices.get(device).map(|d| d.name.as_str());
    let points = plan.points.iter().zip(&bus.points).map(|(point, settings)| {
        json!({
            "device": name(point.device), "point": point.name, "source": point.source, "type": point.kind,
            "unit": settings.unit, "interval_ms": settings.interval.as_secs_f64() * 1e3, "writable": settings.writable,
        })
    });
    let requests = plan.blocks.iter().map(|block| {
        let polled = (block.every != Duration::MAX).then_some(block.every.as_secs_f64() * 1e3);
        json!({
            "device": name(block.device), "what": block.what, "interval_ms": polled,
            "cost_ms": block.cost.as_secs_f64() * 1e3, "load": block.load(),
            "points": block.points.iter().filter_map(|p| plan.points.get(*p)).map(|p| &p.name).collect::<Vec<_>>(),
            "riders": plan.riders(block).map(|p| &p.name).collect::<Vec<_>>(), "purpose": Value::Null,
        })
    });
    let chores = plan.chores.iter().map(|chore| {
        json!({
            "device": name(chore.device), "what": chore.what, "interval_ms": chore.every.as_secs_f64() * 1e3,
            "cost_ms": chore.cost.as_secs_f64() * 1e3, "load": chore.load(),
            "points": [], "riders": [], "purpose": chore.purpose,
        })
    });
    let requests = requests.chain(chores);
    json!({
        "name": bus.name, "driver": bus.driver, "predicted_load": plan.predicted_load(), "fingerprint": bus.fingerprint,
        "share": bus.share,
        "devices": plan.devices.iter().map(|d| json!({ "name": d.name, "address": d.address })).collect::<Vec<_>>(),
        "points": points.collect::<Vec<_>>(), "requests": requests.collect::<Vec<_>>(),
    })
}

/// Problems with their places, as JSON.
pub(super) fn list(report: &Report, problems: &[Problem]) -> Vec<Value> {
    let one = |p: &Problem| {
        let at = report.spot(&p.place);
        json!({ "file": at.file, "line": at.line, "column": at.column, "message": p.message, "hint": p.hint })
    };
    problems.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `check` says of this file, as text and as JSON.
    fn checked(toml: &str) -> (String, Value) {
        let home = tempfile::tempdir().expect("a directory");
        let config = home.path().join("fieldgate.toml");
        std::fs::write(&config, toml).expect("it can be written");
        let said = |json| {
            let mut out = Vec::new();
            run(&Args { config: config.clone(), json }, &mut out).expect("no mistakes");
            String::from_utf8(out).expect("text")
        };
        (said(false), serde_json::from_str(&said(true)).expect("JSON"))
    }

    /// A meter with three values every second, one beside them every 10 s, and one far off every minute.
    const METER: &str = r#"
        [[bus]]
        name = "rs485"
        driver = "modbus-rtu"
        port = "/dev/ttyUSB0"
        [[device]]
        name = "meter"
        bus = "rs485"
        address = 1
        point = [
            { name = "u", register = "input:0", type = "f32" },
            { name = "t", register = "input:2", type = "f32", interval = "10s" },
            { name = "i", register = "input:4", type = "f32" },
            { name = "e", register = "input:300", type = "f32", interval = "60s" },
        ]
    "#;

    #[test]
    fn the_requests_are_shown_with_their_load_and_who_rides_along() {
        let (text, json) = checked(METER);
        // 19200 8E1: 13 + 12 characters of 0.573 ms and two silences of 2.005 ms, once a second.
        assert!(text.contains("2 requests, predicted load 1.9 %"), "{text}");
        let row = text.lines().find(|line| line.contains("input 0..5")).expect("the request");
        let words: Vec<&str> = row.split_whitespace().collect();
        let wanted =
            "meter every 1s 18.3 ms 1.8 % 3 points, 1 of them every 10s input 0..5 (function 4, 6 registers)";
        assert_eq!(words.join(" "), wanted);
        let bus = &json["buses"][0];
        assert_eq!(bus["requests"][0]["riders"], json!(["t"]));
        assert_eq!(bus["requests"][1]["riders"], json!([]));
        let t = bus["points"].as_array().and_then(|p| p.iter().find(|p| p["point"] == "t")).expect("a point");
        assert_eq!(t["interval_ms"], json!(10_000.0));
        // The load of the bus is that of its requests, each its time over its period.
        let part =
            |r: &Value| r["cost_ms"].as_f64().zip(r["interval_ms"].as_f64()).map_or(0.0, |(c, i)| c / i);
        let sum: f64 = bus["requests"].as_array().expect("a list").iter().map(part).sum();
        assert!((sum - bus["predicted_load"].as_f64().expect("a number")).abs() < 1e-9);
    }

    #[test]
    fn what_is_read_beside_the_points_is_shown_and_counted() {
        let inverter = METER
            .replace("{ name = \"u\"", "{ name = \"w\", register = \"model:103:14\" },\n{ name = \"u\"")
            .replace(
                "register = \"input:300\", type = \"f32\"",
                "register = \"input:300\", type = \"u16\", scale_register = \"input:900\"",
            );
        let (text, json) = checked(&inverter);
        let row = |part: &str| {
            let row =
                text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part} in {text}"));
            row.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert!(text.contains("5 requests, predicted load 3."), "{text}");
        // It is polled each second, so what is due after 20 s is read after 20 s, and after a minute after 61 s.
        assert_eq!(
            row("input 900"),
            "meter every 20s 12.6 ms 0.1 % 1 power of ten input 900..900 (function 4, 1 registers)"
        );
        assert_eq!(
            row("0..1"),
            "meter every 61s 13.7 ms 0.0 % where the model is model 103 0..1 (function 3, 2 registers)"
        );
        let bus = &json["buses"][0];
        let requests = bus["requests"].as_array().expect("a list");
        assert_eq!(requests.iter().filter(|r| r["purpose"] != Value::Null).count(), 2);
        let sum: f64 = requests.iter().filter_map(|r| r["load"].as_f64()).sum();
        assert!((sum - bus["predicted_load"].as_f64().expect("a number")).abs() < 1e-9);
    }

    #[test]
    fn above_eighty_percent_there_is_a_warning_in_text_and_json() {
        let busy = METER.replace("address = 1", "address = 1\ninterval = \"20ms\"");
        let (text, json) = checked(&busy);
        assert!(text.contains("bus `rs485` would be busy 9"), "{text}");
        let warned = json["warnings"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|w| w["message"].as_str().is_some_and(|m| m.starts_with("bus `rs485` would be busy 9")));
        assert!(warned, "{json:#}");
        assert!(json["warnings"].as_array().is_some_and(|w| w.len() == 1));
        assert_eq!(checked(METER).1["warnings"], json!([]));
    }
}
