//! What is known of the numbering outside the database: the mark file and the lock (and the head file,
//! which is in `head`).
//!
//! - **mark**: written seldom, durably (tmp, fsync, rename, fsync of the directory). A database that is older
//!   than the mark was restored, rolled back or deleted.
//! - **lock**: held with `flock` for the life of the store; the kernel lets go of it however we end. It holds a
//!   random word, so that what lies elsewhere can be tied to these very contents of the directory.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::account::Account;

/// What the mark file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Epoch that wrote it.
    pub epoch: [u32; 2],
    /// One past the highest number that was durable then.
    pub stored: u64,
    /// No number at or above this was given out before the next mark.
    pub reserved: u64,
    /// The life ended in order with this mark: nothing was given out after it.
    pub clean: bool,
    /// Every number below `stored` that is not in the database was given out, for a reading that this gateway owed: what is
    /// missing of them is known exactly. Only a restore can know it.
    #[serde(default)]
    pub exact: bool,
    /// The bound for a power cut, as in the database.
    pub bound: u64,
    /// The word of the directory it was written for; 0: unknown.
    #[serde(default)]
    pub home: u64,
    /// Whose numbers go on here, as in the database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lives: Vec<(u64, u64)>,
    /// The accounts of that moment, for when the database is gone.
    pub accounts: BTreeMap<String, Account>,
}

/// Reads the mark; `None` if there is none, it is damaged, or nothing can be opened now.
#[must_use]
pub fn read_mark(dir: &Path) -> Option<Mark> {
    find_mark(dir).ok().flatten()
}

/// Reads the mark; `None` if there is none or it is damaged.
///
/// # Errors
/// The process has no descriptor left (see [`unless_starved`]): whether there is one is not known.
pub fn find_mark(dir: &Path) -> io::Result<Option<Mark>> {
    let bytes = unless_starved(std::fs::read(dir.join(MARK)))?;
    Ok(bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(|t| unseal(t.trim_end())))
}

/// What was read, or `None`. That all descriptors are in use says nothing of the file: whoever took it for missing or
/// damaged would throw away a sound witness.
///
/// # Errors
/// No descriptor is left, of this process or of the system.
pub fn unless_starved<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    use rustix::io::Errno;
    match read {
        Err(e) if [Errno::MFILE, Errno::NFILE].iter().any(|n| e.raw_os_error() == Some(n.raw_os_error())) => {
            Err(e)
        }
        read => Ok(read.ok()),
    }
}

/// Writes the mark durably.
///
/// # Errors
/// Those of the file system.
pub fn write_mark(dir: &Path, mark: &Mark) -> io::Result<()> {
    let tmp = dir.join("mark.tmp");
    let mut file = File::create(&tmp)?;
    file.write_all(seal(mark)?.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&tmp, dir.join(MARK))?;
    sync_dir(dir)
}

/// Makes names in a directory durable.
///
/// # Errors
/// Those of the file system.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// JSON with its CRC before it, so that a flipped bit is noticed.
///
/// # Errors
/// serde's, which has none for the plain types used here.
pub fn seal<T: Serialize>(value: &T) -> io::Result<String> {
    let json = serde_json::to_string(value)?;
    Ok(format!("{:08x} {json}", crc32fast::hash(json.as_bytes())))
}

/// The value that was sealed; `None` if a byte changed.
#[must_use]
pub fn unseal<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    let (crc, json) = text.split_once(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(json.as_bytes()) {
        return None;
    }
    serde_json::from_str(json).ok()
}

/// Takes the directory for this process.
///
/// # Errors
/// `WouldBlock` if another process has it; else those of the file system.
pub fn lock(dir: &Path) -> io::Result<File> {
    let path = dir.join("lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Whether this is still the lock under that name: the directory may have been removed and made again.
#[must_use]
pub fn is_lock_of(lock: &File, dir: &Path) -> bool {
    let place = |m: std::fs::Metadata| (m.dev(), m.ino());
    let (held, named) = (lock.metadata().map(place), std::fs::metadata(dir.join("lock")).map(place));
    held.is_ok_and(|held| named.is_ok_and(|named| held == named))
}

/// The file system of a directory; of the nearest one above it, if there is none.
#[must_use]
pub fn device(dir: &Path) -> Option<u64> {
    dir.ancestors().find_map(|dir| std::fs::metadata(dir).ok()).map(|m| m.dev())
}

/// The word of a directory that is not ours yet.
#[must_use]
pub fn word_in(dir: &Path) -> Option<u64> {
    home(&File::open(dir.join("lock")).ok()?)
}

const WORD: usize = 16;

/// The random word of a directory, which only the holder of its lock may ask for; made at the first time. It
/// goes with the files: whoever replaces the contents of the directory replaces it too.
///
/// # Errors
/// Those of the file system, and of the system's random numbers.
pub fn word(lock: &File) -> io::Result<String> {
    if let Some(word) = home(lock) {
        return Ok(format!("{word:016x}"));
    }
    let word = getrandom::u64().map_err(io::Error::other)?;
    set_home(lock, word)?;
    Ok(format!("{word:016x}"))
}

/// The word as a number, if there is one; never 0.
#[must_use]
pub fn home(lock: &File) -> Option<u64> {
    let mut text = [0; WORD + 1];
    let n = lock.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..n).filter(|t| t.len() == WORD)?).ok()?;
    u64::from_str_radix(text, 16).ok().filter(|word| *word != 0)
}

