//! One client's connection: one task that never waits for its socket, so that it always hears the hub.
//!
//! Reading stops while the client does not read its answers, or has as much unfinished as we allow;
//! delivering stops at its receive maximum. What does not fit waits in the session's bounded queue.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Buf, BytesMut};
use tokio::io::ReadHalf;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Duration, Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::greet::{self, Admitted, Io, Shared};
use super::intake::Intake;
use super::message::Publish;
use super::outbound::{Disk, Owed, answer, moved};
use super::outlet::{GRAIN, Held, Outlet};
use super::pipe;
use super::queue::Walk;
use super::retained::Portion;
use super::session::{BEGUN, Session};
use super::state::{AckTo, Control, Detached, Ended, Event};
use super::stats::{Counters, Refusal};
use super::tokens::{Bucket, Rate};
use super::traffic::{About, Tally, Way};
use super::wire::encode::{self, Reply};
use super::wire::{Fault, Version, decode, reader, reason};
use crate::message::Standing;

/// Unsent bytes above which nothing more is read: the answers would not fit. While all hold more than they may, [`GRAIN`].
const OUT_READ: usize = 256 * 1024;
/// One wake-up is worth this long.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
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
    /// It sends or reads too slowly.
    Slow,
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The answer to a message: its QoS, the reason code, and the group of the journal it is told after.
type Answer = (u8, u8, u64);

/// A message that waits for room in the log, who waits for an answer, and whether it was routed before.
pub(super) type Stalled = (Publish, Option<AckTo>, bool);

/// Since when something waits for a place, and what to wait for before looking again.
pub(super) type Crowded = (Instant, Option<std::pin::Pin<Box<Sleep>>>);

/// (There are too few packet ids for anybody to choose those that collide.)
type Ids<T> = HashSet<T, foldhash::fast::RandomState>;

/// A connection with its session.
pub(super) struct Connection {
    pub shared: Arc<Shared>,
    pub version: Version,
    pub session: Box<Session>,
    pub user: Option<Arc<str>>,
    pub number: u64,
    pub about: Arc<About>,
    pub out: Outlet,
    pub held: Held,
    /// Packet ids that the hub has not answered yet.
    pub owed: usize,
    /// QoS 2 ids among them: their PUBREC comes with the hub's answer.
    pub due: Ids<u16>,
    /// Messages of the client that are not acknowledged yet, in their order (MQTT-4.6.0-2), each with its answer, if there is one.
    pub answers: VecDeque<(u16, Option<Answer>)>,
    /// QoS 2 ids of messages that are to be stored and are not yet.
    pub unstored: HashSet<u16>,
    /// A message that waits for room in the log: nothing more is read meanwhile.
    pub stalled: Option<Stalled>,
    /// QoS 1 and 2 messages that came over this connection and are not finished (QoS, id), for our Receive Maximum: it
    /// begins anew with each connection (§4.9).
    pub open: Ids<(u8, u16)>,
    pub aliases: Vec<Option<Arc<str>>>,
    pub alias_bytes: usize,
    pub session_expiry: u32,
    pub new_expiry: Option<u32>,
    io_read: ReadHalf<Box<dyn Io>>,
    input: Intake,
    pace: Bucket,
    /// What a message of this client costs others, as far as that is known, and what it owes them for, both in µs.
    costs: (u64, u64),
    /// Runs while the client is not read because it publishes too fast.
    pause: Option<std::pin::Pin<Box<Sleep>>>,
    control: pipe::Receiver<Control>,
    keep_alive: Option<Duration>,
    pub heard: Instant,
    pub window: usize,
    pub maximum_packet: usize,
    /// Ids of messages of an earlier connection that had no PUBREC, still to be sent again, in order.
    pub again: VecDeque<u16>,
    pub asked: Option<(Walk, oneshot::Receiver<Portion>)>,
    /// A large message of a walk waits for others to hold less.
    pub crowded: Option<Crowded>,
    /// If sessions outlive the process: what waits for that.
    pub disk: Option<Disk>,
    /// An answer was larger than the client takes.
    pub overlong: bool,
    /// What this turn moved.
    pub tally: Tally,
}

