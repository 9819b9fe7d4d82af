//! The queue in a person's hands: readings taken out of it with the daemon and without, and thrown away only when
//! somebody means it, and declared.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value as Json, json};
use support::process::Signal;
use support::{Gate, Mosquitto, Proxy, messages, seconds, temporary, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

const SIM: &str = "[[bus]]\nname = \"sim\"\ndriver = \"sim\"\n\
    [[device]]\nname = \"tank\"\nbus = \"sim\"\ninterval = \"100ms\"\n\
    [[device.point]]\nname = \"level\"\nsignal = \"counter\"\nperiod = \"100ms\"\nunit = \"mm\"\n\
    [[device.point]]\nname = \"swing\"\nsignal = \"sine\"\nperiod = \"10s\"\n\
    [[device]]\nname = \"other\"\nbus = \"sim\"\ninterval = \"100ms\"\n\
    [[device.point]]\nname = \"level\"\nsignal = \"counter\"\nperiod = \"100ms\"\n";

fn uplink(port: u16) -> String {
    format!("[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{port}\"\n")
}

/// The rows of a CSV of ours by heading. Nothing in these tests needs quotes.
fn csv(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = text.lines();
    let heading: Vec<&str> = lines.next().expect("a heading").split(',').collect();
    assert_eq!(heading, ["ts", "device", "point", "value", "unit", "quality", "reason", "epoch", "seq"]);
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), heading.len(), "{line}");
        heading.iter().zip(cells).map(|(h, c)| ((*h).to_owned(), c.to_owned())).collect()
    };
    lines.map(row).collect()
}

fn lines(text: &str) -> Vec<Json> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn readings_are_taken_out_with_the_daemon_and_without_and_are_the_same() {
    let home = temporary();
    let gate = Gate::new(BINARY, home.path(), "box", &format!("{}{SIM}", uplink(9)));
    let none = gate.cli(&["queue", "export"]);
    assert!(none.code == 1 && none.err.contains("no queue"), "{none:?}");
    let mut daemon = gate.run();
    wait_until("a hundred readings in the queue", seconds(20), || gate.account("cloud").queued >= 100);

    let all = gate.cli(&["queue", "export"]);
    assert_eq!(all.code, 0, "{all:?}");
    let rows = csv(&all.out);
    assert!(rows.len() >= 90, "{}", rows.len());
    for (n, row) in rows.iter().enumerate() {
        assert_eq!(row["seq"], (n + 1).to_string(), "every one, in order");
        assert_eq!(row["quality"], "good", "{row:?}");
        assert_eq!(row["unit"], if row["device"] == "tank" && row["point"] == "level" { "mm" } else { "" });
        assert!(row["value"].parse::<f64>().is_ok() && row["ts"].ends_with('Z'), "{row:?}");
    }

    let slip = gate.cli(&["queue", "export", "--point", "tank/levle"]);
    assert!(slip.code == 1 && slip.err.contains("nothing of `tank/levle`"), "{}", slip.err);
    let level = gate.cli(&["queue", "export", "--point", "tank/level", "--uplink", "cloud", "--json"]);
    let level = lines(&level.out);
    assert!(level.len() >= 20 && level.iter().all(|r| r["device"] == "tank" && r["point"] == "level"));
    let device = gate.cli(&["queue", "export", "--point", "other", "--format", "jsonl"]);
    assert!(lines(&device.out).iter().all(|r| r["device"] == "other"));

    let middle = level[level.len() / 2]["ts"].as_str().expect("a time").to_owned();
    let before = gate.cli(&["queue", "export", "--until", &middle]);
    let after = gate.cli(&["queue", "export", "--since", &middle, "--until", "0s"]);
    let (before, after) = (csv(&before.out), csv(&after.out));
    assert!(before.iter().all(|r| r["ts"] < middle) && after.iter().all(|r| r["ts"] >= middle));
    assert!(before.len() + after.len() >= rows.len(), "{} + {}", before.len(), after.len());
    assert_eq!(csv(&gate.cli(&["queue", "export", "--until", "1h"]).out).len(), 0, "an hour ago");

    assert_eq!(gate.cli(&["queue", "export", "--since", "yesterday"]).code, 64);
    let nobody = gate.cli(&["queue", "export", "--uplink", "nobody"]);
    assert!(nobody.code == 1 && nobody.err.contains("no uplink `nobody`"), "{nobody:?}");

    let shown =
        || gate.cli(&["queue", "show", "--json"]).json()["cloud"].as_object().expect("an object").clone();
    let running = shown();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let stopped = shown();
    let keys = |of: &serde_json::Map<String, Json>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&stopped), keys(&running));
    assert_eq!((&stopped["state"], &stopped["rate"]), (&json!("stopped"), &Json::Null));
    assert_eq!(stopped["oldest_ts"], running["oldest_ts"], "the first is still the oldest");
    assert!(stopped["oldest_ts"].is_string() && stopped["queued_bytes"].as_u64() > Some(0), "{stopped:?}");
    let said = gate.cli(&["queue", "show"]).out;
    assert!(said.contains("the oldest is from"), "{said}");
    let file = home.path().join("all.csv");
    let path = file.to_str().expect("UTF-8");
    let told = gate.cli(&["queue", "export", "--output", path]);
    let at_rest = fs::read_to_string(&file).expect("written");
    assert_eq!(told.code, 0, "{told:?}");
    assert!(at_rest.starts_with(all.out.trim_end()), "what the daemon said is its beginning");
    assert_eq!(csv(&at_rest).len() as u64, gate.account("cloud").taken);
    assert!(told.out.starts_with(&gate.account("cloud").taken.to_string()), "{told:?}");
    let again = gate.cli(&["queue", "export", "--output", path]);
    assert!(again.code == 1 && again.err.contains("exists"), "nothing is overwritten: {again:?}");
}

