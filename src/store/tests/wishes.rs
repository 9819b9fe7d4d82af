//! Forwards that come and go: what was owed is declared when it is not wanted any more, and nobody else's figures move.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::forwarding::{all, forwards, letter, message, open_two, opened_with, payloads, wishes};
use super::*;
use crate::bounds;
use crate::message::LossReason;
use crate::store::Wishes;

/// What uplinks want, as filters.
fn wish(list: &[(&str, &[&str])]) -> Wishes {
    list.iter().map(|(name, filters)| ((*name).to_owned(), forwards(filters))).collect()
}

fn open_with(config: &model::Store, wishes: Wishes) -> Store {
    for _ in 0..1000 {
        let names = uplinks(&["cloud", "plant"]);
        match Store::open_with(config, ("", &names), wishes.clone(), TestClock::new("a")) {
            Err(StoreError::InUse(_)) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.expect("opens").0,
        }
    }
    panic!("in use for 10 s");
}

/// The account without its size on disk, which moves with the file.
fn account(drain: &dyn Drain) -> crate::store::Ledger {
    crate::store::Ledger { queued_bytes: 0, ..balanced(drain) }
}

/// Waits until everything was looked through.
async fn searched(store: &Store) {
    let mut rounds = 0;
    while store.searching() {
        store.flush().await.expect("flushes");
        rounds += 1;
        assert!(rounds < 10_000, "it ends");
    }
}

fn drains(store: &Store) -> (Arc<dyn Drain>, Arc<dyn Drain>) {
    (store.drain("cloud").expect("one"), store.drain("plant").expect("the other"))
}

/// What was given up: ranges, counts, topics.
async fn given_up(drain: &dyn Drain) -> Vec<([u64; 2], u64, Option<Vec<String>>)> {
    let records = losses(drain).await;
    assert!(records.iter().all(|r| r.reason == LossReason::Purged && !r.bound && r.from.is_some()));
    records.into_iter().map(|r| (r.seq, r.count, r.points)).collect()
}

fn named(topic: &str) -> Option<Vec<String>> {
    Some(vec![topic.to_owned()])
}

#[tokio::test]
async fn what_is_not_wanted_any_more_is_declared_and_what_is_wanted_newly_begins_now() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open_two(&config(dir.path()), "a");
    store.take(readings(1..3));
    store.post(vec![message(1), letter(2, "other"), message(3), message(4)]);
    store.flush().await.expect("flushes");
    store.take(readings(3..4));
    store.flush().await.expect("flushes");
    // Readings 1, 2 and 7; messages 3 to 6.
    let (cloud, plant) = drains(&store);
    assert_eq!((account(&*cloud).taken, account(&*plant).taken), (6, 3));
    let names = uplinks(&["cloud", "plant"]);
    store.reconfigure(&config(dir.path()), &names, wish(&[("plant", &["#"])]));
    searched(&store).await;
    store.flush().await.expect("flushes");
    let (a, b) = (account(&*cloud), account(&*plant));
    assert_eq!((a.taken, a.queued, a.lost), (6, 3, 3), "never less than was taken");
    assert_eq!((b.taken, b.queued, b.lost), (3, 3, 0), "what was stored for others is not its affair");
    assert_eq!(given_up(&*cloud).await, [([3, 3], 1, named("z/lamp")), ([5, 6], 2, named("z/lamp"))]);
    assert_eq!((all(&*cloud).await, all(&*plant).await), ((vec![1, 2, 7], vec![]), (vec![1, 2, 7], vec![])));
    store.post(vec![message(5)]);
    store.flush().await.expect("flushes");
    assert_eq!((account(&*cloud).taken, account(&*plant).taken), (6, 4));
    assert_eq!(payloads(&all(&*plant).await.1), [5]);
    // It comes back; what was declared stays so.
    store.reconfigure(&config(dir.path()), &names, wishes());
    searched(&store).await;
    assert_eq!(account(&*cloud), a);
    let b = account(&*plant);
    assert_eq!((b.taken, b.queued, b.lost), (4, 3, 1));
    for drain in [&cloud, &plant] {
        drain.pending().into_iter().for_each(|range| drain.delivered(range));
    }
    store.flush().await.expect("flushes");
    assert_eq!((account(&*cloud).queued, account(&*cloud).delivered, account(&*plant).delivered), (0, 3, 3));
}

