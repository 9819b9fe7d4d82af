//! How much may be in flight: as much as the link carries in a round trip, and a little more. Pure.
//!
//! Too little in flight wastes a long link; too much only waits somewhere on a narrow one, and every live reading
//! waits behind it. Both are measured with every acknowledgement: how many bytes a second arrive (the most of late, for
//! what was not asked of a link it cannot show), and how long one takes there and back when nothing waits (the least
//! of late). The first product is what the link holds; [`slack`] more keeps it busy while acknowledgements come in lumps.
//!
//! What waits on the way makes every round trip longer, also the shortest of late. So every [`PROBE`] less than the
//! link holds is kept in flight for a round trip, and what is measured then is believed. The idea and its names are those
//! of TCP's BBR (Cardwell et al., ACM Queue 14(5), 2016); here it counts messages up to their acknowledgement.

use std::time::Duration;

use tokio::time::Instant;

/// In flight before anything is measured.
const FIRST: usize = 16 << 10;
/// The least that may be in flight.
const LEAST: usize = 1 << 10;
/// Payload of one message before anything is measured, on the first connection.
const FIRST_PORTION: usize = 16 << 10;
/// The least of that on later ones.
const LEAST_PORTION: usize = 512;
/// How long one message of backlog may hold up the line.
const PORTION: Duration = Duration::from_millis(500);
/// How often the shortest round trip is measured anew.
const PROBE: Duration = Duration::from_secs(10);

/// What was known when a message left, so that its acknowledgement says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    at: Instant,
    bytes: usize,
    /// Bytes acknowledged by then, and when the last of them were.
    acked: u64,
    acked_at: Instant,
}

/// What one connection teaches the next one about the link: how it begins until something is acknowledged there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lesson {
    /// Bytes of payload that one message should have at most.
    pub portion: usize,
    /// Messages in flight at most.
    pub messages: usize,
}

impl Default for Lesson {
    fn default() -> Self {
        Self { portion: FIRST_PORTION, messages: usize::MAX }
    }
}

/// The pace of one connection.
#[derive(Debug, Clone)]
pub struct Pace {
    acked: u64,
    acked_at: Instant,
    in_flight: usize,
    /// The same in messages.
    messages: usize,
    first: Lesson,
    /// Bytes a second: the most of this period and of the one before.
    rates: [f64; 2],
    rates_since: Instant,
    /// More would have gone in this period: what it shows is what the link carries, not what it was asked to.
    limited: bool,
    /// The shortest round trip, and when it was measured.
    trip: (Duration, Instant),
    /// Since when little is kept in flight, and the shortest round trip of what left since then.
    probe: Option<(Instant, Option<Duration>)>,
}

impl Pace {
    /// What is known at first: the round trip of the login, whose packets are small, and the lesson of the connection
    /// before.
    #[must_use]
    pub fn new(first: Lesson, login: Duration, now: Instant) -> Self {
        Self {
            acked: 0,
            acked_at: now,
            in_flight: 0,
            messages: 0,
            first,
            rates: [0.0; 2],
            rates_since: now,
            limited: false,
            trip: (login, now),
            probe: None,
        }
    }

    /// Bytes that may be in flight.
    #[must_use]
    pub fn window(&self) -> usize {
        let (trip, _) = self.trip;
        match self.probe {
            _ if !self.is_measured() => FIRST,
            Some(_) => bytes(self.rate(), trip.mul_f64(0.75)),
            None => bytes(self.rate(), trip + slack(trip)).max(LEAST),
        }
    }

    /// Bytes of payload that one message should have at most: what leaves in half a second.
    #[must_use]
    pub fn portion(&self) -> usize {
        if self.is_measured() { bytes(self.rate(), PORTION).max(LEAST_PORTION) } else { self.first.portion }
    }

    /// What the next connection should begin with. Where no acknowledgement came back at all, a message may have been too long
    /// for the link; or the connection always breaks after so many, and what came back was lost with it: with fewer at
    /// first, in the end with one alone, something is acknowledged on every link that carries anything.
    #[must_use]
    pub fn lesson(&self) -> Lesson {
        let Lesson { portion, .. } = self.first;
        match self.messages {
            _ if self.is_measured() => Lesson { portion: self.portion(), messages: usize::MAX },
            0 => self.first,
            n => Lesson { portion: (portion / 4).max(LEAST_PORTION), messages: (n / 2).max(1) },
        }
    }

