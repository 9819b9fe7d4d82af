//! The head file: how many numbers were given out, exactly, for the next start in the same boot.
//!
//! Written at every `take`, never synced: it survives `kill -9` in the page cache. Two slots of 128 bytes are
//! written in turn, each with a CRC. It means something within one boot only, so it lives in RAM if the service
//! manager gives a directory there (`$RUNTIME_DIRECTORY`): a write into a file on a card that hangs in an fsync
//! may wait for it, and `take` must not. Without such a directory it is in the data directory, `take` may
//! wait, and after a power cut what is left of it is a lower bound.
//!
//! In RAM its name is made of the data directory's path and random word, so that the head of another
//! directory, a copy, or of contents that were replaced is never believed. systemd keeps the directory over a
//! restart and removes it at a stop, where the end is either clean, or a bound is declared.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::identity;
use crate::columns::column::Reader;
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
    /// One past the highest number that an uplink may have had, durable or not (see `lend`); 0: not known.
    pub lent: u64,
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
    // Behind everything else: earlier versions do not look there, and left zeros.
    out.extend_from_slice(&head.lent.to_le_bytes());
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
    let lent = u64::from_le_bytes(r.array()?);
    Some((counter, Head { epoch, next, stored, lent, boot_id }))
}

/// Where the head file of one data directory may be.
#[derive(Debug, Clone)]
pub struct Homes {
    own: PathBuf,
    run: Option<PathBuf>,
}

impl Homes {
    /// The homes for the directory `dir`, whose lock is held. `run`: a directory of this service in RAM.
    #[must_use]
    pub fn new(dir: &Path, lock: &File, run: Option<&Path>) -> Self {
        let run = run.filter(|run| run.is_dir()).and_then(|run| {
            // Without a word or a path the file could be another's: then it stays at home.
            let word = identity::word(lock).ok()?;
            let path = std::fs::canonicalize(dir).ok()?;
            Some(run.join(format!("head-{:08x}-{word}", crc32fast::hash(path.as_os_str().as_bytes()))))
        });
        Self { own: dir.join("head"), run }
    }

    /// The newest that an earlier life left.
    ///
    /// # Errors
    /// The process has no descriptor left: what there is is not known.
    pub fn read(&self) -> io::Result<Option<Head>> {
        let heads: Vec<_> =
            self.run.iter().chain([&self.own]).map(|path| HeadFile::read(path)).collect::<Result<_, _>>()?;
        // A life that had to change its home went on counting in the other one.
        Ok(heads.into_iter().flatten().max_by_key(|h| (h.epoch.start, h.next, h.stored)))
    }

    /// Opens the file in the best home that works, and writes the first state.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(&self, head: &Head) -> io::Result<HeadFile> {
        if let Some(path) = &self.run {
            match HeadFile::create(path, head) {
                Ok(file) => {
                    // The one in the directory would be out of date from now on.
                    let _ = std::fs::remove_file(&self.own);
                    return Ok(file);
                }
                Err(error) => {
                    tracing::warn!(%error, "no head file in {}; it stays with the data", path.display());
                }
            }
        }
        HeadFile::create(&self.own, head)
    }
}

/// The open head file.
#[derive(Debug)]
pub struct HeadFile {
    file: File,
    counter: u64,
}

impl HeadFile {
    /// Reads what an earlier life left, if it is whole.
    fn read(path: &Path) -> io::Result<Option<Head>> {
        let bytes = identity::unless_starved(std::fs::read(path))?.unwrap_or_default();
        let newest = [bytes.get(..SLOT), bytes.get(SLOT..2 * SLOT)]
            .into_iter()
            .filter_map(|slot| decode(slot?))
            .max_by_key(|(counter, _)| *counter);
        Ok(newest.map(|(_, head)| head))
    }

    /// Opens it for writing and writes the first state. Both slots exist afterwards, so that later
    /// writes need no new disk space.
    ///
    /// # Errors
    /// Those of the file system.
    fn create(path: &Path, head: &Head) -> io::Result<Self> {
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = match open() {
            Ok(file) => file,
            Err(_) if path.is_dir() => {
                std::fs::rename(path, path.with_extension(format!("bad-{}", std::process::id())))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn head(next: u64) -> Head {
        Head {
            epoch: Epoch { start: 3, random: 4 },
            next,
            stored: next / 2,
            lent: next / 2,
            boot_id: "9d4a3e0c-0000-4000-8000-123456789abc".into(),
        }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("head");
        assert_eq!(HeadFile::read(&path).expect("reads"), None);
        let mut file = HeadFile::create(&path, &head(1)).expect("creates");
        for n in 2..40 {
            file.write(&head(n)).expect("writes");
            assert_eq!(HeadFile::read(&path).expect("reads"), Some(head(n)));
        }
        let mut bytes = std::fs::read(&path).expect("there");
        let newest = (file.counter % 2) as usize * SLOT;
        bytes[newest + 30] ^= 4;
        std::fs::write(&path, &bytes).expect("writes");
        assert_eq!(HeadFile::read(&path).expect("reads"), Some(head(38)), "the torn slot does not count");
        HeadFile::create(&path, &head(77)).expect("goes on from the whole slot");
        assert_eq!(HeadFile::read(&path).expect("reads"), Some(head(77)));
    }

    #[test]
    fn a_head_in_ram_is_believed_only_by_the_contents_it_was_written_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let (data, copy, run) = (dir.path().join("data"), dir.path().join("copy"), dir.path().join("run"));
        for made in [&data, &copy, &run] {
            std::fs::create_dir(made).expect("creates");
        }
        let homes = |data: &Path| {
            let lock = identity::lock(data).expect("free");
            Homes::new(data, &lock, Some(&run))
        };
        std::fs::write(data.join("head"), b"from before").expect("writes");
        homes(&data).create(&head(7)).expect("creates");
        assert!(!data.join("head").exists(), "one of them is enough");
        assert_eq!(homes(&data).read().expect("reads"), Some(head(7)));
        assert_eq!(homes(&copy).read().expect("reads"), None, "another directory");
        std::fs::copy(data.join("lock"), copy.join("lock")).expect("copies");
        assert_eq!(homes(&copy).read().expect("reads"), None, "a copy of it");
        std::fs::remove_file(data.join("lock")).expect("removes");
        assert_eq!(homes(&data).read().expect("reads"), None, "other contents");
        std::fs::write(data.join("lock"), [7; 99]).expect("writes");
        homes(&data).create(&head(8)).expect("creates");
        assert_eq!(homes(&data).read().expect("reads"), Some(head(8)), "a lock may hold anything");
    }

    #[test]
    fn a_head_that_had_to_change_its_home_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let run = tempfile::tempdir().expect("a directory");
        let lock = identity::lock(dir.path()).expect("free");
        let homes = Homes::new(dir.path(), &lock, Some(run.path()));
        homes.create(&head(5)).expect("creates");
        HeadFile::create(&dir.path().join("head"), &head(9)).expect("creates");
        assert_eq!(homes.read().expect("reads"), Some(head(9)));
        std::fs::remove_dir_all(run.path()).expect("removes");
        homes.create(&head(11)).expect("at home");
        assert_eq!(homes.read().expect("reads"), Some(head(11)));
        let none = Homes::new(dir.path(), &lock, Some(run.path()));
        assert!(none.run.is_none(), "what is not there is not used");
    }
}
