//! What a write sends: from a value to the requests that put it into the device. Pure.
//!
//! Bits of a register are changed by the device itself where it can (function 22), so that no other
//! writer's bits are lost. Where it cannot, the register is read, changed here and written whole; what
//! another master changes between that read and that write is lost, and nobody can tell.

use std::borrow::Cow;

use driver_api::decode::BitPattern;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_modbus::Request;

/// Most registers in one write, by function (Application Protocol V1.1b3, 6.12 and 6.17).
const MOST: u16 = 123;
const MOST_READ_WRITE: u16 = 121;
/// Most registers that are written one by one. More of them than a number or a time has would hold the line
/// for long, and would be half written for as long.
const MOST_SINGLE: u16 = 6;

/// With which functions a device is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteFunction {
    /// 5 and 6 for one coil or register, 16 for more.
    #[default]
    Auto,
    /// 5 and 6 only; a value of several registers is written one after the other, and so is half written for a moment.
    Single,
    /// 15 and 16 only.
    Multiple,
    /// 23 for registers, which reads back what it wrote in the same request; 5 for coils.
    ReadWrite,
}

impl WriteFunction {
    /// Most registers that one value may have.
    pub const fn most_registers(self) -> u16 {
        match self {
            Self::Auto | Self::Multiple => MOST,
            Self::Single => MOST_SINGLE,
            Self::ReadWrite => MOST_READ_WRITE,
        }
    }
}

/// What is to become of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A coil on or off.
    Coil(bool),
    /// Registers as they stand on the wire.
    Registers(Vec<u16>),
    /// Some bits of one register.
    Bits(BitPattern),
}

/// The requests that do it, one after the other.
pub(crate) fn requests(function: WriteFunction, at: u16, change: &Change) -> Vec<Request<'static>> {
    use WriteFunction::{Auto, Multiple, ReadWrite, Single};
    match (change, function) {
        (Change::Coil(on), Multiple) => vec![Request::WriteMultipleCoils(at, Cow::Owned(vec![*on]))],
        (Change::Coil(on), Auto | Single | ReadWrite) => vec![Request::WriteSingleCoil(at, *on)],
        (Change::Bits(pattern), _) => vec![Request::MaskWriteRegister(at, !pattern.mask, pattern.ones)],
        (Change::Registers(words), ReadWrite) => {
            let count = u16::try_from(words.len()).unwrap_or(u16::MAX);
            vec![Request::ReadWriteMultipleRegisters(at, count, at, Cow::Owned(words.clone()))]
        }
        (Change::Registers(words), Single) => {
            (at..).zip(words).map(|(at, word)| Request::WriteSingleRegister(at, *word)).collect()
        }
        (Change::Registers(words), Auto | Multiple) => match words[..] {
            [word] if function == Auto => vec![Request::WriteSingleRegister(at, word)],
            _ => vec![Request::WriteMultipleRegisters(at, Cow::Owned(words.clone()))],
        },
    }
}

#[cfg(test)]
mod tests {
    use driver_api::testing::hex;

    use super::*;
    use crate::pdu::encode;

    #[test]
    fn each_function_writes_in_its_own_frames() {
        use WriteFunction::{Auto, Multiple, ReadWrite, Single};
        let (one, two) = (Change::Registers(vec![3]), Change::Registers(vec![0x1234, 0x5678]));
        let bits = Change::Bits(BitPattern { mask: 0x00F0, ones: 0x0050 });
        for (function, change, frames) in [
            (Auto, &Change::Coil(true), vec!["05 00 0A FF 00"]),
            (Single, &Change::Coil(false), vec!["05 00 0A 00 00"]),
            (Multiple, &Change::Coil(true), vec!["0F 00 0A 00 01 01 01"]),
            (ReadWrite, &Change::Coil(true), vec!["05 00 0A FF 00"]),
            (Auto, &one, vec!["06 00 0A 00 03"]),
            (Single, &one, vec!["06 00 0A 00 03"]),
            (Multiple, &one, vec!["10 00 0A 00 01 02 00 03"]),
            (ReadWrite, &one, vec!["17 00 0A 00 01 00 0A 00 01 02 00 03"]),
            (Auto, &two, vec!["10 00 0A 00 02 04 12 34 56 78"]),
            (Single, &two, vec!["06 00 0A 12 34", "06 00 0B 56 78"]),
            (ReadWrite, &two, vec!["17 00 0A 00 02 00 0A 00 02 04 12 34 56 78"]),
            (Auto, &bits, vec!["16 00 0A FF 0F 00 50"]),
            (Multiple, &bits, vec!["16 00 0A FF 0F 00 50"]),
        ] {
            let sent: Vec<_> = requests(function, 10, change).iter().filter_map(encode).collect();
            let expected: Vec<_> = frames.into_iter().map(hex).collect();
            assert_eq!(sent, expected, "{function:?} {change:?}");
        }
    }

    #[test]
    fn the_longest_value_of_every_function_fits_into_a_frame() {
        for function in [WriteFunction::Auto, WriteFunction::Multiple, WriteFunction::ReadWrite] {
            let words = vec![0; usize::from(function.most_registers())];
            for request in requests(function, 0, &Change::Registers(words)) {
                let pdu = encode(&request).expect("it fits");
                assert!(pdu.len() <= crate::pdu::MAX_PDU, "{function:?}: {}", pdu.len());
            }
        }
    }
}
