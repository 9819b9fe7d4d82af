//! The kernel's I²C buses, through the crate `i2cdev`.
//!
//! Exchanges are combined transactions (`I2C_RDWR`). An adapter that cannot do them (a PC's SMBus
//! controller, the kernel's `i2c-stub`) is given the SMBus commands that put the same bytes on the
//! wire. A chip that a kernel driver owns is refused (`EBUSY`), not disturbed.

use std::io;

use i2cdev::core::{I2CDevice, I2CMessage, I2CTransfer};
use i2cdev::linux::{LinuxI2CDevice, LinuxI2CError, LinuxI2CMessage};

use crate::I2cPort;

/// An address that no chip has: it is reserved for other bus formats (UM10204, table 4).
const NOBODY: u8 = 0x03;

/// Opens the bus at `path`.
///
/// # Errors
/// Why not, in words a person can act on.
pub fn open(path: &str) -> io::Result<Box<dyn I2cPort>> {
    let device = LinuxI2CDevice::new(path, NOBODY.into()).map_err(|e| in_words(path, e.into()))?;
    Ok(Box::new(KernelPort { device, address: NOBODY, smbus_only: false }))
}

fn in_words(path: &str, error: io::Error) -> io::Error {
    let cure = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => "permission denied: add the user to group i2c",
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => {
            "no such bus: enable I²C (raspi-config, or dtparam=i2c_arm=on); `fieldgate ports` lists what is there"
        }
        Some(libc::ENOTTY | libc::EINVAL) => "this file is not an I²C bus",
        _ => return io::Error::new(error.kind(), format!("cannot open {path}: {error}")),
    };
    io::Error::new(error.kind(), format!("cannot open {path}: {cure}"))
}

struct KernelPort {
    device: LinuxI2CDevice,
    address: u8,
    smbus_only: bool,
}

impl KernelPort {
    /// Turns to the chip at `address`. Nothing goes over the wire; refused if a kernel driver owns it.
    fn turn_to(&mut self, address: u8) -> io::Result<()> {
        if self.address != address {
            self.address = NOBODY;
            self.device.set_slave_address(address.into())?;
            self.address = address;
        }
        Ok(())
    }

