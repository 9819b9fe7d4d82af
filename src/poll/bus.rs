//! The task that owns one bus: opens it, polls what is due, answers what is asked in between.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use driver_api::{Bus, ReadError, Reason, Sample, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::health::{DeadBudget, Health, Outcome};
use super::schedule::{Next, Schedule};
use super::stats::BusStats;
use crate::backoff::Backoff;
use crate::bounds;
use crate::clock::Clock;
use crate::message::Reading;
use crate::pipeline::report::Reporter;

/// Something to do on the bus besides polling.
#[derive(Debug)]
pub enum Ask {
    /// Read the block of this point now.
    Read {
        /// Index into the plan.
        point: usize,
    },
    /// Write a raw value and read it back.
    Write {
        /// Index into the plan.
        point: usize,
        /// The raw value, already checked against the point's type.
        value: Value,
        /// Not to be begun after this.
        not_after: Instant,
    },
}

/// What came of an [`Ask`].
#[derive(Debug)]
pub struct Exchange {
    /// What the point holds now, as read after the write; raw.
    pub read: Result<Sample, String>,
}

/// Why an [`Ask`] did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// Its time had passed before its turn came; nothing was sent.
    Expired,
    /// The device or the bus, in words.
    Failed(String),
    /// Too many are waiting.
    Busy,
}

/// An ask and where its answer goes.
type Request = (Ask, oneshot::Sender<Result<Exchange, Failed>>);

/// The way to a running bus task.
#[derive(Debug, Clone)]
pub struct BusHandle {
    requests: mpsc::Sender<Request>,
}

impl BusHandle {
    /// Asks, and waits for the answer. Every exchange on a bus ends by itself, so this does too.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn ask(&self, ask: Ask) -> Result<Exchange, Failed> {
        self.begin(ask)?.wait().await
    }

    /// Puts the ask into the bus's queue at once, so that asks keep their order.
    ///
    /// # Errors
    /// [`Failed::Busy`] when too many are waiting.
    pub fn begin(&self, ask: Ask) -> Result<Pending, Failed> {
        let (answer, wait) = oneshot::channel();
        self.requests.try_send((ask, answer)).map_err(|_| Failed::Busy)?;
        Ok(Pending(wait))
    }
}

/// An ask in a bus's queue.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<Exchange, Failed>>);

impl Pending {
    /// Waits for the answer.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn wait(self) -> Result<Exchange, Failed> {
        let stopped = || Failed::Failed("the bus is being stopped".to_owned());
        self.0.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// One bus and everything its task needs.
pub struct BusTask {
    bus: Box<dyn Bus>,
    reporter: Reporter,
    schedule: Schedule,
    health: Vec<Health>,
    budget: DeadBudget,
    backoff: Backoff,
    stats: Arc<BusStats>,
    clock: Arc<dyn Clock>,
    out: mpsc::Sender<Vec<Reading>>,
    requests: mpsc::Receiver<Request>,
    stop: CancellationToken,
}

/// First and longest wait before a port is opened again; a replugged adapter is back within 5 s.
const REOPEN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// How often an idle task shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

enum Wake {
    Stop,
    Request(Request),
    Due,
    Said(Result<(), ReadError>),
}

impl BusTask {
    /// A task for `bus`, its handle and its counters. `out` leads to the pipeline.
    ///
    #[must_use]
    pub fn new(
        name: &str,
        bus: Box<dyn Bus>,
        reporter: Reporter,
        clock: Arc<dyn Clock>,
        out: mpsc::Sender<Vec<Reading>>,
        stop: CancellationToken,
    ) -> (Self, BusHandle, Arc<BusStats>) {
        let plan = bus.plan();
        let stats = Arc::new(BusStats::new(name, plan.devices.iter().map(|d| d.name.clone())));
        let (send, requests) = mpsc::channel(bounds::BUS_REQUESTS);
        let now = Instant::now();
        let task = Self {
            schedule: Schedule::new(&plan.blocks, now),
            health: vec![Health::Online; plan.devices.len()],
            budget: DeadBudget::new(now),
            backoff: Backoff::new(REOPEN.0, REOPEN.1).expect("0 < 500 ms < 4 s"),
            stats: stats.clone(),
            bus,
            reporter,
            clock,
            out,
            requests,
            stop,
        };
        (task, BusHandle { requests: send }, stats)
    }

    /// The same without any poll: only what is asked is sent.
    #[must_use]
    pub fn without_polls(mut self) -> Self {
        self.schedule = Schedule::new(&[], Instant::now());
        self
    }

