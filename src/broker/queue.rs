//! The bounded queue between the hub and one subscriber: by number, by bytes, and by the bytes of all.
//!
//! The hub never waits: a message that does not fit is dropped for this subscriber and counted. QoS 0
//! is given up at three quarters of the number, so that a flood of it leaves room for what was promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

use super::limits::Limits;
use super::message::Publish;
use super::pipe;
use super::retained::Cursor;
use crate::bounds;

/// Bytes that may wait for one session even when too many wait for all: those who read must not suffer from those who do not.
pub const SHARE: usize = 16 * 1024;

/// What a subscriber gets.
#[derive(Debug, Clone)]
pub enum Item {
    /// A message.
    Message(Addressed),
    /// A walk over the retained messages, to be done before what follows. (In a box: messages are many, and walks are few.)
    Retained(Box<Walk>),
}

/// A message and how this subscriber gets it.
#[derive(Debug, Clone)]
pub struct Addressed {
    /// The message, shared by all its subscribers.
    pub message: Arc<Publish>,
    /// The lesser of publisher's and subscription's.
    pub qos: u8,
    /// Retain flag on delivery.
    pub retain: bool,
    /// Identifiers of the subscriptions that matched.
    pub ids: Option<Box<[u32]>>,
    /// Its place in a session that is kept; 0: it is not kept. See `journal`.
    pub seq: u64,
    /// The group in which it is kept.
    pub after: u64,
    /// It may have been sent before a restart.
    pub dup: bool,
}

impl Addressed {
    /// One that is not kept.
    #[must_use]
    pub fn new(message: Arc<Publish>, qos: u8, retain: bool, ids: Option<Box<[u32]>>) -> Self {
        Self { message, qos, retain, ids, seq: 0, after: 0, dup: false }
    }
}

/// A walk over the retained messages for one new subscription.
#[derive(Debug, Clone)]
pub struct Walk {
    /// Where it stands.
    pub cursor: Cursor,
    /// Most the subscription wants.
    pub qos: u8,
    /// The subscription's identifier.
    pub id: Option<u32>,
    /// Its place in a session that is kept; 0: it is not kept.
    pub seq: u64,
}

#[derive(Debug, Default)]
struct Gauge {
    bytes: AtomicUsize,
    /// Bytes that left the queue and are not acknowledged.
    flight: AtomicUsize,
    dropped: AtomicU64,
    lagged: Notify,
}

/// The hub's end.
#[derive(Debug)]
pub struct Sender {
    tx: pipe::Sender<Item>,
    gauge: Arc<Gauge>,
    total: Arc<AtomicUsize>,
    max_items: usize,
    max_bytes: usize,
    max_total: usize,
}

/// The subscriber's end.
#[derive(Debug)]
pub struct Receiver {
    rx: pipe::Receiver<Item>,
    gauge: Arc<Gauge>,
    total: Arc<AtomicUsize>,
    /// Bytes of what was taken out and not yet counted as gone.
    gone: usize,
}

/// A new queue. `total` counts the bytes in all queues of a broker.
#[must_use]
pub fn new(limits: &Limits, total: &Arc<AtomicUsize>) -> (Sender, Receiver) {
    let (tx, rx) = pipe::channel(bounds::BROKER_QUEUE);
    let max_items = limits.queue.min(bounds::BROKER_QUEUE);
    let gauge = Arc::new(Gauge::default());
    let (max_bytes, max_total) = (limits.queue_bytes, limits.queue_bytes_total);
    (
        Sender { tx, gauge: gauge.clone(), total: total.clone(), max_items, max_bytes, max_total },
        Receiver { rx, gauge, total: total.clone(), gone: 0 },
    )
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            // The entry itself, and its share of the message.
            Self::Message(a) => 64 + a.message.size(),
            Self::Retained(w) => 64 + w.cursor.filter.len(),
        }
    }
}

impl Sender {
    /// Whether there is room for `item`. Who asks is the only one who queues, so it stays true until then.
    #[must_use]
    pub fn fits(&self, item: &Item) -> bool {
        let bytes = item.bytes();
        let optional = matches!(item, Item::Message(a) if a.qos == 0);
        let waiting = self.gauge.bytes.load(Relaxed) + self.gauge.flight.load(Relaxed) + bytes;
        let scarce = self.room() <= self.max_items / 4;
        let full = self.room() == 0 || waiting > self.max_bytes || waiting > self.share();
        !(full || (optional && scarce))
    }

    /// Queues `item`, or says `false`: there is no room, and the item is lost for this subscriber.
    #[must_use]
    pub fn offer(&self, item: Item) -> bool {
        if !self.fits(&item) {
            return self.lost();
        }
        self.put(item)
    }

    /// Queues what waited before a restart: only the number of places limits it, so that nothing that was promised is lost.
    #[must_use]
    pub fn restore(&self, item: Item) -> bool {
        self.put(item)
    }

    fn put(&self, item: Item) -> bool {
        let bytes = item.bytes();
        self.gauge.bytes.fetch_add(bytes, Relaxed);
        self.total.fetch_add(bytes, Relaxed);
        if self.tx.try_send(item).is_ok() {
            return true;
        }
        self.gauge.bytes.fetch_sub(bytes, Relaxed);
        self.total.fetch_sub(bytes, Relaxed);
        self.lost()
    }

    /// How much may wait for this session: a quarter of what is free for all, so that however many take all they can get, the
    /// next one still finds room; and a little always.
    fn share(&self) -> usize {
        SHARE.max(self.max_total.saturating_sub(self.total.load(Relaxed)) / 4)
    }

