//! Late answers, and why they are never believed.
//!
//! An RTU answer carries no number of its request. If request 1 times out and its answer comes while
//! request 2 waits, and both ask the same unit for equally many registers with the same function,
//! nothing in the frame tells them apart. So this driver remembers what may still come:
//!
//! - Every request that got no believed answer leaves a **debt**: the look of its answer.
//! - Before a request whose own answer would look like a debt of its unit, a **fence** is asked: a
//!   short read whose answer looks like no debt. Units answer in order, so once the fence is
//!   answered nothing older can come, and the unit's debts are gone. So they are after any
//!   other believed answer.
//! - An exception looks the same for every request of a function; while a debt of that function is
//!   open, it is reported but nothing is learned from it.
//! - A fence that is not answered leaves a debt too, so that the next one looks different.
//! - A debt lapses [`LAPSE`] after its request. If every fence is used up, or the unit has
//!   [`MAX_DEBTS`], it is left alone until one does.
//!
//! Pure, but for the clock that it is told.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::pdu::Expect;

/// How long after its request an answer may still come. Slaves answer within a second or not at all;
/// converters with a queue have been seen to hold a frame for several.
pub(crate) const LAPSE: Duration = Duration::from_secs(10);

/// Most debts of one unit. Full means that this unit, and no other, is left alone until one lapses; a
/// silent unit polled every 600 ms comes that far. At worst 247 units × 16 × 64 B = 250 KiB.
const MAX_DEBTS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Debts {
    owed: VecDeque<(Expect, Instant)>,
}

/// What must happen before a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing: its answer cannot be mistaken.
    Nothing,
    /// This must be answered first; what it says is of no interest.
    Fence(Vec<u8>),
    /// Nothing can be asked that could not be mistaken.
    Wait,
}

impl Debts {
    /// Notes that the answer to a request may still come.
    pub fn owe(&mut self, expect: Expect, now: Instant) {
        self.owed.retain(|(e, _)| *e != expect);
        self.owed.push_back((expect, now + LAPSE));
    }

    /// Whether an answer of this unit may still come.
    pub fn owed_by(&self, unit: u8) -> bool {
        self.owed.iter().any(|(e, _)| e.unit() == unit)
    }

    /// The unit has answered a later request: nothing older can come.
    pub fn settle(&mut self, unit: u8) {
        self.owed.retain(|(e, _)| e.unit() != unit);
    }

    /// Whether an exception answering `expect` could answer an older request.
    pub fn refusal_is_doubtful(&self, expect: &Expect) -> bool {
        self.owed.iter().any(|(e, _)| e.same_function(expect))
    }

    /// What must happen before the request with this PDU goes to `unit`.
    pub fn before(&mut self, unit: u8, pdu: &[u8], now: Instant) -> Before {
        self.owed.retain(|(_, until)| *until > now);
        let free = |pdu: &[u8]| {
            Expect::answer_to(unit, pdu).is_some_and(|e| self.owed.iter().all(|(owed, _)| *owed != e))
        };
        if self.owed.iter().filter(|(e, _)| e.unit() == unit).count() >= MAX_DEBTS {
            return Before::Wait;
        }
        if free(pdu) {
            return Before::Nothing;
        }
        fences(pdu).find(|fence| free(fence)).map_or(Before::Wait, Before::Fence)
    }
}

