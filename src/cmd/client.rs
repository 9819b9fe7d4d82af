//! The way from a command to the running daemon: one request over its control socket.
//!
//! A daemon that hangs holds up nobody for longer than a few seconds: what counts is whether it gives a sign of life, not
//! how long an answer takes.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::Instant;

use super::exit::Exit;
use crate::runtime::control::{Request, second_path, socket_path};
use crate::store::run_directory;

/// Longest wait for an answer of a daemon that gives signs of life: a read of a slow device behind a busy bus.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so much silence the daemon is asked for a sign of life.
pub const SILENCE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 2000 });
/// Longest wait for it.
const SIGN: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 3000 });

/// What is said of a daemon that hangs.
pub const HANGS: &str = "the daemon does not answer; `systemctl status fieldgate` and its log may say why";

/// Whether a daemon serves the data directory `store`.
///
/// # Errors
/// It cannot be told; with what to do about it.
pub fn is_running(store: &Path) -> Result<bool, Exit> {
    connect(store).map(|stream| stream.is_some())
}

/// Whether the daemon of this data directory gives a sign of life, within three seconds.
#[must_use]
pub fn is_alive(store: &Path) -> bool {
    let ask = || {
        let mut stream = reach(store)?;
        stream.set_read_timeout(Some(SIGN))?;
        stream.set_write_timeout(Some(SIGN))?;
        // Any answer will do: that it knows no such request is one, and so is a closed connection.
        stream.write_all(b"{\"op\":\"alive\"}\n")?;
        stream.read(&mut [0; 1])
    };
    !matches!(ask(), Err(e) if is_timeout(&e))
}

/// Why no daemon can serve this data directory at all, if that is so.
#[must_use]
pub fn no_directory(store: &Path) -> Option<String> {
    let shown = store.display();
    match std::fs::metadata(store) {
        Ok(meta) if !meta.is_dir() => {
            Some(format!("{shown} is a file, not a directory; `path` of [store] must name a directory"))
        }
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => Some(format!(
            "{shown} is a link that leads back to itself; `path` of [store] must name a directory"
        )),
        Err(e) if e.kind() == ErrorKind::NotADirectory => {
            Some(format!("a part of {shown} is a file, not a directory; correct `path` of [store]"))
        }
        Ok(_) | Err(_) => None,
    }
}

/// What a daemon answers, for as long as the connection stands. Reading ends with an error when the daemon hangs.
#[derive(Debug)]
pub struct Answer {
    stream: UnixStream,
    store: PathBuf,
}

impl Answer {
    /// The connection itself, for who looks after silence himself.
    #[must_use]
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }
}

impl Read for Answer {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let since = Instant::now();
        loop {
            match self.stream.read(into) {
                Err(e) if is_timeout(&e) => {
                    if !is_alive(&self.store) {
                        return Err(io::Error::new(ErrorKind::TimedOut, HANGS));
                    }
                    if since.elapsed() > PATIENCE {
                        return Err(io::Error::new(ErrorKind::TimedOut, "no answer in a minute"));
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

/// Puts a question that is answered line by line for as long as the connection stands. `Ok(None)`: no daemon runs.
///
/// # Errors
/// As [`ask`].
pub fn stream(store: &Path, request: &Request) -> Result<Option<Answer>, Exit> {
    let Some(mut stream) = connect(store)? else { return Ok(None) };
    let text = serde_json::to_string(request).map_err(|e| Exit::Failed(e.to_string()))?;
    stream.set_write_timeout(Some(SIGN)).map_err(|e| failed(&e))?;
    stream.set_read_timeout(Some(SILENCE)).map_err(|e| failed(&e))?;
    writeln!(stream, "{text}").map_err(|e| failed(&e))?;
    Ok(Some(Answer { stream, store: store.to_owned() }))
}

/// Asks the daemon whose data directory is `store`. `Ok(None)`: no daemon runs there.
///
/// # Errors
/// It runs, but the question could not be asked or answered; with what to do about it.
pub fn ask(store: &Path, request: &Request) -> Result<Option<Json>, Exit> {
    let Some(answer) = stream(store, request)? else { return Ok(None) };
    let mut line = String::new();
    BufReader::new(answer).read_line(&mut line).map_err(|e| failed(&e))?;
    let answer =
        serde_json::from_str(&line).map_err(|e| Exit::Failed(format!("the daemon's answer: {e}")))?;
    Ok(Some(answer))
}

/// Whether a read ended because nothing came in time.
#[must_use]
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn failed(error: &io::Error) -> Exit {
    match error.kind() {
        ErrorKind::TimedOut => Exit::Failed(error.to_string()),
        ErrorKind::WouldBlock => Exit::Failed(HANGS.to_owned()),
        _ => Exit::Failed(format!("the daemon did not answer: {error}")),
    }
}

/// The installed service's directory in RAM (`RuntimeDirectory=` of the unit).
const RUN: &str = "/run/fieldgate";

/// A connection to the daemon of this data directory, by whichever of its sockets there is.
fn reach(store: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(socket_path(store)).or_else(|error| {
        let run = run_directory().unwrap_or_else(|| PathBuf::from(RUN));
        UnixStream::connect(second_path(&run, store)).map_err(|_| error)
    })
}

fn connect(store: &Path) -> Result<Option<UnixStream>, Exit> {
    let path = socket_path(store);
    match reach(store) {
        Ok(stream) => Ok(Some(stream)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(Exit::Failed(format!(
            "{}: permission denied; run it with sudo, or as a member of group fieldgate",
            path.display()
        ))),
        Err(e) => Err(Exit::Failed(no_directory(store).unwrap_or(format!("{}: {e}", path.display())))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_daemon_that_hangs_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let _deaf = UnixListener::bind(socket_path(dir.path())).unwrap();
        assert!(is_running(dir.path()).unwrap());
        assert!(!is_alive(dir.path()));
        let exit = ask(dir.path(), &Request::Status {}).unwrap_err();
        assert_eq!((exit.code(), exit.to_string()), (1, HANGS.to_owned()));
    }

    #[test]
    fn an_answer_that_takes_long_is_not_cut_while_the_daemon_lives() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket_path(dir.path())).unwrap();
        let serving = std::thread::spawn(move || {
            let (mut slow, _) = listener.accept().unwrap();
            // Two signs of life are asked for before the answer comes.
            for _ in 0..2 {
                let (mut asked, _) = listener.accept().unwrap();
                asked.write_all(b"{}\n").unwrap();
            }
            slow.write_all(b"{\"late\":true}\n").unwrap();
        });
        let answer = ask(dir.path(), &Request::Status {}).unwrap().unwrap();
        assert_eq!(answer["late"], true);
        serving.join().unwrap();
    }

    #[test]
    fn a_data_directory_that_is_none_is_told_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&link, &link).unwrap();
        assert!(no_directory(&file).unwrap().contains("is a file"));
        assert!(no_directory(&file.join("x")).unwrap().contains("a part of"));
        assert!(no_directory(&link).unwrap().contains("leads back to itself"));
        assert_eq!(no_directory(dir.path()), None);
        assert_eq!(no_directory(&dir.path().join("later")), None);
    }
}
