//! From readings to what is stored and published: topics and payloads of the public contract.

pub mod payload;
pub mod topics;
