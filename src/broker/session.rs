//! What outlives a connection: the queue, the messages in flight, and the packet ids of QoS 2. Pure.
//!
//! A session is a value: it is with its connection while there is one, and with the hub otherwise, so
//! nobody needs a lock. Only its owner changes it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::queue::{Account, Addressed, Receiver, Walk};
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
    /// Packet ids of QoS 2 messages taken from the client, until its PUBREL; each with the group of the journal that has the
    /// message (0: none, [`UNTOLD`]: the hub has not said, [`BEGUN`]: see there).
    pub taken: Taken,
    /// It outlives the process: what happens to it is noted in the journal.
    pub kept: bool,
}

impl Session {
    /// A session in which nothing has happened.
    #[must_use]
    pub fn empty(key: Key, client_id: Arc<str>, queue: Receiver, kept: bool) -> Box<Self> {
        let flight = Flight::new(&queue);
        let (portion, taken) = (VecDeque::new(), Taken::default());
        Box::new(Self { key, client_id, queue, flight, walk: None, portion, taken, kept })
    }

    /// What was taken out of the queue is counted as in flight, or as gone.
    pub fn settle(&mut self) {
        self.flight.settle();
        self.queue.settle();
    }
}

/// Packet ids, each with a group. (There are too few of them for anybody to choose those that collide.)
pub type Taken = HashMap<u16, u64, foldhash::fast::RandomState>;

/// The group of a message that the hub has not spoken of yet.
pub const UNTOLD: u64 = u64::MAX;

/// In the place of the group: the message was routed, and its publisher has no answer, for the log did not have it by then.
pub const BEGUN: u64 = u64::MAX - 1;

/// Messages sent to a client and not yet acknowledged, in the order they were sent.
#[derive(Debug, Default)]
pub struct Flight {
    sent: VecDeque<Sent>,
    /// Counts the ids that were given one after the other.
    turn: u64,
    /// How many of what was sent have an id by their place.
    placed: usize,
    weight: Weight,
}

/// What is in flight counts with what waits in the queue: so many bytes are, and so many are counted.
#[derive(Debug, Default)]
struct Weight {
    account: Account,
    bytes: usize,
    counted: usize,
}

/// One of them.
#[derive(Debug)]
pub struct Sent {
    /// Packet id.
    pub id: u16,
    /// The message; `None` once PUBREC came and PUBREL was sent.
    pub message: Option<Addressed>,
    /// Its place in a session that is kept; 0: it is not kept.
    pub seq: u64,
    /// When its id was given; 0: its id is that of its place.
    turn: u64,
}

/// The packet id of what is kept at this place. It follows from the place, so that it is the same after a restart without
/// having been written: the client knows a QoS 2 message by it (MQTT-4.4.0-1, MQTT-4.3.3).
#[must_use]
pub fn id_of(seq: u64) -> u16 {
    u16::try_from((seq.max(1) - 1) % IDS + 1).unwrap_or(1)
}

/// There are so many packet ids.
const IDS: u64 = u16::MAX as u64;

