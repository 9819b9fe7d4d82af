//! Rules of `[store]`.

use std::time::Duration;

use driver_api::{ByteSize, Problem, Span};

use super::{Everything, Findings, last_place};
use crate::config::buses::CompiledBus;
use crate::config::model::Store;

/// Below this the store cannot hold its own ballast and a few minutes of readings.
const MIN_SIZE: ByteSize = ByteSize::mib(16);
/// Shortest and longest wait for a commit. An SD card takes some 5 ms to sync; a minute is the most
/// that anyone should risk to a power cut.
const COMMIT: (Span, Span) = (Span::ms(10), Span::s(60));

/// What a backlog can be thinned to. More seldom than once a day says nothing of a plant any more.
const THIN: (Span, Span) = (Span::s(1), Span::s(86_400));

/// What is asked of the store must fit the points that there are.
pub(in crate::config) fn after_compiling(
    store: &Store,
    buses: &[CompiledBus],
    all: &Everything<'_>,
    findings: &mut Findings,
) {
    let Some(thin) = store.thin else { return };
    let points = || buses.iter().flat_map(|bus| &bus.points).filter(|point| point.deadband.is_none());
    if points().next().is_some() && points().all(|point| point.interval >= thin.0) {
        let message =
            format!("`thin` of {thin} has no effect: no point without a deadband is read more often");
        let hint = "leave it out, or give it a time that is longer than the points' `interval`";
        findings.warnings.push(Problem::new(last_place(&all.store, "thin"), message).hint(hint));
    }
}

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
    if let Some(thin) = store.thin.filter(|thin| *thin < THIN.0 || *thin > THIN.1) {
        let message = format!("`thin` of {thin} is out of range");
        let hint = format!(
            "it goes from {} to {}: of each fast point one reading in this time stays; leave it out to thin nothing",
            THIN.0, THIN.1
        );
        problems.push(Problem::new(at("thin"), message).hint(hint));
    }
    if store.max_age.0 < Duration::from_secs(60) {
        let message = format!("`max_age` of {} would throw readings away at once", store.max_age);
        problems.push(
            Problem::new(at("max_age"), message).hint("give it at least `\"1m\"`; the default is `\"30d\"`"),
        );
    }
}
