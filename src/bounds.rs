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

/// Clients of one share at once.
///
/// A SCADA system, a service laptop and what they forgot to close; each costs a task and about 1 KiB.
/// Full: the connection that has asked for nothing for longest, 10 s at least, is closed for the new one; if
/// there is none, the new one is closed at once, counted.
pub const SHARE_CLIENTS: usize = 16;

/// Requests waiting to be carried over one bus for others: clients of its share, a scan.
///
/// A client has one request outstanding: 16 of them, a scan, and one that hung up; 18 × about 300 B = 6 KiB. First come,
/// first served, so a polite client waits behind one request of each greedy one.
/// Full: the asker waits for a place as long as for its turn, and is told then that the gateway is busy (exception 06).
pub const BUS_CARRIES: usize = SHARE_CLIENTS + 2;

/// Answers that one share keeps to be given again within `cache`.
///
/// A SCADA system asks a few dozen different questions; 256 × at most 600 B = 150 KiB.
/// Full: the oldest goes.
pub const SHARE_CACHE: usize = 256;

/// Requests of clients of one bus that are known to get no answer.
///
/// 247 units and a few mute ranges; 512 × about 40 B = 20 KiB. Full: the one that is asked again soonest is forgotten.
pub const SHARE_SILENT: usize = 512;

/// Commands being carried out at once.
///
/// One per bus is on the wire; 64 lets every bus of a large gateway have a few waiting.
/// Full: the command is refused with "busy".
pub const COMMANDS_RUNNING: usize = 64;

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

/// Local messages (status, meta, events, results) on their way from the broker to one uplink.
///
/// At start up to a few thousand meta messages come in one burst; the uplink takes each in microseconds,
/// connected or not. Full: the broker skips the message for this uplink, counted; nothing else waits.
pub const UPLINK_MIRROR: usize = 1024;

/// Events and command results waiting in one uplink while its link is down.
///
/// 256 × about 300 B = 75 KiB. Full: the oldest goes, counted.
pub const UPLINK_EVENTS: usize = 256;

/// Retained topics (meta, status) of which one uplink keeps the newest message.
///
/// A gateway of 10,000 points has as many meta topics; 16,384 × about 400 B = 6.5 MiB at worst.
/// Full: a new topic is not shown upstream, counted.
pub const UPLINK_RETAINED: usize = 16_384;

/// Messages in flight on one uplink, unless its broker allows fewer; how many of them the link carries is measured.
///
/// Readings/s = window × readings per message / round trip: 2048 at 200 ms moves 10,000 single readings/s, 2 MB/s.
/// 2048 × about 300 B of book-keeping = 600 KiB. Full: the next message waits for an acknowledgement; the log keeps it.
pub const UPLINK_WINDOW: usize = 2048;

/// The same with MQTT 3.1.1, which has no words for how many a broker takes: some clouds close a connection, or throttle
/// it, beyond a hundred.
pub const UPLINK_WINDOW_311: u16 = 100;

/// Messages in flight on one uplink with QoS 2: all of them are written with each note of what is open, some 20 bytes
/// each. With `json` more would be worth it on a long link; batches are the better way. Full: as for [`UPLINK_WINDOW`].
pub const UPLINK_EXCHANGES: usize = 100;

/// Messages in flight on one uplink with QoS 2 over MQTT 3.1.1, where a broker cannot say how many it allows.
///
/// mosquitto's own limit is 20 (`max_inflight_messages`), and what goes beyond it ends the connection, or worse: it is
/// acknowledged and dropped, as 3.1.1 has no refusal. Full: as for [`UPLINK_WINDOW`].
pub const UPLINK_EXCHANGES_311: usize = 20;

/// Readings in one message upstream, as the manual says.
///
/// 10,000 are some 400 KiB as `json-batch` and 10 to 20 KiB as `compact`. A configuration that asks for more is
/// refused, and so is a packed message that claims more.
pub const UPLINK_BATCH: usize = 10_000;

/// Bytes of payload in flight on one uplink: 1 MiB, over a second of a 5 Mbit/s link.
/// Full: as for [`UPLINK_WINDOW`]; one message of any size may always go alone.
pub const UPLINK_WINDOW_BYTES: usize = 1 << 20;

/// Bytes encoded but not yet taken by the socket, per uplink, beyond which no new message is encoded.
///
/// 64 KiB is a fast link's appetite between two rounds of the task. Full: as for [`UPLINK_WINDOW`].
pub const UPLINK_OUT_BYTES: usize = 64 << 10;

/// Messages of the cloud on their way to the local broker, per uplink: 64 of at most [`UPLINK_PACKET_IN`] are 16 MiB
/// at worst, of the usual size some 64 KiB. Full: the message is dropped, counted and said.
pub const UPLINK_ROUTED: usize = 64;

