//! Opening the data directory: what is there, what is missing, who is owed what.
//!
//! Promises: nothing found in the directory makes it fail, except a database of a later version (which is
//! left alone). What cannot be used is set aside under a name that the status shows.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use super::account::{Account, parked_at};
use super::commands::Commands;
use super::epochs::{Epochs, Start};
use super::exchange::Session;
use super::head::{Head, Homes};
use super::identity::{self, Mark};
use super::last::{self, Latest};
use super::lend::Held;
use super::log::Log;
use super::loss::{self, Facts};
use super::newest::newest_values;
use super::placing::{Look, numbers_of};
use super::ranges::{RangeSet, count};
use super::recovery::{Found, Line, Verdict, belongs, judge};
use super::sound;
use super::state::State;
use super::times::Boot;
use super::trouble::Trouble;
use crate::clock::Clock;
use crate::message::{Epoch, Id, LossReason};

/// Uplinks that are not in the configuration keep their position this long, ms.
pub const PARKED_MS: i64 = 30 * 86_400_000;

/// Why the directory cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another process has it.
    #[error("another fieldgate uses this directory")]
    InUse,
    /// Made by a later version.
    #[error(
        "the database has schema {0}, made by a later version; install that version again, or move the directory away"
    )]
    Newer(i64),
    /// There is no room: try again when there is.
    #[error("{0}")]
    Full(String),
    /// Try again later.
    #[error("{0}")]
    Disk(String),
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full(why) => Self::Full(why),
            Refused::Newer(n) => Self::Newer(n),
            Refused::InUse | Refused::Disk(_) => Self::Disk(refused.to_string()),
        }
    }
}

impl From<std::io::Error> for Refused {
    fn from(e: std::io::Error) -> Self {
        match e.kind() {
            std::io::ErrorKind::WouldBlock => Self::InUse,
            _ => Trouble::from(e).into(),
        }
    }
}

impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Newer(n) => Self::Newer(n),
            Trouble::Full(why) => Self::Full(why),
            Trouble::Damaged(why) | Trouble::Unreadable(why) | Trouble::Disk(why) => Self::Disk(why),
        }
    }
}

/// What was found on disk.
#[derive(Debug)]
pub struct Disk {
    /// The open database.
    pub log: Log,
    /// Held for the life of the store.
    pub lock: File,
    /// Where the head file may be.
    pub homes: Homes,
    /// What the database says of the line, if it says anything.
    pub line: Option<Line>,
    /// The word of the directory.
    pub home: u64,
    /// A handle above those of all loss records that are there.
    pub next_loss: u64,
    /// Name under which a damaged database was set aside just now.
    pub set_aside: Option<String>,
    /// Numbers for which there are blocks.
    pub present: RangeSet,
    /// The latest values of the last life.
    pub latest: Latest,
    verdict: Verdict,
    /// The mark, if it belongs here.
    pub mark: Option<Mark>,
    accounts: BTreeMap<String, Account>,
    /// Uplinks whose account is damaged.
    damaged: Vec<String>,
    epochs: Epochs,
    boots: Vec<Boot>,
    /// Number of the boot of the newest block.
    newest_boot: u32,
    commands: Commands,
}