#[test]
fn what_is_purged_is_asked_about_declared_and_never_arrives() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let dead = Gate::new(BINARY, home.path(), "box", &format!("{}{SIM}", uplink(9)));
    let mut daemon = dead.run();
    wait_until("readings in the queue", seconds(20), || dead.account("cloud").queued >= 50);
    let unasked = dead.cli(&["queue", "purge", "--uplink", "cloud"]);
    assert!(unasked.code == 64 && unasked.err.contains("--yes"), "nobody can answer: {unasked:?}");
    assert_eq!(dead.account("cloud").lost, 0);
    let nobody = dead.cli(&["queue", "purge", "--uplink", "nobody", "--yes"]);
    assert!(nobody.code == 1 && nobody.err.contains("no uplink `nobody`"), "{nobody:?}");

    let purged = dead.cli(&["queue", "purge", "--uplink", "cloud", "--yes", "--json"]);
    assert_eq!(purged.code, 0, "{purged:?}");
    let first = purged.json()["cloud"].as_u64().expect("a number");
    assert!(first >= 50, "{purged:?}");
    let account = dead.account("cloud");
    assert!(account.balances() && account.lost == first, "{account:?}");
    let kept = csv(&dead.cli(&["queue", "export"]).out).len() as u64;
    assert!(kept >= first, "the history stays: {kept}");

    // At rest, all of it.
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let waiting = dead.account("cloud").queued;
    let told = dead.cli(&["queue", "purge", "--yes"]);
    assert!(
        told.code == 0 && told.out.contains(&format!("cloud: {waiting} readings declared lost")),
        "{told:?}"
    );
    assert_eq!(csv(&dead.cli(&["queue", "export"]).out).len(), 0, "the history, too");

    // The cloud hears of every one of them, and of what comes afterwards.
    let text = fs::read_to_string(dead.config()).expect("just written");
    dead.configure(&text.replace("mqtt://127.0.0.1:9", &format!("mqtt://127.0.0.1:{}", cloud.port())));
    let mut daemon = dead.run();
    let lost = first + waiting;
    let told = || {
        let (losses, wrong) = support::messages::losses(&observer.messages(), "gw/box");
        assert!(wrong.is_empty(), "{wrong:?}");
        losses
    };
    wait_until("everything is declared upstream", seconds(30), || {
        told().iter().map(|loss| loss.count).sum::<u64>() >= lost
    });
    let losses = told();
    assert_eq!(losses.iter().map(|loss| loss.count).sum::<u64>(), lost, "{losses:?}");
    assert!(losses.iter().all(|loss| loss.reason == "purged"), "{losses:?}");
    wait_until("fresh readings", seconds(20), || {
        support::messages::readings(&observer.messages(), "gw/box").0.iter().any(|r| r.seq > lost)
    });
    let (heard, _) = support::messages::readings(&observer.messages(), "gw/box");
    assert!(heard.iter().all(|r| r.seq > lost), "what was purged never arrives");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    assert_eq!(json!(dead.account("cloud").lost), json!(lost));
}

