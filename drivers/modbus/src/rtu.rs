//! RTU on a line: when to speak, how long to listen, and what to believe.
//!
//! - Before each request the line was silent for 3.5 characters (1.75 ms above 19200 baud), measured from
//!   the last byte that arrived, and to some 0.05 ms where the port is a real one; after anything doubtful it
//!   must be quiet for longer, and what arrives meanwhile is thrown away.
//! - The answer is over with its predicted last byte, so nothing waits for a silence behind it.
//! - Foreign frames are thrown away while the timer runs on. A broken answer ends the exchange as
//!   soon as the line is quiet.
//! - The timer starts when the request's last bit is on the wire, as computed from the baud: nobody
//!   calls `tcdrain`, which would block the thread.
//! - Late answers are never believed: see the module `late`. The fence that it may ask for first is an
//!   exchange of its own, with a timeout of its own. A line that was just taken over is listened to first, for
//!   what somebody before us may have asked.
//! - A line that gives back what is sent is noticed by its reads, and its echo is no answer to a write.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{Bus, BusSpec, FrameError, Problem, ReadError, Tapped, Wire};
use driver_tty::Alarm;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::bus::{Line, ModbusBus, Reply};
use crate::compile::{Units, compile};
use crate::frame::{Scan, scan, seal};
use crate::function::Function;
use crate::late::{Before, Debts};
use crate::pdu::{Answer, Expect};
use crate::plan::Pace;

/// Most bytes kept of what arrives during one exchange: one frame of 256 and a glitch before it. When
/// full, the oldest go.
const BUFFER: usize = 260;

/// A line is quiet after so long without a byte. USB adapters hand bytes over every 16 ms.
const QUIET: Duration = Duration::from_millis(20);

/// Around the moment at which an answer must be over the port is looked at without sleeping: so long before it and
/// so long after it. Waking up would cost as much, and the line would be idle meanwhile. At 150 exchanges a
/// second it is 4.5 % of a core at worst.
const EAGER: Duration = Duration::from_micros(150);

/// Opens what an [`RtuLine`] talks through: a serial port, a socket, a script.
#[async_trait]
pub trait Connect: Send {
    /// The open port. Dropping it closes it. Bytes given to it must leave without a flush.
    type Port: AsyncRead + AsyncWrite + Unpin + Send;

    /// Opens it.
    ///
    /// # Errors
    /// Why not, in words a person can act on.
    async fn connect(&mut self) -> io::Result<Self::Port>;

    /// Whether silence may mean that the connection is dead, so that a new one is made after a timeout.
    fn renew(&self) -> bool {
        false
    }

    /// Whether silences are kept to some 0.05 ms with a timer of the kernel. `false` where a millisecond
    /// does not matter, and where time is paused.
    fn exact(&self) -> bool {
        false
    }
}

/// Compiles a bus that speaks RTU through `connect`, on a line with this pace: the seam for tests and
/// for ports that are not in the configuration. `None` only if a problem was pushed.
pub fn compile_on<C: Connect + 'static>(
    bus: &BusSpec<'_>,
    pace: Pace,
    connect: C,
    problems: &mut Vec<Problem>,
) -> Option<Box<dyn Bus>> {
    let compiled = compile(bus, pace, Units::Line, problems)?;
    let first = compiled.listens_first();
    Some(Box::new(ModbusBus::new(compiled, RtuLine::new(connect, pace, &bus.wire, first))))
}

pub(crate) struct RtuLine<C: Connect> {
    connect: C,
    wire: Wire,
    port: Option<Tapped<C::Port>>,
    /// Made when the port is opened, if the port wants it.
    alarm: Option<Alarm>,
    pace: Pace,
    debts: Debts,
    /// When the last byte was on the line, or will have been.
    last: Instant,
    /// Something doubtful happened; the line must prove to be quiet.
    doubtful: bool,
    /// What we say comes back to us: known from reads, which no device answers with the request itself.
    echoes: bool,
    /// How long a line that was never listened to must be quiet before anything is asked: somebody before us may
    /// have asked what is answered now.
    first: Duration,
}

