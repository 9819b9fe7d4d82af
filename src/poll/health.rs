//! Who on a bus is worth asking, decided from outcomes alone. Pure: `now` comes in.
//!
//! - **One glitch is no outage.** A device is offline when it missed [`MISSES`] exchanges in a row. It is
//!   online while it answers and at most one of its last [`MEMORY`] exchanges was missed; otherwise it is
//!   suspect: still asked, and not counted as gone. So a device that answers every third time is suspect for
//!   good: neither online nor flapping. Who has never answered is offline at its first miss: there is nothing to
//!   lose by it.
//! - **Who missed is asked with care**: as [`Standing::Suspect`], when it disturbs nobody or has waited
//!   for a while, and within the [`super::budget`].
//! - **A living device may have a range that it never answers.** Before a device is given up, a block of it
//!   that did not take part in the silence is asked as a **witness**. If that answers, the others are mute
//!   on their own account, and are left alone one by one.
//! - **Who is offline is asked by one block only**, after 1, 2, 4 … 60 s, and is back as a whole at its first
//!   answer.

use std::time::Duration;

use driver_api::Block;
use tokio::time::Instant;

/// So many exchanges missed in a row are an outage.
pub const MISSES: u8 = 3;
/// How many exchanges are remembered to call a device online.
pub const MEMORY: u32 = 5;
/// The first retry of what went offline.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait between two retries.
pub const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// One exchange, as far as health is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Any well-formed answer, a refusal included.
    Answered,
    /// Nothing, or garbage.
    Silent {
        /// The time it cost the bus.
        cost: Duration,
    },
}

/// How a block may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Whenever it is due.
    Living,
    /// It did not answer the last time, or its device did not, asked by several blocks.
    Suspect {
        /// How long the bus was held by that, and may be again.
        hold: Duration,
    },
    /// It has not answered for long.
    Offline {
        /// When it is asked next.
        retry_at: Instant,
        /// It stands for its whole device.
        probe: bool,
        /// As in `Suspect`.
        hold: Duration,
    },
    /// Not at all: another block is the probe of its device.
    Resting,
}

/// What follows from an outcome for the schedule and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Nothing.
    None,
    /// This block is to be asked next, to see whether all of its device is gone.
    Witness(usize),
    /// The whole device is gone; these blocks of it were not asked since it answered last.
    Gone(Vec<usize>),
    /// It is back.
    Back,
}

/// Growing waits between attempts.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    attempts: u32,
}

impl Retry {
    fn first(now: Instant) -> Self {
        Self { at: now + RETRY_FIRST, attempts: 0 }
    }
    fn again(&mut self, now: Instant) {
        self.at = now + RETRY_FIRST.saturating_mul(2 << self.attempts.min(10)).min(RETRY_LONGEST);
        self.attempts = self.attempts.saturating_add(1);
    }
}

#[derive(Debug, Clone, Copy)]
struct Part {
    device: usize,
    /// Asked at times of its own, not only listened to.
    polled: bool,
    misses: u8,
    mute: Option<Retry>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Device {
    /// It has answered at least once.
    met: bool,
    /// Exchanges missed in a row, whatever the block.
    misses: u8,
    /// The last exchanges, the newest in the lowest bit; 1 is a miss.
    recent: u8,
    /// They were of more than one block.
    several: bool,
    /// What the last miss cost.
    hold: Duration,
    witness: Option<usize>,
    gone: Option<(Retry, usize)>,
}

/// All blocks and devices of one bus.
#[derive(Debug)]
pub struct Health {
    parts: Vec<Part>,
    devices: Vec<Device>,
}

impl Health {
    /// Everybody is believed to be there.
    #[must_use]
    pub fn new(blocks: &[Block], devices: usize) -> Self {
        let part =
            |b: &Block| Part { device: b.device, polled: b.every != Duration::MAX, misses: 0, mute: None };
        Self { parts: blocks.iter().map(part).collect(), devices: vec![Device::default(); devices] }
    }

