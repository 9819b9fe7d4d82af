//! What a device shall hold before it is of use: looked at, written where it differs, and read back. Pure.
//!
//! Every step is one exchange, and the caller makes at most one before each poll, so a long setup holds up
//! nobody. What the device already holds is not written: its EEPROM has a life of some 100,000 writes. A step
//! that fails is told once, and tried again when the device comes back; a value that the device does not keep
//! is given up for good, or a device that comes and goes would be written to each time.

use driver_api::exception::{Exception, Reaction};

use crate::place::Place;
use crate::write::Change;

/// One thing that a device shall hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub place: Place,
    pub change: Change,
}

impl Target {
    /// How many registers or coils are to be looked at.
    pub fn len(&self) -> u16 {
        match &self.change {
            Change::Registers(words) => u16::try_from(words.len()).unwrap_or(u16::MAX),
            Change::Coil(_) | Change::Bits(_) => 1,
        }
    }

    /// Whether the device holds it already. A coil is one word, 0 or 1.
    pub fn holds(&self, words: &[u16]) -> bool {
        match &self.change {
            Change::Registers(wanted) => wanted == words,
            Change::Coil(on) => words == [u16::from(*on)],
            Change::Bits(pattern) => matches!(words, [word] if pattern.apply(*word) == *word),
        }
    }
}

/// The next exchange of a setup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Look at it.
    Look,
    /// Send the nth of the requests that write it.
    Write(usize),
}

/// How an exchange went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was looked at, and is as it should be or not.
    Holds(bool),
    /// It was written; `more` of the value's requests are to come.
    Written { more: bool },
    /// The device refused, or could not now.
    Exception(u8),
    /// Nothing usable came back.
    Silent,
}

/// What a person should hear of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// It was written and read back.
    Set,
    /// It was given up until the device comes back.
    Failed(String),
    /// It was written, and reads back as another: it is not written any more.
    NotKept,
}

/// Exchanges of one kind that a step may need: a device may be busy, or slow to take a value over.
const TRIES: u8 = 3;
/// A step without an answer this often is given up, while the device answers other questions.
const SILENCES: u8 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Look,
    Write(usize),
    LookAgain,
    Settled,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    phase: Phase,
    tries: u8,
    silences: u8,
    /// Its failure was told, and it has not succeeded since.
    told: bool,
    /// How often it was written, perhaps in vain, since the device last held it.
    unproven: u8,
    /// The device does not keep it. This is remembered for as long as the configuration is.
    given_up: bool,
}

/// Nothing is known of it yet.
const FRESH: Step =
    Step { phase: Phase::Look, tries: 0, silences: 0, told: false, unproven: 0, given_up: false };

/// How far the setup of one device has come.
#[derive(Debug)]
pub(crate) struct Progress {
    steps: Vec<Step>,
}

impl Progress {
    /// Nothing is done yet of so many steps.
    pub fn new(steps: usize) -> Self {
        Self { steps: vec![FRESH; steps] }
    }

    /// The device was away: what it holds is not known any more.
    pub fn again(&mut self) {
        for step in &mut self.steps {
            *step = Step { phase: Phase::Look, tries: 0, silences: 0, ..*step };
        }
    }

    /// The first step that is not settled and can be done now, and its exchange.
    pub fn next(&self, possible: impl Fn(usize) -> bool) -> Option<(usize, Action)> {
        self.steps.iter().enumerate().find_map(|(index, step)| {
            let action = match step.phase {
                Phase::Look | Phase::LookAgain => Action::Look,
                Phase::Write(part) => Action::Write(part),
                Phase::Settled => return None,
            };
            possible(index).then_some((index, action))
        })
    }

