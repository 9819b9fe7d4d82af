//! What a client is sent: messages as its window takes them, and answers when what they promise is durable.
//!
//! Nothing here waits: what has to wait for the disk stands in line, and goes out when the journal has come to its group.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use bytes::BytesMut;
use tokio::sync::{oneshot, watch};
use tokio::time::{Duration, Instant, sleep};

use super::connection::Connection;
use super::journal::{Durable, Journal};
use super::outlet::{GRAIN, OUT_DELIVER};
use super::queue::{Addressed, Item, SHARE, Walk};
use super::retained::Portion;
use super::session::UNTOLD;
use super::state::Event;
use super::stats::Counters;
use super::traffic::{Tally, Way};
use super::wire::encode::{self, Delivery, Reply};
use super::wire::{Version, reason};
use crate::message::Standing;

/// So often is looked whether there is a place.
const LOOK: Duration = Duration::from_millis(100);

/// Whether there is one for a message.
enum Place {
    There,
    Later,
    Nowhere,
}

/// An answer that waits for the disk.
#[derive(Debug)]
pub(super) enum Owed {
    /// PUBREC, PUBREL or PUBCOMP: packet id and reason.
    Reply(Reply, u16, u8),
    /// SUBACK.
    SubAck(u16, Vec<u8>),
    /// UNSUBACK.
    UnsubAck(u16, Vec<u8>),
}

/// What a connection needs to wait for the disk.
#[derive(Debug)]
pub(super) struct Disk {
    journal: Journal,
    durable: watch::Receiver<Durable>,
    /// Answers, each with the group it waits for, in the order in which they are said.
    waiting: VecDeque<(u64, Owed)>,
    /// SUBACKs among them: what a subscription brings goes out behind it.
    subacks: usize,
    /// The group that has all that earlier connections of the session noted.
    fence: u64,
}

impl Disk {
    /// For a connection that begins with a session that is kept (`kept`) and has something unfinished.
    pub fn new(journal: &Journal, kept: bool) -> Self {
        let fence = if kept { journal.fence() } else { 0 };
        Self {
            journal: journal.clone(),
            durable: journal.durable(),
            waiting: VecDeque::new(),
            subacks: 0,
            fence,
        }
    }
}

impl Connection {
    /// What earlier connections left untold of packet ids is told after all they noted.
    pub(super) fn take_over(&mut self) {
        let Some(disk) = &self.disk else { return };
        self.session
            .taken
            .values_mut()
            .filter(|group| **group == UNTOLD)
            .for_each(|group| *group = disk.fence);
    }

    /// PUBRELs that earlier connections left open wait for no place in the window (MQTT-4.9.0-3), only for what was noted then.
    pub(super) fn release(&mut self) {
        let fence = self.disk.as_ref().map_or(0, |disk| disk.fence);
        let open = self.session.flight.resend().filter(|s| s.message.is_none());
        let ids: Vec<u16> = open.map(|s| s.id).collect();
        for id in ids {
            self.owe(fence, Owed::Reply(Reply::Rel, id, reason::SUCCESS));
        }
    }

