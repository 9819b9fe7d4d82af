//! The local broker, seen by mosquitto's own clients in both protocol versions: retained values in full,
//! the topics of the public contract, users and rights, and clients that would kill a lesser broker.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value as Json;
use support::messages::readings;
use support::mosquitto::{publish, subscribe};
use support::process::Process;
use support::{Gate, Message, seconds, temporary, wait_for, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");
const VERSIONS: [&str; 2] = ["mqttv311", "mqttv5"];

/// Devices of ten points each on a simulated bus, polled at this interval.
fn simulated(devices: usize, interval: &str) -> String {
    let mut text = "[[bus]]\nname = \"sim\"\ndriver = \"sim\"\n".to_owned();
    for device in 0..devices {
        text += &format!("[[device]]\nname = \"d{device:03}\"\nbus = \"sim\"\ninterval = \"{interval}\"\n");
        for point in 0..10 {
            text += &format!(
                "[[device.point]]\nname = \"p{point}\"\nsignal = \"counter\"\nperiod = \"100ms\"\nunit = \"V\"\n"
            );
        }
    }
    text
}

fn started(home: &std::path::Path, devices: usize, interval: &str) -> (Gate, Process) {
    let gate = Gate::new(BINARY, home, "box", &simulated(devices, interval));
    let daemon = gate.run();
    wait_until("every point to have been read", seconds(20), || {
        let points = gate.status()["gateway"]["readings"].as_u64().unwrap_or(0);
        points >= devices as u64 * 10
    });
    (gate, daemon)
}

fn retained(messages: &[Message]) -> BTreeMap<String, Json> {
    messages.iter().filter(|m| m.retain).map(|m| (m.topic.clone(), m.json())).collect()
}

/// Subscribes in both versions and at both qualities at the same time, for so many seconds.
fn four_ways(port: u16, secs: u32) -> Vec<(String, String, Vec<Message>)> {
    let runs: Vec<_> = VERSIONS
        .into_iter()
        .flat_map(|version| ["0", "1"].map(|qos| (version, qos)))
        .map(|(version, qos)| {
            let args = ["-V", version, "-q", qos, "-t", "gw/+/data/#"];
            (version, qos, std::thread::spawn(move || subscribe(port, secs, &args).1))
        })
        .collect();
    runs.into_iter()
        .map(|(version, qos, run)| {
            let heard = run.join().expect("the subscriber's thread");
            assert!(heard.iter().all(|m| m.qos.to_string() == qos), "{version}: delivered at QoS {qos}");
            let (values, faults) = readings(&heard, "gw/box");
            assert_eq!(faults, [""; 0]);
            assert!(values.iter().all(|r| r.quality == "good"), "{version} QoS {qos}");
            (version.to_owned(), qos.to_owned(), heard)
        })
        .collect()
}

#[test]
fn retained_values_of_a_thousand_points_arrive_in_full_at_both_qualities_and_versions() {
    let home = temporary();
    let (gate, _daemon) = started(home.path(), 100, "1h");
    for (version, qos, heard) in four_ways(gate.broker, 3) {
        let kept: Vec<&Message> = heard.iter().filter(|m| m.retain).collect();
        let topics: BTreeSet<&str> = kept.iter().map(|m| m.topic.as_str()).collect();
        println!("{version} QoS {qos}: {} retained of {} topics", kept.len(), topics.len());
        assert_eq!((topics.len(), kept.len()), (1000, 1000), "{version} QoS {qos}: each once");
    }
}

#[test]
fn every_topic_arrives_first_as_retained_or_newer_while_a_thousand_points_change_each_second() {
    let home = temporary();
    let (gate, _daemon) = started(home.path(), 100, "1s");
    for (version, qos, heard) in four_ways(gate.broker, 6) {
        // What was replaced between the subscription and its turn comes as the live message that replaced it.
        let begun = heard.first().map_or(0.0, |m| m.at);
        let at_once = heard.iter().filter(|m| m.retain || m.at < begun + 0.5);
        let topics: BTreeSet<&str> = at_once.map(|m| m.topic.as_str()).collect();
        let retained = heard.iter().filter(|m| m.retain).count();
        let live = heard.len() - retained;
        println!("{version} QoS {qos}: {retained} retained, {live} live");
        assert_eq!(topics.len(), 1000, "{version} QoS {qos}: topics known at once");
        assert!(retained > 800, "{version} QoS {qos}: {retained} retained");
        assert!(live > 4500, "{version} QoS {qos}: {live} live values in 6 s");
    }
}

#[test]
fn status_and_meta_are_retained_with_the_keys_of_the_contract() {
    let home = temporary();
    let uplink = "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:9\"\n";
    let gate = Gate::new(BINARY, home.path(), "box", &format!("{uplink}{}", simulated(1, "1s")));
    let _daemon = gate.run();
    let wanted = [
        ("", "state version uptime_s boot_id epoch config_hash clock points readings_per_s rss_bytes"),
        ("/bus/sim", "state utilisation requests_per_s timeouts crc_errors exceptions reconnects overruns"),
        ("/device/d000", "state last_ok failures"),
        (
            "/uplink/cloud",
            "state since last_error queued_readings queued_bytes oldest_ts delivered declared_lost rate eta_s",
        ),
        ("/store", "bytes readings oldest_ts stored_seq dropped commits fsync_ms_p99 bytes_written"),
        ("/broker", ""),
    ];
    for version in VERSIONS {
        let last: BTreeMap<String, Json> = wait_for("all status topics to be retained", seconds(20), || {
            let heard = subscribe(
                gate.broker,
                2,
                &["-V", version, "-q", "1", "-t", "gw/box/status/#", "-t", "gw/box/status"],
            )
            .1;
            let kept = retained(&heard);
            wanted.iter().all(|(part, _)| kept.contains_key(&format!("gw/box/status{part}"))).then_some(kept)
        });
        for (part, keys) in wanted {
            let payload = &last[&format!("gw/box/status{part}")];
            let object = payload.as_object().unwrap_or_else(|| panic!("status{part}: {payload}"));
            for key in keys.split_whitespace() {
                assert!(object.contains_key(key), "status{part} has no `{key}`: {payload}");
            }
            let nested: Vec<&String> = object.iter().filter(|(_, v)| v.is_object()).map(|(k, _)| k).collect();
            assert!(nested.is_empty(), "status{part} is not flat: {nested:?}");
        }
        let heard = subscribe(gate.broker, 2, &["-V", version, "-t", "gw/box/meta/#"]).1;
        let metas = retained(&heard);
        assert_eq!(metas.len(), 10, "{metas:?}");
        let meta = &metas["gw/box/meta/d000/p0"];
        for key in ["unit", "type", "interval", "writable", "source", "description"] {
            assert!(meta.get(key).is_some(), "meta has no `{key}`: {meta}");
        }
        assert_eq!(meta["unit"], "V");
    }
    let status = gate.status();
    assert_eq!((&status["gateway"]["points"], &status["gateway"]["clock"]), (&10.into(), &"synced".into()));
}

/// A password file in mosquitto's own format, made by mosquitto's own tool, and an ACL file.
fn with_users(home: &std::path::Path) -> (Gate, Process) {
    let made = Command::new("mosquitto_passwd")
        .args(["-c", "-b", "passwd", "reader", "r-secret"])
        .current_dir(home)
        .status()
        .expect("mosquitto_passwd can be started");
    assert!(made.success());
    let added = Command::new("mosquitto_passwd")
        .args(["-b", "passwd", "operator", "o-secret"])
        .current_dir(home)
        .status()
        .expect("mosquitto_passwd can be started");
    assert!(added.success());
    let acl = "# who may what\nuser reader\ntopic read gw/#\n\nuser operator\ntopic readwrite gw/#\ntopic deny gw/box/meta/#\n\
               pattern write from/%u/#\npattern read from/%u/#\n";
    std::fs::write(home.join("acl"), acl).expect("the ACL can be written");
    let gate = Gate::new(BINARY, home, "box", &simulated(1, "1s"));
    gate.configure(&format!(
        "{}{}",
        gate.head("box", "password_file = \"passwd\"\nacl_file = \"acl\"\n"),
        simulated(1, "1s")
    ));
    let daemon = gate.run();
    (gate, daemon)
}

#[test]
fn only_users_with_the_right_password_come_in_and_do_what_the_acl_lets_them() {
    let home = temporary();
    let (gate, _daemon) = with_users(home.path());
    let port = gate.broker;
    for version in VERSIONS {
        let reader = ["-V", version, "-u", "reader", "-P", "r-secret"];
        let operator = ["-V", version, "-u", "operator", "-P", "o-secret"];
        let with =
            |user: &[&'static str], rest: &[&'static str]| -> Vec<&'static str> { [user, rest].concat() };
        let (wrong, heard, said) =
            subscribe(port, 3, &["-V", version, "-u", "reader", "-P", "guess", "-t", "gw/#"]);
        assert!(wrong != 0 && wrong != 27 && heard.is_empty(), "{version}: a wrong password: {wrong} {said}");
        assert!(!said.is_empty(), "{version}: and is told so");
        let (nobody, heard, said) = subscribe(port, 3, &["-V", version, "-t", "gw/#"]);
        assert!(
            nobody != 0 && nobody != 27 && heard.is_empty(),
            "{version}: without a name: {nobody} {said}"
        );

        let data = wait_for("the reader to read", seconds(10), || {
            let heard = subscribe(port, 2, &with(&reader, &["-t", "gw/box/data/#"])).1;
            (!heard.is_empty()).then_some(heard)
        });
        assert!(data.iter().all(|m| m.topic.starts_with("gw/box/data/")));

        // What the reader publishes reaches nobody; what the operator publishes does.
        let listener = std::thread::spawn({
            let args = with(
                &operator,
                &["-q", "1", "-t", "gw/note/#", "-t", "from/operator/#", "-t", "from/reader/#"],
            );
            move || subscribe(port, 4, &args)
        });
        wait_until("the listener to be there", seconds(5), || {
            gate.status()["broker"]["clients"].as_u64().unwrap_or(0) > 0
        });
        for _ in 0..5 {
            publish(port, &with(&reader, &["-q", "1", "-t", "gw/note/reader", "-m", "x"]));
            publish(port, &with(&operator, &["-q", "1", "-t", "gw/note/operator", "-m", "x"]));
            publish(port, &with(&operator, &["-q", "1", "-t", "from/operator/me", "-m", "x"]));
            publish(port, &with(&operator, &["-q", "1", "-t", "from/reader/me", "-m", "x"]));
            support::pause(std::time::Duration::from_millis(300));
        }
        let heard = listener.join().expect("the listener's thread").1;
        let topics: BTreeSet<&str> = heard.iter().map(|m| m.topic.as_str()).collect();
        assert_eq!(topics, BTreeSet::from(["from/operator/me", "gw/note/operator"]), "{version}");

        let meta = subscribe(port, 2, &with(&operator, &["-t", "gw/box/meta/#", "-t", "gw/#"])).1;
        let denied = meta.iter().filter(|m| m.topic.starts_with("gw/box/meta/")).count();
        assert_eq!(denied, 0, "{version}: a denied topic, even through a wider filter");
        assert!(!meta.is_empty(), "{version}: and the rest is heard");
    }
}

#[test]
fn clients_that_break_lesser_brokers_are_survived() {
    let home = temporary();
    let (gate, mut daemon) = started(home.path(), 10, "1s");
    let port = gate.broker;
    let alive = |after: &str| {
        let (_, heard, err) =
            subscribe(port, 3, &["-V", "mqttv311", "-q", "1", "-t", "gw/box/data/#", "-C", "100"]);
        let topics: BTreeSet<&str> = heard.iter().map(|m| m.topic.as_str()).collect();
        assert_eq!(topics.len(), 100, "after {after}: {err}");
    };
    // A topic that does not start with ASCII.
    assert!(publish(port, &["-q", "1", "-t", "温度/1", "-m", "21"]));
    alive("a topic beyond ASCII");
    // The sole member of a shared group goes with an unacknowledged message; then the group is written to.
    let shared =
        ["-V", "mqttv5", "-q", "1", "-c", "-i", "member", "-x", "60", "-t", "$share/g/work/#", "-C", "1"];
    let member = std::thread::spawn(move || subscribe(port, 3, &shared));
    support::pause(std::time::Duration::from_millis(500));
    for _ in 0..50 {
        publish(port, &["-q", "1", "-t", "work/x", "-m", "1"]);
    }
    let _ = member.join().expect("the member's thread");
    publish(port, &["-q", "1", "-t", "work/x", "-m", "2"]);
    alive("a shared group whose only member left");
    // The same odd client id twice.
    for _ in 0..2 {
        let _ = subscribe(port, 1, &["-i", "a/b+c#$d", "-t", "nothing"]);
    }
    alive("an odd client id, twice");
    // A version 5 publish with properties, retained, to version 3.1.1 subscribers.
    let poison = [
        "-V",
        "mqttv5",
        "-q",
        "1",
        "-r",
        "-t",
        "poison/pill",
        "-m",
        "x",
        "-D",
        "publish",
        "user-property",
        "a",
        "b",
    ];
    assert!(publish(port, &poison));
    let (_, heard, err) = subscribe(port, 3, &["-V", "mqttv311", "-q", "1", "-t", "poison/#", "-C", "1"]);
    assert_eq!(heard.len(), 1, "{err}");
    // Not retained and empty: what is retained stays. Retained and empty: it goes.
    assert!(publish(port, &["-q", "1", "-t", "poison/pill", "-n"]));
    let (_, heard, _) = subscribe(port, 2, &["-t", "poison/#", "-C", "1"]);
    assert_eq!(heard.len(), 1, "an empty publish that is not retained clears nothing");
    assert!(publish(port, &["-q", "1", "-r", "-t", "poison/pill", "-n"]));
    assert!(subscribe(port, 1, &["-t", "poison/#"]).1.is_empty(), "an empty retained one clears");
    // Bytes that are no MQTT at all, halves of packets, and silence.
    let mut silent = Vec::new();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x10\xff\xff\xff\xff",
        b"\x10\x80",
        b"",
        b"\x30\x05\x00\x00",
        &[0xFF; 4096],
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
        let _ = stream.write_all(bytes);
        silent.push(stream);
    }
    alive("nonsense and silence on six connections");
    // Nonsense is answered with a closed connection.
    silent[0].set_read_timeout(Some(seconds(5))).expect("a timeout can be set");
    let mut byte = [0];
    assert!(!matches!(silent[0].read(&mut byte), Ok(1)), "HTTP gets no answer");
    assert!(daemon.is_running());
    assert_eq!(gate.cli(&["status"]).code, 0, "{:?}", gate.cli(&["status"]));
}

