//! Devices on real pseudo-terminals, through to mosquitto as the cloud: a scale that prints into noise, a dead
//! slave beside live ones, a line whose plug is pulled, and an inverter that says where its values are.

use std::time::Duration;

use driver_sim::slaves::{
    Area, Fate, Kind, Layout, RtuOptions, RtuSlave, ScaleLedger, ScaleOptions, ScaleSlave, Source, Style,
    Weight,
};
use support::messages::readings;
use support::plant::{Line, plant};
use support::process::Signal;
use support::{Gate, Mosquitto, Observer, Plant, Reading, now, pause, seconds, temporary, wait_until};
use tokio::runtime::Runtime;

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

fn uplink(cloud: &Mosquitto) -> String {
    format!("[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{}\"\n", cloud.port())
}

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime for the simulated devices")
}

fn of(observer: &Observer, name: &str) -> Vec<Reading> {
    let (all, faults) = readings(&observer.messages(), "gw/box");
    assert_eq!(faults, [""; 0]);
    all.into_iter().filter(|r| r.name == name).collect()
}

const PATTERN: &str = r"S[TI],\w+,\s*(?P<weight>[-+]?\s*[0-9.]+)kg";

/// A scale that speaks by itself at this pace until it has said `count` telegrams whole; then everything is
/// stopped. `interval` is a line of the device, or nothing. What it said whole and what the cloud heard, in
/// hundredths of a kilogram, and its ledger.
fn listened(every_ms: u64, noise: f64, interval: &str, count: u64) -> (Vec<u64>, Vec<u64>, ScaleLedger) {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let runtime = runtime();
    let scale = runtime.block_on(async {
        ScaleSlave::start(ScaleOptions {
            baud: 9600,
            every: Some(Duration::from_millis(every_ms)),
            weight: Weight::Counts,
            style: Style::Spaces,
            noise,
            spoil: noise / 2.0,
            pause: Duration::from_millis(5),
            seed: 7,
            link: Some(home.path().join("scale")),
            ..ScaleOptions::default()
        })
        .expect("a pseudo-terminal")
    });
    let config = format!(
        "{}[[bus]]\nname = \"scale\"\ndriver = \"serial\"\nport = \"{}\"\nbaud = 9600\n\
         [[device]]\nname = \"bridge\"\nbus = \"scale\"\nprotocol = \"lines\"\npattern = '{PATTERN}'\n{interval}\n\
         [[device.point]]\nname = \"weight\"\nunit = \"kg\"\n",
        uplink(&cloud),
        home.path().join("scale").display()
    );
    let gate = Gate::new(BINARY, home.path(), "box", &config);
    let mut daemon = gate.run();
    wait_until("telegrams to be said", seconds(50), || scale.ledger().good >= count);
    scale.silence(true);
    // What is on its way comes within its own line time.
    pause(Duration::from_millis(500));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);

    let ledger = scale.ledger();
    let whole = ledger.said.iter().filter(|t| t.fate == Fate::Good);
    let mut said: Vec<u64> = whole.map(|t| (t.weight * 100.0).round() as u64).collect();
    let heard: Vec<Reading> = of(&observer, "bridge/weight");
    let good = heard.iter().filter(|r| r.quality == "good").filter_map(|r| r.value.as_f64());
    let good: Vec<u64> = good.map(|v| (v * 100.0).round() as u64).collect();
    println!(
        "{} telegrams whole, {} spoiled, {} unheard; {} good readings, {} others",
        ledger.good,
        ledger.spoiled,
        ledger.unheard,
        good.len(),
        heard.len() - good.len()
    );
    // The first line after the port was opened may have been under way before: nobody can tell it is whole.
    if good.first() != said.first() {
        said.remove(0);
    }
    (said, good, ledger)
}

