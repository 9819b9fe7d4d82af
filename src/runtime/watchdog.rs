//! What the watchdog asks of a gateway: what stands still, what ended by itself, and whether the process
//! can go on at all.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::field::RunningBus;
use super::gateway::Gateway;

/// The store's commits, as the watchdog saw them last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    commits: u64,
    since: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self { commits: 0, since: Instant::now() }
    }
}

/// What must move, has it moved? The watchdog's question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalled(pub Vec<String>);

/// A part that shows no sign of life for this long is stalled. The longest exchange on a bus is its
/// device timeout (seconds), the slowest fsync of a dying card some ten seconds.
const STALLED_AFTER: Duration = Duration::from_secs(45);

impl Gateway {
    /// Parts that should move and do not. A broken disk is no stall: the store says so and tries again.
    pub fn stalled(&mut self) -> Stalled {
        let mut parts = Vec::new();
        let still = self.clock.boot().0.saturating_sub(self.flow_stats.alive_boot_ms.load(Relaxed));
        if Duration::from_millis(still) > STALLED_AFTER {
            parts.push("flow".to_owned());
        }
        let store = self.store.status();
        if store.commits != self.progress.commits || store.readings_in_ram == 0 || store.state != "ok" {
            self.progress = Progress { commits: store.commits, since: Instant::now() };
        }
        // Readings may wait for a whole commit interval with nothing wrong.
        if self.progress.since.elapsed() > STALLED_AFTER + self.commit_interval {
            parts.push("store".to_owned());
        }
        Stalled(parts)
    }

    /// Buses and uplinks whose task ended by itself (a fault in the program), by name.
    #[must_use]
    pub fn dead(&self) -> Vec<String> {
        let buses = self.buses.iter().filter(|(_, b)| b.is_dead()).map(|(n, _)| format!("bus {n}"));
        let uplinks = self.uplinks.iter().filter(|(_, u)| u.is_dead()).map(|(n, _)| format!("uplink {n}"));
        buses.chain(uplinks).collect()
    }

    /// Lets the status of dead buses say `down`, for as long as they are not started again.
    pub fn show_dead(&self) {
        self.buses.values().filter(|bus| bus.is_dead()).for_each(RunningBus::show_down);
    }

    /// Whether a task without which there is no gateway has ended: then the process must end too.
    #[must_use]
    pub fn broken(&self) -> Option<&'static str> {
        let ended = JoinHandle::is_finished;
        [
            (self.store.status().state == "ended", "the store's thread ended"),
            (self.flow.as_ref().is_some_and(ended), "the flow of readings ended"),
            (self.forwarder.as_ref().is_some_and(ended), "the forwarding of other devices' messages ended"),
            (ended(&self.commander), "the commander ended"),
            (self.broker.is_ended(), "the local broker ended"),
            (ended(&self.observer), "the observer of the status ended"),
            (self.helpers.iter().any(ended), "a helper (commands, losses or control socket) ended"),
        ]
        .into_iter()
        .find_map(|(broken, what)| broken.then_some(what))
    }
}
