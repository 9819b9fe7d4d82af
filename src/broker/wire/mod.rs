//! MQTT 3.1, 3.1.1 and 5 on the wire: bytes to packets and back. No I/O, no state, nothing a byte can panic.
//!
//! Written for the server's side only: what a client may send is read, what a server sends is written.
//! Section numbers are those of the MQTT 5.0 specification.
//!
//! MQTT 3.1 (`MQIsdp`, level 3) is read as its specification of 2010 says, leniently where that costs nobody anything:
//! client ids may be longer than 23 bytes; a user name or password may be missing though its flag is set; DUP may stand on
//! SUBSCRIBE, UNSUBSCRIBE and PUBREL; header flags without a meaning have none. Its SUBACK has no refusal: as with mosquitto
//! a filter that a client may not read is granted (with QoS 0) and brings nothing, and one that is no filter is the end.

pub mod decode;
pub mod encode;
pub mod props;
pub mod reader;

use bytes::Bytes;

use super::message::Props;
pub use reader::Fault;

/// Protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.
    V3,
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// Reason codes (§2.4) that this broker uses.
pub mod reason {
    pub const SUCCESS: u8 = 0x00;
    pub const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
    pub const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    pub const MALFORMED: u8 = 0x81;
    pub const PROTOCOL_ERROR: u8 = 0x82;
    pub const UNSUPPORTED_VERSION: u8 = 0x84;
    pub const CLIENT_ID_INVALID: u8 = 0x85;
    pub const BAD_USER_OR_PASSWORD: u8 = 0x86;
    pub const NOT_AUTHORIZED: u8 = 0x87;
    pub const SERVER_UNAVAILABLE: u8 = 0x88;
    pub const SERVER_BUSY: u8 = 0x89;
    pub const SHUTTING_DOWN: u8 = 0x8B;
    pub const BAD_AUTH_METHOD: u8 = 0x8C;
    pub const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
    pub const TAKEN_OVER: u8 = 0x8E;
    pub const FILTER_INVALID: u8 = 0x8F;
    pub const TOPIC_INVALID: u8 = 0x90;
    pub const PACKET_ID_NOT_FOUND: u8 = 0x92;
    pub const RECEIVE_MAXIMUM: u8 = 0x93;
    pub const TOPIC_ALIAS_INVALID: u8 = 0x94;
    pub const PACKET_TOO_LARGE: u8 = 0x95;
    pub const QUOTA_EXCEEDED: u8 = 0x97;
    pub const ADMINISTRATIVE_ACTION: u8 = 0x98;
    pub const PAYLOAD_FORMAT: u8 = 0x99;
}

/// The first packet of a connection (§3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Which protocol the client speaks.
    pub version: Version,
    /// Clean start (MQTT 5) or clean session (3.1.1).
    pub clean: bool,
    /// Seconds; 0: none.
    pub keep_alive: u16,
    /// `""`: the server chooses one.
    pub client_id: String,
    /// What to publish when the connection ends without DISCONNECT.
    pub will: Option<WillPacket>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Bytes>,
    /// Session expiry in seconds (MQTT 5); `u32::MAX`: never.
    pub session_expiry: u32,
    /// How many QoS 1 and 2 messages the client takes at once.
    pub receive_maximum: u16,
    /// Largest packet the client takes.
    pub maximum_packet: u32,
    /// Asks for an authentication exchange that this broker does not have.
    pub wants_auth: bool,
}

/// A will as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WillPacket {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// 0 to 2.
    pub qos: u8,
    /// Retained.
    pub retain: bool,
    /// Seconds between the end of the connection and the will.
    pub delay: u32,
    /// Seconds after which it is worth nothing.
    pub expiry: Option<u32>,
    /// Properties that travel on.
    pub props: Option<Box<Props>>,
}

/// A PUBLISH as sent (§3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishPacket {
    /// Repeated.
    pub dup: bool,
    /// 0 to 2.
    pub qos: u8,
    /// Keep as the topic's last value.
    pub retain: bool,
    /// `""`: the alias says it.
    pub topic: String,
    /// Packet id; 0 exactly at QoS 0.
    pub id: u16,
    /// Topic alias.
    pub alias: Option<u16>,
    /// Seconds after which it is worth nothing.
    pub expiry: Option<u32>,
    /// Properties that travel on.
    pub props: Option<Box<Props>>,
    /// Application message.
    pub payload: Bytes,
}

/// One wish of a SUBSCRIBE (§3.8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Topic filter, not yet checked.
    pub filter: String,
    /// Most the client wants.
    pub qos: u8,
    /// Not its own messages.
    pub no_local: bool,
    /// Retain flag as it was published.
    pub retain_as_published: bool,
    /// 0: send retained ones; 1: only if the subscription is new; 2: do not.
    pub retain_handling: u8,
}

/// What a client may send after CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Publish(PublishPacket),
    PubAck { id: u16 },
    PubRec { id: u16, reason: u8 },
    PubRel { id: u16 },
    PubComp { id: u16 },
    Subscribe { id: u16, subscription_id: Option<u32>, wishes: Vec<Wish> },
    Unsubscribe { id: u16, filters: Vec<String> },
    PingReq,
    Disconnect { reason: u8, session_expiry: Option<u32> },
}
