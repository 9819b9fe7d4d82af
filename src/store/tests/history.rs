//! The log as history: what stays, what is found by time, what is purged, and the directory read at rest.

use std::sync::atomic::Ordering;

use driver_api::Span;

use super::*;
use crate::message::{BootMs, LossReason};
use crate::store::Ledger;

/// Readings of one point at these boot times, ms; each with its time as its value.
fn at(times: impl IntoIterator<Item = u64>) -> Vec<Reading> {
    times.into_iter().map(|t| Reading::good(key(1), BootMs(t), Value::UInt(t))).collect()
}

async fn take(store: &Store, times: impl IntoIterator<Item = u64>) {
    let _ = store.take(at(times));
    store.flush().await.expect("the disk is there");
}

/// The boot times of the readings in a stretch of time of both clocks together.
async fn found(store: &Store, time: std::ops::Range<i64>) -> Vec<u64> {
    let mut found = Vec::new();
    let time = WallMs(NOW + time.start)..WallMs(NOW + time.end);
    for range in store.stretch(time.clone()).await.expect("reads") {
        let mut next = range.start;
        while next < range.end {
            let chunk = store.read(next..range.end, 7).await.expect("reads");
            let inside = chunk.records.iter().filter(|r| time.contains(&r.ts));
            found.extend(inside.map(|r| match r.value {
                Some(Value::UInt(t)) => t,
                _ => panic!("{r:?}"),
            }));
            next = chunk.next;
        }
    }
    found
}

#[tokio::test]
async fn what_all_have_passed_stays_as_history_for_as_long_as_it_should() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = TestClock::new("a");
    let config = model::Store { history: Span::s(24_000), ..config(dir.path()) };
    let (store, _) = opened(&config, &uplinks(&["cloud"]), clock.clone());
    let drain = store.drain("cloud").expect("configured");
    // More than an hour apart: each is a block of its own.
    for n in 1..=5 {
        take(&store, [n * 4_000_000]).await;
    }
    clock.boot.store(20_000_000, Ordering::SeqCst);
    drain.delivered(1..5);
    store.flush().await.expect("the disk is there");
    assert_eq!(store.status().readings, 5, "delivered, and kept");
    assert_eq!(balanced(&*drain).queued, 1);

    // So long after the second of them.
    clock.boot.store(32_000_000, Ordering::SeqCst);
    store.close().await.expect("closes");
    let (store, recovery) = opened(&config, &uplinks(&["cloud"]), clock.clone());
    assert!(recovery.losses.is_empty());
    until("the two oldest are gone", || store.status().readings == 3).await;
    assert_eq!(found(&store, 0..1_000_000_000).await, [12_000_000, 16_000_000, 20_000_000]);

    // What is still owed is no history: it stays however old it is.
    clock.boot.store(60_000_000, Ordering::SeqCst);
    store.close().await.expect("closes");
    let (store, _) = opened(&config, &uplinks(&["cloud"]), clock);
    until("the history is gone", || store.status().readings == 1).await;
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(seqs(&read_all(&*drain, 10).await), [5]);
    assert_eq!(balanced(&*drain).lost, 0);
}

#[tokio::test]
async fn history_goes_before_anything_that_is_owed_and_nobody_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { history: Span::s(3600), max_size: ByteSize::mib(1), ..config(dir.path()) };
    let (store, _) = opened(&config, &uplinks(&["cloud"]), TestClock::new("a"));
    let drain = store.drain("cloud").expect("configured");
    let noise = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for round in 0..60_u64 {
        let from = round * 2000;
        let hard = (from..from + 2000).map(|n| Reading::good(key(1), BootMs(n), Value::UInt(noise(n))));
        let taken = store.take(hard.collect());
        store.flush().await.expect("the disk is there");
        if round < 50 {
            drain.delivered(taken.first.seq..taken.first.seq + taken.count);
        }
    }
    let ledger = balanced(&*drain);
    assert_eq!((ledger.lost, ledger.queued), (0, 20_000));
    let kept = store.status().readings;
    assert!((20_000..120_000).contains(&kept), "some of the history had to go: {kept}");
    assert!(store.status().bytes < 2 << 20, "{}", store.status().bytes);
}

