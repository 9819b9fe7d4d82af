//! Polls beside a flood: fifty thousand messages a second come in, a thousand points are read once a second, and none of them is to be missed.

use std::time::Duration;

use serde_json::Value as Json;
use support::{Gate, now, temporary, wait_for};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

use super::client::{Client, message};
use super::{binary, broker};

/// So many clients send so many messages each in every turn: 4 × 125 × 100 a second.
const CLIENTS: usize = 4;
const EACH: u64 = 125;
const TURN: Duration = Duration::from_millis(10);
const SECONDS: f64 = 10.0;

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

pub fn polls(runtime: &Runtime) {
    println!("polls of 1000 points a second while messages come in, {SECONDS} s\n");
    println!(
        "{:<14} {:>12} {:>12} {:>14} {:>18}",
        "", "messages/s", "readings/s", "polls missed", "at most late, ms"
    );
    for engine in ["rumqttd", "native"] {
        let home = temporary();
        let gate = Gate::new(&binary(), home.path(), "bench", "");
        gate.configure(&(gate.head("bench", &broker(engine, true)) + &devices()));
        let _daemon = gate.run();
        wait_for("the first polls", Duration::from_secs(20), || {
            (gate.status()["gateway"]["readings"].as_u64()? >= 1000).then_some(())
        });
        let (before, began) = (gate.status(), now());
        runtime.block_on(async {
            let mut subscriber = Client::connect(gate.broker, "subscriber").await;
            subscriber.subscribe("b/#", 0).await;
            let receiving = tokio::spawn(subscriber.receive(Default::default()));
            let mut floods = Vec::new();
            for n in 0..CLIENTS {
                let mut client = Client::connect(gate.broker, &format!("flood{n}")).await;
                let mut out = Vec::new();
                (0..EACH).for_each(|number| message(&mut out, &format!("b/{n}"), 0, number));
                floods.push(tokio::spawn(async move {
                    let mut turn = tokio::time::interval(TURN);
                    while now() < began + SECONDS {
                        turn.tick().await;
                        client.writer.write_all(&out).await.expect("it listens");
                    }
                }));
            }
            for flood in floods {
                flood.await.expect("it floods");
            }
            receiving.abort();
        });
        let (after, took) = (gate.status(), now() - began);
        #[expect(clippy::cast_precision_loss, reason = "millions")]
        let grown = |at: fn(&Json) -> &Json| {
            let count = |status: &Json| at(status).as_u64().expect("a count") as f64;
            count(&after) - count(&before)
        };
        let readings = grown(|s| &s["gateway"]["readings"]);
        println!(
            "{engine:<14} {:>12.0} {:>12.0} {:>14} {:>18}",
            (grown(|s| &s["broker"]["messages_in"]) - readings) / took,
            readings / took,
            grown(|s| &s["bus"]["sim"]["overruns"]) + grown(|s| &s["bus"]["sim"]["timeouts"]),
            after["bus"]["sim"]["lateness_ms_max"]
        );
    }
    println!();
}
