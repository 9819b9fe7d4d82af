//! What stands between a broker's bytes and the protocol engine. Pure.
//!
//! The engine (mqtt-protocol-core 0.7.9) asserts a few things that a peer can break: a second CONNACK
//! that introduces a Receive Maximum makes its counter underflow, an acknowledgement of an unknown
//! packet ends the connection, and so does a reason code of another packet type (0x95 in a PUBACK), which
//! would let one message end every connection. So packets are cut out of the stream here, the size limit
//! is kept before memory is taken (a larger PUBLISH goes by, so that one message kept by the broker cannot end every
//! connection), and what must not reach the engine does not: a second CONNACK and a
//! PUBLISH with packet id 0 are faults, acknowledgements of packets that are not in flight are ignored and
//! counted, and of the others the reason code is taken out and kept here. Where messages go with QoS 2, the engine does
//! not learn of their answers either.

use std::collections::HashSet;

use bytes::{Buf, Bytes, BytesMut};

use super::fault::Fault;

/// Cuts packets out of a byte stream and judges them.
#[derive(Debug)]
pub struct Guard {
    buffer: BytesMut,
    max_packet: usize,
    logged_in: bool,
    awaited: HashSet<u16>,
    strays: u64,
    /// Bytes of a message that is too large and still to come.
    passing: usize,
    /// PUBREC and PUBCOMP are not for the engine.
    diverts: bool,
}

/// What the stream brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A packet for the engine.
    Packet(Admitted),
    /// A PUBREC, with its reason code.
    Received {
        /// Its packet id.
        id: u16,
        /// 0 without one.
        reason: u8,
    },
    /// A PUBCOMP.
    Completed {
        /// Its packet id.
        id: u16,
    },
    /// A message that is too large; the engine does not learn of it.
    Oversize {
        /// Its topic.
        topic: String,
        /// Its packet id, if it wants an acknowledgement.
        id: Option<u16>,
        /// Bytes of the packet.
        size: usize,
    },
}

/// A packet the engine may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The packet.
    pub packet: Bytes,
    /// The reason code of a PUBACK, 0 otherwise; the packet itself carries it no more.
    pub reason: u8,
}

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBCOMP: u8 = 7;

impl Guard {
    /// Accepts packets of at most `max_packet` bytes.
    #[must_use]
    pub fn new(max_packet: usize) -> Self {
        let (buffer, awaited) = (BytesMut::new(), HashSet::new());
        Self { buffer, max_packet, logged_in: false, awaited, strays: 0, passing: 0, diverts: false }
    }

    /// Bytes came.
    pub fn push(&mut self, bytes: &[u8]) {
        let by = self.passing.min(bytes.len());
        self.passing -= by;
        self.buffer.extend_from_slice(&bytes[by..]);
    }

    /// A message went out under this id: its acknowledgement is welcome, once.
    pub fn await_ack(&mut self, id: u16) {
        self.awaited.insert(id);
    }

    /// From now on the answers of QoS 2 are kept from the engine.
    pub fn divert_exchanges(&mut self) {
        self.diverts = true;
    }

