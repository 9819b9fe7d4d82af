//! One connection from login to its end: bytes in and out, timers, acknowledgements.
//!
//! One task owns it all; reading, writing, the log and the timers are waited for together, so a stuck
//! write never keeps an acknowledgement or a ping from being seen.

mod ending;
mod exactly;
mod inbound;
mod node;
mod outbound;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::context::{Context, End, Terms};
use super::counters::UplinkCounters;
use super::delivery::Delivery;
use super::exactly::{Exchanges, Footing};
use super::fault::Fault;
use super::inflight::{Cargo, Inflight, Outgoing};
use super::lanes::Want;
use super::link::{Link, Stream};
use super::liveness::{Duty, Liveness};
use super::pace::Pace;
use super::protocol::{Incoming, Limits, Protocol, Unsendable};
use super::pump::{maybe, push, receive, say_goodbye};
use super::rate::{RATE_TICK, Rate};
use super::share::Class;
use super::suspicion::Ending;
use super::tap::Wire;
use crate::bounds;
use crate::message::{CorrectionRecord, LossRecord, Message};
use crate::pipeline::payload;
use crate::store::{Chunk, DrainError};

type Reading = Pin<Box<dyn Future<Output = (Want, Result<Chunk, DrainError>)> + Send>>;
type Told<T> = Result<Vec<(u64, T)>, DrainError>;
type Losses = Pin<Box<dyn Future<Output = (Told<LossRecord>, Told<CorrectionRecord>)> + Send>>;

struct Session<'a> {
    context: &'a Context,
    delivery: &'a mut Delivery,
    protocol: Protocol,
    inflight: Inflight,
    /// What is sent with QoS 0.
    confirmed: node::Confirmed,
    /// What is sent with QoS 2.
    exchanges: Exchanges,
    /// Bytes of what is staged, which will be in `out` when it is noted.
    staged: usize,
    noting: Option<exactly::Noting>,
    fetching: Option<exactly::Fetching>,
    /// The connection is to be made anew, for a session that is kept.
    renewing: bool,
    /// The broker remembers what an earlier connection subscribed to.
    resumed: bool,
    liveness: Liveness,
    out: BytesMut,
    /// Bytes of `out` up to the end of the last message, and of the last ping.
    leaving: usize,
    pinging: usize,
    terms: Terms<'a>,
    wire: Arc<Wire>,
    /// Bytes of `wire` that are accounted for: sent, received.
    counted: (u64, u64),
    /// The log's head at the login, and when the first answers have had their time.
    at_login: u64,
    settled: Instant,
    resting: bool,
    reading: Option<Reading>,
    losing: Option<Losses>,
    /// When the stop was asked for.
    stopping: Option<Instant>,
    farewell: bool,
    rate: Rate,
    /// Kinds of complaints already logged.
    complained: Vec<&'static str>,
    /// Filters that were subscribed to and not answered yet, by packet id.
    asked: HashMap<u16, String>,
    /// Nothing was asked for yet on this connection.
    silent: bool,
}

/// Runs one connection until it ends.
pub(super) async fn run(
    link: Link,
    context: &Context,
    delivery: &mut Delivery,
    mirror: &mut Option<mpsc::Receiver<Message>>,
    terms: Terms<'_>,
) -> End {
    let Link { stream, wire, protocol, limits, login, early, footing } = link;
    let mut head = delivery.drain.head();
    let at_connect = *head.borrow_and_update();
    let now = Instant::now();
    let Some(open) = delivery.take_up(&footing) else {
        return End::Broken(Fault::Log("the disk does not say what is open at the broker".to_owned()));
    };
    delivery.connected(at_connect, &open, terms.informed, now);
    let exchanges = Exchanges::new(&footing, open, context.timing.note, now);
    let mut session = Session::new(context, delivery, protocol, exchanges, (&limits, login), terms, wire);
    session.resumed = footing == Footing::Resumed;
    session.prepare(&limits);
    session.at_login = at_connect;
    let result = session.serve(stream, early, &mut head, mirror).await;
    session.account(Instant::now());
    if let Err(fault) = &result {
        session.ended_by(fault);
    }
    let Session { delivery, mut inflight, protocol, exchanges, resting, .. } = session;
    let counters = &delivery.counters;
    counters.stray_acks.fetch_add(protocol.stray_acks(), Relaxed);
    counters.in_flight.store(0, Relaxed);
    counters.set_rate(0.0);
    let settled = inflight.is_empty();
    delivery.lesson = inflight.lesson();
    // What is open stays open: the next connection goes on with it.
    let now = Instant::now();
    let open: Vec<_> = exchanges.into_ids().into_iter().filter_map(|id| inflight.acked(id, now)).collect();
    let unsettled = inflight.into_unsettled();
    let ending = match &result {
        Ok(()) => Ending::Asked,
        Err(fault) if fault.may_be_a_message() => Ending::Closed,
        Err(_) => Ending::Broken,
    };
    delivery.closed(ending, &unsettled, &open, now);
    delivery.ended(unsettled);
    match result {
        Ok(()) if resting && !context.stop.is_cancelled() => End::Rested { settled },
        Ok(()) => End::Stopped,
        Err(fault) => End::Broken(fault),
    }
}

