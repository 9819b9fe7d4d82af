//! The write-ahead log: how long it is, and when it is written back into the database.
//!
//! Promises: no checkpoint writes into the file while somebody holds a copy of it (see `backup`): it takes the copy away
//! first.

use super::log::{Log, identify, unsigned};
use super::trouble::Trouble;

/// What the kernel writes at least, bytes.
const BLOCK: u64 = 4096;

impl Log {
    /// Bytes written since the last call, about: the kernel's blocks that hold new frames of the WAL, and pages that
    /// were written back; without what the file system writes for itself.
    /// Writes the WAL back once it has more than `limit` bytes.
    ///
    /// # Errors
    /// Those of the database.
    pub fn tend_wal(&mut self, limit: u64) -> Result<u64, Trouble> {
        let frames = self.checkpoint("NOOP")?;
        let now = frames * (self.page + 24);
        // The kernel writes whole blocks, also where the last one was written before.
        let blocks = now.div_ceil(BLOCK).saturating_sub(self.wal / BLOCK);
        let mut written = if now > self.wal { blocks * BLOCK } else { 0 };
        self.wal = now;
        if now > limit {
            // It says how many frames are done with; a page that is in many of them is written once.
            let pages: u64 = self.conn.query_row("PRAGMA page_count", [], |r| r.get(0)).map(unsigned)?;
            written += self.checkpoint("PASSIVE")?.min(pages) * self.page;
            // The next commit begins at the front of the file again.
            self.wal = 0;
            self.left = identify(&self.path).filter(|(inode, _)| self.left.is_some_and(|l| l.0 == *inode));
        }
        Ok(written)
    }

    fn checkpoint(&mut self, mode: &str) -> Result<u64, Trouble> {
        if mode != "NOOP" {
            // It writes into the file, and what was copied of it so far would not fit the rest.
            self.copy.let_go();
        }
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        Ok(self.conn.query_row(&sql, [], |r| r.get::<_, i64>(1)).map(unsigned)?)
    }

    /// Makes durable what is read here, after an end in which something may not have been: what the WAL holds may be
    /// in the page cache only, and after a failed fsync the kernel takes such pages for written. So it is copied into
    /// the database, synced there, and the WAL begins anew.
    ///
    /// # Errors
    /// Those of the database.
    pub fn settle(&mut self) -> Result<(), Trouble> {
        self.checkpoint("RESTART")?;
        self.wal = 0;
        self.left = identify(&self.path);
        Ok(())
    }

    /// Writes the WAL back and closes.
    ///
    /// # Errors
    /// Those of the database.
    pub fn close(mut self) -> Result<(), Trouble> {
        self.checkpoint("TRUNCATE")?;
        self.conn.close().map_err(|(_, e)| e.into())
    }
}
