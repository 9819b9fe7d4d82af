//! fieldgate: an edge gateway. The floors of the house, from the roof down; imports go down only.

pub mod backoff;
pub mod bounds;
pub mod broker;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod cmd;
pub mod columns;
pub mod config;
pub mod counters;
pub mod forward;
pub mod message;
pub mod pipeline;
pub mod points;
pub mod poll;
pub mod registry;
pub mod runtime;
pub mod status;
pub mod store;
pub mod topic;
pub mod uplink;
