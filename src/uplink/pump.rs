//! Small futures of a session: waiting for what may not be there, writing what may be written, going in order.

use std::future::{Future, pending};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;

use super::fault::Fault;
use super::link::Stream;
use crate::message::Message;

/// Writes these bytes, or flushes what the layers below hold back. Returns the bytes taken.
pub(super) async fn push(writer: &mut WriteHalf<Box<dyn Stream>>, out: &[u8]) -> std::io::Result<usize> {
    if out.is_empty() {
        writer.flush().await?;
        return Ok(0);
    }
    writer.write(out).await
}

/// The last bytes, and the end of the connection.
pub(super) async fn say_goodbye(
    writer: &mut WriteHalf<Box<dyn Stream>>,
    out: &mut BytesMut,
) -> Result<(), Fault> {
    let bye = async {
        writer.write_all_buf(out).await?;
        writer.flush().await?;
        writer.shutdown().await
    };
    match tokio::time::timeout(Duration::from_secs(1), bye).await {
        Ok(done) => done.map_err(|e| Fault::broken(&e)),
        Err(_) => Err(Fault::Timeout { what: "the farewell".to_owned(), limit: Duration::from_secs(1) }),
    }
}

/// The future, if there is one.
pub(super) async fn maybe<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

/// The next message, as long as there is a sender.
pub(super) async fn receive(mirror: &mut Option<mpsc::Receiver<Message>>) -> Option<Message> {
    match mirror {
        Some(mirror) => mirror.recv().await,
        None => pending().await,
    }
}
