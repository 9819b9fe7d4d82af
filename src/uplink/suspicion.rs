//! Which message makes the broker close the connection. Pure: times are given.
//!
//! MQTT 3.1.1 has no words for a message that is too large or may not be published: a broker closes the connection, and
//! some brokers do so with MQTT 5 too. A bad link closes connections as well, at any message that happens to be under way.
//! So nothing is given up on a guess:
//!
//! 1. Connections that the far side closes twice with the same oldest message unacknowledged make the next one
//!    **careful**: one message of the log is under way at a time. If that is closed too, the message is known: a batch is
//!    cut in half (that costs nothing, so it needs no proof), a single one is a **suspect**. So is the
//!    oldest after [`OFTEN`] connections in a row that were closed with one of its topic: live ones are new each time.
//! 2. A suspect is left out, and what would overtake it on its topic. All else goes on.
//! 3. It is **tried** alone: nothing else at all is under way, and nothing of its topic that comes before it is left out. If it is
//!    acknowledged it was none.
//! 4. That the far side closes the connection during a try counts if the connection had acknowledged other readings, had
//!    stood [`CALM`] times as long as the try took, and had carried more than all connections before that were closed by a
//!    try: more messages, more bytes, for longer. A path that cuts after so many bytes, messages or seconds never lets it
//!    come to a second one; one that cuts at random hits a short try now and then, and any other end of a connection
//!    makes the count begin anew. Tries are further and further apart.
//! 5. What is closed at so many times is given up. The next message of its topic is a suspect from the first; after as many
//!    messages in a row the topic counts as forbidden, and what lies aside for it is given up with each try.

#[cfg(test)]
mod links;
mod suspect;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::inflight::{Cargo, Outgoing};
use super::share::Class;
use super::timing::Timing;
use crate::bounds::UPLINK_BATCH;
use suspect::{Carried, Repeater, Suspect, Try};

/// How many times longer than a try a connection must have stood before it.
pub const CALM: u32 = 20;
/// Suspects at once, each with one message in RAM. Full: the message is sent as any other, and closes the connection
/// until there is room.
const SUSPECTS: usize = 16;
/// Topics of which messages were given up: 256 × about 100 B. Full: the first by name is forgotten, and takes the
/// long way again.
const REPEATERS: usize = 256;
/// Messages that lie aside because of their topic: 8192 × 40 B. Full: what comes is left out until the next connection.
const ASIDE: usize = 8192;
/// How long batches stay cut before twice as much is tried.
const RELAX: Duration = Duration::from_secs(600);
/// So many connections in a row, closed with a message of the same topic as the oldest under way, make it a suspect.
const OFTEN: u8 = 4;
/// With QoS 2: closes in a row of the same message alone before it is left out.
const PATIENT: u8 = 8;
/// The longest wait between two tries of which nothing can be learnt.
const LONGEST: Duration = Duration::from_secs(600);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The far side closed it, and a message may be why.
    Closed,
    /// It broke in another way.
    Broken,
    /// We were asked to.
    Asked,
}

/// What is to be done about the suspects now.
#[derive(Debug)]
pub enum Step {
    /// Nothing.
    None,
    /// Nothing may be sent.
    Wait,
    /// This alone.
    Go(Box<Outgoing>),
}

/// What the end of a connection says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Topic of the message.
    pub topic: Arc<str>,
    /// Bytes of its payload.
    pub bytes: usize,
    /// Given up: these numbers.
    pub lost: Vec<Range<u64>>,
}

/// All suspects of an uplink; outlives connections.
#[derive(Debug)]
pub struct Suspicion {
    retry: Duration,
    longest: Duration,
    tries: u8,
    /// The oldest message that was unacknowledged when the last connection was closed, and how often in a row it was that.
    last: Option<(u64, Arc<str>, u8)>,
    /// Up to this number one message is under way at a time.
    careful: Option<u64>,
    suspects: Vec<Suspect>,
    repeaters: BTreeMap<Arc<str>, Repeater>,
    aside: Vec<(Arc<str>, Class, Range<u64>)>,
    /// Readings in one batch, and until when.
    ceiling: Option<(usize, Instant)>,
    /// With QoS 2: what must not go again as it was.
    unfit: Option<Range<u64>>,
    /// This connection: since when, and what was acknowledged.
    since: Instant,
    carried: Carried,
    readings: u64,
    trial: Option<Try>,
    again: bool,
    /// When other readings waited last.
    busy_at: Instant,
}

