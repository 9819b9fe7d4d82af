//! The register image of a simulated Modbus device: several unit ids, the four areas, values that
//! move by themselves, and the ledger of what was served.
//!
//! It answers requests as the Modbus Application Protocol Specification V1.1b3 says (functions 1 to
//! 6, 15, 16, 22, 23; exceptions 01, 02, 03) and counts exactly: a value is entered once, when its
//! answer has left, with how it left ([`Fate`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use driver_api::Value;
use tokio::time::Instant;
use tokio_modbus::{ExceptionCode, Request, Response};

use super::encode::{Kind, Words};
use super::ledger::{Account, Fate, Row, Serve};
use crate::bounds;
use crate::signals::{Signal, key};

/// The four areas of the Modbus data model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// Functions 1, 5, 15.
    Coil,
    /// Function 2.
    Discrete,
    /// Function 4.
    Input,
    /// Functions 3, 6, 16, 22, 23.
    Holding,
}

/// Where a quantity's values come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Source {
    /// A signal over time. Read-only.
    Signal(Signal),
    /// Every whole read is served the next number, from 1: what a ledger needs to tell two readings
    /// apart. A read of some of its registers sees the next number but does not use it up. Read-only.
    Serves,
    /// Holds what is written; at first this.
    Held(f64),
}

/// Unit, area, first address.
type Slot = (u8, Area, u16);

/// What an image shall hold. [`Layout::build`] makes it real.
#[derive(Debug, Clone)]
pub struct Layout {
    seed: u64,
    history: usize,
    quantities: Vec<(Slot, Kind, Source)>,
}

/// Why a layout cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Two quantities share a register.
    #[error("unit {0}: {1:?} {2} overlaps another quantity")]
    Overlap(u8, Area, u16),
    /// A boolean in a register area, or a number in a bit area.
    #[error("unit {0}: {1:?} {2} cannot be of its kind")]
    Kind(u8, Area, u16),
    /// It would reach beyond address 65535.
    #[error("unit {0}: {1:?} {2} ends beyond address 65535")]
    Beyond(u8, Area, u16),
    /// More than [`bounds::ENTRIES`] quantities, or more history than [`bounds::HISTORY_TOTAL`].
    #[error("{quantities} quantities with {history} remembered serves each are too many")]
    TooMany {
        /// Quantities in the layout.
        quantities: usize,
        /// Remembered serves of each.
        history: usize,
    },
}

impl Layout {
    /// An empty layout. `seed` sets the phases of its signals; `history` is how many serves each
    /// quantity remembers (0: counts and the last value only).
    #[must_use]
    pub fn new(seed: u64, history: usize) -> Self {
        Self { seed, history, quantities: Vec::new() }
    }

    /// Adds a quantity whose first register is at protocol address `address` (from 0).
    #[must_use]
    pub fn with(mut self, unit: u8, area: Area, address: u16, kind: Kind, source: Source) -> Self {
        self.quantities.push(((unit, area, address), kind, source));
        self
    }

