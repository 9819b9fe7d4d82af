//! How clients come, are taken over, go, and end; and their wills.
//!
//! A take-over waits until the old connection has given its session back, which it does at once: it
//! never waits for its socket. Whoever comes meanwhile with the same id waits in line and gets its
//! CONNACK too.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::keeping::Along;
use super::message::Publish;
use super::pipe;
use super::queue;
use super::session::{BEGUN, Session};
use super::state::{AckTo, Attached, Client, Connecting, Control, Detached, Ended, Presence, State, Will};
use super::stats::{Counters, Refusal};
use super::trie::Key;
use super::wire::reason;
use crate::bounds;

const FOR_EVER: u32 = u32::MAX;
/// Bytes of a will, or a client id, that is counted.
const LARGE: usize = 4096;

impl State {
    pub(super) fn connect(&mut self, c: Box<Connecting>) {
        if Self::is_too_late(&c) {
            // Without an answer it is told to come again.
            return;
        }
        if !self.has_room_for(&c) {
            self.counters.refuse(Refusal::Limit);
            // Without an answer the client is told that there is no place.
            return;
        }
        let Some(&key) = self.ids.get(&c.client_id) else { return self.create(*c) };
        let Some(client) = self.clients.get_mut(&key) else { return self.create(*c) };
        match &mut client.presence {
            Presence::Online { control, waiting, .. } => {
                let _ = control.try_send(Control::Stop(reason::TAKEN_OVER));
                waiting.push_back(c);
            }
            // (Of a clean client of before a restart there is only its will.)
            Presence::Away { .. } if !c.clean && client.expiry > 0 => self.resume(key, *c),
            _ => {
                self.end(key);
                self.create(*c);
            }
        }
    }

    /// Small wills and client ids are bounded by the number of sessions; the large ones are counted when another one comes.
    fn has_room_for(&self, c: &Connecting) -> bool {
        let large = |size: usize| if size > LARGE { size } else { 0 };
        let of = |id: &str, will: &Option<Will>| {
            large(id.len()) + large(will.as_ref().map_or(0, |will| will.message.size()))
        };
        let new = of(&c.client_id, &c.will);
        let others = self.clients.values().filter(|other| other.id != c.client_id);
        new == 0
            || others.map(|other| of(&other.id, &other.will)).sum::<usize>() + new <= self.limits.will_bytes
    }

    fn create(&mut self, c: Connecting) {
        let key = self.fresh();
        let (tx, rx) = queue::new(&self.limits, &self.queued);
        self.ids.insert(c.client_id.clone(), key);
        let kept = self.keeps(c.expiry);
        self.clients.insert(key, Client { kept, ..Client::new(c.client_id.clone(), tx, Presence::Local) });
        let session = Session::empty(key, c.client_id.clone(), rx, kept);
        self.attach(key, c, session, false);
    }

