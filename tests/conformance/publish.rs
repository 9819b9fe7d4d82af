//! Section 3.3: PUBLISH, its flags, its properties, and who gets what.

use std::time::Duration;

use tokio::time::sleep;

use crate::client::check;
use crate::format::ends;
use crate::suite::{Ctx, V, Verdict};
use crate::wire::{self, packet, publish, text};

pub async fn dup_does_not_travel(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut zero = ctx.subscriber("zero", &topic, 0).await?;
    let mut two = ctx.subscriber("two", &topic, 2).await?;
    let mut p = ctx.client("p").await?;
    for (n, qos) in [(1, 2), (2, 4)] {
        p.send(&publish(ctx.v, qos | 8, &topic, n, &[], b"x")).await;
        p.answer(if qos == 2 { 0x40 } else { 0x50 }, n).await?;
        if qos == 4 {
            // Some brokers deliver at PUBREL.
            p.reply(0x62, n).await;
            p.answer(0x70, n).await?;
        }
        check(!zero.take(&topic, "x").await?.dup(), "DUP at QoS 0")?;
        let got = two.finish(&topic, "x").await?;
        check(!got.dup() && got.qos() << 1 == qos, format!("{got:02x?}"))?;
    }
    Ok(())
}

pub async fn no_qos_3(ctx: Ctx) -> Verdict {
    for flags in [6, 7, 14, 15] {
        ends(&ctx, usize::from(flags), &publish(ctx.v, flags, ctx.topic("t"), 1, &[], b""), &[0x81]).await?;
    }
    Ok(())
}

pub async fn no_dup_at_qos_0(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &publish(ctx.v, 8, ctx.topic("t"), 0, &[], b""), &[0x81]).await
}

pub async fn topic_comes_first(ctx: Ctx) -> Verdict {
    for (n, body) in [&[][..], &[0, 9, b'a'], &[0], &text(b"\xFF")].into_iter().enumerate() {
        ends(&ctx, n, &packet(0x30, body), &[0x81, 0x90]).await?;
    }
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 1).await?;
    ctx.client("p").await?.publish(1, &topic, "x").await?;
    let got = s.packet().await?;
    check(got[2..4 + topic.len()] == text(&topic), format!("{got:02x?}"))
}

pub async fn no_wildcard_in_a_topic(ctx: Ctx) -> Verdict {
    for (n, topic) in ["+", "#", "a/+", "a/#", "a+", "a#b", "+/a"].into_iter().enumerate() {
        ends(&ctx, n, &publish(ctx.v, 0, topic, 0, &[], b""), &[0x90]).await?;
    }
    Ok(())
}

/// A name may have more levels than a broker takes, but then it must not say that it has the message.
pub async fn deep_names(ctx: Ctx) -> Verdict {
    let mut s = ctx.subscriber("s", &ctx.topic("#"), 0).await?;
    for levels in [60, 150, 1000] {
        let topic = ctx.topic(&"x/".repeat(levels));
        let mut p = ctx.client("p").await?;
        p.send(&publish(ctx.v, 2, &topic, 1, &[], b"x")).await;
        match p.next().await? {
            None => {}
            Some(got) if got[0] == 0xE0 => {}
            Some(got) if got[..1] == [0x40] && got.get(4).is_some_and(|code| *code >= 0x80) => {}
            Some(got) => {
                check(got[..4] == [0x40, 2, 0, 1], format!("{got:02x?}"))?;
                s.take(&topic, "x").await?;
            }
        }
        s.ping().await?;
    }
    Ok(())
}

pub async fn topic_matches_the_filter(ctx: Ctx) -> Verdict {
    let mut s = ctx.subscriber("s", &ctx.topic("+/b"), 0).await?;
    let mut p = ctx.client("p").await?;
    for topic in ["a", "a/b", "a/c", "a/b/c", "c/b", "b"] {
        p.publish(0, &ctx.topic(topic), topic).await?;
    }
    s.take(&ctx.topic("a/b"), "a/b").await?;
    s.take(&ctx.topic("c/b"), "c/b").await?;
    s.quiet().await
}

