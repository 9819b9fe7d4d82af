//! A gateway that gets another id while its queue is full, with the real binary and a broker: nothing that was taken under the old
//! one arrives as the new one's.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value as Json;
use support::messages::Message;
use support::process::Signal;
use support::{Gate, Mosquitto, Observer, seconds, temporary, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

const SIM: &str = "[[bus]]\nname = \"sim\"\ndriver = \"sim\"\n\
    [[device]]\nname = \"tank\"\nbus = \"sim\"\ninterval = \"100ms\"\n\
    [[device.point]]\nname = \"level\"\nsignal = \"counter\"\nperiod = \"100ms\"\n";

fn uplink(port: u16) -> String {
    format!(
        "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{port}\"\nformat = \"json-batch\"\n\
         batch = {{ max_readings = 50, max_delay = \"200ms\" }}\n"
    )
}

/// The batches that were heard: for each epoch, the gateway that they name, and how many readings.
fn batches(observer: &Observer) -> BTreeMap<(String, String), u64> {
    let mut found = BTreeMap::new();
    for message in observer.messages().iter().filter(|m| m.topic.contains("/batch")) {
        let batch: Json = serde_json::from_slice(&message.payload).expect("JSON");
        let text = |key: &str| batch[key].as_str().expect("a text").to_owned();
        assert!(
            message.topic.starts_with("gw/plant-8/"),
            "topics are the configuration's: {}",
            message.topic
        );
        let readings = batch["readings"].as_array().expect("a list").len() as u64;
        *found.entry((text("epoch"), text("gateway"))).or_default() += readings;
    }
    found
}

#[test]
fn what_was_taken_under_the_old_id_arrives_under_it_and_the_change_is_said() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let gate = Gate::new(BINARY, home.path(), "plant-7", &format!("{}{SIM}", uplink(9)));
    let mut daemon = gate.run();
    wait_until("readings in the queue", seconds(20), || gate.account("cloud").queued >= 40);
    let epoch = gate.status()["gateway"]["epoch"].as_str().expect("an epoch").to_owned();
    daemon.kill();

    let config = fs::read_to_string(gate.config()).expect("there");
    gate.configure(&config.replace("plant-7", "plant-8").replace(":9\"", &format!(":{}\"", cloud.port())));
    let mut daemon = gate.run();
    assert_eq!(gate.status()["store"]["earlier_ids"], serde_json::json!(["plant-7"]));
    let both = || {
        let (heard, account) = (batches(&observer), gate.account("cloud"));
        let of_old = heard.get(&(epoch.clone(), "plant-7".to_owned())).copied().unwrap_or(0);
        // What was on its way to the disk when it was killed is declared.
        heard.len() >= 2 && account.queued < 20 && of_old + account.lost >= 40
    };
    wait_until("the old readings and new ones", seconds(30), both);
    let alarm = |m: &&Message| m.topic.ends_with("/event/alarm") && m.json()["state"] == "renamed";
    wait_until("the cloud is told of the change", seconds(20), || {
        observer.messages().iter().any(|m| alarm(&m))
    });
    let account = gate.account("cloud");
    assert!(account.balances(), "{account:?}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);

    let heard = batches(&observer);
    let names: BTreeMap<&str, &str> =
        heard.keys().map(|(epoch, name)| (epoch.as_str(), name.as_str())).collect();
    assert_eq!(heard.len(), names.len(), "an epoch has one name: {heard:?}");
    assert_eq!(names.get(epoch.as_str()), Some(&"plant-7"), "{heard:?}");
    assert!(names.iter().all(|(of, name)| (*of == epoch) == (*name == "plant-7")), "{heard:?}");
    let log = fs::read_to_string(gate.home().join("daemon.log")).unwrap_or_default();
    assert!(log.contains("was called `plant-7` until now"), "{log}");
}
