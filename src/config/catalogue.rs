//! Device profiles looked at by themselves: which there are, what is in one, and what is wrong with one.
//!
//! A profile is checked as it is used: laid under a device of a bus that its driver speaks on, and compiled. So
//! whatever a configuration would find, this finds, at the same place of the same file.

use std::path::{Path, PathBuf};

use driver_api::{Driver, Place, Problem};

use super::profile::{Found, ProfileHead, known};
use super::source::Sources;
use super::{CompiledBus, Findings, Report, buses, gather, improve, rules, sections};

/// A profile without mistakes.
#[derive(Debug)]
pub struct Checked {
    /// Where it stands.
    pub file: PathBuf,
    /// What it says of itself.
    pub head: ProfileHead,
    /// Its device, on a bus that is never opened.
    pub bus: CompiledBus,
    /// What works but is probably not meant.
    pub warnings: Report,
}

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name in `profile = "…"`.
    pub name: String,
    /// Where it stands.
    pub file: PathBuf,
    /// What it says of itself; `None` if it cannot be understood.
    pub head: Option<ProfileHead>,
    /// How many points it names.
    pub points: usize,
}

/// All profiles in these directories, by name; of two with one name, that of the earlier directory.
#[must_use]
pub fn list(directories: &[PathBuf]) -> Vec<Listed> {
    let one = |name: String| {
        let file = find(&name, directories)?;
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let table: toml::Table = text.parse().unwrap_or_default();
        let head = table.get("profile").cloned().and_then(|head| head.try_into().ok());
        let points = table.get("point").and_then(toml::Value::as_array).map_or(0, Vec::len);
        Some(Listed { name, file, head, points })
    };
    known(directories).into_iter().filter_map(one).collect()
}

/// The file of the profile with this name.
#[must_use]
pub fn find(name: &str, directories: &[PathBuf]) -> Option<PathBuf> {
    directories.iter().map(|directory| directory.join(format!("{name}.toml"))).find(|file| file.is_file())
}

/// What a bus and a device need besides the profile, so that both compile. Nothing of it is ever opened.
fn stage(driver: &str, profile: &str) -> (String, Vec<&'static str>) {
    let (driver, bus, device) = match driver {
        "modbus" | "modbus-tcp" => ("modbus-tcp", "address = \"192.0.2.1:502\"", "address = 1"),
        "modbus-rtu-over-tcp" => (driver, "address = \"192.0.2.1:4001\"", "address = 1"),
        "modbus-rtu" => (driver, "port = \"/dev/null\"", "address = 1"),
        "i2c" => (driver, "path = \"/dev/i2c-1\"", "address = 0x76"),
        "serial" => (driver, "port = \"/dev/null\"", ""),
        other => (other, "", ""),
    };
    let text = format!(
        "[[bus]]\nname = \"bus\"\ndriver = {driver:?}\n{bus}\n[[device]]\nname = \"device\"\nbus = \"bus\"\n\
         profile = {profile:?}\n{device}\n"
    );
    (text, vec![driver_word(driver)])
}

fn driver_word(driver: &str) -> &'static str {
    crate::registry::DRIVERS.iter().map(|d| d.name()).find(|name| *name == driver).unwrap_or("")
}

