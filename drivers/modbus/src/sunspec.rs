//! The chain of models by which a SunSpec device describes itself, and the walk along it. Pure.
//!
//! From the *SunSpec Device Information Model Specification* V1.1: at holding register 40000, 50000 or 0
//! stands `SunS`; behind it model after model, each with its number and its length in the first two registers;
//! the number 0xFFFF ends it. Devices differ in which models they have and in what order, so only the
//! device can say where one is.

use std::fmt;

use crate::place::Which;
use crate::plan::Span;

/// Where the mark may stand, most usual first.
const BASES: [u16; 3] = [40_000, 50_000, 0];
/// `SunS`.
const MARK: [u16; 2] = [0x5375, 0x6E53];
/// The number behind the last model.
const END: u16 = 0xFFFF;
/// Most models that are followed. The longest chains of real devices have some 30; a device that answers
/// anything everywhere would otherwise be walked for as long as 65535 registers last.
pub(crate) const MAX_MODELS: usize = 64;

/// One model of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// Its number.
    pub id: u16,
    /// Address of its first register, the one that holds its number.
    pub at: u16,
    /// How many registers follow its number and its length.
    pub len: u16,
}

impl Model {
    /// How many registers it has in all.
    #[must_use]
    pub fn registers(self) -> u32 {
        u32::from(self.len) + 2
    }
}

/// The models of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Where the mark stands.
    base: u16,
    models: Vec<Model>,
    /// Why it ends before its end mark, if it does.
    cut: Option<String>,
}

impl Chain {
    /// Where this model is.
    #[must_use]
    pub fn find(&self, which: Which) -> Option<Model> {
        let same = self.models.iter().filter(|model| model.id == which.id);
        same.copied().nth(usize::from(which.nth).checked_sub(1)?)
    }

    /// Why the rest of it is not known, unless it was read to its end.
    #[must_use]
    pub fn cut(&self) -> Option<&str> {
        self.cut.as_deref()
    }
}

/// `40000: 1 (66 registers), 103 (50 registers)`.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.base)?;
        for (index, model) in self.models.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} ({} registers)", model.id, model.len)?;
        }
        Ok(())
    }
}

/// How far the walk has come.
#[derive(Debug, Clone, PartialEq, Eq)]
enum At {
    /// Looking for the mark at the nth base.
    Mark(usize),
    /// Reading the number and the length of the next model.
    Head(u16),
    /// At the end.
    Done,
    /// The mark is nowhere.
    Nowhere,
}

/// A walk along the chain of one device, one read after the other.
#[derive(Debug)]
pub struct Walk {
    bases: Vec<u16>,
    at: At,
    /// How many bases were answered, and had no mark.
    refused: usize,
    chain: Chain,
    /// The chain was cut, and it is only looked whether it goes on there: what is before is known.
    resumed: bool,
}

impl Walk {
    /// Before the first read; `base` is where the mark stands, if that is known.
    #[must_use]
    pub fn new(base: Option<u16>) -> Self {
        let bases = base.map_or_else(|| BASES.to_vec(), |base| vec![base]);
        let chain = Chain { base: 0, models: Vec::new(), cut: None };
        Self { bases, at: At::Mark(0), refused: 0, chain, resumed: false }
    }

    /// The device was away, and may be another one now.
    pub fn again(&mut self) {
        // A base that was not answered is not tried first again: the search would never come to the others.
        let first = match self.at {
            At::Mark(n) => n,
            At::Head(_) | At::Done => self.bases.iter().position(|b| *b == self.chain.base).unwrap_or(0),
            At::Nowhere => 0,
        };
        *self = Self { bases: std::mem::take(&mut self.bases), ..Self::new(None) };
        self.at = At::Mark(first);
    }

    /// The chain, once it is known.
    #[must_use]
    pub fn chain(&self) -> Option<&Chain> {
        (self.at == At::Done || self.resumed).then_some(&self.chain)
    }

    /// Looks again for what stands behind a chain that was cut: the device may have been starting.
    pub fn resume(&mut self) {
        if self.at == At::Done && self.chain.cut.is_some() {
            let last = self.chain.models.last();
            let next = last.map_or(u32::from(self.chain.base) + 2, |m| u32::from(m.at) + m.registers());
            if let Ok(next) = u16::try_from(next) {
                (self.at, self.resumed) = (At::Head(next), true);
            }
        }
    }

    /// Whether it is only looked for what stands behind a cut.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// Whether the mark was found.
    #[must_use]
    pub fn begun(&self) -> bool {
        matches!(self.at, At::Head(_) | At::Done)
    }

    /// Whether the device has none.
    #[must_use]
    pub fn nowhere(&self) -> bool {
        self.at == At::Nowhere
    }

