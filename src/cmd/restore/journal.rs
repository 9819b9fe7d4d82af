//! What a restore has to rename, written down before it renames anything, so that whoever starts next can finish it.
//!
//! The journal is also the guard: it lies in `conf.d` under a name that is read first, and no daemon starts with what stands in
//! it. So half of one register map is never taken with half of another, by an earlier version neither.
//!
//! Promises: it is there as a whole or not at all, and only when every new file is. [`finish`] may be cut off anywhere and be
//! begun again; when it is through, everything has its new name, what was there its old one with an ending, and the journal is
//! gone. Nothing is believed but the journal itself, so it takes no configuration to finish.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::cmd::DEFAULT_CONFIG;
use crate::cmd::backup::gather::directory;
use crate::store::{Store, StoreError, seal, unseal};

/// Its place beside the configuration file.
pub const GUARD: &str = "conf.d/00-restore-unfinished.toml";

/// Before the line that holds the steps, a comment to whoever reads the file as a configuration.
const LINE: &str = "# steps: ";

/// One name that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The file that gets the name; none: what is there only goes aside.
    pub new: Option<PathBuf>,
    /// The name.
    pub path: PathBuf,
    /// What that keeps which is there now; none: nothing is there.
    pub keep: Option<PathBuf>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// In this order.
    pub steps: Vec<Step>,
    /// The data directory in which no daemon may start meanwhile, if some of it is there.
    pub data: Option<PathBuf>,
    /// A directory that is not needed afterwards.
    pub staged: Option<PathBuf>,
}

/// Why an interrupted restore could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// Another process is at it, or a daemon is in the way: later.
    #[error("{0}")]
    Busy(String),
    /// The journal cannot be followed, now or later.
    #[error("{0}")]
    Broken(String),
    /// The file system refused: later, or as root.
    #[error("{0}")]
    Disk(String),
}

impl Unfinished {
    /// What to do, for a person.
    #[must_use]
    pub fn hint(&self, main: &Path) -> String {
        match self {
            Self::Busy(_) => "it is tried again at the next start".to_owned(),
            Self::Broken(_) => "run `sudo fieldgate restore` again with the same file".to_owned(),
            Self::Disk(_) => format!("run `{}`", command(main)),
        }
    }
}

/// The command that finishes it.
fn command(main: &Path) -> String {
    let more = if main == Path::new(DEFAULT_CONFIG) {
        String::new()
    } else {
        format!(" --config {}", main.display())
    };
    format!("sudo fieldgate restore --finish{more}")
}

/// Something that happens before each change of a name; tests end there.
pub type Before<'a> = &'a mut dyn FnMut() -> io::Result<()>;

impl Journal {
    /// Writes it down for the configuration file `main`, durably. The file that is returned holds it for this process.
    ///
    /// # Errors
    /// Those of the file system; there is none then, or the one that was there.
    pub fn write(&self, main: &Path) -> io::Result<File> {
        let guard = directory(main).join(GUARD);
        let parent = directory(&guard);
        fs::create_dir_all(parent)?;
        let tmp = guard.with_extension("tmp");
        let mut file = File::create(&tmp)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let says = toml::Value::String(format!("run `{}`", command(main)));
        let text = format!(
            "# Half of this configuration is from before a restore, and half from the backup: no daemon starts with it.\n\
             restore_unfinished = {says}\n{LINE}{}\n",
            seal(self)?
        );
        file.write_all(text.as_bytes())?;
        // For the daemon to read, whatever root's umask is: there are only names in it.
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::rename(&tmp, &guard)?;
        sync(&guard)?;
        sync(parent)?;
        Ok(file)
    }

    /// Does what it says, and removes it.
    ///
    /// # Errors
    /// It cannot be followed, or those of the file system. It is there then, and may be followed again.
    pub fn follow(&self, main: &Path, before: Before<'_>) -> Result<(), Unfinished> {
        for step in &self.steps {
            step.take(before)?;
        }
        if let Some(staged) = &self.staged {
            // What is left in it is nobody's; a directory that stays is begun anew by the next restore.
            let _ = fs::remove_dir_all(staged);
        }
        let guard = directory(main).join(GUARD);
        // One that an earlier restore left and nobody could follow goes, too: this one got through.
        let mut gone = || match is_there(&guard) {
            true => {
                before()?;
                fs::remove_file(&guard)?;
                sync(&guard)
            }
            false => Ok(()),
        };
        gone().map_err(|e| said(&guard, &e))
    }
}