pub async fn answers_by_quality(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut p = ctx.client("p").await?;
    p.send(&publish(ctx.v, 0, &topic, 0, &[], b"")).await;
    p.quiet().await?;
    p.send(&publish(ctx.v, 2, &topic, 5, &[], b"")).await;
    p.answer(0x40, 5).await?;
    p.send(&publish(ctx.v, 4, &topic, 6, &[], b"")).await;
    p.answer(0x50, 6).await?;
    p.reply(0x62, 6).await;
    p.answer(0x70, 6).await?;
    p.quiet().await
}

pub async fn overlapping_filters(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("a/b");
    let mut s = ctx.client("s").await?;
    for (filter, qos) in [("a/+", 0), ("a/#", 2), ("a/b", 1)] {
        s.subscribe(&ctx.topic(filter), qos).await?;
    }
    ctx.client("p").await?.publish(2, &topic, "x").await?;
    let first = s.finish(&topic, "x").await?;
    if ctx.strict {
        check(first.qos() == 2, "not the highest quality")?;
        return s.quiet().await;
    }
    let mut best = first.qos();
    s.send(&publish(ctx.v, 0, ctx.topic("a/end"), 0, &[], b"")).await;
    loop {
        let m = s.message().await?;
        if m.topic != topic.as_bytes() {
            return check(best == 2, "not the highest quality");
        }
        best = best.max(m.qos());
    }
}

pub async fn not_authorised(ctx: Ctx) -> Verdict {
    let login = |name| ctx.hello(name).user("u").password("p");
    let topic = format!("look/{}", ctx.topic("t"));
    let mut watcher = ctx.with_at(ctx.at.guarded, login("watcher")).await?;
    watcher.subscribe(&topic, 0).await?;
    let mut p = ctx.with_at(ctx.at.guarded, login("p")).await?;
    for (qos, answer) in [(1, 0x40), (2, 0x50)] {
        p.send(&publish(ctx.v, qos << 1, &topic, 1, &[], b"x")).await;
        let code = p.answer(answer, 1).await?;
        check(ctx.v != V::Five || code == 0x87, format!("reason {code:#04x}"))?;
        if qos == 2 && ctx.v != V::Five {
            p.reply(0x62, 1).await;
            p.answer(0x70, 1).await?;
        }
    }
    watcher.ping().await
}

/// A message with every property that travels.
const ALL: &[u8] =
    b"\x01\x01\x03\0\x01t\x08\0\x01r\x09\0\x02c\0\x26\0\x01k\0\x01b\x26\0\x01k\0\x01a\x26\0\x01a\0\x01z";

pub async fn properties_travel(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 0).await?;
    let mut other = ctx.subscriber("other", &ctx.topic("#"), 1).await?;
    let mut p = ctx.client("p").await?;
    p.publish_with(3, &topic, ALL, "x").await?;
    let mut late = ctx.subscriber("late", &topic, 0).await?;
    for c in [&mut s, &mut other, &mut late] {
        let got = c.finish(&topic, "x").await?;
        let pairs: [&[u8]; 3] = [b"\0\x01k\0\x01b", b"\0\x01k\0\x01a", b"\0\x01a\0\x01z"];
        check(got.values(0x26) == pairs, format!("user properties {:02x?}", got.values(0x26)))?;
        let rest = [0x01, 0x03, 0x08, 0x09].map(|id| got.values(id).concat());
        check(rest == [&[1][..], b"\0\x01t", b"\0\x01r", b"\0\x02c\0"], format!("{rest:02x?}"))?;
    }
    Ok(())
}

pub async fn strings_of_properties_are_utf8(ctx: Ctx) -> Verdict {
    for (n, id) in [0x03, 0x08].into_iter().enumerate() {
        for (m, string) in [&b"\xC3\x28"[..], b"a\0", b"\xED\xA0\x80"].into_iter().enumerate() {
            let property = [&[id][..], &text(string)].concat();
            let bytes = publish(ctx.v, 0, ctx.topic("t"), 0, &property, b"");
            ends(&ctx, 10 * n + m, &bytes, &[0x81, 0x82, 0x90]).await?;
        }
    }
    Ok(())
}

