//! Modbus: RTU on a serial line, TCP, and RTU frames through a TCP serial converter.
//!
//! [`plan`] decides which registers are read together, [`function`] says how long a request and its answer are,
//! [`pdu`] what an answer must look like, [`frame`] where it is in what a line said, and `late` what must not be believed; these are pure. [`rtu`] and `tcp` move the bytes, and `bus` is what
//! they have in common. Registers become values in [`driver_api::decode`].

mod bus;
mod chores;
mod compile;
pub mod config;
pub mod cover;
mod device;
pub mod explain;
pub mod frame;
pub mod function;
pub mod given;
mod late;
mod learned;
mod lessons;
pub mod pdu;
mod pipeline;
pub mod place;
pub mod plan;
mod point;
pub mod rtu;
mod serial;
mod setup;
pub mod sunspec;
mod tcp;
mod upkeep;
pub mod wrap;
pub mod write;
mod writing;

use driver_api::{Bus, BusSpec, Driver, Problem, Schemas};
use driver_tty::Parity;
use schemars::schema_for;

use crate::bus::ModbusBus;
use crate::compile::{Units, compile};
use crate::config::{DeviceKeys, PointKeys, RtuKeys, RtuOverTcpKeys, TcpKeys, host_and_port};
use crate::plan::Pace;
use crate::rtu::RtuLine;
use crate::serial::Tty;
use crate::tcp::{Endpoint, TcpLine};

/// The drivers of this crate, in the order the manual lists them.
pub static DRIVERS: &[&dyn Driver] = &[&Rtu, &Tcp, &RtuOverTcp];

/// `modbus-rtu`: Modbus on an RS-485 or RS-232 line.
#[derive(Debug, Clone, Copy)]
pub struct Rtu;

/// `modbus-tcp`: Modbus on a network.
#[derive(Debug, Clone, Copy)]
pub struct Tcp;

/// `modbus-rtu-over-tcp`: RTU frames, CRC included, through a TCP serial converter.
#[derive(Debug, Clone, Copy)]
pub struct RtuOverTcp;

/// Bits of a character where the configuration does not say: start, eight data, parity, stop.
const USUAL_BITS: u8 = 11;

impl Driver for Rtu {
    fn name(&self) -> &'static str {
        "modbus-rtu"
    }

    fn schemas(&self) -> Schemas {
        Schemas { bus: schema_for!(RtuKeys), device: schema_for!(DeviceKeys), point: schema_for!(PointKeys) }
    }

    fn compile(&self, bus: BusSpec<'_>, problems: &mut Vec<Problem>) -> Option<Box<dyn Bus>> {
        let keys: Option<RtuKeys> = bus.table.parse(problems);
        let before = problems.len();
        let mut pace = Pace::serial(19_200, USUAL_BITS);
        if let Some(keys) = &keys {
            let mut wrong = |key: &str, message: String, hint: &str| {
                problems.push(Problem::new(bus.table.place_of(key), message).hint(hint));
            };
            if !(300..=4_000_000).contains(&keys.baud) {
                wrong(
                    "baud",
                    format!("no line runs at {} baud", keys.baud),
                    "usual are 9600, 19200, 38400 and 115200",
                );
            } else {
                let parity = u8::from(keys.parity != Parity::None);
                pace = Pace::serial(keys.baud, 9 + parity + keys.stop_bits.clamp(1, 2));
            }
            if !(1..=2).contains(&keys.stop_bits) {
                wrong("stop_bits", format!("`stop_bits` is {}", keys.stop_bits), "it is 1 or 2");
            }
            if keys.port.is_empty() {
                wrong("port", "`port` is empty".to_owned(), "`fieldgate ports` lists the serial ports");
            }
        }
        let compiled = compile(&bus, pace, Units::Line, problems);
        let (keys, compiled) = (keys?, compiled?);
        let first = compiled.listens_first();
        (problems.len() == before).then(|| {
            Box::new(ModbusBus::new(compiled, RtuLine::new(Tty::new(keys), pace, &bus.wire, first)))
                as Box<dyn Bus>
        })
    }
}

impl Driver for Tcp {
    fn name(&self) -> &'static str {
        "modbus-tcp"
    }

    fn schemas(&self) -> Schemas {
        Schemas { bus: schema_for!(TcpKeys), device: schema_for!(DeviceKeys), point: schema_for!(PointKeys) }
    }

    fn compile(&self, bus: BusSpec<'_>, problems: &mut Vec<Problem>) -> Option<Box<dyn Bus>> {
        let keys: Option<TcpKeys> = bus.table.parse(problems);
        let (mut known, mut together) = (None, Some(1));
        if let Some(keys) = keys {
            known = endpoint(&bus, &keys.address, Some(502), problems);
            together = usize::try_from(keys.pipeline).ok().filter(|n| (1..=16).contains(n));
            if together.is_none() {
                problems.push(
                    Problem::new(bus.table.place_of("pipeline"), format!("`pipeline` is {}", keys.pipeline))
                        .hint("it is 1 to 16; 4 suits most PLCs"),
                );
            }
        }
        let compiled = compile(&bus, Pace::network(), Units::Network, problems);
        let (endpoint, mut compiled, together) = (known?, compiled?, together?);
        compiled.plan.together = together;
        Some(Box::new(ModbusBus::new(compiled, TcpLine::new(endpoint, &bus.wire))))
    }
}

impl Driver for RtuOverTcp {
    fn name(&self) -> &'static str {
        "modbus-rtu-over-tcp"
    }

    fn schemas(&self) -> Schemas {
        Schemas {
            bus: schema_for!(RtuOverTcpKeys),
            device: schema_for!(DeviceKeys),
            point: schema_for!(PointKeys),
        }
    }

    fn compile(&self, bus: BusSpec<'_>, problems: &mut Vec<Problem>) -> Option<Box<dyn Bus>> {
        let keys: Option<RtuOverTcpKeys> = bus.table.parse(problems);
        let mut pace = Pace::serial(19_200, USUAL_BITS);
        let mut known = None;
        if let Some(keys) = keys {
            if (300..=4_000_000).contains(&keys.baud) {
                pace = Pace::serial(keys.baud, USUAL_BITS);
            } else {
                problems.push(
                    Problem::new(bus.table.place_of("baud"), format!("no line runs at {} baud", keys.baud))
                        .hint("usual are 9600, 19200, 38400 and 115200"),
                );
            }
            known = endpoint(&bus, &keys.address, None, problems);
        }
        // The line's silences are the converter's to keep; its round trip comes on top.
        pace.round_trip = Pace::network().round_trip;
        let compiled = compile(&bus, pace, Units::Line, problems);
        let (endpoint, compiled) = (known?, compiled?);
        let first = compiled.listens_first();
        Some(Box::new(ModbusBus::new(compiled, RtuLine::new(endpoint, pace, &bus.wire, first))))
    }
}

fn endpoint(
    bus: &BusSpec<'_>,
    address: &str,
    default: Option<u16>,
    problems: &mut Vec<Problem>,
) -> Option<Endpoint> {
    match host_and_port(address, default) {
        Ok((host, port)) => Some(Endpoint { host, port }),
        Err(why) => {
            problems.push(
                Problem::new(bus.table.place_of("address"), format!("`{address}` is no address: {why}"))
                    .hint("write host:port, such as \"10.0.0.7:502\""),
            );
            None
        }
    }
}
