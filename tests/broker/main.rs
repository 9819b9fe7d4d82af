//! The local broker over real sockets: exact packets, known killers, and mosquitto's own clients.

#![expect(clippy::unwrap_used, reason = "a helper of a test that fails is a failed test")]

mod both;
mod certificates;
mod fuzz;
mod kept;
mod killers;
mod limits;
mod mosquitto;
mod once;
mod raw;
mod roster;
mod session;
mod tap;
mod transport;
mod users;
mod v5;
mod wills;
