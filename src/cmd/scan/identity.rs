//! What a Modbus device says it is: device identification (function 43/14), the server id (function 17), and
//! SunSpec's common model. All are reads; what does not answer them is left alone.

use std::time::Duration;

use serde::Serialize;

use super::super::carrier::Carrier;

/// What a device says of itself, as far as it says anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Maker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Its server id, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
    /// The first register of its SunSpec models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sunspec: Option<u16>,
}

impl Identity {
    /// In one line; empty if it said nothing.
    #[must_use]
    pub fn line(&self) -> String {
        let mut words: Vec<String> =
            [&self.vendor, &self.product, &self.revision].into_iter().flatten().cloned().collect();
        if words.is_empty() {
            words.extend(self.server_id.iter().map(|id| format!("\"{id}\"")));
        }
        words.extend(self.sunspec.map(|base| format!("SunSpec at holding:{base}")));
        words.join(" ")
    }
}

/// Where SunSpec models begin (SunSpec Device Information Model Specification, 1.1).
const SUNSPEC: [u16; 3] = [40_000, 0, 50_000];
/// `SunS`.
const MARK: [u8; 4] = *b"SunS";

/// Asks a device that answers at all. Stops asking in a way that it does not answer.
pub fn identify(carrier: &mut dyn Carrier, unit: u8, wait: Duration) -> Identity {
    let mut found = Identity::default();
    let mut ask = |request: &[u8]| carrier.carry(unit, request, wait).ok().map(|carried| carried.answer);
    for base in SUNSPEC {
        let Some(answer) = ask(&read(base, 2)) else { break };
        if data(&answer) != Some(&MARK[..]) {
            continue;
        }
        found.sunspec = Some(base);
        // The common model: its id and length, then maker and type with 16 registers each.
        if let Some(answer) = ask(&read(base + 4, 32))
            && let Some((maker, product)) = data(&answer).and_then(|data| data.split_at_checked(32))
        {
            (found.vendor, found.product) = (text(maker), text(product));
        }
        break;
    }
    match ask(&[43, 14, 1, 0]) {
        // It ignores what it does not know; then it will ignore the next as well.
        None => return found,
        Some(answer) => {
            for (id, value) in objects(&answer) {
                match id {
                    0 => found.vendor = found.vendor.or(text(value)),
                    1 => found.product = found.product.or(text(value)),
                    2 => found.revision = found.revision.or(text(value)),
                    _ => {}
                }
            }
        }
    }
    if found.vendor.is_none() && found.product.is_none() {
        found.server_id = ask(&[17]).as_deref().and_then(server_id);
    }
    found
}

fn read(first: u16, count: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (first.to_be_bytes(), count.to_be_bytes());
    vec![3, a, b, c, d]
}

/// The bytes of a read's answer.
fn data(answer: &[u8]) -> Option<&[u8]> {
    match answer {
        [3 | 4, count, data @ ..] if data.len() == usize::from(*count) => Some(data),
        _ => None,
    }
}

/// The objects of a device identification, as far as they are whole (Application Protocol V1.1b3, 6.21).
fn objects(answer: &[u8]) -> Vec<(u8, &[u8])> {
    let [43, 14, _, _, _, _, count, rest @ ..] = answer else { return Vec::new() };
    let (mut found, mut rest) = (Vec::new(), rest);
    for _ in 0..*count {
        let [id, length, tail @ ..] = rest else { break };
        let Some((value, tail)) = tail.split_at_checked(usize::from(*length)) else { break };
        found.push((*id, value));
        rest = tail;
    }
    found
}

/// The readable part of a server id: what stands in it is the maker's own affair (Application Protocol, 6.13).
fn server_id(answer: &[u8]) -> Option<String> {
    let [17, count, data @ ..] = answer else { return None };
    let data = data.get(..usize::from(*count)).unwrap_or(data);
    let run = |bytes: &[u8]| bytes.len();
    let longest = data.split(|byte| !(0x20..0x7F).contains(byte)).max_by_key(|bytes| run(bytes))?;
    if longest.len() >= 3 { text(longest) } else { None }
}

/// Printable text without its padding; `None` if there is none.
fn text(bytes: &[u8]) -> Option<String> {
    let whole: String = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect();
    let whole = whole.trim();
    (!whole.is_empty()).then(|| whole.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::poll::{Carried, NotCarried};

    /// A device with these answers; everything else is refused, or not answered at all.
    struct Device {
        answers: HashMap<Vec<u8>, Vec<u8>>,
        refuses: bool,
        asked: usize,
    }

    impl Carrier for Device {
        fn carry(&mut self, _: u8, request: &[u8], _: Duration) -> Result<Carried, NotCarried> {
            self.asked += 1;
            let answer = match self.answers.get(request) {
                Some(answer) => answer.clone(),
                None if self.refuses => vec![request[0] | 0x80, 1],
                None => return Err(NotCarried::Silent),
            };
            Ok(Carried { answer, took: Duration::ZERO })
        }
    }

    fn device(answers: &[(Vec<u8>, Vec<u8>)], refuses: bool) -> Device {
        Device { answers: answers.iter().cloned().collect(), refuses, asked: 0 }
    }

    fn of(device: &mut Device) -> Identity {
        identify(device, 1, Duration::from_millis(100))
    }

    #[test]
    fn device_identification_as_in_the_specification() {
        let answer =
            b"\x2B\x0E\x01\x01\x00\x00\x03\x00\x16Company identification\x01\x0EProduct codeXX\x02\x05V2.11"
                .to_vec();
        let mut known = device(&[(vec![43, 14, 1, 0], answer)], true);
        assert_eq!(of(&mut known).line(), "Company identification Product codeXX V2.11");
    }

    #[test]
    fn a_server_id_is_read_where_there_is_nothing_better() {
        let mut known = device(&[(vec![17], b"\x11\x0A\x05\xFFSDM630\x00\x01".to_vec())], true);
        assert_eq!(of(&mut known).line(), "\"SDM630\"");
    }

    #[test]
    fn sunspec_is_seen_with_maker_and_type() {
        let mut common = vec![3, 64];
        common.extend_from_slice(b"Fronius");
        common.resize(2 + 32, 0);
        common.extend_from_slice(b"Symo 10.0-3-M");
        common.resize(2 + 64, 0);
        let answers = [(read(40_000, 2), b"\x03\x04SunS".to_vec()), (read(40_004, 32), common)];
        assert_eq!(of(&mut device(&answers, true)).line(), "Fronius Symo 10.0-3-M SunSpec at holding:40000");
    }

    #[test]
    fn what_says_nothing_is_not_asked_on_and_on() {
        let mut silent = device(&[], false);
        assert_eq!(of(&mut silent), Identity::default());
        assert_eq!(silent.asked, 2);
        // Broken answers are no answers.
        for broken in [&b"\x2B\x0E\x01\x01\x00\x00\x03\x00\x16Comp"[..], b"\x2B", b""] {
            assert_eq!(of(&mut device(&[(vec![43, 14, 1, 0], broken.to_vec())], true)), Identity::default());
        }
    }
}
