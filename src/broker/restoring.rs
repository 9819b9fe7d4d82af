//! A start: sessions and retained messages as they were kept, before any door is open.
//!
//! Who was connected when the process was killed is taken to have left when it died, as well as that is known: after the last
//! sign of life, and before the next would have been due. What had been sent to it by then nobody knows, so whatever waits for it goes out as
//! a possible repeat; by its place it has the packet id it had, which is what a client knows a QoS 2 message by. A will that
//! had not fired does so when its time comes, unless the client is back first.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::journal::codec::{self, Kind, Now, Row, Was};
use super::journal::times::Moment;
use super::journal::{ALIVE, BEFORE};
use super::limits::filter_cost;
use super::message::Publish;
use super::queue::{self, Addressed, Item};
use super::session::{BEGUN, Session};
use super::shared;
use super::state::{Client, Options, Presence, State};
use super::stats::Counters;
use super::trie::Key;
use crate::bounds::BROKER_QUEUE;
use crate::message::{Docket, Kept, KeptEntry, Standing};
use crate::topic;

/// Wills that are due at a start wait so long: until what this process itself listens to is listened to (taps of uplinks, too).
/// One whose client is back before is published at that moment.
const WILLS: Duration = Duration::from_secs(2);

/// What belongs to one session.
#[derive(Debug, Default)]
struct Parts {
    filters: Vec<(Arc<str>, Options)>,
    entries: Vec<KeptEntry>,
    /// Each with what stands for it in a session.
    taken: Vec<(u16, u64)>,
}

impl State {
    /// Takes in what was kept. What cannot be read is left out, counted, and forgotten. `logged`: the last docket that the log has.
    pub(super) fn restore(&mut self, mut kept: Kept, logged: Option<Docket>, now: &Now) {
        let Some(journal) = self.journal.clone() else { return };
        let mut damaged = kept.damaged;
        self.number = kept.bodies.keys().copied().max().unwrap_or(0);
        self.next = self.next.max(kept.sessions.iter().map(|(key, _)| *key).max().unwrap_or(0));
        // Bytes go as soon as they are understood: all of it twice would be much.
        for (topic, data) in std::mem::take(&mut kept.retained) {
            let message = codec::to_publish(&data, now).filter(|m| {
                *m.topic == *topic && topic::is_name(&topic, self.limits.levels) && !m.is_expired(now.instant)
            });
            let fits =
                message.is_some_and(|m| self.may_retain(&topic) && self.retained.set(&Arc::new(m), 0, true));
            if !fits {
                journal.note(false, |pending| pending.retain(topic.as_str().into(), None));
            }
        }
        Counters::set(&self.counters.retained, self.retained.len());
        Counters::set(&self.counters.retained_bytes, self.retained.bytes());
        let bodies: HashMap<u64, Arc<Publish>> = kept
            .bodies
            .into_iter()
            .filter_map(|(number, data)| Some((number, Arc::new(codec::to_publish(&data, now)?))))
            .collect();
        let mut parts: HashMap<Key, Parts> = HashMap::new();
        for (key, filter, data) in kept.filters {
            match codec::to_options(&data).filter(|_| is_filter(&filter, self.limits.levels)) {
                Some(options) => parts.entry(key).or_default().filters.push((filter.into(), options)),
                None => damaged += 1,
            }
        }
        for entry in kept.entries {
            parts.entry(entry.session).or_default().entries.push(entry);
        }
        for (key, id) in kept.taken {
            parts.entry(key).or_default().taken.push((id, BEFORE));
        }
        for (key, id, docket) in kept.begun {
            let done = docket.is_some_and(|docket| docket.is_in(logged));
            if done {
                // Before the log has a docket of this life, and so says no more of those of the life before.
                journal.note(true, |pending| pending.id(key, id, Standing::Taken));
            }
            parts.entry(key).or_default().taken.push((id, if done { BEFORE } else { BEGUN }));
        }
        let mark = kept.mark.as_deref().and_then(codec::to_mark);
        let mut rows: Vec<(Key, u64, Row)> = Vec::new();
        for (key, data) in &kept.sessions {
            match codec::to_row(data, now).filter(|row| row.expiry > 0 || row.will.is_some()) {
                Some(row) => rows.push((*key, away_for(&row, mark, now), row)),
                None => {
                    damaged += 1;
                    self.note_end(*key, true);
                }
            }
        }
        // Longest away first; of two with the same client id the newer one counts.
        rows.sort_by_key(|(key, ago, _)| (std::cmp::Reverse(*ago), *key));
        for (key, ago, row) in rows {
            if let Some(&older) = self.ids.get(&row.client_id) {
                self.end(older);
            }
            if row.expiry == 0 {
                self.restore_will(key, row, now);
                continue;
            }
            damaged +=
                self.restore_session((key, ago, row), parts.remove(&key).unwrap_or_default(), &bodies, now);
        }
        parts.into_keys().for_each(|key| self.note_end(key, true));
        while self.away.len() > self.limits.sessions_away
            && let Some((_, &longest)) = self.away.first_key_value()
        {
            self.end(longest);
        }
        self.count_subscriptions();
        Counters::set(&self.counters.sessions_away, self.away.len());
        Counters::add(&self.counters.keeping_damaged, usize::try_from(damaged).unwrap_or(usize::MAX));
    }

