//! What may be asked of a bus besides its polls, and the way to its task.
//!
//! There are two queues: what fieldgate itself asks (commands, one-shot reads) goes first; what is carried
//! for others (clients of a share, a scan) waits for it, and for the polls (`share::guests`).

use std::time::Duration;

use driver_api::{Sample, Value};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::bounds;

/// Something to do on the bus besides polling.
#[derive(Debug)]
pub enum Ask {
    /// Read the block of this point now.
    Read {
        /// Index into the plan.
        point: usize,
    },
    /// Write a raw value and read it back.
    Write {
        /// Index into the plan.
        point: usize,
        /// The raw value, already checked against the point's type.
        value: Value,
        /// Not to be begun after this.
        not_after: Instant,
    },
}

/// What came of an [`Ask`].
#[derive(Debug)]
pub struct Exchange {
    /// What the point's block holds now (after the write), raw; or why it could not be read.
    pub read: Result<Vec<Sample>, String>,
}

impl Exchange {
    /// What one point of the block holds now, raw.
    ///
    /// # Errors
    /// Why it could not be read, in words.
    pub fn point(&self, point: usize) -> Result<&Sample, String> {
        let samples = self.read.as_ref().map_err(Clone::clone)?;
        let found = samples.iter().find(|sample| sample.point == point);
        found.ok_or_else(|| "the device gave no value".to_owned())
    }
}

/// Why an [`Ask`] did not happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// Its time had passed before its turn came; nothing was sent.
    Expired,
    /// The device or the bus, in words.
    Failed(String),
    /// Too many are waiting.
    Busy,
}

/// A request that is nobody's point, in the bus's own protocol (see [`driver_api::Bus::carry`]).
#[derive(Debug)]
pub struct Carry {
    /// The unit on the bus.
    pub unit: u8,
    /// The request's PDU.
    pub request: Vec<u8>,
    /// Longest wait for the answer.
    pub timeout: Duration,
    /// Who wants it.
    pub guest: Guest,
    /// Not to be begun after this.
    pub not_after: Instant,
}

/// Who wants something carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// A client of the share: a machine that asks for ever, whatever it gets.
    Client,
    /// A person, who asks a few hundred times at most and wants to know who is silent.
    Person,
}

/// An answer to a [`Carry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The answer's PDU; a refusal of the device is one like any other.
    pub answer: Vec<u8>,
    /// How long the exchange took, the silence before it included.
    pub took: Duration,
}

/// Why a [`Carry`] has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCarried {
    /// Too much is waiting, or its turn did not come in time. Nothing was sent.
    #[error("the bus has too much to do; try again")]
    Busy,
    /// Nothing came in time; or nothing was sent, because this unit has been silent.
    #[error("no answer")]
    Silent,
    /// What came is no answer that can be believed; in words.
    #[error("{0}")]
    Garbled(String),
    /// The bus is down; in words.
    #[error("{0}")]
    Down(String),
}

const STOPPED: &str = "the bus is being stopped or reloaded";

/// An ask and where its answer goes.
pub(super) type Request = (Ask, oneshot::Sender<Result<Exchange, Failed>>);

/// A request to be carried and where its answer goes.
pub(super) type CarryRequest = (Carry, oneshot::Sender<Result<Carried, NotCarried>>);

/// The way to a running bus task.
#[derive(Debug, Clone)]
pub struct BusHandle {
    requests: mpsc::Sender<Request>,
    carries: mpsc::Sender<CarryRequest>,
}

impl BusHandle {
    /// A way to a task, and the task's end of it.
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>, mpsc::Receiver<CarryRequest>) {
        let (requests, inbox) = mpsc::channel(bounds::BUS_REQUESTS);
        let (carries, waiting) = mpsc::channel(bounds::BUS_CARRIES);
        (Self { requests, carries }, inbox, waiting)
    }

    /// A way to a task that has ended.
    #[cfg(test)]
    pub(crate) fn unconnected() -> Self {
        Self::new().0
    }

    /// Has a request carried, and waits for the answer.
    ///
    /// # Errors
    /// See [`NotCarried`].
    pub async fn carry(&self, carry: Carry) -> Result<Carried, NotCarried> {
        let (answer, wait) = oneshot::channel();
        // Places are given in the order of asking: whoever asks again at once gets no advantage of it.
        let place = timeout_at(carry.not_after, self.carries.reserve()).await;
        let place = place.map_err(|_late| NotCarried::Busy)?;
        place.map_err(|_closed| NotCarried::Down(STOPPED.to_owned()))?.send((carry, answer));
        wait.await.unwrap_or_else(|_| Err(NotCarried::Down(STOPPED.to_owned())))
    }

    /// Asks, and waits for the answer. Every exchange on a bus ends by itself, so this does too.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn ask(&self, ask: Ask) -> Result<Exchange, Failed> {
        self.begin(ask)?.wait().await
    }

    /// Puts the ask into the bus's queue at once, so that asks keep their order.
    ///
    /// # Errors
    /// [`Failed::Busy`] when too many are waiting.
    pub fn begin(&self, ask: Ask) -> Result<Pending, Failed> {
        let (answer, wait) = oneshot::channel();
        self.requests.try_send((ask, answer)).map_err(|refused| match refused {
            TrySendError::Full(_) => Failed::Busy,
            TrySendError::Closed(_) => Failed::Failed(STOPPED.to_owned()),
        })?;
        Ok(Pending(wait))
    }

    /// Whether an ask would be taken now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.requests.is_closed() && self.requests.capacity() > 0
    }
}

/// An ask in a bus's queue.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<Exchange, Failed>>);

impl Pending {
    /// Waits for the answer.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn wait(self) -> Result<Exchange, Failed> {
        let stopped = || Failed::Failed(STOPPED.to_owned());
        self.0.await.unwrap_or_else(|_| Err(stopped()))
    }
}
