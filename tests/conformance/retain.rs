//! Section 3.3.1.3: retained messages.

use crate::client::check;
use crate::suite::{Ctx, V, Verdict};

pub async fn kept_for_later(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut p = ctx.client("p").await?;
    for (n, qos) in [(0, 1), (1, 2), (2, 0)] {
        p.retain(qos, &topic, &format!("v{n}")).await?;
        let mut s = ctx.subscriber("s", &topic, 2).await?;
        let got = s.finish(&topic, &format!("v{n}")).await?;
        check(got.retain() && got.qos() == qos, format!("{got:02x?}"))?;
        s.quiet().await?;
    }
    Ok(())
}

pub async fn last_of_each_topic(ctx: Ctx) -> Verdict {
    let mut p = ctx.client("p").await?;
    for (topic, value) in [("a/1", "old"), ("a/2", "2"), ("a/1", "1"), ("b/3", "3")] {
        p.retain(1, &ctx.topic(topic), value).await?;
    }
    let mut s = ctx.subscriber("s", &ctx.topic("a/#"), 1).await?;
    let mut got = Vec::new();
    for _ in 0..2 {
        let m = s.message().await?;
        check(m.retain() && !m.dup(), "not as retained")?;
        s.reply(0x40, m.id).await;
        got.push(m.payload);
    }
    got.sort();
    check(got == [b"1", b"2"], format!("{got:02x?}"))?;
    s.quiet().await
}

pub async fn quality_0_replaces(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut p = ctx.client("p").await?;
    p.retain(1, &topic, "old").await?;
    p.retain(0, &topic, "new").await?;
    let mut s = ctx.subscriber("s", &topic, 1).await?;
    check(s.take(&topic, "new").await?.retain(), "no retain flag")?;
    s.quiet().await
}

pub async fn flag_marks_old_ones_only(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut before = ctx.subscriber("before", &topic, 1).await?;
    ctx.client("p").await?.retain(1, &topic, "x").await?;
    check(!before.finish(&topic, "x").await?.retain(), "flag on a live message")?;
    let mut after = ctx.subscriber("after", &topic, 1).await?;
    check(after.finish(&topic, "x").await?.retain(), "no flag on a retained message")
}

pub async fn empty_clears(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut p = ctx.client("p").await?;
    p.retain(1, &topic, "x").await?;
    let mut before = ctx.subscriber("before", &topic, 1).await?;
    before.finish(&topic, "x").await?;
    p.retain(1, &topic, "").await?;
    check(!before.finish(&topic, "").await?.retain(), "flag on a live message")?;
    ctx.subscriber("after", &topic, 1).await?.quiet().await
}

pub async fn empty_is_not_kept(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut p = ctx.client("p").await?;
    for qos in 0..3 {
        p.retain(qos, &topic, "").await?;
        ctx.subscriber("after", &topic, 2).await?.quiet().await?;
    }
    Ok(())
}

pub async fn plain_ones_change_nothing(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut p = ctx.client("p").await?;
    p.publish(1, &topic, "never").await?;
    ctx.subscriber("none", &topic, 1).await?.quiet().await?;
    p.retain(1, &topic, "kept").await?;
    p.publish(1, &topic, "live").await?;
    p.publish(1, &topic, "").await?;
    let mut s = ctx.subscriber("s", &topic, 1).await?;
    s.finish(&topic, "kept").await?;
    s.quiet().await
}

pub async fn outlive_sessions(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut p = ctx.client("p").await?;
    p.retain(1, &topic, "x").await?;
    p.bye().await?;
    ctx.client("p").await?.vanish().await;
    ctx.subscriber("s", &topic, 1).await?.finish(&topic, "x").await.map(drop)
}

/// Retain Handling: 0 always, 1 for a new subscription, 2 never.
pub async fn handling(ctx: Ctx, handling: u8) -> Verdict {
    let topic = ctx.topic("t");
    ctx.client("p").await?.retain(1, &topic, "x").await?;
    let mut s = ctx.client("s").await?;
    for again in [false, true] {
        s.subscribe(&topic, handling << 4).await?;
        if handling == 0 || (handling == 1 && !again) {
            check(s.finish(&topic, "x").await?.retain(), "no flag")?;
        }
        s.quiet().await?;
    }
    // Unsubscribed and subscribed again it is new.
    s.leave(&[&topic]).await?;
    s.subscribe(&topic, handling << 4).await?;
    if handling < 2 {
        s.finish(&topic, "x").await?;
    }
    s.quiet().await
}

pub async fn handling_0(ctx: Ctx) -> Verdict {
    handling(ctx, 0).await
}

pub async fn handling_1(ctx: Ctx) -> Verdict {
    handling(ctx, 1).await
}

pub async fn handling_2(ctx: Ctx) -> Verdict {
    handling(ctx, 2).await
}

/// Retain As Published: without it the flag is gone, with it the flag is the publisher's.
pub async fn as_published(ctx: Ctx, wanted: bool) -> Verdict {
    let topic = ctx.topic("t");
    let mut s = ctx.subscriber("s", &topic, 1 | u8::from(wanted) << 3).await?;
    let mut p = ctx.client("p").await?;
    for flag in [true, false] {
        p.publish_with(2 | u8::from(flag), &topic, &[], "x").await?;
        check(s.finish(&topic, "x").await?.retain() == (wanted && flag), format!("published with {flag}"))?;
    }
    Ok(())
}

pub async fn as_published_0(ctx: Ctx) -> Verdict {
    as_published(ctx, false).await
}

pub async fn as_published_1(ctx: Ctx) -> Verdict {
    as_published(ctx, true).await
}

pub async fn subscribing_again(ctx: Ctx) -> Verdict {
    let topic = ctx.topic("t");
    let mut p = ctx.client("p").await?;
    p.retain(1, &topic, "x").await?;
    let mut s = ctx.subscriber("s", &topic, 0).await?;
    check(s.finish(&topic, "x").await?.qos() == 0, "quality")?;
    // The new subscription replaces the old one: its quality counts, once, and the retained message comes again.
    s.subscribe(&topic, 1).await?;
    check(s.finish(&topic, "x").await?.qos() == 1, "quality of the new one")?;
    p.publish(1, &topic, "y").await?;
    check(s.finish(&topic, "y").await?.qos() == 1, "quality of the new one")?;
    s.quiet().await
}

/// The same, and nothing is lost meanwhile.
pub async fn subscribing_again_in_a_stream(ctx: Ctx) -> Verdict {
    subscribing_again(ctx.clone()).await?;
    crate::subscribe::replaces_in_a_stream(Ctx { tag: format!("{}s", ctx.tag).into(), ..ctx }).await
}

pub async fn with_the_subscription_id(ctx: Ctx) -> Verdict {
    if ctx.v != V::Five {
        return Ok(());
    }
    let topic = ctx.topic("t");
    ctx.client("p").await?.retain(1, &topic, "x").await?;
    let mut s = ctx.client("s").await?;
    s.subscribe_with(&topic, 0, &[0x0B, 9]).await?;
    check(s.take(&topic, "x").await?.values(0x0B) == [[9]], "no identifier")
}
