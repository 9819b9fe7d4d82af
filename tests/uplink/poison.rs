//! Messages that a broker will not have, in its words or by closing the connection: they hold up nothing else, and are set
//! aside when there is no doubt. What only looks like that, a bad link, costs nothing.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fieldgate::message::{BootMs, Forwarded, WallMs};

use crate::fake_broker::{Answer, FakeBroker, Published, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::mosquitto::{Mosquitto, installed};
use crate::outside::{Arrival, judge, readings};
use crate::uplink_bench::{Bench, quick, until, uplink};

const V311: &str = "mqtt_version = \"3.1.1\"\n";
const STRICT: &str = "order = \"strict\"\n";
const BATCH: &str = "format = \"json-batch\"\nbatch = { max_readings = 40, max_delay = \"20ms\" }\n";
const UP: &str = "[[forward]]\nfilter = \"z/#\"\nto = \"up/data/{gateway}/{topic}\"\n";

fn arrivals(broker: &FakeBroker) -> Vec<Arrival> {
    let published = broker.published();
    let ours = published.iter().filter(|p| !p.topic.starts_with("up/"));
    ours.flat_map(|p| readings(&p.topic, &p.payload)).collect()
}

/// Commits one number after the other from `from` on, every 5 ms, until the condition holds; returns one past the last.
async fn feed(bench: &Bench, from: u64, what: &str, mut done: impl FnMut() -> bool) -> u64 {
    let mut next = from;
    until(what, || {
        bench.drain.commit(next..next + 1);
        next += 1;
        done()
    })
    .await;
    next
}

fn large(seq: u64) -> impl Fn(&Published) -> bool + Send + Sync + 'static {
    move |p| !p.topic.contains("status") && (p.payload.len() > 3000 || (seq == 0 && p.payload.len() > 900))
}

#[tokio::test]
async fn a_message_at_which_the_broker_closes_is_set_aside_and_all_else_goes_on() {
    for more in [V311, "", STRICT, &[V311, STRICT].concat(), "qos = 2\n"] {
        let poison = large(1);
        let broker =
            FakeBroker::start(
                Welcome::default(),
                move |_, p| {
                    if poison(p) { Answer::Reset } else { Answer::Ack }
                },
            )
            .await;
        let drain = MemoryDrain::new();
        drain.commit(1..11);
        drain.commit_text(11, 5000);
        drain.commit(12..101);
        let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
        let end =
            feed(&bench, 101, "the message to be set aside", || !bench.drain.rejected().is_empty()).await;
        until("the log to run dry", || bench.drain.queued() == 0).await;
        assert_eq!(bench.drain.rejected(), [11], "{more}");
        assert_eq!(bench.counters.rejected.load(Relaxed), 1);
        let seen: Vec<_> = arrivals(&broker).into_iter().map(|a| a.seq).collect();
        assert!((1..end).filter(|n| *n != 11).all(|n| seen.contains(&n)), "{more}");
        let text = bench.error_with("closes the connection at this message").await;
        assert!(text.contains("/p2`, 5") && text.contains("larger than its limit"), "{text}");
        println!("{more:?}: {} connections, {end} readings", bench.counters.connects.load(Relaxed));
        bench.stop().await;
    }
}

