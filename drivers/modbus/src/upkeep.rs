//! The chores that come again and again, as the plan shows them: powers of ten that no block covers, and looks
//! whether a model is where it was. Pure. `chores` does them; setup and the way to the models are done once.

use std::collections::BTreeMap;
use std::time::Duration;

use driver_api::Chore;

use crate::chores::HEAD_AGE;
use crate::compile::{Compiled, RENEWED, described};
use crate::place::Space;
use crate::plan::Span;

/// What is read of the head of a model: its number and its length.
pub(crate) const HEAD: Span = Span { start: 0, len: 2 };

/// Longest that chores may hold up the line, however much time the plan leaves: somebody may want to write.
const LONGEST: Duration = Duration::from_millis(300);
/// Before a poll both the chores and the search for its model may go on so long: half of what is left stays free.
const PARTS: f64 = 4.0;

impl Compiled {
    /// The blocks are as they are to be: what depends on them is found out.
    pub fn planned(&mut self) {
        self.spare = self.spare_of();
        self.plan.chores = self.chores();
    }

    /// How long the chores before one poll may go on: a part of the time that the blocks leave, in equal shares for
    /// all polls of the bus. So all devices may have chores at once, and no poll misses its turn.
    fn spare_of(&self) -> Duration {
        let blocks = || self.plan.blocks.iter();
        let polls: f64 = blocks().map(|block| 1.0 / block.every.as_secs_f64().max(0.001)).sum();
        let left = 1.0 - blocks().map(driver_api::Block::load).sum::<f64>();
        Duration::try_from_secs_f64(left / PARTS / polls).unwrap_or(Duration::ZERO).min(LONGEST)
    }

    /// How often each chore is done, if every poll comes in time.
    fn chores(&self) -> Vec<Chore> {
        (0..self.devices.len()).flat_map(|device| self.chores_of(device)).collect()
    }

    fn chores_of(&self, device: usize) -> Vec<Chore> {
        let periods: Vec<Duration> =
            self.plan.blocks.iter().filter(|block| block.device == device).map(|block| block.every).collect();
        let Some(fastest) = periods.iter().min().copied() else { return Vec::new() };
        let pace = self.planned_for[device];
        let chore = |space: Space, span: Span, every: Duration, purpose: String| Chore {
            device,
            every,
            cost: pace.read(span.len, space.area().bits()),
            what: described(space, span),
            purpose,
        };
        let extras: Vec<_> = self.extras.iter().filter(|extra| extra.device == device).collect();
        let longest =
            extras.iter().map(|extra| pace.read(extra.run.span.len, false)).max().unwrap_or_default();
        let at_once = 1 + self.spare.as_nanos() / longest.as_nanos().max(1);
        let in_turn = extras.len().div_ceil(usize::try_from(at_once).unwrap_or(usize::MAX));
        let renewed = powers_every(&periods, fastest, in_turn);
        let mut chores = Vec::new();
        // For each model how often it is asked for, and whether its head is seen with its values in time.
        let mut models: BTreeMap<Space, (Duration, bool)> = BTreeMap::new();
        let mut asked = |space: Space, every: Duration, seen: bool| {
            if let Space::Model(_) = space {
                let known = models.entry(space).or_insert((every, false));
                *known = (known.0.min(every), known.1 || (seen && every <= HEAD_AGE));
            }
        };
        for extra in extras {
            let count = extra.run.wanted.len();
            let purpose =
                if count == 1 { "1 power of ten".to_owned() } else { format!("{count} powers of ten") };
            chores.push(chore(extra.space, extra.run.span, renewed, purpose));
            asked(extra.space, renewed, false);
        }
        let blocks = self.plan.blocks.iter().zip(&self.blocks).filter(|(block, _)| block.device == device);
        for (block, (space, run)) in blocks {
            asked(*space, block.every, self.devices[device].with_head(*space, run.span).is_some());
        }
        for (space, (every, seen)) in models {
            if !seen {
                chores.push(chore(space, HEAD, after(HEAD_AGE, every), "where the model is".to_owned()));
            }
        }
        chores
    }
}

/// How often powers of ten are read: at the first poll when they are due, and it takes so many polls to read all.
fn powers_every(periods: &[Duration], fastest: Duration, in_turn: usize) -> Duration {
    let polls: f64 = periods.iter().map(|every| 1.0 / every.as_secs_f64().max(0.001)).sum();
    #[expect(clippy::cast_precision_loss, reason = "a device has far fewer than 2^52 of them")]
    let in_turn = Duration::try_from_secs_f64(in_turn as f64 / polls).unwrap_or(Duration::MAX);
    let rounds = RENEWED.as_nanos().div_ceil(fastest.as_nanos().max(1));
    fastest.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX)).max(in_turn)
}

/// The first poll of those every `every` when `age` is over.
fn after(age: Duration, every: Duration) -> Duration {
    let whole = age.as_nanos() / every.as_nanos().max(1);
    every.saturating_mul(u32::try_from(whole).unwrap_or(u32::MAX).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn powers_of_ten_are_read_every_twenty_seconds_or_as_often_as_there_is_a_poll_for_them() {
        for (periods, extras, every) in
            [(vec![1], 1, 20), (vec![1, 5], 3, 20), (vec![20], 1, 20), (vec![15], 1, 30), (vec![60], 3, 180)]
        {
            let periods: Vec<Duration> = periods.into_iter().map(Duration::from_secs).collect();
            assert_eq!(powers_every(&periods, periods[0], extras), S * every, "{periods:?} {extras}");
        }
    }

    #[test]
    fn a_head_is_looked_at_with_the_first_poll_after_a_minute() {
        assert_eq!(
            [1, 45, 60, 300].map(|every| after(HEAD_AGE, S * every)),
            [61, 90, 120, 300].map(|s| S * s)
        );
    }
}
