//! The configuration keys of the three Modbus drivers. The comments on the keys are the manual.

use std::fmt;

use driver_api::Span;
use driver_api::decode::WordOrder;
use driver_api::table::nearest;
use driver_tty::{Parity, Rs485};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::given::{Given, Numbers};
use crate::write::WriteFunction;

/// Keys of a `[[bus]]` with `driver = "modbus-rtu"`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RtuKeys {
    /// The serial port. A name under `/dev/serial/by-id` stays the same when the adapter is plugged elsewhere.
    pub port: String,
    /// Speed of the line, 300 to 4000000.
    #[serde(default = "baud")]
    pub baud: u32,
    /// Parity of each character.
    #[serde(default = "parity")]
    pub parity: Parity,
    /// Stop bits of each character, 1 or 2. The specification wants 2 where there is no parity; most devices take 1.
    #[serde(default = "stop_bits")]
    pub stop_bits: u8,
    /// Who switches the direction of the line: `auto` leaves it to the adapter (nearly all USB ones do it) or to what
    /// the device tree has set up, `rts` has the kernel raise RTS while it sends, `off` switches that off.
    #[serde(default)]
    pub rs485: Rs485,
}

/// Keys of a `[[bus]]` with `driver = "modbus-tcp"`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpKeys {
    /// Host and port; the port is 502 unless it is named. IPv6 addresses stand in brackets.
    pub address: String,
    /// Most requests under way at once, 1 to 16. Many PLCs take several, and their bus is then as fast as they are and not
    /// as the round trip is; a device that takes one only may drop the others, so it is 1 unless it is said.
    #[serde(default = "pipeline")]
    #[schemars(range(min = 1, max = 16))]
    pub pipeline: i64,
}

/// Keys of a `[[bus]]` with `driver = "modbus-rtu-over-tcp"`: a converter that passes RTU frames on.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RtuOverTcpKeys {
    /// Host and port of the converter, such as `"10.0.0.8:4001"`.
    pub address: String,
    /// Speed of the line behind the converter. Only the plan of the requests depends on it.
    #[serde(default = "baud")]
    pub baud: u32,
}

/// Keys of a `[[device]]` on a Modbus bus.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceKeys {
    /// Unit id: 1 to 247. On Modbus TCP also 0 and 255, which many devices with an address of their own expect.
    /// On a serial line 0 is everybody: its points are only written, and nobody answers.
    #[schemars(range(min = 0, max = 255))]
    pub address: i64,
    /// Most registers the device gives in one answer, 1 to 125.
    #[serde(default = "max_registers")]
    #[schemars(range(min = 1, max = 125))]
    pub max_registers: i64,
    /// Most coils or discrete inputs the device gives in one answer, 1 to 2000.
    #[serde(default = "max_bits")]
    #[schemars(range(min = 1, max = 2000))]
    pub max_bits: i64,
    /// Most registers in a row that no point wants but that may be read to save a request; 0 for none.
    /// Without it, whatever is fastest. A device that refuses such reads is noticed by itself.
    #[schemars(range(min = 0, max = 2000))]
    pub max_gap: Option<i64>,
    /// How long the device takes to begin its answer; only the plan of the requests depends on it, and only until
    /// that was measured. With address 0 on a serial line, how long the line rests after a write until everybody has
    /// carried it out. Default: 0s; with address 0, 100ms.
    #[schemars(example = &"0s")]
    pub turnaround: Option<Span>,
    /// With which functions the device is written. Bits of a register are changed with function 22; a device
    /// without it is noticed by itself, and its register is then read, changed and written whole. What another
    /// master changes in that register between the two is lost.
    #[serde(default)]
    pub write_function: WriteFunction,
    /// What the device shall hold before it is of use. Each entry is read when the device appears (when the bus is
    /// opened, and when the device answers again after two silences), written only if it differs, and read back;
    /// at most one exchange of it before each poll. What fails is logged, and tried when the device appears again.
    #[serde(default)]
    pub setup: Vec<SetupKeys>,
    /// The holding register where `SunS` stands, for points with `register = "model:…"`. Default: 40000, 50000
    /// and 0 are tried.
    #[schemars(range(min = 0, max = 65531))]
    pub sunspec_base: Option<i64>,
}

