//! A Modbus RTU slave on a real pseudo-terminal, at the pace of a true line.
//!
//! A request counts as received no earlier than its characters would have needed on the wire; the
//! answer begins after the longer of 3.5 characters and the turnaround, and its bytes leave as fast
//! as the line allows and no faster. Should a wake-up come late, the next exchange makes up for it,
//! so that a long conversation takes exactly as long as on copper. What a master sends while an
//! answer is still on its way is kept and answered next: the worst case of a late reply.
//!
//! The ledger is entered right after the last byte has left. A test that reads it on another thread
//! than the slave's waits for the count it expects.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use driver_tty::Alarm;
use tokio::time::Instant;
use tokio_modbus::ExceptionCode;

use super::faults::{Faults, RtuFault};
use super::ledger::Fate;
use super::pace::{Line, later};
use super::plug::Plug;
use super::pty::{Closings, Pty};
use super::registers::{Receipt, Registers};
use super::wire::{self, Scan};
use crate::bounds;

/// How the line is.
#[derive(Debug, Clone)]
pub struct RtuOptions {
    /// Bits a second, not zero.
    pub baud: u32,
    /// Time from the end of a request to the beginning of its answer; 3.5 characters at least.
    pub turnaround: Duration,
    /// Path of a symbolic link to the terminal, which stays the same over unplugging. Without it
    /// the path is `/dev/pts/…`.
    pub link: Option<PathBuf>,
}

/// What passed over the line since the slave was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineStats {
    /// Well-formed requests, to whatever unit.
    pub requests: u64,
    /// Answers that left whole, faulty ones included.
    pub answers: u64,
    /// Times that something was received that was no request.
    pub garbled: u64,
    /// Requests that began less than 3.5 characters after the end of an answer.
    pub short_gaps: u64,
    /// Bytes of answers that nobody took.
    pub lost_bytes: u64,
    /// Times that the terminal was closed and nobody else had it open; what was unread is gone then.
    pub closings: u64,
    /// Time that characters were on the wire, both directions.
    pub busy: Duration,
}

/// A running slave.
#[derive(Debug)]
pub struct RtuSlave {
    image: Registers,
    line: Line,
    options: RtuOptions,
    faults: Faults<RtuFault>,
    stats: Arc<Mutex<LineStats>>,
    closings: Closings,
    plug: Plug,
}

impl RtuSlave {
    /// Opens a pseudo-terminal and answers on it for every unit of the image.
    ///
    /// # Errors
    /// A baud rate of zero, no pseudo-terminal to be had, a link that cannot be made, or no tokio
    /// runtime.
    pub fn start(image: Registers, options: RtuOptions) -> io::Result<Self> {
        let line =
            Line::new(options.baud).ok_or_else(|| io::Error::other("a line of 0 baud carries nothing"))?;
        let mut slave = Self {
            image,
            line,
            options,
            faults: Faults::default(),
            stats: Arc::default(),
            closings: Closings::default(),
            plug: Plug::default(),
        };
        slave.plug()?;
        Ok(slave)
    }

