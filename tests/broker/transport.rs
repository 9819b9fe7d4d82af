//! TLS, WebSocket, users and rights, reload.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::raw::*;
use bytes::Bytes;
use fieldgate::broker::{Broker, Options, Refusal, hash_password};
use fieldgate::config::model::{self, ListenerTls, Transport};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use support::openssl::self_signed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

fn certificate(dir: &Path) -> ListenerTls {
    self_signed(dir);
    ListenerTls { cert: dir.join("server.crt"), key: dir.join("server.key"), client_ca: None }
}

async fn tls_client(at: SocketAddr, cert: &Path) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert).unwrap()).unwrap();
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
    let tcp = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

#[tokio::test]
async fn mqtt_over_tls_and_websocket_while_silent_connections_hang_there() {
    let dir = tempfile::tempdir().unwrap();
    let tls = certificate(dir.path());
    let mut listeners =
        vec![listener(Transport::Tcp), listener(Transport::Websocket), listener(Transport::Websocket)];
    listeners[0].tls = Some(tls.clone());
    listeners[1].tls = Some(tls.clone());
    let config = model::Broker { listener: listeners, ..model::Broker::default() };
    let broker = Broker::start_with(&config, Options::default()).await.unwrap();
    let at: Vec<_> = broker.addresses().into_iter().map(|(_, at)| at).collect();
    let mut silent = Vec::new();
    for at in &at {
        for _ in 0..20 {
            silent.push(TcpStream::connect(at).await.unwrap());
        }
    }
    let mut secure = tls_client(at[0], &tls.cert).await;
    secure.write_all(&connect(V::Five, "secure", true)).await.unwrap();
    assert_eq!(secure.read_u8().await.unwrap(), 0x20);

    for (at, tls) in [(at[1], Some(&tls.cert)), (at[2], None)] {
        let mut request = format!("ws://localhost:{}/mqtt", at.port()).into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
        let io: Box<dyn Io> = match tls {
            Some(cert) => Box::new(tls_client(at, cert).await),
            None => Box::new(TcpStream::connect(at).await.unwrap()),
        };
        let (mut ws, response) = tokio_tungstenite::client_async(request, io).await.unwrap();
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");
        // A packet in two frames, and two packets in one (§6.0).
        let hello = Bytes::from(connect(V::Four, "ws", true));
        ws.send(Message::Binary(hello.slice(..5))).await.unwrap();
        let rest =
            [&hello[5..], &subscribe(V::Four, 1, "a", 0), &publish(V::Four, 0, "a", 0, &[], b"x")].concat();
        ws.send(Message::Binary(rest.into())).await.unwrap();
        let mut got = Vec::new();
        while got.len() < 4 + 5 + 6 {
            if let Message::Binary(bytes) = ws.next().await.unwrap().unwrap() {
                got.extend(bytes);
            }
        }
        assert_eq!(got, [0x20, 2, 0, 0, 0x90, 3, 0, 1, 0, 0x30, 4, 0, 1, b'a', b'x']);
    }
    assert_eq!(silent.len(), 60);
    broker.close().await;
}

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Io for T {}

#[tokio::test]
async fn a_websocket_without_the_subprotocol_or_from_another_page_is_refused() {
    let config = model::Broker { listener: vec![listener(Transport::Websocket)], ..model::Broker::default() };
    let broker = Broker::start(&config, &[]).await.unwrap();
    let at = broker.addresses()[0].1;
    for (header, value, status) in [
        ("X-Nothing", "", 400),
        ("Origin", "https://evil.example", 403),
        ("Sec-WebSocket-Protocol", "chat", 400),
    ] {
        let mut request = format!("ws://localhost:{}/", at.port()).into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
        if header == "X-Nothing" {
            request.headers_mut().remove("Sec-WebSocket-Protocol");
        }
        request.headers_mut().insert(header, value.parse().unwrap());
        let io = TcpStream::connect(at).await.unwrap();
        match tokio_tungstenite::client_async(request, io).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), status),
            other => panic!("{other:?}"),
        }
    }
}

fn guarded(dir: &Path) -> model::Broker {
    let write = |name: &str, text: &str| -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let users = format!("anna:{}\n", hash_password(b"secret").unwrap());
    let acl = "user anna\ntopic read r/#\ntopic write w/#\ntopic deny r/secret\n";
    model::Broker {
        password_file: Some(write("passwd", &users)),
        acl_file: Some(write("acl", acl)),
        listener: vec![listener(Transport::Tcp)],
        ..model::Broker::default()
    }
}

fn login(v: V, id: &str, password: &str) -> Vec<u8> {
    connect_with(v, id, 0xC2, 0, &[], &[text("anna"), text(password)].concat())
}

