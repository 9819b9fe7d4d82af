//! What a bus counts of itself. Written by its task alone, read by status.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use driver_api::{FrameError, Learned, ReadError};

use super::lateness::Lateness;
use super::share::ShareStats;
use crate::message::BootMs;

/// Every exchange ends within its device's timeout, and those are seconds.
const STUCK_AFTER_MS: u64 = 60_000;

/// Counters of one bus since it was built.
#[derive(Debug)]
pub struct BusStats {
    /// The bus's name.
    pub name: String,
    /// Whether the port is open.
    open: AtomicU8,
    /// Microseconds spent in exchanges.
    pub busy_us: AtomicU64,
    /// Exchanges.
    pub requests: AtomicU64,
    /// Exchanges without an answer in time.
    pub timeouts: AtomicU64,
    /// Answers with a wrong checksum.
    pub crc_errors: AtomicU64,
    /// Answers of a wrong shape, or of another device.
    pub protocol_errors: AtomicU64,
    /// Answers that were an exception.
    pub exceptions: AtomicU64,
    /// Times the port was opened again.
    pub reconnects: AtomicU64,
    /// Polls skipped because the one before was still running.
    pub overruns: AtomicU64,
    /// The longest that a poll of a living block began after it was due, over the last minute or two.
    pub lateness_us_max: AtomicU64,
    /// What 99 of 100 of them did not exceed.
    pub lateness_us_p99: AtomicU64,
    /// Milliseconds of boot time at the task's last sign of life.
    pub alive_boot_ms: AtomicU64,
    /// One per device, in the plan's order.
    pub devices: Vec<DeviceStats>,
    /// Requests that wrote or may have written, whoever's: what was read before them is no longer known.
    pub writes: AtomicU64,
    /// The server onto it for other masters.
    pub share: ShareStats,
}

/// Counters of one device.
#[derive(Debug)]
pub struct DeviceStats {
    /// The device's name.
    pub name: String,
    /// 0 not yet asked, 1 online, 2 suspect, 3 offline.
    state: AtomicU8,
    /// Boot time of the last good answer, ms; 0 for never. The store knows where that is on the wall.
    pub last_ok: AtomicU64,
    /// Failed exchanges.
    pub failures: AtomicU64,
    /// How long it usually takes to begin an answer; 0 while that is not known.
    pub turnaround_us: AtomicU64,
    /// Blocks that it refuses as a whole.
    pub split_blocks: AtomicU64,
    /// The requests that those take instead.
    pub split_parts: AtomicU64,
}

const STATES: [&str; 4] = ["starting", "online", "suspect", "offline"];

impl DeviceStats {
    /// A device that was not yet asked.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self {
            name,
            state: AtomicU8::new(0),
            last_ok: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            turnaround_us: AtomicU64::new(0),
            split_blocks: AtomicU64::new(0),
            split_parts: AtomicU64::new(0),
        }
    }
    /// The state's word.
    #[must_use]
    pub fn state(&self) -> &'static str {
        STATES.get(usize::from(self.state.load(Relaxed))).copied().unwrap_or("starting")
    }
    pub(super) fn learned(&self, learned: Learned) {
        self.turnaround_us.store(micros(learned.turnaround.unwrap_or_default()), Relaxed);
        let count = |n| u64::try_from(n).unwrap_or(u64::MAX);
        self.split_blocks.store(count(learned.split_blocks), Relaxed);
        self.split_parts.store(count(learned.split_parts), Relaxed);
    }
    pub(super) fn set_state(&self, word: &str) {
        let index = STATES.iter().position(|s| *s == word).unwrap_or(0);
        self.state.store(u8::try_from(index).unwrap_or(0), Relaxed);
    }
}

impl BusStats {
    /// All zero.
    #[must_use]
    pub fn new(name: &str, devices: impl Iterator<Item = String>) -> Self {
        Self {
            name: name.to_owned(),
            open: AtomicU8::new(0),
            busy_us: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            timeouts: AtomicU64::new(0),
            crc_errors: AtomicU64::new(0),
            protocol_errors: AtomicU64::new(0),
            exceptions: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            overruns: AtomicU64::new(0),
            lateness_us_max: AtomicU64::new(0),
            lateness_us_p99: AtomicU64::new(0),
            alive_boot_ms: AtomicU64::new(0),
            devices: devices.map(DeviceStats::new).collect(),
            writes: AtomicU64::new(0),
            share: ShareStats::default(),
        }
    }

    /// The state's word at this boot time: `starting`, `up`, `down`, or `stuck` when the task has shown
    /// no sign of life for a minute (a driver that hangs in the kernel).
    #[must_use]
    pub fn state_at(&self, now: BootMs) -> &'static str {
        let silent = now.0.saturating_sub(self.alive_boot_ms.load(Relaxed));
        if self.state() != "starting" && silent > STUCK_AFTER_MS { "stuck" } else { self.state() }
    }

    /// The state's word: `starting`, `up` or `down`.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.open.load(Relaxed) {
            0 => "starting",
            1 => "up",
            _ => "down",
        }
    }

    pub(super) fn set_open(&self, open: bool) {
        self.open.store(if open { 1 } else { 2 }, Relaxed);
    }

    /// Says `down` for a task that ended by a fault and cannot say it itself.
    pub(crate) fn died(&self) {
        self.set_open(false);
    }

    pub(super) fn late(&self, lateness: &Lateness) {
        self.lateness_us_max.store(micros(lateness.worst()), Relaxed);
        self.lateness_us_p99.store(micros(lateness.p99()), Relaxed);
    }

    /// Counts one exchange and how it ended.
    pub(super) fn count(&self, cost: Duration, failure: Option<&ReadError>) {
        self.busy_us.fetch_add(micros(cost), Relaxed);
        self.requests.fetch_add(1, Relaxed);
        let counter = match failure {
            None | Some(ReadError::Bus(_)) => return,
            Some(ReadError::Refused(_) | ReadError::Transient(FrameError::Exception(_))) => &self.exceptions,
            Some(ReadError::Transient(FrameError::Timeout(_))) => &self.timeouts,
            Some(ReadError::Transient(FrameError::Crc { .. })) => &self.crc_errors,
            Some(ReadError::Transient(FrameError::Protocol(_))) => &self.protocol_errors,
        };
        counter.fetch_add(1, Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
