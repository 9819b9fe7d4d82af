//! One packed block of readings, the unit of the log. Pure.
//!
//! Layout, version 2, little-endian:
//!
//! | at | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 | `FGB1` |
//! | 4 | 1 | version of the layout: 2; 1 is still read |
//! | 5 | 1 | bit 0: the body is one zstd frame |
//! | 6 | 2 | zero |
//! | 8 | 8 | number (`seq`) of the first reading; the others follow without holes |
//! | 16 | 4 | how many readings, 1 to 4096 |
//! | 20 | 4 + 4 | epoch: start counter, random part |
//! | 28 | 4 | number of the boot in the log's table of boots |
//! | 32 | 8 | boot time of the first reading, ms |
//! | 40 | 8 | wall − boot when the block was packed, ms, signed: for who has only the block |
//! | 48 | 1 | 1: that relation was believed |
//! | 49 | 3 | zero |
//! | 52 | 4 | length of the body before compression |
//! | 56 | 4 | length of the body as it follows |
//! | 60 | … | body |
//! | end | 4 | CRC-32 (IEEE) of everything before |
//!
//! Body, columns one after the other (varints and runs as in `column.rs`): the points (see `dictionary.rs`; that
//! is where version 1 differs) · for each reading its point as difference to the previous index + 1 · its time as difference to the
//! previous time, ms · kinds as runs (0 none, 1 bool, 2 int, 3 uint, 4 float, 5 text) · qualities as runs
//! (severity × 1024 + reason code; severity 0 good, 1 uncertain, 2 bad) · tags of the floats as runs · values
//! in order: bool one byte; int and uint as difference to the same point's last; float by its tag; text
//! with its length.
//!
//! Promises: what is packed reads back equal, floats bit for bit. Any flipped bit, and any other damage
//! within 32 bits, is detected. No bytes make `decode` panic or allocate beyond [`BODY_MAX`].

use std::collections::HashMap;
use std::sync::Arc;

use driver_api::{Quality, Reason, Value};

use super::column::{FloatState, Packed, Reader, Writer};
use super::dictionary;
use crate::bounds;
use crate::message::{BootMs, Epoch, PointKey, Reading};

const MAGIC: [u8; 4] = *b"FGB1";
const VERSION: u8 = 2;
const HEADER: usize = 60;
/// Largest body before compression: a full block of readings and dictionary, and 1 MiB of text (the
/// packer closes a block earlier), with room.
pub const BODY_MAX: usize = 16 << 20;
/// Text values after which the packer begins a new block, in bytes.
pub const TEXT_SOFT_MAX: usize = 1 << 20;
/// Level 3 is where zstd's speed still exceeds what one core can take in (about 150 MB/s on a Pi 4).
const LEVEL: i32 = 3;

/// What a block says of all its readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of the first reading.
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
    /// The readings, in order.
    pub readings: Vec<Reading>,
}

impl Block {
    /// The numbers it holds.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        self.head.first..self.head.first + self.readings.len() as u64
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

/// Where the readings must be cut so that each piece fits one block.
#[must_use]
pub fn piece(readings: &[Reading]) -> usize {
    let mut text = 0;
    for (n, reading) in readings.iter().enumerate() {
        text += text_len(reading);
        if n > 0 && (n == bounds::STORE_BLOCK || text > TEXT_SOFT_MAX) {
            return n;
        }
    }
    readings.len()
}

/// Bytes of a reading's text value.
#[must_use]
pub fn text_len(reading: &Reading) -> usize {
    if let Some(Value::Text(text)) = reading.value() { text.len() } else { 0 }
}

/// Packs 1 to [`bounds::STORE_BLOCK`] readings.
///
/// # Errors
/// zstd's, which has none to report for memory it was given; passed on all the same.
pub fn encode(head: &Head, readings: &[Reading]) -> std::io::Result<Vec<u8>> {
    debug_assert!((1..=bounds::STORE_BLOCK).contains(&readings.len()), "piece() cuts");
    let raw = body(readings);
    let packed = zstd::bulk::compress(&raw, LEVEL)?;
    let (flags, stored) = if packed.len() < raw.len() { (1u8, &packed) } else { (0, &raw) };
    let mut out = Vec::with_capacity(HEADER + stored.len() + 4);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, flags, 0, 0]);
    out.extend_from_slice(&head.first.to_le_bytes());
    out.extend_from_slice(&length(readings.len()));
    out.extend_from_slice(&head.epoch.start.to_le_bytes());
    out.extend_from_slice(&head.epoch.random.to_le_bytes());
    out.extend_from_slice(&head.boot.to_le_bytes());
    out.extend_from_slice(&readings.first().map_or(0, |r| r.at.0).to_le_bytes());
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

