//! What a chip file has to say, and the wire it says it over.
//!
//! Everything here runs on a thread of its own, so it may wait.

use std::io;
use std::time::Duration;

use driver_api::Reason;

use crate::I2cPort;

/// One kind of part: what it measures and how it is brought to do so. Stateless.
pub trait Chip: Sync {
    /// The word in `chip = "…"`.
    fn name(&self) -> &'static str;

    /// The addresses that its pins can give it, for a person who looks what may sit at one.
    fn addresses(&self) -> &'static [u8] {
        &[]
    }

    /// What it measures, in the order [`Part::measure`] gives it.
    fn channels(&self) -> &'static [Channel];

    /// Time one measurement occupies the bus, at 100 kHz, for the predicted load.
    fn cost(&self) -> Duration;

    /// Proves, where the part can be told, that it is this one, and sets it up.
    ///
    /// # Errors
    /// It did not answer, or is another part.
    fn start(&'static self, wire: &mut Wire<'_>) -> Result<Box<dyn Part>, ChipError>;
}

/// One quantity a chip measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Channel {
    /// The point's name.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// The least value the part can give; below it the sensor is at fault.
    pub min: f64,
    /// The greatest value the part can give; above it the sensor is at fault.
    pub max: f64,
}

/// A part that was set up. Dropped at the first error, and then set up anew.
pub trait Part: Send {
    /// Measures once: one value per channel, or why that channel has none.
    ///
    /// # Errors
    /// [`ChipError::Restarted`] if the part has lost its settings, before any value is believed.
    fn measure(&mut self, wire: &mut Wire<'_>) -> Result<Vec<Result<f64, Reason>>, ChipError>;
}

/// Why a chip gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ChipError {
    /// The exchange itself failed.
    #[error(transparent)]
    Port(#[from] io::Error),
    /// It answers, but not as this part does.
    #[error("{0}")]
    Doubtful(String),
    /// It has lost its settings: the power was cut, or it was exchanged.
    #[error("the part was restarted")]
    Restarted,
}

/// The wire to the chip at one address.
pub struct Wire<'a> {
    port: &'a mut dyn I2cPort,
    address: u8,
}

impl<'a> Wire<'a> {
    /// The wire over `port` to the chip at `address`.
    pub fn new(port: &'a mut dyn I2cPort, address: u8) -> Self {
        Self { port, address }
    }

    /// The chip's address.
    #[must_use]
    pub fn address(&self) -> u8 {
        self.address
    }

    /// Writes `bytes`, a register's address first.
    ///
    /// # Errors
    /// As [`I2cPort::write`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ChipError> {
        Ok(self.port.write(self.address, bytes)?)
    }

    /// Reads `N` bytes beginning at `register`.
    ///
    /// # Errors
    /// As [`I2cPort::write_read`].
    pub fn registers<const N: usize>(&mut self, register: u8) -> Result<[u8; N], ChipError> {
        let mut bytes = [0; N];
        self.port.write_read(self.address, &[register], &mut bytes)?;
        Ok(bytes)
    }

    /// Gives the part time. Blocks this thread, which has nothing else to do.
    pub fn wait(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// A value, if it is one the channel's part can give.
///
/// # Errors
/// [`Reason::SensorFault`] if not.
pub fn plausible(channel: &Channel, value: f64) -> Result<f64, Reason> {
    if (channel.min..=channel.max).contains(&value) { Ok(value) } else { Err(Reason::SensorFault) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_part_cannot_measure_is_a_sensor_fault() {
        let channel = Channel { name: "temperature", unit: "°C", min: -40.0, max: 85.0 };
        assert_eq!(plausible(&channel, 85.0), Ok(85.0));
        for value in [85.01, -40.01, f64::NAN, f64::INFINITY] {
            assert_eq!(plausible(&channel, value), Err(Reason::SensorFault), "{value}");
        }
    }
}
