//! The cloud side of the task tree: a task for every uplink, the mirror that brings it the local status,
//! descriptions, events and results, and the way of what its routes bring to the local broker.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bounds;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::model::Uplink;
use crate::forward::Forwards;
use crate::message::{CommandRequest, Message};
use crate::pipeline::topics::Topics;
use crate::status::snapshot::UplinkSource;
use crate::store::Drain;
use crate::uplink::{self, Deps, UplinkCounters};

/// A running uplink.
pub struct RunningUplink {
    /// Its configuration; a reload keeps it running when nothing changed.
    pub config: Uplink,
    /// For status.
    pub source: UplinkSource,
    stop: CancellationToken,
    task: JoinHandle<()>,
    mirror: JoinHandle<()>,
    down: JoinHandle<()>,
}

impl RunningUplink {
    /// Starts the uplink's task and its mirror of the local broker.
    pub async fn start(
        config: Uplink,
        gateway: &str,
        drain: Arc<dyn Drain>,
        broker: &Broker,
        commands: mpsc::Sender<CommandRequest>,
        clock: Arc<dyn Clock>,
        data: &Path,
    ) -> Self {
        let topics = Topics::local(gateway);
        let filters =
            ["meta/#", "status/#", "result/#", "event/alarm"].map(|f| format!("{}/{f}", topics.root()));
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let mut local = broker.subscribe(&format!("uplink {}", config.name), &filters).await;
        let (pump, mirror) = mpsc::channel(bounds::UPLINK_MIRROR);
        let mirror_task = tokio::spawn(async move {
            while let Some(message) = local.recv().await {
                if pump.send(message).await.is_err() {
                    return;
                }
            }
        });
        let (local, mut brought) = mpsc::channel::<(Message, Vec<String>)>(bounds::UPLINK_ROUTED);
        let down = broker.clone();
        let origin: Arc<str> = config.name.as_str().into();
        let down_task = tokio::spawn(async move {
            let mut messages = Vec::new();
            while brought.recv_many(&mut messages, bounds::UPLINK_ROUTED).await > 0 {
                down.publish_from(&origin, std::mem::take(&mut messages));
            }
        });
        let counters = Arc::new(UplinkCounters::default());
        let stop = CancellationToken::new();
        let deps = Deps {
            gateway: gateway.to_owned(),
            drain: drain.clone(),
            mirror,
            commands,
            local,
            counters: counters.clone(),
            clock,
            file: Some(data.join(format!("uplink-{}.births", config.name))),
            stop: stop.clone(),
        };
        let task = tokio::spawn(uplink::run(config.clone(), deps));
        let forwards = Arc::new(Forwards::new(&config, gateway));
        let source = UplinkSource { name: config.name.clone(), counters, forwards, drain };
        Self { config, source, stop, task, mirror: mirror_task, down: down_task }
    }

    /// Tells it to finish what is in flight and say goodbye.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end of the task. `false`: still not over at `deadline`, and cut off.
    pub async fn ended(mut self, deadline: tokio::time::Instant) -> bool {
        let done = tokio::time::timeout_at(deadline, &mut self.task).await.is_ok();
        if !done {
            self.task.abort();
        }
        self.mirror.abort();
        self.down.abort();
        done
    }

    /// Whether the task has ended by itself, which it never should.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.task.is_finished()
    }
}
