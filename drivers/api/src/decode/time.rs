//! Dates in registers, and as text. Pure; no registers panic, and a date that there is not is none.
//!
//! A device's own clock knows no zone: its time is `2026-11-28T10:00:00`, with a fraction where the form has
//! one. Only Unix seconds are UTC by definition, and so end in `Z`.
//!
//! The layout of IEC 870-5-4 is that of Schneider's manuals ("Date and time, TI081 format"; the same table is
//! called DATETIME for iEM3000 and EM3000): word 1 bits 0–6 year less 2000; word 2 bits 8–11 month, 5–7 day of
//! the week (1 Sunday, 0 unused), 0–4 day; word 3 bit 15 summer time, 8–12 hour, bit 7 *not valid*, 0–5 minute;
//! word 4 milliseconds of the minute. A time that the device itself calls not valid is none.

use jiff::Timestamp;
use jiff::civil::DateTime;

use super::bcd;
use super::kind::TimeForm;

/// The text of Unix seconds.
pub(super) fn from_unix(seconds: u64) -> Option<String> {
    let timestamp = Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(timestamp.to_string())
}

/// The Unix seconds of `2026-11-28T10:00:00Z` (or with another offset).
pub(super) fn to_unix(text: &str) -> Option<u32> {
    let timestamp: Timestamp = text.parse().ok()?;
    (timestamp.subsec_nanosecond() == 0).then(|| u32::try_from(timestamp.as_second()).ok())?
}

/// The text of a time in several fields, one register each; [`None`] if there is no such time.
pub(super) fn from_fields(form: TimeForm, words: &[u16]) -> Option<String> {
    let time = match (form, words) {
        (TimeForm::Iec870, &[year, date, clock, millis]) => {
            let not_valid = clock & 0x80 != 0;
            if not_valid {
                return None;
            }
            civil(
                2000 + (year & 0x7F),
                [date >> 8 & 0xF, date & 0x1F, clock >> 8 & 0x1F, clock & 0x3F, millis / 1000],
                millis % 1000,
            )?
        }
        (TimeForm::Ymdhms, &[year, month, day, hour, minute, second]) => {
            let year = match year {
                0..=99 => 2000 + year,
                1970..=9999 => year,
                _ => return None,
            };
            civil(year, [month, day, hour, minute, second], 0)?
        }
        (TimeForm::Yymdhms, &[year @ 0..=99, month, day, hour, minute, second]) => {
            civil(2000 + year, [month, day, hour, minute, second], 0)?
        }
        (TimeForm::Bcd, &[year_month, day_hour, minute_second]) => {
            let two = |byte: u16| bcd::digits(u64::from(byte & 0xFF)).and_then(|n| u16::try_from(n).ok());
            civil(
                2000 + two(year_month >> 8)?,
                [
                    two(year_month)?,
                    two(day_hour >> 8)?,
                    two(day_hour)?,
                    two(minute_second >> 8)?,
                    two(minute_second)?,
                ],
                0,
            )?
        }
        _ => return None,
    };
    Some(time.to_string())
}

/// Month, day, hour, minute, second behind the year, then milliseconds.
fn civil(year: u16, rest: [u16; 5], millis: u16) -> Option<DateTime> {
    let [month, day, hour, minute, second] = rest.map(|n| i8::try_from(n).ok());
    let nanos = i32::from(millis) * 1_000_000;
    DateTime::new(i16::try_from(year).ok()?, month?, day?, hour?, minute?, second?, nanos).ok()
}

/// The registers that say this time, as a device of this form wants them. The year of
/// [`TimeForm::Ymdhms`] is written in full.
pub(super) fn to_fields(form: TimeForm, text: &str) -> Option<Vec<u16>> {
    let time = parse(text)?;
    let small = |n: i8| u16::try_from(n).ok();
    let year = u16::try_from(time.year()).ok()?;
    let (month, day, hour) = (small(time.month())?, small(time.day())?, small(time.hour())?);
    let (minute, second) = (small(time.minute())?, small(time.second())?);
    let nanos = time.subsec_nanosecond();
    match form {
        TimeForm::Iec870 if nanos % 1_000_000 == 0 => {
            let year = year.checked_sub(2000).filter(|y| *y <= 127)?;
            let millis = second * 1000 + u16::try_from(nanos / 1_000_000).ok()?;
            Some(vec![year, month << 8 | day, hour << 8 | minute, millis])
        }
        TimeForm::Ymdhms if nanos == 0 && year >= 1970 => Some(vec![year, month, day, hour, minute, second]),
        TimeForm::Yymdhms if nanos == 0 => {
            let year = year.checked_sub(2000).filter(|y| *y <= 99)?;
            Some(vec![year, month, day, hour, minute, second])
        }
        TimeForm::Bcd if nanos == 0 => {
            let year = year.checked_sub(2000).filter(|y| *y <= 99)?;
            let two = |high: u16, low: u16| -> Option<u16> {
                let number = u64::from(high) * 100 + u64::from(low);
                bcd::pack(number).and_then(|raw| u16::try_from(raw).ok())
            };
            Some(vec![two(year, month)?, two(day, hour)?, two(minute, second)?])
        }
        TimeForm::Unix | TimeForm::Iec870 | TimeForm::Ymdhms | TimeForm::Yymdhms | TimeForm::Bcd => None,
    }
}

