//! Thinning of the backlog: what stays, what is said of the rest, and that nothing of it outlives its block.

use super::thin_book::{Book, EVERY, drain_all, fast};
use super::*;

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
