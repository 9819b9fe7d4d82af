//! Answers that come too late, by the thousand: none becomes a value, and every exchange ends in time.
//!
//! The devices are simulated under paused time. Every request gets a number, and its answer says that
//! number in its registers, so a value that was taken from another request's answer is seen at once.
//! `FIELDGATE_LATE=100000 cargo test --release -p driver-modbus --test conformance storm -- --nocapture` is the
//! deep run.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{Bus, ReadError, Value};
use driver_modbus::frame::seal;
use driver_modbus::plan::Pace;
use driver_modbus::rtu::{Connect, compile_on};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::MS;
use crate::support::{device, spec};

const TIMEOUT: Duration = Duration::from_millis(500);

/// A small generator of numbers (xorshift), so that a seed says everything.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The devices behind the port.
struct World {
    dice: Dice,
    /// Bytes on their way to the master, in order of arrival.
    arriving: VecDeque<(Instant, Vec<u8>)>,
    /// When each unit will have said what it has to say: units answer in order.
    free: BTreeMap<u8, Instant>,
    /// The number of the last request, and when its last byte was written.
    requests: u32,
    asked: Instant,
    late: u32,
    /// How often the master was answered in time.
    timely: u32,
    reader: Option<Waker>,
    /// Noise is said now and then, too.
    noisy: bool,
}

impl World {
    /// Takes one request and decides what becomes of it.
    fn ask(&mut self, frame: &[u8]) {
        let now = Instant::now();
        self.requests += 1;
        self.asked = now;
        let (unit, function) = (frame[0], frame[1]);
        let on_the_wire = Pace::serial(19_200, 11).char_time * u32::try_from(frame.len()).expect("short");
        let mut due = now + on_the_wire + 5 * MS;
        match self.dice.below(10) {
            // Never.
            0 => return,
            // In time.
            1..=3 => self.timely += 1,
            // 1 to 500 ms after the timeout.
            _ => {
                due = now
                    + on_the_wire
                    + TIMEOUT
                    + MS * u32::try_from(1 + self.dice.below(500)).expect("small");
                self.late += 1;
            }
        }
        due = due.max(self.free.get(&unit).copied().unwrap_or(now));
        self.free.insert(unit, due);
        let mut answer = vec![unit, function];
        if self.dice.below(20) == 0 {
            answer = vec![unit, function | 0x80, 2];
        } else {
            let registers = u16::from_be_bytes([frame[4], frame[5]]);
            answer.push(u8::try_from(registers * 2).expect("short"));
            // The number in every pair of registers.
            let number = self.requests.to_be_bytes();
            answer.extend(number.iter().cycle().take(usize::from(registers) * 2));
        }
        seal(&mut answer);
        self.arrives(due, answer);
        if self.noisy && self.dice.below(4) == 0 {
            let noise = (0..self.dice.below(12)).map(|_| self.dice.below(256) as u8).collect();
            let at = now + MS * u32::try_from(self.dice.below(700)).expect("small");
            self.arrives(at, noise);
        }
    }

    fn arrives(&mut self, at: Instant, bytes: Vec<u8>) {
        let place = self.arriving.partition_point(|(due, _)| *due <= at);
        self.arriving.insert(place, (at, bytes));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

struct Port {
    world: Arc<Mutex<World>>,
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone)]
struct Plug(Arc<Mutex<World>>);

impl Plug {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("one thread")
    }
}

#[async_trait]
impl Connect for Plug {
    type Port = Port;
    async fn connect(&mut self) -> io::Result<Port> {
        Ok(Port { world: self.0.clone(), timer: None })
    }
}

