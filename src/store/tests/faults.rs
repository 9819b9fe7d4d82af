//! Crashes, damage, roll-backs: what is lost is said, the rest is delivered.

use std::path::Path;

use super::*;
use crate::message::LossReason;
use crate::store::{Begun, Wishes};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("creates");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("reads");
        if entry.file_name() != "lock" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
        }
    }
}

fn told(records: &[LossRecord]) -> Vec<(LossReason, [u64; 2], bool)> {
    records.iter().map(|r| (r.reason, r.seq, r.bound)).collect()
}

/// A store that commits only when it is told to.
fn slow(dir: &Path, boot: &str) -> (Store, Recovery) {
    let mut config = config(dir);
    config.commit_interval = Span::s(3600);
    opened(&config, &uplinks(&["cloud"]), TestClock::new(boot))
}

#[tokio::test]
async fn after_a_kill_what_was_not_yet_stored_is_declared_exactly() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = slow(dir.path(), "a");
    let epoch = store.epoch();
    store.take(readings(0..10));
    store.flush().await.expect("flushes");
    store.take(readings(10..15));
    store.take(readings(15..17));
    store.crash();
    let (store, recovery) = slow(dir.path(), "a");
    assert_eq!(told(&recovery.losses), [(LossReason::UncleanStart, [11, 17], false)]);
    assert_eq!(recovery.losses[0].epoch, epoch.to_string());
    assert_eq!(store.take(readings(0..1)).first.seq, 18);
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(drain.pending(), [1..11]);
    let ledger = balanced(&*drain);
    assert_eq!((ledger.taken, ledger.queued, ledger.lost), (18, 11, 7));
    store.crash();
    // The declaration itself survives, and is not repeated.
    let (store, recovery) = slow(dir.path(), "a");
    assert_eq!(told(&recovery.losses), [(LossReason::UncleanStart, [18, 18], false)]);
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(losses(&*drain).await.iter().map(|r| r.count).sum::<u64>(), 8);
    store.close().await.expect("closes");
}

