//! Size, age, and the bounds in RAM: what goes is declared exactly.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use driver_api::Value;

use super::*;
use crate::bounds;
use crate::message::LossReason;

/// Numbers that these records declare, each once.
fn declared(records: &[LossRecord]) -> BTreeSet<u64> {
    let mut all = BTreeSet::new();
    for record in records {
        assert_eq!(record.count, record.seq[1] - record.seq[0] + 1, "{record:?}");
        for n in record.seq[0]..=record.seq[1] {
            assert!(all.insert(n), "{n} is declared twice");
        }
    }
    all
}

#[tokio::test]
async fn below_the_free_disk_what_was_set_aside_goes_and_no_reading() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    for name in ["fieldgate.db.bad-1", "fieldgate.db.bad-1-wal", "fieldgate.db.bad-2"] {
        std::fs::write(dir.path().join(name), b"an old one").expect("writes");
    }
    let open = |config: &_| opened(config, &uplinks(&["cloud"]), TestClock::new("a")).0;
    let store = open(&config);
    store.take(readings(0..100));
    store.flush().await.expect("flushes");
    assert_eq!(store.status().set_aside, ["fieldgate.db.bad-1", "fieldgate.db.bad-2"]);
    store.close().await.expect("closes");
    config.min_free = ByteSize(1 << 60);
    let store = open(&config);
    store.take(readings(100..200));
    store.flush().await.expect("flushes");
    assert!(store.status().set_aside.is_empty() && !dir.path().join("fieldgate.db.bad-1-wal").exists());
    assert_eq!(store.drain("cloud").expect("configured").pending(), [1..201]);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn over_the_size_limit_the_oldest_go_and_every_one_is_declared() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    config.max_size = ByteSize(1 << 20);
    let names = uplinks(&["cloud", "plant"]);
    let (store, _) = opened(&config, &names, TestClock::new("a"));
    let mut random = fastrand::Rng::with_seed(5);
    let drain = store.drain("cloud").expect("configured");
    store.drain("plant").expect("configured").delivered(0..0);
    for round in 0..40u64 {
        let batch = (0..4000)
            .map(|n| Reading::good(key(n % 7), BootMs(round * 1000), Value::Float(random.f64())))
            .collect();
        store.take(batch);
        store.flush().await.expect("flushes");
        if round == 3 {
            // What one of them has already is not lost for it.
            drain.delivered(2001..6001);
        }
    }
    store.flush().await.expect("flushes");
    let ledger = balanced(&*drain);
    assert_eq!((ledger.taken, ledger.delivered), (160_000, 4000));
    assert!(ledger.lost > 30_000 && ledger.queued > 10_000, "{ledger:?}");
    let records = losses(&*drain).await;
    assert!(records.len() < 20, "they do not flood: {}", records.len());
    assert!(records.iter().all(|r| r.reason == LossReason::QueueFull && !r.bound));
    assert!(records.iter().all(|r| r.points.as_ref().is_some_and(|p| p.len() == 7)));
    assert_eq!(records[0].seq, [1, 2000]);
    assert_eq!(records[0].from, Some(WallMs(NOW).to_string()));
    let mut told = declared(&records);
    let read: BTreeSet<u64> = seqs(&read_all(&*drain, 4096).await).into_iter().collect();
    assert_eq!(read.len() as u64, ledger.queued);
    assert!(told.is_disjoint(&read));
    told.extend(2001..6001);
    told.extend(&read);
    assert!(told.into_iter().eq(1..160_001), "delivered, lost and queued are the whole line");
    let size: u64 = ["fieldgate.db", "fieldgate.db-wal"]
        .iter()
        .map(|f| std::fs::metadata(dir.path().join(f)).map_or(0, |m| m.len()))
        .sum();
    assert!(size <= (1 << 20) + (256 << 10), "{size} bytes on disk");
    let plant = store.drain("plant").expect("configured");
    assert_eq!(balanced(&*plant).lost, ledger.lost + 4000);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn what_is_too_old_goes_by_the_clock_that_is_believed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    config.max_age = Span::s(60);
    let clock = TestClock::new("a");
    let names = uplinks(&["cloud"]);
    let (store, _) = opened(&config, &names, clock.clone());
    let drain = store.drain("cloud").expect("configured");
    store.take(readings(1000..1010));
    store.flush().await.expect("flushes");
    // The wall clock leaps a year; nothing vouches for it, nothing expires.
    clock.synced.store(false, Ordering::SeqCst);
    clock.offset.fetch_add(31_536_000_000, Ordering::SeqCst);
    store.take(readings(1010..1011));
    store.flush().await.expect("flushes");
    assert_eq!(balanced(&*drain).lost, 0);
    clock.offset.fetch_sub(31_536_000_000, Ordering::SeqCst);
    clock.synced.store(true, Ordering::SeqCst);

    clock.boot.store(61_500, Ordering::SeqCst);
    store.take(readings(61_500..61_505));
    store.flush().await.expect("flushes");
    store.flush().await.expect("flushes");
    let ledger = balanced(&*drain);
    assert_eq!((ledger.lost, ledger.queued), (11, 5));
    let records = losses(&*drain).await;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((records[0].reason, records[0].seq), (LossReason::Expired, [1, 11]));
    assert_eq!(ledger.oldest, Some(WallMs(NOW + 61_500)));
    store.close().await.expect("closes");
}

