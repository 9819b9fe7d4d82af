//! Time as uplinks are told it: clocks that are not set, set late, stepped and lost; starts and kills in between. In each case
//! nothing is dropped, what was sent stays as it was sent, and corrections are exact.

use std::sync::atomic::Ordering;

use driver_api::{Quality, Reason};

use super::*;
use crate::bounds;
use crate::message::{CorrectionRecord, Moment};

const UNSYNCED: Quality = Quality::Uncertain(Reason::ClockUnsynced);
const YEAR: i64 = 365 * 86_400_000;

/// A machine: its clock, and the store that runs on it.
struct Machine {
    dir: tempfile::TempDir,
    clock: Arc<TestClock>,
    store: Store,
    drain: Arc<dyn Drain>,
}

impl Machine {
    /// Begins a boot with its wall clock at `offset`, not set.
    fn boot(id: &str, offset: i64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = unset(id, offset);
        let (store, drain) = start(dir.path(), &clock);
        Self { dir, clock, store, drain }
    }

    /// Killed and started again, in this boot.
    fn kill(self) -> Self {
        drop(self.drain);
        self.store.crash();
        let (store, drain) = start(self.dir.path(), &self.clock);
        Self { store, drain, ..self }
    }

    /// Ended in order and started again in another boot.
    async fn reboot(self, clock: Arc<TestClock>) -> Self {
        drop(self.drain);
        self.store.close().await.expect("closes");
        let (store, drain) = start(self.dir.path(), &clock);
        Self { dir: self.dir, clock, store, drain }
    }

    /// The clock says now something else, at boot time `at`; the store has seen it.
    async fn set(&self, at: u64, offset: i64, synced: bool) {
        self.clock.boot.store(at, Ordering::SeqCst);
        self.clock.offset.store(offset, Ordering::SeqCst);
        self.clock.synced.store(synced, Ordering::SeqCst);
        self.store.flush().await.expect("the disk is there");
    }

    async fn take(&self, at: std::ops::Range<u64>) {
        self.clock.boot.fetch_max(at.end, Ordering::SeqCst);
        let _ = self.store.take(readings(at));
        self.store.flush().await.expect("the disk is there");
    }

    /// What is pending, as the uplink is told it: number, time, quality.
    async fn told(&self) -> Vec<(u64, i64, Quality)> {
        read_all(&*self.drain, 100).await.into_iter().map(|r| (r.id.seq, r.ts.0, r.quality)).collect()
    }

    async fn corrections(&self) -> Vec<CorrectionRecord> {
        let list = self.drain.corrections(bounds::STORE_RELEASED).await.expect("the disk is there");
        list.into_iter().map(|(_, record)| record).collect()
    }

    /// Corrections as first number, last number, shift.
    async fn shifts(&self) -> Vec<(u64, u64, i64)> {
        self.corrections().await.into_iter().map(|c| (c.seq[0], c.seq[1], c.shift_ms)).collect()
    }
}

fn unset(id: &str, offset: i64) -> Arc<TestClock> {
    let clock = TestClock::new(id);
    clock.offset.store(offset, Ordering::SeqCst);
    clock.synced.store(false, Ordering::SeqCst);
    clock
}

fn start(dir: &Path, clock: &Arc<TestClock>) -> (Store, Arc<dyn Drain>) {
    let config = model::Store { history: Span::s(3600), ..config(dir) };
    let (store, _) = opened(&config, &uplinks(&["cloud"]), clock.clone());
    let drain = store.drain("cloud").expect("configured");
    (store, drain)
}

/// Numbers that follow one another, taken one each ms from `at` on.
fn row(seqs: std::ops::Range<u64>, at: i64, offset: i64, quality: Quality) -> Vec<(u64, i64, Quality)> {
    (0i64..).zip(seqs).map(|(n, seq)| (seq, at + n + offset, quality)).collect()
}

#[tokio::test]
async fn what_was_not_handed_out_before_the_clock_was_set_has_its_true_time() {
    let machine = Machine::boot("a", 0);
    machine.take(5000..5010).await;
    assert_eq!(machine.drain.unplaced(), Some(1));
    machine.set(40_000, NOW, true).await;
    assert_eq!(machine.drain.unplaced(), None);
    machine.take(40_000..40_005).await;
    let expected = [row(1..11, 5000, NOW, Quality::Good), row(11..16, 40_000, NOW, Quality::Good)].concat();
    assert_eq!(machine.told().await, expected);
    assert_eq!(machine.corrections().await, []);
    balanced(&*machine.drain);
}

