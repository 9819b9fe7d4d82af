//! Wire formats: how readings become a message. One file each, behind one trait.
//!
//! JSON and packed formats are pure and stateless: the same records on the same lane always give the same bytes, so
//! a repeat after a lost connection is the same message again. Sparkplug is a [`node`]: it numbers its packets.

mod batch;
mod compact;
mod json;
pub mod node;
pub mod sparkplug;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::lanes::{Cut, Lane};
use crate::bounds::UPLINK_BATCH;
use crate::clock::Clock;
use crate::config::model::{Compression, Deflation, Format as Choice, Uplink};
use crate::message::Record;
use crate::pipeline::topics::Topics;
use node::{MakeWill, Node};

/// A message, ready to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Full topic upstream.
    pub topic: Arc<str>,
    /// Payload.
    pub payload: Bytes,
    /// Kept by the broker as the topic's last value.
    pub retain: bool,
}

/// A wire format.
pub trait Format: Send + Sync {
    /// What limits one message of this format.
    fn cut(&self) -> Cut;

    /// One message of these readings. They are at least one and at most [`Cut::max_readings`], of one
    /// epoch, and their numbers count up by one.
    fn encode(&mut self, lane: Lane, records: &[Record]) -> Encoded;

    /// What comes next was taken when the gateway was called so; for formats that name it beside the topic.
    fn taken_by(&mut self, gateway: &str) {
        let _ = gateway;
    }

    /// Whether readings may go out now.
    fn open(&self) -> bool {
        true
    }

    /// The presence at the broker that the format needs, if it is of that kind. Readings then go out with QoS 0, in
    /// order, and count as delivered once the broker answered a ping behind them.
    fn node(&mut self) -> Option<&mut dyn Node> {
        None
    }

    /// The last will, where it is not the usual one.
    fn make_will(&self) -> Option<MakeWill> {
        None
    }
}

/// What of the house a format may need.
pub struct House {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// A file of this uplink's own, for what must survive a restart.
    pub file: Option<PathBuf>,
}

/// The format this uplink asks for.
#[must_use]
pub fn choose(uplink: &Uplink, gateway: &str, topics: &Topics, house: &House) -> Box<dyn Format> {
    let cut = Cut {
        max_readings: usize::try_from(uplink.batch.max_readings).unwrap_or(1).clamp(1, UPLINK_BATCH),
        max_delay: uplink.batch.max_delay.0.min(LONGEST_DELAY),
    };
    match uplink.format {
        Choice::Json => Box::new(json::Json { topics: topics.clone(), retain: uplink.retain }),
        Choice::JsonBatch => Box::new(batch::Batch {
            topics: topics.clone(),
            gateway: gateway.to_owned(),
            zstd: uplink.compression == Compression::Zstd,
            cut,
        }),
        Choice::SparkplugB => {
            let sparkplug = uplink.sparkplug.clone().unwrap_or_default();
            Box::new(sparkplug::Sparkplug::new(sparkplug::Settings {
                group: sparkplug.group,
                node: sparkplug.node.unwrap_or_else(|| gateway.to_owned()),
                primary_host: sparkplug.primary_host,
                deflate: sparkplug.compression == Deflation::Deflate,
                cut,
                clock: house.clock.clone(),
                file: house.file.clone(),
            }))
        }
        Choice::Compact => {
            Box::new(compact::Compact { topics: topics.clone(), gateway: gateway.to_owned(), cut })
        }
    }
}

/// A batch older than a day is no live batch.
const LONGEST_DELAY: Duration = Duration::from_secs(86_400);

#[cfg(test)]
pub(super) mod testing {
    use std::sync::Arc;

    use crate::message::{Epoch, Id, PointKey, Record, WallMs};
    use driver_api::{Quality, Value};

    pub fn record(seq: u64) -> Record {
        Record {
            id: Id { epoch: Epoch { start: 1, random: 2 }, seq },
            ts: WallMs(1_795_357_800_123),
            point: Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: "V".into() }),
            value: Some(Value::Float(1.5)),
            quality: Quality::Good,
        }
    }
}
