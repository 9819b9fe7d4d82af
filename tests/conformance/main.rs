//! The local broker, statement by statement: MQTT 3.1.1 and 5.0 by the ids of their appendices B, what has no number, and 3.1.
//!
//! `v311`, `v5_packets` and `v5_behaviour` list every statement with the case that tries it, or why none does (`suite::Why`):
//! it binds clients only, it cannot be seen from outside, or it is about something this broker does not do. `unnumbered` has
//! rules without a number, and MQTT 3.1. A case is exact packets over a socket of its own; "nothing comes" is proven by a
//! message and a ping behind it. The same cases judge both engines here, and mosquitto beside them as a table:
//! `cargo test --test conformance -- --ignored --nocapture`.
//!
//! Known to fall short, outside the tables: names and filters have at most 64 levels (`Limits::levels`), where section 4.7.3
//! sets no limit. A name with more is refused with 0x90, and ends the connection of clients that know no refusal. What waits
//! for one client, and what is retained, is bounded (`Limits`): beyond it messages are dropped and counted, acknowledged as they are.

#![expect(clippy::unwrap_used, reason = "a bench of a test that fails is a failed test")]

mod client;
mod connect;
mod flow;
mod format;
mod publish;
mod qos;
mod rest;
mod retain;
mod session;
mod subscribe;
mod suite;
mod topics;
mod unnumbered;
mod v311;
mod v5_behaviour;
mod v5_packets;
mod will;
mod wire;

#[path = "../support/mosquitto.rs"]
#[expect(dead_code, reason = "only its broker is wanted here")]
mod mosquitto;

use std::collections::BTreeMap;
use std::path::Path;

use fieldgate::broker::{Broker, EngineChoice, Limits, Options, hash_password};
use fieldgate::config::model::{self, Listener, Transport};
use suite::{Places, Proof, Row, V, Verdict, Why};

/// All rows, in the order of the documents.
fn rows() -> Vec<&'static Row> {
    let all = [
        v311::ROWS,
        v5_packets::ROWS,
        v5_behaviour::ROWS,
        unnumbered::FOUR,
        unnumbered::FIVE,
        unnumbered::OLD,
    ];
    all.into_iter().flatten().collect()
}

const PASSWORDS: &str = "passwd";
const RIGHTS: &str = "user u\ntopic readwrite free/#\ntopic read look/#\n";

fn write_access(dir: &Path) {
    std::fs::write(dir.join(PASSWORDS), format!("u:{}\n", hash_password(b"p").unwrap())).unwrap();
    std::fs::write(dir.join("acl"), RIGHTS).unwrap();
}

/// Two brokers of ours, one of them guarded.
async fn ours(dir: &Path, engine: fn() -> EngineChoice) -> ([Broker; 2], Places) {
    let listen = |transport| Listener {
        bind: "127.0.0.1:0".parse().unwrap(),
        transport,
        tls: None,
        allow_anonymous: None,
        password_file: None,
        acl_file: None,
    };
    let start = |listener, guarded: bool| async move {
        let file = |name: &str| guarded.then(|| dir.join(name));
        let (password_file, acl_file) = (file(PASSWORDS), file("acl"));
        let config = model::Broker { listener, password_file, acl_file, ..model::Broker::default() };
        // All the cases are one crowd from one address.
        let limits = Limits { connections: 8192, per_address: 8192, connect_rate: 0, ..Limits::default() };
        Broker::start_with(&config, Options { engine: engine(), limits, ..Options::default() }).await.unwrap()
    };
    write_access(dir);
    let open = start(vec![listen(Transport::Tcp), listen(Transport::Websocket)], false).await;
    let guarded = start(vec![listen(Transport::Tcp)], true).await;
    let at = |broker: &Broker, n: usize| broker.addresses()[n].1;
    let places = Places { open: at(&open, 0), websocket: at(&open, 1), guarded: at(&guarded, 0) };
    ([open, guarded], places)
}

/// What our broker does in every row, and what it says of itself at the end.
async fn judged(engine: fn() -> EngineChoice) -> Vec<Verdict> {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, places) = ours(dir.path(), engine).await;
    let verdicts = suite::run(places, true, &rows()).await;
    for broker in brokers {
        let stats = broker.stats();
        assert_eq!((stats.panics, stats.engine_switches, stats.engine_gaps), (0, 0, 0));
    }
    verdicts
}

/// Whether a specification gives it a number, as in `3.1.2-24`.
fn numbered(row: &Row) -> bool {
    row.v != V::Old && row.id.contains('-') && !row.id.contains(' ')
}

fn name(row: &Row) -> String {
    if numbered(row) {
        format!("MQTT-{} of {}", row.id, row.v.name())
    } else {
        format!("MQTT {}, {}", row.v.name(), row.id)
    }
}

