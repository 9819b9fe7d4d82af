//! A link that can be broken: a TCP proxy that passes, cuts with RST, or swallows everything.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const PASS: u8 = 0;
const CUT: u8 = 1;
const SWALLOW: u8 = 2;

/// A proxy in front of one address. Dropping it cuts everything.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    mode: AtomicU8,
    /// Connections accepted while passing.
    accepted: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Listens on a port of its own and passes to `target` on loopback.
    ///
    /// # Panics
    /// If no port can be had.
    #[must_use]
    pub fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            target,
            mode: AtomicU8::new(PASS),
            accepted: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let worker = Arc::clone(&shared);
        std::thread::spawn(move || {
            // The thread ends with the test's process.
            for stream in listener.incoming().flatten() {
                worker.take(stream);
            }
        });
        Self { port, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections it passed on since its start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Resets what is open, at once and without a goodbye, and refuses what comes.
    pub fn cut(&self) {
        self.shared.mode.store(CUT, Ordering::SeqCst);
        self.shared.reset_all();
    }

    /// Throws every byte away, in both directions, and lets every connection stand: a black hole.
    pub fn swallow(&self) {
        self.shared.mode.store(SWALLOW, Ordering::SeqCst);
    }

    /// Passes again. What lost bytes meanwhile is reset: its streams are beyond repair.
    pub fn heal(&self) {
        if self.shared.mode.swap(PASS, Ordering::SeqCst) == SWALLOW {
            self.shared.reset_all();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    fn take(self: &Arc<Self>, client: TcpStream) {
        match self.mode.load(Ordering::SeqCst) {
            CUT => return reset(&client),
            SWALLOW => return self.keep([&client]),
            _ => {}
        }
        let Ok(server) = TcpStream::connect_timeout(
            &std::net::SocketAddr::from(([127, 0, 0, 1], self.target)),
            Duration::from_secs(2),
        ) else {
            return reset(&client);
        };
        self.accepted.fetch_add(1, Ordering::SeqCst);
        for end in [&client, &server] {
            // The time limit frees a pump whose reader has gone with a full window.
            let _ = (end.set_nodelay(true), end.set_write_timeout(Some(Duration::from_secs(2))));
        }
        self.keep([&client, &server]);
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
            let shared = Arc::clone(self);
            std::thread::spawn(move || shared.pump(from, to));
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count) = from.read(&mut buffer) {
            if self.mode.load(Ordering::SeqCst) == SWALLOW {
                if count == 0 {
                    return;
                }
                continue;
            }
            if count == 0 || to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        if self.mode.load(Ordering::SeqCst) == PASS {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    fn keep<const N: usize>(&self, streams: [&TcpStream; N]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.extend(streams.iter().filter_map(|stream| stream.try_clone().ok()));
    }

    fn reset_all(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            reset(&stream);
        }
    }
}

/// Closes so that the other side sees RST and no goodbye. `shutdown` wakes the pump, whose copy of the
/// handle would keep the connection alive.
fn reset(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let _ = socket.set_linger(Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        port
    }

    fn call(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port())).expect("the proxy listens");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout can be set");
        stream
    }

    fn answered(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").is_ok() && matches!(stream.read(&mut byte), Ok(1))
    }

    #[test]
    fn it_passes_cuts_swallows_and_heals() {
        let proxy = Proxy::start(echo());
        let mut first = call(&proxy);
        assert!(answered(&mut first), "passing");
        proxy.cut();
        assert!(!answered(&mut first), "cut");
        assert!(!answered(&mut call(&proxy)), "refused");
        proxy.heal();
        let mut second = call(&proxy);
        assert!(answered(&mut second), "healed");
        proxy.swallow();
        assert!(!answered(&mut second), "swallowed");
        let waits = second.read(&mut [0]).expect_err("nothing to read").kind();
        assert!(matches!(waits, std::io::ErrorKind::WouldBlock), "a black hole closes nothing: {waits}");
        proxy.heal();
        assert!(!answered(&mut second), "what lost bytes is reset");
        assert!(answered(&mut call(&proxy)), "healed again");
        assert_eq!(proxy.accepted(), 3);
    }
}
