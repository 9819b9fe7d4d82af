//! Fuzz target: two clients that say anything, before and after CONNECT, to a whole broker.

#![no_main]

mod converse;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| converse::converse(bytes));
