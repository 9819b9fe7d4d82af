//! The commands as people and scripts use them: what they print, their exit codes, and what the daemon does on
//! signals, under a service manager, and when it cannot start.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};
use support::messages::readings;
use support::plant::{Line, config, plant};
use support::process::{Process, Signal};
use support::{
    Gate, Mosquitto, NotifySocket, Plant, Proxy, now, pause, repository, seconds, temporary, wait_until,
};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

const SIM: &str = "[[bus]]\nname = \"sim\"\ndriver = \"sim\"\n[[device]]\nname = \"tank\"\nbus = \"sim\"\ninterval = \"500ms\"\n\
    [[device.point]]\nname = \"level\"\nsignal = \"counter\"\nperiod = \"100ms\"\nunit = \"mm\"\n";

fn uplink(port: u16) -> String {
    format!("[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{port}\"\n")
}

#[test]
fn check_tells_all_ten_mistakes_with_line_column_and_hint_and_exits_78() {
    let run = Command::new(BINARY)
        .args(["check", "--config", "tests/golden/ten-mistakes.toml"])
        .current_dir(repository())
        .output()
        .expect("the binary can be started");
    assert_eq!(run.status.code(), Some(78));
    let said = String::from_utf8_lossy(&run.stderr).into_owned() + &String::from_utf8_lossy(&run.stdout);
    let golden =
        fs::read_to_string(repository().join("tests/golden/ten-mistakes.expected")).expect("the golden file");
    assert!(said.contains(golden.trim_end()), "{said}");
    let file = fs::read_to_string(repository().join("tests/golden/ten-mistakes.toml")).expect("the file");
    for (line, text) in (1..).zip(file.lines()) {
        let marked = text.contains("# ")
            && text.split("# ").nth(1).is_some_and(|c| c.starts_with(|d: char| d.is_ascii_digit()));
        let told = said.contains(&format!("ten-mistakes.toml:{line}:"));
        assert_eq!(marked, told, "line {line}: {text}");
    }
    assert_eq!(said.matches("hint: ").count(), 10);
}

#[test]
fn a_daemon_with_a_bad_file_ends_at_once_with_78_and_says_why() {
    let home = temporary();
    let gate = Gate::new(BINARY, home.path(), "box", "[[bus]]\nname = \"a\"\ndriver = \"modbus-rtuu\"\n");
    let started = now();
    let mut daemon = gate.spawn();
    assert_eq!(daemon.wait(seconds(5)), 78);
    assert!(now() - started < 2.0, "at once");
    assert!(daemon.output().contains("did you mean `modbus-rtu`"), "{}", daemon.output());
    fs::remove_file(gate.config()).expect("it was there");
    assert_eq!(gate.spawn().wait(seconds(5)), 78, "no file at all");
    assert_eq!(gate.bare(&["frobnicate"]).code, 64);
    assert_eq!(gate.bare(&["status", "--nonsense"]).code, 64);
    assert_eq!(gate.bare(&["--version"]).code, 0);
}

#[test]
fn a_taken_port_or_a_store_in_use_is_69_and_names_it() {
    let home = temporary();
    let gate = Gate::new(BINARY, home.path(), "box", SIM);
    let taken = TcpListener::bind(("127.0.0.1", gate.broker)).expect("it was free");
    let mut daemon = gate.spawn();
    assert_eq!(daemon.wait(seconds(10)), 69);
    assert!(daemon.output().contains(&gate.broker.to_string()), "{}", daemon.output());
    drop(taken);

    let _first = gate.run();
    let elsewhere = temporary();
    let other = Gate::new(BINARY, elsewhere.path(), "box", "");
    let store = home.path().join("store");
    let text = fs::read_to_string(other.config()).expect("just written");
    other.configure(&(text.replace("\"store\"", &format!("\"{}\"", store.display())) + SIM));
    let mut second = other.spawn();
    assert_eq!(second.wait(seconds(10)), 69, "a second daemon on the same store");
    assert!(second.output().contains("store"), "{}", second.output());
    // And the first did not even notice.
    assert_eq!(gate.cli(&["status"]).code, 0, "{:?}", gate.cli(&["status"]));
}

