//! The blocking side: the open port and the parts on it. It works on a thread of its own and is
//! handed back when the exchange is over.

use driver_api::{FrameError, ReadError, Reason};

use crate::I2cPort;
use crate::chip::{Chip, ChipError, Part, Wire};
use crate::port::sort;

/// Which chip is at which address.
#[derive(Clone, Copy)]
pub struct Slot {
    /// The kind of chip.
    pub chip: &'static dyn Chip,
    /// Its 7-bit address.
    pub address: u8,
}

impl Slot {
    /// This chip at this address.
    #[must_use]
    pub fn new(chip: &'static dyn Chip, address: u8) -> Self {
        Self { chip, address }
    }
}

/// An open port with its parts, each set up when it is first asked.
pub struct Bench {
    port: Box<dyn I2cPort>,
    slots: Vec<(Slot, Option<Box<dyn Part>>)>,
}

impl Bench {
    /// The port just opened: no part is set up yet.
    #[must_use]
    pub fn new(port: Box<dyn I2cPort>, slots: &[Slot]) -> Self {
        Self { port, slots: slots.iter().map(|slot| (*slot, None)).collect() }
    }

    /// Writes these bytes to any address (none: nothing), and reads so many.
    ///
    /// # Errors
    /// As [`Self::measure`].
    pub fn look(&mut self, address: u8, written: &[u8], count: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; count];
        let done = match written {
            [] => self.port.read(address, &mut bytes),
            written => self.port.write_read(address, written, &mut bytes),
        };
        done.map(|()| bytes).map_err(|error| sort(address, error))
    }

    /// Measures with one device, after setting its part up if that is not done or was lost. Any error
    /// means that it is set up anew next time.
    ///
    /// # Errors
    /// By what the bus task does next.
    pub fn measure(&mut self, device: usize) -> Result<Vec<Result<f64, Reason>>, ReadError> {
        let Some((slot, part)) = self.slots.get_mut(device) else { return Ok(Vec::new()) };
        let mut wire = Wire::new(&mut *self.port, slot.address);
        measure(slot.chip, part, &mut wire).map_err(|error| match error {
            ChipError::Port(error) => sort(slot.address, error),
            ChipError::Doubtful(text) => ReadError::Transient(FrameError::Protocol(text)),
            ChipError::Restarted => ReadError::Transient(FrameError::Protocol(format!(
                "the part at {:#04x} does not keep its settings: is it a {}?",
                slot.address,
                slot.chip.name()
            ))),
        })
    }
}

fn measure(
    chip: &'static dyn Chip,
    slot: &mut Option<Box<dyn Part>>,
    wire: &mut Wire<'_>,
) -> Result<Vec<Result<f64, Reason>>, ChipError> {
    // Taken out, so that an error leaves the slot empty.
    if let Some(mut part) = slot.take() {
        match part.measure(wire) {
            Err(ChipError::Restarted) => tracing::warn!(
                chip = chip.name(),
                address = format_args!("{:#04x}", wire.address()),
                "part lost its settings and is set up again"
            ),
            Ok(values) => {
                *slot = Some(part);
                return Ok(values);
            }
            Err(error) => return Err(error),
        }
    }
    let mut part = chip.start(wire)?;
    let values = part.measure(wire)?;
    *slot = Some(part);
    Ok(values)
}
