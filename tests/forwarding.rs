//! From devices of the local broker to the cloud, with the real daemon between two real brokers: through an outage of
//! the link and a `kill -9` nothing that was acknowledged on site is lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use support::{Gate, Mosquitto, Observer, Proxy, seconds, temporary, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

/// Messages a device has unacknowledged at once.
const WINDOW: usize = 60;

/// A device on site: publishes with MQTT 3.1.1 and knows what was acknowledged.
struct Device {
    socket: TcpStream,
    input: Vec<u8>,
    /// Packet ids in flight, each with what it says.
    flying: VecDeque<(u16, Said)>,
    next: u16,
}

/// A message: topic, number, QoS.
type Said = (&'static str, u64, u8);

impl Device {
    fn connect(port: u16, id: &str) -> std::io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut device = Self { socket, input: Vec::new(), flying: VecDeque::new(), next: 1 };
        let name = [&(id.len() as u16).to_be_bytes(), id.as_bytes()].concat();
        device.send(0x10, &[b"\0\x04MQTT\x04\x02\0\x00", &name[..]].concat())?;
        let (first, _) = device.packet()?;
        assert_eq!(first, 0x20, "CONNACK");
        Ok(device)
    }

    fn send(&mut self, first: u8, body: &[u8]) -> std::io::Result<()> {
        let mut length = body.len();
        let mut packet = vec![first];
        loop {
            let low = (length & 0x7f) as u8;
            length >>= 7;
            packet.push(if length > 0 { low | 0x80 } else { low });
            if length == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        self.socket.write_all(&packet)
    }

    /// The next packet; all that come here are short.
    fn packet(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        loop {
            if self.input.len() >= 2 && self.input.len() >= 2 + usize::from(self.input[1]) {
                let end = 2 + usize::from(self.input[1]);
                let packet: Vec<u8> = self.input.drain(..end).collect();
                return Ok((packet[0], packet[2..].to_vec()));
            }
            let mut buffer = [0; 512];
            match self.socket.read(&mut buffer)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                n => self.input.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// Publishes, and takes acknowledgements into `acked` while too much is in flight.
    fn publish(&mut self, said: Said, retain: bool, acked: &mut BTreeSet<Said>) -> std::io::Result<()> {
        let (topic, number, qos) = said;
        let mut body = [&(topic.len() as u16).to_be_bytes(), topic.as_bytes()].concat();
        if qos > 0 {
            self.next = self.next.checked_add(1).unwrap_or(1);
            body.extend(self.next.to_be_bytes());
            self.flying.push_back((self.next, said));
        }
        body.extend(number.to_string().as_bytes());
        self.send(0x30 | qos << 1 | u8::from(retain), &body)?;
        self.settle(WINDOW, acked)
    }

    /// Waits until at most so many are in flight.
    fn settle(&mut self, most: usize, acked: &mut BTreeSet<Said>) -> std::io::Result<()> {
        while self.flying.len() > most {
            let (first, body) = self.packet()?;
            let id = u16::from_be_bytes([body[0], body[1]]);
            match first {
                // PUBREC: from here on the broker has it.
                0x50 => {
                    acked.insert(self.flying.iter().find(|(at, _)| *at == id).expect("in flight").1);
                    self.send(0x62, &id.to_be_bytes())?;
                }
                0x40 | 0x70 => {
                    let at = self.flying.iter().position(|(at, _)| *at == id).expect("in flight");
                    acked.extend(self.flying.remove(at).map(|(_, said)| said));
                }
                other => panic!("packet {other:#x}"),
            }
        }
        Ok(())
    }
}

const TOPICS: [&str; 3] = ["zigbee2mqtt/lamp", "zigbee2mqtt/door", "zigbee2mqtt/deep/er"];

fn config(port: u16) -> String {
    format!(
        "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\
         [[uplink.forward]]\nfilter = \"zigbee2mqtt/#\"\nto = \"sites/{{gateway}}/{{topic}}\"\n\
         [[uplink]]\nname = \"other\"\nurl = \"mqtt://127.0.0.1:{port}\"\nclient_id = \"other\"\ntopic_root = \"other\"\n"
    )
}

/// Publishes these numbers on all topics, from the first on that was not acknowledged; `false`: the daemon went away.
fn say(port: u16, numbers: std::ops::Range<u64>, acked: &mut BTreeSet<Said>) -> bool {
    let Ok(mut device) = Device::connect(port, "device") else { return false };
    for number in numbers {
        for (n, topic) in TOPICS.into_iter().enumerate() {
            let said = (topic, number, if n == 1 { 2 } else { 1 });
            if !acked.contains(&said) && device.publish(said, n == 0, acked).is_err() {
                return false;
            }
        }
    }
    device.settle(0, acked).is_ok()
}

#[test]
fn nothing_that_was_acknowledged_on_site_is_lost_through_an_outage_and_a_kill() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let link = Proxy::start(cloud.port());
    let gate = Gate::new(BINARY, home.path(), "box", &config(link.port()));
    let mut daemon = gate.run();
    let observer = Observer::start(home.path(), cloud.port(), "cloud", &["sites/#"]);
    let mut acked = BTreeSet::new();

    assert!(say(gate.broker, 0..40, &mut acked), "the link works");
    link.cut();
    assert!(say(gate.broker, 40..120, &mut acked), "the link is down, and nobody on site notices");
    // Killed in the middle of what the device says.
    let killing = std::thread::scope(|scope| {
        let before = acked.len();
        let device = scope.spawn(|| say(gate.broker, 120..100_000, &mut acked));
        let log = home.path().join("store");
        wait_until("some of it to be stored", seconds(20), || {
            std::fs::read_dir(&log).is_ok_and(|entries| entries.count() > 0)
                && gate.account("cloud").taken > 600
        });
        daemon.kill();
        (before, device.join().expect("it ends"))
    });
    assert!(!killing.1, "the device noticed");
    let said_before = acked.iter().map(|(_, number, _)| number + 1).max().expect("some");
    assert!(acked.len() > killing.0, "it was killed while messages were acknowledged");
    let mut daemon = gate.run();
    // What was not acknowledged is said again, and more than was ever in flight.
    assert!(say(gate.broker, 0..said_before + 100, &mut acked));
    link.heal();
    wait_until("everything to arrive", seconds(90), || gate.account("cloud").queued == 0);

    let mut heard: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let messages = observer.messages();
    for message in &messages {
        let topic = TOPICS.into_iter().find(|t| message.topic == format!("sites/box/{t}")).expect("a topic");
        let text = std::str::from_utf8(&message.payload).expect("digits");
        heard.entry(topic).or_default().push(text.parse().expect("a number"));
    }
    for (topic, number, _) in &acked {
        assert!(heard[topic].contains(number), "{number} of {topic} was acknowledged and is lost");
    }
    for (topic, numbers) in &heard {
        let mut seen = BTreeSet::new();
        let first: Vec<u64> = numbers.iter().copied().filter(|n| seen.insert(*n)).collect();
        assert!(first.is_sorted(), "{topic}: {first:?}");
        assert_eq!(numbers.last(), seen.last(), "the last word is the newest");
    }
    let account = gate.account("cloud");
    assert_eq!(account.taken, account.delivered + account.queued + account.lost, "{account:?}");
    let other = gate.account("other");
    assert_eq!((other.queued, other.delivered), (0, 0), "who does not forward is owed nothing: {other:?}");
    let kept = support::mosquitto::subscribe(cloud.port(), 5, &["-t", "sites/#", "-C", "1"]).1;
    let kept = kept.first().expect("one topic is retained");
    assert_eq!((kept.topic.as_str(), kept.retain), ("sites/box/zigbee2mqtt/lamp", true));
    assert_eq!(kept.payload, heard[TOPICS[0]].last().expect("some").to_string().as_bytes());
    daemon.kill();
}

#[test]
fn properties_arrive_and_what_has_qos_0_waits_in_the_log_as_well() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let link = Proxy::start(cloud.port());
    // The last of the forwards of `cloud`: into the tree that the gateway itself has there.
    let astray = "[[uplink.forward]]\nfilter = \"box/#\"\nto = \"gw/{topic}\"\n[[uplink]]\nname = \"other\"";
    let routes = config(link.port()).replace("[[uplink]]\nname = \"other\"", astray);
    let gate = Gate::new(BINARY, home.path(), "box", &routes);
    let _daemon = gate.run();
    let format = "%t|%r|%q|%C|%D|%F|%R|%P|%p";
    let mut sub = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &cloud.port().to_string(), "-V", "mqttv5", "-q", "2", "-W", "60"])
        .args(["-t", "sites/#", "-C", "3", "-F", format, "--retain-as-published"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("mosquitto_sub can be started");
    link.cut();
    let site = |args: &[&str]| support::mosquitto::publish(gate.broker, args);
    let rich = [
        "-V",
        "mqttv5",
        "-q",
        "1",
        "-r",
        "-t",
        "zigbee2mqtt/lamp",
        "-m",
        "on",
        "-D",
        "publish",
        "content-type",
        "text/plain",
        "-D",
        "publish",
        "correlation-data",
        "c7",
        "-D",
        "publish",
        "payload-format-indicator",
        "1",
        "-D",
        "publish",
        "response-topic",
        "answers",
        "-D",
        "publish",
        "user-property",
        "room",
        "hall",
    ];
    assert!(site(&["-q", "0", "-t", "zigbee2mqtt/door", "-m", "open"]));
    assert!(site(&rich));
    assert!(site(&["-V", "mqttv5", "-q", "2", "-t", "zigbee2mqtt/lamp", "-m", "off"]));
    let export = gate.cli(&["queue", "export", "--format", "jsonl", "--uplink", "cloud"]);
    let lines: Vec<serde_json::Value> =
        export.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let seen: Vec<_> = lines.iter().map(|l| (l["topic"].as_str(), l["payload"].as_str())).collect();
    let expected = [("zigbee2mqtt/door", "open"), ("zigbee2mqtt/lamp", "on"), ("zigbee2mqtt/lamp", "off")];
    assert_eq!(seen, expected.map(|(topic, payload)| (Some(topic), Some(payload))), "{export:?}");
    let csv = gate.cli(&["queue", "export"]).out;
    assert_eq!(csv.lines().count(), 1, "only the heading: {csv}");
    link.heal();
    let mut text = String::new();
    sub.stdout.take().expect("piped").read_to_string(&mut text).expect("it ends");
    assert!(sub.wait().expect("it ends").success(), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("sites/box/zigbee2mqtt/door|0|1||"), "{text}");
    let identity = |line: &str| {
        line.contains("fieldgate-via:box")
            && line.contains("epoch:")
            && line.contains("seq:")
            && line.contains("ts:")
    };
    assert!(
        lines[1].starts_with("sites/box/zigbee2mqtt/lamp|1|1|text/plain|c7|1|answers|epoch:")
            && lines[1].contains(" room:hall"),
        "{text}"
    );
    assert!(lines[1].ends_with("|on") && lines[2].ends_with("|off"), "{text}");
    assert!(lines.iter().all(|line| identity(line)), "{text}");
    wait_until("the counters", seconds(10), || gate.status()["uplink"]["cloud"]["forwarded"] == 3);
    assert_eq!(gate.status()["broker"]["forward_taken"], 3);
    assert!(site(&["-q", "1", "-t", "box/data/meter/v", "-m", "forged"]), "acknowledged, so counted");
    wait_until("the stray one", seconds(10), || gate.status()["uplink"]["cloud"]["forward_dropped"] == 1);
    assert_eq!(gate.status()["uplink"]["other"]["forward_dropped"], 0);
}

#[test]
fn a_forward_comes_and_goes_with_a_reload_and_a_stop_takes_along_what_was_handed_over() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let url = format!("[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{}\"\n", cloud.port());
    let forward = "[[uplink.forward]]\nfilter = \"z/#\"\nto = \"up/{topic}\"\n";
    let gate = Gate::new(BINARY, home.path(), "box", &url);
    let mut daemon = gate.run();
    let observer = Observer::start(home.path(), cloud.port(), "cloud", &["up/#"]);
    let site = |payload: &str, qos: &str| {
        support::mosquitto::publish(gate.broker, &["-q", qos, "-t", "z/a", "-m", payload])
    };
    assert!(site("before", "1"));
    gate.configure(&format!("{}{url}{forward}", gate.head("box", "")));
    daemon.signal(Signal::HUP);
    wait_until("the forward", seconds(20), || {
        site("with", "1") && gate.status()["broker"]["forward_taken"].as_u64() > Some(0)
    });
    wait_until("what is forwarded", seconds(20), || observer.last("up/z/a").is_some());
    assert!(observer.messages().iter().all(|m| m.payload == b"with"), "the one before was nobody's");
    // QoS 0 just before a stop in order: it is stored, and sent by the next start.
    let taken = || gate.status()["broker"]["forward_taken"].as_u64();
    let before = taken();
    assert!(site("last", "0"));
    wait_until("it to be taken", seconds(10), || taken() > before);
    daemon.signal(Signal::TERM);
    wait_until("the end", seconds(20), || !daemon.is_running());
    let mut daemon = gate.run();
    wait_until("the last one", seconds(20), || observer.last("up/z/a").is_some_and(|m| m.payload == b"last"));
    gate.configure(&format!("{}{url}", gate.head("box", "")));
    daemon.signal(Signal::HUP);
    let log = home.path().join("daemon.log");
    wait_until("the reload", seconds(20), || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.matches("uplink cloud changed").count() == 2)
    });
    let before = taken();
    assert!(site("after", "1"));
    assert_eq!(taken(), before);
    daemon.kill();
}

