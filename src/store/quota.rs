//! How much must go. Pure.
//!
//! `max_size` is the budget of database and WAL together. `min_free` is disk that the log does not grow
//! into: below it new blocks only take the room of old ones. (Somebody else's full disk is no reason to
//! throw the whole backlog away.)

use std::time::Duration;

use crate::config::model;

/// The user's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Database and WAL, bytes.
    pub max_size: u64,
    /// Older readings go.
    pub max_age: Duration,
    /// Free disk that is never touched, bytes.
    pub min_free: u64,
    /// What every uplink has passed stays this long.
    pub history: Duration,
    /// Longest wait of a reading for its commit.
    pub commit_interval: Duration,
    /// Before blocks are dropped, of fast points one reading in each stretch of this length stays; `None`: all do.
    pub thin: Option<Duration>,
}

impl From<&model::Store> for Limits {
    fn from(config: &model::Store) -> Self {
        Self {
            max_size: config.max_size.0,
            max_age: config.max_age.0,
            min_free: config.min_free.0,
            history: config.history.0,
            commit_interval: config.commit_interval.0,
            thin: config.thin.map(|thin| thin.0),
        }
    }
}

impl Limits {
    /// Bytes the WAL may have before it is written back: an eighth of the budget, 64 KiB to 4 MiB.
    #[must_use]
    pub fn wal(&self) -> u64 {
        (self.max_size / 8).clamp(64 << 10, 4 << 20)
    }

    /// Bytes that go at once, so that not every commit has to drop: 1/64 of the budget.
    #[must_use]
    pub fn stride(&self) -> u64 {
        self.max_size / 64
    }
}

/// What is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Size of the database file, bytes.
    pub file: u64,
    /// Of it, room that new blocks may take.
    pub reusable: u64,
    /// Free disk; `None` if it cannot be known.
    pub free: Option<u64>,
}

/// Most room to keep for new blocks below `min_free`, bytes.
const ROOM: u64 = 256 << 10;
/// A log up to this size still grows there: what it could give is not worth the readings.
const SMALL: u64 = 256 << 10;

/// Bytes of the oldest blocks that must go now; 0 for none.
#[must_use]
pub fn excess(usage: Usage, limits: &Limits) -> u64 {
    let used = usage.file.saturating_sub(usage.reusable);
    let budget = limits.max_size.saturating_sub(limits.wal());
    let over = if used > budget { used - budget + limits.stride() } else { 0 };
    let squeezed = usage.free.is_some_and(|free| free < limits.min_free);
    let room = if used > SMALL { ROOM.min(used / 8) } else { 0 };
    let tight = if squeezed && usage.reusable < room / 2 { room - usage.reusable } else { 0 };
    over.max(tight)
}

/// Whether it is time to thin, so that nothing must go: two strides before [`excess`] says so, or where there is no room
/// to grow into. A stride beyond it only dropping is fast enough.
#[must_use]
pub fn is_pressed(usage: Usage, limits: &Limits) -> bool {
    let used = usage.file.saturating_sub(usage.reusable);
    let budget = limits.max_size.saturating_sub(limits.wal());
    let squeezed = usage.free.is_some_and(|free| free < limits.min_free);
    let tight = squeezed && used > SMALL && usage.reusable < ROOM.min(used / 8);
    used <= budget + limits.stride() && (tight || used > budget.saturating_sub(2 * limits.stride()))
}

/// Whether what was last taken so long ago (ms) is over age. What has no age is not: a clock that is not set, or set
/// for the first time, makes nothing old.
#[must_use]
pub fn expired(age: Option<i64>, limits: &Limits) -> bool {
    age.is_some_and(|age| age > ms(limits.max_age))
}

/// Whether what was last taken so long ago (ms) belongs to the history that is kept. What has no age is old.
#[must_use]
pub fn is_history(age: Option<i64>, limits: &Limits) -> bool {
    age.is_some_and(|age| age < ms(limits.history))
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_size: 64 << 20,
        max_age: Duration::from_secs(3600),
        min_free: 1 << 30,
        history: Duration::ZERO,
        commit_interval: Duration::from_millis(500),
        thin: None,
    };

    #[test]
    fn the_budget_holds_with_the_wal_in_it() {
        let usage = |file, reusable| Usage { file, reusable, free: Some(2 << 30) };
        assert_eq!(excess(usage(60 << 20, 0), &LIMITS), 0);
        assert_eq!(excess(usage(61 << 20, 0), &LIMITS), 2 << 20);
        assert_eq!(excess(usage(61 << 20, 1 << 20), &LIMITS), 0, "what may be used again is not used");
    }

    #[test]
    fn below_min_free_the_log_lives_on_its_own_room() {
        let usage = |reusable| Usage { file: 30 << 20, reusable, free: Some(1 << 20) };
        assert_eq!(excess(usage(0), &LIMITS), ROOM);
        assert_eq!(excess(usage(ROOM), &LIMITS), 0);
        assert_eq!(excess(Usage { free: None, ..usage(0) }, &LIMITS), 0);
        assert_eq!(
            excess(Usage { file: 1 << 20, ..usage(0) }, &LIMITS),
            128 << 10,
            "no more than an eighth of it"
        );
        assert_eq!(excess(Usage { file: SMALL, ..usage(0) }, &LIMITS), 0, "a small log is not thrown away");
    }

    #[test]
    fn it_is_thinned_before_something_must_go() {
        let usage = |file, reusable| Usage { file, reusable, free: Some(2 << 30) };
        assert!(!is_pressed(usage(57 << 20, 0), &LIMITS));
        assert!(is_pressed(usage(59 << 20, 0), &LIMITS));
        assert!(!is_pressed(usage(59 << 20, 2 << 20), &LIMITS), "what may be used again is not used");
        assert!(!is_pressed(usage(62 << 20, 0), &LIMITS), "too late");
        let squeezed = |reusable| Usage { file: 30 << 20, reusable, free: Some(1 << 20) };
        assert_eq!((is_pressed(squeezed(0), &LIMITS), is_pressed(squeezed(ROOM), &LIMITS)), (true, false));
    }

    #[test]
    fn what_has_no_age_does_not_expire_and_is_no_history() {
        let limits = Limits { history: Duration::from_secs(60), ..LIMITS };
        let both = |age| (expired(age, &limits), is_history(age, &limits));
        assert_eq!(both(None), (false, false));
        assert_eq!(both(Some(59_999)), (false, true));
        assert_eq!(both(Some(60_000)), (false, false));
        assert_eq!(both(Some(3_600_001)), (true, false));
        assert_eq!(both(Some(-5)), (false, true), "a clock that went back");
    }
}
