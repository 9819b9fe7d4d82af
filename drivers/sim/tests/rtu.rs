//! The RTU slave as a master on the other end of the terminal sees it: values, pace, faults, plug.

use std::path::Path;
use std::time::Duration;

use driver_api::Value;
use driver_sim::signals::Signal;
use driver_sim::slaves::{Area, Kind, Layout, Line, Registers, RtuFault, RtuOptions, RtuSlave, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_modbus::ExceptionCode;
use tokio_modbus::Slave;
use tokio_modbus::client::{Context, Reader, Writer, rtu};
use tokio_serial::SerialStream;

/// Long enough for any answer at the bauds used here, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
const NOTHING: [u8; 0] = [];
/// Long enough to believe that nothing comes.
const QUIET: Duration = Duration::from_millis(300);

fn image() -> Registers {
    let mut layout = Layout::new(1, 1000);
    for unit in [1, 2] {
        layout = layout
            .with(unit, Area::Input, 0, Kind::F32, Source::Serves)
            .with(unit, Area::Input, 2, Kind::F32, Source::Signal(Signal::Constant(230.1)))
            .with(unit, Area::Input, 5, Kind::U16, Source::Serves)
            .with(unit, Area::Discrete, 0, Kind::Bool, Source::Signal(Signal::Constant(1.0)))
            .with(unit, Area::Holding, 0, Kind::I16, Source::Held(-2.0))
            .with(unit, Area::Coil, 0, Kind::Bool, Source::Held(0.0));
    }
    for n in 0..60 {
        layout = layout.with(3, Area::Holding, n, Kind::U16, Source::Serves);
    }
    layout.build().expect("fits")
}

fn slave(baud: u32) -> RtuSlave {
    let options = RtuOptions { baud, turnaround: Duration::ZERO, link: None };
    RtuSlave::start(image(), options).expect("a pseudo-terminal")
}

fn open(path: &Path) -> SerialStream {
    SerialStream::open(&tokio_serial::new(path.to_string_lossy(), 19_200)).expect("opens")
}

fn master(slave: &RtuSlave, unit: u8) -> Context {
    rtu::attach_slave(open(slave.path().expect("plugged")), Slave(unit))
}

fn frame(body: &[u8]) -> Vec<u8> {
    let crc = body.iter().fold(0xFFFF_u16, |crc, byte| {
        (0..8)
            .fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 })
    });
    [body, &crc.to_le_bytes()].concat()
}

/// What comes back until the line has been quiet.
async fn exchange(port: &mut SerialStream, request: &[u8]) -> Vec<u8> {
    port.write_all(request).await.expect("writes");
    listen(port).await
}

async fn listen(port: &mut SerialStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(count) = timeout(QUIET, port.read(&mut buffer)).await {
        let count = count.expect("reads");
        assert_ne!(count, 0, "hung up");
        answer.extend_from_slice(&buffer[..count]);
    }
    answer
}

async fn until(reached: impl Fn() -> bool) {
    let wait = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("in time");
}

/// `input:5` of a unit, the one-register counter.
fn ask(unit: u8) -> Vec<u8> {
    frame(&[unit, 4, 0, 5, 0, 1])
}

fn good(unit: u8, n: u8) -> Vec<u8> {
    frame(&[unit, 4, 2, 0, n])
}

fn counts(slave: &RtuSlave, unit: u8) -> (u64, u64, u64) {
    let row = slave.registers().row(unit, Area::Input, 5).expect("there");
    (row.good, row.late, row.spoiled)
}

#[tokio::test]
async fn a_master_reads_and_writes_every_area() {
    let slave = slave(115_200);
    let mut master = master(&slave, 1);
    let words = timeout(PATIENCE, master.read_input_registers(0, 4)).await.expect("in time");
    assert_eq!(words.expect("line").expect("answer"), [0x3F80, 0, 0x4366, 0x199A]);
    let bits = timeout(PATIENCE, master.read_discrete_inputs(0, 1)).await.expect("in time");
    assert_eq!(bits.expect("line").expect("answer"), [true]);
    let word = timeout(PATIENCE, master.read_holding_registers(0, 1)).await.expect("in time");
    assert_eq!(word.expect("line").expect("answer"), [0xFFFE]);
    let done = timeout(PATIENCE, master.write_multiple_registers(0, &[7])).await.expect("in time");
    done.expect("line").expect("answer");
    let done = timeout(PATIENCE, master.write_single_coil(0, true)).await.expect("in time");
    done.expect("line").expect("answer");
    let word = timeout(PATIENCE, master.read_holding_registers(0, 1)).await.expect("in time");
    assert_eq!(word.expect("line").expect("answer"), [7]);
    let coil = timeout(PATIENCE, master.read_coils(0, 1)).await.expect("in time");
    assert_eq!(coil.expect("line").expect("answer"), [true]);
    let stats = slave.stats();
    assert_eq!((stats.requests, stats.answers, stats.garbled, stats.lost_bytes), (7, 7, 0, 0));
}