/// Takes the directory and reads everything that a new life needs to know. `run`: see [`Homes::new`].
///
/// # Errors
/// Sorted by what to do next.
pub fn look(dir: &Path, run: Option<&Path>, clock: &dyn Clock) -> Result<Disk, Refused> {
    std::fs::create_dir_all(dir)?;
    let lock = identity::lock(dir)?;
    let mut mark = identity::find_mark(dir)?;
    if let Some(bad) = identity::set_bad_mark_aside(dir)? {
        tracing::error!("the mark beside the database is damaged; set aside as {bad}");
    }
    let (mut log, mut set_aside) = sound::open(dir)?;
    let mut loaded = Loaded::if_readable(&log)?;
    if loaded.is_none() {
        drop(log);
        (log, set_aside) = sound::replace_at_start(dir)?;
        loaded = Loaded::if_readable(&log)?;
    }
    let word = identity::home(&lock);
    let database = loaded.as_ref().map_or(0, |loaded| loaded.of);
    let belongs = belongs(word, database, mark.as_ref().map_or(0, |m| m.home));
    if !belongs.database {
        tracing::error!("the database belongs to another data directory");
        loaded = None;
    }
    if !belongs.mark {
        let bad = identity::set_mark_aside(dir)?;
        tracing::error!("the mark belongs to another data directory; set aside as {bad}");
        mark = None;
    }
    let (log, loaded) = match loaded {
        Some(loaded) => match sound::mended(dir, log, loaded.line.as_ref(), mark.as_ref())? {
            (log, None) => (log, loaded),
            (anew, bad) => {
                set_aside = bad;
                let loaded = Loaded::if_readable(&anew)?;
                (anew, loaded.unwrap_or_default())
            }
        },
        None => {
            drop(log);
            let another;
            (another, set_aside) = sound::begin_another(dir)?;
            (another, Loaded::default())
        }
    };
    let home = belongs.home.map_or_else(getrandom::u64, Ok).unwrap_or_else(|_| fastrand::u64(..)).max(1);
    if word != Some(home) {
        identity::set_home(&lock, home)?;
    }
    let homes = Homes::new(dir, &lock, run);
    let head = homes.read()?;
    Ok(Disk { home, ..loaded.judged(log, (lock, homes), set_aside, (mark, head), clock) })
}

#[derive(Default)]
struct Loaded {
    line: Option<Line>,
    /// The word of the directory it belongs to; 0: unknown.
    of: u64,
    present: RangeSet,
    accounts: BTreeMap<String, Account>,
    /// Uplinks whose account is damaged.
    damaged: Vec<String>,
    epochs: Epochs,
    boots: Vec<Boot>,
    newest_boot: u32,
    next_loss: u64,
    commands: Commands,
    latest: Latest,
}

impl Loaded {
    /// `None`: it is damaged.
    fn if_readable(log: &Log) -> Result<Option<Self>, Trouble> {
        match Self::from(log) {
            Err(Trouble::Damaged(why)) => {
                tracing::error!(%why, "the database is damaged");
                Ok(None)
            }
            loaded => loaded.map(Some),
        }
    }

    fn from(log: &Log) -> Result<Self, Trouble> {
        let line: Option<Line> = log.state("line")?;
        // On a disk that mixes pages of two commits the line may be older than the records.
        let next_loss = log.next_loss()?.max(line.as_ref().map_or(1, |l| l.next_loss));
        let present = match &line {
            Some(line) => line.present.clone(),
            None => log.scan()?.into_iter().collect(),
        };
        let (mut accounts, mut damaged) = (BTreeMap::new(), Vec::new());
        for name in log.keys("uplink:")? {
            let account: Option<Account> = log.state(&format!("uplink:{name}"))?;
            match account.filter(Account::balances) {
                Some(account) => drop(accounts.insert(name, account)),
                None => damaged.push(name),
            }
        }
        let latest = log.last()?.as_deref().and_then(last::unpack);
        let (mut latest, upto) = latest.unwrap_or_default();
        let boots: Vec<Boot> = log.state("boots")?.unwrap_or_default();
        let epochs: Epochs = log.state("epochs")?.unwrap_or_default();
        let newest_boot = newest_values(log, &present, (&boots, &epochs), upto, &mut latest)?;
        Ok(Self {
            line,
            of: log.home()?,
            present,
            accounts,
            damaged,
            epochs,
            boots,
            newest_boot,
            next_loss,
            commands: Commands::from_rows(log.commands()?),
            latest,
        })
    }

