//! The serial port: opened for us alone, with errors that say what to do.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::termios::{self, InputModes, OptionalActions};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_serial::{ClearBuffer, DataBits, ErrorKind, FlowControl, SerialPort as _, SerialStream, StopBits};

use crate::holders::{Holder, holders};
use crate::kernel::{self, Direction};

/// How a port is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its path, best a stable one under `/dev/serial/by-id`.
    pub port: String,
    /// Bits a second.
    pub baud: u32,
    /// 5 to 8; anything else is 8.
    pub data_bits: u8,
    /// Parity bit.
    pub parity: Parity,
    /// 1 or 2; anything else is 1.
    pub stop_bits: u8,
    /// Who switches the direction of an RS-485 line.
    pub rs485: Rs485,
}

/// Parity bit of each character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Parity {
    /// No parity bit.
    None,
    /// Even parity.
    Even,
    /// Odd parity.
    Odd,
}

/// Who switches the direction of an RS-485 line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rs485 {
    /// The port as it is: adapters with their own direction circuit (nearly all USB ones), and UARTs that
    /// the device tree has set up.
    #[default]
    Auto,
    /// Nobody: the kernel's RS-485 mode is switched off where there is one.
    Off,
    /// The kernel's driver raises RTS while it sends.
    Rts,
}

/// An open port. Closing it throws away what was not sent: the kernel would hold the thread for up
/// to 30 s, waiting for a dead line to take it.
#[derive(Debug)]
pub struct Port(SerialStream);

/// Opens a port for us alone.
///
/// # Errors
/// Why not, in words a person can act on: not there, no permission, open in which program, no RS-485.
pub async fn open(settings: &Settings) -> io::Result<Port> {
    let settings = settings.clone();
    // A USB adapter answers several control transfers here, and a broken one none: on a thread where
    // waiting harms nobody else. The descriptor is registered with the runtime of the caller.
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let _inside = runtime.enter();
        open_here(&settings)
    })
    .await
    .map_err(io::Error::other)?
}

fn open_here(settings: &Settings) -> io::Result<Port> {
    let path = settings.port.as_str();
    let builder = tokio_serial::new(path, settings.baud)
        .parity(match settings.parity {
            Parity::None => tokio_serial::Parity::None,
            Parity::Even => tokio_serial::Parity::Even,
            Parity::Odd => tokio_serial::Parity::Odd,
        })
        .stop_bits(if settings.stop_bits == 2 { StopBits::Two } else { StopBits::One })
        .data_bits(match settings.data_bits {
            5 => DataBits::Five,
            6 => DataBits::Six,
            7 => DataBits::Seven,
            _ => DataBits::Eight,
        })
        .flow_control(FlowControl::None)
        .exclusive(true);
    let port = Port(SerialStream::open(&builder).map_err(|error| in_words(path, &error))?);
    mark_damage(&port)?;
    match settings.rs485 {
        Rs485::Auto => {}
        // A driver without the mode has it off already.
        Rs485::Off => drop(kernel::set_direction(descriptor(&port.0), Direction::NONE)),
        Rs485::Rts => kernel::set_direction(descriptor(&port.0), Direction::RTS).map_err(|error| {
            let advice = "the port's driver cannot switch RTS; take an adapter that switches by itself, and rs485 = \"auto\"";
            io::Error::new(error.kind(), format!("cannot open {path}: {advice} ({error})"))
        })?,
    }
    if kernel::low_latency(descriptor(&port.0)).is_err()
        && let Some(ms) = latency_timer(Path::new(path)).filter(|ms| *ms > 1)
    {
        tracing::info!(
            "{path}: the adapter holds bytes back for up to {ms} ms, and each exchange takes that much longer; \
             write 1 into its latency_timer (a udev rule keeps it)"
        );
    }
    // What came in before the settings were right is not text of ours.
    let _ = port.0.clear(ClearBuffer::All);
    Ok(port)
}

/// The milliseconds that an FTDI adapter waits for more before it hands bytes on.
fn latency_timer(path: &Path) -> Option<u32> {
    let name = path.canonicalize().ok()?;
    let file = Path::new("/sys/class/tty").join(name.file_name()?).join("device/latency_timer");
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Has the kernel hand on a character with a parity or framing error, and a break, as NUL. Otherwise
/// it takes damaged characters out without a word: `12?4` would become `124`, and a frame of nine bytes
/// one of eight that is waited for until the timeout.
fn mark_damage(port: &Port) -> io::Result<()> {
    let mut modes = termios::tcgetattr(descriptor(&port.0))?;
    modes.input_modes.insert(InputModes::INPCK);
    modes
        .input_modes
        .remove(InputModes::IGNPAR | InputModes::PARMRK | InputModes::IGNBRK | InputModes::BRKINT);
    Ok(termios::tcsetattr(descriptor(&port.0), OptionalActions::Now, &modes)?)
}

fn descriptor(port: &SerialStream) -> BorrowedFd<'_> {
    // SAFETY: `port` owns this open descriptor, and the borrow cannot outlive `port`.
    unsafe { BorrowedFd::borrow_raw(port.as_raw_fd()) }
}

