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

/// Readings that were taken and are not yet in the writer's hands, while the disk is slow or broken.
///
/// A reading is about 64 B here, so 4 MiB at worst; 65 s of 1000 points at 1 Hz.
/// Full: the oldest go, each counted and declared (`queue_full`). Nobody waits.
pub const STORE_RING: usize = 65_536;

/// Bytes of text values in that ring. 4 MiB beside the 4 MiB of the readings themselves.
/// Full: as above.
pub const STORE_RING_TEXT: usize = 4 << 20;

/// Bytes of one text value in the log. A longer one is no measurement: stored as bad (`parse`).
pub const STORE_TEXT: usize = 64 << 10;

/// Readings in one transaction. At 150,000 readings/s one every 55 ms.
/// Full: the group closes before its interval is over.
pub const STORE_GROUP: usize = 8192;

/// Readings in one block. Decoded about 300 KiB; the reader keeps four of them.
/// Full: the group goes on in a second block of the same transaction.
pub const STORE_BLOCK: usize = 4096;

/// Questions waiting for the store's thread (reads of uplinks, commands to be made durable).
///
/// Each uplink has two lanes with one question each, a page and a tool a few more.
/// Full: the asker waits for its turn.
pub const STORE_JOBS: usize = 64;

/// The least that is declared as a bound after a power cut, in readings, until more was seen between two
/// commits. When more than the bound so far waits, a group closes early, so the bound is known in time.
pub const STORE_POWER_CUT: u64 = 256;

/// Most records one read of an uplink gets. About 400 KiB and 2 ms of the store's thread.
/// More is answered in the next read.
pub const STORE_READ: usize = 4096;

/// Loss records on their way to the local broker.
/// Full: the oldest are skipped there; the stored ones still go upstream.
pub const STORE_EVENTS: usize = 64;

/// Stretches that an uplink acknowledged above its oldest unacknowledged reading.
/// Two lanes and a window make a few. Full: the smallest is forgotten and sent once more.
pub const STORE_ISLANDS: usize = 256;

/// Loss records waiting for one uplink. Full: a new one is merged into the last of the same reason.
pub const STORE_LOSSES: usize = 256;

/// Point names in one loss record. 4096 × 30 B = 120 KiB. More: `points` is null.
pub const STORE_LOSS_POINTS: usize = 4096;

/// Ids of commands that are answered and not executed again. 1024 × 1 KiB = 1 MiB at worst.
/// Full: the oldest is forgotten.
pub const STORE_COMMANDS: usize = 1024;

/// Bytes kept of a command's id (a longer one is refused) and of its result (a longer one is cut to
/// nothing: the id is still known).
pub const STORE_COMMAND_TEXT: usize = 1024;

/// Uplinks that left the configuration and may come back to their position. Full: the one gone longest
/// is forgotten.
pub const STORE_PARKED: usize = 32;

// A full group must fit in the ring, or the writer could never fill one under load.
const _: () = assert!(STORE_GROUP <= STORE_RING && STORE_BLOCK <= STORE_GROUP);
