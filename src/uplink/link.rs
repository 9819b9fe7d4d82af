//! From a URL to a logged-in connection: DNS, TCP, TLS, WebSocket, CONNECT, CONNACK.
//!
//! Everything is done anew for each attempt: names are resolved again, files read again.

use std::io;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::fault::Fault;
use super::formats::node::MakeWill;
use super::protocol::{Incoming, Limits, Login, Protocol};
use super::{tls, websocket};
use crate::config::Endpoint;
use crate::config::model::Uplink;

/// Any byte stream to the broker.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A logged-in connection.
pub struct Link {
    /// The bytes.
    pub stream: Box<dyn Stream>,
    /// The protocol's state.
    pub protocol: Protocol,
    /// What the broker allows.
    pub limits: Limits,
    /// What came right behind the welcome.
    pub early: Vec<Incoming>,
}

/// Connects and logs in. The caller sets the time limit.
///
/// # Errors
/// Why not, in words.
pub async fn open(uplink: &Uplink, url: &str, gateway: &str, will: &MakeWill) -> Result<Link, Fault> {
    let endpoint =
        Endpoint::parse(url).map_err(|e| Fault::File(format!("url: {}; {}", e.message, e.hint)))?;
    let password = password(uplink).await?;
    let mut stream = transport(uplink, &endpoint).await?;
    let login = Login {
        client_id: uplink.client_id.clone().unwrap_or_else(|| gateway.to_owned()),
        username: uplink.username.clone(),
        password,
        keep_alive_s: u16::try_from(uplink.keep_alive.0.as_secs()).unwrap_or(u16::MAX),
        will: will(),
    };

    let mut protocol = Protocol::new(uplink.mqtt_version);
    let mut out = BytesMut::new();
    protocol.connect(&login, &mut out)?;
    stream.write_all(&out).await.map_err(|e| Fault::broken(&e))?;
    stream.flush().await.map_err(|e| Fault::broken(&e))?;
    let mut buffer = vec![0; 4096];
    loop {
        let n = stream.read(&mut buffer).await.map_err(|e| Fault::broken(&e))?;
        if n == 0 {
            return Err(Fault::Login(
                "the broker closed the connection without an answer; it may not speak this MQTT version"
                    .to_owned(),
            ));
        }
        out.clear();
        let mut incoming = protocol.receive(&buffer[..n], &mut out)?.into_iter();
        if let Some(Incoming::Welcome(limits)) = incoming.next() {
            return Ok(Link { stream, protocol, limits, early: incoming.collect() });
        }
    }
}

async fn password(uplink: &Uplink) -> Result<Option<Vec<u8>>, Fault> {
    Ok(match &uplink.password_file {
        None => None,
        Some(path) => {
            let text = tokio::fs::read(path).await.map_err(|e| {
                Fault::File(format!("password_file `{}` cannot be read: {e}", path.display()))
            })?;
            let line = text.split(|b| *b == b'\n').next().unwrap_or_default();
            Some(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
        }
    })
}

async fn transport(uplink: &Uplink, endpoint: &Endpoint) -> Result<Box<dyn Stream>, Fault> {
    let tcp = tcp(endpoint).await?;
    if !endpoint.tls {
        return framed(tcp, endpoint).await;
    }
    let for_blocking = uplink.clone();
    let config = tokio::task::spawn_blocking(move || tls::client_config(&for_blocking))
        .await
        .map_err(|e| Fault::Tls(e.to_string()))??;
    let name = ServerName::try_from(endpoint.host.clone())
        .map_err(|_| Fault::Tls(format!("`{}` is no name that a certificate can be for", endpoint.host)))?;
    let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| match tls::words(&e) {
        Some(words) => Fault::Tls(words),
        None if e.kind() == io::ErrorKind::UnexpectedEof => {
            Fault::Tls("the other side hung up during the handshake; is this the TLS port?".to_owned())
        }
        None => Fault::broken(&e),
    })?;
    framed(stream, endpoint).await
}

async fn framed<S: Stream + 'static>(stream: S, endpoint: &Endpoint) -> Result<Box<dyn Stream>, Fault> {
    Ok(match &endpoint.websocket {
        None => Box::new(stream),
        Some(path) => Box::new(websocket::upgrade(stream, endpoint, path).await?),
    })
}

/// Resolves the name and tries its addresses in turn.
async fn tcp(endpoint: &Endpoint) -> Result<TcpStream, Fault> {
    let dns = |why: String| Fault::Dns { host: endpoint.host.clone(), why };
    let addresses = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(|e| dns(e.to_string()))?;
    let mut last = dns("it has no address".to_owned());
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // A live reading must not wait for the acknowledgement of the segment before it.
                stream.set_nodelay(true).map_err(|e| Fault::broken(&e))?;
                return Ok(stream);
            }
            Err(e) => last = Fault::connecting(endpoint.to_string(), &e),
        }
    }
    Err(last)
}
