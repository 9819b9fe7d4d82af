//! How a simulated quantity lies in its registers: big-endian words, the most significant first
//! (`ABCD`), as the Modbus specification lays out a register. Pure.

use driver_api::Value;

/// Up to four registers; those beyond the kind's width are zero.
pub(crate) type Words = [u16; 4];

/// What a quantity of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A coil or discrete input.
    Bool,
    /// One register, unsigned.
    U16,
    /// One register, two's complement.
    I16,
    /// Two registers, unsigned.
    U32,
    /// Two registers, two's complement.
    I32,
    /// Four registers, unsigned.
    U64,
    /// Four registers, two's complement.
    I64,
    /// Two registers, IEEE 754.
    F32,
    /// Four registers, IEEE 754.
    F64,
}

impl Kind {
    /// Registers (or bits) it takes.
    #[must_use]
    pub fn width(self) -> u16 {
        match self {
            Self::Bool | Self::U16 | Self::I16 => 1,
            Self::U32 | Self::I32 | Self::F32 => 2,
            Self::U64 | Self::I64 | Self::F64 => 4,
        }
    }

    /// A number as registers: rounded to what the kind can hold, at its limits where it is beyond
    /// them. `x` is finite.
    pub(crate) fn words(self, x: f64) -> Words {
        let round = x.round();
        // `as` between numbers saturates.
        match self {
            Self::Bool => [u16::from(x > 0.5), 0, 0, 0],
            Self::U16 => [round as u16, 0, 0, 0],
            Self::I16 => [(round as i16).cast_unsigned(), 0, 0, 0],
            Self::U32 => high_first_32(round as u32),
            Self::I32 => high_first_32((round as i32).cast_unsigned()),
            Self::U64 => high_first_64(round as u64),
            Self::I64 => high_first_64((round as i64).cast_unsigned()),
            Self::F32 => high_first_32((x.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32).to_bits()),
            Self::F64 => high_first_64(x.to_bits()),
        }
    }

    /// The `n`th number of a counter as registers. It begins again at zero where the kind could no
    /// longer tell two neighbours apart (2^24 for `F32`, 2^53 for `F64`).
    pub(crate) fn counted(self, n: u64) -> Words {
        match self {
            Self::Bool => [(n & 1) as u16, 0, 0, 0],
            Self::U16 => [n as u16, 0, 0, 0],
            Self::I16 => [(n & 0x7fff) as u16, 0, 0, 0],
            Self::U32 => high_first_32(n as u32),
            Self::I32 => high_first_32((n & 0x7fff_ffff) as u32),
            Self::U64 => high_first_64(n),
            Self::I64 => high_first_64(n & (u64::MAX >> 1)),
            Self::F32 => self.words((n & 0xff_ffff) as f64),
            Self::F64 => self.words((n & ((1 << 53) - 1)) as f64),
        }
    }

    /// What somebody who knows the kind reads in these registers.
    pub(crate) fn value(self, [a, b, c, d]: Words) -> Value {
        let u32 = u32::from(a) << 16 | u32::from(b);
        let u64 = u64::from(u32) << 32 | u64::from(c) << 16 | u64::from(d);
        match self {
            Self::Bool => Value::Bool(a != 0),
            Self::U16 => Value::Int(a.into()),
            Self::I16 => Value::Int(a.cast_signed().into()),
            Self::U32 => Value::Int(u32.into()),
            Self::I32 => Value::Int(u32.cast_signed().into()),
            Self::U64 => i64::try_from(u64).map_or(Value::UInt(u64), Value::Int),
            Self::I64 => Value::Int(u64.cast_signed()),
            Self::F32 => Value::Float(f32::from_bits(u32).into()),
            Self::F64 => Value::Float(f64::from_bits(u64)),
        }
    }
}

fn high_first_32(x: u32) -> Words {
    [(x >> 16) as u16, x as u16, 0, 0]
}

fn high_first_64(x: u64) -> Words {
    [(x >> 48) as u16, (x >> 32) as u16, (x >> 16) as u16, x as u16]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Kind; 9] =
        [Kind::Bool, Kind::U16, Kind::I16, Kind::U32, Kind::I32, Kind::U64, Kind::I64, Kind::F32, Kind::F64];

    #[test]
    fn the_most_significant_word_comes_first() {
        assert_eq!(Kind::F32.words(230.1), [0x4366, 0x199A, 0, 0]);
        assert_eq!(Kind::U32.words(65_537.0), [1, 1, 0, 0]);
        assert_eq!(Kind::I16.words(-2.0), [0xFFFE, 0, 0, 0]);
        assert_eq!(Kind::I64.words(-1.0), [0xFFFF; 4]);
        assert_eq!(Kind::U16.words(70_000.0), [0xFFFF, 0, 0, 0]);
    }

    #[test]
    fn a_counter_beyond_its_kind_begins_again() {
        assert_eq!(Kind::U16.value(Kind::U16.counted(65_536 + 7)), Value::Int(7));
        assert_eq!(Kind::F32.value(Kind::F32.counted((1 << 24) + 7)), Value::Float(7.0));
        assert_eq!(Kind::I16.value(Kind::I16.counted(0x8000)), Value::Int(0));
    }

    proptest! {
        #[test]
        fn what_fits_reads_back(x in -1000_i32..1000) {
            for kind in ALL {
                let x = f64::from(if matches!(kind, Kind::U16 | Kind::U32 | Kind::U64) { x.abs() } else { x });
                let x = if kind == Kind::Bool { f64::from(u8::from(x > 0.0)) } else { x };
                prop_assert_eq!(kind.value(kind.words(x)).as_f64(), Some(x));
            }
        }

        #[test]
        fn neighbours_of_a_counter_differ(n: u64) {
            for kind in ALL {
                prop_assert_ne!(kind.counted(n), kind.counted(n.wrapping_add(1)));
            }
        }
    }
}
