//! A listener with users and rights of its own, by the binary: its files are checked, read again by a reload, and count.

use std::io::Write;
use std::process::{Command, Stdio};

use support::mosquitto::{publish, subscribe};
use support::process::Signal;
use support::{Gate, seconds, temporary, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");
/// What `mosquitto_sub` ends with when its time is over: it was let in, and subscribed.
const LET_IN: i32 = 27;

#[test]
fn a_listener_with_users_and_rights_of_its_own_is_checked_reloaded_and_shown() {
    let home = temporary();
    let gate = Gate::new(BINARY, home.path(), "box", "");
    let port = support::free_port();
    gate.configure(&format!(
        "{}[[broker.listener]]\nbind = \"127.0.0.1:{port}\"\npassword_file = \"plant\"\nacl_file = \"plant.acl\"\n",
        gate.head("box", "password_file = \"passwd\"")
    ));
    let rights = |text: &str| std::fs::write(home.path().join("plant.acl"), text).expect("it can be written");
    let set = |file: &str, name: &str, password: &str| {
        let mut child = Command::new(BINARY)
            .args(["passwd", file, name])
            .current_dir(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary can be started");
        writeln!(child.stdin.take().expect("piped"), "{password}").expect("it reads");
        assert!(child.wait().expect("it ends").success());
    };
    set("passwd", "anna", "a-secret");
    set("plant", "otto", "o-secret");
    rights("topik write #\n");
    for command in ["check", "run"] {
        let told = gate.cli(&[command]);
        let said = format!("{}{}", told.out, told.err);
        assert_eq!(told.code, 78, "{said}");
        assert!(said.contains("plant.acl:1:1") && said.contains("did you mean `topic`?"), "{said}");
    }
    rights("user otto\ntopic write #\n");
    assert_eq!(gate.cli(&["check"]).code, 0);
    let mut daemon = gate.run();
    let hears = |port: u16, name: &str, password: &str| {
        subscribe(port, 1, &["-V", "mqttv5", "-u", name, "-P", password, "-t", "gw/#"]).0 == LET_IN
    };
    assert!(hears(gate.broker, "anna", "a-secret") && !hears(gate.broker, "otto", "o-secret"));
    assert!(!hears(port, "anna", "a-secret"), "she is no user there");
    assert!(publish(port, &["-u", "otto", "-P", "o-secret", "-t", "a", "-m", "b"]));
    assert!(!hears(port, "otto", "o-secret"), "he has no right to read");
    rights("user otto\ntopic readwrite #\n");
    daemon.signal(Signal::HUP);
    wait_until("the right", seconds(10), || hears(port, "otto", "o-secret"));
    let otto = std::thread::spawn(move || {
        let login = ["-V", "mqttv5", "-i", "ottos", "-u", "otto", "-P", "o-secret", "-t", "gw/#"];
        subscribe(port, 20, &login).0
    });
    wait_until("otto to be shown", seconds(10), || {
        let told = gate.cli(&["status", "--clients"]).out;
        told.lines()
            .any(|line| line.contains("ottos") && line.contains("otto ") && line.contains("127.0.0.1"))
    });
    // A mistake is told and changes nothing.
    rights("topik\n");
    daemon.signal(Signal::HUP);
    wait_until("the mistake to be told", seconds(10), || daemon.output().contains("plant.acl:1:1"));
    assert!(hears(port, "otto", "o-secret"));
    rights("user otto\ntopic readwrite #\n");
    set("plant", "otto", "another");
    daemon.signal(Signal::HUP);
    let told = format!("users of listener 127.0.0.1:{port} changed");
    wait_until("the reload", seconds(10), || daemon.output().contains(&told));
    assert_ne!(otto.join().expect("the listener's thread"), LET_IN, "sent away, and not let in again");
    assert!(hears(gate.broker, "anna", "a-secret") && hears(port, "otto", "another"));
}
