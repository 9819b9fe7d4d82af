//! MQTT inside WebSocket (RFC 6455): binary frames as a byte stream, subprotocol `mqtt`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, http};

use super::fault::Fault;
use crate::bounds;
use crate::config::Endpoint;

/// A byte stream over binary frames. Frame boundaries mean nothing to MQTT.
pub struct FrameStream<S> {
    inner: WebSocketStream<S>,
    rest: Bytes,
}

/// Asks for the upgrade.
///
/// # Errors
/// What the other side answered instead.
pub async fn upgrade<S>(stream: S, endpoint: &Endpoint, path: &str) -> Result<FrameStream<S>, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let scheme = if endpoint.tls { "wss" } else { "ws" };
    let uri: http::Uri = format!("{scheme}://{endpoint}{path}")
        .parse()
        .map_err(|e| Fault::WebSocket(format!("`{path}` is no path: {e}")))?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol("mqtt");
    let config = WebSocketConfig::default()
        .max_message_size(Some(2 * bounds::UPLINK_PACKET_IN))
        .max_frame_size(Some(2 * bounds::UPLINK_PACKET_IN));
    let (inner, _response) = tokio_tungstenite::client_async_with_config(request, stream, Some(config))
        .await
        .map_err(|e| fault(&e))?;
    Ok(FrameStream { inner, rest: Bytes::new() })
}

fn fault(error: &Error) -> Fault {
    let hung_up = "the other side hung up instead of upgrading; is this the WebSocket port?";
    Fault::WebSocket(match error {
        Error::Http(response) => {
            let (status, location) = (response.status(), response.headers().get(http::header::LOCATION));
            let head = super::http::Head {
                status: status.as_u16(),
                location: location.map(|l| super::http::printable(&String::from_utf8_lossy(l.as_bytes()))),
                len: None,
            };
            if head.location.is_some() || status == http::StatusCode::NETWORK_AUTHENTICATION_REQUIRED {
                return Fault::NoBroker(super::http::portal_words(&head));
            }
            match status {
                http::StatusCode::UNAUTHORIZED | http::StatusCode::FORBIDDEN => {
                    format!("the server does not let us in ({status})")
                }
                _ => format!("the server answered {status} instead of upgrading; is the path right?"),
            }
        }
        Error::Protocol(ProtocolError::HandshakeIncomplete) => hung_up.to_owned(),
        Error::Io(e) if matches!(Fault::broken(e), Fault::HungUp { .. }) => hung_up.to_owned(),
        Error::Protocol(ProtocolError::HttparseError(_)) => {
            "the answer is no HTTP; is this the WebSocket port?".to_owned()
        }
        other => other.to_string(),
    })
}

fn broken(error: Error) -> io::Error {
    match error {
        Error::Io(e) => e,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for FrameStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.rest.is_empty() {
                let take = self.rest.len().min(buf.remaining());
                buf.put_slice(&self.rest[..take]);
                self.rest.advance(take);
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                None | Some(Ok(Message::Close(_))) => return Poll::Ready(Ok(())),
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a text frame; MQTT travels in binary frames",
                    )));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(e)) => return Poll::Ready(Err(broken(e))),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FrameStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(broken)?;
        Pin::new(&mut self.inner).start_send(Message::Binary(Bytes::copy_from_slice(buf))).map_err(broken)?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx).map_err(broken)
    }
}
