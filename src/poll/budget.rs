//! The bus time that silence may cost, all devices together. Pure: `now` comes in.
//!
//! A bucket of time: it fills by [`RATE`] of what passes, up to [`CREDIT`]; every exchange without an
//! answer is taken out, whoever it was asked for and however unforeseen. Who is known not to answer is
//! asked again only while something is in it; who has only just begun not to answer, until it is
//! overdrawn by [`OVERDRAFT`].
//!
//! So in any stretch `t` at most `CREDIT + OVERDRAFT + RATE × t` and one exchange go to those who were
//! silent before: 3 s of the first minute, 3 % from then on. What can come on top is only the first miss of
//! each device, which nobody can foresee; it is taken out of what the others may cost. And, once a minute, one
//! exchange of at most [`FORGIVEN`]: a lone miss may be confirmed within a second however long its timeout was,
//! or one lost answer would silence a device with a timeout of 2 s for half a minute.
//!
//! Silence for which no living block had to wait costs nobody anything, and a device that loses one answer in ten is no dead
//! one. So it is put on the tab of its device: an answer wipes it out, and only if the device turns out to be gone it is
//! spent. All tabs together have [`TABS`], less what is overdrawn; where many fall silent at once, that is not glitches.

use std::time::Duration;

use tokio::time::Instant;

/// One part in so many of the passing time. The promise is one in 20; the rest is for first misses.
const RATE: u32 = 33;
/// What a quiet time saves up: one timeout of the usual length.
const CREDIT: Duration = Duration::from_millis(500);
/// What finding out whether a device is gone may take before it must be saved up again.
const OVERDRAFT: Duration = Duration::from_millis(500);

/// How long what nobody could foresee keeps everybody silent from being asked.
const LONGEST_PAYBACK: Duration = Duration::from_secs(60);

/// What a lone miss may cost to be confirmed before that is saved up: a twentieth of a minute.
const FORGIVEN: Duration = Duration::from_secs(3);
/// How soon a lone miss may be confirmed, and how often that is granted.
const GRACE: Duration = Duration::from_secs(1);
const GRACE_EVERY: Duration = Duration::from_secs(60);

/// What may be on all tabs: three timeouts of the usual length.
const TABS: Duration = Duration::from_millis(1500);

/// Why somebody is asked who did not answer the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To find out whether it is gone.
    Confirm,
    /// To find out whether it is back.
    Probe,
}

/// The bucket.
#[derive(Debug, Clone)]
pub struct Budget {
    /// When the bucket will have been filled from empty, had it no rim: the debt as a date.
    empty: Instant,
    /// From when on the lone miss may be confirmed whatever is in the bucket.
    grace: Option<Instant>,
    /// When the next one may be granted: a device that answers every other time must not live on it.
    next_grace: Instant,
    /// What the silence of each device has cost while nobody waited for the line, since its last answer.
    tabs: Vec<Duration>,
}

