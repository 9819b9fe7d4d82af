//! Buses with their devices and points: common keys understood, profiles laid under, drivers asked.

use std::time::Duration;

use driver_api::table::nearest;
use driver_api::{Bus, BusSpec, DeviceSpec, Driver, PointSpec, Problem, Wire};

use super::model::{BusCommon, Deadband, DeviceCommon, PointCommon, defaults};
use super::profile::Found;
use super::raw::{Everything, Raw};
use super::share::{self, Share};
use super::source::Sources;
use super::values::Values;
use super::{Findings, canon};

/// Keys of `[[bus]]` that are not its driver's.
pub(super) const BUS_KEYS: &[&str] = &["name", "driver", "share"];
/// Keys of `[[device]]` that are not its driver's.
pub(super) const DEVICE_KEYS: &[&str] = &["name", "bus", "interval", "timeout", "profile", "point"];
/// Keys of `[[device.point]]` that are not its driver's.
pub(super) const POINT_KEYS: &[&str] = &[
    "name",
    "interval",
    "unit",
    "description",
    "scale",
    "offset",
    "deadband",
    "max_interval",
    "min",
    "max",
    "values",
    "writable",
];

/// How often a point with a deadband is reported when nothing changes, where it does not say.
pub const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// One bus, ready to be opened.
pub struct CompiledBus {
    /// The bus's name.
    pub name: String,
    /// The name of its driver.
    pub driver: &'static str,
    /// The bus itself; its plan is fixed.
    pub bus: Box<dyn Bus>,
    /// What it opens, as the configuration names it: a port, an address, a path. Empty where it opens nothing.
    pub endpoint: String,
    /// The server onto it for other masters.
    pub share: Option<Share>,
    /// What goes over it.
    pub wire: Wire,
    /// Parallel to `bus.plan().devices`.
    pub devices: Vec<DeviceSettings>,
    /// Parallel to `bus.plan().points`.
    pub points: Vec<PointSettings>,
    /// Changes exactly when something in the bus's, its devices' or their points' tables does, profiles
    /// included. A reload keeps a bus running whose name and fingerprint are the same.
    pub fingerprint: String,
}

/// The common keys of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSettings {
    /// The device's name.
    pub name: String,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// Default poll interval of its points.
    pub interval: Duration,
}

/// The common keys in effect for one point.
#[derive(Debug, Clone, PartialEq)]
pub struct PointSettings {
    /// The configuration's unit, or else the driver's.
    pub unit: Option<String>,
    /// What it is, for people.
    pub description: Option<String>,
    /// Poll interval.
    pub interval: Duration,
    /// value = raw × scale + offset. Finite and not zero.
    pub scale: f64,
    /// value = raw × scale + offset. Finite.
    pub offset: f64,
    /// How large a change must be to be reported; `None`: every reading is.
    pub deadband: Option<Deadband>,
    /// With a deadband: reported at least this often.
    pub max_interval: Duration,
    /// Below this, after scaling, a reading is uncertain.
    pub min: Option<f64>,
    /// Above this, after scaling, a reading is uncertain.
    pub max: Option<f64>,
    /// What the raw numbers mean, in words.
    pub values: Option<Values>,
    /// Whether commands may write it.
    pub writable: bool,
}

impl std::fmt::Debug for CompiledBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledBus")
            .field("name", &self.name)
            .field("driver", &self.driver)
            .field("plan", self.bus.plan())
            .field("points", &self.points)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// One bus on its way from the file to the driver.
pub(super) struct BusDraft<'i> {
    pub raw: Raw<'i>,
    pub common: BusCommon,
    pub driver: Option<&'static dyn Driver>,
    pub devices: Vec<DeviceDraft<'i>>,
}

/// One device with its profile's defaults under it.
pub(super) struct DeviceDraft<'i> {
    pub raw: Raw<'i>,
    pub common: DeviceCommon,
    pub points: Vec<PointDraft<'i>>,
    /// Its profile was not found, so that its points are unknown rather than missing.
    pub profile_lost: bool,
}

/// One point, the profile's and the device's own keys together.
pub(super) struct PointDraft<'i> {
    pub raw: Raw<'i>,
    pub common: PointCommon,
}

