//! A broker that does on demand what real ones do only on bad days. Speaks just enough MQTT 3.1.1
//! and 5, written from the specification and sharing no code with the client under test.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// One PUBLISH as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub connection: usize,
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub dup: bool,
    /// Packet id; 0 with QoS 0.
    pub id: u16,
    /// MQTT 5: what the payload is said to be.
    pub content_type: Option<String>,
    /// MQTT 5: user properties.
    pub user: Vec<(String, String)>,
    /// Bytes of the packet behind its fixed header.
    pub len: usize,
    pub qos: u8,
}

/// What to do about a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Ack,
    AckTwice,
    AckAfter(Duration),
    Never,
    /// MQTT 5: a PUBACK with this reason code.
    Refuse(u8),
    /// A TCP reset.
    Reset,
    /// From now on nothing is read or answered, and the connection stays open.
    BlackHole,
    /// These bytes as they are.
    Bytes(&'static [u8]),
}

/// How a login is answered.
#[derive(Debug, Clone, Default)]
pub struct Welcome {
    /// CONNACK return or reason code.
    pub code: u8,
    /// MQTT 5 properties of the CONNACK, encoded.
    pub properties: Vec<u8>,
    /// From the login on: not even pings are answered.
    pub deaf: bool,
    /// Ends the connection of who wants to subscribe.
    pub closes_on_subscribe: bool,
    /// Each login finds no session.
    pub forgets: bool,
    /// Hangs up on who wants to go on with a session.
    pub refuses_sessions: bool,
    /// QoS 0, as if kept for the session: topic and payload, right behind the CONNACK.
    pub kept: Option<(&'static str, &'static str)>,
    /// What to do about the n-th PUBREL.
    pub releases: Option<fn(usize) -> Answer>,
}

impl Welcome {
    pub fn receive_maximum(max: u16) -> Self {
        let [a, b] = max.to_be_bytes();
        Self { properties: vec![0x21, a, b], ..Self::default() }
    }
    pub fn topic_alias_maximum(max: u16) -> Self {
        let [a, b] = max.to_be_bytes();
        Self { properties: vec![0x22, a, b], ..Self::default() }
    }
    /// A refusal that names another server.
    pub fn redirect(code: u8, to: &str) -> Self {
        let len = u8::try_from(to.len()).expect("short");
        Self { code, properties: [&[0x1c, 0, len], to.as_bytes()].concat(), ..Self::default() }
    }
    pub fn maximum_packet_size(max: u32) -> Self {
        Self { properties: [vec![0x27], max.to_be_bytes().to_vec()].concat(), ..Self::default() }
    }
}

type Script = dyn Fn(usize, &Published) -> Answer + Send + Sync;

#[derive(Default)]
struct Seen {
    published: Vec<Published>,
    connects: Vec<Vec<u8>>,
    subscribed: Vec<(usize, Vec<u8>)>,
    farewells: usize,
    /// QoS 2: the session of the one client there is, if there is one: ids that were received and not released.
    session: Option<BTreeSet<u16>>,
    /// QoS 2: what came under an id that was not there yet: what a subscriber gets.
    accepted: Vec<Published>,
    releases: usize,
    most_unanswered: usize,
}

pub struct FakeBroker {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    welcome: Arc<Mutex<Welcome>>,
    push: tokio::sync::broadcast::Sender<Vec<u8>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeBroker {
    /// `script` is asked for every PUBLISH, with the number of those before it on all connections.
    pub async fn start(
        welcome: Welcome,
        script: impl Fn(usize, &Published) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").await.expect("a free port"), welcome, script)
    }

    /// One at this address that acknowledges everything.
    pub async fn start_at(address: SocketAddr, welcome: Welcome) -> Self {
        let listener = TcpListener::bind(address).await.expect("it was free a moment ago");
        Self::listen(listener, welcome, |_, _| Answer::Ack)
    }

    fn listen(
        listener: TcpListener,
        welcome: Welcome,
        script: impl Fn(usize, &Published) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let push = tokio::sync::broadcast::Sender::new(64);
        let welcome = Arc::new(Mutex::new(welcome));
        let script: Arc<Script> = Arc::new(script);
        let task = tokio::spawn({
            let (seen, push, welcome) = (seen.clone(), push.clone(), welcome.clone());
            async move {
                let count = AtomicUsize::new(0);
                let mut all = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    let welcome = welcome.lock().expect("not poisoned").clone();
                    let (seen, script) = (seen.clone(), script.clone());
                    all.spawn(serve(stream, number, welcome, script, seen, push.subscribe()));
                }
            }
        });
        Self { address, seen, welcome, push, task }
    }

