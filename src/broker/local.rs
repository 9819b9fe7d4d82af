//! Subscribing from inside the process, without a socket; and clients on streams that are none.
//!
//! A subscriber gets the retained messages of its filters first, all of them, then what is published. If
//! it reads too slowly its bounded queue fills and messages are dropped for it, counted. Once it has
//! emptied the queue it is given the retained messages of its filters again: a mirror of status topics
//! is therefore right again after a burst, whatever it missed, and one that wants every event sees
//! from the counter that it missed some.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::Broker;
use super::greet;
use super::listener::Door;
use super::queue::{Item, Lagged, Receiver, Walk};
use super::retained::{Cursor, Portion};
use super::state::Event;
use super::trie::Key;
use crate::config::model::{Listener, Transport};
use crate::message::Message;

/// A subscription of this process. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    key: Key,
    queue: Receiver,
    events: mpsc::Sender<Event>,
    filters: Vec<Arc<str>>,
    /// Walks still to be done, the current one first.
    walks: VecDeque<Cursor>,
    asked: Option<oneshot::Receiver<Portion>>,
    portion: VecDeque<Message>,
    lags: u64,
}

impl Subscription {
    pub(super) fn new(
        key: Key,
        queue: Receiver,
        events: mpsc::Sender<Event>,
        filters: Vec<Arc<str>>,
    ) -> Self {
        Self {
            key,
            queue,
            events,
            filters,
            walks: VecDeque::new(),
            asked: None,
            portion: VecDeque::new(),
            lags: 0,
        }
    }

    /// The next message; `None`: the broker has stopped. `retain` is the publisher's flag, or set because
    /// it is a retained message. Cancel safe.
    pub async fn recv(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.portion.pop_front() {
                return Some(message);
            }
            if let Some(asked) = &mut self.asked {
                let portion = asked.await.ok();
                self.asked = None;
                self.walks.pop_front();
                let portion = portion?;
                self.portion.extend(portion.messages.iter().map(|m| m.to_message(true)));
                if let Some(next) = portion.next {
                    self.walks.push_front(next);
                }
                continue;
            }
            if let Some(walk) = self.walks.front() {
                let permit = self.events.reserve().await.ok()?;
                let (reply, portion) = oneshot::channel();
                let walk = Walk { cursor: walk.clone(), qos: 2, id: None, seq: 0 };
                permit.send(Event::More(self.key, walk, reply));
                self.asked = Some(portion);
                continue;
            }
            match self.queue.recv_or_lagged().await {
                Ok(Some(Item::Message(a))) => return Some(a.message.to_message(a.retain)),
                Ok(Some(Item::Retained(walk))) => self.walks.push_back(walk.cursor),
                Ok(None) => return None,
                Err(Lagged) => {
                    self.lags += 1;
                    let anew = |filter: &Arc<str>| Cursor::new(filter.clone(), u64::MAX);
                    self.walks.extend(self.filters.iter().map(anew));
                }
            }
        }
    }

    /// How often the queue was full, and the retained messages were given again.
    #[must_use]
    pub fn lags(&self) -> u64 {
        self.lags
    }
}

impl Broker {
    /// Serves the client on a stream, as if it had come to a listener on loopback, until one of both ends it. It takes nobody's
    /// place, and a fault of ours is not caught: for a program, or a test, that brings its own bytes.
    pub async fn serve(&self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let shared = self.inner.shared.clone();
        let here = ([127, 0, 0, 1], 0).into();
        let config = Listener {
            bind: here,
            transport: Transport::Tcp,
            tls: None,
            allow_anonymous: None,
            password_file: None,
            acl_file: None,
        };
        let (_, tls) = watch::channel(None);
        let access = self.inner.access.subscribe();
        let door = Arc::new(Door { config, access, tls, stop: shared.stop.child_token() });
        let (number, deadline) = (shared.fresh(), Instant::now() + shared.limits.connect_deadline);
        Box::pin(greet::greet(shared, door, Box::new(io), (here, None), number, deadline)).await;
    }
}