impl<'a> Session<'a> {
    fn new(
        context: &'a Context,
        delivery: &'a mut Delivery,
        protocol: Protocol,
        mut exchanges: Exchanges,
        (limits, login): (&Limits, Duration),
        terms: Terms<'a>,
        wire: Arc<Wire>,
    ) -> Self {
        let now = Instant::now();
        let keep_alive =
            limits.keep_alive_s.map_or(context.keep_alive, |s| Duration::from_secs(u64::from(s)));
        let most = if exchanges.is_kept() { limits.exchanges } else { usize::MAX };
        let window = context.timing.window.min(usize::from(limits.receive_maximum)).min(most);
        exchanges.worth(window);
        let counted = delivery.counters.delivered.load(Relaxed);
        let inflight =
            Inflight::new(window, terms.bucket.in_flight(), Pace::new(delivery.lesson, login, now));
        Self {
            context,
            delivery,
            protocol,
            inflight,
            confirmed: node::Confirmed::default(),
            exchanges,
            staged: 0,
            noting: None,
            fetching: None,
            renewing: false,
            resumed: false,
            liveness: Liveness::new(Some(keep_alive), now),
            out: BytesMut::new(),
            leaving: 0,
            pinging: 0,
            terms,
            wire,
            counted: (0, 0),
            at_login: 0,
            settled: now + context.timing.linger,
            resting: false,
            reading: None,
            losing: None,
            stopping: None,
            farewell: false,
            rate: Rate::new(counted, now),
            complained: Vec::new(),
            asked: HashMap::new(),
            silent: true,
        }
    }

