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
//! - **What polls know.** A unit that answers a poll is back for clients too, and one that has just missed a
//!   poll is asked for them only out of that twentieth.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::ask::{Carry, Guest};
use super::super::health::{RETRY_FIRST, RETRY_LONGEST};
use crate::bounds;

/// Clients together may hold up polls that are due for one part in so many of the time.
const CLIENTS_SHARE: u32 = 10;
/// A person may for one part in so many: a scan is wanted now, and is over soon.
const PERSONS_SHARE: u32 = 2;
/// A unit that has answered before is silent as a whole after so many misses in a row.
const MISSES: u8 = 3;

/// What guests took of one bus, and what they ask in vain.
#[derive(Debug)]
pub struct Guests {
    /// Before this a poll that is due goes first.
    polls_first_until: Instant,
    /// Units that were asked.
    units: HashMap<u8, Unit>,
    /// Requests that got no answer.
    requests: HashMap<(u8, Vec<u8>), Silence>,
}

#[derive(Debug, Clone, Copy)]
enum Unit {
    /// It has answered, and missed so many since.
    Lives {
        misses: u8,
    },
    Silent(Silence),
}

/// Something that is asked ever more rarely.
#[derive(Debug, Clone, Copy)]
struct Silence {
    retry_at: Instant,
    /// How often it was asked again in vain.
    attempts: u32,
}

impl Silence {
    fn begins(now: Instant) -> Self {
        Self { retry_at: now + RETRY_FIRST, attempts: 0 }
    }

    fn goes_on(self, now: Instant) -> Self {
        let wait = RETRY_FIRST.saturating_mul(2 << self.attempts.min(10)).min(RETRY_LONGEST);
        Self { retry_at: now + wait, attempts: self.attempts.saturating_add(1) }
    }
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

    /// Whether a request is worth sending. What is known to be silent is asked only when the bus can afford it:
    /// from `affordable` on, by the budget that all silent devices of the bus share.
    /// `doubtful`: the polls know that the unit did not answer the last time.
    #[must_use]
    pub fn worth_sending(&self, carry: &Carry, doubtful: bool, now: Instant, affordable: Instant) -> bool {
        let unit = match self.units.get(&carry.unit) {
            Some(Unit::Silent(silence)) => Some(silence),
            Some(Unit::Lives { .. }) | None => None,
        };
        let known = [unit, self.requests.get(&key(carry))];
        carry.guest == Guest::Person
            || ((!doubtful || now >= affordable)
                && known.into_iter().flatten().all(|silence| now >= silence.retry_at.max(affordable)))
    }

    /// A unit answered a poll.
    pub fn seen(&mut self, unit: u8) {
        if let Some(Unit::Silent(_)) = self.units.insert(unit, Unit::Lives { misses: 0 }) {
            // It was gone as a whole and is back as a whole.
            self.requests.retain(|(of, _), _| *of != unit);
        }
    }

    /// A request was sent, and its exchange ended at `now`. Returns whether it cost the bus silence that was to
    /// be foreseen, and so is to be taken out of the budget.
    pub fn sent(&mut self, carry: &Carry, answered: bool, cost: Duration, now: Instant) -> bool {
        let share = match carry.guest {
            Guest::Client => CLIENTS_SHARE,
            Guest::Person => PERSONS_SHARE,
        };
        self.polls_first_until = now + cost * (share - 1);
        match (answered, carry.guest) {
            (true, _) => {
                self.seen(carry.unit);
                self.requests.remove(&key(carry));
                false
            }
            // Nobody scans for ever.
            (false, Guest::Person) => false,
            (false, Guest::Client) => self.silent(carry, now),
        }
    }

    fn silent(&mut self, carry: &Carry, now: Instant) -> bool {
        let (unit, unit_known) = match self.units.get(&carry.unit) {
            Some(Unit::Silent(silence)) => (Unit::Silent(silence.goes_on(now)), true),
            Some(Unit::Lives { misses }) if misses + 1 < MISSES => {
                (Unit::Lives { misses: misses + 1 }, false)
            }
            Some(Unit::Lives { .. }) | None => (Unit::Silent(Silence::begins(now)), false),
        };
        self.units.insert(carry.unit, unit);
        let known = self.requests.get(&key(carry)).copied();
        self.requests.insert(key(carry), known.map_or(Silence::begins(now), |silence| silence.goes_on(now)));
        self.make_room();
        unit_known || known.is_some()
    }

    /// The bus was opened anew: a new chance for everybody.
    pub fn reopen(&mut self) {
        self.units.clear();
        self.requests.clear();
    }

