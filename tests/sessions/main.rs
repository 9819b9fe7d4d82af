//! The local broker of the daemon, restarted and killed (`kill -9`) under traffic of QoS 1 and 2 between clients whose
//! sessions stay: nothing that was acknowledged is lost, QoS 2 comes exactly once and in order, what is retained is complete. What the
//! publishers say with QoS 2 is stored for an uplink, too: there, too, it is once.
//!
//! 8 rounds; `FIELDGATE_BROKER_KILLS=100 cargo test --test sessions -- --nocapture` for more, `FIELDGATE_SEED` to repeat a
//! run's moments.

mod clients;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use clients::{Publisher, Stage, Subscriber};
use support::process::Signal;
use support::{Gate, now, pause, seconds, temporary, wait_for, wait_until};
use wire::Wire;

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// What is retained on `r/#` now, as a new client is told.
fn retained(port: u16) -> BTreeMap<String, u64> {
    let mut wire = wait_for("a look at what is retained", seconds(10), || {
        let mut wire = Wire::connect(port, "looker", false, false).ok()?;
        wire.subscribe(1, "r/#", 0).ok()?;
        Some(wire)
    });
    let mut found = BTreeMap::new();
    while let Ok(Some(packet)) = wire.next(Duration::from_millis(300)) {
        // Live ones come, too: only what is marked as retained counts, until the first that is not.
        if packet.0 >> 4 == 3 {
            let (topic, _, payload) = wire.read_publish(&packet);
            if packet.0 & 1 == 0 {
                break;
            }
            found.insert(topic, payload.parse().unwrap_or(0));
        }
    }
    found
}

/// The messages of a publisher that the log has, by their numbers.
fn logged(gate: &Gate, publisher: &str) -> Vec<u64> {
    let told = gate.cli(&["queue", "export", "--json", "--point", &format!("t/2/{publisher}")]);
    assert_eq!(told.code, 0, "{}", told.err);
    let lines = told.out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let number = |m: serde_json::Value| m["payload"].as_str().and_then(|text| text.parse().ok());
    lines.map(|m| number(m.clone()).unwrap_or_else(|| panic!("{m}"))).collect()
}

/// What is wrong with a subscriber's ledger: `sent` is the number of messages by publisher and QoS.
fn judge(subscriber: &Subscriber, sent: &BTreeMap<String, [u64; 3]>, once: bool) -> Vec<String> {
    let mut faults = Vec::new();
    for (topic, numbers) in &subscriber.heard {
        let mut seen = BTreeSet::new();
        let first: Vec<u64> = numbers.iter().copied().filter(|n| seen.insert(*n)).collect();
        if !first.is_sorted() {
            let at = first.windows(2).find(|w| w[0] > w[1]);
            faults.push(format!("{}: {topic} is out of order: {at:?}", subscriber.name));
        }
        if once && topic.starts_with("t/2/") && first.len() != numbers.len() {
            let twice = numbers.len() - first.len();
            faults.push(format!("{}: {topic}: {twice} came twice with QoS 2", subscriber.name));
        }
    }
    for (publisher, by_qos) in sent {
        for qos in [1u8, 2] {
            let topic = format!("t/{qos}/{publisher}");
            let heard: BTreeSet<u64> = subscriber.heard.get(&topic).into_iter().flatten().copied().collect();
            let missing: Vec<u64> = (1..=by_qos[usize::from(qos)]).filter(|n| !heard.contains(n)).collect();
            if !missing.is_empty() {
                faults.push(format!("{}: {topic} lacks {missing:?}", subscriber.name));
            }
        }
    }
    faults
}

#[test]
fn one_of_a_later_version_is_left_alone_and_the_status_says_that_nothing_is_kept() {
    let home = temporary();
    let gate = Gate::new(BINARY, home.path(), "box", "");
    let file = home.path().join("store/broker.db");
    let mut daemon = gate.run();
    assert_eq!(gate.status()["broker"]["persistence"], "ok");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let db = rusqlite::Connection::open(&file).expect("it is there");
    db.execute_batch("PRAGMA user_version=99").expect("writes");
    drop(db);
    let before = std::fs::read(&file).expect("it is there");
    let mut daemon = gate.run();
    let told = gate.cli(&["status"]);
    assert!(
        told.code == 1 && told.out.contains("sessions in memory only: broker.db has schema 99"),
        "{told:?}"
    );
    let mut wire = Wire::connect(gate.broker, "c", false, true).expect("it listens");
    wire.publish(1 | 2, "a", 1, "x").expect("sent");
    assert_eq!(wire.next(seconds(10)).expect("there").expect("an answer").0, 0x40, "publishers are answered");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    assert_eq!(std::fs::read(&file).expect("it is there"), before);
    gate.configure(&gate.head("box", "persistence = false"));
    let _daemon = gate.run();
    let status = gate.status();
    assert_eq!((&status["broker"]["persistence"], &status["broker"]["state"]), (&"off".into(), &"ok".into()));
}

