//! Configuration and queue as one file, with the real binary: made while the daemon runs and its cloud is down, restored on
//! another box, killed in the middle. What was queued arrives; nothing that was there before is gone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::judge::{contradictions, judge};
use support::messages::{losses, readings};
use support::process::{Process, Signal};
use support::{Gate, Mosquitto, Observer, pause, seconds, temporary, wait_until};

#[path = "backup/killed.rs"]
mod killed;

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

const SIM: &str = "[[bus]]\nname = \"sim\"\ndriver = \"sim\"\n\
    [[device]]\nname = \"tank\"\nbus = \"sim\"\ninterval = \"100ms\"\n\
    [[device.point]]\nname = \"level\"\nsignal = \"counter\"\nperiod = \"100ms\"\nunit = \"mm\"\n\
    [[device.point]]\nname = \"swing\"\nsignal = \"sine\"\nperiod = \"10s\"\n";

fn uplink(port: u16) -> String {
    format!(
        "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{port}\"\npassword_file = \"cloud.password\"\nusername = \"box\"\n"
    )
}

/// A gateway in a directory of its own, with an uplink to this port and a password.
fn gate(home: &Path, port: u16) -> Gate {
    fs::create_dir_all(home).expect("made");
    fs::write(home.join("cloud.password"), "secret\n").expect("written");
    Gate::new(BINARY, home, "box", &format!("{}{SIM}", uplink(port)))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Whether a file is the same. Opening a database counts in its header how often that was (bytes 24 and 92).
fn is_same(path: &Path, now: &[u8], then: &[u8]) -> bool {
    let counted = |at: usize| (24..28).contains(&at) || (92..96).contains(&at);
    let differ = || now.iter().zip(then).enumerate().any(|(at, (a, b))| a != b && !counted(at));
    now == then || (path.ends_with("store/fieldgate.db") && now.len() == then.len() && !differ())
}

/// The lock goes with what is there, and after an end in order there is nothing in the WAL.
fn matters(path: &Path) -> bool {
    !path.ends_with("store/lock") && !path.ends_with("store/fieldgate.db-wal")
}

/// Every file below a directory, with what is in it, but for what a running daemon writes.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).expect("lists").flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.is_file() {
                found.push((path.clone(), fs::read(&path).expect("reads")));
            }
        }
    }
    found.sort();
    found
}

