//! What a device wrote down about the values it gave away. Counts are exact; the history keeps the
//! newest and counts what it forgot.

use std::collections::VecDeque;

use driver_api::Value;
use tokio::time::Instant;

use super::encode::Kind;
use super::registers::Area;

/// How an answer left the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Whole, correct and in time: somebody may rely on it.
    Good,
    /// Whole and correct, but held back. It may be relied on only by who still waits for it.
    Late,
    /// Corrupt, cut, or in another unit's name: nobody may ever take its values for measurements.
    Spoiled,
}

/// One value that was given away.
#[derive(Debug, Clone, PartialEq)]
pub struct Serve {
    /// As somebody who knows the kind reads it.
    pub value: Value,
    /// How it left.
    pub fate: Fate,
    /// When it was sampled inside the device.
    pub at: Instant,
}

/// The account of one quantity.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Unit id.
    pub unit: u8,
    /// Which of the four areas.
    pub area: Area,
    /// Protocol address of its first register, from 0.
    pub address: u16,
    /// What it is.
    pub kind: Kind,
    /// Whole serves with [`Fate::Good`].
    pub good: u64,
    /// Whole serves with [`Fate::Late`].
    pub late: u64,
    /// Whole serves with [`Fate::Spoiled`].
    pub spoiled: u64,
    /// Reads that took some of its registers but not all. They count as no serve.
    pub partial: u64,
    /// Times it was written.
    pub writes: u64,
    /// The newest serve of any fate.
    pub last: Option<Serve>,
    /// The newest serves, oldest first, as many as the layout asked for.
    pub history: Vec<Serve>,
    /// Serves that the history no longer holds.
    pub forgotten: u64,
}

/// The running account inside an image.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    pub(crate) good: u64,
    pub(crate) late: u64,
    pub(crate) spoiled: u64,
    pub(crate) partial: u64,
    pub(crate) writes: u64,
    pub(crate) last: Option<Serve>,
    pub(crate) history: VecDeque<Serve>,
    pub(crate) forgotten: u64,
}

impl Account {
    /// Enters one serve; the history keeps `keep` of them.
    pub(crate) fn enter(&mut self, serve: Serve, keep: usize) {
        *match serve.fate {
            Fate::Good => &mut self.good,
            Fate::Late => &mut self.late,
            Fate::Spoiled => &mut self.spoiled,
        } += 1;
        self.history.push_back(serve.clone());
        if self.history.len() > keep {
            self.history.pop_front();
            self.forgotten += 1;
        }
        self.last = Some(serve);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_keeps_the_newest_and_the_counts_keep_all() {
        let mut account = Account::default();
        let at = Instant::now();
        for n in 1..=5 {
            let fate = if n == 4 { Fate::Spoiled } else { Fate::Good };
            account.enter(Serve { value: Value::Int(n), fate, at }, 2);
        }
        assert_eq!((account.good, account.spoiled, account.forgotten), (4, 1, 3));
        let kept: Vec<_> = account.history.iter().map(|s| s.value.clone()).collect();
        assert_eq!(kept, [Value::Int(4), Value::Int(5)]);
    }
}
