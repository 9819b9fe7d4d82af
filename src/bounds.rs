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

/// MQTT messages queued for one session or in-process subscriber of the local broker.
///
/// 10 000 is ten seconds of 1000 points at 1 Hz; an entry is 40 B beside the shared payload, and bytes are
/// bounded apart (`broker::limits`). Full: the message is dropped for this subscriber, counted.
pub const BROKER_QUEUE: usize = 10_000;

/// Events of all connections waiting for the broker's hub.
///
/// At 200 000 messages/s it is 5 ms of work. Full: connections stop reading, TCP pushes back.
pub const BROKER_EVENTS: usize = 1024;

/// KiB of payloads over 4 KiB on their way through the hub; with [`BROKER_EVENTS`] small ones of at
/// most 4 KiB, 20 MiB at worst. Full: connections stop reading.
pub const BROKER_EVENT_KIB: usize = 16 * 1024;

/// QoS 1 and 2 messages of one client that the hub has not taken yet; our Receive Maximum.
///
/// 128 in 5 ms is 25 000 messages/s from one client. Full: the client's socket is not read.
pub const BROKER_IN_FLIGHT: u16 = 128;

/// Words of the hub to one connection: one for each unfinished packet, and a few for take-over and stop.
///
/// It cannot be full; if it ever is, the connection is ended.
pub const BROKER_CONTROL: usize = BROKER_IN_FLIGHT as usize + 8;

/// Messages of this process waiting for the hub.
///
/// 16 384 is a burst of 1000 points sixteen times over. Full: the rest is skipped and counted; the store
/// has it.
pub const BROKER_LOCAL: usize = 16 * 1024;

/// Bursts of this process waiting for the hub: at least 16 messages each fill [`BROKER_LOCAL`].
pub const BROKER_LOCAL_BATCHES: usize = 1024;

/// Messages inside the routing engine at once. The rest waits in the hub's own queue.
///
/// It must fit in one segment of the engine's ring (asserted there), or the ring would overwrite.
pub const BROKER_WINDOW: usize = 512;

/// Password checks waiting for one of two threads. A check takes about 30 ms on a Pi 4.
///
/// 64 is a second of waiting. Full: the client is told that the server is busy.
pub const BROKER_PASSWORD_CHECKS: usize = 64;
