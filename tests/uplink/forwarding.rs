//! Messages of other devices on their way up, beside the readings: with any format, QoS and version of MQTT.

use std::sync::atomic::Ordering::Relaxed;

use fieldgate::clock::{Clock, SystemClock};
use fieldgate::message::{BootMs, Forwarded, WallMs};

use crate::fake_broker::{Answer, FakeBroker, Published, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::outside::readings;
use crate::uplink_bench::{Bench, quick, until, uplink};

/// Devices' messages with MQTT 3.1.1, where nothing but topic, payload and mark can arrive.
const UP: &str =
    "mqtt_version = \"3.1.1\"\n[[forward]]\nfilter = \"z/#\"\nto = \"up/data/{gateway}/{topic}\"\n";

fn message(topic: &str, n: u64, retain: bool) -> Forwarded {
    let (topic, payload) = (topic.into(), n.to_string().into());
    Forwarded { at: BootMs(1), topic, payload, qos: 2, retain, props: None, expiry: None, origin: None }
}

fn forwarded(broker: &FakeBroker) -> Vec<Published> {
    broker.published().into_iter().filter(|p| p.topic.starts_with("up/")).collect()
}

#[tokio::test]
async fn a_message_goes_between_readings_under_its_new_name_and_in_no_batch() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..4);
    drain.commit_message(4, WallMs(0), message("z/lamp", 4, true));
    drain.commit(5..9);
    drain.commit_message(9, WallMs(0), message("z/door", 9, false));
    let more = format!("format = \"json-batch\"\nbatch = {{ max_delay = \"20ms\" }}\n{UP}");
    let bench = Bench::start(uplink(&broker.url(), &more), drain, quick());
    until("everything delivered", || bench.drain.queued() == 0).await;
    let found: Vec<_> = forwarded(&broker)
        .into_iter()
        .map(|p| (p.topic, String::from_utf8(p.payload).expect("digits"), p.retain, p.qos))
        .collect();
    let expected = [("up/data/g/z/lamp", "4", true, 1), ("up/data/g/z/door", "9", false, 1)];
    assert_eq!(found, expected.map(|(topic, payload, r, q)| (topic.to_owned(), payload.to_owned(), r, q)));
    let batches = broker.published().into_iter().filter(|p| p.topic.contains("/batch"));
    let numbers: Vec<u64> = batches.flat_map(|p| readings(&p.topic, &p.payload)).map(|r| r.seq).collect();
    assert_eq!(numbers, [1, 2, 3, 5, 6, 7, 8]);
    assert_eq!((bench.counters.forwarded.load(Relaxed), bench.counters.delivered.load(Relaxed)), (2, 9));
    bench.stop().await;
}

#[tokio::test]
async fn with_qos_0_it_counts_as_delivered_when_a_ping_behind_it_is_answered() {
    let broker = FakeBroker::start(Welcome::default(), |number, p| {
        if p.connection == 0 && number == 3 { Answer::Reset } else { Answer::Ack }
    })
    .await;
    let drain = MemoryDrain::new();
    for seq in 1..30 {
        drain.commit_message(seq, WallMs(0), message("z/lamp", seq, false));
    }
    let bench = Bench::start(uplink(&broker.url(), &format!("qos = 0\n{UP}")), drain, quick());
    until("everything delivered", || bench.drain.queued() == 0).await;
    let found = forwarded(&broker);
    assert!(found.iter().all(|p| p.qos == 0));
    let mut numbers: Vec<u64> = found
        .iter()
        .filter(|p| p.connection > 0)
        .map(|p| String::from_utf8_lossy(&p.payload).parse().expect("a number"))
        .collect();
    assert!(numbers.is_sorted());
    numbers.dedup();
    assert_eq!(numbers.last(), Some(&29));
    bench.stop().await;
}

