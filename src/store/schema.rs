//! What a database of ours looks like, and how one of an earlier version becomes one of this.
//!
//! Promises: a database of a later version is refused and not touched; one that is not ours is never written into;
//! an upgrade is one transaction, so a kill or a power cut leaves the one version or the other.

use super::log::Log;
use super::trouble::Trouble;

/// Version of the schema. A database of a later one is refused and not touched; one of an earlier one is brought
/// here when it is opened to be written, see [`STEPS`].
pub const SCHEMA: i64 = 6;
/// What makes a database of the next version: the first of version 1, one of 2, and so on.
const STEPS: [&str; SCHEMA as usize - 1] = [
    // Nothing in the tables, but blocks of layout 2 come in, which version 1 would take for damaged.
    "",
    // Nothing in the tables, but accounts remember what was sent before the clock was set, which version 2 would drop
    // without a word, and the corrections with it.
    "",
    // Nothing in the tables, but blocks with messages come in (layout 3), and accounts count what they pass over; version 3
    // would take both for damaged.
    "",
    // Blocks of layout 4, of which numbers are missing, which version 4 would take for damaged.
    THIN,
    // Nothing in the tables, but epochs say what the gateway was called, and readings go out by that; version 5 would send them
    // under another name.
    "",
];
/// For each thinned block: its first number, for how many it stands, and how many of these are missing. Where a header says
/// an earlier version than there is (a flipped bit), the table is there already, and that is no reason to give up the rest.
const THIN: &str = "CREATE TABLE IF NOT EXISTS thin(first INTEGER PRIMARY KEY, count INTEGER NOT NULL, gone INTEGER NOT NULL);";

/// "FGAT": tells our database from somebody else's.
const APPLICATION: i64 = 0x4647_4154;

impl Log {
    /// The tables of a new database.
    pub(super) fn create(&mut self) -> Result<(), Trouble> {
        let tx = self.conn.transaction()?;
        let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
        if tables > 0 {
            return Err(Trouble::Damaged("it is not a fieldgate database".into()));
        }
        tx.execute_batch(&format!(
            "CREATE TABLE state(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
             CREATE TABLE block(first INTEGER PRIMARY KEY, count INTEGER NOT NULL, boot INTEGER NOT NULL,
                                t_min INTEGER NOT NULL, t_max INTEGER NOT NULL, data BLOB NOT NULL);
             CREATE TABLE loss(handle INTEGER PRIMARY KEY, uplink TEXT NOT NULL, body TEXT NOT NULL);
             CREATE TABLE command(id TEXT PRIMARY KEY, n INTEGER NOT NULL, result TEXT) WITHOUT ROWID;
             CREATE TABLE last(id INTEGER PRIMARY KEY, data BLOB NOT NULL);
             {THIN}
             PRAGMA application_id={APPLICATION};
             PRAGMA user_version={SCHEMA};"
        ))?;
        tx.commit()?;
        Ok(())
    }

    pub(super) fn is_ours(&self) -> Result<(), Trouble> {
        let ours: i64 = self.conn.query_row("PRAGMA application_id", [], |r| r.get(0))?;
        if ours == APPLICATION {
            Ok(())
        } else {
            Err(Trouble::Damaged("it is not a fieldgate database".into()))
        }
    }

    /// Whether SQLite finds every page in its place.
    ///
    /// # Errors
    /// It does not, or cannot look.
    pub(super) fn is_whole(&self) -> Result<(), Trouble> {
        let said: String = self.conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
        if said == "ok" { Ok(()) } else { Err(Trouble::Damaged(said)) }
    }

    /// All steps from `version` on, in one transaction: a kill or a power cut leaves the one or the other.
    pub(super) fn migrate(&mut self, version: i64) -> Result<(), Trouble> {
        let done = usize::try_from(version - 1).unwrap_or(usize::MAX);
        let Some(steps) = STEPS.get(done..).filter(|steps| !steps.is_empty()) else { return Ok(()) };
        let tx = self.conn.transaction()?;
        for step in steps {
            tx.execute_batch(step)?;
        }
        tx.execute_batch(&format!("PRAGMA user_version={SCHEMA}"))?;
        tx.commit()?;
        tracing::info!(from = version, to = SCHEMA, "the database is of this version now");
        Ok(())
    }
}
