//! Messages of other devices as they go up: under the name that their route gives them, with what tells their identity.
//!
//! Payload, retained flag and properties stay what they are. With MQTT 5 `epoch`, `seq` and `ts` go along as user
//! properties, and one that names this gateway, so that a message that comes round is known; MQTT 3.1.1 has no place for
//! them. If it has properties of these names already (its own, or of another gateway on the way), ours are the first. What is too old by the word of its publisher is not sent: it is declared lost as `expired`.

use super::{Cargo, Class, Delivery, LossReason, Outgoing, Relaxed};
use crate::message::{ForwardedRecord, VIA};
use crate::uplink::extra::Extra;

impl Delivery {
    /// The message as it goes out; `None`: it does not, and is settled.
    pub(super) fn forwards(&mut self, record: ForwardedRecord, class: Class) -> Option<Outgoing> {
        let ForwardedRecord { id, ts, message } = record;
        let range = id.seq..id.seq.saturating_add(1);
        let age_s = self.clock.wall().0.saturating_sub(ts.0).max(0) / 1000;
        let left = message.expiry.map(|expiry| i64::from(expiry) - age_s);
        if left.is_some_and(|left| left <= 0) {
            self.counters.forward_expired.fetch_add(1, Relaxed);
            self.drain.reject(&[range], LossReason::Expired);
            return None;
        }
        // The log gives what the routes take; between two configurations it may be another one's.
        let topic = self.forwards.target(&message.topic)?;
        let mut props = message.props.as_deref().cloned().unwrap_or_default();
        let ours = [
            ("epoch".to_owned(), id.epoch.to_string()),
            ("seq".to_owned(), id.seq.to_string()),
            ("ts".to_owned(), ts.to_string()),
            (VIA.to_owned(), self.forwards.gateway().to_owned()),
        ];
        props.user.splice(0..0, ours);
        let expiry = left.and_then(|left| u32::try_from(left).ok());
        Some(Outgoing {
            cargo: Cargo::Readings(range),
            class,
            topic: topic.into(),
            payload: message.payload.clone(),
            retain: message.retain,
            forwarded: Some(Box::new(Extra { props, expiry })),
        })
    }
}
