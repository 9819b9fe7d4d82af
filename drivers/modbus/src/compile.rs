//! From configuration tables to a plan: checks every device and point of one bus, and groups the
//! points into block reads. Touches no hardware.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use driver_api::decode::WordOrder;
use driver_api::{Block, BusSpec, DeviceInfo, DeviceSpec, Plan, PointInfo, Problem};

use crate::config::Area;
use crate::cover::{Want, plan};
use crate::device::{Device, device};
use crate::place::{Place, Space};
use crate::plan::{Limits, Pace, Run, Span, data_len};
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
    /// How long the chores before one poll may go on, see [`Self::spare_of`].
    pub spare: Duration,
    pace: Pace,
    /// For each device the pace by which its blocks are the best ones.
    pub planned_for: Vec<Pace>,
}

/// A block, its address space and what it reads.
type Planned = (Block, (Space, Run));

/// A power of ten that the device itself names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factor {
    pub device: usize,
    pub place: Place,
    /// Whether the bytes of its register stand the other way round.
    pub swapped: bool,
    /// How often it is wanted, see [`Factor::wanted_by`].
    every: Duration,
    /// The fastest and the slowest of its points.
    points: (Duration, Duration),
}

/// How often a power of ten is read again at least, if any point needs it so often. Devices change them when
/// their range changes, which is rare, but then a value is wrong by a power of ten for as long.
pub(crate) const RENEWED: Duration = Duration::from_secs(20);

impl Factor {
    /// Another point is multiplied by it.
    fn wanted_by(&mut self, every: Duration) {
        let (fastest, slowest) = (self.points.0.min(every), self.points.1.max(every));
        self.points = (fastest, slowest);
        // As often as the slowest: it rides along with faster ones, and makes no block faster unless it must.
        self.every = fastest.max(slowest.min(RENEWED));
    }

    /// How old it may grow: 60 s, or three rounds of its points, so that two lost answers do no harm.
    pub fn max_age(&self) -> Duration {
        RENEWED.max(self.points.0).saturating_mul(3)
    }
}

/// A read of factors alone.
#[derive(Debug)]
pub(crate) struct Extra {
    pub device: usize,
    pub space: Space,
    /// `wanted` are wants, all of them factors.
    pub run: Run,
}

