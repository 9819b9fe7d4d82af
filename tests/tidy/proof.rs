//! Proof that the laws bite: each has a file that breaks it, and one that only looks as if.

use crate::laws::{FLOORS, Known, Place, faults};
use crate::{constants, test_modules, wall};

fn known() -> Known {
    Known { bounds: constants("pub const READINGS: usize = 512;"), test_file: false }
}

/// Faults of a snippet, under the `//!` that every file has.
fn of(path: &str, place: Place, code: &str) -> Vec<String> {
    faults(path, &format!("//! A snippet.\n{code}\n"), place, &known())
}

fn caught(path: &str, code: &str, line: usize, what: &str) {
    let found = of(path, Place::Gateway, code);
    let start = format!("{path}:{line}: ");
    assert!(
        found.len() == 1 && found[0].starts_with(&start) && found[0].contains(what),
        "{code}\nshould be found out once, as `{start}…{what}…`, but: {found:#?}"
    );
    assert!(found[0].contains(';'), "says what, but not what to do instead: {}", found[0]);
}

fn passes(path: &str, code: &str) {
    let found = of(path, Place::Gateway, code);
    assert!(found.is_empty(), "{code}\nis no fault, but: {found:#?}");
}

#[test]
fn an_import_goes_down() {
    passes("src/poll/mod.rs", "use crate::pipeline::Report;\nuse crate::{bounds, message::{Record, cmd}};");
    passes("src/poll/mod.rs", "use crate::poll::health;\npub(crate) fn f() {}\nuse super::store;");
    caught("src/store/log.rs", "use crate::uplink::Lane;", 2, "imports `uplink`; imports go down");
    caught("src/store/log.rs", "\nfn f() { crate::runtime::stop() }", 3, "imports `runtime`");
    caught(
        "src/store/mod.rs",
        "use crate::{\n message::Record,\n poll::{message, Bus},\n};",
        4,
        "imports `poll`",
    );
    caught("src/message.rs", "use crate::backoff;", 2, "imports `backoff`");
    caught("src/cmd/run.rs", "use crate::lib;", 2, "imports `lib`");
}

#[test]
fn an_import_does_not_go_sideways() {
    caught("src/uplink/mod.rs", "use crate::poll::Bus;", 2, "rooms of one floor do not meet");
    caught("src/store/mod.rs", "use crate::broker::Topic;", 2, "rooms of one floor");
}

#[test]
fn super_does_not_climb_over_the_floors() {
    caught("src/store/log.rs", "use super::super::uplink::Lane;", 2, "imports `uplink`");
    caught("src/store.rs", "use super::uplink::Lane;", 2, "imports `uplink`");
    caught("src/store.rs", "mod a {\n use self::super::super::{message, poll};\n}", 3, "imports `poll`");
    passes("src/store/log.rs", "use super::uplink;\nmod a { use super::super::uplink; }");
}

#[test]
fn every_room_has_one_floor() {
    caught("src/gadget/mod.rs", "", 1, "`gadget` has no floor");
    caught("src/cmd/mod.rs", "use crate::gadget::x;", 2, "that is no room");
    let mut rooms: Vec<_> = FLOORS.iter().flat_map(|floor| floor.iter()).collect();
    let all = rooms.len();
    rooms.sort_unstable();
    rooms.dedup();
    assert_eq!(rooms.len(), all);
}

#[test]
fn main_sees_the_library_by_its_name() {
    passes("src/main.rs", "fn main() { fieldgate::cmd::run() }");
    caught("src/main.rs", "fn main() { fieldgate::gadget::run() }", 2, "that is no room");
}

#[test]
fn a_file_says_what_it_is_for_and_ends_in_time() {
    let found = faults("src/message.rs", "use std::fmt;\n", Place::Gateway, &known());
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("src/message.rs:1: no `//!`;"), "{found:?}");
    caught("src/message.rs", &"\n".repeat(500), 501, "lines; split");
    passes("src/message.rs", &"\n".repeat(498));
}

#[test]
fn banned_words_are_found_in_code_and_only_there() {
    for (code, what) in [
        ("fn f() { todo!() }", "todo!"),
        ("fn f() { unimplemented!() }", "unimplemented!"),
        ("fn f() { dbg!(1); }", "dbg!"),
        ("#[allow(dead_code)]\nfn f() {}", "#[allow("),
        ("#[allow(\nunused)] fn f() {}", "#[allow("),
        ("#![allow(dead_code)]", "#![allow("),
        ("use tokio::sync::mpsc::unbounded_channel;", "unbounded_channel"),
        ("use tokio::sync::mpsc::UnboundedSender;", "UnboundedSender"),
        ("#[cfg(test)] mod t { fn f() { todo!() } }", "todo!"),
    ] {
        caught("src/message.rs", code, 2, what);
        assert_eq!(of("tests/x.rs", Place::Tests, code).len(), 1, "holds in tests too: {code}");
    }
    passes("src/message.rs", "// todo!\nconst A: &str = \"dbg!( unbounded #[allow(\"; /* unbounded */");
    passes("src/message.rs", "use std::ops::Bound::Unbounded;");
}

#[test]
fn unwrap_stays_in_tests() {
    caught("src/message.rs", "fn f() { x()\n.unwrap() }", 3, "`unwrap()` outside tests");
    passes("src/message.rs", "#[cfg(test)]\nmod tests { fn f() { x.unwrap() } }\nfn g() { x.unwrap_or(1) }");
    caught(
        "src/message.rs",
        "#[cfg(test)]\nmod tests {}\nfn g() { x.unwrap() }",
        4,
        "`unwrap()` outside tests",
    );
}

