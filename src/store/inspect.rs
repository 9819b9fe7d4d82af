//! Looking at the queue while the daemon is stopped: its accounts, and its readings. Changes nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::StoreError;
use super::account::Account;
use super::backup::Copied;
use super::block;
use super::drain::Chunk;
use super::epochs::Epochs;
use super::holes::Rows;
use super::identity;
use super::log::Log;
use super::ranges::count;
use super::recovery::Line;
use super::state;
use super::times::Boot;
use super::trouble::Trouble;
use crate::message::{BootMs, Epoch, Id, LossRecord};

/// What is in the directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The last epoch.
    pub epoch: String,
    /// One past the highest stored number.
    pub next_seq: u64,
    /// Readings stored.
    pub readings: u64,
    /// Size of the database, bytes.
    pub bytes: u64,
    /// The last life ended in order.
    pub clean: bool,
    /// Damaged databases in the directory.
    pub set_aside: Vec<String>,
    /// The uplinks' accounts, as of the last commit.
    pub uplinks: BTreeMap<String, InspectedUplink>,
}

/// One uplink's account.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InspectedUplink {
    /// Numbers since its first.
    pub taken: u64,
    /// Acknowledged.
    pub delivered: u64,
    /// Stored and waiting.
    pub queued: u64,
    /// Their size on disk, about.
    pub queued_bytes: u64,
    /// Time of the oldest of them, RFC 3339.
    pub oldest_ts: Option<String>,
    /// Declared lost.
    pub lost: u64,
    /// It is not in the configuration any more.
    pub parked: bool,
    /// Loss records that wait for it.
    pub losses: Vec<LossRecord>,
}

/// The log of a directory that no daemon uses. While it is held none can start.
#[derive(Debug)]
pub struct AtRest {
    log: Log,
    _lock: std::fs::File,
    path: String,
    line: Line,
    boots: BTreeMap<u32, Boot>,
    dir: PathBuf,
    token: Arc<()>,
}

/// One block.
#[derive(Debug)]
pub struct Stretch {
    /// What is in it, and where to go on. Empty where the block is damaged.
    pub chunk: Chunk,
    /// The block is damaged; the daemon will declare it.
    pub damaged: bool,
}

impl super::Store {
    /// Looks into a directory that no daemon uses.
    ///
    /// # Errors
    /// A daemon uses it (ask that one), there is no queue, or it cannot be read.
    pub fn inspect(dir: &Path) -> Result<Inspection, StoreError> {
        Self::at_rest(dir)?.inspection()
    }

    /// Opens the log of a directory that no daemon uses, to read it.
    ///
    /// # Errors
    /// As [`super::Store::inspect`].
    pub fn at_rest(dir: &Path) -> Result<AtRest, StoreError> {
        let path = dir.display().to_string();
        let database = identity::database(dir);
        if !database.is_file() {
            return Err(StoreError::Unreadable { path, why: "there is no queue".into() });
        }
        let lock = identity::lock(dir).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => StoreError::InUse(path.clone()),
            _ => StoreError::Unreadable { path: path.clone(), why: e.to_string() },
        })?;
        let open = || -> Result<_, Trouble> {
            let log = Log::open_to_read(&database)?;
            let line: Line = log.state("line")?.ok_or(Trouble::Damaged("no line".into()))?;
            let boots: Vec<Boot> = log.state("boots")?.unwrap_or_default();
            Ok((log, line, boots))
        };
        let (log, line, boots) = open().map_err(|trouble| said(&path, trouble))?;
        let boots = boots.into_iter().map(|b| (b.n, b)).collect();
        Ok(AtRest { log, _lock: lock, path, line, boots, dir: dir.to_owned(), token: Arc::new(()) })
    }
}

pub(super) fn said(path: &str, trouble: Trouble) -> StoreError {
    let path = path.to_owned();
    match trouble {
        Trouble::Newer(schema) => StoreError::Newer { path, schema },
        other => StoreError::Unreadable { path, why: other.to_string() },
    }
}

