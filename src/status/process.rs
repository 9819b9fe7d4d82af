//! What the kernel says of this process.

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

fn rss_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or(0, |pages| pages * u64::try_from(rustix::param::page_size()).unwrap_or(4096))
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
}
