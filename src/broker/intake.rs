//! What came from a client and is not a whole packet yet.
//!
//! # What it promises
//! - Memory is taken as bytes arrive, never by the length that a packet announces, and a quiet client has no buffer at all.
//! - Large packets that are not complete share a budget ([`super::Limits::partial_bytes`]). When it is spent,
//!   whoever has been sending the longest is disconnected: a client that stalls inside a packet gives way to those that do
//!   not, however many it is. One that takes longer than [`super::Limits::packet_deadline`] is, too.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Duration, Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Up to this size a packet in pieces costs nobody's budget.
pub const SMALL: usize = 4096;
/// Most that is read at once: some 70 small messages.
const READ: usize = 8192;

/// The budget, and who has what of it.
#[derive(Debug)]
pub struct Partials {
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Bytes of those that were not told to go.
    live: usize,
    next: u64,
    /// By age.
    all: BTreeMap<u64, Partial>,
}

#[derive(Debug)]
struct Partial {
    bytes: usize,
    evicted: bool,
    go: CancellationToken,
}

impl Partials {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, inner: Mutex::default() })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn enter(&self, go: CancellationToken) -> u64 {
        self.with(|inner| {
            inner.next += 1;
            inner.all.insert(inner.next, Partial { bytes: 0, evicted: false, go });
            inner.next
        })
    }

    fn grow(&self, number: u64, bytes: usize) {
        self.with(|inner| {
            if let Some(partial) = inner.all.get_mut(&number)
                && !partial.evicted
            {
                inner.live = inner.live + bytes - partial.bytes;
                partial.bytes = bytes;
            }
            while inner.live > self.most
                && let Some(oldest) = inner.all.values_mut().find(|p| !p.evicted)
            {
                oldest.evicted = true;
                inner.live -= oldest.bytes;
                oldest.go.cancel();
            }
        });
    }

    fn leave(&self, number: u64) {
        self.with(|inner| {
            if let Some(Partial { evicted: false, bytes, .. }) = inner.all.remove(&number) {
                inner.live -= bytes;
            }
        });
    }
}

/// A large packet that is not complete.
struct Large {
    partials: Arc<Partials>,
    number: u64,
    counted: usize,
    /// Ends when it has to give way, or has taken too long.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Drop for Large {
    fn drop(&mut self) {
        self.partials.leave(self.number);
    }
}

/// What is there of one packet or frame that is not complete.
#[derive(Default)]
pub struct Stake(Option<Box<Large>>);

impl std::fmt::Debug for Stake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stake").field(&self.0.as_ref().map(|large| large.counted)).finish()
    }
}

impl Stake {
    /// So many bytes.
    pub fn hold(&mut self, bytes: usize, partials: &Arc<Partials>, deadline: Duration) {
        if bytes <= SMALL {
            self.0 = None;
            return;
        }
        let large = self.0.get_or_insert_with(|| {
            let go = CancellationToken::new();
            let number = partials.enter(go.clone());
            let until = Instant::now() + deadline;
            let over = Box::pin(async move {
                tokio::select! {
                    () = go.cancelled() => {}
                    () = sleep_until(until) => {}
                }
            });
            Box::new(Large { partials: partials.clone(), number, counted: 0, over })
        });
        if bytes != large.counted {
            large.counted = bytes;
            large.partials.grow(large.number, bytes);
        }
    }

    /// It has to give way, or has taken too long; otherwise the task is woken when it does.
    pub fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.0.as_mut().is_some_and(|large| large.over.as_mut().poll(cx).is_ready())
    }
}

/// One client's bytes that were not understood yet.
#[derive(Default)]
pub struct Intake {
    /// They.
    pub bytes: BytesMut,
    large: Stake,
}

