//! Calls of SQLite fail while a store thins: whether the commit that brought the thinned block took place is not known then,
//! and the ledger is exact all the same, to whoever opens the directory afterwards, too.

use super::super::*;
use super::Facts;
use super::cuts::room;
use super::disk::Survives;
use super::scene::Scene;
use super::witness::{Tally, UPLINKS, fast, patient};
use crate::bounds::STORE_POWER_CUT;

fn start(dir: &Path, boot: &str) -> (Store, Recovery) {
    let config = model::Store {
        commit_interval: Span::s(3600),
        max_size: ByteSize(96 << 10),
        thin: Some(Span::ms(200)),
        ..config(dir)
    };
    let clock = TestClock::new(boot);
    clock.offset.store(NOW + 10_000, std::sync::atomic::Ordering::SeqCst);
    opened(&config, &uplinks(&UPLINKS), clock)
}

async fn durable(store: &Store) {
    until("the store is well", || store.status().state == "ok").await;
    for _ in 0..4000 {
        if store.flush().await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the store does not recover: {:?}", store.status().last_error);
}

/// A life that thins, in which these calls fail after its tenth round. Returns what is wrong; `None`: it has no such calls.
async fn life(fail: std::ops::Range<u64>, full: bool, tally: &mut Tally) -> Option<Vec<String>> {
    let room = room();
    let facts = Facts { stored: 1, next: 1, bound: STORE_POWER_CUT, burst: true, ..Facts::default() };
    let scene = Scene::new(room.path().join("live"), 3, 0, facts);
    scene.track().terse = true;
    let (store, _) = start(&scene.dir, "one");
    store.may_thin(fast());
    scene.follow(&store);
    for round in 0..24 {
        if round == 10 {
            let from = scene.track().calls();
            scene.track().fail = Some((from + fail.start..from + fail.end, full));
        }
        scene.take(&store, 400);
        let _ = store.flush().await;
        if round % 5 == 4 {
            durable(&store).await;
            let drain = store.drain(UPLINKS[0]).expect("configured");
            let range = drain.pending()[0].clone();
            let Ok(chunk) = drain.read(range.clone(), 300).await else { continue };
            let mut track = scene.track();
            for record in &chunk.records {
                assert!(track.ledger.knows(record), "a wrong value: {record:?}");
                track.said(UPLINKS[0]).acked.insert(record.id.seq..record.id.seq + 1);
            }
            drop(track);
            drain.delivered(range.start..chunk.next);
        }
    }
    durable(&store).await;
    scene.track().failed.clone()?;
    scene.track().fail = None;
    durable(&store).await;
    let mut wrong = Vec::new();
    for uplink in UPLINKS {
        let records = patient(&store, uplink).await.0;
        let ledger = balanced(&*store.drain(uplink).expect("configured"));
        if records.len() as u64 != ledger.queued {
            wrong.push(format!("{uplink}: {} can be read, {ledger:?}", records.len()));
        }
    }
    if store.status().thinned == 0 {
        wrong.push("nothing was thinned".to_owned());
    }
    let cut = scene.now();
    scene.leave();
    store.crash();
    let known = std::mem::take(&mut scene.track().ledger);
    let mut random = fastrand::Rng::with_seed(fail.start);
    for (boot, survives) in [("two", Survives::Nothing), ("one", Survives::All)] {
        let dir = room.path().join(boot);
        cut.leave(&dir, survives, false, &mut random);
        let (store, recovery) = start(&dir, boot);
        wrong.extend(known.judge(&store, &recovery, &cut.facts, tally).await);
        store.crash();
    }
    Some(wrong)
}

#[test]
fn a_commit_that_thins_may_fail_at_any_call() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut tally, mut bad, mut lives) = (Tally::default(), Vec::new(), 0);
    for n in (1u64..).step_by(19) {
        let many = [1, 1, 7, 40][n as usize / 19 % 4];
        let full = n.is_multiple_of(3);
        let Some(wrong) = runtime.block_on(life(n..n + many, full, &mut tally)) else { break };
        bad.extend(wrong.into_iter().map(|what| format!("calls {n}+{many}, full {full}: {what}")));
        lives += 1;
    }
    println!("{lives} lives\n{tally:#?}");
    assert!(bad.is_empty(), "{} complaints:\n{}", bad.len(), bad[..bad.len().min(12)].join("\n"));
    assert!(lives > 20 && tally.thinned > 0, "{lives} lives");
    let Tally { unopenable, stored_lost, undeclared, wrong, doubled, unbalanced, .. } = tally;
    assert_eq!([unopenable, stored_lost, undeclared, wrong, doubled, unbalanced], [0; 6]);
}
