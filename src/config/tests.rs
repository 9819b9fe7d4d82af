//! The loader as a whole: merging, profiles, mistakes with their places, and that nothing breaks it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use driver_api::{ByteSize, Driver, Span};
use proptest::prelude::*;

use super::model::Deadband;
use super::testing::{DRIVERS, StandIn};
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
fn mistakes_of_all_files_come_in_one_run_sorted_by_file_and_place() {
    let found = mistakes(&[
        ("f.toml", "[gateway]\nid = 'Big'\n[stoer]\n"),
        ("conf.d/a.toml", "[store]\nmax_size = '1MiB'\ncommit_intervall = '1s'\n"),
        ("conf.d/b.toml", "[[device]]\nname = 'x'\nbus = 'nowhere'\n"),
    ]);
    assert_eq!(
        found,
        [
            "f.toml:2:6: `Big` cannot be a gateway id | use lower-case letters, digits, `_` and `-`",
            "f.toml:3:2: unknown section `stoer` | did you mean `store`?",
            "a.toml:2:12: `max_size` of 1MiB is too small | give it at least 16MiB",
            "a.toml:3:1: unknown key `commit_intervall` | did you mean `commit_interval`?",
            "b.toml:3:7: there is no bus `nowhere` | declare it: `[[bus]]` with a `name` and a `driver`",
        ]
    );
}

#[test]
fn a_slip_in_the_name_of_the_bus_does_not_hide_the_devices_other_mistakes() {
    let text = "[[bus]]\nname = 'rs485'\ndriver = 'modbus-rtv'\nport = 1\n[[device]]\nname = 'd'\nbus = 'rs458'\naddress = 300\n[[device.point]]\nname = 'p'\nregister = 'x'\n";
    let found = wrong(text);
    assert_eq!(found[0], "f.toml:3:10: no driver is called `modbus-rtv` | did you mean `modbus-rtu`?");
    assert!(found[1].starts_with("f.toml:4:8: `port`: invalid type: integer `1`"), "{found:#?}");
    assert_eq!(found[2], "f.toml:7:7: there is no bus `rs458` | did you mean `rs485`?");
    assert!(found[3].starts_with("f.toml:8:11: `address`:"), "{found:#?}");
    assert_eq!(found[4], "f.toml:9:1: `type` is missing | add `type = …` to this table");
    assert_eq!(found.len(), 5, "{found:#?}");
}

#[test]
fn crlf_and_utf8_do_not_move_the_place() {
    let text =
        "# Größe\r\n[gateway]\r\nid = 'plant'\r\n[store]\r\npath = '/var/°' # ok\r\nmax_siez = '1GiB'\r\n";
    assert_eq!(wrong(text), ["f.toml:6:1: unknown key `max_siez` | did you mean `max_size`?"]);
}

#[test]
fn text_in_latin_1_is_named_and_the_rest_still_checked() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("f.toml");
    fs::write(&path, b"[gateway]\nid = 'a' # \xb0C\nclok = 'auto'\n").expect("written");
    let report = load_with(&path, DRIVERS, &[]).expect_err("Latin-1");
    let found = told(&report, &report.problems);
    assert!(found[0].starts_with("f.toml:2:12: this is not UTF-8 text"), "{found:#?}");
    assert_eq!(found[1], "f.toml:3:1: unknown key `clok` | did you mean `clock`?");
}

#[test]
fn a_syntax_mistake_does_not_make_what_it_hid_a_second_mistake() {
    let found =
        wrong(&format!("{BUS}{DEVICE}[[device.point]]\nname = 'p'\nregister = holding:0\ntype = 'f32'\n"));
    assert_eq!(found.len(), 1, "{found:#?}");
    let found = wrong(&format!("[[bus]\nname = 'a'\ndriver = 'modbus-rtu'\n{DEVICE}{POINT}"));
    assert_eq!(found.len(), 1, "the bus is unreadable, not unknown: {found:#?}");
}