#[tokio::test]
async fn a_moment_is_where_its_readings_are_though_the_clock_fell_back_and_the_daemon_was_killed() {
    let machine = Machine::boot("a", 0);
    machine.set(40_000, NOW, true).await;
    machine.set(50_000, 0, false).await;
    assert_eq!(machine.clock.wall(), WallMs(50_000), "in 1970");
    let machine = machine.kill();
    machine.take(51_000..51_001).await;
    assert_eq!(machine.told().await, row(1..2, 51_000, NOW, Quality::Good));
    assert_eq!(machine.store.wall_of(BootMs(51_000)), WallMs(51_000 + NOW));
    assert!(machine.store.moment(BootMs(51_000)).set);
    let machine = Machine::boot("b", 0);
    assert_eq!(machine.store.moment(BootMs(7000)), Moment { ts: WallMs(7000), set: false }, "in 1970");
}

#[tokio::test]
async fn what_was_handed_out_stays_as_it_was_and_is_corrected_until_that_is_acknowledged() {
    let machine = Machine::boot("a", 0);
    machine.take(5000..5010).await;
    let bad = Reading::bad(key(1), BootMs(5010), Reason::Timeout);
    let _ = machine.store.take(vec![bad]);
    machine.store.flush().await.expect("flushes");
    let early = machine.drain.read(1..8, 100).await.expect("reads").records;
    assert_eq!((early.len(), early[0].quality, early[0].ts), (7, UNSYNCED, WallMs(5000)));
    assert_eq!(machine.drain.read(11..12, 1).await.expect("reads").records[0].ts, WallMs(5010));
    assert_eq!(machine.corrections().await, [], "nobody knows yet");

    machine.set(40_000, NOW, true).await;
    let told = machine.told().await;
    let late = row(8..11, 5007, NOW, Quality::Good);
    assert_eq!(told[..10], [row(1..8, 5000, 0, UNSYNCED), late].concat());
    assert_eq!(told[10], (11, 5010, Quality::Bad(Reason::Timeout)), "its own reason, the time that it had");
    assert_eq!(machine.shifts().await, [(1, 7, NOW), (11, 11, NOW)]);
    let correction = machine.corrections().await.remove(0);
    assert_eq!((correction.uplink.as_deref(), &*correction.boot_id), (Some("cloud"), "a"));
    assert_eq!(correction.epoch, machine.store.epoch().to_string());
    assert_eq!(correction.ts, WallMs(NOW + 40_000).to_string());

    // All of it is as before after any end, and in another boot.
    let machine = machine.kill();
    assert_eq!(machine.told().await, told);
    assert_eq!(machine.corrections().await[0], correction);
    let machine = machine.reboot(TestClock::new("b")).await;
    assert_eq!(machine.told().await, told);
    assert_eq!(machine.corrections().await[0], correction);
    machine.drain.delivered(1..12);
    machine.store.flush().await.expect("flushes");
    assert_eq!(machine.corrections().await.len(), 2, "delivered or not");
    machine.drain.correction_delivered(1);
    assert_eq!(machine.shifts().await, [(11, 11, NOW)]);
    machine.store.flush().await.expect("flushes");
    let machine = machine.kill();
    assert_eq!(machine.shifts().await, [(11, 11, NOW)]);
    let ledger = balanced(&*machine.drain);
    assert_eq!((ledger.delivered, ledger.lost), (11, 0), "corrections do not count");
}

#[tokio::test]
async fn a_clock_that_is_set_by_hand_and_then_by_a_server_makes_one_correction_for_each_guess() {
    let machine = Machine::boot("a", 0);
    machine.take(1000..1004).await;
    let first = machine.drain.read(1..3, 100).await.expect("reads").records;
    assert_eq!(first[1].ts, WallMs(1001));
    machine.set(10_000, NOW - 777, false).await;
    // 3 and 4 were not handed out with the first guess: they go with the better one.
    machine.take(10_000..10_003).await;
    let expected = [
        row(1..3, 1000, 0, UNSYNCED),
        row(3..5, 1002, NOW - 777, UNSYNCED),
        row(5..8, 10_000, NOW - 777, UNSYNCED),
    ];
    assert_eq!(machine.told().await, expected.concat());
    machine.set(20_000, NOW, true).await;
    assert_eq!(machine.told().await, expected.concat());
    assert_eq!(machine.shifts().await, [(1, 2, NOW), (3, 7, 777)]);
    balanced(&*machine.drain);
}

