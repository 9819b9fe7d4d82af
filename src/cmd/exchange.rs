//! `fieldgate read` and `fieldgate write`: one exchange with a device. Through the daemon while it
//! runs (it owns the ports), directly otherwise.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args as ClapArgs;
use driver_api::Span;
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use super::client;
use super::exit::Exit;
use crate::clock::{Clock, SystemClock};
use crate::runtime::control::{self, Access, Request};

/// Reads a device once.
#[derive(Debug, ClapArgs)]
pub struct ReadArgs {
    /// DEVICE or DEVICE/POINT; with --register, a BUS.
    pub(super) what: String,
    /// Shows the Modbus registers themselves, and everything they could mean.
    #[arg(long)]
    pub(super) raw: bool,
    /// With a BUS: the unit id to ask.
    #[arg(long)]
    pub(super) unit: Option<u8>,
    /// With a BUS: the first register, such as holding:100.
    #[arg(long)]
    pub(super) register: Option<String>,
    /// How many registers; as many as the point has, or 1.
    #[arg(long)]
    pub(super) count: Option<u16>,
    /// With --raw: how long to wait for the answer.
    #[arg(long, default_value = "1s")]
    pub(super) timeout: Span,
    /// Configuration file.
    #[arg(long, default_value = super::DEFAULT_CONFIG)]
    pub(super) config: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Writes a point once and reads it back.
#[derive(Debug, ClapArgs)]
pub struct WriteArgs {
    /// DEVICE/POINT.
    what: String,
    /// The value people mean: scaled, within the point's limits.
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// Configuration file.
    #[arg(long, default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Reads and prints.
///
/// # Errors
/// Unknown names, or a point that gave no value.
pub fn read(args: &ReadArgs, out: &mut dyn Write) -> Result<(), Exit> {
    if args.raw || args.unit.is_some() || args.register.is_some() {
        return super::raw::run(args, out);
    }
    if args.count.is_some() {
        return Err(Exit::Usage("`--count` is how many registers are shown: it needs `--raw`".into()));
    }
    let (device, point) = match args.what.split_once('/') {
        Some((device, point)) => (device, Some(point.to_owned())),
        None => (args.what.as_str(), None),
    };
    let answer = exchange(&args.config, &Request::Read { device: device.to_owned(), point })?;
    if args.json {
        writeln!(out, "{answer:#}")?;
    }
    if let Some(error) = answer["error"].as_str() {
        return Err(Exit::Failed(error.to_owned()));
    }
    let mut failed = 0;
    for row in answer["points"].as_array().into_iter().flatten() {
        let name = row["point"].as_str().unwrap_or("?");
        let error = row["error"].as_str();
        failed += usize::from(error.is_some());
        if !args.json {
            match error {
                Some(error) => writeln!(out, "{name:<24} -  {error}")?,
                None => writeln!(
                    out,
                    "{name:<24} {} {}",
                    plain(&row["value"]),
                    row["unit"].as_str().unwrap_or("")
                )?,
            }
        }
    }
    if failed > 0 {
        return Err(Exit::Failed(format!("{failed} points gave no value")));
    }
    Ok(())
}

/// Writes, reads back, and prints.
///
/// # Errors
/// Unknown names, a value that does not fit, or a device that did not take it.
pub fn write(args: &WriteArgs, out: &mut dyn Write) -> Result<(), Exit> {
    let Some((device, point)) = args.what.split_once('/') else {
        return Err(Exit::Usage(format!("`{}` names no point; write DEVICE/POINT", args.what)));
    };
    // What is not JSON is text: `on` needs no quotes from a shell.
    let value = serde_json::from_str(&args.value).unwrap_or_else(|_| Json::String(args.value.clone()));
    let request = Request::Write { device: device.to_owned(), point: point.to_owned(), value };
    let answer = exchange(&args.config, &request)?;
    if args.json {
        writeln!(out, "{answer:#}")?;
    }
    let done = outcome(&args.what, &answer)?;
    if !args.json {
        writeln!(out, "{done}")?;
    }
    Ok(())
}

/// What came of a write, in a line. What can be read must also have been read back: without that nobody knows
/// whether it holds, and a script must not go on as if it did.
fn outcome(what: &str, answer: &Json) -> Result<String, Exit> {
    let (value, error) = (plain(&answer["value"]), answer["error"].as_str());
    match (answer["state"].as_str(), error) {
        (Some(state @ ("verified" | "written")), None) => Ok(format!("{state}: {what} is {value}")),
        (Some("written"), Some(why)) => {
            Err(Exit::Failed(format!("{what}: {value} was sent, but not confirmed ({why})")))
        }
        _ => Err(Exit::Failed(error.unwrap_or("the device did not take it").to_owned())),
    }
}

fn plain(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// One request, to the daemon or to a bus task of our own that lives as long as the request.
fn exchange(config: &std::path::Path, request: &Request) -> Result<Json, Exit> {
    let mut loaded = super::load(config)?;
    if let Some(answer) = client::ask(&loaded.store.path, request)? {
        return Ok(answer);
    }
    let (Request::Read { device, .. } | Request::Write { device, .. }) = request else {
        return Err(Exit::Usage("only read and write work without the daemon".to_owned()));
    };
    let Some(at) = loaded.buses.iter().position(|b| b.devices.iter().any(|d| d.name == *device)) else {
        return Ok(json!({ "error": super::no_device(device, config, &loaded.buses) }));
    };
    let bus = loaded.buses.swap_remove(at);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        let lone = crate::runtime::lone_bus(bus);
        let (_, targets) = watch::channel(Arc::new(lone.targets));
        let nothing: Arc<dyn Fn() -> Json + Send + Sync> = Arc::new(|| Json::Null);
        let (_, lines) = watch::channel(Arc::default());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(true));
        let access =
            Access { snapshot: nothing, values: None, broker: None, store: None, targets, lines, clock };
        let answer = control::respond(request, &access).await;
        lone.stop.cancel();
        answer
    });
    // A thread that hangs in the system (a resolver without an answer, a stuck bus) must not hold the end up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_ends_well_only_if_it_is_confirmed_or_nobody_could_confirm_it() {
        let code = |answer: Json| outcome("dead/w", &answer).map_err(|exit| (exit.code(), exit.to_string()));
        assert_eq!(code(json!({ "state": "verified", "value": 5 })), Ok("verified: dead/w is 5".to_owned()));
        // A broadcast: nobody answers, and nothing is wrong with that.
        let broadcast = json!({ "state": "written", "value": true, "error": null });
        assert_eq!(code(broadcast), Ok("written: dead/w is true".to_owned()));
        let unread = json!({ "state": "written", "value": 5, "error": "read back: protocol" });
        let told = "dead/w: 5 was sent, but not confirmed (read back: protocol)".to_owned();
        assert_eq!(code(unread), Err((1, told)));
        let other = json!({ "state": "failed", "value": 7, "error": "read back 7, not what was written" });
        assert_eq!(code(other), Err((1, "read back 7, not what was written".to_owned())));
    }
}
