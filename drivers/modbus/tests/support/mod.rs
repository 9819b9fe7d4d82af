//! Buses from a few lines of text, for the tests of this crate.

use std::time::Duration;

use driver_api::testing::table;
use driver_api::{Bus, BusSpec, DeviceSpec, Driver, PointSpec, Problem, Wire};

/// A device as text: its keys, and one point a line (`name: key = value, …`).
pub struct DeviceText {
    pub name: String,
    pub keys: String,
    pub points: Vec<(String, bool, String)>,
}

pub fn device(name: &str, keys: &str, points: &str) -> DeviceText {
    let points = points.lines().filter_map(|line| line.trim().split_once(':')).map(|(name, keys)| {
        let own: Vec<&str> = split_keys(keys).into_iter().filter(|k| *k != "writable = true").collect();
        (name.trim().to_owned(), keys.contains("writable = true"), own.join("\n"))
    });
    DeviceText { name: name.to_owned(), keys: keys.to_owned(), points: points.collect() }
}

/// Splits at the commas that are not inside brackets.
fn split_keys(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut keys) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' if depth == 0 => {
                keys.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    keys.push(text[from..].trim());
    keys
}

/// The tables that a driver is given: an interval of 1 s, a timeout of 500 ms.
pub fn spec<'i>(bus: &'i str, devices: &'i [DeviceText]) -> BusSpec<'i> {
    BusSpec {
        name: "bus".to_owned(),
        wire: Wire::default(),
        table: table(bus),
        devices: devices
            .iter()
            .map(|d| DeviceSpec {
                name: d.name.clone(),
                interval: Duration::from_secs(1),
                timeout: Duration::from_millis(500),
                table: table(&d.keys),
                points: d
                    .points
                    .iter()
                    .map(|(name, writable, keys)| PointSpec {
                        name: name.clone(),
                        interval: Duration::from_secs(1),
                        writable: *writable,
                        table: table(keys),
                    })
                    .collect(),
            })
            .collect(),
    }
}

/// A bus of `driver`, or the mistakes.
pub fn compile(driver: &dyn Driver, bus: &str, devices: &[DeviceText]) -> Result<Box<dyn Bus>, Vec<Problem>> {
    let mut problems = Vec::new();
    driver.compile(spec(bus, devices), &mut problems).ok_or(problems)
}
