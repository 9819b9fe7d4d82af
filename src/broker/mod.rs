//! The embedded MQTT broker: our front speaks MQTT, an engine routes behind it, and no byte of a client
//! reaches the engine unchecked.
//!
//! # What it promises
//! - MQTT 3.1, 3.1.1 and 5 on the same port, over TCP, TLS and WebSocket. QoS 0, 1 and 2; a QoS 1 or 2 message is
//!   acknowledged after it came out of the engine and was queued for every subscriber; where its topic is tapped (`tap`),
//!   after it was stored.
//! - Each publisher's messages keep their order. A slow subscriber slows nobody: its queue is bounded by
//!   number and bytes ([`Limits`]); what does not fit is dropped *for it* and counted, QoS 0 first.
//! - All retained messages of a filter arrive, whatever their number.
//! - Shared subscriptions give each message to one member that is there and has room.
//! - Nothing a client sends, or fails to send, stops the broker: a fault costs one connection; an engine
//!   that dies or stalls is replaced by the native one ([`BrokerStats::engine_switches`]).
//! - Sessions that outlive their connection, and retained messages of clients, survive the process, too, with [`Persistence`]: after
//!   a `kill -9` nothing that was acknowledged is lost, and QoS 2 stays exactly once. What this process itself publishes
//!   with QoS 1 may lack the last [`Persistence::within`] for a client that was away (`journal`).
//! - Wills of clients that were connected when the process ended are published by the next one, those of clean sessions, too
//!   (`restoring`); without [`Persistence`], when the broker is closed.
//!
//! # The parts, pure ones first
//! `topic`, `trie`, `shared`, `retained`, `acl`, `passwords`, `lines`, `wire`, `session` decide; `hub` owns all state in one
//! task (`keeping` and `restoring` are its part in what outlives the process); `listener`, `greet`, `connection`, `inbound`, `outbound`
//! move bytes; `pipe` is between them and the hub; `journal` writes; `local` and `tap` are for this process;
//! `reload` takes over another configuration.

mod access;
pub mod acl;
mod clients;
mod connection;
mod doorman;
mod engine;
mod engine_rumqttd;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod greet;
mod handing;
mod hub;
mod inbound;
mod intake;
mod journal;
mod keeping;
mod limits;
mod lines;
mod listener;
mod local;
mod message;
mod outbound;
mod outlet;
pub mod passwords;
mod pipe;
mod queue;
mod reload;
mod restoring;
mod retained;
mod roster;
mod routing;
mod session;
mod shared;
mod state;
mod stats;
mod sys;
mod tap;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;
mod traffic;
mod trie;
mod wire;
mod ws;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bounds;
use crate::config::model::{self, Transport};
use crate::message::{Message, Props, VIA};
use crate::topic;
use access::{Access, All};
use doorman::Gate;
use greet::Shared;
use hub::{Hub, Inputs};
use intake::Partials;
use message::Publish;
use state::{Event, State};
use stats::Counters;
use tap::Tap;

pub use error::BrokerError;
pub use journal::Persistence;
pub use limits::Limits;
pub use lines::LineError;
pub use local::Subscription;
pub use passwords::hash_password;
pub use roster::{ClientRow, Kicked};
pub use stats::{BrokerStats, Refusal};
pub use tap::{Keeper, Receipt, Tapped, Taps};

/// Which engine routes.
#[derive(Debug, Default)]
pub enum EngineChoice {
    /// rumqttd, and the native one if it fails.
    #[default]
    Rumqttd,
    /// The native one from the start.
    Native,
    /// One of a test.
    #[cfg(test)]
    Given(engine::Running),
}

/// What is not in the configuration file.
#[derive(Debug, Default)]
pub struct Options {
    /// Filters of topics that are never retained (commands). A message published there with the retain
    /// flag reaches its subscribers, those of this process see the flag, and it is not kept.
    pub never_retain: Vec<String>,
    /// Limits.
    pub limits: Limits,
    /// Engine.
    pub engine: EngineChoice,
    /// Whether to show `$SYS`, as often as the configuration says.
    pub sys: bool,
    /// Where sessions and retained messages outlive the process; `None`: nowhere.
    pub persistence: Option<Persistence>,
    /// What is tapped from the first message on; see [`Broker::tap`].
    pub tap: Taps,
}

