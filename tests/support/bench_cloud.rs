//! What the benches of the uplink share: readings as a plant has them, and an uplink with its defaults.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use driver_api::{ByteSize, Quality, Span, Value};
use fieldgate::bounds;
use fieldgate::clock::SystemClock;
use fieldgate::config::model;
use fieldgate::message::{BootMs, Epoch, Id, PointKey, Reading, Record, WallMs};
use fieldgate::store::{Drain, Store};
use fieldgate::uplink::{Deps, State, Timing, UplinkCounters, run_with};
use support::now;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Names of the formats, and their keys.
pub const FORMATS: [(&str, &str); 7] = [
    ("json", "format = \"json\"\n"),
    ("json-batch", "format = \"json-batch\"\n"),
    ("json-batch, zstd", "format = \"json-batch\"\ncompression = \"zstd\"\n"),
    ("compact", "format = \"compact\"\n"),
    ("sparkplug-b, births too", "format = \"sparkplug-b\"\nsparkplug = { group = \"plants\" }\n"),
    (
        "the same, deflate",
        "format = \"sparkplug-b\"\nsparkplug = { group = \"plants\", compression = \"deflate\" }\n",
    ),
    (
        "compact, batches of 1000",
        "format = \"compact\"\nbatch = { max_readings = 1000, max_delay = \"5s\" }\n",
    ),
];

/// What one quantity of a meter is: name, unit, where it begins, decimals, how far it moves in a second, in digits.
const QUANTITIES: [(&str, &str, i64, i32, f64); 10] = [
    ("voltage_l1", "V", 2301, 1, 3.0),
    ("voltage_l2", "V", 2312, 1, 3.0),
    ("voltage_l3", "V", 2295, 1, 3.0),
    ("current_l1", "A", 12_430, 3, 50.0),
    ("current_l2", "A", 9_871, 3, 50.0),
    ("current_l3", "A", 14_002, 3, 50.0),
    ("power", "W", 83_112, 1, 300.0),
    ("frequency", "Hz", 5001, 2, 1.0),
    ("energy", "kWh", 1_843_212, 2, 0.7),
    ("temperature", "°C", 412, 1, 0.4),
];

/// The readings of so many meters over so many seconds: point, ms since the beginning, value.
pub fn plant(meters: usize, seconds: u64) -> Vec<(Arc<PointKey>, u64, Value)> {
    let mut dice = fastrand::Rng::with_seed(7);
    let mut points = Vec::new();
    for meter in 0..meters {
        for (name, unit, start, decimals, step) in QUANTITIES {
            let (device, point, unit) = (format!("meter{}", meter + 1), name.to_owned(), unit.to_owned());
            let begin = start + dice.i64(-50..50);
            points.push((Arc::new(PointKey { device, point, unit }), begin, decimals, step));
        }
    }
    let mut readings = Vec::new();
    for second in 0..seconds {
        let mut at = second * 1000;
        for (n, (point, value, decimals, step)) in points.iter_mut().enumerate() {
            if n % QUANTITIES.len() == 0 {
                at += dice.u64(38..43); // the next meter's answer
            }
            // The sum of twelve dice is a bell as wide as one of them is long.
            let bell: f64 = (0..12).map(|_| dice.f64()).sum::<f64>() - 6.0;
            #[expect(clippy::cast_possible_truncation, reason = "a few hundred digits")]
            let moved = (bell * *step).round() as i64;
            *value += if point.point == "energy" { moved.abs() } else { moved };
            #[expect(clippy::cast_precision_loss, reason = "seven digits")]
            let shown = *value as f64 / 10f64.powi(*decimals);
            readings.push((Arc::clone(point), at, Value::Float(shown)));
        }
    }
    readings
}

pub fn records(plant: Vec<(Arc<PointKey>, u64, Value)>) -> Vec<Record> {
    let record = |(seq, (point, at, value)): (u64, (Arc<PointKey>, u64, Value))| Record {
        id: Id { epoch: Epoch { start: 18, random: 0x9f3a_61c2 }, seq },
        ts: WallMs(1_795_357_800_000 + at.cast_signed()),
        point,
        value: Some(value),
        quality: Quality::Good,
    };
    (4_000_000..).zip(plant).map(record).collect()
}

pub struct Running {
    pub counters: Arc<UplinkCounters>,
    stop: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
    _mirror: mpsc::Sender<fieldgate::message::Message>,
}

impl Running {
    pub fn start(url: &str, more: &str, drain: Arc<dyn Drain>) -> Self {
        let text = format!("name = \"cloud\"\nurl = \"{url}\"\n{more}");
        let config: model::Uplink = toml::from_str(&text).expect("a valid uplink");
        let (counters, stop) = (Arc::new(UplinkCounters::default()), CancellationToken::new());
        let (mirror, mirror_rx) = mpsc::channel(bounds::UPLINK_MIRROR);
        let deps = Deps {
            gateway: "plant-7".into(),
            drain,
            mirror: mirror_rx,
            commands: mpsc::channel(bounds::UPLINK_MIRROR).0,
            local: mpsc::channel(bounds::UPLINK_ROUTED).0,
            counters: counters.clone(),
            clock: Arc::new(SystemClock::new(true)),
            file: None,
            stop: stop.clone(),
        };
        let task = tokio::spawn(run_with(config, deps, Timing::default()));
        Self { counters, stop, task, _mirror: mirror }
    }

    pub async fn connected(&self) {
        let there = || self.counters.state().0 == State::Connected;
        until(&format!("the login; {:?}", self.counters.last_error()), there).await;
    }

    pub async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("it ends");
    }
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = now() + 60.0;
    while !holds() {
        assert!(now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A log on disk in which what so many meters say in so many seconds waits for the uplink `cloud`.
pub async fn queue(path: PathBuf, meters: usize, seconds: u64) -> (Store, Arc<dyn Drain>) {
    let config =
        model::Store { path, min_free: ByteSize(0), history: Span::ms(0), ..model::Store::default() };
    let (store, _) =
        Store::open(&config, &["cloud".to_owned()], Arc::new(SystemClock::new(true))).expect("opens");
    let drain = store.drain("cloud").expect("configured");
    for group in plant(meters, seconds).chunks(1000) {
        let good = |(point, at, value): &(Arc<PointKey>, u64, Value)| {
            Reading::good(Arc::clone(point), BootMs(*at), value.clone())
        };
        let _ = store.take(group.iter().map(good).collect());
        store.flush().await.expect("the disk is there");
    }
    (store, drain)
}
