//! What an uplink with QoS 2 has open at its broker, as it is durable: the MQTT session of the sender. Pure.
//!
//! One **exchange** is one message under one packet id: PUBLISH, PUBREC, PUBREL, PUBCOMP. Of a message only its numbers
//! and its lane are kept, not its bytes: a number is the same record each time, and a format makes the same message of
//! the same records, so the log is not written twice.
//!
//! # What it promises
//! - An exchange is durable before its PUBLISH goes out, and that the broker has received it before its PUBREL does. It
//!   is part of the account, so that what is open and what is delivered are of one transaction.
//! - A reading is delivered with its PUBCOMP, not with the PUBREC: a broker may keep a message back until its PUBREL
//!   (method A of MQTT 5 §4.3.3, and so do real ones), and loses it then with the session if it is one that forgets.
//! - Packet ids are of the sender's session, so where that may not be what the broker remembers, there is none: in a
//!   database that was rolled back, restored or set aside, and while the disk is out of order. (Under an id that the
//!   broker knows already it would take another message for a repeat, and drop it.) The uplink then begins a new
//!   one, and what was open goes out as new.
//! - What is not durable in the log is in no exchange.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::drain::DrainError;
use super::lend::PATIENCE;
use super::state::{Phase, State, Tick};
use crate::bounds;

/// The sender's half of an MQTT session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Session {
    /// Whose it is: broker, client id, and what else makes it another one. Empty: there is none.
    pub key: String,
    /// The exchanges that are not over, in the order in which they began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<Exchange>,
}

/// One message under one packet id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub struct Exchange {
    /// Packet id.
    pub id: u16,
    /// The numbers of its readings. Empty: it is only to be ended.
    pub range: Range<u64>,
    /// Of the backlog lane.
    pub historical: bool,
    /// The broker has received it.
    pub received: bool,
}

/// Id, first number, how many, and flags: a hundred of them are written with each step.
type Row = (u16, u64, u32, u8);

const HISTORICAL: u8 = 1;
const RECEIVED: u8 = 2;

impl From<Row> for Exchange {
    fn from((id, first, count, flags): Row) -> Self {
        let range = first..first.saturating_add(u64::from(count));
        Self { id, range, historical: flags & HISTORICAL != 0, received: flags & RECEIVED != 0 }
    }
}

impl From<Exchange> for Row {
    fn from(e: Exchange) -> Self {
        let count = u32::try_from(e.range.end - e.range.start).unwrap_or(u32::MAX);
        let flags = if e.historical { HISTORICAL } else { 0 } | if e.received { RECEIVED } else { 0 };
        (e.id, e.range.start, count, flags)
    }
}

/// What is noted at once, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Step {
    /// A session begins, under this key; the one before is over.
    pub begin: Option<String>,
    /// These exchanges are about to begin.
    pub sent: Vec<Exchange>,
    /// The broker has received the messages under these ids.
    pub received: Vec<u16>,
    /// These are only to be ended: what their readings are is forgotten.
    pub withdrawn: Vec<u16>,
}

impl Session {
    /// There is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.key.is_empty()
    }

    fn apply(&mut self, step: &Step) {
        if let Some(key) = &step.begin {
            *self = Self { key: key.clone(), open: Vec::new() };
        }
        self.open.extend(step.sent.iter().cloned());
        for exchange in &mut self.open {
            if step.withdrawn.contains(&exchange.id) {
                exchange.range.end = exchange.range.start;
                exchange.received = true;
            }
            exchange.received |= step.received.contains(&exchange.id);
        }
    }

    /// The step did not become durable: nothing of it goes out. What the broker has received stays received.
    fn retract(&mut self, step: &Step) {
        if step.begin.is_some() {
            *self = Self::default();
        }
        self.open.retain(|open| !step.sent.iter().any(|sent| sent.id == open.id));
    }
}

impl State {
    /// The session of an uplink; `None`: the disk is out of order, so none can be kept.
    #[must_use]
    pub fn session(&self, uplink: &str, now: Tick) -> Option<Session> {
        let stuck = self.busy_since.is_some_and(|since| now.saturating_duration_since(since) >= PATIENCE);
        if stuck || self.phase != Phase::Ok || self.epoch.start == 0 {
            return None;
        }
        Some(self.accounts.get(uplink)?.session.clone())
    }

