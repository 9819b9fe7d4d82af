//! How a message gets on the wire, and what becomes of one that does not.

use super::{Cargo, Fault, Instant, Outgoing, Session, Unsendable};
use crate::config::model::Qos;
use crate::uplink::reasons::reason_words;

impl Session<'_> {
    /// A message goes out as its kind demands.
    pub(super) fn publish(&mut self, message: Outgoing, now: Instant) -> Result<(), Fault> {
        let readings = matches!(message.cargo, Cargo::Readings(_));
        // What another device published is no affair of the node.
        if readings && message.forwarded.is_none() && self.delivery.node().is_some() {
            return self.publish_in_order(message, now);
        }
        if readings && self.context.qos == Qos::Unacknowledged {
            return match self.protocol.publish_without_id(&message, &mut self.out) {
                Ok(()) => {
                    self.sent_in_order(message, now);
                    Ok(())
                }
                Err(problem) => self.unsendable(problem, message, now),
            };
        }
        // Messages of other devices too, whatever QoS they came with: what went with QoS 1 would overtake on its topic what
        // waits for its note.
        if readings && self.context.wants_exactly_once() {
            if self.exchanges.is_on(now) {
                return self.stage(message, now);
            }
            self.count_inexact(&message);
        }
        self.publish_acknowledged(message, now)
    }

    /// With QoS 1.
    pub(super) fn publish_acknowledged(&mut self, message: Outgoing, now: Instant) -> Result<(), Fault> {
        match self.protocol.publish(&message, &mut self.out) {
            Ok(id) => {
                self.delivery.sent(&message);
                self.inflight.sent(id, message, now);
                self.leaving = self.out.len();
                Ok(())
            }
            Err(problem) => self.unsendable(problem, message, now),
        }
    }

    /// What becomes of a message that could not be written.
    pub(super) fn unsendable(
        &mut self,
        problem: Unsendable,
        message: Outgoing,
        now: Instant,
    ) -> Result<(), Fault> {
        match problem {
            Unsendable::TooLarge { size, limit } => {
                self.complain(
                    "too large",
                    &format!(
                        "a message of {size} bytes on `{}` is larger than the {limit} the broker takes",
                        message.topic
                    ),
                );
                self.delivery.too_large(message, size, limit, now);
            }
            Unsendable::Invalid(why) => {
                self.complain("invalid", &format!("`{}` cannot be sent: {why}", message.topic));
                self.delivery.refused(message, 0, now);
            }
            Unsendable::Engine(why) => {
                return Err(Fault::Protocol(format!("`{}` cannot be sent: {why}", message.topic)));
            }
        }
        Ok(())
    }

    /// The broker has said no.
    pub(super) fn is_refused(&mut self, message: Outgoing, code: u8, now: Instant) {
        let (topic, why) = (&message.topic, reason_words(code));
        self.complain("refused", &format!("the broker refuses a message on `{topic}`: {why}"));
        self.delivery.refused(message, code, now);
    }
}
