//! The bus task and the commander over a scripted bus, under paused time.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{
    Block, Bus, DeviceInfo, FrameError, Plan, PointInfo, Quality, ReadError, Reason, Sample, Value,
};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::commander::{Commander, Memory, Outcome, State, Target, Targets};
use super::{BusHandle, BusTask, stats::BusStats};
use crate::clock::{Clock, SystemClock};
use crate::message::{CommandRequest, Message, Origin, PointKey, Reading};
use crate::pipeline::report::Reporter;
use crate::pipeline::rule::Rule;

/// What the fake line does; shared with the test.
#[derive(Default)]
struct Line {
    dead: Vec<usize>,
    gone: bool,
    stuck_value: bool,
    held: HashMap<usize, Value>,
    reads: Vec<(Instant, usize)>,
    opened: u32,
}

struct FakeBus {
    plan: Plan,
    line: Arc<Mutex<Line>>,
}

const EXCHANGE: Duration = Duration::from_millis(10);
const TIMEOUT: Duration = Duration::from_millis(500);

#[async_trait]
impl Bus for FakeBus {
    fn plan(&self) -> &Plan {
        &self.plan
    }
    async fn open(&mut self) -> io::Result<()> {
        let mut line = self.line.lock().expect("test");
        if line.gone {
            return Err(io::ErrorKind::NotFound.into());
        }
        line.opened += 1;
        Ok(())
    }
    async fn read(&mut self, block: usize, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        let device = self.plan.blocks[block].device;
        let (gone, dead) = {
            let mut line = self.line.lock().expect("test");
            line.reads.push((Instant::now(), device));
            (line.gone, line.dead.contains(&device))
        };
        if gone {
            return Err(ReadError::Bus(io::ErrorKind::BrokenPipe.into()));
        }
        if dead {
            tokio::time::sleep(TIMEOUT).await;
            return Err(ReadError::Transient(FrameError::Timeout(TIMEOUT)));
        }
        tokio::time::sleep(EXCHANGE).await;
        let line = self.line.lock().expect("test");
        for &point in &self.plan.blocks[block].points {
            let value = line.held.get(&point).cloned().unwrap_or(Value::Int(7));
            out.push(Sample { point, value: Ok(value), at: Instant::now() });
        }
        Ok(())
    }
    async fn write(&mut self, point: usize, value: &Value) -> Result<(), ReadError> {
        tokio::time::sleep(EXCHANGE).await;
        let mut line = self.line.lock().expect("test");
        if !line.stuck_value {
            line.held.insert(point, value.clone());
        }
        Ok(())
    }
}

struct Bench {
    line: Arc<Mutex<Line>>,
    handle: BusHandle,
    stats: Arc<BusStats>,
    readings: mpsc::Receiver<Vec<Reading>>,
    rules: Vec<Rule>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// A bus with `devices` devices of one point each, polled every 100 ms.
fn bench(devices: usize) -> Bench {
    let name = |d: usize| format!("device{d}");
    let plan = Plan {
        devices: (0..devices).map(|d| DeviceInfo { name: name(d), address: d.to_string() }).collect(),
        points: (0..devices)
            .map(|d| PointInfo {
                device: d,
                name: "p".into(),
                spec: Some(0),
                unit: None,
                kind: "i16".into(),
                source: "x".into(),
                writable: true,
            })
            .collect(),
        blocks: (0..devices)
            .map(|d| Block {
                device: d,
                points: vec![d],
                every: Duration::from_millis(100),
                cost: EXCHANGE,
                what: "x".into(),
            })
            .collect(),
    };
    let rules: Vec<Rule> = (0..devices)
        .map(|d| {
            let key = PointKey { device: name(d), point: "p".into(), unit: String::new() };
            Rule { writable: true, max: Some(30.0), ..Rule::plain(Arc::new(key), "i16") }
        })
        .collect();
    let line = Arc::new(Mutex::new(Line::default()));
    let bus = Box::new(FakeBus { plan, line: line.clone() });
    let (out, readings) = mpsc::channel(crate::bounds::READINGS);
    let stop = CancellationToken::new();
    let clock = Arc::new(SystemClock::new(true));
    let (task, handle, stats) =
        BusTask::new("bus", bus, Reporter::new(rules.clone()), clock, out, stop.clone());
    Bench { line, handle, stats, readings, rules, stop, task: tokio::spawn(task.run()) }
}

impl Bench {
    /// Reads of each device over this long.
    async fn reads_in(&mut self, length: Duration) -> HashMap<usize, usize> {
        self.line.lock().expect("test").reads.clear();
        let end = Instant::now() + length;
        while let Ok(Some(_)) = tokio::time::timeout_at(end, self.readings.recv()).await {}
        let mut counts = HashMap::new();
        for (_, device) in &self.line.lock().expect("test").reads {
            *counts.entry(*device).or_default() += 1;
        }
        counts
    }

