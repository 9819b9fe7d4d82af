//! The messages of one block, beside its readings: their columns. Pure.
//!
//! Layout, before the columns of the readings: how many messages · the place of each among all numbers of the block, as
//! difference to the one before + 1 · their times as differences, the first to that in the header · the different
//! topics, each as the length it shares with the one before it and the rest · the topic of each message as runs · its
//! flags as runs (QoS in the low two bits, then retain, properties, expiry, origin) · expiries · origins · properties ·
//! payloads with their lengths · if there are readings, the time of the first.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::columns::column::{Reader, Writer};
use crate::message::{BootMs, Forwarded, Props};

const RETAIN: u64 = 4;
const PROPS: u64 = 8;
const EXPIRY: u64 = 16;
const ORIGIN: u64 = 32;

/// Longest topic that MQTT allows.
const TOPIC_MAX: usize = 65_535;

/// Writes the messages of a block, each with its place; `base`: the time in the header.
pub fn write(out: &mut Writer, messages: &[(usize, &Arc<Forwarded>)], base: u64) {
    out.put(messages.len() as u64);
    let mut next = 0;
    for (place, _) in messages {
        out.put((place - next) as u64);
        next = place + 1;
    }
    let mut time = base;
    for (_, message) in messages {
        out.put_signed(message.at.0.wrapping_sub(time).cast_signed());
        time = message.at.0;
    }
    let (mut topics, mut index) = (Vec::new(), HashMap::new());
    let of: Vec<u64> = messages
        .iter()
        .map(|(_, message)| {
            *index.entry(&*message.topic).or_insert_with(|| {
                topics.push(&*message.topic);
                topics.len() as u64 - 1
            })
        })
        .collect();
    out.put(topics.len() as u64);
    let mut last: &[u8] = &[];
    for topic in topics {
        let topic = topic.as_bytes();
        let shared = topic.iter().zip(last).take_while(|(a, b)| a == b).count();
        out.put(shared as u64);
        out.put_bytes(&topic[shared..]);
        last = topic;
    }
    out.put_runs(of);
    out.put_runs(messages.iter().map(|(_, m)| flags(m)));
    messages.iter().filter_map(|(_, m)| m.expiry).for_each(|seconds| out.put(u64::from(seconds)));
    messages.iter().filter_map(|(_, m)| m.origin.as_ref()).for_each(|name| out.put_bytes(name.as_bytes()));
    messages.iter().filter_map(|(_, m)| m.props.as_deref()).for_each(|props| write_props(out, props));
    messages.iter().for_each(|(_, m)| out.put_bytes(&m.payload));
}

fn flags(message: &Forwarded) -> u64 {
    let flag = |is: bool, bit: u64| if is { bit } else { 0 };
    u64::from(message.qos.min(2))
        | flag(message.retain, RETAIN)
        | flag(message.props.is_some(), PROPS)
        | flag(message.expiry.is_some(), EXPIRY)
        | flag(message.origin.is_some(), ORIGIN)
}

fn write_props(out: &mut Writer, props: &Props) {
    let texts = [&props.content_type, &props.response_topic];
    let mut mask = props.payload_format.map_or(0, |format| 1 | u64::from(format & 1) << 4);
    for (n, text) in texts.iter().enumerate() {
        mask |= u64::from(text.is_some()) << (n + 1);
    }
    out.put(mask | u64::from(props.correlation.is_some()) << 3);
    texts.into_iter().flatten().for_each(|text| out.put_bytes(text.as_bytes()));
    props.correlation.iter().for_each(|data| out.put_bytes(data));
    out.put(props.user.len() as u64);
    for (key, value) in &props.user {
        out.put_bytes(key.as_bytes());
        out.put_bytes(value.as_bytes());
    }
}