impl<C: Connect> RtuLine<C> {
    /// `first`: how long to listen before the first request.
    pub fn new(connect: C, pace: Pace, wire: &Wire, first: Duration) -> Self {
        Self {
            connect,
            wire: wire.clone(),
            port: None,
            alarm: None,
            pace,
            debts: Debts::default(),
            last: Instant::now(),
            doubtful: true,
            echoes: false,
            first,
        }
    }

    async fn connect(&mut self) -> io::Result<()> {
        self.port = None;
        let port = self.connect.connect().await?;
        if self.connect.exact() && self.alarm.is_none() {
            self.alarm = Some(Alarm::new()?);
        }
        self.port = Some(Tapped::new(port, &self.wire));
        self.last = Instant::now();
        Ok(())
    }

    /// Waits for silence and throws away what arrives before it; gives up after `patience`.
    async fn settle(&mut self, patience: Duration) -> Result<(), ReadError> {
        let quiet =
            if self.doubtful { self.pace.silence.max(QUIET).max(self.first) } else { self.pace.silence };
        let give_up = Instant::now() + patience;
        let mut waste = [0; BUFFER];
        loop {
            if self.port.is_none() {
                match timeout_at(give_up, self.connect()).await {
                    Ok(result) => result.map_err(ReadError::Bus)?,
                    Err(_) => return Err(ReadError::Bus(io::ErrorKind::TimedOut.into())),
                }
            }
            let Some(port) = self.port.as_mut() else { continue };
            // Even if the silence is long over: let the runtime see what has arrived.
            tokio::task::yield_now().await;
            let silent = self.last + quiet;
            // Dropping a read loses nothing, and dropping the wait neither.
            let heard = tokio::select! {
                biased;
                heard = port.read(&mut waste) => heard,
                kept = silence(&mut self.alarm, silent) => {
                    kept.map_err(ReadError::Bus)?;
                    break;
                }
            };
            match heard {
                Ok(0) | Err(_) if self.connect.renew() && Instant::now() < give_up => {
                    // The other side hung up while nothing was said; that costs nothing but a new call.
                    self.port = None;
                }
                Ok(0) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(error)),
                Ok(_) => self.last = Instant::now(),
            }
            if Instant::now() >= give_up {
                self.doubtful = true;
                return Err(ReadError::Transient(FrameError::Protocol("the line is never quiet".to_owned())));
            }
        }
        self.doubtful = false;
        self.first = Duration::ZERO;
        Ok(())
    }

    fn lost(&mut self, error: io::Error) -> ReadError {
        self.port = None;
        self.doubtful = true;
        ReadError::Bus(error)
    }

    /// Puts a request onto the silent line, and gives the frame. Afterwards `last` is when its last bit will have
    /// left.
    async fn send(&mut self, unit: u8, pdu: &[u8], timeout: Duration) -> Result<Vec<u8>, ReadError> {
        let mut frame = Vec::with_capacity(pdu.len() + 3);
        frame.push(unit);
        frame.extend_from_slice(pdu);
        seal(&mut frame);
        self.settle(timeout).await?;
        let Some(port) = self.port.as_mut() else {
            return Err(ReadError::Bus(io::ErrorKind::NotConnected.into()));
        };
        let on_the_wire = self.pace.char_time * u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let begun = Instant::now();
        match timeout_at(begun + on_the_wire + timeout, port.write_all(&frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.lost(error)),
            Err(_) => return Err(self.lost(io::Error::other("the port takes no bytes"))),
        }
        self.last = begun + on_the_wire;
        Ok(frame)
    }

    /// Takes our own words off the beginning of what was received, on a line that gives them back (two wires and
    /// an adapter whose receiver stays on). The answer to a write of one register is the request itself: without
    /// this a dead device would seem to confirm it.
    fn take_echo(&mut self, sent: &[u8], received: &mut Vec<u8>, arrived: &mut Vec<Instant>) {
        if !received.starts_with(sent) {
            return;
        }
        let reads = sent.get(1).is_some_and(|code| Function::only_reads(*code));
        if reads && !std::mem::replace(&mut self.echoes, true) {
            tracing::warn!("the line gives back what is sent; switch the local echo of the adapter off");
        }
        if self.echoes {
            received.drain(..sent.len());
            arrived.drain(..sent.len());
        }
    }

    /// One request and its answer, if one can be believed.
    async fn once(&mut self, unit: u8, pdu: &[u8], timeout: Duration) -> Result<Reply, ReadError> {
        let expect = Expect::answer_to(unit, pdu).ok_or_else(|| unspeakable(pdu))?;
        let sent = self.send(unit, pdu, timeout).await?;
        let asked = self.last;
        let result = self.listen(&sent, &expect, asked, timeout).await;
        match &result {
            // An exception that an older request may have earned: told, but nothing follows from it.
            Ok(Reply { answer: Answer::Exception(code), .. }) if self.debts.refusal_is_doubtful(&expect) => {
                self.debts.owe(expect, Instant::now());
                return Err(ReadError::Transient(FrameError::Exception(*code)));
            }
            Ok(_) => self.debts.settle(unit),
            Err(error) => {
                self.doubtful = true;
                // A whole answer with a wrong checksum was this one's, unless an older one was still to come.
                let answered = matches!(error, ReadError::Transient(FrameError::Crc { .. }));
                if !answered || self.debts.owed_by(unit) {
                    self.debts.owe(expect, Instant::now());
                }
                if self.connect.renew() {
                    self.port = None;
                }
            }
        }
        result
    }

    /// Listens until the answer is there, the line is quiet after a broken one, or `timeout` after `asked`.
    async fn listen(
        &mut self,
        sent: &[u8],
        expect: &Expect,
        asked: Instant,
        timeout: Duration,
    ) -> Result<Reply, ReadError> {
        let deadline = asked + timeout;
        let mut received: Vec<u8> = Vec::with_capacity(BUFFER);
        // When each of them came.
        let mut arrived: Vec<Instant> = Vec::with_capacity(BUFFER);
        let mut judged = true;
        let mut echo = true;
        let fail = |error| Err(ReadError::Transient(error));
        loop {
            let Some(port) = self.port.as_mut() else {
                return Err(ReadError::Bus(io::ErrorKind::NotConnected.into()));
            };
            // Silence after something: time to judge it.
            let quiet_at = self.last + self.pace.silence.max(QUIET);
            let wake = if judged { deadline } else { quiet_at.min(deadline) };
            let mut chunk = [0; BUFFER];
            // The rest of an answer that has begun comes at the pace of the line.
            let rest = expect.rtu_len().saturating_sub(received.len());
            let over = match u32::try_from(rest) {
                Ok(rest) if rest > 0 && !received.is_empty() && !judged => {
                    Some(self.last + self.pace.char_time * rest)
                }
                _ => None,
            };
            let read = match (over, &mut self.alarm) {
                (Some(over), Some(alarm)) if over < wake => ending(port, &mut chunk, alarm, over).await,
                _ => None,
            };
            let read = match read {
                Some(read) => Ok(read),
                None => timeout_at(wake, port.read(&mut chunk)).await,
            };
            let quiet = match read {
                Ok(Ok(0)) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(Err(error)) => return Err(self.lost(error)),
                Ok(Ok(n)) => {
                    self.last = Instant::now();
                    received.extend_from_slice(&chunk[..n]);
                    arrived.resize(received.len(), self.last);
                    let excess = received.len().saturating_sub(BUFFER);
                    received.drain(..excess);
                    arrived.drain(..excess);
                    if echo && received.len() >= sent.len() {
                        self.take_echo(sent, &mut received, &mut arrived);
                        echo = false;
                    }
                    judged = false;
                    false
                }
                Err(_) => {
                    judged = true;
                    true
                }
            };
            let late = Instant::now() >= deadline;
            match scan(&received, expect, quiet) {
                Scan::Found(answer, from) => {
                    let at = arrived.get(from).copied().unwrap_or(self.last);
                    return Ok(Reply { answer, asked, at });
                }
                Scan::Crc { found, expected } if quiet => return fail(FrameError::Crc { found, expected }),
                Scan::Foreign(what) if late => return fail(FrameError::Protocol(what)),
                Scan::More if late && !received.is_empty() => {
                    let (have, want) = (received.len(), expect.rtu_len());
                    return fail(FrameError::Protocol(format!("{have} bytes that are no answer of {want}")));
                }
                _ if late => return fail(FrameError::Timeout(timeout)),
                _ => {}
            }
        }
    }
}

