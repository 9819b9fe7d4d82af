//! Why a command ended. The numbers are sysexits, so that systemd and scripts can tell them apart.

use std::process::ExitCode;

/// Why a command did not end well. Ending well is `Ok(())`, exit code 0.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    /// Degraded, or the thing asked for failed: 1.
    #[error("{0}")]
    Failed(String),
    /// The gateway is down: 2. Only `status` and `kick` say this.
    #[error("{0}")]
    Down(String),
    /// The command line makes no sense: 64 (`EX_USAGE`).
    #[error("{0}")]
    Usage(String),
    /// A port, an address or the store could not be had: 69 (`EX_UNAVAILABLE`).
    #[error("cannot start")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Stopped, but not everything was saved in time: 75 (`EX_TEMPFAIL`).
    #[error("stopped, but not everything was saved: {0}")]
    NotDrained(String),
    /// The configuration has mistakes; the text names them all: 78 (`EX_CONFIG`). The systemd unit
    /// has `RestartPreventExitStatus=78`: trying again would not help.
    #[error("{0}")]
    Config(String),
    /// Whoever read the output has gone (`| head -1`): nothing is said, and 141 as of a tool that SIGPIPE ended.
    #[error("nobody reads the output")]
    Unread,
}

/// Every exit code and what it says, as the manual has it.
pub const CODES: [(u8, &str); 8] = [
    (0, "done; of `status`: all is well"),
    (1, "it failed, or is degraded: the last line says why"),
    (2, "no daemon runs, or it does not answer; only `status` and `kick` end so"),
    (64, "the command line makes no sense"),
    (69, "cannot start: a port, an address or the queue cannot be had"),
    (75, "stopped, but not everything was saved in time"),
    (78, "the configuration has mistakes"),
    (141, "whoever read the output has gone (`| head`); nothing is said, as of a tool that SIGPIPE ended"),
];

impl Exit {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Down(_) => 2,
            Self::Usage(_) => 64,
            Self::Start(_) => 69,
            Self::NotDrained(_) => 75,
            Self::Config(_) => 78,
            Self::Unread => 141,
        }
    }

    /// The last lines on the screen: the whole chain, outermost first.
    #[must_use]
    pub fn report(&self) -> String {
        if matches!(self, Self::Unread) {
            return String::new();
        }
        let mut text = format!("error: {self}\n");
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(&format!("  caused by: {error}\n"));
            cause = error.source();
        }
        text
    }
}

impl From<&Exit> for ExitCode {
    fn from(exit: &Exit) -> Self {
        exit.code().into()
    }
}

/// Writing to the terminal or pipe failed.
impl From<std::io::Error> for Exit {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::Unread;
        }
        Self::Failed(format!("cannot write the output: {error}"))
    }
}

/// The configuration has mistakes.
impl From<&crate::config::Report> for Exit {
    fn from(report: &crate::config::Report) -> Self {
        let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let count = report.problems.len();
        let mistakes = if count == 1 { "a mistake".to_owned() } else { format!("{count} mistakes") };
        Self::Config(format!("the configuration has {mistakes}\n\n{}", report.render(colour).trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_chain_is_told_and_the_codes_are_sysexits() {
        let exit = Exit::Start(Box::new(std::io::Error::other("port 1883 is taken")));
        assert_eq!(exit.report(), "error: cannot start\n  caused by: port 1883 is taken\n");
        let all = [Exit::Failed(String::new()), exit, Exit::NotDrained(String::new())];
        assert_eq!(all.map(|e| e.code()), [1, 69, 75]);
        assert_eq!(Exit::Usage(String::new()).code(), 64);
        assert_eq!(Exit::Config(String::new()).code(), 78);
        let told = [Exit::Failed(String::new()), Exit::Down(String::new()), Exit::Unread].map(|e| e.code());
        let readme = include_str!("../../README.md");
        for (code, says) in CODES {
            assert!(
                readme.contains(&format!("| {code} | {} |", says.replace('|', "\\|"))),
                "README: {code} {says}"
            );
        }
        assert!(told.iter().all(|code| CODES.iter().any(|(listed, _)| listed == code)));
        let unread = Exit::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!((unread.code(), unread.report()), (141, String::new()));
    }
}
