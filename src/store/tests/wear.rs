//! What a commit writes. No figure of a disk: the pages of one commit are the same on every machine.

use super::*;

/// One second of a plant: most points move by a digit.
fn second(points: &[Arc<PointKey>], at: u64, random: &mut fastrand::Rng) -> Vec<Reading> {
    let value = |n: usize| (2300.0 + n as f64 + f64::from(random.i32(-3..=3))) / 10.0;
    let values: Vec<f64> = (0..points.len()).map(value).collect();
    let reading = |(point, value): (&Arc<PointKey>, f64)| {
        Reading::good(Arc::clone(point), BootMs(at), Value::Float(value))
    };
    points.iter().zip(values).map(reading).collect()
}

fn plant(points: usize) -> Vec<Arc<PointKey>> {
    let key = |n: usize| PointKey {
        device: format!("meter{}", n / 20),
        point: format!("quantity_{}", n % 20),
        unit: "V".into(),
    };
    (0..points).map(|n| Arc::new(key(n))).collect()
}

/// Bytes written a reading: a thousand readings a commit, all of them delivered, and ten blocks dropped at once.
#[tokio::test]
async fn a_thousand_readings_a_second_write_at_most_twelve_bytes_each() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { commit_interval: Span::s(3600), history: Span::s(10), ..config(dir.path()) };
    let clock = TestClock::new("a");
    let (store, _) = opened(&config, &uplinks(&["cloud"]), clock.clone());
    let drain = store.drain("cloud").expect("configured");
    let (points, mut random) = (plant(1000), fastrand::Rng::with_seed(4));
    let mut before = 0;
    for n in 0..400u64 {
        if n == 50 {
            before = store.status().bytes_written;
        }
        // What is past the ten seconds goes with the commit, here in tens.
        let at = 1_000_000 + n * 1000;
        clock.boot.store(at - at % 10_000, Ordering::SeqCst);
        store.take(second(&points, at, &mut random));
        store.flush().await.expect("flushes");
        drain.pending().into_iter().for_each(|range| drain.delivered(range));
    }
    let bytes = store.status().bytes_written - before;
    let readings = 350 * 1000;
    assert!(bytes <= 12 * readings, "{bytes} for {readings}");
    assert!(store.status().readings <= 30_000, "they are dropped: {}", store.status().readings);
}
