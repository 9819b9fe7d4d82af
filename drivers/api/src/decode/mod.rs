//! Registers and bits to values and back: every type, every word order, both directions.
//!
//! Pure. Reading uses [`decode`] and [`decode_bits`]; writing and simulated devices use [`encode`]
//! and [`encode_bits`], so what one side says the other understands. Nothing here panics, whatever
//! the registers hold.
//!
//! **Word order.** A value of several registers is named by its bytes, `A` the most significant.
//! `ABCD` is big-endian, as Modbus wants it. `CDAB` sends the low register first; `BADC` swaps the
//! two bytes of each register; `DCBA` does both. For 64-bit values the same two swaps apply to four
//! registers: `CDAB` is `GHEFCDAB`, `DCBA` is `HGFEDCBA`. A 16-bit value has no register order, only
//! the byte swap of `BADC` and `DCBA`. Text, and a time of several fields, always has its registers in
//! reading order; `BADC` and `DCBA` swap its bytes.

mod bcd;
mod decimal;
mod kind;
mod time;

use crate::{Reason, Value};
pub use decimal::{MAX_EXPONENT, descaled, scaled};
pub use kind::{Bits, Kind, MAX_TEXT, TimeForm, WordOrder};
pub use time::seconds_between;

/// Why a value cannot be written as the type that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` does not fit into {kind}")]
pub struct Unfit {
    /// The value.
    pub value: String,
    /// The type, as a person writes it.
    pub kind: String,
}

/// What the registers of a point say.
///
/// An `f32` is given as the shortest decimal that names it, so that a device's 230.1 is 230.1 and
/// not 230.10000610351563; narrowing it gives the device's very bits back. Text ends at the first
/// NUL and loses the blanks behind it.
///
/// # Errors
/// [`Reason::SensorFault`] for NaN, infinities and dates that there are not, [`Reason::Parse`] for text that
/// is not UTF-8 and for a BCD digit above 9, [`Reason::Protocol`] if the number of registers is not
/// [`Kind::registers`].
pub fn decode(kind: Kind, order: WordOrder, registers: &[u16]) -> Result<Value, Reason> {
    if registers.len() != usize::from(kind.registers()) {
        return Err(Reason::Protocol);
    }
    if let Kind::Text(length) = kind {
        let bytes: Vec<u8> = registers.iter().flat_map(|r| order.swap(*r).to_be_bytes()).collect();
        let bytes = &bytes[..usize::from(length).min(bytes.len())];
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        let text = std::str::from_utf8(&bytes[..end]).map_err(|_| Reason::Parse)?;
        return Ok(Value::Text(text.trim_end().into()));
    }
    if let Kind::Time(form @ (TimeForm::Iec870 | TimeForm::Ymdhms | TimeForm::Yymdhms | TimeForm::Bcd)) = kind
    {
        let fields: Vec<u16> = registers.iter().map(|r| order.swap(*r)).collect();
        return time::from_fields(form, &fields)
            .map(|text| Value::Text(text.into()))
            .ok_or(Reason::SensorFault);
    }
    interpret(kind, pattern(order, registers))
}