#[tokio::test]
async fn the_ledger_counts_exactly_and_in_order() {
    let slave = slave(115_200);
    let mut master = master(&slave, 2);
    let mut read = Vec::new();
    for _ in 0..50 {
        let words = timeout(PATIENCE, master.read_input_registers(5, 1)).await.expect("in time");
        read.push(Value::Int(words.expect("line").expect("answer")[0].into()));
    }
    let row = slave.registers().row(2, Area::Input, 5).expect("there");
    assert_eq!((row.good, row.late, row.spoiled, row.partial, row.forgotten), (50, 0, 0, 0, 0));
    assert_eq!(row.history.iter().map(|s| s.value.clone()).collect::<Vec<_>>(), read);
    assert!(row.history.windows(2).all(|w| w[0].at < w[1].at));
    assert_eq!(counts(&slave, 1), (0, 0, 0));
}

#[tokio::test]
async fn a_long_conversation_takes_as_long_as_on_copper() {
    const EXCHANGES: u32 = 8;
    let line = Line::new(19_200).expect("not zero");
    // 8 characters there, 5 + 2 × 60 back, the turnaround of 3.5 characters between.
    let one = line.chars(8) + line.gap() + line.chars(125);
    let slave = slave(19_200);
    let mut master = master(&slave, 3);
    let mut ratios = Vec::new();
    // A machine that is busy elsewhere can make a line slower, never faster: one stretch in which it was not.
    for _ in 0..30 {
        let start = Instant::now();
        for _ in 0..EXCHANGES {
            let words = timeout(PATIENCE, master.read_holding_registers(0, 60)).await.expect("in time");
            assert_eq!(words.expect("line").expect("answer").len(), 60);
        }
        let ratio = start.elapsed().as_secs_f64() / (one * EXCHANGES).as_secs_f64();
        println!("19200 baud: {ratio:.4} of the time on copper");
        assert!(ratio > 0.97, "faster than the wire: {ratio}");
        ratios.push(ratio);
        if ratio < 1.03 {
            break;
        }
    }
    assert!(ratios.iter().any(|ratio| *ratio < 1.03), "slower than the wire: {ratios:?}");
}

#[tokio::test]
async fn a_silent_unit_says_nothing_and_the_others_answer() {
    let slave = slave(115_200);
    let mut port = open(slave.path().expect("plugged"));
    slave.faults().set(1, Some(RtuFault::Silent));
    assert_eq!(exchange(&mut port, &ask(1)).await, NOTHING);
    assert_eq!(exchange(&mut port, &ask(2)).await, good(2, 1));
    assert_eq!(exchange(&mut port, &ask(77)).await, NOTHING, "no such unit");
    slave.faults().set(1, None);
    assert_eq!(exchange(&mut port, &ask(1)).await, good(1, 1));
    assert_eq!((counts(&slave, 1), counts(&slave, 2)), ((1, 0, 0), (1, 0, 0)));
}

#[tokio::test]
async fn corrupt_foreign_and_short_answers_are_as_named_and_never_good_in_the_ledger() {
    let slave = slave(115_200);
    let mut port = open(slave.path().expect("plugged"));
    for (n, fault) in (1..).zip([RtuFault::BadCrc, RtuFault::Foreign(9), RtuFault::Short]) {
        slave.faults().script(1, fault, 1);
        let answer = exchange(&mut port, &ask(1)).await;
        let right = good(1, n);
        match fault {
            RtuFault::BadCrc => {
                assert_eq!(answer.len(), right.len());
                assert!(answer[..5] == right[..5] && answer[5..] != right[5..]);
            }
            RtuFault::Foreign(_) => assert_eq!(answer, good(9, n)),
            _ => assert_eq!(answer, right[..4]),
        }
    }
    slave.faults().script(1, RtuFault::Exception(4), 1);
    assert_eq!(exchange(&mut port, &ask(1)).await, frame(&[1, 0x84, 4]));
    assert_eq!(exchange(&mut port, &ask(1)).await, good(1, 4), "the script has ended");
    assert_eq!(counts(&slave, 1), (1, 0, 3));
}

