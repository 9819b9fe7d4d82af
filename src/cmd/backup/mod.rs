//! `fieldgate backup FILE`: configuration and queue as one file. From the daemon while it runs, else from the data
//! directory itself.
//!
//! The command writes the file, as the person who asked; the daemon only hands out its database (see
//! `runtime/backup.rs`), so that its sandbox stays closed. The file appears under its name when it is whole and synced.

pub mod container;
pub mod gather;
pub mod manifest;
pub mod owners;

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::exit::Exit;
use super::format::{bytes, count};
use super::{client, store_path};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, model};
use crate::registry::DRIVERS;
use crate::runtime::backup::Incoming;
use crate::runtime::control::Request;
use crate::store::{AtRest, Copied, Store, StoreError};
use container::Packer;
use gather::{Gathered, gather};
use manifest::{FORMAT, Manifest, Member};

/// Write configuration and queue into one file, while the daemon runs or while it does not.
///
/// The file is for `fieldgate restore`, on this box or on another one in its place. It holds the configuration, own
/// profiles, the files that the configuration names (passwords, certificates, keys), and the queue with what waits for
/// each uplink. Nobody but its owner may read it.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The file to write; `-` for standard output.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Leave out the queue.
    #[arg(long)]
    config_only: bool,
    /// Leave out passwords and keys. What is missing is said when it is restored.
    #[arg(long)]
    no_secrets: bool,
    /// Overwrite FILE if it is there already.
    #[arg(long)]
    force: bool,
}

/// Writes the backup.
///
/// # Errors
/// 1: a file cannot be read or written, or there is no room for it; 64: it would be written to a terminal; 69: the
/// queue cannot be had.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    if args.file == Path::new("-") {
        if std::io::stdout().is_terminal() {
            return Err(Exit::Usage("a backup is nothing to look at; send it into a file or a pipe".into()));
        }
        let gathered = gather(&args.config, !args.no_secrets)?;
        written(args, gathered, out)?;
        return Ok(());
    }
    let failed = |e: std::io::Error| Exit::Failed(format!("{}: {e}", args.file.display()));
    if !args.force && args.file.symlink_metadata().is_ok() {
        return Err(Exit::Failed(format!(
            "{} is there already; choose another name, or overwrite it with --force",
            args.file.display()
        )));
    }
    let gathered = gather(&args.config, !args.no_secrets)?;
    let half = Half::new(&args.file)?;
    let file = BufWriter::with_capacity(1 << 18, half.create()?);
    let (manifest, file) = written(args, gathered, file)?;
    let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)?;
    // Read again before it gets its name: a backup that cannot be read is none.
    let again = File::open(&half.path).map_err(failed)?;
    container::read(BufReader::new(again), |_, _| Ok(None::<std::io::Sink>))
        .map_err(|bad| Exit::Failed(format!("{}: read again, {bad}", args.file.display())))?;
    half.keep(args.force)?;
    let size = std::fs::metadata(&args.file).map_err(failed)?.len();
    told(&manifest, &args.file, size, out)
}

fn told(manifest: &Manifest, file: &Path, size: u64, out: &mut dyn Write) -> Result<(), Exit> {
    let (n, path) = (manifest.files.len(), file.display());
    let files = if n == 1 { "1 file".to_owned() } else { format!("{n} files") };
    write!(out, "{path}: {files} of the configuration")?;
    if let Some(queue) = &manifest.queue {
        write!(out, " and {} readings", count(queue.readings as f64))?;
    }
    writeln!(out, " of {}, {}", manifest.gateway, bytes(size as f64))?;
    if manifest.files.iter().any(|file| file.secret) {
        writeln!(out, "it holds passwords or keys: keep it where only you can read it, or use --no-secrets")?;
    }
    for left in &manifest.left_out {
        let why = if left.secret { "left out" } else { "not there, so not in it" };
        writeln!(out, "{}: {why}", left.path)?;
    }
    Ok(())
}

/// The file before it has its name: removed again unless it is kept.
struct Half {
    path: PathBuf,
    target: PathBuf,
}

