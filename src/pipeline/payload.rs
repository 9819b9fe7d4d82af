//! The payloads of the public contract (§3): a reading, a batch, a loss record, a refusal. Pure.
//!
//! Keys stand in the contract's order. Numbers are JSON numbers: integers exact over the whole `u64`
//! and `i64` range, floats in the shortest form that reads back the same. The same record always gives
//! the same bytes, so a repeat can be recognised as one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;

use driver_api::{Quality, Reason, Value};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};

use crate::message::{CorrectionRecord, Epoch, LossRecord, Moment, Record, WallMs};

/// The retained word of a gateway that is not there: last will and farewell.
pub const OFFLINE: &[u8] = br#"{"state":"offline"}"#;

/// The farewell of a gateway on a metered link: not there now, and when it will be next.
#[must_use]
pub fn asleep(until: WallMs) -> Vec<u8> {
    format!(r#"{{"state":"offline","reason":"scheduled","until":"{until}"}}"#).into_bytes()
}

/// One reading:
/// `{"ts":"2026-11-22T14:30:00.123Z","value":230.1,"unit":"V","quality":"good","epoch":"00000012-9f3a61c2","seq":81213}`.
/// `unit` is absent when there is none, `reason` follows `quality` unless that is `good`.
#[must_use]
pub fn reading(record: &Record) -> Vec<u8> {
    Readings::default().write(record).to_vec()
}

/// Writes many readings one after the other: what they have in common, their time and epoch, is put into words
/// once.
#[derive(Debug, Default)]
pub struct Readings {
    ts: Worded<WallMs>,
    epoch: Worded<Epoch>,
    line: Vec<u8>,
}

impl Readings {
    /// The payload of [`reading`]; good until the next one is written.
    pub fn write(&mut self, record: &Record) -> &[u8] {
        let (value, quality) = trusted(record);
        self.line.clear();
        json_into(
            &mut self.line,
            &ReadingJson {
                ts: self.ts.of(record.ts),
                value: Number(value),
                unit: &record.point.unit,
                quality: quality.word(),
                reason: quality.reason().map(Reason::word),
                epoch: self.epoch.of(record.id.epoch),
                seq: record.id.seq,
            },
        );
        &self.line
    }
}

impl Readings {
    /// The payload of [`reading`] with `device` and `point` before all else, and a line's end: for exports.
    pub fn write_line(&mut self, record: &Record) -> Vec<u8> {
        self.write_named(b"{".to_vec(), record)
    }

    /// [`Readings::write_line`] with the gateway's id and the lane before all else.
    pub fn write_line_of(&mut self, gateway: &str, historical: bool, record: &Record) -> Vec<u8> {
        let mut line = b"{\"gateway\":".to_vec();
        json_into(&mut line, gateway);
        line.extend_from_slice(b",\"historical\":");
        json_into(&mut line, &historical);
        line.push(b',');
        self.write_named(line, record)
    }

    fn write_named(&mut self, mut line: Vec<u8>, record: &Record) -> Vec<u8> {
        line.extend_from_slice(b"\"device\":");
        json_into(&mut line, &record.point.device);
        line.extend_from_slice(b",\"point\":");
        json_into(&mut line, &record.point.point);
        line.push(b',');
        line.extend_from_slice(self.write(record).get(1..).unwrap_or_default());
        line.push(b'\n');
        line
    }
}

/// The last thing that was put into words.
#[derive(Debug)]
struct Worded<T>(Option<(T, String)>);

impl<T> Default for Worded<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Copy + PartialEq + Display> Worded<T> {
    fn of(&mut self, thing: T) -> &str {
        if self.0.as_ref().is_some_and(|(last, _)| *last != thing) {
            self.0 = None;
        }
        &self.0.get_or_insert_with(|| (thing, thing.to_string())).1
    }
}

/// A batch: readings of one epoch whose numbers count up by one from the first.
///
/// `readings` holds `[ts_ms, point, value]`, with the quality's word and reason behind it unless good;
/// `ts_ms` is milliseconds since 1970, `point` counts in `points` from 0. `None` for records that do
/// not make a batch: none at all, a hole in the numbers, two epochs.
#[must_use]
pub fn batch(gateway: &str, historical: bool, records: &[Record]) -> Option<Vec<u8>> {
    let first = records.first()?;
    let in_turn = records.iter().zip(first.id.seq..).all(|(r, seq)| r.id.seq == seq);
    if !in_turn || records.iter().any(|r| r.id.epoch != first.id.epoch) {
        return None;
    }
    let mut points: Vec<String> = Vec::new();
    let mut known: HashMap<(&str, &str), usize> = HashMap::new();
    let mut rows = Vec::with_capacity(records.len());
    for record in records {
        let index = *known.entry((&record.point.device, &record.point.point)).or_insert_with(|| {
            points.push(record.point.path());
            points.len() - 1
        });
        rows.push(Row { record, point: index });
    }
    Some(json(&BatchJson {
        gateway,
        epoch: Shown(first.id.epoch),
        seq: first.id.seq,
        historical,
        points,
        readings: rows,
    }))
}

/// A loss record, keys in the contract's order.
#[must_use]
pub fn loss(record: &LossRecord) -> Vec<u8> {
    json(&LossRecord { numbers: Vec::new(), ..record.clone() })
}

/// A correction of times.
#[must_use]
pub fn correction(record: &CorrectionRecord) -> Vec<u8> {
    json(record)
}

/// The id in a command's payload, whatever else stands there: a number that is none of ours (`1e400`) is passed over.
#[must_use]
pub fn command_id(command: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Asked {
        id: Option<String>,
    }
    serde_json::from_slice::<Asked>(command).ok()?.id
}

/// The answer to a command that is not even tried: `{"id":…,"state":"refused","error":…,"ts":…}`.
/// `id` is the command's own if its payload has one, else `null`.
#[must_use]
pub fn refused(command: &[u8], error: &str, now: Moment) -> Vec<u8> {
    #[derive(Serialize)]
    struct Refused<'a> {
        id: Option<String>,
        state: &'a str,
        error: &'a str,
        ts: Shown<WallMs>,
        #[serde(skip_serializing_if = "Option::is_none")]
        clock: Option<&'static str>,
    }
    let id = command_id(command);
    json(&Refused { id, state: "refused", error, ts: Shown(now.ts), clock: now.clock() })
}

