//! What the log and the plan have to do with exchanges (QoS 2).

use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use super::{Cargo, Class, Delivery, Lane, Outgoing, subtract};
use crate::config::model::Order;
use crate::message::{ForwardedRecord, Record};
use crate::store::Exchange;
use crate::uplink::exactly::Footing;

/// What the log has of an exchange: readings, or a message of another device.
#[derive(Debug, Default)]
pub struct Found {
    /// The readings.
    pub records: Vec<Record>,
    /// The messages.
    pub messages: Vec<ForwardedRecord>,
}

impl Delivery {
    /// A login: returns what is open in the session that we have at the broker. Where it is another one than the one
    /// in which things are open, these go out as new. `None`: just now the disk does not say.
    pub fn take_up(&mut self, footing: &Footing) -> Option<Vec<Exchange>> {
        let open = || self.drain.session().map(|session| session.open);
        let lost = match footing {
            Footing::Resumed => return open(),
            Footing::New(_) => open()?,
            Footing::Clean => self.drain.end_session(),
        };
        for exchange in lost {
            self.note_doubt(exchange.range);
        }
        Some(Vec::new())
    }

    /// New readings wait, or go.
    pub fn hold_back(&mut self, wait: bool) {
        self.plan.held_back = wait;
    }

    /// All of these numbers are still owed.
    #[must_use]
    pub fn is_owed(&self, range: &Range<u64>) -> bool {
        self.drain.pending().iter().any(|owed| owed.start <= range.start && range.end <= owed.end)
    }

    /// The message of an exchange once more; `None` if that is not what was found.
    pub fn encode_again(&mut self, exchange: &Exchange, found: Found) -> Option<Outgoing> {
        let (lane, class) = match exchange.historical {
            true => (Lane::Backlog, Class::Backlog),
            false => (Lane::Live, Class::Live),
        };
        let Found { records, mut messages } = found;
        if let (Some(message), true) = (messages.pop(), records.is_empty() && messages.is_empty()) {
            let same = exchange.range == (message.id.seq..message.id.seq.saturating_add(1));
            return if same { self.forwards(message, class) } else { None };
        }
        let numbers = records.iter().map(|r| r.id.seq);
        let epoch = records.first()?.id.epoch;
        if !numbers.eq(exchange.range.clone()) || records.iter().any(|r| r.id.epoch != epoch) {
            return None;
        }
        let encoded = self.encode(lane, &records);
        Some(Outgoing {
            cargo: Cargo::Readings(exchange.range.clone()),
            class,
            topic: encoded.topic,
            payload: encoded.payload,
            retain: encoded.retain,
            forwarded: None,
        })
    }

    /// What is still owed of an exchange that was given up goes out as new.
    pub fn give_back(&mut self, exchange: &Exchange) {
        let lane = match self.order {
            Order::LiveFirst => Lane::Backlog,
            Order::Strict => Lane::Live,
        };
        for owed in self.drain.pending() {
            let part = owed.start.max(exchange.range.start)..owed.end.min(exchange.range.end);
            if !part.is_empty() {
                self.plan.lanes.rewind(lane, Some(part.clone()));
                self.note_doubt(part);
            }
        }
    }

    /// These were under way in a session that is over: they may arrive twice.
    fn note_doubt(&mut self, range: Range<u64>) {
        // Of what is noted twice nothing is counted twice.
        subtract(&mut self.unsettled, &range);
        self.counters.not_exactly_once.fetch_add(range.end - range.start, Relaxed);
        self.unsettled.push(range);
    }
}
