//! Builds and owns the task tree; reload; shutdown from the taps downwards.

pub mod control;
