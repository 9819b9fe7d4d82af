//! A log in memory that keeps an account of what an uplink does with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use driver_api::{Quality, Value};
use fieldgate::message::{
    CorrectionRecord, Epoch, Forwarded, ForwardedRecord, Id, LossReason, LossRecord, PointKey, Record, WallMs,
};
use fieldgate::store::{Chunk, Drain, DrainError, Exchange, Ledger, Session, Step};
use tokio::sync::watch;

/// The epoch of the numbers below `EPOCH_CHANGE`, and the one of those from there on.
pub const EPOCHS: [Epoch; 2] =
    [Epoch { start: 1, random: 0xaaaa_0001 }, Epoch { start: 2, random: 0xbbbb_0002 }];
pub const EPOCH_CHANGE: u64 = 1_000_000;

#[derive(Default)]
struct Inner {
    records: BTreeMap<u64, Record>,
    /// Messages of other devices: under these numbers of `records`, instead of the readings.
    messages: BTreeMap<u64, ForwardedRecord>,
    expired: BTreeSet<u64>,
    delivered: BTreeSet<u64>,
    rejected: BTreeSet<u64>,
    losses: Vec<(u64, LossRecord)>,
    corrections: Vec<(u64, CorrectionRecord)>,
    told: Vec<u64>,
    unplaced: Option<u64>,
    failing_reads: u32,
    session: Session,
    /// What was noted, in order.
    steps: Vec<Step>,
    /// The disk is out of order: nothing can be noted.
    broken: bool,
}

pub struct MemoryDrain {
    inner: Mutex<Inner>,
    head: watch::Sender<u64>,
}

/// The record under a number: three points in turn, the value is the number.
pub fn record(seq: u64) -> Record {
    let point = PointKey { device: "meter".into(), point: format!("p{}", seq % 3), unit: "V".into() };
    Record {
        id: Id { epoch: EPOCHS[usize::from(seq >= EPOCH_CHANGE)], seq },
        ts: WallMs(1_795_357_800_000 + i64::try_from(seq).expect("small")),
        point: Arc::new(point),
        value: Some(Value::UInt(seq)),
        quality: Quality::Good,
    }
}

impl MemoryDrain {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { inner: Mutex::new(Inner::default()), head: watch::Sender::new(1) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics while it holds this")
    }

    /// Commits the numbers of `range`.
    pub fn commit(&self, range: Range<u64>) {
        self.commit_records(range.map(record).collect());
    }

    /// Commits these, which are numbered already.
    pub fn commit_records(&self, records: Vec<Record>) {
        let end = records.last().map_or(1, |r| r.id.seq + 1);
        self.lock().records.extend(records.into_iter().map(|r| (r.id.seq, r)));
        self.head.send_modify(|head| *head = end.max(*head));
    }

    pub fn commit_text(&self, seq: u64, len: usize) {
        let mut big = record(seq);
        big.value = Some(Value::Text("x".repeat(len).into()));
        self.lock().records.insert(seq, big);
        self.head.send_modify(|head| *head = (seq + 1).max(*head));
    }

    /// Commits a message of another device that was taken then.
    pub fn commit_message(&self, seq: u64, ts: WallMs, message: Forwarded) {
        let message = ForwardedRecord { id: record(seq).id, ts, message: Arc::new(message) };
        let mut inner = self.lock();
        inner.records.insert(seq, record(seq));
        inner.messages.insert(seq, message);
        drop(inner);
        self.head.send_modify(|head| *head = (seq + 1).max(*head));
    }

    /// Numbers that were given up because they had expired.
    pub fn expired(&self) -> Vec<u64> {
        self.lock().expired.iter().copied().collect()
    }

    pub fn commit_named(&self, seq: u64, point: &str) {
        let mut odd = record(seq);
        odd.point = Arc::new(PointKey { device: "meter".into(), point: point.into(), unit: String::new() });
        self.lock().records.insert(seq, odd);
        self.head.send_modify(|head| *head = (seq + 1).max(*head));
    }

    pub fn declare(&self, handle: u64, record: LossRecord) {
        self.lock().losses.push((handle, record));
    }

    pub fn correct(&self, handle: u64, record: CorrectionRecord) {
        self.lock().corrections.push((handle, record));
    }

    /// The clock is not set, and numbers from here on are of this boot; `None`: it is.
    pub fn wait_from(&self, first: Option<u64>) {
        self.lock().unplaced = first;
    }

    pub fn fail_reads(&self, times: u32) {
        self.lock().failing_reads = times;
    }

    /// Whether the disk is out of order, so that nothing can be noted.
    pub fn set_broken(&self, broken: bool) {
        self.lock().broken = broken;
    }

    /// As after a restart: what of the session was durable.
    pub fn noted(&self) -> Session {
        self.lock().session.clone()
    }

    pub fn steps(&self) -> Vec<Step> {
        self.lock().steps.clone()
    }

    /// A limit takes these away.
    pub fn drop_records(&self, range: Range<u64>) {
        let mut inner = self.lock();
        for seq in range {
            inner.records.remove(&seq);
        }
    }

