//! RTU frames: the checksum, and finding an answer in what a line said.
//!
//! Pure. The source is *Modbus over Serial Line V1.02*. An answer is believed only if unit, function, byte
//! count (for writes: the echo) and checksum are exactly those that the request predicts ([`crate::pdu`]).
//! No input panics, and no input yields data of another length than was asked for.

use crate::function::{EXCEPTION, Function, Shape};
use crate::pdu::{Answer, Body, Expect, MAX_PDU};

/// Longest RTU frame: unit, PDU, CRC.
pub const MAX_RTU: usize = MAX_PDU + 3;

/// The checksum of an RTU frame (CRC-16/MODBUS: polynomial 0xA001 reflected, start 0xFFFF). It goes
/// onto the wire low byte first.
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        let [low, high] = crc.to_le_bytes();
        u16::from(high) ^ CRC[usize::from(low ^ *byte)]
    })
}

/// What the eight bits of a byte do to the checksum. (A search for an answer computes one at every place
/// where a frame could end.)
const CRC: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = byte as u16;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

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
            // Its end is the silence: it must be all that is there.
            Some(f) if *f == expect.function && expect.body == Body::Open => {
                if !quiet {
                    return worst;
                }
                Some(rest.len())
            }
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
                Body::Open => true,
            })
}

/// The length of the frame that begins here: `Some(n)` with `n` bytes there if they are a sealed
/// frame of a known shape, `Some(n)` with fewer if they may become one, `None` otherwise.
fn foreign(rest: &[u8]) -> Option<usize> {
    let pdu = rest.get(1..)?;
    let code = *pdu.first()?;
    // An answer, or somebody's request.
    let (answer, request) = match Function::of(code) {
        _ if code & EXCEPTION != 0 => (Some(2), None),
        None | Some(Function { answer: Shape::Open, .. }) => (None, None),
        // The request of a write of several begins like its answer and is longer: to wait for it would hold up the
        // answer.
        Some(Function { answer: answer @ Shape::Fixed(_), .. }) => (answer.length(pdu), None),
        Some(known) => (known.answer.length(pdu), known.request.length(pdu)),
    };
    let shapes = || [answer, request].into_iter().flatten().map(|pdu| pdu + 3).filter(|n| *n <= MAX_RTU);
    shapes()
        .find(|n| rest.get(..*n).is_some_and(sealed))
        // Not yet a frame: wait only for the longest shape that is still possible.
        .or_else(|| shapes().filter(|n| *n > rest.len()).max())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use driver_api::testing::hex;
    use proptest::prelude::*;
    use tokio_modbus::Request;

    use super::*;
    use crate::pdu::encode;

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

    fn looks(unit: u8, request: &Request<'_>) -> Expect {
        Expect::answer_to(unit, &encode(request).expect("ours")).expect("a request")
    }

    fn expect() -> Expect {
        looks(1, &Request::ReadHoldingRegisters(0, 2))
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
        let expect = looks(1, &Request::WriteSingleRegister(5, 7));
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
            let expect = looks(unit, &request);
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
            let expect = looks(9, &Request::ReadInputRegisters(0, count));
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
            let expect = looks(9, &Request::ReadInputRegisters(0, count));
            let mut frame = vec![9, 4, (count * 2) as u8];
            registers.iter().for_each(|r| frame.extend_from_slice(&r.to_be_bytes()));
            seal(&mut frame);
            for end in 0..frame.len() {
                prop_assert_eq!(scan(&frame[..end], &expect, false), Scan::More);
            }
        }
    }
}
