//! Figures, not verdicts: what a reading costs. `cargo test --lib store::tests::figures -- --ignored --nocapture`

use std::time::Duration;

use driver_api::Value;

use super::*;
use crate::store::state::Tick;

/// One second of a plant: 1000 points, most of them moving by a digit.
fn second(points: &[Arc<PointKey>], second: u64) -> Vec<Reading> {
    points
        .iter()
        .enumerate()
        .map(|(n, point)| {
            let value = 2300.0 + fastrand::f64().mul_add(6.0, -3.0).round() + n as f64;
            Reading::good(
                Arc::clone(point),
                BootMs(second * 1000 + n as u64 / 10),
                Value::Float(value / 10.0),
            )
        })
        .collect()
}

fn plant() -> Vec<Arc<PointKey>> {
    (0..1000)
        .map(|n| {
            let (device, point) = (format!("meter{}", n / 20), format!("quantity_{}", n % 20));
            Arc::new(PointKey { device, point, unit: "V".into() })
        })
        .collect()
}

#[tokio::test]
#[ignore = "prints figures; run by hand"]
async fn what_a_reading_costs() {
    let dir = tempfile::tempdir().expect("a directory");
    let points = plant();
    let mut config = config(dir.path());
    config.commit_interval = Span::s(3600);
    let (store, _) = Store::open(&config, &uplinks(&["cloud"]), TestClock::new("a")).expect("opens");
    let drain = store.drain("cloud").expect("configured");
    for n in 0..120 {
        store.take(second(&points, n));
        store.flush().await.expect("flushes");
        drain.delivered(n * 1000 + 1..n * 1000 + 1001);
    }
    let status = store.status();
    let bytes = status.bytes_written as f64 / 120_000.0;
    println!(
        "1000 readings a commit, delivered at once: {bytes:.1} B written a reading, p99 {:.1} ms",
        status.fsync_ms_p99
    );
    store.close().await.expect("closes");

    let dir = tempfile::tempdir().expect("a directory");
    config.path = dir.path().to_owned();
    config.commit_interval = Span::ms(10);
    config.max_size = ByteSize::mib(256);
    let (store, _) = Store::open(&config, &uplinks(&["cloud"]), TestClock::new("a")).expect("opens");
    let drain = store.drain("cloud").expect("configured");
    let batches: Vec<Vec<Reading>> = (0..600).map(|n| second(&points, n)).collect();
    let started = Tick::now();
    let mut slowest = Duration::ZERO;
    for batch in batches {
        while store.status().readings_in_ram > 40_000 {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let before = Tick::now();
        store.take(batch);
        slowest = slowest.max(before.elapsed());
    }
    store.flush().await.expect("flushes");
    let rate = 600_000.0 / started.elapsed().as_secs_f64();
    println!("10 ms commits: {rate:.0} durable readings/s; slowest take of 1000: {slowest:?}");
    assert_eq!(balanced(&*drain).lost, 0);
    let started = Tick::now();
    let read = read_all(&*drain, 4096).await.len() as f64;
    println!("read back: {:.0} readings/s", read / started.elapsed().as_secs_f64());
    println!("on disk: {:.1} B a reading", store.status().bytes as f64 / read);
    store.crash();
    let started = Tick::now();
    let (store, _) = Store::open(&config, &uplinks(&["cloud"]), TestClock::new("a")).expect("opens");
    println!("opened with 600,000 queued in {:?}", started.elapsed());
    store.close().await.expect("closes");
}