/// One entry of a device's `setup`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetupKeys {
    /// A place as in a point; `coil:`, `holding:` or `model:`.
    pub register: String,
    /// A type as in a point.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The value that it shall have, raw.
    pub value: Given,
    /// The byte order, as in a point.
    pub word_order: Option<WordOrder>,
}

/// Keys of a `[[device.point]]` on a Modbus device.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PointKeys {
    /// Where it is: `coil:`, `discrete:`, `input:` or `holding:` and the protocol address, which counts from 0:
    /// `"holding:100"`, `"input:0x1F"`. The maker's 40001 is `holding:0`. Or `"model:103:14"`: in model 103 of a
    /// SunSpec device, the register 14 behind that with the model's number; the driver asks the device where its
    /// models are. Of several models with the same number `"model:160#2:14"` names the second one; the first one is
    /// read where nothing is said.
    pub register: String,
    /// What the registers mean: `bool`, `u16`, `i16`, `u32`, `i32`, `u64`, `i64`, `f32`, `f64`, `string:N` with N
    /// bytes, `bcd16`, `bcd32`, `bcd64` (packed BCD), or a date with time: `time:unix` (2 registers, seconds since
    /// 1970), `time:iec870` (4 registers, IEC 870-5-4, which Schneider calls TI081 or DATETIME), `time:ymdhms` (6
    /// registers: year or year less 2000, month, day, hour, minute, second; written with the full year), `time:yymdhms`
    /// (the same, where the year is to be written less 2000) or `time:bcd` (3 registers of BCD: YYMM, DDhh, mmss). A
    /// time is text: `2026-11-28T10:00:00` by the device's own clock, and with a `Z` for `time:unix`. Coils and discrete
    /// inputs are `bool`; registers are `u16` unless it is said.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Order of the bytes of a value: `ABCD` (the specification's), `CDAB` (low register first), `BADC` (low byte
    /// first), `DCBA` (both). 64-bit values go by the same two swaps. Text, and times of several fields, keep the
    /// order of their registers.
    pub word_order: Option<WordOrder>,
    /// One bit of the register as a `bool`; 0 is the least significant.
    #[schemars(range(min = 0, max = 15))]
    pub bit: Option<i64>,
    /// The first and the last bit of a number inside the register, such as `[4, 7]`.
    pub bits: Option<[i64; 2]>,
    /// What the device gives where it has no value: one number or a list, such as `0x8000` or `[0x7FFF, 0x8000]`. It
    /// is compared with all registers of the point as one unsigned number (the signed one does too: -32768), for
    /// `f32` and `f64` with the value. Such a reading is bad, `sensor_fault`.
    pub invalid: Option<Numbers>,
    /// The register that holds the power of ten by which the raw value is to be multiplied, an `i16` from -10 to 10,
    /// such as `"input:5"`: SunSpec's scale factors. Where it is not there (0x8000) the point is bad, and without its
    /// power of ten a point has no value. Writes undo it.
    pub scale_register: Option<String>,
}

fn parity() -> Parity {
    Parity::Even
}
fn pipeline() -> i64 {
    1
}
fn baud() -> u32 {
    19_200
}
fn stop_bits() -> u8 {
    1
}
fn max_registers() -> i64 {
    125
}
fn max_bits() -> i64 {
    2000
}

/// The four tables of a Modbus device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Area {
    /// Bits that can be written.
    Coil,
    /// Bits that can only be read.
    Discrete,
    /// Registers that can only be read.
    Input,
    /// Registers that can be written.
    Holding,
}

impl Area {
    const WORDS: [(&str, Self); 4] = [
        ("coil", Self::Coil),
        ("discrete", Self::Discrete),
        ("input", Self::Input),
        ("holding", Self::Holding),
    ];

    /// The function that reads it.
    #[must_use]
    pub const fn read_function(self) -> u8 {
        match self {
            Self::Coil => 1,
            Self::Discrete => 2,
            Self::Holding => 3,
            Self::Input => 4,
        }
    }

    /// Whether it holds bits.
    #[must_use]
    pub const fn bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// Whether it can be written.
    #[must_use]
    pub const fn writable(self) -> bool {
        matches!(self, Self::Coil | Self::Holding)
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::WORDS.iter().find(|(_, a)| a == self).map_or("?", |(w, _)| w))
    }
}

