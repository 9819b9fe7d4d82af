//! Every queue's length in one place, with the arithmetic that chose it.
//!
//! Each constant says its unit, its worst case, and what happens when it is full.

/// Batches of readings between the bus tasks and the pipeline.
///
/// 16 buses × 10 blocks/s = 160 batches/s; 512 is about 3 s of a stalled pipeline.
/// Full: the bus task waits, polls late and counts an overrun; nothing is dropped.
pub const READINGS: usize = 512;

/// Commands on their way to the commander, from local clients and all uplinks.
///
/// People and schedules write a few a second; 256 is a burst of a whole plant's setpoints.
/// Full: the sender refuses the command with "busy"; it is never queued on disk.
pub const COMMANDS: usize = 256;

/// Requests waiting for one bus (writes, one-shot reads), besides its own polls.
///
/// Each takes at most one timeout (500 ms by default); 32 is 16 s of waiting at worst.
/// Full: the asker is told that the bus is busy.
pub const BUS_REQUESTS: usize = 32;

/// Commands being carried out at once.
///
/// One per bus is on the wire; 64 lets every bus of a large gateway have a few waiting.
/// Full: the command is refused with "busy".
pub const COMMANDS_RUNNING: usize = 64;

/// Command ids remembered, so that a repeated one is answered and not carried out again.
///
/// A broker repeats within seconds; 1024 ids of ~200 B are 200 KiB and hours of commands.
/// Full: the oldest is forgotten.
pub const COMMAND_IDS: usize = 1024;

/// Connections to the control socket at once.
///
/// A person and a few scripts; each costs a task and at most 64 KiB for five seconds.
/// Full: the connection is closed at once.
pub const CONTROL_CONNECTIONS: usize = 16;

/// Readings numbered and published in one turn of the flow.
///
/// One turn costs one wake-up of the store and of the broker; 4096 readings of ~200 B of payload
/// are 800 KiB at worst.
pub const FLOW_GROUP: usize = 4096;

/// Local messages on their way into one uplink's mirror.
///
/// 1000 descriptions at start, then a few status messages a second; the mirror takes them at once
/// and keeps only the latest of each topic. Full: the pump waits, and the local broker's own bound
/// for a slow subscriber applies.
pub const MIRROR: usize = 256;
