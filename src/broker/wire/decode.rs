//! Bytes of a client to packets, every rule of the specification that a single packet can break checked.

use bytes::Bytes;

use super::props;
use super::reader::{Fault, Reader};
use super::{Connect, Packet, PublishPacket, Version, WillPacket, Wish, reason};

/// Reads the body of the first packet. `first` is its type and flags.
///
/// # Errors
/// It is not CONNECT, or breaks a rule; `UNSUPPORTED_VERSION` if it is of another MQTT.
pub fn connect(first: u8, body: &[u8]) -> Result<Connect, Fault> {
    if first != 0x10 {
        return Err(Fault::protocol("the first packet is not CONNECT"));
    }
    let r = &mut Reader::new(body);
    let unsupported = Fault { reason: reason::UNSUPPORTED_VERSION, what: "neither MQTT 3.1, 3.1.1 nor 5" };
    let version = match (r.binary()?, r.byte()?) {
        (b"MQIsdp", 3) => Version::V3,
        (b"MQTT", 4) => Version::V4,
        (b"MQTT", 5) => Version::V5,
        (b"MQTT" | b"MQIsdp", _) => return Err(unsupported),
        _ => return Err(Fault::malformed("protocol name")),
    };
    let flags = r.byte()?;
    let (has_will, will_qos, will_retain) = (flags & 4 != 0, (flags >> 3) & 3, flags & 0x20 != 0);
    let (has_password, has_user) = (flags & 0x40 != 0, flags & 0x80 != 0);
    if flags & 1 != 0 || will_qos == 3 || (!has_will && (will_qos != 0 || will_retain)) {
        return Err(Fault::malformed("connect flags"));
    }
    if version != Version::V5 && has_password && !has_user {
        return Err(Fault::malformed("password without user name"));
    }
    let keep_alive = r.u16()?;
    let set = properties(r, version, props::CONNECT)?;
    if set.auth_data && !set.auth_method {
        return Err(Fault::protocol("authentication data without a method"));
    }
    let client_id = r.string()?.to_owned();
    let will = if has_will {
        let set = properties(r, version, props::WILL)?;
        let topic = r.string()?.to_owned();
        let payload = Bytes::copy_from_slice(r.binary()?);
        payload_is_as_said(&set, &payload)?;
        Some(WillPacket {
            topic,
            payload,
            qos: will_qos,
            retain: will_retain,
            delay: set.will_delay.unwrap_or(0),
            expiry: set.message_expiry,
            props: set.into_travelling(),
        })
    } else {
        None
    };
    // In MQTT 3.1 the remaining length counts for more than these two flags.
    let there = |r: &Reader<'_>, flag| flag && !(version == Version::V3 && r.is_empty());
    let user = if there(r, has_user) { Some(r.string()?.to_owned()) } else { None };
    let password = if there(r, has_password) { Some(Bytes::copy_from_slice(r.binary()?)) } else { None };
    done(r)?;
    let clean = flags & 2 != 0;
    let session_expiry = match version {
        Version::V3 | Version::V4 if clean => 0,
        Version::V3 | Version::V4 => u32::MAX,
        Version::V5 => set.session_expiry.unwrap_or(0),
    };
    Ok(Connect {
        version,
        clean,
        keep_alive,
        client_id,
        will,
        user,
        password,
        session_expiry,
        receive_maximum: set.receive_maximum.unwrap_or(u16::MAX),
        maximum_packet: set.maximum_packet.unwrap_or(u32::MAX),
        wants_auth: set.auth_method,
    })
}

