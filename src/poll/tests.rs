//! The bus task over a scripted bus, under paused time; `commands.rs` has the commander.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{
    Block, Bus, DeviceInfo, FrameError, Plan, PointInfo, Quality, ReadError, Reason, Sample, Value,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Ask, BusHandle, BusTask, stats::BusStats};
use crate::clock::SystemClock;
use crate::message::{PointKey, Reading};
use crate::pipeline::report::Reporter;
use crate::pipeline::rule::Rule;

mod commands;
mod flaky;
mod riders;

/// What the fake line does; shared with the test.
#[derive(Default)]
pub(super) struct Line {
    /// Devices that do not answer.
    dead: Vec<usize>,
    loses: Option<flaky::Loser>,
    /// Blocks that are never answered, on devices that live.
    mute: Vec<usize>,
    /// Devices for which a Modbus gateway says that they are silent.
    behind: Vec<usize>,
    pub(super) gone: bool,
    stuck_value: bool,
    held: HashMap<usize, Value>,
    pub(super) reads: Vec<(Instant, usize)>,
    opened: u32,
    /// Units that answer what is carried to them, and how long their exchange takes.
    pub(super) carries: HashMap<u8, Duration>,
    /// What was carried, and when it began.
    pub(super) carried: Vec<(Instant, u8, Vec<u8>)>,
}

impl Line {
    /// A device no longer answers its polls.
    pub(super) fn silence(&mut self, device: usize) {
        self.dead.push(device);
    }
}

struct FakeBus {
    plan: Plan,
    line: Arc<Mutex<Line>>,
}

pub(super) const EXCHANGE: Duration = Duration::from_millis(10);
pub(super) const TIMEOUT: Duration = Duration::from_millis(500);

#[async_trait]
impl Bus for FakeBus {
    fn plan(&self) -> &Plan {
        &self.plan
    }
    async fn open(&mut self) -> io::Result<()> {
        let mut line = self.line.lock().expect("test");
        if line.gone {
            return Err(io::ErrorKind::NotFound.into());
        }
        line.opened += 1;
        Ok(())
    }
    async fn read(&mut self, block: usize, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        let device = self.plan.blocks[block].device;
        let (gone, dead, behind) = {
            let mut line = self.line.lock().expect("test");
            line.reads.push((Instant::now(), device));
            let lost = line.loses.as_mut().is_some_and(|loser| loser.loses(device));
            let dead = lost || line.dead.contains(&device) || line.mute.contains(&block);
            (line.gone, dead, line.behind.contains(&device))
        };
        if gone {
            return Err(ReadError::Bus(io::ErrorKind::BrokenPipe.into()));
        }
        if dead {
            tokio::time::sleep(TIMEOUT).await;
            return Err(ReadError::Transient(FrameError::Timeout(TIMEOUT)));
        }
        if behind {
            tokio::time::sleep(TIMEOUT).await;
            return Err(ReadError::Transient(FrameError::Exception(0x0B)));
        }
        tokio::time::sleep(EXCHANGE).await;
        let line = self.line.lock().expect("test");
        for &point in &self.plan.blocks[block].points {
            let value = line.held.get(&point).cloned().unwrap_or(Value::Int(7));
            out.push(Sample { point, value: Ok(value), at: Instant::now() });
        }
        Ok(())
    }
    async fn write(&mut self, point: usize, value: &Value) -> Result<(), ReadError> {
        tokio::time::sleep(EXCHANGE).await;
        let mut line = self.line.lock().expect("test");
        if !line.stuck_value {
            line.held.insert(point, value.clone());
        }
        Ok(())
    }
    async fn carry(&mut self, unit: u8, request: &[u8], timeout: Duration) -> Result<Vec<u8>, ReadError> {
        let (gone, takes) = {
            let mut line = self.line.lock().expect("test");
            line.carried.push((Instant::now(), unit, request.to_vec()));
            (line.gone, line.carries.get(&unit).copied())
        };
        if gone {
            return Err(ReadError::Bus(io::ErrorKind::BrokenPipe.into()));
        }
        tokio::time::sleep(takes.unwrap_or(timeout)).await;
        match takes {
            Some(_) => Ok([&request[..1], &[2, 0, unit]].concat()),
            None => Err(ReadError::Transient(FrameError::Timeout(timeout))),
        }
    }
}

