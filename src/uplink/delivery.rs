//! What is to be delivered and what was: the log, the mirror, and the plan of the present connection.
//! No sockets here; times are given.
//!
//! - Nothing is reported delivered to the log without its acknowledgement.
//! - When a connection ends, everything unacknowledged is pending again, for the log says so.
//! - What becomes of a message that the broker refuses: see [`refusal`]; at which it closes the connection: [`closing`].

mod aside;
mod closing;
mod exactly;
mod forwarding;
mod naming;
mod refusal;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use tokio::time::Instant;

use super::counters::UplinkCounters;
use super::formats::Format;
use super::formats::node::{MakeWill, Node, Will};
use super::inflight::{Cargo, Inflight, Outgoing};
use super::lanes::{Cut, Lane, Lanes, Want};
use super::mirror::Mirror;
use super::pace::Lesson;
use super::share::{CLASSES, Class, pick};
use super::suspicion::{Step, Suspicion};
use super::timing::Timing;
use crate::clock::Clock;
use crate::config::model::Order;
use crate::forward::Forwards;
use crate::message::{CorrectionRecord, Epoch, LossReason, LossRecord, Message};
use crate::pipeline::payload;
use crate::pipeline::topics::Topics;
use crate::store::{Chunk, Drain, Exchange};
use aside::Aside;
pub use exactly::Found;
use refusal::{Refused, Strikes};

/// All that outlives a connection, and the plan of the present one.
pub struct Delivery {
    /// The log.
    pub drain: Arc<dyn Drain>,
    /// The local tree's part that is shown upstream.
    pub mirror: Mirror,
    /// What status reads.
    pub counters: Arc<UplinkCounters>,
    /// What the last connection taught of the link.
    pub lesson: Lesson,
    topics: Topics,
    format: Box<dyn Format>,
    forwards: Forwards,
    clock: Arc<dyn Clock>,
    order: Order,
    timing: Timing,
    /// Refusals that count so far, by the first number of the message.
    strikes: BTreeMap<u64, Strikes>,
    /// Messages of readings that the broker took, all, and live and backlog.
    taken: u64,
    taken_of: [u64; 2],
    /// Topics that it refuses.
    aside: Aside,
    /// Messages at which it closes the connection, and what is to be told of the last one.
    suspicion: Suspicion,
    closed_at: Option<String>,
    /// Whether it took one on this connection, live and backlog.
    open: [bool; 2],
    /// Bytes of payload of a reading, by the last message.
    reading_bytes: usize,
    /// Sent on an earlier connection and never acknowledged.
    unsettled: Vec<Range<u64>>,
    /// Since when readings wait for the clock.
    clock_wait_since: Option<Instant>,
    /// The epoch of which the format knows who took it.
    named: Option<Epoch>,
    plan: Plan,
}

struct Plan {
    lanes: Lanes,
    cut: Cut,
    refused: Vec<Refused>,
    losses: VecDeque<(u64, LossRecord)>,
    corrections: VecDeque<(u64, CorrectionRecord)>,
    /// Numbers from here on wait for the clock.
    held: Option<u64>,
    losses_at: Instant,
    /// New readings wait.
    held_back: bool,
    /// When the log is asked again, for each lane: what one needs may be in RAM while the other waits for the disk.
    log_at: [Instant; 2],
    turn: u64,
}

fn lane_index(class: Class) -> usize {
    usize::from(class == Class::Backlog)
}

impl Delivery {
    /// Nothing sent yet.
    #[must_use]
    pub fn new(
        drain: Arc<dyn Drain>,
        mirror: Mirror,
        counters: Arc<UplinkCounters>,
        topics: Topics,
        (format, forwards): (Box<dyn Format>, Forwards),
        clock: Arc<dyn Clock>,
        (order, timing): (Order, Timing),
    ) -> Self {
        let cut = format.cut();
        let now = Instant::now();
        let plan = Plan::new(Lanes::new(order, Vec::new(), 0), cut, now);
        let (strikes, unsettled) = (BTreeMap::new(), Vec::new());
        let (taken, open) = (0, [false; 2]);
        let clock_wait_since = None;
        let (aside, suspicion) = (Aside::default(), Suspicion::new(&timing, now));
        Self {
            drain,
            mirror,
            counters,
            lesson: Lesson::default(),
            topics,
            format,
            forwards,
            clock,
            order,
            timing,
            strikes,
            taken,
            taken_of: [0; 2],
            aside,
            suspicion,
            closed_at: None,
            open,
            reading_bytes: 1,
            unsettled,
            clock_wait_since,
            named: None,
            plan,
        }
    }

