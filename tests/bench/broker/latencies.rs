//! How long a message takes at a load that no broker notices.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use support::now;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Running;
use super::client::{Client, Progress, message};

pub fn latencies(runtime: &tokio::runtime::Runtime) {
    println!("microseconds from publisher to subscriber, a thousand messages a second\n");
    println!("{:<10} {:>22} {:>22} {:>22}", "p50 / p99", "rumqttd", "native", "mosquitto");
    for qos in 0..3 {
        let brokers = Running::all();
        let mut cells = Vec::new();
        for broker in &brokers {
            let mut taken = runtime.block_on(latency(broker.port, qos));
            taken.sort_by(f64::total_cmp);
            cells.push(format!(
                "{:.0} / {:.0}",
                taken[taken.len() / 2] * 1e6,
                taken[taken.len() * 99 / 100] * 1e6
            ));
        }
        println!("{:<10} {:>22} {:>22} {:>22}", format!("QoS {qos}"), cells[0], cells[1], cells[2]);
    }
    println!();
}

async fn latency(port: u16, qos: u8) -> Vec<f64> {
    let mut subscriber = Client::connect(port, "s").await;
    subscriber.subscribe("b/#", qos).await;
    let progress = Arc::new(Progress::default());
    tokio::spawn(subscriber.receive(progress.clone()));
    let publisher = Client::connect(port, "p").await;
    let Client { mut reader, mut writer, .. } = publisher;
    // What QoS 2 still wants: PUBREL for every PUBREC, in a task of its own.
    let (answers, mut due) = tokio::sync::mpsc::channel::<Vec<u8>>(1024);
    let hearing = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            let recs = buffer[..count].chunks_exact(4).filter(|p| p[0] == 0x50);
            let say: Vec<u8> = recs.flat_map(|p| [0x62, 2, p[2], p[3]]).collect();
            if !say.is_empty() && answers.send(say).await.is_err() {
                return;
            }
        }
    });
    let mut taken = Vec::new();
    let mut turn = tokio::time::interval(Duration::from_millis(1));
    for n in 1..=3000 {
        turn.tick().await;
        let mut out = Vec::new();
        message(&mut out, "b/1", qos << 1, n);
        let began = now();
        writer.write_all(&out).await.expect("it listens");
        while progress.delivered.load(Relaxed) < n {
            // A broker may hand a message of QoS 2 on only once it is released.
            while let Ok(more) = due.try_recv() {
                writer.write_all(&more).await.expect("it listens");
            }
            tokio::task::yield_now().await;
            assert!(now() < began + 10.0, "message {n} does not arrive");
        }
        taken.push(now() - began);
    }
    hearing.abort();
    taken
}
