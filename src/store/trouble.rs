//! What can be wrong with the database, sorted by what to do next.

use rusqlite::ErrorCode;

use super::schema::SCHEMA;

/// Why the store cannot be opened or closed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the directory.
    #[error("another fieldgate uses `{0}`; stop it first, or give this one a directory of its own")]
    InUse(String),
    /// The database was made by a later version. Nothing was touched.
    #[error(
        "`{path}` was made by a later version (schema {schema}); install that version again, or move the directory away"
    )]
    Newer {
        /// The directory.
        path: String,
        /// Its schema.
        schema: i64,
    },
    /// The system gives no thread.
    #[error("the store's thread cannot start: {0}")]
    Thread(String),
    /// Not everything could be saved at the end.
    #[error("the store could not be closed in order: {0}")]
    Close(String),
    /// The directory cannot be read (only when inspecting).
    #[error("`{path}` cannot be read: {why}")]
    Unreadable {
        /// The directory.
        path: String,
        /// Why.
        why: String,
    },
}

/// Why the database could not do it, sorted by what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Set it aside and begin a new one.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// Made by a later version: leave it alone.
    #[error("the database has schema {0}; this version knows {SCHEMA}")]
    Newer(i64),
    /// There is no room on the disk, or in a quota: close, give up the ballast, open again.
    #[error("{0}")]
    Full(String),
    /// The medium does not give it back: as [`Trouble::Disk`], but if it goes on, what is there is lost (see `salvage`).
    #[error("{0}")]
    Unreadable(String),
    /// Close, wait, open again.
    #[error("{0}")]
    Disk(String),
}

impl Trouble {
    /// What cannot be read is as good as not there, for who can do without; who cannot sees to it (see `salvage`).
    ///
    /// # Errors
    /// Everything else.
    pub fn unreadable<T>(self) -> Result<Option<T>, Self> {
        if matches!(self, Self::Unreadable(_)) { Ok(None) } else { Err(self) }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(e: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        match &e {
            E::SqliteFailure(f, _)
                if matches!(f.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                    // "no such table": SQLITE_ERROR
                    || f.extended_code == 1
                    // The file ends before the rest of a long row. (A disk that cannot read says something else.)
                    || f.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ =>
            {
                Self::Damaged(e.to_string())
            }
            E::SqliteFailure(f, _) if f.extended_code == rusqlite::ffi::SQLITE_IOERR_READ => {
                Self::Unreadable(e.to_string())
            }
            E::SqliteFailure(f, _) if f.code == ErrorCode::DiskFull => Self::Full(e.to_string()),
            // SQLite does not say why.
            E::SqliteFailure(f, _) if f.code == ErrorCode::CannotOpen && is_starved() => {
                Self::Disk(STARVED.into())
            }
            // A flipped bit in a text, or in the text of the schema.
            E::Utf8Error(..) | E::SqlInputError { .. } => Self::Damaged(e.to_string()),
            E::InvalidColumnType(..) | E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..) => {
                Self::Damaged(e.to_string())
            }
            _ => Self::Disk(e.to_string()),
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(e: std::io::Error) -> Self {
        if is_no_room(&e) { Self::Full(e.to_string()) } else { Self::Disk(e.to_string()) }
    }
}

/// What a person can do about it.
const STARVED: &str =
    "no file can be opened, since too many are open already; raise LimitNOFILE of the service";

/// Whether this process, or the system, has no descriptor left.
fn is_starved() -> bool {
    super::identity::unless_starved(std::fs::File::open("/dev/null")).is_err()
}

/// Whether it is room that is missing.
#[must_use]
pub fn is_no_room(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_room_is_told_from_what_is_broken() {
        for code in [rusqlite::ffi::SQLITE_FULL, rusqlite::ffi::SQLITE_IOERR_WRITE] {
            let failed = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            let full = code == rusqlite::ffi::SQLITE_FULL;
            assert_eq!(matches!(Trouble::from(failed), Trouble::Full(_)), full);
        }
        let short = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_SHORT_READ);
        assert!(matches!(Trouble::from(rusqlite::Error::SqliteFailure(short, None)), Trouble::Damaged(_)));
        let said = |errno: rustix::io::Errno| Trouble::from(std::io::Error::from(errno));
        assert!(matches!(said(rustix::io::Errno::NOSPC), Trouble::Full(_)));
        assert!(matches!(said(rustix::io::Errno::DQUOT), Trouble::Full(_)));
        assert!(matches!(said(rustix::io::Errno::IO), Trouble::Disk(_)));
    }
}