/// The failed opening of `port` as a sentence with a cure.
fn in_words(port: &str, error: &tokio_serial::Error) -> io::Error {
    let (kind, why) = match error.kind() {
        ErrorKind::Io(kind @ io::ErrorKind::PermissionDenied) => {
            (kind, "permission denied; add the user to group dialout and log in again".to_owned())
        }
        ErrorKind::Io(kind @ io::ErrorKind::NotFound) => (
            kind,
            "there is no such port: is it plugged in? `fieldgate ports` lists what is there".to_owned(),
        ),
        // EBUSY, or somebody's lock on the file.
        ErrorKind::NoDevice | ErrorKind::Io(io::ErrorKind::WouldBlock) => {
            (io::ErrorKind::ResourceBusy, taken(port, &holders(Path::new(port))))
        }
        ErrorKind::Io(kind) => (kind, error.to_string()),
        ErrorKind::InvalidInput | ErrorKind::Unknown => {
            (io::ErrorKind::Other, format!("{error}; is it a serial port, and plugged in?"))
        }
    };
    io::Error::new(kind, format!("cannot open {port}: {why}"))
}

fn taken(port: &str, by: &[Holder]) -> String {
    let names: Vec<String> = by.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        format!("another program has it open; `sudo fuser -v {port}` names it")
    } else {
        format!("{} has it open; end that program, or give it another port", names.join(" and "))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Fails where the adapter is gone, and then there is nothing to throw away.
        let _ = self.0.clear(ClearBuffer::All);
    }
}

impl AsyncRead for Port {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Port {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Bytes are on their way as soon as they are written; `tcdrain` would block the thread.
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(port: &str) -> Settings {
        Settings {
            port: port.to_owned(),
            baud: 9600,
            data_bits: 8,
            parity: Parity::None,
            stop_bits: 1,
            rs485: Rs485::Auto,
        }
    }

    fn terminal() -> (SerialStream, String) {
        let (master, slave) = SerialStream::pair().expect("a pseudo-terminal");
        let name = slave.name().expect("it has a path");
        (master, name)
    }

    #[tokio::test]
    async fn damaged_characters_are_marked_whatever_the_parity() {
        for parity in [Parity::None, Parity::Even] {
            let (_master, name) = terminal();
            let port = open(&Settings { parity, ..settings(&name) }).await.expect("it opens");
            let modes = termios::tcgetattr(descriptor(&port.0)).expect("a terminal").input_modes;
            assert!(modes.contains(InputModes::INPCK), "{parity:?}: {modes:?}");
            assert!(!modes.intersects(InputModes::IGNPAR | InputModes::PARMRK), "{parity:?}: {modes:?}");
        }
    }

    #[tokio::test]
    async fn a_port_that_is_not_there_is_said_in_words() {
        let error = open(&settings("/dev/no-such-port")).await.expect_err("not there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("is it plugged in?"), "{error}");
        let error = open(&settings("/dev/null")).await.expect_err("no serial port");
        assert!(error.to_string().starts_with("cannot open /dev/null: "), "{error}");
    }

    #[tokio::test]
    async fn a_port_that_a_program_has_locked_names_it() {
        let (_master, name) = terminal();
        let mut locker = std::process::Command::new("flock")
            .args(["--exclusive", &name, "sleep", "60"])
            .spawn()
            .expect("flock is in util-linux");
        let refused = async {
            loop {
                match open(&settings(&name)).await {
                    // Not locked yet.
                    Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                    Err(error) => return error,
                }
            }
        };
        let error = tokio::time::timeout(std::time::Duration::from_secs(20), refused).await;
        locker.kill().expect("it runs");
        locker.wait().expect("it ended");
        let error = error.expect("it is refused");
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
        assert!(error.to_string().contains(&format!("flock (pid {})", locker.id())), "{error}");
    }

    #[tokio::test]
    async fn rs485_by_rts_is_refused_where_the_driver_cannot_and_off_is_not() {
        let (_master, name) = terminal();
        let error = open(&Settings { rs485: Rs485::Rts, ..settings(&name) }).await.expect_err("no RTS");
        assert!(error.to_string().contains("rs485 = \"auto\""), "{error}");
        open(&Settings { rs485: Rs485::Off, ..settings(&name) }).await.expect("nothing to switch off");
    }

    #[test]
    fn who_cannot_be_seen_is_not_guessed() {
        assert!(taken("/dev/ttyUSB0", &[]).contains("sudo fuser -v /dev/ttyUSB0"));
        let two = [("minicom", 7), ("ModemManager", 9)].map(|(n, pid)| Holder { pid, name: n.to_owned() });
        assert!(taken("x", &two).starts_with("minicom (pid 7) and ModemManager (pid 9) has it open"));
    }
}
