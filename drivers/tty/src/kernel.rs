//! What the kernel offers of a serial port beyond termios: short buffering, and the direction of RS-485.
//!
//! The layouts are those of `linux/serial.h`. A driver that has no such thing answers ENOTTY or EINVAL,
//! which is normal: pseudo-terminals and most adapters with their own direction circuit do.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct serial_struct` of `linux/serial.h`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Serial {
    kind: libc::c_int,
    line: libc::c_int,
    port: libc::c_uint,
    irq: libc::c_int,
    flags: libc::c_int,
    xmit_fifo_size: libc::c_int,
    custom_divisor: libc::c_int,
    baud_base: libc::c_int,
    close_delay: libc::c_ushort,
    io_type: libc::c_char,
    reserved: libc::c_char,
    hub6: libc::c_int,
    closing_wait: libc::c_ushort,
    closing_wait2: libc::c_ushort,
    iomem_base: *mut libc::c_uchar,
    iomem_reg_shift: libc::c_ushort,
    port_high: libc::c_uint,
    iomap_base: libc::c_ulong,
}

/// `ASYNC_LOW_LATENCY` of `linux/tty_flags.h`; a user without rights may set it.
const LOW_LATENCY: libc::c_int = 1 << 13;

/// `struct serial_rs485` of `linux/serial.h`; the last words are padding or, in newer kernels, addresses.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Direction {
    flags: u32,
    delay_before_send_ms: u32,
    delay_after_send_ms: u32,
    rest: [u32; 5],
}

const RS485_ENABLED: u32 = 1;
const RS485_RTS_ON_SEND: u32 = 1 << 1;

impl Direction {
    /// The driver raises RTS while it sends, and lowers it behind the last bit.
    pub const RTS: Self = Self {
        flags: RS485_ENABLED | RS485_RTS_ON_SEND,
        delay_before_send_ms: 0,
        delay_after_send_ms: 0,
        rest: [0; 5],
    };
    /// The driver leaves RTS alone.
    pub const NONE: Self = Self { flags: 0, delay_before_send_ms: 0, delay_after_send_ms: 0, rest: [0; 5] };
}

/// Has the driver hand on bytes as soon as it can.
///
/// # Errors
/// The port's driver cannot.
pub fn low_latency(port: BorrowedFd<'_>) -> io::Result<()> {
    let mut serial = std::mem::MaybeUninit::<Serial>::zeroed();
    // SAFETY: TIOCGSERIAL writes one `struct serial_struct`, whose layout `Serial` has; the descriptor is open
    // for the length of the borrow. All zeroes are a valid `Serial`, so it is initialised either way.
    let mut serial = unsafe {
        if libc::ioctl(port.as_raw_fd(), libc::TIOCGSERIAL, serial.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        serial.assume_init()
    };
    if serial.flags & LOW_LATENCY != 0 {
        return Ok(());
    }
    serial.flags |= LOW_LATENCY;
    // SAFETY: TIOCSSERIAL reads one `struct serial_struct`; this one came from the kernel a moment ago.
    if unsafe { libc::ioctl(port.as_raw_fd(), libc::TIOCSSERIAL, &raw const serial) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sets who switches the direction of the line.
///
/// # Errors
/// The port's driver cannot (ENOTTY, EINVAL), or took other settings than were asked for.
pub fn set_direction(port: BorrowedFd<'_>, wanted: Direction) -> io::Result<()> {
    let mut direction = wanted;
    // SAFETY: TIOCSRS485 reads and writes one `struct serial_rs485`, whose layout `Direction` has; the
    // descriptor is open for the length of the borrow.
    if unsafe { libc::ioctl(port.as_raw_fd(), libc::TIOCSRS485, &raw mut direction) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The kernel writes back what the hardware can do.
    if (direction.flags ^ wanted.flags) & (RS485_ENABLED | RS485_RTS_ON_SEND) != 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_layouts_are_the_kernels() {
        // linux/serial.h on 64-bit machines, and on 32-bit ones with their shorter pointers.
        let words = size_of::<usize>() / 4 - 1;
        assert_eq!(size_of::<Serial>(), 60 + 12 * words);
        assert_eq!(std::mem::offset_of!(Serial, flags), 16);
        assert_eq!(size_of::<Direction>(), 32);
    }

    #[test]
    fn a_port_without_such_things_says_so_and_nothing_else_happens() {
        let terminal = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).expect("a pseudo-terminal");
        let code = |result: io::Result<()>| result.expect_err("it has none").raw_os_error();
        for found in [
            code(low_latency(terminal.as_fd())),
            code(set_direction(terminal.as_fd(), Direction::RTS)),
            code(set_direction(terminal.as_fd(), Direction::NONE)),
        ] {
            assert!(matches!(found, Some(libc::ENOTTY | libc::EINVAL)), "{found:?}");
        }
    }
}
