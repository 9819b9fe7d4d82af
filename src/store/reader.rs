//! Reading back: ranges of the line as records, and what is damaged declared.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::block::{self, Block};
use super::drain::Chunk;
use super::loss::Facts;
use super::state;
use super::trouble::Trouble;
use super::writer::Writer;
use crate::bounds;
use crate::message::{Id, LossReason};

/// Unpacked blocks kept for the next question: two lanes of two uplinks. 4 × 300 KiB.
const CACHED: usize = 4;

/// The blocks read last.
#[derive(Debug, Default)]
pub(super) struct Cache(VecDeque<Arc<Block>>);

impl Cache {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn get(&self, at: u64) -> Option<Arc<Block>> {
        self.0.iter().find(|b| b.range().contains(&at)).cloned()
    }

    fn put(&mut self, block: Arc<Block>) {
        if self.0.len() >= CACHED {
            self.0.pop_front();
        }
        self.0.push_back(block);
    }
}

impl Writer {
    /// Records with numbers in `range`, at most `most`; for an uplink with the times that it is to be told, for a
    /// person with what is known now. What is damaged is declared on the way.
    pub(super) fn read(
        &mut self,
        uplink: Option<&str>,
        range: Range<u64>,
        most: usize,
    ) -> Result<Chunk, Trouble> {
        match uplink {
            Some(uplink) if !self.settle_times(uplink, &range)? => {
                return Ok(Chunk::empty(range.start));
            }
            Some(_) => {}
            None => self.observe_clock(),
        }
        let most = most.clamp(1, bounds::STORE_READ);
        let (parts, end) = {
            let state = self.shared.state();
            let end = range.end.min(state.stored).max(range.start);
            (state.present.overlap(range.start..end), end)
        };
        let mut chunk = Chunk::empty(end);
        // What is not this uplink's affair makes no record, and the thread has other work.
        let (mut looked, mut bytes) = (0, 0);
        for part in parts {
            let mut at = part.start;
            while at < part.end {
                if chunk.is_full(most) || looked >= bounds::STORE_READ as u64 || bytes >= bounds::FORWARD_READ
                {
                    chunk.next = at;
                    return Ok(chunk);
                }
                let Some(block) = self.block_at(at)? else {
                    let Some(log) = &self.log else { return Err(Trouble::Disk("no database".into())) };
                    let next = log.first_after(at)?.unwrap_or(u64::MAX);
                    let present = self.shared.state().present.overlap(at..next);
                    let bad = present.first().map_or(at..part.end, |r| at..r.end);
                    at = bad.end;
                    self.corrupt(bad);
                    continue;
                };
                let until = block.range().end.min(part.end);
                // Where the last one that there is room for lies; of a thinned block not every number counts.
                let over = block.within(at..until).nth(most.saturating_sub(chunk.count()));
                let until = over.map_or(until, |(seq, _)| seq);
                let (until, heavy) = block.fits(at..until);
                let count = block.within(at..until).count() as u64;
                (looked, bytes) = (looked + count.max(1), bytes + heavy);
                let mut state = self.shared.state();
                if let Some(uplink) = uplink {
                    state.hand_out(uplink, &block, at..until, &mut chunk);
                } else {
                    let head = &block.head;
                    for (seq, entry) in block.within(at..until) {
                        let time =
                            state::time_of(&state.boots, entry.at(), head.boot, (head.offset, head.synced));
                        state::put(&mut chunk, Id { epoch: head.epoch, seq }, entry, time);
                    }
                }
                at = until;
            }
        }
        Ok(chunk)
    }

    /// The whole block that holds `at`; `None` if it is damaged or not there.
    pub(super) fn block_at(&mut self, at: u64) -> Result<Option<Arc<Block>>, Trouble> {
        if let Some(block) = self.cache.get(at) {
            self.compare(&block);
            return Ok(Some(block));
        }
        let Some(log) = &self.log else { return Err(Trouble::Disk("no database".into())) };
        let Some((first, data)) = log.block_before(at)? else { return Ok(None) };
        match block::decode(&data) {
            Ok(block) if block.head.first == first => {
                if !block.range().contains(&at) {
                    return Ok(None);
                }
                let epoch = self.shared.state().epochs.proven(first);
                if epoch.is_some_and(|epoch| epoch != block.head.epoch) {
                    // The WAL is ours and the database another gateway's, or the other way round.
                    tracing::error!(first, "a stored block is of an epoch that had no such number");
                    return Ok(None);
                }
                self.compare(&block);
                let block = Arc::new(block);
                self.cache.put(Arc::clone(&block));
                Ok(Some(block))
            }
            Ok(_) => Ok(None),
            Err(damage) => {
                tracing::error!(first, %damage, "a stored block is damaged");
                Ok(None)
            }
        }
    }

    /// These numbers cannot be read any more: declared, and removed with the next commit.
    pub(super) fn corrupt(&mut self, range: Range<u64>) {
        let mut state = self.shared.state();
        state.unthin(&range, None);
        let lost = state.present.remove(range.clone());
        state.figures.dropped += lost;
        state.lose(range.clone(), LossReason::Corrupt, false, &Facts::default());
        drop(state);
        self.doomed.insert(range);
    }
}
