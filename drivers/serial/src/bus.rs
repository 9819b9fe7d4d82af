//! One serial line with one device on it: asks or listens, and reports silence.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{
    Block, Bus, DeviceInfo, DeviceSpec, FrameError, Plan, PointInfo, ReadError, Reason, Sample, Tapped,
    Value, Wire,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::assemble::{Assembler, Line};
use crate::port::{Connect, Settings};
use crate::protocol::{Field, Speech};

/// Bytes taken from the port at once: half a second at 9600 baud. The kernel keeps 4 KiB more.
const CHUNK: usize = 512;

/// Most that is thrown away before a request: the kernel's buffer, twice. A device that floods the
/// line faster than it can be drained would hold the bus for ever otherwise.
const DRAIN: usize = 8192;

/// A line is silent when nothing came for this long: a USB adapter holds bytes back for up to 16 ms.
const SILENCE: Duration = Duration::from_millis(50);

/// Length of an answer for the predicted load, which the pattern does not tell: a scale's telegram.
const TYPICAL_ANSWER: usize = 24;

/// The serial bus, over whatever [`Connect`] opens.
pub struct SerialBus<C: Connect> {
    plan: Plan,
    connect: C,
    wire: Wire,
    port: Option<Tapped<C::Port>>,
    speaker: Option<Speaker>,
}

/// The device on the line, and how far its current line has come.
struct Speaker {
    name: String,
    speech: Speech,
    timeout: Duration,
    /// Silence after which a device that talks by itself is reported.
    patience: Duration,
    assembler: Assembler,
    /// When the silence is reported; `None` once it was, until the device is heard again.
    /// It lives here, not in [`Bus::idle`], so that dropping that future forgets nothing.
    silent_at: Option<Instant>,
    /// Lines since the port was opened that the decoder did not want.
    foreign: u64,
}

impl<C: Connect> SerialBus<C> {
    pub(crate) fn new(
        settings: Settings,
        wire: Wire,
        device: Option<(&DeviceSpec<'_>, Speech)>,
        connect: impl FnOnce(Settings) -> C,
    ) -> Self {
        let mut plan = Plan::default();
        let mut speaker = None;
        if let Some((device, speech)) = device {
            plan.devices.push(DeviceInfo {
                name: device.name.clone(),
                address: settings.port.clone(),
                models_at: None,
            });
            plan.points = points_of(device, &speech);
            plan.blocks.push(block_of(device, &speech, &settings));
            speaker = Some(Speaker {
                name: device.name.clone(),
                timeout: device.timeout,
                patience: device.interval.saturating_mul(3).max(device.timeout),
                assembler: Assembler::new(speech.terminator.clone(), Instant::now()),
                speech,
                silent_at: None,
                foreign: 0,
            });
        }
        Self { plan, connect: connect(settings), wire, port: None, speaker }
    }

    /// The open port, for tests that play its other end.
    pub fn port_mut(&mut self) -> Option<&mut C::Port> {
        self.port.as_mut().map(Tapped::port_mut)
    }

    /// Closes the port at once: a descriptor that is still held makes a USB adapter come back under
    /// another name.
    fn lost(&mut self, error: io::Error) -> ReadError {
        self.port = None;
        ReadError::Bus(error)
    }

    async fn exchange(&mut self, out: &mut Vec<Sample>) -> Result<(), Failure> {
        let (Some(speaker), Some(port)) = (&mut self.speaker, &mut self.port) else {
            return Err(not_open().into());
        };
        let deadline = Instant::now() + speaker.timeout;
        let asked = speaker.speech.request.is_some();
        if let Some(request) = &speaker.speech.request {
            settle(&mut speaker.assembler, port, speaker.timeout / 2).await?;
            // Not flushed: that waits in the kernel until the last bit is out, on this thread.
            timeout_at(deadline, port.write_all(request))
                .await
                .map_err(|_| Failure::Silent(FrameError::Timeout(speaker.timeout)))??;
        }
        let mut last_foreign = None;
        let mut buffer = [0; CHUNK];
        loop {
            let count = match timeout_at(deadline, port.read(&mut buffer)).await {
                Ok(count) => received(count)?,
                Err(_) => return Err(Failure::Silent(silence(speaker.timeout, last_foreign))),
            };
            let heard = speaker.hear(&buffer[..count], asked, out);
            if heard.matched {
                return Ok(());
            }
            last_foreign = heard.foreign.or(last_foreign);
        }
    }

    async fn listen(&mut self, out: &mut Vec<Sample>) -> io::Result<()> {
        let (Some(speaker), Some(port)) = (&mut self.speaker, &mut self.port) else {
            return Err(not_open());
        };
        let before = out.len();
        let mut buffer = [0; CHUNK];
        while out.len() == before {
            // `read` of a chunk takes bytes only when it returns, and what follows does not wait:
            // dropped at either await, no byte is lost.
            let count = match speaker.silent_at {
                None => port.read(&mut buffer).await,
                Some(silent_at) => match timeout_at(silent_at, port.read(&mut buffer)).await {
                    Ok(count) => count,
                    Err(_) => {
                        speaker.report_silence(out);
                        return Ok(());
                    }
                },
            };
            speaker.hear(&buffer[..received(count)?], false, out);
        }
        Ok(())
    }
}

#[async_trait]
impl<C: Connect> Bus for SerialBus<C> {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn open(&mut self) -> io::Result<()> {
        self.port = None;
        self.port = Some(Tapped::new(self.connect.connect().await?, &self.wire));
        if let Some(speaker) = &mut self.speaker {
            let now = Instant::now();
            speaker.assembler = Assembler::new(speaker.speech.terminator.clone(), now);
            speaker.silent_at = Some(now + speaker.patience);
            speaker.foreign = 0;
        }
        Ok(())
    }