/// What a start in a new boot drops of the ten readings of boot `a`, and then what another start drops: each a boot, how far
/// its clock is ahead, whether somebody vouches for it, and for how long it has been up.
async fn dropped_by(boots: &[(&str, i64, bool, u64)]) -> Vec<u64> {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { max_age: Span::s(3600), ..config(dir.path()) };
    let names = uplinks(&["cloud"]);
    let (store, _) = opened(&config, &names, TestClock::new("a"));
    store.take(readings(1000..1010));
    store.close().await.expect("closes");
    let mut lost = Vec::new();
    for (id, ahead, witnessed, up) in boots {
        let clock = TestClock::new(id);
        clock.offset.fetch_add(*ahead, Ordering::SeqCst);
        clock.witnessed.store(*witnessed, Ordering::SeqCst);
        clock.boot.store(*up, Ordering::SeqCst);
        let (store, _) = opened(&config, &names, clock);
        let drain = store.drain("cloud").expect("configured");
        // One reading is no history: it is there to be expired, too, when its time has come.
        store.take(readings(*up..up + 1));
        store.flush().await.expect("flushes");
        store.flush().await.expect("flushes");
        lost.push(balanced(&*drain).lost);
        drop(drain);
        store.close().await.expect("closes");
    }
    lost
}

#[tokio::test]
async fn no_backlog_is_over_age_by_a_leap_of_a_clock_that_nobody_vouches_for() {
    const YEARS: i64 = 3 * 31_536_000_000;
    const HOUR: u64 = 3_600_000;
    assert_eq!(dropped_by(&[("b", YEARS, true, 1000)]).await, [10], "a time server says so");
    assert_eq!(dropped_by(&[("b", YEARS, false, 1000)]).await, [0], "the box alone says so");
    // Once more the same clock, which has not leapt since; and then somebody vouches for it, and it was right.
    let still =
        [("b", YEARS, false, 1000), ("c", YEARS + 60_000, false, 1000), ("c", YEARS + 60_000, true, 2000)];
    assert_eq!(dropped_by(&still).await, [0, 0, 10]);
    // It was wrong: nothing was lost by it.
    assert_eq!(dropped_by(&[("b", YEARS, false, 1000), ("c", 60_000, true, 1000)]).await, [0, 0]);
    // Whatever the clock says, that long ago it was.
    assert_eq!(dropped_by(&[("b", YEARS, false, HOUR + 60_000)]).await, [10]);
    // A night without sun is no leap, and many of them make an age.
    let nights =
        [("b", 1_800_000, false, 1000), ("c", 2 * 1_800_000, false, 1000), ("d", 3 * 1_800_000, false, 1000)];
    assert_eq!(dropped_by(&nights).await[..2], [0, 0]);
    assert_eq!(dropped_by(&nights).await[2], 10);
}

#[tokio::test]
async fn without_an_uplink_the_log_is_history_and_drops_silently() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    config.max_age = Span::s(60);
    let clock = TestClock::new("a");
    let (store, _) = opened(&config, &[], clock.clone());
    let mut events = store.events();
    store.take(readings(1000..1010));
    store.flush().await.expect("flushes");
    assert_eq!(store.status().readings, 10);
    clock.boot.store(100_000, Ordering::SeqCst);
    store.flush().await.expect("flushes");
    assert_eq!((store.status().readings, store.status().dropped), (0, 10));
    assert!(events.try_recv().is_err());
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_ring_that_overflows_declares_the_oldest_and_finds_its_place_when_the_disk_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("queue");
    {
        let (store, _) = open(&path, "a");
        store.take(readings(0..10));
        store.close().await.expect("closes");
    }
    let away = dir.path().join("away");
    std::fs::rename(&path, &away).expect("renames");
    std::fs::write(&path, b"not a directory").expect("writes");
    let (store, recovery) = open(&path, "a");
    assert!(recovery.ram_only.is_some());
    assert_eq!(store.status().state, "fault");
    assert_eq!(store.epoch().start, 0);
    let drain = store.drain("cloud").expect("configured");
    let extra = 1000u64;
    let ring = bounds::STORE_RING as u64;
    for n in 0..(ring + extra) / 8 {
        store.take(readings(n * 8..n * 8 + 8));
    }
    let ledger = balanced(&*drain);
    assert_eq!((ledger.taken, ledger.lost, ledger.queued), (ring + extra, extra, ring));
    assert!(drain.read(1..2, 1).await.is_err());

    std::fs::remove_file(&path).expect("removes");
    std::fs::rename(&away, &path).expect("renames");
    until("the store comes back", || store.status().state == "ok").await;
    store.flush().await.expect("flushes");
    let ledger = balanced(&*drain);
    assert_eq!((ledger.taken, ledger.lost, ledger.queued), (10 + ring + extra, extra, 10 + ring));
    let records = losses(&*drain).await;
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((records[0].reason, records[0].seq), (LossReason::QueueFull, [11, 10 + extra]));
    assert_eq!(records[0].points.as_ref().map(Vec::len), Some(7));
    let read = read_all(&*drain, 4096).await;
    assert!(seqs(&read).into_iter().eq((1..11).chain(11 + extra..11 + extra + ring)));
    assert_eq!(read[10].value, Some(Value::Int(extra.cast_signed())));
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_text_too_long_for_the_log_becomes_a_bad_reading() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    let text = |n: usize| Value::Text("x".repeat(n).into());
    store.take(vec![
        Reading::good(key(0), BootMs(1), text(bounds::STORE_TEXT)),
        Reading::good(key(0), BootMs(1), text(bounds::STORE_TEXT + 1)),
    ]);
    store.flush().await.expect("flushes");
    let records = read_all(&*store.drain("cloud").expect("configured"), 10).await;
    assert_eq!(records[0].value, Some(text(bounds::STORE_TEXT)));
    assert_eq!(records[1].value, None);
    store.close().await.expect("closes");
}
