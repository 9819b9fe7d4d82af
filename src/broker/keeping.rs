//! What of the hub's decisions outlives the process, and how it is noted: before it is queued for anybody, so that nothing
//! can be acknowledged of which the journal has not heard.
//!
//! Kept are the sessions of clients whose session outlives their connection, with what waits for them in QoS 1 and 2, and
//! retained messages of others than this process. See `journal` for who waits for what.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use super::Inner;
use super::handing;
use super::journal::codec::{Row, Was};
use super::journal::{ALIVE, Journal, Pending, Persistence, What};
use super::message::Publish;
use super::queue::{Addressed, Item, Walk};
use super::retained::Portion;
use super::session::BEGUN;
use super::state::{AckTo, By, Client, Event, Options, Presence, State};
use super::stats::Counters;
use super::trie::Key;
use crate::message::Standing;

/// What a will that is published takes along.
#[derive(Debug)]
pub(super) enum Along {
    /// All that was kept of its client goes.
    End(Key),
    /// Its session is this now.
    Row(Key, Box<Row>),
}

impl Along {
    pub(super) fn note(self, pending: &mut Pending) {
        match self {
            Self::End(key) => pending.drop_session(key),
            Self::Row(key, row) => pending.row(key, *row),
        }
    }
}

impl State {
    /// Takes in what was kept, and keeps from now on.
    pub(super) async fn keep(&mut self, persistence: Persistence) -> Journal {
        let logged = persistence.logged;
        let (journal, kept) = Journal::start(persistence, Arc::clone(&self.counters)).await;
        self.journal = Some(journal.clone());
        match kept {
            Ok(kept) => self.restore(kept, logged, &journal.now()),
            Err(why) => {
                tracing::error!(why, "what was kept of sessions and retained messages cannot be read")
            }
        }
        journal
    }

    /// Whether a session that outlives its connection by so many seconds outlives the process.
    pub(super) fn keeps(&self, expiry: u32) -> bool {
        expiry > 0 && self.journal.is_some()
    }

    /// Notes what is to be kept of a routed message, all in one group, and queues it for those whose queue it is kept in.
    /// The group, or 0 if there was nothing.
    pub(super) fn note_routed(&mut self, message: &Arc<Publish>, by: By, stored: bool) -> u64 {
        let (gone, along) = (self.retained.take_gone(), self.along.take());
        // Whoever keeps it or not: the log waits for that.
        let begun = matches!(by.id, Some(Standing::Begun(Some(_))));
        if self.keeping.is_empty() && !stored && !begun && gone.is_empty() && along.is_none() {
            return 0;
        }
        let mut keeping = std::mem::take(&mut self.keeping);
        let Some(journal) = self.journal.clone() else { return 0 };
        keeping.retain_mut(|(key, addressed)| {
            let Some(client) = self.clients.get_mut(key) else { return false };
            if client.queue.fits(&Item::Message(addressed.clone())) {
                client.seq += 1;
                addressed.seq = client.seq;
                return true;
            }
            client.queue.lost();
            Counters::add(&self.counters.dropped, 1);
            false
        });
        if keeping.is_empty() && !stored && !begun && gone.is_empty() && along.is_none() {
            self.keeping = keeping;
            return 0;
        }
        let id = by.ack.zip(by.id).filter(|(ack, _)| self.is_kept(ack.key));
        // Who is sent it with QoS 2 is sent it when it is kept.
        let urgent = by.ack.is_some() || keeping.iter().any(|(_, a)| a.qos == 2);
        let number = self.number;
        let (group, ()) = journal.note(urgent, |pending| {
            gone.into_iter().for_each(|topic| pending.retain(topic, None));
            if stored {
                pending.retain(message.topic.clone(), Some(message.clone()));
            }
            for (key, addressed) in &keeping {
                pending.put(*key, addressed.seq, What::Message(addressed.clone(), number));
            }
            if let Some((ack, standing)) = id {
                pending.id(ack.key, ack.id, standing);
            }
            along.into_iter().for_each(|along| along.note(pending));
        });
        for (key, mut addressed) in keeping.drain(..) {
            addressed.after = group;
            let Some(client) = self.clients.get(&key) else { continue };
            if client.queue.offer(Item::Message(addressed)) {
                Counters::add(&self.counters.messages_out, 1);
            }
        }
        self.keeping = keeping;
        group
    }

    pub(super) fn is_kept(&self, key: Key) -> bool {
        self.clients.get(&key).is_some_and(|client| client.kept)
    }

    /// The journal, if this session is kept in it.
    fn journal_of(&self, key: Key) -> Option<&Journal> {
        self.journal.as_ref().filter(|_| self.is_kept(key))
    }

    /// A packet id of a client is taken; the group that says so, or 0.
    pub(super) fn note_taken(&self, ack: AckTo) -> u64 {
        self.note_id(ack, Standing::Taken)
    }

