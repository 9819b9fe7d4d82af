//! The commands of a first day on site, through the binary that a person runs: who is on the line, what the
//! registers mean, what goes over the wire, and which profiles there are. On simulated slaves, with the daemon
//! and without it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use driver_sim::slaves::{Area, Kind, Layout, Registers, RtuOptions, RtuSlave, Source, TcpSlave};
use serde_json::{Value as Json, json};
use support::{Answer, Gate, Plant, now, seconds, temporary, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

fn registers(units: &[u8]) -> Registers {
    let mut layout = Layout::new(1, 400);
    for unit in units {
        layout = layout
            .with(*unit, Area::Holding, 0, Kind::U16, Source::Held(f64::from(*unit) * 11.0))
            .with(*unit, Area::Input, 0, Kind::F32, Source::Held(230.1))
            .with(*unit, Area::Coil, 3, Kind::Bool, Source::Held(1.0));
    }
    layout.build().expect("a layout that fits")
}

/// A line on a pseudo-terminal at this path.
fn line(link: &Path, units: &[u8]) -> (tokio::runtime::Runtime, RtuSlave) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime for the simulated devices");
    let options =
        RtuOptions { baud: 19200, turnaround: Duration::from_millis(5), link: Some(link.to_owned()) };
    let slave =
        runtime.block_on(async { RtuSlave::start(registers(units), options) }).expect("a pseudo-terminal");
    (runtime, slave)
}

fn config(link: &Path) -> String {
    format!(
        "[[bus]]\nname = \"rs485\"\ndriver = \"modbus-rtu\"\nport = \"{}\"\nbaud = 19200\n\
         [[device]]\nname = \"meter\"\nbus = \"rs485\"\naddress = 2\ninterval = \"200ms\"\ntimeout = \"200ms\"\n\
         [[device.point]]\nname = \"setpoint\"\nregister = \"holding:0\"\ntype = \"u16\"\n\
         [[device.point]]\nname = \"voltage\"\nregister = \"input:0\"\ntype = \"f32\"\nunit = \"V\"\n",
        link.display()
    )
}

fn units(answer: &Answer) -> Vec<u64> {
    answer.json().as_array().into_iter().flatten().filter_map(|row| row["unit"].as_u64()).collect()
}