    /// One session; how much of it could not be read.
    fn restore_session(
        &mut self,
        (key, ago, mut row): (Key, u64, Row),
        parts: Parts,
        bodies: &HashMap<u64, Arc<Publish>>,
        now: &Now,
    ) -> u64 {
        let (tx, rx) = queue::new(&self.limits, &self.queued);
        let mut session = Session::empty(key, row.client_id.clone(), rx, true);
        session.taken = parts.taken.into_iter().collect();
        let seq = parts.entries.last().map_or(0, |entry| entry.seq).max(row.sent);
        // More may have been in flight than there are places in the queue.
        let spare = parts.entries.len().saturating_sub(BROKER_QUEUE);
        let mut damaged = 0;
        let mut over = Vec::new();
        for (n, entry) in parts.entries.into_iter().enumerate() {
            if entry.released {
                session.flight.restore(entry.seq, None);
                continue;
            }
            let item = match codec::to_kind(&entry.data, entry.seq) {
                Some(Kind::Walk(walk)) => Some(Item::Retained(Box::new(walk))),
                Some(Kind::Message { qos, retain, ids }) => bodies.get(&entry.body).map(|message| {
                    let addressed = Addressed::new(message.clone(), qos, retain, ids);
                    let dup = row.was == Was::Connected || entry.seq <= row.sent;
                    Item::Message(Addressed { seq: entry.seq, after: BEFORE, dup, ..addressed })
                }),
                None => None,
            };
            match item {
                Some(Item::Message(a))
                    if n < spare || (row.was != Was::Connected && entry.seq <= row.sent) =>
                {
                    session.flight.restore(entry.seq, Some(a));
                }
                Some(item) => {
                    if !tx.restore(item) {
                        over.push(entry.seq);
                    }
                }
                None => {
                    damaged += 1;
                    over.push(entry.seq);
                }
            }
        }
        let at = |ms: u64| now.instant.checked_add(Duration::from_millis(ms));
        let left = now.instant.checked_sub(Duration::from_millis(ago)).unwrap_or(now.instant);
        let rest = |seconds: u32, ago: u64| at((u64::from(seconds) * 1000).saturating_sub(ago));
        let ends: Option<Instant> = (row.expiry != u32::MAX).then(|| rest(row.expiry, ago)).flatten();
        let will_at = row.will.as_mut().and_then(|will| {
            // The client has its time to come back, now that it can.
            let ago = if row.was == Was::Away { ago } else { 0 };
            if u64::from(will.delay) * 1000 <= ago {
                will.delay = 0;
            }
            rest(will.delay, ago).max(now.instant.checked_add(WILLS))
        });
        let since = self.fresh();
        let (mut filters, mut filter_bytes) = (HashMap::new(), 0);
        for (filter, options) in parts.filters {
            filter_bytes += filter_cost(&filter);
            match shared::parse(&filter) {
                None => drop(self.trie.insert(&filter, key, options)),
                Some((_, inner)) => {
                    self.next += 1;
                    if let Some(group) = self.groups.join(&filter, key, options, self.next) {
                        self.trie.insert(inner, group, options);
                    }
                }
            }
            filters.insert(filter, options);
        }
        let presence = Presence::Away { session, left, since, ends, will_at };
        let client = Client {
            user: row.user,
            filters,
            filter_bytes,
            will: row.will,
            expiry: row.expiry,
            kept: true,
            seq,
            ..Client::new(row.client_id.clone(), tx, presence)
        };
        self.filter_bytes += filter_bytes;
        self.ids.insert(row.client_id, key);
        self.clients.insert(key, client);
        self.away.insert(since, key);
        for at in [ends, will_at].into_iter().flatten() {
            self.deadlines.insert((at, key));
        }
        over.into_iter().for_each(|seq| self.note_over(key, seq));
        damaged
    }

    /// The will of a client that was connected and whose session ended with that: all that is left of it.
    fn restore_will(&mut self, key: Key, row: Row, now: &Now) {
        let (queue, rx) = queue::new(&self.limits, &self.queued);
        let session = Session::empty(key, row.client_id.clone(), rx, false);
        let (left, since, ends) = (now.instant, self.fresh(), now.instant.checked_add(WILLS));
        let presence = Presence::Away { session, left, since, ends, will_at: None };
        let client = Client {
            user: row.user,
            will: row.will,
            willed: true,
            ..Client::new(row.client_id.clone(), queue, presence)
        };
        self.ids.insert(row.client_id, key);
        self.clients.insert(key, client);
        self.deadlines.extend(ends.map(|at| (at, key)));
    }
}

/// For how many milliseconds a client has been away, as well as that is known.
fn away_for(row: &Row, mark: Option<Moment>, now: &Now) -> u64 {
    let alive = u64::try_from(ALIVE.as_millis()).unwrap_or(u64::MAX);
    match mark.filter(|_| row.was == Was::Connected) {
        Some(mark) => mark.later(alive, &now.moment).until(&now.moment),
        None if row.was == Was::Connected => 0,
        None => row.left.until(&now.moment),
    }
}

fn is_filter(filter: &str, levels: usize) -> bool {
    let inner =
        if topic::is_shared(filter) { shared::parse(filter).map(|(_, inner)| inner) } else { Some(filter) };
    inner.is_some_and(|inner| topic::is_filter(inner, levels))
}
