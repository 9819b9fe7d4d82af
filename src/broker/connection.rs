//! One client's connection: one task that never waits for its socket, so that it always hears the hub.
//!
//! Reading stops while the client does not read its answers, or has as much unfinished as we allow;
//! delivering stops at its receive maximum. What does not fit waits in the session's bounded queue.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::greet::{self, Admitted, Io, Shared};
use super::message::Publish;
use super::queue::Walk;
use super::queue::{Addressed, Item};
use super::retained::Portion;
use super::session::Session;
use super::state::{AckTo, Control, Detached, Event};
use super::stats::{Counters, Refusal};
use super::traffic::{About, Traffic, Way};
use super::wire::encode::{self, Delivery, Reply};
use super::wire::{Fault, Version, decode, reader, reason};

/// Unsent bytes above which nothing more is delivered …
const OUT_DELIVER: usize = 64 * 1024;
/// … and above which nothing more is read: the answers would not fit.
const OUT_READ: usize = 256 * 1024;
/// How long a closing connection may take for its last bytes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Closed without a word.
    Lost,
    /// DISCONNECT; `will`: it wants its will published.
    Goodbye { will: bool },
    /// The client broke a rule.
    Fault(Fault),
    /// We end it, for this reason.
    Stop(u8),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A connection with its session.
pub(super) struct Connection {
    pub shared: Arc<Shared>,
    pub version: Version,
    pub session: Box<Session>,
    pub user: Option<Arc<str>>,
    pub number: u64,
    pub about: Arc<About>,
    pub out: BytesMut,
    /// Packet ids that the hub has not answered yet.
    pub owed: usize,
    /// QoS 2 ids among them: their PUBREC comes with the hub's answer.
    pub due: HashSet<u16>,
    /// Messages of the client that are not acknowledged yet, in their order (MQTT-4.6.0-2), each with the hub's answer.
    pub answers: VecDeque<(u16, Option<(u8, bool)>)>,
    /// QoS 2 ids of messages that are to be stored and are not yet.
    pub unstored: HashSet<u16>,
    /// A message that waits for room in the log: nothing more is read meanwhile.
    pub stalled: Option<(Publish, Option<AckTo>)>,
    /// QoS 1 and 2 messages that came over this connection and are not finished (QoS, id), for our Receive Maximum: it
    /// begins anew with each connection (§4.9).
    pub open: HashSet<(u8, u16)>,
    pub aliases: Vec<Option<Arc<str>>>,
    pub session_expiry: u32,
    pub new_expiry: Option<u32>,
    io_read: ReadHalf<Box<dyn Io>>,
    io_write: WriteHalf<Box<dyn Io>>,
    unflushed: bool,
    input: BytesMut,
    control: mpsc::Receiver<Control>,
    keep_alive: Option<Duration>,
    heard: Instant,
    window: usize,
    maximum_packet: usize,
    /// Ids of messages of an earlier connection that had no PUBREC, still to be sent again, in order.
    again: VecDeque<u16>,
    asked: Option<(Walk, oneshot::Receiver<Portion>)>,
}

impl Connection {
    pub fn new(
        shared: Arc<Shared>,
        io: Box<dyn Io>,
        input: BytesMut,
        admitted: Admitted,
        number: u64,
    ) -> Self {
        let (io_read, io_write) = tokio::io::split(io);
        let mut out = BytesMut::new();
        greet::welcome(&mut out, &shared.limits, &admitted);
        let connect = admitted.connect;
        let session = admitted.attached.session;
        let limits = &shared.limits;
        Self {
            version: connect.version,
            user: admitted.user,
            number,
            about: admitted.about,
            out,
            owed: 0,
            due: HashSet::new(),
            answers: VecDeque::new(),
            unstored: HashSet::new(),
            stalled: None,
            open: HashSet::new(),
            aliases: Vec::new(),
            session_expiry: connect.session_expiry,
            new_expiry: None,
            io_read,
            io_write,
            unflushed: false,
            input,
            control: admitted.control,
            keep_alive: (connect.keep_alive > 0)
                .then(|| Duration::from_millis(1500 * u64::from(connect.keep_alive))),
            heard: Instant::now(),
            window: usize::from(connect.receive_maximum.min(limits.in_flight_out)),
            maximum_packet: usize::try_from(connect.maximum_packet).unwrap_or(usize::MAX),
            again: session.flight.resend().filter(|s| s.message.is_some()).map(|s| s.id).collect(),
            asked: None,
            session,
            shared,
        }
    }

