//! Looking at the queue while the daemon is stopped. Changes nothing.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::StoreError;
use super::account::Account;
use super::identity;
use super::log::{Log, Trouble};
use super::ranges::count;
use super::recovery::Line;
use crate::message::{Epoch, LossRecord};

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
    /// Declared lost.
    pub lost: u64,
    /// It is not in the configuration any more.
    pub parked: bool,
    /// Loss records that wait for it.
    pub losses: Vec<LossRecord>,
}

impl super::Store {
    /// Looks into a directory that no daemon uses.
    ///
    /// # Errors
    /// A daemon uses it (ask that one), there is no queue, or it cannot be read.
    pub fn inspect(dir: &Path) -> Result<Inspection, StoreError> {
        let path = dir.display().to_string();
        let unreadable = |why: String| StoreError::Unreadable { path: path.clone(), why };
        let database = identity::database(dir);
        if !database.is_file() {
            return Err(unreadable("there is no queue".into()));
        }
        let _lock = identity::lock(dir).map_err(|e| {
            if e.kind() == std::io::ErrorKind::WouldBlock {
                StoreError::InUse(path.clone())
            } else {
                unreadable(e.to_string())
            }
        })?;
        let look = || -> Result<Inspection, Trouble> {
            let log = Log::open(&database)?;
            let line: Line = log.state("line")?.ok_or(Trouble::Damaged("no line".into()))?;
            let mut uplinks = BTreeMap::new();
            for name in log.keys("uplink:")? {
                let Some(account) = log.state::<Account>(&format!("uplink:{name}"))? else { continue };
                let losses = log.losses(&name, usize::MAX >> 1)?.into_iter().map(|(_, r)| r).collect();
                uplinks.insert(name, InspectedUplink::of(&account, &line, losses));
            }
            Ok(Inspection {
                epoch: Epoch { start: line.epoch[0], random: line.epoch[1] }.to_string(),
                next_seq: line.next,
                readings: line.present.len(),
                bytes: log.usage()?.file,
                clean: line.clean,
                set_aside: identity::all_set_aside(dir),
                uplinks,
            })
        };
        look().map_err(|trouble| match trouble {
            Trouble::Newer(schema) => StoreError::Newer { path: path.clone(), schema },
            other => unreadable(other.to_string()),
        })
    }
}

impl InspectedUplink {
    fn of(account: &Account, line: &Line, losses: Vec<LossRecord>) -> Self {
        let queued: Vec<_> = line.present.iter().flat_map(|r| account.open(r)).collect();
        Self {
            taken: line.next.saturating_sub(account.first),
            delivered: account.delivered,
            queued: count(&queued),
            lost: account.lost,
            parked: account.parked.is_some(),
            losses,
        }
    }
}
