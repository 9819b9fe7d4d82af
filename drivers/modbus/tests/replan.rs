//! A bus learns how long its devices take to answer, and which reads they refuse, and plans by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{Bus, BusSpec, DeviceSpec, PointSpec, Table, Value, Wire};
use driver_modbus::frame::seal;
use driver_modbus::plan::Pace;
use driver_modbus::rtu::{Connect, compile_on};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::sleep;

/// A unit on a simulated line of 115200 baud.
struct Unit {
    turnaround: Duration,
    /// Reads that touch these registers are refused with exception 02.
    hole: std::ops::Range<u16>,
    /// How often that happened.
    refusals: Arc<AtomicUsize>,
}

impl Unit {
    fn new(turnaround: Duration, hole: std::ops::Range<u16>) -> Self {
        Self { turnaround, hole, refusals: Arc::default() }
    }
}

#[async_trait]
impl Connect for Unit {
    type Port = DuplexStream;
    async fn connect(&mut self) -> std::io::Result<DuplexStream> {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (turnaround, hole, refusals) = (self.turnaround, self.hole.clone(), self.refusals.clone());
        tokio::spawn(async move {
            let mut request = [0; 8];
            let char_time = Pace::serial(115_200, 11).char_time;
            while theirs.read_exact(&mut request).await.is_ok() {
                let [unit, function, at_high, at_low, high, low, ..] = request;
                let (at, len) = (u16::from_be_bytes([at_high, at_low]), u16::from_be_bytes([high, low]));
                let mut answer = if at < hole.end && hole.start < at + len {
                    refusals.fetch_add(1, Ordering::Relaxed);
                    vec![unit, function | 0x80, 2]
                } else {
                    let data = (at..at + len).flat_map(u16::to_be_bytes);
                    [unit, function, (len * 2) as u8].into_iter().chain(data).collect()
                };
                seal(&mut answer);
                sleep(char_time * 9 + turnaround).await;
                theirs.write_all(&answer[..1]).await.expect("the master listens");
                sleep(char_time * (answer.len() as u32 - 1)).await;
                theirs.write_all(&answer[1..]).await.expect("the master listens");
            }
        });
        Ok(ours)
    }
}

/// Registers every second with so many between them that nobody wants.
fn bus(gaps: &[u16], unit: Unit) -> Box<dyn Bus> {
    let table = |text| Table::from_text(0, text).expect("TOML");
    let mut texts = vec!["register = 'holding:0'".to_owned()];
    let mut at = 0;
    for gap in gaps {
        at += gap + 1;
        texts.push(format!("register = 'holding:{at}'"));
    }
    let point = |(index, text)| PointSpec {
        name: format!("p{index}"),
        interval: Duration::from_secs(1),
        writable: false,
        table: table(text),
    };
    let device = DeviceSpec {
        name: "meter".into(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        table: table("address = 1"),
        points: texts.iter().map(String::as_str).enumerate().map(point).collect(),
    };
    let spec =
        BusSpec { name: "line".into(), table: table(""), devices: vec![device], wire: Wire::default() };
    let mut problems = Vec::new();
    compile_on(&spec, Pace::serial(115_200, 11), unit, &mut problems)
        .unwrap_or_else(|| panic!("{problems:#?}"))
}

/// Reads every block of the plan so often, and gives the values of the last round by point.
async fn read(bus: &mut dyn Bus, rounds: usize) -> Vec<Result<Value, driver_api::Reason>> {
    let mut samples = Vec::new();
    for _ in 0..rounds {
        samples.clear();
        for block in 0..bus.plan().blocks.len() {
            bus.read(block, &mut samples).await.expect("it answers");
        }
    }
    samples.sort_by_key(|sample| sample.point);
    samples.into_iter().map(|sample| sample.value).collect()
}

#[tokio::test(start_paused = true)]
async fn a_slow_device_is_asked_for_more_at_once_as_soon_as_that_is_known() {
    let turnaround = Duration::from_millis(20);
    let mut bus = bus(&[40], Unit::new(turnaround, 0..0));
    bus.open().await.expect("it opens");
    assert_eq!(bus.plan().blocks.len(), 2, "at 115200 baud 40 registers cost more than a request");
    assert_eq!(bus.learned(0).turnaround, None);
    assert!(!bus.replan(), "nothing is known yet");
    assert_eq!(read(&mut *bus, 8).await, [Ok(Value::Int(0)), Ok(Value::Int(41))]);
    let measured = bus.learned(0).turnaround.expect("sixteen answers");
    assert!(measured >= turnaround && measured < turnaround + Duration::from_millis(3), "{measured:?}");
    assert!(bus.replan());
    assert_eq!(bus.plan().blocks.len(), 1, "but less than 20 ms of waiting");
    assert!(bus.plan().blocks[0].cost > turnaround);
    assert_eq!(read(&mut *bus, 20).await, [Ok(Value::Int(0)), Ok(Value::Int(41))]);
    assert!(!bus.replan(), "the plan in use is the best one");
}

#[tokio::test(start_paused = true)]
async fn a_refused_block_is_shown_with_its_parts() {
    let mut bus = bus(&[4], Unit::new(Duration::from_millis(2), 1..5));
    bus.open().await.expect("it opens");
    assert_eq!(bus.plan().blocks.len(), 1);
    assert_eq!(bus.learned(0).split_blocks, 0);
    assert_eq!(read(&mut *bus, 8).await, [Ok(Value::Int(0)), Ok(Value::Int(5))]);
    let learned = bus.learned(0);
    assert_eq!((learned.split_blocks, learned.split_parts), (1, 2));
    // A new plan for nothing would ask for the whole again.
    assert!(!bus.replan());
    assert_eq!(bus.learned(0).split_blocks, 1);
}

#[tokio::test(start_paused = true)]
async fn a_hole_that_is_known_is_not_read_again_after_a_new_plan() {
    let unit = Unit::new(Duration::from_millis(20), 1..5);
    let refusals = unit.refusals.clone();
    let refused = || refusals.load(Ordering::Relaxed);
    let mut bus = bus(&[4, 40], unit);
    bus.open().await.expect("it opens");
    assert_eq!(bus.plan().blocks.len(), 2);
    let values = [Ok(Value::Int(0)), Ok(Value::Int(5)), Ok(Value::Int(46))];
    assert_eq!(read(&mut *bus, 8).await, values);
    assert_eq!(refused(), 1, "it is learned once");
    assert!(bus.replan());
    assert_eq!(bus.plan().blocks.len(), 1, "over the hole, and to the third register");
    assert_eq!((bus.learned(0).split_blocks, bus.learned(0).split_parts), (1, 2));
    assert_eq!(read(&mut *bus, 8).await, values);
    assert_eq!(refused(), 1, "it is a fact about the registers, not about the block");
    bus.open().await.expect("it opens");
    assert_eq!(read(&mut *bus, 1).await, values);
    assert_eq!(refused(), 2, "a reconnect is a new chance");
}
