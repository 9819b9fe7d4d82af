//! The points of one block. Pure.
//!
//! A plant has many devices of one kind, whose points have the same names: what is stored is each device, point
//! and unit name once, and for every entry of the dictionary which of them it has. A thousand points of fifty
//! meters take less than 350 bytes after compression (a test holds it to that).
//!
//! Layout, version 2: how many entries · the devices, the point names, the units, each as how many, and for each
//! the length it shares with the one before it and the rest · devices of the entries as runs · point names as
//! difference to the previous + 1 · units as runs. Version 1: how many entries, and for each the length that its
//! `device NUL point NUL unit` shares with the one before it, and the rest.

use std::collections::HashMap;
use std::sync::Arc;

use super::column::{Reader, Writer};
use crate::message::PointKey;

/// Longest name: 4 KiB were never configured.
const NAME_MAX: usize = 4096;

/// Different names in the order in which they first came.
#[derive(Default)]
struct Names<'k> {
    list: Vec<&'k str>,
    index: HashMap<&'k str, usize>,
}

impl<'k> Names<'k> {
    /// The name's place; `guess` is tried first.
    fn place(&mut self, name: &'k str, guess: usize) -> usize {
        if self.list.get(guess) == Some(&name) {
            return guess;
        }
        let list = &mut self.list;
        *self.index.entry(name).or_insert_with(|| {
            list.push(name);
            list.len() - 1
        })
    }

    fn write(&self, out: &mut Writer) {
        out.put(self.list.len() as u64);
        let mut last: &[u8] = &[];
        for name in &self.list {
            let name = name.as_bytes();
            let shared = name.iter().zip(last).take_while(|(a, b)| a == b).count();
            out.put(shared as u64);
            out.put_bytes(&name[shared..]);
            last = name;
        }
    }
}

/// Writes the points of a block.
pub fn write(out: &mut Writer, points: &[&PointKey]) {
    let (mut devices, mut names, mut units) = (Names::default(), Names::default(), Names::default());
    let (mut device, mut name, mut unit) = (0, 0, 0);
    let mut rows = Vec::with_capacity(points.len());
    for key in points {
        device = devices.place(&key.device, device);
        let next = name + 1;
        name = names.place(&key.point, if next < names.list.len() { next } else { 0 });
        unit = units.place(&key.unit, unit);
        rows.push((device, name, unit));
    }
    out.put(points.len() as u64);
    devices.write(out);
    names.write(out);
    units.write(out);
    out.put_runs(rows.iter().map(|row| row.0 as u64));
    let mut expected = 0i64;
    for (_, name, _) in &rows {
        out.put_signed(*name as i64 - expected);
        expected = *name as i64 + 1;
    }
    out.put_runs(rows.iter().map(|row| row.2 as u64));
}

/// Reads at most `most` points, as [`write`] wrote them.
pub fn read(from: &mut Reader<'_>, most: usize) -> Option<Vec<Arc<PointKey>>> {
    let entries = from.get_len().filter(|&n| n <= most)?;
    let [devices, names, units] =
        [read_names(from, entries)?, read_names(from, entries)?, read_names(from, entries)?];
    let of_device = from.get_runs(entries)?;
    let mut of_name = Vec::with_capacity(entries);
    let mut expected = 0i64;
    for _ in 0..entries {
        let at = expected.checked_add(from.get_signed()?)?;
        of_name.push(usize::try_from(at).ok()?);
        expected = at.checked_add(1)?;
    }
    let of_unit = from.get_runs(entries)?;
    let text = |list: &[String], at: u64| list.get(usize::try_from(at).ok()?).cloned();
    let keys = of_device.iter().zip(of_name).zip(of_unit).map(|((&device, name), unit)| {
        let (device, unit) = (text(&devices, device)?, text(&units, unit)?);
        Some(Arc::new(PointKey { device, point: names.get(name)?.clone(), unit }))
    });
    keys.collect()
}

fn read_names(from: &mut Reader<'_>, most: usize) -> Option<Vec<String>> {
    let count = from.get_len().filter(|&n| n <= most)?;
    let mut list = Vec::new();
    let mut last = Vec::new();
    for _ in 0..count {
        read_shared(from, &mut last)?;
        list.push(std::str::from_utf8(&last).ok()?.to_owned());
    }
    Some(list)
}

/// What is shared with `last`, and the rest.
fn read_shared(from: &mut Reader<'_>, last: &mut Vec<u8>) -> Option<()> {
    let shared = from.get_len().filter(|&n| n <= last.len())?;
    last.truncate(shared);
    last.extend_from_slice(from.get_bytes()?);
    (last.len() <= NAME_MAX).then_some(())
}

/// Reads at most `most` points as version 1 wrote them.
pub fn read_version_1(from: &mut Reader<'_>, most: usize) -> Option<Vec<Arc<PointKey>>> {
    let entries = from.get_len().filter(|&n| n <= most)?;
    let mut points = Vec::with_capacity(entries);
    let mut last = Vec::new();
    for _ in 0..entries {
        read_shared(from, &mut last)?;
        let mut parts = std::str::from_utf8(&last).ok()?.split('\0').map(str::to_owned);
        let (device, point, unit) = (parts.next()?, parts.next()?, parts.next()?);
        points.push(Arc::new(PointKey { device, point, unit }));
    }
    Some(points)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(device: &str, point: &str, unit: &str) -> PointKey {
        PointKey { device: device.into(), point: point.into(), unit: unit.into() }
    }

    #[test]
    fn fifty_meters_of_one_kind_take_little() {
        let keys: Vec<_> = (0..1000)
            .map(|n| key(&format!("meter{}", n / 20), &format!("quantity_{}", n % 20), "V"))
            .collect();
        let mut out = Writer::default();
        write(&mut out, &keys.iter().collect::<Vec<_>>());
        let packed = zstd::bulk::compress(&out.bytes, 3).expect("compresses");
        assert!(packed.len() < 350, "{} bytes", packed.len());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            keys in prop::collection::vec(("[a-c]{0,3}", "[xyé]{0,2}", "[V°]{0,1}"), 0..60),
            noise in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let keys: Vec<_> = keys.iter().map(|(d, p, u)| key(d, p, u)).collect();
            let mut out = Writer::default();
            write(&mut out, &keys.iter().collect::<Vec<_>>());
            let mut reader = Reader::new(&out.bytes);
            let read = read(&mut reader, keys.len()).expect("reads");
            prop_assert!(reader.is_empty());
            prop_assert_eq!(read.iter().map(|k| (**k).clone()).collect::<Vec<_>>(), keys);
            // And no bytes make it panic.
            let _ = super::read(&mut Reader::new(&noise), 100);
            let _ = read_version_1(&mut Reader::new(&noise), 100);
        }
    }
}
