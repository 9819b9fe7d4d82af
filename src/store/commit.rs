//! One commit: pack the group, make room, write down what changed, all in one transaction.
//!
//! What is decided here is decided in RAM first (under the lock, so that the ledger balances at every
//! instant) and stays decided: if the transaction fails, the next one carries the same decisions.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::block;
use super::identity::seal;
use super::last;
use super::log::{Change, Row};
use super::loss::{self, Facts};
use super::quota::Limits;
use super::ranges::RangeSet;
use super::recovery::Line;
use super::sound::HOME;
use super::state::{self, Moment, Tick};
use super::tail::Tail;
use super::trouble::Trouble;
use super::writer::{Hand, LATEST_EVERY, Writer};
use crate::bounds;
use crate::message::{BootMs, Entry, Id, LossRecord, PointKey};

/// Before a commit, so that nothing is written into the void, and after it.
const GONE: &str = "the database file was removed or replaced while it was open";
/// Places of the log that are read in one commit to name what was given up. What is more is declared without names.
const LOOK_UPS: usize = 2 * bounds::STORE_LOSS_SPANS;
/// Commits whose duration is remembered.
const DURATIONS: usize = 256;

impl Writer {
    /// Commits what there is, at most one group. `clean`: mark the line as ended in order.
    ///
    /// # Errors
    /// The outcome is unknown; the connection must not be used again.
    pub(super) fn commit(&mut self, clean: bool) -> Result<(), Trouble> {
        let started = Tick::now();
        self.shared.state().busy_since = Some(started);
        if self.log.as_ref().is_some_and(|log| !log.in_place()) {
            return Err(Trouble::Disk(GONE.into()));
        }
        self.observe_clock();
        self.recount()?;
        self.settle_later()?;
        self.search()?;
        self.look_up()?;
        self.make_room()?;
        self.pack()?;
        let (line, change) = self.change(clean)?;
        self.attempted = Some(line.commit);
        let Some(log) = &mut self.log else { return Err(Trouble::Disk("no database".into())) };
        log.commit(&line, &change)?;
        let limits = self.limits();
        self.note_saved(&change);
        self.committed(line, started.elapsed());
        let wal = self.wal_limit(&limits);
        let Some(log) = &mut self.log else { return Ok(()) };
        let written = log.tend_wal(wal)?;
        self.shared.state().figures.bytes_written += written;
        self.measure(&limits)
    }

    /// Fills in what is known of readings that were rejected and are still stored.
    fn look_up(&mut self) -> Result<(), Trouble> {
        let mut places = 0;
        loop {
            // Only this thread takes drafts out, and others only add at the end or extend one that is not looked up yet:
            // the positions hold.
            let next = {
                let mut state = self.shared.state();
                let next = state.drafts.iter_mut().enumerate().find(|(_, draft)| draft.look_up);
                let next = next.filter(|(_, draft)| places + draft.numbers().len() <= LOOK_UPS);
                next.map(|(n, draft)| {
                    draft.look_up = false;
                    (n, draft.numbers())
                })
            };
            let Some((n, ranges)) = next else { return Ok(()) };
            places += ranges.len();
            let mut facts: Option<Facts> = None;
            for range in ranges {
                let part = self.facts(range)?;
                match &mut facts {
                    Some(facts) => facts.join(part),
                    None => facts = Some(part),
                }
            }
            if let Some(draft) = self.shared.state().drafts.get_mut(n) {
                draft.facts = facts.unwrap_or_default();
            }
        }
    }

    fn facts(&mut self, range: Range<u64>) -> Result<Facts, Trouble> {
        if range.end - range.start > bounds::STORE_GROUP as u64 {
            return Ok(Facts::default());
        }
        let chunk = self.read(None, range.clone(), bounds::STORE_READ)?;
        if (chunk.count() as u64) < range.end - range.start {
            return Ok(Facts::default());
        }
        let points = chunk.records.iter().map(|r| (r.point.path(), r.ts));
        let topics = chunk.messages.iter().map(|m| (m.message.topic.to_string(), m.ts));
        Ok(Facts::of(points.chain(topics)))
    }

    /// Takes a group into the hand and packs it, together with the newest block while that is small; a hand that is
    /// packed already stays.
    fn pack(&mut self) -> Result<(), Trouble> {
        if self.hand.as_ref().is_some_and(|hand| !hand.blocks.is_empty()) {
            return Ok(());
        }
        if self.hand.is_none() && self.sparing {
            return Ok(());
        }
        let (mut head, tail) = {
            let mut file = self.shared.head();
            let mut state = self.shared.state();
            if self.hand.is_none() {
                let numbered = state.next;
                let entries = state.grab();
                if entries.is_empty() {
                    return Ok(());
                }
                let range = state.hand.clone();
                self.hand = Some(Hand { range, entries, blocks: Vec::new(), tail: None });
                if state.next > numbered {
                    let head = self.shared.head_now(&state);
                    drop(state);
                    self.shared.write_head(&mut file, &head);
                    state = self.shared.state();
                }
            }
            let (offset, synced) = state.boots.get(&state.boot).map_or((0, false), super::times::Boot::now);
            let head =
                block::Head { first: state.hand.start, epoch: state.epoch, boot: state.boot, offset, synced };
            // What was dropped of it meanwhile must not come back.
            let whole = |tail: &Tail| state.present.missing(tail.range()).is_empty();
            (head, self.tail.as_ref().filter(|tail| whole(tail)))
        };
        let Some(log) = &self.log else { return Err(Trouble::Disk("no database".into())) };
        let room = log.page_room();
        let Some(hand) = &mut self.hand else { return Ok(()) };
        if let Some(tail) = tail
            && let Some(entries) = tail.with(&head, &hand.entries, room)
        {
            let joined = block::Head { first: tail.first(), ..head };
            let data = block::encode(&joined, &entries)?;
            if data.len() <= room {
                hand.tail = Tail::of(joined, &entries, room - data.len());
                hand.blocks.push((row(&joined, &entries, data.len()), data));
                return Ok(());
            }
        }
        let mut rest = &hand.entries[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(block::piece(rest));
            let data = block::encode(&head, piece)?;
            hand.tail = Tail::of(head, piece, room.saturating_sub(data.len()));
            hand.blocks.push((row(&head, piece, data.len()), data));
            head.first += piece.len() as u64;
            rest = after;
        }
        Ok(())
    }