#[test]
fn a_subscriber_that_does_not_read_costs_nobody_else_anything() {
    let home = temporary();
    let (gate, daemon) = started(home.path(), 100, "1s");
    let port = gate.broker;
    // CONNECT (3.1.1, clean, keep-alive 0, id "lazy"), SUBSCRIBE to everything at QoS 1; then never read again.
    let lazy: Arc<Vec<TcpStream>> = Arc::new(
        (0..10u8)
            .map(|n| {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
                let connect = [
                    0x10,
                    17,
                    0,
                    4,
                    b'M',
                    b'Q',
                    b'T',
                    b'T',
                    4,
                    2,
                    0,
                    0,
                    0,
                    5,
                    b'l',
                    b'a',
                    b'z',
                    b'y',
                    b'0' + n,
                ];
                stream.write_all(&connect).expect("written");
                stream.write_all(&[0x82, 6, 0, 1, 0, 1, b'#', 1]).expect("written");
                stream
            })
            .collect(),
    );
    let before = daemon.memory_kib().0;
    let (_, heard, err) = subscribe(port, 10, &["-V", "mqttv311", "-q", "0", "-t", "gw/box/data/#"]);
    let live = heard.iter().filter(|m| !m.retain).count();
    assert!(live > 8000, "{live} live values in 10 s beside ten lazy subscribers; {err}");
    let grown = daemon.memory_kib().0.saturating_sub(before);
    println!("{live} live values in 10 s; ten lazy subscribers cost {grown} KiB");
    assert!(grown < 64 * 1024, "ten lazy subscribers cost {grown} KiB");
    assert!(!lazy.is_empty());
}

