//! QoS 2: every reading once at the broker, whatever is lost on the way and whoever starts anew; and where that cannot
//! be, every reading at least once, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crate::fake_broker::{Answer, FakeBroker, Published, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::outside::{Arrival, judge, readings};
use crate::uplink_bench::{Bench, quick, until, uplink};
use fieldgate::uplink::State;

const QOS2: &str = "qos = 2\n";
const V311: &str = "qos = 2\nmqtt_version = \"3.1.1\"\n";
const BATCH: &str = "qos = 2\nformat = \"json-batch\"\nbatch = { max_readings = 40, max_delay = \"20ms\" }\n";
const COMPACT: &str = "qos = 2\nmqtt_version = \"3.1.1\"\nformat = \"compact\"\nbatch = { max_readings = 40, max_delay = \"20ms\" }\n";
const STRICT: &str = "qos = 2\norder = \"strict\"\n";

fn is_reading(p: &Published) -> bool {
    !readings(&p.topic, &p.payload).is_empty()
}

/// What a subscriber gets.
fn arrivals(broker: &FakeBroker) -> Vec<Arrival> {
    broker.accepted().iter().flat_map(|p| readings(&p.topic, &p.payload)).collect()
}

async fn drained(bench: &Bench) {
    until("the log to run dry", || bench.drain.queued() == 0).await;
    until("every exchange to be over", || bench.drain.noted().open.is_empty()).await;
}

fn inexact(bench: &Bench) -> (u64, u64) {
    (bench.counters.not_exactly_once.load(Relaxed), bench.counters.repeats.load(Relaxed))
}

#[tokio::test]
async fn everything_is_noted_first_and_arrives_once_in_order_in_both_versions_and_all_formats() {
    for more in [QOS2, V311, BATCH, COMPACT, STRICT] {
        let drain = MemoryDrain::new();
        let noted = drain.clone();
        let broker = FakeBroker::start(Welcome::topic_alias_maximum(10), move |_, p| {
            if is_reading(p) {
                let open = noted.noted().open;
                let numbers: Vec<u64> = readings(&p.topic, &p.payload).iter().map(|a| a.seq).collect();
                let exchange = open.iter().find(|open| open.id == p.id).expect("it was noted before");
                assert!(p.qos == 2 && exchange.range.clone().eq(numbers) && !exchange.received);
                assert!(noted.delivered().iter().all(|seq| !exchange.range.contains(seq)));
            }
            Answer::Ack
        })
        .await;
        drain.commit(1..301);
        let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
        until("the login", || !broker.published().is_empty()).await;
        bench.drain.commit(301..401);
        drained(&bench).await;
        let seen = arrivals(&broker);
        assert_eq!((judge(&seen, 1..401), seen.len()), (0, 400), "{more}");
        assert_eq!((bench.counters.delivered.load(Relaxed), inexact(&bench)), (400, (0, 0)), "{more}");
        let steps = bench.drain.steps();
        assert!(steps[0].begin.is_some() && steps[1..].iter().all(|s| s.begin.is_none()), "{more}");
        // Every PUBREC was noted, and together: far fewer steps than messages.
        assert_eq!(steps.iter().map(|s| s.received.len()).sum::<usize>(), broker.accepted().len(), "{more}");
        println!("{more:?}: {} messages, {} steps", broker.accepted().len(), steps.len());
        bench.stop().await;
        until("the farewell", || broker.farewells() >= 1).await;
    }
}