#[test]
fn the_wrong_kind_of_brackets_is_explained() {
    assert_eq!(
        wrong("[bus]\nname = 'a'\ndriver = 'modbus-rtu'\nport = 'x'\n"),
        ["f.toml:1:2: `bus` is a list of tables | write `[[bus]]`, in double brackets, before each one"]
    );
    assert_eq!(
        wrong("[[gateway]]\n"),
        ["f.toml:1:3: `gateway` is one table | write `[gateway]` and its keys below"]
    );
    assert_eq!(wrong("store = 5\nuplink = [1]\n").len(), 2);
}

#[test]
fn every_rule_has_its_place_and_its_hint() {
    let bus = |more: &str| format!("{BUS}{more}{DEVICE}{POINT}");
    for (text, expected) in [
        // Names.
        (format!("{}{DEVICE}{POINT}", bus("")), "f.toml:14:8: there are two devices called `d`"),
        (format!("{}{}", BUS.replace("ttyX", "ttyY"), bus("")), "f.toml:6:8: there are two buses called `a`"),
        (format!("{}{POINT}", bus("")), "f.toml:14:8: there are two points called `p`"),
        (
            "[[uplink]]\nname = 'a/b'\nurl = 'mqtt://h'\n".into(),
            "f.toml:2:8: `a/b` cannot be the name of a uplink",
        ),
        // Limits.
        (
            bus("").replace("address = 1", "address = 1\ntimeout = '0s'"),
            "f.toml:9:11: `timeout` cannot be 0s",
        ),
        (
            bus("").replace("address = 1", "address = 1\ninterval = '5ms'"),
            "f.toml:9:12: `interval` of 5ms is too short",
        ),
        (bus("") + "interval = '0s'\n", "f.toml:13:12: `interval` of 0s is too short"),
        (bus("") + "scale = 0\n", "f.toml:13:9: a `scale` of 0"),
        (bus("") + "scale = nan\n", "f.toml:13:9: `scale` is not a finite number"),
        (bus("") + "min = 5\nmax = 1.0\n", "f.toml:13:7: `min` 5 is above `max` 1"),
        (bus("") + "deadband = -1\n", "f.toml:13:12: `deadband`: a deadband is zero or more"),
        (bus("").replace("f32", "string:8") + "scale = 2\n", "f.toml:13:1: `scale` is for numbers"),
        (
            "[store]\ncommit_interval = '5ms'\n".into(),
            "f.toml:2:19: `commit_interval` of 5ms is out of range",
        ),
        ("[store]\nmax_age = '0'\n".into(), "f.toml:2:11: `max_age` of 0s"),
        // Doors.
        (
            "[[broker.listener]]\nbind = '0.0.0.0:1883'\n".into(),
            "f.toml:2:8: `0.0.0.0:1883` is open to the network",
        ),
        (
            "[[broker.listener]]\nbind = '127.0.0.1:1'\n[[broker.listener]]\nbind = '127.0.0.1:1'\n".into(),
            "f.toml:4:8: `127.0.0.1:1` is taken by another listener",
        ),
        ("[broker]\npassword_file = 'none'\n".into(), "f.toml:2:17: `password_file`: there is no file"),
        ("[broker]\nacl_file = '/'\n".into(), "f.toml:2:12: `acl_file`: `/` is a directory"),
        (
            "[[broker.listener]]\nbind = '127.0.0.1:1'\ntls = { cert = 'c', key = '/dev/null' }\n".into(),
            "f.toml:3:16: `cert`: there is no file",
        ),
        // Two buses on one line.
        (
            format!("{BUS}{}", bus("").replacen("'a'", "'b'", 1)),
            "f.toml:8:8: `/dev/ttyX` is the `port` of two buses",
        ),
        // Uplinks.
        ("[[uplink]]\nname = 'u'\nurl = 'tcp://h'\n".into(), "f.toml:3:7: unknown scheme `tcp`"),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\nfallback_urls = ['mqtt://h:0']\n".into(),
            "f.toml:4:18: `0` is not a port",
        ),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\ncompression = 'zstd'\n".into(),
            "f.toml:4:15: only batches",
        ),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\npassword = 'x'\n".into(),
            "f.toml:4:1: unknown key `password` | a secret",
        ),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\nbatch = { max_readings = 0 }\n".into(),
            "f.toml:4:26: `max_readings` cannot be 0",
        ),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\nqos = 2\n".into(),
            "f.toml:4:7: `qos`: this version delivers",
        ),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\ntopic_root = 'a/#'\n".into(),
            "f.toml:4:14: `topic_root` cannot hold `#`",
        ),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtts://h'\ncert_file = '/dev/null'\n".into(),
            "f.toml:4:1: `cert_file` without `key_file`",
        ),
        (
            "[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\nkeep_alive = '0s'\n".into(),
            "f.toml:4:14: `keep_alive` cannot be 0s",
        ),
        ("[web]\nbind = 'off'\n".into(), "f.toml:1:2: unknown section `web` | this version has no dashboard"),
    ] {
        let found = wrong(&text);
        assert_eq!(found.len(), 1, "{text}\n{found:#?}");
        assert!(found[0].starts_with(expected), "{text}\n{found:#?}\nexpected {expected}");
        assert!(
            !found[0].ends_with("| -") || found[0].contains("deadband") || found[0].contains("qos"),
            "a hint: {found:#?}"
        );
    }
}

