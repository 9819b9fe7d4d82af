//! The task that owns one bus: opens it, polls what is due, answers what is asked in between.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use driver_api::exception::{Exception, Reaction};
use driver_api::{Bus, FrameError, ReadError, Reason, Sample, Value};
use driver_modbus::function;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ask::{Ask, BusHandle, Carried, CarryRequest, Exchange, Failed, Guest, NotCarried, Request};
use super::budget::{Budget, Purpose};
use super::cadence::Cadence;
use super::health::{Health, Outcome};
use super::lateness::Lateness;
use super::schedule::{Next, Schedule};
use super::share::guests::Guests;
use super::share::permit;
use super::stats::BusStats;
use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::message::Reading;
use crate::pipeline::report::Reporter;

mod verdict;

/// One bus and everything its task needs.
pub struct BusTask {
    bus: Box<dyn Bus>,
    reporter: Reporter,
    schedule: Schedule,
    cadence: Cadence,
    health: Health,
    budget: Budget,
    lateness: Lateness,
    /// When the driver is asked next whether it knows a better plan.
    replan_at: Instant,
    backoff: Backoff,
    stats: Arc<BusStats>,
    clock: Arc<dyn Clock>,
    out: mpsc::Sender<Vec<Reading>>,
    requests: mpsc::Receiver<Request>,
    /// What is carried for others, and what they may take of the bus.
    carries: mpsc::Receiver<CarryRequest>,
    guests: Guests,
    /// Each device's unit, where devices have one: clients and polls ask the same ones.
    units: Vec<Option<u8>>,
    stop: CancellationToken,
}

/// First and longest wait before a port is opened again; a replugged adapter is back within 5 s.
const REOPEN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// How often the driver may plan anew; a plan that changed more often would only unsettle the schedule.
const REPLAN: Duration = Duration::from_secs(60);
/// How often an idle task shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

