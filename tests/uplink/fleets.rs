//! Brokers that scale out: a node is killed in the middle of a drain, the uplink goes to the next of its list, and a
//! subscriber at a third node has seen every reading.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::fleet::Fleet;
use crate::memory_drain::MemoryDrain;
use crate::mosquitto::Witness;
use crate::outside::{Arrival, judge, readings};
use crate::uplink_bench::{Bench, quick, uplink};
use fieldgate::uplink::Timing;
use tokio::time::{Instant, sleep};

const V311: &str = "mqtt_version = \"3.1.1\"\n";
const BATCH: &str = "format = \"json-batch\"\nbatch = { max_readings = 20, max_delay = \"20ms\" }\n";

/// Waits for a condition, at most two minutes: fleets have waits of their own.
async fn until(bench: &Bench, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !holds() {
        let error = bench.counters.last_error();
        assert!(Instant::now() < end, "waited in vain for {what}; the uplink's last error: {error:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn a_node_dies(mut fleet: Fleet, more: &str, title: &str) {
    const OLD: u64 = 3000;
    // Subscriptions of a persistent session live on where they were made; a fleet still has to agree on them.
    let witness =
        Witness::with(fleet.ports[2], &["-V", "311", "-i", "witness", "-c", "-t", "gw/#", "-t", "witness/#"])
            .await;
    let seen = || -> Vec<Arrival> {
        witness.seen().iter().flat_map(|(topic, payload)| readings(topic, payload)).collect()
    };
    let drain = MemoryDrain::new();
    drain.commit(1..OLD + 1);
    let [first, second] = [0, 1].map(|n| format!("mqtt://127.0.0.1:{}", fleet.ports[n]));
    let more = format!("{V311}{more}fallback_urls = [\"{second}\"]\n");
    // A fleet takes its time to agree on a message after it has lost a member.
    let timing = Timing { ack: Duration::from_secs(10), connect: Duration::from_secs(10), ..quick() };
    let bench = Bench::start(uplink(&first, &more), drain, timing);
    until(&bench, "a part of the backlog", || bench.drain.delivered().len() > 300).await;
    let by_then = bench.drain.delivered().len();
    fleet.kill(0).await;
    let killed = Instant::now();
    bench.drain.commit(OLD + 1..OLD + 101);
    until(&bench, "deliveries by the second node", || bench.drain.delivered().len() > by_then + 300).await;
    let moved = killed.elapsed();
    until(&bench, "the log to run dry", || bench.drain.queued() == 0).await;
    let all = 1..OLD + 101;
    until(&bench, "the subscriber to have all", || {
        let there: BTreeSet<u64> = seen().iter().map(|a| a.seq).collect();
        all.clone().all(|seq| there.contains(&seq))
    })
    .await;
    let repeats = judge(&seen(), all.clone());
    let (connects, again) = (bench.counters.connects.load(Relaxed), bench.counters.repeats.load(Relaxed));
    println!(
        "{title}: node killed at {by_then} of {}, 300 more {:.1} s later; 0 missing, {again} sent twice, \
         {repeats} repeats seen, {connects} connections",
        all.end - 1,
        moved.as_secs_f64()
    );
    assert!(by_then < usize::try_from(OLD).expect("small"), "the node died in the middle");
    bench.stop().await;
}

#[tokio::test]
async fn a_nats_cluster_that_loses_a_node_in_the_middle_of_a_drain_loses_nothing() {
    for (title, more) in [("NATS, json", ""), ("NATS, json-batch", BATCH)] {
        let Some(fleet) = Fleet::nats().await else { return };
        a_node_dies(fleet, more, title).await;
    }
}

#[tokio::test]
async fn a_rabbitmq_cluster_that_loses_a_node_in_the_middle_of_a_drain_loses_nothing() {
    let Some(fleet) = Fleet::rabbitmq().await else { return };
    a_node_dies(fleet, "", "RabbitMQ, json").await;
}
