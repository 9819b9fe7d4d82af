//! The loader as a whole: merging, profiles, effective settings.

mod mistakes;
mod shipped;
mod uplinks;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use driver_api::{ByteSize, Span};

use super::model::Deadband;
use super::testing::DRIVERS;
use super::*;

/// Files in a directory of their own; the first is the main one.
fn loaded(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Loaded, Report>) {
    let dir = tempfile::tempdir().expect("directory");
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        fs::write(path, text).expect("written");
    }
    let result = load_with(&dir.path().join(files[0].0), DRIVERS, &[dir.path().join("profiles")]);
    (dir, result)
}

fn good(files: &[(&str, &str)]) -> Loaded {
    loaded(files).1.unwrap_or_else(|report| panic!("{report}"))
}

/// Every problem as `file:line:column: message | hint`.
fn mistakes(files: &[(&str, &str)]) -> Vec<String> {
    match loaded(files).1 {
        Ok(_) => Vec::new(),
        Err(report) => told(&report, &report.problems),
    }
}

fn told(report: &Report, problems: &[Problem]) -> Vec<String> {
    let one = |p: &Problem| {
        let at = report.spot(&p.place);
        let file = Path::new(&at.file).file_name().expect("name").to_string_lossy().into_owned();
        format!("{file}:{}:{}: {} | {}", at.line, at.column, p.message, p.hint.as_deref().unwrap_or("-"))
    };
    problems.iter().map(one).collect()
}

/// The mistakes of one file.
fn wrong(text: &str) -> Vec<String> {
    mistakes(&[("f.toml", text)])
}

const BUS: &str = "[[bus]]\nname = 'a'\ndriver = 'modbus-rtu'\nport = '/dev/ttyX'\n";
const DEVICE: &str = "[[device]]\nname = 'd'\nbus = 'a'\naddress = 1\n";
const POINT: &str = "[[device.point]]\nname = 'p'\nregister = 'holding:0'\ntype = 'f32'\n";

#[test]
fn an_empty_file_is_a_gateway_with_the_documented_defaults() {
    let loaded = good(&[("f.toml", "")]);
    assert_eq!(loaded.broker, Broker::default());
    assert_eq!(loaded.store, Store::default());
    assert!(loaded.buses.is_empty() && loaded.uplinks.is_empty() && loaded.warnings.warnings.is_empty());
    assert_eq!(loaded.hash.len(), 16);
}

#[test]
fn what_has_the_name_of_a_drop_in_and_is_none_is_a_mistake() {
    let dir = tempfile::tempdir().expect("directory");
    let (main, drop_ins) = (dir.path().join("f.toml"), dir.path().join("conf.d"));
    fs::write(&main, "").expect("written");
    fs::create_dir_all(drop_ins.join("40.toml")).expect("directory");
    symlink("gone/50.toml", drop_ins.join("50.toml")).expect("linked");
    symlink("60.toml", drop_ins.join("60.toml")).expect("linked");
    // Whoever opens it waits for a writer, for ever.
    let fifo = Command::new("mkfifo").arg(drop_ins.join("70.toml")).status().expect("mkfifo");
    assert!(fifo.success());
    // These are meant so.
    symlink("/dev/null", drop_ins.join("80.toml")).expect("linked");
    symlink("gone", drop_ins.join(".#90.toml")).expect("linked");
    fs::write(dir.path().join("real"), "[gateway]\nid = 'linked'\n").expect("written");
    symlink("../real", drop_ins.join("90.toml")).expect("linked");
    let report = load_with(&main, DRIVERS, &[]).expect_err("four mistakes");
    let found = told(&report, &report.problems);
    assert_eq!(found.len(), 4, "{found:#?}");
    for (found, expected) in found.iter().zip([
        "40.toml:1:1: this is a directory | give it",
        "50.toml:1:1: the link to `gone/50.toml` leads nowhere: No such file",
        "60.toml:1:1: the link to `60.toml` leads nowhere: Too many levels",
        "70.toml:1:1: this is no regular file | remove it",
    ]) {
        assert!(found.starts_with(expected), "{found}");
        assert!(!found.ends_with("| -"), "a hint: {found}");
    }
    for bad in ["50.toml", "60.toml", "70.toml"] {
        fs::remove_file(drop_ins.join(bad)).expect("removed");
    }
    fs::remove_dir(drop_ins.join("40.toml")).expect("removed");
    assert_eq!(load_with(&main, DRIVERS, &[]).expect("good").gateway.id, "linked");
    // The directory itself.
    fs::remove_dir_all(&drop_ins).expect("removed");
    assert!(load_with(&main, DRIVERS, &[]).is_ok(), "none is none");
    symlink("gone", &drop_ins).expect("linked");
    let report = load_with(&main, DRIVERS, &[]).expect_err("a mistake");
    let found = told(&report, &report.problems);
    assert!(
        found[0].contains("conf.d`: the link to `gone` leads nowhere") && found[0].ends_with("or remove it")
    );
}

