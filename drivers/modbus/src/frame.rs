//! Modbus frames as bytes: requests, what their answers must look like, and finding an answer in
//! what a line said.
//!
//! Pure. The sources are the *Modbus Application Protocol Specification V1.1b3* and *Modbus over
//! Serial Line V1.02*. A request is a [`tokio_modbus::Request`]; an answer is believed only if unit,
//! function, byte count (for writes: the echo) and checksum are exactly those that the request
//! predicts. No input panics, and no input yields data of another length than was asked for.

use tokio_modbus::Request;

/// Longest RTU frame: unit, a PDU of 253 bytes, CRC.
pub const MAX_RTU: usize = 256;

/// The bit that marks an exception in the function code of an answer.
const EXCEPTION: u8 = 0x80;

/// The checksum of an RTU frame (CRC-16/MODBUS: polynomial 0xA001 reflected, start 0xFFFF). It goes
/// onto the wire low byte first.
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    })
}

/// Appends the checksum of what is there.
pub fn seal(frame: &mut Vec<u8>) {
    let crc = crc16(frame);
    frame.extend_from_slice(&crc.to_le_bytes());
}

/// Whether the last two bytes are the checksum of the others.
#[must_use]
pub fn sealed(frame: &[u8]) -> bool {
    match frame.split_last_chunk::<2>() {
        Some((body, crc)) => !body.is_empty() && u16::from_le_bytes(*crc) == crc16(body),
        None => false,
    }
}

/// Function code and data of a request; `None` for requests this driver never makes.
#[must_use]
pub fn encode(request: &Request<'_>) -> Option<Vec<u8>> {
    let mut pdu = vec![request.function_code().value()];
    let mut words = |words: &[u16]| words.iter().for_each(|w| pdu.extend_from_slice(&w.to_be_bytes()));
    match request {
        Request::ReadCoils(at, n)
        | Request::ReadDiscreteInputs(at, n)
        | Request::ReadHoldingRegisters(at, n)
        | Request::ReadInputRegisters(at, n) => words(&[*at, *n]),
        Request::WriteSingleCoil(at, on) => words(&[*at, if *on { 0xFF00 } else { 0 }]),
        Request::WriteSingleRegister(at, word) => words(&[*at, *word]),
        Request::MaskWriteRegister(at, and, or) => words(&[*at, *and, *or]),
        Request::WriteMultipleCoils(at, coils) => {
            words(&[*at, u16::try_from(coils.len()).ok()?]);
            pdu.push(u8::try_from(coils.len().div_ceil(8)).ok()?);
            pdu.extend(coils.chunks(8).map(|c| c.iter().rev().fold(0, |byte, on| byte << 1 | u8::from(*on))));
        }
        Request::WriteMultipleRegisters(at, values) => {
            words(&[*at, u16::try_from(values.len()).ok()?]);
            pdu.push(u8::try_from(values.len() * 2).ok()?);
            values.iter().for_each(|w| pdu.extend_from_slice(&w.to_be_bytes()));
        }
        _ => return None,
    }
    Some(pdu)
}

/// What the answer to one request looks like. Two requests with equal `Expect` have answers that
/// nobody can tell apart: RTU has no transaction number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    unit: u8,
    function: u8,
    body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
    /// A byte count with this value, and so many bytes.
    Data(u8),
    /// These bytes.
    Echo(Vec<u8>),
}

impl Expect {
    /// What answers `request` of `unit`; `None` for requests this driver never makes.
    #[must_use]
    pub fn answer_to(unit: u8, request: &Request<'_>) -> Option<Self> {
        let body = match request {
            Request::ReadCoils(_, n) | Request::ReadDiscreteInputs(_, n) => {
                Body::Data(u8::try_from(n.div_ceil(8)).ok()?)
            }
            Request::ReadHoldingRegisters(_, n) | Request::ReadInputRegisters(_, n) => {
                Body::Data(u8::try_from(n.checked_mul(2)?).ok()?)
            }
            Request::WriteSingleCoil(..)
            | Request::WriteSingleRegister(..)
            | Request::MaskWriteRegister(..) => Body::Echo(encode(request)?.split_off(1)),
            Request::WriteMultipleCoils(..) | Request::WriteMultipleRegisters(..) => {
                Body::Echo(encode(request)?.get(1..5)?.to_vec())
            }
            _ => return None,
        };
        Some(Self { unit, function: request.function_code().value(), body })
    }

    /// The unit that answers.
    #[must_use]
    pub const fn unit(&self) -> u8 {
        self.unit
    }

