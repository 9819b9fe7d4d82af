//! A TCP connection that counts what goes over it, and keeps the first bytes that came: what a failed
//! handshake was answered with tells who is there.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Enough for a head with a long `Location`.
const OPENING: usize = 1024;

/// What went over one connection: TLS and WebSocket counted, TCP and below not.
#[derive(Debug, Default)]
pub struct Wire {
    sent: AtomicU64,
    received: AtomicU64,
    opening: Mutex<Vec<u8>>,
    /// TCP is to acknowledge at once what comes.
    prompt: AtomicBool,
}

impl Wire {
    /// From now on TCP acknowledges at once what comes. With QoS 2 we say nothing until the disk has the answers, and a
    /// broker whose small packets wait for each other (Nagle; mosquitto's do) would keep the rest of them for the 40 ms
    /// that the kernel may put an acknowledgement off.
    pub fn acknowledge_at_once(&self) {
        self.prompt.store(true, Relaxed);
    }

    /// Bytes given to the socket.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Bytes taken from the socket.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// The first bytes that came.
    #[must_use]
    pub fn opening(&self) -> Vec<u8> {
        self.opening.lock().map_or_else(|_| Vec::new(), |held| held.clone())
    }

    fn came(&self, bytes: &[u8]) {
        let before = self.received.fetch_add(bytes.len() as u64, Relaxed);
        if before < OPENING as u64
            && let Ok(mut held) = self.opening.lock()
        {
            let room = OPENING - held.len().min(OPENING);
            held.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
}

/// The connection.
#[derive(Debug)]
pub struct Tap {
    stream: TcpStream,
    wire: Arc<Wire>,
}

impl Tap {
    /// Counts from now on.
    #[must_use]
    pub fn new(stream: TcpStream) -> (Self, Arc<Wire>) {
        let wire = Arc::new(Wire::default());
        (Self { stream, wire: wire.clone() }, wire)
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = polled {
            self.wire.came(&buf.filled()[before..]);
            if self.wire.prompt.load(Relaxed) {
                // The kernel forgets it again and again (tcp(7)). Refused, it is only slower.
                let _slower = rustix::net::sockopt::set_tcp_quickack(&self.stream, true);
            }
        }
        polled
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = polled {
            self.wire.sent.fetch_add(n as u64, Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn it_counts_both_ways_and_keeps_the_beginning() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("accepted");
        let (mut far, _) = listener.accept().await.expect("a connection");
        let (mut tap, wire) = Tap::new(near);
        tap.write_all(b"hello").await.expect("written");
        far.write_all(&[7; 3000]).await.expect("written");
        tap.read_exact(&mut [0; 3000]).await.expect("read");
        assert_eq!((wire.sent(), wire.received()), (5, 3000));
        assert_eq!(wire.opening(), [7; OPENING]);
    }
}