#[test]
fn a_daemon_without_a_data_directory_says_how_it_is_all_the_same() {
    let home = temporary();
    let run = home.path().join("run");
    fs::create_dir(&run).expect("creates");
    let gate = Gate::new(BINARY, home.path(), "box", SIM);
    fs::write(home.path().join("store"), "no directory").expect("writes");
    let mut command = gate.command();
    command.env("RUNTIME_DIRECTORY", &run);
    let _daemon = Process::start(command, &home.path().join("daemon.log"));
    let ask = |json: bool| {
        let mut status = Command::new(BINARY);
        status.args(["status", "--config"]).arg(gate.config()).args(json.then_some("--json"));
        status.env("RUNTIME_DIRECTORY", &run).output().expect("the binary can be started")
    };
    let snapshot = || serde_json::from_slice::<Json>(&ask(true).stdout).unwrap_or_default();
    wait_until("it answers", seconds(10), || snapshot()["store"]["state"] == "fault");
    wait_until("it polls", seconds(10), || snapshot()["device"]["tank"]["last_ok"].is_string());
    let told = ask(false);
    assert_eq!(told.status.code(), Some(1), "degraded, not down");
    assert!(String::from_utf8_lossy(&told.stdout).contains("fault"));
    // Nobody else's daemon is taken for it.
    let other = Gate::new(BINARY, &home.path().join("run"), "other", SIM);
    let mut status = Command::new(BINARY);
    status.args(["status", "--config"]).arg(other.config()).env("RUNTIME_DIRECTORY", &run);
    assert_eq!(status.output().expect("starts").status.code(), Some(2));
}

#[test]
fn status_is_0_healthy_1_degraded_2_down() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let proxy = Proxy::start(cloud.port());
    let gate = Gate::new(BINARY, home.path(), "box", &format!("{}{SIM}", uplink(proxy.port())));
    let down = gate.cli(&["status"]);
    assert_eq!(down.code, 2, "{down:?}");
    let down = gate.cli(&["status", "--json"]);
    assert_eq!((down.code, &down.json()["gateway"]["state"]), (2, &json!("down")));
    let mut daemon = gate.run();
    wait_until("healthy", seconds(10), || gate.cli(&["status"]).code == 0);
    let text = gate.cli(&["status"]).out;
    for part in ["gateway", "bus", "device", "uplink", "store", "broker"] {
        assert!(text.lines().any(|line| line.starts_with(part)), "no line on {part}:\n{text}");
    }
    proxy.cut();
    wait_until("degraded", seconds(10), || gate.cli(&["status"]).code == 1);
    let told = gate.cli(&["status"]);
    assert!(told.err.contains("cloud"), "and says what: {told:?}");
    proxy.heal();
    wait_until("healthy again", seconds(40), || gate.cli(&["status"]).code == 0);
    daemon.kill();
    assert_eq!(gate.cli(&["status"]).code, 2, "after a kill, with its socket left behind");
}

