//! What a client sends, packet by packet: the rules that need the connection's memory.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Duration, Instant};

use super::connection::{Connection, End, Stalled};
use super::handing::Forward;
use super::message::Publish;
use super::outbound::Owed;
use super::session::{BEGUN, UNTOLD};
use super::shared;
use super::state::{Control, Event, Subscribing};
use super::stats::Refusal;
use super::traffic::Way;
use super::wire::encode::{self, Reply};
use super::wire::{Fault, Packet, PublishPacket, Version, Wish, reason};
use crate::message::Standing;
use crate::topic;

/// Packets up to this size are bounded by the number of events; larger ones by their KiB.
const SMALL: usize = 4096;
#[expect(clippy::cast_possible_truncation, reason = "16384")]
const ALL_KIB: u32 = crate::bounds::BROKER_EVENT_KIB as u32;

/// What the hub has no room for, and the KiB that it still needs of those on their way.
pub(super) struct Due {
    event: Event,
    kib: u32,
}

impl Event {
    /// The same with its share of the bytes on their way.
    fn with(self, share: OwnedSemaphorePermit) -> Self {
        match self {
            Self::Publish(message, ack, _) => Self::Publish(message, ack, Some(share)),
            Self::Subscribe(subscribing, _) => Self::Subscribe(subscribing, Some(share)),
            Self::Unsubscribe(ack, filters, _) => Self::Unsubscribe(ack, filters, Some(share)),
            other => other,
        }
    }
}

impl Connection {
    /// Handles one packet of `size` bytes. What the hub has no room for is to be passed on before anything else.
    pub(super) fn handle(&mut self, packet: Packet, size: usize) -> Result<Option<Box<Due>>, End> {
        match packet {
            Packet::Publish(publish) => return self.publish(publish, size),
            Packet::PubAck { id } => {
                let seq = self.session.flight.puback(id);
                self.answered(id);
                self.over(seq);
            }
            Packet::PubRec { id, reason } => {
                let received = self.session.flight.pubrec(id, reason);
                self.answered(id);
                match received {
                    (Some(code), seq) => self.released(seq, id, code),
                    (None, seq) => self.over(seq),
                }
            }
            Packet::PubRel { id } => {
                let known = self.session.taken.remove(&id).is_some();
                self.due.remove(&id);
                self.open.remove(&(2, id));
                let code = if known { reason::SUCCESS } else { reason::PACKET_ID_NOT_FOUND };
                self.freed(id, known, code);
            }
            Packet::PubComp { id } => {
                let seq = self.session.flight.pubcomp(id);
                self.over(seq);
            }
            Packet::Subscribe { id, subscription_id, wishes } => {
                self.not_too_many(wishes.len())?;
                let wishes: Vec<_> = wishes.into_iter().map(|wish| self.judge(wish)).collect();
                if self.version == Version::V3 && wishes.iter().any(|w| w == &Err(reason::FILTER_INVALID)) {
                    // There is no code for it in MQTT 3.1.
                    return Err(Fault { reason: reason::FILTER_INVALID, what: "not a topic filter" }.into());
                }
                let ack = self.ack_to(id);
                let subscribing = Subscribing { ack, subscription_id, wishes };
                return self.offer(Event::Subscribe(Box::new(subscribing), None), size, true);
            }
            Packet::Unsubscribe { id, filters } => {
                self.not_too_many(filters.len())?;
                return self.offer(Event::Unsubscribe(self.ack_to(id), filters, None), size, true);
            }
            Packet::PingReq => {
                encode::pingresp(&mut self.out.bytes);
                self.tally.packet(Way::Out);
            }
            Packet::Disconnect { reason, session_expiry } => return Err(self.goodbye(reason, session_expiry)),
        }
        Ok(None)
    }

    fn goodbye(&mut self, code: u8, session_expiry: Option<u32>) -> End {
        match session_expiry {
            // A session that ends with the connection cannot be kept after all (MQTT-3.1.2-23).
            Some(seconds) if seconds > 0 && self.session_expiry == 0 => {
                End::Fault(Fault::protocol("session expiry set in DISCONNECT, but not in CONNECT"))
            }
            expiry => {
                self.new_expiry = expiry;
                End::Goodbye { will: code != reason::SUCCESS }
            }
        }
    }

    /// A megabyte of one-byte filters would be fifty megabytes of strings.
    fn not_too_many(&self, filters: usize) -> Result<(), End> {
        if filters > self.shared.limits.subscriptions {
            let what = "more filters in a packet than a client may have subscriptions";
            return Err(Fault { reason: reason::QUOTA_EXCEEDED, what }.into());
        }
        Ok(())
    }

