//! QoS 0: what counts as delivered where nothing is acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use crate::fake_broker::{Answer, FakeBroker, Published, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::outside::readings;
use crate::uplink_bench::{Bench, quick, until, uplink};

fn heard(published: &[Published], connection: impl Fn(usize) -> bool) -> BTreeSet<u64> {
    let these = published.iter().filter(|p| connection(p.connection));
    these.flat_map(|p| readings(&p.topic, &p.payload)).map(|a| a.seq).collect()
}

#[tokio::test]
async fn a_broker_that_goes_silent_has_what_it_answered_a_ping_behind_and_gets_the_rest_again() {
    let broker = FakeBroker::start(Welcome::default(), |number, p| {
        if p.connection == 0 && number == 20 { Answer::BlackHole } else { Answer::Ack }
    })
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..51);
    let bench = Bench::start(uplink(&broker.url(), "qos = 0\n"), drain, quick());
    until("everything delivered", || bench.drain.queued() == 0).await;
    let published = broker.published();
    let data = published.iter().filter(|p| !readings(&p.topic, &p.payload).is_empty());
    assert!(data.clone().all(|p| p.qos == 0) && data.count() > 50, "some went twice");
    let (first, later) = (heard(&published, |c| c == 0), heard(&published, |c| c > 0));
    assert_eq!(heard(&published, |_| true), (1..51).collect());
    assert!(first.len() <= 21 && later.contains(&50), "{first:?} {later:?}");
    assert!(bench.counters.repeats.load(Relaxed) >= first.intersection(&later).count() as u64);
    bench.stop().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_cut_all_the_same() {
    let welcome = Welcome::maximum_packet_size(400);
    let broker = FakeBroker::start(welcome, |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..101);
    let more = "qos = 0\nformat = \"json-batch\"\nbatch = { max_readings = 100, max_delay = \"20ms\" }\n";
    let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
    until("everything delivered", || bench.drain.queued() == 0).await;
    assert_eq!(heard(&broker.published(), |_| true), (1..101).collect());
    assert!(broker.published().iter().all(|p| p.len <= 400));
    bench.stop().await;
}
