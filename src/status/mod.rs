//! What the gateway says of itself: one snapshot, shown over MQTT, on the control socket, to
//! systemd and in the journal. Status reads counters and depths; nobody below reads status.

pub mod journal;
pub mod notify;
pub mod process;
pub mod snapshot;
pub mod uplink;

pub use snapshot::{Rates, Snapshot};
