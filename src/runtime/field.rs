//! The field side of the task tree: a task for every bus, the table of everything that can be
//! written, and the retained description of every point.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use driver_api::{Plan, PointInfo, Span};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bounds;
use crate::clock::{Clock, SystemClock};
use crate::config::{CompiledBus, PointSettings};
use crate::message::{Message, PointKey, Reading};
use crate::pipeline::meta::Meta;
use crate::pipeline::report::Reporter;
use crate::pipeline::rule::Rule;
use crate::pipeline::topics::Topics;
use crate::poll::commander::{Target, Targets};
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
    /// Per point, whether it can be read.
    readable: Vec<bool>,
    metas: Vec<(String, String, Meta)>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl RunningBus {
    /// Starts the task of a compiled bus.
    #[must_use]
    pub fn start(compiled: CompiledBus, clock: Arc<dyn Clock>, out: mpsc::Sender<Vec<Reading>>) -> Self {
        let CompiledBus { name, bus, points, fingerprint, .. } = compiled;
        let rules = rules(bus.plan(), &points);
        let metas = metas(&name, bus.plan(), &points, &rules);
        let names = rules.iter().map(|r| (r.key.device.clone(), r.key.point.clone())).collect();
        let readable = readable(bus.plan());
        let stop = CancellationToken::new();
        let (task, handle, stats) =
            BusTask::new(&name, bus, Reporter::new(rules.clone()), clock, out, stop.clone());
        let task = tokio::spawn(task.run());
        Self { fingerprint, stats, handle, rules, names, readable, metas, stop, task }
    }

    /// Tells the task to stop after the exchange on the wire.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end of the task. `false`: still not over at `deadline`, and cut off.
    pub async fn ended(mut self, deadline: tokio::time::Instant) -> bool {
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
            let readable = self.readable.get(point).copied().unwrap_or(false);
            (name, Target { bus: self.handle.clone(), point, readable, rule: rule.clone() })
        })
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
    let readable = readable(bus.plan());
    let (out, mut readings) = mpsc::channel(bounds::READINGS);
    // Nobody wants them: the answers go to whoever asked.
    tokio::spawn(async move { while readings.recv().await.is_some() {} });
    let stop = CancellationToken::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new(true));
    let (task, handle, _) = BusTask::new(&name, bus, Reporter::new(rules.clone()), clock, out, stop.clone());
    tokio::spawn(task.without_polls().run());
    let targets: HashMap<_, _> = rules
        .into_iter()
        .zip(readable)
        .enumerate()
        .map(|(point, (rule, readable))| {
            let name = (rule.key.device.clone(), rule.key.point.clone());
            (name, Target { bus: handle.clone(), point, readable, rule })
        })
        .collect();
    LoneBus { targets, stop }
}

/// For each point, whether a block reads it. A new plan reads the same points.
fn readable(plan: &Plan) -> Vec<bool> {
    (0..plan.points.len()).map(|point| plan.block_of(point).is_some()).collect()
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
            let by_itself = plan
                .block_of(index)
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
            }
        })
        .collect()
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
    fn what_is_only_listened_to_is_reported_at_its_own_interval() {
        let point = |name: &str| PointInfo {
            device: 0,
            name: name.to_owned(),
            spec: None,
            unit: None,
            kind: "f64".to_owned(),
            writable: false,
            source: String::new(),
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
