//! Every fault of a link, with mosquitto behind it and readings that go on: nothing lost, order kept, repeats
//! within what was in flight, and how soon after the fault the first reading arrives. Prints a table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::fake_broker::{Answer, FakeBroker, Welcome};
use crate::link::{Link, Shape};
use crate::memory_drain::MemoryDrain;
use crate::mosquitto::{Mosquitto, Witness};
use crate::outside::{Arrival, judge, readings};
use crate::tls_front::{Authority, Terms};
use crate::uplink_bench::{Bench, quick, until, uplink};
use fieldgate::bounds;
use fieldgate::uplink::Timing;

const MS: Duration = Duration::from_millis(1);
const FORMATS: [&str; 4] = [
    "",
    "mqtt_version = \"3.1.1\"\n",
    "format = \"json-batch\"\nbatch = { max_readings = 100, max_delay = \"20ms\" }\n",
    "format = \"compact\"\nqos = 0\nbatch = { max_readings = 100, max_delay = \"20ms\" }\n",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    BlackHole,
    Stalled,
    NoAnswers,
    LateAnswers,
    Forgetful,
    Resets,
    Refused,
    ForeignCertificate,
    TakenOver,
    Unreachable,
}

/// Everything of one trial.
struct Scene {
    broker: Mosquitto,
    witness: Witness,
    link: Link,
    bench: Bench,
    /// One past the last number.
    next: Arc<AtomicU64>,
    feeding: tokio::task::JoinHandle<()>,
    refusing: FakeBroker,
    foreign_port: u16,
    right_port: u16,
    _authority: Authority,
}

impl Scene {
    async fn start(fault: Fault, shape: Shape, more: &str, timing: Timing, every: Duration) -> Self {
        let broker = Mosquitto::start(tempfile::tempdir().expect("a directory"), "").await;
        let witness = Witness::start(broker.port).await;
        // Not authorised, in the words of each version.
        let code = if more.contains("3.1.1") { 5 } else { 0x87 };
        let refusing = FakeBroker::start(Welcome { code, ..Welcome::default() }, |_, _| Answer::Ack).await;
        let (ours, foreign) = (Authority::new("Test CA"), Authority::new("Other CA"));
        let at = std::net::SocketAddr::from(([127, 0, 0, 1], broker.port));
        let right = ours.front(Terms::default(), at).await;
        let foreign_port = foreign.front(Terms::default(), at).await;
        let tls = fault == Fault::ForeignCertificate;
        let right_port = if tls { right } else { broker.port };
        let link = Link::shaped(right_port, shape).await;
        let (url, more) = if tls {
            let ca = format!("ca_file = \"{}\"\n", ours.file("ca.pem").display());
            (format!("mqtts://localhost:{}", link.address.port()), [&ca, more].concat())
        } else {
            (format!("mqtt://{}", link.address), more.to_owned())
        };
        let config = uplink(&url, &["client_id = \"the-box\"\n", &more].concat());
        let drain = MemoryDrain::new();
        let next = Arc::new(AtomicU64::new(1));
        let feeding = tokio::spawn({
            let (drain, next) = (drain.clone(), next.clone());
            async move {
                loop {
                    let seq = next.fetch_add(1, Relaxed);
                    drain.commit(seq..seq + 1);
                    sleep(every).await;
                }
            }
        });
        let bench = Bench::start(config, drain, timing);
        Self {
            broker,
            witness,
            link,
            bench,
            next,
            feeding,
            refusing,
            foreign_port,
            right_port,
            _authority: ours,
        }
    }

    fn arrivals(&self) -> Vec<Arrival> {
        self.witness.seen().iter().flat_map(|(topic, payload)| readings(topic, payload)).collect()
    }

    async fn arrived(&self, what: &str, count: usize) {
        until(what, || self.arrivals().len() >= count).await;
    }

    /// The fault, for so long; returns when it is over.
    async fn suffer(&mut self, fault: Fault, span: Duration) -> Instant {
        match fault {
            Fault::BlackHole => self.link.swallow(),
            Fault::Stalled => self.link.hold(),
            Fault::NoAnswers | Fault::LateAnswers => self.link.hold_answers(),
            Fault::Unreachable => self.link.cut(),
            Fault::Refused => self.link.lead_to(self.refusing.address.port()),
            Fault::ForeignCertificate => self.link.lead_to(self.foreign_port),
            Fault::Forgetful => {
                self.link.cut();
                self.broker.forget().await;
                self.witness.ready().await;
            }
            Fault::Resets => {
                let end = Instant::now() + span;
                while Instant::now() < end {
                    sleep(150 * MS).await;
                    self.link.shake();
                }
                return Instant::now();
            }
            Fault::TakenOver => {
                let end = Instant::now() + span;
                while Instant::now() < end {
                    crate::mosquitto::take_over(self.broker.port, "the-box").await;
                }
                return Instant::now();
            }
        }
        sleep(span).await;
        match fault {
            Fault::Refused | Fault::ForeignCertificate => self.link.lead_to(self.right_port),
            _ => self.link.heal(),
        }
        Instant::now()
    }

    /// Ends the trial: what there is arrives, and is judged. Returns how many were stored and repeated, and how many
    /// connections there were.
    async fn judged(self) -> (u64, usize, u64) {
        self.feeding.abort();
        until("the log to run dry", || self.bench.drain.queued() == 0).await;
        let all = 1..self.next.load(Relaxed);
        let known = |seen: &[Arrival]| {
            let there: std::collections::BTreeSet<u64> = seen.iter().map(|a| a.seq).collect();
            all.clone().all(|seq| there.contains(&seq))
        };
        until("the witness to see all", || known(&self.arrivals())).await;
        let repeats = judge(&self.arrivals(), all.clone());
        let counted = self.bench.counters.repeats.load(Relaxed);
        let twice = || {
            let seen = self.arrivals();
            let of = |seq: u64| seen.iter().filter(|a| a.seq == seq).map(|a| a.lane).collect::<Vec<_>>();
            all.clone().map(|seq| (seq, of(seq))).filter(|(_, lanes)| lanes.len() > 1).collect::<Vec<_>>()
        };
        assert!(counted >= repeats as u64, "{counted} repeats are counted of {repeats}: {:?}", twice());
        let connects = self.bench.counters.connects.load(Relaxed);
        self.bench.stop().await;
        (all.end - 1, repeats, connects)
    }
}

