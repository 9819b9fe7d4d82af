//! The typed model of the sections that are the gateway's own: gateway, broker, store, uplink, and
//! the keys that every bus, device and point shares. A driver's keys belong to the driver.
//!
//! The doc comments on the fields are the manual: `reference.toml` and the JSON Schema are made from them.

use std::net::SocketAddr;
use std::path::PathBuf;

use driver_api::{ByteSize, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The gateway itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Its name in topics and payloads: lower-case letters, digits, `_` and `-`. Default: the host name.
    pub id: String,
    /// Whether the system's wall clock is believed. `auto`: once NTP, PTP or a battery vouches for
    /// it; until then readings say `clock_unsynced`. `trusted`: always, for containers and test benches.
    pub clock: ClockTrust,
}

/// Whether the system's wall clock is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClockTrust {
    /// Once something vouches for it.
    #[default]
    Auto,
    /// Always.
    Trusted,
}

/// The embedded local broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Broker {
    /// Users and password hashes, in the format of `mosquitto_passwd` (`$7$` lines).
    pub password_file: Option<PathBuf>,
    /// Who may read and write what, in mosquitto's ACL file format.
    pub acl_file: Option<PathBuf>,
    /// Where clients may connect. Default: TCP on 127.0.0.1:1883 and WebSocket on 127.0.0.1:8083.
    pub listener: Vec<Listener>,
}

/// One door of the local broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address and port. MQTT 3.1.1 and 5 on the same port; port 0 takes any free one.
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
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// If set, clients must show a certificate of this CA.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// The store-and-forward queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Directory of the queue.
    pub path: PathBuf,
    /// Disk it may use. At the limit the oldest readings go first, counted and declared.
    pub max_size: ByteSize,
    /// Readings older than this go, counted and declared.
    pub max_age: Span,
    /// Free disk that is never touched.
    pub min_free: ByteSize,
    /// Longest wait before a group of readings is committed, and so the most that a power cut takes.
    pub commit_interval: Span,
}

/// A cloud broker to which everything stored is delivered. Each uplink keeps its own position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// Its name in status topics and in the ledger.
    pub name: String,
    /// `mqtt://host:1883` or `mqtts://host:8883`.
    pub url: String,
    /// Tried in turn when `url` does not answer.
    #[serde(default)]
    pub fallback_urls: Vec<String>,
    /// `"5"` or `"3.1.1"`.
    #[serde(default)]
    pub mqtt_version: MqttVersion,
    /// MQTT client id. Default: the gateway's id.
    #[serde(default)]
    pub client_id: Option<String>,
    /// User name.
    #[serde(default)]
    pub username: Option<String>,
    /// File whose first line is the password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// CA certificates, PEM. Default: the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain, PEM.
    #[serde(default)]
    pub cert_file: Option<PathBuf>,
    /// Client key, PEM.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// MQTT keep-alive.
    #[serde(default = "defaults::keep_alive")]
    pub keep_alive: Span,
    /// Quality of service of readings: 1 (acknowledged) is what every promise rests on.
    #[serde(default)]
    pub qos: Qos,
    /// `json`: one message a reading. `json-batch`: many readings in one message.
    #[serde(default)]
    pub format: Format,
    /// `none` or `zstd` (json-batch only).
    #[serde(default)]
    pub compression: Compression,
    /// Topic under which the tree of the local broker appears upstream.
    #[serde(default = "defaults::topic_root")]
    pub topic_root: String,
    /// Whether readings are retained upstream (status and meta always are).
    #[serde(default)]
    pub retain: bool,
    /// `live-first`: what was missed goes beside the live readings, on the `history` topics.
    /// `strict`: one lane, oldest first.
    #[serde(default)]
    pub order: Order,
    /// Limits of one `json-batch` message.
    #[serde(default)]
    pub batch: Batch,
}

/// MQTT protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum MqttVersion {
    /// MQTT 5.
    #[default]
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
}

/// Quality of service upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u8", into = "u8")]
#[schemars(with = "u8", extend("enum" = [1]))]
pub enum Qos {
    /// At least once.
    #[default]
    AtLeastOnce,
}

impl TryFrom<u8> for Qos {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 => Ok(Self::AtLeastOnce),
            other => Err(format!("this version delivers with qos 1, not {other}")),
        }
    }
}

impl From<Qos> for u8 {
    fn from(_: Qos) -> Self {
        1
    }
}

/// Payload format upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a reading.
    #[default]
    Json,
    /// One JSON object for many readings.
    JsonBatch,
}

/// Payload compression upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Plain text.
    #[default]
    None,
    /// One zstd frame; the topic ends in `/zst`.
    Zstd,
}

/// Which readings go first after an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Live readings at once, the backlog beside them.
    #[default]
    LiveFirst,
    /// Oldest first.
    Strict,
}

/// Limits of one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Most readings in one message, 1 to 10000.
    pub max_readings: u32,
    /// Longest wait of a live reading for its batch to fill.
    pub max_delay: Span,
}

/// The keys that every `[[bus]]` shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BusCommon {
    /// The bus's name: letters, digits, `_` and `-`.
    pub name: String,
    /// The driver that speaks on it.
    pub driver: String,
}

/// The keys that every `[[device]]` shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceCommon {
    /// The device's name, unique in the gateway: letters, digits, `_` and `-`.
    pub name: String,
    /// Name of the `[[bus]]` it hangs on.
    pub bus: String,
    /// Default poll interval of its points.
    #[serde(default = "defaults::interval")]
    pub interval: Span,
    /// Longest wait for one answer.
    #[serde(default = "defaults::timeout")]
    pub timeout: Span,
}