    pub fn url(&self) -> String {
        format!("mqtt://{}", self.address)
    }

    pub fn published(&self) -> Vec<Published> {
        self.seen.lock().expect("not poisoned").published.clone()
    }

    pub fn connects(&self) -> Vec<Vec<u8>> {
        self.seen.lock().expect("not poisoned").connects.clone()
    }

    /// SUBSCRIBE packets as they came, each with the number of PUBLISHes before it.
    pub fn subscribed(&self) -> Vec<(usize, Vec<u8>)> {
        self.seen.lock().expect("not poisoned").subscribed.clone()
    }

    /// Sends a QoS 0 message (MQTT 5) of bytes to all who are connected.
    pub fn send_bytes(&self, topic: &str, payload: &[u8]) {
        let length = u16::try_from(topic.len()).expect("short").to_be_bytes();
        let body = [&length, topic.as_bytes(), &[0], payload].concat();
        let packet = [&[0x30, u8::try_from(body.len()).expect("short")], &body[..]].concat();
        self.push.send(packet).expect("somebody is connected");
    }

    /// QoS 2: what a subscriber gets, once.
    pub fn accepted(&self) -> Vec<Published> {
        self.seen.lock().expect("not poisoned").accepted.clone()
    }

    /// QoS 2: ids that wait for their PUBREL.
    pub fn held(&self) -> BTreeSet<u16> {
        self.seen.lock().expect("not poisoned").session.clone().unwrap_or_default()
    }

    /// How later logins are answered.
    pub fn set_welcome(&self, welcome: Welcome) {
        *self.welcome.lock().expect("not poisoned") = welcome;
    }

    /// Counts [`Self::most_unanswered`] anew.
    pub fn count_anew(&self) {
        self.seen.lock().expect("not poisoned").most_unanswered = 0;
    }

    /// DISCONNECT packets seen.
    pub fn farewells(&self) -> usize {
        self.seen.lock().expect("not poisoned").farewells
    }

    /// The most messages that were unanswered at once on a connection.
    pub fn most_unanswered(&self) -> usize {
        self.seen.lock().expect("not poisoned").most_unanswered
    }

    /// Sends a QoS 0 message (MQTT 5) to all who are connected.
    pub fn send(&self, topic: &str, payload: &str, retained: bool) {
        self.push.send(message(topic, payload, retained)).expect("somebody is connected");
    }
}

/// A PUBLISH with QoS 0 (MQTT 5).
fn message(topic: &str, payload: &str, retained: bool) -> Vec<u8> {
    let length = u16::try_from(topic.len()).expect("short").to_be_bytes();
    let body = [&length, topic.as_bytes(), &[0], payload.as_bytes()].concat();
    let mut packet = vec![0x30 | u8::from(retained)];
    let mut left = body.len();
    while left >= 128 {
        packet.push(0x80 | u8::try_from(left % 128).expect("below 128"));
        left /= 128;
    }
    packet.push(u8::try_from(left).expect("below 128"));
    packet.extend(body);
    packet
}

fn answered(count: &AtomicUsize) {
    // What is released may be of an earlier connection.
    let _none_left = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
}

async fn packet(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let (mut len, mut shift) = (0usize, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, body))
}