/// The head is in the directory in RAM, so `take` touches no file of the data directory.
#[tokio::test]
async fn with_the_head_in_ram_a_kill_is_declared_exactly_and_nobody_else_believes_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = tempfile::tempdir().expect("a directory");
    let lazy = model::Store { commit_interval: Span::s(600), ..config(dir.path()) };
    let beside = |boot: &str, run: Option<&Path>| {
        let (clock, run) = (TestClock::new(boot), run.map(Path::to_owned));
        Store::open_beside(&lazy, ("", &uplinks(&["cloud"]), Wishes::new()), clock, run).expect("opens")
    };
    let (store, _) = beside("a", Some(run.path()));
    store.take(readings(0..50));
    store.flush().await.expect("flushes");
    store.take(readings(50..60));
    store.crash();
    assert!(!dir.path().join("head").exists());
    let (store, recovery) = beside("a", Some(run.path()));
    assert_eq!(told(&recovery.losses), [(LossReason::UncleanStart, [51, 60], false)]);
    assert_eq!(store.take(readings(60..65)).first.seq, 61);
    store.crash();
    // Without that directory nothing is exact, and nothing is given out twice.
    let (store, recovery) = beside("a", None);
    let [(LossReason::PowerCut, [61, last], true)] = told(&recovery.losses)[..] else {
        panic!("{:?}", recovery.losses)
    };
    assert!(last >= 65);
    assert_eq!(store.take(readings(65..66)).first.seq, last + 1);
    store.crash();
    // What the directory in RAM says is old now.
    let (store, recovery) = beside("a", Some(run.path()));
    assert_eq!(told(&recovery.losses), [(LossReason::UncleanStart, [last + 1, last + 1], false)]);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn after_a_power_cut_a_bound_is_declared_and_its_numbers_are_never_used() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = slow(dir.path(), "a");
    store.take(readings(0..100));
    store.flush().await.expect("flushes");
    assert_eq!(store.status().power_cut_bound, 256);
    store.take(readings(100..130));
    store.crash();
    // The power cut: another boot, and the page cache did not make it to the disk.
    std::fs::remove_file(dir.path().join("head")).expect("removes");
    let (store, recovery) = slow(dir.path(), "b");
    assert_eq!(told(&recovery.losses), [(LossReason::PowerCut, [101, 356], true)]);
    assert_eq!(store.take(readings(0..1)).first.seq, 357);
    let ledger = balanced(&*store.drain("cloud").expect("configured"));
    assert_eq!((ledger.queued, ledger.lost), (101, 256));
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_restored_backup_is_noticed_and_no_identity_is_repeated() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = slow(dir.path(), "a");
    store.take(readings(0..10));
    store.close().await.expect("closes");
    let backup = std::fs::read(dir.path().join("fieldgate.db")).expect("reads");
    let (store, _) = slow(dir.path(), "a");
    let old = store.take(readings(10..40)).first;
    store.flush().await.expect("flushes");
    let drain = store.drain("cloud").expect("configured");
    drain.delivered(1..31);
    drop(drain);
    store.close().await.expect("closes");
    std::fs::write(dir.path().join("fieldgate.db"), backup).expect("writes");

    let (store, recovery) = slow(dir.path(), "b");
    // 1..31 was delivered, as the mark remembers; 31..41 is gone.
    assert_eq!(told(&recovery.losses), [(LossReason::Rollback, [31, 40], true)]);
    let new = store.take(readings(0..5)).first;
    assert!(new.seq > 40 && new.epoch.start > old.epoch.start, "{new:?}");
    balanced(&*store.drain("cloud").expect("configured"));
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_deleted_database_is_declared_and_polling_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    for how in ["deleted", "garbage", "a directory"] {
        let (store, _) = slow(dir.path(), "a");
        let first = store.take(readings(0..50)).first.seq;
        store.flush().await.expect("flushes");
        store.drain("cloud").expect("configured").delivered(first..first + 20);
        store.close().await.expect("closes");
        let path = dir.path().join("fieldgate.db");
        match how {
            "deleted" => std::fs::remove_file(&path).expect("removes"),
            "garbage" => std::fs::write(&path, [0xa5; 20_000]).expect("writes"),
            _ => {
                std::fs::remove_file(&path).expect("removes");
                std::fs::create_dir(&path).expect("creates");
            }
        }
        let (store, recovery) = slow(dir.path(), "a");
        let reason = if how == "deleted" { LossReason::Rollback } else { LossReason::Corrupt };
        assert_eq!(told(&recovery.losses), [(reason, [first + 20, first + 49], true)], "{how}");
        let drain = store.drain("cloud").expect("configured");
        assert_eq!(drain.pending(), []);
        let ledger = balanced(&*drain);
        assert_eq!(ledger.queued, 0);
        drain.loss_delivered(1);
        store.close().await.expect("closes");
    }
    let (store, recovery) = slow(dir.path(), "a");
    assert_eq!(recovery.set_aside, ["fieldgate.db.bad-1", "fieldgate.db.bad-2"]);
    assert_eq!(store.status().set_aside, recovery.set_aside);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_copy_taken_in_the_middle_of_everything_opens_and_balances() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    let mut next = 0;
    for round in 0..12 {
        for _ in 0..20 {
            store.take(readings(next..next + 50));
            next += 50;
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        store.drain("cloud").expect("configured").delivered(next / 2..next / 2 + 100);
        let twin = dir.path().join(format!("copy-{round}"));
        std::fs::create_dir(&twin).expect("creates");
        for file in ["fieldgate.db", "fieldgate.db-wal", "mark", "head"] {
            std::fs::copy(dir.path().join(file), twin.join(file)).expect("copies");
        }
        // The files are of slightly different moments, as after a power cut without order.
        let (copy, recovery) = open(&twin, if round % 2 == 0 { "a" } else { "b" });
        let drain = copy.drain("cloud").expect("configured");
        let ledger = balanced(&*drain);
        let records = read_all(&*drain, 4096).await;
        assert_eq!(records.len() as u64, ledger.queued);
        for record in &records {
            let expected = driver_api::Value::Int(record.id.seq.cast_signed() - 1);
            assert_eq!(record.value, Some(expected), "{:?}", record.id);
        }
        assert!(recovery.losses.iter().all(|l| l.count <= 1 + l.seq[1] - l.seq[0]));
        copy.crash();
    }
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_flipped_bit_in_a_block_is_declared_and_the_rest_is_delivered() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = slow(dir.path(), "a");
    // So many that each commit is a block of its own.
    let n = crate::bounds::STORE_MERGE as u64;
    for block in 0..10 {
        store.take(readings(block * n..block * n + n));
        store.flush().await.expect("flushes");
    }
    store.close().await.expect("closes");
    let path = dir.path().join("fieldgate.db");
    let mut bytes = std::fs::read(&path).expect("reads");
    let blocks: Vec<usize> =
        bytes.windows(4).enumerate().filter(|(_, w)| w == b"FGB1").map(|(n, _)| n).collect();
    assert!(blocks.len() >= 10, "{blocks:?}");
    // Which of them is the fourth its own header says.
    let (first, end) = (3 * n + 1, 4 * n + 1);
    let mut hits = 0;
    for at in blocks {
        if bytes[at + 8..at + 16] == first.to_le_bytes() {
            bytes[at + 70] ^= 0x10;
            hits += 1;
        }
    }
    assert!(hits > 0, "the fourth block, and what may be left of it in a free page");
    std::fs::write(&path, bytes).expect("writes");

    let (store, recovery) = slow(dir.path(), "a");
    assert!(recovery.losses.is_empty());
    let drain = store.drain("cloud").expect("configured");
    let records = read_all(&*drain, 4096).await;
    assert!(seqs(&records).into_iter().eq((1..first).chain(end..10 * n + 1)));
    assert_eq!(drain.pending(), [1..first, end..10 * n + 1]);
    store.flush().await.expect("flushes");
    assert_eq!(told(&losses(&*drain).await), [(LossReason::Corrupt, [first, end - 1], false)]);
    assert_eq!(balanced(&*drain).lost, n);
    drop(drain);
    store.close().await.expect("closes");
    let (store, recovery) = slow(dir.path(), "a");
    assert!(recovery.losses.is_empty(), "declared once");
    store.close().await.expect("closes");
}

