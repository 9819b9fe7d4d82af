//! The database: all SQL of the program is here. One connection, owned by the store's thread.
//!
//! Promises: WAL with `synchronous=FULL` (with NORMAL, 11 of 12 power cuts lost acknowledged rows) and an
//! exclusive lock; one transaction per commit holds everything that belongs together; after any error the
//! connection is not used again. Small state is sealed with a CRC of its own, blocks have theirs:
//! SQLite itself does not notice a flipped bit.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

use super::backup::Copying;
use super::identity::{seal, unseal};
use super::quota::Usage;
use super::recovery::Line;
use super::schema::SCHEMA;
use super::trouble::Trouble;
use crate::message::LossRecord;

/// Bytes of a page of a new database. A commit writes pages of which it changes little: the small state's, the first
/// one, what leads to the block, and three that say which are free. With pages of 1 KiB that is a third to a half of what it
/// is with the 4 KiB that SQLite takes by itself (`cargo bench --bench store`). With 512 bytes it is a sixth less for a
/// thousand readings a commit, but a sixth more for a hundred: their block has then more than the one page that can be
/// written over. A card's own blocks are larger, so a power cut while one is written must not
/// harm the rest of it; SQLite's WAL, whose frames are not aligned, rests on that with any page size.
const NEW_PAGE: u64 = 1024;

/// A block as a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Number of its first reading.
    pub first: u64,
    /// How many readings.
    pub count: u64,
    /// Number of its boot.
    pub boot: u32,
    /// Earliest and latest boot time in it, ms.
    pub times: [u64; 2],
    /// Bytes of the packed block.
    pub bytes: u64,
}

impl Row {
    /// The numbers it says to hold.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// Everything that one commit changes.
#[derive(Debug, Default)]
pub struct Change {
    /// A block that takes the place of those in its range, and how many of its numbers are missing.
    pub thinned: Option<(Row, Vec<u8>, u64)>,
    /// What is to be put right in the table of thinned blocks: see `Thinner`.
    pub amend: BTreeMap<u64, Option<[u64; 2]>>,
    /// New blocks with their rows.
    pub blocks: Vec<(Row, Vec<u8>)>,
    /// Blocks that lie within these go.
    pub delete: Vec<Range<u64>>,
    /// Sealed state by key; `None` removes it.
    pub state: Vec<(String, Option<String>)>,
    /// Loss records by handle, new or grown.
    pub losses: Vec<(u64, LossRecord)>,
    /// Loss records that were acknowledged.
    pub losses_done: Vec<u64>,
    /// Commands by id: counter and result.
    pub commands: Vec<(String, u64, Option<String>)>,
    /// Commands with a counter below this are forgotten.
    pub commands_from: u64,
    /// Last values, packed; if they are to be written.
    pub last: Option<Vec<u8>>,
}

/// The open database.
#[derive(Debug)]
pub struct Log {
    pub(super) conn: Connection,
    pub(super) wal: u64,
    pub(super) path: PathBuf,
    /// Inode and length of the file as we left it; only a checkpoint changes the length.
    pub(super) left: Option<(u64, u64)>,
    /// Bytes of a page: a database keeps what it was made with.
    pub(super) page: u64,
    /// Who copies the file (see `backup`). After the connection, so that it is closed after it.
    pub(super) copy: Copying,
}

impl Log {
    /// Opens the database, and creates it if it is not there.
    ///
    /// # Errors
    /// Sorted by what to do next.
    pub fn open(path: &Path) -> Result<Self, Trouble> {
        let (mut log, version) = Self::connect(path)?;
        if version == 0 {
            log.create()?;
        }
        log.is_ours()?;
        if version > 0 {
            log.migrate(version)?;
        }
        log.left = identify(path);
        Ok(log)
    }

