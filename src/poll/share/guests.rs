//! What others may take of a bus: when a guest's request goes before a poll, and which are not worth sending.
//! Pure: `now` comes in.
//!
//! - **Turns.** While no poll is due, a guest's request goes at once. While one is, a guest goes first only as
//!   long as guests have had less than their share of the time: a tenth for clients, half for a person. So a
//!   greedy client gets what the polls leave, and an overloaded bus still answers it now and then.
//! - **Silence.** A request that got no answer is answered for the unit without asking it, for a growing while,
//!   as a silent device is polled: 1 s, 2 s, … 60 s, and out of the same twentieth of the bus's time. So is every
//!   request of a unit that never answered any, or has missed three in a row: a living unit may have a range that
//!   it never answers, and that must not silence the rest of it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::ask::{Carry, Guest};
use super::super::health::{DeadBudget, Health, Outcome};
use crate::bounds;

/// Clients together may hold up polls that are due for one part in so many of the time.
const CLIENTS_SHARE: u32 = 10;
/// A person may for one part in so many: a scan is wanted now, and is over soon.
const PERSONS_SHARE: u32 = 2;

/// What guests took of one bus, and what they ask in vain.
#[derive(Debug)]
pub struct Guests {
    /// Before this a poll that is due goes first.
    polls_first_until: Instant,
    /// Units that were asked.
    units: HashMap<u8, Health>,
    /// Requests that got no answer.
    requests: HashMap<(u8, Vec<u8>), Health>,
}

impl Guests {
    /// Nobody has asked for anything yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { polls_first_until: now, units: HashMap::new(), requests: HashMap::new() }
    }

    /// Whether a guest's request may go before a poll that is due.
    #[must_use]
    pub fn may_go_first(&self, now: Instant) -> bool {
        now >= self.polls_first_until
    }

    /// Whether a request is worth sending. `budget` is that of all silent devices of the bus.
    #[must_use]
    pub fn worth_sending(&self, carry: &Carry, now: Instant, budget: &DeadBudget) -> bool {
        if carry.guest == Guest::Person {
            return true;
        }
        let known = [self.units.get(&carry.unit), self.requests.get(&key(carry))];
        known.into_iter().flatten().all(|health| match health {
            Health::Offline { retry_at, .. } => now >= *retry_at && now >= budget.not_before(),
            Health::Online | Health::Suspect { .. } => true,
        })
    }

    /// A request was sent, and this came of it at `now`.
    pub fn sent(
        &mut self,
        carry: &Carry,
        outcome: Outcome,
        cost: Duration,
        now: Instant,
        budget: &mut DeadBudget,
    ) {
        let share = match carry.guest {
            Guest::Client => CLIENTS_SHARE,
            Guest::Person => PERSONS_SHARE,
        };
        self.polls_first_until = now + cost * (share - 1);
        match (outcome, carry.guest) {
            (Outcome::Answered, _) => {
                let before = self.units.insert(carry.unit, Health::Online);
                if before.is_some_and(Health::is_offline) {
                    // It was gone as a whole and is back as a whole.
                    self.requests.retain(|(unit, _), _| *unit != carry.unit);
                }
                self.requests.remove(&key(carry));
            }
            (Outcome::Silent { .. }, Guest::Person) => {}
            (Outcome::Silent { .. }, Guest::Client) => {
                let before = [self.units.get(&carry.unit), self.requests.get(&key(carry))];
                if before.into_iter().flatten().any(|health| health.is_offline()) {
                    budget.spend(cost, now);
                }
                let unit = self.units.get(&carry.unit).copied();
                let lived = unit.is_some_and(|health| !health.is_offline());
                let after = unit.unwrap_or(Health::Online).after(outcome, now, !lived);
                self.units.insert(carry.unit, after);
                let request = self.requests.entry(key(carry)).or_insert(Health::Online);
                *request = request.after(outcome, now, true);
                self.make_room();
            }
        }
    }

    /// The bus was opened anew: a new chance for everybody.
    pub fn reopen(&mut self) {
        self.units.clear();
        self.requests.clear();
    }

    fn make_room(&mut self) {
        if self.requests.len() <= bounds::SHARE_SILENT {
            return;
        }
        let retry = |health: &Health| match health {
            Health::Offline { retry_at, .. } => Some(*retry_at),
            Health::Online | Health::Suspect { .. } => None,
        };
        let soonest =
            self.requests.iter().min_by_key(|(_, health)| retry(health)).map(|(key, _)| key.clone());
        if let Some(soonest) = soonest {
            self.requests.remove(&soonest);
        }
    }
}

