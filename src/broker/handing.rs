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
    /// It is on its way, and this is who waits for the answer.
    Waiting(AckTo),
    /// The log has it, and this group of the journal says so; nobody was there for the answer.
    Stored(u64),
}

impl State {
    /// Routes a message that is to be stored, unless it was, and hands it over, unless it is on its way.
    pub(super) fn forward(&mut self, forward: Forward) {
        let Forward { message, ack, begun, room } = forward;
        let qos = message.qos;
        let twice = ack.filter(|_| qos == 2);
        if begun && let Some(ack) = twice {
            match self.handed.get_mut(&(ack.key, ack.id)) {
                Some(Handing::Waiting(whom)) => {
                    *whom = ack;
                    return;
                }
                Some(Handing::Stored(after)) => {
                    let after = *after;
                    self.handed.remove(&(ack.key, ack.id));
                    return self.tell(ack, Control::Routed { id: ack.id, qos, matched: true, after });
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
            self.handed.insert((ack.key, ack.id), Handing::Waiting(ack));
        }
        self.tap.hand_over(message, ack.map(|ack| (ack, qos, after)), room);
    }

    /// The log has these.
    pub(super) fn stored(&mut self, receipts: Vec<Receipt>) {
        for (mut ack, qos, mut after) in receipts.into_iter().filter_map(|receipt| receipt.ack) {
            if qos == 2 {
                if let Some(Handing::Waiting(whom)) = self.handed.remove(&(ack.key, ack.id)) {
                    ack = whom;
                }
                after = after.max(self.note_taken(ack));
                let client = self.clients.get(&ack.key).map(|client| &client.presence);
                let there = matches!(client, Some(Presence::Online { conn, .. }) if *conn == ack.conn);
                if !there && client.is_some() {
                    self.handed.insert((ack.key, ack.id), Handing::Stored(after));
                }
            }
            self.tell(ack, Control::Routed { id: ack.id, qos, matched: true, after });
        }
    }
}