#[test]
fn a_scales_telegrams_cut_at_odd_places_and_amid_noise_arrive_all_right_or_not_at_all() {
    let (said, heard, ledger) = listened(100, 0.4, "interval = \"10ms\"", 100);
    assert!(ledger.spoiled > 10, "there was something to be fooled by");
    assert_eq!(heard, said, "every whole telegram once, in order, and none of the spoiled ones");
}

#[test]
fn a_scale_that_prints_once_a_second_is_heard_once_a_second_with_the_default_interval() {
    let (said, heard, _) = listened(1000, 0.0, "", 15);
    assert_eq!(heard, said, "a telegram that comes a few milliseconds early is none too many");
}

#[test]
fn a_polled_scale_is_asked_at_the_interval_and_its_silence_is_told() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let runtime = runtime();
    let scale = runtime.block_on(async {
        ScaleSlave::start(ScaleOptions {
            every: None,
            request: b"P\r\n".to_vec(),
            link: Some(home.path().join("scale")),
            ..ScaleOptions::default()
        })
        .expect("a pseudo-terminal")
    });
    let config = format!(
        "{}[[bus]]\nname = \"scale\"\ndriver = \"serial\"\nport = \"{}\"\nbaud = 9600\n\
         [[device]]\nname = \"bridge\"\nbus = \"scale\"\nprotocol = \"lines\"\npattern = '{PATTERN}'\nrequest = \"P\\r\\n\"\n\
         interval = \"500ms\"\ntimeout = \"300ms\"\n\
         [[device.point]]\nname = \"weight\"\nunit = \"kg\"\n",
        uplink(&cloud),
        home.path().join("scale").display()
    );
    let gate = Gate::new(BINARY, home.path(), "box", &config);
    let _daemon = gate.run();
    wait_until("ten weights", seconds(15), || of(&observer, "bridge/weight").len() >= 10);
    let heard = of(&observer, "bridge/weight");
    for pair in heard.windows(2) {
        let apart = pair[1].ts_ms - pair[0].ts_ms;
        assert!((350..700).contains(&apart), "asked every 500 ms: {apart} ms apart");
    }
    scale.silence(true);
    wait_until("the silence to be told", seconds(10), || {
        of(&observer, "bridge/weight").last().is_some_and(|r| r.quality == "bad" && r.reason == "timeout")
    });
    wait_until("the device to be known as gone", seconds(15), || {
        gate.status()["device"]["bridge"]["state"] == "offline"
    });
    assert_eq!(gate.cli(&["status"]).code, 1, "degraded");
    scale.silence(false);
    wait_until("the weights to be back", seconds(30), || {
        of(&observer, "bridge/weight").last().is_some_and(|r| r.quality == "good")
    });
}

/// Counters at holding 0, 2, … of each unit.
fn meters(units: &[u8], points: u16) -> driver_sim::slaves::Registers {
    let mut layout = Layout::new(1, 400);
    for unit in units {
        for point in 0..points {
            layout = layout.with(*unit, Area::Holding, point * 2, Kind::U32, Source::Serves);
        }
    }
    layout.build().expect("a layout that fits")
}

fn meter(name: &str, bus: &str, unit: u8, points: u16) -> String {
    let mut text = format!(
        "[[device]]\nname = \"{name}\"\nbus = \"{bus}\"\naddress = {unit}\ninterval = \"500ms\"\ntimeout = \"200ms\"\n"
    );
    for point in 0..points {
        text += &format!(
            "[[device.point]]\nname = \"p{point}\"\nregister = \"holding:{}\"\ntype = \"u32\"\n",
            point * 2
        );
    }
    text
}

