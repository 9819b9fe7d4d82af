//! Reads MQTT's data types from a slice, and finds where a packet ends. Every length is checked first.

use super::{Version, reason};

/// Why bytes are not acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (reason {reason:#04x})")]
pub struct Fault {
    /// MQTT 5 reason code.
    pub reason: u8,
    /// For the log.
    pub what: &'static str,
}

impl Fault {
    pub(in crate::broker) fn malformed(what: &'static str) -> Self {
        Self { reason: reason::MALFORMED, what }
    }
    pub(in crate::broker) fn protocol(what: &'static str) -> Self {
        Self { reason: reason::PROTOCOL_ERROR, what }
    }
}

/// What is left of a packet.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Everything that is left.
    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// There are not so many. The same for all below.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Fault::malformed("packet too short"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn byte(&mut self) -> Result<u8, Fault> {
        self.take(1).map(|b| b[0])
    }

    /// Two bytes, big-endian.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn u16(&mut self) -> Result<u16, Fault> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }

    /// Four bytes, big-endian.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn u32(&mut self) -> Result<u32, Fault> {
        self.take(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// A packet id, which is never 0.
    ///
    /// # Errors
    /// As [`Reader::take`], or it is 0.
    pub fn packet_id(&mut self) -> Result<u16, Fault> {
        match self.u16()? {
            0 => Err(Fault::protocol("packet id 0")),
            id => Ok(id),
        }
    }

    /// Binary data with a two-byte length.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }

    /// A UTF-8 string without U+0000.
    ///
    /// # Errors
    /// As [`Reader::take`], or it is not UTF-8 (surrogates are not), or holds U+0000.
    pub fn string(&mut self) -> Result<&'a str, Fault> {
        let text =
            std::str::from_utf8(self.binary()?).map_err(|_| Fault::malformed("string is not UTF-8"))?;
        if text.contains('\0') { Err(Fault::malformed("string holds U+0000")) } else { Ok(text) }
    }

    /// A variable byte integer.
    ///
    /// # Errors
    /// As [`Reader::take`], or longer than four bytes.
    pub fn varint(&mut self) -> Result<u32, Fault> {
        match varint(self.rest)? {
            None => Err(Fault::malformed("packet too short")),
            Some((_, used)) if !is_shortest(&self.rest[..used]) => Err(LONG),
            Some((value, used)) => {
                self.take(used)?;
                Ok(value)
            }
        }
    }
}

const LONG: Fault = Fault { reason: reason::MALFORMED, what: "length is not in its shortest form" };

fn is_shortest(varint: &[u8]) -> bool {
    varint.len() == 1 || varint.last() != Some(&0)
}

/// A variable byte integer at the start of `bytes`, and how many bytes it takes. `None`: not all there.
fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, Fault> {
    let mut value = 0u32;
    for (n, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            return Ok(Some((value, n + 1)));
        }
    }
    if bytes.len() >= 4 { Err(Fault::malformed("length of more than four bytes")) } else { Ok(None) }
}

/// Where the first packet of a stream lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Type and flags.
    pub first: u8,
    /// Where its body starts.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// Its length has the shortest form.
    shortest: bool,
}

impl Frame {
    /// MQTT 5 wants the shortest form of a length (MQTT-1.5.5-1). 3.1.1 does not, and small clients always send two bytes.
    ///
    /// # Errors
    /// It is longer than need be, and the version is 5.
    pub fn checked(self, version: Version) -> Result<Self, Fault> {
        if self.shortest || version != Version::V5 { Ok(self) } else { Err(LONG) }
    }
}

/// Finds the first packet in `bytes`; `None`: it is not all there yet. Its length is judged as soon as
/// it can be read, before a byte of it is kept.
///
/// # Errors
/// The length is no length, or the packet is larger than `max` bytes.
pub fn frame(bytes: &[u8], max: usize) -> Result<Option<Frame>, Fault> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((length, used)) = varint(rest)? else { return Ok(None) };
    let start = 1 + used;
    let end = start + length as usize;
    if end > max {
        return Err(Fault { reason: reason::PACKET_TOO_LARGE, what: "packet larger than announced" });
    }
    let shortest = is_shortest(&rest[..used]);
    Ok((bytes.len() >= end).then_some(Frame { first: *first, start, end, shortest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_as_in_table_1_1() {
        for (bytes, value) in [
            (&[0x00][..], 0),
            (&[0x7F], 127),
            (&[0x80, 0x01], 128),
            (&[0xFF, 0x7F], 16_383),
            (&[0x80, 0x80, 0x01], 16_384),
            (&[0xFF, 0xFF, 0xFF, 0x7F], 268_435_455),
        ] {
            assert_eq!(varint(bytes), Ok(Some((value, bytes.len()))));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), Ok(None));
        }
        assert!(varint(&[0x80, 0x80, 0x80, 0x80, 0x01]).is_err());
        assert!(Reader::new(&[0x80, 0x00]).varint().is_err(), "longer than need be");
    }

    #[test]
    fn a_huge_length_is_refused_before_its_bytes_come() {
        assert_eq!(frame(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 1 << 20).unwrap_err().reason, 0x95);
        assert_eq!(frame(&[0x30, 0x02, 1], 100), Ok(None));
        let whole = Frame { first: 0x30, start: 2, end: 4, shortest: true };
        assert_eq!(frame(&[0x30, 0x02, 1, 2, 3], 100), Ok(Some(whole)));
        let long = frame(&[0xC0, 0x80, 0x00], 100).unwrap().unwrap();
        assert!(long.checked(Version::V4).is_ok() && long.checked(Version::V5).is_err());
    }
}
