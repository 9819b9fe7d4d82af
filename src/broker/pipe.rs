//! A bounded channel from one end to another that holds no memory while nothing waits in it, and hands over all that waits at once.
//!
//! # What it promises
//! - What went in comes out, in that order; what finds no place goes back to whoever brought it.
//! - Waiting is cancel safe, and ends when the other end is gone.
//! - An end that waits with nothing to take has no buffer: a broker has two of these for every client, and most clients are quiet.
//!   (tokio's keeps a block of 32 places from the first word on, and takes a lock and wakes for each of them.)

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::task::coop;

/// Where things go in.
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    most: usize,
}

/// Where they come out.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// Taken over, and not yet taken out.
    here: VecDeque<T>,
    /// Taken out, and not yet counted as gone.
    gone: usize,
}

#[derive(Debug)]
struct Shared<T> {
    inner: Mutex<Inner<T>>,
    /// What is in it, with what the receiver has taken over.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Inner<T> {
    waiting: VecDeque<T>,
    waker: Option<Waker>,
    /// Both ends are there.
    open: bool,
}

/// There is nothing, for now or for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty;

/// A channel with so many places.
#[must_use]
pub fn channel<T>(most: usize) -> (Sender<T>, Receiver<T>) {
    let inner = Inner { waiting: VecDeque::new(), waker: None, open: true };
    let shared = Arc::new(Shared { inner: Mutex::new(inner), count: AtomicUsize::new(0) });
    (Sender { shared: Arc::clone(&shared), most }, Receiver { shared, here: VecDeque::new(), gone: 0 })
}

impl<T> Shared<T> {
    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        // Nothing in here is half done when it panics.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) -> Option<Waker> {
        let mut inner = self.inner();
        inner.open = false;
        inner.waker.take()
    }
}

impl<T> Sender<T> {
    /// Puts it in. Never waits.
    ///
    /// # Errors
    /// It back: there is no place, or nobody who would take it.
    pub fn try_send(&self, what: T) -> Result<(), T> {
        if self.len() >= self.most {
            return Err(what);
        }
        let mut inner = self.shared.inner();
        if !inner.open {
            return Err(what);
        }
        inner.waiting.push_back(what);
        self.shared.count.fetch_add(1, Relaxed);
        let waker = inner.waker.take();
        drop(inner);
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// How much is in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.count.load(Relaxed)
    }

    /// The receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.shared.inner().open
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.close().into_iter().for_each(Waker::wake);
    }
}

impl<T> Receiver<T> {
    /// The next, if there is one. It counts as gone with the next [`Receiver::settle`], at the latest when there is no more.
    ///
    /// # Errors
    /// There is none.
    pub fn try_recv(&mut self) -> Result<T, Empty> {
        if self.here.is_empty() {
            self.settle();
            std::mem::swap(&mut self.shared.inner().waiting, &mut self.here);
        }
        let next = self.here.pop_front().ok_or(Empty)?;
        self.gone += 1;
        Ok(next)
    }

    /// The next, when there is one; `None`: there will be no more. Cancel safe.
    pub async fn recv(&mut self) -> Option<T> {
        // It has its share of the task's turn, as all that a task may wait for.
        coop::cooperative(poll_fn(|cx| self.poll(cx))).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Ok(next) = self.try_recv() {
            self.settle();
            return Poll::Ready(Some(next));
        }
        let mut inner = self.shared.inner();
        if !inner.waiting.is_empty() {
            drop(inner);
            // It came between the two looks.
            return self.poll(cx);
        }
        if !inner.open {
            return Poll::Ready(None);
        }
        if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            inner.waker = Some(cx.waker().clone());
        }
        inner.waiting = VecDeque::new();
        drop(inner);
        self.here = VecDeque::new();
        Poll::Pending
    }

    /// What was taken out is counted as gone.
    pub fn settle(&mut self) {
        if self.gone > 0 {
            self.shared.count.fetch_sub(self.gone, Relaxed);
            self.gone = 0;
        }
    }

    /// From now on nothing goes in.
    pub fn close(&mut self) {
        self.shared.close();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.close();
        // The sender may live on for long.
        let left = std::mem::take(&mut self.shared.inner().waiting);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn what_goes_in_comes_out_in_order_and_what_has_no_place_goes_back() {
        let (tx, mut rx) = channel(3);
        assert_eq!([1, 2, 3, 4].map(|n| tx.try_send(n)), [Ok(()), Ok(()), Ok(()), Err(4)]);
        assert_eq!((rx.try_recv(), tx.len()), (Ok(1), 3), "not yet counted");
        rx.settle();
        assert_eq!((tx.len(), tx.try_send(5), tx.try_send(6)), (2, Ok(()), Err(6)));
        assert_eq!((rx.recv().await, tx.len()), (Some(2), 2), "who waits is counted at once");
        assert_eq!([rx.try_recv(), rx.try_recv(), rx.try_recv()], [Ok(3), Ok(5), Err(Empty)]);
        assert_eq!(tx.len(), 0);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_an_item_and_by_the_end() {
        let (tx, mut rx) = channel(1);
        let waits = tokio::spawn(async move { (rx.recv().await, rx.recv().await) });
        tokio::task::yield_now().await;
        assert_eq!(tx.try_send('x'), Ok(()));
        tokio::task::yield_now().await;
        drop(tx);
        assert_eq!(waits.await.expect("no panic"), (Some('x'), None));
    }

    #[tokio::test]
    async fn what_waits_outlives_its_sender_and_nothing_its_receiver() {
        let (tx, mut rx) = channel(9);
        assert_eq!((tx.try_send(1), tx.is_closed()), (Ok(()), false));
        drop(tx);
        assert_eq!((rx.recv().await, rx.recv().await), (Some(1), None));
        let (tx, rx) = channel(9);
        let held = Arc::new(());
        assert_eq!(tx.try_send(held.clone()), Ok(()));
        drop(rx);
        assert_eq!((Arc::strong_count(&held), tx.is_closed()), (1, true));
        assert!(tx.try_send(held).is_err());
    }

    #[tokio::test]
    async fn an_end_that_waits_has_no_buffer() {
        let (tx, mut rx) = channel(1000);
        for n in 0..1000 {
            assert_eq!(tx.try_send(n), Ok(()));
        }
        for n in 0..1000 {
            assert_eq!(rx.recv().await, Some(n));
        }
        assert!(timeout(Duration::from_millis(1), rx.recv()).await.is_err());
        assert_eq!((rx.here.capacity(), rx.shared.inner().waiting.capacity()), (0, 0));
    }

    #[tokio::test]
    async fn who_is_never_left_waiting_leaves_others_their_turn() {
        let (tx, mut rx) = channel(10_000);
        for n in 0..10_000 {
            assert_eq!(tx.try_send(n), Ok(()));
        }
        let other = tokio::spawn(async {});
        while !other.is_finished() {
            assert!(rx.recv().await.is_some_and(|n| n < 9_999), "the other had no turn");
        }
    }
}
