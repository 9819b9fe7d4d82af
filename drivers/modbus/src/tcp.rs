//! Modbus TCP: one connection, every answer checked against its transaction. Several requests may be on
//! their way at once, for devices that take them; their answers may come in any order.
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

use crate::bus::{Ask, Line, Reply};
use crate::function::Function;
use crate::pdu::Expect;
use crate::rtu::{Connect, unspeakable};
use crate::wrap::{Header, MAX_TCP};

/// Longest wait for a connection when the bus is opened. Inside an exchange its own timeout counts.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes taken from the socket at once: one frame.
const CHUNK: usize = MAX_TCP;

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
    /// What was received and not yet understood, and when its first byte came.
    received: Vec<u8>,
    head_at: Instant,
}

/// A request on its way.
struct Open<'a> {
    ask: &'a Ask<'a>,
    expect: Expect,
    transaction: u16,
    deadline: Instant,
    reply: Option<Result<Reply, ReadError>>,
}

/// Why a connection is given up.
enum Lost {
    /// It was dead, or died.
    Connection(io::Error),
    /// The device says what is no Modbus TCP, or another thing than was asked.
    Nonsense(String),
    /// Not everything was answered in time.
    Silence,
}

/// A frame as it was received.
#[derive(Debug, PartialEq, Eq)]
struct Frame<'b> {
    transaction: u16,
    unit: u8,
    pdu: &'b [u8],
    /// All of its bytes.
    length: usize,
}

/// The first frame in `bytes`; `None` while it is not whole.
fn first_frame(bytes: &[u8]) -> Result<Option<Frame<'_>>, String> {
    let Some((header, rest)) = bytes.split_first_chunk::<{ Header::LEN }>() else { return Ok(None) };
    let Some(Header { transaction, unit, pdu }) = Header::of(*header) else {
        return Err(format!("no Modbus TCP header: {header:02X?}"));
    };
    Ok(rest.get(..pdu).map(|pdu| Frame { transaction, unit, pdu, length: Header::LEN + pdu.len() }))
}

impl TcpLine {
    pub fn new(endpoint: Endpoint, wire: &Wire) -> Self {
        Self {
            endpoint,
            wire: wire.clone(),
            stream: None,
            transaction: 0,
            received: Vec::new(),
            head_at: Instant::now(),
        }
    }

