//! The files of a configuration, for a backup: the main file, `conf.d`, own profiles, and every file that one of them
//! names (passwords, certificates, keys).
//!
//! Promises: a file of the configuration that cannot be read ends it, and a named one that is not there is told.
//! Mistakes in the configuration do not matter here: who mends one may want to have what was before.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::manifest::{LARGEST_FILE, LeftOut, MAIN, MOST_FILES, Member, is_safe};
use super::owners;
use crate::cmd::exit::Exit;
use crate::cmd::restore::GUARD;
use crate::config::source::Sources;

/// What belongs to a configuration.
#[derive(Debug, Default)]
pub struct Gathered {
    /// The files with their bytes, the main one first.
    pub files: Vec<(Member, Vec<u8>)>,
    /// Named, and not among them.
    pub left_out: Vec<LeftOut>,
}

/// Collects them; without `secrets` no passwords and keys.
///
/// # Errors
/// A file of the configuration cannot be read, or has a name or length that no backup takes.
pub fn gather(main: &Path, secrets: bool) -> Result<Gathered, Exit> {
    let dir = directory(main);
    let guard = dir.join(GUARD);
    if guard.symlink_metadata().is_ok() {
        return Err(Exit::Failed(format!(
            "a restore was interrupted here ({}): finish it first (`sudo fieldgate restore --finish`)",
            guard.display()
        )));
    }
    let mut all = Gathered::default();
    let mut seen = HashSet::new();
    let mut named = Vec::new();
    all.add(MAIN.to_owned(), main, false, &mut seen)?;
    for place in ["conf.d", "profiles"] {
        for path in toml_files(&dir.join(place))? {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            all.add(format!("config/{place}/{file}"), &path, false, &mut seen)?;
        }
    }
    for (member, bytes) in &all.files {
        if !member.name.starts_with("config/profiles/") {
            let beside = directory(Path::new(&member.from)).to_owned();
            let text = String::from_utf8_lossy(bytes);
            named.extend(named_files(&text).into_iter().map(|(path, secret)| (beside.join(path), secret)));
        }
    }
    for (path, secret) in named {
        let path = plain(&std::path::absolute(&path).unwrap_or(path));
        let name = member_name(&path, dir);
        let left =
            LeftOut { name: name.clone(), path: path.display().to_string(), secret: secret && !secrets };
        if left.secret || !path.is_file() {
            if !all.left_out.contains(&left) {
                all.left_out.push(left);
            }
            continue;
        }
        all.add(name, &path, secret, &mut seen)?;
    }
    Ok(all)
}

impl Gathered {
    fn add(
        &mut self,
        name: String,
        path: &Path,
        secret: bool,
        seen: &mut HashSet<String>,
    ) -> Result<(), Exit> {
        let failed = |why: String| Exit::Failed(format!("{}: {why}", path.display()));
        if !seen.insert(name.clone()) {
            return Ok(());
        }
        if !is_safe(&name) || self.files.len() >= MOST_FILES {
            return Err(failed(format!("{name:?} is no name that a backup takes; rename the file")));
        }
        let open = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::PermissionDenied => failed(format!("{e}; run it with sudo")),
            _ => failed(e.to_string()),
        };
        let file = fs::File::open(path).map_err(open)?;
        let meta = file.metadata().map_err(open)?;
        let mut bytes = Vec::new();
        file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(open)?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(failed(format!("it is larger than {} MiB", LARGEST_FILE >> 20)));
        }
        let member = Member {
            name,
            from: std::path::absolute(path).unwrap_or(path.to_owned()).display().to_string(),
            bytes: bytes.len() as u64,
            mode: format!("{:03o}", meta.mode() & 0o777),
            owner: owners::user(meta.uid()),
            group: owners::group(meta.gid()),
            secret,
        };
        self.files.push((member, bytes));
        Ok(())
    }
}

/// The directory of a file; `.` for a bare name.
pub fn directory(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The files of a directory that the configuration reads, in name order; none if it is not there.
///
/// # Errors
/// It cannot be listed.
pub fn toml_files(dir: &Path) -> Result<Vec<PathBuf>, Exit> {
    let failed = |e: std::io::Error| Exit::Failed(format!("{}: {e}", dir.display()));
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|e| e == "toml") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Files that a text of the configuration names, and whether each is a secret: keys that end in `_file`, and all of a
/// `tls` table.
#[must_use]
pub fn named_files(text: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    walk(&tolerant(text), false, &mut found);
    found
}

/// The texts of a TOML file in their tables; one with mistakes is read as far as it goes.
#[must_use]
pub fn tolerant(text: &str) -> toml::Value {
    let mut sources = Sources::default();
    match sources.add_text(PathBuf::new(), text.to_owned(), &mut Vec::new()) {
        Some(id) => toml_value(&sources.parse(id)),
        None => toml::Value::Table(toml::Table::new()),
    }
}

fn toml_value(table: &toml::de::DeTable<'_>) -> toml::Value {
    use toml::de::DeValue;
    fn value(v: &DeValue<'_>) -> toml::Value {
        match v {
            DeValue::String(text) => toml::Value::String(text.to_string()),
            DeValue::Array(items) => toml::Value::Array(items.iter().map(|i| value(i.get_ref())).collect()),
            DeValue::Table(table) => toml_value(table),
            _ => toml::Value::Boolean(false),
        }
    }
    let rows = table.iter().map(|(k, v)| (k.get_ref().to_string(), value(v.get_ref())));
    toml::Value::Table(rows.collect())
}

fn walk(value: &toml::Value, tls: bool, found: &mut Vec<(String, bool)>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                match value.as_str() {
                    Some(path) if tls || key.ends_with("_file") => {
                        let open = ["ca_file", "cert_file", "acl_file", "cert", "client_ca"];
                        found.push((path.to_owned(), !open.contains(&key.as_str())));
                    }
                    Some(_) => {}
                    None => walk(value, key == "tls", found),
                }
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| walk(item, tls, found)),
        _ => {}
    }
}

