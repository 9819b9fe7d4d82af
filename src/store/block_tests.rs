//! Properties of the block format: round trip, every flipped bit seen, no bytes that panic.

use std::sync::Arc;

use driver_api::{Quality, Reason, Value};
use proptest::prelude::*;

use super::block::{Damage, Head, Sparse, decode, encode, encode_sparse, piece};
use crate::bounds;
use crate::message::{BootMs, Entry, Epoch, Forwarded, PointKey, Props, Reading};

fn head(first: u64) -> Head {
    Head { first, epoch: Epoch { start: 7, random: 9 }, boot: 3, offset: -5, synced: true }
}

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

/// Readings, and a message here and there.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = prop_oneof![4 => reading().prop_map(Entry::Reading), 1 => message().prop_map(Entry::Message)];
    prop_oneof![
        prop::collection::vec(reading().prop_map(Entry::Reading), 1..80),
        prop::collection::vec(one, 1..80),
        prop::collection::vec(message().prop_map(Entry::Message), 1..20),
    ]
}

fn message() -> impl Strategy<Value = Arc<Forwarded>> {
    let text = || prop::option::of(".{0,12}");
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    let props = (prop::option::of(0u8..2), text(), text(), prop::option::of(bytes()));
    let props =
        (props, prop::collection::vec((".{0,5}", ".{0,5}"), 0..4)).prop_map(|((format, a, b, c), user)| {
            let correlation = c.map(bytes::Bytes::from);
            Box::new(Props { payload_format: format, content_type: a, response_topic: b, correlation, user })
        });
    let head = (any::<u64>(), "[a-c]/[a-e/é]{0,9}", bytes(), 0u8..3, any::<bool>());
    let tail = (prop::option::of(props), prop::option::of(any::<u32>()), prop::option::of("[a-z]{1,6}"));
    (head, tail).prop_map(|((at, topic, payload, qos, retain), (props, expiry, origin))| {
        let (topic, payload) = (topic.into(), payload.into());
        let origin = origin.map(Arc::from);
        Arc::new(Forwarded { at: BootMs(at), topic, payload, qos, retain, props, expiry, origin })
    })
}

fn reading() -> impl Strategy<Value = Reading> {
    let keys: Vec<Arc<PointKey>> = (0..6)
        .map(|n| {
            let (device, point) = (format!("meter{}", n / 3), format!("voltage_l{n}"));
            Arc::new(PointKey { device, point, unit: if n == 0 { String::new() } else { "°C".into() } })
        })
        .collect();
    (0..keys.len(), any::<u64>(), value(), 0u8..3, 1u16..10).prop_map(
        move |(key, at, value, severity, code)| {
            let (point, at) = (Arc::clone(&keys[key]), BootMs(at));
            let reason = Reason::from_code(code).unwrap_or(Reason::Exception(2));
            match severity {
                0 => Reading::good(point, at, value),
                1 => Reading::uncertain(point, at, value, reason),
                _ => Reading::bad(point, at, reason),
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_packed_reads_back_equal(entries in entries(), first in 0u64..1 << 60) {
        let bytes = encode(&head(first), &entries).expect("packs");
        let block = decode(&bytes).expect("unpacks");
        prop_assert_eq!(block.head, head(first));
        prop_assert_eq!(block.entries, entries);
    }

    #[test]
    fn what_is_left_of_a_stretch_reads_back_with_its_numbers(
        entries in entries(), first in 0u64..1 << 60, missing in prop::collection::vec(0u64..100_000, 80),
        behind in 0u64..1 << 40, times in any::<[u64; 2]>(), at in any::<prop::sample::Index>(),
    ) {
        let readings: Vec<Entry> = entries.into_iter().filter(|entry| entry.message().is_none()).collect();
        prop_assume!(!readings.is_empty());
        let mut next = first;
        let kept: Vec<u64> = readings.iter().zip(missing).map(|(_, missing)| {
            next += missing + 1;
            next - 1
        }).collect();
        let points = readings.iter().take(3).filter_map(|r| Some(Arc::clone(&r.reading()?.point))).collect();
        let sparse = Sparse { span: next - first + behind, kept: kept.clone(), points, times };
        let mut bytes = encode_sparse(&head(first), &readings, &sparse).expect("packs");
        let block = decode(&bytes).expect("unpacks");
        prop_assert_eq!(block.range(), first..next + behind);
        prop_assert_eq!(block.gone(), next + behind - first - readings.len() as u64);
        prop_assert!(block.numbered().eq(kept.iter().copied().zip(&readings)));
        let (from, to) = (first + at.index(1000) as u64, next);
        let within = kept.iter().copied().zip(&readings).filter(|(n, _)| (from..to).contains(n));
        prop_assert!(block.within(from..to).eq(within));
        prop_assert_eq!((block.head, block.sparse), (head(first), Some(sparse)));
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_detected(entries in entries(), at in any::<prop::sample::Index>()) {
        let mut bytes = encode(&head(1), &entries).expect("packs");
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&bytes).is_err());
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decode(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic_even_with_a_right_checksum(
        entries in entries(),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30),
        plain in any::<bool>(),
    ) {
        let mut bytes = encode(&head(1), &entries).expect("packs");
        if plain {
            // Takes the compression away, so that the noise reaches the columns.
            let raw_len = u32::from_le_bytes(bytes[52..56].try_into().expect("four"));
            if bytes[5] == 1 {
                let body = bytes[60..bytes.len() - 4].to_vec();
                let raw = zstd::bulk::decompress(&body, raw_len as usize).expect("its own");
                bytes.truncate(60);
                bytes[5] = 0;
                bytes[56..60].copy_from_slice(&raw_len.to_le_bytes());
                bytes.extend_from_slice(&raw);
                bytes.extend_from_slice(&[0; 4]);
            }
        }
        let end = bytes.len() - 4;
        for (at, byte) in noise {
            // Magic, version and lengths stay, or the noise would go no further than them.
            let at = at.index(end);
            if at >= 60 || (8..16).contains(&at) || (20..52).contains(&at) {
                bytes[at] = byte;
            }
        }
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        if let Ok(block) = decode(&bytes) {
            for r in block.entries.iter().filter_map(Entry::reading) {
                prop_assert_eq!(r.value().is_none(), matches!(r.quality(), Quality::Bad(_)));
            }
        }
    }

    #[test]
    fn random_bytes_are_no_block(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
    }
}

#[test]
fn a_later_version_is_named() {
    let key = Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: String::new() });
    let mut bytes = encode(&head(1), &[Reading::good(key, BootMs(1), Value::Int(1)).into()]).expect("packs");
    bytes[4] = 5;
    let end = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(decode(&bytes), Err(Damage::Version(5)));
}

#[test]
fn a_thousand_plausible_readings_pack_into_few_bytes() {
    let keys: Vec<Arc<PointKey>> = (0..100)
        .map(|n| {
            let (device, point) = (format!("meter{}", n / 10), format!("voltage_l{}", n % 10));
            Arc::new(PointKey { device, point, unit: "V".into() })
        })
        .collect();
    let entries: Vec<Entry> = (0..1000u64)
        .map(|n| {
            let x = 2300.0 + ((n * 7919) % 13) as f64;
            Reading::good(
                Arc::clone(&keys[(n % 100) as usize]),
                BootMs(n / 100 * 1000 + n % 100 / 10),
                Value::Float(x / 10.0),
            )
            .into()
        })
        .collect();
    let bytes = encode(&head(1), &entries).expect("packs");
    assert!(bytes.len() < 2400, "{} bytes", bytes.len());
}

#[test]
fn pieces_are_cut_by_number_and_by_text() {
    let key = Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: String::new() });
    let plain: Vec<Entry> =
        vec![Reading::good(Arc::clone(&key), BootMs(1), Value::Int(1)).into(); bounds::STORE_BLOCK + 5];
    assert_eq!(piece(&plain), bounds::STORE_BLOCK);
    assert_eq!(piece(&plain[..5]), 5);
    let text: Arc<str> = "x".repeat(bounds::STORE_TEXT).into();
    let long: Vec<Entry> = vec![Reading::good(key, BootMs(1), Value::Text(text)).into(); 100];
    assert_eq!(piece(&long), 16);
}

