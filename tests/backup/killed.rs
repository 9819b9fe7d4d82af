//! `kill -9` while a backup is restored, at random moments, with the real binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::judge::Account;
use support::process::{Process, Signal};
use support::{Gate, pause, seconds, temporary, wait_until};

use super::{BINARY, SIM, files, gate, is_same, matters, text};

/// Moments at which a restore is killed.
const ROUNDS: u32 = 40;

/// A configuration that was restored, or half of it.
struct Place<'a> {
    config: &'a Path,
    by: &'a Gate,
}

impl Place<'_> {
    /// The daemon starts with it, and ends in order.
    fn starts(&self, when: &str) {
        let home = self.config.parent().expect("a directory");
        let mut command = std::process::Command::new(BINARY);
        command.args(["run", "--config", text(self.config)]).current_dir(home);
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        let log = home.join("started.log");
        let mut daemon = Process::start(command, &log);
        wait_until(&format!("{when}: the daemon's first answer"), seconds(20), || {
            assert!(daemon.is_running(), "{when}: {}", fs::read_to_string(&log).unwrap_or_default());
            matches!(self.by.bare(&["status", "--json", "--config", text(self.config)]).code, 0 | 1)
        });
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait(seconds(25)), 0, "{when}");
    }

    fn account(&self) -> Account {
        let shown = self.by.bare(&["queue", "show", "--json", "--config", text(self.config)]);
        let cloud = &shown.json()["cloud"];
        let number = |key: &str| cloud[key].as_u64().unwrap_or_else(|| panic!("no {key}: {shown:?}"));
        Account {
            taken: number("taken"),
            delivered: number("delivered"),
            queued: number("queued_readings"),
            lost: number("declared_lost"),
        }
    }
}

