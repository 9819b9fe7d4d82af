//! Exactly once: the QoS 2 exchanges of one connection, each PUBLISH, PUBREC, PUBREL, PUBCOMP. Pure.
//!
//! What is about to be said is noted first, durably, and in groups: one [`Step`] is under way at a time, and what comes
//! meanwhile is in the next one. So it costs a commit or two for a whole window of messages.
//!
//! - A PUBLISH goes out when its exchange is noted, a PUBREL when it is noted that the broker has received the message.
//! - What an earlier connection left open is ended first, or sent again under its own id, in the old order. What cannot be
//!   sent again, because some of it is gone or settled otherwise, is only ended: under its id the broker would take any
//!   other message for a repeat.
//! - When nothing can be noted, messages go with QoS 1 for a while, in order; what the broker has received is
//!   released all the same. A broken disk stops nothing that is live; it is exactly once that it stops.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Endpoint;
use crate::config::model::Uplink;
use crate::store::{Exchange, Step};

/// Packet ids of exchanges: the upper half. The engine gives out the lowest that is free, for everything else.
pub const IDS: std::ops::RangeInclusive<u16> = 0x8000..=0xffff;

/// What makes a session another one: another broker or client id, and whatever else makes other messages of the same
/// readings, for what is open could not go again as it was.
#[must_use]
pub fn key(uplink: &Uplink, endpoint: &Endpoint, gateway: &str) -> String {
    let parts = format!(
        "{} {:?} {:?} {:?} {:?} {:?} {gateway:?} {}",
        endpoint.url(),
        uplink.client_id.as_deref().unwrap_or(gateway),
        uplink.mqtt_version,
        uplink.format,
        uplink.compression,
        uplink.topic_root,
        uplink.retain,
    );
    format!("{:08x}", crc32fast::hash(parts.as_bytes()))
}

/// What a login has at the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Footing {
    /// A session that ends with the connection.
    Clean,
    /// A session that is kept, and begins now, under this key.
    New(String),
    /// The session that we left.
    Resumed,
}

/// How far an exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// To be noted before it begins.
    Staged,
    /// Its PUBLISH is on its way.
    Sent,
    /// The broker has it; to be noted.
    Received,
    /// Its PUBREL is on its way.
    Released,
}

/// The exchanges of one connection.
#[derive(Debug)]
pub struct Exchanges {
    /// There is a session that is kept.
    kept: bool,
    stages: BTreeMap<u16, Stage>,
    /// Left open by an earlier connection, to be sent again, oldest first.
    again: VecDeque<Exchange>,
    /// When the first of them is tried (again).
    again_at: Instant,
    /// Ended by the opening step: ids with the exchanges they are of.
    ending: Vec<Exchange>,
    /// What the next step notes.
    next_step: Step,
    under_way: Option<Step>,
    /// The first step is not through.
    opening: bool,
    opened: bool,
    next_id: u16,
    due: Instant,
    every: Duration,
    /// So many messages are worth a step at any time.
    enough: usize,
    /// Until then nothing is tried to be noted.
    off_until: Option<Instant>,
}

/// What follows from a step that was noted, or could not be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// To be published under these ids.
    pub publish: Vec<u16>,
    /// To be published with QoS 1; the ids are free.
    pub plain: Vec<u16>,
    /// To be released.
    pub release: Vec<u16>,
    /// Left open by an earlier connection and now to be ended; in flight from here on.
    pub ending: Vec<Exchange>,
}

/// What a PUBREC says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// A message has arrived.
    News,
    /// This one was to be sent again, and needs not; in flight from here on.
    Early(Exchange),
    /// It was said before.
    Known,
    /// It is of nothing that is open.
    Stray,
}

/// Nothing can be noted, and so the session cannot be begun or taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoSession;

impl Exchanges {
    /// Those of a new connection. `open`: what the earlier ones left, if the session is resumed. A step of a few messages
    /// comes at most `every` so often; one of half a window (see [`Self::worth`]) at any time, or a small window
    /// would be the limit of what goes through.
    #[must_use]
    pub fn new(footing: &Footing, open: Vec<Exchange>, every: Duration, now: Instant) -> Self {
        let mut next_step = Step::default();
        if let Footing::New(key) = footing {
            next_step.begin = Some(key.clone());
        }
        let (ending, again): (Vec<_>, Vec<_>) = open.into_iter().partition(|exchange| exchange.received);
        let again = again.into();
        let kept = *footing != Footing::Clean;
        Self {
            kept,
            stages: BTreeMap::new(),
            again,
            again_at: now,
            ending,
            next_step,
            under_way: None,
            opening: kept,
            opened: !kept,
            // By chance, so that a session of which nobody knows here hardly has the same ones.
            next_id: fastrand::u16(IDS),
            due: now,
            every,
            enough: usize::MAX,
            off_until: None,
        }
    }

    /// The window: half of it is worth a step.
    pub fn worth(&mut self, window: usize) {
        self.enough = (window / 2).max(1);
    }