#[tokio::test]
async fn a_guess_that_was_two_years_ahead_is_put_right_and_nothing_expires() {
    // An hour is what `max_age` could have been meant to be wrong by.
    for wrong in [2 * YEAR, -2 * YEAR, 3000, -3000] {
        let machine = Machine::boot("a", NOW + wrong);
        machine.take(1000..1010).await;
        assert_eq!(machine.told().await, row(1..11, 1000, NOW + wrong, UNSYNCED));
        machine.set(5000, NOW, true).await;
        machine.take(5000..5010).await;
        let late = row(11..21, 5000, NOW, Quality::Good);
        assert_eq!(machine.told().await, [row(1..11, 1000, NOW + wrong, UNSYNCED), late].concat());
        assert_eq!(machine.shifts().await, [(1, 10, -wrong)]);
        machine.store.flush().await.expect("flushes");
        assert_eq!((balanced(&*machine.drain).lost, machine.store.status().dropped), (0, 0));
    }
}

#[tokio::test]
async fn a_step_of_a_clock_that_is_believed_counts_from_its_moment_on_and_drops_nothing() {
    for step in [3000, -3000, 2 * YEAR, -2 * YEAR] {
        let machine = Machine::boot("a", NOW);
        machine.set(1000, NOW, true).await;
        machine.take(1000..1010).await;
        let before = row(1..11, 1000, NOW, Quality::Good);
        assert_eq!(machine.told().await, before);
        machine.set(60_000, NOW + step, true).await;
        machine.take(60_000..60_010).await;
        let all = [before, row(11..21, 60_000, NOW + step, Quality::Good)].concat();
        assert_eq!(machine.told().await, all);
        // Lost again, and set to nonsense: the boot clock keeps the time.
        machine.set(70_000, 5, false).await;
        machine.take(70_000..70_010).await;
        let all = [all, row(21..31, 70_000, NOW + step, Quality::Good)].concat();
        assert_eq!(machine.told().await, all);
        machine.set(80_000, NOW + step, true).await;
        let machine = machine.reboot(TestClock::new("b")).await;
        assert_eq!(machine.told().await, all, "and in the next boot, by whose clock some of it is years old");
        assert_eq!((machine.corrections().await, balanced(&*machine.drain).lost), (vec![], 0));
    }
}

#[tokio::test]
async fn no_step_of_a_clock_takes_history_away() {
    for step in [3000, -3000, 2 * YEAR, -2 * YEAR] {
        let machine = Machine::boot("a", NOW - 5);
        machine.take(1000..1010).await;
        machine.drain.delivered(1..11);
        machine.set(2000, NOW, true).await;
        machine.take(2000..2010).await;
        machine.drain.delivered(11..21);
        machine.set(60_000, NOW + step, true).await;
        machine.set(61_000, NOW + step, true).await;
        assert_eq!(machine.store.status().readings, 20, "{step}");
        let machine = machine.reboot(TestClock::new("b")).await;
        machine.set(5000, NOW, true).await;
        assert_eq!(machine.store.status().readings, 20, "{step}, the next boot");
        machine.set(3_700_000, NOW, true).await;
        machine.set(3_700_001, NOW, true).await;
        let left = if step == 2 * YEAR { 20 } else { 0 };
        assert_eq!(
            machine.store.status().readings,
            left,
            "{step}: an hour is an hour, where nobody doubts it"
        );
    }
}

#[tokio::test]
async fn many_separate_reads_before_the_clock_is_set_make_few_corrections() {
    let machine = Machine::boot("a", 0);
    machine.take(1000..1200).await;
    let mut known = Vec::new();
    for n in 0..40 {
        let range = 1 + n * 5..3 + n * 5;
        known.extend(machine.drain.read(range, 9).await.expect("reads").records);
    }
    machine.set(40_000, NOW, true).await;
    let told = machine.told().await;
    let shifts = machine.shifts().await;
    assert!(shifts.len() <= bounds::STORE_HANDED, "{shifts:?}");
    for record in known {
        assert!(told.contains(&(record.id.seq, record.ts.0, UNSYNCED)), "{record:?}");
    }
    for (seq, ts, quality) in told {
        let corrections = shifts.iter().filter(|(first, last, _)| (*first..=*last).contains(&seq)).count();
        assert_eq!(corrections, usize::from(quality == UNSYNCED), "{seq}");
        assert_eq!(
            ts,
            if quality == UNSYNCED { 999 + seq.cast_signed() } else { NOW + 999 + seq.cast_signed() }
        );
    }
}