    /// The group that has all that was noted until now.
    pub(super) fn fence(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.journal.fence())
    }

    /// Whether what was noted in this group is durable, or nobody can wait for that.
    fn passed(&self, group: u64) -> bool {
        match &self.disk {
            Some(disk) if group > 0 => {
                let durable = *disk.durable.borrow();
                if durable.is_excused(group) {
                    Counters::add(&self.shared.counters.unkept, 1);
                }
                durable.has(group)
            }
            _ => true,
        }
    }

    /// So much waits for the disk that this client, whose messages are among it, may not send more.
    pub(super) fn is_too_much(&self) -> bool {
        !self.answers.is_empty() && self.disk.as_ref().is_some_and(|disk| disk.journal.is_full())
    }

    /// Notes what happened to an entry of a session that is kept; the group.
    fn note(&self, urgent: bool, seq: u64, what: fn(&mut super::journal::Pending, u64, u64)) -> u64 {
        match &self.disk {
            Some(disk) if seq > 0 && self.session.kept => {
                disk.journal.note(urgent, |pending| what(pending, self.session.key, seq)).0
            }
            _ => 0,
        }
    }

    /// The client has said something of the message with this id: it may have done so before that was sent again, which then it
    /// need not be, and counts as sent.
    pub(super) fn answered(&mut self, id: u16) {
        let is_open = matches!(self.session.flight.get(id), Some(Some(_)));
        if !is_open && !self.again.is_empty() {
            self.again.retain(|again| *again != id);
        }
    }

    /// What is at this place is over.
    pub(super) fn over(&self, seq: u64) {
        self.note(false, seq, super::journal::Pending::remove);
    }

    /// The client has what is at this place: PUBREL goes out when that is durable, for after it the client forgets.
    pub(super) fn released(&mut self, seq: u64, id: u16, code: u8) {
        let group = self.note(true, seq, super::journal::Pending::released);
        self.owe(group, Owed::Reply(Reply::Rel, id, code));
    }

    /// The client has released a packet id: PUBCOMP goes out when it is durably free, for after it the client may use it
    /// for another message, which must not be taken for a repeat.
    pub(super) fn freed(&mut self, id: u16, known: bool, code: u8) {
        let group = match &self.disk {
            Some(disk) if self.session.kept && !known => disk.journal.fence(),
            _ => self.noted(id, Standing::Free),
        };
        self.owe(group, Owed::Reply(Reply::Comp, id, code));
    }

    /// Notes how a packet id of the client stands; the group.
    pub(super) fn noted(&self, id: u16, standing: Standing) -> u64 {
        match &self.disk {
            Some(disk) if self.session.kept => {
                disk.journal.note(true, |pending| pending.id(self.session.key, id, standing)).0
            }
            _ => 0,
        }
    }

    /// Says this when its group is durable: now, if it is.
    pub(super) fn owe(&mut self, group: u64, owed: Owed) {
        let first = self.disk.as_ref().is_none_or(|disk| disk.waiting.is_empty());
        if first && self.passed(group) {
            return self.say(owed);
        }
        if let Some(disk) = &mut self.disk {
            disk.subacks += usize::from(matches!(owed, Owed::SubAck(..)));
            disk.waiting.push_back((group, owed));
        }
    }

    /// An answer to SUBSCRIBE or UNSUBSCRIBE that is larger than the client takes is the end (MQTT-3.1.2-24).
    fn say(&mut self, owed: Owed) {
        let start = self.out.bytes.len();
        match owed {
            Owed::Reply(reply, id, code) => return self.reply(reply, id, code),
            Owed::SubAck(id, codes) => encode::suback(&mut self.out.bytes, self.version, id, &codes),
            Owed::UnsubAck(id, codes) => encode::unsuback(&mut self.out.bytes, self.version, id, &codes),
        }
        if self.out.bytes.len() - start > self.maximum_packet {
            self.out.bytes.truncate(start);
            self.overlong = true;
            return;
        }
        self.tally.packet(Way::Out);
    }

    /// Says what need not wait any more. Messages are acknowledged in the order they came (MQTT-4.6.0-2).
    pub(super) fn settle(&mut self) {
        while let Some((id, Some((qos, code, group)))) = self.answers.front().copied()
            && self.passed(group)
        {
            self.answers.pop_front();
            self.acknowledge(id, qos, code);
        }
        while let Some(group) =
            self.disk.as_ref().and_then(|disk| disk.waiting.front()).map(|(group, _)| *group)
            && self.passed(group)
            && let Some(disk) = &mut self.disk
            && let Some((_, owed)) = disk.waiting.pop_front()
        {
            disk.subacks -= usize::from(matches!(owed, Owed::SubAck(..)));
            self.say(owed);
        }
    }

    fn acknowledge(&mut self, id: u16, qos: u8, code: u8) {
        self.unstored.remove(&id);
        self.owed = self.owed.saturating_sub(1);
        if qos == 1 {
            self.open.remove(&(1, id));
            self.reply(Reply::Ack, id, code);
        } else if self.due.remove(&id) {
            self.reply(Reply::Rec, id, code);
        }
    }

    /// Whether something stands in line for the disk.
    pub(super) fn waits_for_disk(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| {
            !disk.waiting.is_empty()
                || self.answers.front().is_some_and(|(_, answer)| answer.is_some())
                || self.session.portion.front().is_some_and(|a| !disk.durable.borrow().has(a.after))
        })
    }

    /// More may be delivered: the client reads, has not all it takes at once, and if what waits for all clients is over
    /// its limit, nothing of this one waits here.
    pub(super) fn may_send(&self) -> bool {
        let (out, limits) = (self.out.bytes.len(), &self.shared.limits);
        out < OUT_DELIVER
            && self.session.flight.len() - self.again.len() < self.window
            && (out < GRAIN || self.shared.held.load(Relaxed) < limits.queue_bytes_total)
            && self.disk.as_ref().is_none_or(|disk| disk.subacks == 0)
    }

    /// As `may_send`, and nothing else comes before what is queued.
    pub(super) fn may_take(&self) -> bool {
        self.session.walk.is_none()
            && self.session.portion.is_empty()
            && self.asked.is_none()
            && self.again.is_empty()
            && self.may_send()
    }

    /// Sends what may be sent now. `false`: the hub is gone.
    pub(super) async fn deliver(&mut self) -> bool {
        while self.may_send() {
            if let Some(id) = self.again.pop_front() {
                self.send_again(id);
            } else if let Some(addressed) = self.session.portion.pop_front() {
                if !self.may_go(&addressed) {
                    self.session.portion.push_front(addressed);
                    break;
                }
                match self.has_place(&addressed) {
                    Place::There => self.send(addressed),
                    Place::Later => {
                        self.session.portion.push_front(addressed);
                        break;
                    }
                    Place::Nowhere => {
                        self.over(addressed.seq);
                        Counters::add(&self.shared.counters.dropped, 1);
                    }
                }
            } else if self.asked.is_some() {
                break;
            } else if let Some(walk) = self.session.walk.take() {
                let (reply, portion) = oneshot::channel();
                let event = Event::More(self.session.key, walk.clone(), reply);
                self.asked = Some((walk, portion));
                if Box::pin(self.shared.events.send(event)).await.is_err() {
                    return false;
                }
            } else {
                match self.session.queue.try_recv() {
                    Some(item) => self.take(item),
                    None => break,
                }
            }
        }
        self.session.settle();
        true
    }

    /// A message with QoS 2 goes out when it is durable: sent again by its publisher after a crash it would be another. And
    /// under its own packet id.
    fn may_go(&self, a: &Addressed) -> bool {
        a.qos < 2 || (self.passed(a.after) && self.session.flight.may_send(a))
    }

    /// A walk is small in the queue, and what it finds may not be: large messages of it wait until those who do not read hold less, or
    /// have gone. For so long as one of those may take nothing; after that it is as if it had found no room in the queue.
    fn has_place(&mut self, a: &Addressed) -> Place {
        let (size, limits) = (a.message.size(), &self.shared.limits);
        if !a.retain || size <= SHARE || self.shared.held.load(Relaxed) + size <= limits.queue_bytes_total {
            self.crowded = None;
            return Place::There;
        }
        let now = Instant::now();
        let since = self.crowded.as_ref().map_or(now, |(since, _)| *since);
        if now.saturating_duration_since(since) > limits.write_deadline {
            self.crowded = None;
            return Place::Nowhere;
        }
        self.crowded = Some((since, Some(Box::pin(sleep(LOOK)))));
        Place::Later
    }

    pub(super) fn take(&mut self, item: Item) {
        if self.out.bytes.capacity() == 0 {
            // At once what will likely go out together: growing is copying.
            self.out.bytes.reserve(self.session.queue.bytes().min(OUT_DELIVER));
        }
        match item {
            Item::Message(addressed) if self.may_go(&addressed) => self.send(addressed),
            Item::Message(addressed) => self.session.portion.push_back(addressed),
            Item::Retained(walk) => self.session.walk = Some(*walk),
        }
    }

    pub(super) fn received(&mut self, walk: Walk, portion: Portion) {
        let ids: Option<Box<[u32]>> = walk.id.map(|id| [id].into());
        let (first, after) = (portion.first, portion.after);
        let messages = (first..).zip(portion.messages).map(|(place, message)| {
            let qos = message.qos.min(walk.qos);
            let seq = if qos > 0 && first > 0 { place } else { 0 };
            Addressed { seq, after, ..Addressed::new(message, qos, true, ids.clone()) }
        });
        self.session.portion.extend(messages);
        self.session.walk = portion.next.map(|cursor| Walk { cursor, ..walk });
    }

    fn send(&mut self, addressed: Addressed) {
        let (seq, dup) = (addressed.seq, addressed.dup);
        let now = self.moment(&addressed);
        if addressed.message.is_expired(now) {
            self.over(seq);
            return Counters::add(&self.shared.counters.expired, 1);
        }
        if addressed.qos == 0 {
            if !self.to().put(&addressed, 0, dup, now) {
                Counters::add(&self.shared.counters.dropped, 1);
            }
            return;
        }
        let Some(id) = self.session.flight.send(addressed) else {
            self.over(seq);
            return Counters::add(&self.shared.counters.dropped, 1);
        };
        let mut to = To {
            out: &mut self.out.bytes,
            tally: &mut self.tally,
            version: self.version,
            maximum: self.maximum_packet,
        };
        if !self.session.flight.get(id).and_then(Option::as_ref).is_some_and(|a| to.put(a, id, dup, now)) {
            self.too_large(seq, id);
        }
    }

    /// Larger than the client takes on this connection: to be treated as delivered (MQTT-3.1.2-25), or its place would be taken for ever.
    fn too_large(&mut self, seq: u64, id: u16) {
        self.session.flight.forget(id);
        self.over(seq);
        Counters::add(&self.shared.counters.dropped, 1);
    }

    fn send_again(&mut self, id: u16) {
        if let Some(Some(addressed)) = self.session.flight.get(id).cloned() {
            let now = self.moment(&addressed);
            if !self.to().put(&addressed, id, true, now) {
                self.too_large(addressed.seq, id);
            }
        }
    }

    /// Now, if it matters for this message: reading a clock for each is not worth it.
    fn moment(&self, a: &Addressed) -> Instant {
        if a.message.expires.is_some() { Instant::now() } else { self.heard }
    }

    fn to(&mut self) -> To<'_> {
        To {
            out: &mut self.out.bytes,
            tally: &mut self.tally,
            version: self.version,
            maximum: self.maximum_packet,
        }
    }
}