    /// Whether the next commit is one that takes readings along.
    #[must_use]
    pub fn ring_is_due(&self, now: Tick) -> bool {
        let full = self.ring.len() >= bounds::STORE_GROUP || self.bound > self.bound_saved;
        full || self.ring_since.is_some_and(|since| now >= since + self.limits.commit_interval)
    }

    /// Notes a step in RAM; the next commit has it.
    ///
    /// # Errors
    /// It cannot be durable. Nothing was noted.
    pub fn note(&mut self, uplink: &str, step: &Step, now: Tick) -> Result<(), DrainError> {
        let refuse = |why: &str| Err(DrainError(why.to_owned()));
        if self.session(uplink, now).is_none() {
            return refuse("the disk is out of order, so what is sent exactly once cannot be noted");
        }
        if step.sent.iter().any(|sent| sent.range.end > self.stored) {
            return refuse("what is not stored yet cannot be sent exactly once");
        }
        let Some(account) = self.accounts.get_mut(uplink) else { return refuse("there is no such uplink") };
        if account.session.open.len() + step.sent.len() > bounds::STORE_EXCHANGES {
            return refuse("too many messages are open at the broker");
        }
        account.session.apply(step);
        self.dirty_since.get_or_insert(now);
        Ok(())
    }

    /// A step did not become durable.
    pub fn retract(&mut self, uplink: &str, step: &Step) {
        if let Some(account) = self.accounts.get_mut(uplink) {
            account.session.retract(step);
        }
    }

    /// An exchange is over; what it brought there is delivered.
    pub fn exchange_over(&mut self, uplink: &str, id: u16, delivered: Option<Range<u64>>) {
        if let Some(range) = delivered {
            self.deliver(uplink, range);
        }
        if let Some(account) = self.accounts.get_mut(uplink) {
            account.session.open.retain(|open| open.id != id);
        }
        self.dirty_since.get_or_insert_with(Tick::now);
    }

    /// The broker is left without a session: the next one is a new one. Returns what was open.
    pub fn end_session(&mut self, uplink: &str) -> Vec<Exchange> {
        let Some(account) = self.accounts.get_mut(uplink).filter(|account| !account.session.is_none()) else {
            return Vec::new();
        };
        let session = std::mem::take(&mut account.session);
        self.dirty_since.get_or_insert_with(Tick::now);
        session.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(id: u16, range: Range<u64>) -> Exchange {
        Exchange { id, range, historical: id.is_multiple_of(2), received: false }
    }

    fn session(open: Vec<Exchange>) -> Session {
        Session { key: "k".into(), open }
    }

    #[test]
    fn what_is_written_of_an_exchange_is_short_and_reads_the_same() {
        let mut all = session(vec![exchange(40_000, 81_213..81_214), exchange(40_001, 7..507)]);
        all.open[1].received = true;
        let text = serde_json::to_string(&all).expect("plain");
        assert_eq!(text, r#"{"key":"k","open":[[40000,81213,1,1],[40001,7,500,2]]}"#);
        assert_eq!(serde_json::from_str::<Session>(&text).expect("the same"), all);
    }

    #[test]
    fn a_step_that_failed_leaves_what_was_received_and_takes_back_what_was_to_be_sent() {
        let mut all = session(vec![exchange(1, 1..2), exchange(2, 2..3)]);
        let step =
            Step { sent: vec![exchange(3, 3..4)], received: vec![1], withdrawn: vec![2], ..Step::default() };
        all.apply(&step);
        let ended = Exchange { received: true, ..exchange(2, 2..2) };
        let received = Exchange { received: true, ..exchange(1, 1..2) };
        assert_eq!(all, session(vec![received.clone(), ended.clone(), exchange(3, 3..4)]));
        all.retract(&step);
        assert_eq!(all, session(vec![received, ended]));
    }

    #[test]
    fn a_beginning_ends_what_was_before_and_one_that_failed_leaves_none() {
        let begin = Step { begin: Some("other".into()), ..Step::default() };
        let mut all = session(vec![exchange(1, 1..2)]);
        all.apply(&begin);
        assert_eq!(all, Session { key: "other".into(), open: vec![] });
        all.retract(&begin);
        assert!(all.is_none() && all.open.is_empty());
    }
}
