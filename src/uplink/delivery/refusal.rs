//! What becomes of a message that the broker refuses.
//!
//! A message the broker refuses (MQTT 5 reason 0x80 and above, or too large for it) is split if it can
//! be, tried a few times, then its readings are declared lost as `rejected`; the line goes on meanwhile.
//! A try counts only where the broker takes other readings: it took some of the same lane on this
//! connection, and either some since the try before, or this message is the only refused one. A broker
//! that refuses everything (wrong rights, a quota) is waited out, and nothing is given up.
//! Where it is a topic that may not be published, only the first messages of it are tried so often ([`aside`](super::aside)).
//! A refused message that is accepted later arrives after younger ones: the one exception to the order.

use std::ops::Range;

use super::aside::{GATHER, HURRY, Verdict};
use super::{Cargo, Class, Delivery, Instant, Lane, LossReason, LossRecord, Outgoing, Relaxed, lane_index};

/// How often a message was refused while others were taken.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Strikes {
    count: u8,
    /// [`Delivery::taken`] at the last of them.
    taken: u64,
}

/// A message that is tried again.
pub(super) struct Refused {
    pub(super) due: Instant,
    pub(super) message: Outgoing,
}

/// Refusals remembered over connections: 1024 × 24 B. Full: the oldest number's are forgotten, so that
/// message gets a few tries more.
const STRIKES: usize = 1024;

impl Delivery {
    /// The broker has it not: its packet has `size` bytes where `limit` are allowed.
    pub fn too_large(&mut self, message: Outgoing, size: usize, limit: usize, now: Instant) {
        match &message.cargo {
            Cargo::Readings(range) if range.end - range.start > 1 => {
                let count = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
                // A tenth less than the proportion says, so that the next try usually fits.
                let fits = count.saturating_mul(limit) / size.max(1) * 9 / 10;
                self.split(&message, fits.clamp(1, count - 1));
            }
            // Its limit was announced: there is no doubt about whom it is that does not fit.
            Cargo::Readings(_) => self.strike(message, true, now),
            Cargo::Loss(handle) => {
                // Which points they were can be left out; that they are lost cannot.
                let handle = *handle;
                if let Ok(mut record) = serde_json::from_slice::<LossRecord>(&message.payload)
                    && record.points.take().is_some()
                {
                    self.plan.losses.push_front((handle, record));
                }
            }
            // Asked of the log again; a broker that takes no 300 bytes takes nothing.
            Cargo::Correction(_) | Cargo::Retained(_) | Cargo::Event | Cargo::Farewell => {}
        }
    }

    /// The broker refuses it.
    pub fn refused(&mut self, message: Outgoing, code: u8, now: Instant) {
        const PACKET_TOO_LARGE: u8 = 0x95;
        if let Cargo::Readings(range) = &message.cargo {
            let released = self.suspicion.answered(range);
            self.take_back(released);
        }
        if self.lies_aside(&message, code, now) {
            return;
        }
        match &message.cargo {
            Cargo::Readings(range) if code == PACKET_TOO_LARGE && range.end - range.start > 1 => {
                let half = usize::try_from((range.end - range.start) / 2).unwrap_or(1).max(1);
                self.split(&message, half);
            }
            Cargo::Readings(_) => {
                let open = self.open[lane_index(message.class)];
                let known = self.strikes_of(&message).is_some_and(|strikes| self.taken <= strikes.taken);
                let counts = open && (self.plan.refused.is_empty() || !known);
                self.strike(message, counts, now);
            }
            // Asked of the log again after a while: it keeps it until it is acknowledged.
            Cargo::Loss(_) | Cargo::Correction(_) => self.plan.losses_at = now + self.timing.retry,
            Cargo::Retained(_) | Cargo::Event | Cargo::Farewell => {}
        }
    }

    /// Whether it lies aside, because its topic is refused.
    fn lies_aside(&mut self, message: &Outgoing, code: u8, now: Instant) -> bool {
        // What these say is of the topic: not authorised, topic name invalid.
        let (Cargo::Readings(range), Some(lane), 0x87 | 0x90) =
            (&message.cargo, lane_of(message.class), code)
        else {
            return false;
        };
        let taken = self.taken_of[lane as usize];
        self.aside.refused(&message.topic, range, (lane, taken), now) == Verdict::Aside
    }

    /// Declares lost what was gathered of topics that are refused; `hurry`: the connection ends when all is settled.
    pub fn declare(&mut self, hurry: bool, now: Instant) {
        let gather = if hurry { HURRY } else { GATHER };
        if let Some(ranges) = self.aside.due(self.taken_of, gather, now) {
            self.give_up(ranges);
            self.plan.losses_at = self.plan.losses_at.min(now + self.timing.log_retry);
        }
    }

    /// These will not arrive.
    pub(super) fn give_up(&mut self, mut ranges: Vec<Range<u64>>) {
        if ranges.is_empty() {
            return;
        }
        ranges.sort_by_key(|range| range.start);
        let count: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        self.counters.rejected.fetch_add(count, Relaxed);
        self.drain.reject(&ranges, LossReason::Rejected);
    }

    fn split(&mut self, message: &Outgoing, max_readings: usize) {
        if let (Cargo::Readings(range), Some(lane)) = (&message.cargo, lane_of(message.class)) {
            self.plan.cut.max_readings = self.plan.cut.max_readings.min(max_readings);
            self.plan.lanes.rewind(lane, Some(range.clone()));
        }
    }

    fn strikes_of(&self, message: &Outgoing) -> Option<Strikes> {
        match &message.cargo {
            Cargo::Readings(range) => self.strikes.get(&range.start).copied(),
            Cargo::Loss(_) | Cargo::Correction(_) | Cargo::Retained(_) | Cargo::Event | Cargo::Farewell => {
                None
            }
        }
    }

    /// One more refusal of this message; `counts`: it says something about the message, not about the broker.
    fn strike(&mut self, message: Outgoing, counts: bool, now: Instant) {
        let Cargo::Readings(range) = &message.cargo else { return };
        let taken = self.taken;
        let strikes = self.strikes.entry(range.start).or_insert(Strikes { count: 0, taken });
        if counts {
            *strikes = Strikes { count: strikes.count.saturating_add(1), taken };
        }
        if strikes.count >= self.timing.tries {
            self.strikes.remove(&range.start);
            self.aside.given_up(&message.topic, range.start, now);
            self.give_up(vec![range.clone()]);
            self.plan.losses_at = self.plan.losses_at.min(now + self.timing.log_retry);
            return;
        }
        while self.strikes.len() > STRIKES {
            self.strikes.pop_first();
        }
        self.plan.refused.push(Refused { due: now + self.timing.retry, message });
    }
}

pub(super) fn lane_of(class: Class) -> Option<Lane> {
    match class {
        Class::Live => Some(Lane::Live),
        Class::Backlog => Some(Lane::Backlog),
        Class::Control => None,
    }
}
