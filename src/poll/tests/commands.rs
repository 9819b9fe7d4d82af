//! The commander over a scripted bus, under paused time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use driver_api::Value;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::super::commander::{Commander, Memory, Now, Outcome, State, Target, Targets};
use super::{Bench, bench};
use crate::clock::{Clock, SystemClock};
use crate::message::{CommandRequest, Message, Moment, Origin, WallMs};

struct Remembered(Mutex<HashMap<String, Option<String>>>);

#[async_trait]
impl Memory for Remembered {
    fn recall(&self, id: &str) -> Option<Option<String>> {
        self.0.lock().expect("test").get(id).cloned()
    }
    async fn begin(&self, id: &str) -> bool {
        self.0.lock().expect("test").insert(id.to_owned(), None).is_none()
    }
    fn keep(&self, id: &str, result: &str) {
        self.0.lock().expect("test").insert(id.to_owned(), Some(result.to_owned()));
    }
}

/// A commander over a bench; sends payloads and waits for states.
struct Post {
    bench: Bench,
    /// What time it is, and whether the clock is set.
    now: Arc<Mutex<Moment>>,
    commands: mpsc::Sender<CommandRequest>,
    results: mpsc::Receiver<Message>,
    clock: SystemClock,
}

fn post() -> Post {
    post_remembering(HashMap::new())
}

/// Two devices of one point, `device0/p0` and `device1/p1`, and what is remembered of an earlier life.
fn post_remembering(known: HashMap<String, Option<String>>) -> Post {
    let bench = bench(2);
    let targets: Targets = bench
        .rules
        .iter()
        .enumerate()
        .map(|(point, rule)| {
            let name = (rule.key.device.clone(), rule.key.point.clone());
            (name, Target { bus: bench.handle.clone(), point, rule: rule.clone() })
        })
        .collect();
    let (_, targets) = watch::channel(Arc::new(targets));
    let (outbox, results) = mpsc::channel(64);
    let publish = Arc::new(move |messages: Vec<Message>| {
        messages.into_iter().for_each(|m| outbox.try_send(m).expect("room"));
    });
    let now = Arc::new(Mutex::new(Moment { ts: WallMs(1_795_357_800_123), set: true }));
    let told = now.clone();
    let times: (Arc<dyn Clock>, Now) =
        (Arc::new(SystemClock::new(true)), Arc::new(move || *told.lock().expect("test")));
    let commander = Commander::new("gw", targets, Arc::new(Remembered(Mutex::new(known))), times, publish);
    let (commands, inbox) = mpsc::channel(16);
    tokio::spawn(commander.run(inbox));
    Post { bench, now, commands, results, clock: SystemClock::new(true) }
}

