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
/// No daemon runs, or it went away; there is no such device or point, or what is shown once has no reading.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    let store = super::store_path(&args.config)?;
    if let Some(bus) = &args.wire {
        return super::trace::run(&store, bus, args.json, out);
    }
    let live = !args.once && !args.json && std::io::stdout().is_terminal();
    loop {
        let Some(values) = client::ask(&store, &Request::Values { only: args.only.clone() })? else {
            return Err(Exit::Failed(format!(
                "no daemon on {}; start it with `fieldgate run`",
                store.display()
            )));
        };
        if args.json {
            writeln!(out, "{values:#}")?;
        }
        // A name that there is not, most often because of its spelling: a reload may take one away, too.
        if let Some(why) = values["error"].as_str() {
            return Err(Exit::Failed(why.to_owned()));
        }
        let rows: Vec<&Json> = values.as_array().into_iter().flatten().collect();
        let nothing = args.only.as_ref().filter(|_| rows.is_empty());
        let nothing = nothing.map(|only| format!("no reading of `{only}` yet"));
        if live {
            let text = nothing.unwrap_or_else(|| table(&rows));
            write!(out, "{}", picture(&text, terminal()))?;
            out.flush()?;
            std::thread::sleep(args.every.0.max(Duration::from_millis(100)));
            continue;
        }
        if !args.json {
            out.write_all(table(&rows).as_bytes())?;
        }
        return nothing.map_or(Ok(()), |why| Err(Exit::Failed(why)));
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
