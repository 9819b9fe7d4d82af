//! Messages of other devices in the log: whose they are, when they are stored, and what the ledgers say of it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::forward::Forwards;
use crate::message::{Docket, Forwarded, ForwardedRecord, LossReason};
use crate::store::{Posted, Wishes};

/// `cloud` wants everything below `z/`, `plant` nothing.
pub fn wishes() -> Wishes {
    [("cloud".to_owned(), forwards(&["z/#"]))].into()
}

/// Forwards with these filters.
pub fn forwards(filters: &[&str]) -> Arc<Forwards> {
    let routes = filters.iter().map(|f| format!("[[forward]]\nfilter = \"{f}\"\nto = \"x/{{topic}}\"\n"));
    let text = format!("name = \"u\"\nurl = \"mqtt://b\"\n{}", routes.collect::<String>());
    Arc::new(Forwards::new(&toml::from_str(&text).expect("an uplink"), "g"))
}

pub fn message(n: u64) -> Arc<Forwarded> {
    letter(n, "z/lamp")
}

pub fn letter(n: u64, topic: &str) -> Arc<Forwarded> {
    Arc::new(Forwarded {
        at: BootMs(n),
        topic: topic.into(),
        payload: n.to_string().into(),
        qos: (n % 3) as u8,
        retain: n.is_multiple_of(2),
        props: None,
        expiry: None,
        origin: None,
    })
}

pub fn open_two(config: &model::Store, boot: &str) -> (Store, Recovery) {
    opened_with(config, &uplinks(&["cloud", "plant"]), TestClock::new(boot))
}

/// As [`opened`], where `cloud` forwards.
pub fn opened_with(config: &model::Store, uplinks: &[String], clock: Arc<TestClock>) -> (Store, Recovery) {
    for _ in 0..1000 {
        match Store::open_with(config, ("", uplinks), wishes(), clock.clone()) {
            Err(StoreError::InUse(_)) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.expect("opens"),
        }
    }
    panic!("in use for 10 s");
}

/// All that is pending: numbers of the readings, and the messages.
pub async fn all(drain: &dyn Drain) -> (Vec<u64>, Vec<ForwardedRecord>) {
    let (mut readings, mut messages) = (Vec::new(), Vec::new());
    for range in drain.pending() {
        let mut at = range.start;
        while at < range.end {
            let chunk = drain.read(at..range.end, 100).await.expect("reads");
            readings.extend(seqs(&chunk.records));
            messages.extend(chunk.messages);
            at = chunk.next;
        }
    }
    (readings, messages)
}

pub fn payloads(messages: &[ForwardedRecord]) -> Vec<u64> {
    let number = |m: &ForwardedRecord| {
        std::str::from_utf8(&m.message.payload).expect("digits").parse().expect("a number")
    };
    messages.iter().map(number).collect()
}

#[tokio::test]
async fn a_message_is_delivered_to_who_wants_it_and_counted_nowhere_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { commit_interval: Span::s(3600), ..config(dir.path()) };
    let (store, _) = open_two(&config, "a");
    let (cloud, plant) = (store.drain("cloud").expect("one"), store.drain("plant").expect("the other"));
    let mut stored = store.posted();
    store.take(readings(1..4));
    assert_eq!(store.post(vec![message(1), letter(2, "other"), message(3)]), 3);
    store.take(readings(4..6));
    assert_eq!((balanced(&*cloud).taken, *stored.borrow_and_update()), (5, 0), "no number before the commit");
    store.flush().await.expect("flushes");
    assert_eq!(*stored.borrow_and_update(), 3);
    // Readings 1 to 5, messages 6 to 8.
    assert_eq!((cloud.pending(), plant.pending()), (vec![1..7, 8..9], vec![1..6]));
    assert_eq!((balanced(&*cloud).taken, balanced(&*plant).taken), (7, 5));
    let (numbers, found) = all(&*cloud).await;
    assert_eq!((numbers, payloads(&found)), ((1..6).collect(), vec![1, 3]));
    assert_eq!(found[1].message, message(3), "as it was published");
    assert_eq!(all(&*plant).await, ((1..6).collect(), vec![]));
    cloud.delivered(1..7);
    plant.delivered(1..6);
    let (a, b) = (balanced(&*cloud), balanced(&*plant));
    assert_eq!((a.delivered, a.queued, b.delivered, b.queued), (6, 1, 5, 0));
    store.clone().close().await.expect("closes");
    drop(store);

    let (store, recovery) = open_two(&config, "a");
    assert!(recovery.losses.is_empty(), "{recovery:?}");
    let (cloud, plant) = (store.drain("cloud").expect("one"), store.drain("plant").expect("the other"));
    assert_eq!(payloads(&all(&*cloud).await.1), [3]);
    assert_eq!((balanced(&*plant).queued, balanced(&*plant).delivered), (0, 5), "and it is settled on disk");
    let there = store.read(0..100, 100).await.expect("reads");
    assert_eq!((there.records.len(), there.messages.len()), (5, 3), "a person sees everything");
    assert_eq!(store.last_values().len(), 5, "a message is no point");
}

