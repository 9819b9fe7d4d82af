//! `broker.db`: sessions and retained messages of the local broker's clients, as rows of bytes. All SQL of that is here.
//!
//! A file of its own beside the log, with a connection and a thread of its own (the broker's): whatever clients do to the
//! broker costs the readings no commit, and a damaged file of the one takes nothing from the other. The directory's lock is
//! the log's, which is opened before.
//!
//! # What it promises
//! - A group of changes is there as a whole or not at all: WAL, `synchronous=FULL`, an exclusive lock.
//! - What a start finds is synced before it counts: the page cache shows what a power cut would still take.
//! - Every row of bytes has a CRC. A damaged row is left out and counted; a damaged file is set aside and a new one begun; one
//!   of a later version is refused and not touched.
//! - After any error the connection is closed and not used again.
//! - A body that several entries share is written once, and goes with the last of them.

#[cfg(test)]
mod power;
mod schema;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, params};

use super::identity;
use super::room::free_disk;
use super::trouble::Trouble;
use crate::message::{Change, Docket, Kept, KeptEntry, Shelf, ShelfError, Standing};
use schema::{APPLICATION, SCHEMA, complete, create, open};

/// The file's name.
pub const FILE: &str = "broker.db";

/// A file of up to so many pages (16 MiB) is checked as a whole when it is read; of a larger one the start would take too long, and
/// reading all its rows has to do.
const CHECKED_PAGES: u64 = 16 * 1024;
/// The shelf in a data directory.
#[derive(Debug)]
pub struct Sessions {
    dir: PathBuf,
    min_free: u64,
    conn: Option<Connection>,
    /// Tells the file that was loaded from any other.
    word: Option<u64>,
    /// File system and inode of the file that is open.
    place: Option<(u64, u64)>,
    /// The file system of the directory that was loaded from.
    device: Option<u64>,
    /// How many entries name a body, for bodies that are there.
    names: HashMap<u64, u32>,
}

