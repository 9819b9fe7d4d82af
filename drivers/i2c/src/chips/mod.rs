//! The chips this driver knows: one file each, one line each.

pub mod bme280;
pub mod lm75;

use crate::chip::Chip;

/// Every chip of this driver, in the order the manual lists them.
pub static CHIPS: &[&dyn Chip] = &[&bme280::Bme280, &lm75::LM75, &lm75::TMP102, &lm75::TMP105];

/// The chip of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static dyn Chip> {
    CHIPS.iter().copied().find(|chip| chip.name() == name)
}
