//! What a node makes of links and brokers that fail, of a host that comes and goes, and of small packets.

use std::collections::BTreeMap;
use std::time::Duration;

use fieldgate::message::{Message, Record, WallMs};
use support::sparkplug::numbers;

use super::{HOST, Node, SPARKPLUG, accepting, all, payload, will_bd_seq};
use crate::fake_broker::{Answer, FakeBroker, Welcome};
use crate::link::Link;
use crate::memory_drain::record;
use crate::mosquitto::{Mosquitto, Witness};
use crate::outside::{Arrival, judge};
use crate::uplink_bench::{quick, until};

#[tokio::test]
async fn nothing_is_born_before_the_primary_host_is_online_and_the_node_leaves_when_it_goes() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), HOST, None, quick());
    node.drain.commit(1..4);
    until("the subscriptions", || broker.subscribed().len() >= 4).await;
    broker.send("spBv1.0/STATE/scada", r#"{"online":false,"timestamp":5}"#, true);
    broker.send("spBv1.0/STATE/scada", r#"{"online":true,"timestamp":4}"#, true);
    // A round trip through the uplink shows that both were heard.
    node.mirror.send(Message::new("gw/g/status", "{}", true)).await.expect("taken");
    until("the status", || broker.published().iter().any(|p| p.topic == "gw/g/status")).await;
    assert!(all(&broker, "NBIRTH").is_empty() && node.drain.delivered().is_empty());
    broker.send("spBv1.0/STATE/scada", r#"{"online":true,"timestamp":6}"#, true);
    until("delivery", || node.drain.delivered().len() == 3).await;
    broker.send("spBv1.0/STATE/scada", r#"{"online":false,"timestamp":5}"#, false);
    broker.send("spBv1.0/STATE/scada", r#"{"online":false,"timestamp":7}"#, false);
    until("the farewell", || broker.farewells() == 1).await;
    assert_eq!(all(&broker, "NDEATH").len(), 1);
    until("a new connection", || broker.connects().len() >= 2).await;
    assert_eq!(all(&broker, "NBIRTH").len(), 1, "which waits again");
    assert_eq!(will_bd_seq(&broker.connects()[1]), 1);
    node.stop().await;
}

#[tokio::test]
async fn a_reading_counts_as_delivered_only_when_a_ping_behind_it_was_answered_and_goes_again_as_historical()
{
    let deaf = FakeBroker::start(Welcome { deaf: true, ..Welcome::default() }, |_, _| Answer::Ack).await;
    let node = Node::start(&deaf.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&deaf, "NBIRTH").is_empty()).await;
    node.drain.commit(1..10);
    until("its data", || !all(&deaf, "DDATA").is_empty()).await;
    until("a second connection", || deaf.connects().len() >= 2).await;
    until("its data", || all(&deaf, "DDATA").len() >= 2).await;
    assert!(node.drain.delivered().is_empty(), "no ping was answered");
    let data = all(&deaf, "DDATA");
    assert_eq!(data[0].1.metrics[0].is_historical, None);
    assert!(data.last().expect("some").1.metrics.iter().all(|m| m.is_historical == Some(true)));
    assert!(node.counters.repeats.load(std::sync::atomic::Ordering::Relaxed) > 0);
    node.stop().await;
}

#[tokio::test]
async fn a_broker_that_takes_small_packets_gets_smaller_ones_behind_a_new_birth() {
    let broker = FakeBroker::start(Welcome::maximum_packet_size(900), |_, _| Answer::Ack).await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    node.drain.commit(1..101);
    until("delivery", || node.drain.delivered().len() == 100).await;
    let mut expected = 0;
    for p in broker.published().iter().filter(|p| p.topic.starts_with("spBv1.0/")) {
        if p.topic.contains("/NBIRTH/") {
            expected = 0;
        }
        assert_eq!(payload(&p.payload).seq, Some(expected), "{}", p.topic);
        expected = (expected + 1) % 256;
    }
    assert!(node.drain.rejected().is_empty());
    node.stop().await;
}

/// What a host made of all that passed a broker: readings by the aliases of the last births.
fn arrivals(seen: &[(String, Vec<u8>)]) -> Vec<Arrival> {
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    let mut found = Vec::new();
    for (topic, bytes) in seen {
        let parts: Vec<&str> = topic.split('/').collect();
        match parts.as_slice() {
            ["spBv1.0", _, "DBIRTH", _, device] => {
                for metric in payload(bytes).metrics {
                    names.insert(
                        metric.alias.expect("an alias"),
                        format!("{device}/{}", metric.name.expect("a name")),
                    );
                }
            }
            ["spBv1.0", _, "DDATA" | "DDEATH", ..] => {
                let payload = payload(bytes);
                for (metric, seq) in payload.metrics.iter().zip(numbers(&payload)) {
                    let seq = seq.expect("a number");
                    found.push(Arrival {
                        lane: if metric.is_historical == Some(true) { "history" } else { "live" },
                        point: names[&metric.alias.expect("an alias")].clone(),
                        epoch: payload.uuid.clone().expect("the epoch"),
                        seq,
                        content: format!("{:?} {:?}", metric.timestamp, metric.value),
                    });
                }
            }
            _ => {}
        }
    }
    found
}

#[tokio::test]
async fn nothing_is_lost_over_a_link_that_is_cut_again_and_again() {
    if !crate::mosquitto::installed() {
        return;
    }
    const OLD: u64 = 2000;
    const STEPS: u64 = 30;
    const STEP: u64 = 20;
    for version in ["", "mqtt_version = \"3.1.1\"\n"] {
        let broker = Mosquitto::start(tempfile::tempdir().expect("a directory"), "").await;
        let witness = Witness::start(broker.port).await;
        let link = Link::to(broker.port).await;
        let node =
            Node::start(&format!("mqtt://{}", link.address), &[SPARKPLUG, version].concat(), None, quick());
        node.drain.commit(1..OLD + 1);
        for step in 0..STEPS {
            node.drain.commit(OLD + 1 + step * STEP..OLD + 1 + (step + 1) * STEP);
            match step % 6 {
                2 => link.shake(),
                4 => link.cut(),
                5 => link.heal(),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        link.heal();
        until("the log to run dry", || node.drain.queued() == 0).await;
        let wanted = 1..OLD + 1 + STEPS * STEP;
        // Delivered, says the account: so a subscriber has it, or is about to.
        until("the witness to see all", || {
            let there: std::collections::BTreeSet<u64> =
                arrivals(&witness.seen()).iter().map(|a| a.seq).collect();
            wanted.clone().all(|seq| there.contains(&seq))
        })
        .await;
        let repeats = judge(&arrivals(&witness.seen()), wanted.clone());
        let deaths = witness.seen().iter().filter(|(topic, _)| topic.contains("/NDEATH/")).count();
        println!("{} stored, 0 missing, {repeats} repeats, {deaths} deaths by the will", wanted.end - 1);
        assert!(deaths >= 1, "a cut link lets the will speak");
        node.stop().await;
    }
}

#[test]
fn times_before_1970_do_not_wrap() {
    // A clock that was never set: the specification's times are unsigned.
    let record = Record { ts: WallMs(-5), ..record(1) };
    let mut model = fieldgate::uplink::formats::sparkplug::model::Model::default();
    model.admit(&record, 0);
    assert_eq!(model.data(&record, None, false).and_then(|m| m.timestamp), Some(0));
}
