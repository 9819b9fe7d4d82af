//! The whole daemon killed (`kill -9`) at random moments: while it starts, reads, commits, drains, purges, and takes
//! over a log of an earlier version. What the cloud heard in the end is held against what was taken: every number
//! arrived or is declared, nothing that was stored is lost, nothing is wrong.
//!
//! 200 kills; `FIELDGATE_KILLS=5000 cargo test --release --test kills -- --nocapture` for more, `FIELDGATE_SEED` to
//! repeat a run's moments.

use std::collections::BTreeMap;
use std::time::Duration;

use support::judge::{contradictions, held_against, judge, unaccounted};
use support::messages::{losses, readings};
use support::plant::{Line, config, plant};
use support::process::{Process, Signal};
use support::{Gate, Mosquitto, Observer, Plant, Proxy, now, pause, seconds, temporary, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Makes the log one of schema 1 again (its blocks do not matter: those of version 2 are read all the same), so that
/// the next start is an upgrade.
fn age(gate: &Gate) {
    let Ok(db) = rusqlite::Connection::open(gate.home().join("store/fieldgate.db")) else { return };
    // A daemon killed before it made its tables leaves none.
    let _ = db.execute_batch("DROP TABLE IF EXISTS thin; PRAGMA user_version=1");
}

/// The epoch, and the highest number of it that is stored by the gateway's word, if it answers. (A number below the
/// epoch's first is a settled one of an earlier epoch.)
fn stored(gate: &Gate) -> Option<(String, u64)> {
    let answer = gate.cli(&["status", "--json"]);
    let store = &answer.json()["store"];
    (answer.code != 2).then(|| Some((store["epoch"].as_str()?.to_owned(), store["stored_seq"].as_u64()?)))?
}

#[test]
fn hundreds_of_kills_lose_nothing_that_was_stored_and_declare_the_rest() {
    let (kills, seed) =
        (number("FIELDGATE_KILLS", 200), number("FIELDGATE_SEED", u64::from(std::process::id())));
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let proxy = Proxy::start(cloud.port());
    let lines = [Line { name: "plc", units: 1..=2, points: 10, link: None }];
    let field = Plant::start(home.path(), &plant(&lines));
    let uplink = format!("[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{}\"\n", proxy.port());
    let buses = config(&field, &lines).replace("interval = \"1s\"", "interval = \"100ms\"");
    let head = |buses: &str| format!("{uplink}{buses}");
    let gate = Gate::new(BINARY, home.path(), "box", &head(&buses));
    let local = {
        let _first = gate.run();
        Observer::start(home.path(), gate.broker, "local", &["gw/box/data/#"])
    };

    let began = now();
    let mut what: BTreeMap<&str, u64> = BTreeMap::new();
    // Numbers of which the gateway said that they were stored, just before it was killed.
    let mut vouched = Vec::new();
    for _ in 0..kills {
        if random.u8(..) < 50 {
            age(&gate);
            *what.entry("upgrades").or_default() += 1;
        }
        let mut daemon = gate.spawn();
        match random.u8(..5) {
            0 => {
                *what.entry("while it starts").or_default() += 1;
                pause(Duration::from_millis(random.u64(..60)));
            }
            1 => {
                gate.ready(&mut daemon);
                *what.entry("while it purges").or_default() += 1;
                let mut command = gate.command();
                command.args(["queue", "purge", "--uplink", "cloud", "--yes", "--config"]).arg(gate.config());
                let purge = Process::start(command, &home.path().join("purge.log"));
                pause(Duration::from_millis(random.u64(..40)));
                daemon.kill();
                drop(purge);
            }
            2 => {
                gate.ready(&mut daemon);
                *what.entry("while the link breaks").or_default() += 1;
                proxy.cut();
                pause(Duration::from_millis(random.u64(..700)));
                proxy.heal();
            }
            3 => {
                gate.ready(&mut daemon);
                *what.entry("after it vouched").or_default() += 1;
                // Long enough for a commit of its own.
                pause(Duration::from_millis(random.u64(600..1200)));
                vouched.extend(stored(&gate));
            }
            _ => {
                gate.ready(&mut daemon);
                *what.entry("while it runs").or_default() += 1;
                pause(Duration::from_millis(random.u64(..900)));
            }
        }
        daemon.kill();
    }
    let dead = now();

    // Nothing comes in any more, and all that is owed goes out.
    gate.configure(&format!("{}{}", gate.head("box", ""), head("")));
    let mut daemon = gate.run();
    wait_until("everything is delivered", seconds(120), || gate.account("cloud").queued == 0);
    // Loss records go after the readings that wait before them.
    let mut heard = 0;
    wait_until("the observers to be done", seconds(30), || {
        pause(Duration::from_millis(500));
        std::mem::replace(&mut heard, observer.count()) == observer.count()
    });
    let account = gate.account("cloud");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);

    let (heard, odd) = readings(&observer.messages(), "gw/box");
    let (declared, odd_losses) = losses(&observer.messages(), "gw/box");
    let (seen, odd_local) = readings(&local.messages(), "gw/box");
    let mut verdict = judge(&heard, &declared, false);
    verdict.faults.extend(odd.into_iter().chain(odd_losses).chain(odd_local));
    verdict.faults.extend(contradictions(&heard, &seen));
    verdict.faults.extend(unaccounted(&heard, &declared, &seen).into_iter().filter(|r| !r.contains("stale")));
    verdict.faults.extend(held_against(&field.served(), &heard, &[(0.0, f64::MAX)], 0.5).1);
    for loss in declared.iter().filter(|loss| loss.reason != "purged") {
        let told =
            |(epoch, seq): &&(String, u64)| *epoch == loss.epoch && (loss.seq.0..=loss.seq.1).contains(seq);
        if let Some((_, seq)) = vouched.iter().find(told) {
            verdict.faults.push(format!("{seq} was stored, and {loss:?}"));
        }
        if loss.reason != "unclean_start" {
            verdict.faults.push(format!("no such thing happened here: {loss:?}"));
        }
    }
    if !account.balances() {
        verdict.faults.push(format!("{account:?} does not balance"));
    }
    println!(
        "{kills} kills in {:.0} s {what:?}: {account:?}; heard {} of {} numbers, {} repeats, {} by history; \
         {} vouched for; {} different seen locally",
        dead - began,
        verdict.distinct,
        account.taken,
        verdict.repeats,
        verdict.history,
        vouched.len(),
        seen.len()
    );
    assert!(verdict.faults.is_empty(), "seed {seed}:\n{}", verdict.faults.join("\n"));
    assert!(verdict.distinct as u64 > kills * 3, "something was delivered at all");
    let heard_of = |(epoch, seq): &&(String, u64)| heard.iter().any(|r| r.epoch == *epoch && r.seq == *seq);
    let (of_an_epoch, lost) = (vouched.iter().filter(heard_of).count() as u64, account.lost);
    assert!(
        of_an_epoch * 20 >= kills && lost > 0,
        "they hit what they were meant to hit: {of_an_epoch}, {lost}"
    );
}