impl Step {
    /// Renames, or finds that it was done.
    fn take(&self, before: Before<'_>) -> Result<(), Unfinished> {
        let path = &self.path;
        if let Some(new) = self.new.as_ref().filter(|new| !is_there(new)) {
            let replaced = self.keep.as_ref().is_none_or(|keep| is_there(keep) && !are_one(keep, path));
            if is_there(path) && replaced {
                return Ok(());
            }
            return Err(Unfinished::Broken(format!("{} is gone", new.display())));
        }
        let mut change = || {
            if let Some(keep) = self.keep.as_ref().filter(|keep| !is_there(keep) && is_there(path)) {
                before()?;
                // With two names there is no moment in which the name is nobody's; FAT knows no such thing.
                if self.new.is_none() || fs::hard_link(path, keep).is_err() {
                    fs::rename(path, keep)?;
                }
            }
            if let Some(new) = &self.new {
                before()?;
                fs::rename(new, path)?;
            }
            sync(path)
        };
        change().map_err(|e| said(path, &e))
    }
}

fn said(path: &Path, error: &io::Error) -> Unfinished {
    Unfinished::Disk(format!("{}: {error}", path.display()))
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Whether two names are of one file.
fn are_one(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| path.symlink_metadata().map(|m| (m.dev(), m.ino())).ok();
    place(a).is_some_and(|a| place(b) == Some(a))
}

/// Makes a name durable.
///
/// # Errors
/// Those of the file system.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

/// Finishes what was interrupted beside the configuration file `main`; returns whether there was anything.
///
/// # Errors
/// It cannot be finished now, or never.
pub fn finish(main: &Path) -> Result<bool, Unfinished> {
    finish_with(main, &mut || Ok(()))
}

fn finish_with(main: &Path, before: Before<'_>) -> Result<bool, Unfinished> {
    let guard = directory(main).join(GUARD);
    let mut file = match File::open(&guard) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(false),
        Err(e) => return Err(said(&guard, &e)),
    };
    let busy = || Unfinished::Busy(format!("a restore is at work ({})", guard.display()));
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| busy())?;
    let mut text = String::new();
    io::Read::read_to_string(&mut file, &mut text).map_err(|e| said(&guard, &e))?;
    match (file.metadata(), guard.symlink_metadata()) {
        (Ok(held), Ok(named)) if (held.dev(), held.ino()) == (named.dev(), named.ino()) => {}
        (_, Err(_)) => return Ok(false),
        _ => return Err(busy()),
    }
    let journal: Option<Journal> = text.lines().find_map(|line| unseal(line.strip_prefix(LINE)?));
    let journal = journal
        .ok_or_else(|| Unfinished::Broken(format!("{} does not say what is left to do", guard.display())))?;
    let _held = match &journal.data {
        Some(dir) => Some(Store::only_lock(dir).map_err(|error| match error {
            StoreError::InUse(_) => Unfinished::Busy(format!("a daemon runs on {}", dir.display())),
            other => Unfinished::Disk(other.to_string()),
        })?),
        None => None,
    };
    journal.follow(main, before)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A box before a restore: what is in its files, by name; `None` is what is not there.
    const NAMES: [&str; 6] =
        ["conf.d/a.toml", "conf.d/own.toml", "main.toml", "data/head", "data/mark", "data/db"];

    struct Box {
        dir: tempfile::TempDir,
        journal: Journal,
    }

    impl Box {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let at = |name: &str| dir.path().join(name);
            for made in ["conf.d", "data", "data/restoring"] {
                fs::create_dir(at(made)).expect("made");
            }
            for name in NAMES.iter().filter(|name| **name != "conf.d/a.toml") {
                fs::write(at(name), "old").expect("written");
            }
            let put = |new: &str, name: &str, was: bool| {
                fs::write(at(new), "new").expect("written");
                let keep = was.then(|| at(&format!("{name}.before")));
                Step { new: Some(at(new)), path: at(name), keep }
            };
            let aside =
                |name: &str| Step { new: None, path: at(name), keep: Some(at(&format!("{name}.before"))) };
            let steps = vec![
                put("conf.d/a.toml.restoring", "conf.d/a.toml", false),
                aside("conf.d/own.toml"),
                put("main.toml.restoring", "main.toml", true),
                aside("data/head"),
                put("data/restoring/mark", "data/mark", true),
                put("data/restoring/db", "data/db", true),
            ];
            let journal = Journal { steps, data: Some(at("data")), staged: Some(at("data/restoring")) };
            Self { dir, journal }
        }

        fn main(&self) -> PathBuf {
            self.dir.path().join("main.toml")
        }

        fn guarded(&self) -> bool {
            is_there(&self.dir.path().join(GUARD))
        }

        fn read(&self, ending: &str) -> Vec<Option<String>> {
            let read = |name: &&str| fs::read_to_string(self.dir.path().join(format!("{name}{ending}"))).ok();
            NAMES.iter().map(read).collect()
        }

        /// It is the new one, and nothing of the old one is gone.
        fn assert_new(&self, when: &str) {
            let some = |text: &str| Some(text.to_owned());
            let (new, old) = (some("new"), some("old"));
            let expected = [new.clone(), None, new.clone(), None, new.clone(), new];
            assert_eq!(self.read(""), expected, "{when}");
            assert_eq!(
                self.read(".before"),
                [None, old.clone(), old.clone(), old.clone(), old.clone(), old],
                "{when}"
            );
            assert!(!self.guarded() && !is_there(&self.dir.path().join("data/restoring")), "{when}");
        }
    }

    /// Ends at the n-th change of a name, counting from 0.
    fn cut_at(n: usize) -> impl FnMut() -> io::Result<()> {
        let mut left = n;
        move || match left.checked_sub(1) {
            Some(less) => {
                left = less;
                Ok(())
            }
            None => Err(io::Error::other("cut")),
        }
    }

    #[test]
    fn cut_off_at_any_name_and_then_at_any_other_it_is_finished_to_the_same_end() {
        let mut cuts = 0;
        for first in 0.. {
            let place = Box::new();
            drop(place.journal.write(&place.main()).expect("written"));
            if place.journal.follow(&place.main(), &mut cut_at(first)).is_ok() {
                place.assert_new("not cut");
                break;
            }
            for second in 0.. {
                let place = Box::new();
                drop(place.journal.write(&place.main()).expect("written"));
                place.journal.follow(&place.main(), &mut cut_at(first)).expect_err("cut");
                assert!(place.guarded(), "{first}: no daemon starts with half of it");
                let again = finish_with(&place.main(), &mut cut_at(second));
                let when = format!("cut at {first} and {second}");
                if again.is_ok() {
                    place.assert_new(&when);
                    break;
                }
                assert!(matches!(again, Err(Unfinished::Disk(_))) && place.guarded(), "{when}");
                assert!(finish(&place.main()).expect("finished"));
                place.assert_new(&when);
                assert!(!finish(&place.main()).expect("nothing is left"));
                cuts += 1;
            }
        }
        assert!(cuts > 40, "{cuts}");
    }

    #[test]
    fn a_file_system_without_second_names_has_the_same_end() {
        let place = Box::new();
        drop(place.journal.write(&place.main()).expect("written"));
        // As FAT leaves it: the old one has its other name, and the name is nobody's.
        fs::rename(place.main(), place.dir.path().join("main.toml.before")).expect("renamed");
        assert!(finish(&place.main()).expect("finished"));
        place.assert_new("a name was nobody's");
    }

    #[test]
    fn what_is_at_work_is_left_alone_and_what_cannot_be_followed_says_what_to_do() {
        let place = Box::new();
        let held = place.journal.write(&place.main()).expect("written");
        assert!(
            matches!(finish(&place.main()), Err(Unfinished::Busy(_))),
            "the restore itself is still there"
        );
        drop(held);
        let daemon = Store::only_lock(&place.dir.path().join("data")).expect("free");
        assert!(matches!(finish(&place.main()), Err(Unfinished::Busy(_))), "a daemon has the data");
        drop(daemon);
        fs::remove_file(place.dir.path().join("data/restoring/db")).expect("removed");
        let gone = finish(&place.main()).expect_err("it is not all there");
        assert!(matches!(&gone, Unfinished::Broken(why) if why.contains("restoring/db")), "{gone}");
        assert!(gone.hint(&place.main()).contains("again with the same file"));
        assert!(place.guarded());

        let place = Box::new();
        drop(place.journal.write(&place.main()).expect("written"));
        let guard = place.dir.path().join(GUARD);
        let changed = fs::read_to_string(&guard).expect("there").replace("own.toml", "omn.toml");
        fs::write(&guard, changed).expect("written");
        assert!(matches!(finish(&place.main()), Err(Unfinished::Broken(_))), "a byte is another");
        assert_eq!(place.read("")[2].as_deref(), Some("old"), "and nothing was done");
    }

    #[test]
    fn no_daemon_starts_with_it_and_it_says_what_to_do() {
        let place = Box::new();
        fs::write(place.main(), "").expect("written");
        fs::remove_file(place.dir.path().join("conf.d/own.toml")).expect("removed");
        let load = || crate::config::load(&place.main(), crate::registry::DRIVERS);
        assert!(load().is_ok());
        drop(place.journal.write(&place.main()).expect("written"));
        let report = load().expect_err("refused").render(false);
        let command = format!("sudo fieldgate restore --finish --config {}", place.main().display());
        assert!(report.contains(&command), "{report}");
        assert_eq!(self::command(Path::new(DEFAULT_CONFIG)), "sudo fieldgate restore --finish");
    }
}
