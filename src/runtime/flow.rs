//! Where all readings meet: numbered by the store, then published locally. One task.
//!
//! The store comes first and never blocks; the local broker may skip a message (it counts them),
//! because the store has it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use driver_api::{Quality, Reason};
use tokio::sync::mpsc;

use crate::bounds;
use crate::clock::Clock;
use crate::counters::FlowStats;
use crate::message::{Id, Message, Publish, Reading, Record, WallMs};
use crate::pipeline::payload;
use crate::pipeline::topics::Topics;
use crate::points::ByPoint;
use crate::store::Store;

/// Everything the flow needs.
pub struct Flow {
    /// Numbers and keeps.
    pub store: Store,
    /// To show that the flow lives.
    pub clock: Arc<dyn Clock>,
    /// To the local broker.
    pub publish: Publish,
    /// Local topics.
    pub topics: Topics,
    /// Counters.
    pub stats: Arc<FlowStats>,
}

/// What makes messages of readings, and remembers what it needs again.
#[derive(Default)]
struct Words {
    topics: ByPoint<Arc<str>>,
    payloads: payload::Readings,
}

/// How often the flow shows that it lives when nothing comes.
const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(1);

impl Flow {
    /// Runs until every bus has closed its end.
    pub async fn run(self, mut input: mpsc::Receiver<Vec<Reading>>) {
        let mut words = Words::default();
        loop {
            self.stats.alive_boot_ms.store(self.clock.boot().0, Relaxed);
            let mut batch = match tokio::time::timeout(HEARTBEAT, input.recv()).await {
                Ok(Some(batch)) => batch,
                Ok(None) => return,
                Err(_) => continue,
            };
            while batch.len() < bounds::FLOW_GROUP {
                match input.try_recv() {
                    Ok(more) => batch.extend(more),
                    Err(_) => break,
                }
            }
            self.take(batch, &mut words);
        }
    }

    fn take(&self, batch: Vec<Reading>, words: &mut Words) {
        self.stats.readings.fetch_add(batch.len() as u64, Relaxed);
        let (taken, placed) = self.store.take_placed(batch.clone());
        let mut messages = Vec::with_capacity(batch.len());
        for ((reading, id), placed) in batch.into_iter().zip(taken.ids()).zip(placed) {
            let record = record(id, reading, placed);
            let payload = Bytes::copy_from_slice(words.payloads.write(&record));
            let point = &record.point;
            let topic = words.topics.get_or_insert_with(point, || self.topics.data(point).into());
            messages.push(Message::new(Arc::clone(topic), payload, true));
        }
        (self.publish)(messages);
    }
}

/// The reading as known now; what the clock cannot vouch for says so, and is corrected later.
fn record(id: Id, reading: Reading, (ts, believed): (WallMs, bool)) -> Record {
    let quality = match reading.quality() {
        Quality::Good if !believed => Quality::Uncertain(Reason::ClockUnsynced),
        quality => quality,
    };
    let (point, value) = reading.into_parts();
    Record { id, ts, point, value, quality }
}
