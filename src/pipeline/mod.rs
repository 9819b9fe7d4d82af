//! From samples to readings: scale, quality, report by exception. Pure functions and their state;
//! the one task here numbers readings in the store and publishes them locally.

pub mod meta;
pub mod report;
pub mod rule;
pub mod scale;
