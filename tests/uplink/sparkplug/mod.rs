//! The rules of Sparkplug B 3.0 that an edge node must keep, one test each, read with a decoder of other people.

mod link;
mod silence;
mod size;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use driver_api::{Quality, Reason, Value};
use fieldgate::clock::SystemClock;
use fieldgate::message::{CommandRequest, Message, PointKey, Record};
use fieldgate::uplink::{Deps, Timing, UplinkCounters, run_with};
use srad_types::payload::{Message as _, Metric, Payload, metric, property_value};
use support::sparkplug::numbers;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::fake_broker::{Answer, FakeBroker, Published, Welcome};
use crate::memory_drain::{MemoryDrain, record};
use crate::uplink_bench::{quick, until, uplink};

const SPARKPLUG: &str = "format = \"sparkplug-b\"\nsparkplug = { group = \"plants\" }\n\
    batch = { max_readings = 100, max_delay = \"20ms\" }\n";
const HOST: &str = "format = \"sparkplug-b\"\nsparkplug = { group = \"plants\", node = \"n\", primary_host = \"scada\" }\n\
    batch = { max_readings = 100, max_delay = \"20ms\" }\n";

struct Node {
    drain: Arc<MemoryDrain>,
    mirror: mpsc::Sender<Message>,
    commands: mpsc::Receiver<CommandRequest>,
    counters: Arc<UplinkCounters>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    fn start(url: &str, more: &str, file: Option<&Path>, timing: Timing) -> Self {
        let drain = MemoryDrain::new();
        let counters = Arc::new(UplinkCounters::default());
        let (mirror, mirror_rx) = mpsc::channel(64);
        let (commands_tx, commands) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let deps = Deps {
            gateway: "g".into(),
            drain: drain.clone(),
            mirror: mirror_rx,
            commands: commands_tx,
            local: tokio::sync::mpsc::channel(2).0,
            counters: counters.clone(),
            clock: Arc::new(SystemClock::new(true)),
            file: file.map(Path::to_owned),
            stop: stop.clone(),
        };
        let task = tokio::spawn(run_with(uplink(url, more), deps, timing));
        Self { drain, mirror, commands, counters, stop, task }
    }

    async fn describe(&self, device: &str, point: &str, text: &str) {
        let message = Message::new(format!("gw/g/meta/{device}/{point}"), text.to_owned(), true);
        self.mirror.send(message).await.expect("taken");
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("it ends").expect("no panic");
    }
}

async fn accepting() -> FakeBroker {
    FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await
}

fn payload(bytes: &[u8]) -> Payload {
    Payload::decode(bytes).expect("a Sparkplug payload")
}

/// What was published of one kind: device (`""` for the node) and payload.
fn all(broker: &FakeBroker, kind: &str) -> Vec<(String, Payload)> {
    let of = |p: &Published| {
        let parts: Vec<&str> = p.topic.split('/').collect();
        (parts.len() >= 4 && parts[0] == "spBv1.0" && parts[2] == kind)
            .then(|| (parts.get(4).copied().unwrap_or("").to_owned(), payload(&p.payload)))
    };
    broker.published().iter().filter_map(of).collect()
}

fn named<'m>(payload: &'m Payload, name: &str) -> &'m Metric {
    payload
        .metrics
        .iter()
        .find(|m| m.name.as_deref() == Some(name))
        .unwrap_or_else(|| panic!("no {name}: {payload:?}"))
}

fn long(metric: &Metric) -> u64 {
    match metric.value {
        Some(metric::Value::LongValue(l)) => l,
        Some(metric::Value::IntValue(i)) => u64::from(i),
        ref other => panic!("{other:?}"),
    }
}

fn property(metric: &Metric, key: &str) -> Option<property_value::Value> {
    let set = metric.properties.as_ref()?;
    let at = set.keys.iter().position(|k| k == key)?;
    set.values[at].value.clone()
}

fn quality(metric: &Metric) -> Option<u32> {
    match property(metric, "Quality")? {
        property_value::Value::IntValue(i) => Some(i),
        other => panic!("{other:?}"),
    }
}

