//! One `[[device.point]]` of a Modbus device: its keys checked, and its registers understood. Touches no
//! hardware.

use std::time::Duration;

use driver_api::decode::{
    Bits, Kind, WordOrder, decode, decode_bits, descaled, encode, encode_bits, pattern,
};
use driver_api::{PointSpec, Problem, Reason, Value};

use crate::config::{Area, PointKeys};
use crate::device::Device;
use crate::given::{Number, Numbers};
use crate::place::{Place, Space, place};
use crate::plan::Span;
use crate::write::Change;

/// A point as the bus needs it.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub place: Place,
    pub kind: Kind,
    pub order: WordOrder,
    pub bits: Option<Bits>,
    pub every: Duration,
    /// Where the power of ten is by which the raw value is multiplied.
    pub scale: Option<Place>,
    invalid: Invalid,
}

/// What the device gives where it has no value.
#[derive(Debug, Clone, Default, PartialEq)]
struct Invalid {
    /// All registers as one unsigned number.
    patterns: Vec<u64>,
    /// The value itself.
    values: Vec<f64>,
}

impl Point {
    /// What it covers.
    pub fn span(&self) -> Span {
        let len = if self.place.space.area().bits() { 1 } else { self.kind.registers() };
        Span { start: self.place.at, len }
    }

    /// The raw value that its registers (or its bit) hold, before any power of ten.
    pub fn value(&self, words: &[u16]) -> Result<Value, Reason> {
        if !self.invalid.patterns.is_empty() && self.invalid.patterns.contains(&pattern(self.order, words)) {
            return Err(Reason::SensorFault);
        }
        let value = match (self.bits, words) {
            (Some(bits), [word]) => decode_bits(self.kind, self.order, bits, *word),
            _ => decode(self.kind, self.order, words)?,
        };
        match value {
            Value::Float(f) if self.invalid.values.contains(&f) => Err(Reason::SensorFault),
            value => Ok(value),
        }
    }

    /// What a write of `value` changes; `exponent` is the power of ten that is to be undone.
    pub fn change(&self, value: &Value, exponent: Option<i16>) -> Result<Change, String> {
        if self.place.space.area() == Area::Coil {
            let words = encode(Kind::Bool, self.order, value).map_err(|e| e.to_string())?;
            return Ok(Change::Coil(words == [1]));
        }
        let undone;
        let raw = match exponent {
            Some(exponent) => {
                undone = descaled(value, exponent).ok_or_else(|| format!("`{value}` is no number"))?;
                &undone
            }
            None => value,
        };
        let explain = |unfit: String| match exponent {
            Some(exponent) => format!("{value} is not held by a {} times 10^{exponent}: {unfit}", self.kind),
            None => unfit,
        };
        match self.bits {
            Some(bits) => encode_bits(self.order, bits, raw).map(Change::Bits),
            None => encode(self.kind, self.order, raw).map(Change::Registers),
        }
        .map_err(|unfit| explain(unfit.to_string()))
    }

    /// `holding:100`, `holding:100 bit 3`, `holding:100 bits 4..7`, `model:103:14 × 10^model:103:16`.
    pub fn source(&self) -> String {
        let mut text = self.place.to_string();
        match self.bits {
            None => {}
            Some(bits) if bits.first() == bits.last() => text.push_str(&format!(" bit {}", bits.first())),
            Some(bits) => text.push_str(&format!(" bits {}..{}", bits.first(), bits.last())),
        }
        if let Some(scale) = self.scale {
            text.push_str(&format!(" × 10^{scale}"));
        }
        text
    }

    /// The type of its values, in a word: with a power of ten it is a number with a point.
    pub fn word(&self) -> String {
        if self.scale.is_some() { Kind::F64.to_string() } else { self.kind.to_string() }
    }
}

