//! wip
pub mod check;
pub mod endpoint;
pub mod inflight;
pub mod lanes;
pub mod mirror;
pub mod share;
pub mod counters;
pub mod fault;
pub mod formats;
pub mod guard;
pub mod link;
pub mod liveness;
pub mod protocol;
pub mod timing;
pub mod tls;
pub mod websocket;