    /// A packet id of a client stands so; the group that says so, or 0.
    pub(super) fn note_id(&self, ack: AckTo, standing: Standing) -> u64 {
        let Some(journal) = self.journal_of(ack.key) else { return 0 };
        journal.note(true, |pending| pending.id(ack.key, ack.id, standing)).0
    }

    /// What is at this place of a session is over.
    pub(super) fn note_over(&self, key: Key, seq: u64) {
        if let Some(journal) = self.journal_of(key).filter(|_| seq > 0) {
            journal.note(false, |pending| pending.remove(key, seq));
        }
    }

    /// Subscriptions changed, and walks follow from it: these with their places, and the group that has it all, or 0.
    pub(super) fn note_filters(
        &mut self,
        key: Key,
        changed: Vec<(Arc<str>, Option<Options>)>,
        mut walks: Vec<Walk>,
    ) -> (Vec<Walk>, u64) {
        if changed.is_empty() || !self.is_kept(key) {
            return (walks, 0);
        }
        let (Some(journal), Some(client)) = (&self.journal, self.clients.get_mut(&key)) else {
            return (walks, 0);
        };
        if self.retained.len() > 0 {
            for walk in walks.iter_mut().filter(|walk| walk.qos > 0) {
                client.seq += 1;
                walk.seq = client.seq;
            }
        }
        let (group, ()) = journal.note(true, |pending| {
            for (filter, options) in changed {
                pending.filter(key, filter, options);
            }
            for walk in walks.iter().filter(|walk| walk.seq > 0) {
                pending.put(key, walk.seq, What::Walk(walk.clone()));
            }
        });
        (walks, group)
    }

    /// A portion of a walk that is kept: its messages get places, and the walk stands behind them.
    pub(super) fn note_portion(&mut self, key: Key, walk: &Walk, portion: &mut Portion) {
        let gone = self.retained.take_gone();
        let places = portion.messages.len() as u64;
        let kept = walk.seq > 0 && self.is_kept(key);
        let Some(journal) = &self.journal else { return };
        if kept && let Some(client) = self.clients.get_mut(&key) {
            portion.first = client.seq + 1;
            client.seq += places;
        }
        let (first, bodies) = (portion.first, self.number + 1);
        if !kept && gone.is_empty() {
            return;
        }
        self.number += places;
        let ids: Option<Box<[u32]>> = walk.id.map(|id| [id].into());
        let (group, ()) = journal.note(walk.qos == 2, |pending| {
            gone.into_iter().for_each(|topic| pending.retain(topic, None));
            if !kept {
                return;
            }
            for (n, message) in (0..).zip(&portion.messages).filter(|(_, m)| m.qos > 0) {
                let qos = message.qos.min(walk.qos);
                let addressed = Addressed::new(message.clone(), qos, true, ids.clone());
                let addressed = Addressed { seq: first + n, ..addressed };
                pending.put(key, first + n, What::Message(addressed, bodies + n));
            }
            match &portion.next {
                Some(cursor) => pending.moved(key, Walk { cursor: cursor.clone(), ..walk.clone() }),
                None => pending.remove(key, walk.seq),
            }
        });
        portion.after = group;
    }

    /// Nobody was there for this portion; the session's next connection asks for it again.
    pub(super) fn take_back(&self, key: Key, walk: Walk, portion: &Portion) {
        let Some(journal) = self.journal_of(key).filter(|_| portion.first > 0) else { return };
        journal.note(false, |pending| {
            for (n, _) in (0..).zip(&portion.messages).filter(|(_, m)| m.qos > 0) {
                pending.remove(key, portion.first + n);
            }
            pending.moved(key, walk);
        });
    }

    /// A session as it is now. `sent`: the last place that is in flight.
    pub(super) fn note_session(&self, key: Key, sent: u64, urgent: bool) {
        let Some(journal) = self.journal_of(key) else { return };
        let Some(client) = self.clients.get(&key) else { return };
        let row = row(client, sent, journal);
        journal.note(urgent, |pending| pending.row(key, row));
    }

    /// A client that has a will is connected, and its session ends with the connection: all that is kept of it is the will. Nobody
    /// waits for that, nor for its end: what becomes of a will in the moments around a crash no client can know.
    pub(super) fn note_will(&mut self, key: Key) {
        let Some(journal) = &self.journal else { return };
        let Some(client) = self.clients.get_mut(&key) else { return };
        client.willed = !client.kept && client.will.is_some();
        if client.willed {
            let row = row(client, 0, journal);
            journal.note(false, |pending| pending.will(key, row));
        }
    }

    /// What is to be noted with a will that is published: that there is none any more. In one group with it, so that no kill
    /// publishes it twice, and none loses it.
    pub(super) fn without_will(&self, key: Key) -> Option<Along> {
        let (journal, client) = (self.journal.as_ref()?, self.clients.get(&key)?);
        let sent = match &client.presence {
            Presence::Away { session, .. } => session.flight.last_place(),
            _ => 0,
        };
        match client.kept {
            true => Some(Along::Row(key, Box::new(row(client, sent, journal)))),
            false => client.willed.then_some(Along::End(key)),
        }
    }

