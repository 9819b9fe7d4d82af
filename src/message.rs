//! What flows through the gateway: readings, their identity in the log, and MQTT messages.
//!
//! A [`Reading`] is made by the pipeline, numbered by the store, and from then on is a [`Record`].

mod forwarded;
mod shelf;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use driver_api::{Quality, Reason, Value};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use forwarded::{Entry, Forwarded, ForwardedRecord, Props, VIA};
pub use shelf::{Change, Docket, Kept, KeptEntry, Shelf, ShelfError, Standing};

/// Which quantity a reading is of. Shared by all its readings; also the dictionary entry of a
/// stored block, so that a reading can be sent long after the configuration forgot the point.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PointKey {
    /// The device's name.
    pub device: String,
    /// The point's name.
    pub point: String,
    /// The unit, `""` for none.
    pub unit: String,
}

impl PointKey {
    /// `device/point`, as in topics and batches.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.device, self.point)
    }
}

/// Milliseconds of `CLOCK_BOOTTIME`: monotonic, never set, counts sleep. Meaningful within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootMs(pub u64);

impl BootMs {
    /// The wall time of this moment, where wall = boot + `offset` ms.
    #[must_use]
    pub fn on(self, offset: i64) -> WallMs {
        WallMs(self.0.cast_signed().saturating_add(offset))
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallMs(pub i64);

/// A moment of this boot on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By what readings of then are placed by.
    pub ts: WallMs,
    /// The clock has been set in this boot; else `ts` is what the box believes.
    pub set: bool,
}

impl Moment {
    /// What stands under `clock` beside such a `ts`, as in the gateway's status; nothing where there is nothing to say.
    #[must_use]
    pub fn clock(self) -> Option<&'static str> {
        (!self.set).then_some("unsynced")
    }
}

impl fmt::Display for WallMs {
    /// RFC 3339 in UTC with milliseconds: `2026-11-22T14:30:00.123Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(ts) => write!(f, "{ts:.3}"),
            Err(_) => write!(f, "1970-01-01T00:00:00.000Z"),
        }
    }
}

/// One point's value at one instant. `value` is absent exactly when the quality is bad; nobody can
/// build it otherwise.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Of what.
    pub point: Arc<PointKey>,
    /// When the source was sampled.
    pub at: BootMs,
    value: Option<Value>,
    quality: Quality,
}

impl Reading {
    /// A value that was read just now. A float that is no number becomes a bad reading.
    #[must_use]
    pub fn good(point: Arc<PointKey>, at: BootMs, value: Value) -> Self {
        Self::with(point, at, Some(value), Quality::Good)
    }
    /// A plausible but unproven value.
    #[must_use]
    pub fn uncertain(point: Arc<PointKey>, at: BootMs, value: Value, reason: Reason) -> Self {
        Self::with(point, at, Some(value), Quality::Uncertain(reason))
    }
    /// No usable value.
    #[must_use]
    pub fn bad(point: Arc<PointKey>, at: BootMs, reason: Reason) -> Self {
        Self { point, at, value: None, quality: Quality::Bad(reason) }
    }
    fn with(point: Arc<PointKey>, at: BootMs, value: Option<Value>, quality: Quality) -> Self {
        match value {
            Some(Value::Float(x)) if !x.is_finite() => Self::bad(point, at, Reason::SensorFault),
            value => Self { point, at, value, quality },
        }
    }
    /// The value; `None` exactly when the quality is bad.
    #[must_use]
    pub fn value(&self) -> Option<&Value> {
        self.value.as_ref()
    }
    /// How far to trust it.
    #[must_use]
    pub fn quality(&self) -> Quality {
        self.quality
    }

    /// Its point and value, for a record of it.
    #[must_use]
    pub fn into_parts(self) -> (Arc<PointKey>, Option<Value>) {
        (self.point, self.value)
    }
}

/// One life of the log's numbering: start counter and random part, written `00000012-9f3a61c2`.
/// Every start of the daemon is a new epoch, so a number can never be given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch {
    /// Counts the starts on this data directory, from 1.
    pub start: u32,
    /// Tells lives of restored or cloned data directories apart.
    pub random: u32,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:08x}", self.start, self.random)
    }
}

impl FromStr for Epoch {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (start, random) = text.split_once('-').ok_or(())?;
        let part = |s: &str| if s.len() == 8 { u32::from_str_radix(s, 16).map_err(|_| ()) } else { Err(()) };
        Ok(Self { start: part(start)?, random: part(random)? })
    }
}

/// The place of a reading in the log, unique for ever together with the gateway's id.
/// `seq` goes on counting over epochs, from 1, without holes except declared ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    /// The life of the numbering.
    pub epoch: Epoch,
    /// The number.
    pub seq: u64,
}

