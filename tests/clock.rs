//! The whole daemon with a wall clock that is wrong at first and set later. libfaketime stands between it and the wall clock;
//! boot time and the monotonic clock stay the machine's own, as with a real clock that is stepped. What the cloud
//! heard is held against what the devices served: with the corrections every reading has its true time.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use support::judge::{contradictions, held_against, judge};
use support::messages::{Message, Reading, losses, readings};
use support::mosquitto::publish;
use support::plant::{Line, config, plant};
use support::process::{Process, Signal};
use support::{Gate, Mosquitto, Observer, Plant, Proxy, seconds, temporary, wait_for, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");
/// By how much the clock is wrong at first: long before this program was written, so that it is not believed even where
/// the configuration says that it is right.
const WRONG_DAYS: i64 = -20_000;
const DAY_MS: i64 = 86_400_000;
/// How exactly times must be right, ms: a reading's time is the middle of its exchange, on a machine with other work.
const EXACT_MS: i64 = 500;

/// A daemon's wall clock, in a file that is read at each look.
struct Wall(PathBuf);

impl Wall {
    fn wrong(home: &Path) -> Self {
        let wall = Self(home.join("faketime"));
        wall.say(&format!("{WRONG_DAYS}d"));
        wall
    }

    fn set(&self) {
        self.say("+0");
    }

    fn say(&self, what: &str) {
        // Whole at each moment: it is read at any.
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{what}\n")).expect("the file can be written");
        std::fs::rename(&new, &self.0).expect("the file can be replaced");
    }

    fn spawn(&self, gate: &Gate) -> Process {
        let library = std::fs::read_dir("/usr/lib")
            .expect("there is one")
            .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
            .find(|path| path.is_file())
            .expect("libfaketime is installed (apt install faketime)");
        let mut command = gate.command();
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &self.0);
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        let mut daemon = Process::start(command, &gate.home().join("daemon.log"));
        gate.ready(&mut daemon);
        daemon
    }
}

/// A correction as it was heard.
#[derive(Debug, Clone, PartialEq)]
struct Correction {
    uplink: Option<String>,
    epoch: String,
    seq: [u64; 2],
    shift_ms: i64,
}

/// Each once, however often it was repeated.
fn corrections(messages: &[Message]) -> Vec<Correction> {
    let mut found = Vec::new();
    for message in messages.iter().filter(|m| m.topic == "gw/box/event/correction") {
        let json = message.json();
        let number = |n: usize| json["seq"][n].as_u64().expect("a pair of numbers");
        let correction = Correction {
            uplink: json["uplink"].as_str().map(str::to_owned),
            epoch: json["epoch"].as_str().expect("an epoch").to_owned(),
            seq: [number(0), number(1)],
            shift_ms: json["shift_ms"].as_i64().expect("a number"),
        };
        assert!(json["ts"].is_string() && json["boot_id"].is_string(), "{json}");
        if !found.contains(&correction) {
            found.push(correction);
        }
    }
    found
}

/// Whether an observer heard corrections for all that it heard with a guessed time.
fn is_corrected(observer: &Observer) -> bool {
    let corrections = corrections(&observer.messages());
    let within = |r: &Reading, c: &Correction| c.epoch == r.epoch && (c.seq[0]..=c.seq[1]).contains(&r.seq);
    let unsynced = heard(observer).into_iter().filter(|r| r.reason == "clock_unsynced");
    unsynced.into_iter().all(|r| corrections.iter().any(|c| within(&r, c)))
}

/// The readings with the corrections applied, as a receiver does it. Every one that said `clock_unsynced` is in exactly one
/// correction, and no other in any.
fn corrected(mut readings: Vec<Reading>, corrections: &[Correction]) -> Vec<Reading> {
    for reading in &mut readings {
        let within =
            |c: &&Correction| c.epoch == reading.epoch && (c.seq[0]..=c.seq[1]).contains(&reading.seq);
        let mine: Vec<&Correction> = corrections.iter().filter(within).collect();
        let unsynced = reading.reason == "clock_unsynced";
        assert_eq!(mine.len(), usize::from(unsynced), "{reading:?}: {mine:?}");
        if let Some(correction) = mine.first() {
            let off = correction.shift_ms + WRONG_DAYS * DAY_MS;
            assert!(off.abs() <= EXACT_MS, "{correction:?}");
            reading.ts_ms += correction.shift_ms;
            (reading.quality, reading.reason) = ("good".to_owned(), String::new());
        }
    }
    readings
}