impl Connection {
    pub fn new(shared: Arc<Shared>, io: Box<dyn Io>, input: Intake, admitted: Admitted, number: u64) -> Self {
        let (io_read, io_write) = tokio::io::split(io);
        let mut out = BytesMut::new();
        greet::welcome(&mut out, &shared.limits, &admitted);
        let connect = admitted.connect;
        let session = admitted.attached.session;
        let limits = &shared.limits;
        let unfinished = session.kept && session.flight.len() + session.taken.len() > 0;
        let disk = shared.journal.as_ref().map(|journal| Disk::new(journal, unfinished));
        let mut connection = Self {
            version: connect.version,
            user: admitted.user,
            number,
            about: admitted.about,
            out: Outlet::new(io_write, out, limits.write_deadline),
            held: Held::new(&shared.held),
            owed: 0,
            due: Ids::default(),
            answers: VecDeque::new(),
            unstored: HashSet::new(),
            stalled: None,
            open: Ids::default(),
            aliases: Vec::new(),
            alias_bytes: 0,
            session_expiry: connect.session_expiry,
            new_expiry: None,
            io_read,
            input,
            pace: Bucket::default(),
            costs: (0, 0),
            pause: None,
            control: admitted.control,
            keep_alive: (connect.keep_alive > 0)
                .then(|| Duration::from_millis(1500 * u64::from(connect.keep_alive))),
            heard: Instant::now(),
            window: usize::from(connect.receive_maximum.min(limits.in_flight_out)),
            maximum_packet: usize::try_from(connect.maximum_packet).unwrap_or(usize::MAX),
            again: session.flight.resend().filter(|s| s.message.is_some()).map(|s| s.id).collect(),
            asked: None,
            crowded: None,
            disk,
            overlong: false,
            tally: Tally::default(),
            session,
            shared,
        };
        connection.take_over();
        connection
    }

