//! The contract between fieldgate and a driver.
//!
//! A **driver** speaks one protocol. It is stateless: one `static` that names itself, describes its
//! configuration tables, and *compiles* a `[[bus]]` with its devices into a [`Bus`]. Compiling never
//! touches hardware, so `fieldgate check` is honest on a laptop.
//!
//! A **bus** is one physical line or endpoint. Exactly one task owns it, so nothing in a bus needs a
//! lock. The task asks it for one block at a time, and the bus does one exchange, within its own
//! timeout, and returns.
//!
//! What a driver owes its caller:
//! - **Every exchange ends by itself**, at most the device's timeout plus one character late. The
//!   caller never cancels one: a frame cut in the middle leaves the line in an unknown state.
//! - **No doubtful value.** A reply that is late, foreign, short or corrupt is an error, never a
//!   [`Sample`]. A value that cannot be a measurement (NaN, the maker's "no value" pattern) is a
//!   sample with a [`Reason`].
//! - **Honest time.** [`Sample::at`] is when the source was sampled as closely as the bus can know:
//!   the arrival of the first byte of the reply, not the end of the parsing.
//! - **Errors are reactions.** [`ReadError`]'s variants say what the caller does next.
//!
//! A driver sees only this crate, never another driver and nothing of brokers or databases.

pub mod decode;
pub mod error;
pub mod exception;
pub mod plan;
pub mod reading;
pub mod table;
#[cfg(feature = "testing")]
pub mod testing;
pub mod units;
pub mod wire;

use async_trait::async_trait;

pub use error::{FrameError, ReadError};
pub use plan::{Block, Chore, DeviceInfo, Learned, Plan, PointInfo};
pub use reading::{Quality, Reason, Sample, Value};
pub use table::{Place, Problem, SourceId, Table};
pub use units::{ByteSize, Span};
pub use wire::{Tapped, Wire};

/// A protocol the gateway can speak. Stateless: one `static` per driver.
pub trait Driver: Sync {
    /// The word that selects this driver in `driver = "…"`.
    fn name(&self) -> &'static str;

    /// The driver's own keys of the three tables, as JSON Schema made from the Rust types.
    /// The common keys (`name`, `driver`, `interval`, `unit`, …) are not in it.
    fn schemas(&self) -> Schemas;

    /// Checks one bus with all its devices and compiles their points into block reads.
    ///
    /// Runs in `fieldgate check` too, so it must not touch hardware. Every mistake is pushed onto
    /// `problems`, with its place; `None` only if at least one was pushed.
    fn compile(&self, bus: BusSpec<'_>, problems: &mut Vec<Problem>) -> Option<Box<dyn Bus>>;
}

/// JSON Schemas of the keys that one driver adds to the common ones.
#[derive(Debug, Clone)]
pub struct Schemas {
    /// Keys of `[[bus]]`.
    pub bus: schemars::Schema,
    /// Keys of `[[device]]`.
    pub device: schemars::Schema,
    /// Keys of `[[device.point]]`.
    pub point: schemars::Schema,
}

/// One physical bus. Owned by exactly one task, so no method needs a lock.
#[async_trait]
pub trait Bus: Send {
    /// What there is to poll, and how often. Indices of devices and points stay valid for the life of the
    /// bus; those of blocks until [`Bus::replan`] says otherwise.
    fn plan(&self) -> &Plan;

    /// Opens the port, or opens it again after [`ReadError::Bus`]. Whatever an earlier open left
    /// behind (descriptors, half a frame) is closed first. What was learned about refusing devices
    /// is forgotten: a reconnect is a new chance.
    ///
    /// # Errors
    /// Why it could not be opened, in words a person can act on ("permission denied: add the user
    /// to group dialout").
    async fn open(&mut self) -> std::io::Result<()>;

    /// Performs one block read and appends one sample per point of the block that has something to
    /// say. A point that refuses for itself (exception 02 after the block was split) is a sample
    /// with a reason, not an error of the block. A refusal is believed for ten minutes, not longer: a
    /// device that is starting refuses what it gives later, and a serial port is not reopened for months.
    /// What else the device needs may go before it, as far as the plan leaves time ([`Plan::chores`]).
    ///
    /// # Cancel safety
    /// Not cancel safe. The caller never selects on it; each of its exchanges ends within the device's
    /// timeout, and one without an answer is the last.
    async fn read(&mut self, block: usize, out: &mut Vec<Sample>) -> Result<(), ReadError>;