fn assert_none_fails(verdicts: &[Verdict]) {
    let failed: Vec<_> = rows()
        .iter()
        .zip(verdicts)
        .filter_map(|(row, verdict)| {
            Some(format!("{}: {}\n    {}", name(row), row.says, verdict.as_ref().err()?))
        })
        .collect();
    assert!(failed.is_empty(), "{} deviations\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_is_kept_with_rumqttd() {
    assert_none_fails(&judged(|| EngineChoice::Rumqttd).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_is_kept_with_the_native_engine() {
    assert_none_fails(&judged(|| EngineChoice::Native).await);
}

/// The tables hold every id of the specifications once, in their order.
#[test]
fn every_statement_is_covered_or_left_out_with_a_reason() {
    let five: Vec<_> = [v5_packets::SECTIONS, v5_behaviour::SECTIONS].concat();
    let five_rows: Vec<_> = v5_packets::ROWS.iter().chain(v5_behaviour::ROWS).collect();
    let four_rows: Vec<_> = v311::ROWS.iter().collect();
    for (sections, rows, all) in [(v311::SECTIONS, four_rows, 141), (&five, five_rows, 251)] {
        let ids = sections.iter().flat_map(|(section, n)| {
            // MQTT-2.2.1-1 of 5.0 was taken back before it was published.
            let from = if sections.len() > 50 && *section == "2.2.1" { 2 } else { 1 };
            (from..from + n).map(move |i| format!("{section}-{i}"))
        });
        let ids: Vec<String> = ids.collect();
        assert_eq!(ids.len(), all);
        assert_eq!(ids, rows.iter().map(|row| row.id).collect::<Vec<_>>());
        for row in rows {
            assert!(!row.says.is_empty());
            if let Proof::Left(_, why) = row.proof {
                assert!(!why.is_empty(), "{}", row.id);
            }
        }
    }
}

/// How many statements there are, tried and left out, by version.
fn totals() -> String {
    let mut count: BTreeMap<(V, bool), [usize; 4]> = BTreeMap::new();
    for row in rows() {
        let at = match row.proof {
            Proof::Case(_) => 0,
            Proof::Left(Why::Client, _) => 1,
            Proof::Left(Why::Unseen, _) => 2,
            Proof::Left(Why::Unused, _) => 3,
        };
        count.entry((row.v, !numbered(row))).or_default()[at] += 1;
    }
    let line = |((v, unnumbered), [tried, client, unseen, unused]): (&(V, bool), &[usize; 4])| {
        let what = if *unnumbered { "rules without a number" } else { "numbered statements" };
        let left = client + unseen + unused;
        format!(
            "MQTT {} {what}: {}, tried {tried}, left out {left} ({client} bind clients only, {unseen} cannot be seen, {unused} are about what is not there)\n",
            v.name(),
            tried + left
        )
    };
    count.iter().map(line).collect()
}

/// `cargo test --test conformance -- --ignored --nocapture`: the table. Only our columns can fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints a table"]
async fn beside_mosquitto() {
    let columns = ["rumqttd", "native", "mosquitto"];
    let ours = [judged(|| EngineChoice::Rumqttd).await, judged(|| EngineChoice::Native).await];
    let theirs = if mosquitto::installed() { of_mosquitto().await } else { vec![Ok(()); rows().len()] };
    let verdicts = [&ours[0], &ours[1], &theirs];

    let mut chapters: BTreeMap<(V, bool, u32), [usize; 4]> = BTreeMap::new();
    let mut failed = Vec::new();
    for (n, row) in rows().into_iter().enumerate() {
        if matches!(row.proof, Proof::Left(..)) {
            continue;
        }
        let numbered = numbered(row);
        let chapter = row.id.split('.').next().and_then(|c| c.parse().ok()).filter(|_| numbered).unwrap_or(0);
        let count = chapters.entry((row.v, !numbered, chapter)).or_default();
        count[0] += 1;
        for (column, verdicts) in verdicts.iter().enumerate() {
            match &verdicts[n] {
                Ok(()) => count[column + 1] += 1,
                Err(what) => failed.push(format!(
                    "{:<10} {}: {}\n           {what}",
                    columns[column],
                    name(row),
                    row.says
                )),
            }
        }
    }
    println!("left out");
    for row in rows() {
        if let Proof::Left(why, reason) = row.proof {
            let why = match why {
                Why::Client => "binds clients",
                Why::Unseen => "cannot be seen",
                Why::Unused => "not there",
            };
            println!("  {:<24} {}\n      {why}: {reason}", name(row), row.says);
        }
    }
    println!(
        "\n{}\n{}\n{:<30} {:>6} {:>9} {:>9} {:>9}",
        mosquitto_version(),
        totals(),
        "kept",
        "tried",
        columns[0],
        columns[1],
        columns[2]
    );
    let mut all = [0; 4];
    for ((v, unnumbered, chapter), count) in &chapters {
        let what = if *unnumbered { "without a number".to_owned() } else { format!("chapter {chapter}") };
        let what = format!("MQTT {} {what}", v.name());
        println!("{what:<30} {:>6} {:>9} {:>9} {:>9}", count[0], count[1], count[2], count[3]);
        all.iter_mut().zip(count).for_each(|(all, one)| *all += one);
    }
    println!(
        "{:<30} {:>6} {:>9} {:>9} {:>9}\n\n{}",
        "all",
        all[0],
        all[1],
        all[2],
        all[3],
        failed.join("\n")
    );
    ours.iter().for_each(|verdicts| assert_none_fails(verdicts));
}

/// Which mosquitto stands beside ours.
fn mosquitto_version() -> String {
    let help = std::process::Command::new("/usr/sbin/mosquitto").arg("-h").output();
    let text = help.map(|help| String::from_utf8_lossy(&help.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("no mosquitto").to_owned()
}

async fn of_mosquitto() -> Vec<Verdict> {
    let temporary = || tempfile::tempdir().unwrap();
    // This version starts no broker that has a WebSocket listener alone.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let second = format!("listener {port} 127.0.0.1\nprotocol websockets");
    let open = mosquitto::Mosquitto::start_with(temporary(), &second, "").await;
    let dir = temporary();
    write_access(dir.path());
    let files = "password_file {dir}/passwd\nacl_file {dir}/acl";
    let guarded = mosquitto::Mosquitto::start_with(dir, files, "").await;
    let at = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let places = Places { open: at(open.port), guarded: at(guarded.port), websocket: at(port) };
    for place in [places.open, places.guarded, places.websocket] {
        while tokio::net::TcpStream::connect(place).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
    suite::run(places, false, &rows()).await
}
