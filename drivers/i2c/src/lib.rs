//! Driver `i2c`: chips on an I²C bus of the Linux kernel (`/dev/i2c-1`).
//!
//! What is promised beside [`driver_api`]'s contract:
//! - A chip is set up and, where it can be told, proved to be the part that was named before its
//!   first value is believed; and again after any error and after it lost its settings.
//! - The kernel's calls block, so each exchange runs on a thread where waiting harms nobody. One that
//!   is stuck keeps its own bus busy, nothing else, and what it says late is thrown away.
//! - A value outside what the part can measure is a sensor fault, never a value.
//!
//! A chip is one file with a [`chip::Chip`] and one line in [`chips::CHIPS`].

pub mod bench;
pub mod bus;
pub mod chip;
pub mod chips;
#[cfg(test)]
mod conformance;
pub mod kernel;
pub mod port;
pub mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::io;
use std::sync::Arc;

use driver_api::{Bus, BusSpec, Driver, Problem, Schemas};
use schemars::schema_for;

pub use bus::{I2cBus, Opener};
pub use port::I2cPort;

/// Opens the bus whose `path` is given.
pub type Ports = fn(&str) -> io::Result<Box<dyn I2cPort>>;

/// The driver `i2c`, over the kernel's buses or, in a test, over others.
#[derive(Debug, Clone, Copy)]
pub struct I2c {
    ports: Ports,
}

/// The driver `i2c` over the kernel's buses.
#[expect(non_upper_case_globals, reason = "the registry names every driver by its type's name")]
pub static I2c: I2c = I2c::with_ports(kernel::open);

impl I2c {
    /// The driver over buses that `ports` opens.
    #[must_use]
    pub const fn with_ports(ports: Ports) -> Self {
        Self { ports }
    }
}

impl Driver for I2c {
    fn name(&self) -> &'static str {
        "i2c"
    }

    fn schemas(&self) -> Schemas {
        Schemas {
            bus: schema_for!(tables::BusKeys),
            device: schema_for!(tables::DeviceKeys),
            point: schema_for!(tables::PointKeys),
        }
    }

    fn compile(&self, bus: BusSpec<'_>, problems: &mut Vec<Problem>) -> Option<Box<dyn Bus>> {
        let ports = self.ports;
        let bus = compile_over(&bus, problems, |path| Arc::new(move || ports(&path)))?;
        Some(Box::new(bus))
    }
}

/// Compiles a `[[bus]]` that is opened by what `opener` makes of its path.
pub fn compile_over(
    bus: &BusSpec<'_>,
    problems: &mut Vec<Problem>,
    opener: impl FnOnce(String) -> Opener,
) -> Option<I2cBus> {
    let compiled = tables::compile(bus, problems)?;
    Some(I2cBus::new(compiled.plan, compiled.slots, compiled.timeouts, opener(compiled.path)))
}
