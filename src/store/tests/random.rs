//! Random operations, crashes and reopenings against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use driver_api::Value;
use proptest::prelude::*;

use super::*;
use crate::message::{Epoch, LossReason};

#[derive(Debug, Clone)]
enum Step {
    Take(u64),
    Flush,
    /// Acknowledges a part of what is pending: start and length as shares.
    Ack(u8, u8),
    Reject(u8),
    Read(u16),
    Kill,
    PowerCut,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..300).prop_map(Step::Take),
        4 => Just(Step::Flush),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Step::Ack(a, b)),
        1 => any::<u8>().prop_map(Step::Reject),
        2 => (1u16..500).prop_map(Step::Read),
        2 => Just(Step::Kill),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Close),
    ]
}

/// What an outside observer knows.
#[derive(Default)]
struct Model {
    given: BTreeMap<u64, (Epoch, i64)>,
    durable: BTreeSet<u64>,
    settled: BTreeSet<u64>,
    lost: BTreeSet<u64>,
    value: i64,
}

impl Model {
    fn check(&self, store: &Store) {
        let drain = store.drain("cloud").expect("configured");
        let ledger = balanced(&*drain);
        let pending: BTreeSet<u64> = drain.pending().into_iter().flatten().collect();
        assert_eq!(ledger.lost, self.lost.len() as u64);
        assert!(pending.is_disjoint(&self.lost));
        for n in &self.durable {
            assert!(
                pending.contains(n) || self.settled.contains(n) || self.lost.contains(n),
                "{n} was stored and is gone"
            );
        }
    }

    fn losses(&mut self, recovery: &Recovery) {
        for record in &recovery.losses {
            for n in record.seq[0]..=record.seq[1] {
                assert!(self.lost.insert(n), "{n} is declared twice");
                assert!(!self.durable.contains(&n), "{n} was stored and is declared {:?}", record.reason);
            }
        }
    }
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    config.commit_interval = Span::s(3600);
    let mut boot = 0;
    let reopen = |boot: u32| opened(&config, &uplinks(&["cloud"]), TestClock::new(&boot.to_string()));
    let (mut store, _) = reopen(boot);
    let mut model = Model::default();
    for step in steps {
        let drain = store.drain("cloud").expect("configured");
        let pending = drain.pending();
        match step {
            Step::Take(n) => {
                let values: Vec<i64> = (0..n as i64).map(|v| model.value + v).collect();
                model.value += n as i64;
                let batch = values
                    .iter()
                    .map(|&v| Reading::good(key((v % 7) as usize), BootMs(v as u64), Value::Int(v)));
                let taken = store.take(batch.collect());
                for (id, v) in taken.ids().zip(values) {
                    assert!(
                        model.given.insert(id.seq, (id.epoch, v)).is_none(),
                        "{id:?} was given out twice"
                    );
                }
            }
            Step::Flush => {
                store.flush().await.expect("flushes");
                model.durable.extend(model.given.keys().filter(|n| !model.lost.contains(n)));
            }
            Step::Ack(at, len) => {
                if let Some(range) = pending.get(usize::from(at) % pending.len().max(1)) {
                    let n = range.end - range.start;
                    let from = range.start + n * u64::from(at) / 256;
                    let part = from..(from + 1 + n * u64::from(len) / 256).min(range.end);
                    drain.delivered(part.clone());
                    model.settled.extend(part);
                }
            }
            Step::Reject(at) => {
                if let Some(range) = pending.get(usize::from(at) % pending.len().max(1)) {
                    let numbers: Vec<u64> = range.clone().step_by(3).take(5).collect();
                    let ranges: Vec<_> = numbers.iter().map(|n| *n..*n + 1).collect();
                    drain.reject(&ranges, LossReason::Rejected);
                    store.flush().await.expect("flushes");
                    model.durable.extend(model.given.keys().filter(|n| !model.lost.contains(n)));
                    assert!(numbers.iter().all(|n| model.lost.insert(*n)));
                }
            }
            Step::Read(max) => {
                let mut last = 0;
                for record in read_all(&*drain, usize::from(max)).await {
                    assert!(record.id.seq > last, "order");
                    last = record.id.seq;
                    let (epoch, value) = model.given[&record.id.seq];
                    assert_eq!((record.id.epoch, record.value), (epoch, Some(Value::Int(value))));
                }
            }
            Step::Kill | Step::PowerCut | Step::Close => {
                drop(drain);
                if matches!(step, Step::Close) {
                    store.close().await.expect("closes");
                    model.durable.extend(model.given.keys().filter(|n| !model.lost.contains(n)));
                } else {
                    // What exceeds the bound is committed early; a cut in the very middle of the first burst
                    // of that size is the one case the bound does not hold.
                    until("the bound holds", || {
                        let status = store.status();
                        status.readings_in_ram <= status.power_cut_bound
                    })
                    .await;
                    store.crash();
                }
                if matches!(step, Step::PowerCut) {
                    boot += 1;
                    std::fs::remove_file(dir.path().join("head")).expect("was there");
                }
                let (again, recovery) = reopen(boot);
                store = again;
                model.losses(&recovery);
                // What was acknowledged and not yet committed is asked for again: settled is what the store says.
                let pending: BTreeSet<u64> =
                    store.drain("cloud").expect("configured").pending().into_iter().flatten().collect();
                model.settled.retain(|n| !pending.contains(n));
            }
        }
        model.check(&store);
    }
    store.close().await.expect("closes");
}

proptest! {
    #![proptest_config(super::seeded(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() }))]
    #[test]
    fn behaves_like_the_naive_model(steps in prop::collection::vec(step(), 1..45)) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(run(steps));
    }
}
