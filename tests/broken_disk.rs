//! The whole daemon on a disk that is filled up from outside, turns read-only by an error of its file system, is
//! unmounted beneath it, and under which it is killed. Live readings go on, on the local bus and to the cloud; when the
//! disk is well the store is, by itself; and every number arrived or is declared.
//!
//! It mounts a file system of its own, so it is ignored, and run by `./tests/run faults` (as root, or with a sudo that
//! asks for no password). It prints how old readings are when they are heard, before and during each fault.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::judge::{contradictions, judge, unaccounted};
use support::messages::{Lane, losses, readings};
use support::mosquitto::{publish, subscribe};
use support::plant::{Line, config, plant};
use support::process::{Process, Signal};
use support::{Gate, Mosquitto, Observer, Plant, now, pause, seconds, temporary, wait_for, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");
/// How long each fault lasts.
const OUTAGE: Duration = Duration::from_secs(12);
/// The store tries at least every 4 s; the rest is for the command that asks it, on a slow machine.
const BACK: f64 = 6.0;

fn root(args: &[&str]) -> (bool, String) {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(args[0])
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", args[0]]);
        sudo
    };
    let output = command.args(&args[1..]).output().expect("it can be started");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn must(args: &[&str]) -> String {
    let (done, said) = root(args);
    assert!(done, "{args:?}: {said}");
    said
}

/// An ext4 of 64 MiB on a loop device.
struct SmallDisk {
    image: PathBuf,
    copies: u32,
    dir: PathBuf,
}

impl SmallDisk {
    fn new(home: &Path, dir: PathBuf) -> Self {
        let image = home.join("disk-0.img");
        let path = image.display().to_string();
        must(&["truncate", "-s", "64M", &path]);
        must(&["mkfs.ext4", "-q", "-F", "-m", "0", &path]);
        std::fs::create_dir_all(&dir).expect("creates");
        let disk = Self { image, copies: 0, dir };
        disk.mount();
        disk
    }

    fn mount(&self) {
        let (image, dir) = (self.image.display().to_string(), self.dir.display().to_string());
        must(&["mount", "-o", "loop,errors=remount-ro", &image, &dir]);
        must(&["chown", &rustix::process::getuid().as_raw().to_string(), &dir]);
    }

    fn unmount(&self) {
        must(&["umount", "-l", &self.dir.display().to_string()]);
    }

    /// As an error of the file system does it.
    fn turns_read_only(&self) {
        let image = self.image.display().to_string();
        let device = must(&["losetup", "-n", "-O", "NAME", "-j", &image]);
        let device = device.trim().trim_start_matches("/dev/");
        must(&["sh", "-c", &format!("echo injected > /sys/fs/ext4/{device}/trigger_fs_error")]);
    }

    /// What a person does about it, with a copy: the kernel does not let go of a file system in this state at once.
    fn repair(&mut self) {
        self.unmount();
        self.copies += 1;
        let copy = self.image.with_file_name(format!("disk-{}.img", self.copies));
        std::fs::copy(&self.image, &copy).expect("copies");
        self.image = copy;
        let (_, said) = root(&["e2fsck", "-p", &self.image.display().to_string()]);
        assert!(!said.contains("UNEXPECTED INCONSISTENCY"), "{said}");
        self.mount();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        root(&["umount", "-l", &self.dir.display().to_string()]);
    }
}

/// Somebody who takes every byte of a disk as soon as there is one.
struct Hog {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
    path: PathBuf,
}

impl Hog {
    fn start(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, own) = (Arc::clone(&stop), path.clone());
        let thread = std::thread::spawn(move || {
            let mut file = OpenOptions::new().append(true).create(true).open(own).expect("opens");
            let mut eaten = 0;
            while !flag.load(Ordering::SeqCst) {
                for size in [1 << 20, 4096, 64] {
                    while let Ok(n) = file.write(&vec![7; size]) {
                        eaten += n as u64;
                        if n < size || flag.load(Ordering::SeqCst) {
                            break;
                        }
                    }
                }
                pause(Duration::from_millis(50));
            }
            eaten
        });
        Self { stop, thread: Some(thread), path }
    }

    fn gone(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        let eaten = self.thread.take().map_or(0, |thread| thread.join().expect("it ends"));
        std::fs::remove_file(&self.path).expect("removes");
        eaten
    }
}