/// Topic, payload, QoS and retain flag of the will in a CONNECT of MQTT 5.
fn will(connect: &[u8]) -> (String, Vec<u8>, u8, bool) {
    let flags = connect[7];
    assert!(flags & 4 != 0, "there is a will");
    let mut rest = &connect[10..];
    let skip = |rest: &mut &[u8], n: usize| *rest = &rest[n..];
    let properties = usize::from(rest[0]) + 1;
    skip(&mut rest, properties);
    let text = |rest: &mut &[u8]| {
        let n = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        let text = rest[2..2 + n].to_vec();
        *rest = &rest[2 + n..];
        text
    };
    text(&mut rest); // the client's id
    let properties = usize::from(rest[0]) + 1;
    skip(&mut rest, properties);
    let topic = String::from_utf8(text(&mut rest)).expect("UTF-8");
    (topic, text(&mut rest), flags >> 3 & 3, flags & 0x20 != 0)
}

fn will_bd_seq(connect: &[u8]) -> u64 {
    long(named(&payload(&will(connect).1), "bdSeq"))
}

fn custom(seq: u64, device: &str, point: &str, value: Option<Value>, quality: Quality) -> Record {
    let point = Arc::new(PointKey { device: device.into(), point: point.into(), unit: "V".into() });
    Record { point, value, quality, ..record(seq) }
}

#[tokio::test]
async fn the_will_is_ndeath_with_qos_1_not_retained_and_has_no_metric_but_bdseq() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    let (topic, bytes, qos, retain) = will(&broker.connects()[0]);
    assert_eq!((topic.as_str(), qos, retain), ("spBv1.0/plants/NDEATH/g", 1, false));
    let death = payload(&bytes);
    assert_eq!((death.metrics.len(), death.seq), (1, None));
    assert_eq!(named(&death, "bdSeq").datatype, Some(4), "Int64");
    node.stop().await;
}

#[tokio::test]
async fn bdseq_counts_every_connect_wraps_is_the_same_in_nbirth_and_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("births");
    std::fs::write(&file, "254\n").expect("written");
    let broker =
        FakeBroker::start(Welcome::default(), |n, _| if n == 0 { Answer::Reset } else { Answer::Ack }).await;
    let node = Node::start(&broker.url(), SPARKPLUG, Some(&file), quick());
    until("a second birth", || all(&broker, "NBIRTH").len() >= 2).await;
    node.stop().await;
    let node = Node::start(&broker.url(), SPARKPLUG, Some(&file), quick());
    until("a third birth", || all(&broker, "NBIRTH").len() >= 3).await;
    node.stop().await;
    let wills: Vec<u64> = broker.connects().iter().map(|c| will_bd_seq(c)).collect();
    let births: Vec<u64> = all(&broker, "NBIRTH").iter().map(|(_, p)| long(named(p, "bdSeq"))).collect();
    assert_eq!((wills, births), (vec![254, 255, 0], vec![254, 255, 0]));
}

#[tokio::test]
async fn ncmd_dcmd_and_state_are_subscribed_before_nbirth() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), HOST, None, quick());
    until("the subscriptions", || broker.subscribed().len() >= 4).await;
    broker.send("spBv1.0/STATE/scada", r#"{"online":true,"timestamp":1}"#, true);
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    let subscribed = broker.subscribed();
    let has = |filter: &str| {
        subscribed
            .iter()
            .any(|(before, body)| *before == 0 && body.windows(filter.len()).any(|w| w == filter.as_bytes()))
    };
    assert!(has("spBv1.0/plants/NCMD/n") && has("spBv1.0/plants/DCMD/n/+") && has("spBv1.0/STATE/scada"));
    node.stop().await;
}