#[tokio::test]
async fn mosquitto_with_a_limit_that_mqtt_3_1_1_cannot_say_takes_all_that_is_smaller() {
    if !installed() {
        return;
    }
    for more in [V311, &[V311, "format = \"json-batch\"\nbatch = { max_delay = \"20ms\" }\n"].concat()] {
        let dir = tempfile::tempdir().expect("a directory");
        let broker = Mosquitto::start_with(dir, "", "max_packet_size 3000\n").await;
        let drain = MemoryDrain::new();
        drain.commit(1..301);
        drain.commit_text(301, 5000);
        drain.commit(302..601);
        let url = format!("mqtt://127.0.0.1:{}", broker.port);
        let bench = Bench::start(uplink(&url, more), drain, quick());
        feed(&bench, 601, "the message to be set aside", || !bench.drain.rejected().is_empty()).await;
        until("the log to run dry", || bench.drain.queued() == 0).await;
        assert_eq!(bench.drain.rejected(), [301], "{more}");
        println!("{more:?}: {} connections", bench.counters.connects.load(Relaxed));
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_message_of_another_device_at_which_the_broker_closes_is_set_aside() {
    let poison = large(1);
    let broker = FakeBroker::start(
        Welcome::default(),
        move |_, p| if poison(p) { Answer::Reset } else { Answer::Ack },
    )
    .await;
    let drain = MemoryDrain::new();
    let message = |len: usize| Forwarded {
        at: BootMs(1),
        topic: "z/camera".into(),
        payload: vec![b'x'; len].into(),
        qos: 1,
        retain: false,
        props: None,
        expiry: None,
        origin: None,
    };
    drain.commit_message(1, WallMs(0), message(10));
    drain.commit_message(2, WallMs(0), message(5000));
    drain.commit_message(3, WallMs(0), message(20));
    let bench = Bench::start(uplink(&broker.url(), &[V311, UP].concat()), drain, quick());
    feed(&bench, 4, "the message to be set aside", || !bench.drain.rejected().is_empty()).await;
    until("the log to run dry", || bench.drain.queued() == 0).await;
    assert_eq!(bench.drain.rejected(), [2]);
    let lens: Vec<_> =
        broker.published().iter().filter(|p| p.topic.starts_with("up/")).map(|p| p.payload.len()).collect();
    assert_eq!((lens.first(), lens.last()), (Some(&10), Some(&20)), "what is behind it on its topic waits");
    bench.stop().await;
}

#[tokio::test]
async fn a_batch_at_which_the_broker_closes_is_cut_until_it_passes() {
    let poison = large(0);
    let broker = FakeBroker::start(
        Welcome::default(),
        move |_, p| if poison(p) { Answer::Reset } else { Answer::Ack },
    )
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..401);
    let bench = Bench::start(uplink(&broker.url(), &[V311, BATCH].concat()), drain, quick());
    until("the log to run dry", || bench.drain.queued() == 0).await;
    assert_eq!(bench.drain.rejected(), Vec::<u64>::new());
    judge(&arrivals(&broker), 1..401);
    bench.stop().await;
}

#[tokio::test]
async fn a_topic_at_which_the_broker_closes_stops_no_other_topic() {
    let broker = FakeBroker::start(Welcome::default(), |_, p| {
        if p.topic.ends_with("/p1") { Answer::Reset } else { Answer::Ack }
    })
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..31);
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    let end = feed(&bench, 31, "five to be set aside", || bench.drain.rejected().len() >= 5).await;
    let others = |n: &u64| *n % 3 != 1;
    println!("{} connections, {end} readings", bench.counters.connects.load(Relaxed));
    until("all others", || (1..end).filter(others).all(|n| bench.drain.delivered().contains(&n))).await;
    assert!(bench.drain.rejected().iter().all(|n| n % 3 == 1), "{:?}", bench.drain.rejected());
    bench.stop().await;
}

#[tokio::test]
async fn a_topic_at_which_the_broker_closes_goes_by_the_backlogs_where_that_is_allowed() {
    let broker = FakeBroker::start(Welcome::default(), |_, p| {
        if p.topic.contains("/data/") && p.topic.ends_with("/p1") { Answer::Reset } else { Answer::Ack }
    })
    .await;
    let bench = Bench::start(uplink(&broker.url(), ""), MemoryDrain::new(), quick());
    let half = || bench.drain.delivered().iter().filter(|n| *n % 3 == 1).count() >= 100;
    feed(&bench, 1, "a hundred of the topic", half).await;
    assert_eq!(bench.drain.rejected(), Vec::<u64>::new());
    println!("{} connections for 300 readings", bench.counters.connects.load(Relaxed));
    bench.stop().await;
}

