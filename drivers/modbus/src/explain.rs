//! Frames in words, for a person who watches the wire: `unit 1 read holding 0..9`, `CRC wrong`.
//!
//! Pure, and content with anything: what is no frame is said to be none.

use crate::config::Area;
use crate::frame::{crc16, sealed};
use crate::function::{EXCEPTION, Function};
use crate::wrap::{Header, Wrap};

/// What a stretch of bytes in one direction is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// In words, one line.
    pub text: String,
    /// Whether it is one whole frame and sound: nothing more is to come.
    pub whole: bool,
}

/// Explains what was sent (`asks`) or received.
#[must_use]
pub fn explain(wrap: Wrap, asks: bool, bytes: &[u8]) -> Said {
    match wrap {
        Wrap::Tcp => tcp(asks, bytes),
        Wrap::Rtu => rtu(asks, bytes),
    }
}

fn tcp(asks: bool, bytes: &[u8]) -> Said {
    let Some((header, pdu)) = bytes.split_first_chunk::<{ Header::LEN }>() else {
        return Said { text: "part of a Modbus TCP header".to_owned(), whole: false };
    };
    let Some(Header { transaction, unit, pdu: announced }) = Header::of(*header) else {
        return Said { text: "no Modbus TCP header".to_owned(), whole: false };
    };
    // As the header counts: the unit is one of them.
    let (have, announced) = (pdu.len() + 1, announced + 1);
    let text = format!("unit {unit} {}  transaction {transaction}", words(asks, pdu));
    match have.cmp(&announced) {
        std::cmp::Ordering::Equal => Said { text, whole: true },
        std::cmp::Ordering::Less => {
            Said { text: format!("{text}, {have} of {announced} bytes"), whole: false }
        }
        std::cmp::Ordering::Greater => Said { text: format!("{text}, and more behind it"), whole: false },
    }
}

fn rtu(asks: bool, bytes: &[u8]) -> Said {
    let Some(([unit, pdu @ ..], crc)) = bytes.split_last_chunk::<2>().filter(|(body, _)| body.len() > 1)
    else {
        return Said { text: "too short for a frame".to_owned(), whole: false };
    };
    if sealed(bytes) {
        return Said { text: format!("unit {unit} {}  CRC ok", words(asks, pdu)), whole: true };
    }
    let (found, right) = (u16::from_le_bytes(*crc), crc16(&bytes[..bytes.len() - 2]));
    let text =
        format!("unit {unit} {}?  CRC wrong: {found:04X}, right would be {right:04X}", words(asks, pdu));
    Said { text, whole: false }
}

/// A PDU in words.
fn words(asks: bool, pdu: &[u8]) -> String {
    let Some((&function, data)) = pdu.split_first() else { return "says nothing".to_owned() };
    let word = |at: usize| data.get(at..at + 2).map(|w| u16::from_be_bytes([w[0], w[1]]));
    let range = |area: Area, at: usize, count: u16| match word(at) {
        Some(first) if count > 1 => format!("{area} {first}..{}", u32::from(first) + u32::from(count) - 1),
        Some(first) => format!("{area} {first}"),
        None => format!("{area} ?"),
    };
    if function & EXCEPTION != 0 {
        let code = data.first().copied().unwrap_or(0);
        return format!("function {}: {}", function & !EXCEPTION, driver_api::ReadError::Refused(code));
    }
    let area = Function::of(function).and_then(|known| known.area).unwrap_or(Area::Holding);
    match (function, asks) {
        (1..=4, true) => format!("read {}", range(area, 0, word(2).unwrap_or(1))),
        (1..=4, false) => match data.split_first() {
            Some((count, values)) if usize::from(*count) == values.len() && !area.bits() => {
                format!("{area}: {}", registers(values))
            }
            Some((count, values)) if usize::from(*count) == values.len() => {
                format!("{area}: {}", bits(values))
            }
            Some((count, values)) => format!("{area}: {} bytes announced as {count}", values.len()),
            None => format!("{area}: nothing"),
        },
        (5, _) => {
            let on = if word(2) == Some(0xFF00) { "on" } else { "off" };
            format!("{} {} = {on}", if asks { "write" } else { "wrote" }, range(area, 0, 1))
        }
        (6, _) => {
            let value = word(2).unwrap_or(0);
            format!("{} {} = {value:04X}", if asks { "write" } else { "wrote" }, range(area, 0, 1))
        }
        (15, true) => {
            format!(
                "write {} = {}",
                range(area, 0, word(2).unwrap_or(1)),
                bits(data.get(5..).unwrap_or_default())
            )
        }
        (16, true) => format!(
            "write {} = {}",
            range(area, 0, word(2).unwrap_or(1)),
            registers(data.get(5..).unwrap_or_default())
        ),
        (15 | 16, false) => format!("wrote {}", range(area, 0, word(2).unwrap_or(1))),
        (22, _) => format!(
            "mask {} and {:04X} or {:04X}",
            range(area, 0, 1),
            word(2).unwrap_or(0),
            word(4).unwrap_or(0)
        ),
        (23, true) => format!(
            "write {}, read {}",
            range(area, 4, word(6).unwrap_or(1)),
            range(area, 0, word(2).unwrap_or(1))
        ),
        (23, false) => format!("{area}: {}", registers(data.get(1..).unwrap_or_default())),
        (17, true) => "asks what it is (report server id)".to_owned(),
        (17, false) => format!("is {}", text(data.get(1..).unwrap_or_default())),
        (43, true) => "asks what it is (device identification)".to_owned(),
        (43, false) => format!("is {}", text(data.get(6..).unwrap_or_default())),
        (other, _) => format!("function {other}, {} bytes", data.len()),
    }
}

