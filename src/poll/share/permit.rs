//! What a client of a share may ask: pure, from a request to "carry it" or an exception.
//!
//! The limits are those of the *Modbus Application Protocol Specification V1.1b3*. What is carried is whole, of the
//! right length, and either reads or writes only what `writes` names; everything else is answered here, so that no
//! device ever sees it.

use driver_api::exception::{ILLEGAL_ADDRESS, ILLEGAL_FUNCTION, ILLEGAL_VALUE};
use driver_modbus::config::Area;

use crate::config::share::Writable;

/// Read device identification, within function 43.
const IDENTIFICATION: u8 = 14;

/// What a permitted request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permitted {
    /// Reads coils or registers: the same read may be answered from the last answer.
    Read,
    /// Asks what the device is.
    Other,
    /// Changes something: what was read before is old now.
    Write,
}

/// Whether a request, permitted by whomever, may change something in the device.
#[must_use]
pub fn may_write(pdu: &[u8]) -> bool {
    !matches!(pdu, [1..=4 | 17 | 43, ..])
}

/// Whether a request may be carried.
///
/// # Errors
/// The exception that it is answered with.
pub fn judge(unit: u8, pdu: &[u8], writes: &[Writable]) -> Result<Permitted, u8> {
    match *pdu {
        [1 | 2, ref rest @ ..] => read(rest, 2000),
        [3 | 4, ref rest @ ..] => read(rest, 125),
        [5, ref rest @ ..] => {
            let &[a0, a1, v0, v1] = rest else { return Err(ILLEGAL_VALUE) };
            if !matches!([v0, v1], [0xFF | 0, 0]) {
                return Err(ILLEGAL_VALUE);
            }
            write(unit, Area::Coil, word(a0, a1), 1, writes)
        }
        [6, ref rest @ ..] => {
            let &[a0, a1, _, _] = rest else { return Err(ILLEGAL_VALUE) };
            write(unit, Area::Holding, word(a0, a1), 1, writes)
        }
        [15, ref rest @ ..] => {
            let (at, count) = many(rest, 1968, |count| count.div_ceil(8))?;
            write(unit, Area::Coil, at, count, writes)
        }
        [16, ref rest @ ..] => {
            let (at, count) = many(rest, 123, |count| count * 2)?;
            write(unit, Area::Holding, at, count, writes)
        }
        [22, ref rest @ ..] => {
            let &[a0, a1, _, _, _, _] = rest else { return Err(ILLEGAL_VALUE) };
            write(unit, Area::Holding, word(a0, a1), 1, writes)
        }
        [23, r0, r1, c0, c1, ref rest @ ..] => {
            read(&[r0, r1, c0, c1], 125)?;
            let (at, count) = many(rest, 121, |count| count * 2)?;
            write(unit, Area::Holding, at, count, writes)
        }
        [17] => Ok(Permitted::Other),
        [43, IDENTIFICATION, 1..=4, _] => Ok(Permitted::Other),
        [17 | 23 | 43, ..] => Err(ILLEGAL_VALUE),
        _ => Err(ILLEGAL_FUNCTION),
    }
}

