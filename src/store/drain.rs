//! What one uplink may ask of the log. The uplink knows nothing else of the store, so its tests
//! bring a log of their own.
//!
//! The numbers of the log are a line. For one uplink every number below the head is, at every
//! instant, exactly one of: delivered, queued, declared lost.

use std::ops::Range;

use async_trait::async_trait;
use tokio::sync::watch;

use super::exchange::{Exchange, Session, Step};
use crate::bounds;
use crate::message::{CorrectionRecord, ForwardedRecord, LossReason, LossRecord, Record, WallMs};

/// The log as one uplink sees it.
#[async_trait]
pub trait Drain: Send + Sync {
    /// One past the highest number that may be read: of the durable ones, and while the disk is out of order of those
    /// in RAM. Changes after every commit; never goes back.
    fn head(&self) -> watch::Receiver<u64>;

    /// What may be read and is neither acknowledged nor declared lost: ascending, disjoint, not touching.
    fn pending(&self) -> Vec<Range<u64>>;

    /// Reads at most `max` records with numbers in `range`, ascending. Numbers that are gone
    /// (dropped, corrupt) are skipped: the store has declared them; so are messages that are not for this uplink. The
    /// same number is the same record each time.
    ///
    /// # Errors
    /// The disk cannot be read now. Ask again later; nothing is lost by the failure itself.
    async fn read(&self, range: Range<u64>, max: usize) -> Result<Chunk, DrainError>;

    /// These numbers were acknowledged by the upstream broker. Durable with the next commit;
    /// a crash before that repeats them under the same identity.
    fn delivered(&self, range: Range<u64>);

    /// These numbers (ascending) will never be accepted upstream: declared lost, with the reason. They are one record as far
    /// as everything between them is settled.
    fn reject(&self, ranges: &[Range<u64>], reason: LossReason);

    /// Loss records of this uplink that were not delivered yet, oldest first, at most `max`,
    /// each with its handle for [`Drain::loss_delivered`].
    async fn losses(&self, max: usize) -> Result<Vec<(u64, LossRecord)>, DrainError>;

    /// The upstream broker acknowledged this loss record.
    fn loss_delivered(&self, handle: u64);

    /// Numbers from here on (all of this boot) have no time yet: the clock is not set. Reading them is deciding that
    /// they go out with a guess, for ever. `None`: there are none.
    fn unplaced(&self) -> Option<u64>;

    /// Corrections for this uplink that were not delivered yet, oldest first, at most `max`, each with its handle for
    /// [`Drain::correction_delivered`].
    async fn corrections(&self, max: usize) -> Result<Vec<(u64, CorrectionRecord)>, DrainError>;

    /// The upstream broker acknowledged this correction.
    fn correction_delivered(&self, handle: u64);

    /// What this uplink has open at its broker with QoS 2; `None`: none can be kept, the disk is out of order.
    fn session(&self) -> Option<Session>;

    /// Notes what is about to be said to the broker, and waits until that is durable.
    ///
    /// # Errors
    /// It is not, so it must not be said as if it were. Nothing that was to be sent, and no beginning, is noted then.
    /// (A crash may still bring it back: then it was begun and not said, which does no harm.)
    async fn note(&self, step: Step) -> Result<(), DrainError>;

    /// An exchange is over: the id is free, and these numbers, if any, are delivered. Durable with the next commit.
    fn exchange_over(&self, id: u16, delivered: Option<Range<u64>>);

    /// The broker keeps no session for us: the next one is a new one. Durable with the next commit. Returns what was open.
    fn end_session(&self) -> Vec<Exchange>;

    /// What the gateway was called when this number was taken; `None`: not known, so what it is called now.
    fn taken_by(&self, seq: u64) -> Option<String> {
        let _ = seq;
        None
    }

    /// The account at this instant.
    fn ledger(&self) -> Ledger;
}

/// A stretch of the log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chunk {
    /// The readings found, ascending.
    pub records: Vec<Record>,
    /// The messages of other devices among them, ascending.
    pub messages: Vec<ForwardedRecord>,
    /// Where to go on reading: every number of the asked range below this was looked at.
    pub next: u64,
}

impl Chunk {
    /// How many records there are of both kinds.
    #[must_use]
    pub fn count(&self) -> usize {
        self.records.len() + self.messages.len()
    }

    /// Nothing, looked at up to here.
    #[must_use]
    pub fn empty(next: u64) -> Self {
        Self { next, ..Self::default() }
    }

    /// No more is to be read into it.
    #[must_use]
    pub fn is_full(&self, most: usize) -> bool {
        let bytes = || self.messages.iter().map(|m| m.message.size()).sum::<usize>();
        self.count() >= most || (!self.messages.is_empty() && bytes() >= bounds::FORWARD_READ)
    }
}

/// Why the log could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the queue cannot be read now: {0}")]
pub struct DrainError(pub String);

/// One uplink's account: `taken = delivered + queued + lost` at every instant. Messages that it does not forward are in
/// none of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Readings and messages for it taken since the uplink exists.
    pub taken: u64,
    /// Acknowledged by the upstream broker.
    pub delivered: u64,
    /// Waiting, in RAM or on disk.
    pub queued: u64,
    /// Declared lost.
    pub lost: u64,
    /// Bytes on disk of what is queued, about.
    pub queued_bytes: u64,
    /// When the oldest queued reading was taken.
    pub oldest: Option<WallMs>,
}
