//! Builds and owns the task tree; reload; shutdown from the taps downwards.

mod cloud;
pub mod control;
mod field;
mod flow;
mod gateway;
mod observe;
mod reload;
pub mod service;

pub use field::lone_bus;
pub use gateway::{GRACE, Gateway};
