//! How much of a link a drain uses, and how late live readings are beside one, as tables.
//!
//! `cargo bench --bench link`. The cloud is mosquitto, without a limit of its own on messages in flight, behind a
//! link of the tests that is so long and so narrow. A share is bytes that arrived over what the link could have carried
//! since the first of them; a latency is from the commit in the log to a subscriber at the broker.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bench_cloud::{Running, plant, queue, records, until};
use link::{Link, Shape};
use memory_drain::MemoryDrain;
use mosquitto::{Mosquitto, Witness};
use support::now;
use tokio::time::Instant;

#[path = "../support/bench_cloud.rs"]
#[expect(dead_code, reason = "the bench of the formats needs more of it")]
mod bench_cloud;
#[path = "../support/link.rs"]
#[expect(dead_code, reason = "the tests of the uplink need more of it")]
mod link;
#[path = "../support/memory_drain.rs"]
#[expect(dead_code, reason = "the tests of the uplink need more of it")]
mod memory_drain;
#[path = "../support/mosquitto.rs"]
#[expect(dead_code, reason = "the tests of the uplink need more of it")]
mod mosquitto;

const JSON: &str = "format = \"json\"\n";
const BATCH: &str = "format = \"json-batch\"\nbatch = { max_readings = 500, max_delay = \"200ms\" }\n";

fn main() {
    assert!(mosquitto::installed(), "the cloud of this bench is mosquitto");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(shares());
    runtime.block_on(latencies());
}

async fn cloud() -> Mosquitto {
    Mosquitto::start(tempfile::tempdir().expect("a directory"), "max_inflight_messages 0\n").await
}

async fn shares() {
    let shape = Shape::of(200, 1_000_000);
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let broker = cloud().await;
    println!("a queue on disk over a link of 1 MB/s with a round trip of 200 ms\n");
    println!("{:<26} {:>9} {:>8} {:>8} {:>10} {:>10}", "", "readings", "MB", "s", "share", "from 2 s on");
    for (n, (name, keys, seconds)) in [
        ("json", JSON.to_owned(), 30),
        ("json, MQTT 3.1.1", format!("{JSON}mqtt_version = \"3.1.1\"\n"), 5),
        ("json-batch", BATCH.to_owned(), 200),
        ("json-batch, MQTT 3.1.1", format!("{BATCH}mqtt_version = \"3.1.1\"\n"), 200),
        ("json-batch, zstd", format!("{BATCH}compression = \"zstd\"\n"), 1000),
        ("compact", "format = \"compact\"\n".to_owned(), 2500),
    ]
    .into_iter()
    .enumerate()
    {
        let (store, drain) = queue(home.path().join(n.to_string()), 100, seconds).await;
        let link = Link::shaped(broker.port, shape).await;
        let running = Running::start(&format!("mqtt://{}", link.address), &keys, drain.clone());
        running.connected().await;
        let (began, before) = (now(), link.carried[0].load(Relaxed));
        let carried = || (link.carried[0].load(Relaxed) - before) as f64;
        let mut steady = None;
        until("the queue to drain", || {
            if steady.is_none() && now() > began + 2.0 {
                steady = Some((now(), carried()));
            }
            drain.ledger().queued == 0
        })
        .await;
        // The last acknowledgement was half a round trip on its way when the last byte had arrived.
        let took = now() - began - shape.one_way.as_secs_f64();
        let (at, by_then) = steady.expect("it takes longer");
        let late = (carried() - by_then) / 1e6 / (now() - at - shape.one_way.as_secs_f64());
        println!(
            "{name:<26} {:>9} {:>8.2} {took:>8.2} {:>9.1}% {:>9.1}%",
            drain.ledger().delivered,
            carried() / 1e6,
            carried() / 1e6 / took * 100.0,
            late * 100.0
        );
        running.end().await;
        store.close().await.expect("closes");
    }
    println!();
}

/// The latencies in milliseconds, ascending.
async fn live(shape: Shape, keys: &str, backlog: u64) -> (Vec<f64>, bool) {
    const EACH: Duration = Duration::from_millis(100);
    const COUNT: u64 = 150;
    let broker = cloud().await;
    // Only what is live: a subscriber that does not keep up with the backlog would be measured otherwise.
    let topics = ["-V", "5", "-t", "gw/+/data/#", "-t", "gw/+/batch", "-t", "witness/ready"];
    let witness = Witness::with(broker.port, &topics).await;
    let link = Link::shaped(broker.port, shape).await;
    let drain = MemoryDrain::new();
    let mut list = records(plant(10, (backlog + COUNT + 1) / 100 + 1));
    let mut fresh = list.split_off(usize::try_from(backlog).expect("small")).into_iter();
    drain.commit_records(list);
    let running = Running::start(&format!("mqtt://{}", link.address), keys, drain.clone());
    running.connected().await;
    // Past the first seconds, in which the link is measured.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut stored = HashMap::new();
    let mut turn = tokio::time::interval(EACH);
    for _ in 0..COUNT {
        turn.tick().await;
        let record = fresh.next().expect("enough");
        stored.insert(record.id.seq, Instant::now());
        drain.commit_records(vec![record]);
    }
    let busy = drain.queued() > usize::try_from(COUNT).expect("small");
    let mut late = Vec::new();
    let end = now() + 30.0;
    while late.len() < stored.len() && now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
        late = witness
            .timed()
            .iter()
            .flat_map(|(at, (topic, payload))| numbers(topic, payload).into_iter().map(move |seq| (*at, seq)))
            .filter_map(|(at, seq)| Some((at - *stored.get(&seq)?).as_secs_f64() * 1e3))
            .collect();
    }
    running.task.abort();
    late.sort_by(f64::total_cmp);
    assert_eq!(late.len(), stored.len(), "all live readings arrive");
    (late, busy)
}

/// The numbers of the readings in a live message.
fn numbers(topic: &str, payload: &[u8]) -> Vec<u64> {
    if !(topic.contains("/data/") || topic.ends_with("/batch")) {
        return Vec::new();
    }
    let json: serde_json::Value = serde_json::from_slice(payload).expect("JSON");
    let first = json["seq"].as_u64().expect("a number");
    (first..).take(json["readings"].as_array().map_or(1, Vec::len)).collect()
}

async fn latencies() {
    println!("live readings, ten a second, milliseconds from the log to a subscriber\n");
    println!("{:<34} {:>22} {:>28}", "", "nothing else to send", "beside a backlog");
    println!("{:<34} {:>10} {:>11} {:>13} {:>14}", "", "p50", "p99", "p50", "p99");
    for (title, shape, backlog) in [
        ("loopback", Shape::default(), 400_000),
        ("200 ms, 1 MB/s", Shape::of(200, 1_000_000), 150_000),
        ("600 ms, 50 kB/s", Shape::of(600, 50_000), 60_000),
        ("100 ms, 10 kB/s", Shape::of(100, 10_000), 30_000),
    ] {
        for (name, keys) in [("json", JSON), ("json-batch, 0.2 s", BATCH)] {
            let (alone, _) = live(shape, keys, 0).await;
            let (beside, busy) = live(shape, keys, backlog).await;
            let at = |list: &[f64], share: f64| {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
                let n = (list.len() as f64 * share) as usize;
                list[n.min(list.len() - 1)]
            };
            println!(
                "{:<34} {:>10.1} {:>11.1} {:>13.1} {:>14.1}{}",
                format!("{title}, {name}"),
                at(&alone, 0.5),
                at(&alone, 0.99),
                at(&beside, 0.5),
                at(&beside, 0.99),
                if busy { "" } else { "  (the backlog was gone before the end)" }
            );
        }
    }
}
