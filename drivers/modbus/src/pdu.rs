//! Modbus requests, and what their answers must look like.
//!
//! Pure. The source is the *Modbus Application Protocol Specification V1.1b3*. A request of our own is a
//! [`tokio_modbus::Request`]; one of somebody else is its PDU, function code and data. The answer that a
//! request predicts is an [`Expect`].

use tokio_modbus::Request;

use crate::function::{EXCEPTION, Function, Shape};

/// Longest PDU: function code and 252 bytes of data.
pub const MAX_PDU: usize = 253;

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
        Request::ReadWriteMultipleRegisters(at, n, write_at, values) => {
            words(&[*at, *n, *write_at, u16::try_from(values.len()).ok()?]);
            pdu.push(u8::try_from(values.len() * 2).ok()?);
            values.iter().for_each(|w| pdu.extend_from_slice(&w.to_be_bytes()));
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
    pub(crate) unit: u8,
    pub(crate) function: u8,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// A byte count with this value, and so many bytes.
    Data(u8),
    /// These bytes.
    Echo(Vec<u8>),
    /// Whatever comes until the line is quiet: functions whose answers say their length in ways of their own.
    Open,
}

impl Expect {
    /// What answers the request with this PDU; `None` for what is no request: empty, of a reserved function
    /// code, or with counts that no answer can hold.
    #[must_use]
    pub fn answer_to(unit: u8, pdu: &[u8]) -> Option<Self> {
        let (function, data) = pdu.split_first()?;
        let word = |at: usize| data.get(at..at + 2).map(|w| u16::from_be_bytes([w[0], w[1]]));
        let counted = |bytes: Option<u16>| u8::try_from(bytes.filter(|n| *n <= 250)?).ok().map(Body::Data);
        let body = match Function::of(*function) {
            // 0 is no function, and the upper half marks exceptions (Application Protocol V1.1b3, 4.1).
            _ if matches!(function, 0 | EXCEPTION..) => return None,
            Some(Function { answer: Shape::Counted(_), area: Some(area), .. }) if area.bits() => {
                counted(word(2).map(|n| n.div_ceil(8)))?
            }
            Some(Function { answer: Shape::Counted(_), .. }) => counted(word(2)?.checked_mul(2))?,
            // All of them confirm a write by its beginning.
            Some(Function { answer: Shape::Fixed(length), .. }) => {
                Body::Echo(data.get(..length - 1)?.to_vec())
            }
            Some(Function { answer: Shape::Open, .. }) | None => Body::Open,
        };
        (pdu.len() <= MAX_PDU).then_some(Self { unit, function: *function, body })
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
            // The shortest there is.
            Body::Open => 1,
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
                Body::Open => Ok(Answer::Data(body.to_vec())),
            },
            [f, ..] => Err(format!("function {f:#04x} answered, expected {:#04x}", self.function)),
            [] => Err("an empty answer".to_owned()),
        }
    }
}

impl Expect {
    /// The PDU of a believed answer, as it came.
    #[must_use]
    pub fn pdu_of(&self, answer: &Answer) -> Vec<u8> {
        match (answer, &self.body) {
            (Answer::Exception(code), _) => vec![self.function | EXCEPTION, *code],
            (Answer::Data(data), Body::Data(n)) => [&[self.function, *n], data.as_slice()].concat(),
            (Answer::Data(_), Body::Echo(echo)) => [&[self.function], echo.as_slice()].concat(),
            (Answer::Data(data), Body::Open) => [&[self.function], data.as_slice()].concat(),
        }
    }
}

/// A believed answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The data of a read, exactly as many bytes as were asked for; nothing for a write; for other
    /// functions all that follows the function code.
    Data(Vec<u8>),
    /// The device's refusal.
    Exception(u8),
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
        let some = [true, false, true, true, false, false, true, true, true, false];
        let request = Request::WriteMultipleCoils(0x13, Cow::Borrowed(&some));
        assert_eq!(encode(&request), Some(hex("0F 00 13 00 0A 02 CD 01")));
        assert_eq!(coils(&[0xCD, 0x01], 10), Some(some.to_vec()));
        assert_eq!(coils(&[0xCD], 10), None);
    }

    #[test]
    fn every_answer_as_in_the_specification() {
        // Requests and answers of sections 6.1 to 6.21; the last two have lengths of their own.
        for (request, answer) in [
            ("01 00 13 00 13", "01 03 CD 6B 05"),
            ("03 00 6B 00 03", "03 06 02 2B 00 00 00 64"),
            ("05 00 AC FF 00", "05 00 AC FF 00"),
            ("0F 00 13 00 0A 02 CD 01", "0F 00 13 00 0A"),
            ("10 00 01 00 02 04 00 0A 01 02", "10 00 01 00 02"),
            ("16 00 04 00 F2 00 25", "16 00 04 00 F2 00 25"),
            ("17 00 03 00 06 00 0E 00 03 06 00 FF 00 FF 00 FF", "17 0C 00 FE 0A CD 00 01 00 03 00 0D 00 FF"),
            ("11", "11 05 01 FF 46 47 31"),
            ("2B 0E 01 00", "2B 0E 01 01 00 00 01 00 02 46 47"),
        ] {
            let expect = Expect::answer_to(1, &hex(request)).expect(request);
            let parsed = expect.parse(&hex(answer)).expect(answer);
            assert_eq!(expect.pdu_of(&parsed), hex(answer));
            let refused = [hex(request)[0] | EXCEPTION, 2];
            assert_eq!(expect.pdu_of(&expect.parse(&refused).expect("a refusal")), refused);
            assert!(expect.parse(&hex("63 00")).is_err(), "another function");
        }
        for no_request in ["", "00", "80", "81 02", "03", "03 00 00 00 7E", "03 00 00 FF FF", "06 00 01"] {
            assert_eq!(Expect::answer_to(1, &hex(no_request)), None, "{no_request}");
        }
    }

    proptest! {
        #[test]
        fn no_request_of_others_breaks_it(pdu in prop::collection::vec(any::<u8>(), 0..300), answer in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(expect) = Expect::answer_to(1, &pdu) {
                prop_assert!(pdu.len() <= MAX_PDU && expect.rtu_len() <= crate::frame::MAX_RTU);
                if let Ok(parsed) = expect.parse(&answer) {
                    prop_assert_eq!(expect.pdu_of(&parsed), answer);
                }
            }
        }
    }
}
