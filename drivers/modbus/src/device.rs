//! One `[[device]]` of a Modbus bus: its keys checked, its setup turned into registers. Touches no hardware.

use std::time::Duration;

use driver_api::decode::{Kind, encode};
use driver_api::{DeviceSpec, Problem, Value};

use crate::compile::Units;
use crate::config::{Area, DeviceKeys, SetupKeys};
use crate::place::{Space, place};
use crate::plan::Span;
use crate::setup::Target;
use crate::write::{Change, WriteFunction};

/// A device as the bus needs it.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub unit: u8,
    /// Everybody on the line: only written, and nobody answers.
    pub broadcast: bool,
    pub timeout: Duration,
    pub write_function: WriteFunction,
    pub setup: Vec<Target>,
    pub sunspec_base: Option<u16>,
    pub max_registers: u16,
    pub max_bits: u16,
    pub max_gap: u16,
    pub turnaround: Duration,
}

/// How long a line rests after a broadcast: Serial Line V1.02, 2.1 and 2.4.1: 100 to 200 ms at 9600 baud.
const BROADCAST_REST: Duration = Duration::from_millis(100);

/// Most entries of a `setup`. Each is an exchange before a poll; a hundred are done within some two minutes.
const MAX_SETUP: usize = 100;

/// Keys that say how a device is read.
const READING: [&str; 5] = ["max_registers", "max_bits", "max_gap", "setup", "sunspec_base"];

/// Checks one device. `None` only if a problem was pushed.
pub(crate) fn device(spec: &DeviceSpec<'_>, units: Units, problems: &mut Vec<Problem>) -> Option<Device> {
    let keys: DeviceKeys = spec.table.parse(problems)?;
    let before = problems.len();
    let mut wrong = |key: &str, message: String, hint: &str| {
        problems.push(Problem::new(spec.table.place_of(key), message).hint(hint));
    };
    let mut within = |key: &str, value: i64, low: u16, high: u16| -> u16 {
        match u16::try_from(value) {
            Ok(v) if (low..=high).contains(&v) => v,
            _ => {
                wrong(key, format!("`{key}` is {value}"), &format!("it is {low} to {high}"));
                low
            }
        }
    };
    let max_registers = within("max_registers", keys.max_registers, 1, 125);
    let max_bits = within("max_bits", keys.max_bits, 1, 2000);
    let max_gap = keys.max_gap.map_or(u16::MAX, |gap| within("max_gap", gap, 0, 2000));
    // The mark is two registers, and a model has to follow.
    let sunspec_base = keys.sunspec_base.map(|base| within("sunspec_base", base, 0, 65_531));
    let broadcast = units == Units::Line && keys.address == 0;
    let unit = match u8::try_from(keys.address) {
        Ok(unit @ 1..=247) => unit,
        Ok(0) => 0,
        Ok(255) if units == Units::Network => 255,
        _ => {
            let hint = match units {
                Units::Line => "unit ids are 1 to 247; 0 is everybody, who can only be written to",
                Units::Network => "unit ids are 1 to 247, and on Modbus TCP 0 or 255",
            };
            wrong("address", format!("no device has the unit id {}", keys.address), hint);
            0
        }
    };
    if broadcast {
        for key in READING.into_iter().filter(|key| spec.table.contains(key)) {
            let hint = "address 0 is everybody on the line, and nobody answers; take it out";
            wrong(key, format!("`{key}` has no meaning with address 0"), hint);
        }
        if keys.write_function == WriteFunction::ReadWrite {
            let hint = "nobody answers address 0; take it out, or write \"auto\"";
            wrong("write_function", "function 23 reads, and nobody can be read".to_owned(), hint);
        }
    }
    if spec.timeout.is_zero() {
        problems.push(
            Problem::new(spec.table.place(), format!("the timeout of device `{}` is zero", spec.name))
                .hint("500ms suits most devices"),
        );
    }
    let setup = setup(spec, &keys, problems);
    let rest = if broadcast { BROADCAST_REST } else { Duration::ZERO };
    (problems.len() == before).then_some(Device {
        unit,
        broadcast,
        timeout: spec.timeout,
        write_function: keys.write_function,
        setup,
        sunspec_base,
        max_registers,
        max_bits,
        max_gap,
        turnaround: keys.turnaround.map_or(rest, |span| span.0),
    })
}

