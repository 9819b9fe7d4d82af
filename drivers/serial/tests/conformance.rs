//! The driver against telegrams byte by byte: a scale asked and unasked, split, noisy, silent, gone.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use driver_api::testing::{ScriptedPort, assert_conforms, table};
use driver_api::{
    Bus, BusSpec, DeviceSpec, Driver, FrameError, PointSpec, Problem, ReadError, Reason, Sample, Table,
    Value, Wire,
};
use driver_serial::{Connect, Serial, SerialBus, compile_over};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// As the contract has it.
const SCALE: &str = r"pattern = 'S[TI],\w+,\s*(?P<weight>[-+]?[0-9.]+)kg'";
const ASKED: &str = r#"request = "P\r\n""#;
const P: &str = "50 0D 0A";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Hands out prepared ports, one per `open`.
struct Prepared(Vec<ScriptedPort>);

#[async_trait]
impl Connect for Prepared {
    type Port = ScriptedPort;
    async fn connect(&mut self) -> io::Result<ScriptedPort> {
        if self.0.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(self.0.remove(0)) }
    }
}

fn point<'i>(name: &str, text: &'i str, writable: bool) -> PointSpec<'i> {
    PointSpec { name: name.into(), interval: ms(1000), writable, table: table(text) }
}

fn spec<'i>(bus: &'i str, device: &'i str, points: Vec<PointSpec<'i>>) -> BusSpec<'i> {
    let device = DeviceSpec {
        name: "weighbridge".into(),
        interval: ms(1000),
        timeout: ms(500),
        table: Table::from_text(0, device).expect("TOML"),
        points,
    };
    BusSpec { name: "scale".into(), table: table(bus), devices: vec![device], wire: Wire::default() }
}

fn compiled(device: &str, points: Vec<PointSpec<'_>>, ports: Vec<ScriptedPort>) -> SerialBus<Prepared> {
    let mut problems = Vec::new();
    let device = format!("protocol = 'lines'\n{device}");
    let bus = compile_over(&spec("port = '/dev/ttyS0'", &device, points), &mut problems, |_| Prepared(ports));
    assert_eq!(problems, []);
    let bus = bus.expect("no problems, so a bus");
    assert_conforms(&bus);
    bus
}

async fn opened(device: &str, port: ScriptedPort) -> SerialBus<Prepared> {
    let mut bus = compiled(device, Vec::new(), vec![port]);
    bus.open().await.expect("the prepared port");
    bus
}

fn values(samples: &[Sample]) -> Vec<Result<Value, Reason>> {
    samples.iter().map(|s| s.value.clone()).collect()
}

fn problems(device: &str, points: Vec<PointSpec<'_>>) -> Vec<(String, String)> {
    let mut problems: Vec<Problem> = Vec::new();
    assert!(Serial.compile(spec("port = '/dev/ttyS0'", device, points), &mut problems).is_none());
    problems.into_iter().map(|p| (p.message, p.hint.unwrap_or_default())).collect()
}

#[tokio::test(start_paused = true)]
async fn an_asked_scale_answers_in_odd_pieces_with_noise_before() {
    // FF 00 "ST,GS,+012" | ".34kg" CR | LF
    let port = ScriptedPort::default().expect_late(
        P,
        &[(ms(20), "FF 00 53 54 2C 47 53 2C 2B 30 31 32"), (ms(45), "2E 33 34 6B 67 0D"), (ms(50), "0A")],
    );
    let mut bus = opened(&format!("{SCALE}\n{ASKED}"), port).await;
    assert_eq!(bus.plan().blocks[0].every, ms(1000));
    let mut out = Vec::new();
    bus.read(0, &mut out).await.expect("an answer");
    let written = {
        let port = bus.port_mut().expect("open");
        port.assert_done();
        port.history()[0].0
    };
    assert_eq!(out, [Sample { point: 0, value: Ok(Value::Float(12.34)), at: written + ms(20) }]);
}