#[test]
fn scan_finds_units_on_a_port_on_a_socket_and_on_a_bus_of_the_daemon_between_its_polls() {
    let home = temporary();
    let link = home.path().join("rs485");
    let (runtime, slave) = line(&link, &[2, 5]);
    let gate = Gate::new(BINARY, home.path(), "box", &config(&link));
    let port = link.to_string_lossy().into_owned();
    let quick = ["--units", "1-6", "--timeout", "100ms"];

    // A port that stands in no configuration yet, at one setting.
    let settings = ["--baud", "19200", "--parity", "even"];
    let found = gate.bare(&[&["scan", &port, "--json"], &quick[..], &settings[..]].concat());
    assert_eq!((found.code, units(&found)), (0, vec![2, 5]), "{found:?}");
    let row = found.json()[0].clone();
    assert_eq!(
        (&row["baud"], &row["parity"], &row["answer"]),
        (&json!(19200), &json!("even"), &json!("holding:0 = 22"))
    );
    assert!(row["answer_ms"].as_f64().is_some_and(|ms| ms > 5.0 && ms < 100.0), "{row}");
    let people = gate.bare(&[&["scan", &port], &quick[..], &settings[..]].concat());
    assert!(
        people.out.contains("unit   2  19200 8E1") && people.err.contains("6 units at 19200 8E1"),
        "{people:?}"
    );
    assert!(!people.err.contains('\r'), "no bar where there is no terminal: {people:?}");
    // Nobody there: exit code 1, and what to try.
    let nobody =
        gate.bare(&[&["scan", &port, "--units", "7-8", "--timeout", "50ms"], &settings[..]].concat());
    assert!(nobody.code == 1 && nobody.err.contains("nobody answered"), "{nobody:?}");

    // Over the network; a unit that a gateway says is silent is not there.
    let tcp = runtime.block_on(TcpSlave::start(registers(&[1, 9]), 0)).expect("a port");
    let address = tcp.address().to_string();
    let found = gate.bare(&["scan", &address, "--units", "1-10", "--json"]);
    assert_eq!((found.code, units(&found)), (0, vec![1, 9]), "{found:?}");
    let closed = gate.bare(&["scan", "127.0.0.1:1"]);
    assert!(closed.code == 69 && closed.err.contains("nothing listens there"), "{closed:?}");

    // A bus of the configuration without the daemon, and then through it.
    let direct = gate.cli(&[&["scan", "rs485", "--json"], &quick[..]].concat());
    assert_eq!(units(&direct), [2, 5], "{direct:?}");
    let _daemon = gate.run();
    wait_until("polling", seconds(10), || gate.status()["device"]["meter"]["state"] == "online");
    let before = gate.status()["gateway"]["readings"].as_u64().unwrap_or(0);
    let began = now();
    let through = gate.cli(&[&["scan", "rs485", "--json"], &quick[..]].concat());
    assert_eq!(units(&through), [2, 5], "{through:?}");
    let taken = gate.status()["gateway"]["readings"].as_u64().unwrap_or(0) - before;
    println!("scanned 6 units through the daemon in {:.1} s; {taken} readings meanwhile", now() - began);
    assert!(taken >= 4, "polls go on");
    // Its port is scanned through it too, and its settings are its own.
    let by_port = gate.cli(&[&["scan", &port, "--json"], &quick[..]].concat());
    assert_eq!(units(&by_port), [2, 5], "{by_port:?}");
    assert!(by_port.err.contains("bus `rs485` of the running daemon"), "{by_port:?}");
    let settings = gate.cli(&["scan", "rs485", "--baud", "9600"]);
    assert!(settings.code == 64 && settings.err.contains("stop it"), "{settings:?}");
    let unknown = gate.cli(&["scan", "rs458"]);
    assert!(unknown.code == 64 && unknown.err.contains("there is rs485"), "{unknown:?}");
    assert!(slave.is_running());
}

#[test]
fn a_bus_without_devices_can_be_scanned_and_a_device_of_others_says_who_it_is() {
    let home = temporary();
    let plc = Plant::start(
        home.path(),
        &support::plant::plant(&[support::plant::Line { name: "plc", units: 3..=3, points: 0, link: None }]),
    );
    let bus = format!(
        "[[bus]]\nname = \"plc\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{}\"\n",
        plc.port("plc")
    );
    let gate = Gate::new(BINARY, home.path(), "box", &bus);
    let _daemon = gate.run();
    let found = gate.cli(&["scan", "plc", "--units", "2-4", "--timeout", "150ms", "--json"]);
    assert_eq!(units(&found), [3], "{found:?}");
    println!("pymodbus says: {}", found.json()[0]);
    // A bus that has no addresses.
    gate.configure(&format!("{}[[bus]]\nname = \"sim\"\ndriver = \"sim\"\n", gate.head("box", "")));
    let sim = gate.cli(&["scan", "sim"]);
    assert!(sim.code == 64 && sim.err.contains("has no addresses"), "{sim:?}");
    let missing = gate.bare(&["scan", "/dev/i2c-99"]);
    assert!(missing.code == 69 && missing.err.contains("enable I²C"), "{missing:?}");
}

