//! What keeps a node's payloads small, and that nothing is lost by it.

use driver_api::{Quality, Value};
use srad_types::payload::{Payload, metric};
use support::sparkplug::numbers;

use super::{Node, SPARKPLUG, accepting, all, custom, long, named, payload, property};
use crate::fake_broker::{Answer, FakeBroker, Published, Welcome};
use crate::uplink_bench::{quick, until};

#[tokio::test]
async fn a_float_becomes_a_double_with_a_new_birth_once_a_value_needs_more_digits() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    for (seq, value) in [(1, 230.1), (2, 1_234_567.89), (3, 230.1)] {
        node.drain.commit_records(vec![custom(seq, "m", "x", Some(Value::Float(value)), Quality::Good)]);
        until("delivery", || node.drain.delivered().len() as u64 == seq).await;
    }
    let types: Vec<Option<u32>> =
        all(&broker, "DBIRTH").iter().map(|(_, p)| named(p, "x").datatype).collect();
    assert_eq!(types, [Some(9), Some(10)], "Float, then Double");
    let values: Vec<_> =
        all(&broker, "DDATA").into_iter().flat_map(|(_, p)| p.metrics).map(|m| m.value).collect();
    assert_eq!(
        values,
        [
            Some(metric::Value::FloatValue(230.1)),
            Some(metric::Value::DoubleValue(1_234_567.89)),
            Some(metric::Value::DoubleValue(230.1))
        ]
    );
    node.stop().await;
}

#[tokio::test]
async fn numbers_are_said_once_and_what_other_devices_have_of_them_is_skipped() {
    let broker = accepting().await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    let device = |seq: u64| if (seq / 3).is_multiple_of(2) { "a" } else { "b" };
    let one = |seq| custom(seq, device(seq), "x", Some(Value::UInt(seq)), Quality::Good);
    node.drain.commit_records((1..13).map(one).collect());
    until("delivery", || node.drain.delivered().len() == 12).await;
    let (mut all_there, mut said, mut skips) = (Vec::new(), 0, 0);
    for (name, data) in all(&broker, "DDATA") {
        for (metric, seq) in data.metrics.iter().zip(numbers(&data)) {
            let seq = seq.expect("a number");
            assert_eq!((device(seq), long(metric)), (name.as_str(), seq));
            said += u32::from(property(metric, "seq").is_some());
            skips += u32::from(property(metric, "skip").is_some());
            all_there.push(seq);
        }
    }
    all_there.sort_unstable();
    assert_eq!(all_there, (1..13).collect::<Vec<u64>>());
    assert_eq!((said, skips), (2, 3), "12 readings in two messages; a: 1-2, 6-8, 12; b: 3-5, 9-11");
    node.stop().await;
}

#[tokio::test]
async fn topics_of_data_are_numbers_where_the_broker_takes_topic_aliases() {
    let broker = FakeBroker::start(Welcome::topic_alias_maximum(10), |_, _| Answer::Ack).await;
    let node = Node::start(&broker.url(), SPARKPLUG, None, quick());
    until("the birth", || !all(&broker, "NBIRTH").is_empty()).await;
    for n in 1..5 {
        node.drain.commit(n..n + 1);
        let wanted = usize::try_from(n).expect("small");
        until("its delivery", || node.drain.delivered().len() == wanted).await;
    }
    let data: Vec<Published> =
        broker.published().into_iter().filter(|p| p.topic == "spBv1.0/plants/DDATA/g/meter").collect();
    assert!(data.len() == 4 && data[0].len >= data[3].len + data[0].topic.len() - 4, "{data:?}");
    node.stop().await;
}

#[tokio::test]
async fn compressed_data_and_births_of_devices_unpack_to_what_they_are_without_and_the_node_stays_plain() {
    let keys = SPARKPLUG.replace("\"plants\" }", "\"plants\", compression = \"deflate\" }");
    let broker = accepting().await;
    let node = Node::start(&broker.url(), &keys, None, quick());
    node.drain.commit(1..101);
    until("everything delivered", || node.drain.queued() == 0).await;
    node.stop().await;
    for kind in ["NBIRTH", "NDEATH"] {
        assert!(all(&broker, kind).iter().all(|(_, payload)| payload.body.is_none()), "{kind}");
    }
    let mut sizes = (0, 0);
    let mut unpacked = |kind: &str| -> Vec<Payload> {
        let unpack = |(topic, packed): (String, Payload)| {
            assert_eq!(packed.uuid(), "SPBV1.0_COMPRESSED", "{topic}");
            let algorithm = named(&packed, "algorithm").value.clone();
            assert_eq!(algorithm, Some(metric::Value::StringValue("DEFLATE".into())));
            let body = packed.body.clone().expect("it is there");
            let plain = inflate(&body);
            sizes = (sizes.0 + body.len(), sizes.1 + plain.len());
            let inner = payload(&plain);
            assert_eq!((packed.seq, packed.timestamp), (inner.seq, inner.timestamp), "the same outside");
            inner
        };
        all(&broker, kind).into_iter().filter(|(_, p)| p.body.is_some()).map(unpack).collect()
    };
    let data = unpacked("DDATA");
    let seqs: Vec<u64> = data.iter().flat_map(numbers).map(|seq| seq.expect("a number")).collect();
    assert_eq!(seqs, (1..101).collect::<Vec<u64>>());
    assert!(sizes.0 * 3 < sizes.1, "{sizes:?}");
}

/// With Python's zlib: somebody else's.
fn inflate(bytes: &[u8]) -> Vec<u8> {
    let script = "import sys,zlib;sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))";
    let mut child = std::process::Command::new("python3")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), bytes).expect("it reads");
    let out = child.wait_with_output().expect("it ends");
    assert!(out.status.success());
    out.stdout
}
