//! How the frames of a bus are wrapped around their PDUs. Pure; RTU's checksum and shapes are in [`crate::frame`].
//!
//! The source for TCP is the *Modbus Messaging on TCP/IP Implementation Guide V1.0b*.

use crate::pdu::MAX_PDU;

/// One of the two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrap {
    /// The header of Modbus TCP before the PDU.
    Tcp,
    /// Unit before, checksum behind.
    Rtu,
}

impl Wrap {
    /// That of a driver, by its name; `None` if it does not speak Modbus.
    #[must_use]
    pub fn of_driver(name: &str) -> Option<Self> {
        match name {
            "modbus-tcp" => Some(Self::Tcp),
            "modbus-rtu" | "modbus-rtu-over-tcp" => Some(Self::Rtu),
            _ => None,
        }
    }
}

/// Longest frame of Modbus TCP: the header and a PDU.
pub const MAX_TCP: usize = Header::LEN + MAX_PDU;

/// The header of Modbus TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The client's number of the request.
    pub transaction: u16,
    /// The unit that is asked or answers.
    pub unit: u8,
    /// How many bytes of PDU follow, 1 to [`MAX_PDU`].
    pub pdu: usize,
}

impl Header {
    /// Bytes of a header.
    pub const LEN: usize = 7;

    /// Understands a header. `None`: it is none.
    #[must_use]
    pub fn of(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [t0, t1, p0, p1, l0, l1, unit] = bytes;
        // The length counts the unit and the PDU. Protocol 0 is all there is.
        let pdu = usize::from(u16::from_be_bytes([l0, l1])).checked_sub(1)?;
        let transaction = u16::from_be_bytes([t0, t1]);
        ([p0, p1] == [0, 0] && (1..=MAX_PDU).contains(&pdu)).then_some(Self { transaction, unit, pdu })
    }

    /// The frame of this PDU.
    #[must_use]
    pub fn frame(transaction: u16, unit: u8, pdu: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(Self::LEN + pdu.len());
        frame.extend_from_slice(&transaction.to_be_bytes());
        frame.extend_from_slice(&[0, 0]);
        // A PDU has at most 253 bytes.
        frame.extend_from_slice(&u16::try_from(pdu.len() + 1).unwrap_or(u16::MAX).to_be_bytes());
        frame.push(unit);
        frame.extend_from_slice(pdu);
        frame
    }
}

#[cfg(test)]
mod tests {
    use driver_api::testing::hex;

    use super::*;

    #[test]
    fn a_header_is_understood_as_it_is_made_and_nothing_else_is_one() {
        let frame = Header::frame(0x1501, 0xFF, &hex("03 00 04 00 01"));
        assert_eq!(frame, hex("15 01 00 00 00 06 FF 03 00 04 00 01"), "as in the guide");
        let of = |text: &str| Header::of(hex(text).try_into().expect("seven bytes"));
        assert_eq!(of("15 01 00 00 00 06 FF"), Some(Header { transaction: 0x1501, unit: 0xFF, pdu: 5 }));
        assert!(of("00 00 00 00 00 FE 01").is_some_and(|header| header.pdu == MAX_PDU));
        for none in
            ["00 00 00 01 00 06 01", "00 00 00 00 00 01 01", "00 00 00 00 00 00 01", "00 00 00 00 00 FF 01"]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
