//! The LM75 family: temperature registers of 9 to 12 bits, left-aligned in two bytes.
//!
//! - LM75 (TI SNIS153B): ±2 °C, 9 bits of 0.5 °C, a conversion takes up to 300 ms.
//! - TMP102 (TI SBOS397): ±2 °C, 12 bits of 0.0625 °C, up to 35 ms.
//! - TMP105 (TI SLLS648): ±2 °C, 9 to 12 bits as configured, up to 300 ms at 12.
//!
//! None has an identity register. A TMP102's resolution bits are fixed at 11 and its lowest four
//! configuration bits at 0, which no LM75 shows after a power-up; the others cannot be told apart.
//!
//! After power-up these parts show 0 °C until the first conversion is over. So the configuration is
//! looked at before each value: a part that lost it is set up again and waited for. The TMP105 is set
//! to 12 bits and the TMP102 to 8 conversions per second, neither of which is the power-up value. For the
//! LM75 there is no such sign that would not change its thermostat.

use std::time::Duration;

use driver_api::Reason;

use crate::chip::{Channel, Chip, ChipError, Part, Wire, plausible};

const TEMPERATURE: u8 = 0x00;
const CONFIGURATION: u8 = 0x01;

/// One member of the family.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    channels: &'static [Channel],
    /// Bits of the temperature register that are the measurement; below them are zeros.
    bits: u32,
    /// What its address pins can give it.
    addresses: &'static [u8],
    /// Whether the bits below are promised to be zero, so that a one is a garbled answer.
    zeros_below: bool,
    config: Config,
    /// Longest conversion.
    conversion: Duration,
}

/// What of the configuration register matters, what it shall be, and what the part cannot but show.
#[derive(Debug)]
struct Config {
    /// Its length: 1, or 2 (then the first byte is the high one).
    bytes: usize,
    mask: u16,
    wanted: u16,
    fixed_mask: u16,
    fixed: u16,
}

/// Addresses of parts with three address pins, and with one that knows four levels.
const EIGHT: &[u8] = &[0x48, 0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x4F];
const FOUR: &[u8] = &[0x48, 0x49, 0x4A, 0x4B];

/// Shutdown is bit 0: a part that sleeps shows its last temperature for ever.
const SHUTDOWN: u16 = 0x01;

/// National's and everybody's LM75.
pub static LM75: Family = Family {
    name: "lm75",
    channels: &[Channel { name: "temperature", unit: "°C", min: -55.0, max: 125.0 }],
    addresses: EIGHT,
    bits: 9,
    zeros_below: false,
    config: Config { bytes: 1, mask: SHUTDOWN, wanted: 0, fixed_mask: 0, fixed: 0 },
    conversion: Duration::from_millis(300),
};

/// Bits of the two-byte configuration: R1 R0 (14, 13) read only, SD (8), CR (7, 6), EM (4).
pub static TMP102: Family = Family {
    name: "tmp102",
    channels: &[Channel { name: "temperature", unit: "°C", min: -55.0, max: 128.0 }],
    addresses: FOUR,
    bits: 12,
    zeros_below: true,
    config: Config { bytes: 2, mask: 0x01D0, wanted: 0x00C0, fixed_mask: 0x600F, fixed: 0x6000 },
    conversion: Duration::from_millis(35),
};

/// Bits of the configuration: R1 R0 (6, 5), SD (0).
pub static TMP105: Family = Family {
    name: "tmp105",
    channels: &[Channel { name: "temperature", unit: "°C", min: -55.0, max: 128.0 }],
    addresses: EIGHT,
    bits: 12,
    zeros_below: true,
    config: Config { bytes: 1, mask: 0x60 | SHUTDOWN, wanted: 0x60, fixed_mask: 0, fixed: 0 },
    conversion: Duration::from_millis(300),
};

