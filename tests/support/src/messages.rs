//! What observers heard: MQTT messages, and the readings and loss records in them, as the public contract
//! lays them out. Whatever is not laid out so is a fault, by name.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value as Json;

/// The format that [`parse`] understands, for `mosquitto_sub -F`.
pub const FORMAT: &str = "%U %q %r %t %x";

/// One message as an observer heard it.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// When, seconds since 1970.
    pub at: f64,
    /// Quality of service of its delivery.
    pub qos: u8,
    /// Whether it was marked as retained.
    pub retain: bool,
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Message {
    /// The payload as JSON; `Null` if it is not.
    #[must_use]
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.payload).unwrap_or_default()
    }
}

/// Understands the lines of an observer. A line that is not yet whole is left for later.
#[must_use]
pub fn parse(text: &str) -> Vec<Message> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Message> {
    let mut words = line.splitn(4, ' ');
    let (at, qos, retain) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()? == "1");
    let (topic, hex) = words.next()?.rsplit_once(' ')?;
    let payload = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap_or(""), 16).ok())
        .collect::<Option<_>>()?;
    Some(Message { at, qos, retain, topic: topic.to_owned(), payload })
}

/// Which of the two ways a reading took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// `data`, `batch` or `compact`.
    Live,
    /// `history`, `batch/history` or `compact/history`.
    History,
}

/// One reading as it was heard.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// When it was heard, seconds since 1970.
    pub at: f64,
    /// The way it took.
    pub lane: Lane,
    /// `device/point`.
    pub name: String,
    /// Life of the log's numbering.
    pub epoch: String,
    /// Number in it.
    pub seq: u64,
    /// When the source was sampled, ms since 1970.
    pub ts_ms: i64,
    /// What was read.
    pub value: Json,
    /// `good`, `uncertain` or `bad`.
    pub quality: String,
    /// Why it is not good; empty when it is.
    pub reason: String,
}

/// One loss record.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// For whom it is lost.
    pub uplink: String,
    /// Why.
    pub reason: String,
    /// Life of the log's numbering.
    pub epoch: String,
    /// First and last number.
    pub seq: (u64, u64),
    /// How many, or the bound of it.
    pub count: u64,
    /// Whether `count` is a bound.
    pub bound: bool,
    /// `device/point` of what is lost, if that is known.
    pub points: Option<Vec<String>>,
}

impl Loss {
    /// Whether it is of fewer numbers than lie between its first and its last: the others have arrived, or are in another
    /// record.
    #[must_use]
    pub fn is_scattered(&self) -> bool {
        let width = self.seq.1.saturating_sub(self.seq.0) + 1;
        self.reason == "rejected" && !self.bound && self.count < width
    }
}

/// All readings under `root` (`gw/box`), in the order of arrival; and what could not be understood.
#[must_use]
pub fn readings(messages: &[Message], root: &str) -> (Vec<Reading>, Vec<String>) {
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for message in messages {
        let Some(path) = message.topic.strip_prefix(root).and_then(|t| t.strip_prefix('/')) else { continue };
        let parts: Vec<&str> = path.split('/').collect();
        let read = match parts.as_slice() {
            ["data", device, point] => single(message, Lane::Live, device, point).map(|r| vec![r]),
            ["history", device, point] => single(message, Lane::History, device, point).map(|r| vec![r]),
            ["batch"] => batch(message, Lane::Live, &message.payload),
            ["batch", "history"] => batch(message, Lane::History, &message.payload),
            ["batch", "zst"] => unpacked(message, Lane::Live),
            ["batch", "history", "zst"] => unpacked(message, Lane::History),
            ["compact"] => compact(message, Lane::Live),
            ["compact", "history"] => compact(message, Lane::History),
            _ => continue,
        };
        match read {
            Ok(readings) => found.extend(readings),
            Err(fault) => faults.push(format!("{}: {fault}: {}", message.topic, shown(&message.payload))),
        }
    }
    (found, faults)
}