impl Sessions {
    /// The shelf in `dir`; it is opened by [`Shelf::load`]. Of the disk `min_free` bytes are never touched.
    #[must_use]
    pub fn at(dir: &Path, min_free: u64) -> Self {
        let dir = dir.to_owned();
        Self { dir, min_free, conn: None, word: None, place: None, device: None, names: HashMap::new() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Opens the file, makes it ours if it is new, and sees to it that all in it is synced.
    fn connect(&mut self) -> Result<&Connection, ShelfError> {
        self.conn = None;
        std::fs::create_dir_all(&self.dir).map_err(|e| ShelfError::Disk(e.to_string()))?;
        let conn = open(&self.path()).map_err(sorted)?;
        let version: i64 = conn.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(failed)?;
        if version > SCHEMA {
            let what = format!("{FILE} has schema {version}; this version knows {SCHEMA}");
            return Err(ShelfError::Newer(what));
        }
        if version == 0 {
            create(&conn).map_err(sorted)?;
        }
        let ours: i64 = conn.query_row("PRAGMA application_id", [], |r| r.get(0)).map_err(failed)?;
        if ours != APPLICATION {
            return Err(ShelfError::Damaged(format!("{FILE} is not a fieldgate database")));
        }
        complete(&conn).map_err(failed)?;
        // What a kill left in the WAL may be in the page cache only.
        conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed)?;
        let word = conn.query_row("SELECT word FROM life", [], |r| r.get::<_, i64>(0)).map_err(failed)?;
        let word = unsigned(word);
        if self.word.is_some_and(|ours| ours != word) {
            return Err(ShelfError::Disk(format!(
                "another {FILE} lies there; put the one of before back, or restart"
            )));
        }
        self.names = named(&conn).map_err(failed)?;
        (self.word, self.place) = (Some(word), place(&self.path()));
        self.device = identity::device(&self.dir);
        Ok(self.conn.insert(conn))
    }

    fn run(&mut self, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), ShelfError> {
        let Some(conn) = &self.conn else { return Err(ShelfError::Disk(format!("{FILE} is closed"))) };
        work(conn).map_err(|error| {
            self.conn = None;
            failed(error)
        })
    }

    /// One entry fewer names this body; the last one takes it along.
    fn unname(&mut self, body: u64, times: u32) -> Result<(), ShelfError> {
        let Some(left) = self.names.get_mut(&body) else { return Ok(()) };
        *left = left.saturating_sub(times);
        if *left > 0 {
            return Ok(());
        }
        self.names.remove(&body);
        self.run(|conn| run(conn, "DELETE FROM body WHERE id=?1", [signed(body)]))
    }

    /// The body that an entry names, if there is such an entry and it names one.
    fn body_of(&mut self, session: u64, seq: u64) -> Result<Option<u64>, ShelfError> {
        let mut body = None;
        self.run(|conn| {
            let mut find = conn.prepare_cached("SELECT body FROM entry WHERE session=?1 AND seq=?2")?;
            body = find.query_row([signed(session), signed(seq)], |r| r.get::<_, i64>(0)).optional()?;
            Ok(())
        })?;
        Ok(body.map(unsigned).filter(|body| *body > 0))
    }

    fn remove(&mut self, session: u64, seq: u64) -> Result<(), ShelfError> {
        let body = self.body_of(session, seq)?;
        let key = [signed(session), signed(seq)];
        self.run(|conn| run(conn, "DELETE FROM entry WHERE session=?1 AND seq=?2", key))?;
        body.map_or(Ok(()), |body| self.unname(body, 1))
    }

    fn drop_session(&mut self, session: u64) -> Result<(), ShelfError> {
        let mut bodies: Vec<(u64, u32)> = Vec::new();
        self.run(|conn| {
            let mut find = conn.prepare_cached(
                "SELECT body,count(*) FROM entry WHERE session=?1 AND body>0 GROUP BY body",
            )?;
            let rows = find.query_map([signed(session)], |r| Ok((unsigned(r.get(0)?), r.get(1)?)))?;
            bodies = rows.collect::<rusqlite::Result<_>>()?;
            run(conn, "DELETE FROM session WHERE id=?1", [signed(session)])?;
            for table in ["filter", "entry", "taken", "begun"] {
                run(conn, &format!("DELETE FROM {table} WHERE session=?1"), [signed(session)])?;
            }
            Ok(())
        })?;
        bodies.into_iter().try_for_each(|(body, times)| self.unname(body, times))
    }
}

impl Shelf for Sessions {
    fn load(&mut self) -> Result<Kept, ShelfError> {
        let mut set_aside = None;
        loop {
            let read = match self.connect() {
                Ok(conn) => read(conn).map_err(failed),
                Err(error) => Err(error),
            };
            match read {
                Ok(kept) => return Ok(Kept { set_aside, ..kept }),
                Err(ShelfError::Damaged(why)) if set_aside.is_none() => {
                    tracing::error!(
                        why,
                        "{FILE} is damaged and set aside; sessions and retained messages begin anew"
                    );
                    set_aside = self.renew()?;
                    if set_aside.is_none() {
                        return Err(ShelfError::Damaged(why));
                    }
                }
                Err(error) => {
                    self.conn = None;
                    return Err(error);
                }
            }
        }
    }

    fn reopen(&mut self) -> Result<(), ShelfError> {
        if self.conn.is_some() {
            return Ok(());
        }
        if place(&self.path()).is_none() {
            let elsewhere = self.device.is_some() && identity::device(&self.dir) != self.device;
            return Err(match elsewhere {
                true => ShelfError::Disk(format!("the file system of `{}` is gone", self.dir.display())),
                false => ShelfError::Damaged(format!("{FILE} is gone")),
            });
        }
        let opened = self.connect().map(|_| ());
        if opened.is_err() {
            self.conn = None;
        }
        opened
    }

    fn look(&mut self) -> Result<(), ShelfError> {
        if self.conn.is_none() || place(&self.path()) == self.place {
            return Ok(());
        }
        self.conn = None;
        Err(ShelfError::Disk(format!("{FILE} is not where it was")))
    }

    fn renew(&mut self) -> Result<Option<String>, ShelfError> {
        (self.conn, self.word) = (None, None);
        let disk = |e: std::io::Error| ShelfError::Disk(e.to_string());
        let there = self.path().symlink_metadata().is_ok();
        let name = there.then(|| identity::set_aside(&self.dir, FILE)).transpose().map_err(disk)?;
        self.connect()?;
        Ok(name)
    }

    fn begin(&mut self, grows: bool) -> Result<(), ShelfError> {
        if grows && free_disk(&self.dir).is_some_and(|free| free < self.min_free) {
            let what = format!("less than `min_free` ({} bytes) of the disk is free", self.min_free);
            return Err(ShelfError::Disk(what));
        }
        self.run(|conn| conn.execute_batch("BEGIN IMMEDIATE"))
    }

