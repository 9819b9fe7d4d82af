//! The database as a copy, while it is written to.
//!
//! In WAL mode SQLite writes into the database file in a checkpoint and at no other time, and only the store's
//! thread makes one. So: everything is committed and the WAL written back; from then on the file itself is the copy, whole
//! and synced, and stays as it is while it is read piece by piece between commits, which only make the WAL
//! longer. There is no second copy on the card, and no commit waits longer than for one piece.
//!
//! Promises: a copy is of one moment, or it fails; it can never hold pages of two. [`Log::checkpoint`] takes the
//! copy away from whoever reads it *before* it writes: when the WAL has become too long ([`bounds::STORE_COPY_WAL`]),
//! after a fault of the disk, at the end. A reader that is gone holds nothing: the hold is its token.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Store;
use super::drain::DrainError;
use super::log::Log;
use super::quota::Limits;
use super::recovery::Line;
use super::room::free_disk;
use super::trouble::Trouble;
use super::writer::{Job, Writer};
use crate::bounds;
use crate::message::Epoch;

/// What a copy is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Length of the database, bytes.
    pub bytes: u64,
    /// The epoch that wrote it.
    pub epoch: String,
    /// One past the highest number in it.
    pub next_seq: u64,
    /// Readings in it.
    pub readings: u64,
    /// The epoch had ended in order.
    pub clean: bool,
}

impl Copied {
    pub(super) fn of(line: &Line, bytes: u64) -> Self {
        Self {
            bytes,
            epoch: Epoch { start: line.epoch[0], random: line.epoch[1] }.to_string(),
            next_seq: line.next,
            readings: line.present.len(),
            clean: line.clean,
        }
    }
}

/// A question about a copy.
#[derive(Debug)]
pub enum Ask {
    /// Begin one; it is held as long as the token lives.
    Begin(Arc<()>, oneshot::Sender<Result<Copied, DrainError>>),
    /// The bytes from this place on, at most [`bounds::STORE_PIECE`].
    Piece(Arc<()>, u64, oneshot::Sender<Result<Vec<u8>, DrainError>>),
}

/// The log's side of it: who holds the file as it is.
///
/// The file stays open as long as the connection does: closing any descriptor of it gives up the
/// locks that SQLite has on it (fcntl(2)).
#[derive(Debug, Default)]
pub struct Copying {
    file: Option<File>,
    held: Weak<()>,
    bytes: u64,
}

impl Copying {
    /// The file is about to change.
    pub fn let_go(&mut self) {
        self.held = Weak::new();
    }

    fn is_held(&self) -> bool {
        self.held.strong_count() > 0
    }

    /// Holds the file as it is now; the WAL is empty.
    pub(super) fn begin(&mut self, path: &Path, token: &Arc<()>) -> Result<u64, Trouble> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(path)?),
        };
        self.bytes = file.metadata()?.len();
        self.held = Arc::downgrade(token);
        Ok(self.bytes)
    }

    /// The bytes from `at` on, as they were when it began.
    pub(super) fn piece(&self, token: &Arc<()>, at: u64) -> Result<Vec<u8>, String> {
        let file = self.file.as_ref().filter(|_| Weak::ptr_eq(&self.held, &Arc::downgrade(token)));
        let Some(file) = file else {
            return Err(
                "the queue could not be held still for so long, or the daemon stopped, or another backup \
                        began: try again, write to a faster disk, or stop the daemon first"
                    .into(),
            );
        };
        let rest = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; rest.min(bounds::STORE_PIECE)];
        file.read_exact_at(&mut bytes, at).map_err(|e| e.to_string())?;
        Ok(bytes)
    }
}

/// A copy that is being read. Dropping it ends it.
#[derive(Debug)]
pub struct Copy {
    store: Store,
    token: Arc<()>,
    pub(super) at: u64,
    /// What it is of.
    pub of: Copied,
}

impl Store {
    /// Begins a copy of the database as of now, with everything that was taken before. One at a time: a second one
    /// takes the file from the first.
    ///
    /// # Errors
    /// The disk is out of order.
    pub async fn copy(&self) -> Result<Copy, DrainError> {
        self.flush().await?;
        let token = Arc::new(());
        let (reply, answer) = oneshot::channel();
        let of = self.inner.ask(Job::Copy(Ask::Begin(Arc::clone(&token), reply)), answer).await??;
        Ok(Copy { store: self.clone(), token, at: 0, of })
    }
}

impl Copy {
    /// The next bytes; none after the last.
    ///
    /// # Errors
    /// It could not be held any longer, or not be read.
    pub async fn next(&mut self) -> Result<Vec<u8>, DrainError> {
        if self.at >= self.of.bytes {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Piece(Arc::clone(&self.token), self.at, reply);
        let bytes = self.store.inner.ask(Job::Copy(ask), answer).await??;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }
}

impl Writer {
    /// Answers a question about a copy.
    pub(super) fn copy(&mut self, ask: Ask) {
        match ask {
            Ask::Begin(token, reply) => {
                let begun = self.answer(|writer| {
                    let line = writer.line.clone();
                    let Some(log) = &mut writer.log else {
                        return Err(Trouble::Disk("no database".into()));
                    };
                    log.begin_copy(&line, &token)
                });
                let _ = reply.send(begun);
            }
            Ask::Piece(token, at, reply) => {
                let gone = || Err("the disk is out of order".to_owned());
                let piece = self.log.as_ref().map_or_else(gone, |log| log.copy.piece(&token, at));
                let _ = reply.send(piece.map_err(DrainError));
            }
        }
    }

    /// Bytes the WAL may have now: more while a copy is read, if the disk has them.
    pub(super) fn wal_limit(&self, limits: &Limits) -> u64 {
        let held = self.log.as_ref().is_some_and(|log| log.copy.is_held());
        let roomy = || free_disk(&self.shared.dir).is_none_or(|free| free > limits.min_free);
        if held && roomy() { limits.wal() * bounds::STORE_COPY_WAL } else { self.ballast.wal(limits) }
    }
}

impl Log {
    /// Writes the WAL back and holds the file.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) fn begin_copy(&mut self, line: &Line, token: &Arc<()>) -> Result<Copied, Trouble> {
        self.settle()?;
        let bytes = self.copy.begin(&self.path, token)?;
        Ok(Copied::of(line, bytes))
    }
}
