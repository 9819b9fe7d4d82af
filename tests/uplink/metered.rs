//! Links that are paid for: windows in which to be connected, and a limit of what is sent.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::fake_broker::{Answer, FakeBroker, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::outside::{Arrival, judge, readings};
use crate::tls_front::{Authority, Terms};
use crate::uplink_bench::{Bench, quick, until, uplink};
use fieldgate::clock::{Clock, SystemClock};
use fieldgate::message::{BootMs, Message, WallMs};
use fieldgate::uplink::State;

/// A box whose time passes twenty times as fast: windows of 10 s every minute are half a second every three.
#[derive(Debug)]
pub struct Fast(SystemClock, BootMs);

impl Fast {
    pub fn start() -> Arc<Self> {
        let clock = SystemClock::new(true);
        let boot = clock.boot();
        Arc::new(Self(clock, boot))
    }
}

impl Clock for Fast {
    fn boot(&self) -> BootMs {
        BootMs(self.1.0 + 20 * (self.0.boot().0 - self.1.0))
    }
    fn wall(&self) -> WallMs {
        self.0.wall()
    }
    fn synced(&self) -> bool {
        true
    }
    fn boot_id(&self) -> &str {
        self.0.boot_id()
    }
}

pub const WINDOWS: &str = "connect = \"every 1m for 10s\"\n";

fn arrivals(broker: &FakeBroker) -> Vec<Arrival> {
    broker.published().iter().flat_map(|p| readings(&p.topic, &p.payload)).collect()
}

pub async fn sleeps(bench: &Bench) {
    until("the end of the window", || bench.counters.state().0 == State::Sleeping).await;
}

#[tokio::test]
async fn a_window_ends_once_everything_is_delivered_and_the_next_one_takes_the_rest() {
    for more in ["", "mqtt_version = \"3.1.1\"\n"] {
        let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
        let drain = MemoryDrain::new();
        drain.commit(1..101);
        let config = uplink(&broker.url(), &[WINDOWS, more].concat());
        let bench = Bench::start_with_clock(config, drain, quick(), Fast::start());
        sleeps(&bench).await;
        assert_eq!((bench.drain.queued(), bench.counters.windows_missed.load(Relaxed)), (0, 0));
        // MQTT 3.1.1 has no login that begins a session anew and keeps it: one that keeps none goes before.
        let first = if more.is_empty() { 1 } else { 2 };
        until("the DISCONNECT", || broker.farewells() == first).await;
        let last = broker.published().pop().expect("a farewell");
        let text = String::from_utf8(last.payload).expect("text");
        assert!(last.retain && last.topic == "gw/g/status", "{text}");
        assert!(text.starts_with(r#"{"state":"offline","reason":"scheduled","until":"20"#), "{text}");
        assert!(bench.counters.next_window().is_some());
        bench.drain.commit(101..151);
        assert_eq!((broker.connects().len(), bench.drain.queued()), (first, 50), "it really sleeps");
        until("the next window", || bench.drain.queued() == 0).await;
        assert_eq!(broker.connects().len(), first + 1);
        assert_eq!(judge(&arrivals(&broker), 1..151), 0);
        bench.stop().await;
    }
}

#[tokio::test]
async fn what_is_retained_goes_out_once_and_then_only_what_changed() {
    let broker = FakeBroker::start(Welcome::default(), |_, p| {
        // The third connection breaks: whoever is at the other end then may know nothing.
        if p.connection == 2 { Answer::Reset } else { Answer::Ack }
    })
    .await;
    let config = uplink(&broker.url(), WINDOWS);
    let bench = Bench::start_with_clock(config, MemoryDrain::new(), quick(), Fast::start());
    for topic in ["gw/g/status", "gw/g/meta/d/p", "gw/g/meta/d/q"] {
        bench.mirror.send(Message::new(topic, "1", true)).await.expect("taken");
    }
    sleeps(&bench).await;
    bench.mirror.send(Message::new("gw/g/meta/d/q", "2", true)).await.expect("taken");
    let of = |connection: usize| -> Vec<(String, String)> {
        let published = broker.published().into_iter().filter(|p| p.connection == connection);
        let mut list: Vec<_> = published
            .map(|p| (p.topic, String::from_utf8(p.payload).expect("text")))
            .filter(|(_, text)| !text.contains("scheduled"))
            .collect();
        list.sort();
        list
    };
    let told = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(topic, text)| (format!("gw/g/{topic}"), (*text).to_owned())).collect()
    };
    until("the fourth connection", || broker.connects().len() >= 4).await;
    sleeps(&bench).await;
    assert_eq!(of(0), told(&[("meta/d/p", "1"), ("meta/d/q", "1"), ("status", "1")]));
    assert_eq!(of(1), told(&[("meta/d/q", "2"), ("status", "1")]));
    assert_eq!(of(3), told(&[("meta/d/p", "1"), ("meta/d/q", "2"), ("status", "1")]));
    bench.stop().await;
}