#[tokio::test]
async fn an_earlier_boot_that_was_never_set_keeps_its_guess_and_is_never_corrected() {
    let machine = Machine::boot("a", 0);
    machine.take(1000..1010).await;
    let machine = machine.reboot(unset("b", 500)).await;
    machine.take(2000..2010).await;
    assert_eq!(machine.drain.unplaced(), Some(11), "what lies before waits for nothing");
    let expected = row(1..11, 1000, 0, UNSYNCED);
    assert_eq!(machine.drain.read(1..11, 100).await.expect("reads").records[9].ts, WallMs(1009));
    machine.set(40_000, NOW, true).await;
    let all = [expected, row(11..21, 2000, NOW, Quality::Good)].concat();
    assert_eq!(machine.told().await, all);
    assert_eq!(machine.corrections().await, []);
    let machine = machine.kill();
    assert_eq!((machine.told().await, machine.corrections().await), (all, vec![]));
    balanced(&*machine.drain);
}

#[tokio::test]
async fn killed_between_sending_and_correcting_all_that_may_have_been_sent_stays_and_is_corrected() {
    let machine = Machine::boot("a", 0);
    machine.take(1000..1010).await;
    machine.drain.read(4..6, 100).await.expect("reads");
    machine.drain.delivered(4..5);
    machine.store.flush().await.expect("flushes");
    // Nobody knows any more what was handed out: all that was stored is taken for it.
    let machine = machine.kill();
    machine.take(2000..2010).await;
    assert_eq!(machine.drain.unplaced(), Some(11));
    machine.drain.read(1..11, 100).await.expect("reads");
    assert_eq!(machine.drain.unplaced(), Some(11), "what is decided decides nothing for the rest");
    let kept = [row(1..4, 1000, 0, UNSYNCED), row(5..11, 1004, 0, UNSYNCED)].concat();
    machine.set(40_000, NOW, true).await;
    assert_eq!(machine.told().await, [kept, row(11..21, 2000, NOW, Quality::Good)].concat());
    assert_eq!(machine.shifts().await, [(1, 10, NOW)]);
    assert_ne!(machine.corrections().await[0].epoch, machine.store.epoch().to_string(), "of the life before");
    let ledger = balanced(&*machine.drain);
    assert_eq!((ledger.delivered, ledger.lost, ledger.queued), (1, 0, 19));
}

#[tokio::test]
async fn what_was_sent_in_a_boot_that_ended_without_a_clock_stays_as_it_was() {
    let machine = Machine::boot("a", 0);
    machine.take(1000..1010).await;
    let told = machine.told().await;
    // A better guess comes, is noticed, and the boot ends.
    machine.set(2000, NOW, false).await;
    let machine = machine.reboot(TestClock::new("b")).await;
    assert_eq!(machine.told().await, told);
    assert_eq!(machine.corrections().await, []);
    machine.drain.delivered(1..11);
    machine.store.flush().await.expect("flushes");
    let account = |machine: &Machine| machine.store.inner.shared.state().accounts["cloud"].clone();
    assert!(account(&machine).released.is_empty(), "and is then forgotten");
}

#[tokio::test]
async fn each_uplink_is_corrected_for_what_it_was_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = unset("a", 0);
    let (store, _) = opened(&config(dir.path()), &uplinks(&["cloud", "plant"]), clock.clone());
    let (cloud, plant) = (store.drain("cloud").expect("known"), store.drain("plant").expect("known"));
    let _ = store.take(readings(0..10));
    store.flush().await.expect("flushes");
    assert_eq!(cloud.read(1..11, 100).await.expect("reads").records[0].quality, UNSYNCED);
    clock.offset.store(NOW, Ordering::SeqCst);
    clock.synced.store(true, Ordering::SeqCst);
    let sent = plant.read(1..11, 100).await.expect("reads").records;
    assert_eq!((sent[0].quality, sent[0].ts), (Quality::Good, WallMs(NOW)));
    assert_eq!(cloud.corrections(9).await.expect("reads").len(), 1);
    assert_eq!(plant.corrections(9).await.expect("reads"), []);
    let person = store.read(1..11, 100).await.expect("reads").records;
    assert_eq!(person, sent, "who looks into the log sees what is known now");
    store.close().await.expect("closes");
}