#[test]
fn read_write_watch_and_queue_work_with_the_daemon_and_without() {
    let home = temporary();
    let plc = Plant::start(home.path(), &plant(&[Line { name: "plc", units: 1..=1, points: 0, link: None }]));
    let text = format!(
        "{}[[bus]]\nname = \"plc\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{}\"\n\
         [[device]]\nname = \"boiler\"\nbus = \"plc\"\naddress = 1\ninterval = \"500ms\"\ntimeout = \"400ms\"\n\
         [[device.point]]\nname = \"setpoint\"\nregister = \"holding:1000\"\ntype = \"i16\"\nscale = 0.1\nunit = \"°C\"\n\
         min = 20.0\nmax = 80.0\nwritable = true\n\
         [[device.point]]\nname = \"count\"\nregister = \"holding:0\"\ntype = \"u32\"\n",
        uplink(9),
        plc.port("plc")
    );
    let gate = Gate::new(BINARY, home.path(), "box", &text);
    let exercise = |with: &str, target: f64| {
        let wrote = gate.cli(&["write", "boiler/setpoint", &target.to_string(), "--json"]);
        assert_eq!((wrote.code, &wrote.json()["state"]), (0, &json!("verified")), "{with}: {wrote:?}");
        let read = gate.cli(&["read", "boiler/setpoint", "--json"]);
        assert_eq!(read.code, 0, "{with}: {read:?}");
        assert_eq!(
            read.json()["points"],
            json!([{ "point": "setpoint", "value": target, "unit": "°C" }]),
            "{with}"
        );
        let both = gate.cli(&["read", "boiler"]);
        assert!(
            both.code == 0 && both.out.contains("setpoint") && both.out.contains("count"),
            "{with}: {both:?}"
        );
        for wrong in [
            &["read", "boilr"][..],
            &["read", "boiler/nothing"],
            &["write", "boiler/setpoint", "80.5"],
            &["write", "boiler/setpoint", "hot"],
            &["write", "boiler/count", "1"],
            &["write", "nobody/x", "1"],
        ] {
            let answer = gate.cli(wrong);
            assert!(answer.code == 1 && !answer.err.is_empty(), "{with}: {wrong:?}: {answer:?}");
        }
        assert_eq!(gate.cli(&["write", "boiler", "1"]).code, 64, "{with}: no point named");
    };
    exercise("without the daemon", 21.5);
    assert_eq!(gate.cli(&["watch", "--json"]).code, 1, "nothing to watch");

    let mut daemon = gate.run();
    exercise("with the daemon", 33.3);
    assert_eq!(plc.writes("plc", 1, 1000), [215, 333], "and nothing else was ever written");
    wait_until("both points in the table", seconds(10), || {
        let rows = gate.cli(&["watch", "--json"]).json();
        rows.as_array().is_some_and(|rows| {
            rows.iter().any(|r| r["device"] == "boiler" && r["point"] == "setpoint" && r["value"] == 33.3)
                && rows.iter().any(|r| r["point"] == "count" && r["quality"] == "good")
        })
    });
    assert_eq!(gate.cli(&["watch", "boiler/count", "--json"]).json().as_array().map(Vec::len), Some(1));
    assert_eq!(gate.cli(&["watch", "boiler", "--json"]).json().as_array().map(Vec::len), Some(2));

    // The cloud is nowhere: everything taken is queued. With the daemon, and then from its files alone.
    wait_until("ten readings in the queue", seconds(10), || gate.account("cloud").queued >= 10);
    let running = gate.account("cloud");
    assert!(running.balances() && running.delivered == 0 && running.lost == 0, "{running:?}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0, "what waits for a dead cloud is no reason to fail");
    let at_rest = gate.account("cloud");
    assert!(at_rest.balances() && at_rest.queued >= running.queued && at_rest.lost == 0, "{at_rest:?}");
    let people = gate.cli(&["queue", "show"]);
    assert!(people.code == 0 && people.out.contains(&format!("taken {}", at_rest.taken)), "{people:?}");
    assert_eq!(gate.account("cloud"), at_rest, "looking changes nothing");
}

#[test]
fn ports_schema_completions_and_the_manual_are_there() {
    let home = temporary();
    let gate = Gate::new(BINARY, home.path(), "box", SIM);
    let ports = gate.bare(&["ports", "--json"]);
    assert!(ports.code == 0 && ports.json().is_array(), "{ports:?}");
    assert_eq!(gate.bare(&["ports"]).code, 0);
    let schema = gate.bare(&["schema"]);
    assert!(schema.code == 0 && schema.json()["properties"]["bus"].is_object(), "{}", schema.err);
    for shell in ["bash", "zsh", "fish"] {
        assert!(gate.bare(&["completions", shell]).out.contains("fieldgate"), "{shell}");
    }
    let man = gate.bare(&["man"]).out;
    assert!(man.matches("\\-\\-config").count() > 20, "with each command: {man}");
    assert!(
        man.contains(".TH fieldgate") && man.contains("\n.TP\n\\fB141\\fR\nwhoever read the output"),
        "{man}"
    );
    let check = gate.cli(&["check"]);
    assert!(check.code == 0 && check.out.contains("level"), "{check:?}");
    assert!(!home.path().join("store").exists(), "check touches nothing");
    assert_eq!(gate.cli(&["check", "--json"]).code, 0);
}

#[test]
fn a_reload_adds_and_removes_and_leaves_what_did_not_change_alone() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let proxy = Proxy::start(cloud.port());
    let observer = cloud.observe();
    let lines = [Line { name: "plc", units: 1..=1, points: 10, link: None }];
    let field = Plant::start(home.path(), &plant(&lines));
    let gate = Gate::new(BINARY, home.path(), "box", "");
    let base = format!("{}{}{}", gate.head("box", ""), uplink(proxy.port()), config(&field, &lines));
    gate.configure(&base);
    let mut daemon = gate.run();
    wait_until("readings in the cloud", seconds(10), || observer.last("gw/box/data/plc-1/p009").is_some());
    let pid = daemon.pid();
    let hash = gate.status()["gateway"]["config_hash"].clone();

    // A bad file: nothing changes, and why is told.
    gate.configure(&base.replace("driver = \"modbus-tcp\"", "driver = \"modbus-tpc\""));
    daemon.signal(Signal::HUP);
    wait_until("the mistake to be told", seconds(10), || {
        daemon.output().contains("did you mean `modbus-tcp`")
    });
    let before = observer.count();
    wait_until("readings to go on", seconds(5), || observer.count() > before + 20);
    assert_eq!(gate.status()["gateway"]["config_hash"], hash);
    // What other commands see of the running daemon does not hang on the broken file.
    assert_eq!(gate.cli(&["status"]).code, 0);

    // Nor does it with a file that leads nowhere, in whose place one may have stood.
    gate.configure(&base);
    let drop_in = home.path().join("conf.d/60.toml");
    fs::create_dir_all(drop_in.parent().expect("a directory")).expect("made");
    std::os::unix::fs::symlink("gone.toml", &drop_in).expect("linked");
    daemon.signal(Signal::HUP);
    wait_until("the link to be told", seconds(10), || {
        daemon.output().contains("the link to `gone.toml` leads nowhere")
    });
    assert_eq!(gate.cli(&["check"]).code, 78);
    assert_eq!(gate.status()["gateway"]["config_hash"], hash);
    fs::remove_file(&drop_in).expect("removed");

    // What only a restart takes over is named.
    gate.configure(&base.replacen("[broker]\n", "[broker]\nengine = \"native\"\n", 1));
    daemon.signal(Signal::HUP);
    wait_until("the key to be told", seconds(10), || {
        daemon.output().contains("only a restart takes over broker.engine")
    });

    // A device more, on a bus more.
    gate.configure(&format!("{base}{SIM}"));
    daemon.signal(Signal::HUP);
    wait_until("the new device's readings", seconds(10), || {
        observer.last("gw/box/data/tank/level").is_some()
    });
    let status = gate.status();
    assert_ne!(status["gateway"]["config_hash"], hash);
    assert_eq!(status["gateway"]["points"], 11);
    assert!(status["device"]["tank"].is_object() && status["device"]["plc-1"].is_object(), "{status}");

    // And gone again, with what was retained of it.
    gate.configure(&base);
    daemon.signal(Signal::HUP);
    wait_until("the device to be forgotten", seconds(10), || gate.status()["device"]["tank"].is_null());
    let kept = support::mosquitto::subscribe(
        gate.broker,
        2,
        &["-t", "gw/box/data/tank/#", "-t", "gw/box/meta/tank/#"],
    );
    assert!(kept.1.is_empty(), "{:?}", kept.1);
    assert_eq!(field.connections("plc"), 1, "the unchanged bus kept its connection");
    assert_eq!(proxy.accepted(), 1, "the unchanged uplink kept its connection");
    assert_eq!((daemon.pid(), daemon.is_running()), (pid, true));
    // Not one counter is missing: polling went on through all of it.
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let heard: BTreeSet<u64> = readings(&observer.messages(), "gw/box")
        .0
        .iter()
        .filter(|r| r.name == "plc-1/p000")
        .filter_map(|r| r.value.as_u64())
        .collect();
    let last = heard.last().copied().unwrap_or(0);
    assert_eq!(heard.len() as u64, last, "of {last} values served");
}

