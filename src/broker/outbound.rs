//! What goes out to a client: what is sent next, and the bytes that the socket has not taken yet.
//!
//! A client that reads slowly is sent nothing more until it has read; one that takes nothing for
//! [`super::Limits::write_deadline`] is disconnected. What is held for it counts with what is queued for all.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, Sleep, sleep};

use super::connection::Connection;
use super::greet::Io;
use super::queue::{Addressed, Item, Walk};
use super::retained::Portion;
use super::state::Event;
use super::stats::Counters;
use super::traffic::Way;
use super::wire::encode::{self, Delivery, Reply};
use super::wire::reason;

/// Unsent bytes above which nothing more is delivered.
const OUT_DELIVER: usize = 64 * 1024;
/// Unsent bytes that are not counted, and the grain in which the others are.
const GRAIN: usize = 4096;

/// Bytes that one connection holds, counted with those of all.
#[derive(Debug)]
pub(super) struct Held {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    pub fn new(total: &Arc<AtomicUsize>) -> Self {
        Self { total: total.clone(), bytes: 0 }
    }

    /// It holds so many now.
    pub fn set(&mut self, bytes: usize) {
        let bytes = bytes / GRAIN * GRAIN;
        if bytes > self.bytes {
            self.total.fetch_add(bytes - self.bytes, Relaxed);
        } else if bytes < self.bytes {
            self.total.fetch_sub(self.bytes - bytes, Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What was written and the socket has not taken.
pub(super) struct Outlet {
    io: WriteHalf<Box<dyn Io>>,
    /// The bytes.
    pub bytes: BytesMut,
    unflushed: bool,
    /// Runs while the socket takes nothing.
    blocked: Option<Pin<Box<Sleep>>>,
    deadline: Duration,
}

impl Outlet {
    pub fn new(io: WriteHalf<Box<dyn Io>>, bytes: BytesMut, deadline: Duration) -> Self {
        Self { io, bytes, unflushed: false, blocked: None, deadline }
    }

    /// There is something to write.
    pub fn is_busy(&self) -> bool {
        !self.bytes.is_empty() || self.unflushed
    }

    /// Writes what the socket takes, and flushes when all is written. Cancel safe: what was written is gone
    /// from `bytes`, and an unfinished flush is remembered.
    ///
    /// # Errors
    /// Those of the stream; `TimedOut` if it took nothing for too long.
    pub async fn write(&mut self, sent: &(impl Fn(usize) -> [(); 2] + Sync)) -> std::io::Result<()> {
        std::future::poll_fn(|cx| {
            while !self.bytes.is_empty() {
                match Pin::new(&mut self.io).poll_write(cx, &self.bytes) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(n)) => {
                        self.bytes.advance(n);
                        sent(n);
                        self.unflushed = true;
                        self.blocked = None;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return self.is_blocked(cx),
                }
            }
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(flushed) => {
                    self.unflushed = false;
                    self.blocked = None;
                    // A quiet client has no buffer.
                    self.bytes = BytesMut::new();
                    Poll::Ready(flushed)
                }
                Poll::Pending => self.is_blocked(cx),
            }
        })
        .await
    }

    fn is_blocked(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let deadline = self.deadline;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(deadline)));
        ready!(blocked.as_mut().poll(cx));
        Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()))
    }

    /// Writes the last words and closes.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn close(mut self) -> std::io::Result<()> {
        use tokio::io::AsyncWriteExt;
        self.io.write_all(&self.bytes).await?;
        self.io.shutdown().await
    }
}

impl Connection {
    /// More may be delivered: the client reads, has not all it takes at once, and if what waits for all clients is over
    /// its limit, nothing of this one waits here.
    pub(super) fn may_send(&self) -> bool {
        let (out, limits) = (self.out.bytes.len(), &self.shared.limits);
        out < OUT_DELIVER
            && self.session.flight.len() - self.again.len() < self.window
            && (out < GRAIN || self.shared.held.load(Relaxed) < limits.queue_bytes_total)
    }