    /// The bus was opened anew: so is everybody's chance. What was remembered of glitches stays.
    pub fn reopen(&mut self) {
        for part in &mut self.parts {
            (part.misses, part.mute) = (0, None);
        }
        for device in &mut self.devices {
            *device = Device { recent: device.recent, met: device.met, ..Device::default() };
        }
    }

    /// The blocks are new: `before(block)` lists those that its points were in. It is mute if all of them were.
    pub fn replan(&mut self, blocks: &[Block], before: impl Fn(usize) -> Vec<usize>) {
        let old = std::mem::replace(self, Self::new(blocks, self.devices.len()));
        self.devices = old.devices;
        for (index, part) in self.parts.iter_mut().enumerate() {
            let least =
                before(index).into_iter().filter_map(|b| old.parts.get(b)).min_by_key(|old| old.misses);
            if let Some(old) = least {
                (part.misses, part.mute) = (old.misses, old.mute);
            }
        }
        for device in 0..self.devices.len() {
            let first = self.parts.iter().position(|p| p.device == device && p.polled);
            let device = &mut self.devices[device];
            device.witness = None;
            device.gone = device.gone.zip(first).map(|((retry, _), probe)| (retry, probe));
        }
    }

    /// How this block may be asked.
    #[must_use]
    pub fn standing(&self, block: usize) -> Standing {
        let Some(part) = self.parts.get(block) else { return Standing::Living };
        let Some(device) = self.devices.get(part.device) else { return Standing::Living };
        let hold = device.hold;
        match (device.gone, part.mute) {
            (Some((retry, probe)), _) if probe == block => {
                Standing::Offline { retry_at: retry.at, probe: true, hold }
            }
            (Some(_), _) => Standing::Resting,
            (None, Some(retry)) => Standing::Offline { retry_at: retry.at, probe: false, hold },
            // One exchange with another block says whether it is the device; that is not to be waited for.
            (None, None) if device.witness == Some(block) => Standing::Living,
            (None, None) if part.misses > 0 || device.several => Standing::Suspect { hold },
            (None, None) => Standing::Living,
        }
    }

    /// An exchange ended at `now`: of this block, or of the device as a whole.
    pub fn after(&mut self, device: usize, block: Option<usize>, outcome: Outcome, now: Instant) -> Turn {
        let Some(known) = self.devices.get_mut(device) else { return Turn::None };
        let Outcome::Silent { cost } = outcome else {
            known.recent <<= 1;
            known.met = true;
            (known.misses, known.several, known.witness) = (0, false, None);
            let back = known.gone.take().is_some();
            for (index, part) in self.parts.iter_mut().enumerate() {
                if part.device == device && (back || Some(index) == block) {
                    (part.misses, part.mute) = (0, None);
                }
            }
            return if back { Turn::Back } else { Turn::None };
        };
        known.hold = cost;
        if known.gone.is_none()
            && let Some(retry) = block.and_then(|b| self.parts.get_mut(b)).and_then(|part| part.mute.as_mut())
        {
            // That this range is mute is known, and says nothing about the others.
            retry.again(now);
            return Turn::None;
        }
        known.recent = known.recent << 1 | 1;
        known.misses = known.misses.saturating_add(1);
        let is_witness = block.is_some() && known.witness == block;
        if let Some((retry, probe)) = &mut known.gone {
            retry.again(now);
            // The next one asks by another block: this one may be refused or mute.
            let after = |b: usize| (b, self.parts[b]);
            let next = (*probe + 1..self.parts.len()).chain(0..*probe).map(after);
            *probe =
                next.into_iter().find(|(_, p)| p.device == device && p.polled).map_or(*probe, |(b, _)| b);
            return Turn::None;
        }
        // The first miss of a run, or one more of the same block.
        let alone =
            known.misses == 1 || block.is_some_and(|b| self.parts.get(b).is_some_and(|p| p.misses > 0));
        known.several |= !alone;
        if let Some(part) = block.and_then(|b| self.parts.get_mut(b)) {
            part.misses = part.misses.saturating_add(1);
            if part.misses >= MISSES {
                part.mute = Some(Retry::first(now));
            }
        }
        if known.met && known.misses < MISSES {
            return Turn::None;
        }
        let mine = |p: &Part| p.device == device && p.misses == 0;
        let unasked: Vec<usize> = (0..self.parts.len()).filter(|b| mine(&self.parts[*b])).collect();
        match unasked.iter().find(|b| self.parts[**b].polled) {
            Some(witness) if !is_witness => {
                known.witness = Some(*witness);
                Turn::Witness(*witness)
            }
            _ => {
                self.give_up(device, now);
                Turn::Gone(unasked)
            }
        }
    }

