//! What to read from the log next, and which of it makes the next message. Pure: times are given, not taken.
//!
//! - `live-first`: what is pending below the head at connect is **backlog**, and goes in order on the
//!   history topics. What is committed later is **live**, and goes at once on the data topics.
//! - `strict`: one lane, the live one, oldest first.
//!
//! Numbers that wait for the clock are the highest there are: they are not read yet, and lie in both lanes behind all else.
//!
//! Messages of other devices have no history topics: a newer one before an older one of its topic would leave the older
//! as the last word. So while the backlog is not through, messages that are read on the live lane are **late**: they are left
//! there, and read again behind the backlog, on its lane.
//!
//! Within a lane numbers only go up, so the order within a point and lane is kept. A plan is made anew
//! for each connection from what the log says is pending: whatever was not acknowledged is in it again.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use crate::bounds;
use crate::config::model::Order;
use crate::message::{ForwardedRecord, Record};
use crate::store::Chunk;

/// A lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// On the data topics.
    Live = 0,
    /// On the history topics.
    Backlog = 1,
}

const LANES: [Lane; 2] = [Lane::Live, Lane::Backlog];

/// What limits one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Most readings in it, at least 1.
    pub max_readings: usize,
    /// Longest wait of a reading on the live lane for others to join it.
    pub max_delay: Duration,
}

/// A stretch of the log to read for a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// For which lane.
    pub lane: Lane,
    /// From where.
    pub range: Range<u64>,
    /// At most so many.
    pub max: usize,
    /// Of these numbers only the messages are still to be sent.
    pub late: bool,
}

/// Both lanes of one connection.
#[derive(Debug)]
pub struct Lanes {
    head: u64,
    lines: [Line; 2],
    /// Numbers among which messages were left to go behind the backlog.
    late: Option<Range<u64>>,
}

/// What was read.
#[derive(Debug)]
enum Item {
    Reading(Record),
    Message(ForwardedRecord),
}

impl Item {
    fn seq(&self) -> u64 {
        match self {
            Self::Reading(record) => record.id.seq,
            Self::Message(record) => record.id.seq,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Reading(_) => 0,
            Self::Message(record) => record.message.size(),
        }
    }
}

#[derive(Debug, Default)]
struct Line {
    /// Numbers to read, ascending and disjoint, all above those of `ready`.
    unread: VecDeque<Range<u64>>,
    /// Read and waiting to be sent, ascending, each with the moment it was read.
    ready: VecDeque<(Instant, Item)>,
    /// Bytes of the messages in `ready`.
    bytes: usize,
}

/// Records of one read: 256 × about 150 B = 40 KiB in RAM per lane, well over a window of single readings.
const READ: usize = 256;

impl Lanes {
    /// The plan for a new connection: `pending` as the log says it, `head` one past the last number.
    #[must_use]
    pub fn new(order: Order, pending: Vec<Range<u64>>, head: u64) -> Self {
        let mut lanes = Self { head, lines: [Line::default(), Line::default()], late: None };
        let lane = match order {
            Order::LiveFirst => Lane::Backlog,
            Order::Strict => Lane::Live,
        };
        // What was committed between the look at the head and the look at what is pending belongs here as well.
        lanes.head = pending.last().map_or(head, |last| head.max(last.end));
        lanes.lines[lane as usize].unread = pending.into_iter().filter(|r| !r.is_empty()).collect();
        lanes
    }

    /// The log has grown up to `head`: what is new is live.
    pub fn advance(&mut self, head: u64) {
        if head > self.head {
            let line = &mut self.lines[Lane::Live as usize];
            match line.unread.back_mut() {
                Some(last) if last.end == self.head => last.end = head,
                _ => line.unread.push_back(self.head..head),
            }
            self.head = head;
        }
    }

