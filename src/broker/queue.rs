//! The bounded queue between the hub and one subscriber: by number, by bytes, and by the bytes of all.
//!
//! The hub never waits: a message that does not fit is dropped for this subscriber and counted. QoS 0
//! is given up at three quarters of the number, so that a flood of it leaves room for what was promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Notify, mpsc};

use super::limits::Limits;
use super::message::Publish;
use super::retained::Cursor;
use crate::bounds;

/// What a subscriber gets.
#[derive(Debug, Clone)]
pub enum Item {
    /// A message.
    Message(Addressed),
    /// A walk over the retained messages, to be done before what follows.
    Retained(Walk),
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
    dropped: AtomicU64,
    lagged: Notify,
}

/// The hub's end.
#[derive(Debug)]
pub struct Sender {
    tx: mpsc::Sender<Item>,
    gauge: Arc<Gauge>,
    total: Arc<AtomicUsize>,
    max_items: usize,
    max_bytes: usize,
    max_total: usize,
}

/// The subscriber's end.
#[derive(Debug)]
pub struct Receiver {
    rx: mpsc::Receiver<Item>,
    gauge: Arc<Gauge>,
    total: Arc<AtomicUsize>,
}

/// A new queue. `total` counts the bytes in all queues of a broker.
#[must_use]
pub fn new(limits: &Limits, total: &Arc<AtomicUsize>) -> (Sender, Receiver) {
    let (tx, rx) = mpsc::channel(bounds::BROKER_QUEUE);
    let max_items = limits.queue.min(bounds::BROKER_QUEUE);
    let gauge = Arc::new(Gauge::default());
    let (max_bytes, max_total) = (limits.queue_bytes, limits.queue_bytes_total);
    (
        Sender { tx, gauge: gauge.clone(), total: total.clone(), max_items, max_bytes, max_total },
        Receiver { rx, gauge, total: total.clone() },
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
        let scarce = self.room() <= self.max_items / 4;
        let full = self.room() == 0
            || self.gauge.bytes.load(Relaxed) + bytes > self.max_bytes
            || self.total.load(Relaxed) + bytes > self.max_total;
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

    /// Something found no room.
    pub fn lost(&self) -> bool {
        self.gauge.dropped.fetch_add(1, Relaxed);
        self.gauge.lagged.notify_one();
        false
    }

    /// Items that wait, and their bytes.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        (self.tx.max_capacity() - self.tx.capacity(), self.gauge.bytes.load(Relaxed))
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
    /// The next item; `None`: the broker has stopped. Cancel safe.
    pub async fn recv(&mut self) -> Option<Item> {
        let item = self.rx.recv().await;
        self.taken(item)
    }

    /// The next item, if one is there.
    pub fn try_recv(&mut self) -> Option<Item> {
        let item = self.rx.try_recv().ok();
        self.taken(item)
    }

    fn taken(&self, item: Option<Item>) -> Option<Item> {
        if let Some(item) = &item {
            self.gauge.bytes.fetch_sub(item.bytes(), Relaxed);
            self.total.fetch_sub(item.bytes(), Relaxed);
        }
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
        let limits = Limits { queue: 8, queue_bytes: 4000, queue_bytes_total: 6000, ..Limits::default() };
        let total = Arc::new(AtomicUsize::new(0));
        let (tx, mut rx) = new(&limits, &total);
        assert_eq!((0..8).filter(|_| tx.offer(item(0, 1))).count(), 6);
        assert_eq!((0..8).filter(|_| tx.offer(item(1, 1))).count(), 2);
        for _ in 0..8 {
            assert!(rx.recv_or_lagged().await.is_ok());
        }
        assert_eq!(rx.recv_or_lagged().await.err(), Some(Lagged), "said once the queue is empty");
        assert_eq!(total.load(Relaxed), 0);
        assert!(tx.offer(item(1, 3000)) && !tx.offer(item(1, 3000)));
        let (other, rest) = new(&limits, &total);
        assert!(other.offer(item(1, 2000)) && !other.offer(item(1, 2000)), "over the total");
        drop((rx, rest));
        assert_eq!(total.load(Relaxed), 0, "what a dropped queue held is given back");
    }
}
