//! What a fuzzer calls: bytes into the reader of packets, without a connection around it. `tests/fuzz` has the targets.

use super::wire::{Version, decode, reader};

/// Reads bytes as a broker would from a client: as a stream of packets, the first of them as CONNECT, and as one packet of each
/// kind; in every version. How many packets were well-formed. Never panics.
#[must_use]
pub fn read(bytes: &[u8]) -> usize {
    const LARGEST: usize = 1 << 20;
    let versions = [Version::V3, Version::V4, Version::V5];
    let mut good = 0;
    let mut rest = bytes;
    while let Ok(Some(frame)) = reader::frame(rest, LARGEST) {
        let body = &rest[frame.start..frame.end];
        good += usize::from(decode::connect(frame.first, body).is_ok());
        good += versions.iter().filter(|v| decode::packet(**v, frame.first, body).is_ok()).count();
        rest = &rest[frame.end..];
    }
    if let Some((first, body)) = bytes.split_first() {
        good += usize::from(decode::connect(*first, body).is_ok());
        good += versions.iter().filter(|v| decode::packet(**v, *first, body).is_ok()).count();
    }
    good
}