    /// There is a session that is kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept
    }

    /// Messages may be staged now.
    #[must_use]
    pub fn is_on(&self, now: Instant) -> bool {
        self.kept && self.off_until.is_none_or(|until| now >= until)
    }

    /// New readings wait: for the session to stand, or for older ones that go again.
    #[must_use]
    pub fn holds_back(&self, now: Instant) -> bool {
        !self.opened || (!self.again.is_empty() && now >= self.again_at)
    }

    /// A message begins an exchange. Returns its id.
    pub fn stage(&mut self, range: Range<u64>, historical: bool) -> u16 {
        let taken = |id: &u16| {
            let left = self.again.iter().chain(&self.ending);
            self.stages.contains_key(id) || left.clone().any(|open| open.id == *id)
        };
        let mut id = self.next_id;
        while taken(&id) {
            id = after(id);
        }
        self.next_id = after(id);
        self.stages.insert(id, Stage::Staged);
        self.next_step.sent.push(Exchange { id, range, historical, received: false });
        id
    }

    /// How many exchanges of earlier connections are not in flight yet and will be soon.
    #[must_use]
    pub fn left(&self, now: Instant) -> usize {
        if self.opened && now < self.again_at { 0 } else { self.again.len() + self.ending.len() }
    }

    /// The oldest exchange that is to be sent again now.
    #[must_use]
    pub fn next_again(&self, now: Instant) -> Option<&Exchange> {
        self.again.front().filter(|_| self.opened && now >= self.again_at)
    }

    /// It cannot be read now: another time, and the rest goes on meanwhile.
    pub fn put_off(&mut self, until: Instant) {
        self.again_at = until;
    }

    /// It goes out again.
    pub fn sent_again(&mut self, id: u16) {
        self.again.retain(|exchange| exchange.id != id);
        self.stages.insert(id, Stage::Sent);
    }

    /// It cannot go again: it is only ended.
    pub fn withdraw(&mut self, id: u16) {
        self.again.retain(|exchange| exchange.id != id);
        self.stages.insert(id, Stage::Received);
        self.next_step.withdrawn.push(id);
    }

    /// PUBREC.
    pub fn received(&mut self, id: u16) -> Receipt {
        if let Some(at) = self.again.iter().position(|exchange| exchange.id == id) {
            self.stages.insert(id, Stage::Received);
            self.next_step.received.push(id);
            return self.again.remove(at).map_or(Receipt::Known, Receipt::Early);
        }
        match self.stages.get_mut(&id) {
            Some(stage @ Stage::Sent) => {
                *stage = Stage::Received;
                self.next_step.received.push(id);
                Receipt::News
            }
            // It must not be released before that is noted, however often it is said to be received.
            Some(Stage::Staged | Stage::Received | Stage::Released) => Receipt::Known,
            None if self.ending.iter().any(|exchange| exchange.id == id) => Receipt::Known,
            None => Receipt::Stray,
        }
    }

    /// PUBREC with a refusal: the exchange is over. `false`: nobody waits for it.
    pub fn refused(&mut self, id: u16) -> bool {
        if self.stages.get(&id) != Some(&Stage::Sent) {
            return false;
        }
        self.stages.remove(&id);
        true
    }

    /// PUBCOMP: the exchange is over. `false`: nobody waits for it.
    pub fn completed(&mut self, id: u16) -> bool {
        if self.stages.get(&id) != Some(&Stage::Released) {
            return false;
        }
        self.stages.remove(&id);
        true
    }

    /// What to note now, if there is something and it is time.
    pub fn step(&mut self, now: Instant) -> Option<Step> {
        if self.under_way.is_some() || !self.wants_step() || (now < self.due && !self.is_worth_it()) {
            return None;
        }
        let step = std::mem::take(&mut self.next_step);
        self.due = now + self.every;
        self.under_way = Some(step.clone());
        Some(step)
    }

    fn is_worth_it(&self) -> bool {
        let Step { sent, received, withdrawn, .. } = &self.next_step;
        sent.len() + received.len() + withdrawn.len() >= self.enough
    }

    fn wants_step(&self) -> bool {
        self.opening || self.next_step != Step::default()
    }

    /// When there will be something to note; what is under way wakes by itself.
    #[must_use]
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        let step = (self.under_way.is_none() && self.wants_step()).then_some(self.due);
        let again = (!self.again.is_empty()).then_some(self.again_at);
        // What is due already waits for room, not for time.
        step.into_iter().chain(again).filter(|at| *at > now).min()
    }

    /// The step is noted.
    pub fn noted(&mut self) -> Outcome {
        let step = self.under_way.take().unwrap_or_default();
        let mut outcome = Outcome::default();
        if std::mem::take(&mut self.opening) {
            self.opened = true;
            outcome.ending = std::mem::take(&mut self.ending);
            for exchange in &outcome.ending {
                self.stages.insert(exchange.id, Stage::Released);
                outcome.release.push(exchange.id);
            }
        }
        for exchange in step.sent {
            self.stages.insert(exchange.id, Stage::Sent);
            outcome.publish.push(exchange.id);
        }
        outcome.release.extend(self.release(step.received.into_iter().chain(step.withdrawn)));
        self.off_until = None;
        outcome
    }

    /// The step could not be noted; until then nothing more is.
    ///
    /// # Errors
    /// It was the one with which the session begins, or is taken up.
    pub fn not_noted(&mut self, until: Instant) -> Result<Outcome, NoSession> {
        if self.opening {
            return Err(NoSession);
        }
        let step = self.under_way.take().unwrap_or_default();
        let later = std::mem::take(&mut self.next_step);
        self.off_until = Some(until);
        let mut outcome = Outcome::default();
        for exchange in step.sent.into_iter().chain(later.sent) {
            self.stages.remove(&exchange.id);
            outcome.plain.push(exchange.id);
        }
        let received = step.received.into_iter().chain(later.received);
        outcome.release = self.release(received.chain(step.withdrawn).chain(later.withdrawn));
        Ok(outcome)
    }

    fn release(&mut self, ids: impl Iterator<Item = u16>) -> Vec<u16> {
        let mut out = Vec::new();
        for id in ids {
            self.stages.insert(id, Stage::Released);
            out.push(id);
        }
        out
    }

    /// The ids of all that is open on this connection.
    #[must_use]
    pub fn into_ids(self) -> Vec<u16> {
        self.stages.into_keys().collect()
    }
}

fn after(id: u16) -> u16 {
    if id == *IDS.end() { *IDS.start() } else { id + 1 }
}