#[tokio::test]
async fn lost_publishes_receipts_and_completions_lead_to_no_repeat_and_no_loss() {
    for more in [QOS2, V311, BATCH, STRICT] {
        // Both of a prime number of messages, so that they fall everywhere: lost before the broker has it, after it, and
        // the answer to the PUBREL.
        let every = if more == BATCH { [17, 7] } else { [211, 97] };
        let releases = if more == BATCH {
            |n: usize| if n % 11 == 5 { Answer::Reset } else { Answer::Ack }
        } else {
            |n: usize| if n % 83 == 20 { Answer::Reset } else { Answer::Ack }
        };
        let welcome = Welcome { releases: Some(releases), ..Welcome::default() };
        let broker = FakeBroker::start(welcome, move |n, p| match n {
            _ if !is_reading(p) => Answer::Ack,
            n if n % every[0] == every[0] - 1 => Answer::BlackHole,
            n if n % every[1] == every[1] - 1 => Answer::Reset,
            n if n % 3 == 0 => Answer::AckAfter(Duration::from_millis(4)),
            n if n % 5 == 0 => Answer::AckTwice,
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
        let seen = arrivals(&broker);
        assert_eq!((judge(&seen, 1..801), seen.len()), (0, 800), "{more}");
        let connects = bench.counters.connects.load(Relaxed);
        let again = broker.published().iter().filter(|p| p.dup).count();
        assert!(connects > 3 && again > 0, "{more}: {connects} connections, {again} again");
        assert_eq!(inexact(&bench), (0, 0), "{more}");
        println!("{more:?}: {connects} connections, {again} messages went again, 0 repeats of 800");
        bench.stop().await;
    }
}

#[tokio::test]
async fn an_uplink_killed_again_and_again_goes_on_where_it_was() {
    for more in [QOS2, V311, BATCH, STRICT] {
        let broker = FakeBroker::start(Welcome::default(), |n, _| match n % 3 {
            0 => Answer::AckAfter(Duration::from_millis(3)),
            _ => Answer::Ack,
        })
        .await;
        let drain = MemoryDrain::new();
        let mut next = 1;
        for round in 0..40u64 {
            let bench = Bench::start(uplink(&broker.url(), more), drain.clone(), quick());
            drain.commit(next..next + 20);
            next += 20;
            until("some of it", || {
                broker.published().iter().filter(|p| is_reading(p)).count() as u64 > round
            })
            .await;
            tokio::time::sleep(Duration::from_millis(round % 13)).await;
            bench.kill().await;
        }
        let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
        drained(&bench).await;
        let seen = arrivals(&broker);
        assert_eq!((seen.len() as u64, judge(&seen, 1..next)), (next - 1, 0), "{more}");
        let again = broker.published().iter().filter(|p| p.dup).count();
        println!("{more:?}: {} readings, {again} messages went again", next - 1);
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_broker_that_forgets_gets_what_was_open_again_and_it_is_counted() {
    for more in [QOS2, V311] {
        let back = Arc::new(AtomicBool::new(false));
        let stands = back.clone();
        let broker = FakeBroker::start(Welcome { forgets: true, ..Welcome::default() }, move |n, _| {
            if n < 30 || stands.load(Relaxed) { Answer::Ack } else { Answer::Reset }
        })
        .await;
        let drain = MemoryDrain::new();
        drain.commit(1..101);
        let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
        until("a login that finds nothing", || broker.connects().len() >= 3).await;
        back.store(true, Relaxed);
        drained(&bench).await;
        let twice = judge(&arrivals(&broker), 1..101) as u64;
        let (doubtful, repeats) = inexact(&bench);
        assert!(
            twice > 0 && twice <= doubtful && doubtful == repeats,
            "{more}: {twice} {doubtful} {repeats}"
        );
        let delivered = bench.drain.delivered();
        assert_eq!(delivered, (1..101).collect::<Vec<_>>(), "{more}");
        assert!(bench.drain.steps().iter().filter(|s| s.begin.is_some()).count() >= 2, "{more}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_refused_message_is_tried_three_times_then_set_aside_and_the_line_goes_on() {
    let poison = |p: &Published| readings(&p.topic, &p.payload).iter().any(|a| a.seq == 7);
    let broker =
        FakeBroker::start(
            Welcome::default(),
            move |_, p| {
                if poison(p) { Answer::Refuse(0x87) } else { Answer::Ack }
            },
        )
        .await;
    let drain = MemoryDrain::new();
    drain.commit(1..31);
    let bench = Bench::start(uplink(&broker.url(), QOS2), drain, quick());
    drained(&bench).await;
    assert_eq!(bench.drain.rejected(), [7]);
    // The first try may not count: of the lane nothing had gone all the way then.
    let tries = broker.published().iter().filter(|p| poison(p)).count();
    assert!((3..=4).contains(&tries), "{tries} tries");
    assert_eq!(arrivals(&broker).len(), 29);
    assert!(bench.error_with("refuses").await.contains("not authorised"));
    bench.stop().await;
}

#[tokio::test]
async fn a_receive_maximum_is_kept_also_by_what_goes_again() {
    let broker = FakeBroker::start(Welcome::default(), |_, p| {
        if p.connection == 0 && is_reading(p) { Answer::Never } else { Answer::Ack }
    })
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..51);
    let bench = Bench::start(uplink(&broker.url(), QOS2), drain.clone(), quick());
    until("a window", || broker.published().iter().filter(|p| is_reading(p)).count() >= 20).await;
    bench.kill().await;
    let address = broker.address;
    let (open, held) = (drain.noted().open.len(), broker.held());
    assert!(open >= 20 && held.is_empty(), "{open} {held:?}");
    broker.set_welcome(Welcome::receive_maximum(1));
    broker.count_anew();
    let bench = Bench::start(uplink(&format!("mqtt://{address}"), QOS2), drain, quick());
    drained(&bench).await;
    let seen = arrivals(&broker);
    assert_eq!((judge(&seen, 1..51), seen.len(), broker.most_unanswered()), (0, 50, 1));
    assert!(broker.published().iter().filter(|p| p.dup).count() >= 20);
    bench.stop().await;
}

#[tokio::test]
async fn what_is_open_under_another_client_id_goes_out_as_new_in_a_session_of_its_own() {
    for more in [QOS2, V311] {
        // What is still on its way from the uplink that was killed is as lost as the rest of it.
        let from = Arc::new(AtomicUsize::new(usize::MAX));
        let answers = from.clone();
        let broker = FakeBroker::start(Welcome::default(), move |_, p| {
            if is_reading(p) && p.connection < answers.load(Relaxed) { Answer::Never } else { Answer::Ack }
        })
        .await;
        let drain = MemoryDrain::new();
        drain.commit(1..31);
        let bench = Bench::start(uplink(&broker.url(), more), drain.clone(), quick());
        until("a window", || drain.noted().open.len() >= 14).await;
        bench.kill().await;
        let open = drain.noted().open.len() as u64;
        let before = broker.connects().len();
        from.store(before, Relaxed);
        let bench = Bench::start(uplink(&broker.url(), &format!("{more}client_id = \"b\"")), drain, quick());
        drained(&bench).await;
        assert_eq!(bench.counters.not_exactly_once.load(Relaxed), open, "{more}");
        assert_eq!(judge(&arrivals(&broker), 1..31), 0);
        let clean = |c: &Vec<u8>| c[7] & 2 != 0;
        let logins: Vec<bool> = broker.connects()[before..].iter().map(clean).collect();
        // MQTT 3.1.1 has no login that begins a session that is kept, where there may be one.
        assert_eq!(logins, if more == V311 { vec![true, false] } else { vec![true] });
        bench.stop().await;
    }
}

#[tokio::test]
async fn what_is_open_and_gone_from_the_log_is_ended_and_its_id_is_not_left_at_the_broker() {
    let broker = FakeBroker::start(Welcome::default(), |_, p| {
        if p.connection == 0 && is_reading(p) { Answer::Reset } else { Answer::Ack }
    })
    .await;
    let drain = MemoryDrain::new();
    drain.commit(1..81);
    let bench = Bench::start(uplink(&broker.url(), BATCH), drain.clone(), quick());
    until("something at the broker", || !broker.held().is_empty()).await;
    bench.kill().await;
    drain.drop_records(1..5);
    let bench = Bench::start(uplink(&broker.url(), BATCH), drain, quick());
    drained(&bench).await;
    until("no id left", || broker.held().is_empty()).await;
    let repeats = judge(&arrivals(&broker), 1..81);
    let (doubtful, _) = inexact(&bench);
    assert_eq!((repeats, doubtful), (36, 36), "the rest of that message may arrive twice, and it is said");
    bench.stop().await;
}

#[tokio::test]
async fn a_broken_disk_stops_exactly_once_and_nothing_else() {
    for more in [QOS2, V311] {
        let broker =
            FakeBroker::start(Welcome::default(), |_, _| Answer::AckAfter(Duration::from_millis(3))).await;
        let drain = MemoryDrain::new();
        drain.commit(1..21);
        let bench = Bench::start(uplink(&broker.url(), more), drain.clone(), quick());
        until("the beginning", || !broker.accepted().is_empty()).await;
        drain.set_broken(true);
        drain.commit(21..101);
        until("all of it", || bench.drain.queued() == 0).await;
        bench.error_with("at least once").await;
        let plain = || broker.published().iter().filter(|p| is_reading(p) && p.qos == 1).count() as u64;
        let before = plain();
        assert!(before >= 60 && bench.counters.not_exactly_once.load(Relaxed) == before, "{more}: {before}");
        assert_eq!(bench.counters.connects.load(Relaxed), 1, "{more}");
        drain.set_broken(false);
        tokio::time::sleep(Duration::from_millis(100)).await;
        drain.commit(101..151);
        drained(&bench).await;
        assert_eq!(plain(), before, "{more}: exactly once again");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_login_with_a_broken_disk_leaves_no_session_and_one_begins_when_it_is_back() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.set_broken(true);
    drain.commit(1..21);
    let bench = Bench::start(uplink(&broker.url(), QOS2), drain.clone(), quick());
    until("all of it", || bench.drain.queued() == 0).await;
    assert_eq!(bench.counters.not_exactly_once.load(Relaxed), 20);
    drain.set_broken(false);
    bench.error_with("exactly once begins again").await;
    drain.commit(21..41);
    drained(&bench).await;
    assert_eq!(arrivals(&broker).len(), 20, "with QoS 2");
    assert_eq!(inexact(&bench), (20, 0));
    bench.stop().await;
}

#[tokio::test]
async fn a_broker_without_qos_2_is_told_apart_in_words() {
    let welcome = Welcome { properties: vec![0x24, 1], ..Welcome::default() };
    let broker = FakeBroker::start(welcome, |_, _| Answer::Ack).await;
    let bench = Bench::start(uplink(&broker.url(), QOS2), MemoryDrain::new(), quick());
    bench.error_with("at most QoS 1; write `qos = 1`").await;
    assert_ne!(bench.counters.state().0, State::Connected);
    bench.stop().await;
}

#[tokio::test]
async fn an_old_command_that_the_broker_kept_is_refused_and_a_new_one_is_not() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    let first = Bench::start(uplink(&broker.url(), QOS2), drain.clone(), quick());
    until("the session", || !drain.noted().is_none()).await;
    first.stop().await;
    broker.set_welcome(Welcome {
        kept: Some(("gw/g/command/pump/speed", r#"{"id":"c-1","value":3}"#)),
        ..Welcome::default()
    });
    let mut bench = Bench::start(uplink(&broker.url(), QOS2), Arc::clone(&drain), quick());
    until("the answer", || {
        let published = broker.published();
        published
            .iter()
            .any(|p| p.topic == "gw/g/result/pump/speed" && p.payload.windows(7).any(|w| w == b"refused"))
    })
    .await;
    until("the subscription", || broker.subscribed().len() >= 2).await;
    broker.send("gw/g/command/pump/speed", r#"{"id":"c-2","value":3}"#, false);
    let command = bench.commands.recv().await.expect("a command");
    assert!(command.payload.windows(3).any(|w| w == b"c-2"));
    bench.stop().await;
}