    /// A session is over, or is not to be kept any more.
    pub(super) fn note_end(&self, key: Key, urgent: bool) {
        if let Some(journal) = &self.journal {
            journal.note(urgent, |pending| pending.drop_session(key));
        }
    }

    /// Notes all sessions and retained messages, for the journal has begun anew. What is under way to a client that is connected
    /// is noted when that one has left.
    pub(super) fn note_all(&mut self) {
        let kept: Vec<Key> = self.clients.iter().filter(|(_, c)| c.kept).map(|(key, _)| *key).collect();
        kept.into_iter().for_each(|key| self.note_contents(key));
        let Some(journal) = &self.journal else { return };
        for (key, client) in self.clients.iter().filter(|(_, client)| client.kept || client.willed) {
            let sent = match &client.presence {
                Presence::Away { session, .. } => session.flight.last_place(),
                _ => 0,
            };
            let row = row(client, sent, journal);
            journal.note(false, |pending| {
                pending.row(*key, row);
                for (filter, options) in client.filters.iter().filter(|_| client.kept) {
                    pending.filter(*key, filter.clone(), Some(*options));
                }
            });
        }
        journal.note(false, |pending| {
            for message in self.retained.stored() {
                pending.retain(message.topic.clone(), Some(message.clone()));
            }
        });
    }
}

impl State {
    /// Notes again what waits for a session, and what is in flight, if the session is at hand.
    pub(super) fn note_contents(&mut self, key: Key) {
        let (Some(journal), Some(client)) = (&self.journal, self.clients.get_mut(&key)) else { return };
        let Presence::Away { session, .. } = &mut client.presence else {
            client.unnoted = true;
            return;
        };
        client.unnoted = false;
        // Out of the queue and into it again: nobody else has an end of it now, so all of it fits.
        let waiting: Vec<Item> = std::iter::from_fn(|| session.queue.try_recv()).collect();
        let (number, handed) = (&mut self.number, &self.handed);
        let mut message = |addressed: &Addressed| {
            *number += 1;
            What::Message(addressed.clone(), *number)
        };
        journal.note(false, |pending| {
            for sent in session.flight.resend().filter(|sent| sent.seq > 0) {
                let what = match &sent.message {
                    Some(addressed) => message(addressed),
                    // All that is left of it is its place: the receiver has it.
                    None => {
                        message(&Addressed::new(Arc::new(Publish::plain("", "", 2, false)), 2, false, None))
                    }
                };
                pending.again(key, sent.seq, what, sent.message.is_none());
            }
            for addressed in session.portion.iter().filter(|a| a.seq > 0) {
                pending.again(key, addressed.seq, message(addressed), false);
            }
            if let Some(walk) = session.walk.as_ref().filter(|walk| walk.seq > 0) {
                pending.again(key, walk.seq, What::Walk(walk.clone()), false);
            }
            for item in &waiting {
                match item {
                    Item::Message(a) if a.seq > 0 => pending.again(key, a.seq, message(a), false),
                    Item::Retained(walk) if walk.seq > 0 => {
                        pending.again(key, walk.seq, What::Walk(walk.as_ref().clone()), false);
                    }
                    Item::Message(_) | Item::Retained(_) => {}
                }
            }
            for (id, group) in &session.taken {
                let standing = match *group {
                    BEGUN => Standing::Begun(handing::docket_of(handed, (key, *id))),
                    _ => Standing::Taken,
                };
                pending.id(key, *id, standing);
            }
        });
        for item in waiting {
            let _always = client.queue.restore(item);
        }
    }
}

fn row(client: &Client, sent: u64, journal: &Journal) -> Row {
    let mut left = journal.now().moment;
    if let Presence::Away { left: at, .. } = &client.presence {
        let ago =
            u64::try_from(Instant::now().saturating_duration_since(*at).as_millis()).unwrap_or(u64::MAX);
        left = left.earlier(ago);
    }
    Row {
        client_id: client.id.clone(),
        user: client.user.clone(),
        expiry: client.expiry,
        was: match &client.presence {
            // Who is away waits for its will, unless it was put off.
            Presence::Away { will_at: None, .. } if client.will.is_some() => Was::Stopped,
            Presence::Away { .. } => Was::Away,
            Presence::Online { .. } | Presence::Local => Was::Connected,
        },
        left,
        sent,
        will: client.will.clone(),
    }
}

/// Looks after the journal until the broker is gone. It holds none: a broker that nobody holds any more stops.
pub(super) async fn watch(broker: Weak<Inner>) {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut alive = Instant::now();
    loop {
        second.tick().await;
        let Some(inner) = broker.upgrade() else { return };
        let Some(journal) = &inner.shared.journal else { return };
        journal.look(Instant::now());
        if alive.elapsed() >= ALIVE / 2 && inner.shared.counters.clients.load(Relaxed) > 0 {
            alive = Instant::now();
            journal.note(false, |pending| pending.mark = true);
        }
        if journal.wants_all() {
            let _ = inner.local.send(Event::NoteAll).await;
        }
    }
}