/// A date and a time of day without a zone. The parser would pass over an offset; a device cannot.
fn parse(text: &str) -> Option<DateTime> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b"-:T .".contains(&b));
    let zoneless = text.matches('-').count() == 2 && text.contains(':');
    (plain && zoneless).then(|| text.parse().ok())?
}

/// How many seconds `later` is behind `earlier`, both texts of the same form; `None` if one is no time.
#[must_use]
pub fn seconds_between(earlier: &str, later: &str) -> Option<i64> {
    if let (Ok(a), Ok(b)) = (earlier.parse::<Timestamp>(), later.parse::<Timestamp>()) {
        return Some(b.as_second().saturating_sub(a.as_second()));
    }
    let utc =
        |text: &str| parse(text)?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp().as_second());
    Some(utc(later)?.saturating_sub(utc(earlier)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Kind, WordOrder, decode, encode};
    use super::*;
    use crate::{Reason, Value};

    fn read(form: TimeForm, registers: &[u16]) -> Result<Value, Reason> {
        decode(Kind::Time(form), WordOrder::Abcd, registers)
    }

    fn text(text: &str) -> Result<Value, Reason> {
        Ok(Value::Text(text.into()))
    }

    #[test]
    fn the_same_moment_in_every_form() {
        for (form, registers, said) in [
            (TimeForm::Unix, vec![0x6B0A, 0xA620], "2026-11-28T10:00:00Z"),
            (TimeForm::Iec870, vec![26, 0x0B1C, 0x0A00, 0], "2026-11-28T10:00:00"),
            (TimeForm::Ymdhms, vec![2026, 11, 28, 10, 0, 0], "2026-11-28T10:00:00"),
            (TimeForm::Yymdhms, vec![26, 11, 28, 10, 0, 0], "2026-11-28T10:00:00"),
            (TimeForm::Bcd, vec![0x2611, 0x2810, 0x0000], "2026-11-28T10:00:00"),
        ] {
            assert_eq!(read(form, &registers), text(said), "{form:?}");
            let written = encode(Kind::Time(form), WordOrder::Abcd, &Value::Text(said.into()));
            assert_eq!(written, Ok(registers), "{form:?}");
        }
        assert_eq!(read(TimeForm::Ymdhms, &[26, 11, 28, 10, 0, 0]), text("2026-11-28T10:00:00"));
        assert_eq!(read(TimeForm::Unix, &[0, 0]), text("1970-01-01T00:00:00Z"));
        assert_eq!(read(TimeForm::Unix, &[0xFFFF, 0xFFFF]), text("2106-02-07T06:28:15Z"));
    }

    #[test]
    fn the_maker_s_optional_fields_are_read_past_and_milliseconds_are_a_fraction() {
        // Saturday, summer time, 59.25 s.
        assert_eq!(read(TimeForm::Iec870, &[26, 0x0BFC, 0x8A3B, 59_250]), text("2026-11-28T10:59:59.25"));
        assert_eq!(
            read(TimeForm::Iec870, &[0x00FF, 0x0C1F, 0x173B, 59_999]),
            text("2127-12-31T23:59:59.999")
        );
    }

    #[test]
    fn a_date_that_there_is_not_is_a_fault_of_the_sensor() {
        for (form, registers) in [
            (TimeForm::Iec870, vec![0; 4]),
            (TimeForm::Iec870, vec![0xFFFF; 4]),
            (TimeForm::Iec870, vec![26, 0x021E, 0x0A00, 0]),
            (TimeForm::Iec870, vec![26, 0x0B1C, 0x0A00, 60_000]),
            // Its own clock says that it is not valid.
            (TimeForm::Iec870, vec![26, 0x0B1C, 0x0A80, 0]),
            (TimeForm::Ymdhms, vec![2026, 2, 29, 0, 0, 0]),
            (TimeForm::Ymdhms, vec![2026, 13, 1, 0, 0, 0]),
            (TimeForm::Ymdhms, vec![100, 1, 1, 0, 0, 0]),
            (TimeForm::Ymdhms, vec![2026, 1, 1, 24, 0, 0]),
            // It has the full year: one less 2000 must not be written there.
            (TimeForm::Yymdhms, vec![2026, 1, 1, 0, 0, 0]),
            (TimeForm::Yymdhms, vec![100, 1, 1, 0, 0, 0]),
            (TimeForm::Bcd, vec![0x2611, 0x281A, 0]),
            (TimeForm::Bcd, vec![0x2600, 0x0100, 0]),
        ] {
            assert_eq!(read(form, &registers), Err(Reason::SensorFault), "{form:?} {registers:04X?}");
        }
    }

    #[test]
    fn the_byte_swap_holds_for_fields_and_their_order_is_never_turned() {
        let kind = Kind::Time(TimeForm::Bcd);
        assert_eq!(decode(kind, WordOrder::Cdab, &[0x2611, 0x2810, 0x0102]), text("2026-11-28T10:01:02"));
        assert_eq!(decode(kind, WordOrder::Dcba, &[0x1126, 0x1028, 0x0201]), text("2026-11-28T10:01:02"));
        let unix = Kind::Time(TimeForm::Unix);
        assert_eq!(decode(unix, WordOrder::Cdab, &[0xA620, 0x6B0A]), text("2026-11-28T10:00:00Z"));
    }

    #[test]
    fn what_a_form_cannot_say_is_not_written() {
        for (form, said) in [
            (TimeForm::Unix, "2026-11-28T10:00:00"),
            (TimeForm::Unix, "1969-12-31T23:59:59Z"),
            (TimeForm::Unix, "2026-11-28T10:00:00.5Z"),
            (TimeForm::Bcd, "1999-11-28T10:00:00"),
            (TimeForm::Bcd, "2026-11-28T10:00:00.5"),
            (TimeForm::Ymdhms, "2026-11-28T10:00:00+01:00"),
            (TimeForm::Ymdhms, "2026-11-28T10:00:00-01:00"),
            (TimeForm::Ymdhms, "2026-11-28T10:00:00Z"),
            (TimeForm::Ymdhms, "2026-11-28"),
            (TimeForm::Yymdhms, "1999-11-28T10:00:00"),
            (TimeForm::Yymdhms, "2100-11-28T10:00:00"),
            (TimeForm::Iec870, "2128-01-01T00:00:00"),
            (TimeForm::Iec870, "2026-11-28T10:00:00.0001"),
            (TimeForm::Iec870, "now"),
        ] {
            assert!(
                encode(Kind::Time(form), WordOrder::Abcd, &Value::Text(said.into())).is_err(),
                "{form:?} {said}"
            );
        }
        let written = encode(
            Kind::Time(TimeForm::Iec870),
            WordOrder::Abcd,
            &Value::Text("2026-11-28 10:00:00.25".into()),
        );
        assert_eq!(written, Ok(vec![26, 0x0B1C, 0x0A00, 250]));
    }

    #[test]
    fn the_distance_of_two_times_of_one_form() {
        assert_eq!(seconds_between("2026-11-28T10:00:00", "2026-11-28T10:00:02.5"), Some(2));
        assert_eq!(seconds_between("2026-11-28T10:00:01Z", "2026-11-28T10:00:00Z"), Some(-1));
        assert_eq!(seconds_between("2026-11-28T10:00:01", "soon"), None);
    }

    proptest! {
        #[test]
        fn every_moment_comes_back_from_its_registers(
            day in 0i64..27_000, second in 0i64..86_400,
            form in prop::sample::select(vec![TimeForm::Unix, TimeForm::Iec870, TimeForm::Ymdhms, TimeForm::Yymdhms, TimeForm::Bcd]),
            order in prop::sample::select(WordOrder::ALL.to_vec()),
        ) {
            // 2000-01-01 and up to 73 years on.
            let moment = from_unix(u64::try_from(946_684_800 + day * 86_400 + second).expect("positive"));
            let mut said = moment.expect("a date");
            if form != TimeForm::Unix {
                said.truncate(19);
            }
            let value = Value::Text(said.as_str().into());
            let registers = encode(Kind::Time(form), order, &value).expect("it fits");
            prop_assert_eq!(decode(Kind::Time(form), order, &registers), Ok(value));
        }

        #[test]
        fn no_registers_panic_and_what_is_a_time_can_be_written_again(
            registers in prop::collection::vec(prop_oneof![0u16..100, any::<u16>()], 6),
            form in prop::sample::select(vec![TimeForm::Unix, TimeForm::Iec870, TimeForm::Ymdhms, TimeForm::Yymdhms, TimeForm::Bcd]),
        ) {
            let kind = Kind::Time(form);
            let registers = &registers[..usize::from(kind.registers())];
            if let Ok(value) = decode(kind, WordOrder::Abcd, registers) {
                let again = encode(kind, WordOrder::Abcd, &value).expect("a time");
                prop_assert_eq!(decode(kind, WordOrder::Abcd, &again), Ok(value));
            }
        }
    }
}
