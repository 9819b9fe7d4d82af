//! The field side of the task tree: a task for every bus, the table of everything that can be
//! written, and the retained description of every point.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use driver_api::{Plan, PointInfo, Span};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lines::BusLine;
use crate::bounds;
use crate::clock::{Clock, SystemClock};
use crate::config::{CompiledBus, DeviceSettings, PointSettings, model};
use crate::message::{Message, PointKey, Reading};
use crate::pipeline::meta::Meta;
use crate::pipeline::report::Reporter;
use crate::pipeline::rule::Rule;
use crate::pipeline::topics::Topics;
use crate::poll::commander::{Target, Targets};
use crate::poll::share::Server;
use crate::poll::stats::BusStats;
use crate::poll::{BusHandle, BusTask};

/// A running bus.
#[derive(Debug)]
pub struct RunningBus {
    /// Changes exactly when the configuration of the bus does.
    pub fingerprint: String,
    /// Its counters.
    pub stats: Arc<BusStats>,
    handle: BusHandle,
    rules: Vec<Rule>,
    names: Vec<(String, String)>,
    metas: Vec<(String, String, Meta)>,
    /// How the control socket reaches it.
    line: BusLine,
    stop: CancellationToken,
    task: JoinHandle<()>,
    /// The server onto it; ended with this value, whoever drops it.
    share: Option<(JoinHandle<()>, DropGuard)>,
}

impl RunningBus {
    /// Starts the task of a compiled bus.
    #[must_use]
    pub fn start(compiled: CompiledBus, clock: Arc<dyn Clock>, out: mpsc::Sender<Vec<Reading>>) -> Self {
        let CompiledBus { name, driver, bus, points, devices, fingerprint, share, wire, .. } = compiled;
        let rules = rules(bus.plan(), &points);
        let metas = metas(&name, bus.plan(), &points, &rules);
        let names = rules.iter().map(|r| (r.key.device.clone(), r.key.point.clone())).collect();
        let timeouts = timeouts(bus.plan(), &devices);
        let stop = CancellationToken::new();
        let (task, handle, stats) =
            BusTask::new(&name, bus, Reporter::new(rules.clone()), clock, out, stop.clone());
        let task = tokio::spawn(task.run());
        let share = share.map(|share| {
            let stop = stop.child_token();
            let server = Server::new(share, handle.clone(), stats.clone(), timeouts, driver != "modbus-tcp");
            (tokio::spawn(server.run(stop.clone())), stop.drop_guard())
        });
        let line = BusLine { driver, handle: handle.clone(), wire };
        Self { fingerprint, stats, handle, rules, names, metas, line, stop, task, share }
    }

    /// How the control socket reaches it.
    #[must_use]
    pub fn line(&self) -> BusLine {
        self.line.clone()
    }

    /// Tells the task to stop after the exchange on the wire.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end of the task. `false`: still not over at `deadline`, and cut off.
    pub async fn ended(mut self, deadline: tokio::time::Instant) -> bool {
        if let Some((share, _stopped)) = self.share.take() {
            // Its port must be free for whoever comes next; it waits for nothing.
            let _ = tokio::time::timeout_at(deadline, share).await;
        }
        match tokio::time::timeout_at(deadline, &mut self.task).await {
            Ok(_) => true,
            Err(_) => {
                self.task.abort();
                false
            }
        }
    }

