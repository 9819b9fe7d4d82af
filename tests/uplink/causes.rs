//! Why it does not work, in words: every cause provoked on a real socket, and what `last_error` says then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::fake_broker::{Answer, FakeBroker, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::mosquitto::Mosquitto;
use crate::tls_front::{Authority, Terms};
use crate::uplink_bench::{Bench, quick, until, uplink};
use fieldgate::clock::{Clock, SystemClock};
use fieldgate::config::model::Uplink;
use fieldgate::message::{BootMs, WallMs};
use fieldgate::uplink::{State, Timing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const V311: &str = "mqtt_version = \"3.1.1\"\n";

async fn says_with(config: Uplink, timing: Timing, words: &str) -> String {
    let bench = Bench::start(config, MemoryDrain::new(), timing);
    let text = bench.error_with(words).await;
    println!("{text}");
    assert_ne!(bench.counters.state().0, State::Connected);
    bench.stop().await;
    text
}

async fn says(config: Uplink, words: &str) -> String {
    says_with(config, quick(), words).await
}

/// A server that answers whatever it is told with the same bytes, in pieces, and hangs up.
async fn answers(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("a socket");
            let _some = stream.read(&mut [0; 2000]).await;
            for piece in bytes.chunks(20) {
                let _sent = stream.write_all(piece).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            // Closed with something unread (an alert of TLS), Linux would reset, and take back what was sent.
            let rest = async { while matches!(stream.read(&mut [0; 2000]).await, Ok(1..)) {} };
            if !bytes.is_empty() {
                let _late = tokio::time::timeout(Duration::from_secs(2), rest).await;
            }
        }
    });
    address
}

const TO_PORTAL: &[u8] =
    b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://login.hotel.example/?from=box\r\n\r\n";

#[tokio::test]
async fn a_captive_portal_is_named_with_its_address_whatever_we_speak() {
    let portal = answers(TO_PORTAL).await;
    for scheme in ["mqtt", "mqtts", "ws"] {
        let text = says(uplink(&format!("{scheme}://{portal}"), ""), "captive portal").await;
        assert!(text.contains("HTTP 302, sends us to http://login.hotel.example/?from=box"), "{text}");
    }
    let wants_login = answers(b"HTTP/1.1 511 Network Authentication Required\r\n\r\n").await;
    says(uplink(&format!("ws://{wants_login}"), ""), "the network wants a login first").await;
    let web = answers(b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n").await;
    says(uplink(&format!("mqtt://{web}"), ""), "a web server answers instead of the broker (HTTP 400)").await;
    let closed = answers(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    says(uplink(&format!("ws://{closed}"), ""), "WebSocket: the server does not let us in (403").await;
}

#[tokio::test]
async fn a_wrong_port_is_recognised_by_what_it_speaks() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let authority = Authority::new("Test CA");
    let port = authority.front(Terms::default(), broker.address).await;
    says(uplink(&format!("mqtt://localhost:{port}"), ""), "this port speaks TLS, and we do not").await;
    says(uplink(&format!("mqtts://{}", hangs_up().await), ""), "hung up during the handshake").await;
    says(uplink(&format!("mqtts://{}", answers(b"\x20\x02\0\0").await), ""), "the answer is no TLS").await;
    says(uplink(&format!("ws://{}", hangs_up().await), ""), "hung up instead of upgrading").await;
    says(uplink(&format!("mqtt://{}", hangs_up().await), ""), "or this is its TLS port").await;
    says(uplink(&format!("mqtt://{}", answers(b"220 mail ESMTP\r\n").await), ""), "is this an MQTT broker?")
        .await;
}

/// A server that takes what it is told and closes in order, as mosquitto does with what it does not understand.
async fn hangs_up() -> SocketAddr {
    answers(b"").await
}

#[tokio::test]
async fn no_answer_at_each_stage_says_which_stage_it_was() {
    let impatient = || Timing { connect: Duration::from_millis(400), ..quick() };
    // A listener whose queue is full: Linux drops what else wants in.
    let full = TcpSocket::new_v4().expect("a socket");
    full.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let full = full.listen(1).expect("listening");
    let hole = full.local_addr().expect("bound");
    let mut queued = Vec::new();
    while let Ok(Ok(one)) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(hole)).await {
        queued.push(one);
    }
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent = silent.local_addr().map(|a| (a, silent)).expect("bound");
    for (url, more, words) in [
        (format!("mqtt://{hole}"), String::new(), "connecting by TCP (no answer"),
        (format!("mqtt://{}", silent.0), String::new(), "the broker's answer to the login"),
        (format!("mqtts://{}", silent.0), String::new(), "the TLS handshake"),
        (format!("ws://{}", silent.0), String::new(), "the upgrade to WebSocket"),
        ("mqtt://b".into(), format!("proxy = \"http://{}\"", silent.0), "the proxy's answer"),
    ] {
        let text = says_with(uplink(&url, &more), impatient(), words).await;
        assert!(text.starts_with("timeout: connecting to") && text.ends_with("longer than 0.4 s"), "{text}");
    }
    // Linux connects to no group of hosts: as good as a network without a route.
    says(uplink("mqtt://224.0.0.1", ""), "cannot be reached: there is no route").await;
}

/// The wall clock of the machine, which nothing vouches for.
#[derive(Debug)]
struct Unsynced(SystemClock);

