//! The device's side of a pseudo-terminal: raw, without echo, under a path of the user's choice.
//!
//! It behaves as a serial line does. What is said while nobody listens is gone, what is said faster
//! than it is read is lost (there is no flow control), and a terminal that was closed and opened
//! again gives nothing old. Dropping it is pulling the plug: the reader's end reports a hang-up,
//! and the link is removed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, QueueSelector, tcflush, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;

use super::watch::watch;
use crate::bounds;

/// The open device side.
#[derive(Debug)]
pub(crate) struct Pty {
    master: Arc<OwnedFd>,
    /// Present while somebody has the terminal open. A hang-up stays in an `AsyncFd` for ever, so it
    /// is made anew for each of them.
    watch: Option<AsyncFd<Arc<OwnedFd>>>,
    /// Whether somebody has had it open since it was last emptied.
    used: bool,
    closings: Closings,
}

/// How often the last one who had a terminal open has closed it, and what was unread is forgotten.
pub(crate) type Closings = Arc<AtomicU64>;

/// Where a pseudo-terminal can be opened; removes its link when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    terminal: PathBuf,
    link: Option<PathBuf>,
}

/// What a look at the line gave.
pub(crate) enum Look {
    /// So many bytes were read.
    Bytes(usize),
    /// Somebody has the terminal open but says nothing.
    Quiet,
    /// Nobody has the terminal open.
    Nobody,
}

impl Pty {
    /// Opens a pseudo-terminal and, if asked to, puts a symbolic link to it at `link`, in place of a
    /// link that is there but not of anything else.
    pub(crate) fn open(link: Option<&Path>, closings: Closings) -> io::Result<(Self, Place)> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let name = ptsname(&master, Vec::new())?;
        let terminal = PathBuf::from(std::ffi::OsString::from_vec(name.into_bytes()));
        // Opened once: the settings outlive the closing, and from now on the master can tell
        // whether somebody has it open.
        let peer =
            ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let mut settings = tcgetattr(&peer)?;
        settings.make_raw();
        tcsetattr(&peer, OptionalActions::Now, &settings)?;
        drop(peer);
        if let Some(link) = link {
            if link.is_symlink() {
                std::fs::remove_file(link)?;
            }
            std::os::unix::fs::symlink(&terminal, link)?;
        }
        let place = Place { terminal, link: link.map(Path::to_owned) };
        Ok((Self { master: Arc::new(master), watch: None, used: false, closings }, place))
    }

    /// Waits for bytes, and for somebody to open the terminal if need be. Cancel safe.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.look(buffer)? {
                Look::Bytes(count) => return Ok(count),
                Look::Nobody => tokio::time::sleep(bounds::REOPEN_CHECK).await,
                Look::Quiet => {
                    let watch = match &mut self.watch {
                        Some(watch) => watch,
                        none => none.insert(watch(Arc::clone(&self.master))?),
                    };
                    let mut ready = watch.readable().await?;
                    // Cleared before the next look, so that no byte between the two goes unseen.
                    ready.clear_ready();
                }
            }
        }
    }

    /// Reads what is there now.
    pub(crate) fn look(&mut self, buffer: &mut [u8]) -> io::Result<Look> {
        match rustix::io::read(&*self.master, buffer) {
            Ok(count) if count > 0 => {
                self.used = true;
                Ok(Look::Bytes(count))
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                self.used = true;
                Ok(Look::Quiet)
            }
            Ok(_) | Err(rustix::io::Errno::IO) => {
                self.watch = None;
                if std::mem::take(&mut self.used) {
                    self.forget_unread()?;
                    self.closings.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Look::Nobody)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends what the terminal has room for; returns how much that was.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::write(&*self.master, bytes) {
            Ok(count) => Ok(count),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::IO | rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Throws away what the last reader left unread.
    fn forget_unread(&self) -> io::Result<()> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        tcflush(ioctl_tiocgptpeer(&*self.master, flags)?, QueueSelector::IFlush)?;
        Ok(())
    }
}

impl Place {
    /// The path to open: the link, or the terminal itself.
    pub(crate) fn path(&self) -> &Path {
        self.link.as_deref().unwrap_or(&self.terminal)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(link) = &self.link
            && std::fs::read_link(link).is_ok_and(|target| target == self.terminal)
        {
            // Nothing is lost if it cannot be removed: the terminal behind it is gone.
            let _ = std::fs::remove_file(link);
        }
    }
}
