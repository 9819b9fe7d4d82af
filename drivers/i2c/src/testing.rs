//! For tests: a bus with a script, exact to the transaction.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use driver_api::testing::hex;

use crate::I2cPort;

/// An I²C bus with a script: each expected exchange with what it earns, bytes in hex.
///
/// It fails at the first exchange that differs. What stands behind [`Self::for_ever`] is repeated.
#[derive(Debug, Default)]
pub struct ScriptedI2c {
    script: VecDeque<Exchange>,
    cycle: Option<Vec<Exchange>>,
    left: Left,
}

#[derive(Debug, Clone)]
struct Exchange {
    address: u8,
    written: Vec<u8>,
    /// `None`: nothing is read.
    answer: Option<Vec<u8>>,
    errno: Option<i32>,
    stall: Duration,
}

/// How many exchanges are still to come; it can be kept while the bus is with the driver.
#[derive(Debug, Clone, Default)]
pub struct Left(Arc<AtomicUsize>);

impl Left {
    /// Their number, without what repeats for ever.
    #[must_use]
    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl ScriptedI2c {
    /// A bus on which nothing may happen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next exchange writes exactly `bytes` to `address`.
    #[must_use]
    pub fn write(self, address: u8, bytes: &str) -> Self {
        self.then(Exchange { address, written: hex(bytes), answer: None, errno: None, stall: Duration::ZERO })
    }

    /// The next exchange writes exactly `bytes`, then reads exactly as many as `answer` has.
    #[must_use]
    pub fn write_read(self, address: u8, bytes: &str, answer: &str) -> Self {
        let (written, answer) = (hex(bytes), Some(hex(answer)));
        self.then(Exchange { address, written, answer, errno: None, stall: Duration::ZERO })
    }

    /// The exchange just described fails with this error number of the kernel instead.
    ///
    /// # Panics
    /// If nothing was described yet.
    #[must_use]
    pub fn fails(mut self, errno: i32) -> Self {
        self.last().errno = Some(errno);
        self
    }

    /// The exchange just described takes so long.
    ///
    /// # Panics
    /// If nothing was described yet.
    #[must_use]
    pub fn stalls(mut self, time: Duration) -> Self {
        self.last().stall = time;
        self
    }

    /// What is described from here on is repeated, in order, as often as it is asked for.
    #[must_use]
    pub fn for_ever(mut self) -> Self {
        self.cycle = Some(Vec::new());
        self
    }

    /// A handle on how much of the script is left.
    #[must_use]
    pub fn left(&self) -> Left {
        self.left.clone()
    }

    /// Fails unless every expected exchange happened.
    ///
    /// # Panics
    /// If the script has not come to its end.
    pub fn assert_done(&self) {
        assert_eq!(self.left.get(), 0, "exchanges that never happened: {:?}", self.script);
    }

    fn then(mut self, exchange: Exchange) -> Self {
        match &mut self.cycle {
            Some(cycle) => cycle.push(exchange),
            None => {
                self.script.push_back(exchange);
                self.left.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        self
    }

    fn last(&mut self) -> &mut Exchange {
        match &mut self.cycle {
            Some(cycle) => cycle.last_mut(),
            None => self.script.back_mut(),
        }
        .expect("describe an exchange first")
    }

    fn next(&mut self, address: u8, written: &[u8], reads: Option<usize>) -> io::Result<Vec<u8>> {
        let expected = match self.script.pop_front() {
            Some(exchange) => {
                self.left.0.fetch_sub(1, Ordering::SeqCst);
                exchange
            }
            None => match &mut self.cycle {
                Some(cycle) if !cycle.is_empty() => {
                    cycle.rotate_left(1);
                    cycle[cycle.len() - 1].clone()
                }
                _ => panic!("unexpected exchange: {address:#04x} write {written:02X?} read {reads:?}"),
            },
        };
        assert!(
            (expected.address, expected.written.as_slice(), expected.answer.as_ref().map(Vec::len))
                == (address, written, reads),
            "{address:#04x} write {written:02X?} read {reads:?}, expected {expected:02X?}"
        );
        std::thread::sleep(expected.stall);
        match expected.errno {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(expected.answer.unwrap_or_default()),
        }
    }
}

impl I2cPort for ScriptedI2c {
    fn write(&mut self, address: u8, bytes: &[u8]) -> io::Result<()> {
        self.next(address, bytes, None).map(drop)
    }

    fn read(&mut self, address: u8, into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(&self.next(address, &[], Some(into.len()))?);
        Ok(())
    }

    fn write_read(&mut self, address: u8, bytes: &[u8], into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(&self.next(address, bytes, Some(into.len()))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_behind_for_ever_repeats() {
        let mut bus = ScriptedI2c::new().write(1, "AA").for_ever().write(1, "BB").write_read(1, "CC", "01");
        let left = bus.left();
        assert_eq!(left.get(), 1);
        I2cPort::write(&mut bus, 1, &[0xAA]).expect("scripted");
        for _ in 0..3 {
            I2cPort::write(&mut bus, 1, &[0xBB]).expect("scripted");
            let mut byte = [0];
            I2cPort::write_read(&mut bus, 1, &[0xCC], &mut byte).expect("scripted");
            assert_eq!(byte, [1]);
        }
        assert_eq!(left.get(), 0);
    }

    #[test]
    #[should_panic(expected = "write [AB]")]
    fn the_first_difference_fails() {
        let mut bus = ScriptedI2c::new().write(1, "AA");
        drop(I2cPort::write(&mut bus, 1, &[0xAB]));
    }
}
