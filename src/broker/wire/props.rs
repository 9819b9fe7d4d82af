//! MQTT 5 properties (§2.2.2): read as one set, with what is allowed where.

use bytes::Bytes;

use super::super::message::Props;
use super::reader::{Fault, Reader};

/// All properties a client may send, in any packet.
#[derive(Debug, Default)]
pub struct Set {
    pub travelling: Props,
    pub message_expiry: Option<u32>,
    pub subscription_id: Option<u32>,
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub maximum_packet: Option<u32>,
    pub topic_alias: Option<u16>,
    pub will_delay: Option<u32>,
    pub auth_method: bool,
    pub auth_data: bool,
}

/// Allowed in CONNECT.
pub const CONNECT: &[u8] = &[0x11, 0x21, 0x27, 0x22, 0x19, 0x17, 0x26, 0x15, 0x16];
/// Allowed in a will.
pub const WILL: &[u8] = &[0x18, 0x01, 0x02, 0x03, 0x08, 0x09, 0x26];
/// Allowed in PUBLISH from a client (the subscription identifier is not).
pub const PUBLISH: &[u8] = &[0x01, 0x02, 0x23, 0x08, 0x09, 0x26, 0x03];
/// Allowed in acknowledgements.
pub const ACK: &[u8] = &[0x1F, 0x26];
/// Allowed in SUBSCRIBE.
pub const SUBSCRIBE: &[u8] = &[0x0B, 0x26];
/// Allowed in UNSUBSCRIBE.
pub const UNSUBSCRIBE: &[u8] = &[0x26];
/// Allowed in DISCONNECT from a client.
pub const DISCONNECT: &[u8] = &[0x11, 0x1F, 0x26];

const USER_PROPERTY: u8 = 0x26;

/// Reads a property length and the properties.
///
/// # Errors
/// One is unknown, not allowed here, there twice, or its value is out of range.
pub fn read(reader: &mut Reader<'_>, allowed: &[u8]) -> Result<Set, Fault> {
    let length = reader.varint()? as usize;
    let mut r = Reader::new(reader.take(length)?);
    let mut set = Set::default();
    let mut seen = 0u64;
    while !r.is_empty() {
        let id = r.byte()?;
        if !allowed.contains(&id) {
            // Only servers put it into PUBLISH (MQTT-3.3.4-6); anything else makes the packet malformed (§2.2.2.2).
            let from_servers = allowed == PUBLISH && id == 0x0B;
            let fault = if from_servers { Fault::protocol } else { Fault::malformed };
            return Err(fault("a property that does not belong here"));
        }
        // All allowed ids are below 64.
        if id != USER_PROPERTY && seen & (1 << id) != 0 {
            return Err(Fault::protocol("a property is there twice"));
        }
        seen |= 1 << id;
        let t = &mut set.travelling;
        match id {
            0x01 => t.payload_format = Some(flag(&mut r)?),
            0x02 => set.message_expiry = Some(r.u32()?),
            0x03 => t.content_type = Some(r.string()?.to_owned()),
            0x08 => {
                let topic = r.string()?;
                if topic.is_empty() || topic.contains(['+', '#']) {
                    return Err(Fault::protocol("response topic is not a topic name"));
                }
                t.response_topic = Some(topic.to_owned());
            }
            0x09 => t.correlation = Some(Bytes::copy_from_slice(r.binary()?)),
            0x0B => match r.varint()? {
                0 => return Err(Fault::protocol("subscription identifier 0")),
                id => set.subscription_id = Some(id),
            },
            0x11 => set.session_expiry = Some(r.u32()?),
            0x15 => {
                r.string()?;
                set.auth_method = true;
            }
            0x16 => {
                r.binary()?;
                set.auth_data = true;
            }
            0x17 | 0x19 => drop(flag(&mut r)?),
            0x18 => set.will_delay = Some(r.u32()?),
            0x1F => drop(r.string()?),
            0x21 => match r.u16()? {
                0 => return Err(Fault::protocol("receive maximum 0")),
                n => set.receive_maximum = Some(n),
            },
            // Topic Alias Maximum: this server sends no aliases, so every value is fine, 0 too.
            0x22 => drop(r.u16()?),
            0x23 => set.topic_alias = Some(r.u16()?),
            USER_PROPERTY => {
                let (key, value) = (r.string()?, r.string()?);
                t.user.push((key.to_owned(), value.to_owned()));
            }
            0x27 => match r.u32()? {
                0 => return Err(Fault::protocol("maximum packet size 0")),
                n => set.maximum_packet = Some(n),
            },
            _ => return Err(Fault::malformed("unknown property")),
        }
    }
    Ok(set)
}

fn flag(r: &mut Reader<'_>) -> Result<u8, Fault> {
    match r.byte()? {
        flag @ (0 | 1) => Ok(flag),
        _ => Err(Fault::protocol("a flag property that is neither 0 nor 1")),
    }
}

impl Set {
    /// The part that travels on with the message, if there is any.
    #[must_use]
    pub fn into_travelling(self) -> Option<Box<Props>> {
        (self.travelling != Props::default()).then(|| Box::new(self.travelling))
    }
}
