//! `json`: one message a reading, on `<root>/data/<device>/<point>` or, from the backlog,
//! `<root>/history/<device>/<point>`.

use std::time::Duration;

use super::{Encoded, Format};
use crate::message::Record;
use crate::pipeline::payload;
use crate::pipeline::topics::Topics;
use crate::uplink::lanes::{Cut, Lane};

pub(super) struct Json {
    pub topics: Topics,
    /// Keep live readings at the broker; history is never kept.
    pub retain: bool,
}

impl Format for Json {
    fn cut(&self) -> Cut {
        Cut { max_readings: 1, max_delay: Duration::ZERO }
    }

    fn encode(&mut self, lane: Lane, records: &[Record]) -> Encoded {
        let record = records.first().expect("a message has at least one reading");
        let (topic, retain) = match lane {
            Lane::Live => (self.topics.data(&record.point), self.retain),
            Lane::Backlog => (self.topics.history(&record.point), false),
        };
        Encoded { topic: topic.into(), payload: payload::reading(record).into(), retain }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::record;
    use super::*;

    #[test]
    fn the_lane_chooses_the_topic_and_only_live_readings_are_kept() {
        let mut json = Json { topics: Topics::local("g"), retain: true };
        let live = json.encode(Lane::Live, &[record(1)]);
        assert_eq!((live.topic.as_ref(), live.retain), ("gw/g/data/d/p", true));
        let old = json.encode(Lane::Backlog, &[record(1)]);
        assert_eq!((old.topic.as_ref(), old.retain), ("gw/g/history/d/p", false));
        assert_eq!(live.payload, old.payload);
    }
}
