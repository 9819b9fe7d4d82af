//! Which readings of a backlog go when it must become smaller and `thin` is set. Pure.
//!
//! Promises:
//! - Only *fast* points are thinned: those that the configuration names (numbers that are reported at every poll, more often
//!   than `thin`), and of them only good numbers. What is uncertain or bad, switched, said in words or reported by
//!   exception stays, whatever it costs.
//! - Of a fast point the first reading of every stretch of `thin` stays, as it was taken: with its number, its time
//!   and its value. Stretches are counted on the line of `CLOCK_BOOTTIME`, so points that are polled together stay
//!   together, and their numbers stay runs, which share a message.
//! - What was thinned once is the same when it is thinned again.
//! - A block with messages of other devices stays whole: whose affair a message is may change, and the ledger of a thinned
//!   block knows no such thing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use driver_api::{Quality, Value};

use super::block::{self, Block, Head, Sparse};
use crate::bounds;
use crate::message::{Entry, PointKey, Reading};

/// Longest time from a thinned block's first reading to its last, ms: limits drop whole blocks.
const SPAN: u64 = 3_600_000;

/// The points that may be thinned: device, and how often each of its points is read, ms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fast(HashMap<String, HashMap<String, u64>>);

impl Fast {
    /// Those of this list (device, point, interval).
    #[must_use]
    pub fn of(points: impl IntoIterator<Item = (String, String, Duration)>) -> Self {
        let mut fast = Self::default();
        for (device, point, interval) in points {
            let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
            fast.0.entry(device).or_default().insert(point, interval);
        }
        fast
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this reading may go, if another of its point is within `every` ms.
    fn has(&self, reading: &Reading, every: u64) -> bool {
        let number = matches!(reading.value(), Some(Value::Int(_) | Value::UInt(_) | Value::Float(_)));
        number
            && reading.quality() == Quality::Good
            && self
                .0
                .get(&reading.point.device)
                .and_then(|points| points.get(&reading.point.point))
                .is_some_and(|n| *n < every)
    }
}

/// Lets the first reading of each point and stretch through.
#[derive(Debug, Clone, Default)]
pub struct Sieve {
    boot: u32,
    /// By device and point: the stretch of the reading that was let through last.
    last: HashMap<String, HashMap<String, u64>>,
}

impl Sieve {
    /// `every`: ms.
    fn passes(&mut self, reading: &Reading, every: u64, fast: &Fast) -> bool {
        if !fast.has(reading, every) {
            return true;
        }
        let stretch = reading.at.0 / every.max(1);
        let key = &reading.point;
        // Not `entry`, which takes the names: nearly always they are known.
        let points = match self.last.get_mut(&key.device) {
            Some(points) => points,
            None => self.last.entry(key.device.clone()).or_default(),
        };
        match points.get_mut(&key.point) {
            Some(last) => std::mem::replace(last, stretch) != stretch,
            None => points.insert(key.point.clone(), stretch).is_none(),
        }
    }
}

/// What is left of some neighbouring blocks, to become one.
#[derive(Debug)]
pub struct Stretch {
    head: Head,
    end: u64,
    kept: Vec<u64>,
    readings: Vec<Entry>,
    /// One key for each point: the columns tell points apart by address.
    keys: HashSet<Arc<PointKey>>,
    /// Of which points readings are missing.
    thinned: HashSet<Arc<PointKey>>,
    text: usize,
    /// Earliest and latest boot time of what was there, ms.
    pub times: [u64; 2],
    /// Readings that went.
    pub fresh: u64,
}

impl Stretch {
    /// Begins with a block whose row says these times; everything of it stays that stayed before.
    #[must_use]
    pub fn begin(block: &Block, times: [u64; 2], sieve: &mut Sieve, every: u64, fast: &Fast) -> Self {
        let head = block.head;
        let mut stretch = Self {
            head,
            end: head.first,
            kept: Vec::new(),
            readings: Vec::new(),
            keys: HashSet::new(),
            thinned: HashSet::new(),
            text: 0,
            times,
            fresh: 0,
        };
        if sieve.boot != head.boot {
            *sieve = Sieve { boot: head.boot, last: HashMap::new() };
        }
        stretch.add(block, times, sieve, every, fast);
        stretch
    }

    /// Whether this block, which follows, may still join.
    #[must_use]
    pub fn takes(&self, block: &Block, times: [u64; 2]) -> bool {
        let follows = (block.head.first, block.head.epoch, block.head.boot)
            == (self.end, self.head.epoch, self.head.boot);
        let text: usize = block.entries.iter().map(block::weight).sum();
        follows
            && self.kept.len() + block.entries.len() <= bounds::STORE_BLOCK
            && self.text + text <= block::TEXT_SOFT_MAX
            && times[1].max(self.times[1]).saturating_sub(times[0].min(self.times[0])) <= SPAN
    }

    /// Adds what stays of a block.
    pub fn add(&mut self, block: &Block, times: [u64; 2], sieve: &mut Sieve, every: u64, fast: &Fast) {
        for (number, entry) in block.numbered() {
            let Entry::Reading(reading) = entry else { continue };
            // A block is never empty, so the very first stays.
            if sieve.passes(reading, every, fast) || self.kept.is_empty() {
                self.keep(number, reading);
            } else {
                self.fresh += 1;
                self.miss(&reading.point);
            }
        }
        for point in block.sparse.iter().flat_map(|sparse| &sparse.points) {
            self.miss(point);
        }
        self.end = block.range().end;
        self.times = [self.times[0].min(times[0]), self.times[1].max(times[1])];
    }

