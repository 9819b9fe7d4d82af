//! Sections 4.7 and 4.8.2: topic names, filters, shared subscriptions.

use crate::client::check;
use crate::format::ends;
use crate::subscribe::is_no_filter;
use crate::suite::{Ctx, V, Verdict};
use crate::wire::{publish, subscribe};

pub async fn multi_level(ctx: Ctx) -> Verdict {
    for filter in ["a/#/b", "a#", "#/a", "##", "a/b#", "a/#/"] {
        is_no_filter(&ctx, &ctx.topic(filter)).await?;
    }
    // It stands for its parent too, and for any number of levels.
    let mut s = ctx.subscriber("s", &ctx.topic("a/#"), 0).await?;
    let mut p = ctx.client("p").await?;
    for topic in ["a", "a/", "a/b", "a/b/c/d", "b", "ab"] {
        p.publish(0, &ctx.topic(topic), topic).await?;
    }
    for topic in ["a", "a/", "a/b", "a/b/c/d"] {
        s.take(&ctx.topic(topic), topic).await?;
    }
    s.quiet().await
}

pub async fn single_level(ctx: Ctx) -> Verdict {
    for filter in ["a+", "+a", "a/b+", "a/+b/c", "++"] {
        is_no_filter(&ctx, &ctx.topic(filter)).await?;
    }
    let mut s = ctx.subscriber("s", &ctx.topic("+/x/+"), 0).await?;
    let mut p = ctx.client("p").await?;
    for topic in ["a/x/b", "/x/b", "a/x/", "a/x", "a/x/b/c", "a/y/b"] {
        p.publish(0, &ctx.topic(topic), topic).await?;
    }
    for topic in ["a/x/b", "/x/b", "a/x/"] {
        s.take(&ctx.topic(topic), topic).await?;
    }
    s.quiet().await
}

pub async fn dollar(ctx: Ctx) -> Verdict {
    // No tag in front here: the dollar must come first.
    let topic = format!("$T/{}", ctx.topic("x"));
    let mut all = ctx.subscriber("all", "#", 0).await?;
    let mut plus = ctx.subscriber("plus", &format!("+/{}", ctx.topic("x")), 0).await?;
    let mut exact = ctx.subscriber("exact", &format!("$T/{}", ctx.topic("#")), 0).await?;
    let mut p = ctx.client("p").await?;
    p.send(&publish(ctx.v, 0, &topic, 0, &[], b"x")).await;
    p.barrier().await?;
    exact.take(&topic, "x").await?;
    plus.quiet().await?;
    // Other cases publish too, but not this.
    all.send(&publish(ctx.v, 0, ctx.topic("end"), 0, &[], b"")).await;
    loop {
        let m = all.message().await?;
        check(m.topic.first() != Some(&b'$'), format!("{:?}", String::from_utf8_lossy(&m.topic)))?;
        if m.topic == ctx.topic("end").as_bytes() {
            return Ok(());
        }
    }
}

pub async fn not_empty(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &publish(ctx.v, 0, "", 0, &[], b""), &[0x81, 0x82, 0x90]).await?;
    is_no_filter(&ctx, "").await
}

pub async fn no_null(ctx: Ctx) -> Verdict {
    ends(&ctx, 0, &publish(ctx.v, 0, b"a\0", 0, &[], b""), &[0x81]).await?;
    ends(&ctx, 1, &subscribe(ctx.v, 1, &[], &[(b"a\0", 0)]), &[0x81]).await
}

pub async fn longest(ctx: Ctx) -> Verdict {
    let topic = format!("{:x<65535}", ctx.topic("t"));
    let mut s = ctx.subscriber("s", &topic, 0).await?;
    ctx.client("p").await?.publish(0, &topic, "x").await?;
    s.take(&topic, "x").await.map(drop)
}

/// Letters, slashes, blanks: all of them count, nothing is tidied up.
pub async fn no_normalisation(ctx: Ctx) -> Verdict {
    let all = ["a/b", "A/b", "/a/b", "a/b/", "a//b", " a/b", "a/b ", "a/./b", "\u{e4}", "a\u{308}", "温度/1"];
    let mut clients = Vec::new();
    for (n, topic) in all.iter().enumerate() {
        clients.push(ctx.subscriber(&n.to_string(), &ctx.topic(topic), 0).await?);
    }
    let mut p = ctx.client("p").await?;
    for topic in all {
        p.publish(0, &ctx.topic(topic), topic).await?;
    }
    for (s, topic) in clients.iter_mut().zip(all) {
        s.take(&ctx.topic(topic), topic).await?;
        s.quiet().await?;
    }
    Ok(())
}

/// `$share/<group>/<filter>`.
fn shared(ctx: &Ctx, filter: &str) -> String {
    format!("$share/g/{}", ctx.topic(filter))
}

pub async fn share_is_named(ctx: Ctx) -> Verdict {
    for filter in ["$share", "$share/", "$share//a", "$share/g", "$share/g/"] {
        is_no_filter(&ctx, filter).await?;
    }
    ctx.subscriber("s", &shared(&ctx, "t"), 0).await?.quiet().await
}

