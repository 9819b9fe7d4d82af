//! `fieldgate passwd`: users of the local broker and their passwords, in the format of `mosquitto_passwd`.
//!
//! The file is replaced as a whole or not at all, keeps its owner and mode, and its other lines stay as they are. A
//! password is never an argument: others could see it in the list of processes.

use std::fs;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::exit::Exit;
use crate::broker::hash_password;
use crate::config;
use crate::registry::DRIVERS;

/// Set, change or delete a user of the local broker.
///
/// Asks for the password twice on a terminal, and reads one line otherwise.
#[derive(Debug, clap::Args)]
#[command(allow_missing_positional = true)]
pub struct Args {
    /// The password file [default: `password_file` of the configuration, if it names only one].
    file: Option<PathBuf>,
    /// The user's name.
    user: String,
    /// Delete the user.
    #[arg(long, short = 'D')]
    delete: bool,
    /// The configuration file that names the password file.
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_CONFIG)]
    config: PathBuf,
}

/// What MQTT can carry as a name and as a password.
const LONGEST: usize = 65_535;

/// Sets or deletes a user.
///
/// # Errors
/// A name that no file can hold (64), or a file that cannot be read or written.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<(), Exit> {
    if let Some(why) = unfit(&args.user) {
        return Err(Exit::Usage(format!("`{}` cannot be a user: {why}", args.user.escape_debug())));
    }
    let path = match &args.file {
        Some(path) => path.clone(),
        None => configured(&args.config)?,
    };
    // A link stays a link.
    let path = fs::canonicalize(&path).unwrap_or(path);
    let old = match fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(failed(&path, "read", &e)),
    };
    let there = old.as_deref().is_some_and(|text| text.lines().any(|line| is_of(line, &args.user)));
    let (line, done) = if args.delete {
        if !there {
            return Err(Exit::Failed(format!("there is no user `{}` in {}", args.user, path.display())));
        }
        (None, "deleted from")
    } else {
        let hash = hash_password(&password()?)
            .map_err(|e| Exit::Failed(format!("the system has no random numbers: {e}")))?;
        (Some(format!("{}:{hash}", args.user)), if there { "changed in" } else { "added to" })
    };
    let text = replaced(old.as_deref().unwrap_or_default(), &args.user, line.as_deref());
    write(&path, &text).map_err(|e| failed(&path, "write", &e))?;
    writeln!(
        out,
        "user {} {done} {}; a running gateway takes it over with `systemctl reload fieldgate`",
        args.user,
        path.display()
    )?;
    Ok(())
}

/// Why a name cannot stand in a password file.
fn unfit(user: &str) -> Option<&'static str> {
    if user.is_empty() {
        Some("it is empty")
    } else if user.contains(':') {
        Some("a `:` ends the name in the file")
    } else if user.contains(char::is_control) {
        Some("it holds control characters")
    } else if user.starts_with('#') {
        Some("a line that starts with `#` is a remark")
    } else if user.trim() != user {
        Some("it starts or ends with a space")
    } else if user.len() > LONGEST {
        Some("it is longer than 65535 bytes")
    } else {
        None
    }
}

/// The password file that a configuration names, mistaken or not: the file may be what is missing.
fn configured(main: &Path) -> Result<PathBuf, Exit> {
    let report = config::load(main, DRIVERS).map_or_else(|report| report, |loaded| loaded.warnings);
    let mut paths: Vec<PathBuf> = report.named.passwords.into_iter().map(|file| file.path).collect();
    paths.sort();
    paths.dedup();
    let shown = main.display();
    match paths.len() {
        0 => Err(Exit::Failed(format!(
            "{shown} names no password file; add `password_file` to [broker], or use `fieldgate passwd FILE USER`"
        ))),
        1 => Ok(paths.swap_remove(0)),
        _ => {
            let all: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
            let all = all.join(", ");
            Err(Exit::Failed(format!(
                "{shown} names several password files ({all}); say which: `fieldgate passwd FILE USER`"
            )))
        }
    }
}

/// Whether a line of the file is of this user.
fn is_of(line: &str, user: &str) -> bool {
    line.trim_start().split_once(':').is_some_and(|(name, _)| name == user)
}

/// The text with this user's lines replaced by `line`, at the place of the first, or at the end.
fn replaced(text: &str, user: &str, line: Option<&str>) -> String {
    let mut line = line;
    let mut lines = Vec::new();
    for old in text.lines() {
        if is_of(old, user) {
            lines.extend(line.take());
        } else {
            lines.push(old);
        }
    }
    lines.extend(line);
    lines.into_iter().flat_map(|line| [line, "\n"]).collect()
}