/// Checks one point. `None` only if a problem was pushed.
pub(crate) fn point(
    spec: &PointSpec<'_>,
    device: Option<&Device>,
    problems: &mut Vec<Problem>,
) -> Option<Point> {
    let keys: PointKeys = spec.table.parse(problems)?;
    let before = problems.len();
    let mut wrong = |key: &str, message: String, hint: String| {
        problems.push(Problem::new(spec.table.place_of(key), message).hint(hint));
    };
    let place = place(&keys.register).map_err(|(message, hint)| wrong("register", message, hint)).ok();
    let is_bits = place.is_some_and(|place| place.space.area().bits());
    let kind = match &keys.kind {
        Some(word) => {
            word.parse::<Kind>().map_err(|hint| wrong("type", format!("`{word}` is no type"), hint)).ok()
        }
        None if is_bits || keys.bit.is_some() => Some(Kind::Bool),
        None => Some(Kind::U16),
    };
    if is_bits {
        if kind.is_some_and(|k| k != Kind::Bool) {
            wrong(
                "type",
                format!("`{}` is one bit", keys.register),
                "its type is bool; numbers are in input: and holding:".to_owned(),
            );
        }
        for key in ["word_order", "bit", "bits", "invalid", "scale_register"]
            .into_iter()
            .filter(|k| spec.table.contains(k))
        {
            wrong(
                key,
                format!("`{}` is one bit; `{key}` has no meaning there", keys.register),
                format!("take `{key}` out, or name a register of input: or holding:"),
            );
        }
    }
    let bits = if is_bits { None } else { cut(&keys, kind, &mut wrong) };
    if let Some(place) = place
        && spec.writable
        && !place.space.area().writable()
    {
        let hint = "only coil: and holding: can; take `writable` out";
        wrong("register", format!("`{}` cannot be written", keys.register), hint.to_owned());
    }
    if spec.interval.is_zero() {
        let hint = "1s suits most points";
        wrong("interval", format!("the interval of point `{}` is zero", spec.name), hint.to_owned());
    }
    let invalid = match (&keys.invalid, kind) {
        (Some(numbers), Some(kind)) if !is_bits => {
            invalid(numbers, kind).map_err(|(message, hint)| wrong("invalid", message, hint)).ok()
        }
        _ => Some(Invalid::default()),
    };
    let scale = match &keys.scale_register {
        Some(text) if !is_bits => {
            scale(text, kind).map_err(|(message, hint)| wrong("scale_register", message, hint)).ok()
        }
        _ => None,
    };
    let (place, kind) = (place?, kind?);
    let order = keys.word_order.unwrap_or_default();
    let point =
        Point { place, kind, order, bits, every: spec.interval, scale, invalid: invalid.unwrap_or_default() };
    let span = point.span();
    if span.end() > 0x1_0000 {
        let hint = format!("a {kind} takes {} registers; the last address is 65535", span.len);
        wrong("register", format!("`{}` ends beyond 65535", keys.register), hint);
    }
    if let Some(device) = device {
        suits(spec, &keys, &point, device, &mut wrong);
    }
    (problems.len() == before).then_some(point)
}

/// The bits of a register that the keys ask for.
fn cut(keys: &PointKeys, kind: Option<Kind>, wrong: &mut impl FnMut(&str, String, String)) -> Option<Bits> {
    match (keys.bit, keys.bits) {
        (Some(_), Some(_)) => {
            let hint = "`bit` gives a bool, `bits` a number; take one of them out";
            wrong("bits", "`bit` and `bits` exclude each other".to_owned(), hint.to_owned());
            None
        }
        (Some(bit), None) => {
            if kind.is_some_and(|k| k != Kind::Bool) {
                let hint = "take the type out; for a number inside the register write bits = [4, 7]";
                wrong("type", "one bit is a bool".to_owned(), hint.to_owned());
            }
            field(bit, bit).or_else(|| {
                wrong("bit", format!("a register has no bit {bit}"), "bits are 0 to 15".to_owned());
                None
            })
        }
        (None, Some([first, last])) => {
            if kind.is_some_and(|k| k != Kind::U16) {
                let hint = "take the type out; bits of two registers are two points";
                wrong("type", "bits of a register are a u16".to_owned(), hint.to_owned());
            }
            field(first, last).or_else(|| {
                let hint = "the lower bit first, both 0 to 15, as in [4, 7]";
                wrong("bits", format!("no bits are {first} to {last}"), hint.to_owned());
                None
            })
        }
        (None, None) => None,
    }
}

fn field(first: i64, last: i64) -> Option<Bits> {
    Bits::new(u8::try_from(first).ok()?, u8::try_from(last).ok()?)
}

