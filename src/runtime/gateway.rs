//! A whole gateway in one value: started from a configuration, reloaded with another, stopped from
//! the taps downwards.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{Quality, Reason};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::cloud::RunningUplink;
use super::control::{self, Access, Values};
use super::ending::GRACE;
use super::field::{self, RunningBus};
use super::flow::Flow;
use super::forward;
use super::lines::BusLines;
use super::observe;
use super::watchdog::Progress;
use crate::bounds;
use crate::broker::{Broker, Persistence};
use crate::clock::{Clock, SystemClock};
use crate::config::model::{self, ClockTrust, Transport};
use crate::config::{CompiledBus, Loaded};
use crate::counters::FlowStats;
use crate::message::{CommandRequest, Message, Origin, PointKey, Publish, Reading};
use crate::pipeline::payload;
use crate::pipeline::topics::Topics;
use crate::poll::commander::{Commander, Memory, Now, Targets};
use crate::status::snapshot::{Rates, Snapshot, Sources};
use crate::store::{Begun, Recovery, Sessions, Store, run_directory};

/// A running gateway.
pub struct Gateway {
    pub(super) id: String,
    pub(super) topics: Topics,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) store: Store,
    pub(super) broker: Broker,
    pub(super) publish: Publish,
    pub(super) buses: BTreeMap<String, RunningBus>,
    pub(super) uplinks: BTreeMap<String, RunningUplink>,
    /// `None` once polling has been stopped for good.
    pub(super) readings: Option<mpsc::Sender<Vec<Reading>>>,
    pub(super) commands: mpsc::Sender<CommandRequest>,
    pub(super) targets: watch::Sender<Arc<Targets>>,
    pub(super) lines: watch::Sender<Arc<BusLines>>,
    pub(super) sources: watch::Sender<Sources>,
    pub(super) flow_stats: Arc<FlowStats>,
    pub(super) flow: Option<JoinHandle<()>>,
    pub(super) forwarder: Option<JoinHandle<()>>,
    pub(super) stop_forwarder: CancellationToken,
    pub(super) commander: JoinHandle<()>,
    pub(super) helpers: Vec<JoinHandle<()>>,
    pub(super) observer: JoinHandle<()>,
    pub(super) stop_observer: CancellationToken,
    pub(super) stop_helpers: CancellationToken,
    pub(super) control: String,
    /// The data directory.
    pub(super) data: PathBuf,
    pub(super) progress: Progress,
    /// What its clock was made with.
    pub(super) clock_trust: ClockTrust,
    /// How long the store may wait by configuration.
    pub(super) commit_interval: Duration,
    /// `[broker]` as it was at the start: some of its keys are read then only.
    pub(super) broker_at_start: model::Broker,
}