impl Clock for Unsynced {
    fn boot(&self) -> BootMs {
        self.0.boot()
    }
    fn wall(&self) -> WallMs {
        self.0.wall()
    }
    fn synced(&self) -> bool {
        false
    }
    fn boot_id(&self) -> &str {
        self.0.boot_id()
    }
}

#[tokio::test]
async fn a_certificate_out_of_date_points_at_the_clock_and_more_so_if_it_is_not_set() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let authority = Authority::new("Test CA");
    let ca = format!("ca_file = \"{}\"", authority.file("ca.pem").display());
    for (years, words) in [((2019, 2021), "expired on 2021-01-01"), ((2119, 2121), "valid from 2119-01-01")] {
        let port = authority.front(Terms { years, ..Terms::default() }, broker.address).await;
        let config = uplink(&format!("mqtts://localhost:{port}"), &ca);
        let text = says(config.clone(), words).await;
        assert!(text.ends_with("if that is not so, the clock of this machine is wrong"), "{text}");
        let clock = Arc::new(Unsynced(SystemClock::new(true)));
        let bench = Bench::start_with_clock(config, MemoryDrain::new(), quick(), clock);
        let text = bench.error_with(words).await;
        println!("{text}");
        assert!(text.contains("the clock of this machine is not set"), "{text}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn every_refusal_of_a_login_is_told_in_words() {
    for (code, more, words) in [
        (0x84, "", "does not speak MQTT 5"),
        (0x85, "", "client id is not allowed"),
        (0x86, "", "wrong user name or password"),
        (0x87, "", "not authorised"),
        (0x88, "", "not available now"),
        (0x89, "", "busy"),
        (0x8a, "", "banned"),
        (0x97, "", "quota exceeded"),
        (0x9f, "", "too many connections"),
        (1, V311, "does not speak MQTT 3.1.1"),
        (2, V311, "client id is not allowed"),
        (3, V311, "not available now"),
        (4, V311, "wrong user name or password"),
        (5, V311, "not authorised"),
    ] {
        // MQTT 5 brokers may add words of their own.
        let properties = if more.is_empty() { vec![0x1f, 0, 3, b'a', b'\n', b'b'] } else { vec![] };
        let broker =
            FakeBroker::start(Welcome { code, properties, ..Welcome::default() }, |_, _| Answer::Ack).await;
        let text = says(uplink(&broker.url(), more), words).await;
        assert!(text.starts_with("login refused: "), "{text}");
        assert!(!more.is_empty() || text.ends_with("(\"a b\")"), "{text}");
    }
}

#[tokio::test]
async fn who_is_not_wanted_does_not_come_back_at_once_and_who_met_a_busy_broker_does() {
    let timing = || Timing { backoff: (Duration::from_millis(5), Duration::from_secs(600)), ..quick() };
    let refusing = |code| FakeBroker::start(Welcome { code, ..Welcome::default() }, |_, _| Answer::Ack);
    let (busy, banned) = (refusing(0x89).await, refusing(0x8a).await);
    let one = Bench::start(uplink(&banned.url(), ""), MemoryDrain::new(), timing());
    one.error_with("banned").await;
    let other = Bench::start(uplink(&busy.url(), ""), MemoryDrain::new(), timing());
    until("five tries at the busy one", || busy.connects().len() >= 5).await;
    assert_eq!(banned.connects().len(), 1);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_client_with_the_same_id_is_suspected_when_the_broker_hangs_up_again_and_again() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Reset).await;
    let drain = MemoryDrain::new();
    drain.commit(1..2);
    let bench = Bench::start(uplink(&broker.url(), V311), drain, quick());
    let text = bench.error_with("another client use the client id `g`").await;
    println!("{text}");
    assert!(bench.counters.connects.load(Relaxed) >= 3);
    bench.stop().await;
}

#[tokio::test]
async fn mosquitto_says_wrong_password_not_authorised_and_taken_over() {
    if !crate::mosquitto::installed() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let made = std::process::Command::new("mosquitto_passwd")
        .args(["-b", "-c", "passwd", "me", "right"])
        .current_dir(dir.path())
        .status()
        .expect("mosquitto_passwd is installed with mosquitto");
    assert!(made.success());
    let broker = Mosquitto::start(dir, "password_file {dir}/passwd").await;
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    std::fs::write(broker.file("wrong"), "guess").expect("written");
    let login = format!("username = \"me\"\npassword_file = \"{}\"\n", broker.file("wrong").display());
    says(uplink(&url, &login), "login refused: not authorised").await;
    says(uplink(&url, &format!("{login}{V311}")), "login refused: not authorised").await;
    let bench = Bench::start(uplink(&url, ""), MemoryDrain::new(), quick());
    until("the login", || bench.counters.state().0 == State::Connected).await;
    let mut rival = tokio::process::Command::new("mosquitto_sub")
        .args(["-h", "127.0.0.1", "-p", &broker.port.to_string(), "-i", "g", "-t", "x", "-V", "5"])
        .kill_on_drop(true)
        .spawn()
        .expect("mosquitto_sub is installed");
    // Version 2.0.11 hangs up without a word even in MQTT 5, so there it is the pattern that tells.
    let text = bench.error_with("client id").await;
    println!("{text}");
    let words = ["another client with the same client id took over", "another client use the client id `g`"];
    assert!(words.iter().any(|w| text.contains(w)), "{text}");
    rival.kill().await.expect("ours to end");
    bench.stop().await;
}
