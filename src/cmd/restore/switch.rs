//! The change from the old to the new: renames, in an order in which no half of it is taken for a whole.
//!
//! 1. All new files are written beside their places and synced.
//! 2. If more than one thing changes in the configuration, a file is put into `conf.d` that no daemon starts with
//!    ([`GUARD`]): half of one register map and half of another would be worse than none.
//! 3. The configuration's files, the main one last; then the data: the head aside, the mark, the database. Until the database has
//!    its name the directory is the old one (see `Held::files`), and from then on the new one.
//! 4. The guard goes.
//!
//! Each step is one rename, which a file system does as a whole. What was there keeps a second name first.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::owner;
use super::plan::{Change, GUARD};
use crate::cmd::backup::gather::directory;
use crate::cmd::backup::manifest::Member;
use crate::cmd::exit::Exit;
use crate::store::{Held, READY};

/// What the guard says; the daemon shows the line.
const SAYS: &str = "# Half of this configuration is from before a restore, and half from the backup.\n\
    restore_unfinished = \"run `fieldgate restore` again with the same file\"\n";

/// The queue that is put in.
pub struct Data<'a> {
    /// Its directory.
    pub held: &'a Held,
    /// Where the new files are.
    pub staged: &'a Path,
}

/// A time for names: `20261128T063000Z`, with a number where something of that name is there already.
pub fn stamp(now_ms: i64, config: &Path, data: Option<&Path>) -> String {
    let time = jiff::Timestamp::from_millisecond(now_ms).unwrap_or_default().to_string();
    let time: String =
        time.split('.').next().unwrap_or_default().chars().filter(|c| !"-:Z".contains(*c)).collect();
    let dirs = [
        Some(directory(config).to_owned()),
        Some(directory(config).join("conf.d")),
        data.map(Path::to_owned),
    ];
    let taken = |stamp: &str| {
        let ending = format!("{BEFORE}{stamp}");
        dirs.iter()
            .flatten()
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten()
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().ends_with(&ending))
    };
    let names = std::iter::once(format!("{time}Z")).chain((2..).map(|n| format!("{time}Z-{n}")));
    names.into_iter().find(|name| !taken(name)).unwrap_or(time)
}

const BEFORE: &str = ".before-restore-";
const NEW: &str = ".restoring";

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn said(path: &Path) -> impl Fn(io::Error) -> Exit + '_ {
    move |e| Exit::Failed(format!("{}: {e}; the same command again finishes the restore", path.display()))
}

/// Does it.
///
/// # Errors
/// Those of the file system. Then, too, nothing is lost, and doing it again finishes it.
pub fn switch(config: &[Change<'_>], data: Option<Data<'_>>, main: &Path, stamp: &str) -> Result<(), Exit> {
    for change in config {
        if let Change::Put(path, member, bytes) = change {
            put_beside(path, member, bytes, directory(main))?;
        }
    }
    let guard = directory(main).join(GUARD);
    let several = config.len() + usize::from(data.is_some()) > 1 && !config.is_empty();
    if several {
        raise(&guard)?;
    }
    for change in config {
        match change {
            Change::Put(path, ..) => replace(&with(path, NEW), path, stamp)?,
            Change::Aside(path) => aside(path, stamp)?,
        }
    }
    if let Some(data) = data {
        for path in data.held.files() {
            aside(&path, stamp)?;
        }
        for name in READY {
            replace(&data.staged.join(name), &data.held.dir().join(name), stamp)?;
        }
    }
    // One that an earlier restore left goes, too: this one got through.
    if guard.symlink_metadata().is_ok() {
        fs::remove_file(&guard).map_err(said(&guard))?;
        sync(&guard)?;
    }
    Ok(())
}

/// Writes the new file beside its place, whole and synced.
fn put_beside(path: &Path, member: &Member, bytes: &[u8], dir: &Path) -> Result<(), Exit> {
    let parent = directory(path);
    fs::create_dir_all(parent).map_err(said(parent))?;
    let new = with(path, NEW);
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(said(&new)(e)),
        _ => {}
    }
    let open = || fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    let mut file = open().map_err(said(&new))?;
    file.write_all(bytes).map_err(said(&new))?;
    owner::of_a_file(&new, member, dir)?;
    file.sync_all().map_err(said(&new))
}

fn raise(guard: &Path) -> Result<(), Exit> {
    let parent = directory(guard);
    fs::create_dir_all(parent).map_err(said(parent))?;
    let mut file = File::create(guard).map_err(said(guard))?;
    file.write_all(SAYS.as_bytes()).map_err(said(guard))?;
    file.sync_all().map_err(said(guard))?;
    sync(guard)
}

/// `new` gets the name of `path`. What has it now keeps another one; where a file cannot have two names (FAT), there is a
/// moment in which the name is nobody's.
fn replace(new: &Path, path: &Path, stamp: &str) -> Result<(), Exit> {
    if path.symlink_metadata().is_ok()
        && fs::hard_link(path, with(path, &format!("{BEFORE}{stamp}"))).is_err()
    {
        aside(path, stamp)?;
    }
    fs::rename(new, path).map_err(said(path))?;
    sync(path)
}

fn aside(path: &Path, stamp: &str) -> Result<(), Exit> {
    fs::rename(path, with(path, &format!("{BEFORE}{stamp}"))).map_err(said(path))?;
    sync(path)
}

fn sync(path: &Path) -> Result<(), Exit> {
    File::open(directory(path)).and_then(|dir| dir.sync_all()).map_err(said(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_a_time_that_no_name_has_yet() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("fieldgate.toml");
        let now = || stamp(1_795_357_800_123, &config, None);
        assert_eq!(now(), "20261122T143000Z");
        fs::write(dir.path().join("fieldgate.toml.before-restore-20261122T143000Z"), "").expect("written");
        assert_eq!(now(), "20261122T143000Z-2");
    }

    #[test]
    fn no_daemon_starts_with_the_guard_and_it_says_what_to_do() {
        let dir = tempfile::tempdir().expect("a directory");
        let main = dir.path().join("fieldgate.toml");
        fs::write(&main, "").expect("written");
        let load = || crate::config::load(&main, crate::registry::DRIVERS);
        assert!(load().is_ok());
        raise(&dir.path().join(GUARD)).expect("raised");
        let report = load().expect_err("refused").render(false);
        assert!(report.contains("run `fieldgate restore` again"), "{report}");
    }
}
