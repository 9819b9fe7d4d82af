//! From configuration tables to a plan: checks every device and point of one bus, and groups the
//! points into block reads. Touches no hardware.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use driver_api::decode::{Bits, Kind, WordOrder};
use driver_api::{Block, BusSpec, DeviceInfo, DeviceSpec, Plan, PointInfo, PointSpec, Problem};

use crate::config::{Area, DeviceKeys, PointKeys, register};
use crate::cover::{Want, plan};
use crate::plan::{Limits, Pace, Run, Span, data_len};

/// Everything that one bus knows of its devices. Indices are those of [`Plan`].
#[derive(Debug)]
pub(crate) struct Compiled {
    pub plan: Plan,
    pub devices: Vec<Device>,
    pub points: Vec<Point>,
    /// For each point what it covers, as [`crate::plan::split`] wants it.
    pub spans: Vec<Span>,
    /// For each block its table and what it reads; `wanted` are points of [`Plan::points`].
    pub blocks: Vec<(Area, Run)>,
    pace: Pace,
    /// For each device the pace by which its blocks are the best ones.
    planned_for: Vec<Pace>,
}

#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub unit: u8,
    pub timeout: Duration,
    pub write_multiple: bool,
    max_registers: u16,
    max_bits: u16,
    max_gap: u16,
    turnaround: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Point {
    pub area: Area,
    pub kind: Kind,
    pub order: WordOrder,
    pub bits: Option<Bits>,
    every: Duration,
}

/// Which unit ids there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Units {
    /// 1 to 247.
    Line,
    /// Also 0 and 255.
    Network,
}

/// Compiles all devices. `None` only if a problem was pushed.
pub(crate) fn compile(
    bus: &BusSpec<'_>,
    pace: Pace,
    units: Units,
    problems: &mut Vec<Problem>,
) -> Option<Compiled> {
    let before = problems.len();
    let mut out = Compiled {
        plan: Plan::default(),
        devices: Vec::new(),
        points: Vec::new(),
        spans: Vec::new(),
        blocks: Vec::new(),
        pace,
        planned_for: Vec::new(),
    };
    for spec in &bus.devices {
        let device = device(spec, units, problems);
        let mut names = BTreeSet::new();
        if spec.points.is_empty() {
            problems.push(
                Problem::new(spec.table.place(), format!("device `{}` has no points", spec.name))
                    .hint("add a [[device.point]] with a name and a register, or a profile"),
            );
        }
        for (index, point) in spec.points.iter().enumerate() {
            if !names.insert(point.name.as_str()) {
                problems.push(
                    Problem::new(
                        point.table.place(),
                        format!("device `{}` has a second point `{}`", spec.name, point.name),
                    )
                    .hint("point names are unique in their device"),
                );
            }
            if let Some((parsed, span)) = self::point(point, device.as_ref(), problems) {
                out.plan.points.push(PointInfo {
                    device: out.devices.len(),
                    name: point.name.clone(),
                    spec: Some(index),
                    unit: None,
                    kind: parsed.kind.to_string(),
                    every: point.interval,
                    source: source(&parsed, span),
                    writable: point.writable,
                });
                out.points.push(parsed);
                out.spans.push(span);
            }
        }
        let Some(device) = device else { continue };
        out.plan.devices.push(DeviceInfo { name: spec.name.clone(), address: device.unit.to_string() });
        out.devices.push(device);
        let index = out.devices.len() - 1;
        let pace = out.pace_of(index, None);
        out.planned_for.push(pace);
        let blocks = out.blocks_of(index, pace);
        too_slow(&blocks, spec, &out.devices[index], pace, problems);
        let (described, read): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
        out.plan.blocks.extend(described);
        out.blocks.extend(read);
    }
    (problems.len() == before).then_some(out)
}

/// A pace by which the shortest read takes at most this part more or less than planned is not worth a new
/// plan: all reads together change by no more, and so the plan in use is within twice that of the best.
const SAME_PACE: f64 = 0.01;

/// A plan must save this part of a device's load to replace the one in use: measured values waver.
const WORTHWHILE: f64 = 0.02;

impl Compiled {
    /// The pace of the bus as this device sees it, measured or else as configured.
    fn pace_of(&self, device: usize, measured: Option<Duration>) -> Pace {
        match measured {
            Some(answer_begins) => self.pace.measured(answer_begins),
            None => Pace { turnaround: self.devices[device].turnaround, ..self.pace },
        }
    }

    /// How long the answer of such a read takes on the wire.
    pub fn answer_time(&self, area: Area, span: Span) -> Duration {
        self.pace.char_time * (5 + data_len(span.len, area.bits()))
    }

