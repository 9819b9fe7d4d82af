//! What can be read of a damaged database, copied into a new one: so a bad page, or a sector that the medium does not
//! give back, takes what is in it and not the whole backlog.
//!
//! Promises:
//! - A block is copied only if it is whole: its CRC, its number and its count fit. What was not copied is missing in the
//!   line, and is declared (`corrupt`) by whoever opens the new database.
//! - The accounts, what is declared, the commands and what was thinned are copied all, or nothing is: half of them would
//!   forget what is owed, without a word.
//! - It ends in time: what could not be copied until then is lost. The damaged file is kept as it is.
//!
//! A medium that cannot be read at one place is not taken for damaged at once: a cable may be loose. After a few times
//! it is, and only if the rest of the file can be read.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction};

use super::block;
use super::identity::{self, seal, unseal};
use super::log::{Log, unsigned};
use super::ranges::{RangeSet, count};
use super::recovery::Line;
use super::state::Tick;
use super::trouble::Trouble;
use super::writer::Writer;

/// How long a start copies: within the 10 s that it may take.
pub const AT_START: Duration = Duration::from_secs(3);
/// How long a running store does: what is taken meanwhile waits in RAM, and is lent.
pub const RUNNING: Duration = Duration::from_secs(10);

/// So often something may be unreadable before it is taken for damaged, within [`FORGOTTEN`].
const PATIENT: u32 = 4;
const FORGOTTEN: Duration = Duration::from_secs(600);

/// How often something could not be read lately.
#[derive(Debug, Default)]
pub(super) struct Unread {
    times: u32,
    since: Option<Tick>,
}

impl Unread {
    fn again(&mut self, now: Tick) {
        let recent = self.since.is_some_and(|since| now.saturating_duration_since(since) < FORGOTTEN);
        if !recent {
            *self = Self { times: 0, since: Some(now) };
        }
        self.times += 1;
    }

    /// It is no accident any more.
    pub(super) fn is_bad(&self) -> bool {
        self.times >= PATIENT
    }
}

impl Writer {
    /// Remembers what a fault says of the database.
    pub(super) fn note_damage(&mut self, trouble: &Trouble) {
        self.damaged |= matches!(trouble, Trouble::Damaged(_));
        // A disk that is gone does not even open it.
        if matches!(trouble, Trouble::Unreadable(_)) && self.log.is_some() {
            self.unread.again(Tick::now());
        }
    }
}

/// Copies what can be read of the database in `dir` into the file `to`, whole and durable. Returns how many readings
/// of how many were copied.
///
/// # Errors
/// It cannot be opened, or not all of the small tables can be read; or those of the disk.
pub fn salvage(dir: &Path, to: &Path, patience: Duration) -> Result<(u64, u64), Trouble> {
    let until = Tick::now() + patience;
    let old = Log::open_to_read(&identity::database(dir))?;
    let mut new = Log::open(to)?;
    let tx = new.conn.transaction()?;
    for table in ["state", "loss", "command", "last", "thin"] {
        copy_table(&old.conn, &tx, table)?;
    }
    let line: Option<String> =
        tx.query_row("SELECT value FROM state WHERE key='line'", [], |r| r.get(0)).optional()?;
    let line: Option<Line> = line.as_deref().and_then(unseal);
    let there = copy_blocks(&old.conn, &tx, line.as_ref(), until)?;
    let copied = there.len();
    let mut of = copied;
    if let Some(mut line) = line {
        of = line.present.len();
        line.present = there;
        tx.execute("UPDATE state SET value=?1 WHERE key='line'", [seal(&line)?])?;
    }
    tx.commit()?;
    new.close()?;
    identity::sync_dir(dir)?;
    Ok((copied, of))
}

/// Every row of a small table. One that is not there, as in a database of an earlier version, has none.
fn copy_table(old: &Connection, new: &Transaction<'_>, table: &str) -> Result<(), Trouble> {
    let there: i64 =
        old.query_row("SELECT count(*) FROM sqlite_schema WHERE name=?1", [table], |r| r.get(0))?;
    if there == 0 {
        return Ok(());
    }
    let mut select = old.prepare(&format!("SELECT * FROM {table}"))?;
    let columns = select.column_count();
    let marks = vec!["?"; columns].join(",");
    let mut insert = new.prepare(&format!("INSERT OR REPLACE INTO {table} VALUES({marks})"))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let values = (0..columns).map(|n| row.get::<_, Value>(n)).collect::<Result<Vec<_>, _>>()?;
        insert.execute(rusqlite::params_from_iter(values))?;
    }
    Ok(())
}

/// A row of the table of blocks.
type Found = (i64, i64, i64, i64, i64, Vec<u8>);

/// The first at or after `at`.
fn block_from(old: &Connection, at: i64) -> Result<Option<Found>, Trouble> {
    let mut select = old.prepare_cached(
        "SELECT first,count,boot,t_min,t_max,data FROM block WHERE first>=?1 ORDER BY first LIMIT 1",
    )?;
    let row =
        select.query_row([at], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?)));
    match row.optional()? {
        Some(found) if found.0 < at => Err(Trouble::Damaged("its rows are not in order".into())),
        row => Ok(row),
    }
}

/// Every block that is whole and that the line knows. Returns their numbers.
fn copy_blocks(
    old: &Connection,
    new: &Transaction<'_>,
    line: Option<&Line>,
    until: Tick,
) -> Result<RangeSet, Trouble> {
    let mut insert = new.prepare(
        "INSERT OR REPLACE INTO block(first,count,boot,t_min,t_max,data) VALUES(?1,?2,?3,?4,?5,?6)",
    )?;
    let (mut there, mut at) = (RangeSet::default(), 0);
    while Tick::now() < until {
        match block_from(old, at) {
            Ok(None) => break,
            Ok(Some(found)) => {
                let range = unsigned(found.0)..unsigned(found.0).saturating_add(unsigned(found.1));
                let known =
                    line.map_or_else(|| vec![range.clone()], |line| line.present.overlap(range.clone()));
                let whole = block::decode(&found.5).is_ok_and(|block| block.range() == range);
                at = found.0.saturating_add(1);
                if whole && count(&known) > 0 {
                    insert.execute(found)?;
                    for part in known {
                        there.insert(part);
                    }
                }
            }
            Err(_) => match beyond(old, at, until) {
                Some(next) => at = next,
                None => break,
            },
        }
    }
    Ok(there)
}

/// Where reading goes on behind what cannot be read at `at`; a bad sector may take its time each time.
fn beyond(old: &Connection, at: i64, until: Tick) -> Option<i64> {
    let reads = |n: i64| block_from(old, n).is_ok();
    let (mut bad, mut step) = (at, 1);
    let mut good = loop {
        let next = at.checked_add(step)?;
        if Tick::now() > until {
            return None;
        }
        if reads(next) {
            break next;
        }
        bad = next;
        step = step.checked_mul(2)?;
    };
    while good - bad > 1 && Tick::now() < until {
        let middle = bad + (good - bad) / 2;
        if reads(middle) { good = middle } else { bad = middle }
    }
    Some(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_once_in_a_while_is_no_damage() {
        let (mut unread, mut now) = (Unread::default(), Tick::now());
        for _ in 0..20 {
            now += FORGOTTEN;
            unread.again(now);
            assert!(!unread.is_bad());
        }
        for _ in 1..PATIENT {
            unread.again(now);
        }
        assert!(unread.is_bad());
    }
}
