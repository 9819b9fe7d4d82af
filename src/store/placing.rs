//! When a reading was taken, as each of those who ask is told: an uplink, the local broker, the limits.
//!
//! Promises:
//! - An uplink gets the same time for the same number, however often it reads it and whatever the clocks do: an anchor or a
//!   guess is durable before anything is handed out by it.
//! - What is taken before the clock of its boot is set waits for nobody here: reading it is deciding that it goes out
//!   with a guess (see `release`). Whether to wait is the uplink's own choice.
//! - Ages are told by boot time within a boot, and never grow by a step of the wall clock.
//!
//! The clocks are looked at by the store's thread alone, so nothing changes while it reads.

use std::ops::Range;

use super::block::Block;
use super::drain::Chunk;
use super::ranges::RangeSet;
use super::state::{self, State, Tick};
use super::times::{Boot, Change};
use super::trouble::Trouble;
use super::wishes::Whose;
use super::writer::Writer;
use crate::bounds;
use crate::clock::Clock;
use crate::message::{BootMs, CorrectionRecord, Id, WallMs};

/// Both clocks at one moment, and whether the wall clock is believed.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    both: (BootMs, WallMs),
    synced: bool,
    witnessed: bool,
}

impl Look {
    /// Looks. First asked is whether the clock is set: what it says after that is what it was set to.
    #[must_use]
    pub fn at(clock: &dyn Clock) -> Self {
        let synced = clock.synced();
        let witnessed = synced && clock.witnessed();
        Self { both: clock.both(), synced, witnessed }
    }
}

impl State {
    fn present_boot(&self) -> Option<&Boot> {
        self.boots.get(&self.boot)
    }

    /// Whether the clock was set in this boot.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.present_boot().is_some_and(Boot::is_set)
    }

    /// Takes a look at the clocks into account: what was sent with the guess so far is known then, and with the first
    /// anchor how far it was off.
    pub fn observe(&mut self, look: Look) -> Option<Change> {
        let next = Id { epoch: self.epoch, seq: self.next };
        let boot = self.boots.get_mut(&self.boot)?;
        let change = boot.observe(look.both, look.synced, next);
        if change.is_some() || (look.witnessed && !boot.witnessed) {
            self.dirty_since.get_or_insert_with(Tick::now);
        }
        boot.witnessed |= look.witnessed;
        let change = change?;
        if change == Change::First {
            self.shown.extend(shown(boot, next.seq, look.both.1));
            boot.shown.clear();
        }
        if change == Change::Step {
            return Some(change);
        }
        let epochs = &self.epochs;
        for (name, account) in self.accounts.iter_mut().chain(&mut self.parked) {
            account.released.close(&self.handed.remove(name).unwrap_or_default(), epochs);
        }
        self.correct(look.both.1);
        Some(change)
    }

    /// Makes the corrections that can be made now.
    pub fn correct(&mut self, now: WallMs) {
        let Some(boot) = self.boots.get(&self.boot).filter(|b| b.is_set()) else { return };
        for account in self.accounts.values_mut().chain(self.parked.values_mut()) {
            account.released.correct(boot, now);
        }
    }

    /// First number that was taken in this boot, of those that anybody can still ask for.
    fn boot_first(&self) -> u64 {
        let starts = self.epochs.0.iter().rev().take_while(|s| s.boot == self.boot);
        starts.last().map_or(self.next, |s| s.first)
    }

    /// The first durable number of this boot of which is not decided with what time it goes to this uplink, because the clock is
    /// not set; `None` as well if it is decided that all of them go with a guess.
    #[must_use]
    pub fn unplaced(&self, uplink: &str) -> Option<u64> {
        if self.is_set() {
            return None;
        }
        let released = &self.accounts.get(uplink)?.released;
        if released.opened(self.boot).is_some() {
            return None;
        }
        let first = released.undecided(self.boot_first());
        Some(first).filter(|first| *first < self.stored)
    }

    /// These numbers are about to be handed to an uplink: those of this boot of which it is not decided go with a guess,
    /// if its clock is not set.
    fn release(&mut self, uplink: &str, range: &Range<u64>) {
        let Some(guess) = self.present_boot().filter(|b| !b.is_set()).map(|b| b.guess) else { return };
        let of_this_boot = range.start.max(self.boot_first())..range.end;
        if let Some(account) = self.accounts.get_mut(uplink)
            && !account.released.free(of_this_boot).is_empty()
        {
            account.released.open(self.boot, guess);
        }
    }

    /// Puts records of a block for an uplink into `chunk`; notes what of them goes with a guess that may change yet.
    pub(super) fn hand_out(&mut self, uplink: &str, block: &Block, numbers: Range<u64>, chunk: &mut Chunk) {
        let head = &block.head;
        let guessed = head.boot == self.boot && !self.is_set();
        let account = self.accounts.get(uplink);
        let open = account.and_then(|a| a.released.opened(head.boot)).filter(|_| guessed);
        let most = usize::try_from(numbers.end - numbers.start).unwrap_or(usize::MAX);
        chunk.records.reserve(most.min(block.entries.len()));
        for (seq, entry) in block.within(numbers.clone()) {
            if entry.message().is_some_and(|message| self.whose(uplink, seq, message) != Whose::Owed) {
                continue;
            }
            let at = entry.at();
            let time = match account.and_then(|a| a.released.offset_of(seq)).or(open) {
                Some(offset) => (at.on(offset), false),
                None => state::time_of(&self.boots, at, head.boot, (head.offset, head.synced)),
            };
            state::put(chunk, Id { epoch: head.epoch, seq }, entry, time);
        }
        let free =
            account.filter(|_| open.is_some()).map(|a| a.released.free(numbers.clone())).unwrap_or_default();
        if !free.is_empty() {
            self.hand(uplink, free);
        }
        if block.mixed {
            self.sort(uplink, head.boot, block.within(numbers.clone()));
        }
        self.note_handed(uplink, block, &numbers);
    }

    fn hand(&mut self, uplink: &str, numbers: Vec<Range<u64>>) {
        let handed = self.handed.entry(uplink.to_owned()).or_default();
        for range in numbers {
            handed.insert(range);
        }
        while handed.spans() > bounds::STORE_HANDED {
            let ranges: Vec<Range<u64>> = handed.iter().collect();
            let gaps = ranges.windows(2).map(|w| w[0].end..w[1].start);
            let Some(least) = gaps.min_by_key(|gap| gap.end - gap.start) else { return };
            handed.insert(least);
        }
    }

    /// How long ago, at boot time `now`, that was; `None` if nobody can know it. The least that it can be.
    #[must_use]
    pub fn age(&self, boot: u32, at: BootMs, now: BootMs) -> Option<i64> {
        if boot == self.boot {
            return Some(now.0.saturating_sub(at.0).cast_signed());
        }
        let (_, latest) = self.boots.get(&boot)?.extremes()?;
        let (earliest, _) = self.present_boot()?.extremes()?;
        Some(now.on(earliest).0.saturating_sub(at.on(latest).0))
    }
}