/// Reads any later packet.
///
/// # Errors
/// It breaks a rule, or is none that a client may send.
pub fn packet(version: Version, first: u8, body: &[u8]) -> Result<Packet, Fault> {
    let r = &mut Reader::new(body);
    let (kind, flags) = (first >> 4, first & 0x0F);
    let expected = match (kind, version) {
        (3, _) => flags,
        // MQTT 3.1 repeats these with DUP, and has no use for the flags of others.
        (6 | 8 | 10, Version::V3) => 2 | flags & 8,
        (6 | 8 | 10, _) => 2,
        (_, Version::V3) => flags,
        _ => 0,
    };
    if flags != expected {
        return Err(Fault::malformed("header flags"));
    }
    let packet = match kind {
        1 => return Err(Fault::protocol("a second CONNECT")),
        3 => publish(version, flags, r)?,
        4 => ack(version, r, RECEIVED).map(|(id, _)| Packet::PubAck { id })?,
        5 => ack(version, r, RECEIVED).map(|(id, reason)| Packet::PubRec { id, reason })?,
        6 => ack(version, r, RELEASED).map(|(id, _)| Packet::PubRel { id })?,
        7 => ack(version, r, RELEASED).map(|(id, _)| Packet::PubComp { id })?,
        8 => subscribe(version, r)?,
        10 => unsubscribe(version, r)?,
        12 => Packet::PingReq,
        14 => disconnect(version, r)?,
        15 if version == Version::V5 => return Err(Fault::protocol("AUTH without an authentication method")),
        _ => return Err(Fault::protocol("a packet that only servers send")),
    };
    done(r)?;
    Ok(packet)
}

fn properties(r: &mut Reader<'_>, version: Version, allowed: &[u8]) -> Result<props::Set, Fault> {
    match version {
        Version::V3 | Version::V4 => Ok(props::Set::default()),
        Version::V5 => props::read(r, allowed),
    }
}

fn done(r: &Reader<'_>) -> Result<(), Fault> {
    if r.is_empty() { Ok(()) } else { Err(Fault::malformed("packet too long")) }
}

/// A payload that says it is UTF-8 must be (§3.3.2.3.2, §3.1.3.2.3): its readers rely on that.
fn payload_is_as_said(set: &props::Set, payload: &[u8]) -> Result<(), Fault> {
    if set.travelling.payload_format == Some(1) && std::str::from_utf8(payload).is_err() {
        return Err(Fault { reason: reason::PAYLOAD_FORMAT, what: "payload is not the UTF-8 it says it is" });
    }
    Ok(())
}

fn publish(version: Version, flags: u8, r: &mut Reader<'_>) -> Result<Packet, Fault> {
    let (dup, qos, retain) = (flags & 8 != 0, (flags >> 1) & 3, flags & 1 != 0);
    if qos == 3 || (dup && qos == 0 && version != Version::V3) {
        return Err(Fault::malformed("header flags"));
    }
    let topic = r.string()?.to_owned();
    let id = if qos == 0 { 0 } else { r.packet_id()? };
    let set = properties(r, version, props::PUBLISH)?;
    let payload = Bytes::copy_from_slice(r.take_rest());
    payload_is_as_said(&set, &payload)?;
    let (alias, expiry) = (set.topic_alias, set.message_expiry);
    let props = set.into_travelling();
    Ok(Packet::Publish(PublishPacket { dup, qos, retain, topic, id, alias, expiry, props, payload }))
}

/// Reasons of PUBACK and PUBREC (§3.4.2.1).
const RECEIVED: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
/// Reasons of PUBREL and PUBCOMP (§3.6.2.1).
const RELEASED: &[u8] = &[0x00, 0x92];
/// Reasons of DISCONNECT (§3.14.2.1); those that are for servers are taken from clients, too: they are leaving anyway.
const GOODBYE: &[u8] = &[
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96,
    0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];

fn one_of(reasons: &[u8], reason: u8) -> Result<u8, Fault> {
    if reasons.contains(&reason) { Ok(reason) } else { Err(Fault::protocol("a reason that there is not")) }
}

fn ack(version: Version, r: &mut Reader<'_>, reasons: &[u8]) -> Result<(u16, u8), Fault> {
    let id = r.packet_id()?;
    if version != Version::V5 || r.is_empty() {
        return Ok((id, reason::SUCCESS));
    }
    let reason = one_of(reasons, r.byte()?)?;
    if !r.is_empty() {
        props::read(r, props::ACK)?;
    }
    Ok((id, reason))
}

