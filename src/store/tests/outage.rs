//! A disk that is out of order for a while: live readings reach the uplinks all the same, the ledger stays exact, and
//! whatever happens in that state, no identity is given out twice.

use std::path::Path;

use rusqlite::ffi;

use super::power::vfs::{Call, Disk, unwatch, watch};
use super::*;
use crate::message::LossReason;
use crate::store::Ledger;

/// A directory whose database can be broken and healed.
struct Broken {
    dir: tempfile::TempDir,
    disk: Arc<Disk>,
    out: Arc<AtomicBool>,
}

impl Broken {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (disk, out) = (watch(dir.path()), Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&out);
        disk.on_call(Some(Box::new(move |call, _| {
            let writes = matches!(call, Call::Write | Call::Sync | Call::Truncate);
            (writes && flag.load(Ordering::SeqCst)).then_some(ffi::SQLITE_IOERR_WRITE)
        })));
        Self { dir, disk, out }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn break_it(&self) {
        self.out.store(true, Ordering::SeqCst);
    }

    fn heal(&self) {
        self.out.store(false, Ordering::SeqCst);
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        self.disk.on_call(None);
        unwatch(self.dir.path());
    }
}

fn figures(ledger: Ledger) -> [u64; 4] {
    [ledger.taken, ledger.delivered, ledger.queued, ledger.lost]
}

/// 1..11 stored, of them 1..6 delivered; then the disk breaks, and 11..31 are in RAM.
async fn out_of_order(broken: &Broken) -> (Store, Arc<dyn Drain>) {
    let (store, _) = open(broken.path(), "a");
    let drain = store.drain("cloud").expect("configured");
    store.take(readings(0..10));
    store.flush().await.expect("flushes");
    drain.delivered(1..6);
    store.flush().await.expect("flushes");
    broken.break_it();
    store.take(readings(10..20));
    until("the store sees it", || store.status().state == "fault").await;
    store.take(readings(20..30));
    (store, drain)
}