/// How old live readings were when they were heard: number, median, 99th percentile and worst, ms.
fn ages(observer: &Observer, window: (f64, f64)) -> (usize, [f64; 3]) {
    let heard = readings(&observer.messages(), "gw/box").0;
    let live = heard.iter().filter(|r| r.lane == Lane::Live && r.at >= window.0 && r.at < window.1);
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a day's clock")]
    let mut ages: Vec<f64> = live.map(|r| r.at * 1000.0 - r.ts_ms as f64).collect();
    ages.sort_by(f64::total_cmp);
    let at = |share: usize| ages.get((ages.len() * share / 100).min(ages.len().saturating_sub(1))).copied();
    (ages.len(), [50, 99, 100].map(|share| at(share).unwrap_or(f64::NAN)))
}

/// The daemon with a directory in RAM beside it, as its unit has it.
fn start(gate: &Gate) -> Process {
    let run = gate.home().join("run");
    std::fs::create_dir_all(&run).expect("creates");
    let mut command = gate.command();
    command.env("RUNTIME_DIRECTORY", &run);
    let mut daemon = Process::start(command, &gate.home().join("daemon.log"));
    gate.ready(&mut daemon);
    daemon
}

struct Scene {
    gate: Gate,
    cloud: Observer,
    local: Observer,
}

impl Scene {
    fn state(&self) -> String {
        self.gate.status()["store"]["state"].as_str().unwrap_or("?").to_owned()
    }

    fn ballast(&self) -> u64 {
        self.gate.status()["store"]["ballast_bytes"].as_u64().unwrap_or(0)
    }

    /// Lets the outage last, and tells how old readings were meanwhile. Some must have come through at both ends.
    fn outage(&self, what: &str) {
        let began = now();
        // A client of the local broker is answered, too, and what it retains is kept in the end.
        let topic = format!("kept/{what}");
        assert!(publish(self.gate.broker, &["-q", "1", "-r", "-t", &topic, "-m", "x"]), "{what}");
        pause(OUTAGE);
        let window = (began, now());
        for (where_, observer) in [("local bus", &self.local), ("cloud", &self.cloud)] {
            // What was taken at the end of it may still be on its way.
            let (count, [median, p99, worst]) = ages(observer, window);
            println!(
                "{what:32} {where_:10} {count:6} readings, age {median:6.0} ms, 99 % {p99:6.0}, worst {worst:6.0}"
            );
            assert!(
                count as u64 > OUTAGE.as_secs() * 20,
                "{what}: live readings stop at the {where_}: {count}"
            );
        }
    }

    /// Waits for the store to be well and everything that was taken to be durable.
    fn well_again(&self, what: &str) {
        let healed = now();
        let taken = self.gate.status()["store"]["next_seq"].as_u64().unwrap_or(0);
        wait_until(&format!("{what}: the store to write again"), seconds(30), || self.state() == "ok");
        let took = now() - healed;
        println!("{what:32} back after {took:.1} s");
        assert!(took < BACK, "{what}: back after {took} s");
        wait_until("what was in RAM to be durable", seconds(20), || {
            self.gate.status()["store"]["stored_seq"].as_u64().is_some_and(|stored| stored + 1 >= taken)
        });
        let account = self.gate.account("cloud");
        assert!(account.balances() && account.lost == 0, "{what}: {account:?}");
        wait_until("the broker to keep its sessions again", seconds(20), || {
            self.gate.status()["broker"]["persistence"] == "ok"
        });
    }
}

