//! What a reading costs on the wire in every format, and how fast a queue drains, as tables.
//!
//! `cargo bench --bench formats`. The cloud is mosquitto over TLS 1.3, behind a proxy that counts what the two send each
//! other from the moment both are idle until every reading is acknowledged: so MQTT's framing, TLS's records and the
//! acknowledgements are in it; the handshake and the headers of TCP and IP are not. The readings are those of
//! meters with ten quantities that wander as such quantities do, each meter read at once, a second apart.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use driver_api::{ByteSize, Quality, Span, Value};
use fieldgate::bounds;
use fieldgate::clock::SystemClock;
use fieldgate::config::model;
use fieldgate::message::{BootMs, Epoch, Id, PointKey, Reading, Record, WallMs};
use fieldgate::store::{Drain, Store};
use fieldgate::uplink::{Deps, State, Timing, UplinkCounters, run_with};
use memory_drain::MemoryDrain;
use mosquitto::Mosquitto;
use support::now;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[path = "../support/memory_drain.rs"]
#[expect(dead_code, reason = "the tests of the uplink need more of it")]
mod memory_drain;
#[path = "../support/mosquitto.rs"]
#[expect(dead_code, reason = "the tests of the uplink need more of it")]
mod mosquitto;

/// Names of the formats, and their keys.
const FORMATS: [(&str, &str); 6] = [
    ("json", "format = \"json\"\n"),
    ("json-batch", "format = \"json-batch\"\n"),
    ("json-batch, zstd", "format = \"json-batch\"\ncompression = \"zstd\"\n"),
    ("compact", "format = \"compact\"\n"),
    ("sparkplug-b, births too", "format = \"sparkplug-b\"\nsparkplug = { group = \"plants\" }\n"),
    (
        "compact, batches of 1000",
        "format = \"compact\"\nbatch = { max_readings = 1000, max_delay = \"5s\" }\n",
    ),
];

