//! Packed BCD: four bits a decimal digit. Pure; no bits panic, and bits that are no digits are no number.

/// The number that the digits of `raw` say; `None` if one of them is above 9.
pub(super) fn digits(raw: u64) -> Option<i64> {
    (0..16).rev().map(|place| raw >> (place * 4) & 0xF).try_fold(0, |number: i64, digit| {
        let digit = i64::try_from(digit).ok().filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// The digits of `number`; `None` if it has more than sixteen.
pub(super) fn pack(number: u64) -> Option<u64> {
    let (mut rest, mut raw) = (number, 0);
    for place in 0..16 {
        raw |= (rest % 10) << (place * 4);
        rest /= 10;
    }
    (rest == 0).then_some(raw)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Kind, WordOrder, decode, encode};
    use super::*;
    use crate::{Reason, Value};

    #[test]
    fn a_counter_of_eight_digits_in_its_four_orders() {
        for (order, registers) in [
            (WordOrder::Abcd, [0x1234, 0x5678]),
            (WordOrder::Cdab, [0x5678, 0x1234]),
            (WordOrder::Badc, [0x3412, 0x7856]),
            (WordOrder::Dcba, [0x7856, 0x3412]),
        ] {
            assert_eq!(decode(Kind::Bcd32, order, &registers), Ok(Value::Int(12_345_678)), "{order:?}");
            assert_eq!(encode(Kind::Bcd32, order, &Value::Int(12_345_678)), Ok(registers.to_vec()));
        }
        assert_eq!(decode(Kind::Bcd16, WordOrder::Abcd, &[0x9999]), Ok(Value::Int(9_999)));
        assert_eq!(decode(Kind::Bcd64, WordOrder::Abcd, &[0x9999; 4]), Ok(Value::Int(9_999_999_999_999_999)));
    }

    #[test]
    fn a_digit_above_nine_is_no_number() {
        for register in [0x000A, 0x00F0, 0x0B00, 0xFFFF] {
            assert_eq!(
                decode(Kind::Bcd16, WordOrder::Abcd, &[register]),
                Err(Reason::Parse),
                "{register:04X}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_number_of_sixteen_digits_comes_back(number in 0u64..10_000_000_000_000_000) {
            let raw = pack(number).expect("at most sixteen digits");
            prop_assert_eq!(digits(raw), i64::try_from(number).ok());
        }

        #[test]
        fn no_bits_panic_and_what_is_a_number_has_only_these_digits(raw: u64) {
            if let Some(number) = digits(raw) {
                prop_assert_eq!(pack(u64::try_from(number).expect("not negative")), Some(raw));
            }
        }
    }
}