#[test]
fn two_gateways_in_a_circle_over_two_clouds_send_a_message_round_once() {
    let home = temporary();
    let (east, west) = (Mosquitto::start(home.path()), Mosquitto::start(home.path()));
    let uplink = |name: &str, port: u16, routes: &str| {
        format!("[[uplink]]\nname = \"{name}\"\nurl = \"mqtt://127.0.0.1:{port}\"\n{routes}")
    };
    let up = "[[uplink.forward]]\nfilter = \"ring/#\"\nto = \"{topic}\"\n";
    let down = "[[uplink.subscribe]]\nfilter = \"ring/#\"\nto = \"ring/{topic}\"\n";
    let ring = |id: &str, to: u16, from: u16| {
        let place = home.path().join(id);
        std::fs::create_dir(&place).expect("creates");
        Gate::new(BINARY, &place, id, &(uplink("to", to, up) + &uplink("from", from, down)))
    };
    let (a, b) = (ring("a", east.port(), west.port()), ring("b", west.port(), east.port()));
    let (_a, _b) = (a.run(), b.run());
    let connected =
        |gate: &Gate| ["to", "from"].iter().all(|u| gate.status()["uplink"][u]["state"] == "connected");
    wait_until("all connections", seconds(20), || connected(&a) && connected(&b));
    let seen = Observer::start(home.path(), east.port(), "east", &["ring/#"]);
    let back = Observer::start(home.path(), a.broker, "back", &["ring/#"]);
    // Both subscriptions work when something came all the way round.
    wait_until("it to come round", seconds(60), || {
        support::mosquitto::publish(a.broker, &["-q", "1", "-t", "ring/x", "-m", "try"])
            && came_round(&back, b"try")
    });
    assert!(support::mosquitto::publish(a.broker, &["-q", "1", "-t", "ring/x", "-m", "once"]));
    wait_until("it to come round again", seconds(30), || came_round(&back, b"once"));
    // What is said afterwards goes up afterwards: had it gone round twice, it would be before this.
    assert!(support::mosquitto::publish(a.broker, &["-q", "1", "-t", "ring/y", "-m", "end"]));
    wait_until("the end", seconds(30), || seen.last("ring/y").is_some());
    assert_eq!(seen.messages().iter().filter(|m| m.payload == b"once").count(), 1, "it went up once");
}

/// Heard as it was said on site, and as it came back.
fn came_round(back: &Observer, payload: &[u8]) -> bool {
    back.messages().iter().filter(|m| m.payload == payload).count() > 1
}
