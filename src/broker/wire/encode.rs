//! Packets of a server to bytes, appended to a buffer.

use bytes::{BufMut, BytesMut};
use tokio::time::Instant;

use super::super::message::Publish;
use super::{Version, reason};

/// PUBACK, PUBREC, PUBREL (with its flag) or PUBCOMP: the first byte of the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    Ack = 0x40,
    Rec = 0x50,
    Rel = 0x62,
    Comp = 0x70,
}

/// How one subscriber gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// Packet id; 0 exactly at QoS 0.
    pub id: u16,
    /// 0 to 2.
    pub qos: u8,
    /// Sent before.
    pub dup: bool,
    /// Retain flag.
    pub retain: bool,
    /// Identifiers of the subscriptions that matched.
    pub subscription_ids: &'a [u32],
}

/// What the server tells a client that it accepts (§3.2.2.3).
#[derive(Debug, Clone, Copy)]
pub struct Welcome<'a> {
    /// There was a session to go on with.
    pub session_present: bool,
    /// Our Receive Maximum.
    pub receive_maximum: u16,
    /// Our Maximum Packet Size.
    pub maximum_packet: u32,
    /// Aliases the client may use.
    pub topic_alias_maximum: u16,
    /// The id we chose for it.
    pub assigned_id: Option<&'a str>,
}

/// Bytes of a [`welcome`] of MQTT 5; `assigned`: with an id of ours in it.
#[must_use]
pub fn welcome_len(assigned: Option<&str>) -> usize {
    16 + assigned.map_or(0, |id| 3 + id.len())
}

/// CONNACK that accepts.
pub fn welcome(out: &mut BytesMut, version: Version, w: &Welcome<'_>) {
    let mut body = BytesMut::new();
    // MQTT 3.1 does not use this byte.
    body.put_u8(u8::from(w.session_present && version != Version::V3));
    body.put_u8(reason::SUCCESS);
    if version == Version::V5 {
        let mut props = BytesMut::new();
        props.put_u8(0x21);
        props.put_u16(w.receive_maximum);
        props.put_u8(0x27);
        props.put_u32(w.maximum_packet);
        props.put_u8(0x22);
        props.put_u16(w.topic_alias_maximum);
        if let Some(id) = w.assigned_id {
            props.put_u8(0x12);
            string(&mut props, id);
        }
        varint(&mut body, props.len());
        body.put_slice(&props);
    }
    packet(out, 0x20, &body);
}

/// CONNACK that refuses. MQTT 3.1.1 has five codes for all reasons, and none for a will topic that is no topic: then nothing
/// is said (MQTT-3.2.2-6).
pub fn refuse(out: &mut BytesMut, version: Version, reason: u8) {
    match version {
        Version::V5 => packet(out, 0x20, &[0, reason, 0]),
        Version::V3 | Version::V4 => {
            let code = match reason {
                reason::UNSUPPORTED_VERSION => 1,
                reason::CLIENT_ID_INVALID => 2,
                reason::BAD_USER_OR_PASSWORD => 4,
                reason::NOT_AUTHORIZED => 5,
                reason::TOPIC_INVALID => return,
                _ => 3,
            };
            packet(out, 0x20, &[0, code]);
        }
    }
}

/// PUBLISH.
pub fn publish(out: &mut BytesMut, version: Version, message: &Publish, d: &Delivery<'_>, now: Instant) {
    let mut props = BytesMut::new();
    if version == Version::V5 {
        publish_properties(&mut props, message, d, now);
    }
    let mut length = 2 + message.topic.len() + message.payload.len();
    length += if d.qos > 0 { 2 } else { 0 };
    length += if version == Version::V5 { varint_len(props.len()) + props.len() } else { 0 };
    out.reserve(5 + length);
    out.put_u8(0x30 | u8::from(d.dup) << 3 | d.qos << 1 | u8::from(d.retain));
    varint(out, length);
    string(out, &message.topic);
    if d.qos > 0 {
        out.put_u16(d.id);
    }
    if version == Version::V5 {
        varint(out, props.len());
        out.put_slice(&props);
    }
    out.put_slice(&message.payload);
}

