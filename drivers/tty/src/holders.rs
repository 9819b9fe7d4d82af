//! Which programs have a port open, for the message that says why it cannot be had.
//!
//! Linux tells it under `/proc/*/fd`. Of another user's programs only root is told, so an empty answer
//! proves nothing.

use std::fmt;
use std::path::Path;

/// A running program that has a file open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name, as `ps` shows it; 15 bytes at most.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The programs besides this one that have the file behind `path` open, as far as this user may see.
#[must_use]
pub fn holders(path: &Path) -> Vec<Holder> {
    let Ok(wanted) = path.canonicalize() else { return Vec::new() };
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut found: Vec<Holder> = all
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let open = std::fs::read_dir(entry.path().join("fd")).ok()?;
            let holds =
                |link: std::fs::DirEntry| std::fs::read_link(link.path()).is_ok_and(|to| to == wanted);
            if pid == std::process::id() || !open.flatten().any(holds) {
                return None;
            }
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            Some(Holder { pid, name: name.trim_end().to_owned() })
        })
        .collect();
    found.sort_by_key(|holder| holder.pid);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_is_named_and_this_one_is_not() {
        let path = std::env::temp_dir().join(format!("held-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("a file");
        assert_eq!(holders(&path), []);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::process::Stdio::from(file))
            .spawn()
            .expect("sleep is everywhere");
        let held = holders(&path);
        child.kill().expect("it runs");
        child.wait().expect("it ended");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(held, [Holder { pid: child.id(), name: "sleep".to_owned() }]);
        assert_eq!(held[0].to_string(), format!("sleep (pid {})", child.id()));
    }
}
