//! Messages on topics that are forwarded have two places to go: to sessions and what is retained, by the hub, and into the log,
//! by the keeper of the tap. What becomes of one with QoS 2 whose publisher says it again in between.
//!
//! # What it promises, if its publisher's session stays
//! - It is routed once. The group of the journal that has it for those whose session stays has its packet id, too, as begun: said
//!   again, over another connection or after a kill, it goes only where it has not yet been.
//! - It goes into the log once. For the two places are two files, and a kill may fall between their commits:
//!   1. It is handed over under a [`Docket`], which stands in the journal with its packet id (begun), and the keeper gets it when that
//!      is durable ([`Keeper`](super::tap::Keeper)). So whatever the log has under a docket, the journal knows.
//!   2. Dockets count up as messages are handed over; the log takes them in that order, and what makes them durable there says
//!      the last docket. So of a life of ours, the log has exactly those up to that one (or no uplink wanted them).
//!   3. Then the journal notes the id as taken, and its publisher is told.
//!
//!   A start that finds an id begun asks the log's last docket. Up to that one it is there: the id is taken, and its publisher is answered
//!   when it says it again. Any other goes in, under a new docket. Ids are noted as taken before the log hears of a docket of the new
//!   life, for then it says no more of the old one.
//! - It is never taken for stored without being so. Where the log cannot say it (another database, an older one, none that can be read at
//!   the start), or the journal's disk is out of order and nobody waits for it, the message may be there twice.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::message::Publish;
use super::session::BEGUN;
use super::state::{AckTo, By, Control, Presence, State};
use super::tap::Receipt;
use super::trie::Key;
use crate::message::{Docket, Standing};

/// A message of a client that is to be stored.
#[derive(Debug)]
pub struct Forward {
    /// It.
    pub message: Publish,
    /// Who waits for an answer.
    pub ack: Option<AckTo>,
    /// It was routed before; only the log may lack it.
    pub begun: bool,
    /// Its share of the room for such.
    pub room: OwnedSemaphorePermit,
}

/// QoS 2 messages that were handed over, by publisher and packet id.
pub type Handed = HashMap<(Key, u16), Handing>;

/// How one of them stands.
#[derive(Debug, Clone, Copy)]
pub enum Handing {
    /// It is on its way.
    Waiting {
        /// By whom it was handed over: a packet id is soon another message's.
        by: AckTo,
        /// Who waits for the answer.
        whom: AckTo,
        /// Under what, if a restart is to know of it.
        docket: Option<Docket>,
    },
    /// The log has it; another connection than those that said so far has the session.
    Stored,
}

/// The docket before the first one of this life.
#[must_use]
pub fn begin() -> Docket {
    Docket { life: getrandom::u64().unwrap_or_else(|_| fastrand::u64(..)), n: 0 }
}

/// The docket of a message that is on its way.
#[must_use]
pub fn docket_of(handed: &Handed, which: (Key, u16)) -> Option<Docket> {
    match handed.get(&which) {
        Some(Handing::Waiting { docket, .. }) => *docket,
        Some(Handing::Stored) | None => None,
    }
}

impl State {
    /// The next docket, for a message whose publisher's session outlives the process.
    fn docket(&mut self, ack: AckTo) -> Option<Docket> {
        if !self.is_kept(ack.key) {
            return None;
        }
        self.docket.n += 1;
        Some(self.docket)
    }

    /// Routes a message that is to be stored, unless it was, and hands it over, unless it is on its way.
    pub(super) fn forward(&mut self, forward: Forward) {
        let Forward { message, ack, begun, room } = forward;
        let qos = message.qos;
        let twice = ack.filter(|_| qos == 2);
        if begun && let Some(ack) = twice {
            match self.handed.get_mut(&(ack.key, ack.id)) {
                Some(Handing::Waiting { whom, .. }) => {
                    *whom = ack;
                    return;
                }
                Some(Handing::Stored) => {
                    self.handed.remove(&(ack.key, ack.id));
                    return self.tell(ack, Control::Routed { id: ack.id, qos, matched: true, after: 0 });
                }
                None => {}
            }
        }
        let message = Arc::new(message);
        let docket = twice.and_then(|ack| self.docket(ack));
        let standing = Standing::Begun(docket);
        let after = match twice {
            Some(ack) if begun => self.note_id(ack, standing),
            _ => self.route(&message, By { ack, id: twice.map(|_| standing), retain: true }).1,
        };
        if let Some(ack) = twice {
            self.handed.insert((ack.key, ack.id), Handing::Waiting { by: ack, whom: ack, docket });
        }
        self.tap.hand_over(message, ack.map(|ack| (ack, qos, after)), docket, room);
    }

    /// The log has these. Whoever has the session notes it, for only there it is known whether the packet id is still that message's.
    pub(super) fn stored(&mut self, receipts: Vec<Receipt>) {
        for (ack, qos, after) in receipts.into_iter().filter_map(|receipt| receipt.ack) {
            let routed = Control::Routed { id: ack.id, qos, matched: true, after };
            if qos < 2 {
                self.tell(ack, routed);
                continue;
            }
            let whom = match self.handed.get(&(ack.key, ack.id)) {
                Some(Handing::Waiting { by, whom, .. }) if *by == ack => *whom,
                _ => continue,
            };
            self.handed.remove(&(ack.key, ack.id));
            match self.clients.get(&ack.key).map(|client| &client.presence) {
                Some(Presence::Online { conn, .. }) if *conn == whom.conn => self.tell(whom, routed),
                Some(Presence::Online { .. }) => {
                    self.handed.insert((ack.key, ack.id), Handing::Stored);
                }
                Some(Presence::Away { session, .. }) if session.taken.get(&ack.id) == Some(&BEGUN) => {
                    self.stored_for_nobody(whom);
                }
                _ => {}
            }
        }
    }

    fn stored_for_nobody(&mut self, ack: AckTo) {
        let group = self.note_taken(ack);
        if let Some(client) = self.clients.get_mut(&ack.key)
            && let Presence::Away { session, .. } = &mut client.presence
        {
            session.taken.insert(ack.id, group);
        }
    }
}