fn publish_properties(props: &mut BytesMut, message: &Publish, d: &Delivery<'_>, now: Instant) {
    if let Some(at) = message.expires {
        let left = at.saturating_duration_since(now).as_secs_f64().ceil();
        props.put_u8(0x02);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` saturates; it was a u32"
        )]
        props.put_u32(left as u32);
    }
    for id in d.subscription_ids {
        props.put_u8(0x0B);
        varint(props, *id as usize);
    }
    let Some(p) = &message.props else { return };
    if let Some(format) = p.payload_format {
        props.put_slice(&[0x01, format]);
    }
    for (id, text) in [(0x03, &p.content_type), (0x08, &p.response_topic)] {
        if let Some(text) = text {
            props.put_u8(id);
            string(props, text);
        }
    }
    if let Some(data) = &p.correlation {
        props.put_u8(0x09);
        binary(props, data);
    }
    for (key, value) in &p.user {
        props.put_u8(0x26);
        string(props, key);
        string(props, value);
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
pub fn ack(out: &mut BytesMut, version: Version, kind: Reply, id: u16, reason: u8) {
    let [high, low] = id.to_be_bytes();
    if version == Version::V5 && reason != reason::SUCCESS {
        packet(out, kind as u8, &[high, low, reason]);
    } else {
        packet(out, kind as u8, &[high, low]);
    }
}

/// SUBACK. MQTT 3.1.1 knows one refusal, 0x80; 3.1 knows none, and is told QoS 0 (as mosquitto grants what it will not
/// deliver).
pub fn suback(out: &mut BytesMut, version: Version, id: u16, codes: &[u8]) {
    let mut body = BytesMut::new();
    body.put_u16(id);
    match version {
        Version::V5 => {
            body.put_u8(0);
            body.put_slice(codes);
        }
        Version::V4 => codes.iter().for_each(|c| body.put_u8((*c).min(0x80))),
        Version::V3 => codes.iter().for_each(|c| body.put_u8(if *c < 0x80 { *c } else { 0 })),
    }
    packet(out, 0x90, &body);
}

/// UNSUBACK. MQTT 3.1.1 has no codes in it.
pub fn unsuback(out: &mut BytesMut, version: Version, id: u16, codes: &[u8]) {
    let mut body = BytesMut::new();
    body.put_u16(id);
    if version == Version::V5 {
        body.put_u8(0);
        body.put_slice(codes);
    }
    packet(out, 0xB0, &body);
}

/// PINGRESP.
pub fn pingresp(out: &mut BytesMut) {
    packet(out, 0xD0, &[]);
}

/// DISCONNECT; MQTT 3.1.1 servers do not send it.
pub fn disconnect(out: &mut BytesMut, version: Version, reason: u8) {
    if version == Version::V5 {
        packet(out, 0xE0, &[reason]);
    }
}

fn packet(out: &mut BytesMut, first: u8, body: &[u8]) {
    out.put_u8(first);
    varint(out, body.len());
    out.put_slice(body);
}

fn string(out: &mut BytesMut, text: &str) {
    binary(out, text.as_bytes());
}

/// Strings and binaries came in with a two-byte length, or were checked by `topic::is_name`.
fn binary(out: &mut BytesMut, bytes: &[u8]) {
    let n = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u16(n);
    out.put_slice(&bytes[..usize::from(n)]);
}

fn varint(out: &mut BytesMut, mut n: usize) {
    loop {
        let low = u8::try_from(n & 0x7F).unwrap_or(0);
        n >>= 7;
        if n == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

fn varint_len(n: usize) -> usize {
    match n {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::message::Props;
    use super::super::{Packet, decode, reader};
    use super::*;

    fn round(version: Version, message: &Publish, d: &Delivery<'_>) -> Packet {
        let mut out = BytesMut::new();
        publish(&mut out, version, message, d, Instant::now());
        let f = reader::frame(&out, usize::MAX).unwrap().unwrap();
        assert_eq!(f.end, out.len());
        decode::packet(version, f.first, &out[f.start..f.end]).unwrap()
    }

    #[test]
    fn a_welcome_is_as_long_as_is_said() {
        for assigned_id in [None, Some("auto-0123456789abcdef")] {
            let mut out = BytesMut::new();
            let w = Welcome {
                session_present: false,
                receive_maximum: 128,
                maximum_packet: 1 << 20,
                topic_alias_maximum: 32,
                assigned_id,
            };
            welcome(&mut out, Version::V5, &w);
            assert_eq!(out.len(), welcome_len(assigned_id));
        }
    }

    #[tokio::test]
    async fn properties_reach_version_5_and_are_left_out_for_version_4() {
        let props = Props {
            payload_format: Some(1),
            content_type: Some("text".into()),
            response_topic: Some("r".into()),
            correlation: Some(vec![1, 2].into()),
            user: vec![("k".into(), "v".into()), ("k".into(), "w".into())],
        };
        let mut message = Publish::plain("温度/1", "21,5", 1, false);
        message.props = Some(Box::new(props.clone()));
        let d = Delivery { id: 7, qos: 1, dup: true, retain: false, subscription_ids: &[] };
        let Packet::Publish(v5) = round(Version::V5, &message, &d) else { panic!() };
        assert_eq!((v5.props.as_deref(), v5.id, v5.dup), (Some(&props), 7, true));
        let Packet::Publish(v4) = round(Version::V4, &message, &d) else { panic!() };
        assert_eq!((v4.props, v4.topic.as_str(), &v4.payload[..]), (None, "温度/1", &b"21,5"[..]));
    }
}