pub(super) struct Bench {
    pub(super) line: Arc<Mutex<Line>>,
    pub(super) handle: BusHandle,
    pub(super) stats: Arc<BusStats>,
    readings: mpsc::Receiver<Vec<Reading>>,
    rules: Vec<Rule>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// A bus with `devices` devices of one point each, polled every 100 ms.
fn bench(devices: usize) -> Bench {
    bench_of(&(0..devices).map(|d| (d, 100)).collect::<Vec<_>>())
}

/// A bus with these blocks of one point each: device and period in ms.
pub(super) fn bench_of(blocks: &[(usize, u64)]) -> Bench {
    start(blocks, |bus| Box::new(bus))
}

/// The same, with a bus that is made of the plain one.
fn start(blocks: &[(usize, u64)], made: impl FnOnce(FakeBus) -> Box<dyn Bus>) -> Bench {
    let devices = blocks.iter().map(|(d, _)| d + 1).max().unwrap_or(0);
    let name = |d: usize| format!("device{d}");
    let plan = Plan {
        devices: (0..devices)
            .map(|d| DeviceInfo { name: name(d), address: d.to_string(), models_at: None })
            .collect(),
        points: blocks
            .iter()
            .enumerate()
            .map(|(p, &(device, ms))| PointInfo {
                device,
                name: format!("p{p}"),
                spec: Some(0),
                unit: None,
                kind: "i16".into(),
                source: "x".into(),
                registers: None,
                writable: true,
                every: Duration::from_millis(ms),
            })
            .collect(),
        blocks: blocks
            .iter()
            .enumerate()
            .map(|(p, &(device, ms))| Block {
                device,
                points: vec![p],
                every: Duration::from_millis(ms),
                cost: EXCHANGE,
                what: "x".into(),
            })
            .collect(),
        chores: Vec::new(),
        together: 1,
    };
    let rules: Vec<Rule> = blocks
        .iter()
        .enumerate()
        .map(|(p, &(device, _))| {
            let key = PointKey { device: name(device), point: format!("p{p}"), unit: String::new() };
            Rule { writable: true, max: Some(30.0), ..Rule::plain(Arc::new(key), "i16") }
        })
        .collect();
    let line = Arc::new(Mutex::new(Line::default()));
    let bus = made(FakeBus { plan, line: line.clone() });
    let (out, readings) = mpsc::channel(crate::bounds::READINGS);
    let stop = CancellationToken::new();
    let clock = Arc::new(SystemClock::new(true));
    let (task, handle, stats) =
        BusTask::new("bus", bus, Reporter::new(rules.clone()), clock, out, stop.clone());
    Bench { line, handle, stats, readings, rules, stop, task: tokio::spawn(task.run()) }
}

impl Bench {
    /// Reads of each device over this long.
    pub(super) async fn reads_in(&mut self, length: Duration) -> HashMap<usize, usize> {
        self.line.lock().expect("test").reads.clear();
        let end = Instant::now() + length;
        while let Ok(Some(_)) = tokio::time::timeout_at(end, self.readings.recv()).await {}
        let mut counts = HashMap::new();
        for (_, device) in &self.line.lock().expect("test").reads {
            *counts.entry(*device).or_default() += 1;
        }
        counts
    }