enum Wake {
    Stop,
    Request(Request),
    Carry(CarryRequest),
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
        let (handle, requests, carries) = BusHandle::new();
        let now = Instant::now();
        let units = plan.devices.iter().map(|device| device.address.parse().ok()).collect();
        let task = Self {
            units,
            schedule: Schedule::new(&plan.blocks, now),
            cadence: Cadence::new(plan),
            health: Health::new(&plan.blocks, plan.devices.len()),
            budget: Budget::new(now),
            lateness: Lateness::new(now),
            replan_at: now + REPLAN,
            backoff: Backoff::new(REOPEN.0, REOPEN.1).expect("0 < 500 ms < 4 s"),
            stats: stats.clone(),
            bus,
            reporter,
            clock,
            out,
            requests,
            carries,
            guests: Guests::new(now),
            stop,
        };
        (task, handle, stats)
    }

    /// The same without any poll: only what is asked is sent.
    #[must_use]
    pub fn without_polls(mut self) -> Self {
        self.schedule = Schedule::new(&[], Instant::now());
        self.never_replan();
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
                self.health.reopen();
                self.cadence.hasten_all();
                self.guests.reopen();
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
                Some((_, answer)) = self.carries.recv() => {
                    let _ = answer.send(Err(NotCarried::Down("the bus is down".to_owned())));
                }
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// Polls until stopped (`Ok`) or until the port is gone.
    async fn poll(&mut self) -> Result<(), ReadError> {
        let mut said = Vec::new();
        let mut served = false;
        loop {
            self.sign_of_life();
            self.replan();
            let next = self.schedule.next(Instant::now(), &self.health, &self.budget);
            let until = match next {
                Next::Read(_) => Instant::now(),
                Next::Wait(until) => until.min(Instant::now() + HEARTBEAT),
                Next::Idle => Instant::now() + HEARTBEAT,
            };
            // After a request the poll that is due goes first: writes must not starve the readings.
            let due = matches!(next, Next::Read(_));
            let poll_first = served && due;
            let guest_may = !due || (!served && self.guests.may_go_first(Instant::now()));
            served = false;
            // No exchange runs inside this select: `idle` only listens and may be dropped.
            let wake = tokio::select! {
                biased;
                () = self.stop.cancelled() => Wake::Stop,
                Some(request) = self.requests.recv(), if !poll_first => Wake::Request(request),
                Some(carry) = self.carries.recv(), if guest_may => Wake::Carry(carry),
                () = tokio::time::sleep_until(until) => Wake::Due,
                heard = self.bus.idle(&mut said) => Wake::Said(heard),
            };
            match wake {
                Wake::Stop => return Ok(()),
                Wake::Request(request) => {
                    self.serve(request).await?;
                    served = true;
                }
                Wake::Carry(carry) => {
                    self.carry(carry).await;
                    served = true;
                }
                Wake::Said(result) => {
                    result?;
                    self.heard(&said);
                    let samples = std::mem::take(&mut said);
                    self.report(&samples).await;
                }
                Wake::Due => {
                    if let Next::Read(block) = next {
                        self.turn(block).await?;
                    }
                }
            }
        }
    }

    /// A block's turn, and of those that are due with it as many as the bus takes at once.
    async fn turn(&mut self, block: usize) -> Result<(), ReadError> {
        let most = self.bus.plan().together.saturating_sub(1);
        let mut blocks = vec![block];
        if most > 0 {
            blocks.extend(self.schedule.also_due(block, Instant::now(), &self.health, most));
        }
        let living: Vec<bool> = blocks.iter().map(|block| self.note_lateness(*block)).collect();
        let started = Instant::now();
        let results = if let [block] = blocks[..] {
            let mut samples = Vec::new();
            vec![self.bus.read(block, &mut samples).await.map(|()| samples)]
        } else {
            self.bus.read_together(&blocks).await
        };
        let spent = started.elapsed() / u32::try_from(blocks.len()).unwrap_or(1);
        let (mut all, mut lost) = (Vec::new(), None);
        for ((block, living), result) in blocks.into_iter().zip(living).zip(results) {
            let mut samples = Vec::new();
            let result = result.map(|read| samples = read);
            let result = self.ended(block, spent, result, &mut samples);
            let overruns = self.schedule.done(block, Instant::now());
            if living {
                self.stats.overruns.fetch_add(overruns, Relaxed);
            }
            lost = lost.or(result.err());
            all.append(&mut samples);
        }
        self.cadence.filter(&mut all);
        self.report(&all).await;
        lost.map_or(Ok(()), Err)
    }

    /// One block read, with everything that follows from how it ended. `Err` only when the port is gone.
    async fn read(&mut self, block: usize, samples: &mut Vec<Sample>) -> Result<(), ReadError> {
        let started = Instant::now();
        let result = self.bus.read(block, samples).await;
        self.ended(block, started.elapsed(), result, samples)
    }

    /// What follows from how a block read ended that took `spent` of the bus.
    fn ended(
        &mut self,
        block: usize,
        spent: Duration,
        result: Result<(), ReadError>,
        samples: &mut Vec<Sample>,
    ) -> Result<(), ReadError> {
        let Some(described) = self.bus.plan().blocks.get(block) else {
            return Ok(());
        };
        let device = described.device;
        let now = Instant::now();
        self.stats.count(spent, result.as_ref().err());
        let outcome = match &result {
            Ok(()) | Err(ReadError::Refused(_)) => Outcome::Answered,
            Err(ReadError::Transient(FrameError::Exception(code))) if !says_silent(*code) => {
                Outcome::Answered
            }
            Err(ReadError::Transient(_) | ReadError::Bus(_)) => Outcome::Silent { cost: spent },
        };
        let unasked = self.judge(device, Some(block), outcome, now);
        self.show_learned(device);
        match result {
            Ok(()) => {
                self.backoff.reset();
                Ok(())
            }
            Err(ReadError::Bus(error)) => Err(ReadError::Bus(error)),
            Err(error @ ReadError::Transient(_)) => {
                for block in std::iter::once(block).chain(unasked) {
                    self.fail_block(block, samples, error.reason());
                }
                Ok(())
            }
            Err(error @ ReadError::Refused(_)) => {
                let what = self.bus.plan().blocks.get(block).map(|b| b.what.clone()).unwrap_or_default();
                warn!(BUS = self.stats.name, "{what}: {error}; asked again in ten minutes");
                self.schedule.refuse(block, now);
                self.fail_block(block, samples, error.reason());
                Ok(())
            }
        }
    }

    fn fail_block(&self, block: usize, samples: &mut Vec<Sample>, reason: Reason) {
        let at = Instant::now();
        if let Some(block) = self.bus.plan().blocks.get(block) {
            samples.extend(block.points.iter().map(|&point| Sample { point, value: Err(reason), at }));
        }
    }

    /// Every point of the bus is bad, and so every device is out of reach.
    async fn fail_all(&mut self, reason: Reason) {
        // What is only written is never read, and so would never be anything else again.
        let plan = self.bus.plan();
        let read = |device: &usize| plan.blocks.iter().any(|block| block.device == *device);
        let devices = self.stats.devices.iter().enumerate().filter(|(index, _)| read(index));
        devices.for_each(|(_, device)| device.set_state("offline"));
        let all: Vec<usize> =
            (0..plan.points.len()).filter(|point| plan.block_of(*point).is_some()).collect();
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
        let point = match ask {
            Ask::Read { point } => point,
            Ask::Write { not_after, .. } if Instant::now() > not_after => {
                let _ = answer.send(Err(Failed::Expired));
                return Ok(());
            }
            Ask::Write { point, value, .. } => {
                if let Err(error) = self.write(point, &value).await {
                    let _ = answer.send(Err(Failed::Failed(error.to_string())));
                    return match error {
                        ReadError::Bus(_) => Err(error),
                        ReadError::Transient(_) | ReadError::Refused(_) => Ok(()),
                    };
                }
                point
            }
        };
        let Some(block) = self.bus.plan().block_of(point) else {
            let read = Err("this point cannot be read".to_owned());
            let _ = answer.send(Ok(Exchange { read }));
            return Ok(());
        };
        let mut samples = Vec::new();
        let result = self.read(block, &mut samples).await;
        let read = result.as_ref().map(|()| samples.clone()).map_err(ToString::to_string);
        let _ = answer.send(Ok(Exchange { read }));
        self.report(&samples).await;
        result
    }

    /// A request that is nobody's point, counted like any exchange. What it does to the port (there are devices
    /// that hang up at what they do not know) is for the next poll to find out: no guest may take the bus down.
    async fn carry(&mut self, (carry, answer): CarryRequest) {
        let started = Instant::now();
        if answer.is_closed() || started > carry.not_after {
            let _ = answer.send(Err(NotCarried::Busy));
            return;
        }
        let doubtful = carry.guest == Guest::Client && self.doubtful(carry.unit);
        if !self.guests.worth_sending(&carry, doubtful, started, self.budget.ready(Purpose::Probe)) {
            let _ = answer.send(Err(NotCarried::Silent));
            return;
        }
        let mut result = self.bus.carry(carry.unit, &carry.request, carry.timeout).await;
        let (now, cost) = (Instant::now(), started.elapsed());
        if let Err(ReadError::Refused(code) | ReadError::Transient(FrameError::Exception(code))) = result {
            result = Ok(function::refuse(&carry.request, code));
        }
        let refused = result.as_ref().ok().and_then(|pdu| function::refusal(pdu));
        let failure = refused.map(|code| ReadError::Transient(FrameError::Exception(code)));
        self.stats.count(cost, failure.as_ref().or(result.as_ref().err()));
        let (answered, told) = match result {
            Ok(answer) => {
                let silent = refused.is_some_and(says_silent);
                (!silent, Ok(Carried { answer, took: cost }))
            }
            Err(ReadError::Transient(FrameError::Timeout(_))) => (false, Err(NotCarried::Silent)),
            Err(error @ (ReadError::Transient(_) | ReadError::Refused(_))) => {
                (false, Err(NotCarried::Garbled(error.to_string())))
            }
            Err(error @ ReadError::Bus(_)) => (false, Err(NotCarried::Down(error.to_string()))),
        };
        if permit::may_write(&carry.request) {
            self.stats.writes.fetch_add(1, Relaxed);
        }
        if self.guests.sent(&carry, answered, cost, now) || (doubtful && !answered) {
            self.budget.spend(cost, true, now);
        }
        let _ = answer.send(told);
    }

    /// Whether a device of this unit did not answer its last poll.
    fn doubtful(&self, unit: u8) -> bool {
        let of = |(device, is): (usize, &Option<u8>)| *is == Some(unit) && self.health.doubtful(device);
        self.units.iter().enumerate().any(of)
    }

    /// One write, counted like any exchange.
    async fn write(&mut self, point: usize, value: &Value) -> Result<(), ReadError> {
        let started = Instant::now();
        let result = self.bus.write(point, value).await;
        // Whatever came of it: the device may hold something new.
        self.stats.writes.fetch_add(1, Relaxed);
        let now = Instant::now();
        self.stats.count(now - started, result.as_ref().err());
        let device = self.bus.plan().points.get(point).map(|p| p.device);
        if let (Some(device), Err(ReadError::Transient(error))) = (device, &result)
            && !matches!(error, FrameError::Exception(_))
        {
            self.judge(device, None, Outcome::Silent { cost: now - started }, now);
        }
        result
    }

    fn sign_of_life(&self) {
        self.stats.alive_boot_ms.store(self.clock.boot().0, Relaxed);
    }
}

/// Whether a gateway says with this exception that the device behind it is silent.
fn says_silent(code: u8) -> bool {
    Exception::of(code).read == Reaction::Silent
}
