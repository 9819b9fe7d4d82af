//! One commit: pack the group, make room, write down what changed, all in one transaction.
//!
//! What is decided here is decided in RAM first (under the lock, so that the ledger balances at every
//! instant) and stays decided: if the transaction fails, the next one carries the same decisions.

use std::ops::Range;
use std::time::Duration;

use super::block::{self, Block};
use super::identity::seal;
use super::last;
use super::log::{Change, Row, Trouble};
use super::loss::{self, Facts};
use super::quota::{self, Limits};
use super::ranges::RangeSet;
use super::recovery::Line;
use super::state::{Moment, State, Tick};
use super::writer::{Hand, LATEST_EVERY, Writer};
use crate::bounds;
use crate::message::{BootMs, Id, LossReason, LossRecord, Reading};

/// Rows that are looked at for one commit's housekeeping. More is done in the next commit.
const ROWS: usize = 256;
/// Commits whose duration is remembered.
const DURATIONS: usize = 256;

impl Writer {
    /// Commits what there is, at most one group. `clean`: mark the line as ended in order.
    ///
    /// # Errors
    /// The outcome is unknown; the connection must not be used again.
    pub(super) fn commit(&mut self, clean: bool) -> Result<(), Trouble> {
        let started = Tick::now();
        self.observe_clock();
        self.look_up()?;
        self.make_room()?;
        self.pack()?;
        let (line, change) = self.change(clean)?;
        self.attempted = Some(line.commit);
        let Some(log) = &mut self.log else { return Err(Trouble::Disk("no database".into())) };
        log.commit(&line, &change)?;
        let limits = self.shared.state().limits;
        self.note_saved(&change);
        self.committed(line, started.elapsed());
        let Some(log) = &mut self.log else { return Ok(()) };
        let written = log.tend_wal(limits.wal())?;
        self.shared.state().figures.bytes_written += written;
        self.measure(&limits)
    }

    pub(super) fn observe_clock(&self) {
        let clock = &self.shared.clock;
        let mut state = self.shared.state();
        let boot = state.boot;
        if let Some(boot) = state.boots.get_mut(&boot) {
            boot.observe(clock.boot(), clock.wall(), clock.synced());
        }
    }

    /// Fills in what is known of readings that were rejected and are still stored.
    fn look_up(&mut self) -> Result<(), Trouble> {
        let open: Vec<(usize, Range<u64>)> = {
            let state = self.shared.state();
            let open = state.drafts.iter().enumerate().filter(|(_, d)| d.look_up);
            open.map(|(n, d)| (n, d.range.clone())).take(ROWS).collect()
        };
        // Only this thread takes drafts out, and others only add at the end or extend one: the positions
        // hold. Of a draft that grew meanwhile nothing is told but its numbers.
        for (n, range) in open {
            let facts = self.facts(range.clone())?;
            let mut state = self.shared.state();
            if let Some(draft) = state.drafts.get_mut(n) {
                draft.facts = if draft.range == range { facts } else { Facts::default() };
                draft.look_up = false;
            }
        }
        Ok(())
    }

    fn facts(&mut self, range: Range<u64>) -> Result<Facts, Trouble> {
        if range.end - range.start > bounds::STORE_GROUP as u64 {
            return Ok(Facts::default());
        }
        let chunk = self.read(range.clone(), bounds::STORE_READ)?;
        if (chunk.records.len() as u64) < range.end - range.start {
            return Ok(Facts::default());
        }
        Ok(Facts::of(chunk.records.iter().map(|r| (r.point.path(), r.ts))))
    }

    /// Blocks that every uplink has passed go; then the oldest, if limits say so.
    fn make_room(&mut self) -> Result<(), Trouble> {
        let (passed, limits, usage) = {
            let state = self.shared.state();
            let usage = quota::Usage {
                file: state.figures.bytes,
                reusable: state.figures.bytes.saturating_sub(state.figures.used),
                free: free_disk(&self.shared.dir),
            };
            let mut accounts = state.accounts.iter().chain(&state.parked);
            let changed = self.sweep || accounts.any(|(n, a)| self.saved.get(n) != Some(a));
            let passed = if changed { passed_by_all(&state) } else { Vec::new() };
            (passed, state.limits, usage)
        };
        let Some(log) = &self.log else { return Err(Trouble::Disk("no database".into())) };
        let mut whole = Vec::new();
        self.sweep = false;
        for part in passed {
            let rows = log.rows(part.clone(), ROWS)?;
            self.sweep |= rows.len() == ROWS;
            whole.extend(rows.iter().map(Row::range).filter(|r| r.start >= part.start && r.end <= part.end));
        }
        {
            let mut state = self.shared.state();
            for range in whole {
                state.present.remove(range.clone());
                self.doomed.insert(range);
            }
        }
        let mut excess = quota::excess(usage, &limits);
        for _ in 0..ROWS {
            let oldest = self.shared.state().present.first();
            let (Some(oldest), Some(log)) = (oldest, &self.log) else { break };
            let row = match log.rows(oldest..u64::MAX, 1)?.pop() {
                Some(row) if row.first <= oldest => row,
                other => {
                    // Its row is gone: continuity is checked here for the oldest, elsewhere when it is read.
                    let run = self.shared.state().present.run_from(oldest);
                    self.corrupt(oldest..other.map_or(run, |row| row.first.min(run)));
                    continue;
                }
            };
            let reason = if excess > 0 {
                excess = excess.saturating_sub(row.bytes + 64);
                LossReason::QueueFull
            } else if self.too_old(&row, &limits)? {
                LossReason::Expired
            } else {
                break;
            };
            self.drop_block(&row, reason)?;
        }
        Ok(())
    }

