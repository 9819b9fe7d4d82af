//! The field side: one task per bus, and the commander that brings writes to them.
//!
//! What you may rely on:
//! - One task owns one bus; an exchange on the wire is never cut short.
//! - A dead device takes at most one twentieth of its bus's time, a stuck bus nothing from others.
//! - A write or a one-shot read goes before the next poll, never into the middle of one.
//! - What is carried for others (`share`) gets what the polls leave, and never less than a tenth of the bus.
//! - The task ends only when it is told to stop; whatever the port does, it goes on trying.

mod ask;
pub mod budget;
mod bus;
pub mod cadence;
pub mod commander;
pub mod health;
pub mod lateness;
pub mod phase;
mod recalled;
pub mod schedule;
pub mod share;
pub mod stats;
#[cfg(test)]
mod tests;

pub use ask::{Ask, BusHandle, Carried, Carry, Exchange, Failed, Guest, NotCarried, Pending};
pub use bus::BusTask;
