//! Clocks, ends and boots in any order, against a book kept outside: what an uplink was told once it is always told again, what
//! was told with a guess is corrected exactly, all else has its true time, and the ledger balances.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use driver_api::{Quality, Reason};
use proptest::prelude::*;

use super::*;
use crate::bounds;
use crate::message::{CorrectionRecord, LossReason};

#[derive(Debug, Clone)]
enum Step {
    /// So many readings.
    Take(u64),
    /// Read so many numbers from this part of the queue on; acknowledge them, or do not.
    Read { uplink: usize, from: u8, count: u64, acknowledge: bool },
    /// The clock is set: by how many ms it is wrong, and whether it is believed.
    Clock { wrong: i64, synced: bool },
    /// An end, and a start in the same boot or the next.
    End { clean: bool, reboot: bool },
    /// What is there to be corrected is acknowledged.
    Corrected { uplink: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let wrong =
        prop_oneof![Just(0i64), Just(-NOW), Just(3000), Just(-3000), -70_000_000_000i64..70_000_000_000];
    prop_oneof![
        4 => (1u64..40).prop_map(Step::Take),
        6 => (0usize..2, any::<u8>(), 1u64..60, any::<bool>())
            .prop_map(|(uplink, from, count, acknowledge)| Step::Read { uplink, from, count, acknowledge }),
        2 => (wrong, prop::bool::weighted(0.3)).prop_map(|(wrong, synced)| Step::Clock { wrong, synced }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(clean, reboot)| Step::End { clean, reboot }),
        1 => (0usize..2).prop_map(|uplink| Step::Corrected { uplink }),
    ]
}

const UPLINKS: [&str; 2] = ["cloud", "plant"];

/// A boot as the test made it.
#[derive(Debug, Default)]
struct Boot {
    /// Believed offsets: from which boot time on.
    anchors: Vec<(u64, i64)>,
}

impl Boot {
    fn true_time(&self, at: u64) -> Option<i64> {
        let valid = self.anchors.iter().rev().find(|(from, _)| *from <= at).or(self.anchors.first());
        valid.map(|(_, offset)| at.cast_signed() + offset)
    }
}

/// What the outside knows.
#[derive(Default)]
struct Book {
    boots: Vec<Boot>,
    /// Boot and boot time of each number.
    taken: BTreeMap<u64, (usize, u64)>,
    /// What each uplink was told.
    told: [BTreeMap<u64, (i64, Quality)>; 2],
    corrections: [BTreeMap<u64, CorrectionRecord>; 2],
}

impl Book {
    fn hear(&mut self, uplink: usize, records: &[Record]) {
        for record in records {
            let (seq, content) = (record.id.seq, (record.ts.0, record.quality));
            let before = *self.told[uplink].entry(seq).or_insert(content);
            assert_eq!(before, content, "{seq} again");
            let (boot, at) = self.taken[&seq];
            match record.quality {
                Quality::Good => assert_eq!(Some(content.0), self.boots[boot].true_time(at), "{seq}"),
                other => assert_eq!(other, Quality::Uncertain(Reason::ClockUnsynced), "{seq}"),
            }
        }
    }

    fn correct(&mut self, uplink: usize, records: Vec<(u64, CorrectionRecord)>) {
        for (handle, record) in records {
            let before = self.corrections[uplink].entry(handle).or_insert_with(|| record.clone()).clone();
            assert_eq!(before, record, "a correction again");
        }
    }

