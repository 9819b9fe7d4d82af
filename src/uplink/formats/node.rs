//! What a format has beyond one message after the other: a presence of its own at the broker, with a will, births,
//! sequence numbers and topics that it listens to. Sparkplug needs it; the other formats have none of it.

use std::sync::Arc;

use bytes::Bytes;

/// What the broker publishes when we vanish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// Kept by the broker.
    pub retain: bool,
}

/// Makes the will of the CONNECT that is about to be sent, and what has to be on the disk before: called once for each.
pub type MakeWill = Arc<dyn Fn() -> (Will, Option<Keep>) + Send + Sync>;

/// Writes to the disk, and waits for it.
pub type Keep = Box<dyn FnOnce() + Send>;

/// A message that goes out with QoS 0, in order with all others of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Topic.
    pub topic: Arc<str>,
    /// Payload.
    pub payload: Bytes,
}

/// What a message from the broker means to a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// It is not for the node.
    NotMine,
    /// It was for the node, and nothing else is to be done.
    Done,
    /// Writes are asked for: device, point and the command's JSON.
    Commands(Vec<(String, String, Bytes)>),
    /// The connection must be ended, in order, and why.
    Leave(String),
}

/// A presence at the broker. All its packets carry numbers in the order in which they are handed out here; they must
/// go out in that order, or [`Node::disturbed`] be told.
pub trait Node {
    /// Topic filters to subscribe to before anything is published; `true`: with what is retained there.
    fn filters(&self) -> Vec<(String, bool)>;

    /// A new connection stands.
    fn connected(&mut self);

    /// A retained message of the local tree, by what follows the root (`meta/<device>/<point>`).
    fn local(&mut self, rest: &str, payload: &[u8]);

    /// The next packet that must go out before any reading does.
    fn next_packet(&mut self) -> Option<Packet>;

    /// The next of the packets that belong before the message that was encoded last.
    fn queued(&mut self) -> Option<Packet>;

    /// A packet could not be sent, so the numbers have a hole: begin anew.
    fn disturbed(&mut self);

    /// Something came from the broker.
    fn heard(&mut self, topic: &str, payload: &[u8]) -> Heard;

    /// What is published, with QoS 1, before the connection is ended in order.
    fn farewell(&mut self) -> Will;
}