    async fn read(&mut self, _block: usize, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        match self.exchange(out).await {
            Ok(()) => Ok(()),
            Err(Failure::Silent(frame)) => Err(ReadError::Transient(frame)),
            Err(Failure::Port(error)) => Err(self.lost(error)),
        }
    }

    async fn write(&mut self, point: usize, _value: &Value) -> Result<(), ReadError> {
        let name = self.plan.points.get(point).map_or("?", |p| p.name.as_str());
        Err(ReadError::Transient(FrameError::Protocol(format!(
            "`{name}` cannot be written: lines are read only"
        ))))
    }

    async fn idle(&mut self, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        if self.speaker.as_ref().is_none_or(|s| s.speech.request.is_some()) {
            return std::future::pending().await;
        }
        self.listen(out).await.map_err(|error| self.lost(error))
    }
}

/// Why an exchange came to nothing.
enum Failure {
    /// The port is gone.
    Port(io::Error),
    /// The port is there, the answer is not.
    Silent(FrameError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Port(error)
    }
}

/// What a chunk of bytes brought.
struct Heard {
    matched: bool,
    foreign: Option<String>,
}

impl Speaker {
    /// Takes bytes and appends what their lines say; with `first_only`, up to the first that matches.
    fn hear(&mut self, bytes: &[u8], first_only: bool, out: &mut Vec<Sample>) -> Heard {
        let now = Instant::now();
        let mut lines: Vec<Line> = Vec::new();
        let dropped = self.assembler.dropped();
        self.assembler.push(bytes, now, &mut lines);
        if self.assembler.dropped() != dropped {
            debug!(device = self.name, dropped = ?self.assembler.dropped(), "line dropped");
        }
        let mut heard = Heard { matched: false, foreign: None };
        let mut values = Vec::new();
        for line in lines {
            if !self.speech.decoder.decode(&line.text, &mut values) {
                self.skip(&line.text);
                heard.foreign = Some(line.text);
                continue;
            }
            heard.matched = true;
            out.extend(values.drain(..).map(|(point, value)| Sample { point, value, at: line.at }));
            if first_only {
                break;
            }
        }
        if heard.matched {
            self.silent_at = Some(now + self.patience);
        }
        heard
    }

