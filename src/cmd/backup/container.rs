//! The file of a backup: a tar archive, compressed with zstd, that `tar --zstd -t` lists as any other.
//!
//! First comes `manifest.json`, then what it names, in its order, at last `SHA256SUMS`, in the form that
//! `sha256sum -c` reads.
//!
//! Promises of the reader: it follows the manifest and nothing else. What is not a plain file of the name and length that
//! comes next ends it; so does a missing or wrong checksum, a missing end, or a byte after it. It needs memory for the
//! files beside the database (64 MiB at most) and the window of zstd, whatever a file declares.

use std::io::{self, Read, Write};

use ring::digest::{Context, SHA256};
use tar::{Archive, Builder, EntryType, Header};

pub use super::manifest::Manifest;
use super::manifest::{LARGEST_FILE, MANIFEST, Member, QUEUE, SUMS};

/// zstd's own default. What is large, the queue's blocks, is packed already.
const LEVEL: i32 = 3;
/// The largest window that is read, 2^23 bytes: that of our level is 2^21.
const WINDOW_LOG: u32 = 23;
/// Largest manifest that is read: 4096 files of 4096 bytes of names.
const LARGEST_MANIFEST: u64 = 16 << 20;

/// Why a file is no backup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Bad {
    /// It is not one, or damaged, or cut off.
    #[error("the file is damaged or no backup: {0}")]
    Damaged(String),
    /// What was done with it failed: not the file's fault.
    #[error("{0}")]
    Elsewhere(String),
}

fn damaged(why: impl std::fmt::Display) -> Bad {
    Bad::Damaged(why.to_string())
}

/// Hashes what passes through.
struct Summed<R> {
    from: R,
    context: Context,
    bytes: u64,
}

impl<R> Summed<R> {
    fn new(from: R) -> Self {
        Self { from, context: Context::new(&SHA256), bytes: 0 }
    }