/// All registers of a value of up to 64 bits as one unsigned number, most significant first, whatever order they stand in.
#[must_use]
pub fn pattern(order: WordOrder, registers: &[u16]) -> u64 {
    let push = |all: u64, register: &u16| all << 16 | u64::from(order.swap(*register));
    if order.low_register_first() {
        registers.iter().rev().fold(0, push)
    } else {
        registers.iter().fold(0, push)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the registers hold exactly the bits of the type")]
#[expect(clippy::cast_possible_wrap, reason = "two's complement is what the device meant")]
fn interpret(kind: Kind, raw: u64) -> Result<Value, Reason> {
    Ok(match kind {
        Kind::Bool => Value::Bool(raw != 0),
        Kind::U16 | Kind::U32 => Value::Int(raw as i64),
        Kind::I16 => Value::Int(i64::from(raw as u16 as i16)),
        Kind::I32 => Value::Int(i64::from(raw as u32 as i32)),
        Kind::I64 => Value::Int(raw as i64),
        Kind::U64 => i64::try_from(raw).map_or(Value::UInt(raw), Value::Int),
        Kind::F32 => Value::Float(widen(f32::from_bits(raw as u32)).ok_or(Reason::SensorFault)?),
        Kind::F64 => {
            Value::Float(Some(f64::from_bits(raw)).filter(|f| f.is_finite()).ok_or(Reason::SensorFault)?)
        }
        Kind::Bcd16 | Kind::Bcd32 | Kind::Bcd64 => Value::Int(bcd::digits(raw).ok_or(Reason::Parse)?),
        Kind::Time(TimeForm::Unix) => Value::Text(time::from_unix(raw).ok_or(Reason::SensorFault)?.into()),
        // Handled before, by their registers.
        Kind::Text(_)
        | Kind::Time(TimeForm::Iec870 | TimeForm::Ymdhms | TimeForm::Yymdhms | TimeForm::Bcd) => {
            return Err(Reason::Parse);
        }
    })
}

/// The shortest decimal that names this `f32`, as an `f64`; `None` for NaN and infinities.
fn widen(value: f32) -> Option<f64> {
    if !value.is_finite() {
        return None;
    }
    let exact = f64::from(value);
    // Whole numbers below 2^24 are the same either way, and the most common.
    if exact.fract() == 0.0 && exact.abs() < 16_777_216.0 {
        return Some(exact);
    }
    Some(value.to_string().parse().unwrap_or(exact))
}

/// The value of some bits of one register: a truth for a single bit read as `bool`, else a number.
#[must_use]
pub fn decode_bits(kind: Kind, order: WordOrder, bits: Bits, register: u16) -> Value {
    let value = order.swap(register) >> bits.first & bits.max();
    if kind == Kind::Bool { Value::Bool(value != 0) } else { Value::Int(i64::from(value)) }
}

/// The registers that say `value`. Numbers that come from undone scaling are taken as whole if
/// they are within a billionth of it. Text is filled up with NUL.
///
/// # Errors
/// [`Unfit`] if the type cannot hold it.
pub fn encode(kind: Kind, order: WordOrder, value: &Value) -> Result<Vec<u16>, Unfit> {
    let unfit = || Unfit { value: value.to_string(), kind: kind.to_string() };
    if let (Kind::Text(length), Value::Text(text)) = (kind, value) {
        if text.len() > usize::from(length) || text.contains('\0') {
            return Err(unfit());
        }
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(usize::from(kind.registers()) * 2, 0);
        return Ok(bytes.chunks_exact(2).map(|c| order.swap(u16::from_be_bytes([c[0], c[1]]))).collect());
    }
    if let (
        Kind::Time(form @ (TimeForm::Iec870 | TimeForm::Ymdhms | TimeForm::Yymdhms | TimeForm::Bcd)),
        Value::Text(text),
    ) = (kind, value)
    {
        let fields = time::to_fields(form, text).ok_or_else(unfit)?;
        return Ok(fields.into_iter().map(|field| order.swap(field)).collect());
    }
    let raw = raw_bits(kind, value).ok_or_else(unfit)?;
    let bytes = raw.to_be_bytes();
    let skip = bytes.len() - usize::from(kind.registers()) * 2;
    let mut registers: Vec<u16> =
        bytes[skip..].chunks_exact(2).map(|c| order.swap(u16::from_be_bytes([c[0], c[1]]))).collect();
    if order.low_register_first() {
        registers.reverse();
    }
    Ok(registers)
}

/// The bits of a value in the low end of a `u64`.
#[expect(clippy::cast_possible_truncation, reason = "overflow to infinity is checked; the ranges are")]
#[expect(clippy::cast_sign_loss, reason = "two's complement is what the device wants")]
fn raw_bits(kind: Kind, value: &Value) -> Option<u64> {
    let whole = |low: i128, high: i128| -> Option<u64> {
        let number = integer(value)?;
        (low..=high).contains(&number).then_some(number as u64)
    };
    match kind {
        Kind::Bool => match value {
            Value::Bool(b) => Some(u64::from(*b)),
            _ => whole(0, 1),
        },
        Kind::U16 => whole(0, u16::MAX.into()),
        Kind::I16 => whole(i16::MIN.into(), i16::MAX.into()).map(|v| v & 0xFFFF),
        Kind::U32 => whole(0, u32::MAX.into()),
        Kind::I32 => whole(i32::MIN.into(), i32::MAX.into()).map(|v| v & 0xFFFF_FFFF),
        Kind::U64 => whole(0, u64::MAX.into()),
        Kind::I64 => whole(i64::MIN.into(), i64::MAX.into()),
        Kind::F32 => {
            let narrow = value.as_f64()? as f32;
            narrow.is_finite().then(|| u64::from(narrow.to_bits()))
        }
        Kind::F64 => value.as_f64().filter(|f| f.is_finite()).map(f64::to_bits),
        Kind::Bcd16 => whole(0, 9_999).and_then(bcd::pack),
        Kind::Bcd32 => whole(0, 99_999_999).and_then(bcd::pack),
        Kind::Bcd64 => whole(0, 9_999_999_999_999_999).and_then(bcd::pack),
        Kind::Time(TimeForm::Unix) => match value {
            Value::Text(text) => time::to_unix(text).map(u64::from),
            _ => None,
        },
        Kind::Text(_) | Kind::Time(_) => None,
    }
}

/// The value as a whole number, if it is one up to the error of undone scaling.
#[expect(clippy::cast_possible_truncation, reason = "`as i128` saturates, and the caller checks the range")]
fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Bool(b) => Some(i128::from(*b)),
        Value::Int(i) => Some(i128::from(*i)),
        Value::UInt(u) => Some(i128::from(*u)),
        Value::Float(f) => {
            let near = f.round();
            ((f - near).abs() <= 1e-9 * near.abs().max(1.0) && near.abs() < 1e20).then_some(near as i128)
        }
        Value::Text(_) => None,
    }
}

