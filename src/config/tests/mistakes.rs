//! Mistakes: each at its place, with a message and a hint.

use super::*;

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
            "f.toml:2:8: `a/b` cannot be the name of an uplink",
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
        (bus("") + "values = {}\n", "f.toml:13:10: `values`: no value is listed"),
        (bus("") + "values = { on = 'x' }\n", "f.toml:13:10: `values`: `on` is no whole number"),
        (
            bus("").replace("f32", "u16") + "scale = 2\nvalues = { 0 = 'off' }\n",
            "f.toml:13:1: `scale` has no meaning beside `values`",
        ),
        (
            bus("").replace("f32", "u16") + "values = { 70000 = 'far' }\n",
            "f.toml:13:10: `values` lists 70000, which a u16 never is",
        ),
        (
            bus("").replace("f32", "time:iec870") + "values = { 0 = 'off' }\n",
            "f.toml:13:1: `values` is for numbers",
        ),
        ("[store]\nthin = '100ms'\n".into(), "f.toml:2:8: `thin` of 100ms is out of range"),
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
        ("[broker]\nmax_connections = 0\n".into(), "f.toml:2:19: `max_connections` of 0 is out of range"),
        (
            "[broker]\nmax_packet_size = '1GiB'\n".into(),
            "f.toml:2:19: `max_packet_size` of 1GiB is out of range",
        ),
        ("[broker]\npassword_file = 'none'\n".into(), "f.toml:2:17: `password_file`: there is no file"),
        ("[broker]\nacl_file = '/'\n".into(), "f.toml:2:12: `acl_file`: `/` is a directory"),
        (
            "[[broker.listener]]\nbind = '127.0.0.1:1'\npassword_file = 'none'\n".into(),
            "f.toml:3:17: `password_file`: there is no file",
        ),
        (
            "[[broker.listener]]\nbind = '127.0.0.1:1'\nacl_files = 'acl'\n".into(),
            "f.toml:3:1: unknown key `acl_files` | did you mean `acl_file`?",
        ),
        (
            "[[broker.listener]]\nbind = '127.0.0.1:1'\npasswd = 'users'\n".into(),
            "f.toml:3:1: unknown key `passwd` | a secret does not stand here",
        ),
        // Rights are no users.
        (
            "[[broker.listener]]\nbind = '0.0.0.0:1'\nacl_file = '/dev/null'\n".into(),
            "f.toml:2:8: `0.0.0.0:1` is open to the network, and there are no users | set `password_file` here or in",
        ),
        (
            "[[broker.listener]]\nbind = '127.0.0.1:1'\ntls = { cert = 'c', key = '/dev/null' }\n".into(),
            "f.toml:3:16: `cert`: there is no file",
        ),
        // Two buses on one line.
        (
            format!("{BUS}{}", bus("").replacen("'a'", "'b'", 1)),
            "f.toml:8:8: `/dev/ttyX` is the `port` of two buses",
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
    assert!(
        warned(&format!("{BUS}share = '127.0.0.1:5020'\n"))[0]
            .contains("it is not opened, and its `share` is not served")
    );
    assert!(warned(&format!("{BUS}{DEVICE}"))[0].starts_with("f.toml:6:8: device `d` has no points"));
    let busy = format!(
        "{BUS}{DEVICE}{}interval = '10ms'\n{}interval = '10ms'\n",
        POINT,
        POINT.replace("'p'", "'q'")
    );
    assert!(warned(&busy)[0].starts_with("f.toml:2:8: bus `a` would be busy 100 % of the time"));
    assert!(warned(&format!("{BUS}{DEVICE}{POINT}max_interval = '5s'\n"))[0].contains("without `deadband`"));
    assert!(warned(&format!("{BUS}{DEVICE}{POINT}")).is_empty());
    let thin =
        |thin: &str, more: &str| warned(&format!("[store]\nthin = '{thin}'\n{BUS}{DEVICE}{POINT}{more}"));
    assert!(thin("1m", "").is_empty(), "the point is read every second");
    assert!(thin("1m", "interval = '1m'\n")[0].starts_with("f.toml:2:8: `thin` of 1m has no effect"));
    assert!(thin("1s", "")[0].contains("no point without a deadband is read more often"));
}

#[test]
fn what_is_promised_for_a_later_version_is_refused_and_the_hint_says_so() {
    let cases = [
        ("[web]\nbind = 'off'\n".to_owned(), "this version has no dashboard"),
        ("[[bus]]\nname = 's'\ndriver = 'sysfs'\n".to_owned(), "this version has no driver `sysfs`"),
    ];
    for (text, hint) in cases {
        let found = wrong(&text);
        assert!(found.len() == 1 && found[0].contains(hint), "{text}: {found:#?}");
    }
}