#[tokio::test]
async fn while_the_disk_is_out_of_order_live_readings_arrive_and_the_ledger_is_exact() {
    let broken = Broken::new();
    let (store, drain) = out_of_order(&broken).await;
    assert_eq!(*drain.head().borrow(), 31);
    assert_eq!(drain.pending(), [6..31]);
    let chunk = drain.read(11..31, 100).await.expect("from RAM");
    assert_eq!((seqs(&chunk.records), chunk.next), ((11..31).collect(), 31));
    assert!(chunk.records.iter().all(|r| r.id.epoch == store.epoch()));
    drain.delivered(11..25);
    assert_eq!(figures(balanced(&*drain)), [30, 19, 11, 0]);
    // What is refused there is asked for again later: nothing is declared ahead of the log.
    drain.reject(&[25..27], LossReason::Rejected);
    assert_eq!(figures(balanced(&*drain)), [30, 19, 11, 0]);
    assert_eq!(store.status().stored_seq, 10);

    broken.heal();
    until("the store comes back", || store.status().state == "ok").await;
    store.flush().await.expect("flushes");
    assert_eq!((store.status().stored_seq, *drain.head().borrow()), (30, 31));
    assert_eq!(drain.pending(), [6..11, 25..31]);
    let expected: Vec<u64> = (6..11).chain(25..31).collect();
    assert_eq!(seqs(&read_all(&*drain, 4096).await), expected);
    assert_eq!(figures(balanced(&*drain)), [30, 19, 11, 0]);
    drop(drain);
    store.crash();
    let (store, recovery) = open(broken.path(), "a");
    assert!(recovery.losses.is_empty(), "{:?}", recovery.losses);
    let drain = store.drain("cloud").expect("configured");
    assert_eq!((drain.pending(), figures(balanced(&*drain))), (vec![6..11, 25..31], [30, 19, 11, 0]));
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_kill_while_readings_are_lent_declares_a_bound_and_repeats_no_identity() {
    for boot in ["a", "b"] {
        let broken = Broken::new();
        let (store, drain) = out_of_order(&broken).await;
        let old = store.epoch();
        drain.delivered(11..25);
        drop(drain);
        store.crash();
        broken.heal();
        if boot == "b" {
            // A power cut takes the head with it.
            std::fs::remove_file(broken.path().join("head")).expect("removes");
        }
        let (store, recovery) = open(broken.path(), boot);
        assert!(recovery.set_aside.is_empty());
        let new = store.take(readings(30..31)).first;
        assert!(new.epoch.start > old.start && new.epoch.random != old.random, "{old:?} {new:?}");
        let [loss] = &recovery.losses[..] else { panic!("{:?}", recovery.losses) };
        if boot == "a" {
            assert_eq!((loss.reason, loss.seq, loss.bound), (LossReason::UncleanStart, [11, 30], true));
            assert_eq!(new.seq, 31);
        } else {
            assert_eq!((loss.reason, loss.seq[0], loss.bound), (LossReason::PowerCut, 11, true));
        }
        let drain = store.drain("cloud").expect("configured");
        assert_eq!(drain.ledger().delivered, 5, "the rest nobody could remember");
        balanced(&*drain);
        store.close().await.expect("closes");
    }
}

/// Nothing of the new life is on disk when it ends: the next one is another epoch all the same, nothing is taken for
/// rolled back, and the count of what is gone is exact.
#[tokio::test]
async fn a_life_whose_first_commit_failed_leaves_neither_a_mark_nor_an_identity_that_is_repeated() {
    for boot in ["a", "b"] {
        let broken = Broken::new();
        let mut lazy = config(broken.path());
        lazy.commit_interval = Span::s(3600);
        let start = |boot: &str| opened(&lazy, &uplinks(&["cloud"]), TestClock::new(boot));
        let (store, _) = start("a");
        store.take(readings(0..10));
        store.flush().await.expect("flushes");
        store.take(readings(10..17));
        store.crash();
        let mark = std::fs::read(broken.path().join("mark")).expect("there");

        broken.break_it();
        let (store, recovery) = start("a");
        assert!(
            recovery.ram_only.is_none() && store.status().state == "fault",
            "{recovery:?} {:?}",
            store.status()
        );
        let second = store.take(readings(17..22)).first;
        assert_eq!(second.seq, 18);
        let drain = store.drain("cloud").expect("configured");
        assert_eq!(seqs(&drain.read(18..23, 9).await.expect("lent").records), (18..23).collect::<Vec<_>>());
        drain.delivered(18..20);
        assert_eq!(figures(balanced(&*drain)), [22, 2, 13, 7]);
        drop(drain);
        store.crash();
        let same = std::fs::read(broken.path().join("mark")).expect("there") == mark;
        assert!(same, "a mark of an epoch that the database does not know says that it was rolled back");

        broken.heal();
        if boot == "b" {
            std::fs::remove_file(broken.path().join("head")).expect("removes");
        }
        let (store, recovery) = start(boot);
        let third = store.take(readings(22..23)).first;
        assert!(third.epoch != second.epoch && third.epoch.random != second.epoch.random);
        let told: Vec<_> = recovery.losses.iter().map(|l| (l.reason, l.seq, l.bound)).collect();
        if boot == "a" {
            assert_eq!(told, [(LossReason::UncleanStart, [11, 22], true)]);
            assert_eq!((third.seq, third.epoch.start), (23, second.epoch.start + 1));
        } else {
            assert!(matches!(told[..], [(LossReason::PowerCut, [11, _], true)]), "{told:?}");
        }
        let drain = store.drain("cloud").expect("configured");
        assert_eq!(drain.pending(), [1..11]);
        balanced(&*drain);
        drop(drain);
        store.flush().await.expect("flushes");
        store.mark().await;
        store.crash();
        let (store, recovery) = start(boot);
        assert!(recovery.losses.iter().all(|l| l.reason != LossReason::Rollback), "{:?}", recovery.losses);
        store.close().await.expect("closes");
    }
}

#[tokio::test]
async fn a_start_may_declare_more_than_its_report_has_room_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let names: Vec<String> = (0..crate::bounds::STORE_EVENTS + 16).map(|n| format!("u{n:03}")).collect();
    let mut lazy = config(dir.path());
    lazy.commit_interval = Span::s(3600);
    let (store, _) = opened(&lazy, &names, TestClock::new("a"));
    store.take(readings(0..3));
    store.crash();
    let (store, recovery) = opened(&lazy, &names, TestClock::new("a"));
    assert_eq!(recovery.losses.len(), crate::bounds::STORE_EVENTS, "the newest");
    for name in &names {
        let drain = store.drain(name).expect("configured");
        let told: Vec<_> = losses(&*drain).await.iter().map(|l| (l.seq, l.bound)).collect();
        assert_eq!(told, [([1, 3], false)], "{name}");
        assert_eq!(figures(balanced(&*drain)), [3, 0, 0, 3]);
    }
    store.close().await.expect("closes");
}

