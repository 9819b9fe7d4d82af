//! Suspicion over whole links that are as bad as links are: nothing is given up but what the broker will not have.
//!
//! [`World`] plays the session, the log and the link, in steps of one round trip.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::tests::{RETRY, TICK, batch, suspicion};
use super::*;

/// When a link is cut: told what this connection has carried so far, and what has just been sent.
type Cut = Box<dyn FnMut(Carried, &Outgoing) -> bool>;

/// An uplink whose readings take turns on three topics.
struct World {
    s: Suspicion,
    now: Instant,
    /// Not acknowledged and not lost.
    pending: BTreeSet<u64>,
    next: u64,
    delivered: BTreeSet<u64>,
    lost: Vec<u64>,
    /// Tries that were made.
    tries: usize,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let (pending, next) = ((1..31).collect(), 31);
        Self { s: suspicion(now), now, pending, next, delivered: BTreeSet::new(), lost: Vec::new(), tries: 0 }
    }

    fn message(seq: u64) -> Outgoing {
        let bytes = if seq == 11 { 3000 } else { 50 };
        batch(seq..seq + 1, ["a", "b", "c"][(seq % 3) as usize], bytes)
    }

    /// One connection, at most so many round trips; `cut` ends it.
    fn connection(&mut self, most: u32, cut: &mut Cut) {
        self.now += RETRY;
        let since = self.now;
        let (pending, first) = (self.pending.clone(), self.pending.first().copied());
        self.s.connected(|r| pending.contains(&r.start), first, self.now);
        let mut todo: VecDeque<u64> = self.pending.iter().copied().collect();
        let (mut flying, mut carried): (Vec<Outgoing>, Carried) = (Vec::new(), Carried::default());
        for _ in 0..most {
            self.now += TICK;
            for message in std::mem::take(&mut flying) {
                let Cargo::Readings(range) = &message.cargo else { continue };
                self.pending.remove(&range.start);
                self.delivered.insert(range.start);
                carried.messages += 1;
                carried.bytes += (message.payload.len() + message.topic.len()) as u64;
                let released = self.s.acked(&message, Some(range.end));
                released.iter().rev().for_each(|(_, range)| todo.push_front(range.start));
            }
            self.pending.insert(self.next);
            todo.push_back(self.next);
            self.next += 1;
            let window = if self.s.is_careful() { 1 } else { 4 };
            match self.s.step(true, todo.is_empty(), self.now) {
                Step::Wait => {}
                Step::Go(message) => {
                    self.tries += 1;
                    flying.push(*message);
                }
                Step::None => {
                    while flying.len() < window
                        && let Some(seq) = todo.pop_front()
                    {
                        flying.extend(self.s.let_pass(Self::message(seq), true, self.now));
                    }
                }
            }
            carried.time = self.now - since;
            if flying.iter().any(|message| cut(carried, message)) {
                self.now += TICK;
                let found = self.s.ended(Ending::Closed, &flying, (true, false), self.now);
                let lost = found.map(|f| f.lost).unwrap_or_default();
                self.lost.extend(lost.into_iter().flatten().inspect(|n| assert!(self.pending.remove(n))));
                return;
            }
        }
        drop(self.s.ended(Ending::Asked, &flying, (true, false), self.now));
    }
}

#[test]
fn a_message_at_which_the_broker_closes_is_the_only_one_that_is_given_up() {
    let mut world = World::new();
    let mut cut: Cut = Box::new(|_, message| message.payload.len() > 1000);
    for _ in 0..40 {
        world.connection(3000, &mut cut);
    }
    assert_eq!(world.lost, [11]);
    assert!((1..100).filter(|n| *n != 11).all(|n| world.delivered.contains(&n)));
}

#[test]
fn a_link_that_cuts_after_so_many_messages_bytes_or_seconds_takes_nothing() {
    for limit in [1u32, 2, 5, 20, 22, 50, 200] {
        let cuts: [(&str, Cut); 4] = [
            ("messages", Box::new(move |c, _| c.messages >= u64::from(limit))),
            ("bytes", Box::new(move |c, m| c.bytes + m.payload.len() as u64 > u64::from(limit) * 50)),
            ("time", Box::new(move |c, _| c.time >= TICK * limit)),
            ("every reading", Box::new(|_, _| true)),
        ];
        for (what, mut cut) in cuts {
            let mut world = World::new();
            for _ in 0..100 {
                world.connection(1000, &mut cut);
            }
            assert_eq!(world.lost, Vec::<u64>::new(), "after {limit} {what}, {} tries", world.tries);
        }
    }
}

/// Of a link that cuts whenever it likes a try is hit now and then by chance; so the moments are the same in every run.
#[test]
fn a_link_that_is_cut_at_random_takes_nothing() {
    let lives = (1u32..200).prop_flat_map(|mean| prop::collection::vec(1..2 * mean + 1, 20..120));
    let config = Config { cases: 100, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let ran = runner.run(&lives, |lives| {
        let mut world = World::new();
        for life in lives {
            let mut cut: Cut = Box::new(move |c, _| c.time >= TICK * life);
            world.connection(2000, &mut cut);
        }
        prop_assert_eq!(world.lost, Vec::<u64>::new());
        Ok(())
    });
    ran.expect("nothing is given up");
}
