//! The half of a connection that delivers exactly once (QoS 2): what is said, when it is noted, and what becomes of it.
//!
//! Decisions are [`Exchanges`](crate::uplink::exactly::Exchanges)'; the messages themselves wait in `inflight`.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use super::{Cargo, Class, Fault, Instant, Limits, Outgoing, Session, Unsendable, UplinkCounters};
use crate::bounds;
use crate::store::{Drain, DrainError, Exchange};
use crate::uplink::delivery::Found;
use crate::uplink::exactly::{NoSession, Outcome, Receipt};

/// A step on its way to the disk.
pub(super) type Noting = Pin<Box<dyn Future<Output = Result<(), DrainError>> + Send>>;
/// What the log has of an exchange that goes again, as far as it is there; `None`: not all of them could be looked for.
pub(super) type Fetching =
    Pin<Box<dyn Future<Output = (Exchange, Result<Option<Found>, DrainError>)> + Send>>;

impl Session<'_> {
    /// Readings that are to arrive exactly once.
    pub(super) fn stage(&mut self, message: Outgoing, now: Instant) -> Result<(), Fault> {
        let Cargo::Readings(range) = &message.cargo else { return self.publish_acknowledged(message, now) };
        if let Err(problem) = self.protocol.weigh(&message) {
            return self.unsendable(problem, message, now);
        }
        let id = self.exchanges.stage(range.clone(), message.class == Class::Backlog);
        self.staged += size(&message);
        self.inflight.sent(id, message, now);
        Ok(())
    }

    /// Makes the connection ready for exchanges, and says what the broker does not do on which they rest.
    pub(super) fn prepare(&mut self, limits: &Limits) {
        if !self.exchanges.is_kept() {
            return;
        }
        self.wire.acknowledge_at_once();
        if !limits.keeps_sessions {
            let what = "the broker keeps no session, so after a lost connection what was open goes again";
            self.complain("session", what);
        }
    }

    /// Whether one more message may be in flight.
    pub(super) fn has_place(&self, now: Instant) -> bool {
        // Some brokers count what they still hold of an earlier connection, so its place stays free.
        let left = self.exchanges.left(now);
        self.inflight.has_room() && self.inflight.len() + left < self.inflight.window()
    }

    /// Begins to note what is to be said, if it is time.
    pub(super) fn note(&mut self, now: Instant) {
        if self.noting.is_none()
            && let Some(step) = self.exchanges.step(now)
        {
            let drain = self.delivery.drain.clone();
            self.noting = Some(Box::pin(async move { drain.note(step).await }));
        }
        if self.noting.is_some() {
            // It is ours to say something.
            self.inflight.still_leaving(now);
        }
    }

    /// What comes before new readings: a session, and what goes again.
    pub(super) fn tend_exchanges(&mut self, now: Instant) -> Result<(), Fault> {
        self.renew()?;
        self.delivery.hold_back(self.exchanges.holds_back(now) || self.renewing);
        if self.fetching.is_some() || self.stopping.is_some() || !self.inflight.has_room() {
            return Ok(());
        }
        if let Some(exchange) = self.exchanges.next_again(now).cloned() {
            if self.delivery.is_careful() && !self.inflight.is_empty() {
                return Ok(());
            }
            if !self.delivery.is_owed(&exchange.range) || self.delivery.is_unfit(&exchange.range) {
                self.give_up(&exchange);
                return Ok(());
            }
            let drain = self.delivery.drain.clone();
            self.fetching = Some(Box::pin(async move {
                let found = fetch(&*drain, exchange.range.clone()).await;
                (exchange, found)
            }));
        }
        Ok(())
    }

    /// Without a session that is kept, because the disk was out of order: it is time for one when the disk is back and
    /// nothing is in flight that would go again.
    fn renew(&mut self) -> Result<(), Fault> {
        if self.exchanges.is_kept() || !self.context.wants_exactly_once() {
            return Ok(());
        }
        self.renewing = self.delivery.drain.session().is_some();
        let used = self.inflight.used();
        if self.renewing && used[Class::Live as usize] + used[Class::Backlog as usize] == 0 {
            return Err(Fault::Lost(
                "by ourselves: the disk is back, and exactly once begins again".to_owned(),
            ));
        }
        Ok(())
    }

    /// A step is noted, or could not be.
    pub(super) fn noted(&mut self, done: Result<(), DrainError>, now: Instant) -> Result<(), Fault> {
        let outcome = match done {
            Ok(()) => self.exchanges.noted(),
            Err(e) => {
                let why = format!("nothing can be noted of what is sent, so it goes at least once: {e}");
                match self.exchanges.not_noted(now + self.context.timing.log_retry) {
                    Ok(outcome) => {
                        self.complain("note", &why);
                        outcome
                    }
                    Err(NoSession) => return Err(Fault::Log(why)),
                }
            }
        };
        let Outcome { publish, plain, release, ending } = outcome;
        for exchange in ending {
            let message = hollow(&exchange);
            self.inflight.sent(exchange.id, message, now);
        }
        for id in release {
            self.protocol.release(id, &mut self.out);
        }
        for id in publish {
            self.send_exactly(id, false)?;
        }
        for id in plain {
            if let Some(message) = self.inflight.acked(id, now) {
                self.staged = self.staged.saturating_sub(size(&message));
                self.count_inexact(&message);
                self.publish_acknowledged(message, now)?;
            }
        }
        self.leaving = self.out.len();
        Ok(())
    }

    fn send_exactly(&mut self, id: u16, again: bool) -> Result<(), Fault> {
        let Some(message) = self.inflight.get(id) else { return Ok(()) };
        match self.protocol.publish_exactly(id, message, again, &mut self.out) {
            Ok(()) => {}
            Err(Unsendable::TooLarge { .. } | Unsendable::Invalid(_) | Unsendable::Engine(_)) => {
                let what = format!("`{}` cannot be sent any more", message.topic);
                return Err(Fault::Protocol(what));
            }
        }
        if !again {
            self.staged = self.staged.saturating_sub(size(message));
            self.delivery.sent(message);
        }
        Ok(())
    }

    /// What an exchange that goes again holds.
    pub(super) fn fetched(
        &mut self,
        exchange: &Exchange,
        found: Result<Option<Found>, DrainError>,
        now: Instant,
    ) -> Result<(), Fault> {
        // It may have been received meanwhile.
        if self.exchanges.next_again(now) != Some(exchange) {
            return Ok(());
        }
        let found = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.exchanges.put_off(now + self.context.timing.log_retry);
                return Ok(());
            }
            Err(e) => {
                self.complain("log", &Fault::Log(e.to_string()).to_string());
                self.exchanges.put_off(now + self.context.timing.log_retry);
                return Ok(());
            }
        };
        let message = self.delivery.encode_again(exchange, found);
        let Some(message) = message.filter(|message| self.protocol.weigh(message).is_ok()) else {
            self.give_up(exchange);
            return Ok(());
        };
        self.exchanges.sent_again(exchange.id);
        self.inflight.sent(exchange.id, message, now);
        self.send_exactly(exchange.id, true)?;
        self.leaving = self.out.len();
        Ok(())
    }

    /// An exchange that cannot go again is only ended, and what is still owed of it goes as new.
    fn give_up(&mut self, exchange: &Exchange) {
        self.exchanges.withdraw(exchange.id);
        let ended = Exchange { range: exchange.range.start..exchange.range.start, ..exchange.clone() };
        self.inflight.sent(exchange.id, hollow(&ended), Instant::now());
        self.delivery.give_back(exchange);
    }

    /// PUBREC.
    pub(super) fn received(&mut self, id: u16, refused: Option<u8>, now: Instant) {
        self.inflight.still_leaving(now);
        if let Some(code) = refused {
            if !self.exchanges.refused(id) {
                UplinkCounters::add(&self.delivery.counters.stray_acks, 1);
                return;
            }
            self.delivery.drain.exchange_over(id, None);
            if let Some(message) = self.inflight.acked(id, now) {
                self.is_refused(message, code, now);
            }
            return;
        }
        match self.exchanges.received(id) {
            Receipt::Early(exchange) => self.inflight.sent(id, hollow(&exchange), now),
            Receipt::News => {}
            Receipt::Known => UplinkCounters::add(&self.delivery.counters.stray_acks, 1),
            Receipt::Stray => {
                // Nobody waits for it, and the sender must answer all the same (MQTT 5 §4.3.3).
                UplinkCounters::add(&self.delivery.counters.stray_acks, 1);
                self.protocol.release(id, &mut self.out);
            }
        }
    }

    /// PUBCOMP.
    pub(super) fn completed(&mut self, id: u16, now: Instant) {
        if !self.exchanges.completed(id) {
            UplinkCounters::add(&self.delivery.counters.stray_acks, 1);
            return;
        }
        match self.inflight.acked(id, now) {
            Some(message) if !is_hollow_of_nothing(&message) => self.delivery.acked(&message, Some(id), now),
            Some(_) | None => self.delivery.drain.exchange_over(id, None),
        }
    }

    /// With QoS 1, though exactly once was asked for.
    pub(super) fn count_inexact(&self, message: &Outgoing) {
        if let Cargo::Readings(range) = &message.cargo {
            let n = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
            UplinkCounters::add(&self.delivery.counters.not_exactly_once, n);
        }
    }
}

/// Bytes that a message brings into the buffer, about.
fn size(message: &Outgoing) -> usize {
    message.topic.len() + message.payload.len()
}

/// What stands for a message that the broker has already.
fn hollow(exchange: &Exchange) -> Outgoing {
    Outgoing {
        cargo: Cargo::Readings(exchange.range.clone()),
        class: if exchange.historical { Class::Backlog } else { Class::Live },
        topic: "".into(),
        payload: bytes::Bytes::new(),
        retain: false,
        forwarded: None,
    }
}

fn is_hollow_of_nothing(message: &Outgoing) -> bool {
    matches!(&message.cargo, Cargo::Readings(range) if range.is_empty())
}

/// All readings of these numbers that are there. `None`: the log does not give them now.
async fn fetch(drain: &dyn Drain, range: Range<u64>) -> Result<Option<Found>, DrainError> {
    let (mut at, mut found) = (range.start, Found::default());
    while at < range.end {
        let chunk = drain.read(at..range.end, bounds::UPLINK_BATCH).await?;
        if chunk.next <= at {
            return Ok(None);
        }
        at = chunk.next;
        found.records.extend(chunk.records);
        found.messages.extend(chunk.messages);
    }
    Ok(Some(found))
}