impl Family {
    /// The temperature register in degrees Celsius. Pure, so the datasheet's own table is the test.
    ///
    /// # Errors
    /// [`Reason::Protocol`] if bits are set that the part keeps at zero.
    pub fn convert(&self, raw: [u8; 2]) -> Result<f64, Reason> {
        let raw = i16::from_be_bytes(raw);
        let below = (1i16 << (16 - self.bits)) - 1;
        if self.zeros_below && raw & below != 0 {
            return Err(Reason::Protocol);
        }
        // One bit of the high byte is a degree, whatever the resolution.
        Ok(f64::from(raw & !below) / 256.0)
    }

    fn configuration(&self, wire: &mut Wire<'_>) -> Result<u16, ChipError> {
        if self.config.bytes == 2 {
            Ok(u16::from_be_bytes(wire.registers(CONFIGURATION)?))
        } else {
            let [byte] = wire.registers(CONFIGURATION)?;
            Ok(byte.into())
        }
    }
}

impl Chip for Family {
    fn name(&self) -> &'static str {
        self.name
    }

    fn addresses(&self) -> &'static [u8] {
        self.addresses
    }

    fn channels(&self) -> &'static [Channel] {
        self.channels
    }

    fn cost(&self) -> Duration {
        // Two exchanges of 4 or 5 bytes, 9 bits each, at 100 kHz.
        Duration::from_micros(900)
    }

    fn start(&'static self, wire: &mut Wire<'_>) -> Result<Box<dyn Part>, ChipError> {
        let c = &self.config;
        let found = self.configuration(wire)?;
        if found & c.fixed_mask != c.fixed {
            return Err(ChipError::Doubtful(format!(
                "the part at {:#04x} is not a {}: its configuration is {found:#06x}",
                wire.address(),
                self.name
            )));
        }
        if found & c.mask != c.wanted {
            // The other bits are somebody's thermostat; the top one would start a single conversion.
            let top = 1 << (8 * c.bytes - 1);
            let [high, low] = ((found & !c.mask & !top) | c.wanted).to_be_bytes();
            match c.bytes {
                2 => wire.write(&[CONFIGURATION, high, low])?,
                _ => wire.write(&[CONFIGURATION, low])?,
            }
        }
        wire.wait(self.conversion);
        Ok(Box::new(Running(self)))
    }
}

