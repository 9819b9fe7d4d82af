//! Topics that the broker refuses, with a reason code, and what lies aside because of that. Pure.
//!
//! One message of a topic at a time is tried in full; what of the same topic is refused meanwhile lies aside, by its
//! number, and holds up nothing. If the broker takes a message of the topic, all of that goes again. If the one was
//! given up the topic is **barred**: what is refused then is given up at its first answer, as soon as the broker has
//! taken something else of the lane after it. From time to time one message is tried in full again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::uplink::lanes::Lane;

/// Topics that are remembered: 1024 × about 150 B. Full: messages of others are tried each in full.
const TOPICS: usize = 1024;
/// What lies aside: 8192 × 24 B. Full: what comes is tried in full.
const MOST: usize = 8192;
/// So much is declared at once, before its time: what lies here are holes in what is delivered, and the log remembers no more stretches
/// than [`STORE_ISLANDS`](crate::bounds::STORE_ISLANDS) of that; the rest it sends once more.
const ENOUGH: usize = crate::bounds::STORE_ISLANDS / 2;
/// How long what is given up is gathered, so that it is one record and not many.
pub(super) const GATHER: Duration = Duration::from_secs(60);
/// The same where a connection waits for it to end.
pub(super) const HURRY: Duration = Duration::from_secs(5);
/// How long a topic is barred before one message is tried in full.
const BARRED: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Topic {
    /// First number of the message that is tried in full.
    trial: Option<u64>,
    /// Messages of it were given up; when one is tried in full again.
    barred: Option<Instant>,
    lane: Lane,
    ranges: Vec<Range<u64>>,
    /// Since when the first of them lies here.
    since: Instant,
    /// What the broker had taken of the lane when it refused the last of them.
    taken: u64,
}

/// What to do about a refused message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is tried in full.
    Try,
    /// It lies aside.
    Aside,
}

/// All topics that are refused.
#[derive(Debug, Default)]
pub(super) struct Aside {
    topics: BTreeMap<Arc<str>, Topic>,
    count: usize,
}

impl Aside {
    /// The broker refuses this message; `taken`: how many it has taken of the lane.
    pub(super) fn refused(
        &mut self,
        name: &Arc<str>,
        range: &Range<u64>,
        (lane, taken): (Lane, u64),
        now: Instant,
    ) -> Verdict {
        let Some(topic) = self.topics.get_mut(name) else {
            if self.topics.len() < TOPICS {
                let trial = Some(range.start);
                let new = Topic { trial, barred: None, lane, ranges: Vec::new(), since: now, taken };
                self.topics.insert(name.clone(), new);
            }
            return Verdict::Try;
        };
        let due = topic.barred.is_none_or(|again| now >= again);
        if topic.trial == Some(range.start) || (topic.trial.is_none() && due) {
            topic.trial = Some(range.start);
            return Verdict::Try;
        }
        if topic.lane != lane || self.count >= MOST {
            return Verdict::Try;
        }
        if topic.ranges.is_empty() {
            topic.since = now;
        }
        self.count += 1;
        topic.ranges.push(range.clone());
        topic.taken = taken;
        Verdict::Aside
    }

    /// A message of a topic was given up after all its tries.
    pub(super) fn given_up(&mut self, name: &Arc<str>, start: u64, now: Instant) {
        if let Some(topic) = self.topics.get_mut(name).filter(|topic| topic.trial == Some(start)) {
            (topic.trial, topic.barred) = (None, Some(now + BARRED));
        }
    }

    /// The broker takes a message of this topic. Returns what lay aside.
    pub(super) fn taken(&mut self, name: &Arc<str>) -> Option<(Lane, Vec<Range<u64>>)> {
        let topic = self.topics.remove(name)?;
        self.count -= topic.ranges.len();
        (!topic.ranges.is_empty()).then_some((topic.lane, topic.ranges))
    }

