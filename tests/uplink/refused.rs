//! A topic that may not be published, with the real log behind the uplink: what is declared of it, and in how many records.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use driver_api::{ByteSize, Span, Value};
use fieldgate::clock::{Clock, SystemClock};
use fieldgate::config::model;
use fieldgate::message::{PointKey, Reading};
use fieldgate::store::Store;
use fieldgate::uplink::{Deps, UplinkCounters, run_with};
use support::messages::{Message, losses, readings};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::fake_broker::{Answer, FakeBroker, Published, Welcome};
use crate::uplink_bench::{quick, until, uplink};

/// Points of the meter; the broker refuses those of [`REFUSED`].
const POINTS: usize = 8;
const REFUSED: [&str; 2] = ["/p1", "/p4"];
/// How often each point is read: more than a thousand readings are refused, and some are left that are not given up yet.
const ROUNDS: u32 = 600;

fn open(dir: &Path) -> Store {
    let config = model::Store {
        path: dir.to_owned(),
        min_free: ByteSize(0),
        commit_interval: Span::ms(5),
        ..model::Store::default()
    };
    Store::open(&config, &["cloud".to_owned()], Arc::new(SystemClock::new(true))).expect("opens").0
}

/// One reading of each point.
fn round(clock: &dyn Clock) -> Vec<Reading> {
    let key = |n| Arc::new(PointKey { device: "meter".into(), point: format!("p{n}"), unit: "V".into() });
    (0..POINTS).map(|n| Reading::good(key(n), clock.boot(), Value::UInt(n as u64))).collect()
}

/// An uplink to this broker; ends when the token says so.
fn start(
    store: &Store,
    broker: &FakeBroker,
) -> (Arc<UplinkCounters>, CancellationToken, tokio::task::JoinHandle<()>) {
    let (counters, stop) = (Arc::new(UplinkCounters::default()), CancellationToken::new());
    let (mirror, commands, local) = (mpsc::channel(64).1, mpsc::channel(2).0, mpsc::channel(2).0);
    let deps = Deps {
        gateway: "g".into(),
        drain: store.drain("cloud").expect("configured"),
        mirror,
        commands,
        local,
        counters: counters.clone(),
        clock: Arc::new(SystemClock::new(true)),
        file: None,
        stop: stop.clone(),
    };
    let task = tokio::spawn(run_with(uplink(&broker.url(), ""), deps, quick()));
    (counters, stop, task)
}

fn heard(published: &[Published], refuses: bool) -> Vec<Message> {
    let taken = published.iter().filter(|p| !refuses || !REFUSED.iter().any(|end| p.topic.ends_with(end)));
    let message = |p: &Published| Message {
        at: 0.0,
        qos: p.qos,
        retain: p.retain,
        topic: p.topic.clone(),
        payload: p.payload.clone(),
    };
    taken.map(message).collect()
}

#[tokio::test]
async fn what_is_refused_of_a_topic_for_good_is_declared_in_few_records_and_exactly() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, clock) = (open(dir.path()), SystemClock::new(true));
    let refusing = FakeBroker::start(Welcome::receive_maximum(20), |_, p| {
        if REFUSED.iter().any(|end| p.topic.ends_with(end)) { Answer::Refuse(0x87) } else { Answer::Ack }
    })
    .await;
    let (counters, stop, task) = start(&store, &refusing);
    let mut rounds = 0;
    until("a thousand to be given up", || {
        rounds += 1;
        if rounds <= ROUNDS {
            store.take(round(&clock));
        }
        counters.rejected.load(Relaxed) >= 1000
    })
    .await;
    let drain = store.drain("cloud").expect("configured");
    let told = || losses(&heard(&refusing.published(), true), "gw/g").0.iter().map(|l| l.count).sum::<u64>();
    until("the records", || told() >= 1000).await;
    stop.cancel();
    task.await.expect("it does not panic");
    // What was not given up yet, and what is not told yet, goes to one that takes it.
    let willing = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let (_, stop, task) = start(&store, &willing);
    let (delivered, passed) = (drain.ledger().delivered, counters.delivered.load(Relaxed));
    assert_eq!(delivered, passed, "what was delivered stays so");
    until("the log to run dry", || drain.ledger().queued == 0).await;
    let all = || [heard(&refusing.published(), true), heard(&willing.published(), false)].concat();
    let declared = || losses(&all(), "gw/g").0.iter().map(|l| l.count).sum::<u64>();
    until("all records", || declared() == drain.ledger().lost).await;
    stop.cancel();
    task.await.expect("it does not panic");
    let ledger = drain.ledger();
    assert_eq!(ledger.taken, ledger.delivered + ledger.lost, "{ledger:?}");
    let ((arrived, odd), (records, odd_records)) = (readings(&all(), "gw/g"), losses(&all(), "gw/g"));
    let mut verdict = support::judge(&arrived, &records, false);
    verdict.faults.extend(odd.into_iter().chain(odd_records));
    assert_eq!(verdict.faults, Vec::<String>::new());
    assert_eq!(verdict.distinct as u64 + verdict.declared, ledger.taken);
    // What is given up in the moment of a commit goes without names.
    let names: Vec<&String> = records.iter().filter_map(|r| r.points.as_ref()).flatten().collect();
    assert!(
        !names.is_empty() && names.iter().all(|p| REFUSED.iter().any(|end| p.ends_with(end))),
        "{names:?}"
    );
    println!("{} refused readings in {} records", verdict.declared, records.len());
    assert!(records.len() as u64 * 50 <= verdict.declared, "{} of {}", records.len(), verdict.declared);
    store.close().await.expect("closes");
}