    /// Acknowledgements of packets that were not in flight.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.strays
    }

    /// The next packet the engine may see, or a message that it may not.
    ///
    /// # Errors
    /// The stream is no MQTT, or breaks a rule on which the engine relies.
    pub fn next_packet(&mut self) -> Result<Option<Next>, Fault> {
        loop {
            let packet = match self.cut()? {
                None => return Ok(None),
                Some(Cut::TooLarge(oversize)) => return Ok(Some(oversize)),
                Some(Cut::Whole(packet)) => packet,
            };
            if let Some(next) = self.admit(packet)? {
                return Ok(Some(next));
            }
        }
    }

    fn cut(&mut self) -> Result<Option<Cut>, Fault> {
        let Some(header) = header(&self.buffer)? else { return Ok(None) };
        let total = header.len + header.remaining;
        let kind = self.buffer.first().map_or(0, |byte| byte >> 4);
        if total > self.max_packet && kind == PUBLISH && self.logged_in {
            return self.pass(&header, total);
        }
        if total > self.max_packet {
            return Err(Fault::Protocol(format!(
                "the broker sent a packet of {total} bytes; at most {} are accepted",
                self.max_packet
            )));
        }
        if self.buffer.len() < total {
            return Ok(None);
        }
        Ok(Some(Cut::Whole(self.buffer.split_to(total).freeze())))
    }

    /// Lets a message go by that is too large, once its topic and packet id are there.
    fn pass(&mut self, header: &Header, total: usize) -> Result<Option<Cut>, Fault> {
        let qos = (self.buffer[0] >> 1) & 0b11;
        let mut body = &self.buffer[header.len..];
        if body.len() < 2 {
            return Ok(None);
        }
        let topic = usize::from(body.get_u16());
        let id = if qos == 0 { 0 } else { 2 };
        if header.remaining < 2 + topic + id || qos > 1 {
            return Err(Fault::Protocol("a PUBLISH that was not asked for in this form".to_owned()));
        }
        if body.len() < topic + id {
            return Ok(None);
        }
        let name = String::from_utf8_lossy(&body[..topic]).into_owned();
        body.advance(topic);
        let id = (qos == 1).then(|| body.get_u16());
        if id == Some(0) {
            return Err(Fault::Protocol("a PUBLISH with packet id 0".to_owned()));
        }
        let here = total.min(self.buffer.len());
        self.buffer.advance(here);
        self.passing = total - here;
        Ok(Some(Cut::TooLarge(Next::Oversize { topic: name, id, size: total })))
    }

    fn admit(&mut self, packet: Bytes) -> Result<Option<Next>, Fault> {
        let breach = |what: &str| Err(Fault::Protocol(what.to_owned()));
        let kind = packet[0] >> 4;
        let Some(header) = header(&packet)? else { return breach("a packet without a header") };
        let mut body = packet.slice(header.len..);
        match kind {
            CONNACK if self.logged_in => breach("a second CONNACK"),
            CONNACK => {
                self.logged_in = true;
                Ok(plain(packet))
            }
            _ if !self.logged_in => breach("the first packet is no CONNACK; is this an MQTT broker?"),
            PUBACK => {
                if body.len() < 2 {
                    return breach("a PUBACK without a packet id");
                }
                let id = body.get_u16();
                if !self.awaited.remove(&id) {
                    self.strays += 1;
                    return Ok(None);
                }
                let reason = if body.has_remaining() { body.get_u8() } else { 0 };
                let [a, b] = id.to_be_bytes();
                let packet = Bytes::copy_from_slice(&[PUBACK << 4, 2, a, b]);
                Ok(Some(Next::Packet(Admitted { packet, reason })))
            }
            PUBREC | PUBCOMP if self.diverts => {
                if body.len() < 2 {
                    return breach("an answer without a packet id");
                }
                let id = body.get_u16();
                let reason = if body.has_remaining() { body.get_u8() } else { 0 };
                Ok(Some(if kind == PUBREC { Next::Received { id, reason } } else { Next::Completed { id } }))
            }
            PUBLISH if packet[0] & 0b0110 != 0 => {
                if body.len() < 2 {
                    return breach("a PUBLISH without a topic");
                }
                let topic = usize::from(body.get_u16());
                if body.len() < topic + 2 {
                    return breach("a PUBLISH without a packet id");
                }
                body.advance(topic);
                if body.get_u16() == 0 {
                    return breach("a PUBLISH with packet id 0");
                }
                Ok(plain(packet))
            }
            _ => Ok(plain(packet)),
        }
    }
}

fn plain(packet: Bytes) -> Option<Next> {
    Some(Next::Packet(Admitted { packet, reason: 0 }))
}

enum Cut {
    Whole(Bytes),
    TooLarge(Next),
}

struct Header {
    len: usize,
    remaining: usize,
}

