//! Modbus RTU frames as a slave sees them: where a request ends, what it asks, and the answer's
//! bytes. Pure; no byte from outside can make it panic.

use tokio_modbus::{ExceptionCode, Request, Response};

use crate::bounds;

/// What the bytes received so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    /// The beginning of a request.
    More,
    /// A request of this many bytes, checksum included and not yet checked.
    Frame(usize),
    /// A function whose length is not known: only silence ends it.
    Unknown,
}

/// Finds the end of the request that begins at the first byte, by function code and length.
pub(crate) fn scan(bytes: &[u8]) -> Scan {
    let Some(function) = bytes.get(1) else { return Scan::More };
    // Unit, function, what comes before the byte count, the byte count, the data, the checksum.
    let counted = |before: usize| bytes.get(before).map(|n| before + 1 + usize::from(*n) + 2);
    let length = match function {
        1..=6 => Some(8),
        15 | 16 => counted(6),
        22 => Some(10),
        23 => counted(10),
        _ => return Scan::Unknown,
    };
    match length {
        Some(length) if length > bounds::FRAME => Scan::Unknown,
        Some(length) if length <= bytes.len() => Scan::Frame(length),
        _ => Scan::More,
    }
}

/// The checksum of Modbus RTU (polynomial 0xA001, initially 0xFFFF). It is sent low byte first.
pub(crate) fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8)
            .fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xA001 } else { crc >> 1 })
    })
}

/// Unit and PDU of a frame, if its checksum is right.
pub(crate) fn open(frame: &[u8]) -> Option<(u8, &[u8])> {
    let (body, sum) = frame.split_last_chunk::<2>()?;
    let (unit, pdu) = body.split_first()?;
    (!pdu.is_empty() && crc(body) == u16::from_le_bytes(*sum)).then_some((*unit, pdu))
}

/// The request in a PDU.
pub(crate) fn parse(pdu: &[u8]) -> Result<Request<'static>, ExceptionCode> {
    let bad = ExceptionCode::IllegalDataValue;
    let (function, data) = pdu.split_first().ok_or(bad)?;
    let word = |n: usize| data.get(2 * n..2 * n + 2).map(|w| u16::from_be_bytes([w[0], w[1]])).ok_or(bad);
    // The data behind a count of quantities and a count of bytes.
    let counted = |n: usize, bytes: usize| {
        let rest = data.get(2 * n + 1..).ok_or(bad)?;
        let right = data.get(2 * n).is_some_and(|count| usize::from(*count) == bytes) && rest.len() == bytes;
        if right { Ok(rest) } else { Err(bad) }
    };
    let words = |bytes: &[u8]| bytes.chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]])).collect();
    Ok(match function {
        1 => Request::ReadCoils(word(0)?, word(1)?),
        2 => Request::ReadDiscreteInputs(word(0)?, word(1)?),
        3 => Request::ReadHoldingRegisters(word(0)?, word(1)?),
        4 => Request::ReadInputRegisters(word(0)?, word(1)?),
        5 => match word(1)? {
            0xFF00 => Request::WriteSingleCoil(word(0)?, true),
            0x0000 => Request::WriteSingleCoil(word(0)?, false),
            _ => return Err(bad),
        },
        6 => Request::WriteSingleRegister(word(0)?, word(1)?),
        15 => {
            let count = usize::from(word(1)?);
            let bytes = counted(2, count.div_ceil(8))?;
            let coils = (0..count).map(|n| bytes[n / 8] >> (n % 8) & 1 == 1).collect();
            Request::WriteMultipleCoils(word(0)?, coils)
        }
        16 => Request::WriteMultipleRegisters(word(0)?, words(counted(2, usize::from(word(1)?) * 2)?)),
        22 => Request::MaskWriteRegister(word(0)?, word(1)?, word(2)?),
        23 => {
            let bytes = counted(4, usize::from(word(3)?) * 2)?;
            Request::ReadWriteMultipleRegisters(word(0)?, word(1)?, word(2)?, words(bytes))
        }
        _ => return Err(ExceptionCode::IllegalFunction),
    })
}

/// The frame that answers a request with this function code.
pub(crate) fn answer(unit: u8, function: u8, response: &Result<Response, ExceptionCode>) -> Vec<u8> {
    let mut frame = vec![unit, function];
    let two = |a: u16, b: u16| [a.to_be_bytes(), b.to_be_bytes()].concat();
    match response {
        Ok(Response::ReadCoils(bits) | Response::ReadDiscreteInputs(bits)) => {
            let bytes = bits
                .chunks(8)
                .map(|eight| eight.iter().rev().fold(0_u8, |byte, bit| byte << 1 | u8::from(*bit)));
            // 2000 bits at most, checked before: 250 bytes.
            frame.push(bits.len().div_ceil(8) as u8);
            frame.extend(bytes);
        }
        Ok(
            Response::ReadInputRegisters(words)
            | Response::ReadHoldingRegisters(words)
            | Response::ReadWriteMultipleRegisters(words),
        ) => {
            // 125 registers at most, checked before: 250 bytes.
            frame.push((words.len() * 2) as u8);
            frame.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        }
        Ok(Response::WriteSingleCoil(at, on)) => frame.extend(two(*at, if *on { 0xFF00 } else { 0 })),
        Ok(
            Response::WriteSingleRegister(at, n)
            | Response::WriteMultipleCoils(at, n)
            | Response::WriteMultipleRegisters(at, n),
        ) => frame.extend(two(*at, *n)),
        Ok(Response::MaskWriteRegister(at, and, or)) => {
            frame.extend(two(*at, *and));
            frame.extend(or.to_be_bytes());
        }
        // An image gives no other response.
        Ok(_) => refuse(&mut frame, ExceptionCode::IllegalFunction),
        Err(code) => refuse(&mut frame, *code),
    }
    seal(frame)
}

