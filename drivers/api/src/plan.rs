//! What a compiled bus offers: its devices, its points, and the block reads that cover them.

use std::time::Duration;

/// Everything there is to poll on one bus. Indices into these lists are the only names that the
/// driver and the bus task use between them.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Devices in the order of the specification.
    pub devices: Vec<DeviceInfo>,
    /// Points of all devices.
    pub points: Vec<PointInfo>,
    /// The block reads. Every point that can be read is in exactly one of them; what can only be written, in none.
    pub blocks: Vec<Block>,
    /// What is read besides, for the sake of the blocks: part of the load, but nobody's to ask for.
    pub chores: Vec<Chore>,
    /// Most blocks that are worth giving to [`crate::Bus::read_together`] at once; 0 and 1 mean one.
    pub together: usize,
}

impl Plan {
    /// The block that reads `point`, for reading back what was written.
    #[must_use]
    pub fn block_of(&self, point: usize) -> Option<usize> {
        self.blocks.iter().position(|b| b.points.contains(&point))
    }

    /// The points of a block that are wanted more rarely than it is read: they ride along.
    pub fn riders<'p>(&'p self, block: &'p Block) -> impl Iterator<Item = &'p PointInfo> {
        let points = block.points.iter().filter_map(|point| self.points.get(*point));
        points.filter(|point| block.every != Duration::MAX && point.every > block.every)
    }

    /// Share of time (0.0 to …) that polling every block in time takes of the bus, with the chores.
    #[must_use]
    pub fn predicted_load(&self) -> f64 {
        let (blocks, chores) = (self.blocks.iter().map(Block::load), self.chores.iter().map(Chore::load));
        blocks.chain(chores).sum()
    }
}

/// An addressable thing on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name in the configuration.
    pub name: String,
    /// Its address as a person writes it (`1`, `0x76`).
    pub address: String,
    /// Where the list of its models begins, if the configuration says it (SunSpec). Who asks the device himself
    /// needs it to find what the driver finds.
    pub models_at: Option<u16>,
}

/// One quantity of a device, as the driver knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointInfo {
    /// Index into [`Plan::devices`].
    pub device: usize,
    /// The point's name.
    pub name: String,
    /// Index into the device's [`crate::PointSpec`] list; `None` for a point the driver brought
    /// itself (a chip's own channels).
    pub spec: Option<usize>,
    /// The unit the driver knows (`°C`); the configuration's own unit goes before it.
    pub unit: Option<String>,
    /// The type word, as in the configuration (`f32`, `bool`, `string:8`).
    pub kind: String,
    /// Where it comes from, as a person writes it (`input:0`, `bme280`).
    pub source: String,
    /// How many registers hold it (a coil counts as one); `None` on a bus that has none. The type word does not
    /// say it: with a power of ten the values are `f64`, whatever the registers hold.
    pub registers: Option<u16>,
    /// Whether [`crate::Bus::write`] accepts it.
    pub writable: bool,
    /// How often it is wanted. Its block may be read more often, for the sake of another point.
    pub every: Duration,
}

/// One request that covers several points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Index into [`Plan::devices`].
    pub device: usize,
    /// Indices into [`Plan::points`].
    pub points: Vec<usize>,
    /// How often it is due: as often as its most urgent point. [`Duration::MAX`] for what is never asked, only listened to.
    pub every: Duration,
    /// Predicted time it occupies the bus.
    pub cost: Duration,
    /// The request in words (`input 0..29 (function 4, 30 registers)`).
    pub what: String,
}

impl Block {
    /// Share of time that polling it takes of the bus.
    #[must_use]
    pub fn load(&self) -> f64 {
        share(self.cost, self.every)
    }
}

/// A request that brings no point its value, and that the driver makes by itself before a poll: what a value is
/// multiplied by, whether something is still where it was. What is asked only once is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chore {
    /// Index into [`Plan::devices`].
    pub device: usize,
    /// How often it is made, if every poll comes in time.
    pub every: Duration,
    /// Predicted time it occupies the bus.
    pub cost: Duration,
    /// The request in words, as [`Block::what`].
    pub what: String,
    /// What for, in a few words (`3 powers of ten`).
    pub purpose: String,
}

impl Chore {
    /// Share of time that it takes of the bus.
    #[must_use]
    pub fn load(&self) -> f64 {
        share(self.cost, self.every)
    }
}

fn share(cost: Duration, every: Duration) -> f64 {
    cost.as_secs_f64() / every.as_secs_f64().max(0.001)
}

/// What the traffic so far taught about one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Learned {
    /// How long it usually takes to begin an answer; `None` while that is not known.
    pub turnaround: Option<Duration>,
    /// Blocks that it refuses as a whole (most often across a hole), and that are read in parts.
    pub split_blocks: usize,
    /// Parts of those blocks, each a request of its own.
    pub split_parts: usize,
}
