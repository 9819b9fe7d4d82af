//! Where all readings meet: numbered by the store, then published locally. One task.
//!
//! The store comes first and never blocks; the local broker may skip a message (it counts them),
//! because the store has it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use driver_api::{Quality, Reason};
use tokio::sync::mpsc;

use crate::bounds;
use crate::clock::Clock;
use crate::counters::FlowStats;
use crate::message::{Id, Message, Publish, Reading, Record};
use crate::pipeline::payload;
use crate::pipeline::topics::Topics;
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

/// How often the flow shows that it lives when nothing comes.
const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(1);

impl Flow {
    /// Runs until every bus has closed its end.
    pub async fn run(self, mut input: mpsc::Receiver<Vec<Reading>>) {
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
            self.take(batch);
        }
    }

    fn take(&self, batch: Vec<Reading>) {
        self.stats.readings.fetch_add(batch.len() as u64, Relaxed);
        let first = self.store.take(batch.clone()).first;
        let messages = batch
            .into_iter()
            .zip(first.seq..)
            .map(|(reading, seq)| {
                let id = Id { epoch: first.epoch, seq };
                let record = self.record(id, &reading);
                Message::new(self.topics.data(&reading.point), payload::reading(&record), true)
            })
            .collect();
        (self.publish)(messages);
    }

    /// The reading as known now; what the clock cannot vouch for says so. Its time is the store's, so that
    /// a reading has one and the same content here and at every uplink.
    fn record(&self, id: Id, reading: &Reading) -> Record {
        let (ts, believed) = self.store.place(reading.at);
        let quality = match reading.quality() {
            Quality::Good if !believed => Quality::Uncertain(Reason::ClockUnsynced),
            quality => quality,
        };
        Record { id, ts, point: reading.point.clone(), value: reading.value().cloned(), quality }
    }
}
