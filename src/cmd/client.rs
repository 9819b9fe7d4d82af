//! The way from a command to the running daemon: one request over its control socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;

use super::exit::Exit;
use crate::runtime::control::{Request, socket_path};

/// Longest wait for an answer: a read of a slow device behind a busy bus.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a daemon serves the data directory `store`.
///
/// # Errors
/// It cannot be told; with what to do about it.
pub fn is_running(store: &Path) -> Result<bool, Exit> {
    connect(store).map(|stream| stream.is_some())
}

/// Puts a question that is answered line by line for as long as the connection stands. `Ok(None)`: no daemon runs.
///
/// # Errors
/// As [`ask`].
pub fn stream(store: &Path, request: &Request) -> Result<Option<UnixStream>, Exit> {
    let Some(mut stream) = connect(store)? else { return Ok(None) };
    let text = serde_json::to_string(request).map_err(|e| Exit::Failed(e.to_string()))?;
    writeln!(stream, "{text}").map_err(failed)?;
    Ok(Some(stream))
}

/// Asks the daemon whose data directory is `store`. `Ok(None)`: no daemon runs there.
///
/// # Errors
/// It runs, but the question could not be asked or answered; with what to do about it.
pub fn ask(store: &Path, request: &Request) -> Result<Option<Json>, Exit> {
    let Some(stream) = stream(store, request)? else { return Ok(None) };
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(failed)?;
    let answer =
        serde_json::from_str(&line).map_err(|e| Exit::Failed(format!("the daemon's answer: {e}")))?;
    Ok(Some(answer))
}

fn failed(error: std::io::Error) -> Exit {
    Exit::Failed(format!("the daemon did not answer: {error}"))
}

fn connect(store: &Path) -> Result<Option<UnixStream>, Exit> {
    let path = socket_path(store);
    match UnixStream::connect(&path) {
        Ok(stream) => Ok(Some(stream)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err(Exit::Failed(format!(
            "{}: permission denied; run it with sudo, or as a member of group fieldgate",
            path.display()
        ))),
        Err(e) => Err(Exit::Failed(format!("{}: {e}", path.display()))),
    }
}
