//! The typed model of the sections that are the gateway's own: gateway, broker, store, uplink, and
//! the keys that every bus, device and point shares. A driver's keys belong to the driver.
//!
//! The doc comments on the fields are the manual: `reference.toml` and the JSON Schema are made from them.

use std::path::PathBuf;

use driver_api::{ByteSize, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::connect::Connect;
pub use super::doors::{Broker, Engine, Listener, ListenerTls, Transport};
use super::proxy::Proxy;
pub use super::routes::{Forward, Subscribe};
use super::share::Share;
pub use super::sparkplug::{Deflation, Sparkplug};
use super::values::Values;

/// The gateway itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Its name in topics and payloads: lower-case letters, digits, `_` and `-`. Default: the host name.
    #[schemars(example = &"plant-7")]
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

/// The store-and-forward queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Directory of the queue.
    pub path: PathBuf,
    /// Disk it may use, at least 16MiB. At the limit the oldest readings go first, counted and declared.
    pub max_size: ByteSize,
    /// Readings older than this go, counted and declared.
    pub max_age: Span,
    /// Free disk that is never touched. Below it new readings take the room of the oldest. The last 4MiB (less on a
    /// small disk) are not grown into in any case.
    pub min_free: ByteSize,
    /// How long readings that every uplink has passed stay, for the page's charts and for `queue export`:
    /// about 2 bytes a reading. They go before `max_size` or `min_free` take anything that is still owed.
    pub history: Span,
    /// Longest wait before a group of readings is committed, and so the most that a power cut takes:
    /// 10ms to 60s.
    pub commit_interval: Span,
    /// When there is no room, and before whole stretches of the backlog are dropped: of each point that is read more often
    /// than this, numbers only, one reading in this time stays, the oldest are thinned first. What goes is counted and
    /// declared (`thinned`). Points with a deadband, switches, texts, and what is not `good` are never thinned.
    /// Default: off. 1s to 1d.
    #[schemars(example = &"1m")]
    pub thin: Option<Span>,
}

