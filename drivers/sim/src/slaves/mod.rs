//! Simulated field devices that a gateway cannot tell from real ones, and that write down what they
//! served.
//!
//! They are for `fieldgate demo` and for tests from outside: [`Registers`] is what a Modbus device
//! holds, [`RtuSlave`] puts it behind a pseudo-terminal at the pace of a true line, [`TcpSlave`]
//! behind a socket, and [`ScaleSlave`] prints telegrams. All of them promise:
//! - what the ledger calls good left the device whole, in time and correct, and nothing else did;
//! - faults can be switched while they run ([`Faults`]), and do exactly what their name says;
//! - dropping the handle ends the device and closes what it had open.
//!
//! They live in real time, as the wires do: a paused tokio clock does not hold them.

mod encode;
mod faults;
mod ledger;
mod pace;
mod plug;
mod pty;
mod registers;
mod rtu;
mod scale;
mod task;
mod tcp;
mod telegram;
mod watch;
mod wire;

pub use encode::Kind;
pub use faults::{Faults, RtuFault, TcpFault};
pub use ledger::{Fate, Row, Serve};
pub use pace::Line;
pub use registers::{Answer, Area, Layout, LayoutError, Receipt, Registers, Source};
pub use rtu::{LineStats, RtuOptions, RtuSlave};
pub use scale::{ScaleLedger, ScaleOptions, ScaleSlave, Telegram, Weight};
pub use tcp::TcpSlave;
pub use telegram::Style;