/// Whether the device can do what the point asks.
fn suits(
    spec: &PointSpec<'_>,
    keys: &PointKeys,
    point: &Point,
    device: &Device,
    wrong: &mut impl FnMut(&str, String, String),
) {
    let (kind, len) = (point.kind, point.span().len);
    let is_bits = point.place.space.area().bits();
    if !is_bits && !device.broadcast && len > device.max_registers {
        let hint = format!("max_registers of this device is {}", device.max_registers);
        wrong("type", format!("a {kind} takes {len} registers, more than one answer holds"), hint);
    }
    let most = device.write_function.most_registers();
    if !is_bits && spec.writable && len > most {
        let hint = format!("with this `write_function` a value has at most {most}; take `writable` out");
        wrong("type", format!("a {kind} takes {len} registers, more than can be written at once"), hint);
    }
    if !device.broadcast {
        return;
    }
    if !spec.writable {
        let hint = "address 0 is everybody on the line: add `writable = true`, or give the device an address";
        wrong(
            "register",
            format!("`{}` can only be written, nobody answers for it", spec.name),
            hint.to_owned(),
        );
    }
    if let Space::Model(_) = point.place.space {
        let hint = "name a register of holding:; where a model is, only one device can say";
        wrong("register", "everybody has no models".to_owned(), hint.to_owned());
    }
    let read = [
        ("bit", keys.bit.is_some()),
        ("bits", keys.bits.is_some()),
        ("invalid", keys.invalid.is_some()),
        ("scale_register", keys.scale_register.is_some()),
    ];
    for (key, _) in read.into_iter().filter(|(_, there)| *there) {
        let hint = "nobody answers address 0, so only whole registers can be written; take it out";
        wrong(key, format!("`{key}` has no meaning with address 0"), hint.to_owned());
    }
}

/// The patterns of `invalid` for a point of this type.
fn invalid(numbers: &Numbers, kind: Kind) -> Result<Invalid, (String, String)> {
    if numbers.0.is_empty() {
        return Err(("`invalid` lists nothing".to_owned(), "take it out, or write 0x8000".to_owned()));
    }
    let registers = kind.registers();
    if matches!(kind, Kind::Text(_)) || registers > 4 {
        return Err((format!("`invalid` is for up to 64 bits; this is a {kind}"), "take it out".to_owned()));
    }
    let width = u32::from(registers) * 16;
    let mut invalid = Invalid::default();
    for number in &numbers.0 {
        match *number {
            Number::Whole(whole) if kind.is_float() => {
                #[expect(clippy::cast_precision_loss, reason = "the value it is compared with is a float")]
                invalid.values.push(whole as f64);
            }
            Number::Point(value) if kind.is_float() => invalid.values.push(value),
            Number::Whole(whole) => {
                let (low, high) = (-(1i128 << (width - 1)), (1i128 << width) - 1);
                if !(low..=high).contains(&i128::from(whole)) {
                    let hint = format!("it is one unsigned number of {width} bits, such as {high:#X}");
                    return Err((format!("{whole} does not fit the registers of a {kind}"), hint));
                }
                // Two's complement: the low bits are the pattern.
                #[expect(clippy::cast_sign_loss, reason = "the pattern of a negative number is wanted")]
                invalid.patterns.push(whole as u64 & (u64::MAX >> (64 - width)));
            }
            Number::Point(value) => {
                let hint = "write the registers as one number, such as 0x8000".to_owned();
                return Err((format!("{value} is no pattern of a {kind}"), hint));
            }
        }
    }
    Ok(invalid)
}

