//! Why a connection failed or ended, in words a person can act on.
//!
//! There is one reaction to all of them: wait and connect again. So the cause is text for the status
//! topic and the log, and the type only says which kind it was.

use std::io;
use std::time::Duration;

/// The end of a connection, or of an attempt at one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The name has no address.
    #[error("DNS: `{host}` cannot be resolved ({why}); is the name right, is there a network?")]
    Dns {
        /// The name.
        host: String,
        /// The resolver's words.
        why: String,
    },
    /// Nobody listens.
    #[error("connection refused by {0}: no broker listens on that port")]
    Refused(String),
    /// The network has no way there, or the host is gone.
    #[error("{at} cannot be reached: {why}")]
    Unreachable {
        /// Host and port.
        at: String,
        /// The system's words.
        why: String,
    },
    /// Something took too long.
    #[error("timeout: {what} took longer than {}", seconds(*.limit))]
    Timeout {
        /// What did.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// TLS failed, with the reason.
    #[error("TLS: {0}")]
    Tls(String),
    /// A file of the configuration cannot be used.
    #[error("{0}")]
    File(String),
    /// The broker does not let us in.
    #[error("login refused: {0}")]
    Login(String),
    /// The broker ended the connection, with its reason.
    #[error("the broker ended the connection: {0}")]
    Ended(String),
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(String),
    /// What came is no MQTT, or against its rules.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The WebSocket handshake failed.
    #[error("WebSocket: {0}")]
    WebSocket(String),
    /// The log cannot be read.
    #[error("{0}")]
    Log(String),
}

fn seconds(limit: Duration) -> String {
    format!("{:.1} s", limit.as_secs_f64())
}

impl Fault {
    /// A failed TCP connection attempt.
    #[must_use]
    pub fn connecting(at: String, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused(at),
            _ => Self::Unreachable { at, why: error.to_string() },
        }
    }

    /// A connection that stood and broke.
    #[must_use]
    pub fn broken(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset => Self::Lost("reset by the other side".to_owned()),
            io::ErrorKind::BrokenPipe => Self::Lost("closed by the other side".to_owned()),
            io::ErrorKind::UnexpectedEof => Self::Lost("closed by the other side without a word".to_owned()),
            _ => super::tls::words(error).map_or_else(|| Self::Lost(error.to_string()), Self::Tls),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_says_what_happened_in_words() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(Fault::connecting("b:1883".into(), &refused).to_string().contains("refused by b:1883"));
        let timeout = Fault::Timeout { what: "the login at b:1883".into(), limit: Duration::from_secs(20) };
        assert_eq!(timeout.to_string(), "timeout: the login at b:1883 took longer than 20.0 s");
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(Fault::broken(&reset).to_string().contains("reset by the other side"));
    }
}
