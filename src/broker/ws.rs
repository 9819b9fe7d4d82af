//! MQTT over WebSocket (MQTT 5.0 §6): binary frames as one stream of bytes.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::intake::{Partials, Stake};

/// What pages that know MQTT 3.1 only offer.
const OLD: &str = "mqttv3.1";

/// A WebSocket that reads and writes bytes.
#[derive(Debug)]
pub struct WsStream<S> {
    socket: WebSocketStream<Counted<S>>,
    rest: Bytes,
    /// What the socket holds of a frame that is not complete.
    stake: Stake,
    partials: Arc<Partials>,
    deadline: Duration,
}

/// Most that is read at once.
const AHEAD: usize = 4096;

/// Largest frame that is sent: the socket keeps one until the client has read it.
const FRAME: usize = 16 * 1024;

/// Answers the WebSocket handshake. `max` is the largest message in bytes; what is there of one that is not complete counts with the
/// large packets of all, and has their `deadline`.
///
/// # Errors
/// The client does not ask for the subprotocol `mqtt` (or MQTT 3.1's `mqttv3.1`), or it is a web page of another host: a
/// browser would otherwise lend any page its way to a broker on loopback.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    max: usize,
    (partials, deadline): (Arc<Partials>, Duration),
) -> Result<WsStream<S>, Error> {
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(max + 16);
    config.max_frame_size = Some(max + 16);
    // A header and nothing behind it: room behind a frame would keep all of the frame's memory until it is used up.
    config.read_buffer_size = 14;
    config.write_buffer_size = 0;
    let stream = Counted { io: stream, read: 0, ahead: BytesMut::new() };
    let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, negotiate, Some(config)).await?;
    Ok(WsStream { socket, rest: Bytes::new(), stake: Stake::default(), partials, deadline })
}

#[expect(clippy::result_large_err, reason = "the type is tungstenite's callback")]
fn negotiate(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status, why: &str| {
        let mut response = ErrorResponse::new(Some(why.to_owned()));
        *response.status_mut() = status;
        response
    };
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let names = offered.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let names: Vec<&str> = names.map(str::trim).collect();
    let Some(spoken) = ["mqtt", OLD].into_iter().find(|name| names.contains(name)) else {
        return Err(refuse(StatusCode::BAD_REQUEST, "this WebSocket speaks the subprotocol mqtt\n"));
    };
    if !same_host(request.headers()) {
        return Err(refuse(StatusCode::FORBIDDEN, "pages of other hosts are not let in\n"));
    }
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(spoken));
    Ok(response)
}

fn same_host(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|v| v.to_str().ok());
    let host_of = |uri: &str| uri.parse::<Uri>().ok().and_then(|u| u.host().map(str::to_ascii_lowercase));
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => true,
        (Some(Some(origin)), Some(Some(host))) => {
            let origin = host_of(origin);
            origin.is_some() && origin == host_of(host)
        }
        _ => false,
    }
}

/// A stream that counts what was read of it, and reads ahead for a socket that reads a few bytes at a time.
#[derive(Debug)]
struct Counted<S> {
    io: S,
    read: usize,
    ahead: BytesMut,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let mut space = [MaybeUninit::uninit(); AHEAD];
            let mut room = ReadBuf::uninit(&mut space);
            let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, &mut room) else {
                self.ahead = BytesMut::new();
                return Poll::Pending;
            };
            read?;
            self.ahead.extend_from_slice(room.filled());
        }
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..n]);
        self.ahead.advance(n);
        self.read += n;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            let Poll::Ready(next) = Pin::new(&mut self.socket).poll_next(cx) else {
                // The frame that it was the end of: a quiet client has no buffer. (Given back earlier, the socket would take it again.)
                self.rest = Bytes::new();
                let this = &mut *self;
                this.stake.hold(this.socket.get_ref().read, &this.partials, this.deadline);
                return match this.stake.is_over(cx) {
                    true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                    false => Poll::Pending,
                };
            };
            self.socket.get_mut().read = 0;
            match next {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a text frame")));
                }
                Some(Ok(Message::Close(_) | Message::Frame(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(e)) => return Poll::Ready(Err(io::Error::other(e))),
            }
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(FRAME)];
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(cx)).map_err(io::Error::other)?;
        socket.start_send(Message::Binary(Bytes::copy_from_slice(bytes))).map_err(io::Error::other)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_hosts_are_kept_out() {
        let headers = |pairs: &[(header::HeaderName, &'static str)]| {
            pairs.iter().map(|(k, v)| (k.clone(), HeaderValue::from_static(v))).collect::<HeaderMap>()
        };
        let host = (header::HOST, "box:8083");
        assert!(same_host(&headers(std::slice::from_ref(&host))));
        assert!(same_host(&headers(&[host.clone(), (header::ORIGIN, "http://BOX:8080")])));
        assert!(!same_host(&headers(&[host.clone(), (header::ORIGIN, "https://evil.example")])));
        assert!(!same_host(&headers(&[host, (header::ORIGIN, "null")])));
    }
}
