//! The simulated plant: three meters on one RS-485 line, and a heat pump on Modbus TCP.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use driver_sim::signals::{Signal, Wave};
use driver_sim::slaves::{Area, Kind, Layout, Registers, RtuFault, RtuOptions, RtuSlave, Source, TcpSlave};

/// Unit id of the meter that dies.
const MORTAL: u8 = 3;
const BAUD: u32 = 19_200;

/// The devices, as long as it lives.
pub struct Plant {
    line: RtuSlave,
    terminal: PathBuf,
    tcp: TcpSlave,
}

/// A quantity: point name, unit, first register, its range.
type Quantity = (&'static str, &'static str, u16, f64, f64);

const METER: [Quantity; 6] = [
    ("voltage_l1", "V", 0, 226.0, 234.0),
    ("voltage_l2", "V", 2, 226.0, 234.0),
    ("voltage_l3", "V", 4, 226.0, 234.0),
    ("current_l1", "A", 6, 0.5, 16.0),
    ("power_l1", "W", 12, 100.0, 3600.0),
    ("frequency", "Hz", 70, 49.95, 50.05),
];

const PUMP: [Quantity; 4] = [
    ("flow_temperature", "°C", 0, 30.0, 45.0),
    ("return_temperature", "°C", 2, 25.0, 38.0),
    ("outdoor_temperature", "°C", 4, -5.0, 12.0),
    ("flow", "l/min", 6, 10.0, 22.0),
];

fn signal(low: f64, high: f64) -> Source {
    Source::Signal(Signal::Sine(Wave { low, high, period: Duration::from_secs(20) }))
}

fn meters() -> Result<Registers, String> {
    let mut layout = Layout::new(1, 0);
    for unit in 1..=MORTAL {
        for (_, _, register, low, high) in METER {
            layout = layout.with(unit, Area::Input, register, Kind::F32, signal(low, high));
        }
    }
    layout.build().map_err(|e| e.to_string())
}

fn pump() -> Result<Registers, String> {
    let mut layout = Layout::new(2, 0);
    for (_, _, register, low, high) in PUMP {
        layout = layout.with(1, Area::Input, register, Kind::F32, signal(low, high));
    }
    layout = layout.with(1, Area::Holding, 0, Kind::U16, Source::Held(210.0));
    layout.build().map_err(|e| e.to_string())
}

impl Plant {
    /// Starts every device.
    ///
    /// # Errors
    /// No pseudo-terminal or no port is to be had.
    pub async fn start() -> Result<Self, String> {
        let options = RtuOptions { baud: BAUD, turnaround: Duration::from_millis(4), link: None };
        let line = RtuSlave::start(meters()?, options).map_err(|e| format!("pseudo-terminal: {e}"))?;
        let terminal = line.path().ok_or("the pseudo-terminal has no name")?.to_path_buf();
        let tcp =
            TcpSlave::start(pump()?, 0).await.map_err(|e| format!("simulated Modbus TCP device: {e}"))?;
        Ok(Self { line, terminal, tcp })
    }

    /// The configuration of a gateway for this plant, with this cloud.
    #[must_use]
    pub fn config(&self, cloud: SocketAddr) -> String {
        let mut text = format!(
            "[gateway]\nid = \"demo\"\nclock = \"trusted\"\n\
             [store]\npath = \"queue\"\nmin_free = \"1MiB\"\n\
             [[broker.listener]]\nbind = \"{}\"\n\
             [[uplink]]\nname = \"cloud\"\nurl = \"mqtt://{cloud}\"\n\
             [[bus]]\nname = \"rs485\"\ndriver = \"modbus-rtu\"\nport = \"{}\"\nbaud = {BAUD}\n\
             [[bus]]\nname = \"plc\"\ndriver = \"modbus-tcp\"\naddress = \"{}\"\n",
            free_or(1883),
            self.terminal.display(),
            self.tcp.address(),
        );
        let mut device = |name: &str, bus: &str, unit: u8, interval: &str, points: &[Quantity]| {
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "[[device]]\nname = \"{name}\"\nbus = \"{bus}\"\naddress = {unit}\ninterval = \"{interval}\"\ntimeout = \"300ms\"\n"
            );
            for (point, unit, register, ..) in points {
                let _ = write!(
                    text,
                    "[[device.point]]\nname = \"{point}\"\nregister = \"input:{register}\"\ntype = \"f32\"\nunit = \"{unit}\"\n"
                );
            }
        };
        for unit in 1..=MORTAL {
            device(&format!("meter{unit}"), "rs485", unit, "500ms", &METER);
        }
        device("heatpump", "plc", 1, "250ms", &PUMP);
        text.push_str(
            "[[device.point]]\nname = \"setpoint\"\nregister = \"holding:0\"\ntype = \"u16\"\nscale = 0.1\nunit = \"°C\"\n\
             writable = true\nmin = 5.0\nmax = 30.0\ninterval = \"1s\"\n",
        );
        text
    }

    /// The pseudo-terminal of the RS-485 line.
    #[must_use]
    pub fn terminal(&self) -> String {
        format!("{} at {BAUD} baud", self.terminal.display())
    }

    /// The simulated Modbus TCP device.
    #[must_use]
    pub fn tcp(&self) -> SocketAddr {
        self.tcp.address()
    }

    /// Meter 3 falls silent, or answers again.
    pub fn kill_meter(&self, dead: bool) {
        self.line.faults().set(MORTAL, dead.then_some(RtuFault::Silent));
    }

    /// How many values the devices served, in answers that left whole.
    #[must_use]
    pub fn served(&self) -> u64 {
        let rows = [self.line.registers().ledger(), self.tcp.registers().ledger()];
        rows.iter().flatten().map(|row| row.good + row.late).sum()
    }
}

/// Loopback on the usual port if that is free, else on any.
fn free_or(port: u16) -> SocketAddr {
    let usual = SocketAddr::from(([127, 0, 0, 1], port));
    match TcpListener::bind(usual) {
        Ok(_) => usual,
        Err(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
    }
}