/// Reads near what the request is about, the most harmless first: a part of it, the sister table (whose
/// refusal is an answer as good as any), other parts, then a little beyond it.
fn fences(pdu: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let word = |at: usize| pdu.get(at..at + 2).map(|w| u16::from_be_bytes([w[0], w[1]]));
    let at = word(1).unwrap_or(0);
    let (read, sister, len, step) = match pdu.first() {
        Some(1) => (1, 2, word(3).unwrap_or(1), 8),
        Some(2) => (2, 1, word(3).unwrap_or(1), 8),
        Some(5 | 15) => (1, 2, 8, 8),
        Some(4) => (4, 3, word(3).unwrap_or(1), 1),
        Some(3) => (3, 4, word(3).unwrap_or(1), 1),
        Some(6 | 16 | 22 | 23) => (3, 4, 2, 1),
        _ => (3, 4, 1, 1),
    };
    let ask = move |function: u8, count: u16| {
        let ([a, b], [c, d]) = (at.to_be_bytes(), count.to_be_bytes());
        vec![function, a, b, c, d]
    };
    let parts = (1..len).step_by(step.into());
    let beyond = (1..=8).map(move |n| len.saturating_add(n * step));
    let beyond = beyond.filter(move |n| *n <= 125 * step && u32::from(at) + u32::from(*n) <= 0x1_0000);
    // A device that gives no part gives none of them: the sister table is the second.
    let mut parts = parts.map(move |n| ask(read, n));
    parts.next().into_iter().chain([ask(sister, 1)]).chain(parts).chain(beyond.map(move |n| ask(read, n)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pdu(function: u8, at: u16, count: u16) -> Vec<u8> {
        [&[function], at.to_be_bytes().as_slice(), count.to_be_bytes().as_slice()].concat()
    }

    fn look(unit: u8, pdu: &[u8]) -> Expect {
        Expect::answer_to(unit, pdu).expect("a request")
    }

    #[test]
    fn only_what_looks_the_same_is_fenced() {
        let (mut debts, now) = (Debts::default(), Instant::now());
        let asked = pdu(3, 0, 4);
        debts.owe(look(1, &asked), now);
        assert_eq!(debts.before(2, &asked, now), Before::Nothing, "another unit");
        assert_eq!(debts.before(1, &pdu(3, 9, 5), now), Before::Nothing);
        assert_eq!(debts.before(1, &pdu(4, 9, 4), now), Before::Nothing);
        assert!(debts.refusal_is_doubtful(&look(1, &pdu(3, 9, 5))));
        assert_eq!(debts.before(1, &pdu(3, 100, 4), now), Before::Fence(pdu(3, 100, 1)));
        assert_eq!(debts.before(1, &asked, now + LAPSE), Before::Nothing, "it lapsed");
        debts.owe(look(1, &asked), now);
        debts.settle(1);
        assert_eq!(debts.before(1, &asked, now), Before::Nothing, "it was settled");
    }

    #[test]
    fn a_single_register_has_fences_too() {
        let (mut debts, now) = (Debts::default(), Instant::now());
        let asked = pdu(3, 65_535, 1);
        debts.owe(look(1, &asked), now);
        let fence = pdu(4, 65_535, 1);
        assert_eq!(debts.before(1, &asked, now), Before::Fence(fence.clone()));
        debts.owe(look(1, &fence), now);
        assert_eq!(debts.before(1, &asked, now), Before::Wait);
        assert_eq!(debts.before(1, &asked, now + LAPSE), Before::Nothing);
    }

    #[test]
    fn a_unit_with_too_many_debts_is_left_alone_and_no_other() {
        let (mut debts, now) = (Debts::default(), Instant::now());
        for n in 1..=16 {
            let asked = pdu(3, 0, n);
            assert_eq!(debts.before(1, &asked, now), Before::Nothing);
            debts.owe(look(1, &asked), now + Duration::from_millis(n.into()));
        }
        let next = pdu(3, 0, 50);
        assert_eq!(debts.before(1, &next, now), Before::Wait);
        assert_eq!(debts.before(2, &next, now), Before::Nothing);
        assert_eq!(debts.before(1, &next, now + LAPSE + Duration::from_millis(1)), Before::Nothing);
    }

    proptest! {
        #[test]
        fn nothing_is_ever_asked_whose_answer_looks_like_a_debt(
            asks in prop::collection::vec((1u8..3, 0u16..5, 1u16..6, 0u8..5), 1..200),
        ) {
            let now = Instant::now();
            let mut debts = Debts::default();
            let mut open: Vec<Expect> = Vec::new();
            for (unit, at, len, what) in asks {
                let request = match what {
                    0 => pdu(1, at, len),
                    1 => pdu(4, at, len),
                    2 => pdu(6, at, len),
                    3 => pdu(5, at, if len % 2 == 0 { 0xFF00 } else { 0 }),
                    _ => pdu(3, at, len),
                };
                let asked = match debts.before(unit, &request, now) {
                    Before::Nothing => request,
                    Before::Fence(fence) => fence,
                    Before::Wait => continue,
                };
                let expect = look(unit, &asked);
                prop_assert!(!open.contains(&expect), "{asked:?}");
                open.push(expect.clone());
                debts.owe(expect, now);
            }
        }
    }
}
