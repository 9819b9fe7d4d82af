//! The devices and points of a node as Sparkplug shows them: aliases, data types, last values. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use driver_api::{Quality, Reason};
use serde::Deserialize;

use super::kind;
use super::proto::{Kind, Metric, MetricValue, PropertyOf, PropertySet};
use super::silence::{News, Silence};
use crate::message::Record;

/// All points by device and name.
#[derive(Debug, Default)]
pub struct Model {
    /// Points by device and name.
    devices: BTreeMap<String, Device>,
    /// Device and point of each alias given out. An alias is never given to another point in the process's life.
    aliases: Vec<(String, String)>,
    alias_of: HashMap<(String, String), usize>,
    /// A birth may be due; `false`: certainly none.
    changed: bool,
    silence: Silence,
    /// Silent and not dead yet.
    dying: BTreeSet<String>,
}

/// A device.
#[derive(Debug, Default)]
pub struct Device {
    /// Its points by name.
    points: BTreeMap<String, Point>,
    /// Its birth was sent on this connection and is still true.
    born: bool,
    /// A birth of it was sent on this connection.
    shown: bool,
    /// Its death was sent after that, so nothing of it may be before its next birth.
    dead: bool,
    /// When readings of it were sent last, ms of boot time.
    sent_at: u64,
}

/// A point.
#[derive(Debug)]
pub struct Point {
    alias: u64,
    unit: String,
    kind: Kind,
    last: Option<Record>,
}

/// What of a point's description is wanted here.
#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    unit: String,
    #[serde(rename = "type", default)]
    kind: String,
}

impl Model {
    /// The description of a point; an empty one erases it.
    pub fn describe(&mut self, device: &str, point: &str, payload: &[u8]) {
        if payload.is_empty() {
            if let Some(known) = self.devices.get_mut(device)
                && known.points.remove(point).is_some()
            {
                known.born = false;
                self.changed = true;
            }
            return;
        }
        let Ok(meta) = serde_json::from_slice::<Meta>(payload) else { return };
        let known = self.devices.get(device).and_then(|d| d.points.get(point));
        if known.is_none_or(|p| p.unit != meta.unit) {
            self.put(device, point, meta.unit, kind::for_word(&meta.kind));
        }
    }

    fn put(&mut self, device: &str, point: &str, unit: String, kind: Kind) {
        let names = (device.to_owned(), point.to_owned());
        let aliases = &mut self.aliases;
        let at = *self.alias_of.entry(names).or_insert_with_key(|names| {
            aliases.push(names.clone());
            aliases.len() - 1
        });
        let home = self.devices.entry(device.to_owned()).or_default();
        let last = home.points.remove(point).and_then(|p| p.last);
        home.points.insert(point.to_owned(), Point { alias: at as u64, unit, kind, last });
        home.born = false;
        self.changed = true;
    }

    /// A new life of the node: nobody was born in it.
    pub fn forget_births(&mut self) {
        self.devices.retain(|_, device| !device.points.is_empty());
        for device in self.devices.values_mut() {
            (device.born, device.shown, device.dead) = (false, false, false);
        }
        self.dying = self.silence.all();
        self.changed = true;
    }