/// Makes it this word.
///
/// # Errors
/// Those of the file system.
pub fn set_home(lock: &File, word: u64) -> io::Result<()> {
    lock.set_len(0)?;
    lock.write_all_at(format!("{word:016x}").as_bytes(), 0)
}

/// How many damaged databases are kept; the oldest beyond go.
const SET_ASIDE: usize = 8;

/// Renames the database and what belongs to it, so that a new one can begin.
///
/// # Errors
/// Those of the file system.
pub fn set_aside(dir: &Path, name: &str) -> io::Result<String> {
    let kept = set_aside_list(dir, name);
    let n = kept.iter().map(|p| number(p)).max().unwrap_or(0) + 1;
    if kept.len() >= SET_ASIDE
        && let Some(oldest) = kept.iter().min_by_key(|p| number(p))
    {
        for tail in ["", "-wal"] {
            let _ = std::fs::remove_file(dir.join(format!("{oldest}{tail}")));
        }
    }
    let bad = format!("{name}.bad-{n}");
    for tail in ["-wal", "-shm", "-journal", ""] {
        let from = dir.join(format!("{name}{tail}"));
        if from.symlink_metadata().is_ok() {
            std::fs::rename(from, dir.join(format!("{bad}{tail}")))?;
        }
    }
    sync_dir(dir)?;
    Ok(bad)
}

/// A mark that cannot be read goes aside too: it says that there was a life here before, and what it knew is
/// gone. (It is written whole or not at all, so no crash leaves such a one.) Returns its new name.
///
/// # Errors
/// Those of the file system.
pub fn set_bad_mark_aside(dir: &Path) -> io::Result<Option<String>> {
    if find_mark(dir)?.is_some() || dir.join(MARK).symlink_metadata().is_err() {
        return Ok(None);
    }
    set_mark_aside(dir).map(Some)
}

/// The mark goes aside.
///
/// # Errors
/// Those of the file system.
pub fn set_mark_aside(dir: &Path) -> io::Result<String> {
    set_aside(dir, MARK)
}

/// Removes the oldest database that was set aside, for its room; says which, if there was one.
pub fn give_up_set_aside(dir: &Path) -> Option<String> {
    let oldest = set_aside_list(dir, DATABASE).into_iter().min_by_key(|name| number(name))?;
    let _ = std::fs::remove_file(dir.join(format!("{oldest}-wal")));
    std::fs::remove_file(dir.join(&oldest)).is_ok().then_some(oldest)
}

/// Names of everything that was set aside.
#[must_use]
pub fn all_set_aside(dir: &Path) -> Vec<String> {
    [DATABASE, WAL, MARK].iter().flat_map(|name| set_aside_list(dir, name)).collect()
}

fn number(name: &str) -> u64 {
    name.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn set_aside_list(dir: &Path, name: &str) -> Vec<String> {
    let prefix = format!("{name}.bad-");
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| n.strip_prefix(&prefix).is_some_and(|t| t.bytes().all(|b| b.is_ascii_digit())))
        .collect();
    names.sort();
    names
}

/// The database's path in its directory.
#[must_use]
pub fn database(dir: &Path) -> PathBuf {
    dir.join(DATABASE)
}

/// The database's file name.
pub const DATABASE: &str = "fieldgate.db";

/// File name of its WAL.
pub const WAL: &str = "fieldgate.db-wal";

/// The mark's file name.
pub const MARK: &str = "mark";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_with_a_changed_byte_is_no_mark() {
        let dir = tempfile::tempdir().expect("a directory");
        let accounts = [("cloud".to_owned(), Account::new(5))].into();
        let mark = Mark {
            epoch: [1, 2],
            stored: 9,
            reserved: 20,
            clean: false,
            exact: false,
            bound: 3,
            home: 7,
            lives: vec![(5, 100)],
            accounts,
        };
        write_mark(dir.path(), &mark).expect("writes");
        assert_eq!(read_mark(dir.path()), Some(mark));
        let path = dir.path().join("mark");
        let text = std::fs::read_to_string(&path).expect("there").replace("\"stored\":9", "\"stored\":8");
        std::fs::write(&path, text).expect("writes");
        assert_eq!(read_mark(dir.path()), None);
    }

    #[test]
    fn a_file_that_no_descriptor_is_left_for_is_not_called_missing() {
        use rustix::io::Errno;
        for (errno, known) in
            [(Errno::NOENT, true), (Errno::IO, true), (Errno::MFILE, false), (Errno::NFILE, false)]
        {
            let read: io::Result<()> = Err(errno.into());
            assert_eq!(unless_starved(read).is_ok(), known, "{errno}");
        }
    }

    #[test]
    fn only_one_holds_the_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        let held = lock(dir.path()).expect("free");
        assert_eq!(lock(dir.path()).expect_err("held").kind(), io::ErrorKind::WouldBlock);
        drop(held);
        lock(dir.path()).expect("free again");
    }

    #[test]
    fn what_is_set_aside_gets_a_new_name_each_time_and_is_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        for n in 1..=20 {
            std::fs::write(database(dir.path()), b"x").expect("writes");
            assert_eq!(set_aside(dir.path(), DATABASE).expect("renames"), format!("fieldgate.db.bad-{n}"));
        }
        assert_eq!(set_aside_list(dir.path(), DATABASE).len(), SET_ASIDE);
        for n in 13..=20 {
            assert_eq!(give_up_set_aside(dir.path()), Some(format!("fieldgate.db.bad-{n}")), "the oldest");
        }
        assert_eq!(give_up_set_aside(dir.path()), None);
    }
}