/// The ones and zeros of `value` at the place of `bits`, byte-swapped as the wire wants it, with
/// the mask of the bits that it sets: `new = old & !mask | ones`.
///
/// # Errors
/// [`Unfit`] if the bits cannot hold it.
pub fn encode_bits(order: WordOrder, bits: Bits, value: &Value) -> Result<BitPattern, Unfit> {
    integer(value)
        .and_then(|v| u16::try_from(v).ok())
        .filter(|v| *v <= bits.max())
        .map(|v| BitPattern { mask: order.swap(bits.mask()), ones: order.swap(v << bits.first) })
        .ok_or_else(|| Unfit {
            value: value.to_string(),
            kind: format!("bits {} to {}", bits.first, bits.last),
        })
}

/// Some bits of a register, as they stand on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitPattern {
    /// The bits that are set or cleared.
    pub mask: u16,
    /// Those of them that become one.
    pub ones: u16,
}

impl BitPattern {
    /// The register after the change.
    #[must_use]
    pub const fn apply(self, register: u16) -> u16 {
        register & !self.mask | self.ones
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::kind::WORDS;
    use super::*;

    #[test]
    fn the_four_orders_of_a_known_float() {
        // 230.1 as f32 is 0x4366199A.
        for (order, registers) in [
            (WordOrder::Abcd, [0x4366, 0x199A]),
            (WordOrder::Cdab, [0x199A, 0x4366]),
            (WordOrder::Badc, [0x6643, 0x9A19]),
            (WordOrder::Dcba, [0x9A19, 0x6643]),
        ] {
            assert_eq!(decode(Kind::F32, order, &registers), Ok(Value::Float(230.1)), "{order:?}");
            assert_eq!(encode(Kind::F32, order, &Value::Float(230.1)), Ok(registers.to_vec()));
        }
    }

    #[test]
    fn the_four_orders_of_sixty_four_bits() {
        let value = Value::Int(0x0102_0304_0506_0708);
        for (order, registers) in [
            (WordOrder::Abcd, [0x0102, 0x0304, 0x0506, 0x0708]),
            (WordOrder::Cdab, [0x0708, 0x0506, 0x0304, 0x0102]),
            (WordOrder::Badc, [0x0201, 0x0403, 0x0605, 0x0807]),
            (WordOrder::Dcba, [0x0807, 0x0605, 0x0403, 0x0201]),
        ] {
            assert_eq!(decode(Kind::U64, order, &registers), Ok(value.clone()), "{order:?}");
            assert_eq!(encode(Kind::I64, order, &value), Ok(registers.to_vec()));
        }
    }

    #[test]
    fn the_ends_of_every_range() {
        let one = |kind, registers: &[u16]| decode(kind, WordOrder::Abcd, registers);
        assert_eq!(one(Kind::I16, &[0x8000]), Ok(Value::Int(-32768)));
        assert_eq!(one(Kind::U16, &[0xFFFF]), Ok(Value::Int(65535)));
        assert_eq!(one(Kind::I32, &[0xFFFF, 0xFFFF]), Ok(Value::Int(-1)));
        assert_eq!(one(Kind::U32, &[0xFFFF, 0xFFFF]), Ok(Value::Int(4_294_967_295)));
        assert_eq!(one(Kind::U64, &[0xFFFF; 4]), Ok(Value::UInt(u64::MAX)));
        assert_eq!(one(Kind::I64, &[0x8000, 0, 0, 0]), Ok(Value::Int(i64::MIN)));
        for (kind, value) in [
            (Kind::U16, Value::Int(65536)),
            (Kind::U16, Value::Int(-1)),
            (Kind::I16, Value::Int(32768)),
            (Kind::U64, Value::Int(-1)),
            (Kind::I64, Value::UInt(u64::MAX)),
            (Kind::U16, Value::Float(1.5)),
            (Kind::Bool, Value::Int(2)),
            (Kind::F32, Value::Float(1e39)),
            (Kind::F64, Value::Float(f64::NAN)),
            (Kind::U16, Value::Text("7".into())),
            (Kind::Text(2), Value::Text("abc".into())),
            (Kind::Bcd16, Value::Int(10_000)),
            (Kind::Bcd64, Value::Int(-1)),
            (Kind::Time(TimeForm::Unix), Value::Int(0)),
            (Kind::Time(TimeForm::Bcd), Value::Text("tomorrow".into())),
        ] {
            assert!(encode(kind, WordOrder::Abcd, &value).is_err(), "{value} as {kind}");
        }
    }

    #[test]
    fn undone_scaling_is_whole_again() {
        // 21.5 / 0.1 is 215.00000000000003 for a computer.
        assert_eq!(encode(Kind::U16, WordOrder::Abcd, &Value::Float(21.5 / 0.1)), Ok(vec![215]));
    }

    #[test]
    fn what_is_no_measurement_is_a_sensor_fault() {
        for bits in [f32::NAN.to_bits(), f32::INFINITY.to_bits(), f32::NEG_INFINITY.to_bits()] {
            let registers = [(bits >> 16) as u16, bits as u16];
            assert_eq!(decode(Kind::F32, WordOrder::Abcd, &registers), Err(Reason::SensorFault));
        }
        assert_eq!(decode(Kind::F64, WordOrder::Abcd, &[0x7FF8, 0, 0, 0]), Err(Reason::SensorFault));
    }

    #[test]
    fn text_ends_at_nul_and_loses_its_padding() {
        let words = [0x4142, 0x4320, 0x2000];
        assert_eq!(decode(Kind::Text(6), WordOrder::Cdab, &words), Ok(Value::Text("ABC".into())));
        assert_eq!(decode(Kind::Text(5), WordOrder::Badc, &[0x4241, 0x4443, 0x0045]), {
            Ok(Value::Text("ABCDE".into()))
        });
        assert_eq!(decode(Kind::Text(2), WordOrder::Abcd, &[0xFFFE]), Err(Reason::Parse));
    }

    #[test]
    fn bits_are_cut_out_and_put_back() {
        let field = Bits::new(4, 7).expect("in a register");
        assert_eq!((field.max(), field.mask()), (15, 0x00F0));
        assert_eq!(decode_bits(Kind::U16, WordOrder::Abcd, field, 0x12A4), Value::Int(10));
        assert_eq!(decode_bits(Kind::U16, WordOrder::Dcba, field, 0xA412), Value::Int(10));
        let bit = Bits::new(3, 3).expect("in a register");
        assert_eq!(decode_bits(Kind::Bool, WordOrder::Abcd, bit, 0x0008), Value::Bool(true));
        assert_eq!(encode_bits(WordOrder::Abcd, field, &Value::Int(5)).map(|p| p.apply(0xFFFF)), Ok(0xFF5F));
        assert!(encode_bits(WordOrder::Abcd, field, &Value::Int(16)).is_err());
        assert_eq!(Bits::new(0, 15).map(Bits::max), Some(0xFFFF));
        assert_eq!(Bits::new(7, 4), None);
        assert_eq!(Bits::new(0, 16), None);
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        let fixed: Vec<Kind> = WORDS.iter().map(|(_, k)| *k).collect();
        prop_oneof![prop::sample::select(fixed), (1u16..=MAX_TEXT).prop_map(Kind::Text)]
    }

    proptest! {
        #[test]
        fn what_was_decoded_encodes_to_the_same_registers(
            kind in kinds(),
            order in prop::sample::select(WordOrder::ALL.to_vec()),
            registers in prop::collection::vec(any::<u16>(), 125),
        ) {
            let registers = &registers[..usize::from(kind.registers())];
            // A truth, a padded text and a date with a day of the week have several spellings.
            if let Ok(value) = decode(kind, order, registers)
                && !matches!(kind, Kind::Bool | Kind::Text(_) | Kind::Time(_))
            {
                prop_assert_eq!(encode(kind, order, &value), Ok(registers.to_vec()));
            }
        }

        #[test]
        fn what_was_encoded_decodes_to_the_same_text(
            text in "[a-zA-Z0-9äöüß°]{0,30}",
            order in prop::sample::select(WordOrder::ALL.to_vec()),
        ) {
            let value = Value::Text(text.into());
            let registers = encode(Kind::Text(120), order, &value).expect("it fits");
            prop_assert_eq!(decode(Kind::Text(120), order, &registers), Ok(value));
        }

        #[test]
        fn no_number_of_registers_panics_or_gives_a_value_of_another_length(
            kind in kinds(),
            order in prop::sample::select(WordOrder::ALL.to_vec()),
            registers in prop::collection::vec(any::<u16>(), 0..130),
        ) {
            let value = decode(kind, order, &registers);
            if registers.len() != usize::from(kind.registers()) {
                prop_assert_eq!(value, Err(Reason::Protocol));
            }
        }

        #[test]
        fn bits_change_nothing_but_themselves(
            first in 0u8..16, width in 0u8..16, old: u16, new: u16,
            order in prop::sample::select(WordOrder::ALL.to_vec()),
        ) {
            let bits = Bits::new(first, (first + width).min(15)).expect("in a register");
            let value = Value::Int(i64::from(new & bits.max()));
            let pattern = encode_bits(order, bits, &value).expect("it fits");
            let register = pattern.apply(old);
            prop_assert_eq!(decode_bits(Kind::U16, order, bits, register), value);
            prop_assert_eq!(register & !pattern.mask, old & !pattern.mask);
        }
    }
}
