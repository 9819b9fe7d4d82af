//! Power cuts and kills at any call of SQLite while the clock is not set, and while it is being set: what an uplink was told of
//! the time of a number before, it is told again after; corrections come back as they were, and none is missing.

use std::sync::atomic::Ordering;

use driver_api::{Quality, Reason};

use super::super::*;
use super::Facts;
use super::cuts::room;
use super::disk::Survives;
use super::scene::{Cut, Scene};
use super::witness::UPLINKS;
use crate::bounds;

const UNSYNCED: Quality = Quality::Uncertain(Reason::ClockUnsynced);

fn open_at(dir: &Path, clock: &Arc<TestClock>) -> (Store, Arc<dyn Drain>) {
    let (store, _) = opened(&config(dir), &uplinks(&UPLINKS), clock.clone());
    let drain = store.drain(UPLINKS[0]).expect("configured");
    (store, drain)
}

fn clock(boot: &str, offset: i64, synced: bool) -> Arc<TestClock> {
    let clock = TestClock::new(boot);
    clock.offset.store(offset, Ordering::SeqCst);
    clock.synced.store(synced, Ordering::SeqCst);
    clock
}

/// Reads and notes it, as the wire would: from here on the world knows.
async fn tell(scene: &Scene, drain: &dyn Drain, range: std::ops::Range<u64>) {
    let chunk = drain.read(range, 100).await.expect("the disk is there");
    let list = drain.corrections(bounds::STORE_RELEASED).await.expect("the disk is there");
    let mut track = scene.track();
    for record in chunk.records {
        let content = (record.ts.0, record.quality);
        let before = *track.facts.times.entry(record.id.seq).or_insert(content);
        assert_eq!(before, content, "{} again", record.id.seq);
    }
    track.facts.corrections.extend(list);
}

/// A life with everything in it; returns its cuts.
async fn life(dir: &Path, seed: u64) -> Vec<Cut> {
    let scene = Scene::new(dir.to_owned(), seed, 3, Facts::default());
    let mut random = fastrand::Rng::with_seed(seed);
    let clock = clock("boot 1", 0, false);
    let (store, drain) = open_at(dir, &clock);
    scene.follow(&store);
    let set_at = random.u32(3..9);
    for round in 0..12u32 {
        let at = 1000 * u64::from(round + 1);
        clock.boot.store(at, Ordering::SeqCst);
        if round == set_at {
            clock.offset.store(NOW, Ordering::SeqCst);
            clock.synced.store(true, Ordering::SeqCst);
        } else if round < set_at && random.u8(..3) == 0 {
            clock.offset.store(NOW + random.i64(-900_000..900_000), Ordering::SeqCst);
        }
        let batch = (at..at + random.u64(1..9)).map(|at| Reading::good(key(0), BootMs(at), Value::UInt(at)));
        let _ = store.take(batch.collect());
        if random.bool() {
            store.flush().await.expect("the disk is there");
        }
        for _ in 0..random.u8(..3) {
            let pending = drain.pending();
            let Some(range) = pending.get(random.usize(..pending.len().max(1))) else { continue };
            let start = random.u64(range.clone());
            let range = start..range.end.min(start + random.u64(1..8));
            tell(&scene, &*drain, range.clone()).await;
            if random.bool() {
                drain.delivered(range);
            }
        }
    }
    store.flush().await.expect("the disk is there");
    tell(&scene, &*drain, 0..0).await;
    let mut cuts = std::mem::take(&mut scene.track().cuts);
    cuts.push(scene.now());
    scene.leave();
    drop(drain);
    store.crash();
    cuts
}

/// What comes back after the cut, in another boot (the power went) or in the same (it was killed).
async fn judge(cut: &Cut, dir: &Path, survives: Survives, random: &mut fastrand::Rng) {
    cut.leave(dir, survives, false, random);
    let killed = survives == Survives::All;
    let back =
        if killed { clock("boot 1", NOW, random.bool()) } else { clock("boot 2", NOW + 86_400_000, true) };
    back.boot.store(50_000, Ordering::SeqCst);
    let (store, drain) = open_at(dir, &back);
    let times = &cut.facts.times;
    let mut found = 0;
    for record in read_all(&*drain, 50).await {
        let Some(before) = times.get(&record.id.seq) else { continue };
        assert_eq!(*before, (record.ts.0, record.quality), "{}, {survives:?}: {}", cut.at, record.id.seq);
        found += 1;
    }
    back.synced.store(true, Ordering::SeqCst);
    store.flush().await.expect("the disk is there");
    let list = drain.corrections(bounds::STORE_RELEASED).await.expect("the disk is there");
    let after: std::collections::BTreeMap<_, _> = list.into_iter().collect();
    for (handle, before) in &cut.facts.corrections {
        assert_eq!(after.get(handle), Some(before), "{}, {survives:?}", cut.at);
    }
    if killed || !cut.facts.corrections.is_empty() {
        for (seq, (ts, _)) in times.iter().filter(|(_, (_, quality))| *quality == UNSYNCED) {
            let within = |c: &&crate::message::CorrectionRecord| (c.seq[0]..=c.seq[1]).contains(seq);
            let shifts: Vec<i64> = after.values().filter(within).map(|c| c.shift_ms).collect();
            assert_eq!(shifts.len(), 1, "{}, {survives:?}: {seq} {ts}", cut.at);
            // The true time is 2026 and some seconds after the boot.
            assert!((NOW..NOW + 60_000).contains(&(ts + shifts[0])), "{seq} {ts} {shifts:?}");
        }
    }
    balanced(&*drain);
    drop(drain);
    store.crash();
    assert!(found <= times.len());
}

#[tokio::test]
async fn what_was_told_of_time_before_a_cut_is_told_after_it() {
    let mut judged = 0;
    for seed in 1..=6 {
        let room = room();
        let cuts = life(&room.path().join("life"), seed).await;
        let mut random = fastrand::Rng::with_seed(seed);
        for (n, cut) in cuts.iter().enumerate() {
            let kinds = [Survives::All, Survives::Nothing, Survives::Prefix, Survives::Some];
            let survives = kinds[n % kinds.len()];
            judge(cut, &room.path().join(n.to_string()), survives, &mut random).await;
            judged += 1;
        }
    }
    assert!(judged > 100, "{judged}");
}
