//! Whether a block is worth asking, decided from outcomes alone. Pure: `now` comes in.
//!
//! Health belongs to a block, not to a device: a living device may have one range that it never
//! answers, and that must neither silence the others nor cost the bus more than a dead device.

use std::time::Duration;

use tokio::time::Instant;

/// How one block of a device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Answers.
    Online,
    /// Missed some polls; still asked at the full rate.
    Suspect {
        /// How many in a row.
        misses: u8,
    },
    /// Asked rarely, so that one dead slave does not slow the whole line.
    Offline {
        /// When it is asked next.
        retry_at: Instant,
        /// How many attempts failed since it went offline.
        attempts: u32,
    },
}

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

/// One glitch is not an outage.
pub const MISSES_BEFORE_OFFLINE: u8 = 3;
/// The first retry of a device that went offline.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait between two retries.
pub const RETRY_LONGEST: Duration = Duration::from_secs(60);
/// Dead devices together get one part in so many of the bus's time.
pub const DEAD_SHARE: u32 = 20;

impl Health {
    /// The state after an exchange that ended at `now`. `device_silent`: the whole device has missed
    /// [`MISSES_BEFORE_OFFLINE`] exchanges in a row, so that one miss of this block is enough.
    #[must_use]
    pub fn after(self, outcome: Outcome, now: Instant, device_silent: bool) -> Self {
        match (self, outcome) {
            (_, Outcome::Answered) => Self::Online,
            (Self::Online | Self::Suspect { .. }, Outcome::Silent { .. }) if device_silent => {
                Self::Offline { retry_at: now + RETRY_FIRST, attempts: 0 }
            }
            (Self::Online, Outcome::Silent { .. }) => Self::Suspect { misses: 1 },
            (Self::Suspect { misses }, Outcome::Silent { .. }) if misses + 1 < MISSES_BEFORE_OFFLINE => {
                Self::Suspect { misses: misses + 1 }
            }
            (Self::Suspect { .. }, Outcome::Silent { .. }) => {
                Self::Offline { retry_at: now + RETRY_FIRST, attempts: 0 }
            }
            (Self::Offline { attempts, .. }, Outcome::Silent { .. }) => {
                let wait = RETRY_FIRST.saturating_mul(2 << attempts.min(10)).min(RETRY_LONGEST);
                Self::Offline { retry_at: now + wait, attempts: attempts.saturating_add(1) }
            }
        }
    }

    /// Whether it is asked only now and then.
    #[must_use]
    pub fn is_offline(self) -> bool {
        matches!(self, Self::Offline { .. })
    }
}

/// What an operator sees of a device with these blocks: `online`, `suspect` (some of it does not
/// answer) or `offline` (none of it does).
#[must_use]
pub fn word(blocks: impl Iterator<Item = Health>) -> &'static str {
    let (mut online, mut offline, mut any) = (true, true, false);
    for health in blocks {
        any = true;
        online &= health == Health::Online;
        offline &= health.is_offline();
    }
    if online {
        "online"
    } else if offline && any {
        "offline"
    } else {
        "suspect"
    }
}

/// The bus time that dead devices may take together: after a probe that cost `c`, the next one of
/// any dead device waits until `c` is one twentieth of what has passed.
#[derive(Debug, Clone, Copy)]
pub struct DeadBudget {
    not_before: Instant,
}

impl DeadBudget {
    /// A full budget.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { not_before: now }
    }
    /// When the next probe of a dead device is affordable.
    #[must_use]
    pub fn not_before(&self) -> Instant {
        self.not_before
    }
    /// A probe of a dead device ended at `now` and cost this much.
    pub fn spend(&mut self, cost: Duration, now: Instant) {
        self.not_before = now + cost * (DEAD_SHARE - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: Outcome = Outcome::Silent { cost: Duration::from_millis(500) };

    #[tokio::test(start_paused = true)]
    async fn three_misses_then_rarely_and_back_at_the_first_answer() {
        let now = Instant::now();
        let mut health = Health::Online;
        for misses in 1..MISSES_BEFORE_OFFLINE {
            health = health.after(SILENT, now, false);
            assert_eq!(health, Health::Suspect { misses });
        }
        let mut waits = Vec::new();
        for _ in 0..9 {
            health = health.after(SILENT, now, false);
            match health {
                Health::Offline { retry_at, .. } => waits.push((retry_at - now).as_secs()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(health.after(Outcome::Answered, now, true), Health::Online);
    }

    #[tokio::test(start_paused = true)]
    async fn where_the_device_is_silent_one_miss_is_enough() {
        let now = Instant::now();
        assert!(Health::Online.after(SILENT, now, true).is_offline());
        let (online, gone) = (Health::Online, Health::Online.after(SILENT, now, true));
        assert_eq!(word([online, online].into_iter()), "online");
        assert_eq!(word([online, gone].into_iter()), "suspect");
        assert_eq!(word([gone, gone].into_iter()), "offline");
    }

    #[tokio::test(start_paused = true)]
    async fn probes_of_the_dead_never_exceed_their_share() {
        let start = Instant::now();
        let mut budget = DeadBudget::new(start);
        let (mut now, mut spent) = (start, Duration::ZERO);
        for _ in 0..50 {
            now = now.max(budget.not_before());
            let cost = Duration::from_millis(500);
            now += cost;
            spent += cost;
            budget.spend(cost, now);
            let share = spent.as_secs_f64() / (budget.not_before() - start).as_secs_f64();
            assert!(share <= 1.0 / f64::from(DEAD_SHARE) + 1e-9, "{share}");
        }
    }
}