    fn judged(
        self,
        log: Log,
        (lock, homes): (File, Homes),
        set_aside: Option<String>,
        (mark, head): (Option<Mark>, Option<Head>),
        clock: &dyn Clock,
    ) -> Disk {
        let after_scan;
        let line = match &self.line {
            None if !self.present.is_empty() => {
                // The blocks are there, what was said of them is not: everything else is a witness less.
                let next = self.present.end().unwrap_or(1);
                let epoch = self.epochs.of(next);
                after_scan = Line {
                    epoch: [epoch.start, epoch.random],
                    next,
                    present: self.present.clone(),
                    head_file: true,
                    next_loss: self.next_loss,
                    ..Line::default()
                };
                Some(&after_scan)
            }
            line => line.as_ref(),
        };
        let verdict = judge(&Found {
            line,
            damaged: set_aside.is_some(),
            head: head.as_ref(),
            mark: mark.as_ref(),
            settled: self.accounts.values().filter_map(|a| a.settled.end()).max().unwrap_or(0),
            boot_id: clock.boot_id(),
        });
        let line = line.cloned();
        Disk {
            log,
            lock,
            homes,
            line,
            home: 0,
            next_loss: self.next_loss.max(1),
            set_aside,
            present: self.present,
            latest: self.latest,
            verdict,
            mark,
            accounts: self.accounts,
            damaged: self.damaged,
            epochs: self.epochs,
            boots: self.boots,
            newest_boot: self.newest_boot,
            commands: self.commands,
        }
    }
}

impl Disk {
    /// One past the highest number that was durable by the word of the mark.
    pub fn marked(&self) -> u64 {
        self.mark.as_ref().map_or(1, |mark| mark.stored)
    }

    /// Puts what the disk knows under the state in RAM. What was taken before the disk was there moves to
    /// its place on the line.
    pub fn adopt_into(&self, state: &mut State, random: u32, clock: &dyn Clock) {
        let next = self.verdict.next;
        let moved = next - 1;
        let earlier = std::mem::take(&mut state.accounts);
        let drafts = std::mem::take(&mut state.drafts);
        state.present = self.present.clone();
        state.next += moved;
        state.stored = next;
        state.proven = self.verdict.known;
        (state.readable, state.held) = (next, Held::default());
        let ring = state.ring_range().start;
        state.hand = ring..ring;
        state.bound = state.bound.max(self.line.as_ref().map_or(0, |l| l.bound));
        state.epoch = Epoch { start: self.verdict.start, random };
        state.commands.preceded_by(self.commands.clone());
        self.adopt_boots(state, clock);

        let uplinks: Vec<String> = earlier.keys().cloned().collect();
        let marked = self.mark.as_ref().filter(|mark| self.verdict.rolled_back && self.is_behind(mark));
        let mut known = self.accounts.clone();
        if let Some(mark) = marked {
            known.extend(mark.accounts.clone().into_iter().filter(|(_, a)| a.balances()));
        }
        for name in &self.damaged {
            // Older than it was, or as of the beginning: what is gone may have been owed, so it is declared.
            let old = self.mark.as_ref().and_then(|mark| mark.accounts.get(name)).filter(|a| a.balances());
            let old = || old.cloned().unwrap_or_else(|| Account::new(1)).without_session();
            known.entry(name.clone()).or_insert_with(old);
        }
        if self.verdict.rolled_back {
            // Nobody knows what went on at the brokers after that.
            known.values_mut().for_each(|account| account.session = Session::default());
        }
        // With nothing known of any account, everything that is gone may have been owed.
        let unknown = self.verdict.rolled_back && known.is_empty();
        let configured = known.iter().filter(|(name, _)| uplinks.contains(name));
        let others = configured.map(|(name, account)| (name.clone(), account.clone())).collect();
        let oldest = if unknown { 1 } else { State::beginning(&self.present, &others, next) };
        let now = parked_at(clock);
        state.accounts = uplinks
            .iter()
            .map(|n| (n.clone(), known.remove(n).unwrap_or_else(|| Account::new(oldest))))
            .collect();
        state.parked = known
            .into_iter()
            .map(|(name, mut account)| {
                account.parked = Some(account.parked.map_or(now, |since| since.min(now)));
                (name, account)
            })
            .filter(|(_, a)| !clock.synced() || a.parked.is_some_and(|since| now - since < PARKED_MS))
            .collect();

        let passed = state.accounts.values().map(Account::passed);
        let needed = passed.chain(self.present.first()).min().unwrap_or(next);
        state.epochs = self.epochs.clone();
        let newest = self.verdict.gaps.iter().find_map(|g| g.epoch);
        if let (true, Some(epoch)) = (state.epochs.0.is_empty(), newest) {
            state.epochs.0.push(Start { first: 1, epoch, boot: 0, gateway: None });
        }
        state.begin_epoch(next, needed);
        let used: Vec<u32> = state.epochs.0.iter().map(|s| s.boot).chain([state.boot]).collect();
        state.boots.retain(|n, _| used.contains(n));

        for account in state.accounts.values_mut().chain(state.parked.values_mut()) {
            // The life before may have handed out all of it that was durable.
            let boot = account.released.open_boot().unwrap_or(0);
            account.released.close(&numbers_of(boot, &self.epochs, self.verdict.known), &self.epochs);
        }
        let look = Look::at(clock);
        let _ = state.observe(look);
        state.correct(clock.wall());
        for account in state.accounts.values_mut() {
            account.parked = None;
        }
        // What overflowed before the disk was there.
        for draft in drafts {
            let range = draft.range.start + moved..draft.range.end + moved;
            state.lose_for(&draft.uplink, range, draft.reason, draft.bound, |_| draft.facts.clone(), false);
        }
        self.declare(state, &uplinks);
        self.count_missing(state);
        state.wish(state.post.wishes.clone());
        state.dirty_since.get_or_insert_with(super::state::Tick::now);
    }

