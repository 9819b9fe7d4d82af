//! What goes with QoS 0, and the part of a connection that a [`Node`](crate::uplink::formats::node::Node) needs: births before readings, packets with
//! QoS 0 in order, and what confirms them.
//!
//! QoS 0 has no acknowledgement, but MQTT runs over one ordered stream: a broker that answers a PINGREQ has read
//! everything that was written before it. So behind readings a ping goes out, one at a time, and its answer settles
//! all that went before. When the connection ends first, they are unsettled like anything else and go again.

use std::collections::VecDeque;

use super::{Cargo, Fault, Incoming, Instant, Outgoing, Session, Unsendable};
use crate::bounds;
use crate::message::{CommandRequest, Origin};
use crate::uplink::formats::node::Heard;
use crate::uplink::share::Class;

/// Numbers of messages without a packet id begin behind the largest one.
const BEHIND_IDS: u32 = 1 << 16;

/// What is confirmed of the messages with QoS 0, by their count on this connection.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    sent: u32,
    settled: u32,
    /// How many had been sent at each ping that was not answered yet.
    pings: VecDeque<u32>,
    /// Why the connection must be ended in order.
    leave: Option<String>,
}

impl Session<'_> {
    /// Everything that must go before readings, as far as there is room.
    pub(super) fn births(&mut self) -> Result<(), Fault> {
        if self.farewell {
            return Ok(());
        }
        while self.out.len() < bounds::UPLINK_OUT_BYTES {
            let Some(packet) = self.delivery.node().and_then(|node| node.next_packet()) else { break };
            self.protocol.publish_unacknowledged(&packet, &mut self.out).map_err(|e| {
                // A birth cannot be cut into pieces, and nothing may be sent without it.
                Fault::Protocol(match e {
                    Unsendable::TooLarge { size, limit } => format!(
                        "`{}` has {size} bytes, and the broker takes {limit}: allow it larger packets",
                        packet.topic
                    ),
                    Unsendable::Invalid(why) | Unsendable::Engine(why) => {
                        format!("`{}` cannot be sent: {why}", packet.topic)
                    }
                })
            })?;
        }
        Ok(())
    }

    /// Readings of a node, with all packets that belong before them.
    pub(super) fn publish_in_order(&mut self, message: Outgoing, now: Instant) -> Result<(), Fault> {
        let mut sent = Ok(());
        while sent.is_ok()
            && let Some(packet) = self.delivery.node().and_then(|node| node.queued())
        {
            sent = self.protocol.publish_unacknowledged(&packet, &mut self.out);
        }
        let sent = sent.and_then(|()| self.protocol.publish_without_id(&message, &mut self.out));
        let Err(problem) = sent else {
            self.sent_in_order(message, now);
            return Ok(());
        };
        if let Some(node) = self.delivery.node() {
            node.disturbed();
        }
        self.unsendable(problem, message, now)
    }

    /// A message with QoS 0 is written.
    pub(super) fn sent_in_order(&mut self, message: Outgoing, now: Instant) {
        self.confirmed.sent += 1;
        self.delivery.sent(&message);
        self.inflight.sent(BEHIND_IDS + self.confirmed.sent, message, now);
        self.leaving = self.out.len();
    }

    /// A ping behind what is not confirmed, unless one is under way.
    pub(super) fn confirm(&mut self) -> Result<(), Fault> {
        if self.confirmed.sent > self.confirmed.settled && self.confirmed.pings.is_empty() {
            self.ping()?;
        }
        Ok(())
    }

    pub(super) fn ping(&mut self) -> Result<(), Fault> {
        self.protocol.ping(&mut self.out)?;
        // One for the keep-alive and one for readings: never more than two.
        self.confirmed.pings.push_back(self.confirmed.sent);
        Ok(())
    }

    /// The oldest ping was answered.
    pub(super) fn answered(&mut self, now: Instant) {
        let Some(through) = self.confirmed.pings.pop_front() else { return };
        for number in self.confirmed.settled + 1..=through {
            if let Some(message) = self.inflight.acked(BEHIND_IDS + number, now) {
                self.delivery.acked(&message, None, now);
            }
        }
        self.confirmed.settled = self.confirmed.settled.max(through);
    }

    /// What is for the node is taken; anything else comes back.
    pub(super) fn node_hears(&mut self, event: Incoming) -> Option<Incoming> {
        let Incoming::Message { topic, payload, retained, .. } = &event else { return Some(event) };
        match self.delivery.node().map_or(Heard::NotMine, |node| node.heard(topic, payload)) {
            Heard::NotMine => return Some(event),
            Heard::Done => {}
            Heard::Leave(why) => self.confirmed.leave = Some(why),
            Heard::Commands(list) => {
                for (device, point, payload) in list {
                    self.request(CommandRequest {
                        device,
                        point,
                        payload,
                        retained: *retained,
                        origin: Origin::Uplink(self.context.name.clone()),
                        received: tokio::time::Instant::now(),
                    });
                }
            }
        }
        None
    }

    /// Why the connection is to be ended now; the node's death is written then.
    pub(super) fn told_to_leave(&mut self, now: Instant) -> Result<Option<Fault>, Fault> {
        let Some(why) = self.confirmed.leave.take() else { return Ok(None) };
        self.say_death(now)?;
        Ok(Some(Fault::Ended { why, settled: false, at_a_message: false }))
    }

    /// The node's own farewell, if there is a node.
    pub(super) fn say_death(&mut self, now: Instant) -> Result<(), Fault> {
        let Some(will) = self.delivery.node().map(|node| node.farewell()) else { return Ok(()) };
        let message = Outgoing {
            cargo: Cargo::Farewell,
            class: Class::Control,
            topic: will.topic.into(),
            payload: will.payload,
            retain: will.retain,
            forwarded: None,
        };
        self.publish(message, now)
    }
}
