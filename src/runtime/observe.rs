//! Shows the snapshot on the local broker: retained status topics, alarms at changes of state, and
//! loss records as they are declared.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::message::{LossRecord, Message, Publish};
use crate::pipeline::payload;
use crate::pipeline::topics::Topics;
use crate::status::snapshot::{Rates, Snapshot, Sources};

/// How often states are compared; a change is published at once.
const LOOK: Duration = Duration::from_secs(1);
/// How often numbers are published when no state changes.
const EVERY: u32 = 10;

/// Publishes until stopped, and then the farewell.
pub async fn observe(
    mut sources: watch::Receiver<Sources>,
    publish: Publish,
    topics: Topics,
    stop: CancellationToken,
) {
    let mut rates = Rates::default();
    let mut before: BTreeMap<String, String> = BTreeMap::new();
    let mut turn = 0;
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let snapshot = sources.borrow_and_update().clone().snapshot(&mut rates);
        let parts = parts(&snapshot, &topics);
        let mut messages = Vec::new();
        for (topic, part) in &parts {
            let state = part["state"].as_str().unwrap_or_default();
            let was = before.insert(topic.clone(), state.to_owned());
            let changed = was.as_deref() != Some(state);
            if changed || turn % EVERY == 0 {
                messages.push(Message::new(topic.as_str(), part.to_string(), true));
            }
            if let Some(was) = was.filter(|_| changed) {
                let alarm = json!({
                    "part": topics.within(topic).unwrap_or(topic),
                    "state": state, "was": was,
                    "ts": sources.borrow().clock.wall().to_string(),
                });
                messages.push(Message::new(topics.event_alarm(), alarm.to_string(), false));
            }
        }
        // What a reload took away must not stay retained for ever.
        before.retain(|topic, _| {
            let kept = parts.contains_key(topic);
            if !kept {
                messages.push(Message::new(topic.as_str(), "", true));
            }
            kept
        });
        if !messages.is_empty() {
            publish(messages);
        }
        turn += 1;
    }
    publish(vec![Message::new(topics.status(), payload::OFFLINE, true)]);
}

/// Topic and payload of every part.
fn parts(snapshot: &Snapshot, topics: &Topics) -> BTreeMap<String, Json> {
    let mut parts = BTreeMap::new();
    let mut add = |topic: String, part: Json| parts.insert(topic, part);
    add(topics.status(), to_json(&snapshot.gateway));
    for (name, part) in &snapshot.bus {
        add(topics.status_of("bus", name), to_json(part));
    }
    for (name, part) in &snapshot.device {
        add(topics.status_of("device", name), to_json(part));
    }
    for (name, part) in &snapshot.uplink {
        add(topics.status_of("uplink", name), to_json(part));
    }
    add(topics.status_part("store"), to_json(&snapshot.store));
    add(topics.status_part("broker"), to_json(&snapshot.broker));
    parts
}

fn to_json(part: &impl Serialize) -> Json {
    serde_json::to_value(part).unwrap_or_default()
}

/// The message of a loss record on the local broker.
#[must_use]
pub fn loss_message(record: &LossRecord, topics: &Topics) -> Message {
    Message::new(topics.event_loss(), payload::loss(record), false)
}
