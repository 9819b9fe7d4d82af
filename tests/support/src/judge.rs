//! The judge of the outside ledger: what the field served and what the cloud heard, held against the
//! promises. It knows nothing of the gateway's insides.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::messages::{Lane, Loss, Reading};
use crate::plant::Serve;

/// What the gateway says of itself, per uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// Readings stored since the uplink exists.
    pub taken: u64,
    /// Acknowledged by the cloud.
    pub delivered: u64,
    /// Waiting.
    pub queued: u64,
    /// Declared lost.
    pub lost: u64,
}

impl Account {
    /// Whether promise 3 holds at this instant.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.taken == self.delivered + self.queued + self.lost
    }
}

/// What the judge found. `faults` must be empty; the rest is for the record.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Readings heard, repeats included.
    pub heard: usize,
    /// Different `(epoch, seq)` heard.
    pub distinct: usize,
    /// Readings heard again, with the same content.
    pub repeats: usize,
    /// First heard on the history lane.
    pub history: usize,
    /// Epochs, in order of appearance, each with its first and last number.
    pub epochs: Vec<(String, u64, u64)>,
    /// Numbers that loss records declare.
    pub declared: u64,
    /// Numbers that were heard although they were declared lost: they were on their way when the link broke, their
    /// acknowledgement never came, and they could not be kept until they were sent again; or the declaration is a bound.
    pub declared_but_heard: usize,
    /// Not of good quality.
    pub not_good: usize,
    /// Broken promises.
    pub faults: Vec<String>,
}

/// Messages that may be on their way at a time: what mosquitto grants by default.
const IN_FLIGHT: usize = 20;

/// How many faults of one kind are told.
const TOLD: usize = 5;

/// Adds faults, the first few in words.
fn tell(faults: &mut Vec<String>, what: &str, found: &[String]) {
    if !found.is_empty() {
        let some: Vec<&str> = found.iter().take(TOLD).map(String::as_str).collect();
        faults.push(format!("{} {what}: {}", found.len(), some.join("; ")));
    }
}

/// Judges what one cloud heard: numbering, repeats and order (promises 1, 3, 4, 5).
/// `strict`: one lane, and in it everything oldest first.
#[must_use]
pub fn judge(readings: &[Reading], losses: &[Loss], strict: bool) -> Verdict {
    let mut verdict = Verdict { heard: readings.len(), ..Verdict::default() };
    let mut first: HashMap<(&str, u64), &Reading> = HashMap::new();
    let mut epochs: Vec<&str> = Vec::new();
    let (mut different, mut disorder) = (Vec::new(), Vec::new());
    // Order is judged by place in the numbering: the epoch, whose text begins with the count of the starts, then the
    // number. (What an epoch left behind may be heard after the live readings of the next one.)
    let mut newest: HashMap<(&str, Lane), (&str, u64, i64)> = HashMap::new();
    let mut newest_of_all = ("", 0);
    for reading in readings {
        if let Some(before) = first.get(&(reading.epoch.as_str(), reading.seq)) {
            verdict.repeats += 1;
            if !same(before, reading) {
                different.push(format!("{before:?} then {reading:?}"));
            }
            continue;
        }
        first.insert((&reading.epoch, reading.seq), reading);
        verdict.history += usize::from(reading.lane == Lane::History);
        verdict.not_good += usize::from(reading.quality != "good");
        let life = reading.epoch.as_str();
        if !epochs.contains(&life) {
            epochs.push(life);
        }
        let place = (life, reading.seq, reading.ts_ms);
        if let Some(before) = newest.insert((&reading.name, reading.lane), place)
            && ((before.0, before.1) > (place.0, place.1) || before.2 > place.2)
        {
            disorder.push(format!("{} {:?}: {before:?} then {place:?}", reading.name, reading.lane));
        }
        if strict && (newest_of_all > (life, reading.seq) || reading.lane == Lane::History) {
            disorder.push(format!("strict: {newest_of_all:?} then {reading:?}"));
        }
        newest_of_all = newest_of_all.max((life, reading.seq));
    }
    verdict.distinct = first.len();
    tell(&mut verdict.faults, "repeats differ from the first", &different);
    tell(&mut verdict.faults, "readings out of order", &disorder);
    numbering(&mut verdict, &epochs, first.keys().copied().collect(), losses);
    verdict
}

