//! The latest value of each point, packed, so that it can be republished as stale after a restart. Pure.
//!
//! Sealed JSON in one zstd frame: 1000 points are about 15 KB, written every ten minutes and at a clean end.

use std::collections::HashMap;
use std::sync::Arc;

use driver_api::Value;
use serde::{Deserialize, Serialize};

use super::block::{BODY_MAX, quality_code, quality_of};
use super::identity::{seal, unseal};
use crate::message::{Epoch, Id, PointKey, Record, WallMs};

/// Latest record by point.
pub type Latest = HashMap<Arc<PointKey>, Record>;

#[derive(Serialize, Deserialize)]
struct Packed {
    /// Numbers below this are accounted for.
    upto: u64,
    points: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: [String; 3],
    id: (u32, u32, u64),
    ts: i64,
    quality: u64,
    value: Option<Kind>,
}

/// Floats as their bits: JSON numbers do not keep them.
#[derive(Serialize, Deserialize)]
enum Kind {
    Bool(bool),
    Int(i64),
    UInt(u64),
    Bits(u64),
    Text(String),
}

/// Packs the values. `upto`: readings from this number on are not among them.
///
/// # Errors
/// Those of zstd and serde, which have none for these plain types.
pub fn pack(latest: &Latest, upto: u64) -> std::io::Result<Vec<u8>> {
    let points = latest.values().map(keep).collect();
    zstd::bulk::compress(seal(&Packed { upto, points })?.as_bytes(), 3)
}

/// Unpacks; nothing if a byte changed.
#[must_use]
pub fn unpack(bytes: &[u8]) -> Option<(Latest, u64)> {
    let text = zstd::bulk::decompress(bytes, BODY_MAX).ok()?;
    let packed: Packed = unseal(std::str::from_utf8(&text).ok()?)?;
    let latest = packed.points.into_iter().filter_map(recall).map(|r| (Arc::clone(&r.point), r)).collect();
    Some((latest, packed.upto))
}

fn keep(record: &Record) -> Kept {
    let key = &record.point;
    Kept {
        key: [key.device.clone(), key.point.clone(), key.unit.clone()],
        id: (record.id.epoch.start, record.id.epoch.random, record.id.seq),
        ts: record.ts.0,
        quality: quality_code(record.quality),
        value: record.value.as_ref().map(|v| match v {
            Value::Bool(b) => Kind::Bool(*b),
            Value::Int(i) => Kind::Int(*i),
            Value::UInt(u) => Kind::UInt(*u),
            Value::Float(x) => Kind::Bits(x.to_bits()),
            Value::Text(t) => Kind::Text(t.to_string()),
        }),
    }
}

fn recall(kept: Kept) -> Option<Record> {
    let [device, point, unit] = kept.key;
    let (start, random, seq) = kept.id;
    Some(Record {
        id: Id { epoch: Epoch { start, random }, seq },
        ts: WallMs(kept.ts),
        point: Arc::new(PointKey { device, point, unit }),
        value: kept.value.map(|v| match v {
            Kind::Bool(b) => Value::Bool(b),
            Kind::Int(i) => Value::Int(i),
            Kind::UInt(u) => Value::UInt(u),
            Kind::Bits(bits) => Value::Float(f64::from_bits(bits)),
            Kind::Text(t) => Value::Text(t.into()),
        }),
        quality: quality_of(kept.quality)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use driver_api::{Quality, Reason};

    #[test]
    fn values_read_back_bit_for_bit_and_damage_is_noticed() {
        let mut latest = Latest::new();
        for (n, value) in
            [Some(Value::Float(0.1 + 0.2)), Some(Value::Text("x".into())), Some(Value::UInt(u64::MAX)), None]
                .into_iter()
                .enumerate()
        {
            let point = Arc::new(PointKey { device: "d".into(), point: n.to_string(), unit: "V".into() });
            let quality = if value.is_some() { Quality::Good } else { Quality::Bad(Reason::Exception(2)) };
            let id = Id { epoch: Epoch { start: 1, random: 2 }, seq: n as u64 };
            latest.insert(Arc::clone(&point), Record { id, ts: WallMs(5), point, value, quality });
        }
        let mut bytes = pack(&latest, 4).expect("packs");
        assert_eq!(unpack(&bytes), Some((latest, 4)));
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        assert_eq!(unpack(&bytes), None);
    }
}
