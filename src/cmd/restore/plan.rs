//! What a restore is going to do, as a person reads it before saying yes.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::journal::GUARD;
use super::{Args, Place, is_same};
use crate::cmd::backup::container::Contents;
use crate::cmd::backup::gather::{directory, toml_files};
use crate::cmd::backup::manifest::{MAIN, Manifest, Member};
use crate::cmd::exit::Exit;
use crate::cmd::format::count;
use crate::config::{self, model};
use crate::registry::DRIVERS;
use crate::store::{Ending, Restorable};

/// One change of the configuration's directory.
#[derive(Debug)]
pub enum Change<'a> {
    /// These bytes come here; what is here goes aside.
    Put(PathBuf, &'a Member, &'a [u8]),
    /// It is not in the backup, and would be read: it goes aside.
    Aside(PathBuf),
}

/// All of it.
pub struct Plan<'a> {
    /// The configuration's changes, in their order.
    pub config: Vec<Change<'a>>,
    queue: bool,
    lines: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Looks at what is there.
    pub fn new(
        args: &Args,
        contents: &'a Contents,
        queue: Option<(&Restorable, &Place)>,
        ending: Ending,
        stamp: &str,
    ) -> Result<Self, Exit> {
        let manifest = &contents.manifest;
        let mut plan = Self { config: Vec::new(), queue: queue.is_some(), lines: Vec::new() };
        plan.say(format!(
            "a backup of {}, made at {} by fieldgate {}",
            printable(&manifest.gateway),
            printable(&manifest.made),
            printable(&manifest.fieldgate)
        ));
        if args.data_only {
            plan.other_name(args, manifest);
        } else {
            plan.configuration(args, contents, stamp)?;
        }
        if let Some((examined, place)) = queue {
            plan.queue(examined, place, ending, stamp);
        } else if manifest.queue.is_none() {
            plan.say("it has no queue in it; the one that is here stays".to_owned());
        }
        Ok(plan)
    }

    /// Nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.config.is_empty() && !self.queue
    }

    /// Prints it.
    pub fn show(&self, out: &mut dyn Write) -> Result<(), Exit> {
        for line in &self.lines {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    fn say(&mut self, line: String) {
        self.lines.push(line);
    }

    fn configuration(&mut self, args: &Args, contents: &'a Contents, stamp: &str) -> Result<(), Exit> {
        let manifest = &contents.manifest;
        let dir = directory(&args.config);
        if !manifest.files.iter().any(|member| member.name == MAIN) {
            return Err(Exit::Failed("the backup has no configuration file in it".into()));
        }
        let (mut same, mut elsewhere) = (0, Vec::new());
        let mut kept = vec![dir.join(GUARD)];
        let mut last = None;
        for (member, bytes) in manifest.files.iter().zip(&contents.files) {
            let Some(inside) = member.name.strip_prefix("config/") else {
                elsewhere.push((member, bytes));
                continue;
            };
            let path = if member.name == MAIN { args.config.clone() } else { dir.join(inside) };
            kept.push(path.clone());
            if is_same(&path, bytes, member.mode().unwrap_or(0o600)) {
                same += 1;
            } else if member.name == MAIN {
                last = Some(Change::Put(path, member, bytes));
            } else {
                self.config.push(Change::Put(path, member, bytes));
            }
        }
        for place in ["conf.d", "profiles"] {
            let there = toml_files(&dir.join(place))?;
            self.config.extend(there.into_iter().filter(|path| !kept.contains(path)).map(Change::Aside));
        }
        let mut missing = Vec::new();
        for (member, bytes) in elsewhere {
            let path = place(&member.name, dir);
            if std::fs::read(&path).is_ok_and(|there| there == *bytes) {
                same += 1;
                continue;
            }
            // Outside of its own directory nothing is written: the names come from a file that anybody may have made.
            let beside = dir.join("restored").join(member.name.trim_start_matches("files/"));
            if !is_same(&beside, bytes, member.mode().unwrap_or(0o600)) {
                self.config.push(Change::Put(beside.clone(), member, bytes));
            }
            missing.push(format!(
                "  the configuration looks for {}; look at it and put it there yourself: sudo install -D -m {} {} {}",
                path.display(),
                member.mode,
                beside.display(),
                path.display()
            ));
        }
        self.config.extend(last);
        self.say(format!(
            "configuration: {} of its files go into {}, {same} are there already",
            self.config.iter().filter(|change| matches!(change, Change::Put(..))).count(),
            dir.display()
        ));
        let asides: Vec<String> = self
            .config
            .iter()
            .filter_map(|change| match change {
                Change::Put(path, ..) | Change::Aside(path) if path.symlink_metadata().is_ok() => {
                    Some(path.strip_prefix(dir).unwrap_or(path).display().to_string())
                }
                _ => None,
            })
            .collect();
        if !asides.is_empty() {
            self.say(format!("  set aside, with .before-restore-{stamp} at the end: {}", asides.join(", ")));
        }
        self.lines.extend(missing);
        for left in &manifest.left_out {
            let path = place(&left.name, dir);
            if !path.is_file() {
                let why = if left.secret { "left out of the backup" } else { "not there when it was made" };
                self.say(format!("  missing: {} ({why}); put it there by hand", path.display()));
            }
        }
        self.name(manifest);
        Ok(())
    }

    /// A gateway that is called after its host has another name on another host, and another identity upstream.
    fn name(&mut self, manifest: &Manifest) {
        let here = model::Gateway::default().id;
        if !manifest.named && here != manifest.gateway {
            let id = printable(&manifest.gateway);
            self.say(format!(
                "  the gateway was called {id} after its host; this host is {here}. To be {id} upstream, write id = \"{id}\" into [gateway] before it is started"
            ));
        }
    }

    /// A queue under another name is another gateway's to whoever reads it upstream.
    fn other_name(&mut self, args: &Args, manifest: &Manifest) {
        let here = config::load(&args.config, DRIVERS).map(|loaded| loaded.gateway.id);
        if let Some(here) = here.ok().filter(|id| *id != manifest.gateway) {
            let id = printable(&manifest.gateway);
            self.say(format!(
                "  the configuration that is here is of {here}: what waits of {id} would be sent on {here}'s topics"
            ));
        }
    }

    fn queue(&mut self, examined: &Restorable, place: &Place, ending: Ending, stamp: &str) {
        let n = |n: u64| count(n as f64);
        let dir = place.held.dir().display();
        let waits: Vec<String> =
            examined.queued.iter().map(|(name, q)| format!("{} for {name}", n(*q))).collect();
        let waits = if waits.is_empty() { "nothing waits in it".to_owned() } else { waits.join(", ") };
        self.say(format!("queue: {} readings go into {dir}; {waits}", n(examined.of.readings)));
        if examined.damaged > 0 {
            self.say(format!(
                "  {} of its blocks were damaged already; they are declared lost",
                n(examined.damaged)
            ));
        }
        let outlook = examined.outlook(&place.held, ending);
        if outlook.skipped > 0 {
            let most = if outlook.exact { "" } else { "at most " };
            let since = format!("{most}{} readings", n(outlook.skipped));
            self.say(if outlook.known {
                format!(
                    "  what this box took after the backup goes with the queue that is here: of {since} those that did not arrive are declared lost (rollback)"
                )
            } else {
                format!("  what was taken after the backup cannot be known: {since} are declared lost (rollback)")
            });
        }
        match &place.held.queued {
            Some(queued) => {
                let waits: Vec<String> =
                    queued.iter().filter(|(_, q)| **q > 0).map(|(name, q)| format!("{} for {name}", n(*q))).collect();
                let waits = if waits.is_empty() { "nothing".to_owned() } else { waits.join(", ") };
                self.say(format!(
                    "  the queue that is here, with what waits in it ({waits}), is set aside as fieldgate.db.before-restore-{stamp}"
                ));
            }
            None if place.held.torn => self.say(format!(
                "  the queue that is here cannot be read; it is set aside as fieldgate.db.before-restore-{stamp}"
            )),
            None => {}
        }
    }
}

/// Where the configuration looks for a file that has this name in a backup.
fn place(name: &str, dir: &Path) -> PathBuf {
    match name.strip_prefix("config/") {
        Some(inside) => dir.join(inside),
        None => Path::new("/").join(name.trim_start_matches("files/")),
    }
}

/// A text out of the file, without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
