//! What reading a block has taught: the parts in which it is read, and which of them the device refuses. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::plan::{Run, Span, split};
use crate::sunspec::Model;

/// How long a refusal within a block is believed. Learning a block anew costs at most one request for every
/// point of it and every gap between them, which is nothing every ten minutes.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(600);

/// The exception of what is not there.
pub(crate) const ILLEGAL_ADDRESS: u8 = 2;

/// One block and what was learned about it.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// How it is read, in address order; empty before it is first read.
    pub parts: Vec<Part>,
    /// When it is tried as a whole again; `None` while no part is refused.
    again: Option<Instant>,
    /// That it is split was logged since the bus was opened.
    told: bool,
}

/// One read of a block. At first there is one for the whole block.
#[derive(Debug)]
pub(crate) struct Part {
    pub run: Run,
    /// The exception that this part earned, and is not asked for the time being.
    pub refused: Option<u8>,
}

/// What follows from a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The part is read in so many parts from now on; `first`: it is the first split since the bus was opened.
    Split { parts: usize, first: bool },
    /// The part is left alone.
    Left,
    /// The block is refused as a whole.
    Whole,
}

impl Learned {
    /// Begins anew where nothing is known, or where it is time to ask for the whole again.
    pub fn refresh(&mut self, whole: impl FnOnce() -> Vec<Part>, now: Instant) {
        if self.parts.is_empty() || self.again.take_if(|at| *at <= now).is_some() {
            self.parts = whole();
        }
    }

    /// What is known of its parts is forgotten.
    pub fn forget(&mut self) {
        self.parts.clear();
        self.again = None;
    }

    /// The nth part was refused; `here`: perhaps only in this extent.
    pub fn refuse(&mut self, part: usize, code: u8, here: bool, spans: &[Span], now: Instant) -> Refusal {
        let alone = self.parts.len() == 1;
        let Some(refused) = self.parts.get_mut(part) else { return Refusal::Left };
        if here && let Some(runs) = split(spans, &refused.run) {
            let parts = runs.len();
            self.parts.splice(part..=part, runs.into_iter().map(Part::new));
            return Refusal::Split { parts, first: !std::mem::replace(&mut self.told, true) };
        }
        if alone {
            return Refusal::Whole;
        }
        refused.refused = Some(code);
        self.again.get_or_insert_with(|| now + ASK_AGAIN);
        Refusal::Left
    }
}

impl Part {
    pub fn new(run: Run) -> Self {
        Self { run, refused: None }
    }

    /// A run inside a model: what is inside is read, what would lie behind its end is not there. Behind it stands
    /// another model, whose registers would be taken for values of this one.
    pub fn of_model(run: &Run, spans: &[Span], model: Model) -> Vec<Self> {
        let inside = |want: &&usize| spans.get(**want).is_some_and(|span| span.end() <= model.registers());
        let cover = |wants: Vec<usize>| {
            let covered = || wants.iter().filter_map(|want| spans.get(*want));
            let start = covered().map(|span| span.start).min()?;
            let end = covered().map(|span| span.end()).max()?;
            let len = u16::try_from(end - u32::from(start)).ok()?;
            Some(Run { span: Span { start, len }, wanted: wants })
        };
        let (within, beyond): (Vec<&usize>, Vec<&usize>) = run.wanted.iter().partition(inside);
        let part = |wants: Vec<&usize>, refused| {
            cover(wants.into_iter().copied().collect()).map(|run| Self { run, refused })
        };
        [part(within, None), part(beyond, Some(ILLEGAL_ADDRESS))].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_behind_the_end_of_a_model_is_not_read() {
        let spans = [(2, 1), (50, 2), (51, 1), (52, 1)].map(|(start, len)| Span { start, len });
        let run = Run { span: Span { start: 2, len: 51 }, wanted: vec![0, 1, 2, 3] };
        // Registers 0 to 51.
        let parts = Part::of_model(&run, &spans, Model { id: 103, at: 40_070, len: 50 });
        let told: Vec<_> = parts.iter().map(|p| (p.run.span, p.run.wanted.clone(), p.refused)).collect();
        assert_eq!(
            told,
            [
                (Span { start: 2, len: 50 }, vec![0, 1, 2], None),
                (Span { start: 52, len: 1 }, vec![3], Some(ILLEGAL_ADDRESS)),
            ]
        );
        let parts = Part::of_model(&run, &spans, Model { id: 103, at: 40_070, len: 51 });
        assert_eq!(parts.len(), 1, "all of it");
    }
}
