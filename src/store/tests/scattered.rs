//! What an uplink gives up here and there in the log: few records, each exact, over restarts and damage.

use std::ops::Range;

use super::*;
use crate::message::LossReason;

/// 1 to 30 are stored; these are given up, each by itself.
async fn given_up(dir: &Path, delivered: &[Range<u64>], numbers: &[u64]) -> (Store, Arc<dyn Drain>) {
    let (store, _) = open(dir, "a");
    store.take(readings(0..30));
    store.flush().await.expect("flushes");
    let drain = store.drain("cloud").expect("configured");
    delivered.iter().for_each(|range| drain.delivered(range.clone()));
    let ranges: Vec<_> = numbers.iter().map(|n| *n..*n + 1).collect();
    drain.reject(&ranges, LossReason::Rejected);
    store.flush().await.expect("flushes");
    (store, drain)
}

#[tokio::test]
async fn what_was_given_up_among_what_was_delivered_is_one_record_with_its_points_and_times() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, drain) = given_up(dir.path(), &[1..4, 5..11, 12..18], &[4, 11, 18]).await;
    let told = losses(&*drain).await;
    let [record] = told.as_slice() else { panic!("one record: {told:?}") };
    assert_eq!((record.seq, record.count, record.bound), ([4, 18], 3, false));
    assert_eq!(record.points, Some(vec!["meter/p3".to_owned()]));
    let times = (record.from.clone(), record.to.clone());
    assert_eq!(times, (Some(WallMs(NOW + 3).to_string()), Some(WallMs(NOW + 17).to_string())));
    let ledger = balanced(&*drain);
    assert_eq!((ledger.delivered, ledger.lost, ledger.queued), (15, 3, 12));
    drop(drain);
    store.crash();
    let (store, recovery) = open(dir.path(), "a");
    assert_eq!(recovery.losses, [], "nothing is declared twice");
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(losses(&*drain).await, told);
    assert_eq!((balanced(&*drain).lost, drain.pending()), (3, vec![19..31]));
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_record_ends_where_something_is_still_owed_so_all_of_it_that_has_not_arrived_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, drain) = given_up(dir.path(), &[1..4, 5..10, 12..18], &[4, 11, 18, 20]).await;
    let told: Vec<_> = losses(&*drain).await.into_iter().map(|r| (r.seq, r.count)).collect();
    assert_eq!(told, [([4, 4], 1), ([11, 18], 2), ([20, 20], 1)], "10 and 19 may arrive yet");
    store.close().await.expect("closes");
}

#[tokio::test]
async fn records_of_two_calls_that_lie_among_each_other_are_told_and_forgotten_each_by_itself() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, drain) = given_up(dir.path(), &[1..2, 3..4, 5..31], &[2]).await;
    drain.reject(&[4..5], LossReason::Rejected);
    store.flush().await.expect("flushes");
    let told = drain.losses(10).await.expect("reads");
    assert_eq!(told.iter().map(|(_, r)| r.count).collect::<Vec<_>>(), [1, 1]);
    drain.loss_delivered(told[0].0);
    store.flush().await.expect("flushes");
    drop(drain);
    store.crash();
    let (store, recovery) = open(dir.path(), "a");
    assert_eq!(recovery.losses, []);
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(losses(&*drain).await, [told[1].1.clone()]);
    assert_eq!(balanced(&*drain).lost, 2);
    store.close().await.expect("closes");
}
