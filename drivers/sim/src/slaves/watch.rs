//! Readiness of a descriptor, from the runtime.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime for as long as the result lives.
///
/// # Errors
/// What epoll says.
#[expect(
    deprecated,
    reason = "its successor is unsafe because a type may lie about its descriptor; an owned one cannot"
)]
pub(crate) fn watch(descriptor: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    AsyncFd::new(descriptor)
}
