//! What the store's thread and everybody else share: the line of numbers, the ring of readings that are
//! not yet in a commit, the accounts.
//!
//! Behind one lock that is held for arithmetic only, never over a system call or an await. Every method
//! leaves the ledger balanced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use driver_api::{Quality, Reason, Value};

use super::account::Account;
use super::block;
use super::commands::Commands;
use super::drain::{Chunk, Ledger};
use super::epochs::Epochs;
use super::holes::Thinned;
use super::inspect::share;
use super::last;
use super::lend::Held;
use super::loss::{self, Draft, Facts};
use super::post::Post;
use super::quota::Limits;
use super::ranges::{RangeSet, count};
use super::times::Boot;
use crate::bounds;
use crate::message::{
    BootMs, CorrectionRecord, Entry, Epoch, ForwardedRecord, Id, LossReason, LossRecord, Reading, Record,
    WallMs,
};

/// Time for deadlines inside the store.
#[expect(clippy::disallowed_types, reason = "deadlines of a plain thread: paused test time does not apply")]
pub type Tick = std::time::Instant;

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Readings become durable.
    Ok,
    /// The disk is out of order since; readings are kept in RAM.
    Fault(String),
    /// Closed in order.
    Closed,
}

/// Figures for the status.
#[derive(Debug, Clone)]
pub struct Figures {
    /// The start.
    pub since: Tick,
    /// Commits since the start.
    pub commits: u64,
    /// Duration of the last commits, ms.
    pub commit_ms: VecDeque<f64>,
    /// Bytes written by the database, about.
    pub bytes_written: u64,
    /// Size of the database file, bytes.
    pub bytes: u64,
    /// Size of the WAL file, bytes.
    pub wal: u64,
    /// Size of the ballast, bytes.
    pub ballast: u64,
    /// Bytes that blocks use.
    pub used: u64,
    /// Readings dropped by limits and overflow since the start.
    pub dropped: u64,
    /// Readings thinned out since the start.
    pub thinned: u64,
    /// Readings taken since the start.
    pub taken: u64,
    /// Head file writes that failed.
    pub head_failures: u64,
    /// Databases that were set aside.
    pub set_aside: Vec<String>,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            since: Tick::now(),
            commits: 0,
            commit_ms: VecDeque::new(),
            bytes_written: 0,
            bytes: 0,
            wal: 0,
            ballast: 0,
            used: 0,
            dropped: 0,
            thinned: 0,
            taken: 0,
            head_failures: 0,
            set_aside: Vec::new(),
        }
    }
}

/// A moment of a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// The numbers of the block it was learned from.
    pub range: Range<u64>,
    /// Its boot.
    pub boot: u32,
    /// Boot time of its first reading.
    pub at: BootMs,
}

/// The shared state.
#[derive(Debug)]
pub struct State {
    /// The epoch of what is taken now.
    pub epoch: Epoch,
    /// The next number.
    pub next: u64,
    /// One past the highest durable number.
    pub stored: u64,
    /// One past the highest that is known to have been durable ever. Less than `stored` until the first commit of this
    /// life: the numbers of a gap, which it brings, never were.
    pub proven: u64,
    /// What the writer has in hand for the commit that is going on.
    pub hand: Range<u64>,
    /// The readings of the last hand.
    pub held: Held,
    /// One past the highest number that the uplinks may read: durable, or lent (see `lend`). Never goes back.
    pub readable: u64,
    /// Since when the writer has waited for the disk.
    pub busy_since: Option<Tick>,
    /// What comes after that, up to `next`.
    pub ring: VecDeque<Entry>,
    pub(super) ring_text: usize,
    /// Since when the ring has something.
    pub ring_since: Option<Tick>,
    /// Messages that have no number yet, and who wants them.
    pub post: Post,
    /// Numbers for which there are durable blocks.
    pub present: RangeSet,
    /// Those of them without a reading any more.
    pub thinned: Thinned,
    /// The uplinks of the configuration.
    pub accounts: BTreeMap<String, Account>,
    /// Uplinks that left it.
    pub parked: BTreeMap<String, Account>,
    /// The epochs.
    pub epochs: Epochs,
    /// What the gateway is called, if somebody said.
    pub gateway: Option<String>,
    /// The boots by number.
    pub boots: BTreeMap<u32, Boot>,
    /// Number of the present boot.
    pub boot: u32,
    /// What each uplink was handed of this boot while its clock is not set, and since the guess is what it is.
    pub handed: BTreeMap<String, RangeSet>,
    /// What was shown on the local broker before the clock was set; until it is told there.
    pub shown: Vec<CorrectionRecord>,
    /// Declared and not yet written down.
    pub drafts: Vec<Draft>,
    /// Loss records that were acknowledged and are still in the database.
    pub losses_done: BTreeSet<u64>,
    /// Below this nothing is kept as history.
    pub forget_below: u64,
    /// Since when something other than readings waits to be written.
    pub dirty_since: Option<Tick>,
    /// Recent commands.
    pub commands: Commands,
    /// The points of the configuration, once somebody said: the latest values of others are forgotten.
    pub known: Option<Arc<last::Known>>,
    /// The user's limits.
    pub limits: Limits,
    /// Most readings ever between taking and commit.
    pub bound: u64,
    /// What the database knows of that, rounded up: what a power cut now would declare.
    pub bound_saved: u64,
    /// How the store is.
    pub phase: Phase,
    /// Oldest stored reading of each uplink, and of all under `""`.
    pub oldest: BTreeMap<String, Moment>,
    /// Figures for the status.
    pub figures: Figures,
}

