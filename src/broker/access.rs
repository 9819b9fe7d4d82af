//! Who is let in and what they may do: the password and ACL files, read together.

use std::path::{Path, PathBuf};

use super::BrokerError;
use super::acl::Acl;
use super::lines::LineError;
use super::passwords::Passwords;
use crate::config::model;

/// Both files as read at start or reload. Without a file, the thing it would say is open.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Users, if there is a password file.
    pub passwords: Option<Passwords>,
    /// Rights, if there is an ACL file.
    pub acl: Option<Acl>,
}

impl Access {
    /// Reads both files.
    ///
    /// # Errors
    /// A file cannot be read, or lines of it cannot be understood.
    pub fn load(config: &model::Broker) -> Result<Self, BrokerError> {
        let load = |path: &Option<PathBuf>| path.as_ref().map(|p| Ok((p.clone(), read(p)?))).transpose();
        let mistakes = |path: PathBuf| move |lines: Vec<LineError>| BrokerError::File { path, lines };
        let passwords = match load(&config.password_file)? {
            Some((path, text)) => Some(Passwords::parse(&text).map_err(mistakes(path))?),
            None => None,
        };
        let acl = match load(&config.acl_file)? {
            Some((path, text)) => Some(Acl::parse(&text).map_err(mistakes(path))?),
            None => None,
        };
        Ok(Self { passwords, acl })
    }

    /// Whether a client that came in by `old` must go: its user is gone or has another password; or it has no name and is not
    /// `welcome` any more. (A listener that changed ends its connections itself.)
    #[must_use]
    pub fn revokes(&self, old: &Self, user: Option<&str>, welcome: bool) -> bool {
        let Some(passwords) = &self.passwords else { return false };
        match user {
            None => !welcome,
            Some(user) => !old.passwords.as_ref().is_some_and(|old| passwords.agrees(old, user)),
        }
    }

    /// What is another than in `old`, in words.
    #[must_use]
    pub fn changes(&self, old: &Self) -> Vec<String> {
        [(self.passwords != old.passwords, "users"), (self.acl != old.acl, "rights")]
            .into_iter()
            .filter(|(changed, _)| *changed)
            .map(|(_, what)| format!("{what} of the local broker changed"))
            .collect()
    }

    /// Whether clients without a name may come in through this listener: as it says, otherwise only on
    /// loopback and only without a password file.
    #[must_use]
    pub fn anonymous(&self, listener: &model::Listener) -> bool {
        listener.allow_anonymous.unwrap_or(listener.bind.ip().is_loopback() && self.passwords.is_none())
    }
}

fn read(path: &Path) -> Result<String, BrokerError> {
    std::fs::read_to_string(path).map_err(|source| BrokerError::Read { path: path.to_owned(), source })
}