#[tokio::test]
async fn a_stretch_of_time_is_found_over_starts_and_holes() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { history: Span::s(86_400), ..config(dir.path()) };
    let clock = TestClock::new("a");
    let mut all = Vec::new();
    for life in 0..4_u64 {
        let (store, _) = opened(&config, &uplinks(&["cloud"]), clock.clone());
        for block in 0..6 {
            let times: Vec<u64> = (0..5).map(|n| life * 100_000 + block * 1000 + n * 10).collect();
            clock.boot.store(life * 100_000 + block * 1000 + 50, Ordering::SeqCst);
            take(&store, times.clone()).await;
            all.extend(times);
        }
        // A kill leaves a hole in the numbers.
        let _ = store.take(at([life * 100_000 + 7000]));
        if life % 2 == 0 {
            store.crash()
        } else {
            store.close().await.expect("closes")
        }
        if life % 2 == 1 {
            all.push(life * 100_000 + 7000);
        }
    }
    let (store, _) = opened(&config, &uplinks(&["cloud"]), clock);
    let count = all.len();
    assert_eq!(found(&store, -1..i64::MAX / 4).await, all);
    for (n, edge) in all.iter().enumerate() {
        let edge = edge.cast_signed();
        assert_eq!(found(&store, edge..i64::MAX / 4).await, all[n..], "from {edge}");
        assert_eq!(found(&store, -1..edge).await, all[..n], "to {edge}");
        let some = &all[n..count.min(n + 9)];
        let end = some.last().map_or(0, |t| t.cast_signed() + 1);
        assert_eq!(found(&store, edge..end).await, some);
    }
    assert!(found(&store, 50_000..60_000).await.is_empty());
}

#[tokio::test]
async fn what_is_purged_is_declared_to_whom_it_was_owed_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { history: Span::s(3600), ..config(dir.path()) };
    let both = uplinks(&["cloud", "scada"]);
    let (store, _) = opened(&config, &both, TestClock::new("a"));
    let [cloud, scada] = ["cloud", "scada"].map(|name| store.drain(name).expect("configured"));
    take(&store, 1..=10).await;
    cloud.delivered(1..5);
    // Two more are in RAM only: they are thrown away, too.
    let _ = store.take(at([11, 12]));
    assert!(store.purge(Some("nobody")).await.is_err_and(|e| e.0.contains("cloud, scada")));
    assert_eq!(store.purge(Some("cloud")).await.expect("purged"), [("cloud".to_owned(), 8)]);
    let told: Vec<_> = losses(&*cloud).await.into_iter().map(|l| (l.reason, l.seq, l.count)).collect();
    assert_eq!(told, [(LossReason::Purged, [5, 12], 8)]);
    assert_eq!((balanced(&*cloud).queued, balanced(&*scada).queued), (0, 12));
    assert_eq!(store.status().readings, 12, "scada waits for them");

    assert_eq!(store.purge(None).await.expect("purged"), [("cloud".to_owned(), 0), ("scada".to_owned(), 12)]);
    until("the history is gone, too", || store.status().readings == 0).await;
    take(&store, [20]).await;
    assert_eq!(seqs(&read_all(&*scada, 10).await), [13]);
    drop((cloud, scada));
    store.crash();
    let (store, _) = opened(&config, &both, TestClock::new("a"));
    let scada = store.drain("scada").expect("configured");
    assert_eq!((balanced(&*scada).lost, seqs(&read_all(&*scada, 10).await)), (12, vec![13]));
}