/// The disk is full as long as there is the ballast.
#[tokio::test]
async fn with_a_ballast_a_full_disk_is_no_fault() {
    let dir = tempfile::tempdir().expect("a directory");
    let ballast = dir.path().join("ballast");
    std::fs::write(&ballast, vec![7; 1 << 20]).expect("writes");
    let disk = watch(dir.path());
    let (full, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (flag, count, path) = (Arc::clone(&full), Arc::clone(&failed), ballast.clone());
    disk.on_call(Some(Box::new(move |call, _| {
        let fails = call == Call::Write && flag.load(Ordering::SeqCst) && path.exists();
        count.fetch_add(u64::from(fails), Ordering::SeqCst);
        fails.then_some(ffi::SQLITE_FULL)
    })));
    // At a start, and while it runs.
    for start in [false, true] {
        std::fs::write(&ballast, vec![7; 1 << 20]).expect("writes");
        full.store(start, Ordering::SeqCst);
        let before = failed.load(Ordering::SeqCst);
        let (store, recovery) = open(dir.path(), "a");
        if !start {
            assert_eq!(store.status().ballast_bytes, 1 << 20);
            assert!(store.status().bytes > 1 << 20, "it is counted");
            full.store(true, Ordering::SeqCst);
        }
        store.take(readings(0..20));
        assert!(store.flush().await.is_ok(), "{:?}", store.status());
        assert!(recovery.ram_only.is_none() && recovery.losses.is_empty(), "{recovery:?}");
        assert_eq!((store.status().state, store.status().ballast_bytes), ("ok", 0));
        assert!(!ballast.exists() && failed.load(Ordering::SeqCst) > before);
        store.close().await.expect("closes");
    }
    let (store, recovery) = open(dir.path(), "a");
    let ledger = balanced(&*store.drain("cloud").expect("configured"));
    assert_eq!(figures(ledger), [40, 0, 40, 0], "{recovery:?}");
    store.close().await.expect("closes");
    disk.on_call(None);
    unwatch(dir.path());
}

/// Below `min_free` room for new blocks is made once, and not again with every try of a commit that fails.
#[tokio::test]
async fn a_commit_that_is_tried_again_and_again_drops_no_more_for_it() {
    let broken = Broken::new();
    let mut squeezed = config(broken.path());
    let (store, _) = open(broken.path(), "a");
    let drain = store.drain("cloud").expect("configured");
    let text = |n: u64| {
        let noise: String = std::iter::repeat_with(fastrand::alphanumeric).take(400).collect();
        Reading::good(key(0), BootMs(n), Value::Text(noise.into()))
    };
    for round in 0..20 {
        store.take((round * 200..round * 200 + 200).map(text).collect());
        store.flush().await.expect("flushes");
    }
    assert!(store.status().bytes > 1 << 20, "{:?}", store.status());
    broken.break_it();
    squeezed.min_free = ByteSize(u64::MAX);
    store.reconfigure(&squeezed, &uplinks(&["cloud"]), store.wishes());
    store.take(readings(0..5));
    until("the store sees it", || store.status().state == "fault").await;
    let (once, tried) = (balanced(&*drain).lost, Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&tried);
    broken.disk.on_call(Some(Box::new(move |call, _| {
        (call == Call::Write).then(|| {
            count.fetch_add(1, Ordering::SeqCst);
            ffi::SQLITE_FULL
        })
    })));
    until("some tries", || tried.load(Ordering::SeqCst) > 6).await;
    assert_eq!(balanced(&*drain).lost, once);
    assert!(once > 0 && once < 2000, "{once}");
    broken.disk.on_call(None);
    until("the store comes back", || store.status().state == "ok").await;
    store.flush().await.expect("flushes");
    let told: u64 = losses(&*drain).await.iter().map(|l| l.count).sum();
    assert_eq!(told, balanced(&*drain).lost);
    drop(drain);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_directory_that_is_removed_beneath_it_is_made_again_with_everything_that_belongs_to_it() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("queue");
    let (store, _) = open(&dir, "a");
    let drain = store.drain("cloud").expect("configured");
    store.take(readings(0..10));
    store.flush().await.expect("flushes");
    drain.delivered(1..5);
    store.flush().await.expect("flushes");
    std::fs::remove_dir_all(&dir).expect("removes");
    store.take(readings(10..20));
    until("the readings are durable", || store.status().stored_seq == 20 && store.status().state == "ok")
        .await;
    assert_eq!(figures(balanced(&*drain)), [20, 4, 10, 6]);
    let told: Vec<_> = losses(&*drain).await.iter().map(|l| l.seq).collect();
    assert_eq!(told, [[5, 10]]);
    let second = Store::open(&config(&dir), &uplinks(&["cloud"]), TestClock::new("a"));
    assert!(matches!(second, Err(StoreError::InUse(_))), "it is locked: {second:?}");
    until("the mark", || dir.join("mark").exists()).await;
    let mut slow = config(&dir);
    slow.commit_interval = Span::s(3600);
    store.reconfigure(&slow, &uplinks(&["cloud"]), store.wishes());
    store.flush().await.expect("flushes");
    store.take(readings(20..23));
    drop(drain);
    store.crash();
    let (store, recovery) = open(&dir, "a");
    let told: Vec<_> = recovery.losses.iter().map(|l| (l.reason, l.seq, l.bound)).collect();
    assert_eq!(told, [(LossReason::UncleanStart, [21, 23], false)], "the head was made again too");
    store.close().await.expect("closes");
}

/// A file system of 16 MiB or more is needed: `mount -t tmpfs -o size=64m none DIR`, and `FIELDGATE_FULL_DISK=DIR`.
#[tokio::test]
#[ignore = "needs a file system of its own that it may fill"]
async fn a_ballast_carries_the_log_over_a_disk_that_others_fill_and_comes_back_afterwards() {
    let disk = std::env::var_os("FIELDGATE_FULL_DISK").expect("FIELDGATE_FULL_DISK names a file system");
    let dir = Path::new(&disk).join("queue");
    let _ = std::fs::remove_dir_all(&dir);
    let (store, _) = open(&dir, "a");
    let drain = store.drain("cloud").expect("configured");
    let text = |n: u64| {
        let noise: String = std::iter::repeat_with(fastrand::alphanumeric).take(200).collect();
        Reading::good(key(0), BootMs(n), driver_api::Value::Text(noise.into()))
    };
    let mut next = 0;
    let mut take = |n: u64| {
        store.take((next..next + n).map(text).collect());
        next += n;
    };
    until("the ballast", || {
        take(1);
        store.status().ballast_bytes > 0
    })
    .await;
    println!("a ballast of {} bytes", store.status().ballast_bytes);
    let hog = Path::new(&disk).join("hog");
    let mut file = std::fs::File::create(&hog).expect("creates");
    let (mut faults, mut worst, mut given_up) = (0, 0, None);
    let began = crate::store::state::Tick::now();
    for round in 0..1500 {
        // Every byte that is there, as soon as it is there.
        for size in [1 << 20, 4096] {
            while std::io::Write::write(&mut file, &vec![1; size]).is_ok_and(|n| n == size) {}
        }
        take(10);
        let status = store.status();
        faults += u64::from(status.state != "ok");
        worst = worst.max(status.readings_in_ram);
        if status.ballast_bytes == 0 {
            given_up.get_or_insert(round);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!(
        "given up in round {given_up:?}; {faults} of 1500 rounds in a fault, at most {worst} in RAM, {:?}: {:?}",
        began.elapsed(),
        store.status()
    );
    assert!(given_up.is_some(), "the disk was not full");
    let ledger = balanced(&*drain);
    assert_eq!(ledger.taken, next);
    std::fs::remove_file(&hog).expect("removes");
    drop(file);
    until("the store is well", || store.status().state == "ok").await;
    store.flush().await.expect("flushes");
    let told: u64 = losses(&*drain).await.iter().map(|l| l.count).sum();
    let ledger = balanced(&*drain);
    assert_eq!((ledger.taken, ledger.lost), (next, told));
    println!("{} of {next} gave way to newer ones, each declared", ledger.lost);
    assert_eq!(store.status().ballast_bytes, 0, "not at once");
    let freed = crate::store::state::Tick::now();
    while store.status().ballast_bytes == 0 {
        assert!(freed.elapsed() < Duration::from_secs(120), "{:?}", store.status());
        store.take(readings(0..1));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("a ballast again {:?} after there was room", freed.elapsed());
    drop(drain);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_header_that_forbids_writing_is_damage_and_not_a_broken_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    let _ = store.take(readings(0..10));
    store.close().await.expect("closes");
    // Write version of the file format: 2 with a flipped bit.
    let path = dir.path().join("fieldgate.db");
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[18] = 0x42;
    std::fs::write(&path, bytes).expect("writes");
    let (store, recovery) = open(dir.path(), "a");
    assert_eq!((recovery.set_aside.len(), recovery.losses.len()), (1, 1), "{recovery:?}");
    let _ = store.take(readings(10..20));
    store.flush().await.expect("a new database takes them");
    let drain = store.drain("cloud").expect("configured");
    let ledger = balanced(&*drain);
    assert_eq!((ledger.lost, ledger.queued), (10, 10));
}

#[tokio::test]
async fn messages_of_other_devices_wait_for_the_disk_and_are_not_said_to_be_stored_before() {
    let broken = Broken::new();
    let clock = TestClock::new("a");
    let (store, _) = forwarding::opened_with(&config(broken.path()), &uplinks(&["cloud", "plant"]), clock);
    let (cloud, plant) = (store.drain("cloud").expect("one"), store.drain("plant").expect("the other"));
    store.take(readings(0..5));
    store.post((0..5).map(forwarding::message));
    store.flush().await.expect("flushes");
    let mut stored = store.posted();
    assert_eq!(*stored.borrow_and_update(), 5);
    // What is on the disk cannot be read while that is broken.
    forwarding::all(&*plant).await;
    plant.delivered(1..6);
    cloud.delivered(1..11);
    broken.break_it();
    store.take(readings(5..10));
    store.post((5..2000).map(forwarding::message));
    until("the fault", || store.status().state != "ok").await;
    // Readings arrive meanwhile, and what of the messages the broken commit had in hand; the rest has no number.
    until("what is lent", || balanced(&*plant).queued == 5 && !plant.pending().is_empty()).await;
    let read = forwarding::all(&*plant).await;
    assert_eq!((read.0.len(), read.1.len(), *stored.borrow()), (5, 0, 5));
    for _ in 0..20 {
        // A ring that overflows drops readings, never messages.
        store.take(readings(0..5000));
        balanced(&*cloud);
        balanced(&*plant);
    }
    assert!(balanced(&*plant).lost > 0);
    broken.heal();
    until("everything stored", || *store.posted().borrow() == 2000).await;
    let (_, found) = forwarding::all(&*cloud).await;
    assert_eq!(found.len(), 1995);
    assert!(found.windows(2).all(|w| w[0].message.at < w[1].message.at), "in their order");
    let (a, b) = (balanced(&*cloud), balanced(&*plant));
    assert_eq!((a.taken - b.taken, a.lost), (2000, b.lost));
    store.close().await.expect("closes");
}