#[test]
fn read_raw_shows_registers_and_what_they_could_mean_with_the_daemon_and_without() {
    let home = temporary();
    let link = home.path().join("rs485");
    let (_runtime, _slave) = line(&link, &[2, 5]);
    let gate = Gate::new(BINARY, home.path(), "box", &config(&link));
    let exercise = |with: &str| {
        let point = gate.cli(&["read", "meter/voltage", "--raw", "--json"]);
        assert_eq!(point.code, 0, "{with}: {point:?}");
        let row = point.json()[0].clone();
        assert_eq!((&row["register"], &row["hex"]), (&json!("input:0"), &json!(["4366", "199A"])), "{with}");
        let f32s: Vec<Json> = row["decodings"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|d| d["type"] == "f32" && d["plausible"] == true)
            .cloned()
            .collect();
        assert_eq!(f32s.len(), 1, "{with}: {row}");
        assert!(
            f32s[0]["word_order"] == "ABCD"
                && f32s[0]["value"].as_str().is_some_and(|v| v.starts_with("230.1"))
        );
        let people = gate.cli(&["read", "meter/setpoint", "--raw"]);
        assert!(
            people.out.contains("unit 2, holding:0, 1 register") && people.out.contains("0016"),
            "{with}: {people:?}"
        );
        // Any unit and register, also of a device that stands in no configuration.
        let any =
            gate.cli(&["read", "rs485", "--unit", "5", "--register", "input:0", "--count", "2", "--raw"]);
        assert!(any.code == 0 && any.out.contains("230.1"), "{with}: {any:?}");
        let coils = gate.cli(&["read", "rs485", "--unit", "5", "--register", "coil:3", "--raw", "--json"]);
        assert_eq!(coils.json()[0]["bits"], json!([1]), "{with}: {coils:?}");
        let whole = gate.cli(&["read", "meter", "--raw", "--json"]);
        assert_eq!(whole.json().as_array().map(Vec::len), Some(2), "{with}: {whole:?}");
        for (wrong, code, told) in [
            (&["read", "rs485", "--unit", "5", "--register", "input:900", "--raw"][..], 1, "exception 02"),
            (
                &["read", "rs485", "--unit", "9", "--register", "input:0", "--timeout", "100ms"],
                1,
                "no answer",
            ),
            (&["read", "rs485", "--unit", "5", "--raw"], 64, "go together"),
            (&["read", "rs485", "--unit", "5", "--register", "inptu:0"], 64, "did you mean"),
            (&["read", "meter/nothing", "--raw"], 1, "no point `nothing`"),
            (&["read", "nobody/x", "--raw"], 1, "no device `nobody`"),
        ] {
            let answer = gate.cli(wrong);
            assert!(answer.code == code && answer.err.contains(told), "{with}: {wrong:?}: {answer:?}");
        }
    };
    exercise("without the daemon");
    let _daemon = gate.run();
    wait_until("polling", seconds(10), || gate.status()["device"]["meter"]["state"] == "online");
    exercise("with the daemon");
}

#[test]
fn watch_wire_shows_frames_with_their_gaps_and_words() {
    let home = temporary();
    let link = home.path().join("rs485");
    let (_runtime, _slave) = line(&link, &[2]);
    let gate = Gate::new(BINARY, home.path(), "box", &config(&link));
    assert_eq!(gate.cli(&["watch", "--wire", "rs485"]).code, 1, "nothing runs");
    let _daemon = gate.run();
    wait_until("polling", seconds(10), || gate.status()["device"]["meter"]["state"] == "online");
    let watch = |more: &[&str], count: usize| {
        let mut child = Command::new(BINARY)
            .args(["watch", "--wire", "rs485", "--config"])
            .arg(gate.config())
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let lines: Vec<String> = lines.take(count).map(|line| line.expect("text")).collect();
        child.kill().expect("it runs until then");
        child.wait().expect("it ended");
        lines
    };
    let lines = watch(&[], 8);
    println!("{}", lines.join("\n"));
    assert!(
        lines.iter().any(|l| l.contains('→') && l.contains("unit 2 read holding 0  CRC ok")),
        "{lines:#?}"
    );
    assert!(
        lines.iter().any(|l| l.contains('←') && l.contains("unit 2 input: 4366 199A  CRC ok")),
        "{lines:#?}"
    );
    for (n, line) in watch(&["--json"], 4).iter().enumerate() {
        let row: Json = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        // Who begins to look in the middle of a frame sees the rest of it first.
        let whole = row["whole"] == true || n == 0;
        assert!(row["ts"].is_string() && row["bytes"].is_string() && whole, "{row}");
    }
    let unknown = gate.cli(&["watch", "--wire", "rs458"]);
    assert!(unknown.code == 1 && unknown.err.contains("there is rs485"), "{unknown:?}");
}

