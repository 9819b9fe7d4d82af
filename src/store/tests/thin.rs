//! Thinning of the backlog: what stays, what is said of the rest, and that nothing of it outlives its block.

use super::thin_book::{Book, EVERY, acknowledge, drain_all, fast};
use super::*;
use crate::bounds;
use crate::message::LossReason;
use crate::store::{Exchange, Step};

fn config_of(dir: &Path) -> model::Store {
    model::Store { max_size: ByteSize(256 << 10), thin: Some(Span::ms(EVERY)), ..config(dir) }
}

/// Takes `rounds` of 500 readings, 2 ms apart, each committed.
async fn fill(book: &mut Book, store: &Store, rounds: usize) {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..rounds {
        let batch = book.batch(500, 2, &mut random);
        let taken = store.take(batch.clone());
        book.note(taken, &batch);
        store.flush().await.expect("flushes");
    }
}

#[tokio::test]
async fn a_backlog_is_thinned_before_it_is_dropped_and_what_goes_is_declared_behind_what_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = opened(&config_of(dir.path()), &uplinks(&["cloud", "plant"]), TestClock::new("0"));
    store.may_thin(fast());
    let mut book = Book::at(1000);
    fill(&mut book, &store, 120).await;
    let drain = store.drain("cloud").expect("configured");
    let ledger = balanced(&*drain);
    let status = store.status();
    assert_eq!((status.dropped, status.thinned), (0, ledger.lost), "{ledger:?}");
    assert!(ledger.lost > 10_000, "{ledger:?}");
    assert!(losses(&*drain).await.is_empty(), "it is told with what stays");
    assert_eq!(status.readings, ledger.queued);
    drain_all(&mut book, &store, "cloud", 300, 50).await;
    let ledger = balanced(&*drain);
    assert_eq!((ledger.queued, ledger.lost), (0, status.thinned));
    book.close("cloud", 1..store.status().next_seq);
    store.close().await.expect("closes");
}

/// A store whose backlog was thinned into more blocks than are remembered, and what an uplink was handed of it.
async fn handed(dir: &Path, book: &mut Book) -> (Store, Vec<Record>) {
    let (store, _) = opened(&config_of(dir), &uplinks(&["cloud"]), TestClock::new("0"));
    store.may_thin(fast());
    fill(book, &store, 100).await;
    let records = read_all(&*store.drain("cloud").expect("configured"), 4096).await;
    let blocks = store.inner.shared.state().thinned.ranges.iter().map(|r| r.end - r.start).sum::<u64>();
    assert!(blocks > 4096 * bounds::STORE_SHAPES as u64, "{blocks} numbers are of thinned blocks");
    (store, records)
}

