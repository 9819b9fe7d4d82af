//! The bus without hardware. It owes what every bus owes: an exchange ends within the device's
//! timeout, a dead device answers nothing, and a refused write changes nothing.

use std::time::Duration;

use async_trait::async_trait;
use driver_api::{Bus, FrameError, Plan, ReadError, Sample, Value};
use tokio::time::Instant;

use crate::generate::{Generator, Kind};
use crate::signals::{mix, unit};

/// A compiled `[[bus]]` with `driver = "sim"`.
#[derive(Debug)]
pub struct SimBus {
    pub(crate) plan: Plan,
    pub(crate) points: Vec<SimPoint>,
    pub(crate) devices: Vec<SimDevice>,
    pub(crate) seed: u64,
    pub(crate) latency: Duration,
    /// Share of exchanges that get no answer, 0.0 to 1.0.
    pub(crate) drop: f64,
    pub(crate) exchanges: u64,
    /// The zero of every signal: when the bus was first opened.
    pub(crate) origin: Option<Instant>,
}

/// One point, as in [`Plan::points`].
#[derive(Debug)]
pub struct SimPoint {
    pub(crate) key: u64,
    pub(crate) kind: Kind,
    pub(crate) generator: Generator,
    /// What was last written.
    pub(crate) held: Option<Value>,
}

/// One device, as in [`Plan::devices`].
#[derive(Debug)]
pub struct SimDevice {
    pub(crate) dead: bool,
    pub(crate) timeout: Duration,
}

/// Modbus has the words that people know: 02 no such place, 03 no such value.
const NO_SUCH_PLACE: u8 = 0x02;
const NO_SUCH_VALUE: u8 = 0x03;

impl SimBus {
    /// One exchange with a device: passes the time that it takes, and tells when the answer came.
    async fn exchange(&mut self, device: usize) -> Result<Instant, ReadError> {
        if self.origin.is_none() {
            return Err(ReadError::Bus(std::io::ErrorKind::NotConnected.into()));
        }
        let Some(SimDevice { dead, timeout }) = self.devices.get(device) else {
            return Err(ReadError::Refused(NO_SUCH_PLACE));
        };
        self.exchanges += 1;
        let dropped = unit(mix(self.seed ^ mix(self.exchanges))) < self.drop;
        if *dead || dropped || self.latency > *timeout {
            tokio::time::sleep(*timeout).await;
            return Err(ReadError::Transient(FrameError::Timeout(*timeout)));
        }
        tokio::time::sleep(self.latency).await;
        Ok(Instant::now())
    }
}

#[async_trait]
impl Bus for SimBus {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    async fn open(&mut self) -> std::io::Result<()> {
        self.origin.get_or_insert_with(Instant::now);
        Ok(())
    }

    async fn read(&mut self, block: usize, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        let Some(device) = self.plan.blocks.get(block).map(|b| b.device) else {
            return Err(ReadError::Refused(NO_SUCH_PLACE));
        };
        let at = self.exchange(device).await?;
        let elapsed = self.origin.map_or(Duration::ZERO, |origin| at - origin);
        for &point in &self.plan.blocks[block].points {
            let SimPoint { key, generator, held, .. } = &self.points[point];
            let value = held.clone().unwrap_or_else(|| generator.value(*key, elapsed));
            out.push(Sample { point, value: Ok(value), at });
        }
        Ok(())
    }

    async fn write(&mut self, point: usize, value: &Value) -> Result<(), ReadError> {
        let Some(info) = self.plan.points.get(point).filter(|info| info.writable) else {
            return Err(ReadError::Refused(NO_SUCH_PLACE));
        };
        let device = info.device;
        self.exchange(device).await?;
        let target = &mut self.points[point];
        let fitting = target.kind.fit(value).ok_or(ReadError::Refused(NO_SUCH_VALUE))?;
        target.held = Some(fitting);
        Ok(())
    }
}
