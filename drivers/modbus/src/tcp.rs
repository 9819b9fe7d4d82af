//! Modbus TCP: one connection, one request at a time, every answer checked against its transaction.
//!
//! The source is the *Modbus Messaging on TCP/IP Implementation Guide V1.0b*. After a timeout or a
//! broken frame the connection is dropped, so that nothing late can be read from it; the next exchange
//! makes a new one. A connection that the device closed while nothing was said (many do after a
//! minute) is replaced without a word.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{FrameError, ReadError, Tapped, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::bus::{Line, Reply};
use crate::pdu::Expect;
use crate::rtu::{Connect, unspeakable};

/// Longest wait for a connection when the bus is opened. Inside an exchange its own timeout counts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a Modbus TCP device or a serial converter listens.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub host: String,
    pub port: u16,
}

impl Endpoint {
    /// Connects, or says in words why not.
    async fn dial(&self) -> io::Result<TcpStream> {
        let Self { host, port } = self;
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        let result = match timeout_at(deadline, TcpStream::connect((host.as_str(), *port))).await {
            Ok(result) => result,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "no answer within {CONNECT_TIMEOUT:?}; is the device on, and is there a route to it?"
                ),
            )),
        };
        let explain = |error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::ConnectionRefused => ": nothing listens there; is Modbus TCP switched on?",
                _ => "",
            };
            io::Error::new(error.kind(), format!("cannot connect to {host}:{port}: {error}{advice}"))
        };
        let stream = result.map_err(explain)?;
        // An exchange is one small segment each way: waiting to fill one would only delay it.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

#[async_trait]
impl Connect for Endpoint {
    type Port = TcpStream;
    async fn connect(&mut self) -> io::Result<TcpStream> {
        self.dial().await
    }
    fn renew(&self) -> bool {
        true
    }
}

pub(crate) struct TcpLine {
    endpoint: Endpoint,
    wire: Wire,
    stream: Option<Tapped<TcpStream>>,
    transaction: u16,
}

/// Why an attempt failed, and whether a fresh connection could do better.
enum Failed {
    /// The connection was dead before anything was answered.
    Connection(io::Error),
    /// The device was reached.
    Answer(FrameError),
}

impl TcpLine {
    pub fn new(endpoint: Endpoint, wire: &Wire) -> Self {
        Self { endpoint, wire: wire.clone(), stream: None, transaction: 0 }
    }

    async fn attempt(
        &mut self,
        unit: u8,
        pdu: &[u8],
        expect: &Expect,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<Reply, Failed> {
        let Some(stream) = self.stream.as_mut() else {
            return Err(Failed::Connection(io::ErrorKind::NotConnected.into()));
        };
        self.transaction = self.transaction.wrapping_add(1);
        let transaction = self.transaction;
        let length = u16::try_from(pdu.len() + 1)
            .map_err(|_| Failed::Answer(FrameError::Protocol("the request is too long".to_owned())))?;
        let mut frame = Vec::with_capacity(7 + pdu.len());
        frame.extend_from_slice(&transaction.to_be_bytes());
        frame.extend_from_slice(&[0, 0]);
        frame.extend_from_slice(&length.to_be_bytes());
        frame.push(unit);
        frame.extend_from_slice(pdu);
        let talk = async {
            stream.write_all(&frame).await.map_err(Failed::Connection)?;
            let asked = Instant::now();
            loop {
                let mut header = [0; 7];
                stream.read_exact(&mut header[..1]).await.map_err(Failed::Connection)?;
                let at = Instant::now();
                stream.read_exact(&mut header[1..]).await.map_err(Failed::Connection)?;
                let [t0, t1, p0, p1, l0, l1, from] = header;
                let length = usize::from(u16::from_be_bytes([l0, l1]));
                let wrong = |what: String| Err(Failed::Answer(FrameError::Protocol(what)));
                if [p0, p1] != [0, 0] || !(2..=254).contains(&length) {
                    return wrong(format!("no Modbus TCP header: {header:02X?}"));
                }
                let mut body = vec![0; length - 1];
                stream.read_exact(&mut body).await.map_err(Failed::Connection)?;
                if u16::from_be_bytes([t0, t1]) != transaction {
                    continue;
                }
                if from != unit {
                    return wrong(format!("unit {from} answered for unit {unit}"));
                }
                return match expect.parse(&body) {
                    Ok(answer) => Ok(Reply { answer, asked, at }),
                    Err(what) => wrong(what),
                };
            }
        };
        match timeout_at(deadline, talk).await {
            Ok(result) => result,
            Err(_) => Err(Failed::Answer(FrameError::Timeout(timeout))),
        }
    }

    /// Whether there is a connection that the other side has not closed.
    fn alive(&self) -> bool {
        let Some(stream) = &self.stream else { return false };
        // Nothing was asked, so nothing may be there: bytes are as bad as an end.
        matches!(stream.port().try_read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

#[async_trait]
impl Line for TcpLine {
    async fn open(&mut self) -> io::Result<()> {
        self.stream = None;
        self.stream = Some(Tapped::new(self.endpoint.dial().await?, &self.wire));
        Ok(())
    }

    async fn exchange(&mut self, unit: u8, pdu: &[u8], timeout: Duration) -> Result<Reply, ReadError> {
        let expect = Expect::answer_to(unit, pdu).ok_or_else(|| unspeakable(pdu))?;
        let deadline = Instant::now() + timeout;
        let reads = matches!(pdu.first(), Some(1..=4));
        tokio::task::yield_now().await;
        let mut used = self.alive();
        loop {
            if !used {
                self.stream = None;
                match timeout_at(deadline, self.endpoint.dial()).await {
                    Ok(stream) => {
                        self.stream = Some(Tapped::new(stream.map_err(ReadError::Bus)?, &self.wire));
                    }
                    Err(_) => {
                        return Err(ReadError::Bus(io::Error::new(
                            io::ErrorKind::TimedOut,
                            format!(
                                "cannot connect to {}:{} in time",
                                self.endpoint.host, self.endpoint.port
                            ),
                        )));
                    }
                }
            }
            match self.attempt(unit, pdu, &expect, deadline, timeout).await {
                Ok(reply) => return Ok(reply),
                Err(failed) => {
                    self.stream = None;
                    match failed {
                        // It had been closed behind our back. A read can be asked again; a write may have been done.
                        Failed::Connection(_) if used && reads => used = false,
                        Failed::Connection(error) => return Err(ReadError::Bus(error)),
                        Failed::Answer(error) => return Err(ReadError::Transient(error)),
                    }
                }
            }
        }
    }
    async fn announce(&mut self, _pdu: &[u8], _rest: Duration) -> Result<(), ReadError> {
        let why = "Modbus TCP has no broadcast: every request is answered".to_owned();
        Err(ReadError::Transient(FrameError::Protocol(why)))
    }
}
