//! A link that can be broken: a TCP proxy that passes, cuts with RST, or swallows everything.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Changed only under the lock of `open`, so that no connection slips through a change.
    mode: AtomicU8,
    /// Connections accepted while passing.
    accepted: AtomicU64,
    open: Mutex<Vec<Arc<Connection>>>,
}

/// A client's stream and, unless it came into a black hole, the server's.
struct Connection {
    ends: Vec<TcpStream>,
    /// No byte is passed from here on. Closing alone would not do: Linux still hands a reader what arrives
    /// after `shutdown(SHUT_RD)`, so a byte could get through before the pump has woken up.
    reset: AtomicBool,
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
        self.shared.change(CUT);
    }

    /// Throws every byte away, in both directions, and lets every connection stand: a black hole.
    pub fn swallow(&self) {
        self.shared.change(SWALLOW);
    }

    /// Passes again. What lost bytes meanwhile is reset: its streams are beyond repair.
    pub fn heal(&self) {
        self.shared.change(PASS);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    fn change(&self, mode: u8) {
        let mut open = self.open();
        let before = self.mode.swap(mode, Ordering::SeqCst);
        if mode == CUT || (mode == PASS && before == SWALLOW) {
            open.drain(..).for_each(|connection| connection.reset());
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, client: TcpStream) {
        let target = SocketAddr::from(([127, 0, 0, 1], self.target));
        let server = match self.mode.load(Ordering::SeqCst) {
            PASS => TcpStream::connect_timeout(&target, Duration::from_secs(2)).ok(),
            _ => None,
        };
        let mut open = self.open();
        let connection = match (self.mode.load(Ordering::SeqCst), server) {
            (PASS, Some(server)) => Connection::of(vec![client, server]),
            (SWALLOW, _) => Connection::of(vec![client]),
            _ => return Connection::of(vec![client]).reset(),
        };
        open.push(Arc::clone(&connection));
        if connection.ends.len() == 2 {
            self.accepted.fetch_add(1, Ordering::SeqCst);
            for from in [0, 1] {
                let (shared, connection) = (Arc::clone(self), Arc::clone(&connection));
                std::thread::spawn(move || shared.pump(&connection, from));
            }
        }
    }

    /// Passes the bytes of one end to the other until either has gone.
    fn pump(&self, connection: &Connection, from: usize) {
        let (mut from, mut to) = (&connection.ends[from], &connection.ends[1 - from]);
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = from.read(&mut buffer).unwrap_or(0);
            if connection.reset.load(Ordering::SeqCst) {
                return;
            }
            let swallowing = self.mode.load(Ordering::SeqCst) == SWALLOW;
            if count == 0 {
                if !swallowing {
                    let _ = to.shutdown(Shutdown::Write);
                }
                return;
            }
            if !swallowing && to.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    }
}

impl Connection {
    fn of(ends: Vec<TcpStream>) -> Arc<Self> {
        for end in &ends {
            // The time limit frees a pump whose reader has gone with a full window.
            let _ = (end.set_nodelay(true), end.set_write_timeout(Some(Duration::from_secs(2))));
        }
        Arc::new(Self { ends, reset: AtomicBool::new(false) })
    }

    /// Closes so that the other side sees RST and no goodbye. `shutdown` wakes the pumps, which hold the last
    /// handles.
    fn reset(&self) {
        self.reset.store(true, Ordering::SeqCst);
        for end in &self.ends {
            let _ = socket2::SockRef::from(end).set_linger(Some(Duration::ZERO));
            let _ = end.shutdown(Shutdown::Read);
        }
    }
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
