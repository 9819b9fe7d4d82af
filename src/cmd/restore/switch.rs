//! The change from the old to the new: renames, in an order in which no half of it is taken for a whole.
//!
//! 1. All new files are written beside their places and synced.
//! 2. If the configuration changes, and more than one thing does, everything that has to be renamed is written down
//!    ([`Journal`]), in a place in which it keeps every daemon from starting with half of it.
//! 3. The configuration's files, the main one last; then the data: the head aside, the mark, the database. Until the database has
//!    its name the directory is the old one (see `Held::files`), and from then on the new one.
//! 4. The journal goes.
//!
//! Each step is one rename, which a file system does as a whole. What was there keeps a second name first. If it is cut off, whoever
//! starts next finishes it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::journal::{self, GUARD, Journal, Step};
use super::owner;
use super::plan::Change;
use super::stage::Staged;
use crate::cmd::backup::gather::directory;
use crate::cmd::backup::manifest::Member;
use crate::cmd::exit::Exit;
use crate::store::{Held, READY};

/// The queue that is put in.
pub struct Data<'a> {
    /// Its directory.
    pub held: &'a Held,
    /// Where the new files are.
    pub staged: &'a Staged,
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
    move |e| Exit::Failed(format!("{}: {e}; nothing was changed", path.display()))
}

/// Does it.
///
/// # Errors
/// Those of the file system. Then, too, nothing is lost: nothing was changed, or the next start finishes it.
pub fn switch(config: &[Change<'_>], data: Option<Data<'_>>, main: &Path, stamp: &str) -> Result<(), Exit> {
    let main = std::path::absolute(main).map_err(said(main))?;
    for change in config {
        if let Change::Put(path, member, bytes) = change {
            let path = std::path::absolute(path).map_err(said(path))?;
            put_beside(&path, member, bytes, directory(&main))?;
        }
    }
    let journal = written_down(config, data.as_ref(), stamp).map_err(said(&main))?;
    // A queue alone needs none: until its last rename the directory is the old one. One rename is no half of anything.
    let several = journal.steps.len() > 1 && !config.is_empty();
    let guard = directory(&main).join(GUARD);
    let failed = |error: journal::Unfinished| {
        let hint = if several { error.hint(&main) } else { "the same command again finishes it".to_owned() };
        Exit::Failed(format!("{error}; the restore is not finished: {hint}"))
    };
    let _at_work = if several {
        let held = journal.write(&main).map_err(said(&guard))?;
        if let Some(data) = &data {
            data.staged.keep();
        }
        Some(held)
    } else {
        None
    };
    journal.follow(&main, &mut || Ok(())).map_err(failed)
}

/// What has to be renamed.
fn written_down(config: &[Change<'_>], data: Option<&Data<'_>>, stamp: &str) -> io::Result<Journal> {
    let step = |new: Option<&Path>, path: &Path| -> io::Result<Step> {
        let path = std::path::absolute(path)?;
        let keep = path.symlink_metadata().is_ok().then(|| with(&path, &format!("{BEFORE}{stamp}")));
        Ok(Step { new: new.map(std::path::absolute).transpose()?, path, keep })
    };
    let mut steps = Vec::new();
    for change in config {
        steps.push(match change {
            Change::Put(path, ..) => step(Some(&with(path, NEW)), path)?,
            Change::Aside(path) => step(None, path)?,
        });
    }
    let (mut dir, mut staged) = (None, None);
    if let Some(data) = data {
        for path in data.held.files() {
            steps.push(step(None, &path)?);
        }
        for name in READY {
            steps.push(step(Some(&data.staged.path().join(name)), &data.held.dir().join(name))?);
        }
        journal::sync(data.staged.path())?;
        dir = Some(std::path::absolute(data.held.dir())?);
        staged = Some(std::path::absolute(data.staged.path())?);
    }
    Ok(Journal { steps, data: dir, staged })
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
    file.sync_all().map_err(said(&new))?;
    // Its name, and those of directories that were made for it.
    for made in new.ancestors().take_while(|at| at.starts_with(dir) && *at != dir) {
        journal::sync(made).map_err(said(made))?;
    }
    Ok(())
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
}
