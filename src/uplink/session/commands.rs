//! Commands that come down a connection: handed on at once, or refused at once.

use super::{Bytes, Session, UplinkCounters, mpsc, payload};
use crate::message::{CommandRequest, Origin};

impl Session<'_> {
    /// A command goes to whoever executes them; if too many wait, it is refused at once.
    pub(super) fn command(&mut self, topic: &str, payload: Bytes, retained: bool) {
        let Some((device, point)) = self.context.topics.command_target(topic) else { return };
        let request = CommandRequest {
            device: device.to_owned(),
            point: point.to_owned(),
            payload,
            retained,
            origin: Origin::Uplink(self.context.name.clone()),
            received: tokio::time::Instant::now(),
        };
        self.request(request);
    }

    /// A command, however it was said.
    pub(super) fn request(&mut self, request: CommandRequest) {
        let (refused, why) = match self.context.commands.try_send(request) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(request)) => (request, "busy: too many commands are waiting"),
            Err(mpsc::error::TrySendError::Closed(request)) => (request, "the gateway is stopping"),
        };
        UplinkCounters::add(&self.delivery.counters.commands_busy, 1);
        let answer = payload::refused(&refused.payload, why, self.context.clock.wall());
        let topic = self.context.topics.result(&refused.device, &refused.point);
        self.delivery.mirror.event(topic.into(), answer.into());
    }
}
