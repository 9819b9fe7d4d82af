//! Opening the database, and whether what is in the file belongs together.
//!
//! SQLite notices neither of two things that files on a card can come to:
//!
//! - **Pages of several commits.** A disk that says "written" too early keeps, over a power cut, some pages of a commit
//!   and not others. Such a file may read well, and lose rows with the next write: a page that is said to be free is in use
//!   elsewhere. Blocks that go that way would be missed, for the line names them; a loss record would not. So
//!   where a cut may have done this, the file is looked through, as long as patience lasts, and one that does not hold
//!   together is written anew: what can be read of it is kept.
//! - **A WAL of another database.** Nothing in it says whose it is; its pages would take the place of ours. But the
//!   file without it says which directory it belongs to, and with it says another.
//!
//! Promises: a kill at any moment leaves the old database or the new one; what was replaced is set aside, as everything
//! that is damaged; where there is no room to write anew, or no time, since a start must not take long, the old one stays in
//! use, as it is. What cannot be read at all is saved block by block (see `salvage`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::identity::{self, DATABASE, Mark, WAL};
use super::log::Log;
use super::recovery::Line;
use super::room::free_disk;
use super::salvage;
use super::state::Tick;
use super::trouble::Trouble;

/// How long is looked where the last life ended without order: a start is to be as quick with a queue as without one.
const SHORT: Duration = Duration::from_millis(10);
/// How long where the database is certainly older than it should be, within the 10 s that a start may take.
const LONG: Duration = Duration::from_secs(2);

/// Steps of SQLite between two looks at the time.
const STEPS: i32 = 64;

/// The key of state for the word of the directory.
pub const HOME: &str = "home";

/// Where a database is written anew.
const ANEW: &str = "fieldgate.db.anew";

/// Opens the database; a damaged one gets another name and a new one begins. Says also under which name something was
/// set aside.
///
/// # Errors
/// What is no damage.
pub fn open(dir: &Path) -> Result<(Log, Option<String>), Trouble> {
    let path = identity::database(dir);
    make_way(dir)?;
    take_name(dir)?;
    let alone = home_without_wal(&path);
    let log = match Log::open(&path) {
        Err(Trouble::Damaged(why)) => {
            tracing::error!(%why, "the database cannot be used");
            return replace_at_start(dir);
        }
        log => log?,
    };
    match alone {
        Some(ours) if ![0, ours].contains(&log.home().unwrap_or(0)) => {
            drop(log);
            let bad = identity::set_aside(dir, WAL)?;
            tracing::error!("the WAL belongs to another database; set aside as {bad}");
            Ok((Log::open(&path)?, Some(bad)))
        }
        _ => Ok((log, None)),
    }
}

/// What has one of our names and is a directory goes aside: SQLite could neither use nor replace it.
fn make_way(dir: &Path) -> Result<(), Trouble> {
    for name in [WAL, "fieldgate.db-journal", ANEW, "fieldgate.db.anew-wal", "mark.tmp"] {
        if dir.join(name).symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            let bad = identity::set_aside(dir, name)?;
            tracing::error!("`{name}` is a directory; set aside as {bad}");
        }
    }
    Ok(())
}

/// Puts a new database with what can be read of a damaged one in its place, or an empty one, and sets it aside.
///
/// # Errors
/// Those of the file system.
pub fn replace(dir: &Path, patience: Duration) -> Result<(Log, Option<String>), Trouble> {
    if let Err(why) = save(dir, patience) {
        tracing::error!(%why, "nothing can be saved of it");
        let _ = std::fs::remove_file(dir.join(ANEW));
    }
    begin_another(dir)
}

/// The same, in the time that a start has.
///
/// # Errors
/// Those of the file system.
pub fn replace_at_start(dir: &Path) -> Result<(Log, Option<String>), Trouble> {
    replace(dir, salvage::AT_START)
}

