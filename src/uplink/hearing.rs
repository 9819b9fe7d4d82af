//! Whether a connection asks for what comes down to us: commands, messages of the routes. Pure.
//!
//! Some brokers answer a subscription that they do not like by closing the connection (where the right for it is missing, or where
//! the queue behind it was on a node that has died). Readings must not wait for that to be mended: after a few
//! connections that ended with the question unanswered the next ones go without it, and it is asked again after a while.

use std::time::Duration;

use tokio::time::Instant;

/// So many connections in a row that ended with the question unanswered.
const PATIENCE: u8 = 3;
/// How long readings go alone then.
const AGAIN: Duration = Duration::from_secs(300);

/// What is known of it; outlives connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hearing {
    unanswered: u8,
    /// Not asked before then.
    silent_until: Option<Instant>,
}

impl Hearing {
    /// Whether to ask now.
    #[must_use]
    pub fn asks(&self, now: Instant) -> bool {
        self.silent_until.is_none_or(|until| now >= until)
    }

    /// When it is asked again, if it is not now.
    #[must_use]
    pub fn asks_again(&self) -> Option<Instant> {
        self.silent_until
    }

    /// Everything that was asked for has been answered.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// The connection was ended by the other side before that. `true`: from now on it is not asked for a while.
    pub fn unanswered(&mut self, now: Instant) -> bool {
        self.unanswered = self.unanswered.saturating_add(1);
        let enough = self.unanswered >= PATIENCE;
        self.silent_until = enough.then_some(now + AGAIN);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_three_connections_without_an_answer_it_is_not_asked_for_a_while() {
        let (mut hearing, now) = (Hearing::default(), Instant::now());
        assert!(!hearing.unanswered(now) && !hearing.unanswered(now) && hearing.asks(now));
        assert!(hearing.unanswered(now));
        assert!(!hearing.asks(now) && !hearing.asks(now + AGAIN / 2) && hearing.asks(now + AGAIN));
        assert!(hearing.unanswered(now + AGAIN), "one more is enough then");
        assert!(!hearing.asks(now + AGAIN));
        hearing.answered();
        assert!(hearing.asks(now) && !hearing.unanswered(now));
    }
}
