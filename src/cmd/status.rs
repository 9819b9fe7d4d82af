//! `fieldgate status`: how everything is, in words, and as an exit code for scripts.

use std::io::Write;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::Value as Json;

use super::client;
use super::clients;
use super::exit::Exit;
use super::format::{bytes, count, span_s};
use crate::runtime::control::Request;

/// Shows how everything is. Exit code 0 healthy, 1 degraded, 2 down.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Configuration file.
    #[arg(long, default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Shows the clients of the local broker instead, one a line.
    #[arg(long)]
    clients: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Asks the daemon and prints.
///
/// # Errors
/// `Down` without a daemon, `Failed` when it is degraded.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    let store = super::store_path(&args.config)?;
    let down = |why: String, out: &mut dyn Write| -> Result<(), Exit> {
        if args.json {
            writeln!(out, "{}", serde_json::json!({ "gateway": { "state": "down" } }))?;
        }
        Err(Exit::Down(format!("down: {why}")))
    };
    match client::is_running(&store) {
        Ok(true) if client::is_alive(&store) => {}
        Ok(true) => return down(client::HANGS.to_owned(), out),
        other => {
            if let Some(why) = client::no_directory(&store) {
                return down(why, out);
            }
            other?;
            return down(format!("no daemon on {}", store.display()), out);
        }
    }
    if args.clients {
        return clients::show(&store, args.json, out);
    }
    let Some(snapshot) = client::ask(&store, &Request::Status {})? else {
        return down(format!("no daemon on {}", store.display()), out);
    };
    if args.json {
        writeln!(out, "{snapshot:#}")?;
    } else {
        out.write_all(render(&snapshot).as_bytes())?;
    }
    match snapshot["gateway"]["state"].as_str() {
        Some("ok") => Ok(()),
        state => {
            let why = snapshot["gateway"]["reason"].as_str().unwrap_or_default();
            Err(Exit::Failed(format!("{}: {why}", state.unwrap_or("unknown"))))
        }
    }
}

