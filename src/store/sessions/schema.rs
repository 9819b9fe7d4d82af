//! What `broker.db` looks like: how it is opened, made, and completed if an earlier version made it.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::store::trouble::Trouble;

/// Version of the schema.
pub(super) const SCHEMA: i64 = 1;
/// Packet ids whose message is here and perhaps not in the log, each with its docket, if it has one. A file of before there were such has it
/// made when it is opened; what does not know of them, or of dockets, may open one that has it.
const BEGUN: &str = "CREATE TABLE IF NOT EXISTS begun(session INTEGER, id INTEGER, data BLOB, PRIMARY KEY(session,id)) WITHOUT ROWID;";
/// "FGBR": tells it from the log and from somebody else's.
pub(super) const APPLICATION: i64 = 0x4647_4252;
/// Bytes of a page: small, for most commits touch a few rows (see `store::log`).
const PAGE: u64 = 1024;
/// Pages in the WAL before they are written back: 1 MiB.
const WAL_PAGES: u64 = 1024;
/// KiB of pages held in RAM.
const CACHE_KIB: u64 = 256;

/// Opens the file, whatever it is.
pub(super) fn open(path: &Path) -> Result<Connection, Trouble> {
    if path.is_dir() {
        return Err(Trouble::Damaged("it is a directory".into()));
    }
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(std::time::Duration::from_millis(500))?;
    // Before anything is read, so that the index of the WAL is on the heap (see `store::log`).
    conn.execute_batch("PRAGMA locking_mode=EXCLUSIVE")?;
    let version: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    if version > SCHEMA {
        // Nothing of it is to be changed, not even its kind of journal.
        return Ok(conn);
    }
    if version == 0 {
        conn.execute_batch(&format!("PRAGMA page_size={PAGE}; PRAGMA auto_vacuum=INCREMENTAL"))?;
    }
    conn.execute_batch(&format!(
        "PRAGMA journal_mode=WAL;
         PRAGMA synchronous=FULL;
         PRAGMA wal_autocheckpoint={WAL_PAGES};
         PRAGMA cache_size=-{CACHE_KIB};
         PRAGMA temp_store=MEMORY;
         PRAGMA cell_size_check=ON;
         PRAGMA trusted_schema=OFF;"
    ))?;
    Ok(conn)
}

/// The tables of a new file.
pub(super) fn create(conn: &Connection) -> Result<(), Trouble> {
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
    if tables > 0 {
        return Err(Trouble::Damaged("it is not a fieldgate database".into()));
    }
    let word = getrandom::u64().unwrap_or_else(|_| fastrand::u64(..)).cast_signed();
    conn.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         CREATE TABLE session(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
         CREATE TABLE filter(session INTEGER, filter TEXT, data BLOB NOT NULL, PRIMARY KEY(session,filter)) WITHOUT ROWID;
         CREATE TABLE body(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
         CREATE TABLE entry(session INTEGER, seq INTEGER, body INTEGER NOT NULL, released INTEGER NOT NULL,
                            data BLOB NOT NULL, PRIMARY KEY(session,seq)) WITHOUT ROWID;
         CREATE TABLE taken(session INTEGER, id INTEGER, PRIMARY KEY(session,id)) WITHOUT ROWID;
         {BEGUN}
         CREATE TABLE retained(topic TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
         CREATE TABLE mark(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
         CREATE TABLE life(word INTEGER NOT NULL);
         INSERT INTO life(word) VALUES({word});
         PRAGMA application_id={APPLICATION};
         PRAGMA user_version={SCHEMA};
         COMMIT;"
    ))?;
    Ok(())
}

/// What came to the tables later, in a file of before.
pub(super) fn complete(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(BEGUN)?;
    let known = "SELECT count(*) FROM pragma_table_info('begun') WHERE name='data'";
    match conn.query_row(known, [], |r| r.get::<_, i64>(0))? {
        0 => conn.execute_batch("ALTER TABLE begun ADD COLUMN data BLOB"),
        _ => Ok(()),
    }
}
