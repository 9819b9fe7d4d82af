//! Properties of the packed payload: round trip, every flipped bit seen, no bytes that panic, and the one message
//! of version 1 that will be read for ever.

use std::sync::Arc;

use driver_api::{Quality, Reason, Value};
use proptest::prelude::*;

use super::*;
use crate::message::PointKey;
use crate::pipeline::payload;

const EPOCH: Epoch = Epoch { start: 0x12, random: 0x9f3a_61c2 };

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::UInt),
        any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(Value::Float),
        (-99_999i32..99_999).prop_map(|m| Value::Float(f64::from(m) / 10.0)),
        ".{0,12}".prop_map(|t| Value::Text(t.into())),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let one = (0u8..6, any::<i64>(), value(), 0u8..3, 1u16..10);
    (0u64..1 << 60, prop::collection::vec(one, 1..80)).prop_map(|(first, rows)| {
        let record = |(seq, (key, ts, value, severity, code)): (u64, (u8, i64, Value, u8, u16))| {
            // A key of its own for each reading, as they come from different blocks of the log.
            let (device, point) = (format!("meter{}", key / 3), format!("voltage_l{key}"));
            let unit = if key == 0 { String::new() } else { "°C".into() };
            let reason = Reason::from_code(code).unwrap_or(Reason::Exception(2));
            let (value, quality) = match severity {
                0 => (Some(value), Quality::Good),
                1 => (Some(value), Quality::Uncertain(reason)),
                _ => (None, Quality::Bad(reason)),
            };
            let point = Arc::new(PointKey { device, point, unit });
            Record { id: Id { epoch: EPOCH, seq }, ts: WallMs(ts), point, value, quality }
        };
        (first..).zip(rows).map(record).collect()
    })
}

/// The message with its body as it is before compression, and a checksum that fits whatever is done to it.
fn opened(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut r = Reader::new(bytes);
    let flags = r.array::<5>().expect("whole")[4];
    r.get_bytes().expect("whole");
    r.array::<8>().expect("whole");
    r.get().expect("whole");
    r.get().expect("whole");
    r.get_signed().expect("whole");
    let front = bytes.len() - r.left();
    let raw_len = r.get_len().expect("whole");
    let stored = r.get_bytes().expect("whole");
    let raw = match flags & DEFLATED {
        0 => stored.to_vec(),
        _ => decompress_to_vec_with_limit(stored, raw_len).expect("whole"),
    };
    let mut out = Writer { bytes: bytes[..front].to_vec() };
    out.bytes[4] = flags & !DEFLATED;
    out.put(raw.len() as u64);
    out.put_bytes(&raw);
    let body = out.bytes.len() - raw.len();
    change(&mut out.bytes[body..]);
    sealed(out.bytes)
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

proptest! {
    #[test]
    fn what_is_packed_reads_back_equal(records in records(), historical in any::<bool>(), gateway in "[a-z0-9_-]{1,20}") {
        let bytes = encode(&gateway, historical, &records).expect("a run");
        let (message, length) = decode(&bytes).expect("unpacks");
        prop_assert_eq!(length, bytes.len());
        prop_assert_eq!(message, Message { gateway, historical, records });
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_detected(records in records(), at in any::<prop::sample::Index>()) {
        let mut bytes = encode("g", false, &records).expect("a run");
        prop_assert!(decode(&bytes[..at.index(bytes.len())]).is_err());
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic_even_with_a_right_checksum(
        records in records(),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30),
    ) {
        let bytes = opened(&encode("g", false, &records).expect("a run"), |body| {
            for (at, byte) in noise {
                body[at.index(body.len())] = byte;
            }
        });
        if let Ok((message, _)) = decode(&bytes) {
            for r in &message.records {
                prop_assert_eq!(r.value.is_none(), matches!(r.quality, Quality::Bad(_)));
            }
        }
    }

    #[test]
    fn random_bytes_behind_the_magic_are_no_message(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
        prop_assert!(decode(&[&b"FGC\x01"[..], &bytes].concat()).is_err());
    }
}

fn run(count: u64) -> Vec<Record> {
    let point = Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: "V".into() });
    let record = |seq| Record {
        id: Id { epoch: EPOCH, seq },
        ts: WallMs(1_795_357_800_000),
        point: Arc::clone(&point),
        value: Some(Value::UInt(seq)),
        quality: Quality::Good,
    };
    (1..=count).map(record).collect()
}

#[test]
fn what_is_no_run_of_one_epoch_is_not_packed() {
    let mut hole = run(3);
    hole.remove(1);
    assert_eq!(encode("g", false, &hole), None);
    let mut two = run(2);
    two[1].id.epoch.start += 1;
    assert_eq!(encode("g", false, &two), None);
    assert_eq!(encode("g", false, &[]), None);
    let most = u64::try_from(bounds::UPLINK_BATCH).expect("small");
    assert!(encode("g", false, &run(most)).is_some());
    assert_eq!(encode("g", false, &run(most + 1)), None);
}

