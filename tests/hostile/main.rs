//! Hostile clients against the daemon: what is known to kill brokers or to make them swell, in numbers. The daemon lives, polls
//! on, serves others meanwhile, and its memory stays under a bound and comes back; the figures are printed.
//!
//! `cargo test --test hostile -- --nocapture` shows them. Single packets that kill are in `tests/broker/killers.rs`.

#![expect(clippy::unwrap_used, reason = "a helper of a test that fails is a failed test")]

mod crowds;
mod floods;
mod house;
mod polls;
#[expect(dead_code, reason = "some of it is for a broker in the test's own process")]
#[path = "../broker/raw.rs"]
mod raw;
