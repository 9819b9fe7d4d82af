//! Copies of the database while it is written to, and what becomes of them in another directory and in their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::message::LossReason;
use crate::store::{Copied, Copy, Ending, READY, Ready, Restorable};

/// Readings that no packing makes small: each its own value. The values are kept under their numbers.
fn take(store: &Store, n: usize, values: &mut BTreeMap<u64, u64>, random: &mut fastrand::Rng) {
    let bits: Vec<u64> = (0..n).map(|_| random.u64(..)).collect();
    let taken = bits.iter().map(|bits| Reading::good(key(1), BootMs(1000), Value::UInt(*bits)));
    let taken = store.take(taken.collect());
    values.extend((taken.first.seq..).zip(bits));
}

/// Reads a copy into a directory of its own, doing `between` after each piece.
async fn whole(
    mut copy: Copy,
    mut between: impl AsyncFnMut(),
) -> Result<(tempfile::TempDir, Copied), String> {
    let dir = tempfile::tempdir().expect("a directory");
    let mut bytes = Vec::new();
    loop {
        match copy.next().await.map_err(|e| e.to_string())? {
            piece if piece.is_empty() => break,
            piece => bytes.extend(piece),
        }
        between().await;
    }
    assert_eq!(bytes.len() as u64, copy.of.bytes);
    std::fs::write(dir.path().join("fieldgate.db"), bytes).expect("writes");
    Ok((dir, copy.of))
}

/// Puts a copy into `dir`, as the command does; with `only_mark` as one that is killed before its last step.
fn restore(copy: &Path, dir: &Path, ending: Ending, only_mark: bool) -> Ready {
    let work = copy.join("work");
    std::fs::create_dir_all(&work).expect("makes");
    std::fs::copy(copy.join("fieldgate.db"), work.join("fieldgate.db")).expect("copies");
    let examined = Restorable::examine(&work).expect("whole");
    assert_eq!(examined.damaged, 0);
    let held = Store::hold(dir, "a").expect("free");
    assert!(matches!(Store::hold(dir, "a"), Err(StoreError::InUse(_))), "nothing starts in it meanwhile");
    let outlook = examined.outlook(&held, ending);
    let ready = examined.make_ready(&held, ending).expect("ready");
    assert_eq!(ready, outlook);
    let aside = |path: PathBuf| std::fs::rename(&path, path.with_extension("before")).expect("renames");
    held.files().into_iter().for_each(aside);
    for name in &READY[..if only_mark { 1 } else { 2 }] {
        std::fs::rename(work.join(name), dir.join(name)).expect("renames");
    }
    ready
}

fn values(records: &[Record]) -> BTreeMap<u64, u64> {
    let value = |r: &Record| match r.value {
        Some(Value::UInt(bits)) => (r.id.seq, bits),
        _ => panic!("{r:?}"),
    };
    records.iter().map(value).collect()
}