    /// Whether the task has ended by itself, which it never should.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.task.is_finished()
    }

    /// Its status says `down` from now on. For a bus whose task has ended: nobody else says it any more.
    pub fn show_down(&self) {
        self.stats.died();
    }

    /// Ends the task as a fault in the program would.
    #[cfg(test)]
    pub(super) fn kill(&self) {
        self.task.abort();
    }

    /// How many points it has.
    #[must_use]
    pub fn points(&self) -> usize {
        self.rules.len()
    }

    /// Device and point names, in the plan's order.
    #[must_use]
    pub fn names(&self) -> &[(String, String)] {
        &self.names
    }

    /// Its points, for commands.
    pub fn targets(&self) -> impl Iterator<Item = ((String, String), Target)> {
        self.names.iter().cloned().zip(self.rules.iter().enumerate()).map(|(name, (point, rule))| {
            (name, Target { bus: self.handle.clone(), point, rule: rule.clone() })
        })
    }

    /// Its analog points with their interval: the store may thin them.
    pub fn analog(&self) -> impl Iterator<Item = (String, String, Duration)> {
        let points = self.rules.iter().zip(&self.metas).filter(|(rule, _)| is_analog(rule));
        points.map(|(_, (device, point, meta))| (device.clone(), point.clone(), meta.interval.0))
    }

    /// The retained descriptions of its points.
    pub fn meta_messages(&self, topics: &Topics) -> impl Iterator<Item = Message> {
        self.metas.iter().filter_map(|(device, point, meta)| {
            let json = serde_json::to_vec(meta).ok()?;
            Some(Message::new(topics.meta(device, point), json, true))
        })
    }
}

/// A bus run for one request of the command line, without a daemon.
pub struct LoneBus {
    /// Its points.
    pub targets: Targets,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Runs one bus for as long as a request needs it. Nothing is polled: only what is asked is sent.
#[must_use]
pub fn lone_bus(compiled: CompiledBus) -> LoneBus {
    let CompiledBus { name, bus, points, .. } = compiled;
    let rules = rules(bus.plan(), &points);
    let (out, mut readings) = mpsc::channel(bounds::READINGS);
    // Nobody wants them: the answers go to whoever asked.
    tokio::spawn(async move { while readings.recv().await.is_some() {} });
    let stop = CancellationToken::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(true));
    let (task, handle, _) = BusTask::new(&name, bus, Reporter::new(rules.clone()), clock, out, stop.clone());
    tokio::spawn(task.without_polls().run());
    let targets: HashMap<_, _> = rules
        .into_iter()
        .enumerate()
        .map(|(point, rule)| {
            let name = (rule.key.device.clone(), rule.key.point.clone());
            (name, Target { bus: handle.clone(), point, rule })
        })
        .collect();
    LoneBus { targets, stop }
}

/// The configured devices' own timeouts by unit id, and the one that every other unit gets.
fn timeouts(plan: &Plan, devices: &[DeviceSettings]) -> (BTreeMap<u8, Duration>, Duration) {
    let known = plan.devices.iter().zip(devices);
    let units = known.filter_map(|(info, own)| Some((info.address.parse().ok()?, own.timeout)));
    (units.collect(), model::defaults::timeout().0)
}

/// The identity of every point of a bus, in the plan's order.
pub(super) fn keys(bus: &CompiledBus) -> impl Iterator<Item = PointKey> {
    let plan = bus.bus.plan();
    plan.points.iter().zip(&bus.points).map(|(info, settings)| key(plan, info, settings))
}

fn key(plan: &Plan, info: &PointInfo, settings: &PointSettings) -> PointKey {
    let device = plan.devices.get(info.device).map(|d| d.name.clone()).unwrap_or_default();
    PointKey { device, point: info.name.clone(), unit: settings.unit.clone().unwrap_or_default() }
}

/// The pipeline's rule of every point, in the plan's order.
fn rules(plan: &Plan, points: &[PointSettings]) -> Vec<Rule> {
    plan.points
        .iter()
        .enumerate()
        .zip(points)
        .map(|((index, info), settings)| {
            // What is only listened to comes when it likes; its own interval is how often it is wanted. (What is
            // polled more often than it is wanted is thinned out where it is polled.)
            let block = plan.block_of(index);
            let by_itself = block
                .and_then(|block| plan.blocks.get(block))
                .is_some_and(|block| block.every == Duration::MAX);
            Rule {
                key: Arc::new(key(plan, info, settings)),
                scale: (settings.scale != 1.0).then_some(settings.scale),
                offset: (settings.offset != 0.0).then_some(settings.offset),
                deadband: settings.deadband,
                max_interval: settings.max_interval,
                min_interval: if by_itself { settings.interval } else { Duration::ZERO },
                min: settings.min,
                max: settings.max,
                values: settings.values.clone().map(Arc::new),
                kind: info.kind.clone(),
                writable: info.writable && settings.writable,
                readable: block.is_some(),
            }
        })
        .collect()
}

