//! Where the local broker keeps sessions and retained messages over a restart, as seen by both who keeps and who is kept.
//!
//! The broker decides what is kept and what its bytes mean; a [`Shelf`] puts bytes under keys, a group at a time, and gives
//! them back. So neither knows the other: the broker has no SQL, and the store does not know what a session is.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Why a shelf could not do it, sorted by what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShelfError {
    /// Made by a later version: it was not touched, and is not to be tried again.
    #[error("{0}")]
    Newer(String),
    /// What lies there is damaged, or cannot be trusted any more: begin a new one beside it.
    #[error("{0}")]
    Damaged(String),
    /// The disk is full, broken, read-only or gone: close, wait, try again.
    #[error("{0}")]
    Disk(String),
}

/// Under what a message is handed to the log of which it must be known after a kill whether the log has it. Numbers count up within
/// a life of the broker, in the order in which messages are handed over and stored: so of a life the last one in the log says it of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Docket {
    /// Tells lives apart; random.
    pub life: u64,
    /// Its number in that life, from 1 on.
    pub n: u64,
}

impl Docket {
    /// Whether a log has this message whose last one is `last`. Of another life it cannot say.
    #[must_use]
    pub fn is_in(self, last: Option<Self>) -> bool {
        last.is_some_and(|last| last.life == self.life && last.n >= self.n)
    }
}

/// How a packet id of a session stands, by which its client publishes with QoS 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It is free.
    Free,
    /// Its message is here for whom it is for; that it is in the log is not known here, but the log may say it of this docket.
    Begun(Option<Docket>),
    /// Its message is where it has to be.
    Taken,
}

/// One change. Numbers of sessions and bodies are given out once and for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// A session, new or changed.
    Session(u64, &'a [u8]),
    /// A session goes, with all that is of it.
    Drop(u64),
    /// A subscription of a session; `None`: it goes.
    Filter(u64, &'a str, Option<&'a [u8]>),
    /// What several entries have in common. It goes with the last entry that names it.
    Body(u64, &'a [u8]),
    /// Something that waits for a session.
    Entry {
        /// Whose.
        session: u64,
        /// Its place.
        seq: u64,
        /// Its body; 0: none.
        body: u64,
        /// The rest of it.
        data: &'a [u8],
    },
    /// The receiver has it: the body is not needed any more, the entry still is.
    Released(u64, u64),
    /// An entry goes.
    Remove(u64, u64),
    /// A packet id of a session stands so now.
    Id(u64, u16, Standing),
    /// A retained message by its topic; `None`: it goes.
    Retained(&'a str, Option<&'a [u8]>),
    /// A note about the whole; the last one counts.
    Mark(&'a [u8]),
}

/// An entry as it lies on the shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEntry {
    /// Whose.
    pub session: u64,
    /// Its place.
    pub seq: u64,
    /// Its body; 0: none.
    pub body: u64,
    /// It was [`Change::Released`].
    pub released: bool,
    /// The rest of it.
    pub data: Vec<u8>,
}

/// All that lies there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Sessions by number.
    pub sessions: Vec<(u64, Vec<u8>)>,
    /// Subscriptions: whose, filter, options.
    pub filters: Vec<(u64, String, Vec<u8>)>,
    /// Bodies by number.
    pub bodies: HashMap<u64, Vec<u8>>,
    /// Entries by session and place, ascending.
    pub entries: Vec<KeptEntry>,
    /// Taken packet ids: whose, which.
    pub taken: Vec<(u64, u16)>,
    /// Those that are [`Standing::Begun`]: whose, which, under what.
    pub begun: Vec<(u64, u16, Option<Docket>)>,
    /// Retained messages: topic and bytes.
    pub retained: Vec<(String, Vec<u8>)>,
    /// The last note.
    pub mark: Option<Vec<u8>>,
    /// Rows that were left out, because they are damaged.
    pub damaged: u64,
    /// The name under which a damaged predecessor was set aside just now.
    pub set_aside: Option<String>,
}

/// The place itself. Used by one thread; every call may wait for the disk.
pub trait Shelf: Send {
    /// Opens it, makes a new one where there is none or where it is damaged, and reads everything.
    ///
    /// # Errors
    /// It is of a later version, or the disk is out of order.
    fn load(&mut self) -> Result<Kept, ShelfError>;

    /// Opens it again after an error, without reading it. Does nothing while it is open.
    ///
    /// # Errors
    /// As [`Shelf::load`]; and it is not the one that was loaded, or is damaged.
    fn reopen(&mut self) -> Result<(), ShelfError>;

    /// Whether it is still where it was; to be asked now and then. If not it is closed, so that nothing holds a file system
    /// that was unmounted beneath it.
    ///
    /// # Errors
    /// It is not.
    fn look(&mut self) -> Result<(), ShelfError>;

    /// Sets aside what lies there, and begins an empty one. Returns the new name of the old one, if there was one.
    ///
    /// # Errors
    /// The disk is out of order.
    fn renew(&mut self) -> Result<Option<String>, ShelfError>;

    /// Begins a group of changes. `grows`: something is to be added.
    ///
    /// # Errors
    /// The disk is out of order, or (only if it grows) has no room to spare. After any error it is closed.
    fn begin(&mut self, grows: bool) -> Result<(), ShelfError>;

    /// Adds a change to the group. Changes may be repeated: the outcome is the same.
    ///
    /// # Errors
    /// As [`Shelf::begin`].
    fn put(&mut self, change: Change<'_>) -> Result<(), ShelfError>;

    /// Makes the group durable, as a whole.
    ///
    /// # Errors
    /// As [`Shelf::begin`]; then nobody knows whether the group is there.
    fn commit(&mut self) -> Result<(), ShelfError>;

    /// Bytes it occupies.
    fn bytes(&self) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_what_came_before_its_last_one_and_says_nothing_of_other_lives() {
        let docket = |life, n| Docket { life, n };
        for (one, last, is) in [
            (docket(7, 3), Some(docket(7, 3)), true),
            (docket(7, 2), Some(docket(7, 3)), true),
            (docket(7, 4), Some(docket(7, 3)), false),
            (docket(6, 1), Some(docket(7, 3)), false),
            (docket(8, 1), Some(docket(7, 3)), false),
            (docket(7, 1), None, false),
        ] {
            assert_eq!(one.is_in(last), is, "{one:?} {last:?}");
        }
    }
}
