//! How much of a serial line is used: registers a second as a share of what the standard allows, and how
//! often the silence between two frames was too short.
//!
//! `cargo bench --bench line [-- SECONDS]`. Devices on a pseudo-terminal that takes its time as a line of 11
//! bits a character would. On paper an exchange takes (13 + 2n) characters, 3.5 characters of silence before
//! the request, and the longer of 3.5 characters and the device's turnaround before the answer. Each master
//! has the line to itself for the same time: fieldgate's driver in a bare loop, the same under the bus task
//! with its schedule, reports and counters, and for comparison tokio-modbus's client, which keeps no
//! silence.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use driver_api::{Bus, BusSpec, DeviceSpec, Driver, PointSpec, Problem, Table, Wire};
use driver_sim::slaves::{Area, Kind, Layout, Line, LineStats, RtuOptions, RtuSlave, Source};
use fieldgate::clock::SystemClock;
use fieldgate::message::PointKey;
use fieldgate::pipeline::report::Reporter;
use fieldgate::pipeline::rule::Rule;
use fieldgate::poll::BusTask;
use tokio::time::Instant;
use tokio_modbus::Slave;
use tokio_modbus::client::{Reader, rtu};
use tokio_modbus::slave::SlaveContext;
use tokio_serial::SerialStream;
use tokio_util::sync::CancellationToken;

/// What is asked of how many devices, and how slow they are.
#[derive(Clone, Copy)]
struct Load {
    devices: u8,
    registers: u16,
    turnaround: Duration,
}

/// What a master got out of the line, from an answer's end to an answer's end.
struct Used {
    answers: u64,
    time: Duration,
}

fn main() {
    let seconds = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(10);
    let length = Duration::from_secs(seconds);
    println!("share of the paper limit in registers/s; silences shorter than 3.5 characters in brackets\n");
    for (title, load) in [
        ("10 devices × 10 registers", Load { devices: 10, registers: 10, turnaround: Duration::ZERO }),
        (
            "10 devices × 10 registers, 5 ms turnaround",
            Load { devices: 10, registers: 10, turnaround: Duration::from_millis(5) },
        ),
        ("10 devices × 125 registers", Load { devices: 10, registers: 125, turnaround: Duration::ZERO }),
    ] {
        println!("{title}");
        println!(
            "{:>8} {:>12} {:>18} {:>18} {:>18}",
            "baud", "paper reg/s", "driver", "bus task", "tokio-modbus"
        );
        for baud in [9600, 19_200, 38_400, 115_200] {
            let line = Line::new(baud).expect("not zero");
            let exchange = line.chars(13 + 2 * usize::from(load.registers))
                + line.gap()
                + line.gap().max(load.turnaround);
            let paper = f64::from(load.registers) / exchange.as_secs_f64();
            let shown = |(stats, used): (LineStats, Used)| {
                let share = used.answers as f64 * exchange.as_secs_f64() / used.time.as_secs_f64();
                format!("{share:.4} ({}/{})", stats.short_gaps, stats.answers)
            };
            let driver = shown(on_a_line(baud, load, |path, _| bare(path, baud, load, length)));
            let task = shown(on_a_line(baud, load, |path, said| tasked(path, baud, load, length, said)));
            let other = shown(on_a_line(baud, load, |path, _| tokio_modbus(path, baud, load, length)));
            println!("{baud:>8} {paper:>12.0} {driver:>18} {task:>18} {other:>18}");
        }
        println!();
    }
}