    /// Whether more may leave. One message of any size may always go alone.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight < self.window() && (self.is_measured() || self.messages < self.first.messages)
    }

    /// A message of so many bytes leaves.
    pub fn sent(&mut self, bytes: usize, now: Instant) -> Mark {
        if self.in_flight == 0 {
            // The link was idle: its rate is counted from here.
            self.acked_at = now;
        }
        self.in_flight += bytes;
        self.messages += 1;
        self.limited |= !self.has_room();
        Mark { at: now, bytes, acked: self.acked, acked_at: self.acked_at }
    }

    /// It is acknowledged.
    pub fn acked(&mut self, mark: Mark, now: Instant) {
        self.in_flight -= mark.bytes;
        self.messages -= 1;
        self.acked += mark.bytes as u64;
        self.acked_at = now;
        let trip = now.saturating_duration_since(mark.at);
        self.look_at_the_trip(mark, trip, now);
        self.measured(self.acked - mark.acked, now.saturating_duration_since(mark.acked_at), now);
    }

    /// So many bytes were acknowledged in this time.
    #[expect(clippy::cast_precision_loss, reason = "bytes in flight")]
    fn measured(&mut self, bytes: u64, elapsed: Duration, now: Instant) {
        let period = (self.trip.0 * 4).max(Duration::from_secs(2));
        if self.limited && now.saturating_duration_since(self.rates_since) >= period {
            self.rates = [0.0, self.rates[0]];
            (self.rates_since, self.limited) = (now, false);
        }
        let rate = bytes as f64 / elapsed.max(Duration::from_micros(50)).as_secs_f64();
        self.rates[0] = self.rates[0].max(rate);
    }

    fn look_at_the_trip(&mut self, mark: Mark, trip: Duration, now: Instant) {
        let (least, at) = self.trip;
        if trip <= least {
            self.trip = (trip, now);
            self.probe = None;
            return;
        }
        match &mut self.probe {
            None if now.saturating_duration_since(at) >= PROBE => self.probe = Some((now, None)),
            None => {}
            Some((since, shortest)) if mark.at >= *since => {
                let seen = shortest.map_or(trip, |s| s.min(trip));
                *shortest = Some(seen);
                // A single answer may be late for a reason of its own: the shortest of a round trip counts.
                if now >= *since + least + seen {
                    self.trip = (seen, now);
                    self.probe = None;
                }
            }
            Some(_) => {}
        }
    }

    /// Something was acknowledged.
    fn is_measured(&self) -> bool {
        self.acked > 0
    }

    fn rate(&self) -> f64 {
        self.rates[0].max(self.rates[1])
    }
}