    /// As `may_send`, and nothing else comes before what is queued.
    pub(super) fn may_take(&self) -> bool {
        self.session.walk.is_none()
            && self.session.portion.is_empty()
            && self.asked.is_none()
            && self.again.is_empty()
            && self.may_send()
    }

    /// Sends what may be sent now. `false`: the hub is gone.
    pub(super) async fn deliver(&mut self) -> bool {
        while self.may_send() {
            if let Some(id) = self.again.pop_front() {
                self.send_again(id);
            } else if let Some(addressed) = self.session.portion.pop_front() {
                self.send(addressed);
            } else if self.asked.is_some() {
                break;
            } else if let Some(walk) = self.session.walk.take() {
                let (reply, portion) = oneshot::channel();
                let event = Event::More(self.session.key, walk.cursor.clone(), reply);
                self.asked = Some((walk, portion));
                if self.shared.events.send(event).await.is_err() {
                    return false;
                }
            } else {
                match self.session.queue.try_recv() {
                    Some(item) => self.take(item),
                    None => break,
                }
            }
        }
        true
    }

    pub(super) fn take(&mut self, item: Item) {
        match item {
            Item::Message(addressed) => self.send(addressed),
            Item::Retained(walk) => self.session.walk = Some(walk),
        }
    }

    pub(super) fn received(&mut self, portion: Option<Portion>) {
        let Some((walk, _)) = self.asked.take() else { return };
        let Some(portion) = portion else { return };
        let ids: Option<Box<[u32]>> = walk.id.map(|id| [id].into());
        self.session.portion.extend(portion.messages.into_iter().map(|message| Addressed {
            qos: message.qos.min(walk.qos),
            message,
            retain: true,
            ids: ids.clone(),
        }));
        self.session.walk = portion.next.map(|cursor| Walk { cursor, ..walk });
    }

    fn send(&mut self, addressed: Addressed) {
        let now = Instant::now();
        if addressed.message.is_expired(now) {
            return Counters::add(&self.shared.counters.expired, 1);
        }
        let id = match addressed.qos {
            0 => 0,
            _ => match self.session.flight.send(addressed.clone()) {
                Some(id) => id,
                None => return Counters::add(&self.shared.counters.dropped, 1),
            },
        };
        if !self.put(&addressed, id, false, now) {
            // Larger than the client takes: to be treated as delivered (MQTT-3.1.2-25).
            self.session.flight.forget(id);
            Counters::add(&self.shared.counters.dropped, 1);
        }
    }

    fn send_again(&mut self, id: u16) {
        let Some(message) = self.session.flight.get(id) else { return };
        match message.clone() {
            Some(addressed) => drop(self.put(&addressed, id, true, Instant::now())),
            None => self.reply(Reply::Rel, id, reason::SUCCESS),
        }
    }

    fn put(&mut self, a: &Addressed, id: u16, dup: bool, now: Instant) -> bool {
        let start = self.out.bytes.len();
        let ids = a.ids.as_deref().unwrap_or(&[]);
        let delivery = Delivery { id, qos: a.qos, dup, retain: a.retain, subscription_ids: ids };
        encode::publish(&mut self.out.bytes, self.version, &a.message, &delivery, now);
        let fits = self.out.bytes.len() - start <= self.maximum_packet;
        if fits {
            self.both(|t| {
                t.packet(Way::Out);
                t.publish(Way::Out, a.message.payload.len());
            });
        } else {
            self.out.bytes.truncate(start);
        }
        fits
    }
}

/// The portion that was asked for.
pub(super) async fn answer(asked: &mut Option<(Walk, oneshot::Receiver<Portion>)>) -> Option<Portion> {
    match asked {
        Some((_, portion)) => portion.await.ok(),
        None => std::future::pending().await,
    }
}