fn subscribe(version: Version, r: &mut Reader<'_>) -> Result<Packet, Fault> {
    let id = r.packet_id()?;
    let set = properties(r, version, props::SUBSCRIBE)?;
    let mut wishes = Vec::new();
    while !r.is_empty() {
        let filter = r.string()?.to_owned();
        let options = match version {
            // Its upper bits are not used.
            Version::V3 => r.byte()? & 3,
            _ => r.byte()?,
        };
        let retain_handling = (options >> 4) & 3;
        let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
        if options & reserved != 0 {
            return Err(Fault::malformed("subscription options"));
        }
        if options & 3 == 3 || retain_handling == 3 {
            return Err(Fault::protocol("a QoS or Retain Handling that there is not"));
        }
        let no_local = options & 4 != 0;
        if no_local && crate::topic::is_shared(&filter) {
            return Err(Fault::protocol("No Local on a shared subscription"));
        }
        wishes.push(Wish {
            filter,
            qos: options & 3,
            no_local,
            retain_as_published: options & 8 != 0,
            retain_handling,
        });
    }
    if wishes.is_empty() {
        return Err(Fault::protocol("SUBSCRIBE without a filter"));
    }
    Ok(Packet::Subscribe { id, subscription_id: set.subscription_id, wishes })
}

fn unsubscribe(version: Version, r: &mut Reader<'_>) -> Result<Packet, Fault> {
    let id = r.packet_id()?;
    properties(r, version, props::UNSUBSCRIBE)?;
    let mut filters = Vec::new();
    while !r.is_empty() {
        filters.push(r.string()?.to_owned());
    }
    if filters.is_empty() {
        return Err(Fault::protocol("UNSUBSCRIBE without a filter"));
    }
    Ok(Packet::Unsubscribe { id, filters })
}

