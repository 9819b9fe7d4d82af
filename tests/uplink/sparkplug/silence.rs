//! Devices that fall silent and come back: DDEATH and DBIRTH, and where the readings of that time are.

use driver_api::{Quality, Reason, Value};
use fieldgate::clock::{Clock, SystemClock};
use fieldgate::message::{Message, Record, WallMs};
use support::sparkplug::numbers;

use super::{Node, SPARKPLUG, accepting, all, custom, payload, quality};
use crate::fake_broker::FakeBroker;
use crate::uplink_bench::{quick, until};

/// A reading of the device `m` that was sampled now.
fn fresh(seq: u64, value: Option<f64>) -> Record {
    let quality = if value.is_some() { Quality::Good } else { Quality::Bad(Reason::Timeout) };
    Record { ts: SystemClock::new(true).wall(), ..custom(seq, "m", "x", value.map(Value::Float), quality) }
}

async fn says(node: &Node, state: &str) {
    let text = format!(r#"{{"state":"{state}"}}"#);
    node.mirror.send(Message::new("gw/g/status/device/m", text, true)).await.expect("taken");
}

async fn commit(node: &Node, record: Record) {
    let wanted = node.drain.delivered().len() + 1;
    node.drain.commit_records(vec![record]);
    until("its delivery", || node.drain.delivered().len() == wanted).await;
}

/// What was said of the device, in order, from the last birth of the node on; with the numbers of readings in it. On the
/// way it is seen that the node's numbers have no hole.
fn story(broker: &FakeBroker) -> Vec<(String, Vec<u64>)> {
    let (mut story, mut next) = (Vec::new(), 0);
    for p in broker.published().iter().filter(|p| p.topic.starts_with("spBv1.0/")) {
        let kind = p.topic.split('/').nth(2).expect("a kind").to_owned();
        let payload = payload(&p.payload);
        match kind.as_str() {
            "NDEATH" => continue,
            "NBIRTH" => {
                story.clear();
                next = 0;
            }
            "DBIRTH" => story.push((kind, Vec::new())),
            _ => {
                story.push((kind, numbers(&payload).into_iter().map(|seq| seq.expect("a number")).collect()))
            }
        }
        assert_eq!(payload.seq, Some(next), "{}", p.topic);
        next = (next + 1) % 256;
    }
    story
}

fn told(list: &[(&str, &[u64])]) -> Vec<(String, Vec<u64>)> {
    list.iter().map(|(kind, seqs)| ((*kind).to_owned(), seqs.to_vec())).collect()
}

#[tokio::test]
async fn ddeath_is_sent_when_a_device_is_lost_and_dbirth_before_its_data_when_it_is_back() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    commit(&node, fresh(1, Some(1.5))).await;
    says(&node, "suspect").await;
    commit(&node, fresh(2, None)).await;
    says(&node, "offline").await;
    until("the death", || all(&broker, "DDEATH").len() == 1).await;
    // It stays dead, and what is owed of its silence has to go.
    says(&node, "offline").await;
    commit(&node, fresh(3, None)).await;
    let death = all(&broker, "DDEATH").pop().expect("the second").1;
    assert_eq!((quality(&death.metrics[0]), death.uuid.as_deref()), (Some(0), Some("00000001-aaaa0001")));
    // A value is faster than the status.
    commit(&node, fresh(4, Some(2.5))).await;
    commit(&node, fresh(5, Some(3.5))).await;
    says(&node, "online").await;
    commit(&node, fresh(6, Some(4.5))).await;
    let first: &[(&str, &[u64])] = &[
        ("DBIRTH", &[]),
        ("DDATA", &[1]),
        ("DDATA", &[2]),
        ("DDEATH", &[]),
        ("DDEATH", &[3]),
        ("DBIRTH", &[]),
        ("DDATA", &[4]),
        ("DDATA", &[5]),
        ("DDATA", &[6]),
    ];
    assert_eq!(story(&broker), told(first));
    // And the status alone brings it back, too.
    says(&node, "offline").await;
    until("another death", || all(&broker, "DDEATH").len() == 3).await;
    says(&node, "online").await;
    until("another birth", || all(&broker, "DBIRTH").len() == 3).await;
    node.stop().await;
}

#[tokio::test]
async fn history_of_a_dead_device_is_between_a_birth_and_another_death() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    commit(&node, fresh(1, Some(1.5))).await;
    says(&node, "offline").await;
    until("the death", || all(&broker, "DDEATH").len() == 1).await;
    // From before: it was sampled a minute ago, and comes late.
    let old = |seq| {
        let now = SystemClock::new(true).wall().0;
        Record { ts: WallMs(now - 60_000), ..fresh(seq, Some(0.5)) }
    };
    commit(&node, old(2)).await;
    commit(&node, old(3)).await;
    until("another death", || all(&broker, "DDEATH").len() == 2).await;
    let whole: &[(&str, &[u64])] = &[
        ("DBIRTH", &[]),
        ("DDATA", &[1]),
        ("DDEATH", &[]),
        ("DBIRTH", &[]),
        ("DDATA", &[2]),
        ("DDATA", &[3]),
        ("DDEATH", &[]),
    ];
    assert_eq!(story(&broker), told(whole));
    // A new life of the node: its host learns what metrics the device has, and that it is dead.
    broker.send_bytes("spBv1.0/plants/NCMD/g", &super::rebirth());
    until("a second birth", || all(&broker, "NBIRTH").len() == 2).await;
    until("and a third death", || all(&broker, "DDEATH").len() == 3).await;
    assert_eq!(story(&broker), told(&[("DBIRTH", &[]), ("DDEATH", &[])]));
    node.stop().await;
}