    /// A device that speaks by itself has said nothing for too long. Whether that is news.
    pub fn fell_silent(&mut self, device: usize, now: Instant) -> bool {
        let news = self.devices.get(device).is_some_and(|d| d.gone.is_none());
        if let Some(device) = self.devices.get_mut(device) {
            device.recent = device.recent << 1 | 1;
        }
        self.give_up(device, now);
        news
    }

    fn give_up(&mut self, device: usize, now: Instant) {
        let probe = self.parts.iter().position(|p| p.device == device && p.polled);
        if let Some(known) = self.devices.get_mut(device) {
            known.gone = Some((Retry::first(now), probe.unwrap_or(usize::MAX)));
            known.misses = known.misses.max(MISSES);
        }
    }

    /// What people see of a device: `online`, `suspect` or `offline`.
    #[must_use]
    pub fn word(&self, device: usize) -> &'static str {
        let Some(known) = self.devices.get(device) else { return "online" };
        let missed = (known.recent & ((1 << MEMORY) - 1)).count_ones();
        let mute = self.parts.iter().any(|p| p.device == device && p.mute.is_some());
        match known.gone {
            Some(_) => "offline",
            None if known.misses > 0 || mute || missed > 1 => "suspect",
            None => "online",
        }
    }

    /// Whether a device missed its last exchange: it is asked only with care, whoever asks.
    #[must_use]
    pub fn doubtful(&self, device: usize) -> bool {
        self.devices.get(device).is_some_and(|known| known.gone.is_some() || known.misses > 0)
    }