fn word(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

/// Address and count, within the table.
fn range(at: u16, count: u16, most: u16) -> Result<(u16, u16), u8> {
    if !(1..=most).contains(&count) {
        return Err(ILLEGAL_VALUE);
    }
    if u32::from(at) + u32::from(count) > 0x1_0000 {
        return Err(ILLEGAL_ADDRESS);
    }
    Ok((at, count))
}

fn read(rest: &[u8], most: u16) -> Result<Permitted, u8> {
    let &[a0, a1, c0, c1] = rest else { return Err(ILLEGAL_VALUE) };
    range(word(a0, a1), word(c0, c1), most).map(|_| Permitted::Read)
}

/// Address and count of a write of several, whose data must be as long as `bytes` says.
fn many(rest: &[u8], most: u16, bytes: impl Fn(u16) -> u16) -> Result<(u16, u16), u8> {
    let &[a0, a1, c0, c1, announced, ref data @ ..] = rest else { return Err(ILLEGAL_VALUE) };
    let (at, count) = range(word(a0, a1), word(c0, c1), most)?;
    let fits = u16::from(announced) == bytes(count) && data.len() == usize::from(announced);
    if fits { Ok((at, count)) } else { Err(ILLEGAL_VALUE) }
}

/// `count` is at least 1.
fn write(unit: u8, area: Area, at: u16, count: u16, writes: &[Writable]) -> Result<Permitted, u8> {
    let last = at.saturating_add(count - 1);
    let granted = writes.iter().any(|range| range.covers(unit, area, at, last));
    if granted { Ok(Permitted::Write) } else { Err(ILLEGAL_FUNCTION) }
}

#[cfg(test)]
mod tests {
    use driver_api::testing::hex;
    use proptest::prelude::*;

    use super::*;

    fn writes() -> Vec<Writable> {
        ["1/holding:100..110", "2/coil:0..9"].map(|text| Writable::parse(text).expect(text)).to_vec()
    }

    #[test]
    fn reads_pass_writes_need_permission_and_the_rest_is_refused() {
        use Permitted::{Other, Read, Write};
        for (unit, pdu, verdict) in [
            (9, "03 00 00 00 7D", Ok(Read)),
            (9, "03 00 00 00 7E", Err(3)),
            (9, "03 00 00 00 00", Err(3)),
            (9, "04 FF FF 00 02", Err(2)),
            (9, "01 00 00 07 D0", Ok(Read)),
            (9, "01 00 00 07 D1", Err(3)),
            (9, "03 00 00 00", Err(3)),
            (9, "03 00 00 00 01 00", Err(3)),
            (1, "06 00 64 00 01", Ok(Write)),
            (1, "06 00 6F 00 01", Err(1)),
            (2, "06 00 64 00 01", Err(1)),
            (2, "05 00 09 FF 00", Ok(Write)),
            (2, "05 00 09 00 00", Ok(Write)),
            (2, "05 00 09 FF 01", Err(3)),
            (2, "05 00 0A FF 00", Err(1)),
            (1, "10 00 64 00 02 04 00 01 00 02", Ok(Write)),
            (1, "10 00 6E 00 02 04 00 01 00 02", Err(1)),
            (1, "10 00 64 00 02 05 00 01 00 02 00", Err(3)),
            (1, "10 00 64 00 02 04 00 01 00", Err(3)),
            (2, "0F 00 00 00 0A 02 FF 03", Ok(Write)),
            (2, "0F 00 00 00 0B 02 FF 03", Err(1)),
            (1, "16 00 64 00 F2 00 25", Ok(Write)),
            (3, "16 00 64 00 F2 00 25", Err(1)),
            (1, "17 00 00 00 01 00 64 00 01 02 00 FF", Ok(Write)),
            (1, "17 00 00 00 01 00 00 00 01 02 00 FF", Err(1)),
            (1, "17 00 00 00 01", Err(3)),
            (1, "11", Ok(Other)),
            (1, "2B 0E 01 00", Ok(Other)),
            (1, "2B 0D 01 00", Err(3)),
            (1, "08 00 00 12 34", Err(1)),
            (1, "07", Err(1)),
            (1, "65", Err(1)),
            (1, "83 02", Err(1)),
        ] {
            assert_eq!(judge(unit, &hex(pdu), &writes()), verdict, "{unit}: {pdu}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_writes_is_carried_where_nothing_may_be_written(
            unit: u8,
            pdu in prop::collection::vec(any::<u8>(), 1..253),
            function in 0u8..50,
        ) {
            let mut pdu = pdu;
            pdu[0] = function;
            let verdict = judge(unit, &pdu, &[]);
            prop_assert_ne!(verdict, Ok(Permitted::Write));
            if verdict.is_ok() {
                prop_assert!(matches!(function, 1..=4 | 17 | 43) && !may_write(&pdu), "function {}", function);
            }
        }
    }
}