impl Post {
    async fn send(&mut self, payload: serde_json::Value) {
        self.send_to("device0/p0", payload, false).await;
    }
    async fn send_to(&mut self, path: &str, payload: serde_json::Value, retained: bool) {
        self.send_text(path, payload.to_string(), retained).await;
    }
    async fn send_text(&mut self, path: &str, payload: String, retained: bool) {
        let (device, point) = path.split_once('/').expect("device/point");
        let request = CommandRequest {
            device: device.into(),
            point: point.into(),
            payload: payload.into_bytes().into(),
            retained,
            origin: Origin::Local,
            received: Instant::now(),
        };
        self.commands.send(request).await.expect("commander runs");
    }
    async fn result(&mut self) -> Outcome {
        loop {
            tokio::select! {
                Some(message) = self.results.recv() => {
                    assert!(message.topic.starts_with("gw/gw/result/") && !message.retain);
                    return serde_json::from_slice(&message.payload).expect("JSON");
                }
                // Someone has to take the readings, or the bus waits.
                Some(_) = self.bench.readings.recv() => {}
            }
        }
    }
    async fn states(&mut self, payload: serde_json::Value) -> (State, Option<String>) {
        self.send(payload).await;
        let first = self.result().await;
        if first.state == State::Accepted {
            let last = self.result().await;
            return (last.state, last.error);
        }
        (first.state, first.error)
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_is_written_and_read_back() {
    let mut post = post();
    post.send(json!({"id": "a", "value": 21})).await;
    assert_eq!(post.result().await.state, State::Accepted);
    let done = post.result().await;
    assert_eq!((done.state, done.value, done.id.as_deref()), (State::Verified, Some(json!(21)), Some("a")));
    assert_eq!(post.bench.line.lock().expect("test").held[&0], Value::Int(21));
}

#[tokio::test(start_paused = true)]
async fn a_result_of_a_time_before_the_clock_was_set_says_so_and_stays_so() {
    let mut post = post();
    let set = *post.now.lock().expect("test");
    *post.now.lock().expect("test") = Moment { ts: WallMs(40_000), set: false };
    for command in [json!({"id": "a", "value": 21}), json!({"id": "b", "value": 99})] {
        post.send(command).await;
        let first = post.result().await;
        let last = if first.state == State::Accepted { post.result().await } else { first };
        assert_eq!((&*last.ts, last.clock.as_deref()), ("1970-01-01T00:00:40.000Z", Some("unsynced")));
    }
    *post.now.lock().expect("test") = set;
    post.send(json!({"id": "a", "value": 21})).await;
    let again = post.result().await;
    assert_eq!((again.state, &*again.ts), (State::Verified, "1970-01-01T00:00:40.000Z"), "what was told");
    assert_eq!(again.clock.as_deref(), Some("unsynced"));
    post.send(json!({"id": "c", "value": 99})).await;
    let refused = post.result().await;
    assert_eq!((&*refused.ts, refused.clock), ("2026-11-22T14:30:00.123Z", None));
}

#[tokio::test(start_paused = true)]
async fn what_reads_back_differently_has_failed() {
    let mut post = post();
    post.bench.line.lock().expect("test").stuck_value = true;
    let (state, error) = post.states(json!({"id": "a", "value": 21})).await;
    assert_eq!(state, State::Failed);
    assert!(error.is_some_and(|e| e.contains("read back 7")));
}

#[tokio::test(start_paused = true)]
async fn a_repeated_id_is_answered_and_not_carried_out_again() {
    let mut post = post();
    assert_eq!(post.states(json!({"id": "a", "value": 21})).await.0, State::Verified);
    post.bench.line.lock().expect("test").held.insert(0, Value::Int(5));
    post.send(json!({"id": "a", "value": 21})).await;
    let again = post.result().await;
    assert_eq!((again.state, again.value), (State::Verified, Some(json!(21))));
    assert_eq!(post.bench.line.lock().expect("test").held[&0], Value::Int(5));
}

#[tokio::test(start_paused = true)]
async fn what_came_too_late_is_never_carried_out() {
    let mut post = post();
    let past = WallMs(post.clock.wall().0 - 1000).to_string();
    for payload in
        [json!({"id": "a", "value": 1, "ttl": "0s"}), json!({"id": "b", "value": 1, "expires": past})]
    {
        assert_eq!(post.states(payload).await.0, State::Expired);
    }
    assert!(post.bench.line.lock().expect("test").held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_ttl_counts_from_the_arrival_however_long_the_command_then_waited() {
    let mut post = post();
    let request = CommandRequest {
        device: "device0".into(),
        point: "p0".into(),
        payload: json!({"id": "a", "value": 1, "ttl": "5s"}).to_string().into_bytes().into(),
        retained: false,
        origin: Origin::Local,
        received: Instant::now(),
    };
    tokio::time::sleep(Duration::from_secs(6)).await;
    post.commands.send(request).await.expect("commander runs");
    assert_eq!(post.result().await.state, State::Expired);
    assert!(post.bench.line.lock().expect("test").held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_why() {
    let mut post = post();
    for (payload, why) in [
        (json!({"id": "a", "value": 31}), "outside"),
        (json!({"id": "b", "value": "warm"}), "number"),
        (json!({"id": "c", "value": 1.5}), "whole"),
        (json!({"value": 1}), "missing field `id`"),
        (json!({"id": "", "value": 1}), "1 to 128"),
        (json!({"id": "d", "value": 1, "expires": "tomorrow"}), "RFC 3339"),
        (json!("on"), "not a command"),
    ] {
        let (state, error) = post.states(payload.clone()).await;
        assert_eq!(state, State::Refused, "{payload}");
        assert!(error.as_deref().is_some_and(|e| e.contains(why)), "{payload}: {error:?}");
    }
    post.send_to("device9/p0", json!({"id": "e", "value": 1}), false).await;
    assert!(post.result().await.error.is_some_and(|e| e.contains("no device `device9`")));
    post.send_to("device0/p0", json!({"id": "f", "value": 1}), true).await;
    assert!(post.result().await.error.is_some_and(|e| e.contains("retained")));
    assert!(post.bench.line.lock().expect("test").held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_id_belongs_to_its_point() {
    let mut post = post();
    assert_eq!(post.states(json!({"id": "a", "value": 21})).await.0, State::Verified);
    // At another point it is another command.
    post.send_to("device1/p1", json!({"id": "a", "value": 5}), false).await;
    assert_eq!(post.result().await.state, State::Accepted);
    let done = post.result().await;
    assert_eq!((done.state, done.value), (State::Verified, Some(json!(5))));
    assert_eq!(post.bench.line.lock().expect("test").held[&1], Value::Int(5));
    // At a point that there is not it is refused, known or not.
    for nowhere in ["device0/p1", "device9/p0"] {
        post.send_to(nowhere, json!({"id": "a", "value": 21}), false).await;
        let refused = post.result().await;
        assert_eq!(refused.state, State::Refused, "{nowhere}");
        assert!(
            refused.error.is_some_and(|e| e.contains("no point `p1`") || e.contains("no device `device9`"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_id_with_another_value_gets_the_old_result_and_is_told_so() {
    let mut post = post();
    assert_eq!(post.states(json!({"id": "a", "value": 21})).await, (State::Verified, None));
    let (state, error) = post.states(json!({"id": "a", "value": 22})).await;
    assert_eq!(state, State::Verified);
    assert!(error.is_some_and(|e| e.contains("another value (21)") && e.contains("nothing was written now")));
    assert_eq!(
        post.states(json!({"id": "a", "value": 21.0})).await,
        (State::Verified, None),
        "the same value"
    );
    assert_eq!(post.bench.line.lock().expect("test").held[&0], Value::Int(21));
}

#[tokio::test(start_paused = true)]
async fn an_id_that_an_earlier_version_kept_without_its_point_is_not_carried_out_again() {
    let old = r#"{"id":"a","state":"verified","value":21,"ts":"2026-11-28T10:00:00.000Z"}"#;
    let mut post = post_remembering([("a".into(), Some(old.into())), ("b".into(), None)].into());
    let (state, error) = post.states(json!({"id": "a", "value": 21})).await;
    assert_eq!(state, State::Verified);
    assert!(error.is_some_and(|e| e.contains("before an upgrade")));
    post.send(json!({"id": "b", "value": 21})).await;
    assert!(post.result().await.error.is_some_and(|e| e.contains("what came of it is not known")));
    assert!(post.bench.line.lock().expect("test").held.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_number_that_is_none_is_refused_with_the_id_beside_it() {
    let mut post = post();
    for payload in [r#"{"id":"x","value":1e400}"#, r#"{"value":-1e400,"id":"x"}"#] {
        post.send_text("device0/p0", payload.to_owned(), false).await;
        let refused = post.result().await;
        assert_eq!((refused.state, refused.id.as_deref()), (State::Refused, Some("x")), "{payload}");
        assert!(refused.error.is_some_and(|e| e.contains("out of range")), "{payload}");
    }
}