#[tokio::test]
async fn who_does_not_forward_has_an_exact_ledger_after_a_long_outage_and_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open_two(&config(dir.path()), "a");
    for n in 0..30 {
        store.take(readings(n * 3..n * 3 + 3));
        store.post(vec![message(n), message(n + 1)]);
        store.flush().await.expect("flushes");
    }
    let ledger = balanced(&*store.drain("plant").expect("configured"));
    assert_eq!((ledger.taken, ledger.queued), (90, 90), "nothing had to be read for that");
    store.crash();
    let (store, recovery) = open_two(&config(dir.path()), "a");
    assert!(recovery.losses.is_empty());
    let (cloud, plant) = (store.drain("cloud").expect("one"), store.drain("plant").expect("the other"));
    let (numbers, found) = all(&*plant).await;
    assert_eq!((numbers.len(), found.len(), balanced(&*plant).queued), (90, 0, 90));
    for range in plant.pending() {
        plant.delivered(range);
    }
    let ledger = balanced(&*plant);
    assert_eq!((ledger.taken, ledger.delivered, ledger.queued), (90, 90, 0));
    let (numbers, found) = all(&*cloud).await;
    assert_eq!((numbers.len(), found.len()), (90, 60));
    let order: Vec<u64> = (0..30).flat_map(|n| [n, n + 1]).collect();
    assert_eq!(payloads(&found), order);
}

#[tokio::test]
async fn what_the_limits_drop_is_declared_to_whom_it_was_owed_with_its_topic() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut small = config(dir.path());
    small.max_size = ByteSize(256 << 10);
    let (store, _) = open_two(&small, "a");
    let noise = |n: u64| -> Arc<Forwarded> {
        let payload: Vec<u8> = (0..3000).map(|_| fastrand::u8(..)).collect();
        Arc::new(Forwarded { payload: payload.into(), ..(*message(n)).clone() })
    };
    for n in 0..200u64 {
        store.take(readings(n..n + 1));
        store.post(vec![noise(n)]);
        store.flush().await.expect("flushes");
    }
    let (cloud, plant) = (store.drain("cloud").expect("one"), store.drain("plant").expect("the other"));
    let declared = losses(&*cloud).await;
    assert!(balanced(&*cloud).lost > 50, "{declared:?}");
    assert!(declared.iter().all(|l| l.reason == LossReason::QueueFull));
    let points = declared[0].points.clone().expect("known");
    assert!(points.contains(&"z/lamp".to_owned()) && points.iter().any(|p| p.starts_with("meter/")));
    let (a, b) = (balanced(&*cloud), balanced(&*plant));
    assert_eq!((a.taken, b.taken), (400, 200));
    assert_eq!(a.lost, 2 * b.lost, "each block has as many of the one as of the other");
    assert_eq!(losses(&*plant).await.iter().map(|l| l.count).sum::<u64>(), b.lost);
}

#[tokio::test]
async fn a_burst_larger_than_the_bound_is_stored_in_a_few_commits_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { commit_interval: Span::s(3600), ..config(dir.path()) };
    let (store, _) = open_two(&config, "a");
    let mut stored = store.posted();
    store.post((0..3000).map(message));
    store.flush().await.expect("flushes");
    assert_eq!(*stored.borrow_and_update(), 3000);
    let (_, found) = all(&*store.drain("cloud").expect("configured")).await;
    assert_eq!(payloads(&found), (0..3000).collect::<Vec<_>>());
}

#[tokio::test]
async fn publishers_that_wait_hasten_the_commit_and_others_do_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { commit_interval: Span::s(3600), ..config(dir.path()) };
    let (store, _) = open_two(&config, "a");
    let mut stored = store.posted();
    let with = |qos: u8, n: u64| Arc::new(Forwarded { qos, ..(*message(n)).clone() });
    store.post((0..100).map(|n| with(0, n)));
    store.post((100..115).map(|n| with(1, n)));
    store.read(0..1, 1).await.expect("the thread has looked at it");
    assert_eq!(*stored.borrow_and_update(), 0);
    store.post(vec![with(2, 115)]);
    until("the commit", || *store.posted().borrow() == 116).await;
}

