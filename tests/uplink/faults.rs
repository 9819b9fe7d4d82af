//! The uplink against a broker that misbehaves on demand: nothing is lost, nothing is reported
//! delivered without its acknowledgement, and every failure is told in words.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::fake_broker::{Answer, FakeBroker, Published, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::outside::{Arrival, judge, readings};
use crate::uplink_bench::{Bench, quick, until, uplink};
use fieldgate::uplink::{State, Timing};

const V311: &str = "mqtt_version = \"3.1.1\"\n";
const BATCH: &str = "format = \"json-batch\"\nbatch = { max_readings = 40, max_delay = \"20ms\" }\n";
const ZSTD: &str = "compression = \"zstd\"\n";

fn arrivals(broker: &FakeBroker) -> Vec<Arrival> {
    broker.published().iter().flat_map(|p| readings(&p.topic, &p.payload)).collect()
}

async fn drained(bench: &Bench) {
    until("the log to run dry", || bench.drain.queued() == 0).await;
}

#[tokio::test]
async fn everything_arrives_in_order_in_both_versions_and_all_formats() {
    for more in ["", V311, BATCH, &[V311, BATCH].concat(), &[BATCH, ZSTD].concat()] {
        let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
        let drain = MemoryDrain::new();
        drain.commit(1..301);
        let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
        until("the login", || !broker.published().is_empty()).await;
        bench.drain.commit(301..401);
        drained(&bench).await;
        let seen = arrivals(&broker);
        assert_eq!((judge(&seen, 1..401), seen.len()), (0, 400), "{more}");
        assert!(seen.iter().all(|a| (a.lane == "history") == (a.seq < 301)), "{more}");
        assert_eq!(bench.counters.delivered.load(Relaxed), 400);
        bench.stop().await;
        until("the farewell", || broker.farewells() == 1).await;
    }
}

#[tokio::test]
async fn strict_order_uses_one_lane_oldest_first() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..101);
    let bench = Bench::start(uplink(&broker.url(), "order = \"strict\""), drain, quick());
    until("the login", || !broker.published().is_empty()).await;
    bench.drain.commit(101..151);
    drained(&bench).await;
    let seen: Vec<(&str, u64)> = arrivals(&broker).iter().map(|a| (a.lane, a.seq)).collect();
    assert_eq!(seen, (1..151).map(|seq| ("live", seq)).collect::<Vec<_>>());
    bench.stop().await;
}

#[tokio::test]
async fn live_readings_overtake_a_backlog_that_still_moves() {
    // 20 places, 20 ms per acknowledgement: the backlog of 600 takes over half a second.
    let welcome = Welcome::receive_maximum(20);
    let broker = FakeBroker::start(welcome, |_, _| Answer::AckAfter(Duration::from_millis(20))).await;
    let drain = MemoryDrain::new();
    drain.commit(1..601);
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    until("the backlog to move", || broker.published().len() >= 100).await;
    bench.drain.commit(601..606);
    until("the live readings", || arrivals(&broker).iter().any(|a| a.seq == 605)).await;
    let old = arrivals(&broker).iter().filter(|a| a.lane == "history").count();
    assert!(old < 400, "{old} of the backlog went before the live readings");
    drained(&bench).await;
    judge(&arrivals(&broker), 1..606);
    assert!(broker.most_unanswered() <= 20, "{}", broker.most_unanswered());
    bench.stop().await;
}

