//! The exceptions of Modbus: what each is called, and what follows from it.
//!
//! One table, from the *Modbus Application Protocol Specification V1.1b3*, section 7 (07, which it no longer
//! names, from the *Modicon Protocol Reference Guide* PI-MBUS-300). An exception is a well-formed answer: the
//! device is there. Only 0A and 0B come from a gateway in its place.

use std::fmt;

/// The function is not known.
pub const ILLEGAL_FUNCTION: u8 = 0x01;
/// Registers that are not there.
pub const ILLEGAL_ADDRESS: u8 = 0x02;
/// A request that is not formed as its function wants.
pub const ILLEGAL_VALUE: u8 = 0x03;
/// It has something else to do.
pub const BUSY: u8 = 0x06;
/// A gateway has no way to the device.
pub const NO_PATH: u8 = 0x0A;
/// The device behind a gateway does not answer.
pub const NO_ANSWER: u8 = 0x0B;

/// What follows from an exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// The device does not do this; asked again only after a while.
    Refused,
    /// It does not do this in this extent: a block is read in parts before it counts as refused.
    RefusedHere,
    /// It could not this time; the next turn asks again.
    NextTurn,
    /// It could not this moment: a write is sent again shortly, a few times.
    SoonAgain,
    /// It has taken the request and works on it: not sent again, the read-back decides.
    Working,
    /// A gateway says that the device behind it does not answer: as good as silence.
    Silent,
}

/// One exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Its code.
    pub code: u8,
    /// Its name in words.
    pub name: &'static str,
    /// What follows when a read earned it.
    pub read: Reaction,
    /// What follows when a write earned it.
    pub write: Reaction,
}

const fn row(code: u8, name: &'static str, read: Reaction, write: Reaction) -> Exception {
    Exception { code, name, read, write }
}

/// All that have a name. The reason of the points is `exception_` and the code, for every one of them.
const TABLE: &[Exception] = &[
    row(ILLEGAL_FUNCTION, "illegal function", Reaction::Refused, Reaction::Refused),
    row(ILLEGAL_ADDRESS, "illegal data address", Reaction::RefusedHere, Reaction::Refused),
    row(ILLEGAL_VALUE, "illegal data value", Reaction::RefusedHere, Reaction::Refused),
    row(0x04, "device fault", Reaction::NextTurn, Reaction::NextTurn),
    row(0x05, "acknowledge", Reaction::NextTurn, Reaction::Working),
    row(BUSY, "device busy", Reaction::NextTurn, Reaction::SoonAgain),
    row(0x07, "negative acknowledge", Reaction::Refused, Reaction::Refused),
    row(0x08, "memory parity error", Reaction::NextTurn, Reaction::NextTurn),
    row(NO_PATH, "gateway path unavailable", Reaction::Silent, Reaction::Silent),
    row(NO_ANSWER, "gateway target does not respond", Reaction::Silent, Reaction::Silent),
];

impl Exception {
    /// The exception with this code. One that no document names could mean anything: the next turn asks again.
    #[must_use]
    pub fn of(code: u8) -> Self {
        let unknown = row(code, "unknown exception", Reaction::NextTurn, Reaction::NextTurn);
        TABLE.iter().find(|known| known.code == code).copied().unwrap_or(unknown)
    }
}

/// `exception 06 (device busy)`.
impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exception {:02x} ({})", self.code, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FrameError, ReadError, Reason};

    #[test]
    fn every_exception_has_its_name_and_its_reaction() {
        use Reaction::{NextTurn, Refused, RefusedHere, Silent, SoonAgain, Working};
        for (code, said, read, write) in [
            (1, "exception 01 (illegal function)", Refused, Refused),
            (2, "exception 02 (illegal data address)", RefusedHere, Refused),
            (3, "exception 03 (illegal data value)", RefusedHere, Refused),
            (4, "exception 04 (device fault)", NextTurn, NextTurn),
            (5, "exception 05 (acknowledge)", NextTurn, Working),
            (6, "exception 06 (device busy)", NextTurn, SoonAgain),
            (7, "exception 07 (negative acknowledge)", Refused, Refused),
            (8, "exception 08 (memory parity error)", NextTurn, NextTurn),
            (9, "exception 09 (unknown exception)", NextTurn, NextTurn),
            (10, "exception 0a (gateway path unavailable)", Silent, Silent),
            (11, "exception 0b (gateway target does not respond)", Silent, Silent),
            (0, "exception 00 (unknown exception)", NextTurn, NextTurn),
            (255, "exception ff (unknown exception)", NextTurn, NextTurn),
        ] {
            let exception = Exception::of(code);
            assert_eq!(
                (exception.to_string().as_str(), exception.read, exception.write),
                (said, read, write)
            );
        }
    }

    #[test]
    fn errors_carry_the_name_and_readings_the_code() {
        let (busy, refused) = (ReadError::Transient(FrameError::Exception(6)), ReadError::Refused(2));
        assert!(busy.to_string().contains("exception 06 (device busy)"), "{busy}");
        assert!(refused.to_string().contains("exception 02 (illegal data address)"), "{refused}");
        assert_eq!((busy.reason(), refused.reason()), (Reason::Exception(6), Reason::Exception(2)));
    }
}
