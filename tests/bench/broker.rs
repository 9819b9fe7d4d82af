//! The local broker beside Debian's mosquitto: messages a second, latency and memory, as tables.
//!
//! `cargo bench --bench broker`, or some of it: `-- rates`, `-- keeping`, `-- latencies`, `-- memory`. Each row is measured in turn with both engines of ours and with mosquitto, in processes of
//! their own, so that a busy machine is busy for all. The load is closed: a publisher sends on when what it sent before has
//! been delivered, so no broker has to drop anything and none is measured by what it drops. A rate counts deliveries.
//! What is kept over a restart (`keeping`) has no rival there: mosquitto writes its sessions every half an hour.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use support::process::Process;
use support::{Gate, free_port, now, pause, temporary, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");
/// Messages that one publisher has under way; of many a quarter, for what waits for one subscriber has its end.
const WINDOW: u64 = 200;
const PAYLOAD: usize = 100;

/// A broker as a process of its own.
struct Running {
    port: u16,
    process: Process,
    _home: tempfile::TempDir,
}

impl Running {
    fn ours(engine: &str) -> Self {
        Self::ours_with(engine, true)
    }

    fn ours_with(engine: &str, keeps: bool) -> Self {
        let home = temporary();
        let gate = Gate::new(BINARY, home.path(), "bench", "");
        // A thousand clients of one address come as fast as they can: not what the limits are for.
        let broker = format!(
            "engine = \"{engine}\"\nsys_interval = \"0s\"\npersistence = {keeps}\nmax_connections = 4000\n\
             max_connections_per_address = 4000\nmax_connect_rate = 0"
        );
        gate.configure(&gate.head("bench", &broker));
        let process = gate.run();
        Self { port: gate.broker, process, _home: home }
    }

    fn mosquitto() -> Self {
        let (home, port) = (temporary(), free_port());
        let config = home.path().join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_queued_messages 0\n\
             set_tcp_nodelay true\nlog_type none\nsys_interval 0\nuser root\n"
        );
        std::fs::write(&config, text).expect("written");
        let mut command = Command::new("/usr/sbin/mosquitto");
        command.arg("-c").arg(&config).stdout(Stdio::null());
        let process = Process::start(command, &home.path().join("mosquitto.log"));
        wait_until("mosquitto to listen", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { port, process, _home: home }
    }

    fn all() -> [Self; 3] {
        [Self::ours("rumqttd"), Self::ours("native"), Self::mosquitto()]
    }

    fn rss_kib(&self) -> u64 {
        rss_kib(self.process.pid())
    }
}

fn rss_kib(pid: u32) -> u64 {
    let status =
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|wanted| wanted == name);
    if wanted("rates") {
        rates(&runtime);
    }
    if wanted("keeping") {
        keeping(&runtime);
    }
    if wanted("latencies") {
        latencies(&runtime);
    }
    if wanted("memory") {
        memory(&runtime);
    }
}

fn rates(runtime: &tokio::runtime::Runtime) {
    println!("deliveries a second, {PAYLOAD} bytes each; in brackets, over mosquitto's\n");
    println!("{:<22} {:>20} {:>20} {:>12}", "", "rumqttd", "native", "mosquitto");
    for (publishers, subscribers, messages) in [(1, 1, 60_000), (1, 50, 6000), (50, 1, 60_000)] {
        for qos in 0..3 {
            let rates: Vec<f64> = Running::all()
                .iter()
                .map(|broker| {
                    let scene = Scene { publishers, subscribers, messages, qos, stays: false, retain: false };
                    runtime.block_on(rate(broker.port, scene))
                })
                .collect();
            println!(
                "{:<22} {:>20} {:>20} {:>12.0}",
                format!("{publishers}:{subscribers}, QoS {qos}"),
                format!("{:.0} ({:.1})", rates[0], rates[0] / rates[2]),
                format!("{:.0} ({:.1})", rates[1], rates[1] / rates[2]),
                rates[2]
            );
        }
    }
    println!();
}