/// Two uplinks of one gateway: `near` is always there and so hears of every reading; `far` is away while there is no
/// room, and gets what was left for it.
#[test]
fn an_uplink_that_left_is_shown_and_purged_by_name_with_the_daemon_and_without() {
    let home = temporary();
    let plant = "[[uplink]]\nname = \"plant\"\nurl = \"mqtt://127.0.0.1:9\"\nclient_id = \"b\"\n";
    let gate = Gate::new(BINARY, home.path(), "box", &format!("{}{plant}{SIM}", uplink(9)));
    let mut daemon = gate.run();
    wait_until("readings in the queue", seconds(20), || gate.account("plant").queued >= 50);
    let text = fs::read_to_string(gate.config()).expect("just written");
    gate.configure(&text.replace(plant, ""));
    daemon.signal(Signal::HUP);
    let row = || gate.cli(&["queue", "show", "--json"]).json()["plant"].clone();
    let figure = |row: &Json, key: &str| row[key].as_u64().unwrap_or_else(|| panic!("{key} of {row}"));
    let balances = |row: &Json| {
        let parts = ["delivered", "queued_readings", "declared_lost"].map(|key| figure(row, key));
        figure(row, "taken") == parts.iter().sum::<u64>()
    };
    wait_until("it to leave", seconds(20), || row()["configured"] == false);
    let log = fs::read_to_string(home.path().join("daemon.log")).expect("a log");
    let said = log.lines().find(|line| line.contains("readings wait for it; its position is kept until 2"));
    assert!(said.is_some_and(|line| line.contains("WARN") && line.contains("plant")), "{log}");
    assert!(balances(&row()) && figure(&row(), "queued_readings") >= 50, "{}", row());
    assert_eq!(gate.cli(&["queue", "show", "--json"]).json()["cloud"]["configured"], true);

    let purged = gate.cli(&["queue", "purge", "--uplink", "plant", "--yes", "--json"]);
    assert!(purged.code == 0 && purged.json()["plant"].as_u64() >= Some(50), "{purged:?}");
    assert!(balances(&row()) && figure(&row(), "declared_lost") >= 50, "{}", row());
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);

    let rest = row();
    assert!(balances(&rest) && rest["configured"] == false, "{rest}");
    let purged = gate.cli(&["queue", "purge", "--uplink", "plant", "--yes"]);
    let waiting = figure(&rest, "queued_readings");
    assert!(
        purged.code == 0 && purged.out.contains(&format!("plant: {waiting} readings declared lost")),
        "{purged:?}"
    );
    let all = gate.cli(&["queue", "purge", "--yes"]);
    assert!(all.code == 0 && all.out.contains("plant: ") && all.out.contains("cloud: "), "{all:?}");
    assert!(balances(&row()) && figure(&row(), "queued_readings") == 0, "{}", row());
}