    /// Runs until stopped. What was read is handed on before it ends.
    pub async fn run(mut self) {
        while !self.stop.is_cancelled() {
            if !self.open().await {
                continue;
            }
            match self.poll().await {
                Ok(()) => return,
                Err(error) => {
                    warn!(BUS = self.stats.name, "bus lost: {error}");
                    self.fail_all(Reason::BusDown).await;
                }
            }
            self.stats.set_open(false);
            self.pause().await;
        }
    }

    /// Tries to open the port; on failure says so once, marks the points, and waits.
    async fn open(&mut self) -> bool {
        self.sign_of_life();
        let again = self.stats.state() != "starting";
        match self.bus.open().await {
            Ok(()) => {
                info!(BUS = self.stats.name, "bus open");
                if again {
                    self.stats.reconnects.fetch_add(1, Relaxed);
                }
                self.stats.set_open(true);
                let now = Instant::now();
                self.schedule.reopen(now);
                self.health.fill(Health::Online);
                true
            }
            Err(error) => {
                if self.stats.state() != "down" {
                    warn!(BUS = self.stats.name, "cannot open the bus, trying again: {error}");
                }
                self.stats.set_open(false);
                self.fail_all(Reason::BusDown).await;
                self.pause().await;
                false
            }
        }
    }