impl AsyncRead for Port {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let due = {
                let mut world = self.world.lock().expect("one thread");
                world.reader = Some(cx.waker().clone());
                let Some((due, bytes)) = world.arriving.front_mut() else { return Poll::Pending };
                if *due <= Instant::now() {
                    let rest = bytes.split_off(bytes.len().min(buf.remaining()));
                    buf.put_slice(bytes);
                    *bytes = rest;
                    if bytes.is_empty() {
                        world.arriving.pop_front();
                    }
                    if buf.filled().is_empty() {
                        continue;
                    }
                    return Poll::Ready(Ok(()));
                }
                *due
            };
            let timer = self.timer.insert(Box::pin(sleep_until(due)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.world.lock().expect("one thread").ask(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn bus(seed: u64, noisy: bool) -> (Box<dyn Bus>, Plug) {
    let now = Instant::now();
    let plug = Plug(Arc::new(Mutex::new(World {
        dice: Dice(seed),
        arriving: VecDeque::new(),
        free: BTreeMap::new(),
        requests: 0,
        asked: now,
        late: 0,
        timely: 0,
        reader: None,
        noisy,
    })));
    // Blocks of the same shape, on one unit and on two, and one of another.
    let points = "a: register = 'holding:0', type = 'u32'
         b: register = 'holding:500', type = 'u32'
         c: register = 'holding:900', type = 'u32'
         d: register = 'input:0', type = 'u32'
         e: register = 'holding:100', type = 'u64'";
    let keys = |unit| format!("address = {unit}\nmax_gap = 0");
    let devices = [device("one", &keys(1), points), device("two", &keys(2), points)];
    let mut problems = Vec::new();
    let bus = compile_on(&spec("", &devices), Pace::serial(19_200, 11), plug.clone(), &mut problems);
    let mut bus = bus.unwrap_or_else(|| panic!("{problems:#?}"));
    bus.open().await.expect("it opens");
    (bus, plug)
}

/// Reads until so many answers were late. Gives the values that were believed, all of them right.
async fn read_until(late: u32, seed: u64, noisy: bool) -> u32 {
    let (mut bus, plug) = bus(seed, noisy).await;
    let blocks = bus.plan().blocks.len() as u64;
    let mut believed = 0;
    let mut dice = Dice(seed ^ 0x5DEE_CE66);
    let grain = MS + Pace::serial(19_200, 11).char_time;
    while plug.world().late < late {
        let block = usize::try_from(dice.below(blocks)).expect("small");
        let (begun, before) = (Instant::now(), plug.world().requests);
        let mut samples = Vec::new();
        let result = bus.read(block, &mut samples).await;
        let (number, asked, now) = {
            let world = plug.world();
            (world.requests, world.asked, Instant::now())
        };
        if number == before {
            // The line was never quiet, or everything that could be asked is owed.
            assert!(now - begun <= TIMEOUT + grain, "{:?} for nothing; seed {seed}", now - begun);
        } else {
            let wire = Pace::serial(19_200, 11).char_time * 8;
            assert!(now - asked <= wire + TIMEOUT + grain, "{:?} for one exchange; seed {seed}", now - asked);
        }
        match result {
            Ok(()) => {
                for sample in &samples {
                    let Ok(value) = &sample.value else { continue };
                    let said = match value {
                        Value::Int(n) => u32::try_from(*n & 0xFFFF_FFFF).expect("masked"),
                        other => panic!("{other}"),
                    };
                    assert_eq!(said, number, "block {block} was given another request's answer; seed {seed}");
                    believed += 1;
                }
            }
            Err(ReadError::Bus(error)) => panic!("{error}"),
            Err(ReadError::Transient(_) | ReadError::Refused(_)) => assert!(samples.is_empty()),
        }
        if dice.below(3) == 0 {
            tokio::time::sleep(MS * u32::try_from(dice.below(3000)).expect("small")).await;
        }
    }
    let world = plug.world();
    println!(
        "seed {seed}: {} requests, {} answers late, {} in time, {believed} values believed, 0 wrong",
        world.requests, world.late, world.timely
    );
    believed
}

fn wanted() -> u32 {
    std::env::var("FIELDGATE_LATE").ok().and_then(|n| n.parse().ok()).unwrap_or(3000)
}

#[tokio::test(start_paused = true)]
async fn no_late_answer_is_ever_a_value() {
    assert!(read_until(wanted(), 0x1234_5678, false).await > wanted() / 50, "the others are still read");
}

#[tokio::test(start_paused = true)]
async fn noise_between_them_changes_nothing() {
    read_until(wanted() / 4, 0x9E37_79B9, true).await;
}