#[test]
fn a_file_that_is_not_there_is_a_problem_at_its_start() {
    let dir = tempfile::tempdir().expect("directory");
    let report = load_with(&dir.path().join("f.toml"), DRIVERS, &[]).expect_err("no file");
    assert!(told(&report, &report.problems)[0].starts_with("f.toml:1:1: cannot read it:"), "{report}");
}

#[test]
fn drop_ins_go_over_single_sections_key_by_key_and_add_to_lists() {
    let loaded = good(&[
        (
            "f.toml",
            "[store]\nmax_size = '2GiB'\nmax_age = '10d'\n[[broker.listener]]\nbind = '127.0.0.1:1'\n",
        ),
        ("conf.d/20.toml", "[store]\nmax_size = '3GiB'\n[[broker.listener]]\nbind = '127.0.0.1:3'\n"),
        (
            "conf.d/10.toml",
            "[store]\nmax_size = '4GiB'\ncommit_interval = '1s'\n[[broker.listener]]\nbind = '127.0.0.1:2'\n",
        ),
        ("conf.d/notes.txt", "not = = toml"),
        ("conf.d/.hidden.toml", "not = = toml"),
    ]);
    assert_eq!(loaded.store.max_size, ByteSize::mib(3 << 10), "the last file by name");
    assert_eq!(loaded.store.max_age, Span::s(864_000), "kept from the main file");
    assert_eq!(loaded.store.commit_interval, Span::s(1), "from the one between");
    let ports: Vec<u16> = loaded.broker.listener.iter().map(|l| l.bind.port()).collect();
    assert_eq!(ports, [1, 2, 3], "appended in file order, instead of the built-in ones");
    assert_eq!(loaded.files.len(), 3);
}

#[test]
fn relative_paths_start_from_the_file_that_holds_them() {
    let (dir, result) = loaded(&[
        ("f.toml", "[store]\npath = 'q'\n"),
        (
            "conf.d/u.toml",
            "[[uplink]]\nname = 'u'\nurl = 'mqtts://h'\npassword_file = 'pw'\nusername = 'x'\n",
        ),
        ("conf.d/pw", "secret"),
    ]);
    let loaded = result.expect("good");
    assert_eq!(loaded.store.path, dir.path().join("q"));
    assert_eq!(loaded.uplinks[0].password_file, Some(dir.path().join("conf.d/pw")));
}

#[test]
fn the_effective_settings_of_a_point_are_its_own_then_the_devices_then_the_drivers() {
    let text = format!(
        "{BUS}{DEVICE}interval = '2s'\ntimeout = '100ms'\n{POINT}{}",
        "[[device.point]]\nname = 'q'\nregister = 'holding:2'\ntype = 'u16'\nunit = '°C'\nscale = 0.1\noffset = -40\ninterval = '1m'\ndeadband = '2%'\nmin = 0\nwritable = true\ndescription = 'Oil'\n"
    );
    let loaded = good(&[("f.toml", &text)]);
    let bus = &loaded.buses[0];
    assert_eq!((bus.name.as_str(), bus.driver, bus.points.len()), ("a", "modbus-rtu", 2));
    assert_eq!(bus.devices[0].timeout, Duration::from_millis(100));
    let [p, q] = bus.points.as_slice() else { panic!("two points") };
    assert_eq!(
        (p.unit.as_deref(), p.interval, p.scale, p.writable),
        (Some("raw"), Duration::from_secs(2), 1.0, false)
    );
    assert_eq!(
        (q.unit.as_deref(), q.interval, q.scale, q.offset),
        (Some("°C"), Duration::from_secs(60), 0.1, -40.0)
    );
    assert_eq!((q.deadband, q.min, q.writable), (Some(Deadband::Relative(0.02)), Some(0.0), true));
    assert_eq!(q.max_interval, buses::MAX_INTERVAL);
}

