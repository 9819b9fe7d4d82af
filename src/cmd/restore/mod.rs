//! `fieldgate restore FILE`: what `fieldgate backup` wrote, on this box or on another one in its place.
//!
//! Promises: all of the file is read, its checksums and the database's pages and blocks looked through, before anything
//! that is in use is touched. Nothing is deleted: what was there gets a name that says when. A kill at any moment leaves
//! the old or the new, or, between the first file and the last, a journal by which the next start, or the next restore,
//! finishes it ([`finish`]).

mod journal;
mod owner;
mod plan;
mod stage;
mod switch;

use std::fs::File;
use std::io::{BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::backup::container::{self, Bad, Contents};
use super::backup::unavailable;
use super::consent;
use super::exit::Exit;
use crate::clock::{Clock, SystemClock};
use crate::config;
use crate::registry::DRIVERS;
use crate::store::{Ending, Held, Restorable, Store, StoreError};
pub use journal::{GUARD, Unfinished, finish};
use plan::Plan;
use stage::Staged;

/// Put back what `fieldgate backup` wrote: configuration and queue, on this box or on a new one.
///
/// The daemon must be stopped. The file is verified first; then it is shown what would be done, and asked. What was
/// there is kept under names that end in `.before-restore-` and the time. What waits in the queue is sent again, and what
/// the old box may have taken after the backup is declared lost, for nobody can know it.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The file that `fieldgate backup` wrote.
    #[arg(value_name = "FILE", required_unless_present = "finish")]
    file: Option<PathBuf>,
    /// The configuration file to restore; the others go beside it.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Restore the configuration, and leave the queue that is here as it is.
    #[arg(long, conflicts_with = "data_only")]
    config_only: bool,
    /// Restore the queue, and leave the configuration that is here as it is.
    #[arg(long)]
    data_only: bool,
    /// The old box was stopped before the backup was made and took nothing since: then nothing is declared lost.
    #[arg(long, conflicts_with = "config_only")]
    nothing_since: bool,
    /// Finish a restore that was interrupted, if there is one. The service does so before each start.
    #[arg(long, conflicts_with_all = ["file", "config_only", "data_only", "nothing_since"])]
    finish: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// Verifies, shows, asks, restores.
///
/// # Errors
/// 1: the file is damaged, there is no room, or nobody said yes; 64: nobody is there to be asked; 69: a daemon runs on the
/// data directory, or it cannot be had.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    let Some(file) = &args.file else { return finish_only(args, out) };
    if !args.yes && !std::io::stdin().is_terminal() {
        return Err(Exit::Usage("restoring asks first, and nobody is there to answer; add --yes".into()));
    }
    let shown = file.display();
    let opened = File::open(file).map_err(|e| Exit::Failed(format!("{shown}: {e}")))?;
    match finish(&args.config) {
        Ok(false) => {}
        Ok(true) => writeln!(out, "an earlier restore had been interrupted; it was finished first")?,
        // This one takes its place.
        Err(Unfinished::Broken(why)) => {
            writeln!(out, "an earlier restore was interrupted and cannot be finished: {why}")?
        }
        Err(error) => return Err(unfinished(&error, &args.config)),
    }
    let mut place: Option<Result<Place, Exit>> = None;
    let read = container::read(BufReader::with_capacity(1 << 18, opened), |manifest, files| {
        if args.config_only {
            return Ok(None);
        }
        let bytes = manifest.queue.as_ref().map_or(0, |queue| queue.bytes);
        let found = Place::take(args, manifest, files, bytes);
        let sink = match &found {
            Ok(place) => place.staged.database().map(Some).map_err(|e| e.to_string()),
            Err(_) => Err(String::new()),
        };
        place = Some(found);
        sink
    });
    let place = place.transpose()?;
    let contents = read.map_err(|bad| match bad {
        Bad::Damaged(_) => Exit::Failed(format!("{shown}: {bad}; nothing was changed")),
        Bad::Elsewhere(why) => Exit::Failed(format!("{why}; nothing was changed")),
    })?;
    let place = match (place, &contents.manifest.queue) {
        (None, None) if args.data_only => {
            return Err(Exit::Failed(format!("{shown} has no queue in it, only a configuration")));
        }
        (place, _) => place,
    };
    restore(args, file, &contents, place, out)
}

/// Without a file: what was begun.
fn finish_only(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    match finish(&args.config) {
        Ok(true) => done(args, true, out),
        // Before each start of the service this is what is usual, and not worth a line.
        Ok(false) if std::io::stdout().is_terminal() => Ok(writeln!(out, "no restore was interrupted here")?),
        Ok(false) => Ok(()),
        Err(error) => Err(unfinished(&error, &args.config)),
    }
}

fn unfinished(error: &Unfinished, main: &Path) -> Exit {
    let hint = match error {
        Unfinished::Disk(_) if rustix::process::geteuid().is_root() => {
            "it stays as it is until that is mended".to_owned()
        }
        error => error.hint(main),
    };
    Exit::Failed(format!("a restore was interrupted and cannot be finished: {error}; {hint}"))
}