#[test]
fn ports_say_which_bus_uses_them_and_which_are_missing() {
    let home = temporary();
    let link = home.path().join("rs485");
    let (_runtime, _slave) = line(&link, &[2]);
    let gone = "/dev/serial/by-id/usb-gone-if00";
    let bus = format!("[[bus]]\nname = \"gone\"\ndriver = \"modbus-rtu\"\nport = \"{gone}\"\n");
    let gate = Gate::new(BINARY, home.path(), "box", &(config(&link) + &bus));
    let ports = gate.cli(&["ports", "--json"]);
    let of = |ports: &Json, bus: &str| {
        ports.as_array().and_then(|all| all.iter().find(|port| port["bus"] == bus).cloned()).expect(bus)
    };
    let there = of(&ports.json(), "rs485");
    assert_eq!((ports.code, &there["present"], &there["configured"]), (0, &json!(true), &json!(link)));
    assert!(there["device"].as_str().is_some_and(|device| device.starts_with("/dev/pts/")), "{there}");
    let missing = of(&ports.json(), "gone");
    assert_eq!(
        missing,
        json!({
            "kind": "serial", "name": gone, "device": null, "description": "not there", "present": false,
            "bus": "gone", "configured": gone,
        })
    );
    let people = gate.cli(&["ports"]).out;
    assert!(people.contains(&format!("{gone}\n        not there\n        bus `gone`")), "{people}");
    // The configuration that was named has a mistake: the ports are shown all the same.
    std::fs::write(gate.config(), "nonsense = 1\n").expect("written");
    let wrong = gate.cli(&["ports", "--json"]);
    assert!(wrong.code == 78 && wrong.json().is_array() && wrong.err.contains("nonsense"), "{wrong:?}");
}

#[test]
fn profiles_are_listed_shown_and_checked() {
    let home = temporary();
    let gate = Gate::new(BINARY, home.path(), "box", "");
    std::fs::create_dir(home.path().join("profiles")).expect("a directory");
    let good = "[profile]\ndescription = \"A meter\"\ndocument = \"M 1\"\ndriver = \"modbus\"\n\
                [[point]]\nname = \"u\"\nregister = \"input:0\"\ntype = \"f32\"\nunit = \"V\"\ndescription = \"Voltage\"\n";
    let file = home.path().join("profiles/meter.toml");
    std::fs::write(&file, good).expect("written");
    let list = gate.cli(&["profile", "list"]);
    assert!(
        list.code == 0 && list.out.contains("meter") && list.out.contains("1 points  A meter"),
        "{list:?}"
    );
    let list = gate.cli(&["profile", "list", "--json"]).json();
    assert!(
        list.as_array().is_some_and(|all| all.iter().any(|p| p["name"] == "meter" && p["points"] == 1)),
        "{list}"
    );
    let show = gate.cli(&["profile", "show", "meter"]);
    assert!(show.code == 0 && show.out.contains("input:0") && show.out.contains("Voltage"), "{show:?}");
    assert_eq!(gate.cli(&["profile", "show", "meter", "--json"]).json()["points"][0]["unit"], "V");
    let unknown = gate.cli(&["profile", "show", "metre"]);
    assert!(unknown.code == 1 && unknown.err.contains("did you mean `meter`"), "{unknown:?}");
    let path = file.to_string_lossy().into_owned();
    assert_eq!(gate.bare(&["profile", "check", &path]).code, 0);
    std::fs::write(&file, good.replace("f32", "f33").replace("\"modbus\"", "\"modbus\"\nunti = 1"))
        .expect("written");
    let wrong = gate.bare(&["profile", "check", &path]);
    assert_eq!(wrong.code, 78, "{wrong:?}");
    assert!(wrong.err.contains("meter.toml:9:8:") && wrong.err.contains("unknown key `unti`"), "{wrong:?}");
    assert!(
        wrong.err.contains("9 | type = \"f33\"") && wrong.err.contains("^^^^^"),
        "with a caret: {wrong:?}"
    );
    let wrong = gate.bare(&["profile", "check", &path, "--json"]);
    assert_eq!((wrong.code, wrong.json()["problems"][1]["line"].clone()), (78, json!(9)), "{wrong:?}");
}
