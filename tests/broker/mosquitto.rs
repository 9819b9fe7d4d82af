//! Parts nobody here wrote: mosquitto_pub and mosquitto_sub, both protocol versions.

use std::net::SocketAddr;
use std::process::{Output, Stdio};

use crate::raw::*;
use fieldgate::message::Message;
use tokio::process::Command;
use tokio::time::timeout;

fn tool(name: &str, at: SocketAddr, version: &str) -> Command {
    let mut command = Command::new(name);
    command.args(["-h", "127.0.0.1", "-p", &at.port().to_string(), "-V", version]).kill_on_drop(true);
    command
}

async fn run(command: &mut Command) -> Output {
    let output = timeout(LONG, command.output()).await.expect("in time").expect("mosquitto-clients is there");
    assert!(output.status.success(), "{output:?}");
    output
}

#[tokio::test]
async fn retained_values_of_5000_points_arrive_in_full() {
    let (broker, at) = broker().await;
    let list = |i| Message::new(format!("gw/x/data/d{}/p{i}", i % 10), format!("{i}"), true);
    assert_eq!(broker.publish((0..5000).map(list).collect()), 0);
    for version in ["mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let mut sub = tool("mosquitto_sub", at, version);
            let output = run(sub.args(["-q", qos, "-t", "gw/#", "-C", "5000", "-F", "%r %t %p"])).await;
            let text = String::from_utf8(output.stdout).unwrap();
            let mut lines: Vec<_> = text.lines().collect();
            lines.sort_unstable();
            lines.dedup();
            assert_eq!(lines.len(), 5000, "{version} QoS {qos}");
            assert!(lines.iter().all(|l| l.starts_with("1 gw/x/data/d")));
        }
    }
}

#[tokio::test]
async fn ten_thousand_messages_of_each_quality_arrive_in_order() {
    let (broker, at) = broker().await;
    for version in ["mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let mut sub = tool("mosquitto_sub", at, version);
            sub.args(["-q", qos, "-t", "a/#", "-C", "10000", "-F", "%p"]).stdout(Stdio::piped());
            let sub = sub.spawn().unwrap();
            until("subscribed", || broker.stats().subscriptions == 1).await;
            let mut publ = tool("mosquitto_pub", at, version);
            publ.args(["-q", qos, "-t", "a/b", "-l"]).stdin(Stdio::piped());
            let mut publ = publ.spawn().unwrap();
            let lines: String = (0..10_000).map(|n| format!("{n}\n")).collect();
            tokio::io::AsyncWriteExt::write_all(&mut publ.stdin.take().unwrap(), lines.as_bytes())
                .await
                .unwrap();
            assert!(timeout(LONG, publ.wait()).await.unwrap().unwrap().success());
            let output = timeout(LONG, sub.wait_with_output()).await.expect("all arrive").unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), lines, "{version} QoS {qos}");
            until("gone", || broker.stats().subscriptions == 0).await;
        }
    }
    let stats = broker.stats();
    assert_eq!((stats.dropped, stats.engine_gaps, stats.engine), (0, 0, "rumqttd"));
}

#[tokio::test]
async fn a_client_of_mqtt_3_1_publishes_and_one_of_mqtt_5_hears_it_and_the_other_way_round() {
    let (broker, at) = broker().await;
    for (from, to) in [("mqttv31", "mqttv5"), ("mqttv5", "mqttv31")] {
        for qos in ["0", "1", "2"] {
            let mut sub = tool("mosquitto_sub", at, to);
            sub.args(["-q", qos, "-t", "old/#", "-C", "1", "-F", "%q %t %p"]).stdout(Stdio::piped());
            let sub = sub.spawn().unwrap();
            until("subscribed", || broker.stats().subscriptions == 1).await;
            run(tool("mosquitto_pub", at, from).args(["-q", qos, "-t", "old/1", "-m", "hello"])).await;
            let output = timeout(LONG, sub.wait_with_output()).await.expect("it arrives").unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), format!("{qos} old/1 hello"));
            until("gone", || broker.stats().subscriptions == 0).await;
        }
    }
}

#[tokio::test]
async fn a_megabyte_arrives_whole() {
    let (_broker, at) = broker().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("big");
    let big: Vec<u8> = (0..1_000_000u32).map(|n| b'a' + u8::try_from(n % 23).unwrap()).collect();
    std::fs::write(&file, &big).unwrap();
    run(tool("mosquitto_pub", at, "mqttv5").args(["-q", "2", "-r", "-t", "big", "-f"]).arg(&file)).await;
    let output =
        run(tool("mosquitto_sub", at, "mqttv311").args(["-q", "2", "-t", "big", "-C", "1", "-N"])).await;
    assert!(output.stdout == big);
}

#[tokio::test]
async fn properties_and_a_session_as_mosquitto_speaks_them() {
    let (broker, at) = broker().await;
    let mut sub = tool("mosquitto_sub", at, "mqttv5");
    run(sub.args(["-c", "-x", "600", "-i", "keeper", "-q", "1", "-t", "s/#", "-E"])).await;
    until("away", || broker.stats().sessions_away == 1).await;
    let mut publ = tool("mosquitto_pub", at, "mqttv5");
    let publ = publ.args(["-q", "1", "-t", "s/1", "-m", "hello", "-D", "publish", "user-property", "k", "v"]);
    run(publ.args(["-D", "publish", "content-type", "text/plain"])).await;
    let mut sub = tool("mosquitto_sub", at, "mqttv5");
    let sub = sub.args(["-c", "-x", "600", "-i", "keeper", "-q", "1", "-t", "s/#", "-C", "1"]);
    let output = run(sub.args(["-F", "%t %p %P %C"])).await;
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "s/1 hello k:v text/plain");
}
