//! From samples to readings, and from readings to payloads: scale, quality, report by exception,
//! topics. Decided in pure functions; nothing here waits for anything.

pub mod base64;
pub mod compact;
pub mod forwarded;
pub mod meta;
pub mod payload;
pub mod report;
pub mod rule;
pub mod scale;
pub mod topics;