#[test]
fn who_is_there_is_a_table_and_a_client_can_be_told_to_go() {
    let home = temporary();
    let gate = Gate::new(BINARY, home.path(), "box", "");
    gate.configure(&(gate.head("box", "engine = \"native\"\nsys_interval = \"1s\"") + &simulated(1, "1s")));
    let _daemon = gate.run();
    let panel = support::Observer::start(home.path(), gate.broker, "panel", &["gw/box/#", "$SYS/#"]);
    let figure = |name: &str| panel.last(&format!("$SYS/broker/{name}"));
    wait_until("figures of the broker", seconds(10), || {
        figure("clients/connected").is_some() && figure("load/messages/sent/1min").is_some()
    });
    assert_eq!(gate.status()["broker"]["engine"], "native");
    let shown = gate.cli(&["status", "--clients"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    let line = shown.out.lines().find(|line| line.starts_with("observer-panel")).expect("its line");
    assert!(line.contains("connected") && line.contains("127.0.0.1:"), "{line}");
    let row = |rows: &Json| rows.as_array()?.iter().find(|row| row["client"] == "observer-panel").cloned();
    let before = row(&gate.cli(&["status", "--clients", "--json"]).json()).expect("its row");
    assert!(before["messages_out"].as_u64() > Some(10), "{before}");
    let gone = gate.cli(&["kick", "observer-panel"]);
    assert_eq!((gone.code, gone.out.trim()), (0, "`observer-panel` disconnected"), "{gone:?}");
    let nobody = gate.cli(&["kick", "nobody"]);
    assert!(nobody.code == 1 && nobody.err.contains("status --clients"), "{nobody:?}");
    // It is gone, or back over another connection.
    wait_until("the connection to be gone", seconds(10), || {
        let now = row(&gate.cli(&["status", "--clients", "--json"]).json());
        now.is_some_and(|now| now["address"] != before["address"])
    });
}

/// Sets a password as a script would: one line of input.
fn set_password(home: &std::path::Path, user: &str, password: &str) -> (i32, String) {
    let mut child = Command::new(BINARY)
        .args(["passwd", "passwd", user])
        .current_dir(home)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    let mut input = child.stdin.take().expect("piped");
    // A name that is refused is refused before the password is read.
    let _ = writeln!(input, "{password}");
    drop(input);
    let done = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.code().unwrap_or(-1), said)
}

#[test]
fn users_that_fieldgate_sets_are_users_of_mosquitto_too() {
    let home = temporary();
    let file = home.path().join("passwd");
    // One of mosquitto's own goes before, and must stay.
    let made = Command::new("mosquitto_passwd")
        .args(["-c", "-b", "passwd", "theirs", "t-secret"])
        .current_dir(home.path())
        .status()
        .expect("mosquitto_passwd can be started");
    assert!(made.success());
    let (code, said) = set_password(home.path(), "ours", "first");
    assert!(code == 0 && said.contains("systemctl reload fieldgate"), "{said}");
    assert_eq!(set_password(home.path(), "ours", "o-secret").0, 0, "changed");
    assert_eq!(set_password(home.path(), "gone", "g-secret").0, 0);
    assert_eq!(set_password(home.path(), "a:b", "x").0, 64);
    assert_eq!(set_password(home.path(), "nobody", "").0, 1, "an empty password");
    let delete = |user: &str| {
        let run = Command::new(BINARY)
            .args(["passwd", "passwd", user, "--delete"])
            .current_dir(home.path())
            .output();
        run.expect("the binary can be started").status.code()
    };
    assert_eq!((delete("gone"), delete("gone")), (Some(0), Some(1)));
    let names: Vec<String> = std::fs::read_to_string(&file)
        .expect("the file")
        .lines()
        .map(|line| line.split(':').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(names, ["theirs", "ours"]);

    let port = support::free_port();
    std::fs::write(
        home.path().join("m.conf"),
        format!("listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {}\n", file.display()),
    )
    .expect("written");
    let mut mosquitto = Command::new("mosquitto");
    mosquitto.arg("-c").arg(home.path().join("m.conf"));
    let _mosquitto = Process::start(mosquitto, &home.path().join("m.log"));
    let lets_in =
        |user: &str, password: &str| publish(port, &["-u", user, "-P", password, "-t", "a", "-m", "b"]);
    wait_until("mosquitto to listen", seconds(10), || lets_in("theirs", "t-secret"));
    assert!(lets_in("ours", "o-secret"), "what we wrote is read by mosquitto");
    assert!(!lets_in("ours", "first") && !lets_in("gone", "g-secret"));
}
