//! What every driver of a serial line needs of the operating system, and no protocol.
//!
//! - [`open`] gives a port for us alone, set up so that damaged characters are seen, with the adapter's
//!   buffering as short as it allows, and says in words a person can act on why it cannot.
//! - [`Alarm`] waits for a moment to some 0.05 ms, which the silences of Modbus RTU need and tokio's
//!   timer of 1 ms cannot give.
//!
//! Drivers see this crate as they see `driver-api`: it stands on the lowest floor and knows none of them.

mod alarm;
mod holders;
mod kernel;
mod port;

pub use alarm::Alarm;
pub use holders::{Holder, holders};
pub use port::{Parity, Port, Rs485, Settings, open};