#[tokio::test(start_paused = true)]
async fn what_came_before_the_request_is_not_its_answer() {
    // "ST,GS,+1.00kg" CR LF as the answer to each request.
    let one = "53 54 2C 47 53 2C 2B 31 2E 30 30 6B 67 0D 0A";
    let port = ScriptedPort::default().expect_late(P, &[(ms(30), one)]).expect_late(P, &[(ms(30), one)]);
    let mut bus = opened(&format!("{SCALE}\n{ASKED}"), port).await;
    // A whole stale line.
    bus.port_mut().expect("open").says(ms(0), b"ST,GS,+9.00kg\r\n");
    let mut out = Vec::new();
    bus.read(0, &mut out).await.expect("an answer");
    // A stale line whose end arrives only after the poll began.
    bus.port_mut().expect("open").says(ms(0), b"ST,GS,+9");
    bus.port_mut().expect("open").says(ms(20), b".00kg\r\n");
    bus.read(0, &mut out).await.expect("an answer");
    bus.port_mut().expect("open").assert_done();
    assert_eq!(values(&out), vec![Ok(Value::Float(1.0)); 2]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_scale_costs_its_timeout_and_the_next_poll_is_clean() {
    let late = "53 54 2C 47 53 2C 2B 39 6B 67 0D 0A"; // ST,GS,+9kg
    let good = "53 54 2C 47 53 2C 2B 31 6B 67 0D 0A"; // ST,GS,+1kg
    let port = ScriptedPort::default().expect_late(P, &[(ms(700), late)]).expect_late(P, &[(ms(40), good)]);
    let mut bus = opened(&format!("{SCALE}\n{ASKED}"), port).await;
    let mut out = Vec::new();
    let began = Instant::now();
    let error = bus.read(0, &mut out).await.expect_err("silence");
    assert!(matches!(error, ReadError::Transient(FrameError::Timeout(t)) if t == ms(500)), "{error}");
    assert_eq!(began.elapsed(), ms(500));
    tokio::time::advance(ms(500)).await;
    bus.read(0, &mut out).await.expect("an answer");
    assert_eq!(values(&out), [Ok(Value::Float(1.0))]);
}

#[tokio::test(start_paused = true)]
async fn a_short_timeout_leaves_time_for_the_answer() {
    let good = "53 54 2C 47 53 2C 2B 31 6B 67 0D 0A";
    let port = ScriptedPort::default().expect_late(P, &[(ms(10), good)]);
    let device = format!("protocol = 'lines'\n{SCALE}\n{ASKED}");
    let mut spec = spec("port = '/dev/ttyS0'", &device, vec![]);
    spec.devices[0].timeout = ms(30);
    let mut bus = compile_over(&spec, &mut Vec::new(), |_| Prepared(vec![port])).expect("valid");
    bus.open().await.expect("the prepared port");
    let began = Instant::now();
    let mut out = Vec::new();
    bus.read(0, &mut out).await.expect("an answer");
    assert_eq!(values(&out), [Ok(Value::Float(1.0))]);
    assert!(began.elapsed() <= ms(30), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_line_still_running_when_the_request_must_go_out_is_dropped_to_its_end() {
    let answer = "31 2E 30 6B 67 0D 0A 37 2E 30 6B 67 0D 0A"; // 1.0kg, and one nobody asked for
    let port = ScriptedPort::default().expect_late(P, &[(ms(100), answer)]);
    let mut bus = opened(&format!("pattern = '(?P<weight>[0-9.]+)kg'\n{ASKED}"), port).await;
    // A character every 20 ms, for longer than half of the timeout: "1111111111111111.5kg".
    for n in 0..15 {
        bus.port_mut().expect("open").says(ms(20 * n), b"1");
    }
    bus.port_mut().expect("open").says(ms(300), b".5kg\r\n");
    let mut out = Vec::new();
    bus.read(0, &mut out).await.expect("an answer");
    // The request went out after 250 ms; the line that was running is not its answer.
    assert_eq!(values(&out), [Ok(Value::Float(1.0))]);
}

#[tokio::test(start_paused = true)]
async fn lines_that_do_not_match_are_skipped_and_named_when_nothing_else_comes() {
    let echo = "50 0D 0A"; // the request, echoed
    let good = "53 49 2C 4E 54 2C 2D 30 2E 35 6B 67 0A"; // SI,NT,-0.5kg
    let port = ScriptedPort::default()
        .expect_late(P, &[(ms(5), echo), (ms(60), good)])
        .expect_late(P, &[(ms(5), echo)]);
    let mut bus = opened(&format!("{SCALE}\n{ASKED}"), port).await;
    let mut out = Vec::new();
    bus.read(0, &mut out).await.expect("an answer behind the echo");
    assert_eq!(values(&out), [Ok(Value::Float(-0.5))]);
    let error = bus.read(0, &mut out).await.expect_err("only the echo");
    assert_eq!(error.reason(), Reason::Protocol);
    assert!(error.to_string().contains("the last was `P`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_scale_that_prints_by_itself_is_heard_whatever_the_caller_drops() {
    let mut bus = opened(SCALE, ScriptedPort::default()).await;
    assert_eq!(bus.plan().blocks[0].every, Duration::MAX);
    let began = Instant::now();
    // The tail of a line that began before the port was open, then two telegrams, byte by byte.
    let text = b"S,+8.88kg\r\nST,GS,+01.5kg\r\n\x80\x00garbage\rST,GS,-2.5kg\r\n";
    for (n, byte) in (0..).zip(text) {
        bus.port_mut().expect("open").says(ms(3 * n), &[*byte]);
    }
    let mut out = Vec::new();
    while out.len() < 2 {
        // The caller gives up every 7 ms, as a bus task with requests to serve would.
        if let Ok(result) = tokio::time::timeout(ms(7), bus.idle(&mut out)).await {
            result.expect("the port is fine");
        }
    }
    assert_eq!(values(&out), [Ok(Value::Float(1.5)), Ok(Value::Float(-2.5))]);
    let first = text.iter().position(|b| *b == b'\n').expect("there is one") as u64 + 1;
    assert_eq!(out[0].at, began + ms(3 * first));
}

#[tokio::test(start_paused = true)]
async fn silence_is_reported_once_and_again_after_the_device_was_heard() {
    let mut bus = opened(SCALE, ScriptedPort::default()).await;
    let opened_at = Instant::now();
    let mut out = Vec::new();
    let hear = |out: &mut Vec<Sample>| values(&std::mem::take(out));

    // 3 x interval. Dropping the future half way must not start the wait again.
    assert!(tokio::time::timeout(ms(2000), bus.idle(&mut out)).await.is_err());
    bus.idle(&mut out).await.expect("open");
    assert_eq!((hear(&mut out), opened_at.elapsed()), (vec![Err(Reason::Timeout)], ms(3000)));
    assert!(tokio::time::timeout(ms(60_000), bus.idle(&mut out)).await.is_err(), "said once");

    bus.port_mut().expect("open").says(ms(0), b"noise\r\nST,GS,+7kg\r\n");
    bus.idle(&mut out).await.expect("open");
    assert_eq!(hear(&mut out), [Ok(Value::Float(7.0))]);
    let heard_at = Instant::now();
    // What does not match is as good as silence.
    bus.port_mut().expect("open").says(ms(1500), b"noise\r\n");
    bus.idle(&mut out).await.expect("open");
    assert_eq!((hear(&mut out), heard_at.elapsed()), (vec![Err(Reason::Timeout)], ms(3000)));
}

#[tokio::test(start_paused = true)]
async fn a_lost_port_is_a_bus_error_and_opening_again_starts_afresh() {
    let broken = ScriptedPort::default().expect_failure(P, io::ErrorKind::BrokenPipe);
    let good = ScriptedPort::default().expect(P, "53 54 2C 47 53 2C 2B 31 6B 67 0D 0A");
    let mut bus = compiled(&format!("{SCALE}\n{ASKED}"), Vec::new(), vec![broken, good]);
    let mut out = Vec::new();
    assert!(matches!(bus.read(0, &mut out).await, Err(ReadError::Bus(_))), "never opened");
    bus.open().await.expect("the first port");
    assert!(matches!(bus.read(0, &mut out).await, Err(ReadError::Bus(_))));
    assert!(bus.port_mut().is_none(), "closed at once");
    bus.open().await.expect("the second port");
    bus.read(0, &mut out).await.expect("an answer");
    assert_eq!(values(&out), [Ok(Value::Float(1.0))]);
    assert_eq!(bus.open().await.expect_err("no third port").kind(), io::ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn points_take_their_captures_and_kinds() {
    let device = r"pattern = '(?P<state>\w\w),(?P<gross>[^,]*),(?P<tare>[^,]*)(,(?P<count>\d+))?'";
    let points = vec![
        point("stable", "capture = 'state'\ntype = 'string'", false),
        point("count", "type = 'i64'", false),
    ];
    let mut bus = compiled(device, points, vec![ScriptedPort::default()]);
    let described: Vec<_> = bus
        .plan()
        .points
        .iter()
        .map(|p| (p.name.as_str(), p.kind.as_str(), p.source.as_str(), p.spec))
        .collect();
    assert_eq!(
        described,
        [
            ("stable", "string", "capture state", Some(0)),
            ("count", "i64", "capture count", Some(1)),
            ("gross", "f64", "capture gross", None),
            ("tare", "f64", "capture tare", None),
        ]
    );
    bus.open().await.expect("the prepared port");
    bus.port_mut().expect("open").says(ms(1500), b"ST,12.5,+-3,7\r\nUS,--.--, 1\r\n");
    let mut out = Vec::new();
    bus.idle(&mut out).await.expect("open");
    let said: Vec<_> = out.iter().map(|s| (s.point, s.value.clone())).collect();
    assert_eq!(
        said,
        [
            (0, Ok(Value::Text("ST".into()))),
            (1, Ok(Value::Int(7))),
            (2, Ok(Value::Float(12.5))),
            (3, Err(Reason::Parse)),
            (0, Ok(Value::Text("US".into()))),
            (2, Err(Reason::Parse)),
            (3, Ok(Value::Float(1.0))),
        ]
    );
}

#[test]
fn every_mistake_is_reported_with_its_cure() {
    let found = problems("protocol = 'line'", vec![]);
    assert_eq!(found, [("no protocol is called `line`".into(), "did you mean `lines`?".into())]);
    assert_eq!(problems("protocol = 'xmodem'", vec![])[0].1, "this build has \"lines\"");
    assert_eq!(problems("protokol = 'lines'", vec![])[0].1, "did you mean `protocol`?");
    assert_eq!(problems("protocol = 7", vec![])[0].0, "`protocol` is not a word");
    assert_eq!(problems("protocol = 'lines'", vec![])[0].0, "`pattern` is missing");
    assert_eq!(problems("protocol = 'lines'\npattern = '(?P<w>'", vec![])[0].0, "`pattern`: unclosed group");
    assert_eq!(problems("protocol = 'lines'\npattern = '[0-9]+'", vec![])[0].0, "`pattern` names no capture");

    let device = format!("protocol = 'lines'\n{SCALE}\nrequest = ''\nterminator = ''\nbaud = 9600");
    let points = vec![
        point("wieght", "", false),
        point("gross", "capture = 'brutto'", false),
        point("weight", "typ = 'i64'", true),
    ];
    // An unknown key hides nothing of the points, nor they of it.
    let found = problems(&device, points.clone());
    let said: Vec<&str> = found.iter().map(|(m, _)| m.as_str()).collect();
    assert_eq!(said, ["unknown key `baud`", "`weight` cannot be written", "unknown key `typ`"]);
    let found = problems(&device.replace("\nbaud = 9600", ""), points);
    for (message, hint) in [
        ("`request` is empty", "leave it out to listen only"),
        ("`terminator` has the wrong length", "1 to 16 bytes; left out it is CR, LF or both"),
        ("`pattern` of `weighbridge` has no capture `wieght`", "did you mean `weight`?"),
        ("`pattern` of `weighbridge` has no capture `brutto`", "it has weight"),
    ] {
        assert!(found.contains(&(message.into(), hint.into())), "{message} in {found:#?}");
    }
}

#[test]
fn a_second_device_on_the_line_is_a_mistake_and_none_is_not() {
    let device = format!("protocol = 'lines'\n{SCALE}");
    let mut bus = spec("port = '/dev/ttyS0'", &device, vec![]);
    bus.devices.push(bus.devices[0].clone());
    let mut problems = Vec::new();
    assert!(Serial.compile(bus.clone(), &mut problems).is_none());
    assert!(problems[0].message.contains("second device on the serial bus `scale`"), "{problems:?}");
    bus.devices.clear();
    assert!(Serial.compile(bus, &mut Vec::new()).is_some_and(|bus| bus.plan().points.is_empty()));
}

/// A pseudo-terminal: the end we play, and the path of the end the driver opens.
fn terminal() -> (tokio_serial::SerialStream, String) {
    use tokio_serial::SerialPort;
    let (ours, theirs) = tokio_serial::SerialStream::pair().expect("a pseudo-terminal");
    let path = theirs.name().expect("it has a path");
    (ours, path)
}

#[tokio::test]
async fn over_a_real_terminal_asked_and_then_unplugged() {
    let (mut scale, path) = terminal();
    let device = format!("protocol = 'lines'\n{SCALE}\n{ASKED}");
    let bus = format!("port = '{path}'\nbaud = 19200\nparity = 'even'");
    let mut bus = Serial.compile(spec(&bus, &device, vec![]), &mut Vec::new()).expect("valid");
    bus.open().await.expect("the terminal opens");

    let mut out = Vec::new();
    let play = async {
        let mut request = [0; 3];
        scale.read_exact(&mut request).await.expect("the request");
        assert_eq!(&request, b"P\r\n");
        for piece in [&b"\x00ST,G"[..], b"S,+00123", b".4kg\r", b"\n"] {
            scale.write_all(piece).await.expect("written");
            tokio::time::sleep(ms(10)).await;
        }
    };
    let (read, ()) = tokio::join!(bus.read(0, &mut out), play);
    read.expect("an answer");
    assert_eq!(values(&out), [Ok(Value::Float(123.4))]);

    drop(scale);
    let error = bus.read(0, &mut out).await.expect_err("unplugged");
    assert!(matches!(error, ReadError::Bus(_)), "{error}");
}

#[tokio::test]
async fn over_a_real_terminal_unasked_and_held_exclusively() {
    let (mut scale, path) = terminal();
    let device = format!("protocol = 'lines'\n{SCALE}");
    let bus = format!("port = '{path}'");
    let compile = || Serial.compile(spec(&bus, &device, vec![]), &mut Vec::new()).expect("valid");
    let mut first = compile();
    first.open().await.expect("the terminal opens");
    let error = compile().open().await.expect_err("somebody has it");
    assert!(error.to_string().contains("another program has it open"), "{error}");
    first.open().await.expect("opening again closes the former handle first");

    let mut out = Vec::new();
    let play = async {
        for piece in [&b"9kg\r\nST,"[..], b"GS,+0", b"7.5kg\r\nxx\r"] {
            scale.write_all(piece).await.expect("written");
            tokio::time::sleep(ms(5)).await;
        }
    };
    let (heard, ()) = tokio::join!(first.idle(&mut out), play);
    heard.expect("a telegram");
    assert_eq!(values(&out), [Ok(Value::Float(7.5))]);
}