    /// A new connection: everything the log calls pending is planned again, but for what is `open` at the broker.
    /// `informed`: the broker knows what is retained, but for what changed since.
    pub fn connected(&mut self, head: u64, open: &[Exchange], informed: bool, now: Instant) {
        self.open = [false; 2];
        if let Some(node) = self.format.node() {
            node.connected();
        }
        let mut pending = self.drain.pending();
        let owed = |u: &Range<u64>| pending.iter().any(|p| p.start <= u.start && u.end <= p.end);
        self.suspicion.connected(owed, pending.first().map(|p| p.start), now);
        for exchange in open {
            subtract(&mut pending, &exchange.range);
        }
        self.unsettled.retain(|u| pending.iter().any(|p| p.start < u.end && u.start < p.end));
        self.plan = Plan::new(Lanes::new(self.order, pending, head), self.format.cut(), now);
        if informed {
            self.mirror.awake();
        } else {
            self.mirror.connected();
        }
    }

    /// The format's presence at the broker, if it has one.
    pub fn node(&mut self) -> Option<&mut dyn Node> {
        self.format.node()
    }

    /// Makes the last will of each connection.
    #[must_use]
    pub fn make_will(&self) -> MakeWill {
        let topic = self.topics.status();
        self.format.make_will().unwrap_or_else(|| {
            let payload = Bytes::from_static(payload::OFFLINE);
            Arc::new(move || {
                let will = Will { topic: topic.clone(), payload: payload.clone(), retain: true };
                (will, None)
            })
        })
    }

    /// A message of the local tree.
    pub fn local(&mut self, message: Message) {
        if message.retain
            && let Some(node) = self.format.node()
            && let Some(rest) = self.mirror.within(&message.topic)
        {
            node.local(rest, &message.payload);
        }
        self.mirror.take(message);
    }

    /// The log has grown. New loss records may have come with it.
    pub fn advance(&mut self, head: u64, now: Instant) {
        self.plan.lanes.advance(head);
        self.plan.losses_at = self.plan.losses_at.min(now + self.timing.log_retry);
    }

    /// What to read from the log now.
    #[must_use]
    pub fn want(&self, now: Instant) -> Option<Want> {
        let open = |lane| now >= self.plan.log_at[lane as usize];
        self.plan.lanes.want(self.plan.cut, self.plan.held, open)
    }

    /// Looks whether readings wait for the clock, and how long yet. The wait begins with the first connection on which
    /// there is one, once: the network usually brings both, the broker and the time; and where the time never
    /// comes, nothing waits again.
    pub fn look_at_the_clock(&mut self, now: Instant) {
        let unplaced = if self.timing.clock.is_zero() { None } else { self.drain.unplaced() };
        let left = unplaced.and_then(|_| {
            let since = *self.clock_wait_since.get_or_insert(now);
            (since + self.timing.clock).checked_duration_since(now).filter(|left| !left.is_zero())
        });
        self.plan.held = unplaced.filter(|_| left.is_some());
        self.counters.set_clock_wait(left);
    }

    /// The log's answer; `None` if it could not be read.
    pub fn filled(&mut self, want: &Want, chunk: Option<Chunk>, now: Instant) {
        let useful = chunk.is_some_and(|chunk| self.plan.lanes.filled(want, chunk, now));
        if !useful {
            self.plan.log_at[want.lane as usize] = now + self.timing.log_retry;
        }
    }

    /// Whether to ask the log for loss records and corrections now.
    #[must_use]
    pub fn wants_losses(&self, now: Instant) -> bool {
        self.plan.losses.is_empty() && self.plan.corrections.is_empty() && now >= self.plan.losses_at
    }

    /// Loss records from the log.
    pub fn losses(&mut self, list: Vec<(u64, LossRecord)>, inflight: &Inflight, now: Instant) {
        self.plan.losses = list.into_iter().filter(|(h, _)| !inflight.holds(&Cargo::Loss(*h))).collect();
        self.plan.losses_at = now + self.timing.losses;
    }

    /// Corrections from the log.
    pub fn corrections(&mut self, list: Vec<(u64, CorrectionRecord)>, inflight: &Inflight) {
        let new = |handle: &u64| !inflight.holds(&Cargo::Correction(*handle));
        self.plan.corrections = list.into_iter().filter(|(handle, _)| new(handle)).collect();
    }