/// A copy is taken in pieces while readings are taken, committed, delivered and dropped. Wherever it is opened then, it is of
/// the one moment in which it began.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_between_commits_is_of_one_moment_and_lives_elsewhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    let drain = store.drain("cloud").expect("configured");
    let (mut all, mut random) = (BTreeMap::new(), fastrand::Rng::with_seed(5));
    for round in 0..3 {
        take(&store, 40_000, &mut all, &mut random);
        store.flush().await.expect("the disk is there");
        let copy = store.copy().await.expect("begins");
        let (then, pending) = (copy.of.clone(), drain.pending());
        assert_eq!(
            (then.next_seq, then.epoch.as_str()),
            (store.status().next_seq, &*store.epoch().to_string())
        );
        let mut pieces = 0;
        let (copied, of) = whole(copy, async || {
            pieces += 1;
            take(&store, 300, &mut all, &mut random);
            store.flush().await.expect("the disk is there");
            let done = drain.pending()[0].start;
            drain.delivered(done..done + 500);
            balanced(&*drain);
        })
        .await
        .expect("held");
        assert!(pieces > 4, "{pieces}");

        let elsewhere = tempfile::tempdir().expect("a directory");
        let ready = restore(copied.path(), elsewhere.path(), Ending::Open(1000), false);
        assert!(!ready.known && ready.skipped > 0, "{ready:?}");
        let (other, recovery) = open(elsewhere.path(), "b");
        let known = other.drain("cloud").expect("configured");
        assert_eq!(known.pending(), pending, "round {round}");
        let ledger = balanced(&*known);
        assert_eq!(ledger.lost, ready.skipped);
        let expected: BTreeMap<u64, u64> = pending
            .iter()
            .flat_map(|range| all.range(range.clone()))
            .map(|(seq, bits)| (*seq, *bits))
            .collect();
        assert_eq!(values(&read_all(&*known, 4096).await), expected, "every value under its number");
        let [loss] = &recovery.losses[..] else { panic!("{:?}", recovery.losses) };
        assert_eq!((loss.reason, loss.bound, &loss.epoch), (LossReason::Rollback, true, &of.epoch));
        assert_eq!(loss.seq, [of.next_seq, of.next_seq + ready.skipped - 1]);
        let first = other.take(readings(0..1)).first;
        assert_eq!(first.seq, of.next_seq + ready.skipped);
        assert!(first.epoch != store.epoch() && first.epoch.start > store.epoch().start);
        other.close().await.expect("closes");
    }
    drop(drain);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_copy_that_takes_too_long_is_let_go_and_says_so_and_the_log_stays_small() {
    let dir = tempfile::tempdir().expect("a directory");
    let small = model::Store { max_size: ByteSize::mib(2), ..config(dir.path()) };
    let (store, _) = opened(&small, &uplinks(&["cloud"]), TestClock::new("a"));
    let (mut all, mut random) = (BTreeMap::new(), fastrand::Rng::with_seed(6));
    take(&store, 30_000, &mut all, &mut random);
    let mut copy = store.copy().await.expect("begins");
    let mut rounds = 0;
    let why = loop {
        if let Err(error) = copy.next().await {
            break error.to_string();
        }
        // A reader that reads one piece and then sleeps.
        copy.at = 0;
        take(&store, 2000, &mut all, &mut random);
        store.flush().await.expect("the disk is there");
        assert!(store.status().bytes < 2 * (2 << 20), "{} bytes", store.status().bytes);
        rounds += 1;
        assert!(rounds < 1000, "it is held for ever");
    };
    assert!(why.contains("held still"), "{why}");
    assert!(rounds > 10, "it was held for a while: {rounds}");
    let again = store.copy().await.expect("begins");
    let (copied, _) = whole(again, async || {}).await.expect("held");
    assert_eq!(Restorable::examine(copied.path()).expect("whole").damaged, 0);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_second_copy_takes_the_file_from_the_first_and_a_close_from_both() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    store.take(readings(0..5000));
    let mut first = store.copy().await.expect("begins");
    first.next().await.expect("held");
    first.at = 0;
    let mut second = store.copy().await.expect("begins");
    assert!(first.next().await.is_err());
    second.next().await.expect("held");
    second.at = 0;
    store.clone().close().await.expect("closes");
    assert!(second.next().await.is_err());
}

/// Where the directory lived on from the backup it knows what was taken, and what was delivered, since.
#[tokio::test]
async fn restored_on_its_own_box_what_came_since_is_declared_and_what_arrived_stays_so() {
    for end in ["in order", "a kill", "a power cut"] {
        let dir = tempfile::tempdir().expect("a directory");
        let boot = if end == "a power cut" { "before" } else { "a" };
        let (store, _) = open(dir.path(), boot);
        store.take(readings(0..100));
        let copy = store.copy().await.expect("begins");
        let old = store.epoch();
        let (copied, of) = whole(copy, async || {}).await.expect("held");
        let drain = store.drain("cloud").expect("configured");
        drain.delivered(1..41);
        store.take(readings(100..130));
        store.flush().await.expect("the disk is there");
        drain.delivered(101..111);
        store.flush().await.expect("the disk is there");
        drop(drain);
        let bound = store.status().power_cut_bound;
        // On their way to the disk.
        store.take(readings(130..137));
        if end == "in order" {
            store.close().await.expect("closes")
        } else {
            store.crash()
        }

        let ready = restore(copied.path(), dir.path(), Ending::Open(86_400_000), false);
        // After a kill the numbers are known, but not what was acknowledged in the last moment.
        let exact = end == "in order";
        assert_eq!((ready.known, ready.exact, of.next_seq), (true, exact, 101), "{end}");
        assert!(ready.skipped >= 37 && ready.skipped <= 37 + bound.max(256) * 2, "{end}: {ready:?}");
        assert!(end == "a power cut" || ready.skipped == 37, "{end}: {ready:?}");
        let (store, recovery) = open(dir.path(), "a");
        let drain = store.drain("cloud").expect("configured");
        assert_eq!(drain.pending(), [41..101], "what arrived is not sent again");
        assert_eq!(balanced(&*drain).delivered, 50);
        assert!(
            recovery.losses.iter().all(|l| l.reason == LossReason::Rollback && l.epoch == old.to_string())
        );
        assert!(recovery.losses.iter().all(|l| l.bound != exact), "{end}: {recovery:?}");
        let seqs: Vec<[u64; 2]> = recovery.losses.iter().map(|l| l.seq).collect();
        assert_eq!(seqs, [[111, 100 + ready.skipped]]);
        assert_eq!(store.take(readings(0..1)).first.seq, 101 + ready.skipped);
        store.close().await.expect("closes");
    }
}

