//! How a gateway ends: from the taps downwards, each part with a limit of its own, so that a stuck port,
//! a dead link or a hanging disk delays the end and never prevents it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

use super::cloud::RunningUplink;
use super::field::RunningBus;
use super::gateway::Gateway;

/// How long a stop or a reload waits for exchanges and deliveries under way.
pub const GRACE: Duration = Duration::from_secs(10);
/// How much longer what hangs on others waits: it can only end after them.
const AFTER: Duration = Duration::from_secs(1);
/// How soon something ends that only hands on what it has.
const SOON: Duration = Duration::from_millis(200);
/// How much longer than that the disk gets to take the last group.
const SAVING: Duration = Duration::from_secs(3);
/// The longest that all of [`Gateway::stop`] may take, for the service manager: twice the grace, the
/// saving after each, and the good-byes of the local broker's clients.
pub const LONGEST_STOP: Duration = Duration::from_secs(30);

impl Gateway {
    /// Stops the buses for good and stores what they read; delivery goes on. Returns what was stuck;
    /// `store`: not everything is on disk.
    pub async fn stop_polling(&mut self) -> Vec<String> {
        let deadline = Instant::now() + GRACE;
        let mut stuck = Vec::new();
        self.buses.values().for_each(RunningBus::stop);
        for (name, bus) in std::mem::take(&mut self.buses) {
            if !bus.ended(deadline).await {
                stuck.push(format!("bus {name}"));
            }
        }
        // The last sender gone, the flow ends once it has numbered everything.
        self.readings = None;
        if let Some(flow) = self.flow.take()
            && timeout_at(deadline + AFTER, flow).await.is_err()
        {
            stuck.push("flow".to_owned());
        }
        // What other devices published is a tap as well; what is handed over is stored with the rest.
        self.stop_forwarder.cancel();
        let flushed = timeout_at(deadline + SAVING, self.store.flush()).await;
        if let Some(why) = failure(flushed) {
            warn!("not everything is on disk: {why}");
            stuck.push(STORE.to_owned());
        }
        if let Some(mut forwarder) = self.forwarder.take()
            && timeout_at(Instant::now() + SOON, &mut forwarder).await.is_err()
        {
            // By now it has given everything to the store, which may wait for its interval.
            let _ = timeout_at(deadline + SAVING, self.store.flush()).await;
            if timeout_at(deadline + SAVING + AFTER, forwarder).await.is_err() {
                stuck.push("forwarding".to_owned());
            }
        }
        stuck
    }

    /// Stops the buses and lets what they read be stored. Each uplink delivers what is live or in flight, as
    /// far as the link allows within the grace; the backlog stays in the store for the next start.
    ///
    /// # Errors
    /// The names of the parts that were stuck and had to be cut off; `store` if not everything was saved.
    pub async fn stop(mut self) -> Result<(), Vec<String>> {
        let mut stuck = self.stop_polling().await;
        let deadline = Instant::now() + GRACE;
        self.stop_observer.cancel();
        let _ = timeout_at(deadline, self.observer).await;
        self.uplinks.values().for_each(RunningUplink::stop);
        for (name, uplink) in self.uplinks {
            if !uplink.ended(deadline + AFTER).await {
                stuck.push(format!("uplink {name}"));
            }
        }
        self.stop_helpers.cancel();
        for helper in self.helpers {
            let _ = timeout_at(deadline + AFTER, helper).await;
        }
        drop(self.commands);
        if timeout_at(deadline + AFTER, self.commander).await.is_err() {
            stuck.push("commander".to_owned());
        }
        // This is the last word: what could not be saved a moment ago may be saved now.
        stuck.retain(|part| part != STORE);
        if let Some(why) = failure(timeout_at(deadline + SAVING, self.store.close()).await) {
            error!("{why}");
            stuck.push(STORE.to_owned());
        }
        if timeout_at(deadline + SAVING + SAVING, self.broker.close()).await.is_err() {
            stuck.push("broker".to_owned());
        }
        info!("stopped");
        if stuck.is_empty() { Ok(()) } else { Err(stuck) }
    }
}

const STORE: &str = "store";

/// Why something that should end in time did not end well.
fn failure<E: ToString>(outcome: Result<Result<(), E>, tokio::time::error::Elapsed>) -> Option<String> {
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(why.to_string()),
        Err(_) => Some("the disk does not answer".to_owned()),
    }
}
