//! QoS 2 beside the engine: it learns nothing of it.
//!
//! The engine counts what it sends against the Receive Maximum, and what it did not send itself (a PUBREL for a message
//! of an earlier connection) makes the counter underflow; it also answers a PUBREC at once, where ours must be noted
//! first. The packets are four bytes each, and the window is counted by [`Inflight`](crate::uplink::inflight::Inflight)
//! anyway. So a PUBLISH with QoS 2 is written past it, with ids it never gives out, and the guard keeps the answers from it.
//!
//! Topic aliases are the broker's for the connection, whoever introduced them. Only readings go with QoS 2, and where
//! they do, readings with QoS 1 are written without, so neither side meets an alias of the other.

use bytes::BytesMut;
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait, Qos};

use super::{Name, Outgoing, Protocol, Unsendable};

/// PUBREL, with the flags that it must have (§3.6.1).
const PUBREL: u8 = 0x62;

impl Protocol {
    /// The session outlives this connection.
    pub fn keep_session(&mut self) {
        self.exactly = true;
        self.guard.divert_exchanges();
    }

    /// Whether a message can go with QoS 2.
    ///
    /// # Errors
    /// It cannot.
    pub fn weigh(&self, message: &Outgoing) -> Result<(), Unsendable> {
        self.packet(message, Some(1), Qos::ExactlyOnce, false, Name::Whole).map(drop)
    }

    /// Writes a message with QoS 2 to `out`. `again`: for the second time at least.
    ///
    /// # Errors
    /// It cannot be sent; nothing was written.
    pub fn publish_exactly(
        &mut self,
        id: u16,
        message: &Outgoing,
        again: bool,
        out: &mut BytesMut,
    ) -> Result<(), Unsendable> {
        let mut name = self.aliases.name(&message.topic);
        let mut packet = self.packet(message, Some(id), Qos::ExactlyOnce, again, name);
        if let (Err(Unsendable::TooLarge { .. }), Name::Introduce(_)) = (&packet, name) {
            name = Name::Whole;
            packet = self.packet(message, Some(id), Qos::ExactlyOnce, again, name);
        }
        out.extend_from_slice(&packet?.to_continuous_buffer());
        self.aliases.sent(&message.topic, name);
        Ok(())
    }

    /// Writes a PUBREL to `out`.
    pub fn release(&self, id: u16, out: &mut BytesMut) {
        let [a, b] = id.to_be_bytes();
        out.extend_from_slice(&[PUBREL, 2, a, b]);
    }
}
