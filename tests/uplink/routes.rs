//! What routes bring down from the cloud: under which names, and what becomes of what cannot be taken.

use std::sync::atomic::Ordering::Relaxed;

use crate::fake_broker::{Answer, FakeBroker, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::mosquitto::{Mosquitto, installed};
use crate::uplink_bench::{Bench, quick, until, uplink};

const ROUTES: &str =
    "topic_root = \"sites/{gateway}\"\n[[subscribe]]\nfilter = \"down/{gateway}/#\"\nto = \"shed/{topic}\"\n";

#[tokio::test]
async fn messages_come_down_under_their_new_names_and_what_there_is_no_room_for_is_counted() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..2);
    let mut bench = Bench::start(uplink(&broker.url(), ROUTES), drain, quick());
    until("the connection", || bench.drain.queued() == 0).await;
    broker.send("down/g/lamp/set", "on", true);
    let first = bench.local.recv().await.expect("a message").0;
    assert_eq!((&*first.topic, &first.payload[..], first.retain), ("shed/lamp/set", &b"on"[..], true));
    broker.send("elsewhere/lamp", "on", false);
    until("the stranger", || bench.counters.strangers.load(Relaxed) == 1).await;
    // Nobody takes them: two fit.
    for n in 0..5 {
        broker.send("down/g/n", &n.to_string(), false);
    }
    until("three without room", || bench.counters.routed_dropped.load(Relaxed) == 3).await;
    assert_eq!(bench.counters.routed.load(Relaxed), 3);
    bench.error_with("does not keep up").await;
    bench.stop().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_left_out_and_the_connection_stays() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let mut bench = Bench::start(uplink(&broker.url(), ROUTES), MemoryDrain::new(), quick());
    until("the connection", || broker.connects().len() == 1).await;
    broker.send("down/g/large", &"x".repeat(300 << 10), true);
    broker.send("down/g/small", "y", false);
    assert_eq!(&*bench.local.recv().await.expect("the small one").0.topic, "shed/small");
    bench.error_with("`down/g/large` is left out").await;
    assert_eq!((bench.counters.oversize.load(Relaxed), broker.connects().len()), (1, 1));
    bench.stop().await;
}

#[tokio::test]
async fn a_real_broker_sends_what_it_kept_and_takes_the_answer_for_what_is_too_large() {
    if !installed() {
        return;
    }
    for version in ["5", "3.1.1"] {
        let mosquitto = Mosquitto::start(tempfile::tempdir().expect("a directory"), "").await;
        mosquitto.publish("down/g/kept", "before", true).await;
        // A 3.1.1 broker does not know our limit, and one of version 5 leaves it out by itself.
        mosquitto.publish("down/g/large", &"x".repeat(300 << 10), true).await;
        let config = uplink(
            &format!("mqtt://127.0.0.1:{}", mosquitto.port),
            &format!("mqtt_version = \"{version}\"\n{ROUTES}"),
        );
        let mut bench = Bench::start(config, MemoryDrain::new(), quick());
        let kept = bench.local.recv().await.expect("what was kept").0;
        assert_eq!((&*kept.topic, &kept.payload[..], kept.retain), ("shed/kept", &b"before"[..], true));
        mosquitto.publish("down/g/now", "later", false).await;
        let now = bench.local.recv().await.expect("a message").0;
        assert_eq!((&*now.topic, now.retain), ("shed/now", false));
        assert_eq!(bench.counters.connects.load(Relaxed), 1, "MQTT {version}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn commands_are_asked_for_with_the_mark_of_what_is_retained() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let more = "allow_commands = [\"#\"]\n";
    let bench = Bench::start(uplink(&broker.url(), more), MemoryDrain::new(), quick());
    until("the subscription", || !broker.subscribed().is_empty()).await;
    let options = *broker.subscribed()[0].1.last().expect("options");
    // Retain As Published, and nothing that was kept before (MQTT 5 §3.8.3.1).
    assert_eq!((options & 0x08, options & 0x30), (0x08, 0x20));
    bench.stop().await;
}