#[test]
fn a_stop_ends_in_time_with_0_and_loses_nothing_even_without_a_cloud() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let proxy = Proxy::start(cloud.port());
    let observer = cloud.observe();
    let lines = [Line { name: "plc", units: 1..=1, points: 50, link: None }];
    let field = Plant::start(home.path(), &plant(&lines));
    let text = format!("{}{}", uplink(proxy.port()), config(&field, &lines));
    let gate = Gate::new(BINARY, home.path(), "box", &text);
    let mut daemon = gate.run();
    wait_until("readings in the cloud", seconds(10), || observer.count() > 100);
    proxy.swallow();
    pause(seconds(3));
    let asked = now();
    daemon.signal(Signal::TERM);
    let code = daemon.wait(seconds(22));
    println!("stopped in {:.1} s with a black hole for a cloud", now() - asked);
    assert_eq!(code, 0, "what is safely on disk is no reason to fail");
    let account = gate.account("cloud");
    assert!(account.balances() && account.queued > 0 && account.lost == 0, "{account:?}");
    let served: usize = field.served().values().map(Vec::len).sum();
    assert_eq!(account.taken, served as u64, "everything served was stored");

    proxy.heal();
    let mut daemon = gate.run();
    wait_until("the queue to drain", seconds(30), || gate.account("cloud").queued < 100);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(22)), 0);
    let heard: BTreeSet<(String, u64)> = readings(&observer.messages(), "gw/box")
        .0
        .into_iter()
        .filter_map(|r| Some((r.name, r.value.as_u64()?)))
        .collect();
    let served: BTreeSet<(String, u64)> = field
        .served()
        .into_iter()
        .flat_map(|(name, all)| all.into_iter().map(move |s| (name.clone(), s.value)))
        .collect();
    assert_eq!(heard, served, "and everything stored arrived");
}