#[tokio::test]
async fn users_and_rights_as_the_files_say() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&guarded(dir.path()), &[]).await.unwrap();
    let at = broker.addresses()[0].1;
    for v in BOTH {
        for (hello, four, five) in
            [(connect(v, "nobody", true), 5, 0x87), (login(v, "anna", "wrong"), 4, 0x86)]
        {
            let mut c = Raw::open(at, v).await;
            c.send(&hello).await;
            let answer = if v == V::Five { vec![0x20, 3, 0, five, 0] } else { vec![0x20, 2, 0, four] };
            c.expect(&answer).await;
            assert_eq!(c.next().await, None);
        }
        let mut c = Raw::open(at, v).await;
        c.send(&login(v, "anna", "secret")).await;
        c.connack(false).await;
        c.subscribed("r/#", 1).await;
        c.send(&subscribe(v, 2, "w/#", 0)).await;
        c.expect(if v == V::Five { &[0x90, 4, 0, 2, 0, 0x87][..] } else { &[0x90, 3, 0, 2, 0x80] }).await;
        // Publishing without the right: MQTT 5 says so, 3.1.1 acknowledges; nobody gets it.
        c.send(&publish(v, 2, "r/x", 3, &[], b"x")).await;
        c.expect(if v == V::Five { &[0x40, 3, 0, 3, 0x87][..] } else { &[0x40, 2, 0, 3] }).await;
        c.send(&publish(v, 4, "r/x", 4, &[], b"x")).await;
        c.expect(if v == V::Five { &[0x50, 3, 0, 4, 0x87][..] } else { &[0x50, 2, 0, 4] }).await;
        // A filter may be wider than the right: each message is judged.
        let message = |topic: &str| fieldgate::message::Message::new(topic, "m", false);
        broker.publish(vec![message("r/secret"), message("r/open")]);
        let got = c.recv().await;
        assert!(got.windows(6).any(|w| w == b"r/open"), "{got:02x?}");
        c.ping().await;
        c.bye().await;
    }
    let stats = broker.stats();
    // For each version: one subscription, two messages, and the barrier of the ping.
    assert_eq!((stats.refused_for(Refusal::Login), stats.refused_for(Refusal::Access)), (4, 8));
    // A will needs the right too.
    let mut c = Raw::open(at, V::Four).await;
    let will = [text("r/x"), text("w"), text("anna"), text("secret")].concat();
    c.send(&connect_with(V::Four, "c", 0xC6, 0, &[], &will)).await;
    c.expect(&[0x20, 2, 0, 5]).await;
}

#[tokio::test]
async fn a_reload_keeps_what_did_not_change_and_a_bad_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = guarded(dir.path());
    config.listener.push(listener(Transport::Websocket));
    let broker = Broker::start(&config, &[]).await.unwrap();
    let at = broker.addresses()[0].1;
    let mut c = Raw::open(at, V::Five).await;
    c.send(&login(V::Five, "anna", "secret")).await;
    c.connack(false).await;
    // A bad file.
    std::fs::write(dir.path().join("acl"), "topik\n").unwrap();
    assert!(broker.reconfigure(&config).await.unwrap_err().to_string().contains("acl:1:"));
    c.send(&publish(V::Five, 2, "w/x", 1, &[], b"")).await;
    c.expect(&[0x40, 3, 0, 1, 0x10]).await;
    // Other rights, and the WebSocket listener replaced by a TCP one.
    std::fs::write(dir.path().join("acl"), "user anna\ntopic read #\n").unwrap();
    config.listener.pop();
    let mut second = listener(Transport::Tcp);
    second.allow_anonymous = Some(true);
    config.listener.push(second);
    broker.reconfigure(&config).await.unwrap();
    let addresses = broker.addresses();
    assert_eq!(addresses[0], (Transport::Tcp, at));
    assert_eq!(addresses[1].0, Transport::Tcp);
    c.send(&publish(V::Five, 2, "w/x", 2, &[], b"")).await;
    c.expect(&[0x40, 3, 0, 2, 0x87]).await;
    Raw::connected(addresses[1].1, V::Four, "anyone").await.ping().await;
    // Taken away: its connections end.
    config.listener.remove(0);
    broker.reconfigure(&config).await.unwrap();
    c.expect_end(0x8B).await;
    assert!(TcpStream::connect(at).await.is_err());
}

