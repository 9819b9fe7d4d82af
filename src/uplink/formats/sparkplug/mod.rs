//! `sparkplug-b`: an edge node of Sparkplug B 3.0. Devices and points are births, readings are DDATA.
//!
//! - **Identity.** The payload of DDATA has the epoch in `uuid`, its first metric the number in the property `seq`. Each
//!   further metric has the number of the one before it plus one, and plus what its property `skip` says, if it has one
//!   (those are of other devices). With the node they are the triple of the contract.
//! - **Types** are as narrow as the values allow: see [`kind`].
//! - **Delivery.** DDATA goes with QoS 0, as the specification demands. A reading counts as delivered when the broker has
//!   answered a PINGREQ that was sent behind it on the same connection (see `session/node.rs`). What was not
//!   answered goes again after the next login, as historical.
//! - **Backlog** is `is_historical`.
//! - **Silent devices.** DDEATH says that a device does not answer (its status is `offline`), or is no longer configured;
//!   DBIRTH that it is back, before its next value. No DDATA is sent of a dead device. What is owed of its silence, readings
//!   without a value, is in further messages of DDEATH, in the form of DDATA. Values of the backlog that it has from before are
//!   DDATA between a birth and another death.
//! - **A host that is awaited** (`primary_host`): without its `online` nothing is born; when it goes, so do we.

pub mod kind;
pub mod model;
pub mod proto;
pub mod silence;

use std::collections::{BTreeSet, VecDeque};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use bytes::Bytes;
use prost::Message as _;
use serde::Deserialize;

use super::node::{Heard, MakeWill, Node, Packet, Will};
use super::{Encoded, Format};
use crate::clock::Clock;
use crate::message::Record;
use crate::uplink::lanes::{Cut, Lane};
use model::Model;
use proto::{Kind, Metric, MetricValue, Payload};

const BD_SEQ: &str = "bdSeq";
const REBIRTH: &str = "Node Control/Rebirth";

/// What an edge node is made from.
pub struct Settings {
    /// Group id.
    pub group: String,
    /// Edge node id.
    pub node: String,
    /// Host whose STATE decides whether the node is there at all.
    pub primary_host: Option<String>,
    /// Births of devices and data go compressed.
    pub deflate: bool,
    /// What limits one message.
    pub cut: Cut,
    /// For the time of sending.
    pub clock: Arc<dyn Clock>,
    /// Keeps the count of births over restarts; without it the count begins at 0.
    pub file: Option<PathBuf>,
}

/// An edge node.
pub struct Sparkplug {
    settings: Settings,
    births: Arc<BirthCount>,
    model: Model,
    /// The number of the next packet.
    seq: u8,
    /// The node's own birth was sent on this connection and stands.
    born: bool,
    /// The awaited host is there.
    host_online: bool,
    /// When the awaited host last said that it is there.
    host_since: u64,
    /// Numbered, and to be sent in this order.
    outbox: VecDeque<Packet>,
    /// Commands heard, for their ids.
    commands: u64,
    /// Tells the ids of this process from those before it.
    life: u64,
}

/// `bdSeq`: which CONNECT a death belongs to.
struct BirthCount {
    /// That of the present connection.
    current: AtomicU8,
    /// That of the next.
    next: AtomicU8,
    file: Option<PathBuf>,
}

impl BirthCount {
    fn open(file: Option<PathBuf>) -> Self {
        let kept =
            file.as_ref().and_then(|f| std::fs::read_to_string(f).ok()).and_then(|t| t.trim().parse().ok());
        // A file that a power cut emptied: any number tells lives apart better than the one of the first start.
        let emptied = file.as_ref().is_some_and(|f| f.exists());
        let next = kept.unwrap_or_else(|| if emptied { fastrand::u8(..) } else { 0 });
        Self { current: AtomicU8::new(next), next: AtomicU8::new(next), file }
    }

    /// For a CONNECT that is about to be sent.
    fn step(&self) -> u8 {
        let current = self.next.load(Relaxed);
        let next = current.wrapping_add(1);
        self.current.store(current, Relaxed);
        self.next.store(next, Relaxed);
        current
    }

    /// Writes the number of the next CONNECT, so that not even a power cut lets one come twice.
    fn keep(&self) {
        let Some(file) = &self.file else { return };
        if let Err(e) = written(file, self.next.load(Relaxed)) {
            tracing::debug!("the count of births cannot be kept in `{}`: {e}", file.display());
        }
    }
}

