//! Brokers that scale out, as Debian has them: NATS servers with JetStream, and RabbitMQ with its MQTT plugin. Each
//! cluster is of three nodes that know each other, and any of them can be killed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

const NATS: &str = "/usr/sbin/nats-server";
const NODES: usize = 3;

/// Whether a program is there; tests that need it say so when it is not.
pub fn installed(program: &str) -> bool {
    let there = Path::new(program).exists();
    if !there {
        eprintln!("skipped: {program} is not installed");
    }
    there
}

/// A running cluster; ends with the value.
pub struct Fleet {
    nodes: Vec<Child>,
    /// Where each node speaks MQTT.
    pub ports: Vec<u16>,
    dir: tempfile::TempDir,
    _names: Option<Child>,
}

impl Fleet {
    /// Three NATS servers; `None`, and it says so, if they are not installed.
    pub async fn nats() -> Option<Self> {
        if !installed(NATS) {
            return None;
        }
        let (dir, ports) = (tempfile::tempdir().expect("a directory"), free_ports(3 * NODES).await);
        let (mqtt, rest) = ports.split_at(NODES);
        let (clients, routes) = rest.split_at(NODES);
        let all: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut nodes = Vec::new();
        for n in 0..NODES {
            let store = dir.path().join(format!("store-{n}"));
            let text = format!(
                "server_name: n{n}\nlisten: 127.0.0.1:{}\n\
                 cluster {{ name: fleet, listen: 127.0.0.1:{}, routes: [{}] }}\n\
                 jetstream {{ store_dir: \"{}\", max_mem: 64MB, max_file: 1GB }}\n\
                 mqtt {{ listen: \"127.0.0.1:{}\" }}\n",
                clients[n],
                routes[n],
                all.join(", "),
                store.display(),
                mqtt[n]
            );
            let config = dir.path().join(format!("n{n}.conf"));
            std::fs::write(&config, text).expect("written");
            let mut command = Command::new(NATS);
            command.arg("-c").arg(&config);
            nodes.push(spawn(command, &dir.path().join(format!("n{n}.log"))));
        }
        let fleet = Self { nodes, ports: mqtt.to_vec(), dir, _names: None };
        fleet.listening().await;
        Some(fleet)
    }

    /// Three RabbitMQ nodes; `None`, and it says so, if they are not installed.
    pub async fn rabbitmq() -> Option<Self> {
        let server = rabbitmq_server()?;
        let (dir, ports) = (tempfile::tempdir().expect("a directory"), free_ports(2 * NODES + 1).await);
        let names = ports[2 * NODES].to_string();
        // The register of names of its own, so that nothing of the machine's is touched.
        let mut epmd = Command::new("epmd");
        epmd.args(["-address", "127.0.0.1", "-port", &names]);
        let names_child = spawn(epmd, &dir.path().join("names.log"));
        std::fs::write(dir.path().join("plugins"), "[rabbitmq_mqtt].\n").expect("written");
        let cookie = dir.path().join(".erlang.cookie");
        std::fs::write(&cookie, "of-this-test-alone").expect("written");
        let secret = std::os::unix::fs::PermissionsExt::from_mode(0o400);
        std::fs::set_permissions(&cookie, secret).expect("ours");
        let mut fleet =
            Self { nodes: Vec::new(), ports: ports[..NODES].to_vec(), dir, _names: Some(names_child) };
        for n in 0..NODES {
            let command = fleet.rabbitmq_node(&server, n, &names, ports[NODES + n]);
            let log = fleet.dir.path().join(format!("r{n}.log"));
            fleet.nodes.push(spawn(command, &log));
            // The first makes the cluster, the others join it.
            listens(fleet.ports[n], &log).await;
        }
        Some(fleet)
    }

    fn rabbitmq_node(&self, server: &Path, n: usize, names: &str, own: u16) -> Command {
        let dir = self.dir.path();
        let text = format!(
            "listeners.tcp = none\nmqtt.listeners.tcp.1 = 127.0.0.1:{}\nmqtt.allow_anonymous = true\n\
             cluster_formation.peer_discovery_backend = classic_config\n\
             cluster_formation.classic_config.nodes.1 = r0@localhost\n",
            self.ports[n]
        );
        let config = dir.join(format!("r{n}.conf"));
        std::fs::write(&config, text).expect("written");
        let mut command = Command::new(server);
        command
            .env("HOME", dir)
            .env("RABBITMQ_NODENAME", format!("r{n}@localhost"))
            .env("RABBITMQ_MNESIA_BASE", dir.join(format!("r{n}")))
            .env("RABBITMQ_PID_FILE", dir.join(format!("r{n}.pid")))
            .env("RABBITMQ_LOG_BASE", dir)
            .env("RABBITMQ_CONFIG_FILE", config)
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", dir.join("none"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"))
            .env("RABBITMQ_DIST_PORT", own.to_string())
            .env("ERL_EPMD_PORT", names)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false +S 1:1",
            );
        command
    }

    async fn listening(&self) {
        for (n, port) in self.ports.iter().enumerate() {
            listens(*port, &self.dir.path().join(format!("n{n}.log"))).await;
        }
    }

    /// `kill -9` of one node.
    pub async fn kill(&mut self, n: usize) {
        // What runs may be a shell that runs the node; the node has written down its own id.
        if let Ok(pid) = std::fs::read_to_string(self.dir.path().join(format!("r{n}.pid"))) {
            let pid = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        self.nodes[n].kill().await.expect("it ran");
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for n in 0..self.nodes.len() {
            if let Ok(pid) = std::fs::read_to_string(self.dir.path().join(format!("r{n}.pid")))
                && let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw)
            {
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// The script of Debian's package that does not insist on a user of its own.
fn rabbitmq_server() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/rabbitmq/lib").ok().into_iter().flatten().flatten();
    let found = versions.map(|entry| entry.path().join("sbin/rabbitmq-server")).find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: rabbitmq-server is not installed");
    }
    found
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let log = std::fs::File::create(log).expect("a log");
    let copy = log.try_clone().expect("a handle");
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(copy)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {name}: {error}"))
}

async fn listens(port: u16, log: &Path) {
    for _ in 0..1200 {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let said = std::fs::read_to_string(log).unwrap_or_default();
    panic!("nobody listens on {port}:\n{said}");
}

async fn free_ports(count: usize) -> Vec<u16> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    }
    held.iter().map(|listener| listener.local_addr().expect("bound").port()).collect()
}