#[tokio::test]
async fn a_start_with_other_forwards_declares_the_same_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let (store, _) = open_two(&config, "a");
    for n in 0..100 {
        store.take(readings(n..n + 1));
        store.post(vec![message(n), letter(n, "z/door")]);
        store.flush().await.expect("flushes");
    }
    store.crash();
    for round in 0..3 {
        let store = open_with(&config, wish(&[("cloud", &["z/door"])]));
        if round == 0 {
            // Killed while it looks, it goes on.
            store.crash();
            continue;
        }
        searched(&store).await;
        store.flush().await.expect("flushes");
        let (cloud, _) = drains(&store);
        let declared = given_up(&*cloud).await;
        assert_eq!(declared.iter().map(|(_, count, _)| count).sum::<u64>(), 100);
        assert!(declared.iter().all(|(.., points)| *points == named("z/lamp")));
        let ledger = account(&*cloud);
        assert_eq!((ledger.taken, ledger.queued, ledger.lost), (300, 200, 100));
        assert_eq!(all(&*cloud).await.1.len(), 100);
        store.clone().close().await.expect("closes");
    }
}

#[tokio::test]
async fn forwards_that_stay_change_no_figure_and_those_of_others_neither() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let (store, _) = open_two(&config, "a");
    store.take(readings(1..3));
    store.post(vec![message(1), message(2)]);
    store.flush().await.expect("flushes");
    let (cloud, plant) = drains(&store);
    let before = (account(&*cloud), account(&*plant));
    let names = uplinks(&["cloud", "plant"]);
    store.reconfigure(&config, &names, wishes());
    assert_eq!((account(&*cloud), account(&*plant)), before);
    store.reconfigure(&config, &names, wish(&[("cloud", &["a/#", "z/#"])]));
    searched(&store).await;
    assert_eq!((account(&*cloud), account(&*plant)), before, "all that was taken is taken still");
}

#[tokio::test]
async fn who_leaves_is_owed_what_its_forwards_took_until_it_is_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { history: Span::s(3600), ..config(dir.path()) };
    let (store, _) = open_two(&config, "a");
    store.post(vec![message(1), message(2)]);
    store.flush().await.expect("flushes");
    store.reconfigure(&config, &uplinks(&["plant"]), Wishes::new());
    store.post(vec![message(3)]);
    store.flush().await.expect("flushes");
    store.reconfigure(&config, &uplinks(&["cloud", "plant"]), wishes());
    searched(&store).await;
    let (cloud, _) = drains(&store);
    assert_eq!(payloads(&all(&*cloud).await.1), [1, 2, 3]);
    assert_eq!(balanced(&*cloud).lost, 0);
}

#[tokio::test]
async fn more_stretches_than_are_remembered_are_declared_as_the_queue_drains() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { commit_interval: Span::s(3600), ..config(dir.path()) };
    let (store, _) = opened_with(&config, &uplinks(&["cloud"]), TestClock::new("a"));
    let most = bounds::STORE_GIVEN_UP as u64;
    // A letter that stays parts them, so that one commit makes many stretches.
    for n in 0..(most + 300) / 100 {
        store.post((n * 200..n * 200 + 200).map(|n| letter(n, ["z/a", "z/b"][(n % 2) as usize])));
        store.flush().await.expect("flushes");
    }
    let all_of_them = (most + 300) / 100 * 100;
    store.reconfigure(&config, &uplinks(&["cloud"]), wish(&[("cloud", &["z/b"])]));
    for _ in 0..200 {
        store.flush().await.expect("flushes");
    }
    let drain = store.drain("cloud").expect("configured");
    let ledger = balanced(&*drain);
    assert_eq!(ledger.taken, 2 * all_of_them);
    assert!((most..all_of_them).contains(&ledger.lost), "{ledger:?}");
    while let Some(range) = drain.pending().first() {
        let chunk = drain.read(range.clone(), 50).await.expect("reads");
        for message in &chunk.messages {
            assert_eq!(message.message.topic.as_ref(), "z/b");
            drain.delivered(message.id.seq..message.id.seq + 1);
        }
    }
    searched(&store).await;
    let ledger = balanced(&*drain);
    assert_eq!((ledger.delivered, ledger.lost, ledger.taken), (all_of_them, all_of_them, 2 * all_of_them));
    store.flush().await.expect("flushes");
    assert_eq!(losses(&*drain).await.iter().map(|r| r.count).sum::<u64>(), all_of_them);
}