    /// A birth or a death may be due.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.changed
    }

    /// A device that was shown and has no points any more; it is forgotten.
    pub fn next_gone(&mut self) -> Option<String> {
        if !self.changed {
            return None;
        }
        let gone = self.devices.iter().find(|(_, d)| d.points.is_empty() && d.shown)?.0.clone();
        self.devices.remove(&gone);
        Some(gone)
    }

    /// A device whose birth is due; it counts as born.
    pub fn next_unborn(&mut self) -> Option<String> {
        if !self.changed {
            return None;
        }
        let due = self.devices.iter_mut().find(|(_, d)| !d.born && !d.dead && !d.points.is_empty());
        let Some((name, device)) = due else {
            self.changed = false;
            return None;
        };
        (device.born, device.shown) = (true, true);
        Some(name.clone())
    }

    /// Whether the birth of this device is due; it then counts as born.
    pub fn to_be_born(&mut self, device: &str) -> bool {
        let silent = self.silence.is_silent(device);
        self.devices.get_mut(device).is_some_and(|d| {
            d.shown = true;
            if std::mem::take(&mut d.dead) && silent {
                self.dying.insert(device.to_owned());
            }
            !std::mem::replace(&mut d.born, true)
        })
    }

    /// The status of a device, at this wall time in ms.
    pub fn status(&mut self, device: &str, payload: &[u8], now: i64) {
        match self.silence.status(device, payload, now) {
            News::None => {}
            News::Lost => {
                self.dying.insert(device.to_owned());
            }
            News::Back => self.revive(device),
        }
    }

    fn revive(&mut self, device: &str) {
        self.dying.remove(device);
        if let Some(device) = self.devices.get_mut(device).filter(|d| d.dead) {
            (device.dead, device.born) = (false, false);
            self.changed = true;
        }
    }

    /// A device whose death is due at this boot time in ms; it counts as dead. What is sent of it makes it wait a little: it
    /// may be one of many messages.
    pub fn next_death(&mut self, now: u64) -> Option<String> {
        let due = |name: &&String| {
            self.devices.get(*name).is_some_and(|d| d.born && !d.dead && now >= d.sent_at + LINGER_MS)
        };
        let name = self.dying.iter().find(due)?.clone();
        self.dying.remove(&name);
        let device = self.devices.get_mut(&name)?;
        (device.dead, device.born) = (true, false);
        Some(name)
    }

    /// Whether nothing but the death of this device may be sent.
    #[must_use]
    pub fn is_dead(&self, device: &str) -> bool {
        self.devices.get(device).is_some_and(|d| d.dead)
    }

    /// Makes room for a reading that is about to be sent, at this boot time in ms: its point is known then, with the right type. What the
    /// birth of its device said may no longer be true.
    pub fn admit(&mut self, record: &Record, now: u64) {
        let key = &record.point;
        if record.value.is_some() && self.silence.value(&key.device, record.ts.0) {
            self.revive(&key.device);
        }
        self.admit_type(record);
        if let Some(device) = self.devices.get_mut(&key.device) {
            device.sent_at = now;
        }
    }

    fn admit_type(&mut self, record: &Record) {
        let key = &record.point;
        let known = self.devices.get(&key.device).and_then(|d| d.points.get(&key.point));
        let (unit, kind) = match (known, &record.value) {
            (Some(_), None) => return,
            (Some(point), Some(value)) => match kind::for_value(Some(point.kind), value) {
                kind if kind == point.kind => return,
                kind => (point.unit.clone(), kind),
            },
            (None, Some(value)) => (key.unit.clone(), kind::for_value(None, value)),
            (None, None) => (key.unit.clone(), Kind::Double),
        };
        self.put(&key.device, &key.point, unit, kind);
    }

    /// A reading as a metric of DDATA, behind the reading with the number `before` in the same payload. `None`: its
    /// point was not admitted.
    pub fn data(&mut self, record: &Record, before: Option<u64>, historical: bool) -> Option<Metric> {
        let point = self.devices.get_mut(&record.point.device)?.points.get_mut(&record.point.point)?;
        if point.last.as_ref().is_none_or(|last| last.ts <= record.ts) {
            point.last = Some(record.clone());
        }
        let mut metric = valued(point.alias, point.kind, Some(record));
        metric.is_historical = historical.then_some(true);
        let mut properties = PropertySet::default();
        match before.map(|before| record.id.seq.saturating_sub(before).saturating_sub(1)) {
            None => properties.add("seq", Kind::UInt64, PropertyOf::Long(record.id.seq)),
            Some(0) => {}
            Some(skipped) => properties.add("skip", Kind::UInt64, PropertyOf::Long(skipped)),
        }
        if record.quality != Quality::Good {
            mark(&mut properties, record.quality);
        }
        metric.properties = Some(properties).filter(|set| !set.keys.is_empty());
        Some(metric)
    }

    /// All metrics of a device as in its DBIRTH.
    pub fn birth(&self, device: &str) -> Vec<Metric> {
        let Some(device) = self.devices.get(device) else { return Vec::new() };
        let metric = |(name, point): (&String, &Point)| {
            let mut metric = valued(point.alias, point.kind, point.last.as_ref());
            metric.name = Some(name.clone());
            metric.datatype = Some(point.kind as u32);
            let properties = metric.properties.get_or_insert_default();
            if !point.unit.is_empty() {
                properties.add("engUnit", Kind::Text, PropertyOf::Text(point.unit.clone()));
            }
            mark(properties, point.last.as_ref().map_or(Quality::Uncertain(Reason::Stale), |r| r.quality));
            metric
        };
        device.points.iter().map(metric).collect()
    }

    /// Device and point of a metric in a command, by alias or by name.
    pub fn target(&self, device: &str, metric: &Metric) -> Option<(String, String)> {
        let by_alias = metric.alias.and_then(|a| self.aliases.get(usize::try_from(a).ok()?)).cloned();
        let by_name = || {
            let name = metric.name.clone()?;
            self.devices.get(device)?.points.contains_key(&name).then(|| (device.to_owned(), name))
        };
        by_alias.filter(|(of, _)| of == device).or_else(by_name)
    }

    /// The value that a command asks for, in JSON; `None` for what no point can hold.
    pub fn wanted(&self, device: &str, point: &str, metric: &Metric) -> Option<serde_json::Value> {
        let kind = self.devices.get(device)?.points.get(point)?.kind;
        // A host may leave the type out where it uses the alias: then it is the one of the birth.
        let signed = metric.datatype.unwrap_or(kind as u32);
        Some(match metric.value.clone()? {
            MetricValue::Boolean(b) => b.into(),
            MetricValue::Double(x) => x.into(),
            MetricValue::Float(x) => kind::wide(x).into(),
            MetricValue::Text(t) => t.into(),
            // 1 to 3: signed with up to 32 bits; 4: with 64.
            MetricValue::Int(i) if (1..=4).contains(&signed) => i.cast_signed().into(),
            MetricValue::Int(i) => i.into(),
            MetricValue::Long(l) if (1..=4).contains(&signed) => l.cast_signed().into(),
            MetricValue::Long(l) => l.into(),
        })
    }
}

/// Readings of a silent device follow each other more closely than that, while they are history that is being sent.
const LINGER_MS: u64 = 2000;

fn valued(alias: u64, kind: Kind, record: Option<&Record>) -> Metric {
    let value = record.and_then(|r| r.value.as_ref()).and_then(|value| kind::valued(kind, value));
    Metric {
        alias: Some(alias),
        timestamp: record.map(|r| u64::try_from(r.ts.0).unwrap_or(0)),
        is_null: value.is_none().then_some(true),
        value,
        ..Metric::default()
    }
}

/// The quality codes of the specification, and our reason beside them.
fn mark(properties: &mut PropertySet, quality: Quality) {
    let code = match quality {
        Quality::Good => 192,
        Quality::Uncertain(_) => 500,
        Quality::Bad(_) => 0,
    };
    properties.add("Quality", Kind::Int32, PropertyOf::Int(code));
    if let Some(reason) = quality.reason() {
        properties.add("reason", Kind::Text, PropertyOf::Text(reason.word().into_owned()));
    }
}
