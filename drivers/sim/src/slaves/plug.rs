//! The plug of a device on a pseudo-terminal: in, and the device works; out, and its terminal is gone.

use std::io;
use std::path::Path;

use super::pty::Place;
use super::task::Task;

/// A device's plug, out at first.
#[derive(Debug, Default)]
pub(crate) struct Plug(Option<(Task, Place)>);

impl Plug {
    /// The path to open; `None` while it is out.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.0.as_ref().map(|(_, place)| place.path())
    }

    /// Whether it is in.
    pub(crate) fn is_in(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it is in and the device works.
    pub(crate) fn is_running(&self) -> bool {
        self.0.as_ref().is_some_and(|(task, _)| task.is_running())
    }

    /// Puts it in: from now on this work answers at this place.
    ///
    /// # Errors
    /// If there is no tokio runtime to run it.
    pub(crate) fn put_in(
        &mut self,
        work: impl Future<Output = io::Result<()>> + Send + 'static,
        place: Place,
    ) -> io::Result<()> {
        self.0 = Some((Task::spawn(work)?, place));
        Ok(())
    }

    /// Pulls it: the terminal hangs up, its link is gone, an answer on its way is cut.
    ///
    /// # Errors
    /// What had ended the device before.
    pub(crate) async fn pull(&mut self) -> io::Result<()> {
        match self.0.take() {
            Some((task, place)) => {
                drop(place);
                task.end().await
            }
            None => Ok(()),
        }
    }
}