/// Reads what comes around the moment at which an answer must be `over`; `None` if nothing does.
async fn ending<P: AsyncRead + Unpin>(
    port: &mut P,
    chunk: &mut [u8],
    alarm: &mut Alarm,
    over: Instant,
) -> Option<io::Result<usize>> {
    // Dropping a read loses nothing.
    tokio::select! {
        biased;
        read = port.read(chunk) => return Some(read),
        waited = alarm.until(over.checked_sub(EAGER).unwrap_or(over)) => {
            if let Err(error) = waited {
                return Some(Err(error));
            }
        }
    }
    while Instant::now() < over + EAGER {
        tokio::select! {
            biased;
            read = port.read(chunk) => return Some(read),
            // The runtime looks at its descriptors before it comes back.
            () = tokio::task::yield_now() => {}
        }
    }
    None
}

/// Waits for the end of a silence.
async fn silence(alarm: &mut Option<Alarm>, end: Instant) -> io::Result<()> {
    match alarm {
        Some(alarm) => alarm.until(end).await,
        None => {
            sleep_until(end).await;
            Ok(())
        }
    }
}

/// What cannot be asked on a Modbus bus.
pub(crate) fn unspeakable(pdu: &[u8]) -> ReadError {
    ReadError::Transient(FrameError::Protocol(format!("{pdu:02X?} is no request of Modbus")))
}