/// Writes beside the file and renames, so that there is never half a file.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut new = tempfile::Builder::new().prefix(".passwd-").tempfile_in(directory)?;
    new.write_all(text.as_bytes())?;
    let file = new.as_file();
    match fs::metadata(path) {
        Ok(old) => {
            let made = file.metadata()?;
            if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
                fchown(file, Some(old.uid()), Some(old.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        }
        Err(_) => match service_group().filter(|_| rustix::process::geteuid().is_root()) {
            Some(group) => {
                fchown(file, None, Some(group))?;
                file.set_permissions(fs::Permissions::from_mode(0o640))?;
            }
            None => file.set_permissions(fs::Permissions::from_mode(0o600))?,
        },
    }
    file.sync_all()?;
    new.persist(path).map_err(|e| e.error)?;
    fs::File::open(directory)?.sync_all()
}

/// The group of the service, which must read the file.
fn service_group() -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| line.strip_prefix("fieldgate:")?.split(':').nth(1)?.parse().ok())
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Exit {
    let cure = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "; run it with sudo",
        _ => "",
    };
    Exit::Failed(format!("cannot {what} {}: {error}{cure}", path.display()))
}

/// The new password: asked twice on a terminal, otherwise the first line of the input.
fn password() -> Result<Vec<u8>, Exit> {
    let input = std::io::stdin();
    let password = if input.is_terminal() {
        let first = unseen("password: ")?;
        if first != unseen("once more: ")? {
            return Err(Exit::Failed("the two are not the same; nothing was changed".to_owned()));
        }
        first
    } else {
        let mut line = Vec::new();
        let most = LONGEST as u64 + 3;
        input
            .lock()
            .take(most)
            .read_until(b'\n', &mut line)
            .map_err(|e| Exit::Failed(format!("cannot read the password: {e}")))?;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        line.strip_suffix(b"\r").unwrap_or(line).to_vec()
    };
    match password.len() {
        0 => Err(Exit::Failed("the password is empty; nothing was changed".to_owned())),
        n if n > LONGEST => Err(Exit::Failed(format!("a password has at most {LONGEST} bytes"))),
        _ => Ok(password),
    }
}

/// A terminal that shows nothing and hands on every key, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn new() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}

fn unseen(prompt: &str) -> Result<Vec<u8>, Exit> {
    let broken = |e: std::io::Error| Exit::Failed(format!("the terminal: {e}"));
    let quiet = Quiet::new().map_err(broken)?;
    eprint!("{prompt}");
    let mut line = Vec::new();
    for key in std::io::stdin().lock().bytes() {
        match key.map_err(broken)? {
            b'\r' | b'\n' => break,
            0x03 | 0x04 => {
                drop(quiet);
                eprintln!();
                return Err(Exit::Failed("interrupted; nothing was changed".to_owned()));
            }
            // Backspace takes a whole character of UTF-8.
            0x08 | 0x7f => while line.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {},
            0x15 => line.clear(),
            byte if line.len() <= LONGEST => line.push(byte),
            _ => {}
        }
    }
    drop(quiet);
    eprintln!();
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lines_of_the_user_change() {
        let text = "# ours\nanna:old\nannabel:x\nanna:older";
        assert_eq!(replaced(text, "anna", Some("anna:new")), "# ours\nanna:new\nannabel:x\n");
        assert_eq!(replaced(text, "carl", Some("carl:new")), format!("{text}\ncarl:new\n"));
        assert_eq!(replaced(text, "anna", None), "# ours\nannabel:x\n");
        assert_eq!(replaced("", "anna", Some("anna:new")), "anna:new\n");
    }

    #[test]
    fn names_that_a_file_cannot_hold_are_refused() {
        for name in ["", "a:b", "a\nb", "#a", " a", "a ", "\u{7f}", &"a".repeat(LONGEST + 1)] {
            assert!(unfit(name).is_some(), "{name:?}");
        }
        assert_eq!(unfit("Jürgen Müller"), None);
    }

    #[test]
    fn the_file_is_the_one_that_the_configuration_names_and_of_several_none() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("f.toml");
        let of = |text: &str| {
            fs::write(&main, text).unwrap();
            configured(&main).map_err(|why| why.to_string())
        };
        assert!(of("").unwrap_err().contains("names no password file"));
        let two = "[[broker.listener]]\nbind = '127.0.0.1:1'\npassword_file = 'a'\n\
                   [[broker.listener]]\nbind = '127.0.0.1:2'\npassword_file = 'a'\n";
        assert_eq!(of(two), Ok(dir.path().join("a")));
        let why = of(&format!("[broker]\npassword_file = 'b'\n{two}")).unwrap_err();
        assert!(why.contains("several password files") && why.contains("/a, "), "{why}");
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_new_one_is_not_for_everyone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        write(&path, "a\n").unwrap();
        assert_eq!(mode() & 0o027, 0, "{:o}", mode());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        write(&path, "b\n").unwrap();
        assert_eq!((mode(), fs::read_to_string(&path).unwrap().as_str()), (0o604, "b\n"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing stays beside it");
    }
}
