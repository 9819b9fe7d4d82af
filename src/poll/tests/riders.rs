//! Blocks whose points have intervals of their own, and plans that change while the bus runs.

use std::sync::atomic::Ordering::Relaxed;

use driver_api::Learned;

use super::*;

/// A bus that may have a second plan for the same points.
struct Replanned {
    bus: FakeBus,
    next: Option<Vec<Block>>,
}

#[async_trait]
impl Bus for Replanned {
    fn plan(&self) -> &Plan {
        self.bus.plan()
    }
    async fn open(&mut self) -> io::Result<()> {
        self.bus.open().await
    }
    async fn read(&mut self, block: usize, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        self.bus.read(block, out).await
    }
    async fn write(&mut self, point: usize, value: &Value) -> Result<(), ReadError> {
        self.bus.write(point, value).await
    }
    fn replan(&mut self) -> bool {
        self.next.take().map(|blocks| self.bus.plan.blocks = blocks).is_some()
    }
    fn learned(&self, _: usize) -> Learned {
        Learned { turnaround: Some(Duration::from_micros(4200)), split_blocks: 1, split_parts: 3 }
    }
}

fn block(points: &[usize], ms: u64) -> Block {
    Block {
        device: 0,
        points: points.to_vec(),
        every: Duration::from_millis(ms),
        cost: EXCHANGE,
        what: "x".into(),
    }
}

/// One device with a point for each of these intervals, read by these blocks and perhaps later by others.
fn bench_with(intervals: &[u64], blocks: Vec<Block>, next: Option<Vec<Block>>) -> Bench {
    let points: Vec<(usize, u64)> = intervals.iter().map(|&ms| (0, ms)).collect();
    start(&points, |bus| {
        Box::new(Replanned { bus: FakeBus { plan: Plan { blocks, ..bus.plan }, ..bus }, next })
    })
}

impl Bench {
    /// How many readings each point had over this long.
    async fn readings_in(&mut self, length: Duration) -> HashMap<String, usize> {
        let (end, mut counts) = (Instant::now() + length, HashMap::new());
        while let Ok(Some(batch)) = tokio::time::timeout_at(end, self.readings.recv()).await {
            for reading in batch {
                *counts.entry(reading.point.point.clone()).or_default() += 1;
            }
        }
        counts
    }
}

#[tokio::test(start_paused = true)]
async fn a_rider_is_reported_at_its_own_interval_and_at_once_when_somebody_asks() {
    let mut bench = bench_with(&[1000, 10_000], vec![block(&[0, 1], 1000)], None);
    bench.readings_in(Duration::from_secs(5)).await;
    let counts = bench.readings_in(Duration::from_secs(100)).await;
    assert_eq!((counts["p0"], counts["p1"]), (100, 10));
    let asked = tokio::spawn({
        let handle = bench.handle.clone();
        async move { handle.ask(Ask::Read { point: 1 }).await }
    });
    // A read that somebody asked for passes, whatever the rider's turn.
    let counts = bench.readings_in(Duration::from_secs(1)).await;
    assert_eq!(counts.get("p1"), Some(&1));
    let exchange = asked.await.expect("no panic").expect("it is read");
    assert!(exchange.point(1).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_riders_failures_come_at_its_own_interval_too_but_its_return_at_once() {
    let mut bench = bench_with(&[1000, 60_000], vec![block(&[0, 1], 1000)], None);
    bench.readings_in(Duration::from_secs(5)).await;
    bench.line.lock().expect("test").dead = vec![0];
    let died = Instant::now();
    bench.until(|r| r.point.point == "p1" && r.quality() == Quality::Bad(Reason::Timeout)).await;
    // When the device is given up, all that it has is bad; the rider's own turn is a minute away.
    assert!(died.elapsed() < Duration::from_secs(5), "{:?}", died.elapsed());
    bench.line.lock().expect("test").dead.clear();
    let back = loop {
        let batch = bench.readings.recv().await.expect("the bus task runs");
        if batch.iter().any(|r| r.quality() == Quality::Good) {
            break batch;
        }
    };
    assert_eq!(back.iter().map(|r| r.point.point.as_str()).collect::<Vec<_>>(), ["p0", "p1"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_plan_is_taken_over_without_a_gap_and_points_are_found_in_it() {
    let (apart, together) = (vec![block(&[0], 1000), block(&[1], 10_000)], vec![block(&[0, 1], 1000)]);
    let mut bench = bench_with(&[1000, 10_000], apart, Some(together));
    bench.readings_in(Duration::from_secs(5)).await;
    let requests = bench.stats.requests.load(Relaxed);
    let before = bench.readings_in(Duration::from_secs(50)).await;
    assert_eq!((before["p0"], before["p1"]), (50, 5));
    assert_eq!(bench.stats.requests.load(Relaxed) - requests, 55);
    // The new plan comes after a minute.
    let across = bench.readings_in(Duration::from_secs(20)).await;
    assert!(across["p0"].abs_diff(20) <= 1 && across["p1"].abs_diff(2) <= 1, "{across:?}");
    let requests = bench.stats.requests.load(Relaxed);
    let after = bench.readings_in(Duration::from_secs(50)).await;
    assert_eq!((after["p0"], after["p1"]), (50, 5));
    assert_eq!(bench.stats.requests.load(Relaxed) - requests, 50);
    let ask = Ask::Write { point: 1, value: Value::Int(21), not_after: Instant::now() + TIMEOUT };
    let pending = bench.handle.begin(ask).expect("room");
    bench.readings_in(Duration::from_secs(1)).await;
    let exchange = pending.wait().await.expect("it is written");
    assert_eq!(exchange.point(1).expect("read back").value, Ok(Value::Int(21)));
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_of_a_device_and_how_late_polls_are_is_counted() {
    let mut bench = bench_with(&[1000, 1000], vec![block(&[0], 1000), block(&[1], 1000)], None);
    bench.readings_in(Duration::from_secs(5)).await;
    let device = &bench.stats.devices[0];
    assert_eq!(device.turnaround_us.load(Relaxed), 4200);
    assert_eq!((device.split_blocks.load(Relaxed), device.split_parts.load(Relaxed)), (1, 3));
    assert_eq!(bench.stats.lateness_us_max.load(Relaxed), 0);
    // A read that somebody asks for just before a poll is due makes that one late.
    for _ in 0..40 {
        let pending = bench.handle.begin(Ask::Read { point: 0 }).expect("room");
        bench.readings_in(Duration::from_millis(97)).await;
        pending.wait().await.expect("it is read");
    }
    let late = bench.stats.lateness_us_max.load(Relaxed);
    assert!(late > 0 && late <= 10_000, "{late} us");
}
