//! The serial port: its keys in `[[bus]]`, and how the line is timed.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use driver_api::{Problem, Table};
use driver_tty::{Parity, Port, Rs485};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};

/// Keys of `[[bus]]` with `driver = "serial"`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "serial bus")]
pub struct Settings {
    /// The port, best by its stable name: `/dev/serial/by-id/…`. It is opened exclusively.
    pub port: String,
    /// Line speed in bits per second.
    #[serde(default = "default_baud")]
    #[schemars(range(min = 50, max = 4_000_000))]
    pub baud: u32,
    /// Parity bit of each character.
    #[serde(default = "default_parity")]
    pub parity: Parity,
    /// Stop bits of each character: 1 or 2.
    #[serde(default = "default_stop_bits")]
    #[schemars(range(min = 1, max = 2))]
    pub stop_bits: u8,
    /// Data bits of each character, 5 to 8. Many scales come as 7 with even parity.
    #[serde(default = "default_data_bits")]
    #[schemars(range(min = 5, max = 8))]
    pub data_bits: u8,
}

fn default_parity() -> Parity {
    Parity::None
}
fn default_baud() -> u32 {
    9600
}
fn default_stop_bits() -> u8 {
    1
}
fn default_data_bits() -> u8 {
    8
}

impl Settings {
    /// Reads and checks the table; `None` exactly when something was pushed onto `problems`.
    pub fn compile(table: &Table<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let settings: Self = table.parse(problems)?;
        let before = problems.len();
        if settings.port.is_empty() {
            problems.push(
                Problem::new(table.place_of("port"), "`port` is empty")
                    .hint("for example \"/dev/serial/by-id/…\"; `fieldgate ports` lists them"),
            );
        }
        let mut between = |key: &str, value: u32, low: u32, high: u32| {
            if !(low..=high).contains(&value) {
                problems.push(
                    Problem::new(table.place_of(key), format!("`{key}` cannot be {value}"))
                        .hint(format!("{low} to {high}")),
                );
            }
        };
        between("baud", settings.baud, 50, 4_000_000);
        between("stop_bits", settings.stop_bits.into(), 1, 2);
        between("data_bits", settings.data_bits.into(), 5, 8);
        (problems.len() == before).then_some(settings)
    }

    /// How long `count` characters take on the wire.
    #[must_use]
    pub fn time_of(&self, count: usize) -> Duration {
        let parity = u8::from(self.parity != Parity::None);
        let bits = f64::from(1 + self.data_bits + parity + self.stop_bits);
        #[expect(clippy::cast_precision_loss, reason = "a count of characters is far below 2^52")]
        Duration::from_secs_f64(count as f64 * bits / f64::from(self.baud.max(1)))
    }
}

/// Makes a connected port, again after each loss. Real ports, pseudo-terminals and scripts alike.
#[async_trait]
pub trait Connect: Send + 'static {
    /// What comes out: bytes in, bytes out.
    type Port: AsyncRead + AsyncWrite + Unpin + Send;

    /// Opens the port.
    ///
    /// # Errors
    /// Why not, in words a person can act on.
    async fn connect(&mut self) -> io::Result<Self::Port>;
}

/// A port of the operating system.
#[derive(Debug)]
pub struct Tty(Settings);

impl Tty {
    /// The port these settings name. Opens nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self(settings)
    }
}

#[async_trait]
impl Connect for Tty {
    type Port = Port;

    async fn connect(&mut self) -> io::Result<Port> {
        let Settings { port, baud, parity, stop_bits, data_bits } = self.0.clone();
        driver_tty::open(&driver_tty::Settings {
            port,
            baud,
            data_bits,
            parity,
            stop_bits,
            rs485: Rs485::Auto,
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driver_api::testing::table;

    fn problems(text: &str) -> Vec<(String, Option<String>)> {
        let mut problems = Vec::new();
        let settings = Settings::compile(&table(text), &mut problems);
        assert_eq!(settings.is_none(), !problems.is_empty());
        problems.into_iter().map(|p| (p.message, p.hint)).collect()
    }

    #[test]
    fn only_the_port_must_be_named() {
        let settings = Settings::compile(&table("port = '/dev/ttyS0'"), &mut Vec::new()).expect("valid");
        assert_eq!((settings.baud, settings.stop_bits, settings.data_bits), (9600, 1, 8));
        assert_eq!(settings.parity, Parity::None);
        assert_eq!(problems(""), [("`port` is missing".into(), Some("add `port = …` to this table".into()))]);
    }

    #[test]
    fn settings_no_uart_has_are_refused_all_at_once() {
        let found = problems("port = ''\nbaud = 0\nstop_bits = 3\ndata_bits = 9");
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(problems("port = 'x'\nparity = 'evn'")[0].1.as_deref(), Some("did you mean `even`?"));
    }

    #[test]
    fn a_character_takes_as_long_as_its_bits() {
        let text = "port = 'x'\nbaud = 9600\nparity = 'even'\ndata_bits = 7";
        let settings = Settings::compile(&table(text), &mut Vec::new()).expect("valid");
        assert_eq!(settings.time_of(96), Duration::from_millis(100));
    }

    #[tokio::test]
    async fn a_port_that_is_not_there_is_said_in_words() {
        let text = "port = '/dev/no-such-port'";
        let settings = Settings::compile(&table(text), &mut Vec::new()).expect("valid");
        let error = Tty::new(settings).connect().await.expect_err("not there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("is it plugged in?"), "{error}");
    }
}
