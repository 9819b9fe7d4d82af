//! What an uplink has open at its broker (QoS 2): durable when it is said to be, of one transaction with what is
//! delivered, and gone where the broker cannot remember the same.

use std::sync::{Mutex, PoisonError};

use rusqlite::ffi;

use super::power::disk::{Image, Survives};
use super::power::vfs::{Call, unwatch, watch};
use super::*;
use crate::store::{Ending, Exchange, READY, Restorable, Session, Step};

fn exchange(id: u16, range: std::ops::Range<u64>) -> Exchange {
    Exchange { id, range, historical: false, received: false }
}

fn begin() -> Step {
    Step { begin: Some("key".into()), ..Step::default() }
}

fn sent(open: Vec<Exchange>) -> Step {
    Step { sent: open, ..Step::default() }
}

fn received(ids: &[u16]) -> Step {
    Step { received: ids.to_vec(), ..Step::default() }
}

fn session(open: Vec<Exchange>) -> Session {
    Session { key: "key".into(), open }
}

/// A store that commits readings only when it is told to.
fn slow(dir: &Path, boot: &str) -> Store {
    let mut config = config(dir);
    config.commit_interval = Span::s(3600);
    opened(&config, &uplinks(&["cloud"]), TestClock::new(boot)).0
}

fn port(store: &Store) -> Arc<dyn Drain> {
    store.drain("cloud").expect("configured")
}

/// 1..11 stored; 1..3 and 3..5 open, the first of them received.
async fn with_two_open(dir: &Path) -> Store {
    let store = slow(dir, "a");
    store.take(readings(0..10));
    store.flush().await.expect("flushes");
    let drain = port(&store);
    drain.note(begin()).await.expect("noted");
    drain.note(sent(vec![exchange(7, 1..3), exchange(8, 3..5)])).await.expect("noted");
    drain.note(received(&[7])).await.expect("noted");
    store
}

fn two_open() -> Session {
    session(vec![Exchange { received: true, ..exchange(7, 1..3) }, exchange(8, 3..5)])
}

#[tokio::test]
async fn what_is_noted_outlives_a_kill_and_takes_no_reading_along() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = with_two_open(dir.path()).await;
    store.take(readings(10..15));
    port(&store).note(received(&[])).await.expect("noted");
    assert_eq!(store.status().stored_seq, 10, "readings wait for their group");
    let refused = port(&store).note(sent(vec![exchange(9, 12..13)])).await;
    assert!(refused.is_err_and(|e| e.0.contains("not stored yet")));
    store.crash();
    let store = slow(dir.path(), "a");
    let drain = port(&store);
    assert_eq!(drain.session(), Some(two_open()));
    assert_eq!(drain.pending(), [1..11], "what is received is still owed");
    drain.exchange_over(7, Some(1..3));
    assert_eq!((drain.pending(), balanced(&*drain).delivered), (vec![3..11], 2));
    // Durable with the next commit, both or neither.
    store.crash();
    let store = slow(dir.path(), "a");
    let drain = port(&store);
    assert_eq!((drain.session(), drain.pending()), (Some(two_open()), vec![1..11]));
    drain.exchange_over(7, Some(1..3));
    drain.exchange_over(8, None);
    drain.note(sent(vec![exchange(9, 3..4)])).await.expect("noted");
    store.crash();
    let store = slow(dir.path(), "a");
    let drain = port(&store);
    assert_eq!(drain.session(), Some(session(vec![exchange(9, 3..4)])));
    assert_eq!((drain.pending(), balanced(&*drain).delivered), (vec![3..11], 2));
    let many = (0..201).map(|id| exchange(id, 5..6)).collect();
    assert!(drain.note(sent(many)).await.is_err_and(|e| e.0.contains("too many")));
    assert_eq!(drain.end_session(), [exchange(9, 3..4)]);
    store.close().await.expect("closes");
    let store = slow(dir.path(), "b");
    assert_eq!(port(&store).session(), Some(Session::default()));
    store.close().await.expect("closes");
}

