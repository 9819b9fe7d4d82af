//! What an uplink carries besides readings: status, meta and events upstream, commands down, loss
//! records, the last will and the farewell.

use crate::fake_broker::{Answer, FakeBroker, Published, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::uplink_bench::{Bench, quick, until, uplink};
use fieldgate::message::{LossReason, LossRecord, Message, Origin};
use fieldgate::uplink::State;
use std::sync::atomic::Ordering::Relaxed;

const ROOT: &str = "topic_root = \"sites/{gateway}\"\n";

fn on<'a>(published: &'a [Published], topic: &str) -> Vec<&'a Published> {
    published.iter().filter(|p| p.topic == topic).collect()
}

#[tokio::test]
async fn the_newest_status_is_shown_after_every_reconnect_and_the_last_will_says_offline() {
    let broker = FakeBroker::start(Welcome::default(), |_, p| {
        if p.connection == 0 && p.payload == b"drop" { Answer::Reset } else { Answer::Ack }
    })
    .await;
    let bench = Bench::start(uplink(&broker.url(), ROOT), MemoryDrain::new(), quick());
    for text in ["1", "2"] {
        bench.mirror.send(Message::new("gw/g/status", text, true)).await.expect("taken");
    }
    bench.mirror.send(Message::new("gw/g/meta/d/p", "{}", true)).await.expect("taken");
    bench.mirror.send(Message::new("gw/g/event/loss", "{}", false)).await.expect("taken");
    until("the meta message", || !on(&broker.published(), "sites/g/meta/d/p").is_empty()).await;
    bench.mirror.send(Message::new("gw/g/event/alarm", "drop", false)).await.expect("taken");
    until("the reset", || broker.connects().len() >= 2).await;
    until("everything again", || {
        broker.published().iter().any(|p| p.connection > 0 && p.topic == "sites/g/meta/d/p")
    })
    .await;
    let published = broker.published();
    assert!(on(&published, "sites/g/event/loss").is_empty(), "loss records come from the log alone");
    for topic in ["sites/g/status", "sites/g/meta/d/p"] {
        assert!(on(&published, topic).iter().all(|p| p.retain), "{topic}");
    }
    let again = on(&published, "sites/g/status").last().expect("a status").payload.clone();
    assert_eq!(again, b"2");
    let connect = String::from_utf8_lossy(&broker.connects()[0]).into_owned();
    assert!(connect.contains("sites/g/status") && connect.contains(r#"{"state":"offline"}"#), "{connect}");
}

#[tokio::test]
async fn the_farewell_is_said_after_what_was_in_flight() {
    for more in ["", "mqtt_version = \"3.1.1\"\n"] {
        let wait = std::time::Duration::from_millis(150);
        let broker = FakeBroker::start(Welcome::default(), move |_, _| Answer::AckAfter(wait)).await;
        let drain = MemoryDrain::new();
        drain.commit(1..21);
        let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
        until("the readings on their way", || broker.published().len() == 20).await;
        let (drain, counters) = (bench.drain.clone(), bench.counters.clone());
        bench.stop().await;
        assert_eq!(drain.queued(), 0, "what was in flight is finished");
        let last = broker.published().pop().expect("a farewell");
        assert_eq!(
            (&*last.topic, &*last.payload, last.retain),
            ("gw/g/status", &b"{\"state\":\"offline\"}"[..], true)
        );
        until("the DISCONNECT", || broker.farewells() == 1).await;
        assert_eq!(counters.state().0, State::Stopped);
    }
}

#[tokio::test]
async fn an_uplink_without_a_link_stops_at_once() {
    let bench = Bench::start(uplink("mqtt://127.0.0.1:9", ""), MemoryDrain::new(), quick());
    bench.error_with("refused").await;
    let before = tokio::time::Instant::now();
    bench.stop().await;
    assert!(before.elapsed() < std::time::Duration::from_millis(500));
}

#[tokio::test]
async fn commands_come_down_and_too_many_are_refused_as_busy() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..2);
    let mut bench = Bench::start(uplink(&broker.url(), ROOT), drain, quick());
    until("the connection", || bench.drain.queued() == 0).await;
    broker.send("sites/g/command/boiler/setpoint", r#"{"id":"c-1","value":21.5}"#, false);
    let first = bench.commands.recv().await.expect("a command");
    assert_eq!((&*first.device, &*first.point, first.retained), ("boiler", "setpoint", false));
    assert_eq!(first.origin, Origin::Uplink("cloud".into()));
    assert_eq!(first.payload, r#"{"id":"c-1","value":21.5}"#);
    // Nobody takes them: two fit.
    for n in 2..=5 {
        broker.send("sites/g/command/boiler/setpoint", &format!(r#"{{"id":"c-{n}","value":1}}"#), n == 2);
    }
    until("two refusals", || on(&broker.published(), "sites/g/result/boiler/setpoint").len() == 2).await;
    for (result, id) in on(&broker.published(), "sites/g/result/boiler/setpoint").iter().zip(["c-4", "c-5"]) {
        let text = String::from_utf8_lossy(&result.payload).into_owned();
        assert!(text.starts_with(&format!(r#"{{"id":"{id}","state":"refused","error":"busy"#)), "{text}");
        assert!(!result.retain);
    }
    assert!(bench.commands.recv().await.expect("a command").retained);
    assert_eq!(bench.counters.commands_busy.load(Relaxed), 2);
    bench.stop().await;
}

fn loss(n: u64) -> LossRecord {
    LossRecord {
        uplink: "cloud".into(),
        reason: LossReason::Expired,
        epoch: "00000001-aaaa0001".into(),
        seq: [n, n + 9],
        count: 10,
        bound: false,
        from: None,
        to: None,
        points: None,
        numbers: Vec::new(),
        ts: "2026-11-22T15:00:00.000Z".into(),
    }
}

#[tokio::test]
async fn a_loss_record_too_long_for_the_broker_goes_without_its_points() {
    let broker = FakeBroker::start(Welcome::maximum_packet_size(400), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    let points = Some((0..100).map(|n| format!("meter/point{n}")).collect());
    drain.declare(1, LossRecord { points, ..loss(1) });
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    until("the record", || bench.drain.told() == [1]).await;
    let published = broker.published();
    let text = String::from_utf8_lossy(&on(&published, "gw/g/event/loss")[0].payload).into_owned();
    assert!(text.contains(r#""count":10,"from":null,"to":null,"points":null"#), "{text}");
    bench.stop().await;
}

#[tokio::test]
async fn loss_records_go_out_until_they_are_acknowledged() {
    let broker =
        FakeBroker::start(Welcome::default(), |n, _| if n == 0 { Answer::Reset } else { Answer::Ack }).await;
    let drain = MemoryDrain::new();
    drain.declare(1, loss(1));
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    until("the first", || bench.drain.told() == [1]).await;
    bench.drain.declare(2, loss(11));
    until("the second", || bench.drain.told() == [1, 2]).await;
    let published = broker.published();
    let records = on(&published, "gw/g/event/loss");
    assert_eq!(records.len(), 3, "one was repeated");
    assert!(
        String::from_utf8_lossy(&records[2].payload)
            .contains(r#""reason":"expired","epoch":"00000001-aaaa0001","seq":[11,20],"count":10"#)
    );
    bench.stop().await;
}

#[tokio::test]
async fn live_readings_are_kept_by_the_broker_if_asked_for_and_history_never() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..11);
    let bench = Bench::start(uplink(&broker.url(), "retain = true"), drain, quick());
    until("the backlog", || bench.drain.queued() == 0).await;
    bench.drain.commit(11..21);
    until("the rest", || bench.drain.queued() == 0).await;
    for p in broker.published() {
        assert_eq!(p.retain, p.topic.starts_with("gw/g/data/"), "{p:?}");
        assert!(!p.dup, "a clean session repeats nothing as a duplicate");
    }
    bench.stop().await;
}
