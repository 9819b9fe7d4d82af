//! A copied database made ready to live in another directory, or in its old one again.
//!
//! # What a restore is to the numbering
//! A backup is of one moment; what its box took afterwards is not in it, and how much that was may be unknown. So the
//! copy gets a **mark** that speaks for it (see `identity` and `recovery`): "numbers up to here were given out". The
//! first start then finds a database that is older than its mark, which it knows how to mend: it skips these
//! numbers, declares them (`rollback`, as a bound), and begins a new epoch above them. No identity can come back, for the
//! new epoch has a random part of its own; what is queued in the copy goes out as what it is.
//!
//! How far the mark reaches:
//! - Where the directory that is replaced lived on from the very moment of the backup, it knows as much as a start in it
//!   would: which numbers were given out, after a kill, too, by the head of this boot; with a bound after a power cut. It
//!   knows better what was delivered, and its accounts are taken over: after an end in order what is lost is exact, after a kill
//!   a bound. That goes for a directory that itself was restored from this backup, or from a later one of the same life: which
//!   lives go on in it, and how far they are there, it remembers.
//! - Anywhere else it reaches as far as the box can have come since ([`most_since`]), and above every number of a directory
//!   in which a life of the copy went on.
//! - If a person says that nothing came after an end in order, it reaches nowhere and nothing is declared.
//!
//! The copy also gets a **word** of its own: from then on its directory is another one than the box it was copied
//! from, and files of the two are never taken for each other's.
//!
//! Promises: nothing here changes the directory that is to be replaced, except that its WAL is written back.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::account::Account;
use super::backup::Copied;
use super::block;
use super::epochs::Epochs;
use super::head::{Head, Homes};
use super::holes::Rows;
use super::identity::{self, Mark};
use super::inspect::said;
use super::log::{Change, Log};
use super::ranges::count;
use super::recovery::{Found, Line, judge};
use super::since::{Pace, most_since};
use super::sound::HOME;
use super::times::Boot;
use super::trouble::Trouble;
use super::{Store, StoreError};
use crate::message::LossRecord;

/// What a person knows of the time after the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The box took nothing more: its end in order is in the backup.
    Final,
    /// It may have gone on for this long, ms.
    Open(u64),
}

/// A copied database that was looked through.
#[derive(Debug)]
pub struct Restorable {
    path: PathBuf,
    line: Line,
    epochs: Epochs,
    boots: Vec<Boot>,
    accounts: BTreeMap<String, Account>,
    losses: BTreeMap<u64, LossRecord>,
    pace: Pace,
    /// What it is of.
    pub of: Copied,
    /// Blocks whose CRC is wrong: they were damaged before they were copied, and will be declared.
    pub damaged: u64,
    /// What waits for each uplink.
    pub queued: BTreeMap<String, u64>,
}

/// What was made ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// How many numbers will be declared lost, at most.
    pub skipped: u64,
    /// It is that many exactly.
    pub exact: bool,
    /// The directory that is replaced lived on from the backup, and knew how far.
    pub known: bool,
}

/// A directory that is taken for a restore: nothing starts in it while this lives.
#[derive(Debug)]
pub struct Held {
    dir: PathBuf,
    _lock: File,
    /// What waits there for each uplink, if there is a database that can be read.
    pub queued: Option<BTreeMap<String, u64>>,
    /// Its WAL could not be written back, so it must be set aside with the database.
    pub torn: bool,
    was: Option<Was>,
    mark: Option<Mark>,
    head: Option<Head>,
}

#[derive(Debug)]
struct Was {
    line: Line,
    epochs: Epochs,
    boots: Vec<Boot>,
    accounts: BTreeMap<String, Account>,
    /// What was declared and is not acknowledged yet, by handle.
    losses: BTreeMap<u64, LossRecord>,
    /// What a start in it would find: one past every number that was given out.
    next: u64,
    /// Each number up to there was given out, and for a reading that is still one.
    exact: bool,
}

/// How far a mark speaks.
struct Reach {
    /// One past the highest number.
    stored: u64,
    /// The directory that is replaced lived on from the backup.
    known: bool,
    /// Each number since was given out, for a reading.
    exact: bool,
}

impl Reach {
    fn bound(stored: u64) -> Self {
        Self { stored, known: false, exact: false }
    }
}