    fn keep(&mut self, number: u64, reading: &Reading) {
        let mut reading = reading.clone();
        match self.keys.get(&reading.point) {
            Some(key) => reading.point = Arc::clone(key),
            None => drop(self.keys.insert(Arc::clone(&reading.point))),
        }
        self.kept.push(number);
        let entry = Entry::Reading(reading);
        self.text += block::weight(&entry);
        self.readings.push(entry);
    }

    fn miss(&mut self, point: &Arc<PointKey>) {
        // As many as a loss record names.
        if self.thinned.len() < bounds::STORE_LOSS_POINTS && !self.thinned.contains(point) {
            self.thinned.insert(Arc::clone(point));
        }
    }

    /// The numbers it stands for.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.head.first..self.end
    }

    /// Numbers without a reading.
    #[must_use]
    pub fn gone(&self) -> u64 {
        self.end - self.head.first - self.kept.len() as u64
    }

    /// The boot.
    #[must_use]
    pub fn boot(&self) -> u32 {
        self.head.boot
    }

    /// Packs it.
    ///
    /// # Errors
    /// As [`block::encode`].
    pub fn encode(&self) -> std::io::Result<Vec<u8>> {
        let mut points: Vec<_> = self.thinned.iter().cloned().collect();
        points.sort_unstable();
        let span = self.end - self.head.first;
        let sparse = Sparse { span, kept: self.kept.clone(), points, times: self.times };
        block::encode_sparse(&self.head, &self.readings, &sparse)
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::{decode, encode};
    use super::*;
    use crate::message::{BootMs, Epoch};
    use driver_api::Reason;

    fn point(name: &str) -> Arc<PointKey> {
        Arc::new(PointKey { device: "d".into(), point: name.into(), unit: String::new() })
    }

    fn fast() -> Fast {
        let point = |name: &str, s| ("d".to_owned(), name.to_owned(), Duration::from_secs(s));
        Fast::of([point("fast", 1), point("slow", 60), point("switch", 1)])
    }

    fn packed(first: u64, boot: u32, readings: &[Reading]) -> Block {
        let entries: Vec<Entry> = readings.iter().cloned().map(Entry::Reading).collect();
        let head = Head { first, epoch: Epoch { start: 1, random: 2 }, boot, offset: 0, synced: true };
        decode(&encode(&head, &entries).expect("packs")).expect("unpacks")
    }

    const EVERY: u64 = 60_000;

    /// What stays of these blocks, as one.
    fn thinned(blocks: &[Block]) -> Block {
        let mut sieve = Sieve::default();
        let mut stretch = Stretch::begin(&blocks[0], [0, 0], &mut sieve, EVERY, &fast());
        for block in &blocks[1..] {
            assert!(stretch.takes(block, [0, 0]));
            stretch.add(block, [0, 0], &mut sieve, EVERY, &fast());
        }
        let block = decode(&stretch.encode().expect("packs")).expect("unpacks");
        assert_eq!((block.range(), block.gone()), (stretch.range(), stretch.gone()));
        block
    }

    #[test]
    fn the_first_good_number_of_each_stretch_stays_and_everything_that_is_no_fast_number() {
        let mut readings = Vec::new();
        let mut stays = Vec::new();
        for second in 0..150u64 {
            let at = BootMs(30_500 + second * 1000);
            let mut add = |reading: Reading, kept: bool| {
                if kept {
                    stays.push((7 + readings.len() as u64, reading.clone()));
                }
                readings.push(reading);
            };
            // 30.5 s is in the first stretch; 60.5 s, the 31st reading, begins the next.
            add(Reading::good(point("fast"), at, Value::UInt(second)), [0, 30, 90].contains(&second));
            add(Reading::good(point("slow"), at, Value::UInt(second)), true);
            add(Reading::good(point("switch"), at, Value::Bool(true)), true);
            add(Reading::good(point("other"), at, Value::Float(0.5)), true);
            add(Reading::uncertain(point("fast"), at, Value::UInt(second), Reason::OutOfRange), true);
            add(Reading::bad(point("fast"), at, Reason::Timeout), true);
        }
        let block = thinned(&[packed(7, 1, &readings[..400]), packed(407, 1, &readings[400..])]);
        let left: Vec<_> = block.numbered().filter_map(|(n, e)| Some((n, e.reading()?.clone()))).collect();
        assert_eq!(left, stays);
        assert_eq!((block.range(), block.gone()), (7..907, 147));
        let sparse = block.sparse.as_ref().expect("numbers are missing");
        assert_eq!(sparse.points, [point("fast")]);
        assert_eq!(
            block.within(8..20).map(|(n, _)| n).collect::<Vec<_>>(),
            [8, 9, 10, 11, 12, 14, 15, 16, 17, 18]
        );
        assert_eq!(thinned(std::slice::from_ref(&block)), block, "once is enough");
    }

    #[test]
    fn what_follows_in_another_life_or_after_an_hour_is_another_block() {
        let one = |at: u64| [Reading::good(point("fast"), BootMs(at), Value::Int(1))];
        let stretch = Stretch::begin(&packed(1, 1, &one(0)), [0, 0], &mut Sieve::default(), EVERY, &fast());
        assert!(stretch.takes(&packed(2, 1, &one(5)), [5, 5]));
        assert!(!stretch.takes(&packed(3, 1, &one(5)), [5, 5]), "a hole");
        assert!(!stretch.takes(&packed(2, 2, &one(5)), [5, 5]), "another boot");
        assert!(!stretch.takes(&packed(2, 1, &one(5)), [SPAN + 1, SPAN + 1]), "an hour later");
        let many: Vec<_> = (0..bounds::STORE_BLOCK as u64).flat_map(one).collect();
        assert!(!stretch.takes(&packed(2, 1, &many), [5, 5]), "too many");
    }
}
