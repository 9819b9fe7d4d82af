//! A client that sends and expects exact bytes, and a broker to try it on.

use std::net::SocketAddr;
use std::time::Duration;

use fieldgate::broker::{Broker, Options};
use fieldgate::config::model::{self, Listener, Transport};
pub use support::packets::{packet, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything here takes; a test that waits this long has failed.
pub const LONG: Duration = Duration::from_secs(20);

/// MQTT version of a raw client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V {
    /// 3.1.1
    Four,
    /// 5
    Five,
}

/// Both.
pub const BOTH: [V; 2] = [V::Four, V::Five];

/// A listener on any free port of loopback.
pub fn listener(transport: Transport) -> Listener {
    Listener {
        bind: "127.0.0.1:0".parse().unwrap(),
        transport,
        tls: None,
        allow_anonymous: None,
        password_file: None,
        acl_file: None,
    }
}

/// A broker with one TCP listener.
pub async fn broker() -> (Broker, SocketAddr) {
    broker_with(Options::default()).await
}

/// The same with options.
pub async fn broker_with(options: Options) -> (Broker, SocketAddr) {
    let config = model::Broker { listener: vec![listener(Transport::Tcp)], ..model::Broker::default() };
    let broker = Broker::start_with(&config, options).await.unwrap();
    let address = broker.addresses()[0].1;
    (broker, address)
}

/// CONNECT without anything special.
pub fn connect(v: V, id: &str, clean: bool) -> Vec<u8> {
    connect_with(v, id, if clean { 2 } else { 0 }, 0, &[], &[])
}

/// CONNECT with flags, keep-alive, properties (MQTT 5) and what follows the client id.
pub fn connect_with(v: V, id: &str, flags: u8, keep_alive: u16, props: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut body = b"\0\x04MQTT".to_vec();
    body.push(if v == V::Five { 5 } else { 4 });
    body.push(flags);
    body.extend(keep_alive.to_be_bytes());
    if v == V::Five {
        body.push(u8::try_from(props.len()).unwrap());
        body.extend(props);
    }
    body.extend(text(id));
    body.extend(rest);
    packet(0x10, &body)
}

/// PUBLISH. `flags`: DUP 8, QoS 2 or 4, retain 1.
pub fn publish(v: V, flags: u8, topic: &str, id: u16, props: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 6 != 0 {
        body.extend(id.to_be_bytes());
    }
    if v == V::Five {
        body.push(u8::try_from(props.len()).unwrap());
        body.extend(props);
    }
    body.extend(payload);
    packet(0x30 | flags, &body)
}

/// SUBSCRIBE to one filter.
pub fn subscribe(v: V, id: u16, filter: &str, options: u8) -> Vec<u8> {
    subscribe_with(v, id, filter, options, &[])
}

/// SUBSCRIBE with properties.
pub fn subscribe_with(v: V, id: u16, filter: &str, options: u8, props: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if v == V::Five {
        body.push(u8::try_from(props.len()).unwrap());
        body.extend(props);
    }
    body.extend(text(filter));
    body.push(options);
    packet(0x82, &body)
}

/// A client.
pub struct Raw {
    io: TcpStream,
    v: V,
}

impl Raw {
    /// Connects the socket only.
    pub async fn open(address: SocketAddr, v: V) -> Self {
        Self { io: TcpStream::connect(address).await.unwrap(), v }
    }

    /// Connects, clean, and takes the CONNACK.
    pub async fn connected(address: SocketAddr, v: V, id: &str) -> Self {
        let mut raw = Self::open(address, v).await;
        raw.send(&connect(v, id, true)).await;
        raw.connack(false).await;
        raw
    }

    /// Takes a CONNACK that accepts.
    pub async fn connack(&mut self, present: bool) {
        let got = self.recv().await;
        assert_eq!((got[0], got[2], got[3]), (0x20, u8::from(present), 0), "{got:02x?}");
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// The same to a broker that may have closed the connection.
    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.io.write_all(bytes).await
    }

    /// The next packet, whole.
    pub async fn recv(&mut self) -> Vec<u8> {
        self.next().await.expect("a packet, not the end of the connection")
    }

    /// The next packet; `None`: the connection is closed.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        timeout(LONG, async {
            let mut out = vec![self.io.read_u8().await.ok()?];
            let (mut length, mut shift) = (0usize, 0);
            loop {
                let byte = self.io.read_u8().await.ok()?;
                out.push(byte);
                length |= usize::from(byte & 0x7F) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let start = out.len();
            out.resize(start + length, 0);
            self.io.read_exact(&mut out[start..]).await.ok()?;
            Some(out)
        })
        .await
        .expect("in time")
    }

    /// The next packet is exactly this.
    pub async fn expect(&mut self, bytes: &[u8]) {
        let got = self.recv().await;
        assert_eq!(got, bytes, "got {got:02x?}, expected {bytes:02x?}");
    }

    /// Closed without another packet, or for MQTT 5 after a DISCONNECT with this reason.
    pub async fn expect_end(&mut self, reason: u8) {
        if self.v == V::Five {
            self.expect(&[0xE0, 1, reason]).await;
        }
        assert_eq!(self.next().await, None);
    }

    /// Subscribes and takes the SUBACK.
    pub async fn subscribed(&mut self, filter: &str, options: u8) {
        self.send(&subscribe(self.v, 0x0101, filter, options)).await;
        let ok: &[u8] = match self.v {
            V::Four => &[0x90, 3, 1, 1, options & 3],
            V::Five => &[0x90, 4, 1, 1, 0, options & 3],
        };
        self.expect(ok).await;
    }

    /// Everything this client sent before has gone through the broker, and nothing else came of it: a
    /// message to nobody is acknowledged behind all that, and what was queued before is sent before the ping
    /// is answered.
    pub async fn ping(&mut self) {
        self.send(&publish(self.v, 2, "$barrier", 0xFFFF, &[], b"")).await;
        let got = self.recv().await;
        assert_eq!((got[0], &got[2..4]), (0x40, &[0xFF, 0xFF][..]), "{got:02x?}");
        self.send(&[0xC0, 0]).await;
        self.expect(&[0xD0, 0]).await;
    }

    /// Ends the connection with a DISCONNECT.
    pub async fn bye(mut self) {
        self.send(&[0xE0, 0]).await;
        assert_eq!(self.next().await, None);
    }

    /// The socket itself.
    pub fn into_io(self) -> TcpStream {
        self.io
    }
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    timeout(LONG, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}
