//! `fieldgate run`: the daemon.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;

use super::exit::Exit;
use super::files::{self, Who};
use super::restore::{self, Unfinished};
use crate::runtime::few_arenas;
use crate::runtime::service::{self, End};
use crate::status::journal;

/// Run the gateway until it is told to stop.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The configuration file; `conf.d/*.toml` beside it is read too.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
}

/// Runs until SIGTERM or SIGINT; SIGHUP reloads.
///
/// # Errors
/// 78 with mistakes in the configuration, 69 when it cannot start, 75 when it did not drain in time.
pub fn run(args: &Args) -> Result<(), Exit> {
    few_arenas();
    journal::start("info");
    match restore::finish(&args.config) {
        Ok(false) => {}
        Ok(true) => tracing::warn!("a restore had been interrupted; it is finished now"),
        Err(error) => return Err(half_restored(&error, args)),
    }
    let mut loaded = files::load(&args.config, Who::Daemon).map_err(|report| Exit::from(&report))?;
    for line in loaded.warnings.render(false).lines() {
        tracing::warn!("{line}");
    }
    allow_open_files(&mut loaded.broker.max_connections);
    let load = |path: &std::path::Path| {
        let mut loaded = files::load(path, Who::Daemon).map_err(|report| report.render(false))?;
        allow_open_files(&mut loaded.broker.max_connections);
        Ok(loaded)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Exit::Start(Box::new(e)))?;
    let end = runtime.block_on(service::run(loaded, &args.config, load));
    // A thread that hangs in the system (a resolver without an answer, a stuck bus) must not hold the end up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match end {
        Ok(()) => Ok(()),
        Err(End::Stuck(parts)) => Err(Exit::NotDrained(parts.join(", "))),
        Err(end @ (End::Start(_) | End::Broken(_))) => Err(Exit::Start(Box::new(end))),
    }
}

/// The unit runs `restore --finish` as root before each start. What it did not get through keeps the daemon out; it is tried
/// again, unless that cannot help.
fn half_restored(error: &Unfinished, args: &Args) -> Exit {
    let text = format!(
        "a restore was interrupted, and half of the configuration is from before it: {error}; {}",
        error.hint(&args.config)
    );
    match error {
        Unfinished::Broken(_) => Exit::Config(text),
        Unfinished::Busy(_) | Unfinished::Disk(_) => Exit::Start(text.into()),
    }
}

/// Open files of our own beside the broker's clients: ports, uplinks, the database, what shares buses.
const OWN_FILES: u64 = 512;

/// Each client of the broker is an open file, and one too many would take the database's. systemd starts services with
/// room for 1024 and lets them have more if they ask. Where that is not enough for `clients`, fewer are let in.
fn allow_open_files(clients: &mut u32) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = u64::from(*clients) + OWN_FILES;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|now| now >= wanted) {
        return;
    }
    let possible = limit.maximum.map_or(wanted, |most| most.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum: limit.maximum });
    let possible = if raised.is_ok() { possible } else { limit.current.unwrap_or(wanted) };
    if possible < wanted {
        *clients = places(*clients, possible);
        tracing::warn!(
            wanted,
            possible,
            "too few open files for all clients that `max_connections` of [broker] lets in: it is {clients} instead; raise LimitNOFILE of the service"
        );
    }
}

/// How many clients may be connected with so many open files: what our own need is left to us, and half in any case.
fn places(clients: u32, files: u64) -> u32 {
    clients.min(u32::try_from(files - OWN_FILES.min(files / 2)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_get_the_open_files_that_we_need_ourselves() {
        let got = [80, 1023, 1024, 1536, 1_000_000].map(|files| places(1024, files));
        assert_eq!(got, [40, 512, 512, 1024, 1024]);
        assert_eq!(places(10, 80), 10);
    }
}
