//! One snapshot of everything: what MQTT status topics, the control socket and tests read.
//!
//! Flat objects with plain names (the public contract's §3); rates are over the time since the
//! snapshot before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::process::Process;
pub use super::uplink::{UplinkSource, UplinkStatus};
use crate::broker::{Broker, BrokerStats};
use crate::clock::Clock;
use crate::counters::FlowStats;
use crate::message::{BootMs, Moment};
use crate::poll::share::{Door, ShareStats};
use crate::poll::stats::BusStats;
use crate::store::{Store, StoreStatus};

/// Everything at one instant.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The gateway.
    pub gateway: GatewayStatus,
    /// By bus name.
    pub bus: BTreeMap<String, BusStatus>,
    /// By device name.
    pub device: BTreeMap<String, DeviceStatus>,
    /// By uplink name.
    pub uplink: BTreeMap<String, UplinkStatus>,
    /// Accounts of uplinks that left the configuration and may come back, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left: BTreeMap<String, serde_json::Value>,
    /// The queue.
    pub store: StoreStatus,
    /// The local broker.
    pub broker: BrokerStatus,
}

/// The gateway as a whole.
#[derive(Debug, Clone, Serialize)]
pub struct GatewayStatus {
    /// Its id.
    pub id: String,
    /// `ok` or `degraded`.
    pub state: &'static str,
    /// Why it is degraded; `""` when it is not.
    pub reason: String,
    /// Program version.
    pub version: &'static str,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// The machine's boot.
    pub boot_id: String,
    /// Epoch of the numbers now given out.
    pub epoch: String,
    /// Changes with the effective configuration.
    pub config_hash: String,
    /// `synced` or `unsynced`.
    pub clock: &'static str,
    /// How many points are polled or listened to.
    pub points: usize,
    /// Readings taken since the start.
    pub readings: u64,
    /// Readings taken per second.
    pub readings_per_s: f64,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Open file descriptors.
    pub open_files: u64,
}

/// One bus.
#[derive(Debug, Clone, Serialize)]
pub struct BusStatus {
    /// `starting`, `up`, `down` or `stuck`.
    pub state: &'static str,
    /// Share of time it was in an exchange, 0.0 to 1.0.
    pub utilisation: f64,
    /// Exchanges per second.
    pub requests_per_s: f64,
    /// Exchanges since the start.
    pub requests: u64,
    /// Without an answer in time.
    pub timeouts: u64,
    /// With a wrong checksum.
    pub crc_errors: u64,
    /// Of a wrong shape, or another device's.
    pub protocol_errors: u64,
    /// Refusals.
    pub exceptions: u64,
    /// Times the port was opened again.
    pub reconnects: u64,
    /// Polls skipped because the one before was still running.
    pub overruns: u64,
    /// The latest that a poll began after it was due, ms, over the last minute or two. Devices that do not
    /// answer are not counted: they wait on purpose.
    pub lateness_ms_max: f64,
    /// What 99 of 100 polls did not exceed.
    pub lateness_ms_p99: f64,
    /// The server onto it for other masters, where it is shared.
    #[serde(flatten)]
    pub share: Option<ShareStatus>,
}

/// The server onto a shared bus; its keys stand among those of the bus.
#[derive(Debug, Clone, Serialize)]
pub struct ShareStatus {
    /// `up`, or `down` while its port cannot be had.
    pub share: &'static str,
    /// Where clients connect; `""` while it is down.
    pub share_address: String,
    /// Why it is down; `""` while it is up.
    pub share_error: String,
    /// Clients connected now.
    pub share_clients: u64,
    /// Their requests since the start.
    pub share_requests: u64,
    /// Those that the gateway answered with an exception of its own, and clients that were not let in.
    pub share_refused: u64,
}

/// One device.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceStatus {
    /// Its bus.
    pub bus: String,
    /// `starting`, `online`, `suspect` or `offline`.
    pub state: &'static str,
    /// Time of the last answer, RFC 3339.
    pub last_ok: Option<String>,
    /// Failed exchanges since the start.
    pub failures: u64,
    /// How long it usually takes to begin an answer, ms, as measured; absent while that is not known.
    pub turnaround_ms: Option<f64>,
    /// Requests that it refuses as a whole, most often because of a hole in its registers.
    pub split_blocks: u64,
    /// The requests that are sent instead of those.
    pub split_parts: u64,
}