#[tokio::test]
async fn any_flipped_bit_anywhere_gives_no_wrong_value_and_no_silent_gap() {
    let dir = tempfile::tempdir().expect("a directory");
    let original = dir.path().join("original");
    let (store, _) = slow(&original, "a");
    for n in 0..8 {
        store.take(readings(n * 50..n * 50 + 50));
        store.flush().await.expect("flushes");
    }
    store.close().await.expect("closes");
    let mut random = fastrand::Rng::with_seed(11);
    for case in 0..60 {
        let twin = dir.path().join(format!("case-{case}"));
        copy(&original, &twin);
        let path = twin.join("fieldgate.db");
        let mut bytes = std::fs::read(&path).expect("reads");
        let at = random.usize(..bytes.len());
        bytes[at] ^= 1 << random.u8(..8);
        std::fs::write(&path, bytes).expect("writes");
        let (store, _) = open(&twin, "a");
        let drain = store.drain("cloud").expect("configured");
        // A database that turns out to be damaged while it is read is set aside; then the rest is read.
        let mut read = Vec::new();
        for _ in 0..400 {
            for range in drain.pending() {
                let Ok(chunk) = drain.read(range, 4096).await else { continue };
                for record in chunk.records {
                    let expected = driver_api::Value::Int(record.id.seq.cast_signed() - 1);
                    assert_eq!(record.value, Some(expected), "a wrong value, bit at {at}");
                    drain.delivered(record.id.seq..record.id.seq + 1);
                    read.push(record.id.seq);
                }
            }
            if drain.pending().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let ledger = balanced(&*drain);
        assert_eq!(ledger.queued, 0, "bit at {at}: {ledger:?} {:?}", store.status());
        assert_eq!(ledger.delivered, read.len() as u64);
        assert!(ledger.delivered + ledger.lost >= 400, "bit at {at}: {ledger:?}");
        store.crash();
        std::fs::remove_dir_all(&twin).expect("removes");
    }
}

#[tokio::test]
async fn a_database_that_goes_away_while_it_is_open_is_noticed_and_declared() {
    let dir = tempfile::tempdir().expect("a directory");
    for how in ["removed", "emptied", "overwritten"] {
        let (store, _) = slow(&dir.path().join(how), "a");
        store.take(readings(0..50));
        store.flush().await.expect("flushes");
        let drain = store.drain("cloud").expect("configured");
        drain.delivered(1..11);
        let path = dir.path().join(how).join("fieldgate.db");
        let wal = dir.path().join(how).join("fieldgate.db-wal");
        for file in [&path, &wal] {
            match how {
                "removed" => std::fs::remove_file(file).expect("removes"),
                "emptied" => std::fs::write(file, b"").expect("writes"),
                _ => std::fs::write(file, [0x5a; 60_000]).expect("writes"),
            }
        }
        store.take(readings(50..60));
        for _ in 0..200 {
            // Fails until the store is back, and then until all of it is through.
            if drain.read(11..12, 1).await.is_ok() && store.flush().await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until("the store is well", || store.status().state == "ok").await;
        store.take(readings(60..70));
        store.flush().await.expect("flushes");
        let ledger = balanced(&*drain);
        assert_eq!((ledger.taken, ledger.delivered), (70, 10), "{how}");
        let read = seqs(&read_all(&*drain, 100).await);
        assert_eq!(read.len() as u64, ledger.queued, "{how}");
        assert!(read.ends_with(&(61..71).collect::<Vec<_>>()), "{how}: {read:?}");
        let lost: u64 = losses(&*drain).await.iter().map(|r| r.count).sum();
        assert_eq!(lost, ledger.lost, "{how}");
        drop(drain);
        store.crash();
        let (store, recovery) = slow(&dir.path().join(how), "a");
        let again = balanced(&*store.drain("cloud").expect("configured"));
        if how == "overwritten" {
            // SQLite went on from its cache; the next start sees it, and nobody remembers what arrived.
            assert_eq!(told(&recovery.losses), [(LossReason::Corrupt, [1, 70], true)]);
            assert_eq!(again.lost, 70);
        } else {
            assert!(recovery.losses.is_empty(), "{how}: {:?}", recovery.losses);
            assert_eq!(
                (again.delivered, again.queued, again.lost),
                (10, ledger.queued, ledger.lost),
                "{how}"
            );
        }
        store.close().await.expect("closes");
    }
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused_and_untouched() {
    let dir = tempfile::tempdir().expect("a directory");
    open(dir.path(), "a").0.close().await.expect("closes");
    let path = dir.path().join("fieldgate.db");
    let mut bytes = std::fs::read(&path).expect("reads");
    // user_version, big-endian, at 60 of the database header.
    let later = crate::store::schema::SCHEMA + 1;
    bytes[60..64].copy_from_slice(&u32::try_from(later).expect("small").to_be_bytes());
    std::fs::write(&path, &bytes).expect("writes");
    let refused = Store::open(&config(dir.path()), &uplinks(&["cloud"]), TestClock::new("a"));
    assert!(
        matches!(refused, Err(crate::store::StoreError::Newer { schema, .. }) if schema == later),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(&path).expect("reads"), bytes);
}

#[tokio::test]
async fn files_beside_the_database_may_hold_anything() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = slow(dir.path(), "a");
    store.take(readings(0..10));
    store.close().await.expect("closes");
    std::fs::write(dir.path().join("head"), [7; 300]).expect("writes");
    std::fs::write(dir.path().join("mark"), b"00000000 {").expect("writes");
    std::fs::write(dir.path().join("fieldgate.db-wal"), [9; 5000]).expect("writes");
    let (store, recovery) = slow(dir.path(), "a");
    assert!(recovery.losses.is_empty(), "the database itself says that it ended in order");
    assert_eq!(store.drain("cloud").expect("configured").pending(), [1..11]);
    store.crash();
    std::fs::remove_file(dir.path().join("head")).expect("removes");
    std::fs::create_dir(dir.path().join("head")).expect("creates");
    let (store, _) = slow(dir.path(), "a");
    assert_eq!(store.status().state, "ok");
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_command_executed_without_a_disk_is_not_executed_again_when_it_is_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let (queue, away) = (dir.path().join("queue"), dir.path().join("away"));
    let (store, _) = open(&queue, "a");
    assert_eq!(store.command_begin("before").await, Begun::Fresh);
    store.close().await.expect("closes");
    std::fs::rename(&queue, &away).expect("renames");
    std::fs::write(&queue, b"no directory").expect("writes");
    let (store, recovery) = open(&queue, "a");
    assert!(recovery.ram_only.is_some());
    assert_eq!(store.command_begin("c-1").await, Begun::Fresh);
    store.command_done("c-1", "{}");
    std::fs::remove_file(&queue).expect("removes");
    std::fs::rename(&away, &queue).expect("renames");
    until("the store comes back", || store.status().state == "ok").await;
    let done = Begun::Repeat(Some("{}".into()));
    assert_eq!(store.command_begin("c-1").await, done);
    assert_eq!(store.command_begin("before").await, Begun::Repeat(None));
    store.flush().await.expect("flushes");
    store.crash();
    let (store, _) = open(&queue, "a");
    assert_eq!(store.command_begin("c-1").await, done, "and it is durable");
    assert_eq!(store.command_begin("before").await, Begun::Repeat(None));
    store.close().await.expect("closes");
}

/// A file system of a few MiB is needed: `mount -t tmpfs -o size=3m none DIR`, and `FIELDGATE_SMALL_DISK=DIR`.
#[tokio::test]
#[ignore = "needs a small file system of its own"]
async fn on_a_full_disk_readings_wait_in_ram_and_are_stored_when_there_is_room() {
    let disk =
        std::env::var_os("FIELDGATE_SMALL_DISK").expect("FIELDGATE_SMALL_DISK names a small file system");
    let dir = Path::new(&disk).join("queue");
    let _ = std::fs::remove_dir_all(&dir);
    let (store, _) = open(&dir, "a");
    let drain = store.drain("cloud").expect("configured");
    store.take(readings(0..500));
    store.flush().await.expect("flushes");
    let hog = Path::new(&disk).join("hog");
    let mut written = 0;
    while std::fs::write(&hog, vec![1; written + 4096]).is_ok() {
        written += 4096;
    }
    let mut next = 500;
    for _ in 0..2000 {
        store.take(readings(next..next + 20));
        next += 20;
        if store.status().state == "fault" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(store.status().state, "fault", "{:?}", store.status());
    println!("full after {next}: {:?}", store.status().last_error);
    assert_eq!(balanced(&*drain).lost, 0);
    assert!(store.status().readings_in_ram > 0);
    std::fs::remove_file(&hog).expect("removes");
    let freed = crate::store::state::Tick::now();
    until("the store comes back", || store.status().state == "ok").await;
    let took = freed.elapsed();
    store.flush().await.expect("flushes");
    println!("back after {took:?}");
    assert!(took < Duration::from_secs(6));
    let ledger = balanced(&*drain);
    assert_eq!((ledger.taken, ledger.lost, ledger.queued), (next, 0, next));
    assert!(seqs(&read_all(&*drain, 4096).await).into_iter().eq(1..=next));
    store.close().await.expect("closes");
}

/// For `strace -f -e inject=fsync,fdatasync,pwrite64:error=EIO:when=N+M`: whatever call fails, the outcome of a commit
/// is found out, no reading is stored twice and none is lost.
#[tokio::test]
#[ignore = "means something only under fault injection"]
async fn after_any_failed_system_call_everything_taken_is_stored_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, recovery) = open(dir.path(), "a");
    let drain = store.drain("cloud").expect("configured");
    let (mut next, mut faults, mut well) = (0, 0, recovery.ram_only.is_none());
    for _ in 0..400 {
        store.take(readings(next..next + 20));
        next += 20;
        let now = store.status().state == "ok";
        faults += usize::from(well && !now);
        well = now;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for _ in 0..400 {
        if store.flush().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ledger = balanced(&*drain);
    println!("{faults} faults seen, {} failed head writes, {ledger:?}", store.status().head_failures);
    assert_eq!((ledger.taken, ledger.lost, ledger.queued), (next, 0, next));
    let mut read = Vec::new();
    for _ in 0..100 {
        if let Ok(chunk) = drain.read(1 + read.len() as u64..next + 1, 4096).await {
            read.extend(seqs(&chunk.records));
        }
    }
    assert!(read.into_iter().eq(1..=next));
}