    /// Opens a database to read it: one of an earlier version stays what it is.
    ///
    /// # Errors
    /// As [`Log::open`]; there is none.
    pub fn open_to_read(path: &Path) -> Result<Self, Trouble> {
        let (log, version) = Self::connect(path)?;
        if version == 0 {
            return Err(Trouble::Damaged("it has no tables".into()));
        }
        log.is_ours()?;
        Ok(log)
    }

    fn connect(path: &Path) -> Result<(Self, i64), Trouble> {
        if path.is_dir() {
            return Err(Trouble::Damaged("it is a directory".into()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(std::time::Duration::from_millis(500))?;
        // Before anything is read: so the index of the WAL is on the heap, and never in a file beside it, which would
        // be written to the card for nothing and, mapped, kill the process where the disk fails.
        conn.execute_batch("PRAGMA locking_mode=EXCLUSIVE")?;
        let version: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
        if version > SCHEMA {
            return Err(Trouble::Newer(version));
        }
        // A file system that is read-only is none of the file's fault.
        if conn.is_readonly(rusqlite::MAIN_DB)? && forbids_writing(path) {
            return Err(Trouble::Damaged("its header says that it must not be written".into()));
        }
        if version == 0 {
            // Of a database that is there it is known, and saying it again would be a write: on a full disk none opens.
            conn.execute_batch(&format!("PRAGMA page_size={NEW_PAGE}; PRAGMA auto_vacuum=INCREMENTAL"))?;
        }
        conn.execute_batch(
            "PRAGMA journal_mode=WAL;
             PRAGMA synchronous=FULL;
             PRAGMA wal_autocheckpoint=0;
             PRAGMA cache_size=-1024;
             PRAGMA temp_store=MEMORY;
             PRAGMA cell_size_check=ON;
             PRAGMA trusted_schema=OFF;",
        )?;
        // A kept statement stays as it was planned, whatever numbers it is given.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // What the last commits left in the WAL stays there when we stop without closing.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let page = conn.query_row("PRAGMA page_size", [], |r| r.get(0)).map(unsigned)?;
        let copy = Copying::default();
        Ok((Self { conn, wal: 0, path: path.to_owned(), left: None, page, copy }, version))
    }

    /// Whether the file under the database's name is still the one that is open. (SQLite goes on writing into
    /// a deleted or emptied one without a word.)
    #[must_use]
    pub fn in_place(&self) -> bool {
        match (self.left, identify(&self.path)) {
            (Some((inode, len)), Some((now, grown))) => inode == now && len <= grown,
            _ => false,
        }
    }

    /// Bytes of a packed block up to which its row is within one page, so that replacing it writes no more than
    /// adding to it would. (fileformat2 section 1.6: a cell of up to page - 35 bytes is; the row's other columns and
    /// the heads of cell and record take at most 46.)
    #[must_use]
    pub fn page_room(&self) -> usize {
        usize::try_from(self.page).unwrap_or(usize::MAX).saturating_sub(35 + 46)
    }

    /// What the WAL file occupies, bytes: room may be reserved behind its end.
    #[must_use]
    pub fn wal_bytes(&self) -> u64 {
        let mut wal = self.path.clone().into_os_string();
        wal.push("-wal");
        std::fs::metadata(wal).map_or(0, |m| m.len().max(m.blocks().saturating_mul(512)))
    }

    /// Sealed state of a key. Damaged state is as good as none, and said.
    ///
    /// # Errors
    /// Those of the database.
    pub fn state<T: for<'de> serde::Deserialize<'de>>(&self, key: &str) -> Result<Option<T>, Trouble> {
        let text: Option<String> =
            self.conn.query_row("SELECT value FROM state WHERE key=?1", [key], |r| r.get(0)).optional()?;
        let value = text.as_deref().map(unseal);
        if matches!(value, Some(None)) {
            tracing::error!(key, "stored state is damaged; it is made anew");
        }
        Ok(value.flatten())
    }

    /// Keys of state that begin with `prefix`, without it.
    ///
    /// # Errors
    /// Those of the database.
    pub fn keys(&self, prefix: &str) -> Result<Vec<String>, Trouble> {
        let mut statement = self.conn.prepare("SELECT key FROM state WHERE substr(key,1,?1)=?2")?;
        let keys = statement
            .query_map(params![prefix.chars().count() as i64, prefix], |r| r.get::<_, String>(0))?
            .collect::<Result<Vec<_>, _>>()?;
        Ok(keys.iter().filter_map(|k| k.strip_prefix(prefix).map(str::to_owned)).collect())
    }

    /// The numbers for which there are rows, counted one by one: only for when the line's state is damaged.
    ///
    /// # Errors
    /// Those of the database.
    pub fn scan(&self) -> Result<Vec<Range<u64>>, Trouble> {
        let mut statement = self.conn.prepare("SELECT first,count FROM block ORDER BY first")?;
        let rows = statement
            .query_map([], |r| Ok((unsigned(r.get(0)?), unsigned(r.get(1)?))))?
            .collect::<Result<Vec<(u64, u64)>, _>>()?;
        Ok(rows.into_iter().map(|(first, n)| first..first.saturating_add(n)).collect())
    }

    /// Writes everything of `change`, or nothing. After an error the outcome is unknown: see `Line::commit`.
    ///
    /// # Errors
    /// Those of the database.
    pub fn commit(&mut self, line: &Line, change: &Change) -> Result<(), Trouble> {
        let tx = self.conn.transaction()?;
        for (first, entry) in &change.amend {
            run(&tx, "DELETE FROM thin WHERE first=?1", [signed(*first)])?;
            if let Some([count, gone]) = entry {
                put_thin(&tx, [*first, *count, *gone])?;
            }
        }
        if let Some((row, data, gone)) = &change.thinned {
            delete_blocks(&tx, &row.range())?;
            put_block(&tx, row, data)?;
            put_thin(&tx, [row.first, row.count, *gone])?;
        }
        for (row, data) in &change.blocks {
            put_block(&tx, row, data)?;
        }
        for range in &change.delete {
            delete_blocks(&tx, range)?;
        }
        put_state(&tx, "line", Some(&seal(line)?))?;
        for (key, value) in &change.state {
            put_state(&tx, key, value.as_deref())?;
        }
        for (handle, record) in &change.losses {
            run(
                &tx,
                "INSERT OR REPLACE INTO loss(handle,uplink,body) VALUES(?1,?2,?3)",
                params![signed(*handle), record.uplink, seal(record)?],
            )?;
        }
        for handle in &change.losses_done {
            run(&tx, "DELETE FROM loss WHERE handle=?1", [signed(*handle)])?;
        }
        for (id, n, result) in &change.commands {
            run(
                &tx,
                "INSERT OR REPLACE INTO command(id,n,result) VALUES(?1,?2,?3)",
                params![id, signed(*n), result],
            )?;
        }
        if !change.commands.is_empty() {
            run(&tx, "DELETE FROM command WHERE n<?1", [signed(change.commands_from)])?;
        }
        if let Some(last) = &change.last {
            run(&tx, "INSERT OR REPLACE INTO last(id,data) VALUES(1,?1)", [last])?;
        }
        tx.commit()?;
        Ok(())
    }

    /// Rows, without their data, that overlap `range`; at most `most`, ascending.
    ///
    /// # Errors
    /// Those of the database.
    pub fn rows(&self, range: Range<u64>, most: usize) -> Result<Vec<Row>, Trouble> {
        let mut statement = self.conn.prepare_cached(
            "SELECT first,count,boot,t_min,t_max,length(data) FROM block
             WHERE first>=coalesce((SELECT max(first) FROM block WHERE first<=?1),0) AND first<?2
             ORDER BY first LIMIT ?3",
        )?;
        let rows = statement
            .query_map(params![signed(range.start), signed(range.end), most as i64], |r| {
                Ok(Row {
                    first: unsigned(r.get(0)?),
                    count: unsigned(r.get(1)?),
                    boot: r.get(2)?,
                    times: [unsigned(r.get(3)?), unsigned(r.get(4)?)],
                    bytes: unsigned(r.get(5)?),
                })
            })?
            .collect::<Result<Vec<_>, _>>()?;
        Ok(rows.into_iter().filter(|r| r.range().end > range.start).collect())
    }

    /// The packed block that begins at or last before `at`, with its first number.
    ///
    /// # Errors
    /// Those of the database.
    pub fn block_before(&self, at: u64) -> Result<Option<(u64, Vec<u8>)>, Trouble> {
        let mut statement = self
            .conn
            .prepare_cached("SELECT first,data FROM block WHERE first<=?1 ORDER BY first DESC LIMIT 1")?;
        let row = statement.query_row([signed(at)], |r| Ok((unsigned(r.get(0)?), r.get(1)?)));
        Ok(row.optional()?)
    }

    /// First number of the first block that begins after `at`.
    ///
    /// # Errors
    /// Those of the database.
    pub fn first_after(&self, at: u64) -> Result<Option<u64>, Trouble> {
        let mut statement = self.conn.prepare_cached("SELECT min(first) FROM block WHERE first>?1")?;
        Ok(statement.query_row([signed(at)], |r| r.get::<_, Option<i64>>(0))?.map(unsigned))
    }

    /// The loss record with this handle.
    ///
    /// # Errors
    /// Those of the database.
    pub fn loss(&self, handle: u64) -> Result<Option<LossRecord>, Trouble> {
        let mut statement = self.conn.prepare_cached("SELECT body FROM loss WHERE handle=?1")?;
        let body: Option<String> = statement.query_row([signed(handle)], |r| r.get(0)).optional()?;
        Ok(body.as_deref().and_then(unseal))
    }

    /// A handle above all that are in use.
    ///
    /// # Errors
    /// Those of the database.
    pub fn next_loss(&self) -> Result<u64, Trouble> {
        let newest: i64 =
            self.conn.query_row("SELECT coalesce(max(handle),0) FROM loss", [], |r| r.get(0))?;
        Ok(unsigned(newest).saturating_add(1))
    }

    /// The oldest loss records of an uplink.
    ///
    /// # Errors
    /// Those of the database.
    pub fn losses(&self, uplink: &str, most: usize) -> Result<Vec<(u64, LossRecord)>, Trouble> {
        self.loss_rows("SELECT handle,body FROM loss WHERE uplink=?1 ORDER BY handle LIMIT ?2", uplink, most)
    }

    /// The newest loss records of an uplink, newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub fn newest_losses(&self, uplink: &str, most: usize) -> Result<Vec<(u64, LossRecord)>, Trouble> {
        self.loss_rows(
            "SELECT handle,body FROM loss WHERE uplink=?1 ORDER BY handle DESC LIMIT ?2",
            uplink,
            most,
        )
    }

    fn loss_rows(&self, sql: &str, uplink: &str, most: usize) -> Result<Vec<(u64, LossRecord)>, Trouble> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement
            .query_map(params![uplink, most as i64], |r| Ok((unsigned(r.get(0)?), r.get::<_, String>(1)?)))?
            .collect::<Result<Vec<_>, _>>()?;
        Ok(rows.into_iter().filter_map(|(handle, body)| Some((handle, unseal(&body)?))).collect())
    }

    /// How many loss records an uplink has.
    ///
    /// # Errors
    /// Those of the database.
    pub fn loss_count(&self, uplink: &str) -> Result<usize, Trouble> {
        let mut statement = self.conn.prepare_cached("SELECT count(*) FROM loss WHERE uplink=?1")?;
        let n: i64 = statement.query_row([uplink], |r| r.get(0))?;
        Ok(usize::try_from(n).unwrap_or(0))
    }

    /// All remembered commands: id, counter, result.
    ///
    /// # Errors
    /// Those of the database.
    pub fn commands(&self) -> Result<Vec<(String, u64, Option<String>)>, Trouble> {
        let mut statement = self.conn.prepare_cached("SELECT id,n,result FROM command ORDER BY n")?;
        let rows = statement.query_map([], |r| Ok((r.get(0)?, unsigned(r.get(1)?), r.get(2)?)))?;
        Ok(rows.collect::<Result<Vec<_>, _>>()?)
    }

    /// The packed last values.
    ///
    /// # Errors
    /// Those of the database.
    pub fn last(&self) -> Result<Option<Vec<u8>>, Trouble> {
        let mut statement = self.conn.prepare_cached("SELECT data FROM last WHERE id=1")?;
        Ok(statement.query_row([], |r| r.get(0)).optional()?)
    }

    /// Size of the file and the room in it.
    ///
    /// # Errors
    /// Those of the database.
    pub fn usage(&self) -> Result<Usage, Trouble> {
        let pages = |sql| {
            let mut statement = self.conn.prepare_cached(sql)?;
            statement.query_row([], |r| r.get::<_, i64>(0)).map(unsigned)
        };
        Ok(Usage {
            file: pages("PRAGMA page_count")? * self.page,
            reusable: pages("PRAGMA freelist_count")? * self.page,
            free: None,
        })
    }

    /// Gives back at most `bytes` of the file's room to the disk.
    ///
    /// # Errors
    /// Those of the database.
    pub fn shrink(&self, bytes: u64) -> Result<(), Trouble> {
        self.conn.execute_batch(&format!("PRAGMA incremental_vacuum({})", bytes / self.page))?;
        Ok(())
    }
}

/// Whether a flipped bit in the write version of the header makes SQLite only read the file (fileformat2 section 1.3.3).
fn forbids_writing(path: &Path) -> bool {
    let mut head = [0; 19];
    let read = std::fs::File::open(path).and_then(|file| file.read_exact_at(&mut head, 0));
    read.is_ok() && head[18] > 2
}

pub(super) fn identify(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|m| (m.ino(), m.len()))
}

fn put_block(tx: &Transaction<'_>, row: &Row, data: &[u8]) -> Result<(), Trouble> {
    let numbers = [row.first, row.count, row.times[0], row.times[1]].map(signed);
    run(
        tx,
        "INSERT OR REPLACE INTO block(first,count,boot,t_min,t_max,data) VALUES(?1,?2,?3,?4,?5,?6)",
        params![numbers[0], numbers[1], row.boot, numbers[2], numbers[3], data],
    )
}

fn put_thin(tx: &Transaction<'_>, entry: [u64; 3]) -> Result<(), Trouble> {
    run(tx, "INSERT OR REPLACE INTO thin(first,count,gone) VALUES(?1,?2,?3)", entry.map(signed))
}

fn delete_blocks(tx: &Transaction<'_>, range: &Range<u64>) -> Result<(), Trouble> {
    let ends = [range.start, range.end].map(signed);
    run(tx, "DELETE FROM block WHERE first>=?1 AND first<?2", ends)?;
    run(tx, "DELETE FROM thin WHERE first>=?1 AND first<?2", ends)
}

fn put_state(tx: &Transaction<'_>, key: &str, value: Option<&str>) -> Result<(), Trouble> {
    match value {
        // Not REPLACE, which frees and takes pages anew: a text of the same length is written over the old one.
        Some(text) => run(
            tx,
            "INSERT INTO state(key,value) VALUES(?1,?2) ON CONFLICT(key) DO UPDATE SET value=excluded.value",
            params![key, text],
        ),
        None => run(tx, "DELETE FROM state WHERE key=?1", [key]),
    }
}

/// A statement of every commit: parsed once, not each time.
fn run(tx: &Transaction<'_>, sql: &str, params: impl rusqlite::Params) -> Result<(), Trouble> {
    tx.prepare_cached(sql)?.execute(params)?;
    Ok(())
}

/// Numbers live far below 2^63: 10^18 readings are 3 million years at 10,000 a second. Boot times likewise.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