#[tokio::test]
async fn however_much_is_in_flight_of_thinned_blocks_what_is_acknowledged_is_settled() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut book = Book::at(1000);
    let (store, records) = handed(dir.path(), &mut book).await;
    let drain = store.drain("cloud").expect("configured");
    for lump in records[..records.len() / 2].chunks(2 * 2048) {
        // A window of messages at most, and then what wakes the store.
        acknowledge(&mut book, &*drain, "cloud", lump, 50);
        let small =
            || store.inner.shared.state().thinned.later.values().all(|l| l.len() < bounds::STORE_LATER / 2);
        until("it catches up", small).await;
    }
    let next = records[records.len() / 2].id.seq;
    let pending = drain.pending();
    assert_eq!(
        pending.first().map(|range| range.start),
        Some(next),
        "none of it goes out again: {pending:?}"
    );
    store.flush().await.expect("flushes");
    let ledger = balanced(&*drain);
    assert_eq!((ledger.delivered, drain.pending().first()), (records.len() as u64 / 2, pending.first()));
    drain_all(&mut book, &store, "cloud", 300, 50).await;
    book.close("cloud", 1..store.status().next_seq);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn what_a_broker_ends_after_a_restart_is_settled_although_it_was_thinned() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut book = Book::at(1000);
    let (store, records) = handed(dir.path(), &mut book).await;
    let drain = store.drain("cloud").expect("configured");
    // A run of numbers, as a message has.
    let place = records.windows(2).position(|w| w[0].id.seq + 1 == w[1].id.seq).expect("some are neighbours");
    let range = records[place].id.seq..records[place].id.seq + 2;
    let exchange = |id, received| Exchange { id, range: range.clone(), historical: true, received };
    let begin = Step { begin: Some("k".into()), sent: vec![exchange(40_000, false)], ..Step::default() };
    drain.note(begin).await.expect("noted");
    drain.note(Step { received: vec![40_000], ..Step::default() }).await.expect("noted");
    store.close().await.expect("closes");
    let (store, _) = opened(&config_of(dir.path()), &uplinks(&["cloud"]), TestClock::new("0"));
    store.may_thin(fast());
    let drain = store.drain("cloud").expect("configured");
    drain.exchange_over(40_000, Some(range.clone()));
    book.arrived("cloud", range.clone());
    assert!(drain.pending().iter().all(|p| p.end <= range.start || p.start >= range.end));
    store.flush().await.expect("flushes");
    assert_eq!(balanced(&*drain).delivered, 2);
    drain_all(&mut book, &store, "cloud", 300, 50).await;
    book.close("cloud", 1..store.status().next_seq);
    store.close().await.expect("closes");
}

/// Flips a byte of the thinned block that begins last.
fn damage(dir: &Path) -> std::ops::Range<u64> {
    let db = rusqlite::Connection::open(dir.join("fieldgate.db")).expect("opens");
    let row = |r: &rusqlite::Row<'_>| {
        Ok((r.get::<_, i64>(0)?.cast_unsigned(), r.get::<_, i64>(1)?.cast_unsigned()))
    };
    let (first, n) =
        db.query_row("SELECT first,count FROM thin ORDER BY first DESC", [], row).expect("a thinned block");
    let get = "SELECT data FROM block WHERE first=?1";
    let mut data: Vec<u8> = db.query_row(get, [first.cast_signed()], |r| r.get(0)).expect("it is there");
    data[70] ^= 1;
    db.execute("UPDATE block SET data=?1 WHERE first=?2", (data, first.cast_signed())).expect("written");
    first..first + n
}