/// Every number between the first and the last was heard or declared lost, and not both. The numbers go on
/// counting over epochs, so a gap between two epochs is a hole too.
fn numbering(verdict: &mut Verdict, epochs: &[&str], heard: BTreeSet<(&str, u64)>, losses: &[Loss]) {
    let (mut holes, mut false_ones) = (Vec::new(), Vec::new());
    let mut known: BTreeSet<u64> = heard.iter().map(|(_, seq)| *seq).collect();
    false_ones.extend(scattered(&heard, losses));
    for loss in losses.iter().filter(|loss| loss.is_scattered()) {
        verdict.declared += loss.count;
        known.extend(loss.seq.0..=loss.seq.1);
    }
    for loss in losses.iter().filter(|loss| loss.count > 0 && !loss.is_scattered()) {
        let (epoch, (from, to)) = (loss.epoch.as_str(), loss.seq);
        let size = to.saturating_sub(from) + 1;
        if !loss.bound && size != loss.count {
            false_ones.push(format!("{loss:?} counts {} for {size} numbers", loss.count));
        }
        let arrived: Vec<u64> = heard.range((epoch, from)..=(epoch, to)).map(|(_, seq)| *seq).collect();
        let given_up = matches!(loss.reason.as_str(), "expired" | "queue_full" | "purged");
        // A bound says "at most these": of what was lent to the uplinks while the disk was out of order, before a kill, or of
        // what was under way before a kill and a restore, some may have arrived.
        let at_most = loss.bound && matches!(loss.reason.as_str(), "unclean_start" | "rollback");
        if at_most || (given_up && arrived.len() <= IN_FLIGHT) {
            verdict.declared_but_heard += arrived.len();
        } else {
            false_ones.extend(arrived.iter().map(|seq| format!("{epoch}/{seq} was heard, and {loss:?}")));
        }
        verdict.declared += loss.count;
        known.extend(from..=to);
    }
    let mut previous: Option<u64> = None;
    for seq in &known {
        if let Some(previous) = previous.filter(|p| p + 1 < *seq) {
            holes.push(format!("{} to {}", previous + 1, seq - 1));
        }
        previous = Some(*seq);
    }
    for epoch in epochs {
        let numbers = || heard.iter().filter(|(e, _)| e == epoch).map(|(_, seq)| *seq);
        let ends = (numbers().min().unwrap_or(0), numbers().max().unwrap_or(0));
        verdict.epochs.push(((*epoch).to_owned(), ends.0, ends.1));
    }
    tell(&mut verdict.faults, "holes in the numbering that nobody declared", &holes);
    tell(&mut verdict.faults, "declarations of loss that are not true", &false_ones);
}

/// What is not true of scattered losses: that of their numbers so many have not arrived and are in no other record.
fn scattered(heard: &BTreeSet<(&str, u64)>, losses: &[Loss]) -> Option<String> {
    let (apart, whole): (Vec<&Loss>, Vec<&Loss>) = losses.iter().partition(|loss| loss.is_scattered());
    let elsewhere = |place: &(&str, u64)| {
        whole.iter().any(|loss| loss.epoch == place.0 && (loss.seq.0..=loss.seq.1).contains(&place.1))
    };
    let places =
        apart.iter().flat_map(|loss| (loss.seq.0..=loss.seq.1).map(|seq| (loss.epoch.as_str(), seq)));
    let lost: BTreeSet<(&str, u64)> = places.filter(|p| !heard.contains(p) && !elsewhere(p)).collect();
    let counted: u64 = apart.iter().map(|loss| loss.count).sum();
    let found = lost.len() as u64;
    (found != counted)
        .then(|| format!("scattered losses count {counted}, and {found} numbers are missing there"))
}

/// Whether two readings with the same triple have the same content. The lane may differ.
fn same(a: &Reading, b: &Reading) -> bool {
    (&a.name, a.ts_ms, &a.value, &a.quality, &a.reason) == (&b.name, b.ts_ms, &b.value, &b.quality, &b.reason)
}