/// Checks the profile in a file.
///
/// # Errors
/// Every mistake, with its place.
pub fn check(file: &Path, drivers: &[&'static dyn Driver]) -> Result<Checked, Report> {
    let mut findings = Findings::default();
    let mut sources = Sources::default();
    let profile = sources.add(file.to_owned(), &mut findings.problems).unwrap_or_default();
    // Of a file that cannot be read, or not to its end, whatever else seems wrong is most likely a consequence.
    if !findings.problems.is_empty() {
        let mut report = Report { sources, problems: findings.problems, ..Report::default() };
        report.tidy();
        return Err(report);
    }
    let start = Place { source: profile, range: 0..0 };
    let head: Option<ProfileHead> = toml::from_str::<toml::Table>(&sources.get(profile).text)
        .ok()
        .and_then(|table| table.get("profile")?.clone().try_into().ok());
    let name = file.file_stem().map_or_else(|| "profile".to_owned(), |n| n.to_string_lossy().into_owned());
    let speaks = head.as_ref().map_or("modbus", |head| head.driver.as_str());
    let (text, known_driver) = stage(speaks, &name);
    if known_driver == [""] {
        let words: Vec<&str> = drivers.iter().map(|d| d.name()).collect();
        let problem = Problem::new(start.clone(), format!("no driver is called `{speaks}`"));
        findings.problems.push(problem.hint(format!("`modbus`, or one of {}", words.join(", "))));
    }
    let stand = sources.add_text(PathBuf::from("(a device with this profile)"), text, &mut Vec::new());
    let found = Found::one(name, profile);
    let mut bus = None;
    if let (Some(stand), true) = (stand, known_driver != [""]) {
        let all = gather(&sources, std::iter::once(stand), &mut Vec::new());
        let sections = sections::read(&all, &sources, &mut Vec::new());
        let (drafts, orphans) = buses::draft(&all, drivers, &found, &sources, &mut findings);
        rules::before_compiling(&sections, &all, (&drafts, &orphans), &sources, &mut findings);
        for draft in &drafts {
            bus = buses::compile(draft, &mut findings);
            if let Some(bus) = &bus {
                rules::after_compiling(draft, bus, &mut findings);
            }
        }
    }
    // What is said to stand at the device's name (its keys came from the profile) stands somewhere in the profile.
    for problem in findings.problems.iter_mut().chain(&mut findings.warnings) {
        if problem.place.source != profile {
            problem.place = start.clone();
        }
        improve(problem);
    }
    let mut report =
        Report { sources, problems: findings.problems, warnings: findings.warnings, ..Report::default() };
    report.tidy();
    match (head, bus) {
        (Some(head), Some(bus)) if report.problems.is_empty() => {
            Ok(Checked { file: file.to_owned(), head, bus, warnings: report })
        }
        _ => Err(report),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::DRIVERS;

    const GOOD: &str = "[profile]\ndescription = 'Meter'\ndocument = 'M 1'\ndriver = 'modbus'\n[[point]]\nname = 'u'\nregister = 'input:0'\ntype = 'f32'\nunit = 'V'\n";

    fn checked(text: &str) -> Result<Checked, String> {
        let dir = tempfile::tempdir().expect("directory");
        let file = dir.path().join("meter.toml");
        std::fs::write(&file, text).expect("written");
        check(&file, DRIVERS)
            .map_err(|report| report.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn a_good_profile_is_compiled_to_its_points() {
        let good = checked(GOOD).expect("good");
        assert_eq!((good.head.description.as_str(), good.bus.points.len()), ("Meter", 1));
        assert_eq!(good.bus.bus.plan().points[0].source, "input:0");
    }

    #[test]
    fn mistakes_stand_at_their_place_in_the_profile() {
        for (from, to, told) in [
            ("input:0", "inptu:0", "meter.toml:7:12: `inptu` is no table"),
            ("'f32'", "'f33'", "meter.toml:8:8: "),
            ("unit =", "unti =", "meter.toml:9:1: unknown key `unti`"),
            ("driver = 'modbus'", "driver = 'modbsu'", "meter.toml:1:1: no driver is called `modbsu`"),
            ("document = 'M 1'\n", "", "`document` is missing"),
            ("[[point]]", "[[piont]]", "unknown section `piont`"),
        ] {
            let report = checked(&GOOD.replace(from, to)).expect_err(to);
            assert!(report.contains(told), "{to}: {report}");
            assert!(!report.contains("a device with this profile"), "{report}");
        }
        assert!(checked("").expect_err("empty").contains("says what it is for"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_one_mistake_and_not_also_its_consequences() {
        let dir = tempfile::tempdir().expect("directory");
        let file = dir.path().join("meter.toml");
        let told = || check(&file, DRIVERS).expect_err("unreadable").problems;
        let missing = told();
        assert!(missing.len() == 1 && missing[0].message.starts_with("cannot read it"), "{missing:#?}");
        let utf16: Vec<u8> = format!("\u{feff}{GOOD}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        let latin1 = [GOOD.as_bytes(), b"description = '\xb0C'\n"].concat();
        for bytes in [utf16, latin1, b"\xff\xfe [[[".to_vec()] {
            std::fs::write(&file, &bytes).expect("written");
            let found = told();
            assert!(found.len() == 1 && found[0].message.contains("not UTF-8"), "{found:#?}");
        }
        for broken in [GOOD.replace("[profile]", "[profile"), GOOD.replace("'f32'", "f32")] {
            std::fs::write(&file, &broken).expect("written");
            let found = told();
            assert!(found.len() == 1 && found[0].hint.is_some(), "{broken}: {found:#?}");
        }
    }

    #[test]
    fn the_list_has_the_shipped_profiles_and_every_one_of_them_is_good() {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/profiles");
        let all = list(&[dir]);
        assert!(all.iter().any(|p| p.name == "eastron-sdm630" && p.points > 10), "{all:#?}");
        for listed in all {
            assert!(listed.head.is_some(), "{}", listed.name);
            check(&listed.file, DRIVERS).unwrap_or_else(|report| panic!("{}: {report}", listed.name));
        }
    }
}
