//! What an uplink gives each of its connections, and how one ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::bucket::Bucket;
use super::fault::Fault;
use super::hearing::Hearing;
use super::routes::Routes;
use super::timing::Timing;
use crate::clock::Clock;
use crate::config::model::Qos;
use crate::message::{BootMs, CommandRequest, Message};
use crate::pipeline::topics::Topics;

/// What every connection of an uplink shares.
pub(super) struct Context {
    pub name: String,
    pub topics: Topics,
    pub timing: Timing,
    pub keep_alive: Duration,
    pub clock: Arc<dyn Clock>,
    pub commands: mpsc::Sender<CommandRequest>,
    /// What may be commanded, as filters of `device/point`.
    pub allow_commands: Vec<String>,
    pub routes: Routes,
    pub qos: Qos,
    /// To the local broker, for what the routes bring.
    pub local: mpsc::Sender<(Message, Vec<String>)>,
    pub stop: CancellationToken,
}

impl Context {
    /// Readings are to arrive exactly once.
    pub fn wants_exactly_once(&self) -> bool {
        self.qos == Qos::ExactlyOnce
    }
}

/// What one connection may use.
pub(super) struct Terms<'a> {
    /// Bytes per second.
    pub bucket: &'a mut Bucket,
    /// Whether to ask for what comes down.
    pub hearing: &'a mut Hearing,
    /// On a metered link, when to go at the latest.
    pub window: Option<BootMs>,
    /// What to say when going because of that.
    pub asleep: Bytes,
    /// The broker kept a session for what comes down, and we heard from it then for the last time: what it sends now may be
    /// as old as that.
    pub left: Option<BootMs>,
    /// When the broker was last heard.
    pub heard: &'a mut BootMs,
    /// The broker has all retained messages from the window before, but for what changed since.
    pub informed: bool,
}

/// How a connection ended.
pub(super) enum End {
    /// On a metered link: everything is delivered, or the window is over; the farewell is said.
    Rested {
        /// Every message was acknowledged.
        settled: bool,
    },
    /// We were asked to stop; the farewell is said.
    Stopped,
    /// It broke.
    Broken(Fault),
}
