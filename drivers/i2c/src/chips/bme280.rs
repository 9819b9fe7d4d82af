//! BME280 humidity, pressure and temperature sensor (Bosch BST-BME280-DS002). ±1.0 °C, ±3 %, ±1 hPa.
//!
//! Each value is a measurement of its own ("forced mode", oversampling 1 each, no filter: the
//! datasheet's choice for weather monitoring, 3.5.1). Between two the part sleeps, and its settings
//! show whether the power was cut meanwhile: then the calibration is read again, for it may be
//! another part that is plugged in now.

use std::time::Duration;

use driver_api::Reason;

use crate::chip::{Channel, Chip, ChipError, Part, Wire, plausible};

/// The part.
#[derive(Debug)]
pub struct Bme280;

const CALIBRATION_TP: u8 = 0x88; // 26 bytes: dig_T1 … dig_P9, one unused, dig_H1
const CHIP_ID: u8 = 0xD0;
const RESET: u8 = 0xE0;
const CALIBRATION_H: u8 = 0xE1; // 7 bytes: dig_H2 … dig_H6
const CTRL_HUM: u8 = 0xF2; // followed by status and ctrl_meas
const STATUS: u8 = 0xF3;
const CTRL_MEAS: u8 = 0xF4;
const DATA: u8 = 0xF7; // 8 bytes: pressure, temperature, humidity

const ID: u8 = 0x60;
const SOFT_RESET: u8 = 0xB6;
/// osrs_h: oversampling 1.
const HUMIDITY_ONCE: u8 = 0x01;
/// osrs_t and osrs_p: oversampling 1; mode: sleep.
const ASLEEP: u8 = 0b0010_0100;
/// The same, and measure once.
const FORCED: u8 = 0b0010_0101;
/// status: a conversion is running, or the calibration is being copied.
const BUSY: u8 = 0b1001;

/// Start-up takes at most 2 ms (table 1).
const START_UP: Duration = Duration::from_millis(3);
/// 1.25 + 2.3 + (2.3 + 0.575) + (2.3 + 0.575) ms at most (9.1).
const MEASURING: Duration = Duration::from_micros(9300);
/// Further looks at the status, 1 ms apart, before the part is given up: as long again.
const LOOKS: u32 = 10;

/// What the output registers hold when a measurement was skipped or never made (table 24 and 5.4.7).
const SKIPPED_20: u32 = 0x8_0000;
const SKIPPED_16: u32 = 0x8000;

static CHANNELS: [Channel; 3] = [
    Channel { name: "temperature", unit: "°C", min: -40.0, max: 85.0 },
    Channel { name: "humidity", unit: "%", min: 0.0, max: 100.0 },
    Channel { name: "pressure", unit: "hPa", min: 300.0, max: 1100.0 },
];

impl Chip for Bme280 {
    fn name(&self) -> &'static str {
        "bme280"
    }

    fn addresses(&self) -> &'static [u8] {
        &[0x76, 0x77]
    }

    fn channels(&self) -> &'static [Channel] {
        &CHANNELS
    }

    fn cost(&self) -> Duration {
        // The measurement, and 30 bytes of 9 bits at 100 kHz.
        MEASURING + Duration::from_micros(2700)
    }

    fn start(&'static self, wire: &mut Wire<'_>) -> Result<Box<dyn Part>, ChipError> {
        let [id] = wire.registers(CHIP_ID)?;
        if id != ID {
            return Err(ChipError::Doubtful(format!(
                "the part at {:#04x} is not a bme280: its id is {id:#04x}{}",
                wire.address(),
                match id {
                    0x56..=0x58 => ", a BMP280, which has no humidity",
                    0x61 => ", a BME680",
                    _ => "",
                }
            )));
        }
        wire.write(&[RESET, SOFT_RESET])?;
        wire.wait(START_UP);
        idle(wire)?;
        let calibration =
            Calibration::parse(&wire.registers(CALIBRATION_TP)?, &wire.registers(CALIBRATION_H)?);
        if calibration.t1 == 0.0 || calibration.p1 == 0.0 {
            return Err(ChipError::Doubtful(format!(
                "the bme280 at {:#04x} has no calibration",
                wire.address()
            )));
        }
        // ctrl_hum takes effect with the next write of ctrl_meas (5.4.3).
        wire.write(&[CTRL_HUM, HUMIDITY_ONCE])?;
        wire.write(&[CTRL_MEAS, ASLEEP])?;
        Ok(Box::new(Running(calibration)))
    }
}

