//! Messages of other devices as lines of an export. Pure.

use serde::Serialize;

use super::base64;
use crate::message::ForwardedRecord;

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    ts: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    qos: u8,
    retain: bool,
    epoch: String,
    seq: u64,
}

/// One JSON object and a line's end: `topic`, `ts`, `payload` (or `payload_base64`, where it is not UTF-8), `qos`, `retain`,
/// `epoch` and `seq`.
#[must_use]
pub fn line(record: &ForwardedRecord) -> Vec<u8> {
    let message = &record.message;
    let payload = std::str::from_utf8(&message.payload).ok();
    let line = Line {
        topic: &message.topic,
        ts: record.ts.to_string(),
        payload,
        payload_base64: payload.is_none().then(|| base64::encode(&message.payload)),
        qos: message.qos,
        retain: message.retain,
        epoch: record.id.epoch.to_string(),
        seq: record.id.seq,
    };
    let mut bytes = serde_json::to_vec(&line).expect("texts, numbers and flags are JSON");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::{BootMs, Epoch, Forwarded, Id, WallMs};

    #[test]
    fn a_payload_that_is_no_text_is_base64() {
        let record = |payload: &'static [u8]| ForwardedRecord {
            id: Id { epoch: Epoch { start: 1, random: 2 }, seq: 3 },
            ts: WallMs(0),
            message: Arc::new(Forwarded {
                at: BootMs(0),
                topic: "a/b".into(),
                payload: payload.into(),
                qos: 1,
                retain: true,
                props: None,
                expiry: None,
                origin: None,
            }),
        };
        let rest = r#""qos":1,"retain":true,"epoch":"00000001-00000002","seq":3}"#;
        let ts = "1970-01-01T00:00:00.000Z";
        let text = String::from_utf8(line(&record(b"on\n"))).expect("UTF-8");
        assert_eq!(text, format!("{{\"topic\":\"a/b\",\"ts\":\"{ts}\",\"payload\":\"on\\n\",{rest}\n"));
        let text = String::from_utf8(line(&record(&[0xff]))).expect("UTF-8");
        assert_eq!(text, format!("{{\"topic\":\"a/b\",\"ts\":\"{ts}\",\"payload_base64\":\"/w==\",{rest}\n"));
    }
}
