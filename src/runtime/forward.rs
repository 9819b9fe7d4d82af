//! From the local broker to the log: what other devices publish on the topics of `[[uplink.forward]]`. One task.
//!
//! Promises: a message with QoS 1 or 2 is acknowledged to its publisher when it is stored, not before. What is handed over
//! when the task is told to end still goes into the log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bounds;
use crate::broker::{Broker, Keeper, Receipt, Tapped, Taps};
use crate::clock::Clock;
use crate::config::model::Uplink;
use crate::forward::{Forwards, own_tree};
use crate::message::Forwarded;
use crate::status::snapshot::{Sources, UplinkSource};
use crate::store::{Posted, Store, Wishes};

/// What each uplink wants of the messages of other devices.
#[must_use]
pub fn wishes(uplinks: &[Uplink], gateway: &str) -> Wishes {
    let all = uplinks.iter().map(|uplink| (uplink.name.clone(), Arc::new(Forwards::new(uplink, gateway))));
    all.filter(|(_, forwards)| !forwards.is_empty()).collect()
}

/// Which topics of the local broker are asked for.
#[must_use]
pub fn taps(uplinks: &[Uplink], gateway: &str) -> Taps {
    let all = uplinks.iter().map(|uplink| Forwards::new(uplink, gateway));
    let mut filters: Vec<String> =
        all.flat_map(|f| f.filters().map(str::to_owned).collect::<Vec<_>>()).collect();
    filters.sort();
    filters.dedup();
    Taps { filters, except: own_tree(gateway) }
}

/// Counts what a route would have brought to a place in the cloud where nothing may go.
fn count_misplaced<'m>(uplinks: &[UplinkSource], messages: impl Iterator<Item = &'m Forwarded> + Clone) {
    for uplink in uplinks.iter().filter(|uplink| !uplink.forwards.is_empty()) {
        let misplaced = messages.clone().filter(|message| uplink.forwards.misplaces(message)).count();
        uplink.counters.forward_dropped.fetch_add(misplaced as u64, Relaxed);
    }
}

/// Runs until the broker has stopped, or it is told to end and everything handed over is stored.
pub async fn run(
    mut tapped: Keeper,
    broker: Broker,
    store: Store,
    uplinks: watch::Receiver<Sources>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut stored = store.posted();
    let mut waiting: VecDeque<(u64, Receipt)> = VecDeque::new();
    let (mut batch, mut open) = (Vec::new(), true);
    while open || !waiting.is_empty() {
        tokio::select! {
            biased;
            () = stop.cancelled(), if !tapped.is_closed() => tapped.close(),
            changed = stored.changed(), if !waiting.is_empty() => {
                if changed.is_err() {
                    return;
                }
                let through = *stored.borrow_and_update();
                let done = waiting.iter().take_while(|(number, _)| *number <= through).count();
                broker.stored(waiting.drain(..done).map(|(_, receipt)| receipt).collect()).await;
            }
            n = tapped.recv_many(&mut batch, bounds::FORWARD_QUEUE), if open => {
                open = n > 0;
                let (at, wishes) = (clock.boot(), store.wishes());
                let parts: Vec<_> = batch.drain(..).map(|tapped: Tapped| tapped.into_parts(at)).collect();
                count_misplaced(&uplinks.borrow().uplinks, parts.iter().map(|(message, _)| message));
                // What an uplink brought itself, or a circle, is nobody's.
                let wanted = |(message, _): &(Forwarded, Receipt)| wishes.values().any(|forwards| forwards.takes(message));
                let (wanted, others): (Vec<_>, Vec<_>) = parts.into_iter().partition(wanted);
                if !others.is_empty() {
                    broker.stored(others.into_iter().map(|(_, receipt)| receipt).collect()).await;
                }
                let posted = |(message, receipt): (Forwarded, Receipt)| {
                    (Posted { message: Arc::new(message), docket: receipt.docket() }, receipt)
                };
                let (messages, receipts): (Vec<_>, Vec<_>) = wanted.into_iter().map(posted).unzip();
                let count = messages.len() as u64;
                let last = store.post(messages);
                waiting.extend((last - count + 1..).zip(receipts));
            }
        }
    }
}
