//! A client that sends and expects exact packets. What it does not expect it says, and never panics: the same cases
//! judge brokers that are not ours.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::suite::{Ctx, V, Verdict};
use crate::wire::{self, Connect, Publish};

/// Longer than any answer takes; who waits so long has failed.
const LONG: Duration = Duration::from_secs(20);

pub type Result<T> = std::result::Result<T, String>;

/// Says what is wrong unless `holds`.
pub fn check(holds: bool, otherwise: impl Into<String>) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    io: TcpStream,
    pub v: V,
    ctx: Ctx,
    next: u16,
    /// The CONNACK that let it in, whole.
    pub connack: Vec<u8>,
}

impl Ctx {
    /// A socket, nothing said.
    pub async fn open(&self) -> Result<Client> {
        self.open_at(self.at.open).await
    }

    pub async fn open_at(&self, address: SocketAddr) -> Result<Client> {
        let io = TcpStream::connect(address).await.map_err(|error| format!("cannot connect: {error}"))?;
        let _ = io.set_nodelay(true);
        Ok(Client { io, v: self.v, ctx: self.clone(), next: 0, connack: Vec::new() })
    }

    /// A CONNECT of this case's client `name`: clean, nothing else.
    pub fn hello(&self, name: &str) -> Connect {
        Connect::new(self.v, self.id(name))
    }

    /// The same for a session that outlives its connections.
    pub fn keeping(&self, name: &str) -> Connect {
        let connect = self.hello(name).resuming();
        if self.v == V::Five { connect.prop([0x11, 0, 0, 2, 0]) } else { connect }
    }

    /// Connects, and takes the CONNACK.
    pub async fn with(&self, connect: Connect) -> Result<Client> {
        self.with_at(self.at.open, connect).await
    }

    pub async fn with_at(&self, address: SocketAddr, connect: Connect) -> Result<Client> {
        let mut client = self.open_at(address).await?;
        client.v = connect.v;
        client.send(&connect.bytes()).await;
        client.accepted().await?;
        Ok(client)
    }

    /// A clean client.
    pub async fn client(&self, name: &str) -> Result<Client> {
        self.with(self.hello(name)).await
    }

    /// A client that has subscribed to one filter.
    pub async fn subscriber(&self, name: &str, filter: &str, options: u8) -> Result<Client> {
        let mut client = self.client(name).await?;
        client.subscribe(filter, options).await?;
        Ok(client)
    }

    /// Whether this CONNECT is refused: before MQTT 5 with `old` (or silently), with MQTT 5 with a reason of `new`.
    pub async fn refused(&self, bytes: &[u8], old: Option<u8>, new: &[u8]) -> Verdict {
        self.refused_at(self.at.open, bytes, old, new).await
    }

    pub async fn refused_at(
        &self,
        address: SocketAddr,
        bytes: &[u8],
        old: Option<u8>,
        new: &[u8],
    ) -> Verdict {
        let mut client = self.open_at(address).await?;
        client.send(bytes).await;
        let said = client.next().await?;
        match (&said, self.v, old) {
            (None, V::Five, _) => check(!self.strict, "closed without CONNACK")?,
            (Some(p), V::Five, _) => {
                let good = p.len() > 4 && p[0] == 0x20 && p[2] == 0 && p[3] >= 0x80;
                let wanted = !self.strict || new.contains(&p[3]);
                check(good && wanted, format!("{p:02x?} instead of a CONNACK with {new:02x?}"))?;
            }
            (None, _, None) => {}
            (Some(p), _, Some(code)) if *p == [0x20, 2, 0, code] => {}
            (other, _, wanted) => return Err(format!("{other:02x?} instead of CONNACK {wanted:02x?}")),
        }
        if said.is_some() { client.closed().await } else { Ok(()) }
    }
}

