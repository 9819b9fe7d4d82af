//! From a message to its subscribers, and how subscriptions come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use super::limits::{OVERLAP, filter_cost};
use super::message::Publish;
use super::queue::{self, Addressed, Item, Walk};
use super::retained::{Cursor, Portion};
use super::shared;
use super::state::{AckTo, By, Client, Control, Options, Presence, State, Subscribing};
use super::stats::{Counters, Refusal};
use super::trie::Key;
use super::wire::reason;
use crate::message::Message;
use crate::topic;

/// After one that was costly, so many messages are measured.
const COSTLY: u16 = 10_000;

impl State {
    /// [`State::route`] for what no connection stands behind that could wait: it is tapped if there is room.
    pub(super) fn route_own(&mut self, message: Publish, retain: bool) {
        let message = Arc::new(message);
        self.route(&message, By { retain, ..By::default() });
        if self.tap.wants(&message) {
            match self.tap.try_room(&message) {
                Some(room) => self.tap.hand_over(message, None, None, room),
                None => self.tap.skip(),
            }
        }
    }

    /// Keeps `message` if it is to be retained and queues it for all who want it. Whether somebody does, and the group of
    /// the journal that has what is to be kept of it, or 0.
    pub(super) fn route(&mut self, message: &Arc<Publish>, by: By) -> (bool, u64) {
        Counters::add(&self.counters.messages_in, 1);
        self.number += 1;
        let mut stored = false;
        if message.retain && self.may_retain(&message.topic) {
            let keep = by.retain && self.journal.is_some();
            let fits = self.retained.set(message, self.number, keep);
            if !fits {
                self.counters.refuse(Refusal::Retained);
            }
            stored = keep && fits && !message.payload.is_empty();
            Counters::set(&self.counters.retained, self.retained.len());
            Counters::set(&self.counters.retained_bytes, self.retained.bytes());
        }
        // Reading a clock for every message is not worth it: the first costly one in a long time goes free.
        let began = (self.costly > 0).then(Instant::now);
        self.costly = self.costly.saturating_sub(1);
        let mut matches = std::mem::take(&mut self.matches);
        self.trie.matching(&message.topic, &mut |key, options| {
            if !(options.no_local && key == message.from) {
                matches.push((key, *options));
            }
        });
        // One copy for each subscriber, however many of its filters match (§3.3.4).
        matches.sort_by_key(|(key, _)| *key);
        let any = !matches.is_empty();
        let mut overlap = 0;
        for same in matches.chunk_by(|a, b| a.0 == b.0) {
            match self.groups.turn(same[0].0) {
                None => {
                    overlap += same.len() - 1;
                    self.queue(same[0].0, same, message);
                }
                Some(members) => {
                    overlap += 1;
                    self.queue_for_one(&members, message);
                }
            }
        }
        matches.clear();
        self.matches = matches;
        if overlap > OVERLAP {
            self.costly = COSTLY;
            began.into_iter().for_each(|began| self.charge(message.from, began.elapsed()));
        }
        (any, self.note_routed(message, by, stored))
    }

