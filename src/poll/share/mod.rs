//! A bus shared with other masters: a TCP server whose clients' requests are asks in the bus task's queue.
//!
//! What you may rely on:
//! - The polls keep their pace whatever clients do (`guests`), and commands of fieldgate go before clients.
//! - Nothing is written that the configuration does not name (`permit`).
//! - A client gets an answer to everything it asks: the device's own, its refusals included; or an exception of the
//!   gateway: 01 not permitted, 06 too much is waiting, 0A the bus is down, 0B the device does not answer.
//! - What is no frame ends the connection. Connections, buffers and waits are bounded.
//! - A port that cannot be had keeps nothing else from running; it is tried again, and status says so.

pub mod cache;
pub mod frame;
pub mod guests;
pub mod permit;
mod server;
mod stats;
#[cfg(test)]
mod tests;

pub use server::Server;
pub use stats::{Door, ShareStats};
