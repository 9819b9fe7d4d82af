//! One packed block of readings, and messages among them, the unit of the log. Pure.
//!
//! Layout, versions 2 and 3, little-endian:
//!
//! | at | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 | `FGB1` |
//! | 4 | 1 | version of the layout: 2; 3 if there are messages in it; 4 if numbers are missing; 1 is still read |
//! | 5 | 1 | bit 0: the body is one zstd frame |
//! | 6 | 2 | zero |
//! | 8 | 8 | number (`seq`) of the first entry; the others follow without holes, but for version 4 |
//! | 16 | 4 | how many entries, 1 to 4096 |
//! | 20 | 4 + 4 | epoch: start counter, random part |
//! | 28 | 4 | number of the boot in the log's table of boots |
//! | 32 | 8 | boot time of the first entry, ms |
//! | 40 | 8 | wall − boot when the block was packed, ms, signed: for who has only the block |
//! | 48 | 1 | 1: that relation was believed |
//! | 49 | 3 | zero |
//! | 52 | 4 | length of the body before compression |
//! | 56 | 4 | length of the body as it follows |
//! | 60 | … | body |
//! | end | 4 | CRC-32 (IEEE) of everything before |
//!
//! The body is the columns of `crate::columns`, times on the line of `CLOCK_BOOTTIME`; version 1 has its points
//! otherwise (`columns/dictionary.rs`). In version 3 the columns of the messages come before (`mail`), and those of the
//! readings are left out if there are none. Version 4 is a block that was thinned (see `thin`) and holds readings only: its header names
//! the first number that it stands for, kept or not, and its body begins with how many it stands for · the boot times of the first and the
//! last of them · for each reading how many numbers are missing before it, as runs · the points of which readings are missing, as a dictionary.
//!
//! Promises: what is packed reads back equal, floats bit for bit. Any flipped bit, and any other damage
//! within 32 bits, is detected. No bytes make `decode` panic or allocate beyond [`BODY_MAX`].

use std::ops::Range;
use std::sync::Arc;

use driver_api::{Quality, Value};

use super::mail;
use crate::bounds;
use crate::columns::body::{self, Cells, Row};
use crate::columns::column::{Reader, Writer};
use crate::columns::dictionary;
use crate::message::{BootMs, Entry, Epoch, PointKey, Reading};

const MAGIC: [u8; 4] = *b"FGB1";
/// Readings, and every number has one.
const DENSE: u8 = 2;
/// With messages among them.
const MIXED: u8 = 3;
/// Readings, and some numbers have none.
const SPARSE: u8 = 4;
const HEADER: usize = 60;
/// Largest body before compression: a full block of readings and dictionary, and 1 MiB of text and messages (the
/// packer closes a block earlier), with room.
pub const BODY_MAX: usize = 16 << 20;
/// Text values and messages after which the packer begins a new block, in bytes.
pub const TEXT_SOFT_MAX: usize = 1 << 20;
/// Level 3 is where zstd's speed still exceeds what one core can take in (about 150 MB/s on a Pi 4).
const LEVEL: i32 = 3;
/// Bodies up to this many bytes, about a thousand readings, are packed harder: they are a seventh smaller then, and take two
/// tenths of a millisecond more. A log that takes more than a hundred thousand a second has no time for that, and larger groups.
const SMALL: usize = 6 << 10;
/// Their level.
const LEVEL_SMALL: i32 = 12;

/// What a block says of all its readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of the first entry.
    pub first: u64,
    /// Epoch of all of them.
    pub epoch: Epoch,
    /// Boot of all of them.
    pub boot: u32,
    /// wall − boot when it was packed, ms.
    pub offset: i64,
    /// Whether that was believed.
    pub synced: bool,
}

/// A block, unpacked.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// What holds for all of them.
    pub head: Head,
    /// What is in it, in order.
    pub entries: Vec<Entry>,
    /// Messages are among them.
    pub mixed: bool,
    /// Which numbers they have, if some are missing.
    pub sparse: Option<Sparse>,
}