    /// The path to open; `None` while unplugged.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.plug.path()
    }

    /// The switchboard of its faults.
    #[must_use]
    pub fn faults(&self) -> &Faults<RtuFault> {
        &self.faults
    }

    /// What it holds, and the ledger.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.image
    }

    /// The line's pace.
    #[must_use]
    pub fn line(&self) -> Line {
        self.line
    }

    /// What passed over the line so far.
    #[must_use]
    pub fn stats(&self) -> LineStats {
        let stats = *self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        LineStats { closings: self.closings.load(Ordering::Relaxed), ..stats }
    }

    /// Whether it is plugged in and works.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.plug.is_running()
    }

    /// Pulls the plug: the terminal hangs up, the link is gone, an answer on its way is cut.
    ///
    /// # Errors
    /// What had ended the slave before.
    pub async fn unplug(&mut self) -> io::Result<()> {
        self.plug.pull().await
    }

    /// Plugs it in again, as a new terminal under the same link. Does nothing while plugged in.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn plug(&mut self) -> io::Result<()> {
        if self.plug.is_in() {
            return Ok(());
        }
        let (pty, place) = Pty::open(self.options.link.as_deref(), Arc::clone(&self.closings))?;
        let worker = Worker {
            pty,
            line: self.line,
            silence: self.line.gap() + bounds::RESYNC_SLACK,
            turnaround: self.options.turnaround.max(self.line.gap()),
            image: self.image.clone(),
            faults: self.faults.clone(),
            stats: Arc::clone(&self.stats),
            received: Vec::with_capacity(bounds::FRAME),
            seen: Instant::now(),
            free: Instant::now(),
            ended: None,
            debt: Duration::ZERO,
        };
        self.plug.put_in(worker.run(), place)
    }

    /// Ends it.
    ///
    /// # Errors
    /// What had ended it before.
    pub async fn stop(mut self) -> io::Result<()> {
        self.unplug().await
    }
}

struct Worker {
    pty: Pty,
    line: Line,
    silence: Duration,
    turnaround: Duration,
    image: Registers,
    faults: Faults<RtuFault>,
    stats: Arc<Mutex<LineStats>>,
    /// What was received and not yet understood.
    received: Vec<u8>,
    /// When the first of those bytes was seen.
    seen: Instant,
    /// When the last character, of either side, has passed.
    free: Instant,
    /// When the last byte of an answer really left, at the earliest: a machine that is busy may stop this
    /// thread between the write and a look at the clock, and the master would seem to hurry.
    ended: Option<Instant>,
    /// How late the last answer ended, to be made good by the next.
    debt: Duration,
}

impl Worker {
    async fn run(mut self) -> io::Result<()> {
        let mut alarm = Alarm::new()?;
        loop {
            let frame = self.receive().await?;
            let seen = self.seen.checked_sub(self.debt).unwrap_or(self.seen);
            self.free = seen.max(self.free) + self.line.chars(frame.len());
            self.debt = Duration::ZERO;
            self.note(|stats, line| stats.busy += line.chars(frame.len()));
            let request_end = self.free;
            alarm.until(request_end).await?;
            if let Some((unit, pdu)) = wire::open(&frame) {
                self.note(|stats, _| stats.requests += 1);
                self.respond(unit, pdu, &mut alarm).await?;
            } else {
                self.garbled().await?;
            }
        }
    }