    /// What to read now, the live lane first, of those that are `open` (the log could not be read for the others just
    /// now; one must not wait for the other); numbers from `held` on (all of which wait for the clock) not yet.
    /// `None`: enough is at hand, or there is nothing.
    #[must_use]
    pub fn want(&self, cut: Cut, held: Option<u64>, open: impl Fn(Lane) -> bool) -> Option<Want> {
        let max = READ.max(cut.max_readings);
        LANES.into_iter().filter(|lane| open(*lane)).find_map(|lane| {
            let line = &self.lines[lane as usize];
            let late = || self.late.clone().filter(|_| lane == Lane::Backlog);
            let unread = line.unread.front().cloned();
            let is_late = unread.is_none();
            let mut range = unread.or_else(late)?;
            range.end = range.end.min(held.unwrap_or(u64::MAX));
            let room = line.ready.len() < max && line.bytes < bounds::FORWARD_READ;
            (!range.is_empty() && room).then_some(Want { lane, range, max, late: is_late })
        })
    }

    /// The answer to [`Lanes::want`]. `false`: the log looked at nothing, so ask again later.
    pub fn filled(&mut self, want: &Want, chunk: Chunk, now: Instant) -> bool {
        let next = chunk.next.min(want.range.end);
        if next <= want.range.start {
            return false;
        }
        // If something was put back while the log was read, the plan is another one now.
        if want.late {
            let Some(late) = self.late.as_mut().filter(|l| l.start == want.range.start) else { return true };
            late.start = next;
            if late.is_empty() {
                self.late = None;
            }
        } else {
            let line = &mut self.lines[want.lane as usize];
            let Some(front) = line.unread.front_mut().filter(|f| f.start == want.range.start) else {
                return true;
            };
            front.start = next;
            if front.is_empty() {
                line.unread.pop_front();
            }
        }
        let mut from = want.range.start;
        let mut readings = chunk.records.into_iter().map(Item::Reading).filter(|_| !want.late).peekable();
        let mut messages = chunk.messages.into_iter().map(Item::Message).peekable();
        loop {
            let earlier = match (readings.peek(), messages.peek()) {
                (Some(reading), Some(message)) => reading.seq() < message.seq(),
                (reading, _) => reading.is_some(),
            };
            let Some(item) = (if earlier { readings.next() } else { messages.next() }) else { break };
            // The log promises this; a breach would break the order for good.
            if item.seq() < from || item.seq() >= next {
                continue;
            }
            from = item.seq() + 1;
            if self.is_late(want.lane, &item) {
                let start = self.late.as_ref().map_or(item.seq(), |late| late.start);
                self.late = Some(start..from);
            } else {
                let line = &mut self.lines[want.lane as usize];
                line.bytes += item.bytes();
                line.ready.push_back((now, item));
            }
        }
        true
    }

    /// Whether it is to go behind the backlog. What was not left there goes before what comes after it.
    fn is_late(&self, lane: Lane, item: &Item) -> bool {
        let [live, backlog] = &self.lines;
        let busy = !backlog.unread.is_empty() || !backlog.ready.is_empty();
        lane == Lane::Live
            && matches!(item, Item::Message(_))
            && (self.late.is_some()
                || (busy && !live.ready.iter().any(|(_, item)| matches!(item, Item::Message(_)))))
    }

    /// How many readings at the front of a lane make the next message; 0: none yet.
    ///
    /// A message is closed when it is full, when the next reading cannot join it (a hole in the numbers,
    /// another epoch), when nothing more is on its way on the backlog, or when its first reading waited
    /// long enough. `flush`: wait for nothing.
    #[must_use]
    pub fn closable(&self, lane: Lane, cut: Cut, now: Instant, flush: bool) -> usize {
        let line = &self.lines[lane as usize];
        let Some((since, first)) = line.ready.front() else { return 0 };
        if matches!(first, Item::Message(_)) {
            return 1;
        }
        let run = line.run(cut.max_readings);
        let closed = run == cut.max_readings
            || run < line.ready.len()
            || (lane == Lane::Backlog && line.unread.is_empty())
            || now >= *since + cut.max_delay;
        if closed || flush { run } else { 0 }
    }