fn refuse(frame: &mut Vec<u8>, code: ExceptionCode) {
    frame[1] |= 0x80;
    frame.push(code.into());
}

/// Adds the checksum.
pub(crate) fn seal(mut frame: Vec<u8>) -> Vec<u8> {
    let sum = crc(&frame);
    frame.extend(sum.to_le_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use driver_api::testing::hex;
    use proptest::prelude::*;

    use super::*;

    /// The examples of the Modbus Application Protocol Specification V1.1b3, sections 6.1 to 6.17,
    /// with unit 1 and checksum around them.
    #[test]
    fn the_specifications_examples_are_understood() {
        for (pdu, request) in [
            ("01 00 13 00 13", Request::ReadCoils(0x13, 0x13)),
            ("02 00 C4 00 16", Request::ReadDiscreteInputs(0xC4, 0x16)),
            ("03 00 6B 00 03", Request::ReadHoldingRegisters(0x6B, 3)),
            ("04 00 08 00 01", Request::ReadInputRegisters(8, 1)),
            ("05 00 AC FF 00", Request::WriteSingleCoil(0xAC, true)),
            ("06 00 01 00 03", Request::WriteSingleRegister(1, 3)),
            (
                "0F 00 13 00 0A 02 CD 01",
                Request::WriteMultipleCoils(
                    0x13,
                    vec![true, false, true, true, false, false, true, true, true, false].into(),
                ),
            ),
            ("10 00 01 00 02 04 00 0A 01 02", Request::WriteMultipleRegisters(1, vec![10, 0x0102].into())),
            ("16 00 04 00 F2 00 25", Request::MaskWriteRegister(4, 0xF2, 0x25)),
            (
                "17 00 03 00 06 00 0E 00 03 06 00 FF 00 FF 00 FF",
                Request::ReadWriteMultipleRegisters(3, 6, 14, vec![0xFF; 3].into()),
            ),
        ] {
            let frame = seal([vec![1], hex(pdu)].concat());
            assert_eq!(scan(&frame), Scan::Frame(frame.len()), "{pdu}");
            for end in 0..frame.len() {
                assert_eq!(scan(&frame[..end]), Scan::More, "{pdu} up to {end}");
            }
            let (unit, pdu) = open(&frame).expect("the checksum is right");
            assert_eq!((unit, parse(pdu)), (1, Ok(request)));
        }
    }

    #[test]
    fn answers_are_the_specifications() {
        let coils: Vec<bool> = [0xCD_u8, 0x6B, 0x05]
            .iter()
            .flat_map(|byte| (0..8).map(move |n| byte >> n & 1 == 1))
            .take(19)
            .collect();
        for (function, response, pdu) in [
            (1, Ok(Response::ReadCoils(coils)), "01 03 CD 6B 05"),
            (3, Ok(Response::ReadHoldingRegisters(vec![0x022B, 0, 0x64])), "03 06 02 2B 00 00 00 64"),
            (5, Ok(Response::WriteSingleCoil(0xAC, true)), "05 00 AC FF 00"),
            (15, Ok(Response::WriteMultipleCoils(0x13, 10)), "0F 00 13 00 0A"),
            (22, Ok(Response::MaskWriteRegister(4, 0xF2, 0x25)), "16 00 04 00 F2 00 25"),
            (4, Err(ExceptionCode::IllegalDataAddress), "84 02"),
        ] {
            assert_eq!(answer(1, function, &response), seal([vec![1], hex(pdu)].concat()));
        }
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(seal(hex("01 03 00 00 00 0A")), hex("01 03 00 00 00 0A C5 CD"));
        assert_eq!(open(&hex("01 03 00 00 00 0A C5 CC")), None);
    }

    #[test]
    fn counts_that_disagree_are_refused() {
        for pdu in ["10 00 01 00 02 02 00 0A", "0F 00 13 00 0A 01 CD", "05 00 AC 12 34", "03 00"] {
            assert_eq!(parse(&hex(pdu)), Err(ExceptionCode::IllegalDataValue), "{pdu}");
        }
        assert_eq!(parse(&[0x2B, 0x0E]), Err(ExceptionCode::IllegalFunction));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Scan::Frame(length) = scan(&bytes) {
                prop_assert!(length <= bytes.len() && length <= bounds::FRAME);
            }
            let _ = (open(&bytes), parse(&bytes));
        }
    }
}
