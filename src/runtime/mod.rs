//! Builds and owns the task tree; reload; shutdown from the taps downwards.

pub mod backup;
mod cloud;
pub mod control;
mod ending;
pub mod export;
mod field;
mod flow;
mod forward;
mod gateway;
pub mod lines;
mod memory;
pub mod names;
mod observe;
mod reload;
pub mod service;
#[cfg(test)]
mod tests;
mod watchdog;

pub use ending::{GRACE, LONGEST_STOP};
pub use field::lone_bus;
pub use forward::wishes;
pub use gateway::Gateway;
pub use memory::few_arenas;
