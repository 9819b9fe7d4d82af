//! A data directory that an earlier version left: it is taken over whole, or not touched.

use std::sync::atomic::Ordering;

use super::*;
use crate::store::block_tests::version_1;
use crate::store::identity::{seal, unseal};
use crate::store::log::Log;
use crate::store::schema::SCHEMA;

/// Makes the directory one of schema 1: its pages are of 4 KiB, and its block is one that version 1 wrote, in the epoch and boot of the block
/// that is there.
fn age(dir: &Path) {
    let db = rusqlite::Connection::open(dir.join("fieldgate.db")).expect("opens");
    let now: Vec<u8> = db.query_row("SELECT data FROM block", [], |r| r.get(0)).expect("a block");
    let mut old = version_1();
    old[20..32].copy_from_slice(&now[20..32]);
    let end = old.len() - 4;
    let crc = crc32fast::hash(&old[..end]);
    old[end..].copy_from_slice(&crc.to_le_bytes());
    let stored = db.execute("UPDATE block SET data=?1", [old]).expect("a block");
    assert_eq!(stored, 1);
    // Its pages are those that SQLite takes by itself.
    let resize = "DROP TABLE thin; PRAGMA user_version=1; PRAGMA journal_mode=DELETE; PRAGMA page_size=4096; VACUUM; PRAGMA journal_mode=WAL";
    db.execute_batch(resize).expect("written");
}

fn schema(dir: &Path) -> i64 {
    let db = rusqlite::Connection::open(dir.join("fieldgate.db")).expect("opens");
    db.query_row("PRAGMA user_version", [], |r| r.get(0)).expect("reads")
}

fn page(dir: &Path) -> i64 {
    let db = rusqlite::Connection::open(dir.join("fieldgate.db")).expect("opens");
    db.query_row("PRAGMA page_size", [], |r| r.get(0)).expect("reads")
}

/// A directory with the six readings of the block of version 1, from number 81,300 on.
async fn directory(dir: &Path) {
    let (store, _) = open(dir, "a");
    let mut left = 81_299;
    while left > 0 {
        let n = left.min(8000);
        let _ = store.take(readings(0..n));
        store.flush().await.expect("the disk is there");
        left -= n;
    }
    let drain = store.drain("cloud").expect("configured");
    drain.delivered(1..81_300);
    until("only what comes is left", || store.status().readings == 0).await;
    let _ = store.take(readings(0..6));
    drop(drain);
    store.close().await.expect("closes");
    age(dir);
}

#[tokio::test]
async fn a_directory_of_an_earlier_version_is_read_without_a_change_and_then_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    directory(dir.path()).await;
    let log = Store::at_rest(dir.path()).expect("nobody uses it");
    let seen = log.stretch(0).expect("reads").expect("a block");
    assert_eq!((seen.damaged, seqs(&seen.chunk.records)), (false, (81_300..81_306).collect()));
    drop(log);
    assert_eq!(schema(dir.path()), 1, "who only looks changes nothing");

    let (store, recovery) = open(dir.path(), "a");
    assert!(recovery.losses.is_empty() && recovery.set_aside.is_empty(), "{recovery:?}");
    let drain = store.drain("cloud").expect("configured");
    let records = read_all(&*drain, 100).await;
    assert_eq!(seqs(&records), (81_300..81_306).collect::<Vec<_>>());
    assert_eq!(records[0].value, Some(Value::Float(230.1)));
    assert_eq!((&*records[2].point.device, records[2].value.as_ref()), ("tank", None));
    let _ = store.take(readings(0..3));
    store.flush().await.expect("the disk is there");
    assert_eq!(read_all(&*drain, 100).await.len(), 9, "old blocks and new ones");
    assert_eq!(balanced(&*drain).lost, 0);
    drop(drain);
    store.close().await.expect("closes");
    assert_eq!((schema(dir.path()), page(dir.path())), (SCHEMA, 4096));
}

