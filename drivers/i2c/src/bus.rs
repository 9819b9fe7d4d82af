//! One I²C bus: hands the blocking work to a thread and keeps the promises about time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{Bus, FrameError, Plan, ReadError, Reason, Sample, Value};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout_at};

use crate::I2cPort;
use crate::bench::{Bench, Slot};
use crate::tables::ADDRESSES;

/// Opens the bus; may block.
pub type Opener = Arc<dyn Fn() -> io::Result<Box<dyn I2cPort>> + Send + Sync>;

/// How long `open` waits for an exchange of the former port that is still under way. The kernel
/// gives up a transfer after a second (`adapter.timeout`).
const LAST_EXCHANGE: Duration = Duration::from_secs(2);

/// Most bytes that are carried each way: what SMBus takes in one block.
const MOST_BYTES: u8 = 32;

/// The I²C bus.
pub struct I2cBus {
    plan: Plan,
    slots: Vec<Slot>,
    timeouts: Vec<Duration>,
    opener: Opener,
    line: Line,
}

/// Where the open port is.
enum Line {
    Closed,
    Idle(Bench),
    /// With a thread. One exchange at most: the next waits until this one hands the port back.
    Busy(JoinHandle<Done>),
}

/// A finished exchange.
struct Done {
    bench: Bench,
    brought: Result<Brought, ReadError>,
    at: Instant,
}

/// What an exchange was for.
enum Brought {
    /// The measured channels of a chip.
    Values(Vec<Result<f64, Reason>>),
    /// Bytes, as they came.
    Bytes(Vec<u8>),
}

impl I2cBus {
    pub(crate) fn new(plan: Plan, slots: Vec<Slot>, timeouts: Vec<Duration>, opener: Opener) -> Self {
        Self { plan, slots, timeouts, opener, line: Line::Closed }
    }

    /// Waits until `deadline` for the thread that has the port, if one has. What it brings is in time
    /// only for the caller that sent it, who keeps it; the port is taken back either way.
    async fn finish(&mut self, deadline: Instant) -> Finished {
        let Line::Busy(thread) = &mut self.line else { return Finished::NothingToWaitFor };
        // The handle stays in `self`: whoever drops this future finds it again.
        let Ok(joined) = timeout_at(deadline, thread).await else { return Finished::StillBusy };
        match joined {
            Ok(done) => {
                self.line = Line::Idle(done.bench);
                Finished::Done(done.brought, done.at)
            }
            Err(error) => {
                self.line = Line::Closed;
                Finished::Broken(broken(error))
            }
        }
    }
}

impl I2cBus {
    /// One exchange on a thread of its own, within `limit`.
    async fn exchange(
        &mut self,
        limit: Duration,
        job: impl FnOnce(&mut Bench) -> Result<Brought, ReadError> + Send + 'static,
    ) -> Result<(Brought, Instant), ReadError> {
        let deadline = Instant::now() + limit;
        let too_late = || ReadError::Transient(FrameError::Timeout(limit));

        // An exchange that outlived its own timeout. What it brings is late, so it is nothing.
        match self.finish(deadline).await {
            Finished::StillBusy => return Err(too_late()),
            Finished::Broken(error) => return Err(ReadError::Bus(error)),
            Finished::NothingToWaitFor | Finished::Done(..) => {}
        }
        let Line::Idle(mut bench) = std::mem::replace(&mut self.line, Line::Closed) else {
            return Err(ReadError::Bus(io::Error::new(io::ErrorKind::NotConnected, "the bus is not open")));
        };
        self.line = Line::Busy(spawn_blocking(move || {
            let brought = job(&mut bench);
            Done { bench, brought, at: Instant::now() }
        }));
        let (brought, at) = match self.finish(deadline).await {
            Finished::Done(brought, at) => (brought, at),
            Finished::Broken(error) => return Err(ReadError::Bus(error)),
            Finished::StillBusy | Finished::NothingToWaitFor => return Err(too_late()),
        };
        if matches!(brought, Err(ReadError::Bus(_))) {
            self.line = Line::Closed;
        }
        Ok((brought?, at))
    }
}

enum Finished {
    NothingToWaitFor,
    StillBusy,
    Done(Result<Brought, ReadError>, Instant),
    Broken(io::Error),
}

#[async_trait]
impl Bus for I2cBus {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn open(&mut self) -> io::Result<()> {
        // The former port is with a thread, perhaps; two of them would stand in each other's way.
        if let Finished::StillBusy = self.finish(Instant::now() + LAST_EXCHANGE).await {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "the last exchange has not come back from the kernel yet: is a line held low?",
            ));
        }
        self.line = Line::Closed;
        let opener = Arc::clone(&self.opener);
        let port = spawn_blocking(move || opener()).await.map_err(broken)??;
        self.line = Line::Idle(Bench::new(port, &self.slots));
        Ok(())
    }

    async fn read(&mut self, block: usize, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        let Some(block) = self.plan.blocks.get(block) else { return Ok(()) };
        let (device, points) = (block.device, block.points.clone());
        let limit = self.timeouts.get(device).copied().unwrap_or_default();
        let (brought, at) =
            self.exchange(limit, move |bench| bench.measure(device).map(Brought::Values)).await?;
        if let Brought::Values(values) = brought {
            out.extend(points.into_iter().zip(values).map(|(point, value)| Sample {
                point,
                value: value.map(Value::Float),
                at,
            }));
        }
        Ok(())
    }

    /// `request` is how many bytes to read, and the bytes to write before that: a register's address, or nothing.
    async fn carry(&mut self, unit: u8, request: &[u8], timeout: Duration) -> Result<Vec<u8>, ReadError> {
        let wrong = |why: &str| ReadError::Transient(FrameError::Protocol(why.to_owned()));
        let (count, written) = request.split_first().ok_or_else(|| wrong("nothing was asked for"))?;
        if !(1..=MOST_BYTES).contains(count) || written.len() > usize::from(MOST_BYTES) {
            return Err(wrong("1 to 32 bytes can be read, behind at most 32 that are written"));
        }
        if !ADDRESSES.contains(&unit) {
            return Err(wrong("no chip has this address: 0x03 to 0x77"));
        }
        let (count, written) = (usize::from(*count), written.to_vec());
        let look = move |bench: &mut Bench| bench.look(unit, &written, count).map(Brought::Bytes);
        match self.exchange(timeout, look).await? {
            (Brought::Bytes(bytes), _) => Ok(bytes),
            (Brought::Values(_), _) => Err(wrong("another exchange was answered")),
        }
    }

    async fn write(&mut self, point: usize, _value: &Value) -> Result<(), ReadError> {
        let name = self.plan.points.get(point).map_or("?", |p| p.name.as_str());
        Err(ReadError::Transient(FrameError::Protocol(format!("`{name}` cannot be written: it is measured"))))
    }
}

/// A thread that ended without handing the port back.
fn broken(error: JoinError) -> io::Error {
    match error.try_into_panic() {
        Ok(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            io::Error::other(format!("the I²C thread panicked: {text}"))
        }
        Err(error) => io::Error::other(error),
    }
}
