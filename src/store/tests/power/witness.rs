//! The ledger outside of the store, and what it has to say of a store that comes back.
//!
//! Promises: it knows every reading that was given to the store, and for each uplink what was acknowledged and which
//! losses were heard of; [`Ledger::judge`] opens a directory as the daemon would and finds every number in exactly one
//! place, or says which it does not find. It believes nothing but what [`Store`] and [`Drain`] say in public.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use driver_api::{Quality, Value};

use super::super::*;
use super::Facts;
use crate::message::{Docket, Epoch, Forwarded, ForwardedRecord, LossReason};
use crate::store::Taken;
use crate::store::ranges::RangeSet;

pub const UPLINKS: [&str; 2] = ["cloud", "plant"];

#[derive(Debug, PartialEq)]
struct Given {
    epoch: Epoch,
    ts: WallMs,
    point: Arc<PointKey>,
    value: Option<Value>,
    quality: Quality,
}

/// What one uplink's broker knows.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// Readings it acknowledged.
    pub acked: RangeSet,
    /// Numbers of the loss records it acknowledged.
    pub told: RangeSet,
    /// Those of them that say of how many numbers in a range the readings were thinned out.
    pub thinned: Vec<(Range<u64>, u64)>,
}

impl Said {
    /// It acknowledged this record.
    pub fn hear(&mut self, record: &LossRecord) {
        let range = numbers(record);
        if record.reason != LossReason::Thinned {
            self.told.insert(range);
            return;
        }
        // Told again after a cut, it may have grown.
        self.thinned.retain(|(old, _)| old.end <= range.start || range.end <= old.start);
        self.thinned.push((range, record.count));
    }
}

/// The points that may be thinned, where a life has that.
pub fn fast() -> Vec<(String, String, Duration)> {
    (0..6).map(|n| (key(n).device.clone(), key(n).point.clone(), Duration::from_millis(1))).collect()
}

/// A message of another device; the number says what is in it.
pub fn letter(n: u64) -> Arc<Forwarded> {
    let message = super::super::forwarding::letter(n, ["z/lamp", "z/door", "other"][(n % 3) as usize]);
    let payload = format!("{n} {}", "x".repeat((n * 37 % 900) as usize));
    Arc::new(Forwarded { payload: payload.into(), ..(*message).clone() })
}

/// Which message it is; `None`: none that was ever given.
pub fn letter_of(record: &ForwardedRecord) -> Option<u64> {
    let text = std::str::from_utf8(&record.message.payload).ok()?;
    let n = text.split(' ').next()?.parse().ok()?;
    (record.message == letter(n)).then_some(n)
}

#[derive(Debug, Default)]
pub struct Ledger {
    given: BTreeMap<u64, Given>,
    epochs: BTreeSet<Epoch>,
}

/// What was counted over all cuts.
#[derive(Debug, Default)]
pub struct Tally {
    pub judged: u64,
    pub unopenable: u64,
    /// Stored before the cut, and declared lost by the start after it.
    pub stored_lost: u64,
    /// Stored before the cut, and nobody says where it is.
    pub undeclared: u64,
    /// The same on a lying disk, but it was stored after the last mark, and more than the bound ago.
    pub unheard: u64,
    pub wrong: u64,
    /// Numbers or identities that were given out twice.
    pub doubled: u64,
    pub over_bound: u64,
    /// In two places at once, or arithmetic that does not add up.
    pub unbalanced: u64,
    /// Readings that came back as they were.
    pub returned: u64,
    /// Numbers that a start declared, and how many of those were acknowledged before.
    pub declared: u64,
    pub declared_acked: u64,
    pub set_aside: u64,
    /// Messages that came back as they were.
    pub messages: u64,
    /// Readings that were thinned out.
    pub thinned: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        let Self { judged, unopenable, stored_lost, undeclared, wrong, doubled, .. } = other;
        self.judged += judged;
        self.unopenable += unopenable;
        self.stored_lost += stored_lost;
        self.undeclared += undeclared;
        self.wrong += wrong;
        self.doubled += doubled;
        self.unheard += other.unheard;
        self.over_bound += other.over_bound;
        self.unbalanced += other.unbalanced;
        self.returned += other.returned;
        self.declared += other.declared;
        self.declared_acked += other.declared_acked;
        self.set_aside += other.set_aside;
        self.messages += other.messages;
        self.thinned += other.thinned;
    }
}