#[test]
fn the_service_manager_is_told_of_start_reload_watchdog_and_stop() {
    let home = temporary();
    let manager = NotifySocket::bind(home.path());
    let gate = Gate::new(BINARY, home.path(), "box", SIM);
    let mut command = gate.command();
    command.env("NOTIFY_SOCKET", manager.path()).env("WATCHDOG_USEC", "1000000");
    let mut daemon = support::Process::start(command, &home.path().join("daemon.log"));
    wait_until("READY=1", seconds(10), || manager.count("READY=1") == 1);
    // Ready means ready: the broker listens and status answers.
    assert!(matches!(gate.cli(&["status"]).code, 0 | 1));
    assert!(std::net::TcpStream::connect(("127.0.0.1", gate.broker)).is_ok());
    let before = manager.count("WATCHDOG=1");
    wait_until("a watchdog that is fed twice in its time", seconds(4), || {
        manager.count("WATCHDOG=1") >= before + 4
    });
    daemon.signal(Signal::HUP);
    wait_until("RELOADING=1 and READY=1", seconds(10), || {
        manager.count("RELOADING=1") == 1 && manager.count("READY=1") == 2
    });
    let told = manager.told();
    let reloading = told.iter().find(|t| t.contains("RELOADING=1")).expect("just counted");
    assert!(reloading.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(22)), 0);
    assert_eq!(manager.count("STOPPING=1"), 1, "{:?}", manager.told());
}