fn disconnect(version: Version, r: &mut Reader<'_>) -> Result<Packet, Fault> {
    if version != Version::V5 || r.is_empty() {
        return Ok(Packet::Disconnect { reason: reason::SUCCESS, session_expiry: None });
    }
    let reason = one_of(GOODBYE, r.byte()?)?;
    let session_expiry = if r.is_empty() { None } else { props::read(r, props::DISCONNECT)?.session_expiry };
    Ok(Packet::Disconnect { reason, session_expiry })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_connect_of_each_version() {
        let v4 = connect(0x10, b"\0\x04MQTT\x04\xC2\0\x3C\0\x02id\0\x01u\0\x01p").unwrap();
        assert_eq!((v4.version, v4.clean, v4.keep_alive, v4.session_expiry), (Version::V4, true, 60, 0));
        assert_eq!((v4.user.as_deref(), v4.password.as_deref()), (Some("u"), Some(&b"p"[..])));
        let v5 = connect(0x10, b"\0\x04MQTT\x05\x02\0\x00\x0B\x11\0\0\0\x0A\x21\0\x05\x22\0\0\0\0").unwrap();
        assert_eq!((v5.session_expiry, v5.receive_maximum, v5.client_id.as_str()), (10, 5, ""));
    }

    #[test]
    fn a_connect_of_version_3_may_lack_what_its_flags_announce() {
        for body in [&b"\0\x06MQIsdp\x03\xC2\0\0\0\x01a"[..], b"\0\x06MQIsdp\x03\xC2\0\0\0\x01a\0\x01u"] {
            let v3 = connect(0x10, body).unwrap();
            assert_eq!((v3.version, v3.password), (Version::V3, None));
        }
    }

    #[test]
    fn version_3_repeats_with_dup_and_its_other_flags_mean_nothing() {
        for (first, body) in
            [(0x8A, &b"\0\x01\0\x01a\xFD"[..]), (0xAA, b"\0\x01\0\x01a"), (0x6A, b"\0\x01"), (0xCF, b"")]
        {
            assert!(packet(Version::V3, first, body).is_ok(), "{first:02x}");
            assert!(packet(Version::V4, first, body).is_err(), "{first:02x}");
        }
        assert!(packet(Version::V3, 0x84, b"\0\x01\0\x01a\0").is_err());
    }

    #[test]
    fn a_connect_that_breaks_a_rule_is_refused() {
        for (body, reason) in [
            (&b"\0\x04MQTT\x03\x02\0\0\0\0"[..], 0x84),
            (b"\0\x06MQIsdp\x04\x02\0\0\0\0", 0x84),
            (b"\0\x06MQIsdp\x03\x42\0\0\0\0\0\x01p", 0x81),
            (b"\0\x04HTTP\x04\x02\0\0\0\0", 0x81),
            (b"\0\x04MQTT\x04\x03\0\0\0\0", 0x81),
            (b"\0\x04MQTT\x04\x42\0\0\0\0\0\x01p", 0x81),
            (b"\0\x04MQTT\x04\x0A\0\0\0\0", 0x81),
            (b"\0\x04MQTT\x04\x02\0\0\0\0x", 0x81),
            (b"\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\0", 0x82),
            (b"\0\x04MQTT\x05\x02\0\0\x06\x21\0\x01\x21\0\x01\0\0", 0x82),
            (b"\0\x04MQTT\x05\x02\0\0\x02\x01\0\0\0", 0x81),
            (b"\0\x04MQTT\x05\x02\0\0\x04\x16\0\x01x\0\0", 0x82),
            (b"\0\x04MQTT\x05\x06\0\0\0\0\0\x02\x01\x01\0\x01w\0\x01\xFF", 0x99),
        ] {
            assert_eq!(connect(0x10, body).unwrap_err().reason, reason, "{body:?}");
        }
    }

    #[test]
    fn packets_that_break_a_rule_are_refused() {
        for (version, first, body) in [
            (Version::V4, 0x36, &b"\0\x01a\0\x01"[..]),
            (Version::V4, 0x38, b"\0\x01a"),
            (Version::V4, 0x32, b"\0\x01a\0\0"),
            (Version::V4, 0x30, b"\0\x02\xC3\x28"),
            (Version::V4, 0x30, b"\0\x01\0"),
            (Version::V4, 0x80, b"\0\x01\0\x01a\0"),
            (Version::V4, 0x82, b"\0\x01"),
            (Version::V4, 0x82, b"\0\x01\0\x01a\x03"),
            (Version::V4, 0x82, b"\0\x01\0\x01a\x04"),
            (Version::V5, 0x82, b"\0\x01\0\0\x01a\x30"),
            (Version::V5, 0x82, b"\0\x01\x02\x0B\0\0\x01a\0"),
            (Version::V5, 0x30, b"\0\x01a\x02\x0B\x01"),
            (Version::V5, 0x30, b"\0\x01a\x05\x08\0\x02a#"),
            (Version::V4, 0x60, b"\0\x01"),
            (Version::V4, 0x20, b"\0\0"),
            (Version::V4, 0xB0, b"\0\x01"),
            (Version::V5, 0xB0, b"\0\x01\0\0"),
            (Version::V5, 0xF0, b""),
            (Version::V4, 0xC1, b""),
            (Version::V4, 0xC0, b"x"),
            (Version::V4, 0x10, b""),
        ] {
            assert!(packet(version, first, body).is_err(), "{first:02x} {body:?}");
        }
    }

    #[test]
    fn malformed_is_one_thing_and_against_the_protocol_another() {
        for (first, body, reason) in [
            (0x30, &b"\0\x01a\x02\x0B\x01"[..], 0x82),
            (0x30, b"\0\x01a\x02\x7F\x01", 0x81),
            (0x82, b"\0\x01\x05\x11\0\0\0\x01\0\x01a\0", 0x81),
            (0x82, b"\0\x01\0\0\x01a\x03", 0x82),
            (0x82, b"\0\x01\0\0\x01a\x30", 0x82),
            (0x82, b"\0\x01\0\0\x01a\x40", 0x81),
            (0x40, b"\0\x01\x01", 0x82),
            (0x62, b"\0\x01\x10", 0x82),
            (0xE0, b"\x01", 0x82),
        ] {
            assert_eq!(packet(Version::V5, first, body).unwrap_err().reason, reason, "{first:02x} {body:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(first: u8, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = connect(0x10, &body);
            let _ = connect(0x10, &[b"\0\x04MQTT\x05", body.as_slice()].concat());
            let _ = connect(0x10, &[b"\0\x06MQIsdp\x03", body.as_slice()].concat());
            let _ = packet(Version::V3, first, &body);
            let _ = packet(Version::V4, first, &body);
            let _ = packet(Version::V5, first, &body);
        }
    }
}