/// What may wait on the way beyond what the link holds: no longer than a live reading may be held up by it.
fn slack(trip: Duration) -> Duration {
    trip.clamp(Duration::from_millis(250), Duration::from_secs(1))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates")]
fn bytes(rate: f64, time: Duration) -> usize {
    (rate * time.as_secs_f64()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const MS: Duration = Duration::from_millis(1);

    /// A link that carries so many bytes a second and holds each for half a round trip, twice.
    struct Line {
        rate: f64,
        trip: Duration,
        free_at: Instant,
        under_way: VecDeque<(Instant, Mark)>,
        /// The longest that anything waited because the link was busy.
        waited: Duration,
        carried: usize,
    }

    impl Line {
        fn new(rate: f64, trip: Duration, now: Instant) -> Self {
            Self { rate, trip, free_at: now, under_way: VecDeque::new(), waited: Duration::ZERO, carried: 0 }
        }

        fn send(&mut self, pace: &mut Pace, bytes: usize, now: Instant) {
            let mark = pace.sent(bytes, now);
            let begins = self.free_at.max(now);
            self.waited = self.waited.max(begins - now);
            self.free_at = begins + Duration::from_secs_f64(bytes as f64 / self.rate);
            self.under_way.push_back((self.free_at + self.trip, mark));
            self.carried += bytes;
        }

        /// Everything that is acknowledged by `now`.
        fn hear(&mut self, pace: &mut Pace, now: Instant) {
            while self.under_way.front().is_some_and(|(at, _)| *at <= now) {
                let (at, mark) = self.under_way.pop_front().expect("looked");
                pace.acked(mark, at);
            }
        }
    }

    /// Sends messages of at most `largest` bytes as fast as it may for so long; returns the share of the link that was
    /// used and the longest wait in the last half of the time.
    fn drain(line: &mut Line, largest: usize, seconds: u32) -> (f64, Duration) {
        let start = Instant::now();
        let mut pace = Pace::new(Lesson::default(), line.trip, start);
        let (mut now, mut half) = (start, false);
        while now < start + seconds * Duration::from_secs(1) {
            line.hear(&mut pace, now);
            while pace.in_flight == 0 || pace.has_room() {
                let bytes = largest.min(pace.portion());
                line.send(&mut pace, bytes, now);
            }
            now += MS;
            if !half && now >= start + seconds * Duration::from_secs(1) / 2 {
                (half, line.waited, line.carried) = (true, Duration::ZERO, 0);
            }
        }
        let share = line.carried as f64 / line.rate / (f64::from(seconds) / 2.0);
        (share, line.waited)
    }

    #[tokio::test(start_paused = true)]
    async fn every_link_is_used_and_nothing_waits_long_on_it() {
        for (rate, trip_ms) in
            [(1e3, 100), (10e3, 50), (50e3, 600), (1e6, 200), (1e6, 2000), (125e3, 20), (5e6, 1)]
        {
            for largest in [200, 15_000] {
                let mut line = Line::new(rate, MS * trip_ms, Instant::now());
                let (share, waited) = drain(&mut line, largest, 60);
                println!("{rate:>9} B/s, {trip_ms} ms, {largest} B: {share:.3} of it, waited {waited:?}");
                assert!(share > 0.9, "{rate} B/s, {trip_ms} ms, {largest} B: {share:.3} of the link");
                assert!(waited < MS * 1600, "{rate} B/s, {trip_ms} ms, {largest} B: {waited:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_becomes_longer_or_narrower_is_measured_anew() {
        for (trip, rate) in [(MS * 50, 1e6), (MS * 800, 1e6), (MS * 100, 20e3), (MS * 1500, 300e3)] {
            let start = Instant::now();
            let (mut pace, mut line) =
                (Pace::new(Lesson::default(), MS * 100, start), Line::new(1e6, MS * 100, start));
            let mut now = start;
            let mut run = |line: &mut Line, until: Instant| {
                while now < until {
                    line.hear(&mut pace, now);
                    while pace.in_flight == 0 || pace.has_room() {
                        let bytes = 1000.min(pace.portion());
                        line.send(&mut pace, bytes, now);
                    }
                    now += MS;
                }
            };
            run(&mut line, start + MS * 20_000);
            (line.trip, line.rate) = (trip, rate);
            run(&mut line, start + MS * 60_000);
            (line.waited, line.carried) = (Duration::ZERO, 0);
            run(&mut line, start + MS * 100_000);
            let share = line.carried as f64 / rate / 40.0;
            println!("to {trip:?}, {rate} B/s: {share:.3} of it, waited {:?}", line.waited);
            assert!(
                share > 0.85 && line.waited < MS * 2000,
                "{trip:?}, {rate}: {share:.3}, {:?}",
                line.waited
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_is_asked_for_little_is_not_taken_for_a_narrow_one() {
        let start = Instant::now();
        let (mut pace, mut line) =
            (Pace::new(Lesson::default(), MS * 100, start), Line::new(1e6, MS * 100, start));
        let mut now = start;
        while now < start + MS * 5000 {
            line.hear(&mut pace, now);
            while pace.has_room() {
                line.send(&mut pace, 1000, now);
            }
            now += MS;
        }
        let before = pace.window();
        while now < start + MS * 65_000 {
            line.hear(&mut pace, now);
            if (now - start).as_millis().is_multiple_of(500) {
                line.send(&mut pace, 200, now);
            }
            now += MS;
        }
        line.hear(&mut pace, now);
        assert!(pace.window() * 2 > before, "{} of {before}", pace.window());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_come_in_lumps_do_not_empty_the_link() {
        // A broker that writes to its disk ten times a second and answers then.
        let start = Instant::now();
        let (mut pace, mut line) =
            (Pace::new(Lesson::default(), MS * 60, start), Line::new(200e3, MS * 40, start));
        let mut now = start;
        let mut carried = 0;
        while now < start + MS * 40_000 {
            if (now - start).as_millis().is_multiple_of(100) {
                while line.under_way.front().is_some_and(|(at, _)| *at <= now) {
                    let (_, mark) = line.under_way.pop_front().expect("looked");
                    pace.acked(mark, now);
                }
            }
            while pace.in_flight == 0 || pace.has_room() {
                line.send(&mut pace, 200, now);
            }
            if now == start + MS * 20_000 {
                carried = line.carried;
            }
            now += MS;
        }
        let share = (line.carried - carried) as f64 / 200e3 / 20.0;
        assert!(share > 0.9, "{share:.3}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_never_arrives_whole_is_smaller_on_the_next_connection() {
        let now = Instant::now();
        let mut lesson = Lesson::default();
        for portion in [4096, 1024, 512, 512] {
            let mut pace = Pace::new(lesson, MS * 100, now);
            pace.sent(pace.portion(), now);
            lesson = pace.lesson();
            assert_eq!(lesson, Lesson { portion, messages: 1 });
        }
        let mut pace = Pace::new(lesson, MS * 100, now);
        let mark = pace.sent(512, now);
        pace.acked(mark, now + MS * 100);
        let portion = 2560; // Half a second of 5120 bytes a second.
        assert_eq!(pace.lesson(), Lesson { portion, messages: usize::MAX });
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_comes_back_fewer_messages_leave_until_something_does() {
        let now = Instant::now();
        let mut lesson = Lesson::default();
        let mut left = Vec::new();
        for _ in 0..5 {
            let mut pace = Pace::new(lesson, MS * 100, now);
            while pace.has_room() && pace.messages < 9 {
                pace.sent(10, now);
            }
            left.push(pace.messages);
            lesson = pace.lesson();
        }
        assert_eq!(left, [9, 4, 2, 1, 1]);
        // A connection on which nothing is to be sent teaches nothing.
        assert_eq!(Pace::new(lesson, MS, now).lesson(), lesson);
        let mut pace = Pace::new(lesson, MS * 100, now);
        let mark = pace.sent(10, now);
        assert!(!pace.has_room());
        pace.acked(mark, now + MS * 100);
        pace.sent(10, now + MS * 100);
        assert!(pace.has_room());
    }
}