/// The local broker.
#[derive(Debug, Clone, Serialize)]
pub struct BrokerStatus {
    /// `ok`, `fallback` when the native engine had to take over, `memory` while sessions and retained messages cannot be kept.
    pub state: &'static str,
    /// Clients connected now.
    pub clients: u64,
    /// Subscriptions now, in-process ones included.
    pub subscriptions: u64,
    /// Retained messages now.
    pub retained: u64,
    /// Bytes of their topics and payloads.
    pub retained_bytes: u64,
    /// Messages published to it.
    pub messages_in: u64,
    /// Messages queued for subscribers.
    pub messages_out: u64,
    /// Not delivered to one subscriber because its queue was full.
    pub dropped: u64,
    /// Of this process, not published because the hand-over queue was full.
    pub skipped: u64,
    /// Refusals of every kind.
    pub refused: u64,
    /// Of these by their reason, as `refused_connections` and so on.
    #[serde(flatten)]
    pub refused_for: BTreeMap<String, u64>,
    /// Times a client was not read for a while because it published too fast.
    pub throttled: u64,
    /// Connections that a fault of ours ended.
    pub panics: u64,
    /// Messages of other devices that went to the log (`[[uplink.forward]]`).
    pub forward_taken: u64,
    /// Those with QoS 0 that did not, because too many waited for the disk.
    pub forward_skipped: u64,
    /// Those that did not, because they are too large.
    pub forward_oversize: u64,
    /// The routing engine in use.
    pub engine: &'static str,
    /// Whether sessions and retained messages outlive a restart: `ok`, `memory` (not now, the disk is out of order), `off`.
    pub persistence: &'static str,
    /// Why it is `memory`.
    pub persistence_error: String,
    /// Groups of changes that were written and synced.
    pub persistence_commits: u64,
    /// Tries that failed, and times the disk did not answer.
    pub persistence_failures: u64,
    /// Bytes of `broker.db` and its WAL.
    pub persistence_bytes: u64,
    /// Answers to clients that did not wait for the disk, because it was out of order.
    pub persistence_unkept: u64,
    /// What was left out at the start, because it was damaged.
    pub persistence_damaged: u64,
}

/// Everything a snapshot is made from.
#[derive(Clone)]
pub struct Sources {
    /// The gateway's id.
    pub gateway: String,
    /// Hash of the effective configuration.
    pub config_hash: String,
    /// When the daemon started.
    pub started: Instant,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The flow's counters.
    pub flow: Arc<FlowStats>,
    /// The queue.
    pub store: Store,
    /// The local broker.
    pub broker: Broker,
    /// The buses and how many points each has.
    pub buses: Vec<(Arc<BusStats>, usize)>,
    /// The uplinks.
    pub uplinks: Vec<UplinkSource>,
}

/// Remembers the counts of the snapshot before, for rates.
#[derive(Debug)]
pub struct Rates {
    at: Instant,
    counts: BTreeMap<String, u64>,
    per_s: BTreeMap<String, f64>,
    process: Option<(Instant, Process)>,
}

/// How long what the kernel says of this process is taken for true: asking costs more than the rest.
const PROCESS: Duration = Duration::from_secs(10);

/// Rates over less than this are noise.
const SHORTEST: Duration = Duration::from_millis(500);

impl Default for Rates {
    fn default() -> Self {
        Self { at: Instant::now(), counts: BTreeMap::new(), per_s: BTreeMap::new(), process: None }
    }
}

impl Rates {
    /// Notes all counts at `now` and works out what they grew by per second.
    fn note(&mut self, now: Instant, counts: BTreeMap<String, u64>) {
        let passed = now - self.at;
        if passed < SHORTEST && !self.counts.is_empty() {
            return;
        }
        let seconds = passed.as_secs_f64().max(SHORTEST.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let per_s = counts.iter().map(|(name, count)| {
            let before = self.counts.get(name).copied().unwrap_or(*count);
            (name.clone(), count.saturating_sub(before) as f64 / seconds)
        });
        self.per_s = per_s.collect();
        self.counts = counts;
        self.at = now;
    }

    fn process(&mut self, now: Instant) -> Process {
        match self.process {
            Some((at, process)) if now - at < PROCESS => process,
            _ => self.process.insert((now, Process::now())).1,
        }
    }

    fn of(&self, name: &str) -> f64 {
        let rate = self.per_s.get(name).copied().unwrap_or(0.0);
        (rate * 1000.0).round() / 1000.0
    }
}

impl Sources {
    /// What it is now, by what readings are placed by.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.store.moment(self.clock.boot())
    }

