//! What is published on some topics, handed to whoever keeps it, and acknowledged only when it is kept.
//!
//! Promises: a message with QoS 1 or 2 on such a topic is handed over, or its publisher waits: its connection is not read
//! while there is no room ([`bounds::FORWARD_KIB`]), and it is acknowledged when the keeper says that it is stored.
//! One with QoS 0, and one of this process, is skipped while there is no room, counted. Local subscribers get every
//! message at once, stored or not. Where no topic is asked for, nothing of this costs anything. What is handed over under a docket the
//! keeper gets when the journal has that (`handing` says why), and what comes after it behind it: a publisher's messages keep their order.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::journal::Durable;
use super::message::Publish;
use super::state::AckTo;
use super::stats::Counters;
use crate::bounds;
use crate::message::{BootMs, Docket, Forwarded};
use crate::topic;

/// Room for messages on their way to the keeper.
#[expect(clippy::cast_possible_truncation, reason = "4096")]
const ALL_KIB: u32 = bounds::FORWARD_KIB as u32;

/// Which topics are asked for.
#[derive(Debug, Clone, Default)]
pub struct Taps {
    /// Those of these filters.
    pub filters: Vec<String>,
    /// But nothing at or below this topic.
    pub except: String,
}

/// The tap, shared by all connections and the hub.
#[derive(Debug)]
pub(super) struct Tap {
    wanted: watch::Sender<Arc<Taps>>,
    room: Arc<Semaphore>,
    to: mpsc::Sender<Tapped>,
    from: Mutex<Option<mpsc::Receiver<Tapped>>>,
    counters: Arc<Counters>,
}

/// A message that was tapped.
#[derive(Debug)]
pub struct Tapped {
    message: Arc<Publish>,
    receipt: Receipt,
}

/// To be given back when the message is stored.
#[derive(Debug)]
pub struct Receipt {
    /// Whom to acknowledge, its QoS, and after which group of the journal.
    pub(super) ack: Option<(AckTo, u8, u64)>,
    docket: Option<Docket>,
    _room: OwnedSemaphorePermit,
}

impl Receipt {
    /// Under what the message is to be stored.
    #[must_use]
    pub fn docket(&self) -> Option<Docket> {
        self.docket
    }
}

/// The keeper's end of the tap.
#[derive(Debug)]
pub struct Keeper {
    from: mpsc::Receiver<Tapped>,
    /// How far the journal is, if there is one.
    durable: Option<watch::Receiver<Durable>>,
    /// What came out of the channel and waits for that.
    held: VecDeque<Tapped>,
}

impl Keeper {
    pub(super) fn new(from: mpsc::Receiver<Tapped>, durable: Option<watch::Receiver<Durable>>) -> Self {
        Self { from, durable, held: VecDeque::new() }
    }

    /// The next messages, at most `most`, and how many they are. 0: there will be none any more. Cancel safe.
    pub async fn recv_many(&mut self, into: &mut Vec<Tapped>, most: usize) -> usize {
        if self.held.is_empty() {
            let mut came = Vec::new();
            self.from.recv_many(&mut came, most).await;
            self.held.extend(came);
        }
        let Some(first) = self.held.front() else { return 0 };
        let group = first.group();
        if let Some(durable) = &mut self.durable
            && durable.wait_for(|durable| durable.has(group)).await.is_err()
        {
            // The journal ended as if killed: what it does not have nobody was told of.
            return 0;
        }
        let through = self.durable.as_ref().map(|durable| *durable.borrow());
        let may = |tapped: &&Tapped| through.is_none_or(|through| through.has(tapped.group()));
        let n = self.held.iter().take(most).take_while(may).count();
        into.extend(self.held.drain(..n));
        n
    }

    /// The next message; see [`Keeper::recv_many`].
    pub async fn recv(&mut self) -> Option<Tapped> {
        let mut one = Vec::with_capacity(1);
        self.recv_many(&mut one, 1).await;
        one.pop()
    }