async fn serve(
    stream: TcpStream,
    connection: usize,
    welcome: Welcome,
    script: Arc<Script>,
    seen: Arc<Mutex<Seen>>,
    mut push: tokio::sync::broadcast::Receiver<Vec<u8>>,
) -> Option<()> {
    let linger = socket2::SockRef::from(&stream).try_clone().ok()?;
    let (mut reader, mut writer) = stream.into_split();
    let (_, connect) = packet(&mut reader).await?;
    let v5 = *connect.get(6)? == 5;
    let clean = connect[7] & 2 != 0;
    // Ours are a session expiry (5 bytes, first or second) and a maximum packet size.
    let kept = if v5 { connect[10] == 10 } else { !clean };
    let present = {
        let mut seen = seen.lock().expect("not poisoned");
        seen.connects.push(connect);
        if clean || welcome.forgets {
            seen.session = None;
        }
        let present = seen.session.is_some();
        if kept {
            seen.session.get_or_insert_default();
        }
        present
    };
    if welcome.refuses_sessions && !clean {
        return None;
    }
    let mut connack = vec![u8::from(present), welcome.code];
    if v5 {
        connack.push(u8::try_from(welcome.properties.len()).expect("short"));
        connack.extend(&welcome.properties);
    }
    writer
        .write_all(&[&[0x20, u8::try_from(connack.len()).expect("short")], &connack[..]].concat())
        .await
        .ok()?;
    if welcome.code != 0 {
        return None;
    }
    if let Some((topic, payload)) = welcome.kept {
        writer.write_all(&message(topic, payload, false)).await.ok()?;
    }
    let (acks, mut due) = mpsc::channel::<Vec<u8>>(10_000);
    // Reading a packet cannot be interrupted, so it has a task of its own.
    let (packets, mut come) = mpsc::channel(10_000);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        while let Some(got) = packet(&mut reader).await {
            if packets.send(got).await.is_err() {
                break;
            }
        }
    });
    let unanswered = Arc::new(AtomicUsize::new(0));
    let mut aliases = HashMap::new();
    loop {
        let (first, body) = tokio::select! {
            got = come.recv() => got?,
            Some(ack) = due.recv() => {
                // With QoS 2 a message counts until its PUBCOMP, unless it is refused.
                if ack[..2] != [0x50, 2] {
                    answered(&unanswered);
                }
                writer.write_all(&ack).await.ok()?;
                continue;
            }
            Ok(message) = push.recv() => {
                writer.write_all(&message).await.ok()?;
                continue;
            }
        };
        match first >> 4 {
            3 => {
                let published = understand(connection, first, &body, v5, &mut aliases);
                if published.qos == 0 {
                    let number = {
                        let mut seen = seen.lock().expect("not poisoned");
                        seen.published.push(published.clone());
                        seen.published.len() - 1
                    };
                    match script(number, &published) {
                        Answer::Reset => {
                            linger.set_linger(Some(Duration::ZERO)).ok()?;
                            return None;
                        }
                        Answer::BlackHole => std::future::pending().await,
                        _ => continue,
                    }
                }
                let number = {
                    let mut seen = seen.lock().expect("not poisoned");
                    seen.published.push(published.clone());
                    let now = unanswered.fetch_add(1, Ordering::Relaxed) + 1;
                    seen.most_unanswered = seen.most_unanswered.max(now);
                    seen.published.len() - 1
                };
                let [a, b] = published.id.to_be_bytes();
                let kind = if published.qos == 2 { 0x50 } else { 0x40 };
                let ack = vec![kind, 2, a, b];
                let answer = script(number, &published);
                if published.qos == 2
                    && !matches!(answer, Answer::Refuse(_) | Answer::Never | Answer::BlackHole)
                {
                    let mut seen = seen.lock().expect("not poisoned");
                    let session = seen.session.as_mut().expect("QoS 2 without a session that is kept");
                    if session.insert(published.id) {
                        seen.accepted.push(published);
                    }
                }
                match answer {
                    Answer::Ack => acks.send(ack).await.ok()?,
                    Answer::AckTwice => {
                        unanswered.fetch_add(1, Ordering::Relaxed);
                        acks.send(ack.clone()).await.ok()?;
                        acks.send(ack).await.ok()?;
                    }
                    Answer::AckAfter(wait) => {
                        let acks = acks.clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(wait).await;
                            let _gone = acks.send(ack).await;
                        });
                    }
                    Answer::Never => {}
                    Answer::Refuse(code) => acks.send(vec![kind, 3, a, b, code]).await.ok()?,
                    Answer::Reset => {
                        linger.set_linger(Some(Duration::ZERO)).ok()?;
                        return None;
                    }
                    Answer::BlackHole => std::future::pending().await,
                    Answer::Bytes(bytes) => writer.write_all(bytes).await.ok()?,
                }
            }
            6 => {
                let number = {
                    let mut seen = seen.lock().expect("not poisoned");
                    seen.releases += 1;
                    if let Some(session) = &mut seen.session {
                        session.remove(&u16::from_be_bytes([body[0], body[1]]));
                    }
                    seen.releases - 1
                };
                answered(&unanswered);
                match welcome.releases.map_or(Answer::Ack, |script| script(number)) {
                    Answer::Never => {}
                    Answer::Reset => {
                        linger.set_linger(Some(Duration::ZERO)).ok()?;
                        return None;
                    }
                    Answer::BlackHole => std::future::pending().await,
                    _ => writer.write_all(&[0x70, 2, body[0], body[1]]).await.ok()?,
                }
            }
            8 if welcome.closes_on_subscribe => return None,
            8 => {
                {
                    let mut seen = seen.lock().expect("not poisoned");
                    let before = seen.published.len();
                    seen.subscribed.push((before, body.clone()));
                }
                let granted: &[u8] =
                    if v5 { &[0x90, 4, body[0], body[1], 0, 1] } else { &[0x90, 3, body[0], body[1], 1] };
                writer.write_all(granted).await.ok()?;
            }
            12 if !welcome.deaf => writer.write_all(&[0xd0, 0]).await.ok()?,
            14 => {
                seen.lock().expect("not poisoned").farewells += 1;
                return Some(());
            }
            _ => {}
        }
    }
}