#[test]
fn what_works_but_is_hardly_meant_is_a_warning() {
    let warned = |text: &str| {
        let loaded = good(&[("f.toml", text)]);
        told(&loaded.warnings, &loaded.warnings.warnings)
    };
    assert_eq!(
        warned(BUS),
        ["f.toml:2:8: bus `a` has no devices; it is not opened | add a `[[device]]` with `bus = \"a\"`"]
    );
    assert!(warned(&format!("{BUS}{DEVICE}"))[0].starts_with("f.toml:6:8: device `d` has no points"));
    let busy = format!(
        "{BUS}{DEVICE}{}interval = '10ms'\n{}interval = '10ms'\n",
        POINT,
        POINT.replace("'p'", "'q'")
    );
    assert!(warned(&busy)[0].starts_with("f.toml:2:8: bus `a` would be busy 100 % of the time"));
    assert!(warned(&format!("{BUS}{DEVICE}{POINT}max_interval = '5s'\n"))[0].contains("without `deadband`"));
    assert!(
        warned("[[uplink]]\nname = 'u'\nurl = 'mqtt://h'\nca_file = '/dev/null'\n")[0]
            .contains("without TLS")
    );
    assert!(warned(&format!("{BUS}{DEVICE}{POINT}")).is_empty());
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

/// Compares with a file of the repository; `BLESS=1` writes it instead.
fn same_as(path: &str, text: &str) {
    let path = root().join(path);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, text).expect("written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{} is not what it should be; this is:\n{text}", path.display());
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn ten_mistakes_in_one_file_are_all_told_at_their_places_with_a_hint() {
    let main = root().join("tests/golden/ten-mistakes.toml");
    let report = load_with(&main, DRIVERS, &[root().join("config/profiles")]).expect_err("mistakes");
    assert_eq!(report.problems.len(), 10, "{report}");
    assert!(report.problems.iter().all(|p| p.hint.is_some()), "{report}");
    let shown = report.render(false).replace(&format!("{}/", root().display()), "");
    same_as("tests/golden/ten-mistakes.expected", &shown);
}

/// The drivers of this build; where one that the shipped files use is not built in, a stand-in.
fn drivers() -> Vec<&'static dyn Driver> {
    let mut list = crate::registry::DRIVERS.to_vec();
    static STAND_INS: &[StandIn] = &[StandIn("modbus-rtu"), StandIn("modbus-tcp")];
    for driver in STAND_INS {
        if list.iter().all(|d| d.name() != driver.name()) {
            list.push(driver);
        }
    }
    list
}