/// Reads what [`write`] wrote of a block of `count` numbers: messages with their places, ascending.
pub fn read(r: &mut Reader<'_>, count: usize, base: u64) -> Option<Vec<(usize, Arc<Forwarded>)>> {
    let n = r.get_len().filter(|&n| n <= count)?;
    let mut places = Vec::with_capacity(n);
    let mut next = 0usize;
    for _ in 0..n {
        let place = next.checked_add(r.get_len()?).filter(|&place| place < count)?;
        places.push(place);
        next = place + 1;
    }
    let mut times = Vec::with_capacity(n);
    let mut time = base;
    for _ in 0..n {
        time = time.wrapping_add(r.get_signed()?.cast_unsigned());
        times.push(BootMs(time));
    }
    let topics = read_topics(r, n)?;
    let of = r.get_runs(n)?;
    let flags = r.get_runs(n)?;
    let has = |bit: u64| flags.iter().map(move |flags| flags & bit != 0);
    let expiries =
        has(EXPIRY).map(|is| when(is, || u32::try_from(r.get()?).ok())).collect::<Option<Vec<_>>>()?;
    let origins =
        has(ORIGIN).map(|is| when(is, || text(r).map(Arc::<str>::from))).collect::<Option<Vec<_>>>()?;
    let props = has(PROPS).map(|is| when(is, || read_props(r).map(Box::new))).collect::<Option<Vec<_>>>()?;
    let mut rest = times.into_iter().zip(of).zip(&flags).zip(expiries).zip(origins).zip(props);
    let mut messages = Vec::with_capacity(n);
    for place in places {
        let (((((at, of), flags), expiry), origin), props) = rest.next()?;
        let message = Forwarded {
            at,
            topic: Arc::clone(topics.get(usize::try_from(of).ok()?)?),
            payload: Bytes::copy_from_slice(r.get_bytes()?),
            qos: u8::try_from(flags & 3).ok().filter(|&qos| qos <= 2)?,
            retain: flags & RETAIN != 0,
            props,
            expiry,
            origin,
        };
        messages.push((place, Arc::new(message)));
    }
    Some(messages)
}

/// What is read if `is`; the outer `None`: the bytes do not allow it.
#[expect(clippy::option_option, reason = "whether it reads, and whether it is there")]
fn when<T>(is: bool, read: impl FnOnce() -> Option<T>) -> Option<Option<T>> {
    if is { read().map(Some) } else { Some(None) }
}

fn text<'b>(r: &mut Reader<'b>) -> Option<&'b str> {
    std::str::from_utf8(r.get_bytes()?).ok()
}

fn read_topics(r: &mut Reader<'_>, most: usize) -> Option<Vec<Arc<str>>> {
    let n = r.get_len().filter(|&n| n <= most)?;
    let mut topics = Vec::with_capacity(n);
    let mut last: Vec<u8> = Vec::new();
    for _ in 0..n {
        let shared = r.get_len().filter(|&n| n <= last.len())?;
        last.truncate(shared);
        last.extend_from_slice(r.get_bytes()?);
        if last.len() > TOPIC_MAX {
            return None;
        }
        topics.push(std::str::from_utf8(&last).ok()?.into());
    }
    Some(topics)
}

fn read_props(r: &mut Reader<'_>) -> Option<Props> {
    let mask = r.get()?;
    let mut string = |is: bool| when(is, || text(r).map(str::to_owned));
    let (content_type, response_topic) = (string(mask & 2 != 0)?, string(mask & 4 != 0)?);
    let correlation = when(mask & 8 != 0, || r.get_bytes().map(Bytes::copy_from_slice))?;
    let pairs = r.get_len().filter(|&n| n <= r.left() / 2)?;
    let mut user = Vec::new();
    for _ in 0..pairs {
        user.push((text(r)?.to_owned(), text(r)?.to_owned()));
    }
    let payload_format = (mask & 1 != 0).then_some(u8::from(mask & 16 != 0));
    Some(Props { payload_format, content_type, response_topic, correlation, user })
}
