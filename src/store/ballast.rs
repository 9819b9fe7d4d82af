//! The ballast: room that is kept for the day on which the disk is full.
//!
//! SQLite needs room even to delete: a transaction is appended to the WAL first. So a file `ballast` beside the database
//! occupies some blocks (2 MiB, less on a small disk, none on a tiny one). When a commit finds no room it is given up,
//! and the same commit is done again at once; nobody outside sees a fault.
//!
//! # What it promises
//! - Near the end (below `min_free`, and in any case below [`floor`]) the log takes only room of its own, so what the
//!   ballast leaves is not eaten by the backlog: new blocks take the room of old ones (`quota::excess`), and the WAL is
//!   written back early. In the moment it is given up its room goes over to the database, for what the WAL has yet to
//!   bring it, and to the WAL, before others take it (where the file system can reserve room behind a file's end).
//! - It is made again only after a minute, and when the disk has plainly more room: that much is tried, then given back.
//!   So it never takes the last room, and a disk that is full now and then makes it come and go once a minute at most.
//! - It is never needed. A directory, a link or rubbish under its name means that there is none. Half made (a kill, a
//!   power cut) it counts as what it occupies, and is completed later. It holds nothing, so nothing reads it.
//! - It is part of `max_size`, and of the status's `bytes`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, OFlags, fallocate};

use super::identity;
use super::quota::Limits;
use super::state::Tick;
use super::trouble::Trouble;
use super::writer::Writer;

/// Its name in the data directory.
const NAME: &str = "ballast";
/// Most that it takes: a commit of a whole group and the pages it writes back are below 1 MiB.
const MOST: u64 = 2 << 20;
/// With less it would be of no use.
const LEAST: u64 = 128 << 10;
/// Room that is tried before it is made, in ballasts.
const PLENTY: u64 = 4;
/// So long after it was given up it is not made again.
const CALM: Duration = Duration::from_secs(60);
/// How often it is looked after. The first time only then, so that no start waits for it.
const EVERY: Duration = Duration::from_secs(10);
/// Bytes that go over at a time.
const PIECE: u64 = 64 << 10;
/// Bytes of the WAL after which it is written back near the end of the disk.
const SHORT_WAL: u64 = 256 << 10;

/// How large it should be: a 64th of the disk and a 32nd of what the log may have at most.
#[must_use]
pub fn size(disk: u64, max_size: u64) -> u64 {
    let share = (disk / 64).min(max_size / 32).min(MOST) & !4095;
    if share < LEAST { 0 } else { share }
}

/// Free disk below which the log does not grow, even if `min_free` is less.
#[must_use]
pub fn floor(size: u64) -> u64 {
    2 * size
}

/// What is known when it is decided about.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Bytes that it occupies.
    pub held: u64,
    /// Bytes that it should.
    pub size: u64,
    /// Free disk, if it is known.
    pub free: Option<u64>,
    /// The user's `min_free`.
    pub min_free: u64,
    /// How long ago it was given up in this life.
    pub given_up: Option<Duration>,
}

/// Whether it is to be made (or completed, or cut) now. The disk must keep `min_free`, and eight ballasts beside it.
#[must_use]
pub fn is_due(seen: Seen) -> bool {
    let Seen { held, size, free, min_free, given_up } = seen;
    let roomy = free.is_some_and(|free| free >= min_free.max(8 * size).saturating_add(2 * size));
    held > size || (held < size && roomy && given_up.is_none_or(|since| since >= CALM))
}

/// The file, and what is remembered of it.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    held: u64,
    size: u64,
    given_up: Option<Tick>,
    due: Tick,
    /// The end of the disk is near enough to write the WAL back early, as the last commit saw it.
    tight: bool,
}