    /// Gives the hub what a packet of `size` bytes asks for; `owed`: it will be answered. No future as long as there is room: each
    /// would have its place in the memory of every client that is quiet.
    fn offer(&mut self, event: Event, size: usize, owed: bool) -> Result<Option<Box<Due>>, End> {
        self.owed += usize::from(owed);
        let kib = match size {
            0..=SMALL => 0,
            _ => u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX).min(ALL_KIB),
        };
        let event = match kib {
            0 => event,
            _ => match self.shared.kib.clone().try_acquire_many_owned(kib) {
                Ok(permit) => event.with(permit),
                Err(_) => return Ok(Some(Box::new(Due { event, kib }))),
            },
        };
        match self.shared.events.try_send(event) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(event)) => Ok(Some(Box::new(Due { event, kib: 0 }))),
            Err(TrySendError::Closed(_)) => Err(End::Stop(reason::SERVER_UNAVAILABLE)),
        }
    }

    /// Waits until the hub has room for it.
    pub(super) async fn pass(&mut self, due: Box<Due>) -> Result<(), End> {
        let gone = End::Stop(reason::SERVER_UNAVAILABLE);
        let (kib, shared) = (due.kib, &self.shared);
        Box::pin(async move {
            let event = match kib {
                0 => due.event,
                _ => due.event.with(shared.kib.clone().acquire_many_owned(kib).await.map_err(|_| gone)?),
            };
            shared.events.send(event).await.map_err(|_| gone)
        })
        .await
    }

    fn publish(&mut self, p: PublishPacket, size: usize) -> Result<Option<Box<Due>>, End> {
        let topic = self.topic_of(&p)?;
        self.tally.publish(Way::In, p.payload.len());
        self.pace();
        let begun = p.qos == 2 && self.session.taken.get(&p.id) == Some(&BEGUN);
        if p.qos == 2
            && !begun
            && let Some(group) = self.session.taken.get(&p.id).copied()
        {
            // A repeat of what we have. Its PUBREC comes with the hub's answer, or was lost.
            if !self.due.contains(&p.id) {
                self.owe(group, Owed::Reply(Reply::Rec, p.id, reason::SUCCESS));
            }
            return Ok(None);
        }
        if p.qos > 0
            && self.version == Version::V5
            && self.open.len() >= usize::from(self.shared.limits.in_flight_in)
        {
            let what = "more unfinished messages than our Receive Maximum";
            return Err(Fault { reason: reason::RECEIVE_MAXIMUM, what }.into());
        }
        if p.qos == 2 && !begun && self.session.taken.len() >= self.shared.limits.unreleased {
            let what = "more QoS 2 messages that wait for their PUBREL than we keep";
            return Err(Fault { reason: reason::QUOTA_EXCEEDED, what }.into());
        }
        let access = self.about.door.access.borrow().clone();
        if let Some(code) = if !topic::is_name(&topic, self.shared.limits.levels) {
            if self.version != Version::V5 {
                // There is no word for it, and an acknowledgement would be a lie: nobody will get this message.
                return Err(
                    Fault { reason: reason::TOPIC_INVALID, what: "a topic with too many levels" }.into()
                );
            }
            Some(reason::TOPIC_INVALID)
        } else if !access.may_write(self.user.as_deref(), &self.session.client_id, &topic) {
            Some(reason::NOT_AUTHORIZED)
        } else {
            None
        } {
            self.refuse_publish(&p, code);
            return Ok(None);
        }
        let (id, qos) = (p.id, p.qos);
        let message = Publish {
            topic,
            payload: p.payload,
            qos: p.qos,
            retain: p.retain,
            props: p.props,
            expires: p.expiry.map(|s| Instant::now() + Duration::from_secs(u64::from(s))),
            from: self.session.key,
            origin: None,
        };
        if qos > 0 {
            self.open.insert((qos, id));
            self.answers.push_back((id, None));
        }
        if qos == 2 {
            self.session.taken.insert(id, if self.session.kept { UNTOLD } else { 0 });
            self.due.insert(id);
        }
        let ack = (qos > 0).then(|| self.ack_to(id));
        if self.shared.tap.wants(&message) {
            if qos == 2 {
                self.unstored.insert(id);
            }
            match self.shared.tap.try_room(&message) {
                Some(room) => return self.forward((message, ack, begun), room),
                None if qos == 0 => self.shared.tap.skip(),
                None => {
                    self.stalled = Some((message, ack, begun));
                    return Ok(None);
                }
            }
        }
        if begun {
            // Nobody wants it in the log any more, so it is where it has to be.
            self.owed += 1;
            let after = self.fence();
            return self.told(Control::Routed { id, qos, matched: true, after }).map_or(Ok(None), Err);
        }
        self.offer(Event::Publish(message, ack, None), size, ack.is_some())
    }

    /// A message goes on that is to be stored, too; now there is room for it.
    pub(super) fn forward(
        &mut self,
        (message, ack, begun): Stalled,
        room: OwnedSemaphorePermit,
    ) -> Result<Option<Box<Due>>, End> {
        // Its bytes are counted by the tap.
        let forward = Forward { message, ack, begun, room };
        self.offer(Event::Forward(Box::new(forward)), 0, ack.is_some())
    }

    /// The topic of a PUBLISH, its alias resolved and remembered.
    fn topic_of(&mut self, p: &PublishPacket) -> Result<Arc<str>, End> {
        if p.topic.contains(['+', '#']) {
            return Err(Fault { reason: reason::TOPIC_INVALID, what: "wildcard in a topic name" }.into());
        }
        let alias = match p.alias {
            None => None,
            Some(n) if n == 0 || n > self.shared.limits.topic_aliases => {
                return Err(
                    Fault { reason: reason::TOPIC_ALIAS_INVALID, what: "topic alias out of range" }.into()
                );
            }
            Some(n) => Some(usize::from(n - 1)),
        };
        match (p.topic.as_str(), alias) {
            ("", None) => Err(Fault::protocol("neither topic nor alias").into()),
            ("", Some(n)) => match self.aliases.get(n) {
                Some(Some(topic)) => Ok(topic.clone()),
                _ => Err(Fault::protocol("a topic alias that was never set").into()),
            },
            (topic, alias) => {
                let topic: Arc<str> = topic.into();
                if let Some(n) = alias {
                    let old = self.aliases.get(n).and_then(|old| old.as_ref()).map_or(0, |old| old.len());
                    self.alias_bytes = self.alias_bytes - old + topic.len();
                    if self.alias_bytes > self.shared.limits.alias_bytes {
                        let what = "topics behind aliases longer than we keep";
                        return Err(Fault { reason: reason::QUOTA_EXCEEDED, what }.into());
                    }
                    if self.aliases.len() <= n {
                        self.aliases.resize(n + 1, None);
                    }
                    self.aliases[n] = Some(topic.clone());
                }
                Ok(topic)
            }
        }
    }

    /// MQTT 5 says why; 3.1.1 has no word for a right that is missing, and acknowledges (§3.3.5 of 3.1.1).
    fn refuse_publish(&mut self, p: &PublishPacket, code: u8) {
        let why = if code == reason::NOT_AUTHORIZED { Refusal::Access } else { Refusal::Limit };
        self.shared.counters.refuse(why);
        let code = if self.version == Version::V5 { code } else { reason::SUCCESS };
        let mut group = 0;
        match p.qos {
            0 => return,
            1 => {}
            _ => {
                let known = self.session.taken.remove(&p.id).is_some();
                if code == reason::SUCCESS {
                    self.session.taken.insert(p.id, 0);
                    self.open.insert((2, p.id));
                } else if known {
                    // It was begun when it was not refused yet. From now on its id is that of another message.
                    group = self.noted(p.id, Standing::Free);
                }
                self.due.insert(p.id);
            }
        }
        // In its turn: those before it have no answer yet (MQTT-4.6.0-2).
        self.owed += 1;
        self.answers.push_back((p.id, Some((p.qos, code, group))));
        self.settle();
    }

    fn judge(&self, wish: Wish) -> Result<Wish, u8> {
        let filter = match topic::is_shared(&wish.filter) {
            false => Some(wish.filter.as_str()),
            true => shared::parse(&wish.filter).map(|(_, inner)| inner),
        };
        let levels = self.shared.limits.levels;
        let (why, code) = if !filter.is_some_and(|f| topic::is_filter(f, usize::MAX)) {
            (Refusal::Protocol, reason::FILTER_INVALID)
        } else if !filter.is_some_and(|f| topic::is_filter(f, levels)) {
            (Refusal::Limit, reason::FILTER_INVALID)
        } else {
            let (access, user) = (self.about.door.access.borrow(), self.user.as_deref());
            if access.may_subscribe(user, &self.session.client_id, filter.unwrap_or_default()) {
                return Ok(wish);
            }
            (Refusal::Access, reason::NOT_AUTHORIZED)
        };
        self.shared.counters.refuse(why);
        Err(code)
    }
}
