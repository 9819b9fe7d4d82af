//! Messages of other MQTT devices on their way through the log: what of them is kept, and what goes on with them.

use std::sync::Arc;

use bytes::Bytes;

use super::{BootMs, Id, Reading, WallMs};

/// User property of MQTT 5 that names the gateways a message was forwarded by, one property for each.
pub const VIA: &str = "fieldgate-via";

/// Properties of an MQTT 5 message that travel on with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Props {
    /// 1: the payload is UTF-8.
    pub payload_format: Option<u8>,
    /// What the payload is.
    pub content_type: Option<String>,
    /// Where to answer.
    pub response_topic: Option<String>,
    /// What to answer with.
    pub correlation: Option<Bytes>,
    /// Anything else, in order.
    pub user: Vec<(String, String)>,
}

impl Props {
    /// Bytes it stands for in limits.
    #[must_use]
    pub fn size(&self) -> usize {
        let text = |s: &Option<String>| s.as_ref().map_or(0, String::len);
        let user: usize = self.user.iter().map(|(k, v)| k.len() + v.len() + 48).sum();
        64 + text(&self.content_type)
            + text(&self.response_topic)
            + self.correlation.as_ref().map_or(0, Bytes::len)
            + user
    }
}

/// A message of another device, as the log keeps it. The payload is never altered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// When the local broker took it.
    pub at: BootMs,
    /// Local topic.
    pub topic: Arc<str>,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service it was published with, 0 to 2.
    pub qos: u8,
    /// The publisher's retain flag.
    pub retain: bool,
    /// Properties of MQTT 5, if it has any.
    pub props: Option<Box<Props>>,
    /// Seconds after `at` from which on nobody wants it.
    pub expiry: Option<u32>,
    /// The uplink that brought it here, if one did.
    pub origin: Option<Arc<str>>,
}

impl Forwarded {
    /// Bytes it stands for in limits: topic, payload and properties.
    #[must_use]
    pub fn size(&self) -> usize {
        self.topic.len() + self.payload.len() + self.props.as_ref().map_or(0, |p| p.size())
    }

    /// Whether this gateway has forwarded it before.
    #[must_use]
    pub fn was_here(&self, gateway: &str) -> bool {
        self.props.iter().flat_map(|p| &p.user).any(|(key, value)| key == VIA && value == gateway)
    }
}

/// A [`Forwarded`] with its identity and wall time.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardedRecord {
    /// Epoch and sequence number.
    pub id: Id,
    /// When the local broker took it, on the true time line as far as it is known.
    pub ts: WallMs,
    /// The message.
    pub message: Arc<Forwarded>,
}

/// What has a number of its own in the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A reading of a point.
    Reading(Reading),
    /// A message of another device.
    Message(Arc<Forwarded>),
}

impl Entry {
    /// When it was taken.
    #[must_use]
    pub fn at(&self) -> BootMs {
        match self {
            Self::Reading(reading) => reading.at,
            Self::Message(message) => message.at,
        }
    }

    /// The reading, if it is one.
    #[must_use]
    pub fn reading(&self) -> Option<&Reading> {
        match self {
            Self::Reading(reading) => Some(reading),
            Self::Message(_) => None,
        }
    }

    /// The message, if it is one.
    #[must_use]
    pub fn message(&self) -> Option<&Arc<Forwarded>> {
        match self {
            Self::Reading(_) => None,
            Self::Message(message) => Some(message),
        }
    }

    /// What it is of, for a person: `device/point`, or the local topic.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Reading(reading) => reading.point.path(),
            Self::Message(message) => message.topic.to_string(),
        }
    }
}

impl From<Reading> for Entry {
    fn from(reading: Reading) -> Self {
        Self::Reading(reading)
    }
}