/// The data directory, taken, with room for the database in it.
struct Place {
    held: Held,
    staged: Staged,
}

impl Place {
    fn take(
        args: &Args,
        manifest: &container::Manifest,
        files: &[Vec<u8>],
        bytes: u64,
    ) -> Result<Self, Exit> {
        let wanted = stage::Wanted::of(manifest, files, &args.config);
        let (dir, min_free) = if args.data_only {
            let store = super::store_path(&args.config)?;
            let loaded = config::load(&args.config, DRIVERS).map(|loaded| loaded.store).unwrap_or_default();
            (store, loaded.min_free.0)
        } else {
            (wanted.store, wanted.min_free)
        };
        // The configuration that is replaced may name another directory.
        let now = super::store_path(&args.config).unwrap_or(dir.clone());
        if super::client::is_running(&now)? {
            return Err(running(&now));
        }
        let new = !dir.exists();
        let held = Store::hold(&dir, SystemClock::new(true).boot_id()).map_err(|error| match error {
            StoreError::InUse(_) => running(&dir),
            StoreError::Unreadable { .. } => Exit::Failed(format!("{error}; run it with sudo")),
            other => unavailable(other),
        })?;
        owner::of_the_directory(&dir, new)?;
        let staged = Staged::new(&dir)?;
        stage::room(&dir, bytes, min_free)?;
        Ok(Self { held, staged })
    }
}

fn running(dir: &Path) -> Exit {
    let hint = "stop it first (`sudo systemctl stop fieldgate`), then restore";
    Exit::Start(format!("a daemon runs on {}; {hint}", dir.display()).into())
}

fn restore(
    args: &Args,
    file: &Path,
    contents: &Contents,
    place: Option<Place>,
    out: &mut dyn Write,
) -> Result<(), Exit> {
    let manifest = &contents.manifest;
    let now = SystemClock::new(true).wall().0;
    let examined = match &place {
        Some(place) => Some(Restorable::examine(place.staged.path()).map_err(|error| {
            let why = match error {
                StoreError::Newer { .. } => "it was made by a later version; install that first".to_owned(),
                other => other.to_string(),
            };
            Exit::Failed(format!("the queue in {}: {why}; nothing was changed", file.display()))
        })?),
        None => None,
    };
    let ending = match &examined {
        Some(examined) if args.nothing_since => {
            if !examined.is_clean() {
                return Err(Exit::Usage(
                    "the backup was made while its daemon ran (or had been killed), so something came since: leave out --nothing-since".into(),
                ));
            }
            Ending::Final
        }
        _ => Ending::Open(u64::try_from(now - manifest.made_ms).unwrap_or(0)),
    };
    if examined.is_some() && now < manifest.made_ms && ending != Ending::Final {
        return Err(Exit::Failed(format!(
            "the backup was made at {}, and this box's clock is before that: set the clock first (`sudo timedatectl set-time …`), so that what was taken since can be declared",
            manifest.made
        )));
    }
    let stamp = switch::stamp(now, &args.config, place.as_ref().map(|place| place.held.dir()));
    let plan = Plan::new(args, contents, examined.as_ref().zip(place.as_ref()), ending, &stamp)?;
    plan.show(out)?;
    if plan.is_empty() {
        writeln!(out, "everything is as it was in the backup")?;
        return Ok(());
    }
    if !args.yes {
        consent::go_on("nothing was restored", out)?;
    }
    if let (Some(examined), Some(place)) = (&examined, &place) {
        examined.make_ready(&place.held, ending).map_err(unavailable)?;
        owner::of_the_queue(place.staged.path(), place.held.dir())?;
    }
    let data = place.as_ref().map(|place| switch::Data { held: &place.held, staged: &place.staged });
    switch::switch(&plan.config, data, &args.config, &stamp)?;
    done(args, place.is_some(), out)
}

/// What comes next, and whether the configuration is one that this box can start with.
fn done(args: &Args, queue: bool, out: &mut dyn Write) -> Result<(), Exit> {
    writeln!(out, "restored")?;
    if let Err(report) = config::load(&args.config, DRIVERS) {
        writeln!(
            out,
            "but this box cannot start with the configuration as it is, see `fieldgate check`:\n\n{}",
            report.render(false).trim_end()
        )?;
    } else if queue {
        writeln!(out, "start it: sudo systemctl start fieldgate")?;
    } else {
        writeln!(out, "take it over: sudo systemctl reload-or-restart fieldgate")?;
    }
    Ok(())
}

/// Whether two files have the same bytes and mode.
fn is_same(path: &Path, bytes: &[u8], mode: u32) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let plain = path.symlink_metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o777 == mode);
    plain && std::fs::read(path).is_ok_and(|there| there == bytes)
}