    /// The next reading for which `wanted` holds.
    async fn until(&mut self, wanted: impl Fn(&Reading) -> bool) -> Reading {
        let search = async {
            loop {
                let batch = self.readings.recv().await.expect("the bus task runs");
                if let Some(reading) = batch.into_iter().find(|r| wanted(r)) {
                    return reading;
                }
            }
        };
        timeout(Duration::from_secs(120), search).await.expect("within two minutes")
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_device_takes_at_most_a_twentieth_and_is_back_at_its_first_answer() {
    let mut bench = bench(4);
    bench.line.lock().expect("test").dead = vec![3];
    // Let it go offline first.
    bench.until(|r| r.quality() == Quality::Bad(Reason::Timeout)).await;
    bench.reads_in(Duration::from_secs(5)).await;
    let counts = bench.reads_in(Duration::from_secs(600)).await;
    let dead = counts.get(&3).copied().unwrap_or(0) as f64 * TIMEOUT.as_secs_f64() / 600.0;
    assert!(dead > 0.0 && dead <= 0.05, "share of the dead: {dead}");
    for living in 0..3 {
        assert!(counts[&living] >= 5700, "device {living}: {} of 6000", counts[&living]);
    }
    bench.line.lock().expect("test").dead.clear();
    bench.until(|r| r.point.device == "device3" && r.quality() == Quality::Good).await;
    let counts = bench.reads_in(Duration::from_secs(10)).await;
    assert!(counts[&3] >= 98, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_port_says_bus_down_and_comes_back_within_five_seconds() {
    let mut bench = bench(2);
    bench.until(|r| r.quality() == Quality::Good).await;
    bench.line.lock().expect("test").gone = true;
    bench.until(|r| r.quality() == Quality::Bad(Reason::BusDown)).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.stats.state(), "down");
    bench.line.lock().expect("test").gone = false;
    let healed = Instant::now();
    while bench.readings.try_recv().is_ok() {}
    bench.until(|r| r.quality() == Quality::Good).await;
    assert!(healed.elapsed() <= Duration::from_secs(5), "{:?}", healed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_the_task_and_closes_its_output() {
    let mut bench = bench(1);
    bench.until(|r| r.quality() == Quality::Good).await;
    bench.stop.cancel();
    timeout(Duration::from_secs(1), &mut bench.task).await.expect("ends").expect("no panic");
    while bench.readings.recv().await.is_some() {}
}

#[derive(Default)]
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
    commands: mpsc::Sender<CommandRequest>,
    results: mpsc::Receiver<Message>,
    clock: SystemClock,
}

fn post() -> Post {
    let bench = bench(1);
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
    let clock = Arc::new(SystemClock::new(true));
    let commander = Commander::new("gw", targets, Arc::new(Remembered::default()), clock, publish);
    let (commands, inbox) = mpsc::channel(16);
    tokio::spawn(commander.run(inbox));
    Post { bench, commands, results, clock: SystemClock::new(true) }
}

impl Post {
    async fn send(&mut self, payload: serde_json::Value) {
        self.send_to("device0", payload, false).await;
    }
    async fn send_to(&mut self, device: &str, payload: serde_json::Value, retained: bool) {
        let request = CommandRequest {
            device: device.into(),
            point: "p".into(),
            payload: payload.to_string().into_bytes().into(),
            retained,
            origin: Origin::Local,
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
    let past = crate::message::WallMs(post.clock.wall().0 - 1000).to_string();
    for payload in
        [json!({"id": "a", "value": 1, "ttl": "0s"}), json!({"id": "b", "value": 1, "expires": past})]
    {
        assert_eq!(post.states(payload).await.0, State::Expired);
    }
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
    post.send_to("device9", json!({"id": "e", "value": 1}), false).await;
    assert!(post.result().await.error.is_some_and(|e| e.contains("no device `device9`")));
    post.send_to("device0", json!({"id": "f", "value": 1}), true).await;
    assert!(post.result().await.error.is_some_and(|e| e.contains("retained")));
    assert!(post.bench.line.lock().expect("test").held.is_empty());
}