    /// PUBRELs that an earlier connection left open go at once: they wait for no place in the window (MQTT-4.9.0-3).
    fn release(&mut self) {
        let open = self.session.flight.resend().filter(|s| s.message.is_none());
        let ids: Vec<u16> = open.map(|s| s.id).collect();
        ids.into_iter().for_each(|id| self.reply(Reply::Rel, id, reason::SUCCESS));
    }

    /// Serves the client until it or we end the connection, and gives the session back.
    pub async fn run(mut self, stop: &CancellationToken) {
        self.release();
        let end = self.serve(stop).await;
        tracing::debug!(client = &*self.session.client_id, ?end, "connection ended");
        match end {
            End::Fault(f) if f.reason == reason::PACKET_TOO_LARGE => {
                self.shared.counters.refuse(Refusal::Limit)
            }
            End::Fault(_) => self.shared.counters.refuse(Refusal::Protocol),
            _ => {}
        }
        if let Some((walk, _)) = self.asked.take() {
            // Asked for, not received: the session's next connection asks again.
            self.session.walk = Some(walk);
        }
        for id in self.unstored.drain() {
            // The client was not told that we have it, and it may yet be lost: said again it is no repeat.
            self.session.taken.remove(&id);
        }
        let Self { session, shared, mut out, mut io_write, version, number, new_expiry, .. } = self;
        let graceful = matches!(end, End::Goodbye { will: false } | End::Stop(reason::SHUTTING_DOWN));
        let detached = Detached { conn: number, session, graceful, expiry: new_expiry };
        let _ = shared.events.send(Event::Detach(Box::new(detached))).await;
        match end {
            End::Lost | End::Goodbye { .. } => {}
            End::Fault(Fault { reason, .. }) | End::Stop(reason) => {
                encode::disconnect(&mut out, version, reason);
            }
        }
        let _ = timeout(LAST_WORDS, async {
            use tokio::io::AsyncWriteExt;
            io_write.write_all(&out).await?;
            io_write.shutdown().await
        })
        .await;
    }

    async fn serve(&mut self, stop: &CancellationToken) -> End {
        let stopped = stop.cancelled();
        let idle = sleep_until(self.silent_at());
        let (about, shared) = (self.about.clone(), self.shared.clone());
        let sent = |n| [&about.traffic, &shared.counters.traffic].map(|t| t.bytes(Way::Out, n));
        tokio::pin!(stopped, idle);
        loop {
            while let Ok(control) = self.control.try_recv() {
                if let Some(end) = self.told(control) {
                    return end;
                }
            }
            if let Err(end) = self.read_packets().await {
                return end;
            }
            if !self.deliver().await {
                return End::Stop(reason::SHUTTING_DOWN);
            }
            let may_read = self.may_read();
            let may_take = self.session.walk.is_none()
                && self.session.portion.is_empty()
                && self.asked.is_none()
                && self.again.is_empty()
                && self.may_send();
            let busy = !self.out.is_empty() || self.unflushed;
            tokio::select! {
                control = self.control.recv() => match control.map(|c| self.told(c)) {
                    None => return End::Stop(reason::SERVER_UNAVAILABLE),
                    Some(Some(end)) => return end,
                    Some(None) => {}
                },
                () = &mut stopped => return End::Stop(reason::SHUTTING_DOWN),
                written = write_some(&mut self.io_write, &mut self.out, &mut self.unflushed, &sent), if busy => {
                    if written.is_err() {
                        return End::Lost;
                    }
                }
                portion = answer(&mut self.asked), if self.asked.is_some() => self.received(portion),
                item = self.session.queue.recv(), if may_take => match item {
                    None => return End::Stop(reason::SERVER_UNAVAILABLE),
                    Some(item) => {
                        // What the hub told us before it queued this (SUBACK) goes out before it.
                        while let Ok(control) = self.control.try_recv() {
                            if let Some(end) = self.told(control) {
                                return end;
                            }
                        }
                        self.take(item);
                    }
                },
                read = self.io_read.read_buf(&mut self.input), if may_read => match read {
                    Ok(0) | Err(_) => return End::Lost,
                    Ok(_) => {}
                },
                room = room(&self.shared, &self.stalled), if self.stalled.is_some() => {
                    let Some(((message, ack), room)) = self.stalled.take().zip(room) else {
                        return End::Stop(reason::SERVER_UNAVAILABLE);
                    };
                    if let Err(end) = self.forward(message, ack, room).await {
                        return end;
                    }
                }
                () = &mut idle, if self.keep_alive.is_some() => {
                    if self.is_full() {
                        self.heard = Instant::now();
                    }
                    if self.silent_at() <= Instant::now() {
                        return End::Stop(reason::KEEP_ALIVE_TIMEOUT);
                    }
                    idle.as_mut().reset(self.silent_at());
                }
            }
        }
    }