/// The same, but where nothing can be saved it stays.
///
/// # Errors
/// Nothing can be saved, or those of the file system.
pub fn replace_if_saved(dir: &Path, patience: Duration) -> Result<(Log, Option<String>), Trouble> {
    save(dir, patience)?;
    begin_another(dir)
}

fn save(dir: &Path, patience: Duration) -> Result<(), Trouble> {
    let to = dir.join(ANEW);
    for tail in ["", "-wal"] {
        let _ = std::fs::remove_file(dir.join(format!("{ANEW}{tail}")));
    }
    let (copied, of) = salvage::salvage(dir, &to, patience)?;
    tracing::error!("of {of} readings in the damaged database {copied} could be saved");
    Ok(())
}

/// Sets the database aside and begins another: the one that was written anew, if there is one.
///
/// # Errors
/// Those of the file system and of the database.
pub fn begin_another(dir: &Path) -> Result<(Log, Option<String>), Trouble> {
    let bad = identity::set_aside(dir, DATABASE)?;
    take_name(dir)?;
    tracing::error!("the old database is set aside as {bad}");
    Ok((Log::open(&identity::database(dir))?, Some(bad)))
}

/// How long to look through the file, from what the last life left; `None`: it ended in order, with all that it wrote.
fn patience(line: Option<&Line>, mark: Option<&Mark>) -> Option<Duration> {
    let Some(line) = line else { return Some(LONG) };
    let older = mark.is_some_and(|mark| mark.stored > line.next || mark.epoch[0] > line.epoch[0]);
    if older { Some(LONG) } else { (!line.clean).then_some(SHORT) }
}

/// Looks through the file as long as `patience` says: see [`sound`].
///
/// # Errors
/// Those of the database and of the file system.
pub fn mended(
    dir: &Path,
    log: Log,
    line: Option<&Line>,
    mark: Option<&Mark>,
) -> Result<(Log, Option<String>), Trouble> {
    match patience(line, mark) {
        Some(patience) => sound(dir, log, patience),
        None => Ok((log, None)),
    }
}

/// Looks through the file; one that does not hold together is written anew, or set aside if it cannot be. Says under
/// which name the old one was set aside, if it was.
///
/// # Errors
/// Those of the database and of the file system.
fn sound(dir: &Path, mut log: Log, patience: Duration) -> Result<(Log, Option<String>), Trouble> {
    let Some(why) = log.misfit(patience)? else { return Ok((log, None)) };
    tracing::error!(%why, "the database holds pages of several commits, as a disk leaves them that does not sync");
    match write_anew(dir, &mut log, LONG) {
        Ok(()) => {
            // Two names change, and without its WAL the old one would be that of the last checkpoint: a kill in between
            // must leave all of it.
            if let Err(why) = log.close() {
                tracing::warn!(%why, "its WAL cannot be written back");
            }
            let (log, bad) = begin_another(dir)?;
            let kept = bad.iter().all(|bad| keep(&dir.join(bad), free_disk(dir)));
            tracing::error!(kept, "what could be read of it is in a new database");
            Ok((log, bad))
        }
        Err(Trouble::Damaged(why)) => {
            tracing::error!(%why, "not all of it can be read");
            drop(log);
            replace_at_start(dir)
        }
        Err(why) => {
            // A bad sector, no room, or too much for a start.
            tracing::error!(%why, "it cannot be written anew, so it stays in use");
            let _ = std::fs::remove_file(dir.join(ANEW));
            Ok((log, None))
        }
    }
}

/// Keeps a replaced database if that takes little of the room there is: readings must not have to go for it.
fn keep(old: &Path, free: Option<u64>) -> bool {
    let wal = PathBuf::from(format!("{}-wal", old.display()));
    let size: u64 = [old, &wal].iter().filter_map(|path| std::fs::metadata(path).ok()).map(|m| m.len()).sum();
    let kept = free.is_none_or(|free| size <= free / 8);
    if !kept {
        for path in [old, &wal] {
            let _ = std::fs::remove_file(path);
        }
    }
    kept
}

