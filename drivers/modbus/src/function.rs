//! The functions of Modbus: what each reads or writes, and how long its requests and answers are.
//!
//! One table, from the *Modbus Application Protocol Specification V1.1b3*, section 6. Whoever has to tell where a
//! frame ends, or says in words what it does, asks here; what may be asked of whom is decided elsewhere.

use crate::config::Area;

/// The bit that marks an exception in the function code of an answer.
pub const EXCEPTION: u8 = 0x80;

/// How long a PDU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// So many bytes, function code included.
    Fixed(usize),
    /// The byte at this place says how many follow it.
    Counted(usize),
    /// It says its length in a way of its own.
    Open,
}

/// One function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// Its code.
    pub code: u8,
    /// The table that it is about; `None` for what asks something else.
    pub area: Option<Area>,
    /// Its requests.
    pub request: Shape,
    /// Its answers, unless they are exceptions.
    pub answer: Shape,
}

const fn row(code: u8, area: Option<Area>, request: Shape, answer: Shape) -> Function {
    Function { code, area, request, answer }
}

use Shape::{Counted, Fixed, Open};

const TABLE: &[Function] = &[
    row(1, Some(Area::Coil), Fixed(5), Counted(1)),
    row(2, Some(Area::Discrete), Fixed(5), Counted(1)),
    row(3, Some(Area::Holding), Fixed(5), Counted(1)),
    row(4, Some(Area::Input), Fixed(5), Counted(1)),
    row(5, Some(Area::Coil), Fixed(5), Fixed(5)),
    row(6, Some(Area::Holding), Fixed(5), Fixed(5)),
    // Read exception status, diagnostics, get event counter, get event log.
    row(7, None, Fixed(1), Open),
    row(8, None, Fixed(5), Open),
    row(11, None, Fixed(1), Open),
    row(12, None, Fixed(1), Open),
    row(15, Some(Area::Coil), Counted(5), Fixed(5)),
    row(16, Some(Area::Holding), Counted(5), Fixed(5)),
    // Report server id, read and write file record.
    row(17, None, Fixed(1), Open),
    row(20, None, Counted(1), Open),
    row(21, None, Counted(1), Open),
    row(22, Some(Area::Holding), Fixed(7), Fixed(7)),
    row(23, Some(Area::Holding), Counted(9), Counted(1)),
    // Read FIFO queue, read device identification.
    row(24, None, Fixed(3), Open),
    row(43, None, Fixed(4), Open),
];

impl Function {
    /// The function with this code; `None` for one that the specification does not have.
    #[must_use]
    pub fn of(code: u8) -> Option<Self> {
        TABLE.iter().find(|known| known.code == code).copied()
    }

    /// Whether this code is that of a function which reads a table, and does nothing else.
    #[must_use]
    pub fn only_reads(code: u8) -> bool {
        Self::of(code).is_some_and(|f| (f.request, f.answer) == (Fixed(5), Counted(1)))
    }
}

impl Shape {
    /// The length of a PDU that begins with these bytes; `None` while the byte that says it is not there, or
    /// where no byte does.
    #[must_use]
    pub fn length(self, pdu: &[u8]) -> Option<usize> {
        match self {
            Fixed(length) => Some(length),
            Counted(at) => pdu.get(at).map(|count| at + 1 + usize::from(*count)),
            Open => None,
        }
    }
}

/// The code with which an answer refuses; `None` if it does not.
#[must_use]
pub fn refusal(answer: &[u8]) -> Option<u8> {
    match answer {
        [function, code, ..] if function & EXCEPTION != 0 => Some(*code),
        _ => None,
    }
}

/// The PDU that refuses this request.
#[must_use]
pub fn refuse(request: &[u8], code: u8) -> Vec<u8> {
    vec![request.first().copied().unwrap_or(0) | EXCEPTION, code]
}

#[cfg(test)]
mod tests {
    use driver_api::testing::hex;

    use super::*;

    #[test]
    fn the_lengths_are_those_of_the_specifications_examples() {
        // Requests and answers of sections 6.1 to 6.21.
        for (request, answer) in [
            ("01 00 13 00 13", "01 03 CD 6B 05"),
            ("02 00 C4 00 16", "02 03 AC DB 35"),
            ("03 00 6B 00 03", "03 06 02 2B 00 00 00 64"),
            ("04 00 08 00 01", "04 02 00 0A"),
            ("05 00 AC FF 00", "05 00 AC FF 00"),
            ("06 00 01 00 03", "06 00 01 00 03"),
            ("0F 00 13 00 0A 02 CD 01", "0F 00 13 00 0A"),
            ("10 00 01 00 02 04 00 0A 01 02", "10 00 01 00 02"),
            ("16 00 04 00 F2 00 25", "16 00 04 00 F2 00 25"),
            ("17 00 03 00 06 00 0E 00 03 06 00 FF 00 FF 00 FF", "17 0C 00 FE 0A CD 00 01 00 03 00 0D 00 FF"),
        ] {
            let (request, answer) = (hex(request), hex(answer));
            let function = Function::of(request[0]).expect("in the table");
            assert_eq!(function.request.length(&request), Some(request.len()), "{request:02X?}");
            assert_eq!(function.answer.length(&answer), Some(answer.len()), "{answer:02X?}");
        }
        for request in [
            "07",
            "08 00 00 A5 37",
            "0B",
            "0C",
            "11",
            "14 07 06 00 04 00 01 00 02",
            "18 04 DE",
            "2B 0E 01 00",
        ] {
            let request = hex(request);
            let function = Function::of(request[0]).expect("in the table");
            assert_eq!((function.request.length(&request), function.answer), (Some(request.len()), Open));
        }
    }

    #[test]
    fn reads_are_told_from_all_others() {
        for area in [Area::Coil, Area::Discrete, Area::Holding, Area::Input] {
            assert!(Function::only_reads(area.read_function()));
            assert_eq!(Function::of(area.read_function()).and_then(|f| f.area), Some(area));
        }
        assert!((0..=255).filter(|code| Function::only_reads(*code)).eq(1..=4));
        assert_eq!(Function::of(EXCEPTION | 3), None);
    }

    #[test]
    fn a_refusal_is_understood_as_it_is_made() {
        assert_eq!(refuse(&hex("03 00 00 00 01"), 2), hex("83 02"));
        assert_eq!(
            (refusal(&hex("83 02")), refusal(&hex("03 02 00 01")), refusal(&[0x83])),
            (Some(2), None, None)
        );
    }
}