    fn silent_at(&self) -> Instant {
        self.heard + self.keep_alive.unwrap_or(Duration::from_secs(86_400))
    }

    fn may_read(&mut self) -> bool {
        // What a large packet needed is given back: a thousand quiet clients must not hold a gigabyte.
        for buffer in [&mut self.input, &mut self.out] {
            if buffer.is_empty() && buffer.capacity() > OUT_DELIVER {
                *buffer = BytesMut::new();
            }
        }
        let may = self.out.len() < OUT_READ && !self.is_full();
        if may && self.input.capacity() - self.input.len() < 512 {
            // Grows by doubling as bytes arrive, never by the length that a client announces.
            self.input.reserve(2048);
        }
        may
    }

    /// It has as much unfinished as we allow, or waits for room: it is not read, which is no silence of its own.
    fn is_full(&self) -> bool {
        self.stalled.is_some() || self.owed >= usize::from(self.shared.limits.in_flight_in)
    }

    fn may_send(&self) -> bool {
        self.out.len() < OUT_DELIVER && self.session.flight.len() - self.again.len() < self.window
    }

    /// Handles the complete packets that are there.
    async fn read_packets(&mut self) -> Result<(), End> {
        while self.out.len() < OUT_READ && !self.is_full() {
            let Some(frame) = reader::frame(&self.input, self.shared.limits.packet)? else { return Ok(()) };
            let packet = self.input.split_to(frame.checked(self.version)?.end);
            self.heard = Instant::now();
            self.both(|t| {
                t.packet(Way::In);
                t.bytes(Way::In, frame.end);
            });
            let packet = decode::packet(self.version, frame.first, &packet[frame.start..])?;
            self.handle(packet, frame.end).await?;
        }
        Ok(())
    }

    /// What the hub says.
    fn told(&mut self, control: Control) -> Option<End> {
        match control {
            Control::Stop(reason) => return Some(End::Stop(reason)),
            Control::Routed { id, qos, matched } => {
                let waits = self.answers.iter_mut().find(|(at, answer)| *at == id && answer.is_none());
                waits.into_iter().for_each(|(_, answer)| *answer = Some((qos, matched)));
                while let Some((id, Some((qos, matched)))) = self.answers.front().copied() {
                    self.answers.pop_front();
                    self.acknowledge(id, qos, matched);
                }
            }
            Control::SubAck { id, codes } => return self.give(|out, v| encode::suback(out, v, id, &codes)),
            Control::UnsubAck { id, codes } => {
                return self.give(|out, v| encode::unsuback(out, v, id, &codes));
            }
        }
        None
    }