#[tokio::test]
async fn late_double_and_disordered_acknowledgements_do_no_harm() {
    for more in ["", V311, BATCH] {
        let broker = FakeBroker::start(Welcome::default(), |n, _| match n % 5 {
            0 => Answer::AckAfter(Duration::from_millis(60)),
            1 => Answer::AckTwice,
            2 => Answer::AckAfter(Duration::from_millis(10)),
            _ => Answer::Ack,
        })
        .await;
        let drain = MemoryDrain::new();
        drain.commit(1..501);
        let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
        drained(&bench).await;
        assert_eq!(judge(&arrivals(&broker), 1..501), 0, "{more}");
        assert_eq!(bench.counters.connects.load(Relaxed), 1, "{more}: no acknowledgement ends a connection");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_link_reset_again_and_again_loses_nothing_and_repeats_only_the_same() {
    for more in ["", V311, BATCH, &[BATCH, ZSTD, "order = \"strict\"\n"].concat()] {
        let every = if more.contains("batch") { 7 } else { 90 };
        let broker = FakeBroker::start(Welcome::default(), move |n, _| match n % every {
            n if n == every - 1 => Answer::Reset,
            n if n % 3 == 0 => Answer::AckAfter(Duration::from_millis(5)),
            _ => Answer::Ack,
        })
        .await;
        let drain = MemoryDrain::new();
        drain.commit(1..401);
        let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
        for step in 0..20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            bench.drain.commit(401 + step * 20..421 + step * 20);
        }
        drained(&bench).await;
        let repeats = judge(&arrivals(&broker), 1..801);
        let connects = bench.counters.connects.load(Relaxed);
        assert!(connects > 2, "{more}: {connects} connections");
        assert!(bench.counters.repeats.load(Relaxed) >= repeats as u64);
        println!("{more:?}: {connects} connections, {repeats} repeats of 800");
        bench.stop().await;
    }
}

#[tokio::test]
async fn without_acknowledgements_nothing_counts_as_delivered_and_the_connection_is_given_up() {
    let broker = FakeBroker::start(Welcome::default(), |n, p| match (p.connection, n) {
        (0, 0..10) => Answer::Ack,
        (0, _) => Answer::Never,
        _ => Answer::Ack,
    })
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..51);
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    until("the silence", || broker.published().len() >= 50 && bench.drain.delivered().len() == 10).await;
    assert_eq!(bench.drain.delivered(), (1..11).collect::<Vec<_>>());
    let text = bench.error_with("acknowledgement").await;
    assert!(text.starts_with("timeout"), "{text}");
    drained(&bench).await;
    assert_eq!(judge(&arrivals(&broker), 1..51), 40);
    assert_eq!(bench.counters.repeats.load(Relaxed), 40);
    bench.stop().await;
}

#[tokio::test]
async fn a_black_hole_is_found_by_pings_when_nothing_is_in_flight() {
    let broker = FakeBroker::start(Welcome { deaf: true, ..Welcome::default() }, |_, _| Answer::Ack).await;
    let config = uplink(&broker.url(), "keep_alive = \"1s\"");
    let bench = Bench::start(config, MemoryDrain::new(), quick());
    bench.error_with("does not answer pings").await;
    until("another attempt", || broker.connects().len() >= 2).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_black_hole_in_the_middle_of_a_drain_loses_nothing() {
    let broker =
        FakeBroker::start(Welcome::default(), |n, _| if n == 30 { Answer::BlackHole } else { Answer::Ack })
            .await;
    let drain = MemoryDrain::new();
    drain.commit(1..201);
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    drained(&bench).await;
    judge(&arrivals(&broker), 1..201);
    assert_eq!(bench.counters.connects.load(Relaxed), 2);
    bench.stop().await;
}

#[tokio::test]
async fn a_refused_message_is_tried_three_times_then_set_aside_and_the_line_goes_on() {
    let poison = |p: &Published| readings(&p.topic, &p.payload).iter().any(|a| a.seq == 7);
    let broker =
        FakeBroker::start(
            Welcome::default(),
            move |_, p| if poison(p) { Answer::Refuse(0x87) } else { Answer::Ack },
        )
        .await;
    let drain = MemoryDrain::new();
    drain.commit(1..31);
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    drained(&bench).await;
    assert_eq!(bench.drain.rejected(), [7]);
    assert_eq!(arrivals(&broker).iter().filter(|a| a.seq == 7).count(), 3);
    assert_eq!(bench.counters.rejected.load(Relaxed), 1);
    assert!(bench.error_with("refuses").await.contains("not authorised"));
    bench.stop().await;
}

#[tokio::test]
async fn a_broker_that_refuses_everything_is_waited_out_and_nothing_is_given_up() {
    // Wrong rights in the cloud, mended after a while; then a quota that closes in the middle, and opens again.
    let (mended, full) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (allowed, quota) = (mended.clone(), full.clone());
    let broker = FakeBroker::start(Welcome::default(), move |_, p| {
        match (p.topic.contains("/status"), allowed.load(Relaxed), quota.load(Relaxed)) {
            (false, false, _) => Answer::Refuse(0x87),
            (false, true, true) => Answer::Refuse(0x97),
            _ => Answer::Ack,
        }
    })
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..31);
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    until("ten rounds of tries", || broker.published().len() >= 300).await;
    assert_eq!((bench.drain.rejected(), bench.drain.queued()), (vec![], 30));
    mended.store(true, Relaxed);
    drained(&bench).await;
    full.store(true, Relaxed);
    let before = broker.published().len();
    bench.drain.commit(31..61);
    until("ten rounds of tries", || broker.published().len() >= before + 300).await;
    assert_eq!(bench.drain.rejected(), Vec::<u64>::new());
    full.store(false, Relaxed);
    drained(&bench).await;
    assert_eq!(bench.drain.rejected(), Vec::<u64>::new());
    bench.stop().await;
}

