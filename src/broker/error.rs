//! Why the broker cannot start or reload, with the cure.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::lines::LineError;

/// Why the broker cannot start or reload.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A port is taken or an address is not ours.
    #[error("the broker cannot listen on {address}: {source}\n  hint: {}", bind_hint(source))]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A password or ACL file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A password or ACL file has mistakes: one line for each.
    #[error("{}", file_lines(path, lines))]
    File {
        /// Which.
        path: PathBuf,
        /// Where and what.
        lines: Vec<LineError>,
    },
    /// A certificate or key is not usable.
    #[error("cannot use {}: {what}", path.display())]
    Tls {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The broker has been closed.
    #[error("the broker has stopped")]
    Stopped,
}

fn bind_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "another broker runs there? set `bind` of [[broker.listener]]",
        std::io::ErrorKind::AddrNotAvailable => "no interface has this address; see `ip address`",
        std::io::ErrorKind::PermissionDenied => "ports below 1024 need a right; take one above",
        _ => "set `bind` of [[broker.listener]]",
    }
}

fn file_lines(path: &std::path::Path, lines: &[LineError]) -> String {
    let one = |e: &LineError| {
        let hint = e.hint.as_ref().map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
        format!("{}:{}:{}: {}{hint}", path.display(), e.line, e.column, e.message)
    };
    lines.iter().map(one).collect::<Vec<_>>().join("\n")
}