    /// The next reading for which `wanted` holds.
    async fn until(&mut self, wanted: impl Fn(&Reading) -> bool) -> Reading {
        let search = async {
            loop {
                let batch = self.readings.recv().await.expect("the bus task runs");
                if let Some(reading) = batch.into_iter().find(|r| wanted(r)) {
                    return reading;
                }
            }
        };
        timeout(Duration::from_secs(120), search).await.expect("within two minutes")
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_device_takes_at_most_a_twentieth_and_is_back_at_its_first_answer() {
    let mut bench = bench(4);
    bench.line.lock().expect("test").dead = vec![3];
    // Let it go offline first.
    bench.until(|r| r.quality() == Quality::Bad(Reason::Timeout)).await;
    bench.reads_in(Duration::from_secs(5)).await;
    let counts = bench.reads_in(Duration::from_secs(600)).await;
    let dead = counts.get(&3).copied().unwrap_or(0) as f64 * TIMEOUT.as_secs_f64() / 600.0;
    assert!(dead > 0.0 && dead <= 0.05, "share of the dead: {dead}");
    for living in 0..3 {
        assert!(counts[&living] >= 5700, "device {living}: {} of 6000", counts[&living]);
    }
    bench.line.lock().expect("test").dead.clear();
    bench.until(|r| r.point.device == "device3" && r.quality() == Quality::Good).await;
    let counts = bench.reads_in(Duration::from_secs(10)).await;
    assert!(counts[&3] >= 98, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn when_a_device_dies_its_slow_points_go_bad_with_the_fast_ones() {
    let mut bench = bench_of(&[(0, 100), (0, 3_600_000), (1, 100)]);
    bench.reads_in(Duration::from_secs(5)).await;
    bench.line.lock().expect("test").dead = vec![0];
    let died = Instant::now();
    bench.until(|r| r.point.point == "p1" && r.quality() == Quality::Bad(Reason::Timeout)).await;
    assert!(died.elapsed() < Duration::from_secs(5), "{:?}", died.elapsed());
    assert_eq!(bench.stats.devices[0].state(), "offline");
    // And it is the whole device that comes back, at its first answer.
    bench.line.lock().expect("test").dead.clear();
    bench.until(|r| r.point.point == "p0" && r.quality() == Quality::Good).await;
    let back = Instant::now();
    bench.until(|r| r.point.point == "p1" && r.quality() == Quality::Good).await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_mute_range_of_a_living_device_silences_nothing_else() {
    let mut bench = bench_of(&[(0, 100), (0, 1000), (1, 100)]);
    bench.line.lock().expect("test").mute = vec![0];
    bench.reads_in(Duration::from_secs(10)).await;
    assert_eq!(bench.stats.devices[0].state(), "suspect");
    let busy = bench.stats.busy_us.load(std::sync::atomic::Ordering::Relaxed);
    let counts = bench.reads_in(Duration::from_secs(100)).await;
    let mute = bench.stats.busy_us.load(std::sync::atomic::Ordering::Relaxed) - busy;
    assert!(counts[&0] >= 100 && counts[&1] >= 940, "{counts:?}");
    // 100 + 950 reads of 10 ms, and at most a twentieth for the mute block.
    assert!(mute < 10_500_000 + 5_500_000, "{mute} us busy");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_says_its_device_is_silent_is_believed() {
    let mut bench = bench(3);
    bench.line.lock().expect("test").behind = vec![2];
    bench.reads_in(Duration::from_secs(10)).await;
    assert_eq!(bench.stats.devices[2].state(), "offline");
    let counts = bench.reads_in(Duration::from_secs(100)).await;
    assert!(counts[&2] <= 11 && counts[&0] >= 940, "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_writes_does_not_starve_the_polls() {
    let mut bench = bench(2);
    bench.until(|r| r.quality() == Quality::Good).await;
    let (handle, stop) = (bench.handle.clone(), bench.stop.clone());
    tokio::spawn(async move {
        while !stop.is_cancelled() {
            let ask = Ask::Write { point: 0, value: Value::Int(1), not_after: Instant::now() + TIMEOUT };
            if handle.begin(ask).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let counts = bench.reads_in(Duration::from_secs(20)).await;
    assert!(counts[&1] >= 150, "polls of the other device: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_port_says_bus_down_and_comes_back_within_five_seconds() {
    let mut bench = bench(2);
    bench.until(|r| r.quality() == Quality::Good).await;
    bench.line.lock().expect("test").gone = true;
    bench.until(|r| r.quality() == Quality::Bad(Reason::BusDown)).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.stats.state(), "down");
    assert!(bench.stats.devices.iter().all(|device| device.state() == "offline"));
    bench.line.lock().expect("test").gone = false;
    let healed = Instant::now();
    while bench.readings.try_recv().is_ok() {}
    bench.until(|r| r.quality() == Quality::Good).await;
    assert!(healed.elapsed() <= Duration::from_secs(5), "{:?}", healed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_the_task_and_closes_its_output() {
    let mut bench = bench(1);
    bench.until(|r| r.quality() == Quality::Good).await;
    bench.stop.cancel();
    timeout(Duration::from_secs(1), &mut bench.task).await.expect("ends").expect("no panic");
    while bench.readings.recv().await.is_some() {}
}