impl State {
    /// A line that begins at 1 in RAM; what the disk knows is adopted later.
    #[must_use]
    pub fn new(epoch: Epoch, limits: Limits, uplinks: &[String], boot: Boot) -> Self {
        Self {
            epoch,
            next: 1,
            stored: 1,
            proven: 1,
            hand: 1..1,
            held: Held::default(),
            readable: 1,
            busy_since: None,
            ring: VecDeque::new(),
            ring_text: 0,
            ring_since: None,
            post: Post::default(),
            present: RangeSet::default(),
            thinned: Thinned::default(),
            accounts: uplinks.iter().map(|u| (u.clone(), Account::new(1))).collect(),
            parked: BTreeMap::new(),
            epochs: Epochs::default(),
            gateway: None,
            boot: boot.n,
            boots: [(boot.n, boot)].into(),
            handed: BTreeMap::new(),
            shown: Vec::new(),
            drafts: Vec::new(),
            losses_done: BTreeSet::new(),
            forget_below: 0,
            dirty_since: None,
            commands: Commands::default(),
            known: None,
            limits,
            bound: bounds::STORE_POWER_CUT,
            bound_saved: 0,
            phase: Phase::Ok,
            oldest: BTreeMap::new(),
            figures: Figures::default(),
        }
    }

    /// The numbers of the ring.
    #[must_use]
    pub fn ring_range(&self) -> Range<u64> {
        self.next - self.ring.len() as u64..self.next
    }

    /// Numbers the readings and puts them into the ring; what overflows is declared. Returns the first id
    /// and whether the writer should be woken.
    pub fn take(&mut self, readings: Vec<Reading>, now: Tick) -> (Id, bool) {
        let id = Id { epoch: self.epoch, seq: self.next };
        let n = readings.len();
        if n == 0 {
            return (id, false);
        }
        let wake = self.ring.is_empty()
            || (self.ring.len() < bounds::STORE_GROUP && self.ring.len() + n >= bounds::STORE_GROUP)
            || (self.bound <= self.bound_saved && self.next - self.stored + n as u64 > self.bound_saved);
        for reading in readings {
            let entry = Entry::Reading(shorten(reading));
            self.ring_text += block::weight(&entry);
            self.ring.push_back(entry);
        }
        self.next += n as u64;
        self.figures.taken += n as u64;
        self.ring_since.get_or_insert(now);
        self.overflow();
        self.bound = self.bound.max(self.next - self.stored).min(most_unstored());
        (id, wake)
    }

    fn overflow(&mut self) {
        let from = self.ring_range().start;
        let mut gone = Vec::new();
        while self.ring.len() > bounds::STORE_RING || self.ring_text > bounds::STORE_RING_TEXT {
            let Some(entry) = self.ring.pop_front() else { break };
            self.ring_text -= block::weight(&entry);
            let (ts, _) = self.place(self.boot, entry.at()).unwrap_or_default();
            gone.push((entry.name(), ts));
        }
        if !gone.is_empty() {
            let range = from..from + gone.len() as u64;
            // What all of them have is no loss.
            let owed: RangeSet = self.accounts.values().flat_map(|a| a.open(range.clone())).collect();
            let dropped = if self.accounts.is_empty() { gone.len() as u64 } else { owed.len() };
            self.figures.dropped += dropped;
            self.lose(range, LossReason::QueueFull, false, &Facts::of(gone));
        }
    }

    /// Takes at most a group out of the ring, into the writer's hands.
    pub fn grab(&mut self) -> Arc<Vec<Entry>> {
        self.number_post();
        let n = self.ring.len().min(bounds::STORE_GROUP);
        let first = self.ring_range().start;
        let group: Arc<Vec<Entry>> = Arc::new(self.ring.drain(..n).collect());
        self.ring_text -= group.iter().map(block::weight).sum::<usize>();
        self.hand = first..first + n as u64;
        if n > 0 {
            self.held = Held::new(first, Arc::clone(&group));
        }
        if self.ring.is_empty() {
            self.ring_since = None;
        }
        group
    }