#[tokio::test]
async fn who_left_the_configuration_has_an_account_that_balances_and_can_be_purged() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { history: Span::s(3600), ..config(dir.path()) };
    let (store, _) = opened(&config, &uplinks(&["cloud", "scada"]), TestClock::new("a"));
    take(&store, 1..=10).await;
    store.reconfigure(&config, &uplinks(&["cloud"]), store.wishes());
    take(&store, 11..=12).await;
    let figures = |l: &Ledger| (l.taken, l.delivered, l.queued, l.lost);
    let left = || store.left().iter().map(|(name, l)| (name.clone(), figures(l))).collect::<Vec<_>>();
    let scada = |taken, queued, lost| vec![("scada".to_owned(), (taken, 0, queued, lost))];
    assert_eq!(left(), scada(12, 12, 0));
    assert_eq!(store.queued("scada"), Some(vec![1..13]));
    assert_eq!(store.purge(Some("scada")).await.expect("purged"), [("scada".to_owned(), 12)]);
    assert_eq!(left(), scada(12, 0, 12));
    take(&store, 13..=15).await;
    assert_eq!(store.purge(None).await.expect("purged"), [("cloud".to_owned(), 15), ("scada".to_owned(), 3)]);
    until("the history is gone, too", || store.status().readings == 0).await;
    take(&store, 16..=17).await;
    store.drain("cloud").expect("configured").delivered(16..18);
    // Without history what nobody else is owed goes; who left did not get it.
    let none = model::Store { history: Span::ms(0), ..config.clone() };
    store.reconfigure(&none, &uplinks(&["cloud"]), store.wishes());
    until("they are gone", || {
        store.take(Vec::new());
        store.status().readings == 0
    })
    .await;
    assert_eq!(left(), scada(17, 0, 17));
    store.clone().close().await.expect("closes");
    drop(store);
    let found = Store::inspect(dir.path()).expect("reads").uplinks.remove("scada").expect("a position");
    assert_eq!((found.taken, found.queued, found.lost, found.parked), (17, 0, 17, true));
    // Back again: all of it was declared, each number once.
    let (store, _) = opened(&none, &uplinks(&["cloud", "scada"]), TestClock::new("a"));
    let scada = store.drain("scada").expect("configured");
    assert_eq!((balanced(&*scada).taken, balanced(&*scada).lost), (17, 17));
    let told = losses(&*scada).await;
    assert!(told.iter().all(|l| l.reason == LossReason::Purged), "{told:?}");
    assert_eq!(told.iter().map(|l| l.count).sum::<u64>(), 17);
}

#[tokio::test]
async fn without_an_uplink_the_history_can_be_purged() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = opened(&config(dir.path()), &[], TestClock::new("a"));
    take(&store, 1..=10).await;
    assert_eq!(store.status().readings, 10);
    assert!(store.purge(None).await.expect("purged").is_empty());
    until("all of it is gone", || store.status().readings == 0).await;
    take(&store, [11]).await;
    assert_eq!(store.status().readings, 1);
}

#[tokio::test]
async fn a_new_uplink_begins_with_what_another_is_still_owed() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { history: Span::s(3600), ..config(dir.path()) };
    let (store, _) = opened(&config, &uplinks(&["cloud"]), TestClock::new("a"));
    take(&store, 1..=10).await;
    store.drain("cloud").expect("configured").delivered(1..8);
    store.reconfigure(&config, &uplinks(&["cloud", "late"]), store.wishes());
    let late = store.drain("late").expect("configured");
    assert_eq!(seqs(&read_all(&*late, 10).await), [8, 9, 10], "not the history");
    store.close().await.expect("closes");
    let (store, _) = opened(&config, &uplinks(&["cloud", "late", "later"]), TestClock::new("a"));
    let later = store.drain("later").expect("configured");
    assert_eq!(seqs(&read_all(&*later, 10).await), [8, 9, 10]);
}