#[tokio::test]
async fn nbirth_has_seq_0_and_rebirth_and_a_dbirth_follows_for_every_device_with_all_its_metrics() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    node.describe("meter", "voltage", r#"{"unit":"V","type":"u16","writable":false}"#).await;
    node.describe("meter", "state", r#"{"unit":"","type":"bool","writable":false}"#).await;
    node.describe("pump", "speed", r#"{"unit":"rpm","type":"f32","writable":true}"#).await;
    let of =
        |device: &str| all(&broker, "DBIRTH").into_iter().rev().find(|(d, _)| d == device).map(|(_, p)| p);
    until("births", || of("meter").is_some_and(|p| p.metrics.len() == 2) && of("pump").is_some()).await;
    let first = broker.published().into_iter().find(|p| p.topic.starts_with("spBv1.0/")).expect("something");
    assert_eq!(first.topic, "spBv1.0/plants/NBIRTH/g");
    let birth = payload(&first.payload);
    assert_eq!(birth.seq, Some(0));
    assert!(birth.timestamp.is_some_and(|t| t > 1_600_000_000_000));
    let rebirth = named(&birth, "Node Control/Rebirth");
    assert_eq!((rebirth.datatype, &rebirth.value), (Some(11), &Some(metric::Value::BooleanValue(false))));
    let (meter, pump) = (of("meter").expect("born"), of("pump").expect("born"));
    let voltage = named(&meter, "voltage");
    assert_eq!((voltage.is_null, voltage.datatype), (Some(true), Some(7)), "no value yet, UInt32");
    assert_eq!(property(voltage, "engUnit"), Some(property_value::Value::StringValue("V".into())));
    assert_eq!(quality(voltage), Some(500), "nothing is known of it");
    let aliases: std::collections::BTreeSet<u64> =
        meter.metrics.iter().chain(&pump.metrics).map(|m| m.alias.expect("an alias")).collect();
    assert_eq!(aliases.len(), 3, "no alias is given twice in a node");
    node.stop().await;
}

#[tokio::test]
async fn seq_counts_by_one_modulo_256_over_all_but_ndeath_and_data_is_qos_0() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    for n in 0..300 {
        node.drain.commit(1 + n..2 + n);
        let wanted = usize::try_from(n + 1).expect("small");
        until("its delivery", || node.drain.delivered().len() == wanted).await;
    }
    node.stop().await;
    let mut expected = 0;
    for p in broker.published().iter().filter(|p| p.topic.starts_with("spBv1.0/")) {
        if p.topic.contains("/NDEATH/") {
            assert_eq!((payload(&p.payload).seq, p.qos), (None, 1));
            continue;
        }
        assert_eq!(payload(&p.payload).seq, Some(expected), "{}", p.topic);
        assert_eq!((p.qos, p.retain), (0, false), "{}", p.topic);
        expected = (expected + 1) % 256;
    }
    assert!(all(&broker, "DDATA").len() >= 290, "{}", all(&broker, "DDATA").len());
}

#[tokio::test]
async fn ddata_has_aliases_that_a_birth_named_and_the_identity_of_the_reading() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    node.drain.commit(1..7);
    until("delivery", || node.drain.delivered().len() == 6).await;
    let births = all(&broker, "DBIRTH");
    let (_, birth) = births.last().expect("a birth");
    let (device, data) = all(&broker, "DDATA").into_iter().next().expect("data");
    assert_eq!(device, "meter");
    assert_eq!(data.uuid.as_deref(), Some("00000001-aaaa0001"), "the epoch");
    for (metric, seq) in data.metrics.iter().zip(numbers(&data)) {
        assert_eq!((&metric.name, metric.is_historical), (&None, None));
        let seq = seq.expect("a number");
        let name = format!("p{}", seq % 3);
        assert_eq!(named(birth, &name).alias, metric.alias);
        assert_eq!((long(metric), metric.timestamp), (seq, Some(1_795_357_800_000 + seq)));
    }
    node.stop().await;
}

#[tokio::test]
async fn quality_is_192_0_or_500_and_a_bad_metric_is_null() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    node.drain.commit_records(vec![
        custom(1, "m", "good", Some(Value::Float(1.5)), Quality::Good),
        custom(2, "m", "bad", None, Quality::Bad(Reason::Timeout)),
        custom(3, "m", "stale", Some(Value::Int(-7)), Quality::Uncertain(Reason::Stale)),
    ]);
    until("delivery", || node.drain.delivered().len() == 3).await;
    let data: Vec<Metric> = all(&broker, "DDATA").into_iter().flat_map(|(_, p)| p.metrics).collect();
    assert_eq!(
        (quality(&data[0]), &data[0].value),
        (None, &Some(metric::Value::FloatValue(1.5))),
        "good is the default"
    );
    assert_eq!((quality(&data[1]), data[1].is_null, &data[1].value), (Some(0), Some(true), &None));
    assert_eq!(property(&data[1], "reason"), Some(property_value::Value::StringValue("timeout".into())));
    assert_eq!(
        (quality(&data[2]), &data[2].value),
        (Some(500), &Some(metric::Value::IntValue((-7i32).cast_unsigned())))
    );
    // A birth says all three, with values.
    broker.send_bytes("spBv1.0/plants/NCMD/g", &rebirth());
    until("a second birth", || all(&broker, "NBIRTH").len() == 2).await;
    until("its devices", || all(&broker, "DBIRTH").len() >= 2).await;
    let births = all(&broker, "DBIRTH");
    let (_, birth) = births.last().expect("a birth");
    let told = ["good", "bad", "stale"].map(|name| quality(named(birth, name)));
    assert_eq!(told, [Some(192), Some(0), Some(500)]);
    assert_eq!(named(birth, "good").value, Some(metric::Value::FloatValue(1.5)));
    node.stop().await;
}