/// A block as version 1 of the layout was written: it is read for ever.
const VERSION_1: &str = "\
    4647423101000000943d01000000000006000000070000000900000003000000e803000000000000fbffffffffffffff\
    010000005d0000005d0000000300136d657465723100766f6c746167655f6c3100560706737461746500000e74616e6b\
    006c6576656c00c2b043000000050203000203d20f020004010501000104010201010100028110010001840801000101\
    02fa23026f6e030d019f7fe3b1";

/// That block: six readings from number 81,300 on.
pub fn version_1() -> Vec<u8> {
    let byte = |n: usize| u8::from_str_radix(&VERSION_1[n * 2..n * 2 + 2], 16).expect("hex");
    (0..VERSION_1.len() / 2).map(byte).collect()
}

#[test]
fn what_version_1_wrote_is_read() {
    let bytes = version_1();
    let key = |device: &str, point: &str, unit: &str| {
        Arc::new(PointKey { device: device.into(), point: point.into(), unit: unit.into() })
    };
    let (a, b, c) =
        (key("meter1", "voltage_l1", "V"), key("meter1", "state", ""), key("tank", "level", "°C"));
    let expected = [
        Reading::good(a.clone(), BootMs(1000), Value::Float(230.1)),
        Reading::good(b.clone(), BootMs(1001), Value::Text("on".into())),
        Reading::bad(c.clone(), BootMs(999), Reason::Timeout),
        Reading::good(a, BootMs(2000), Value::Float(229.9)),
        Reading::uncertain(c, BootMs(2001), Value::Int(-7), Reason::OutOfRange),
        Reading::good(b, BootMs(2001), Value::Bool(true)),
    ];
    let block = decode(&bytes).expect("it is whole");
    assert_eq!(block.head, head(81_300));
    assert_eq!(block.entries, expected.map(Entry::Reading));
    let again = decode(&encode(&block.head, &block.entries).expect("packs")).expect("unpacks");
    assert_eq!(again, block, "and written anew as today");
}

#[test]
fn a_block_without_messages_is_as_it_was_and_messages_share_their_topics() {
    let key = Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: String::new() });
    let plain = encode(&head(1), &[Reading::good(key, BootMs(1), Value::Int(1)).into()]).expect("packs");
    assert_eq!(plain[4], 2, "an earlier version reads it");
    let message = |n: u64| {
        Entry::Message(Arc::new(Forwarded {
            at: BootMs(n * 1000),
            topic: format!("zigbee2mqtt/living_room/sensor_{}", n % 10).into(),
            payload: format!("{{\"temperature\":2{}.{},\"linkquality\":120}}", n % 3, n % 10).into(),
            qos: 0,
            retain: false,
            props: None,
            expiry: None,
            origin: None,
        }))
    };
    let bytes = encode(&head(1), &(0..1000).map(message).collect::<Vec<_>>()).expect("packs");
    assert_eq!(bytes[4], 3);
    assert!(bytes.len() < 8000, "{} bytes", bytes.len());
}