#[test]
#[ignore = "mounts a file system: ./tests/run faults"]
fn whatever_the_disk_does_live_readings_arrive_and_the_store_comes_back_by_itself() {
    let home = temporary();
    let cloud = Mosquitto::start(home.path());
    let lines = [Line { name: "plc", units: 1..=2, points: 10, link: None }];
    let field = Plant::start(home.path(), &plant(&lines));
    let uplink = format!("[[uplink]]\nname = \"cloud\"\nurl = \"mqtt://127.0.0.1:{}\"\n", cloud.port());
    let buses = config(&field, &lines).replace("interval = \"1s\"", "interval = \"100ms\"");
    let gate = Gate::new(BINARY, home.path(), "box", &format!("{uplink}{buses}"));
    let mut disk = SmallDisk::new(home.path(), gate.home().join("store"));
    let observer = cloud.observe();
    let mut daemon = start(&gate);
    let local = Observer::start(home.path(), gate.broker, "local", &["gw/box/data/#"]);
    let mut scene = Scene { gate, cloud: observer, local };
    wait_until("the first reading in the cloud", seconds(20), || scene.cloud.count() > 100);
    let ballast = wait_for("the ballast", seconds(60), || Some(scene.ballast()).filter(|bytes| *bytes > 0));
    scene.outage("no fault");

    let hog = Hog::start(disk.dir.join("hog"));
    scene.outage("full disk");
    // So few readings may find their room without it; that it is given up and comes back is tested in the store.
    println!(
        "of a ballast of {ballast} bytes {} are left; the store says {}",
        scene.ballast(),
        scene.state()
    );
    println!("the hog had {} bytes", hog.gone());
    scene.well_again("full disk");

    disk.turns_read_only();
    wait_until("the store to notice", seconds(20), || scene.state() == "fault");
    scene.outage("read-only after an error");
    disk.repair();
    scene.well_again("read-only after an error");

    disk.unmount();
    wait_until("the store to notice", seconds(20), || scene.state() == "fault");
    scene.outage("unmounted");
    disk.mount();
    scene.well_again("unmounted");

    disk.turns_read_only();
    wait_until("the store to notice", seconds(20), || scene.state() == "fault");
    pause(seconds(3));
    daemon.kill();
    disk.repair();
    daemon = start(&scene.gate);
    wait_until("the local observer to be there again", seconds(20), || scene.local.is_running());
    pause(seconds(3));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);

    // Nothing comes in any more, and all that is owed goes out.
    scene.gate.configure(&format!("{}{uplink}", scene.gate.head("box", "")));
    let mut daemon = start(&scene.gate);
    wait_until("everything is delivered", seconds(60), || scene.gate.account("cloud").queued == 0);
    let kept = subscribe(scene.gate.broker, 2, &["-t", "kept/#"]).1;
    assert_eq!(kept.len(), 4, "retained messages of every outage but the last: {kept:?}");
    let mut heard = 0;
    wait_until("the observers to be done", seconds(30), || {
        pause(Duration::from_millis(500));
        std::mem::replace(&mut heard, scene.cloud.count()) == scene.cloud.count()
    });
    let account = scene.gate.account("cloud");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(seconds(25)), 0);

    let (heard, odd) = readings(&scene.cloud.messages(), "gw/box");
    let (declared, odd_losses) = losses(&scene.cloud.messages(), "gw/box");
    let (seen, odd_local) = readings(&scene.local.messages(), "gw/box");
    let mut verdict = judge(&heard, &declared, false);
    verdict.faults.extend(odd.into_iter().chain(odd_losses).chain(odd_local));
    verdict.faults.extend(contradictions(&heard, &seen));
    verdict.faults.extend(unaccounted(&heard, &declared, &seen).into_iter().filter(|r| !r.contains("stale")));
    let other: Vec<_> = declared.iter().filter(|loss| loss.reason != "unclean_start").collect();
    println!(
        "{account:?}; heard {} numbers, {} repeats, {} by history; declared for the kill: {} at most, of which {} had \
         arrived",
        verdict.distinct,
        verdict.repeats,
        verdict.history,
        declared.iter().map(|loss| loss.count).sum::<u64>(),
        verdict.declared_but_heard
    );
    assert!(account.balances() && other.is_empty(), "{account:?} {other:?}");
    assert!(verdict.faults.is_empty(), "{}", verdict.faults.join("\n"));
}