    /// Serves the client until it or we end the connection, and gives the session back.
    /// (It is in a box: a future that is given something by value has room for it twice.)
    pub async fn run(mut self: Box<Self>, stop: &CancellationToken) {
        self.release();
        let end = self.serve(stop).await;
        self.count();
        self.session.settle();
        tracing::debug!(client = &*self.session.client_id, ?end, "connection ended");
        match end {
            End::Fault(f) if f.reason == reason::PACKET_TOO_LARGE => {
                self.shared.counters.refuse(Refusal::Packet);
            }
            End::Fault(f) if f.reason == reason::QUOTA_EXCEEDED => {
                self.shared.counters.refuse(Refusal::Limit);
            }
            End::Fault(_) => self.shared.counters.refuse(Refusal::Protocol),
            End::Slow => self.shared.counters.refuse(Refusal::Slow),
            End::Lost | End::Goodbye { .. } | End::Stop(_) => {}
        }
        if let Some((walk, mut portion)) = self.asked.take() {
            portion.close();
            match portion.try_recv() {
                Ok(portion) => self.received(walk, portion),
                // Asked for, not received: the session's next connection asks again.
                Err(_) => self.session.walk = Some(walk),
            }
        }
        // What waited for room went nowhere: said again it is no repeat.
        let stalled = self.stalled.take().filter(|(_, _, begun)| !begun);
        if let Some(ack) = stalled.and_then(|(_, ack, _)| ack) {
            self.unstored.remove(&ack.id);
            self.session.taken.remove(&ack.id);
        }
        for id in self.unstored.drain() {
            // The client was not told that we have it: said again it may have to go into the log, and nowhere else.
            self.session.taken.insert(id, BEGUN);
        }
        let Self { session, shared, mut out, version, number, new_expiry, control, .. } = *self;
        let how = match end {
            End::Goodbye { will: false } => Ended::Goodbye,
            // A listener that is closed alone leaves a broker that publishes wills.
            End::Stop(reason::SHUTTING_DOWN) if shared.stop.is_cancelled() => Ended::Stopped,
            _ => Ended::Lost,
        };
        let detached = Detached { conn: number, session, end: how, expiry: new_expiry, unheard: control };
        let _ = Box::pin(shared.events.send(Event::Detach(Box::new(detached)))).await;
        match end {
            End::Lost | End::Goodbye { .. } => {}
            End::Slow => encode::disconnect(&mut out.bytes, version, reason::QUOTA_EXCEEDED),
            End::Fault(Fault { reason, .. }) | End::Stop(reason) => {
                encode::disconnect(&mut out.bytes, version, reason);
            }
        }
        let _ = Box::pin(timeout(LAST_WORDS, out.close())).await;
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
            self.settle();
            if self.overlong {
                return End::Stop(reason::PACKET_TOO_LARGE);
            }
            if let Err(end) = self.read_packets().await {
                return end;
            }
            if !self.deliver().await {
                return End::Stop(reason::SHUTTING_DOWN);
            }
            let may_read = self.may_read();
            let may_take = self.may_take();
            let busy = self.out.is_busy();
            self.held.set(self.out.bytes.len());
            self.count();
            tokio::select! {
                control = self.control.recv() => match control.map(|c| self.told(c)) {
                    None => return End::Stop(reason::SERVER_UNAVAILABLE),
                    Some(Some(end)) => return end,
                    Some(None) => {}
                },
                () = &mut stopped => return End::Stop(reason::SHUTTING_DOWN),
                written = self.out.write(&sent), if busy => match written {
                    Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return End::Slow,
                    Err(_) => return End::Lost,
                    Ok(()) => {}
                },
                portion = answer(&mut self.asked), if self.asked.is_some() => {
                    if let (Some((walk, _)), Some(portion)) = (self.asked.take(), portion) {
                        self.received(walk, portion);
                    }
                }
                () = moved(&mut self.disk), if self.waits_for_disk() => {}
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
                read = self.input.read(&mut self.io_read, usize::MAX), if may_read => match read {
                    Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return End::Slow,
                    Ok(0) | Err(_) => return End::Lost,
                    Ok(_) => {}
                },
                () = rested(&mut self.pause), if self.pause.is_some() => self.pause = None,
                since = looked(&mut self.crowded), if matches!(self.crowded, Some((_, Some(_)))) => {
                    self.crowded = Some((since, None));
                }
                room = room(&self.shared, &self.stalled), if self.stalled.is_some() => {
                    let Some((stalled, room)) = self.stalled.take().zip(room) else {
                        return End::Stop(reason::SERVER_UNAVAILABLE);
                    };
                    let passed = match self.forward(stalled, room) {
                        Ok(None) => Ok(()),
                        Ok(Some(due)) => self.pass(due).await,
                        Err(end) => Err(end),
                    };
                    if let Err(end) = passed {
                        return end;
                    }
                }
                () = &mut idle, if self.keep_alive.is_some() => {
                    if !self.may_read() {
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

    /// While it is not read its silence is none of its own: one that takes a large message slowly may have pinged in time. (Who takes
    /// nothing of it has a deadline of its own, in `outlet`.)
    fn may_read(&self) -> bool {
        let crowded = self.shared.held.load(Relaxed) > self.shared.limits.queue_bytes_total;
        self.out.bytes.len() < if crowded { GRAIN } else { OUT_READ } && !self.is_full()
    }

    /// It has as much unfinished as we allow, waits for room, or rests.
    fn is_full(&self) -> bool {
        self.stalled.is_some()
            || self.pause.is_some()
            || self.owed >= usize::from(self.shared.limits.in_flight_in)
            || self.is_too_much()
    }

    /// Handles the complete packets that are there.
    async fn read_packets(&mut self) -> Result<(), End> {
        let mut taken = false;
        while self.may_read() {
            let Some(frame) = reader::frame(&self.input.bytes, self.shared.limits.packet)? else {
                self.input.settle(taken, &self.shared.partials, self.shared.limits.packet_deadline);
                return Ok(());
            };
            frame.checked(self.version)?;
            if !std::mem::replace(&mut taken, true) {
                self.heard = Instant::now();
            }
            self.tally.packet(Way::In);
            self.tally.bytes(Way::In, frame.end);
            let body = &self.input.bytes[frame.start..frame.end];
            let packet = decode::packet(self.version, frame.first, body)?;
            self.input.bytes.advance(frame.end);
            if let Some(due) = self.handle(packet, frame.end)? {
                self.pass(due).await?;
            }
            // Where the hub takes everything at once nothing here ever waits: without this a flood would keep the polls from their turn.
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    /// It published a message: if that was too fast, it is not read for a while.
    pub fn pace(&mut self) {
        self.make_good();
        let per_s = self.shared.publish_rate.load(std::sync::atomic::Ordering::Relaxed);
        if per_s == 0 {
            return;
        }
        let (rate, now) = (Rate { per_s, burst: per_s }, Instant::now());
        self.pace.owe(rate, now);
        if let Some(wait) = self.pace.wait(rate, now) {
            Counters::add(&self.shared.counters.throttled, 1);
            self.pause = Some(Box::pin(sleep(wait.max(SHORTEST_PAUSE))));
        }
    }

    /// Its messages take the hub's time for no use: it is not read for as long as they do. What is on its way is reckoned like
    /// the last one that was measured, and less with each that was not.
    fn make_good(&mut self) {
        let measured = self.about.costly_us.load(Relaxed);
        if measured == 0 && self.costs.0 == 0 {
            return;
        }
        self.about.costly_us.store(0, Relaxed);
        let (each, owed) = self.costs;
        let each = measured.max(each - each.div_ceil(8));
        self.costs = (each, owed.saturating_add(each));
        let rest = Duration::from_micros(self.costs.1);
        if rest >= SHORTEST_PAUSE {
            self.costs.1 = 0;
            Counters::add(&self.shared.counters.throttled, 1);
            self.pause = Some(Box::pin(sleep(rest)));
        }
    }

    /// What the hub says.
    pub fn told(&mut self, control: Control) -> Option<End> {
        match control {
            Control::Stop(reason) => return Some(End::Stop(reason)),
            Control::Routed { id, qos, matched, mut after } => {
                if qos == 2 && self.unstored.remove(&id) {
                    // The log has it, too: from now on it is a repeat that is where it has to be.
                    after = after.max(self.noted(id, Standing::Taken));
                }
                let waits = self.answers.iter_mut().find(|(at, answer)| *at == id && answer.is_none());
                let code = if matched { reason::SUCCESS } else { reason::NO_MATCHING_SUBSCRIBERS };
                waits.into_iter().for_each(|(_, answer)| *answer = Some((qos, code, after)));
                if qos == 2 {
                    self.session.taken.entry(id).and_modify(|group| *group = after);
                }
                self.settle();
            }
            Control::SubAck { id, codes, after } => {
                self.owed = self.owed.saturating_sub(1);
                self.owe(after, Owed::SubAck(id, codes));
            }
            Control::UnsubAck { id, codes, after } => {
                self.owed = self.owed.saturating_sub(1);
                self.owe(after, Owed::UnsubAck(id, codes));
            }
        }
        None
    }

    /// Counts what this turn moved, for this connection and for the broker.
    fn count(&mut self) {
        if self.tally != Tally::default() {
            let tally = std::mem::take(&mut self.tally);
            self.about.traffic.tallied(&tally);
            self.shared.counters.traffic.tallied(&tally);
        }
    }

    /// One of the four answers that are a packet id and a reason.
    pub fn reply(&mut self, reply: Reply, id: u16, code: u8) {
        encode::ack(&mut self.out.bytes, self.version, reply, id, code);
        self.tally.packet(Way::Out);
    }

    pub fn ack_to(&self, id: u16) -> AckTo {
        AckTo { key: self.session.key, conn: self.number, id }
    }
}

async fn rested(pause: &mut Option<std::pin::Pin<Box<Sleep>>>) {
    if let Some(pause) = pause {
        pause.as_mut().await;
    }
}

async fn looked(crowded: &mut Option<Crowded>) -> Instant {
    match crowded {
        Some((since, Some(again))) => {
            again.as_mut().await;
            *since
        }
        _ => std::future::pending().await,
    }
}

async fn room(shared: &Shared, stalled: &Option<Stalled>) -> Option<OwnedSemaphorePermit> {
    match stalled {
        Some((message, ..)) => Box::pin(shared.tap.room(message)).await,
        None => std::future::pending().await,
    }
}
