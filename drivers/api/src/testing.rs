//! For the drivers' own tests: a serial line with a script, and the conformance checks.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::{Bus, Table};

/// A serial line with a script: each expected request and the answer it earns, as bytes in hex.
///
/// It plays both sides and fails at the first wrong byte. Its silence is real silence, so timeouts
/// are tested under paused time.
#[derive(Default)]
pub struct ScriptedPort {
    script: VecDeque<Exchange>,
    written: Vec<u8>,
    arriving: VecDeque<(Instant, Arrival)>,
    timer: Option<Pin<Box<Sleep>>>,
    reader: Option<Waker>,
    history: Vec<(Instant, Vec<u8>)>,
}

enum Arrival {
    Bytes(Vec<u8>),
    Error(io::ErrorKind),
}

struct Exchange {
    request: Vec<u8>,
    answer: Vec<(Duration, Arrival)>,
}

impl ScriptedPort {
    /// The next request on the wire must be `request`; `answer` comes back at once (empty: silence).
    #[must_use]
    pub fn expect(self, request: &str, answer: &str) -> Self {
        self.expect_late(request, &[(Duration::ZERO, answer)])
    }

    /// As [`Self::expect`], with the answer in pieces, each so long after the request.
    #[must_use]
    pub fn expect_late(mut self, request: &str, answer: &[(Duration, &str)]) -> Self {
        let answer = answer
            .iter()
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(after, bytes)| (*after, Arrival::Bytes(hex(bytes))))
            .collect();
        self.script.push_back(Exchange { request: hex(request), answer });
        self
    }

    /// The next request on the wire must be `request`; then reading fails with `error`.
    #[must_use]
    pub fn expect_failure(mut self, request: &str, error: io::ErrorKind) -> Self {
        self.script.push_back(Exchange {
            request: hex(request),
            answer: vec![(Duration::ZERO, Arrival::Error(error))],
        });
        self
    }

    /// Bytes that arrive unasked, so long after now.
    pub fn says(&mut self, after: Duration, bytes: &[u8]) {
        self.arriving.push_back((Instant::now() + after, Arrival::Bytes(bytes.to_vec())));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Every request seen, with the time its last byte was written.
    #[must_use]
    pub fn history(&self) -> &[(Instant, Vec<u8>)] {
        &self.history
    }

    /// Fails unless every expected exchange happened.
    ///
    /// # Panics
    /// If the script has not come to its end.
    pub fn assert_done(&self) {
        assert!(self.script.is_empty(), "{} exchanges never happened", self.script.len());
    }
}

/// Bytes from `"01 03 …"`.
///
/// # Panics
/// If it is not hex.
#[must_use]
pub fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|b| u8::from_str_radix(b, 16).expect("two hex digits")).collect()
}

impl AsyncRead for ScriptedPort {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let port = self.get_mut();
        loop {
            let Some((due, _)) = port.arriving.front() else {
                port.reader = Some(cx.waker().clone());
                return Poll::Pending;
            };
            if *due > Instant::now() {
                let timer = port.timer.insert(Box::pin(tokio::time::sleep_until(*due)));
                if timer.as_mut().poll(cx).is_pending() {
                    port.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                continue;
            }
            match port.arriving.pop_front() {
                Some((_, Arrival::Error(kind))) => return Poll::Ready(Err(kind.into())),
                Some((due, Arrival::Bytes(mut bytes))) => {
                    let rest = bytes.split_off(bytes.len().min(buf.remaining()));
                    buf.put_slice(&bytes);
                    if !rest.is_empty() {
                        port.arriving.push_front((due, Arrival::Bytes(rest)));
                    }
                    return Poll::Ready(Ok(()));
                }
                None => {}
            }
        }
    }
}

impl AsyncWrite for ScriptedPort {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let port = self.get_mut();
        port.written.extend_from_slice(bytes);
        let Some(next) = port.script.front() else {
            panic!("unexpected request {:02X?}", port.written);
        };
        assert!(
            next.request.starts_with(&port.written),
            "request {:02X?}, expected {:02X?}",
            port.written,
            next.request
        );
        if next.request.len() == port.written.len()
            && let Some(exchange) = port.script.pop_front()
        {
            let now = Instant::now();
            port.history.push((now, std::mem::take(&mut port.written)));
            port.arriving.extend(exchange.answer.into_iter().map(|(after, a)| (now + after, a)));
            if let Some(reader) = port.reader.take() {
                reader.wake();
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What every compiled bus owes its caller, whatever its protocol.
///
/// # Panics
/// At the first broken rule.
pub fn assert_conforms(bus: &dyn Bus) {
    let plan = bus.plan();
    let mut covered = vec![0usize; plan.points.len()];
    for block in &plan.blocks {
        assert!(block.device < plan.devices.len(), "block of an unknown device: {block:?}");
        assert!(!block.points.is_empty(), "a block without points: {block:?}");
        assert!(!block.what.is_empty(), "a block says what it reads");
        assert!(!block.every.is_zero(), "a block that is always due: {block:?}");
        for &point in &block.points {
            covered[point] += 1;
            assert_eq!(plan.points[point].device, block.device, "a block reads one device");
        }
    }
    for chore in &plan.chores {
        assert!(chore.device < plan.devices.len(), "a chore of an unknown device: {chore:?}");
        assert!(!chore.what.is_empty() && !chore.purpose.is_empty(), "a chore says what it is for");
        assert!(!chore.every.is_zero(), "a chore that is always due: {chore:?}");
    }
    for (point, times) in plan.points.iter().zip(covered) {
        // What can only be written is in none.
        let least = usize::from(!point.writable);
        assert!((least..=1).contains(&times), "`{}` is in {times} blocks", point.name);
        assert!(point.device < plan.devices.len());
        assert!(!point.name.is_empty() && !point.source.is_empty() && !point.kind.is_empty());
    }
}

/// A table from text, for tests.
///
/// # Panics
/// If it is not TOML.
#[must_use]
pub fn table(text: &str) -> Table<'_> {
    Table::from_text(0, text).expect("TOML")
}
