//! The configuration: files, typed model, rules across sections, and mistakes with their place.
//!
//! [`load`] reads `fieldgate.toml` and `conf.d/*.toml` beside it and either gives everything the
//! gateway needs to run, or a [`Report`] with every mistake of every file. It never touches hardware
//! and never panics, whatever stands in the files.

pub mod buses;
mod canon;
pub mod catalogue;
pub mod connect;
mod deadband;
mod doors;
pub mod model;
pub mod named;
pub mod problems;
pub mod profile;
pub mod proxy;
mod raw;
pub mod reference;
pub mod routes;
mod rules;
pub mod schema;
mod sections;
pub mod share;
pub mod source;
mod sparkplug;
pub mod url;
pub mod values;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use driver_api::{Driver, Problem, SourceId};

pub use buses::{CompiledBus, DeviceSettings, PointSettings};
pub use problems::{Report, Spot};
pub use url::Endpoint;

use model::{Broker, Gateway, Store, Uplink};
use named::Named;
use raw::{Everything, gather};
use source::Sources;

/// Where the configuration is on an installed box.
pub const DEFAULT_PATH: &str = "/etc/fieldgate/fieldgate.toml";

/// A configuration without mistakes.
#[derive(Debug)]
pub struct Loaded {
    /// The gateway itself.
    pub gateway: Gateway,
    /// The local broker; its listeners are the built-in ones where no file names any.
    pub broker: Broker,
    /// The store-and-forward queue.
    pub store: Store,
    /// The cloud brokers, in file order. All paths start from `/` or from the working directory.
    pub uplinks: Vec<Uplink>,
    /// The buses that have devices, in file order.
    pub buses: Vec<CompiledBus>,
    /// The buses without devices: nothing opens them, but a person may look for devices there.
    pub idle: Vec<CompiledBus>,
    /// Every file that was read, profiles included.
    pub files: Vec<PathBuf>,
    /// Sixteen hex digits that change exactly when something effective does (not comments, not order
    /// of keys, not what stands in password and certificate files).
    pub hash: String,
    /// What works but is probably not meant.
    pub warnings: Report,
}

/// What one run found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub problems: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

/// Loads a configuration with the profiles beside it and those of the package.
///
/// # Errors
/// Every mistake of every file, with its place.
pub fn load(main: &Path, drivers: &[&'static dyn Driver]) -> Result<Loaded, Report> {
    load_with(main, drivers, &profile::search_path(main))
}

/// As [`load`], looking for profiles in these directories.
///
/// # Errors
/// Every mistake of every file, with its place.
pub fn load_with(
    main: &Path,
    drivers: &[&'static dyn Driver],
    profiles: &[PathBuf],
) -> Result<Loaded, Report> {
    let mut findings = Findings::default();
    let mut sources = Sources::read(main, &mut findings.problems);
    let files: Vec<SourceId> = sources.iter().map(|(id, _)| id).collect();
    // Read first for the names of profiles only, so that their files are there before any is borrowed.
    let names = gather(&sources, files.iter().copied(), &mut Vec::new())
        .devices
        .iter()
        .filter_map(|device| device.text("profile").map(str::to_owned))
        .collect::<Vec<_>>();
    let found = profile::read(names.into_iter(), profiles, &mut sources, &mut findings.problems);

    let all = gather(&sources, files.into_iter(), &mut findings.problems);
    let (understood, named) = understand(&all, drivers, &found, &sources, &mut findings);
    let mut report =
        Report { sources, problems: findings.problems, warnings: findings.warnings, named: Box::new(named) };
    for problem in &mut report.problems {
        improve(problem);
    }
    report.tidy();
    if !report.problems.is_empty() {
        return Err(report);
    }
    let (gateway, broker, store, uplinks, buses) = understood;
    let (buses, idle): (Vec<_>, Vec<_>) = buses.into_iter().partition(|bus| !bus.devices.is_empty());
    let hash = effective_hash(&gateway, &broker, &store, &uplinks, &buses);
    let files = report.sources.iter().map(|(_, s)| s.path.clone()).collect();
    Ok(Loaded { gateway, broker, store, uplinks, buses, idle, files, hash, warnings: report })
}

type Understood = (Gateway, Broker, Store, Vec<Uplink>, Vec<CompiledBus>);

fn understand(
    all: &Everything<'_>,
    drivers: &[&'static dyn Driver],
    profiles: &profile::Found,
    sources: &Sources,
    findings: &mut Findings,
) -> (Understood, Named) {
    let sections = sections::read(all, sources, &mut findings.problems);
    let named = Named::of(&sections, all);
    let (drafts, orphans) = buses::draft(all, drivers, profiles, sources, findings);
    rules::before_compiling(&sections, all, (&drafts, &orphans), sources, findings);
    for device in orphans {
        buses::compile_orphan(device, &drafts, findings);
    }
    let mut compiled = Vec::new();
    for draft in &drafts {
        let Some(bus) = buses::compile(draft, findings) else { continue };
        if !draft.devices.is_empty() {
            rules::after_compiling(draft, &bus, findings);
        }
        compiled.push(bus);
    }
    for (uplink, raw) in &sections.uplinks {
        rules::check_commands(uplink, raw, &compiled, findings);
    }
    rules::store_after_compiling(&sections.store, &compiled, all, findings);
    let sections::Sections { gateway, broker, store, uplinks, .. } = sections;
    let uplinks = uplinks.into_iter().map(|(uplink, _)| uplink).collect();
    ((gateway, broker, store, uplinks, compiled), named)
}

/// Gives a problem the hint that only the whole configuration knows, and every type error one.
fn improve(problem: &mut Problem) {
    if let Some((message, example)) = problem.message.split_once(", such as ") {
        problem.hint.get_or_insert(format!("for example {example}"));
        problem.message = message.to_owned();
    }
    if problem.hint.is_none() && problem.message.contains("invalid type: ") {
        let found_text = problem.message.contains("invalid type: string");
        let wanted = problem.message.split_once("expected ").map_or("", |(_, what)| what);
        problem.hint = Some(match wanted {
            "a string" | "a borrowed string" => "put it in quotes".to_owned(),
            _ if found_text && !wanted.starts_with("a sequence") => "write it without quotes".to_owned(),
            "a sequence" => "write a list: `[…, …]`".to_owned(),
            _ => format!("write {wanted}"),
        });
    }
    let Some(key) = problem.message.strip_prefix("unknown key `").and_then(|k| k.strip_suffix('`')) else {
        return;
    };
    problem.hint = Some(match key {
        "password" | "passwd" | "secret" => {
            "a secret does not stand here: put it into a file and name it by `password_file`".to_owned()
        }
        "user" | "user_name" => "it is called `username`".to_owned(),
        "host" | "hostname" | "server" | "broker" => "an uplink's address is its `url`".to_owned(),
        _ => return,
    });
}

fn effective_hash(
    gateway: &Gateway,
    broker: &Broker,
    store: &Store,
    uplinks: &[Uplink],
    buses: &[CompiledBus],
) -> String {
    let buses: Vec<(&str, &str)> = buses.iter().map(|b| (b.name.as_str(), b.fingerprint.as_str())).collect();
    // JSON refuses only a path that is not UTF-8.
    let text = serde_json::to_string(&(gateway, broker, store, uplinks, &buses))
        .unwrap_or_else(|_| format!("{gateway:?}{broker:?}{store:?}{uplinks:?}{buses:?}"));
    canon::fingerprint(&text)
}
