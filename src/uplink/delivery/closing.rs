//! What becomes of a message at which the broker closes the connection: see [`suspicion`](crate::uplink::suspicion).

use super::refusal::lane_of;
use super::{Cargo, Class, Delivery, Inflight, Instant, Lane, Order, Outgoing, Range, lane_index};
use crate::message::Record;
use crate::uplink::suspicion::{Ending, Step};

impl Delivery {
    /// How the last connection ended, and what was under way then: of the log, `open` among it with QoS 2.
    pub fn closed(&mut self, ending: Ending, unsettled: &[Outgoing], open: &[Outgoing], now: Instant) {
        // A node has births and an order of its own: none of its messages can be left out.
        if self.format.node().is_some() {
            return;
        }
        let apart = self.format.cut().max_readings == 1;
        let mut under_way = unsettled.to_vec();
        under_way.extend_from_slice(open);
        let Some(finding) = self.suspicion.ended(ending, &under_way, (apart, !open.is_empty()), now) else {
            return;
        };
        let (topic, bytes) = (&finding.topic, finding.bytes);
        let end = if finding.lost.is_empty() {
            "the rest goes on without it, and it is tried alone after a while"
        } else {
            "it is set aside as lost (`rejected`)"
        };
        self.closed_at = Some(format!(
            "the broker closes the connection at this message (topic `{topic}`, {bytes} bytes): it is larger than its limit, or the topic is not allowed; {end}"
        ));
        self.give_up(finding.lost);
    }

    /// What is known of why the last connection was closed, in words; once.
    pub fn why_closed(&mut self) -> Option<String> {
        self.closed_at.take()
    }

    /// Whether the last connection was closed at a message at which one was closed before.
    #[must_use]
    pub fn was_closed_again(&self) -> bool {
        self.suspicion.was_closed_again()
    }

    /// Whether one message of the log may be under way at a time.
    #[must_use]
    pub fn is_careful(&self) -> bool {
        self.suspicion.is_careful()
    }

    /// Whether what is open under these numbers must not go again as it was.
    #[must_use]
    pub fn is_unfit(&self, range: &Range<u64>) -> bool {
        self.suspicion.is_unfit(range)
    }

    /// What there is to do for messages that are suspected.
    pub(super) fn step(&mut self, inflight: &Inflight, now: Instant) -> Step {
        self.suspicion.relax(now);
        if self.suspicion.is_idle() {
            return Step::None;
        }
        let used = inflight.used();
        let quiet = used[Class::Live as usize] + used[Class::Backlog as usize] == 0;
        let idle = quiet && self.plan.lanes.is_empty();
        self.suspicion.step(inflight.is_empty(), idle, now)
    }

    /// Whether readings must wait for the one that is under way.
    pub(super) fn waits_for_one(&self, inflight: &Inflight) -> bool {
        let used = inflight.used();
        self.suspicion.is_careful() && used[Class::Live as usize] + used[Class::Backlog as usize] > 0
    }

    /// Cuts readings so that one that is suspected is alone; what comes behind goes back.
    pub(super) fn cut_around(&mut self, lane: Lane, mut records: Vec<Record>) -> Vec<Record> {
        if self.suspicion.is_idle() {
            return records;
        }
        if let Some(at) = records.iter().position(|r| self.suspicion.suspects(r.id.seq)) {
            let rest = records.split_off(at.max(1));
            if let (Some(first), Some(last)) = (rest.first(), rest.last()) {
                let range = first.id.seq..last.id.seq.saturating_add(1);
                self.plan.lanes.rewind(lane, Some(range));
            }
        }
        records
    }

    /// A message of the log, if it may go out now.
    pub(super) fn let_pass(&mut self, message: Outgoing, now: Instant) -> Option<Outgoing> {
        let apart = message.forwarded.is_some() || self.format.cut().max_readings == 1;
        self.suspicion.let_pass(message, apart, now)
    }

    /// What lay aside goes after all.
    pub(super) fn take_back(&mut self, released: Vec<(Class, Range<u64>)>) {
        for lane in [Lane::Live, Lane::Backlog] {
            let of_lane = released.iter().filter(|(class, _)| lane_of(*class) == Some(lane));
            let mut ranges = of_lane.map(|(_, range)| range.clone()).peekable();
            if ranges.peek().is_some() {
                self.plan.lanes.rewind(lane, ranges);
            }
        }
    }

    /// A message of readings was taken.
    pub(super) fn passed(&mut self, message: &Outgoing) {
        let Cargo::Readings(range) = &message.cargo else {
            let _nothing = self.suspicion.acked(message, None);
            return;
        };
        let pending = match self.order {
            Order::LiveFirst => Class::Backlog,
            Order::Strict => Class::Live,
        };
        let released = self.suspicion.acked(message, (message.class == pending).then_some(range.end));
        self.take_back(released);
        self.taken_of[lane_index(message.class)] += 1;
        if let Some((lane, ranges)) = self.aside.taken(&message.topic) {
            self.plan.lanes.rewind(lane, ranges);
        }
    }
}