    pub fn delivered(&self) -> Vec<u64> {
        self.lock().delivered.iter().copied().collect()
    }

    pub fn rejected(&self) -> Vec<u64> {
        self.lock().rejected.iter().copied().collect()
    }

    pub fn told(&self) -> Vec<u64> {
        self.lock().told.clone()
    }

    pub fn queued(&self) -> usize {
        let inner = self.lock();
        inner.records.len() - inner.delivered.len() - inner.rejected.len()
    }
}

#[async_trait]
impl Drain for MemoryDrain {
    fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    fn pending(&self) -> Vec<Range<u64>> {
        let inner = self.lock();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for seq in inner.records.keys() {
            if inner.delivered.contains(seq) || inner.rejected.contains(seq) {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.end == *seq => last.end = seq + 1,
                _ => ranges.push(*seq..seq + 1),
            }
        }
        ranges
    }

    async fn read(&self, range: Range<u64>, max: usize) -> Result<Chunk, DrainError> {
        tokio::task::yield_now().await;
        let mut inner = self.lock();
        if inner.failing_reads > 0 {
            inner.failing_reads -= 1;
            return Err(DrainError("disk trouble".into()));
        }
        let found = inner.records.range(range.clone()).map(|(_, r)| r.clone());
        let mut records: Vec<Record> = found.take(max + 1).collect();
        let next = records.get(max).map_or(range.end, |r| r.id.seq);
        records.truncate(max);
        let messages = records.iter().filter_map(|r| inner.messages.get(&r.id.seq).cloned()).collect();
        records.retain(|r| !inner.messages.contains_key(&r.id.seq));
        Ok(Chunk { records, messages, next })
    }

    fn delivered(&self, range: Range<u64>) {
        let mut inner = self.lock();
        for seq in range {
            assert!(inner.records.contains_key(&seq), "{seq} was never committed");
            assert!(inner.delivered.insert(seq), "{seq} was delivered twice");
        }
    }

    fn reject(&self, ranges: &[Range<u64>], reason: LossReason) {
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?} are not ascending");
        let mut inner = self.lock();
        let numbers = || ranges.iter().cloned().flatten();
        match reason {
            LossReason::Expired => inner.expired.extend(numbers()),
            other => assert_eq!(other, LossReason::Rejected),
        }
        inner.rejected.extend(numbers());
    }

    async fn losses(&self, max: usize) -> Result<Vec<(u64, LossRecord)>, DrainError> {
        Ok(self.lock().losses.iter().take(max).cloned().collect())
    }

    fn loss_delivered(&self, handle: u64) {
        let mut inner = self.lock();
        inner.losses.retain(|(h, _)| *h != handle);
        inner.told.push(handle);
    }

    fn unplaced(&self) -> Option<u64> {
        let inner = self.lock();
        inner.unplaced.filter(|first| inner.records.keys().next_back().is_some_and(|last| last >= first))
    }

    async fn corrections(&self, max: usize) -> Result<Vec<(u64, CorrectionRecord)>, DrainError> {
        Ok(self.lock().corrections.iter().take(max).cloned().collect())
    }

    fn correction_delivered(&self, handle: u64) {
        let mut inner = self.lock();
        inner.corrections.retain(|(h, _)| *h != handle);
        inner.told.push(handle);
    }

    fn session(&self) -> Option<Session> {
        let inner = self.lock();
        (!inner.broken).then(|| inner.session.clone())
    }

    async fn note(&self, step: Step) -> Result<(), DrainError> {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        let mut inner = self.lock();
        if inner.broken {
            return Err(DrainError("disk trouble".into()));
        }
        if let Some(key) = &step.begin {
            inner.session = Session { key: key.clone(), open: Vec::new() };
        }
        for sent in &step.sent {
            assert!(inner.session.open.iter().all(|open| open.id != sent.id), "{sent:?}: its id is taken");
            assert!(sent.range.clone().all(|seq| inner.records.contains_key(&seq)), "{sent:?}: is not there");
        }
        inner.session.open.extend(step.sent.iter().cloned());
        for open in &mut inner.session.open {
            if step.withdrawn.contains(&open.id) {
                (open.range.end, open.received) = (open.range.start, true);
            }
            open.received |= step.received.contains(&open.id);
        }
        inner.steps.push(step);
        Ok(())
    }

    fn exchange_over(&self, id: u16, delivered: Option<Range<u64>>) {
        if let Some(range) = delivered {
            Drain::delivered(self, range);
        }
        self.lock().session.open.retain(|open| open.id != id);
    }

    fn end_session(&self) -> Vec<Exchange> {
        std::mem::take(&mut self.lock().session).open
    }

    fn ledger(&self) -> Ledger {
        let inner = self.lock();
        Ledger {
            taken: inner.records.len() as u64,
            delivered: inner.delivered.len() as u64,
            lost: inner.rejected.len() as u64,
            queued: (inner.records.len() - inner.delivered.len() - inner.rejected.len()) as u64,
            ..Ledger::default()
        }
    }
}