impl Extra {
    /// Share of the bus that it takes at most.
    fn load(&self, pace: Pace) -> f64 {
        pace.read(self.run.span.len, self.space.area().bits()).as_secs_f64() / RENEWED.as_secs_f64()
    }
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
        spare: Duration::ZERO,
        pace,
        planned_for: Vec::new(),
    };
    for spec in &bus.devices {
        let device = device(spec, units, problems);
        points(&mut out, spec, device.as_ref(), problems);
        let Some(device) = device else { continue };
        out.plan.devices.push(DeviceInfo {
            name: spec.name.clone(),
            address: device.unit.to_string(),
            models_at: device.sunspec_base,
        });
        out.devices.push(device);
    }
    if problems.len() > before {
        return None;
    }
    // Behind the points of all devices, so that points keep the indices of the plan.
    factors(&mut out);
    for (index, spec) in bus.devices.iter().enumerate() {
        let pace = out.pace_of(index, None);
        out.planned_for.push(pace);
        let (blocks, extras) = out.blocks_of(index, pace);
        too_slow(&blocks, spec, &out.devices[index], pace, problems);
        let (described, read): (Vec<_>, Vec<_>) = blocks.into_iter().unzip();
        out.plan.blocks.extend(described);
        out.blocks.extend(read);
        out.extras.extend(extras);
    }
    out.planned();
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
                every: point.interval,
                source: parsed.source(),
                registers: Some(parsed.span().len),
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
    let mut known: BTreeMap<(usize, Place, bool), usize> = BTreeMap::new();
    for (point, info) in out.points.iter().zip(&out.plan.points) {
        let Some(place) = point.scale else {
            out.factor_of.push(None);
            continue;
        };
        let swapped = matches!(point.order, WordOrder::Badc | WordOrder::Dcba);
        let index = *known.entry((info.device, place, swapped)).or_insert_with(|| {
            out.factors.push(Factor {
                device: info.device,
                place,
                swapped,
                every: point.every,
                points: (point.every, point.every),
            });
            out.spans.push(Span { start: place.at, len: 1 });
            out.factors.len() - 1
        });
        out.factors[index].wanted_by(point.every);
        out.factor_of.push(Some(index));
    }
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

    /// How long a line is listened to before the first request: as long as its slowest device may take, but never
    /// so long that a start seems to hang.
    pub fn listens_first(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(2);
        self.devices.iter().map(|device| device.timeout).max().unwrap_or_default().min(LONGEST)
    }

    /// How long the answer of such a read takes on the wire.
    pub fn answer_time(&self, area: Area, span: Span) -> Duration {
        self.pace.char_time * (5 + data_len(span.len, area.bits()))
    }

    /// What is wanted of a device, by address space: points, and the factors that they are multiplied by.
    fn wants_of(&self, device: usize) -> BTreeMap<Space, Vec<(usize, Want)>> {
        let mut spaces: BTreeMap<Space, Vec<(usize, Want)>> = BTreeMap::new();
        let points = self.points.iter().zip(&self.plan.points);
        let points = points.map(|(point, info)| (info.device, point.place.space, point.every));
        let factors = self.factors.iter().map(|factor| (factor.device, factor.place.space, factor.every));
        let all = points.chain(factors).zip(&self.spans).enumerate();
        for (want, ((_, space, every), span)) in all.filter(|(_, ((of, ..), _))| *of == device) {
            spaces.entry(space).or_default().push((want, Want { span: *span, every }));
        }
        spaces
    }

    /// Plans what is wanted of a device, each address space for itself. What holds factors alone is no block: no
    /// point is read with it.
    fn blocks_of(&self, device: usize, pace: Pace) -> (Vec<Planned>, Vec<Extra>) {
        let Device { max_bits, max_registers, max_gap, broadcast, .. } = self.devices[device];
        let (mut blocks, mut extras) = (Vec::new(), Vec::new());
        if broadcast {
            return (blocks, extras);
        }
        for (space, members) in self.wants_of(device) {
            let bits = space.area().bits();
            let wants: Vec<Want> = members.iter().map(|(_, want)| *want).collect();
            let max_len = if bits { max_bits } else { max_registers };
            for run in plan(&wants, Limits { max_len, max_gap }, |len| pace.read(len, bits)) {
                let every = run.wanted.iter().map(|i| wants[*i].every).min().unwrap_or(Duration::MAX);
                let run = Run { span: run.span, wanted: run.wanted.iter().map(|i| members[*i].0).collect() };
                let points: Vec<usize> =
                    run.wanted.iter().copied().filter(|want| *want < self.points.len()).collect();
                if points.is_empty() {
                    extras.push(Extra { device, space, run });
                    continue;
                }
                let read = self.read_as(device, space, run.span);
                let (cost, what) = (pace.read(read.len, bits), described(space, read));
                blocks.push((Block { device, points, every, cost, what }, (space, run)));
            }
        }
        (blocks, extras)
    }

    /// What a block is read as: near the head of its model, with the head.
    fn read_as(&self, device: usize, space: Space, span: Span) -> Span {
        self.devices[device].with_head(space, span).unwrap_or(span)
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
            for (block, (space, run)) in &mut now {
                let read = self.read_as(device, *space, run.span);
                block.cost = pace.read(read.len, space.area().bits());
            }
            let (new, extras) = self.blocks_of(device, pace);
            let old = self.extras.iter().filter(|extra| extra.device == device);
            let old = load(&now) + old.map(|extra| extra.load(pace)).sum::<f64>();
            let best = load(&new) + extras.iter().map(|extra| extra.load(pace)).sum::<f64>();
            if old > best * (1.0 + WORTHWHILE) {
                changed = true;
                all.extend(new);
                self.extras.retain(|extra| extra.device != device);
                self.extras.extend(extras);
            } else {
                all.extend(now);
            }
        }
        (self.plan.blocks, self.blocks) = all.into_iter().unzip();
        self.planned();
        changed
    }
}

fn load(blocks: &[Planned]) -> f64 {
    blocks.iter().map(|(block, _)| block.load()).sum()
}

pub(crate) fn described(space: Space, span: Span) -> String {
    let function = space.area().read_function();
    let (start, last, len) = (span.start, span.end() - 1, span.len);
    let what = if space.area().bits() { "bits" } else { "registers" };
    format!("{space} {start}..{last} (function {function}, {len} {what})")
}

/// An answer that cannot be over before the timeout would fail for ever.
fn too_slow(
    blocks: &[Planned],
    spec: &DeviceSpec<'_>,
    device: &Device,
    pace: Pace,
    problems: &mut Vec<Problem>,
) {
    let chars = |space: Space, run: &Run| 5 + data_len(run.span.len, space.area().bits());
    let longest = blocks.iter().map(|(_, (space, run))| chars(*space, run)).max();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a factor is wanted, and how old it may be, for points of so many seconds.
    fn factor(points: &[u64]) -> (u64, u64) {
        let first = Duration::from_secs(points[0]);
        let place = Place { space: Space::Table(Area::Input), at: 0 };
        let mut factor = Factor { device: 0, place, swapped: false, every: first, points: (first, first) };
        for every in points {
            factor.wanted_by(Duration::from_secs(*every));
        }
        (factor.every.as_secs(), factor.max_age().as_secs())
    }

    #[test]
    fn a_factor_is_wanted_in_time_for_its_fastest_point() {
        assert_eq!(factor(&[1]), (1, 60));
        assert_eq!(factor(&[1, 5]), (5, 60), "it rides along");
        assert_eq!(factor(&[1, 3600]), (20, 60), "and is not as old as the slowest");
        assert_eq!(factor(&[3600, 300]), (300, 900), "nobody needs it before");
    }
}
