//! The life of the daemon: start, ready, signals, reload, watchdog, stop.

use std::path::Path;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::gateway::Gateway;
use super::memory;
use super::reload::WAITING;
use crate::config::Loaded;
use crate::status::notify;

/// Why the daemon ended other than well.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// It could not start.
    #[error("{0}")]
    Start(String),
    /// It stopped, but these parts were stuck.
    #[error("{}", .0.join(", "))]
    Stuck(Vec<String>),
    /// A part without which there is no gateway ended: systemd shall start the whole again.
    #[error("{0}; ending so that the service manager starts it again")]
    Broken(&'static str),
}

/// How often the tree is looked over when systemd asks for no watchdog.
const LOOK: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT. `load` reads the configuration again, for SIGHUP.
///
/// # Errors
/// See [`End`].
pub async fn run(
    loaded: Loaded,
    config: &Path,
    load: impl Fn(&Path) -> Result<Loaded, String>,
) -> Result<(), End> {
    let no_signals = |e: std::io::Error| End::Start(format!("signals: {e}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
    let summary = summary(&loaded);
    let tending = AbortOnDropHandle::new(tokio::spawn(memory::tend()));
    let mut gateway = Gateway::start(loaded).await.map_err(End::Start)?;
    for (transport, address) in gateway.addresses() {
        info!("local broker listens on {address} ({transport:?})");
    }
    info!("{summary}");
    notify::ready(&summary);
    let mut look = interval(notify::watchdog_period().unwrap_or(LOOK).min(LOOK));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv() => {
                notify::reloading();
                notify::ready(&reload(&mut gateway, config, &load).await);
            }
            _ = look.tick() => {
                if let Some(what) = gateway.broken() {
                    break Some(what);
                }
                look_over(&mut gateway, config, &load).await;
            }
        }
    };
    drop(tending);
    notify::stopping(super::LONGEST_STOP);
    info!("stopping: polls end, what was read is stored");
    let stopped = gateway.stop().await;
    match (end, stopped) {
        (Some(what), _) => Err(End::Broken(what)),
        (None, Ok(())) => Ok(()),
        (None, Err(stuck)) => Err(End::Stuck(stuck)),
    }
}

fn summary(loaded: &Loaded) -> String {
    let points: usize = loaded.buses.iter().map(|b| b.bus.plan().points.len()).sum();
    if points == 0 {
        return "running with nothing to poll yet: add a [[bus]] and a [[device]], then reload".to_owned();
    }
    format!("polling {points} points on {} buses, {} uplinks", loaded.buses.len(), loaded.uplinks.len())
}

/// A bad file changes nothing and says why. Returns the words for the service manager.
async fn reload(
    gateway: &mut Gateway,
    config: &Path,
    load: &impl Fn(&Path) -> Result<Loaded, String>,
) -> String {
    let loaded = match load(config) {
        Ok(loaded) => loaded,
        Err(problems) => {
            error!("reload refused, everything runs on as before:\n{problems}");
            return "running on the configuration before the last reload, which has mistakes".to_owned();
        }
    };
    let summary = summary(&loaded);
    match gateway.reload(loaded).await {
        Ok(changes) if changes.is_empty() => info!("reloaded: nothing changed"),
        Ok(changes) => {
            let (waiting, taken): (Vec<_>, Vec<_>) =
                changes.into_iter().partition(|c| c.starts_with(WAITING));
            if taken.is_empty() {
                info!("reloaded");
            } else {
                info!("reloaded: {}", taken.join(", "));
            }
            waiting.iter().for_each(|key| warn!("{key}; until then it is as it was"));
        }
        Err(why) => {
            error!("reload refused, everything runs on as before: {why}");
            return format!("reload refused: {why}");
        }
    }
    summary
}

/// Feeds the watchdog if everything moves, and starts again what ended by itself.
async fn look_over(gateway: &mut Gateway, config: &Path, load: &impl Fn(&Path) -> Result<Loaded, String>) {
    let stalled = gateway.stalled();
    if stalled.0.is_empty() {
        notify::alive();
    } else {
        error!("no sign of life from: {}", stalled.0.join(", "));
    }
    let dead = gateway.dead();
    if dead.is_empty() {
        return;
    }
    gateway.show_dead();
    error!("ended by a fault in the program: {}; starting again", dead.join(", "));
    match load(config) {
        Ok(loaded) => {
            let edited = gateway.revive(loaded).await;
            if !edited.is_empty() {
                warn!(
                    "not started again, for the configuration was edited since: {}; reload",
                    edited.join(", ")
                );
            }
        }
        Err(problems) => warn!("cannot start it again, the configuration has mistakes:\n{problems}"),
    }
}
