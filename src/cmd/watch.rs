//! `fieldgate watch`: the live table of values, or what goes over a bus.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use driver_api::Span;
use serde_json::Value as Json;

use super::client;
use super::exit::Exit;
use super::format::{picture, terminal};
use crate::runtime::control::Request;

/// Shows the values as they come. On a terminal it goes on until Ctrl-C; else it prints one table.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Only this device, or this DEVICE/POINT.
    only: Option<String>,
    /// Configuration file.
    #[arg(long, default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// How often the table is drawn.
    #[arg(long, default_value = "1s")]
    every: Span,
    /// Prints one table and ends.
    #[arg(long)]
    once: bool,
    /// Shows what goes over this bus instead, frame by frame, until Ctrl-C.
    #[arg(long, value_name = "BUS", conflicts_with_all = ["only", "once", "every"])]
    wire: Option<String>,
    /// Prints JSON, once; with --wire a line for each frame.
    #[arg(long)]
    json: bool,
}

/// Draws until interrupted.
///
/// # Errors
/// No daemon runs, or it went away; what is shown once has no reading.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    let store = super::store_path(&args.config)?;
    if let Some(bus) = &args.wire {
        return super::trace::run(&store, bus, args.json, out);
    }
    let live = !args.once && !args.json && std::io::stdout().is_terminal();
    loop {
        let Some(values) = client::ask(&store, &Request::Values {})? else {
            return Err(Exit::Failed(format!(
                "no daemon on {}; start it with `fieldgate run`",
                store.display()
            )));
        };
        let rows: Vec<&Json> =
            values.as_array().into_iter().flatten().filter(|row| wanted(row, args)).collect();
        if args.json {
            writeln!(out, "{:#}", Json::Array(rows.iter().copied().cloned().collect()))?;
            return found(&rows, &values, args);
        }
        if live {
            write!(out, "{}", picture(&table(&rows), terminal()))?;
            out.flush()?;
            std::thread::sleep(args.every.0.max(Duration::from_millis(100)));
        } else {
            out.write_all(table(&rows).as_bytes())?;
            return found(&rows, &values, args);
        }
    }
}

/// A name of which there is nothing is a mistake, most often in the name.
fn found(rows: &[&Json], values: &Json, args: &Args) -> Result<(), Exit> {
    let Some(only) = args.only.as_deref().filter(|_| rows.is_empty()) else { return Ok(()) };
    let mut devices: Vec<&str> =
        values.as_array().into_iter().flatten().filter_map(|row| row["device"].as_str()).collect();
    devices.dedup();
    let there = if devices.is_empty() { "nothing yet".to_owned() } else { devices.join(", ") };
    Err(Exit::Failed(format!("no readings of `{only}`; there are readings of {there}")))
}

fn wanted(row: &Json, args: &Args) -> bool {
    let (device, point) = (row["device"].as_str().unwrap_or(""), row["point"].as_str().unwrap_or(""));
    match args.only.as_deref().map(|only| only.split_once('/').unwrap_or((only, ""))) {
        None => true,
        Some((d, "")) => d == device,
        Some((d, p)) => d == device && p == point,
    }
}

/// One line a point: name, value, unit, quality unless good, time.
#[must_use]
pub fn table(rows: &[&Json]) -> String {
    let mut text = String::new();
    for row in rows {
        let word = |key: &str| row[key].as_str().unwrap_or("");
        let value = match &row["value"] {
            Json::Null => "-".to_owned(),
            Json::String(s) => s.clone(),
            other => other.to_string(),
        };
        let quality = match (word("quality"), word("reason")) {
            ("good", _) => String::new(),
            (quality, reason) => format!("{quality}: {reason}"),
        };
        let name = format!("{}/{}", word("device"), word("point"));
        let clock = word("ts").get(11..23).unwrap_or("");
        text.push_str(&format!("{name:<32} {value:>14} {:<6} {clock}  {quality}", word("unit")));
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