#[test]
fn wills_of_clients_that_do_not_return_are_published_after_a_kill_and_a_stop_and_the_status_says_what_was_refused()
 {
    let home = temporary();
    let gate = Gate::new(BINARY, home.path(), "box", "");
    let state = |name: &str| {
        let mut wire = Wire::connect(gate.broker, "looker", false, false).expect("it listens");
        wire.subscribe(1, &format!("on/{name}"), 0).expect("sent");
        while let Ok(Some(packet)) = wire.next(Duration::from_millis(300)) {
            if packet.0 >> 4 == 3 {
                return wire.read_publish(&packet).2;
            }
        }
        String::new()
    };
    let mut daemon = gate.run();
    for kill in [true, false] {
        let mut there = Vec::new();
        for (name, v5, kept) in [("clean", false, false), ("clean-5", true, false), ("kept", false, true)] {
            let topic = format!("on/{name}");
            let will = Some((&*topic, "no"));
            let mut wire = Wire::connect_with(gate.broker, name, v5, kept, will).expect("it listens");
            wire.publish(1 | 2, &topic, 1, "yes").expect("sent");
            assert_eq!(wire.next(seconds(10)).expect("there").expect("an answer").0, 0x40);
            there.push(wire);
        }
        if kill {
            daemon.kill();
        } else {
            daemon.signal(Signal::TERM);
            assert_eq!(daemon.wait(seconds(25)), 0);
        }
        drop(there);
        daemon = gate.run();
        for name in ["clean", "clean-5", "kept"] {
            wait_until(&format!("the will of {name}, {kill}"), seconds(20), || state(name) == "no");
        }
    }
    let mut stranger = std::net::TcpStream::connect(("127.0.0.1", gate.broker)).expect("it listens");
    std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    wait_until("the refusal", seconds(10), || gate.cli(&["status"]).out.contains(", 1 refused (1 protocol)"));
}

