//! The hub: one task that owns all state, and the window through which messages pass the engine.
//!
//! Events enter the window in the order they come and leave it in the same order, so each publisher's
//! messages keep theirs, and a SUBSCRIBE never overtakes a PUBLISH sent before it. What enters together shares
//! one ticket: a burst of 1000 readings costs the engine as much as one message. A message leaves when its
//! ticket has come out of the engine; anything else when it is first in line. An engine that loses a
//! ticket, stalls or dies costs nothing but time: the window has the messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::engine::{Returned, Running, Ticket};
use super::state::{Event, State};
use super::stats::Counters;
use crate::bounds::{BROKER_INSIDE, BROKER_WINDOW};

/// Events taken from the channel at once.
const TAKE: usize = 256;

/// A timer that fires so much too late says that the whole process stood still.
const LATE: Duration = Duration::from_millis(500);

/// What is on its way.
#[derive(Debug)]
struct Waiting {
    /// Messages have one, and when they got it.
    ticket: Option<(Ticket, Instant)>,
    event: Event,
}

/// Where the hub's events come from.
#[derive(Debug)]
pub(super) struct Inputs {
    pub clients: mpsc::Receiver<Event>,
    pub local: mpsc::Receiver<Event>,
    /// Messages of this process that are not routed yet.
    pub local_queued: Arc<AtomicUsize>,
    pub stop: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Hub {
    state: State,
    engine: Option<Running>,
    window: VecDeque<Waiting>,
    /// Not yet in the window.
    backlog: VecDeque<Event>,
    next: Ticket,
    /// All tickets below have come out.
    out: Ticket,
    /// No stall is seen before: this process itself was late.
    patience: Instant,
    /// Messages of this process that are not routed yet.
    local_queued: Arc<AtomicUsize>,
}

impl Hub {
    pub fn new(state: State, engine: Option<Running>) -> Self {
        let patience = Instant::now();
        let native = u64::from(engine.is_none());
        state.counters.engine_native.store(native, Relaxed);
        let (window, backlog, local_queued) = (VecDeque::new(), VecDeque::new(), Arc::default());
        Self { state, engine, window, backlog, next: 0, out: 0, patience, local_queued }
    }

    /// Runs until `stop`, or until nobody is left who could send an event.
    pub async fn run(mut self, mut inputs: Inputs) {
        self.local_queued = inputs.local_queued.clone();
        let mut batch = Vec::with_capacity(TAKE);
        let mut local = Vec::with_capacity(16);
        let mut returned = Vec::with_capacity(TAKE);
        loop {
            self.advance();
            let now = Instant::now();
            let tick = self.state.tick(now);
            let stall = self.stalls_at();
            let wake = [tick, stall].into_iter().flatten().min();
            let room = self.backlog.is_empty() && self.has_room();
            tokio::select! {
                biased;
                n = next_returned(&mut self.engine, &mut returned), if self.engine.is_some() => {
                    if n == 0 {
                        self.switch("it died");
                    }
                    returned.drain(..).for_each(|r| self.came_out(r));
                }
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {
                    self.look_for_a_stall(Instant::now());
                }
                () = inputs.stop.cancelled() => return self.finish(&mut inputs),
                n = inputs.local.recv_many(&mut local, 16), if room => {
                    if n == 0 {
                        return;
                    }
                    self.backlog.extend(local.drain(..));
                }
                n = inputs.clients.recv_many(&mut batch, TAKE), if room => {
                    if n == 0 {
                        return;
                    }
                    self.backlog.extend(batch.drain(..));
                }
            }
        }
    }

    /// The end: what connections said before theirs is still done, for they were told that the broker has it.
    fn finish(mut self, inputs: &mut Inputs) {
        (self.engine, self.out) = (None, self.next);
        self.advance();
        for from in [&mut inputs.clients, &mut inputs.local] {
            from.close();
            while let Ok(event) = from.try_recv() {
                self.apply(event);
            }
        }
    }

    /// Moves events into the window while there is room, and out of it while they are done.
    fn advance(&mut self) {
        let entered = Instant::now();
        let mut pushed = true;
        loop {
            while self.window.front().is_some_and(|w| w.ticket.is_none_or(|(t, _)| t < self.out))
                && let Some(done) = self.window.pop_front()
            {
                self.apply(done.event);
            }
            if !self.has_room() {
                break;
            }
            let Some(event) = self.backlog.pop_front() else { break };
            if self.engine.is_none() {
                self.apply(event);
                continue;
            }
            let message = matches!(event, Event::Publish(..) | Event::Forward(_) | Event::Burst(_));
            pushed &= !message;
            self.window.push_back(Waiting { ticket: message.then_some((self.next, entered)), event });
        }
        if !pushed && let Some(running) = &mut self.engine {
            self.next += 1;
            if running.engine.push(self.next - 1).is_err() {
                self.switch("it died");
            }
        }
    }

    /// Room in the window, and for one more ticket inside the engine.
    fn has_room(&self) -> bool {
        let inside = self.next.saturating_sub(self.out);
        self.window.len() < BROKER_WINDOW && inside < BROKER_INSIDE as u64
    }

    fn apply(&mut self, event: Event) {
        let own = if let Event::Burst(messages) = &event { messages.len() } else { 0 };
        self.state.apply(event);
        self.local_queued.fetch_sub(own, Relaxed);
    }

    fn came_out(&mut self, r: Returned) {
        // Tickets come back in order; a jump means that the engine lost those between.
        let jumped = r.ticket.saturating_sub(self.out);
        let lost = jumped.max(r.gap);
        if lost > 0 {
            Counters::add(&self.state.counters.engine_gaps, usize::try_from(lost).unwrap_or(usize::MAX));
            tracing::error!(lost, "the routing engine lost messages; they are delivered from the window");
        }
        if r.ticket < self.next {
            self.out = self.out.max(r.ticket + 1);
        }
    }

    /// When the oldest message will have been inside the engine for too long.
    fn stalls_at(&self) -> Option<Instant> {
        self.engine.as_ref()?;
        let (_, entered) = self.window.iter().find_map(|w| w.ticket)?;
        Some((entered + self.state.limits.engine_stall).max(self.patience))
    }

    fn look_for_a_stall(&mut self, now: Instant) {
        let Some(at) = self.stalls_at().filter(|at| *at <= now) else { return };
        if now.duration_since(at) > LATE {
            // We were stopped or starved ourselves, and so was the engine: it gets its time again.
            self.patience = now + self.state.limits.engine_stall;
        } else {
            self.switch("it stalled");
        }
    }

    /// Hands over to the native engine: everything in the window goes straight to its subscribers.
    fn switch(&mut self, why: &'static str) {
        if let Some(running) = self.engine.take() {
            let name = running.engine.name();
            tracing::error!(
                engine = name,
                why,
                waiting = self.window.len(),
                "the native routing engine takes over"
            );
            Counters::add(&self.state.counters.engine_switches, 1);
            self.state.counters.engine_native.store(1, Relaxed);
        }
        self.out = self.next;
    }
}

async fn next_returned(engine: &mut Option<Running>, into: &mut Vec<Returned>) -> usize {
    match engine {
        Some(running) => running.returned.recv_many(into, TAKE).await,
        None => std::future::pending().await,
    }
}