impl Half {
    fn new(target: &Path) -> Result<Self, Exit> {
        let name = target.file_name().ok_or_else(|| {
            Exit::Usage(format!("{} is no file name; write where the backup goes", target.display()))
        })?;
        if target.is_dir() {
            return Err(Exit::Usage(format!(
                "{} is a directory; add a name, such as {}",
                target.display(),
                target.join("box.fgbackup").display()
            )));
        }
        let mut half = name.to_owned();
        half.push(".tmp");
        Ok(Self { path: target.with_file_name(half), target: target.to_owned() })
    }

    fn create(&self) -> Result<File, Exit> {
        let failed = |e: std::io::Error| Exit::Failed(format!("{}: {e}", self.path.display()));
        // One that was killed left it.
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path).map_err(failed)
    }

    fn keep(self, force: bool) -> Result<(), Exit> {
        let failed = |e: std::io::Error| Exit::Failed(format!("{}: {e}", self.target.display()));
        if !force && self.target.symlink_metadata().is_ok() {
            return Err(Exit::Failed(format!("{} came to be meanwhile", self.target.display())));
        }
        std::fs::rename(&self.path, &self.target).map_err(failed)?;
        File::open(gather::directory(&self.target)).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        // Kept, it has this name no more.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes all of it to `to`.
fn written<W: Write>(args: &Args, gathered: Gathered, to: W) -> Result<(Manifest, W), Exit> {
    let (id, named) = gateway(&args.config, &mut std::io::stderr().lock());
    let now = SystemClock::new(true).wall();
    let made = jiff::Timestamp::from_millisecond(now.0).map(|t| t.to_string()).unwrap_or_default();
    let main = std::path::absolute(&args.config).unwrap_or(args.config.clone());
    let manifest = Manifest {
        format: FORMAT,
        fieldgate: env!("CARGO_PKG_VERSION").to_owned(),
        gateway: id,
        named,
        made,
        made_ms: now.0,
        config: main.display().to_string(),
        files: gathered.files.iter().map(|(member, _)| member.clone()).collect(),
        queue: None,
        left_out: gathered.left_out,
    };
    let job = Writing { manifest, files: gathered.files, target: &args.file };
    if args.config_only {
        return job.begin(None, to)?.end();
    }
    let store = store_path(&args.config)?;
    match client::stream(&store, &Request::Backup {})? {
        Some(stream) => {
            let incoming = Incoming::new(BufReader::with_capacity(1 << 17, stream))
                .map_err(|e| Exit::Failed(e.to_string()))?;
            let limits = limits(&args.config, &store);
            let of = incoming.of.clone();
            let mut begun = job.begin(Some((of.clone(), limits)), to)?;
            begun.queue(of.bytes, incoming)?;
            begun.end()
        }
        None => at_rest(&store, limits(&args.config, &store), job, to),
    }
}

fn at_rest<W: Write>(store: &Path, limits: Limits, job: Writing<'_>, to: W) -> Result<(Manifest, W), Exit> {
    let mut log = Store::at_rest(store).map_err(unavailable)?;
    let of = log.begin_copy().map_err(unavailable)?;
    let mut begun = job.begin(Some((of.clone(), limits)), to)?;
    begun.queue(of.bytes, Pieces { log: &log, at: 0, left: Vec::new() })?;
    begun.end()
}

/// A queue that is in use or cannot be read.
pub fn unavailable(error: StoreError) -> Exit {
    match error {
        StoreError::InUse(_) | StoreError::Newer { .. } => Exit::Start(Box::new(error)),
        other => Exit::Failed(other.to_string()),
    }
}

/// The database at rest as `Read`.
struct Pieces<'a> {
    log: &'a AtRest,
    at: u64,
    left: Vec<u8>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left.is_empty() {
            self.left = self.log.piece(self.at).map_err(|e| std::io::Error::other(e.to_string()))?;
            self.at += self.left.len() as u64;
        }
        let n = into.len().min(self.left.len());
        into[..n].copy_from_slice(&self.left[..n]);
        self.left.drain(..n);
        Ok(n)
    }
}

/// Where the data is, and how much of its disk stays free.
struct Limits {
    store: PathBuf,
    min_free: u64,
}

fn limits(config: &Path, store: &Path) -> Limits {
    let loaded = config::load(config, DRIVERS).map(|loaded| loaded.store).unwrap_or_default();
    Limits { store: store.to_owned(), min_free: loaded.min_free.0 }
}