    /// Every number that was told with a guess in a boot that was set is in exactly one correction, which makes its time
    /// true; none that was told its true time is in one.
    fn judge(&self) {
        for (told, corrections) in self.told.iter().zip(&self.corrections) {
            for (seq, (ts, quality)) in told {
                let (boot, at) = self.taken[seq];
                let within = |c: &&CorrectionRecord| (c.seq[0]..=c.seq[1]).contains(seq);
                let shifts: Vec<i64> = corrections.values().filter(within).map(|c| c.shift_ms).collect();
                let first = self.boots[boot].anchors.first().map(|(_, offset)| at.cast_signed() + offset);
                match (quality, first) {
                    (Quality::Good, _) | (_, None) => assert!(shifts.is_empty(), "{seq} {ts}: {shifts:?}"),
                    (_, Some(first)) => assert_eq!(shifts, [first - ts], "{seq}"),
                }
            }
        }
    }
}

async fn play(steps: Vec<Step>) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut book = Book { boots: vec![Boot::default()], ..Book::default() };
    let clock_of = |n: usize| {
        let clock = TestClock::new(&format!("boot {n}"));
        clock.offset.store(0, Ordering::SeqCst);
        clock.synced.store(false, Ordering::SeqCst);
        clock
    };
    // Between two boots only the wall clock tells what is old, and here it lies.
    let config = model::Store { max_age: Span::s(100 * 365 * 86_400), ..config(dir.path()) };
    let open = |clock: &Arc<TestClock>| {
        let (store, _) = opened(&config, &uplinks(&UPLINKS), clock.clone());
        let drains = UPLINKS.map(|name| store.drain(name).expect("configured"));
        (store, drains)
    };
    let mut clock = clock_of(0);
    let (mut store, mut drains) = open(&clock);
    let end = [Step::Clock { wrong: 0, synced: true }];
    for step in steps.into_iter().chain(end) {
        let now = clock.boot.fetch_add(1000, Ordering::SeqCst) + 1000;
        let boot = book.boots.len() - 1;
        match step {
            Step::Take(n) => {
                let batch = (now..now + n).map(|at| Reading::good(key(0), BootMs(at), Value::UInt(at)));
                let taken = store.take(batch.collect());
                book.taken.extend(taken.ids().zip(now..).map(|(id, at)| (id.seq, (boot, at))));
            }
            Step::Read { uplink, from, count, acknowledge } => {
                let pending = drains[uplink].pending();
                if pending.is_empty() {
                    continue;
                }
                let range = pending[usize::from(from) % pending.len()].clone();
                let start = range.start + u64::from(from) % (range.end - range.start);
                let range = start..range.end.min(start + count);
                let chunk = drains[uplink].read(range.clone(), 100).await.expect("the disk is there");
                assert_eq!(chunk.next, range.end);
                book.hear(uplink, &chunk.records);
                if acknowledge {
                    drains[uplink].delivered(range);
                }
            }
            Step::Clock { wrong, synced } => {
                clock.offset.store(NOW + wrong, Ordering::SeqCst);
                clock.synced.store(synced, Ordering::SeqCst);
                store.flush().await.expect("the disk is there");
                let anchors = &mut book.boots[boot].anchors;
                if synced && anchors.last().is_none_or(|(_, o)| o.abs_diff(NOW + wrong) > 20) {
                    anchors.push((if anchors.is_empty() { 0 } else { now }, NOW + wrong));
                }
            }
            Step::End { clean, reboot } => {
                drop(drains);
                if clean {
                    store.close().await.expect("closes");
                } else {
                    store.crash();
                }
                if reboot {
                    book.boots.push(Boot::default());
                    clock = clock_of(book.boots.len() - 1);
                }
                (store, drains) = open(&clock);
            }
            Step::Corrected { uplink } => {
                let list = drains[uplink].corrections(bounds::STORE_RELEASED).await.expect("reads");
                book.correct(uplink, list.clone());
                for (handle, _) in list {
                    drains[uplink].correction_delivered(handle);
                }
            }
        }
    }
    for (uplink, drain) in drains.iter().enumerate() {
        let list = drain.corrections(bounds::STORE_RELEASED).await.expect("reads");
        book.correct(uplink, list);
        book.hear(uplink, &read_all(&**drain, 50).await);
        balanced(&**drain);
        let lost = losses(&**drain).await;
        let ends = [LossReason::UncleanStart, LossReason::PowerCut];
        assert!(lost.iter().all(|l| ends.contains(&l.reason)), "{lost:?}");
    }
    book.judge();
    store.close().await.expect("closes");
}

proptest! {
    #![proptest_config(seeded(ProptestConfig { cases: 80, ..ProptestConfig::default() }))]
    #[test]
    fn what_was_told_stays_and_what_was_guessed_is_corrected(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(play(steps));
    }
}
