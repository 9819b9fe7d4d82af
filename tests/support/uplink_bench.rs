//! An uplink under test, with a log in memory and everything else it needs within reach.

use std::sync::Arc;
use std::time::Duration;

use fieldgate::clock::{Clock, SystemClock};
use fieldgate::config::model::Uplink;
use fieldgate::message::{CommandRequest, Message};
use fieldgate::uplink::{Deps, Timing, UplinkCounters, run_with};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::memory_drain::MemoryDrain;

pub struct Bench {
    pub drain: Arc<MemoryDrain>,
    pub counters: Arc<UplinkCounters>,
    pub mirror: mpsc::Sender<Message>,
    pub commands: mpsc::Receiver<CommandRequest>,
    /// What the routes bring, two at a time.
    pub local: mpsc::Receiver<(Message, Vec<String>)>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// Waits of milliseconds where the real ones are seconds.
pub fn quick() -> Timing {
    let ms = Duration::from_millis;
    Timing {
        connect: ms(3000),
        ack: ms(400),
        backoff: (ms(20), ms(100)),
        stable: ms(5000),
        grace: ms(1000),
        linger: ms(100),
        doze: ms(10),
        retry: ms(30),
        losses: ms(50),
        note: ms(2),
        log_retry: ms(20),
        ..Timing::default()
    }
}

pub fn uplink(url: &str, more: &str) -> Uplink {
    toml::from_str(&format!("name = \"cloud\"\nurl = \"{url}\"\n{more}")).expect("a valid uplink")
}

impl Bench {
    pub fn start(config: Uplink, drain: Arc<MemoryDrain>, timing: Timing) -> Self {
        Self::start_with_clock(config, drain, timing, Arc::new(SystemClock::new(true)))
    }

    pub fn start_with_clock(
        config: Uplink,
        drain: Arc<MemoryDrain>,
        timing: Timing,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let counters = Arc::new(UplinkCounters::default());
        let (mirror, mirror_rx) = mpsc::channel(64);
        let (commands_tx, commands) = mpsc::channel(2);
        let (local_tx, local) = mpsc::channel(2);
        let stop = CancellationToken::new();
        let deps = Deps {
            gateway: "g".into(),
            drain: drain.clone(),
            mirror: mirror_rx,
            commands: commands_tx,
            local: local_tx,
            counters: counters.clone(),
            clock,
            file: None,
            stop: stop.clone(),
        };
        let task = tokio::spawn(run_with(config, deps, timing));
        Self { drain, counters, mirror, commands, local, stop, task }
    }

    /// Stops the uplink and waits for its end.
    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.task)
            .await
            .expect("it ends")
            .expect("it does not panic");
    }

    /// Ends it as a kill would: where it stands.
    pub async fn kill(self) {
        self.task.abort();
        let _cut_off = self.task.await;
    }

    pub async fn error_with(&self, word: &str) -> String {
        let mut text = String::new();
        for _ in 0..10_000 {
            text = self.counters.last_error().map(|(_, text)| text).unwrap_or_default();
            if text.contains(word) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("no error with `{word}`; the last one is `{text}`");
    }
}

/// Waits for a condition, at most 30 s.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
