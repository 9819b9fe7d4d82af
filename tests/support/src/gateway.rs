//! The binary under test: its configuration in a directory of its own, the daemon, and the commands.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value as Json;

use crate::process::Process;
use crate::time::{seconds, wait_for};

/// One gateway's place: `fieldgate.toml`, `store/`, `daemon.log`.
pub struct Gate {
    binary: PathBuf,
    home: PathBuf,
    /// Port of the local broker.
    pub broker: u16,
}

/// What a command said.
#[derive(Debug)]
pub struct Answer {
    /// Exit code, or minus the number of the signal that ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Answer {
    /// Standard output as JSON.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }
}

impl Gate {
    /// A gateway named `id` with the usual head (trusted clock, store and broker of its own) and `rest` as
    /// its configuration. `binary` is `env!("CARGO_BIN_EXE_fieldgate")`.
    ///
    /// # Panics
    /// If the files cannot be written.
    #[must_use]
    pub fn new(binary: &str, home: &Path, id: &str, rest: &str) -> Self {
        let gate = Self { binary: binary.into(), home: home.to_owned(), broker: crate::free_port() };
        gate.configure(&format!("{}{rest}", gate.head(id, "")));
        gate
    }

    /// The usual head of a configuration; `broker` are more lines of `[broker]`.
    #[must_use]
    pub fn head(&self, id: &str, broker: &str) -> String {
        format!(
            "[gateway]\nid = \"{id}\"\nclock = \"trusted\"\n\n[store]\npath = \"store\"\nmin_free = \"1MiB\"\n\n\
             [broker]\n{broker}\n[[broker.listener]]\nbind = \"127.0.0.1:{}\"\n\n",
            self.broker
        )
    }

    /// Writes the configuration.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn configure(&self, text: &str) {
        std::fs::write(self.config(), text).expect("the configuration can be written");
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.home.join("fieldgate.toml")
    }

    /// Its directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The daemon, not yet started, for a test that wants to change its environment.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("run").arg("--config").arg(self.config());
        command.current_dir(&self.home).env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC");
        command
    }

    /// Starts the daemon and returns at once. All starts append to one log.
    #[must_use]
    pub fn spawn(&self) -> Process {
        Process::start(self.command(), &self.home.join("daemon.log"))
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Panics
    /// If it ends, or does not answer within the 10 s of promise 9.
    #[must_use]
    pub fn run(&self) -> Process {
        let mut daemon = self.spawn();
        self.ready(&mut daemon);
        daemon
    }

    /// Waits until the daemon answers.
    ///
    /// # Panics
    /// As [`Self::run`].
    pub fn ready(&self, daemon: &mut Process) {
        wait_for("the daemon's first answer", seconds(10), || {
            assert!(daemon.is_running(), "the daemon ended");
            matches!(self.cli(&["status", "--json"]).code, 0 | 1).then_some(())
        });
    }

    /// Runs a command with this configuration.
    #[must_use]
    pub fn cli(&self, args: &[&str]) -> Answer {
        let config = self.config();
        let config = config.to_string_lossy();
        let all: Vec<&str> = args.iter().copied().chain(["--config", &config]).collect();
        self.bare(&all)
    }

    /// Runs a command as it stands.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn bare(&self, args: &[&str]) -> Answer {
        use std::os::unix::process::ExitStatusExt;
        let output = Command::new(&self.binary)
            .args(args)
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .output()
            .expect("the binary can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Answer {
            code: output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or(0)),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// What `status --json` says; `Null` when no daemon answers.
    #[must_use]
    pub fn status(&self) -> Json {
        let answer = self.cli(&["status", "--json"]);
        if matches!(answer.code, 0 | 1) { answer.json() } else { Json::Null }
    }

    /// The account of one uplink, from `queue show --json`.
    ///
    /// # Panics
    /// If the command fails or knows no such uplink.
    #[must_use]
    pub fn account(&self, uplink: &str) -> crate::judge::Account {
        let answer = self.cli(&["queue", "show", "--json"]);
        assert_eq!(answer.code, 0, "{answer:?}");
        let all = answer.json();
        let number =
            |key: &str| all[uplink][key].as_u64().unwrap_or_else(|| panic!("no {uplink}.{key}: {all}"));
        crate::judge::Account {
            taken: number("taken"),
            delivered: number("delivered"),
            queued: number("queued_readings"),
            lost: number("declared_lost"),
        }
    }
}
