//! What the log does a second, what it writes, and what a long queue costs, as tables.
//!
//! `cargo bench --bench store [-- READINGS]`: the length of the long queue, by default 10,000,000; `-- rates`, `-- written`
//! or `-- wear`: only that table. The files are beside the build's, on a real disk. Beside the log stands plain SQLite: the same groups as packed blobs of 16
//! bytes a reading (time and value), inserted by one thread that does nothing else, with the same durability.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use driver_api::{ByteSize, Span, Value};
use driver_sim::slaves::{Area, Kind, Layout, Source, TcpSlave};
use fieldgate::bounds;
use fieldgate::clock::{Clock, SystemClock};
use fieldgate::config::model;
use fieldgate::message::{BootMs, PointKey, Reading, WallMs};
use fieldgate::store::{Drain, Store};
use support::{Gate, now, pause, seconds, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");
const POINTS: usize = 1000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, dir] = args.as_slice()
        && mode == "hold"
    {
        return hold(Path::new(dir));
    }
    let long: u64 = args.iter().filter_map(|a| a.parse().ok()).next().unwrap_or(10_000_000);
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match args.iter().map(String::as_str).find(|arg| ["rates", "written", "wear"].contains(arg)) {
        Some("rates") => return runtime.block_on(rates(home.path())),
        Some("written") => return runtime.block_on(written(home.path())),
        Some(_) => return runtime.block_on(wear(home.path())),
        None => {}
    }
    runtime.block_on(rates(home.path()));
    runtime.block_on(written(home.path()));
    runtime.block_on(wear(home.path()));
    let queue = home.path().join("long");
    runtime.block_on(fill(&queue, long));
    memory(home.path(), &queue, long);
    start(&runtime, home.path(), &queue, long);
}

fn plant() -> Vec<Arc<PointKey>> {
    let key = |n: usize| PointKey {
        device: format!("meter{}", n / 20),
        point: format!("quantity_{}", n % 20),
        unit: "V".into(),
    };
    (0..POINTS).map(|n| Arc::new(key(n))).collect()
}

/// One second of a plant: most points move by a digit.
fn second(points: &[Arc<PointKey>], clock: &dyn Clock) -> Vec<Reading> {
    let at = clock.boot();
    let reading = |(n, point): (usize, &Arc<PointKey>)| {
        let moved = fastrand::f64().mul_add(6.0, -3.0).round();
        #[expect(clippy::cast_precision_loss, reason = "below 1000")]
        let value = (2300.0 + n as f64 + moved) / 10.0;
        Reading::good(Arc::clone(point), at, Value::Float(value))
    };
    points.iter().enumerate().map(reading).collect()
}

fn configuration(dir: &Path, commit: Span) -> model::Store {
    model::Store {
        path: dir.to_owned(),
        max_size: ByteSize::mib(4096),
        min_free: ByteSize(0),
        history: Span::ms(0),
        commit_interval: commit,
        ..model::Store::default()
    }
}

