//! mosquitto_pub and mosquitto_sub, both versions of MQTT.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::{House, LONG, run};

fn tool(name: &str, at: SocketAddr, version: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(["-h", "127.0.0.1", "-p", &at.port().to_string(), "-V", version]).args(arguments);
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

async fn publish(at: SocketAddr, version: &str, arguments: &[&str]) {
    run("mosquitto_pub", &mut tool("mosquitto_pub", at, version, arguments)).await;
}

/// A mosquitto_sub that prints topic, quality, retain flag and payload of each message.
struct Listener {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Subscriptions there were without it.
    before: u64,
}

impl Listener {
    /// Subscribed when this returns.
    async fn start(house: &House, version: &str, arguments: &[&str]) -> Self {
        let before = house.broker.stats().subscriptions;
        let mut command = tool("mosquitto_sub", house.tcp, version, arguments);
        let mut process = command.args(["-F", "%t %q %r %p"]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        until(&format!("{arguments:?} subscribes"), || house.broker.stats().subscriptions > before).await;
        Self { process, lines, before }
    }

    async fn expect(&mut self, line: &str) {
        let got = timeout(LONG, self.lines.next_line()).await.expect("in time").unwrap();
        assert_eq!(got.as_deref(), Some(line));
    }

    /// Killed, so it says no good-bye; the broker has noticed when this returns.
    async fn end(mut self, house: &House) {
        self.process.kill().await.unwrap();
        until("it is gone", || {
            let stats = house.broker.stats();
            stats.subscriptions <= self.before || stats.sessions_away > 0
        })
        .await;
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waits = timeout(LONG, async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    waits.await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mosquittos_own() {
    for house in House::both().await {
        let (engine, at) = (house.broker.stats().engine, house.tcp);
        for version in ["mqttv311", "mqttv5"] {
            for wanted in 0..3 {
                let mut listener =
                    Listener::start(&house, version, &["-q", &wanted.to_string(), "-t", "q/#"]).await;
                for sent in 0..3 {
                    publish(at, version, &["-q", &sent.to_string(), "-t", "q/x", "-m", "hello"]).await;
                    listener.expect(&format!("q/x {} 0 hello", sent.min(wanted))).await;
                }
                listener.end(&house).await;
            }

            publish(at, version, &["-q", "1", "-r", "-t", "kept/1", "-m", "last"]).await;
            let mut listener = Listener::start(&house, version, &["-q", "1", "-t", "kept/#"]).await;
            listener.expect("kept/1 1 1 last").await;
            publish(at, version, &["-q", "1", "-r", "-t", "kept/1", "-n"]).await;
            listener.expect("kept/1 1 0 ").await;
            listener.end(&house).await;

            let mut listener = Listener::start(&house, version, &["-q", "1", "-t", "wills/#"]).await;
            let will = ["-t", "none", "--will-topic", "wills/x", "--will-payload", "gone", "--will-qos", "1"];
            Listener::start(&house, version, &will).await.end(&house).await;
            listener.expect("wills/x 1 0 gone").await;
            listener.end(&house).await;

            let keeper: &[&str] = match version {
                "mqttv5" => &["-i", "keeper", "-c", "-x", "600", "-q", "2", "-t", "s/#"],
                _ => &["-i", "keeper", "-c", "-q", "2", "-t", "s/#"],
            };
            Listener::start(&house, version, keeper).await.end(&house).await;
            for n in 0..5 {
                publish(at, version, &["-q", "2", "-t", "s/x", "-m", &n.to_string()]).await;
            }
            let mut command = tool("mosquitto_sub", at, version, keeper);
            let output = timeout(LONG, command.args(["-C", "5"]).output()).await.unwrap().unwrap();
            assert_eq!(output.stdout, b"0\n1\n2\n3\n4\n", "{version}: what came while it was away");
            // The session ends with a clean start.
            run("clean", &mut tool("mosquitto_pub", at, version, &["-i", "keeper", "-t", "x", "-n"])).await;
        }
        let mut command = tool("mosquitto_sub", at, "mqttv5", &["-q", "1", "-t", "p/#", "-C", "1"]);
        let reads = command.args(["-F", "%p %C %R %D %P"]).stdout(Stdio::piped()).spawn().unwrap();
        until("it subscribes", || house.broker.stats().subscriptions > 0).await;
        let mut properties = vec!["-q", "1", "-t", "p/x", "-m", "hello"];
        for (name, value) in
            [("content-type", "text/plain"), ("response-topic", "p/answer"), ("correlation-data", "c-1")]
        {
            properties.extend(["-D", "publish", name, value]);
        }
        properties.extend(["-D", "publish", "user-property", "a", "1"]);
        publish(at, "mqttv5", &properties).await;
        let output = timeout(LONG, reads.wait_with_output()).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello text/plain p/answer c-1 a:1\n");
        println!("mosquitto's own, {engine}: both versions");
        house.well(engine).await;
    }
}
