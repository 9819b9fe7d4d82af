//! Who may use the next free place of the in-flight window. Pure.
//!
//! The rule: the window (W messages) is shared by three classes. Each is promised a quarter (at least
//! one place) as long as W is 4 or more:
//! - **live** keeps its quarter free even when it has nothing to send, so a new reading never waits
//!   for an acknowledgement of the backlog; beyond that it goes first.
//! - **control** (status, meta, events, loss records) and **backlog** keep theirs only while they have
//!   something to send, so nothing is starved by a busy live lane; all the rest is theirs too.
//!
//! With fewer than 4 places they take turns: of four messages at most two are not live, one of each.

/// A class of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// What was taken since the connection stands; with `order = "strict"` everything.
    Live = 0,
    /// Status, meta, events, results and loss records.
    Control = 1,
    /// What was taken while the uplink was down.
    Backlog = 2,
}

/// All classes, in the order they are asked.
pub const CLASSES: [Class; 3] = [Class::Live, Class::Control, Class::Backlog];

/// Picks the class for the next free place, or `None` if nobody may send now.
///
/// `used` and `wants` are indexed by class; `turn` counts the messages sent on this connection.
#[must_use]
pub fn pick(window: usize, used: [usize; 3], wants: [bool; 3], turn: u64) -> Option<Class> {
    let total: usize = used.iter().sum();
    if total >= window {
        return None;
    }
    if window < 4 {
        let first = match turn % 4 {
            1 => Class::Control,
            3 => Class::Backlog,
            _ => Class::Live,
        };
        return std::iter::once(first).chain(CLASSES).find(|c| wants[*c as usize]);
    }
    let quarter = window / 4;
    let kept = |class: Class| {
        let keeps = class == Class::Live || wants[class as usize];
        if keeps { quarter.saturating_sub(used[class as usize]) } else { 0 }
    };
    CLASSES.into_iter().filter(|c| wants[*c as usize]).find(|class| {
        let for_others: usize = CLASSES.into_iter().filter(|c| c != class).map(kept).sum();
        let lives_is_safe = *class == Class::Live || window - total > kept(Class::Live);
        lives_is_safe && (used[*class as usize] < quarter || window - total > for_others)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn live_finds_a_free_place_behind_any_backlog() {
        let mut used = [0; 3];
        let mut turn = 0;
        while let Some(class) = pick(20, used, [false, false, true], turn) {
            used[class as usize] += 1;
            turn += 1;
        }
        assert_eq!(used, [0, 0, 15]);
        assert_eq!(pick(20, used, [true, false, true], turn), Some(Class::Live));
    }

    #[test]
    fn a_busy_live_lane_leaves_the_backlog_its_quarter() {
        let mut used = [0; 3];
        while let Some(class) = pick(20, used, [true, false, true], 0) {
            used[class as usize] += 1;
        }
        assert_eq!(used, [15, 0, 5]);
    }

    proptest! {
        #[test]
        fn the_window_is_never_exceeded_and_nobody_waits_for_ever(
            window in 1usize..200,
            wants in prop::array::uniform3(any::<bool>()),
            acks in prop::collection::vec(0usize..3, 0..300),
        ) {
            let mut used = [0usize; 3];
            let mut sent = [0u64; 3];
            let mut turn = 0;
            for ack in acks.into_iter().chain([0, 1, 2].into_iter().cycle().take(window * 4 + 24)) {
                while let Some(class) = pick(window, used, wants, turn) {
                    prop_assert!(wants[class as usize]);
                    used[class as usize] += 1;
                    sent[class as usize] += 1;
                    turn += 1;
                    prop_assert!(used.iter().sum::<usize>() <= window);
                }
                // An acknowledgement of some class that has something in flight.
                if let Some(class) = (0..3).map(|k| (ack + k) % 3).find(|c| used[*c] > 0) {
                    used[class] -= 1;
                }
            }
            for class in CLASSES {
                prop_assert_eq!(sent[class as usize] > 0, wants[class as usize]);
            }
        }
    }
}