impl Intake {
    /// Reads what is there, `most` bytes at the most; 0: that was all. While there is nothing, an empty buffer is given back.
    /// Cancel safe.
    ///
    /// # Errors
    /// Those of the stream; `TimedOut`: the client has been sending one packet for too long.
    pub async fn read(&mut self, io: &mut (impl AsyncRead + Unpin), most: usize) -> std::io::Result<usize> {
        std::future::poll_fn(|cx| {
            let mut space = [MaybeUninit::uninit(); READ];
            let most = most.clamp(1, READ);
            let mut room = ReadBuf::uninit(&mut space[..most]);
            match Pin::new(&mut *io).poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) => {
                    self.bytes.extend_from_slice(room.filled());
                    Poll::Ready(Ok(room.filled().len()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.rest();
                    match self.large.is_over(cx) {
                        true => Poll::Ready(Err(std::io::ErrorKind::TimedOut.into())),
                        false => Poll::Pending,
                    }
                }
            }
        })
        .await
    }

    /// Gives back what an empty buffer holds.
    fn rest(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > 0 {
            self.bytes = BytesMut::new();
        }
    }

    /// All packets that are complete were taken out (`taken`: there was one); what is left is one that is not.
    pub fn settle(&mut self, taken: bool, partials: &Arc<Partials>, deadline: Duration) {
        if taken {
            self.large = Stake::default();
        }
        let large = self.bytes.len() > SMALL;
        self.large.hold(if large { self.bytes.capacity() } else { 0 }, partials, deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const DEADLINE: Duration = Duration::from_secs(30);

    async fn fed(partials: &Arc<Partials>, bytes: usize) -> Intake {
        let mut intake = Intake::default();
        feed(&mut intake, partials, bytes).await;
        intake
    }

    async fn feed(intake: &mut Intake, partials: &Arc<Partials>, bytes: usize) {
        let data = vec![1; bytes];
        let mut from = &data[..];
        while intake.read(&mut from, READ).await.expect("a slice") > 0 {
            intake.settle(false, partials, DEADLINE);
        }
    }

    async fn is_overdue(intake: &mut Intake) -> bool {
        let (mut silent, _other) = tokio::io::duplex(1);
        match timeout(Duration::from_millis(1), intake.read(&mut silent, READ)).await {
            Ok(read) => read.is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut),
            Err(_) => false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_way_and_small_ones_are_nobodys_budget() {
        let partials = Partials::new(150_000);
        let mut small = fed(&partials, SMALL).await;
        let mut first = fed(&partials, 60_000).await;
        let mut second = fed(&partials, 60_000).await;
        assert!(!is_overdue(&mut first).await && !is_overdue(&mut second).await);
        let third = fed(&partials, 60_000).await;
        let over =
            [is_overdue(&mut small).await, is_overdue(&mut first).await, is_overdue(&mut second).await];
        assert_eq!(over, [false, true, false]);
        first.bytes.clear();
        first.settle(true, &partials, DEADLINE);
        drop((second, third));
        let live = partials.with(|inner| (inner.live, inner.all.len()));
        assert_eq!(live, (0, 0), "all is given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_packet_in_pieces_has_a_deadline_and_the_next_one_has_its_own() {
        let partials = Partials::new(1 << 20);
        let mut intake = fed(&partials, 5000).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        feed(&mut intake, &partials, 5000).await;
        assert!(!is_overdue(&mut intake).await);
        intake.settle(true, &partials, DEADLINE);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!is_overdue(&mut intake).await);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(is_overdue(&mut intake).await);
    }

    #[tokio::test]
    async fn a_quiet_client_has_no_buffer_and_a_length_takes_none() {
        let (mut here, mut there) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut there, &[0x30, 0xFF, 0xFF, 0x3F]).await.expect("room");
        let mut intake = Intake::default();
        assert_eq!(intake.read(&mut here, READ).await.expect("four bytes"), 4);
        assert!(intake.bytes.capacity() < 1024, "{}", intake.bytes.capacity());
        intake.bytes.clear();
        assert!(timeout(Duration::from_millis(1), intake.read(&mut here, READ)).await.is_err());
        assert_eq!(intake.bytes.capacity(), 0);
    }
}