/// Where messages of one connection are written.
struct To<'a> {
    out: &'a mut BytesMut,
    tally: &'a mut Tally,
    version: Version,
    maximum: usize,
}

impl To<'_> {
    /// `false`: it is larger than the client takes.
    fn put(&mut self, a: &Addressed, id: u16, dup: bool, now: Instant) -> bool {
        let start = self.out.len();
        let ids = a.ids.as_deref().unwrap_or(&[]);
        let delivery = Delivery { id, qos: a.qos, dup, retain: a.retain, subscription_ids: ids };
        encode::publish(self.out, self.version, &a.message, &delivery, now);
        let fits = self.out.len() - start <= self.maximum;
        if fits {
            self.tally.packet(Way::Out);
            self.tally.publish(Way::Out, a.message.payload.len());
        } else {
            self.out.truncate(start);
        }
        fits
    }
}

/// The disk has come further.
pub(super) async fn moved(disk: &mut Option<Disk>) {
    let Some(disk) = disk else { return std::future::pending().await };
    if disk.durable.changed().await.is_err() {
        std::future::pending().await
    }
}

/// The next portion of a walk, when it is there.
pub(super) async fn answer(asked: &mut Option<(Walk, oneshot::Receiver<Portion>)>) -> Option<Portion> {
    match asked {
        Some((_, portion)) => portion.await.ok(),
        None => std::future::pending().await,
    }
}
