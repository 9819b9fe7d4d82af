//! Every limit of the simulators, with the arithmetic that chose it.

use std::time::Duration;

/// Quantities (registers, coils, …) of one register image.
///
/// 247 units × 250 quantities is a full RS-485 line; one costs about 200 B, so 12 MiB at worst.
/// More is an error of [`crate::slaves::Layout::build`].
pub const ENTRIES: usize = 65_536;

/// Remembered serves over all quantities of one image: quantities × history length.
///
/// 1000 points at 1 Hz for half an hour are 1.8 million; at 48 B each 96 MiB at worst.
/// More is an error of `build`; within it, the oldest serve of a quantity is forgotten and counted.
pub const HISTORY_TOTAL: usize = 2 << 20;

/// Remembered telegrams of one scale. At 20 a second an hour; 72,000 × ~80 B = 6 MiB.
/// Then the oldest is forgotten and counted.
pub const TELEGRAMS: usize = 72_000;

/// Bytes of the receive buffer of a simulated serial device: the longest Modbus RTU frame.
/// What would not fit cannot be a frame; it is thrown away and counted as garbled.
pub const FRAME: usize = 256;

/// Connections that one TCP slave serves at once. A gateway needs one, a test a handful; the next
/// one is closed at once.
pub const CONNECTIONS: usize = 32;

/// Bytes leave a paced line in bursts of about this length. Shorter costs wake-ups (500 a second at
/// 2 ms), longer falsifies when the first byte of an answer arrives.
pub const BURST: Duration = Duration::from_millis(2);

/// Silence after which half a request is forgotten, on top of the 3.5 characters of the standard:
/// a loaded machine may stop the master's process between two writes.
pub const RESYNC_SLACK: Duration = Duration::from_millis(20);

/// How late a paced write may have been and still be made good by the next one. The scheduler's
/// lateness is a millisecond or two; after a real stall the line goes on at its own pace.
pub const DEBT: Duration = Duration::from_millis(20);

/// How often a device looks whether somebody has opened its terminal. The first request after an
/// opening is noticed so much later at worst; 50 looks a second cost under 0.2 % of a core.
pub const REOPEN_CHECK: Duration = Duration::from_millis(20);