    /// Makes the image. The signals' time begins now.
    ///
    /// # Errors
    /// The first quantity that does not fit, or that there are too many.
    pub fn build(self) -> Result<Registers, LayoutError> {
        let count = self.quantities.len();
        if count > bounds::ENTRIES || count.saturating_mul(self.history) > bounds::HISTORY_TOTAL {
            return Err(LayoutError::TooMany { quantities: count, history: self.history });
        }
        let mut quantities = BTreeMap::new();
        for (slot @ (unit, area, address), kind, source) in self.quantities {
            if (kind == Kind::Bool) != matches!(area, Area::Coil | Area::Discrete) {
                return Err(LayoutError::Kind(unit, area, address));
            }
            if u32::from(address) + u32::from(kind.width()) > 0x1_0000 {
                return Err(LayoutError::Beyond(unit, area, address));
            }
            let quantity = Quantity {
                kind,
                source,
                key: key(self.seed, &format!("{unit}/{area:?}/{address}")),
                served: 0,
                held: if let Source::Held(x) = source { kind.words(x) } else { [0; 4] },
                account: Account::default(),
            };
            if quantities.insert(slot, quantity).is_some() {
                return Err(LayoutError::Overlap(unit, area, address));
            }
        }
        let image = Image { history: self.history, origin: Instant::now(), quantities };
        let mut end = None;
        for (slot @ (unit, area, address), quantity) in &image.quantities {
            if end.is_some_and(|(u, a, end)| (u, a) == (*unit, *area) && u32::from(*address) < end) {
                return Err(LayoutError::Overlap(slot.0, slot.1, slot.2));
            }
            end = Some((*unit, *area, u32::from(*address) + u32::from(quantity.kind.width())));
        }
        Ok(Registers(Arc::new(Mutex::new(image))))
    }
}

/// A live register image; clones share it.
#[derive(Debug, Clone)]
pub struct Registers(Arc<Mutex<Image>>);

/// What an image says to a request.
#[derive(Debug)]
pub struct Answer {
    /// The response, or the exception.
    pub response: Result<Response, ExceptionCode>,
    /// To be settled when it is known how the response left.
    pub receipt: Receipt,
}

/// The values that an answer carries away; give it back with [`Registers::settle`]. One that is
/// dropped was never sent, and is not entered.
#[derive(Debug, Default)]
#[must_use = "an answer that is not settled does not appear in the ledger"]
pub struct Receipt(Vec<(Slot, Value, Instant)>);

impl Registers {
    /// Whether anything answers under this unit id.
    #[must_use]
    pub fn has_unit(&self, unit: u8) -> bool {
        self.image().quantities.range((unit, Area::Coil, 0)..).next().is_some_and(|((u, ..), _)| *u == unit)
    }

    /// The unit ids that answer.
    #[must_use]
    pub fn units(&self) -> Vec<u8> {
        let units: BTreeSet<u8> = self.image().quantities.keys().map(|(unit, ..)| *unit).collect();
        units.into_iter().collect()
    }

    /// Performs a request for one unit; `None` if there is no such unit. With `refuse_holes` a read
    /// that touches an undefined register is refused with exception 02; without, it reads zero
    /// there, and only a read that touches nothing defined is refused.
    #[must_use]
    pub fn execute(&self, unit: u8, request: &Request<'_>, refuse_holes: bool) -> Option<Answer> {
        if !self.has_unit(unit) {
            return None;
        }
        let mut receipt = Receipt::default();
        let response = self.image().perform(unit, request, refuse_holes, &mut receipt);
        if response.is_err() {
            receipt = Receipt::default();
        }
        Some(Answer { response, receipt })
    }

    /// Enters the values of an answer into the ledger, now that it is known how it left.
    pub fn settle(&self, receipt: Receipt, fate: Fate) {
        let mut image = self.image();
        let keep = image.history;
        for (slot, value, at) in receipt.0 {
            if let Some(quantity) = image.quantities.get_mut(&slot) {
                quantity.account.enter(Serve { value, fate, at }, keep);
            }
        }
    }

    /// The whole ledger, in order of unit, area and address.
    #[must_use]
    pub fn ledger(&self) -> Vec<Row> {
        let image = self.image();
        image.quantities.iter().map(|(slot, quantity)| quantity.row(*slot)).collect()
    }

    /// The account of the quantity that begins at this address.
    #[must_use]
    pub fn row(&self, unit: u8, area: Area, address: u16) -> Option<Row> {
        let slot = (unit, area, address);
        self.image().quantities.get(&slot).map(|quantity| quantity.row(slot))
    }

    /// Held for one request only, never across an await.
    fn image(&self) -> MutexGuard<'_, Image> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Image {
    history: usize,
    origin: Instant,
    quantities: BTreeMap<Slot, Quantity>,
}