    fn too_old(&self, row: &Row, limits: &Limits) -> Result<bool, Trouble> {
        let (mut newest, next_boot) = {
            let state = self.shared.state();
            (
                state.place(row.boot, BootMs(row.times[1])).unwrap_or_default(),
                state.epochs.next_boot(row.first, row.boot),
            )
        };
        if let (false, Some(next), Some(log)) = (newest.1, next_boot, &self.log)
            && let Some(later) = log.rows(next..u64::MAX, 1)?.first()
        {
            // From a boot whose clock was never set: it is older than what came after it.
            newest = self.shared.state().place(later.boot, BootMs(later.times[1])).unwrap_or_default();
        }
        let clock = &self.shared.clock;
        Ok(quota::expired(newest, (clock.wall(), clock.synced()), limits))
    }

    /// Drops a whole block; each uplink that had not settled all of it is told exactly what it misses.
    fn drop_block(&mut self, row: &Row, reason: LossReason) -> Result<(), Trouble> {
        let block = self.block_at(row.first)?;
        let mut state = self.shared.state();
        let before: u64 = state.accounts.values().map(|a| a.lost).sum();
        let names: Vec<String> = state.accounts.keys().cloned().collect();
        let times: Vec<_> = block.iter().flat_map(|b| described(&state, b)).collect();
        for uplink in names {
            let facts = |part: &Range<u64>| match &block {
                Some(b) => Facts::of(
                    b.range().zip(&times).filter(|(seq, _)| part.contains(seq)).map(|(_, t)| t.clone()),
                ),
                None => Facts::default(),
            };
            state.lose_for(&uplink, row.range(), reason, false, facts, false);
        }
        let after: u64 = state.accounts.values().map(|a| a.lost).sum();
        if after > before || state.accounts.is_empty() {
            state.figures.dropped += row.count;
        }
        state.present.remove(row.range());
        drop(state);
        self.doomed.insert(row.range());
        Ok(())
    }

