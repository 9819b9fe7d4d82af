//! The serial port under RTU.

use std::io;

use async_trait::async_trait;
use driver_tty::{Port, Settings};

use crate::config::RtuKeys;
use crate::rtu::Connect;

/// How to open the port.
#[derive(Debug, Clone)]
pub(crate) struct Tty(Settings);

impl Tty {
    pub fn new(keys: RtuKeys) -> Self {
        let RtuKeys { port, baud, parity, stop_bits, rs485 } = keys;
        Self(Settings { port, baud, data_bits: 8, parity, stop_bits, rs485 })
    }
}

#[async_trait]
impl Connect for Tty {
    type Port = Port;

    async fn connect(&mut self) -> io::Result<Port> {
        driver_tty::open(&self.0).await
    }

    fn exact(&self) -> bool {
        true
    }
}
