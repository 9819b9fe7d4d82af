//! What the kernel says of this process.

use std::time::Duration;

/// A look at this process.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// Resident memory in bytes; 0 where `/proc` is not readable.
    pub rss_bytes: u64,
    /// Open file descriptors; 0 where `/proc` is not readable.
    pub open_files: u64,
}

impl Process {
    /// As it is now.
    #[must_use]
    pub fn now() -> Self {
        Self { rss_bytes: rss_bytes(), open_files: open_files() }
    }
}

/// Resident memory in bytes; 0 where `/proc` is not readable.
#[must_use]
pub fn rss_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or(0, |pages| pages * u64::try_from(rustix::param::page_size()).unwrap_or(4096))
}

/// Processor time used so far; nothing where `/proc` is not readable. In hundredths of a second.
#[must_use]
pub fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name, in brackets, may hold anything.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1))
}

fn open_files() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count() as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_running_process_has_memory_and_files() {
        assert!(super::rss_bytes() > 100_000 && super::open_files() >= 3);
    }

    #[test]
    fn work_takes_processor_time() {
        let before = super::cpu_time();
        let mut n = 0u64;
        while super::cpu_time() < before + super::Duration::from_millis(50) {
            n = std::hint::black_box(n + 1);
        }
    }
}