/// `kill -9` while it is restored: what can start is the old or the new, nothing is gone, and the same command again
/// makes it the new one. Who starts the daemon instead gets the old or the new, whole, and an account that balances.
#[test]
fn killed_while_it_is_restored_the_next_start_or_the_next_restore_makes_it_whole() {
    let home = temporary();
    let old = gate(&home.path().join("old"), 9);
    fs::create_dir_all(old.home().join("conf.d")).expect("made");
    let more = |n: u32| {
        format!(
            "[[device]]\nname = \"more{n}\"\nbus = \"sim\"\ninterval = \"1s\"\n[[device.point]]\nname = \"x\"\nsignal = \"counter\"\nperiod = \"1s\"\n"
        )
    };
    for n in 0..5 {
        fs::write(old.home().join(format!("conf.d/more{n}.toml")), more(n)).expect("written");
    }
    let mut daemon = old.run();
    wait_until("readings in the queue", seconds(30), || old.account("cloud").queued >= 60);
    let file = home.path().join("box.fgbackup");
    assert_eq!(old.cli(&["backup", text(&file)]).code, 0);
    daemon.kill();

    // The box that it is restored on.
    let model = home.path().join("model");
    let other = Gate::new(
        BINARY,
        &{
            fs::create_dir_all(&model).expect("made");
            model.clone()
        },
        "other",
        SIM,
    );
    fs::create_dir_all(model.join("conf.d")).expect("made");
    fs::write(model.join("conf.d/own.toml"), more(9)).expect("written");
    let mut daemon = other.run();
    wait_until("readings of its own", seconds(30), || {
        other.status()["store"]["stored_seq"].as_u64() > Some(10)
    });
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let was = files(&model);
    let wanted: Vec<(PathBuf, Vec<u8>)> = ["fieldgate.toml", "cloud.password"]
        .into_iter()
        .map(str::to_owned)
        .chain((0..5).map(|n| format!("conf.d/more{n}.toml")))
        .map(|name| (PathBuf::from(&name), fs::read(old.home().join(&name)).expect("there")))
        .collect();

    let config_of = |files: &[(PathBuf, Vec<u8>)], root: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let read = |path: &Path| {
            let inside = path.strip_prefix(root).expect("inside").to_owned();
            let loaded =
                inside.extension().is_some_and(|e| e == "toml") || inside.ends_with("cloud.password");
            loaded.then_some(inside)
        };
        let mut all: Vec<_> = files.iter().filter_map(|(p, b)| Some((read(p)?, b.clone()))).collect();
        all.sort();
        all
    };
    let mut sorted = wanted.clone();
    sorted.sort();
    let (mut random, mut tally, mut started) = (fastrand::Rng::new(), [0u32; 3], [0u32; 2]);
    for round in 0..ROUNDS {
        let place = home.path().join(format!("place{round}"));
        for (path, bytes) in &was {
            let to = place.join(path.strip_prefix(&model).expect("inside"));
            fs::create_dir_all(to.parent().expect("a parent")).expect("made");
            fs::write(to, bytes).expect("written");
        }
        let config = place.join("fieldgate.toml");
        let mut command = std::process::Command::new(BINARY);
        command.args(["restore", text(&file), "--yes", "--config", text(&config)]);
        let mut restoring = Process::start(command, &home.path().join("restore.log"));
        let guard = place.join("conf.d/00-restore-unfinished.toml");
        if round % 4 == 0 {
            pause(Duration::from_micros(random.u64(..=u64::from(round) * 1500)));
        } else {
            // The moments that matter are few: from when the guard is raised to a little after it is gone.
            while restoring.is_running() && !guard.exists() {
                pause(Duration::from_micros(100));
            }
            pause(Duration::from_micros(random.u64(..if round % 2 == 0 { 50_000 } else { 3000 })));
        }
        restoring.kill();

        let now = files(&place);
        let there = config_of(&now, &place);
        let (before, guarded) = (config_of(&was, &model), guard.exists());
        let state = if guarded {
            2
        } else if there == before {
            0
        } else {
            1
        };
        tally[state] += 1;
        assert!(guarded || there == before || there == sorted, "round {round}: a mixture: {there:?}");
        let check = old.bare(&["check", "--config", text(&config)]);
        if !guarded {
            assert_eq!(check.code, 0, "{check:?}");
        } else {
            assert!(check.code == 78 && check.err.contains("fieldgate restore"), "{check:?}");
            let again = old.bare(&["backup", text(&home.path().join("half")), "--config", text(&config)]);
            assert!(again.code == 1 && again.err.contains("restore --finish"), "{again:?}");
        }
        let kept = |path: &Path, bytes: &[u8]| now.iter().any(|(_, there)| is_same(path, there, bytes));
        for (path, bytes) in was.iter().filter(|(path, _)| matters(path)) {
            assert!(kept(path, bytes), "round {round}: {} is gone", path.display());
        }

        if round % 3 == 1 {
            let gate = Place { config: &config, by: &old };
            gate.starts(&format!("round {round}"));
            let after = files(&place);
            let there = config_of(&after, &place);
            assert!(there == sorted || (there == before && !guarded), "round {round}: {there:?}");
            started[usize::from(guarded)] += 1;
            if there == sorted {
                let kept = |bytes: &[u8], path: &Path| after.iter().any(|(_, b)| is_same(path, b, bytes));
                let own = |path: &Path| matters(path) && !text(path).contains("broker.db");
                let gone =
                    was.iter().find(|(path, bytes)| own(path) && !kept(bytes, path)).map(|file| &file.0);
                assert!(gone.is_none(), "round {round}: {gone:?}");
                let account = gate.account();
                assert!(
                    account.balances() && account.queued >= 60 && account.lost > 0,
                    "round {round}: {account:?}"
                );
            }
            fs::remove_dir_all(&place).expect("removed");
            continue;
        }
        let finish = old.bare(&["restore", "--finish", "--config", text(&config)]);
        assert_eq!(finish.code, 0, "round {round}: {finish:?}");
        let finished = config_of(&files(&place), &place);
        assert!(!guard.exists() && finished == if guarded { sorted.clone() } else { there }, "round {round}");
        let again = old.bare(&["restore", text(&file), "--yes", "--config", text(&config)]);
        assert_eq!(again.code, 0, "round {round}: {again:?}");
        let after = files(&place);
        assert_eq!(config_of(&after, &place), sorted, "round {round}");
        assert!(!after.iter().any(|(path, _)| text(path).contains("/restoring/")), "{after:?}");
        let shown = old.bare(&["queue", "show", "--json", "--config", text(&config)]);
        assert!(shown.json()["cloud"]["queued_readings"].as_u64() >= Some(60), "round {round}: {shown:?}");
        for (path, bytes) in was.iter().filter(|(path, _)| matters(path)) {
            assert!(
                after.iter().any(|(_, there)| is_same(path, there, bytes)),
                "round {round}: {} is gone",
                path.display()
            );
        }
        fs::remove_dir_all(&place).expect("removed");
    }
    println!(
        "of {ROUNDS} kills: {} left the old, {} the new, {} the guard between them",
        tally[0], tally[1], tally[2]
    );
    println!("the daemon was started {} times on a whole one and {} times on a half", started[0], started[1]);
    assert!(
        tally[0] > 0 && tally[2] > 0 && started[1] > 0,
        "they hit what they were meant to hit: {tally:?}"
    );
}

/// Where nobody can know what is left to do, a person has to: the daemon stays out of it and says how.
#[test]
fn a_restore_that_cannot_be_finished_keeps_the_daemon_out_and_says_what_to_do() {
    let home = temporary();
    let gate = gate(&home.path().join("box"), 9);
    let guard = gate.home().join("conf.d/00-restore-unfinished.toml");
    fs::create_dir_all(gate.home().join("conf.d")).expect("made");
    // As an earlier version left it.
    fs::write(&guard, "restore_unfinished = \"run `fieldgate restore` again\"\n").expect("written");
    let refused = gate.cli(&["run"]);
    assert!(refused.code == 78 && refused.err.contains("again with the same file"), "{refused:?}");
    let refused = gate.cli(&["restore", "--finish"]);
    assert!(refused.code == 1 && refused.err.contains("again with the same file"), "{refused:?}");
    assert!(guard.exists() && !gate.home().join("store").exists(), "nothing was begun");
    fs::remove_file(&guard).expect("removed");
    let nothing = gate.cli(&["restore", "--finish"]);
    assert!(nothing.code == 0 && nothing.out.is_empty(), "{nothing:?}");
    let neither = gate.cli(&["restore"]);
    assert_eq!(neither.code, 64, "a file or --finish: {neither:?}");
}
