//! `fieldgate queue export`: readings of the log as CSV, or readings and messages as JSON lines. From the daemon while it runs, else from
//! the data directory itself, which is only read.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, ValueEnum};
use driver_api::Span;
use serde_json::Value as Json;

use super::super::{client, exit::Exit, store_path};
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::message::WallMs;
use crate::pipeline::payload::Readings;
use crate::registry::DRIVERS;
use crate::runtime::control::Request;
use crate::runtime::export::Wanted;
use crate::store::Store;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = crate::cmd::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Only what this uplink has not acknowledged yet. Without it everything stored is written.
    #[arg(long, value_name = "NAME")]
    uplink: Option<String>,
    /// Only this device or point, or this topic of another device; may be given several times.
    #[arg(long = "point", value_name = "DEVICE[/POINT]")]
    points: Vec<String>,
    /// Only readings from then on: a time ("2026-11-28T06:00:00Z"), a day ("2026-11-28", from its beginning in UTC) or how long
    /// ago ("6h").
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only readings before then.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// How to write them.
    #[arg(long, value_enum, default_value = "csv")]
    format: Format,
    /// The same as `--format jsonl`.
    #[arg(long)]
    json: bool,
    /// Write into this file, which must not be there yet.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Readings, with a heading: ts, device, point, value, unit, quality, reason, epoch, seq.
    Csv,
    /// One JSON object a line; messages of other devices, too, with topic and payload.
    Jsonl,
}

/// Columns of the CSV, and keys of the JSON.
const COLUMNS: [&str; 9] = ["ts", "device", "point", "value", "unit", "quality", "reason", "epoch", "seq"];

/// Writes the readings.
///
/// # Errors
/// A time is none, the file is there already, or the log cannot be read to its end.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    let now = SystemClock::new(true).wall();
    let time = |text: &Option<String>| text.as_deref().map(|text| moment(text, now)).transpose();
    let wanted = Wanted {
        uplink: args.uplink.clone(),
        points: args.points.clone(),
        since: time(&args.since)?,
        until: time(&args.until)?,
    };
    let format = if args.json { Format::Jsonl } else { args.format };
    let store = store_path(&args.config)?;
    let Some(path) = &args.output else {
        let rows = written(&store, &wanted, format, out)?;
        return rows.found(args);
    };
    let failed = |e: std::io::Error| Exit::Failed(format!("{}: {e}", path.display()));
    let mut file = BufWriter::new(File::create_new(path).map_err(failed)?);
    let rows = written(&store, &wanted, format, &mut file)?;
    file.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed)?;
    writeln!(out, "{} readings in {}", rows.readings, path.display())?;
    rows.found(args)
}

fn moment(text: &str, now: WallMs) -> Result<i64, Exit> {
    if let Ok(ago) = text.parse::<Span>() {
        return Ok(now.0.saturating_sub(i64::try_from(ago.0.as_millis()).unwrap_or(i64::MAX)));
    }
    // A date alone: what has a time as well needs its zone said.
    let day = || text.get(..10).filter(|day| *day == text)?.parse::<jiff::civil::Date>().ok();
    let midnight = || Some(day()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp());
    let at = text.parse::<jiff::Timestamp>().ok().or_else(midnight);
    at.map(jiff::Timestamp::as_millisecond).ok_or_else(|| {
        Exit::Usage(format!(
            "`{text}` is no time; write `2026-11-28T06:00:00Z`, `2026-11-28`, or `6h` for six hours ago"
        ))
    })
}

fn written(store: &Path, wanted: &Wanted, format: Format, out: &mut dyn Write) -> Result<Written, Exit> {
    let mut rows = Rows { format, out, written: Written::default() };
    if format == Format::Csv {
        writeln!(rows.out, "{}", COLUMNS.join(","))?;
    }
    match client::stream(store, &Request::Export { wanted: wanted.clone() })? {
        Some(stream) => from_daemon(stream, &mut rows)?,
        None => at_rest(store, wanted, &mut rows)?,
    }
    Ok(rows.written)
}

struct Rows<'a> {
    format: Format,
    out: &'a mut dyn Write,
    written: Written,
}

/// How many were written.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    readings: u64,
    messages: u64,
}

