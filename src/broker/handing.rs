//! Messages on topics that are forwarded have two places to go: to sessions and what is retained, by the hub, and into the log,
//! by the keeper of the tap. What becomes of one with QoS 2 whose publisher says it again in between.
//!
//! # What it promises
//! - It is routed once. The group of the journal that has it for those whose session stays has its packet id, too, as begun: said
//!   again, over another connection or after a kill, it goes only where it has not yet been.
//! - While this process lives it goes into the log once. (A kill between the log's commit and the journal's, which notes the id as
//!   taken, leaves it begun: then it goes there again, under another number.)

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::message::Publish;
use super::session::BEGUN;
use super::state::{AckTo, By, Control, Presence, State};
use super::tap::Receipt;
use super::trie::Key;
use crate::message::Standing;

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
    },
    /// The log has it; another connection than those that said so far has the session.
    Stored,
}

impl State {
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
        let after = match begun {
            true => 0,
            false => {
                let by = By { ack, id: twice.map(|_| Standing::Begun), retain: true };
                self.route(&message, by).1
            }
        };
        if let Some(ack) = twice {
            self.handed.insert((ack.key, ack.id), Handing::Waiting { by: ack, whom: ack });
        }
        self.tap.hand_over(message, ack.map(|ack| (ack, qos, after)), room);
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
                Some(Handing::Waiting { by, whom }) if *by == ack => *whom,
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
