//! `json-batch`: many readings in one message, on `<root>/batch` or, from the backlog,
//! `<root>/batch/history`; with compression each payload is one zstd frame and the topic ends in `/zst`.

use super::{Encoded, Format};
use crate::message::Record;
use crate::pipeline::payload;
use crate::pipeline::topics::Topics;
use crate::uplink::lanes::{Cut, Lane};

pub(super) struct Batch {
    pub topics: Topics,
    /// Who took what goes out.
    pub gateway: String,
    pub zstd: bool,
    pub cut: Cut,
}

/// A sixth fewer bytes than zstd's own default (3) makes of batches of 500, for about a millisecond more each; up to 9 it makes no
/// difference, and beyond that another twentieth costs a small board five times the time.
const LEVEL: i32 = 6;

impl Format for Batch {
    fn cut(&self) -> Cut {
        self.cut
    }

    fn taken_by(&mut self, gateway: &str) {
        gateway.clone_into(&mut self.gateway);
    }

    fn encode(&mut self, lane: Lane, records: &[Record]) -> Encoded {
        let historical = lane == Lane::Backlog;
        let plain = payload::batch(&self.gateway, historical, records)
            .expect("a message's readings are of one epoch and count up by one");
        let payload = if self.zstd {
            zstd::bulk::compress(&plain, LEVEL)
                .expect("compressing from memory to memory needs nothing that can fail")
        } else {
            plain
        };
        Encoded {
            topic: self.topics.batch(historical, self.zstd).into(),
            payload: payload.into(),
            retain: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::record;
    use super::*;

    fn batch(zstd: bool) -> Batch {
        let cut = Cut { max_readings: 500, max_delay: Duration::from_secs(5) };
        Batch { topics: Topics::local("g"), gateway: "g".into(), zstd, cut }
    }

    #[test]
    fn a_compressed_batch_is_one_frame_of_the_plain_one() {
        let records: Vec<Record> = (1..300).map(record).collect();
        let plain = batch(false).encode(Lane::Backlog, &records);
        let packed = batch(true).encode(Lane::Backlog, &records);
        assert_eq!(plain.topic.as_ref(), "gw/g/batch/history");
        assert_eq!(packed.topic.as_ref(), "gw/g/batch/history/zst");
        assert_eq!(
            zstd::bulk::decompress(&packed.payload, plain.payload.len()).expect("one frame"),
            plain.payload
        );
        assert!(packed.payload.len() * 4 < plain.payload.len());
    }

    #[test]
    fn the_same_readings_give_the_same_bytes() {
        let records: Vec<Record> = (1..30).map(record).collect();
        assert_eq!(batch(true).encode(Lane::Live, &records), batch(true).encode(Lane::Live, &records));
    }
}
