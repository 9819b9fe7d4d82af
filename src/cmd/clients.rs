//! `fieldgate status --clients` and `fieldgate kick`: who is at the local broker, and who shall not be.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde_json::Value as Json;

use super::client;
use super::exit::Exit;
use super::format::{bytes, count, span_s};
use crate::runtime::control::Request;

/// Ends the connection of a client of the local broker; forgets its session if it is away.
///
/// The client may come back at once: to keep it out, take its right away (password_file, acl_file).
#[derive(Debug, ClapArgs)]
pub struct KickArgs {
    /// Its client id, as `fieldgate status --clients` shows it.
    client: String,
    /// Configuration file.
    #[arg(long, default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Shows every client of the local broker.
///
/// # Errors
/// `Down` without a daemon.
pub fn show(store: &Path, json: bool, out: &mut dyn Write) -> Result<(), Exit> {
    let Some(clients) = client::ask(store, &Request::Clients {})? else {
        return Err(Exit::Down(format!("down: no daemon on {}", store.display())));
    };
    if json {
        writeln!(out, "{clients:#}")?;
    } else {
        out.write_all(render(&clients).as_bytes())?;
    }
    Ok(())
}

/// Ends a client's connection.
///
/// # Errors
/// `Down` without a daemon, `Failed` when there is no such client.
pub fn kick(args: &KickArgs, out: &mut dyn Write) -> Result<(), Exit> {
    let store = super::store_path(&args.config)?;
    let Some(answer) = client::ask(&store, &Request::Kick { client: args.client.clone() })? else {
        return Err(Exit::Down(format!("down: no daemon on {}", store.display())));
    };
    if args.json {
        writeln!(out, "{answer}")?;
    }
    match answer["kicked"].as_str() {
        Some("unknown") | None => Err(Exit::Failed(format!(
            "no client `{}` at the local broker; `fieldgate status --clients` shows those that are",
            args.client
        ))),
        Some(done) if !args.json => Ok(writeln!(out, "`{}` {done}", args.client)?),
        Some(_) => Ok(()),
    }
}

/// The clients as a table.
#[must_use]
pub fn render(clients: &Json) -> String {
    let head =
        ["client", "user", "state", "from", "MQTT", "for", "filters", "queued", "dropped", "in", "out"];
    let mut rows = vec![head.map(str::to_owned)];
    for client in clients.as_array().into_iter().flatten() {
        let word = |key: &str| client[key].as_str().unwrap_or("-").to_owned();
        let number = |key: &str| client[key].as_f64().unwrap_or(0.0);
        let moved =
            |messages: &str, size: &str| format!("{} ({})", count(number(messages)), bytes(number(size)));
        rows.push([
            word("client"),
            word("user"),
            word("state"),
            match (client["address"].as_str(), client["transport"].as_str()) {
                (Some(address), Some("tcp") | None) => address.to_owned(),
                (Some(address), Some(transport)) => format!("{address} ({transport})"),
                _ => "-".to_owned(),
            },
            word("protocol"),
            client["for_s"].as_f64().map_or("-".to_owned(), span_s),
            count(number("subscriptions")),
            count(number("queued")),
            count(number("dropped")),
            moved("messages_in", "bytes_in"),
            moved("messages_out", "bytes_out"),
        ]);
    }
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_client_is_a_line_under_its_headings() {
        let clients = json!([
            { "client": "panel", "user": "op", "state": "connected", "address": "10.0.0.5:4711",
              "transport": "websocket, tls", "protocol": "5", "for_s": 3700, "subscriptions": 2,
              "queued": 0, "dropped": 0, "messages_in": 3, "messages_out": 1200,
              "bytes_in": 300, "bytes_out": 153_600 },
            { "client": "logger", "user": null, "state": "away", "address": null, "transport": null,
              "protocol": null, "for_s": 61, "subscriptions": 1, "queued": 57, "dropped": 4 },
        ]);
        let text = render(&clients);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[0][..4], ["client", "user", "state", "from"]);
        assert!(text.contains("10.0.0.5:4711 (websocket, tls)  5     1h 1m"), "{text}");
        assert!(lines[1].ends_with(&["1,200", "(150.0", "KiB)"]), "{text}");
        assert_eq!(lines[2][..6], ["logger", "-", "away", "-", "-", "1m"]);
        assert!(lines[2].contains(&"57") && lines[2].contains(&"4"), "{text}");
    }
}