#[tokio::test]
async fn a_thinned_block_that_is_damaged_is_declared_whole_and_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let names = uplinks(&["cloud"]);
    let (store, _) = opened(&config_of(dir.path()), &names, TestClock::new("0"));
    store.may_thin(fast());
    let mut book = Book::at(1000);
    fill(&mut book, &store, 100).await;
    store.close().await.expect("closes");
    let bad = damage(dir.path());
    let (store, _) = opened(&config_of(dir.path()), &names, TestClock::new("0"));
    let drain = store.drain("cloud").expect("configured");
    balanced(&*drain);
    drain_all(&mut book, &store, "cloud", 300, 50).await;
    book.close("cloud", 1..store.status().next_seq);
    let corrupt = book.declared("cloud", LossReason::Corrupt);
    assert_eq!(corrupt, [bad], "its numbers, there or not");
    assert_eq!(balanced(&*drain).queued, 0);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn when_everything_is_thinned_the_oldest_go_and_all_of_them_is_declared() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { max_size: ByteSize(96 << 10), ..config_of(dir.path()) };
    let (store, _) = opened(&config, &uplinks(&["cloud"]), TestClock::new("0"));
    store.may_thin(fast());
    let mut book = Book::at(1000);
    fill(&mut book, &store, 150).await;
    let status = store.status();
    assert!(status.dropped > 1000 && status.thinned > 1000, "{status:?}");
    let drain = store.drain("cloud").expect("configured");
    let told = losses(&*drain).await;
    assert!(told.iter().all(|r| r.reason == LossReason::QueueFull), "{told:#?}");
    assert_eq!(told[0].seq[0], 1, "the oldest");
    balanced(&*drain);
    drain_all(&mut book, &store, "cloud", 300, 50).await;
    book.close("cloud", 1..store.status().next_seq);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_loss_record_of_what_was_thinned_that_is_damaged_is_told_again_as_a_bound() {
    let dir = tempfile::tempdir().expect("a directory");
    let names = uplinks(&["cloud"]);
    let (store, _) = opened(&config_of(dir.path()), &names, TestClock::new("0"));
    store.may_thin(fast());
    let mut book = Book::at(1000);
    fill(&mut book, &store, 100).await;
    let drain = store.drain("cloud").expect("configured");
    let range = drain.pending()[0].clone();
    let chunk = drain.read(range, 2000).await.expect("reads");
    acknowledge(&mut book, &*drain, "cloud", &chunk.records, 50);
    store.flush().await.expect("flushes");
    let before = losses(&*drain).await;
    let (first, last) = (before[0].seq[0], before[before.len() - 1].seq[1]);
    assert!(before.iter().all(|r| r.reason == LossReason::Thinned && !r.bound), "{before:#?}");
    let ledger = balanced(&*drain);
    drop(drain);
    store.close().await.expect("closes");
    let db = rusqlite::Connection::open(dir.path().join("fieldgate.db")).expect("opens");
    db.execute("UPDATE loss SET body='00000000 {}'", []).expect("written");
    drop(db);

    let (store, _) = opened(&config_of(dir.path()), &names, TestClock::new("0"));
    let drain = store.drain("cloud").expect("configured");
    assert_eq!(balanced(&*drain).delivered, ledger.delivered);
    let after = losses(&*drain).await;
    assert!(after.iter().all(|r| r.reason == LossReason::Thinned && r.bound), "{after:#?}");
    // Where nothing was missing at its front it is shorter.
    assert!((first..first + 20).contains(&after[0].seq[0]), "{after:#?}");
    assert_eq!(after[after.len() - 1].seq[1], last);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn history_is_dropped_before_anything_that_is_owed_is_thinned() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store { history: Span::s(86_400), ..config_of(dir.path()) };
    let (store, _) = opened(&config, &uplinks(&["cloud"]), TestClock::new("0"));
    store.may_thin(fast());
    let mut book = Book::at(1000);
    let drain = store.drain("cloud").expect("configured");
    for _ in 0..60 {
        fill(&mut book, &store, 1).await;
        drain.pending().into_iter().for_each(|range| drain.delivered(range));
    }
    fill(&mut book, &store, 10).await;
    let status = store.status();
    assert_eq!((status.thinned, balanced(&*drain).lost), (0, 0));
    assert!(status.readings < status.stored_seq, "the limit was reached: {status:?}");
    store.close().await.expect("closes");
}

#[tokio::test]
async fn without_uplinks_the_history_is_thinned_and_lasts_longer() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, _) = opened(&config_of(dir.path()), &[], TestClock::new("0"));
    store.may_thin(fast());
    let mut book = Book::at(1000);
    fill(&mut book, &store, 120).await;
    let status = store.status();
    assert!(status.thinned > 10_000 && status.dropped == 0, "{status:?}");
    let (mut at, mut found) = (1, Vec::new());
    while at < status.next_seq {
        let chunk = store.read(at..status.next_seq, 1000).await.expect("reads");
        found.extend(chunk.records);
        at = chunk.next;
    }
    book.is_right(&found);
    assert_eq!(found.len() as u64, status.readings);
    // An uplink that comes now is owed what stayed, and is told of the rest.
    store.reconfigure(&config_of(dir.path()), &uplinks(&["late"]), store.wishes());
    drain_all(&mut book, &store, "late", 300, 50).await;
    let ledger = balanced(&*store.drain("late").expect("configured"));
    assert_eq!((ledger.queued, ledger.lost), (0, status.thinned));
    book.close("late", status.next_seq - ledger.taken..status.next_seq);
    store.close().await.expect("closes");
}

