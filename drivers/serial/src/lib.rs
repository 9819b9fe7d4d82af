//! Driver `serial`: devices that speak text over a serial port, asked or by themselves.
//!
//! What is promised beside [`driver_api`]'s contract:
//! - A line is taken whole or not at all: what was already under way when the port opened, what is
//!   longer than [`assemble::MAX_LINE`], and what has a hole of silence in it is dropped up to the
//!   next terminator, and counted.
//! - A device that is asked (`request`) answers that request: what it said before is discarded.
//! - A device that talks by itself and falls silent is reported once per silence, as a bad sample
//!   per point.
//!
//! A protocol is one file with a [`protocol::Protocol`] and one line in [`protocol::PROTOCOLS`].

pub mod assemble;
pub mod bus;
pub mod lines;
pub mod number;
pub mod port;
pub mod protocol;

use driver_api::{Bus, BusSpec, Driver, Problem, Schemas};

pub use bus::SerialBus;
pub use port::{Connect, Tty};

/// The driver `serial`.
#[derive(Debug, Clone, Copy)]
pub struct Serial;

impl Driver for Serial {
    fn name(&self) -> &'static str {
        "serial"
    }

    fn schemas(&self) -> Schemas {
        protocol::schemas()
    }

    fn compile(&self, bus: BusSpec<'_>, problems: &mut Vec<Problem>) -> Option<Box<dyn Bus>> {
        let bus = compile_over(&bus, problems, Tty::new)?;
        Some(Box::new(bus))
    }
}

/// Compiles a `[[bus]]` whose port is opened by what `connect` makes of its line settings: a real
/// [`Tty`], or a scripted port in a test.
pub fn compile_over<C: Connect>(
    bus: &BusSpec<'_>,
    problems: &mut Vec<Problem>,
    connect: impl FnOnce(port::Settings) -> C,
) -> Option<SerialBus<C>> {
    let before = problems.len();
    let settings = port::Settings::compile(&bus.table, problems);
    let mut compiled = Vec::new();
    for (n, device) in bus.devices.iter().enumerate() {
        if n > 0 {
            problems.push(
                Problem::new(
                    device.table.place(),
                    format!("`{}` is a second device on the serial bus `{}`", device.name, bus.name),
                )
                .hint("text lines carry no address: give each device a bus of its own"),
            );
        }
        compiled.extend(protocol::compile(device, problems).map(|speech| (device, speech)));
    }
    if problems.len() > before {
        return None;
    }
    Some(SerialBus::new(settings.as_ref()?.clone(), bus.wire.clone(), compiled.into_iter().next(), connect))
}