    /// Takes a snapshot.
    pub fn snapshot(&self, rates: &mut Rates) -> Snapshot {
        let ledgers: Vec<_> = self.uplinks.iter().map(|u| (u, u.drain.ledger())).collect();
        let mut counts = BTreeMap::from([("flow".to_owned(), self.flow.readings.load(Relaxed))]);
        for (bus, _) in &self.buses {
            counts.insert(format!("busy {}", bus.name), bus.busy_us.load(Relaxed));
            counts.insert(format!("requests {}", bus.name), bus.requests.load(Relaxed));
        }
        for (uplink, ledger) in &ledgers {
            counts.insert(format!("delivered {}", uplink.name), ledger.delivered);
            counts.insert(format!("taken {}", uplink.name), ledger.taken);
        }
        rates.note(Instant::now(), counts);
        let mut snapshot = Snapshot {
            gateway: self.gateway(rates),
            bus: self
                .buses
                .iter()
                .map(|(bus, _)| (bus.name.clone(), bus_status(bus, self.clock.boot(), rates)))
                .collect(),
            device: self.buses.iter().flat_map(|(bus, _)| devices(bus, &self.store)).collect(),
            uplink: ledgers
                .iter()
                .map(|(uplink, ledger)| {
                    let of = |what: &str| rates.of(&format!("{what} {}", uplink.name));
                    (
                        uplink.name.clone(),
                        UplinkStatus::of(
                            uplink,
                            ledger,
                            |at| self.store.wall_of(at),
                            (of("delivered"), of("taken")),
                        ),
                    )
                })
                .collect(),
            left: self
                .store
                .left()
                .iter()
                .map(|(name, l)| (name.clone(), UplinkStatus::of_account(l, None)))
                .collect(),
            store: self.store.status(),
            broker: broker_status(&self.broker.stats()),
        };
        snapshot.gateway.reason = reasons(&snapshot).join("; ");
        if !snapshot.gateway.reason.is_empty() {
            snapshot.gateway.state = "degraded";
        }
        snapshot
    }