#[tokio::test]
async fn a_reload_may_switch_it_on_and_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let (on, names) = (config_of(dir.path()), uplinks(&["cloud"]));
    let off = model::Store { thin: None, ..on.clone() };
    let (store, _) = opened(&off, &names, TestClock::new("0"));
    store.may_thin(fast());
    let mut book = Book::at(1000);
    fill(&mut book, &store, 80).await;
    let status = store.status();
    assert!(status.thinned == 0 && status.dropped > 0, "{status:?}");
    store.reconfigure(&on, &names, store.wishes());
    fill(&mut book, &store, 40).await;
    let status = store.status();
    assert!(status.thinned > 0, "{status:?}");
    store.reconfigure(&off, &names, store.wishes());
    fill(&mut book, &store, 40).await;
    assert!(store.status().thinned == status.thinned && store.status().dropped > status.dropped);
    drain_all(&mut book, &store, "cloud", 300, 50).await;
    book.close("cloud", 1..store.status().next_seq);
    store.close().await.expect("closes");
}

/// A second of a plant: `points` voltages that move by some tenths.
fn second(points: &[Arc<PointKey>], at: u64, random: &mut fastrand::Rng) -> Vec<Reading> {
    let one = |(n, point): (usize, &Arc<PointKey>)| {
        let tenths = 2300.0 + n as f64 + f64::from(random.i32(-3..=3));
        Reading::good(Arc::clone(point), BootMs(at), Value::Float(tenths / 10.0))
    };
    points.iter().enumerate().map(one).collect()
}

/// How long a backlog lasts in 4 MiB, and what its commits take: 1000 points a second, a commit every 500 ms.
///
/// ```sh
/// cargo test --release --lib store::tests::thin::figures -- --ignored --nocapture
/// ```
#[tokio::test]
#[ignore = "a measurement of some minutes"]
async fn figures() {
    let points: Vec<_> = (0..1000).map(key).collect();
    for thin in [None, Some(Span::s(60))] {
        let dir = tempfile::tempdir().expect("a directory");
        let config = model::Store { max_size: ByteSize::mib(4), thin, ..config(dir.path()) };
        let (store, _) = opened(&config, &uplinks(&["cloud"]), TestClock::new("0"));
        store.may_thin(points.iter().map(|p| (p.device.clone(), p.point.clone(), Duration::from_secs(1))));
        let drain = store.drain("cloud").expect("configured");
        let mut random = fastrand::Rng::with_seed(1);
        let (mut whole, mut thinning) = (Vec::new(), Vec::new());
        let mut at = 1_000_000;
        while store.status().dropped == 0 && at < 2_000_000_000 {
            at += 1000;
            let batch = second(&points, at, &mut random);
            for half in batch.chunks(500) {
                store.take(half.to_vec());
                let (before, began) = (store.status().thinned, crate::store::state::Tick::now());
                store.flush().await.expect("flushes");
                let took = began.elapsed();
                if store.status().thinned > before { thinning.push(took) } else { whole.push(took) }
            }
        }
        let ledger = balanced(&*drain);
        let oldest = ledger.oldest.expect("there is one").0 - NOW;
        let span = (at.cast_signed() - oldest) / 1000;
        println!(
            "thin {thin:?}: {span} s are there when the first is dropped; {} of {} readings",
            ledger.queued, ledger.taken
        );
        println!("  {} bytes written", store.status().bytes_written);
        for (what, mut times) in [("as ever", whole), ("thinning", thinning)] {
            times.sort();
            let of = |share: usize| times.get(times.len().saturating_sub(1) * share / 100);
            println!(
                "  {} commits {what}: median {:?}, p99 {:?}, longest {:?}",
                times.len(),
                of(50),
                of(99),
                of(100)
            );
        }
        store.close().await.expect("closes");
    }
}