/// The main use: a box dies while its cloud cannot be reached, and another one takes its place.
#[test]
fn what_waited_on_a_dead_box_arrives_from_the_one_that_replaces_it() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    // The cloud cannot be reached: nobody listens on port 9.
    let old = gate(&home.path().join("old"), 9);
    let mut daemon = old.run();
    let local = Observer::start(home.path(), old.broker, "local", &["gw/box/data/#"]);
    wait_until("readings in the queue", seconds(30), || old.account("cloud").queued >= 100);
    let file = home.path().join("box.fgbackup");
    let saved = old.account("cloud").queued;
    let made = old.cli(&["backup", text(&file)]);
    assert_eq!(made.code, 0, "{made:?}");
    assert!(made.out.contains("of box") && made.out.contains("passwords or keys"), "{made:?}");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    assert!(!home.path().join("box.fgbackup.tmp").exists());
    let at_most = old.account("cloud").queued;
    let twice = old.cli(&["backup", text(&file)]);
    assert!(twice.code == 1 && twice.err.contains("--force"), "{twice:?}");
    // It goes on for a while, and dies.
    wait_until("more readings", seconds(30), || old.account("cloud").queued >= at_most + 40);
    daemon.kill();
    let heard_there = readings(&local.messages(), "gw/box").0;
    assert!(heard_there.len() > 50, "{}", heard_there.len());

    // A new box, as it comes: with a configuration of its own, and a queue.
    let new = gate(&home.path().join("new"), 9);
    let text_new = fs::read_to_string(new.config()).expect("there");
    let mut daemon = new.run();
    wait_until("readings of its own", seconds(30), || new.account("cloud").queued >= 5);
    let running = new.cli(&["restore", text(&file), "--yes"]);
    assert!(running.code == 69 && running.err.contains("systemctl stop"), "{running:?}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let unasked = new.cli(&["restore", text(&file)]);
    assert!(unasked.code == 64 && unasked.err.contains("--yes"), "{unasked:?}");
    let since = new.cli(&["restore", text(&file), "--yes", "--nothing-since"]);
    assert!(since.code == 64 && since.err.contains("while its daemon ran"), "{since:?}");
    let before = files(new.home());
    let store = new.home().join("store");
    // Who owns the directory owns what comes into it, if a superuser restores.
    let owner = if fs::metadata("/proc/self").expect("there").uid() == 0 {
        65_534
    } else {
        fs::metadata(&store).expect("there").uid()
    };
    std::os::unix::fs::chown(&store, Some(owner), None).expect("given away");
    let done = new.cli(&["restore", text(&file), "--yes"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains("declared lost (rollback)") && done.out.contains("is set aside"), "{done:?}");
    for name in ["fieldgate.db", "mark", "lock"] {
        let meta = fs::metadata(store.join(name)).expect("there");
        assert_eq!(meta.uid(), owner, "{name}");
        assert!(name == "lock" || meta.mode() & 0o777 == 0o600, "{name}");
    }
    let password = fs::metadata(new.home().join("cloud.password")).expect("there");
    let of_old = fs::metadata(old.home().join("cloud.password")).expect("there");
    assert_eq!((password.mode(), password.uid()), (of_old.mode(), of_old.uid()));
    assert_eq!(fs::read(new.config()).expect("there"), fs::read(old.config()).expect("there"));
    // Nothing that was there is gone.
    let after = files(new.home());
    for (path, bytes) in &before {
        let kept = |(there, now): &&(PathBuf, Vec<u8>)| {
            text(there).starts_with(text(path)) && is_same(path, now, bytes)
        };
        assert!(!matters(path) || after.iter().any(|file| kept(&file)), "{} is gone", path.display());
    }
    assert!(
        !after.iter().any(|(path, _)| text(path).contains("restoring") || text(path).contains("unfinished"))
    );

    // The cloud is there again, and it starts under the old one's name.
    let config = fs::read_to_string(new.config()).expect("there");
    let config = config.replace(":9\"", &format!(":{}\"", cloud.port()));
    // Its broker has another port, as the old box's might be taken here.
    new.configure(&config.replace(&old.broker.to_string(), &new.broker.to_string()));
    assert!(text_new.contains(&new.broker.to_string()));
    let mut daemon = new.run();
    let heard = || readings(&observer.messages(), "gw/box");
    wait_until("everything that waited arrives", seconds(60), || {
        heard().0.iter().map(|r| &r.epoch).collect::<std::collections::BTreeSet<_>>().len() >= 2
            && new.account("cloud").queued < 30
    });
    wait_until("and the loss of what came after the backup", seconds(30), || {
        losses(&observer.messages(), "gw/box").0.iter().any(|loss| loss.reason == "rollback" && loss.bound)
    });
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    // Nothing comes in any more, and all that is owed goes out.
    let config = fs::read_to_string(new.config()).expect("there");
    new.configure(&config.replace(SIM, ""));
    let mut daemon = new.run();
    wait_until("everything is delivered", seconds(60), || new.account("cloud").queued == 0);
    let account = new.account("cloud");
    assert!(account.balances(), "{account:?}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    wait_until("the observer has all of it", seconds(20), || heard().0.len() as u64 >= account.delivered);

    let (heard, odd) = heard();
    let (declared, odd_losses) = losses(&observer.messages(), "gw/box");
    let mut verdict = judge(&heard, &declared, false);
    verdict.faults.extend(odd.into_iter().chain(odd_losses));
    // What the old box published on its own broker and what came from the new one under the same identity are the same.
    verdict.faults.extend(contradictions(&heard, &heard_there));
    assert!(verdict.faults.is_empty(), "{}", verdict.faults.join("\n"));
    let epoch = &heard_there[0].epoch;
    let of_old = heard.iter().filter(|r| r.epoch == *epoch).count() as u64;
    assert!(of_old >= saved && of_old >= 100, "{of_old} of {saved} that waited when the backup was made");

    // Somebody mends the old box, which knows nothing of all this.
    let config = fs::read_to_string(old.config()).expect("there");
    old.configure(&config.replace(":9\"", &format!(":{}\"", cloud.port())));
    let mut daemon = old.run();
    wait_until("what it had and something new arrive", seconds(60), || {
        let account = old.account("cloud");
        account.queued < 30 && account.delivered > at_most + 40
    });
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let all = readings(&observer.messages(), "gw/box").0;
    let twice = contradictions(&all, &all);
    assert!(twice.is_empty(), "an identity for two readings: {}", twice.join("\n"));
    let repeats = all.iter().filter(|r| r.epoch == *epoch).count() as u64 - of_old;
    assert!(repeats > 40, "what the new one had sent came again, and what only it had: {repeats}");
    let epochs: std::collections::BTreeSet<&String> = all.iter().map(|r| &r.epoch).collect();
    assert!(epochs.len() >= 3, "{epochs:?}");
}

#[test]
fn made_at_rest_it_goes_on_without_a_gap_where_nothing_came_since() {
    let home = temporary();
    let old = gate(&home.path().join("old"), 9);
    let mut daemon = old.run();
    wait_until("readings in the queue", seconds(30), || old.account("cloud").queued >= 30);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let account = old.account("cloud");
    let file = home.path().join("box.fgbackup");
    assert_eq!(old.cli(&["backup", text(&file)]).code, 0);
    assert_eq!(old.account("cloud"), account, "it only looks");

    let place = home.path().join("new");
    fs::create_dir_all(&place).expect("made");
    let config = place.join("fieldgate.toml");
    let restore = |more: &[&str]| {
        let all = [&["restore", text(&file), "--yes", "--config", text(&config)], more].concat();
        old.bare(&all)
    };
    let done = restore(&["--nothing-since"]);
    assert!(done.code == 0 && !done.out.contains("rollback"), "{done:?}");
    assert_eq!(fs::read_to_string(place.join("cloud.password")).expect("there"), "secret\n");
    let shown = old.bare(&["queue", "show", "--json", "--config", text(&config)]);
    assert_eq!(shown.json()["cloud"]["queued_readings"].as_u64(), Some(account.queued), "{shown:?}");
    // Under another name it would be another gateway's.
    let mine = home.path().join("mine");
    fs::create_dir_all(&mine).expect("made");
    let head = "[gateway]\nid = \"mine\"\n[store]\npath = \"data\"\nmin_free = \"1MiB\"\n";
    fs::write(mine.join("fieldgate.toml"), head).expect("written");
    let data = ["restore", text(&file), "--yes", "--data-only", "--config"];
    let data = old.bare(&[&data[..], &[text(&mine.join("fieldgate.toml"))]].concat());
    assert!(data.code == 0 && data.out.contains("would be sent on mine's topics"), "{data:?}");
    assert_eq!(fs::read_to_string(mine.join("fieldgate.toml")).expect("there"), head);
    assert!(mine.join("data/fieldgate.db").exists() && !mine.join("cloud.password").exists());
    // Again, of the configuration alone: all is there.
    let again = restore(&["--config-only"]);
    assert!(again.code == 0 && again.out.contains("as it was in the backup"), "{again:?}");
    // A file that the backup does not know goes aside; a changed one comes back.
    fs::create_dir_all(place.join("conf.d")).expect("made");
    fs::write(place.join("conf.d/more.toml"), "[store]\nmax_age = \"1d\"\n").expect("written");
    fs::write(place.join("cloud.password"), "changed").expect("written");
    let done = restore(&["--config-only"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(!place.join("conf.d/more.toml").exists());
    assert_eq!(fs::read_to_string(place.join("cloud.password")).expect("there"), "secret\n");
    let kept = files(&place);
    assert!(kept.iter().any(|(path, _)| text(path).contains("more.toml.before-restore-")));
    assert!(kept.iter().any(|(_, bytes)| bytes == b"changed"));
    // And it runs.
    let check = old.bare(&["check", "--config", text(&config)]);
    assert_eq!(check.code, 0, "{check:?}");
}

/// Somebody restores, looks at it for a while, and restores the same file again.
#[test]
fn restored_twice_on_the_same_box_every_number_is_one_reading_and_arrives_or_is_declared() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let gate = gate(&home.path().join("box"), 9);
    let mut daemon = gate.run();
    wait_until("readings in the queue", seconds(30), || gate.account("cloud").queued >= 60);
    let file = home.path().join("box.fgbackup");
    assert_eq!(gate.cli(&["backup", text(&file)]).code, 0);
    let saved = gate.account("cloud").queued;
    wait_until("more readings", seconds(30), || gate.account("cloud").queued >= saved + 20);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let heard = || readings(&observer.messages(), "gw/box");
    let mut after_a_kill = false;
    for killed in [true, false, false] {
        let done = gate.cli(&["restore", text(&file), "--yes"]);
        assert_eq!((done.code, done.out.contains("of at most")), (0, after_a_kill), "{done:?}");
        assert!(done.out.contains("what this box took after the backup goes"), "it is known: {done:?}");
        let config = fs::read_to_string(gate.config()).expect("there");
        gate.configure(&config.replace(":9\"", &format!(":{}\"", cloud.port())));
        let mut daemon = gate.run();
        let epoch = gate.status()["gateway"]["epoch"].as_str().expect("an epoch").to_owned();
        wait_until("readings of this life arrive", seconds(60), || {
            heard().0.iter().filter(|r| r.epoch == epoch).count() >= 20
        });
        if killed {
            daemon.kill();
        } else {
            daemon.signal(Signal::TERM);
            assert_eq!(daemon.wait(seconds(25)), 0);
        }
        after_a_kill = killed;
    }
    let config = fs::read_to_string(gate.config()).expect("there");
    gate.configure(&config.replace(SIM, ""));
    let mut daemon = gate.run();
    wait_until("everything is delivered", seconds(60), || gate.account("cloud").queued == 0);
    let account = gate.account("cloud");
    assert!(account.balances() && account.lost > 0, "{account:?}");
    let declared = || losses(&observer.messages(), "gw/box");
    wait_until("and declared", seconds(30), || {
        declared().0.iter().map(|loss| loss.count).sum::<u64>() >= account.lost
    });
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let ((heard, odd), (declared, odd_losses)) = (heard(), declared());
    let rollbacks: Vec<bool> = declared.iter().filter(|l| l.reason == "rollback").map(|l| l.bound).collect();
    // The last life may have delivered everything.
    assert!(rollbacks.starts_with(&[false, true]) && !rollbacks[2..].contains(&true), "{declared:?}");
    let mut verdict = judge(&heard, &declared, false);
    verdict.faults.extend(odd.into_iter().chain(odd_losses));
    verdict.faults.extend(contradictions(&heard, &heard));
    assert!(verdict.faults.is_empty(), "{}", verdict.faults.join("\n"));
    assert_eq!(heard.iter().map(|r| &r.epoch).collect::<std::collections::BTreeSet<_>>().len(), 4);
}

#[test]
fn of_a_configuration_with_a_mistake_it_says_so_and_by_whom_the_gateway_is_called() {
    let home = temporary();
    let gate = gate(&home.path().join("old"), 9);
    let mut daemon = gate.run();
    wait_until("readings in the queue", seconds(30), || gate.account("cloud").queued > 0);
    let broken = fs::read_to_string(gate.config()).expect("there").replacen("id = \"box\"", "id = 5", 1);
    fs::write(gate.config(), broken).expect("written");
    let file = home.path().join("box.fgbackup");
    let made = || gate.cli(&["backup", text(&file), "--force"]);
    let running = made();
    assert!(running.code == 0 && running.out.contains(" of box, "), "{running:?}");
    assert!(running.err.contains("has a mistake and cannot start as it is"), "{running:?}");
    assert!(running.err.contains("`box`, as the daemon that runs is called"), "{running:?}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let stopped = made();
    assert!(stopped.code == 0 && stopped.err.contains("`box`, as the queue says"), "{stopped:?}");
    fs::remove_file(gate.home().join("store/fieldgate.db")).expect("removed");
    let alone = gate.cli(&["backup", text(&file), "--force", "--config-only"]);
    assert!(alone.code == 0 && alone.err.contains("which is the host's name"), "{alone:?}");
}

#[test]
fn without_secrets_it_says_what_is_missing_and_damage_changes_nothing() {
    let home = temporary();
    let old = gate(&home.path().join("old"), 9);
    let file = home.path().join("box.fgbackup");
    let none = old.cli(&["backup", text(&file)]);
    assert!(none.code == 1 && none.err.contains("no queue") && !file.exists(), "{none:?}");
    let outside = home.path().join("outside.acl");
    fs::write(&outside, "topic read #\n").expect("written");
    fs::create_dir_all(old.home().join("conf.d")).expect("made");
    let names_it = format!("[broker]\nacl_file = \"{}\"\n", text(&outside));
    fs::write(old.home().join("conf.d/acl.toml"), names_it).expect("written");
    let made = old.cli(&["backup", text(&file), "--config-only", "--no-secrets"]);
    assert!(made.code == 0 && made.out.contains("cloud.password: left out"), "{made:?}");
    assert!(!made.out.contains("passwords or keys"), "{made:?}");
    let place = home.path().join("new");
    fs::create_dir_all(&place).expect("made");
    let config = place.join("fieldgate.toml");
    let restore = |file: &Path, more: &[&str]| {
        old.bare(&[&["restore", text(file), "--yes", "--config", text(&config)], more].concat())
    };
    let whole = fs::read(&file).expect("there");
    for keep in (0..whole.len()).step_by(97) {
        let bad = home.path().join("bad");
        fs::write(&bad, &whole[..keep]).expect("written");
        let refused = restore(&bad, &[]);
        assert!(refused.code == 1 && refused.err.contains("nothing was changed"), "{keep}: {refused:?}");
    }
    assert!(files(&place).is_empty(), "nothing was changed");
    let no_queue = restore(&file, &["--data-only"]);
    assert!(no_queue.code == 1 && no_queue.err.contains("no queue"), "{no_queue:?}");
    let done = restore(&file, &[]);
    assert!(
        done.code == 0 && done.out.contains("missing:") && done.out.contains("cloud.password"),
        "{done:?}"
    );
    assert!(done.out.contains("cannot start with the configuration"), "{done:?}");
    assert!(!done.out.contains("install -D"), "what is elsewhere is there, and the same: {done:?}");
    // What is elsewhere is never written there, whatever a file says.
    fs::remove_file(&outside).expect("removed");
    let done = restore(&file, &[]);
    assert!(done.code == 0 && done.out.contains("sudo install -D -m"), "{done:?}");
    assert!(!outside.exists());
    let beside = place.join("restored").join(outside.strip_prefix("/").expect("absolute"));
    assert_eq!(fs::read_to_string(beside).expect("beside the configuration"), "topic read #\n");
    // By a pipe.
    let piped = old.bare(&["backup", "-", "--config-only", "--config", text(&old.config())]);
    assert_eq!(piped.code, 0, "{}", piped.err);
}

/// `kill -9` while it is written: the old file or the new one, never half of one; and the daemon minds nothing.
#[test]
fn killed_while_it_is_made_there_is_the_old_file_or_the_new_one() {
    let home = temporary();
    let old = gate(&home.path().join("old"), 9);
    let mut daemon = old.run();
    wait_until("readings in the queue", seconds(30), || old.account("cloud").queued >= 50);
    let file = home.path().join("box.fgbackup");
    assert_eq!(old.cli(&["backup", text(&file)]).code, 0);
    let mut bytes = fs::read(&file).expect("there");
    let (mut random, mut changed) = (fastrand::Rng::new(), 0);
    let config = old.config();
    for _ in 0..40 {
        let mut command = std::process::Command::new(BINARY);
        command.args(["backup", text(&file), "--force", "--config", text(&config)]);
        let mut made = Process::start(command, &home.path().join("backup.log"));
        pause(Duration::from_millis(random.u64(..60)));
        made.kill();
        let now = fs::read(&file).expect("there");
        if now != bytes {
            changed += 1;
            let place = temporary();
            let target = place.path().join("fieldgate.toml");
            let done = old.bare(&["restore", text(&file), "--yes", "--config", text(&target)]);
            assert_eq!(done.code, 0, "a new one is whole: {done:?}");
            bytes = now;
        }
    }
    println!("{changed} of 40 were through before they were killed");
    assert!(daemon.is_running() && old.account("cloud").balances());
    assert_eq!(old.cli(&["backup", text(&file), "--force"]).code, 0, "and the next one is made");
    assert_eq!(
        fs::read_dir(home.path())
            .expect("lists")
            .flatten()
            .filter(|e| text(&e.path()).ends_with(".tmp"))
            .count(),
        0
    );
}