#[test]
fn whatever_lies_in_the_data_directory_the_daemon_starts_and_says_what_was_set_aside() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 5] = [
        ("all files cut in half", |file| {
            let bytes = fs::read(file).unwrap_or_default();
            let _ = fs::write(file, &bytes[..bytes.len() / 2]);
        }),
        ("all files of random bytes", |file| {
            let _ = fs::write(file, [0xA5; 9000]);
        }),
        ("all files empty", |file| {
            let _ = fs::write(file, b"");
        }),
        ("an empty database", |file| {
            if file.to_string_lossy().contains(".db") {
                let _ = fs::write(file, b"");
            }
        }),
        ("no database", |file| {
            if file.to_string_lossy().contains(".db") {
                let _ = fs::remove_file(file);
            }
        }),
    ];
    for (what, spoil) in spoils {
        let home = temporary();
        let gate = Gate::new(BINARY, home.path(), "box", &format!("{}{SIM}", uplink(9)));
        let mut daemon = gate.run();
        wait_until("something stored", seconds(10), || gate.account("cloud").queued > 3);
        let epoch = gate.status()["gateway"]["epoch"].clone();
        daemon.kill();
        for file in fs::read_dir(home.path().join("store")).expect("the store").flatten() {
            if file.file_type().is_ok_and(|kind| kind.is_file()) {
                spoil(&file.path());
            }
        }
        let log = daemon.output().len();
        let mut daemon = gate.run();
        wait_until("new readings", seconds(10), || gate.account("cloud").queued > 0);
        let status = gate.status();
        assert_ne!(status["gateway"]["epoch"], epoch, "{what}: numbers start a new life");
        let said = daemon.output().split_off(log);
        println!("{what}: {said}");
        let told = ["set aside", "declared lost"].iter().any(|words| said.contains(words));
        assert!(told, "{what}: and it says so:\n{said}");
        let account: Json = gate.cli(&["queue", "show", "--json"]).json();
        assert!(gate.account("cloud").balances(), "{what}: {account}");
        daemon.kill();
    }
}

#[test]
fn the_demo_ends_with_a_ledger_that_balances() {
    let home = temporary();
    let run = Command::new(BINARY)
        .args(["demo", "--duration", "12s", "--plain", "--config", "box.toml"])
        .current_dir(home.path())
        .stdin(Stdio::null())
        .output()
        .expect("the binary can be started");
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert_eq!(run.status.code(), Some(0), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    for word in ["taken", "delivered", "queued", "declared lost"] {
        assert!(said.contains(word), "no `{word}` in:\n{said}");
    }
    assert!(!said.contains('\u{1b}'), "plain means plain");
    let aside = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(aside.contains("box.toml is not read"), "{aside}");
    assert_eq!(fs::read_dir(home.path()).expect("it is there").count(), 0, "it leaves nothing behind");
}

#[test]
fn what_cannot_be_shown_is_said_and_a_reader_that_has_gone_is_no_fault() {
    let home = temporary();
    let gate = Gate::new(BINARY, home.path(), "box", SIM);
    let down = gate.cli(&["status", "--clients", "--json"]);
    assert_eq!((down.code, &down.json()["gateway"]["state"]), (2, &json!("down")), "{down:?}");
    let _daemon = gate.run();
    wait_until("a reading", seconds(10), || gate.cli(&["watch", "--once", "tank"]).code == 0);
    for (args, code, words) in [
        (&["watch", "--once", "tnak"][..], 1, "no device `tnak`; did you mean `tank`?"),
        (&["watch", "--json", "tank/levle"], 1, "`tank` has no point `levle`; did you mean `level`?"),
        (&["read", "tnak"], 1, "no device `tnak`; did you mean `tank`?"),
        (&["read", "tank", "--count", "0"], 64, "`--raw`"),
    ] {
        let said = gate.cli(args);
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        assert!(said.err.contains(words), "{args:?}: {said:?}");
    }
    // On a terminal, too, where it would go on until Ctrl-C.
    let line = format!("{BINARY} watch tnak --config {}", gate.config().display());
    let mut live = Command::new("script");
    live.args(["-qec", &line, "/dev/null"]);
    let mut live = Process::start(live, &home.path().join("live.log"));
    assert_eq!(live.wait(seconds(20)), 1);
    assert!(live.output().contains("did you mean `tank`?"), "{}", live.output());
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let run = Command::new(BINARY).arg("schema").stdout(writer).output().expect("the binary can be started");
    assert_eq!((run.status.code(), &run.stderr[..]), (Some(141), &b""[..]));
}
