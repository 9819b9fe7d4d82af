//! The outside ledger: what a subscriber saw, judged against what was stored.

use std::collections::BTreeMap;

/// One reading as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub lane: &'static str,
    pub point: String,
    pub epoch: String,
    pub seq: u64,
    /// Time and value, as text.
    pub content: String,
}

/// The readings in one message; none in messages of another kind.
pub fn readings(topic: &str, payload: &[u8]) -> Vec<Arrival> {
    let plain;
    let payload = if topic.ends_with("/zst") {
        plain = zstd::bulk::decompress(payload, 1 << 24).expect("one zstd frame");
        &plain
    } else {
        payload
    };
    let parts: Vec<&str> = topic.split('/').collect();
    let lane = if parts.contains(&"history") { "history" } else { "live" };
    let json = || serde_json::from_slice::<serde_json::Value>(payload).expect("JSON");
    let text = |v: &serde_json::Value| v.as_str().expect("text").to_owned();
    if parts.contains(&"batch") {
        let batch = json();
        assert_eq!(batch["historical"], lane == "history");
        let first = batch["seq"].as_u64().expect("a number");
        let list = batch["readings"].as_array().expect("a list");
        list.iter()
            .zip(first..)
            .map(|(row, seq)| Arrival {
                lane,
                point: text(
                    &batch["points"][usize::try_from(row[1].as_u64().expect("index")).expect("small")],
                ),
                epoch: text(&batch["epoch"]),
                seq,
                content: format!("{} {}", row[0], row[2]),
            })
            .collect()
    } else if parts.contains(&"compact") {
        compact(lane, payload)
    } else if parts.contains(&"data") || parts.contains(&"history") {
        let reading = json();
        let ts: jiff::Timestamp = text(&reading["ts"]).parse().expect("RFC 3339");
        vec![Arrival {
            lane,
            point: parts[parts.len() - 2..].join("/"),
            epoch: text(&reading["epoch"]),
            seq: reading["seq"].as_u64().expect("a number"),
            content: format!("{} {}", ts.as_millisecond(), reading["value"]),
        }]
    } else {
        vec![]
    }
}

/// The readings in a packed message. That this decoder and a foreign one agree is the business of `tests/decode.rs`.
fn compact(lane: &'static str, payload: &[u8]) -> Vec<Arrival> {
    let (message, length) = fieldgate::pipeline::compact::decode(payload).expect("a packed message");
    assert_eq!((message.historical, length), (lane == "history", payload.len()));
    let arrival = |r: fieldgate::message::Record| Arrival {
        lane,
        point: r.point.path(),
        epoch: r.id.epoch.to_string(),
        seq: r.id.seq,
        content: format!("{} {:?}", r.ts.0, r.value),
    };
    message.records.into_iter().map(arrival).collect()
}

/// What came, in its order: numbers that follow each other on one lane as one.
fn in_runs(arrivals: &[Arrival]) -> String {
    let mut runs: Vec<(&str, u64, u64)> = Vec::new();
    for arrival in arrivals {
        match runs.last_mut() {
            Some((lane, _, last)) if *lane == arrival.lane && arrival.seq == *last + 1 => *last += 1,
            _ => runs.push((arrival.lane, arrival.seq, arrival.seq)),
        }
    }
    runs.iter().map(|(lane, first, last)| format!("{lane} {first}..={last}")).collect::<Vec<_>>().join(", ")
}

/// Every wanted number arrived; a repeat is the same in all but the lane; first arrivals are in order
/// per point and lane. Returns how many repeats there were.
pub fn judge(arrivals: &[Arrival], wanted: impl IntoIterator<Item = u64>) -> usize {
    let mut first: BTreeMap<(String, u64), &Arrival> = BTreeMap::new();
    let mut last: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut repeats = 0;
    for arrival in arrivals {
        let id = (arrival.epoch.clone(), arrival.seq);
        if let Some(before) = first.get(&id) {
            assert_eq!((&before.point, &before.content), (&arrival.point, &arrival.content), "{arrival:?}");
            repeats += 1;
            continue;
        }
        let order = last.entry((arrival.lane, &arrival.point)).or_insert(0);
        assert!(arrival.seq > *order, "{arrival:?} came after {order}: {}", in_runs(arrivals));
        *order = arrival.seq;
        first.insert(id, arrival);
    }
    let missing: Vec<u64> = {
        let there: std::collections::BTreeSet<u64> = first.keys().map(|(_, seq)| *seq).collect();
        wanted.into_iter().filter(|seq| !there.contains(seq)).collect()
    };
    assert_eq!(missing, Vec::<u64>::new(), "never arrived");
    repeats
}
