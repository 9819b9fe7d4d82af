//! The log as history: what was taken in a stretch of time, whoever is owed it; and how a person throws away
//! what an uplink is owed.
//!
//! Promises: reading takes the same short turns at the thread as an uplink does, so commits go on meanwhile. What
//! is purged is declared, as everything that will not arrive.

use std::ops::Range;

use tokio::sync::oneshot;

use super::Store;
use super::account::Account;
use super::drain::{Chunk, DrainError, Ledger};
use super::inspect::share;
use super::loss::Facts;
use super::ranges::count;
use super::state::{State, Tick};
use super::trouble::Trouble;
use super::writer::{Job, Writer};
use crate::message::{BootMs, LossReason, WallMs};

impl Store {
    /// Numbers among which all stored readings of this stretch of time are, ascending; of a few others, that
    /// were taken about then, too. Readings of a boot whose clock was never set lie where it believed to be.
    ///
    /// # Errors
    /// The disk cannot be read now.
    pub async fn stretch(&self, time: Range<WallMs>) -> Result<Vec<Range<u64>>, DrainError> {
        let (reply, answer) = oneshot::channel();
        self.inner.ask(Job::Stretch(time, reply), answer).await?
    }

    /// Reads at most `max` stored records with numbers in `range`; see [`super::Drain::read`].
    ///
    /// # Errors
    /// The disk cannot be read now.
    pub async fn read(&self, range: Range<u64>, max: usize) -> Result<Chunk, DrainError> {
        let (reply, answer) = oneshot::channel();
        self.inner.ask(Job::Read(None, range, max, reply), answer).await?
    }

    /// What is stored and not yet passed by this uplink, which may have left the configuration; `None`: there is no such uplink.
    #[must_use]
    pub fn queued(&self, uplink: &str) -> Option<Vec<Range<u64>>> {
        let state = self.inner.shared.state();
        let account = state.accounts.get(uplink).or_else(|| state.parked.get(uplink))?;
        Some(state.present.iter().flat_map(|range| account.open(range)).collect())
    }

    /// The accounts of uplinks that left the configuration and may come back.
    #[must_use]
    pub fn left(&self) -> Vec<(String, Ledger)> {
        let state = self.inner.shared.state();
        state.parked.iter().map(|(name, account)| (name.clone(), state.ledger_of_left(account))).collect()
    }

    /// Declares everything lost (`purged`) that is taken and not delivered to `uplink`; without a name to any
    /// of them, and then the history goes, too. Those that left the configuration are uplinks as well. Returns how many readings each is not going to get, when that is
    /// durable.
    ///
    /// # Errors
    /// There is no such uplink, or the disk is out of order.
    pub async fn purge(&self, uplink: Option<&str>) -> Result<Vec<(String, u64)>, DrainError> {
        self.flush().await?;
        let purged = self.inner.shared.state().purge(uplink).map_err(DrainError)?;
        self.flush().await?;
        Ok(purged)
    }
}

impl State {
    /// The account of an uplink that left. It holds no blocks: what is gone of them counts as lost at once, and is declared when it
    /// comes back.
    fn ledger_of_left(&self, account: &Account) -> Ledger {
        let open: Vec<Range<u64>> = self.everywhere().iter().flat_map(|range| account.open(range)).collect();
        let (taken, queued) = (account.taken(self.next), count(&open));
        Ledger {
            taken,
            delivered: account.delivered,
            queued,
            lost: taken.saturating_sub(account.delivered + queued),
            queued_bytes: share(self.figures.used, queued, self.present.len()),
            oldest: None,
        }
    }

    fn purge(&mut self, uplink: Option<&str>) -> Result<Vec<(String, u64)>, String> {
        let all = self.accounts.keys().chain(self.parked.keys()).cloned();
        let names: Vec<String> = all.filter(|name| uplink.is_none_or(|u| u == name)).collect();
        if let (true, Some(name)) = (names.is_empty(), uplink) {
            let known: Vec<&str> =
                self.accounts.keys().chain(self.parked.keys()).map(String::as_str).collect();
            return Err(format!("there is no uplink `{name}`; there is {}", known.join(", ")));
        }
        let mut purged = Vec::new();
        for name in names {
            // Who left is there for a moment, as if it had come back: what is gone is declared, too.
            let left = self.parked.remove(&name);
            let was = left.is_some();
            if let Some(account) = left {
                self.accounts.insert(name.clone(), account);
                self.complete(&name, LossReason::Purged);
            }
            // What is missing of thinned blocks is lost already, and declared with the rest now.
            let missing = self.thinned.holes_of(&name);
            let before = self.accounts.get(&name).map_or(0, |a| a.lost) + missing;
            for part in self.pending(&name) {
                self.lose_for(&name, part, LossReason::Purged, false, |_| Facts::default(), true);
            }
            let after = self.accounts.get(&name).map_or(0, |a| a.lost);
            self.thinned.filled(&name, missing);
            if was && let Some(account) = self.accounts.remove(&name) {
                self.parked.insert(name.clone(), account);
            }
            purged.push((name, after.saturating_sub(before)));
        }
        if uplink.is_none() {
            self.forget_below = self.stored;
        }
        self.dirty_since.get_or_insert_with(Tick::now);
        Ok(purged)
    }
}

impl Writer {
    /// See [`Store::stretch`].
    pub(super) fn stretch(&mut self, time: &Range<WallMs>) -> Result<Vec<Range<u64>>, Trouble> {
        self.observe_clock();
        let segments = {
            let state = self.shared.state();
            let first = state.present.first().unwrap_or(state.stored);
            state.epochs.split(first..state.stored)
        };
        let mut found: Vec<Range<u64>> = Vec::new();
        // Within one epoch the blocks are in the order of time.
        for (segment, _) in segments {
            let first = self.first_block(segment.clone(), |_, newest| newest >= time.start)?;
            let end = self.first_block(segment.clone(), |oldest, _| oldest >= time.end)?;
            match found.last_mut() {
                _ if first >= end => {}
                Some(last) if last.end == first => last.end = end,
                _ => found.push(first..end),
            }
        }
        Ok(found)
    }

    /// The first number of the first block of `segment` whose oldest and newest times satisfy `is`, which the later
    /// ones do then, too; the end of the segment if none does.
    fn first_block(&self, segment: Range<u64>, is: impl Fn(WallMs, WallMs) -> bool) -> Result<u64, Trouble> {
        let Some(log) = &self.log else { return Err(Trouble::Disk("no database".into())) };
        let (mut low, mut high) = (segment.start, segment.end);
        while low < high {
            let middle = low + (high - low) / 2;
            // The block that holds it, or the first after a hole (before which lies one that ends too early).
            let Some(row) = log.rows(middle..high, 2)?.into_iter().next() else {
                high = middle;
                continue;
            };
            let state = self.shared.state();
            let place = |at| state.place(row.boot, BootMs(at)).unwrap_or_default().0;
            if is(place(row.times[0]), place(row.times[1])) {
                high = middle.min(row.first.max(low));
            } else {
                low = row.range().end.max(middle + 1);
            }
        }
        Ok(low.min(segment.end))
    }
}