impl Suspicion {
    /// Nothing is suspected.
    #[must_use]
    pub fn new(timing: &Timing, now: Instant) -> Self {
        Self {
            retry: timing.retry,
            longest: timing.backoff.1,
            tries: timing.tries.max(2),
            last: None,
            careful: None,
            suspects: Vec::new(),
            repeaters: BTreeMap::new(),
            aside: Vec::new(),
            ceiling: None,
            unfit: None,
            since: now,
            carried: Carried::default(),
            readings: 0,
            trial: None,
            again: false,
            busy_at: now,
        }
    }

    /// A new connection. `owed`: whether all of these numbers are; `first`: the first number that is.
    pub fn connected(&mut self, owed: impl Fn(&Range<u64>) -> bool, first: Option<u64>, now: Instant) {
        (self.since, self.busy_at) = (now, now);
        (self.carried, self.readings, self.trial) = (Carried::default(), 0, None);
        self.aside.clear();
        self.suspects.retain(|s| owed(&s.range));
        for suspect in &mut self.suspects {
            suspect.message = None;
        }
        self.careful = self.careful.filter(|through| first.is_some_and(|first| first < *through));
    }

    /// One message of the log at a time.
    #[must_use]
    pub fn is_careful(&self) -> bool {
        self.careful.is_some()
    }

    /// The last connection was closed at a message at which one was closed before.
    #[must_use]
    pub fn was_closed_again(&self) -> bool {
        self.again
    }

    /// Most readings in one message.
    #[must_use]
    pub fn most_readings(&self) -> usize {
        self.ceiling.map_or(usize::MAX, |(most, _)| most)
    }

    /// Batches that were cut for long may be longer again.
    pub fn relax(&mut self, now: Instant) {
        if let Some((most, until)) = self.ceiling
            && now >= until
        {
            let most = most.saturating_mul(2);
            self.ceiling = (most < UPLINK_BATCH).then_some((most, now + RELAX));
        }
    }

    /// Whether this number is left out.
    #[must_use]
    pub fn suspects(&self, seq: u64) -> bool {
        self.suspects.iter().any(|s| s.range.contains(&seq))
    }

    /// Whether what is open under these numbers must not go again as it was.
    #[must_use]
    pub fn is_unfit(&self, range: &Range<u64>) -> bool {
        self.unfit.as_ref() == Some(range) || self.suspects.iter().any(|s| s.range == *range)
    }