#[test]
fn a_backlog_without_room_is_thinned_and_the_uplink_is_told_exactly_of_what() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let (near, far) = (cloud.observe(), Proxy::start(cloud.port()));
    let uplink = |name: &str, port: u16| {
        format!(
            "[[uplink]]\nname = \"{name}\"\nurl = \"mqtt://127.0.0.1:{port}\"\ntopic_root = \"{name}\"\n\
             format = \"json-batch\"\n"
        )
    };
    let point = |name: &str, rest: &str| format!("[[device.point]]\nname = \"{name}\"\n{rest}\n");
    let mut text = format!(
        "{}{}[[bus]]\nname = \"sim\"\ndriver = \"sim\"\n[[device]]\nname = \"plant\"\nbus = \"sim\"\ninterval = \"50ms\"\n",
        uplink("near", cloud.port()),
        uplink("far", far.port()),
    );
    for n in 0..150 {
        text += &point(&format!("fast{n}"), "signal = \"random\"\nperiod = \"50ms\"");
    }
    text += &point("switch", "signal = \"square\"\ntype = \"bool\"\nperiod = \"300ms\"");
    text += &point("words", "signal = \"text\"\nvalue = \"state {n}\"\nperiod = \"1s\"");
    text += &point("changes", "signal = \"sine\"\ndeadband = 1.0");
    text += &point("slow", "signal = \"random\"\ninterval = \"1s\"");
    let gate = Gate::new(BINARY, home.path(), "box", &text);
    // Nothing is ever free enough: from 256 KiB on the queue lives in its own room.
    let head = gate.head("box", "").replace("min_free = \"1MiB\"", "min_free = \"1024GiB\"\nthin = \"1s\"");
    gate.configure(&format!("{head}{text}"));
    far.cut();
    let mut daemon = gate.run();
    let thinned = || gate.status()["store"]["thinned"].as_u64().unwrap_or(0);
    wait_until("many thinned readings", seconds(90), || thinned() > 50_000);
    let store = gate.status()["store"].clone();
    assert_eq!(store["dropped"], 0, "{store}");
    let account = gate.account("far");
    assert_eq!(account.taken, account.delivered + account.queued + account.lost, "{account:?}");
    assert!(account.lost >= 50_000, "{account:?}");
    let upto = account.taken;

    far.heal();
    type Numbers = BTreeMap<u64, support::Reading>;
    let numbers = |root: &str| -> Numbers {
        let (readings, faults) = messages::readings(&near.messages(), root);
        assert!(faults.is_empty(), "{faults:#?}");
        readings.into_iter().filter(|r| r.seq <= upto).map(|r| (r.seq, r)).collect()
    };
    wait_until("both to have all of that", seconds(60), || {
        gate.account("far").queued < 5000 && numbers("near").len() as u64 == upto
    });
    let declared = || {
        let (losses, faults) = messages::losses(&near.messages(), "far");
        assert!(faults.is_empty(), "{faults:#?}");
        losses
    };
    let (taken, mut arrived) = (numbers("near"), numbers("far"));
    wait_until("the last loss record", seconds(30), || {
        arrived = numbers("far");
        let told: u64 = declared().iter().filter(|loss| loss.seq.0 <= upto).map(|loss| loss.count).sum();
        arrived.len() as u64 + told >= upto
    });
    for (n, reading) in &arrived {
        let original = &taken[n];
        let said = |r: &support::Reading| {
            (r.name.clone(), r.ts_ms, r.value.clone(), r.quality.clone(), r.epoch.clone())
        };
        assert_eq!(said(reading), said(original), "{n}");
    }
    let missing: Vec<&support::Reading> = taken.values().filter(|r| !arrived.contains_key(&r.seq)).collect();
    assert!(missing.len() >= 50_000 && missing.iter().all(|r| r.name.starts_with("plant/fast")));
    let mut found = 0;
    for loss in declared().iter().filter(|loss| loss.seq.1 <= upto) {
        let of = missing.iter().filter(|r| (loss.seq.0..=loss.seq.1).contains(&r.seq)).count() as u64;
        assert_eq!((loss.reason.as_str(), loss.bound, loss.count), ("thinned", false, of), "{loss:?}");
        found += of;
    }
    let beyond =
        declared().iter().filter(|loss| loss.seq.1 > upto).map(|loss| loss.seq.0).min().unwrap_or(upto);
    let before = missing.iter().filter(|r| r.seq < beyond).count() as u64;
    assert_eq!(found, before, "every one is declared, once");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
}
