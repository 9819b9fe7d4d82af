//! Whose a message is: what each uplink's forwards took when it was stored, remembered with its account.
//!
//! # What it promises
//! - Whether a message is owed to an uplink is decided when it gets its number, by the forwards of then. A forward that comes
//!   later does not take what was stored before. (A new uplink begins with what another is still owed, and its first forwards
//!   count from there.)
//! - What was owed and is not wanted any more is *given up*: lost to this uplink, declared (`purged`) with exact numbers,
//!   topics and times. So `taken` never goes back. The uplink's reader never gets it, whether it was declared yet or not.
//! - That is found out from the log itself: the account remembers which forwards held from which number on, so it works for a
//!   start with another configuration as for a reload, and goes on after a kill. Some blocks are looked at with each
//!   commit; what was not looked at yet counts as queued.
//! - Same forwards change nothing, and other forwards of one uplink nothing in the account of another.
//!
//! # What it does not
//! - More than [`bounds::STORE_GIVEN_UP`] stretches between numbers that are not settled are not declared at once: the rest
//!   waits until the queue has drained that far, and counts as queued until then.
//! - Of more than [`bounds::STORE_WISHES`] changes while the queue does not drain the oldest are forgotten: what
//!   was stored under them is judged by those that came next.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::loss::Facts;
use super::state::{State, Tick};
use super::trouble::Trouble;
use super::writer::Writer;
use crate::bounds;
use crate::forward::Forwards;
use crate::message::{Entry, Forwarded, LossReason, WallMs};

/// What each uplink wants of the messages of other devices; who is not in it wants none.
pub type Wishes = BTreeMap<String, Arc<Forwards>>;

/// Blocks that are looked at in one commit for what is given up: 30 ms on a Raspberry Pi.
const BLOCKS: usize = 32;

/// Whose a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// It is owed.
    Owed,
    /// It never was.
    Others,
    /// It was, and is not wanted any more.
    GivenUp,
}

/// These forwards hold from this number on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Wish {
    from: u64,
    #[serde(serialize_with = "write", deserialize_with = "read")]
    forwards: Arc<Forwards>,
}

fn write<S: Serializer>(forwards: &Arc<Forwards>, s: S) -> Result<S::Ok, S::Error> {
    (**forwards).serialize(s)
}

fn read<'d, D: Deserializer<'d>>(d: D) -> Result<Arc<Forwards>, D::Error> {
    Forwards::deserialize(d).map(Arc::new)
}

/// What an uplink wanted, from which number on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wished {
    /// Ascending. Before the first it wanted nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    since: Vec<Wish>,
    /// Among these numbers it is still to be looked for what is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    search: Option<[u64; 2]>,
}

impl Wished {
    /// From `first` on it wants this.
    #[must_use]
    pub fn new(first: u64, forwards: Arc<Forwards>) -> Self {
        let wish = Wish { from: first, forwards };
        Self { since: if wish.forwards.is_empty() { Vec::new() } else { vec![wish] }, search: None }
    }

    /// Whether it wants a message that gets its number now.
    #[must_use]
    pub fn wants(&self, message: &Forwarded) -> bool {
        self.since.last().is_some_and(|wish| wish.forwards.takes(message))
    }

    /// Whose the message with this number is.
    #[must_use]
    pub fn whose(&self, seq: u64, message: &Forwarded) -> Whose {
        let later = self.since.partition_point(|wish| wish.from <= seq);
        let Some(then) = later.checked_sub(1).and_then(|n| self.since.get(n)) else { return Whose::Others };
        if !then.forwards.takes(message) {
            Whose::Others
        } else if self.since[later..].iter().all(|wish| wish.forwards.takes(message)) {
            Whose::Owed
        } else {
            Whose::GivenUp
        }
    }

    /// From `next` on it wants this. `passed`: everything below is settled. Returns whether that is a change.
    pub fn change(&mut self, forwards: &Arc<Forwards>, passed: u64, next: u64) -> bool {
        let now = self.since.last();
        let none = now.is_none_or(|wish| wish.forwards.is_empty());
        if (none && forwards.is_empty()) || now.is_some_and(|wish| wish.forwards == *forwards) {
            return false;
        }
        if self.since.iter().any(|wish| !wish.forwards.is_empty()) && passed < next {
            self.search = Some([passed, next]);
        }
        // No number was given out under those.
        self.since.retain(|wish| wish.from < next);
        self.since.push(Wish { from: next, forwards: Arc::clone(forwards) });
        if self.since.len() > bounds::STORE_WISHES {
            let oldest = self.since.remove(0);
            self.since[0].from = oldest.from;
        }
        true
    }

    /// Everything below `passed` is settled: what was wanted then does not matter any more.
    pub fn forget(&mut self, passed: u64) {
        while self.since.get(1).is_some_and(|wish| wish.from <= passed) {
            self.since.remove(0);
        }
    }
}

impl State {
    /// Whose a message is, of this uplink or others.
    pub(super) fn whose(&self, uplink: &str, seq: u64, message: &Forwarded) -> Whose {
        let wished = self.accounts.get(uplink).and_then(|account| account.wished.as_ref());
        wished.map_or(Whose::Others, |wished| wished.whose(seq, message))
    }

