//! Messages of other devices on their way into the log: they wait without a number for the next commit. Pure.
//!
//! # What it promises
//! - A message gets its number in the commit that makes it durable, all of one commit in a row. So readings between them
//!   stay together, no message ever drives a reading out of the ring, and one that is not stored has no number
//!   that anybody could miss: who published it was not told that it arrived.
//! - Where many wait a commit comes early ([`bounds::STORE_POST_EARLY`]), for their publishers wait for it.
//! - [`Post::stored`] tells whoever acknowledges to the publishers how many are durable, in their order.
//! - A message may come under a [`Docket`]: that of the last one is in the commit that makes them durable ([`Line::docket`](super::recovery::Line)),
//!   so a start knows of each whether it is here ([`Store::last_docket`]). Where the database cannot be read then, or is another one, it
//!   knows of none.
//! - Who wants a message is decided when it gets its number (see `wishes`): an uplink that does not want it has
//!   the number [aside](super::account) from then on. After a start, and where more waits than is remembered, the reader
//!   finds out; until then such numbers count as queued for that uplink.
//!
//! # What it does not
//! - Numbers of a commit in which the process is killed are declared to every uplink, whoever's they were; so are those of
//!   a block that is damaged, since nobody can say what was in it, and those that a person purges before the reader came to them.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::watch;

use super::Store;
use super::block;
use super::state::{State, Tick};
use super::wishes::Wishes;
use crate::bounds;
use crate::message::{Docket, Entry, Forwarded};

/// A message, and under what it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// It.
    pub message: Arc<Forwarded>,
    /// Those of one life in ascending order.
    pub docket: Option<Docket>,
}

impl From<Arc<Forwarded>> for Posted {
    fn from(message: Arc<Forwarded>) -> Self {
        Self { message, docket: None }
    }
}

/// The messages that wait, and who wants them.
pub struct Post {
    waiting: VecDeque<Posted>,
    /// The last docket of those that have a number.
    pub(super) docket: Option<Docket>,
    /// The last one of the lives before.
    pub(super) found: Option<Docket>,
    /// How many of them somebody waits for.
    awaited: usize,
    /// What the configuration says.
    pub(super) wishes: Wishes,
    /// How many messages each uplink was found to have given up, until it is said.
    pub(super) given_up: BTreeMap<String, u64>,
    /// Given to us so far.
    posted: u64,
    /// How many of them are durable.
    stored: watch::Sender<u64>,
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Post").field("waiting", &self.waiting.len()).field("posted", &self.posted).finish()
    }
}

impl Default for Post {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            docket: None,
            found: None,
            awaited: 0,
            wishes: Wishes::new(),
            given_up: BTreeMap::new(),
            posted: 0,
            stored: watch::Sender::new(0),
        }
    }
}

impl Post {
    /// Whether messages wait for a number.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether so many are awaited, or there, that the next commit does not wait for its interval.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.awaited >= bounds::STORE_POST_EARLY || self.waiting.len() >= bounds::STORE_POST
    }

    /// How many of all that were posted are durable.
    #[must_use]
    pub fn stored(&self) -> watch::Receiver<u64> {
        self.stored.subscribe()
    }

    /// So many more are durable now.
    pub fn became_stored(&self, more: u64) {
        if more > 0 {
            self.stored.send_modify(|n| *n += more);
        }
    }
}

impl Store {
    /// Takes messages of other devices, in order, with the next commit. Returns how many were given so far, these included:
    /// they are durable when [`Store::posted`] says so many. The caller bounds what waits ([`bounds::FORWARD_KIB`]).
    pub fn post(&self, messages: impl IntoIterator<Item = impl Into<Posted>>) -> u64 {
        let posted = self.inner.shared.state().post(messages, Tick::now());
        self.inner.wake();
        posted
    }

    /// How many of the messages given to [`Store::post`] are durable, the oldest first.
    #[must_use]
    pub fn posted(&self) -> watch::Receiver<u64> {
        self.inner.shared.state().post.stored()
    }

    /// The last docket of a message that was durable when the store was opened, if that is known.
    #[must_use]
    pub fn last_docket(&self) -> Option<Docket> {
        self.inner.shared.state().post.found
    }

    /// What the uplinks want.
    #[must_use]
    pub fn wishes(&self) -> Wishes {
        self.inner.shared.state().post.wishes.clone()
    }
}

impl State {
    /// Takes messages; they wait for the next commit. Returns how many were posted so far, these included.
    pub fn post(&mut self, messages: impl IntoIterator<Item = impl Into<Posted>>, now: Tick) -> u64 {
        let before = self.post.waiting.len();
        self.post.waiting.extend(messages.into_iter().map(Into::into));
        let more = self.post.waiting.len() - before;
        self.post.posted += more as u64;
        self.post.awaited += awaited(self.post.waiting.range(before..));
        if more > 0 {
            self.dirty_since.get_or_insert(now);
        }
        self.post.posted
    }

    /// Numbers what waits behind what is in the ring, as far as all of it fits one group: nothing of it stays
    /// in the ring, where it could fall out. No more than the bound of a power cut allows; if that is too small, it grows
    /// with this commit, and the rest follows at once in the next.
    pub(super) fn number_post(&mut self) {
        let room = bounds::STORE_GROUP.saturating_sub(self.ring.len());
        let wanted = room.min(bounds::STORE_POST).min(self.post.waiting.len());
        let unstored = self.next - self.stored;
        self.bound = self.bound.max(unstored + wanted as u64).min(super::state::most_unstored());
        let allowed = usize::try_from(self.bound_saved.saturating_sub(unstored)).unwrap_or(usize::MAX);
        let count = wanted.min(allowed);
        if count == 0 {
            return;
        }
        let posted: Vec<_> = self.post.waiting.drain(..count).collect();
        self.post.awaited -= awaited(posted.iter());
        // All of them are in the commit for which they get their numbers.
        self.post.docket = posted.iter().rev().find_map(|posted| posted.docket).or(self.post.docket);
        let messages: Vec<_> = posted.into_iter().map(|posted| posted.message).collect();
        let first = self.next;
        self.next += count as u64;
        for account in self.accounts.values_mut() {
            let wished = account.wished.take();
            for run in runs(first, messages.iter().map(|m| wished.as_ref().is_none_or(|w| !w.wants(m)))) {
                account.set_aside(run);
            }
            account.wished = wished;
        }
        for message in messages {
            let entry = Entry::Message(message);
            self.ring_text += block::weight(&entry);
            self.ring.push_back(entry);
        }
        self.figures.taken += count as u64;
    }
}

/// How many of these somebody waits for.
fn awaited<'m>(posted: impl Iterator<Item = &'m Posted>) -> usize {
    posted.filter(|posted| posted.message.qos > 0).count()
}

/// The numbers from `first` on for which `is` is true, in ranges.
fn runs(first: u64, is: impl Iterator<Item = bool>) -> impl Iterator<Item = Range<u64>> {
    let mut is = (first..).zip(is).peekable();
    std::iter::from_fn(move || {
        let (start, _) = is.by_ref().find(|(_, is)| *is)?;
        let mut end = start + 1;
        while is.next_if(|(_, is)| *is).is_some() {
            end += 1;
        }
        Some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found() {
        let found: Vec<_> = runs(10, [true, true, false, true, false, false].into_iter()).collect();
        assert_eq!(found, [10..12, 13..14]);
        assert_eq!(runs(1, std::iter::empty()).next(), None);
    }
}
