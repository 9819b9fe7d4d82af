//! The files of the repository, the golden output, and that no bytes can break the loader.

use proptest::prelude::*;

use super::*;
use crate::config::testing::StandIn;

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

/// The shipped profiles: their names and texts.
fn profiles() -> Vec<(String, String)> {
    let directory = root().join("config/profiles");
    profile::known(std::slice::from_ref(&directory))
        .into_iter()
        .map(|name| {
            let text = fs::read_to_string(directory.join(format!("{name}.toml"))).expect("a profile");
            (name, text)
        })
        .collect()
}

fn named(name: &str, dash: char) -> bool {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == dash;
    !name.is_empty() && name.chars().all(ok)
}

#[test]
fn every_profile_says_what_it_is_for_where_it_comes_from_and_how_to_set_the_device_up() {
    let profiles = profiles();
    assert!(profiles.len() >= 25, "{} profiles", profiles.len());
    for (name, text) in profiles {
        assert!(named(&name, '-'), "{name}: small letters, digits and dashes");
        let notes: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(notes.len() >= 5, "{name} begins with what a user must know");
        let notes = notes.join(" ").to_lowercase();
        assert!(notes.contains("set-up"), "{name}: how the device is set up");
        let table: toml::Table = toml::from_str(&text).expect("TOML");
        let head: profile::ProfileHead = table["profile"].clone().try_into().expect("a head");
        assert_eq!(head.driver, "modbus", "{name}");
        assert!(head.document.len() > 10 && head.description.len() > 10, "{name}: {head:?}");
    }
}

/// The unit of the quantities that many devices have, so that a panel made for one fits the next. `None` is
/// a plain number.
fn agreed_unit(point: &str) -> Option<Option<&'static str>> {
    let phase = ["_l1", "_l2", "_l3", "_total"];
    match phase.iter().find_map(|end| point.strip_suffix(end)).unwrap_or(point) {
        "voltage" => Some(Some("V")),
        "current" => Some(Some("A")),
        "power" => Some(Some("W")),
        "apparent_power" => Some(Some("VA")),
        "reactive_power" => Some(Some("var")),
        "power_factor" => Some(None),
        "frequency" => Some(Some("Hz")),
        "energy" | "energy_import" | "energy_export" => Some(Some("kWh")),
        "temperature" => Some(Some("°C")),
        "humidity" => Some(Some("%")),
        _ => None,
    }
}

#[test]
fn the_points_of_every_profile_are_described_bounded_and_named_and_measured_alike() {
    for (name, text) in profiles() {
        let table: toml::Table = toml::from_str(&text).expect("TOML");
        let mut seen = std::collections::BTreeSet::new();
        for point in table["point"].as_array().expect("points") {
            let key = |key: &str| point.get(key).and_then(toml::Value::as_str);
            let point_name = key("name").unwrap_or_else(|| panic!("{name}: a point without a name"));
            let place = format!("{name}.{point_name}");
            assert!(named(point_name, '_'), "{place}: small letters, digits and underscores");
            assert!(seen.insert(point_name), "{place} stands there twice");
            assert!(key("description").is_some_and(|d| d.len() >= 4), "{place} has a description");
            let register = key("register").unwrap_or_else(|| panic!("{place}: no register"));
            if let Some(unit) = agreed_unit(point_name) {
                assert_eq!(key("unit"), unit, "{place}");
            }
            let writable = point.get("writable").and_then(toml::Value::as_bool) == Some(true);
            if writable && !register.starts_with("coil:") {
                let bounded = point.get("min").is_some() && point.get("max").is_some();
                assert!(bounded, "{place} can be written and has no `min` and `max`");
            }
        }
        assert!(!seen.is_empty(), "{name} has points");
    }
}

#[test]
fn the_driver_takes_every_profile() {
    let built: Vec<_> =
        crate::registry::DRIVERS.iter().copied().filter(|d| d.name() == "modbus-tcp").collect();
    if built.is_empty() {
        return;
    }
    let shipped = root().join("config/profiles");
    let dir = tempfile::tempdir().expect("directory");
    let main = dir.path().join("f.toml");
    let mut refused = Vec::new();
    for (name, _) in profiles() {
        let text = format!(
            "[[bus]]\nname = 'field'\ndriver = 'modbus-tcp'\naddress = '192.0.2.1'\n\
             [[device]]\nname = 'it'\nbus = 'field'\nprofile = '{name}'\naddress = 1\n"
        );
        fs::write(&main, text).expect("written");
        match load_with(&main, &built, std::slice::from_ref(&shipped)) {
            Ok(loaded) if loaded.warnings.warnings.is_empty() => {}
            Ok(loaded) => refused.push(format!("{name}: {}", loaded.warnings)),
            Err(report) => refused.push(format!("{name}: {report}")),
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn the_reference_is_what_the_types_say_now() {
    same_as("config/reference.toml", &reference::text(crate::registry::DRIVERS));
}

/// The reference with every key in effect.
fn uncommented(text: &str) -> String {
    let uncomment = |line| match str::strip_prefix(line, "#") {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => key,
        _ => line,
    };
    text.lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_key_of_the_reference_is_one_and_every_default_the_real_one() {
    for drivers in [DRIVERS, &drivers()] {
        let live = uncommented(&reference::text(drivers));
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join("f.toml"), &live).expect("written");
        let report =
            load_with(&dir.path().join("f.toml"), drivers, &[]).expect_err("names stand there twice");
        for told in told(&report, &report.problems) {
            let wrong = ["unknown", "not TOML", "must be in quotes", "stands here twice", "list of tables"];
            assert!(!wrong.iter().any(|w| told.contains(w)), "{told}\n{live}");
        }
        let store =
            live.split("\n[store]").nth(1).and_then(|s| s.split("\n[").next()).expect("a store section");
        // What has no default shows an example.
        let expected = Store { thin: Some(Span::s(60)), ..Store::default() };
        assert_eq!(toml::from_str::<Store>(store), Ok(expected));
        let uplink =
            live.split("\n[[uplink]]").nth(1).and_then(|s| s.split("\n[").next()).expect("an uplink");
        let uplink: Uplink = toml::from_str(uplink).expect("an uplink");
        let least: Uplink =
            toml::from_str("name = 'cloud'\nurl = 'mqtts://broker.example.com:8883'").expect("least");
        assert_eq!(
            (uplink.batch, uplink.keep_alive, uplink.order),
            (least.batch, least.keep_alive, least.order)
        );
    }
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
