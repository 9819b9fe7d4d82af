//! A device's task that ends with its handle.

use std::io;

use tokio::task::JoinHandle;

/// A running task; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Task(JoinHandle<io::Result<()>>);

impl Task {
    /// Starts a task.
    ///
    /// # Errors
    /// If there is no tokio runtime to run it.
    pub(crate) fn spawn(work: impl Future<Output = io::Result<()>> + Send + 'static) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        Ok(Self(runtime.spawn(work)))
    }

    /// Whether it still runs; a device's task ends by itself only after an error.
    pub(crate) fn is_running(&self) -> bool {
        !self.0.is_finished()
    }

    /// Ends it and waits until all it owned is closed.
    ///
    /// # Errors
    /// What had ended it before.
    pub(crate) async fn end(mut self) -> io::Result<()> {
        self.0.abort();
        match (&mut self.0).await {
            Ok(result) => result,
            Err(error) if error.is_cancelled() => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
