//! wip
pub mod check;
pub mod endpoint;
pub mod inflight;
pub mod lanes;
pub mod mirror;
pub mod share;