/// Understands `"holding:100"`.
///
/// # Errors
/// What is wrong, and the cure.
pub fn register(text: &str) -> Result<(Area, u16), (String, String)> {
    let shape = || "write it as \"holding:100\" or \"input:0x1F\"".to_owned();
    let Some((word, number)) = text.split_once(':') else {
        return Err((
            format!("`{text}` does not say which table"),
            makers_number(text).unwrap_or_else(shape),
        ));
    };
    let words: Vec<&str> = Area::WORDS.iter().map(|(w, _)| *w).chain(["model"]).collect();
    let Some((_, area)) = Area::WORDS.iter().find(|(w, _)| *w == word.trim()) else {
        let cure = nearest(word, &words)
            .map_or_else(|| format!("it is one of {}", words.join(", ")), |n| format!("did you mean `{n}`?"));
        return Err((format!("`{word}` is no table of a Modbus device"), cure));
    };
    let number = number.trim();
    let address = match number.strip_prefix("0x").or_else(|| number.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => number.parse(),
    };
    match address {
        Ok(address) => match u16::try_from(address) {
            Ok(address) => Ok((*area, address)),
            Err(_) => Err((
                format!("address {address} is beyond 65535"),
                makers_number(number).unwrap_or_else(|| "protocol addresses go from 0 to 65535".to_owned()),
            )),
        },
        Err(_) => Err((format!("`{number}` is not a register's address"), shape())),
    }
}

/// What `40001` or `300001` of a manual is here.
fn makers_number(text: &str) -> Option<String> {
    let digits = text.trim();
    if !(5..=6).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let area = match &digits[..1] {
        "0" => Area::Coil,
        "1" => Area::Discrete,
        "3" => Area::Input,
        "4" => Area::Holding,
        _ => return None,
    };
    let number: u32 = digits[1..].parse().ok()?;
    let address = u16::try_from(number.checked_sub(1)?).ok()?;
    Some(format!("{digits} in the maker's numbering is `{area}:{address}`"))
}

/// Splits `"host:port"`.
///
/// # Errors
/// What is wrong with it.
pub fn host_and_port(text: &str, default: Option<u16>) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) => {
                (host, Some(port.strip_prefix(':').ok_or("behind `]` comes `:` and the port")?))
            }
            None => return Err("`[` without `]`".to_owned()),
        },
        None if text.matches(':').count() > 1 => {
            return Err(format!("an IPv6 address stands in brackets: `[{text}]`"));
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || host.contains(['/', ' ']) {
        return Err(format!("`{host}` is no host name"));
    }
    let port = match port {
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(format!("`{port}` is no port (1 to 65535)")),
            Ok(port) => port,
        },
        None => default.ok_or("the port is missing, as in `10.0.0.8:4001`")?,
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_in_both_notations() {
        assert_eq!(register("holding:100"), Ok((Area::Holding, 100)));
        assert_eq!(register("input:0x1F"), Ok((Area::Input, 31)));
        assert_eq!(register("coil:0"), Ok((Area::Coil, 0)));
        assert_eq!(register("discrete:65535"), Ok((Area::Discrete, 65535)));
    }

    #[test]
    fn slips_in_registers_have_a_cure() {
        for (text, cure) in [
            ("40001", "`holding:0`"),
            ("300011", "`input:10`"),
            ("holdin:5", "`holding`"),
            ("analog:5", "coil, discrete, input, holding"),
            ("holding:", "holding:100"),
            ("holding:-1", "holding:100"),
            ("holding:0xZZ", "holding:100"),
            ("holding:65536", "65535"),
            ("holding:400101", "`holding:100`"),
            ("", "holding:100"),
        ] {
            let (_, hint) = register(text).expect_err(text);
            assert!(hint.contains(cure), "{text}: {hint}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!(host_and_port("10.0.0.7", Some(502)), Ok(("10.0.0.7".into(), 502)));
        assert_eq!(host_and_port("plc.local:1502", Some(502)), Ok(("plc.local".into(), 1502)));
        assert_eq!(host_and_port("[::1]:1502", None), Ok(("::1".into(), 1502)));
        for wrong in ["", ":502", "plc:0", "plc:x", "::1", "[::1", "[::1]502", "http://plc"] {
            assert!(host_and_port(wrong, Some(502)).is_err(), "{wrong}");
        }
        assert!(host_and_port("converter", None).is_err());
    }
}
