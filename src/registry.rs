//! The one list of drivers. To add one: a folder under `drivers/`, a dependency line, a line here.

use driver_api::Driver;
use driver_api::table::nearest;

/// Every driver in the binary, in the order the manual lists them.
pub static DRIVERS: &[&dyn Driver] = &[
    &driver_modbus::Rtu,
    &driver_modbus::Tcp,
    &driver_modbus::RtuOverTcp,
    &driver_serial::Serial,
    &driver_i2c::I2c,
    &driver_sim::Sim,
];

/// The driver with this name among `drivers`.
///
/// # Errors
/// If none has that name; the error says which there are.
pub fn find(drivers: &[&'static dyn Driver], name: &str) -> Result<&'static dyn Driver, UnknownDriver> {
    drivers.iter().copied().find(|d| d.name() == name).ok_or_else(|| {
        let known: Vec<&'static str> = drivers.iter().map(|d| d.name()).collect();
        let near = nearest(name, &known).and_then(|near| drivers.iter().copied().find(|d| d.name() == near));
        UnknownDriver { name: name.to_owned(), known, near }
    })
}

/// No driver has the name that was asked for.
#[derive(thiserror::Error)]
#[error("no driver is called `{name}`")]
pub struct UnknownDriver {
    name: String,
    known: Vec<&'static str>,
    near: Option<&'static dyn Driver>,
}

impl UnknownDriver {
    /// The driver that was probably meant.
    #[must_use]
    pub fn near(&self) -> Option<&'static dyn Driver> {
        self.near
    }

    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self.near {
            Some(near) => format!("did you mean `{}`?", near.name()),
            None => format!("this build has {}", self.known.join(", ")),
        }
    }
}

impl std::fmt::Debug for UnknownDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}; {}", self.hint())
    }
}