    /// Whether there are any, or are to be.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.suspects.is_empty() && self.repeaters.is_empty()
    }

    /// A message of the log that may go out; `None`: it is left out. `apart`: its topic is its point's.
    pub fn let_pass(&mut self, message: Outgoing, apart: bool, now: Instant) -> Option<Outgoing> {
        let Cargo::Readings(range) = &message.cargo else { return Some(message) };
        if self.is_idle() {
            return Some(message);
        }
        let range = range.clone();
        if let Some(suspect) = self.suspects.iter_mut().find(|s| s.range == range) {
            suspect.topic = message.topic.clone();
            suspect.class = message.class;
            suspect.message = Some(message);
            return None;
        }
        if self.suspects.iter().any(|s| s.holds(&message.topic, &range)) {
            if self.aside.len() < ASIDE {
                self.aside.push((message.topic, message.class, range));
            }
            return None;
        }
        if let Some(Repeater { lost, beyond, wait }) = self.repeaters.get(&message.topic).copied()
            && self.suspects.len() < SUSPECTS
        {
            let mut suspect = Suspect::new(&message, range, apart, self.retry, now + wait);
            (suspect.strikes, suspect.beyond) = (if lost > 0 { self.tries - 1 } else { 0 }, beyond);
            suspect.message = Some(message);
            self.suspects.push(suspect);
            return None;
        }
        Some(message)
    }

    /// What to do now. `free`: nothing at all is under way. `idle`: no other readings wait. If that lasts, a try is made
    /// of which nothing but good can be learnt.
    pub fn step(&mut self, free: bool, idle: bool, now: Instant) -> Step {
        if self.trial.is_some() {
            return Step::Wait;
        }
        if !idle {
            self.busy_at = now;
        }
        let idle = now >= self.busy_at + self.retry;
        let stood = Carried { time: now.saturating_duration_since(self.since), ..self.carried };
        let readings = self.readings;
        let fits = |s: &Suspect| readings > 0 && stood.is_more_than(s.beyond) && stood.time >= s.calm;
        let stuck = readings == 0 && stood.time >= self.retry;
        let anyway = |s: &Suspect| stuck || (idle && (s.closes == 0 || now >= s.due + s.wait * 4));
        let ready =
            |s: &&Suspect| s.message.is_some() && now >= s.due && (fits(s) || anyway(s)) && self.is_first(s);
        let Some(suspect) = self.suspects.iter().filter(ready).min_by_key(|s| s.due) else {
            return Step::None;
        };
        let Some(message) = suspect.message.clone().filter(|_| free) else { return Step::Wait };
        self.trial = Some(Try { start: suspect.range.start, at: now, fit: fits(suspect) });
        Step::Go(Box::new(message))
    }

    /// Whether nothing of its topic that comes before it is left out, too: it must not overtake that.
    fn is_first(&self, suspect: &Suspect) -> bool {
        let before = |range: &Range<u64>| range.start < suspect.range.start;
        !self.suspects.iter().any(|s| s.holds(&suspect.topic, &suspect.range))
            && !self.aside.iter().any(|(topic, _, range)| *topic == suspect.topic && before(range))
    }

    /// When the next try is due.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        let (idle, stuck) = (self.busy_at + self.retry, self.since + self.retry);
        self.suspects.iter().filter(|s| s.message.is_some()).flat_map(|s| [s.due, idle, stuck]).min()
    }

    /// Something was acknowledged. Returns what need not lie aside any more. `through`: it is of the lane in which what is
    /// pending goes, up to this number.
    #[must_use = "what is released must go"]
    pub fn acked(&mut self, message: &Outgoing, through: Option<u64>) -> Vec<(Class, Range<u64>)> {
        self.carried.messages += 1;
        self.carried.bytes += (message.payload.len() + message.topic.len()) as u64;
        let Cargo::Readings(range) = &message.cargo else { return Vec::new() };
        self.readings += 1;
        if self.careful.is_some_and(|careful| through.is_some_and(|through| through >= careful)) {
            self.careful = None;
        }
        if self.is_idle() {
            return Vec::new();
        }
        for suspect in &mut self.suspects {
            suspect.others |=
                suspect.range != *range && (suspect.forwarded || suspect.class == message.class);
        }
        self.repeaters.remove(&message.topic);
        // It passes under another name, as a reading of the backlog: what is live is found out by itself.
        let renamed = self.suspects.iter().find(|s| s.range == *range && s.closed_on != message.topic);
        if let Some(closed_on) = renamed.map(|s| s.closed_on.clone()) {
            match self.repeaters.get_mut(&closed_on) {
                Some(known) => known.wait = (known.wait * 2).max(self.retry).min(self.longest),
                None => self.remember(closed_on, Repeater::default()),
            }
        }
        self.answered(range)
    }

    /// The broker has answered this message, in whatever way. Returns what need not lie aside any more.
    #[must_use = "what is released must go"]
    pub fn answered(&mut self, range: &Range<u64>) -> Vec<(Class, Range<u64>)> {
        self.trial = self.trial.filter(|trial| trial.start != range.start);
        let count = self.suspects.len();
        self.suspects.retain(|s| s.range != *range);
        if self.suspects.len() == count { Vec::new() } else { self.release() }
    }

    fn release(&mut self) -> Vec<(Class, Range<u64>)> {
        let suspects = &self.suspects;
        let (held, mut free): (Vec<_>, Vec<_>) = std::mem::take(&mut self.aside)
            .into_iter()
            .partition(|(topic, _, range)| suspects.iter().any(|s| s.holds(topic, range)));
        self.aside = held;
        // A suspect that comes behind what goes now has its turn behind it.
        for suspect in &mut self.suspects {
            let before = |(topic, _, range): &(Arc<str>, Class, Range<u64>)| {
                *topic == suspect.topic && range.start < suspect.range.start
            };
            if free.iter().any(before)
                && let Some(message) = suspect.message.take()
            {
                free.push((message.topic, message.class, suspect.range.clone()));
            }
        }
        free.into_iter().map(|(_, class, range)| (class, range)).collect()
    }

    /// A connection ended, with these messages of the log under way. `exactly`: they go with QoS 2; what is left out then may
    /// arrive twice, so that takes [`PATIENT`] closes of it alone.
    pub fn ended(
        &mut self,
        ending: Ending,
        under_way: &[Outgoing],
        (apart, exactly): (bool, bool),
        now: Instant,
    ) -> Option<Finding> {
        self.again = false;
        if ending == Ending::Asked {
            return None;
        }
        if let Some(trial) = self.trial.take()
            && let Some(at) = self.suspects.iter().position(|s| s.range.start == trial.start)
        {
            return self.tried(at, trial, ending, now);
        }
        // It was none of theirs: connections end for other reasons, too.
        for suspect in &mut self.suspects {
            suspect.strikes = 0;
        }
        let range = |m: &Outgoing| match &m.cargo {
            Cargo::Readings(range) if !range.is_empty() && !m.topic.is_empty() => Some(range.clone()),
            _ => None,
        };
        let ranges: Vec<_> = under_way.iter().filter_map(|m| range(m).map(|r| (r, m))).collect();
        let oldest = ranges.iter().min_by_key(|(range, _)| range.start);
        let Some((range, message)) = oldest.filter(|_| ending == Ending::Closed) else {
            self.last = None;
            return None;
        };
        let apart = apart || message.forwarded.is_some();
        let before = self
            .last
            .take()
            .filter(|(start, topic, _)| *start == range.start || (apart && *topic == message.topic));
        let count = before.map_or(1, |(_, _, n)| n.saturating_add(1));
        self.last = Some((range.start, message.topic.clone(), count));
        self.again = count > 1;
        let finding =
            Finding { topic: message.topic.clone(), bytes: message.payload.len(), lost: Vec::new() };
        let alone = self.careful.is_some() && ranges.len() == 1 && (!exactly || count >= PATIENT);
        let readings = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        self.unfit = (alone && exactly).then(|| range.clone());
        if alone && readings > 1 {
            self.ceiling = Some((readings / 2, now + RELAX));
        } else if alone || (count >= OFTEN && readings == 1 && !exactly) {
            if self.suspects.len() < SUSPECTS && !self.suspects(range.start) {
                self.suspects.push(Suspect::new(message, range.clone(), apart, self.retry, now));
            }
        } else {
            if count > 1 {
                self.careful = ranges.iter().map(|(range, _)| range.end).max();
            }
            return None;
        }
        self.again = true;
        Some(finding)
    }

    fn remember(&mut self, topic: Arc<str>, repeater: Repeater) {
        self.repeaters.insert(topic, repeater);
        while self.repeaters.len() > REPEATERS {
            self.repeaters.pop_first();
        }
    }

    /// The connection ended during a try.
    fn tried(&mut self, at: usize, trial: Try, ending: Ending, now: Instant) -> Option<Finding> {
        let stood = trial.at.saturating_duration_since(self.since);
        let carried = Carried {
            messages: self.carried.messages + 1,
            bytes: self.carried.bytes,
            time: now.saturating_duration_since(self.since),
        };
        let suspect = &mut self.suspects[at];
        if ending != Ending::Closed {
            (suspect.strikes, suspect.due) = (0, now + suspect.wait);
            return None;
        }
        self.again = true;
        suspect.closes += 1;
        let took = now.saturating_duration_since(trial.at);
        let calm = stood >= took * CALM;
        suspect.calm = took * (CALM * 3 / 2);
        let counts = trial.fit && calm && suspect.others;
        if counts {
            suspect.strikes += 1;
            suspect.beyond = Carried { bytes: carried.bytes + suspect.bytes as u64, ..carried };
        }
        // Where nothing passes at all it is as with a broker that is not there.
        let longest = if counts || self.readings == 0 { self.longest } else { LONGEST };
        suspect.wait = (suspect.wait * 2).min(longest);
        suspect.due = now + suspect.wait;
        let mut finding = Finding { topic: suspect.topic.clone(), bytes: suspect.bytes, lost: Vec::new() };
        if suspect.strikes < self.tries {
            return Some(finding);
        }
        let suspect = self.suspects.remove(at);
        finding.lost.push(suspect.range);
        if suspect.apart {
            let topics = [&suspect.topic, &suspect.closed_on];
            let known = topics.iter().filter_map(|topic| self.repeaters.get(*topic));
            let lost = known.map(|r| r.lost).max().unwrap_or(0).saturating_add(1);
            if lost >= self.tries {
                let aside = self.aside.iter().filter(|(topic, ..)| topics.contains(&topic));
                finding.lost.extend(aside.map(|(.., range)| range.clone()));
            }
            let repeater = Repeater { lost, beyond: suspect.beyond, wait: suspect.wait };
            self.remember(suspect.topic, repeater);
            self.remember(suspect.closed_on, repeater);
        }
        Some(finding)
    }
}
