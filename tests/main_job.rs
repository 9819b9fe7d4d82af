//! The main job on real parts: pymodbus in the field, Debian's mosquitto as the cloud, a link that breaks
//! and a daemon that is killed while it is broken. An outside ledger, which knows every value the field
//! served and every message the cloud heard, says whether the promises were kept.
//!
//! The outages last as long as `FIELDGATE_FULL=1` asks for (60 s of 1000 points), or a third of that.

use std::time::Duration;

use support::judge::{contradictions, held_against, unaccounted};
use support::messages::{losses, readings};
use support::plant::{Line, config, plant};
use support::process::Signal;
use support::{Gate, Lane, Message, Mosquitto, Observer, Plant, Proxy, Reading, Verdict};
use support::{judge, now, pause, seconds, temporary, wait_until};

/// The binary under test: cargo's own, or, to measure the one that is shipped, that of `FIELDGATE_BINARY`.
fn binary() -> String {
    std::env::var("FIELDGATE_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_fieldgate").to_owned())
}
/// Most that may be lost with the process: `commit_interval` of 500 ms, and an fsync of a slow disk.
const UNCOMMITTED: f64 = 1.5;
/// Between the sampling in the device and the gateway's stamp lies one exchange.
const EXCHANGE: f64 = 1.0;

fn full() -> bool {
    std::env::var_os("FIELDGATE_FULL").is_some_and(|v| v == "1")
}

/// How the link breaks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Break {
    /// With RST.
    Cut,
    /// Into a black hole.
    Swallow,
    /// Into a black hole, then with RST; the cloud's broker dies meanwhile and has forgotten every session and message.
    Forget,
}

struct Story<'a> {
    lines: &'a [Line<'a>],
    /// Uplinks in TOML; `{port}` is the proxy's.
    uplinks: &'a str,
    broken: Break,
    outage: Duration,
    /// When the daemon is killed, after the link broke.
    killed_after: Duration,
}

/// What a story left behind.
struct Books {
    cloud: Vec<Message>,
    local: Vec<Message>,
    plant: Plant,
    gate: Gate,
    broken: (f64, f64),
    /// From the kill to the first answer of the next daemon.
    dead: (f64, f64),
    /// From the last signal to the end.
    stopped: (f64, f64),
    _home: tempfile::TempDir,
}

/// Lives the story: it runs, the link breaks, the daemon is killed and comes back, the link heals, all drains.
fn live(story: &Story<'_>) -> Books {
    let home = temporary();
    let mut cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let proxy = Proxy::start(cloud.port());
    let field = Plant::start(home.path(), &plant(story.lines));
    let points: u64 = story.lines.iter().map(|l| l.points * l.units.clone().count() as u64).sum();
    let uplinks = story.uplinks.replace("{port}", &proxy.port().to_string());
    let gate =
        Gate::new(&binary(), home.path(), "box", &format!("{uplinks}\n{}", config(&field, story.lines)));
    let names: Vec<String> = gate_uplinks(&uplinks);

    let started = now();
    let mut daemon = gate.run();
    let local = Observer::start(home.path(), gate.broker, "local", &["gw/box/data/#"]);
    wait_until("five seconds of delivery", seconds(30), || observer.count() > batches(&uplinks, points) * 5);

    let broke = now();
    match story.broken {
        Break::Cut => proxy.cut(),
        Break::Swallow => proxy.swallow(),
        Break::Forget => {
            // First silence, so that there is something on its way when the broker dies.
            proxy.swallow();
            pause(seconds(2));
            proxy.cut();
        }
    }
    pause(story.killed_after);
    let (first_cpu, first_memory) = (daemon.cpu_s(), daemon.memory_kib());
    // Right after something was read, before it can be committed: the worst moment.
    let read = field.size();
    wait_until("the next poll", seconds(3), || field.size() > read);
    pause(Duration::from_millis(40));
    let killed = now();
    daemon.kill();
    let mut daemon = gate.run();
    let back = now();
    if story.broken == Break::Forget {
        cloud.forget();
        // What the gateway has not sent yet cannot get past the observer.
        observer.listens(cloud.port());
    }
    pause(story.outage.saturating_sub(Duration::from_secs_f64(back - broke)));
    let at_worst: Vec<_> = names.iter().map(|name| gate.account(name)).collect();
    proxy.heal();
    let healed = now();
    wait_until("the backlog to drain", story.outage + seconds(60), || {
        names.iter().all(|name| gate.account(name).queued < points * 3)
    });
    let drained = now();
    // What is taken from six seconds after the healing on is judged below, and a second of it must be there even
    // where the uplink came back in the same moment.
    pause(seconds(5).max(Duration::from_secs_f64((healed + 9.0 - drained).max(0.0))));
    let (cpu, memory) = (first_cpu + daemon.cpu_s(), daemon.memory_kib());
    let stopping = now();
    daemon.signal(Signal::TERM);
    let code = daemon.wait(seconds(25));
    let stopped = now();
    assert_eq!(code, 0, "a stop with a healthy link and nothing behind ends well");
    // The observer has its messages from mosquitto, not from the gateway: it may be a little behind.
    let mut heard = 0;
    wait_until("the observers to be done", seconds(20), || {
        pause(Duration::from_millis(300));
        std::mem::replace(&mut heard, observer.count()) == observer.count()
    });
    println!(
        "{points} points at 1 Hz; the link broken ({:?}) for {:.1} s, killed {:.1} s into it, back after {:.2} s; \
         queued at worst {:?}; drained in {:.1} s; stopped in {:.1} s",
        story.broken,
        healed - broke,
        killed - broke,
        back - killed,
        at_worst.iter().map(|a| a.queued).collect::<Vec<_>>(),
        drained - healed,
        stopped - stopping,
    );
    println!(
        "daemon: RSS {} KiB before the kill, {} KiB at the end (highest {}), {:.1} % of one core over {:.0} s",
        first_memory.0,
        memory.0,
        memory.1.max(first_memory.1),
        cpu / (stopping - started) * 100.0,
        stopping - started,
    );
    Books {
        cloud: observer.messages(),
        local: local.messages(),
        plant: field,
        gate,
        broken: (broke, healed),
        dead: (killed, back),
        stopped: (stopping, stopped),
        _home: home,
    }
}