fn rebirth() -> Vec<u8> {
    let mut metric = Metric::new();
    metric.set_name("Node Control/Rebirth".into()).set_value(metric::Value::BooleanValue(true));
    Payload { timestamp: Some(1), metrics: vec![metric], seq: None, uuid: None, body: None }.encode_to_vec()
}

#[tokio::test]
async fn a_rebirth_on_ncmd_begins_at_seq_0_with_the_same_bdseq() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    node.drain.commit(1..20);
    until("delivery", || node.drain.delivered().len() == 19).await;
    broker.send_bytes("spBv1.0/plants/NCMD/g", &rebirth());
    until("a second birth", || all(&broker, "NBIRTH").len() == 2).await;
    node.drain.commit(20..30);
    until("delivery", || node.drain.delivered().len() == 29).await;
    let births = all(&broker, "NBIRTH");
    assert_eq!(
        (births[1].1.seq, births[0].1.metrics[0].value.clone()),
        (Some(0), births[1].1.metrics[0].value.clone())
    );
    let order: Vec<String> = broker
        .published()
        .iter()
        .filter_map(|p| {
            p.topic.strip_prefix("spBv1.0/plants/").map(|t| t.split('/').next().unwrap_or("").to_owned())
        })
        .collect();
    let second = order.iter().rposition(|kind| kind == "NBIRTH").expect("born twice");
    assert_eq!(order[second + 1], "DBIRTH", "{order:?}");
    assert_eq!(broker.connects().len(), 1, "on the same connection");
    node.stop().await;
}

#[tokio::test]
async fn ndeath_comes_before_a_wanted_disconnect() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    node.stop().await;
    until("the farewell", || broker.farewells() == 1).await;
    let (death, birth) = (all(&broker, "NDEATH"), all(&broker, "NBIRTH"));
    assert_eq!(death.len(), 1);
    assert_eq!(long(named(&death[0].1, "bdSeq")), long(named(&birth[0].1, "bdSeq")));
}

#[tokio::test]
async fn a_dcmd_by_name_or_alias_becomes_a_command() {
    let broker = accepting().await;
    let mut node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    node.describe("pump", "speed", r#"{"unit":"rpm","type":"i16","writable":true}"#).await;
    until("the birth", || !all(&broker, "DBIRTH").is_empty()).await;
    let births = all(&broker, "DBIRTH");
    let alias = named(&births[0].1, "speed").alias.expect("an alias");
    let mut ids = Vec::new();
    for by_alias in [false, true] {
        let mut metric = Metric::new();
        if by_alias {
            metric.set_alias(alias);
        } else {
            metric.set_name("speed".into());
        }
        metric.set_value(metric::Value::LongValue((-3i64).cast_unsigned()));
        let command =
            Payload { timestamp: Some(1), metrics: vec![metric], seq: None, uuid: None, body: None };
        broker.send_bytes("spBv1.0/plants/DCMD/g/pump", &command.encode_to_vec());
        let request = node.commands.recv().await.expect("a command");
        assert_eq!((&*request.device, &*request.point, request.retained), ("pump", "speed", false));
        let json: serde_json::Value = serde_json::from_slice(&request.payload).expect("JSON");
        assert_eq!(json["value"], -3);
        ids.push(json["id"].as_str().expect("an id").to_owned());
    }
    assert_ne!(ids[0], ids[1], "or the second would be taken for a repeat of the first");
    broker.send_bytes("spBv1.0/plants/DCMD/g/pump", b"\xff\xff noise");
    node.stop().await;
}

#[tokio::test]
async fn a_device_that_leaves_the_configuration_dies_and_is_born_when_it_comes_back() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    node.describe("pump", "speed", r#"{"unit":"rpm","type":"i16"}"#).await;
    until("the birth", || all(&broker, "DBIRTH").len() == 1).await;
    node.describe("pump", "speed", "").await;
    until("the death", || all(&broker, "DDEATH").len() == 1).await;
    node.describe("pump", "speed", r#"{"unit":"rpm","type":"i16"}"#).await;
    until("the second birth", || all(&broker, "DBIRTH").len() == 2).await;
    let births = all(&broker, "DBIRTH");
    assert_eq!(named(&births[0].1, "speed").alias, named(&births[1].1, "speed").alias);
    node.stop().await;
}