#[test]
fn a_share_is_an_address_of_its_own_on_a_modbus_bus_and_says_what_may_be_written() {
    let with = |share: &str| wrong(&format!("{BUS}share = {share}\n{DEVICE}{POINT}"));
    assert!(with("'127.0.0.1:5020'").is_empty());
    assert!(with("{ bind = '127.0.0.1:0', writes = ['1/holding:100..110'], cache = '500ms' }").is_empty());
    for (share, told) in [
        (
            "'5020'",
            "f.toml:5:9: `share`: `5020` is no address and port to listen on | for example \"127.0.0.1:5020\"",
        ),
        ("5020", "f.toml:5:9: `share`: invalid type: integer `5020`, expected an address such as"),
        (
            "{ bind = '127.0.0.1:5020', framing = 'rtv' }",
            "f.toml:5:46: `framing` cannot be `rtv` | did you mean `rtu`?",
        ),
        (
            "{ bind = '127.0.0.1:5020', writes = ['1/input:1'] }",
            "f.toml:5:46: `writes`: `1/input:1`: input registers cannot be written | name coil: or holding:",
        ),
        (
            "{ bind = '127.0.0.1:5020', writes = ['1/coil:1', '1/holding:9..70000'] }",
            "f.toml:5:58: `writes`: `1/holding:9..70000`: address 70000 is beyond 65535 | protocol addresses go from 0",
        ),
        (
            "{ bind = '127.0.0.1:5020', writes = ['1/coil:1', 'coil:1'] }",
            "f.toml:5:58: `writes`: `coil:1` names no unit and register | for example \"1/holding:100..110\"",
        ),
        ("{ bind = '127.0.0.1:5020', writes = '1/coil:1' }", "f.toml:5:45: `writes`: invalid type: string"),
        (
            "{ bind = '127.0.0.1:5020', writes = ['250/coil:1'] }",
            "f.toml:5:46: no unit on a line has the id 250 | unit ids go from 1 to 247",
        ),
        (
            "{ bind = '127.0.0.1:5020', cache = '2m' }",
            "f.toml:5:44: `cache` cannot be 2m | it is more than 0 and at most 1m",
        ),
        ("'127.0.0.1:1883'", "f.toml:5:9: `127.0.0.1:1883` is taken by a listener of the broker"),
    ] {
        let found = with(share);
        assert!(found.len() == 1 && found[0].starts_with(told), "{share}: {found:#?}");
    }
    let found = with("{ bind = '127.0.0.1:5020', writes = ['1/coil:1', 'coil:1', 7, '1/holdin:1'] }");
    assert_eq!(found.len(), 3, "every one of them: {found:#?}");
    let open = format!("{BUS}share = '0.0.0.0:5020'\n{DEVICE}{POINT}");
    let warned = good(&[("f.toml", &open)]).warnings;
    let warned = told(&warned, &warned.warnings);
    assert!(warned.len() == 1 && warned[0].contains("Modbus knows no login"), "{warned:#?}");
}

#[test]
fn a_listener_with_a_mistake_does_not_hide_those_of_the_others() {
    let listener = |bind: &str| format!("[[broker.listener]]\nbind = '{bind}'\n");
    let text: String =
        ["nowhere", "127.0.0.1:70000", "127.0.0.1:1", ":::1", "0.0.0.0:1883"].map(listener).concat();
    let found = wrong(&format!("{text}transprt = 'tcp'\n"));
    let at: Vec<&str> = found.iter().map(|told| told.split_once(": ").expect("a place").0).collect();
    assert_eq!(at, ["f.toml:2:8", "f.toml:4:8", "f.toml:8:8", "f.toml:10:8", "f.toml:11:1"], "{found:#?}");
    assert!(found[3].contains("is open to the network"), "{found:#?}");
}

#[test]
fn a_bus_that_is_not_there_does_not_hide_the_devices_other_mistakes() {
    let point = "[[device.point]]\nname = 'a/b'\nregister = 'x'\n";
    let orphan = format!("{}interval = '1ms'\n{point}", DEVICE.replace("'a'", "'nope'"));
    let found = wrong(&format!("{BUS}{DEVICE}{POINT}{orphan}"));
    let wanted = [
        "f.toml:14:8: there are two devices called `d`",
        "f.toml:15:7: there is no bus `nope`",
        "f.toml:17:12: `interval` of 1ms is too short",
        "f.toml:18:1: `type` is missing",
        "f.toml:19:8: `a/b` cannot be the name of a point",
    ];
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(found.starts_with(wanted), "{found}\n{wanted}");
    }
}