/// A running broker. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    local: mpsc::Sender<Event>,
    local_queued: Arc<AtomicUsize>,
    /// As `[broker]` says, for listeners that do not say otherwise.
    access: watch::Sender<Arc<Access>>,
    /// Held over awaits: one reload at a time.
    doors: Mutex<Vec<listener::Open>>,
    addresses: watch::Sender<Vec<(Transport, SocketAddr)>>,
    tasks: TaskTracker,
    hub_stop: CancellationToken,
    sys_every: watch::Sender<Duration>,
}

/// How long connections get to say good-bye when the broker closes.
const CLOSING: Duration = Duration::from_secs(3);

impl Broker {
    /// Starts a broker with the limits of the configuration; see [`Broker::start_with`].
    ///
    /// # Errors
    /// As [`Broker::start_with`].
    pub async fn start(config: &model::Broker, never_retain: &[&str]) -> Result<Self, BrokerError> {
        Self::start_kept(config, never_retain, None, Taps::default()).await
    }

    /// As [`Broker::start`], with a place where sessions and retained messages outlive the process, and with taps. A place that is out of
    /// order is no error: the broker lives in memory, and says so.
    ///
    /// # Errors
    /// As [`Broker::start_with`].
    pub async fn start_kept(
        config: &model::Broker,
        never_retain: &[&str],
        persistence: Option<Persistence>,
        tap: Taps,
    ) -> Result<Self, BrokerError> {
        let never_retain = never_retain.iter().map(|f| (*f).to_owned()).collect();
        let engine = match config.engine {
            model::Engine::Rumqttd => EngineChoice::Rumqttd,
            model::Engine::Native => EngineChoice::Native,
        };
        let limits = Limits::of(config);
        Self::start_with(config, Options { never_retain, limits, engine, sys: true, persistence, tap }).await
    }

    /// Reads the files, binds every listener, and only then starts to accept.
    ///
    /// # Errors
    /// The first thing that does not work, with its cure; then nothing was started.
    pub async fn start_with(config: &model::Broker, options: Options) -> Result<Self, BrokerError> {
        let access = All::load(config)?;
        let mut bound = Vec::new();
        for (listener, access) in config.listener.iter().zip(&access.listeners) {
            let acceptor = listener::acceptor(listener)?;
            bound.push(listener::bind(listener, acceptor, Arc::clone(access)).await?);
        }
        let Options { never_retain, limits, engine, sys, persistence, tap: taps } = options;
        let counters = Arc::new(Counters::default());
        let (events, clients) = mpsc::channel(bounds::BROKER_EVENTS);
        let (local, local_rx) = mpsc::channel(bounds::BROKER_LOCAL_BATCHES);
        let (stop, hub_stop) = (CancellationToken::new(), CancellationToken::new());
        let local_queued = Arc::new(AtomicUsize::new(0));
        let tap = Arc::new(Tap::new(counters.clone()));
        tap.want(taps);
        let mut state =
            State::new(limits.clone(), counters.clone(), access.each(), tap.clone(), never_retain);
        let held = state.queued.clone();
        let journal = match persistence {
            Some(persistence) => Some(state.keep(persistence).await),
            None => None,
        };
        let engine = match engine {
            EngineChoice::Native => None,
            EngineChoice::Rumqttd => engine_rumqttd::start()
                .inspect_err(|error| tracing::error!(error, "the native routing engine is used instead"))
                .ok(),
            #[cfg(test)]
            EngineChoice::Given(running) => Some(running),
        };
        let tasks = TaskTracker::new();
        let inputs =
            Inputs { clients, local: local_rx, local_queued: local_queued.clone(), stop: hub_stop.clone() };
        tokio::spawn(Hub::new(state, engine).run(inputs));
        let shared = Arc::new(Shared {
            gate: Gate::new(limits.rules()),
            publish_rate: AtomicU32::new(limits.publish_rate),
            partials: Partials::new(limits.partial_bytes),
            held,
            limits,
            counters,
            events,
            tap,
            journal,
            kib: Arc::new(Semaphore::new(bounds::BROKER_EVENT_KIB)),
            checkers: Semaphore::new(2),
            checks: Semaphore::new(bounds::BROKER_PASSWORD_CHECKS),
            stop,
            numbers: AtomicU64::new(1),
        });
        let doors: Vec<_> = bound.into_iter().map(|b| b.open(&shared, &tasks)).collect();
        let (addresses, _) = watch::channel(places(&doors));
        let doors = Mutex::new(doors);
        let (sys_every, sys_hears) = watch::channel(config.sys_interval.0);
        let inner = Inner {
            shared,
            local,
            local_queued,
            access: watch::channel(access.common).0,
            doors,
            addresses,
            tasks,
            hub_stop,
            sys_every,
        };
        let broker = Self { inner: Arc::new(inner) };
        if broker.inner.shared.journal.is_some() {
            tokio::spawn(keeping::watch(Arc::downgrade(&broker.inner)));
        }
        if sys {
            tokio::spawn(sys::publish(Arc::downgrade(&broker.inner), sys_hears));
        }
        Ok(broker)
    }