    /// What is to be declared lost now, of all topics; `taken`: what the broker has taken of each lane; `gather`: how long
    /// the first of it may lie here.
    pub(super) fn due(&mut self, taken: [u64; 2], gather: Duration, now: Instant) -> Option<Vec<Range<u64>>> {
        let proved = || self.topics.values().filter(|t| t.is_proved(taken));
        let since = proved().map(|t| t.since).min()?;
        if now < since + gather && proved().map(|t| t.ranges.len()).sum::<usize>() < ENOUGH {
            return None;
        }
        Some(self.proved(taken))
    }

    fn proved(&mut self, taken: [u64; 2]) -> Vec<Range<u64>> {
        let proved = self.topics.values_mut().filter(|t| t.is_proved(taken));
        let ranges: Vec<_> = proved.flat_map(|t| std::mem::take(&mut t.ranges)).collect();
        self.count -= ranges.len();
        ranges
    }

    /// When something may be due.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let barred = self.topics.values().filter(|t| t.barred.is_some() && !t.ranges.is_empty());
        barred.map(|t| t.since + GATHER).min()
    }

    /// The connection is gone, and a new one brings again what lay here. Returns what is to be declared lost instead.
    pub(super) fn ended(&mut self, taken: [u64; 2]) -> Vec<Range<u64>> {
        let lost = self.proved(taken);
        for topic in self.topics.values_mut() {
            topic.ranges.clear();
            topic.trial = None;
        }
        self.topics.retain(|_, topic| topic.barred.is_some());
        self.count = 0;
        lost
    }
}

impl Topic {
    /// Whether the broker took something else after it refused these.
    fn is_proved(&self, taken: [u64; 2]) -> bool {
        self.barred.is_some() && !self.ranges.is_empty() && taken[self.lane as usize] > self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_of_a_barred_topic_is_given_up_once_another_was_taken_and_goes_again_once_it_is_allowed()
     {
        let (mut aside, now, name) = (Aside::default(), Instant::now(), Arc::<str>::from("data/d/p"));
        let refuse =
            |aside: &mut Aside, n: u64, taken| aside.refused(&name, &(n..n + 1), (Lane::Live, taken), now);
        assert_eq!(refuse(&mut aside, 1, 0), Verdict::Try);
        assert_eq!(refuse(&mut aside, 5, 0), Verdict::Aside);
        assert_eq!(refuse(&mut aside, 1, 9), Verdict::Try, "the first goes through all its tries");
        assert_eq!(aside.due([20, 0], GATHER, now + GATHER), None, "it may be accepted yet");
        aside.given_up(&name, 1, now);
        assert_eq!(refuse(&mut aside, 9, 9), Verdict::Aside);
        assert_eq!(aside.due([9, 7], GATHER, now + GATHER), None, "nothing else of the lane passes");
        assert_eq!(aside.due([10, 0], GATHER, now + GATHER / 2), None, "it is gathered");
        assert_eq!(aside.due([10, 0], GATHER, now + GATHER), Some(vec![5..6, 9..10]));
        assert_eq!(aside.due([10, 0], GATHER, now + GATHER), None);
        assert_eq!(refuse(&mut aside, 13, 10), Verdict::Aside);
        assert_eq!(aside.taken(&name), Some((Lane::Live, std::iter::once(13..14).collect())));
        assert_eq!(refuse(&mut aside, 17, 10), Verdict::Try, "nothing is remembered against it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_barred_topic_gets_a_full_try_from_time_to_time_and_is_remembered_over_connections() {
        let (mut aside, now, name) = (Aside::default(), Instant::now(), Arc::<str>::from("t"));
        let refuse =
            |aside: &mut Aside, n: u64, at| aside.refused(&name, &(n..n + 1), (Lane::Backlog, 3), at);
        refuse(&mut aside, 1, now);
        aside.given_up(&name, 1, now);
        refuse(&mut aside, 2, now);
        assert!(aside.ended([9, 3]).is_empty(), "what is not proved comes again");
        refuse(&mut aside, 2, now);
        assert_eq!(aside.ended([0, 4]), std::iter::once(2..3).collect::<Vec<_>>());
        assert_eq!(refuse(&mut aside, 3, now + BARRED), Verdict::Try);
        assert_eq!(refuse(&mut aside, 4, now + BARRED), Verdict::Aside);
    }
}