    fn transfer(&mut self, messages: &mut [LinuxI2CMessage<'_>]) -> io::Result<()> {
        let wanted = messages.len();
        let done = self.device.transfer(messages)?;
        if done as usize == wanted { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
    }

    /// `plain` as a combined transaction, or, if the adapter has none, `smbus`.
    fn either(
        &mut self,
        plain: impl FnOnce(&mut Self) -> io::Result<()>,
        smbus: impl FnOnce(&mut LinuxI2CDevice) -> Result<(), LinuxI2CError>,
    ) -> io::Result<()> {
        if !self.smbus_only {
            match plain(self) {
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => self.smbus_only = true,
                result => return result,
            }
        }
        Ok(smbus(&mut self.device)?)
    }
}

impl I2cPort for KernelPort {
    fn write(&mut self, address: u8, bytes: &[u8]) -> io::Result<()> {
        self.turn_to(address)?;
        self.either(
            |port| port.transfer(&mut [LinuxI2CMessage::write(bytes)]),
            |device| smbus_write(device, bytes),
        )
    }

    fn read(&mut self, address: u8, into: &mut [u8]) -> io::Result<()> {
        self.turn_to(address)?;
        let mut raw = vec![0; into.len()];
        self.either(
            |port| port.transfer(&mut [LinuxI2CMessage::read(into)]),
            |device| smbus_read(device, &mut raw),
        )?;
        if self.smbus_only {
            into.copy_from_slice(&raw);
        }
        Ok(())
    }

    fn write_read(&mut self, address: u8, bytes: &[u8], into: &mut [u8]) -> io::Result<()> {
        self.turn_to(address)?;
        let mut raw = vec![0; into.len()];
        self.either(
            |port| port.transfer(&mut [LinuxI2CMessage::write(bytes), LinuxI2CMessage::read(into)]),
            |device| smbus_write_read(device, bytes, &mut raw),
        )?;
        if self.smbus_only {
            into.copy_from_slice(&raw);
        }
        Ok(())
    }
}

/// The SMBus command that puts exactly `bytes` on the wire.
fn smbus_write<D: I2CDevice<Error = LinuxI2CError>>(
    device: &mut D,
    bytes: &[u8],
) -> Result<(), LinuxI2CError> {
    match *bytes {
        [command] => device.smbus_write_byte(command),
        [command, byte] => device.smbus_write_byte_data(command, byte),
        [command, low, high] => device.smbus_write_word_data(command, u16::from_le_bytes([low, high])),
        [command, ref block @ ..] if block.len() <= 32 => device.smbus_write_i2c_block_data(command, block),
        _ => Err(unsupported()),
    }
}

/// The SMBus command that reads so many bytes without naming a register.
fn smbus_read<D: I2CDevice<Error = LinuxI2CError>>(
    device: &mut D,
    into: &mut [u8],
) -> Result<(), LinuxI2CError> {
    match into {
        [byte] => {
            *byte = device.smbus_read_byte()?;
            Ok(())
        }
        _ => Err(unsupported()),
    }
}

/// The SMBus command that reads so many bytes from a register.
fn smbus_write_read<D: I2CDevice<Error = LinuxI2CError>>(
    device: &mut D,
    bytes: &[u8],
    into: &mut [u8],
) -> Result<(), LinuxI2CError> {
    let [command] = *bytes else { return Err(unsupported()) };
    match into {
        [byte] => *byte = device.smbus_read_byte_data(command)?,
        // The wire's first byte is the word's low one.
        [first, second] => [*first, *second] = device.smbus_read_word_data(command)?.to_le_bytes(),
        _ => {
            let length = u8::try_from(into.len()).ok().filter(|n| *n <= 32).ok_or_else(unsupported)?;
            let block = device.smbus_read_i2c_block_data(command, length)?;
            if block.len() != into.len() {
                return Err(LinuxI2CError::Errno(libc::EIO));
            }
            into.copy_from_slice(&block);
        }
    }
    Ok(())
}

fn unsupported() -> LinuxI2CError {
    LinuxI2CError::Errno(libc::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_that_is_not_there_or_no_bus_is_said_in_words() {
        let text = |path| open(path).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(text("/dev/no-such-i2c").contains("enable I²C"), "{}", text("/dev/no-such-i2c"));
        assert!(text("/dev/null").contains("not an I²C bus"), "{}", text("/dev/null"));
    }

    /// Records which SMBus command was used.
    #[derive(Default)]
    struct Commands(Vec<String>);

    impl I2CDevice for Commands {
        type Error = LinuxI2CError;
        fn read(&mut self, data: &mut [u8]) -> Result<(), LinuxI2CError> {
            data.fill(0xAA);
            self.0.push(format!("read {}", data.len()));
            Ok(())
        }
        fn write(&mut self, data: &[u8]) -> Result<(), LinuxI2CError> {
            self.0.push(format!("write {data:02X?}"));
            Ok(())
        }
        fn smbus_write_quick(&mut self, _: bool) -> Result<(), LinuxI2CError> {
            Err(unsupported())
        }
        fn smbus_write_byte_data(&mut self, register: u8, value: u8) -> Result<(), LinuxI2CError> {
            self.0.push(format!("byte {register:02X} {value:02X}"));
            Ok(())
        }
        fn smbus_write_word_data(&mut self, register: u8, value: u16) -> Result<(), LinuxI2CError> {
            self.0.push(format!("word {register:02X} {value:04X}"));
            Ok(())
        }
        fn smbus_read_byte_data(&mut self, _: u8) -> Result<u8, LinuxI2CError> {
            Ok(0x60)
        }
        fn smbus_read_word_data(&mut self, _: u8) -> Result<u16, LinuxI2CError> {
            Ok(0x0019)
        }
        fn smbus_read_block_data(&mut self, _: u8) -> Result<Vec<u8>, LinuxI2CError> {
            Err(unsupported())
        }
        fn smbus_read_i2c_block_data(&mut self, _: u8, len: u8) -> Result<Vec<u8>, LinuxI2CError> {
            Ok((0..len.min(8)).collect())
        }
        fn smbus_write_block_data(&mut self, _: u8, _: &[u8]) -> Result<(), LinuxI2CError> {
            Err(unsupported())
        }
        fn smbus_write_i2c_block_data(&mut self, register: u8, values: &[u8]) -> Result<(), LinuxI2CError> {
            self.0.push(format!("block {register:02X} {values:02X?}"));
            Ok(())
        }
        fn smbus_process_block(&mut self, _: u8, _: &[u8]) -> Result<Vec<u8>, LinuxI2CError> {
            Err(unsupported())
        }
    }

    #[test]
    fn smbus_commands_put_the_same_bytes_on_the_wire() {
        let mut device = Commands::default();
        for bytes in [&[0xF4, 0x25][..], &[0x01, 0x60, 0xE0], &[0x10, 1, 2, 3]] {
            smbus_write(&mut device, bytes).expect("there is a command for it");
        }
        assert_eq!(device.0, ["byte F4 25", "word 01 E060", "block 10 [01, 02, 03]"]);
        let mut two = [0; 2];
        smbus_write_read(&mut device, &[0], &mut two).expect("a word");
        assert_eq!(two, [0x19, 0x00]);
        let mut eight = [0; 8];
        smbus_write_read(&mut device, &[0xF7], &mut eight).expect("a block");
        assert_eq!(eight, [0, 1, 2, 3, 4, 5, 6, 7]);
        // A block that came back short, one that is too long, and a read SMBus has no command for.
        assert!(smbus_write_read(&mut device, &[0xF7], &mut [0; 9]).is_err());
        assert!(smbus_write_read(&mut device, &[0xF7], &mut [0; 33]).is_err());
        assert!(smbus_read(&mut device, &mut two).is_err());
        assert!(smbus_write(&mut device, &[0; 34]).is_err());
    }
}