    /// Performs several block reads, and gives for each, in order, what [`Bus::read`] would. A bus that can
    /// has them under way at once ([`Plan::together`]); any other does one after the other.
    ///
    /// # Cancel safety
    /// Not cancel safe, as `read`.
    async fn read_together(&mut self, blocks: &[usize]) -> Vec<Result<Vec<Sample>, ReadError>> {
        let mut results = Vec::with_capacity(blocks.len());
        for block in blocks {
            let mut samples = Vec::new();
            results.push(self.read(*block, &mut samples).await.map(|()| samples));
        }
        results
    }

    /// Writes one value to a writable point (`PointInfo::writable`). `value` is the raw value
    /// (scaling was undone by the caller) and fits the point's kind. Reading back is the caller's
    /// business: it reads the point's block.
    ///
    /// # Cancel safety
    /// Not cancel safe, as `read`.
    async fn write(&mut self, point: usize, value: &Value) -> Result<(), ReadError>;

    /// Carries one request that is nobody's point: of a client that shares the line, of a scan, of a person
    /// who wants to see the registers themselves. `request` and the answer are what the protocol calls a PDU
    /// (Modbus: function code and data); a refusal of the device is an answer like any other. What the
    /// driver owes for its own reads it owes here too: no late, foreign or corrupt answer is given.
    ///
    /// # Errors
    /// As `read`; a protocol error with the reason for a request that cannot be carried.
    ///
    /// # Cancel safety
    /// Not cancel safe, as `read`.
    async fn carry(
        &mut self,
        unit: u8,
        request: &[u8],
        timeout: std::time::Duration,
    ) -> Result<Vec<u8>, ReadError> {
        let _ = (unit, request, timeout);
        Err(ReadError::Transient(FrameError::Protocol("this bus carries no foreign requests".to_owned())))
    }

    /// Puts the points into other blocks where what was learned since promises a saving that is worth it.
    /// `true`: the blocks of [`Bus::plan`] are new. The caller asks between exchanges, now and then.
    fn replan(&mut self) -> bool {
        false
    }

    /// What the traffic so far taught about a device, for people to see.
    fn learned(&self, device: usize) -> Learned {
        let _ = device;
        Learned::default()
    }

    /// Waits for what the bus says unasked (a scale that prints by itself) and appends it.
    /// Returns after at least one sample, or with an error. Buses that only answer never return.
    ///
    /// # Cancel safety
    /// Cancel safe: the caller drops it whenever a request is due, and no byte is lost by that.
    async fn idle(&mut self, out: &mut Vec<Sample>) -> Result<(), ReadError> {
        let _ = out;
        std::future::pending().await
    }
}

/// A `[[bus]]` table with everything that hangs on it; the common keys are already taken out.
#[derive(Debug, Clone)]
pub struct BusSpec<'i> {
    /// The bus's name.
    pub name: String,
    /// The driver's own keys.
    pub table: Table<'i>,
    /// The devices on this bus, in file order.
    pub devices: Vec<DeviceSpec<'i>>,
    /// Where the bus tells what goes over it.
    pub wire: Wire,
}

/// A `[[device]]` table; the common keys are already taken out.
#[derive(Debug, Clone)]
pub struct DeviceSpec<'i> {
    /// The device's name, unique in the gateway.
    pub name: String,
    /// Default poll interval of its points.
    pub interval: std::time::Duration,
    /// Longest wait for one answer.
    pub timeout: std::time::Duration,
    /// The driver's own keys.
    pub table: Table<'i>,
    /// The points named in the configuration and the device's profile, in order.
    pub points: Vec<PointSpec<'i>>,
}

/// A `[[device.point]]` table; the common keys that only the pipeline needs are already taken out.
#[derive(Debug, Clone)]
pub struct PointSpec<'i> {
    /// The point's name, unique in its device.
    pub name: String,
    /// Its own interval, or the device's.
    pub interval: std::time::Duration,
    /// Whether the configuration wants it writable.
    pub writable: bool,
    /// The driver's own keys.
    pub table: Table<'i>,
}