/// A cloud broker to which everything stored is delivered. Each uplink keeps its own position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// Its name in status topics and in the ledger: letters, digits, `_` and `-`. The store keeps its
    /// position under this name: an uplink with a new name starts anew.
    #[schemars(example = &"cloud")]
    pub name: String,
    /// `mqtt://host:1883`, `mqtts://host:8883`, or over WebSocket `ws://host/mqtt`, `wss://host/mqtt`.
    #[schemars(example = &"mqtts://broker.example.com:8883")]
    pub url: String,
    /// Tried in turn when `url` does not answer.
    #[serde(default)]
    pub fallback_urls: Vec<String>,
    /// `"5"` or `"3.1.1"`.
    #[serde(default)]
    pub mqtt_version: MqttVersion,
    /// MQTT client id. Default: the gateway's id.
    #[serde(default)]
    #[schemars(example = &"plant-7")]
    pub client_id: Option<String>,
    /// User name.
    #[serde(default)]
    #[schemars(example = &"plant-7")]
    pub username: Option<String>,
    /// File whose first line is the password. With systemd's `LoadCredential=` it is
    /// `/run/credentials/fieldgate.service/NAME`.
    #[serde(default)]
    #[schemars(example = &"cloud.password")]
    pub password_file: Option<PathBuf>,
    /// CA certificates, PEM. Default: the system's.
    #[serde(default)]
    #[schemars(example = &"ca.pem")]
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain, PEM.
    #[serde(default)]
    #[schemars(example = &"client.pem")]
    pub cert_file: Option<PathBuf>,
    /// Client key, PEM.
    #[serde(default)]
    #[schemars(example = &"client.key")]
    pub key_file: Option<PathBuf>,
    /// Names of the protocol inside TLS (ALPN), for brokers that tell by them what a shared port 443 is for.
    /// AWS IoT wants `x-amzn-mqtt-ca` there.
    #[serde(default)]
    #[schemars(example = &["x-amzn-mqtt-ca"])]
    pub alpn: Vec<String>,
    /// The way out through a proxy: `http://user@host:3128` (method CONNECT) or `socks5://user@host:1080`. It
    /// is given the broker's name and asks DNS itself; TLS to the broker runs inside.
    #[serde(default)]
    pub proxy: Option<Proxy>,
    /// File whose first line is the password for the user of `proxy`.
    #[serde(default)]
    #[schemars(example = &"proxy.password")]
    pub proxy_password_file: Option<PathBuf>,
    /// Network interface through which the connection goes, whatever the routes say. DNS is asked as the
    /// system asks it.
    #[serde(default)]
    #[schemars(example = &"wwan0")]
    pub interface: Option<String>,
    /// With MQTT 5: whether to follow a broker that sends us to another server, with our user name and
    /// password. The scheme stays, so TLS does. When that server fails, `url` has the first word again.
    #[serde(default)]
    pub allow_redirect: bool,
    /// When to be connected: `always`, or in windows on a link that is paid for or powered up, such as
    /// `every 15m for 2m`. A window ends early once everything is delivered. Commands arrive only in windows.
    #[serde(default)]
    pub connect: Connect,
    /// Most bytes per second that are sent, TLS and WebSocket counted; `0`: no limit. At least 256B.
    #[serde(default = "defaults::max_rate")]
    pub max_rate: ByteSize,
    /// MQTT keep-alive, 1s to 65535s: how soon a dead link is noticed.
    #[serde(default = "defaults::keep_alive")]
    pub keep_alive: Span,
    /// Quality of service of readings: 1, each message acknowledged; 0, a few bytes less; or 2, exactly once, over
    /// restarts of ours as well, for twice the packets and some writes to the disk. With 0 a reading counts as
    /// delivered when the broker has answered a ping behind it, so it has read it; what it does not let us
    /// publish it drops without a word. With 2 the broker has to keep the session while we are away, and `client_id`
    /// should stay what it is. Everything else goes with 1. (Sparkplug's data goes with 0, so it takes no 2.)
    #[serde(default)]
    pub qos: Qos,
    /// `json`: one message a reading. `json-batch`: many readings in one message. `compact`: many readings, packed,
    /// for links where every byte is paid for. `sparkplug-b`: an edge node; see `sparkplug`.
    #[serde(default)]
    pub format: Format,
    /// `none` or `zstd` (json-batch only; compact messages are always compressed).
    #[serde(default)]
    pub compression: Compression,
    /// Who we are with `format = "sparkplug-b"`.
    #[serde(default)]
    #[schemars(example = &Sparkplug { group: "plants".to_owned(), ..Sparkplug::default() })]
    pub sparkplug: Option<Sparkplug>,
    /// Topic under which the tree of the local broker appears upstream; `{gateway}` is the gateway's id.
    #[serde(default = "defaults::topic_root")]
    pub topic_root: String,
    /// Whether readings are retained upstream (status and meta always are).
    #[serde(default)]
    pub retain: bool,
    /// `live-first`: what was missed goes beside the live readings, on the `history` topics.
    /// `strict`: one lane, oldest first.
    #[serde(default)]
    pub order: Order,
    /// With MQTT 5: every message says what its payload is (`application/json`, `application/zstd`), some 20
    /// bytes each.
    #[serde(default)]
    pub content_type: bool,
    /// What may be commanded through this uplink, as `device/point`; `+` and `#` stand for any, as in topics. Default: every
    /// writable point. `[]`: nothing, and the broker is not asked for commands.
    #[serde(default = "defaults::allow_commands")]
    #[schemars(example = &["pump/speed", "hvac/+"])]
    pub allow_commands: Vec<String>,
    /// Any number of them.
    #[serde(default)]
    pub forward: Vec<Forward>,
    /// Any number of them.
    #[serde(default)]
    pub subscribe: Vec<Subscribe>,
    /// Limits of one `json-batch` or `compact` message: whichever is reached first sends it. Larger ones cost fewer
    /// bytes a reading: `compact` is made for 1000 and more.
    #[serde(default)]
    pub batch: Batch,
    /// How long readings of a machine whose clock is not set yet wait for it, from the first connection after the
    /// start, up to 24h. What the clock comes in time for goes out with its true time; the rest as `clock_unsynced`, and is
    /// corrected on `event/correction` once the clock is set. `0s`: nothing waits.
    #[serde(default = "defaults::wait_for_clock")]
    pub wait_for_clock: Span,
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
#[schemars(with = "u8", extend("enum" = [0, 1, 2]))]
pub enum Qos {
    /// Without acknowledgements; see [`crate::uplink`].
    Unacknowledged,
    /// At least once.
    #[default]
    AtLeastOnce,
    /// Exactly once; see [`crate::uplink`].
    ExactlyOnce,
}

impl TryFrom<u8> for Qos {
    type Error = String;
    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            0 => Ok(Self::Unacknowledged),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            other => Err(format!("MQTT has qos 0, 1 and 2, not {other}")),
        }
    }
}