    /// The uplinks want this from now on. Where an account does not say what was wanted until now, it was this.
    pub fn wish(&mut self, wishes: Wishes) {
        let none = Arc::new(Forwards::default());
        let mut changed = Vec::new();
        for (name, account) in &mut self.accounts {
            let forwards = wishes.get(name).unwrap_or(&none);
            let (first, passed) = (account.first, account.passed());
            match &mut account.wished {
                None => account.wished = Some(Wished::new(first, Arc::clone(forwards))),
                Some(wished) => {
                    if wished.change(forwards, passed, self.next) {
                        changed.push(name.clone());
                    }
                }
            }
        }
        self.post.wishes = wishes;
        let held = self.held.clone();
        for name in changed {
            self.dirty_since.get_or_insert_with(Tick::now);
            let hand = self.hand.clone();
            let in_hand = held.numbered().filter(|(seq, _)| hand.contains(seq));
            self.sort(&name, self.boot, in_hand);
        }
    }

    /// What of these entries of a boot was never this uplink's is set aside, and what it does not want any more declared.
    pub(super) fn sort<'e>(
        &mut self,
        uplink: &str,
        boot: u32,
        entries: impl Iterator<Item = (u64, &'e Entry)>,
    ) {
        let Some(account) = self.accounts.get(uplink) else { return };
        let (mut others, mut given_up): (Vec<Range<u64>>, Vec<Range<u64>>) = (Vec::new(), Vec::new());
        let mut named: Vec<(u64, String, WallMs)> = Vec::new();
        for (seq, entry) in entries {
            let Some(message) = entry.message() else { continue };
            let runs = match account.wished.as_ref().map_or(Whose::Others, |w| w.whose(seq, message)) {
                Whose::Owed => continue,
                Whose::Others => &mut others,
                Whose::GivenUp if account.open(seq..seq + 1).is_empty() => continue,
                Whose::GivenUp => {
                    let ts = self.place(boot, entry.at()).unwrap_or_default().0;
                    named.push((seq, entry.name(), ts));
                    &mut given_up
                }
            };
            match runs.last_mut().filter(|run| run.end == seq) {
                Some(run) => run.end += 1,
                None => runs.push(seq..seq + 1),
            }
        }
        if let Some(account) = self.accounts.get_mut(uplink) {
            for run in others {
                if account.set_aside(run) {
                    self.dirty_since.get_or_insert_with(Tick::now);
                }
            }
            for run in &given_up {
                account.given_up.insert(run.clone());
            }
        }
        if named.is_empty() {
            return;
        }
        *self.post.given_up.entry(uplink.to_owned()).or_default() += named.len() as u64;
        for run in given_up {
            let facts = |part: &Range<u64>| {
                let among = named.iter().filter(|(seq, ..)| part.contains(seq));
                Facts::of(among.map(|(_, name, ts)| (name.clone(), *ts)))
            };
            self.lose_for(uplink, run, LossReason::Purged, false, facts, false);
        }
    }

    /// Where the next block is in which it is to be looked for what an uplink gave up.
    fn to_search(&self) -> Option<(String, u64)> {
        self.accounts.iter().find_map(|(name, account)| {
            let [from, to] = account.wished.as_ref()?.search?;
            let crowded = account.given_up.spans() >= bounds::STORE_GIVEN_UP;
            let open = |range: Range<u64>| account.open(range).first().map(|open| open.start);
            // What was in hand was looked at when the wish changed.
            let next = || self.present.overlap(from..to).into_iter().find_map(open).unwrap_or(to);
            (!crowded).then(|| (name.clone(), next()))
        })
    }

    /// Up to this number it was looked for. Returns how many were found if that was all.
    fn searched(&mut self, uplink: &str, upto: u64) -> Option<u64> {
        self.dirty_since.get_or_insert_with(Tick::now);
        match &mut self.accounts.get_mut(uplink)?.wished.as_mut()?.search {
            Some([from, to]) if upto < *to => {
                *from = upto;
                None
            }
            search => {
                *search = None;
                self.post.given_up.remove(uplink)
            }
        }
    }
}

#[cfg(test)]
impl super::Store {
    /// Whether it is still looked for what uplinks gave up.
    pub(super) fn searching(&self) -> bool {
        let state = self.inner.shared.state();
        state.accounts.values().any(|a| a.wished.as_ref().is_some_and(|wished| wished.search.is_some()))
    }
}

impl Writer {
    /// Looks through some blocks for what uplinks gave up.
    ///
    /// # Errors
    /// The database cannot be read.
    pub(super) fn search(&mut self) -> Result<(), Trouble> {
        for _ in 0..BLOCKS {
            let Some((uplink, at)) = self.shared.state().to_search() else { return Ok(()) };
            let there = self.shared.state().present.contains(at);
            let block = if there { self.block_at(at)? } else { None };
            let Some(log) = &self.log else { return Err(Trouble::Disk("no database".into())) };
            let upto = match &block {
                Some(block) => block.range().end,
                // What is damaged is declared where it is read.
                None if there => log.first_after(at)?.unwrap_or(u64::MAX),
                None => u64::MAX,
            };
            let mut state = self.shared.state();
            if let Some(block) = block.filter(|block| block.mixed) {
                state.sort(&uplink, block.head.boot, block.numbered());
            }
            let found = state.searched(&uplink, upto);
            drop(state);
            if let Some(n) = found {
                tracing::warn!(
                    UPLINK = uplink,
                    "its forwards do not take {n} stored messages any more: these are not sent, and declared lost (purged)"
                );
            }
        }
        Ok(())
    }
}
