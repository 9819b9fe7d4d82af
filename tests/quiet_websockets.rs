//! What a WebSocket client leaves in memory after a large message: nothing, as long as it is quiet. A process of its own, for its memory is
//! measured.

#![expect(clippy::unwrap_used, reason = "a helper of a test that fails is a failed test")]

use std::time::Duration;

use fieldgate::broker::{Broker, Options};
use fieldgate::config::model::{self, Listener, Transport};
use futures_util::{SinkExt, StreamExt};
use support::packets::{packet, text};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

const CLIENTS: usize = 30;

fn resident_kib() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * 4
}

#[tokio::test]
async fn a_quiet_websocket_keeps_nothing_of_a_large_message() {
    let websocket = Listener {
        bind: "127.0.0.1:0".parse().unwrap(),
        transport: Transport::Websocket,
        tls: None,
        allow_anonymous: None,
        password_file: None,
        acl_file: None,
    };
    let config = model::Broker { listener: vec![websocket], ..model::Broker::default() };
    let broker = Broker::start_with(&config, Options::default()).await.unwrap();
    let at = broker.addresses()[0].1;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut request = format!("ws://{at}/").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
        let io = TcpStream::connect(at).await.unwrap();
        let (mut ws, _) = tokio_tungstenite::client_async(request, io).await.unwrap();
        let hello = packet(0x10, &[&b"\0\x04MQTT\x04\x02\0\0"[..], &text(format!("c{n}"))].concat());
        ws.send(Message::Binary(hello.into())).await.unwrap();
        ws.next().await.unwrap().unwrap();
        clients.push(ws.into_inner());
    }
    // In one frame, masked with nothing.
    let large = packet(0x30, &[&text("nobody")[..], &vec![7; 1_000_000]].concat());
    let frame = [&[0x82, 0xFF][..], &(large.len() as u64).to_be_bytes(), &[0; 4], &large].concat();
    let before = resident_kib();
    for (n, io) in (1..).zip(&mut clients) {
        io.write_all(&frame).await.unwrap();
        while broker.stats().messages_in < n {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let held = || resident_kib().saturating_sub(before);
    for _ in 0..100 {
        if held() < 12_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(held() < 12_000, "{} KiB more for {CLIENTS} quiet clients", held());
}
