//! Power cuts at any call, on a disk that tells the truth and on one that does not.
//!
//! ```sh
//! FIELDGATE_CUTS=100000 cargo test --release --lib power::cuts -- --include-ignored --nocapture
//! FIELDGATE_CUT_SEED=17 cargo test --lib power::cuts     # one life again, alone
//! ```

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;

use super::super::*;
use super::Facts;
use super::disk::Survives;
use super::scene::{Cut, Scene, counted};
use super::witness::{Ledger, Tally, UPLINKS, fast, letter_of};
use crate::bounds::STORE_POWER_CUT;
use crate::message::LossReason;
use crate::store::identity::read_mark;

/// Where directories are made: in RAM if there is one, because each cut makes a few files and syncs them.
pub fn room() -> tempfile::TempDir {
    let ram = Path::new("/dev/shm");
    let made = if ram.is_dir() { tempfile::tempdir_in(ram) } else { tempfile::tempdir() };
    made.expect("a directory")
}

struct Lives {
    room: tempfile::TempDir,
    config: model::Store,
    lying: bool,
    mixed: bool,
    random: fastrand::Rng,
    boot: u32,
    dirs: u32,
    tally: Tally,
    kinds: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

impl Lives {
    fn dir(&mut self) -> PathBuf {
        self.dirs += 1;
        self.room.path().join(self.dirs.to_string())
    }

    fn open(&self, dir: &Path, boot: u32) -> (Store, Recovery) {
        let config = model::Store { path: dir.to_owned(), ..self.config.clone() };
        let clock = TestClock::new(&format!("boot {boot}"));
        clock.offset.store(NOW + i64::from(boot) * 10_000, std::sync::atomic::Ordering::SeqCst);
        super::super::forwarding::opened_with(&config, &uplinks(&UPLINKS), clock)
    }

