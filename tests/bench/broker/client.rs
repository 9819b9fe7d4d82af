//! Just enough of an MQTT 3.1.1 client to load a broker: it takes what comes, and publishes as fast as that is delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use support::now;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

/// Messages that one publisher has under way; of many a quarter, for what waits for one subscriber has its end.
const WINDOW: u64 = 200;
pub const PAYLOAD: usize = 100;

/// What the subscribers have got, all together.
#[derive(Default)]
pub struct Progress {
    pub delivered: AtomicU64,
    news: Notify,
}

/// What one of so many publishers is to do.
pub struct Load {
    pub topic: String,
    /// When it sends no more.
    pub until: f64,
    pub qos: u8,
    pub retain: bool,
    pub publishers: u64,
    pub subscribers: u64,
}

/// One connection.
pub struct Client {
    pub reader: OwnedReadHalf,
    pub writer: OwnedWriteHalf,
    input: Vec<u8>,
}

impl Client {
    pub async fn connect(port: u16, id: &str) -> Self {
        Self::connect_as(port, id, false).await
    }

    pub async fn connect_as(port: u16, id: &str, stays: bool) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        stream.set_nodelay(true).expect("TCP");
        let (reader, writer) = stream.into_split();
        let mut client = Self { reader, writer, input: Vec::new() };
        let body = [
            &[0, 4][..],
            b"MQTT",
            &[4, if stays { 0 } else { 2 }, 0, 0],
            &[0, u8::try_from(id.len()).expect("short")],
            id.as_bytes(),
        ];
        client.send(0x10, &body.concat()).await;
        let (first, _) = client.packet().await.expect("a welcome");
        assert_eq!(first, 0x20);
        client
    }

    async fn send(&mut self, first: u8, body: &[u8]) {
        assert!(body.len() < 128, "one byte of length");
        let packet = [&[first, u8::try_from(body.len()).expect("short")], body].concat();
        self.writer.write_all(&packet).await.expect("it listens");
    }

    pub async fn subscribe(&mut self, filter: &str, qos: u8) {
        let length = u8::try_from(filter.len()).expect("short");
        self.send(0x82, &[&[0, 1, 0, length], filter.as_bytes(), &[qos]].concat()).await;
        assert_eq!(self.packet().await.expect("an answer").0, 0x90);
    }

    /// The next packet: its first byte and its body.
    async fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((first, body, size)) = split(&self.input) {
                let packet = (first, body.to_vec());
                self.input.drain(..size);
                return Some(packet);
            }
            let mut buffer = vec![0; 4 << 10];
            let count = self.reader.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
            self.input.extend_from_slice(&buffer[..count]);
        }
    }

    /// Takes messages, answers them, counts them, until the connection ends.
    pub async fn receive(mut self, progress: Arc<Progress>) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (mut at, mut got, mut answers) = (0, 0, Vec::new());
            while let Some((first, body, size)) = split(&self.input[at..]) {
                at += size;
                match first >> 4 {
                    3 => {
                        let qos = first >> 1 & 3;
                        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                        if qos > 0 {
                            let kind = if qos == 1 { 0x40 } else { 0x50 };
                            answers.extend([kind, 2, body[2 + topic], body[3 + topic]]);
                        }
                        got += 1;
                    }
                    6 => answers.extend([0x70, 2, body[0], body[1]]),
                    _ => {}
                }
            }
            self.input.drain(..at);
            if got > 0 {
                progress.delivered.fetch_add(got, Relaxed);
                progress.news.notify_waiters();
            }
            if !answers.is_empty() && self.writer.write_all(&answers).await.is_err() {
                return;
            }
            match self.reader.read(&mut buffer).await {
                Ok(n @ 1..) => self.input.extend_from_slice(&buffer[..n]),
                _ => return,
            }
        }
    }

    /// Sends messages until its time is over, never more than a window ahead of what was delivered, and finishes what QoS 1
    /// and 2 want. How many they were.
    pub async fn publish(self, load: Load, progress: Arc<Progress>) -> u64 {
        let Self { mut reader, mut writer, mut input } = self;
        let finished = Arc::new((AtomicU64::new(0), Notify::new()));
        let (answers, mut due) = tokio::sync::mpsc::channel::<Vec<u8>>(1024);
        let heard = finished.clone();
        let hearing = tokio::spawn(async move {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(count @ 1..) = reader.read(&mut buffer).await {
                input.extend_from_slice(&buffer[..count]);
                let (mut at, mut done, mut say) = (0, 0, Vec::new());
                while let Some((first, body, size)) = split(&input[at..]) {
                    at += size;
                    match first >> 4 {
                        4 | 7 => done += 1,
                        5 => say.extend([0x62, 2, body[0], body[1]]),
                        _ => {}
                    }
                }
                input.drain(..at);
                heard.0.fetch_add(done, Relaxed);
                heard.1.notify_waiters();
                if !say.is_empty() && answers.send(say).await.is_err() {
                    return;
                }
            }
        });
        let mut sent = 0;
        loop {
            // Its share of what all publishers have had delivered to all subscribers.
            let delivered = progress.delivered.load(Relaxed) / load.subscribers / load.publishers;
            let acked = if load.qos == 0 { sent } else { finished.0.load(Relaxed) };
            let over = now() >= load.until;
            if over && acked >= sent {
                break;
            }
            let window = WINDOW / load.publishers.min(4);
            let room = window.saturating_sub(sent.saturating_sub(delivered.min(acked)));
            let mut out = Vec::new();
            for _ in 0..if over { 0 } else { room } {
                sent += 1;
                message(&mut out, &load.topic, load.qos << 1 | u8::from(load.retain), sent);
            }
            while let Ok(more) = due.try_recv() {
                out.extend(more);
            }
            if !out.is_empty() {
                writer.write_all(&out).await.expect("it listens");
                continue;
            }
            tokio::select! {
                () = progress.news.notified() => {}
                () = finished.1.notified() => {}
                more = due.recv() => if let Some(more) = more { writer.write_all(&more).await.expect("it listens") },
                // A notice that came between the look and the wait is made up for.
                () = tokio::time::sleep(Duration::from_millis(2)) => {}
            }
        }
        hearing.abort();
        sent
    }
}

/// One PUBLISH packet with its number as packet id. `flags`: QoS 2 or 4, retain 1.
pub fn message(out: &mut Vec<u8>, topic: &str, flags: u8, number: u64) {
    let id = if flags < 2 { 0 } else { 2 };
    let length = 2 + topic.len() + id + PAYLOAD;
    out.push(0x30 | flags);
    out.push(u8::try_from(length % 128).expect("below 128") | if length > 127 { 0x80 } else { 0 });
    if length > 127 {
        out.push(u8::try_from(length / 128).expect("short"));
    }
    out.extend([0, u8::try_from(topic.len()).expect("short")]);
    out.extend(topic.as_bytes());
    if flags > 1 {
        let [a, b] = u16::try_from(number % 65_535 + 1).expect("below 65536").to_be_bytes();
        out.extend([a, b]);
    }
    let start = out.len();
    out.resize(start + PAYLOAD, b'x');
}

/// The first packet of these bytes: first byte, body, size of all of it.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (mut length, mut at) = (0, 1);
    loop {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let body = bytes.get(at..at + length)?;
    Some((bytes[0], body, at + length))
}