/// Readings that carry the same triple but are not the same. `others` are from another broker of the same
/// gateway; what it republished as stale is left out.
#[must_use]
pub fn contradictions(readings: &[Reading], others: &[Reading]) -> Vec<String> {
    let known: HashMap<(&str, u64), &Reading> =
        readings.iter().map(|r| ((r.epoch.as_str(), r.seq), r)).collect();
    let mut seen: HashMap<(&str, u64), &Reading> = HashMap::new();
    let mut found = Vec::new();
    for other in others.iter().filter(|r| r.reason != "stale") {
        let triple = (other.epoch.as_str(), other.seq);
        for before in [known.get(&triple), seen.get(&triple)].into_iter().flatten() {
            if !same(before, other) {
                found.push(format!("{before:?} and {other:?}"));
            }
        }
        seen.insert(triple, other);
    }
    found
}

/// Readings that were seen on the gateway's own broker and have neither arrived nor been declared lost.
#[must_use]
pub fn unaccounted(heard: &[Reading], losses: &[Loss], local: &[Reading]) -> Vec<String> {
    let arrived: BTreeSet<(&str, u64)> = heard.iter().map(|r| (r.epoch.as_str(), r.seq)).collect();
    let declared = |r: &Reading| {
        losses.iter().any(|loss| {
            let named = || loss.points.as_ref().is_none_or(|points| points.contains(&r.name));
            let there = loss.epoch == r.epoch && (loss.seq.0..=loss.seq.1).contains(&r.seq);
            there && (!loss.is_scattered() || named())
        })
    };
    let missing = local.iter().filter(|r| !arrived.contains(&(r.epoch.as_str(), r.seq)) && !declared(r));
    missing.map(|r| format!("{r:?}")).collect()
}

/// When something happened that excuses missing values: from, to, seconds since 1970.
pub type Excuse = (f64, f64);

/// Holds good readings against the values that the field served (promises 1, 2, 6, 8): each reading is a value
/// that was served, taken when it was served, and stands for no other; each value served is there, except
/// in the excused times. Returns how many values are missing there, and the faults.
#[must_use]
pub fn held_against(
    served: &BTreeMap<String, Vec<Serve>>,
    readings: &[Reading],
    excuses: &[Excuse],
    tolerance_s: f64,
) -> (usize, Vec<String>) {
    let (mut invented, mut doubled, mut late, mut missing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut taken: HashMap<(&str, u64), (&str, u64)> = HashMap::new();
    let mut doubts: HashMap<&str, Vec<f64>> = HashMap::new();
    for reading in readings {
        let Some(value) = reading.value.as_u64().filter(|_| reading.quality == "good") else {
            doubts.entry(&reading.name).or_default().push(reading.ts_ms as f64 / 1e3);
            continue;
        };
        // Counters count from 1 without a gap, so a value is its own place in the list.
        let place = usize::try_from(value).ok().and_then(|n| n.checked_sub(1));
        let serve = served.get(&reading.name).and_then(|all| all.get(place?)).filter(|s| s.value == value);
        let Some(serve) = serve else {
            invented.push(format!("{reading:?}"));
            continue;
        };
        let triple = (reading.epoch.as_str(), reading.seq);
        if taken.insert((&reading.name, value), triple).is_some_and(|before| before != triple) {
            doubled.push(format!("{reading:?}"));
        }
        let off = reading.ts_ms as f64 / 1e3 - serve.at;
        if off.abs() > tolerance_s {
            late.push(format!("{} is {off:.3} s off: {reading:?}", reading.name));
        }
    }
    let mut excused = 0;
    for (name, all) in served {
        for serve in all.iter().filter(|s| !taken.contains_key(&(name.as_str(), s.value))) {
            let doubted =
                doubts.get(name.as_str()).is_some_and(|d| d.iter().any(|t| (t - serve.at).abs() < 2.0));
            if doubted || excuses.iter().any(|(from, to)| (*from..=*to).contains(&serve.at)) {
                excused += 1;
            } else {
                missing.push(format!("{name} = {} served at {:.3}", serve.value, serve.at));
            }
        }
    }
    let mut faults = Vec::new();
    tell(&mut faults, "readings that the field never served", &invented);
    tell(&mut faults, "readings that stand for one and the same value", &doubled);
    tell(&mut faults, "readings whose time is not when they were served", &late);
    tell(&mut faults, "values served but never delivered", &missing);
    (excused, faults)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
