//! Rules of `[store]`.

use std::time::Duration;

use driver_api::{ByteSize, Problem, Span};

use super::{Everything, Findings, last_place};
use crate::config::model::Store;

/// Below this the store cannot hold its own ballast and a few minutes of readings.
const MIN_SIZE: ByteSize = ByteSize::mib(16);
/// Shortest and longest wait for a commit. An SD card takes some 5 ms to sync; a minute is the most
/// that anyone should risk to a power cut.
const COMMIT: (Span, Span) = (Span::ms(10), Span::s(60));

pub(super) fn check(store: &Store, all: &Everything<'_>, findings: &mut Findings) {
    let problems = &mut findings.problems;
    let at = |key| last_place(&all.store, key);
    if store.max_size < MIN_SIZE {
        let message = format!("`max_size` of {} is too small", store.max_size);
        problems.push(Problem::new(at("max_size"), message).hint(format!("give it at least {MIN_SIZE}")));
    }
    let commit = store.commit_interval;
    if commit < COMMIT.0 || commit > COMMIT.1 {
        let message = format!("`commit_interval` of {commit} is out of range");
        let hint =
            format!("it goes from {} to {}; what it spans is what a power cut takes", COMMIT.0, COMMIT.1);
        problems.push(Problem::new(at("commit_interval"), message).hint(hint));
    }
    if store.max_age.0 < Duration::from_secs(60) {
        let message = format!("`max_age` of {} would throw readings away at once", store.max_age);
        problems.push(
            Problem::new(at("max_age"), message).hint("give it at least `\"1m\"`; the default is `\"30d\"`"),
        );
    }
}