#[tokio::test]
async fn after_a_power_cut_at_any_call_the_session_is_what_was_said_or_one_step_further() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = slow(dir.path(), "a");
    store.take(readings(0..10));
    store.flush().await.expect("flushes");
    store.close().await.expect("closes");
    let disk = watch(dir.path());
    let store = slow(dir.path(), "a");
    let drain = port(&store);
    let done = Arc::new(Mutex::new((0usize, Vec::<(usize, Image)>::new())));
    let (watched, seen) = (Arc::downgrade(&disk), Arc::clone(&done));
    disk.on_call(Some(Box::new(move |call, _| {
        if matches!(call, Call::Write | Call::Sync | Call::Truncate) {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let (n, image) = (seen.0, watched.upgrade().expect("it lives").image());
            seen.1.push((n, image));
        }
        None
    })));
    let said = || done.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
    drain.note(begin()).await.expect("noted");
    said();
    drain.note(sent(vec![exchange(7, 1..3), exchange(8, 3..5)])).await.expect("noted");
    said();
    drain.note(received(&[7])).await.expect("noted");
    said();
    drain.exchange_over(7, Some(1..3));
    store.flush().await.expect("flushes");
    said();
    disk.on_call(None);
    let states = [
        (Session::default(), 0),
        (session(vec![]), 0),
        (session(vec![exchange(7, 1..3), exchange(8, 3..5)]), 0),
        (two_open(), 0),
        (session(vec![exchange(8, 3..5)]), 2),
    ];
    drop(drain);
    store.crash();
    unwatch(dir.path());
    let images = std::mem::take(&mut done.lock().unwrap_or_else(PoisonError::into_inner).1);
    assert!(images.len() >= 8, "a write and a sync of each step, {} calls", images.len());
    let mut random = fastrand::Rng::with_seed(3);
    for (n, image) in images {
        for survives in [Survives::Nothing, Survives::Prefix, Survives::Some, Survives::All] {
            let cut = tempfile::tempdir().expect("a directory");
            for (name, bytes) in image.after(survives, false, &mut random) {
                std::fs::write(cut.path().join(name), bytes).expect("writes");
            }
            let store = slow(cut.path(), "b");
            let drain = port(&store);
            let found = (drain.session().expect("the disk is there"), balanced(&*drain).delivered);
            assert!(
                states[n..].iter().take(2).any(|state| *state == found),
                "after {n} steps, {survives:?}: {found:?}"
            );
            store.crash();
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_out_of_order_notes_nothing_and_what_was_noted_is_there_when_it_is_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (disk, out) = (watch(dir.path()), Arc::new(AtomicBool::new(false)));
    let flag = Arc::clone(&out);
    disk.on_call(Some(Box::new(move |call, _| {
        let writes = matches!(call, Call::Write | Call::Sync | Call::Truncate);
        (writes && flag.load(Ordering::SeqCst)).then_some(ffi::SQLITE_IOERR_WRITE)
    })));
    let store = with_two_open(dir.path()).await;
    let drain = port(&store);
    out.store(true, Ordering::SeqCst);
    let step = Step { sent: vec![exchange(9, 5..6)], received: vec![8], ..Step::default() };
    assert!(drain.note(step.clone()).await.is_err());
    until("the store sees it", || store.status().state == "fault").await;
    assert_eq!(drain.session(), None);
    assert!(drain.note(step).await.is_err_and(|e| e.0.contains("out of order")));
    drain.exchange_over(7, Some(1..3));
    out.store(false, Ordering::SeqCst);
    until("the store comes back", || store.status().state == "ok").await;
    let left = session(vec![Exchange { received: true, ..exchange(8, 3..5) }]);
    assert_eq!(drain.session(), Some(left.clone()), "nothing was sent, and what is received is received");
    drain.note(received(&[])).await.expect("noted");
    drop(drain);
    store.crash();
    disk.on_call(None);
    unwatch(dir.path());
    let store = slow(dir.path(), "a");
    assert_eq!((port(&store).session(), balanced(&*port(&store)).delivered), (Some(left), 2));
    store.close().await.expect("closes");
}

#[tokio::test]
async fn what_is_purged_while_it_is_under_way_is_counted_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = with_two_open(dir.path()).await;
    let drain = port(&store);
    assert_eq!(store.purge(Some("cloud")).await.expect("purged"), [("cloud".to_owned(), 10)]);
    assert_eq!(drain.session(), Some(two_open()), "its ids are still those of the broker");
    drain.exchange_over(7, Some(1..3));
    drain.exchange_over(8, Some(3..5));
    let ledger = balanced(&*drain);
    assert_eq!((ledger.delivered, ledger.lost, ledger.queued), (0, 10, 0));
    store.close().await.expect("closes");
}

#[tokio::test]
async fn an_uplink_that_comes_back_finds_its_session_and_another_name_has_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = with_two_open(dir.path()).await;
    let config = config(dir.path());
    store.reconfigure(&config, &uplinks(&["other"]), store.wishes());
    assert_eq!(store.drain("other").and_then(|drain| drain.session()), Some(Session::default()));
    store.reconfigure(&config, &uplinks(&["cloud"]), store.wishes());
    assert_eq!(port(&store).session(), Some(two_open()));
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_database_that_was_rolled_back_or_restored_has_no_session() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = with_two_open(dir.path()).await;
    store.close().await.expect("closes");
    let backup = std::fs::read(dir.path().join("fieldgate.db")).expect("reads");
    let store = slow(dir.path(), "a");
    assert_eq!(port(&store).session(), Some(two_open()));
    store.take(readings(10..20));
    store.flush().await.expect("flushes");
    store.close().await.expect("closes");

    std::fs::write(dir.path().join("fieldgate.db"), &backup).expect("writes");
    let store = slow(dir.path(), "b");
    assert_eq!(
        port(&store).session(),
        Some(Session::default()),
        "nobody knows what the broker has seen since"
    );
    assert!(port(&store).pending().contains(&(1..11)), "and what was open is still owed");
    store.close().await.expect("closes");

    for ending in [Ending::Final, Ending::Open(1000)] {
        let [copy, other] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        std::fs::write(copy.path().join("fieldgate.db"), &backup).expect("writes");
        let held = Store::hold(other.path(), "a").expect("free");
        let examined = Restorable::examine(copy.path()).expect("whole");
        examined.make_ready(&held, ending).expect("ready");
        for name in READY {
            std::fs::rename(copy.path().join(name), other.path().join(name)).expect("renames");
        }
        drop(held);
        let store = slow(other.path(), "c");
        assert_eq!(port(&store).session(), Some(Session::default()), "{ending:?}");
        assert!(port(&store).pending().contains(&(1..11)));
        store.close().await.expect("closes");
    }
}

#[tokio::test]
async fn an_account_without_a_session_is_written_as_the_versions_before_wrote_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = slow(dir.path(), "a");
    store.take(readings(0..10));
    store.flush().await.expect("flushes");
    port(&store).delivered(1..4);
    store.close().await.expect("closes");
    let db = rusqlite::Connection::open(dir.path().join("fieldgate.db")).expect("opens");
    let account: String = db
        .query_row("SELECT value FROM state WHERE key='uplink:cloud'", [], |r| r.get(0))
        .expect("there is one");
    assert!(!account.contains("session"), "one that has none is written as before: {account}");
}