    fn gateway(&self, rates: &mut Rates) -> GatewayStatus {
        let process = rates.process(Instant::now());
        GatewayStatus {
            id: self.gateway.clone(),
            state: "ok",
            reason: String::new(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: self.started.elapsed().as_secs(),
            boot_id: self.clock.boot_id().to_owned(),
            epoch: self.store.epoch().to_string(),
            config_hash: self.config_hash.clone(),
            clock: if self.clock.synced() { "synced" } else { "unsynced" },
            points: self.buses.iter().map(|(_, points)| points).sum(),
            readings: self.flow.readings.load(Relaxed),
            readings_per_s: rates.of("flow"),
            rss_bytes: process.rss_bytes,
            open_files: process.open_files,
        }
    }
}

fn broker_status(stats: &BrokerStats) -> BrokerStatus {
    BrokerStatus {
        state: match (stats.persistence, stats.engine_switches) {
            ("memory", _) => "memory",
            (_, 0) => "ok",
            _ => "fallback",
        },
        clients: stats.clients,
        subscriptions: stats.subscriptions,
        retained: stats.retained,
        retained_bytes: stats.retained_bytes,
        messages_in: stats.messages_in,
        messages_out: stats.messages_out,
        dropped: stats.dropped,
        skipped: stats.skipped,
        refused: stats.refused.iter().map(|(_, count)| count).sum(),
        refused_for: stats.refused.iter().map(|(why, count)| (format!("refused_{why}"), *count)).collect(),
        throttled: stats.throttled,
        panics: stats.panics,
        forward_taken: stats.forward_taken,
        forward_skipped: stats.forward_skipped,
        forward_oversize: stats.forward_oversize,
        engine: stats.engine,
        persistence: stats.persistence,
        persistence_error: stats.persistence_error.clone(),
        persistence_commits: stats.persistence_commits,
        persistence_failures: stats.persistence_failures,
        persistence_bytes: stats.persistence_bytes,
        persistence_unkept: stats.persistence_unkept,
        persistence_damaged: stats.persistence_damaged,
    }
}

fn bus_status(bus: &BusStats, now: BootMs, rates: &Rates) -> BusStatus {
    BusStatus {
        state: bus.state_at(now),
        utilisation: (rates.of(&format!("busy {}", bus.name)) / 1e6 * 1000.0).round() / 1000.0,
        requests_per_s: rates.of(&format!("requests {}", bus.name)),
        requests: bus.requests.load(Relaxed),
        timeouts: bus.timeouts.load(Relaxed),
        crc_errors: bus.crc_errors.load(Relaxed),
        protocol_errors: bus.protocol_errors.load(Relaxed),
        exceptions: bus.exceptions.load(Relaxed),
        reconnects: bus.reconnects.load(Relaxed),
        overruns: bus.overruns.load(Relaxed),
        lateness_ms_max: ms(bus.lateness_us_max.load(Relaxed)),
        lateness_ms_p99: ms(bus.lateness_us_p99.load(Relaxed)),
        share: share_status(&bus.share),
    }
}

/// Microseconds as milliseconds, to a hundredth.
#[expect(clippy::cast_precision_loss, reason = "a time for people")]
fn ms(us: u64) -> f64 {
    (us as f64 / 10.0).round() / 100.0
}

fn share_status(share: &ShareStats) -> Option<ShareStatus> {
    let (state, address, error) = match share.door() {
        Door::None => return None,
        Door::Open(at) => ("up", at.to_string(), String::new()),
        Door::Shut(why) => ("down", String::new(), why),
    };
    Some(ShareStatus {
        share: state,
        share_address: address,
        share_error: error,
        share_clients: share.clients.load(Relaxed),
        share_requests: share.requests.load(Relaxed),
        share_refused: share.refused.load(Relaxed),
    })
}

fn devices(bus: &BusStats, store: &Store) -> impl Iterator<Item = (String, DeviceStatus)> {
    bus.devices.iter().map(|device| {
        let last_ok = device.last_ok.load(Relaxed);
        let status = DeviceStatus {
            bus: bus.name.clone(),
            state: device.state(),
            last_ok: (last_ok > 0).then(|| store.wall_of(BootMs(last_ok)).to_string()),
            failures: device.failures.load(Relaxed),
            turnaround_ms: Some(device.turnaround_us.load(Relaxed)).filter(|us| *us > 0).map(ms),
            split_blocks: device.split_blocks.load(Relaxed),
            split_parts: device.split_parts.load(Relaxed),
        };
        (device.name.clone(), status)
    })
}

/// What keeps the gateway from being healthy, in words.
fn reasons(snapshot: &Snapshot) -> Vec<String> {
    let down = |kind: &str, name: &String, state: &str| format!("{kind} {name} is {state}");
    let mut reasons = Vec::new();
    for (name, bus) in snapshot.bus.iter().filter(|(_, b)| matches!(b.state, "down" | "stuck")) {
        reasons.push(down("bus", name, bus.state));
    }
    for (name, bus) in &snapshot.bus {
        if let Some(share) = bus.share.as_ref().filter(|share| share.share == "down") {
            reasons.push(format!("share of bus {name} is down: {}", share.share_error));
        }
    }
    for (name, device) in snapshot.device.iter().filter(|(_, d)| d.state == "offline") {
        reasons.push(down("device", name, device.state));
    }
    for (name, uplink) in snapshot.uplink.iter().filter(|(_, u)| !u.is_well()) {
        reasons.push(down("uplink", name, uplink.state));
    }
    if snapshot.store.state != "ok" {
        reasons.push(format!("store is {}", snapshot.store.state));
    }
    match snapshot.broker.state {
        "ok" => {}
        "memory" => reasons.push(format!(
            "the broker keeps its sessions in memory only: {}",
            snapshot.broker.persistence_error
        )),
        state => reasons.push(format!("broker is {state}")),
    }
    reasons
}