    fn resume(&mut self, key: Key, c: Connecting) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        // Of before a restart, and its time has come: it was put off, not taken back.
        let due = client.will.take_if(|will| will.delay == 0);
        self.fire(key, due);
        let Some(client) = self.clients.get_mut(&key) else { return };
        match std::mem::replace(&mut client.presence, Presence::Local) {
            Presence::Away { session, since, ends, will_at, .. } => {
                self.away.remove(&since);
                for at in [ends, will_at].into_iter().flatten() {
                    self.deadlines.remove(&(at, key));
                }
                self.attach(key, c, session, true);
            }
            other => client.presence = other,
        }
    }

    fn attach(&mut self, key: Key, c: Connecting, mut session: Box<Session>, present: bool) {
        let (kept, no_more) = (session.kept, session.kept && !self.keeps(c.expiry));
        let Some(client) = self.clients.get_mut(&key) else { return };
        let access = c.about.door.access.borrow().clone();
        let was = (client.access.replace(access), std::mem::replace(&mut client.user, c.user));
        client.will = c.will.map(|will| Will { message: Publish { from: key, ..will.message }, ..will });
        client.expiry = c.expiry;
        client.presence =
            Presence::Online { conn: c.conn, about: c.about, control: c.control, waiting: VecDeque::new() };
        if present {
            self.judge_again(key, &mut session, was);
        }
        let Some(client) = self.clients.get_mut(&key) else { return };
        if no_more {
            // From now on it ends with its connection.
            (session.kept, client.kept) = (false, false);
            self.note_end(key, true);
        } else if kept {
            self.note_session(key, session.flight.last_place(), false);
        }
        self.note_will(key);
        self.counters.clients.fetch_add(1, Relaxed);
        self.counters.logins.fetch_add(1, Relaxed);
        Counters::set(&self.counters.sessions_away, self.away.len());
        if let Err(Attached { session, .. }) = c.reply.send(Attached { session, present }) {
            // It went away while it waited, before any CONNACK: as if it had not been.
            let (_, unheard) = pipe::channel(bounds::BROKER_CONTROL);
            self.detach(Detached { conn: c.conn, session, end: Ended::Goodbye, expiry: None, unheard });
        }
    }

    pub(super) fn detach(&mut self, mut d: Detached) {
        while let Ok(said) = d.unheard.try_recv() {
            let Control::Routed { id, qos: 2, after, .. } = said else { continue };
            // Its answer was on the way: said again it is a repeat.
            if let Some(group) = d.session.taken.get_mut(&id) {
                let ack = AckTo { key: d.session.key, conn: d.conn, id };
                *group = if *group == BEGUN { self.note_taken(ack).max(after) } else { after };
            }
        }
        let key = d.session.key;
        let Some(waiting) = self.offline(key, d.conn) else { return };
        let Some(client) = self.clients.get_mut(&key) else { return };
        if let Some(expiry) = d.expiry {
            client.expiry = expiry;
        }
        if d.end == Ended::Goodbye {
            client.will = None;
        }
        let now = Instant::now();
        let expiry = client.expiry;
        let after = |seconds: u32| now + Duration::from_secs(u64::from(seconds));
        let stopped = d.end == Ended::Stopped;
        // The next start finds it, and publishes it when the client has had its time to come back (§3.1.2.5).
        let put_off = stopped && self.journal.is_some();
        if put_off && expiry == 0 {
            (client.will, client.willed) = (None, false);
        }
        let delayed =
            client.will.as_ref().filter(|w| w.delay > 0 && expiry > 0 && !stopped).map(|w| after(w.delay));
        let at_once = if delayed.is_none() && !put_off { client.will.take() } else { None };
        let ends = (expiry != FOR_EVER).then(|| after(expiry));
        let since = self.fresh();
        let sent = d.session.flight.last_place();
        if let Some(client) = self.clients.get_mut(&key) {
            client.presence = Presence::Away { session: d.session, left: now, since, ends, will_at: delayed };
        }
        self.away.insert(since, key);
        for at in [ends, delayed].into_iter().flatten() {
            self.deadlines.insert((at, key));
        }
        if self.clients.get(&key).is_some_and(|client| client.unnoted) {
            self.note_contents(key);
        }
        let fired = at_once.is_some();
        self.fire(key, at_once);
        if expiry == 0 {
            self.end(key);
        } else if !fired {
            self.note_session(key, sent, false);
        }
        if self.away.len() > self.limits.sessions_away
            && let Some(one) = self.one_too_many()
        {
            let user = self.clients.get(&one).and_then(|client| client.user.as_deref());
            let limit = self.limits.sessions_away;
            tracing::warn!(
                limit,
                user,
                "too many sessions of clients that are away; the oldest of the user who has most is forgotten"
            );
            self.end(one);
        }
        Counters::set(&self.counters.sessions_away, self.away.len());
        waiting.into_iter().for_each(|c| self.connect(c));
    }

    /// Whose session goes where too many are away: of the user who has most, the longest away. Nobody costs another one theirs.
    fn one_too_many(&self) -> Option<Key> {
        let user = |key: &Key| self.clients.get(key).and_then(|client| client.user.as_deref());
        let mut sessions: HashMap<Option<&str>, usize> = HashMap::new();
        for key in self.away.values() {
            *sessions.entry(user(key)).or_default() += 1;
        }
        let most = sessions.values().max();
        self.away.values().find(|key| sessions.get(&user(key)) == most).copied()
    }

    /// A connection ended by a fault of ours: its session is lost, its will fires.
    pub(super) fn panicked(&mut self, conn: u64) {
        Counters::add(&self.counters.panics, 1);
        let of = |p: &Presence| matches!(p, Presence::Online { conn: c, .. } if *c == conn);
        let Some(key) = self.clients.iter().find(|(_, c)| of(&c.presence)).map(|(key, _)| *key) else {
            return;
        };
        let waiting = self.offline(key, conn).unwrap_or_default();
        self.end(key);
        waiting.into_iter().for_each(|c| self.connect(c));
    }

    /// Takes a client from its connection; who waits for it. `None`: it is not on this connection.
    fn offline(&mut self, key: Key, conn: u64) -> Option<VecDeque<Box<Connecting>>> {
        match &mut self.clients.get_mut(&key)?.presence {
            Presence::Online { conn: current, waiting, .. } if *current == conn => {
                self.counters.clients.fetch_sub(1, Relaxed);
                Some(std::mem::take(waiting))
            }
            _ => None,
        }
    }

    /// Ends a session for good: a will that still waits fires now (MQTT-3.1.2-10 and §3.1.3.2.2).
    pub(super) fn end(&mut self, key: Key) {
        let Some(mut client) = self.clients.remove(&key) else { return };
        if client.will.as_ref().is_some_and(|will| !self.may_say(&client, will)) {
            self.counters.refuse(Refusal::Access);
            client.will = None;
        }
        for filter in client.filters.keys() {
            self.forget(filter, key);
        }
        let noted = client.kept || client.willed;
        if noted && client.will.is_none() {
            self.note_end(key, client.kept);
        }
        self.filter_bytes -= client.filter_bytes;
        self.handed.retain(|(of, _), _| *of != key);
        if let Presence::Away { since, ends, will_at, .. } = client.presence {
            self.away.remove(&since);
            for at in [ends, will_at].into_iter().flatten() {
                self.deadlines.remove(&(at, key));
            }
        }
        if self.ids.get(&client.id) == Some(&key) {
            self.ids.remove(&client.id);
        }
        // What a crowd made large does not stay so: a thousand clients are more than half a megabyte of places.
        if self.clients.capacity() > 8 * self.clients.len().max(16) {
            self.clients.shrink_to(2 * self.clients.len());
            self.ids.shrink_to(2 * self.ids.len());
        }
        self.count_subscriptions();
        Counters::set(&self.counters.sessions_away, self.away.len());
        self.publish_will(noted.then_some(Along::End(key)), client.will);
        if let Some(journal) = self.journal.as_ref().filter(|_| client.kept) {
            // Not to be found again by a start that comes soon.
            let _ = journal.fence();
        }
    }

    /// Publishes a will that the client has no more.
    fn fire(&mut self, key: Key, will: Option<Will>) {
        let Some(will) = will else { return };
        let along = self.without_will(key);
        if self.clients.get(&key).is_none_or(|client| self.may_say(client, &will)) {
            return self.publish_will(along, Some(will));
        }
        self.counters.refuse(Refusal::Access);
        if let (Some(journal), Some(along)) = (&self.journal, along) {
            journal.note(false, |pending| along.note(pending));
        }
    }

    fn publish_will(&mut self, along: Option<Along>, will: Option<Will>) {
        if let Some(Will { mut message, expiry, .. }) = will {
            message.expires = expiry.map(|s| Instant::now() + Duration::from_secs(u64::from(s)));
            self.along = along;
            self.route_own(message, true);
        }
    }

    /// Wills and ends whose time has come; when to call again.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Instant> {
        while let Some(&(at, key)) = self.deadlines.first() {
            if at > now {
                return Some(at);
            }
            self.deadlines.pop_first();
            let Some(client) = self.clients.get_mut(&key) else { continue };
            let Presence::Away { ends, will_at, .. } = &mut client.presence else { continue };
            let over = ends.is_some_and(|at| at <= now);
            if over {
                // With it goes a will that still waits.
                Counters::add(&self.counters.sessions_ended, usize::from(client.expiry > 0));
                self.end(key);
            } else if will_at.is_some_and(|at| at <= now) {
                *will_at = None;
                let will = client.will.take();
                self.fire(key, will);
            }
        }
        None
    }

    /// Ids for clients that bring none.
    #[must_use]
    pub(super) fn made_up_id() -> Arc<str> {
        format!("auto-{:016x}", fastrand::u64(..)).into()
    }
}
