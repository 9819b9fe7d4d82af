//! How a connection ends that is asked to: what is in flight is finished, and the farewell is said.

use super::{Bytes, Cargo, Class, Fault, Instant, Outgoing, Session, payload};

impl Session<'_> {
    /// After the stop: everything that should still go is acknowledged, or the grace is over. Sends the
    /// farewell first; `true` once that is settled too.
    pub(super) fn finished(&mut self, now: Instant) -> Result<bool, Fault> {
        let Some(since) = self.stopping else { return Ok(false) };
        let grace = self.context.timing.grace;
        if !self.farewell {
            let busy = !self.inflight.is_empty() || self.reading.is_some() || !self.out.is_empty();
            if busy && now < since + grace {
                return Ok(false);
            }
            if self.exchanges.is_kept() && self.inflight.len() >= self.inflight.window() {
                // The engine does not count what is open, so nobody else would notice.
                return Err(Fault::Lost("no room for the farewell; the last will speaks".to_owned()));
            }
            self.farewell = true;
            self.say_death(now)?;
            let message = Outgoing {
                cargo: Cargo::Farewell,
                class: Class::Control,
                topic: self.context.topics.status().into(),
                payload: if self.resting {
                    self.terms.asleep.clone()
                } else {
                    Bytes::from_static(payload::OFFLINE)
                },
                retain: true,
                forwarded: None,
            };
            self.publish(message, now)?;
            if !self.inflight.holds(&Cargo::Farewell) {
                // Without a DISCONNECT the broker publishes our last will, which says the same.
                return Err(Fault::Lost("no room for the farewell; the last will speaks".to_owned()));
            }
        }
        Ok(!self.inflight.holds(&Cargo::Farewell) || now >= since + grace + grace / 2)
    }
}
