//! `fieldgate check`: every mistake of the configuration, or what it would poll and at which cost.
//!
//! Opens no port and no socket, so it is honest on a laptop too.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use driver_api::{Driver, Problem, Span};
use serde_json::{Value, json};

use super::exit::Exit;
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
pub fn run(args: &Args, drivers: &[&'static dyn Driver], out: &mut dyn Write) -> Result<(), Exit> {
    match config::load(&args.config, drivers) {
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
    let requests = counted(plan.blocks.len(), "request", "s");
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
            .zip(&bus.points)
            .filter(|(point, _)| point.device == index)
            .map(|(point, settings)| {
                [
                    point.name.clone(),
                    point.source.clone(),
                    point.kind.clone(),
                    settings.unit.clone().unwrap_or_else(|| "-".to_owned()),
                    format!("every {}", Span(settings.interval)),
                    if settings.writable { "writable".to_owned() } else { String::new() },
                ]
            })
            .collect();
        table(&rows, "    ", out)?;
    }
    let rows: Vec<[String; 6]> = plan
        .blocks
        .iter()
        .map(|block| {
            [
                plan.devices.get(block.device).map(|d| d.name.clone()).unwrap_or_default(),
                every(block.every),
                format!("{:.1} ms", block.cost.as_secs_f64() * 1e3),
                counted(block.points.len(), "point", "s"),
                block.what.clone(),
                String::new(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        writeln!(out, "  requests")?;
    }
    table(&rows, "    ", out)
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
            "cost_ms": block.cost.as_secs_f64() * 1e3,
            "points": block.points.iter().filter_map(|p| plan.points.get(*p)).map(|p| &p.name).collect::<Vec<_>>(),
        })
    });
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
