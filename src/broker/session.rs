//! What outlives a connection: the queue, the messages in flight, and the packet ids of QoS 2. Pure.
//!
//! A session is a value: it is with its connection while there is one, and with the hub otherwise, so
//! nobody needs a lock. Only its owner changes it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::queue::{Account, Addressed, Charge, Receiver, Walk};
use super::trie::Key;
use super::wire::reason;

/// A client's session.
#[derive(Debug)]
pub struct Session {
    /// The hub's name for it.
    pub key: Key,
    /// The client's name for it.
    pub client_id: Arc<str>,
    /// What is still to be sent.
    pub queue: Receiver,
    /// What was sent and is not yet acknowledged.
    pub flight: Flight,
    /// The walk over retained messages that comes before the rest of the queue.
    pub walk: Option<Walk>,
    /// What is at hand of it.
    pub portion: VecDeque<Addressed>,
    /// Packet ids of QoS 2 messages taken from the client, until its PUBREL.
    pub taken: HashSet<u16>,
}

/// Messages sent to a client and not yet acknowledged, in the order they were sent.
#[derive(Debug, Default)]
pub struct Flight {
    sent: VecDeque<Sent>,
    last: u16,
    /// What is in flight counts with what waits in the queue.
    account: Account,
}

/// One of them.
#[derive(Debug)]
pub struct Sent {
    /// Packet id.
    pub id: u16,
    /// The message; `None` once PUBREC came and PUBREL was sent.
    pub message: Option<Addressed>,
    charge: Option<Charge>,
}

impl Flight {
    /// Nothing, of the session that has this queue.
    #[must_use]
    pub fn new(queue: &Receiver) -> Self {
        Self { account: queue.account(), ..Self::default() }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// Notes a message of QoS 1 or 2 as sent, and says with which id. `None`: all ids are in use.
    pub fn send(&mut self, message: Addressed) -> Option<u16> {
        for _ in 0..=self.sent.len() {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if self.sent.iter().all(|s| s.id != self.last) {
                let charge = Some(self.account.charge(message.message.size()));
                self.sent.push_back(Sent { id: self.last, message: Some(message), charge });
                return Some(self.last);
            }
        }
        None
    }

    /// PUBACK came. An id that is not waiting for one is ignored: it may answer a repeat.
    pub fn puback(&mut self, id: u16) {
        self.sent.retain(|s| s.id != id || s.message.as_ref().is_none_or(|m| m.qos != 1));
    }

    /// PUBREC came; the reason to put into PUBREL, or `None`: the client refused the message, it is over.
    pub fn pubrec(&mut self, id: u16, code: u8) -> Option<u8> {
        let at = self.sent.iter().position(|s| s.id == id);
        match at.and_then(|at| self.sent.get_mut(at).map(|s| (at, s))) {
            Some((_, Sent { message: Some(m), .. })) if m.qos != 2 => Some(reason::PACKET_ID_NOT_FOUND),
            Some((at, _)) if code >= 0x80 => {
                self.sent.remove(at);
                None
            }
            Some((_, sent)) => {
                sent.message = None;
                sent.charge = None;
                Some(reason::SUCCESS)
            }
            None if code >= 0x80 => None,
            None => Some(reason::PACKET_ID_NOT_FOUND),
        }
    }

    /// PUBCOMP came.
    pub fn pubcomp(&mut self, id: u16) {
        self.sent.retain(|s| s.id != id || s.message.is_some());
    }

    /// What was sent with this id: a message, or (`Some(None)`) its PUBREL.
    #[must_use]
    pub fn get(&self, id: u16) -> Option<&Option<Addressed>> {
        self.sent.iter().find(|s| s.id == id).map(|s| &s.message)
    }

    /// The message with this id was not sent after all.
    pub fn forget(&mut self, id: u16) {
        self.sent.retain(|s| s.id != id);
    }

    /// What must be sent again on a new connection, in the original order (§4.4).
    pub fn resend(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Publish;
    use super::*;

    fn message(qos: u8) -> Addressed {
        let message = Arc::new(Publish::plain("t", "x", qos, false));
        Addressed { message, qos, retain: false, ids: None }
    }

    #[test]
    fn ids_count_up_skip_those_in_use_and_are_never_0() {
        let mut flight = Flight { last: 65_533, ..Flight::default() };
        assert_eq!(flight.send(message(1)), Some(65_534));
        assert_eq!(flight.send(message(1)), Some(65_535));
        assert_eq!(flight.send(message(1)), Some(1));
        flight.last = 65_533;
        assert_eq!(flight.send(message(1)), Some(2));
        flight.puback(1);
        assert_eq!(flight.resend().map(|s| s.id).collect::<Vec<_>>(), [65_534, 65_535, 2]);
    }

    #[test]
    fn qos_2_goes_through_its_four_steps() {
        let mut flight = Flight::default();
        flight.send(message(2));
        flight.puback(1);
        flight.pubcomp(1);
        assert_eq!(flight.len(), 1, "neither PUBACK nor an early PUBCOMP ends it");
        assert_eq!(flight.pubrec(1, 0), Some(0));
        assert!(flight.resend().next().unwrap().message.is_none(), "from now on PUBREL is repeated");
        assert_eq!(flight.pubrec(1, 0), Some(0), "and a repeated PUBREC answered");
        flight.pubcomp(1);
        assert_eq!((flight.len(), flight.pubrec(1, 0)), (0, Some(0x92)));
        flight.send(message(2));
        assert_eq!((flight.pubrec(2, 0x87), flight.len()), (None, 0));
    }
}
