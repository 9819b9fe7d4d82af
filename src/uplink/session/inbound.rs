//! What the cloud sends: commands for whoever executes them, messages of the routes for the local broker.
//!
//! Promises: nothing here waits. Who cannot take it now is told so (a command is refused, with the reason), or it is
//! counted (a routed message).

use super::{Bytes, Duration, Fault, Instant, Session, UplinkCounters, mpsc, payload};
use crate::message::{CommandRequest, Message, Moment, Origin};
use crate::topic;

/// What status says while readings go without the subscriptions.
const SILENT: &str = "the broker ended several connections when it was asked for commands and routes (SUBSCRIBE): readings go \
                      without them, and it is asked again in a few minutes; look at what its log says of this client";

/// Why a command is refused that may have waited at the broker for nobody knows how long.
const OLD: &str = "it came before the gateway asked for commands, so it may be old; send it again";

impl Session<'_> {
    /// Asks for everything that shall come down this connection, unless the broker ends connections for that.
    pub(super) fn listen(&mut self, now: Instant) -> Result<(), Fault> {
        // A Sparkplug node has no choice: its rules want the subscription before its birth.
        if !self.terms.hearing.asks(now) && self.delivery.node().is_none() {
            self.complain("silent", SILENT);
            return Ok(());
        }
        self.silent = false;
        let mut wanted = Vec::new();
        if !self.context.allow_commands.is_empty() {
            wanted.push((self.context.topics.commands(), false));
        }
        wanted.extend(self.delivery.node().map_or_else(Vec::new, |node| node.filters()));
        wanted.extend(self.context.routes.filters().map(|filter| (filter.to_owned(), true)));
        for (filter, retained) in wanted {
            let id = self.protocol.subscribe(&filter, retained, &mut self.out)?;
            self.asked.insert(id, filter);
        }
        Ok(())
    }

    /// The answer to one of these questions.
    pub(super) fn subscribed(&mut self, id: u16, granted: bool) {
        if let Some(filter) = self.asked.remove(&id).filter(|_| !granted) {
            self.complain("subscribe", &format!("the broker does not let us receive `{filter}`"));
        }
        if self.asked.is_empty() {
            self.terms.hearing.answered();
        }
    }

    /// The connection ended with this fault. If the broker did that when it should have answered, readings may have to go
    /// without the question.
    pub(super) fn ended_by(&mut self, fault: &Fault) {
        let by_the_broker = !matches!(fault, Fault::Timeout { .. } | Fault::Log(_));
        if !self.asked.is_empty() && by_the_broker {
            self.terms.hearing.unanswered(Instant::now());
        }
    }

    /// A message of the cloud.
    pub(super) fn brought(&mut self, topic: &str, payload: Bytes, retained: bool, via: Vec<String>) {
        if self.terms.left.is_some() {
            // More may follow at once, and the window must not end before it has.
            self.settled = Instant::now() + self.context.timing.linger;
        }
        if let Some((device, point)) = self.context.topics.command_target(topic) {
            let (device, point) = (device.to_owned(), point.to_owned());
            let origin = Origin::Uplink(self.context.name.clone());
            let given = self.given_by();
            let received = given.unwrap_or_else(Instant::now);
            let request = CommandRequest { device, point, payload, retained, origin, received };
            return match given {
                Some(_) => self.request(request),
                None => self.refuse(&request, OLD),
            };
        }
        let counters = &self.delivery.counters;
        let Some(to) = self.context.routes.target(topic) else {
            UplinkCounters::add(&counters.strangers, 1);
            return;
        };
        let taken = self.context.local.try_send((Message::new(to, payload, retained), via)).is_ok();
        UplinkCounters::add(if taken { &counters.routed } else { &counters.routed_dropped }, 1);
        if !taken {
            self.complain("routes", "the local broker does not keep up with what comes from the cloud");
        }
    }

    /// The moment from which a command counts that comes now: its arrival, or, while it may be one that the broker has kept
    /// for us, the moment in which we left. `None`: nobody knows how long it was kept.
    fn given_by(&self) -> Option<Instant> {
        let now = Instant::now();
        let Some(left) = self.terms.left else {
            return (!self.resumed || self.asked.is_empty()).then_some(now);
        };
        let away = self.context.clock.boot().0.saturating_sub(left.0);
        now.checked_sub(Duration::from_millis(away))
    }

    /// What the broker has kept has come: the subscriptions are answered, and since a while nothing more came.
    pub(super) fn caught_up(&mut self, now: Instant) {
        if self.terms.left.is_some() && self.asked.is_empty() && now >= self.settled {
            self.terms.left = None;
        }
    }

    /// A command, however it was said, goes to whoever executes them; if it is not for this uplink to give, or too many
    /// wait, it is refused at once.
    pub(super) fn request(&mut self, request: CommandRequest) {
        let point = format!("{}/{}", request.device, request.point);
        let (refused, why) = if !self.context.allow_commands.iter().any(|f| topic::matches(f, &point)) {
            (request, "`allow_commands` of this uplink does not allow it")
        } else {
            let (request, why) = match self.context.commands.try_send(request) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(request)) => {
                    (request, "busy: too many commands are waiting")
                }
                Err(mpsc::error::TrySendError::Closed(request)) => (request, "the gateway is stopping"),
            };
            UplinkCounters::add(&self.delivery.counters.commands_busy, 1);
            (request, why)
        };
        self.refuse(&refused, why);
    }

    fn refuse(&mut self, refused: &CommandRequest, why: &str) {
        let clock = &self.context.clock;
        let now = Moment { ts: clock.wall(), set: clock.synced() };
        let answer = payload::refused(&refused.payload, why, now);
        let topic = self.context.topics.result(&refused.device, &refused.point);
        self.delivery.mirror.event(topic.into(), answer.into());
    }
}
