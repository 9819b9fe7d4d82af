//! What is kept, as bytes. Pure. Anything that does not read back whole is `None`: it is left out, never guessed.
//!
//! Each kind begins with the number of its layout, so that a later version can tell. Numbers are little-endian; texts and
//! bytes have their length before them, in 32 bits; what may be missing has a byte that says whether it is there.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::times::Moment;
use crate::broker::message::Publish;
use crate::broker::queue::{Addressed, Walk};
use crate::broker::retained::Cursor;
use crate::broker::state::{Options, Will};
use crate::message::{BootMs, Props, WallMs};

/// Layout of all kinds.
const LAYOUT: u8 = 1;

/// Who published what was kept: nobody who is here.
pub const NOBODY: u64 = u64::MAX;

/// A session as it is kept, but for what has rows of its own.
#[derive(Debug, Clone)]
pub struct Row {
    /// The client's name for it.
    pub client_id: Arc<str>,
    /// Proven user.
    pub user: Option<Arc<str>>,
    /// Seconds the session outlives a connection; `u32::MAX`: for ever.
    pub expiry: u32,
    /// How it was when this was written.
    pub was: Was,
    /// When it left, or when this was written.
    pub left: Moment,
    /// Entries up to this place had been sent when it left.
    pub sent: u64,
    /// A will that has not fired.
    pub will: Option<Will>,
}

/// How a client was when its row was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Was {
    /// It had left.
    Away,
    /// It was connected.
    Connected,
    /// It had been sent away, for the broker stopped: its will has not begun to wait.
    Stopped,
}

/// Now, on the clocks that matter here: what instants of this process are to those who read it later.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For what is written.
    pub moment: Moment,
    /// The same moment, of this process.
    pub instant: Instant,
}

/// How an entry is to be delivered.
#[derive(Debug)]
pub enum Kind {
    /// A message; its body is apart.
    Message {
        /// 1 or 2.
        qos: u8,
        /// Retain flag on delivery.
        retain: bool,
        /// Subscription identifiers.
        ids: Option<Box<[u32]>>,
    },
    /// A walk over the retained messages.
    Walk(Walk),
}

#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u8(&mut self, n: u8) {
        self.0.push(n);
    }
    fn u32(&mut self, n: u32) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }
    fn u64(&mut self, n: u64) {
        self.0.extend_from_slice(&n.to_le_bytes());
    }
    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
    }
    fn maybe<T>(&mut self, what: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.u8(u8::from(what.is_some()));
        if let Some(what) = what {
            put(self, what);
        }
    }
    fn moment(&mut self, m: &Moment) {
        self.u64(m.boot);
        self.u64(m.at.0);
        self.u64(m.wall.0.cast_unsigned());
    }
}

struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let mut all = Self(bytes);
        (all.u8()? == LAYOUT).then_some(all)
    }
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }
    fn flag(&mut self) -> Option<bool> {
        self.u8().filter(|b| *b < 2).map(|b| b == 1)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = usize::try_from(self.u32()?).ok()?;
        self.take(n)
    }
    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
    fn maybe<T>(&mut self, get: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { get(self).map(Some) } else { Some(None) }
    }
    fn moment(&mut self) -> Option<Moment> {
        Some(Moment { boot: self.u64()?, at: BootMs(self.u64()?), wall: WallMs(self.u64()?.cast_signed()) })
    }
    fn end<T>(self, whole: T) -> Option<T> {
        self.0.is_empty().then_some(whole)
    }
}

/// A message, whoever gets it.
#[must_use]
pub fn body(m: &Publish, now: &Now) -> Vec<u8> {
    let mut out = Out(Vec::with_capacity(64 + m.size()));
    out.u8(LAYOUT);
    message(&mut out, m, now);
    out.0
}

