//! The uplink against Debian's mosquitto, over a link that is cut again and again, judged by a
//! subscriber no one here wrote. And TLS: the right CA, the wrong one, the wrong name, client certificates.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::link::Link;
use crate::memory_drain::MemoryDrain;
use crate::mosquitto::{Mosquitto, Witness};
use crate::outside::{Arrival, judge, readings};
use crate::uplink_bench::{Bench, quick, until, uplink};
use fieldgate::message::Message;
use fieldgate::uplink::State;
use support::openssl::certificates;

const V311: &str = "mqtt_version = \"3.1.1\"\n";
const BATCH: &str = "format = \"json-batch\"\nbatch = { max_readings = 100, max_delay = \"50ms\" }\n";
const COMPACT: &str = "format = \"compact\"\nbatch = { max_readings = 100, max_delay = \"50ms\" }\n";
const ZSTD: &str = "compression = \"zstd\"\n";
const STRICT: &str = "order = \"strict\"\n";

fn arrivals(witness: &Witness) -> Vec<Arrival> {
    witness.seen().iter().flat_map(|(topic, payload)| readings(topic, payload)).collect()
}

/// Returns how many repeats there were.
async fn through_cuts(more: &str) -> usize {
    const OLD: u64 = 2000;
    const STEPS: u64 = 30;
    const STEP: u64 = 20;
    let broker = Mosquitto::start(tempfile::tempdir().expect("a directory"), "").await;
    let witness = Witness::start(broker.port).await;
    let link = Link::to(broker.port).await;
    let drain = MemoryDrain::new();
    drain.commit(1..OLD + 1);
    let bench = Bench::start(uplink(&format!("mqtt://{}", link.address), more), drain, quick());
    for step in 0..STEPS {
        bench.drain.commit(OLD + 1 + step * STEP..OLD + 1 + (step + 1) * STEP);
        match step % 6 {
            2 => link.shake(),
            4 => link.cut(),
            5 => link.heal(),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    link.heal();
    until("the log to run dry", || bench.drain.queued() == 0).await;
    let all = 1..OLD + 1 + STEPS * STEP;
    let wanted = all.clone();
    until("the witness to see all", || {
        let there: std::collections::BTreeSet<u64> = arrivals(&witness).iter().map(|a| a.seq).collect();
        wanted.clone().all(|seq| there.contains(&seq))
    })
    .await;
    let seen = arrivals(&witness);
    let repeats = judge(&seen, all.clone());
    let connects = bench.counters.connects.load(Relaxed);
    println!(
        "{:?}: {} stored, {} arrived, 0 missing, {repeats} repeats, {connects} connections, {} B sent",
        more,
        all.end - 1,
        seen.len(),
        bench.counters.bytes_sent.load(Relaxed)
    );
    assert!(connects > 3, "{connects} connections");
    bench.stop().await;
    repeats
}

#[tokio::test]
async fn json_over_mqtt_5_survives_cuts() {
    if crate::mosquitto::installed() {
        let _some = through_cuts("").await;
    }
}

#[tokio::test]
async fn json_over_mqtt_311_in_strict_order_survives_cuts() {
    if crate::mosquitto::installed() {
        let _some = through_cuts(&[V311, STRICT].concat()).await;
    }
}

#[tokio::test]
async fn batches_over_mqtt_5_survive_cuts() {
    if crate::mosquitto::installed() {
        let _some = through_cuts(&[BATCH, ZSTD].concat()).await;
    }
}

#[tokio::test]
async fn packed_readings_survive_cuts() {
    if crate::mosquitto::installed() {
        let _some = through_cuts(COMPACT).await;
    }
}

#[tokio::test]
async fn what_goes_without_acknowledgements_survives_cuts() {
    if crate::mosquitto::installed() {
        for more in [BATCH, V311] {
            let _some = through_cuts(&["qos = 0\n", more].concat()).await;
        }
    }
}

#[tokio::test]
async fn exactly_once_survives_cuts_without_a_repeat() {
    if crate::mosquitto::installed() {
        for more in ["", V311, BATCH, STRICT, &[V311, COMPACT].concat()] {
            assert_eq!(through_cuts(&["qos = 2\n", more].concat()).await, 0, "{more}");
        }
    }
}

/// What mosquitto promises with `persistence`: it writes its sessions down when it ends in order, every `autosave_interval`,
/// and on SIGUSR1; what came after that is gone with a `kill -9`, and then it finds no session, or an older one.
#[tokio::test]
async fn exactly_once_survives_a_broker_that_is_stopped_and_started_again() {
    if !crate::mosquitto::installed() {
        return;
    }
    for more in [BATCH, V311] {
        let more = ["qos = 2\n", more].concat();
        let dir = tempfile::tempdir().expect("a directory");
        let mut broker = Mosquitto::start(dir, "persistence true\npersistence_location {dir}/\n").await;
        let witness = Witness::start_kept(broker.port).await;
        let link = Link::to(broker.port).await;
        let drain = MemoryDrain::new();
        let bench = Bench::start(uplink(&format!("mqtt://{}", link.address), &more), drain, quick());
        for round in 0..5u64 {
            for step in 0..20 {
                let first = 1 + round * 400 + step * 20;
                bench.drain.commit(first..first + 20);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            link.cut();
            // What it has not got yet would come to it twice, and that were not our doing.
            witness.caught_up(broker.port).await;
            broker.restart().await;
            witness.caught_up(broker.port).await;
            link.heal();
        }
        until("the log to run dry", || bench.drain.queued() == 0).await;
        until("the witness to see all", || arrivals(&witness).len() >= 2000).await;
        assert_eq!((judge(&arrivals(&witness), 1..2001), arrivals(&witness).len()), (0, 2000), "{more}");
        assert_eq!(bench.counters.not_exactly_once.load(Relaxed), 0, "{more}");
        assert!(bench.counters.connects.load(Relaxed) > 3);
        bench.stop().await;
    }
}

#[tokio::test]
async fn batches_over_mqtt_311_survive_cuts() {
    if crate::mosquitto::installed() {
        let _some = through_cuts(&[V311, BATCH].concat()).await;
    }
}

#[tokio::test]
async fn commands_status_and_the_last_will_work_with_a_real_broker() {
    if !crate::mosquitto::installed() {
        return;
    }
    for more in ["", V311] {
        let broker = Mosquitto::start(tempfile::tempdir().expect("a directory"), "").await;
        let witness = Witness::start(broker.port).await;
        let link = Link::to(broker.port).await;
        let url = format!("mqtt://{}", link.address);
        let mut bench = Bench::start(uplink(&url, more), MemoryDrain::new(), quick());
        let status = |text: &'static str| {
            let seen = witness.seen();
            seen.iter()
                .rev()
                .find(|(topic, _)| topic == "gw/g/status")
                .is_some_and(|(_, p)| p == text.as_bytes())
        };
        bench.mirror.send(Message::new("gw/g/status", r#"{"state":"running"}"#, true)).await.expect("taken");
        until("our status", || status(r#"{"state":"running"}"#)).await;
        crate::mosquitto::publish(broker.port, "gw/g/command/pump/speed", r#"{"id":"c-1","value":3}"#).await;
        let command = bench.commands.recv().await.expect("a command");
        assert_eq!((&*command.device, &*command.point, command.retained), ("pump", "speed", false));
        link.cut();
        until("the last will", || status(r#"{"state":"offline"}"#)).await;
        link.heal();
        until("our status again", || status(r#"{"state":"running"}"#)).await;
        bench.stop().await;
        until("the farewell", || status(r#"{"state":"offline"}"#)).await;
    }
}

#[tokio::test]
async fn websocket_carries_the_same_and_a_wrong_path_is_named() {
    if !crate::mosquitto::installed() {
        return;
    }
    let broker = Mosquitto::start(tempfile::tempdir().expect("a directory"), "").await;
    let bridge = crate::websocket_bridge::start(broker.port).await;
    let drain = MemoryDrain::new();
    drain.commit(1..501);
    let bench = Bench::start(uplink(&format!("ws://{bridge}/mqtt"), BATCH), drain, quick());
    until("the log to run dry", || bench.drain.queued() == 0).await;
    assert_eq!(bench.counters.connects.load(Relaxed), 1);
    bench.stop().await;
    let lost = Bench::start(uplink(&format!("ws://{bridge}/other"), ""), MemoryDrain::new(), quick());
    println!("{}", lost.error_with("WebSocket: the server answered 404").await);
    lost.stop().await;
}

const TLS: &str = "cafile {dir}/ca.pem\ncertfile {dir}/server.pem\nkeyfile {dir}/server.key\n";

async fn tls_broker(name: &str, more: &str) -> Mosquitto {
    let dir = tempfile::tempdir().expect("a directory");
    certificates(dir.path(), "Test-CA", name);
    Mosquitto::start(dir, &format!("{TLS}{more}")).await
}

#[tokio::test]
async fn tls_with_the_right_ca_delivers() {
    if !crate::mosquitto::installed() {
        return;
    }
    let broker = tls_broker("DNS:localhost", "").await;
    let drain = MemoryDrain::new();
    drain.commit(1..501);
    let more = format!("ca_file = \"{}\"", broker.file("ca.pem").display());
    let bench = Bench::start(uplink(&format!("mqtts://localhost:{}", broker.port), &more), drain, quick());
    until("the log to run dry", || bench.drain.queued() == 0).await;
    assert_eq!(bench.counters.state().0, State::Connected);
    bench.stop().await;
}

#[tokio::test]
async fn tls_names_the_wrong_ca_the_wrong_name_and_the_missing_certificate() {
    if !crate::mosquitto::installed() {
        return;
    }
    let broker = tls_broker("DNS:localhost", "require_certificate true\n").await;
    let [other, renewed] = ["Other-CA", "Test-CA"].map(|name| {
        let dir = tempfile::tempdir().expect("a directory");
        certificates(dir.path(), name, "DNS:localhost");
        dir
    });
    let (ca, foreign, same_name) =
        (broker.file("ca.pem"), other.path().join("ca.pem"), renewed.path().join("ca.pem"));
    let pem = |key: &str, path: &Path| format!("{key} = \"{}\"\n", path.display());
    for (host, more, words) in [
        ("localhost", pem("ca_file", &foreign), "unknown CA"),
        ("localhost", pem("ca_file", &same_name), "not signed by the CA we know under that name"),
        ("127.0.0.1", pem("ca_file", &ca), "not for the name `127.0.0.1` but for `localhost`"),
        ("localhost", pem("ca_file", &ca), "wants a client certificate"),
        ("localhost", pem("ca_file", Path::new("/nonexistent.pem")), "ca_file `/nonexistent.pem`"),
    ] {
        let bench = Bench::start(
            uplink(&format!("mqtts://{host}:{}", broker.port), &more),
            MemoryDrain::new(),
            quick(),
        );
        println!("{}", bench.error_with(words).await);
        bench.stop().await;
    }
    let ours = [
        pem("ca_file", &ca),
        pem("cert_file", &broker.file("client.pem")),
        pem("key_file", &broker.file("client.key")),
    ];
    let url = format!("mqtts://localhost:{}", broker.port);
    let bench = Bench::start(uplink(&url, &ours.concat()), MemoryDrain::new(), quick());
    until("the login with a certificate", || bench.counters.state().0 == State::Connected).await;
    bench.stop().await;
}