    /// Takes the next message's readings from a lane; empty if none is closed yet, or a message of another device is next.
    pub fn take(&mut self, lane: Lane, cut: Cut, now: Instant, flush: bool) -> Vec<Record> {
        let count = self.closable(lane, cut, now, flush);
        let reading = |(_, item)| match item {
            Item::Reading(record) => Some(record),
            Item::Message(_) => None,
        };
        let line = &mut self.lines[lane as usize];
        if matches!(line.ready.front(), Some((_, Item::Message(_)))) {
            return Vec::new();
        }
        line.ready.drain(..count).filter_map(reading).collect()
    }

    /// Takes the message of another device that is next on a lane.
    pub fn take_message(&mut self, lane: Lane) -> Option<ForwardedRecord> {
        let line = &mut self.lines[lane as usize];
        match line.ready.pop_front() {
            Some((_, Item::Message(record))) => {
                line.bytes -= record.message.size();
                Some(record)
            }
            other => {
                other.into_iter().for_each(|item| line.ready.push_front(item));
                None
            }
        }
    }

    /// These readings were refused in this form: put them back to be read and sent again, in order.
    /// The numbers between them count as wanted; what is gone of them the log skips.
    pub fn rewind(&mut self, lane: Lane, ranges: impl IntoIterator<Item = Range<u64>>) {
        let line = &mut self.lines[lane as usize];
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.extend(line.ready.drain(..).map(|(_, item)| item.seq()..item.seq() + 1));
        line.bytes = 0;
        ranges.extend(line.unread.drain(..));
        ranges.sort_by_key(|r| r.start);
        for range in ranges {
            match line.unread.back_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => line.unread.push_back(range),
            }
        }
    }

    /// Nothing waits to be read or sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.late.is_none() && self.lines.iter().all(|l| l.unread.is_empty() && l.ready.is_empty())
    }

    /// When a message that is not full will be closed by time.
    #[must_use]
    pub fn deadline(&self, cut: Cut) -> Option<Instant> {
        self.lines.iter().filter_map(|l| l.ready.front().map(|(since, _)| *since + cut.max_delay)).min()
    }
}