fn message(out: &mut Out, m: &Publish, now: &Now) {
    out.bytes(m.topic.as_bytes());
    out.bytes(&m.payload);
    out.u8(m.qos);
    out.u8(u8::from(m.retain));
    out.maybe(m.props.as_deref(), |out, p| {
        out.maybe(p.payload_format, Out::u8);
        out.maybe(p.content_type.as_deref(), |out, s| out.bytes(s.as_bytes()));
        out.maybe(p.response_topic.as_deref(), |out, s| out.bytes(s.as_bytes()));
        out.maybe(p.correlation.as_deref(), Out::bytes);
        out.u32(u32::try_from(p.user.len()).unwrap_or(u32::MAX));
        for (key, value) in &p.user {
            out.bytes(key.as_bytes());
            out.bytes(value.as_bytes());
        }
    });
    out.maybe(m.expires, |out, at| {
        let left = at.saturating_duration_since(now.instant).as_millis();
        out.u64(u64::try_from(left).unwrap_or(u64::MAX));
        out.moment(&now.moment);
    });
    out.maybe(m.origin.as_deref(), |out, s| out.bytes(s.as_bytes()));
}

/// The message of [`body`].
#[must_use]
pub fn to_publish(bytes: &[u8], now: &Now) -> Option<Publish> {
    let mut all = In::new(bytes)?;
    let found = to_message(&mut all, now)?;
    all.end(found)
}

fn to_message(all: &mut In<'_>, now: &Now) -> Option<Publish> {
    let (topic, payload) = (all.text()?.into(), Bytes::copy_from_slice(all.bytes()?));
    let (qos, retain) = (all.u8().filter(|qos| *qos < 3)?, all.flag()?);
    let props = all.maybe(|all| {
        let mut p = Props {
            payload_format: all.maybe(In::u8)?,
            content_type: all.maybe(In::text)?.map(str::to_owned),
            response_topic: all.maybe(In::text)?.map(str::to_owned),
            correlation: all.maybe(In::bytes)?.map(Bytes::copy_from_slice),
            user: Vec::new(),
        };
        for _ in 0..all.u32()? {
            p.user.push((all.text()?.to_owned(), all.text()?.to_owned()));
        }
        Some(Box::new(p))
    })?;
    let expires = all.maybe(|all| {
        let (left, then) = (all.u64()?, all.moment()?);
        let left = left.saturating_sub(then.until(&now.moment));
        Some(now.instant.checked_add(Duration::from_millis(left)))
    })?;
    let origin = all.maybe(In::text)?.map(Arc::from);
    Some(Publish { topic, payload, qos, retain, props, expires: expires.flatten(), from: NOBODY, origin })
}

/// How a message is to be delivered.
#[must_use]
pub fn addressed(a: &Addressed) -> Vec<u8> {
    let mut out = Out::default();
    out.u8(LAYOUT);
    out.u8(0);
    out.u8(a.qos);
    out.u8(u8::from(a.retain));
    out.maybe(a.ids.as_deref(), |out, ids| {
        out.u32(u32::try_from(ids.len()).unwrap_or(u32::MAX));
        ids.iter().for_each(|id| out.u32(*id));
    });
    out.0
}

/// A walk, from where it stands.
#[must_use]
pub fn walk(w: &Walk) -> Vec<u8> {
    let mut out = Out::default();
    out.u8(LAYOUT);
    out.u8(1);
    out.u8(w.qos);
    out.maybe(w.id, Out::u32);
    out.bytes(w.cursor.filter.as_bytes());
    out.maybe(w.cursor.after(), |out, after| out.bytes(after.as_bytes()));
    out.0
}

