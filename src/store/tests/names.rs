//! A gateway that gets another id: what was taken keeps the one it was taken under.

use super::*;
use crate::store::Wishes;

fn open_as(dir: &Path, gateway: &str) -> (Store, Recovery) {
    let uplinks = uplinks(&["cloud"]);
    Store::open_with(&config(dir), (gateway, &uplinks), Wishes::new(), TestClock::new("a")).expect("opens")
}

#[tokio::test]
async fn what_was_taken_under_an_id_keeps_it_over_a_change_and_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, recovery) = open_as(dir.path(), "plant-7");
    assert_eq!(recovery.renamed_from, None);
    let first = store.take(readings(0..10)).first.epoch;
    store.flush().await.expect("the disk is there");
    store.crash();

    let (store, recovery) = open_as(dir.path(), "plant-8");
    assert_eq!(recovery.renamed_from.as_deref(), Some("plant-7"));
    assert_ne!(store.epoch(), first);
    assert_eq!(store.status().earlier_ids, ["plant-7"]);
    store.take(readings(10..20));
    store.flush().await.expect("the disk is there");
    store.crash();

    let (store, recovery) = open_as(dir.path(), "plant-8");
    assert_eq!(recovery.renamed_from, None, "it was said");
    let drain = store.drain("cloud").expect("configured");
    let records = read_all(&*drain, 9).await;
    let names: Vec<String> =
        records.iter().map(|r| drain.taken_by(r.id.seq).expect("known").to_string()).collect();
    let expected = [["plant-7"; 10], ["plant-8"; 10]].concat();
    assert_eq!(names, expected);
    drain.delivered(1..11);
    until("what is of the old name is gone", || store.status().earlier_ids.is_empty()).await;
    balanced(&*drain);
    drop(drain);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_directory_of_a_version_that_wrote_no_names_is_taken_to_be_of_this_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    store.take(readings(0..10));
    store.close().await.expect("closes");
    let db = rusqlite::Connection::open(dir.path().join("fieldgate.db")).expect("opens");
    db.execute_batch("PRAGMA user_version=5").expect("written");
    drop(db);
    let (store, recovery) = open_as(dir.path(), "plant-7");
    assert_eq!((recovery.renamed_from, recovery.set_aside), (None, Vec::new()));
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(drain.taken_by(3).as_deref(), Some("plant-7"));
    drop(drain);
    store.close().await.expect("closes");
    let (store, recovery) = open_as(dir.path(), "plant-8");
    assert_eq!(recovery.renamed_from.as_deref(), Some("plant-7"));
    store.close().await.expect("closes");
}
