//! The body of a block: the columns of its readings, one after the other. Pure; the layout is in [`super`].

use std::collections::HashMap;
use std::sync::Arc;

use driver_api::{Quality, Reason, Value};

use super::column::{FloatState, Packed, Reader, Writer};
use super::dictionary;
use crate::message::PointKey;

/// One reading, as far as columns know it. Its time is in milliseconds of whatever line the caller counts on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// Of what.
    pub point: &'a Arc<PointKey>,
    /// When.
    pub at: u64,
    /// The value; `None` exactly when the quality is bad.
    pub value: Option<&'a Value>,
    /// How far to trust it.
    pub quality: Quality,
}

/// A [`Row`] that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Cells {
    /// Of what.
    pub point: Arc<PointKey>,
    /// When.
    pub at: u64,
    /// The value; `None` exactly when the quality is bad.
    pub value: Option<Value>,
    /// How far to trust it.
    pub quality: Quality,
}

/// Writes the body of these rows. Their times are differences to the first, which stands in the caller's header.
#[must_use]
pub fn write<'a>(rows: impl Iterator<Item = Row<'a>> + Clone) -> Vec<u8> {
    let mut out = Writer::default();
    let (dictionary, points) = number(rows.clone().map(|row| row.point));
    dictionary::write(&mut out, &dictionary);
    let mut expected = 0i64;
    for &p in &points {
        out.put_signed(p as i64 - expected);
        expected = p as i64 + 1;
    }
    let mut time = rows.clone().next().map_or(0, |row| row.at);
    for row in rows.clone() {
        out.put_signed(row.at.wrapping_sub(time).cast_signed());
        time = row.at;
    }
    out.put_runs(rows.clone().map(|row| kind(row.value)));
    out.put_runs(rows.clone().map(|row| quality_code(row.quality)));

    let mut floats = vec![FloatState::default(); dictionary.len()];
    let mut numbers = vec![0u64; dictionary.len()];
    let mut tags = Vec::new();
    let mut values = Writer::default();
    for (row, &p) in rows.zip(&points) {
        match row.value {
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

/// The different points in the order in which they first come, and each reading's place among them.
fn number<'a>(points: impl Iterator<Item = &'a Arc<PointKey>>) -> (Vec<&'a PointKey>, Vec<usize>) {
    // By address: two equal keys at two addresses are two entries, which costs bytes and nothing else.
    let mut index: HashMap<*const PointKey, usize, foldhash::fast::RandomState> = HashMap::default();
    let mut dictionary: Vec<&'a PointKey> = Vec::new();
    let mut next = 0;
    let places = points
        .map(|point| {
            // Points come round in the same order; where that holds nothing needs to be looked up.
            let guess = if next < dictionary.len() { next } else { 0 };
            let at = match dictionary.get(guess) {
                Some(key) if std::ptr::eq(*key, &**point) => guess,
                _ => *index.entry(Arc::as_ptr(point)).or_insert_with(|| {
                    dictionary.push(point);
                    dictionary.len() - 1
                }),
            };
            next = at + 1;
            at
        })
        .collect();
    (dictionary, places)
}

/// Reads the body of `count` rows, which the caller has bounded; `base` is the time of the first.
pub fn read(from: &mut Reader<'_>, count: usize, base: u64) -> Option<Vec<Cells>> {
    let dictionary = dictionary::read(from, count)?;
    read_rows(from, &dictionary, count, base)
}

/// [`read`] where the points were read already.
pub fn read_rows(
    r: &mut Reader<'_>,
    dictionary: &[Arc<PointKey>],
    count: usize,
    base: u64,
) -> Option<Vec<Cells>> {
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
    let mut rows = Vec::with_capacity(count);
    for n in 0..count {
        let p = points[n];
        let value = match kinds[n] {
            0 => None,
            1 => Some(Value::Bool(r.array::<1>()?[0] != 0)),
            2 => Some(Value::Int(undelta(r, &mut numbers[p])?.cast_signed())),
            3 => Some(Value::UInt(undelta(r, &mut numbers[p])?)),
            4 => Some(Value::Float(Packed::read(tags.next()?, r, &mut floats[p])?)),
            5 => Some(Value::Text(std::str::from_utf8(r.get_bytes()?).ok()?.into())),
            _ => return None,
        };
        let quality = quality_of(qualities[n])?;
        if value.is_none() != matches!(quality, Quality::Bad(_)) {
            return None;
        }
        rows.push(Cells { point: Arc::clone(&dictionary[p]), at: times[n], value, quality });
    }
    r.is_empty().then_some(rows)
}

fn delta(out: &mut Writer, last: &mut u64, n: u64) {
    out.put_signed(n.wrapping_sub(*last).cast_signed());
    *last = n;
}

fn undelta(from: &mut Reader<'_>, last: &mut u64) -> Option<u64> {
    *last = last.wrapping_add(from.get_signed()?.cast_unsigned());
    Some(*last)
}

fn kind(value: Option<&Value>) -> u64 {
    match value {
        None => 0,
        Some(Value::Bool(_)) => 1,
        Some(Value::Int(_)) => 2,
        Some(Value::UInt(_)) => 3,
        Some(Value::Float(_)) => 4,
        Some(Value::Text(_)) => 5,
    }
}

const SEVERITY: u64 = 1024;

/// The number a quality is written as.
#[must_use]
pub fn quality_code(quality: Quality) -> u64 {
    match quality {
        Quality::Good => 0,
        Quality::Uncertain(reason) => SEVERITY + u64::from(reason.code()),
        Quality::Bad(reason) => 2 * SEVERITY + u64::from(reason.code()),
    }
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
