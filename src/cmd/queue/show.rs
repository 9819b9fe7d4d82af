//! `fieldgate queue show`: the account of every uplink. From the daemon while it runs, else from the
//! data directory itself, which is only read.

use std::io::Write;
use std::path::Path;

use clap::Args as ClapArgs;
use serde_json::Value as Json;

use super::Common;
use crate::cmd::client;
use crate::cmd::exit::Exit;
use crate::cmd::format::{bytes, count};
use crate::runtime::control::Request;
use crate::status::snapshot::UplinkStatus;
use crate::store::Store;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
}

/// Prints the accounts.
///
/// # Errors
/// The data directory cannot be read.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    let store = crate::cmd::store_path(&args.common.config)?;
    let uplinks = accounts(&store)?;
    if args.common.json {
        writeln!(out, "{uplinks:#}")?;
        return Ok(());
    }
    let rows = uplinks.as_object().cloned().unwrap_or_default();
    if rows.is_empty() {
        writeln!(out, "no uplink has a position in {}", store.display())?;
    }
    let n = |v: &Json| count(v.as_f64().unwrap_or(0.0));
    for (name, u) in rows {
        writeln!(
            out,
            "{name}: taken {} = delivered {} + queued {} + declared lost {}",
            n(&u["taken"]),
            n(&u["delivered"]),
            n(&u["queued_readings"]),
            n(&u["declared_lost"])
        )?;
        if u["configured"] == false {
            writeln!(
                out,
                "  it is not in the configuration; what others do not keep for it is declared lost"
            )?;
        }
        if let Some(oldest) = u["oldest_ts"].as_str() {
            let size = bytes(u["queued_bytes"].as_f64().unwrap_or(0.0));
            writeln!(out, "  the oldest is from {oldest}; about {size} on disk")?;
        }
    }
    Ok(())
}

/// The account of every uplink by name, also of those that left the configuration (`configured`): the daemon's word, or the
/// data directory's.
pub(super) fn accounts(store: &Path) -> Result<Json, Exit> {
    match client::ask(store, &Request::Status {})? {
        Some(snapshot) => {
            let rows = |part: &str| snapshot[part].as_object().cloned().unwrap_or_default();
            let all = rows("uplink").into_iter().map(|row| (row, true));
            let all = all.chain(rows("left").into_iter().map(|row| (row, false)));
            Ok(Json::Object(all.map(|((name, row), here)| (name, marked(row, here))).collect()))
        }
        None => at_rest(store),
    }
}

/// The accounts of a data directory that no daemon uses now.
fn at_rest(store: &Path) -> Result<Json, Exit> {
    let found = Store::inspect(store).map_err(|e| Exit::Failed(e.to_string()))?;
    let rows = found.uplinks.into_iter();
    let rows = rows.map(|(name, uplink)| (name, marked(UplinkStatus::at_rest(&uplink), !uplink.parked)));
    Ok(Json::Object(rows.collect()))
}

fn marked(mut row: Json, configured: bool) -> Json {
    if let Some(row) = row.as_object_mut() {
        row.insert("configured".to_owned(), configured.into());
    }
    row
}
