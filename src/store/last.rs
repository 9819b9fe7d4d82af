//! The latest value of each point, packed, so that it can be republished as stale after a restart. Pure.
//!
//! Sealed JSON in one zstd frame: 1000 points are about 15 KB, written every ten minutes and at a clean end.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use driver_api::{Quality, Reason, Value};
use serde::{Deserialize, Serialize};

use super::block::BODY_MAX;
use super::identity::{seal, unseal};
use crate::columns::body::{quality_code, quality_of};
use crate::message::{CorrectionRecord, Epoch, Id, PointKey, Record, WallMs};

/// A point by its place in the topic tree. Its unit belongs to the value: where it was changed there is still
/// one latest value, in the unit of then.
#[derive(Debug, Clone)]
pub struct Place(Arc<PointKey>);

impl Place {
    fn names(&self) -> (&str, &str) {
        (&self.0.device, &self.0.point)
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

impl Eq for Place {}

impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.names().hash(state);
    }
}

/// The latest record of each place: the one with the highest number.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latest(HashMap<Place, Record, foldhash::fast::RandomState>);

impl Latest {
    /// Takes a record, unless a later one is there.
    pub fn note(&mut self, record: Record) {
        match self.0.entry(Place(Arc::clone(&record.point))) {
            Entry::Vacant(free) => drop(free.insert(record)),
            Entry::Occupied(mut old) if old.get().id.seq <= record.id.seq => drop(old.insert(record)),
            Entry::Occupied(_) => {}
        }
    }

    /// Puts the times right that were made with a guess before the clock was set.
    pub fn correct(&mut self, correction: &CorrectionRecord) {
        let range = correction.seq[0]..=correction.seq[1];
        let concerned =
            |r: &&mut Record| range.contains(&r.id.seq) && r.id.epoch.to_string() == correction.epoch;
        for record in self.0.values_mut().filter(concerned) {
            record.ts.0 = record.ts.0.saturating_add(correction.shift_ms);
            if record.quality == Quality::Uncertain(Reason::ClockUnsynced) {
                record.quality = Quality::Good;
            }
        }
    }

    /// Forgets the points that are not among `known` (device, point).
    pub fn keep(&mut self, known: &Known) {
        self.0.retain(|_, record| is_known(known, record));
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.0.values()
    }
}

/// The points of the configuration: device and point.
pub type Known = HashSet<(String, String)>;

/// Whether a record is of a point of the configuration.
#[must_use]
pub fn is_known(known: &Known, record: &Record) -> bool {
    known.contains(&(record.point.device.clone(), record.point.point.clone()))
}

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
    let points = latest.iter().map(keep).collect();
    zstd::bulk::compress(seal(&Packed { upto, points })?.as_bytes(), 3)
}

/// Unpacks; nothing if a byte changed.
#[must_use]
pub fn unpack(bytes: &[u8]) -> Option<(Latest, u64)> {
    let text = zstd::bulk::decompress(bytes, BODY_MAX).ok()?;
    let packed: Packed = unseal(std::str::from_utf8(&text).ok()?)?;
    let mut latest = Latest::default();
    packed.points.into_iter().filter_map(recall).for_each(|record| latest.note(record));
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
        let mut latest = Latest::default();
        for (n, value) in
            [Some(Value::Float(0.1 + 0.2)), Some(Value::Text("x".into())), Some(Value::UInt(u64::MAX)), None]
                .into_iter()
                .enumerate()
        {
            let point = Arc::new(PointKey { device: "d".into(), point: n.to_string(), unit: "V".into() });
            let quality = if value.is_some() { Quality::Good } else { Quality::Bad(Reason::Exception(2)) };
            let id = Id { epoch: Epoch { start: 1, random: 2 }, seq: n as u64 };
            latest.note(Record { id, ts: WallMs(5), point, value, quality });
        }
        let mut bytes = pack(&latest, 4).expect("packs");
        assert_eq!(unpack(&bytes), Some((latest, 4)));
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        assert_eq!(unpack(&bytes), None);
    }

    #[test]
    fn a_point_has_one_latest_value_also_after_its_unit_was_changed() {
        let record = |point: &str, unit: &str, seq| Record {
            id: Id { epoch: Epoch { start: 1, random: 2 }, seq },
            ts: WallMs(5),
            point: Arc::new(PointKey { device: "d".into(), point: point.into(), unit: unit.into() }),
            value: Some(Value::UInt(seq)),
            quality: Quality::Good,
        };
        let mut latest = Latest::default();
        for (unit, seq) in [("V", 3), ("mV", 9), ("V", 4)] {
            latest.note(record("u", unit, seq));
        }
        latest.note(record("i", "A", 5));
        let mut units: Vec<_> = latest.iter().map(|r| (r.id.seq, r.point.unit.as_str())).collect();
        units.sort_unstable();
        assert_eq!(units, [(5, "A"), (9, "mV")]);
        latest.keep(&[("d".to_owned(), "i".to_owned())].into());
        assert_eq!(latest.iter().map(|r| r.id.seq).collect::<Vec<_>>(), [5]);
    }
}