/// A file with this number, on the disk when it returns.
fn written(file: &Path, number: u8) -> std::io::Result<()> {
    let new = file.with_extension("new");
    let mut out = std::fs::File::create(&new)?;
    out.write_all(format!("{number}\n").as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&new, file)?;
    match file.parent() {
        Some(directory) => std::fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[derive(Deserialize)]
struct State {
    online: bool,
    timestamp: u64,
}

impl Sparkplug {
    /// A node that is not connected.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let births = Arc::new(BirthCount::open(settings.file.clone()));
        Self {
            settings,
            births,
            model: Model::default(),
            seq: 0,
            born: false,
            host_online: false,
            host_since: 0,
            outbox: VecDeque::new(),
            commands: 0,
            life: fastrand::u64(..),
        }
    }

    fn topic(&self, kind: &str, device: Option<&str>) -> String {
        let Settings { group, node, .. } = &self.settings;
        let device = device.map_or(String::new(), |d| format!("/{d}"));
        format!("spBv1.0/{group}/{kind}/{node}{device}")
    }

    fn state_topic(&self) -> Option<String> {
        self.settings.primary_host.as_ref().map(|host| format!("spBv1.0/STATE/{host}"))
    }

    /// A packet with the next number.
    fn packet(
        &mut self,
        kind: &str,
        device: Option<&str>,
        metrics: Vec<Metric>,
        uuid: Option<String>,
    ) -> Packet {
        let seq = Some(u64::from(self.seq));
        self.seq = self.seq.wrapping_add(1);
        let timestamp = Some(now(&*self.settings.clock));
        let payload = Payload { timestamp, metrics, seq, uuid, body: None };
        // The node's own birth stays plain: every host finds `bdSeq` in it.
        let deflate = self.settings.deflate && device.is_some();
        let payload = if deflate { payload.deflated() } else { payload.encode_to_vec() };
        Packet { topic: self.topic(kind, device).into(), payload: payload.into() }
    }

    fn node_birth(&mut self) -> Packet {
        self.born = true;
        self.seq = 0;
        self.model.forget_births();
        let at = now(&*self.settings.clock);
        let rebirth = Metric {
            name: Some(REBIRTH.to_owned()),
            timestamp: Some(at),
            datatype: Some(Kind::Boolean as u32),
            value: Some(MetricValue::Boolean(false)),
            ..Metric::default()
        };
        let metrics = vec![bd_seq(self.births.current.load(Relaxed), at), rebirth];
        self.packet("NBIRTH", None, metrics, None)
    }

    fn device_birth(&mut self, device: &str) -> Packet {
        let metrics = self.model.birth(device);
        self.packet("DBIRTH", Some(device), metrics, None)
    }

    fn commanded(&mut self, device: &str, payload: &[u8]) -> Heard {
        let Ok(payload) = Payload::decode(payload) else { return Heard::Done };
        let mut commands = Vec::new();
        for metric in &payload.metrics {
            let Some((device, point)) = self.model.target(device, metric) else { continue };
            let Some(value) = self.model.wanted(&device, &point, metric) else { continue };
            self.commands += 1;
            let id = format!("dcmd-{:016x}-{}", self.life, self.commands);
            let command = serde_json::json!({ "id": id, "value": value });
            commands.push((device, point, Bytes::from(command.to_string())));
        }
        Heard::Commands(commands)
    }

    fn host(&mut self, payload: &[u8]) -> Heard {
        let Ok(state) = serde_json::from_slice::<State>(payload) else { return Heard::Done };
        if state.timestamp < self.host_since {
            return Heard::Done; // A word from before the last one, such as a will that comes late.
        }
        self.host_since = state.timestamp;
        let left = self.host_online && !state.online;
        self.host_online = state.online;
        if left { Heard::Leave("the primary host went offline".to_owned()) } else { Heard::Done }
    }
}

impl Format for Sparkplug {
    fn cut(&self) -> Cut {
        self.settings.cut
    }

    fn encode(&mut self, lane: Lane, records: &[Record]) -> Encoded {
        let now = self.settings.clock.boot().0;
        records.iter().for_each(|record| self.model.admit(record, now));
        let mut valued: BTreeSet<&str> = BTreeSet::new();
        let mut devices: Vec<(&str, u64, Vec<Metric>)> = Vec::new();
        for record in records {
            let seq = record.id.seq;
            if record.value.is_some() {
                valued.insert(&record.point.device);
            }
            let at = devices.iter().position(|(name, ..)| *name == record.point.device);
            let before = at.map(|at| devices[at].1);
            let metric = self.model.data(record, before, lane == Lane::Backlog).expect("admitted above");
            match at.and_then(|at| devices.get_mut(at)) {
                Some((_, last, metrics)) => {
                    *last = seq;
                    metrics.push(metric);
                }
                None => devices.push((&record.point.device, seq, vec![metric])),
            }
        }
        let epoch = records.first().map(|r| r.id.epoch.to_string());
        for (device, _, metrics) in devices {
            if self.model.is_dead(device) && !valued.contains(device) {
                let death = self.packet("DDEATH", Some(device), metrics, epoch.clone());
                self.outbox.push_back(death);
                continue;
            }
            if self.model.to_be_born(device) {
                let birth = self.device_birth(device);
                self.outbox.push_back(birth);
            }
            let data = self.packet("DDATA", Some(device), metrics, epoch.clone());
            self.outbox.push_back(data);
        }
        let last = self.outbox.pop_back().expect("a message has at least one reading, and that a device");
        Encoded { topic: last.topic, payload: last.payload, retain: false }
    }

    fn open(&self) -> bool {
        self.born && self.outbox.is_empty() && !self.model.waits()
    }

    fn node(&mut self) -> Option<&mut dyn Node> {
        Some(self)
    }

    fn make_will(&self) -> Option<MakeWill> {
        let (births, clock) = (self.births.clone(), self.settings.clock.clone());
        let topic = self.topic("NDEATH", None);
        Some(Arc::new(move || {
            let will = death(topic.clone(), births.step(), now(&*clock));
            let births = births.clone();
            (will, Some(Box::new(move || births.keep())))
        }))
    }
}

impl Node for Sparkplug {
    fn filters(&self) -> Vec<(String, bool)> {
        let mut filters = vec![(self.topic("NCMD", None), false), (self.topic("DCMD", Some("+")), false)];
        filters.extend(self.state_topic().map(|topic| (topic, true)));
        filters
    }

    fn connected(&mut self) {
        self.disturbed();
        self.host_online = self.settings.primary_host.is_none();
        self.host_since = 0;
    }

    fn local(&mut self, rest: &str, payload: &[u8]) {
        if let Some((device, point)) = rest.strip_prefix("meta/").and_then(|rest| rest.split_once('/')) {
            self.model.describe(device, point, payload);
        } else if let Some(device) = rest.strip_prefix("status/device/") {
            self.model.status(device, payload, self.settings.clock.wall().0);
        }
    }

    fn next_packet(&mut self) -> Option<Packet> {
        if !self.host_online {
            return None;
        }
        if !self.born {
            return Some(self.node_birth());
        }
        if let Some(packet) = self.outbox.pop_front() {
            return Some(packet);
        }
        if let Some(gone) = self.model.next_gone() {
            return Some(self.packet("DDEATH", Some(&gone), Vec::new(), None));
        }
        if let Some(device) = self.model.next_unborn() {
            return Some(self.device_birth(&device));
        }
        let lost = self.model.next_death(self.settings.clock.boot().0)?;
        Some(self.packet("DDEATH", Some(&lost), Vec::new(), None))
    }

    fn queued(&mut self) -> Option<Packet> {
        self.outbox.pop_front()
    }

    fn disturbed(&mut self) {
        self.outbox.clear();
        self.born = false;
    }

    fn heard(&mut self, topic: &str, payload: &[u8]) -> Heard {
        if self.state_topic().as_deref() == Some(topic) {
            return self.host(payload);
        }
        if topic == self.topic("NCMD", None) {
            let wanted = |m: &Metric| {
                m.name.as_deref() == Some(REBIRTH) && m.value == Some(MetricValue::Boolean(true))
            };
            if Payload::decode(payload).is_ok_and(|p| p.metrics.iter().any(wanted)) {
                self.disturbed();
            }
            return Heard::Done;
        }
        let own = self.topic("DCMD", Some(""));
        match topic.strip_prefix(own.as_str()) {
            Some(device) => self.commanded(device, payload),
            None => Heard::NotMine,
        }
    }

    fn farewell(&mut self) -> Will {
        let at = now(&*self.settings.clock);
        death(self.topic("NDEATH", None), self.births.current.load(Relaxed), at)
    }
}

fn now(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.wall().0).unwrap_or(0)
}

fn bd_seq(number: u8, at: u64) -> Metric {
    Metric {
        name: Some(BD_SEQ.to_owned()),
        timestamp: Some(at),
        datatype: Some(Kind::Int64 as u32),
        value: Some(MetricValue::Long(u64::from(number))),
        ..Metric::default()
    }
}

/// NDEATH: nothing but `bdSeq`, and no number.
fn death(topic: String, number: u8, at: u64) -> Will {
    let payload = Payload { timestamp: Some(at), metrics: vec![bd_seq(number, at)], ..Payload::default() };
    Will { topic, payload: payload.encode_to_vec().into(), retain: false }
}
