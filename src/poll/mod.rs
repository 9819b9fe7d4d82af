//! The field side: one task per bus, and the commander that brings writes to them.
//!
//! What you may rely on:
//! - One task owns one bus; an exchange on the wire is never cut short.
//! - A dead device takes at most one twentieth of its bus's time, a stuck bus nothing from others.
//! - A write or a one-shot read goes before the next poll, never into the middle of one.
//! - The task ends only when it is told to stop; whatever the port does, it goes on trying.

mod ask;
pub mod budget;
mod bus;
pub mod cadence;
pub mod commander;
pub mod health;
pub mod lateness;
pub mod phase;
pub mod schedule;
pub mod stats;
#[cfg(test)]
mod tests;

pub use ask::{Ask, BusHandle, Exchange, Failed, Pending};
pub use bus::BusTask;
