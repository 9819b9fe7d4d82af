//! Random operations, crashes and reopenings of a store that thins, against the book outside.

use proptest::prelude::*;

use super::thin_book::{Book, EVERY, acknowledge, drain_all, fast};
use super::*;
use crate::message::LossReason;

#[derive(Debug, Clone)]
enum Step {
    /// So many readings, so many ms apart.
    Take(u64, u64),
    Flush,
    /// Reads a part of what is pending, from a share of it on, and acknowledges a share of that, from its end if `true`.
    Read(u8, u8, u16, u8, bool),
    Reject(u8, u8),
    Told(u8),
    /// Whether the third uplink is there.
    Late(bool),
    Purge,
    Kill,
    PowerCut,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (200u64..3000, 1u64..60).prop_map(|(n, pace)| Step::Take(n, pace)),
        6 => Just(Step::Flush),
        4 => (0..3u8, any::<u8>(), 1u16..600, any::<u8>(), any::<bool>())
            .prop_map(|(uplink, at, max, share, back)| Step::Read(uplink, at, max, share, back)),
        1 => (0..3u8, any::<u8>()).prop_map(|(uplink, at)| Step::Reject(uplink, at)),
        1 => (0..3u8).prop_map(Step::Told),
        1 => any::<bool>().prop_map(Step::Late),
        1 => Just(Step::Purge),
        1 => Just(Step::Kill),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Close),
    ]
}

const NAMES: [&str; 3] = ["cloud", "plant", "late"];

struct Life {
    dir: tempfile::TempDir,
    config: model::Store,
    late: bool,
    book: Book,
    random: fastrand::Rng,
}

impl Life {
    fn names(&self) -> Vec<String> {
        uplinks(&NAMES[..if self.late { 3 } else { 2 }])
    }

    fn open(&self) -> (Store, Recovery) {
        let clock = TestClock::new(&self.book.boot.to_string());
        let (store, recovery) = opened(&self.config, &self.names(), clock);
        store.may_thin(fast());
        (store, recovery)
    }

    /// Every ledger adds up, and what is queued can be read.
    async fn check(&mut self, store: &Store) {
        if !store.inner.shared.state().thinned.later.is_empty() {
            self.flush(store).await;
        }
        for uplink in self.names() {
            let drain = store.drain(&uplink).expect("configured");
            // The store may commit by itself meanwhile: once more then.
            let (records, ledger, waiting) = loop {
                let before = (balanced(&*drain), store.status().readings_in_ram);
                let records = read_all(&*drain, 4096).await;
                if before == (balanced(&*drain), store.status().readings_in_ram) {
                    break (records, before.0, before.1);
                }
            };
            self.book.is_right(&records);
            assert_eq!(records.len() as u64 + waiting, ledger.queued, "{uplink}: {ledger:?}");
        }
    }

    async fn flush(&mut self, store: &Store) {
        store.flush().await.expect("flushes");
        self.book.flushed();
    }

    async fn step(&mut self, store: Store, step: &Step) -> Store {
        let drain_of = |n: u8| store.drain(NAMES[usize::from(n)]).map(|drain| (NAMES[usize::from(n)], drain));
        match *step {
            Step::Take(n, pace) => {
                let batch = self.book.batch(n, pace, &mut self.random);
                let taken = store.take(batch.clone());
                self.book.note(taken, &batch);
            }
            Step::Flush => self.flush(&store).await,
            Step::Read(n, at, max, share, back) => {
                let Some((uplink, drain)) = drain_of(n) else { return store };
                let pending = drain.pending();
                let Some(range) = pending.get(usize::from(at) % pending.len().max(1)) else { return store };
                let from = range.start + (range.end - range.start) * u64::from(at) / 512;
                let chunk = drain.read(from..range.end, usize::from(max)).await.expect("reads");
                self.book.is_right(&chunk.records);
                let n = chunk.records.len() * usize::from(share) / 255;
                let part = if back { &chunk.records[chunk.records.len() - n..] } else { &chunk.records[..n] };
                acknowledge(&mut self.book, &*drain, uplink, part, 50);
            }
            Step::Reject(n, at) => {
                let Some((_, drain)) = drain_of(n) else { return store };
                let pending = drain.pending();
                let Some(range) = pending.get(usize::from(at) % pending.len().max(1)) else { return store };
                let chunk = drain.read(range.clone(), 1).await.expect("reads");
                if let Some(record) = chunk.records.first() {
                    drain.reject(&[record.id.seq..record.id.seq + 1], LossReason::Rejected);
                }
            }
            Step::Told(n) => {
                let Some((uplink, drain)) = drain_of(n) else { return store };
                for (handle, record) in drain.losses(3).await.expect("reads") {
                    self.book.told(uplink, handle, record);
                    drain.loss_delivered(handle);
                }
            }
            Step::Late(late) => {
                self.late = late;
                store.reconfigure(&self.config, &self.names(), store.wishes());
                self.flush(&store).await;
            }
            Step::Purge => {
                self.flush(&store).await;
                let before = store.drain("plant").expect("configured").ledger();
                let purged = store.purge(Some("plant")).await.expect("purges");
                // The commit in between may have made room.
                assert!(purged[0].1 <= before.queued, "{purged:?} of {before:?}");
                let after = store.drain("plant").expect("configured").ledger();
                assert_eq!((after.queued, after.lost), (0, after.taken - after.delivered));
                self.book.flushed();
            }
            Step::Kill | Step::PowerCut | Step::Close => return self.end(store, step).await,
        }
        store
    }