/// Starts the devices on a thread of their own, has `master` talk to them, and gives what passed over the
/// line and what the master got out of it; `master` can ask how many answers were said.
fn on_a_line(
    baud: u32,
    load: Load,
    master: impl FnOnce(&Path, &dyn Fn() -> u64) -> Used,
) -> (LineStats, Used) {
    let runtime = runtime();
    let mut layout = Layout::new(1, 0);
    for unit in 1..=load.devices {
        for address in 0..load.registers {
            layout = layout.with(unit, Area::Holding, address, Kind::U16, Source::Held(f64::from(address)));
        }
    }
    let options = RtuOptions { baud, turnaround: load.turnaround, link: None };
    let slave = {
        let _inside = runtime.enter();
        RtuSlave::start(layout.build().expect("small"), options).expect("a pseudo-terminal")
    };
    let stop = CancellationToken::new();
    let thread = std::thread::spawn({
        let stop = stop.clone();
        move || runtime.block_on(stop.cancelled())
    });
    let path = slave.path().expect("plugged in").to_owned();
    let used = master(&path, &|| slave.stats().answers);
    let stats = slave.stats();
    stop.cancel();
    thread.join().expect("it only waits");
    (stats, used)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn compile(path: &Path, baud: u32, load: Load) -> Box<dyn Bus> {
    let bus = format!("port = {path:?}\nbaud = {baud}\nparity = 'even'");
    let keys: Vec<String> = (1..=load.devices).map(|unit| format!("address = {unit}")).collect();
    let points: Vec<String> = (0..load.registers).map(|n| format!("register = 'holding:{n}'")).collect();
    let table = |text| Table::from_text(0, text).expect("TOML");
    // Always due: the line is never idle.
    let interval = Duration::from_millis(1);
    let devices = keys.iter().zip(1..).map(|(keys, unit): (_, u8)| DeviceSpec {
        name: format!("device{unit}"),
        interval,
        timeout: Duration::from_secs(2),
        table: table(keys),
        points: points
            .iter()
            .enumerate()
            .map(|(n, text)| PointSpec {
                name: format!("point{n}"),
                interval,
                writable: false,
                table: table(text),
            })
            .collect(),
    });
    let spec = BusSpec {
        name: "line".into(),
        table: table(&bus),
        devices: devices.collect(),
        wire: Wire::default(),
    };
    let mut problems: Vec<Problem> = Vec::new();
    driver_modbus::Rtu.compile(spec, &mut problems).unwrap_or_else(|| panic!("{problems:#?}"))
}

/// The driver, block after block.
fn bare(path: &Path, baud: u32, load: Load, length: Duration) -> Used {
    runtime().block_on(async {
        let mut bus = compile(path, baud, load);
        bus.open().await.expect("it opens");
        let blocks = bus.plan().blocks.len();
        let mut samples = Vec::new();
        // The first exchange waits for the line to be quiet for longer.
        bus.read(0, &mut samples).await.expect("an answer");
        let (start, mut answers) = (Instant::now(), 0);
        while start.elapsed() < length {
            for block in 0..blocks {
                samples.clear();
                bus.read(block, &mut samples).await.expect("an answer");
                answers += 1;
            }
        }
        Used { answers, time: start.elapsed() }
    })
}

/// The bus task, with everything that a gateway does between two exchanges, on the runtime of a gateway.
fn tasked(path: &Path, baud: u32, load: Load, length: Duration, said: &dyn Fn() -> u64) -> Used {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let bus = compile(path, baud, load);
        let rules = bus.plan().points.iter().map(|point| {
            let device = bus.plan().devices[point.device].name.clone();
            let key = PointKey { device, point: point.name.clone(), unit: String::new() };
            Rule::plain(Arc::new(key), &point.kind)
        });
        let reporter = Reporter::new(rules.collect());
        let (out, mut readings) = tokio::sync::mpsc::channel(fieldgate::bounds::READINGS);
        let stop = CancellationToken::new();
        let (task, _handle, _stats) =
            BusTask::new("line", bus, reporter, Arc::new(SystemClock::new(true)), out, stop.clone());
        let taker = tokio::spawn(async move { while readings.recv().await.is_some() {} });
        let task = tokio::spawn(task.run());
        let next = async || {
            let before = said();
            while said() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            (said(), Instant::now())
        };
        next().await;
        let (first, start) = next().await;
        tokio::time::sleep(length).await;
        let (last, end) = next().await;
        stop.cancel();
        task.await.expect("it ends");
        taker.await.expect("it ends");
        Used { answers: last - first, time: end - start }
    })
}

/// The client of tokio-modbus, block after block.
fn tokio_modbus(path: &Path, baud: u32, load: Load, length: Duration) -> Used {
    runtime().block_on(async {
        let port = SerialStream::open(&tokio_serial::new(path.to_string_lossy(), baud)).expect("it opens");
        let mut client = rtu::attach(port);
        let (start, mut answers) = (Instant::now(), 0);
        while start.elapsed() < length {
            for unit in 1..=load.devices {
                client.set_slave(Slave(unit));
                let words = client.read_holding_registers(0, load.registers).await;
                words.expect("a line").expect("an answer");
                answers += 1;
            }
        }
        Used { answers, time: start.elapsed() }
    })
}