/// A reading with its identity and wall time: what every payload is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Epoch and sequence number.
    pub id: Id,
    /// When the source was sampled, on the true time line as far as it is known.
    pub ts: WallMs,
    /// Of what.
    pub point: Arc<PointKey>,
    /// The value; `None` exactly when the quality is bad.
    pub value: Option<Value>,
    /// How far to trust it, the clock included (`uncertain`/`clock_unsynced`).
    pub quality: Quality,
}

/// An MQTT application message inside the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Full topic.
    pub topic: Arc<str>,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service it was published with, 0 to 2.
    pub qos: u8,
    /// On publish: keep as the topic's last value. On delivery: it is the kept value.
    pub retain: bool,
}

impl Message {
    /// A message with QoS 1.
    pub fn new(topic: impl Into<Arc<str>>, payload: impl Into<Bytes>, retain: bool) -> Self {
        Self { topic: topic.into(), payload: payload.into(), qos: 1, retain }
    }
}

/// Why numbers of the log will not arrive at an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// Over `max_size` or into `min_free`, or more than RAM holds while the disk was out of order.
    QueueFull,
    /// Older than `max_age`.
    Expired,
    /// The stored block fails its checksum.
    Corrupt,
    /// The data directory is older than what was already given out.
    Rollback,
    /// Not yet committed when the power went.
    PowerCut,
    /// Not yet committed when the process was killed.
    UncleanStart,
    /// The upstream broker refuses it for good.
    Rejected,
    /// A person purged it.
    Purged,
    /// Thinned out to make room, because `thin` is set: of the numbers of the record so many, the others arrived.
    Thinned,
}

/// The declaration of what will not arrive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossRecord {
    /// For which uplink.
    pub uplink: String,
    /// Why.
    pub reason: LossReason,
    /// Epoch of the lost numbers, as in payloads.
    pub epoch: String,
    /// First and last lost number.
    pub seq: [u64; 2],
    /// How many readings.
    pub count: u64,
    /// `count` is an upper bound, not the exact number.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bound: bool,
    /// Time of the first, RFC 3339; `null` where it cannot be known.
    pub from: Option<String>,
    /// Time of the last, RFC 3339; `null` where it cannot be known.
    pub to: Option<String>,
    /// `device/point` of what was lost; `null` where it cannot be known.
    pub points: Option<Vec<String>>,
    /// Which numbers of `seq`, as the first and the last of each stretch; empty: all, or of what was thinned nobody knows.
    /// For the store: who gets the record knows what has arrived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub numbers: Vec<[u64; 2]>,
    /// When the loss was declared, RFC 3339.
    pub ts: String,
}

/// Says how far the times of readings were off that went out before the clock was set. Their true time is
/// what they carry plus `shift_ms`; nothing else of them changes, and no ledger counts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrectionRecord {
    /// At which uplink they arrive; `null`: on the local broker.
    pub uplink: Option<String>,
    /// Epoch of the numbers, as in payloads.
    pub epoch: String,
    /// First and last number.
    pub seq: [u64; 2],
    /// The machine's boot in which they were taken.
    pub boot_id: String,
    /// Milliseconds to add to the time that they carry.
    pub shift_ms: i64,
    /// When the clock was found to be set, RFC 3339.
    pub ts: String,
}

/// Who asked for a command, and so who is owed the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A client of the local broker.
    Local,
    /// The uplink of this name.
    Uplink(String),
}

/// A write asked for over MQTT, as it came in: nothing of it is checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRequest {
    /// Device, from the topic.
    pub device: String,
    /// Point, from the topic.
    pub point: String,
    /// The JSON that should be there.
    pub payload: Bytes,
    /// It came as a retained message, and so must be refused: nobody knows how old it is.
    pub retained: bool,
    /// From where.
    pub origin: Origin,
    /// When it came: its `ttl` counts from here, however long it then waits.
    pub received: Instant,
}

/// Hands messages to the local broker: never blocks; what does not fit is counted there.
pub type Publish = Arc<dyn Fn(Vec<Message>) + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_back() {
        let epoch = Epoch { start: 0x12, random: 0x9f3a_61c2 };
        assert_eq!(epoch.to_string(), "00000012-9f3a61c2");
        assert_eq!("00000012-9f3a61c2".parse(), Ok(epoch));
        assert_eq!("12-9f3a61c2".parse::<Epoch>(), Err(()));
    }

    #[test]
    fn no_number_is_a_bad_reading() {
        let key = Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: String::new() });
        let reading = Reading::good(key, BootMs(1), Value::Float(f64::NAN));
        assert_eq!((reading.value(), reading.quality()), (None, Quality::Bad(Reason::SensorFault)));
    }

    #[test]
    fn wall_time_is_rfc_3339_with_milliseconds() {
        assert_eq!(WallMs(1_795_357_800_123).to_string(), "2026-11-22T14:30:00.123Z");
    }
}