impl Restorable {
    /// Looks through the database in the directory `dir`: that it is ours, not of a later version, whole for SQLite, and
    /// which of its blocks are.
    ///
    /// # Errors
    /// It cannot be used; nothing was changed.
    pub fn examine(dir: &Path) -> Result<Self, StoreError> {
        let path = identity::database(dir);
        let shown = path.display().to_string();
        let look = || -> Result<Self, Trouble> {
            if !path.is_file() {
                return Err(Trouble::Damaged("there is no database".into()));
            }
            let bytes = std::fs::metadata(&path)?.len();
            let mut log = Log::open_to_read(&path)?;
            log.is_whole()?;
            let line: Line = log.state("line")?.ok_or(Trouble::Damaged("it has no line".into()))?;
            let epochs = log.state("epochs")?.unwrap_or_default();
            let boots = log.state("boots")?.unwrap_or_default();
            let accounts = accounts(&log)?;
            let losses = losses(&log, &accounts)?;
            let (mut damaged, mut at, mut pace) = (0, 0, Pace::default());
            while let Some(row) = log.rows(at..u64::MAX, 1)?.pop() {
                let block = log.block_before(row.first)?.map(|(_, data)| block::decode(&data));
                let sound = matches!(block, Some(Ok(b)) if b.range() == row.range());
                damaged += u64::from(!sound);
                pace.note(row.boot, row.first, row.times);
                at = row.range().end.max(row.first + 1);
            }
            let queued = queued(&log, &line, &accounts)?;
            log.settle()?;
            let of = Copied::of(&line, bytes);
            Ok(Self { path: path.clone(), line, epochs, boots, accounts, losses, pace, of, damaged, queued })
        };
        look().map_err(|trouble| said(&shown, trouble))
    }

