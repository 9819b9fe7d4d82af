//! `compact`: many readings in one packed message, on `<root>/compact` or, from the backlog,
//! `<root>/compact/history`. The layout is in [`crate::pipeline::compact`].

use super::{Encoded, Format};
use crate::message::Record;
use crate::pipeline::compact;
use crate::pipeline::topics::Topics;
use crate::uplink::lanes::{Cut, Lane};

pub(super) struct Compact {
    pub topics: Topics,
    /// Who took what goes out.
    pub gateway: String,
    pub cut: Cut,
}

impl Format for Compact {
    fn cut(&self) -> Cut {
        self.cut
    }

    fn taken_by(&mut self, gateway: &str) {
        gateway.clone_into(&mut self.gateway);
    }

    fn encode(&mut self, lane: Lane, records: &[Record]) -> Encoded {
        let historical = lane == Lane::Backlog;
        let payload = compact::encode(&self.gateway, historical, records).expect(
            "a message's readings are of one epoch, count up by one and are no more than the cut says",
        );
        Encoded { topic: self.topics.compact(historical).into(), payload: payload.into(), retain: false }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::record;
    use super::*;

    #[test]
    fn the_lane_is_in_the_topic_and_in_the_message() {
        let cut = Cut { max_readings: 500, max_delay: Duration::from_secs(5) };
        let mut compact = Compact { topics: Topics::local("g"), gateway: "g".into(), cut };
        let records: Vec<Record> = (1..300).map(record).collect();
        for (lane, topic) in [(Lane::Live, "gw/g/compact"), (Lane::Backlog, "gw/g/compact/history")] {
            let encoded = compact.encode(lane, &records);
            let (message, _) = compact::decode(&encoded.payload).expect("whole");
            assert_eq!((encoded.topic.as_ref(), encoded.retain), (topic, false));
            assert_eq!((message.historical, &message.records), (lane == Lane::Backlog, &records));
            assert_eq!(encoded, compact.encode(lane, &records), "the same readings give the same bytes");
        }
    }
}
