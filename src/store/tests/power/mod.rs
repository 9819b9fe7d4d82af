//! Power cuts and I/O errors under the store, at any call of SQLite.
//!
//! `disk` is what a disk remembers, `vfs` stands between SQLite and the files, `witness` keeps the ledger outside of
//! the store, `scene` is the life that is cut; `cuts`, `errors`, `thin_errors`, `damage` and `clocks` are the tests.
//!
//! In every other life messages of other devices are among the readings; the first uplink forwards them, the second does not.
//!
//! # What is modelled
//! - Database, WAL and journal: everything since the last sync of the file may survive or not, page by page or in the
//!   order of the writes, one page only up to a sector; so may its length, and its name until the directory is synced.
//!   A file that is made shorter is so as a whole or not at all, as file systems with a journal do it.
//! - The mark (`identity`): written to another name, synced, renamed, the directory synced. It is always whole; cut in
//!   the middle of its writing, it is the one before, with a torn `mark.tmp` beside it.
//! - The head (`head`): in the page cache only. After a cut it is gone, empty, or in any of the states it had.
//! - The `lock` holds a word that is not synced: after a cut it is gone, empty or whole.

mod clocks;
mod cuts;
mod damage;
pub mod disk;
mod errors;
mod scene;
mod thin_errors;
pub mod vfs;
mod witness;

use std::collections::{BTreeMap, BTreeSet};

pub use cuts::{deep, room};

use crate::message::Docket;

/// What is known at the moment of a cut.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// One past what the store said was stored.
    pub stored: u64,
    /// One past what was given out.
    pub next: u64,
    /// What the store said a power cut would take at most.
    pub bound: u64,
    /// More was taken than ever before, and the commit that makes the bound larger is not through: the case the
    /// store excepts from it.
    pub burst: bool,
    /// The disk said that it synced, and did not.
    pub lying: bool,
    /// One past what the mark says was stored.
    pub marked: u64,
    /// What an uplink was told of the time of each number, where the test keeps that.
    pub times: BTreeMap<u64, (i64, driver_api::Quality)>,
    /// The corrections that it was told, by their handles.
    pub corrections: BTreeMap<u64, crate::message::CorrectionRecord>,
    /// What the uplinks know.
    pub said: BTreeMap<String, witness::Said>,
    /// There are messages among the readings.
    pub mixed: bool,
    /// All messages of other devices, each with the docket that it was given under: each life of the store is one of the broker.
    pub dockets: BTreeMap<u64, Docket>,
    /// Messages of other devices of which the store said that they are stored.
    pub kept: BTreeSet<u64>,
    /// Those that `cloud` acknowledged.
    pub arrived: BTreeSet<u64>,
}