    /// Whether its epoch had ended in order, so that an [`Ending::Final`] can be believed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.line.clean
    }

    /// What [`Self::make_ready`] would make of it.
    #[must_use]
    pub fn outlook(&self, held: &Held, ending: Ending) -> Ready {
        self.ready(&self.reach(held, ending))
    }

    fn ready(&self, reach: &Reach) -> Ready {
        Ready { skipped: reach.stored - self.line.next, exact: reach.exact, known: reach.known }
    }

    /// Whether some life goes on in the copy and in the directory with this word and these lives.
    fn is_akin(&self, home: u64, lives: &[(u64, u64)]) -> bool {
        let ours = || words(self.line.home, &self.line.lives);
        words(home, lives).any(|word| ours().any(|our| our == word))
    }

    fn reach(&self, held: &Held, ending: Ending) -> Reach {
        let line = &self.line;
        let after = match ending {
            Ending::Final => line.next,
            Ending::Open(elapsed) => line.next.saturating_add(most_since(&self.pace, line.bound, elapsed)),
        };
        if let Some(was) = held.was.as_ref().filter(|was| self.is_akin(was.line.home, &was.line.lives)) {
            let next = was.next.max(line.next);
            let whole = |(word, upto): &(u64, u64)| *word == line.home && line.next <= *upto;
            let went_on = line.home != 0 && (was.line.home == line.home || was.line.lives.iter().any(whole));
            // A clone of it has other epochs from its first start on.
            if !went_on || !was.epochs.0.iter().any(|start| start.epoch == line.epoch) {
                return Reach::bound(next.max(after));
            }
            return Reach { stored: next, known: true, exact: was.exact };
        }
        if let Some(mark) = held.mark.as_ref().filter(|m| self.is_akin(m.home, &m.lives)) {
            let next = if mark.clean { mark.stored } else { mark.reserved };
            return Reach::bound(next.max(after));
        }
        Reach::bound(after)
    }

    /// Whose numbers go on in the directory that is held: those of the copy and, if they are akin, those of the directory: the
    /// mark reaches above all of them.
    fn lives(&self, held: &Held) -> Vec<(u64, u64)> {
        let line = &self.line;
        let here = line.lives.iter().copied().chain([(line.home, line.next)]);
        let was = held.was.iter().map(|w| (w.line.home, &w.line.lives));
        let there = was.chain(held.mark.iter().map(|m| (m.home, &m.lives)));
        let there = there.filter(|(home, lives)| self.is_akin(*home, lives));
        let there = there.flat_map(|(home, lives)| lives.iter().copied().chain([(home, 0)]));
        let mut all: Vec<(u64, u64)> = Vec::new();
        for (word, upto) in there.chain(here).filter(|(word, _)| *word != 0) {
            // Of what the directory has more of than the copy, that is not here now.
            let upto = upto.min(line.next);
            all.retain(|(known, _)| *known != word);
            all.push((word, upto));
        }
        all.split_off(all.len().saturating_sub(LIVES))
    }

    /// What a directory knows that lived on from the copy goes with its accounts: the epochs of the numbers that are gone now,
    /// when clocks were set, and what it declared and nobody acknowledged yet, as it declared it.
    fn take_over(&self, was: &Was, line: &mut Line, change: &mut Change) -> Result<(), Trouble> {
        let mut epochs = self.epochs.clone();
        let newest = epochs.0.last().map_or(0, |start| start.first);
        epochs.0.extend(was.epochs.0.iter().filter(|start| start.first > newest).cloned());
        change.state.push(("epochs".to_owned(), Some(identity::seal(&epochs)?)));
        let boots: BTreeMap<u32, &Boot> =
            self.boots.iter().chain(&was.boots).map(|boot| (boot.n, boot)).collect();
        change.state.push(("boots".to_owned(), Some(identity::seal(&boots.values().collect::<Vec<_>>())?)));
        change.losses = was.losses.clone().into_iter().collect();
        change.losses_done =
            self.losses.keys().filter(|handle| !was.losses.contains_key(handle)).copied().collect();
        line.next_loss = line.next_loss.max(was.line.next_loss);
        Ok(())
    }

    /// Makes it ready for the directory that is held: its word, and its mark beside it. Only the copy is changed; what
    /// belongs into the directory afterwards are the files [`READY`].
    ///
    /// # Errors
    /// The disk.
    pub fn make_ready(&self, held: &Held, ending: Ending) -> Result<Ready, StoreError> {
        let make = || -> Result<Ready, Trouble> {
            let reach = self.reach(held, ending);
            let stored = reach.stored;
            let home = getrandom::u64().unwrap_or_else(|_| fastrand::u64(..)).max(1);
            let mut line = self.line.clone();
            line.home = home;
            line.lives = self.lives(held);
            line.commit += 1;
            let mut log = Log::open(&self.path)?;
            // What was open at the brokers then is not what they remember.
            let mut change = Change::default();
            change.state.push((HOME.into(), Some(identity::seal(&home)?)));
            for (name, account) in self.accounts.iter().filter(|(_, a)| !a.session.is_none()) {
                let account = account.clone().without_session();
                change.state.push((format!("uplink:{name}"), Some(identity::seal(&account)?)));
            }
            if let Some(was) = held.was.as_ref().filter(|_| reach.known) {
                self.take_over(was, &mut line, &mut change)?;
            }
            log.commit(&line, &change)?;
            log.close()?;
            let accounts = match &held.was {
                Some(was) if reach.known => was.accounts.clone(),
                _ => self.accounts.clone(),
            };
            let plain = |(name, account): (String, Account)| (name, account.without_session());
            let accounts = accounts.into_iter().map(plain).collect();
            // The next start counts on from the newest that is known of this gateway's.
            let was = held.was.iter().filter(|w| self.is_akin(w.line.home, &w.line.lives));
            let mark = held.mark.iter().filter(|m| self.is_akin(m.home, &m.lives));
            let head = held.head.iter().filter(|_| held.was.is_some());
            let head = head.map(|h| [h.epoch.start, h.epoch.random]);
            let earlier = was.map(|w| w.line.epoch).chain(head).chain(mark.map(|m| m.epoch));
            let mark = Mark {
                epoch: earlier.chain([line.epoch]).max().unwrap_or(line.epoch),
                stored,
                reserved: stored,
                // Nothing was given out above it: what there can be is in it.
                clean: true,
                exact: reach.exact,
                bound: line.bound,
                home,
                lives: line.lives.clone(),
                accounts,
            };
            let dir = self.path.parent().unwrap_or(Path::new("."));
            identity::write_mark(dir, &mark)?;
            for file in [identity::DATABASE, identity::MARK] {
                File::open(dir.join(file))?.sync_all()?;
            }
            identity::sync_dir(dir)?;
            Ok(self.ready(&reach))
        };
        make().map_err(|trouble| said(&self.path.display().to_string(), trouble))
    }
}

/// Lives that are remembered: so many restores one after the other know what came in between.
const LIVES: usize = 16;

/// The words of all lives that go on in a directory.
fn words(home: u64, lives: &[(u64, u64)]) -> impl Iterator<Item = u64> {
    lives.iter().map(|(word, _)| *word).chain([home]).filter(|word| *word != 0)
}

fn unreadable(dir: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unreadable { path: dir.display().to_string(), why: error.to_string() }
}