struct Scene {
    home: tempfile::TempDir,
    field: Plant,
    proxy: Proxy,
    cloud: Observer,
    _mosquitto: Mosquitto,
    gate: Gate,
    wall: Wall,
}

fn scene(wait: &str) -> Scene {
    let home = temporary();
    let mosquitto = Mosquitto::start(home.path());
    let cloud = mosquitto.observe();
    let proxy = Proxy::start(mosquitto.port());
    let lines = [Line { name: "plc", units: 1..=2, points: 5, link: None }];
    let field = Plant::start(home.path(), &plant(&lines));
    let uplink = format!(
        "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{}\"\nwait_for_clock = \"{wait}\"\n",
        proxy.port()
    );
    let buses = config(&field, &lines).replace("interval = \"1s\"", "interval = \"200ms\"");
    let gate = Gate::new(BINARY, home.path(), "box", &format!("{uplink}{buses}"));
    let wall = Wall::wrong(home.path());
    Scene { home, field, proxy, cloud, _mosquitto: mosquitto, gate, wall }
}

fn heard(observer: &Observer) -> Vec<Reading> {
    let (heard, faults) = readings(&observer.messages(), "gw/box");
    assert_eq!(faults, [""; 0]);
    heard
}

impl Scene {
    /// Waits until the local observer, which was thrown out when the daemon was killed, hears it again.
    fn back(&self, local: &Observer) {
        let epoch = self.gate.status()["gateway"]["epoch"].as_str().expect("an epoch").to_owned();
        wait_until("the local observer to be back", seconds(20), || {
            heard(local).iter().any(|r| r.epoch == epoch && r.reason != "stale")
        });
    }

    /// The answer to a command to a point that there is not.
    fn refused(&self, local: &Observer, id: &str) -> Json {
        let command = json!({ "id": id, "value": 1 }).to_string();
        assert!(publish(self.gate.broker, &["-q", "1", "-t", "gw/box/command/plc-1/none", "-m", &command]));
        wait_for("the answer", seconds(20), || {
            let answers = local.messages().into_iter().filter(|m| m.topic == "gw/box/result/plc-1/none");
            answers.map(|m| m.json()).find(|json| json["id"] == id)
        })
    }

    fn local(&self) -> Observer {
        Observer::start(self.home.path(), self.gate.broker, "local", &["gw/box/#"])
    }

    /// Stops the field and waits until everything went out and is corrected; then judges all of it.
    fn judge(&self, mut daemon: Process, local: &Observer) -> Vec<Correction> {
        wait_until("everything to be delivered", seconds(60), || {
            let account = self.gate.account("cloud");
            account.balances() && account.delivered > 100 && account.queued < 60
        });
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait(seconds(25)), 0);
        let messages = self.cloud.messages();
        let (declared, faults) = losses(&messages, "gw/box");
        assert_eq!(faults, [""; 0]);
        assert!(declared.iter().all(|loss| loss.reason == "unclean_start"), "{declared:?}");
        // Before corrections: a repeat is the same message, and the order within a point and lane is kept.
        let readings = heard(&self.cloud);
        let verdict = judge(&readings, &declared, false);
        assert_eq!(verdict.faults, [""; 0]);
        let corrections = corrections(&messages);
        assert!(corrections.iter().all(|c| c.uplink.as_deref() == Some("cloud")), "{corrections:?}");
        let readings = corrected(readings, &corrections);
        // After them: all of it has its true time, here as there.
        let (_, faults) = held_against(&self.field.served(), &readings, &[(0.0, f64::MAX)], 0.5);
        assert_eq!(faults, [""; 0]);
        let shown = corrected_local(local);
        assert_eq!(contradictions(&readings, &shown), [""; 0]);
        corrections
    }
}

