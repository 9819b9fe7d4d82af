//! Where the database lies until it is verified: a directory inside the data directory, on the same disk, so that it only
//! has to be renamed. And where that is, by the configuration in the backup.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use driver_api::ByteSize;

use crate::cmd::backup::container::Manifest;
use crate::cmd::backup::gather::{directory, tolerant};
use crate::cmd::backup::manifest::MAIN;
use crate::cmd::exit::Exit;
use crate::cmd::format::bytes;
use crate::config::model;
use crate::store::READY;

/// Its name. A restore that was killed leaves it; the next one begins it anew.
const NAME: &str = "restoring";

/// The directory. It goes when this does, unless it is kept.
pub struct Staged {
    path: PathBuf,
    kept: Cell<bool>,
}

impl Staged {
    /// Makes it in `dir`, anew.
    pub fn new(dir: &Path) -> Result<Self, Exit> {
        let path = dir.join(NAME);
        let failed = |e: std::io::Error| Exit::Failed(format!("{}: {e}", path.display()));
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path).map_err(failed)?,
            Ok(_) => fs::remove_file(&path).map_err(failed)?,
            Err(_) => {}
        }
        fs::create_dir(&path).map_err(failed)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(failed)?;
        Ok(Self { path, kept: Cell::new(false) })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on somebody else needs what is in it, and removes it.
    pub fn keep(&self) {
        self.kept.set(true);
    }

    /// The database, to be written.
    pub fn database(&self) -> std::io::Result<impl Write + use<>> {
        let [_, name] = READY;
        Ok(BufWriter::with_capacity(1 << 18, File::create_new(self.path.join(name))?))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.kept.get() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Where the queue goes by a configuration in a backup.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The data directory.
    pub store: PathBuf,
    /// Bytes that stay free on its disk.
    pub min_free: u64,
}

impl Wanted {
    /// By the files of a backup, were they restored beside `config`. A mistake in them is no reason not to restore them,
    /// so nothing but these two keys is understood.
    pub fn of(manifest: &Manifest, files: &[Vec<u8>], config: &Path) -> Self {
        let default = model::Store::default();
        let (mut store, mut min_free) = (default.path, default.min_free);
        for (member, bytes) in manifest.files.iter().zip(files) {
            let inside = member.name == MAIN || member.name.starts_with("config/conf.d/");
            let table = tolerant(&String::from_utf8_lossy(bytes));
            let Some(section) = table.get("store").filter(|_| inside) else { continue };
            let beside = if member.name == MAIN {
                directory(config).to_owned()
            } else {
                directory(config).join("conf.d")
            };
            if let Some(path) = section.get("path").and_then(toml::Value::as_str) {
                store = beside.join(path);
            }
            if let Some(Ok(size)) =
                section.get("min_free").and_then(toml::Value::as_str).map(str::parse::<ByteSize>)
            {
                min_free = size;
            }
        }
        Self { store, min_free: min_free.0 }
    }
}

/// Looks whether `needed` bytes fit into the directory's disk.
pub fn room(dir: &Path, needed: u64, min_free: u64) -> Result<(), Exit> {
    let Ok(disk) = rustix::fs::statvfs(dir) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed.saturating_add(min_free) {
        let n = |n: u64| bytes(n as f64);
        return Err(Exit::Failed(format!(
            "{} has {} free; the queue needs {}, and {} stay free for the gateway (`min_free`): make room, or restore with --config-only",
            dir.display(),
            n(free),
            n(needed),
            n(min_free)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::backup::manifest::tests::manifest;

    #[test]
    fn the_queue_goes_where_the_restored_configuration_says() {
        let of = |main: &str, more: &str| {
            let manifest = manifest(&[(MAIN, 0), ("config/conf.d/a.toml", 0), ("config/passwd", 0)]);
            let files = [main, more, "[store]\npath = '/not/this'"].map(|text| text.as_bytes().to_vec());
            Wanted::of(&manifest, &files, Path::new("/etc/fg/box.toml"))
        };
        assert_eq!(of("", "").store, Path::new("/var/lib/fieldgate"));
        assert_eq!(of("[store]\npath = 'store'\nmin_free = '1KiB'", "").store, Path::new("/etc/fg/store"));
        assert_eq!(of("[store]\nmin_free = '1KiB'", "").min_free, 1024);
        assert_eq!(of("[store]\npath = '/a'", "[store]\npath = 'b'").store, Path::new("/etc/fg/conf.d/b"));
        assert_eq!(of("a mistake\n[store]\npath = 'x'", "").store, Path::new("/etc/fg/x"));
        assert_eq!(of("[[[", "").store, Path::new("/var/lib/fieldgate"));
    }
}