fn gate_uplinks(text: &str) -> Vec<String> {
    let named = text.lines().filter_map(|line| line.strip_prefix("name = "));
    named.map(|name| name.trim().trim_matches('"').to_owned()).collect()
}

/// Messages a second that these uplinks make of so many points at 1 Hz, at least.
fn batches(uplinks: &str, points: u64) -> usize {
    if uplinks.contains("format = ") { 1 } else { usize::try_from(points).expect("a small plant") }
}

impl Books {
    /// Judges one uplink, whose readings are under `root`. Returns them and the verdict.
    fn judge(&self, uplink: &str, root: &str, strict: bool) -> (Vec<Reading>, Verdict) {
        let (mut heard, mut faults) = readings(&self.cloud, root);
        let (metrics, strange) = support::sparkplug::readings(&self.cloud, uplink);
        heard.extend(metrics);
        faults.extend(strange);
        let (declared, strange) = losses(&self.cloud, root);
        faults.extend(strange);
        let mut verdict = judge(&heard, &declared, strict);
        faults.append(&mut verdict.faults);

        let account = self.gate.account(uplink);
        if !account.balances() || account.queued != 0 {
            faults.push(format!("the account does not balance, or something is left: {account:?}"));
        }
        if account.delivered != verdict.distinct as u64 || account.lost != verdict.declared {
            faults.push(format!("the gateway says {account:?}, the cloud says {verdict:?}"));
        }
        let excuses = [(self.dead.0 - UNCOMMITTED, self.dead.0 + 0.2), (self.stopped.0, self.stopped.1)];
        let (excused, found) = held_against(&self.plant.served(), &heard, &excuses, EXCHANGE);
        faults.extend(found);
        let (local, strange) = readings(&self.local, "gw/box");
        faults.extend(strange);
        let twisted = contradictions(&heard, &local);
        if !twisted.is_empty() {
            faults.push(format!("{} triples mean two things: {}", twisted.len(), twisted[0]));
        }
        let silent = unaccounted(&heard, &declared, &local);
        if !silent.is_empty() {
            faults.push(format!(
                "{} readings were seen locally, and then nothing was said of them: {}",
                silent.len(),
                silent[0]
            ));
        }
        let served: usize = self.plant.served().values().map(Vec::len).sum();
        println!(
            "{uplink}: {served} values served, {} readings heard = {} different + {} repeats; {} first heard as history, \
             {} not good; {} declared lost; {excused} served but not stored around kill and stop; {account:?}; epochs {:?}",
            verdict.heard,
            verdict.distinct,
            verdict.repeats,
            verdict.history,
            verdict.not_good,
            verdict.declared,
            verdict.epochs,
        );
        assert!(faults.is_empty(), "{uplink}:\n{}", faults.join("\n"));
        (heard, verdict)
    }