    /// Where clients may connect; port 0 resolved. In the order of the configuration, after a reload the
    /// kept ones first.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Transport, SocketAddr)> {
        self.inner.addresses.borrow().clone()
    }

    /// Publishes messages of this process, in order. Never blocks. Returns how many were skipped: the
    /// topic is not a topic, or the bounded queue to the hub is full ([`bounds::BROKER_LOCAL`]); counted.
    /// However many they are, the hub wakes up once.
    pub fn publish(&self, messages: Vec<Message>) -> usize {
        self.burst(messages.into_iter().map(Publish::from))
    }

    fn burst(&self, messages: impl ExactSizeIterator<Item = Publish>) -> usize {
        let inner = &*self.inner;
        let offered = messages.len();
        let levels = inner.shared.limits.levels;
        let mut good: Vec<_> = messages.filter(|m| topic::is_name(&m.topic, levels)).collect();
        let queued = inner.local_queued.fetch_add(good.len(), Relaxed);
        let room = bounds::BROKER_LOCAL.saturating_sub(queued).min(good.len());
        inner.local_queued.fetch_sub(good.len() - room, Relaxed);
        good.truncate(room);
        let mut sent = 0;
        if room > 0 {
            sent = match inner.local.try_send(Event::Burst(good)) {
                Ok(()) => room,
                Err(_) => {
                    inner.local_queued.fetch_sub(room, Relaxed);
                    0
                }
            };
        }
        Counters::add(&inner.shared.counters.skipped, offered - sent);
        offered - sent
    }

    /// [`Broker::publish`] of what an uplink brought, each with the gateways it came by.
    pub fn publish_from(&self, uplink: &Arc<str>, messages: Vec<(Message, Vec<String>)>) -> usize {
        self.burst(messages.into_iter().map(|(message, via)| {
            let user: Vec<_> = via.into_iter().map(|gateway| (VIA.to_owned(), gateway)).collect();
            let props = (!user.is_empty()).then(|| Box::new(Props { user, ..Props::default() }));
            Publish { props, origin: Some(Arc::clone(uplink)), ..message.into() }
        }))
    }

    /// From now on everything that is published on these topics is handed to
    /// the keeper, and what has QoS 1 or 2 is acknowledged when it gave the receipt back. See [`tap`].
    pub fn tap(&self, taps: Taps) {
        self.inner.shared.tap.want(taps);
    }

    /// The keeper's end of the tap: there is one.
    #[must_use]
    pub fn keeper(&self) -> Option<Keeper> {
        let shared = &self.inner.shared;
        shared.tap.keeper(shared.journal.as_ref().map(journal::Journal::durable))
    }

    /// The messages of these receipts are stored: whoever published them is told so.
    pub async fn stored(&self, receipts: Vec<Receipt>) {
        let _ = self.inner.local.send(Event::Stored(receipts)).await;
    }

    /// Subscribes from inside the process; what was published before by the same task is seen as
    /// retained or not at all. Filters that are no filters, or shared ones, match nothing.
    pub async fn subscribe(&self, name: &str, filters: &[&str]) -> Subscription {
        let levels = self.inner.shared.limits.levels;
        let good = |f: &&&str| topic::is_filter(f, levels) && !topic::is_shared(f);
        let filters: Vec<String> = filters.iter().filter(good).map(|f| (*f).to_owned()).collect();
        let shared: Vec<Arc<str>> = filters.iter().map(|f| f.as_str().into()).collect();
        let (reply, queue) = oneshot::channel();
        let events = self.inner.local.clone();
        let _ = events.send(Event::Local(name.to_owned(), filters, reply)).await;
        let (key, queue) = match queue.await {
            Ok(subscribed) => subscribed,
            // The broker has stopped: a queue without a sender ends at once.
            Err(_) => (0, queue::new(&self.inner.shared.limits, &Arc::default()).1),
        };
        Subscription::new(key, queue, events, shared)
    }

    /// The retained messages that match, as of now.
    pub async fn retained(&self, filter: &str) -> Vec<Message> {
        let (reply, found) = oneshot::channel();
        let _ = self.inner.local.send(Event::Retained(filter.to_owned(), reply)).await;
        found.await.unwrap_or_default()
    }

    /// Every session, those of this process included, by client id.
    pub async fn clients(&self) -> Vec<ClientRow> {
        let (reply, rows) = oneshot::channel();
        let _ = self.inner.local.send(Event::Roster(reply)).await;
        rows.await.unwrap_or_default()
    }

    /// Ends the connection of a client, or forgets its session if it is away.
    pub async fn kick(&self, client_id: &str) -> Kicked {
        let (reply, kicked) = oneshot::channel();
        let _ = self.inner.local.send(Event::Kick(client_id.to_owned(), reply)).await;
        kicked.await.unwrap_or(Kicked::Unknown)
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> BrokerStats {
        self.inner.shared.counters.snapshot()
    }

    /// From now on [`Persistence::within`] is this.
    pub fn keep_within(&self, within: Duration) {
        self.inner.shared.journal.iter().for_each(|journal| journal.within(within));
    }

    /// Returns when the broker has stopped: after [`Broker::close`], or by a fault of ours, which the
    /// caller must treat as one.
    pub async fn ended(&self) {
        self.inner.local.closed().await;
    }

    /// Whether it has stopped; see [`Broker::ended`].
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.inner.local.is_closed()
    }

    /// Closes the doors, lets the connections say good-bye, and stops. Sessions and retained messages that are not kept are
    /// gone with it; of those that are, the last changes are written.
    pub async fn close(&self) {
        let inner = &*self.inner;
        inner.shared.stop.cancel();
        inner.tasks.close();
        if tokio::time::timeout(CLOSING, inner.tasks.wait()).await.is_err() {
            tracing::warn!("some connections of the broker did not end in time");
        }
        inner.doors.lock().await.clear();
        inner.addresses.send_replace(Vec::new());
        inner.hub_stop.cancel();
        inner.local.closed().await;
        if let Some(journal) = inner.shared.journal.clone() {
            let closed = tokio::task::spawn_blocking(move || journal.close());
            if tokio::time::timeout(CLOSING, closed).await.is_err() {
                tracing::error!("the disk does not answer: the last changes of sessions are not kept");
            }
        }
    }
}

impl Drop for Inner {
    /// A broker that nobody holds any more stops, at once.
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.hub_stop.cancel();
    }
}

fn places(doors: &[listener::Open]) -> Vec<(Transport, SocketAddr)> {
    doors.iter().map(|open| (open.transport(), open.address)).collect()
}