impl Ballast {
    /// What there is of it in `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let path = dir.join(NAME);
        Self { held: occupied(&path), path, size: 0, given_up: None, due: Tick::now() + EVERY, tight: false }
    }

    /// Looks what there is and what there should be.
    fn look(&mut self, max_size: u64) {
        let disk = self.path.parent().and_then(|dir| rustix::fs::statvfs(dir).ok());
        self.held = occupied(&self.path);
        self.size = disk.map_or(0, |v| size(v.f_blocks.saturating_mul(v.f_frsize), max_size));
    }

    /// The limits with the ballast in them: it is part of the budget; near the end of the disk the log does not grow.
    #[must_use]
    pub fn within(&self, limits: Limits) -> Limits {
        // A quota is full while the disk is not: after it was given up, only the ballast says that there is room.
        let out = self.given_up.is_some() && self.held < self.size;
        let min_free = if out { u64::MAX } else { limits.min_free.max(floor(self.size)) };
        Limits { max_size: limits.max_size.saturating_sub(self.held), min_free, ..limits }
    }

    /// Bytes after which the WAL is written back.
    #[must_use]
    pub fn wal(&self, limits: &Limits) -> u64 {
        if self.tight && self.size > 0 { limits.wal().min(SHORT_WAL) } else { limits.wal() }
    }

    /// What the commit sees of the disk.
    pub fn note(&mut self, free: Option<u64>, limits: &Limits) {
        self.tight = free.is_some_and(|free| free < limits.min_free.max(8 * self.size));
    }

    /// Makes it, completes it, or cuts it to its size.
    fn make(&mut self) -> io::Result<()> {
        let open = |create| {
            let nofollow = OFlags::NOFOLLOW.bits().cast_signed();
            OpenOptions::new()
                .write(true)
                .create(create)
                .truncate(false)
                .custom_flags(nofollow)
                .open(&self.path)
        };
        if self.size == 0 {
            return std::fs::remove_file(&self.path);
        }
        let file = open(true)?;
        let made = if self.held > self.size { Ok(()) } else { fill(&file, self.size) };
        let made = made.and_then(|()| file.set_len(self.size));
        if made.is_err() {
            // The last room is not ours to take.
            let _ = std::fs::remove_file(&self.path);
        }
        made
    }

    /// Gives it up. Its room goes over to the database, which is to be of `pages` bytes, and its WAL. No connection may
    /// be open: closing a file that SQLite has open too takes its locks away.
    fn give_up(&mut self, database: &Path, pages: u64) -> io::Result<()> {
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        let wants = [(database, pages + self.held / 4), (Path::new(&wal), self.held / 2)];
        let files = wants.iter().filter_map(|(path, size)| Some((writable(path).ok()?, *size)));
        // Piece by piece: whoever else waits for room gets little of it in between.
        if let Ok(own) = writable(&self.path) {
            let mut left = self.held;
            for (file, size) in files {
                let mut got = 0;
                while got < size && left > 0 {
                    left = left.saturating_sub(PIECE);
                    if own.set_len(left).is_err() {
                        break;
                    }
                    while got < size
                        && fallocate(&file, FallocateFlags::KEEP_SIZE, 0, size.min(got + PIECE)).is_ok()
                    {
                        got += PIECE;
                    }
                }
            }
        }
        std::fs::remove_file(&self.path).or_else(|_| writable(&self.path)?.set_len(0))?;
        self.given_up = Some(Tick::now());
        self.held = 0;
        Ok(())
    }
}

fn writable(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Bytes that a file really occupies; a hole is no room. 0 if it is no plain file.
fn occupied(path: &Path) -> u64 {
    let plain = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file);
    plain.map_or(0, |m| m.len().min(m.blocks().saturating_mul(512)))
}

/// Makes the file occupy `size` bytes, after it was tried whether there is plenty.
fn fill(file: &File, size: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, PLENTY * size) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => written(file, size),
        done => Ok(done?),
    }
}

/// Where the file system cannot reserve room: written, with what no file system can make smaller.
fn written(file: &File, size: u64) -> io::Result<()> {
    let (mut bytes, mut at) = (vec![0; 64 << 10], 0);
    while at < size {
        fastrand::fill(&mut bytes);
        file.write_all_at(&bytes, at)?;
        at += bytes.len() as u64;
    }
    file.sync_all()
}