const TOPICS: [&str; 3] = ["z/a", "z/b", "z/c"];

#[derive(Debug, Clone)]
enum Step {
    Post(usize),
    Take,
    Wish(u8),
    Ack(u8),
    Kill(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0usize..3).prop_map(Step::Post),
        2 => Just(Step::Take),
        3 => (0u8..8).prop_map(Step::Wish),
        3 => any::<u8>().prop_map(Step::Ack),
        1 => (0u8..8).prop_map(Step::Kill),
    ]
}

fn wanted(mask: u8) -> Wishes {
    let filters: Vec<&str> = (0..3).filter(|n| mask & (1 << n) != 0).map(|n| TOPICS[n]).collect();
    wish(&[("cloud", &filters)])
}

/// Every message that was wanted when it was stored is delivered, queued or given up, and the ledger says which.
async fn live(steps: Vec<Step>) {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { commit_interval: Span::s(3600), ..config(dir.path()) };
    let mut mask = 7;
    let mut store = open_with(&config, wanted(mask));
    let (mut made, mut next) = (0u64, 1u64);
    // What is open: number, topic (none: a reading).
    let mut open: BTreeMap<u64, Option<usize>> = BTreeMap::new();
    let (mut taken, mut lost) = (0u64, 0u64);
    let change = |to: u8, open: &mut BTreeMap<u64, Option<usize>>, lost: &mut u64| {
        let before = open.len();
        open.retain(|_, topic| topic.is_none_or(|topic| to & (1 << topic) != 0));
        *lost += (before - open.len()) as u64;
        to
    };
    for step in steps {
        match step {
            Step::Post(topic) => {
                store.post(vec![letter(made, TOPICS[topic])]);
                store.flush().await.expect("flushes");
                if mask & (1 << topic) != 0 {
                    open.insert(next, Some(topic));
                    taken += 1;
                }
                (made, next) = (made + 1, next + 1);
            }
            Step::Take => {
                store.take(readings(0..1));
                store.flush().await.expect("flushes");
                open.insert(next, None);
                (taken, next) = (taken + 1, next + 1);
            }
            Step::Wish(to) => {
                mask = change(to, &mut open, &mut lost);
                store.reconfigure(&config, &uplinks(&["cloud", "plant"]), wanted(mask));
            }
            Step::Ack(n) => {
                searched(&store).await;
                let Some(seq) = open.keys().nth(usize::from(n) % open.len().max(1)).copied() else {
                    continue;
                };
                store.drain("cloud").expect("one").delivered(seq..seq + 1);
                open.remove(&seq);
                store.flush().await.expect("flushes");
            }
            Step::Kill(to) => {
                store.crash();
                mask = change(to, &mut open, &mut lost);
                store = open_with(&config, wanted(mask));
            }
        }
        let (cloud, _) = drains(&store);
        balanced(&*cloud);
        searched(&store).await;
        // After a start it has to be found out what is not its affair.
        let (numbers, messages) = all(&*cloud).await;
        let found = numbers.len() + messages.len();
        assert_eq!(found, open.len());
        let ledger = balanced(&*cloud);
        assert_eq!((ledger.taken, ledger.queued, ledger.lost), (taken, open.len() as u64, lost));
    }
    store.flush().await.expect("flushes");
    let declared = losses(&*drains(&store).0).await;
    assert_eq!(declared.iter().map(|r| r.count).sum::<u64>(), lost);
}

proptest! {
    #![proptest_config(seeded(ProptestConfig::with_cases(32)))]
    #[test]
    fn what_was_wanted_is_delivered_queued_or_given_up(steps in prop::collection::vec(step(), 1..60)) {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(live(steps));
    }
}