/// What the local broker showed, with its own corrections.
fn corrected_local(local: &Observer) -> Vec<Reading> {
    let corrections = corrections(&local.messages());
    assert!(corrections.iter().all(|c| c.uplink.is_none()), "{corrections:?}");
    let fresh = heard(local).into_iter().filter(|r| r.reason != "stale").collect();
    corrected(fresh, &corrections)
}

#[test]
fn what_waits_for_the_clock_arrives_with_its_true_time() {
    let scene = scene("10m");
    let mut daemon = scene.wall.spawn(&scene.gate);
    let local = scene.local();
    wait_until("the people on the ladder to see values", seconds(20), || {
        heard(&local).iter().filter(|r| r.reason == "clock_unsynced").count() > 50
    });
    let words = wait_for("the status to say it", seconds(20), || {
        let status = scene.gate.status();
        let words = status["uplink"]["cloud"]["waits"].as_str()?.to_owned();
        (status["gateway"]["clock"] == "unsynced" && !words.is_empty()).then_some(words)
    });
    assert!(words.contains("clock"), "{words}");
    assert!(heard(&scene.cloud).is_empty(), "nothing goes out meanwhile");
    let told = scene.refused(&local, "before");
    assert!(told["clock"] == "unsynced" && told["ts"].as_str() < Some("2000"), "{told}");
    // Killed, too, while it waits.
    daemon.kill();
    let daemon = scene.wall.spawn(&scene.gate);
    scene.back(&local);
    scene.wall.set();
    wait_until("all of it to arrive", seconds(60), || heard(&scene.cloud).len() > 100);
    assert_eq!(scene.gate.status()["uplink"]["cloud"]["waits"], "");
    wait_until("the local correction", seconds(20), || is_corrected(&local));
    assert!(!corrections(&local.messages()).is_empty());
    let told = scene.refused(&local, "after");
    assert!(told["clock"].is_null() && told["ts"].as_str() > Some("2026"), "{told}");
    assert_eq!(scene.judge(daemon, &local), [], "nothing had to be corrected");
}

#[test]
fn what_went_out_before_the_clock_was_set_is_corrected_whatever_happens_in_between() {
    let scene = scene("0s");
    let mut daemon = scene.wall.spawn(&scene.gate);
    let local = scene.local();
    wait_until("readings to go out", seconds(20), || heard(&scene.cloud).len() > 50);
    // Acknowledgements are lost, so that there is something to repeat; then the daemon is killed.
    scene.proxy.swallow();
    support::pause(seconds(1));
    daemon.kill();
    scene.proxy.heal();
    let mut daemon = scene.wall.spawn(&scene.gate);
    wait_until("more to go out", seconds(30), || heard(&scene.cloud).len() > 150);
    scene.back(&local);
    scene.proxy.cut();
    scene.wall.set();
    wait_until("the daemon to see it", seconds(20), || scene.gate.status()["gateway"]["clock"] == "synced");
    scene.proxy.heal();
    let good = || heard(&scene.cloud).iter().filter(|r| r.quality == "good").count();
    wait_until("readings with their true time", seconds(60), || good() > 50);
    wait_until("the local correction", seconds(20), || is_corrected(&local));
    daemon.kill();
    let daemon = scene.wall.spawn(&scene.gate);
    wait_until("the corrections", seconds(30), || is_corrected(&scene.cloud));
    assert!(!scene.judge(daemon, &local).is_empty());
}

#[test]
fn a_wall_clock_that_fell_back_over_a_restart_moves_no_time_of_the_status() {
    let scene = scene("0s");
    scene.wall.set();
    let mut daemon = scene.wall.spawn(&scene.gate);
    wait_until("readings to go out", seconds(20), || heard(&scene.cloud).len() > 50);
    let times = || {
        let status = scene.gate.status();
        let time = |of: &str| status.pointer(of).and_then(|ts| ts.as_str()).map(str::to_owned);
        time("/device/plc-1/last_ok").zip(time("/uplink/cloud/since"))
    };
    let before = wait_for("times in the status", seconds(20), times);
    daemon.kill();
    scene.wall.say(&format!("{WRONG_DAYS}d"));
    let _daemon = scene.wall.spawn(&scene.gate);
    let after = wait_for("times in the status", seconds(20), times);
    assert!(after.0 > before.0 && after.1 > before.1, "{before:?}, then {after:?}");
}
