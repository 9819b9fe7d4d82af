//! A connection of a client as a test needs it: packets out, packets in, both versions. Whatever goes wrong with the socket is
//! the end of this connection and nothing else.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::packets::{packet, text};

/// A packet: first byte and body.
pub type Packet = (u8, Vec<u8>);

/// An open connection, after its CONNACK.
pub struct Wire {
    io: TcpStream,
    input: Vec<u8>,
    v5: bool,
    /// The broker had a session for this client.
    pub present: bool,
}

/// The socket is of no use any more.
#[derive(Debug)]
pub struct Gone;

fn gone<E>(_: E) -> Gone {
    Gone
}

impl Wire {
    /// Connects with a session that stays (`kept`), or a clean one.
    pub fn connect(port: u16, id: &str, v5: bool, kept: bool) -> Result<Self, Gone> {
        Self::connect_with(port, id, v5, kept, None)
    }

    /// The same, perhaps with a will of QoS 1 that is retained: topic and payload.
    pub fn connect_with(
        port: u16,
        id: &str,
        v5: bool,
        kept: bool,
        will: Option<(&str, &str)>,
    ) -> Result<Self, Gone> {
        let io = TcpStream::connect(("127.0.0.1", port)).map_err(gone)?;
        io.set_nodelay(true).map_err(gone)?;
        io.set_write_timeout(Some(Duration::from_secs(5))).map_err(gone)?;
        let mut body = b"\0\x04MQTT".to_vec();
        let flags = if kept { 0 } else { 2 } | if will.is_some() { 0x2C } else { 0 };
        body.extend([if v5 { 5 } else { 4 }, flags, 0, 0]);
        if v5 {
            // Session expiry: never; or with the connection.
            body.extend([5, 0x11]);
            body.extend(if kept { [0xFF; 4] } else { [0; 4] });
        }
        body.extend(text(id));
        if let Some((topic, payload)) = will {
            body.extend(v5.then_some(0));
            body.extend([text(topic), text(payload)].concat());
        }
        let mut wire = Self { io, input: Vec::new(), v5, present: false };
        wire.send(&packet(0x10, &body))?;
        let (first, body) = wire.next(Duration::from_secs(10))?.ok_or(Gone)?;
        if first != 0x20 || body.get(1) != Some(&0) {
            return Err(Gone);
        }
        wire.present = body[0] == 1;
        Ok(wire)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.io.write_all(bytes).map_err(gone)
    }

    /// SUBSCRIBE.
    pub fn subscribe(&mut self, pid: u16, filter: &str, qos: u8) -> Result<(), Gone> {
        let mut body = pid.to_be_bytes().to_vec();
        body.extend(self.v5.then_some(0));
        body.extend(text(filter));
        body.push(qos);
        self.send(&packet(0x82, &body))
    }

    /// PUBLISH. `flags`: DUP 8, QoS 2 or 4, retain 1.
    pub fn publish(&mut self, flags: u8, topic: &str, pid: u16, payload: &str) -> Result<(), Gone> {
        let mut body = text(topic);
        if flags & 6 != 0 {
            body.extend(pid.to_be_bytes());
        }
        body.extend(self.v5.then_some(0));
        body.extend(payload.as_bytes());
        self.send(&packet(0x30 | flags, &body))
    }

    /// PUBACK 4, PUBREC 5, PUBREL 6 or PUBCOMP 7.
    pub fn answer(&mut self, kind: u8, pid: u16) -> Result<(), Gone> {
        let flags = if kind == 6 { 2 } else { 0 };
        self.send(&packet(kind << 4 | flags, &pid.to_be_bytes()))
    }

    /// DISCONNECT.
    pub fn bye(mut self) {
        let _ = self.send(&[0xE0, 0]);
    }

    /// The next packet; `None`: none within this time.
    pub fn next(&mut self, within: Duration) -> Result<Option<Packet>, Gone> {
        loop {
            if let Some(whole) = self.whole() {
                return Ok(Some(whole));
            }
            self.io.set_read_timeout(Some(within)).map_err(gone)?;
            let mut bytes = [0; 16 * 1024];
            match self.io.read(&mut bytes) {
                Ok(0) => return Err(Gone),
                Ok(n) => self.input.extend_from_slice(&bytes[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(_) => return Err(Gone),
            }
        }
    }

    fn whole(&mut self) -> Option<Packet> {
        let (mut length, mut at) = (0, 1);
        loop {
            let byte = *self.input.get(at)?;
            length |= usize::from(byte & 0x7F) << (7 * (at - 1));
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let body = self.input.get(at..at + length)?.to_vec();
        let first = self.input[0];
        self.input.drain(..at + length);
        Some((first, body))
    }

    /// Topic, packet id and payload of a PUBLISH.
    pub fn read_publish(&self, (first, body): &Packet) -> (String, u16, String) {
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8_lossy(&body[2..2 + length]).into_owned();
        let mut at = 2 + length;
        let mut pid = 0;
        if first & 6 != 0 {
            pid = u16::from_be_bytes([body[at], body[at + 1]]);
            at += 2;
        }
        if self.v5 {
            at += 1 + usize::from(body[at]);
        }
        (topic, pid, String::from_utf8_lossy(&body[at..]).into_owned())
    }
}