impl Line {
    /// How many readings at the front may share a message.
    fn run(&self, most: usize) -> usize {
        let Some((_, Item::Reading(first))) = self.ready.front() else { return 0 };
        let next = |i: u64| first.id.seq.checked_add(i);
        let joins = |i: u64, item: &Item| match item {
            Item::Reading(r) => r.id.epoch == first.id.epoch && next(i) == Some(r.id.seq),
            Item::Message(_) => false,
        };
        (0u64..).zip(self.ready.iter().take(most)).take_while(|(i, (_, item))| joins(*i, item)).count()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::{Epoch, Id, PointKey, WallMs};
    use driver_api::{Quality, Value};
    use proptest::prelude::*;

    const ONE: Cut = Cut { max_readings: 1, max_delay: Duration::ZERO };
    const FIVE: Cut = Cut { max_readings: 5, max_delay: Duration::from_secs(5) };

    fn record(seq: u64) -> Record {
        Record {
            // A new epoch every 40 numbers.
            id: Id { epoch: Epoch { start: u32::try_from(seq / 40).expect("small"), random: 1 }, seq },
            ts: WallMs(0),
            point: Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: String::new() }),
            value: Some(Value::Int(1)),
            quality: Quality::Good,
        }
    }

    /// A log in which the numbers of `gone` are missing.
    fn read(want: &Want, gone: &[u64]) -> Chunk {
        let mut records: Vec<Record> = want.range.clone().filter(|s| !gone.contains(s)).map(record).collect();
        let next = records.get(want.max).map_or(want.range.end, |r| r.id.seq);
        records.truncate(want.max);
        Chunk { records, next, ..Chunk::default() }
    }

    fn some(range: Range<u64>) -> Vec<Range<u64>> {
        std::iter::once(range).collect()
    }

    fn seqs(records: &[Record]) -> Vec<u64> {
        records.iter().map(|r| r.id.seq).collect()
    }

    fn fill(lanes: &mut Lanes, cut: Cut, gone: &[u64], now: Instant) {
        while let Some(want) = lanes.want(cut, None, |_| true) {
            assert!(lanes.filled(&want, read(&want, gone), now));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_the_connection_is_backlog_and_what_comes_later_is_live() {
        let now = Instant::now();
        let mut lanes = Lanes::new(Order::LiveFirst, vec![1..4, 6..8], 8);
        lanes.advance(10);
        fill(&mut lanes, ONE, &[], now);
        assert_eq!(seqs(&lanes.take(Lane::Live, ONE, now, false)), [8]);
        assert_eq!(seqs(&lanes.take(Lane::Backlog, ONE, now, false)), [1]);
        assert_eq!(seqs(&lanes.take(Lane::Live, ONE, now, false)), [9]);
        assert_eq!(seqs(&lanes.take(Lane::Backlog, FIVE, now, false)), [2, 3]);
        assert_eq!(seqs(&lanes.take(Lane::Backlog, FIVE, now, false)), [6, 7]);
    }

    #[tokio::test(start_paused = true)]
    async fn strict_is_one_lane_oldest_first() {
        let now = Instant::now();
        let mut lanes = Lanes::new(Order::Strict, some(1..3), 3);
        lanes.advance(5);
        fill(&mut lanes, ONE, &[], now);
        assert_eq!(lanes.take(Lane::Backlog, ONE, now, true), []);
        let all: Vec<u64> = (0..4).flat_map(|_| seqs(&lanes.take(Lane::Live, ONE, now, false))).collect();
        assert_eq!(all, [1, 2, 3, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_live_batch_waits_for_company_but_not_for_ever() {
        let mut lanes = Lanes::new(Order::LiveFirst, vec![], 1);
        lanes.advance(4);
        let start = Instant::now();
        fill(&mut lanes, FIVE, &[], start);
        assert_eq!(lanes.take(Lane::Live, FIVE, start, false), []);
        assert_eq!(lanes.deadline(FIVE), Some(start + FIVE.max_delay));
        assert_eq!(seqs(&lanes.take(Lane::Live, FIVE, start + FIVE.max_delay, false)), [1, 2, 3]);
        lanes.advance(9);
        fill(&mut lanes, FIVE, &[], start);
        assert_eq!(seqs(&lanes.take(Lane::Live, FIVE, start, false)), [4, 5, 6, 7, 8]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_put_back_is_sent_again_before_what_follows() {
        let now = Instant::now();
        let mut lanes = Lanes::new(Order::LiveFirst, some(1..12), 12);
        fill(&mut lanes, FIVE, &[3], now);
        assert_eq!(seqs(&lanes.take(Lane::Backlog, FIVE, now, false)), [1, 2]);
        lanes.rewind(Lane::Backlog, Some(1..3));
        fill(&mut lanes, FIVE, &[3], now);
        let two = Cut { max_readings: 2, ..FIVE };
        assert_eq!(seqs(&lanes.take(Lane::Backlog, two, now, false)), [1, 2]);
        assert_eq!(seqs(&lanes.take(Lane::Backlog, two, now, false)), [4, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_the_clock_keeps_nothing_else_waiting_and_stays_in_its_lane() {
        let now = Instant::now();
        let mut lanes = Lanes::new(Order::LiveFirst, vec![1..4, 6..12], 12);
        lanes.advance(15);
        // All of the boot that began with 8 waits, and most of that is live.
        while let Some(want) = lanes.want(ONE, Some(8), |_| true) {
            assert_eq!((want.lane, want.range.end <= 8), (Lane::Backlog, true));
            assert!(lanes.filled(&want, read(&want, &[]), now));
        }
        let all = |lanes: &mut Lanes, lane| {
            let one = |_| seqs(&lanes.take(lane, ONE, now, false));
            (0..9).flat_map(one).collect::<Vec<u64>>()
        };
        assert_eq!(
            (all(&mut lanes, Lane::Live), all(&mut lanes, Lane::Backlog)),
            (vec![], vec![1, 2, 3, 6, 7])
        );
        fill(&mut lanes, ONE, &[], now);
        let rest = (all(&mut lanes, Lane::Live), all(&mut lanes, Lane::Backlog));
        assert_eq!(rest, (vec![12, 13, 14], vec![8, 9, 10, 11]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_looked_at_nothing_is_asked_again() {
        let mut lanes = Lanes::new(Order::Strict, some(1..3), 3);
        let want = lanes.want(ONE, None, |_| true).expect("something pending");
        assert!(!lanes.filled(&want, Chunk::empty(1), Instant::now()));
        assert_eq!(lanes.want(ONE, None, |_| true), Some(want));
    }

    #[tokio::test(start_paused = true)]
    async fn a_backlog_that_cannot_be_read_holds_up_nothing_live() {
        let mut lanes = Lanes::new(Order::LiveFirst, some(1..3), 3);
        let backlog = |lane: Lane| lane == Lane::Backlog;
        let live = |lane: Lane| lane == Lane::Live;
        assert_eq!(lanes.want(ONE, None, live), None);
        assert_eq!(lanes.want(ONE, None, backlog).map(|w| w.range), Some(1..3));
        lanes.advance(5);
        assert_eq!(lanes.want(ONE, None, |_| true).map(|w| (w.lane, w.range)), Some((Lane::Live, 3..5)));
        assert_eq!(lanes.want(ONE, None, live).map(|w| w.range), Some(3..5));
    }

    proptest! {
        #[test]
        fn every_pending_number_goes_out_once_in_order_and_no_batch_spans_a_gap_or_an_epoch(
            gone in prop::collection::vec(1u64..400, 0..60),
            splits in prop::collection::btree_set(1u64..200, 0..8),
            head in 200u64..300,
            growth in prop::collection::vec(1u64..30, 0..6),
            most in 1usize..70,
            strict in any::<bool>(),
        ) {
            let rt = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
            let _in = rt.enter();
            let now = Instant::now();
            let cut = Cut { max_readings: most, max_delay: Duration::from_secs(5) };
            let edges: Vec<u64> = splits.into_iter().collect();
            let pending: Vec<Range<u64>> = edges.chunks_exact(2).map(|e| e[0]..e[1]).collect();
            let order = if strict { Order::Strict } else { Order::LiveFirst };
            let mut lanes = Lanes::new(order, pending.clone(), head);
            let mut got: [Vec<u64>; 2] = [vec![], vec![]];
            let mut end = head;
            for grow in growth.into_iter().chain([0]) {
                end += grow;
                lanes.advance(end);
                fill_partly(&mut lanes, cut, &gone, now);
                for lane in LANES {
                    loop {
                        let batch = lanes.take(lane, cut, now, grow == 0);
                        if batch.is_empty() {
                            if grow == 0 && lanes.want(cut, None, |_| true).is_some() {
                                fill_partly(&mut lanes, cut, &gone, now);
                                continue;
                            }
                            break;
                        }
                        prop_assert!(batch.len() <= most);
                        prop_assert!(batch.windows(2).all(|w| w[0].id.seq + 1 == w[1].id.seq && w[0].id.epoch == w[1].id.epoch));
                        got[lane as usize].extend(seqs(&batch));
                    }
                }
            }
            let there = |s: &u64| !gone.contains(s);
            let old: Vec<u64> = pending.into_iter().flatten().filter(there).collect();
            let new: Vec<u64> = (head..end).filter(there).collect();
            if strict {
                prop_assert_eq!(&got[0], &[old, new].concat());
            } else {
                prop_assert_eq!(&got[Lane::Backlog as usize], &old);
                prop_assert_eq!(&got[Lane::Live as usize], &new);
            }
        }
    }

    fn fill_partly(lanes: &mut Lanes, cut: Cut, gone: &[u64], now: Instant) {
        for _ in 0..3 {
            let Some(want) = lanes.want(cut, None, |_| true) else { return };
            assert!(lanes.filled(&want, read(&want, gone), now));
        }
    }
}