pub async fn response_topic_is_a_name(ctx: Ctx) -> Verdict {
    for (n, topic) in ["#", "a/+", ""].into_iter().enumerate() {
        let property = [&[0x08][..], &text(topic)].concat();
        let bytes = publish(ctx.v, 0, ctx.topic("t"), 0, &property, b"");
        ends(&ctx, n, &bytes, &[0x81, 0x82, 0x90]).await?;
    }
    Ok(())
}

pub async fn expires(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    ctx.with(ctx.keeping("c")).await?.subscribe(&topic, 1).await?;
    let mut p = ctx.client("p").await?;
    p.publish_with(2, &topic, &[2, 0, 0, 0, 1], "short").await?;
    p.publish_with(2, &topic, &[2, 0, 0, 0, 100], "long").await?;
    p.publish_with(3, &ctx.topic("kept"), &[2, 0, 0, 0, 1], "short").await?;
    sleep(Duration::from_millis(2100)).await;
    let mut c = ctx.with(ctx.keeping("c")).await?;
    c.finish(&topic, "long").await?;
    c.subscribe(&ctx.topic("kept"), 0).await?;
    c.quiet().await
}

pub async fn expiry_counts_down(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    ctx.with(ctx.keeping("c")).await?.subscribe(&topic, 1).await?;
    let mut p = ctx.client("p").await?;
    p.publish_with(3, &topic, &[2, 0, 0, 1, 0], "x").await?;
    sleep(Duration::from_millis(1100)).await;
    let mut c = ctx.with(ctx.keeping("c")).await?;
    let waiting = c.finish(&topic, "x").await?;
    c.subscribe(&topic, 0).await?;
    let kept = c.finish(&topic, "x").await?;
    for got in [waiting, kept] {
        let left = got.values(2);
        let good = left.len() == 1 && left[0][..3] == [0, 0, 0] && left[0][3] >= 200;
        check(good, format!("expiry {left:02x?}"))?;
    }
    Ok(())
}

/// An alias set, used, and set again.
pub async fn aliases(ctx: Ctx) -> Verdict {
    let (a, b) = (ctx.topic("a"), ctx.topic("b"));
    let mut s = ctx.subscriber("s", &ctx.topic("+"), 0).await?;
    let mut p = ctx.client("p").await?;
    let max = p.said(0x22).map_or(0, |max| u16::from_be_bytes([max[0], max[1]]));
    for alias in 1..=max {
        let property = [&[0x23][..], &alias.to_be_bytes()].concat();
        for (topic, payload) in [(a.as_str(), "1"), ("", "2"), (b.as_str(), "3"), ("", "4")] {
            p.send(&publish(ctx.v, 0, topic, 0, &property, payload.as_bytes())).await;
        }
        for (topic, payload) in [(&a, "1"), (&a, "2"), (&b, "3"), (&b, "4")] {
            s.take(topic, payload).await?;
        }
    }
    p.quiet().await
}

pub async fn aliases_end_with_the_connection(ctx: Ctx) -> Verdict {
    let mut p = ctx.with(ctx.keeping("p")).await?;
    if p.said(0x22).is_none() {
        return Ok(());
    }
    p.publish_with(2, &ctx.topic("a"), &[0x23, 0, 1], "x").await?;
    let mut other = ctx.client("other").await?;
    other.send(&publish(ctx.v, 0, "", 0, &[0x23, 0, 1], b"x")).await;
    other.ended(&[0x82]).await?;
    p.bye().await?;
    let mut p = ctx.with(ctx.keeping("p")).await?;
    p.send(&publish(ctx.v, 0, "", 0, &[0x23, 0, 1], b"x")).await;
    p.ended(&[0x82]).await
}

pub async fn alias_0(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &publish(ctx.v, 0, ctx.topic("t"), 0, &[0x23, 0, 0], b""), &[0x94]).await
}