/// What a thinned block says of its numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sparse {
    /// For how many numbers the block stands: those of its readings, and those that are missing.
    pub span: u64,
    /// The number of each reading, ascending.
    pub kept: Vec<u64>,
    /// Of which points readings are missing.
    pub points: Vec<Arc<PointKey>>,
    /// Earliest and latest boot time of all of them, ms.
    pub times: [u64; 2],
}

impl Block {
    /// The numbers it stands for.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        let span = self.sparse.as_ref().map_or(self.entries.len() as u64, |sparse| sparse.span);
        self.head.first..self.head.first + span
    }

    /// Where to stop reading these numbers of it, because their messages would be too much at once; and the bytes of the
    /// messages before that.
    #[must_use]
    pub fn fits(&self, numbers: Range<u64>) -> (u64, usize) {
        if !self.mixed {
            return (numbers.end, 0);
        }
        let mut bytes = 0;
        for (seq, entry) in self.within(numbers.clone()) {
            let more = entry.message().map_or(0, |message| message.size());
            if bytes + more > bounds::FORWARD_READ && seq > numbers.start {
                return (seq, bytes);
            }
            bytes += more;
        }
        (numbers.end, bytes)
    }

    /// How many of them have no reading any more.
    #[must_use]
    pub fn gone(&self) -> u64 {
        let range = self.range();
        range.end - range.start - self.entries.len() as u64
    }

    /// The entries with numbers in `range`, each with its number.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &Entry)> + Clone {
        let first = self.head.first;
        let place = |n: u64| match &self.sparse {
            Some(sparse) => sparse.kept.partition_point(|kept| *kept < n),
            None => usize::try_from(n.saturating_sub(first)).unwrap_or(usize::MAX).min(self.entries.len()),
        };
        let (from, to) = (place(range.start), place(range.end));
        let number = move |i: usize| match &self.sparse {
            Some(sparse) => sparse.kept.get(i).copied(),
            None => Some(first + i as u64),
        };
        let entries = self.entries.iter().enumerate().skip(from).take(to.saturating_sub(from));
        entries.filter_map(move |(i, entry)| Some((number(i)?, entry)))
    }

    /// All entries, each with its number.
    pub fn numbered(&self) -> impl Iterator<Item = (u64, &Entry)> + Clone {
        self.within(self.range())
    }
}

/// Why bytes are no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Cut off, or not of this program.
    #[error("no block")]
    NoBlock,
    /// Made by a later version.
    #[error("layout version {0} is not known")]
    Version(u8),
    /// The bytes are not those that were written.
    #[error("checksum does not fit")]
    Checksum,
    /// The checksum fits, the content does not: this was never written by this program.
    #[error("{0} makes no sense")]
    Shape(&'static str),
}

/// Where the entries must be cut so that each piece fits one block.
#[must_use]
pub fn piece(entries: &[Entry]) -> usize {
    let mut text = 0;
    for (n, entry) in entries.iter().enumerate() {
        text += weight(entry);
        if n > 0 && (n == bounds::STORE_BLOCK || text > TEXT_SOFT_MAX) {
            return n;
        }
    }
    entries.len()
}

/// Bytes of an entry that are not bounded by its kind: a text value, or a message.
#[must_use]
pub fn weight(entry: &Entry) -> usize {
    match entry {
        Entry::Reading(reading) => match reading.value() {
            Some(Value::Text(text)) => text.len(),
            _ => 0,
        },
        Entry::Message(message) => message.size(),
    }
}

/// Packs 1 to [`bounds::STORE_BLOCK`] entries.
///
/// # Errors
/// zstd's, which has none to report for memory it was given; passed on all the same.
pub fn encode(head: &Head, entries: &[Entry]) -> std::io::Result<Vec<u8>> {
    let (version, raw) = body(entries);
    pack(version, head, entries, &raw)
}