impl Store {
    /// Takes a directory without looking at what is in it: nothing starts in it while the file lives.
    ///
    /// # Errors
    /// A daemon uses it, or it cannot be had.
    pub fn only_lock(dir: &Path) -> Result<File, StoreError> {
        identity::lock(dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => StoreError::InUse(dir.display().to_string()),
            _ => unreadable(dir, &e),
        })
    }

    /// Takes a directory for a restore, and looks at what is there. It is made if it is not there. `boot_id`: the boot we are in.
    ///
    /// # Errors
    /// A daemon uses it, or it cannot be had. A database that cannot be read is no error: it is replaced.
    pub fn hold(dir: &Path, boot_id: &str) -> Result<Held, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| unreadable(dir, &e))?;
        let lock = Self::only_lock(dir)?;
        // One in RAM is gone with the service that had it.
        let head = Homes::new(dir, &lock, None).read().map_err(|e| unreadable(dir, &e))?;
        let mut held = Held {
            dir: dir.to_owned(),
            _lock: lock,
            queued: None,
            torn: false,
            was: None,
            mark: identity::read_mark(dir),
            head,
        };
        let database = identity::database(dir);
        if !database.is_file() {
            return Ok(held);
        }
        let look = || -> Result<_, Trouble> {
            let log = Log::open_to_read(&database)?;
            let line: Line = log.state("line")?.ok_or(Trouble::Damaged("no line".into()))?;
            let epochs = log.state("epochs")?.unwrap_or_default();
            let boots = log.state("boots")?.unwrap_or_default();
            let mut accounts = accounts(&log)?;
            let losses = losses(&log, &accounts)?;
            let queued = queued(&log, &line, &accounts)?;
            let thinned = Rows::of(&log, [])?.gone(&line.present);
            // The database alone is all of it then.
            log.close()?;
            let found = judge(&Found {
                line: Some(&line),
                damaged: false,
                head: held.head.as_ref(),
                mark: held.mark.as_ref().filter(|mark| mark.home == line.home),
                settled: accounts.values().filter_map(|a| a.settled.end()).max().unwrap_or(0),
                boot_id,
            });
            // Restored, and never started since: the mark knows what arrived.
            let behind = |mark: &&Mark| mark.stored > line.next || mark.epoch[0] > line.epoch[0];
            let mark = held.mark.as_ref().filter(|mark| mark.home == line.home && found.rolled_back);
            if let Some(mark) = mark.filter(behind) {
                accounts.extend(mark.accounts.clone().into_iter().filter(|(_, account)| account.balances()));
            }
            // What was acknowledged in the last moment before a kill no commit has seen: of that it is not lost, either.
            let ended = line.clean || found.rolled_back;
            let exact = ended && thinned == 0 && !found.gaps.iter().any(|gap| gap.bound);
            Ok((Was { line, epochs, boots, accounts, losses, next: found.next, exact }, queued))
        };
        match look() {
            Ok((was, queued)) => (held.was, held.queued) = (Some(was), Some(queued)),
            Err(trouble) => {
                tracing::debug!(%trouble, "the database that is replaced cannot be read");
                held.torn = true;
            }
        }
        Ok(held)
    }
}

impl Held {
    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Files of the life that was here, in the order in which they go aside: as long as the database is there the
    /// directory is the old one, and the mark that is put in before it is nothing to it but another directory's.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mut names = vec!["head"];
        if self.torn {
            names.push("fieldgate.db-wal");
        }
        names.iter().map(|name| self.dir.join(name)).filter(|path| path.symlink_metadata().is_ok()).collect()
    }
}

/// What is put into the directory, in this order; with the last one it is the new one.
pub const READY: [&str; 2] = [identity::MARK, identity::DATABASE];

fn accounts(log: &Log) -> Result<BTreeMap<String, Account>, Trouble> {
    let mut accounts = BTreeMap::new();
    for name in log.keys("uplink:")? {
        let account: Option<Account> = log.state(&format!("uplink:{name}"))?;
        if let Some(account) = account.filter(Account::balances) {
            accounts.insert(name, account);
        }
    }
    Ok(accounts)
}

fn losses(log: &Log, accounts: &BTreeMap<String, Account>) -> Result<BTreeMap<u64, LossRecord>, Trouble> {
    let all = accounts.keys().map(|name| log.losses(name, usize::MAX >> 1));
    Ok(all.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

fn queued(
    log: &Log,
    line: &Line,
    accounts: &BTreeMap<String, Account>,
) -> Result<BTreeMap<String, u64>, Trouble> {
    let mut queued = BTreeMap::new();
    for (name, account) in accounts.iter().filter(|(_, a)| a.parked.is_none()) {
        let open: u64 = line.present.iter().map(|range| count(&account.open(range))).sum();
        let missing = Rows::of(log, [account])?.holes(&line.present, account).unwrap_or(0);
        queued.insert(name.clone(), open.saturating_sub(missing));
    }
    Ok(queued)
}