#[test]
fn dead_devices_stall_neither_their_line_nor_other_buses() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let runtime = runtime();
    let link = home.path().join("rs485");
    let slave = runtime.block_on(async {
        let options =
            RtuOptions { baud: 19200, turnaround: Duration::from_millis(5), link: Some(link.clone()) };
        RtuSlave::start(meters(&[1, 2], 5), options).expect("a pseudo-terminal")
    });
    // A Modbus TCP device that takes connections and never answers.
    let hole = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let plc = Plant::start(home.path(), &plant(&[Line { name: "plc", units: 1..=1, points: 0, link: None }]));
    let bus = |name: &str, port: u64| {
        format!("[[bus]]\nname = \"{name}\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\n")
    };
    let config = format!(
        "{}[[bus]]\nname = \"rs485\"\ndriver = \"modbus-rtu\"\nport = \"{}\"\nbaud = 19200\nparity = \"even\"\n{}{}{}{}{}{}{}",
        uplink(&cloud),
        link.display(),
        meter("m1", "rs485", 1, 5),
        meter("dead", "rs485", 9, 5),
        meter("m2", "rs485", 2, 5),
        bus("hole", u64::from(hole.local_addr().expect("bound").port())),
        meter("silent", "hole", 1, 5),
        bus("plc", plc.port("plc")),
        meter("m3", "plc", 1, 5),
    );
    let gate = Gate::new(BINARY, home.path(), "box", &config);
    let _daemon = gate.run();
    wait_until("the dead to be known as dead", seconds(20), || {
        let status = gate.status();
        ["dead", "silent"].iter().all(|d| status["device"][d]["state"] == "offline")
    });
    // From here on: ten seconds in which the live ones keep their pace.
    let (from, before) = (now(), slave.stats().requests);
    pause(seconds(10));
    let (to, after) = (now(), slave.stats().requests);
    // 200 ms each; two live devices are asked twice a second.
    let probes = (after - before).saturating_sub(40);
    println!("{probes} requests of {} to the dead one", after - before);
    assert!(probes <= 4, "a dead device takes at most 5 % of its line: {probes} probes of 200 ms in 10 s");
    for name in ["m1/p0", "m1/p4", "m2/p0", "m3/p0"] {
        let good: Vec<i64> = of(&observer, name)
            .iter()
            .filter(|r| r.quality == "good" && (from..to).contains(&(r.ts_ms as f64 / 1e3)))
            .map(|r| r.ts_ms)
            .collect();
        let widest = good.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(i64::MAX);
        println!("{name}: {} good readings in {:.1} s, widest gap {widest} ms", good.len(), to - from);
        assert!(good.len() >= 18, "{name}: {} of 20 polls", good.len());
        assert!(widest < 1300, "{name}: a gap of {widest} ms");
    }
    for name in ["dead/p0", "silent/p0"] {
        let all = of(&observer, name);
        assert!(!all.is_empty() && all.iter().all(|r| r.quality == "bad"), "{name}: {all:?}");
    }
    let status = gate.status();
    let dead = &status["device"]["dead"];
    assert!(dead["failures"].as_u64().is_some_and(|n| n > 2) && dead["last_ok"].is_null(), "{dead}");
    let m1 = &status["device"]["m1"];
    let turnaround = m1["turnaround_ms"].as_f64();
    assert!(turnaround.is_some_and(|ms| (4.0..50.0).contains(&ms)), "the simulated ones take 5 ms: {m1}");
    assert_eq!((&m1["split_blocks"], &m1["split_parts"]), (&0.into(), &0.into()));
    let bus = &status["bus"]["rs485"];
    assert!(bus["lateness_ms_p99"].as_f64() <= bus["lateness_ms_max"].as_f64(), "{bus}");
    assert_eq!(slave.stats().short_gaps, 0, "3.5 characters of silence were kept");
    assert_eq!(gate.cli(&["status"]).code, 1, "degraded, not down");
}