    /// Declares a range lost for every uplink that had not settled it.
    pub fn lose(&mut self, range: Range<u64>, reason: LossReason, bound: bool, facts: &Facts) {
        let names: Vec<String> = self.accounts.keys().cloned().collect();
        for uplink in names {
            self.lose_for(&uplink, range.clone(), reason, bound, |_| facts.clone(), false);
        }
    }

    /// Declares a range lost for one uplink; `facts` is asked for each part that was not settled.
    pub fn lose_for(
        &mut self,
        uplink: &str,
        range: Range<u64>,
        reason: LossReason,
        bound: bool,
        mut facts: impl FnMut(&Range<u64>) -> Facts,
        look_up: bool,
    ) {
        let Some(account) = self.accounts.get_mut(uplink) else { return };
        for part in account.lose(range) {
            let facts = facts(&part);
            for (range, epoch) in self.epochs.split(part) {
                let draft = Draft::of((uplink, epoch), range, (reason, bound), facts.clone(), look_up);
                let settled = |gap| self.accounts.get(uplink).is_some_and(|a| a.open(gap).is_empty());
                loss::push(&mut self.drafts, draft, settled);
            }
            self.dirty_since.get_or_insert_with(Tick::now);
        }
    }

    /// Declares once more what was declared in records that are gone, as these are all that there are.
    pub fn declare_again(&mut self, uplink: &str, records: &[(u64, LossRecord)], reason: LossReason) {
        let Some(account) = self.accounts.get(uplink) else { return };
        for (parts, thinned) in account.unrecorded(records).into_iter().zip([false, true]) {
            let same = |d: &&Draft| d.uplink == uplink && (d.reason == LossReason::Thinned) == thinned;
            let waiting: RangeSet = self.drafts.iter().filter(same).flat_map(Draft::numbers).collect();
            // How many were missing among what was delivered nobody knows any more: at most all.
            let (reason, bound) = if thinned { (LossReason::Thinned, true) } else { (reason, false) };
            for part in parts.into_iter().flat_map(|part| waiting.missing(part)) {
                for (range, epoch) in self.epochs.split(part) {
                    let draft = Draft::of((uplink, epoch), range, (reason, bound), Facts::default(), false);
                    loss::push(&mut self.drafts, draft, |_| false);
                }
                self.dirty_since.get_or_insert_with(Tick::now);
            }
        }
    }

    /// The upstream broker acknowledged these.
    pub fn deliver(&mut self, uplink: &str, range: Range<u64>) {
        self.settle(uplink, range, None);
    }

    pub(super) fn deliver_whole(&mut self, uplink: &str, range: Range<u64>) {
        let end = self.stored.max(self.readable);
        if let Some(account) = self.accounts.get_mut(uplink)
            && account.deliver(range, end) > 0
        {
            if account.settled.spans() > bounds::STORE_ISLANDS {
                let mut there = self.everywhere();
                // What was thinned is declared with what was delivered: that cannot be taken back.
                for range in self.thinned.ranges.iter() {
                    there.remove(range);
                }
                self.accounts.get_mut(uplink).into_iter().for_each(|a| a.bound_islands(&there));
            }
            self.dirty_since.get_or_insert_with(Tick::now);
        }
    }

    /// Durable and not settled.
    #[must_use]
    pub fn pending(&self, uplink: &str) -> Vec<Range<u64>> {
        let Some(account) = self.accounts.get(uplink) else { return Vec::new() };
        self.present.iter().flat_map(|r| account.open(r)).collect()
    }

    /// The account of an uplink at this instant.
    #[must_use]
    pub fn ledger(&self, uplink: &str) -> Ledger {
        let Some(account) = self.accounts.get(uplink) else { return Ledger::default() };
        let pending = self.pending(uplink);
        let missing = self.thinned.holes_of(uplink).min(count(&pending));
        let durable = count(&pending) - missing;
        let in_ram = count(&account.open(self.hand.clone())) + count(&account.open(self.ring_range()));
        let ledger = Ledger {
            taken: account.taken(self.next),
            delivered: account.delivered,
            queued: durable + in_ram,
            lost: account.lost + missing,
            queued_bytes: share(
                self.figures.used,
                durable,
                self.present.len().saturating_sub(self.thinned.gone),
            ),
            oldest: self.oldest_of(uplink, pending.first().map(|r| r.start)),
        };
        debug_assert_eq!(ledger.taken, ledger.delivered + ledger.queued + ledger.lost, "{self:?}");
        ledger
    }