/// What was shown on the local broker before the clock was set, and how far that was off.
fn shown(boot: &Boot, next: u64, now: WallMs) -> Vec<CorrectionRecord> {
    let ends = boot.shown.iter().skip(1).map(|s| s.first).chain([next]);
    let record = |(shown, end): (&super::times::Shown, u64)| {
        Some(CorrectionRecord {
            uplink: None,
            epoch: crate::message::Epoch { start: shown.epoch[0], random: shown.epoch[1] }.to_string(),
            seq: [shown.first, end.checked_sub(1).filter(|last| *last >= shown.first)?],
            boot_id: boot.id.clone(),
            shift_ms: boot.shift(shown.offset)?,
            ts: now.to_string(),
        })
    };
    boot.shown.iter().zip(ends).filter_map(record).collect()
}

/// Tries to make a decision durable while the clocks keep changing.
const TRIES: usize = 4;

impl Writer {
    pub(super) fn observe_clock(&self) {
        let look = Look::at(&*self.shared.clock);
        let change = self.shared.state().observe(look);
        match change {
            Some(Change::First) => tracing::info!("the clock is set: it is {}", look.both.1),
            Some(Change::Step) => tracing::warn!("the clock was stepped: it is {} now", look.both.1),
            Some(Change::Guess) | None => {}
        }
    }

    /// Decides with which times these numbers go to an uplink, and makes that durable. `false`: the clocks do not
    /// stand still; ask again later.
    ///
    /// # Errors
    /// Those of a commit.
    pub(super) fn settle_times(&mut self, uplink: &str, range: &Range<u64>) -> Result<bool, Trouble> {
        self.observe_clock();
        for _ in 0..TRIES {
            let durable = {
                let mut state = self.shared.state();
                state.release(uplink, range);
                let released = state.accounts.get(uplink).map(|a| &a.released);
                self.saved_boots == state.boots && self.saved.get(uplink).map(|a| &a.released) == released
            };
            if durable {
                return Ok(true);
            }
            self.commit(false)?;
        }
        Ok(false)
    }

    /// Corrections that an uplink did not acknowledge yet.
    ///
    /// # Errors
    /// Those of a commit.
    pub(super) fn corrections(
        &mut self,
        uplink: &str,
        most: usize,
    ) -> Result<Vec<(u64, CorrectionRecord)>, Trouble> {
        if !self.settle_times(uplink, &(0..0))? {
            return Ok(Vec::new());
        }
        let state = self.shared.state();
        Ok(state.accounts.get(uplink).map(|a| a.released.corrections(uplink, most)).unwrap_or_default())
    }
}

/// What the numbers of a boot are by the epochs; `end`: one past the last that is known.
pub(super) fn numbers_of(boot: u32, epochs: &super::epochs::Epochs, end: u64) -> RangeSet {
    let ends = epochs.0.iter().skip(1).map(|s| s.first).chain([end]);
    epochs
        .0
        .iter()
        .zip(ends)
        .filter(|(s, _)| s.boot == boot)
        .map(|(s, next)| s.first..next.min(end))
        .collect()
}