#[test]
fn a_line_whose_plug_is_pulled_comes_back_by_itself() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let runtime = runtime();
    let link = home.path().join("rs485");
    let mut slave = runtime.block_on(async {
        let options =
            RtuOptions { baud: 19200, turnaround: Duration::from_millis(5), link: Some(link.clone()) };
        RtuSlave::start(meters(&[1], 5), options).expect("a pseudo-terminal")
    });
    let config = format!(
        "{}[[bus]]\nname = \"rs485\"\ndriver = \"modbus-rtu\"\nport = \"{}\"\nbaud = 19200\nparity = \"even\"\n{}",
        uplink(&cloud),
        link.display(),
        meter("m1", "rs485", 1, 5)
    );
    let gate = Gate::new(BINARY, home.path(), "box", &config);
    let daemon = gate.run();
    let newest = |name: &str| of(&observer, name).last().cloned();
    for round in 1..=3 {
        wait_until("good readings", seconds(15), || newest("m1/p0").is_some_and(|r| r.quality == "good"));
        runtime.block_on(slave.unplug()).expect("it ran until now");
        wait_until("the loss of the line to be told", seconds(10), || {
            newest("m1/p0").is_some_and(|r| r.quality == "bad")
                && gate.status()["bus"]["rs485"]["state"] == "down"
        });
        let files = daemon.open_files();
        pause(seconds(2));
        assert!(
            daemon.open_files() <= files + 1,
            "reopening leaks no file: {files}, then {}",
            daemon.open_files()
        );
        runtime.block_on(async { slave.plug() }).expect("a pseudo-terminal");
        let plugged = now();
        wait_until("good readings again", seconds(15), || {
            newest("m1/p0").is_some_and(|r| r.quality == "good")
        });
        println!("round {round}: back {:.1} s after the plug", now() - plugged);
    }
    let bus = &gate.status()["bus"]["rs485"];
    assert!(bus["reconnects"].as_u64().is_some_and(|n| n >= 3), "{bus}");
    // No value that the device did not give, and none twice.
    let values: Vec<u64> = of(&observer, "m1/p0").iter().filter_map(|r| r.value.as_u64()).collect();
    assert!(values.windows(2).all(|w| w[0] < w[1]), "{values:?}");
    let row = slave.registers().row(1, Area::Holding, 0).expect("it was served");
    let served: Vec<u64> =
        row.history.iter().filter(|s| s.fate == Fate::Good).filter_map(|s| number(&s.value)).collect();
    assert!(
        values.iter().all(|v| served.contains(v)),
        "only what was served whole: {values:?} of {served:?}"
    );
}

/// A SunSpec inverter at unit 5: model 1, model 103 with 50 registers, the end. Beside it, at low addresses, a
/// setting that it forgot and a switch with a flag.
fn inverter() -> driver_sim::slaves::Registers {
    let held = Source::Held;
    let word =
        |layout: Layout, at: u16, value: f64| layout.with(5, Area::Holding, at, Kind::U16, held(value));
    let mut layout =
        Layout::new(1, 100).with(5, Area::Holding, 40_000, Kind::U32, held(f64::from(0x5375_6E53)));
    for (at, value) in [(2, 1.0), (3, 4.0), (8, 103.0), (9, 50.0), (60, 65_535.0), (61, 0.0)] {
        layout = word(layout, 40_000 + at, value);
    }
    layout = layout.with(5, Area::Holding, 40_022, Kind::I16, held(-100.0)).with(
        5,
        Area::Holding,
        40_023,
        Kind::I16,
        held(-1.0),
    );
    for (at, value) in [(40_046, 4.0), (10, 0.0), (20, 0.0), (21, 0.0)] {
        layout = word(layout, at, value);
    }
    layout.build().expect("fits")
}