    /// Cuts there, and lets the ledger judge what comes back; sometimes it is cut again while it comes back.
    fn judge<'a>(
        &'a mut self,
        cut: &'a Cut,
        ledger: &'a Ledger,
        depth: u8,
    ) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        Box::pin(async move {
            let survives =
                *self.random.choice(&[Survives::Nothing, Survives::Prefix, Survives::Some]).expect("three");
            let torn = survives != Survives::Nothing && self.random.u8(..3) == 0;
            let how = format!("{survives:?}{}", if torn { " torn" } else { "" });
            *self.kinds.entry(how.clone()).or_default() += 1;
            *self.kinds.entry(format!("depth {depth}")).or_default() += 1;
            let dir = self.dir();
            cut.leave(&dir, survives, torn, &mut self.random);
            let marked = read_mark(&dir).map_or(1, |mark| mark.stored);
            let deeper = depth < 3 && self.random.u8(..6) == 0;
            let scene =
                Scene::new(dir.clone(), self.random.u64(..), if deeper { 8 } else { 0 }, cut.facts.clone());
            if cut.facts.lying {
                scene.disk.lie();
            }
            let (store, recovery) = self.open(&dir, 1000 + u32::from(depth));
            let again = {
                let mut track = scene.track();
                track.every = 0;
                std::mem::take(&mut track.cuts)
            };
            let facts = Facts { marked, ..cut.facts.clone() };
            let wrong = ledger.judge(&store, &recovery, &facts, &mut self.tally).await;
            let at = &cut.at;
            self.wrong.extend(wrong.into_iter().map(|what| format!("{at}, {how}, depth {depth}: {what}")));
            store.crash();
            drop(scene);
            std::fs::remove_dir_all(&dir).expect("removes");
            for cut in again.iter().take(3) {
                self.judge(cut, ledger, depth + 1).await;
            }
        })
    }

    async fn judge_all(&mut self, scene: &Scene) {
        let (cuts, ledger) = {
            let mut track = scene.track();
            (std::mem::take(&mut track.cuts), std::mem::take(&mut track.ledger))
        };
        for cut in &cuts {
            self.judge(cut, &ledger, 1).await;
        }
        scene.track().ledger = ledger;
    }

    /// One step of the life; `true`: the store is to be opened again.
    async fn step(&mut self, scene: &mut Scene, store: &Store) -> Option<End> {
        let uplink = *self.random.choice(&UPLINKS).expect("two");
        let drain = store.drain(uplink).expect("configured");
        let pending = drain.pending();
        match self.random.u8(..32) {
            0..10 => {
                let n = match self.config.thin {
                    Some(_) => self.random.u64(100..1000),
                    None if self.random.u8(..24) == 0 => 600,
                    None => self.random.u64(1..50),
                };
                if self.mixed && self.random.bool() {
                    scene.post(store, n);
                } else {
                    scene.take(store, n);
                }
            }
            10..18 => {
                scene.track().busy = self.random.bool();
                store.flush().await.expect("flushes");
                scene.track().busy = false;
            }
            18..23 => {
                if let Some(range) = self.random.choice(&pending) {
                    let from = self.random.u64(range.start..range.end);
                    let most = self.random.usize(1..200);
                    let chunk = drain.read(from..range.end, most).await.expect("reads");
                    let mut track = scene.track();
                    let mut strange = chunk.records.iter().filter(|r| !track.ledger.knows(r)).count();
                    for record in &chunk.messages {
                        match letter_of(record).filter(|_| uplink == UPLINKS[0]) {
                            Some(n) => drop(track.facts.arrived.insert(n)),
                            None => strange += 1,
                        }
                    }
                    self.tally.wrong += strange as u64;
                    let acked = &mut track.said(uplink).acked;
                    chunk.records.iter().for_each(|r| {
                        acked.insert(r.id.seq..r.id.seq + 1);
                    });
                    drop(track);
                    drain.delivered(from..chunk.next);
                }
            }
            23 => {
                if let Some(range) = self.random.choice(&pending) {
                    drain.reject(&[range.start..range.start + 1], LossReason::Rejected);
                }
            }
            24..26 => {
                for (handle, record) in drain.losses(20).await.expect("reads") {
                    if self.random.bool() {
                        scene.track().said(uplink).hear(&record);
                        drain.loss_delivered(handle);
                    }
                }
            }
            26 => store.mark().await,
            27 => return Some(End::Close),
            28 | 29 => return Some(End::Kill),
            _ => return Some(End::Cut),
        }
        scene.settle(store).await;
        None
    }

    /// Lives until so many cuts are judged, and what they left is judged too.
    async fn live(&mut self, seed: u64, steps: u32) {
        let mut scene = Scene::new(
            self.dir(),
            seed,
            6,
            Facts { stored: 1, next: 1, bound: STORE_POWER_CUT, mixed: self.mixed, ..Facts::default() },
        );
        scene.track().terse = self.config.thin.is_some();
        let honest_for = if self.random.bool() { 0 } else { self.random.u32(..steps) };
        let (mut store, _) = self.open(&scene.dir.clone(), self.boot);
        store.may_thin(fast());
        scene.follow(&store);
        for step in 0..steps {
            if self.lying && step >= honest_for {
                scene.disk.lie();
                scene.track().facts.lying = true;
            }
            let end = self.step(&mut scene, &store).await;
            self.judge_all(&scene).await;
            if let Some(end) = end {
                store = self.end(&mut scene, store, end).await;
                self.judge_all(&scene).await;
            }
        }
        scene.leave();
        store.crash();
    }

    async fn end(&mut self, scene: &mut Scene, store: Store, end: End) -> Store {
        if end == End::Close {
            scene.track().busy = false;
            store.clone().close().await.expect("closes");
        } else {
            {
                let mut track = scene.track();
                track.busy = true;
                let calls = self.random.u64(1..60);
                track.end_in(calls);
            }
            let n = self.random.u64(1..40);
            if self.mixed {
                scene.post(&store, n / 3);
            }
            scene.take(&store, n);
            let _ = store.flush().await;
            scene.track().busy = false;
            store.clone().crash();
        }
        drop(store);
        let cut = scene.leave();
        if let (End::Cut, Some(cut)) = (end, cut)
            && !(cut.facts.burst || cut.facts.lying)
        {
            let dir = self.dir();
            let survives =
                *self.random.choice(&[Survives::Nothing, Survives::Prefix, Survives::Some]).expect("three");
            cut.leave(&dir, survives, self.random.bool(), &mut self.random);
            scene.move_to(dir);
            scene.track().facts = cut.facts;
            self.boot += 1;
            scene.track().offset = NOW + i64::from(self.boot) * 10_000;
        }
        let (store, _) = self.open(&scene.dir.clone(), self.boot);
        // What is owed again will be sent again, or be thinned out.
        for uplink in UPLINKS {
            let mut track = scene.track();
            for range in store.drain(uplink).expect("configured").pending() {
                track.said(uplink).acked.remove(range);
            }
        }
        store.may_thin(fast());
        scene.follow(&store);
        store
    }
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    Kill,
    Cut,
}

