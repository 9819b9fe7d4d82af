//! How far an attempt to connect has come, so that a time limit that strikes can say what took so long.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// A part of the way to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Files, DNS.
    Name,
    /// TCP.
    Dial,
    /// The proxy, once it is reached.
    Proxy,
    /// TLS.
    Tls,
    /// The upgrade to WebSocket.
    WebSocket,
    /// From CONNECT to CONNACK.
    Login,
}

/// The stage of one attempt; written by it, read by whoever limits it.
#[derive(Debug, Default)]
pub struct Progress(AtomicU8);

impl Progress {
    /// The attempt has reached this stage.
    pub fn reached(&self, stage: Stage) {
        self.0.store(stage as u8, Relaxed);
    }

    /// What is going on, in words that fit before "took longer than".
    #[must_use]
    pub fn words(&self) -> &'static str {
        const ALL: [Stage; 6] =
            [Stage::Name, Stage::Dial, Stage::Proxy, Stage::Tls, Stage::WebSocket, Stage::Login];
        match ALL.into_iter().find(|stage| *stage as u8 == self.0.load(Relaxed)).unwrap_or(Stage::Name) {
            Stage::Name => "asking DNS (is there a network, and a name server?)",
            Stage::Dial => {
                "connecting by TCP (no answer from there: is there a way, does a firewall drop it?)"
            }
            Stage::Proxy => "the proxy's answer",
            Stage::Tls => "the TLS handshake",
            Stage::WebSocket => "the upgrade to WebSocket",
            Stage::Login => "the broker's answer to the login",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_follow_the_stage() {
        let progress = Progress::default();
        assert!(progress.words().contains("DNS"));
        for (stage, word) in [(Stage::Dial, "TCP"), (Stage::Proxy, "proxy"), (Stage::Login, "login")] {
            progress.reached(stage);
            assert!(progress.words().contains(word));
        }
    }
}
