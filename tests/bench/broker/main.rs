//! The local broker beside Debian's mosquitto: messages a second and what they cost, latency and memory, as tables.
//!
//! `cargo bench --bench broker`, or some of it: `-- rates`, `-- overlapping`, `-- keeping`, `-- latencies`, `-- polls`, `-- memory`; and of the rates
//! the rows whose title has what is said: `-- rates 1:50`. Each row is measured in turn with both engines of ours and with mosquitto, in
//! processes of their own, so that a busy machine is busy for all; processor time is counted, too, of which a busy machine takes nothing.
//! The load is closed: a publisher sends on when what it sent before has been delivered, so no broker has to drop anything
//! and none is measured by what it drops. A rate counts deliveries. `FIELDGATE_BINARY=…` measures another binary.
//! What is kept over a restart (`keeping`) has no rival there: mosquitto writes its sessions every half an hour.

mod client;
mod latencies;
mod memory;
mod polls;
mod rates;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::process::Process;
use support::{Gate, free_port, temporary, wait_until};

fn binary() -> String {
    std::env::var("FIELDGATE_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_fieldgate").to_owned())
}

/// Our configuration. A thousand clients of one address come as fast as they can: not what the limits are for.
fn broker(engine: &str, keeps: bool) -> String {
    format!(
        "engine = \"{engine}\"\nsys_interval = \"0s\"\npersistence = {keeps}\nmax_connections = 4000\n\
         max_connections_per_address = 4000\nmax_connect_rate = 0"
    )
}

/// A broker as a process of its own.
struct Running {
    port: u16,
    process: Process,
    _home: tempfile::TempDir,
}

impl Running {
    fn ours(engine: &str) -> Self {
        Self::ours_with(engine, true)
    }

    fn ours_with(engine: &str, keeps: bool) -> Self {
        let home = temporary();
        let gate = Gate::new(&binary(), home.path(), "bench", "");
        gate.configure(&gate.head("bench", &broker(engine, keeps)));
        let process = gate.run();
        Self { port: gate.broker, process, _home: home }
    }

    fn mosquitto() -> Self {
        Self::mosquitto_with("")
    }

    /// One copy of a message for each client, however many of its filters match.
    fn mosquitto_once() -> Self {
        Self::mosquitto_with("allow_duplicate_messages false\n")
    }

    fn mosquitto_with(more: &str) -> Self {
        let (home, port) = (temporary(), free_port());
        let config = home.path().join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\n\
             set_tcp_nodelay true\nlog_type none\nsys_interval 0\nuser root\n{more}"
        );
        std::fs::write(&config, text).expect("written");
        let mut command = Command::new("/usr/sbin/mosquitto");
        command.arg("-c").arg(&config).stdout(Stdio::null());
        let process = Process::start(command, &home.path().join("mosquitto.log"));
        wait_until("mosquitto to listen", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, process, _home: home }
    }

    fn all() -> [Self; 3] {
        [Self::ours("rumqttd"), Self::ours("native"), Self::mosquitto()]
    }

    fn proc(&self) -> PathBuf {
        Path::new("/proc").join(self.process.pid().to_string())
    }

    /// `VmRSS`, or a part of it: what is the process's own, what is of files.
    fn mib(&self, part: &str) -> f64 {
        let status = std::fs::read_to_string(self.proc().join("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(part)?.strip_prefix(':'));
        let kib: f64 = line.expect("Linux says it").trim().trim_end_matches(" kB").parse().expect("a number");
        kib / 1024.0
    }

    /// Processor time of all its threads, to the nanosecond.
    fn processor_s(&self) -> f64 {
        let threads = std::fs::read_dir(self.proc().join("task")).expect("it runs");
        let of = |thread: std::io::Result<std::fs::DirEntry>| {
            let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        };
        threads.filter_map(of).sum::<f64>() / 1e9
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let said = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let (rows, chosen): (Vec<_>, Vec<_>) = said.partition(|arg| arg.contains([':', ' ']));
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|wanted| wanted == name);
    if wanted("rates") {
        rates::rates(&runtime, &rows);
    }
    if wanted("overlapping") {
        rates::overlapping(&runtime);
    }
    if wanted("keeping") {
        rates::keeping(&runtime);
    }
    if wanted("latencies") {
        latencies::latencies(&runtime);
    }
    if wanted("polls") {
        polls::polls(&runtime);
    }
    if wanted("memory") {
        memory::memory(&runtime);
    }
}