fn open(config: &model::Store) -> (Store, Arc<dyn Drain>) {
    let clock = Arc::new(SystemClock::new(true));
    let (store, _) = Store::open(config, &["cloud".to_owned()], clock).expect("opens");
    let drain = store.drain("cloud").expect("configured");
    (store, drain)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per(count: u64, by: f64) -> f64 {
    count as f64 / by
}

/// Takes as fast as the disk makes durable, for some seconds; readings/s and those read back a second.
async fn rates(home: &Path) {
    let (points, clock) = (plant(), SystemClock::new(true));
    println!("durable readings a second (fsync at every commit)\n");
    println!(
        "{:<22} {:>12} {:>12} {:>14} {:>12}",
        "commit every", "fieldgate", "plain SQLite", "share", "read back"
    );
    for hold in [10, 100, 500] {
        let dir = home.join(format!("rate{hold}"));
        let (store, drain) = open(&configuration(&dir, Span::ms(hold)));
        let batches: Vec<Vec<Reading>> = (0..64).map(|_| second(&points, &clock)).collect();
        let began = now();
        let mut taken = 0;
        for batch in batches.iter().cycle() {
            if now() - began > 4.0 {
                break;
            }
            // Half the ring is the most that may wait: nothing is lost, and the writer always has a group.
            while store.status().readings_in_ram > bounds::STORE_RING as u64 / 2 {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            taken += store.take(batch.clone()).count;
        }
        store.flush().await.expect("the disk is there");
        let ours = per(taken, now() - began);
        let began = now();
        let mut read = 0;
        for range in drain.pending() {
            let mut at = range.start;
            while at < range.end {
                let chunk = drain.read(at..range.end, bounds::STORE_READ).await.expect("reads");
                read += chunk.records.len() as u64;
                at = chunk.next;
            }
        }
        assert_eq!((read, drain.ledger().lost), (taken, 0));
        let back = per(read, now() - began);
        store.close().await.expect("closes");
        let plain = plain(&home.join(format!("plain{hold}")), taken, hold, ours);
        println!(
            "{:<22} {ours:>12.0} {plain:>12.0} {:>14.2} {back:>12.0}",
            format!("{hold} ms"),
            ours / plain
        );
    }
    println!();
}

/// The same number of readings as blobs of one group each, every `hold` ms or when a group is full.
fn plain(file: &Path, readings: u64, hold: u64, rate: f64) -> f64 {
    let db = rusqlite::Connection::open(file).expect("opens");
    db.execute_batch(
        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
         CREATE TABLE block(first INTEGER PRIMARY KEY, data BLOB)",
    )
    .expect("a table");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand")]
    let group = ((rate * Duration::from_millis(hold).as_secs_f64()) as usize).clamp(1, bounds::STORE_GROUP);
    let (mut done, began) = (0, now());
    while done < readings {
        let mut data = Vec::with_capacity(group * 16);
        for n in 0..group as u64 {
            data.extend((done + n).to_le_bytes());
            data.extend(fastrand::f64().to_le_bytes());
        }
        db.execute("INSERT INTO block VALUES(?1, ?2)", (done.cast_signed(), &data)).expect("inserted");
        done += group as u64;
    }
    per(done, now() - began)
}

/// Bytes that this process had the kernel write, by its own account in `/proc/self/io`.
fn write_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("Linux");
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.expect("the kernel accounts for it").parse().expect("a number")
}

/// A clock that goes a second at a time.
#[derive(Debug)]
struct Seconds {
    system: SystemClock,
    ahead: AtomicU64,
}

impl Clock for Seconds {
    fn boot(&self) -> BootMs {
        BootMs(self.ahead.load(Ordering::Relaxed) * 1000)
    }
    fn wall(&self) -> WallMs {
        WallMs(1_795_000_000_000 + self.boot().0.cast_signed())
    }
    fn synced(&self) -> bool {
        true
    }
    fn boot_id(&self) -> &str {
        self.system.boot_id()
    }
}

/// A plant of 1000 points at 1 Hz, commits every second, everything delivered at once, and dropped when the log does that by
/// itself, which is every ten seconds. As many commits as fill the WAL several times; they follow each other at once, and only
/// the clock that the log is given says that a second went by. (Not in it: the mark, once a minute of real time.)
async fn written(home: &Path) {
    const SECONDS: u64 = 2000;
    let points = plant();
    let clock = Arc::new(Seconds { system: SystemClock::new(true), ahead: AtomicU64::new(1000) });
    let config = configuration(&home.join("written"), Span::s(3600));
    let (store, _) = Store::open(&config, &["cloud".to_owned()], clock.clone()).expect("opens");
    let drain = store.drain("cloud").expect("configured");
    let before = (write_bytes(), store.status().bytes_written);
    for _ in 0..SECONDS {
        clock.ahead.fetch_add(1, Ordering::Relaxed);
        let _ = store.take(second(&points, &*clock));
        store.flush().await.expect("the disk is there");
        drain.pending().into_iter().for_each(|range| drain.delivered(range));
    }
    let after = (write_bytes(), store.status().bytes_written);
    assert_eq!(drain.ledger().lost, 0, "everything was delivered before it was dropped");
    assert!(store.status().readings <= 11 * POINTS as u64, "it is dropped");
    let readings = SECONDS * POINTS as u64;
    println!(
        "bytes written a reading: {POINTS} readings a commit, insert, drain and drop, 10 commits for 10 s\n"
    );
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let a_reading = |bytes: u64| bytes as f64 / readings as f64;
    println!("{:<22} {:>12.1}", "the kernel's account", a_reading(after.0 - before.0));
    println!("{:<22} {:>12.1}\n", "the status's account", a_reading(after.1 - before.1));
    store.close().await.expect("closes");
}

/// What an interval of commits costs in a day, by the log's own account, with everything delivered at once.
async fn wear(home: &Path) {
    const COMMITS: u64 = 300;
    let (points, clock) = (plant(), SystemClock::new(true));
    let intervals = [0.1, 0.5, 1.0, 5.0, 30.0];
    println!("MB written a day, by readings/s and by the interval of commits\n");
    println!("{:<12} {}", "readings/s", intervals.map(|t| format!("{:>9}", format!("{t} s"))).concat());
    for rate in [1.0, 10.0, 100.0, 1000.0] {
        let mut row = String::new();
        for interval in intervals {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 30,000")]
            let group = (f64::max(rate * interval, 1.0)) as usize;
            let dir = home.join(format!("wear-{rate}-{interval}"));
            let (store, drain) = open(&configuration(&dir, Span::s(3600)));
            let mut at = 0;
            let before = store.status().bytes_written;
            for _ in 0..COMMITS {
                let mut left = group;
                while left > 0 {
                    let mut batch = second(&points, &clock);
                    batch.rotate_left(at % POINTS);
                    batch.truncate(left.min(POINTS).min(bounds::STORE_GROUP));
                    (at, left) = (at + batch.len(), left - batch.len());
                    let _ = store.take(batch);
                }
                store.flush().await.expect("the disk is there");
                drain.pending().into_iter().for_each(|range| drain.delivered(range));
            }
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            let bytes = (store.status().bytes_written - before) as f64 / COMMITS as f64;
            // Where less than one reading comes in an interval there is a commit for each.
            let commits = 86_400.0 / f64::max(interval, 1.0 / rate);
            row += &format!("{:>9.0}", bytes * commits / 1e6);
            store.close().await.expect("closes");
        }
        println!("{rate:<12} {row}");
    }
    println!();
}

async fn fill(dir: &Path, readings: u64) {
    let (points, clock) = (plant(), SystemClock::new(true));
    let (store, drain) = open(&configuration(dir, Span::ms(500)));
    let batches: Vec<Vec<Reading>> = (0..64).map(|_| second(&points, &clock)).collect();
    let mut taken = 0;
    for batch in batches.iter().cycle() {
        if taken >= readings {
            break;
        }
        while store.status().readings_in_ram > bounds::STORE_RING as u64 / 2 {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        taken += store.take(batch.clone()).count;
    }
    store.flush().await.expect("the disk is there");
    assert_eq!(drain.ledger().lost, 0);
    store.close().await.expect("closes");
    let bytes = fs::metadata(dir.join("fieldgate.db")).expect("it is there").len();
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let size = bytes as f64 / taken as f64;
    println!("{:<22} {size:>12.2} bytes a reading on disk\n", format!("{taken} queued"));
}

/// In a process of its own: opens the log, takes a second of readings, says its memory and goes as if killed.
fn hold(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (points, clock) = (plant(), SystemClock::new(true));
        let (store, drain) = open(&configuration(dir, Span::ms(500)));
        for _ in 0..3 {
            let _ = store.take(second(&points, &clock));
            store.flush().await.expect("the disk is there");
        }
        let first = drain.pending().first().expect("queued").clone();
        drain.read(first, bounds::STORE_READ).await.expect("reads");
        println!("{}", status_kib("VmRSS:"));
    });
}