#[test]
fn every_file_that_is_shipped_loads_and_the_installed_one_polls_nothing() {
    let profiles = [root().join("config/profiles")];
    let check = |path: &Path| {
        load_with(path, &drivers(), &profiles).unwrap_or_else(|report| panic!("{}\n{report}", path.display()))
    };
    let installed = check(&root().join("config/fieldgate.toml"));
    assert!(installed.buses.is_empty() && installed.uplinks.is_empty());
    assert!(check(&root().join("config/reference.toml")).buses.is_empty());
    let mut seen = 0;
    for entry in fs::read_dir(root().join("config/examples")).expect("examples") {
        let path = entry.expect("entry").path();
        if path.extension().is_some_and(|e| e == "toml") {
            seen += 1;
            let loaded = check(&path);
            assert!(!loaded.buses.is_empty(), "{} polls something", path.display());
            assert!(loaded.warnings.warnings.is_empty(), "{}: {}", path.display(), loaded.warnings);
        }
    }
    assert!(seen >= 2, "{seen} examples");
}

#[test]
fn the_reference_is_what_the_types_say_now() {
    same_as("config/reference.toml", &reference::text(crate::registry::DRIVERS));
}

#[test]
fn every_key_of_the_reference_is_one_and_every_default_the_real_one() {
    let text = reference::text(DRIVERS);
    let live: Vec<&str> = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => key,
            _ => line,
        })
        .collect();
    let live = live.join("\n");
    let (_dir, result) = loaded(&[("f.toml", &live)]);
    let found = result.err().map(|report| told(&report, &report.problems)).unwrap_or_default();
    let unexpected: Vec<&String> = found
        .iter()
        .filter(|m| {
            !m.contains("there is no file")
                && !m.contains("there are two")
                && !m.contains("there is no profile")
        })
        .filter(|m| !m.contains("of two buses"))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}\n{live}");
    let store = live.split("\n[store]").nth(1).and_then(|s| s.split("\n[").next()).expect("a store section");
    assert_eq!(toml::from_str::<Store>(store), Ok(Store::default()));
}

fn fragment() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "[[bus]]",
        "[bus]",
        "[[device]]",
        "[[device.point]]",
        "[gateway]",
        "[broker]",
        "[[broker.listener]]",
        "[store]",
        "[[uplink]]",
        "name",
        "driver",
        "bus",
        "port",
        "address",
        "register",
        "type",
        "interval",
        "profile",
        "point",
        "url",
        "bind",
        "tls",
        "batch",
        "deadband",
        "scale",
        "min",
        "id",
        " = ",
        "=",
        "\n",
        "\r\n",
        "'a'",
        "'modbus-rtu'",
        "'f32'",
        "\"1s\"",
        "'0'",
        "1",
        "-1",
        "1e999",
        "nan",
        "99999999999999999999",
        "{",
        "}",
        "[",
        "]",
        ",",
        "#",
        ".",
        "'''",
        "\"\"\"",
        "\\",
        "°",
        "\u{feff}",
        "\0",
        "true",
        "1979-05-27",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_bytes_can_break_the_loader(
        main in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), fragment().prop_map(String::into_bytes)],
        more in fragment(),
        profile in fragment(),
    ) {
        let dir = tempfile::tempdir().expect("directory");
        fs::create_dir(dir.path().join("conf.d")).expect("directory");
        fs::write(dir.path().join("f.toml"), main).expect("written");
        fs::write(dir.path().join("conf.d/m.toml"), more).expect("written");
        fs::write(dir.path().join("a.toml"), profile).expect("written");
        let result = load_with(&dir.path().join("f.toml"), DRIVERS, &[dir.path().to_owned()]);
        if let Err(report) = result {
            prop_assert!(!report.problems.is_empty());
            prop_assert!(!report.render(true).is_empty());
        }
    }
}
