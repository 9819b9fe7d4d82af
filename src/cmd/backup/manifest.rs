//! What stands at the beginning of a backup: of which gateway it is, when it was made, and which files follow.
//!
//! Promises: a manifest that [`Manifest::check`] passes names nothing outside of the backup's own three places:
//! `config/…` beside the configuration file, `files/…` what it names elsewhere, `queue/fieldgate.db`.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::store::Copied;

/// The form of a backup. One of a later form is refused.
pub const FORMAT: u32 = 1;
/// The manifest's own name.
pub const MANIFEST: &str = "manifest.json";
/// The database's name.
pub const QUEUE: &str = "queue/fieldgate.db";
/// The last member: a checksum of each, in the form of `sha256sum`.
pub const SUMS: &str = "SHA256SUMS";
/// The main configuration file, whatever it was called.
pub const MAIN: &str = "config/fieldgate.toml";
/// Most files beside the database. `conf.d` alone may have a thousand.
pub const MOST_FILES: usize = 4096;
/// Largest file beside the database, as the configuration itself is bounded.
pub const LARGEST_FILE: u64 = 4 << 20;
/// All of them together.
pub const LARGEST_ALL: u64 = 64 << 20;

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`FORMAT`].
    pub format: u32,
    /// The version that made it.
    pub fieldgate: String,
    /// Id of the gateway.
    pub gateway: String,
    /// The id stands in the configuration, and is not the name of the host.
    pub named: bool,
    /// When, RFC 3339.
    pub made: String,
    /// The same, ms since 1970.
    pub made_ms: i64,
    /// The configuration file.
    pub config: String,
    /// The files that follow, in this order.
    pub files: Vec<Member>,
    /// The queue, which follows them; none with `--config-only`.
    pub queue: Option<Copied>,
    /// Files that the configuration names and that are not here.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name in the backup.
    pub name: String,
    /// Where it was.
    pub from: String,
    /// Its length.
    pub bytes: u64,
    /// Who may do what with it, as in `chmod`.
    pub mode: String,
    /// Name of its owner; empty: unknown.
    pub owner: String,
    /// Name of its group; empty: unknown.
    pub group: String,
    /// It is a password or a key.
    pub secret: bool,
}

/// One file that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The name it would have here.
    pub name: String,
    /// Where it was looked for.
    pub path: String,
    /// Left out with `--no-secrets`; else it was not there.
    pub secret: bool,
}

impl Manifest {
    /// Whether it can be followed.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!(
                "it has form {}, made by fieldgate {}; this version reads form {FORMAT}",
                self.format, self.fieldgate
            ));
        }
        if self.files.len() > MOST_FILES {
            return Err(format!("it says to have {} files", self.files.len()));
        }
        let mut all: u64 = 0;
        let mut seen = HashSet::new();
        for file in &self.files {
            let name = &file.name;
            if !is_safe(name) || !(name.starts_with("config/") || name.starts_with("files/")) {
                return Err(format!("it has a file of the name {name:?}, which no backup has"));
            }
            if !seen.insert(name.as_str()) {
                return Err(format!("it has two files of the name {name:?}"));
            }
            if self.files.iter().any(|other| other.name.strip_prefix(name.as_str()).is_some_and(in_it)) {
                return Err(format!("{name:?} is a file and a directory"));
            }
            all = all.saturating_add(file.bytes);
            if file.bytes > LARGEST_FILE || all > LARGEST_ALL {
                return Err(format!("{name:?} is too large to be what it should be"));
            }
            if file.mode().is_none() {
                return Err(format!("{name:?} has the mode {:?}", file.mode));
            }
        }
        match self.left_out.iter().find(|left| !is_safe(&left.name)) {
            Some(left) => Err(format!("it has a file of the name {:?}, which no backup has", left.name)),
            None => Ok(()),
        }
    }
}

fn in_it(rest: &str) -> bool {
    rest.starts_with('/')
}

impl Member {
    /// The mode as a number; nothing but the nine bits of reading, writing and executing.
    #[must_use]
    pub fn mode(&self) -> Option<u32> {
        u32::from_str_radix(&self.mode, 8).ok().filter(|mode| mode & !0o777 == 0)
    }
}

/// A relative path that stays where it is put: plain parts, no `..`, nothing that a terminal would obey.
#[must_use]
pub fn is_safe(name: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\\');
    name.len() <= 250 && name.split('/').all(plain) && !name.chars().any(char::is_control)
}

#[cfg(test)]
pub(in crate::cmd) mod tests {
    use super::*;

    /// A manifest of files with these names and lengths.
    pub fn manifest(files: &[(&str, u64)]) -> Manifest {
        let member = |(name, bytes): &(&str, u64)| Member {
            name: (*name).to_owned(),
            from: format!("/etc/{name}"),
            bytes: *bytes,
            mode: "640".to_owned(),
            owner: "root".to_owned(),
            group: String::new(),
            secret: false,
        };
        Manifest {
            format: FORMAT,
            fieldgate: "0.1.0".to_owned(),
            gateway: "plant-7".to_owned(),
            named: true,
            made: "2026-11-28T06:00:00Z".to_owned(),
            made_ms: 1_795_845_600_000,
            config: "/etc/fieldgate/fieldgate.toml".to_owned(),
            files: files.iter().map(member).collect(),
            queue: None,
            left_out: Vec::new(),
        }
    }

    #[test]
    fn nothing_outside_of_its_place_is_named() {
        assert_eq!(manifest(&[("config/fieldgate.toml", 9), ("files/etc/ssl/a b.pem", 9)]).check(), Ok(()));
        for name in [
            "../../etc/x",
            "/etc/passwd",
            "config/../../x",
            "config//x",
            "config/./x",
            "config/",
            "config",
            "queue/fieldgate.db",
            "manifest.json",
            "config/a\nb",
            "config/\u{1b}[2J",
            "config/a\\..\\b",
            "",
            &format!("config/{}", "a".repeat(250)),
        ] {
            assert!(manifest(&[(name, 1)]).check().is_err(), "{name:?}");
        }
    }

    #[test]
    fn doubles_and_giants_and_odd_modes_are_refused() {
        assert!(manifest(&[("config/a", 1), ("config/a", 1)]).check().is_err());
        assert!(manifest(&[("config/a", 1), ("config/a/b", 1)]).check().is_err());
        assert!(manifest(&[("config/a", u64::MAX), ("config/b", u64::MAX)]).check().is_err());
        assert!(manifest(&[("config/a", LARGEST_FILE + 1)]).check().is_err());
        let mut later = manifest(&[]);
        later.format = FORMAT + 1;
        assert!(later.check().is_err_and(|why| why.contains("this version reads form 1")));
        for mode in ["4755", "", "9", "-1", "644 "] {
            let mut odd = manifest(&[("config/a", 1)]);
            odd.files[0].mode = mode.to_owned();
            assert!(odd.check().is_err(), "{mode:?}");
        }
    }
}
