//! The stream of a backup's database over the control socket, and the two ends of it.
//!
//! One JSON object a line: first what the database is, then `{"bytes":N}` with that many bytes after it, again and
//! again, at last `{"end":true}`, or `{"error":"…"}`: a stream without one of them broke off. So whoever asks
//! writes the file, as the person that they are, wherever they may; the daemon in its sandbox needs no place for it.

use std::io::{self, BufRead, Read};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::bounds;
use crate::store::{Copied, Store};

/// How long a reader of the stream may sleep.
const ASLEEP: Duration = Duration::from_secs(30);

/// Streams the database as of now. A reader that sleeps is given up; the log goes on meanwhile.
///
/// # Errors
/// The reader is gone.
pub async fn backup(store: &Store, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let end = match stream(store, &mut to).await? {
        Ok(()) => json!({ "end": true }),
        Err(why) => json!({ "error": why }),
    };
    timeout(ASLEEP, to.write_all(format!("{end}\n").as_bytes())).await?
}

async fn stream(store: &Store, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<Result<(), String>> {
    let mut copy = match store.copy().await {
        Ok(copy) => copy,
        Err(error) => return Ok(Err(error.to_string())),
    };
    timeout(ASLEEP, to.write_all(format!("{}\n", json!(copy.of)).as_bytes())).await??;
    loop {
        let piece = match copy.next().await {
            Ok(piece) if piece.is_empty() => return Ok(Ok(())),
            Ok(piece) => piece,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let mut framed = format!("{}\n", json!({ "bytes": piece.len() })).into_bytes();
        framed.extend_from_slice(&piece);
        timeout(ASLEEP, to.write_all(&framed)).await??;
    }
}

/// Why a stream could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The daemon said so.
    #[error("{0}")]
    Told(String),
    /// It ended in the middle, or is none.
    #[error("the daemon's answer broke off: {0}")]
    Off(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Off(error.to_string())
    }
}

/// The other end of the stream, as `Read` of the database's bytes.
#[derive(Debug)]
pub struct Incoming<R> {
    from: R,
    left: u64,
    ended: bool,
    /// What it is.
    pub of: Copied,
}

/// The longest line that is read.
const LINE: u64 = 4096;

fn line(from: &mut impl BufRead) -> Result<Json, Broken> {
    let mut text = String::new();
    from.take(LINE).read_line(&mut text)?;
    let row: Json = serde_json::from_str(&text).map_err(|e| Broken::Off(e.to_string()))?;
    match row["error"].as_str() {
        Some(why) => Err(Broken::Told(why.to_owned())),
        None => Ok(row),
    }
}

impl<R: BufRead> Incoming<R> {
    /// Reads what it is.
    ///
    /// # Errors
    /// There is no backup to be had, or the daemon is gone.
    pub fn new(mut from: R) -> Result<Self, Broken> {
        let of = serde_json::from_value(line(&mut from)?).map_err(|e| Broken::Off(e.to_string()))?;
        Ok(Self { from, left: 0, ended: false, of })
    }
}

impl<R: BufRead> Read for Incoming<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            let row = line(&mut self.from).map_err(|broken| io::Error::other(broken.to_string()))?;
            self.ended = row["end"] == true;
            self.left = row["bytes"].as_u64().unwrap_or(0);
            if self.left > bounds::STORE_PIECE as u64 || (self.left == 0 && !self.ended) {
                return Err(io::Error::other("the daemon's answer is no backup"));
            }
        }
        let most = into.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let n = self.from.read(&mut into[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(stream: &[u8]) -> Result<Vec<u8>, String> {
        let mut incoming = Incoming::new(stream).map_err(|e| e.to_string())?;
        let mut bytes = Vec::new();
        incoming.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    #[test]
    fn a_stream_is_whole_or_says_why_not() {
        let head = "{\"bytes\":5,\"epoch\":\"1-2\",\"next_seq\":1,\"readings\":0,\"clean\":true}\n";
        let stream = format!("{head}{{\"bytes\":3}}\nabc{{\"bytes\":2}}\nde{{\"end\":true}}\n");
        assert_eq!(whole(stream.as_bytes()), Ok(b"abcde".to_vec()));
        for cut in 0..stream.len() - 1 {
            let piece = &stream.as_bytes()[..cut];
            assert!(whole(piece).is_err(), "{}", String::from_utf8_lossy(piece));
        }
        let told = format!("{head}{{\"bytes\":3}}\nabc{{\"error\":\"no more\"}}\n");
        assert_eq!(whole(told.as_bytes()), Err("no more".into()));
        let greedy = format!("{head}{{\"bytes\":99999999}}\n");
        assert!(whole(greedy.as_bytes()).is_err_and(|why| why.contains("no backup")));
    }
}