/// The keys that every `[[device.point]]` shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PointCommon {
    /// The point's name, unique in its device: letters, digits, `_` and `-`.
    pub name: String,
    /// Poll interval. Default: the device's.
    #[serde(default)]
    pub interval: Option<Span>,
    /// Unit of the value, as it should appear in payloads.
    #[serde(default)]
    pub unit: Option<String>,
    /// What it is, for people.
    #[serde(default)]
    pub description: Option<String>,
    /// value = raw × scale + offset.
    #[serde(default)]
    pub scale: Option<f64>,
    /// value = raw × scale + offset.
    #[serde(default)]
    pub offset: Option<f64>,
    /// Report by exception: a change smaller than this is not reported. A number, or `"2%"` of the
    /// last reported value.
    #[serde(default)]
    pub deadband: Option<Deadband>,
    /// With a deadband: reported at least this often. Default: 60s.
    #[serde(default)]
    pub max_interval: Option<Span>,
    /// Below this the reading is uncertain (`out_of_range`) and a command is refused.
    #[serde(default)]
    pub min: Option<f64>,
    /// Above this the reading is uncertain (`out_of_range`) and a command is refused.
    #[serde(default)]
    pub max: Option<f64>,
    /// Whether commands may write it.
    #[serde(default)]
    pub writable: bool,
}

/// How large a change must be to be reported.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Deadband {
    /// In the value's own unit.
    Absolute(f64),
    /// As a share of the last reported value, 0.02 for `"2%"`.
    Relative(f64),
}

/// Values for keys that are not there.
pub mod defaults {
    use super::{Batch, Broker, Gateway, Listener, Span, Store, Transport};
    use driver_api::ByteSize;

    /// A point's poll interval.
    #[must_use]
    pub fn interval() -> Span {
        Span::s(1)
    }
    /// A device's answer time.
    #[must_use]
    pub fn timeout() -> Span {
        Span::ms(500)
    }
    /// MQTT keep-alive upstream.
    #[must_use]
    pub fn keep_alive() -> Span {
        Span::s(30)
    }
    /// Topic tree upstream.
    #[must_use]
    pub fn topic_root() -> String {
        "gw/{gateway}".to_owned()
    }

    impl Default for Gateway {
        fn default() -> Self {
            Self { id: host_name(), clock: super::ClockTrust::Auto }
        }
    }

    /// The host name, made to fit `[a-z0-9_-]+`.
    fn host_name() -> String {
        let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        let id: String = name
            .chars()
            .take_while(|c| *c != '.')
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' })
            .collect();
        if id.is_empty() { "fieldgate".to_owned() } else { id }
    }

    impl Default for Broker {
        fn default() -> Self {
            let local = |port, transport| Listener {
                bind: ([127, 0, 0, 1], port).into(),
                transport,
                tls: None,
                allow_anonymous: None,
            };
            Self {
                password_file: None,
                acl_file: None,
                listener: vec![local(1883, Transport::Tcp), local(8083, Transport::Websocket)],
            }
        }
    }

    impl Default for Store {
        fn default() -> Self {
            Self {
                path: "/var/lib/fieldgate".into(),
                max_size: ByteSize::mib(1024),
                max_age: Span::s(30 * 86_400),
                min_free: ByteSize::mib(256),
                commit_interval: Span::ms(500),
            }
        }
    }

    impl Default for Batch {
        fn default() -> Self {
            Self { max_readings: 500, max_delay: Span::s(5) }
        }
    }
}

mod deadband {
    //! `deadband = 0.5` or `deadband = "2%"`.

    use std::borrow::Cow;
    use std::fmt;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
    use serde::de::{Deserializer, Error, Visitor};
    use serde::{Deserialize, Serialize, Serializer};

    use super::Deadband;

    struct Reader;

    impl Visitor<'_> for Reader {
        type Value = Deadband;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number, or a share such as \"2%\"")
        }
        fn visit_f64<E: Error>(self, x: f64) -> Result<Deadband, E> {
            if x.is_finite() && x >= 0.0 {
                Ok(Deadband::Absolute(x))
            } else {
                Err(E::custom("a deadband is zero or more"))
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a deadband beyond 2^53 is no deadband")]
        fn visit_i64<E: Error>(self, x: i64) -> Result<Deadband, E> {
            self.visit_f64(x as f64)
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Deadband, E> {
            let share = text.trim().strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
            match share {
                Some(x) if x.is_finite() && x >= 0.0 => Ok(Deadband::Relative(x / 100.0)),
                _ => Err(E::custom(format!("`{text}` is neither a number nor a share such as \"2%\""))),
            }
        }
    }

    impl<'de> Deserialize<'de> for Deadband {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            d.deserialize_any(Reader)
        }
    }

    impl Serialize for Deadband {
        fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            match self {
                Self::Absolute(x) => s.serialize_f64(*x),
                Self::Relative(x) => s.collect_str(&format_args!("{}%", x * 100.0)),
            }
        }
    }

    impl JsonSchema for Deadband {
        fn schema_name() -> Cow<'static, str> {
            "Deadband".into()
        }
        fn inline_schema() -> bool {
            true
        }
        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({ "anyOf": [
                { "type": "number", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9.]+ *%$" }
            ] })
        }
    }
}