#[tokio::test]
async fn an_upgrade_that_is_cut_off_leaves_the_one_version_or_the_other() {
    let dir = tempfile::tempdir().expect("a directory");
    directory(dir.path()).await;
    // Every copy that a cut could leave: the WAL of the upgrade, cut off anywhere.
    drop(Log::open(&dir.path().join("fieldgate.db")).expect("upgrades"));
    let wal = std::fs::read(dir.path().join("fieldgate.db-wal")).expect("reads");
    assert!(wal.len() > 4096, "the upgrade is in it");
    for keep in (0..=wal.len()).step_by(512) {
        let copy = tempfile::tempdir().expect("a directory");
        for file in ["fieldgate.db", "mark"] {
            std::fs::copy(dir.path().join(file), copy.path().join(file)).expect("copies");
        }
        std::fs::write(copy.path().join("fieldgate.db-wal"), &wal[..keep]).expect("writes");
        let (store, recovery) = open(copy.path(), "b");
        assert!(recovery.set_aside.is_empty(), "{keep}: {recovery:?}");
        let drain = store.drain("cloud").expect("configured");
        assert_eq!(seqs(&read_all(&*drain, 100).await), (81_300..81_306).collect::<Vec<_>>(), "{keep}");
        balanced(&*drain);
        drop(drain);
        store.close().await.expect("closes");
        assert_eq!(schema(copy.path()), SCHEMA, "{keep}");
    }
}

/// Makes the small state what version 2 wrote: without what came with version 3.
fn without_releases(dir: &Path) {
    let db = rusqlite::Connection::open(dir.join("fieldgate.db")).expect("opens");
    for (key, list, gone) in [("uplink:cloud", false, "released"), ("boots", true, "shown")] {
        let text: String =
            db.query_row("SELECT value FROM state WHERE key=?1", [key], |r| r.get(0)).expect("there");
        let mut value: serde_json::Value = unseal(&text).expect("whole");
        let object = if list { &mut value[0] } else { &mut value };
        assert!(object.as_object_mut().expect("an object").remove(gone).is_some(), "{key}: {text}");
        let sealed = seal(&value).expect("JSON");
        db.execute("UPDATE state SET value=?1 WHERE key=?2", [&sealed, key]).expect("written");
    }
    db.execute_batch("DROP TABLE thin; PRAGMA user_version=2; PRAGMA wal_checkpoint(TRUNCATE)")
        .expect("written");
}

#[tokio::test]
async fn a_boot_without_a_clock_that_an_earlier_version_began_goes_on_and_is_placed() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = TestClock::new("a");
    clock.offset.store(0, Ordering::SeqCst);
    clock.synced.store(false, Ordering::SeqCst);
    let start = || {
        let (store, recovery) = opened(&config(dir.path()), &uplinks(&["cloud"]), clock.clone());
        assert!(recovery.losses.is_empty() && recovery.set_aside.is_empty(), "{recovery:?}");
        let drain = store.drain("cloud").expect("configured");
        (store, drain)
    };
    let (store, drain) = start();
    let _ = store.take(readings(0..6));
    store.flush().await.expect("the disk is there");
    assert_eq!(drain.read(1..4, 9).await.expect("reads").records.len(), 3);
    drop(drain);
    store.close().await.expect("closes");
    without_releases(dir.path());

    let (store, drain) = start();
    let _ = store.take(readings(10..16));
    store.flush().await.expect("the disk is there");
    assert_eq!(drain.read(7..10, 9).await.expect("reads").records.len(), 3);
    clock.offset.store(NOW, Ordering::SeqCst);
    clock.synced.store(true, Ordering::SeqCst);
    let times: Vec<i64> = read_all(&*drain, 9).await.iter().map(|r| r.ts.0).collect();
    // What version 2 sent it did not remember: as it did then, all that is queued is placed.
    let expected = (0..6).map(|n| NOW + n).chain(10..13).chain((13..16).map(|n| NOW + n));
    assert_eq!(times, expected.collect::<Vec<_>>());
    let told = drain.corrections(9).await.expect("reads");
    assert_eq!(told.iter().map(|(_, c)| c.seq).collect::<Vec<_>>(), [[7, 9]]);
    balanced(&*drain);
    drop(drain);
    store.close().await.expect("closes");
    assert_eq!(schema(dir.path()), SCHEMA);
}

#[tokio::test]
async fn a_directory_of_the_version_before_thinning_is_looked_at_and_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    let _ = store.take(readings(0..100));
    store.close().await.expect("closes");
    let db = rusqlite::Connection::open(dir.path().join("fieldgate.db")).expect("opens");
    db.execute_batch("DROP TABLE thin; PRAGMA user_version=3").expect("written");
    drop(db);
    let seen = Store::inspect(dir.path()).expect("nobody uses it");
    assert_eq!((seen.readings, seen.uplinks["cloud"].queued, schema(dir.path())), (100, 100, 3));
    let (store, recovery) = open(dir.path(), "a");
    assert!(recovery.losses.is_empty() && recovery.set_aside.is_empty(), "{recovery:?}");
    assert_eq!(read_all(&*store.drain("cloud").expect("configured"), 30).await.len(), 100);
    store.close().await.expect("closes");
    assert_eq!(schema(dir.path()), SCHEMA);
}