fn main() {
    assert!(mosquitto::installed(), "the cloud of this bench is mosquitto");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(bytes());
    runtime.block_on(drains());
}

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
fn plant(meters: usize, seconds: u64) -> Vec<(Arc<PointKey>, u64, Value)> {
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

fn records(plant: Vec<(Arc<PointKey>, u64, Value)>) -> Vec<Record> {
    let record = |(seq, (point, at, value)): (u64, (Arc<PointKey>, u64, Value))| Record {
        id: Id { epoch: Epoch { start: 18, random: 0x9f3a_61c2 }, seq },
        ts: WallMs(1_795_357_800_000 + at.cast_signed()),
        point,
        value: Some(value),
        quality: Quality::Good,
    };
    (4_000_000..).zip(plant).map(record).collect()
}

struct Running {
    counters: Arc<UplinkCounters>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _mirror: mpsc::Sender<fieldgate::message::Message>,
}

impl Running {
    fn start(url: &str, more: &str, drain: Arc<dyn Drain>) -> Self {
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

    async fn connected(&self) {
        let there = || self.counters.state().0 == State::Connected;
        until(&format!("the login; {:?}", self.counters.last_error()), there).await;
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("it ends");
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = now() + 60.0;
    while !holds() {
        assert!(now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Counts what passes, up and down.
async fn counting_proxy(to: u16) -> (u16, Arc<[AtomicU64; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let counted = counts.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(("127.0.0.1", to)).await.expect("the cloud listens");
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            for (direction, mut from, mut into) in [(0, near_in, far_out), (1, far_in, near_out)] {
                let counted = counted.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(n @ 1..) = from.read(&mut buffer).await {
                        counted[direction].fetch_add(n as u64, Relaxed);
                        if into.write_all(&buffer[..n]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        }
    });
    (port, counts)
}

/// A CA and a certificate for `localhost`.
fn certificate(dir: &Path) {
    std::fs::write(dir.join("ext"), "subjectAltName=DNS:localhost\n").expect("a file");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for step in [
        format!("req -x509 {key} -days 2 -subj /CN=bench-ca -keyout ca.key -out ca.pem"),
        format!("req {key} -subj /CN=server -keyout server.key -out server.csr"),
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem"
            .to_owned(),
    ] {
        let made =
            Command::new("openssl").args(step.split(' ')).current_dir(dir).output().expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

async fn bytes() {
    let dir = tempfile::tempdir().expect("a directory");
    certificate(dir.path());
    let tls = "certfile {dir}/server.pem\nkeyfile {dir}/server.key\n";
    let broker = Mosquitto::start(dir, tls).await;
    let ca = format!("ca_file = \"{}\"\n", broker.file("ca.pem").display());
    println!("bytes a reading on the wire, 1000 readings acknowledged\n");
    println!(
        "{:<26} {:>9} {:>14} {:>14} {:>10}",
        "10 meters, 10 s", "payload", "MQTT, up", "TLS, up", "with acks"
    );
    for (meters, seconds, title) in [(10, 10, ""), (100, 1, "100 meters, 1 s")] {
        if !title.is_empty() {
            println!("\n{title}");
        }
        for (name, keys) in FORMATS {
            let (port, counts) = counting_proxy(broker.port).await;
            let drain = MemoryDrain::new();
            let running =
                Running::start(&format!("mqtts://localhost:{port}"), &[keys, &ca].concat(), drain.clone());
            running.connected().await;
            // Idle: the handshake's tickets and the answer to the subscription are through.
            let mut seen = [0, 0];
            loop {
                tokio::time::sleep(Duration::from_millis(300)).await;
                let count = [0, 1].map(|d| counts[d].load(Relaxed));
                if count == seen {
                    break;
                }
                seen = count;
            }
            let mqtt = running.counters.bytes_sent.load(Relaxed);
            let list = records(plant(meters, seconds));
            assert_eq!(list.len(), 1000);
            drain.commit_records(list);
            until("the acknowledgements", || drain.queued() == 0).await;
            let per = |count: u64| {
                #[expect(clippy::cast_precision_loss, reason = "thousands")]
                let count = count as f64;
                count / 1000.0
            };
            let up = counts[0].load(Relaxed) - seen[0];
            let down = counts[1].load(Relaxed) - seen[1];
            let mqtt = running.counters.bytes_sent.load(Relaxed) - mqtt;
            let payload = running.counters.acknowledged.load(Relaxed);
            println!(
                "{name:<26} {:>9} {:>14.2} {:>14.2} {:>10.2}",
                format!("{payload} msg"),
                per(mqtt),
                per(up),
                per(up + down)
            );
            running.end().await;
        }
    }
    println!();
}

async fn drains() {
    const READINGS: u64 = 60_000;
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let broker = Mosquitto::start(tempfile::tempdir().expect("a directory"), "").await;
    println!("a queue of {READINGS} readings on disk to mosquitto on loopback, best of 3\n");
    println!("{:<26} {:>8} {:>14} {:>10}", "", "s", "readings/s", "MiB sent");
    for (name, keys) in FORMATS {
        let (mut best, mut sent) = (f64::MAX, 0);
        for turn in 0..3 {
            let store = model::Store {
                path: home.path().join(format!("{}-{turn}", name.replace([' ', ','], ""))),
                min_free: ByteSize(0),
                history: Span::ms(0),
                ..model::Store::default()
            };
            let (store, _) =
                Store::open(&store, &["cloud".to_owned()], Arc::new(SystemClock::new(true))).expect("opens");
            let drain = store.drain("cloud").expect("configured");
            for group in plant(100, READINGS / 1000).chunks(1000) {
                let good = |(point, at, value): &(Arc<PointKey>, u64, Value)| {
                    Reading::good(Arc::clone(point), BootMs(*at), value.clone())
                };
                let _ = store.take(group.iter().map(good).collect());
                store.flush().await.expect("the disk is there");
            }
            let running = Running::start(&format!("mqtt://127.0.0.1:{}", broker.port), keys, drain.clone());
            running.connected().await;
            let began = now();
            until("the queue to drain", || drain.ledger().queued == 0).await;
            best = best.min(now() - began);
            sent = running.counters.bytes_sent.load(Relaxed);
            assert_eq!(drain.ledger().delivered, READINGS);
            running.end().await;
            store.close().await.expect("closes");
        }
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (rate, mib) = (READINGS as f64 / best, sent as f64 / f64::from(1 << 20));
        println!("{name:<26} {best:>8.3} {rate:>14.0} {mib:>10.2}");
    }
}