    /// A roll-back that only the head file knows of may be a smaller one, and the mark still older.
    fn is_behind(&self, mark: &Mark) -> bool {
        self.line.as_ref().is_none_or(|line| mark.stored > line.next || mark.epoch[0] > line.epoch[0])
    }

    fn adopt_boots(&self, state: &mut State, clock: &dyn Clock) {
        let mut boots: BTreeMap<u32, Boot> = self.boots.iter().map(|b| (b.n, b.clone())).collect();
        let known = boots.values().find(|b| b.id == clock.boot_id()).map(|b| b.n);
        // If what is known of the boots is damaged, blocks and epochs still name theirs; another boot under the same
        // number would place them at a wrong time.
        let used = self.epochs.0.iter().map(|s| s.boot).chain(boots.keys().copied()).max().unwrap_or(0);
        let fresh = used.max(self.newest_boot).saturating_add(1);
        let n = known.unwrap_or(fresh);
        let first = Id { epoch: state.epoch, seq: self.verdict.next };
        let new = || Boot::new(n, clock.boot_id(), clock.both(), first);
        let boot = boots.entry(n).or_insert_with(new);
        boot.begin(first);
        state.boots = boots;
        state.boot = n;
    }

    /// Every number that an account is owed and that is not there, with the reason that is known for it.
    fn declare(&self, state: &mut State, uplinks: &[String]) {
        for name in uplinks {
            // A damaged record is in none of the answers.
            let records = self.log.losses(name, usize::MAX >> 1).unwrap_or_default();
            let whole = records.iter().filter(|(_, r)| {
                r.reason != LossReason::Thinned
                    && r.count == count(&loss::numbers(r))
                    && r.seq[1] < state.next
            });
            let whole: Vec<_> = whole.map(|(_, r)| r.clone()).collect();
            for record in whole {
                // On a disk that mixes pages of two commits the account may be older than the record.
                if let Some(account) = state.accounts.get_mut(name) {
                    loss::numbers(&record).into_iter().for_each(|range| drop(account.lose(range)));
                }
            }
            for gap in &self.verdict.gaps {
                let there = &self.present;
                for part in there.missing(gap.range.clone()) {
                    state.lose_for(name, part, gap.reason, gap.bound, |_| Facts::default(), false);
                }
            }
            let was_parked = self.accounts.get(name).is_some_and(|a| a.parked.is_some());
            let reason = if was_parked {
                LossReason::Purged
            } else if self.set_aside.is_some() {
                LossReason::Corrupt
            } else if self.verdict.rolled_back {
                LossReason::Rollback
            } else {
                LossReason::Corrupt
            };
            state.complete(name, reason);
            state.declare_again(name, &records, reason);
        }
    }
}