pub async fn alias_beyond_the_maximum(ctx: Ctx) -> Verdict {
    let mut p = ctx.client("p").await?;
    let max = p.said(0x22).map_or(0, |max| u16::from_be_bytes([max[0], max[1]]));
    let Some(beyond) = max.checked_add(1) else { return Ok(()) };
    let property = [&[0x23][..], &beyond.to_be_bytes()].concat();
    p.send(&publish(ctx.v, 0, ctx.topic("t"), 0, &property, b"")).await;
    p.ended(&[0x94]).await
}

pub async fn aliases_of_the_server(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut p = ctx.client("p").await?;
    for max in [None, Some(0u8), Some(2)] {
        let hello = ctx.hello("s");
        let hello = if let Some(max) = max { hello.prop([0x22, 0, max]) } else { hello };
        let mut s = ctx.with(hello).await?;
        s.subscribe(&format!("{topic}/+"), 0).await?;
        for n in 0..3 {
            p.publish(0, &format!("{topic}/{n}"), "x").await?;
            let got = s.message().await?;
            let alias = got.values(0x23).first().map_or(0, |a| usize::from(a[0]) << 8 | usize::from(a[1]));
            check(alias <= usize::from(max.unwrap_or(0)), format!("alias {alias} for maximum {max:?}"))?;
            check(alias > 0 || got.topic == format!("{topic}/{n}").as_bytes(), "topic")?;
        }
    }
    Ok(())
}

pub async fn nothing_matches(ctx: Ctx) -> Verdict {
    // With a dollar: a case beside this one subscribes to `#`.
    let topic = format!("$T/{}", ctx.topic("t"));
    let mut p = ctx.client("p").await?;
    for qos in [1, 2] {
        let code = p.publish(qos, &topic, "x").await?;
        check(code == 0x10 || (!ctx.strict && code == 0), format!("reason {code:#04x}"))?;
    }
    let mut s = ctx.subscriber("s", &topic, 2).await?;
    for qos in [1, 2] {
        check(p.publish(qos, &topic, "x").await? == 0, "somebody matches")?;
        s.finish(&topic, "x").await?;
    }
    Ok(())
}

pub async fn subscription_id_of_a_client(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &publish(ctx.v, 0, ctx.topic("t"), 0, &[0x0B, 1], b""), &[0x82]).await
}

pub async fn neither_topic_nor_alias(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &publish(ctx.v, 0, "", 0, &[], b""), &[0x81, 0x82]).await?;
    if ctx.v != V::Five {
        return Ok(());
    }
    ends(&ctx, 1, &publish(ctx.v, 0, "", 0, &[0x23, 0, 1], b""), &[0x82]).await
}

pub async fn payload_that_is_not_utf8(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 0).await?;
    let mut p = ctx.client("p").await?;
    p.send(&publish(ctx.v, 2, &topic, 1, &[1, 1], b"\xC3\x28")).await;
    if !ctx.strict {
        return Ok(());
    }
    p.ended(&[0x99]).await?;
    s.quiet().await?;
    // Unmarked it is nobody's business.
    let mut p = ctx.client("q").await?;
    p.send(&publish(ctx.v, 0, &topic, 0, &[1, 0], b"\xC3\x28")).await;
    check(s.message().await?.payload == b"\xC3\x28", "payload")
}

pub async fn larger_than_we_take(ctx: Ctx) -> Verdict {
    let mut p = ctx.client("p").await?;
    let Some(max) = p.said(0x27) else { return Ok(()) };
    let max = u32::from_be_bytes([max[0], max[1], max[2], max[3]]) as usize;
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 0).await?;
    let head = publish(ctx.v, 2, &topic, 1, &[], &vec![0; max / 2]).len() - max / 2;
    p.send(&publish(ctx.v, 2, &topic, 1, &[], &vec![0; max - head])).await;
    p.answer(0x40, 1).await?;
    check(s.message().await?.payload.len() == max - head, "the largest that is allowed")?;
    p.send(&wire::publish(ctx.v, 2, &topic, 2, &[], &vec![0; max - head + 1])[..100]).await;
    p.ended(&[0x95]).await
}
