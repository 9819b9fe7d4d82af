//! The manners of MQTT 5: what the broker allows is kept, what it offers is used, where it sends us we go
//! if we may.

use std::sync::atomic::Ordering::Relaxed;

use crate::fake_broker::{Answer, FakeBroker, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::outside::{judge, readings};
use crate::uplink_bench::{Bench, quick, until, uplink};
use fieldgate::uplink::State;

/// Bytes of all PUBLISH packets behind their fixed headers, for 600 readings of three points.
async fn drained_bytes(welcome: Welcome, more: &str) -> usize {
    let broker = FakeBroker::start(welcome, |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..601);
    let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
    until("the log to run dry", || bench.drain.queued() == 0).await;
    let published = broker.published();
    let arrivals: Vec<_> = published.iter().flat_map(|p| readings(&p.topic, &p.payload)).collect();
    assert_eq!(judge(&arrivals, 1..601), 0);
    bench.stop().await;
    published.iter().map(|p| p.len).sum()
}

#[tokio::test]
async fn topics_become_numbers_where_the_broker_knows_them() {
    let whole = drained_bytes(Welcome::default(), "").await;
    let topic = "gw/g/history/meter/p0".len();
    for (max, points) in [(10, 3), (2, 2), (1, 1)] {
        let short = drained_bytes(Welcome::topic_alias_maximum(max), "").await;
        println!("{whole} bytes with whole topics, {short} with up to {max} aliases");
        // Per point: two whole topics, one of them with 3 bytes for its number, then 198 × 3 instead of the topic.
        assert_eq!(whole - short, points * (198 * (topic - 3) - 3));
    }
    let old = drained_bytes(Welcome::topic_alias_maximum(10), "mqtt_version = \"3.1.1\"").await;
    assert_eq!(old, whole - 600, "MQTT 3.1.1 has no properties, and so not their length of one byte each");
}

#[tokio::test]
async fn aliases_are_introduced_anew_on_every_connection() {
    let welcome = Welcome::topic_alias_maximum(10);
    let broker =
        FakeBroker::start(welcome, |n, _| if n % 50 == 49 { Answer::Reset } else { Answer::Ack }).await;
    let drain = MemoryDrain::new();
    drain.commit(1..301);
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    // The fake broker panics on a number that was not introduced, and then nothing more is acknowledged.
    until("the log to run dry", || bench.drain.queued() == 0).await;
    assert!(bench.counters.connects.load(Relaxed) > 3);
    bench.stop().await;
}

#[tokio::test]
async fn the_content_is_named_if_asked_for() {
    for (more, expected) in [
        ("", None),
        ("content_type = true\n", Some("application/json")),
        ("content_type = true\nformat = \"json-batch\"\ncompression = \"zstd\"\n", Some("application/zstd")),
    ] {
        let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
        let drain = MemoryDrain::new();
        drain.commit(1..11);
        let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
        until("the log to run dry", || bench.drain.queued() == 0).await;
        for p in broker.published().iter().filter(|p| p.topic.contains("history")) {
            assert_eq!(p.content_type.as_deref(), expected, "{more}");
        }
        bench.stop().await;
    }
}

#[tokio::test]
async fn we_say_how_large_a_packet_we_take() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let bench = Bench::start(uplink(&broker.url(), ""), MemoryDrain::new(), quick());
    until("the login", || bench.counters.state().0 == State::Connected).await;
    // Name, version, flags and keep-alive take 10 bytes; then the properties: Maximum Packet Size, 256 KiB.
    assert_eq!(broker.connects()[0][10..16], [5, 0x27, 0, 4, 0, 0]);
    bench.stop().await;
}

#[tokio::test]
async fn another_server_is_used_only_if_that_is_allowed() {
    for code in [0x9c, 0x9d] {
        let there = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
        let place = format!("{} other.example", there.address);
        let here = FakeBroker::start(Welcome::redirect(code, &place), |_, _| Answer::Ack).await;
        let drain = MemoryDrain::new();
        drain.commit(1..11);
        let bench = Bench::start(uplink(&here.url(), ""), drain.clone(), quick());
        let text = bench.error_with("asks to use another server").await;
        println!("{text}");
        assert!(text.contains(&format!("`{}`", there.address)) && text.contains("allow_redirect"), "{text}");
        bench.stop().await;
        assert!(there.connects().is_empty() && drain.queued() == 10);
        let bench = Bench::start(uplink(&here.url(), "allow_redirect = true"), drain, quick());
        until("the log to run dry", || bench.drain.queued() == 0).await;
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_connection_that_ends_with_another_servers_name_goes_on_there() {
    let there = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let to = there.address.to_string();
    let len = u8::try_from(to.len()).expect("short");
    let bye = [&[0xe0, len + 5, 0x9c, len + 3, 0x1c, 0, len], to.as_bytes()].concat();
    let bye: &'static [u8] = Box::leak(bye.into_boxed_slice());
    let here = FakeBroker::start(
        Welcome::default(),
        move |n, _| {
            if n == 5 { Answer::Bytes(bye) } else { Answer::Ack }
        },
    )
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..101);
    let bench = Bench::start(uplink(&here.url(), "allow_redirect = true"), drain, quick());
    until("the log to run dry", || bench.drain.queued() == 0).await;
    assert_eq!((here.connects().len(), there.connects().len()), (1, 1));
    bench.stop().await;
}

#[tokio::test]
async fn two_servers_that_point_at_each_other_do_not_keep_us_busy() {
    let here = FakeBroker::start(Welcome { code: 0x9c, ..Welcome::default() }, |_, _| Answer::Ack).await;
    let text_bench = Bench::start(uplink(&here.url(), "allow_redirect = true"), MemoryDrain::new(), quick());
    println!("{}", text_bench.error_with("it names none that we can reach").await);
    text_bench.stop().await;
    let itself = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = itself.local_addr().expect("bound");
    drop(itself);
    let circle = FakeBroker::start_at(address, Welcome::redirect(0x9c, &address.to_string())).await;
    let slow = fieldgate::uplink::Timing {
        backoff: (std::time::Duration::from_secs(600), std::time::Duration::from_secs(600)),
        ..quick()
    };
    let bench = Bench::start(uplink(&circle.url(), "allow_redirect = true"), MemoryDrain::new(), slow);
    until("the end of the round", || bench.counters.state().0 == State::Waiting).await;
    assert_eq!(circle.connects().len(), 4, "once by the configuration, three times by the broker");
    bench.stop().await;
}

#[tokio::test]
async fn a_broker_that_ends_connections_for_their_subscriptions_gets_the_readings_all_the_same() {
    for more in ["", "mqtt_version = \"3.1.1\""] {
        let welcome = Welcome { closes_on_subscribe: true, ..Welcome::default() };
        let broker = FakeBroker::start(welcome, |_, _| Answer::Ack).await;
        let drain = MemoryDrain::new();
        drain.commit(1..301);
        let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
        until("the log to run dry", || bench.drain.queued() == 0).await;
        assert_eq!(bench.counters.connects.load(Relaxed), 4, "it was asked three times");
        bench.error_with("ended several connections when it was asked for commands").await;
        bench.stop().await;
    }
}