    /// With `live-first`: what was taken while the link was broken came as history, and after it healed
    /// live readings did not wait behind the backlog.
    fn assert_lanes(&self, heard: &[Reading], points: usize, patience_s: f64) {
        let ts = |reading: &Reading| reading.ts_ms as f64 / 1e3;
        let meanwhile = (self.dead.1 + 2.0, self.broken.1 - 2.0);
        let of_the_outage = heard.iter().filter(|r| (meanwhile.0..meanwhile.1).contains(&ts(r)));
        let wrong = of_the_outage.clone().filter(|r| r.lane == Lane::Live).count();
        // Half a period at the least: between the restart and the end of a short outage not every device has its turn.
        assert!(of_the_outage.count() * 2 >= points, "the outage was long enough to say something");
        assert_eq!(wrong, 0, "readings of the outage that came as live ones");
        let after: Vec<&Reading> = heard.iter().filter(|r| ts(r) > self.broken.1 + 6.0).collect();
        let slow = after.iter().filter(|r| r.lane == Lane::Live && r.at - ts(r) > patience_s).count();
        let live = after.iter().filter(|r| r.lane == Lane::Live).count();
        println!("after the link healed: {} readings, {live} live, {slow} of them late", after.len());
        assert!(live > points, "live readings flow again");
        assert_eq!(slow, 0, "live readings that waited over {patience_s} s");
    }

    /// What is retained in the cloud after the daemon's end.
    fn assert_farewell(&self, root: &str) {
        let last = self.cloud.iter().rev().find(|m| m.topic == format!("{root}/status"));
        let state = last.map(|m| m.json()["state"].clone()).unwrap_or_default();
        assert_eq!(state, "offline", "the last word on {root}/status");
    }
}

fn line(name: &str, units: std::ops::RangeInclusive<u8>, points: u64) -> Line<'_> {
    Line { name, units, points, link: None }
}

#[test]
fn a_thousand_points_survive_a_broken_link_and_a_kill_inside_it() {
    let terminal = temporary();
    let rtu = Line { link: Some(terminal.path().join("rs485")), ..line("rs485", 1..=2, 50) };
    let lines = [rtu, line("plc1", 1..=3, 100), line("plc2", 1..=3, 100), line("plc3", 1..=3, 100)];
    let books = live(&Story {
        lines: &lines,
        uplinks: "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{port}\"\n",
        broken: Break::Cut,
        outage: seconds(if full() { 60 } else { 20 }),
        killed_after: seconds(if full() { 25 } else { 7 }),
    });
    let (heard, verdict) = books.judge("cloud", "gw/box", false);
    assert!(verdict.distinct > 20_000, "a thousand points ran at 1 Hz: {}", verdict.distinct);
    assert!(verdict.not_good * 100 < verdict.distinct, "the field was healthy: {}", verdict.not_good);
    books.assert_lanes(&heard, 1000, 4.0);
    books.assert_farewell("gw/box");
}

#[test]
fn batches_plain_packed_and_compact_over_mqtt_3_1_1_and_5_keep_the_same_promises() {
    let lines = [line("plc", 1..=2, 50)];
    let books = live(&Story {
        lines: &lines,
        uplinks: "[[uplink]]\nname = \"old\"\nurl = \"mqtt://127.0.0.1:{port}\"\nmqtt_version = \"3.1.1\"\n\
            client_id = \"box-old\"\nformat = \"json-batch\"\ntopic_root = \"old/{gateway}\"\n\
            batch = { max_readings = 70, max_delay = \"1s\" }\n\
            [[uplink]]\nname = \"packed\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\
            client_id = \"box-packed\"\nformat = \"json-batch\"\ncompression = \"zstd\"\ntopic_root = \"packed/{gateway}\"\n\
            [[uplink]]\nname = \"dense\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\
            client_id = \"box-dense\"\nformat = \"compact\"\ntopic_root = \"dense/{gateway}\"\n",
        broken: Break::Cut,
        outage: seconds(if full() { 60 } else { 10 }),
        killed_after: seconds(4),
    });
    for (uplink, root, patience) in
        [("old", "old/box", 4.0), ("packed", "packed/box", 8.0), ("dense", "dense/box", 8.0)]
    {
        let (heard, _) = books.judge(uplink, root, false);
        books.assert_lanes(&heard, 100, patience);
        books.assert_farewell(root);
        for (topic, whose) in [("batch/zst", "packed"), ("compact", "dense")] {
            let topic = format!("{root}/{topic}");
            assert_eq!(books.cloud.iter().any(|m| m.topic == topic), uplink == whose, "topics of {uplink}");
        }
    }
}

