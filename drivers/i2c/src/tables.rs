//! The configuration tables of this driver, and what is checked in them without touching hardware.

use std::ops::RangeInclusive;
use std::time::Duration;

use driver_api::table::nearest;
use driver_api::{Block, BusSpec, DeviceInfo, DeviceSpec, Plan, PointInfo, Problem};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::bench::Slot;
use crate::chip::Chip;
use crate::chips::{self, CHIPS};

/// Keys of `[[bus]]` with `driver = "i2c"`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "I²C bus")]
pub struct BusKeys {
    /// The bus's device file, such as `/dev/i2c-1` (the Raspberry Pi's header).
    pub path: String,
}

/// Keys of `[[device]]` on an I²C bus.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "device on an I²C bus")]
pub struct DeviceKeys {
    /// The chip's 7-bit address, `0x03` to `0x77`, as `i2cdetect` shows it.
    #[schemars(range(min = 0x03, max = 0x77))]
    pub address: u8,
    /// The kind of chip. Its channels are the device's points.
    #[schemars(extend("enum" = names()))]
    pub chip: String,
}

/// Keys of `[[device.point]]` on an I²C bus: only the common ones. The name is that of one of the
/// chip's channels, whose settings it overrides.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "point of an I²C device")]
pub struct PointKeys {}

/// Addresses a chip can have; those outside mean other things (UM10204, table 4).
pub(crate) const ADDRESSES: RangeInclusive<u8> = 0x03..=0x77;

/// A bus that was understood.
pub struct Compiled {
    /// The device file.
    pub path: String,
    /// What there is to read.
    pub plan: Plan,
    /// Which chip is where, in the plan's order of devices.
    pub slots: Vec<Slot>,
    /// Longest wait for each, in the same order.
    pub timeouts: Vec<Duration>,
}

fn names() -> Vec<&'static str> {
    CHIPS.iter().map(|chip| chip.name()).collect()
}

/// Understands a `[[bus]]` with its devices. `None` exactly when something was pushed onto `problems`.
pub fn compile(bus: &BusSpec<'_>, problems: &mut Vec<Problem>) -> Option<Compiled> {
    let before = problems.len();
    let keys = bus.table.parse::<BusKeys>(problems);
    if keys.as_ref().is_some_and(|k| k.path.is_empty()) {
        problems.push(
            Problem::new(bus.table.place_of("path"), "`path` is empty")
                .hint("for example \"/dev/i2c-1\"; `fieldgate ports` lists them"),
        );
    }
    let mut plan = Plan::default();
    let mut slots: Vec<Slot> = Vec::new();
    let mut timeouts = Vec::new();
    for device in &bus.devices {
        let Some((address, chip)) = compile_device(device, problems) else { continue };
        if let Some(n) = slots.iter().position(|slot| slot.address == address) {
            problems.push(Problem::new(
                device.table.place_of("address"),
                format!("{address:#04x} is the address of `{}` already", plan.devices[n].name),
            ));
            continue;
        }
        add(&mut plan, device, address, chip, problems);
        slots.push(Slot::new(chip, address));
        timeouts.push(device.timeout);
    }
    if problems.len() > before {
        return None;
    }
    Some(Compiled { path: keys?.path, plan, slots, timeouts })
}

fn compile_device(device: &DeviceSpec<'_>, problems: &mut Vec<Problem>) -> Option<(u8, &'static dyn Chip)> {
    for point in &device.points {
        // Unknown keys are mistakes even where the chip is not known.
        let _ = point.table.parse::<PointKeys>(problems);
        if point.writable {
            problems.push(
                Problem::new(point.table.place(), format!("`{}` cannot be written", point.name))
                    .hint("a chip's channels are read only; remove `writable = true`"),
            );
        }
    }
    let keys: DeviceKeys = device.table.parse(problems)?;
    if !ADDRESSES.contains(&keys.address) {
        problems.push(
            Problem::new(
                device.table.place_of("address"),
                format!("no chip has the address {:#04x}", keys.address),
            )
            .hint("0x03 to 0x77; a datasheet that says 0xEC or 0xED means 0x76"),
        );
    }
    let Some(chip) = chips::find(&keys.chip) else {
        let problem =
            Problem::new(device.table.place_of("chip"), format!("no chip is called `{}`", keys.chip));
        problems.push(match nearest(&keys.chip, &names()) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem.hint(format!("this build has {}", names().join(", "))),
        });
        return None;
    };
    Some((keys.address, chip))
}

/// Adds a device with all channels of its chip, read together by one block.
fn add(
    plan: &mut Plan,
    device: &DeviceSpec<'_>,
    address: u8,
    chip: &'static dyn Chip,
    problems: &mut Vec<Problem>,
) {
    let channels: Vec<&str> = chip.channels().iter().map(|c| c.name).collect();
    for point in device.points.iter().filter(|p| !channels.contains(&p.name.as_str())) {
        let problem =
            Problem::new(point.table.place(), format!("a {} has no channel `{}`", chip.name(), point.name));
        problems.push(match nearest(&point.name, &channels) {
            Some(near) => problem.hint(format!("did you mean `{near}`?")),
            None => problem.hint(format!("it has {}", channels.join(", "))),
        });
    }
    let index = plan.devices.len();
    let first = plan.points.len();
    plan.devices.push(DeviceInfo {
        name: device.name.clone(),
        address: format!("{address:#04x}"),
        models_at: None,
    });
    let mut every = None;
    for channel in chip.channels() {
        let spec = device.points.iter().position(|p| p.name == channel.name);
        let interval = spec.map_or(device.interval, |n| device.points[n].interval);
        every = Some(every.map_or(interval, |e: Duration| e.min(interval)));
        plan.points.push(PointInfo {
            device: index,
            name: channel.name.to_owned(),
            spec,
            unit: Some(channel.unit.to_owned()),
            kind: "f64".to_owned(),
            source: chip.name().to_owned(),
            registers: None,
            writable: false,
            every: interval,
        });
    }
    plan.blocks.push(Block {
        device: index,
        points: (first..plan.points.len()).collect(),
        every: every.unwrap_or(device.interval),
        cost: chip.cost(),
        what: format!("{} at {address:#04x}", chip.name()),
    });
}
