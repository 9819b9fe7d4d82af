//! The serial port under RTU: opened for us alone, with errors that say what to do.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_serial::{ClearBuffer, DataBits, ErrorKind, FlowControl, SerialPort as _, SerialStream, StopBits};

use crate::config::{Parity, RtuKeys};
use crate::rtu::Connect;

/// How to open the port.
#[derive(Debug, Clone)]
pub(crate) struct Tty {
    keys: RtuKeys,
}

impl Tty {
    pub fn new(keys: RtuKeys) -> Self {
        Self { keys }
    }
}

#[async_trait]
impl Connect for Tty {
    type Port = OpenTty;

    async fn connect(&mut self) -> io::Result<OpenTty> {
        let keys = &self.keys;
        let builder = tokio_serial::new(keys.port.as_str(), keys.baud)
            .data_bits(DataBits::Eight)
            .flow_control(FlowControl::None)
            .parity(match keys.parity {
                Parity::None => tokio_serial::Parity::None,
                Parity::Even => tokio_serial::Parity::Even,
                Parity::Odd => tokio_serial::Parity::Odd,
            })
            .stop_bits(if keys.stop_bits == 2 { StopBits::Two } else { StopBits::One })
            .exclusive(true);
        let stream = SerialStream::open(&builder).map_err(|e| explain(&keys.port, &e))?;
        // What came in before the settings were right is not text of ours.
        let _ = stream.clear(ClearBuffer::All);
        Ok(OpenTty(stream))
    }
}

fn explain(port: &str, error: &tokio_serial::Error) -> io::Error {
    let (kind, why) = match error.kind() {
        ErrorKind::NoDevice => (
            io::ErrorKind::ResourceBusy,
            "another program has it open (`fuser -v` on it names the program)".to_owned(),
        ),
        ErrorKind::Io(kind @ io::ErrorKind::NotFound) => {
            (kind, "there is no such port; `fieldgate ports` lists those that are there".to_owned())
        }
        ErrorKind::Io(kind @ io::ErrorKind::PermissionDenied) => {
            (kind, "permission denied; add the user to group dialout and log in again".to_owned())
        }
        ErrorKind::Io(kind) => (kind, error.to_string()),
        ErrorKind::InvalidInput | ErrorKind::Unknown => {
            (io::ErrorKind::Other, format!("{error}; is it a serial port, and plugged in?"))
        }
    };
    io::Error::new(kind, format!("cannot open {port}: {why}"))
}

/// An open port. Closing it throws away what was not sent: the kernel would hold the thread for up
/// to 30 s, waiting for a dead line to take it.
#[derive(Debug)]
pub(crate) struct OpenTty(SerialStream);

impl Drop for OpenTty {
    fn drop(&mut self) {
        // Fails where the adapter is gone, and then there is nothing to throw away.
        let _ = self.0.clear(ClearBuffer::All);
    }
}

impl AsyncRead for OpenTty {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for OpenTty {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Bytes are on their way as soon as they are written; `tcdrain` would block the thread.
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