    /// Waits for a frame. Its checksum is the caller's business.
    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let scan = wire::scan(&self.received);
            if let Scan::Frame(length) = scan {
                return Ok(self.received.drain(..length).collect());
            }
            let mut buffer = [0; bounds::FRAME];
            let room = bounds::FRAME - self.received.len();
            if room == 0 {
                self.garbled().await?;
                continue;
            }
            let read = self.pty.read(&mut buffer[..room]);
            if self.received.is_empty() {
                let count = read.await?;
                self.seen = Instant::now();
                self.received.extend_from_slice(&buffer[..count]);
                let gap = self.line.gap();
                if self.ended.take().is_some_and(|ended| self.seen - ended < gap) {
                    self.note(|stats, _| stats.short_gaps += 1);
                }
                continue;
            }
            match tokio::time::timeout(self.silence, read).await {
                Ok(count) => self.received.extend_from_slice(&buffer[..count?]),
                // A function of unknown length ends with the silence; anything else was half a frame.
                Err(_) if scan == Scan::Unknown && wire::open(&self.received).is_some() => {
                    return Ok(std::mem::take(&mut self.received));
                }
                Err(_) => {
                    self.received.clear();
                    self.note(|stats, _| stats.garbled += 1);
                }
            }
        }
    }

    /// Throws everything away until the line has been silent.
    async fn garbled(&mut self) -> io::Result<()> {
        self.note(|stats, _| stats.garbled += 1);
        self.received.clear();
        let mut buffer = [0; bounds::FRAME];
        while let Ok(count) = tokio::time::timeout(self.silence, self.pty.read(&mut buffer)).await {
            count?;
        }
        Ok(())
    }

    async fn respond(&mut self, unit: u8, pdu: &[u8], alarm: &mut Alarm) -> io::Result<()> {
        if unit == 0 {
            self.broadcast(pdu);
            return Ok(());
        }
        if !self.image.has_unit(unit) {
            return Ok(());
        }
        let fault = self.faults.take(unit);
        if fault == Some(RtuFault::Silent) {
            return Ok(());
        }
        let function = pdu.first().copied().unwrap_or_default();
        let refused = |code| (Err(code), Receipt::default());
        let (response, receipt) = match (fault, wire::parse(pdu)) {
            (Some(RtuFault::Exception(code)), _) => refused(ExceptionCode::new(code)),
            (_, Err(code)) => refused(code),
            (_, Ok(request)) => match self.image.execute(unit, &request, self.faults.refuses_holes(unit)) {
                Some(answer) => (answer.response, answer.receipt),
                None => return Ok(()),
            },
        };
        let mut frame = wire::answer(unit, function, &response);
        let mut begin = later(self.free, self.turnaround);
        let fate = match fault {
            Some(RtuFault::Late(by)) => {
                begin = later(begin, by);
                Fate::Late
            }
            Some(RtuFault::BadCrc) => {
                if let Some(last) = frame.last_mut() {
                    *last ^= 0x55;
                }
                Fate::Spoiled
            }
            Some(RtuFault::Foreign(other)) => {
                frame.truncate(frame.len() - 2);
                frame[0] = other;
                frame = wire::seal(frame);
                Fate::Spoiled
            }
            Some(RtuFault::Short) => {
                frame.truncate(frame.len() - 3);
                Fate::Spoiled
            }
            Some(RtuFault::Exception(_) | RtuFault::Silent) | None => Fate::Good,
        };
        let pending = Pending { image: self.image.clone(), receipt: Some(receipt) };
        let whole = self.send(&frame, begin, alarm).await?;
        pending.settle(if whole { fate } else { Fate::Spoiled });
        Ok(())
    }

    /// Sends at the line's pace from `begin`; tells whether every byte was taken.
    async fn send(&mut self, frame: &[u8], begin: Instant, alarm: &mut Alarm) -> io::Result<bool> {
        let mut sent = 0;
        let mut lost = 0;
        for (end, after) in self.line.bursts(frame.len()) {
            alarm.until(begin + after).await?;
            self.ended = Some(Instant::now());
            lost += end - sent - self.pty.write(&frame[sent..end])?;
            sent = end;
        }
        let now = Instant::now();
        self.free = begin + self.line.chars(frame.len());
        self.debt = now.saturating_duration_since(self.free).min(bounds::DEBT);
        self.note(|stats, line| {
            stats.answers += u64::from(lost == 0);
            stats.lost_bytes += lost as u64;
            stats.busy += line.chars(frame.len());
        });
        Ok(lost == 0)
    }

    /// A write to everybody, which nobody answers.
    fn broadcast(&self, pdu: &[u8]) {
        let writes = matches!(pdu.first(), Some(5 | 6 | 15 | 16 | 22));
        if let (true, Ok(request)) = (writes, wire::parse(pdu)) {
            for unit in self.image.units() {
                let _ = self.image.execute(unit, &request, false);
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut LineStats, Line)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner), self.line);
    }
}

/// Values on their way: spoiled, if the plug is pulled before they have left.
struct Pending {
    image: Registers,
    receipt: Option<Receipt>,
}

impl Pending {
    fn settle(mut self, fate: Fate) {
        if let Some(receipt) = self.receipt.take() {
            self.image.settle(receipt, fate);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(receipt) = self.receipt.take() {
            self.image.settle(receipt, Fate::Spoiled);
        }
    }
}
