//! A shared bus with foreign masters on it: mbpoll (libmodbus) speaks Modbus TCP, pymodbus RTU over TCP, while the
//! gateway polls its own devices on the same pseudo-terminal.

use std::process::{Command, Output};
use std::time::Duration;

use driver_sim::slaves::{Area, Kind, Layout, RtuOptions, RtuSlave, Source};
use support::messages::readings;
use support::process::Signal;
use support::{Gate, Mosquitto, free_port, now, pause, repository, seconds, temporary, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

/// Units 1 to 3 are polled counters; 4 is the clients' alone and holds what is written.
fn slave(link: &std::path::Path) -> (tokio::runtime::Runtime, RtuSlave) {
    let mut layout = Layout::new(1, 4000);
    for unit in 1..=3 {
        for point in 0..5 {
            layout = layout.with(unit, Area::Holding, point * 2, Kind::U32, Source::Serves);
        }
    }
    for (register, value) in [(0, 1.0), (1, 22.0), (2, 333.0), (3, 4444.0), (100, 0.0), (101, 0.0)] {
        layout = layout.with(4, Area::Holding, register, Kind::U16, Source::Held(value));
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime for the simulated devices");
    let image = layout.build().expect("a layout that fits");
    let options =
        RtuOptions { baud: 19200, turnaround: Duration::from_millis(5), link: Some(link.to_owned()) };
    let slave = runtime.block_on(async { RtuSlave::start(image, options) }).expect("a pseudo-terminal");
    (runtime, slave)
}

fn bus(link: &std::path::Path, share: &str) -> String {
    format!(
        "[[bus]]\nname = \"rs485\"\ndriver = \"modbus-rtu\"\nport = \"{}\"\nbaud = 19200\nparity = \"even\"\nshare = {share}\n",
        link.display()
    )
}

fn meter(unit: u8) -> String {
    let mut text = format!(
        "[[device]]\nname = \"m{unit}\"\nbus = \"rs485\"\naddress = {unit}\ninterval = \"100ms\"\ntimeout = \"200ms\"\n"
    );
    for point in 0..5 {
        text += &format!(
            "[[device.point]]\nname = \"p{point}\"\nregister = \"holding:{}\"\ntype = \"u32\"\n",
            point * 2
        );
    }
    text
}

fn mbpoll(port: u16, unit: u8, more: &[&str]) -> Output {
    let mut command = Command::new("mbpoll");
    command.args(["-m", "tcp", "-p", &port.to_string(), "-a", &unit.to_string(), "-0", "-1", "-o", "3"]);
    command.args(more);
    command.output().expect("mbpoll is installed: ./tests/run setup")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Reads and counts for some seconds as a second foreign master, in RTU frames over TCP.
const PYMODBUS: &str = r"
import sys, time
from pymodbus import FramerType
from pymodbus.client import ModbusTcpClient
port, end = int(sys.argv[1]), time.time() + float(sys.argv[2])
client = ModbusTcpClient('127.0.0.1', port=port, framer=FramerType.RTU, timeout=3, retries=0)
assert client.connect()
good = bad = 0
while time.time() < end:
    answer = client.read_holding_registers(0, count=4, device_id=4)
    right = not answer.isError() and answer.registers == [1, 22, 333, 4444]
    good, bad = good + right, bad + (not right)
    if not right:
        print(answer)
print(good, bad)
";

#[test]
fn foreign_masters_get_right_answers_while_polling_keeps_its_pace() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let link = home.path().join("rs485");
    let (_runtime, slave) = slave(&link);
    let port = free_port();
    let share = format!("{{ bind = \"127.0.0.1:{port}\", writes = [\"4/holding:100..101\"] }}");
    let config = format!(
        "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{}\"\n{}{}{}{}",
        cloud.port(),
        bus(&link, &share),
        meter(1),
        meter(2),
        meter(3)
    );
    let gate = Gate::new(BINARY, home.path(), "box", &config);
    let checked = gate.cli(&["check"]).out;
    assert!(checked.contains("shared on 127.0.0.1:") && checked.contains("4/holding:100..101"), "{checked}");
    let _daemon = gate.run();
    wait_until("the share to be up", seconds(10), || gate.status()["bus"]["rs485"]["share"] == "up");
    wait_until("readings", seconds(15), || observer.last("gw/box/data/m3/p0").is_some());

    // How even the polls are: widest and mean distance of the readings of one point, and how many there were.
    let pace = |from: f64, to: f64| {
        let (all, faults) = readings(&observer.messages(), "gw/box");
        assert_eq!(faults, [""; 0]);
        let ts: Vec<i64> = all
            .iter()
            .filter(|r| r.name == "m2/p0" && r.quality == "good")
            .map(|r| r.ts_ms)
            .filter(|ts| (from..to).contains(&(*ts as f64 / 1e3)))
            .collect();
        let widest = ts.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(i64::MAX);
        (ts.len() as f64 / (to - from), widest)
    };
    let overruns = || gate.status()["bus"]["rs485"]["overruns"].as_u64().unwrap_or(0);
    let (begun, skipped) = (now(), overruns());
    pause(seconds(6));
    let (alone, alone_skipped) = (pace(begun, now()), overruns() - skipped);

    let (begun, skipped) = (now(), overruns());
    let second = Command::new(repository().join("target/venv/bin/python"))
        .args(["-c", PYMODBUS, &port.to_string(), "6"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("pymodbus is there: ./tests/run setup");
    let mut exchanges = 0;
    while now() < begun + 6.0 {
        let output = mbpoll(port, 4, &["-r", "0", "-c", "4", "-t", "4", "127.0.0.1"]);
        let text = said(&output);
        assert!(output.status.success(), "{text}");
        for (register, value) in [(0, 1), (1, 22), (2, 333), (3, 4444)] {
            assert!(
                text.lines().any(|l| l.split_whitespace().eq([format!("[{register}]:"), value.to_string()])),
                "{text}"
            );
        }
        exchanges += 1;
    }
    let second = second.wait_with_output().expect("it ends");
    let counted = said(&second);
    let (shared, shared_skipped) = (pace(begun, now()), overruns() - skipped);
    let bus = gate.status()["bus"]["rs485"].clone();
    println!(
        "m2/p0 at 100 ms: alone {:.1}/s, widest gap {} ms, {alone_skipped} skipped; with two masters {:.1}/s, widest gap {} ms, \
         {shared_skipped} skipped; mbpoll {exchanges} right answers, pymodbus (good, bad) {}; bus {:.0} % busy",
        alone.0,
        alone.1,
        shared.0,
        shared.1,
        counted.trim(),
        bus["utilisation"].as_f64().unwrap_or(0.0) * 100.0
    );
    let (good, bad) = counted.trim().split_once(' ').unwrap_or_else(|| panic!("{counted}"));
    assert!(good.parse::<u32>().is_ok_and(|n| n > 10) && bad == "0", "{counted}");
    assert!(exchanges > 10);
    assert!(shared.0 > alone.0 * 0.85, "the polls keep their pace: {shared:?}, alone {alone:?}");
    assert!(shared.1 < 600, "no poll waits long: {shared:?}");

    // What others ask is on the tap like what we ask.
    let mut watch = Command::new(BINARY)
        .args(["watch", "--wire", "rs485", "--config"])
        .arg(gate.config())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    let output = std::io::BufReader::new(watch.stdout.take().expect("piped"));
    let asking = std::thread::spawn(move || {
        (0..5).all(|_| mbpoll(port, 4, &["-r", "0", "-c", "4", "-t", "4", "127.0.0.1"]).status.success())
    });
    let seen = std::io::BufRead::lines(output)
        .take(400)
        .map_while(Result::ok)
        .any(|line| line.contains("unit 4 read holding 0..3  CRC ok"));
    watch.kill().expect("it runs until then");
    watch.wait().expect("it ended");
    assert!(seen && asking.join().expect("no panic"));

    // What may be written is written, everything else is refused before it gets onto the line.
    let wrote = mbpoll(port, 4, &["-r", "100", "-t", "4", "127.0.0.1", "77", "78"]);
    assert!(wrote.status.success(), "{}", said(&wrote));
    let back = said(&mbpoll(port, 4, &["-r", "100", "-c", "2", "-t", "4", "127.0.0.1"]));
    assert!(back.contains("77") && back.contains("78"), "{back}");
    for (unit, register) in [(4, "0"), (4, "102"), (1, "100")] {
        let refused = mbpoll(port, unit, &["-r", register, "-t", "4", "127.0.0.1", "5"]);
        assert!(
            !refused.status.success() && said(&refused).contains("Illegal function"),
            "{}",
            said(&refused)
        );
    }
    // The device's own refusal, a silent unit, and a silent unit that is known to be silent.
    let hole = said(&mbpoll(port, 4, &["-r", "5000", "-t", "4", "127.0.0.1"]));
    assert!(hole.contains("Illegal data address"), "{hole}");
    let silent = said(&mbpoll(port, 99, &["-r", "0", "-t", "4", "127.0.0.1"]));
    assert!(silent.contains("Target device failed to respond"), "{silent}");
    let (asked, before) = (now(), slave.stats().requests);
    let silent = said(&mbpoll(port, 99, &["-r", "0", "-t", "4", "127.0.0.1"]));
    assert!(silent.contains("Target device failed to respond"), "{silent}");
    println!("a silent unit, known: answered in {:.0} ms", (now() - asked) * 1e3);
    assert!(slave.stats().requests - before < 20, "it was not asked again");
    let bus = &gate.status()["bus"]["rs485"];
    assert!(bus["share_requests"].as_u64() > Some(30) && bus["share_refused"].as_u64() >= Some(5), "{bus}");
    let line = slave.stats();
    println!("{} requests on the line, {} after too short a silence", line.requests, line.short_gaps);
}

#[test]
fn a_share_outlives_a_reload_that_does_not_touch_it_and_a_taken_port_stops_nothing() {
    let home = temporary();
    let link = home.path().join("rs485");
    let (_runtime, _slave) = slave(&link);
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let gate = Gate::new(BINARY, home.path(), "box", "");
    gate.configure(&format!(
        "{}[[bus]]\nname = \"sim\"\ndriver = \"sim\"\nshare = \"127.0.0.1:5020\"\n",
        gate.head("box", "")
    ));
    let other = gate.cli(&["check"]);
    assert!(other.code == 78 && other.err.contains("`share` is for Modbus buses"), "{other:?}");
    let base =
        format!("{}{}{}", gate.head("box", ""), bus(&link, &format!("\"127.0.0.1:{port}\"")), meter(1));
    gate.configure(&base);
    let mut daemon = gate.run();
    let bus = || gate.status()["bus"]["rs485"].clone();
    wait_until("the port to be known as taken", seconds(10), || {
        bus()["share"] == "down" && bus()["share_error"].as_str().is_some_and(|e| e.contains("taken"))
    });
    let told = gate.cli(&["status"]);
    assert!(told.code == 1 && told.err.contains("share of bus rs485"), "{told:?}");
    wait_until("polling all the same", seconds(10), || gate.status()["device"]["m1"]["state"] == "online");
    drop(taken);
    wait_until("the share to come", seconds(10), || bus()["share"] == "up");
    assert_eq!(gate.cli(&["status"]).code, 0);

    // A client that stays connected over a reload of something else.
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    client.set_read_timeout(Some(seconds(5))).expect("a timeout");
    let mut ask = || {
        use std::io::{Read, Write};
        client.write_all(&[0, 9, 0, 0, 0, 6, 4, 3, 0, 1, 0, 1]).expect("sent");
        let mut answer = [0; 11];
        client.read_exact(&mut answer).map(|()| answer)
    };
    assert_eq!(ask().expect("answered"), [0, 9, 0, 0, 0, 5, 4, 3, 2, 0, 22]);
    gate.configure(&format!(
        "{base}[[bus]]\nname = \"sim\"\ndriver = \"sim\"\n[[device]]\nname = \"tank\"\nbus = \"sim\"\n\
         [[device.point]]\nname = \"level\"\nsignal = \"counter\"\n"
    ));
    daemon.signal(Signal::HUP);
    wait_until("the new device", seconds(10), || gate.status()["device"]["tank"].is_object());
    assert_eq!(ask().expect("still connected"), [0, 9, 0, 0, 0, 5, 4, 3, 2, 0, 22]);
    // A changed share is taken over, on the same port.
    gate.configure(&base.replace(
        &format!("share = \"127.0.0.1:{port}\""),
        &format!("share = {{ bind = \"127.0.0.1:{port}\", framing = \"tcp\" }}"),
    ));
    daemon.signal(Signal::HUP);
    wait_until("the old connection to end", seconds(10), || ask().is_err());
    wait_until("the share to be back", seconds(10), || bus()["share"] == "up");
    // The reload closed the bus, and it is polled again.
    wait_until("polling", seconds(10), || gate.status()["device"]["m1"]["state"] == "online");
}
