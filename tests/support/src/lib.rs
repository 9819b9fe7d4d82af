//! What the end-to-end tests stand on: the real binary as a process, brokers and devices that nobody
//! here wrote, a proxy that breaks links, and the judge of the outside ledger.
//!
//! Everything binds to loopback, on ports of its own, and lives in a temporary directory of its own, so
//! tests run side by side. Every process is ended by its own id when its handle is dropped; if the test
//! failed, what the process said is printed.

pub mod gateway;
pub mod judge;
pub mod messages;
pub mod mosquitto;
pub mod notify;
pub mod openssl;
pub mod packets;
pub mod plant;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod sparkplug;
pub mod time;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

pub use gateway::{Answer, Gate};
pub use judge::{Account, Verdict, judge};
pub use messages::{Lane, Loss, Message, Reading};
pub use mosquitto::{Mosquitto, Observer};
pub use notify::NotifySocket;
pub use plant::{Plant, Serve};
pub use process::Process;
pub use proxy::Proxy;
pub use rumqttc;
pub use time::{now, pause, seconds, wait_for, wait_until};

/// A temporary directory, removed with the value.
#[must_use]
pub fn temporary() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("fieldgate-e2e-").tempdir().expect("a temporary directory can be made")
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate is at tests/support").to_owned()
}

/// A port of the loopback that was free a moment ago. Taken from below the range that outgoing
/// connections use, so that nothing grabs it between now and its use.
#[must_use]
pub fn free_port() -> u16 {
    static TURN: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 1000).unwrap_or(0) * 11;
    for _ in 0..2000 {
        let port = 18_000 + (start + TURN.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 18000 and 30000");
}
