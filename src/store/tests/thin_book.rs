//! The book outside of a store that thins: which readings there were, what arrived, and what was declared of the rest.
//!
//! Promises: it believes nothing but what arrives at the end of an uplink; [`Book::close`] finds every number that an uplink
//! was owed in exactly one place: arrived, or declared, what was thinned with the exact count, points and times.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use driver_api::{Quality, Reason, Value};

use super::super::loss;
use super::super::ranges::count;
use super::*;
use crate::message::{Epoch, LossReason};
use crate::store::Taken;

/// Points 0 to 3 are fast numbers; 4 is a slow one, 5 one with a deadband, 6 a switch, 7 a text.
const FAST: usize = 4;

pub fn fast() -> Vec<(String, String, Duration)> {
    let point = |n: usize, ms| (key(n).device.clone(), key(n).point.clone(), Duration::from_millis(ms));
    let fast = (0..FAST).map(|n| point(n, EVERY / 10));
    // Whoever names a switch or a text thins it as little.
    fast.chain([point(4, EVERY), point(6, 1), point(7, 1)]).collect()
}

#[derive(Debug, Clone, PartialEq)]
struct Given {
    epoch: Epoch,
    ts: WallMs,
    at: u64,
    boot: u32,
    reading: Reading,
}

impl Given {
    /// Whether it may be thinned.
    fn is_fast(&self) -> bool {
        (0..FAST).any(|n| key(n).point == self.reading.point.point)
            && self.reading.quality() == Quality::Good
            && matches!(self.reading.value(), Some(Value::Float(_) | Value::Int(_) | Value::UInt(_)))
    }
}

/// What one uplink's broker knows.
#[derive(Debug, Clone, Default)]
struct Broker {
    arrived: BTreeSet<u64>,
    /// Loss records, by handle.
    told: BTreeMap<u64, LossRecord>,
    /// What it had before a crash, and the store may not know any more.
    maybe: BTreeSet<u64>,
    maybe_told: Vec<LossRecord>,
}

#[derive(Debug, Default)]
pub struct Book {
    given: BTreeMap<u64, Given>,
    brokers: BTreeMap<String, Broker>,
    /// As of the last flush.
    durable: BTreeMap<String, Broker>,
    pub made: u64,
    /// What the clock of this boot says, and its offset.
    pub at: u64,
    pub boot: u32,
    pub thinned: u64,
}

impl Book {
    /// A plant that begins at this boot time.
    pub fn at(at: u64) -> Self {
        Self { at, ..Self::default() }
    }

    /// Some seconds of the plant: `n` readings, `pace` ms apart.
    pub fn batch(&mut self, n: u64, pace: u64, random: &mut fastrand::Rng) -> Vec<Reading> {
        let one = |made: u64, at: u64, random: &mut fastrand::Rng| {
            let (point, at) = ((made % 8) as usize, BootMs(at));
            let value = match point {
                6 => Value::Bool(random.bool()),
                7 => Value::Text(format!("{made}").into()),
                5 => Value::Int(made.cast_signed()),
                _ if random.bool() => Value::Float(random.f64() * 1000.0),
                _ => Value::UInt(random.u64(..1 << 40)),
            };
            match random.u8(..40) {
                0 => Reading::bad(key(point), at, Reason::Timeout),
                1 => Reading::uncertain(key(point), at, value, Reason::OutOfRange),
                _ => Reading::good(key(point), at, value),
            }
        };
        let mut batch = Vec::new();
        for _ in 0..n {
            self.at += pace;
            self.made += 1;
            batch.push(one(self.made, self.at, random));
        }
        batch
    }

    pub fn note(&mut self, taken: Taken, readings: &[Reading]) {
        for (id, reading) in taken.ids().zip(readings) {
            let (at, boot) = (reading.at.0, self.boot);
            let ts = WallMs(at.cast_signed() + NOW);
            let given = Given { epoch: id.epoch, ts, at, boot, reading: reading.clone() };
            assert!(self.given.insert(id.seq, given).is_none(), "{id:?} was given out twice");
        }
    }

    /// Each record is what was taken under its number, and they come in order.
    pub fn is_right(&self, records: &[Record]) {
        assert!(records.windows(2).all(|w| w[0].id.seq < w[1].id.seq), "order");
        for record in records {
            let given = &self.given[&record.id.seq];
            assert_eq!(record.id.epoch, given.epoch);
            assert_eq!((record.ts, &record.point), (given.ts, &given.reading.point));
            assert_eq!(
                (record.value.as_ref(), record.quality),
                (given.reading.value(), given.reading.quality())
            );
        }
    }

    pub fn arrived(&mut self, uplink: &str, seqs: impl Iterator<Item = u64>) {
        self.brokers.entry(uplink.to_owned()).or_default().arrived.extend(seqs);
    }

    pub fn told(&mut self, uplink: &str, handle: u64, record: LossRecord) {
        self.brokers.entry(uplink.to_owned()).or_default().told.insert(handle, record);
    }

    /// The ranges of the loss records with this reason that an uplink was told.
    pub fn declared(&self, uplink: &str, reason: LossReason) -> Vec<Range<u64>> {
        let told = self.brokers.get(uplink).into_iter().flat_map(|broker| broker.told.values());
        told.filter(|r| r.reason == reason).map(|r| r.seq[0]..r.seq[1] + 1).collect()
    }

    pub fn flushed(&mut self) {
        self.durable.clone_from(&self.brokers);
    }

