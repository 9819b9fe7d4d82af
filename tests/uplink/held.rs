//! What the cloud sends while a metered link is away: the broker keeps it for the next window, and no command is
//! younger for that.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fieldgate::uplink::{State, Timing};

use crate::fake_broker::{Answer, FakeBroker, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::metered::{Fast, WINDOWS, sleeps};
use crate::mosquitto::{Mosquitto, installed};
use crate::uplink_bench::{Bench, quick, until, uplink};

const ROUTES: &str = "[[subscribe]]\nfilter = \"down/{gateway}/#\"\nto = \"shed/{topic}\"\n";
/// What of a minute between two windows a gateway is certainly away, in its own time.
const AWAY: Duration = Duration::from_secs(40);

fn start(url: &str, version: &str, timing: Timing) -> Bench {
    let more = [version, WINDOWS, ROUTES].concat();
    Bench::start_with_clock(uplink(url, &more), MemoryDrain::new(), timing, Fast::start())
}

#[tokio::test]
async fn what_is_published_between_two_windows_comes_in_the_next_and_counts_from_when_the_gateway_left() {
    if !installed() {
        return;
    }
    for version in ["", "mqtt_version = \"3.1.1\"\n"] {
        let mosquitto = Mosquitto::start(tempfile::tempdir().expect("a directory"), "").await;
        let mut bench = start(&format!("mqtt://127.0.0.1:{}", mosquitto.port), version, quick());
        sleeps(&bench).await;
        mosquitto.publish("down/g/lamp", "on", false).await;
        mosquitto.publish("gw/g/command/d/p", r#"{"id":"c-1","value":1,"ttl":"30s"}"#, false).await;
        mosquitto.publish("gw/g/command/d/q", r#"{"id":"c-2","value":1}"#, false).await;
        assert_eq!(bench.counters.state().0, State::Sleeping, "{version}: they came while it was away");
        let routed = bench.local.recv().await.expect("a message").0;
        assert_eq!((&*routed.topic, &routed.payload[..]), ("shed/lamp", &b"on"[..]), "{version}");
        let mut ids = Vec::new();
        for _ in 0..2 {
            let request = bench.commands.recv().await.expect("a command");
            let age = request.received.elapsed();
            assert!(age > AWAY, "{version}: {age:?} old: {request:?}");
            let said: serde_json::Value = serde_json::from_slice(&request.payload).expect("JSON");
            ids.push(said["id"].as_str().expect("an id").to_owned());
        }
        assert_eq!(ids, ["c-1", "c-2"], "{version}");
        assert_eq!(bench.counters.connects.load(Relaxed), 2);
        bench.stop().await;
    }
}

#[tokio::test]
async fn once_nothing_old_comes_any_more_a_command_counts_from_its_arrival() {
    // The second window stays open until the reading is acknowledged.
    let slow = Duration::from_secs(2);
    let broker = FakeBroker::start(Welcome::default(), move |_, p| {
        if p.topic.contains("/history/") { Answer::AckAfter(slow) } else { Answer::Ack }
    })
    .await;
    let timing = Timing { linger: Duration::from_millis(60), ack: 3 * slow, ..quick() };
    let mut bench = start(&broker.url(), "", timing);
    sleeps(&bench).await;
    bench.drain.commit(1..2);
    until("the second window", || broker.connects().len() == 2).await;
    broker.send("gw/g/command/d/p", "{}", false);
    let age = bench.commands.recv().await.expect("a command").received.elapsed();
    assert!(age > AWAY, "{age:?}");
    let mut youngest = age;
    while youngest > Duration::from_secs(5) {
        assert_eq!(broker.connects().len(), 2, "in the same window");
        tokio::time::sleep(Duration::from_millis(100)).await;
        broker.send("gw/g/command/d/p", "{}", false);
        youngest = bench.commands.recv().await.expect("a command").received.elapsed();
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_session_begins_anew_with_the_process_and_is_taken_up_after_that_for_a_day_at_least() {
    let broker = FakeBroker::start(Welcome { forgets: true, ..Welcome::default() }, |_, _| Answer::Ack).await;
    let bench = start(&broker.url(), "", quick());
    until("the second window", || broker.connects().len() == 2).await;
    bench.stop().await;
    let asked: Vec<(bool, Option<u32>)> = broker.connects().iter().map(|c| session(c)).collect();
    assert_eq!(asked, [(true, Some(86_400)), (false, Some(86_400))]);
}

#[tokio::test]
async fn a_broker_that_forgot_the_session_is_asked_again_and_its_commands_are_young() {
    let broker = FakeBroker::start(Welcome { forgets: true, ..Welcome::default() }, |_, _| Answer::Ack).await;
    let timing = Timing { linger: Duration::from_millis(300), ..quick() };
    let mut bench = start(&broker.url(), "", timing);
    sleeps(&bench).await;
    let before = broker.subscribed().len();
    until("the subscriptions", || broker.subscribed().len() == 2 * before).await;
    broker.send("gw/g/command/d/p", "{}", false);
    let age = bench.commands.recv().await.expect("a command").received.elapsed();
    assert!(age < Duration::from_secs(5), "{age:?}");
    bench.stop().await;
}

#[tokio::test]
async fn a_broker_that_cannot_go_on_with_the_session_is_asked_for_a_new_one() {
    let welcome = Welcome { refuses_sessions: true, ..Welcome::default() };
    let broker = FakeBroker::start(welcome, |_, _| Answer::Ack).await;
    let bench = start(&broker.url(), "", quick());
    sleeps(&bench).await;
    bench.drain.commit(1..2);
    until("the reading", || bench.drain.queued() == 0).await;
    let clean: Vec<bool> = broker.connects().iter().map(|c| session(c).0).collect();
    assert_eq!(clean, [true, false, false, false, true]);
    bench.stop().await;
}

#[tokio::test]
async fn without_windows_no_session_is_kept() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let bench = Bench::start(uplink(&broker.url(), ROUTES), MemoryDrain::new(), quick());
    until("the connection", || broker.connects().len() == 1).await;
    assert_eq!(session(&broker.connects()[0]), (true, None));
    bench.stop().await;
}

/// Clean start, and the expiry of the session in seconds, of a CONNECT of MQTT 5.
fn session(connect: &[u8]) -> (bool, Option<u32>) {
    let properties = &connect[11..11 + usize::from(connect[10])];
    let at = properties.iter().position(|id| *id == 0x11);
    let expiry = at.map(|at| {
        let bytes: [u8; 4] = properties[at + 1..at + 5].try_into().expect("four bytes");
        u32::from_be_bytes(bytes)
    });
    (connect[7] & 2 != 0, expiry)
}
