//! A line of 32 devices of which ten die at the same moment: what the others and the dead take of it.
//!
//! The Modbus driver and the bus task are the real ones; the line is simulated at the pace of its baud, under
//! paused time, so that ten minutes take a moment and every run is the same.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{Bus, BusSpec, DeviceSpec, PointSpec, Table, Wire};
use driver_modbus::frame::seal;
use driver_modbus::plan::Pace;
use driver_modbus::rtu::{Connect, compile_on};
use fieldgate::clock::SystemClock;
use fieldgate::message::PointKey;
use fieldgate::pipeline::report::Reporter;
use fieldgate::pipeline::rule::Rule;
use fieldgate::poll::BusTask;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// What is on the line.
#[derive(Clone, Copy)]
pub struct Setup {
    pub baud: u32,
    pub devices: u8,
    pub registers: u16,
    pub dying: u8,
    pub turnaround: Duration,
    pub timeout: Duration,
    pub interval: Duration,
    /// The dead were so from the start: nothing is known of them.
    pub absent: bool,
}

impl Setup {
    /// 32 meters of ten registers at 19200 baud, each every second; ten die.
    pub const USUAL: Self = Self {
        baud: 19_200,
        devices: 32,
        registers: 10,
        dying: 10,
        turnaround: Duration::from_millis(3),
        timeout: Duration::from_millis(500),
        interval: Duration::from_secs(1),
        absent: false,
    };
}

/// One stretch of time, as seen on the line.
#[derive(Debug, Clone)]
pub struct Stretch {
    pub what: &'static str,
    /// For each living device the mean time between two reads.
    pub periods: Vec<Duration>,
    /// Share of the time that the line waited for those that did not answer.
    pub dead: f64,
    /// How often the dead were asked.
    pub asked: usize,
    /// Polls skipped.
    pub overruns: u64,
    /// How long after they came back the devices answered first, if that is what the stretch is about.
    pub back: Vec<Duration>,
}

impl Stretch {
    /// The longest mean period of a living device, as a multiple of what is configured.
    pub fn worst(&self, setup: Setup) -> f64 {
        let worst = self.periods.iter().max().expect("somebody lives");
        worst.as_secs_f64() / setup.interval.as_secs_f64()
    }

    /// The same, of all living devices together.
    pub fn mean(&self, setup: Setup) -> f64 {
        let sum: f64 = self.periods.iter().map(Duration::as_secs_f64).sum();
        sum / self.periods.len() as f64 / setup.interval.as_secs_f64()
    }
}

/// What the simulated line has seen.
#[derive(Default)]
struct Seen {
    dead: BTreeSet<u8>,
    /// When each request was over, its unit, and whether it was answered.
    requests: Vec<(Instant, u8, bool)>,
}

struct Simulated {
    setup: Setup,
    seen: Arc<Mutex<Seen>>,
}

#[async_trait]
impl Connect for Simulated {
    type Port = DuplexStream;
    async fn connect(&mut self) -> std::io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(1024);
        tokio::spawn(slaves(theirs, self.setup, self.seen.clone()));
        Ok(ours)
    }
}

/// Every unit of the line: takes a read of registers, and answers at the pace of the line, or not.
async fn slaves(mut port: DuplexStream, setup: Setup, seen: Arc<Mutex<Seen>>) {
    let pace = Pace::serial(setup.baud, 11);
    let mut request = [0; 8];
    while port.read_exact(&mut request).await.is_ok() {
        sleep(pace.char_time * 8).await;
        let [unit, function, _, _, high, low, ..] = request;
        let answers = {
            let mut seen = seen.lock().expect("test");
            let answers = !seen.dead.contains(&unit);
            seen.requests.push((Instant::now(), unit, answers));
            answers
        };
        if !answers {
            continue;
        }
        let count = u16::from_be_bytes([high, low]);
        let mut answer = vec![unit, function, u8::try_from(count * 2).expect("at most 125")];
        answer.resize(3 + usize::from(count) * 2, 0);
        seal(&mut answer);
        sleep(pace.silence.max(setup.turnaround) + pace.char_time).await;
        if port.write_all(&answer[..1]).await.is_err() {
            return;
        }
        sleep(pace.char_time * u32::try_from(answer.len() - 1).expect("a frame")).await;
        if port.write_all(&answer[1..]).await.is_err() {
            return;
        }
    }
}

fn compile(setup: Setup, seen: Arc<Mutex<Seen>>) -> Box<dyn Bus> {
    let keys: Vec<String> = (1..=setup.devices).map(|unit| format!("address = {unit}")).collect();
    let points: Vec<String> = (0..setup.registers).map(|n| format!("register = 'holding:{n}'")).collect();
    let table = |text| Table::from_text(0, text).expect("TOML");
    let point = |(n, text)| PointSpec {
        name: format!("p{n}"),
        interval: setup.interval,
        writable: false,
        table: table(text),
    };
    let devices = keys.iter().zip(1..).map(|(keys, unit): (_, u8)| DeviceSpec {
        name: format!("device{unit}"),
        interval: setup.interval,
        timeout: setup.timeout,
        table: table(keys),
        points: points.iter().map(String::as_str).enumerate().map(point).collect(),
    });
    let spec =
        BusSpec { name: "line".into(), table: table(""), devices: devices.collect(), wire: Wire::default() };
    let mut problems = Vec::new();
    let connect = Simulated { setup, seen };
    compile_on(&spec, Pace::serial(setup.baud, 11), connect, &mut problems)
        .unwrap_or_else(|| panic!("{problems:#?}"))
}