    /// Waits before the next opening; whoever asks meanwhile is told.
    async fn pause(&mut self) {
        let until = Instant::now() + self.backoff.next(fastrand::f64());
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                request = self.requests.recv() => match request {
                    Some((_, answer)) => {
                        let _ = answer.send(Err(Failed::Failed("the bus is down".to_owned())));
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// Polls until stopped (`Ok`) or until the port is gone.
    async fn poll(&mut self) -> Result<(), ReadError> {
        let mut said = Vec::new();
        loop {
            self.sign_of_life();
            let next = self.schedule.next(Instant::now(), &self.health, &self.budget);
            let until = match next {
                Next::Read(_) => Instant::now(),
                Next::Wait(until) => until.min(Instant::now() + HEARTBEAT),
                Next::Idle => Instant::now() + HEARTBEAT,
            };
            // No exchange runs inside this select: `idle` only listens and may be dropped.
            let wake = tokio::select! {
                biased;
                () = self.stop.cancelled() => Wake::Stop,
                Some(request) = self.requests.recv() => Wake::Request(request),
                () = tokio::time::sleep_until(until) => Wake::Due,
                heard = self.bus.idle(&mut said) => Wake::Said(heard),
            };
            match wake {
                Wake::Stop => return Ok(()),
                Wake::Request(request) => self.serve(request).await?,
                Wake::Said(result) => {
                    result?;
                    self.heard(&said);
                    let samples = std::mem::take(&mut said);
                    self.report(&samples).await;
                }
                Wake::Due => {
                    if let Next::Read(block) = next {
                        let mut samples = Vec::new();
                        let result = self.read(block, &mut samples).await;
                        let overruns = self.schedule.done(block, Instant::now());
                        self.stats.overruns.fetch_add(overruns, Relaxed);
                        result?;
                        self.report(&samples).await;
                    }
                }
            }
        }
    }

    /// One block read, with everything that follows from how it ended. `Err` only when the port is gone.
    async fn read(&mut self, block: usize, samples: &mut Vec<Sample>) -> Result<(), ReadError> {
        let Some(described) = self.bus.plan().blocks.get(block) else {
            return Ok(());
        };
        let device = described.device;
        let started = Instant::now();
        let result = self.bus.read(block, samples).await;
        let now = Instant::now();
        self.stats.count(now - started, result.as_ref().err());
        let outcome = match &result {
            Ok(()) | Err(ReadError::Refused(_)) => Outcome::Answered,
            Err(ReadError::Transient(driver_api::FrameError::Exception(_))) => Outcome::Answered,
            Err(ReadError::Transient(_) | ReadError::Bus(_)) => Outcome::Silent { cost: now - started },
        };
        self.judge(device, outcome, now);
        match result {
            Ok(()) => {
                self.backoff.reset();
                Ok(())
            }
            Err(ReadError::Bus(error)) => Err(ReadError::Bus(error)),
            Err(error @ ReadError::Transient(_)) => {
                self.fail_block(block, samples, error.reason());
                Ok(())
            }
            Err(error @ ReadError::Refused(_)) => {
                let what = self.bus.plan().blocks.get(block).map(|b| b.what.clone()).unwrap_or_default();
                warn!(BUS = self.stats.name, "{what}: {error}; left out until the bus is opened again");
                self.schedule.refuse(block);
                self.fail_block(block, samples, error.reason());
                Ok(())
            }
        }
    }

    /// Updates a device's health and what people see of it.
    fn judge(&mut self, device: usize, outcome: Outcome, now: Instant) {
        let (Some(health), Some(stats)) = (self.health.get_mut(device), self.stats.devices.get(device))
        else {
            return;
        };
        let before = *health;
        *health = before.after(outcome, now);
        stats.set_state(health.word());
        match outcome {
            Outcome::Answered => stats.last_ok.store(self.clock.wall().0, Relaxed),
            Outcome::Silent { cost } => {
                stats.failures.fetch_add(1, Relaxed);
                if before.is_offline() {
                    self.budget.spend(cost, now);
                }
            }
        }
        match (before.is_offline(), health.is_offline()) {
            (false, true) => {
                warn!(BUS = self.stats.name, DEVICE = stats.name, "device does not answer");
            }
            (true, false) => {
                info!(BUS = self.stats.name, DEVICE = stats.name, "device answers again");
                self.schedule.revive(device, now);
            }
            _ => {}
        }
    }

    /// What the bus said unasked counts as an answer of the device it came from, or as its silence.
    fn heard(&mut self, samples: &[Sample]) {
        let now = Instant::now();
        let Some(device) =
            samples.first().and_then(|s| self.bus.plan().points.get(s.point)).map(|p| p.device)
        else {
            return;
        };
        let silent = samples.iter().all(|s| s.value == Err(Reason::Timeout));
        let outcome = if silent { Outcome::Silent { cost: Duration::ZERO } } else { Outcome::Answered };
        self.judge(device, outcome, now);
    }

    fn fail_block(&self, block: usize, samples: &mut Vec<Sample>, reason: Reason) {
        let at = Instant::now();
        if let Some(block) = self.bus.plan().blocks.get(block) {
            samples.extend(block.points.iter().map(|&point| Sample { point, value: Err(reason), at }));
        }
    }

    async fn fail_all(&mut self, reason: Reason) {
        let all: Vec<usize> = (0..self.bus.plan().points.len()).collect();
        let readings = self.reporter.fail(&all, reason, &*self.clock);
        self.hand_on(readings).await;
    }

    async fn report(&mut self, samples: &[Sample]) {
        let readings = self.reporter.apply(samples, &*self.clock);
        self.hand_on(readings).await;
    }

    /// Full means the pipeline is behind: the bus waits and polls late; nothing is dropped.
    async fn hand_on(&mut self, readings: Vec<Reading>) {
        if !readings.is_empty() {
            // Only fails when the pipeline is gone, and then the process is ending.
            let _ = self.out.send(readings).await;
        }
    }

    /// A one-shot read or a write, between two polls.
    async fn serve(&mut self, (ask, answer): Request) -> Result<(), ReadError> {
        let (point, written) = match ask {
            Ask::Read { point } => (point, Ok(())),
            Ask::Write { not_after, .. } if Instant::now() > not_after => {
                let _ = answer.send(Err(Failed::Expired));
                return Ok(());
            }
            Ask::Write { point, value, .. } => {
                let started = Instant::now();
                let result = self.bus.write(point, &value).await;
                self.stats.count(started.elapsed(), result.as_ref().err());
                (point, result)
            }
        };
        if let Err(error) = written {
            let _ = answer.send(Err(Failed::Failed(error.to_string())));
            return match error {
                ReadError::Bus(_) => Err(error),
                ReadError::Transient(_) | ReadError::Refused(_) => Ok(()),
            };
        }
        let Some(block) = self.bus.plan().block_of(point) else {
            let read = Err("this point cannot be read".to_owned());
            let _ = answer.send(Ok(Exchange { read }));
            return Ok(());
        };
        let mut samples = Vec::new();
        let result = self.read(block, &mut samples).await;
        let found = samples.iter().find(|s| s.point == point).cloned();
        let read = match (&result, found) {
            (Err(error), _) => Err(error.to_string()),
            (Ok(()), Some(sample)) => Ok(sample),
            (Ok(()), None) => Err("the device gave no value".to_owned()),
        };
        let _ = answer.send(Ok(Exchange { read }));
        self.report(&samples).await;
        result
    }

    fn sign_of_life(&self) {
        self.stats.alive_boot_ms.store(self.clock.boot().0, Relaxed);
    }
}