/// What tells one question from another: unit, function, address and count.
fn key(carry: &Carry) -> (u8, Vec<u8>) {
    (carry.unit, carry.request.iter().take(5).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Duration = Duration::from_millis(500);
    const SILENT: Outcome = Outcome::Silent { cost: COST };

    fn carry(unit: u8, at: u8, guest: Guest) -> Carry {
        Carry { unit, request: vec![3, 0, at, 0, 1], timeout: COST, guest, not_after: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_unit_is_asked_ever_more_rarely_and_takes_a_twentieth() {
        let start = Instant::now();
        let (mut guests, mut budget, mut now, mut asked) =
            (Guests::new(start), DeadBudget::new(start), start, Vec::new());
        while now < start + Duration::from_secs(1200) {
            // Ten clients that never give up, each with a question of its own.
            let ask = carry(9, u8::try_from(asked.len() % 10).expect("small"), Guest::Client);
            if guests.worth_sending(&ask, now, &budget) {
                asked.push(now);
                now += COST;
                guests.sent(&ask, SILENT, COST, now, &mut budget);
            }
            now += Duration::from_millis(10);
        }
        let waits: Vec<f64> = asked.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
        assert!((waits[0] - 1.5).abs() < 0.02 && waits[1] > 9.9, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait < 61.0), "{waits:?}");
        let share = asked.len() as f64 * COST.as_secs_f64() / 1200.0;
        assert!(share <= 0.05, "{share} of the bus for a unit that is not there");
        // And at its first answer everything is as if nothing had been.
        guests.sent(&carry(9, 200, Guest::Client), Outcome::Answered, COST, now, &mut budget);
        assert!(guests.worth_sending(&carry(9, 201, Guest::Client), now, &budget));
    }

    #[tokio::test(start_paused = true)]
    async fn one_mute_range_of_a_living_unit_is_left_alone_and_the_rest_is_asked() {
        let now = Instant::now();
        let (mut guests, mut budget) = (Guests::new(now), DeadBudget::new(now));
        let (mute, well) = (carry(1, 50, Guest::Client), carry(1, 0, Guest::Client));
        guests.sent(&well, Outcome::Answered, COST, now, &mut budget);
        guests.sent(&mute, SILENT, COST, now, &mut budget);
        assert!(!guests.worth_sending(&mute, now, &budget));
        assert!(guests.worth_sending(&well, now, &budget), "one silence is not the end of a unit");
        let later = now + Duration::from_secs(1);
        assert!(guests.worth_sending(&mute, later, &budget));
        guests.sent(&mute, SILENT, COST, later, &mut budget);
        guests.sent(&well, Outcome::Answered, COST, later, &mut budget);
        assert!(
            !guests.worth_sending(&mute, later + Duration::from_secs(1), &budget),
            "this waits for longer"
        );
        assert!(guests.worth_sending(&well, later, &budget));
        assert!(guests.worth_sending(&carry(1, 50, Guest::Person), later, &budget), "a person wants to know");
        // Three different questions in vain: it is the unit.
        for at in 60..63 {
            assert!(guests.worth_sending(&carry(1, at, Guest::Client), later, &budget));
            guests.sent(&carry(1, at, Guest::Client), SILENT, COST, later, &mut budget);
        }
        assert!(!guests.worth_sending(&well, later, &budget));
        // And back as a whole.
        guests.sent(&well, Outcome::Answered, COST, later, &mut budget);
        assert!(guests.worth_sending(&mute, later, &budget));
    }

    #[tokio::test(start_paused = true)]
    async fn guests_hold_up_polls_that_are_due_for_their_share_of_the_time_only() {
        let start = Instant::now();
        for (guest, most) in [(Guest::Client, 0.1), (Guest::Person, 0.5)] {
            let (mut guests, mut budget) = (Guests::new(start), DeadBudget::new(start));
            let (mut now, mut taken) = (start, Duration::ZERO);
            while now < start + Duration::from_secs(60) {
                if guests.may_go_first(now) {
                    taken += COST / 10;
                    now += COST / 10;
                    guests.sent(&carry(1, 0, guest), Outcome::Answered, COST / 10, now, &mut budget);
                } else {
                    now += Duration::from_millis(10);
                }
            }
            let share = taken.as_secs_f64() / 60.0;
            assert!(share <= most + 0.001 && share > most * 0.8, "{guest:?}: {share}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_of_silent_requests_is_bounded() {
        let now = Instant::now();
        let (mut guests, mut budget) = (Guests::new(now), DeadBudget::new(now));
        for unit in 0..=255 {
            for at in 0..8 {
                guests.sent(&carry(unit, at, Guest::Client), SILENT, COST, now, &mut budget);
            }
        }
        assert_eq!(guests.requests.len(), bounds::SHARE_SILENT);
    }
}
