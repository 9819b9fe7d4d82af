//! From configuration tables to a plan: checks every device and point of one bus, and groups the
//! points into block reads. Touches no hardware.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use driver_api::decode::WordOrder;
use driver_api::{Block, BusSpec, DeviceInfo, DeviceSpec, Plan, PointInfo, Problem};

use crate::config::Area;
use crate::device::{Device, device};
use crate::place::{Place, Space};
use crate::plan::{Limits, Pace, Run, Span, data_len, plan};
use crate::point::{Point, point};

/// Everything that one bus knows of its devices. Indices are those of [`Plan`].
#[derive(Debug)]
pub(crate) struct Compiled {
    pub plan: Plan,
    pub devices: Vec<Device>,
    pub points: Vec<Point>,
    /// Powers of ten that some points are multiplied by.
    pub factors: Vec<Factor>,
    /// For each point the factor it is multiplied by.
    pub factor_of: Vec<Option<usize>>,
    /// For each *want* what it covers, as [`crate::plan::split`] wants it: first the points, then the factors.
    pub spans: Vec<Span>,
    /// For each block its address space and what it reads; `wanted` are wants.
    pub blocks: Vec<(Space, Run)>,
    /// Reads of factors alone, which no block of their points covers.
    pub extras: Vec<Extra>,
}

/// A power of ten that the device itself names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Factor {
    pub device: usize,
    pub place: Place,
    /// Whether the bytes of its register stand the other way round.
    pub swapped: bool,
    /// As often as the points that it belongs to, so that they share a block.
    every: Duration,
}

/// A read of factors alone.
#[derive(Debug)]
pub(crate) struct Extra {
    pub device: usize,
    pub space: Space,
    /// `wanted` are wants, all of them factors.
    pub run: Run,
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
        factors: Vec::new(),
        factor_of: Vec::new(),
        spans: Vec::new(),
        blocks: Vec::new(),
        extras: Vec::new(),
    };
    for spec in &bus.devices {
        let device = device(spec, units, problems);
        points(&mut out, spec, device.as_ref(), problems);
        let Some(device) = device else { continue };
        out.plan.devices.push(DeviceInfo { name: spec.name.clone(), address: device.unit.to_string() });
        out.devices.push(device);
    }
    if problems.len() > before {
        return None;
    }
    // Behind the points of all devices, so that points keep the indices of the plan.
    factors(&mut out);
    for (index, spec) in bus.devices.iter().enumerate() {
        let device = out.devices[index].clone();
        if device.broadcast {
            continue;
        }
        let pace = Pace { turnaround: device.turnaround, ..pace };
        blocks(&mut out, index, &device, pace);
        too_slow(&out, index, spec, &device, pace, problems);
    }
    (problems.len() == before).then_some(out)
}

/// Checks the points of one device, which is the next to be pushed.
fn points(out: &mut Compiled, spec: &DeviceSpec<'_>, device: Option<&Device>, problems: &mut Vec<Problem>) {
    let mut names = BTreeSet::new();
    if spec.points.is_empty() {
        problems.push(
            Problem::new(spec.table.place(), format!("device `{}` has no points", spec.name))
                .hint("add a [[device.point]] with a name and a register, or a profile"),
        );
    }
    let mut in_models = device.is_some_and(Device::setup_needs_models);
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
        if let Some(parsed) = self::point(point, device, problems) {
            in_models |= [Some(parsed.place), parsed.scale]
                .iter()
                .flatten()
                .any(|place| matches!(place.space, Space::Model(_)));
            out.plan.points.push(PointInfo {
                device: out.devices.len(),
                name: point.name.clone(),
                spec: Some(index),
                unit: None,
                kind: parsed.word(),
                source: parsed.source(),
                writable: point.writable,
            });
            out.spans.push(parsed.span());
            out.points.push(parsed);
        }
    }
    if spec.table.contains("sunspec_base") && !in_models && !spec.points.is_empty() {
        let message = "`sunspec_base` has no use: nothing of this device is in a model".to_owned();
        problems.push(
            Problem::new(spec.table.place_of("sunspec_base"), message)
                .hint("take it out, or name registers as in \"model:103:14\""),
        );
    }
}

/// Finds the factors of all points; each is wanted once, however many points it belongs to.
fn factors(out: &mut Compiled) {
    let mut known: BTreeMap<Factor, usize> = BTreeMap::new();
    for (point, info) in out.points.iter().zip(&out.plan.points) {
        let factor = point.scale.map(|place| Factor {
            device: info.device,
            place,
            swapped: matches!(point.order, WordOrder::Badc | WordOrder::Dcba),
            every: point.every,
        });
        out.factor_of.push(factor.map(|factor| {
            *known.entry(factor).or_insert_with(|| {
                out.factors.push(factor);
                out.spans.push(Span { start: factor.place.at, len: 1 });
                out.factors.len() - 1
            })
        }));
    }
}

/// Groups what is wanted of one device by address space and interval, and plans each group.
fn blocks(out: &mut Compiled, index: usize, device: &Device, pace: Pace) {
    let mut groups: BTreeMap<(Space, Duration), Vec<usize>> = BTreeMap::new();
    let points =
        out.points.iter().zip(&out.plan.points).map(|(p, info)| (info.device, p.place.space, p.every));
    let factors = out.factors.iter().map(|factor| (factor.device, factor.place.space, factor.every));
    for (want, (_, space, every)) in points.chain(factors).enumerate().filter(|(_, (d, ..))| *d == index) {
        groups.entry((space, every)).or_default().push(want);
    }
    for ((space, every), members) in groups {
        let area = space.area();
        let wanted: Vec<Span> = members.iter().map(|i| out.spans[*i]).collect();
        let max_len = if area.bits() { device.max_bits } else { device.max_registers };
        let limits = Limits { max_len, max_gap: device.max_gap };
        for run in plan(&wanted, limits, |len| pace.read(len, area.bits())) {
            let wants: Vec<usize> = run.wanted.iter().map(|i| members[*i]).collect();
            let points: Vec<usize> = wants.iter().copied().filter(|want| *want < out.points.len()).collect();
            let run = Run { span: run.span, wanted: wants };
            if points.is_empty() {
                out.extras.push(Extra { device: index, space, run });
                continue;
            }
            let Span { start, len } = run.span;
            out.plan.blocks.push(Block {
                device: index,
                points,
                every,
                cost: pace.read(len, area.bits()),
                what: format!(
                    "{space} {start}..{} (function {}, {len} {})",
                    run.span.end() - 1,
                    match area {
                        Area::Coil => 1,
                        Area::Discrete => 2,
                        Area::Holding => 3,
                        Area::Input => 4,
                    },
                    if area.bits() { "bits" } else { "registers" },
                ),
            });
            out.blocks.push((space, run));
        }
    }
}

/// An answer that cannot be over before the timeout would fail for ever.
fn too_slow(
    out: &Compiled,
    index: usize,
    spec: &DeviceSpec<'_>,
    device: &Device,
    pace: Pace,
    problems: &mut Vec<Problem>,
) {
    let longest = out.blocks.iter().zip(&out.plan.blocks).filter(|(_, b)| b.device == index);
    let longest = longest.map(|((space, run), _)| 5 + data_len(run.span.len, space.area().bits())).max();
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
