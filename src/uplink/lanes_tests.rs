//! Messages of other devices on the lanes: alone, in order per topic whatever the lane, and bounded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use driver_api::{Quality, Value};
use proptest::prelude::*;
use tokio::time::Instant;

use super::lanes::{Cut, Lane, Lanes, Want};
use crate::config::model::Order;
use crate::message::{BootMs, Epoch, Forwarded, ForwardedRecord, Id, PointKey, Record, WallMs};
use crate::store::Chunk;

const FIVE: Cut = Cut { max_readings: 5, max_delay: Duration::from_secs(5) };

fn id(seq: u64) -> Id {
    Id { epoch: Epoch { start: 1, random: 1 }, seq }
}

fn reading(seq: u64) -> Record {
    let point = Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: String::new() });
    Record { id: id(seq), ts: WallMs(0), point, value: Some(Value::Int(1)), quality: Quality::Good }
}

fn message(seq: u64, size: usize) -> ForwardedRecord {
    let message = Forwarded {
        at: BootMs(seq),
        topic: "z/a".into(),
        payload: vec![0; size].into(),
        qos: 0,
        retain: true,
        props: None,
        expiry: None,
        origin: None,
    };
    ForwardedRecord { id: id(seq), ts: WallMs(0), message: Arc::new(message) }
}

/// A log in which the numbers divisible by 3 are messages.
fn read(want: &Want, size: usize) -> Chunk {
    let mut chunk = Chunk::empty(want.range.end);
    for seq in want.range.clone() {
        if chunk.is_full(want.max) {
            chunk.next = seq;
            break;
        }
        match seq % 3 {
            0 => chunk.messages.push(message(seq, size)),
            _ => chunk.records.push(reading(seq)),
        }
    }
    chunk
}

/// What goes out next on a lane, as numbers; messages are marked.
fn take(lanes: &mut Lanes, lane: Lane, now: Instant) -> Vec<(u64, bool)> {
    if let Some(message) = lanes.take_message(lane) {
        return vec![(message.id.seq, true)];
    }
    lanes.take(lane, FIVE, now, true).iter().map(|r| (r.id.seq, false)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_message_goes_alone_and_at_once_and_closes_the_batch_before_it() {
    let now = Instant::now();
    let mut lanes = Lanes::new(Order::LiveFirst, vec![], 4);
    lanes.advance(9);
    let want = lanes.want(FIVE, None, |_| true).expect("something");
    assert!(lanes.filled(&want, read(&want, 1), now));
    let batches: Vec<_> = (0..4).map(|_| take(&mut lanes, Lane::Live, now)).collect();
    let readings = |list: &[u64]| list.iter().map(|seq| (*seq, false)).collect::<Vec<_>>();
    assert_eq!(batches, [readings(&[4, 5]), vec![(6, true)], readings(&[7, 8]), vec![]]);
}

#[tokio::test(start_paused = true)]
async fn a_newer_message_never_overtakes_an_older_one_of_the_backlog() {
    let now = Instant::now();
    let mut lanes = Lanes::new(Order::LiveFirst, std::iter::once(1..4).collect(), 4);
    lanes.advance(7);
    for _ in 0..2 {
        let want = lanes.want(FIVE, None, |_| true).expect("both lanes");
        assert!(lanes.filled(&want, read(&want, 1), now));
    }
    // Live readings go on meanwhile.
    assert_eq!(take(&mut lanes, Lane::Live, now), [(4, false), (5, false)]);
    assert_eq!(take(&mut lanes, Lane::Live, now), [], "the message waits");
    assert_eq!(take(&mut lanes, Lane::Backlog, now), [(1, false), (2, false)]);
    assert_eq!(take(&mut lanes, Lane::Backlog, now), [(3, true)]);
    let want = lanes.want(FIVE, None, |_| true).expect("what is late");
    assert_eq!((want.lane, want.range.clone(), want.late), (Lane::Backlog, 6..7, true));
    assert!(lanes.filled(&want, read(&want, 1), now));
    assert_eq!(take(&mut lanes, Lane::Backlog, now), [(6, true)]);
    lanes.advance(10);
    let want = lanes.want(FIVE, None, |_| true).expect("live again");
    assert!(lanes.filled(&want, read(&want, 1), now));
    assert_eq!(take(&mut lanes, Lane::Live, now), [(7, false), (8, false)]);
    assert_eq!(take(&mut lanes, Lane::Live, now), [(9, true)], "with nothing before it, it is live");
}

#[tokio::test(start_paused = true)]
async fn only_so_many_bytes_of_messages_wait_in_a_lane() {
    let now = Instant::now();
    let mut lanes = Lanes::new(Order::Strict, std::iter::once(1..3000).collect(), 3000);
    let mut reads = 0;
    while let Some(want) = lanes.want(FIVE, None, |_| true) {
        assert!(lanes.filled(&want, read(&want, 100_000), now));
        reads += 1;
        assert!(reads < 10, "a lane reads without end");
    }
    while !take(&mut lanes, Lane::Live, now).is_empty() {}
    assert!(lanes.want(FIVE, None, |_| true).is_some(), "and when they are sent it goes on");
}

proptest! {
    #[test]
    fn every_number_goes_out_once_readings_in_order_per_lane_and_messages_in_order_over_both(
        backlog in 0u64..60,
        steps in prop::collection::vec((0u64..9, 0u8..4, any::<bool>()), 1..40),
        strict in any::<bool>(),
    ) {
        let rt = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let _in = rt.enter();
        let now = Instant::now();
        let order = if strict { Order::Strict } else { Order::LiveFirst };
        let pending = std::iter::once(1..backlog + 1).filter(|range| !range.is_empty()).collect();
        let (mut lanes, mut head) = (Lanes::new(order, pending, backlog + 1), backlog + 1);
        let mut readings: BTreeMap<Lane2, Vec<u64>> = BTreeMap::new();
        let mut messages = Vec::new();
        let mut send = |lanes: &mut Lanes, lane: Lane| {
            let batch = take(lanes, lane, now);
            for (seq, is_message) in &batch {
                if *is_message { messages.push(*seq) } else { readings.entry(lane as Lane2).or_default().push(*seq) }
            }
            !batch.is_empty()
        };
        let small = Cut { max_readings: 5, ..FIVE };
        for (grow, reads, live) in steps {
            head += grow;
            lanes.advance(head);
            for _ in 0..reads {
                let Some(mut want) = lanes.want(small, None, |_| true) else { break };
                want.max = 3;
                prop_assert!(lanes.filled(&want.clone(), read(&want, 1), now));
            }
            send(&mut lanes, if live { Lane::Live } else { Lane::Backlog });
        }
        loop {
            while let Some(want) = lanes.want(small, None, |_| true) {
                prop_assert!(lanes.filled(&want, read(&want, 1), now));
            }
            let sent = [Lane::Live, Lane::Backlog].map(|lane| send(&mut lanes, lane));
            if sent == [false; 2] && lanes.want(small, None, |_| true).is_none() {
                break;
            }
        }
        prop_assert_eq!(messages, (1..head).filter(|n| n % 3 == 0).collect::<Vec<_>>());
        for list in readings.values() {
            prop_assert!(list.is_sorted());
        }
        let mut all: Vec<u64> = readings.into_values().flatten().collect();
        all.sort_unstable();
        prop_assert_eq!(all, (1..head).filter(|n| n % 3 != 0).collect::<Vec<_>>());
    }
}

/// A lane as a key.
type Lane2 = usize;