    fn put(&mut self, change: Change<'_>) -> Result<(), ShelfError> {
        match change {
            Change::Session(id, data) => self.run(|conn| {
                let sql = "INSERT OR REPLACE INTO session(id,data) VALUES(?1,?2)";
                run(conn, sql, params![signed(id), sealed(data)])
            }),
            Change::Drop(id) => self.drop_session(id),
            Change::Filter(id, filter, Some(data)) => self.run(|conn| {
                let sql = "INSERT OR REPLACE INTO filter(session,filter,data) VALUES(?1,?2,?3)";
                run(conn, sql, params![signed(id), filter, sealed(data)])
            }),
            Change::Filter(id, filter, None) => self.run(|conn| {
                run(conn, "DELETE FROM filter WHERE session=?1 AND filter=?2", params![signed(id), filter])
            }),
            Change::Body(id, data) => self.run(|conn| {
                let sql = "INSERT OR REPLACE INTO body(id,data) VALUES(?1,?2)";
                run(conn, sql, params![signed(id), sealed(data)])
            }),
            Change::Entry { session, seq, body, data } => {
                match self.body_of(session, seq)? {
                    Some(same) if same == body => {}
                    was => {
                        if was.is_some() {
                            self.remove(session, seq)?;
                        }
                        if body > 0 {
                            *self.names.entry(body).or_default() += 1;
                        }
                    }
                }
                self.run(|conn| {
                    let sql =
                        "INSERT OR REPLACE INTO entry(session,seq,body,released,data) VALUES(?1,?2,?3,0,?4)";
                    run(conn, sql, params![signed(session), signed(seq), signed(body), sealed(data)])
                })
            }
            Change::Released(session, seq) => {
                let body = self.body_of(session, seq)?;
                let key = [signed(session), signed(seq)];
                self.run(|conn| {
                    run(conn, "UPDATE entry SET released=1,body=0 WHERE session=?1 AND seq=?2", key)
                })?;
                body.map_or(Ok(()), |body| self.unname(body, 1))
            }
            Change::Remove(session, seq) => self.remove(session, seq),
            Change::Id(session, id, standing) => self.run(|conn| {
                let key = params![signed(session), id];
                if standing != Standing::Taken {
                    run(conn, "DELETE FROM taken WHERE session=?1 AND id=?2", key)?;
                }
                match standing {
                    Standing::Begun(docket) => {
                        let sql = "INSERT OR REPLACE INTO begun(session,id,data) VALUES(?1,?2,?3)";
                        return run(conn, sql, params![signed(session), id, docket.map(written)]);
                    }
                    Standing::Taken => {
                        run(conn, "INSERT OR IGNORE INTO taken(session,id) VALUES(?1,?2)", key)?;
                    }
                    Standing::Free => {}
                }
                run(conn, "DELETE FROM begun WHERE session=?1 AND id=?2", key)
            }),
            Change::Retained(topic, Some(data)) => self.run(|conn| {
                let sql = "INSERT OR REPLACE INTO retained(topic,data) VALUES(?1,?2)";
                run(conn, sql, params![topic, sealed(data)])
            }),
            Change::Retained(topic, None) => {
                self.run(|conn| run(conn, "DELETE FROM retained WHERE topic=?1", [topic]))
            }
            Change::Mark(data) => self.run(|conn| {
                run(conn, "INSERT OR REPLACE INTO mark(id,data) VALUES(1,?1)", params![sealed(data)])
            }),
        }
    }

    fn commit(&mut self) -> Result<(), ShelfError> {
        self.run(|conn| conn.execute_batch("COMMIT"))
    }

