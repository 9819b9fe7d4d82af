//! An adapter that is pulled out and plugged in again, over and over: each time the port is closed at once and
//! opened again by its stable name within five seconds of the plug, and no descriptor is left behind.
//!
//! Ten times, or a hundred with `FIELDGATE_FULL=1`.

use std::time::Duration;

use driver_sim::slaves::{Area, Kind, Layout, RtuOptions, RtuSlave, Source};
use support::{Gate, now, seconds, temporary, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

#[test]
fn an_adapter_may_be_replugged_as_often_as_one_likes() {
    let rounds = if std::env::var_os("FIELDGATE_FULL").is_some_and(|v| v == "1") { 100 } else { 10 };
    let home = temporary();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime for the simulated device");
    let link = home.path().join("adapter");
    let mut slave = runtime.block_on(async {
        let image = Layout::new(1, 0).with(1, Area::Holding, 0, Kind::U16, Source::Serves);
        let options =
            RtuOptions { baud: 19_200, turnaround: Duration::from_millis(5), link: Some(link.clone()) };
        RtuSlave::start(image.build().expect("small"), options).expect("a pseudo-terminal")
    });
    let config = format!(
        "[[bus]]\nname = \"rs485\"\ndriver = \"modbus-rtu\"\nport = \"{}\"\nparity = \"none\"\n\
         [[device]]\nname = \"meter\"\nbus = \"rs485\"\naddress = 1\ninterval = \"100ms\"\n\
         [[device.point]]\nname = \"count\"\nregister = \"holding:0\"\n",
        link.display()
    );
    let gate = Gate::new(BINARY, home.path(), "box", &config);
    let daemon = gate.run();
    let served = |slave: &RtuSlave| slave.registers().row(1, Area::Holding, 0).map_or(0, |row| row.good);
    wait_until("the first readings", seconds(15), || served(&slave) > 2);
    // The terminal itself, not its stable name: what must not stay open.
    let holds = |terminal: &std::path::Path| {
        let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs");
        open.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == terminal))
    };
    let before = daemon.open_files();
    let mut slowest = 0_f64;
    for round in 1..=rounds {
        let terminal = link.canonicalize().expect("plugged in");
        assert!(holds(&terminal), "round {round}: it polls, so it has the port open");
        runtime.block_on(slave.unplug()).expect("it ran until now");
        wait_until("the port to be closed", seconds(5), || {
            // A closed pseudo-terminal shows as "… (deleted)" where it is still held.
            let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs");
            let name = terminal.to_string_lossy().into_owned();
            !open.flatten().any(|fd| {
                std::fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with(&name))
            })
        });
        runtime.block_on(async { slave.plug() }).expect("a pseudo-terminal");
        let (plugged, count) = (now(), served(&slave));
        wait_until("good readings again", seconds(10), || served(&slave) > count);
        slowest = slowest.max(now() - plugged);
    }
    let after = daemon.open_files();
    println!(
        "{rounds} times out and in; back {slowest:.2} s after the plug at worst; {before} files open before, {after} after"
    );
    assert!(slowest <= 5.0, "{slowest:.2} s");
    assert!(after <= before, "{before} files open before, {after} after");
}
