//! Why `fieldgate` ended, as words for a person and a number for systemd and scripts.

use std::process::ExitCode;

/// Why a command ended other than well. The numbers are those of sysexits.h where they fit.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    /// The thing asked for failed, or the gateway is degraded.
    #[error("{0}")]
    Failed(String),
    /// The gateway is down. Only `status` says this.
    #[error("{0}")]
    Down(String),
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The configuration has mistakes; the text lists them all.
    #[error("the configuration has mistakes\n{0}")]
    Config(String),
    /// A port, a bind address or the store is not to be had.
    #[error("cannot start: {0}")]
    Start(String),
    /// Stopped, but these parts were stuck.
    #[error("stopped, but these did not finish in time: {0}")]
    NotDrained(String),
}

impl Exit {
    /// The process's exit status.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Down(_) => 2,
            Self::Usage(_) => 64,
            Self::Start(_) => 69,
            Self::NotDrained(_) => 75,
            Self::Config(_) => 78, // the unit has RestartPreventExitStatus=78
        }
    }
}

impl From<std::io::Error> for Exit {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Prints the reason on standard error, once, and gives the status.
#[must_use]
pub fn report(result: Result<(), Exit>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            let text = exit.to_string();
            if !text.is_empty() {
                eprintln!("fieldgate: {text}");
            }
            ExitCode::from(exit.code())
        }
    }
}