/// Most registers that are written out.
const SHOWN: usize = 16;

fn registers(bytes: &[u8]) -> String {
    let mut words: Vec<String> =
        bytes.chunks(2).take(SHOWN).map(|w| w.iter().map(|b| format!("{b:02X}")).collect()).collect();
    if bytes.len() > SHOWN * 2 {
        words.push(format!("… ({} registers)", bytes.len() / 2));
    }
    words.join(" ")
}

/// Bits as they are numbered, the first one first.
fn bits(bytes: &[u8]) -> String {
    let all = bytes.iter().take(SHOWN).flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1));
    let mut text: String = all.map(|bit| if bit == 1 { '1' } else { '0' }).collect();
    if bytes.len() > SHOWN {
        text.push('…');
    }
    text
}

/// What can be read of some bytes.
fn text(bytes: &[u8]) -> String {
    let shown = bytes.iter().map(|b| if (0x20..0x7F).contains(b) { char::from(*b) } else { '.' });
    format!("\"{}\"", shown.collect::<String>())
}

#[cfg(test)]
mod tests {
    use driver_api::testing::hex;
    use proptest::prelude::*;

    use super::*;
    use crate::frame::seal;

    fn said(asks: bool, frame: &str) -> String {
        let mut bytes = hex(frame);
        seal(&mut bytes);
        let said = explain(Wrap::Rtu, asks, &bytes);
        assert!(said.whole, "{said:?}");
        said.text
    }

    #[test]
    fn requests_and_answers_in_words() {
        for (asks, frame, words) in [
            (true, "01 03 00 00 00 0A", "unit 1 read holding 0..9  CRC ok"),
            (true, "01 04 00 05 00 01", "unit 1 read input 5  CRC ok"),
            (false, "01 03 04 00 E6 FF FF", "unit 1 holding: 00E6 FFFF  CRC ok"),
            (false, "01 01 01 05", "unit 1 coil: 10100000  CRC ok"),
            (true, "07 05 00 0A FF 00", "unit 7 write coil 10 = on  CRC ok"),
            (true, "07 06 03 E8 00 D7", "unit 7 write holding 1000 = 00D7  CRC ok"),
            (false, "07 06 03 E8 00 D7", "unit 7 wrote holding 1000 = 00D7  CRC ok"),
            (true, "07 10 00 01 00 02 04 00 0A 01 02", "unit 7 write holding 1..2 = 000A 0102  CRC ok"),
            (false, "07 10 00 01 00 02", "unit 7 wrote holding 1..2  CRC ok"),
            (true, "07 16 00 04 00 F2 00 25", "unit 7 mask holding 4 and 00F2 or 0025  CRC ok"),
            (true, "07 11", "unit 7 asks what it is (report server id)  CRC ok"),
        ] {
            assert_eq!(said(asks, frame), words);
        }
        assert!(said(false, "01 83 02").contains("exception 02"), "{}", said(false, "01 83 02"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = explain(Wrap::Rtu, false, &hex("01 03 02 00 07 00 00"));
        assert!(!wrong.whole && wrong.text.contains("CRC wrong: 0000"), "{wrong:?}");
        assert!(!explain(Wrap::Rtu, false, &[1, 3]).whole);
        let tcp = explain(Wrap::Tcp, true, &hex("00 07 00 00 00 06 01 03 00 00 00 01"));
        assert_eq!((tcp.text.as_str(), tcp.whole), ("unit 1 read holding 0  transaction 7", true));
        let part = explain(Wrap::Tcp, false, &hex("00 07 00 00 00 05 01 03 02"));
        assert!(!part.whole && part.text.contains("3 of 5 bytes"), "{part:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), asks: bool, tcp: bool) {
            let mut bytes = bytes;
            if tcp && bytes.len() > 4 {
                bytes[2..5].fill(0);
            }
            let said = explain(if tcp { Wrap::Tcp } else { Wrap::Rtu }, asks, &bytes);
            prop_assert!(!said.text.is_empty() && !said.text.contains('\n'));
            seal(&mut bytes);
            prop_assert!(!explain(Wrap::Rtu, asks, &bytes).text.is_empty());
        }
    }
}