    async fn serve(
        &mut self,
        stream: Box<dyn Stream>,
        early: Vec<Incoming>,
        head: &mut watch::Receiver<u64>,
        mirror: &mut Option<mpsc::Receiver<Message>>,
    ) -> Result<(), Fault> {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let now = Instant::now();
        self.listen(now)?;
        self.understand(early, now);
        let mut buffer = vec![0; 16 << 10];
        let (mut unflushed, mut log_open) = (false, true);
        loop {
            let now = Instant::now();
            self.account(now);
            self.watch(now)?;
            self.rest(now);
            if let Some(fault) = self.told_to_leave(now)? {
                self.protocol.disconnect(&mut self.out);
                say_goodbye(&mut writer, &mut self.out).await?;
                return Err(fault);
            }
            // Descriptions come in bursts: one birth after a burst, not one after each.
            if mirror.as_ref().is_none_or(mpsc::Receiver::is_empty) {
                self.births()?;
            }
            self.tend_exchanges(now)?;
            self.fill(now)?;
            self.note(now);
            self.confirm()?;
            self.ask_the_log(now);
            if self.finished(now)? {
                self.protocol.disconnect(&mut self.out);
                return say_goodbye(&mut writer, &mut self.out).await;
            }
            let wake = self.wake(now);
            let may = self.terms.bucket.allowance(self.out.len(), now);
            tokio::select! {
                n = reader.read(&mut buffer) => {
                    let n = n.map_err(|e| Fault::broken(&e))?;
                    self.heard(&buffer[..n])?;
                }
                written = push(&mut writer, &self.out[..may]), if may > 0 || unflushed => {
                    let n = written.map_err(|e| Fault::broken(&e))?;
                    unflushed = n > 0;
                    self.wrote(n, Instant::now());
                }
                (want, chunk) = maybe(&mut self.reading) => {
                    self.reading = None;
                    self.filled(&want, chunk);
                }
                done = maybe(&mut self.noting) => {
                    self.noting = None;
                    self.noted(done, Instant::now())?;
                }
                (exchange, found) = maybe(&mut self.fetching) => {
                    self.fetching = None;
                    self.fetched(&exchange, found, Instant::now())?;
                }
                (losses, corrections) = maybe(&mut self.losing) => {
                    self.losing = None;
                    let (losses, corrections) = (self.told(losses), self.told(corrections));
                    self.delivery.losses(losses, &self.inflight, Instant::now());
                    self.delivery.corrections(corrections, &self.inflight);
                }
                changed = head.changed(), if log_open => {
                    // A closed log means that nothing new will come; what is there still goes out.
                    log_open = changed.is_ok();
                    let to = *head.borrow_and_update();
                    self.delivery.advance(to, Instant::now());
                }
                message = receive(mirror) => match message {
                    Some(message) => self.delivery.local(message),
                    None => *mirror = None,
                },
                () = self.context.stop.cancelled(), if self.stopping.is_none() => {
                    self.stopping = Some(Instant::now());
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Bytes have left us. Nobody can answer what has not: while a message or a ping is leaving, the wait for
    /// its answer begins anew.
    fn wrote(&mut self, n: usize, now: Instant) {
        if n == 0 {
            return;
        }
        self.out.advance(n);
        self.liveness.sent(now);
        if self.leaving > 0 {
            self.inflight.still_leaving(now);
        }
        if self.pinging > 0 {
            self.liveness.pinged(now);
        }
        self.leaving = self.leaving.saturating_sub(n);
        self.pinging = self.pinging.saturating_sub(n);
    }

    /// What went over the wire since the last time.
    fn account(&mut self, now: Instant) {
        let (sent, received) = (self.wire.sent(), self.wire.received());
        let (new, came) = (sent - self.counted.0, received - self.counted.1);
        self.counted = (sent, received);
        self.terms.bucket.spent(new, now);
        self.delivery.counters.bytes_sent.fetch_add(new, Relaxed);
        self.delivery.counters.bytes_received.fetch_add(came, Relaxed);
    }

    /// On a metered link: goes when what was stored by the login is delivered and everything else is told,
    /// and at the latest when the window is over.
    fn rest(&mut self, now: Instant) {
        let Some(until) = self.terms.window else { return };
        if self.stopping.is_some() {
            return;
        }
        let over = self.context.clock.boot() >= until;
        let quiet = now >= self.settled
            && self.losing.is_none()
            && self.inflight.used()[Class::Control as usize] == 0
            && self.delivery.is_drained(self.at_login, now);
        if over || quiet {
            self.resting = true;
            self.stopping = Some(now);
        }
    }

    /// Timers: acknowledgements that do not come, a line that is silent, the rate.
    fn watch(&mut self, now: Instant) -> Result<(), Fault> {
        let ack = self.context.timing.ack;
        if self.inflight.waiting_since().is_some_and(|since| now >= since + ack) {
            return Err(Fault::Timeout { what: "an acknowledgement by the broker".to_owned(), limit: ack });
        }
        match self.liveness.duty(now) {
            Duty::Rest => {}
            Duty::Ping => {
                self.ping()?;
                self.liveness.pinged(now);
                self.pinging = self.out.len();
            }
            Duty::Dead => return Err(Fault::Lost("the broker does not answer pings".to_owned())),
        }
        self.caught_up(now);
        if self.silent && self.terms.hearing.asks(now) {
            self.listen(now)?;
        }
        let counters = &self.delivery.counters;
        if let Some(rate) = self.rate.tick(counters.delivered.load(Relaxed), now) {
            counters.set_rate(rate);
        }
        counters.in_flight.store(self.inflight.len() as u64, Relaxed);
        counters.mirror_dropped.store(self.delivery.mirror.dropped(), Relaxed);
        Ok(())
    }

    /// Encodes messages while window and buffer have room.
    fn fill(&mut self, now: Instant) -> Result<(), Fault> {
        if self.farewell {
            return Ok(());
        }
        self.delivery.declare(self.terms.window.is_some(), now);
        let finish = self.stopping.is_some();
        let room = self.terms.bucket.encoded();
        while self.out.len() + self.staged < room && self.has_place(now) {
            let Some(message) = self.delivery.next_message(&self.inflight, now, finish) else { break };
            self.publish(message, now)?;
        }
        Ok(())
    }

    fn ask_the_log(&mut self, now: Instant) {
        if self.farewell {
            return;
        }
        self.delivery.look_at_the_clock(now);
        if self.reading.is_none()
            && let Some(want) = self.delivery.want(now)
        {
            let drain = self.delivery.drain.clone();
            self.reading = Some(Box::pin(async move {
                let chunk = drain.read(want.range.clone(), want.max).await;
                (want, chunk)
            }));
        }
        if self.losing.is_none() && self.delivery.wants_losses(now) {
            let drain = self.delivery.drain.clone();
            self.losing = Some(Box::pin(async move {
                let losses = drain.losses(bounds::UPLINK_LOSSES).await;
                (losses, drain.corrections(bounds::UPLINK_CORRECTIONS).await)
            }));
        }
    }

    fn filled(&mut self, want: &Want, chunk: Result<Chunk, DrainError>) {
        let now = Instant::now();
        match chunk {
            Ok(chunk) => self.delivery.filled(want, Some(chunk), now),
            Err(e) => {
                self.complain("log", &Fault::Log(e.to_string()).to_string());
                self.delivery.filled(want, None, now);
            }
        }
    }

    fn told<T>(&mut self, list: Told<T>) -> Vec<(u64, T)> {
        list.unwrap_or_else(|e| {
            self.complain("log", &Fault::Log(e.to_string()).to_string());
            Vec::new()
        })
    }

    fn heard(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Err(Fault::HungUp { how: "closed by the broker without a word", hint: String::new() });
        }
        let now = Instant::now();
        self.liveness.heard(now);
        *self.terms.heard = self.context.clock.boot();
        let incoming = self.protocol.receive(bytes, &mut self.out)?;
        self.understand(incoming, now);
        Ok(())
    }

    fn understand(&mut self, incoming: Vec<Incoming>, now: Instant) {
        for event in incoming {
            let Some(event) = self.node_hears(event) else { continue };
            match event {
                Incoming::Acked { id, refused } => {
                    let Some(message) = self.inflight.acked(id, now) else { continue };
                    match refused {
                        None => self.delivery.acked(&message, None, now),
                        Some(code) => self.is_refused(message, code, now),
                    }
                }
                Incoming::Received { id, refused } => self.received(id, refused, now),
                Incoming::Completed { id } => self.completed(id, now),
                Incoming::Pong => self.answered(now),
                Incoming::Welcome(_) | Incoming::Nothing => {}
                Incoming::Subscribed { id, granted } => self.subscribed(id, granted),
                Incoming::Message { topic, payload, retained, via } => {
                    self.brought(&topic, payload, retained, via);
                }
                Incoming::Oversize { topic, size } => {
                    UplinkCounters::add(&self.delivery.counters.oversize, 1);
                    let limit = bounds::UPLINK_PACKET_IN;
                    let what = format!(
                        "a message of {size} bytes on `{topic}` is left out; at most {limit} are taken"
                    );
                    self.complain("oversize", &what);
                }
            }
        }
    }

    fn wake(&self, now: Instant) -> Instant {
        let ack = self.inflight.waiting_since().map(|since| since + self.context.timing.ack);
        let grace = self.context.timing.grace;
        let stop = self.stopping.map(|s| if self.farewell { s + grace + grace / 2 } else { s + grace });
        let bucket = self.terms.bucket.ready_at(self.out.len(), now);
        let settled = self.terms.window.and((self.settled > now).then_some(self.settled));
        let hearing = self.terms.hearing.asks_again().filter(|at| self.silent && *at > now);
        [
            ack,
            self.liveness.next(),
            stop,
            bucket,
            settled,
            hearing,
            Some(self.delivery.next_wake(now)),
            self.exchanges.next_wake(now),
            Some(now + RATE_TICK),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(now + RATE_TICK)
    }

    /// Tells what went wrong without ending the connection: always to status, to the log once per kind
    /// and connection, for a broker that refuses one message often refuses all.
    fn complain(&mut self, kind: &'static str, what: &str) {
        if self.complained.contains(&kind) {
            tracing::debug!(uplink = %self.context.name, "{what}");
        } else {
            self.complained.push(kind);
            tracing::warn!(uplink = %self.context.name, "{what}");
        }
        self.delivery.counters.set_error(self.context.clock.wall(), what.to_owned());
    }
}