    /// A step had its exchange. What it came to, if it is worth a line in the log.
    pub fn after(&mut self, index: usize, outcome: Outcome) -> Option<News> {
        let step = self.steps.get_mut(index)?;
        match (step.phase, outcome) {
            (Phase::Settled, _) => None,
            (Phase::Look, Outcome::Holds(true)) => {
                step.held();
                step.go(Phase::Settled)
            }
            (Phase::Look, Outcome::Holds(false)) if step.given_up || step.unproven >= TRIES => step.give_up(),
            (Phase::Look, Outcome::Holds(false)) => {
                // Silences still count: it may be the write that is never answered.
                (step.phase, step.tries) = (Phase::Write(0), 0);
                None
            }
            (Phase::Write(part), Outcome::Written { more: true }) => step.go(Phase::Write(part + 1)),
            (Phase::Write(_), Outcome::Written { more: false }) => {
                step.unproven = step.unproven.saturating_add(1);
                step.go(Phase::LookAgain)
            }
            (Phase::LookAgain, Outcome::Holds(true)) => {
                step.held();
                step.go(Phase::Settled);
                Some(News::Set)
            }
            (Phase::LookAgain, Outcome::Holds(false)) => {
                step.tries += 1;
                if step.tries >= TRIES { step.give_up() } else { None }
            }
            (_, Outcome::Silent) => step.silent("no answer"),
            (phase, Outcome::Exception(code)) => {
                let exception = Exception::of(code);
                let writing = matches!(phase, Phase::Write(_));
                match if writing { exception.write } else { exception.read } {
                    Reaction::Refused | Reaction::RefusedHere => step.fail(&exception.to_string()),
                    Reaction::NextTurn | Reaction::SoonAgain => step.tried(&exception.to_string()),
                    // It has the value and works on it; looking again tells.
                    Reaction::Working => {
                        step.unproven = step.unproven.saturating_add(u8::from(writing));
                        step.go(Phase::LookAgain)
                    }
                    Reaction::Silent => step.silent(&exception.to_string()),
                }
            }
            // The caller did something else than it was told; the step stays where it is.
            (Phase::Look | Phase::LookAgain, Outcome::Written { .. })
            | (Phase::Write(_), Outcome::Holds(_)) => None,
        }
    }
}

impl Step {
    fn go(&mut self, phase: Phase) -> Option<News> {
        (self.phase, self.tries, self.silences) = (phase, 0, 0);
        None
    }

    fn tried(&mut self, why: &str) -> Option<News> {
        self.tries += 1;
        if self.tries >= TRIES { self.fail(why) } else { None }
    }

    /// The device holds it.
    fn held(&mut self) {
        (self.told, self.unproven) = (false, 0);
    }

    /// Nothing came back. A write may have arrived all the same: only a look tells whether another is needed.
    fn silent(&mut self, why: &str) -> Option<News> {
        if let Phase::Write(_) = self.phase {
            self.unproven = self.unproven.saturating_add(1);
            self.phase = Phase::Look;
        }
        self.silences += 1;
        if self.silences >= SILENCES { self.fail(why) } else { None }
    }

    /// It is looked at when the device comes back, and not written any more.
    fn give_up(&mut self) -> Option<News> {
        self.given_up = true;
        self.fail("").map(|_| News::NotKept)
    }