    /// A message took long for no use.
    fn charge(&self, publisher: Key, took: Duration) {
        if let Some(Presence::Online { about, .. }) = self.clients.get(&publisher).map(|c| &c.presence) {
            about.costly_us.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// For the first member that is here and has room; if there is none, for the first; always one that may read it.
    fn queue_for_one(&mut self, members: &[(Key, Options)], message: &Arc<Publish>) {
        let may = |c: &Client| self.may_read(c, &message.topic);
        let here = |(key, _): &&(Key, Options)| {
            self.clients.get(key).is_some_and(|c| {
                matches!(c.presence, Presence::Online { .. }) && c.queue.has_room() && may(c)
            })
        };
        let any = |(key, _): &&(Key, Options)| self.clients.get(key).is_some_and(may);
        if let Some(member) = members.iter().find(here).or_else(|| members.iter().find(any)) {
            self.queue(member.0, std::slice::from_ref(member), message);
        }
    }

    pub(super) fn may_retain(&self, topic: &str) -> bool {
        // Most topics differ from these filters in their first letters.
        let alike = |n: usize, filter: &str| topic.as_bytes().get(..n) == filter.as_bytes().get(..n);
        !self.never_retain.iter().any(|(n, filter)| alike(*n, filter) && topic::matches(filter, topic))
    }

    fn queue(&mut self, key: Key, subscriptions: &[(Key, Options)], message: &Arc<Publish>) {
        let Some(client) = self.clients.get(&key) else { return };
        let local = matches!(client.presence, Presence::Local);
        let wanted = subscriptions.iter().map(|(_, o)| o.qos).max().unwrap_or(0);
        let qos = message.qos.min(wanted);
        if (qos == 0 && matches!(client.presence, Presence::Away { .. }))
            || !self.may_read(client, &message.topic)
        {
            return;
        }
        let as_published = local || subscriptions.iter().any(|(_, o)| o.as_published);
        let ids: Vec<u32> = subscriptions.iter().filter_map(|(_, o)| o.id).collect();
        let ids = (!ids.is_empty()).then(|| ids.into());
        let addressed = Addressed::new(message.clone(), qos, as_published && message.retain, ids);
        if client.kept && qos > 0 {
            return self.keeping.push((key, addressed));
        }
        if client.queue.offer(Item::Message(addressed)) {
            Counters::add(&self.counters.messages_out, 1);
        } else if local && client.queue.is_closed() {
            self.end(key);
        } else {
            Counters::add(&self.counters.dropped, 1);
        }
    }

    pub(super) fn subscribe(&mut self, s: Subscribing) {
        let mut codes = Vec::with_capacity(s.wishes.len());
        let (mut walks, mut changed) = (Vec::new(), Vec::new());
        let Some(client) = self.clients.get_mut(&s.ack.key) else { return };
        for wish in s.wishes {
            let wish = match wish {
                Ok(wish) => wish,
                Err(code) => {
                    codes.push(code);
                    continue;
                }
            };
            let known = client.filters.contains_key(wish.filter.as_str());
            let cost = if known { 0 } else { filter_cost(&wish.filter) };
            let limits = &self.limits;
            if !known
                && (client.filters.len() >= limits.subscriptions
                    || client.filter_bytes + cost > limits.filter_bytes
                    || self.filter_bytes + cost > limits.filter_bytes_total)
            {
                self.counters.refuse(Refusal::Limit);
                codes.push(reason::QUOTA_EXCEEDED);
                continue;
            }
            let options = Options {
                qos: wish.qos,
                no_local: wish.no_local,
                as_published: wish.retain_as_published,
                id: s.subscription_id,
            };
            let filter: Arc<str> = wish.filter.into();
            client.filters.insert(filter.clone(), options);
            client.filter_bytes += cost;
            self.filter_bytes += cost;
            changed.push((filter.clone(), Some(options)));
            codes.push(wish.qos);
            if let Some((_, inner)) = shared::parse(&filter) {
                // A shared subscription is sent no retained messages (§4.8.2).
                self.next += 1;
                if let Some(group) = self.groups.join(&filter, s.ack.key, options, self.next) {
                    self.trie.insert(inner, group, options);
                }
                continue;
            }
            self.trie.insert(&filter, s.ack.key, options);
            if wish.retain_handling == 0 || (wish.retain_handling == 1 && !known) {
                let cursor = Cursor::new(filter, self.number);
                walks.push(Walk { cursor, qos: wish.qos, id: s.subscription_id, seq: 0 });
            }
        }
        self.count_subscriptions();
        // First the answer, then what it brings: connections read what they are told before their queue.
        let (walks, after) = self.note_filters(s.ack.key, changed, walks);
        self.tell(s.ack, Control::SubAck { id: s.ack.id, codes, after });
        self.walk(s.ack.key, walks);
    }

    /// Queues walks over the retained messages. No walk if there is nothing to find: it costs a round trip.
    fn walk(&mut self, key: Key, walks: Vec<Walk>) {
        let Some(client) = self.clients.get(&key) else { return };
        if self.retained.len() == 0 {
            return;
        }
        for walk in walks {
            let seq = walk.seq;
            if !client.queue.offer(Item::Retained(Box::new(walk))) {
                Counters::add(&self.counters.dropped, 1);
                self.note_over(key, seq);
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, ack: AckTo, filters: &[String]) {
        let mut codes = Vec::with_capacity(filters.len());
        let mut changed = Vec::new();
        for filter in filters {
            let client = self.clients.get_mut(&ack.key);
            let was = client.is_some_and(|c| {
                let was = c.filters.remove(filter.as_str()).is_some();
                c.filter_bytes -= if was { filter_cost(filter) } else { 0 };
                was
            });
            if was {
                self.filter_bytes -= filter_cost(filter);
                self.forget(filter, ack.key);
                changed.push((filter.as_str().into(), None));
            }
            codes.push(if was { reason::SUCCESS } else { reason::NO_SUBSCRIPTION_EXISTED });
        }
        self.count_subscriptions();
        let (_, after) = self.note_filters(ack.key, changed, Vec::new());
        self.tell(ack, Control::UnsubAck { id: ack.id, codes, after });
    }

    /// Takes a subscription out of the trie, or its client out of the group.
    pub(super) fn forget(&mut self, filter: &str, key: Key) {
        match shared::parse(filter) {
            None => drop(self.trie.remove(filter, key)),
            Some((_, inner)) => {
                if let (_, Some(group)) = self.groups.leave(filter, key) {
                    self.trie.remove(inner, group);
                }
            }
        }
    }

    pub(super) fn portion(&mut self, key: Key, walk: &Walk) -> Portion {
        let mut portion = self.retained.portion(walk.cursor.clone(), Instant::now());
        if let Some(client) = self.clients.get(&key) {
            portion.messages.retain(|m| self.may_read(client, &m.topic));
        }
        self.note_portion(key, walk, &mut portion);
        portion
    }

    pub(super) fn local(
        &mut self,
        name: &str,
        filters: Vec<String>,
        reply: oneshot::Sender<(Key, queue::Receiver)>,
    ) {
        let key = self.fresh();
        let (tx, rx) = queue::new(&self.limits, &self.queued);
        let options = Options { qos: 2, no_local: false, as_published: true, id: None };
        let mut walks = Vec::new();
        let mut client = Client::new(name.into(), tx, Presence::Local);
        for filter in filters {
            let filter: Arc<str> = filter.into();
            self.trie.insert(&filter, key, options);
            client.filters.insert(filter.clone(), options);
            walks.push(Walk { cursor: Cursor::new(filter, self.number), qos: 2, id: None, seq: 0 });
        }
        self.clients.insert(key, client);
        self.count_subscriptions();
        self.walk(key, walks);
        if reply.send((key, rx)).is_err() {
            self.end(key);
        }
    }

    pub(super) fn snapshot(&mut self, filter: &str) -> Vec<Message> {
        let mut found = Vec::new();
        let mut cursor = Some(Cursor::new(filter.into(), u64::MAX));
        while let Some(at) = cursor {
            let portion = self.retained.portion(at, Instant::now());
            found.extend(portion.messages.iter().map(|m| m.to_message(true)));
            cursor = portion.next;
        }
        found
    }
}