/// What it costs that sessions and retained messages outlive the process.
fn keeping(runtime: &tokio::runtime::Runtime) {
    println!(
        "deliveries a second where something is to be kept: native engine with persistence on and off\n"
    );
    println!("{:<34} {:>10} {:>10} {:>12}", "1:1", "on", "off", "mosquitto");
    for (title, qos, stays, retain) in [
        ("clean session, QoS 1", 1, false, false),
        ("session that stays, QoS 0", 0, true, false),
        ("session that stays, QoS 1", 1, true, false),
        ("session that stays, QoS 2", 2, true, false),
        ("clean session, retained, QoS 0", 0, false, true),
        ("clean session, retained, QoS 1", 1, false, true),
    ] {
        let [on, off] = [true, false].map(|keeps| Running::ours_with("native", keeps));
        let brokers = [on, off, Running::mosquitto()];
        let scene = Scene { publishers: 1, subscribers: 1, messages: 20_000, qos, stays, retain };
        let rates = brokers.each_ref().map(|broker| runtime.block_on(rate(broker.port, scene)));
        println!("{title:<34} {:>10.0} {:>10.0} {:>12.0}", rates[0], rates[1], rates[2]);
    }
    println!();
}

/// So many messages altogether, each to every subscriber.
#[derive(Clone, Copy)]
struct Scene {
    publishers: u64,
    subscribers: u64,
    messages: u64,
    qos: u8,
    /// The subscribers' sessions stay.
    stays: bool,
    /// The messages are retained.
    retain: bool,
}