    fn fail(&mut self, why: &str) -> Option<News> {
        self.phase = Phase::Settled;
        let news = (!self.told).then(|| News::Failed(why.to_owned()));
        self.told = true;
        news
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: fn(usize) -> bool = |_| true;
    const DONE: Outcome = Outcome::Written { more: false };

    #[test]
    fn what_the_device_holds_already_is_not_written() {
        let mut setup = Progress::new(2);
        assert_eq!(setup.next(ALL), Some((0, Action::Look)));
        assert_eq!(setup.after(0, Outcome::Holds(true)), None);
        assert_eq!(setup.next(ALL), Some((1, Action::Look)));
        assert_eq!(setup.after(1, Outcome::Holds(true)), None);
        assert_eq!(setup.next(ALL), None);
    }

    #[test]
    fn what_differs_is_written_and_read_back() {
        let mut setup = Progress::new(1);
        setup.after(0, Outcome::Holds(false));
        assert_eq!(setup.next(ALL), Some((0, Action::Write(0))));
        setup.after(0, Outcome::Written { more: true });
        assert_eq!(setup.next(ALL), Some((0, Action::Write(1))));
        setup.after(0, DONE);
        assert_eq!(setup.next(ALL), Some((0, Action::Look)));
        assert_eq!(setup.after(0, Outcome::Holds(true)), Some(News::Set));
        assert_eq!(setup.next(ALL), None);
    }

    #[test]
    fn a_failure_is_told_once_and_tried_again_when_the_device_comes_back() {
        let mut setup = Progress::new(2);
        let refused = News::Failed("exception 02 (illegal data address)".to_owned());
        assert_eq!(setup.after(0, Outcome::Exception(2)), Some(refused.clone()));
        assert_eq!(setup.next(ALL), Some((1, Action::Look)), "the others are still set");
        setup.again();
        assert_eq!(setup.next(ALL), Some((0, Action::Look)));
        assert_eq!(setup.after(0, Outcome::Exception(2)), None, "it was told");
        setup.again();
        setup.after(0, Outcome::Holds(true));
        setup.again();
        assert_eq!(setup.after(0, Outcome::Exception(2)), Some(refused), "it had been good meanwhile");
    }

    #[test]
    fn a_busy_device_is_asked_three_times_and_one_at_work_is_looked_at_again() {
        let mut setup = Progress::new(1);
        setup.after(0, Outcome::Holds(false));
        assert_eq!(setup.after(0, Outcome::Exception(6)), None);
        assert_eq!(setup.after(0, Outcome::Exception(6)), None);
        assert_eq!(setup.next(ALL), Some((0, Action::Write(0))));
        assert!(
            matches!(setup.after(0, Outcome::Exception(6)), Some(News::Failed(why)) if why.contains("busy"))
        );
        let mut setup = Progress::new(1);
        setup.after(0, Outcome::Holds(false));
        setup.after(0, Outcome::Exception(5));
        assert_eq!(setup.next(ALL), Some((0, Action::Look)));
        // It may take a moment before the new value shows.
        assert_eq!(setup.after(0, Outcome::Holds(false)), None);
        assert_eq!(setup.after(0, Outcome::Holds(true)), Some(News::Set));
    }

    #[test]
    fn a_step_that_cannot_be_done_yet_lets_the_next_one_pass() {
        let setup = Progress::new(2);
        assert_eq!(setup.next(|step| step > 0), Some((1, Action::Look)));
    }

    #[test]
    fn a_write_without_an_answer_is_followed_by_a_look() {
        let mut setup = Progress::new(1);
        setup.after(0, Outcome::Holds(false));
        assert_eq!(setup.after(0, Outcome::Silent), None);
        assert_eq!(setup.next(ALL), Some((0, Action::Look)));
        setup.after(0, Outcome::Holds(false));
        assert_eq!(setup.next(ALL), Some((0, Action::Write(0))), "it had not arrived");
        assert!(matches!(setup.after(0, Outcome::Silent), Some(News::Failed(_))), "and is not sent for ever");
    }

    #[test]
    fn a_value_that_is_not_kept_is_not_written_at_each_comeback() {
        let mut setup = Progress::new(1);
        setup.after(0, Outcome::Holds(false));
        setup.after(0, DONE);
        assert_eq!(setup.after(0, Outcome::Holds(false)), None);
        assert_eq!(setup.after(0, Outcome::Holds(false)), None);
        assert_eq!(setup.after(0, Outcome::Holds(false)), Some(News::NotKept));
        setup.again();
        assert_eq!(setup.after(0, Outcome::Holds(false)), None, "it was told");
        assert_eq!(setup.next(ALL), None);
    }

    #[test]
    fn a_device_that_goes_away_after_each_write_is_written_to_three_times() {
        let mut setup = Progress::new(1);
        for _ in 0..3 {
            setup.after(0, Outcome::Holds(false));
            assert_eq!(setup.after(0, DONE), None);
            setup.again();
        }
        assert_eq!(setup.after(0, Outcome::Holds(false)), Some(News::NotKept));
    }

    proptest! {
        #[test]
        fn no_outcomes_keep_a_setup_busy_for_ever(
            outcomes in prop::collection::vec((0u8..4, any::<u8>(), any::<bool>()), 200),
        ) {
            let mut setup = Progress::new(3);
            for (what, code, yes) in outcomes {
                let Some((step, action)) = setup.next(ALL) else { break };
                setup.after(step, match (what, action) {
                    (0, _) => Outcome::Silent,
                    (1, _) => Outcome::Exception(code),
                    (_, Action::Look) => Outcome::Holds(yes),
                    // A value has at most a few requests.
                    (_, Action::Write(part)) => Outcome::Written { more: yes && part < 5 },
                });
            }
            prop_assert_eq!(setup.next(ALL), None);
        }
    }
}
