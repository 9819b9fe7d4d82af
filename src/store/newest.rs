//! Values that are newer than those that were packed: found in the newest blocks when the store starts.

use super::block;
use super::epochs::Epochs;
use super::last::Latest;
use super::log::Log;
use super::ranges::RangeSet;
use super::times::Boot;
use super::trouble::Trouble;
use crate::message::{Id, Record, WallMs};

/// Blocks, and readings in them, looked through at a start for values newer than the packed ones: 10 ms.
const NEWEST_BLOCKS: usize = 32;
const NEWEST_READINGS: usize = 16_384;

/// Notes the latest values of the newest blocks. Returns the highest number of a boot in these blocks.
///
/// # Errors
/// Those of the database.
pub fn newest_values(
    log: &Log,
    present: &RangeSet,
    (boots, epochs): (&[Boot], &Epochs),
    upto: u64,
    latest: &mut Latest,
) -> Result<u32, Trouble> {
    let mut newest_boot = 0;
    let mut at = present.end().unwrap_or(0);
    let mut readings = 0;
    for _ in 0..NEWEST_BLOCKS {
        if readings >= NEWEST_READINGS {
            break;
        }
        let before = log.block_before(at.saturating_sub(1)).or_else(Trouble::unreadable)?;
        let Some((first, data)) = before else { break };
        if first >= at {
            break;
        }
        at = first;
        let Ok(block) = block::decode(&data) else { continue };
        if epochs.proven(first).is_some_and(|epoch| epoch != block.head.epoch) {
            continue;
        }
        newest_boot = newest_boot.max(block.head.boot);
        if block.range().end <= upto {
            break;
        }
        readings += block.entries.len();
        let boot = boots.iter().find(|b| b.n == block.head.boot);
        for (seq, entry) in block.numbered() {
            let Some(reading) = entry.reading() else { continue };
            let head = &block.head;
            let (ts, _) = boot.map_or_else(
                || (WallMs(reading.at.0.cast_signed().saturating_add(head.offset)), false),
                |b| b.place(reading.at),
            );
            let id = Id { epoch: head.epoch, seq };
            latest.note(Record {
                id,
                ts,
                point: reading.point.clone(),
                value: reading.value().cloned(),
                quality: reading.quality(),
            });
        }
        if first == 0 {
            break;
        }
    }
    Ok(newest_boot)
}