fn status_kib(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()).expect("a number").parse().expect("KiB")
}

fn memory(home: &Path, queue: &Path, long: u64) {
    let of = |dir: &Path| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let output = command.arg("hold").arg(dir).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).trim().parse::<f64>().expect("KiB") / 1024.0
    };
    let (empty, full) = (of(&home.join("empty")), of(queue));
    println!("memory of a process with the log open\n");
    println!("{:<22} {empty:>12.1} MiB", "empty");
    println!("{:<22} {full:>12.1} MiB", format!("{long} queued"));
    println!("{:<22} {:>12.1} MiB\n", "difference", full - empty);
}

/// The daemon from its start to the first poll that a device answers, with an empty log and with the long one.
fn start(runtime: &tokio::runtime::Runtime, home: &Path, queue: &Path, long: u64) {
    let layout = Layout::new(1, 0).with(1, Area::Holding, 0, Kind::U16, Source::Serves);
    let layout = layout.build().expect("small");
    println!("the daemon's start: until a device has answered, and its memory then\n");
    for (name, dir) in
        [("empty".to_owned(), home.join("fresh")), (format!("{long} queued"), queue.to_owned())]
    {
        let mut times = Vec::new();
        let mut rss = 0;
        for _ in 0..5 {
            let slave = runtime.block_on(TcpSlave::start(layout.clone(), 0)).expect("a port");
            let total = || slave.registers().ledger().iter().map(|row| row.good).sum::<u64>();
            let before = total();
            let served = || total() - before;
            let place = home.join("gate");
            fs::create_dir_all(&place).expect("made");
            let gate = gate(&place, &dir, slave.address().port());
            let began = now();
            let daemon = gate.spawn();
            wait_until("a first poll", seconds(30), || served() > 0);
            times.push((now() - began) * 1e3);
            pause(seconds(2));
            rss = daemon.memory_kib().0;
        }
        times.sort_by(f64::total_cmp);
        println!("{name:<22} {:>9.0} ms (median of 5) {:>9} KiB", times[2], rss);
    }
}

fn gate(place: &Path, store: &Path, port: u16) -> Gate {
    let store: PathBuf = store.to_owned();
    let rest = format!(
        "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:9\"\n\
         [[bus]]\nname = \"plc\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\n\
         [[device]]\nname = \"d\"\nbus = \"plc\"\naddress = 1\ninterval = \"1s\"\n\
         [[device.point]]\nname = \"p\"\nregister = \"holding:0\"\n"
    );
    let gate = Gate::new(BINARY, place, "bench", &rest);
    let text = fs::read_to_string(gate.config()).expect("just written");
    gate.configure(
        &text.replace("path = \"store\"", &format!("path = {:?}\nmax_size = \"4GiB\"", store.display())),
    );
    gate
}
