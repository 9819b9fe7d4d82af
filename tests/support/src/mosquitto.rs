//! Debian's mosquitto as the cloud, and its own clients as outside observers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::messages::{self, Message};
use crate::process::Process;
use crate::time::{seconds, wait_until};

/// A mosquitto of its own on a loopback port.
///
/// Its limit of messages in flight stays at the default of 20, which is what it grants the gateway too;
/// what waits for the observer is unlimited, so that the observer loses nothing.
pub struct Mosquitto {
    home: PathBuf,
    file: PathBuf,
    port: u16,
    process: Process,
}

impl Mosquitto {
    /// Starts one with its files in `home`.
    ///
    /// # Panics
    /// If it does not listen within 10 s.
    #[must_use]
    pub fn start(home: &Path) -> Self {
        let port = crate::free_port();
        let file = home.join(format!("mosquitto-{port}.conf"));
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n\
             log_dest stderr\nlog_type error\nlog_type warning\nlog_type notice\nuser root\n"
        );
        fs::write(&file, config).expect("the configuration can be written");
        let process = Self::listening(home, &file, port);
        Self { home: home.to_owned(), file, port, process }
    }

    fn listening(home: &Path, file: &Path, port: u16) -> Process {
        let mut command = Command::new("/usr/sbin/mosquitto");
        command.arg("-c").arg(file);
        let mut process = Process::start(command, &home.join(format!("mosquitto-{port}.log")));
        wait_until("mosquitto to listen", seconds(10), || {
            assert!(process.is_running(), "mosquitto ended: {}", process.output());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        process
    }

    /// Kills it and starts it again. It remembers nothing: no session, no message, no retained value.
    pub fn forget(&mut self) {
        self.process.kill();
        self.process = Self::listening(&self.home, &self.file, self.port);
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Writes down every message from now on.
    #[must_use]
    pub fn observe(&self) -> Observer {
        Observer::start(&self.home, self.port, "cloud", &["#"])
    }
}

/// A `mosquitto_sub` that writes every message down. It reconnects by itself if the broker goes away.
pub struct Observer {
    file: PathBuf,
    process: Process,
}

/// Where the observer hears of itself that it is listening.
const PROBE: &str = "observer/probe";

impl Observer {
    /// Subscribes at QoS 1 and waits until the subscription works.
    ///
    /// # Panics
    /// If it does not within 10 s.
    #[must_use]
    pub fn start(home: &Path, port: u16, name: &str, filters: &[&str]) -> Self {
        let file = home.join(format!("observer-{name}-{port}"));
        let mut command = Command::new("mosquitto_sub");
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &port.to_string(),
            "-V",
            "mqttv5",
            "-q",
            "1",
            "-c",
            "-x",
            "3600",
        ]);
        command.args(["-i", &format!("observer-{name}"), "-F", messages::FORMAT, "-t", PROBE]);
        for filter in filters {
            command.args(["-t", filter]);
        }
        let process = Process::start_with_output(command, &file, &home.join(format!("observer-{name}.log")));
        let observer = Self { file, process };
        observer.listens(port);
        observer
    }

    /// Waits until its subscription works (again).
    ///
    /// # Panics
    /// If it does not within 20 s.
    pub fn listens(&self, port: u16) {
        let before = self.count();
        wait_until("the observer to hear its probe", seconds(20), || {
            publish(port, &["-q", "1", "-t", PROBE, "-m", "?"]);
            self.count() > before
        });
    }

    /// Everything heard so far, in the order of arrival.
    ///
    /// # Panics
    /// If its file cannot be read.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        let text = fs::read_to_string(&self.file).expect("the observer's file");
        messages::parse(&text).into_iter().filter(|m| m.topic != PROBE).collect()
    }

    /// How many messages were heard so far, at the price of no parsing.
    #[must_use]
    pub fn count(&self) -> usize {
        fs::read(&self.file).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
    }

    /// The newest message of a topic.
    #[must_use]
    pub fn last(&self, topic: &str) -> Option<Message> {
        self.messages().into_iter().rev().find(|m| m.topic == topic)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}

/// `mosquitto_pub` to a broker on loopback; whether it ended well.
///
/// # Panics
/// If it cannot be started.
pub fn publish(port: u16, args: &[&str]) -> bool {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().expect("mosquitto_pub can be started").success()
}

/// `mosquitto_sub` for at most `secs` seconds: its exit code (27: the time was over) and what it heard.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn subscribe(port: u16, secs: u32, args: &[&str]) -> (i32, Vec<Message>, String) {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-W", &secs.to_string()]);
    command.args(["-F", messages::FORMAT]).args(args).stdin(Stdio::null());
    let output = command.output().expect("mosquitto_sub can be started");
    let heard = messages::parse(&String::from_utf8_lossy(&output.stdout));
    (output.status.code().unwrap_or(-1), heard, String::from_utf8_lossy(&output.stderr).into_owned())
}