async fn trial(fault: Fault, more: &'static str) {
    let mut scene = Scene::start(fault, Shape::default(), more, quick(), 5 * MS).await;
    scene.arrived("the first readings", 20).await;
    let before = scene.bench.counters.connects.load(Relaxed);
    // Longer than any wait for an answer, or well within it.
    let span = if fault == Fault::LateAnswers { 150 * MS } else { 1500 * MS };
    let healed = scene.suffer(fault, span).await;
    let first = || {
        let seen = scene.witness.timed();
        let mut later = seen.iter().filter(|(at, _)| *at > healed);
        later.find(|(_, (topic, payload))| !readings(topic, payload).is_empty()).map(|(at, _)| *at - healed)
    };
    until("a reading after the fault", || first().is_some()).await;
    let after = first().expect("it arrived");
    let error = scene.bench.counters.last_error().map(|(_, text)| text).unwrap_or_default();
    let (stored, repeats, connects) = scene.judged().await;
    // Also what came after the first reading: what was stalled arrives before the connection is found to be lost.
    let connects = connects - before;
    if fault == Fault::LateAnswers {
        assert_eq!(connects, 0, "an answer that is only late ends nothing: {error}");
    }
    // Each connection that ended may have had a window in flight, and no more was taken than came meanwhile.
    let window = bounds::UPLINK_WINDOW as u64 * connects;
    assert!(repeats as u64 <= window.min(connects * stored), "{fault:?}: {repeats} repeats");
    println!(
        "{:<20} {:<46} {stored:>6} {repeats:>8} {connects:>9} {:>9.0} ms  {error}",
        format!("{fault:?}"),
        more.lines().next().unwrap_or("json"),
        after.as_secs_f64() * 1e3,
    );
}

async fn trials(faults: &[Fault]) {
    if !crate::mosquitto::installed() {
        return;
    }
    for fault in faults {
        let mut all = tokio::task::JoinSet::new();
        for more in FORMATS {
            all.spawn(trial(*fault, more));
        }
        while let Some(done) = all.join_next().await {
            done.expect("the trial is passed");
        }
    }
}

#[tokio::test]
async fn links_that_swallow_stall_and_vanish_cost_nothing() {
    trials(&[Fault::BlackHole, Fault::Stalled, Fault::Unreachable, Fault::Resets]).await;
}

#[tokio::test]
async fn answers_that_come_late_or_never_cost_nothing() {
    trials(&[Fault::NoAnswers, Fault::LateAnswers]).await;
}

#[tokio::test]
async fn brokers_that_forget_refuse_or_are_somebody_else_cost_nothing() {
    trials(&[Fault::Forgetful, Fault::Refused, Fault::ForeignCertificate, Fault::TakenOver]).await;
}

#[tokio::test]
async fn links_that_are_long_or_narrow_carry_everything_once() {
    if !crate::mosquitto::installed() {
        return;
    }
    // Round trip, bytes a second, milliseconds between readings: what the narrowest carries, not more.
    for (shape, every, format) in [
        (Shape::of(200, 0), 20, FORMATS[0]),
        (Shape::of(2000, 0), 100, FORMATS[0]),
        (Shape::of(2000, 0), 20, FORMATS[2]),
        (Shape::of(100, 1000), 500, FORMATS[0]),
        (Shape::of(100, 1000), 100, FORMATS[2]),
    ] {
        let scene = Scene::start(Fault::Unreachable, shape, format, Timing::default(), every * MS).await;
        scene.arrived("the first readings", 10).await;
        sleep(Duration::from_secs(5)).await;
        let connects = scene.bench.counters.connects.load(Relaxed);
        let error = scene.bench.counters.last_error();
        assert_eq!(connects, 1, "{shape:?}: slow is not broken: {error:?}");
        let carried = scene.link.carried.clone();
        let (stored, repeats, _) = scene.judged().await;
        assert_eq!(repeats, 0, "{shape:?}");
        let format = format.lines().next().unwrap_or("json");
        let [up, down] = [0, 1].map(|way| carried[way].load(Relaxed));
        println!("{shape:?} {format:<24} {stored:>4} stored, all arrived once; {up} bytes up, {down} down");
    }
}

#[tokio::test]
async fn a_batch_that_is_too_long_for_the_link_is_cut_on_the_next_connection() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let link = Link::shaped(broker.address.port(), Shape::of(20, 4000)).await;
    let drain = MemoryDrain::new();
    // Some 15 kB as one message, which takes almost four seconds.
    drain.commit(1..501);
    let timing = Timing { ack: 1500 * MS, ..quick() };
    let config = uplink(&format!("mqtt://{}", link.address), "format = \"json-batch\"\n");
    let bench = Bench::start(config, drain, timing);
    until("the log to run dry", || bench.drain.queued() == 0).await;
    let seen: Vec<Arrival> = broker.published().iter().flat_map(|p| readings(&p.topic, &p.payload)).collect();
    judge(&seen, 1..501);
    let connects = bench.counters.connects.load(Relaxed);
    println!("{connects} connections, {} messages", broker.published().len());
    assert!(connects > 1, "the first message took too long");
    bench.stop().await;
}