async fn rate(port: u16, scene: Scene) -> f64 {
    let Scene { publishers, subscribers, messages, qos, stays, retain } = scene;
    let progress = Arc::new(Progress::default());
    let mut subscribed = Vec::new();
    for n in 0..subscribers {
        let mut client = Client::connect_as(port, &format!("s{n}"), stays).await;
        client.subscribe("b/#", qos).await;
        subscribed.push(client);
    }
    for client in subscribed {
        tokio::spawn(client.receive(progress.clone()));
    }
    let each = messages / publishers;
    let mut tasks = tokio::task::JoinSet::new();
    let mut clients = Vec::new();
    for n in 0..publishers {
        clients.push(Client::connect(port, &format!("p{n}")).await);
    }
    let began = now();
    for (n, client) in clients.into_iter().enumerate() {
        let load = Load { topic: format!("b/{n}"), count: each, qos, retain, publishers, subscribers };
        tasks.spawn(client.publish(load, progress.clone()));
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("it publishes");
    }
    let wanted = each * publishers * subscribers;
    while progress.delivered.load(Relaxed) < wanted {
        assert!(now() < began + 120.0, "{} of {wanted}", progress.delivered.load(Relaxed));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let rate = wanted as f64 / (now() - began);
    rate
}

/// What the subscribers have got, all together.
#[derive(Default)]
struct Progress {
    delivered: AtomicU64,
    news: Notify,
}

struct Load {
    topic: String,
    count: u64,
    qos: u8,
    retain: bool,
    publishers: u64,
    subscribers: u64,
}

/// Just enough of an MQTT 3.1.1 client.
struct Client {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    input: Vec<u8>,
}

impl Client {
    async fn connect(port: u16, id: &str) -> Self {
        Self::connect_as(port, id, false).await
    }

    async fn connect_as(port: u16, id: &str, stays: bool) -> Self {
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

    async fn subscribe(&mut self, filter: &str, qos: u8) {
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
    async fn receive(mut self, progress: Arc<Progress>) {
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

    /// Sends its messages, never more than a window ahead of what was delivered, and finishes what QoS 1 and 2 want.
    async fn publish(self, load: Load, progress: Arc<Progress>) {
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
            if sent == load.count && acked == sent {
                break;
            }
            let window = WINDOW / load.publishers.min(4);
            let room = window.saturating_sub(sent.saturating_sub(delivered.min(acked)));
            let mut out = Vec::new();
            for _ in 0..room.min(load.count - sent) {
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
    }
}

/// One PUBLISH packet with its number as packet id. `flags`: QoS 2 or 4, retain 1.
fn message(out: &mut Vec<u8>, topic: &str, flags: u8, number: u64) {
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

fn latencies(runtime: &tokio::runtime::Runtime) {
    println!("microseconds from publisher to subscriber, a thousand messages a second\n");
    println!("{:<10} {:>22} {:>22} {:>22}", "p50 / p99", "rumqttd", "native", "mosquitto");
    for qos in 0..3 {
        let brokers = Running::all();
        let mut cells = Vec::new();
        for broker in &brokers {
            let mut taken = runtime.block_on(latency(broker.port, qos));
            taken.sort_by(f64::total_cmp);
            cells.push(format!(
                "{:.0} / {:.0}",
                taken[taken.len() / 2] * 1e6,
                taken[taken.len() * 99 / 100] * 1e6
            ));
        }
        println!("{:<10} {:>22} {:>22} {:>22}", format!("QoS {qos}"), cells[0], cells[1], cells[2]);
    }
    println!();
}

async fn latency(port: u16, qos: u8) -> Vec<f64> {
    let mut subscriber = Client::connect(port, "s").await;
    subscriber.subscribe("b/#", qos).await;
    let progress = Arc::new(Progress::default());
    tokio::spawn(subscriber.receive(progress.clone()));
    let publisher = Client::connect(port, "p").await;
    let Client { mut reader, mut writer, .. } = publisher;
    // What QoS 2 still wants: PUBREL for every PUBREC, in a task of its own.
    let (answers, mut due) = tokio::sync::mpsc::channel::<Vec<u8>>(1024);
    let hearing = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            let recs = buffer[..count].chunks_exact(4).filter(|p| p[0] == 0x50);
            let say: Vec<u8> = recs.flat_map(|p| [0x62, 2, p[2], p[3]]).collect();
            if !say.is_empty() && answers.send(say).await.is_err() {
                return;
            }
        }
    });
    let mut taken = Vec::new();
    let mut turn = tokio::time::interval(Duration::from_millis(1));
    for n in 1..=3000 {
        turn.tick().await;
        let mut out = Vec::new();
        message(&mut out, "b/1", qos << 1, n);
        let began = now();
        writer.write_all(&out).await.expect("it listens");
        while progress.delivered.load(Relaxed) < n {
            // A broker may hand a message of QoS 2 on only once it is released.
            while let Ok(more) = due.try_recv() {
                writer.write_all(&more).await.expect("it listens");
            }
            tokio::task::yield_now().await;
            assert!(now() < began + 10.0, "message {n} does not arrive");
        }
        taken.push(now() - began);
    }
    hearing.abort();
    taken
}

fn memory(runtime: &tokio::runtime::Runtime) {
    println!("resident memory; ours is the whole gateway\n");
    println!("{:<42} {:>12} {:>12} {:>12}", "MiB", "rumqttd", "native", "mosquitto");
    let brokers = Running::all();
    let row = |title: &str| {
        #[expect(clippy::cast_precision_loss, reason = "megabytes")]
        let mib: Vec<f64> = brokers.iter().map(|b| b.rss_kib() as f64 / 1024.0).collect();
        println!("{title:<42} {:>12.1} {:>12.1} {:>12.1}", mib[0], mib[1], mib[2]);
        mib
    };
    let idle = row("idle");
    let mut held = Vec::new();
    for broker in &brokers {
        for n in 0..1000 {
            held.push(runtime.block_on(Client::connect(broker.port, &format!("idle{n}"))));
        }
    }
    pause(Duration::from_millis(500));
    let full = row("with 1000 idle clients");
    println!(
        "{:<42} {:>12.1} {:>12.1} {:>12.1}",
        "  KiB each",
        (full[0] - idle[0]) * 1.024,
        (full[1] - idle[1]) * 1.024,
        (full[2] - idle[2]) * 1.024
    );
    drop(held);
    for broker in &brokers {
        let many =
            Scene { publishers: 50, subscribers: 1, messages: 60_000, qos: 1, stays: false, retain: false };
        runtime.block_on(rate(broker.port, many));
        let wide = Scene { publishers: 1, subscribers: 50, messages: 6000, qos: 0, ..many };
        runtime.block_on(rate(broker.port, wide));
    }
    pause(Duration::from_secs(3));
    row("after 1000 clients and 360,000 messages");
    pause(Duration::from_secs(20));
    row("  20 s later");
}