    /// The next message that may go out now. `finish`: only what is live, without waiting for company.
    pub fn next_message(&mut self, inflight: &Inflight, now: Instant, finish: bool) -> Option<Outgoing> {
        match self.step(inflight, now) {
            Step::None => {}
            Step::Wait => return None,
            Step::Go(message) => return Some(*message),
        }
        let cut = self.portioned(inflight.portion());
        let one = self.waits_for_one(inflight);
        // Where all of a class is left out it is another one's turn.
        for _ in CLASSES {
            let wants = CLASSES.map(|class| {
                !(one && class != Class::Control) && self.has(class, inflight.window(), cut, now, finish)
            });
            let class = pick(inflight.window(), inflight.used(), wants, self.plan.turn)?;
            let message = match class {
                Class::Control => self.control(),
                Class::Live => self.readings(Lane::Live, class, cut, now, finish),
                Class::Backlog => self.readings(Lane::Backlog, class, cut, now, finish),
            };
            self.plan.turn += 1;
            if message.is_some() {
                return message;
            }
        }
        None
    }

    /// The cut of a link on which one message should have so many bytes of payload at most.
    fn portioned(&self, bytes: usize) -> Cut {
        let readings = (bytes / self.reading_bytes.max(1)).min(self.suspicion.most_readings());
        Cut { max_readings: self.plan.cut.max_readings.min(readings.max(1)), ..self.plan.cut }
    }

    /// Whether a class has something to send now.
    fn has(&self, class: Class, window: usize, cut: Cut, now: Instant, finish: bool) -> bool {
        let lane = match class {
            Class::Control => {
                let told = self.plan.losses.is_empty() && self.plan.corrections.is_empty();
                return !told || self.mirror.wants();
            }
            Class::Live | Class::Backlog if !self.format.open() || self.plan.held_back => return false,
            Class::Live => Lane::Live,
            Class::Backlog if finish => return false,
            Class::Backlog => Lane::Backlog,
        };
        let again = self.plan.refused.iter().any(|r| r.message.class == class && now >= r.due);
        again || (self.plan.refused.len() < window && self.plan.lanes.closable(lane, cut, now, finish) > 0)
    }

    fn control(&mut self) -> Option<Outgoing> {
        let event = |cargo, topic: String, payload: Vec<u8>| {
            let (topic, payload) = (topic.into(), payload.into());
            Some(Outgoing { cargo, class: Class::Control, topic, payload, retain: false, forwarded: None })
        };
        if let Some((handle, record)) = self.plan.losses.pop_front() {
            return event(Cargo::Loss(handle), self.topics.event_loss(), payload::loss(&record));
        }
        if let Some((handle, record)) = self.plan.corrections.pop_front() {
            let (topic, payload) = (self.topics.event_correction(), payload::correction(&record));
            return event(Cargo::Correction(handle), topic, payload);
        }
        self.mirror.next_message()
    }

    fn readings(
        &mut self,
        lane: Lane,
        class: Class,
        cut: Cut,
        now: Instant,
        finish: bool,
    ) -> Option<Outgoing> {
        let again = self.plan.refused.iter().position(|r| r.message.class == class && now >= r.due);
        if let Some(at) = again {
            return Some(self.plan.refused.remove(at).message);
        }
        loop {
            while let Some(record) = self.plan.lanes.take_message(lane) {
                if let Some(message) = self.forwards(record, class)
                    && let Some(message) = self.let_pass(message, now)
                {
                    return Some(message);
                }
            }
            let records = self.plan.lanes.take(lane, cut, now, finish);
            let records = self.cut_around(lane, records);
            let (first, last) = (records.first()?.id.seq, records.last()?.id.seq);
            let encoded = self.encode(lane, &records);
            self.reading_bytes = encoded.payload.len().div_ceil(records.len());
            let message = Outgoing {
                cargo: Cargo::Readings(first..last.saturating_add(1)),
                class,
                topic: encoded.topic,
                payload: encoded.payload,
                retain: encoded.retain,
                forwarded: None,
            };
            if let Some(message) = self.let_pass(message, now) {
                return Some(message);
            }
        }
    }

    /// A message is on the wire: count what went out before already.
    pub fn sent(&mut self, message: &Outgoing) {
        if let Cargo::Readings(range) = &message.cargo {
            let again = subtract(&mut self.unsettled, range);
            self.counters.repeats.fetch_add(again, Relaxed);
        }
    }

