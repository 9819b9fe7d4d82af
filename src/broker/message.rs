//! A message as the broker carries it, with what MQTT 5 adds to the plain one.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::trie::Key;
use crate::message::Message;
pub use crate::message::Props;

/// A published message.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Full topic, well-formed.
    pub topic: Arc<str>,
    /// Payload, a copy of its own: it pins no read buffer.
    pub payload: Bytes,
    /// Quality of service it was published with.
    pub qos: u8,
    /// The publisher's retain flag.
    pub retain: bool,
    /// MQTT 5 properties, if it has any.
    pub props: Option<Box<Props>>,
    /// When it is no longer worth delivering.
    pub expires: Option<Instant>,
    /// Who published it; 0 is this process.
    pub from: Key,
    /// The uplink that brought it, if one did.
    pub origin: Option<Arc<str>>,
}

impl Publish {
    /// A message without properties, of this process.
    #[must_use]
    pub fn plain(topic: impl Into<Arc<str>>, payload: impl Into<Bytes>, qos: u8, retain: bool) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos,
            retain,
            props: None,
            expires: None,
            from: 0,
            origin: None,
        }
    }

    /// Bytes it stands for in limits: topic, payload and properties.
    #[must_use]
    pub fn size(&self) -> usize {
        self.topic.len() + self.payload.len() + self.props.as_ref().map_or(0, |p| p.size())
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// As the rest of the process sees it.
    #[must_use]
    pub fn to_message(&self, retain: bool) -> Message {
        Message { topic: self.topic.clone(), payload: self.payload.clone(), qos: self.qos, retain }
    }
}

impl From<Message> for Publish {
    fn from(m: Message) -> Self {
        Self::plain(m.topic, m.payload, m.qos.min(2), m.retain)
    }
}