/// A copy of every row that can be read, whole and durable.
fn write_anew(dir: &Path, log: &mut Log, patience: Duration) -> Result<(), Trouble> {
    let to = dir.join(ANEW);
    log.within(patience, |log| log.copy_rows(&to))?;
    let mut copy = Log::open_to_read(&to)?;
    copy.within(patience, |copy| copy.is_whole())?;
    drop(copy);
    File::open(&to)?.sync_all()?;
    Ok(())
}

/// Gives a database that was written anew its name. One is there while there is none of that name only between the two
/// renames of [`sound`]: then it is whole. Beside another one it may be half a copy, and goes.
fn take_name(dir: &Path) -> Result<(), Trouble> {
    let (to, anew) = (identity::database(dir), dir.join(ANEW));
    if anew.symlink_metadata().is_err() {
        return Ok(());
    }
    let wal = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    let _ = std::fs::remove_file(wal(&anew));
    if to.symlink_metadata().is_ok() {
        std::fs::remove_file(&anew)?;
    } else {
        std::fs::rename(&anew, &to)?;
    }
    Ok(identity::sync_dir(dir)?)
}

/// The word of the directory that the file without its WAL belongs to: as of the last checkpoint. `None` where there is
/// nothing to compare.
fn home_without_wal(path: &Path) -> Option<u64> {
    let wal = path.with_file_name(WAL);
    if std::fs::metadata(wal).ok()?.len() == 0 || std::fs::metadata(path).ok()?.len() == 0 {
        return None;
    }
    let escaped: String = path.to_str()?.bytes().map(|b| format!("%{b:02x}")).collect();
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // "immutable": it is read as if nobody had anything to say beside it.
    let conn = Connection::open_with_flags(format!("file:{escaped}?immutable=1"), flags).ok()?;
    let text: String = conn.query_row("SELECT value FROM state WHERE key='line'", [], |r| r.get(0)).ok()?;
    identity::unseal::<Line>(&text).map(|line| line.home).filter(|home| *home != 0)
}

impl Log {
    /// The word of the directory it belongs to; 0: unknown. It stands there twice: in the line, which every commit
    /// writes, and by itself, for where the line is damaged.
    ///
    /// # Errors
    /// Those of the database.
    pub(super) fn home(&self) -> Result<u64, Trouble> {
        let line: Option<Line> = self.state("line")?;
        match line.map_or(0, |line| line.home) {
            0 => Ok(self.state(HOME)?.unwrap_or(0)),
            home => Ok(home),
        }
    }

    /// What does not fit together in the file; `None`: nothing that was found within `patience`.
    fn misfit(&mut self, patience: Duration) -> Result<Option<String>, Trouble> {
        let until = Tick::now() + patience;
        match self.within(patience, |log| log.is_whole()) {
            Err(Trouble::Damaged(why)) => Ok(Some(why)),
            Err(_) if Tick::now() > until => Ok(None),
            other => other.map(|()| None),
        }
    }

    /// Does something that SQLite breaks off when it takes longer than `patience`.
    fn within<T>(
        &mut self,
        patience: Duration,
        what: impl FnOnce(&Self) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let until = Tick::now() + patience;
        self.conn.progress_handler(STEPS, Some(move || Tick::now() > until))?;
        let done = what(self);
        self.conn.progress_handler(0, None::<fn() -> bool>)?;
        done
    }