#[tokio::test]
async fn many_large_messages_are_read_in_bounded_pieces() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open_two(&config(dir.path()), "a");
    let large = |n: u64| {
        let payload = vec![n as u8; 200 << 10];
        Arc::new(Forwarded { payload: payload.into(), ..(*message(n)).clone() })
    };
    store.post((0..20).map(large));
    store.flush().await.expect("flushes");
    let drain = store.drain("cloud").expect("configured");
    let (mut at, mut pieces, mut seen) = (1, 0, 0);
    while at < 21 {
        let chunk = drain.read(at..21, 4096).await.expect("reads");
        let bytes: usize = chunk.messages.iter().map(|m| m.message.size()).sum();
        assert!(bytes <= 2 * crate::bounds::FORWARD_READ, "{bytes}");
        seen += chunk.messages.len();
        (at, pieces) = (chunk.next, pieces + 1);
    }
    assert!(pieces > 1, "{pieces}");
    assert_eq!(seen, 20);
    store.crash();
    // After a start it has to be found out again who is not concerned, in bounded pieces as well.
    let (store, _) = open_two(&config(dir.path()), "a");
    let plant = store.drain("plant").expect("configured");
    let chunk = plant.read(1..21, 4096).await.expect("reads");
    assert!(chunk.count() == 0 && chunk.next < 21, "{}", chunk.next);
    assert_eq!(all(&*plant).await, (vec![], vec![]));
    let ledger = balanced(&*plant);
    assert_eq!((ledger.taken, ledger.queued), (0, 0));
}

#[tokio::test]
async fn the_log_says_the_last_docket_that_it_has_and_of_no_more_than_it_has() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { commit_interval: Span::s(3600), ..config(dir.path()) };
    let docket = |life, n| Some(Docket { life, n });
    let under = |docket, n| Posted { message: message(n), docket };
    let reopened = async |store: Store| {
        store.crash();
        open_two(&config, "a").0
    };
    let (store, _) = open_two(&config, "a");
    assert_eq!(store.last_docket(), None);
    store.post([under(docket(5, 1), 1), under(None, 2), under(docket(5, 2), 3), under(None, 4)]);
    store.flush().await.expect("flushes");
    store.post([under(docket(5, 3), 5)]);
    assert_eq!(store.last_docket(), None, "it is asked what was there when it was opened");
    let store = reopened(store).await;
    assert_eq!(store.last_docket(), docket(5, 2), "the third was not committed");
    store.take(readings(0..3));
    store.post([under(None, 6)]);
    store.flush().await.expect("flushes");
    let store = reopened(store).await;
    assert_eq!(store.last_docket(), docket(5, 2), "until there is one of another life");
    // A copy of now, for later.
    let copy = tempfile::tempdir().expect("a directory");
    for file in ["fieldgate.db", "fieldgate.db-wal"] {
        std::fs::copy(dir.path().join(file), copy.path().join(file)).expect("copies");
    }
    // They are more than one commit takes.
    store.post((1..=3000).map(|n| under(docket(4, n), n)));
    until("the last of them", || *store.posted().borrow() == 3000).await;
    let store = reopened(store).await;
    assert_eq!(store.last_docket(), docket(4, 3000));
    store.crash();
    // The database of before knows nothing of it, and a new one of nothing at all.
    for file in ["fieldgate.db", "fieldgate.db-wal"] {
        std::fs::copy(copy.path().join(file), dir.path().join(file)).expect("copies");
    }
    let (store, _) = open_two(&config, "a");
    assert_eq!(store.last_docket(), docket(5, 2));
    store.crash();
    std::fs::remove_file(dir.path().join("fieldgate.db-wal")).expect("removes");
    std::fs::write(dir.path().join("fieldgate.db"), "no database at all").expect("writes");
    let (store, recovery) = open_two(&config, "a");
    assert_eq!((store.last_docket(), recovery.set_aside.len()), (None, 1));
}

#[derive(Debug, Clone)]
enum Step {
    Take(u64),
    Post(u64),
    Flush,
    /// The uplink, and which part of what is pending.
    Read(bool, u8),
    Ack(bool, u8, u8),
    Kill,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..40).prop_map(Step::Take),
        4 => (1u64..20).prop_map(Step::Post),
        4 => Just(Step::Flush),
        3 => (any::<bool>(), any::<u8>()).prop_map(|(u, at)| Step::Read(u, at)),
        4 => (any::<bool>(), any::<u8>(), any::<u8>()).prop_map(|(u, at, n)| Step::Ack(u, at, n)),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
    ]
}