#[tokio::test]
async fn a_batch_over_the_brokers_limit_is_split_and_a_single_giant_set_aside() {
    let broker = FakeBroker::start(Welcome::maximum_packet_size(900), |_, p| {
        assert!(p.payload.len() + p.topic.len() <= 900);
        Answer::Ack
    })
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..101);
    drain.commit_text(101, 5000);
    drain.commit(102..121);
    let bench = Bench::start(uplink(&broker.url(), BATCH), drain, quick());
    drained(&bench).await;
    assert_eq!(bench.drain.rejected(), [101]);
    judge(&arrivals(&broker), (1..101).chain(102..121));
    assert!(bench.error_with("larger than the 900").await.contains("batch"));
    bench.stop().await;
}

#[tokio::test]
async fn a_batch_refused_as_too_large_is_halved_until_it_fits() {
    let broker = FakeBroker::start(Welcome::default(), |_, p| {
        if p.payload.len() > 400 { Answer::Refuse(0x95) } else { Answer::Ack }
    })
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..201);
    let bench = Bench::start(uplink(&broker.url(), BATCH), drain, quick());
    drained(&bench).await;
    assert_eq!(bench.drain.rejected(), Vec::<u64>::new());
    let accepted = bench.drain.delivered();
    assert_eq!(accepted, (1..201).collect::<Vec<_>>());
    bench.stop().await;
}

#[tokio::test]
async fn a_batch_never_spans_a_hole_or_a_change_of_epoch() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    let change = crate::memory_drain::EPOCH_CHANGE;
    drain.commit(change - 10..change - 4);
    drain.commit(change - 2..change + 5);
    let bench = Bench::start(uplink(&broker.url(), BATCH), drain, quick());
    drained(&bench).await;
    let runs: Vec<(u64, usize)> = broker
        .published()
        .iter()
        .map(|p| readings(&p.topic, &p.payload))
        .filter(|r| !r.is_empty())
        .map(|r| (r[0].seq, r.len()))
        .collect();
    assert_eq!(runs, [(change - 10, 6), (change - 2, 2), (change, 5)]);
    let epochs: Vec<String> = arrivals(&broker).iter().map(|a| a.epoch.clone()).collect();
    assert_eq!((&*epochs[7], &*epochs[8]), ("00000001-aaaa0001", "00000002-bbbb0002"));
    bench.stop().await;
}

#[tokio::test]
async fn a_log_that_cannot_be_read_for_a_while_is_asked_again() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..11);
    drain.fail_reads(3);
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    bench.error_with("disk trouble").await;
    drained(&bench).await;
    assert_eq!(judge(&arrivals(&broker), 1..11), 0);
    bench.stop().await;
}