#[tokio::test]
async fn a_directory_at_rest_is_read_as_the_daemon_reads_it_and_not_changed() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { history: Span::s(3600), ..config(dir.path()) };
    let (store, _) = opened(&config, &uplinks(&["cloud"]), TestClock::new("a"));
    take(&store, 1..=10).await;
    take(&store, 11..=20).await;
    let drain = store.drain("cloud").expect("configured");
    drain.delivered(1..16);
    let expected = store.read(1..21, 100).await.expect("reads").records;
    assert!(Store::at_rest(dir.path()).is_err_and(|e| matches!(e, StoreError::InUse(_))));
    drop(drain);
    store.close().await.expect("closes");

    let log = Store::at_rest(dir.path()).expect("nobody uses it");
    let (mut read, mut next) = (Vec::new(), 0);
    while let Some(stretch) = log.stretch(next).expect("reads") {
        assert!(!stretch.damaged);
        read.extend(stretch.chunk.records);
        next = stretch.chunk.next;
    }
    assert_eq!(read, expected);
    assert_eq!(log.queued("cloud").expect("reads"), Some(vec![16..21]));
    assert_eq!(log.queued("nobody").expect("reads"), None);
    drop(log);
    let (store, recovery) = opened(&config, &uplinks(&["cloud"]), TestClock::new("a"));
    assert!(recovery.losses.is_empty() && recovery.set_aside.is_empty());
    assert_eq!(store.status().readings, 20);
}

#[tokio::test]
async fn small_commits_become_one_block_and_a_cut_in_between_takes_nothing_that_was_stored() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = config(dir.path());
    let (store, _) = opened(&config, &uplinks(&["cloud"]), TestClock::new("a"));
    for n in 0..50 {
        take(&store, [n * 10, n * 10 + 1]).await;
    }
    let rows = |dir: &Path| {
        let db = rusqlite::Connection::open_with_flags(
            dir.join("fieldgate.db"),
            rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
        );
        let count = db.and_then(|db| db.query_row("SELECT count(*) FROM block", [], |r| r.get::<_, i64>(0)));
        count.expect("reads")
    };
    // The database as each commit left it, the way a cut would find it: the WAL up to there.
    store.crash();
    let wal = std::fs::read(dir.path().join("fieldgate.db-wal")).expect("reads");
    let mut most = 0;
    for keep in (0..=wal.len()).step_by(1024 + 24) {
        let copy = tempfile::tempdir().expect("a directory");
        std::fs::copy(dir.path().join("fieldgate.db"), copy.path().join("fieldgate.db")).expect("copies");
        let end = (keep + 32).min(wal.len());
        std::fs::write(copy.path().join("fieldgate.db-wal"), &wal[..end]).expect("writes");
        let (store, _) = opened(
            &model::Store { path: copy.path().into(), ..config.clone() },
            &uplinks(&["cloud"]),
            TestClock::new("b"),
        );
        let drain = store.drain("cloud").expect("configured");
        let there = seqs(&read_all(&*drain, 1000).await).len() as u64;
        assert!(there >= most && there.is_multiple_of(2), "commit by commit: {most} and then {there}");
        most = there;
        drop(drain);
        store.crash();
    }
    assert_eq!((most, rows(dir.path())), (100, 1));
}

#[tokio::test]
async fn an_uplink_that_left_before_the_clock_was_set_is_remembered_as_long_as_any_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let (config, both) = (config(dir.path()), uplinks(&["cloud", "scada"]));
    let (store, _) = opened(&config, &both, TestClock::new("one"));
    take(&store, 1..=10).await;
    store.drain("scada").expect("configured").delivered(1..4);
    store.close().await.expect("closes");
    // A box without a battery: 1970, until a time server answers.
    let clock = TestClock::new("two");
    clock.offset.store(0, Ordering::SeqCst);
    clock.synced.store(false, Ordering::SeqCst);
    let (store, _) = opened(&config, &uplinks(&["cloud"]), clock.clone());
    store.close().await.expect("closes");
    clock.offset.store(NOW, Ordering::SeqCst);
    clock.synced.store(true, Ordering::SeqCst);
    let (store, _) = opened(&config, &uplinks(&["cloud"]), clock.clone());
    assert_eq!(store.left().len(), 1, "its position is kept");
    store.close().await.expect("closes");
    // From then on it is counted.
    clock.offset.store(NOW + super::super::PARKED_MS + 1, Ordering::SeqCst);
    let (store, _) = opened(&config, &uplinks(&["cloud"]), clock.clone());
    assert!(store.left().is_empty());
}