    /// When the oldest reading from `first` on was taken: as the last commit saw it, or from the ring.
    pub(super) fn oldest_of(&self, name: &str, first: Option<u64>) -> Option<WallMs> {
        let stored = first.and_then(|_| self.oldest.get(name)).and_then(|m| self.place(m.boot, m.at));
        let in_ram = || self.place(self.boot, self.ring.front()?.at());
        stored.or_else(in_ram).map(|(ts, _)| ts)
    }

    /// Wall time of a moment, and whether it is to be believed; `None` if the boot is not known.
    #[must_use]
    pub fn place(&self, boot: u32, at: BootMs) -> Option<(WallMs, bool)> {
        self.boots.get(&boot).map(|b| b.place(at))
    }

    /// Where a new uplink begins: with what another is still owed; where there is none, with the oldest reading of
    /// the last stretch without holes.
    #[must_use]
    pub fn beginning(present: &RangeSet, others: &BTreeMap<String, Account>, next: u64) -> u64 {
        let whole = present.iter().next_back().map_or(next, |r| r.start);
        others.values().map(Account::passed).min().map_or(whole, |owed| owed.max(whole))
    }

    /// Changes who is owed what. A new uplink begins where [`State::beginning`] says; one that left keeps its position for a while but holds no blocks.
    pub fn set_uplinks(&mut self, uplinks: &[String], now: i64) {
        let gone: Vec<String> = self.accounts.keys().filter(|n| !uplinks.contains(n)).cloned().collect();
        for name in gone {
            if let Some(mut account) = self.accounts.remove(&name) {
                account.parked = Some(now);
                self.parked.insert(name, account);
            }
        }
        for name in uplinks {
            if self.accounts.contains_key(name) {
                continue;
            }
            let start = Self::beginning(&self.present, &self.accounts, self.ring_or_hand());
            let mut account = self.parked.remove(name).unwrap_or_else(|| Account::new(start));
            account.parked = None;
            self.accounts.insert(name.clone(), account);
            self.thinned.stale |= !self.thinned.ranges.is_empty();
            self.complete(name, LossReason::Purged);
        }
        while self.parked.len() > bounds::STORE_PARKED {
            let Some(name) = self.parked.iter().min_by_key(|(_, a)| a.parked).map(|(name, _)| name.clone())
            else {
                break;
            };
            self.parked.remove(&name);
        }
        self.dirty_since.get_or_insert_with(Tick::now);
    }

    fn ring_or_hand(&self) -> u64 {
        if self.hand.is_empty() { self.ring_range().start } else { self.hand.start }
    }

    /// Declares what an account is owed and nobody has any more.
    pub fn complete(&mut self, uplink: &str, reason: LossReason) {
        let there = self.everywhere();
        let Some(account) = self.accounts.get(uplink) else { return };
        for part in there.missing(account.first..self.next) {
            self.lose_for(uplink, part, reason, false, |_| Facts::default(), false);
        }
    }
}

/// When that was. `otherwise`: offset and belief where the boot is not known.
#[must_use]
pub fn time_of(boots: &BTreeMap<u32, Boot>, at: BootMs, boot: u32, otherwise: (i64, bool)) -> (WallMs, bool) {
    boots.get(&boot).map_or_else(|| (at.on(otherwise.0), otherwise.1), |b| b.place(at))
}

/// Puts an entry into what a reader gets, with this time.
pub fn put(chunk: &mut Chunk, id: Id, entry: &Entry, time: (WallMs, bool)) {
    match entry {
        Entry::Reading(reading) => chunk.records.push(placed(id, reading, time)),
        Entry::Message(message) => {
            let message = Arc::clone(message);
            chunk.messages.push(ForwardedRecord { id, ts: time.0, message });
        }
    }
}

/// A reading with this time; what no clock vouches for says so, unless it has something worse to say.
#[must_use]
pub fn placed(id: Id, reading: &Reading, (ts, believed): (WallMs, bool)) -> Record {
    let quality = match reading.quality() {
        Quality::Good if !believed => Quality::Uncertain(Reason::ClockUnsynced),
        quality => quality,
    };
    Record { id, ts, point: reading.point.clone(), value: reading.value().cloned(), quality }
}

/// Everything that can be between taking and commit.
pub(super) fn most_unstored() -> u64 {
    (bounds::STORE_RING + bounds::STORE_GROUP) as u64
}

fn shorten(reading: Reading) -> Reading {
    match reading.value() {
        Some(Value::Text(text)) if text.len() > bounds::STORE_TEXT => {
            Reading::bad(reading.point.clone(), reading.at, Reason::Parse)
        }
        _ => reading,
    }
}