impl Flight {
    /// Nothing, of the session that has this queue.
    #[must_use]
    pub fn new(queue: &Receiver) -> Self {
        Self { weight: Weight { account: queue.account(), bytes: 0, counted: 0 }, ..Self::default() }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// What is in flight is counted. One word about many: all sessions count in one place.
    pub fn settle(&mut self) {
        self.weight.account.change(self.weight.counted, self.weight.bytes);
        self.weight.counted = self.weight.bytes;
    }

    /// Whether its id is free, if it may have no other: a QoS 2 message that is kept waits until the one of 65 535 before it is
    /// acknowledged.
    #[must_use]
    pub fn may_send(&self, message: &Addressed) -> bool {
        message.seq == 0 || message.qos < 2 || !self.has(id_of(message.seq))
    }

    fn has(&self, id: u16) -> bool {
        self.at(id).is_some()
    }

    /// Where it is. Ids count up, so it is likely as far behind the first as their difference says.
    fn at(&self, id: u16) -> Option<usize> {
        let first = self.sent.front()?.id;
        let ahead = (u64::from(id) + IDS - u64::from(first)) % IDS;
        let likely = usize::try_from(ahead).unwrap_or(usize::MAX);
        match self.sent.get(likely) {
            Some(sent) if sent.id == id => Some(likely),
            _ => self.sent.iter().position(|s| s.id == id),
        }
    }

    /// Notes a message of QoS 1 or 2 as sent, and says with which id. `None`: all ids are in use.
    pub fn send(&mut self, message: Addressed) -> Option<u16> {
        let seq = message.seq;
        if seq > 0 && !self.has(id_of(seq)) {
            self.note(Sent { id: id_of(seq), message: Some(message), seq, turn: 0 });
            return Some(id_of(seq));
        }
        for _ in 0..=self.sent.len() {
            self.turn += 1;
            let id = id_of(self.turn);
            // An id comes again after all the others: if the oldest is younger than that, nobody has it.
            let oldest = self.sent.front().map_or(self.turn, |sent| sent.turn);
            if (self.placed == 0 && oldest + IDS > self.turn) || !self.has(id) {
                self.note(Sent { id, message: Some(message), seq, turn: self.turn });
                return Some(id);
            }
        }
        None
    }

    fn note(&mut self, sent: Sent) {
        self.weight.bytes += sent.bytes();
        self.placed += usize::from(sent.turn == 0);
        self.sent.push_back(sent);
    }

    /// What was sent before a restart: a message, or (`None`) its PUBREL.
    pub fn restore(&mut self, seq: u64, message: Option<Addressed>) {
        self.note(Sent { id: id_of(seq), message, seq, turn: 0 });
        self.settle();
    }

    /// PUBACK came. An id that is not waiting for one is ignored: it may answer a repeat. The place of what is over in a
    /// session that is kept, or 0; the same below.
    pub fn puback(&mut self, id: u16) -> u64 {
        self.over(id, |s| s.message.as_ref().is_some_and(|m| m.qos == 1))
    }

    fn over(&mut self, id: u16, if_so: impl FnOnce(&Sent) -> bool) -> u64 {
        let Some(at) = self.at(id).filter(|at| self.sent.get(*at).is_some_and(if_so)) else { return 0 };
        let Some(sent) = self.sent.remove(at) else { return 0 };
        self.weight.bytes -= sent.bytes();
        self.placed -= usize::from(sent.turn == 0);
        sent.seq
    }

    /// PUBREC came; the reason to put into PUBREL, or `None`: the client refused the message, it is over. And its place.
    pub fn pubrec(&mut self, id: u16, code: u8) -> (Option<u8>, u64) {
        let at = self.at(id);
        match at.and_then(|at| self.sent.get_mut(at)) {
            Some(Sent { message: Some(m), .. }) if m.qos != 2 => (Some(reason::PACKET_ID_NOT_FOUND), 0),
            Some(_) if code >= 0x80 => (None, self.over(id, |_| true)),
            Some(sent) => {
                self.weight.bytes -= sent.bytes();
                sent.message = None;
                (Some(reason::SUCCESS), sent.seq)
            }
            None if code >= 0x80 => (None, 0),
            None => (Some(reason::PACKET_ID_NOT_FOUND), 0),
        }
    }

    /// PUBCOMP came.
    pub fn pubcomp(&mut self, id: u16) -> u64 {
        self.over(id, |s| s.message.is_none())
    }

    /// What was sent with this id: a message, or (`Some(None)`) its PUBREL.
    #[must_use]
    pub fn get(&self, id: u16) -> Option<&Option<Addressed>> {
        self.at(id).and_then(|at| self.sent.get(at)).map(|s| &s.message)
    }

    /// Some of what was sent is not to be sent again, and nobody knows whether the client has it. Of a QoS 2 message its PUBREL is left:
    /// a client that has it keeps its packet id until then. The places of what is over.
    pub fn withdraw(&mut self, which: impl Fn(&Addressed) -> bool) -> Vec<u64> {
        let mut over = Vec::new();
        self.sent.retain_mut(|sent| match sent.message.take_if(|message| which(message)) {
            Some(message) if message.qos == 1 => {
                over.push(sent.seq);
                false
            }
            _ => true,
        });
        self.weight.bytes = self.sent.iter().map(Sent::bytes).sum();
        self.placed = self.sent.iter().filter(|sent| sent.turn == 0).count();
        self.settle();
        over
    }

    /// The message with this id was not sent after all.
    pub fn forget(&mut self, id: u16) {
        self.over(id, |_| true);
    }

    /// The last place of what was sent and is not over; 0: none.
    #[must_use]
    pub fn last_place(&self) -> u64 {
        self.sent.iter().map(|s| s.seq).max().unwrap_or(0)
    }

    /// What must be sent again on a new connection, in the original order (§4.4).
    pub fn resend(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter()
    }
}

impl Sent {
    /// What it holds.
    fn bytes(&self) -> usize {
        self.message.as_ref().map_or(0, |m| m.message.size())
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.account.change(self.counted, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Publish;
    use super::*;

    fn message(qos: u8) -> Addressed {
        let message = Arc::new(Publish::plain("t", "x", qos, false));
        Addressed::new(message, qos, false, None)
    }

    #[test]
    fn ids_count_up_skip_those_in_use_and_are_never_0() {
        let mut flight = Flight { turn: 65_533, ..Flight::default() };
        assert_eq!(flight.send(message(1)), Some(65_534));
        assert_eq!(flight.send(message(1)), Some(65_535));
        assert_eq!(flight.send(message(1)), Some(1));
        flight.turn += 65_532;
        assert_eq!(flight.send(message(1)), Some(2), "those of a round before are in use");
        flight.puback(1);
        assert_eq!(flight.resend().map(|s| s.id).collect::<Vec<_>>(), [65_534, 65_535, 2]);
    }

    /// A straggler keeps its id over rounds of all the others, whoever else has one by its place.
    #[test]
    fn no_id_is_given_twice_while_it_is_in_use() {
        let mut flight = Flight::default();
        let straggler = flight.send(message(1)).unwrap();
        let placed = Addressed { seq: 40_000, ..message(2) };
        let mut placed = flight.send(placed);
        let (mut open, mut random) = (VecDeque::new(), 1u32);
        for _ in 0..3 * 65_535 {
            let id = flight.send(message(1)).unwrap();
            assert!(id != straggler && Some(id) != placed && !open.contains(&id), "{id} is in use");
            open.push_back(id);
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if open.len() > 5 {
                let at = (random >> 16) as usize % open.len();
                flight.puback(open.remove(at).unwrap());
            }
            // Its id was left out by then.
            if flight.turn == 50_000 {
                placed.take().into_iter().for_each(|placed| flight.forget(placed));
            }
        }
        assert_eq!((flight.len(), placed), (1 + open.len(), None));
        let bytes: usize = flight.resend().map(Sent::bytes).sum();
        assert_eq!(flight.weight.bytes, bytes, "what is over weighs nothing");
    }

    #[test]
    fn qos_2_goes_through_its_four_steps() {
        let mut flight = Flight::default();
        flight.send(message(2));
        flight.puback(1);
        flight.pubcomp(1);
        assert_eq!(flight.len(), 1, "neither PUBACK nor an early PUBCOMP ends it");
        assert_eq!(flight.pubrec(1, 0).0, Some(0));
        assert!(flight.resend().next().unwrap().message.is_none(), "from now on PUBREL is repeated");
        assert_eq!(flight.pubrec(1, 0).0, Some(0), "and a repeated PUBREC answered");
        flight.pubcomp(1);
        assert_eq!((flight.len(), flight.pubrec(1, 0).0), (0, Some(0x92)));
        flight.send(message(2));
        assert_eq!((flight.pubrec(2, 0x87).0, flight.len()), (None, 0));
    }

    #[test]
    fn of_what_is_withdrawn_only_the_release_of_qos_2_is_left() {
        let mut flight = Flight::default();
        assert_eq!([1, 2, 1, 2].map(|qos| flight.send(message(qos))), [1, 2, 3, 4].map(Some));
        flight.pubrec(4, 0);
        assert_eq!(flight.withdraw(|_| false).len(), 0);
        assert_eq!(flight.withdraw(|m| m.qos > 0), [0, 0]);
        assert_eq!(
            flight.resend().map(|s| (s.id, s.message.is_none())).collect::<Vec<_>>(),
            [(2, true), (4, true)]
        );
        flight.pubcomp(2);
        assert_eq!(flight.len(), 1);
    }

    #[test]
    fn what_is_kept_has_its_id_by_its_place_and_waits_for_it() {
        let at = |seq, qos| Addressed { seq, ..message(qos) };
        assert_eq!([1, 65_535, 65_536, 131_071].map(id_of), [1, 65_535, 1, 1]);
        let mut flight = Flight::default();
        assert_eq!(flight.send(at(65_537, 2)), Some(2));
        assert!(!flight.may_send(&at(2, 2)) && flight.may_send(&at(2, 1)) && flight.may_send(&at(3, 2)));
        assert_eq!(flight.send(at(2, 1)), Some(1), "QoS 1 takes another");
        assert_eq!(flight.last_place(), 65_537);
        assert_eq!(
            (flight.puback(1), flight.pubrec(2, 0), flight.pubcomp(2)),
            (2, (Some(0), 65_537), 65_537)
        );
        flight.restore(9, None);
        assert_eq!(flight.resend().next().map(|s| s.id), Some(9));
        assert_eq!(flight.pubcomp(9), 9);
    }
}