/// Runs the line: all alive, the deaths, long after, and back again. Time must be paused.
pub async fn run(setup: Setup) -> Vec<Stretch> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let bus = compile(setup, seen.clone());
    let rules = bus.plan().points.iter().map(|point| {
        let device = bus.plan().devices[point.device].name.clone();
        Rule::plain(
            Arc::new(PointKey { device, point: point.name.clone(), unit: String::new() }),
            &point.kind,
        )
    });
    let reporter = Reporter::new(rules.collect());
    let (out, mut readings) = tokio::sync::mpsc::channel(fieldgate::bounds::READINGS);
    let stop = CancellationToken::new();
    let clock = Arc::new(SystemClock::new(true));
    let (task, _handle, stats) = BusTask::new("line", bus, reporter, clock, out, stop.clone());
    tokio::spawn(async move { while readings.recv().await.is_some() {} });
    // Spread over the line, as whatever took them did not choose by address.
    let dying: BTreeSet<u8> =
        (0..setup.dying).map(|n| 1 + n * (setup.devices / setup.dying.max(1))).collect();
    if setup.absent {
        seen.lock().expect("test").dead = dying.clone();
    }
    let task = tokio::spawn(task.run());
    let mut stretches = Vec::new();
    let mut measure = async |what: &'static str, length: Duration| {
        let start = Instant::now();
        let overruns = stats.overruns.load(std::sync::atomic::Ordering::Relaxed);
        seen.lock().expect("test").requests.clear();
        sleep(length).await;
        let seen = seen.lock().expect("test");
        let living = (1..=setup.devices).filter(|unit| !dying.contains(unit));
        let of = |unit: u8| seen.requests.iter().filter(move |r| r.1 == unit);
        let count = |unit: u8| u32::try_from(of(unit).count().max(1)).expect("few");
        // A request without an answer holds the line until the next one goes out.
        let ends = seen.requests.iter().skip(1).map(|r| r.0).chain([Instant::now()]);
        let held = seen
            .requests
            .iter()
            .zip(ends)
            .filter(|(r, _)| !r.2)
            .map(|(r, end)| (end - r.0).min(setup.timeout));
        let held: Duration = held.sum();
        let first = |unit: &u8| of(*unit).find(|r| r.2).map(|r| r.0 - start);
        stretches.push(Stretch {
            what,
            periods: living.map(|unit| length / count(unit)).collect(),
            dead: held.as_secs_f64() / length.as_secs_f64(),
            asked: seen.requests.iter().filter(|r| !r.2).count(),
            overruns: stats.overruns.load(std::sync::atomic::Ordering::Relaxed) - overruns,
            back: dying.iter().filter_map(first).collect(),
        });
    };
    let s = Duration::from_secs;
    if !setup.absent {
        measure("settling", s(30)).await;
        measure("all alive", s(60)).await;
    }
    seen.lock().expect("test").dead = dying.clone();
    measure("first 30 s after the deaths", s(30)).await;
    measure("30 s to 60 s", s(30)).await;
    measure("2nd to 10th minute", s(540)).await;
    seen.lock().expect("test").dead.clear();
    measure("back again", s(180)).await;
    stop.cancel();
    task.await.expect("it ends");
    stretches
}

/// The table that people read.
pub fn print(setup: Setup, stretches: &[Stretch]) {
    println!(
        "{} devices of {} registers every {:?} at {} baud; {} {}, timeout {:?}\n",
        setup.devices,
        setup.registers,
        setup.interval,
        setup.baud,
        setup.dying,
        if setup.absent { "are not there" } else { "die at once" },
        setup.timeout
    );
    println!(
        "{:30} {:>12} {:>12} {:>10} {:>8} {:>9}",
        "", "mean period", "worst", "the dead", "asked", "overruns"
    );
    for stretch in stretches {
        println!(
            "{:30} {:>10.2} % {:>10.2} % {:>8.2} % {:>8} {:>9}",
            stretch.what,
            stretch.mean(setup) * 100.0,
            stretch.worst(setup) * 100.0,
            stretch.dead * 100.0,
            stretch.asked,
            stretch.overruns
        );
    }
    let mut back = stretches.last().map(|s| s.back.clone()).unwrap_or_default();
    back.sort_unstable();
    let seconds: Vec<String> = back.iter().map(|d| format!("{:.0}", d.as_secs_f64())).collect();
    println!("back after {} s", seconds.join(", "));
}
