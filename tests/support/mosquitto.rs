//! Debian's mosquitto as the cloud, and `mosquitto_sub` as the outside witness.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::Instant;

const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// Whether the broker and its clients are installed. Tests that need them say so when they are not.
pub fn installed() -> bool {
    let there = Path::new(MOSQUITTO).exists() && Path::new("/usr/bin/mosquitto_sub").exists();
    if !there {
        eprintln!("skipped: mosquitto and mosquitto-clients are not installed");
    }
    there
}

/// A running broker; ends with the value.
pub struct Mosquitto {
    pub port: u16,
    pub dir: tempfile::TempDir,
    child: Child,
}

impl Mosquitto {
    /// Starts one on a free loopback port. `listener` are further lines of its listener, in which
    /// `{dir}` is its directory.
    pub async fn start(dir: tempfile::TempDir, listener: &str) -> Self {
        Self::start_with(dir, listener, "max_queued_messages 0").await
    }

    /// The same with `limits` of its own choice: none are its defaults.
    pub async fn start_with(dir: tempfile::TempDir, listener: &str, limits: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let path = dir.path().display().to_string();
        let text = format!(
            "user root\nper_listener_settings false\nlistener {port} 127.0.0.1\n{}\nallow_anonymous true\n{limits}\n",
            listener.replace("{dir}", &path)
        );
        let config = dir.path().join("mosquitto.conf");
        std::fs::write(&config, text).expect("a temporary directory");
        let child = Self::spawn(&config);
        let broker = Self { port, dir, child };
        broker.listens().await;
        broker
    }

    fn spawn(config: &Path) -> Child {
        Command::new(MOSQUITTO)
            .arg("-c")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("mosquitto is installed")
    }

    async fn listens(&self) {
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("mosquitto does not listen on {}", self.port);
    }

    /// Ends it in order (SIGTERM) and starts it again.
    pub async fn restart(&mut self) {
        let id =
            self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(id.expect("it runs"), rustix::process::Signal::TERM)
            .expect("it is ours");
        self.child.wait().await.expect("it ends");
        self.child = Self::spawn(&self.dir.path().join("mosquitto.conf"));
        self.listens().await;
    }

    /// Kills it and starts it again: it remembers nothing.
    pub async fn forget(&mut self) {
        self.child.kill().await.expect("it runs");
        self.child = Self::spawn(&self.dir.path().join("mosquitto.conf"));
        self.listens().await;
    }

    /// Publishes with QoS 1, and waits for the broker's answer.
    pub async fn publish(&self, topic: &str, payload: &str, retain: bool) {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-q", "1", "-t", topic, "-s"]);
        if retain {
            command.arg("-r");
        }
        let mut child =
            command.stdin(Stdio::piped()).kill_on_drop(true).spawn().expect("mosquitto_pub is installed");
        let mut input = child.stdin.take().expect("piped");
        input.write_all(payload.as_bytes()).await.expect("it listens");
        drop(input);
        assert!(child.wait().await.expect("it ends").success(), "published");
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// When what came: topics and payloads.
type Log = Arc<Mutex<Vec<(Instant, (String, Vec<u8>))>>>;

/// `mosquitto_sub` on `#`: everything that passed the broker, as topic and payload.
pub struct Witness {
    seen: Log,
    port: u16,
    _child: Child,
}

impl Witness {
    /// Subscribes with QoS 1 (this one's QoS 2 ends with a protocol error of its own under load) and waits until the
    /// subscription stands.
    pub async fn start(port: u16) -> Self {
        Self::with(port, &["-V", "5", "-t", "#"]).await
    }

    /// As [`Self::start`], with a session that outlives the broker.
    pub async fn start_kept(port: u16) -> Self {
        Self::with(port, &["-V", "5", "-t", "#", "-c", "-i", "witness", "-x", "3600"]).await
    }

    /// The same with other options; `witness/ready` must be among its topics.
    pub async fn with(port: u16, options: &[&str]) -> Self {
        let mut child = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-F", "%t %x"])
            .args(options)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("mosquitto_sub is installed");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let seen = Log::default();
        tokio::spawn({
            let seen = seen.clone();
            async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    let (topic, payload) = line.split_once(' ').unwrap_or((&line, ""));
                    let message = (topic.to_owned(), bytes_of(payload));
                    seen.lock().expect("not poisoned").push((Instant::now(), message));
                }
            }
        });
        let witness = Self { seen, port, _child: child };
        witness.ready().await;
        witness
    }

    /// Waits until its subscription stands, for the first time or again.
    pub async fn ready(&self) {
        let heard = || self.seen().iter().filter(|(topic, _)| topic == "witness/ready").count();
        let before = heard();
        for _ in 0..200 {
            // A fleet that still gathers may refuse it.
            let _refused = published(self.port, "witness/ready", "1").await;
            if heard() > before {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("mosquitto_sub sees nothing");
    }

    /// Waits until the broker has read what it was sent so far, this witness has what came of it, and the broker knows that.
    ///
    /// mosquitto takes one packet of each connection in turn: what lies in its sockets is read when as many packets of the
    /// markers' connection are.
    pub async fn caught_up(&self, port: u16) {
        const PACKETS: usize = 300; // more than any uplink has under way here
        static TURN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        // The answer to the first markers is before the second ones in its stream.
        for packets in [PACKETS, 1] {
            let turn = TURN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let topic = format!("witness/marker-{turn}");
            let mut command = Command::new("mosquitto_pub");
            command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", &topic, "-l"]);
            let mut child =
                command.stdin(Stdio::piped()).kill_on_drop(true).spawn().expect("mosquitto_pub is installed");
            let mut input = child.stdin.take().expect("piped");
            input.write_all("1\n".repeat(packets).as_bytes()).await.expect("it reads");
            drop(input);
            assert!(child.wait().await.expect("it ends").success(), "published");
            let mut turns = 0;
            while self.seen().iter().filter(|(seen, _)| *seen == topic).count() < packets {
                turns += 1;
                assert!(turns < 3000, "the markers never came");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    pub fn seen(&self) -> Vec<(String, Vec<u8>)> {
        self.timed().into_iter().map(|(_, message)| message).collect()
    }

    /// What came, with the time.
    pub fn timed(&self) -> Vec<(Instant, (String, Vec<u8>))> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2).map(|d| std::str::from_utf8(d).expect("ASCII"));
    digits.map(|d| u8::from_str_radix(d, 16).expect("hex")).collect()
}

/// `mosquitto_pub` of one message.
pub async fn publish(port: u16, topic: &str, payload: &str) {
    assert!(published(port, topic, payload).await);
}

async fn published(port: u16, topic: &str, payload: &str) -> bool {
    let status = Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-t", topic, "-m", payload])
        .status()
        .await
        .expect("mosquitto_pub is installed");
    status.success()
}

/// Logs in under somebody else's client id, for a moment.
pub async fn take_over(port: u16, client_id: &str) {
    let _timed_out = Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-i", client_id, "-t", "nothing", "-W", "1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .expect("mosquitto_sub is installed");
}
