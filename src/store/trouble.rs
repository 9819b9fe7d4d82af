//! What can be wrong with the database, sorted by what to do next.

use rusqlite::ErrorCode;

use super::schema::SCHEMA;

/// Why the database could not do it, sorted by what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Set it aside and begin a new one.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// Made by a later version: leave it alone.
    #[error("the database has schema {0}; this version knows {SCHEMA}")]
    Newer(i64),
    /// Close, wait, open again.
    #[error("{0}")]
    Disk(String),
}

impl From<rusqlite::Error> for Trouble {
    fn from(e: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        match &e {
            E::SqliteFailure(f, _)
                if matches!(f.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                    // "no such table": SQLITE_ERROR
                    || f.extended_code == 1 =>
            {
                Self::Damaged(e.to_string())
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
        Self::Disk(e.to_string())
    }
}
