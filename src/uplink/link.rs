//! From a URL to a logged-in connection: DNS, TCP, proxy, TLS, WebSocket, CONNECT, CONNACK.
//!
//! Everything is done anew for each attempt: names are resolved again, files read again. Who answers in
//! another tongue than was expected is named: a TLS port, a web server, a captive portal.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::exactly::Footing;
use super::fault::Fault;
use super::formats::node::MakeWill;
use super::protocol::{EXCHANGES_KEPT_S, Incoming, Keep, Limits, Login, Protocol};
use super::stage::{Progress, Stage};
use super::tap::{Tap, Wire};
use super::{dial, http, proxy, tls, websocket};
use crate::clock::Clock;
use crate::config::Endpoint;
use crate::config::model::{MqttVersion, Uplink};

/// Any byte stream to the broker.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A logged-in connection.
pub struct Link {
    /// The bytes.
    pub stream: Box<dyn Stream>,
    /// What goes over the socket below it.
    pub wire: Arc<Wire>,
    /// The protocol's state.
    pub protocol: Protocol,
    /// What the broker allows.
    pub limits: Limits,
    /// From the CONNECT packet to its answer.
    pub login: Duration,
    /// What came right behind the welcome.
    pub early: Vec<Incoming>,
    /// Which session we have there.
    pub footing: Footing,
}

/// What all attempts of an uplink share.
pub struct Way<'a> {
    /// Its configuration.
    pub uplink: &'a Uplink,
    /// The gateway's id.
    pub gateway: &'a str,
    /// What the broker is to say if we vanish.
    pub will: &'a MakeWill,
    /// Whether the wall clock is to be believed when a certificate seems out of date.
    pub clock: &'a dyn Clock,
    /// How far the attempt has come.
    pub progress: &'a Progress,
    /// Which session to ask for.
    pub session: Wanted,
}

/// Which session to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// One that ends with the connection.
    Clean,
    /// One in which the broker keeps what comes down while we are away.
    Held {
        /// A new one: none that it may have of us is wanted.
        anew: bool,
        /// For how long, in seconds; MQTT 3.1.1 cannot say it.
        keep_s: u32,
    },
    /// A new one that is kept, under this key.
    Anew(String),
    /// The one that we left, under this key.
    Left(String),
}