fn shown(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).chars().take(300).collect()
}

fn unpacked(message: &Message, lane: Lane) -> Result<Vec<Reading>, String> {
    let frame = zstd::stream::decode_all(message.payload.as_slice()).map_err(|e| format!("zstd: {e}"))?;
    batch(message, lane, &frame)
}

/// A packed message, by the decoder in Python, which shares no code with the gateway.
fn compact(message: &Message, lane: Lane) -> Result<Vec<Reading>, String> {
    let script = crate::repository().join("config/examples/compact_decode.py");
    let mut decoder = Command::new("python3")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("python3: {e}"))?;
    let mut input = decoder.stdin.take().ok_or("no pipe to python3")?;
    input.write_all(&message.payload).map_err(|e| e.to_string())?;
    drop(input);
    let output = decoder.wait_with_output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err("the decoder refuses it".to_owned());
    }
    let lines = String::from_utf8(output.stdout).map_err(|e| e.to_string())?;
    lines
        .lines()
        .map(|line| {
            let json = object(line.as_bytes(), &["gateway", "historical", "device", "point"])?;
            if json["historical"].as_bool() != Some(lane == Lane::History) {
                return Err("`historical` and the topic disagree".to_owned());
            }
            let message = Message { payload: line.as_bytes().to_vec(), ..message.clone() };
            single(&message, lane, &text(&json, "device"), &text(&json, "point"))
        })
        .collect()
}

fn object(payload: &[u8], keys: &[&str]) -> Result<Json, String> {
    let json: Json = serde_json::from_slice(payload).map_err(|e| e.to_string())?;
    for key in keys {
        if json.get(key).is_none() {
            return Err(format!("`{key}` is missing"));
        }
    }
    Ok(json)
}

fn text(json: &Json, key: &str) -> String {
    json[key].as_str().unwrap_or_default().to_owned()
}

fn number(json: &Json, key: &str) -> Result<u64, String> {
    json[key].as_u64().ok_or_else(|| format!("`{key}` is no number"))
}

fn single(message: &Message, lane: Lane, device: &str, point: &str) -> Result<Reading, String> {
    let json = object(&message.payload, &["ts", "value", "quality", "epoch", "seq"])?;
    let ts: jiff::Timestamp = text(&json, "ts").parse().map_err(|e| format!("ts: {e}"))?;
    quality(Reading {
        at: message.at,
        lane,
        name: format!("{device}/{point}"),
        epoch: text(&json, "epoch"),
        seq: number(&json, "seq")?,
        ts_ms: ts.as_millisecond(),
        value: json["value"].clone(),
        quality: text(&json, "quality"),
        reason: text(&json, "reason"),
    })
}

/// What the contract says of the three qualities.
fn quality(reading: Reading) -> Result<Reading, String> {
    let right = match reading.quality.as_str() {
        "good" => reading.reason.is_empty() && !reading.value.is_null(),
        "uncertain" => !reading.reason.is_empty() && !reading.value.is_null(),
        "bad" => !reading.reason.is_empty() && reading.value.is_null(),
        _ => false,
    };
    if right { Ok(reading) } else { Err("quality, reason and value do not go together".to_owned()) }
}