#[tokio::test]
async fn a_late_answer_comes_late_and_the_next_request_is_answered_after_it() {
    let late = Duration::from_millis(200);
    let slave = slave(115_200);
    let mut port = open(slave.path().expect("plugged"));
    slave.faults().script(1, RtuFault::Late(late), 1);
    let start = Instant::now();
    port.write_all(&ask(1)).await.expect("writes");
    let mut answers = vec![0; 7];
    let early = timeout(late / 4, port.read_exact(&mut answers)).await;
    assert!(early.is_err(), "answered at once");
    port.write_all(&ask(1)).await.expect("writes");
    timeout(PATIENCE, port.read_exact(&mut answers)).await.expect("in time").expect("reads");
    assert!(start.elapsed() >= late);
    assert_eq!(answers, good(1, 1));
    assert_eq!(listen(&mut port).await, good(1, 2));
    assert_eq!(counts(&slave, 1), (1, 1, 0));
}

#[tokio::test]
async fn a_unit_that_refuses_holes_refuses_only_those() {
    let slave = slave(115_200);
    let mut master = master(&slave, 1);
    let across = timeout(PATIENCE, master.read_input_registers(2, 4)).await.expect("in time");
    assert_eq!(across.expect("line").expect("answer"), [0x4366, 0x199A, 0, 1]);
    slave.faults().refuse_holes(1, true);
    let across = timeout(PATIENCE, master.read_input_registers(2, 4)).await.expect("in time");
    assert_eq!(across.expect("line"), Err(ExceptionCode::IllegalDataAddress));
    let beside = timeout(PATIENCE, master.read_input_registers(0, 4)).await.expect("in time");
    assert!(beside.expect("line").is_ok());
}

#[tokio::test]
async fn unplugged_it_hangs_up_and_replugged_it_is_back_under_the_same_path() {
    let folder = tempdir();
    let link = folder.join("ttyTEST");
    let options = RtuOptions { baud: 115_200, turnaround: Duration::ZERO, link: Some(link.clone()) };
    let mut slave = RtuSlave::start(image(), options).expect("a pseudo-terminal");
    assert_eq!(slave.path(), Some(link.as_path()));
    let mut port = open(&link);
    assert_eq!(exchange(&mut port, &ask(1)).await, good(1, 1));
    slave.unplug().await.expect("had no error");
    let mut buffer = [0; 8];
    let hung = timeout(PATIENCE, port.read(&mut buffer)).await.expect("in time");
    assert!(matches!(hung, Ok(0) | Err(_)), "{hung:?}");
    assert!(!link.exists() && !link.is_symlink() && slave.path().is_none() && !slave.is_running());
    slave.plug().expect("a pseudo-terminal");
    let mut port = open(&link);
    assert_eq!(exchange(&mut port, &ask(1)).await, good(1, 2), "the ledger goes on");
    assert_eq!(counts(&slave, 1), (2, 0, 0));
    slave.stop().await.expect("had no error");
    assert!(!link.is_symlink());
    std::fs::remove_dir(folder).expect("nothing is left in it");
}

#[tokio::test]
async fn an_answer_cut_by_unplugging_is_spoiled() {
    let mut slave = slave(300);
    let mut port = open(slave.path().expect("plugged"));
    port.write_all(&ask(1)).await.expect("writes");
    let mut first = [0];
    timeout(PATIENCE, port.read_exact(&mut first)).await.expect("in time").expect("reads");
    slave.unplug().await.expect("had no error");
    assert_eq!(counts(&slave, 1), (0, 0, 1));
}

#[tokio::test]
async fn noise_and_half_requests_are_forgotten_after_a_silence() {
    let slave = slave(115_200);
    let mut port = open(slave.path().expect("plugged"));
    assert_eq!(exchange(&mut port, &[1, 4, 0]).await, NOTHING);
    assert_eq!(exchange(&mut port, &[0xFF; 40]).await, NOTHING);
    let mut wrong = ask(1);
    wrong[7] ^= 1;
    assert_eq!(exchange(&mut port, &wrong).await, NOTHING);
    assert_eq!(exchange(&mut port, &[0xAA; 600]).await, NOTHING);
    assert_eq!(exchange(&mut port, &ask(1)).await, good(1, 1));
    let stats = slave.stats();
    assert!(stats.garbled >= 4, "{stats:?}");
    assert_eq!((stats.requests, stats.answers), (1, 1));
}

#[tokio::test]
async fn an_unknown_function_is_refused_and_a_broadcast_is_obeyed_in_silence() {
    let slave = slave(115_200);
    let mut port = open(slave.path().expect("plugged"));
    assert_eq!(exchange(&mut port, &frame(&[1, 0x2B, 0x0E, 1, 0])).await, frame(&[1, 0xAB, 1]));
    assert_eq!(exchange(&mut port, &frame(&[0, 6, 0, 0, 0, 9])).await, NOTHING);
    for unit in [1, 2] {
        assert_eq!(exchange(&mut port, &frame(&[unit, 3, 0, 0, 0, 1])).await, frame(&[unit, 3, 2, 0, 9]));
    }
}