#[derive(Debug)]
struct Quantity {
    kind: Kind,
    source: Source,
    key: u64,
    served: u64,
    held: Words,
    account: Account,
}

impl Quantity {
    fn row(&self, (unit, area, address): Slot) -> Row {
        let account = self.account.clone();
        Row {
            unit,
            area,
            address,
            kind: self.kind,
            good: account.good,
            late: account.late,
            spoiled: account.spoiled,
            partial: account.partial,
            writes: account.writes,
            last: account.last,
            history: account.history.into(),
            forgotten: account.forgotten,
        }
    }
}

/// Most quantities of one request, by the specification.
const READ_BITS: u16 = 2000;
const READ_REGISTERS: u16 = 125;
const WRITE_BITS: usize = 1968;
const WRITE_REGISTERS: usize = 123;
const READ_WRITE_REGISTERS: usize = 121;

impl Image {
    fn perform(
        &mut self,
        unit: u8,
        request: &Request<'_>,
        refuse_holes: bool,
        receipt: &mut Receipt,
    ) -> Result<Response, ExceptionCode> {
        let mut read = |image: &mut Self, area, start, count: u16, most| {
            within(usize::from(count), most)?;
            image.read(unit, area, start, count, refuse_holes, receipt)
        };
        Ok(match request {
            Request::ReadCoils(start, count) => {
                Response::ReadCoils(bits(&read(self, Area::Coil, *start, *count, READ_BITS.into())?))
            }
            Request::ReadDiscreteInputs(start, count) => Response::ReadDiscreteInputs(bits(&read(
                self,
                Area::Discrete,
                *start,
                *count,
                READ_BITS.into(),
            )?)),
            Request::ReadInputRegisters(start, count) => {
                Response::ReadInputRegisters(read(self, Area::Input, *start, *count, READ_REGISTERS.into())?)
            }
            Request::ReadHoldingRegisters(start, count) => Response::ReadHoldingRegisters(read(
                self,
                Area::Holding,
                *start,
                *count,
                READ_REGISTERS.into(),
            )?),
            Request::WriteSingleCoil(at, on) => {
                self.write(unit, Area::Coil, *at, &[u16::from(*on)])?;
                Response::WriteSingleCoil(*at, *on)
            }
            Request::WriteMultipleCoils(at, coils) => {
                within(coils.len(), WRITE_BITS)?;
                let words: Vec<u16> = coils.iter().map(|on| u16::from(*on)).collect();
                self.write(unit, Area::Coil, *at, &words)?;
                Response::WriteMultipleCoils(*at, words.len() as u16)
            }
            Request::WriteSingleRegister(at, word) => {
                self.write(unit, Area::Holding, *at, &[*word])?;
                Response::WriteSingleRegister(*at, *word)
            }
            Request::WriteMultipleRegisters(at, words) => {
                within(words.len(), WRITE_REGISTERS)?;
                self.write(unit, Area::Holding, *at, words)?;
                Response::WriteMultipleRegisters(*at, words.len() as u16)
            }
            Request::MaskWriteRegister(at, and, or) => {
                let (slot, offset) = self.find(unit, Area::Holding, *at)?;
                let word = self.quantities.get(&slot).map_or(0, |q| q.held[offset]);
                self.write(unit, Area::Holding, *at, &[(word & and) | (or & !and)])?;
                Response::MaskWriteRegister(*at, *and, *or)
            }
            Request::ReadWriteMultipleRegisters(start, count, at, words) => {
                within(usize::from(*count), READ_REGISTERS.into())?;
                within(words.len(), READ_WRITE_REGISTERS)?;
                self.write(unit, Area::Holding, *at, words)?;
                Response::ReadWriteMultipleRegisters(read(
                    self,
                    Area::Holding,
                    *start,
                    *count,
                    READ_REGISTERS.into(),
                )?)
            }
            _ => return Err(ExceptionCode::IllegalFunction),
        })
    }

