//! From a topic of the cloud to a client of the local broker, with the real daemon between two real brokers.

use support::{Gate, Mosquitto, Observer, seconds, temporary, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

#[test]
fn a_lamp_on_site_is_switched_from_the_cloud_also_when_the_link_comes_late() {
    let home = temporary();
    let mut cloud = Mosquitto::start(home.path());
    let port = cloud.port();
    let config = format!(
        "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{port}\"\n\
         [[uplink.subscribe]]\nfilter = \"sites/{{gateway}}/down/#\"\nto = \"lamps/{{topic}}\"\n"
    );
    let gate = Gate::new(BINARY, home.path(), "box", &config);
    let _daemon = gate.run();
    let site = Observer::start(home.path(), gate.broker, "site", &["lamps/#"]);
    let cloud_says = |args: &[&str]| support::mosquitto::publish(port, args);
    wait_until("a message of the cloud", seconds(20), || {
        cloud_says(&["-q", "1", "-t", "sites/box/down/hall/set", "-m", "on"])
            && site.last("lamps/hall/set").is_some_and(|m| m.payload == b"on" && !m.retain)
    });
    let status = gate.status();
    assert!(status["uplink"]["cloud"]["brought"].as_u64() >= Some(1), "{status}");

    cloud.forget();
    assert!(cloud_says(&["-q", "1", "-r", "-t", "sites/box/down/yard/set", "-m", "off"]));
    wait_until("what the cloud kept", seconds(90), || {
        site.last("lamps/yard/set").is_some_and(|m| m.payload == b"off")
    });
    let kept = support::mosquitto::subscribe(gate.broker, 5, &["-t", "lamps/#", "-C", "1"]);
    assert_eq!(
        kept.1.first().map(|m| (m.topic.as_str(), m.retain)),
        Some(("lamps/yard/set", true)),
        "{kept:?}"
    );
}
