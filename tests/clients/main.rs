//! Clients that nobody here wrote, against the local broker with both engines: paho-mqtt (Python), rumqttc (Rust), mosquitto's
//! own (C), and mqtt.js (Node). Each connects, subscribes, sends and receives at every quality, reads retained
//! messages, leaves a will, comes back to a session, and with MQTT 5 uses properties.
//!
//! mqtt.js is not on every machine, so its test is a step of its own: `./tests/run clients`.

#![expect(clippy::unwrap_used, reason = "a helper of a test that fails is a failed test")]

mod mosquitto;
mod rumqtt;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fieldgate::broker::{Broker, EngineChoice, Options};
use fieldgate::config::model::{self, Listener, Transport};
use support::repository;
use tokio::process::Command;
use tokio::time::timeout;

/// Longer than any client takes for all it does.
const LONG: Duration = Duration::from_secs(60);

/// A broker with a TCP and a WebSocket listener.
struct House {
    broker: Broker,
    tcp: SocketAddr,
    websocket: SocketAddr,
}

impl House {
    async fn start(engine: EngineChoice) -> Self {
        let door = |transport| Listener {
            bind: ([127, 0, 0, 1], 0).into(),
            transport,
            tls: None,
            allow_anonymous: None,
            password_file: None,
            acl_file: None,
        };
        let listener = vec![door(Transport::Tcp), door(Transport::Websocket)];
        let config = model::Broker { listener, ..model::Broker::default() };
        let broker = Broker::start_with(&config, Options { engine, ..Options::default() }).await.unwrap();
        let [(_, tcp), (_, websocket)] = broker.addresses()[..] else { panic!("two listeners") };
        Self { broker, tcp, websocket }
    }

    async fn both() -> [Self; 2] {
        [Self::start(EngineChoice::Rumqttd).await, Self::start(EngineChoice::Native).await]
    }

    /// Nothing was lost or refused, and no engine had to be replaced.
    async fn well(self, engine: &str) {
        let stats = self.broker.stats();
        let wrong: Vec<_> = stats.refused.iter().filter(|(_, n)| *n > 0).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        let faults = [stats.dropped, stats.panics, stats.engine_switches, stats.engine_gaps];
        assert_eq!((stats.engine, faults), (engine, [0; 4]));
        self.broker.close().await;
    }
}

/// Runs a program to its end and prints what it says.
async fn run(what: &str, command: &mut Command) {
    let output = timeout(LONG, command.kill_on_drop(true).output()).await;
    let output =
        output.unwrap_or_else(|_| panic!("{what}: not done in {LONG:?}")).expect("it can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{what}: {}", said.lines().collect::<Vec<_>>().join(", "));
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

fn here(file: &str) -> std::path::PathBuf {
    repository().join("tests/clients").join(file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paho_of_python() {
    let python = repository().join("target/venv/bin/python");
    assert!(python.exists(), "`./tests/run setup` makes target/venv from tests/support/requirements.txt");
    for house in House::both().await {
        let engine = house.broker.stats().engine;
        for version in ["4", "5"] {
            for (transport, at) in [("tcp", house.tcp), ("websockets", house.websocket)] {
                let mut command = Command::new(&python);
                command.arg(here("paho_client.py")).args([&at.port().to_string(), transport, version]);
                run(&format!("paho, {engine}, {transport}, version {version}"), &mut command).await;
            }
        }
        house.well(engine).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Node.js and mqtt.js: `./tests/run clients` brings them"]
async fn mqtt_js() {
    let modules = repository().join("target/node/node_modules");
    assert!(Path::new(&modules).join("mqtt").exists(), "`./tests/run clients` installs mqtt.js there");
    for house in House::both().await {
        let engine = house.broker.stats().engine;
        for version in ["4", "5"] {
            for (scheme, at) in [("mqtt", house.tcp), ("ws", house.websocket)] {
                let mut command = Command::new("node");
                command.env("NODE_PATH", &modules).arg(here("mqttjs.js"));
                command.args([&format!("{scheme}://127.0.0.1:{}", at.port()), version]);
                run(&format!("mqtt.js, {engine}, {scheme}, version {version}"), &mut command).await;
            }
        }
        house.well(engine).await;
    }
}
