//! What reading a block has taught: the parts in which it is read, and which of them the device refuses. Pure.
//!
//! What a device refuses is a fact about its registers and not about one block, so it is handed on ([`Facts`]) when
//! the bus is planned anew.

use std::collections::BTreeMap;
use std::time::Duration;

use driver_api::exception::ILLEGAL_ADDRESS;
use tokio::time::Instant;

use crate::plan::{Run, Span, run_of, split};
use crate::sunspec::Model;

/// How long a refusal within a block is believed. Learning a block anew costs at most one request for every
/// point of it and every gap between them, which is nothing every ten minutes.
pub(crate) const ASK_AGAIN: Duration = Duration::from_secs(600);

/// One block and what was learned about it.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// How it is read, in address order; empty before it is first read.
    pub parts: Vec<Part>,
    /// When it is tried as a whole again; `None` while no part is refused.
    again: Option<Instant>,
    /// That it is split was logged since the bus was opened.
    told: bool,
    /// What it earned when it was refused as a whole, and how long that is believed.
    whole: Option<(u8, Instant)>,
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
        (self.again, self.whole) = (None, None);
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
            self.whole = Some((code, now + ASK_AGAIN));
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
        let inside = |want: &usize| spans.get(*want).is_some_and(|span| span.end() <= model.registers());
        let (within, beyond): (Vec<usize>, Vec<usize>) = run.wanted.iter().copied().partition(inside);
        let span = |want: usize| spans.get(want).copied().unwrap_or(run.span);
        [(within, None), (beyond, Some(ILLEGAL_ADDRESS))]
            .into_iter()
            .filter(|(wants, _)| !wants.is_empty())
            .map(|(wants, refused)| Self { run: run_of(span, wants), refused })
            .collect()
    }
}

/// What the blocks of one address space of a device have taught, for other blocks over the same registers.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// For each want the block and the part that it was read in.
    parts: BTreeMap<usize, Home>,
    /// Stretches between two parts of a block: from one behind the first to the beginning of the second.
    holes: Vec<(u32, u32)>,
    told: bool,
    blocks: usize,
}

/// Where a want was read.
#[derive(Debug, Clone, Copy)]
struct Home {
    block: usize,
    part: usize,
    /// What that earned, and when it is asked for again if that was said.
    refused: Option<(u8, Option<Instant>)>,
}

impl Facts {
    /// Adds what one block has taught.
    pub fn note(&mut self, learned: &Learned, now: Instant) {
        let block = self.blocks;
        self.blocks += 1;
        self.told |= learned.told;
        let whole = learned.whole.filter(|(_, until)| now < *until).map(|(code, until)| (code, Some(until)));
        let mut end = 0;
        for (part, Part { run, refused }) in learned.parts.iter().enumerate() {
            let refused = refused.map(|code| (code, learned.again)).or(whole);
            self.parts.extend(run.wanted.iter().map(|want| (*want, Home { block, part, refused })));
            if part > 0 && end < u32::from(run.span.start) {
                self.holes.push((end, run.span.start.into()));
            }
            end = end.max(run.span.end());
        }
    }

    /// What is known of a new block that would be read in these parts; nothing if no fact concerns it.
    pub fn of(&self, whole: Vec<Part>, spans: &[Span]) -> Learned {
        let mut learned = Learned { told: self.told, ..Learned::default() };
        let mut concerned = false;
        for part in whole {
            if part.refused.is_some() {
                learned.parts.push(part);
                continue;
            }
            let pieces = self.pieces(&part.run, spans);
            for wants in &pieces {
                let refused =
                    wants.first().and_then(|want| self.parts.get(want)).and_then(|home| home.refused);
                if let Some((_, Some(again))) = refused {
                    learned.again = Some(learned.again.map_or(again, |known| known.min(again)));
                }
                concerned |= refused.is_some() || pieces.len() > 1;
                let run = run_of(|want| spans.get(want).copied().unwrap_or(part.run.span), wants.clone());
                learned.parts.push(Part { run, refused: refused.map(|(code, _)| code) });
            }
        }
        if !concerned {
            learned.parts.clear();
        }
        learned
    }

