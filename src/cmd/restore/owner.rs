//! Whose the restored files are: as the package has them. A file of the configuration belongs to whom it belonged to, by
//! name, where this box has that name; the queue belongs to the owner of its directory, which is user `fieldgate` where there
//! is one.
//!
//! Only root can give files away; who is not, keeps them.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::cmd::backup::manifest::Member;
use crate::cmd::backup::owners;
use crate::cmd::exit::Exit;

/// The system user of the package.
const USER: &str = "fieldgate";

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Exit + '_ {
    move |e| Exit::Failed(format!("{}: {e}", path.display()))
}

fn give(path: &Path, user: Option<u32>, group: Option<u32>) -> Result<(), Exit> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    chown(path, user, group).map_err(failed(path))
}

/// The data directory, if it was made just now, and its lock.
pub fn of_the_directory(dir: &Path, new: bool) -> Result<(), Exit> {
    if new {
        std::fs::set_permissions(dir, Permissions::from_mode(0o750)).map_err(failed(dir))?;
        give(dir, owners::user_id(USER), owners::group_id(USER))?;
    }
    let meta = std::fs::metadata(dir).map_err(failed(dir))?;
    give(&dir.join("lock"), Some(meta.uid()), Some(meta.gid()))
}

/// The database and its mark.
pub fn of_the_queue(staged: &Path, dir: &Path) -> Result<(), Exit> {
    let meta = std::fs::metadata(dir).map_err(failed(dir))?;
    for name in crate::store::READY {
        let path = staged.join(name);
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed(&path))?;
        give(&path, Some(meta.uid()), Some(meta.gid()))?;
    }
    Ok(())
}

/// A file of the configuration, before it has its name.
pub fn of_a_file(path: &Path, member: &Member, dir: &Path) -> Result<(), Exit> {
    let meta = std::fs::metadata(dir).map_err(failed(dir))?;
    let user = owners::user_id(&member.owner).unwrap_or(meta.uid());
    let group = owners::group_id(&member.group).unwrap_or(meta.gid());
    give(path, Some(user), Some(group))?;
    let mode = member.mode().unwrap_or(0o600);
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed(path))
}