#[tokio::test]
async fn who_is_no_longer_let_in_is_disconnected_by_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = guarded(dir.path());
    let mut welcome = listener(Transport::Tcp);
    welcome.allow_anonymous = Some(true);
    config.listener = vec![listener(Transport::Tcp), welcome];
    let users = config.password_file.take();
    let broker = Broker::start(&config, &[]).await.unwrap();
    let (at, open) = (broker.addresses()[0].1, broker.addresses()[1].1);
    let mut nameless = Raw::connected(at, V::Five, "nameless").await;
    let mut invited = Raw::connected(open, V::Five, "invited").await;
    // From now on there are users: who has no name stays only where that is welcome.
    config.password_file = users;
    assert_eq!(broker.reconfigure(&config).await.unwrap(), ["users of the local broker changed"]);
    nameless.expect_end(0x87).await;
    invited.ping().await;
    let mut anna = Raw::open(at, V::Five).await;
    anna.send(&login(V::Five, "anna", "secret")).await;
    anna.connack(false).await;
    // What changes for others is no matter to her.
    let path = config.password_file.clone().unwrap();
    let line = std::fs::read_to_string(&path).unwrap();
    let bert = format!("bert:{}", fieldgate::broker::hash_password(b"x").unwrap());
    std::fs::write(&path, format!("{}\n{bert}\n", line.trim_end())).unwrap();
    assert_eq!(broker.reconfigure(&config).await.unwrap(), ["users of the local broker changed"]);
    anna.ping().await;
    assert_eq!(broker.reconfigure(&config).await.unwrap(), [""; 0], "nothing changed");
    // The same password has another hash: it was set anew.
    let again = format!("anna:{}", fieldgate::broker::hash_password(b"secret").unwrap());
    std::fs::write(&path, format!("{again}\n{bert}\n")).unwrap();
    broker.reconfigure(&config).await.unwrap();
    anna.expect_end(0x87).await;
    // Gone for good.
    let mut anna = Raw::open(at, V::Four).await;
    anna.send(&login(V::Four, "anna", "secret")).await;
    anna.connack(false).await;
    std::fs::write(&path, format!("{bert}\n")).unwrap();
    broker.reconfigure(&config).await.unwrap();
    assert_eq!(anna.next().await, None);
    invited.ping().await;
    config.listener.pop();
    let told = broker.reconfigure(&config).await.unwrap();
    assert!(told.len() == 1 && told[0].starts_with("listener ") && told[0].ends_with(" closed"), "{told:?}");
}

#[tokio::test]
async fn closing_says_good_bye() {
    let (broker, at) = broker().await;
    let mut five = Raw::connected(at, V::Five, "five").await;
    let mut silent = Raw::open(at, V::Four).await;
    tokio::time::timeout(Duration::from_secs(2), broker.close()).await.expect("soon");
    five.expect_end(0x8B).await;
    assert_eq!(silent.next().await, None);
    assert!(TcpStream::connect(at).await.is_err());
}

#[tokio::test]
async fn wrong_passwords_are_answered_ever_more_slowly_and_who_needs_none_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = guarded(dir.path());
    config.listener[0].allow_anonymous = Some(true);
    let broker = Broker::start(&config, &[]).await.unwrap();
    let at = broker.addresses()[0].1;
    let mut waits = Vec::new();
    for n in 0..5 {
        let mut c = Raw::open(at, V::Four).await;
        let began = tokio::time::Instant::now();
        c.send(&login(V::Four, &format!("guess{n}"), "wrong")).await;
        c.expect(&[0x20, 2, 0, 4]).await;
        waits.push(began.elapsed());
    }
    for (n, least) in [(1, 100), (2, 200), (3, 400), (4, 800)] {
        assert!(waits[n] >= Duration::from_millis(least), "{waits:?}");
    }
    let mut c = Raw::open(at, V::Four).await;
    let began = tokio::time::Instant::now();
    c.send(&login(V::Four, "anna", "secret")).await;
    let mut nameless = Raw::connected(at, V::Four, "nameless").await;
    nameless.ping().await;
    let nameless_took = began.elapsed();
    c.connack(false).await;
    assert!(began.elapsed() >= Duration::from_secs(1) && nameless_took < began.elapsed());
    // While sixteen wait, more of them are told at once that the server is busy.
    let mut many = Vec::new();
    for n in 0..30 {
        let mut c = Raw::open(at, V::Five).await;
        c.send(&login(V::Five, &format!("many{n}"), "wrong")).await;
        many.push(c);
    }
    let mut answers = Vec::new();
    for mut c in many {
        answers.push(c.recv().await[3]);
    }
    let busy = answers.iter().filter(|code| **code == 0x89).count();
    assert_eq!((busy, answers.len()), (14, 30), "{answers:02x?}");
    let stats = broker.stats();
    assert_eq!((stats.refused_for(Refusal::Busy), stats.refused_for(Refusal::Login)), (14, 5 + 16));
}