#[tokio::test]
async fn what_the_local_broker_was_shown_is_corrected_there_for_each_guess_and_life() {
    let machine = Machine::boot("a", 0);
    let (taken, placed) = machine.store.take_placed(readings(1000..1010));
    assert_eq!((taken.count, placed[9]), (10, (WallMs(1009), false)));
    machine.set(2000, 700, false).await;
    assert_eq!(machine.store.take_placed(readings(2000..2001)).1, [(WallMs(2700), false)]);
    machine.store.flush().await.expect("flushes");
    let first = machine.store.epoch().to_string();
    let machine = machine.kill();
    let mut heard = machine.store.corrections();
    machine.take(3000..3005).await;
    assert!(heard.try_recv().is_err());
    machine.set(40_000, NOW, true).await;
    machine.take(41_000..41_005).await;
    let mut told = Vec::new();
    while let Ok(c) = heard.try_recv() {
        assert_eq!(c.uplink, None);
        told.push((c.epoch, c.seq, c.shift_ms));
    }
    let second = machine.store.epoch().to_string();
    let expected =
        [(first.clone(), [1, 10], NOW), (first, [11, 11], NOW - 700), (second, [12, 16], NOW - 700)];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn the_clock_is_noticed_while_nothing_comes_in() {
    let machine = Machine::boot("a", 0);
    machine.take(1000..1010).await;
    machine.clock.offset.store(NOW, Ordering::SeqCst);
    machine.clock.synced.store(true, Ordering::SeqCst);
    until("the store sees it", || machine.drain.unplaced().is_none()).await;
}

#[tokio::test]
async fn without_a_disk_the_clock_is_noticed_too_and_what_was_shown_is_corrected_when_it_is_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("queue");
    std::fs::write(&path, b"not a directory").expect("writes");
    let clock = unset("a", 0);
    let (store, recovery) = opened(&config(&path), &uplinks(&["cloud"]), clock.clone());
    assert!(recovery.ram_only.is_some());
    let mut heard = store.corrections();
    let (taken, placed) = store.take_placed(readings(1000..1003));
    assert_eq!(placed[0], (WallMs(1000), false));
    clock.offset.store(NOW, Ordering::SeqCst);
    clock.synced.store(true, Ordering::SeqCst);
    until("local readings are placed", || store.take_placed(readings(2000..2001)).1[0].1).await;
    std::fs::remove_file(&path).expect("removes");
    until("the store comes back", || store.status().state == "ok").await;
    let drain = store.drain("cloud").expect("configured");
    store.flush().await.expect("flushes");
    let told = read_all(&*drain, 100).await;
    assert!(told.iter().all(|r| r.quality == Quality::Good), "the uplink was told nothing before");
    assert_eq!(told[0].ts, WallMs(NOW + 1000));
    let epoch = taken.first.epoch.to_string();
    let mut all = std::iter::from_fn(|| heard.try_recv().ok());
    assert!(all.any(|c| c.epoch == epoch && c.seq[0] == 1 && c.seq[1] >= 3 && c.shift_ms == NOW));
    store.close().await.expect("closes");
}

#[tokio::test]
async fn the_latest_values_have_their_true_time_once_the_clock_is_set() {
    let machine = Machine::boot("a", 0);
    machine.take(1000..1014).await;
    machine.set(40_000, NOW, true).await;
    machine.take(40_000..40_003).await;
    let machine = machine.reboot(TestClock::new("b")).await;
    let mut latest: Vec<(i64, Quality)> =
        machine.store.last_values().into_iter().map(|r| (r.ts.0 - NOW, r.quality)).collect();
    latest.sort_unstable_by_key(|(at, _)| *at);
    let times = [1007, 1008, 1009, 1013, 40_000, 40_001, 40_002];
    assert_eq!(latest, times.map(|at| (at, Quality::Good)));
}
