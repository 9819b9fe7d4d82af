//! The local broker over real sockets: exact packets, known killers, and mosquitto's own clients.

mod both;
mod killers;
mod mosquitto;
mod raw;
mod session;
mod transport;
mod v5;