struct Running(Calibration);

impl Part for Running {
    fn measure(&mut self, wire: &mut Wire<'_>) -> Result<Vec<Result<f64, Reason>>, ChipError> {
        let [humidity, _, control] = wire.registers(CTRL_HUM)?;
        if (humidity & 0b111, control) != (HUMIDITY_ONCE, ASLEEP) {
            return Err(ChipError::Restarted);
        }
        wire.write(&[CTRL_MEAS, FORCED])?;
        wire.wait(MEASURING);
        idle(wire)?;
        // In one burst, or the values may belong to two measurements (4.1).
        Ok(self.0.values(Raw::parse(&wire.registers(DATA)?)).to_vec())
    }
}

/// Waits until the part has nothing to do.
fn idle(wire: &mut Wire<'_>) -> Result<(), ChipError> {
    for _ in 0..=LOOKS {
        let [status] = wire.registers(STATUS)?;
        if status & BUSY == 0 {
            return Ok(());
        }
        wire.wait(Duration::from_millis(1));
    }
    Err(ChipError::Doubtful(format!("the bme280 at {:#04x} does not end its measurement", wire.address())))
}

/// What the converters gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Raw {
    pressure: u32,
    temperature: u32,
    humidity: u32,
}

impl Raw {
    fn parse(data: &[u8; 8]) -> Self {
        let [p2, p1, p0, t2, t1, t0, h1, h0] = data.map(u32::from);
        Self {
            pressure: p2 << 12 | p1 << 4 | p0 >> 4,
            temperature: t2 << 12 | t1 << 4 | t0 >> 4,
            humidity: h1 << 8 | h0,
        }
    }
}

/// The part's own trimming values (table 16), named as there.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Calibration {
    t1: f64,
    t: [f64; 2],
    p1: f64,
    p: [f64; 8],
    h1: f64,
    h2: f64,
    h3: f64,
    h4: f64,
    h5: f64,
    h6: f64,
}

impl Calibration {
    fn parse(tp: &[u8; 26], h: &[u8; 7]) -> Self {
        let unsigned = |n: usize| f64::from(u16::from_le_bytes([tp[n], tp[n + 1]]));
        let signed = |n: usize| f64::from(i16::from_le_bytes([tp[n], tp[n + 1]]));
        // Two 12-bit values share the byte 0xE5; the sign is in their upper bytes.
        let twelve =
            |high: u8, low: u8| f64::from(i16::from(high.cast_signed()) << 4 | i16::from(low & 0x0F));
        Self {
            t1: unsigned(0),
            t: [2, 4].map(signed),
            p1: unsigned(6),
            p: [8, 10, 12, 14, 16, 18, 20, 22].map(signed),
            h1: f64::from(tp[25]),
            h2: f64::from(i16::from_le_bytes([h[0], h[1]])),
            h3: f64::from(h[2]),
            h4: twelve(h[3], h[4]),
            h5: twelve(h[5], h[4] >> 4),
            h6: f64::from(h[6].cast_signed()),
        }
    }

    /// Temperature, humidity, pressure. The other two are corrected by the temperature, so without
    /// it there are none.
    fn values(&self, raw: Raw) -> [Result<f64, Reason>; 3] {
        if raw.temperature == SKIPPED_20 {
            return [Err(Reason::SensorFault); 3];
        }
        let fine = self.fine(raw.temperature);
        let temperature = plausible(&CHANNELS[0], fine / 5120.0);
        if temperature.is_err() {
            return [temperature; 3];
        }
        let humidity = match raw.humidity {
            SKIPPED_16 => Err(Reason::SensorFault),
            adc => plausible(&CHANNELS[1], self.humidity(adc, fine)),
        };
        let pressure = match raw.pressure {
            SKIPPED_20 => Err(Reason::SensorFault),
            adc => plausible(&CHANNELS[2], self.pressure(adc, fine) / 100.0),
        };
        [temperature, humidity, pressure]
    }