    fn line(self, name: &str) -> String {
        let digest = self.context.finish();
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}  {name}\n")
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(into)?;
        self.context.update(&into[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// Writes a backup.
pub struct Packer<W: Write> {
    tar: Builder<zstd::Encoder<'static, W>>,
    sums: String,
    made: u64,
}

impl<W: Write> Packer<W> {
    /// Begins one with its manifest.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn new(to: W, manifest: &Manifest) -> io::Result<Self> {
        let mut zstd = zstd::Encoder::new(to, LEVEL)?;
        zstd.include_checksum(true)?;
        let made = u64::try_from(manifest.made_ms / 1000).unwrap_or(0);
        let mut packer = Self { tar: Builder::new(zstd), sums: String::new(), made };
        let text = serde_json::to_vec_pretty(manifest)?;
        packer.put(MANIFEST, 0o600, text.len() as u64, &text[..])?;
        Ok(packer)
    }

    /// The next file of the manifest.
    ///
    /// # Errors
    /// Those of the target.
    pub fn file(&mut self, member: &Member, bytes: &[u8]) -> io::Result<()> {
        self.put(&member.name, member.mode().unwrap_or(0o600), bytes.len() as u64, bytes)
    }

    /// The database: exactly `bytes` of `from`.
    ///
    /// # Errors
    /// Those of both ends.
    pub fn queue(&mut self, bytes: u64, from: impl Read) -> io::Result<()> {
        self.put(QUEUE, 0o600, bytes, from)
    }

    fn put(&mut self, name: &str, mode: u32, bytes: u64, from: impl Read) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(name)?;
        header.set_size(bytes);
        header.set_mode(mode);
        header.set_mtime(self.made);
        header.set_cksum();
        let mut summed = Summed::new(from);
        self.tar.append(&header, (&mut summed).take(bytes))?;
        // One byte more: whether it ends where it said, and, of a stream, ends well.
        if summed.bytes != bytes || summed.read(&mut [0])? != 0 {
            return Err(io::Error::other(format!("{name} changed its length while it was read")));
        }
        self.sums.push_str(&summed.line(name));
        Ok(())
    }

    /// Ends it and returns the target.
    ///
    /// # Errors
    /// Those of the target.
    pub fn finish(mut self) -> io::Result<W> {
        let sums = std::mem::take(&mut self.sums);
        self.put(SUMS, 0o600, sums.len() as u64, sums.as_bytes())?;
        self.tar.into_inner()?.finish()
    }
}

/// What was read, all of it verified.
#[derive(Debug)]
pub struct Contents {
    /// The manifest.
    pub manifest: Manifest,
    /// Its files, in its order.
    pub files: Vec<Vec<u8>>,
}

/// Reads a backup to its end. `begin` is asked where the database goes once everything before it is known (though not yet
/// verified); with `None` it is only verified.
///
/// # Errors
/// It is no whole backup, or the database could not be put where it goes. What went there already is no good then.
pub fn read<W: Write>(
    from: impl Read,
    begin: impl FnOnce(&Manifest, &[Vec<u8>]) -> Result<Option<W>, String>,
) -> Result<Contents, Bad> {
    let mut zstd = zstd::Decoder::new(from).map_err(damaged)?.single_frame();
    zstd.window_log_max(WINDOW_LOG).map_err(damaged)?;
    let (contents, tail) = {
        let mut archive = Archive::new(&mut zstd);
        let contents = follow(&mut archive, begin)?;
        (contents, archive.into_inner())
    };
    // The end of the archive is blocks of zeros. Reading to the end of the frame checks its checksum.
    let mut rest = [0; 4096];
    loop {
        let n = tail.read(&mut rest).map_err(damaged)?;
        if n == 0 {
            break;
        }
        if rest[..n].iter().any(|byte| *byte != 0) {
            return Err(damaged("something follows its end"));
        }
    }
    let mut after = zstd.finish();
    if after.read(&mut rest[..1]).map_err(damaged)? != 0 {
        return Err(damaged("something follows its end"));
    }
    Ok(contents)
}

fn follow<R: Read, W: Write>(
    archive: &mut Archive<R>,
    begin: impl FnOnce(&Manifest, &[Vec<u8>]) -> Result<Option<W>, String>,
) -> Result<Contents, Bad> {
    // Raw: names in extensions of other headers are not looked at, and those headers are nothing that comes next.
    let mut entries = archive.entries().map_err(damaged)?.raw(true);
    let mut sums = String::new();
    let mut next = |name: &str, bytes: Option<u64>, most: u64| -> Result<_, Bad> {
        let entry = entries.next().ok_or_else(|| damaged(format!("it ends before {name}")))?;
        let entry = entry.map_err(damaged)?;
        let header = entry.header();
        let plain = header.entry_type() == EntryType::Regular && header.as_ustar().is_some();
        let size = header.size().map_err(damaged)?;
        if !plain || *header.path_bytes() != *name.as_bytes() {
            let found = String::from_utf8_lossy(&header.path_bytes()).into_owned();
            return Err(damaged(format!("{found:?} stands where {name} should be")));
        }
        if bytes.is_some_and(|bytes| bytes != size) || size > most {
            return Err(damaged(format!("{name} has {size} bytes")));
        }
        Ok((Summed::new(entry.take(size)), size))
    };

    let whole = |mut from: Summed<_>, name: &str, size: u64, sums: &mut String| -> Result<Vec<u8>, Bad> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).map_err(damaged)?;
        if bytes.len() as u64 != size {
            return Err(damaged(format!("{name} is cut off")));
        }
        sums.push_str(&from.line(name));
        Ok(bytes)
    };

    let (text, size) = next(MANIFEST, None, LARGEST_MANIFEST)?;
    let text = whole(text, MANIFEST, size, &mut sums)?;
    // Of a later form only the number has to be understood.
    #[derive(serde::Deserialize)]
    struct Form {
        format: u32,
        #[serde(default)]
        fieldgate: String,
    }
    let form: Form = serde_json::from_slice(&text).map_err(damaged)?;
    if form.format != super::manifest::FORMAT {
        return Err(damaged(format!(
            "it has form {}, made by fieldgate {:?}; this version reads form {}",
            form.format,
            form.fieldgate,
            super::manifest::FORMAT
        )));
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(damaged)?;
    manifest.check().map_err(damaged)?;
    let mut files = Vec::new();
    for member in &manifest.files {
        let (bytes, size) = next(&member.name, Some(member.bytes), LARGEST_FILE)?;
        files.push(whole(bytes, &member.name, size, &mut sums)?);
    }
    if let Some(queue) = &manifest.queue {
        let mut to = begin(&manifest, &files).map_err(Bad::Elsewhere)?;
        let (mut from, size) = next(QUEUE, Some(queue.bytes), u64::MAX)?;
        let mut piece = vec![0; 64 << 10];
        loop {
            let n = from.read(&mut piece).map_err(damaged)?;
            if n == 0 {
                break;
            }
            if let Some(to) = &mut to {
                to.write_all(&piece[..n]).map_err(|e| Bad::Elsewhere(e.to_string()))?;
            }
        }
        if from.bytes != size {
            return Err(damaged("the queue is cut off"));
        }
        sums.push_str(&from.line(QUEUE));
        if let Some(to) = &mut to {
            to.flush().map_err(|e| Bad::Elsewhere(e.to_string()))?;
        }
    }
    let (told, size) = next(SUMS, Some(sums.len() as u64), LARGEST_MANIFEST)?;
    let told = whole(told, SUMS, size, &mut String::new())?;
    if told != sums.as_bytes() {
        let told = String::from_utf8_lossy(&told);
        let wrong = sums.lines().zip(told.lines()).find(|(a, b)| a != b);
        let name = wrong.and_then(|(line, _)| line.split("  ").nth(1)).unwrap_or("a file");
        return Err(damaged(format!("the checksum of {name} is wrong")));
    }
    match entries.next() {
        None => Ok(Contents { manifest, files }),
        Some(_) => Err(damaged("something follows its end")),
    }
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