struct Running(&'static Family);

impl Part for Running {
    fn measure(&mut self, wire: &mut Wire<'_>) -> Result<Vec<Result<f64, Reason>>, ChipError> {
        let family = self.0;
        if family.configuration(wire)? & family.config.mask != family.config.wanted {
            return Err(ChipError::Restarted);
        }
        let raw = wire.registers(TEMPERATURE)?;
        let [channel] = family.channels else { return Ok(Vec::new()) };
        Ok(vec![family.convert(raw).and_then(|celsius| plausible(channel, celsius))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ScriptedI2c;

    /// A left-aligned register from the right-aligned digits of the datasheet's table.
    fn register(bits: u32, digits: u16) -> [u8; 2] {
        (digits << (16 - bits)).to_be_bytes()
    }

    #[test]
    fn lm75_datasheet_table() {
        // SNIS153B, "Temperature Data Format".
        for (digits, celsius) in [
            (0x0FA, 125.0),
            (0x032, 25.0),
            (0x001, 0.5),
            (0x000, 0.0),
            (0x1FF, -0.5),
            (0x1CE, -25.0),
            (0x192, -55.0),
        ] {
            assert_eq!(LM75.convert(register(9, digits)), Ok(celsius), "{digits:#05x}");
        }
        // Later LM75s show more bits there; the 9 are defined the same way (NXP LM75A, 7.4.3).
        assert_eq!(LM75.convert([0x19, 0x60]), Ok(25.0));
    }

    #[test]
    fn tmp102_and_tmp105_datasheet_table() {
        // SBOS397 table 5 and SLLS648D table 5, the same line for line. 128 °C shows as 7FF too.
        for (digits, celsius) in [
            (0x7FF, 127.9375),
            (0x640, 100.0),
            (0x500, 80.0),
            (0x4B0, 75.0),
            (0x320, 50.0),
            (0x190, 25.0),
            (0x004, 0.25),
            (0x000, 0.0),
            (0xFFC, -0.25),
            (0xE70, -25.0),
            (0xC90, -55.0),
        ] {
            for part in [&TMP102, &TMP105] {
                assert_eq!(part.convert(register(12, digits)), Ok(celsius), "{} {digits:#05x}", part.name);
            }
        }
    }

    #[test]
    fn bits_that_must_be_zero_betray_a_garbled_answer() {
        // All ones is what a line without a chip reads as; of an extended-mode TMP102, bit 0 is one.
        for raw in [[0xFF, 0xFF], [0x19, 0x01]] {
            assert_eq!(TMP102.convert(raw), Err(Reason::Protocol));
            assert_eq!(TMP105.convert(raw), Err(Reason::Protocol));
        }
    }

    fn measured(part: &mut dyn Part, script: &mut ScriptedI2c, address: u8) -> Result<f64, Reason> {
        let values = part.measure(&mut Wire::new(script, address)).expect("an answer");
        values[0]
    }

    #[test]
    fn a_tmp105_is_set_to_12_bits_and_watched() {
        let mut script = ScriptedI2c::new()
            .write_read(0x48, "01", "00")
            .write(0x48, "01 60")
            .write_read(0x48, "01", "60")
            .write_read(0x48, "00", "19 10")
            .write_read(0x48, "01", "60")
            .write_read(0x48, "00", "80 00")
            .write_read(0x48, "01", "00");
        let mut part = TMP105.start(&mut Wire::new(&mut script, 0x48)).expect("it answers");
        assert_eq!(measured(&mut *part, &mut script, 0x48), Ok(25.0625));
        // -128 °C is no temperature of this part.
        assert_eq!(measured(&mut *part, &mut script, 0x48), Err(Reason::SensorFault));
        // The power was cut: 9 bits again, and the register would read 0 °C now.
        let lost = part.measure(&mut Wire::new(&mut script, 0x48)).expect_err("restarted");
        assert!(matches!(lost, ChipError::Restarted), "{lost}");
        script.assert_done();
    }

    #[test]
    fn a_tmp102_keeps_its_thermostat_bits_and_an_other_part_is_refused() {
        let mut script = ScriptedI2c::new()
            // 4 Hz, extended mode, polarity set; alert bit set.
            .write_read(0x49, "01", "64 B0")
            .write(0x49, "01 64 E0")
            .write_read(0x49, "01", "64 C0")
            .write_read(0x49, "00", "E7 00")
            .write_read(0x4A, "01", "00 00");
        let mut part = TMP102.start(&mut Wire::new(&mut script, 0x49)).expect("it answers");
        assert_eq!(measured(&mut *part, &mut script, 0x49), Ok(-25.0));
        let other = TMP102.start(&mut Wire::new(&mut script, 0x4A)).err().expect("not a TMP102");
        assert_eq!(other.to_string(), "the part at 0x4a is not a tmp102: its configuration is 0x0000");
        script.assert_done();
    }

    #[test]
    fn a_sleeping_lm75_is_woken_and_one_awake_left_alone() {
        let mut script = ScriptedI2c::new()
            .write_read(0x4F, "01", "05")
            .write(0x4F, "01 04")
            .write_read(0x4F, "01", "04")
            .write_read(0x4F, "00", "C9 00")
            .write_read(0x4E, "01", "00");
        let mut part = LM75.start(&mut Wire::new(&mut script, 0x4F)).expect("it answers");
        assert_eq!(measured(&mut *part, &mut script, 0x4F), Ok(-55.0));
        assert!(LM75.start(&mut Wire::new(&mut script, 0x4E)).is_ok());
        script.assert_done();
    }
}
