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

/// Opens the bus; may block.
pub type Opener = Arc<dyn Fn() -> io::Result<Box<dyn I2cPort>> + Send + Sync>;

/// How long `open` waits for an exchange of the former port that is still under way. The kernel
/// gives up a transfer after a second (`adapter.timeout`).
const LAST_EXCHANGE: Duration = Duration::from_secs(2);

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
    values: Result<Vec<Result<f64, Reason>>, ReadError>,
    at: Instant,
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
                Finished::Done(done.values, done.at)
            }
            Err(error) => {
                self.line = Line::Closed;
                Finished::Broken(broken(error))
            }
        }
    }
}

enum Finished {
    NothingToWaitFor,
    StillBusy,
    Done(Result<Vec<Result<f64, Reason>>, ReadError>, Instant),
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
            let values = bench.measure(device);
            Done { bench, values, at: Instant::now() }
        }));
        let (values, at) = match self.finish(deadline).await {
            Finished::Done(values, at) => (values, at),
            Finished::Broken(error) => return Err(ReadError::Bus(error)),
            Finished::StillBusy | Finished::NothingToWaitFor => return Err(too_late()),
        };
        match values {
            Ok(values) => {
                out.extend(points.into_iter().zip(values).map(|(point, value)| Sample {
                    point,
                    value: value.map(Value::Float),
                    at,
                }));
                Ok(())
            }
            Err(error) => {
                if matches!(error, ReadError::Bus(_)) {
                    self.line = Line::Closed;
                }
                Err(error)
            }
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