/// Says which seed it was, if something fails in the middle of it.
pub struct Loud(pub &'static str, pub u64);

impl Drop for Loud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("failed under {}={}", self.0, self.1);
        }
    }
}

/// Lives, one seed each, until so many cuts are judged.
fn run(lying: bool, cuts: u64, first: u64) -> Tally {
    let alone: Option<u64> = std::env::var("FIELDGATE_CUT_SEED").ok().and_then(|seed| seed.parse().ok());
    let (mut sum, mut kinds, mut bad) = (Tally::default(), BTreeMap::<String, u64>::new(), Vec::new());
    let mut seed = alone.unwrap_or(first);
    let began = crate::store::state::Tick::now();
    while sum.judged < cuts {
        let _loud = Loud("FIELDGATE_CUT_SEED", seed);
        let mut random = fastrand::Rng::with_seed(seed);
        let room = room();
        let mut config = config(room.path());
        config.commit_interval = Span::s(3600);
        config.max_size = ByteSize(*random.choice(&[176 << 10, 256 << 10, 64 << 20]).expect("three"));
        if random.bool() {
            config.thin = Some(Span::ms(200));
            config.max_size = ByteSize(*random.choice(&[96 << 10, 112 << 10]).expect("two"));
        }
        // Blocks with messages are not thinned.
        let mixed = seed.is_multiple_of(2) && config.thin.is_none();
        let (tally, wrong) = (Tally::default(), Vec::new());
        let mut lives = Lives {
            room,
            config,
            lying,
            mixed,
            random,
            boot: 1,
            dirs: 0,
            tally,
            kinds: BTreeMap::new(),
            wrong,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(lives.live(seed, 40));
        for (what, n) in std::mem::take(&mut lives.kinds) {
            *kinds.entry(what).or_default() += n;
        }
        sum.add(&lives.tally);
        bad.extend(lives.wrong.iter().take(3).map(|what| format!("FIELDGATE_CUT_SEED={seed}: {what}")));
        if alone.is_some() {
            break;
        }
        seed += 1;
    }
    println!("seeds {first}..{seed}, {:?}: {}\n{sum:#?}", began.elapsed(), counted(&kinds));
    assert!(bad.is_empty(), "{} complaints:\n{}", bad.len(), bad[..bad.len().min(12)].join("\n"));
    sum
}

fn honest(cuts: u64, first: u64) {
    let sum = run(false, cuts, first);
    let Tally { unopenable, stored_lost, undeclared, wrong, doubled, over_bound, unbalanced, .. } = sum;
    let faults = [unopenable, stored_lost, undeclared, wrong, doubled, over_bound, unbalanced, sum.set_aside];
    assert_eq!(faults, [0; 8]);
    assert!(sum.thinned > 0, "nothing was thinned out");
}

fn lying(cuts: u64, first: u64) {
    let sum = run(true, cuts, first);
    let Tally { unopenable, undeclared, wrong, doubled, over_bound, unbalanced, .. } = sum;
    assert_eq!([unopenable, undeclared, wrong, doubled, over_bound, unbalanced], [0; 6]);
    assert!(sum.stored_lost > 0, "the disk did not lie");
}

pub fn deep() -> u64 {
    std::env::var("FIELDGATE_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000)
}

#[test]
fn no_power_cut_takes_what_was_stored() {
    honest(2000, 1);
}

#[test]
#[ignore = "long; FIELDGATE_CUTS says how many"]
fn no_power_cut_takes_what_was_stored_deep() {
    honest(deep(), 1_000_000);
}

#[test]
fn what_a_lying_disk_loses_is_declared_as_far_as_the_mark_knows() {
    lying(1000, 1);
}

#[test]
#[ignore = "long; FIELDGATE_CUTS says how many"]
fn what_a_lying_disk_loses_is_declared_as_far_as_the_mark_knows_deep() {
    lying(deep(), 1_000_000);
}