fn understand(
    connection: usize,
    first: u8,
    body: &[u8],
    v5: bool,
    aliases: &mut HashMap<u16, String>,
) -> Published {
    let qos = first >> 1 & 3;
    let topic_len = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let (topic, rest) = body[2..].split_at(topic_len);
    let mut topic = String::from_utf8(topic.to_vec()).expect("UTF-8");
    let (id, mut payload) = match qos {
        0 => (0, rest),
        _ => (u16::from_be_bytes([rest[0], rest[1]]), &rest[2..]),
    };
    let (mut content_type, mut user) = (None, Vec::new());
    if v5 {
        assert!(payload[0] < 0x80, "short properties");
        let (mut properties, rest) = payload[1..].split_at(usize::from(payload[0]));
        payload = rest;
        while let [kind, a, b, more @ ..] = properties {
            let number = u16::from_be_bytes([*a, *b]);
            properties = match kind {
                0x23 if topic.is_empty() => {
                    topic.clone_from(aliases.get(&number).expect("a number that was introduced"));
                    more
                }
                0x23 => {
                    aliases.insert(number, topic.clone());
                    more
                }
                0x03 => {
                    let (text, more) = more.split_at(usize::from(number));
                    content_type = Some(String::from_utf8(text.to_vec()).expect("UTF-8"));
                    more
                }
                0x26 => {
                    let (key, more) = more.split_at(usize::from(number));
                    let (value, more) =
                        more[2..].split_at(usize::from(u16::from_be_bytes([more[0], more[1]])));
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
                    user.push((text(key), text(value)));
                    more
                }
                other => panic!("a property {other:#x} that is not expected"),
            };
        }
    }
    assert!(!topic.is_empty());
    let plain = topic.starts_with("spBv1.0/") && !topic.contains("/NDEATH/");
    let reading = ["/data/", "/history/", "/batch", "/compact"].iter().any(|part| topic.contains(part));
    assert!(if plain { qos == 0 } else { qos == 1 || reading }, "QoS {qos}: {topic}");
    let (retain, dup, payload) = (first & 1 != 0, first & 8 != 0, payload.to_vec());
    Published { connection, topic, payload, retain, dup, id, qos, content_type, user, len: body.len() }
}