    /// Answers SUBSCRIBE or UNSUBSCRIBE. An answer larger than the client takes is the end (MQTT-3.1.2-24).
    fn give(&mut self, answer: impl Fn(&mut BytesMut, Version)) -> Option<End> {
        self.owed = self.owed.saturating_sub(1);
        let start = self.out.len();
        answer(&mut self.out, self.version);
        if self.out.len() - start > self.maximum_packet {
            self.out.truncate(start);
            return Some(End::Stop(reason::PACKET_TOO_LARGE));
        }
        self.both(|t| t.packet(Way::Out));
        None
    }

    /// Sends what may be sent now. `false`: the hub is gone.
    async fn deliver(&mut self) -> bool {
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

    fn take(&mut self, item: Item) {
        match item {
            Item::Message(addressed) => self.send(addressed),
            Item::Retained(walk) => self.session.walk = Some(walk),
        }
    }

    fn received(&mut self, portion: Option<Portion>) {
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
        if let Some(Some(addressed)) = self.session.flight.get(id).cloned() {
            self.put(&addressed, id, true, Instant::now());
        }
    }

    fn put(&mut self, a: &Addressed, id: u16, dup: bool, now: Instant) -> bool {
        let start = self.out.len();
        let ids = a.ids.as_deref().unwrap_or(&[]);
        let delivery = Delivery { id, qos: a.qos, dup, retain: a.retain, subscription_ids: ids };
        encode::publish(&mut self.out, self.version, &a.message, &delivery, now);
        let fits = self.out.len() - start <= self.maximum_packet;
        if fits {
            self.both(|t| {
                t.packet(Way::Out);
                t.publish(Way::Out, a.message.payload.len());
            });
        } else {
            self.out.truncate(start);
        }
        fits
    }

    /// Counts for this connection and for the broker.
    pub fn both(&self, count: impl Fn(&Traffic)) {
        count(&self.about.traffic);
        count(&self.shared.counters.traffic);
    }

    /// One of the four answers that are a packet id and a reason.
    pub fn reply(&mut self, reply: Reply, id: u16, code: u8) {
        encode::ack(&mut self.out, self.version, reply, id, code);
        self.both(|t| t.packet(Way::Out));
    }

    /// Passes an event to the hub; `owed`: it will be answered.
    pub async fn tell_hub(&mut self, event: Event, owed: bool) -> Result<(), End> {
        self.owed += usize::from(owed);
        self.shared.events.send(event).await.map_err(|_| End::Stop(reason::SERVER_UNAVAILABLE))
    }

    pub fn ack_to(&self, id: u16) -> AckTo {
        AckTo { key: self.session.key, conn: self.number, id }
    }
}

async fn room(shared: &Shared, stalled: &Option<(Publish, Option<AckTo>)>) -> Option<OwnedSemaphorePermit> {
    match stalled {
        Some((message, _)) => shared.tap.room(message).await,
        None => std::future::pending().await,
    }
}

async fn answer(asked: &mut Option<(Walk, oneshot::Receiver<Portion>)>) -> Option<Portion> {
    match asked {
        Some((_, portion)) => portion.await.ok(),
        None => std::future::pending().await,
    }
}

/// Writes what the socket takes, and flushes when all is written. Cancel safe: what was written is gone
/// from `out`, and an unfinished flush is remembered.
async fn write_some(
    io: &mut WriteHalf<Box<dyn Io>>,
    out: &mut BytesMut,
    unflushed: &mut bool,
    sent: &(impl Fn(usize) -> [(); 2] + Sync),
) -> std::io::Result<()> {
    use std::pin::Pin;
    use tokio::io::AsyncWrite;
    std::future::poll_fn(|cx| {
        while !out.is_empty() {
            match Pin::new(&mut *io).poll_write(cx, out) {
                std::task::Poll::Ready(Ok(0)) => {
                    return std::task::Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
                }
                std::task::Poll::Ready(Ok(n)) => {
                    out.advance(n);
                    sent(n);
                    *unflushed = true;
                }
                std::task::Poll::Ready(Err(e)) => return std::task::Poll::Ready(Err(e)),
                std::task::Poll::Pending => return std::task::Poll::Pending,
            }
        }
        let flushed = Pin::new(&mut *io).poll_flush(cx);
        if flushed.is_ready() {
            *unflushed = false;
        }
        flushed
    })
    .await
}