    /// Takes a group into the hand and packs it; the one that is in hand already stays.
    fn pack(&mut self) -> Result<(), Trouble> {
        if self.hand.is_some() {
            return Ok(());
        }
        let (readings, range, epoch, boot, (offset, synced)) = {
            let mut state = self.shared.state();
            let readings = state.grab();
            let now = state.boots.get(&state.boot).map_or((0, false), super::times::Boot::now);
            (readings, state.hand.clone(), state.epoch, state.boot, now)
        };
        if readings.is_empty() {
            return Ok(());
        }
        // In hand first: an error below must not lose it.
        let hand = self.hand.insert(Hand { range: range.clone(), readings, blocks: Vec::new() });
        let (mut first, mut rest) = (range.start, &hand.readings[..]);
        let mut blocks = Vec::new();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(block::piece(rest));
            let data = block::encode(&block::Head { first, epoch, boot, offset, synced }, piece)?;
            let times = piece.iter().map(|r| r.at.0);
            let times = [times.clone().min().unwrap_or(0), times.max().unwrap_or(0)];
            let row = Row { first, count: piece.len() as u64, boot, times, bytes: data.len() as u64 };
            blocks.push((row, data));
            first += piece.len() as u64;
            rest = after;
        }
        hand.blocks = blocks;
        Ok(())
    }

    /// Everything that differs from what the database holds.
    fn change(&mut self, clean: bool) -> Result<(Line, Change), Trouble> {
        let mut change = Change {
            blocks: self.hand.iter().flat_map(|h| h.blocks.iter().cloned()).collect(),
            delete: self.doomed.iter().collect(),
            ..Change::default()
        };
        let now = self.shared.clock.wall();
        let head_file = self.shared.head().is_some();
        let done: Vec<u64> = self.shared.state().losses_done.iter().copied().collect();
        let mut heard = Vec::new();
        if let Some(log) = &self.log {
            for handle in &done {
                heard.extend(log.loss(*handle)?);
            }
        }
        let (line, fresh) = {
            let mut state = self.shared.state();
            for record in heard {
                if let Some(account) = state.accounts.get_mut(&record.uplink) {
                    account.untold.remove(record.seq[0]..record.seq[1].saturating_add(1));
                }
            }
            let mut present = state.present.clone();
            present.insert(state.hand.clone());
            for (name, account) in state.accounts.iter().chain(&state.parked) {
                if self.saved.get(name) != Some(account) {
                    change.state.push((format!("uplink:{name}"), Some(seal(account)?)));
                }
            }
            for name in self.saved.keys() {
                if !state.accounts.contains_key(name) && !state.parked.contains_key(name) {
                    change.state.push((format!("uplink:{name}"), None));
                }
            }
            if self.saved_boots != state.boots {
                let boots: Vec<_> = state.boots.values().collect();
                change.state.push(("boots".into(), Some(seal(&boots)?)));
            }
            if !self.epochs_saved {
                change.state.push(("epochs".into(), Some(seal(&state.epochs)?)));
            }
            (change.commands, change.commands_from) = state.commands.unsaved();
            change.losses_done = done;
            let line = Line {
                commit: self.line.commit + 1,
                epoch: [state.epoch.start, state.epoch.random],
                next: state.ring_range().start,
                present,
                bound: state.bound.next_power_of_two(),
                clean,
                head_file,
                next_loss: self.line.next_loss,
                home: self.line.home,
            };
            state.dirty_since = None;
            // Looked-up or not: what came in since stays a draft without names.
            (line, std::mem::take(&mut state.drafts))
        };
        self.records.extend(fresh.into_iter().map(|draft| loss::record(draft, now)));
        let mut line = line;
        change.losses = self.place_losses(&mut line.next_loss)?;
        if clean || Tick::now() >= self.latest_due {
            let known = self.shared.state().known.clone();
            if let Some(known) = known {
                self.latest.keep(&known);
            }
            change.last = Some(last::pack(&self.latest, line.next)?);
        }
        Ok((line, change))
    }

    /// Gives every new loss record a row: one of its own, or that of a record it goes on from.
    fn place_losses(&self, next: &mut u64) -> Result<Vec<(u64, LossRecord)>, Trouble> {
        let Some(log) = &self.log else { return Err(Trouble::Disk("no database".into())) };
        let mut placed: Vec<(u64, LossRecord)> = Vec::new();
        for record in &self.records {
            let new_here = placed.iter().filter(|(_, r)| r.uplink == record.uplink).count();
            let crowded = log.loss_count(&record.uplink)? + new_here >= bounds::STORE_LOSSES;
            if let Some((_, old)) = placed.iter_mut().rev().find(|(_, r)| r.uplink == record.uplink)
                && loss::merge(old, record, false)
            {
                continue;
            }
            let handed = self.handed.get(&record.uplink);
            let free = |handle: &u64| handed.is_none_or(|h| !h.contains(handle));
            let mut merged = false;
            for (handle, mut old) in log.newest_losses(&record.uplink, if crowded { 64 } else { 1 })? {
                if let Some((_, here)) = placed.iter_mut().find(|(h, _)| *h == handle) {
                    merged = loss::merge(here, record, crowded);
                } else if free(&handle) && loss::merge(&mut old, record, crowded) {
                    placed.push((handle, old));
                    merged = true;
                }
                if merged {
                    break;
                }
            }
            if !merged {
                placed.push((*next, record.clone()));
                *next += 1;
            }
        }
        Ok(placed)
    }

    fn note_saved(&mut self, change: &Change) {
        let mut state = self.shared.state();
        state.commands.saved(&change.commands);
        for handle in &change.losses_done {
            state.losses_done.remove(handle);
            self.handed.values_mut().for_each(|h| h.retain(|known| known != handle));
        }
        for (key, value) in &change.state {
            match (key.as_str(), value) {
                ("boots", _) => self.saved_boots = state.boots.clone(),
                ("epochs", _) => self.epochs_saved = true,
                (key, value) => {
                    let name = key.trim_start_matches("uplink:");
                    match value.as_deref().and_then(super::identity::unseal) {
                        Some(account) => drop(self.saved.insert(name.to_owned(), account)),
                        None => drop(self.saved.remove(name)),
                    }
                }
            }
        }
        if change.last.is_some() {
            self.latest_due = Tick::now() + LATEST_EVERY;
        }
    }

    /// The transaction is durable: everybody may know.
    pub(super) fn committed(&mut self, line: Line, took: Duration) {
        let hand = self.hand.take();
        self.attempted = None;
        self.doomed = RangeSet::default();
        let records = std::mem::take(&mut self.records);
        if let Some(hand) = &hand {
            self.remember(hand);
        }
        {
            let mut file = self.shared.head();
            let mut state = self.shared.state();
            if let Some(hand) = hand {
                state.present.insert(hand.range);
                state.hand = line.next..line.next;
            }
            state.stored = line.next;
            state.bound_saved = line.bound;
            state.figures.commits += 1;
            if state.figures.commit_ms.len() >= DURATIONS {
                state.figures.commit_ms.pop_front();
            }
            state.figures.commit_ms.push_back(took.as_secs_f64() * 1000.0);
            let head = self.shared.head_now(&state);
            drop(state);
            self.shared.write_head(&mut file, &head);
        }
        self.shared.stored.send_if_modified(|n| std::mem::replace(n, line.next) != line.next);
        self.line = line;
        for record in records {
            // Nobody listening is fine: the record is stored.
            let _ = self.shared.events.send(record);
        }
    }

    fn remember(&mut self, hand: &Hand) {
        let state = self.shared.state();
        for (seq, reading) in hand.range.clone().zip(&hand.readings) {
            let id = Id { epoch: state.epoch, seq };
            let record = state.record(id, reading, state.boot, (0, false));
            self.latest.note(record);
        }
    }

    /// Sizes and the oldest readings, for limits, status and ledgers.
    fn measure(&mut self, limits: &Limits) -> Result<(), Trouble> {
        let Some(log) = &self.log else { return Ok(()) };
        let usage = log.usage()?;
        if !log.in_place() {
            return Err(Trouble::Disk("the database file was removed or replaced while it was open".into()));
        }
        let budget = limits.max_size.saturating_sub(limits.wal());
        if usage.file > budget && usage.reusable > 0 {
            log.shrink((usage.file - budget).min(1 << 20))?;
        }
        let firsts: Vec<(String, Option<u64>)> = {
            let mut state = self.shared.state();
            state.figures.bytes = usage.file;
            state.figures.wal = log.wal_bytes();
            state.figures.used = usage.file.saturating_sub(usage.reusable);
            let first = |name: &String| state.pending(name).first().map(|r| r.start);
            let all = (String::new(), state.present.first());
            state.accounts.keys().map(|n| (n.clone(), first(n))).chain([all]).collect()
        };
        for (name, first) in firsts {
            let known = self.shared.state().oldest.get(&name).map(|m| m.range.clone());
            match (first, known) {
                (Some(first), Some(range)) if range.contains(&first) => {}
                (Some(first), _) => {
                    if let Some(row) = log.rows(first..first + 1, 1)?.first() {
                        let at = BootMs(row.times[0]);
                        let moment = Moment { range: row.range(), boot: row.boot, at };
                        self.shared.state().oldest.insert(name, moment);
                    }
                }
                (None, _) => drop(self.shared.state().oldest.remove(&name)),
            }
        }
        Ok(())
    }

    /// Undelivered loss records of an uplink. From now on nothing is merged into them.
    pub(super) fn losses(&mut self, uplink: &str, most: usize) -> Result<Vec<(u64, LossRecord)>, Trouble> {
        let Some(log) = &self.log else { return Ok(Vec::new()) };
        let mut rows = log.losses(uplink, most.min(bounds::STORE_LOSSES * 2))?;
        let state = self.shared.state();
        rows.retain(|(handle, _)| !state.losses_done.contains(handle));
        drop(state);
        let handed = self.handed.entry(uplink.to_owned()).or_default();
        handed.extend(rows.iter().map(|(handle, _)| *handle));
        Ok(rows)
    }
}

fn described(state: &State, block: &Block) -> Vec<(String, crate::message::WallMs)> {
    let place = |r: &Reading| state.place(block.head.boot, r.at).unwrap_or_default().0;
    block.readings.iter().map(|r| (r.point.path(), place(r))).collect()
}

/// Present numbers that every uplink has settled. Nothing if there is no uplink: then the log is history.
fn passed_by_all(state: &State) -> Vec<Range<u64>> {
    if state.accounts.is_empty() {
        return Vec::new();
    }
    let mut wanted = RangeSet::default();
    for account in state.accounts.values() {
        for range in state.present.iter() {
            for part in account.open(range) {
                wanted.insert(part);
            }
        }
    }
    state.present.minus(&wanted)
}

fn free_disk(dir: &std::path::Path) -> Option<u64> {
    let v = rustix::fs::statvfs(dir).ok()?;
    Some(v.f_bavail.saturating_mul(v.f_frsize))
}