    /// Whether any block is worth asking at its own times.
    #[must_use]
    pub fn somebody_lives(&self) -> bool {
        let asked = |b: usize| matches!(self.standing(b), Standing::Living | Standing::Suspect { .. });
        (0..self.parts.len()).any(|b| self.parts[b].polled && asked(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: Outcome = Outcome::Silent { cost: Duration::from_millis(500) };
    use Outcome::Answered;

    /// One device with so many blocks.
    fn device(blocks: usize) -> Health {
        let block = Block {
            device: 0,
            points: Vec::new(),
            every: Duration::from_secs(1),
            cost: Duration::ZERO,
            what: String::new(),
        };
        let mut health = Health::new(&vec![block; blocks], 1);
        health.after(0, Some(0), Answered, Instant::now());
        health
    }

    #[test]
    fn who_never_answered_is_offline_at_the_first_miss() {
        let (mut health, now) = (device(1), Instant::now());
        health.devices[0].met = false;
        assert_eq!(health.after(0, Some(0), SILENT, now), Turn::Gone(vec![]));
        // If it has several blocks, at the first miss of its witness.
        let mut health = device(3);
        health.devices[0].met = false;
        assert_eq!(health.after(0, Some(0), SILENT, now), Turn::Witness(1));
        assert_eq!(health.after(0, Some(1), SILENT, now), Turn::Gone(vec![2]));
    }

    #[test]
    fn three_misses_then_rarely_and_back_at_the_first_answer() {
        let now = Instant::now();
        let mut health = device(1);
        for _ in 1..MISSES {
            assert_eq!(health.after(0, Some(0), SILENT, now), Turn::None);
            assert!(matches!(health.standing(0), Standing::Suspect { .. }));
            assert_eq!(health.word(0), "suspect");
        }
        assert_eq!(health.after(0, Some(0), SILENT, now), Turn::Gone(vec![]));
        let mut waits = Vec::new();
        for _ in 0..9 {
            match health.standing(0) {
                Standing::Offline { retry_at, probe: true, .. } => waits.push((retry_at - now).as_secs()),
                other => panic!("{other:?}"),
            }
            assert_eq!(health.after(0, Some(0), SILENT, now), Turn::None);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(health.word(0), "offline");
        assert_eq!(health.after(0, Some(0), Answered, now), Turn::Back);
        assert_eq!(health.standing(0), Standing::Living);
    }

    #[test]
    fn a_single_glitch_is_over_with_the_next_answer() {
        let now = Instant::now();
        let mut health = device(2);
        (0..10).for_each(|_| assert_eq!(health.after(0, Some(0), Answered, now), Turn::None));
        health.after(0, Some(1), SILENT, now);
        assert_ne!(health.word(0), "offline");
        health.after(0, Some(1), Answered, now);
        assert_eq!(health.word(0), "online");
    }

    #[test]
    fn a_device_that_answers_every_third_time_is_never_online_and_never_offline() {
        let now = Instant::now();
        let mut health = device(1);
        for n in 0..60 {
            let outcome = if n % 3 == 2 { Answered } else { SILENT };
            assert_eq!(health.after(0, Some(0), outcome, now), Turn::None);
            assert!(n < 2 || health.word(0) == "suspect", "{n}");
        }
        // With four good answers in a row it is believed again.
        let words: Vec<&str> = (0..5)
            .map(|_| {
                health.after(0, Some(0), Answered, now);
                health.word(0)
            })
            .collect();
        assert_eq!(words, ["suspect", "suspect", "online", "online", "online"]);
    }

    #[test]
    fn a_witness_decides_whether_the_device_is_gone() {
        let now = Instant::now();
        let mut health = device(4);
        let turns: Vec<Turn> = (0..3).map(|_| health.after(0, Some(0), SILENT, now)).collect();
        assert_eq!(turns, [Turn::None, Turn::None, Turn::Witness(1)]);
        // The witness is silent too: gone, and nobody asks the other two.
        assert_eq!(health.after(0, Some(1), SILENT, now), Turn::Gone(vec![2, 3]));
        let standing = |h: &Health| (0..4).filter(|b| h.standing(*b) != Standing::Resting).count();
        assert_eq!(standing(&health), 1);
        // Each probe asks by another block.
        let probes: Vec<usize> = (0..5)
            .map(|_| {
                let probe = (0..4).find(|b| health.standing(*b) != Standing::Resting).expect("one probe");
                health.after(0, Some(probe), SILENT, now);
                probe
            })
            .collect();
        assert_eq!(probes, [0, 1, 2, 3, 0]);
    }

    #[test]
    fn a_mute_range_silences_nothing_else() {
        let now = Instant::now();
        let mut health = device(2);
        (0..3).for_each(|_| drop(health.after(0, Some(0), SILENT, now)));
        assert_eq!(health.after(0, Some(1), Answered, now), Turn::None);
        assert!(matches!(health.standing(0), Standing::Offline { probe: false, .. }));
        assert_eq!(health.standing(1), Standing::Living);
        assert_eq!(health.word(0), "suspect");
        health.after(0, Some(0), Answered, now);
        assert_eq!(health.standing(0), Standing::Living);
    }

    #[test]
    fn after_a_new_plan_mute_stays_what_was_mute_as_a_whole() {
        let now = Instant::now();
        let mut health = device(3);
        (0..3).for_each(|_| drop(health.after(0, Some(0), SILENT, now)));
        health.after(0, Some(1), Answered, now);
        let block = Block {
            device: 0,
            points: Vec::new(),
            every: RETRY_FIRST,
            cost: RETRY_FIRST,
            what: String::new(),
        };
        health.replan(&[block.clone(), block], |new| if new == 0 { vec![0] } else { vec![0, 1] });
        assert!(matches!(health.standing(0), Standing::Offline { .. }));
        assert_eq!(health.standing(1), Standing::Living);
    }
}
