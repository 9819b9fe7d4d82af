//! `fieldgate queue purge`: throws away what waits for an uplink. It shows what that is, asks, and every reading
//! is declared lost (`purged`) to those who were owed it.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;

use clap::Args as ClapArgs;
use serde_json::{Value as Json, json};

use super::super::{client, consent, exit::Exit, format::count};
use super::{Common, show};
use crate::clock::SystemClock;
use crate::config::Loaded;
use crate::runtime::{control::Request, wishes};
use crate::store::Store;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Only what waits for this uplink. Without it: all uplinks, and the history.
    #[arg(long, value_name = "NAME")]
    uplink: Option<String>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Shows, asks, purges.
///
/// # Errors
/// There is no such uplink, nobody said yes, or the log cannot be written.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    let loaded = crate::cmd::load(&args.common.config)?;
    let store = &loaded.store.path;
    let uplink = args.uplink.as_deref();
    let waiting: Vec<(String, f64)> = show::accounts(store)?
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| uplink.is_none_or(|u| u == *name))
        .map(|(name, account)| (name.clone(), account["queued_readings"].as_f64().unwrap_or(0.0)))
        .collect();
    if let (true, Some(name)) = (waiting.is_empty(), uplink) {
        return Err(Exit::Failed(format!("no uplink `{name}` has a position here; see `queue show`")));
    }
    if !args.yes {
        ask(&waiting, uplink.is_none(), out)?;
    }
    let purged = match client::ask(store, &Request::Purge { uplink: args.uplink.clone() })? {
        Some(answer) => answer,
        None => at_rest(&loaded, uplink)?,
    };
    if let Some(why) = purged["error"].as_str() {
        return Err(Exit::Failed(why.to_owned()));
    }
    if args.common.json {
        writeln!(out, "{}", purged["purged"])?;
        return Ok(());
    }
    for (name, n) in purged["purged"].as_object().into_iter().flatten() {
        writeln!(out, "{name}: {} readings declared lost (purged)", count(n.as_f64().unwrap_or(0.0)))?;
    }
    if uplink.is_none() {
        writeln!(out, "the history is gone")?;
    }
    Ok(())
}

fn ask(waiting: &[(String, f64)], history: bool, out: &mut dyn Write) -> Result<(), Exit> {
    if !std::io::stdin().is_terminal() {
        return Err(Exit::Usage("purging asks first, and nobody is there to answer; add --yes".into()));
    }
    for (name, n) in waiting {
        writeln!(out, "{name}: {} readings will never arrive; they are declared lost", count(*n))?;
    }
    if history {
        writeln!(out, "and the history goes, of all points")?;
    }
    consent::go_on("nothing was purged", out)
}

/// Opens the log as the daemon would, for a moment.
fn at_rest(loaded: &Loaded, uplink: Option<&str>) -> Result<Json, Exit> {
    if !Path::new(&loaded.store.path).is_dir() {
        return Err(Exit::Failed(format!("there is no queue in {}", loaded.store.path.display())));
    }
    let names: Vec<String> = loaded.uplinks.iter().map(|u| u.name.clone()).collect();
    let clock = std::sync::Arc::new(SystemClock::new(
        loaded.gateway.clock == crate::config::model::ClockTrust::Trusted,
    ));
    let failed = |why: String| Exit::Failed(why);
    let wishes = wishes(&loaded.uplinks, &loaded.gateway.id);
    let (store, recovery) =
        Store::open_with(&loaded.store, ("", &names), wishes, clock).map_err(|e| failed(e.to_string()))?;
    if let Some(why) = recovery.ram_only {
        return Err(Exit::Failed(format!("the queue cannot be written: {why}")));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| failed(e.to_string()))?;
    runtime.block_on(async {
        let purged = store.purge(uplink).await.map_err(|e| failed(e.to_string()))?;
        store.close().await.map_err(|e| failed(e.to_string()))?;
        Ok(json!({ "purged": purged.into_iter().collect::<BTreeMap<_, _>>() }))
    })
}