#[tokio::test]
async fn a_will_that_its_client_may_not_say_any_more_is_not_said() {
    let dir = tempfile::tempdir().unwrap();
    let config = guarded(dir.path());
    let broker = Broker::start(&config, &[]).await.unwrap();
    let at = broker.addresses()[0].1;
    let mut all = broker.subscribe("test", &["w/#"]).await;
    // At once, and after a delay.
    for delay in [0, 1] {
        std::fs::write(dir.path().join("acl"), "user anna\ntopic write w/#\n").unwrap();
        broker.reconfigure(&config).await.unwrap();
        let mut c = Raw::open(at, V::Five).await;
        let will =
            [&[5, 0x18, 0, 0, 0, delay][..], &text("w/will"), &text("x"), &text("anna"), &text("secret")]
                .concat();
        c.send(&connect_with(V::Five, "c", 0xC6, 0, &[0x11, 0, 0, 0, 60], &will)).await;
        c.connack(false).await;
        let before = broker.stats().refused_for(Refusal::Access);
        std::fs::write(dir.path().join("acl"), "user anna\ntopic read w/#\n").unwrap();
        broker.reconfigure(&config).await.unwrap();
        drop(c);
        until("it is refused", || broker.stats().refused_for(Refusal::Access) > before).await;
        broker.publish(vec![fieldgate::message::Message::new("w/end", "", false)]);
        assert_eq!(&*all.recv().await.unwrap().topic, "w/end");
    }
}

#[tokio::test]
async fn refusals_are_told_in_their_turn() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start(&guarded(dir.path()), &[]).await.unwrap();
    let at = broker.addresses()[0].1;
    for (v, qos) in BOTH.into_iter().flat_map(|v| [(v, 1), (v, 2)]) {
        let mut c = Raw::open(at, v).await;
        c.send(&login(v, "anna", "secret")).await;
        c.connack(false).await;
        let topic = |id| if id % 2 == 1 { "w/x" } else { "no/x" };
        let all: Vec<_> = (1..=6).map(|id| publish(v, 2 * qos, topic(id), id, &[], b"x")).collect();
        c.send(&all.concat()).await;
        for id in 1..=6u8 {
            let got = c.recv().await;
            let no = if v == V::Five && id % 2 == 0 { Some(&0x87) } else { None };
            assert_eq!((got[3], got.get(4).filter(|code| **code >= 0x80)), (id, no), "{v:?} QoS {qos}");
        }
    }
}

#[tokio::test]
async fn a_listener_is_narrowed_to_one_address_and_opened_to_all_by_a_reload() {
    let mut config = model::Broker { listener: vec![listener(Transport::Tcp)], ..model::Broker::default() };
    config.listener[0].allow_anonymous = Some(true);
    config.listener[0].bind = "0.0.0.0:0".parse().unwrap();
    let broker = Broker::start(&config, &[]).await.unwrap();
    let port = broker.addresses()[0].1.port();
    for bind in ["127.0.0.1", "0.0.0.0", "127.0.0.1"] {
        config.listener[0].bind = format!("{bind}:{port}").parse().unwrap();
        broker.reconfigure(&config).await.unwrap();
        assert_eq!(broker.addresses(), [(Transport::Tcp, config.listener[0].bind)]);
    }
    Raw::connected(config.listener[0].bind, V::Four, "c").await.ping().await;
}

#[tokio::test]
async fn a_listener_that_is_closed_while_clients_come_leaves_no_session_behind() {
    let both = vec![listener(Transport::Tcp), listener(Transport::Tcp)];
    let mut config = model::Broker { listener: both, max_connect_rate: 0, ..model::Broker::default() };
    config.listener[1].allow_anonymous = Some(true);
    let broker = Broker::start(&config, &[]).await.unwrap();
    for round in 0..10 {
        let at = broker.addresses()[1].1;
        let mut all = Vec::new();
        for _ in 0..150 {
            all.push(Raw::open(at, V::Four).await);
        }
        until("they are in", || broker.stats().connections == 150).await;
        for (n, c) in all.iter_mut().enumerate() {
            c.try_send(&connect(V::Four, &format!("c{n}"), true)).await.unwrap();
        }
        // Each time a little further.
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        let second = config.listener.pop().unwrap();
        broker.reconfigure(&config).await.unwrap();
        until("they are gone", || broker.stats().connections == 0).await;
        assert_eq!(broker.clients().await, [], "round {round}");
        config.listener.push(second);
        broker.reconfigure(&config).await.unwrap();
    }
}