#[test]
fn lengths_that_nobody_can_have_are_refused_without_being_reserved() {
    let mut front = Writer { bytes: b"FGC\x01\x00\x01g\0\0\0\0\0\0\0\0".to_vec() };
    front.put(1); // the first number
    let with = |count: u64, raw: u64, stored: u64| {
        let mut out = Writer { bytes: front.bytes.clone() };
        out.put(count);
        out.put_signed(0);
        out.put(raw);
        out.put(stored);
        sealed(out.bytes)
    };
    for (count, raw, stored) in [(u64::MAX, 0, 0), (1, u64::MAX, 0), (1, 0, u64::MAX), (1 << 40, 1 << 40, 0)]
    {
        assert!(decode(&with(count, raw, stored)).is_err(), "{count} {raw} {stored}");
    }
    let mut overflowing = Writer { bytes: b"FGC\x01\x00\x01g\0\0\0\0\0\0\0\0".to_vec() };
    overflowing.put(u64::MAX);
    overflowing.put(2);
    overflowing.put_signed(0);
    overflowing.put(0);
    overflowing.put(0);
    assert_eq!(decode(&sealed(overflowing.bytes)), Err(Damage::Shape("the header")));
}

#[test]
fn a_later_version_and_a_flag_of_later_are_named() {
    let bytes = encode("g", false, &run(3)).expect("a run");
    let changed = |at: usize, to: u8| {
        let mut body = bytes[..bytes.len() - 4].to_vec();
        body[at] = to;
        decode(&sealed(body)).map(drop)
    };
    assert_eq!(changed(3, 2), Err(Damage::Version(2)));
    assert_eq!(changed(4, bytes[4] | 4), Err(Damage::Shape("the header")));
    assert_eq!(changed(0, b'X'), Err(Damage::Foreign));
}

#[test]
fn a_point_at_many_addresses_is_one_point() {
    let shared = run(300);
    let mut apart = shared.clone();
    apart.iter_mut().for_each(|r| r.point = Arc::new((*r.point).clone()));
    assert_eq!(encode("g", false, &apart), encode("g", false, &shared));
}

#[test]
fn what_is_no_number_leaves_as_a_bad_reading() {
    let mut odd = run(1);
    odd[0].value = Some(Value::Float(f64::NAN));
    let (message, _) = decode(&encode("g", false, &odd).expect("a run")).expect("unpacks");
    assert_eq!(
        (&message.records[0].value, message.records[0].quality),
        (&None, Quality::Bad(Reason::SensorFault))
    );
}

/// Every kind of value and quality, as version 1 wrote it. Never made anew: receivers have archives.
const GOLDEN: &[u8] = include_bytes!("../../tests/golden/compact-1.bin");
const GOLDEN_LINES: &str = include_str!("../../tests/golden/compact-1.jsonl");

#[test]
fn what_version_1_wrote_is_read() {
    let (message, length) = decode(GOLDEN).expect("it is whole");
    assert_eq!(length, GOLDEN.len());
    let mut writer = payload::Readings::default();
    let lines: Vec<u8> = message
        .records
        .iter()
        .flat_map(|r| writer.write_line_of(&message.gateway, message.historical, r))
        .collect();
    assert_eq!(String::from_utf8(lines).expect("JSON"), GOLDEN_LINES);
    let again = encode(&message.gateway, message.historical, &message.records).expect("a run");
    assert_eq!(decode(&again), Ok((message, again.len())), "and packed anew as today");
}

#[test]
fn the_golden_message_has_every_kind_of_value_and_quality() {
    let (message, _) = decode(GOLDEN).expect("it is whole");
    let has = |test: &dyn Fn(&Record) -> bool| message.records.iter().any(test);
    assert!(has(&|r| matches!(r.value, Some(Value::Bool(_)))));
    assert!(has(&|r| r.value == Some(Value::Int(i64::MIN))));
    assert!(has(&|r| r.value == Some(Value::UInt(u64::MAX))));
    assert!(has(&|r| matches!(&r.value, Some(Value::Text(t)) if !t.is_ascii())));
    for x in [230.1f64, f64::from(0.1f32), 1e300, -0.0] {
        assert!(has(&|r| matches!(r.value, Some(Value::Float(y)) if y.to_bits() == x.to_bits())), "{x}");
    }
    assert!(has(&|r| r.quality == Quality::Uncertain(Reason::ClockUnsynced)));
    assert!(has(&|r| r.quality == Quality::Bad(Reason::Exception(2))));
}