/// A copy of the first 100 readings of a box that then took 30 more, and the box.
async fn copied_and_went_on() -> (tempfile::TempDir, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    store.take(readings(0..100));
    let (copied, of) = whole(store.copy().await.expect("begins"), async || {}).await.expect("held");
    assert_eq!(of.next_seq, 101);
    store.take(readings(100..130));
    store.close().await.expect("closes");
    (copied, dir)
}

/// The same backup again, when what was restored from it has lived on: also for longer, and faster, than anybody would guess.
#[tokio::test]
async fn restored_once_more_no_number_comes_again_and_what_is_lost_by_it_is_declared() {
    for (elsewhere, killed) in [(false, false), (false, true), (true, false), (true, true)] {
        let (copied, mut dir) = copied_and_went_on().await;
        if elsewhere {
            dir = tempfile::tempdir().expect("a directory");
        }
        let first = restore(copied.path(), dir.path(), Ending::Open(0), false);
        assert_eq!((first.known, first.exact), (!elsewhere, !elsewhere));
        let (mut next, mut start) = (101 + first.skipped, 0);
        for round in 1..=3 {
            let (store, _) = open(dir.path(), "a");
            let drain = store.drain("cloud").expect("configured");
            assert_eq!(drain.pending(), [(round * 10 - 9)..101], "what arrived stays so");
            let lost = balanced(&*drain).lost;
            let taken = store.take(readings(0..5000));
            assert_eq!(taken.first.seq, next, "{elsewhere} {killed} {round}");
            assert!(taken.first.epoch.start > start, "epochs count up");
            next += 5000;
            store.flush().await.expect("the disk is there");
            drain.delivered(round * 10 - 9..round * 10 + 1);
            drain.delivered(next - 5000..next - 4993);
            store.flush().await.expect("the disk is there");
            drop(drain);
            if killed {
                store.crash()
            } else {
                store.close().await.expect("closes")
            }

            // Done twice without a start in between it is the same.
            for _ in 0..2 {
                let again = restore(copied.path(), dir.path(), Ending::Open(0), false);
                assert_eq!(again, Ready { skipped: next - 101, exact: !killed, known: true });
            }
            let (store, recovery) = open(dir.path(), "a");
            let [loss] = &recovery.losses[..] else { panic!("{:?}", recovery.losses) };
            assert_eq!((loss.reason, loss.bound), (LossReason::Rollback, killed));
            assert_eq!((loss.seq, loss.count), ([next - 4993, next - 1], 4993));
            assert_eq!(loss.epoch, taken.first.epoch.to_string());
            let drain = store.drain("cloud").expect("configured");
            assert_eq!(balanced(&*drain).lost, lost + 4993);
            // What was declared before is declared as it was, and of a bound nothing became exact.
            let told = losses(&*drain).await;
            let bounds: Vec<bool> = told.iter().map(|l| l.bound).collect();
            assert_eq!(bounds, [&[elsewhere][..], &vec![killed; round as usize]].concat());
            assert_eq!(told.iter().map(|l| l.count).sum::<u64>(), lost + 4993);
            start = store.epoch().start;
            drop(drain);
            store.close().await.expect("closes");
        }
    }
}

