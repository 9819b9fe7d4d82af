//! Devices are polled while clients flood the local broker: no poll is missed for it.

use std::time::Duration;

use serde_json::Value as Json;
use support::{Gate, temporary, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::raw::*;

/// A hundred devices of ten points, all of them once a second.
fn devices() -> String {
    let mut text = "[[bus]]\nname = \"sim\"\ndriver = \"sim\"\n".to_owned();
    for device in 0..100 {
        text += &format!("[[device]]\nname = \"d{device}\"\nbus = \"sim\"\ninterval = \"1s\"\n");
        for point in 0..10 {
            text +=
                &format!("[[device.point]]\nname = \"p{point}\"\nsignal = \"counter\"\nperiod = \"1s\"\n");
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_poll_is_missed_while_clients_flood_the_broker() {
    let home = temporary();
    let gate = Gate::new(env!("CARGO_BIN_EXE_fieldgate"), home.path(), "box", &devices());
    let _daemon = gate.run();
    let at = ([127, 0, 0, 1], gate.broker).into();
    wait_for("the first polls", Duration::from_secs(20), || {
        (gate.status()["gateway"]["readings"].as_u64()? >= 1000).then_some(())
    });
    let mut subscriber = Raw::connected(at, V::Four, "subscriber").await;
    subscriber.subscribed("flood/#", 0).await;
    let reading = tokio::spawn(async move {
        let mut io = subscriber.into_io();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(1..) = io.read(&mut buffer).await {}
    });
    let before = gate.status();
    let began = Instant::now();
    let mut floods = Vec::new();
    for n in 0..4 {
        floods.push(tokio::spawn(async move {
            let mut io: TcpStream = Raw::connected(at, BOTH[n % 2], &format!("flood{n}")).await.into_io();
            let one = publish(BOTH[n % 2], 0, &format!("flood/{n}"), 0, &[], &[b'x'; 100]);
            let many = one.repeat(100);
            while began.elapsed() < Duration::from_secs(8) {
                io.write_all(&many).await.unwrap();
            }
        }));
    }
    for flood in floods {
        flood.await.unwrap();
    }
    let after = gate.status();
    let took = began.elapsed().as_secs_f64();
    reading.abort();
    let grown =
        |part: fn(&Json) -> &Json| (part(&after).as_u64().unwrap() - part(&before).as_u64().unwrap()) as f64;
    let messages = grown(|s| &s["broker"]["messages_in"]) - grown(|s| &s["gateway"]["readings"]);
    let readings = grown(|s| &s["gateway"]["readings"]);
    let bus = &after["bus"]["sim"];
    println!(
        "{:.0} messages/s for {took:.1} s beside {:.0} readings/s: {} overruns, at most {} ms late",
        messages / took,
        readings / took,
        grown(|s| &s["bus"]["sim"]["overruns"]),
        bus["lateness_ms_max"]
    );
    assert!(messages > 8000.0, "that was no flood");
    // Each second's thousand were read; the first and the last second are not whole.
    assert!(readings >= (took.floor() - 1.0) * 1000.0, "{readings} readings in {took:.1} s");
    for part in
        [|s: &Json| s["bus"]["sim"]["overruns"].clone(), |s: &Json| s["bus"]["sim"]["timeouts"].clone()]
    {
        assert_eq!(part(&after), part(&before), "missed polls: {bus}");
    }
    assert_eq!(after["broker"]["state"], "ok");
    sleep(Duration::from_millis(1)).await;
}