    /// Whether nothing is there, nor waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.from.is_empty()
    }

    /// Nothing more is taken; what was handed over still comes.
    pub fn close(&mut self) {
        self.from.close();
    }

    /// Whether it was closed, or the broker is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.from.is_closed()
    }
}

impl Tapped {
    /// The group of the journal before which it is not to be stored; 0: none.
    fn group(&self) -> u64 {
        match self.receipt {
            Receipt { docket: Some(_), ack: Some((_, _, group)), .. } => group,
            _ => 0,
        }
    }

    /// What is to be kept, taken at this moment, and what to give back then.
    #[must_use]
    pub fn into_parts(self, at: BootMs) -> (Forwarded, Receipt) {
        let Self { message: m, receipt } = self;
        // A second that has begun counts whole.
        let left =
            |until: Instant| until.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000);
        let message = Forwarded {
            at,
            topic: Arc::clone(&m.topic),
            payload: m.payload.clone(),
            qos: m.qos,
            retain: m.retain,
            props: m.props.clone(),
            expiry: m.expires.map(|until| u32::try_from(left(until)).unwrap_or(u32::MAX)),
            origin: m.origin.clone(),
        };
        (message, receipt)
    }
}

impl Tap {
    pub fn new(counters: Arc<Counters>) -> Self {
        let (to, from) = mpsc::channel(bounds::FORWARD_QUEUE);
        let room = Arc::new(Semaphore::new(bounds::FORWARD_KIB));
        let wanted = watch::Sender::default();
        Self { wanted, room, to, from: Mutex::new(Some(from)), counters }
    }

    /// From now on these.
    pub fn want(&self, taps: Taps) {
        self.wanted.send_replace(Arc::new(taps));
    }

    /// The keeper's end, once.
    pub fn keeper(&self, durable: Option<watch::Receiver<Durable>>) -> Option<Keeper> {
        let from = self.from.lock().unwrap_or_else(PoisonError::into_inner).take();
        from.map(|from| Keeper::new(from, durable))
    }

    /// Whether this message is to be kept. One that is too large for that is counted, and not.
    pub fn wants(&self, message: &Publish) -> bool {
        let wanted = self.wanted.borrow();
        let topic = &*message.topic;
        if !wanted.filters.iter().any(|filter| topic::matches(filter, topic)) {
            return false;
        }
        let own = topic.strip_prefix(&*wanted.except).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        if own || topic.starts_with('$') {
            return false;
        }
        let size = message.size();
        if size > bounds::FORWARD_MESSAGE {
            let most = bounds::FORWARD_MESSAGE;
            let what = format!("a message of {size} bytes is not forwarded; at most {most} go into the log");
            // One picture a second fills a journal: the counter has them all.
            match self.counters.forward_oversize.fetch_add(1, Relaxed) {
                0 => tracing::warn!(topic, "{what}"),
                _ => tracing::debug!(topic, "{what}"),
            }
            return false;
        }
        true
    }

    fn kib(message: &Publish) -> u32 {
        u32::try_from(message.size().div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, ALL_KIB)
    }

    /// Room for this message, if there is some.
    pub fn try_room(&self, message: &Publish) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_many_owned(Self::kib(message)).ok()
    }

    /// Room for this message, when there is some; `None`: never.
    pub async fn room(&self, message: &Publish) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).acquire_many_owned(Self::kib(message)).await.ok()
    }

    /// It is left out, for there is no room.
    pub fn skip(&self) {
        Counters::add(&self.counters.forward_skipped, 1);
    }

    /// Hands over a message. When there is no keeper any more nobody is told that it was taken, of this one and all after it.
    pub fn hand_over(
        &self,
        message: Arc<Publish>,
        ack: Option<(AckTo, u8, u64)>,
        docket: Option<Docket>,
        room: OwnedSemaphorePermit,
    ) {
        let tapped = Tapped { message, receipt: Receipt { ack, docket, _room: room } };
        match self.to.try_send(tapped) {
            Ok(()) => Counters::add(&self.counters.forward_taken, 1),
            // It cannot be full: whatever is in it has room.
            Err(_) => self.skip(),
        }
    }
}
