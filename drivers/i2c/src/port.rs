//! The seam between chips and wires, and what a failed exchange means.

use std::io;

use driver_api::{FrameError, ReadError};

/// An I²C master. Its calls block until the exchange is over. Addresses are 7 bits without the
/// read/write bit, as people write them (`0x76`).
///
/// Errors carry the kernel's number where there is one; [`sort`] gives it its meaning.
pub trait I2cPort: Send {
    /// START, address, bytes, STOP.
    ///
    /// # Errors
    /// Not acknowledged, or the bus failed.
    fn write(&mut self, address: u8, bytes: &[u8]) -> io::Result<()>;

    /// START, address, as many bytes as `into` holds, STOP.
    ///
    /// # Errors
    /// As `write`.
    fn read(&mut self, address: u8, into: &mut [u8]) -> io::Result<()>;

    /// A write and a read with a repeated START between: nobody else gets in.
    ///
    /// # Errors
    /// As `write`.
    fn write_read(&mut self, address: u8, bytes: &[u8], into: &mut [u8]) -> io::Result<()>;
}

/// What the bus task does about a failed exchange. The numbers and their meaning are those of the
/// kernel's `Documentation/i2c/fault-codes.rst`.
#[must_use]
pub fn sort(address: u8, error: io::Error) -> ReadError {
    let transient = |text: String| ReadError::Transient(FrameError::Protocol(text));
    match error.raw_os_error() {
        Some(libc::ENXIO | libc::EREMOTEIO) => transient(format!("no acknowledge from {address:#04x}")),
        Some(libc::ENODEV | libc::ENOENT | libc::EBADF | libc::ENOTTY | libc::EACCES | libc::EPERM) => {
            ReadError::Bus(error)
        }
        Some(libc::EBUSY) => transient(format!(
            "{address:#04x} belongs to a kernel driver: read it through sysfs, or unbind that driver"
        )),
        // Timeout (a line held low), lost arbitration, an adapter's own trouble: the chip or the wires.
        Some(_) => transient(format!("exchange with {address:#04x} failed: {error}")),
        // Not from a system call, so not from a chip.
        None => ReadError::Bus(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driver_api::Reason;

    #[test]
    fn a_missing_chip_is_its_own_trouble_and_a_missing_bus_everybodys() {
        let sorted = |code| sort(0x76, io::Error::from_raw_os_error(code));
        for code in [libc::ENXIO, libc::EREMOTEIO] {
            assert_eq!(sorted(code).to_string(), "no valid answer: no acknowledge from 0x76");
            assert_eq!(sorted(code).reason(), Reason::Protocol);
        }
        for code in [libc::ENODEV, libc::ENOENT, libc::EBADF] {
            assert!(matches!(sorted(code), ReadError::Bus(_)), "{code}");
        }
        for code in [libc::ETIMEDOUT, libc::EIO, libc::EAGAIN, libc::EBUSY, libc::EPROTO] {
            assert!(matches!(sorted(code), ReadError::Transient(_)), "{code}");
        }
        assert!(matches!(sort(0x76, io::Error::other("no system call")), ReadError::Bus(_)));
    }
}
