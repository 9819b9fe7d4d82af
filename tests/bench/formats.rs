//! What a reading costs on the wire in every format, and how fast a queue drains, as tables.
//!
//! `cargo bench --bench formats`. The cloud is mosquitto over TLS 1.3, behind a proxy that counts what the two send each
//! other from the moment both are idle until every reading is acknowledged: so MQTT's framing, TLS's records and the
//! acknowledgements are in it; the handshake and the headers of TCP and IP are not. The readings are those of
//! meters with ten quantities that wander as such quantities do, each meter read at once, a second apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bench_cloud::{FORMATS, Running, plant, queue, records, until};
use memory_drain::MemoryDrain;
use mosquitto::Mosquitto;
use support::now;
use support::openssl::certificates;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[path = "../support/bench_cloud.rs"]
mod bench_cloud;
#[path = "../support/memory_drain.rs"]
#[expect(dead_code, reason = "the tests of the uplink need more of it")]
mod memory_drain;
#[path = "../support/mosquitto.rs"]
#[expect(dead_code, reason = "the tests of the uplink need more of it")]
mod mosquitto;

/// Batches of 1000 where that makes a difference, and nodes whose births are out before the count begins.
const MORE: [(&str, &str); 5] = [
    (
        "json-batch, zstd, 1000",
        "format = \"json-batch\"\ncompression = \"zstd\"\nbatch = { max_readings = 1000, max_delay = \"10s\" }\n",
    ),
    ("sparkplug-b, born", "format = \"sparkplug-b\"\nsparkplug = { group = \"plants\" }\n"),
    (
        "sparkplug-b, 1000, born",
        "format = \"sparkplug-b\"\nsparkplug = { group = \"plants\" }\nbatch = { max_readings = 1000, max_delay = \"10s\" }\n",
    ),
    (
        "deflate, born",
        "format = \"sparkplug-b\"\nsparkplug = { group = \"plants\", compression = \"deflate\" }\n",
    ),
    (
        "deflate, 1000, born",
        "format = \"sparkplug-b\"\nsparkplug = { group = \"plants\", compression = \"deflate\" }\n\
         batch = { max_readings = 1000, max_delay = \"10s\" }\n",
    ),
];

fn main() {
    assert!(mosquitto::installed(), "the cloud of this bench is mosquitto");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(bytes());
    runtime.block_on(drains());
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

async fn bytes() {
    let dir = tempfile::tempdir().expect("a directory");
    certificates(dir.path(), "bench-ca", "DNS:localhost");
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
        for (name, keys) in FORMATS.into_iter().chain(MORE) {
            let (port, counts) = counting_proxy(broker.port).await;
            let drain = MemoryDrain::new();
            let running =
                Running::start(&format!("mqtts://localhost:{port}"), &[keys, &ca].concat(), drain.clone());
            running.connected().await;
            if name.ends_with("born") {
                let mut first = records(plant(meters, 1));
                first.iter_mut().for_each(|record| record.id.seq -= 1_000_000);
                drain.commit_records(first);
                until("the births", || drain.queued() == 0).await;
            }
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
            let messages = running.counters.acknowledged.load(Relaxed);
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
            let payload = running.counters.acknowledged.load(Relaxed) - messages;
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
            let path = home.path().join(format!("{}-{turn}", name.replace([' ', ','], "")));
            let (store, drain) = queue(path, 100, READINGS / 1000).await;
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
