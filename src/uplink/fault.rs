//! Why a connection failed or ended, in words a person can act on.
//!
//! The reaction is nearly always the same: wait and connect again. So the cause is text for the status
//! topic and the log; the type says which kind it was, and whether it is any use to hurry.

use std::io;
use std::time::Duration;

/// The end of a connection, or of an attempt at one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The name has no address, or nobody could be asked.
    #[error("DNS: `{host}` {why}")]
    Dns {
        /// The name.
        host: String,
        /// What is the matter with it.
        why: String,
    },
    /// Nobody listens.
    #[error("connection refused by {0}: nobody listens on that port")]
    Refused(String),
    /// The network has no way there, or the host is gone.
    #[error("{at} cannot be reached: {why}")]
    Unreachable {
        /// Host and port.
        at: String,
        /// The system's words.
        why: String,
    },
    /// The connection cannot be bound to the interface that was named.
    #[error("interface `{name}`: {why}")]
    Interface {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
    /// The proxy does not let us through.
    #[error("proxy {at}: {why}")]
    Proxy {
        /// Host and port of the proxy.
        at: String,
        /// What it says.
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
    /// Somebody answers who is no broker.
    #[error("{0}")]
    NoBroker(String),
    /// A file of the configuration cannot be used.
    #[error("{0}")]
    File(String),
    /// The broker does not let us in.
    #[error("login refused: {why}")]
    Login {
        /// Its reason.
        why: String,
        /// Asking again soon is of no use, or makes it worse.
        settled: bool,
    },
    /// The broker ended the connection, with its reason.
    #[error("the broker ended the connection: {why}")]
    Ended {
        /// Its reason.
        why: String,
        /// Coming back soon is of no use, or makes it worse.
        settled: bool,
        /// A message of ours may be what it does not like.
        at_a_message: bool,
    },
    /// The broker wants us to go to another server.
    #[error("the broker asks to use another server{}{hint}", named(.to.as_deref()))]
    Redirect {
        /// Host, or host and port, as the broker wrote it.
        to: Option<String>,
        /// What we do about it; `""`, or it begins with `; `.
        hint: &'static str,
    },
    /// The other side closed the connection and did not say why.
    #[error("connection lost: {how}{hint}")]
    HungUp {
        /// In which way.
        how: &'static str,
        /// What is probably behind it; `""`, or it begins with `; `.
        hint: String,
    },
    /// The broker closes the connection at a message.
    #[error("{0}")]
    Closed(String),
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

fn named(to: Option<&str>) -> String {
    to.map_or_else(String::new, |to| format!(" (`{to}`)"))
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
            io::ErrorKind::NetworkUnreachable => {
                Self::Unreachable { at, why: "there is no route that way; is the network up?".to_owned() }
            }
            io::ErrorKind::HostUnreachable => {
                Self::Unreachable { at, why: "the host does not answer in its network".to_owned() }
            }
            io::ErrorKind::TimedOut => Self::Unreachable { at, why: "no answer from there".to_owned() },
            _ => Self::Unreachable { at, why: error.to_string() },
        }
    }

    /// A connection that stood and broke.
    #[must_use]
    pub fn broken(error: &io::Error) -> Self {
        let hung_up = |how| Self::HungUp { how, hint: String::new() };
        match error.kind() {
            io::ErrorKind::ConnectionReset => hung_up("reset by the other side"),
            io::ErrorKind::BrokenPipe => hung_up("closed by the other side"),
            io::ErrorKind::UnexpectedEof => hung_up("closed by the other side without a word"),
            _ => super::tls::words(error, true).map_or_else(|| Self::Lost(error.to_string()), Self::Tls),
        }
    }

    /// A login that may well work a moment later, or with another server.
    #[must_use]
    pub fn login(why: impl Into<String>) -> Self {
        Self::Login { why: why.into(), settled: false }
    }

    /// What is probably behind it; `""`, or it begins with `; `.
    #[must_use]
    pub fn hint(&self) -> &str {
        if let Self::HungUp { hint, .. } = self { hint } else { "" }
    }

    /// Whether the far side closed the connection, and a message of ours may be why.
    #[must_use]
    pub fn may_be_a_message(&self) -> bool {
        matches!(self, Self::HungUp { .. } | Self::Ended { at_a_message: true, .. })
    }

    /// Whether to wait as long as we ever do before the next try: the broker has said that it does not
    /// want us (wrong password, banned, quota used up), or somebody else has our client id and would be
    /// thrown out in turn.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Login { settled: true, .. } | Self::Ended { settled: true, .. })
    }
}

/// Connections that the other side closed without a word soon after the login, one after the other.
///
/// MQTT 3.1.1 has no way to say "another client with your id took over" or "you may not do that"; all it
/// can do is hang up. Twice may be chance, three times in a row is a pattern. Pure.
#[derive(Debug, Default)]
pub struct Closes(u32);

/// A connection that lives longer was not closed for what it is.
const BRIEF: Duration = Duration::from_secs(15);
const PATTERN: u32 = 3;

impl Closes {
    /// A connection ended after `lasted`; the fault comes back with a hint if there is a pattern.
    #[must_use]
    pub fn after(&mut self, lasted: Duration, fault: Fault, client_id: &str) -> Fault {
        match fault {
            Fault::HungUp { how, .. } if lasted < BRIEF => {
                self.0 = self.0.saturating_add(1);
                let hint = if self.0 < PATTERN {
                    String::new()
                } else {
                    format!(
                        "; that happened again and again soon after the login: does another client use the client id `{client_id}`, or may this one not publish?"
                    )
                };
                Fault::HungUp { how, hint }
            }
            other => {
                self.0 = 0;
                other
            }
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
        let no_route = io::Error::from(io::ErrorKind::NetworkUnreachable);
        assert!(Fault::connecting("b:1".into(), &no_route).to_string().contains("no route"));
        let timeout = Fault::Timeout { what: "the login at b:1883".into(), limit: Duration::from_secs(20) };
        assert_eq!(timeout.to_string(), "timeout: the login at b:1883 took longer than 20.0 s");
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(Fault::broken(&reset).to_string().contains("reset by the other side"));
    }

    #[test]
    fn three_brief_connections_in_a_row_are_a_pattern() {
        let hung_up = || Fault::HungUp { how: "closed by the broker without a word", hint: String::new() };
        let mut closes = Closes::default();
        let mut told = |s, fault| closes.after(Duration::from_secs(s), fault, "plant-7").to_string();
        assert!(!told(1, hung_up()).contains("client id") && !told(1, hung_up()).contains("client id"));
        assert!(told(1, hung_up()).contains("client id `plant-7`"));
        assert!(told(20, hung_up()).ends_with("without a word"), "a long connection ends the pattern");
        assert!(!told(1, hung_up()).contains("client id"));
        assert!(told(1, Fault::Lost("x".into())).ends_with('x'));
        assert!(!told(1, hung_up()).contains("client id"));
    }
}