/// Without `.` and `..`, by name only.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}

fn member_name(path: &Path, dir: &Path) -> String {
    let dir = plain(&std::path::absolute(dir).unwrap_or(dir.to_owned()));
    match path.strip_prefix(&dir) {
        Ok(inside) => format!("config/{}", inside.display()),
        Err(_) => format!("files/{}", path.strip_prefix("/").unwrap_or(path).display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[broker]\npassword_file = \"passwd\"\nacl_file = 'acl'\n[[broker.listener]]\nbind = \"[::]:8883\"\n\
        tls = { cert = \"tls/server.crt\", key = \"tls/server.key\" }\n[[uplink]]\nname = \"cloud\"\n\
        ca_file = \"/etc/ssl/ca.pem\"\nkey_file = \"../outside/client.key\"\npattern = \"x\"\n";

    #[test]
    fn the_files_that_are_named_are_found_and_secrets_are_known() {
        let mut found = named_files(TEXT);
        found.sort();
        let found: Vec<(&str, bool)> = found.iter().map(|(path, secret)| (path.as_str(), *secret)).collect();
        assert_eq!(
            found,
            [
                ("../outside/client.key", true),
                ("/etc/ssl/ca.pem", false),
                ("acl", false),
                ("passwd", true),
                ("tls/server.crt", false),
                ("tls/server.key", true)
            ]
        );
    }

    /// Every key of the configuration that holds a path is one of those that are looked for, or no file to keep.
    #[test]
    fn no_key_that_names_a_file_is_overlooked() {
        let schema = crate::config::schema::whole(crate::registry::DRIVERS).to_string();
        let keys = [
            "password_file",
            "proxy_password_file",
            "acl_file",
            "ca_file",
            "cert_file",
            "key_file",
            "cert",
            "key",
            "client_ca",
        ];
        for key in keys {
            assert!(schema.contains(&format!("\"{key}\"")), "{key} is a key no more");
        }
        let text: String =
            schema.split('"').filter(|word| word.ends_with("_file")).collect::<Vec<_>>().join(" ");
        assert!(text.split(' ').all(|key| keys.contains(&key)), "{text}");
    }

    #[test]
    fn all_of_it_is_gathered_and_what_is_missing_is_told() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("etc");
        for made in ["etc/conf.d", "etc/profiles", "etc/tls", "outside"] {
            fs::create_dir_all(home.path().join(made)).expect("made");
        }
        let put = |name: &str, text: &str| fs::write(dir.join(name), text).expect("written");
        put("box.toml", TEXT);
        put("conf.d/b.toml", "[[uplink]]\npassword_file = '../cloud.password'\n");
        put("conf.d/README", "no configuration");
        put("conf.d/old.toml.before", "neither");
        put("profiles/own.toml", "password_file = 'not a key of a profile'");
        for name in ["passwd", "acl", "tls/server.crt", "cloud.password", "../outside/client.key"] {
            put(name, name);
        }
        let all = gather(&dir.join("box.toml"), true).expect("gathers");
        let names: Vec<&str> = all.files.iter().map(|(m, _)| m.name.as_str()).collect();
        let outside = format!("files{}/outside/client.key", home.path().display());
        let mut expected = vec![
            "config/fieldgate.toml",
            "config/conf.d/b.toml",
            "config/profiles/own.toml",
            "config/acl",
            "config/passwd",
            "config/tls/server.crt",
            "config/cloud.password",
            outside.as_str(),
        ];
        expected.sort_unstable();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
        assert_eq!(names[0], MAIN);
        let missing: Vec<&str> = all.left_out.iter().map(|l| l.path.as_str()).collect();
        assert!(missing.contains(&dir.join("tls/server.key").to_str().expect("UTF-8")), "{missing:?}");

        let open = gather(&dir.join("box.toml"), false).expect("gathers");
        assert!(open.files.iter().all(|(m, _)| !m.secret && !m.name.contains("pass")), "{:?}", open.files);
        assert_eq!(open.left_out.iter().filter(|l| l.secret).count(), 4, "{:?}", open.left_out);
    }
}
