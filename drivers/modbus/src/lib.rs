//! Modbus: RTU on a serial line, TCP, and RTU framing over a TCP serial converter.

pub mod frame;
pub mod plan;