/// Packs the 1 to [`bounds::STORE_BLOCK`] readings that are left of a stretch.
///
/// # Errors
/// As [`encode`].
pub fn encode_sparse(head: &Head, readings: &[Entry], sparse: &Sparse) -> std::io::Result<Vec<u8>> {
    debug_assert_eq!(readings.len(), sparse.kept.len());
    let mut out = Writer::default();
    out.put(sparse.span);
    sparse.times.iter().for_each(|at| out.put(*at));
    let before = std::iter::once(head.first).chain(sparse.kept.iter().map(|kept| kept + 1));
    out.put_runs(sparse.kept.iter().zip(before).map(|(kept, before)| kept.saturating_sub(before)));
    let points: Vec<&PointKey> = sparse.points.iter().map(|point| &**point).collect();
    dictionary::write(&mut out, &points);
    let (version, mut raw) = body(readings);
    debug_assert_eq!(version, DENSE, "a block with messages is not thinned");
    out.bytes.append(&mut raw);
    pack(SPARSE, head, readings, &out.bytes)
}

fn pack(version: u8, head: &Head, entries: &[Entry], raw: &[u8]) -> std::io::Result<Vec<u8>> {
    debug_assert!((1..=bounds::STORE_BLOCK).contains(&entries.len()), "piece() cuts");
    let level = if raw.len() <= SMALL { LEVEL_SMALL } else { LEVEL };
    let packed = zstd::bulk::compress(raw, level)?;
    let (flags, stored) = if packed.len() < raw.len() { (1u8, &packed[..]) } else { (0, raw) };
    let mut out = Vec::with_capacity(HEADER + stored.len() + 4);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[version, flags, 0, 0]);
    out.extend_from_slice(&head.first.to_le_bytes());
    out.extend_from_slice(&length(entries.len()));
    out.extend_from_slice(&head.epoch.start.to_le_bytes());
    out.extend_from_slice(&head.epoch.random.to_le_bytes());
    out.extend_from_slice(&head.boot.to_le_bytes());
    out.extend_from_slice(&entries.first().map_or(0, |e| e.at().0).to_le_bytes());
    out.extend_from_slice(&head.offset.to_le_bytes());
    out.extend_from_slice(&[u8::from(head.synced), 0, 0, 0]);
    out.extend_from_slice(&length(raw.len()));
    out.extend_from_slice(&length(stored.len()));
    out.extend_from_slice(stored);
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(out)
}

fn length(n: usize) -> [u8; 4] {
    u32::try_from(n).expect("a block is far below 4 GiB: piece() cuts").to_le_bytes()
}

/// The version of the layout that it needs, and the body.
fn body(entries: &[Entry]) -> (u8, Vec<u8>) {
    // The columns go over them once each: of one kind, and as many as they are.
    let (mut readings, mut messages) = (Vec::with_capacity(entries.len()), Vec::new());
    for (n, entry) in entries.iter().enumerate() {
        match entry {
            Entry::Reading(reading) => readings.push(reading),
            Entry::Message(message) => messages.push((n, message)),
        }
    }
    let rows = readings.iter().map(|reading| row(reading));
    if messages.is_empty() {
        return (DENSE, body::write(rows));
    }
    let mut out = Writer::default();
    mail::write(&mut out, &messages, entries.first().map_or(0, |e| e.at().0));
    if let Some(first) = readings.first() {
        out.put(first.at.0);
        out.bytes.extend(body::write(rows));
    }
    (MIXED, out.bytes)
}

fn row(r: &Reading) -> Row<'_> {
    Row { point: &r.point, at: r.at.0, value: r.value(), quality: r.quality() }
}

/// Unpacks a block.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<Block, Damage> {
    if bytes.len() < HEADER + 4 || bytes[..4] != MAGIC {
        return Err(Damage::NoBlock);
    }
    let (signed, crc) = bytes.split_at(bytes.len() - 4);
    if crc != crc32fast::hash(signed).to_le_bytes() {
        return Err(Damage::Checksum);
    }
    if !(1..=SPARSE).contains(&bytes[4]) {
        return Err(Damage::Version(bytes[4]));
    }
    contents(signed)
}