    /// Something found no room.
    pub fn lost(&self) -> bool {
        self.gauge.dropped.fetch_add(1, Relaxed);
        self.gauge.lagged.notify_one();
        false
    }

    /// Items that wait, and their bytes.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        (self.tx.len(), self.gauge.bytes.load(Relaxed))
    }

    /// Items that found no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.gauge.dropped.load(Relaxed)
    }

    /// How many items still fit.
    fn room(&self) -> usize {
        self.max_items.saturating_sub(self.depth().0)
    }

    /// Whether a message would likely fit.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.room() > self.max_items / 4 && self.gauge.bytes.load(Relaxed) < self.max_bytes
    }

    /// The subscriber is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.tx.is_closed()
    }
}

impl Receiver {
    /// Where this session's messages in flight are counted.
    #[must_use]
    pub fn account(&self) -> Account {
        Account { gauge: self.gauge.clone(), total: self.total.clone() }
    }

    /// The next item; `None`: the broker has stopped. Cancel safe.
    pub async fn recv(&mut self) -> Option<Item> {
        let item = self.rx.recv().await;
        self.taken(item)
    }

    /// The next item, if one is there. It counts as waiting until [`Receiver::settle`], or until there is no more.
    pub fn try_recv(&mut self) -> Option<Item> {
        let item = self.rx.try_recv().ok();
        match &item {
            Some(item) => self.gone += item.bytes(),
            None => self.settle(),
        }
        item
    }

    /// What was taken does not wait any more. One word about many: all sessions count what waits in one place.
    pub fn settle(&mut self) {
        self.rx.settle();
        let gone = std::mem::take(&mut self.gone);
        if gone > 0 {
            self.gauge.bytes.fetch_sub(gone, Relaxed);
            self.total.fetch_sub(gone, Relaxed);
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.gauge.bytes.load(Relaxed)
    }

    fn taken(&mut self, item: Option<Item>) -> Option<Item> {
        self.gone += item.as_ref().map_or(0, Item::bytes);
        self.settle();
        item
    }

    /// The next item, or `Err`: the queue is empty and something was dropped since this was last said.
    /// Cancel safe.
    pub async fn recv_or_lagged(&mut self) -> Result<Option<Item>, Lagged> {
        let item = tokio::select! {
            biased;
            item = self.rx.recv() => item,
            () = self.gauge.lagged.notified() => return Err(Lagged),
        };
        Ok(self.taken(item))
    }
}

/// Where what is in flight is counted.
#[derive(Debug, Clone, Default)]
pub struct Account {
    gauge: Arc<Gauge>,
    total: Arc<AtomicUsize>,
}

impl Account {
    /// So many bytes are in flight where `before` were.
    pub fn change(&self, before: usize, now: usize) {
        for counter in [&self.gauge.flight, &self.total] {
            if now > before {
                counter.fetch_add(now - before, Relaxed);
            } else if now < before {
                counter.fetch_sub(before - now, Relaxed);
            }
        }
    }
}

/// Something was dropped for this subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lagged;

impl Drop for Receiver {
    fn drop(&mut self) {
        self.rx.close();
        while self.try_recv().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(qos: u8, size: usize) -> Item {
        let message = Arc::new(Publish::plain("t", vec![0; size], qos, false));
        Item::Message(Addressed::new(message, qos, false, None))
    }

    #[tokio::test]
    async fn qos_0_leaves_room_and_bytes_are_bounded_for_one_and_for_all() {
        let limits =
            Limits { queue: 8, queue_bytes: 40_000, queue_bytes_total: 400_000, ..Limits::default() };
        let total = Arc::new(AtomicUsize::new(0));
        let (tx, mut rx) = new(&limits, &total);
        assert_eq!((0..8).filter(|_| tx.offer(item(0, 1))).count(), 6);
        assert_eq!((0..8).filter(|_| tx.offer(item(1, 1))).count(), 2);
        for _ in 0..8 {
            assert!(rx.recv_or_lagged().await.is_ok());
        }
        assert_eq!(rx.recv_or_lagged().await.err(), Some(Lagged), "said once the queue is empty");
        assert_eq!(total.load(Relaxed), 0);
        assert!(tx.offer(item(1, 30_000)) && !tx.offer(item(1, 30_000)));
        rx.account().change(0, 9000);
        assert!(!tx.offer(item(1, 3000)), "what is in flight waits, too");
        rx.account().change(9000, 0);
        assert!(tx.offer(item(1, 3000)));
        drop(rx);
        assert_eq!(total.load(Relaxed), 0, "what a dropped queue held is given back");
    }

    #[tokio::test]
    async fn however_many_take_all_they_get_the_next_one_finds_room() {
        let limits = Limits { queue_bytes_total: 10_000_000, ..Limits::default() };
        let total = Arc::new(AtomicUsize::new(0));
        let mut hogs = Vec::new();
        for n in 1..200usize {
            let (tx, rx) = new(&limits, &total);
            let got = (0..).take_while(|_| tx.offer(item(1, 2000))).count() * 2065;
            assert!(got > 12_000, "number {n} got {got}");
            // Those before take what is free again.
            hogs.push((tx, rx));
            hogs.iter().for_each(|(tx, _)| while tx.offer(item(1, 2000)) {});
        }
        assert!(total.load(Relaxed) < 10_000_000 + 200 * SHARE, "{}", total.load(Relaxed));
        drop(hogs);
        assert_eq!(total.load(Relaxed), 0);
    }
}