impl Way<'_> {
    /// Connects and logs in. The caller sets the time limit.
    ///
    /// # Errors
    /// Why not, in words.
    pub async fn open(&self, endpoint: &Endpoint) -> Result<Link, Fault> {
        match &self.session {
            Wanted::Clean => self.open_with(endpoint, Keep::No).await,
            Wanted::Held { anew: true, .. } => self.open_anew(endpoint).await,
            Wanted::Held { anew: false, .. } => self.open_with(endpoint, Keep::On).await,
            Wanted::Anew(key) => {
                let mut link = self.open_anew(endpoint).await?;
                if link.limits.session_present {
                    let why =
                        "it has a session of ours that was just ended; is the client id in use elsewhere?";
                    return Err(Fault::Protocol(why.to_owned()));
                }
                link.footing = Footing::New(key.clone());
                Ok(link)
            }
            Wanted::Left(key) => {
                let mut link = self.open_with(endpoint, Keep::On).await?;
                let left = link.limits.session_present;
                link.footing = if left { Footing::Resumed } else { Footing::New(key.clone()) };
                Ok(link)
            }
        }
    }

    async fn open_anew(&self, endpoint: &Endpoint) -> Result<Link, Fault> {
        if self.uplink.mqtt_version == MqttVersion::V311 {
            // A clean session first, and it goes with its connection: so there is none that is left.
            self.forget(endpoint).await?;
        }
        self.open_with(endpoint, Keep::Anew).await
    }

    /// Makes the broker forget the session that it has of us.
    async fn forget(&self, endpoint: &Endpoint) -> Result<(), Fault> {
        let Link { mut stream, protocol, .. } = self.open_with(endpoint, Keep::No).await?;
        let mut out = BytesMut::new();
        protocol.disconnect(&mut out);
        stream.write_all(&out).await.map_err(|e| Fault::broken(&e))?;
        stream.shutdown().await.map_err(|e| Fault::broken(&e))?;
        // The broker's own end of the connection: it is through with the session then. What it says by it is nothing to us.
        let mut rest = [0; 64];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        Ok(())
    }

    async fn open_with(&self, endpoint: &Endpoint, keep: Keep) -> Result<Link, Fault> {
        let login = Login { session: keep, ..self.login().await? };
        let tcp = self.reach(endpoint).await?;
        let (tap, wire) = Tap::new(tcp);
        let mut stream = self.secured(tap, &wire, endpoint).await?;

        self.progress.reached(Stage::Login);
        let mut protocol = Protocol::new(self.uplink.mqtt_version);
        if self.uplink.content_type {
            protocol.say_content();
        }
        if keep != Keep::No && matches!(self.session, Wanted::Anew(_) | Wanted::Left(_)) {
            protocol.keep_session();
        }
        let mut out = BytesMut::new();
        protocol.connect(&login, &mut out)?;
        stream.write_all(&out).await.map_err(|e| Fault::broken(&e))?;
        stream.flush().await.map_err(|e| Fault::broken(&e))?;
        let asked = Instant::now();
        let mut buffer = vec![0; 4096];
        let mut told = Vec::new();
        loop {
            let n = match stream.read(&mut buffer).await {
                Ok(n) => n,
                Err(e) => match Fault::broken(&e) {
                    Fault::HungUp { .. } => 0,
                    other => return Err(other),
                },
            };
            if n == 0 {
                return Err(if told.is_empty() { turned_away(endpoint) } else { no_mqtt() });
            }
            if told.len() < http::HEAD_MAX {
                told.extend_from_slice(&buffer[..n]);
            }
            if let Some(fault) = other_tongue(&mut stream, &mut told).await {
                return Err(fault);
            }
            out.clear();
            let mut incoming = protocol.receive(&buffer[..n], &mut out)?.into_iter();
            if let Some(Incoming::Welcome(limits)) = incoming.next() {
                let (login, early, footing) = (asked.elapsed(), incoming.collect(), Footing::Clean);
                return Ok(Link { stream, wire, protocol, limits, login, early, footing });
            }
        }
    }

    async fn login(&self) -> Result<Login, Fault> {
        let uplink = self.uplink;
        let password = match &uplink.password_file {
            None => None,
            Some(path) => Some(first_line("password_file", path).await?),
        };
        let (will, keep) = (self.will)();
        if let Some(keep) = keep {
            // A disk that does not answer keeps nobody from logging in.
            let _late = tokio::time::timeout(KEPT, tokio::task::spawn_blocking(keep)).await;
        }
        Ok(Login {
            client_id: uplink.client_id.clone().unwrap_or_else(|| self.gateway.to_owned()),
            username: uplink.username.clone(),
            password,
            keep_alive_s: u16::try_from(uplink.keep_alive.0.as_secs()).unwrap_or(u16::MAX),
            will,
            session: Keep::No,
            keep_s: match self.session {
                Wanted::Held { keep_s, .. } => keep_s,
                Wanted::Clean | Wanted::Anew(_) | Wanted::Left(_) => EXCHANGES_KEPT_S,
            },
        })
    }

    /// TCP to the broker, directly or through the proxy.
    async fn reach(&self, endpoint: &Endpoint) -> Result<TcpStream, Fault> {
        let interface = self.uplink.interface.as_deref();
        let Some(proxy) = &self.uplink.proxy else {
            return dial::tcp(&endpoint.host, endpoint.port, interface, self.progress).await;
        };
        let password = match &self.uplink.proxy_password_file {
            None => None,
            Some(path) => Some(first_line("proxy_password_file", path).await?),
        };
        let stream = dial::tcp(&proxy.host, proxy.port, interface, self.progress)
            .await
            .map_err(|fault| Fault::Proxy { at: proxy.place(), why: fault.to_string() })?;
        self.progress.reached(Stage::Proxy);
        proxy::through(stream, proxy, password.as_deref(), &endpoint.host, endpoint.port).await
    }

    /// TLS and WebSocket, as the URL wants them.
    async fn secured(&self, tap: Tap, wire: &Wire, endpoint: &Endpoint) -> Result<Box<dyn Stream>, Fault> {
        if !endpoint.tls {
            return self.framed(tap, endpoint).await;
        }
        self.progress.reached(Stage::Tls);
        let for_blocking = self.uplink.clone();
        let config = tokio::task::spawn_blocking(move || tls::client_config(&for_blocking))
            .await
            .map_err(|e| Fault::Tls(e.to_string()))??;
        let name = ServerName::try_from(endpoint.host.clone()).map_err(|_| {
            Fault::Tls(format!("`{}` is no name that a certificate can be for", endpoint.host))
        })?;
        match TlsConnector::from(config).connect(name, tap).into_fallible().await {
            Ok(stream) => self.framed(stream, endpoint).await,
            Err((error, mut tap)) => {
                let mut told = wire.opening();
                if told.starts_with(b"HTTP") {
                    return Err(web_server(&mut tap, &mut told).await);
                }
                Err(tls_fault(&error, self.clock.synced()))
            }
        }
    }

    async fn framed<S: Stream + 'static>(
        &self,
        stream: S,
        endpoint: &Endpoint,
    ) -> Result<Box<dyn Stream>, Fault> {
        Ok(match &endpoint.websocket {
            None => Box::new(stream),
            Some(path) => {
                self.progress.reached(Stage::WebSocket);
                Box::new(websocket::upgrade(stream, endpoint, path).await?)
            }
        })
    }
}