    /// Plans the points of a device, each table for itself.
    fn blocks_of(&self, device: usize, pace: Pace) -> Vec<(Block, (Area, Run))> {
        let mut tables: BTreeMap<Area, Vec<usize>> = BTreeMap::new();
        for (index, point) in self.points.iter().enumerate() {
            if self.plan.points[index].device == device {
                tables.entry(point.area).or_default().push(index);
            }
        }
        let Device { max_bits, max_registers, max_gap, .. } = self.devices[device];
        let mut blocks = Vec::new();
        for (area, members) in tables {
            let want = |i: &usize| Want { span: self.spans[*i], every: self.points[*i].every };
            let wants: Vec<Want> = members.iter().map(want).collect();
            let max_len = if area.bits() { max_bits } else { max_registers };
            for run in plan(&wants, Limits { max_len, max_gap }, |len| pace.read(len, area.bits())) {
                let every = run.wanted.iter().map(|i| wants[*i].every).min().unwrap_or(Duration::MAX);
                let run = Run { span: run.span, wanted: run.wanted.iter().map(|i| members[*i]).collect() };
                let cost = pace.read(run.span.len, area.bits());
                let what = described(area, run.span);
                blocks.push((Block { device, points: run.wanted.clone(), every, cost, what }, (area, run)));
            }
        }
        blocks
    }

    /// Plans anew what would be more than [`WORTHWHILE`] cheaper at the measured turnarounds. `true` if
    /// anything is.
    pub fn replan(&mut self, measured: impl Fn(usize) -> Option<Duration>) -> bool {
        let mut changed = false;
        let mut all = Vec::new();
        let mut left = std::mem::take(&mut self.plan.blocks)
            .into_iter()
            .zip(std::mem::take(&mut self.blocks))
            .peekable();
        for device in 0..self.devices.len() {
            let mut now = Vec::new();
            while let Some(block) = left.next_if(|(block, _)| block.device == device) {
                now.push(block);
            }
            let pace = self.pace_of(device, measured(device));
            let (new, old) = (pace.read(1, false), self.planned_for[device].read(1, false));
            if new.abs_diff(old).as_secs_f64() <= old.as_secs_f64() * SAME_PACE {
                all.extend(now);
                continue;
            }
            self.planned_for[device] = pace;
            for (block, (area, run)) in &mut now {
                block.cost = pace.read(run.span.len, area.bits());
            }
            let new = self.blocks_of(device, pace);
            if load(&now) > load(&new) * (1.0 + WORTHWHILE) {
                changed = true;
                all.extend(new);
            } else {
                all.extend(now);
            }
        }
        (self.plan.blocks, self.blocks) = all.into_iter().unzip();
        changed
    }
}

fn load(blocks: &[(Block, (Area, Run))]) -> f64 {
    blocks.iter().map(|(block, _)| block.load()).sum()
}

fn described(area: Area, span: Span) -> String {
    let function = match area {
        Area::Coil => 1,
        Area::Discrete => 2,
        Area::Holding => 3,
        Area::Input => 4,
    };
    let (start, last, len) = (span.start, span.end() - 1, span.len);
    let what = if area.bits() { "bits" } else { "registers" };
    format!("{area} {start}..{last} (function {function}, {len} {what})")
}

/// An answer that cannot be over before the timeout would fail for ever.
fn too_slow(
    blocks: &[(Block, (Area, Run))],
    spec: &DeviceSpec<'_>,
    device: &Device,
    pace: Pace,
    problems: &mut Vec<Problem>,
) {
    let longest = blocks.iter().map(|(_, (area, run))| 5 + data_len(run.span.len, area.bits())).max();
    let Some(chars) = longest else { return };
    let time = pace.char_time * chars + pace.turnaround;
    if time >= device.timeout {
        problems.push(
            Problem::new(
                spec.table.place_of("timeout"),
                format!(
                    "device `{}`: an answer of {chars} characters takes {} ms, longer than the timeout of {}",
                    spec.name,
                    time.as_millis() + 1,
                    driver_api::Span(device.timeout)
                ),
            )
            .hint(format!(
                "set timeout = \"{}ms\" or more, or a smaller max_registers",
                (time * 2).as_millis() + 100
            )),
        );
    }
}