    async fn connect(&mut self, deadline: Instant) -> io::Result<()> {
        self.stream = None;
        self.received.clear();
        let stream = match timeout_at(deadline, self.endpoint.dial()).await {
            Ok(stream) => stream?,
            Err(_) => {
                let Endpoint { host, port } = &self.endpoint;
                let why = format!("cannot connect to {host}:{port} in time");
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
        };
        self.stream = Some(Tapped::new(stream, &self.wire));
        Ok(())
    }

    /// Whether there is a connection that the other side has not closed.
    fn alive(&self) -> bool {
        let Some(stream) = &self.stream else { return false };
        // Nothing was asked, so nothing may be there: bytes are as bad as an end.
        self.received.is_empty()
            && matches!(stream.port().try_read(&mut [0]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Asks everything that is open at once, and takes the answers in whatever order they come.
    async fn talk(&mut self, open: &mut [Open<'_>], deadline: Instant) -> Result<(), Lost> {
        let mut frames = Vec::new();
        for open in open.iter_mut().filter(|o| o.reply.is_none()) {
            self.transaction = self.transaction.wrapping_add(1);
            open.transaction = self.transaction;
            frames.extend(Header::frame(open.transaction, open.ask.unit, open.ask.pdu));
        }
        let Some(stream) = self.stream.as_mut() else {
            return Err(Lost::Connection(io::ErrorKind::NotConnected.into()));
        };
        match timeout_at(deadline, stream.write_all(&frames)).await {
            Ok(written) => written.map_err(Lost::Connection)?,
            Err(_) => return Err(Lost::Silence),
        }
        let asked = Instant::now();
        let several = open.len() > 1;
        let (mut chunk_at, mut doubtful) = (asked, false);
        loop {
            while let Some(Frame { transaction, unit, pdu, length }) =
                first_frame(&self.received).map_err(Lost::Nonsense)?
            {
                // Any other is the late answer to something that was given up.
                let mine = open.iter_mut().find(|o| o.transaction == transaction && o.reply.is_none());
                if let Some(mine) = mine {
                    let parsed = match mine.ask.unit == unit {
                        true => mine.expect.parse(pdu),
                        false => Err(format!("unit {unit} answered for unit {}", mine.ask.unit)),
                    };
                    doubtful |= parsed.is_err();
                    mine.reply = Some(match parsed {
                        Ok(answer) => Ok(Reply { answer, asked, at: self.head_at }),
                        Err(what) => Err(ReadError::Transient(FrameError::Protocol(what))),
                    });
                }
                self.received.drain(..length);
                // What is left began in the last piece.
                self.head_at = chunk_at;
            }
            let Some(deadline) = open.iter().filter(|o| o.reply.is_none()).map(|o| o.deadline).min() else {
                // Nothing late or wrong can be read from a connection that is gone.
                return if doubtful { Err(Lost::Silence) } else { Ok(()) };
            };
            let mut chunk = [0; CHUNK];
            let count = match timeout_at(deadline, stream.read(&mut chunk)).await {
                Ok(Ok(0)) => return Err(Lost::Connection(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => read.map_err(Lost::Connection)?,
                Err(_) => {
                    for late in open.iter_mut().filter(|o| o.reply.is_none() && o.deadline <= deadline) {
                        let silence = FrameError::Timeout(late.ask.timeout);
                        late.reply = Some(Err(ReadError::Transient(silence)));
                        doubtful = true;
                    }
                    continue;
                }
            };
            if several {
                // A device that waits for our acknowledgement before it sends its next answer (Nagle's algorithm)
                // would wait for 40 ms each time. Not every system can be asked this; then it is only slower.
                let _ = rustix::net::sockopt::set_tcp_quickack(stream.port(), true);
            }
            chunk_at = Instant::now();
            // A frame that begins in this piece came now; one that is going on came when its head did.
            if self.received.is_empty() {
                self.head_at = chunk_at;
            }
            self.received.extend_from_slice(&chunk[..count]);
        }
    }
}

#[async_trait]
impl Line for TcpLine {
    async fn open(&mut self) -> io::Result<()> {
        self.stream = None;
        self.received.clear();
        self.stream = Some(Tapped::new(self.endpoint.dial().await?, &self.wire));
        Ok(())
    }

    async fn exchange(&mut self, unit: u8, pdu: &[u8], timeout: Duration) -> Result<Reply, ReadError> {
        let mut replies = self.exchange_all(&[Ask { unit, pdu, timeout }]).await;
        replies.pop().unwrap_or_else(|| Err(unspeakable(pdu)))
    }

    async fn exchange_all(&mut self, asks: &[Ask<'_>]) -> Vec<Result<Reply, ReadError>> {
        let mut open: Vec<Open<'_>> = Vec::with_capacity(asks.len());
        let now = Instant::now();
        for ask in asks {
            match Expect::answer_to(ask.unit, ask.pdu) {
                Some(expect) => {
                    let deadline = now + ask.timeout;
                    open.push(Open { ask, expect, transaction: 0, deadline, reply: None });
                }
                None => return asks.iter().map(|ask| Err(unspeakable(ask.pdu))).collect(),
            }
        }
        let Some(deadline) = open.iter().map(|open| open.deadline).max() else { return Vec::new() };
        let reads = asks.iter().all(|ask| ask.pdu.first().is_some_and(|code| Function::only_reads(*code)));
        tokio::task::yield_now().await;
        let mut used = self.alive();
        let lost = loop {
            if !used && let Err(error) = self.connect(deadline).await {
                break Lost::Connection(error);
            }
            match self.talk(&mut open, deadline).await {
                Ok(()) => return open.into_iter().filter_map(|o| o.reply).collect(),
                // It had been closed behind our back. A read can be asked again; a write may have been done.
                Err(Lost::Connection(_)) if used && reads => used = false,
                Err(lost) => break lost,
            }
        };
        // Nothing late can be read from a connection that is gone.
        self.stream = None;
        self.received.clear();
        let reason = |timeout| match &lost {
            Lost::Connection(error) => ReadError::Bus(io::Error::new(error.kind(), error.to_string())),
            Lost::Nonsense(what) => ReadError::Transient(FrameError::Protocol(what.clone())),
            Lost::Silence => ReadError::Transient(FrameError::Timeout(timeout)),
        };
        open.into_iter().map(|o| o.reply.unwrap_or_else(|| Err(reason(o.ask.timeout)))).collect()
    }

    async fn announce(&mut self, _pdu: &[u8], _rest: Duration) -> Result<(), ReadError> {
        let why = "Modbus TCP has no broadcast: every request is answered".to_owned();
        Err(ReadError::Transient(FrameError::Protocol(why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_cut_off_where_it_ends_and_waited_for_until_then() {
        let bytes = [0, 7, 0, 0, 0, 5, 1, 3, 2, 0, 9, 0xFF];
        let whole = Frame { transaction: 7, unit: 1, pdu: &[3, 2, 0, 9], length: 11 };
        assert_eq!(first_frame(&bytes), Ok(Some(whole)));
        for end in 0..11 {
            assert_eq!(first_frame(&bytes[..end]), Ok(None), "{end} bytes");
        }
        for nonsense in [[0, 7, 0, 1, 0, 5, 1], [0, 7, 0, 0, 0, 1, 1], [0, 7, 0, 0, 0, 255, 1]] {
            assert!(first_frame(&nonsense).is_err(), "{nonsense:?}");
        }
    }
}