fn batch(message: &Message, lane: Lane, payload: &[u8]) -> Result<Vec<Reading>, String> {
    let json = object(payload, &["gateway", "epoch", "seq", "historical", "points", "readings"])?;
    if json["historical"].as_bool() != Some(lane == Lane::History) {
        return Err("`historical` and the topic disagree".to_owned());
    }
    let first = number(&json, "seq")?;
    let rows = json["readings"].as_array().ok_or("`readings` is no list")?;
    rows.iter()
        .zip(first..)
        .map(|(row, seq)| {
            let index = row[1].as_u64().and_then(|n| usize::try_from(n).ok()).ok_or("no point in a row")?;
            quality(Reading {
                at: message.at,
                lane,
                name: json["points"][index].as_str().ok_or("a row of an unknown point")?.to_owned(),
                epoch: text(&json, "epoch"),
                seq,
                ts_ms: row[0].as_i64().ok_or("no ts in a row")?,
                value: row[2].clone(),
                quality: row[3].as_str().unwrap_or("good").to_owned(),
                reason: row[4].as_str().unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

/// All loss records under `root`, each once, and what could not be understood.
#[must_use]
pub fn losses(messages: &[Message], root: &str) -> (Vec<Loss>, Vec<String>) {
    let (mut found, mut faults): (Vec<Loss>, _) = (Vec::new(), Vec::new());
    let topic = format!("{root}/event/loss");
    for message in messages.iter().filter(|m| m.topic == topic) {
        match loss(&message.payload) {
            Ok(loss) if !found.contains(&loss) => found.push(loss),
            Ok(_) => {}
            Err(fault) => faults.push(format!("{topic}: {fault}: {}", shown(&message.payload))),
        }
    }
    (found, faults)
}

fn loss(payload: &[u8]) -> Result<Loss, String> {
    let keys = ["uplink", "reason", "epoch", "seq", "count", "from", "to", "points", "ts"];
    let json = object(payload, &keys)?;
    let end = |n: usize| json["seq"][n].as_u64().ok_or("`seq` is no pair");
    Ok(Loss {
        uplink: text(&json, "uplink"),
        reason: text(&json, "reason"),
        epoch: text(&json, "epoch"),
        seq: (end(0)?, end(1)?),
        count: number(&json, "count")?,
        bound: json["bound"].as_bool().unwrap_or(false),
        points: serde_json::from_value(json["points"].clone()).map_err(|e| format!("`points`: {e}"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(topic: &str, payload: &str) -> Message {
        Message { at: 1.0, qos: 1, retain: false, topic: topic.into(), payload: payload.into() }
    }

    #[test]
    fn an_observers_lines_become_messages_and_half_a_line_waits() {
        let text = "1795386608.25 1 0 gw/a/data/m/v 7B7D\n1795386609.0 0 1 x \n1795386610 1 0 half 7";
        let all = parse(text);
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].topic.as_str(), all[0].payload.as_slice()), ("gw/a/data/m/v", b"{}".as_slice()));
        assert_eq!((all[1].topic.as_str(), all[1].retain, all[1].payload.len()), ("x", true, 0));
    }

    #[test]
    fn both_formats_give_the_same_readings_and_what_is_against_the_contract_is_told() {
        let single =
            r#"{"ts":"2026-11-22T14:30:00.123Z","value":7,"unit":"V","quality":"good","epoch":"e","seq":8}"#;
        let batch = r#"{"gateway":"a","epoch":"e","seq":7,"historical":true,"points":["m/v"],
            "readings":[[1795357800122,0,null,"bad","timeout"],[1795357800123,0,7]]}"#;
        let (found, faults) =
            readings(&[heard("gw/a/data/m/v", single), heard("gw/a/batch/history", batch)], "gw/a");
        assert_eq!(faults, [""; 0]);
        assert_eq!(found.len(), 3);
        assert_eq!((&found[0].name, found[0].seq, found[0].ts_ms), (&found[2].name, 8, found[2].ts_ms));
        assert_eq!((found[1].reason.as_str(), found[1].lane), ("timeout", Lane::History));
        for wrong in [
            single.replace("good", "bad"),
            single.replace("good", "fine"),
            single.replace(",\"seq\":8", ""),
            single.replace("14:30", "half past two"),
        ] {
            assert_eq!(readings(&[heard("gw/a/data/m/v", &wrong)], "gw/a").1.len(), 1, "{wrong}");
        }
        let wrong = heard("gw/a/batch", batch);
        assert_eq!(readings(&[wrong], "gw/a").1.len(), 1, "historical on the live topic");
    }
}