const PROFILE: &str = "[profile]\ndescription = 'Meter'\ndocument = 'M 1'\ndriver = 'modbus'\n[device]\ninterval = '5s'\n[[point]]\nname = 'u'\nregister = 'input:0'\ntype = 'f32'\nunit = 'V'\n[[point]]\nname = 'i'\nregister = 'input:6'\ntype = 'f32'\nunit = 'A'\n";

#[test]
fn a_profile_brings_points_and_own_points_go_over_them_key_by_key() {
    let own = format!(
        "{BUS}{DEVICE}profile = 'meter'\n[[device.point]]\nname = 'i'\ndeadband = 0.5\nunit = 'mA'\n{POINT}"
    );
    let loaded = good(&[("f.toml", &own), ("profiles/meter.toml", PROFILE)]);
    let bus = &loaded.buses[0];
    let points = &bus.bus.plan().points;
    let names: Vec<&str> = points.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["u", "i", "p"], "the profile's order, then one's own");
    assert_eq!(points[1].source, "input:6", "kept from the profile");
    assert_eq!(
        (bus.points[1].unit.as_deref(), bus.points[1].deadband),
        (Some("mA"), Some(Deadband::Absolute(0.5)))
    );
    assert_eq!(bus.points[0].interval, Duration::from_secs(5), "the profile's default");
    assert_eq!(loaded.files.len(), 2);
}

#[test]
fn an_unknown_or_unfit_profile_is_named_and_a_faulty_one_told_once() {
    let device = |profile: &str| format!("{BUS}{DEVICE}profile = '{profile}'\n");
    let found = mistakes(&[("f.toml", &device("metre")), ("profiles/meter.toml", PROFILE)]);
    assert_eq!(found, ["f.toml:9:11: there is no profile `metre` | did you mean `meter`?"]);
    let i2c = PROFILE.replace("'modbus'", "'i2c'");
    let found = mistakes(&[("f.toml", &device("meter")), ("profiles/meter.toml", &i2c)]);
    assert!(found[0].contains("is for `i2c`"), "{found:#?}");
    let twice = format!("{}{}profile = 'meter'\n", device("meter"), DEVICE.replace("'d'", "'e'"));
    let faulty = PROFILE.replace("unit = 'V'", "unti = 'V'");
    let found = mistakes(&[("f.toml", &twice), ("profiles/meter.toml", &faulty)]);
    assert_eq!(found, ["meter.toml:11:1: unknown key `unti` | did you mean `unit`?"]);
}

#[test]
fn the_hash_follows_meaning_and_a_fingerprint_only_its_own_bus() {
    let two = format!(
        "{BUS}[[bus]]\nname = 'b'\ndriver = 'modbus-tcp'\naddress = 'x'\n{DEVICE}{POINT}[[device]]\nname = 'e'\nbus = 'b'\naddress = 2\n{POINT}"
    );
    let before = good(&[("f.toml", &two)]);
    let commented = format!("# a comment\n{}", two.replace("address = 2", "address = 0x2"));
    assert_eq!(good(&[("f.toml", &commented)]).hash, before.hash);
    let after = good(&[("f.toml", &two.replace("address = 2", "address = 3"))]);
    assert_ne!(after.hash, before.hash);
    assert_eq!(after.buses[0].fingerprint, before.buses[0].fingerprint);
    assert_ne!(after.buses[1].fingerprint, before.buses[1].fingerprint);
    let store = good(&[("f.toml", &format!("{two}[store]\nmax_size = '2GiB'\n"))]);
    assert_ne!(store.hash, before.hash);
    assert_eq!(store.buses[1].fingerprint, before.buses[1].fingerprint);
}