impl AtRest {
    /// Begins a copy of the whole database: its WAL is written back, which changes nothing that is in it.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn begin_copy(&mut self) -> Result<Copied, StoreError> {
        let of = self.log.begin_copy(&self.line, &self.token);
        of.map_err(|trouble| said(&self.path, trouble))
    }

    /// The copy's bytes from `at` on; none after the last.
    ///
    /// # Errors
    /// It was not begun, or cannot be read.
    pub fn piece(&self, at: u64) -> Result<Vec<u8>, StoreError> {
        self.log.copy.piece(&self.token, at).map_err(|why| said(&self.path, Trouble::Disk(why)))
    }

    /// What the gateway was called when the newest numbers were taken, if that is written down.
    #[must_use]
    pub fn gateway(&self) -> Option<String> {
        let epochs: Epochs = self.log.state("epochs").ok()??;
        epochs.gateway(u64::MAX)
    }

    /// All accounts.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn inspection(&self) -> Result<Inspection, StoreError> {
        let look = || -> Result<Inspection, Trouble> {
            let (log, line) = (&self.log, &self.line);
            let (mut uplinks, usage) = (BTreeMap::new(), log.usage()?);
            let missing = Rows::of(log, [])?.gone(&line.present);
            for name in log.keys("uplink:")? {
                let Some(account) = log.state::<Account>(&format!("uplink:{name}"))? else { continue };
                let losses = log.losses(&name, usize::MAX >> 1)?.into_iter().map(|(_, r)| r).collect();
                let thinned = Rows::of(log, [&account])?;
                let lost = thinned.holes(&line.present, &account).unwrap_or(0);
                let mut uplink = InspectedUplink::of(&account, line, lost, losses);
                let readings = line.present.len().saturating_sub(missing);
                uplink.queued_bytes =
                    share(usage.file.saturating_sub(usage.reusable), uplink.queued, readings);
                uplink.oldest_ts = self.oldest(&account)?;
                uplinks.insert(name, uplink);
            }
            Ok(Inspection {
                epoch: Epoch { start: line.epoch[0], random: line.epoch[1] }.to_string(),
                next_seq: line.next,
                readings: line.present.len().saturating_sub(missing),
                bytes: usage.file,
                clean: line.clean,
                set_aside: identity::all_set_aside(&self.dir),
                uplinks,
            })
        };
        look().map_err(|trouble| said(&self.path, trouble))
    }

    /// When the oldest block that this account has open was taken, as the daemon says it.
    fn oldest(&self, account: &Account) -> Result<Option<String>, Trouble> {
        let first =
            self.line.present.iter().find_map(|range| account.open(range).first().map(|open| open.start));
        let Some(first) = first else { return Ok(None) };
        let row = self.log.rows(first..u64::MAX, 1)?.pop();
        let placed = row.and_then(|row| Some(self.boots.get(&row.boot)?.place(BootMs(row.times[0])).0));
        Ok(placed.map(|ts| ts.to_string()))
    }

    /// What is stored and not yet passed by this uplink; `None`: it has no position here.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn queued(&self, uplink: &str) -> Result<Option<Vec<Range<u64>>>, StoreError> {
        let account = self.log.state::<Account>(&format!("uplink:{uplink}"));
        let account = account.map_err(|trouble| said(&self.path, trouble))?;
        Ok(account.map(|a| self.line.present.iter().flat_map(|range| a.open(range)).collect()))
    }

    /// The readings of the block that holds `at`, or of the next one; `None`: that was all.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn stretch(&self, at: u64) -> Result<Option<Stretch>, StoreError> {
        let look = || -> Result<Option<Stretch>, Trouble> {
            let Some(row) = self.log.rows(at..u64::MAX, 2)?.into_iter().next() else { return Ok(None) };
            let next = row.range().end.max(at + 1);
            let block = self.log.block_before(row.first)?.map(|(_, data)| block::decode(&data));
            let Some(Ok(block)) = block.filter(|b| b.as_ref().is_ok_and(|b| b.head.first == row.first))
            else {
                return Ok(Some(Stretch { chunk: Chunk::empty(next), damaged: true }));
            };
            let head = &block.head;
            let mut chunk = Chunk::empty(next);
            for (seq, entry) in block.numbered() {
                let time = state::time_of(&self.boots, entry.at(), head.boot, (head.offset, head.synced));
                state::put(&mut chunk, Id { epoch: head.epoch, seq }, entry, time);
            }
            Ok(Some(Stretch { chunk, damaged: false }))
        };
        look().map_err(|trouble| said(&self.path, trouble))
    }
}

/// The part of `bytes` that so many of all readings take.
pub(super) fn share(bytes: u64, part: u64, all: u64) -> u64 {
    let share = u128::from(bytes) * u128::from(part) / u128::from(all.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

impl InspectedUplink {
    /// `missing`: how many of its numbers are gone from thinned blocks.
    fn of(account: &Account, line: &Line, missing: u64, losses: Vec<LossRecord>) -> Self {
        let queued: Vec<_> = line.present.iter().flat_map(|r| account.open(r)).collect();
        let (taken, waiting) = (account.taken(line.next), count(&queued).saturating_sub(missing));
        let lost = match account.parked {
            // Who left holds no blocks: what is gone of them is lost, and declared when it comes back.
            Some(_) => taken.saturating_sub(account.delivered + waiting),
            None => account.lost + missing,
        };
        Self {
            taken,
            delivered: account.delivered,
            queued: waiting,
            queued_bytes: 0,
            oldest_ts: None,
            lost,
            parked: account.parked.is_some(),
            losses,
        }
    }
}