#[tokio::test]
async fn nonsense_from_the_broker_ends_the_connection_and_never_the_task() {
    const NONSENSE: [&[u8]; 8] = [
        &[0x20, 3, 0, 0, 0],             // a second welcome
        &[0x20, 6, 0, 0, 3, 0x21, 0, 1], // … that would change the limits
        &[0x32, 6, 0, 1, b't', 0, 0, 0], // packet id 0
        &[0x00, 0x00],                   // a reserved type
        &[0x30, 0xff, 0xff, 0xff, 0xff], // an endless length
        &[0x36, 6, 0, 1, b't', 0, 1, 0], // QoS 3
        &[0x40, 5, 0, 1, 0x87, 200, 1],  // properties that are not there
        &[0x30, 5, 0, 1, 0xff, 0, b'x'], // a topic that is no UTF-8
    ];
    let broker = FakeBroker::start(Welcome::default(), |n, p| match n {
        n if n % 10 == 5 => Answer::Bytes(NONSENSE[p.connection % NONSENSE.len()]),
        _ => Answer::Ack,
    })
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..301);
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    drained(&bench).await;
    judge(&arrivals(&broker), 1..301);
    bench.error_with("protocol").await;
    bench.stop().await;
}

#[tokio::test]
async fn each_way_not_to_get_in_is_named_in_words() {
    let refused = FakeBroker::start(Welcome { code: 0x87, ..Welcome::default() }, |_, _| Answer::Ack).await;
    let refused_311 = FakeBroker::start(Welcome { code: 4, ..Welcome::default() }, |_, _| Answer::Ack).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent_url = format!("mqtt://{}", silent.local_addr().expect("bound"));
    let tls_url = refused.url().replace("mqtt:", "mqtts:");
    let closed = {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        format!("mqtt://{}", gone.local_addr().expect("bound"))
    };
    let impatient = Timing { connect: Duration::from_millis(300), ..quick() };
    for (url, more, words) in [
        (refused.url().as_str(), "", "login refused: not authorised"),
        (refused_311.url().as_str(), V311, "wrong user name or password"),
        (silent_url.as_str(), "", "timeout: connecting"),
        (closed.as_str(), "", "connection refused by 127.0.0.1"),
        ("mqtt://no-such-host.invalid", "", "DNS: `no-such-host.invalid`"),
        (tls_url.as_str(), "", "TLS"),
        (refused.url().as_str(), "password_file = \"/nonexistent\"", "password_file"),
    ] {
        let bench = Bench::start(uplink(url, more), MemoryDrain::new(), impatient.clone());
        let text = bench.error_with(words).await;
        println!("{text}");
        assert_ne!(bench.counters.state().0, State::Connected);
        bench.stop().await;
    }
}

#[tokio::test]
async fn the_fallback_is_tried_when_the_first_does_not_answer() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let dead = format!("mqtt://{}", gone.local_addr().expect("bound"));
    drop(gone);
    let drain = MemoryDrain::new();
    drain.commit(1..11);
    let bench =
        Bench::start(uplink(&dead, &format!("fallback_urls = [\"{}\"]", broker.url())), drain, quick());
    drained(&bench).await;
    assert_eq!(bench.counters.state().0, State::Connected);
    bench.stop().await;
}

#[tokio::test]
async fn a_brokers_parting_words_are_told() {
    let broker = FakeBroker::start(Welcome::default(), |n, _| match n {
        0 => Answer::Bytes(&[0xe0, 1, 0x8e]),
        _ => Answer::Ack,
    })
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..11);
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    bench.error_with("another client with the same client id took over").await;
    drained(&bench).await;
    bench.stop().await;
}

#[tokio::test]
async fn the_brokers_own_keep_alive_goes_before_ours() {
    let welcome = Welcome { deaf: true, properties: vec![0x13, 0, 1], ..Welcome::default() };
    let broker = FakeBroker::start(welcome, |_, _| Answer::Ack).await;
    let before = tokio::time::Instant::now();
    let bench = Bench::start(uplink(&broker.url(), "keep_alive = \"600s\""), MemoryDrain::new(), quick());
    bench.error_with("does not answer pings").await;
    assert!(before.elapsed() < Duration::from_secs(20));
    bench.stop().await;
}

#[tokio::test]
async fn a_reading_whose_topic_is_none_is_set_aside_and_the_line_goes_on() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..11);
    drain.commit_named(11, "not#a+topic");
    drain.commit(12..21);
    let bench = Bench::start(uplink(&broker.url(), ""), drain, quick());
    drained(&bench).await;
    assert_eq!(bench.drain.rejected(), [11]);
    assert_eq!(bench.counters.connects.load(Relaxed), 1);
    bench.stop().await;
}