#[tokio::test]
async fn a_window_is_over_in_the_middle_of_a_backlog_and_nothing_is_lost_or_sent_twice() {
    let wait = Duration::from_millis(40);
    let broker = FakeBroker::start(Welcome::receive_maximum(4), move |_, _| Answer::AckAfter(wait)).await;
    let drain = MemoryDrain::new();
    drain.commit(1..121);
    let bench = Bench::start_with_clock(uplink(&broker.url(), WINDOWS), drain, quick(), Fast::start());
    sleeps(&bench).await;
    let left = bench.drain.queued();
    assert!((1..120).contains(&left), "{left} of 120 are left for the next windows");
    until("the DISCONNECT", || broker.farewells() == 1).await;
    until("the rest", || bench.drain.queued() == 0).await;
    assert_eq!(judge(&arrivals(&broker), 1..121), 0, "what was in flight was finished first");
    bench.stop().await;
}

#[tokio::test]
async fn windows_without_a_login_are_counted() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("mqtt://{}", gone.local_addr().expect("bound"));
    drop(gone);
    let bench = Bench::start_with_clock(uplink(&url, WINDOWS), MemoryDrain::new(), quick(), Fast::start());
    until("two windows in vain", || bench.counters.windows_missed.load(Relaxed) == 2).await;
    assert!(bench.counters.last_error().expect("an error").1.contains("refused"));
    bench.stop().await;
}

#[tokio::test]
async fn a_limit_counts_what_is_on_the_wire_and_live_readings_go_first() {
    const RATE: u32 = 8192;
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let authority = Authority::new("Test CA");
    let port = authority.front(Terms::default(), broker.address).await;
    let more = format!("max_rate = \"8KiB\"\nca_file = \"{}\"\n", authority.file("ca.pem").display());
    let drain = MemoryDrain::new();
    drain.commit(1..151);
    let start = tokio::time::Instant::now();
    let bench = Bench::start(uplink(&format!("mqtts://localhost:{port}"), &more), drain, quick());
    until("the backlog to move", || broker.published().len() >= 20).await;
    bench.drain.commit(151..154);
    until("the live readings", || arrivals(&broker).iter().any(|a| a.seq == 153)).await;
    let old = arrivals(&broker).iter().filter(|a| a.lane == "history").count();
    assert!(old < 120, "{old} of the backlog went before the live readings");
    until("the log to run dry", || bench.drain.queued() == 0).await;
    let (elapsed, sent) = (start.elapsed(), bench.counters.bytes_sent.load(Relaxed));
    let plain: usize = broker.published().iter().map(|p| p.len).sum();
    println!("{sent} bytes on the wire, {plain} of them messages, in {elapsed:?}");
    assert!(sent > plain as u64, "TLS is counted");
    // A quarter of a second's bytes at once, and one message that was under way.
    let allowed = f64::from(RATE) * (elapsed.as_secs_f64() + 0.25) + 1000.0;
    #[expect(clippy::cast_precision_loss, reason = "some kilobytes")]
    let sent = sent as f64;
    assert!(sent <= allowed, "{sent} bytes, {allowed} allowed");
    assert_eq!(judge(&arrivals(&broker), 1..154), 0);
    bench.stop().await;
}

#[tokio::test]
async fn a_message_that_takes_longer_to_send_than_any_wait_does_not_end_the_connection() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let drain = MemoryDrain::new();
    drain.commit(1..51);
    // Several readings would be cut to what the link carries in a moment. One cannot be cut.
    drain.commit_text(51, 4000);
    let more = "max_rate = \"2KiB\"\nkeep_alive = \"1s\"\nformat = \"json-batch\"\n";
    let bench = Bench::start(uplink(&broker.url(), more), drain, quick());
    until("the log to run dry", || bench.drain.queued() == 0).await;
    let longest = broker.published().iter().map(|p| p.len).max().expect("a batch");
    assert!(longest > 3000, "{longest} bytes take over a second, the wait for an acknowledgement is 0.4 s");
    assert_eq!(bench.counters.connects.load(Relaxed), 1, "{:?}", bench.counters.last_error());
    bench.stop().await;
}

#[tokio::test]
async fn a_black_hole_is_found_with_a_limit_too() {
    let broker =
        FakeBroker::start(Welcome::default(), |n, _| if n == 30 { Answer::BlackHole } else { Answer::Ack })
            .await;
    let drain = MemoryDrain::new();
    drain.commit(1..101);
    let bench = Bench::start(uplink(&broker.url(), "max_rate = \"64KiB\"\n"), drain, quick());
    until("the log to run dry", || bench.drain.queued() == 0).await;
    judge(&arrivals(&broker), 1..101);
    assert_eq!(bench.counters.connects.load(Relaxed), 2);
    bench.stop().await;
}