    /// Temperature in 1/5120 °C (the datasheet's `t_fine`, before it is cut to a whole number).
    fn fine(&self, adc: u32) -> f64 {
        let step = f64::from(adc) / 16_384.0 - self.t1 / 1024.0;
        step * self.t[0] + (step / 8.0).powi(2) * self.t[1]
    }

    /// Pressure in pascals; not finite where the calibration is nonsense.
    fn pressure(&self, adc: u32, fine: f64) -> f64 {
        let [p2, p3, p4, p5, p6, p7, p8, p9] = self.p;
        let t = fine / 2.0 - 64_000.0;
        let offset = (t * t * p6 / 32_768.0 + t * p5 * 2.0) / 4.0 + p4 * 65_536.0;
        let slope = (p3 * t * t / 524_288.0 + p2 * t) / 524_288.0;
        let slope = (1.0 + slope / 32_768.0) * self.p1;
        let p = (1_048_576.0 - f64::from(adc) - offset / 4096.0) * 6250.0 / slope;
        p + (p9 * p * p / 2_147_483_648.0 + p * p8 / 32_768.0 + p7) / 16.0
    }

    /// Relative humidity in percent, cut to 0 to 100 as the datasheet has it.
    fn humidity(&self, adc: u32, fine: f64) -> f64 {
        let t = fine - 76_800.0;
        let offset = self.h4 * 64.0 + self.h5 / 16_384.0 * t;
        let slope = 1.0 + self.h6 / 67_108_864.0 * t * (1.0 + self.h3 / 67_108_864.0 * t);
        let h = (f64::from(adc) - offset) * (self.h2 / 65_536.0 * slope);
        (h * (1.0 - self.h1 * h / 524_288.0)).clamp(0.0, 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ScriptedI2c;
    use driver_api::testing::hex;
    use proptest::prelude::*;

    // The worked example of Bosch's BMP280 datasheet (BST-BMP280-DS001, 3.12: the same formulas), with
    // dig_H1 … H6 = 75, 362, 0, 312, 50, 30: 25.08 °C, 100653.27 Pa; and the humidity as the integer
    // formula of DS002 4.2.3, worked by hand, has it.
    const TP: &str = "70 6B 43 67 18 FC 7D 8E 43 D6 D0 0B 27 0B 8C 00 F9 FF 8C 3C F8 C6 70 17 00 4B";
    const H: &str = "6A 01 00 13 28 03 1E";
    const EXAMPLE: &str = "65 5A C0 7E ED 00 75 30";

    fn calibration() -> Calibration {
        let (tp, h) = (hex(TP), hex(H));
        Calibration::parse(&tp.try_into().expect("26 bytes"), &h.try_into().expect("7 bytes"))
    }

    fn close(value: Result<f64, Reason>, expected: f64, tolerance: f64) -> bool {
        value.is_ok_and(|v| (v - expected).abs() <= tolerance)
    }

    #[test]
    fn the_calibration_is_read_with_its_signs() {
        let c = calibration();
        assert_eq!((c.t1, c.t), (27504.0, [26435.0, -1000.0]));
        assert_eq!(c.p1, 36477.0);
        assert_eq!(c.p, [-10685.0, 3024.0, 2855.0, 140.0, -7.0, 15500.0, -14600.0, 6000.0]);
        assert_eq!([c.h1, c.h2, c.h3, c.h4, c.h5, c.h6], [75.0, 362.0, 0.0, 312.0, 50.0, 30.0]);
        // dig_H4 = -2, dig_H5 = -3, dig_H6 = -1.
        let c = Calibration::parse(&[0; 26], &[0, 0, 0, 0xFF, 0xDE, 0xFF, 0xFF]);
        assert_eq!([c.h4, c.h5, c.h6], [-2.0, -3.0, -1.0]);
    }

    #[test]
    fn the_datasheets_worked_example() {
        let raw = Raw::parse(&hex(EXAMPLE).try_into().expect("8 bytes"));
        assert_eq!(raw, Raw { pressure: 415_148, temperature: 519_888, humidity: 30_000 });
        let [temperature, humidity, pressure] = calibration().values(raw);
        assert!(close(temperature, 25.08, 0.005), "{temperature:?}");
        assert!(close(pressure, 1006.5327, 0.0001), "{pressure:?}");
        assert!(close(humidity, 55.353_515_625, 0.02), "{humidity:?}");
    }

    #[test]
    fn what_was_not_measured_is_a_fault_and_without_temperature_there_is_nothing() {
        let fault = Err(Reason::SensorFault);
        let c = calibration();
        let raw = Raw { pressure: 415_148, temperature: 519_888, humidity: 30_000 };
        assert_eq!(c.values(Raw { temperature: SKIPPED_20, ..raw }), [fault; 3]);
        let [t, h, p] = c.values(Raw { humidity: SKIPPED_16, ..raw });
        assert_eq!((t.is_ok(), h, p.is_ok()), (true, fault, true));
        let [t, h, p] = c.values(Raw { pressure: SKIPPED_20, ..raw });
        assert_eq!((t.is_ok(), h.is_ok(), p), (true, true, fault));
        // All ones and all zeros: a line held high or low.
        assert_eq!(c.values(Raw::parse(&[0xFF; 8])), [fault; 3]);
        assert_eq!(c.values(Raw::parse(&[0; 8])), [fault; 3]);
    }

    /// The datasheet's other formulas, in whole numbers (DS002, 4.2.3): °C, Pa, %.
    fn in_whole_numbers(c: &Calibration, raw: Raw) -> [f64; 3] {
        let whole = |x: f64| x as i64;
        let (t1, [t2, t3]) = (whole(c.t1), c.t.map(whole));
        let (p1, [p2, p3, p4, p5, p6, p7, p8, p9]) = (whole(c.p1), c.p.map(whole));
        let [h1, h2, h3, h4, h5, h6] = [c.h1, c.h2, c.h3, c.h4, c.h5, c.h6].map(whole);
        let [t, p, h] = [raw.temperature, raw.pressure, raw.humidity].map(i64::from);

        let fine = ((((t >> 3) - (t1 << 1)) * t2) >> 11) + (((((t >> 4) - t1).pow(2) >> 12) * t3) >> 14);

        let v = fine - 128_000;
        let offset = v * v * p6 + ((v * p5) << 17) + (p4 << 35);
        let slope = (((1 << 47) + ((v * v * p3) >> 8) + ((v * p2) << 12)) * p1) >> 33;
        let q = (((1_048_576 - p) << 31) - offset) * 3125 / slope;
        let pascals = ((q + ((p9 * (q >> 13) * (q >> 13)) >> 25) + ((p8 * q) >> 19)) >> 8) + (p7 << 4);

        let v = fine - 76_800;
        let slope = (((v * h6) >> 10) * (((v * h3) >> 11) + 32_768)) >> 10;
        let slope = ((slope + 2_097_152) * h2 + 8192) >> 14;
        let w = (((h << 14) - (h4 << 20) - h5 * v + 16_384) >> 15) * slope;
        let w = (w - (((((w >> 15) * (w >> 15)) >> 7) * h1) >> 4)).clamp(0, 419_430_400) >> 12;
        [((fine * 5 + 128) >> 8) as f64 / 100.0, pascals as f64 / 256.0, w as f64 / 1024.0]
    }

    proptest! {
        #[test]
        fn both_formulas_of_the_datasheet_agree(
            temperature in 350_000u32..700_000, pressure in 250_000u32..600_000, humidity in 0u32..=0xFFFF,
        ) {
            prop_assume!(humidity != SKIPPED_16 && temperature != SKIPPED_20 && pressure != SKIPPED_20);
            let c = calibration();
            let raw = Raw { pressure, temperature, humidity };
            let [celsius, pascals, percent] = in_whole_numbers(&c, raw);
            let [t, h, p] = c.values(raw);
            if let Ok(t) = t {
                prop_assert!((t - celsius).abs() < 0.011, "{t} {celsius}");
            }
            if let Ok(p) = p {
                prop_assert!((p * 100.0 - pascals).abs() < 1.0, "{p} {pascals}");
            }
            if let Ok(h) = h {
                prop_assert!((h - percent).abs() < 0.05, "{h} {percent}");
            }
        }

        #[test]
        fn no_registers_panic_nor_give_what_the_part_cannot_measure(
            tp in any::<[u8; 26]>(), h in any::<[u8; 7]>(), data in any::<[u8; 8]>(),
        ) {
            let values = Calibration::parse(&tp, &h).values(Raw::parse(&data));
            for (value, channel) in values.iter().zip(&CHANNELS) {
                if let Ok(value) = value {
                    prop_assert!((channel.min..=channel.max).contains(value));
                }
            }
        }
    }

    /// From the first contact to the settings, as an analyser shows it.
    fn started(script: ScriptedI2c) -> ScriptedI2c {
        script
            .write_read(0x76, "D0", "60")
            .write(0x76, "E0 B6")
            .write_read(0x76, "F3", "01") // the calibration is being copied
            .write_read(0x76, "F3", "00")
            .write_read(0x76, "88", TP)
            .write_read(0x76, "E1", H)
            .write(0x76, "F2 01")
            .write(0x76, "F4 24")
    }

    #[test]
    fn from_first_contact_to_a_power_cut() {
        let mut script = started(ScriptedI2c::new())
            .write_read(0x76, "F2", "01 00 24")
            .write(0x76, "F4 25")
            .write_read(0x76, "F3", "08") // still measuring
            .write_read(0x76, "F3", "00")
            .write_read(0x76, "F7", EXAMPLE)
            .write_read(0x76, "F2", "00 00 00");
        let mut part = Bme280.start(&mut Wire::new(&mut script, 0x76)).expect("it answers");
        let values = part.measure(&mut Wire::new(&mut script, 0x76)).expect("an answer");
        assert!(close(values[0], 25.08, 0.005) && close(values[2], 1006.5327, 0.0001), "{values:?}");
        let lost = part.measure(&mut Wire::new(&mut script, 0x76)).expect_err("restarted");
        assert!(matches!(lost, ChipError::Restarted), "{lost}");
        script.assert_done();
    }

    #[test]
    fn another_part_and_one_without_calibration_are_refused_by_name() {
        let mut script = ScriptedI2c::new().write_read(0x77, "D0", "58");
        let error = Bme280.start(&mut Wire::new(&mut script, 0x77)).err().expect("a BMP280");
        assert!(error.to_string().contains("0x77 is not a bme280: its id is 0x58, a BMP280"), "{error}");
        let mut script = ScriptedI2c::new()
            .write_read(0x77, "D0", "60")
            .write(0x77, "E0 B6")
            .write_read(0x77, "F3", "00")
            .write_read(0x77, "88", &"00 ".repeat(26))
            .write_read(0x77, "E1", &"00 ".repeat(7));
        let error = Bme280.start(&mut Wire::new(&mut script, 0x77)).err().expect("no calibration");
        assert_eq!(error.to_string(), "the bme280 at 0x77 has no calibration");
    }

    #[test]
    fn a_part_that_never_ends_its_measurement_is_given_up() {
        let mut script = started(ScriptedI2c::new()).write_read(0x76, "F2", "01 00 24").write(0x76, "F4 25");
        for _ in 0..=LOOKS {
            script = script.write_read(0x76, "F3", "08");
        }
        let mut part = Bme280.start(&mut Wire::new(&mut script, 0x76)).expect("it answers");
        let error = part.measure(&mut Wire::new(&mut script, 0x76)).expect_err("never ends");
        assert!(error.to_string().contains("does not end its measurement"), "{error}");
        script.assert_done();
    }
}