/// Id of the gateway, and whether it stands in the configuration. Of one with mistakes that is said to `aside`.
fn gateway(config: &Path, aside: &mut dyn Write) -> (String, bool) {
    let id = match config::load(config, DRIVERS) {
        Ok(loaded) => loaded.gateway.id,
        Err(report) => {
            let (id, whose) = called(config);
            let count = report.problems.len();
            let mistakes = if count == 1 { "a mistake".to_owned() } else { format!("{count} mistakes") };
            // Where nobody reads this, the backup is made all the same.
            let _ = writeln!(
                aside,
                "warning: the configuration has {mistakes} and cannot start as it is (`fieldgate check` names them); \
                 it is saved so, as of the gateway `{id}`, {whose}"
            );
            id
        }
    };
    let texts = gather::toml_files(&gather::directory(config).join("conf.d")).unwrap_or_default();
    let named = std::iter::once(config.to_owned()).chain(texts).any(|path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let table = toml::from_str::<toml::Table>(&text).unwrap_or_default();
        table.get("gateway").and_then(|g| g.get("id")).is_some()
    });
    (id, named)
}

/// What the gateway is called where its configuration has mistakes, and who says so.
fn called(config: &Path) -> (String, &'static str) {
    let store = store_path(config).ok();
    let running = || {
        client::ask(store.as_ref()?, &Request::Status {}).ok()??["gateway"]["id"].as_str().map(str::to_owned)
    };
    let stored = || Store::at_rest(store.as_ref()?).ok()?.gateway();
    if let Some(id) = running() {
        (id, "as the daemon that runs is called")
    } else if let Some(id) = stored() {
        (id, "as the queue says")
    } else {
        (model::Gateway::default().id, "which is the host's name: nothing says what it is called")
    }
}

struct Writing<'a> {
    manifest: Manifest,
    files: Vec<(Member, Vec<u8>)>,
    target: &'a Path,
}

impl Writing<'_> {
    /// Looks whether there is room, and writes everything before the queue.
    fn begin<W: Write>(mut self, queue: Option<(Copied, Limits)>, to: W) -> Result<Begun<W>, Exit> {
        if let Some((of, limits)) = queue {
            room(self.target, &limits, of.bytes)?;
            self.manifest.queue = Some(of);
        }
        self.manifest.check().map_err(Exit::Failed)?;
        let shown = self.target.display().to_string();
        let mut packer = Packer::new(to, &self.manifest).map_err(|e| broke(&shown, &e))?;
        for (member, bytes) in &self.files {
            packer.file(member, bytes).map_err(|e| broke(&shown, &e))?;
        }
        Ok(Begun { packer, manifest: self.manifest, shown })
    }
}

struct Begun<W: Write> {
    packer: Packer<W>,
    manifest: Manifest,
    shown: String,
}

impl<W: Write> Begun<W> {
    fn queue(&mut self, bytes: u64, from: impl Read) -> Result<(), Exit> {
        self.packer.queue(bytes, from).map_err(|e| broke(&self.shown, &e))
    }

    fn end(self) -> Result<(Manifest, W), Exit> {
        let to = self.packer.finish().map_err(|e| broke(&self.shown, &e))?;
        Ok((self.manifest, to))
    }
}

fn broke(target: &str, error: &std::io::Error) -> Exit {
    Exit::Failed(format!("{target}: the backup was not made: {error}"))
}

/// On the disk of the queue a backup leaves free what the queue must leave free.
fn room(target: &Path, limits: &Limits, needed: u64) -> Result<(), Exit> {
    let dir = gather::directory(target);
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    if target == Path::new("-") || device(dir) != device(&limits.store) {
        return Ok(());
    }
    let Ok(disk) = rustix::fs::statvfs(dir) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed.saturating_add(limits.min_free) {
        let n = |n: u64| bytes(n as f64);
        return Err(Exit::Failed(format!(
            "{} has {} free; the backup may need {}, and {} stay free for the gateway (`min_free`): write it to another disk",
            dir.display(),
            n(free),
            n(needed),
            n(limits.min_free)
        )));
    }
    Ok(())
}