#[tokio::test]
async fn what_nobody_read_is_gone_when_the_terminal_is_opened_again() {
    let slave = slave(115_200);
    let path = slave.path().expect("plugged").to_owned();
    let mut port = open(&path);
    port.write_all(&ask(1)).await.expect("writes");
    until(|| slave.stats().answers == 1).await;
    drop(port);
    until(|| slave.stats().closings == 1).await;
    let mut port = open(&path);
    assert_eq!(exchange(&mut port, &ask(1)).await, good(1, 2));
}

#[tokio::test]
async fn what_the_terminal_has_no_room_for_is_lost_counted_and_not_good() {
    let slave = slave(4_000_000);
    let mut port = open(slave.path().expect("plugged"));
    let request = frame(&[3, 3, 0, 0, 0, 60]);
    let all = || slave.registers().row(3, Area::Holding, 0).map_or(0, |r| r.good + r.spoiled);
    let mut asked = 0;
    let filled = async {
        while slave.stats().lost_bytes == 0 {
            port.write_all(&request).await.expect("writes");
            asked += 1;
            while all() < asked {
                tokio::task::yield_now().await;
            }
        }
    };
    timeout(PATIENCE, filled).await.expect("a terminal has an end");
    let row = slave.registers().row(3, Area::Holding, 0).expect("there");
    assert_eq!((row.good, row.spoiled), (asked - 1, 1));
    assert_eq!(listen(&mut port).await.len() as u64 + slave.stats().lost_bytes, asked * 125);
    assert_eq!(exchange(&mut port, &request).await.len(), 125, "read out, it works again");
}

#[tokio::test]
async fn a_dropped_slave_hangs_up_and_takes_its_link_away() {
    let folder = tempdir();
    let link = folder.join("ttyTEST");
    let options = RtuOptions { baud: 115_200, turnaround: Duration::MAX, link: Some(link.clone()) };
    let slave = RtuSlave::start(image(), options).expect("a pseudo-terminal");
    let mut port = open(&link);
    port.write_all(&ask(1)).await.expect("writes");
    assert_eq!(listen(&mut port).await, NOTHING, "a turnaround without end");
    drop(slave);
    assert!(!link.is_symlink());
    let mut buffer = [0; 8];
    let hung = timeout(PATIENCE, port.read(&mut buffer)).await.expect("in time");
    assert!(matches!(hung, Ok(0) | Err(_)), "{hung:?}");
    std::fs::remove_dir(folder).expect("nothing is left in it");
}

#[tokio::test]
async fn a_master_that_leaves_no_silence_is_noticed() {
    let slave = slave(1200);
    let mut port = open(slave.path().expect("plugged"));
    // On a machine that is busy elsewhere this master may keep the silence without wanting to.
    let mut n = 0;
    while slave.stats().short_gaps == 0 {
        n += 1;
        assert!(n <= 20, "twenty times without a silence, and not noticed");
        port.write_all(&ask(1)).await.expect("writes");
        let mut answer = [0; 7];
        timeout(PATIENCE, port.read_exact(&mut answer)).await.expect("in time").expect("reads");
        assert_eq!(answer.as_slice(), good(1, n));
    }
    tokio::time::sleep(slave.line().gap() * 2).await;
    assert_eq!(exchange(&mut port, &ask(1)).await, good(1, n + 1));
    assert_eq!(slave.stats().short_gaps, 1, "a silence that was kept is none too short");
    let exchanges = u32::from(n + 1);
    assert_eq!(slave.stats().busy, (slave.line().chars(8) + slave.line().chars(7)) * exchanges);
}

#[tokio::test]
async fn a_line_without_speed_or_with_a_taken_path_is_an_error() {
    let options = |baud, link| RtuOptions { baud, turnaround: Duration::ZERO, link };
    assert!(RtuSlave::start(image(), options(0, None)).is_err());
    let folder = tempdir();
    let taken = folder.join("file");
    std::fs::write(&taken, "not a link").expect("writes");
    assert!(RtuSlave::start(image(), options(9600, Some(taken.clone()))).is_err());
    assert_eq!(std::fs::read_to_string(&taken).expect("still there"), "not a link");
    std::fs::remove_dir_all(folder).expect("removes");
}

fn tempdir() -> std::path::PathBuf {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("driver-sim-{}-{n}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder");
    folder
}