    /// A line that is nothing of ours: said once, then counted, for many devices print a heading or
    /// an echo with every telegram.
    fn skip(&mut self, text: &str) {
        self.foreign += 1;
        let (line, skipped) = (shortened(text), self.foreign);
        if skipped == 1 {
            warn!(device = self.name, line, "line does not match and is skipped");
        } else {
            debug!(device = self.name, line, skipped, "line does not match and is skipped");
        }
    }

    fn report_silence(&mut self, out: &mut Vec<Sample>) {
        warn!(device = self.name, silent_for = ?self.patience, "device has fallen silent");
        self.silent_at = None;
        let at = Instant::now();
        out.extend((0..self.speech.fields.len()).map(|point| Sample {
            point,
            value: Err(Reason::Timeout),
            at,
        }));
    }
}

/// Throws away what arrived before the request, and if that ended within a line, waits for its end:
/// `most` at the longest, so that time is left for the answer.
async fn settle<P: tokio::io::AsyncRead + Unpin>(
    assembler: &mut Assembler,
    port: &mut P,
    most: Duration,
) -> io::Result<()> {
    let enough = Instant::now() + most;
    let silence = SILENCE.min(most);
    let mut buffer = [0; CHUNK];
    let mut stale = Vec::new();
    let mut drained = 0;
    // Lets the reactor see what arrived since it last looked.
    tokio::task::yield_now().await;
    while drained < DRAIN {
        // In the middle of a line its rest is awaited; at its end only what is there is taken.
        let now = Instant::now();
        let patience = if assembler.at_boundary() { now } else { (now + silence).min(enough) };
        match timeout_at(patience, port.read(&mut buffer)).await {
            Ok(count) => {
                let count = received(count)?;
                drained += count;
                assembler.push(&buffer[..count], Instant::now(), &mut stale);
                stale.clear();
            }
            Err(_) => {
                let silent = patience.saturating_duration_since(now) >= silence;
                assembler.discard(silent || assembler.at_boundary());
                return Ok(());
            }
        }
    }
    assembler.discard(false);
    Ok(())
}

fn received(count: io::Result<usize>) -> io::Result<usize> {
    match count? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the port was closed from the other side")),
        count => Ok(count),
    }
}

fn not_open() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the port is not open")
}

/// Nothing at all, or something that is not the answer: a person mends them differently.
fn silence(timeout: Duration, foreign: Option<String>) -> FrameError {
    match foreign {
        None => FrameError::Timeout(timeout),
        Some(line) => FrameError::Protocol(format!(
            "no line matched within {timeout:?}, the last was `{}`",
            shortened(&line)
        )),
    }
}

/// A line as a log can bear it.
fn shortened(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

/// How often a field is wanted.
fn interval(device: &DeviceSpec<'_>, field: &Field) -> Duration {
    field.spec.and_then(|n| device.points.get(n)).map_or(device.interval, |p| p.interval)
}

fn points_of(device: &DeviceSpec<'_>, speech: &Speech) -> Vec<PointInfo> {
    speech
        .fields
        .iter()
        .map(|field| PointInfo {
            device: 0,
            name: field.name.clone(),
            spec: field.spec,
            unit: field.unit.clone(),
            kind: field.kind.clone(),
            source: field.source.clone(),
            registers: None,
            writable: false,
            every: interval(device, field),
        })
        .collect()
}

/// One line holds all points, so the most impatient of them sets the pace.
fn block_of(device: &DeviceSpec<'_>, speech: &Speech, settings: &Settings) -> Block {
    let points = (0..speech.fields.len()).collect();
    let Some(request) = &speech.request else {
        let what = "lines it sends by itself".to_owned();
        return Block { device: 0, points, every: Duration::MAX, cost: Duration::ZERO, what };
    };
    Block {
        device: 0,
        points,
        every: speech.fields.iter().map(|field| interval(device, field)).min().unwrap_or(device.interval),
        cost: settings.time_of(request.len() + TYPICAL_ANSWER),
        what: format!("line asked for with `{}`", shortened(&String::from_utf8_lossy(request))),
    }
}