fn contents(bytes: &[u8]) -> Result<Block, Damage> {
    const SHORT: Damage = Damage::Shape("the header");
    let mut r = Reader::new(bytes);
    let [.., version, flags, _, _] = r.array::<8>().ok_or(SHORT)?;
    let first = u64::from_le_bytes(r.array().ok_or(SHORT)?);
    let mut word = || r.array().map(u32::from_le_bytes).ok_or(SHORT);
    let (count, start, random, boot) = (word()? as usize, word()?, word()?, word()?);
    let base = u64::from_le_bytes(r.array().ok_or(SHORT)?);
    let offset = i64::from_le_bytes(r.array().ok_or(SHORT)?);
    let [synced, ..] = r.array::<4>().ok_or(SHORT)?;
    let mut word = || r.array().map(u32::from_le_bytes).ok_or(SHORT);
    let (raw_len, stored_len) = (word()? as usize, word()? as usize);
    let stored = r.take(stored_len).ok_or(SHORT)?;
    let fits = (1..=bounds::STORE_BLOCK).contains(&count)
        && raw_len <= BODY_MAX
        && r.is_empty()
        && first.checked_add(count as u64).is_some();
    if !fits {
        return Err(SHORT);
    }
    let raw;
    let body = if flags & 1 == 0 {
        stored
    } else {
        raw = zstd::bulk::decompress(stored, raw_len).map_err(|_| Damage::Shape("the compressed body"))?;
        &raw[..]
    };
    let head = Head { first, epoch: Epoch { start, random }, boot, offset, synced: synced == 1 };
    let (entries, sparse) = columns(version, body, count, (first, base)).ok_or(Damage::Shape("the body"))?;
    Ok(Block { head, entries, mixed: version == MIXED, sparse })
}

fn columns(
    version: u8,
    body: &[u8],
    count: usize,
    (first, base): (u64, u64),
) -> Option<(Vec<Entry>, Option<Sparse>)> {
    let mut r = Reader::new(body);
    let mut sparse = None;
    if version == MIXED {
        return Some((mixed(&mut r, count, base)?, None));
    }
    let rows = match version {
        1 => {
            let dictionary = dictionary::read_version_1(&mut r, count)?;
            body::read_rows(&mut r, &dictionary, count, base)?
        }
        SPARSE => {
            sparse = Some(numbers(&mut r, count, first)?);
            body::read(&mut r, count, base)?
        }
        _ => body::read(&mut r, count, base)?,
    };
    let mut entries = Vec::with_capacity(count);
    for row in rows {
        entries.push(Entry::Reading(reading(row)?));
    }
    Some((entries, sparse))
}

/// Readings with messages among them.
fn mixed(r: &mut Reader<'_>, count: usize, base: u64) -> Option<Vec<Entry>> {
    let messages = mail::read(r, count, base)?;
    let others = count - messages.len();
    let rows = if others == 0 {
        r.is_empty().then(Vec::new)?
    } else {
        let first = r.get()?;
        body::read(r, others, first)?
    };
    let (mut rows, mut messages) = (rows.into_iter(), messages.into_iter().peekable());
    (0..count)
        .map(|n| match messages.next_if(|(place, _)| *place == n) {
            Some((_, message)) => Some(Entry::Message(message)),
            None => reading(rows.next()?).map(Entry::Reading),
        })
        .collect()
}

fn numbers(r: &mut Reader<'_>, count: usize, first: u64) -> Option<Sparse> {
    let span = r.get()?;
    let times = [r.get()?, r.get()?];
    let end = first.checked_add(span)?;
    let mut next = first;
    let mut kept = Vec::with_capacity(count);
    for missing in r.get_runs(count)? {
        let number = next.checked_add(missing).filter(|number| *number < end)?;
        kept.push(number);
        next = number + 1;
    }
    let points = dictionary::read(r, bounds::STORE_LOSS_POINTS)?;
    Some(Sparse { span, kept, points, times })
}

fn reading(row: Cells) -> Option<Reading> {
    let at = BootMs(row.at);
    match (row.quality, row.value) {
        (Quality::Good, Some(value)) => Some(Reading::good(row.point, at, value)),
        (Quality::Uncertain(reason), Some(value)) => Some(Reading::uncertain(row.point, at, value, reason)),
        (Quality::Bad(reason), None) => Some(Reading::bad(row.point, at, reason)),
        _ => None,
    }
}
