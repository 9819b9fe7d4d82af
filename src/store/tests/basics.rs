//! The life of a reading, and of the store's own memory, when nothing breaks.

use driver_api::{Quality, Value};

use super::*;
use crate::message::{LossReason, PointKey};
use crate::store::{Begun, StoreError};

#[tokio::test]
async fn what_is_taken_is_stored_delivered_and_then_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, recovery) = open(dir.path(), "a");
    assert!(recovery.losses.is_empty() && recovery.ram_only.is_none());
    let drain = store.drain("cloud").expect("configured");
    let taken = store.take(readings(0..100));
    assert_eq!((taken.first.seq, taken.count, taken.first.epoch.start), (1, 100, 1));
    assert_eq!(balanced(&*drain).queued, 100);
    let mut head = drain.head();
    head.wait_for(|&n| n == 101).await.expect("commits by itself");
    assert_eq!(drain.pending(), [1..101]);

    let records = read_all(&*drain, 30).await;
    assert_eq!(seqs(&records), (1..101).collect::<Vec<_>>());
    assert_eq!(records[7].value, Some(Value::Int(7)));
    assert_eq!(records[7].ts, WallMs(NOW + 7));
    assert_eq!(records[7].quality, Quality::Good);
    assert_eq!(records[7].id.epoch, store.epoch());

    drain.delivered(1..61);
    assert_eq!(drain.pending(), [61..101], "at once");
    drain.delivered(50..101);
    let ledger = balanced(&*drain);
    assert_eq!((ledger.taken, ledger.delivered, ledger.queued, ledger.lost), (100, 100, 0, 0));
    until("the blocks are gone", || store.status().readings == 0).await;
    let status = store.status();
    assert_eq!((status.state, status.stored_seq, status.next_seq, status.dropped), ("ok", 100, 101, 0));
    assert!(status.commits > 0 && status.bytes > 0 && status.bytes_written > 0);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_clean_end_and_a_new_start_lose_nothing_and_repeat_no_number() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    let epoch = store.epoch();
    store.take(readings(0..20_000));
    store.drain("cloud").expect("configured").delivered(1..5);
    store.close().await.expect("closes");
    let (store, recovery) = open(dir.path(), "b");
    assert!(recovery.losses.is_empty(), "{:?}", recovery.losses);
    assert_eq!(store.epoch().start, epoch.start + 1);
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(store.take(readings(0..1)).first.seq, 20_001);
    store.flush().await.expect("flushes");
    let records = read_all(&*drain, 999).await;
    assert_eq!(records.len(), 20_001);
    assert!(records[..20_000].iter().all(|r| r.id.epoch == epoch));
    assert!(records.iter().map(|r| r.id.seq).eq(1..20_002));
    assert_eq!(records.last().map(|r| r.id.epoch), Some(store.epoch()));
    store.close().await.expect("closes");
}

#[tokio::test]
async fn acknowledgements_survive_a_restart_even_out_of_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    store.take(readings(0..100));
    store.flush().await.expect("flushes");
    let drain = store.drain("cloud").expect("configured");
    for range in [1..10, 20..30, 50..60] {
        drain.delivered(range);
    }
    store.flush().await.expect("flushes");
    drop(drain);
    store.crash();
    let (store, recovery) = open(dir.path(), "a");
    assert!(recovery.losses.is_empty(), "{:?}", recovery.losses);
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(drain.pending(), [10..20, 30..50, 60..101]);
    assert_eq!(balanced(&*drain).delivered, 29);
}

