//! A whole gateway in one value: started from a configuration, reloaded with another, stopped from
//! the taps downwards.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{Quality, Reason};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::cloud::RunningUplink;
use super::control::{self, Access, Values};
use super::field::RunningBus;
use super::flow::Flow;
use super::observe;
use crate::bounds;
use crate::broker::Broker;
use crate::clock::{Clock, SystemClock};
use crate::config::model::{ClockTrust, Transport};
use crate::config::{CompiledBus, Loaded};
use crate::counters::FlowStats;
use crate::message::{CommandRequest, Message, Origin, Publish, Reading};
use crate::pipeline::payload;
use crate::pipeline::topics::Topics;
use crate::poll::commander::{Commander, Memory, Targets};
use crate::status::snapshot::{Rates, Snapshot, Sources};
use crate::store::{Begun, Recovery, Store};

/// A running gateway.
pub struct Gateway {
    pub(super) id: String,
    pub(super) topics: Topics,
    clock: Arc<dyn Clock>,
    pub(super) store: Store,
    pub(super) broker: Broker,
    pub(super) publish: Publish,
    pub(super) buses: BTreeMap<String, RunningBus>,
    pub(super) uplinks: BTreeMap<String, RunningUplink>,
    /// `None` once polling has been stopped for good.
    readings: Option<mpsc::Sender<Vec<Reading>>>,
    commands: mpsc::Sender<CommandRequest>,
    pub(super) targets: watch::Sender<Arc<Targets>>,
    pub(super) sources: watch::Sender<Sources>,
    flow_stats: Arc<FlowStats>,
    flow: Option<JoinHandle<()>>,
    commander: JoinHandle<()>,
    helpers: Vec<JoinHandle<()>>,
    observer: JoinHandle<()>,
    stop_observer: CancellationToken,
    stop_helpers: CancellationToken,
    pub(super) control: String,
    progress: Progress,
}

/// The store's commits, as the watchdog saw them last.
#[derive(Debug, Clone, Copy)]
struct Progress {
    commits: u64,
    since: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Self { commits: 0, since: Instant::now() }
    }
}

/// Ids and results of commands, kept in the store.
struct Kept(Store);

#[async_trait]
impl Memory for Kept {
    fn recall(&self, id: &str) -> Option<Option<String>> {
        self.0.command_seen(id)
    }
    async fn begin(&self, id: &str) -> bool {
        self.0.command_begin(id).await == Begun::Fresh
    }
    fn keep(&self, id: &str, result: &str) {
        self.0.command_done(id, result);
    }
}

/// What must move, has it moved? The watchdog's question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stalled(pub Vec<String>);

/// A part that shows no sign of life for this long is stalled. The longest exchange on a bus is its
/// device timeout (seconds), the slowest fsync of a dying card some ten seconds.
const STALLED_AFTER: Duration = Duration::from_secs(45);

