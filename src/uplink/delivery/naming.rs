//! Readings as a message, under the name that the gateway had when it took them.
//!
//! Promises: a repeat after the gateway got another id is the same payload, where the payload names the gateway. (Topics are
//! the configuration's.)

use super::{Delivery, Lane};
use crate::message::Record;
use crate::uplink::formats::Encoded;

impl Delivery {
    /// One message of these readings, which are of one epoch and at least one.
    pub(super) fn encode(&mut self, lane: Lane, records: &[Record]) -> Encoded {
        if let Some(first) = records.first().map(|record| record.id)
            && self.named != Some(first.epoch)
        {
            let name = self.drain.taken_by(first.seq);
            self.format.taken_by(name.as_deref().unwrap_or(self.forwards.gateway()));
            self.named = Some(first.epoch);
        }
        self.format.encode(lane, records)
    }
}