    /// The wants of a run, in stretches that the device may give at once for all that is known.
    fn pieces(&self, run: &Run, spans: &[Span]) -> Vec<Vec<usize>> {
        let mut pieces: Vec<Vec<usize>> = Vec::new();
        let (mut end, mut before): (u32, Option<Home>) = (0, None);
        for want in run.wanted.iter().copied() {
            let span = spans.get(want).copied().unwrap_or(run.span);
            let home = self.parts.get(&want).copied();
            let refused = |home: Option<Home>| home.and_then(|home| home.refused);
            let split =
                matches!((before, home), (Some(a), Some(b)) if a.block == b.block && a.part != b.part);
            let apart = split || refused(before) != refused(home);
            match pieces.last_mut() {
                Some(piece) if !apart && !self.across(run.span, end, span.start.into()) => piece.push(want),
                _ => pieces.push(vec![want]),
            }
            end = end.max(span.end());
            before = home;
        }
        pieces
    }

    /// Whether the gap from `end` to `start` of a run is part of a hole that the run would read all of.
    fn across(&self, run: Span, end: u32, start: u32) -> bool {
        let mut holes =
            self.holes.iter().filter(|(from, to)| u32::from(run.start) <= *from && *to <= run.end());
        holes.any(|(from, to)| end.max(*from) < start.min(*to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wants and their spans: 0, 1, 2..4, 10, 20.
    const SPANS: [Span; 5] = [
        Span { start: 0, len: 1 },
        Span { start: 1, len: 1 },
        Span { start: 2, len: 2 },
        Span { start: 10, len: 1 },
        Span { start: 20, len: 1 },
    ];

    fn whole(wants: &[usize]) -> Vec<Part> {
        vec![Part::new(run_of(|want| SPANS[want], wants.to_vec()))]
    }

    /// The wants of each part, and what it earned.
    fn told(learned: &Learned) -> Vec<(Vec<usize>, Option<u8>)> {
        learned.parts.iter().map(|part| (part.run.wanted.clone(), part.refused)).collect()
    }

    #[test]
    fn another_block_over_the_same_hole_is_read_around_it_from_the_start() {
        let (mut facts, now) = (Facts::default(), Instant::now());
        // A hole between 4 and 10; the other block was read as one.
        let mut over = Learned { parts: whole(&[0, 2, 3]), ..Learned::default() };
        assert_eq!(over.refuse(0, 2, true, &SPANS, now), Refusal::Split { parts: 3, first: true });
        facts.note(&over, now);
        facts.note(&Learned { parts: whole(&[1, 4]), ..Learned::default() }, now);
        // 0 and 2 were apart because of the gap between them; 1 is in that gap and was read elsewhere.
        let all = facts.of(whole(&[0, 1, 2, 3, 4]), &SPANS);
        assert_eq!(told(&all), [(vec![0, 1, 2], None), (vec![3, 4], None)]);
        assert_eq!(all.parts[1].run.span, Span { start: 10, len: 11 });
        assert_eq!(told(&facts.of(whole(&[1, 4]), &SPANS)), [(vec![1], None), (vec![4], None)], "across it");
        assert_eq!(told(&facts.of(whole(&[3, 4]), &SPANS)), [], "nothing is known against it");
    }

    #[test]
    fn what_is_refused_alone_stays_refused_until_it_was_to_be_asked_for() {
        let (mut facts, now) = (Facts::default(), Instant::now());
        let mut block = Learned { parts: whole(&[0, 1, 2]), ..Learned::default() };
        block.refuse(0, 2, true, &SPANS, now);
        assert_eq!(block.refuse(1, 2, true, &SPANS, now), Refusal::Left);
        let mut alone = Learned { parts: whole(&[4]), ..Learned::default() };
        assert_eq!(alone.refuse(0, 3, true, &SPANS, now), Refusal::Whole);
        let later = now + Duration::from_secs(100);
        facts.note(&block, later);
        facts.note(&alone, later);
        let mut all = facts.of(whole(&[0, 1, 2, 3, 4]), &SPANS);
        let known = [(vec![0], None), (vec![1], Some(2)), (vec![2, 3], None), (vec![4], Some(3))];
        assert_eq!(told(&all), known);
        all.refresh(|| whole(&[0]), now + ASK_AGAIN - Duration::from_secs(1));
        assert_eq!(told(&all), known);
        all.refresh(|| whole(&[0]), now + ASK_AGAIN);
        assert_eq!(told(&all), [(vec![0], None)], "not ten minutes after the new plan");
        let mut facts = Facts::default();
        facts.note(&alone, now + ASK_AGAIN);
        assert_eq!(told(&facts.of(whole(&[3, 4]), &SPANS)), [], "that was long ago");
    }

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
