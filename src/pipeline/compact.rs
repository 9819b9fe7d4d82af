//! The payload of the format `compact`: many readings of one epoch in few bytes. Pure.
//!
//! The layout for those who write a receiver, with every column, stands in `config/examples/compact.md`; a decoder
//! in Python is beside it. Each message is whole in itself: nothing of an earlier one is needed, so a lost or
//! repeated message harms no other.
//!
//! Layout, version 1 (varints as in `columns::column`, other numbers little-endian):
//!
//! | bytes | what |
//! | --- | --- |
//! | 3 + 1 | `FGC` and the version, 1 |
//! | 1 | flags: bit 0 the body is deflated (RFC 1951); bit 1 historical; the others zero |
//! | varint, … | length of the gateway's id, and the id |
//! | 4 + 4 | epoch: start counter, random part |
//! | varint | number (`seq`) of the first reading; the others count up by one |
//! | varint | how many readings, 1 to 10,000 |
//! | signed varint | wall time of the first reading, ms since 1970 |
//! | varint | length of the body before compression |
//! | varint, … | length of the body as it follows, and the body: the columns of [`crate::columns`], wall time |
//! | 4 | CRC-32 (IEEE) of everything before |
//!
//! Deflate and not zstd: on a message of some 500 readings both end within 3 % of each other, and deflate is in the
//! standard library of nearly every language a receiver is written in.
//!
//! Promises: what is packed reads back equal, floats bit for bit. A flipped bit is detected. No bytes make
//! [`decode`] panic; what it allocates is bounded by [`bounds::UPLINK_BATCH`] and by what deflate can make of the
//! input (about 1000 times its length).

use std::collections::HashMap;
use std::sync::Arc;

use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec_with_limit;

use super::payload::trusted;
use crate::bounds;
use crate::columns::body::{self, Row};
use crate::columns::column::{Reader, Writer};
use crate::message::{Epoch, Id, PointKey, Record, WallMs};

/// What every message begins with; the version follows.
pub const MAGIC: [u8; 3] = *b"FGC";
/// The only version so far.
pub const VERSION: u8 = 1;
const DEFLATED: u8 = 1;
const HISTORICAL: u8 = 2;
/// The most effort: a message is some two kilobytes, so it costs a fraction of a millisecond.
const LEVEL: u8 = 9;

/// A message, unpacked.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The gateway's id.
    pub gateway: String,
    /// It came on the backlog lane.
    pub historical: bool,
    /// The readings, in order.
    pub records: Vec<Record>,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Something else.
    #[error("no compact payload: it does not begin with `FGC`")]
    Foreign,
    /// Made by a later version.
    #[error("version {0} of the layout is not known here; use a newer fieldgate")]
    Version(u8),
    /// Its end is missing.
    #[error("cut off: it is not as long as it says")]
    Short,
    /// The bytes are not those that were sent.
    #[error("checksum does not fit")]
    Checksum,
    /// The checksum fits, the content does not: no gateway made this.
    #[error("{0} makes no sense")]
    Shape(&'static str),
}

/// Packs readings of one epoch whose numbers count up by one. `None` for records that are no such run.
#[must_use]
pub fn encode(gateway: &str, historical: bool, records: &[Record]) -> Option<Vec<u8>> {
    let first = records.first()?;
    let in_turn = records.iter().zip(first.id.seq..).all(|(r, seq)| r.id.seq == seq);
    let one_epoch = records.iter().all(|r| r.id.epoch == first.id.epoch);
    if !in_turn || !one_epoch || records.len() > bounds::UPLINK_BATCH {
        return None;
    }
    // Records come from several blocks of the log, and each block has its points at addresses of its own.
    let mut known: HashMap<&PointKey, &Arc<PointKey>> = HashMap::new();
    let points: Vec<_> = records.iter().map(|r| *known.entry(&r.point).or_insert(&r.point)).collect();
    let raw = body::write(records.iter().zip(&points).map(|(record, point)| {
        let (value, quality) = trusted(record);
        Row { point, at: record.ts.0.cast_unsigned(), value, quality }
    }));
    let packed = compress_to_vec(&raw, LEVEL);
    let (deflated, stored) = if packed.len() < raw.len() { (DEFLATED, &packed) } else { (0, &raw) };
    let mut out = Writer { bytes: Vec::with_capacity(stored.len() + gateway.len() + 48) };
    out.bytes.extend_from_slice(&MAGIC);
    out.bytes.extend_from_slice(&[VERSION, deflated | if historical { HISTORICAL } else { 0 }]);
    out.put_bytes(gateway.as_bytes());
    out.bytes.extend_from_slice(&first.id.epoch.start.to_le_bytes());
    out.bytes.extend_from_slice(&first.id.epoch.random.to_le_bytes());
    out.put(first.id.seq);
    out.put(records.len() as u64);
    out.put_signed(first.ts.0);
    out.put(raw.len() as u64);
    out.put_bytes(stored);
    let crc = crc32fast::hash(&out.bytes);
    out.bytes.extend_from_slice(&crc.to_le_bytes());
    Some(out.bytes)
}

/// Unpacks the message at the front of `bytes`; also tells its length, for messages may stand one after the other.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode(bytes: &[u8]) -> Result<(Message, usize), Damage> {
    const HEADER: Damage = Damage::Shape("the header");
    let mut r = Reader::new(bytes);
    if bytes.get(..MAGIC.len()) != Some(&MAGIC[..]) {
        return Err(Damage::Foreign);
    }
    let [.., version, flags] = r.array::<5>().ok_or(Damage::Short)?;
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let gateway = r.get_bytes().ok_or(Damage::Short)?;
    let mut word = || r.array().map(u32::from_le_bytes).ok_or(Damage::Short);
    let epoch = Epoch { start: word()?, random: word()? };
    let first = r.get().ok_or(Damage::Short)?;
    let count = r.get_len().ok_or(Damage::Short)?;
    let base = r.get_signed().ok_or(Damage::Short)?;
    let raw_len = r.get_len().ok_or(Damage::Short)?;
    let stored = r.get_bytes().ok_or(Damage::Short)?;
    let signed = bytes.len() - r.left();
    let crc = r.array::<4>().ok_or(Damage::Short)?;
    if crc != crc32fast::hash(&bytes[..signed]).to_le_bytes() {
        return Err(Damage::Checksum);
    }
    let gateway = std::str::from_utf8(gateway).map_err(|_| HEADER)?.to_owned();
    let fits = (1..=bounds::UPLINK_BATCH).contains(&count)
        && first.checked_add(count as u64).is_some()
        && flags & !(DEFLATED | HISTORICAL) == 0;
    if !fits {
        return Err(HEADER);
    }
    let raw;
    let body = if flags & DEFLATED == 0 {
        stored
    } else {
        raw = decompress_to_vec_with_limit(stored, raw_len)
            .map_err(|_| Damage::Shape("the compressed body"))?;
        &raw[..]
    };
    if body.len() != raw_len {
        return Err(Damage::Shape("the length of the body"));
    }
    let rows =
        body::read(&mut Reader::new(body), count, base.cast_unsigned()).ok_or(Damage::Shape("the body"))?;
    let records = (first..)
        .zip(rows)
        .map(|(seq, row)| Record {
            id: Id { epoch, seq },
            ts: WallMs(row.at.cast_signed()),
            point: row.point,
            value: row.value,
            quality: row.quality,
        })
        .collect();
    Ok((Message { gateway, historical: flags & HISTORICAL != 0, records }, signed + 4))
}

#[cfg(test)]
#[path = "compact_tests.rs"]
mod tests;
