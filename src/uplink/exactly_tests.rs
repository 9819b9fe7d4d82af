//! Exchanges against a broker that obeys the specification, with connections that break and processes that are killed at
//! any moment: whatever happens, each number is accepted once.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::exactly::{Exchanges, Footing, NoSession, Outcome, Receipt};
use crate::store::{Exchange, Step};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packet {
    Publish(u16, u64),
    Pubrec(u16),
    Pubrel(u16),
    Pubcomp(u16),
}

/// Both ends, the wire between them, and what is durable at ours.
struct World {
    ours: Exchanges,
    durable: Vec<Exchange>,
    delivered: BTreeSet<u64>,
    there: VecDeque<Packet>,
    back: VecDeque<Packet>,
    held: BTreeSet<u16>,
    accepted: Vec<u64>,
    next: u64,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            ours: Exchanges::new(&Footing::New("k".into()), vec![], Duration::ZERO, now),
            durable: vec![],
            delivered: BTreeSet::new(),
            there: VecDeque::new(),
            back: VecDeque::new(),
            held: BTreeSet::new(),
            accepted: vec![],
            next: 1,
            now,
        }
    }

    fn number(&self, id: u16) -> u64 {
        self.durable.iter().find(|open| open.id == id).expect("it was noted").range.start
    }

    fn note(&mut self, step: &Step) {
        for open in &mut self.durable {
            open.received |= step.received.contains(&open.id);
        }
        for sent in &step.sent {
            assert!(
                self.durable.iter().all(|open| open.id != sent.id),
                "an id that is open is not given out"
            );
        }
        self.durable.extend(step.sent.iter().cloned());
    }

    /// A step to the disk; `lost`: we are killed before anything of it goes out.
    fn step(&mut self, lost: bool) {
        let Some(step) = self.ours.step(self.now) else { return };
        self.note(&step);
        if lost {
            return self.kill();
        }
        let Outcome { publish, plain, release, ending } = self.ours.noted();
        assert!(plain.is_empty() && ending.iter().all(|exchange| release.contains(&exchange.id)));
        for id in release {
            assert!(self.durable.iter().any(|open| open.id == id && open.received), "noted before");
            self.there.push_back(Packet::Pubrel(id));
        }
        for id in publish {
            let number = self.number(id);
            self.there.push_back(Packet::Publish(id, number));
        }
    }

    fn stage(&mut self) {
        if !self.ours.holds_back(self.now) && self.ours.is_on(self.now) {
            self.ours.stage(self.next..self.next + 1, false);
            self.next += 1;
        }
    }

    fn again(&mut self) {
        if let Some(Exchange { id, range, .. }) = self.ours.next_again(self.now).cloned() {
            self.ours.sent_again(id);
            self.there.push_back(Packet::Publish(id, range.start));
        }
    }

    fn broker(&mut self) {
        match self.there.pop_front() {
            Some(Packet::Publish(id, number)) => {
                if self.held.insert(id) {
                    self.accepted.push(number);
                }
                self.back.push_back(Packet::Pubrec(id));
            }
            Some(Packet::Pubrel(id)) => {
                self.held.remove(&id);
                self.back.push_back(Packet::Pubcomp(id));
            }
            Some(Packet::Pubrec(_) | Packet::Pubcomp(_)) | None => {}
        }
    }

    /// `twice`: the broker says it twice.
    fn hear(&mut self, twice: bool) {
        let Some(packet) = self.back.pop_front() else { return };
        for _ in 0..=u8::from(twice) {
            match packet {
                Packet::Pubrec(id) => {
                    if self.ours.received(id) == Receipt::Stray {
                        self.there.push_back(Packet::Pubrel(id));
                    }
                }
                Packet::Pubcomp(id) => {
                    if self.ours.completed(id) {
                        let number = self.number(id);
                        assert!(self.delivered.insert(number), "{number} is delivered once");
                        self.durable.retain(|open| open.id != id);
                    }
                }
                Packet::Publish(..) | Packet::Pubrel(_) => {}
            }
        }
    }

    /// The connection and all that is not durable are gone. What was staged and not noted is taken anew: it is still pending.
    fn kill(&mut self) {
        self.there.clear();
        self.back.clear();
        let noted = self.durable.iter().map(|open| open.range.start).chain(self.delivered.iter().copied());
        let staged_from = noted.max().map_or(1, |last| last + 1);
        self.next = staged_from;
        self.ours = Exchanges::new(&Footing::Resumed, self.durable.clone(), Duration::ZERO, self.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn each_number_is_accepted_once_whatever_breaks(moves in prop::collection::vec((0u8..24, any::<bool>()), 0..300)) {
        let rt = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let _in = rt.enter();
        let mut world = World::new();
        for (what, twice) in moves {
            match what {
                0..6 => world.stage(),
                6..10 => world.step(false),
                10 => world.step(true),
                11..16 => world.broker(),
                16..20 => world.hear(twice),
                20..23 => world.again(),
                _ => world.kill(),
            }
        }
        for _ in 0..2000 {
            world.step(false);
            world.again();
            world.broker();
            world.hear(false);
        }
        prop_assert!(world.durable.is_empty() && world.held.is_empty(), "{:?} {:?}", world.durable, world.held);
        let mut sorted = world.accepted.clone();
        sorted.sort_unstable();
        let all: Vec<u64> = (1..world.next).collect();
        prop_assert_eq!(&sorted, &all);
        prop_assert_eq!(&world.accepted, &all, "and in order");
        prop_assert_eq!(world.delivered, all.into_iter().collect::<BTreeSet<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_noted_goes_plain_in_order_and_what_was_received_is_released() {
    let now = Instant::now();
    let mut ours = Exchanges::new(&Footing::Resumed, vec![], Duration::ZERO, now);
    assert!(ours.step(now).is_some());
    assert_eq!(ours.noted(), Outcome::default());
    let first = ours.stage(1..2, false);
    assert!(ours.step(now).is_some());
    assert_eq!(ours.noted().publish, [first]);
    let [second, third] = [2, 3].map(|n| ours.stage(n..n + 1, false));
    assert!(ours.step(now).is_some());
    let fourth = ours.stage(4..5, false);
    assert_eq!(ours.received(first), Receipt::News);
    let until = now + Duration::from_secs(1);
    let outcome = ours.not_noted(until).expect("the session stands");
    assert_eq!((outcome.plain, outcome.release), (vec![second, third, fourth], vec![first]));
    assert!(!ours.is_on(now) && ours.is_on(until) && ours.completed(first));
    assert_eq!((ours.step(now), ours.into_ids()), (None, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_cannot_be_noted_is_none_and_readings_wait_for_it_until_then() {
    let now = Instant::now();
    let mut ours = Exchanges::new(&Footing::New("k".into()), vec![], Duration::ZERO, now);
    assert!(ours.holds_back(now));
    assert_eq!(ours.step(now).and_then(|step| step.begin), Some("k".to_owned()));
    assert_eq!(ours.not_noted(now), Err(NoSession));
    let clean = Exchanges::new(&Footing::Clean, vec![], Duration::ZERO, now);
    assert!(!clean.holds_back(now) && !clean.is_on(now) && !clean.is_kept());
}

#[tokio::test(start_paused = true)]
async fn steps_keep_their_distance() {
    let now = Instant::now();
    let every = Duration::from_millis(50);
    let mut ours = Exchanges::new(&Footing::Resumed, vec![], every, now);
    assert!(ours.step(now).is_some());
    ours.noted();
    ours.stage(1..2, true);
    assert_eq!((ours.step(now), ours.next_wake(now)), (None, Some(now + every)));
    assert_eq!(ours.step(now + every).map(|step| step.sent.len()), Some(1));
    assert_eq!(ours.next_wake(now), None, "what is under way wakes by itself");
    ours.noted();
    ours.worth(4);
    let second = ours.stage(2..3, true);
    assert_eq!(ours.step(now + every), None, "one is not worth it");
    ours.stage(3..4, true);
    assert_eq!(ours.step(now + every).map(|step| step.sent.len()), Some(2), "half a window is");
    assert_eq!(ours.noted().publish[0], second);
}
