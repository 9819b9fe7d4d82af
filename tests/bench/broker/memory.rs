//! What clients and messages take in memory, and what is left of it afterwards.

use std::time::Duration;

use support::pause;

use super::Running;
use super::client::Client;
use super::rates::{Scene, rate};

pub fn memory(runtime: &tokio::runtime::Runtime) {
    println!("resident memory; ours is the whole gateway\n");
    println!("{:<50} {:>12} {:>12} {:>12}", "MiB", "rumqttd", "native", "mosquitto");
    let brokers = Running::all();
    let row = |title: &str| {
        let mib = brokers.each_ref().map(|broker| broker.mib("VmRSS"));
        println!("{title:<50} {:>12.1} {:>12.1} {:>12.1}", mib[0], mib[1], mib[2]);
        let [own, file] =
            ["RssAnon", "RssFile"].map(|part| brokers.each_ref().map(|broker| broker.mib(part)));
        println!("{:<50} {:>12.1} {:>12.1} {:>12.1}", "  of which its own", own[0], own[1], own[2]);
        println!("{:<50} {:>12.1} {:>12.1} {:>12.1}", "  program and libraries", file[0], file[1], file[2]);
        mib
    };
    let idle = row("idle");
    let mut held = Vec::new();
    for broker in &brokers {
        for n in 0..1000 {
            held.push(runtime.block_on(Client::connect(broker.port, &format!("idle{n}"))));
        }
    }
    pause(Duration::from_millis(500));
    let full = row("with 1000 idle clients");
    println!(
        "{:<50} {:>12.1} {:>12.1} {:>12.1}",
        "  KiB each",
        (full[0] - idle[0]) * 1.024,
        (full[1] - idle[1]) * 1.024,
        (full[2] - idle[2]) * 1.024
    );
    drop(held);
    for broker in &brokers {
        runtime.block_on(rate(broker, Scene::of(50, 1, 1)));
        runtime.block_on(rate(broker, Scene::of(1, 50, 0)));
    }
    pause(Duration::from_secs(3));
    row("after 1000 clients and some 100,000s of messages");
    pause(Duration::from_secs(20));
    row("  20 s later");
}