    /// Length of the answer's PDU in bytes, unless it is an exception.
    #[must_use]
    pub fn pdu_len(&self) -> usize {
        match &self.body {
            Body::Data(n) => 2 + usize::from(*n),
            Body::Echo(echo) => 1 + echo.len(),
        }
    }

    /// Length of the answer's RTU frame in bytes, unless it is an exception.
    #[must_use]
    pub fn rtu_len(&self) -> usize {
        self.pdu_len() + 3
    }

    /// Whether an exception answering `other` could be taken for one answering this.
    #[must_use]
    pub fn same_function(&self, other: &Self) -> bool {
        self.unit == other.unit && self.function == other.function
    }

    /// Understands a whole PDU as the answer.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(&self, pdu: &[u8]) -> Result<Answer, String> {
        match pdu {
            [f, code] if *f == self.function | EXCEPTION => Ok(Answer::Exception(*code)),
            [f, body @ ..] if *f == self.function => match &self.body {
                Body::Data(n) => match body {
                    [count, data @ ..] if count == n && data.len() == usize::from(*n) => {
                        Ok(Answer::Data(data.to_vec()))
                    }
                    [count, data @ ..] => {
                        Err(format!("{} bytes announced as {count}, expected {n}", data.len()))
                    }
                    [] => Err("an answer without data".to_owned()),
                },
                Body::Echo(echo) if body == echo => Ok(Answer::Data(Vec::new())),
                Body::Echo(_) => Err("the answer confirms another write".to_owned()),
            },
            [f, ..] => Err(format!("function {f:#04x} answered, expected {:#04x}", self.function)),
            [] => Err("an empty answer".to_owned()),
        }
    }
}

/// A believed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The data of a read, exactly as many bytes as were asked for; nothing for a write.
    Data(Vec<u8>),
    /// The device's refusal.
    Exception(u8),
}

/// What a stretch of received bytes holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scan {
    /// The answer, and which of the received bytes is its first.
    Found(Answer, usize),
    /// No answer yet; more may come.
    More,
    /// A frame that looked like the answer has a wrong checksum.
    Crc {
        /// As received.
        found: u16,
        /// As computed.
        expected: u16,
    },
    /// Whole frames, but of other units or answering other questions.
    Foreign(String),
}

/// Looks for the answer in everything received since the request.
///
/// Whole foreign frames are stepped over, so that nothing inside them is taken for an answer; other
/// bytes (a glitch while the line turns round) are stepped over one by one. While `quiet` is false
/// a beginning that may still become a frame is waited for; with `quiet`, nothing more will come.
#[must_use]
pub fn scan(received: &[u8], expect: &Expect, quiet: bool) -> Scan {
    let mut worst = Scan::More;
    let mut at = 0;
    while at < received.len() {
        let rest = &received[at..];
        // The answer, or its beginning.
        let mine = rest[0] == expect.unit;
        let wanted = match rest.get(1) {
            _ if !mine => None,
            None => Some(2),
            Some(f) if *f == expect.function => Some(expect.rtu_len()),
            Some(f) if *f == expect.function | EXCEPTION => Some(5),
            Some(_) => None,
        };
        if let Some(len) = wanted {
            match rest.get(..len) {
                Some(frame) if sealed(frame) => {
                    if let Ok(answer) = expect.parse(&frame[1..len - 2]) {
                        return Scan::Found(answer, at);
                    }
                }
                Some(frame) if len > 2 && headed(frame, expect) => {
                    if let Some((body, crc)) = frame.split_last_chunk::<2>() {
                        worst = Scan::Crc { found: u16::from_le_bytes(*crc), expected: crc16(body) };
                    }
                }
                None if headed(rest, expect) => return worst,
                _ => {}
            }
        }
        match foreign(rest) {
            Some(len) if rest.len() >= len => {
                worst = Scan::Foreign(format!(
                    "a frame of unit {}, function {:#04x}, that answers another request",
                    rest[0], rest[1]
                ));
                at += len;
            }
            Some(_) if !quiet => return worst,
            _ => at += 1,
        }
    }
    worst
}

/// Whether the bytes that are there begin as the answer must.
fn headed(frame: &[u8], expect: &Expect) -> bool {
    let is = |at: usize, byte: u8| frame.get(at).is_none_or(|b| *b == byte);
    let function = frame.get(1).is_none_or(|f| *f == expect.function || *f == expect.function | EXCEPTION);
    let refused = frame.get(1).is_some_and(|f| f & EXCEPTION != 0);
    is(0, expect.unit)
        && function
        && (refused
            || match &expect.body {
                Body::Data(n) => is(2, *n),
                Body::Echo(echo) => (2..).zip(echo).all(|(at, byte)| is(at, *byte)),
            })
}