/// The largest packet an uplink accepts from its broker, announced to MQTT 5 brokers.
///
/// Commands are a few hundred bytes; 256 KiB is ample. A larger message is acknowledged and left out, counted and said;
/// any other larger packet ends the connection, with the reason.
pub const UPLINK_PACKET_IN: usize = 256 << 10;

/// Loss records read from the log at once. 16 × about 1 KiB. The rest waits in the log.
pub const UPLINK_LOSSES: usize = 16;

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

/// Readings in one transaction. At 150,000 readings/s one every 55 ms. The last group stays in RAM until the next one,
/// half a MiB and its texts, for a disk that breaks in between.
/// Full: the group closes before its interval is over.
pub const STORE_GROUP: usize = 8192;

/// Readings up to which the newest block grows with the next commits (see `store::tail`). Packing 2048 anew costs
/// 0.3 ms. Full: the next commit begins a new block.
pub const STORE_MERGE: usize = 2048;

/// Readings in one block. Decoded about 300 KiB; the reader keeps four of them.
/// Full: the group goes on in a second block of the same transaction.
pub const STORE_BLOCK: usize = 4096;

/// Questions waiting for the store's thread (reads of uplinks, commands to be made durable).
///
/// Each uplink has two lanes with one question each, a page and a tool a few more.
/// Full: the asker waits for its turn.
pub const STORE_JOBS: usize = 64;

/// The store thread's inbox: all questions, and one place for a wake-up. It cannot be full for a question.
pub const STORE_INBOX: usize = STORE_JOBS + 1;

/// The least that is declared as a bound after a power cut, in readings, until more was seen between two
/// commits. When more than the bound so far waits, a group closes early, so the bound is known in time.
pub const STORE_POWER_CUT: u64 = 256;

/// Most records one read of an uplink gets. About 400 KiB and 2 ms of the store's thread.
/// More is answered in the next read.
pub const STORE_READ: usize = 4096;

/// Stretches of numbers, per uplink, that went out with a guessed time before the clock of their boot was set, until
/// they are acknowledged and corrected. One or two for each start without a clock; 512 × about 120 B = 60 KiB.
/// Full: the oldest that is corrected, or never can be, is forgotten. Should it have to be sent again, it has the last
/// guess of its boot.
pub const STORE_RELEASED: usize = 512;

/// Stretches of numbers handed to one uplink in this boot while its clock was not set: one for each lane and
/// connection. Full: the numbers between the two that are nearest count as handed out as well.
pub const STORE_HANDED: usize = 16;

/// Corrections read from the log at once. 16 × about 250 B. The rest waits in the log.
pub const UPLINK_CORRECTIONS: usize = 16;

/// Loss records on their way to the local broker.
/// Full: the oldest are skipped there; the stored ones still go upstream.
pub const STORE_EVENTS: usize = 64;

/// Stretches that an uplink acknowledged above its oldest unacknowledged reading.
/// Two lanes and a window make a few. Full: the smallest is forgotten and sent once more.
pub const STORE_ISLANDS: usize = 256;

/// Stretches of messages that an uplink does not want any more and that lie between what it was not sent yet. 2048 × 2 × 16 B = 64 KiB.
/// Full: further ones are declared when the queue has drained to there.
pub const STORE_GIVEN_UP: usize = 2048;

/// Changes of an uplink's forwards that are remembered while what was stored under them waits. 16 of a few routes each, 1 KiB.
pub const STORE_WISHES: usize = 16;

/// Stretches of numbers that are not one uplink's affair (messages that it does not forward) among what it was not sent
/// yet. One for each commit with messages; 4096 × 16 B = 64 KiB, over half an hour of them.
/// Full: those in the middle count as queued until the uplink's reader comes to them.
pub const STORE_ASIDE: usize = 4096;

/// Largest message of another device that goes into the log: topic, payload and properties, in bytes. As large as
/// what comes from the cloud ([`UPLINK_PACKET_IN`]). A larger one is not forwarded, counted and said.
pub const FORWARD_MESSAGE: usize = 256 << 10;

/// KiB of messages to be forwarded, from the moment the local broker takes them until they are stored; each counts as
/// 1 at least, so they are 4096 messages at most. 4 MiB at worst, a commit of 8 MiB/s.
/// Full: with QoS 1 and 2 the client is not read, so that it waits; QoS 0 is not forwarded, counted.
pub const FORWARD_KIB: usize = 4096;

/// Messages that get a number in one commit: what a power cut is said to take at most grows by no more. At 20 ms a commit it
/// is 25,000 messages a second. Full: the rest follows in the next commit, at once.
pub const STORE_POST: usize = 512;

/// Messages with QoS 1 or 2 that do not wait for the commit's interval: usual clients have 20 in flight and wait then, which
/// would be 40 messages a second. A commit writes some 8 KiB of its own; 16 messages of 200 B are 3 KiB.
pub const STORE_POST_EARLY: usize = 16;

/// Messages on their way from the broker's hub to the log: as many as [`FORWARD_KIB`] allows, so it cannot be full.
pub const FORWARD_QUEUE: usize = FORWARD_KIB;