/// The place of a power of ten.
fn scale(text: &str, kind: Option<Kind>) -> Result<Place, (String, String)> {
    let place = place(text)?;
    if place.space.area().bits() {
        let hint = "name a register of input: or holding:".to_owned();
        return Err((format!("`{text}` is one bit, not a power of ten"), hint));
    }
    if let Some(kind) = kind.filter(|k| k.is_text() || *k == Kind::Bool) {
        return Err((format!("a {kind} is not multiplied"), "take `scale_register` out".to_owned()));
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use driver_api::testing::table;
    use proptest::prelude::*;

    use super::*;

    fn parsed(keys: &str) -> Result<Point, Vec<Problem>> {
        let mut problems = Vec::new();
        let spec = PointSpec {
            name: "p".to_owned(),
            interval: Duration::from_secs(1),
            writable: false,
            table: table(keys),
        };
        point(&spec, None, &mut problems).ok_or(problems)
    }

    fn good(keys: &str) -> Point {
        parsed(keys).unwrap_or_else(|problems| panic!("{keys}: {problems:#?}"))
    }

    #[test]
    fn the_maker_s_pattern_for_no_value_is_a_fault_of_the_sensor() {
        let fault = Err(Reason::SensorFault);
        for (keys, words) in [
            ("type = 'i16'\ninvalid = 0x8000", vec![0x8000]),
            ("type = 'i16'\ninvalid = -32768", vec![0x8000]),
            ("type = 'u16'\ninvalid = [0x7FFF, 0xFFFF]", vec![0xFFFF]),
            ("type = 'u32'\nword_order = 'CDAB'\ninvalid = 0xFFFF0000", vec![0x0000, 0xFFFF]),
            ("type = 'u64'\ninvalid = -1", vec![0xFFFF; 4]),
            ("type = 'i64'\ninvalid = -9223372036854775808", vec![0x8000, 0, 0, 0]),
            ("bits = [0, 3]\ninvalid = 0xFFFF", vec![0xFFFF]),
            ("type = 'f32'\ninvalid = -9999", vec![0xC61C, 0x3C00]),
            ("type = 'f32'\ninvalid = 230.1", vec![0x4366, 0x199A]),
            ("type = 'bcd16'\ninvalid = 0xFFFF", vec![0xFFFF]),
            ("type = 'time:iec870'\ninvalid = 0", vec![0; 4]),
        ] {
            assert_eq!(good(&format!("register = 'input:0'\n{keys}")).value(&words), fault, "{keys}");
        }
        let point = good("register = 'input:0'\ntype = 'i16'\ninvalid = 0x8000");
        assert_eq!(point.value(&[0x8001]), Ok(Value::Int(-32767)));
    }

    #[test]
    fn patterns_and_powers_of_ten_that_cannot_be_are_refused_with_a_cure() {
        for (keys, cure) in [
            ("register = 'input:0'\ninvalid = 0x10000", "16 bits"),
            ("register = 'input:0'\ninvalid = -32769", "0xFFFF"),
            ("register = 'input:0'\ninvalid = 1.5", "0x8000"),
            ("register = 'input:0'\ninvalid = []", "0x8000"),
            ("register = 'input:0'\ntype = 'string:8'\ninvalid = 0", "take it out"),
            ("register = 'input:0'\ntype = 'time:ymdhms'\ninvalid = 0", "take it out"),
            ("register = 'coil:0'\ninvalid = 1", "take `invalid` out"),
            ("register = 'coil:0'\nscale_register = 'input:5'", "take `scale_register` out"),
            ("register = 'input:0'\nscale_register = 'coil:5'", "register of input:"),
            ("register = 'input:0'\nscale_register = '40005'", "`holding:4`"),
            ("register = 'input:0'\nbit = 1\nscale_register = 'input:5'", "take `scale_register` out"),
            (
                "register = 'input:0'\ntype = 'string:4'\nscale_register = 'input:5'",
                "take `scale_register` out",
            ),
        ] {
            let problems = parsed(keys).expect_err(keys);
            let hints: Vec<_> = problems.iter().filter_map(|p| p.hint.as_deref()).collect();
            assert!(hints.iter().any(|hint| hint.contains(cure)), "{keys}: {problems:#?}");
        }
    }

    #[test]
    fn a_point_with_a_power_of_ten_says_so() {
        let point = good("register = 'model:103:14'\ntype = 'i16'\nscale_register = 'model:103:16'");
        assert_eq!(point.source(), "model:103:14 × 10^model:103:16");
        assert_eq!(point.word(), "f64");
    }

    #[test]
    fn a_write_undoes_the_power_of_ten_or_says_why_it_cannot() {
        let point = good("register = 'holding:0'\ntype = 'i16'\nscale_register = 'holding:1'");
        let change = |value: f64, exponent| point.change(&Value::Float(value), Some(exponent));
        assert_eq!(change(230.1, -1), Ok(Change::Registers(vec![2301])));
        assert_eq!(change(-12_000.0, 3), Ok(Change::Registers(vec![0xFFF4])));
        for (value, exponent) in [(230.14, -1), (1.0, 2), (40_000.0, 0), (1.0, -6)] {
            let why = change(value, exponent).expect_err("it does not fit");
            assert!(why.contains(&format!("10^{exponent}")), "{why}");
        }
    }

    proptest! {
        #[test]
        fn only_the_listed_pattern_is_a_fault(word: u16, pattern: u16) {
            let point = good(&format!("register = 'input:0'\ntype = 'i16'\ninvalid = {pattern}"));
            prop_assert_eq!(point.value(&[word]).is_err(), word == pattern);
        }
    }
}
