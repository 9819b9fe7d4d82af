//! The bytes on their way to a client that its socket has not taken yet.
//!
//! A client that takes nothing for [`super::Limits::write_deadline`] is disconnected. What is held for it counts with what
//! is queued for all.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, WriteHalf};
use tokio::time::{Duration, Sleep, sleep};

use super::greet::Io;

/// Unsent bytes above which nothing more is delivered.
pub(super) const OUT_DELIVER: usize = 64 * 1024;
/// Unsent bytes that are not counted, and the grain in which the others are.
pub(super) const GRAIN: usize = 4096;

/// Bytes that one connection holds, counted with those of all.
#[derive(Debug)]
pub(super) struct Held {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    pub fn new(total: &Arc<AtomicUsize>) -> Self {
        Self { total: total.clone(), bytes: 0 }
    }

    /// It holds so many now.
    pub fn set(&mut self, bytes: usize) {
        let bytes = bytes / GRAIN * GRAIN;
        if bytes > self.bytes {
            self.total.fetch_add(bytes - self.bytes, Relaxed);
        } else if bytes < self.bytes {
            self.total.fetch_sub(self.bytes - bytes, Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What was written and the socket has not taken.
pub(super) struct Outlet {
    io: WriteHalf<Box<dyn Io>>,
    /// The bytes.
    pub bytes: BytesMut,
    unflushed: bool,
    /// Runs while the socket takes nothing.
    blocked: Option<Pin<Box<Sleep>>>,
    deadline: Duration,
}

impl Outlet {
    pub fn new(io: WriteHalf<Box<dyn Io>>, bytes: BytesMut, deadline: Duration) -> Self {
        Self { io, bytes, unflushed: false, blocked: None, deadline }
    }

    /// There is something to write.
    pub fn is_busy(&self) -> bool {
        !self.bytes.is_empty() || self.unflushed
    }

    /// Writes what the socket takes, and flushes when all is written. Cancel safe: what was written is gone
    /// from `bytes`, and an unfinished flush is remembered.
    ///
    /// # Errors
    /// Those of the stream; `TimedOut` if it took nothing for too long.
    pub async fn write(&mut self, sent: &(impl Fn(usize) -> [(); 2] + Sync)) -> std::io::Result<()> {
        std::future::poll_fn(|cx| {
            while !self.bytes.is_empty() {
                match Pin::new(&mut self.io).poll_write(cx, &self.bytes) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(n)) => {
                        self.bytes.advance(n);
                        sent(n);
                        self.unflushed = true;
                        self.blocked = None;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return self.is_blocked(cx),
                }
            }
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(flushed) => {
                    self.unflushed = false;
                    self.blocked = None;
                    // A quiet client has no buffer.
                    self.bytes = BytesMut::new();
                    Poll::Ready(flushed)
                }
                Poll::Pending => self.is_blocked(cx),
            }
        })
        .await
    }

    fn is_blocked(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let deadline = self.deadline;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(deadline)));
        ready!(blocked.as_mut().poll(cx));
        Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()))
    }

    /// Writes the last words and closes.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn close(mut self) -> std::io::Result<()> {
        use tokio::io::AsyncWriteExt;
        self.io.write_all(&self.bytes).await?;
        self.io.shutdown().await
    }
}