/// Where the restored database cannot be read any more its mark knows whose life went on in it.
#[tokio::test]
async fn restored_once_more_over_a_damaged_database_it_begins_above_all_that_was_given_out() {
    let (copied, dir) = copied_and_went_on().await;
    restore(copied.path(), dir.path(), Ending::Open(0), false);
    let (store, _) = open(dir.path(), "a");
    let taken = store.take(readings(0..5000)).first;
    store.close().await.expect("closes");
    std::fs::write(dir.path().join("fieldgate.db"), b"not what it was").expect("writes");
    let again = restore(copied.path(), dir.path(), Ending::Open(0), false);
    assert_eq!((again.known, again.exact), (false, false), "a bound");
    let (store, recovery) = open(dir.path(), "a");
    assert!(recovery.losses.iter().all(|l| l.bound), "{recovery:?}");
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(drain.pending(), [1..101]);
    balanced(&*drain);
    let first = store.take(readings(0..1)).first;
    assert!(first.seq >= taken.seq + 5000 && first.epoch.start > taken.epoch.start, "{first:?}");
    drop(drain);
    store.close().await.expect("closes");
}

/// Two backups of one life, and the older one was restored first: what only the younger one has was declared, and is there again.
#[tokio::test]
async fn a_younger_backup_after_an_older_one_brings_its_readings_and_begins_above_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    store.take(readings(0..100));
    let (older, _) = whole(store.copy().await.expect("begins"), async || {}).await.expect("held");
    store.take(readings(100..200));
    let (younger, of) = whole(store.copy().await.expect("begins"), async || {}).await.expect("held");
    assert_eq!(of.next_seq, 201);
    store.close().await.expect("closes");
    restore(older.path(), dir.path(), Ending::Open(0), false);
    let (store, _) = open(dir.path(), "a");
    let taken = store.take(readings(0..5000)).first;
    store.close().await.expect("closes");
    let ready = restore(younger.path(), dir.path(), Ending::Open(0), false);
    assert_eq!((ready.known, ready.exact), (false, false), "it did not live on from this one");
    let (store, recovery) = open(dir.path(), "a");
    assert!(recovery.losses.iter().all(|l| l.bound), "{recovery:?}");
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(drain.pending(), [1..201]);
    balanced(&*drain);
    let first = store.take(readings(0..1)).first;
    assert!(first.seq >= taken.seq + 5000 && first.epoch.start > taken.epoch.start, "{first:?}");
    drop(drain);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_box_that_took_nothing_since_goes_on_without_a_gap() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    store.take(readings(0..50));
    store.close().await.expect("closes");
    let copied = tempfile::tempdir().expect("a directory");
    let mut rest = Store::at_rest(dir.path()).expect("nobody uses it");
    let of = rest.begin_copy().expect("begins");
    let bytes = rest.piece(0).expect("reads");
    assert_eq!((bytes.len() as u64, of.clean), (of.bytes, true), "one piece");
    std::fs::write(copied.path().join("fieldgate.db"), bytes).expect("writes");
    drop(rest);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let ready = restore(copied.path(), elsewhere.path(), Ending::Final, false);
    assert_eq!(ready, Ready { skipped: 0, exact: false, known: false });
    let (store, recovery) = open(elsewhere.path(), "b");
    assert!(recovery.losses.is_empty() && recovery.set_aside.is_empty(), "{recovery:?}");
    assert_eq!(store.take(readings(0..1)).first.seq, 51);
    store.close().await.expect("closes");
}