#[derive(Serialize)]
struct ReadingJson<'a> {
    ts: &'a str,
    value: Number<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    unit: &'a str,
    quality: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'static, str>>,
    epoch: &'a str,
    seq: u64,
}

#[derive(Serialize)]
struct BatchJson<'a> {
    gateway: &'a str,
    epoch: Shown<Epoch>,
    seq: u64,
    historical: bool,
    points: Vec<String>,
    readings: Vec<Row<'a>>,
}

struct Row<'a> {
    record: &'a Record,
    point: usize,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (value, quality) = trusted(self.record);
        let mut row = serializer.serialize_seq(Some(if quality == Quality::Good { 3 } else { 5 }))?;
        row.serialize_element(&self.record.ts.0)?;
        row.serialize_element(&self.point)?;
        row.serialize_element(&Number(value))?;
        if let Some(reason) = quality.reason() {
            row.serialize_element(quality.word())?;
            row.serialize_element(&reason.word())?;
        }
        row.end()
    }
}

/// Value and quality as they may leave the house: what is no number is a bad reading, whatever else it says.
pub(super) fn trusted(record: &Record) -> (Option<&Value>, Quality) {
    match (&record.value, record.quality) {
        (Some(Value::Float(x)), _) if !x.is_finite() => (None, Quality::Bad(Reason::SensorFault)),
        (_, Quality::Bad(reason)) => (None, Quality::Bad(reason)),
        (None, Quality::Good | Quality::Uncertain(_)) => (None, Quality::Bad(Reason::SensorFault)),
        (Some(value), quality) => (Some(value), quality),
    }
}

struct Number<'a>(Option<&'a Value>);

impl Serialize for Number<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_unit(),
            Some(Value::Bool(b)) => serializer.serialize_bool(*b),
            Some(Value::Int(i)) => serializer.serialize_i64(*i),
            Some(Value::UInt(u)) => serializer.serialize_u64(*u),
            Some(Value::Float(x)) => serializer.serialize_f64(*x),
            Some(Value::Text(t)) => serializer.serialize_str(t),
        }
    }
}

struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = Vec::with_capacity(128);
    json_into(&mut line, value);
    line
}

fn json_into<T: Serialize + ?Sized>(line: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(line, value).expect("strings, numbers and lists of them always become JSON");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::{Epoch, Id, LossReason, PointKey};
    use proptest::prelude::*;

    fn record(seq: u64, value: Option<Value>, quality: Quality) -> Record {
        Record {
            id: Id { epoch: Epoch { start: 0x12, random: 0x9f3a_61c2 }, seq },
            ts: WallMs(1_795_357_800_123),
            point: Arc::new(PointKey {
                device: "meter1".into(),
                point: "voltage_l1".into(),
                unit: "V".into(),
            }),
            value,
            quality,
        }
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("JSON is UTF-8")
    }

    #[test]
    fn a_reading_is_written_as_the_contract_shows_it() {
        assert_eq!(
            text(reading(&record(81213, Some(Value::Float(230.1)), Quality::Good))),
            r#"{"ts":"2026-11-22T14:30:00.123Z","value":230.1,"unit":"V","quality":"good","epoch":"00000012-9f3a61c2","seq":81213}"#
        );
        let mut bad = record(7, None, Quality::Bad(Reason::Exception(2)));
        bad.point = Arc::new(PointKey { device: "d".into(), point: "p".into(), unit: String::new() });
        assert_eq!(
            text(reading(&bad)),
            r#"{"ts":"2026-11-22T14:30:00.123Z","value":null,"quality":"bad","reason":"exception_02","epoch":"00000012-9f3a61c2","seq":7}"#
        );
    }

    #[test]
    fn one_writer_for_many_readings_mixes_nothing_up() {
        let mut writer = Readings::default();
        for n in 0..40 {
            let mut record = record(n, Some(Value::UInt(n)), Quality::Good);
            record.ts = WallMs(1_795_357_800_123 + i64::try_from(n / 3).expect("small"));
            record.id.epoch.start = u32::try_from(n / 5).expect("small");
            let (ts, epoch) = (record.ts, record.id.epoch);
            let expected = format!(
                r#"{{"ts":"{ts}","value":{n},"unit":"V","quality":"good","epoch":"{epoch}","seq":{n}}}"#
            );
            assert_eq!(text(writer.write(&record).to_vec()), expected);
        }
    }

    #[test]
    fn a_batch_is_written_as_the_contract_shows_it() {
        let mut other = record(6, Some(Value::Bool(true)), Quality::Uncertain(Reason::Stale));
        other.point = Arc::new(PointKey { device: "air".into(), point: "fan".into(), unit: String::new() });
        let list = [
            record(5, Some(Value::Float(230.5)), Quality::Good),
            other,
            record(7, None, Quality::Bad(Reason::Timeout)),
        ];
        assert_eq!(
            text(batch("plant-7", false, &list).expect("a run")),
            r#"{"gateway":"plant-7","epoch":"00000012-9f3a61c2","seq":5,"historical":false,"points":["meter1/voltage_l1","air/fan"],"readings":[[1795357800123,0,230.5],[1795357800123,1,true,"uncertain","stale"],[1795357800123,0,null,"bad","timeout"]]}"#
        );
    }

    #[test]
    fn what_is_no_run_of_one_epoch_makes_no_batch() {
        let good = |seq| record(seq, Some(Value::Int(1)), Quality::Good);
        assert_eq!(batch("g", false, &[]), None);
        assert_eq!(batch("g", false, &[good(1), good(3)]), None);
        let mut later = good(2);
        later.id.epoch.start += 1;
        assert_eq!(batch("g", false, &[good(1), later]), None);
    }

    #[test]
    fn integers_stay_exact_to_the_last_digit() {
        let shown = |v| text(reading(&record(1, Some(v), Quality::Good)));
        assert!(shown(Value::UInt(u64::MAX)).contains(r#""value":18446744073709551615,"#));
        assert!(shown(Value::Int(i64::MIN)).contains(r#""value":-9223372036854775808,"#));
    }

    /// A float that happens to be whole must not turn into an integer on its way, nor lose what an integer has no room for.
    #[test]
    fn a_float_is_written_as_one_however_whole_and_large_it_is() {
        for (x, written) in [
            (21.0, "21.0"),
            (-0.0, "-0.0"),
            (9_007_199_254_740_994.0, "9007199254740994.0"),
            (18_446_744_073_709_551_616.0, "1.8446744073709552e+19"),
            (1e300, "1e+300"),
        ] {
            let record = record(1, Some(Value::Float(x)), Quality::Good);
            let one = text(reading(&record));
            assert!(one.contains(&format!(r#""value":{written},"#)), "{one}");
            let many = text(batch("g", false, &[record]).expect("a run"));
            assert!(many.ends_with(&format!(",0,{written}]]}}")), "{many}");
            let read: serde_json::Value = serde_json::from_str(&one).expect("JSON");
            assert!(read["value"].is_f64() && read["value"].as_f64() == Some(x), "{one}");
            assert_eq!(read["value"].to_string(), written, "as `watch` and `queue export` say it");
        }
    }

    #[test]
    fn what_is_no_number_never_leaves_as_good() {
        for x in [f64::NAN, f64::INFINITY] {
            let shown = text(reading(&record(1, Some(Value::Float(x)), Quality::Good)));
            assert!(
                shown.contains(r#""value":null,"unit":"V","quality":"bad","reason":"sensor_fault""#),
                "{shown}"
            );
        }
    }

    #[test]
    fn a_loss_record_is_written_as_the_contract_shows_it() {
        let lost = LossRecord {
            uplink: "cloud".into(),
            reason: LossReason::QueueFull,
            epoch: "00000012-9f3a61c2".into(),
            seq: [81300, 81950],
            count: 651,
            bound: false,
            from: Some("2026-11-22T14:30:00.123Z".into()),
            to: None,
            points: None,
            numbers: vec![[81300, 81900], [81902, 81951]],
            ts: "2026-11-22T15:00:00.000Z".into(),
        };
        assert_eq!(
            text(loss(&lost)),
            r#"{"uplink":"cloud","reason":"queue_full","epoch":"00000012-9f3a61c2","seq":[81300,81950],"count":651,"from":"2026-11-22T14:30:00.123Z","to":null,"points":null,"ts":"2026-11-22T15:00:00.000Z"}"#
        );
    }

    #[test]
    fn a_correction_says_how_far_which_times_were_off() {
        let mut correction = CorrectionRecord {
            uplink: Some("cloud".into()),
            epoch: "00000012-9f3a61c2".into(),
            seq: [81300, 81950],
            boot_id: "6e1c".into(),
            shift_ms: -63_072_000_000,
            ts: "2026-11-22T15:00:00.000Z".into(),
        };
        assert_eq!(
            text(super::correction(&correction)),
            r#"{"uplink":"cloud","epoch":"00000012-9f3a61c2","seq":[81300,81950],"boot_id":"6e1c","shift_ms":-63072000000,"ts":"2026-11-22T15:00:00.000Z"}"#
        );
        correction.uplink = None;
        assert!(text(super::correction(&correction)).starts_with(r#"{"uplink":null,"#));
    }

    #[test]
    fn a_refusal_carries_the_commands_id_if_it_has_one() {
        let at = Moment { ts: WallMs(1_795_357_800_123), set: true };
        assert_eq!(
            text(refused(br#"{"id":"c-17","value":1}"#, "busy", at)),
            r#"{"id":"c-17","state":"refused","error":"busy","ts":"2026-11-22T14:30:00.123Z"}"#
        );
        assert!(text(refused(b"\xff{", "busy", at)).starts_with(r#"{"id":null,"#));
        let believed = text(refused(b"", "busy", Moment { set: false, ..at }));
        assert!(believed.ends_with(r#"Z","clock":"unsynced"}"#), "{believed}");
    }

    proptest! {
        #[test]
        fn every_finite_float_reads_back_the_same(x in prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL) {
            let bytes = reading(&record(1, Some(Value::Float(x)), Quality::Good));
            let text = text(bytes);
            let number = text.split("\"value\":").nth(1).and_then(|t| t.split(',').next()).expect("a value");
            prop_assert_eq!(number.parse::<f64>().expect("a number").to_bits(), x.to_bits());
            // And as whoever reads JSON with what we read it with finds it.
            let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            prop_assert_eq!(read["value"].as_f64().expect("a number").to_bits(), x.to_bits());
        }
    }
}