impl Ledger {
    /// The store gave these numbers to these readings.
    pub fn note(&mut self, taken: Taken, readings: &[Reading], offset: i64) {
        for (id, reading) in taken.ids().zip(readings) {
            self.epochs.insert(id.epoch);
            let given = Given {
                epoch: id.epoch,
                ts: WallMs(reading.at.0.cast_signed() + offset),
                point: Arc::clone(&reading.point),
                value: reading.value().cloned(),
                quality: reading.quality(),
            };
            assert!(self.given.insert(id.seq, given).is_none(), "{id:?} was given out twice");
        }
    }

    /// Whether this is what was taken under this identity.
    pub fn knows(&self, record: &Record) -> bool {
        self.given.get(&record.id.seq).is_some_and(|given| {
            let arrived = Given {
                epoch: record.id.epoch,
                ts: record.ts,
                point: Arc::clone(&record.point),
                value: record.value.clone(),
                quality: record.quality,
            };
            *given == arrived
        })
    }

    /// Whether this may have been thinned out.
    fn may_be_thinned(&self, n: u64) -> bool {
        self.given.get(&n).is_some_and(|given| {
            let number = matches!(given.value, Some(Value::Int(_) | Value::UInt(_) | Value::Float(_)));
            number && given.quality == Quality::Good && (0..6).any(|n| key(n).point == given.point.point)
        })
    }

