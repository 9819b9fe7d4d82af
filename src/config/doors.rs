//! The typed model of `[broker]`: the doors of the embedded local broker.
//!
//! The doc comments on the fields are the manual, as in [`super::model`].

use std::net::SocketAddr;
use std::path::PathBuf;

use driver_api::{ByteSize, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The embedded local broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Broker {
    /// Users and password hashes, in the format of `mosquitto_passwd` (`$7$` lines). A listener may have its own.
    #[schemars(example = &"passwd")]
    pub password_file: Option<PathBuf>,
    /// Who may read and write what, in mosquitto's ACL file format. A listener may have its own.
    #[schemars(example = &"acl")]
    pub acl_file: Option<PathBuf>,
    /// Which engine routes messages: `rumqttd`, and the native one if it fails; or `native` from the start. Read at the start.
    pub engine: Engine,
    /// How often the broker's figures appear on `$SYS/broker/…`, under mosquitto's names; `0s`: never. At least 1s.
    pub sys_interval: Span,
    /// Whether sessions of clients that ask for it (`clean_session` off, a session expiry), with what waits for them, and the
    /// retained messages of clients outlive a restart, a `kill -9` and a power cut: `broker.db` in the directory of [store].
    /// A publisher is then acknowledged when its message is on the disk, if it is to be kept. Read at the start.
    pub persistence: bool,
    /// Connections at once, those that have not said who they are included. Each takes a file descriptor.
    pub max_connections: u32,
    /// Of these, from one address (with IPv6 from one /64 network); all programs of this box are one.
    pub max_connections_per_address: u32,
    /// New connections a second from one address; as many as it may have open come in at once. 0: no limit.
    pub max_connect_rate: u32,
    /// Messages a second that one client may publish; who is faster is not read for a while, and nothing is lost. 0: no limit.
    pub max_publish_rate: u32,
    /// Largest MQTT packet that is taken. Read at the start.
    pub max_packet_size: ByteSize,
    /// Where clients may connect. Default: TCP on 127.0.0.1:1883 and WebSocket on 127.0.0.1:8083.
    pub listener: Vec<Listener>,
}

impl Default for Broker {
    fn default() -> Self {
        let local = |port, transport| Listener {
            bind: ([127, 0, 0, 1], port).into(),
            transport,
            tls: None,
            allow_anonymous: None,
            password_file: None,
            acl_file: None,
        };
        Self {
            password_file: None,
            acl_file: None,
            engine: Engine::default(),
            sys_interval: Span::s(10),
            persistence: true,
            max_connections: 1024,
            max_connections_per_address: 1000,
            max_connect_rate: 200,
            max_publish_rate: 0,
            max_packet_size: ByteSize::mib(1),
            listener: vec![local(1883, Transport::Tcp), local(8083, Transport::Websocket)],
        }
    }
}

impl Broker {
    /// Which keys that are read at the start only are others in `new`. A new key has to be put on one side or the other here.
    #[must_use]
    pub fn for_the_next_start(&self, new: &Self) -> Vec<&'static str> {
        let Self {
            engine,
            persistence,
            max_packet_size,
            // Taken over by a reload.
            password_file: _,
            acl_file: _,
            sys_interval: _,
            max_connections: _,
            max_connections_per_address: _,
            max_connect_rate: _,
            max_publish_rate: _,
            listener: _,
        } = self;
        let keys = [
            ("engine", *engine != new.engine),
            ("persistence", *persistence != new.persistence),
            ("max_packet_size", *max_packet_size != new.max_packet_size),
        ];
        keys.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
    }
}

/// A routing engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// rumqttd, and the native one if it fails.
    #[default]
    Rumqttd,
    /// Our own.
    Native,
}

/// One door of the local broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address and port. MQTT 3.1, 3.1.1 and 5 on the same port; port 0 takes any free one.
    #[schemars(example = &"127.0.0.1:1883")]
    pub bind: SocketAddr,
    /// `tcp` or `websocket`.
    #[serde(default)]
    pub transport: Transport,
    /// Certificate and key, for TLS.
    #[serde(default)]
    pub tls: Option<ListenerTls>,
    /// Clients without a name are welcome. Default: only on loopback, and only without a password file.
    #[serde(default)]
    pub allow_anonymous: Option<bool>,
    /// Users who may come in here, in the place of those of [broker].
    #[serde(default)]
    #[schemars(example = &"plant.passwd")]
    pub password_file: Option<PathBuf>,
    /// What clients who came in here may read and write, in the place of what [broker] says.
    #[serde(default)]
    #[schemars(example = &"plant.acl")]
    pub acl_file: Option<PathBuf>,
}

impl Listener {
    /// The door itself, whoever may come in by it: it stays open when only that changes.
    #[must_use]
    pub fn bare(&self) -> Self {
        Self { password_file: None, acl_file: None, ..self.clone() }
    }
}

/// How MQTT travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Plain TCP.
    #[default]
    Tcp,
    /// WebSocket with the subprotocol `mqtt`.
    Websocket,
}

/// A listener's TLS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Certificate chain, PEM.
    #[schemars(example = &"server.crt")]
    pub cert: PathBuf,
    /// Private key, PEM.
    #[schemars(example = &"server.key")]
    pub key: PathBuf,
    /// If set, clients must show a certificate of this CA. The common name of its subject is their user name, for the ACL, unless they prove another one by a password.
    #[serde(default)]
    #[schemars(example = &"ca.crt")]
    pub client_ca: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_at_the_start_is_what_the_manual_says() {
        let other = Broker {
            engine: Engine::Native,
            persistence: false,
            max_packet_size: ByteSize::mib(2),
            max_connections: 7,
            ..Broker::default()
        };
        let mut waiting = Broker::default().for_the_next_start(&other);
        waiting.sort_unstable();
        let schema = schemars::schema_for!(Broker).to_value();
        let keys = schema["properties"].as_object().expect("keys");
        let said =
            |text: &serde_json::Value| text.as_str().is_some_and(|t| t.ends_with("Read at the start."));
        let mut manual: Vec<&str> =
            keys.iter().filter(|(_, key)| said(&key["description"])).map(|(name, _)| name.as_str()).collect();
        manual.sort_unstable();
        assert_eq!(waiting, manual);
        assert!(other.for_the_next_start(&other).is_empty());
    }
}