/// Numbers that are reported at every poll. What is said in words, and bits of a register, are states; what is only listened
/// to comes when something happened.
fn is_analog(rule: &Rule) -> bool {
    let bits = rule.kind.strip_prefix("bcd").or(rule.kind.strip_prefix(['u', 'i', 'f']));
    let number = bits.is_some_and(|bits| bits.parse::<u8>().is_ok());
    number && rule.deadband.is_none() && rule.values.is_none() && rule.min_interval.is_zero()
}

fn metas(bus: &str, plan: &Plan, points: &[PointSettings], rules: &[Rule]) -> Vec<(String, String, Meta)> {
    plan.points
        .iter()
        .zip(points)
        .zip(rules)
        .map(|((info, settings), rule)| {
            let address = plan.devices.get(info.device).map(|d| d.address.as_str()).unwrap_or_default();
            let meta = Meta {
                unit: rule.key.unit.clone(),
                kind: info.kind.clone(),
                interval: Span(settings.interval),
                values: rule.values.as_deref().cloned(),
                writable: rule.writable,
                source: format!("{bus} {address} {}", info.source),
                description: settings.description.clone().unwrap_or_default(),
            };
            (rule.key.device.clone(), rule.key.point.clone(), meta)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use driver_api::Block;

    use super::*;

    #[test]
    fn analog_is_what_is_a_number_and_reported_at_every_poll() {
        let key = Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: String::new() });
        let of = |kind: &str| Rule::plain(Arc::clone(&key), kind);
        for (kind, analog) in [("u16", true), ("i64", true), ("f32", true), ("bcd32", true), ("bool", false)]
        {
            assert_eq!(is_analog(&of(kind)), analog, "{kind}");
        }
        for kind in ["string:8", "bits 4 to 7", "time:unix", ""] {
            assert!(!is_analog(&of(kind)), "{kind}");
        }
        let deadband = Some(crate::config::model::Deadband::Absolute(0.5));
        assert!(!is_analog(&Rule { deadband, ..of("u16") }), "by exception");
        let values = serde_json::from_str("{ \"0\": \"off\" }").expect("words");
        assert!(!is_analog(&Rule { values: Some(Arc::new(values)), ..of("u16") }), "a state");
        assert!(!is_analog(&Rule { min_interval: Duration::from_secs(1), ..of("f64") }), "when it happens");
    }

    #[test]
    fn what_is_only_listened_to_is_reported_at_its_own_interval() {
        let point = |name: &str| PointInfo {
            device: 0,
            name: name.to_owned(),
            spec: None,
            unit: None,
            kind: "f64".to_owned(),
            writable: false,
            source: String::new(),
            registers: None,
            every: Duration::from_secs(1),
        };
        let block = |points: &[usize], every| Block {
            device: 0,
            points: points.to_vec(),
            every,
            cost: Duration::ZERO,
            what: String::new(),
        };
        let settings = |seconds| PointSettings {
            unit: None,
            description: None,
            interval: Duration::from_secs(seconds),
            scale: 1.0,
            offset: 0.0,
            deadband: None,
            max_interval: Duration::from_secs(60),
            min: None,
            max: None,
            values: None,
            writable: false,
        };
        let plan = Plan {
            points: ["fast", "slow", "heard"].map(point).to_vec(),
            blocks: vec![block(&[0, 1], Duration::from_secs(1)), block(&[2], Duration::MAX)],
            ..Plan::default()
        };
        let rules = rules(&plan, &[settings(1), settings(10), settings(2)]);
        let least: Vec<u64> = rules.iter().map(|rule| rule.min_interval.as_secs()).collect();
        assert_eq!(least, [0, 0, 2]);
    }
}