    /// Looks at a store that was just opened after `facts`, and uses it a little. What is wrong is counted, and said.
    pub async fn judge(
        &self,
        store: &Store,
        recovery: &Recovery,
        facts: &Facts,
        tally: &mut Tally,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        tally.judged += 1;
        if let Some(why) = &recovery.ram_only {
            tally.unopenable += 1;
            return vec![format!("it lives in RAM: {why}")];
        }
        // What was said to be stored has its docket there, unless one of a later life took its place.
        let last = facts.kept.last().map(|n| facts.dockets[n]);
        let (found, none) = (store.last_docket(), Docket { life: 0, n: 0 });
        if last.is_some_and(|last| found.unwrap_or(none) < last) && !facts.lying {
            tally.wrong += 1;
            wrong.push(format!("{last:?} was stored, and the last one is {found:?}"));
        }
        for uplink in UPLINKS {
            let nobody = Said::default();
            let said = facts.said.get(uplink).unwrap_or(&nobody);
            // What is found out while one reads is declared for all.
            patient(store, uplink).await;
            self.judge_uplink(store, recovery, facts, (uplink, said), tally, &mut wrong).await;
        }
        let bound = if facts.burst { u64::MAX } else { facts.bound };
        let mut over = |what: String| {
            tally.over_bound += 1;
            wrong.push(what);
        };
        if facts.next - facts.stored.min(facts.next) > bound {
            over(format!(
                "{}..{} was taken and not stored, over the bound {bound}",
                facts.stored, facts.next
            ));
        }
        let first = recovery.losses.iter().filter(|l| l.uplink == UPLINKS[0]);
        let cut: u64 = first.filter(|l| l.reason == LossReason::PowerCut).map(|l| l.count).sum();
        if cut > bound && !facts.lying {
            over(format!("{cut} declared for the cut, over the bound {bound}"));
        }
        let next = store.status().next_seq;
        let batch = readings(0..5);
        let taken = store.take(batch.clone());
        let old = self.epochs.contains(&taken.first.epoch);
        // Beyond the bound of a lying disk nobody remembers which numbers were given out; the epoch is another.
        if old || taken.first.seq < next || (next < facts.next && !facts.lying && !facts.burst) {
            tally.doubled += 1;
            wrong.push(format!("{:?} was given out again; {} was next", taken.first, facts.next));
        }
        tally.set_aside += store.status().set_aside.len() as u64;
        for attempt in 0.. {
            if store.flush().await.is_ok() {
                break;
            }
            if !facts.lying || attempt > 1000 {
                tally.unopenable += 1;
                wrong.push(format!("it cannot write: {:?}", store.status().last_error));
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        wrong
    }

    async fn judge_uplink(
        &self,
        store: &Store,
        recovery: &Recovery,
        facts: &Facts,
        (uplink, said): (&str, &Said),
        tally: &mut Tally,
        wrong: &mut Vec<String>,
    ) {
        let drain = store.drain(uplink).expect("configured");
        let (records, messages, waiting) = patiently(store, uplink).await;
        let mut here = RangeSet::default();
        let mut there = BTreeSet::new();
        for record in &messages {
            let seq = record.id.seq;
            let news = letter_of(record).is_some_and(|n| there.insert(n));
            // On a disk that lies a message's number may be given again, as a reading's.
            if uplink != UPLINKS[0] || !news || (self.given.contains_key(&seq) && !facts.lying) {
                tally.wrong += 1;
                wrong.push(format!("{uplink}: {record:?} is no message that it should get"));
            }
            here.insert(seq..seq + 1);
        }
        tally.messages += messages.len() as u64;
        let mut last = 0;
        for record in records {
            if !self.knows(&record) || record.id.seq <= last {
                tally.wrong += 1;
                let seq = record.id.seq;
                wrong
                    .push(format!("{uplink}: {record:?} after {last}; given was {:?}", self.given.get(&seq)));
            }
            last = record.id.seq;
            tally.returned += 1;
            here.insert(last..last + 1);
        }
        // After a roll-back what was told may be found again, and is offered once more.
        let mut lost = if facts.lying { RangeSet::default() } else { said.told.clone() };
        let mut thinned = said.clone();
        for record in &waiting {
            let range = numbers(record);
            if record.reason == LossReason::Thinned {
                thinned.hear(record);
                continue;
            }
            lost.insert(range.clone());
            let known = self
                .given
                .range(range.start..range.end.min(facts.next).max(range.start))
                .find(|(_, g)| g.epoch.to_string() != record.epoch);
            // What goes beyond the bound in a burst is given again after a cut, in another epoch.
            let again = facts.lying || (facts.burst && record.bound);
            if record.count != range.end - range.start || (known.is_some() && !again) {
                tally.unbalanced += 1;
                wrong.push(format!("{uplink}: {record:?} is not what was given: {known:?}"));
            }
        }
        if uplink == UPLINKS[0] {
            // What was stored, or is by its docket, and is neither here nor arrived is among the numbers that are declared and no reading's.
            let mut declared = lost.clone();
            for range in said.told.iter() {
                declared.insert(range);
            }
            let readings: u64 = declared.iter().map(|range| self.given.range(range).count() as u64).sum();
            let wanted = |n: &&u64| letter(**n).topic.starts_with("z/");
            let found = store.last_docket();
            let mut stored = facts.kept.clone();
            stored.extend(facts.dockets.iter().filter(|(_, docket)| docket.is_in(found)).map(|(n, _)| n));
            let gone =
                stored.iter().filter(wanted).filter(|n| !there.contains(n) && !facts.arrived.contains(n));
            let gone = gone.count() as u64;
            if gone > declared.len() - readings && !facts.lying {
                tally.undeclared += gone;
                wrong.push(format!("{gone} messages were stored and are gone; {declared:?} is declared"));
            }
        }
        let ledger = drain.ledger();
        let pending: RangeSet = drain.pending().into_iter().collect();
        // Open, but not there any more: what was thinned out.
        let holes: RangeSet = pending.minus(&here).into_iter().collect();
        let thinned_out: u64 = thinned.thinned.iter().map(|(_, n)| n).sum();
        let fits = holes.iter().flatten().all(|n| self.may_be_thinned(n)) && here.minus(&pending).is_empty();
        let two = lost.iter().map(|r| pending.overlap(r).len()).sum::<usize>();
        let sums = ledger.taken == ledger.delivered + ledger.queued + ledger.lost
            && ledger.queued == here.len()
            && fits
            && (facts.lying || ledger.lost == lost.len() + thinned_out + holes.len());
        if !sums || two > 0 {
            tally.unbalanced += 1;
            wrong.push(format!("{uplink}: {ledger:?}, read {here:?}, pending {pending:?}, lost {lost:?}"));
        }
        // Every number of the line, and every one that was stored, in one place.
        let mut found = here;
        [&said.acked, &said.told, &lost, &holes].into_iter().flat_map(RangeSet::iter).for_each(|r| {
            found.insert(r);
        });
        let next = store.status().next_seq;
        for (range, n) in thinned.thinned {
            let gone = found.missing(range.clone());
            let count: u64 = gone.iter().map(|r| r.end - r.start).sum();
            let right = gone.iter().cloned().flatten().all(|n| self.may_be_thinned(n));
            if !facts.lying && (count != n || !right) {
                tally.unbalanced += 1;
                wrong.push(format!("{uplink}: {n} of {range:?} are said to be thinned, it is {gone:?}"));
            }
            gone.into_iter().for_each(|r| {
                found.insert(r);
            });
            tally.thinned += n;
        }
        tally.thinned += holes.len();
        // Numbers of messages that it does not forward are in none.
        let affair = |gap: Range<u64>| self.given.range(gap).map(|(n, _)| *n..n + 1).collect::<RangeSet>();
        let gaps = found.missing(1..next.max(facts.stored)).into_iter().flat_map(|gap| match facts.mixed {
            true => affair(gap).iter().collect::<Vec<_>>(),
            false => vec![gap],
        });
        for gap in gaps {
            // What a lying disk lost beyond the mark and the bound: there is nothing that could know of it.
            let heard = if facts.lying { next.max(facts.marked) } else { u64::MAX };
            let undeclared = gap.end.min(heard).saturating_sub(gap.start);
            tally.unheard += gap.end - gap.start - undeclared;
            tally.undeclared += undeclared;
            if undeclared > 0 {
                wrong.push(format!("{uplink}: nobody knows where {gap:?} is"));
            }
        }
        for record in recovery.losses.iter().filter(|l| l.uplink == uplink) {
            let range = numbers(record);
            let limits = matches!(record.reason, LossReason::QueueFull | LossReason::Expired);
            let acked: u64 = said.acked.overlap(range.clone()).iter().map(|r| r.end - r.start).sum();
            tally.declared += range.end - range.start;
            if !limits {
                tally.declared_acked += acked;
                let stored = said.acked.missing(range.start..range.end.min(facts.stored));
                tally.stored_lost += stored.iter().map(|r| r.end - r.start).sum::<u64>();
                if !stored.is_empty() && !facts.lying {
                    wrong.push(format!("{uplink}: stored and lost {stored:?}: {record:?}"));
                }
            }
        }
    }
}

/// Everything that is pending, and the losses that wait; again from the start if the database turns out to be damaged
/// on the way, and until what was found out then is written down.
pub async fn patient(store: &Store, uplink: &str) -> (Vec<Record>, Vec<LossRecord>) {
    let (records, _, losses) = patiently(store, uplink).await;
    (records, losses)
}

async fn patiently(store: &Store, uplink: &str) -> (Vec<Record>, Vec<ForwardedRecord>, Vec<LossRecord>) {
    let drain = store.drain(uplink).expect("configured");
    'again: for _ in 0..4000 {
        let (pending, lost) = (drain.pending(), drain.ledger().lost);
        let (mut records, mut messages) = (Vec::new(), Vec::new());
        for range in pending.clone() {
            let mut at = range.start;
            while at < range.end {
                let Ok(chunk) = drain.read(at..range.end, 4096).await else {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue 'again;
                };
                records.extend(chunk.records);
                messages.extend(chunk.messages);
                at = chunk.next;
            }
        }
        if store.flush().await.is_ok()
            && let Ok(losses) = drain.losses(1000).await
            && (pending, lost) == (drain.pending(), drain.ledger().lost)
        {
            return (records, messages, losses.into_iter().map(|(_, record)| record).collect());
        }
    }
    panic!("it cannot be read")
}

pub fn numbers(record: &LossRecord) -> Range<u64> {
    record.seq[0]..record.seq[1] + 1
}