impl From<Qos> for u8 {
    fn from(qos: Qos) -> Self {
        match qos {
            Qos::Unacknowledged => 0,
            Qos::AtLeastOnce => 1,
            Qos::ExactlyOnce => 2,
        }
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
    /// Many readings packed into one or two bytes each; `fieldgate decode` and `compact.md` say how they are read.
    Compact,
    /// An edge node of Sparkplug B 3.0. Status, meta, events and results stay on the usual topics beside it.
    SparkplugB,
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
    /// The bus's name, in topics and in `[[device]]`: letters, digits, `_` and `-`.
    #[schemars(example = &"rs485")]
    pub name: String,
    /// The driver that speaks on it. It brings the bus's other keys.
    #[schemars(example = &"modbus-rtu")]
    pub driver: String,
    /// With a Modbus driver: a TCP server onto this bus, for other masters that speak Modbus TCP or RTU over TCP.
    /// Their requests go between the polls and never starve them. Read-only, unless `writes` says what may be
    /// written. Modbus knows no login: bind it to loopback or behind a firewall.
    #[serde(default)]
    #[schemars(example = &"127.0.0.1:5020")]
    pub share: Option<Share>,
}

/// The keys that every `[[device]]` shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceCommon {
    /// The device's name in topics, unique in the gateway: letters, digits, `_` and `-`.
    #[schemars(example = &"meter1")]
    pub name: String,
    /// Name of the `[[bus]]` it hangs on.
    #[schemars(example = &"rs485")]
    pub bus: String,
    /// Poll interval of its points where they do not say otherwise; the shortest is 10ms. What speaks by
    /// itself (a scale that prints) is reported at most once an interval.
    #[serde(default = "defaults::interval")]
    pub interval: Span,
    /// Longest wait for one answer, up to 60s.
    #[serde(default = "defaults::timeout")]
    pub timeout: Span,
    /// A device type whose points are taken from `profiles/NAME.toml` beside the configuration or from
    /// /usr/share/fieldgate/profiles. Own points add to them or go over them by name, key by key.
    #[serde(default)]
    #[schemars(example = &"eastron-sdm630")]
    pub profile: Option<String>,
}

/// The keys that every `[[device.point]]` shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PointCommon {
    /// The point's name in topics, unique in its device: letters, digits, `_` and `-`.
    #[schemars(example = &"voltage_l1")]
    pub name: String,
    /// Poll interval. Default: the device's.
    #[serde(default)]
    #[schemars(example = &"500ms")]
    pub interval: Option<Span>,
    /// Unit of the value, as it should appear in payloads.
    #[serde(default)]
    #[schemars(example = &"V")]
    pub unit: Option<String>,
    /// What it is, for people.
    #[serde(default)]
    #[schemars(example = &"Voltage L1 to N")]
    pub description: Option<String>,
    /// Factor from the raw value: value = raw × scale + offset. Not 0. Default: 1.
    #[serde(default)]
    #[schemars(example = 0.1)]
    pub scale: Option<f64>,
    /// Added after scaling: value = raw × scale + offset. Default: 0.
    #[serde(default)]
    #[schemars(example = -40.0)]
    pub offset: Option<f64>,
    /// Report by exception: a change smaller than this is not reported. A number in the value's own
    /// unit, or `"2%"` of the last reported value. Default: every reading is reported.
    #[serde(default)]
    #[schemars(example = &"2%")]
    pub deadband: Option<Deadband>,
    /// With a deadband: reported at least this often. Default: 60s.
    #[serde(default)]
    #[schemars(example = &"60s")]
    pub max_interval: Option<Span>,
    /// Below this, after scaling, the reading is uncertain (`out_of_range`) and a command is refused.
    #[serde(default)]
    #[schemars(example = 0.0)]
    pub min: Option<f64>,
    /// Above this, after scaling, the reading is uncertain (`out_of_range`) and a command is refused.
    #[serde(default)]
    #[schemars(example = 300.0)]
    pub max: Option<f64>,
    /// What the raw numbers mean. The reading is the word; a number that is not listed is given as it is
    /// (`"7"`), uncertain with the reason `out_of_range`. A command may name the word or the number.
    #[serde(default)]
    pub values: Option<Values>,
    /// Whether commands may write it. Without this, every command is refused.
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
    use super::{Batch, Gateway, Span, Store};
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
    /// How long an uplink waits for the clock.
    #[must_use]
    pub fn wait_for_clock() -> Span {
        Span::s(120)
    }
    /// Every writable point.
    #[must_use]
    pub fn allow_commands() -> Vec<String> {
        vec!["#".to_owned()]
    }
    /// No limit of what is sent.
    #[must_use]
    pub fn max_rate() -> ByteSize {
        ByteSize(0)
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

    impl Default for Store {
        fn default() -> Self {
            Self {
                path: "/var/lib/fieldgate".into(),
                max_size: ByteSize::mib(1024),
                max_age: Span::s(30 * 86_400),
                min_free: ByteSize::mib(256),
                history: Span::s(6 * 3600),
                commit_interval: Span::ms(500),
                thin: None,
            }
        }
    }

    impl Default for Batch {
        fn default() -> Self {
            Self { max_readings: 500, max_delay: Span::s(5) }
        }
    }
}
