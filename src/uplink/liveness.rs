//! Whether the other side is still there. Pure.
//!
//! A ping goes out when for three quarters of the keep-alive nothing was sent *or* nothing was heard:
//! sending into a black hole is no sign of life. If then half a keep-alive passes in silence, the peer is
//! dead. So a black hole is found after at most 1.25 × keep-alive, and the broker never misses ours.

use std::time::Duration;

use tokio::time::Instant;

/// The watch over one connection.
#[derive(Debug)]
pub struct Liveness {
    keep_alive: Option<Duration>,
    sent: Instant,
    heard: Instant,
    pinged: Option<Instant>,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Nothing.
    Rest,
    /// Send a PINGREQ.
    Ping,
    /// Give the connection up.
    Dead,
}

impl Liveness {
    /// A watch that begins now. `None` or zero: no keep-alive.
    #[must_use]
    pub fn new(keep_alive: Option<Duration>, now: Instant) -> Self {
        Self { keep_alive: keep_alive.filter(|k| !k.is_zero()), sent: now, heard: now, pinged: None }
    }

    /// Bytes went out.
    pub fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    /// Bytes came in.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    /// A ping was written.
    pub fn pinged(&mut self, now: Instant) {
        self.pinged = Some(now);
    }

    /// What to do now.
    #[must_use]
    pub fn duty(&self, now: Instant) -> Duty {
        match (self.next(), self.pinged) {
            (Some(at), Some(_)) if now >= at => Duty::Dead,
            (Some(at), None) if now >= at => Duty::Ping,
            _ => Duty::Rest,
        }
    }

    /// When there will be something to do.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let keep_alive = self.keep_alive?;
        Some(match self.pinged {
            Some(at) => at + keep_alive / 2,
            None => self.sent.min(self.heard) + keep_alive * 3 / 4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_silent_line_is_pinged_and_then_given_up() {
        let start = Instant::now();
        let mut watch = Liveness::new(Some(40 * S), start);
        assert_eq!(watch.duty(start + 29 * S), Duty::Rest);
        assert_eq!(watch.duty(start + 30 * S), Duty::Ping);
        watch.sent(start + 30 * S);
        watch.pinged(start + 30 * S);
        assert_eq!(watch.duty(start + 49 * S), Duty::Rest);
        assert_eq!(watch.duty(start + 50 * S), Duty::Dead);
    }

    #[tokio::test(start_paused = true)]
    async fn sending_alone_is_no_sign_of_life_and_hearing_alone_does_not_keep_us_alive() {
        let start = Instant::now();
        let mut watch = Liveness::new(Some(40 * S), start);
        watch.sent(start + 29 * S);
        assert_eq!(watch.duty(start + 30 * S), Duty::Ping);
        watch.pinged(start + 30 * S);
        watch.heard(start + 31 * S);
        assert_eq!(watch.duty(start + 58 * S), Duty::Rest);
        assert_eq!(watch.duty(start + 59 * S), Duty::Ping);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_keep_alive_there_is_nothing_to_do() {
        let watch = Liveness::new(Some(Duration::ZERO), Instant::now());
        assert_eq!((watch.next(), watch.duty(Instant::now() + 1000 * S)), (None, Duty::Rest));
    }
}