#[tokio::test]
async fn a_rejected_reading_is_declared_with_its_name_and_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    let mut events = store.events();
    store.take(readings(0..10));
    store.flush().await.expect("flushes");
    let drain = store.drain("cloud").expect("configured");
    drain.reject(&[3..5], LossReason::Rejected);
    assert_eq!(drain.pending(), [1..3, 5..11]);
    store.flush().await.expect("flushes");
    let found = drain.losses(10).await.expect("reads");
    let (handle, record) = found.first().cloned().expect("one");
    assert_eq!((record.seq, record.count, record.bound), ([3, 4], 2, false));
    assert_eq!(record.points, Some(vec!["meter/p2".to_owned(), "meter/p3".to_owned()]));
    assert_eq!(record.from, Some(WallMs(NOW + 2).to_string()));
    assert_eq!(record.to, Some(WallMs(NOW + 3).to_string()));
    assert_eq!(record.epoch, store.epoch().to_string());
    assert_eq!(events.recv().await.expect("broadcast"), record);
    drain.loss_delivered(handle);
    assert_eq!(losses(&*drain).await, []);
    store.flush().await.expect("flushes");
    assert_eq!(losses(&*drain).await, []);
    assert_eq!(balanced(&*drain).lost, 2);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn each_uplink_has_its_own_position_and_the_slowest_keeps_the_blocks() {
    let dir = tempfile::tempdir().expect("a directory");
    let names = uplinks(&["cloud", "plant"]);
    let (store, _) = Store::open(&config(dir.path()), &names, TestClock::new("a")).expect("opens");
    store.take(readings(0..50));
    store.flush().await.expect("flushes");
    let (cloud, plant) = (store.drain("cloud").expect("known"), store.drain("plant").expect("known"));
    cloud.delivered(1..51);
    store.flush().await.expect("flushes");
    assert_eq!(store.status().readings, 50);
    assert_eq!((balanced(&*cloud).queued, balanced(&*plant).queued), (0, 50));
    // It leaves the configuration: nobody is owed the blocks any more.
    store.reconfigure(&config(dir.path()), &uplinks(&["cloud"]), store.wishes());
    assert!(store.drain("plant").is_none() && plant.pending().is_empty());
    store.flush().await.expect("flushes");
    store.flush().await.expect("flushes");
    assert_eq!(store.status().readings, 0);
    // It comes back: what it missed is declared.
    store.take(readings(0..10));
    store.reconfigure(&config(dir.path()), &names, store.wishes());
    store.flush().await.expect("flushes");
    let ledger = balanced(&*plant);
    assert_eq!((ledger.taken, ledger.lost, ledger.queued), (60, 50, 10));
    let declared = losses(&*plant).await;
    assert_eq!((declared[0].reason, declared[0].seq), (LossReason::Purged, [1, 50]));
    // A new one begins with what is there.
    store.reconfigure(&config(dir.path()), &uplinks(&["cloud", "plant", "third"]), store.wishes());
    assert_eq!(store.drain("third").expect("known").pending(), [51..61]);
    assert_eq!(store.drain("nobody").map(|_| ()), None);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_command_is_known_after_a_crash_and_never_fresh_twice() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    assert_eq!(store.command_begin("c-1").await, Begun::Fresh);
    assert_eq!(store.command_begin("c-2").await, Begun::Fresh);
    store.command_done("c-1", r#"{"id":"c-1"}"#);
    store.flush().await.expect("flushes");
    store.crash();
    let (store, _) = open(dir.path(), "a");
    assert_eq!(store.command_begin("c-1").await, Begun::Repeat(Some(r#"{"id":"c-1"}"#.into())));
    assert_eq!(store.command_begin("c-2").await, Begun::Repeat(None));
    assert_eq!(store.command_seen("c-3"), None);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn the_latest_values_come_back_after_an_end_of_either_kind() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    store.take(readings(0..70));
    store.flush().await.expect("flushes");
    store.drain("cloud").expect("configured").delivered(1..71);
    store.close().await.expect("closes");
    for boot in ["a", "b"] {
        let (store, _) = open(dir.path(), boot);
        let mut values: Vec<(Arc<PointKey>, Option<Value>)> =
            store.last_values().into_iter().map(|r| (r.point, r.value)).collect();
        values.sort_by(|a, b| a.0.cmp(&b.0));
        let expected: Vec<_> = (0..7).map(|n| (key(n), Some(Value::Int(63 + n as i64)))).collect();
        assert_eq!(values, expected);
        store.crash();
    }
    let (store, _) = open(dir.path(), "b");
    store.take(readings(700..707));
    store.flush().await.expect("flushes");
    store.crash();
    let (store, _) = open(dir.path(), "b");
    assert!(store.last_values().iter().all(|r| r.value.as_ref().and_then(Value::as_f64) >= Some(700.0)));
    store.crash();
}

#[tokio::test]
async fn points_that_left_the_configuration_do_not_come_back_and_a_new_unit_makes_no_second_value() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    store.take(readings(0..70));
    let in_millivolts = PointKey { unit: "mV".into(), ..(*key(0)).clone() };
    store.take(vec![Reading::good(Arc::new(in_millivolts), BootMs(71), Value::Int(71))]);
    store.flush().await.expect("flushes");
    store.drain("cloud").expect("configured").delivered(1..72);
    store.close().await.expect("closes");
    let names = |store: &Store| {
        let values = store.last_values();
        let mut names: Vec<String> = values.iter().map(|r| r.point.path() + " " + &r.point.unit).collect();
        names.sort();
        names
    };
    let (store, _) = open(dir.path(), "a");
    assert_eq!(names(&store).len(), 7, "{:?}", names(&store));
    let known = [0, 3].map(|n| ("meter".to_owned(), format!("p{n}")));
    store.keep_last_values(&known.into());
    assert_eq!(names(&store), ["meter/p0 mV", "meter/p3 V"]);
    store.close().await.expect("closes");
    let (store, _) = open(dir.path(), "a");
    assert_eq!(names(&store), ["meter/p0 mV", "meter/p3 V"], "forgotten on disk too");
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_inspection_too_while_one_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    store.take(readings(0..30));
    store.flush().await.expect("flushes");
    let second = Store::open(&config(dir.path()), &uplinks(&["cloud"]), TestClock::new("a"));
    assert!(matches!(second, Err(StoreError::InUse(_))), "{second:?}");
    assert!(matches!(Store::inspect(dir.path()), Err(StoreError::InUse(_))));
    store.drain("cloud").expect("configured").delivered(1..11);
    store.close().await.expect("closes");
    let seen = Store::inspect(dir.path()).expect("looks");
    assert_eq!((seen.next_seq, seen.readings, seen.clean), (31, 30, true));
    let cloud = &seen.uplinks["cloud"];
    assert_eq!((cloud.taken, cloud.delivered, cloud.queued, cloud.lost), (30, 10, 20, 0));
    assert_eq!(Store::inspect(dir.path()).expect("looks again"), seen, "nothing changed");
    assert!(matches!(Store::inspect(&dir.path().join("x")), Err(StoreError::Unreadable { .. })));
}

#[tokio::test]
async fn the_end_of_the_thread_is_noticed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    let watcher = store.clone();
    let (ended, ()) = tokio::join!(async { watcher.ended().await }, async { store.crash() });
    assert_eq!(ended, ());
    assert_eq!(watcher.status().state, "ended");
    assert!(watcher.flush().await.is_err());
}
