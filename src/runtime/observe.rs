//! Shows the snapshot on the local broker: retained status topics, alarms at changes of state, and
//! loss records as they are declared.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::message::{CorrectionRecord, LossRecord, Message, Moment, Publish};
use crate::pipeline::payload;
use crate::pipeline::topics::Topics;
use crate::status::snapshot::{Rates, Snapshot, Sources};

/// How often states are compared; a change is published at once.
const LOOK: Duration = Duration::from_secs(1);
/// How often numbers are published when no state changes.
const EVERY: u32 = 10;

/// What was shown of a part last.
struct Seen {
    /// The exact word, as on the status topic.
    word: String,
    /// What alarms go by.
    class: String,
}

const STARTING: &str = "starting";

/// What a state means to a person, after what it meant before. The tries of an uplink that is not connected
/// are one state, and so are a device's first missed answers and what it was before them. An uplink's first
/// try belongs to its start.
fn class<'a>(was: &'a str, word: &'a str) -> &'a str {
    match word {
        "connecting" | "suspect" if was == STARTING => STARTING,
        "connecting" | "waiting" => "disconnected",
        "suspect" => was,
        word => word,
    }
}

/// Whether a change of class is worth a person's attention: every one but those of an orderly start.
fn is_alarm(was: &str, class: &str) -> bool {
    let well = ["ok", "up", "online", "connected"].contains(&class);
    was != class && class != STARTING && !(was == STARTING && well)
}

/// Publishes until stopped, and then the farewell.
pub async fn observe(
    mut sources: watch::Receiver<Sources>,
    publish: Publish,
    topics: Topics,
    stop: CancellationToken,
) {
    let mut rates = Rates::default();
    let mut before: BTreeMap<String, Seen> = BTreeMap::new();
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
            let word = part["state"].as_str().unwrap_or_default();
            let was = before.get(topic);
            let changed = was.is_none_or(|was| was.word != word);
            if changed || turn % EVERY == 0 {
                messages.push(Message::new(topic.as_str(), part.to_string(), true));
            }
            let was_class = was.map_or(STARTING, |was| was.class.as_str());
            let class = class(was_class, word).to_owned();
            if is_alarm(was_class, &class) {
                let part = topics.within(topic).unwrap_or(topic);
                let alarm = json!({ "part": part, "state": class, "was": was_class });
                let alarm = at(alarm, sources.borrow().now());
                messages.push(Message::new(topics.event_alarm(), alarm.to_string(), false));
            }
            if changed {
                before.insert(topic.clone(), Seen { word: word.to_owned(), class });
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

/// An alarm of this moment.
#[must_use]
pub fn at(mut alarm: Json, now: Moment) -> Json {
    alarm["ts"] = now.ts.to_string().into();
    if let Some(word) = now.clock() {
        alarm["clock"] = word.into();
    }
    alarm
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

/// The message of a correction on the local broker.
#[must_use]
pub fn correction_message(record: &CorrectionRecord, topics: &Topics) -> Message {
    Message::new(topics.event_correction(), payload::correction(record), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The alarms of a part that goes through these states, as `was>class`.
    fn alarms(words: &[&str]) -> Vec<String> {
        let mut was = STARTING.to_owned();
        let mut raised = Vec::new();
        for word in words {
            let class = class(&was, word).to_owned();
            if is_alarm(&was, &class) {
                raised.push(format!("{was}>{class}"));
            }
            was = class;
        }
        raised
    }

    #[test]
    fn an_orderly_start_is_no_alarm() {
        let none: [&str; 0] = [];
        assert_eq!(alarms(&["starting", "up"]), none);
        assert_eq!(alarms(&["ok"]), none);
        assert_eq!(alarms(&["starting", "suspect", "online"]), none);
        assert_eq!(alarms(&["starting", "connecting", "connected"]), none);
    }

    #[test]
    fn a_start_that_fails_is_one() {
        assert_eq!(alarms(&["starting", "down"]), ["starting>down"]);
        assert_eq!(alarms(&["fault", "ok"]), ["starting>fault", "fault>ok"]);
        assert_eq!(alarms(&["starting", "suspect", "offline"]), ["starting>offline"]);
        assert_eq!(alarms(&["connecting", "waiting", "connecting"]), ["starting>disconnected"]);
    }

    #[test]
    fn an_outage_is_two_alarms_however_many_tries_it_takes() {
        let tries = ["connected", "waiting", "connecting", "waiting", "connecting", "connected"];
        assert_eq!(alarms(&tries), ["connected>disconnected", "disconnected>connected"]);
        let misses = ["online", "suspect", "online", "suspect", "offline", "online"];
        assert_eq!(alarms(&misses), ["online>offline", "offline>online"]);
    }

    #[test]
    fn an_alarm_says_where_its_time_is_only_what_the_box_believes() {
        use crate::message::WallMs;
        let alarm = |set| at(json!({ "state": "down" }), Moment { ts: WallMs(5000), set }).to_string();
        assert_eq!(alarm(true), r#"{"state":"down","ts":"1970-01-01T00:00:05.000Z"}"#);
        assert_eq!(alarm(false), r#"{"state":"down","ts":"1970-01-01T00:00:05.000Z","clock":"unsynced"}"#);
    }

    #[test]
    fn a_part_that_a_person_starts_anew_raises_none() {
        assert!(alarms(&["connected", "starting", "connecting", "connected"]).is_empty());
    }
}