/// Understands the common keys of all buses and devices, and hangs the devices on their buses. Devices whose bus is not
/// known come beside them, for their other mistakes.
pub(super) fn draft<'i>(
    all: &Everything<'i>,
    drivers: &[&'static dyn Driver],
    profiles: &Found,
    sources: &'i Sources,
    findings: &mut Findings,
) -> (Vec<BusDraft<'i>>, Vec<DeviceDraft<'i>>) {
    let problems = &mut findings.problems;
    let mut orphans = Vec::new();
    let mut buses: Vec<BusDraft<'i>> =
        all.buses.iter().map(|raw| draft_bus(raw.clone(), drivers, problems)).collect();
    for raw in &all.devices {
        let profile = profiles.profile_of(raw, sources, problems);
        let profile_lost = profile.is_none() && raw.table.contains_key("profile");
        let mut raw = raw.clone();
        let own = raw.take_list("point", "device.point", problems);
        let (mut inherited, mut head) = (Vec::new(), None);
        if let Some(profile) = profile {
            if let Some(base) = profile.device {
                raw = raw.over(base);
            }
            (inherited, head) = (profile.points, profile.head);
        }
        let points = overlay(inherited, own);
        let device = DeviceDraft { profile_lost, ..draft_device(raw, points, problems) };
        let written = device.common.bus.as_str();
        let known: Vec<&str> = buses.iter().map(|b| b.common.name.as_str()).collect();
        // A slip in the name must not hide the device's other mistakes.
        let name = if known.contains(&written) {
            Some(written)
        } else {
            let near = nearest(written, &known);
            if !written.is_empty() && !sources.lost_sections() {
                let problem = Problem::new(device.raw.at("bus"), format!("there is no bus `{written}`"));
                problems.push(match near {
                    Some(near) => problem.hint(format!("did you mean `{near}`?")),
                    None if known.is_empty() => {
                        problem.hint("declare it: `[[bus]]` with a `name` and a `driver`")
                    }
                    None => problem.hint(format!("the buses are {}", known.join(", "))),
                });
            }
            near
        };
        let Some(index) = name.and_then(|n| known.iter().position(|k| *k == n)) else {
            orphans.push(device);
            continue;
        };
        if let (Some(head), Some(driver)) = (head, buses[index].driver)
            && !head.fits(driver.name())
        {
            let message =
                format!("this profile is for `{}`, the bus speaks `{}`", head.driver, driver.name());
            problems.push(Problem::new(device.raw.at("profile"), message));
        }
        buses[index].devices.push(device);
    }
    (buses, orphans)
}

/// What the drivers have to say of a device whose bus is not known: the one that finds least was meant.
pub(super) fn compile_orphan(device: DeviceDraft<'_>, buses: &[BusDraft<'_>], findings: &mut Findings) {
    let mut devices = vec![device];
    let mut least: Option<Vec<Problem>> = None;
    let mut asked = Vec::new();
    for bus in buses {
        let Some(driver) = bus.driver else { continue };
        if asked.contains(&driver.name()) {
            continue;
        }
        asked.push(driver.name());
        let draft =
            BusDraft { raw: bus.raw.clone(), common: bus.common.clone(), driver: bus.driver, devices };
        let mut found = Findings::default();
        let _ = compile(&draft, &mut found);
        devices = draft.devices;
        if least.as_ref().is_none_or(|least| found.problems.len() < least.len()) {
            least = Some(found.problems);
        }
    }
    findings.problems.extend(least.unwrap_or_default());
}