    /// The broker has it; `exchange`: the id under which that was said, with QoS 2.
    pub fn acked(&mut self, message: &Outgoing, exchange: Option<u16>, now: Instant) {
        self.counters.acknowledged.fetch_add(1, Relaxed);
        self.passed(message);
        match &message.cargo {
            Cargo::Readings(range) => {
                self.strikes.remove(&range.start);
                self.taken += 1;
                self.open[lane_index(message.class)] = true;
                self.counters.forwarded.fetch_add(u64::from(message.forwarded.is_some()), Relaxed);
                self.counters.delivered.fetch_add(range.end - range.start, Relaxed);
                match exchange {
                    Some(id) => self.drain.exchange_over(id, Some(range.clone())),
                    None => self.drain.delivered(range.clone()),
                }
            }
            Cargo::Loss(handle) => {
                self.drain.loss_delivered(*handle);
                if self.plan.losses.is_empty() {
                    self.plan.losses_at = now;
                }
            }
            Cargo::Correction(handle) => {
                self.drain.correction_delivered(*handle);
                if self.plan.corrections.is_empty() {
                    self.plan.losses_at = now;
                }
            }
            Cargo::Retained(version) => self.mirror.acked(&message.topic, *version),
            Cargo::Event | Cargo::Farewell => {}
        }
    }

    /// The connection is gone with these messages in flight.
    pub fn ended(&mut self, unsettled: Vec<Outgoing>) {
        let lost = self.aside.ended(self.taken_of);
        self.give_up(lost);
        let mut events: Vec<(Arc<str>, Bytes)> = Vec::new();
        for message in unsettled {
            match message.cargo {
                Cargo::Readings(range) => self.unsettled.push(range),
                Cargo::Event => events.push((message.topic, message.payload)),
                // The log and the mirror bring these again.
                Cargo::Loss(_) | Cargo::Correction(_) | Cargo::Retained(_) | Cargo::Farewell => {}
            }
        }
        self.counters.set_clock_wait(None);
        for (topic, payload) in events.into_iter().rev() {
            self.mirror.put_back(topic, payload);
        }
    }

    /// Nothing that was stored before `head` waits any more, and everything else there is to tell is told.
    #[must_use]
    pub fn is_drained(&self, head: u64, now: Instant) -> bool {
        let recorded = self.plan.losses.is_empty() && self.plan.corrections.is_empty();
        let told = !self.mirror.wants() && recorded && !self.wants_losses(now);
        told && self.drain.pending().first().is_none_or(|first| first.start >= head)
    }

    /// When there may be something to do without anything happening.
    #[must_use]
    pub fn next_wake(&self, now: Instant) -> Instant {
        let refused = self.plan.refused.iter().map(|r| r.due).min();
        let batch = self.plan.lanes.deadline(self.plan.cut);
        let log = self.plan.log_at.into_iter().filter(|at| *at > now).min();
        let losses = self.plan.losses.is_empty().then_some(self.plan.losses_at);
        // What is due already waits for room, not for time.
        [refused, batch, log, losses, self.aside.next_wake(), self.suspicion.next_wake()]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .min()
            .unwrap_or(now + self.timing.losses)
    }
}

impl Plan {
    fn new(lanes: Lanes, cut: Cut, now: Instant) -> Self {
        Self {
            lanes,
            cut,
            refused: Vec::new(),
            losses: VecDeque::new(),
            corrections: VecDeque::new(),
            held: None,
            held_back: false,
            losses_at: now,
            log_at: [now; 2],
            turn: 0,
        }
    }
}

/// Takes `range` out of `list`; returns how many numbers of it were there.
fn subtract(list: &mut Vec<Range<u64>>, range: &Range<u64>) -> u64 {
    let mut common = 0;
    let mut rest = Vec::with_capacity(list.len());
    for held in list.drain(..) {
        let (start, end) = (held.start.max(range.start), held.end.min(range.end));
        if start >= end {
            rest.push(held);
            continue;
        }
        common += end - start;
        rest.extend([held.start..start, end..held.end].into_iter().filter(|r| !r.is_empty()));
    }
    *list = rest;
    common
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn subtracting_counts_and_removes_what_was_common(
            a in prop::collection::vec((0u64..50, 1u64..10), 0..5),
            b in (0u64..50, 0u64..20),
        ) {
            let mut end = 0;
            let mut list: Vec<Range<u64>> = Vec::new();
            for (gap, len) in a {
                list.push(end + gap..end + gap + len);
                end += gap + len;
            }
            let before: Vec<u64> = list.iter().cloned().flatten().collect();
            let range = b.0..b.0 + b.1;
            let common = subtract(&mut list, &range);
            let after: Vec<u64> = list.into_iter().flatten().collect();
            prop_assert_eq!(common as usize, before.len() - after.len());
            prop_assert_eq!(after, before.into_iter().filter(|s| !range.contains(s)).collect::<Vec<_>>());
        }
    }
}