    /// The store may have forgotten what came after the last flush.
    pub fn crashed(&mut self) {
        for (name, broker) in &mut self.brokers {
            let durable = self.durable.get(name).cloned().unwrap_or_default();
            broker.maybe.extend(broker.arrived.difference(&durable.arrived));
            let fresh = broker.told.iter().filter(|(handle, _)| !durable.told.contains_key(handle));
            broker.maybe_told.extend(fresh.map(|(_, record)| record.clone()));
            (broker.arrived, broker.told) = (durable.arrived, durable.told);
        }
        self.flushed();
    }

    /// Everything was delivered and told: of the numbers from `first` on, below `next`, each is somewhere.
    pub fn close(&mut self, uplink: &str, owed: Range<u64>) {
        let broker = self.brokers.get(uplink).cloned().unwrap_or_default();
        let numbers = |r: &LossRecord| r.seq[0]..r.seq[1] + 1;
        let mut records: Vec<LossRecord> = broker.told.values().cloned().collect();
        for old in &broker.maybe_told {
            let meets =
                |a: &Range<u64>| loss::numbers(old).iter().any(|b| a.start < b.end && b.start < a.end);
            let again = |r: &LossRecord| r.reason == old.reason && loss::numbers(r).iter().any(meets);
            if !records.iter().any(again) {
                records.push(old.clone());
            }
        }
        let mut lost = BTreeSet::new();
        for record in records.iter().filter(|r| r.reason != LossReason::Thinned) {
            assert_eq!(record.count, count(&loss::numbers(record)), "{record:?}");
            assert!(record.numbers.is_empty() || record.reason == LossReason::Rejected, "{record:?}");
            for n in loss::numbers(record).into_iter().flatten() {
                assert!(lost.insert(n), "{uplink}: {n} is declared twice: {record:?}");
                assert!(!broker.arrived.contains(&n), "{uplink}: {n} arrived and is lost: {record:?}");
            }
        }
        let has = |n: &u64| broker.arrived.contains(n) || broker.maybe.contains(n);
        let missing: BTreeSet<u64> = owed.filter(|n| !lost.contains(n) && !has(n)).collect();
        let mut seen = BTreeSet::new();
        for record in records.iter().filter(|r| r.reason == LossReason::Thinned) {
            let of: Vec<u64> = missing.range(numbers(record)).copied().collect();
            assert_eq!((of.len() as u64, record.bound), (record.count, false), "{uplink}: {record:?}");
            for n in of {
                assert!(seen.insert(n), "{uplink}: {n} is declared twice: {record:?}");
                let given = self.given.get(&n).unwrap_or_else(|| panic!("{n} was never taken"));
                assert_eq!(record.epoch, given.epoch.to_string());
                let points = record.points.as_ref().expect("they are known");
                assert!(points.contains(&given.reading.point.path()), "{given:?} is not of {record:?}");
                let ts = given.ts.to_string();
                let times = record.from.as_ref().zip(record.to.as_ref()).expect("they are known");
                assert!(*times.0 <= ts && ts <= *times.1, "{given:?} is not within {record:?}");
            }
        }
        self.thinned += missing.len() as u64;
        let nowhere: Vec<_> = missing.difference(&seen).collect();
        assert!(nowhere.is_empty(), "{uplink}: nobody knows where {nowhere:?} are; {records:#?}");
        self.judge_thinned(uplink, &missing);
    }

    /// Only fast points were thinned, and of each stretch the first reading is none of these.
    fn judge_thinned(&self, uplink: &str, missing: &BTreeSet<u64>) {
        let mut firsts = BTreeMap::new();
        for (n, given) in self.given.iter().filter(|(_, given)| given.is_fast()) {
            let stretch = (&given.reading.point, given.boot, given.at / EVERY);
            firsts.entry(stretch).or_insert(n);
        }
        for n in missing {
            let given = &self.given[n];
            assert!(given.is_fast(), "{uplink}: {n} must not be thinned: {given:?}");
        }
        for first in firsts.into_values() {
            assert!(!missing.contains(first), "{uplink}: {first} was the first of its stretch");
        }
    }
}

/// The setting of these tests, ms.
pub const EVERY: u64 = 1000;

/// What an uplink does with what is pending, as long as there is something: reads it in pieces of `max`, and
/// acknowledges runs of at most `run`, as messages are.
pub async fn drain_all(book: &mut Book, store: &Store, uplink: &str, max: usize, run: usize) {
    let drain = store.drain(uplink).expect("configured");
    for _ in 0..100 {
        let pending = drain.pending();
        if pending.is_empty() {
            break;
        }
        for range in pending {
            let mut at = range.start;
            while at < range.end {
                let chunk = drain.read(at..range.end, max).await.expect("reads");
                book.is_right(&chunk.records);
                acknowledge(book, &*drain, uplink, &chunk.records, run);
                at = chunk.next.max(at + 1);
            }
        }
    }
    assert!(drain.pending().is_empty(), "{uplink} cannot be drained: {:?}", drain.pending());
    loop {
        store.flush().await.expect("flushes");
        let losses = drain.losses(50).await.expect("reads");
        if losses.is_empty() {
            break;
        }
        for (handle, record) in losses {
            book.told(uplink, handle, record);
            drain.loss_delivered(handle);
        }
    }
}

/// Acknowledges these, message by message: numbers in a message follow one by one.
pub fn acknowledge(book: &mut Book, drain: &dyn Drain, uplink: &str, records: &[Record], run: usize) {
    for message in records.chunk_by(|a, b| a.id.seq + 1 == b.id.seq).flat_map(|c| c.chunks(run)) {
        let (first, last) = (message[0].id.seq, message[message.len() - 1].id.seq);
        drain.delivered(first..last + 1);
        book.arrived(uplink, first..last + 1);
    }
}