/// The fixed header: one byte of type and flags, one to four of length.
fn header(bytes: &[u8]) -> Result<Option<Header>, Fault> {
    let mut remaining = 0usize;
    for (i, byte) in bytes.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some(Header { len: i + 2, remaining }));
        }
    }
    if bytes.len() > 4 {
        return Err(Fault::Protocol("the answer is no MQTT packet; is this an MQTT broker?".to_owned()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOGIN: &[u8] = &[0x20, 2, 0, 0];

    fn logged_in() -> Guard {
        let mut guard = Guard::new(1000);
        guard.push(LOGIN);
        assert!(matches!(guard.next_packet(), Ok(Some(_))));
        guard
    }

    fn admitted(next: Result<Option<Next>, Fault>) -> Option<Admitted> {
        match next {
            Ok(Some(Next::Packet(admitted))) => Some(admitted),
            Ok(None) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_that_is_too_large_goes_by_and_the_next_one_is_seen() {
        // QoS 1 on `t`, packet id 9, 2000 bytes of payload: 2005 = 0x55 | 0x0f << 7.
        let mut stream = vec![0x32, 0xd5, 0x0f, 0, 1, b't', 0, 9];
        stream.extend(vec![7; 2000]);
        stream.extend([0x30, 4, 0, 1, b'u', b'x']);
        for chunk in [1, 3, 500, 5000] {
            let mut guard = logged_in();
            let mut seen = Vec::new();
            for piece in stream.chunks(chunk) {
                guard.push(piece);
                while let Some(next) = guard.next_packet().expect("well formed") {
                    seen.push(next);
                }
                assert!(guard.buffer.len() < 1000, "it is not kept");
            }
            let packet = Bytes::from_static(&[0x30, 4, 0, 1, b'u', b'x']);
            let small = Next::Packet(Admitted { packet, reason: 0 });
            assert_eq!(seen, [Next::Oversize { topic: "t".into(), id: Some(9), size: 2008 }, small]);
        }
        for wrong in [
            &[0x34, 0xd5, 0x0f, 0, 1, b't', 0, 9][..],
            &[0x32, 0xd5, 0x0f, 0xff, 0xff, b't'],
            &[0x32, 0xd5, 0x0f, 0, 1, b't', 0, 0],
        ] {
            let mut guard = logged_in();
            guard.push(wrong);
            assert!(guard.next_packet().is_err(), "{wrong:x?}");
        }
    }

    #[test]
    fn an_acknowledgement_counts_once_and_its_reason_is_kept_from_the_engine() {
        let mut guard = logged_in();
        guard.await_ack(7);
        guard.push(&[0x40, 5, 0, 7, 0x95, 200, 1, 0x40, 2, 0, 7, 0x40, 2, 0, 8]);
        let packet = Bytes::from_static(&[0x40, 2, 0, 7]);
        assert_eq!(admitted(guard.next_packet()), Some(Admitted { packet, reason: 0x95 }));
        assert_eq!((admitted(guard.next_packet()), guard.strays()), (None, 2));
    }

    #[test]
    fn answers_of_qos_2_are_kept_from_the_engine_where_it_does_not_wait_for_them() {
        let answers = [0x50, 2, 0x80, 1, 0x50, 4, 0x80, 2, 0x97, 0, 0x70, 3, 0x80, 3, 0x92];
        let mut guard = logged_in();
        guard.push(&answers);
        assert!(admitted(guard.next_packet()).is_some());
        let mut guard = logged_in();
        guard.divert_exchanges();
        guard.push(&answers);
        let mut seen = Vec::new();
        while let Some(next) = guard.next_packet().expect("well formed") {
            seen.push(next);
        }
        let received = |id, reason| Next::Received { id, reason };
        assert_eq!(seen, [received(0x8001, 0), received(0x8002, 0x97), Next::Completed { id: 0x8003 }]);
        guard.push(&[0x70, 1, 0]);
        assert!(guard.next_packet().is_err());
    }

    #[test]
    fn what_the_engine_would_choke_on_never_reaches_it() {
        for bytes in [
            LOGIN,                              // a second CONNACK
            &[0x32, 5, 0, 1, b't', 0, 0],       // packet id 0
            &[0x32, 3, 0, 9, b't'],             // shorter than its topic
            &[0x40, 1, 0],                      // PUBACK of one byte
            &[0x30, 0xff, 0xff, 0xff, 0xff, 1], // a length of five bytes
            &[0xd0, 0xff, 0xff, 0x7f],          // 2 MB
        ] {
            let mut guard = logged_in();
            guard.push(bytes);
            assert!(matches!(guard.next_packet(), Err(Fault::Protocol(_))), "{bytes:x?}");
        }
        let mut http = Guard::new(1000);
        http.push(b"HTTP/1.1 400 Bad Request\r\n");
        http.push(&[b' '; 200]);
        assert!(matches!(http.next_packet(), Err(Fault::Protocol(_))));
    }

    proptest! {
        #[test]
        fn packets_come_out_whole_however_the_stream_is_cut(
            lens in prop::collection::vec(0usize..300, 1..10),
            chunk in 1usize..50,
        ) {
            let mut stream = Vec::new();
            for len in &lens {
                stream.push(0xd0);
                let mut n = *len;
                loop {
                    let byte = u8::try_from(n % 128).expect("below 128");
                    n /= 128;
                    stream.push(if n > 0 { byte | 0x80 } else { byte });
                    if n == 0 { break }
                }
                stream.extend(std::iter::repeat_n(0xaa, *len));
            }
            let mut guard = logged_in();
            let mut got = Vec::new();
            for piece in stream.chunks(chunk) {
                guard.push(piece);
                while let Some(packet) = admitted(guard.next_packet()) {
                    got.push(packet.packet);
                }
            }
            prop_assert_eq!(got.len(), lens.len());
            prop_assert_eq!(got.concat(), stream);
        }
    }
}