/// Who reads the whole log finds every message that was said to be stored, or has acknowledged it; who does not forward
/// has a ledger as if there were none.
async fn live(steps: Vec<Step>) {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { commit_interval: Span::s(3600), ..config(dir.path()) };
    let (mut store, _) = open_two(&config, "a");
    let mut made = 0u64;
    // Those that this life was given, in order; those of which a life said that they are stored.
    let (mut given, mut kept) = (Vec::new(), BTreeSet::new());
    let mut acked: BTreeSet<u64> = BTreeSet::new();
    let mut known: BTreeMap<u64, u64> = BTreeMap::new();
    let mut taken = 0;
    let mut lost = 0;
    for step in steps {
        let mut end = false;
        match step {
            Step::Take(n) => {
                store.take(readings(0..n));
                taken += n;
            }
            Step::Post(n) => {
                given.extend(made..made + n);
                store.post((made..made + n).map(message));
                made += n;
            }
            Step::Flush => store.flush().await.expect("flushes"),
            Step::Read(cloud, at) | Step::Ack(cloud, at, _) => {
                let drain = store.drain(if cloud { "cloud" } else { "plant" }).expect("configured");
                let pending = drain.pending();
                let Some(range) = pending.get(usize::from(at) % pending.len().max(1)) else { continue };
                let chunk = drain.read(range.clone(), 50).await.expect("reads");
                assert!(cloud || chunk.messages.is_empty());
                let numbers = payloads(&chunk.messages);
                for (message, n) in chunk.messages.iter().zip(numbers) {
                    let before = known.insert(message.id.seq, n);
                    assert!(
                        before.is_none_or(|before| before == n),
                        "another message under {:?}",
                        message.id
                    );
                }
                if let Step::Ack(_, _, n) = step {
                    let mut all: Vec<u64> = seqs(&chunk.records);
                    all.extend(chunk.messages.iter().map(|m| m.id.seq));
                    all.sort_unstable();
                    for seq in all.into_iter().take(usize::from(n)) {
                        drain.delivered(seq..seq + 1);
                        acked.extend(known.get(&seq).filter(|_| cloud));
                    }
                }
            }
            Step::Kill => {
                let through = *store.posted().borrow();
                kept.extend(given.drain(..).take(usize::try_from(through).expect("few")));
                store.crash();
                end = true;
                store = Reopened::of(&config, &mut lost).0;
            }
            Step::Close => {
                store.clone().close().await.expect("closes");
                kept.extend(given.drain(..));
                drop(store);
                end = true;
                store = Reopened::of(&config, &mut lost).0;
            }
        }
        let (cloud, plant) = (store.drain("cloud").expect("one"), store.drain("plant").expect("the other"));
        balanced(&*cloud);
        let ledger = balanced(&*plant);
        if !end {
            let through = *store.posted().borrow();
            kept.extend(given.iter().take(usize::try_from(through).expect("few")).copied());
        }
        let read = all(&*plant).await;
        assert!(read.1.is_empty());
        let ledger_read = balanced(&*plant);
        assert!(ledger_read.taken <= ledger.taken, "reading only finds out what is not its affair");
        assert_eq!(ledger_read.taken, taken, "as if there were no messages: {ledger_read:?}");
        let there: BTreeSet<u64> = payloads(&all(&*cloud).await.1).into_iter().collect();
        for n in &kept {
            assert!(there.contains(n) || acked.contains(n), "{n} was stored and is gone");
        }
    }
    assert_eq!(balanced(&*store.drain("plant").expect("configured")).lost, lost);
}

/// A store that was opened again, what it declared for `plant` added to `lost`.
struct Reopened(Store);

impl Reopened {
    fn of(config: &model::Store, lost: &mut u64) -> Self {
        let (store, recovery) = open_two(config, "a");
        let of_plant = recovery.losses.iter().filter(|l| l.uplink == "plant");
        *lost += of_plant.map(|l| l.count).sum::<u64>();
        Self(store)
    }
}

proptest! {
    #![proptest_config(seeded(ProptestConfig::with_cases(24)))]
    #[test]
    fn messages_and_readings_share_a_log_and_no_ledger(steps in prop::collection::vec(step(), 1..50)) {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(live(steps));
    }
}