    /// Copies every row into a new file.
    fn copy_rows(&self, to: &Path) -> Result<(), Trouble> {
        let name = to.to_str().ok_or_else(|| Trouble::Disk(format!("`{}` is no text", to.display())))?;
        self.conn.execute("VACUUM INTO ?1", [name])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::log::{Change, Row};

    fn line(home: u64, next: u64) -> Line {
        Line {
            commit: next,
            epoch: [3, 7],
            next,
            bound: 50,
            head_file: true,
            next_loss: 1,
            home,
            ..Line::default()
        }
    }

    /// So many blocks, one a commit; the WAL is written back first, so that both files say whose they are.
    fn filled(dir: &Path, home: u64, blocks: u64) -> Log {
        let mut log = Log::open(&identity::database(dir)).expect("opens");
        for n in 1..=blocks {
            let row = Row { first: n, count: 1, boot: 1, times: [n, n], bytes: 700 };
            let change = Change { blocks: vec![(row, vec![home as u8; 700])], ..Change::default() };
            log.commit(&line(home, n + 1), &change).expect("commits");
            if n == blocks / 2 {
                log.settle().expect("settles");
            }
        }
        log
    }

    fn rows(log: &Log) -> u64 {
        log.scan().expect("reads").len() as u64
    }

    #[test]
    fn how_long_is_looked_follows_from_what_was_left() {
        let mark = |stored, start| Mark {
            epoch: [start, 7],
            stored,
            reserved: stored,
            clean: false,
            exact: false,
            bound: 0,
            home: 0,
            lives: Vec::new(),
            accounts: [].into(),
        };
        let clean = Line { clean: true, ..line(1, 100) };
        assert_eq!(patience(Some(&clean), Some(&mark(100, 3))), None);
        assert_eq!(patience(Some(&line(1, 100)), Some(&mark(100, 3))), Some(SHORT));
        assert_eq!(patience(Some(&line(1, 100)), None), Some(SHORT));
        assert_eq!(patience(Some(&clean), Some(&mark(101, 3))), Some(LONG), "older than the mark");
        assert_eq!(patience(Some(&clean), Some(&mark(100, 4))), Some(LONG), "of an earlier epoch");
        assert_eq!(patience(None, None), Some(LONG), "what it said of itself is gone");
    }

    #[test]
    fn a_wal_of_another_database_is_told_and_set_aside() {
        let [ours, theirs] = [1, 2].map(|_| tempfile::tempdir().expect("a directory"));
        drop(filled(ours.path(), 7, 20));
        drop(filled(theirs.path(), 8, 30));
        let (log, bad) = open(ours.path()).expect("opens");
        assert_eq!((rows(&log), bad), (20, None), "its own");
        drop(log);
        std::fs::copy(theirs.path().join(WAL), ours.path().join(WAL)).expect("copies");
        let (log, bad) = open(ours.path()).expect("opens");
        assert_eq!(
            (rows(&log), bad.as_deref()),
            (10, Some("fieldgate.db-wal.bad-1")),
            "as of its last checkpoint"
        );
        assert_eq!(log.state::<Line>("line").expect("reads").map(|l| l.home), Some(7));
        assert_eq!(identity::all_set_aside(ours.path()), ["fieldgate.db-wal.bad-1"]);
    }

    #[test]
    fn whose_it_is_is_known_with_a_damaged_line_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = filled(dir.path(), 7, 2);
        let change = Change { state: vec![(HOME.into(), identity::seal(&7u64).ok())], ..Change::default() };
        log.commit(&line(7, 3), &change).expect("commits");
        log.conn.execute("UPDATE state SET value='damaged' WHERE key='line'", []).expect("writes");
        assert_eq!((log.state::<Line>("line").expect("reads"), log.home().expect("reads")), (None, 7));
    }

