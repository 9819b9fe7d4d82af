//! The uplink while the clock of the machine is not set: what waits and what does not, for how long, and the corrections
//! of what could not wait.

use std::time::Duration;

use crate::fake_broker::{Answer, FakeBroker, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::outside::{Arrival, judge, readings};
use crate::uplink_bench::{Bench, quick, until, uplink};
use fieldgate::message::CorrectionRecord;

const CORRECTION: &str = "gw/g/event/correction";

fn arrivals(broker: &FakeBroker) -> Vec<Arrival> {
    broker.published().iter().flat_map(|p| readings(&p.topic, &p.payload)).collect()
}

#[tokio::test]
async fn what_waits_for_the_clock_keeps_nothing_else_waiting_and_then_goes_in_its_lane() {
    const BATCH: &str = "format = \"json-batch\"\nbatch = { max_readings = 7, max_delay = \"20ms\" }\n";
    for (more, strict) in [("", false), (BATCH, false), ("order = \"strict\"\n", true)] {
        let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
        let drain = MemoryDrain::new();
        // Ten of an earlier boot, then those of this one.
        drain.commit(1..31);
        drain.wait_from(Some(11));
        let config = uplink(&broker.url(), &format!("{more}wait_for_clock = \"1h\"\n"));
        let bench = Bench::start(config, drain, quick());
        until("those of the earlier boot", || bench.drain.delivered().len() == 10).await;
        bench.drain.commit(31..51);
        until("the words", || bench.counters.clock_wait_s().is_some_and(|left| left > 3500)).await;
        // A round trip of the control lane after the live ones came: had they been allowed to go, they would have.
        bench.drain.correct(1, correction(1));
        until("the correction", || bench.drain.told() == [1]).await;
        assert_eq!(bench.drain.delivered(), (1..11).collect::<Vec<_>>(), "{more}");
        bench.drain.wait_from(None);
        until("the rest", || bench.drain.queued() == 0).await;
        let seen = arrivals(&broker);
        assert_eq!((judge(&seen, 1..51), seen.len()), (0, 50), "{more}");
        assert!(seen.iter().all(|a| (a.lane == "history") == (a.seq < 31 && !strict)), "{more}: {seen:?}");
        until("the words to go", || bench.counters.clock_wait_s().is_none()).await;
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_clock_that_never_comes_is_waited_for_once_and_not_with_each_connection() {
    // Each third message breaks the connection.
    let broker =
        FakeBroker::start(Welcome::default(), |n, _| if n % 3 == 2 { Answer::Reset } else { Answer::Ack });
    let broker = broker.await;
    let drain = MemoryDrain::new();
    drain.commit(1..21);
    drain.wait_from(Some(1));
    let begun = tokio::time::Instant::now();
    let config = uplink(&broker.url(), "wait_for_clock = \"700ms\"\n");
    let bench = Bench::start(config, drain, quick());
    until("the first", || !bench.drain.delivered().is_empty()).await;
    assert!(begun.elapsed() >= Duration::from_millis(700), "it waits");
    bench.drain.commit(21..31);
    until("all of it", || {
        assert_eq!(bench.counters.clock_wait_s(), None, "and never again");
        bench.drain.queued() == 0
    })
    .await;
    assert!(broker.connects().len() > 5, "{}", broker.connects().len());
    judge(&arrivals(&broker), 1..31);
    bench.stop().await;
}

#[tokio::test]
async fn without_a_wait_the_log_is_not_even_asked() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..21);
    drain.wait_from(Some(1));
    let bench = Bench::start(uplink(&broker.url(), "wait_for_clock = \"0s\"\n"), drain, quick());
    until("all of it", || bench.drain.queued() == 0).await;
    assert_eq!(bench.counters.clock_wait_s(), None);
    bench.stop().await;
}

fn correction(first: u64) -> CorrectionRecord {
    CorrectionRecord {
        uplink: Some("cloud".into()),
        epoch: "00000001-aaaa0001".into(),
        seq: [first, first + 4],
        boot_id: "b".into(),
        shift_ms: 1_700_000_000_000,
        ts: "2026-11-22T14:30:00.000Z".into(),
    }
}

#[tokio::test]
async fn a_correction_is_repeated_until_it_is_acknowledged() {
    // The first breaks the connection, the second is refused.
    let broker = FakeBroker::start(Welcome::default(), |n, _| match n {
        0 => Answer::Reset,
        1 => Answer::Refuse(0x87),
        _ => Answer::Ack,
    })
    .await;
    let drain = MemoryDrain::new();
    // More than are read at once.
    let handles: Vec<u64> = (0..40).map(|n| 1 + n * 10).collect();
    for handle in &handles {
        drain.correct(*handle, correction(*handle));
    }
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    until("all of them", || bench.drain.told().len() == handles.len()).await;
    let mut told = bench.drain.told();
    told.sort_unstable();
    assert_eq!(told, handles, "each acknowledged once");
    let sent = broker.published();
    assert!(sent.iter().all(|p| p.topic == CORRECTION && !p.retain));
    for handle in handles {
        let payload = serde_json::to_vec(&correction(handle)).expect("JSON");
        assert!(sent.iter().any(|p| p.payload == payload));
    }
    assert!(sent.len() >= 42, "the first two were not enough: {}", sent.len());
    bench.stop().await;
}
