//! The log as one uplink sees it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::TrySendError;

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};

use super::Inner;
use super::drain::{Chunk, Drain, DrainError, Ledger};
use super::exchange::{Exchange, Session, Step};
use super::lend::PATIENCE;
use super::state::Tick;
use super::writer::Job;
use crate::message::{CorrectionRecord, LossReason, LossRecord};

/// One uplink's end of the log. After the uplink left the configuration it is empty.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) inner: Arc<Inner>,
    pub(super) uplink: String,
}

#[async_trait]
impl Drain for Port {
    fn head(&self) -> watch::Receiver<u64> {
        self.inner.shared.readable.subscribe()
    }

    fn pending(&self) -> Vec<Range<u64>> {
        self.inner.shared.state().owed(&self.uplink)
    }

    async fn read(&self, range: Range<u64>, max: usize) -> Result<Chunk, DrainError> {
        if let Some(chunk) = self.inner.shared.state().lent(&self.uplink, &range, max) {
            return Ok(chunk);
        }
        let (reply, answer) = oneshot::channel();
        self.inner.ask(Job::Read(Some(self.uplink.clone()), range, max, reply), answer).await?
    }

    fn taken_by(&self, seq: u64) -> Option<String> {
        self.inner.shared.state().epochs.gateway(seq)
    }

    fn delivered(&self, range: Range<u64>) {
        self.inner.shared.state().deliver(&self.uplink, range);
        self.inner.wake();
    }

    fn reject(&self, ranges: &[Range<u64>], reason: LossReason) {
        {
            let mut state = self.inner.shared.state();
            for range in ranges {
                // What is only lent is refused again by the next connection: a declaration must not be ahead of the log.
                let range = range.start..range.end.min(state.stored);
                state.settle(&self.uplink, range, Some(reason));
            }
        }
        self.inner.wake();
    }

    async fn losses(&self, max: usize) -> Result<Vec<(u64, LossRecord)>, DrainError> {
        let (reply, answer) = oneshot::channel();
        self.inner.ask(Job::Losses(self.uplink.clone(), max, reply), answer).await?
    }

    fn loss_delivered(&self, handle: u64) {
        {
            let mut state = self.inner.shared.state();
            state.losses_done.insert(handle);
            state.dirty_since.get_or_insert_with(super::state::Tick::now);
        }
        self.inner.wake();
    }

    fn unplaced(&self) -> Option<u64> {
        self.inner.shared.state().unplaced(&self.uplink)
    }

    async fn corrections(&self, max: usize) -> Result<Vec<(u64, CorrectionRecord)>, DrainError> {
        let none = |account: &super::account::Account| account.released.is_empty();
        if self.inner.shared.state().accounts.get(&self.uplink).is_none_or(none) {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        self.inner.ask(Job::Corrections(self.uplink.clone(), max, reply), answer).await?
    }

    fn correction_delivered(&self, first: u64) {
        {
            let mut state = self.inner.shared.state();
            if let Some(account) = state.accounts.get_mut(&self.uplink) {
                account.released.tell(first);
            }
            state.dirty_since.get_or_insert_with(super::state::Tick::now);
        }
        self.inner.wake();
    }

    fn session(&self) -> Option<Session> {
        self.inner.shared.state().session(&self.uplink, Tick::now())
    }

    async fn note(&self, step: Step) -> Result<(), DrainError> {
        self.inner.shared.state().note(&self.uplink, &step, Tick::now())?;
        let (reply, answer) = oneshot::channel();
        let durable = self.inner.ask(Job::Settle(reply), answer);
        let done = tokio::time::timeout(PATIENCE, durable).await;
        let done = done.unwrap_or_else(|_| Err(DrainError("the disk does not answer".into())));
        if done.is_err() {
            self.inner.shared.state().retract(&self.uplink, &step);
        }
        done
    }

    fn exchange_over(&self, id: u16, delivered: Option<Range<u64>>) {
        self.inner.shared.state().exchange_over(&self.uplink, id, delivered);
        self.inner.wake();
    }

    fn end_session(&self) -> Vec<Exchange> {
        let open = self.inner.shared.state().end_session(&self.uplink);
        self.inner.wake();
        open
    }

    fn ledger(&self) -> Ledger {
        self.inner.shared.state().ledger(&self.uplink)
    }
}

impl Inner {
    /// Makes the writer look, soon. Several wake-ups are one.
    pub(super) fn wake(&self) {
        if self.shared.waking.swap(true, Ordering::AcqRel) {
            return;
        }
        // Full or gone: the writer is awake anyway, or will never be.
        if let Err(TrySendError::Full(_)) = self.jobs.try_send(Job::Wake) {
            self.shared.waking.store(false, Ordering::Release);
        }
    }

    /// Asks the writer and waits for its answer.
    pub(super) async fn ask<T>(&self, job: Job, answer: oneshot::Receiver<T>) -> Result<T, DrainError> {
        let gone = || DrainError("the store has ended or the disk is out of order".into());
        let _turn = self.permits.acquire().await.map_err(|_| gone())?;
        self.jobs.try_send(job).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}