impl Gateway {
    /// Opens the store, binds the broker, starts every task. On an error nothing is left running.
    ///
    /// # Errors
    /// What could not be had (store in use, port taken), in words.
    pub async fn start(loaded: Loaded) -> Result<Self, String> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(loaded.gateway.clock == ClockTrust::Trusted));
        let id = loaded.gateway.id.clone();
        let topics = Topics::local(&id);
        let names: Vec<String> = loaded.uplinks.iter().map(|u| u.name.clone()).collect();
        let (store, recovery) =
            Store::open(&loaded.store, &names, clock.clone()).map_err(|e| e.to_string())?;
        report(&recovery);
        let never_retain = format!("{}/command/#", topics.root());
        let broker = match Broker::start(&loaded.broker, &[&never_retain]).await {
            Ok(broker) => broker,
            Err(error) => {
                let _ = store.close().await;
                return Err(error.to_string());
            }
        };
        let publish: Publish = {
            let broker = broker.clone();
            Arc::new(move |messages| {
                broker.publish(messages);
            })
        };
        let flow_stats = Arc::new(FlowStats::default());
        let (readings, input) = mpsc::channel(bounds::READINGS);
        let flow = Flow {
            store: store.clone(),
            clock: clock.clone(),
            publish: publish.clone(),
            topics: topics.clone(),
            stats: flow_stats.clone(),
        };
        let (targets, targets_rx) = watch::channel(Arc::new(Targets::new()));
        let memory = Arc::new(Kept(store.clone()));
        let commander = Commander::new(&id, targets_rx.clone(), memory, clock.clone(), publish.clone());
        let (commands, inbox) = mpsc::channel(bounds::COMMANDS);
        let first = Sources {
            gateway: id.clone(),
            config_hash: loaded.hash.clone(),
            started: Instant::now(),
            clock: clock.clone(),
            flow: flow_stats.clone(),
            store: store.clone(),
            broker: broker.clone(),
            buses: Vec::new(),
            uplinks: Vec::new(),
        };
        let (sources, sources_rx) = watch::channel(first);
        let (stop_observer, stop_helpers) = (CancellationToken::new(), CancellationToken::new());
        let control = control::socket_path(&loaded.store.path);
        let mut gateway = Self {
            progress: Progress::default(),
            control: control.display().to_string(),
            flow: Some(tokio::spawn(flow.run(input))),
            commander: tokio::spawn(commander.run(inbox)),
            observer: tokio::spawn(observe::observe(
                sources_rx.clone(),
                publish.clone(),
                topics.clone(),
                stop_observer.clone(),
            )),
            helpers: Vec::new(),
            id,
            topics,
            clock,
            store,
            broker,
            publish,
            buses: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            readings: Some(readings),
            commands,
            targets,
            sources,
            flow_stats,
            stop_observer,
            stop_helpers,
        };
        gateway.republish_last_values();
        gateway.start_helpers(control, sources_rx, targets_rx).await;
        for bus in loaded.buses {
            gateway.start_bus(bus);
        }
        for uplink in loaded.uplinks {
            gateway.start_uplink(uplink).await;
        }
        gateway.tables_changed();
        gateway.describe();
        Ok(gateway)
    }

    /// Local commands, loss records and the control socket.
    async fn start_helpers(
        &mut self,
        control: std::path::PathBuf,
        sources: watch::Receiver<Sources>,
        targets: watch::Receiver<Arc<Targets>>,
    ) {
        let filter = self.topics.commands();
        let mut local = self.broker.subscribe("commands", &[&filter]).await;
        let (commands, topics, stop) =
            (self.commands.clone(), self.topics.clone(), self.stop_helpers.clone());
        let (clock, publish) = (self.clock.clone(), self.publish.clone());
        self.helpers.push(tokio::spawn(async move {
            while let Some(Some(message)) = stop.run_until_cancelled(local.recv()).await {
                let Some((device, point)) = topics.command_target(&message.topic) else { continue };
                let request = CommandRequest {
                    device: device.to_owned(),
                    point: point.to_owned(),
                    payload: message.payload.clone(),
                    retained: message.retain,
                    origin: Origin::Local,
                    received: Instant::now(),
                };
                let why = match commands.try_send(request) {
                    Ok(()) => continue,
                    Err(TrySendError::Full(_)) => "busy: too many commands are waiting",
                    Err(TrySendError::Closed(_)) => return,
                };
                let refused = payload::refused(&message.payload, why, clock.wall());
                publish(vec![Message::new(topics.result(device, point), refused, false)]);
            }
        }));
        let mut losses = self.store.events();
        let (publish, topics, stop) = (self.publish.clone(), self.topics.clone(), self.stop_helpers.clone());
        self.helpers.push(tokio::spawn(async move {
            while let Some(heard) = stop.run_until_cancelled(losses.recv()).await {
                let record = match heard {
                    Ok(record) => record,
                    // The uplinks get every record from the log; only this local echo missed some.
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                };
                warn!(UPLINK = record.uplink, "lost: {} readings, {:?}", record.count, record.reason);
                publish(vec![observe::loss_message(&record, &topics)]);
            }
        }));
        let rates = std::sync::Mutex::new(Rates::default());
        let access = Access {
            snapshot: Arc::new(move || {
                let snapshot = match rates.lock() {
                    Ok(mut rates) => sources.borrow().clone().snapshot(&mut rates),
                    Err(_) => return serde_json::json!({ "error": "status is out of order" }),
                };
                serde_json::to_value(&snapshot).unwrap_or_default()
            }),
            values: Some(Values::new(self.broker.clone(), &self.topics)),
            targets,
        };
        let stop = self.stop_helpers.clone();
        self.helpers.push(tokio::spawn(async move {
            if let Err(error) = control::serve(&control, access, stop).await {
                error!("control socket {}: {error}; `fieldgate status` will not work", control.display());
            }
        }));
    }

    /// After a restart the last values are there at once, marked as what they are.
    fn republish_last_values(&self) {
        let messages = self
            .store
            .last_values()
            .into_iter()
            .filter(|record| record.value.is_some())
            .map(|mut record| {
                record.quality = Quality::Uncertain(Reason::Stale);
                Message::new(self.topics.data(&record.point), payload::reading(&record), true)
            })
            .collect();
        (self.publish)(messages);
    }

    pub(super) fn start_bus(&mut self, compiled: CompiledBus) {
        if let Some(readings) = &self.readings {
            let name = compiled.name.clone();
            let bus = RunningBus::start(compiled, self.clock.clone(), readings.clone());
            self.buses.insert(name, bus);
        }
    }

    pub(super) async fn start_uplink(&mut self, config: crate::config::model::Uplink) {
        let Some(drain) = self.store.drain(&config.name) else {
            error!(UPLINK = config.name, "the store knows no such uplink");
            return;
        };
        let name = config.name.clone();
        let uplink = RunningUplink::start(
            config,
            &self.id,
            drain,
            &self.broker,
            self.commands.clone(),
            self.clock.clone(),
        )
        .await;
        self.uplinks.insert(name, uplink);
    }

    /// Tells everybody who looks things up by name that buses or uplinks changed.
    pub(super) fn tables_changed(&self) {
        let targets: HashMap<_, _> = self.buses.values().flat_map(RunningBus::targets).collect();
        self.targets.send_replace(Arc::new(targets));
        self.sources.send_modify(|sources| {
            sources.buses = self.buses.values().map(|b| (b.stats.clone(), b.points())).collect();
            sources.uplinks = self.uplinks.values().map(|u| u.source.clone()).collect();
        });
    }

    /// Publishes the retained description of every point.
    pub(super) fn describe(&self) {
        let metas = self.buses.values().flat_map(|bus| bus.meta_messages(&self.topics)).collect();
        (self.publish)(metas);
    }

    /// Parts that should move and do not. A broken disk is no stall: the store says so and tries again.
    pub fn stalled(&mut self) -> Stalled {
        let mut parts = Vec::new();
        let still = self.clock.boot().0.saturating_sub(self.flow_stats.alive_boot_ms.load(Relaxed));
        if Duration::from_millis(still) > STALLED_AFTER {
            parts.push("flow".to_owned());
        }
        let store = self.store.status();
        if store.commits != self.progress.commits || store.readings_in_ram == 0 || store.state != "ok" {
            self.progress = Progress { commits: store.commits, since: Instant::now() };
        }
        if self.progress.since.elapsed() > STALLED_AFTER {
            parts.push("store".to_owned());
        }
        Stalled(parts)
    }

    /// Buses and uplinks whose task ended by itself (a fault in the program), by name.
    #[must_use]
    pub fn dead(&self) -> Vec<String> {
        let buses = self.buses.iter().filter(|(_, b)| b.is_dead()).map(|(n, _)| format!("bus {n}"));
        let uplinks = self.uplinks.iter().filter(|(_, u)| u.is_dead()).map(|(n, _)| format!("uplink {n}"));
        buses.chain(uplinks).collect()
    }

    /// Whether a task without which there is no gateway has ended: then the process must end too.
    #[must_use]
    pub fn broken(&self) -> Option<&'static str> {
        if self.store.status().state == "ended" {
            return Some("the store's thread ended");
        }
        if self.flow.as_ref().is_some_and(JoinHandle::is_finished) {
            return Some("the flow of readings ended");
        }
        self.commander.is_finished().then_some("the commander ended")
    }

    /// Everything at this instant.
    #[must_use]
    pub fn snapshot(&self, rates: &mut Rates) -> Snapshot {
        self.sources.borrow().clone().snapshot(rates)
    }

    /// The doors of the local broker, port 0 resolved.
    pub fn addresses(&self) -> Vec<(Transport, SocketAddr)> {
        self.broker.addresses()
    }

    /// The local broker, for callers in the same process.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The latest reading of every point, as the control socket shows them.
    pub async fn values(&self) -> serde_json::Value {
        Values::new(self.broker.clone(), &self.topics).now().await
    }

    /// Stops the buses for good and stores what they read; delivery goes on. Returns what was stuck.
    pub async fn stop_polling(&mut self) -> Vec<String> {
        let deadline = Instant::now() + GRACE;
        let mut stuck = Vec::new();
        self.buses.values().for_each(RunningBus::stop);
        for (name, bus) in std::mem::take(&mut self.buses) {
            if !bus.ended(deadline).await {
                stuck.push(format!("bus {name}"));
            }
        }
        // The last sender gone, the flow ends once it has numbered everything.
        self.readings = None;
        if let Some(flow) = self.flow.take()
            && tokio::time::timeout_at(deadline, flow).await.is_err()
        {
            stuck.push("flow".to_owned());
        }
        if let Err(error) = self.store.flush().await {
            warn!("not everything is on disk: {error}");
        }
        stuck
    }

    /// Stops the buses and lets what they read be stored and, as far as the link allows within the
    /// grace, delivered. Readings still queued stay in the store.
    ///
    /// # Errors
    /// The names of the parts that were stuck and had to be cut off.
    pub async fn stop(mut self) -> Result<(), Vec<String>> {
        let mut stuck = self.stop_polling().await;
        let deadline = Instant::now() + GRACE;
        self.stop_observer.cancel();
        let _ = tokio::time::timeout_at(deadline, self.observer).await;
        self.uplinks.values().for_each(RunningUplink::stop);
        for (name, uplink) in self.uplinks {
            if !uplink.ended(deadline + Duration::from_secs(1)).await {
                stuck.push(format!("uplink {name}"));
            }
        }
        self.stop_helpers.cancel();
        for helper in self.helpers {
            let _ = tokio::time::timeout_at(deadline + Duration::from_secs(1), helper).await;
        }
        drop(self.commands);
        if tokio::time::timeout_at(deadline + Duration::from_secs(1), self.commander).await.is_err() {
            stuck.push("commander".to_owned());
        }
        if let Err(error) = self.store.close().await {
            error!("{error}");
        }
        self.broker.close().await;
        info!("stopped");
        if stuck.is_empty() { Ok(()) } else { Err(stuck) }
    }
}

/// Says what a start found in the data directory.
fn report(recovery: &Recovery) {
    if let Some(why) = &recovery.ram_only {
        error!("the queue has no disk and lives in RAM for now, trying again: {why}");
    }
    for name in &recovery.set_aside {
        warn!("a damaged queue was set aside as {name}");
    }
    for loss in &recovery.losses {
        let bound = if loss.bound { "at most " } else { "" };
        let (count, [from, to]) = (loss.count, loss.seq);
        warn!(
            UPLINK = loss.uplink,
            "declared lost: {bound}{count} readings ({from} to {to}), {:?}", loss.reason
        );
    }
}

/// How long a stop or a reload waits for exchanges and deliveries under way.
pub const GRACE: Duration = Duration::from_secs(10);