pub async fn share_name_has_no_wildcard(ctx: Ctx) -> Verdict {
    for filter in ["$share/+/a", "$share/#", "$share/g+/a", "$share/#/a", "$share/g/a#"] {
        is_no_filter(&ctx, filter).await?;
    }
    Ok(())
}

/// One member gets each message, at the quality it was granted.
pub async fn shared_quality(ctx: Ctx) -> Verdict {
    let mut zero = ctx.subscriber("zero", &shared(&ctx, "t"), 0).await?;
    let mut two = ctx.subscriber("two", &shared(&ctx, "t"), 2).await?;
    let mut p = ctx.client("p").await?;
    for n in 0..6 {
        p.publish(2, &ctx.topic("t"), &n.to_string()).await?;
    }
    let mut seen = [0, 0];
    for (c, n, qos) in [(&mut zero, 0, 0), (&mut two, 1, 2)] {
        c.send(&publish(ctx.v, 0, ctx.topic("t/end"), 0, &[], b"")).await;
        c.send(&[0xC0, 0]).await;
        loop {
            let packet = c.packet().await?;
            if packet == [0xD0, 0] {
                break;
            }
            let m = crate::wire::Publish::read(ctx.v, &packet).ok_or(format!("{packet:02x?}"))?;
            check(m.qos() == qos, format!("QoS {} for {qos}", m.qos()))?;
            seen[n] += 1;
        }
    }
    check(seen[0] + seen[1] == 6 && seen[0] > 0 && seen[1] > 0, format!("{seen:?} of 6"))
}

/// QoS 2 that a member began it goes on with, and nobody else gets it.
pub async fn shared_goes_on(ctx: Ctx, comes_back: bool) -> Verdict {
    let filter = shared(&ctx, "t");
    let mut first = ctx.with(ctx.keeping("first")).await?;
    first.subscribe(&filter, 2).await?;
    let mut p = ctx.client("p").await?;
    p.publish(2, &ctx.topic("t"), "x").await?;
    let m = first.take(&ctx.topic("t"), "x").await?;
    let mut second = ctx.subscriber("second", &filter, 2).await?;
    first.vanish().await;
    second.quiet().await?;
    if comes_back {
        let mut first = ctx.with(ctx.keeping("first")).await?;
        let again = first.finish(&ctx.topic("t"), "x").await?;
        check(again.id == m.id && again.dup(), format!("{again:02x?}"))?;
    } else {
        ctx.client("first").await?.bye().await?;
    }
    second.quiet().await
}

pub async fn shared_is_finished(ctx: Ctx) -> Verdict {
    shared_goes_on(ctx, true).await
}

pub async fn shared_ends_with_the_session(ctx: Ctx) -> Verdict {
    shared_goes_on(ctx, false).await
}

pub async fn shared_refused(ctx: Ctx) -> Verdict {
    let filter = shared(&ctx, "t");
    let mut first = ctx.subscriber("first", &filter, 2).await?;
    let mut p = ctx.client("p").await?;
    for (qos, answer) in [(1, 0x40), (2, 0x50)] {
        p.publish(qos, &ctx.topic("t"), "x").await?;
        let m = first.take(&ctx.topic("t"), "x").await?;
        let [high, low] = m.id.to_be_bytes();
        first.send(&[answer, 3, high, low, 0x80]).await;
    }
    first.quiet().await?;
    let mut second = ctx.subscriber("second", &filter, 2).await?;
    first.vanish().await;
    second.quiet().await
}

pub async fn shared_gets_nothing_retained(ctx: Ctx) -> Verdict {
    ctx.client("p").await?.retain(1, &ctx.topic("t"), "x").await?;
    ctx.subscriber("s", &shared(&ctx, "t"), 1).await?.quiet().await
}

pub async fn shared_and_dollar(ctx: Ctx) -> Verdict {
    let topic = format!("$T/{}", ctx.topic("x"));
    let mut s = ctx.subscriber("s", &format!("$share/{}/+/{}", ctx.id("g"), ctx.topic("x")), 0).await?;
    let mut p = ctx.client("p").await?;
    p.publish(1, &topic, "x").await?;
    s.quiet().await
}

/// A member of a group that has a subscription of its own, too, gets both.
pub async fn shared_and_own(ctx: Ctx) -> Verdict {
    if ctx.v != V::Five {
        return Ok(());
    }
    let topic = ctx.topic("t");
    let mut s = ctx.client("s").await?;
    s.subscribe_with(&topic, 0, &[0x0B, 1]).await?;
    s.subscribe_with(&shared(&ctx, "t"), 0, &[0x0B, 2]).await?;
    ctx.client("p").await?.publish(0, &topic, "x").await?;
    let mut ids =
        [s.take(&topic, "x").await?.values(0x0B).concat(), s.take(&topic, "x").await?.values(0x0B).concat()];
    ids.sort();
    check(ids == [vec![1], vec![2]], format!("{ids:?}"))?;
    s.quiet().await
}