impl Budget {
    /// A full bucket.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let empty = now.checked_sub(CREDIT * RATE).unwrap_or(now);
        Self { empty, grace: None, next_grace: now, tabs: Vec::new() }
    }

    /// When somebody may be asked for this, if nothing else is spent.
    #[must_use]
    pub fn ready(&self, purpose: Purpose) -> Instant {
        match purpose {
            Purpose::Probe => self.empty,
            Purpose::Confirm => {
                // What is on tabs may yet turn out to be silence.
                let empty = self.empty + self.tabs.iter().sum::<Duration>() * RATE;
                let ready = empty.checked_sub(OVERDRAFT * RATE).unwrap_or(empty);
                self.grace.map_or(ready, |grace| grace.min(ready))
            }
        }
    }

    /// An exchange without an answer ended at `now` and cost this much. `foreseen`: it was asked although
    /// the one before had failed.
    pub fn spend(&mut self, cost: Duration, foreseen: bool, now: Instant) {
        // The second miss, of whomever, ends it: then it was no lone one.
        let lone = !foreseen && cost <= FORGIVEN && self.grace.is_none() && now >= self.next_grace;
        self.grace = lone.then_some(now + GRACE);
        if lone {
            self.next_grace = now + GRACE_EVERY;
        }
        let rim = now.checked_sub(CREDIT * RATE).unwrap_or(self.empty);
        let after = self.empty.max(rim) + cost * RATE;
        // Misfortune is paid back too, but nobody is left unasked for longer than a minute because of it.
        self.empty = if foreseen { after } else { after.min(self.empty.max(now + LONGEST_PAYBACK)) };
    }

    /// Whether silence of this length, for which nobody waits, has room on the tabs at `now`.
    #[must_use]
    pub fn tabs_have_room(&self, cost: Duration, now: Instant) -> bool {
        let debt = self.empty.saturating_duration_since(now) / RATE;
        debt + self.tabs.iter().sum::<Duration>() + cost <= TABS
    }

    /// An exchange without an answer, for which nobody had to wait, goes on the tab of its device.
    pub fn put_on_tab(&mut self, device: usize, cost: Duration, now: Instant) {
        self.empty = self.empty.max(now.checked_sub(CREDIT * RATE).unwrap_or(self.empty));
        if self.tabs.len() <= device {
            self.tabs.resize(device + 1, Duration::ZERO);
        }
        self.tabs[device] += cost;
    }

    /// The device has answered: it was no silence.
    pub fn wipe_tab(&mut self, device: usize) {
        self.tabs.get_mut(device).map(std::mem::take);
    }

    /// The device is gone: what is on its tab was silence.
    pub fn settle_tab(&mut self, device: usize, now: Instant) {
        let cost = self.tabs.get_mut(device).map(std::mem::take).unwrap_or_default();
        self.spend(cost, true, now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn three_timeouts_in_a_row_are_affordable_after_a_quiet_time() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut budget = Budget::new(start);
        let mut now = start;
        for miss in 0..3 {
            assert!(budget.ready(Purpose::Confirm) <= now, "miss {miss}");
            now += Duration::from_millis(500);
            budget.spend(Duration::from_millis(500), miss > 0, now);
            now += Duration::from_millis(500);
        }
        assert!(budget.ready(Purpose::Confirm) > now + Duration::from_secs(10));
    }

    #[test]
    fn many_first_misses_keep_nobody_unasked_for_longer_than_a_minute() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut budget = Budget::new(start);
        (0..20).for_each(|_| budget.spend(Duration::from_secs(2), false, start));
        assert_eq!(budget.ready(Purpose::Probe), start + LONGEST_PAYBACK);
        budget.spend(Duration::from_secs(2), true, start);
        budget.spend(Duration::from_secs(2), false, start);
        assert_eq!(budget.ready(Purpose::Probe), start + LONGEST_PAYBACK + Duration::from_secs(66));
    }

    #[test]
    fn a_lone_miss_with_a_long_timeout_is_confirmed_within_a_second_and_no_second_one_is() {
        let start = Instant::now() + Duration::from_secs(100);
        let long = Duration::from_secs(2);
        let mut lost = Budget::new(start);
        lost.spend(long, false, start);
        assert_eq!(lost.ready(Purpose::Confirm), start + GRACE);
        assert!(lost.ready(Purpose::Probe) > start + Duration::from_secs(30), "it is paid for");
        // Another device is silent too, or the confirmation was in vain.
        for foreseen in [false, true] {
            let mut two = lost.clone();
            two.spend(long, foreseen, start + GRACE);
            assert!(two.ready(Purpose::Confirm) > start + Duration::from_secs(30), "{foreseen}");
            two.spend(long, false, start + GRACE_EVERY / 2);
            assert!(two.ready(Purpose::Confirm) > start + GRACE_EVERY, "not twice a minute");
        }
        let mut longer = Budget::new(start);
        longer.spend(FORGIVEN * 2, false, start);
        assert!(longer.ready(Purpose::Confirm) > start + Duration::from_secs(30));
    }

    #[test]
    fn a_tab_is_wiped_out_by_an_answer_and_spent_when_the_device_is_gone() {
        let start = Instant::now() + Duration::from_secs(100);
        let (half, mut budget) = (Duration::from_millis(500), Budget::new(start));
        let full = budget.ready(Purpose::Probe);
        for device in [3, 0] {
            budget.put_on_tab(device, half, start);
        }
        assert!(budget.tabs_have_room(half, start) && !budget.tabs_have_room(half * 2, start));
        assert_eq!(budget.ready(Purpose::Probe), full);
        budget.wipe_tab(0);
        budget.wipe_tab(7);
        assert!(budget.tabs_have_room(half * 2, start));
        budget.settle_tab(3, start);
        assert_eq!(budget.ready(Purpose::Probe), full + half * RATE);
        assert!(budget.tabs_have_room(TABS, start), "nothing is overdrawn yet");
        budget.spend(half, true, start);
        assert!(!budget.tabs_have_room(TABS, start));
    }

    proptest! {
        /// Whoever asks as often as the bucket allows stays within the promise of one twentieth over any
        /// minute, and over the long run within the rate.
        #[test]
        fn no_minute_costs_more_than_a_twentieth_and_the_exchange_begun(cost_ms in 1u64..=500, confirm: bool) {
            let start = Instant::now() + Duration::from_secs(1000);
            let purpose = if confirm { Purpose::Confirm } else { Purpose::Probe };
            let (mut budget, mut now, cost) = (Budget::new(start), start, Duration::from_millis(cost_ms));
            let mut spent: Vec<Instant> = Vec::new();
            while now < start + Duration::from_secs(300) {
                now = now.max(budget.ready(purpose)) + cost;
                budget.spend(cost, true, now);
                spent.push(now);
            }
            for from in &spent {
                let within = spent.iter().filter(|at| *at > from && **at <= *from + Duration::from_secs(60)).count();
                prop_assert!(cost * u32::try_from(within).expect("few") <= Duration::from_secs(3) + cost, "{within}");
            }
            let all = cost * u32::try_from(spent.len()).expect("few");
            prop_assert!(all <= Duration::from_secs(300) / RATE + CREDIT + OVERDRAFT + cost * 2);
        }
    }
}