#[tokio::test]
async fn with_qos_2_everything_arrives_once_and_in_order_whatever_qos_it_came_with() {
    let broker =
        FakeBroker::start(
            Welcome::default(),
            |number, _| {
                if number % 9 == 8 { Answer::Reset } else { Answer::Ack }
            },
        )
        .await;
    let drain = MemoryDrain::new();
    for seq in 1..41 {
        let qos = u8::try_from(seq % 3).expect("small");
        drain.commit_message(seq, WallMs(0), Forwarded { qos, ..message("z/lamp", seq, false) });
    }
    let bench = Bench::start(uplink(&broker.url(), &format!("qos = 2\n{UP}")), drain, quick());
    until("everything delivered", || bench.drain.queued() == 0).await;
    until("every exchange to be over", || bench.drain.noted().open.is_empty()).await;
    let number = |p: &Published| -> u64 { String::from_utf8_lossy(&p.payload).parse().expect("a number") };
    assert!(forwarded(&broker).iter().all(|p| p.qos == 2));
    // What a subscriber gets of QoS 2.
    let exactly: Vec<_> = broker.accepted().into_iter().filter(|p| p.topic.starts_with("up/")).collect();
    assert!(exactly.iter().map(number).eq(1..41), "{:?}", exactly.iter().map(number).collect::<Vec<_>>());
    assert!(bench.counters.connects.load(Relaxed) > 2);
    assert_eq!(bench.counters.not_exactly_once.load(Relaxed), 0);
    bench.stop().await;
}

#[tokio::test]
async fn with_mqtt_5_its_own_properties_of_our_names_come_behind_ours() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    let theirs = vec![("seq".to_owned(), "x".to_owned())];
    let props = Some(Box::new(fieldgate::message::Props { user: theirs, ..Default::default() }));
    drain.commit_message(7, WallMs(0), Forwarded { props, ..message("z/lamp", 7, false) });
    let more = UP.replace("\"3.1.1\"", "\"5\"");
    let bench = Bench::start(uplink(&broker.url(), &more), drain, quick());
    until("everything delivered", || bench.drain.queued() == 0).await;
    let found = forwarded(&broker);
    let values: Vec<_> =
        found[0].user.iter().filter(|(key, _)| key == "seq").map(|(_, value)| &value[..]).collect();
    assert_eq!(values, ["7", "x"], "who asks for the first finds ours");
    bench.stop().await;
}

#[tokio::test]
async fn what_has_expired_in_the_queue_is_not_sent_and_is_declared() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    let now = SystemClock::new(true).wall();
    let ago = |seconds: i64| WallMs(now.0 - seconds * 1000);
    let short = |n| Forwarded { expiry: Some(60), ..message("z/lamp", n, false) };
    drain.commit_message(1, ago(600), short(1));
    drain.commit_message(2, ago(3), short(2));
    drain.commit_message(3, ago(600), message("z/lamp", 3, false));
    let bench = Bench::start(uplink(&broker.url(), UP), drain, quick());
    until("everything settled", || bench.drain.queued() == 0).await;
    let found: Vec<_> = forwarded(&broker).into_iter().map(|p| p.payload).collect();
    assert_eq!(found, [b"2", b"3"]);
    assert_eq!((bench.drain.expired(), bench.counters.forward_expired.load(Relaxed)), (vec![1], 1));
    bench.stop().await;
}

#[tokio::test]
async fn beside_a_sparkplug_node_it_goes_with_qos_1_on_a_topic_of_its_own() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..3);
    drain.commit_message(3, WallMs(0), message("z/lamp", 3, true));
    drain.commit(4..6);
    let more = format!(
        "format = \"sparkplug-b\"\nsparkplug = {{ group = \"plants\" }}\nbatch = {{ max_delay = \"20ms\" }}\n{UP}"
    );
    let bench = Bench::start(uplink(&broker.url(), &more), drain, quick());
    until("everything delivered", || bench.drain.queued() == 0).await;
    let found: Vec<_> = forwarded(&broker).into_iter().map(|p| (p.topic, p.qos, p.retain)).collect();
    assert_eq!(found, [("up/data/g/z/lamp".to_owned(), 1, true)]);
    bench.stop().await;
}

#[tokio::test]
async fn a_message_that_the_broker_refuses_for_good_is_declared_and_holds_up_nothing() {
    let broker = FakeBroker::start(Welcome::maximum_packet_size(2000), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    let large = Forwarded { payload: vec![b'x'; 5000].into(), ..message("z/lamp", 1, false) };
    drain.commit_message(1, WallMs(0), large);
    drain.commit(2..5);
    let config = uplink(&broker.url(), "[[forward]]\nfilter = \"z/#\"\nto = \"up/{topic}\"\n");
    let bench = Bench::start(config, drain, quick());
    until("everything settled", || bench.drain.queued() == 0).await;
    assert_eq!((bench.drain.rejected(), bench.drain.delivered()), (vec![1], vec![2, 3, 4]));
    bench.error_with("larger than the 2000").await;
    bench.stop().await;
}