    fn read(
        &mut self,
        unit: u8,
        area: Area,
        start: u16,
        count: u16,
        refuse_holes: bool,
        receipt: &mut Receipt,
    ) -> Result<Vec<u16>, ExceptionCode> {
        let end = u32::from(start) + u32::from(count);
        if end > 0x1_0000 {
            return Err(ExceptionCode::IllegalDataAddress);
        }
        // The widest quantity is four registers: one that begins three before may reach in.
        let last = (end - 1) as u16;
        let near = (unit, area, start.saturating_sub(3))..=(unit, area, last);
        let overlap = |address: u16, width: u16| {
            let from = u32::from(address).max(u32::from(start));
            let to = (u32::from(address) + u32::from(width)).min(end);
            from..to.max(from)
        };
        let defined: usize =
            self.quantities.range(near.clone()).map(|((.., a), q)| overlap(*a, q.kind.width()).len()).sum();
        if defined == 0 || (refuse_holes && defined < usize::from(count)) {
            return Err(ExceptionCode::IllegalDataAddress);
        }
        let now = Instant::now();
        let elapsed = now - self.origin;
        let mut words = vec![0; usize::from(count)];
        for (slot, quantity) in self.quantities.range_mut(near) {
            let taken = overlap(slot.2, quantity.kind.width());
            if taken.is_empty() {
                continue;
            }
            let whole = taken.len() == usize::from(quantity.kind.width());
            let image = match &quantity.source {
                Source::Signal(signal) => quantity.kind.words(signal.number(quantity.key, elapsed)),
                Source::Serves => quantity.kind.counted(quantity.served + 1),
                Source::Held(_) => quantity.held,
            };
            for at in taken {
                words[(at - u32::from(start)) as usize] = image[(at - u32::from(slot.2)) as usize];
            }
            if whole {
                quantity.served += 1;
                receipt.0.push((*slot, quantity.kind.value(image), now));
            } else {
                quantity.account.partial += 1;
            }
        }
        Ok(words)
    }

    /// Writes all of the words or, if one of them cannot be written, none.
    fn write(&mut self, unit: u8, area: Area, at: u16, words: &[u16]) -> Result<(), ExceptionCode> {
        let mut targets = Vec::with_capacity(words.len());
        for (n, word) in (0_u16..).zip(words) {
            let address = at.checked_add(n).ok_or(ExceptionCode::IllegalDataAddress)?;
            targets.push((self.find(unit, area, address)?, *word));
        }
        let mut written = BTreeSet::new();
        for ((slot, offset), word) in targets {
            if let Some(quantity) = self.quantities.get_mut(&slot) {
                quantity.held[offset] = word;
                quantity.account.writes += u64::from(written.insert(slot));
            }
        }
        Ok(())
    }

    /// The writable quantity that this register belongs to, and which of its registers it is.
    fn find(&self, unit: u8, area: Area, address: u16) -> Result<(Slot, usize), ExceptionCode> {
        let near = (unit, area, address.saturating_sub(3))..=(unit, area, address);
        self.quantities
            .range(near)
            .next_back()
            .map(|(slot, quantity)| (*slot, usize::from(address - slot.2), quantity))
            .filter(|(_, offset, q)| *offset < q.kind.width().into() && matches!(q.source, Source::Held(_)))
            .map(|(slot, offset, _)| (slot, offset))
            .ok_or(ExceptionCode::IllegalDataAddress)
    }
}

fn within(count: usize, most: usize) -> Result<(), ExceptionCode> {
    if (1..=most).contains(&count) { Ok(()) } else { Err(ExceptionCode::IllegalDataValue) }
}

fn bits(words: &[u16]) -> Vec<bool> {
    words.iter().map(|word| *word != 0).collect()
}

#[cfg(test)]
#[path = "registers_tests.rs"]
mod tests;