fn device(spec: &DeviceSpec<'_>, units: Units, problems: &mut Vec<Problem>) -> Option<Device> {
    let keys: DeviceKeys = spec.table.parse(problems)?;
    let before = problems.len();
    let mut within = |key: &str, value: i64, low: u16, high: u16| -> u16 {
        match u16::try_from(value) {
            Ok(v) if (low..=high).contains(&v) => v,
            _ => {
                problems.push(
                    Problem::new(spec.table.place_of(key), format!("`{key}` is {value}"))
                        .hint(format!("it is {low} to {high}")),
                );
                low
            }
        }
    };
    let max_registers = within("max_registers", keys.max_registers, 1, 125);
    let max_bits = within("max_bits", keys.max_bits, 1, 2000);
    let max_gap = keys.max_gap.map_or(u16::MAX, |gap| within("max_gap", gap, 0, 2000));
    let unit = match u8::try_from(keys.address) {
        Ok(unit @ 1..=247) => unit,
        Ok(unit @ (0 | 255)) if units == Units::Network => unit,
        _ => {
            let hint = match (units, keys.address) {
                (Units::Line, 0) => "0 is the broadcast address, which nobody answers; unit ids are 1 to 247",
                (Units::Line, _) => "unit ids are 1 to 247",
                (Units::Network, _) => "unit ids are 1 to 247, and on Modbus TCP 0 or 255",
            };
            problems.push(
                Problem::new(
                    spec.table.place_of("address"),
                    format!("no device has the unit id {}", keys.address),
                )
                .hint(hint),
            );
            0
        }
    };
    if spec.timeout.is_zero() {
        problems.push(
            Problem::new(spec.table.place(), format!("the timeout of device `{}` is zero", spec.name))
                .hint("500ms suits most devices"),
        );
    }
    (problems.len() == before).then_some(Device {
        unit,
        timeout: spec.timeout,
        write_multiple: keys.write_multiple,
        max_registers,
        max_bits,
        max_gap,
        turnaround: keys.turnaround.0,
    })
}

fn point(
    spec: &PointSpec<'_>,
    device: Option<&Device>,
    problems: &mut Vec<Problem>,
) -> Option<(Point, Span)> {
    let keys: PointKeys = spec.table.parse(problems)?;
    let before = problems.len();
    let mut wrong = |key: &str, message: String, hint: String| {
        problems.push(Problem::new(spec.table.place_of(key), message).hint(hint));
    };
    let place = register(&keys.register).map_err(|(message, hint)| wrong("register", message, hint)).ok();
    let is_bits = place.is_some_and(|(area, _)| area.bits());
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
        for key in ["word_order", "bit", "bits"].into_iter().filter(|k| spec.table.contains(k)) {
            wrong(
                key,
                format!("`{}` is one bit; `{key}` has no meaning there", keys.register),
                format!("take `{key}` out, or name a register of input: or holding:"),
            );
        }
    }
    let bits = match (keys.bit, keys.bits) {
        _ if is_bits => None,
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
    };
    if let Some((area, _)) = place
        && spec.writable
        && !area.writable()
    {
        let hint = "only coil: and holding: can; take `writable` out";
        wrong("register", format!("`{}` cannot be written", keys.register), hint.to_owned());
    }
    if spec.interval.is_zero() {
        let hint = "1s suits most points";
        wrong("interval", format!("the interval of point `{}` is zero", spec.name), hint.to_owned());
    }
    let ((area, start), kind) = (place?, kind?);
    let len = if area.bits() { 1 } else { kind.registers() };
    if u32::from(start) + u32::from(len) > 0x1_0000 {
        let hint = format!("a {kind} takes {len} registers; the last address is 65535");
        wrong("register", format!("`{}` ends beyond 65535", keys.register), hint);
    }
    if let Some(device) = device
        && !area.bits()
        && len > device.max_registers
    {
        let hint = format!("max_registers of this device is {}", device.max_registers);
        wrong("type", format!("a {kind} takes {len} registers, more than one answer holds"), hint);
    }
    let order = keys.word_order.unwrap_or_default();
    let point = Point { area, kind, order, bits, every: spec.interval };
    (problems.len() == before).then_some((point, Span { start, len }))
}

fn field(first: i64, last: i64) -> Option<Bits> {
    Bits::new(u8::try_from(first).ok()?, u8::try_from(last).ok()?)
}

/// `holding:100`, `holding:100 bit 3`, `holding:100 bits 4..7`.
fn source(point: &Point, span: Span) -> String {
    let place = format!("{}:{}", point.area, span.start);
    match point.bits {
        None => place,
        Some(bits) if bits.first() == bits.last() => format!("{place} bit {}", bits.first()),
        Some(bits) => format!("{place} bits {}..{}", bits.first(), bits.last()),
    }
}
