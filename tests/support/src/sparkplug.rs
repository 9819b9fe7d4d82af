//! Readings in what a Sparkplug node published, by the aliases of its last births, read with a decoder of other people.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;
use srad_types::payload::{Message as _, Metric, Payload, metric, property_value};

use crate::messages::{Lane, Message, Reading};

/// All readings of the nodes of a group, in the order of arrival; and what breaks the rules.
#[must_use]
pub fn readings(messages: &[Message], group: &str) -> (Vec<Reading>, Vec<String>) {
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    let (mut names, mut next) = (BTreeMap::new(), None);
    let mut alive = BTreeSet::new();
    for message in messages {
        let parts: Vec<&str> = message.topic.split('/').collect();
        let ["spBv1.0", of, kind, _, device @ ..] = parts.as_slice() else { continue };
        if *of != group {
            continue;
        }
        let mut fault = |what: &str| faults.push(format!("{}: {what}", message.topic));
        let Ok(payload) = Payload::decode(message.payload.as_slice()) else {
            fault("no payload");
            continue;
        };
        let device = device.first().copied().unwrap_or("");
        match *kind {
            "NDEATH" => {
                next = None;
                continue;
            }
            "NBIRTH" => {
                next = Some(0);
                names.clear();
                alive.clear();
            }
            "DBIRTH" => {
                alive.insert(device);
                names.extend(
                    payload
                        .metrics
                        .iter()
                        .filter_map(|m| Some((m.alias?, format!("{device}/{}", m.name.as_ref()?)))),
                );
            }
            "DDATA" | "DDEATH" => {
                if !alive.contains(device) && *kind == "DDATA" {
                    fault("data of a device that is not born");
                }
                if *kind == "DDEATH" {
                    alive.remove(device);
                }
                for (metric, seq) in payload.metrics.iter().zip(numbers(&payload)) {
                    match seq.and_then(|seq| reading(message, &payload, metric, seq, &names)) {
                        Some(reading) => found.push(reading),
                        None => fault("a metric without a birth, a number or a time"),
                    }
                }
            }
            _ => continue,
        }
        if next.is_none() || payload.seq != next {
            fault(&format!("number {:?} where {next:?} is due", payload.seq));
        }
        next = payload.seq.map(|seq| (seq + 1) % 256);
    }
    (found, faults)
}

/// The number of each metric: the first one says it, the others count up and say what they skip.
#[must_use]
pub fn numbers(payload: &Payload) -> Vec<Option<u64>> {
    let long = |metric: &Metric, key| match property(metric, key) {
        None => Ok(None),
        Some(property_value::Value::LongValue(n)) => Ok(Some(*n)),
        Some(_) => Err(()),
    };
    let mut last: Option<u64> = None;
    let mut number = |metric| -> Option<u64> {
        last = match (long(metric, "seq").ok()?, long(metric, "skip").ok()?, last) {
            (Some(seq), None, _) => Some(seq),
            (None, skip, Some(last)) => Some(last + 1 + skip.unwrap_or(0)),
            _ => None,
        };
        last
    };
    payload.metrics.iter().map(&mut number).collect()
}

fn property<'m>(metric: &'m Metric, key: &str) -> Option<&'m property_value::Value> {
    let set = metric.properties.as_ref()?;
    set.values.get(set.keys.iter().position(|k| k == key)?)?.value.as_ref()
}

fn reading(
    message: &Message,
    payload: &Payload,
    metric: &Metric,
    seq: u64,
    names: &BTreeMap<u64, String>,
) -> Option<Reading> {
    let quality = match property(metric, "Quality") {
        None | Some(property_value::Value::IntValue(192)) => "good",
        Some(property_value::Value::IntValue(500)) => "uncertain",
        Some(property_value::Value::IntValue(0)) => "bad",
        Some(_) => return None,
    };
    Some(Reading {
        at: message.at,
        lane: if metric.is_historical == Some(true) { Lane::History } else { Lane::Live },
        name: names.get(&metric.alias?)?.clone(),
        epoch: payload.uuid.clone()?,
        seq,
        ts_ms: i64::try_from(metric.timestamp?).ok()?,
        value: match &metric.value {
            None => Json::Null,
            Some(metric::Value::BooleanValue(b)) => (*b).into(),
            Some(metric::Value::IntValue(i)) => (*i).into(),
            Some(metric::Value::LongValue(l)) => (*l).into(),
            // Its shortest decimal is what it says.
            Some(metric::Value::FloatValue(x)) => x.to_string().parse::<f64>().ok()?.into(),
            Some(metric::Value::DoubleValue(x)) => (*x).into(),
            Some(metric::Value::StringValue(t)) => t.clone().into(),
            Some(_) => return None,
        },
        quality: quality.to_owned(),
        reason: match property(metric, "reason") {
            Some(property_value::Value::StringValue(reason)) => reason.clone(),
            _ => String::new(),
        },
    })
}