    fn make_room(&mut self) {
        if self.requests.len() > bounds::SHARE_SILENT {
            let soonest = self.requests.iter().min_by_key(|(_, silence)| silence.retry_at);
            if let Some(soonest) = soonest.map(|(key, _)| key.clone()) {
                self.requests.remove(&soonest);
            }
        }
    }
}

/// What tells one question from another: unit, function, address and count.
fn key(carry: &Carry) -> (u8, Vec<u8>) {
    (carry.unit, carry.request.iter().take(5).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::super::super::budget::{Budget, Purpose};
    use super::*;

    const COST: Duration = Duration::from_millis(500);

    fn carry(unit: u8, at: u8, guest: Guest) -> Carry {
        Carry { unit, request: vec![3, 0, at, 0, 1], timeout: COST, guest, not_after: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_unit_is_asked_ever_more_rarely_and_takes_a_twentieth() {
        let start = Instant::now();
        let (mut guests, mut budget, mut now, mut asked) =
            (Guests::new(start), Budget::new(start), start, Vec::new());
        while now < start + Duration::from_secs(1200) {
            // Ten clients that never give up, each with a question of its own.
            let ask = carry(9, u8::try_from(asked.len() % 10).expect("small"), Guest::Client);
            if guests.worth_sending(&ask, false, now, budget.ready(Purpose::Probe)) {
                asked.push(now);
                now += COST;
                if guests.sent(&ask, false, COST, now) {
                    budget.spend(COST, true, now);
                }
            }
            now += Duration::from_millis(10);
        }
        let waits: Vec<f64> = asked.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
        assert!((waits[0] - 1.5).abs() < 0.02 && waits[2] > 9.9, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait < 61.0), "{waits:?}");
        let share = asked.len() as f64 * COST.as_secs_f64() / 1200.0;
        assert!(share <= 0.05, "{share} of the bus for a unit that is not there");
        // And at its first answer everything is as if nothing had been.
        guests.sent(&carry(9, 200, Guest::Client), true, COST, now);
        assert!(guests.worth_sending(
            &carry(9, 201, Guest::Client),
            false,
            now,
            budget.ready(Purpose::Probe)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn one_mute_range_of_a_living_unit_is_left_alone_and_the_rest_is_asked() {
        let now = Instant::now();
        let mut guests = Guests::new(now);
        let (mute, well) = (carry(1, 50, Guest::Client), carry(1, 0, Guest::Client));
        guests.sent(&well, true, COST, now);
        guests.sent(&mute, false, COST, now);
        assert!(!guests.worth_sending(&mute, false, now, now));
        assert!(guests.worth_sending(&well, false, now, now), "one silence is not the end of a unit");
        let later = now + Duration::from_secs(1);
        assert!(guests.worth_sending(&mute, false, later, now));
        guests.sent(&mute, false, COST, later);
        guests.sent(&well, true, COST, later);
        assert!(
            !guests.worth_sending(&mute, false, later + Duration::from_secs(1), now),
            "this waits for longer"
        );
        assert!(guests.worth_sending(&well, false, later, now));
        assert!(
            guests.worth_sending(&carry(1, 50, Guest::Person), false, later, now),
            "a person wants to know"
        );
        // Three different questions in vain: it is the unit.
        for at in 60..63 {
            assert!(guests.worth_sending(&carry(1, at, Guest::Client), false, later, now));
            guests.sent(&carry(1, at, Guest::Client), false, COST, later);
        }
        assert!(!guests.worth_sending(&well, false, later, now));
        // And back as a whole.
        guests.sent(&well, true, COST, later);
        assert!(guests.worth_sending(&mute, false, later, now));
    }

    #[tokio::test(start_paused = true)]
    async fn guests_hold_up_polls_that_are_due_for_their_share_of_the_time_only() {
        let start = Instant::now();
        for (guest, most) in [(Guest::Client, 0.1), (Guest::Person, 0.5)] {
            let mut guests = Guests::new(start);
            let (mut now, mut taken) = (start, Duration::ZERO);
            while now < start + Duration::from_secs(60) {
                if guests.may_go_first(now) {
                    taken += COST / 10;
                    now += COST / 10;
                    guests.sent(&carry(1, 0, guest), true, COST / 10, now);
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
        let mut guests = Guests::new(now);
        for unit in 0..=255 {
            for at in 0..8 {
                guests.sent(&carry(unit, at, Guest::Client), false, COST, now);
            }
        }
        assert_eq!(guests.requests.len(), bounds::SHARE_SILENT);
    }
}
