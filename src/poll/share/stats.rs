//! What a share counts of itself. Written by its tasks, read by status.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// Counters of one share since the bus was built.
#[derive(Debug, Default)]
pub struct ShareStats {
    door: Mutex<Door>,
    /// Clients connected now.
    pub clients: AtomicU64,
    /// Requests of clients.
    pub requests: AtomicU64,
    /// Answered with an exception of the gateway's own, or not let in.
    pub refused: AtomicU64,
}

/// Where clients connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Door {
    /// The bus is not shared.
    #[default]
    None,
    /// Here, port 0 resolved.
    Open(SocketAddr),
    /// Nowhere, for this reason.
    Shut(String),
}

impl ShareStats {
    /// Where clients connect now.
    #[must_use]
    pub fn door(&self) -> Door {
        self.door.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_door(&self, door: Door) {
        *self.door.lock().unwrap_or_else(PoisonError::into_inner) = door;
    }

    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Relaxed);
    }
}