impl Client {
    /// Sends bytes. That the other end has closed shows when its answer is read.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(LONG, self.io.write_all(bytes)).await;
    }

    /// The next packet, whole; `None`: the connection is closed.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        timeout(LONG, self.read()).await.map_err(|_| "no packet, and not closed".to_owned())
    }

    async fn read(&mut self) -> Option<Vec<u8>> {
        let mut out = vec![self.io.read_u8().await.ok()?];
        while out.len() < 2 || out.last().is_some_and(|byte| byte & 0x80 != 0) && out.len() < 5 {
            out.push(self.io.read_u8().await.ok()?);
        }
        let (length, _) = wire::read_varint(&out[1..])?;
        let start = out.len();
        out.resize(start + length, 0);
        self.io.read_exact(&mut out[start..]).await.ok()?;
        Some(out)
    }

    pub async fn packet(&mut self) -> Result<Vec<u8>> {
        self.next().await?.ok_or_else(|| "closed instead of a packet".to_owned())
    }

    /// The next packet is exactly this.
    pub async fn expect(&mut self, bytes: &[u8]) -> Verdict {
        let got = self.packet().await?;
        check(got == bytes, format!("{got:02x?} instead of {bytes:02x?}"))
    }

    /// The connection ends without another packet.
    pub async fn closed(&mut self) -> Verdict {
        match self.next().await? {
            None => Ok(()),
            Some(packet) => Err(format!("{packet:02x?} instead of the end")),
        }
    }

    /// The broker ends the connection; with MQTT 5 it may say why, and ours must: with one of `reasons`.
    pub async fn ended(&mut self, reasons: &[u8]) -> Verdict {
        match self.next().await? {
            None => check(!self.ctx.strict || self.v != V::Five, "closed without DISCONNECT"),
            Some(p) if self.v == V::Five && p[0] == 0xE0 => {
                let reason = p.get(2).copied().unwrap_or(0);
                let good = reason >= 0x80 && (!self.ctx.strict || reasons.contains(&reason));
                check(good, format!("DISCONNECT {reason:#04x} instead of {reasons:02x?}"))?;
                self.closed().await
            }
            Some(p) => Err(format!("{p:02x?} instead of the end")),
        }
    }

    /// Takes a CONNACK that accepts.
    pub async fn accepted(&mut self) -> Verdict {
        let got = self.packet().await?;
        let good = got[0] == 0x20 && got.len() >= 4 && got[3] == 0;
        let short = self.v == V::Five || got.len() == 4;
        self.connack.clone_from(&got);
        check(good && short, format!("{got:02x?} instead of a CONNACK that accepts"))
    }

    /// Whether the CONNACK said that there was a session.
    pub fn present(&self, present: bool) -> Verdict {
        let said = self.connack[2];
        check(said == u8::from(present), format!("session present is {said}"))
    }

    /// A property of the CONNACK.
    pub fn said(&self, id: u8) -> Option<Vec<u8>> {
        let (_, used) = wire::read_varint(self.connack.get(4..)?)?;
        let all = wire::props(self.connack.get(4 + used..)?)?;
        all.into_iter().find(|(i, _)| *i == id).map(|(_, value)| value)
    }

    fn fresh(&mut self) -> u16 {
        self.next += 1;
        self.next
    }

    /// Subscribes to one filter, which is granted as asked.
    pub async fn subscribe(&mut self, filter: &str, options: u8) -> Verdict {
        self.subscribe_with(filter, options, &[]).await
    }

    pub async fn subscribe_with(&mut self, filter: &str, options: u8, props: &[u8]) -> Verdict {
        let codes = self.ask(props, &[(filter, options)]).await?;
        check(codes == [options & 3], format!("SUBACK {codes:02x?} for {filter}"))
    }

    /// Sends a SUBSCRIBE; the codes of its SUBACK.
    pub async fn ask(&mut self, props: &[u8], filters: &[(&str, u8)]) -> Result<Vec<u8>> {
        let id = self.fresh();
        self.send(&wire::subscribe(self.v, id, props, filters)).await;
        self.codes(0x90, id).await
    }

    /// Sends an UNSUBSCRIBE; the codes of its UNSUBACK (none before MQTT 5).
    pub async fn leave(&mut self, filters: &[&str]) -> Result<Vec<u8>> {
        let id = self.fresh();
        self.send(&wire::unsubscribe(self.v, id, filters)).await;
        self.codes(0xB0, id).await
    }

    /// Takes a SUBACK or UNSUBACK of this packet id.
    pub async fn codes(&mut self, first: u8, id: u16) -> Result<Vec<u8>> {
        let got = self.packet().await?;
        check(
            got[0] == first && got[2..4] == id.to_be_bytes(),
            format!("{got:02x?} instead of {first:02x}"),
        )?;
        if self.v != V::Five {
            return Ok(got[4..].to_vec());
        }
        check(got.get(4) == Some(&0), format!("properties in {got:02x?}"))?;
        Ok(got[5..].to_vec())
    }

    /// Publishes with this QoS and waits until the broker has taken it; the reason code of its answer.
    pub async fn publish(&mut self, qos: u8, topic: &str, payload: &str) -> Result<u8> {
        self.publish_with(qos << 1, topic, &[], payload).await
    }

    /// The same, retained.
    pub async fn retain(&mut self, qos: u8, topic: &str, payload: &str) -> Result<u8> {
        self.publish_with(qos << 1 | 1, topic, &[], payload).await
    }

    /// A message of QoS 0 is known to be taken when one of QoS 1 behind it is.
    pub async fn publish_with(&mut self, flags: u8, topic: &str, props: &[u8], payload: &str) -> Result<u8> {
        let id = self.fresh();
        self.send(&wire::publish(self.v, flags, topic, id, props, payload.as_bytes())).await;
        match flags >> 1 & 3 {
            0 => {
                self.barrier().await?;
                Ok(0)
            }
            1 => self.answer(0x40, id).await,
            _ => {
                let code = self.answer(0x50, id).await?;
                if code < 0x80 {
                    self.send(&[0x62, 2, id.to_be_bytes()[0], id.to_be_bytes()[1]]).await;
                    self.answer(0x70, id).await?;
                }
                Ok(code)
            }
        }
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP with this id; its reason code.
    pub async fn answer(&mut self, first: u8, id: u16) -> Result<u8> {
        let got = self.packet().await?;
        let good = got[0] == first && got.len() >= 4 && got[2..4] == id.to_be_bytes();
        check(good, format!("{got:02x?} instead of {first:02x} for {id}"))?;
        check(self.v == V::Five || got.len() == 4, format!("{got:02x?} is too long"))?;
        Ok(got.get(4).copied().unwrap_or(0))
    }

    /// Answers with a packet id.
    pub async fn reply(&mut self, first: u8, id: u16) {
        let [high, low] = id.to_be_bytes();
        self.send(&[first, 2, high, low]).await;
    }

    /// The next packet, which must be a PUBLISH.
    pub async fn message(&mut self) -> Result<Publish> {
        let got = self.packet().await?;
        Publish::read(self.v, &got).ok_or_else(|| format!("{got:02x?} instead of PUBLISH"))
    }

    /// The next message is this one; it is not acknowledged.
    pub async fn take(&mut self, topic: &str, payload: &str) -> Result<Publish> {
        let m = self.message().await?;
        let good = m.topic == topic.as_bytes() && m.payload == payload.as_bytes();
        check(good, format!("{m:02x?} instead of {topic} {payload}"))?;
        Ok(m)
    }

    /// Takes a message and acknowledges it to the end.
    pub async fn finish(&mut self, topic: &str, payload: &str) -> Result<Publish> {
        let m = self.take(topic, payload).await?;
        match m.qos() {
            0 => {}
            1 => self.reply(0x40, m.id).await,
            _ => {
                self.reply(0x50, m.id).await;
                self.answer(0x62, m.id).await?;
                self.reply(0x70, m.id).await;
            }
        }
        Ok(m)
    }

    /// Everything that this client sent before has gone through the broker: a message that nobody wants is
    /// acknowledged behind it.
    pub async fn barrier(&mut self) -> Verdict {
        let topic = self.ctx.topic("barrier");
        self.send(&wire::publish(self.v, 2, topic, 0xFFF0, &[], b"")).await;
        self.answer(0x40, 0xFFF0).await.map(drop)
    }

    /// Nothing came that was not expected, and what was sent before has gone through: a barrier, then a ping.
    pub async fn quiet(&mut self) -> Verdict {
        self.barrier().await?;
        self.ping().await
    }

    /// A ping, and nothing before its answer.
    pub async fn ping(&mut self) -> Verdict {
        self.send(&[0xC0, 0]).await;
        self.expect(&[0xD0, 0]).await
    }

    /// Says good-bye, and waits until the broker has closed.
    pub async fn bye(mut self) -> Verdict {
        self.send(&[0xE0, 0]).await;
        self.closed().await
    }

    /// Closes the socket without a word, and waits until the broker knows: it closes its end, too.
    pub async fn vanish(mut self) {
        let _ = self.io.shutdown().await;
        let _ = timeout(LONG, async { while self.read().await.is_some() {} }).await;
    }
}

impl Client {
    /// Sends the first packet of a connection, which is so wrong that the connection ends without an answer.
    pub async fn told(&mut self, bytes: &[u8]) -> Verdict {
        self.send(bytes).await;
        match self.next().await? {
            None => Ok(()),
            // MQTT 5 allows a CONNACK that says why.
            Some(p) if self.v == V::Five && !self.ctx.strict && p[0] == 0x20 && p[3] >= 0x80 => {
                self.closed().await
            }
            Some(p) => Err(format!("{p:02x?} after {bytes:02x?}")),
        }
    }
}

impl Client {
    /// As [`Client::ping`]: with as much unfinished as the broker allows there is no room for a barrier.
    pub async fn quiet_at_the_limit(&mut self) -> Verdict {
        self.ping().await
    }
}