/// What [`addressed`] or [`walk`] wrote. A walk takes in what was retained since: what came live is not told from it.
#[must_use]
pub fn to_kind(bytes: &[u8], seq: u64) -> Option<Kind> {
    let mut all = In::new(bytes)?;
    let kind = match all.u8()? {
        0 => {
            let (qos, retain) = (all.u8().filter(|qos| *qos < 3)?, all.flag()?);
            let ids = all.maybe(|all| {
                let n = all.u32()?;
                (0..n).map(|_| all.u32()).collect::<Option<Box<[u32]>>>()
            })?;
            Kind::Message { qos, retain, ids }
        }
        1 => {
            let qos = all.u8().filter(|qos| *qos < 3)?;
            let id = all.maybe(In::u32)?;
            let filter = all.text()?.into();
            let cursor = Cursor::from(filter, all.maybe(In::text)?.map(Arc::from));
            Kind::Walk(Walk { cursor, qos, id, seq })
        }
        _ => return None,
    };
    all.end(kind)
}

/// A session.
#[must_use]
pub fn row(row: &Row, now: &Now) -> Vec<u8> {
    let mut out = Out::default();
    out.u8(LAYOUT);
    out.bytes(row.client_id.as_bytes());
    out.maybe(row.user.as_deref(), |out, s| out.bytes(s.as_bytes()));
    out.u32(row.expiry);
    out.u8(match row.was {
        Was::Away => 0,
        Was::Connected => 1,
        Was::Stopped => 2,
    });
    out.moment(&row.left);
    out.u64(row.sent);
    out.maybe(row.will.as_ref(), |out, will| {
        out.u32(will.delay);
        out.maybe(will.expiry, Out::u32);
        message(out, &will.message, now);
    });
    out.0
}

/// The session of [`row`].
#[must_use]
pub fn to_row(bytes: &[u8], now: &Now) -> Option<Row> {
    let mut all = In::new(bytes)?;
    let found = Row {
        client_id: all.text().filter(|id| !id.is_empty())?.into(),
        user: all.maybe(In::text)?.map(Arc::from),
        expiry: all.u32()?,
        was: match all.u8()? {
            0 => Was::Away,
            1 => Was::Connected,
            2 => Was::Stopped,
            _ => return None,
        },
        left: all.moment()?,
        sent: all.u64()?,
        will: all.maybe(|all| {
            let (delay, expiry) = (all.u32()?, all.maybe(In::u32)?);
            Some(Will { delay, expiry, message: Publish { from: 0, ..to_message(all, now)? } })
        })?,
    };
    all.end(found)
}

/// Options of a subscription.
#[must_use]
pub fn options(o: &Options) -> Vec<u8> {
    let mut out = Out::default();
    out.u8(LAYOUT);
    out.u8(o.qos);
    out.u8(u8::from(o.no_local));
    out.u8(u8::from(o.as_published));
    out.maybe(o.id, Out::u32);
    out.0
}

/// The options of [`options`].
#[must_use]
pub fn to_options(bytes: &[u8]) -> Option<Options> {
    let mut all = In::new(bytes)?;
    let qos = all.u8().filter(|qos| *qos < 3)?;
    let found = Options { qos, no_local: all.flag()?, as_published: all.flag()?, id: all.maybe(In::u32)? };
    all.end(found)
}

/// When the last group was written.
#[must_use]
pub fn mark(moment: &Moment) -> Vec<u8> {
    let mut out = Out::default();
    out.u8(LAYOUT);
    out.moment(moment);
    out.0
}