const INVERTER: &str = "
[[device]]
name = \"inverter\"
bus = \"rs485\"
address = 5
interval = \"200ms\"
setup = [{ register = \"holding:10\", value = 7 }]
[[device.point]]
name = \"watts\"
register = \"model:103:14\"
type = \"i16\"
scale_register = \"model:103:15\"
invalid = 0x8000
[[device.point]]
name = \"state\"
register = \"model:103:38\"
values = { 1 = \"off\", 4 = \"producing\" }
[[device.point]]
name = \"setting\"
register = \"holding:10\"
[[device.point]]
name = \"mode\"
register = \"holding:20\"
values = { 0 = \"stop\", 1 = \"run\" }
writable = true
[[device.point]]
name = \"flag\"
register = \"holding:21\"
bit = 3
values = { 0 = \"no\", 1 = \"yes\" }
writable = true
[[device.point]]
name = \"missing\"
register = \"model:160:2\"
[[device]]
name = \"all\"
bus = \"rs485\"
address = 0
[[device.point]]
name = \"mode\"
register = \"holding:20\"
values = { 0 = \"stop\", 1 = \"run\" }
writable = true
";

#[test]
fn an_inverter_with_models_words_and_a_setup_is_read_and_everybody_is_written_to() {
    let home = temporary();
    let runtime = runtime();
    let link = home.path().join("rs485");
    let slave = runtime.block_on(async {
        let options =
            RtuOptions { baud: 19200, turnaround: Duration::from_millis(5), link: Some(link.clone()) };
        RtuSlave::start(inverter(), options).expect("a pseudo-terminal")
    });
    let config = format!(
        "[[bus]]\nname = \"rs485\"\ndriver = \"modbus-rtu\"\nport = \"{}\"\nbaud = 19200\n{INVERTER}",
        link.display()
    );
    let gate = Gate::new(BINARY, home.path(), "box", &config);
    let value = |point: &str| {
        let answer = gate.cli(&["read", &format!("inverter/{point}"), "--json"]);
        answer.json()["points"][0].clone()
    };
    // Without the daemon: the models are looked for within the one command.
    assert_eq!(value("watts")["value"], -10.0);
    assert_eq!(value("state")["value"], "producing");
    assert_eq!(value("missing")["error"], "exception_02");
    let raw = |with: &str| {
        let seen = gate.cli(&["read", "inverter/watts", "--raw"]);
        assert!(
            seen.code == 0 && seen.out.contains("unit 5, model:103:14 at holding:40022, 1 register"),
            "{with}: {seen:?}"
        );
        assert!(seen.out.contains("FF9C"), "{with}: {seen:?}");
        let none = gate.cli(&["read", "inverter/missing", "--raw"]);
        let told = "no model 160; its models are at 40000: 1 (4 registers), 103 (50 registers)";
        assert!(none.code == 1 && none.err.contains(told), "{with}: {none:?}");
    };
    raw("without the daemon");
    let write = |what: &str, value: &str| gate.cli(&["write", what, value, "--json"]).json();
    assert_eq!(write("inverter/mode", "run")["state"], "verified");
    assert!(
        write("inverter/mode", "runn")["error"].as_str().is_some_and(|e| e.contains("0 = stop, 1 = run"))
    );

    let daemon = gate.run();
    wait_until("the daemon", seconds(10), || gate.status()["device"]["inverter"]["state"] == "online");
    raw("with the daemon");
    wait_until("the setup to be written", seconds(15), || value("setting")["value"] == 7);
    assert_eq!(
        slave.registers().row(5, Area::Holding, 10).expect("there").writes,
        1,
        "once, where it differed"
    );
    assert_eq!((&value("watts")["value"], &value("mode")["value"]), (&(-10.0).into(), &"run".into()));
    assert_eq!(write("inverter/flag", "yes")["state"], "verified");
    assert_eq!(value("flag")["value"], "yes");
    let everybody = write("all/mode", "stop");
    assert_eq!((&everybody["state"], &everybody["error"]), (&"written".into(), &serde_json::Value::Null));
    wait_until("everybody to stop", seconds(5), || value("mode")["value"] == "stop");
    let answer = gate.cli(&["read", "all"]);
    assert!(answer.code == 1 && answer.out.contains("cannot be read"), "{answer:?}");
    assert_eq!(gate.cli(&["status"]).code, 0, "nothing is wrong with what is only written");
    assert!(
        daemon.output().contains("SunSpec models at 40000: 1 (4 registers), 103 (50 registers)"),
        "{}",
        daemon.output()
    );
}

fn number(value: &driver_api::Value) -> Option<u64> {
    value.to_string().parse().ok()
}
