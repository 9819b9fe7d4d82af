//! Commands over MQTT, local and from the cloud: what is written is what was asked, once, in time, and
//! everything else is answered and not done. The device is pymodbus, whose ledger knows every write.

use serde_json::{Value as Json, json};
use support::mosquitto::publish;
use support::plant::{Line, plant};
use support::process::Process;
use support::{Gate, Mosquitto, Observer, Plant, now, pause, seconds, temporary, wait_for, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

/// Id of a command that lies retained in the cloud before the gateway starts.
const OLD: &str = "old";

/// A boiler with a set point (°C in tenths at register 1000), a switch-like register and a read-only counter.
struct Bench {
    gate: Gate,
    plant: Plant,
    cloud: Mosquitto,
    upstream: Observer,
    local: Observer,
    daemon: Process,
    _home: tempfile::TempDir,
}

fn bench() -> Bench {
    let home = temporary();
    let lines = [Line { name: "plc", units: 1..=1, points: 0, link: None }];
    let plc = Plant::start(home.path(), &plant(&lines));
    let cloud = Mosquitto::start(home.path());
    let config = format!(
        "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{}\"\n\
         allow_commands = [\"boiler/setpoint\", \"dead/+\"]\n\
         [[bus]]\nname = \"plc\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{}\"\n\
         [[device]]\nname = \"boiler\"\nbus = \"plc\"\naddress = 1\ninterval = \"1s\"\ntimeout = \"900ms\"\n\
         [[device.point]]\nname = \"setpoint\"\nregister = \"holding:1000\"\ntype = \"i16\"\nscale = 0.1\nunit = \"°C\"\n\
         min = 20.0\nmax = 80.0\nwritable = true\n\
         [[device.point]]\nname = \"mode\"\nregister = \"holding:1010\"\ntype = \"u16\"\nwritable = true\n\
         [[device.point]]\nname = \"count\"\nregister = \"holding:0\"\ntype = \"u32\"\n\
         [[device]]\nname = \"dead\"\nbus = \"plc\"\naddress = 9\ninterval = \"5s\"\ntimeout = \"300ms\"\n\
         [[device.point]]\nname = \"valve\"\nregister = \"holding:1000\"\ntype = \"u16\"\nwritable = true\n",
        cloud.port(),
        plc.port("plc")
    );
    let upstream = cloud.observe();
    let old = json!({ "id": OLD, "value": 66.0, "expires": "2099-01-01T00:00:00Z" }).to_string();
    assert!(publish(cloud.port(), &["-q", "1", "-r", "-t", "gw/box/command/boiler/setpoint", "-m", &old]));
    let gate = Gate::new(BINARY, home.path(), "box", &config);
    let daemon = gate.run();
    let local = Observer::start(home.path(), gate.broker, "local", &["gw/box/#"]);
    wait_until("the uplink to be up", seconds(10), || upstream.last("gw/box/data/boiler/count").is_some());
    Bench { gate, plant: plc, cloud, upstream, local, daemon, _home: home }
}

impl Bench {
    /// Publishes a command locally.
    fn command(&self, point: &str, payload: &Json) {
        let topic = format!("gw/box/command/{point}");
        assert!(publish(self.gate.broker, &["-q", "1", "-t", &topic, "-m", &payload.to_string()]));
    }

    /// All results of an id on the local broker, in order.
    fn results(&self, observer: &Observer, point: &str, id: &str) -> Vec<Json> {
        let topic = format!("gw/box/result/{point}");
        let all = observer.messages().into_iter().filter(|m| m.topic == topic);
        all.map(|m| m.json()).filter(|json| json["id"] == id).collect()
    }

    /// Waits for a final result of an id.
    fn last(&self, observer: &Observer, point: &str, id: &str) -> Json {
        wait_for(&format!("the result of {id}"), seconds(10), || {
            let all = self.results(observer, point, id);
            all.into_iter().find(|json| json["state"] != "accepted")
        })
    }

    fn writes(&self) -> Vec<u64> {
        self.plant.writes("plc", 1, 1000)
    }
}

#[test]
fn a_command_is_accepted_written_read_back_and_done_once() {
    let bench = bench();
    bench.command("boiler/setpoint", &json!({ "id": "c-1", "value": 21.5, "ttl": "30s" }));
    let done = bench.last(&bench.local, "boiler/setpoint", "c-1");
    assert_eq!((&done["state"], &done["value"]), (&json!("verified"), &json!(21.5)), "{done}");
    assert!(done["ts"].as_str().is_some_and(|ts| ts.ends_with('Z')), "{done}");
    let states: Vec<Json> =
        bench.results(&bench.local, "boiler/setpoint", "c-1").iter().map(|r| r["state"].clone()).collect();
    assert_eq!(states, ["accepted", "verified"]);
    assert_eq!(bench.writes(), [215], "scaled as the point is");
    wait_until("the new value to be published", seconds(5), || {
        bench.local.last("gw/box/data/boiler/setpoint").is_some_and(|m| m.json()["value"] == 21.5)
    });

    // The same id again, even with another value: the answer, not the deed.
    bench.command("boiler/setpoint", &json!({ "id": "c-1", "value": 60.0, "ttl": "30s" }));
    wait_until("the answer to the repeat", seconds(10), || {
        let all = bench.results(&bench.local, "boiler/setpoint", "c-1");
        all.iter().filter(|r| r["state"] == "verified").count() == 2
    });
    assert_eq!(bench.writes(), [215], "a repeated id is not executed again");
    let answer = bench.results(&bench.local, "boiler/setpoint", "c-1").pop().expect("it was there");
    assert!(answer["error"].as_str().is_some_and(|e| e.contains("another value (21.5)")), "{answer}");
    // At another point it is another command.
    bench.command("boiler/mode", &json!({ "id": "c-1", "value": 4, "ttl": "30s" }));
    let other = bench.last(&bench.local, "boiler/mode", "c-1");
    assert_eq!((&other["state"], &other["value"]), (&json!("verified"), &json!(4)), "{other}");
    assert_eq!(bench.plant.writes("plc", 1, 1010), [4]);

    // Results are never retained, nor are commands.
    let kept = support::mosquitto::subscribe(
        bench.gate.broker,
        2,
        &["-t", "gw/box/result/#", "-t", "gw/box/command/#"],
    );
    assert!(kept.1.iter().all(|m| !m.retain), "{:?}", kept.1);
}

#[test]
fn a_repeated_id_is_remembered_over_a_kill() {
    let mut bench = bench();
    bench.command("boiler/mode", &json!({ "id": "once", "value": 3, "ttl": "60s" }));
    bench.last(&bench.local, "boiler/mode", "once");
    // What is promised after the answer must hold for ever, but the store may take its commit interval.
    pause(seconds(2));
    bench.daemon.kill();
    bench.daemon = bench.gate.run();
    wait_until("the observer to be back", seconds(10), || {
        bench.command("boiler/mode", &json!({ "id": "once", "value": 3, "ttl": "60s" }));
        bench.results(&bench.local, "boiler/mode", "once").iter().filter(|r| r["state"] == "verified").count()
            > 1
    });
    assert_eq!(bench.plant.writes("plc", 1, 1010), [3]);
    // It is of that point also after the kill.
    bench.command("boiler/setpoint", &json!({ "id": "once", "value": 30.0, "ttl": "60s" }));
    assert_eq!(bench.last(&bench.local, "boiler/setpoint", "once")["value"], json!(30.0));
    assert_eq!(bench.writes(), [300]);
}

#[test]
fn what_must_not_be_done_is_refused_and_why_is_told() {
    let bench = bench();
    let cases = [
        ("boiler/setpoint", json!(80.1), "above max"),
        ("boiler/setpoint", json!(19.9), "below min"),
        ("boiler/setpoint", json!("warm"), "text for a number"),
        ("boiler/setpoint", json!(true), "truth for a number"),
        ("boiler/setpoint", json!([21]), "a list"),
        ("boiler/setpoint", Json::Null, "nothing"),
        ("boiler/mode", json!(65536), "too big for u16"),
        ("boiler/mode", json!(-1), "negative for u16"),
        ("boiler/mode", json!(1.5), "a fraction for u16"),
        ("boiler/count", json!(1), "not writable"),
        ("boiler/nothing", json!(1), "no such point"),
        ("nobody/setpoint", json!(1), "no such device"),
    ];
    for (n, (point, value, what)) in cases.iter().enumerate() {
        let id = format!("r-{n}");
        bench.command(point, &json!({ "id": id, "value": value, "ttl": "30s" }));
        let result = bench.last(&bench.local, point, &id);
        assert_eq!(result["state"], "refused", "{what}: {result}");
        assert!(result["error"].as_str().is_some_and(|e| e.len() > 5), "{what}: and says why: {result}");
        let all = bench.results(&bench.local, point, &id);
        assert!(all.iter().all(|r| r["state"] != "accepted"), "{what}: {all:?}");
    }
    // Retained: refused, and not kept.
    let retained = json!({ "id": "kept", "value": 30.0, "ttl": "30s" }).to_string();
    publish(bench.gate.broker, &["-q", "1", "-r", "-t", "gw/box/command/boiler/setpoint", "-m", &retained]);
    assert_eq!(bench.last(&bench.local, "boiler/setpoint", "kept")["state"], "refused");
    let kept = support::mosquitto::subscribe(bench.gate.broker, 2, &["-t", "gw/box/command/#"]);
    assert!(kept.1.is_empty(), "a retained command is not kept: {:?}", kept.1);
    // What is no command at all does no harm.
    for nonsense in ["", "{", "[]", "21.5", "{\"value\":30}", "{\"id\":7,\"value\":30}", "\u{1}\u{fffd}"] {
        publish(bench.gate.broker, &["-q", "1", "-t", "gw/box/command/boiler/setpoint", "-m", nonsense]);
    }
    // Expired, in both ways of saying so.
    let past = "2020-01-01T00:00:00Z";
    bench.command("boiler/setpoint", &json!({ "id": "late", "value": 30.0, "expires": past }));
    assert_eq!(bench.last(&bench.local, "boiler/setpoint", "late")["state"], "expired");
    assert_eq!(bench.writes(), [0_u64; 0], "nothing of all this was written");
    assert_eq!(bench.plant.writes("plc", 1, 1010), [0_u64; 0]);
}

#[test]
fn a_dead_device_fails_the_command_in_time_and_a_command_from_the_cloud_is_answered_there() {
    let bench = bench();
    let asked = now();
    bench.command("dead/valve", &json!({ "id": "d-1", "value": 1, "ttl": "5s" }));
    let result = bench.last(&bench.local, "dead/valve", "d-1");
    assert!(["failed", "expired"].iter().any(|s| result["state"] == *s), "{result}");
    assert!(result["error"].as_str().is_some_and(|e| !e.is_empty()), "{result}");
    assert!(now() - asked < 8.0, "in time: {:.1} s", now() - asked);

    let payload = json!({ "id": "up-1", "value": 42.0, "ttl": "30s" }).to_string();
    publish(bench.cloud.port(), &["-q", "1", "-t", "gw/box/command/boiler/setpoint", "-m", &payload]);
    let done = bench.last(&bench.upstream, "boiler/setpoint", "up-1");
    assert_eq!((&done["state"], &done["value"]), (&json!("verified"), &json!(42.0)), "{done}");
    assert_eq!(bench.writes(), [420]);
    // Writable, and what a local client may command, but not the cloud.
    let mode = json!({ "id": "up-2", "value": 2, "ttl": "30s" });
    publish(bench.cloud.port(), &["-q", "1", "-t", "gw/box/command/boiler/mode", "-m", &mode.to_string()]);
    let refused = bench.last(&bench.upstream, "boiler/mode", "up-2");
    assert_eq!(refused["state"], "refused");
    assert!(refused["error"].as_str().is_some_and(|e| e.contains("allow_commands")), "{refused}");
    bench.command("boiler/mode", &json!({ "id": "here", "value": 3, "ttl": "30s" }));
    assert_eq!(bench.last(&bench.local, "boiler/mode", "here")["state"], "verified");
    assert_eq!(bench.plant.writes("plc", 1, 1010), [3]);
    // The retained one that lay in the cloud since before the start: refused or ignored, never done.
    let states: Vec<Json> =
        bench.results(&bench.upstream, "boiler/setpoint", OLD).iter().map(|r| r["state"].clone()).collect();
    assert!(states.iter().all(|s| s == "refused"), "{states:?}");
    assert_eq!(bench.writes(), [420]);
}
