//! Readings out of the log for a person or a page: which ones, and the stream of them over the control socket.
//!
//! One JSON object a line, as the reading was published, with `device` and `point`, or a message of another device with
//! `topic` and `payload`. The last line is
//! `{"end":true,"readings":N}`, or `{"error":"…"}`: a stream without one of them broke off.

use std::io;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::bounds;
use crate::message::{ForwardedRecord, Record, WallMs};
use crate::pipeline::forwarded;
use crate::pipeline::payload::Readings;
use crate::store::{Chunk, Store};

/// Which readings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    /// Only what this uplink has not acknowledged yet.
    pub uplink: Option<String>,
    /// `device` or `device/point`, or the topic of another device's messages; none: all.
    pub points: Vec<String>,
    /// Taken at this time or later, ms since 1970.
    pub since: Option<i64>,
    /// Taken before this time, ms since 1970.
    pub until: Option<i64>,
}

impl Wanted {
    /// The stretch of time.
    #[must_use]
    pub fn time(&self) -> Range<WallMs> {
        WallMs(self.since.unwrap_or(i64::MIN))..WallMs(self.until.unwrap_or(i64::MAX))
    }

    /// Whether a reading is one of them, but for the uplink.
    #[must_use]
    pub fn takes(&self, record: &Record) -> bool {
        let key = &record.point;
        let named = |name: &String| match name.split_once('/') {
            Some((device, point)) => device == key.device && point == key.point,
            None => *name == key.device,
        };
        self.time().contains(&record.ts) && (self.points.is_empty() || self.points.iter().any(named))
    }
}

impl Wanted {
    /// Whether a message of another device is one of them, but for the uplink.
    #[must_use]
    pub fn takes_message(&self, record: &ForwardedRecord) -> bool {
        let named = self.points.is_empty() || self.points.iter().any(|name| **name == *record.message.topic);
        self.time().contains(&record.ts) && named
    }

    /// What of a chunk they are, as lines in the order of their numbers: whether each is a reading, and the line.
    pub fn lines(
        &self,
        chunk: &Chunk,
        writer: &mut Readings,
        also: impl Fn(u64) -> bool,
    ) -> Vec<(bool, Vec<u8>)> {
        let readings = chunk.records.iter().filter(|r| self.takes(r) && also(r.id.seq));
        let messages = chunk.messages.iter().filter(|m| self.takes_message(m) && also(m.id.seq));
        let mut lines: Vec<_> = readings.map(|r| (r.id.seq, true, writer.write_line(r))).collect();
        lines.extend(messages.map(|m| (m.id.seq, false, forwarded::line(m))));
        lines.sort_by_key(|(seq, ..)| *seq);
        lines.into_iter().map(|(_, reading, line)| (reading, line)).collect()
    }
}

/// The parts that two lists of ranges have in common.
#[must_use]
pub fn common(these: &[Range<u64>], those: &[Range<u64>]) -> Vec<Range<u64>> {
    let both = |a: &Range<u64>, b: &Range<u64>| a.start.max(b.start)..a.end.min(b.end);
    let all = these.iter().flat_map(|a| those.iter().map(move |b| both(a, b)));
    all.filter(|range| !range.is_empty()).collect()
}

/// How long a reader of the stream may sleep.
const ASLEEP: Duration = Duration::from_secs(30);

/// Streams them. A reader that sleeps is given up; the log goes on meanwhile.
///
/// # Errors
/// The reader is gone.
pub async fn export(store: &Store, wanted: &Wanted, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let end = match stream(store, wanted, &mut to).await? {
        Ok(readings) => json!({ "end": true, "readings": readings }),
        Err(why) => json!({ "error": why }),
    };
    timeout(ASLEEP, to.write_all(format!("{end}\n").as_bytes())).await?
}

async fn stream(
    store: &Store,
    wanted: &Wanted,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Result<u64, String>> {
    let mut ranges = match store.stretch(wanted.time()).await {
        Ok(ranges) => ranges,
        Err(error) => return Ok(Err(error.to_string())),
    };
    if let Some(uplink) = &wanted.uplink {
        let Some(queued) = store.queued(uplink) else {
            return Ok(Err(format!("there is no uplink `{uplink}`")));
        };
        ranges = common(&ranges, &queued);
    }
    let (mut writer, mut count) = (Readings::default(), 0);
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let chunk = match store.read(at..range.end, bounds::STORE_READ).await {
                Ok(chunk) => chunk,
                Err(error) => return Ok(Err(error.to_string())),
            };
            let mut lines = Vec::new();
            for (reading, line) in wanted.lines(&chunk, &mut writer, |_| true) {
                lines.extend(line);
                count += u64::from(reading);
            }
            timeout(ASLEEP, to.write_all(&lines)).await??;
            at = chunk.next.max(at + 1);
        }
    }
    Ok(Ok(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_parts_in_common() {
        assert_eq!(common(&[1..5, 8..20], &[3..9, 18..30]), [3..5, 8..9, 18..20]);
        assert!(common(&[1..5, 20..21], &[5..9, 9..12]).is_empty());
    }
}
