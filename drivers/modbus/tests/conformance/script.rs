//! A serial line with a script that can still be looked at while the bus owns it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use driver_api::testing::{ScriptedPort, hex};
use driver_api::{Bus, ReadError, Reason, Sample, Value};
use driver_modbus::frame::seal;
use driver_modbus::plan::Pace;
use driver_modbus::rtu::{Connect, compile_on};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::support::{DeviceText, device, spec};

/// A script of RTU frames whose checksums are filled in.
pub fn rtu() -> Script {
    Script(ScriptedPort::default())
}

pub struct Script(ScriptedPort);

fn sealed(text: &str) -> String {
    let mut frame = hex(text);
    if !frame.is_empty() {
        seal(&mut frame);
    }
    frame.iter().map(|b| format!("{b:02X} ")).collect()
}

impl Script {
    pub fn expect(self, request: &str, answer: &str) -> Self {
        Self(self.0.expect(&sealed(request), &sealed(answer)))
    }
    /// As `expect`, with several frames, each so long after the request.
    pub fn expect_late(self, request: &str, answer: &[(Duration, &str)]) -> Self {
        let frames: Vec<(Duration, String)> =
            answer.iter().map(|(after, text)| (*after, sealed(text))).collect();
        let frames: Vec<(Duration, &str)> =
            frames.iter().map(|(after, text)| (*after, text.as_str())).collect();
        self.raw(request, &frames)
    }
    /// One frame in pieces, each so many bytes long.
    pub fn pieces(self, request: &str, answer: &str, pieces: &[(Duration, usize)]) -> Self {
        let frame = sealed(answer);
        let mut bytes = frame.split_whitespace();
        let pieces: Vec<(Duration, String)> = pieces
            .iter()
            .map(|(after, len)| (*after, bytes.by_ref().take(*len).collect::<Vec<_>>().join(" ")))
            .collect();
        let pieces: Vec<(Duration, &str)> =
            pieces.iter().map(|(after, text)| (*after, text.as_str())).collect();
        self.raw(request, &pieces)
    }
    /// The request gets its checksum, the answer is as it stands.
    pub fn raw(self, request: &str, answer: &[(Duration, &str)]) -> Self {
        Self(self.0.expect_late(&sealed(request), answer))
    }
    pub fn failure(self, request: &str, error: io::ErrorKind) -> Self {
        Self(self.0.expect_failure(&sealed(request), error))
    }
}

/// The port, shared between the bus and the test.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<ScriptedPort>>);

impl Shared {
    fn port(&self) -> tokio::sync::MutexGuard<'_, ScriptedPort> {
        self.0.try_lock().expect("one task, and no await while it is held")
    }
}

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.port()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.port()).poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Connect for Shared {
    type Port = Self;
    async fn connect(&mut self) -> io::Result<Self> {
        Ok(self.clone())
    }
}

/// Devices on a scripted line at 19200 baud 8E1, with a timeout of 500 ms.
pub struct Rig {
    pub bus: Box<dyn Bus>,
    port: Shared,
}

impl Rig {
    pub async fn new(keys: &str, points: &str, script: Script) -> Self {
        Self::of(&[device("device", keys, points)], script).await
    }

    pub async fn of(devices: &[DeviceText], script: Script) -> Self {
        let port = Shared(Arc::new(Mutex::new(script.0)));
        let mut problems = Vec::new();
        let pace = Pace::serial(19_200, 11);
        let bus = compile_on(&spec("", devices), pace, port.clone(), &mut problems);
        let mut bus = bus.unwrap_or_else(|| panic!("{problems:#?}"));
        bus.open().await.expect("a script opens");
        Self { bus, port }
    }

    pub async fn read_raw(&mut self, block: usize) -> Result<Vec<Sample>, ReadError> {
        let mut samples = Vec::new();
        self.bus.read(block, &mut samples).await.map(|()| samples)
    }

    /// The values of a block read.
    pub async fn read(&mut self, block: usize) -> Result<Vec<(usize, Result<Value, Reason>)>, ReadError> {
        Ok(self.read_raw(block).await?.into_iter().map(|s| (s.point, s.value)).collect())
    }

    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// When the nth request was written.
    pub fn asked(&self, n: usize) -> Instant {
        self.port.port().history()[n].0
    }

    /// A frame that comes unasked, so long after now.
    pub fn says(&mut self, after: Duration, frame: &str) {
        self.port.port().says(after, &hex(&sealed(frame)));
    }

    /// So many bytes of noise, one each `every`.
    pub fn babble(&mut self, bytes: u32, every: Duration) {
        for n in 0..bytes {
            self.port.port().says(every * n, &[0x55]);
        }
    }

    /// The whole script happened.
    pub fn done(&self) {
        self.port.port().assert_done();
    }
}

/// A device whose 50 reads a second leave the line no time for anything else.
pub fn busy() -> DeviceText {
    let points: Vec<String> = (0..50).map(|n| format!("p{n}: register = 'input:{}'", 2 * n)).collect();
    device("busy", "address = 9\nmax_gap = 0", &points.join("\n"))
}

pub fn good(point: usize, value: Value) -> (usize, Result<Value, Reason>) {
    (point, Ok(value))
}

pub fn bad(point: usize, reason: Reason) -> (usize, Result<Value, Reason>) {
    (point, Err(reason))
}