    async fn end(&mut self, store: Store, step: &Step) -> Store {
        if matches!(step, Step::Close) {
            self.flush(&store).await;
            store.close().await.expect("closes");
            self.look_at_rest();
        } else {
            until("the bound holds", || {
                let status = store.status();
                status.readings_in_ram <= status.power_cut_bound
            })
            .await;
            store.crash();
            self.book.crashed();
        }
        if matches!(step, Step::PowerCut) {
            self.book.boot += 1;
            std::fs::remove_file(self.dir.path().join("head")).expect("was there");
        }
        self.open().0
    }

    /// What waits by the accounts on disk is what can be read there.
    fn look_at_rest(&self) {
        let log = Store::at_rest(self.dir.path()).expect("nobody uses it");
        let seen = log.inspection().expect("reads");
        for name in self.names() {
            let queued = log.queued(&name).expect("reads").expect("it has a position");
            let (mut at, mut found) = (0, 0);
            while let Some(stretch) = log.stretch(at).expect("reads") {
                self.book.is_right(&stretch.chunk.records);
                let is_queued = |r: &&Record| queued.iter().any(|range| range.contains(&r.id.seq));
                found += stretch.chunk.records.iter().filter(is_queued).count() as u64;
                at = stretch.chunk.next;
            }
            let account = &seen.uplinks[&name];
            assert_eq!(account.queued, found, "{name}: {account:?}");
            assert_eq!(account.taken, account.delivered + account.queued + account.lost, "{account:?}");
        }
    }

    /// Everything is delivered and told; each number is somewhere.
    async fn drain(&mut self, store: &Store) {
        self.flush(store).await;
        for uplink in self.names() {
            drain_all(&mut self.book, store, &uplink, 500, 50).await;
            let ledger = balanced(&*store.drain(&uplink).expect("configured"));
            assert_eq!(ledger.queued, 0);
            let next = store.status().next_seq;
            self.book.close(&uplink, next - ledger.taken..next);
        }
    }
}

async fn run(seed: u64, size: u64, steps: Vec<Step>) -> u64 {
    let dir = tempfile::tempdir().expect("a directory");
    let config = model::Store {
        commit_interval: Span::s(3600),
        max_size: ByteSize(size << 10),
        thin: Some(Span::ms(EVERY)),
        ..config(dir.path())
    };
    let (book, random) = (Book::at(5000), fastrand::Rng::with_seed(seed));
    let mut life = Life { dir, config, late: false, book, random };
    let (mut store, _) = life.open();
    for (n, step) in steps.iter().enumerate() {
        store = life.step(store, step).await;
        if n % 3 == 0 {
            life.check(&store).await;
        }
    }
    life.drain(&store).await;
    store.close().await.expect("closes");
    life.book.thinned
}

fn block_on<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(what)
}

proptest! {
    #![proptest_config(super::seeded(ProptestConfig { cases: 16, max_shrink_iters: 40, ..ProptestConfig::default() }))]
    #[test]
    fn what_is_thinned_is_declared_once_and_exactly_and_all_else_arrives(
        seed in any::<u64>(),
        size in prop_oneof![Just(192u64), Just(256), Just(400)],
        steps in prop::collection::vec(step(), 20..70),
    ) {
        block_on(run(seed, size, steps));
    }
}