    #[test]
    fn pages_of_two_commits_are_told_and_what_can_be_read_is_written_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let mixed = std::fs::read(mixed(dir.path())).expect("reads");
        let (log, bad) = open(dir.path()).expect("opens");
        assert_eq!((rows(&log), &bad), (21, &None), "it can be opened and read");
        // No time to look is no reason to call it damaged.
        let (log, bad) = sound(dir.path(), log, Duration::ZERO).expect("opens");
        let hasty = bad.is_none();
        let (log, bad) = if hasty { sound(dir.path(), log, LONG).expect("writes anew") } else { (log, bad) };
        assert_eq!(bad.as_deref(), Some("fieldgate.db.bad-1"));
        assert_eq!((rows(&log), log.is_whole().is_ok()), (21, true));
        assert!(std::fs::read(dir.path().join("fieldgate.db.bad-1")).expect("is kept") == mixed);
        drop(log);
        let (log, bad) = open(dir.path()).expect("opens again");
        let (log, again) = sound(dir.path(), log, LONG).expect("is sound");
        assert_eq!((rows(&log), bad, again), (21, None, None));
    }

    #[test]
    fn a_replaced_database_is_kept_where_there_is_room_for_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let [old, wal] = ["fieldgate.db.bad-1", "fieldgate.db.bad-1-wal"].map(|name| dir.path().join(name));
        std::fs::write(&old, [0; 1000]).expect("writes");
        std::fs::write(&wal, [0; 24]).expect("writes");
        assert!(keep(&old, Some(8192)) && keep(&old, None) && wal.exists());
        assert!(!keep(&old, Some(8191)) && !old.exists() && !wal.exists());
    }

    #[test]
    fn a_kill_while_the_old_one_is_set_aside_takes_nothing_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = mixed(dir.path());
        let mut log = Log::open(&path).expect("opens");
        for n in 41..60 {
            let row = Row { first: n, count: 1, boot: 1, times: [n, n], bytes: 700 };
            let change = Change { blocks: vec![(row, vec![7; 700])], ..Change::default() };
            log.commit(&line(7, n + 1), &change).expect("commits");
        }
        let (log, bad) = sound(dir.path(), log, LONG).expect("writes anew");
        assert_eq!(bad.as_deref(), Some("fieldgate.db.bad-1"));
        assert_eq!(rows(&log), 40);
        // Killed when the WAL had its other name and the database had not: this is all that was there.
        let alone = tempfile::tempdir().expect("a directory");
        std::fs::rename(dir.path().join("fieldgate.db.bad-1"), identity::database(alone.path()))
            .expect("renames");
        let (log, _) = open(alone.path()).expect("opens");
        assert_eq!(rows(&log), 40);
    }

    #[test]
    fn what_would_take_too_long_for_a_start_is_not_written_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = filled(dir.path(), 7, 400);
        let broken_off = write_anew(dir.path(), &mut log, Duration::ZERO).expect_err("no time");
        assert!(matches!(broken_off, Trouble::Disk(_)), "{broken_off}");
        drop(log);
        assert_eq!(rows(&open(dir.path()).expect("opens").0), 400, "it stays in use");
    }

    /// A database with rows 20 to 40, in which a page came too late to the disk.
    fn mixed(dir: &Path) -> PathBuf {
        let path = identity::database(dir);
        let log = filled(dir, 7, 40);
        log.close().expect("closes");
        let before = std::fs::read(&path).expect("reads");
        // Rows go, so that there are free pages; of that the first page comes too late to the disk.
        let mut log = Log::open(&path).expect("opens");
        let change = Change { delete: std::iter::once(1..20).collect(), ..Change::default() };
        log.commit(&line(7, 41), &change).expect("commits");
        log.close().expect("closes");
        let mut mixed = std::fs::read(&path).expect("reads");
        mixed[..1024].copy_from_slice(&before[..1024]);
        std::fs::write(&path, &mixed).expect("writes");
        path
    }

    #[test]
    fn a_kill_between_the_names_leaves_the_new_one_and_half_a_copy_is_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = identity::database(dir.path());
        let mut log = filled(dir.path(), 7, 10);
        write_anew(dir.path(), &mut log, LONG).expect("writes");
        drop(log);
        identity::set_aside(dir.path(), DATABASE).expect("renames");
        let (log, bad) = open(dir.path()).expect("opens");
        assert_eq!((rows(&log), bad), (10, None));
        assert!(!dir.path().join(ANEW).exists() && path.exists());
        drop(log);
        std::fs::write(dir.path().join(ANEW), b"half a copy").expect("writes");
        assert_eq!(rows(&open(dir.path()).expect("opens").0), 10);
        assert!(!dir.path().join(ANEW).exists());
    }
}
