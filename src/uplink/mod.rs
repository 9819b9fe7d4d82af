//! The uplink: delivers what is stored to a cloud broker, and brings commands back.
//!
//! ## Promises
//! - A reading is reported delivered to the log only after the broker's PUBACK; with QoS 0 after its answer to a ping
//!   that was sent behind it, since MQTT is one ordered stream. Delivery state lives in
//!   the log alone; but for QoS 2 the MQTT session is clean and thrown away with each connection.
//! - After a lost connection everything unacknowledged goes out again: same identity, same content.
//! - With QoS 2 each reading arrives exactly once, over lost connections and restarts of ours (`kill -9` as well), as long
//!   as the broker keeps the session and the disk is in order; where that cannot be, it arrives at least once, and
//!   [`UplinkCounters::not_exactly_once`] says how many. Then it is delivered with the PUBCOMP.
//! - Readings whose boot has no clock yet wait for it as long as the configuration says, and keep nothing else waiting.
//! - Within one point and lane, order is kept (for the one exception see [`delivery`]).
//! - Memory is bounded however long the link is down (`bounds.rs`).
//! - The connection is given up when acknowledgements or answers to pings stop coming, and built anew
//!   with growing, jittered waits; the cause is told in words in [`UplinkCounters::last_error`].
//!
//! ## Parts
//! Pure: [`lanes`] (what next), [`share`] (whose turn), [`inflight`] (what is unacknowledged), [`pace`] (how much may be), [`exactly`] (QoS 2),
//! [`mirror`] (status and events), [`liveness`], [`hearing`], [`routes`] (what comes down), [`crate::forward`] and [`extra`] (what of other devices goes
//! up), [`schedule`] (windows), [`suspicion`] (what makes the broker close the connection), [`bucket`] (the limit of what is sent), [`aliases`], [`guard`],
//! [`formats`], [`http`], [`reasons`]. Moving bytes: [`link`] (connect and log in,
//! over [`dial`], [`proxy`], [`mod@tls`], [`websocket`]), `session` (one connection), and the loop here.

pub mod aliases;
pub mod bucket;
mod context;
pub mod counters;
pub mod delivery;
pub mod dial;
pub mod exactly;
#[cfg(test)]
mod exactly_tests;
pub mod extra;
pub mod fault;
pub mod formats;
pub mod guard;
pub mod hearing;
pub mod http;
pub mod inflight;
pub mod lanes;
#[cfg(test)]
mod lanes_tests;
pub mod link;
pub mod liveness;
pub mod login;
pub mod mirror;
pub mod pace;
pub mod protocol;
pub mod proxy;
mod pump;
mod rate;
pub mod reasons;
pub mod routes;
pub mod schedule;
mod session;
pub mod share;
pub mod stage;
pub mod suspicion;
pub mod tap;
pub mod timing;
pub mod tls;
pub mod websocket;

use std::collections::VecDeque;
use std::future::{Future, pending};
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
use crate::config::Endpoint;
use crate::config::connect::Connect;
use crate::config::model::{Format, Uplink};
use crate::forward::Forwards;
use crate::message::{BootMs, CommandRequest, Message};
use crate::pipeline::payload;
use crate::pipeline::topics::Topics;
use crate::store::Drain;
use bucket::Bucket;
use context::{Context, End, Terms};
use delivery::Delivery;
use fault::{Closes, Fault};
use formats::node::MakeWill;
use hearing::Hearing;
use link::{Wanted, Way};
use mirror::Mirror;
use routes::Routes;
use schedule::{Schedule, Window};

use stage::Progress;

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
    /// To the local broker, for what the routes bring, each with the gateways it came by. Of length
    /// [`crate::bounds::UPLINK_ROUTED`]; full: counted.
    pub local: mpsc::Sender<(Message, Vec<String>)>,
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
    let Deps { gateway, drain, mirror, commands, local, counters, clock, file, stop } = deps;
    let house = formats::House { clock: clock.clone(), file };
    let topics = Topics::upstream(&config.topic_root, &gateway);
    let timing = Timing { clock: config.wait_for_clock.0, ..timing };
    let mut delivery = Delivery::new(
        drain,
        Mirror::new(Topics::local(&gateway), topics.clone()),
        counters.clone(),
        topics.clone(),
        (formats::choose(&config, &gateway, &topics, &house), Forwards::new(&config, &gateway)),
        clock.clone(),
        (config.order, timing.clone()),
    );
    let context = Context {
        name: config.name.clone(),
        topics,
        timing,
        keep_alive: Duration::from_secs(config.keep_alive.0.as_secs()),
        clock,
        commands,
        allow_commands: config.allow_commands.clone(),
        qos: config.qos,
        routes: Routes::new(&config.subscribe, &gateway),
        local,
        stop,
    };
    let uplink = Loop { config: &config, gateway: &gateway, context: &context, counters: &counters };
    uplink.run(&mut delivery, Some(mirror)).await;
    counters.set_state(State::Stopped, context.clock.boot());
}