#[test]
fn restarts_and_kills_lose_nothing_repeat_no_qos_2_and_keep_what_is_retained() {
    let rounds = number("FIELDGATE_BROKER_KILLS", 8);
    let seed = number("FIELDGATE_SEED", u64::from(std::process::id()));
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let home = temporary();
    let gate = Gate::new(BINARY, home.path(), "box", "");
    // What the publishers say with QoS 2 goes into the log, too; there is no cloud to take it from there.
    std::fs::create_dir(home.path().join("conf.d")).expect("a directory");
    let forwarded = "[store]\ncommit_interval = \"20ms\"\n[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:1\"\n\
         [[uplink.forward]]\nfilter = \"t/2/+\"\nto = \"{topic}\"\n";
    std::fs::write(home.path().join("conf.d/forward.toml"), forwarded).expect("written");
    let port = gate.broker;
    let stage = Arc::new(Stage::default());
    let mut daemon = gate.run();

    let mut all = vec![
        Subscriber::new("steady-4", (port, false), ("t/#", 2), 0, &stage, random.u64(..)),
        Subscriber::new("steady-5", (port, true), ("t/#", 2), 10, &stage, random.u64(..)),
        Subscriber::new("often-away-4", (port, false), ("t/#", 2), 600, &stage, random.u64(..)),
        Subscriber::new("often-away-5", (port, true), ("t/+/+", 2), 600, &stage, random.u64(..)),
        Subscriber::new("modest", (port, false), ("t/#", 1), 200, &stage, random.u64(..)),
    ];
    let members = ["member-a", "member-b"].map(|name| {
        Subscriber::new(name, (port, true), ("$share/group/t/2/#", 2), 100, &stage, random.u64(..))
    });
    all.extend(members);
    all.iter_mut().for_each(|s| s.begin().expect("it subscribes"));
    let counts: Vec<_> = all.iter().map(|s| Arc::clone(&s.count)).collect();
    let subscribers: Vec<_> = all.into_iter().map(|s| std::thread::spawn(move || s.run())).collect();
    let publishers: Vec<_> = [("pub-4", false), ("pub-5", true)]
        .into_iter()
        .map(|(name, v5)| {
            let publisher = Publisher::new(name, port, v5, &stage, random.u64(..));
            std::thread::spawn(move || publisher.run())
        })
        .collect();

    let began = now();
    let (mut kills, mut early, mut restarts, mut dropped, mut slowest) = (0, 0, 0, 0, 0.0f64);
    for round in 0..rounds {
        pause(Duration::from_millis(random.u64(50..900)));
        dropped += gate.status()["broker"]["dropped"].as_u64().unwrap_or(0);
        let before = stage.retained.lock().expect("no client failed").clone();
        if round % 5 == 4 {
            daemon.signal(Signal::TERM);
            assert_eq!(daemon.wait(seconds(25)), 0);
            restarts += 1;
        } else {
            daemon.kill();
            kills += 1;
        }
        if random.u8(..3) == 0 {
            // Once more, while it takes in what was kept.
            let mut young = gate.spawn();
            pause(Duration::from_millis(random.u64(..150)));
            young.kill();
            early += 1;
        }
        let dead = now();
        daemon = gate.run();
        slowest = slowest.max(now() - dead);
        for (topic, value) in retained(port) {
            // It may be newer, but neither older than what was acknowledged, nor one that was never sent.
            let [acknowledged, _] = before.get(&topic).copied().unwrap_or_default();
            let [_, sent] = stage.retained.lock().expect("no client failed")[&topic];
            if value < acknowledged || value > sent {
                stage.fault(format!("round {round}: {topic} has {value}, not {acknowledged} to {sent}"));
            }
        }
    }
    stage.finish.store(true, SeqCst);
    let sent: BTreeMap<_, _> =
        publishers.into_iter().map(|p| p.join().expect("a publisher's thread")).collect();
    // All of it is acknowledged: it is on the disk.
    daemon.kill();
    daemon = gate.run();
    let total = || counts.iter().map(|count| count.load(SeqCst)).sum::<u64>();
    let mut heard = 0;
    wait_until("the subscribers to have heard everything", seconds(60), || {
        pause(Duration::from_millis(1500));
        std::mem::replace(&mut heard, total()) == total()
    });
    let status = gate.status()["broker"].clone();
    let logs: BTreeMap<_, _> = sent.keys().map(|name| (name.clone(), logged(&gate, name))).collect();
    stage.end.store(true, SeqCst);
    let mut all: Vec<_> = subscribers.into_iter().map(|s| s.join().expect("a subscriber's thread")).collect();
    let mut members = all.split_off(5);
    let mut faults = stage.faults();
    let last = retained(port);
    for (topic, [_, sent]) in stage.retained.lock().expect("no client failed").iter() {
        // Every fourth number was sent as an empty message.
        let expected = if sent.is_multiple_of(4) { None } else { Some(sent) };
        if last.get(topic) != expected {
            faults.push(format!("{topic} has {:?} in the end, not {expected:?}", last.get(topic)));
        }
    }
    let received: usize = all.iter().chain(&members).flat_map(|s| s.heard.values()).map(Vec::len).sum();
    let dups: u64 = all.iter().chain(&members).map(|s| s.dups).sum();
    all.iter().for_each(|s| faults.extend(judge(s, &sent, s.qos == 2)));
    // The group as a whole: each message of QoS 2 to one of its members.
    let mut group = members.remove(0);
    for (topic, numbers) in members.remove(0).heard {
        group.heard.entry(topic).or_default().extend(numbers);
    }
    group.heard.values_mut().for_each(|numbers| numbers.sort_unstable());
    let of_qos_2 = sent.iter().map(|(name, by_qos)| (name.clone(), [0, 0, by_qos[2]])).collect();
    faults.extend(judge(&group, &of_qos_2, true));
    // The log: all that was acknowledged, in its order, each once.
    for (name, log) in &logs {
        let all = sent[name][2];
        let there: BTreeSet<u64> = log.iter().copied().collect();
        let missing: Vec<u64> = (1..=all).filter(|n| !there.contains(n)).collect();
        let twice = log.len() - there.len();
        println!("the log has {} messages for {all} that {name} sent, {twice} more than once", log.len());
        if !missing.is_empty() || twice > 0 || !log.is_sorted() {
            faults.push(format!("the log of {name} lacks {missing:?}, has {twice} twice: {log:?}"));
        }
    }
    println!(
        "{kills} kills, {early} more at the start, and {restarts} restarts in {:.0} s: sent {sent:?}, {received} received, {dups} marked as repeats, \
         {} topics retained, dropped {dropped}; slowest start {slowest:.2} s; {status}",
        now() - began,
        last.len(),
    );
    assert_eq!(dropped, 0, "a queue was full: this run says nothing");
    assert!(faults.is_empty(), "seed {seed}:\n{}", faults.join("\n"));
    assert_eq!(status["persistence"], "ok");
    assert!(sent.values().all(|by_qos| by_qos[1] > rounds && by_qos[2] > rounds), "traffic flowed: {sent:?}");
    drop(daemon);
}
