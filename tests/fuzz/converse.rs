//! Two clients of one broker, as bytes dictate, and what must hold whatever they say.
//!
//! The first byte says what each has said already: nothing, or a CONNECT of one kind or another; and whether it reads.
//! Then come pieces: a byte with who speaks (the highest bit) and how much, and what is said. The clock stands still but for waits,
//! so that nothing depends on the machine.

use std::time::Duration;

use fieldgate::broker::{Broker, EngineChoice, Limits, Options};
use fieldgate::config::model;
use fieldgate::message::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// What a client has said before the bytes: nothing; CONNECT of 3.1.1, clean; of 5, clean; of 5 with a session, a will, a
/// receive maximum of 2 and packets of 100 bytes at most.
const HELLOS: [&[u8]; 4] = [
    b"",
    b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01a",
    b"\x10\x0e\0\x04MQTT\x05\x02\0\0\0\0\x01b",
    b"\x10\x25\0\x04MQTT\x05\x2c\0\x0a\x0d\x11\0\0\0\x0a\x21\0\x02\x27\0\0\0\x64\0\x01a\0\0\x01w\0\x03bye",
];

/// One client.
struct Client {
    io: Option<DuplexStream>,
    serving: JoinHandle<()>,
    reads: bool,
    heard: Vec<u8>,
}

impl Client {
    async fn start(broker: &Broker, kind: u8) -> Self {
        let (here, there) = duplex(4096);
        let broker = broker.clone();
        let serving = tokio::spawn(async move { broker.serve(there).await });
        let mut client = Self { io: Some(here), serving, reads: kind & 4 == 0, heard: Vec::new() };
        client.say(HELLOS[usize::from(kind & 3)]).await;
        client
    }

    async fn say(&mut self, bytes: &[u8]) {
        if let Some(io) = &mut self.io {
            // A broker that does not read stops us after a while.
            let said = timeout(Duration::from_millis(1), io.write_all(bytes)).await;
            if !matches!(said, Ok(Ok(()))) {
                self.io = None;
            }
        }
        self.hear().await;
    }

    /// What the broker has to say until it has nothing more to do.
    async fn hear(&mut self) {
        let mut buffer = [0; 4096];
        while self.reads
            && let Some(io) = &mut self.io
            && let Ok(Ok(n @ 1..)) = timeout(Duration::from_millis(1), io.read(&mut buffer)).await
        {
            self.heard.extend_from_slice(&buffer[..n]);
        }
        sleep(Duration::from_millis(1)).await;
    }

    /// Every packet of the broker is whole and of a kind that brokers send.
    fn heard_packets(&self) {
        let mut rest = &self.heard[..];
        while let Some((first, after)) = rest.split_first() {
            assert!(matches!(first >> 4, 2..=7 | 9 | 11 | 13 | 14), "a broker sends no {first:02x}");
            let (mut length, mut used) = (0, 0);
            while used < 4 && used < after.len() {
                length |= usize::from(after[used] & 0x7F) << (7 * used);
                used += 1;
                if after[used - 1] & 0x80 == 0 {
                    break;
                }
            }
            // The last one may have been cut off when the broker ended the connection with us not reading.
            rest = after.get(used + length..).unwrap_or_default();
        }
    }
}

/// Lets two clients say what `input` dictates. Panics if a rule is broken.
pub fn converse(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(talk(input));
}

async fn talk(input: &[u8]) {
    let Some((kinds, mut rest)) = input.split_first() else { return };
    let config = model::Broker { listener: Vec::new(), ..model::Broker::default() };
    let limits = Limits {
        packet: 4096,
        subscriptions: 8,
        levels: 8,
        queue: 16,
        retained: 4,
        in_flight_in: 4,
        unreleased: 8,
        publish_rate: if kinds & 0x80 > 0 { 50 } else { 0 },
        ..Limits::default()
    };
    let options = Options {
        engine: EngineChoice::Native,
        limits,
        never_retain: vec!["c/#".to_owned()],
        sys: false,
        ..Options::default()
    };
    let broker = Broker::start_with(&config, options).await.expect("no files, no ports");
    let mut witness = broker.subscribe("witness", &["#"]).await;
    let mut clients = [Client::start(&broker, *kinds).await, Client::start(&broker, kinds >> 3).await];
    while let Some((head, after)) = rest.split_first() {
        let (said, after) = after.split_at(usize::from(head & 0x7F).min(after.len()));
        clients[usize::from(head >> 7)].say(said).await;
        rest = after;
    }
    for client in &mut clients {
        client.hear().await;
        client.heard_packets();
        client.io = None;
    }
    for client in clients {
        // Gone with its stream, whatever it had begun.
        let ended = timeout(Duration::from_secs(120), client.serving).await;
        ended.expect("a connection ends when its stream does").expect("no panic");
    }
    // Wills and sessions come to their end.
    sleep(Duration::from_secs(100)).await;
    while timeout(Duration::from_millis(1), witness.recv()).await.is_ok() {}
    assert_eq!(broker.publish(vec![Message::new("alive", "yes", false)]), 0);
    let heard = timeout(Duration::from_secs(1), witness.recv()).await;
    assert_eq!(heard.expect("the broker is alive").map(|m| m.topic.to_string()).as_deref(), Some("alive"));
    let mut last = Client::start(&broker, 1).await;
    last.hear().await;
    assert_eq!(last.heard, [0x20, 2, 0, 0]);
    let stats = broker.stats();
    assert_eq!((stats.panics, stats.clients), (0, 1));
    assert!(stats.retained <= 4 && stats.sessions_away <= 2, "{stats:?}");
}