/// The setup's entries as registers.
fn setup(spec: &DeviceSpec<'_>, keys: &DeviceKeys, problems: &mut Vec<Problem>) -> Vec<Target> {
    if keys.setup.len() > MAX_SETUP {
        let message = format!("`setup` has {} entries", keys.setup.len());
        let first_too_many = spec.table.nth("setup", MAX_SETUP).place();
        problems.push(Problem::new(first_too_many, message).hint(format!("it has at most {MAX_SETUP}")));
    }
    let mut targets = Vec::new();
    for (index, entry) in keys.setup.iter().enumerate() {
        match target(entry, keys) {
            Ok(target) => targets.push(target),
            Err(Wrong { key, message, hint }) => {
                let at = spec.table.nth("setup", index).place_of(key);
                let message = format!("setup of `{}`: {message}", entry.register);
                problems.push(Problem::new(at, message).hint(hint));
            }
        }
    }
    targets
}

/// A mistake in an entry of a setup: in which key, what it is, and the cure.
struct Wrong {
    key: &'static str,
    message: String,
    hint: String,
}

fn target(entry: &SetupKeys, keys: &DeviceKeys) -> Result<Target, Wrong> {
    let wrong = |key, message: String, hint: String| Wrong { key, message, hint };
    let place = place(&entry.register).map_err(|(message, hint)| wrong("register", message, hint))?;
    let area = place.space.area();
    if !area.writable() {
        let hint = "only coil: and holding: can".to_owned();
        return Err(wrong("register", "it cannot be written".to_owned(), hint));
    }
    let order = entry.word_order.unwrap_or_default();
    let unfit =
        |why: String| wrong("value", why, "give the raw value, as the register shall hold it".to_owned());
    if area == Area::Coil {
        for (key, there) in [("type", entry.kind.is_some()), ("word_order", entry.word_order.is_some())] {
            if there && entry.kind.as_deref() != Some("bool") {
                let message = format!("it is one bit; `{key}` has no meaning there");
                return Err(wrong(key, message, format!("take `{key}` out")));
            }
        }
        let words = encode(Kind::Bool, order, &entry.value.0).map_err(|e| unfit(e.to_string()))?;
        return Ok(Target { place, change: Change::Coil(words == [1]) });
    }
    let kind = match &entry.kind {
        None if matches!(entry.value.0, Value::Text(_)) => {
            let hint = "add type = \"string:16\"".to_owned();
            return Err(wrong("type", "a text needs a type".to_owned(), hint));
        }
        None => Kind::U16,
        Some(word) => word.parse().map_err(|hint| wrong("type", format!("`{word}` is no type"), hint))?,
    };
    let words = encode(kind, order, &entry.value.0).map_err(|e| unfit(e.to_string()))?;
    let most = keys.write_function.most_registers();
    if words.len() > usize::from(most) {
        let hint = format!("with this `write_function` a value has at most {most}");
        return Err(wrong("type", format!("a {kind} has {} registers", words.len()), hint));
    }
    if usize::try_from(keys.max_registers).is_ok_and(|most| words.len() > most) {
        let hint = format!("max_registers of this device is {}", keys.max_registers);
        let message = format!("a {kind} takes {} registers, more than one answer holds", words.len());
        return Err(wrong("type", message, hint));
    }
    if usize::from(place.at) + words.len() > 0x1_0000 {
        let hint = format!("a {kind} takes {} registers; the last address is 65535", words.len());
        return Err(wrong("register", "it ends beyond 65535".to_owned(), hint));
    }
    Ok(Target { place, change: Change::Registers(words) })
}

/// As many registers are read in vain for the head of a model to be seen with its values: a request costs as
/// much at 9600 baud.
const NEAR: u16 = 10;

impl Device {
    /// What to read of a model so that its head is seen with the values, where that costs next to nothing.
    pub fn with_head(&self, space: Space, span: Span) -> Option<Span> {
        let Space::Model(_) = space else { return None };
        let len = u16::try_from(span.end()).ok()?.max(2);
        let near = span.start <= NEAR.min(self.max_gap) && len <= self.max_registers;
        near.then_some(Span { start: 0, len })
    }

    /// Whether anything of the setup stands in a model.
    pub fn setup_needs_models(&self) -> bool {
        self.setup.iter().any(|target| matches!(target.place.space, Space::Model(_)))
    }
}