    /// Everything that differs from what the database holds.
    fn change(&mut self, clean: bool) -> Result<(Line, Change), Trouble> {
        let pending = self.thinner.pending.as_ref();
        let mut change = Change {
            thinned: pending.map(|p| (p.row.clone(), p.data.clone(), p.gone)),
            amend: self.thinner.amend.clone(),
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
                    account.heard(&record);
                }
            }
            let mut present = state.present.clone();
            present.insert(state.hand.clone());
            let boot = state.boot;
            let state = &mut *state;
            for account in state.accounts.values_mut().chain(state.parked.values_mut()) {
                account.forget_passed(boot);
            }
            for (name, account) in state.accounts.iter().chain(&state.parked) {
                let account = account.below(state.ring_range().start);
                if self.saved.get(name) != Some(&account) {
                    change.state.push((format!("uplink:{name}"), Some(seal(&account)?)));
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
                change.state.push((HOME.into(), Some(seal(&self.line.home)?)));
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
                lives: self.line.lives.clone(),
                docket: state.post.docket.or(self.line.docket),
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
                && loss::merge(old, record, crowded)
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
            // Nothing is missing, and nothing there that it could join.
            if !merged && record.count > 0 {
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
                (HOME, _) => {}
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
        self.thinned();
        self.doomed = RangeSet::default();
        self.doomed_bytes = 0;
        let records = std::mem::take(&mut self.records);
        let shown = std::mem::take(&mut self.shared.state().shown);
        for correction in &shown {
            self.latest.correct(correction);
            self.latest_due = Tick::now();
        }
        if let Some(hand) = &hand {
            self.remember(hand);
        }
        {
            let mut file = self.shared.head();
            let mut state = self.shared.state();
            if let Some(hand) = hand {
                self.tail = hand.tail;
                state
                    .post
                    .became_stored(hand.entries.iter().filter(|e| e.message().is_some()).count() as u64);
                state.present.insert(hand.range);
                state.hand = line.next..line.next;
            }
            (state.stored, state.proven) = (line.next, line.next);
            state.readable = state.readable.max(line.next);
            state.busy_since = None;
            state.bound_saved = line.bound;
            if state.post.is_waiting() {
                state.dirty_since.get_or_insert_with(Tick::now);
            }
            state.figures.commits += 1;
            if state.figures.commit_ms.len() >= DURATIONS {
                state.figures.commit_ms.pop_front();
            }
            state.figures.commit_ms.push_back(took.as_secs_f64() * 1000.0);
            let head = self.shared.head_now(&state);
            drop(state);
            self.shared.write_head(&mut file, &head);
        }
        self.shared.tell(line.next);
        self.line = line;
        for record in records.into_iter().filter(|record| record.count > 0) {
            // Nobody listening is fine: the record is stored.
            let _ = self.shared.events.send(record);
        }
        for correction in shown {
            let _ = self.shared.corrections.send(correction);
        }
    }

    /// The latest value of each point in the hand.
    fn remember(&mut self, hand: &Hand) {
        let (epoch, boots, boot) = {
            let state = self.shared.state();
            (state.epoch, state.boots.clone(), state.boot)
        };
        // A group holds most points several times, and only the last one counts.
        let mut seen = HashSet::<*const PointKey, foldhash::fast::RandomState>::default();
        for (seq, entry) in hand.range.clone().rev().zip(hand.entries.iter().rev()) {
            let Some(reading) = entry.reading() else { continue };
            if seen.insert(Arc::as_ptr(&reading.point)) {
                let time = state::time_of(&boots, reading.at, boot, (0, false));
                self.latest.note(state::placed(Id { epoch, seq }, reading, time));
            }
        }
    }

    /// Sizes and the oldest readings, for limits, status and ledgers.
    fn measure(&mut self, limits: &Limits) -> Result<(), Trouble> {
        let Some(log) = &self.log else { return Ok(()) };
        let usage = log.usage()?;
        if !log.in_place() {
            return Err(Trouble::Disk(GONE.into()));
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

fn row(head: &block::Head, entries: &[Entry], bytes: usize) -> Row {
    let times = entries.iter().map(|e| e.at().0);
    let times = [times.clone().min().unwrap_or(0), times.max().unwrap_or(0)];
    Row { first: head.first, count: entries.len() as u64, boot: head.boot, times, bytes: bytes as u64 }
}