/// Longest wait for what has to be on the disk before a login.
const KEPT: Duration = Duration::from_secs(1);

/// A secret is the first line of its file.
async fn first_line(key: &str, path: &Path) -> Result<Vec<u8>, Fault> {
    let text = tokio::fs::read(path)
        .await
        .map_err(|e| Fault::File(format!("{key} `{}` cannot be read: {e}", path.display())))?;
    let line = text.split(|b| *b == b'\n').next().unwrap_or_default();
    Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}

/// A handshake that failed.
fn tls_fault(error: &io::Error, synced: bool) -> Fault {
    if let Some(words) = tls::words(error, synced) {
        return Fault::Tls(words);
    }
    match Fault::broken(error) {
        Fault::HungUp { .. } => {
            Fault::Tls("the other side hung up during the handshake; is this the TLS port?".to_owned())
        }
        other => other,
    }
}

/// The connection was closed instead of an answer to CONNECT.
fn turned_away(endpoint: &Endpoint) -> Fault {
    let or = if endpoint.tls { "" } else { ", or this is its TLS port (mqtts://)" };
    Fault::login(format!(
        "the broker closed the connection without an answer; it may not speak this MQTT version{or}"
    ))
}

fn no_mqtt() -> Fault {
    Fault::Protocol("the answer is no MQTT packet; is this an MQTT broker?".to_owned())
}

/// Longest wait for the rest of an answer that is no MQTT.
const REST: Duration = Duration::from_secs(1);

/// Who answers a CONNECT in another tongue: a TLS port or a web server. `told` is all that came so far; a
/// CONNACK begins with 0x20, so there is no doubt.
async fn other_tongue(stream: &mut Box<dyn Stream>, told: &mut Vec<u8>) -> Option<Fault> {
    // Record types 20 to 23 and the major version (RFC 8446, §5.1).
    if let [20..=23, 3, ..] = told.as_slice() {
        return Some(Fault::NoBroker(
            "this port speaks TLS, and we do not: write mqtts:// (or wss://) in `url`".to_owned(),
        ));
    }
    if told.starts_with(b"HTTP") { Some(web_server(stream, told).await) } else { None }
}

/// Reads the rest of a head that has begun, and says what it means.
async fn web_server<S: AsyncRead + Unpin>(stream: &mut S, told: &mut Vec<u8>) -> Fault {
    let whole = async {
        while http::head(told).is_none_or(|h| h.len.is_none()) && told.len() < http::HEAD_MAX {
            if !matches!(stream.read_buf(told).await, Ok(1..)) {
                return;
            }
        }
    };
    // What is there by then has to do.
    let _late = tokio::time::timeout(REST, whole).await;
    http::head(told).map_or_else(no_mqtt, |head| Fault::NoBroker(http::portal_words(&head)))
}
