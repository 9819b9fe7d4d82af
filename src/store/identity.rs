//! What is known of the numbering outside the database: the head file, the mark file, the lock.
//!
//! - **head**: written into the page cache at every `take`, never synced. It survives `kill -9` exactly, so the
//!   next start in the same boot knows how many numbers were given out. After a power cut it is only a
//!   lower bound. Two slots of 128 bytes are written in turn, each with a CRC.
//! - **mark**: written seldom, durably (tmp, fsync, rename, fsync of the directory). A database that is older
//!   than the mark was restored, rolled back or deleted.
//! - **lock**: held with `flock` for the life of the store; the kernel lets go of it however we end.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::account::Account;
use super::column::Reader;
use crate::message::Epoch;

const SLOT: usize = 128;
const MAGIC: [u8; 4] = *b"FGH1";
const BOOT_ID: usize = 40;

/// What the head file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The life that wrote it.
    pub epoch: Epoch,
    /// The next number to be given out.
    pub next: u64,
    /// One past the highest number that was durable.
    pub stored: u64,
    /// The boot in which it was written.
    pub boot_id: String,
}

fn encode(counter: u64, head: &Head) -> [u8; SLOT] {
    let mut slot = [0u8; SLOT];
    let mut out = Vec::with_capacity(SLOT);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&counter.to_le_bytes());
    out.extend_from_slice(&head.epoch.start.to_le_bytes());
    out.extend_from_slice(&head.epoch.random.to_le_bytes());
    out.extend_from_slice(&head.next.to_le_bytes());
    out.extend_from_slice(&head.stored.to_le_bytes());
    let id = head.boot_id.as_bytes();
    let id = &id[..id.len().min(BOOT_ID)];
    out.push(id.len() as u8);
    out.extend_from_slice(id);
    slot[..out.len()].copy_from_slice(&out);
    let crc = crc32fast::hash(&slot[..SLOT - 4]);
    slot[SLOT - 4..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<(u64, Head)> {
    let (body, crc) = slot.get(..SLOT)?.split_at(SLOT - 4);
    if body[..4] != MAGIC || crc != crc32fast::hash(body).to_le_bytes() {
        return None;
    }
    let mut r = Reader::new(&body[4..]);
    let counter = u64::from_le_bytes(r.array()?);
    let epoch = Epoch { start: u32::from_le_bytes(r.array()?), random: u32::from_le_bytes(r.array()?) };
    let (next, stored) = (u64::from_le_bytes(r.array()?), u64::from_le_bytes(r.array()?));
    let [len] = r.array()?;
    let boot_id = std::str::from_utf8(r.take(usize::from(len))?).ok()?.to_owned();
    Some((counter, Head { epoch, next, stored, boot_id }))
}

/// The open head file.
#[derive(Debug)]
pub struct HeadFile {
    file: File,
    counter: u64,
}

impl HeadFile {
    /// Reads what an earlier life left, if it is whole.
    #[must_use]
    pub fn read(dir: &Path) -> Option<Head> {
        let bytes = std::fs::read(dir.join("head")).ok()?;
        [bytes.get(..SLOT), bytes.get(SLOT..2 * SLOT)]
            .into_iter()
            .filter_map(|slot| decode(slot?))
            .max_by_key(|(counter, _)| *counter)
            .map(|(_, head)| head)
    }

    /// Opens it for writing and writes the first state. Both slots exist afterwards, so that later
    /// writes need no new disk space.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(dir: &Path, head: &Head) -> io::Result<Self> {
        let path = dir.join("head");
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = match open() {
            Ok(file) => file,
            Err(_) if path.is_dir() => {
                std::fs::rename(&path, dir.join(format!("head.bad-{}", std::process::id())))?;
                open()?
            }
            Err(e) => return Err(e),
        };
        let mut bytes = vec![0; 2 * SLOT];
        let n = file.read_at(&mut bytes, 0)?;
        let counter = [bytes.get(..SLOT), bytes.get(SLOT..n)]
            .into_iter()
            .filter_map(|slot| Some(decode(slot?)?.0))
            .max()
            .unwrap_or(0);
        let mut head_file = Self { file, counter };
        head_file.write(head)?;
        head_file.write(head)?;
        Ok(head_file)
    }

    /// Writes into the page cache; no sync.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&mut self, head: &Head) -> io::Result<()> {
        self.counter += 1;
        let slot = encode(self.counter, head);
        self.file.write_all_at(&slot, (self.counter % 2) * SLOT as u64)
    }
}

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
    /// The bound for a power cut, as in the database.
    pub bound: u64,
    /// The accounts of that moment, for when the database is gone.
    pub accounts: BTreeMap<String, Account>,
}

/// Reads the mark; `None` if there is none or it is damaged.
#[must_use]
pub fn read_mark(dir: &Path) -> Option<Mark> {
    let text = std::fs::read_to_string(dir.join("mark")).ok()?;
    unseal(text.trim_end())
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
    std::fs::rename(&tmp, dir.join("mark"))?;
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
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(dir.join("lock"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// How many damaged databases are kept; the oldest beyond go.
const SET_ASIDE: usize = 8;

/// Renames the database and what belongs to it, so that a new one can begin.
///
/// # Errors
/// Those of the file system.
pub fn set_aside(dir: &Path, name: &str) -> io::Result<String> {
    let kept = set_aside_list(dir, name);
    let number = |path: &str| path.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
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

/// Names of databases that were set aside.
#[must_use]
pub fn set_aside_list(dir: &Path, name: &str) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn head(next: u64) -> Head {
        Head {
            epoch: Epoch { start: 3, random: 4 },
            next,
            stored: next / 2,
            boot_id: "9d4a3e0c-0000-4000-8000-123456789abc".into(),
        }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(HeadFile::read(dir.path()), None);
        let mut file = HeadFile::create(dir.path(), &head(1)).expect("creates");
        for n in 2..40 {
            file.write(&head(n)).expect("writes");
            assert_eq!(HeadFile::read(dir.path()), Some(head(n)));
        }
        let mut bytes = std::fs::read(dir.path().join("head")).expect("there");
        let newest = (file.counter % 2) as usize * SLOT;
        bytes[newest + 30] ^= 4;
        std::fs::write(dir.path().join("head"), &bytes).expect("writes");
        assert_eq!(HeadFile::read(dir.path()), Some(head(38)), "the torn slot does not count");
        HeadFile::create(dir.path(), &head(77)).expect("goes on from the whole slot");
        assert_eq!(HeadFile::read(dir.path()), Some(head(77)));
    }

    #[test]
    fn a_mark_with_a_changed_byte_is_no_mark() {
        let dir = tempfile::tempdir().expect("a directory");
        let accounts = [("cloud".to_owned(), Account::new(5))].into();
        let mark = Mark { epoch: [1, 2], stored: 9, reserved: 20, clean: false, bound: 3, accounts };
        write_mark(dir.path(), &mark).expect("writes");
        assert_eq!(read_mark(dir.path()), Some(mark));
        let path = dir.path().join("mark");
        let text = std::fs::read_to_string(&path).expect("there").replace("\"stored\":9", "\"stored\":8");
        std::fs::write(&path, text).expect("writes");
        assert_eq!(read_mark(dir.path()), None);
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
    }
}