/// Losses of one uplink and reason are logged at most so often; the loss records themselves are all published.
const LOSSES_SAID_EVERY: Duration = Duration::from_secs(60);

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
        let (store, recovery) = Store::open_with(
            &loaded.store,
            (&id, &names),
            forward::wishes(&loaded.uplinks, &id),
            clock.clone(),
        )
        .map_err(|e| e.to_string())?;
        report(&recovery);
        let never_retain = format!("{}/command/#", topics.root());
        let persistence = loaded.broker.persistence.then(|| Persistence {
            shelf: Box::new(Sessions::at(&loaded.store.path, loaded.store.min_free.0)),
            clock: clock.clone(),
            within: loaded.store.commit_interval.0,
            logged: store.last_docket(),
        });
        // Before a door is open: what comes through it first is asked for like all that follows.
        let taps = forward::taps(&loaded.uplinks, &id);
        let broker = match Broker::start_kept(&loaded.broker, &[&never_retain], persistence, taps).await {
            Ok(broker) => broker,
            Err(error) => {
                // What the start found is on disk; a hanging disk must not hide the reason.
                let _ = tokio::time::timeout(GRACE, store.close()).await;
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
        let (lines, lines_rx) = watch::channel(Arc::default());
        let memory = Arc::new(Kept(store.clone()));
        let now: Now = Arc::new({
            let (store, clock) = (store.clone(), clock.clone());
            move || store.moment(clock.boot())
        });
        let times = (clock.clone(), now.clone());
        let commander = Commander::new(&id, targets_rx.clone(), memory, times, publish.clone());
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
        let stop_forwarder = CancellationToken::new();
        let forwarder = broker.keeper().map(|tapped| {
            let stop = stop_forwarder.clone();
            let uplinks = sources_rx.clone();
            tokio::spawn(forward::run(tapped, broker.clone(), store.clone(), uplinks, clock.clone(), stop))
        });
        let mut gateway = Self {
            forwarder,
            stop_forwarder,
            progress: Progress::default(),
            clock_trust: loaded.gateway.clock,
            commit_interval: loaded.store.commit_interval.0,
            broker_at_start: loaded.broker.clone(),
            control: control.display().to_string(),
            data: loaded.store.path.clone(),
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
            lines,
            sources,
            flow_stats,
            stop_observer,
            stop_helpers,
        };
        let configured: HashSet<PointKey> = loaded.buses.iter().flat_map(field::keys).collect();
        gateway.republish_last_values(&configured);
        let second = run_directory().map(|run| control::second_path(&run, &loaded.store.path));
        let sockets = [Some(control), second].into_iter().flatten().collect();
        gateway.start_helpers(sockets, sources_rx, targets_rx, lines_rx).await;
        for bus in loaded.buses {
            gateway.start_bus(bus);
        }
        for uplink in loaded.uplinks {
            gateway.start_uplink(uplink).await;
        }
        gateway.settled(Vec::new());
        if let Some(was) = recovery.renamed_from {
            gateway.tell_new_name(&was);
        }
        Ok(gateway)
    }

    /// Whoever reads upstream knows a gateway by its id, so another one is worth a person's attention.
    fn tell_new_name(&self, was: &str) {
        let alarm = serde_json::json!({ "part": "gateway", "state": "renamed", "was": was, "now": self.id });
        let alarm = observe::at(alarm, self.store.moment(self.clock.boot()));
        (self.publish)(vec![Message::new(self.topics.event_alarm(), alarm.to_string(), false)]);
        for name in self.uplinks.keys() {
            let queued = self.store.drain(name).map_or(0, |drain| drain.ledger().queued);
            if queued > 0 {
                warn!(
                    UPLINK = name,
                    "{queued} readings were taken as `{was}`; they go out on topics of `{}`, and say `{was}` where a payload names the gateway",
                    self.id
                );
            }
        }
    }

    /// Local commands, loss records and the control socket.
    async fn start_helpers(
        &mut self,
        control: Vec<std::path::PathBuf>,
        sources: watch::Receiver<Sources>,
        targets: watch::Receiver<Arc<Targets>>,
        lines: watch::Receiver<Arc<BusLines>>,
    ) {
        let filter = self.topics.commands();
        let mut local = self.broker.subscribe("commands", &[&filter]).await;
        let (commands, topics, stop) =
            (self.commands.clone(), self.topics.clone(), self.stop_helpers.clone());
        let (clock, store, publish) = (self.clock.clone(), self.store.clone(), self.publish.clone());
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
                let refused = payload::refused(&message.payload, why, store.moment(clock.boot()));
                publish(vec![Message::new(topics.result(device, point), refused, false)]);
            }
        }));
        let mut losses = self.store.events();
        let (publish, topics, stop) = (self.publish.clone(), self.topics.clone(), self.stop_helpers.clone());
        self.helpers.push(tokio::spawn(async move {
            let mut said = HashMap::new();
            while let Some(heard) = stop.run_until_cancelled(losses.recv()).await {
                let record = match heard {
                    Ok(record) => record,
                    // The uplinks get every record from the log; only this local echo missed some.
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                };
                // A queue that expires loses a little every second: once a minute is often enough to say so.
                let (since, count) = said.entry((record.uplink.clone(), record.reason)).or_insert((None, 0));
                *count += record.count;
                if since.is_none_or(|at: Instant| at.elapsed() >= LOSSES_SAID_EVERY) {
                    warn!(UPLINK = record.uplink, "declared lost: {count} readings, {:?}", record.reason);
                    (*since, *count) = (Some(Instant::now()), 0);
                }
                publish(vec![observe::loss_message(&record, &topics)]);
            }
        }));
        let mut corrections = self.store.corrections();
        let (publish, topics, stop) = (self.publish.clone(), self.topics.clone(), self.stop_helpers.clone());
        self.helpers.push(tokio::spawn(async move {
            while let Some(heard) = stop.run_until_cancelled(corrections.recv()).await {
                match heard {
                    Ok(record) => publish(vec![observe::correction_message(&record, &topics)]),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
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
            broker: Some(self.broker.clone()),
            store: Some(self.store.clone()),
            targets,
            lines,
            clock: self.clock.clone(),
        };
        let stop = self.stop_helpers.clone();
        for path in control {
            let (access, stop) = (access.clone(), stop.clone());
            self.helpers.push(tokio::spawn(async move { control::serve_always(&path, access, stop).await }));
        }
    }

    /// After a restart the last values of the points that are still configured are there at once, marked as
    /// what they are. Before any bus runs, so that nothing old comes after something new.
    fn republish_last_values(&self, configured: &HashSet<PointKey>) {
        let messages = self
            .store
            .last_values()
            .into_iter()
            .filter(|record| record.value.is_some() && configured.contains(&*record.point))
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
            &self.data,
        )
        .await;
        self.uplinks.insert(name, uplink);
    }

    /// Tells the commander and the control socket which points there are.
    pub(super) fn targets_changed(&self) {
        let targets: HashMap<_, _> = self.buses.values().flat_map(RunningBus::targets).collect();
        self.targets.send_replace(Arc::new(targets));
        let lines = self.buses.iter().map(|(name, bus)| (name.clone(), bus.line())).collect();
        self.lines.send_replace(Arc::new(lines));
    }

    /// Tells everybody who looks things up by name that buses or uplinks changed.
    pub(super) fn tables_changed(&self) {
        self.targets_changed();
        self.sources.send_modify(|sources| {
            sources.buses = self.buses.values().map(|b| (b.stats.clone(), b.points())).collect();
            sources.uplinks = self.uplinks.values().map(|u| u.source.clone()).collect();
        });
    }

    /// A configuration is in place as a whole, after a start or a reload: its tables are shown, what is
    /// retained of the points that it `removed` is cleared, and every point is described.
    pub(super) fn settled(&self, removed: Vec<(String, String)>) {
        self.tables_changed();
        self.store.keep_last_values(&self.targets.borrow().keys().cloned().collect());
        self.store.may_thin(self.buses.values().flat_map(RunningBus::analog));
        self.forget(removed);
        let metas = self.buses.values().flat_map(|bus| bus.meta_messages(&self.topics)).collect();
        (self.publish)(metas);
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
        Values::new(self.broker.clone(), &self.topics).now(None).await
    }
}

/// Says what a start found in the data directory.
fn report(recovery: &Recovery) {
    if let Some(why) = &recovery.ram_only {
        error!("the queue has no disk and lives in RAM for now, trying again: {why}");
    }
    for name in &recovery.set_aside {
        warn!("damage was set aside as {name}; what is known to be missing is declared");
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
