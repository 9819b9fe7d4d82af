//! Device profiles: points of a known device type, as data.
//!
//! A profile is a TOML file `NAME.toml`: `[profile]` says what it is for and which document it was made
//! from, `[device]` may hold defaults of the device's keys, and each `[[point]]` is a point as it would
//! stand in the configuration. Own points of a device go over the profile's points of the same name,
//! key by key; other own points are added.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use driver_api::table::nearest;
use driver_api::{Problem, SourceId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::raw::{self, Raw};
use super::source::Sources;

/// Where the package puts its profiles.
pub const SYSTEM_DIRECTORY: &str = "/usr/share/fieldgate/profiles";

/// What a profile says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfileHead {
    /// The device type, for people.
    pub description: String,
    /// The maker's document that the points were taken from.
    pub document: String,
    /// The driver it is written for; `modbus` fits every driver whose name starts with `modbus-`.
    pub driver: String,
}

/// One profile's tables.
#[derive(Debug)]
pub(super) struct Profile<'i> {
    pub head: Option<ProfileHead>,
    pub device: Option<Raw<'i>>,
    pub points: Vec<Raw<'i>>,
}

/// The profiles that a configuration names, found in the search path.
#[derive(Debug, Default)]
pub(super) struct Found {
    files: BTreeMap<String, SourceId>,
    /// All names there are, for "did you mean".
    known: Vec<String>,
}

/// Where profiles are looked for: beside the configuration first, then the package's.
#[must_use]
pub fn search_path(main: &Path) -> Vec<PathBuf> {
    let beside = main.parent().unwrap_or(Path::new(""));
    vec![beside.join("profiles"), PathBuf::from(SYSTEM_DIRECTORY)]
}

/// Reads the profiles with these names, as far as they exist.
pub(super) fn read(
    names: impl Iterator<Item = String>,
    directories: &[PathBuf],
    sources: &mut Sources,
    problems: &mut Vec<Problem>,
) -> Found {
    let mut found = Found { files: BTreeMap::new(), known: known(directories) };
    for name in names {
        if !found.known.contains(&name) || found.files.contains_key(&name) {
            continue;
        }
        let path = directories.iter().map(|d| d.join(format!("{name}.toml"))).find(|p| p.is_file());
        if let Some(id) = path.and_then(|p| sources.add(p, problems)) {
            found.files.insert(name, id);
        }
    }
    found
}

/// The names of all profiles in these directories, sorted.
#[must_use]
pub fn known(directories: &[PathBuf]) -> Vec<String> {
    let mut names: Vec<String> = directories
        .iter()
        .filter_map(|d| std::fs::read_dir(d).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|file| file.strip_suffix(".toml").map(str::to_owned))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names.dedup();
    names
}

impl Found {
    /// The one profile with this name, read already.
    pub fn one(name: String, source: SourceId) -> Self {
        Self { files: BTreeMap::from([(name.clone(), source)]), known: vec![name] }
    }

    /// The tables of the profile that `device` names; what is wrong with the name is noted.
    pub fn profile_of<'i>(
        &self,
        device: &Raw<'i>,
        sources: &'i Sources,
        problems: &mut Vec<Problem>,
    ) -> Option<Profile<'i>> {
        let place = device.at("profile");
        let Some(name) = device.text("profile") else {
            if device.table.contains_key("profile") {
                problems.push(Problem::new(place, "`profile`: a profile's name, as text, was expected"));
            }
            return None;
        };
        if let Some(source) = self.files.get(name) {
            return Some(understand(sources, *source, problems));
        }
        let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        let hint = match nearest(name, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "there are no profiles beside the configuration".to_owned(),
            None => format!("there are {}", known.join(", ")),
        };
        problems.push(Problem::new(place, format!("there is no profile `{name}`")).hint(hint));
        None
    }
}

fn understand<'i>(sources: &'i Sources, source: SourceId, problems: &mut Vec<Problem>) -> Profile<'i> {
    let mut root = Raw { source, header: 0..0, table: sources.parse(source) };
    let points = root.take_list("point", "point", problems);
    let mut take = |key: &str, problems: &mut Vec<Problem>| {
        let (name, value) = root.table.remove_entry(key)?;
        raw::table(source, key, name.span(), value, problems)
    };
    let device = take("device", problems);
    let head = match take("profile", problems) {
        Some(head) => head.table().parse(problems),
        None => {
            let hint = "start it with `[profile]`, `description`, `document` and `driver`";
            problems.push(Problem::new(root.place(), "a profile says what it is for").hint(hint));
            None
        }
    };
    for key in root.table.keys() {
        let place = root.key(key.get_ref());
        problems.push(
            Problem::new(place, format!("unknown section `{}`", key.get_ref()))
                .hint("a profile has [profile], [device] and [[point]]"),
        );
    }
    Profile { head, device, points }
}

impl ProfileHead {
    /// Whether the profile fits a bus with this driver.
    #[must_use]
    pub fn fits(&self, driver: &str) -> bool {
        driver.strip_prefix(&self.driver).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}
