//! A driver for the tests of this folder, so that they stand on no real one: it takes keys like
//! Modbus's and reads every point with one request of 5 ms.

use std::time::Duration;

use async_trait::async_trait;
use driver_api::{
    Block, Bus, BusSpec, DeviceInfo, Driver, Plan, PointInfo, Problem, ReadError, Sample, Schemas, Value,
};
use schemars::JsonSchema;
use serde::Deserialize;

pub static DRIVERS: &[&dyn Driver] = &[&StandIn("modbus-rtu"), &StandIn("modbus-tcp")];

pub struct StandIn(pub &'static str);

/// A line.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its parsing is of interest")]
struct Line {
    /// The serial port.
    port: String,
    /// Bits per second.
    #[serde(default)]
    baud: Option<u32>,
    /// Parity.
    #[serde(default)]
    parity: Option<Parity>,
}

/// An endpoint.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "only its parsing is of interest")]
struct Socket {
    /// Host and port.
    address: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Parity {
    /// No bit.
    None,
    /// An even number of ones.
    Even,
    /// An odd number of ones.
    Odd,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Slave {
    /// Unit id.
    address: u8,
    /// Most registers in one answer.
    #[serde(default)]
    #[expect(dead_code, reason = "only its parsing is of interest")]
    max_registers: Option<u8>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Register {
    /// Where the value is.
    register: String,
    /// How it is written.
    #[serde(rename = "type")]
    kind: String,
    /// Order of the bytes.
    #[serde(default)]
    #[expect(dead_code, reason = "only its parsing is of interest")]
    word_order: Option<String>,
}

struct Fixed(Plan);

impl StandIn {
    fn is_tcp(&self) -> bool {
        self.0.ends_with("tcp")
    }
}

impl Driver for StandIn {
    fn name(&self) -> &'static str {
        self.0
    }

    fn schemas(&self) -> Schemas {
        Schemas {
            bus: if self.is_tcp() { schemars::schema_for!(Socket) } else { schemars::schema_for!(Line) },
            device: schemars::schema_for!(Slave),
            point: schemars::schema_for!(Register),
        }
    }

    fn compile(&self, bus: BusSpec<'_>, problems: &mut Vec<Problem>) -> Option<Box<dyn Bus>> {
        let before = problems.len();
        if self.is_tcp() {
            let _ = bus.table.parse::<Socket>(problems);
        } else {
            let _ = bus.table.parse::<Line>(problems);
        }
        let mut plan = Plan::default();
        for (index, device) in bus.devices.iter().enumerate() {
            let address = device.table.parse::<Slave>(problems).map_or(0, |s| s.address);
            plan.devices.push(DeviceInfo {
                name: device.name.clone(),
                address: address.to_string(),
                models_at: None,
            });
            for (spec, point) in device.points.iter().enumerate() {
                let Some(register) = point.table.parse::<Register>(problems) else { continue };
                plan.blocks.push(Block {
                    device: index,
                    points: vec![plan.points.len()],
                    every: point.interval,
                    cost: Duration::from_millis(5),
                    what: register.register.clone(),
                });
                plan.points.push(PointInfo {
                    device: index,
                    name: point.name.clone(),
                    spec: Some(spec),
                    unit: Some("raw".into()),
                    kind: register.kind,
                    writable: point.writable && register.register.starts_with("holding:"),
                    source: register.register,
                    registers: None,
                    every: point.interval,
                });
            }
        }
        (problems.len() == before).then(|| Box::new(Fixed(plan)) as Box<dyn Bus>)
    }
}

#[async_trait]
impl Bus for Fixed {
    fn plan(&self) -> &Plan {
        &self.0
    }
    async fn open(&mut self) -> std::io::Result<()> {
        Ok(())
    }
    async fn read(&mut self, _: usize, _: &mut Vec<Sample>) -> Result<(), ReadError> {
        Ok(())
    }
    async fn write(&mut self, _: usize, _: &Value) -> Result<(), ReadError> {
        Ok(())
    }
}
