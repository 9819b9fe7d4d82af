//! Packets of a client, byte by byte: builders that can also build what no client should send, and a reader of PUBLISH.

pub use support::packets::{packet, text, varint};

use crate::suite::V;

/// A property section: nothing at all before MQTT 5.
pub fn section(v: V, props: &[u8]) -> Vec<u8> {
    if v == V::Five { [varint(props.len()), props.to_vec()].concat() } else { Vec::new() }
}

/// A CONNECT in the making. It begins clean, without keep-alive, will and login.
#[derive(Debug, Clone)]
pub struct Connect {
    pub v: V,
    pub name: Vec<u8>,
    pub level: u8,
    pub flags: u8,
    keep_alive: u16,
    props: Vec<u8>,
    id: Vec<u8>,
    will: Vec<u8>,
    login: Vec<u8>,
}

impl Connect {
    pub fn new(v: V, id: impl AsRef<[u8]>) -> Self {
        let (name, level) = match v {
            V::Old => ("MQIsdp", 3),
            V::Four => ("MQTT", 4),
            V::Five => ("MQTT", 5),
        };
        let (props, will, login) = Default::default();
        let id = text(id);
        Self { v, name: name.into(), level, flags: 2, keep_alive: 0, props, id, will, login }
    }

    /// Goes on with a session that is there.
    pub fn resuming(mut self) -> Self {
        self.flags &= !2;
        self
    }

    /// Sets more flags, whatever they are.
    pub fn flagged(mut self, flags: u8) -> Self {
        self.flags |= flags;
        self
    }

    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    /// Adds a property (MQTT 5).
    pub fn prop(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.props.extend_from_slice(bytes.as_ref());
        self
    }

    pub fn will(self, qos: u8, retain: bool, topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        self.will_with(qos, retain, &[], topic, payload)
    }

    pub fn will_with(
        mut self,
        qos: u8,
        retain: bool,
        props: &[u8],
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> Self {
        self.flags |= 4 | qos << 3 | u8::from(retain) << 5;
        self.will = [section(self.v, props), text(topic), text(payload)].concat();
        self
    }

    pub fn user(mut self, name: impl AsRef<[u8]>) -> Self {
        self.flags |= 0x80;
        self.login.extend(text(name));
        self
    }

    pub fn password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.flags |= 0x40;
        self.login.extend(text(password));
        self
    }

    /// The payload as it stands, and `rest` behind it.
    pub fn bytes_and(&self, rest: &[u8]) -> Vec<u8> {
        let mut body = text(&self.name);
        body.extend([self.level, self.flags]);
        body.extend(self.keep_alive.to_be_bytes());
        body.extend(section(self.v, &self.props));
        body.extend([&self.id[..], &self.will, &self.login, rest].concat());
        packet(0x10, &body)
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_and(&[])
    }
}

/// PUBLISH. `flags`: DUP 8, QoS 2 or 4, retain 1.
pub fn publish(v: V, flags: u8, topic: impl AsRef<[u8]>, id: u16, props: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 6 != 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(section(v, props));
    body.extend(payload);
    packet(0x30 | flags, &body)
}

/// SUBSCRIBE to filters with their options.
pub fn subscribe<F: AsRef<[u8]>>(v: V, id: u16, props: &[u8], filters: &[(F, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(section(v, props));
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

/// UNSUBSCRIBE.
pub fn unsubscribe<F: AsRef<[u8]>>(v: V, id: u16, filters: &[F]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(section(v, &[]));
    filters.iter().for_each(|filter| body.extend(text(filter)));
    packet(0xA2, &body)
}

/// A PUBLISH as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    pub first: u8,
    pub topic: Vec<u8>,
    /// 0 at QoS 0.
    pub id: u16,
    /// Identifier and value, in their order.
    pub props: Vec<(u8, Vec<u8>)>,
    pub payload: Vec<u8>,
}

impl Publish {
    /// Reads a whole packet; `None`: it is no PUBLISH.
    pub fn read(v: V, packet: &[u8]) -> Option<Self> {
        let first = *packet.first().filter(|first| *first >> 4 == 3)?;
        let (_, used) = read_varint(packet.get(1..)?)?;
        let rest = packet.get(1 + used..)?;
        let length = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
        let topic = rest.get(2..2 + length)?.to_vec();
        let mut rest = rest.get(2 + length..)?;
        let mut id = 0;
        if first & 6 != 0 {
            id = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
            rest = rest.get(2..)?;
        }
        let mut found = Vec::new();
        if v == V::Five {
            let (length, used) = read_varint(rest)?;
            found = props(rest.get(used..used + length)?)?;
            rest = rest.get(used + length..)?;
        }
        Some(Self { first, topic, id, props: found, payload: rest.to_vec() })
    }

    pub fn qos(&self) -> u8 {
        self.first >> 1 & 3
    }

    pub fn dup(&self) -> bool {
        self.first & 8 != 0
    }

    pub fn retain(&self) -> bool {
        self.first & 1 != 0
    }

    /// All values of a property.
    pub fn values(&self, id: u8) -> Vec<&[u8]> {
        self.props.iter().filter(|(i, _)| *i == id).map(|(_, value)| value.as_slice()).collect()
    }
}

/// A variable byte integer, and how many bytes it takes.
pub fn read_varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (n, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((value, n + 1));
        }
    }
    None
}

/// The properties of a section, each with its value as sent (§2.2.2.2).
pub fn props(mut rest: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut found = Vec::new();
    while let Some((&id, after)) = rest.split_first() {
        let string = |at: usize| {
            let length = u16::from_be_bytes([*after.get(at)?, *after.get(at + 1)?]);
            Some(2 + usize::from(length))
        };
        let length = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => 1,
            0x13 | 0x21 | 0x22 | 0x23 => 2,
            0x02 | 0x11 | 0x18 | 0x27 => 4,
            0x0B => read_varint(after)?.1,
            0x26 => {
                let key = string(0)?;
                key + string(key)?
            }
            _ => string(0)?,
        };
        found.push((id, after.get(..length)?.to_vec()));
        rest = after.get(length..)?;
    }
    Some(found)
}