    /// The bases in words, for the log.
    #[must_use]
    pub fn places(&self) -> String {
        self.bases.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The holding registers to read next; `None` when nothing is left to find out.
    #[must_use]
    pub fn next(&self) -> Option<Span> {
        match self.at {
            At::Mark(n) => self.bases.get(n).map(|base| Span { start: *base, len: 2 }),
            At::Head(at) => Some(Span { start: at, len: 2 }),
            At::Done | At::Nowhere => None,
        }
    }

    /// What those registers hold.
    pub fn read(&mut self, words: &[u16]) {
        match (&self.at, words) {
            (At::Mark(n), words) => {
                let base = self.bases.get(*n).copied().unwrap_or_default();
                match base.checked_add(2).filter(|_| words == MARK) {
                    Some(first) => {
                        self.chain = Chain { base, models: Vec::new(), cut: None };
                        self.at = At::Head(first);
                    }
                    None => self.refused(),
                }
            }
            (At::Head(at), &[id, len]) => self.model(*at, id, len),
            (At::Head(_), _) => self.end(Some("a model without a head".to_owned())),
            (At::Done | At::Nowhere, _) => {}
        }
    }

    fn model(&mut self, at: u16, id: u16, len: u16) {
        if id == END {
            return self.end(None);
        }
        if self.chain.models.len() >= MAX_MODELS {
            return self.end(Some(format!("it has more than {MAX_MODELS} models")));
        }
        // The end mark has to follow, so the model cannot end with the last register.
        let next = at.checked_add(2).and_then(|body| body.checked_add(len)).filter(|next| *next < u16::MAX);
        let Some(next) = next.filter(|_| id != 0) else {
            return self
                .end(Some(format!("at {at} stands a model {id} of {len} registers, which cannot be")));
        };
        self.chain.models.push(Model { id, at, len });
        self.at = At::Head(next);
    }

    /// The device refuses those registers.
    pub fn refused(&mut self) {
        match self.at {
            At::Mark(n) => {
                self.refused += 1;
                self.at = if self.refused >= self.bases.len() { At::Nowhere } else { self.after(n) };
            }
            At::Head(at) => self.end(Some(format!("the device refuses {at}, where the next model would be"))),
            At::Done | At::Nowhere => {}
        }
    }

    /// Nothing came back. Some devices say nothing where they have nothing, so the next base is tried.
    pub fn silent(&mut self) {
        if let At::Mark(n) = self.at {
            self.at = self.after(n);
        }
    }

    fn after(&self, n: usize) -> At {
        At::Mark((n + 1) % self.bases.len().max(1))
    }

    fn end(&mut self, cut: Option<String>) {
        self.chain.cut = cut;
        (self.at, self.resumed) = (At::Done, false);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn first(id: u16) -> Which {
        Which { id, nth: 1 }
    }

    /// A register image: `SunS` at `base`, then these models, then the end mark.
    fn image(base: u16, models: &[(u16, u16)]) -> BTreeMap<u16, u16> {
        let mut words = MARK.to_vec();
        for (id, len) in models {
            words.extend([*id, *len]);
            words.extend(std::iter::repeat_n(0, usize::from(*len)));
        }
        words.extend([END, 0]);
        (base..).zip(words).collect()
    }

    /// Walks over an image; registers that are not there are refused. Returns how many reads it took.
    fn walk(walk: &mut Walk, image: &BTreeMap<u16, u16>) -> usize {
        let mut reads = 0;
        while let Some(span) = walk.next() {
            reads += 1;
            let words: Option<Vec<u16>> =
                (0..span.len).map(|n| image.get(&span.start.wrapping_add(n)).copied()).collect();
            match words {
                Some(words) => walk.read(&words),
                None => walk.refused(),
            }
        }
        reads
    }

    #[test]
    fn an_inverter_at_40000_is_walked_to_its_end() {
        let mut found = Walk::new(None);
        let reads = walk(&mut found, &image(40_000, &[(1, 66), (103, 50), (160, 48)]));
        assert_eq!(reads, 5, "the mark, three models, the end");
        let chain = found.chain().expect("walked");
        assert_eq!(chain.find(first(1)), Some(Model { id: 1, at: 40_002, len: 66 }));
        assert_eq!(chain.find(first(103)), Some(Model { id: 103, at: 40_070, len: 50 }));
        assert_eq!(chain.find(first(160)), Some(Model { id: 160, at: 40_122, len: 48 }));
        assert_eq!((chain.find(first(120)), chain.cut()), (None, None));
        assert_eq!(chain.to_string(), "40000: 1 (66 registers), 103 (50 registers), 160 (48 registers)");
    }

    #[test]
    fn of_models_with_the_same_number_each_is_found() {
        let mut found = Walk::new(None);
        walk(&mut found, &image(40_000, &[(1, 66), (160, 48), (203, 105), (160, 28)]));
        let chain = found.chain().expect("walked");
        let at = |nth| chain.find(Which { id: 160, nth }).map(|model| (model.at, model.len));
        assert_eq!([at(1), at(2), at(3)], [Some((40_070, 48)), Some((40_227, 28)), None]);
        assert_eq!(at(0), None, "they are counted from 1");
    }

    #[test]
    fn the_other_bases_are_tried_and_one_can_be_forced() {
        for base in [50_000, 0] {
            let mut found = Walk::new(None);
            walk(&mut found, &image(base, &[(1, 66)]));
            assert!(found.chain().is_some_and(|c| c.find(first(1)).is_some()), "{base}");
        }
        let mut found = Walk::new(Some(1000));
        assert_eq!(found.next(), Some(Span { start: 1000, len: 2 }));
        walk(&mut found, &image(40_000, &[(1, 66)]));
        assert!(found.nowhere() && found.chain().is_none());
    }

    #[test]
    fn a_device_that_is_silent_where_it_has_nothing_is_still_found() {
        let (mut found, there) = (Walk::new(None), image(0, &[(101, 50)]));
        for _ in 0..2 {
            // The caller forgets what it knew of a device that is silent.
            found.silent();
            found.again();
        }
        assert_eq!(found.next(), Some(Span { start: 0, len: 2 }));
        walk(&mut found, &there);
        assert!(found.chain().is_some_and(|c| c.find(first(101)).is_some()));
    }

    #[test]
    fn what_cannot_be_a_chain_ends_it_and_keeps_what_is_before() {
        let mut wild = image(40_000, &[(1, 66), (103, 50)]);
        // The length of model 103 leads beyond the last register.
        wild.insert(40_071, 60_000);
        let mut found = Walk::new(None);
        walk(&mut found, &wild);
        let chain = found.chain().expect("up to there");
        assert!(chain.find(first(1)).is_some() && chain.find(first(103)).is_none() && chain.cut().is_some());
        // A map that ends without its mark.
        let mut short = image(40_000, &[(1, 66)]);
        short.retain(|at, _| *at < 40_070);
        let mut found = Walk::new(None);
        walk(&mut found, &short);
        let chain = found.chain().expect("up to there");
        assert!(chain.find(first(1)).is_some() && chain.cut().is_some_and(|why| why.contains("40070")));
    }

    #[test]
    fn a_device_that_came_back_is_walked_anew() {
        let mut found = Walk::new(None);
        walk(&mut found, &image(40_000, &[(1, 66), (103, 50)]));
        found.again();
        assert!(found.chain().is_none());
        walk(&mut found, &image(40_000, &[(1, 65), (111, 60)]));
        let chain = found.chain().expect("walked");
        assert_eq!((chain.find(first(103)), chain.find(first(111)).map(|m| m.at)), (None, Some(40_069)));
    }

    #[test]
    fn a_chain_that_was_cut_goes_on_where_it_was_and_what_is_before_stays_known() {
        let there = image(40_000, &[(1, 66), (103, 50)]);
        let mut booting = there.clone();
        // Zeros, as long as the device starts.
        booting.extend([(40_070, 0), (40_071, 0)]);
        let mut found = Walk::new(None);
        walk(&mut found, &booting);
        assert!(found.chain().is_some_and(|c| c.cut().is_some() && c.find(first(103)).is_none()));
        found.resume();
        assert!(found.chain().is_some_and(|c| c.find(first(1)).is_some()), "still known");
        assert_eq!(walk(&mut found, &there), 2, "the model and the end");
        assert!(found.chain().is_some_and(|c| c.cut().is_none() && c.find(first(103)).is_some()));
        found.resume();
        assert_eq!(found.next(), None, "it was not cut");
    }

    proptest! {
        #[test]
        fn no_registers_panic_or_lead_a_walk_astray(
            answers in prop::collection::vec(
                prop_oneof![
                    Just(Some(MARK.to_vec())),
                    (1u16..200, 0u16..300).prop_map(|(id, len)| Some(vec![id, len])),
                    prop::collection::vec(any::<u16>(), 0..4).prop_map(Some),
                    Just(None),
                ],
                300,
            ),
        ) {
            let mut walk = Walk::new(None);
            let mut answers = answers.into_iter();
            let mut reads = 0;
            while let Some(span) = walk.next() {
                prop_assert!(span.end() <= 0x1_0000);
                match answers.next().flatten() {
                    Some(words) => walk.read(&words),
                    None => walk.refused(),
                }
                reads += 1;
                prop_assert!(reads <= MAX_MODELS + 5);
            }
            if let Some(chain) = walk.chain() {
                for pair in chain.models.windows(2) {
                    prop_assert_eq!(u32::from(pair[1].at), u32::from(pair[0].at) + pair[0].registers());
                }
                for model in &chain.models {
                    prop_assert!(u32::from(model.at) + model.registers() <= 0x1_0000);
                }
            }
        }
    }
}
