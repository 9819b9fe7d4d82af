//! Readings as columns: how many of them become few bytes. Pure.
//!
//! Shared by the log's blocks (`store/block.rs`) and the wire format `compact` (`pipeline/compact/`). Each of the
//! two has a header and a version of its own around these columns: who changes them gives both a new version
//! and keeps reading the old one, for blocks are on disks and messages in archives.
//!
//! One body is, column after column (varints and runs as in [`column`]): the points ([`dictionary`]) · for each
//! reading its point as difference to the previous index + 1 · its time as difference to the previous time, ms ·
//! kinds as runs (0 none, 1 bool, 2 int, 3 uint, 4 float, 5 text) · qualities as runs (severity × 1024 + reason
//! code; severity 0 good, 1 uncertain, 2 bad) · tags of the floats as runs · values in order: bool one byte; int
//! and uint as difference to the same point's last; float by its tag; text with its length.
//!
//! Promises: what is written reads back equal, floats bit for bit. No bytes make reading panic, or allocate more
//! than some multiple of the input and of the number of readings that the caller allows.

pub mod body;
pub mod column;
pub mod dictionary;
