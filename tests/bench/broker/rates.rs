//! Messages a second and what they cost, beside mosquitto: how many talk to how many, what is kept, filters that overlap.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use support::now;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::Running;
use super::client::{Client, Load, PAYLOAD, Progress};

/// How often every broker has its turn: the median counts, for the machine has other things to do, too.
const ROUNDS: usize = 5;
/// How long a turn is.
const TURN: f64 = 0.7;
/// Levels of the topic on which filters overlap: 2^11 filters match it.
const LEVELS: usize = 11;

/// Who talks to whom, and how.
#[derive(Clone, Copy)]
pub struct Scene {
    pub publishers: u64,
    pub subscribers: u64,
    pub qos: u8,
    /// The subscribers' sessions stay.
    pub stays: bool,
    /// The messages are retained.
    pub retain: bool,
    /// Filters of each subscriber that match every message; 0: one that matches all there is.
    pub overlapping: usize,
}

impl Scene {
    pub const fn of(publishers: u64, subscribers: u64, qos: u8) -> Self {
        Self { publishers, subscribers, qos, stays: false, retain: false, overlapping: 0 }
    }

    fn filters(self) -> Vec<String> {
        let filter = |n: usize| {
            let level = |at: usize| if n >> at & 1 == 1 { "/+" } else { "/0" };
            format!("b{}", (0..LEVELS).map(level).collect::<String>())
        };
        match self.overlapping {
            0 => vec!["b/#".to_owned()],
            many => (0..many).map(filter).collect(),
        }
    }

    fn topic(self, publisher: u64) -> String {
        match self.overlapping {
            0 => format!("b/{publisher}"),
            _ => format!("b{}", "/0".repeat(LEVELS)),
        }
    }
}

/// What was seen of one broker.
#[derive(Clone, Copy)]
pub struct Seen {
    /// Deliveries a second.
    rate: f64,
    /// Processor time of a delivery, in microseconds.
    cost: f64,
}

pub fn rates(runtime: &Runtime, chosen: &[String]) {
    println!("deliveries a second, {PAYLOAD} bytes each, and processor time of each; x: mosquitto's\n");
    println!("{:<14} {:>28} {:>28} {:>20}", "", "rumqttd", "native", "mosquitto");
    for (publishers, subscribers) in [(1, 1), (1, 50), (50, 1)] {
        for qos in 0..3 {
            let title = format!("{publishers}:{subscribers}, QoS {qos}");
            if chosen.iter().all(|part| title.contains(part.as_str())) {
                row(runtime, &title, &Running::all(), Scene::of(publishers, subscribers, qos));
            }
        }
    }
    println!();
}

/// One client whose filters match the same topic: it is sent one copy.
pub fn overlapping(runtime: &Runtime) {
    println!("deliveries a second to one client whose filters all match, QoS 1: one copy each\n");
    println!("{:<14} {:>28} {:>28} {:>20}", "", "rumqttd", "native", "mosquitto");
    for overlapping in [1, 10, 100, 1000] {
        let scene = Scene { overlapping, ..Scene::of(1, 1, 1) };
        let brokers = [Running::ours("rumqttd"), Running::ours("native"), Running::mosquitto_once()];
        row(runtime, &format!("{overlapping} filters"), &brokers, scene);
    }
    println!();
}

fn row(runtime: &Runtime, title: &str, brokers: &[Running; 3], scene: Scene) {
    let mut seen = [(); 3].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        for (broker, seen) in brokers.iter().zip(&mut seen) {
            seen.push(runtime.block_on(rate(broker, scene)));
        }
    }
    let [rumqttd, native, rival] = seen.map(median);
    let ours = |ours: Seen| {
        let (faster, cheaper) = (ours.rate / rival.rate, rival.cost / ours.cost);
        format!("{:.0} {faster:.1}x {:.2} us {cheaper:.1}x", ours.rate, ours.cost)
    };
    println!(
        "{title:<14} {:>28} {:>28} {:>20}",
        ours(rumqttd),
        ours(native),
        format!("{:.0} {:.2} us", rival.rate, rival.cost)
    );
}

fn median(mut seen: Vec<Seen>) -> Seen {
    let mut middle = |of: fn(&Seen) -> f64| {
        seen.sort_by(|a, b| of(a).total_cmp(&of(b)));
        of(&seen[seen.len() / 2])
    };
    Seen { rate: middle(|s| s.rate), cost: middle(|s| s.cost) }
}

/// What it costs that sessions and retained messages outlive the process.
pub fn keeping(runtime: &Runtime) {
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
        let scene = Scene { stays, retain, ..Scene::of(1, 1, qos) };
        let rates = brokers.each_ref().map(|broker| runtime.block_on(rate(broker, scene)).rate);
        println!("{title:<34} {:>10.0} {:>10.0} {:>12.0}", rates[0], rates[1], rates[2]);
    }
    println!();
}

/// One turn.
pub async fn rate(broker: &Running, scene: Scene) -> Seen {
    let Scene { publishers, subscribers, qos, stays, retain, .. } = scene;
    let (port, progress) = (broker.port, Arc::new(Progress::default()));
    let mut receiving = JoinSet::new();
    for n in 0..subscribers {
        let mut client = Client::connect_as(port, &format!("s{n}"), stays).await;
        for filter in scene.filters() {
            client.subscribe(&filter, qos).await;
        }
        receiving.spawn(client.receive(progress.clone()));
    }
    let mut clients = Vec::new();
    for n in 0..publishers {
        clients.push(Client::connect(port, &format!("p{n}")).await);
    }
    let (worked, began) = (broker.processor_s(), now());
    let mut publishing = JoinSet::new();
    for (n, client) in (0..).zip(clients) {
        let load = Load { topic: scene.topic(n), until: began + TURN, qos, retain, publishers, subscribers };
        publishing.spawn(client.publish(load, progress.clone()));
    }
    let mut wanted = 0;
    while let Some(sent) = publishing.join_next().await {
        wanted += sent.expect("it publishes") * subscribers;
    }
    while progress.delivered.load(Relaxed) < wanted {
        assert!(now() < began + 120.0, "{} of {wanted}", progress.delivered.load(Relaxed));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let deliveries = wanted as f64;
    let (took, worked) = (now() - began, broker.processor_s() - worked);
    Seen { rate: deliveries / took, cost: worked * 1e6 / deliveries }
}
