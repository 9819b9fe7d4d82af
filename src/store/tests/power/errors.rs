//! Every call of SQLite fails, once or with those that follow: nothing that was taken is lost, what is lent meanwhile
//! arrives, and the store is well again by itself.
//!
//! A sync that fails is worth what it is on Linux: the pages count as written, and no later sync writes them. So each
//! of these lives ends with a power cut that leaves only what was synced.

use std::collections::BTreeMap;

use super::super::*;
use super::Facts;
use super::cuts::room;
use super::disk::Survives;
use super::scene::Scene;
use super::vfs::Call;
use super::witness::{Tally, UPLINKS, patient};
use crate::bounds::STORE_POWER_CUT;
use crate::message::LossReason;

fn small(dir: &Path) -> model::Store {
    // The WAL is written back every few commits.
    model::Store { commit_interval: Span::s(3600), max_size: ByteSize(512 << 10), ..config(dir) }
}

fn start(dir: &Path, boot: &str) -> (Store, Recovery) {
    let clock = TestClock::new(boot);
    clock.offset.store(NOW + 10_000, std::sync::atomic::Ordering::SeqCst);
    opened(&small(dir), &uplinks(&UPLINKS), clock)
}

async fn durable(store: &Store) {
    for _ in 0..4000 {
        if store.flush().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the store does not recover: {:?}", store.status().last_error);
}

/// One life with everything in it, over what another one left; and how often it lent what it could not store.
async fn live(scene: &Scene) -> (Store, u64) {
    let mut loans = 0;
    let (store, _) = start(&scene.dir, "one");
    until("the store finds its disk", || store.status().state == "ok").await;
    scene.follow(&store);
    let drain = store.drain(UPLINKS[0]).expect("configured");
    for round in 0..6 {
        let first = scene.take(&store, 40);
        // Where the disk fails just now it is lent.
        let _ = store.flush().await;
        let stored = store.status().stored_seq;
        let lent = drain.read(first.seq + 30..first.seq + 34, 4).await.map_or(0, |chunk| chunk.records.len());
        if lent == 4 {
            loans += u64::from(stored < first.seq);
            scene.track().said(UPLINKS[0]).acked.insert(first.seq + 30..first.seq + 34);
            drain.delivered(first.seq + 30..first.seq + 34);
        }
        durable(&store).await;
        let seen = patient(&store, UPLINKS[0]).await.0;
        assert!(seen.iter().all(|r| scene.track().ledger.knows(r)), "a wrong value");
        assert!(seen.last().is_some_and(|r| r.id.seq + 1 == first.seq + 40), "all is there, in order");
        scene.track().said(UPLINKS[0]).acked.insert(first.seq..first.seq + 30);
        drain.delivered(first.seq..first.seq + 30);
        match round {
            1 => drain.reject(&[first.seq + 35..first.seq + 36], LossReason::Rejected),
            3 => store.mark().await,
            _ => {}
        }
        scene.take(&store, 10);
        durable(&store).await;
    }
    until("the store is well", || store.status().state == "ok").await;
    (store, loans)
}

/// The life in which the calls `n` fail; `None` if it has none such.
async fn fails(n: std::ops::Range<u64>, full: bool, tally: &mut Tally) -> Option<(Call, u64, Vec<String>)> {
    let room = room();
    let facts = Facts { stored: 1, next: 1, bound: STORE_POWER_CUT, ..Facts::default() };
    let scene = Scene::new(room.path().join("live"), 3, 0, facts);
    let (before, _) = start(&scene.dir, "one");
    scene.follow(&before);
    scene.take(&before, 60);
    before.flush().await.expect("flushes");
    scene.leave();
    before.crash();
    let from = scene.track().calls();
    scene.track().fail = Some((from + n.start..from + n.end, full));

    let (store, loans) = live(&scene).await;
    let (call, _) = scene.track().failed.clone()?;
    let mut wrong = Vec::new();
    for (uplink, lost) in UPLINKS.into_iter().zip([1, 0]) {
        let ledger = balanced(&*store.drain(uplink).expect("configured"));
        if (ledger.taken, ledger.lost) != (360, lost) {
            wrong.push(format!("{uplink}: {ledger:?}"));
        }
    }
    let cut = scene.now();
    scene.leave();
    store.crash();
    let known = std::mem::take(&mut scene.track().ledger);
    let mut random = fastrand::Rng::with_seed(n.start);
    for (boot, survives) in [("two", Survives::Nothing), ("one", Survives::All)] {
        let dir = room.path().join(boot);
        cut.leave(&dir, survives, false, &mut random);
        let (store, recovery) = start(&dir, boot);
        wrong.extend(known.judge(&store, &recovery, &cut.facts, tally).await);
        store.crash();
    }
    Some((call, loans, wrong))
}

#[test]
fn any_call_may_fail_once_or_with_those_that_follow() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut calls, mut bad, mut tally) = (BTreeMap::<String, u64>::new(), Vec::new(), Tally::default());
    let mut lent = 0;
    let mut judge = |n: u64, many: u64, full: bool| {
        let (call, loans, wrong) = runtime.block_on(fails(n..n + many, full, &mut tally))?;
        lent += loans;
        *calls.entry(format!("{call:?} {many}{}", if full { " (full)" } else { "" })).or_default() += 1;
        bad.extend(wrong.into_iter().map(|what| format!("calls {n}+{many}, {call:?}, full {full}: {what}")));
        Some(call)
    };
    let mut writes = Vec::new();
    for n in 1.. {
        let Some(call) = judge(n, 1, false) else { break };
        writes.extend((call == Call::Write).then_some(n));
        // Opening again makes some thirty calls: a fault that lasts for a part of that, and for several tries.
        for many in [7, 40] {
            if n % 11 == many % 11 {
                judge(n, many, false);
            }
        }
    }
    for n in &writes {
        judge(*n, 1, true);
    }
    for (n, many) in writes.iter().step_by(5).zip([7, 40, 60].into_iter().cycle()) {
        judge(*n, many, true);
    }
    println!("{lent} times lent, {calls:?}\n{tally:#?}");
    assert!(bad.is_empty(), "{} complaints:\n{}", bad.len(), bad[..bad.len().min(12)].join("\n"));
    assert!(lent > 50, "{lent}");
    assert!(calls.values().sum::<u64>() > 200 && calls.len() > 4, "{calls:?}");
    let Tally { unopenable, stored_lost, undeclared, wrong, doubled, over_bound, unbalanced, .. } = tally;
    assert_eq!([unopenable, stored_lost, undeclared, wrong, doubled, over_bound, unbalanced], [0; 7]);
}