#[async_trait]
impl<C: Connect> Line for RtuLine<C> {
    async fn open(&mut self) -> io::Result<()> {
        self.connect().await?;
        self.doubtful = true;
        Ok(())
    }

    async fn exchange(&mut self, unit: u8, pdu: &[u8], timeout: Duration) -> Result<Reply, ReadError> {
        // A fence that is refused with an exception which an older request may have earned fences nothing off; the
        // next one is in the sister table, whose refusal is nobody else's.
        for _ in 0..2 {
            let Before::Fence(fence) = self.debts.before(unit, pdu, Instant::now()) else { break };
            match self.once(unit, &fence, timeout).await {
                Ok(_) | Err(ReadError::Transient(FrameError::Exception(_))) => {}
                Err(error) => return Err(error),
            }
        }
        // It has been silent too often; nothing is asked until what it owes can no longer come.
        if self.debts.before(unit, pdu, Instant::now()) != Before::Nothing {
            return Err(ReadError::Transient(FrameError::Timeout(timeout)));
        }
        self.once(unit, pdu, timeout).await
    }

    async fn announce(&mut self, pdu: &[u8], rest: Duration) -> Result<(), ReadError> {
        const EVERYBODY: u8 = 0;
        Expect::answer_to(EVERYBODY, pdu).ok_or_else(|| unspeakable(pdu))?;
        // Nobody answers, so there is no timeout; a line that is not quiet for this long never is.
        self.send(EVERYBODY, pdu, Duration::from_secs(1)).await?;
        // What is asked next waits until everybody has done it.
        self.last += rest;
        Ok(())
    }
}