/// Bytes of messages that one read of an uplink gets, and that wait in one lane. One more may always go.
pub const FORWARD_READ: usize = 1 << 20;
/// Thinned blocks of which is remembered for an uplink what it was handed. 32 × 64 KiB = 2 MiB in RAM (tests: 2).
/// Full: of further ones the next commit looks at the block again when they are settled.
pub const STORE_SHAPES: usize = if cfg!(test) { 2 } else { 32 };

/// Stretches of thinned blocks that wait for that, for each uplink: a window of messages twice over; a quarter of it wakes
/// the store's thread. 4096 × 24 B = 96 KiB.
/// Full: what is acknowledged beyond is forgotten and goes out once more.
pub const STORE_LATER: usize = 4096;
const _: () = assert!(STORE_LATER >= 2 * UPLINK_WINDOW);

/// Readings that are looked at for thinning in one commit: 25 ms on two busy cores (`store::tests::thin::figures`), so some
/// 100 ms on a Raspberry Pi, while `take` goes on. It is more than any gateway takes in the 500 ms between two commits.
pub const STORE_THIN: usize = 32_768;

/// Loss records waiting for one uplink. Full: a new one is merged into the last of the same reason.
pub const STORE_LOSSES: usize = 256;

/// Stretches of numbers in one loss record of what an uplink gave up: some 4 KiB in the database. Full: another record.
pub const STORE_LOSS_SPANS: usize = 256;

/// Point names in one loss record. 4096 × 30 B = 120 KiB. More: `points` is null.
pub const STORE_LOSS_POINTS: usize = 4096;

/// Commands that were executed, by point and id: answered and not executed again. 1024 × (1 KiB + 1 KiB) = 2 MiB at worst.
/// Full: the oldest is forgotten.
pub const STORE_COMMANDS: usize = 1024;

/// Bytes kept of a command's key (point and id; two names of 128 bytes and an id of 128 are less) and of its result (a
/// longer one is cut to nothing: the id is still known).
pub const STORE_COMMAND_TEXT: usize = 1024;

/// Uplinks that left the configuration and may come back to their position. Full: the one gone longest
/// is forgotten.
pub const STORE_PARKED: usize = 32;

// A full group must fit in the ring, or the writer could never fill one under load.
const _: () = assert!(STORE_GROUP <= STORE_RING && STORE_BLOCK <= STORE_GROUP && STORE_MERGE <= STORE_BLOCK);

/// Bytes of the database that one turn of the store's thread hands to a backup. 64 KiB are 3 ms of a card that
/// reads 20 MB/s; commits come between two of them.
pub const STORE_PIECE: usize = 64 << 10;

/// How many times its usual length the WAL may have while a backup copies the database, which it must not be written
/// back into meanwhile. At most 4 × 4 MiB: minutes of 1000 readings/s, and a second or two of writing back afterwards.
/// Full: the WAL is written back and the backup fails, saying so.
pub const STORE_COPY_WAL: u64 = 4;

/// Messages that one uplink with QoS 2 has open at its broker: its window, and as many that wait to be sent again while
/// the disk that has them is out of order. 200 × 20 B, written with each step.
/// Full: the next message goes with QoS 1.
pub const STORE_EXCHANGES: usize = 2 * UPLINK_EXCHANGES;

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

/// Events in the hub's window, from the first whose ticket is inside the engine. The rest waits in the channels.
pub const BROKER_WINDOW: usize = 512;

/// Tickets inside the routing engine at once; messages that come while it is full share the next one.
///
/// It must fit in one segment of the engine's ring (asserted there), or the ring would overwrite.
pub const BROKER_INSIDE: usize = 64;

/// Tickets on their way back from the engine: as many as are inside, twice over for an engine that repeats.
///
/// Full: the engine's pump waits.
pub const BROKER_TICKETS: usize = 2 * BROKER_INSIDE;

/// Bytes that wait for the disk that keeps the broker's sessions.
///
/// 8 MiB is a second of a card's writing. Full: connections with a message that is not acknowledged yet are not read; what others
/// send on is at most one message each, and beyond that the queues of the sessions say what is dropped.
pub const BROKER_JOURNAL: usize = 8 << 20;

/// Addresses that the broker remembers though nobody from there is connected: 4096 × some 100 B. Full: who did the least
/// harm is forgotten.
pub const BROKER_ADDRESSES: usize = 4096;

/// Password checks waiting for one of two threads. A check takes about 30 ms on a Pi 4.
///
/// 64 is a second of waiting. Full: the client is told that the server is busy.
pub const BROKER_PASSWORD_CHECKS: usize = 64;

/// Topics of one uplink that get a number instead of their name (MQTT 5), unless its broker allows fewer, and as
/// many that may get one next.
///
/// 2 × 256 × about 80 B = 40 KiB. Full: the other topics are written out.
pub const UPLINK_ALIASES: usize = 256;