fn draft_bus<'i>(raw: Raw<'i>, drivers: &[&'static dyn Driver], problems: &mut Vec<Problem>) -> BusDraft<'i> {
    let common = raw.table().split(BUS_KEYS).parse_rest(problems).unwrap_or_else(|| BusCommon {
        name: raw.text("name").unwrap_or_default().to_owned(),
        driver: raw.text("driver").unwrap_or_default().to_owned(),
        share: None,
    });
    share::entries(&raw, problems);
    let driver = match crate::registry::find(drivers, &common.driver) {
        Ok(driver) => Some(driver),
        Err(unknown) => {
            if !common.driver.is_empty() {
                let hint = match common.driver.as_str() {
                    "sysfs" => "this version has no driver `sysfs`; leave the bus out".to_owned(),
                    _ => unknown.hint(),
                };
                problems.push(Problem::new(raw.at("driver"), unknown.to_string()).hint(hint));
            }
            unknown.near()
        }
    };
    BusDraft { raw, common, driver, devices: Vec::new() }
}

fn draft_device<'i>(raw: Raw<'i>, points: Vec<Raw<'i>>, problems: &mut Vec<Problem>) -> DeviceDraft<'i> {
    let common = raw.table().split(DEVICE_KEYS).parse_rest(problems).unwrap_or_else(|| DeviceCommon {
        name: raw.text("name").unwrap_or_default().to_owned(),
        bus: raw.text("bus").unwrap_or_default().to_owned(),
        interval: defaults::interval(),
        timeout: defaults::timeout(),
        profile: None,
    });
    let points = points
        .into_iter()
        .filter_map(|raw| {
            let common = raw.table().split(POINT_KEYS).parse_rest(problems)?;
            Some(PointDraft { raw, common })
        })
        .collect();
    DeviceDraft { raw, common, points, profile_lost: false }
}

/// The profile's points with the device's own over them, key by key where the names are the same.
fn overlay<'i>(inherited: Vec<Raw<'i>>, own: Vec<Raw<'i>>) -> Vec<Raw<'i>> {
    let mut own: Vec<Option<Raw<'i>>> = own.into_iter().map(Some).collect();
    let mut points = Vec::new();
    for base in inherited {
        let name = base.text("name").map(str::to_owned);
        let over = own
            .iter_mut()
            .find(|o| name.is_some() && o.as_ref().and_then(|o| o.text("name")) == name.as_deref());
        points.push(match over.and_then(Option::take) {
            Some(own) => own.over(base),
            None => base,
        });
    }
    points.extend(own.into_iter().flatten());
    points
}

/// Asks the driver. `None` if there is none or it found mistakes.
pub(super) fn compile(draft: &BusDraft<'_>, findings: &mut Findings) -> Option<CompiledBus> {
    let driver = draft.driver?;
    let mut table = draft.raw.table();
    let _common = table.split(BUS_KEYS);
    let wire = Wire::default();
    let spec = BusSpec {
        name: draft.common.name.clone(),
        table,
        devices: draft.devices.iter().map(device_spec).collect(),
        wire: wire.clone(),
    };
    let bus = driver.compile(spec, &mut findings.problems);
    for device in draft.devices.iter().filter(|d| d.profile_lost) {
        let header = device.raw.place();
        findings.problems.retain(|p| !(p.place == header && p.message.contains("no points")));
    }
    let bus = bus?;
    let devices: Vec<DeviceSettings> = draft
        .devices
        .iter()
        .map(|d| DeviceSettings {
            name: d.common.name.clone(),
            timeout: d.common.timeout.0,
            interval: d.common.interval.0,
        })
        .collect();
    let points = bus
        .plan()
        .points
        .iter()
        .map(|info| {
            let device = draft.devices.get(info.device);
            let own = device.zip(info.spec).and_then(|(d, spec)| d.points.get(spec)).map(|p| &p.common);
            let default = device.map_or(defaults::interval().0, |d| d.common.interval.0);
            settings(own, info, default)
        })
        .collect();
    Some(CompiledBus {
        name: draft.common.name.clone(),
        driver: driver.name(),
        bus,
        endpoint: ["port", "address", "path"]
            .iter()
            .find_map(|key| draft.raw.text(key))
            .unwrap_or_default()
            .to_owned(),
        share: draft.common.share.clone(),
        wire,
        devices,
        points,
        fingerprint: canon::fingerprint(&canonical(draft)),
    })
}

fn settings(own: Option<&PointCommon>, info: &driver_api::PointInfo, interval: Duration) -> PointSettings {
    PointSettings {
        unit: own.and_then(|c| c.unit.clone()).or_else(|| info.unit.clone()),
        description: own.and_then(|c| c.description.clone()),
        interval: own.and_then(|c| c.interval).map_or(interval, |i| i.0),
        scale: own.and_then(|c| c.scale).unwrap_or(1.0),
        offset: own.and_then(|c| c.offset).unwrap_or(0.0),
        deadband: own.and_then(|c| c.deadband),
        max_interval: own.and_then(|c| c.max_interval).map_or(MAX_INTERVAL, |i| i.0),
        min: own.and_then(|c| c.min),
        max: own.and_then(|c| c.max),
        values: own.and_then(|c| c.values.clone()),
        writable: info.writable,
    }
}

fn device_spec<'i>(draft: &DeviceDraft<'i>) -> DeviceSpec<'i> {
    let mut table = draft.raw.table();
    let _common = table.split(DEVICE_KEYS);
    let interval = draft.common.interval.0;
    let points = draft.points.iter().map(|point| {
        let mut table = point.raw.table();
        let _common = table.split(POINT_KEYS);
        PointSpec {
            name: point.common.name.clone(),
            interval: point.common.interval.map_or(interval, |i| i.0),
            writable: point.common.writable,
            table,
        }
    });
    DeviceSpec {
        name: draft.common.name.clone(),
        interval,
        timeout: draft.common.timeout.0,
        table,
        points: points.collect(),
    }
}

fn canonical(draft: &BusDraft<'_>) -> String {
    let mut text = String::new();
    canon::table(&mut text, &draft.raw.table);
    for device in &draft.devices {
        canon::table(&mut text, &device.raw.table);
        for point in &device.points {
            canon::table(&mut text, &point.raw.table);
        }
    }
    text
}
