//! The store's figures, as contract §3 names them.

use std::time::Duration;

use serde::Serialize;

use super::state::{Phase, State};

/// How the store is; flat, for the status topic and `/metrics`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoreStatus {
    /// `ok`, `fault`, `closed` or `ended`.
    pub state: &'static str,
    /// What is wrong, if something is.
    pub last_error: Option<String>,
    /// Size of the database with its WAL and the ballast, bytes: what counts against `max_size`. (Not with what was
    /// set aside.)
    pub bytes: u64,
    /// Of them, the ballast: room that is kept for a full disk. 0: none, or it was given up.
    pub ballast_bytes: u64,
    /// Readings in the log: those that an uplink has not passed yet, and the history.
    pub readings: u64,
    /// Readings in RAM on their way to the disk.
    pub readings_in_ram: u64,
    /// Time of the oldest stored reading, RFC 3339.
    pub oldest_ts: Option<String>,
    /// Highest durable number; 0 for none.
    pub stored_seq: u64,
    /// The number the next reading gets.
    pub next_seq: u64,
    /// The epoch.
    pub epoch: String,
    /// The most that a power cut at this moment would take, in readings.
    pub power_cut_bound: u64,
    /// Readings dropped by limits, overflow or damage since the start.
    pub dropped: u64,
    /// Readings of fast points thinned out since the start, because `thin` is set.
    pub thinned: u64,
    /// Commits since the start.
    pub commits: u64,
    /// 99th percentile of the last 256 commits' duration, ms.
    pub fsync_ms_p99: f64,
    /// Bytes the database wrote since the start, about.
    pub bytes_written: u64,
    /// Of them for each reading taken.
    pub bytes_per_reading: f64,
    /// What that makes in a day, at the rate since the start; `None` in the first minute.
    pub bytes_per_day: Option<u64>,
    /// Times the head file could not be written.
    pub head_failures: u64,
    /// Damaged databases in the directory.
    pub set_aside: Vec<String>,
    /// What else than now the gateway was called when readings of the log were taken.
    pub earlier_ids: Vec<String>,
}

impl StoreStatus {
    pub(super) fn of(state: &State, ended: bool) -> Self {
        let figures = &state.figures;
        let mut durations: Vec<f64> = figures.commit_ms.iter().copied().collect();
        durations.sort_by(f64::total_cmp);
        let p99 = durations.get((durations.len() * 99).div_ceil(100).saturating_sub(1));
        let (word, last_error) = match &state.phase {
            Phase::Closed => ("closed", None),
            _ if ended => ("ended", Some("the store's thread failed".to_owned())),
            Phase::Ok => ("ok", None),
            Phase::Fault(why) => ("fault", Some(why.clone())),
        };
        Self {
            state: word,
            last_error,
            bytes: figures.bytes + figures.wal + figures.ballast,
            ballast_bytes: figures.ballast,
            readings: state.present.len().saturating_sub(state.thinned.gone),
            readings_in_ram: state.ring.len() as u64 + (state.hand.end - state.hand.start),
            oldest_ts: state.oldest_of("", state.present.first()).map(|ts| ts.to_string()),
            stored_seq: state.stored - 1,
            next_seq: state.next,
            epoch: state.epoch.to_string(),
            power_cut_bound: state.bound_saved,
            dropped: figures.dropped,
            thinned: figures.thinned,
            commits: figures.commits,
            fsync_ms_p99: p99.copied().unwrap_or(0.0),
            bytes_written: figures.bytes_written,
            bytes_per_reading: wear(figures.bytes_written, figures.taken),
            bytes_per_day: a_day(figures.bytes_written, figures.since.elapsed()),
            head_failures: figures.head_failures,
            set_aside: figures.set_aside.clone(),
            earlier_ids: state.epochs.earlier_names(&state.present),
        }
    }
}

/// Rounded to tenths: it is a figure for people.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn wear(bytes: u64, readings: u64) -> f64 {
    (bytes as f64 / readings.max(1) as f64 * 10.0).round() / 10.0
}

fn a_day(bytes: u64, passed: Duration) -> Option<u64> {
    let seconds = passed.as_secs();
    (seconds >= 60)
        .then(|| u64::try_from(u128::from(bytes) * 86_400 / u128::from(seconds)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wear_is_told_for_a_reading_and_for_a_day() {
        assert_eq!((wear(0, 0), wear(12_345, 1000)), (0.0, 12.3));
        assert_eq!(a_day(1000, Duration::from_secs(59)), None);
        assert_eq!(a_day(1000, Duration::from_secs(3600)), Some(24_000));
    }
}