/// Whether the disk (or a quota) has no room: SQLite does not always say why a write failed.
fn is_full(dir: &Path) -> bool {
    let path = dir.join("ballast.try");
    let tried =
        File::create(&path).and_then(|file| match fallocate(&file, FallocateFlags::empty(), 0, SHORT_WAL) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => written(&file, SHORT_WAL),
            done => Ok(done?),
        });
    let _ = std::fs::remove_file(&path);
    tried.is_err_and(|e| super::trouble::is_no_room(&e))
}

impl Writer {
    /// The limits of this moment.
    pub(super) fn limits(&self) -> Limits {
        let limits = self.shared.state().limits;
        self.ballast.within(limits)
    }

    /// Looks what there is of the ballast, and tells the status.
    pub(super) fn look_at_ballast(&mut self) {
        let max_size = self.shared.state().limits.max_size;
        self.ballast.look(max_size);
        self.shared.state().figures.ballast = self.ballast.held;
    }

    /// Makes the ballast if it is due.
    pub(super) fn tend_ballast(&mut self, now: Tick) {
        if now < self.ballast.due {
            return;
        }
        self.ballast.due = now + EVERY;
        self.look_at_ballast();
        let seen = Seen {
            held: self.ballast.held,
            size: self.ballast.size,
            free: super::room::free_disk(&self.shared.dir),
            min_free: self.shared.state().limits.min_free,
            given_up: self.ballast.given_up.map(|since| now.saturating_duration_since(since)),
        };
        if !is_due(seen) {
            return;
        }
        match self.ballast.make() {
            Ok(()) => {
                if self.ballast.given_up.take().is_some() {
                    tracing::info!("the disk has room again; the ballast is made anew");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no ballast for a full disk: `{}` cannot be made", self.ballast.path.display());
                let full = super::trouble::is_no_room(&error);
                self.ballast.given_up = self.ballast.given_up.filter(|_| full).map(|_| now);
                self.ballast.due = now + 10 * CALM;
            }
        }
        self.look_at_ballast();
    }

    /// If it is room that is missing, and there is a ballast: it is given up, and everything can be tried again.
    pub(super) fn relieve(&mut self, trouble: &Trouble) -> bool {
        if self.ballast.held == 0 {
            return false;
        }
        let full = match trouble {
            Trouble::Full(_) => true,
            Trouble::Disk(_) => is_full(&self.shared.dir),
            Trouble::Damaged(_) | Trouble::Unreadable(_) | Trouble::Newer(_) => false,
        };
        let database = identity::database(&self.shared.dir);
        let pages = self.shared.state().figures.bytes;
        if !full || self.log.is_some() || self.ballast.give_up(&database, pages).is_err() {
            return false;
        }
        tracing::warn!(
            %trouble,
            "the disk is full: the ballast is given up, and what is new takes the room of the oldest readings; make room on it"
        );
        self.look_at_ballast();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn seen(held: u64, free: u64) -> Seen {
        Seen { held, size: 2 * MIB, free: Some(free), min_free: 0, given_up: None }
    }

    #[test]
    fn it_takes_no_unreasonable_share() {
        assert_eq!(size(64 << 30, 1 << 30), 2 * MIB);
        assert_eq!(size(64 * MIB, 1 << 30), MIB, "a 64th of a small disk");
        assert_eq!(size(64 << 30, 16 * MIB), MIB / 2, "a 32nd of a small log");
        assert_eq!((size(3 * MIB, 1 << 30), size(64 << 30, 512 << 10)), (0, 0), "not worth it");
        assert_eq!(size(10_000_000, 1 << 30) % 4096, 0);
    }

    #[test]
    fn it_is_made_where_there_is_plainly_room_and_never_below_min_free() {
        assert!(is_due(seen(0, 20 * MIB)) && is_due(seen(MIB, 20 * MIB)), "new, and half made");
        assert!(!is_due(seen(0, 20 * MIB - 1)) && !is_due(seen(2 * MIB, 20 * MIB)));
        assert!(!is_due(Seen { min_free: 256 * MIB, ..seen(0, 259 * MIB) }));
        assert!(is_due(Seen { min_free: 256 * MIB, ..seen(0, 260 * MIB) }));
        assert!(!is_due(Seen { free: None, ..seen(0, 0) }), "not known");
        assert!(is_due(seen(3 * MIB, 0)), "what is too much goes at any time");
        assert!(!is_due(Seen { min_free: u64::MAX, ..seen(0, u64::MAX - 1) }));
    }

    #[test]
    fn after_it_was_given_up_it_takes_its_time() {
        let after = |s| is_due(Seen { given_up: Some(Duration::from_secs(s)), ..seen(0, 1 << 40) });
        assert!(!after(0) && !after(59) && after(60));
    }

    #[test]
    fn making_it_leaves_the_log_room_to_grow() {
        // Otherwise it would be the ballast that squeezes the log.
        for (size, min_free) in [(2 * MIB, 0), (2 * MIB, 256 * MIB), (LEAST, 0)] {
            let free = min_free.max(8 * size) + 2 * size;
            assert!(is_due(Seen { held: 0, size, free: Some(free), min_free, given_up: None }));
            assert!(free - size > min_free.max(floor(size)));
        }
    }

    fn made(dir: &Path) -> Ballast {
        let mut ballast = Ballast::new(dir);
        ballast.size = MIB;
        ballast.make().expect("makes");
        ballast.held = occupied(&ballast.path);
        ballast
    }

    #[test]
    fn it_occupies_what_it_says_is_completed_and_is_given_up() {
        let dir = tempfile::tempdir().expect("a directory");
        // Half of it is a hole, as a copy that saves room leaves it.
        let half = File::create(dir.path().join(NAME)).expect("creates");
        half.set_len(MIB).expect("grows");
        assert_eq!(Ballast::new(dir.path()).held, 0, "a hole is no room");
        let mut ballast = made(dir.path());
        assert_eq!((ballast.held, std::fs::metadata(&ballast.path).expect("there").len()), (MIB, MIB));
        let limits = Limits {
            max_size: 64 * MIB,
            max_age: Duration::ZERO,
            min_free: 5,
            history: Duration::ZERO,
            commit_interval: Duration::ZERO,
            thin: None,
        };
        let within = ballast.within(limits);
        assert_eq!((within.max_size, within.min_free), (63 * MIB, floor(MIB)));
        let (database, wal) = (dir.path().join("fieldgate.db"), dir.path().join("fieldgate.db-wal"));
        for (path, holds) in [(&database, "pages"), (&wal, "frames")] {
            std::fs::write(path, holds).expect("writes");
        }
        ballast.give_up(&database, 8192).expect("gives up");
        assert!(!ballast.path.exists() && ballast.held == 0);
        for (path, holds) in [(&database, "pages"), (&wal, "frames")] {
            assert_eq!(std::fs::read(path).expect("there"), holds.as_bytes(), "what it holds is untouched");
        }
        assert_eq!(ballast.within(limits).min_free, u64::MAX, "only room of its own from now on");
    }

    #[test]
    fn it_can_be_written_where_room_cannot_be_reserved() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(NAME);
        let file = File::create(&path).expect("creates");
        written(&file, MIB).expect("writes");
        assert_eq!(occupied(&path), MIB);
    }

    #[test]
    fn anything_under_its_name_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join(NAME)).expect("creates");
        let mut ballast = Ballast::new(dir.path());
        ballast.size = MIB;
        assert_eq!(ballast.held, 0);
        assert!(ballast.make().is_err() && dir.path().join(NAME).is_dir());
        std::fs::remove_dir(dir.path().join(NAME)).expect("removes");
        let other = dir.path().join("precious");
        std::fs::write(&other, b"somebody's").expect("writes");
        std::os::unix::fs::symlink(&other, dir.path().join(NAME)).expect("links");
        assert!(ballast.make().is_err(), "no link is followed");
        assert_eq!(std::fs::read(&other).expect("there"), b"somebody's");
    }

    #[test]
    fn a_disk_with_room_is_not_called_full() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!is_full(dir.path()) && !is_full(&dir.path().join("gone")));
        assert!(std::fs::read_dir(dir.path()).expect("lists").next().is_none(), "nothing is left behind");
    }
}