/// The length of the frame that begins here: `Some(n)` with `n` bytes there if they are a sealed
/// frame of a known shape, `Some(n)` with fewer if they may become one, `None` otherwise.
fn foreign(rest: &[u8]) -> Option<usize> {
    let function = *rest.get(1)?;
    let shapes: [Option<usize>; 2] = match function {
        // An answer with a byte count, or somebody's request.
        1..=4 => [rest.get(2).map(|n| 5 + usize::from(*n)), Some(8)],
        5 | 6 | 15 | 16 => [Some(8), None],
        22 => [Some(10), None],
        f if f & EXCEPTION != 0 => [Some(5), None],
        _ => [None, None],
    };
    let shapes = || shapes.iter().flatten().copied().filter(|n| *n <= MAX_RTU);
    shapes()
        .find(|n| rest.get(..*n).is_some_and(sealed))
        // Not yet a frame: wait only for the longest shape that is still possible.
        .or_else(|| shapes().filter(|n| *n > rest.len()).max())
}

/// The bits of a coil answer, `count` of them; `None` if there are fewer.
#[must_use]
pub fn coils(data: &[u8], count: u16) -> Option<Vec<bool>> {
    let bits = (0..usize::from(count)).map(|i| Some(data.get(i / 8)? >> (i % 8) & 1 == 1));
    bits.collect()
}

