//! Rules of buses, devices and points.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use driver_api::{Problem, Span};

use super::{Findings, Names, Sources};
use crate::config::buses::{BusDraft, CompiledBus, DeviceDraft, PointDraft};
use crate::config::problems::locate;
use crate::config::values::whole_range;

/// Shortest poll interval. A Modbus exchange at 115,200 baud takes about 5 ms.
const MIN_INTERVAL: Span = Span::ms(10);
/// Longest wait for one answer.
const MAX_TIMEOUT: Span = Span::s(60);
/// Share of a bus above which polls are likely to come late.
const HIGH_LOAD: f64 = 0.8;
/// Keys by which drivers name the thing they open; two buses cannot share one.
const ENDPOINT_KEYS: &[&str] = &["port", "path", "address"];

pub(super) fn check(
    buses: &[BusDraft<'_>],
    orphans: &[DeviceDraft<'_>],
    sources: &Sources,
    findings: &mut Findings,
) {
    let mut names = Names::of("bus", sources);
    let mut devices = Names::of("device", sources);
    let mut endpoints = HashMap::new();
    for bus in buses {
        names.add(&bus.common.name, bus.raw.at("name"), &mut findings.problems);
        check_endpoint(bus, sources, &mut endpoints, &mut findings.problems);
        if bus.devices.is_empty() && !sources.lost_sections() {
            let unserved = if bus.common.share.is_some() { ", and its `share` is not served" } else { "" };
            let message = format!("bus `{}` has no devices; it is not opened{unserved}", bus.common.name);
            let hint = format!("add a `[[device]]` with `bus = \"{}\"`", bus.common.name);
            findings.warnings.push(Problem::new(bus.raw.at("name"), message).hint(hint));
        }
        for device in &bus.devices {
            devices.add(&device.common.name, device.raw.at("name"), &mut findings.problems);
            check_device(device, sources, findings);
        }
    }
    for device in orphans {
        devices.add(&device.common.name, device.raw.at("name"), &mut findings.problems);
        check_device(device, sources, findings);
    }
}

fn check_endpoint(
    bus: &BusDraft<'_>,
    sources: &Sources,
    seen: &mut HashMap<PathBuf, driver_api::Place>,
    problems: &mut Vec<Problem>,
) {
    for key in ENDPOINT_KEYS {
        let Some(text) = bus.raw.text(key) else { continue };
        // `/dev/serial/by-id/…` and `/dev/ttyUSB0` may be the same adapter.
        let endpoint = std::fs::canonicalize(text).unwrap_or_else(|_| PathBuf::from(text));
        let place = bus.raw.at(key);
        match seen.get(&endpoint) {
            None => {
                seen.insert(endpoint, place);
            }
            Some(first) => {
                let at = locate(sources, first);
                let hint =
                    format!("the other is at {}:{}; devices on one line belong to one bus", at.file, at.line);
                problems
                    .push(Problem::new(place, format!("`{text}` is the `{key}` of two buses")).hint(hint));
            }
        }
    }
}

fn check_device(device: &DeviceDraft<'_>, sources: &Sources, findings: &mut Findings) {
    let problems = &mut findings.problems;
    let timeout = device.common.timeout;
    if timeout.0.is_zero() || timeout > MAX_TIMEOUT {
        let problem = Problem::new(device.raw.at("timeout"), format!("`timeout` cannot be {timeout}"));
        problems.push(problem.hint(format!("it is more than 0 and at most {MAX_TIMEOUT}")));
    }
    check_interval(device.common.interval, || device.raw.at("interval"), problems);
    let mut names = Names::of("point", sources);
    for point in &device.points {
        names.add(&point.common.name, point.raw.at("name"), &mut findings.problems);
        check_point(point, device.common.interval, findings);
    }
}

fn check_interval(interval: Span, place: impl Fn() -> driver_api::Place, problems: &mut Vec<Problem>) {
    if interval < MIN_INTERVAL {
        let problem = Problem::new(place(), format!("`interval` of {interval} is too short"));
        problems.push(problem.hint(format!("the shortest is {MIN_INTERVAL}")));
    }
}

fn check_point(point: &PointDraft<'_>, default: Span, findings: &mut Findings) {
    let Findings { problems, warnings } = findings;
    let (common, raw) = (&point.common, &point.raw);
    if let Some(interval) = common.interval {
        check_interval(interval, || raw.at("interval"), problems);
    }
    for (key, number) in
        [("scale", common.scale), ("offset", common.offset), ("min", common.min), ("max", common.max)]
    {
        if number.is_some_and(|x| !x.is_finite()) {
            let problem = Problem::new(raw.at(key), format!("`{key}` is not a finite number"));
            problems.push(problem.hint("leave the key out where there is no limit"));
        }
    }
    if common.scale == Some(0.0) {
        let problem = Problem::new(raw.at("scale"), "a `scale` of 0 makes every value the same");
        problems.push(problem.hint("value = raw × scale + offset; leave it out for 1"));
    }
    if let (Some(min), Some(max)) = (common.min, common.max)
        && min > max
    {
        let problem = Problem::new(raw.at("min"), format!("`min` {min} is above `max` {max}"));
        problems.push(problem.hint("exchange the two"));
    }
    if common.values.is_some() {
        for key in ["scale", "offset", "min", "max"].into_iter().filter(|key| raw.table.contains_key(*key)) {
            let message = format!("`{key}` has no meaning beside `values`: the reading is a word");
            let hint = "the numbers of `values` are the raw ones; take one of the two out";
            problems.push(Problem::new(raw.key(key), message).hint(hint));
        }
    }
    let interval = common.interval.unwrap_or(default);
    if let Some(longest) = common.max_interval {
        if longest.0.is_zero() {
            problems.push(Problem::new(raw.at("max_interval"), "`max_interval` cannot be 0"));
        } else if common.deadband.is_none() {
            let problem =
                Problem::new(raw.key("max_interval"), "`max_interval` has no effect without `deadband`");
            warnings.push(problem.hint("without a deadband every reading is reported"));
        } else if longest < interval {
            let message =
                format!("`max_interval` of {longest} is shorter than the poll interval of {interval}");
            warnings.push(Problem::new(raw.at("max_interval"), message).hint("the deadband has no effect"));
        }
    }
}

/// Checks what only the compiled bus can tell.
pub(in crate::config) fn after_compiling(draft: &BusDraft<'_>, bus: &CompiledBus, findings: &mut Findings) {
    let plan = bus.bus.plan();
    for (info, settings) in plan.points.iter().zip(&bus.points) {
        let point = draft.devices.get(info.device).zip(info.spec).and_then(|(d, s)| d.points.get(s));
        let Some(point) = point else { continue };
        if info.kind.starts_with("string") || info.kind.starts_with("time") {
            let numeric = ["scale", "offset", "deadband", "min", "max", "values"];
            for key in numeric.into_iter().filter(|key| point.raw.table.contains_key(*key)) {
                let message = format!("`{key}` is for numbers; `{}` is text", info.name);
                findings.problems.push(Problem::new(point.raw.key(key), message).hint("take it out"));
            }
        }
        if let (Some(values), Some((low, high))) = (&settings.values, whole_range(&info.kind)) {
            for number in values.numbers().filter(|n| !(low..=high).contains(&i128::from(*n))) {
                let message = format!("`values` lists {number}, which a {} never is", info.kind);
                let hint = format!("a {} is {low} to {high}", info.kind);
                findings.problems.push(Problem::new(point.raw.at("values"), message).hint(hint));
            }
        }
        if point.common.writable && !settings.writable {
            let message = format!("`{}` ({}) cannot be written", info.name, info.source);
            findings.warnings.push(Problem::new(point.raw.key("writable"), message));
        }
    }
    for (index, device) in draft.devices.iter().enumerate() {
        if plan.points.iter().all(|p| p.device != index) {
            let message = format!("device `{}` has no points; nothing is polled", device.common.name);
            let hint = "add `[[device.point]]` tables below it, or a `profile`";
            findings.warnings.push(Problem::new(device.raw.at("name"), message).hint(hint));
        }
    }
    let load = plan.predicted_load();
    if load > HIGH_LOAD {
        let message = format!("bus `{}` would be busy {:.0} % of the time", bus.name, load * 100.0);
        let hint = if load > 1.0 {
            "polls will come late; use longer intervals, a higher baud rate, or a second bus"
        } else {
            "one device that does not answer will delay the others; use longer intervals or a higher baud rate"
        };
        findings.warnings.push(Problem::new(draft.raw.at("name"), message).hint(hint));
    }
    let slow = draft.devices.iter().filter(|d| d.common.timeout.0 > Duration::from_secs(10));
    for device in slow {
        let message =
            format!("device `{}` may hold the bus for {}", device.common.name, device.common.timeout);
        let hint = "half a second is enough for most devices";
        findings.warnings.push(Problem::new(device.raw.at("timeout"), message).hint(hint));
    }
}
