//! Hardware that is not there: the driver `sim`, and simulated field devices on real wires.
//!
//! Two things live here.
//! - [`Sim`], a driver whose bus has no port. It is for trying a configuration on a laptop and for
//!   load tests: every value is a pure function of seed, point and time ([`signals`]).
//! - [`slaves`], devices that a gateway cannot tell from real ones: a Modbus RTU slave on a
//!   pseudo-terminal at the pace of a true line, a Modbus TCP slave, a scale. They keep a ledger of
//!   every value they served, so that somebody outside can prove that none was lost or invented.
//!
//! It promises that nothing here runs unless it is asked to, that everything ends when its handle is
//! dropped, and that every memory is bounded (`bounds.rs`).

pub mod bounds;
mod bus;
mod config;
mod generate;
pub mod signals;
pub mod slaves;

use driver_api::{Bus, BusSpec, Driver, Problem, Schemas};

/// The driver behind `driver = "sim"`.
#[derive(Debug, Clone, Copy)]
pub struct Sim;

impl Driver for Sim {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn schemas(&self) -> Schemas {
        config::schemas()
    }

    fn compile(&self, bus: BusSpec<'_>, problems: &mut Vec<Problem>) -> Option<Box<dyn Bus>> {
        Some(Box::new(config::compile(&bus, problems)?))
    }
}