fn body(readings: &[Reading]) -> Vec<u8> {
    let mut out = Writer::default();
    // By address: two equal keys at two addresses are two entries, which costs bytes and nothing else.
    let mut index: HashMap<*const PointKey, usize> = HashMap::new();
    let mut dictionary: Vec<&PointKey> = Vec::new();
    let mut next = 0;
    let points: Vec<usize> = readings
        .iter()
        .map(|r| {
            // Points come round in the same order; where that holds nothing needs to be looked up.
            let guess = if next < dictionary.len() { next } else { 0 };
            let at = match dictionary.get(guess) {
                Some(key) if std::ptr::eq(*key, &*r.point) => guess,
                _ => *index.entry(Arc::as_ptr(&r.point)).or_insert_with(|| {
                    dictionary.push(&r.point);
                    dictionary.len() - 1
                }),
            };
            next = at + 1;
            at
        })
        .collect();

    dictionary::write(&mut out, &dictionary);
    let mut expected = 0i64;
    for &p in &points {
        out.put_signed(p as i64 - expected);
        expected = p as i64 + 1;
    }
    let mut time = readings.first().map_or(0, |r| r.at.0);
    for r in readings {
        out.put_signed(r.at.0.wrapping_sub(time).cast_signed());
        time = r.at.0;
    }
    out.put_runs(readings.iter().map(kind));
    out.put_runs(readings.iter().map(|r| quality_code(r.quality())));

    let mut floats = vec![FloatState::default(); index.len()];
    let mut tags = Vec::new();
    let mut values = Writer::default();
    let mut numbers = vec![0u64; index.len()];
    for (r, &p) in readings.iter().zip(&points) {
        match r.value() {
            None => {}
            Some(Value::Bool(b)) => values.bytes.push(u8::from(*b)),
            Some(Value::Int(i)) => delta(&mut values, &mut numbers[p], i.cast_unsigned()),
            Some(Value::UInt(u)) => delta(&mut values, &mut numbers[p], *u),
            Some(Value::Float(x)) => {
                let packed = Packed::of(*x, floats[p]);
                tags.push(packed.tag());
                packed.write(&mut values, &mut floats[p]);
            }
            Some(Value::Text(t)) => values.put_bytes(t.as_bytes()),
        }
    }
    out.put_runs(tags);
    out.bytes.append(&mut values.bytes);
    out.bytes
}

fn delta(out: &mut Writer, last: &mut u64, n: u64) {
    out.put_signed(n.wrapping_sub(*last).cast_signed());
    *last = n;
}

fn kind(reading: &Reading) -> u64 {
    match reading.value() {
        None => 0,
        Some(Value::Bool(_)) => 1,
        Some(Value::Int(_)) => 2,
        Some(Value::UInt(_)) => 3,
        Some(Value::Float(_)) => 4,
        Some(Value::Text(_)) => 5,
    }
}

const SEVERITY: u64 = 1024;

/// The number a quality is stored as.
#[must_use]
pub fn quality_code(quality: Quality) -> u64 {
    match quality {
        Quality::Good => 0,
        Quality::Uncertain(reason) => SEVERITY + u64::from(reason.code()),
        Quality::Bad(reason) => 2 * SEVERITY + u64::from(reason.code()),
    }
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
    if !(1..=VERSION).contains(&bytes[4]) {
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
    let readings = columns(version, body, count, base).ok_or(Damage::Shape("the body"))?;
    let head = Head { first, epoch: Epoch { start, random }, boot, offset, synced: synced == 1 };
    Ok(Block { head, readings })
}

fn columns(version: u8, body: &[u8], count: usize, base: u64) -> Option<Vec<Reading>> {
    let mut r = Reader::new(body);
    let dictionary = match version {
        1 => dictionary::read_version_1(&mut r, count)?,
        _ => dictionary::read(&mut r, count)?,
    };
    let entries = dictionary.len();
    let mut points = Vec::with_capacity(count);
    let mut expected = 0i64;
    for _ in 0..count {
        let p = expected.checked_add(r.get_signed()?)?;
        points.push(usize::try_from(p).ok().filter(|&p| p < entries)?);
        expected = p + 1;
    }
    let mut times = Vec::with_capacity(count);
    let mut time = base;
    for _ in 0..count {
        time = time.wrapping_add(r.get_signed()?.cast_unsigned());
        times.push(time);
    }
    let kinds = r.get_runs(count)?;
    let qualities = r.get_runs(count)?;
    let mut tags = r.get_runs(kinds.iter().filter(|&&k| k == 4).count())?.into_iter();
    let mut floats = vec![FloatState::default(); entries];
    let mut numbers = vec![0u64; entries];
    let mut readings = Vec::with_capacity(count);
    for n in 0..count {
        let p = points[n];
        let value = match kinds[n] {
            0 => None,
            1 => Some(Value::Bool(r.array::<1>()?[0] != 0)),
            2 => Some(Value::Int(undelta(&mut r, &mut numbers[p])?.cast_signed())),
            3 => Some(Value::UInt(undelta(&mut r, &mut numbers[p])?)),
            4 => Some(Value::Float(Packed::read(tags.next()?, &mut r, &mut floats[p])?)),
            5 => Some(Value::Text(std::str::from_utf8(r.get_bytes()?).ok()?.into())),
            _ => return None,
        };
        readings.push(reading(Arc::clone(&dictionary[p]), BootMs(times[n]), value, qualities[n])?);
    }
    r.is_empty().then_some(readings)
}

fn undelta(from: &mut Reader<'_>, last: &mut u64) -> Option<u64> {
    *last = last.wrapping_add(from.get_signed()?.cast_unsigned());
    Some(*last)
}

/// The quality with this number. A reason of a later version reads as `protocol`: the severity is what a
/// receiver acts on.
#[must_use]
pub fn quality_of(code: u64) -> Option<Quality> {
    let reason =
        || u16::try_from(code % SEVERITY).ok().and_then(Reason::from_code).unwrap_or(Reason::Protocol);
    match code / SEVERITY {
        0 => Some(Quality::Good),
        1 => Some(Quality::Uncertain(reason())),
        2 => Some(Quality::Bad(reason())),
        _ => None,
    }
}

fn reading(point: Arc<PointKey>, at: BootMs, value: Option<Value>, code: u64) -> Option<Reading> {
    match (quality_of(code)?, value) {
        (Quality::Good, Some(value)) => Some(Reading::good(point, at, value)),
        (Quality::Uncertain(reason), Some(value)) => Some(Reading::uncertain(point, at, value, reason)),
        (Quality::Bad(reason), None) => Some(Reading::bad(point, at, reason)),
        _ => None,
    }
}