/// The moment of [`mark`].
#[must_use]
pub fn to_mark(bytes: &[u8]) -> Option<Moment> {
    let mut all = In::new(bytes)?;
    let found = all.moment()?;
    all.end(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now(boot: u64, at: u64, wall: i64) -> Now {
        let moment = Moment { boot, at: BootMs(at), wall: WallMs(wall) };
        Now { moment, instant: Instant::now() + Duration::from_millis(at) }
    }

    fn rich(now: &Now) -> Publish {
        let props = Props {
            payload_format: Some(1),
            content_type: Some("text".into()),
            response_topic: Some("answers/温".into()),
            correlation: Some(Bytes::from_static(&[0, 255])),
            user: vec![("a".into(), "1".into()), ("a".into(), String::new())],
        };
        Publish {
            props: Some(Box::new(props)),
            expires: Some(now.instant + Duration::from_secs(10)),
            origin: Some("cloud".into()),
            ..Publish::plain("温度/1", vec![0, 1, 2], 2, true)
        }
    }

    fn left(m: &Publish, now: &Now) -> u128 {
        m.expires.expect("it expires").saturating_duration_since(now.instant).as_millis()
    }

    #[test]
    fn everything_of_a_message_comes_back_and_its_time_goes_on() {
        let then = now(1, 1000, 50_000);
        let (message, bytes) = (rich(&then), body(&rich(&then), &then));
        for (later, rest) in [
            (now(1, 5000, -7), 6000),
            (now(2, 0, 52_000), 8000),
            (now(2, 0, 0), 10_000),
            (now(2, 0, i64::MAX), 0),
        ] {
            let back = to_publish(&bytes, &later).expect("it reads");
            assert_eq!(
                (&back.topic, &back.payload, &back.props),
                (&message.topic, &message.payload, &message.props)
            );
            assert_eq!((back.qos, back.retain, back.origin.as_deref()), (2, true, Some("cloud")));
            assert!(left(&back, &later).abs_diff(rest) <= 1, "{} of {rest}", left(&back, &later));
        }
    }

    #[test]
    fn sessions_subscriptions_and_walks_come_back() {
        let now = now(1, 1000, 50_000);
        let will = Some(Will { message: rich(&now), expiry: Some(9), delay: 7 });
        let before = Row {
            client_id: "c/+#".into(),
            user: Some("u".into()),
            expiry: u32::MAX,
            was: Was::Connected,
            left: now.moment,
            sent: u64::MAX,
            will,
        };
        let after = to_row(&row(&before, &now), &now).expect("it reads");
        assert_eq!(
            (&after.client_id, &after.user, after.left),
            (&before.client_id, &before.user, now.moment)
        );
        assert_eq!((after.expiry, after.was, after.sent), (u32::MAX, Was::Connected, u64::MAX));
        assert_eq!(
            after.will.map(|w| (w.delay, w.expiry, w.message.payload)),
            Some((7, Some(9), Bytes::from_static(&[0, 1, 2])))
        );
        let o = Options { qos: 1, no_local: true, as_published: false, id: Some(268_435_455) };
        assert_eq!(to_options(&options(&o)), Some(o));
        let w = Walk { cursor: Cursor::from("a/#".into(), Some("a/b".into())), qos: 2, id: None, seq: 5 };
        let Some(Kind::Walk(back)) = to_kind(&walk(&w), 5) else { panic!("a walk") };
        assert_eq!((back.cursor, back.qos, back.id, back.seq), (w.cursor, 2, None, 5));
        let a = Addressed::new(Arc::new(rich(&now)), 1, true, Some([1, 2].into()));
        let Some(Kind::Message { qos: 1, retain: true, ids }) = to_kind(&addressed(&a), 5) else {
            panic!("a message")
        };
        assert_eq!(ids.as_deref(), Some(&[1, 2][..]));
        assert_eq!(to_mark(&mark(&now.moment)), Some(now.moment));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_is_cut_short_or_long_is_nothing(
            bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..400,
        ) {
            let now = now(1, 1000, 50_000);
            for bytes in [bytes.clone(), [&[LAYOUT][..], &bytes].concat()] {
                let _ = (to_publish(&bytes, &now), to_row(&bytes, &now).is_some(), to_kind(&bytes, 1).is_some());
                let _ = (to_options(&bytes), to_mark(&bytes));
            }
            let whole = body(&rich(&now), &now);
            prop_assert!(to_publish(&whole[..cut % whole.len()], &now).is_none());
            prop_assert!(to_publish(&[&whole[..], b"x"].concat(), &now).is_none());
        }
    }
}