#[test]
fn an_edge_node_of_sparkplug_keeps_the_same_promises() {
    let books = live(&Story {
        lines: &[line("plc", 1..=2, 50)],
        uplinks: "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{port}\"\nformat = \"sparkplug-b\"\n\
            sparkplug = { group = \"cloud\" }\nbatch = { max_readings = 500, max_delay = \"1s\" }\n",
        broken: Break::Cut,
        outage: seconds(if full() { 60 } else { 10 }),
        killed_after: seconds(4),
    });
    let (heard, _) = books.judge("cloud", "gw/box", false);
    books.assert_lanes(&heard, 100, 4.0);
    books.assert_farewell("gw/box");
    let of =
        |kind: &str| books.cloud.iter().filter(|m| m.topic == format!("spBv1.0/cloud/{kind}/box")).count();
    // A login at the start, one after the kill, and deaths by the will and by the farewell.
    assert!(of("NBIRTH") >= 2 && of("NDEATH") >= 2, "{} births, {} deaths", of("NBIRTH"), of("NDEATH"));
}

#[test]
fn strict_order_over_mqtt_3_1_1_goes_on_where_it_stopped_oldest_first() {
    let books = live(&Story {
        lines: &[line("plc", 1..=2, 50)],
        uplinks: "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{port}\"\nmqtt_version = \"3.1.1\"\norder = \"strict\"\n",
        broken: Break::Cut,
        outage: seconds(if full() { 60 } else { 10 }),
        killed_after: seconds(5),
    });
    let (_, verdict) = books.judge("cloud", "gw/box", true);
    assert_eq!(verdict.history, 0);
}

#[test]
fn a_black_hole_is_noticed_and_what_it_swallowed_is_sent_again() {
    let books = live(&Story {
        lines: &[line("plc", 1..=2, 50)],
        uplinks: "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{port}\"\norder = \"strict\"\nkeep_alive = \"5s\"\n",
        broken: Break::Swallow,
        outage: seconds(if full() { 60 } else { 16 }),
        // Long enough for the keep-alive to speak first.
        killed_after: seconds(12),
    });
    books.judge("cloud", "gw/box", true);
}

#[test]
fn a_cloud_that_forgot_everything_gets_what_it_had_not_acknowledged() {
    let books = live(&Story {
        lines: &[line("plc", 1..=2, 50)],
        uplinks: "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{port}\"\n",
        broken: Break::Forget,
        outage: seconds(if full() { 60 } else { 10 }),
        killed_after: seconds(2),
    });
    books.judge("cloud", "gw/box", false);
    // And what is retained there is there again.
    let after = books.cloud.iter().filter(|m| m.at > books.broken.1);
    let metas = after.filter(|m| m.topic.starts_with("gw/box/meta/")).count();
    assert!(metas >= 100, "{metas} descriptions came again");
}

#[test]
#[ignore = "takes two minutes, for max_age is at least one"]
fn what_grew_too_old_is_declared_and_nothing_else_is_missing() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let proxy = Proxy::start(cloud.port());
    let lines = [line("plc", 1..=2, 50)];
    let field = Plant::start(home.path(), &plant(&lines));
    let gate = Gate::new(&binary(), home.path(), "box", "");
    let uplink = format!("[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{}\"\n", proxy.port());
    let head = gate.head("box", "").replace("[store]\n", "[store]\nmax_age = \"1m\"\n");
    gate.configure(&format!("{head}{uplink}{}", config(&field, &lines)));
    let mut daemon = gate.run();
    wait_until("readings in the cloud", seconds(10), || observer.count() > 200);
    proxy.cut();
    wait_until("readings to grow too old", seconds(120), || gate.account("cloud").lost >= 2000);
    let at_worst = gate.account("cloud");
    proxy.heal();
    wait_until("the queue to drain", seconds(60), || gate.account("cloud").queued < 300);
    pause(seconds(5));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let (heard, mut faults) = readings(&observer.messages(), "gw/box");
    let (declared, strange) = losses(&observer.messages(), "gw/box");
    faults.extend(strange);
    let verdict = judge(&heard, &declared, false);
    let account = gate.account("cloud");
    println!("at worst {at_worst:?}, at the end {account:?}; {declared:?}");
    assert_eq!((faults.len(), verdict.faults.len()), (0, 0), "{faults:?} {:?}", verdict.faults);
    assert!(declared.iter().all(|loss| loss.reason == "expired"), "{declared:?}");
    assert!(account.balances() && account.queued == 0, "{account:?}");
    let acknowledged = verdict.distinct - verdict.declared_but_heard;
    assert_eq!((account.delivered, account.lost), (acknowledged as u64, verdict.declared));
    let served: usize = field.served().values().map(Vec::len).sum();
    assert_eq!(account.taken, served as u64, "everything served was taken");
}