/// The same broker as seen through several bad links. Nothing may be given up, and what can pass does.
#[tokio::test]
async fn a_link_that_is_cut_again_and_again_loses_nothing() {
    type Cut = fn(&mut (usize, usize), &Published) -> bool;
    let cuts: [(&str, Cut); 4] = [
        ("every reading", |_, p| p.topic.contains("/data/") || p.topic.contains("/history/")),
        ("after ten messages", |(n, _), _| *n >= 10),
        ("after 3000 bytes", |(_, bytes), _| *bytes > 3000),
        ("at random", |_, p| {
            p.payload.iter().map(|b| usize::from(*b)).sum::<usize>() % 19 == p.connection % 19
        }),
    ];
    for (what, cut) in cuts {
        let carried: Mutex<HashMap<usize, (usize, usize)>> = Mutex::default();
        let broker = FakeBroker::start(Welcome::default(), move |_, p| {
            let mut all = carried.lock().expect("not poisoned");
            let here = all.entry(p.connection).or_default();
            (here.0, here.1) = (here.0 + 1, here.1 + p.len);
            if cut(here, p) { Answer::Reset } else { Answer::Ack }
        })
        .await;
        let drain = MemoryDrain::new();
        drain.commit(1..11);
        drain.commit_text(11, 5000);
        drain.commit(12..31);
        let bench = Bench::start(uplink(&broker.url(), V311), drain, quick());
        let start = tokio::time::Instant::now();
        let long = || start.elapsed() > Duration::from_secs(3) && broker.connects().len() >= 20;
        let end = feed(&bench, 31, "twenty connections", long).await;
        assert_eq!(bench.drain.rejected(), Vec::<u64>::new(), "{what}");
        let (left, all) = (bench.drain.queued(), end - 1);
        println!("{what}: {} connections, {left} of {all} left", broker.connects().len());
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_topic_that_is_refused_holds_up_no_other_and_its_readings_are_sent_once() {
    let broker = FakeBroker::start(Welcome::receive_maximum(20), |_, p| {
        if p.topic.ends_with("/p1") { Answer::Refuse(0x87) } else { Answer::Ack }
    })
    .await;
    for more in ["", STRICT] {
        let drain = MemoryDrain::new();
        drain.commit(1..301);
        // Who waited for the tries of the first ones would wait for longer than `until` does.
        let timing = fieldgate::uplink::Timing { retry: Duration::from_secs(600), ..quick() };
        let bench = Bench::start(uplink(&broker.url(), more), drain, timing);
        let others = |n: &u64| *n % 3 != 1;
        until("all others", || (1..301).filter(others).all(|n| bench.drain.delivered().contains(&n))).await;
        assert_eq!(bench.drain.rejected(), Vec::<u64>::new(), "the first of them is still tried");
        bench.stop().await;
    }
}

#[tokio::test]
async fn what_lay_aside_of_a_refused_topic_goes_when_it_is_allowed() {
    let allowed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let now = allowed.clone();
    let broker = FakeBroker::start(Welcome::default(), move |_, p| {
        if p.topic.ends_with("/p1") && !now.load(Relaxed) { Answer::Refuse(0x87) } else { Answer::Ack }
    })
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..301);
    let bench = Bench::start(uplink(&broker.url(), STRICT), drain, quick());
    feed(&bench, 301, "the first to be given up", || !bench.drain.rejected().is_empty()).await;
    allowed.store(true, Relaxed);
    bench.drain.commit(2000..2003);
    until("the log to run dry", || bench.drain.queued() == 0).await;
    println!("{} given up, {} delivered", bench.drain.rejected().len(), bench.drain.delivered().len());
    assert!(bench.drain.rejected().len() < 10, "{:?}", bench.drain.rejected());
    bench.stop().await;
}
