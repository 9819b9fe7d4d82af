//! The daemon at its limit of open files: nothing can be opened, by it or for a client, and its database is taken away in
//! that state. Live readings go on, the log says what is wrong, and with room again everything is as before, without a loss.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use support::judge::judge;
use support::messages::{losses, readings};
use support::mosquitto::publish;
use support::process::{Process, Signal};
use support::{Gate, Mosquitto, pause, seconds, temporary, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");

const SIM: &str = "[[bus]]\nname = \"sim\"\ndriver = \"sim\"\n\
    [[device]]\nname = \"tank\"\nbus = \"sim\"\ninterval = \"50ms\"\n\
    [[device.point]]\nname = \"level\"\nsignal = \"counter\"\nperiod = \"50ms\"\n";

/// From now on the daemon opens nothing whose descriptor would be this or above; what is open stays so.
fn limit(daemon: &Process, files: Option<u64>) {
    let pid = Pid::from_raw(daemon.pid().cast_signed()).expect("it runs");
    let new = Rlimit { current: files, maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Some(pid), Resource::Nofile, new).expect("a process of ours");
}

#[test]
fn without_a_descriptor_left_live_readings_go_on_and_nothing_is_lost() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let observer = cloud.observe();
    let uplink = format!(
        "[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{}\"\nmax_rate = \"0\"\n",
        cloud.port()
    );
    let gate = Gate::new(BINARY, home.path(), "box", &format!("{uplink}{SIM}"));
    let mut daemon = gate.run();
    let heard = || readings(&observer.messages(), "gw/box").0;
    wait_until("readings in the cloud", seconds(20), || heard().len() > 20);

    limit(&daemon, Some(3));
    let before = heard().len();
    wait_until("more of them, stored as before", seconds(20), || heard().len() > before + 20);
    let (database, away) = (home.path().join("store/fieldgate.db"), home.path().join("away.db"));
    fs::rename(&database, &away).expect("renamed");
    wait_until("the reason in the log", seconds(20), || daemon.output().contains("LimitNOFILE"));
    let before = heard().len();
    wait_until("live readings without the store", seconds(20), || heard().len() > before + 40);
    fs::rename(&away, &database).expect("renamed");
    // Somebody who waits at the door takes nothing from the store when there is room again.
    let client = std::net::TcpStream::connect(("127.0.0.1", gate.broker)).expect("the kernel's part");
    pause(Duration::from_millis(300));
    assert!(daemon.is_running() && daemon.output().contains("cannot accept a connection"));

    limit(&daemon, Some(1024));
    wait_until("the store to write again", seconds(10), || {
        daemon.output().contains("the store writes again")
    });
    drop(client);
    assert!(publish(gate.broker, &["-t", "a", "-m", "b"]), "clients are served");
    wait_until("all well", seconds(10), || gate.cli(&["status", "--json"]).code == 0);
    wait_until("everything in the cloud", seconds(20), || {
        let account = gate.account("cloud");
        account.balances() && account.lost == 0 && account.delivered > 100
    });
    assert!(gate.status()["store"]["set_aside"].as_array().is_none_or(Vec::is_empty), "nothing is set aside");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);
    let messages = observer.messages();
    let declared = losses(&messages, "gw/box").0;
    let verdict = judge(&heard(), &declared, false);
    assert!(verdict.faults.is_empty() && declared.is_empty(), "{verdict:?} {declared:?}");
}
