//! What a bus learns about its devices' pace: how long each takes to begin an answer, and from that
//! how long it is worth waiting for one that has begun to keep silent. Pure: `now` comes in.
//!
//! The usual turnaround of a device is the median of its last [`REMEMBERED`] answers, so that one that was
//! delayed by a repeat or a busy converter changes nothing.
//!
//! Waiting a whole timeout for a dead device costs its line more than ten living ones. A device that has
//! proven to be fast is therefore given less, where silence is likely: [`SLACK_FACTOR`] times its slowest
//! remembered answer and [`SLACK`], and only
//! - right after another device of the line has fallen silent (what took one, a breaker or a cable, may have
//!   taken several), or
//! - when it missed its last exchange; every [`FULL_EVERY`]th time it has its whole timeout again, so that one
//!   that has become slow is heard.

use std::time::Duration;

use tokio::time::Instant;

/// Answers remembered of a device: 16 × 16 B.
const REMEMBERED: usize = 16;
/// Fewer say nothing.
const ENOUGH: usize = 8;

const SLACK_FACTOR: u32 = 4;
/// USB adapters hand bytes over every 16 ms, and a busy machine looks 20 ms later.
const SLACK: Duration = Duration::from_millis(50);
const FULL_EVERY: u32 = 4;
/// How long the silence of one device makes that of others likely.
const CONTAGION: Duration = Duration::from_secs(2);

/// The last turnarounds of one device.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turnaround {
    last: [Duration; REMEMBERED],
    /// How many were ever noted.
    noted: usize,
}

impl Turnaround {
    /// The first byte of an answer came so long after the end of its request.
    pub fn note(&mut self, took: Duration) {
        self.last[self.noted % REMEMBERED] = took;
        // Past the first round only the place in the ring matters.
        self.noted = if self.noted < 2 * REMEMBERED - 1 { self.noted + 1 } else { REMEMBERED };
    }

    fn sorted(&self) -> Option<Vec<Duration>> {
        let mut known = self.last[..self.noted.min(REMEMBERED)].to_vec();
        known.sort_unstable();
        (known.len() >= ENOUGH).then_some(known)
    }

    /// What it usually is; `None` until there is enough to tell.
    pub fn usual(&self) -> Option<Duration> {
        let sorted = self.sorted()?;
        sorted.get(sorted.len() / 2).copied()
    }

    /// The longest remembered; `None` until there is enough to tell.
    fn slowest(&self) -> Option<Duration> {
        self.sorted()?.last().copied()
    }
}

/// All devices of a bus.
#[derive(Debug, Default)]
pub(crate) struct Lessons {
    devices: Vec<Device>,
    /// The device that fell silent last, and until when that makes others doubtful.
    fallen: Option<(usize, Instant)>,
}

#[derive(Debug, Clone, Default)]
struct Device {
    turnaround: Turnaround,
    /// Timeouts in a row.
    silent: u32,
}

impl Lessons {
    pub fn new(devices: usize) -> Self {
        Self { devices: vec![Device::default(); devices], fallen: None }
    }

    /// The usual turnaround of a device.
    pub fn usual(&self, device: usize) -> Option<Duration> {
        self.devices.get(device)?.turnaround.usual()
    }

    /// How long to wait for an answer of `length` whose device may have `timeout`.
    pub fn patience(&self, device: usize, timeout: Duration, length: Duration, now: Instant) -> Duration {
        let Some(known) = self.devices.get(device) else { return timeout };
        let doubtful = match known.silent {
            0 => self.fallen.is_some_and(|(fallen, until)| fallen != device && now < until),
            silent => silent % FULL_EVERY != 0,
        };
        match known.turnaround.slowest() {
            Some(slowest) if doubtful => (slowest * SLACK_FACTOR + SLACK + length).min(timeout),
            _ => timeout,
        }
    }

    /// It answered, after `took`.
    pub fn answered(&mut self, device: usize, took: Duration) {
        if let Some(known) = self.devices.get_mut(device) {
            known.turnaround.note(took);
            known.silent = 0;
        }
    }

    /// It did not answer, as found out at `now`.
    pub fn silent(&mut self, device: usize, now: Instant) {
        if let Some(known) = self.devices.get_mut(device) {
            if known.silent == 0 {
                self.fallen = Some((device, now + CONTAGION));
            }
            known.silent = known.silent.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const TIMEOUT: Duration = Duration::from_millis(500);

    #[test]
    fn a_few_late_answers_do_not_change_the_usual_one() {
        let mut turnaround = Turnaround::default();
        (0..7).for_each(|_| turnaround.note(MS * 5));
        assert_eq!(turnaround.usual(), None);
        (0..40).for_each(|n| turnaround.note(if n % 4 == 0 { MS * 200 } else { MS * 5 }));
        assert_eq!(turnaround.usual(), Some(MS * 5));
        assert_eq!(turnaround.slowest(), Some(MS * 200));
        (0..16).for_each(|_| turnaround.note(MS * 30));
        assert_eq!((turnaround.usual(), turnaround.slowest()), (Some(MS * 30), Some(MS * 30)));
    }

    fn lessons() -> Lessons {
        let mut lessons = Lessons::new(3);
        for device in 0..2 {
            (0..10).for_each(|_| lessons.answered(device, MS * 5));
        }
        lessons
    }

    #[test]
    fn when_one_falls_silent_the_others_are_waited_for_less_long_for_a_while() {
        let (mut lessons, now) = (lessons(), Instant::now());
        assert_eq!(lessons.patience(1, TIMEOUT, MS * 20, now), TIMEOUT);
        lessons.silent(0, now);
        assert_eq!(lessons.patience(1, TIMEOUT, MS * 20, now), MS * 90);
        assert_eq!(lessons.patience(1, MS * 60, MS * 20, now), MS * 60);
        assert_eq!(lessons.patience(2, TIMEOUT, MS * 20, now), TIMEOUT, "never measured");
        assert_eq!(lessons.patience(1, TIMEOUT, MS * 20, now + CONTAGION), TIMEOUT);
        // A device that has been dead for long says nothing about the others.
        lessons.silent(0, now + CONTAGION);
        assert_eq!(lessons.patience(1, TIMEOUT, MS * 20, now + CONTAGION), TIMEOUT);
    }

    #[test]
    fn who_is_silent_has_its_whole_timeout_every_fourth_time() {
        let (mut lessons, now) = (lessons(), Instant::now());
        let waits: Vec<Duration> = (0..9)
            .map(|_| {
                let patience = lessons.patience(0, TIMEOUT, MS * 20, now);
                lessons.silent(0, now);
                patience
            })
            .collect();
        let (full, short) = (TIMEOUT, MS * 90);
        assert_eq!(waits, [full, short, short, short, full, short, short, short, full]);
        lessons.answered(0, MS * 300);
        assert_eq!(lessons.patience(0, TIMEOUT, MS * 20, now), TIMEOUT);
    }

    proptest! {
        #[test]
        fn the_usual_turnaround_is_one_that_half_of_the_last_answers_did_not_exceed(
            took in prop::collection::vec(0u32..1000, 8..100),
        ) {
            let mut turnaround = Turnaround::default();
            took.iter().for_each(|ms| turnaround.note(MS * *ms));
            let last = &took[took.len().saturating_sub(REMEMBERED)..];
            let usual = turnaround.usual().expect("enough");
            prop_assert!(last.iter().filter(|ms| MS * **ms <= usual).count() * 2 >= last.len());
            prop_assert!(last.iter().filter(|ms| MS * **ms >= usual).count() * 2 >= last.len());
        }
    }
}
