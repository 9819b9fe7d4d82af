//! Failed exchanges, sorted by what the bus task must do next.

use std::time::Duration;

use crate::Reason;
use crate::exception::Exception;

/// A failed exchange. The variants are *reactions*, not causes: the cause travels inside.
/// Handle it with a `match` without wildcard, so that a new reaction breaks the build where it matters.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The port itself is gone. Close it, back off, reopen; every device on it is bad (`bus_down`).
    #[error("bus failed: {0}")]
    Bus(#[source] std::io::Error),

    /// No answer, or a garbled one. Other devices on the bus are still worth polling.
    #[error("no valid answer: {0}")]
    Transient(#[source] FrameError),

    /// A well-formed refusal. Asking again at once gives the same answer, so this block is left alone
    /// for ten minutes, or until the bus is opened again: the device may only have been booting.
    #[error("device refused: {}", Exception::of(*.0))]
    Refused(u8),
}

impl ReadError {
    /// The reason that the points of the failed block carry.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Bus(_) => Reason::BusDown,
            Self::Transient(frame) => frame.reason(),
            Self::Refused(code) => Reason::Exception(*code),
        }
    }
}

/// What was wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Nothing usable arrived in time.
    #[error("nothing received within {0:?}")]
    Timeout(Duration),
    /// The checksum does not match.
    #[error("CRC is {found:#06x}, expected {expected:#06x}")]
    Crc {
        /// As received.
        found: u16,
        /// As computed over what was received.
        expected: u16,
    },
    /// The frame is well formed but not the answer to this request.
    #[error("{0}")]
    Protocol(String),
    /// The device answered that it cannot now (busy, gateway path); see [`crate::exception`].
    #[error("{}", Exception::of(*.0))]
    Exception(u8),
}

impl FrameError {
    /// The reason that the points of the failed block carry.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Timeout(_) => Reason::Timeout,
            Self::Crc { .. } => Reason::Crc,
            Self::Protocol(_) => Reason::Protocol,
            Self::Exception(code) => Reason::Exception(*code),
        }
    }
}