/// The snapshot as text, a part a line.
#[must_use]
pub fn render(snapshot: &Json) -> String {
    let number = |v: &Json| v.as_f64().unwrap_or(0.0);
    let word = |v: &Json| v.as_str().unwrap_or("?").to_owned();
    let mut lines = Vec::new();
    let gateway = &snapshot["gateway"];
    lines.push(format!(
        "gateway  {:<12} {}, up {}, {} points, {:.1} readings/s, {} RAM, clock {}",
        word(&gateway["id"]),
        word(&gateway["state"]),
        span_s(number(&gateway["uptime_s"])),
        number(&gateway["points"]),
        number(&gateway["readings_per_s"]),
        bytes(number(&gateway["rss_bytes"])),
        word(&gateway["clock"]),
    ));
    for (name, bus) in rows(&snapshot["bus"]) {
        lines.push(format!(
            "bus      {name:<12} {}, {:.0} % busy, {:.1} requests/s, {} timeouts, {} CRC errors, {} exceptions, {} overruns, at most {:.0} ms late",
            word(&bus["state"]),
            number(&bus["utilisation"]) * 100.0,
            number(&bus["requests_per_s"]),
            count(number(&bus["timeouts"])),
            count(number(&bus["crc_errors"])),
            count(number(&bus["exceptions"])),
            count(number(&bus["overruns"])),
            number(&bus["lateness_ms_max"]),
        ));
        if let Some(share) = bus["share"].as_str() {
            lines.push(format!(
                "  share  {name:<12} {share}, {}{}, {} clients, {} requests, {} refused",
                bus["share_address"].as_str().unwrap_or_default(),
                bus["share_error"].as_str().unwrap_or_default(),
                count(number(&bus["share_clients"])),
                count(number(&bus["share_requests"])),
                count(number(&bus["share_refused"])),
            ));
        }
    }
    for (name, device) in rows(&snapshot["device"]) {
        let last =
            device["last_ok"].as_str().map_or("never answered".to_owned(), |ts| format!("last answer {ts}"));
        lines.push(format!(
            "device   {name:<12} {}, {last}, {} failures{}{}",
            word(&device["state"]),
            count(number(&device["failures"])),
            device["turnaround_ms"]
                .as_f64()
                .map_or(String::new(), |ms| format!(", begins to answer after {ms:.1} ms")),
            device["split_blocks"].as_u64().filter(|split| *split > 0).map_or(
                String::new(),
                |split| format!(
                    ", refuses {split} of its requests, sent in {} parts",
                    count(number(&device["split_parts"]))
                )
            ),
        ));
    }
    for (name, uplink) in rows(&snapshot["uplink"]) {
        lines.push(format!(
            "uplink   {name:<12} {}{}, {} delivered, {} queued ({}), {} declared lost{}{}{}",
            word(&uplink["state"]),
            uplink["next_window"].as_str().map_or(String::new(), |at| format!(" (next window {at})")),
            count(number(&uplink["delivered"])),
            count(number(&uplink["queued_readings"])),
            bytes(number(&uplink["queued_bytes"])),
            count(number(&uplink["declared_lost"])),
            uplink["eta_s"].as_f64().map_or(String::new(), |s| format!(", drained in {}", span_s(s))),
            uplink["waits"].as_str().filter(|w| !w.is_empty()).map_or(String::new(), |w| format!(", {w}")),
            uplink["last_error"]
                .as_str()
                .filter(|e| !e.is_empty())
                .map_or(String::new(), |e| format!(", last error: {e}")),
        ));
    }
    let store = &snapshot["store"];
    lines.push(format!(
        "store    {:<12} {} readings in {}, {} commits, slowest 1 % of fsyncs {:.1} ms, {} written{}",
        word(&store["state"]),
        count(number(&store["readings"])),
        bytes(number(&store["bytes"])),
        count(number(&store["commits"])),
        number(&store["fsync_ms_p99"]),
        bytes(number(&store["bytes_written"])),
        store["thinned"]
            .as_f64()
            .filter(|n| *n > 0.0)
            .map_or(String::new(), |n| format!(", {} thinned out", count(n))),
    ));
    let broker = &snapshot["broker"];
    lines.push(format!(
        "broker   {:<12} {} clients, {} retained, {} in, {} out, {} dropped{}",
        word(&broker["state"]),
        count(number(&broker["clients"])),
        count(number(&broker["retained"])),
        count(number(&broker["messages_in"])),
        count(number(&broker["messages_out"])),
        count(number(&broker["dropped"])),
        refusals(broker)
            + &broker["persistence_error"]
                .as_str()
                .filter(|e| !e.is_empty())
                .map_or(String::new(), |e| format!(", sessions in memory only: {e}")),
    ));
    lines.push(String::new());
    lines.join("\n")
}

/// What the broker refused, and why: `, 12 refused (8 login, 4 protocol)`.
fn refusals(broker: &Json) -> String {
    let why = |(key, n): (&String, &Json)| {
        let (why, n) = (key.strip_prefix("refused_")?.to_owned(), n.as_f64().filter(|n| *n > 0.0)?);
        Some(format!("{} {why}", count(n)))
    };
    let reasons: Vec<String> = rows(broker).filter_map(why).collect();
    let mut text = match broker["refused"].as_f64().filter(|n| *n > 0.0) {
        None => String::new(),
        Some(n) => format!(", {} refused ({})", count(n), reasons.join(", ")),
    };
    if let Some(n) = broker["throttled"].as_f64().filter(|n| *n > 0.0) {
        let often = if n > 1.0 { format!("{} times", count(n)) } else { "once".to_owned() };
        text += &format!(", {often} slowed down");
    }
    text
}

fn rows(parts: &Json) -> impl Iterator<Item = (&String, &Json)> {
    parts.as_object().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refusals_are_told_by_their_reasons_and_what_did_not_happen_is_not() {
        let told = |broker: Json| refusals(&broker);
        assert_eq!(told(json!({"refused": 0, "refused_login": 0, "throttled": 0})), "");
        let some = json!({"refused": 1234, "refused_login": 1230, "refused_limit": 0, "refused_protocol": 4, "clients": 3});
        assert_eq!(told(some), ", 1,234 refused (1,230 login, 4 protocol)");
        assert_eq!(told(json!({"refused": 0, "throttled": 7})), ", 7 times slowed down");
        let both = json!({"refused": 2, "refused_busy": 2, "throttled": 1});
        assert_eq!(told(both), ", 2 refused (2 busy), once slowed down");
    }
}
