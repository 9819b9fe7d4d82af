//! The uplink: delivers what is stored to a cloud broker, and brings commands back.
//!
//! ## Promises
//! - A reading is reported delivered to the log only after the broker's PUBACK. Delivery state lives in
//!   the log alone; the MQTT session is clean and thrown away with each connection.
//! - After a lost connection everything unacknowledged goes out again: same identity, same content.
//! - Readings whose boot has no clock yet wait for it as long as the configuration says, and keep nothing else waiting.
//! - Within one point and lane, order is kept (for the one exception see [`delivery`]).
//! - Memory is bounded however long the link is down (`bounds.rs`).
//! - The connection is given up when acknowledgements or answers to pings stop coming, and built anew
//!   with growing, jittered waits; the cause is told in words in [`UplinkCounters::last_error`].
//!
//! ## Parts
//! Pure: [`lanes`] (what next), [`share`] (whose turn), [`inflight`] (what is unacknowledged), [`mirror`]
//! (status and events), [`liveness`], [`guard`], [`formats`], [`mod@check`], [`endpoint`]. Moving bytes:
//! [`link`] (connect and log in), `session` (one connection), and the loop here.

pub mod counters;
pub mod delivery;
pub mod fault;
pub mod formats;
pub mod guard;
pub mod inflight;
pub mod lanes;
pub mod link;
pub mod liveness;
pub mod mirror;
pub mod protocol;
mod session;
pub mod share;
pub mod timing;
pub mod tls;
pub mod websocket;

use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use counters::{State, UplinkCounters};
pub use timing::Timing;

use crate::backoff::Backoff;
use crate::clock::Clock;
use crate::config::model::Uplink;
use crate::message::{CommandRequest, Message};
use crate::pipeline::topics::Topics;
use crate::store::Drain;
use delivery::Delivery;
use fault::Fault;
use formats::node::MakeWill;
use mirror::Mirror;
use session::{Context, End};

/// What an uplink needs from the rest of the house.
pub struct Deps {
    /// The gateway's id.
    pub gateway: String,
    /// The log.
    pub drain: Arc<dyn Drain>,
    /// Local messages of `gw/<id>/meta/#`, `status/#`, `result/#` and `event/#`, to be shown upstream.
    /// Of length [`crate::bounds::UPLINK_MIRROR`]. Always taken at once, connected or not.
    pub mirror: mpsc::Receiver<Message>,
    /// To whoever executes commands.
    pub commands: mpsc::Sender<CommandRequest>,
    /// For status.
    pub counters: Arc<UplinkCounters>,
    /// The gateway's clock.
    pub clock: Arc<dyn Clock>,
    /// A file of this uplink's own in which a format may keep what must survive a restart.
    pub file: Option<PathBuf>,
    /// Asks the uplink to end: what is live and in flight is finished within a grace of 5 s, then the
    /// farewell `{"state":"offline"}` is published and the connection closed in order.
    pub stop: CancellationToken,
}

/// Runs one uplink until it is asked to stop. Never fails: every failure is waited out and told.
pub async fn run(config: Uplink, deps: Deps) {
    run_with(config, deps, Timing::default()).await;
}

/// [`run`] with other waits than the usual ones.
pub async fn run_with(config: Uplink, deps: Deps, timing: Timing) {
    let Deps { gateway, drain, mirror, commands, counters, clock, file, stop } = deps;
    let house = formats::House { clock: clock.clone(), file };
    let topics = Topics::upstream(&config.topic_root, &gateway);
    let timing = Timing { clock: config.wait_for_clock.0, ..timing };
    let mut delivery = Delivery::new(
        drain,
        Mirror::new(Topics::local(&gateway), topics.clone()),
        counters.clone(),
        topics.clone(),
        formats::choose(&config, &gateway, &topics, &house),
        config.order,
        timing.clone(),
    );
    let context = Context {
        name: config.name.clone(),
        topics,
        timing,
        keep_alive: Duration::from_secs(config.keep_alive.0.as_secs()),
        clock,
        commands,
        stop,
    };
    let uplink = Loop { config: &config, gateway: &gateway, context: &context, counters: &counters };
    uplink.run(&mut delivery, Some(mirror)).await;
    counters.set_state(State::Stopped, context.clock.wall());
}

struct Loop<'a> {
    config: &'a Uplink,
    gateway: &'a str,
    context: &'a Context,
    counters: &'a UplinkCounters,
}

impl Loop<'_> {
    async fn run(&self, delivery: &mut Delivery, mut mirror: Option<mpsc::Receiver<Message>>) {
        let (min, max) = self.context.timing.backoff;
        let mut backoff =
            Backoff::new(min, max).expect("Timing's shortest wait is above zero and below the longest");
        let urls: Vec<&str> =
            std::iter::once(&self.config.url).chain(&self.config.fallback_urls).map(String::as_str).collect();
        let mut last = None;
        let will = delivery.make_will();
        loop {
            for url in &urls {
                self.state(State::Connecting);
                let attempt = tokio::select! {
                    attempt = self.connect(url, &will) => attempt,
                    () = take_all(&mut mirror, delivery) => return,
                    () = self.context.stop.cancelled() => return,
                };
                let fault = match attempt {
                    Err(fault) => fault,
                    Ok(link) => {
                        self.state(State::Connected);
                        UplinkCounters::add(&self.counters.connects, 1);
                        tracing::info!(uplink = %self.config.name, url, "connected");
                        let (since, before) = (Instant::now(), self.acknowledged());
                        let end = session::run(link, self.context, delivery, &mut mirror).await;
                        if since.elapsed() >= self.context.timing.stable || self.acknowledged() > before {
                            backoff.reset();
                        }
                        last = None;
                        match end {
                            End::Stopped => return,
                            End::Broken(fault) => {
                                self.tell(&fault, &mut last);
                                break; // The first URL has the first word again.
                            }
                        }
                    }
                };
                self.tell(&fault, &mut last);
            }
            self.state(State::Waiting);
            let wait = backoff.next(fastrand::f64());
            tokio::select! {
                () = sleep(wait) => {}
                () = take_all(&mut mirror, delivery) => return,
                () = self.context.stop.cancelled() => return,
            }
        }
    }

    async fn connect(&self, url: &str, will: &MakeWill) -> Result<link::Link, Fault> {
        let limit = self.context.timing.connect;
        let attempt = link::open(self.config, url, self.gateway, will);
        timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| Err(Fault::Timeout { what: format!("connecting to {url}"), limit }))
    }

    fn acknowledged(&self) -> u64 {
        self.counters.acknowledged.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn state(&self, state: State) {
        self.counters.set_state(state, self.context.clock.wall());
    }

    /// Tells a fault: always to status, to the log only when it is another one than before.
    fn tell(&self, fault: &Fault, last: &mut Option<Fault>) {
        self.counters.set_error(self.context.clock.wall(), fault.to_string());
        if last.as_ref() != Some(fault) {
            tracing::warn!(uplink = %self.config.name, "{fault}");
            *last = Some(fault.clone());
        }
    }
}

/// Takes local messages into the mirror for as long as it is polled.
async fn take_all(mirror: &mut Option<mpsc::Receiver<Message>>, delivery: &mut Delivery) {
    while let Some(open) = mirror {
        match open.recv().await {
            Some(message) => delivery.local(message),
            None => *mirror = None,
        }
    }
    pending().await
}
