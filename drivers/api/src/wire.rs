//! What goes over a bus, byte for byte, for whoever is watching it.
//!
//! A driver tells its [`Wire`] every frame that it sends and every piece that it hears. Nobody watching
//! costs one atomic load and no memory; a watcher that is slow loses the oldest pieces, and never holds up the
//! bus.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::broadcast;
use tokio::time::Instant;

/// Pieces kept for a watcher that is behind. At 115200 baud a piece is a byte at worst, 11,520 a second:
/// 4096 are a third of a second of the busiest line. Full: the oldest go, and the watcher is told how many.
pub const PIECES: usize = 4096;

/// Which way the bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the gateway.
    Sent,
    /// To the gateway.
    Received,
}

/// Some bytes that went over the bus at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// When: for sent bytes the moment they were handed to the port, for received ones their arrival.
    pub at: Instant,
    /// Which way.
    pub direction: Direction,
    /// The bytes, never empty.
    pub bytes: Arc<[u8]>,
}

/// The tap of one bus. Clones are the same tap.
#[derive(Debug, Clone, Default)]
pub struct Wire(
    /// Made for the first watcher: [`PIECES`] take 256 KiB.
    Arc<OnceLock<broadcast::Sender<Piece>>>,
);

impl Wire {
    /// Bytes were given to the port.
    pub fn sent(&self, bytes: &[u8]) {
        self.tell(Direction::Sent, bytes);
    }

    /// Bytes came from the port.
    pub fn received(&self, bytes: &[u8]) {
        self.tell(Direction::Received, bytes);
    }

    /// All pieces from now on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Piece> {
        self.0.get_or_init(|| broadcast::Sender::new(PIECES)).subscribe()
    }

    fn tell(&self, direction: Direction, bytes: &[u8]) {
        if let Some(watchers) = self.0.get()
            && watchers.receiver_count() > 0
            && !bytes.is_empty()
        {
            // Fails only when the last watcher has just gone.
            let _ = watchers.send(Piece { at: Instant::now(), direction, bytes: bytes.into() });
        }
    }
}

/// A port that tells its [`Wire`] what goes through it.
#[derive(Debug)]
pub struct Tapped<P> {
    port: P,
    wire: Wire,
}

impl<P> Tapped<P> {
    /// `port` with a tap.
    pub fn new(port: P, wire: &Wire) -> Self {
        Self { port, wire: wire.clone() }
    }

    /// The port itself.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// The port itself.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }
}

impl<P: AsyncRead + Unpin> AsyncRead for Tapped<P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.port).poll_read(cx, buffer);
        if let Some(bytes) = buffer.filled().get(before..) {
            self.wire.received(bytes);
        }
        polled
    }
}

impl<P: AsyncWrite + Unpin> AsyncWrite for Tapped<P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.port).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = polled {
            self.wire.sent(bytes.get(..count).unwrap_or(bytes));
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.port).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.port).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tapped_port_passes_everything_and_tells_it() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (near, mut far) = tokio::io::duplex(64);
        let wire = Wire::default();
        let (mut port, mut watcher) = (Tapped::new(near, &wire), wire.watch());
        port.write_all(b"ask").await.expect("room");
        far.write_all(b"answer").await.expect("room");
        let mut heard = [0; 6];
        port.read_exact(&mut heard).await.expect("it is there");
        let told = [watcher.try_recv(), watcher.try_recv()].map(|piece| piece.expect("told").bytes.to_vec());
        assert_eq!(told, [b"ask".to_vec(), heard.to_vec()]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_sees_what_goes_by_from_then_on_and_nobody_waits_for_it() {
        let wire = Wire::default();
        wire.sent(b"before");
        let mut watcher = wire.watch();
        wire.sent(&[1, 3]);
        wire.received(&[]);
        wire.clone().received(&[1, 0x83]);
        let (asked, heard) = (watcher.try_recv().expect("sent"), watcher.try_recv().expect("received"));
        assert_eq!((asked.direction, &*asked.bytes), (Direction::Sent, &[1, 3][..]));
        assert_eq!((heard.direction, &*heard.bytes), (Direction::Received, &[1, 0x83][..]));
        for _ in 0..=PIECES {
            wire.sent(b"x");
        }
        assert_eq!(watcher.try_recv(), Err(broadcast::error::TryRecvError::Lagged(1)));
    }
}
