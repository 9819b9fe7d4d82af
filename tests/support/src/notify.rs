//! The service manager's side of `sd_notify`: a datagram socket that writes down what it is told.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A socket to name in `NOTIFY_SOCKET`.
pub struct NotifySocket {
    path: PathBuf,
    told: Arc<Mutex<Vec<String>>>,
}

impl NotifySocket {
    /// Binds it in this directory and listens until the test ends.
    ///
    /// # Panics
    /// If it cannot be bound.
    #[must_use]
    pub fn bind(home: &Path) -> Self {
        let path = home.join("notify.sock");
        let socket = UnixDatagram::bind(&path).expect("the socket can be bound");
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = Arc::clone(&told);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            }
        });
        Self { path, told }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The datagrams so far, in order.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many datagrams have this assignment (`READY=1`) as a line.
    #[must_use]
    pub fn count(&self, assignment: &str) -> usize {
        self.told().iter().filter(|text| text.lines().any(|line| line.starts_with(assignment))).count()
    }
}