#[test]
fn a_file_that_only_tests_bring_in_is_test_code() {
    assert_eq!(test_modules("mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)]\nmod c { mod d; }"), ["b", "d"]);
    let known = Known { test_file: true, ..known() };
    let code = "//! x\nfn f() { x.unwrap(); mpsc::channel(1); todo!() }";
    let found = faults("src/store/b.rs", code, Place::Gateway, &known);
    assert!(found.len() == 1 && found[0].contains("todo!"), "{found:?}");
}

#[test]
fn unsafe_has_its_proof() {
    caught("src/message.rs", "fn f() { unsafe { g() } }", 2, "`unsafe` without its proof");
    caught("src/message.rs", "// SAFETY: too far\n\n\n\n\n\n\nfn f() { unsafe { g() } }", 9, "`unsafe`");
    passes("src/message.rs", "// SAFETY: g has no conditions.\nfn f() { unsafe { g() } }");
    passes("src/message.rs", "#![forbid(unsafe_code)]");
}

#[test]
fn a_channel_length_has_a_name_and_a_home() {
    let what = "a channel length that is not a constant of src/bounds.rs";
    caught("src/poll/mod.rs", "fn f() { tokio::sync::mpsc::channel(16) }", 2, what);
    caught("src/poll/mod.rs", "fn f() { mpsc::channel::<Vec<u8>>(LENGTH) }", 2, what);
    caught("src/poll/mod.rs", "fn f() { broadcast::channel(bounds::READINGS * 2) }", 2, what);
    caught("src/poll/mod.rs", "fn f() { std::sync::mpsc::sync_channel(0) }", 2, what);
    caught("src/poll/mod.rs", "fn f() { std::sync::mpsc::channel::<fn() -> u8>() }", 2, what);
    caught("src/poll/mod.rs", "fn f() { channel(bounds::READINGS) }", 2, "kind is not seen");
    caught("src/poll/mod.rs", "use tokio::sync::mpsc as pipe;", 2, "under another name");
    passes("src/poll/mod.rs", "fn f() { mpsc::channel::<Vec<u8>>(crate::bounds::READINGS) }");
    passes(
        "src/poll/mod.rs",
        "fn f() { broadcast::channel(READINGS,); watch::channel(3); oneshot::channel(); }",
    );
    passes("src/poll/mod.rs", "#[cfg(test)]\nmod tests { fn f() { mpsc::channel(1) } }");
    let driver = |code| of("drivers/x/src/lib.rs", Place::Driver, code);
    assert_eq!(driver("fn f() { mpsc::channel(8) }").len(), 1);
    assert!(driver("fn f() { mpsc::channel(READINGS) }").is_empty());
}

#[test]
fn the_clock_is_read_in_one_place() {
    for code in [
        "fn f() { SystemTime::now() }",
        "fn f() { jiff::Timestamp::now() }",
        "fn f() { jiff::Zoned::now() }",
        "fn f() { rustix::time::clock_gettime(Realtime) }",
        "fn f() { libc::gettimeofday(a, b) }",
        "use std::time::Instant;",
        "use std::time::{Duration, Instant};",
        "fn f() { std::time::Instant::now() }",
    ] {
        caught("src/poll/mod.rs", code, 2, "clock");
        assert_eq!(of("drivers/x/src/lib.rs", Place::Driver, code).len(), 1, "{code}");
        passes("src/clock.rs", code);
    }
    passes(
        "src/poll/mod.rs",
        "use std::time::Duration;\nuse tokio::time::Instant;\nfn f() { Instant::now() }",
    );
    passes(
        "src/poll/mod.rs",
        "#[expect(clippy::disallowed_types, reason = \"a thread\")]\nuse std::time::Instant;",
    );
}

#[test]
fn sql_and_the_broker_keep_to_their_rooms() {
    caught("src/uplink/mod.rs", "use rusqlite::Connection;", 2, "`rusqlite` outside src/store/");
    caught("src/store/mod.rs", "fn f() -> rumqttd::Broker { x }", 2, "`rumqttd` outside src/broker/");
    passes("src/store/log.rs", "use rusqlite::Connection;");
    passes("src/broker/mod.rs", "use rumqttd::Router;");
}

#[test]
fn a_driver_sees_only_the_contract() {
    let manifest = |rest: &str| format!("[package]\nname = \"driver-x\"\n[dependencies]\n{rest}\n");
    assert!(wall("d", &manifest("driver-api.workspace = true\ntokio = \"1\"")).is_empty());
    assert!(wall("d", &manifest("driver-tty.workspace = true")).is_empty());
    for (bad, line) in [
        ("driver-modbus.workspace = true", 4),
        ("\nfieldgate = { path = \"../..\" }", 5),
        ("m = { package = \"driver-modbus\", path = \"../modbus\" }", 4),
        ("rumqttd = \"0.20\"", 4),
        ("[dev-dependencies]\ndriver-sim.workspace = true", 5),
        ("[target.'cfg(unix)'.dependencies]\nrusqlite = \"0.42\"", 5),
    ] {
        let found = wall("d", &manifest(bad));
        assert!(found.len() == 1 && found[0].starts_with(&format!("d:{line}: ")), "{bad}: {found:?}");
    }
    for ground in ["api", "tty"] {
        let own = format!("[package]\nname = \"driver-{ground}\"\n[dependencies]\ndriver-api = \"1\"");
        assert_eq!(wall("d", &own).len(), 1);
    }
}