/// Most servers that send us on in one round: two that point at each other must not keep us busy.
const MOVES: u32 = 3;

/// On a metered link everything retained is sent again after a day, should the broker have forgotten it.
const INFORMED_MS: u64 = 86_400_000;

/// A broker keeps what comes down at least for a day, and for four windows.
const HELD_S: u64 = 86_400;

/// So many logins in a row that a broker refused make us ask for a new session.
const TURNED_AWAY: u32 = 3;

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
        let mut closes = Closes::default();
        let mut last = None;
        // Where a broker sent us at the end of a connection.
        let mut sent_to = None;
        let mut hearing = Hearing::default();
        let mut bucket = Bucket::new(self.config.max_rate.0, Instant::now());
        let schedule = Schedule::new(self.config.connect, self.context.clock.boot(), fastrand::f64());
        let mut logged_in = false;
        // Where a session is kept for what comes down, and when that broker was last heard.
        let mut held: Option<(String, BootMs)> = None;
        let mut turned_away = 0;
        // The window after the one in which everything was delivered.
        let mut rested = None;
        // Since when the broker has everything that is retained and no connection broke.
        let mut informed: Option<BootMs> = None;
        let will = delivery.make_will();
        loop {
            let now = self.context.clock.boot();
            let window = match (rested.take(), schedule.at(now)) {
                (Some(opens), _) | (None, Window::Closed(opens)) => {
                    self.goes_to_sleep(opens, logged_in);
                    if self.stopped_during(self.until(opens), &mut mirror, delivery).await {
                        return;
                    }
                    backoff.reset();
                    logged_in = false;
                    continue;
                }
                (None, Window::Open(until)) => until,
            };
            if schedule.has_windows() {
                self.counters.set_next_window(self.context.clock.wall_of(schedule.next(now)));
            }
            let mut hurry = true;
            let mut moves = 0;
            let mut round: VecDeque<Endpoint> = sent_to.take().into_iter().chain(self.endpoints()).collect();
            while let Some(endpoint) = round.pop_front() {
                self.state(State::Connecting);
                let attempt = tokio::select! {
                    attempt = self.connect(&endpoint, &will, self.wanted(&endpoint, delivery, &held, &hearing)) => attempt,
                    () = take_all(&mut mirror, delivery) => return,
                    () = self.context.stop.cancelled() => return,
                };
                let link = match attempt {
                    Ok(link) => link,
                    Err(fault) => {
                        // Some brokers close the connection when the queue behind a session was on a node that has died.
                        turned_away += u32::from(matches!(fault, Fault::Login { .. }));
                        if turned_away >= TURNED_AWAY {
                            held = None;
                        }
                        let (fault, to) = self.follow(fault, &endpoint);
                        if moves < MOVES
                            && let Some(to) = to
                        {
                            moves += 1;
                            round.push_front(to);
                        }
                        hurry &= !fault.is_settled();
                        self.tell(&fault, &mut last);
                        continue;
                    }
                };
                turned_away = 0;
                self.state(State::Connected);
                UplinkCounters::add(&self.counters.connects, 1);
                tracing::info!(uplink = %self.config.name, url = endpoint.url(), "connected");
                logged_in = true;
                self.counters.windows_missed.store(0, std::sync::atomic::Ordering::Relaxed);
                let (since, before) = (Instant::now(), self.acknowledged());
                let left =
                    held.take().filter(|(url, _)| link.limits.session_present && *url == endpoint.url());
                let mut heard = now;
                let terms = Terms {
                    left: left.map(|(_, heard)| heard),
                    heard: &mut heard,
                    bucket: &mut bucket,
                    hearing: &mut hearing,
                    window,
                    asleep: payload::asleep(self.context.clock.wall_of(schedule.next(now))).into(),
                    informed: informed.is_some_and(|since| now.0 < since.0 + INFORMED_MS),
                };
                if !terms.informed {
                    informed = None;
                }
                let end = session::run(link, self.context, delivery, &mut mirror, terms).await;
                held = self.keeps_what_comes_down().map(|_| (endpoint.url(), heard));
                let got_on = since.elapsed() >= self.context.timing.stable || self.acknowledged() > before;
                if got_on && !delivery.was_closed_again() {
                    backoff.reset();
                }
                last = None;
                let fault = match end {
                    End::Stopped => return,
                    End::Rested { settled } => {
                        informed = if settled { informed.or(Some(now)) } else { None };
                        rested = Some(schedule.next(now));
                        break;
                    }
                    End::Broken(fault) => {
                        let fault = closes.after(since.elapsed(), fault, self.client_id());
                        // Who hangs up for another reason is told of as well.
                        let hint = fault.hint().to_owned();
                        delivery.why_closed().map_or(fault, |why| Fault::Closed(why + &hint))
                    }
                };
                informed = None;
                let fault = {
                    let (fault, to) = self.follow(fault, &endpoint);
                    sent_to = to;
                    fault
                };
                hurry &= !fault.is_settled();
                self.tell(&fault, &mut last);
                break; // The first URL has the first word again.
            }
            if rested.is_some() {
                continue;
            }
            self.state(State::Waiting);
            let unit = fastrand::f64();
            let wait = if hurry { backoff.next(unit) } else { backoff.longest(unit) };
            if self.stopped_during(sleep(wait), &mut mirror, delivery).await {
                return;
            }
        }
    }

    /// Waits, takes local messages meanwhile, and says whether we were asked to stop.
    async fn stopped_during(
        &self,
        time: impl Future<Output = ()>,
        mirror: &mut Option<mpsc::Receiver<Message>>,
        delivery: &mut Delivery,
    ) -> bool {
        tokio::select! {
            () = time => false,
            () = take_all(mirror, delivery) => true,
            () = self.context.stop.cancelled() => true,
        }
    }

    /// Waits for a moment of boot time.
    async fn until(&self, moment: BootMs) {
        while let Some(left) = moment.0.checked_sub(self.context.clock.boot().0).filter(|left| *left > 0) {
            sleep(Duration::from_millis(left).min(self.context.timing.doze)).await;
        }
    }

    fn goes_to_sleep(&self, opens: BootMs, logged_in: bool) {
        if !logged_in {
            UplinkCounters::add(&self.counters.windows_missed, 1);
        }
        self.counters.set_next_window(self.context.clock.wall_of(opens));
        self.state(State::Sleeping);
    }

    /// The addresses of the configuration, in turn. The loader has checked them.
    fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let urls = std::iter::once(&self.config.url).chain(&self.config.fallback_urls);
        urls.filter_map(|url| Endpoint::parse(url).ok())
    }

    /// Whether a fault sends us somewhere else, and what we do about it.
    fn follow(&self, fault: Fault, from: &Endpoint) -> (Fault, Option<Endpoint>) {
        let Fault::Redirect { to, .. } = fault else { return (fault, None) };
        let place = to.as_deref().and_then(|to| from.moved(to));
        let (hint, place) = match place {
            Some(place) if self.config.allow_redirect => ("", Some(place)),
            Some(_) => ("; set allow_redirect = true to follow it, or change `url`", None),
            None => ("; it names none that we can reach, so change `url`", None),
        };
        (Fault::Redirect { to, hint }, place)
    }

    /// Which session to ask for. `held`: where the last one was.
    fn wanted(
        &self,
        endpoint: &Endpoint,
        delivery: &Delivery,
        held: &Option<(String, BootMs)>,
        hearing: &Hearing,
    ) -> Wanted {
        if !self.context.wants_exactly_once() {
            return match self.keeps_what_comes_down().filter(|_| hearing.asks(Instant::now())) {
                // The first one of this process is new, so that no subscription of another configuration is left in it.
                Some(keep_s) => {
                    let anew = held.as_ref().is_none_or(|(url, _)| *url != endpoint.url());
                    Wanted::Held { anew, keep_s }
                }
                None => Wanted::Clean,
            };
        }
        let key = exactly::key(self.config, endpoint, self.gateway);
        match delivery.drain.session() {
            // Nothing can be noted.
            None => Wanted::Clean,
            Some(session) if session.key == key => Wanted::Left(key),
            Some(_) => Wanted::Anew(key),
        }
    }

    /// Whether the broker is asked to keep what comes down while we are away, and for how many seconds: on a link that is used
    /// in windows, for else it could come in a window only. (Sparkplug wants a clean session; with QoS 2 the
    /// session has another purpose.)
    fn keeps_what_comes_down(&self) -> Option<u32> {
        let Connect::Windows { every, .. } = self.config.connect else { return None };
        let asks = !self.config.allow_commands.is_empty() || !self.config.subscribe.is_empty();
        let seconds = every.0.as_secs().saturating_mul(4).max(HELD_S);
        (asks && self.config.format != Format::SparkplugB)
            .then_some(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    async fn connect(
        &self,
        endpoint: &Endpoint,
        will: &MakeWill,
        session: Wanted,
    ) -> Result<link::Link, Fault> {
        let progress = Progress::default();
        let way = Way {
            uplink: self.config,
            gateway: self.gateway,
            will,
            clock: &*self.context.clock,
            progress: &progress,
            session,
        };
        let limit = self.context.timing.connect;
        timeout(limit, Box::pin(way.open(endpoint))).await.unwrap_or_else(|_| {
            Err(Fault::Timeout {
                what: format!("connecting to {}: {}", endpoint.url(), progress.words()),
                limit,
            })
        })
    }

    fn client_id(&self) -> &str {
        self.config.client_id.as_deref().unwrap_or(self.gateway)
    }

    fn acknowledged(&self) -> u64 {
        self.counters.acknowledged.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn state(&self, state: State) {
        self.counters.set_state(state, self.context.clock.boot());
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
