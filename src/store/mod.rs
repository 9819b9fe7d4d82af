//! The durable log: readings go in once, and stay until every uplink's broker acknowledged them.

mod drain;

pub use drain::{Chunk, Drain, DrainError, Ledger};
