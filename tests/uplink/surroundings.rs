//! What the system around us decides: name servers that answer "no such name", do not answer at all, or
//! come back; and whose CAs are trusted. These run in a process of their own, the first ones in a network
//! of their own with a name server of ours (`unshare`; without it they say that they are skipped).

use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::fake_broker::{Answer, FakeBroker, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::tls_front::{Authority, Terms};
use crate::uplink_bench::{Bench, quick, until, uplink};
use fieldgate::uplink::State;

const NAME: &str = "broker.example";

/// Runs one of the ignored tests below in a process of its own.
fn run(mut with: Command, test: &str) {
    let done = with.args(["--exact", test, "--ignored", "--nocapture"]).output().expect("it starts");
    let told = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    println!("{told}");
    assert!(done.status.success() && told.contains("1 passed"), "{test}");
}

#[test]
fn dns_that_denies_dns_that_is_silent_and_dns_that_comes_back() {
    let possible = |args: &[&str]| {
        let done = Command::new("unshare").args(args).output();
        done.is_ok_and(|done| done.status.success())
    };
    let dir = tempfile::tempdir().expect("a directory");
    let servers = dir.path().join("resolv.conf");
    std::fs::write(&servers, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").expect("written");
    let enter = "ip link set lo up && mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
    let servers = servers.to_str().expect("UTF-8");
    if !possible(&["-rmn", "sh", "-c", enter, servers, "true"]) {
        eprintln!("skipped: no network of our own (unshare -rmn, ip, /etc/resolv.conf)");
        return;
    }
    let ourselves = std::env::current_exe().expect("this test");
    let mut unshare = Command::new("unshare");
    unshare.args(["-rmn", "sh", "-c", enter, servers]).arg(ourselves);
    run(unshare, "surroundings::in_a_network_of_its_own");
}

#[tokio::test]
#[ignore = "runs in a network of its own, started by the test above"]
async fn in_a_network_of_its_own() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let url = format!("mqtt://{NAME}:{}", broker.address.port());
    let bench = Bench::start(uplink(&url, ""), MemoryDrain::new(), quick());
    println!("{}", bench.error_with("no name server answers").await);
    let known = Arc::new(AtomicBool::new(false));
    name_server(known.clone());
    println!("{}", bench.error_with("DNS: `broker.example` does not exist").await);
    // The name is asked for anew at every attempt.
    known.store(true, Relaxed);
    until("the login", || bench.counters.state().0 == State::Connected).await;
    bench.stop().await;
    let abroad = Bench::start(uplink("mqtt://192.0.2.1", ""), MemoryDrain::new(), quick());
    println!("{}", abroad.error_with("192.0.2.1:1883 cannot be reached: there is no route").await);
    abroad.stop().await;
}

/// A name server (RFC 1035) that knows one name, when it does, and no other ever.
fn name_server(known: Arc<AtomicBool>) {
    let socket = UdpSocket::bind("127.0.0.1:53").expect("nobody else is here");
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut query) {
            let question = &query[12..n];
            let name_end = question.iter().position(|b| *b == 0).expect("a name") + 1;
            let question = &question[..name_end + 4];
            let asks_a = question[name_end..name_end + 2] == [0, 1];
            let is_known = known.load(Relaxed);
            let answers = u8::from(is_known && asks_a);
            let flags = if is_known { [0x81, 0x80] } else { [0x81, 0x83] };
            let mut reply = [&query[..2], &flags, &[0, 1, 0, answers, 0, 0, 0, 0], question].concat();
            if answers == 1 {
                // The name as a pointer to the question, type A, class IN, no time to live, four bytes.
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
            }
            socket.send_to(&reply, from).expect("sent");
        }
    });
}

#[test]
fn without_a_ca_file_the_systems_cas_are_trusted() {
    let authority = Authority::new("System CA");
    let ca = authority.file("ca.pem");
    let mut again = Command::new(std::env::current_exe().expect("this test"));
    again.env("SSL_CERT_FILE", &ca).env_remove("SSL_CERT_DIR").env("FIELDGATE_TEST_CA_KEY", authority.keep());
    run(again, "surroundings::with_a_ca_in_the_system");
}

#[tokio::test]
#[ignore = "wants SSL_CERT_FILE in the environment, started by the test above"]
async fn with_a_ca_in_the_system() {
    let broker = FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await;
    let theirs = Authority::kept(std::env::var_os("FIELDGATE_TEST_CA_KEY").expect("set above").as_ref());
    let other = Authority::new("Nobody's CA");
    let url = |port| uplink(&format!("mqtts://localhost:{port}"), "");
    let bench =
        Bench::start(url(other.front(Terms::default(), broker.address).await), MemoryDrain::new(), quick());
    println!("{}", bench.error_with("unknown CA").await);
    bench.stop().await;
    let bench =
        Bench::start(url(theirs.front(Terms::default(), broker.address).await), MemoryDrain::new(), quick());
    until("the login", || bench.counters.state().0 == State::Connected).await;
    bench.stop().await;
}