/// The registers of an answer; an odd byte at the end is left out.
#[must_use]
pub fn registers(data: &[u8]) -> Vec<u16> {
    data.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use driver_api::testing::hex;
    use proptest::prelude::*;

    use super::*;

    fn rtu(text: &str) -> Vec<u8> {
        let mut frame = hex(text);
        seal(&mut frame);
        frame
    }

    #[test]
    fn the_checksum_of_the_specification() {
        // Modbus over Serial Line V1.02, appendix B: 02 07 gives CRC 0x1241, sent 41 12.
        assert_eq!(crc16(&[0x02, 0x07]), 0x1241);
        assert_eq!(rtu("02 07"), hex("02 07 41 12"));
        assert!(sealed(&hex("02 07 41 12")) && !sealed(&hex("02 07 41 13")) && !sealed(&[0xFF, 0xFF]));
    }

    #[test]
    fn every_request_as_in_the_specification() {
        for (request, pdu) in [
            (Request::ReadCoils(0x13, 0x13), "01 00 13 00 13"),
            (Request::ReadDiscreteInputs(0xC4, 0x16), "02 00 C4 00 16"),
            (Request::ReadHoldingRegisters(0x6B, 3), "03 00 6B 00 03"),
            (Request::ReadInputRegisters(8, 1), "04 00 08 00 01"),
            (Request::WriteSingleCoil(0xAC, true), "05 00 AC FF 00"),
            (Request::WriteSingleRegister(1, 3), "06 00 01 00 03"),
            (Request::WriteMultipleRegisters(1, Cow::Owned(vec![10, 258])), "10 00 01 00 02 04 00 0A 01 02"),
            (Request::MaskWriteRegister(4, 0xF2, 0x25), "16 00 04 00 F2 00 25"),
        ] {
            assert_eq!(encode(&request), Some(hex(pdu)), "{request:?}");
        }
        let coils = [true, false, true, true, false, false, true, true, true, false];
        let request = Request::WriteMultipleCoils(0x13, Cow::Borrowed(&coils));
        assert_eq!(encode(&request), Some(hex("0F 00 13 00 0A 02 CD 01")));
        assert_eq!(super::coils(&[0xCD, 0x01], 10), Some(coils.to_vec()));
        assert_eq!(super::coils(&[0xCD], 10), None);
    }

    fn expect() -> Expect {
        Expect::answer_to(1, &Request::ReadHoldingRegisters(0, 2)).expect("a read")
    }

    #[test]
    fn the_answer_is_found_behind_glitches_and_foreign_frames() {
        let answer = rtu("01 03 04 00 01 00 02");
        let found = |at| Scan::Found(Answer::Data(hex("00 01 00 02")), at);
        for before in
            [vec![], vec![0], vec![0xFF, 0x00], rtu("02 03 02 00 07"), rtu("01 03 02 00 07"), vec![1]]
        {
            let all = [before.clone(), answer.clone()].concat();
            assert_eq!(scan(&all, &expect(), true), found(before.len()), "{before:02X?}");
        }
        assert_eq!(scan(&answer, &expect(), false), found(0));
        assert_eq!(scan(&rtu("01 83 02"), &expect(), false), Scan::Found(Answer::Exception(2), 0));
    }

    #[test]
    fn nothing_inside_a_foreign_frame_is_an_answer() {
        let inner = rtu("01 03 04 00 01 00 02");
        let mut outer = vec![2, 3, inner.len() as u8];
        outer.extend_from_slice(&inner);
        seal(&mut outer);
        for end in 0..outer.len() {
            assert_eq!(scan(&outer[..end], &expect(), false), Scan::More, "{end} bytes");
        }
        assert!(matches!(scan(&outer, &expect(), true), Scan::Foreign(_)));
    }

    #[test]
    fn wrong_frames_are_named() {
        let mut torn = rtu("01 03 04 00 01 00 02");
        assert_eq!(scan(&torn[..6], &expect(), true), Scan::More);
        torn[4] ^= 0x10;
        assert!(matches!(scan(&torn, &expect(), true), Scan::Crc { .. }));
        for foreign in ["02 03 04 00 01 00 02", "01 04 04 00 01 00 02", "01 03 02 00 01", "01 84 02"] {
            assert!(matches!(scan(&rtu(foreign), &expect(), true), Scan::Foreign(_)), "{foreign}");
        }
    }

    #[test]
    fn a_write_is_confirmed_only_by_its_own_echo() {
        let expect = Expect::answer_to(1, &Request::WriteSingleRegister(5, 7)).expect("a write");
        assert_eq!(scan(&rtu("01 06 00 05 00 07"), &expect, true), Scan::Found(Answer::Data(vec![]), 0));
        assert!(matches!(scan(&rtu("01 06 00 05 00 08"), &expect, true), Scan::Foreign(_)));
    }

    fn requests() -> impl Strategy<Value = Request<'static>> {
        prop_oneof![
            (any::<u16>(), 1u16..=2000).prop_map(|(at, n)| Request::ReadCoils(at, n)),
            (any::<u16>(), 1u16..=125).prop_map(|(at, n)| Request::ReadInputRegisters(at, n)),
            (any::<u16>(), 1u16..=4).prop_map(|(at, n)| Request::ReadHoldingRegisters(at, n)),
            (any::<u16>(), any::<u16>()).prop_map(|(at, v)| Request::WriteSingleRegister(at, v)),
            (any::<u16>(), prop::collection::vec(any::<u16>(), 1..10))
                .prop_map(|(at, v)| Request::WriteMultipleRegisters(at, Cow::Owned(v))),
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_give_data_of_another_length(
            request in requests(),
            unit in 1u8..4,
            bytes in prop::collection::vec(prop_oneof![0u8..8, any::<u8>()], 0..260),
            quiet: bool,
        ) {
            let expect = Expect::answer_to(unit, &request).expect("a request of ours");
            for answer in [scan(&bytes, &expect, quiet), expect.parse(&bytes).map_or(Scan::More, |a| Scan::Found(a, 0))] {
                if let Scan::Found(Answer::Data(data), _) = answer {
                    let wanted = match request {
                        Request::ReadCoils(_, n) => usize::from(n).div_ceil(8),
                        Request::ReadInputRegisters(_, n) | Request::ReadHoldingRegisters(_, n) => {
                            usize::from(n) * 2
                        }
                        _ => 0,
                    };
                    prop_assert_eq!(data.len(), wanted);
                }
            }
        }

        #[test]
        fn a_flipped_bit_never_becomes_a_value(
            registers in prop::collection::vec(any::<u16>(), 1..=125),
            flip in any::<prop::sample::Index>(),
        ) {
            let count = u16::try_from(registers.len()).expect("at most 125");
            let expect = Expect::answer_to(9, &Request::ReadInputRegisters(0, count)).expect("a read");
            let mut frame = vec![9, 4, (count * 2) as u8];
            registers.iter().for_each(|r| frame.extend_from_slice(&r.to_be_bytes()));
            seal(&mut frame);
            prop_assert!(matches!(scan(&frame, &expect, false), Scan::Found(..)));
            let bit = flip.index(frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!matches!(scan(&frame, &expect, true), Scan::Found(..)));
        }

        #[test]
        fn an_answer_in_pieces_is_waited_for(
            registers in prop::collection::vec(any::<u16>(), 1..=125),
        ) {
            let count = u16::try_from(registers.len()).expect("at most 125");
            let expect = Expect::answer_to(9, &Request::ReadInputRegisters(0, count)).expect("a read");
            let mut frame = vec![9, 4, (count * 2) as u8];
            registers.iter().for_each(|r| frame.extend_from_slice(&r.to_be_bytes()));
            seal(&mut frame);
            for end in 0..frame.len() {
                prop_assert_eq!(scan(&frame[..end], &expect, false), Scan::More);
            }
        }
    }
}
