//! The ways to a broker: TLS in both versions with every kind of key, names of the protocol inside it,
//! proxies of two kinds (ours, that refuse on demand, and Debian's), and a named interface.

use std::path::Path;

use crate::fake_broker::{Answer, FakeBroker, Welcome};
use crate::memory_drain::MemoryDrain;
use crate::proxies::{self, RealProxy};
use crate::tls_front::{Authority, Terms};
use crate::uplink_bench::{Bench, quick, until, uplink};
use fieldgate::config::model::Uplink;
use fieldgate::uplink::State;
use support::openssl::openssl;

async fn broker() -> FakeBroker {
    FakeBroker::start(Welcome::default(), |_, _| Answer::Ack).await
}

/// Fifty readings get through.
async fn delivers(config: Uplink) {
    let drain = MemoryDrain::new();
    drain.commit(1..51);
    let bench = Bench::start(config, drain, quick());
    until("the log to run dry", || bench.drain.queued() == 0).await;
    assert_eq!(bench.counters.state().0, State::Connected);
    bench.stop().await;
}

/// It does not get through, for a reason with these words.
async fn fails(config: Uplink, words: &str) {
    let bench = Bench::start(config, MemoryDrain::new(), quick());
    println!("{}", bench.error_with(words).await);
    assert_ne!(bench.counters.state().0, State::Connected);
    bench.stop().await;
}

fn pem(key: &str, path: &Path) -> String {
    format!("{key} = \"{}\"\n", path.display())
}

#[tokio::test]
async fn every_kind_of_client_key_works_in_both_versions_of_tls() {
    let (broker, authority) = (broker().await, Authority::new("Test CA"));
    let dir = authority.dir.path();
    openssl(dir, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec-pkcs8.key");
    openssl(dir, "ec -in ec-pkcs8.key -out ec-sec1.key");
    openssl(dir, "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa-pkcs8.key");
    openssl(dir, "rsa -in rsa-pkcs8.key -traditional -out rsa-pkcs1.key");
    openssl(dir, "genpkey -algorithm ED25519 -out ed25519.key");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let terms = Terms { versions: vec![version], client_certificate: true, ..Terms::default() };
        let url = format!("mqtts://localhost:{}", authority.front(terms, broker.address).await);
        for (key, begins, for_certificate) in [
            ("ec-pkcs8.key", "-----BEGIN PRIVATE KEY", "ec-pkcs8.key"),
            ("ec-sec1.key", "-----BEGIN EC PRIVATE KEY", "ec-pkcs8.key"),
            ("rsa-pkcs8.key", "-----BEGIN PRIVATE KEY", "rsa-pkcs8.key"),
            ("rsa-pkcs1.key", "-----BEGIN RSA PRIVATE KEY", "rsa-pkcs8.key"),
            ("ed25519.key", "-----BEGIN PRIVATE KEY", "ed25519.key"),
        ] {
            let read = |name| std::fs::read_to_string(authority.file(name)).expect("a key");
            assert!(read(key).starts_with(begins), "{key}: {}", read(key));
            authority.client(&read(for_certificate));
            let ours = [
                pem("ca_file", &authority.file("ca.pem")),
                pem("cert_file", &authority.file("client.pem")),
                pem("key_file", &authority.file(key)),
            ];
            delivers(uplink(&url, &ours.concat())).await;
        }
        fails(uplink(&url, &pem("ca_file", &authority.file("ca.pem"))), "client certificate").await;
    }
}

#[tokio::test]
async fn the_names_inside_tls_are_offered_and_a_broker_that_knows_none_is_named() {
    let (broker, authority) = (broker().await, Authority::new("Test CA"));
    let terms = Terms { alpn: vec![b"x-amzn-mqtt-ca".to_vec()], ..Terms::default() };
    let url = format!("mqtts://localhost:{}", authority.front(terms, broker.address).await);
    let ca = pem("ca_file", &authority.file("ca.pem"));
    delivers(uplink(&url, &format!("{ca}alpn = [\"mqtt\", \"x-amzn-mqtt-ca\"]"))).await;
    fails(uplink(&url, &format!("{ca}alpn = [\"mqtt\"]")), "none of the names in `alpn`").await;
}