    fn bytes(&self) -> u64 {
        let file = |name: String| std::fs::metadata(self.dir.join(name)).map_or(0, |m| m.len());
        file(FILE.to_owned()) + file(format!("{FILE}-wal"))
    }
}

/// File system and inode of a file that is there.
fn place(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

fn named(conn: &Connection) -> rusqlite::Result<HashMap<u64, u32>> {
    let mut find = conn.prepare("SELECT body,count(*) FROM entry WHERE body>0 GROUP BY body")?;
    let rows = find.query_map([], |r| Ok((unsigned(r.get(0)?), r.get(1)?)))?;
    rows.collect()
}

/// Everything. A row whose CRC is wrong is left out.
fn read(conn: &Connection) -> rusqlite::Result<Kept> {
    let pages: u64 = conn.query_row("PRAGMA page_count", [], |r| r.get(0)).map(unsigned)?;
    if pages <= CHECKED_PAGES {
        let check = || conn.query_row("PRAGMA quick_check(1)", [], |r| r.get::<_, String>(0));
        let found = check()?;
        // A page that the disk did not give once is no damage: only what is found twice is.
        if found != "ok" && check()? == found {
            let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(rusqlite::Error::SqliteFailure(corrupt, Some(found)));
        }
    }
    let mut kept = Kept::default();
    let mut damaged = 0;
    let mut whole = |data: Vec<u8>| {
        let data = unsealed(data);
        damaged += u64::from(data.is_none());
        data
    };
    each(conn, "SELECT id,data FROM session ORDER BY id", |row| {
        let id = unsigned(row.get(0)?);
        kept.sessions.extend(whole(row.get(1)?).map(|data| (id, data)));
        Ok(())
    })?;
    each(conn, "SELECT session,filter,data FROM filter", |row| {
        let (session, filter) = (unsigned(row.get(0)?), row.get(1)?);
        kept.filters.extend(whole(row.get(2)?).map(|data| (session, filter, data)));
        Ok(())
    })?;
    each(conn, "SELECT id,data FROM body", |row| {
        let id = unsigned(row.get(0)?);
        kept.bodies.extend(whole(row.get(1)?).map(|data| (id, data)));
        Ok(())
    })?;
    each(conn, "SELECT session,seq,body,released,data FROM entry ORDER BY session,seq", |row| {
        let [session, seq, body] = [row.get(0)?, row.get(1)?, row.get(2)?].map(unsigned);
        let released = row.get(3)?;
        let entry = |data| KeptEntry { session, seq, body, released, data };
        kept.entries.extend(whole(row.get(4)?).map(entry));
        Ok(())
    })?;
    each(conn, "SELECT session,id FROM taken", |row| {
        kept.taken.push((unsigned(row.get(0)?), row.get(1)?));
        Ok(())
    })?;
    each(conn, "SELECT session,id,data FROM begun", |row| {
        // Without its docket it is as one that the log does not know.
        let docket = row.get::<_, Option<Vec<u8>>>(2)?.and_then(&mut whole);
        kept.begun.push((unsigned(row.get(0)?), row.get(1)?, docket.as_deref().and_then(docket_of)));
        Ok(())
    })?;
    each(conn, "SELECT topic,data FROM retained", |row| {
        let topic = row.get(0)?;
        kept.retained.extend(whole(row.get(1)?).map(|data| (topic, data)));
        Ok(())
    })?;
    let mark: Option<Vec<u8>> =
        conn.query_row("SELECT data FROM mark WHERE id=1", [], |r| r.get(0)).optional()?;
    kept.mark = mark.and_then(whole);
    kept.damaged = damaged;
    Ok(kept)
}

fn each(
    conn: &Connection,
    sql: &str,
    mut found: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        found(row)?;
    }
    Ok(())
}

fn run(conn: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<()> {
    let mut statement: CachedStatement<'_> = conn.prepare_cached(sql)?;
    statement.execute(params).map(|_| ())
}

fn sorted(trouble: Trouble) -> ShelfError {
    match trouble {
        Trouble::Damaged(what) => ShelfError::Damaged(what),
        _ => ShelfError::Disk(trouble.to_string()),
    }
}

fn failed(error: rusqlite::Error) -> ShelfError {
    sorted(error.into())
}

/// Bytes with their CRC behind them.
fn sealed(data: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(data.len() + 4);
    all.extend_from_slice(data);
    all.extend_from_slice(&crc32fast::hash(data).to_le_bytes());
    all
}

fn unsealed(mut data: Vec<u8>) -> Option<Vec<u8>> {
    let end = data.len().checked_sub(4)?;
    let crc = crc32fast::hash(data.get(..end)?).to_le_bytes();
    if data.get(end..)? != crc {
        return None;
    }
    data.truncate(end);
    Some(data)
}

/// A docket, sealed.
fn written(docket: Docket) -> Vec<u8> {
    sealed(&[docket.life.to_le_bytes(), docket.n.to_le_bytes()].concat())
}

fn docket_of(data: &[u8]) -> Option<Docket> {
    let (life, n) = data.split_first_chunk::<8>()?;
    Some(Docket { life: u64::from_le_bytes(*life), n: u64::from_le_bytes(n.try_into().ok()?) })
}

/// SQLite's integers are signed; our numbers stay below 2^63.
fn signed(n: u64) -> i64 {
    n.cast_signed()
}

fn unsigned(n: i64) -> u64 {
    n.cast_unsigned()
}