/// The last step makes it the new one; one step before it is still the old one.
#[tokio::test]
async fn killed_before_the_last_step_it_is_the_old_one_and_the_next_restore_makes_it_the_new_one() {
    let source = tempfile::tempdir().expect("a directory");
    let (store, _) = open(source.path(), "a");
    store.take(readings(0..20));
    let copy = store.copy().await.expect("begins");
    let (copied, of) = whole(copy, async || {}).await.expect("held");
    store.close().await.expect("closes");

    for clean in [true, false] {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) = open(dir.path(), "b");
        store.take(readings(500..507));
        store.flush().await.expect("the disk is there");
        if clean {
            store.close().await.expect("closes")
        } else {
            store.crash()
        }
        restore(copied.path(), dir.path(), Ending::Open(0), true);
        let (store, recovery) = open(dir.path(), "c");
        assert_eq!(recovery.set_aside, ["mark.bad-1"]);
        assert!(recovery.losses.iter().all(|l| !clean && l.reason == LossReason::PowerCut), "{recovery:?}");
        let drain = store.drain("cloud").expect("configured");
        let there: Vec<_> = read_all(&*drain, 100).await.iter().map(|r| r.value.clone()).collect();
        assert_eq!(there, (500..507).map(|n| Some(Value::Int(n))).collect::<Vec<_>>());
        drop(drain);
        store.close().await.expect("closes");
        restore(copied.path(), dir.path(), Ending::Open(0), false);
        let (store, _) = open(dir.path(), "c");
        let drain = store.drain("cloud").expect("configured");
        assert_eq!(drain.pending(), [1..of.next_seq]);
        balanced(&*drain);
        drop(drain);
        store.close().await.expect("closes");
    }
}

#[tokio::test]
async fn what_is_no_database_of_ours_is_refused_and_a_damaged_block_is_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = open(dir.path(), "a");
    store.take(readings(0..3000));
    let copy = store.copy().await.expect("begins");
    let (copied, _) = whole(copy, async || {}).await.expect("held");
    store.close().await.expect("closes");
    let path = copied.path().join("fieldgate.db");
    let good = std::fs::read(&path).expect("reads");
    let examine = |bytes: &[u8]| {
        let _ = std::fs::remove_file(copied.path().join("fieldgate.db-wal"));
        std::fs::write(&path, bytes).expect("writes");
        Restorable::examine(copied.path())
    };
    assert_eq!(examine(&good).expect("whole").damaged, 0);
    for keep in (0..good.len()).step_by(1000) {
        assert!(examine(&good[..keep]).is_err(), "{keep} bytes of it");
    }
    let mut later = good.clone();
    later[60..64].copy_from_slice(&99u32.to_be_bytes());
    assert!(matches!(examine(&later), Err(StoreError::Newer { schema: 99, .. })));
    let mut foreign = good.clone();
    foreign[68..72].copy_from_slice(&7u32.to_be_bytes());
    assert!(examine(&foreign).is_err());
    // Anything else in it may be changed without a panic; what SQLite does not see the CRCs of the blocks do.
    let (mut random, mut blocks) = (fastrand::Rng::with_seed(2), 0);
    for _ in 0..200 {
        let mut bad = good.clone();
        bad[random.usize(100..good.len())] ^= 1 << random.u8(..8);
        blocks += u32::from(examine(&bad).is_ok_and(|found| found.damaged > 0));
    }
    assert!(blocks > 0, "a block was hit");
}

/// The usual reason for a restore: what is there cannot be read any more. Its WAL must not come over the new database.
#[tokio::test]
async fn a_directory_whose_database_is_damaged_is_replaced_with_its_wal_aside() {
    let source = tempfile::tempdir().expect("a directory");
    let (store, _) = open(source.path(), "a");
    store.take(readings(0..20));
    let copy = store.copy().await.expect("begins");
    let (copied, of) = whole(copy, async || {}).await.expect("held");
    store.take(readings(20..30));
    store.flush().await.expect("the disk is there");
    store.crash();
    let database = source.path().join("fieldgate.db");
    let wal = source.path().join("fieldgate.db-wal");
    assert!(std::fs::metadata(&wal).expect("there").len() > 0);
    std::fs::write(&database, b"not what it was").expect("writes");
    let mark = super::super::identity::read_mark(source.path()).expect("whole");

    let ready = restore(copied.path(), source.path(), Ending::Open(0), false);
    assert!(!ready.known && of.next_seq + ready.skipped >= mark.reserved, "the mark knew this: {ready:?}");
    let (store, recovery) = open(source.path(), "a");
    assert!(recovery.set_aside.is_empty(), "{recovery:?}");
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(drain.pending(), [1..21]);
    balanced(&*drain);
    drop(drain);
    store.close().await.expect("closes");
}