#[tokio::test]
async fn both_kinds_of_proxy_are_given_the_name_and_the_login() {
    let (broker, authority) = (broker().await, Authority::new("Test CA"));
    let port = authority.front(Terms::default(), broker.address).await;
    let url = format!("mqtts://localhost:{port}");
    let password = authority.file("proxy.password");
    std::fs::write(&password, "se:cret\n").expect("written");
    let ca = pem("ca_file", &authority.file("ca.pem"));
    let (http, asked) = proxies::http(None).await;
    let login = pem("proxy_password_file", &password);
    delivers(uplink(&url, &format!("{ca}{login}proxy = \"http://me@{http}\""))).await;
    let seen = asked.lock().expect("not poisoned")[0].clone();
    assert!(seen.starts_with(&format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n")));
    assert!(seen.contains("\r\nProxy-Authorization: Basic bWU6c2U6Y3JldA==\r\n"), "{seen}");
    let (socks, asked) = proxies::socks5(Some(("me", "se:cret")), 0).await;
    delivers(uplink(&url, &format!("{ca}{login}proxy = \"socks5://me@{socks}\""))).await;
    assert_eq!(*asked.lock().expect("not poisoned"), [format!("name localhost {port}")]);
    let (open, asked) = proxies::socks5(None, 0).await;
    delivers(uplink(&broker.url(), &format!("proxy = \"socks5://{open}\""))).await;
    assert_eq!(*asked.lock().expect("not poisoned"), [format!("ip 127.0.0.1 {}", broker.address.port())]);
}

#[tokio::test]
async fn a_proxy_that_refuses_says_why_in_words() {
    let broker = broker().await;
    let dir = tempfile::tempdir().expect("a directory");
    let password = dir.path().join("password");
    std::fs::write(&password, "wrong").expect("written");
    let login = pem("proxy_password_file", &password);
    let url = broker.url();
    let at = |proxy: &str, more: &str| uplink(&url, &format!("proxy = \"{proxy}\"\n{more}"));
    for (answer, words) in [
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
            "wants a login (407)",
        ),
        ("HTTP/1.1 403 Filtered\r\n\r\n", "does not let us go to 127.0.0.1"),
        ("HTTP/1.0 502 Bad Gateway\r\n\r\n", "cannot reach 127.0.0.1"),
        ("HTTP/1.1 405 Method Not Allowed\r\n\r\n", "does not take CONNECT (405)"),
        ("HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n", "portal.example"),
        ("\x05\0", "does not answer in HTTP"),
    ] {
        let (proxy, _) = proxies::http(Some(answer)).await;
        fails(at(&format!("http://{proxy}"), ""), words).await;
    }
    let (proxy, _) = proxies::http(Some("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")).await;
    fails(at(&format!("http://me@{proxy}"), &login), "refuses our login (407)").await;
    for (reply, words) in [
        (1, "general failure"),
        (2, "does not let us go to"),
        (3, "no network that way"),
        (4, "cannot reach that host"),
        (5, "nobody listens"),
        (6, "timed out"),
        (7, "does not take the command"),
        (8, "kind of address"),
    ] {
        let (proxy, _) = proxies::socks5(None, reply).await;
        fails(at(&format!("socks5://{proxy}"), ""), words).await;
    }
    let (proxy, _) = proxies::socks5(Some(("me", "right")), 0).await;
    fails(at(&format!("socks5://{proxy}"), ""), "wants a login").await;
    fails(at(&format!("socks5://me@{proxy}"), &login), "refuses our login").await;
    // An HTTP proxy spoken to in SOCKS hangs or hangs up; one that answers in HTTP is recognised.
    let (web, _) = http_at_once().await;
    fails(at(&format!("socks5://{web}"), ""), "does not answer in SOCKS5").await;
    fails(at("http://127.0.0.1:9", ""), "proxy 127.0.0.1:9: connection refused").await;
}

/// A server that answers in HTTP whatever it is told.
async fn http_at_once() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _some = stream.read(&mut [0; 100]).await;
            let _sent = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    (address, task)
}

#[tokio::test]
async fn debians_tinyproxy_and_microsocks_let_us_through() {
    let (broker, authority) = (broker().await, Authority::new("Test CA"));
    let port = authority.front(Terms::default(), broker.address).await;
    let url = format!("mqtts://localhost:{port}");
    let (right, wrong) = (authority.file("right"), authority.file("wrong"));
    std::fs::write(&right, "secret\n").expect("written");
    std::fs::write(&wrong, "guess\n").expect("written");
    let with = |proxy: &str, password: &Path| {
        let ca = pem("ca_file", &authority.file("ca.pem"));
        uplink(&url, &format!("{ca}proxy = \"{proxy}\"\n{}", pem("proxy_password_file", password)))
    };
    if let Some(http) = RealProxy::tinyproxy("me", "secret").await {
        let proxy = format!("http://me@127.0.0.1:{}", http.port);
        delivers(with(&proxy, &right)).await;
        fails(with(&proxy, &wrong), "proxy 127.0.0.1").await;
    }
    if let Some(socks) = RealProxy::microsocks("me", "secret").await {
        let proxy = format!("socks5://me@127.0.0.1:{}", socks.port);
        delivers(with(&proxy, &right)).await;
        fails(with(&proxy, &wrong), "refuses our login").await;
    }
}

#[tokio::test]
async fn the_connection_goes_through_the_interface_that_is_named() {
    let broker = broker().await;
    delivers(uplink(&broker.url(), "interface = \"lo\"")).await;
    fails(uplink(&broker.url(), "interface = \"no-such-if0\""), "interface `no-such-if0`: there is none")
        .await;
}
