//! Every wait of an uplink in one place; tests bring shorter ones.

use std::time::Duration;

/// The waits of one uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Longest way from the first DNS question to the broker's welcome.
    pub connect: Duration,
    /// Longest wait for any acknowledgement while something is in flight: a black hole gives no other sign.
    pub ack: Duration,
    /// Shortest and longest wait between two rounds of attempts.
    pub backoff: (Duration, Duration),
    /// A connection that stood so long, or got one message through, resets the backoff.
    pub stable: Duration,
    /// How long what is in flight may take to be acknowledged after the stop.
    pub grace: Duration,
    /// On a metered link: how long to stay at least, so that a command that waits for us finds us.
    pub linger: Duration,
    /// How often boot time is looked at while a window is awaited: the timers of this process stand still while
    /// a box is suspended, and boot time does not.
    pub doze: Duration,
    /// Wait before a refused message is tried again.
    pub retry: Duration,
    /// How often the log is asked for loss records, besides when it grows.
    pub losses: Duration,
    /// Wait after the log could not be read.
    pub log_retry: Duration,
    /// With QoS 2: how often what is about to be said is noted at most, if it is less than half a window. Each is a commit,
    /// so it bounds what the disk has to write for a few messages; it is in the way of a live reading once.
    pub note: Duration,
    /// How long readings wait for the machine's clock to be set: `wait_for_clock` of the configuration.
    pub clock: Duration,
    /// Most messages in flight, unless the broker allows fewer.
    pub window: usize,
    /// Tries before a refused message is given up.
    pub tries: u8,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            ack: Duration::from_secs(20),
            backoff: (Duration::from_secs(1), Duration::from_secs(60)),
            stable: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            linger: Duration::from_secs(2),
            doze: Duration::from_secs(1),
            retry: Duration::from_secs(5),
            losses: Duration::from_secs(5),
            log_retry: Duration::from_secs(1),
            note: Duration::from_millis(50),
            clock: Duration::ZERO,
            window: crate::bounds::UPLINK_WINDOW,
            tries: 3,
        }
    }
}