impl Written {
    /// Nothing at all of what was named may be a slip in the name.
    fn found(self, args: &Args) -> Result<(), Exit> {
        if self.readings + self.messages > 0 {
            return Ok(());
        }
        let Ok(loaded) = config::load(&args.config, DRIVERS) else { return Ok(()) };
        let known = |name: &String| {
            loaded.buses.iter().any(|bus| {
                bus.bus.plan().points.iter().any(|point| {
                    let device = bus.devices.get(point.device).map_or("", |device| device.name.as_str());
                    name == device || *name == format!("{device}/{}", point.name)
                })
            })
        };
        match args.points.iter().find(|name| !known(name)) {
            Some(name) => Err(Exit::Failed(format!(
                "nothing of `{name}` is there: no device or point of the configuration is called so, and no topic of what is stored"
            ))),
            None => Ok(()),
        }
    }
}

impl Rows<'_> {
    /// A line as the daemon sends it.
    fn line(&mut self, line: &[u8], row: &Json) -> Result<(), Exit> {
        let message = row.get("topic").is_some();
        self.written.readings += u64::from(!message);
        self.written.messages += u64::from(message);
        match self.format {
            Format::Jsonl => self.out.write_all(line)?,
            Format::Csv if message => {}
            Format::Csv => {
                let cells: Vec<String> = COLUMNS.iter().map(|column| cell(&row[*column])).collect();
                writeln!(self.out, "{}", cells.join(","))?;
            }
        }
        Ok(())
    }
}

/// As RFC 4180 has it: quotes where they are needed, doubled inside.
fn cell(value: &Json) -> String {
    let text = match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

fn from_daemon(answer: client::Answer, rows: &mut Rows<'_>) -> Result<(), Exit> {
    let gone = |why: &dyn std::fmt::Display| Exit::Failed(format!("the export broke off: {why}"));
    let mut lines = BufReader::new(answer);
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).map_err(|e| gone(&e))? == 0 {
            return Err(gone(&"the daemon closed it"));
        }
        let row: Json = serde_json::from_slice(&line).map_err(|e| gone(&e))?;
        if let Some(why) = row["error"].as_str() {
            return Err(gone(&why));
        }
        if row["end"] == true {
            return Ok(());
        }
        rows.line(&line, &row)?;
    }
}

fn at_rest(store: &Path, wanted: &Wanted, rows: &mut Rows<'_>) -> Result<(), Exit> {
    let failed = |e: crate::store::StoreError| Exit::Failed(e.to_string());
    let log = Store::at_rest(store).map_err(failed)?;
    let queued = match &wanted.uplink {
        None => None,
        Some(name) => match log.queued(name).map_err(failed)? {
            Some(queued) => Some(queued),
            None => return Err(Exit::Failed(format!("no uplink `{name}` has a position here"))),
        },
    };
    let (mut writer, mut at, mut damaged) = (Readings::default(), 0, 0);
    while let Some(stretch) = log.stretch(at).map_err(failed)? {
        damaged += u64::from(stretch.damaged);
        at = stretch.chunk.next;
        let is_queued = |seq| queued.as_ref().is_none_or(|q| q.iter().any(|range| range.contains(&seq)));
        for (_, line) in wanted.lines(&stretch.chunk, &mut writer, is_queued) {
            let row = serde_json::from_slice(&line).map_err(|e| Exit::Failed(e.to_string()))?;
            rows.line(&line, &row)?;
        }
    }
    if damaged > 0 {
        return Err(Exit::Failed(format!(
            "{damaged} blocks are damaged and left out; the daemon declares them lost when it starts"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_time_is_a_date_or_how_long_ago() {
        let now = WallMs(1_795_357_800_000);
        assert_eq!(moment("6h", now).expect("a span"), now.0 - 6 * 3_600_000);
        assert_eq!(moment("2026-11-22T14:30:00Z", now).expect("a time"), 1_795_357_800_000);
        assert_eq!(moment("2026-11-22", now).expect("a day"), 1_795_357_800_000 - 52_200_000);
        // What has a time but no zone would be guessed.
        assert!(moment("2026-11-22T14:30:00", now).is_err());
        assert!(matches!(moment("yesterday", now), Err(Exit::Usage(why)) if why.contains("6h")));
    }

    #[test]
    fn a_cell_is_quoted_where_it_must_be() {
        let cells = [json!(null), json!(1.5), json!("plain"), json!("a,\"b\"\n")].map(|value| cell(&value));
        assert_eq!(cells, ["", "1.5", "plain", "\"a,\"\"b\"\"\n\""]);
    }
}
