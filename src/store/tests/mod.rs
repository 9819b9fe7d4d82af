//! The store against its promises: what every test here needs.

#![expect(clippy::single_range_in_vec_init, reason = "pending() is a list of ranges, often of one")]

mod basics;
mod copies;
mod exchanges;
mod faults;
mod forwarding;
mod history;
mod kill;
mod limits;
mod names;
mod outage;
pub mod power;
mod random;
mod saved;
mod scattered;
mod thin;
mod thin_book;
mod thin_random;
mod time;
mod time_random;
mod upgrade;
mod wear;
mod wishes;

use proptest::test_runner::{Config as ProptestConfig, FileFailurePersistence};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use driver_api::{ByteSize, Span, Value};

use super::{Drain, Recovery, Store, StoreError};
use crate::clock::Clock;
use crate::config::model;
use crate::message::{BootMs, LossRecord, PointKey, Reading, Record, WallMs};

/// 2026-11-22, about.
pub const NOW: i64 = 1_795_000_000_000;

/// A clock in the test's hands.
#[derive(Debug)]
pub struct TestClock {
    pub boot: AtomicU64,
    pub offset: AtomicI64,
    pub synced: AtomicBool,
    pub witnessed: AtomicBool,
    pub id: String,
}

impl TestClock {
    pub fn new(id: &str) -> Arc<Self> {
        Arc::new(Self {
            boot: AtomicU64::new(1000),
            offset: AtomicI64::new(NOW),
            synced: AtomicBool::new(true),
            witnessed: AtomicBool::new(true),
            id: id.to_owned(),
        })
    }
}

impl Clock for TestClock {
    fn boot(&self) -> BootMs {
        BootMs(self.boot.load(Ordering::SeqCst))
    }
    fn wall(&self) -> WallMs {
        WallMs(self.boot.load(Ordering::SeqCst).cast_signed() + self.offset.load(Ordering::SeqCst))
    }
    fn synced(&self) -> bool {
        self.synced.load(Ordering::SeqCst)
    }
    fn witnessed(&self) -> bool {
        self.witnessed.load(Ordering::SeqCst)
    }
    fn boot_id(&self) -> &str {
        &self.id
    }
}

pub fn config(dir: &Path) -> model::Store {
    model::Store {
        path: dir.to_owned(),
        max_size: ByteSize::mib(64),
        max_age: Span::s(86_400),
        min_free: ByteSize(0),
        history: Span::ms(0),
        commit_interval: Span::ms(5),
        thin: None,
    }
}

pub fn uplinks(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

/// Opens with one uplink, `cloud`, in the boot `boot`.
pub fn open(dir: &Path, boot: &str) -> (Store, Recovery) {
    opened(&config(dir), &uplinks(&["cloud"]), TestClock::new(boot))
}

/// Opens, again if the directory is in use: a test beside this one that starts a process gives it, for the moment
/// between fork and exec, the descriptors of this whole process, locks included.
pub fn opened(config: &model::Store, uplinks: &[String], clock: Arc<TestClock>) -> (Store, Recovery) {
    for _ in 0..1000 {
        match Store::open(config, uplinks, clock.clone()) {
            Err(StoreError::InUse(_)) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.expect("opens"),
        }
    }
    panic!("in use for 10 s");
}

pub fn key(n: usize) -> Arc<PointKey> {
    Arc::new(PointKey { device: "meter".into(), point: format!("p{n}"), unit: "V".into() })
}

/// Readings whose values are the numbers of `range`.
pub fn readings(range: std::ops::Range<u64>) -> Vec<Reading> {
    range.map(|n| Reading::good(key((n % 7) as usize), BootMs(n), Value::Int(n.cast_signed()))).collect()
}

/// Waits for a condition; fails after 20 s.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..4000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} did not come about");
}

/// Everything that is pending, read in pieces of `max`.
pub async fn read_all(drain: &dyn Drain, max: usize) -> Vec<Record> {
    let mut records = Vec::new();
    for range in drain.pending() {
        let mut at = range.start;
        while at < range.end {
            let chunk = drain.read(at..range.end, max).await.expect("reads");
            assert!(chunk.next > at || chunk.next >= range.end, "it goes on");
            records.extend(chunk.records);
            at = chunk.next;
        }
    }
    records
}

pub fn balanced(drain: &dyn Drain) -> super::Ledger {
    let ledger = drain.ledger();
    assert_eq!(ledger.taken, ledger.delivered + ledger.queued + ledger.lost, "{ledger:?}");
    ledger
}

pub async fn losses(drain: &dyn Drain) -> Vec<LossRecord> {
    drain.losses(1000).await.expect("reads").into_iter().map(|(_, record)| record).collect()
}

pub fn seqs(records: &[Record]) -> Vec<u64> {
    records.iter().map(|r| r.id.seq).collect()
}

/// The same configuration with its seeds of past failures in `.proptest-regressions/`, where they are committed.
pub fn seeded(config: ProptestConfig) -> ProptestConfig {
    let seeds = FileFailurePersistence::SourceParallel(".proptest-regressions");
    ProptestConfig { failure_persistence: Some(Box::new(seeds)), ..config }
}
