//! What a reading costs: processor time per 1000 readings and memory, of the whole gateway and of a minimal
//! loop that only polls and publishes, in one run.
//!
//! `cargo bench --bench cost [-- SECONDS]`. Ten Modbus TCP devices with 100 registers each, every register read
//! once a second. The gateway is the release binary with its store on (fsync twice a second) and its broker,
//! where one client of mosquitto takes every reading. The loop is this program again: one task a device
//! that reads with tokio-modbus and publishes each register as a number, at QoS 0, to a mosquitto with such a
//! client. Devices, clients and mosquitto are other processes and count for nobody.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use driver_sim::slaves::{Area, Kind, Layout, Source, TcpSlave};
use support::process::Process;
use support::{Gate, Mosquitto, pause, seconds, temporary, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_modbus::Slave;
use tokio_modbus::client::{Reader, tcp};

const BINARY: &str = env!("CARGO_BIN_EXE_fieldgate");
const DEVICES: u16 = 10;
const REGISTERS: u16 = 100;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, broker, devices @ ..] = args.as_slice()
        && mode == "floor"
    {
        let port = |text: &String| text.parse::<u16>().expect("a port");
        return floor(port(broker), &devices.iter().map(port).collect::<Vec<_>>());
    }
    let length = seconds(args.iter().filter_map(|a| a.parse().ok()).next().unwrap_or(20));
    let home = temporary();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime for the simulated devices");
    let slaves: Vec<TcpSlave> = (0..DEVICES).map(|_| runtime.block_on(slave())).collect();
    let ports: Vec<u16> = slaves.iter().map(|slave| slave.address().port()).collect();

    let gate = Gate::new(BINARY, home.path(), "bench", &configuration(&ports));
    let daemon = gate.run();
    let gateway = {
        let _client = client(gate.broker, "gw/bench/data/#", home.path());
        measured(&daemon, &slaves, length)
    };
    drop(daemon);

    let mosquitto = Mosquitto::start(home.path());
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("floor").arg(mosquitto.port().to_string()).args(ports.iter().map(ToString::to_string));
    let floor = Process::start(command, &home.path().join("floor.log"));
    let minimal = {
        let _client = client(mosquitto.port(), "#", home.path());
        measured(&floor, &slaves, length)
    };
    println!("{} registers at 1 Hz from {DEVICES} TCP devices, {length:?} each\n", DEVICES * REGISTERS);
    println!("{:<14} {:>10} {:>22} {:>10}", "", "readings", "ms per 1000 readings", "RSS MiB");
    for (name, cost) in [("fieldgate", &gateway), ("minimal loop", &minimal)] {
        println!("{name:<14} {:>10} {:>22.2} {:>10.1}", cost.readings, cost.ms_per_1000, cost.rss_mib);
    }
    println!("{:<14} {:>33.2}", "ratio", gateway.ms_per_1000 / minimal.ms_per_1000);
}

struct Cost {
    readings: u64,
    ms_per_1000: f64,
    rss_mib: f64,
}

async fn slave() -> TcpSlave {
    let layout = (0..REGISTERS).fold(Layout::new(1, 0), |layout, address| {
        layout.with(1, Area::Holding, address, Kind::U16, Source::Serves)
    });
    TcpSlave::start(layout.build().expect("small"), 0).await.expect("a port")
}

fn configuration(ports: &[u16]) -> String {
    let mut text = String::new();
    for (n, port) in ports.iter().enumerate() {
        text += &format!(
            "[[bus]]\nname = \"plc{n}\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{port}\"\n\
             [[device]]\nname = \"d{n}\"\nbus = \"plc{n}\"\naddress = 1\ninterval = \"1s\"\n"
        );
        for register in 0..REGISTERS {
            text += &format!("[[device.point]]\nname = \"r{register}\"\nregister = \"holding:{register}\"\n");
        }
    }
    text
}

/// A client of a broker that takes everything and counts for nobody.
fn client(port: u16, filter: &str, home: &Path) -> Process {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-t", filter]).stdout(Stdio::null());
    Process::start_with_output(command, Path::new("/dev/null"), &home.join("sub.log"))
}

/// Processor time and memory of a process while the devices serve for so long, after it has settled.
fn measured(process: &Process, slaves: &[TcpSlave], length: Duration) -> Cost {
    let served = || -> u64 {
        let rows = slaves.iter().flat_map(|slave| slave.registers().ledger());
        rows.map(|row| row.good).sum()
    };
    let settled = served() + u64::from(DEVICES * REGISTERS) * 5;
    wait_until("five rounds of readings", seconds(60), || served() >= settled);
    let (readings, used) = (served(), run_time_ms(process.pid()));
    pause(length);
    let (readings, used) = (served() - readings, run_time_ms(process.pid()) - used);
    #[expect(clippy::cast_precision_loss, reason = "a few ten thousand")]
    Cost {
        readings,
        ms_per_1000: used / readings as f64 * 1e3,
        rss_mib: process.memory_kib().0 as f64 / 1024.0,
    }
}

/// Time that the threads of a process were on a processor, in ms: the first number of each `schedstat` is in
/// nanoseconds, where the clock ticks of `stat` are 10 ms.
fn run_time_ms(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let spent = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    spent.sum::<f64>() / 1e6
}

/// The minimal loop: MQTT 3.1.1 by hand, one packet a register, all registers of a device in one write.
fn floor(broker: u16, devices: &[u16]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tasks: Vec<_> = devices
            .iter()
            .enumerate()
            .map(|(n, port)| {
                let port = *port;
                async move {
                    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
                    let mut device = tcp::connect_slave(address, Slave(1)).await.expect("the device listens");
                    let mut mqtt =
                        tokio::net::TcpStream::connect(("127.0.0.1", broker)).await.expect("it listens");
                    let id = format!("floor{n}");
                    let mut connect = vec![0x10, 12 + id.len() as u8, 0, 4];
                    connect.extend_from_slice(b"MQTT\x04\x02\x00\x00\x00");
                    connect.push(id.len() as u8);
                    connect.extend_from_slice(id.as_bytes());
                    mqtt.write_all(&connect).await.expect("it listens");
                    mqtt.read_exact(&mut [0; 4]).await.expect("a CONNACK");
                    let mut every = tokio::time::interval(Duration::from_secs(1));
                    loop {
                        every.tick().await;
                        let words = device
                            .read_holding_registers(0, REGISTERS)
                            .await
                            .expect("TCP")
                            .expect("an answer");
                        let mut packets = Vec::new();
                        for (register, word) in words.iter().enumerate() {
                            let topic = format!("floor/d{n}/r{register}");
                            let value = word.to_string();
                            packets.push(0x30);
                            packets.push(2 + topic.len() as u8 + value.len() as u8);
                            packets.extend_from_slice(&(topic.len() as u16).to_be_bytes());
                            let _ = write!(packets, "{topic}{value}");
                        }
                        mqtt.write_all(&packets).await.expect("it listens");
                    }
                }
            })
            .map(tokio::spawn)
            .collect();
        for task in tasks {
            let () = task.await.expect("a device's task goes on");
        }
    });
}
