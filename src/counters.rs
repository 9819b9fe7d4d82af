//! Counters that a task below writes and status above reads.

use std::sync::atomic::AtomicU64;

/// What the flow of readings counts.
#[derive(Debug, Default)]
pub struct FlowStats {
    /// Readings numbered since the start.
    pub readings: AtomicU64,
    /// Boot time of the last sign of life, ms.
    pub alive_boot_ms: AtomicU64,
}
