//! MQTT over WebSocket for brokers that speak TCP only: a bridge that accepts the subprotocol `mqtt`
//! on `/mqtt`, cuts the byte stream into odd frames, and pings in between.

use std::net::SocketAddr;

use futures_util::{Sink, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

#[expect(clippy::result_large_err, reason = "the library's own type")]
fn judge(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() != "/mqtt" {
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = tokio_tungstenite::tungstenite::http::StatusCode::NOT_FOUND;
        return Err(refusal);
    }
    assert_eq!(request.headers()["sec-websocket-protocol"], "mqtt");
    response.headers_mut().insert("sec-websocket-protocol", "mqtt".parse().expect("a header"));
    Ok(response)
}

/// Bridges to the broker on `port`; runs as long as the test.
pub async fn start(port: u16) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(bridge(near, port));
        }
    });
    address
}

async fn bridge(near: TcpStream, port: u16) -> Option<()> {
    let mut near = tokio_tungstenite::accept_hdr_async(near, judge).await.ok()?;
    let mut far = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    // 13 bytes: no packet boundary survives.
    let mut buffer = [0; 13];
    loop {
        tokio::select! {
            frame = std::future::poll_fn(|cx| Pin::new(&mut near).poll_next(cx)) => match frame?.ok()? {
                Message::Binary(bytes) => far.write_all(&bytes).await.ok()?,
                Message::Text(_) => panic!("MQTT travels in binary frames"),
                _ => {}
            },
            n = far.read(&mut buffer) => {
                let n = n.ok().filter(|n| *n > 0)?;
                for message in [Message::Ping(vec![1].into()), Message::Binary(buffer[..n].to_vec().into())] {
                    std::future::poll_fn(|cx| Pin::new(&mut near).poll_ready(cx)).await.ok()?;
                    Pin::new(&mut near).start_send(message).ok()?;
                }
                std::future::poll_fn(|cx| Pin::new(&mut near).poll_flush(cx)).await.ok()?;
            }
        }
    }
}
