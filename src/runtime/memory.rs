//! Gives memory back to the system when the work that needed it is over.
//!
//! # What it promises
//! - After a burst (a flood of clients, a backlog read from disk) resident memory falls back to about what it was before, within
//!   seconds once the process is quiet, within minutes if it never is.
//! - Where nothing can be given back, it is tried ever more seldom: at most every five minutes.
//!
//! # Why
//! glibc keeps what was freed for the next allocation, in as many pools (arenas) as there are busy threads, and gives back only what lies
//! at the end of one. On a box with 512 MiB the next program needs it more. With another C library this does nothing.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::status::process;

/// How often is looked.
const LOOK: Duration = Duration::from_secs(2);
/// Less growth than this is not worth the walk over all free memory, a few milliseconds.
const WORTH: u64 = 1 << 20;
/// Between two tries: after one that was worth it, and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// Share of one processor below which the process is quiet.
const QUIET: f64 = 0.2;

/// When it is worth trying. Pure.
#[derive(Debug)]
struct Tending {
    /// The least that was resident after a try, or at the start.
    floor: u64,
    busy: bool,
    wait: Duration,
    not_before: Option<Instant>,
}

impl Tending {
    fn new(resident: u64) -> Self {
        Self { floor: resident, busy: true, wait: WAIT.0, not_before: None }
    }

    /// Whether to try now. `load` is the share of one processor used since the last look.
    fn is_due(&mut self, resident: u64, load: f64, now: Instant) -> bool {
        let busy = load > QUIET;
        if self.busy && !busy {
            // What was needed a moment ago is likely free now.
            self.wait = WAIT.0;
            self.not_before = None;
        }
        self.busy = busy;
        resident > self.floor + WORTH && self.not_before.is_none_or(|at| at <= now)
    }

    fn tried(&mut self, before: u64, after: u64, now: Instant) {
        self.floor = self.floor.min(after);
        self.wait = if after + WORTH <= before { WAIT.0 } else { (self.wait * 2).min(WAIT.1) };
        self.not_before = Some(now + self.wait);
    }
}

/// Looks every few seconds, for ever.
pub(super) async fn tend() {
    let mut tending = Tending::new(process::rss_bytes());
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut used) = (Instant::now(), process::cpu_time());
    loop {
        ticks.tick().await;
        let (now, cpu, before) = (Instant::now(), process::cpu_time(), process::rss_bytes());
        let load = cpu.saturating_sub(used).as_secs_f64() / now.duration_since(last).as_secs_f64().max(0.001);
        (last, used) = (now, cpu);
        if tending.is_due(before, load, now) {
            // On a thread that nobody waits for.
            let _ = tokio::task::spawn_blocking(give_back).await;
            let after = process::rss_bytes();
            tracing::debug!(before, after, "memory given back");
            tending.tried(before, after, Instant::now());
        }
    }
}

/// For the start of the process, before there are threads: two arenas instead of eight for each processor, and large
/// blocks straight from the system and back to it.
pub fn few_arenas() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 128 << 10), (libc::M_TRIM_THRESHOLD, 1 << 20)]
    {
        // SAFETY: mallopt takes two numbers, keeps no pointer and locks what it changes; a value it does not like it refuses.
        unsafe { libc::mallopt(parameter, value) };
    }
}

fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number, locks each arena while it gives back its free pages, and touches nothing in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn it_is_tried_when_the_work_is_over_and_ever_more_seldom_in_vain() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut tending = Tending::new(10 * MIB);
        assert!(!tending.is_due(10 * MIB + MIB, 0.9, at(0)), "not worth it");
        assert!(tending.is_due(50 * MIB, 0.9, at(2)));
        tending.tried(50 * MIB, 50 * MIB, at(2));
        let tries = (3..2000).filter(|s| {
            let due = tending.is_due(60 * MIB, 0.9, at(*s));
            if due {
                tending.tried(60 * MIB, 60 * MIB, at(*s));
            }
            due
        });
        assert_eq!(tries.collect::<Vec<_>>(), [22, 62, 142, 302, 602, 902, 1202, 1502, 1802]);
        assert!(tending.is_due(60 * MIB, 0.1, at(2001)), "quiet: at once");
        tending.tried(60 * MIB, 9 * MIB, at(2001));
        assert!(!tending.is_due(9 * MIB, 0.1, at(2020)));
        assert!(tending.is_due(11 * MIB, 0.1, at(2022)));
    }

    #[test]
    fn freed_memory_goes_back_to_the_system() {
        few_arenas();
        // Every other block stays, so that no arena ends in free memory.
        let mut blocks: Vec<Option<Vec<u8>>> = (0..20_000).map(|_| Some(vec![1; 4096])).collect();
        let mut keep = Vec::new();
        for (n, block) in blocks.iter_mut().enumerate() {
            let block = block.take();
            if n % 64 == 0 {
                keep.push(block);
            }
        }
        drop(blocks);
        let before = process::rss_bytes();
        give_back();
        let after = process::rss_bytes();
        // Other tests of this process allocate beside it.
        assert!(after + 20 * MIB < before, "{before} -> {after}");
        drop(keep);
    }
}
