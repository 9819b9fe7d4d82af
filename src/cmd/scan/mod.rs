//! `fieldgate scan`: who is on a bus, and at which line settings.
//!
//! Only reads are sent, each once, and a refusal is an answer like any other. A bus that the daemon has open is
//! scanned through it, between its polls, at the line settings it has; other ports are opened here.

mod i2c;
mod identity;
mod modbus;
mod plan;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;
use driver_api::Span;
use serde_json::json;

use super::carrier::{self, Carrier, Direct, Reached};
use super::exit::Exit;
use super::progress::Progress;
use plan::{BAUDS, Parity, Settings};

/// Finds devices on a bus or port: unit ids and line settings, or I²C addresses. Sends nothing but reads.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// A bus of the configuration, or a port: /dev/ttyUSB0, /dev/i2c-1, 10.0.0.7:502.
    what: String,
    /// Unit ids to ask: numbers and ranges.
    #[arg(long, default_value = "1-247")]
    units: String,
    /// Speeds to try on a serial port [default: 9600,19200,38400,115200].
    #[arg(long, value_delimiter = ',')]
    baud: Vec<u32>,
    /// Parities to try on a serial port [default: none,even].
    #[arg(long, value_delimiter = ',', value_enum)]
    parity: Vec<Parity>,
    /// Stop bits to try on a serial port [default: 1].
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=2))]
    stop_bits: Vec<u8>,
    /// How long to wait for each answer.
    #[arg(long, default_value = "200ms")]
    timeout: Span,
    /// How to ask: 3 reads holding:0, 4 reads input:0; both where the first gets no answer.
    #[arg(long, value_delimiter = ',', default_value = "3", value_parser = clap::value_parser!(u8).range(3..=4))]
    function: Vec<u8>,
    /// A host:port passes RTU frames on (a serial converter) instead of speaking Modbus TCP.
    #[arg(long)]
    rtu: bool,
    /// Configuration file.
    #[arg(long, default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Longest wait for one answer.
const LONGEST: Span = Span::s(10);

/// A port to be scanned, and what stands in `[[bus]]` for it.
enum Place {
    /// Open already.
    Bus(Reached),
    /// A serial port: opened once for each setting.
    Serial(String),
    /// Something that is opened in one way only: driver and keys.
    Other(&'static str, String),
}

/// Scans and prints.
///
/// # Errors
/// There is no such bus or port, it cannot be opened or was lost, or nobody answered.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    let wait = args.timeout.0;
    if wait.is_zero() || args.timeout > LONGEST {
        return Err(Exit::Usage(format!("`--timeout` is more than 0 and at most {LONGEST}")));
    }
    let units = plan::numbers(&args.units).map_err(Exit::Usage)?;
    match place(args)? {
        Place::Bus(Reached { mut carrier, driver: "i2c", .. }) => i2c::run(&mut *carrier, args.json, out),
        Place::Other("i2c", keys) => i2c::run(&mut Direct::of("i2c", &keys)?, args.json, out),
        Place::Bus(Reached { mut carrier, driver, .. }) if driver.starts_with("modbus-") => {
            let mut open = |_: Option<Settings>| Ok(None);
            modbus::run(&search(args, &[None], &units, wait), Some(&mut *carrier), &mut open, out)
        }
        Place::Bus(Reached { driver, .. }) => Err(Exit::Usage(format!(
            "`{}` speaks `{driver}`, which has no addresses to ask; Modbus and I²C buses can be scanned",
            args.what
        ))),
        Place::Serial(port) => {
            let or = |given: &[u32]| if given.is_empty() { BAUDS.to_vec() } else { given.to_vec() };
            let parities =
                if args.parity.is_empty() { vec![Parity::None, Parity::Even] } else { args.parity.clone() };
            let stop_bits = if args.stop_bits.is_empty() { vec![1] } else { args.stop_bits.clone() };
            let all: Vec<Option<Settings>> =
                plan::combinations(&or(&args.baud), &parities, &stop_bits).into_iter().map(Some).collect();
            let mut open = |settings: Option<Settings>| {
                let Some(s) = settings else { return Ok(None) };
                let keys = format!(
                    "port = {port:?}\nbaud = {}\nparity = \"{}\"\nstop_bits = {}\n",
                    s.baud,
                    s.parity.word(),
                    s.stop_bits
                );
                Direct::of("modbus-rtu", &keys).map(|bus| Some(Box::new(bus) as Box<dyn Carrier>))
            };
            modbus::run(&search(args, &all, &units, wait), None, &mut open, out)
        }
        Place::Other(driver, keys) => {
            let mut open = |_: Option<Settings>| {
                Direct::of(driver, &keys).map(|bus| Some(Box::new(bus) as Box<dyn Carrier>))
            };
            modbus::run(&search(args, &[None], &units, wait), None, &mut open, out)
        }
    }
}

fn search<'a>(
    args: &'a Args,
    settings: &'a [Option<Settings>],
    units: &'a [u8],
    wait: Duration,
) -> modbus::Search<'a> {
    modbus::Search { what: &args.what, settings, units, functions: &args.function, wait, json: args.json }
}

/// Whether line settings were asked for.
fn wants_settings(args: &Args) -> bool {
    !(args.baud.is_empty() && args.parity.is_empty() && args.stop_bits.is_empty())
}

fn place(args: &Args) -> Result<Place, Exit> {
    let what = args.what.as_str();
    if !what.contains(['/', ':']) {
        return through(args, what);
    }
    if let Some(bus) = carrier::owner(&args.config, what) {
        eprintln!("{what} is bus `{bus}` of the running daemon: scanning through it, between its polls");
        return through(args, &bus);
    }
    let is_i2c = Path::new(what).file_name().is_some_and(|name| name.to_string_lossy().starts_with("i2c-"));
    Ok(match what {
        path if is_i2c => Place::Other("i2c", format!("path = {path:?}\n")),
        path if path.starts_with('/') => Place::Serial(path.to_owned()),
        address if args.rtu => Place::Other("modbus-rtu-over-tcp", format!("address = {address:?}\n")),
        address => Place::Other("modbus-tcp", format!("address = {address:?}\n")),
    })
}

/// A bus of the configuration.
fn through(args: &Args, name: &str) -> Result<Place, Exit> {
    let reached = carrier::reach(&args.config, name)?;
    if !wants_settings(args) {
        return Ok(Place::Bus(reached));
    }
    if reached.driver != "modbus-rtu" {
        return Err(Exit::Usage(format!(
            "`{name}` has no line settings to try: it speaks `{}`",
            reached.driver
        )));
    }
    if reached.through_daemon {
        return Err(Exit::Usage(format!(
            "the daemon polls `{name}` at its own line settings; to try others, stop it: systemctl stop fieldgate"
        )));
    }
    // Closed again before it is opened at other settings.
    drop(reached.carrier);
    Ok(Place::Serial(reached.endpoint))
}

/// Prints a list as JSON.
fn print_json(rows: &[impl serde::Serialize], out: &mut dyn Write) -> Result<(), Exit> {
    writeln!(out, "{:#}", json!(rows))?;
    Ok(())
}
