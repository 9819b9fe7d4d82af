//! A plant of pymodbus devices, its ledger of every value it served, and the configuration that polls it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value as Json, json};

use crate::process::Process;
use crate::time::{seconds, wait_for};

/// Running pymodbus servers.
pub struct Plant {
    ledger: PathBuf,
    places: Json,
    process: Process,
}

/// One value that a counter served.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Serve {
    /// When, seconds since 1970.
    pub at: f64,
    /// The count, from 1.
    pub value: u64,
}

impl Plant {
    /// Starts the servers that `plant` names (see `pymodbus_server.py`), with their files in `home`.
    ///
    /// # Panics
    /// If Python with pymodbus is not there, or the servers do not listen within 20 s.
    #[must_use]
    pub fn start(home: &Path, plant: &Json) -> Self {
        let root = crate::repository();
        let python = root.join("target/venv/bin/python");
        assert!(python.exists(), "no {}: run `./tests/run setup` once", python.display());
        let (ledger, output) = (home.join("served.jsonl"), home.join("plant.json"));
        let mut command = Command::new(python);
        command.arg(root.join("tests/support/pymodbus_server.py")).arg(&ledger).arg(plant.to_string());
        let mut process = Process::start_with_output(command, &output, &home.join("plant.log"));
        let places = wait_for("the pymodbus servers", seconds(20), || {
            assert!(process.is_running(), "pymodbus ended: {}", process.output());
            serde_json::from_str(&fs::read_to_string(&output).unwrap_or_default()).ok()
        });
        Self { ledger, places, process }
    }

    /// TCP port of a server.
    ///
    /// # Panics
    /// If there is no TCP server of this name.
    #[must_use]
    pub fn port(&self, name: &str) -> u64 {
        self.places[name].as_u64().unwrap_or_else(|| panic!("no TCP server {name} in {}", self.places))
    }

    /// Bytes of the ledger so far: it grows with everything that is served.
    #[must_use]
    pub fn size(&self) -> u64 {
        fs::metadata(&self.ledger).map_or(0, |file| file.len())
    }

    /// The rows of the ledger so far.
    #[must_use]
    pub fn rows(&self) -> Vec<Json> {
        let text = fs::read_to_string(&self.ledger).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Every value served, in order, by the reading's name in a configuration of [`config`].
    #[must_use]
    pub fn served(&self) -> BTreeMap<String, Vec<Serve>> {
        let mut all: BTreeMap<String, Vec<Serve>> = BTreeMap::new();
        for row in self.rows() {
            let Some(values) = row["values"].as_array() else { continue };
            let (at, first) = (row["t"].as_f64().unwrap_or(0.0), row["address"].as_u64().unwrap_or(0) / 2);
            for (index, value) in (first..).zip(values) {
                let name = format!("{}-{}/{}", row["bus"].as_str().unwrap_or("?"), row["unit"], point(index));
                all.entry(name).or_default().push(Serve { at, value: value.as_u64().unwrap_or(0) });
            }
        }
        all
    }

    /// What was written to a register, in order.
    #[must_use]
    pub fn writes(&self, bus: &str, unit: u8, address: u16) -> Vec<u64> {
        let here = |row: &&Json| row["bus"] == bus && row["unit"] == unit && row["address"] == address;
        let rows = self.rows();
        rows.iter().filter(here).filter_map(|row| row["write"][0].as_u64()).collect()
    }

    /// How often a master connected to a server.
    #[must_use]
    pub fn connections(&self, bus: &str) -> usize {
        self.rows().iter().filter(|row| row["bus"] == bus && row["connected"] == true).count()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}

fn point(index: u64) -> String {
    format!("p{index:03}")
}

/// A bus of the plant and what is polled there.
pub struct Line<'a> {
    /// Name of the server.
    pub name: &'a str,
    /// Unit ids.
    pub units: std::ops::RangeInclusive<u8>,
    /// Counters polled of each unit, at 1 Hz.
    pub points: u64,
    /// Link to the terminal for RTU; `None` for TCP.
    pub link: Option<PathBuf>,
}

/// The plant of these lines, for [`Plant::start`].
#[must_use]
pub fn plant(lines: &[Line<'_>]) -> Json {
    let (mut tcp, mut rtu) = (Vec::new(), Vec::new());
    for line in lines {
        let units: Vec<u8> = line.units.clone().collect();
        match &line.link {
            Some(link) => rtu.push(json!({ "name": line.name, "units": units, "link": link })),
            None => tcp.push(json!({ "name": line.name, "units": units })),
        }
    }
    json!({ "tcp": tcp, "rtu": rtu })
}

/// Buses and devices that poll the lines: device `<line>-<unit>`, points `p000`, `p001`, … of type u32.
#[must_use]
pub fn config(plant: &Plant, lines: &[Line<'_>]) -> String {
    let mut text = String::new();
    for line in lines {
        let name = line.name;
        // Writing to a String cannot fail.
        let _ = match &line.link {
            Some(link) => writeln!(
                text,
                "[[bus]]\nname = \"{name}\"\ndriver = \"modbus-rtu\"\nport = \"{}\"\nbaud = 115200\nparity = \"none\"",
                link.display()
            ),
            None => writeln!(
                text,
                "[[bus]]\nname = \"{name}\"\ndriver = \"modbus-tcp\"\naddress = \"127.0.0.1:{}\"",
                plant.port(name)
            ),
        };
        for unit in line.units.clone() {
            let _ = writeln!(
                text,
                "[[device]]\nname = \"{name}-{unit}\"\nbus = \"{name}\"\naddress = {unit}\ninterval = \"1s\"\ntimeout = \"900ms\""
            );
            for index in 0..line.points {
                let (point, register) = (point(index), index * 2);
                let _ = writeln!(
                    text,
                    "[[device.point]]\nname = \"{point}\"\nregister = \"holding:{register}\"\ntype = \"u32\"\nunit = \"1\""
                );
            }
        }
    }
    text
}
